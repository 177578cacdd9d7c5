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

/* Connection tracking is an experimental part of rte_flow. */
#define ALLOW_EXPERIMENTAL_API

#include "ct-offload-dpdk-flow.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include <rte_errno.h>
#include <rte_ethdev.h>

#include "packets.h"
#include "util.h"

/* Of two rules that match a packet, the one with the lower number wins.
 * dpif-offload-dpdk has priority 0.  Rules that it made in the root group,
 * because the port had no layout then, come before the layout's. */
enum {
    PRIORITY_ROOT = 1,
    PRIORITY_ROOT_ALL = 2,
    PRIORITY_TRACKED = 0,
    PRIORITY_UNTRACKED = 1,
    PRIORITY_CONNS_ALL = 2,
    PRIORITY_FIRST = 0,
    PRIORITY_ALL = 1,
};

/* Enough for any rule here. */
#define MAX_ITEMS 5
#define MAX_ACTIONS 5

/* Nobody waits for a rule to age out: only the time since the last hit is of
 * interest.  So this is as long as 24 bits of seconds can say. */
#define AGE_TIMEOUT ((1u << 24) - 1)

/* Segments with one of these are for software: they begin or end a connection,
 * or come from a peer that knows nothing of it any more. */
#define TCP_NOT_MATCHED (TCP_SYN | TCP_FIN | TCP_RST)

/* Returns the positive errno value of a call that failed. */
static int
flow_errno(void)
{
    return rte_errno > 0 ? rte_errno : EIO;
}

/* May something that failed with 'error' work at another time?  Otherwise the
 * port cannot do it at all. */
bool
dpdk_flow_error_is_transient(int error)
{
    switch (error) {
    case EAGAIN:
    case EBUSY:
    case EEXIST:
    case EINTR:
    case EIO:
    case ENOBUFS:
    case ENOENT:
    case ENOMEM:
    case ENOSPC:
    case ETIMEDOUT:
        return true;
    default:
        return false;
    }
}

/* Is it worth the while to try at once again what failed with 'error'? */
static bool
error_is_momentary(int error)
{
    return (error == EAGAIN || error == EBUSY || error == EINTR
            || error == EIO || error == ETIMEDOUT);
}

static int
rule_create(uint16_t port_id, enum dpdk_flow_group group, uint32_t priority,
            const struct rte_flow_item *items,
            const struct rte_flow_action *actions, struct rte_flow **rule,
            struct rte_flow_error *error)
{
    const struct rte_flow_attr attr = {
        .group = group,
        .priority = priority,
        .ingress = 1,
    };

    *rule = rte_flow_create(port_id, &attr, items, actions, error);
    return *rule ? 0 : flow_errno();
}

/* Destroys 'rule'.  If that fails it is still there. */
int
dpdk_flow_rule_destroy(uint16_t port_id, struct rte_flow *rule,
                       struct rte_flow_error *error)
{
    return rte_flow_destroy(port_id, rule, error) ? flow_errno() : 0;
}

/* How often to try to create something. */
#define N_TRIES 4

/* 'n' calls, one after the other, have failed, the last one with 'error'.  If
 * another one may work soon, waits a little, longer each time and less than a
 * millisecond in all, and returns true. */
static bool
wait_to_retry(int error, unsigned int n)
{
    static const unsigned int pauses_us[] = { 50, 100, 200, 400 };

    if (!error_is_momentary(error) || n > ARRAY_SIZE(pauses_us)) {
        return false;
    }
    xnanosleep_no_quiesce(pauses_us[n - 1] * 1000);
    return true;
}

/* Destroys 'rule', and tries again for up to a millisecond if that fails.  If
 * it fails for good the rule is still there. */
int
dpdk_flow_rule_destroy_retry(uint16_t port_id, struct rte_flow *rule,
                             struct rte_flow_error *error)
{
    unsigned int n = 0;
    int retval;

    do {
        retval = dpdk_flow_rule_destroy(port_id, rule, error);
    } while (retval && wait_to_retry(retval, ++n));
    return retval;
}

