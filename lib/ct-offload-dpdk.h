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

#ifndef CT_OFFLOAD_DPDK_H
#define CT_OFFLOAD_DPDK_H 1

#include <stdint.h>

/* Conntrack offload provider on DPDK's rte_flow
 * =============================================
 *
 * One of the built-in providers, in an Open vSwitch with DPDK: takes the
 * connections of the ports that dpif-offload's "dpdk" owns.
 *
 * All functions may be called from any thread, but not from a callback. */

struct ct_offload_class;
struct netdev;

extern const struct ct_offload_class ct_offload_dpdk_class;

void ct_offload_dpdk_module_init(void);
uint32_t ct_offload_dpdk_ingress_group(struct netdev *);

#endif /* ct-offload-dpdk.h */
