/*
 * Copyright (c) 2026 The Open vSwitch Conntrack Offload Authors.
 *
 * Licensed under the Apache License, Version 2.0 (the "License");
 * you may not use this file except in compliance with the License.
 * You may obtain a copy of the License at:
 *
 *     http://www.apache.org/licenses/LICENSE-2.0
 *
 * Unless required by applicable law or agreed to in writing, software
 * distributed under the License is distributed on an "AS IS" BASIS,
 * WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
 * See the License for the specific language governing permissions and
 * limitations under the License.
 */

#ifndef TEST_CT_OFFLOAD_MODEL_H
#define TEST_CT_OFFLOAD_MODEL_H 1

/* What tests that drive the connection tracker by random sequences of
 * operations have in common.  It is in test-ct-offload-model.c. */

#include <stdbool.h>
#include <stdint.h>

#include "compiler.h"
#include "conntrack-private.h"
#include "netdev-provider.h"
#include "packets.h"

/* Such a test. */
struct model {
    void (*start)(void);        /* Before there is a connection tracker. */
    void (*begin)(struct conntrack *); /* Before the first step. */
    void (*step)(void);
    void (*finish)(void);       /* After the last one. */
    void (*report)(void);       /* Says what that has done. */
    void (*run_threads)(unsigned int seconds); /* Instead of these. */
};

void model_main(int argc, char *argv[], const struct model *);
struct conntrack *model_start_threads(void);

/* What steps note is shown if one fails. */
void note(const char *format, ...) OVS_PRINTF_FORMAT(1, 2);
OVS_NO_RETURN void fail(const char *format, ...) OVS_PRINTF_FORMAT(1, 2);
extern unsigned int step;
extern bool threaded;           /* Are there several threads? */

/* Random numbers. */
void rng_start_thread(void *seed);
uint32_t rng_next(void);
uint32_t pick(uint32_t n);
bool percent(uint32_t n);

/* Ports, and a zone that is not for tests. */
enum { N_NETDEVS = 4, CANARY_ZONE = 4096 };
extern struct netdev model_netdevs[N_NETDEVS];

/* Virtual time.  model_pass() returns true if connections were cleaned up. */
extern long long int timeout_ms[N_CT_TM];
bool model_pass(long long int ms);
long long int model_next_sweep(void);

/* Configuration. */
extern unsigned int limit, n_offload_threads;
extern bool enabled, config_bypass;
void model_configure(void);

#endif /* test-ct-offload-model.h */