/* The same for 'handle', which no rule uses any more. */
int
dpdk_flow_handle_destroy_retry(uint16_t port_id,
                               struct rte_flow_action_handle *handle,
                               struct rte_flow_error *error)
{
    unsigned int n = 0;
    int retval;

    do {
        retval = dpdk_flow_handle_destroy(port_id, handle, error);
    } while (retval && wait_to_retry(retval, ++n));
    return retval;
}

/* The layout. */

static void
layout_keep_rule(struct dpdk_flow_layout *layout, struct rte_flow *rule)
{
    if (layout->n_rules >= layout->allocated_rules) {
        layout->rules = x2nrealloc(layout->rules, &layout->allocated_rules,
                                   sizeof *layout->rules);
    }
    layout->rules[layout->n_rules++] = rule;
}

/* Destroys 'rule' on the port of 'layout', or leaves that to
 * dpdk_flow_layout_destroy(). */
static int
layout_drop_rule(struct dpdk_flow_layout *layout, struct rte_flow *rule,
                 struct rte_flow_error *error)
{
    int retval = dpdk_flow_rule_destroy_retry(layout->port_id, rule, error);

    if (retval) {
        layout_keep_rule(layout, rule);
    }
    return retval;
}

/* The same for 'handle'. */
static int
layout_drop_handle(struct dpdk_flow_layout *layout,
                   struct rte_flow_action_handle *handle,
                   struct rte_flow_error *error)
{
    int retval = dpdk_flow_handle_destroy_retry(layout->port_id, handle,
                                                error);

    if (retval) {
        if (layout->n_handles >= layout->allocated_handles) {
            layout->handles = x2nrealloc(layout->handles,
                                         &layout->allocated_handles,
                                         sizeof *layout->handles);
        }
        layout->handles[layout->n_handles++] = handle;
    }
    return retval;
}

static int
layout_add(struct dpdk_flow_layout *layout, enum dpdk_flow_group group,
           uint32_t priority, const struct rte_flow_item *items,
           const struct rte_flow_action *actions,
           struct rte_flow_error *error)
{
    struct rte_flow *rule;
    int retval, n = 0;

    do {
        retval = rule_create(layout->port_id, group, priority, items, actions,
                             &rule, error);
    } while (retval && error_is_momentary(retval) && ++n < N_TRIES);
    if (!retval) {
        layout_keep_rule(layout, rule);
    }
    return retval;
}

/* Adds a rule for packets of any kind, or, if 'l4' is not END, for packets
 * with items 'l3' and 'l4', that sends them on to group 'to'. */
static int
layout_add_jump(struct dpdk_flow_layout *layout, enum dpdk_flow_group from,
                uint32_t priority, enum rte_flow_item_type l3,
                enum rte_flow_item_type l4, enum dpdk_flow_group to,
                struct rte_flow_error *error)
{
    const struct rte_flow_item items[] = {
        { .type = RTE_FLOW_ITEM_TYPE_ETH },
        { .type = l3 },
        { .type = l4 },
        { .type = RTE_FLOW_ITEM_TYPE_END },
    };
    const struct rte_flow_action_jump jump = { .group = to };
    const struct rte_flow_action actions[] = {
        { .type = RTE_FLOW_ACTION_TYPE_JUMP, .conf = &jump },
        { .type = RTE_FLOW_ACTION_TYPE_END },
    };

    return layout_add(layout, from, priority, items, actions, error);
}

static int
layout_add_all(struct dpdk_flow_layout *layout, enum dpdk_flow_group from,
               uint32_t priority, enum dpdk_flow_group to,
               struct rte_flow_error *error)
{
    return layout_add_jump(layout, from, priority, RTE_FLOW_ITEM_TYPE_END,
                           RTE_FLOW_ITEM_TYPE_END, to, error);
}

