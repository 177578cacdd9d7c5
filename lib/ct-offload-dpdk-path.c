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

#include <config.h>

#include "ct-offload-dpdk-path.h"

#include <netinet/in.h>
#include <string.h>

#include "ct-offload.h"
#include "flow.h"
#include "netlink.h"
#include "odp-netlink.h"
#include "openvswitch/match.h"
#include "packets.h"
#include "util.h"

/* See the table in the header. */
#define PRIORITY 1
#define FENCE_PRIORITY 0

/* Says 'cap' in words that follow "cannot". */
const char *
dpdk_path_cap_to_string(enum dpdk_path_cap cap)
{
    switch (cap) {
    case DPDK_PATH_MATCH_MAC: return "match MAC addresses";
    case DPDK_PATH_MATCH_VLAN: return "match VLAN tags";
    case DPDK_PATH_MATCH_IPV6: return "match IPv6";
    case DPDK_PATH_MATCH_TOS: return "match TOS";
    case DPDK_PATH_MATCH_TTL: return "match TTL";
    case DPDK_PATH_MATCH_TCP: return "match TCP flags";
    case DPDK_PATH_POP_VLAN: return "pop VLAN tags";
    case DPDK_PATH_PUSH_VLAN: return "push VLAN tags";
    case DPDK_PATH_SET_MAC: return "set MAC addresses";
    case DPDK_PATH_SET_IPV4: return "set IPv4 addresses";
    case DPDK_PATH_SET_IPV6: return "set IPv6 addresses";
    case DPDK_PATH_SET_TP: return "set ports";
    case DPDK_PATH_SET_TTL: return "set TTL";
    case DPDK_PATH_DROP: return "drop";
    case DPDK_PATH_FENCE: return "send to software";
    case DPDK_PATH_MATCH_VXLAN: return "match VXLAN";
    case DPDK_PATH_MATCH_GENEVE: return "match Geneve";
    case DPDK_PATH_MATCH_OPTIONS: return "match Geneve options";
    case DPDK_PATH_DECAP: return "take packets out of tunnels";
    case DPDK_PATH_ENCAP_VXLAN: return "put packets into VXLAN";
    case DPDK_PATH_ENCAP_GENEVE: return "put packets into Geneve";
    default: OVS_NOT_REACHED();
    }
}

/* The match.
 *
 * Each of these translates a part of 'match', and clears the bits of 'left'
 * that it has translated.  What is left at the end has no translation. */

#define CLEAR(LEFT, FIELD) memset(&(LEFT)->FIELD, 0, sizeof (LEFT)->FIELD)

static void
match_port(struct dpdk_path_rule *rule, struct flow *left,
           const struct dpdk_path_options *options)
{
    rule->from.port_id = options->from;
    rule->from_mask.port_id = UINT16_MAX;
    dpdk_flow_pattern_add(&rule->match, RTE_FLOW_ITEM_TYPE_REPRESENTED_PORT,
                          &rule->from, &rule->from_mask);
    rule->pattern = &rule->match.items[options->by_proxy ? 0 : 1];
    CLEAR(left, in_port);
}

/* Returns false if it cannot translate everything. */
static bool
match_tunnel(struct dpdk_path_rule *rule, const struct match *match,
             const struct ct_offload_tunnel *tunnel, struct flow *left)
{
    bool vxlan = tunnel->type == CT_OFFLOAD_TUNNEL_VXLAN;

    if (!dpdk_tunnel_match(&rule->in, &rule->match, match, tunnel, left)) {
        return false;
    }
    rule->caps |= vxlan ? DPDK_PATH_MATCH_VXLAN : DPDK_PATH_MATCH_GENEVE;
    rule->caps |= rule->in.n_opts ? DPDK_PATH_MATCH_OPTIONS : 0;
    return true;
}

static void
match_l2(struct dpdk_path_rule *rule, const struct match *match,
         struct flow *left)
{
    struct dpdk_flow_pattern *pattern = &rule->match;
    const struct flow *mask = &match->wc.masks;
    bool tagged = (match->flow.vlans[0].tci & htons(VLAN_CFI)) != 0;

