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

#ifndef CT_OFFLOAD_DUMMY_H
#define CT_OFFLOAD_DUMMY_H 1

#include <stdbool.h>

/* Dummy conntrack offload provider
 * ================================
 *
 * A provider in software: it does nothing but remember which connections it
 * holds.  It stands in for hardware where there is none, in tests and
 * demonstrations, and shows how a provider is written.
 *
 * In a daemon that runs with --enable-dummy it is one of the built-in
 * providers, and takes the connections of the ports that dpif-offload's dummy
 * owns, and of ports that nobody owns and that were given to it by
 *
 *     ovs-appctl ct-offload-dummy/claim all|PORT...
 *
 * Software sees every packet, unless
 *
 *     ovs-appctl ct-offload-dummy/bypass on
 *
 * makes it a provider past which packets may go.  It is told of connections
 * when they are committed, unless
 *
 *     ovs-appctl ct-offload-dummy/established-only on
 *
 * has it told of established ones only, as hardware providers are.
 *
 * A test program that calls ct_offload_dummy_register() gets one that accepts
 * every connection.
 *
 * All functions may be called from any thread, but not from a callback. */

struct conn;
struct ct_offload_class;

/* Changes only while it is not registered. */
extern struct ct_offload_class ct_offload_dummy_class;

void ct_offload_dummy_enable(void);
bool ct_offload_dummy_is_enabled(void);

int ct_offload_dummy_register(void);
void ct_offload_dummy_unregister(void);

unsigned int ct_offload_dummy_n_added(void);
unsigned int ct_offload_dummy_n_deleted(void);
unsigned int ct_offload_dummy_n_updated(void);
unsigned int ct_offload_dummy_n_established(void);
unsigned int ct_offload_dummy_n_held(void);
unsigned int ct_offload_dummy_n_misused(void);
void ct_offload_dummy_reset_counters(void);
void ct_offload_dummy_set_add_error(int error);
bool ct_offload_dummy_contains(const struct conn *);
bool ct_offload_dummy_is_bidirectional(const struct conn *);

#endif /* ct-offload-dummy.h */
