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

#ifndef CT_OFFLOAD_DPDK_PATH_H
#define CT_OFFLOAD_DPDK_PATH_H 1

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rte_flow.h>

#include "ct-offload-dpdk-flow.h"
#include "ct-offload-dpdk-tunnel.h"

/* What is said to rte_flow of a path
 * ==================================
 *
 * A path, see ct-offload-path.h, is one transfer rule: hardware sends the
 * packets that it matches from port to port, with other headers where NAT and
 * set actions want that.  It is in the root group, where a packet that matches
 * no rule is received by software as ever.  dpif-offload-dpdk's transfer rules
 * have priority 0 there, and paths 1: when a megaflow without ct() takes the
 * place of one with it, the new rule is followed at once, whatever paths are
 * still there.
 *
 *     item               what it matches
 *     ----------------   ----------------------------------------------------
 *     REPRESENTED_PORT   the port that packets arrive at, if the rule is made
 *                        on another one, the proxy
 *     ...                the tunnel that packets arrive in, if they do: see
 *                        ct-offload-dpdk-tunnel.h
 *     ETH                whether there is a tag; what megaflows match
 *     VLAN               the tag, if there is one, and that it is the last
 *     IPV4, IPV6         addresses; no fragments; what megaflows match
 *     TCP, UDP           ports; flags
 *
 *     action                                           when
 *     ----------------------------------------------   ----------------------
 *     VXLAN_DECAP or RAW_DECAP                         it is left behind
 *     OF_POP_VLAN                                      the tag goes
 *     COUNT                                            always
 *     OF_PUSH_VLAN, OF_SET_VLAN_VID, OF_SET_VLAN_PCP   there is a new one
 *     SET_MAC_SRC, SET_MAC_DST                         they change
 *     SET_IPV4_SRC, SET_IPV4_DST, or those of IPv6     they change
 *     SET_TP_SRC, SET_TP_DST                           they change
 *     SET_TTL                                          it changes
 *     VXLAN_ENCAP or RAW_ENCAP                         there is a new one
 *     REPRESENTED_PORT or DROP                         always
 *
 * This is the order that hardware wants that wants any.  All of it is stable
 * API of DPDK.  Hardware that refuses SET_* may accept other words for the
 * same, see enum dpdk_path_words.
 *
 * Each bit that a path matches is matched, and each action done, or there is
 * no rule.
 *
 * A fence, see ct-offload-fence.h, has priority 0, so that it wins over paths,
 * and the actions COUNT and PORT_REPRESENTOR: of the port that packets arrive
 * at or, in other words, of whichever it is.
 *
 * These functions keep no state, so that any thread may call them. */

struct ct_offload_tunnel;
struct match;
struct nlattr;

/* What a rule asks of a port, beyond the least, which is to match addresses
 * and ports of UDP over IPv4, to count, and to send to another port. */
enum dpdk_path_cap {
    DPDK_PATH_MATCH_MAC = 1 << 0,
    DPDK_PATH_MATCH_VLAN = 1 << 1,
    DPDK_PATH_MATCH_IPV6 = 1 << 2,
    DPDK_PATH_MATCH_TOS = 1 << 3,
    DPDK_PATH_MATCH_TTL = 1 << 4,
    DPDK_PATH_MATCH_TCP = 1 << 5,   /* By its flags. */
    DPDK_PATH_POP_VLAN = 1 << 6,
    DPDK_PATH_PUSH_VLAN = 1 << 7,
    DPDK_PATH_SET_MAC = 1 << 8,
    DPDK_PATH_SET_IPV4 = 1 << 9,
    DPDK_PATH_SET_IPV6 = 1 << 10,
    DPDK_PATH_SET_TP = 1 << 11,
    DPDK_PATH_SET_TTL = 1 << 12,
    DPDK_PATH_DROP = 1 << 13,
    DPDK_PATH_FENCE = 1 << 14,
    DPDK_PATH_MATCH_VXLAN = 1 << 15,
    DPDK_PATH_MATCH_GENEVE = 1 << 16,
    DPDK_PATH_MATCH_OPTIONS = 1 << 17,
    DPDK_PATH_DECAP = 1 << 18,
    DPDK_PATH_ENCAP_VXLAN = 1 << 19,
    DPDK_PATH_ENCAP_GENEVE = 1 << 20,
};
#define DPDK_PATH_N_CAPS 21