    memcpy(&pattern->eth.hdr.src_addr, &match->flow.dl_src, ETH_ADDR_LEN);
    memcpy(&pattern->eth.hdr.dst_addr, &match->flow.dl_dst, ETH_ADDR_LEN);
    memcpy(&pattern->eth_mask.hdr.src_addr, &mask->dl_src, ETH_ADDR_LEN);
    memcpy(&pattern->eth_mask.hdr.dst_addr, &mask->dl_dst, ETH_ADDR_LEN);
    if (!eth_addr_is_zero(mask->dl_src) || !eth_addr_is_zero(mask->dl_dst)) {
        rule->caps |= DPDK_PATH_MATCH_MAC;
    }
    CLEAR(left, dl_src);
    CLEAR(left, dl_dst);

    pattern->eth.has_vlan = tagged;
    pattern->eth_mask.has_vlan = 1;
    dpdk_flow_pattern_add(pattern, RTE_FLOW_ITEM_TYPE_ETH, &pattern->eth,
                          &pattern->eth_mask);
    if (tagged) {
        rule->caps |= DPDK_PATH_MATCH_VLAN;
        if (mask->vlans[0].tpid == OVS_BE16_MAX) {
            pattern->eth.hdr.ether_type = match->flow.vlans[0].tpid;
            pattern->eth_mask.hdr.ether_type = OVS_BE16_MAX;
            left->vlans[0].tpid = 0;
        }
        pattern->vlan.hdr.vlan_tci
            = match->flow.vlans[0].tci & ~htons(VLAN_CFI);
        pattern->vlan_mask.hdr.vlan_tci
            = mask->vlans[0].tci & ~htons(VLAN_CFI);
        pattern->vlan_mask.has_more_vlan = 1;
        dpdk_flow_pattern_add(pattern, RTE_FLOW_ITEM_TYPE_VLAN, &pattern->vlan,
                              &pattern->vlan_mask);
        left->vlans[0].tci = 0;
        if (!match->flow.vlans[1].tci) {
            left->vlans[1].tci = 0;
        }
    } else if (!match->flow.vlans[0].tci && !match->flow.vlans[0].tpid) {
        CLEAR(left, vlans[0]);          /* There is none. */
    }
}

static void
match_ipv4(struct dpdk_path_rule *rule, const struct match *match,
           struct flow *left)
{
    struct dpdk_flow_pattern *pattern = &rule->match;
    struct rte_ipv4_hdr *spec = &pattern->ip.ipv4.hdr;
    struct rte_ipv4_hdr *mask = &pattern->ip_mask.ipv4.hdr;

    spec->src_addr = match->flow.nw_src;
    spec->dst_addr = match->flow.nw_dst;
    spec->type_of_service = match->flow.nw_tos;
    spec->time_to_live = match->flow.nw_ttl;
    mask->src_addr = match->wc.masks.nw_src;
    mask->dst_addr = match->wc.masks.nw_dst;
    mask->type_of_service = match->wc.masks.nw_tos;
    mask->time_to_live = match->wc.masks.nw_ttl;
    mask->fragment_offset = htons(IP_FRAG_OFF_MASK | IP_MORE_FRAGMENTS);
    dpdk_flow_pattern_add(pattern, RTE_FLOW_ITEM_TYPE_IPV4, &pattern->ip.ipv4,
                          &pattern->ip_mask.ipv4);
    CLEAR(left, nw_src);
    CLEAR(left, nw_dst);
}

static void
match_ipv6(struct dpdk_path_rule *rule, const struct match *match,
           struct flow *left)
{
    struct dpdk_flow_pattern *pattern = &rule->match;
    struct rte_ipv6_hdr *spec = &pattern->ip.ipv6.hdr;
    struct rte_ipv6_hdr *mask = &pattern->ip_mask.ipv6.hdr;