static int
layout_add_root(struct dpdk_flow_layout *layout, struct rte_flow_error *error)
{
    static const enum rte_flow_item_type l3[] = {
        RTE_FLOW_ITEM_TYPE_IPV4, RTE_FLOW_ITEM_TYPE_IPV6,
    };
    static const enum rte_flow_item_type l4[] = {
        RTE_FLOW_ITEM_TYPE_TCP, RTE_FLOW_ITEM_TYPE_UDP,
    };
    int retval = layout_add_all(layout, DPDK_FLOW_GROUP_ROOT,
                                PRIORITY_ROOT_ALL, DPDK_FLOW_GROUP_FLOWS,
                                error);

    for (size_t i = 0; i < ARRAY_SIZE(l3); i++) {
        for (size_t j = 0; !retval && j < ARRAY_SIZE(l4); j++) {
            retval = layout_add_jump(layout, DPDK_FLOW_GROUP_ROOT,
                                     PRIORITY_ROOT, l3[i], l4[j],
                                     DPDK_FLOW_GROUP_CONNS, error);
        }
    }
    return retval;
}

/* The last rule of the last group: packets go to the queues as they would
 * without any rule. */
static int
layout_add_flows(struct dpdk_flow_layout *layout, unsigned int n_rxq,
                 struct rte_flow_error *error)
{
    const struct rte_flow_item items[] = {
        { .type = RTE_FLOW_ITEM_TYPE_ETH },
        { .type = RTE_FLOW_ITEM_TYPE_END },
    };
    uint16_t *queues = xmalloc(n_rxq * sizeof *queues);
    const struct rte_flow_action_rss rss = {
        .func = RTE_ETH_HASH_FUNCTION_DEFAULT,
        .types = RTE_ETH_RSS_IP | RTE_ETH_RSS_UDP | RTE_ETH_RSS_TCP,
        .queue_num = n_rxq,
        .queue = queues,
    };
    const struct rte_flow_action actions[] = {
        { .type = RTE_FLOW_ACTION_TYPE_RSS, .conf = &rss },
        { .type = RTE_FLOW_ACTION_TYPE_END },
    };
    int retval;

    for (unsigned int i = 0; i < n_rxq; i++) {
        queues[i] = i;
    }
    retval = layout_add(layout, DPDK_FLOW_GROUP_FLOWS, PRIORITY_ALL, items,
                        actions, error);
    free(queues);
    return retval;
}

static int
layout_add_state(struct dpdk_flow_layout *layout, struct rte_flow_error *error)
{
    const struct rte_flow_item_conntrack valid = {
        .flags = RTE_FLOW_CONNTRACK_PKT_STATE_VALID,
    };
    const struct rte_flow_item valid_items[] = {
        { .type = RTE_FLOW_ITEM_TYPE_CONNTRACK, .spec = &valid,
          .mask = &valid },
        { .type = RTE_FLOW_ITEM_TYPE_END },
    };
    const struct rte_flow_item all_items[] = {
        { .type = RTE_FLOW_ITEM_TYPE_ETH },
        { .type = RTE_FLOW_ITEM_TYPE_END },
    };
    const struct rte_flow_action_jump jump = {
        .group = DPDK_FLOW_GROUP_FLOWS,
    };
    const struct rte_flow_action_count count = { .id = 0 };
    const struct rte_flow_action actions[] = {
        { .type = RTE_FLOW_ACTION_TYPE_COUNT, .conf = &count },
        { .type = RTE_FLOW_ACTION_TYPE_JUMP, .conf = &jump },
        { .type = RTE_FLOW_ACTION_TYPE_END },
    };
    int retval;

    retval = layout_add(layout, DPDK_FLOW_GROUP_STATE, PRIORITY_ALL, all_items,
                        actions, error);
    if (!retval) {
        layout->invalid = layout->rules[layout->n_rules - 1];
        retval = layout_add(layout, DPDK_FLOW_GROUP_STATE, PRIORITY_FIRST,
                            valid_items, &actions[1], error);
    }
    return retval;
}

/* Destroys the rules of 'layout' from the 'n'th on, the last one first, or as
 * many of them as possible. */
static void
layout_truncate(struct dpdk_flow_layout *layout, size_t n)
{
    size_t n_dropped = layout->n_rules - n;
    struct rte_flow **dropped = xmemdup(&layout->rules[n],
                                        n_dropped * sizeof *dropped);

    layout->n_rules = n;
    while (n_dropped) {
        struct rte_flow *rule = dropped[--n_dropped];
        struct rte_flow_error error;

        layout_drop_rule(layout, rule, &error);
        if (rule == layout->invalid) {
            layout->invalid = NULL;
        }
    }
    free(dropped);
}

