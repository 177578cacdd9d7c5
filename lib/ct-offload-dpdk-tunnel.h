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

#ifndef CT_OFFLOAD_DPDK_TUNNEL_H
#define CT_OFFLOAD_DPDK_TUNNEL_H 1

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rte_flow.h>

#include "ct-offload-dpdk-flow.h"

/* What is said to rte_flow of a tunnel
 * ====================================
 *
 * Packets of a path can arrive in a tunnel, and leave in one.  These are the
 * items in front of those for what is inside:
 *
 *     item           what it matches
 *     ------------   --------------------------------------------------------
 *     ETH            that there is no tag; what megaflows match
 *     IPV4, IPV6     addresses; no fragments; what megaflows match
 *     UDP            destination port; what megaflows match
 *     VXLAN          network identifier
 *     GENEVE         network identifier; bytes of options; Ethernet inside
 *     GENEVE_OPT     an option, of each one that megaflows match
 *
 * A packet is taken out with VXLAN_DECAP or RAW_DECAP, the latter for Geneve,
 * and put in with VXLAN_ENCAP or RAW_ENCAP.  Hardware computes lengths and the
 * IPv4 checksum of what it puts in front of a packet.  The UDP checksum there
 * is 0, which RFC 7348, RFC 8926 and, for IPv6, RFC 6935 allow: hardware does
 * not compute that.
 *
 * GENEVE_OPT does not tell where an option is among others.  That makes no
 * difference to the policy, which finds options by class and type, too.
 *
 * Each bit that is matched has to be said, or there is no rule. */

struct ct_offload_tunnel;
struct flow;
struct match;
struct ovs_action_push_tnl;

/* The most options that can be matched. */
#define DPDK_TUNNEL_MAX_OPTS 4

/* The longest header that can be put in front of a packet, or taken off. */
#define DPDK_TUNNEL_MAX_HEADER 512

/* What items for a tunnel that packets arrive in, and the action that takes
 * them out of it, point to. */
struct dpdk_tunnel_in {
    struct rte_flow_item_eth eth, eth_mask;
    union {
        struct rte_flow_item_ipv4 ipv4;
        struct rte_flow_item_ipv6 ipv6;
    } ip, ip_mask;
    struct rte_flow_item_udp udp, udp_mask;
    union {
        struct rte_flow_item_vxlan vxlan;
        struct rte_flow_item_geneve geneve;
    } header, header_mask;
    struct rte_flow_item_geneve_opt opts[DPDK_TUNNEL_MAX_OPTS];
    struct rte_flow_item_geneve_opt opt_masks[DPDK_TUNNEL_MAX_OPTS];
    size_t n_opts;

    struct rte_flow_action_raw_decap decap;
    uint8_t decap_data[DPDK_TUNNEL_MAX_HEADER];
};

/* What the action that puts packets into a tunnel points to. */
struct dpdk_tunnel_out {
    union {
        struct rte_flow_action_vxlan_encap vxlan;
        struct rte_flow_action_raw_encap raw;
    } encap;
    struct rte_flow_item items[5];
    struct rte_flow_item_eth eth;
    struct rte_flow_item_ipv6 ipv6;
    uint32_t header[DPDK_TUNNEL_MAX_HEADER / 4];
};

bool dpdk_tunnel_match(struct dpdk_tunnel_in *, struct dpdk_flow_pattern *,
                       const struct match *, const struct ct_offload_tunnel *,
                       struct flow *left);
struct rte_flow_action dpdk_tunnel_decap(struct dpdk_tunnel_in *,
                                         const struct ct_offload_tunnel *);
bool dpdk_tunnel_encap(struct dpdk_tunnel_out *,
                       const struct ovs_action_push_tnl *,
                       struct rte_flow_action *);

#endif /* ct-offload-dpdk-tunnel.h */