    /* The type of the addresses depends on the version of DPDK. */
    BUILD_ASSERT_DECL(sizeof spec->src_addr == sizeof match->flow.ipv6_src);
    memcpy(&spec->src_addr, &match->flow.ipv6_src, sizeof spec->src_addr);
    memcpy(&spec->dst_addr, &match->flow.ipv6_dst, sizeof spec->dst_addr);
    memcpy(&mask->src_addr, &match->wc.masks.ipv6_src, sizeof mask->src_addr);
    memcpy(&mask->dst_addr, &match->wc.masks.ipv6_dst, sizeof mask->dst_addr);
    spec->vtc_flow = htonl((uint32_t) match->flow.nw_tos
                           << RTE_IPV6_HDR_TC_SHIFT);
    mask->vtc_flow = htonl((uint32_t) match->wc.masks.nw_tos
                           << RTE_IPV6_HDR_TC_SHIFT);
    spec->hop_limits = match->flow.nw_ttl;
    mask->hop_limits = match->wc.masks.nw_ttl;
    pattern->ip_mask.ipv6.has_frag_ext = 1;
    dpdk_flow_pattern_add(pattern, RTE_FLOW_ITEM_TYPE_IPV6, &pattern->ip.ipv6,
                          &pattern->ip_mask.ipv6);
    rule->caps |= DPDK_PATH_MATCH_IPV6;
    CLEAR(left, ipv6_src);
    CLEAR(left, ipv6_dst);
}

static void
match_l3(struct dpdk_path_rule *rule, const struct match *match,
         struct flow *left)
{
    if (match->flow.dl_type == htons(ETH_TYPE_IP)) {
        match_ipv4(rule, match, left);
    } else {
        match_ipv6(rule, match, left);
    }
    rule->caps |= match->wc.masks.nw_tos ? DPDK_PATH_MATCH_TOS : 0;
    rule->caps |= match->wc.masks.nw_ttl ? DPDK_PATH_MATCH_TTL : 0;
    left->dl_type = 0;
    left->nw_frag &= ~FLOW_NW_FRAG_MASK;
    left->nw_tos = 0;
    left->nw_ttl = 0;
}

static void
match_l4(struct dpdk_path_rule *rule, const struct match *match,
         struct flow *left)
{
    struct dpdk_flow_pattern *pattern = &rule->match;
    enum rte_flow_item_type type = RTE_FLOW_ITEM_TYPE_UDP;

    /* The ports are at the same place in both headers. */
    pattern->l4.udp.hdr.src_port = match->flow.tp_src;
    pattern->l4.udp.hdr.dst_port = match->flow.tp_dst;
    pattern->l4_mask.udp.hdr.src_port = match->wc.masks.tp_src;
    pattern->l4_mask.udp.hdr.dst_port = match->wc.masks.tp_dst;
    if (match->flow.nw_proto == IPPROTO_TCP) {
        uint16_t flags = ntohs(match->flow.tcp_flags);
        uint16_t mask = ntohs(match->wc.masks.tcp_flags);

        type = RTE_FLOW_ITEM_TYPE_TCP;
        pattern->l4.tcp.hdr.tcp_flags = flags;
        pattern->l4.tcp.hdr.data_off = flags >> 8;
        pattern->l4_mask.tcp.hdr.tcp_flags = mask;
        pattern->l4_mask.tcp.hdr.data_off = mask >> 8;
        rule->caps |= mask ? DPDK_PATH_MATCH_TCP : 0;
        left->tcp_flags = 0;
    }
    dpdk_flow_pattern_add(pattern, type, &pattern->l4, &pattern->l4_mask);
    left->nw_proto = 0;
    left->tp_src = 0;
    left->tp_dst = 0;
}

/* What a match on a path has to say for the items above to be right. */
static bool
match_is_fit(const struct match *match)
{
    const struct flow *flow = &match->flow, *mask = &match->wc.masks;

    return (mask->dl_type == OVS_BE16_MAX && mask->nw_proto == UINT8_MAX
            && mask->vlans[0].tci & htons(VLAN_CFI)
            && (flow->dl_type == htons(ETH_TYPE_IP)
                || flow->dl_type == htons(ETH_TYPE_IPV6))
            && (flow->nw_proto == IPPROTO_TCP
                || flow->nw_proto == IPPROTO_UDP)
            && !(flow->nw_frag & mask->nw_frag)
            && !(flow->recirc_id & mask->recirc_id)
            && !(flow->packet_type & mask->packet_type));
}

static bool
rule_match(struct dpdk_path_rule *rule, const struct match *match,
           const struct ct_offload_tunnel *tunnel,
           const struct dpdk_path_options *options)
{
    static const struct flow nothing;
    struct flow left = match->wc.masks;

    if (!match_is_fit(match)) {
        return false;
    }
    left.recirc_id = 0;
    left.packet_type = 0;
    match_port(rule, &left, options);
    if (tunnel && !match_tunnel(rule, match, tunnel, &left)) {
        return false;
    }
    match_l2(rule, match, &left);
    match_l3(rule, match, &left);
    match_l4(rule, match, &left);
    dpdk_flow_pattern_add(&rule->match, RTE_FLOW_ITEM_TYPE_END, NULL, NULL);
    return flow_equal(&left, &nothing);
}

