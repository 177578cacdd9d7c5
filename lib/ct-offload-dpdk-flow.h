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

#ifndef CT_OFFLOAD_DPDK_FLOW_H
#define CT_OFFLOAD_DPDK_FLOW_H 1

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rte_flow.h>

#include "ct-dpif.h"
#include "openvswitch/types.h"

/* What is said to rte_flow of any rule
 * ====================================
 *
 * Patterns, creation, destruction, counters, and what to make of errors, by
 * the stable interfaces of DPDK alone.
 *
 * These functions know ports by their DPDK port number.  They keep no state,
 * so that they may be called from any thread; the port must be started, and
 * must stay so.  Errors are positive errno values, with a text, or NULL, in
 * 'error'. */

/* What packets of one direction of a connection look like on the wire.  Must
 * be zeroed before it is filled in: it is compared and hashed as memory. */
struct dpdk_flow_key {
    union ct_dpif_inet_addr src;
    union ct_dpif_inet_addr dst;
    ovs_be16 src_port;
    ovs_be16 dst_port;
    ovs_be16 vlan_vid;              /* If 'tagged'. */
    uint8_t tagged;
    uint8_t ipv6;
    uint8_t ip_proto;               /* IPPROTO_TCP or IPPROTO_UDP. */
    uint8_t pad[3];
};
BUILD_ASSERT_DECL(sizeof(struct dpdk_flow_key) == 44);

/* The pattern of a rule, and what its items point to.  It must not be moved.
 */
struct dpdk_flow_pattern {
    struct rte_flow_item items[14]; /* END included. */
    size_t n_items;
    struct rte_flow_item_eth eth, eth_mask;
    struct rte_flow_item_vlan vlan, vlan_mask;
    union {
        struct rte_flow_item_ipv4 ipv4;
        struct rte_flow_item_ipv6 ipv6;
    } ip, ip_mask;
    union {
        struct rte_flow_item_tcp tcp;
        struct rte_flow_item_udp udp;
    } l4, l4_mask;
};

void dpdk_flow_pattern_add(struct dpdk_flow_pattern *,
                           enum rte_flow_item_type, const void *spec,
                           const void *mask);
void dpdk_flow_pattern_init(struct dpdk_flow_pattern *,
                            const struct dpdk_flow_key *);

int dpdk_flow_rule_create(uint16_t port_id, const struct rte_flow_attr *,
                          const struct rte_flow_item *,
                          const struct rte_flow_action *, struct rte_flow **,
                          struct rte_flow_error *);
int dpdk_flow_rule_destroy(uint16_t port_id, struct rte_flow *,
                           struct rte_flow_error *);
int dpdk_flow_rule_destroy_retry(uint16_t port_id, struct rte_flow *,
                                 struct rte_flow_error *);
int dpdk_flow_rule_get_hits(uint16_t port_id, struct rte_flow *,
                            uint64_t *hits, struct rte_flow_error *);
int dpdk_flow_rule_get_count(uint16_t port_id, struct rte_flow *,
                             uint64_t *hits, uint64_t *bytes,
                             struct rte_flow_error *);
int dpdk_flow_rule_get_idle(uint16_t port_id, struct rte_flow *,
                            unsigned int *seconds, struct rte_flow_error *);

int dpdk_flow_errno(void);
bool dpdk_flow_error_is_transient(int error);
bool dpdk_flow_wait_to_retry(int error, unsigned int n);

/* Nobody waits for a rule to age out: only the time since the last hit is of
 * interest.  So this is as long as 24 bits of seconds can say. */
#define DPDK_FLOW_AGE_TIMEOUT ((1u << 24) - 1)

#endif /* ct-offload-dpdk-flow.h */