/* Destroys what is not needed in 'layout' but could not be destroyed before.
 */
void
dpdk_flow_layout_tidy(struct dpdk_flow_layout *layout)
{
    size_t n = layout->n_handles;

    if (layout->n_rules > layout->n_needed) {
        layout_truncate(layout, layout->n_needed);
    }
    layout->n_handles = 0;
    for (size_t i = 0; i < n; i++) {
        struct rte_flow_error error;

        layout_drop_handle(layout, layout->handles[i], &error);
    }
}

/* Destroys all that belongs to 'layout'.  Returns the number of rules and
 * handles that could not be destroyed: they are in 'layout', so that this can
 * be called again. */
size_t
dpdk_flow_layout_destroy(struct dpdk_flow_layout *layout)
{
    layout->caps = 0;
    layout->n_needed = 0;
    dpdk_flow_layout_tidy(layout);
    return layout->n_rules + layout->n_handles;
}

/* Frees the memory of 'layout'. */
void
dpdk_flow_layout_forget(struct dpdk_flow_layout *layout)
{
    free(layout->rules);
    free(layout->handles);
    memset(layout, 0, sizeof *layout);
}

/* Probing. */

/* No packet looks like this: the addresses are for documentation (RFC 5737).
 */
static void
probe_key_init(struct dpdk_flow_key *key, uint8_t ip_proto, bool reply)
{
    ovs_be32 a = htonl(0xc0000201);
    ovs_be32 b = htonl(0xc0000202);

    memset(key, 0, sizeof *key);
    key->ip_proto = ip_proto;
    key->src.ip = reply ? b : a;
    key->dst.ip = reply ? a : b;
    key->src_port = key->dst_port = htons(9);
}

/* Creates and destroys a rule for one direction of a connection. */
static int
probe_rule(struct dpdk_flow_layout *layout, uint8_t ip_proto,
           struct rte_flow_error *error)
{
    struct dpdk_flow_key key;
    struct rte_flow *rule;
    int retval;

    probe_key_init(&key, ip_proto, false);
    retval = dpdk_flow_rule_create(layout, &key, NULL, &rule, error);
    if (!retval) {
        retval = layout_drop_rule(layout, rule, error);
    }
    return retval;
}

/* Creates and destroys a tracked connection that has its original direction on
 * the port of 'layout' and its reply direction on that of 'peer', which may be
 * the same.  Returns 0 if that works. */
int
dpdk_flow_probe_sharing(struct dpdk_flow_layout *layout,
                        struct dpdk_flow_layout *peer,
                        struct rte_flow_error *error)
{
    struct dpdk_flow_layout *layouts[2] = { layout, peer };
    const struct ct_offload_tcp_peer tcp = {
        .sent_end = 1, .max_end = 1, .max_window = 1,
    };
    const struct ct_offload_tcp_peer tcps[2] = { tcp, tcp };
    struct rte_flow *rules[2] = { NULL, NULL };
    struct rte_flow_action_handle *handle;
    struct rte_flow_error error2;
    int retval, retval2;

    retval = dpdk_flow_handle_create(layout->port_id, peer->port_id, tcps,
                                     true, &handle, error);
    if (retval) {
        return retval;
    }
    for (int i = 0; i < 2 && !retval; i++) {
        struct dpdk_flow_key key;

        probe_key_init(&key, IPPROTO_TCP, i);
        if (i) {
            retval = dpdk_flow_handle_set_direction(layout->port_id, handle,
                                                    true, error);
        }
        if (!retval) {
            retval = dpdk_flow_rule_create(layouts[i], &key, handle, &rules[i],
                                           error);
        }
    }

    for (int i = 1; i >= 0; i--) {
        if (rules[i]) {
            retval2 = layout_drop_rule(layouts[i], rules[i], &error2);
            retval = retval ? retval : retval2;
        }
    }
    retval2 = layout_drop_handle(layout, handle, &error2);
    return retval ? retval : retval2;
}