/* Actions.
 *
 * Each of these returns false if it cannot translate everything. */

static void
add_action(struct dpdk_path_rule *rule, enum rte_flow_action_type type,
           const void *conf)
{
    ovs_assert(rule->n_actions < ARRAY_SIZE(rule->actions));
    rule->actions[rule->n_actions++] = (struct rte_flow_action) {
        .type = type,
        .conf = conf,
    };
}

static bool
act_push_vlan(struct dpdk_path_rule *rule,
              const struct ovs_action_push_vlan *push)
{
    if (rule->caps & DPDK_PATH_PUSH_VLAN) {
        return false;
    }
    rule->caps |= DPDK_PATH_PUSH_VLAN;
    rule->push.ethertype = push->vlan_tpid;
    rule->pcp.vlan_pcp = vlan_tci_to_pcp(push->vlan_tci);
    rule->vid.vlan_vid = htons(vlan_tci_to_vid(push->vlan_tci));
    return true;
}

/* Fields that can be set.  A bit of 'sets' is 1 << one of these. */
enum {
    SET_MAC_SRC, SET_MAC_DST, SET_IP_SRC, SET_IP_DST, SET_TP_SRC, SET_TP_DST,
    SET_TTL,
    N_SETS
};
BUILD_ASSERT_DECL(N_SETS == DPDK_PATH_MAX_SETS);

/* Where the value of a field is in a rule. */
static void *
set_conf(struct dpdk_path_rule *rule, int set)
{
    return (set == SET_MAC_SRC ? (void *) &rule->macs[0]
            : set == SET_MAC_DST ? (void *) &rule->macs[1]
            : set == SET_IP_SRC ? (void *) &rule->ips[0]
            : set == SET_IP_DST ? (void *) &rule->ips[1]
            : set == SET_TP_SRC ? (void *) &rule->tps[0]
            : set == SET_TP_DST ? (void *) &rule->tps[1]
            : (void *) &rule->ttl);
}

#define KEY_FIELD(SET, STRUCT, MEMBER)                                      \
    { SET, offsetof(struct STRUCT, MEMBER),                                 \
      MEMBER_SIZEOF(struct STRUCT, MEMBER) }

/* What a header in a set action has that can be set. */
static const struct key {
    enum ovs_key_attr attr;
    size_t size;
    struct key_field {
        int set;
        size_t ofs;
        size_t size;
    } fields[4];
} keys[] = {
    { OVS_KEY_ATTR_ETHERNET, sizeof(struct ovs_key_ethernet),
      { KEY_FIELD(SET_MAC_SRC, ovs_key_ethernet, eth_src),
        KEY_FIELD(SET_MAC_DST, ovs_key_ethernet, eth_dst) } },
    { OVS_KEY_ATTR_IPV4, sizeof(struct ovs_key_ipv4),
      { KEY_FIELD(SET_IP_SRC, ovs_key_ipv4, ipv4_src),
        KEY_FIELD(SET_IP_DST, ovs_key_ipv4, ipv4_dst),
        KEY_FIELD(SET_TTL, ovs_key_ipv4, ipv4_ttl) } },
    { OVS_KEY_ATTR_IPV6, sizeof(struct ovs_key_ipv6),
      { KEY_FIELD(SET_IP_SRC, ovs_key_ipv6, ipv6_src),
        KEY_FIELD(SET_IP_DST, ovs_key_ipv6, ipv6_dst),
        KEY_FIELD(SET_TTL, ovs_key_ipv6, ipv6_hlimit) } },
    { OVS_KEY_ATTR_TCP, sizeof(struct ovs_key_tcp),
      { KEY_FIELD(SET_TP_SRC, ovs_key_tcp, tcp_src),
        KEY_FIELD(SET_TP_DST, ovs_key_tcp, tcp_dst) } },
    { OVS_KEY_ATTR_UDP, sizeof(struct ovs_key_udp),
      { KEY_FIELD(SET_TP_SRC, ovs_key_udp, udp_src),
        KEY_FIELD(SET_TP_DST, ovs_key_udp, udp_dst) } },
};

