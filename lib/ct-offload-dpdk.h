/* SPDX-License-Identifier: Apache-2.0 */

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