/* Finds out how 'layout', which has its last rules already, can tell when a
 * connection was last used. */
static int
probe_use(struct dpdk_flow_layout *layout, struct rte_flow_error *error)
{
    static const unsigned int caps[] = {
        DPDK_FLOW_COUNT | DPDK_FLOW_AGE, DPDK_FLOW_COUNT, DPDK_FLOW_AGE,
    };
    int retval = 0;

    for (size_t i = 0; i < ARRAY_SIZE(caps); i++) {
        layout->caps = caps[i];
        retval = probe_rule(layout, IPPROTO_UDP, error);
        if (!retval || dpdk_flow_error_is_transient(retval)) {
            break;
        }
    }
    return retval;
}

/* Finds out whether 'layout' can match TCP segments by their flags. */
static int
probe_tcp(struct dpdk_flow_layout *layout, struct rte_flow_error *error)
{
    int retval = probe_rule(layout, IPPROTO_TCP, error);

    if (!retval) {
        layout->caps |= DPDK_FLOW_TCP;
    }
    return dpdk_flow_error_is_transient(retval) ? retval : 0;
}

/* Finds out whether 'layout' can track connections, and extends it if so. */
static int
probe_conntrack(struct dpdk_flow_layout *layout, struct rte_flow_error *error)
{
    size_t n_rules = layout->n_rules;
    int retval = layout_add_state(layout, error);

    if (!retval) {
        layout->caps |= DPDK_FLOW_CONNTRACK;
        retval = dpdk_flow_probe_sharing(layout, layout, error);
    }
    if (retval) {
        layout->caps &= ~DPDK_FLOW_CONNTRACK;
        layout_truncate(layout, n_rules);
    }
    return dpdk_flow_error_is_transient(retval) ? retval : 0;
}

static int
layout_fill(struct dpdk_flow_layout *layout, unsigned int n_rxq,
            struct rte_flow_error *error)
{
    int retval;

    /* Groups that packets come to later come first, so that no packet finds a
     * group without its last rule. */
    retval = layout_add_flows(layout, n_rxq, error);
    if (!retval) {
        retval = layout_add_all(layout, DPDK_FLOW_GROUP_CONNS,
                                PRIORITY_CONNS_ALL, DPDK_FLOW_GROUP_FLOWS,
                                error);
    }
    if (!retval) {
        retval = probe_use(layout, error);
    }
    if (!retval) {
        retval = probe_tcp(layout, error);
    }
    if (!retval && layout->caps & DPDK_FLOW_TCP
        && layout->caps & DPDK_FLOW_COUNT) {
        retval = probe_conntrack(layout, error);
    }
    if (!retval) {
        retval = layout_add_root(layout, error);
    }
    return retval;
}

/* Makes the layout of 'port_id', a port with 'n_rxq' receive queues, and
 * stores it in '*layout', which must be empty, with what the port can do.  See
 * dpdk_flow_error_is_transient() for errors; dpdk_flow_layout_destroy() may
 * have something to do even then. */
int
dpdk_flow_layout_create(struct dpdk_flow_layout *layout, uint16_t port_id,
                        unsigned int n_rxq, struct rte_flow_error *error)
{
    int retval;

    ovs_assert(!layout->n_rules && !layout->n_handles);
    layout->port_id = port_id;
    error->message = NULL;
    retval = layout_fill(layout, n_rxq, error);
    if (retval) {
        dpdk_flow_layout_destroy(layout);
    } else {
        layout->n_needed = layout->n_rules;
    }
    return retval;
}

/* Connections. */