/* Is a header of 'attr' one that packets of 'match' have? */
static bool
match_has_key(const struct match *match, enum ovs_key_attr attr)
{
    bool ipv4 = match->flow.dl_type == htons(ETH_TYPE_IP);
    bool tcp = match->flow.nw_proto == IPPROTO_TCP;

    return (attr == OVS_KEY_ATTR_IPV4 ? ipv4
            : attr == OVS_KEY_ATTR_IPV6 ? !ipv4
            : attr == OVS_KEY_ATTR_TCP ? tcp
            : attr == OVS_KEY_ATTR_UDP ? !tcp
            : true);
}

/* Notes what 'set', an action's argument, sets.  Hardware sets whole fields,
 * each of them once. */
static bool
act_set(struct dpdk_path_rule *rule, const struct match *match,
        const struct nlattr *set, bool masked)
{
    const uint8_t *value = nl_attr_get(set);
    const struct key *key = NULL;
    uint8_t mask[64];

    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        if (nl_attr_type(set) == keys[i].attr) {
            key = &keys[i];
        }
    }
    if (!key || !match_has_key(match, key->attr)) {
        return false;
    }
    ovs_assert(key->size <= sizeof mask);
    if (masked) {
        memcpy(mask, value + key->size, key->size);
    } else {
        memset(mask, 0xff, key->size);
    }
    for (const struct key_field *f = key->fields; f->size; f++) {
        if (is_all_zeros(mask + f->ofs, f->size)) {
            continue;
        }
        if (!is_all_ones(mask + f->ofs, f->size)
            || rule->sets & 1u << f->set) {
            return false;
        }
        memcpy(set_conf(rule, f->set), value + f->ofs, f->size);
        memset(mask + f->ofs, 0, f->size);
        rule->sets |= 1u << f->set;
    }
    return is_all_zeros(mask, key->size);
}

/* Has 'rule' set the address of a side that it sets the port of, and the other
 * way around, to what they are. */
static void
complete_sets(struct dpdk_path_rule *rule, const struct match *match)
{
    const struct flow *flow = &match->flow;
    bool ipv4 = flow->dl_type == htons(ETH_TYPE_IP);

    for (int i = 0; i < 2; i++) {
        unsigned int ip = 1u << (SET_IP_SRC + i);
        unsigned int tp = 1u << (SET_TP_SRC + i);

        if (rule->sets & tp && !(rule->sets & ip)) {
            if (ipv4) {
                rule->ips[i].ipv4.ipv4_addr = i ? flow->nw_dst : flow->nw_src;
            } else {
                memcpy(&rule->ips[i].ipv6, i ? &flow->ipv6_dst
                       : &flow->ipv6_src, sizeof rule->ips[i].ipv6);
            }
            rule->sets |= ip;
        } else if (rule->sets & ip && !(rule->sets & tp)) {
            rule->tps[i].port = i ? flow->tp_dst : flow->tp_src;
            rule->sets |= tp;
        }
    }
}