const char *dpdk_path_cap_to_string(enum dpdk_path_cap);

/* The words for what a rule sets, and for a fence. */
enum dpdk_path_words {
    /* The table above.  A fence is for the port that packets arrive at. */
    DPDK_PATH_WORDS_SET,

    /* SET_TP_SRC after SET_IPV4_SRC, and both if there is one of them, though
     * it sets what is there anyway; the same for destinations; DEC_TTL.  A
     * fence is for any port. */
    DPDK_PATH_WORDS_BUNDLE,

    /* MODIFY_FIELD for each field.  A fence is for any port.  DPDK calls the
     * memory that this takes experimental, up to 23.11 at least, but no
     * function is. */
    DPDK_PATH_WORDS_MODIFY,

    DPDK_PATH_N_WORDS
};

/* Why there cannot be a rule. */
enum dpdk_path_result {
    DPDK_PATH_OK,
    DPDK_PATH_BAD_MATCH,        /* Something is matched... */
    DPDK_PATH_BAD_ACTION,       /* ...or done that there are no words for. */
};

/* The most that a rule can have, END included... */
#define DPDK_PATH_MAX_ACTIONS 16

/* ...and how many of them set a field. */
#define DPDK_PATH_MAX_SETS 7

/* A rule, and what its items and actions point to.  It must not be moved. */
struct dpdk_path_rule {
    struct rte_flow_attr attr;
    const struct rte_flow_item *pattern; /* In 'match'. */
    struct rte_flow_action actions[DPDK_PATH_MAX_ACTIONS];
    unsigned int caps;          /* Of enum dpdk_path_cap. */

    struct rte_flow_item_ethdev from, from_mask;
    struct dpdk_flow_pattern match;

    struct rte_flow_action_count count;
    struct rte_flow_action_of_push_vlan push;
    struct rte_flow_action_of_set_vlan_pcp pcp;
    struct rte_flow_action_of_set_vlan_vid vid;
    struct rte_flow_action_set_mac macs[2];     /* Source, destination. */
    union {
        struct rte_flow_action_set_ipv4 ipv4;
        struct rte_flow_action_set_ipv6 ipv6;
    } ips[2];
    struct rte_flow_action_set_tp tps[2];
    struct rte_flow_action_set_ttl ttl;
    struct rte_flow_action_ethdev to;
    size_t n_actions;
    unsigned int sets;          /* Which of 'macs' to 'ttl', by a bit each. */

    /* Not initialized unless there is a tunnel... */
    struct dpdk_tunnel_in in;
    struct dpdk_tunnel_out out;

    /* ...or a MODIFY_FIELD, by the same bits as 'sets'. */
    struct rte_flow_action_modify_field modifies[DPDK_PATH_MAX_SETS];
};

/* What there is to choose in a rule. */
struct dpdk_path_options {
    uint16_t from;              /* DPDK port that packets arrive at. */
    uint16_t to;                /* That they leave by, if not dropped. */
    bool by_proxy;              /* Is the rule to be made on another port? */
    bool fence;                 /* Is it one? */
    enum dpdk_path_words words;
};

enum dpdk_path_result dpdk_path_rule_init(struct dpdk_path_rule *,
                                          const struct match *,
                                          const struct ct_offload_tunnel *,
                                          const struct nlattr *actions,
                                          size_t actions_len,
                                          const struct dpdk_path_options *);
enum dpdk_path_words dpdk_path_rule_same_words(const struct dpdk_path_rule *,
                                               enum dpdk_path_words);
void dpdk_path_rule_init_probe(struct dpdk_path_rule *, uint8_t ip_proto,
                               const struct dpdk_path_options *);

#endif /* ct-offload-dpdk-path.h */