/* The pattern of a rule, and what its items point to. */
struct pattern {
    struct rte_flow_item items[MAX_ITEMS];
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

static void
pattern_add(struct pattern *pattern, enum rte_flow_item_type type,
            const void *spec, const void *mask)
{
    ovs_assert(pattern->n_items < ARRAY_SIZE(pattern->items));
    pattern->items[pattern->n_items++] = (struct rte_flow_item) {
        .type = type,
        .spec = spec,
        .mask = mask,
    };
}

static void
pattern_add_l2(struct pattern *pattern, const struct dpdk_flow_key *key)
{
    pattern->eth.has_vlan = key->tagged;
    pattern->eth_mask.has_vlan = 1;
    if (key->tagged) {
        /* The type is that of the tag: there are others, with the same ids. */
        pattern->eth.hdr.ether_type = htons(ETH_TYPE_VLAN_8021Q);
        pattern->eth_mask.hdr.ether_type = OVS_BE16_MAX;
    }
    pattern_add(pattern, RTE_FLOW_ITEM_TYPE_ETH, &pattern->eth,
                &pattern->eth_mask);
    if (key->tagged) {
        /* The priority in the tag may change from packet to packet. */
        pattern->vlan.hdr.vlan_tci = key->vlan_vid;
        pattern->vlan_mask.hdr.vlan_tci = htons(VLAN_VID_MASK);
        pattern->vlan_mask.has_more_vlan = 1;
        pattern_add(pattern, RTE_FLOW_ITEM_TYPE_VLAN, &pattern->vlan,
                    &pattern->vlan_mask);
    }
}

static void
pattern_add_ipv4(struct pattern *pattern, const struct dpdk_flow_key *key)
{
    struct rte_flow_item_ipv4 *spec = &pattern->ip.ipv4;
    struct rte_flow_item_ipv4 *mask = &pattern->ip_mask.ipv4;

    spec->hdr.src_addr = key->src.ip;
    spec->hdr.dst_addr = key->dst.ip;
    mask->hdr.src_addr = mask->hdr.dst_addr = OVS_BE32_MAX;
    mask->hdr.fragment_offset = htons(IP_FRAG_OFF_MASK | IP_MORE_FRAGMENTS);
    pattern_add(pattern, RTE_FLOW_ITEM_TYPE_IPV4, spec, mask);
}

static void
pattern_add_ipv6(struct pattern *pattern, const struct dpdk_flow_key *key)
{
    struct rte_flow_item_ipv6 *spec = &pattern->ip.ipv6;
    struct rte_flow_item_ipv6 *mask = &pattern->ip_mask.ipv6;

    /* The type of the addresses depends on the version of DPDK. */
    BUILD_ASSERT_DECL(sizeof spec->hdr.src_addr == sizeof key->src.in6);
    memcpy(&spec->hdr.src_addr, &key->src.in6, sizeof spec->hdr.src_addr);
    memcpy(&spec->hdr.dst_addr, &key->dst.in6, sizeof spec->hdr.dst_addr);
    memset(&mask->hdr.src_addr, 0xff, sizeof mask->hdr.src_addr);
    memset(&mask->hdr.dst_addr, 0xff, sizeof mask->hdr.dst_addr);
    mask->has_frag_ext = 1;
    pattern_add(pattern, RTE_FLOW_ITEM_TYPE_IPV6, spec, mask);
}

static void
pattern_add_l4(struct pattern *pattern, const struct dpdk_flow_key *key)
{
    if (key->ip_proto == IPPROTO_TCP) {
        pattern->l4.tcp.hdr.src_port = key->src_port;
        pattern->l4.tcp.hdr.dst_port = key->dst_port;
        pattern->l4_mask.tcp.hdr.src_port = OVS_BE16_MAX;
        pattern->l4_mask.tcp.hdr.dst_port = OVS_BE16_MAX;
        pattern->l4_mask.tcp.hdr.tcp_flags = TCP_NOT_MATCHED;
        pattern_add(pattern, RTE_FLOW_ITEM_TYPE_TCP, &pattern->l4.tcp,
                    &pattern->l4_mask.tcp);
    } else {
        pattern->l4.udp.hdr.src_port = key->src_port;
        pattern->l4.udp.hdr.dst_port = key->dst_port;
        pattern->l4_mask.udp.hdr.src_port = OVS_BE16_MAX;
        pattern->l4_mask.udp.hdr.dst_port = OVS_BE16_MAX;
        pattern_add(pattern, RTE_FLOW_ITEM_TYPE_UDP, &pattern->l4.udp,
                    &pattern->l4_mask.udp);
    }
}

/* Makes 'pattern' match the packets of 'key', but for TCP segments that are
 * for software. */
static void
pattern_init(struct pattern *pattern, const struct dpdk_flow_key *key)
{
    memset(pattern, 0, sizeof *pattern);
    pattern_add_l2(pattern, key);
    if (key->ipv6) {
        pattern_add_ipv6(pattern, key);
    } else {
        pattern_add_ipv4(pattern, key);
    }
    pattern_add_l4(pattern, key);
    pattern_add(pattern, RTE_FLOW_ITEM_TYPE_END, NULL, NULL);
}

/* Has a rule with 'handle' on the port of 'layout' an AGE action?  AGE and
 * CONNTRACK do not go together everywhere. */
bool
dpdk_flow_rule_has_age(const struct dpdk_flow_layout *layout,
                       const struct rte_flow_action_handle *handle)
{
    return layout->caps & DPDK_FLOW_AGE && !handle;
}

/* Creates a rule for packets of 'key' on the port of 'layout' and stores it in
 * '*rule'.  If 'handle' is nonnull, it tracks the connection, and comes before
 * one that does not. */
int
dpdk_flow_rule_create(const struct dpdk_flow_layout *layout,
                      const struct dpdk_flow_key *key,
                      struct rte_flow_action_handle *handle,
                      struct rte_flow **rule, struct rte_flow_error *error)
{
    const struct rte_flow_action_count count = { .id = 0 };
    const struct rte_flow_action_age age = { .timeout = AGE_TIMEOUT };
    const struct rte_flow_action_jump jump = {
        .group = handle ? DPDK_FLOW_GROUP_STATE : DPDK_FLOW_GROUP_FLOWS,
    };
    struct rte_flow_action actions[MAX_ACTIONS];
    struct pattern pattern;
    size_t n = 0;