/* Adds a MODIFY_FIELD that does what a SET_* would. */
static void
add_modify(struct dpdk_path_rule *rule, const struct match *match, int set)
{
    static const struct {
        enum rte_flow_field_id id;
        size_t size;
    } fields[N_SETS][2] = {     /* By whether it is IPv6, or UDP. */
        [SET_MAC_SRC] = { { RTE_FLOW_FIELD_MAC_SRC, 6 },
                          { RTE_FLOW_FIELD_MAC_SRC, 6 } },
        [SET_MAC_DST] = { { RTE_FLOW_FIELD_MAC_DST, 6 },
                          { RTE_FLOW_FIELD_MAC_DST, 6 } },
        [SET_IP_SRC] = { { RTE_FLOW_FIELD_IPV4_SRC, 4 },
                         { RTE_FLOW_FIELD_IPV6_SRC, 16 } },
        [SET_IP_DST] = { { RTE_FLOW_FIELD_IPV4_DST, 4 },
                         { RTE_FLOW_FIELD_IPV6_DST, 16 } },
        [SET_TP_SRC] = { { RTE_FLOW_FIELD_TCP_PORT_SRC, 2 },
                         { RTE_FLOW_FIELD_UDP_PORT_SRC, 2 } },
        [SET_TP_DST] = { { RTE_FLOW_FIELD_TCP_PORT_DST, 2 },
                         { RTE_FLOW_FIELD_UDP_PORT_DST, 2 } },
        [SET_TTL] = { { RTE_FLOW_FIELD_IPV4_TTL, 1 },
                      { RTE_FLOW_FIELD_IPV6_HOPLIMIT, 1 } },
    };
    struct rte_flow_action_modify_field *conf = &rule->modifies[set];
    bool port = set == SET_TP_SRC || set == SET_TP_DST;
    bool second = (port ? match->flow.nw_proto != IPPROTO_TCP
                   : match->flow.dl_type != htons(ETH_TYPE_IP));
    size_t size = fields[set][second].size;

    /* What the rest of it is called depends on the version of DPDK. */
    memset(conf, 0, sizeof *conf);
    conf->operation = RTE_FLOW_MODIFY_SET;
    conf->dst.field = fields[set][second].id;
    conf->src.field = RTE_FLOW_FIELD_VALUE;
    memcpy(conf->src.value, set_conf(rule, set), size);
    conf->width = 8 * size;
    add_action(rule, RTE_FLOW_ACTION_TYPE_MODIFY_FIELD, conf);
}

/* Adds what act_set() has noted. */
static void
add_sets(struct dpdk_path_rule *rule, const struct match *match,
         const struct dpdk_path_options *options)
{
    static const int order[N_SETS] = {
        SET_MAC_SRC, SET_MAC_DST, SET_IP_SRC, SET_IP_DST, SET_TP_SRC,
        SET_TP_DST, SET_TTL,
    };
    static const int bundle_order[N_SETS] = {
        SET_MAC_SRC, SET_MAC_DST, SET_IP_SRC, SET_TP_SRC, SET_IP_DST,
        SET_TP_DST, SET_TTL,
    };
    bool bundle = options->words == DPDK_PATH_WORDS_BUNDLE;
    bool ipv4 = match->flow.dl_type == htons(ETH_TYPE_IP);
    const struct {
        enum rte_flow_action_type type;
        enum dpdk_path_cap cap;
    } actions[N_SETS] = {
        [SET_MAC_SRC] = { RTE_FLOW_ACTION_TYPE_SET_MAC_SRC,
                          DPDK_PATH_SET_MAC },
        [SET_MAC_DST] = { RTE_FLOW_ACTION_TYPE_SET_MAC_DST,
                          DPDK_PATH_SET_MAC },
        [SET_IP_SRC] = { ipv4 ? RTE_FLOW_ACTION_TYPE_SET_IPV4_SRC
                         : RTE_FLOW_ACTION_TYPE_SET_IPV6_SRC,
                         ipv4 ? DPDK_PATH_SET_IPV4 : DPDK_PATH_SET_IPV6 },
        [SET_IP_DST] = { ipv4 ? RTE_FLOW_ACTION_TYPE_SET_IPV4_DST
                         : RTE_FLOW_ACTION_TYPE_SET_IPV6_DST,
                         ipv4 ? DPDK_PATH_SET_IPV4 : DPDK_PATH_SET_IPV6 },
        [SET_TP_SRC] = { RTE_FLOW_ACTION_TYPE_SET_TP_SRC, DPDK_PATH_SET_TP },
        [SET_TP_DST] = { RTE_FLOW_ACTION_TYPE_SET_TP_DST, DPDK_PATH_SET_TP },
        [SET_TTL] = { RTE_FLOW_ACTION_TYPE_SET_TTL, DPDK_PATH_SET_TTL },
    };

    for (int i = 0; i < N_SETS; i++) {
        rule->caps |= rule->sets & 1u << i ? actions[i].cap : 0;
    }
    if (bundle) {
        complete_sets(rule, match);
    }
    for (int i = 0; i < N_SETS; i++) {
        int set = bundle ? bundle_order[i] : order[i];

        if (!(rule->sets & 1u << set)) {
            continue;
        }
        if (options->words == DPDK_PATH_WORDS_MODIFY) {
            add_modify(rule, match, set);
        } else if (set == SET_TTL && bundle
                   && match->wc.masks.nw_ttl == UINT8_MAX
                   && rule->ttl.ttl_value == match->flow.nw_ttl - 1) {
            add_action(rule, RTE_FLOW_ACTION_TYPE_DEC_TTL, NULL);
        } else {
            add_action(rule, actions[set].type, set_conf(rule, set));
        }
    }
}

