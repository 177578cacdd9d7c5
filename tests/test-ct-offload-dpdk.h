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

#ifndef TEST_CT_OFFLOAD_DPDK_H
#define TEST_CT_OFFLOAD_DPDK_H 1

#include <stdbool.h>
#include <stdint.h>

/* What the tests of the rte_flow provider have in common: the emulated NIC,
 * and two ports of it. */

struct conn;
struct dp_packet;
struct netdev;

/* The NIC. */
char *nic(const char *command);
void nic_set(const char *command);

/* The provider. */
void provider_retry(void);
bool provider_says(const char *text);
void configure(const char *enable, const char *bypass, const char *forward);

/* Ports. */
#define N_PORTS 2
extern struct netdev *netdevs[N_PORTS];
void port_stop(int i);
void port_start(int i);

/* Packets. */
struct dp_packet *packet_create(uint8_t proto, uint16_t client, bool reply);

void test_paths(const struct conn *); /* In test-ct-offload-dpdk-path.c. */

#endif /* test-ct-offload-dpdk.h */