    if (layout->caps & DPDK_FLOW_COUNT) {
        actions[n++] = (struct rte_flow_action) {
            .type = RTE_FLOW_ACTION_TYPE_COUNT, .conf = &count,
        };
    }
    if (dpdk_flow_rule_has_age(layout, handle)) {
        actions[n++] = (struct rte_flow_action) {
            .type = RTE_FLOW_ACTION_TYPE_AGE, .conf = &age,
        };
    }
    if (handle) {
        actions[n++] = (struct rte_flow_action) {
            .type = RTE_FLOW_ACTION_TYPE_INDIRECT, .conf = handle,
        };
    }
    actions[n++] = (struct rte_flow_action) {
        .type = RTE_FLOW_ACTION_TYPE_JUMP, .conf = &jump,
    };
    actions[n++] = (struct rte_flow_action) {
        .type = RTE_FLOW_ACTION_TYPE_END,
    };

    pattern_init(&pattern, key);
    return rule_create(layout->port_id, DPDK_FLOW_GROUP_CONNS,
                       handle ? PRIORITY_TRACKED : PRIORITY_UNTRACKED,
                       pattern.items, actions, rule, error);
}

/* Stores in '*hits' how many packets 'rule' has matched. */
int
dpdk_flow_rule_get_hits(uint16_t port_id, struct rte_flow *rule,
                        uint64_t *hits, struct rte_flow_error *error)
{
    const struct rte_flow_action_count count = { .id = 0 };
    const struct rte_flow_action actions[] = {
        { .type = RTE_FLOW_ACTION_TYPE_COUNT, .conf = &count },
        { .type = RTE_FLOW_ACTION_TYPE_END },
    };
    struct rte_flow_query_count query;

    memset(&query, 0, sizeof query);
    if (rte_flow_query(port_id, rule, actions, &query, error)) {
        return flow_errno();
    }
    *hits = query.hits_set ? query.hits : 0;
    return 0;
}

/* Stores in '*seconds' how long ago 'rule' has last matched a packet, or
 * UINT_MAX if that is not known. */
int
dpdk_flow_rule_get_idle(uint16_t port_id, struct rte_flow *rule,
                        unsigned int *seconds, struct rte_flow_error *error)
{
    const struct rte_flow_action_age age = { .timeout = AGE_TIMEOUT };
    const struct rte_flow_action actions[] = {
        { .type = RTE_FLOW_ACTION_TYPE_AGE, .conf = &age },
        { .type = RTE_FLOW_ACTION_TYPE_END },
    };
    struct rte_flow_query_age query;

    memset(&query, 0, sizeof query);
    if (rte_flow_query(port_id, rule, actions, &query, error)) {
        return flow_errno();
    }
    *seconds = (query.aged || !query.sec_since_last_hit_valid ? UINT_MAX
                : query.sec_since_last_hit);
    return 0;
}

/* Connection tracking. */

/* What 'peer' has sent, and may send, where 'other' is its peer. */
static void
dir_param_init(struct rte_flow_tcp_dir_param *dir,
               const struct ct_offload_tcp_peer *peer,
               const struct ct_offload_tcp_peer *other)
{
    dir->scale = peer->scaled ? peer->scale : 0xf;
    dir->last_ack_seen = 1;
    dir->sent_end = peer->sent_end;
    dir->reply_end = peer->max_end;
    dir->max_win = peer->max_window;

    /* It is not known what 'peer' has acknowledged: at most all of that. */
    dir->max_ack = other->sent_end;
}

/* Begins to track a TCP connection between 'peers', that of the original
 * direction first.  Its original direction arrives at 'port_id', which the
 * handle in '*handle' belongs to, and its reply direction at 'peer_id'.  Rules
 * that are created with the handle are for the original direction.
 *
 * More packets may pass before the rules are there, so that what is known of
 * 'peers' is out of date then: 'liberal' has hardware follow the state of the
 * connection without insisting on its windows. */
int
dpdk_flow_handle_create(uint16_t port_id, uint16_t peer_id,
                        const struct ct_offload_tcp_peer peers[2],
                        bool liberal,
                        struct rte_flow_action_handle **handle,
                        struct rte_flow_error *error)
{
    const struct rte_flow_indir_action_conf conf = { .ingress = 1 };
    struct rte_flow_action_conntrack ct = {
        .peer_port = peer_id,
        .is_original_dir = 1,
        .enable = 1,
        .live_connection = 1,
        .selective_ack = 1,
        .last_direction = 1,
        .liberal_mode = liberal,
        .state = RTE_FLOW_CONNTRACK_STATE_ESTABLISHED,
        .max_ack_window = 7,
        .retransmission_limit = 5,
        .last_window = MIN(peers[0].max_window >> peers[0].scale, UINT16_MAX),
        .last_index = RTE_FLOW_CONNTRACK_FLAG_ACK,
        .last_seq = peers[0].sent_end,
        .last_ack = peers[1].sent_end,
        .last_end = peers[0].sent_end,
    };
    const struct rte_flow_action action = {
        .type = RTE_FLOW_ACTION_TYPE_CONNTRACK,
        .conf = &ct,
    };

    dir_param_init(&ct.original_dir, &peers[0], &peers[1]);
    dir_param_init(&ct.reply_dir, &peers[1], &peers[0]);
    *handle = rte_flow_action_handle_create(port_id, &conf, &action, error);
    return *handle ? 0 : flow_errno();
}

/* Rules that are created with 'handle' from now on are for the original
 * direction or, if 'reply', for the reply direction. */
int
dpdk_flow_handle_set_direction(uint16_t port_id,
                               struct rte_flow_action_handle *handle,
                               bool reply, struct rte_flow_error *error)
{
    const struct rte_flow_modify_conntrack update = {
        .new_ct.is_original_dir = !reply,
        .direction = 1,
    };

    return (rte_flow_action_handle_update(port_id, handle, &update, error)
            ? flow_errno() : 0);
}

/* Destroys 'handle', which no rule uses any more.  If that fails it is still
 * there. */
int
dpdk_flow_handle_destroy(uint16_t port_id,
                         struct rte_flow_action_handle *handle,
                         struct rte_flow_error *error)
{
    return (rte_flow_action_handle_destroy(port_id, handle, error)
            ? flow_errno() : 0);
}