/* Looks through 'actions', and notes what there is to be done to packets.
 * '*output' says whether they are sent on, '*push' into what tunnel. */
static bool
parse_actions(struct dpdk_path_rule *rule, const struct match *match,
              const struct nlattr *actions, size_t actions_len, bool *output,
              const struct ovs_action_push_tnl **push)
{
    const struct nlattr *a;
    size_t left;

    *output = false;
    *push = NULL;
    NL_ATTR_FOR_EACH_UNSAFE (a, left, actions, actions_len) {
        enum ovs_action_attr type = nl_attr_type(a);

        if (*output || (*push && type != OVS_ACTION_ATTR_OUTPUT)) {
            return false;
        }
        if (type == OVS_ACTION_ATTR_TUNNEL_POP) {
            if (a != actions || !(rule->caps & (DPDK_PATH_MATCH_VXLAN
                                                | DPDK_PATH_MATCH_GENEVE))) {
                return false;
            }
            rule->caps |= DPDK_PATH_DECAP;
        } else if (type == OVS_ACTION_ATTR_TUNNEL_PUSH) {
            *push = nl_attr_get(a);
        } else if (type == OVS_ACTION_ATTR_POP_VLAN) {
            if (!(rule->caps & DPDK_PATH_MATCH_VLAN)
                || rule->caps & (DPDK_PATH_POP_VLAN | DPDK_PATH_PUSH_VLAN)) {
                return false;
            }
            rule->caps |= DPDK_PATH_POP_VLAN;
        } else if (type == OVS_ACTION_ATTR_PUSH_VLAN) {
            if (!act_push_vlan(rule, nl_attr_get(a))) {
                return false;
            }
        } else if (type == OVS_ACTION_ATTR_SET
                   || type == OVS_ACTION_ATTR_SET_MASKED) {
            if (!act_set(rule, match, nl_attr_get(a),
                         type == OVS_ACTION_ATTR_SET_MASKED)) {
                return false;
            }
        } else if (type == OVS_ACTION_ATTR_OUTPUT) {
            *output = true;
        } else {
            return false;
        }
    }
    return *output || !actions_len;
}

/* Adds the action that puts packets into the tunnel in 'push'. */
static bool
act_encap(struct dpdk_path_rule *rule, const struct ovs_action_push_tnl *push)
{
    struct rte_flow_action action;

    if (!dpdk_tunnel_encap(&rule->out, push, &action)) {
        return false;
    }
    add_action(rule, action.type, action.conf);
    rule->caps |= (action.type == RTE_FLOW_ACTION_TYPE_VXLAN_ENCAP
                   ? DPDK_PATH_ENCAP_VXLAN : DPDK_PATH_ENCAP_GENEVE);
    return true;
}

static bool
rule_act(struct dpdk_path_rule *rule, const struct match *match,
         const struct ct_offload_tunnel *tunnel, const struct nlattr *actions,
         size_t actions_len, const struct dpdk_path_options *options)
{
    const struct ovs_action_push_tnl *push;
    bool output;

    if (!parse_actions(rule, match, actions, actions_len, &output, &push)) {
        return false;
    }
    if (rule->caps & DPDK_PATH_DECAP) {
        struct rte_flow_action decap = dpdk_tunnel_decap(&rule->in, tunnel);

        add_action(rule, decap.type, decap.conf);
    } else if (tunnel && output) {
        return false;
    }
    if (rule->caps & DPDK_PATH_POP_VLAN) {
        add_action(rule, RTE_FLOW_ACTION_TYPE_OF_POP_VLAN, NULL);
    }
    add_action(rule, RTE_FLOW_ACTION_TYPE_COUNT, &rule->count);
    if (rule->caps & DPDK_PATH_PUSH_VLAN) {
        add_action(rule, RTE_FLOW_ACTION_TYPE_OF_PUSH_VLAN, &rule->push);
        add_action(rule, RTE_FLOW_ACTION_TYPE_OF_SET_VLAN_VID, &rule->vid);
        add_action(rule, RTE_FLOW_ACTION_TYPE_OF_SET_VLAN_PCP, &rule->pcp);
    }
    if (rule->sets) {
        add_sets(rule, match, options);
    }
    if (push && !act_encap(rule, push)) {
        return false;
    }
    if (options->fence) {
        rule->caps |= DPDK_PATH_FENCE;
        rule->to.port_id = (options->words == DPDK_PATH_WORDS_SET
                            ? options->from : UINT16_MAX);
        add_action(rule, RTE_FLOW_ACTION_TYPE_PORT_REPRESENTOR, &rule->to);
    } else if (output) {
        rule->to.port_id = options->to;
        add_action(rule, RTE_FLOW_ACTION_TYPE_REPRESENTED_PORT, &rule->to);
    } else {
        rule->caps |= DPDK_PATH_DROP;
        add_action(rule, RTE_FLOW_ACTION_TYPE_DROP, NULL);
    }
    add_action(rule, RTE_FLOW_ACTION_TYPE_END, NULL);
    return true;
}

/* Makes 'rule' match what 'match' and, if that is nonnull, 'tunnel' do, and do
 * 'actions', which are in the order of ct_merge_put_actions(), with each field
 * set once at most, as 'options' say.  'match' must stay for as long as 'rule'
 * does. */
enum dpdk_path_result
dpdk_path_rule_init(struct dpdk_path_rule *rule, const struct match *match,
                    const struct ct_offload_tunnel *tunnel,
                    const struct nlattr *actions, size_t actions_len,
                    const struct dpdk_path_options *options)
{
    memset(rule, 0, offsetof(struct dpdk_path_rule, in));
    rule->attr.transfer = 1;
    rule->attr.priority = options->fence ? FENCE_PRIORITY : PRIORITY;
    return (!rule_match(rule, match, tunnel, options) ? DPDK_PATH_BAD_MATCH
            : !rule_act(rule, match, tunnel, actions, actions_len, options)
              ? DPDK_PATH_BAD_ACTION
            : DPDK_PATH_OK);
}

/* Returns the first words that 'rule' is the same in as in 'words'. */
enum dpdk_path_words
dpdk_path_rule_same_words(const struct dpdk_path_rule *rule,
                          enum dpdk_path_words words)
{
    const unsigned int bundle = (DPDK_PATH_SET_IPV4 | DPDK_PATH_SET_IPV6
                                 | DPDK_PATH_SET_TP | DPDK_PATH_SET_TTL);

    if (rule->caps & DPDK_PATH_FENCE) {
        return MIN(words, DPDK_PATH_WORDS_BUNDLE);
    }
    return (words == DPDK_PATH_WORDS_MODIFY
            && rule->caps & (bundle | DPDK_PATH_SET_MAC) ? words
            : words == DPDK_PATH_WORDS_BUNDLE && rule->caps & bundle ? words
            : DPDK_PATH_WORDS_SET);
}

/* Makes 'rule' one that asks the least of a port, for 'ip_proto', and takes no
 * packet: the addresses are for documentation (RFC 5737). */
void
dpdk_path_rule_init_probe(struct dpdk_path_rule *rule, uint8_t ip_proto,
                          const struct dpdk_path_options *options)
{
    struct {
        struct nlattr nla;
        uint32_t port;
    } output = {
        { .nla_len = sizeof output, .nla_type = OVS_ACTION_ATTR_OUTPUT }, 0,
    };
    enum dpdk_path_result result;
    struct match match;

    match_init_catchall(&match);
    match_set_dl_tci(&match, 0);
    match_set_dl_type(&match, htons(ETH_TYPE_IP));
    match_set_nw_proto(&match, ip_proto);
    match_set_nw_src(&match, htonl(0xc0000201));
    match_set_nw_dst(&match, htonl(0xc0000202));
    match_set_tp_src(&match, htons(9));
    match_set_tp_dst(&match, htons(9));
    if (ip_proto == IPPROTO_TCP) {
        match_set_tcp_flags_masked(&match, htons(TCP_ACK),
                                   htons(TCP_SYN | TCP_FIN | TCP_RST
                                         | TCP_ACK));
    }
    result = dpdk_path_rule_init(rule, &match, NULL, &output.nla,
                                 sizeof output, options);
    ovs_assert(result == DPDK_PATH_OK);
}
