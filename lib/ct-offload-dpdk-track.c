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

#include "ct-offload-dpdk-track.h"

#include <netinet/in.h>
#include <string.h>

#include <rte_ethdev.h>

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

/* One of the two, in a layout. */
struct dpdk_track_object {
    struct rte_flow *rule;
    struct rte_flow_action_handle *handle;
};

/* What a layout holds. */

static void
layout_keep(struct dpdk_track_layout *layout, struct dpdk_track_object object)
{
    if (layout->n >= layout->allocated) {
        layout->objects = x2nrealloc(layout->objects, &layout->allocated,
                                     sizeof *layout->objects);
    }
    layout->objects[layout->n++] = object;
}

/* Destroys 'object' on the port of 'layout', or leaves that to
 * dpdk_track_layout_tidy(). */
static int
layout_drop(struct dpdk_track_layout *layout, struct dpdk_track_object object,
            struct rte_flow_error *error)
{
    int retval = (object.rule
                  ? dpdk_flow_rule_destroy_retry(layout->port_id, object.rule,
                                                 error)
                  : dpdk_track_handle_destroy_retry(layout->port_id,
                                                    object.handle, error));

    if (retval) {
        layout_keep(layout, object);
    }
    return retval;
}

/* Destroys the objects of 'layout' from the 'n'th on, the last one first, but
 * handles after the rules that use them, or as many as possible. */
static void
layout_truncate(struct dpdk_track_layout *layout, size_t n)
{
    size_t n_dropped = layout->n - n;
    struct dpdk_track_object *dropped;
    struct rte_flow_error error;

    if (!n_dropped) {
        return;
    }
    dropped = xmemdup(&layout->objects[n], n_dropped * sizeof *dropped);
    layout->n = n;
    for (size_t i = n_dropped; i-- > 0;) {
        if (dropped[i].rule) {
            layout_drop(layout, dropped[i], &error);
        }
    }
    for (size_t i = 0; i < n_dropped; i++) {
        if (dropped[i].handle) {
            layout_drop(layout, dropped[i], &error);
        }
    }
    free(dropped);
}

/* Destroys what is not needed in 'layout' but could not be destroyed before.
 */
void
dpdk_track_layout_tidy(struct dpdk_track_layout *layout)
{
    layout_truncate(layout, layout->n_needed);
}

/* Destroys all that belongs to 'layout'.  Returns the number of rules and
 * handles that could not be destroyed: they are in 'layout', so that this can
 * be called again. */
size_t
dpdk_track_layout_destroy(struct dpdk_track_layout *layout)
{
    layout->caps = 0;
    layout->n_needed = 0;
    layout->invalid = NULL;
    dpdk_track_layout_tidy(layout);
    return layout->n;
}

/* Frees the memory of 'layout'. */
void
dpdk_track_layout_forget(struct dpdk_track_layout *layout)
{
    free(layout->objects);
    memset(layout, 0, sizeof *layout);
}

/* Probing. */

/* No packet looks like this: the addresses are for documentation (RFC 5737).
 */
static void
probe_key_init(struct dpdk_flow_key *key, uint8_t ip_proto, bool reply)
{
    memset(key, 0, sizeof *key);
    key->ip_proto = ip_proto;
    key->src.ip = htonl(0xc0000201 + reply);
    key->dst.ip = htonl(0xc0000202 - reply);
    key->src_port = key->dst_port = htons(9);
}

/* Creates and destroys a rule for one direction of a connection. */
static int
probe_rule(struct dpdk_track_layout *layout, uint8_t ip_proto,
           struct rte_flow_error *error)
{
    struct dpdk_track_object object = { .rule = NULL };
    struct dpdk_flow_key key;
    int retval;

    probe_key_init(&key, ip_proto, false);
    retval = dpdk_track_rule_create(layout, &key, NULL, &object.rule, error);
    return retval ? retval : layout_drop(layout, object, error);
}

/* Creates and destroys a tracked connection that has its original direction on
 * the port of 'layout' and its reply direction on that of 'peer', which may be
 * the same.  Returns 0 if that works. */
int
dpdk_track_probe_sharing(struct dpdk_track_layout *layout,
                         struct dpdk_track_layout *peer,
                         struct rte_flow_error *error)
{
    struct dpdk_track_layout *layouts[3] = { layout, peer, layout };
    const struct ct_offload_tcp_peer tcp = {
        .sent_end = 1, .max_end = 1, .max_window = 1,
    };
    const struct ct_offload_tcp_peer tcps[2] = { tcp, tcp };
    struct dpdk_track_object objects[3] = { { .rule = NULL } };
    struct rte_flow_action_handle *handle;
    struct rte_flow_error error2;
    int retval;

    retval = dpdk_track_handle_create(layout->port_id, peer->port_id, tcps,
                                      true, &handle, error);
    if (retval) {
        return retval;
    }
    objects[2].handle = handle;
    for (int i = 0; i < 2 && !retval; i++) {
        struct dpdk_flow_key key;

        probe_key_init(&key, IPPROTO_TCP, i);
        if (i) {
            retval = dpdk_track_handle_reverse(layout->port_id, handle, error);
        }
        if (!retval) {
            retval = dpdk_track_rule_create(layouts[i], &key, handle,
                                            &objects[i].rule, error);
        }
    }

    /* The handle at last. */
    for (int i = 0; i < 3; i++) {
        if (objects[i].rule || objects[i].handle) {
            int retval2 = layout_drop(layouts[i], objects[i], &error2);

            retval = retval ? retval : retval2;
        }
    }
    return retval;
}

/* The layout. */

static int
layout_add(struct dpdk_track_layout *layout, enum dpdk_track_group group,
           uint32_t priority, const struct rte_flow_item *items,
           const struct rte_flow_action *actions,
           struct rte_flow_error *error)
{
    const struct rte_flow_attr attr = {
        .group = group, .priority = priority, .ingress = 1,
    };
    struct dpdk_track_object object = { .rule = NULL };
    unsigned int n = 0;
    int retval;

    do {
        retval = dpdk_flow_rule_create(layout->port_id, &attr, items, actions,
                                       &object.rule, error);
    } while (retval && dpdk_flow_wait_to_retry(retval, ++n));
    if (!retval) {
        layout_keep(layout, object);
    }
    return retval;
}

/* Rules that send packets on to another group. */
struct jump {
    enum dpdk_track_group from;
    uint32_t priority;
    enum dpdk_track_group to;
    struct rte_flow_item items[4];
    bool counts;                    /* Those that are not valid. */
};

#define ITEM(TYPE) { .type = RTE_FLOW_ITEM_TYPE_##TYPE }

static const struct rte_flow_item_conntrack valid = {
    .flags = RTE_FLOW_CONNTRACK_PKT_STATE_VALID,
};

static const struct jump jumps[] = {
    { DPDK_TRACK_GROUP_ROOT, PRIORITY_ROOT_ALL, DPDK_TRACK_GROUP_FLOWS,
      { ITEM(ETH), ITEM(END) }, false },
    { DPDK_TRACK_GROUP_ROOT, PRIORITY_ROOT, DPDK_TRACK_GROUP_CONNS,
      { ITEM(ETH), ITEM(IPV4), ITEM(TCP), ITEM(END) }, false },
    { DPDK_TRACK_GROUP_ROOT, PRIORITY_ROOT, DPDK_TRACK_GROUP_CONNS,
      { ITEM(ETH), ITEM(IPV4), ITEM(UDP), ITEM(END) }, false },
    { DPDK_TRACK_GROUP_ROOT, PRIORITY_ROOT, DPDK_TRACK_GROUP_CONNS,
      { ITEM(ETH), ITEM(IPV6), ITEM(TCP), ITEM(END) }, false },
    { DPDK_TRACK_GROUP_ROOT, PRIORITY_ROOT, DPDK_TRACK_GROUP_CONNS,
      { ITEM(ETH), ITEM(IPV6), ITEM(UDP), ITEM(END) }, false },
    { DPDK_TRACK_GROUP_CONNS, PRIORITY_CONNS_ALL, DPDK_TRACK_GROUP_FLOWS,
      { ITEM(ETH), ITEM(END) }, false },
    { DPDK_TRACK_GROUP_STATE, PRIORITY_ALL, DPDK_TRACK_GROUP_FLOWS,
      { ITEM(ETH), ITEM(END) }, true },
    { DPDK_TRACK_GROUP_STATE, PRIORITY_FIRST, DPDK_TRACK_GROUP_FLOWS,
      { { .type = RTE_FLOW_ITEM_TYPE_CONNTRACK, .spec = &valid,
          .mask = &valid }, ITEM(END) }, false },
};

static int
layout_add_jumps(struct dpdk_track_layout *layout, enum dpdk_track_group from,
                 struct rte_flow_error *error)
{
    int retval = 0;

    for (size_t i = 0; !retval && i < ARRAY_SIZE(jumps); i++) {
        const struct rte_flow_action_count count = { .id = 0 };
        const struct rte_flow_action_jump jump = { .group = jumps[i].to };
        const struct rte_flow_action actions[] = {
            { .type = RTE_FLOW_ACTION_TYPE_COUNT, .conf = &count },
            { .type = RTE_FLOW_ACTION_TYPE_JUMP, .conf = &jump },
            { .type = RTE_FLOW_ACTION_TYPE_END },
        };

        if (jumps[i].from != from) {
            continue;
        }
        retval = layout_add(layout, from, jumps[i].priority, jumps[i].items,
                            &actions[!jumps[i].counts], error);
        if (!retval && jumps[i].counts) {
            layout->invalid = layout->objects[layout->n - 1].rule;
        }
    }
    return retval;
}

static int
layout_add_root(struct dpdk_track_layout *layout, struct rte_flow_error *error)
{
    return layout_add_jumps(layout, DPDK_TRACK_GROUP_ROOT, error);
}

static int
layout_add_conns(struct dpdk_track_layout *layout,
                 struct rte_flow_error *error)
{
    return layout_add_jumps(layout, DPDK_TRACK_GROUP_CONNS, error);
}

/* The last rule of the last group: packets go to the queues as they would
 * without any rule. */
static int
layout_add_flows(struct dpdk_track_layout *layout,
                 struct rte_flow_error *error)
{
    const struct rte_flow_item items[] = { ITEM(ETH), ITEM(END) };
    uint16_t *queues = xmalloc(layout->n_rxq * sizeof *queues);
    const struct rte_flow_action_rss rss = {
        .func = RTE_ETH_HASH_FUNCTION_DEFAULT,
        .types = RTE_ETH_RSS_IP | RTE_ETH_RSS_UDP | RTE_ETH_RSS_TCP,
        .queue_num = layout->n_rxq,
        .queue = queues,
    };
    const struct rte_flow_action actions[] = {
        { .type = RTE_FLOW_ACTION_TYPE_RSS, .conf = &rss },
        { .type = RTE_FLOW_ACTION_TYPE_END },
    };
    int retval;

    for (unsigned int i = 0; i < layout->n_rxq; i++) {
        queues[i] = i;
    }
    retval = layout_add(layout, DPDK_TRACK_GROUP_FLOWS, PRIORITY_ALL,
                        items, actions, error);
    free(queues);
    return retval;
}

/* Finds out how 'layout' can tell when a connection was last used. */
static int
probe_use(struct dpdk_track_layout *layout, struct rte_flow_error *error)
{
    static const unsigned int caps[] = {
        DPDK_TRACK_COUNT | DPDK_TRACK_AGE, DPDK_TRACK_COUNT, DPDK_TRACK_AGE,
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
probe_tcp(struct dpdk_track_layout *layout, struct rte_flow_error *error)
{
    int retval = probe_rule(layout, IPPROTO_TCP, error);

    if (!retval) {
        layout->caps |= DPDK_TRACK_TCP;
    }
    return dpdk_flow_error_is_transient(retval) ? retval : 0;
}

/* Finds out whether 'layout' can track connections, and extends it if so. */
static int
probe_conntrack(struct dpdk_track_layout *layout, struct rte_flow_error *error)
{
    size_t n = layout->n;
    int retval;

    if (!(layout->caps & DPDK_TRACK_TCP && layout->caps & DPDK_TRACK_COUNT)) {
        return 0;
    }
    retval = layout_add_jumps(layout, DPDK_TRACK_GROUP_STATE, error);
    if (!retval) {
        layout->caps |= DPDK_TRACK_CONNTRACK;
        retval = dpdk_track_probe_sharing(layout, layout, error);
    }
    if (retval) {
        layout->caps &= ~DPDK_TRACK_CONNTRACK;
        layout->invalid = NULL;
        layout_truncate(layout, n);
    }
    return dpdk_flow_error_is_transient(retval) ? retval : 0;
}

/* Makes the layout of 'port_id', a port with 'n_rxq' receive queues, and
 * stores it in '*layout', which must be empty, with what the port can do.  See
 * dpdk_flow_error_is_transient() for errors; dpdk_track_layout_destroy() may
 * have something to do even then. */
int
dpdk_track_layout_create(struct dpdk_track_layout *layout, uint16_t port_id,
                         unsigned int n_rxq, struct rte_flow_error *error)
{
    /* Groups that packets come to later come first, so that no packet finds a
     * group without its last rule. */
    static int (*const steps[])(struct dpdk_track_layout *,
                                struct rte_flow_error *) = {
        layout_add_flows, layout_add_conns, probe_use, probe_tcp,
        probe_conntrack, layout_add_root,
    };
    int retval = 0;

    ovs_assert(!layout->n);
    layout->port_id = port_id;
    layout->n_rxq = n_rxq;
    for (size_t i = 0; !retval && i < ARRAY_SIZE(steps); i++) {
        retval = steps[i](layout, error);
    }
    if (retval) {
        dpdk_track_layout_destroy(layout);
    } else {
        layout->n_needed = layout->n;
    }
    return retval;
}

/* Connections. */

/* Has a rule, which is 'tracked' or not, an AGE action on the port of
 * 'layout'?  AGE and CONNTRACK do not go together everywhere. */
bool
dpdk_track_rule_has_age(const struct dpdk_track_layout *layout, bool tracked)
{
    return layout->caps & DPDK_TRACK_AGE && !tracked;
}

/* Creates a rule for packets of 'key' on the port of 'layout' and stores it in
 * '*rule'.  If 'handle' is nonnull, it tracks the connection, and comes before
 * one that does not. */
int
dpdk_track_rule_create(const struct dpdk_track_layout *layout,
                       const struct dpdk_flow_key *key,
                       struct rte_flow_action_handle *handle,
                       struct rte_flow **rule, struct rte_flow_error *error)
{
    const struct rte_flow_attr attr = {
        .group = DPDK_TRACK_GROUP_CONNS,
        .priority = handle ? PRIORITY_TRACKED : PRIORITY_UNTRACKED,
        .ingress = 1,
    };
    const struct rte_flow_action_count count = { .id = 0 };
    const struct rte_flow_action_age age = {
        .timeout = DPDK_FLOW_AGE_TIMEOUT,
    };
    const struct rte_flow_action_jump jump = {
        .group = handle ? DPDK_TRACK_GROUP_STATE : DPDK_TRACK_GROUP_FLOWS,
    };
    const struct {
        bool wanted;
        struct rte_flow_action action;
    } all[] = {
        { layout->caps & DPDK_TRACK_COUNT,
          { .type = RTE_FLOW_ACTION_TYPE_COUNT, .conf = &count } },
        { dpdk_track_rule_has_age(layout, handle),
          { .type = RTE_FLOW_ACTION_TYPE_AGE, .conf = &age } },
        { handle, { .type = RTE_FLOW_ACTION_TYPE_INDIRECT, .conf = handle } },
        { true, { .type = RTE_FLOW_ACTION_TYPE_JUMP, .conf = &jump } },
        { true, { .type = RTE_FLOW_ACTION_TYPE_END } },
    };
    struct rte_flow_action actions[ARRAY_SIZE(all)];
    struct dpdk_flow_pattern pattern;
    size_t n = 0;

    for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
        if (all[i].wanted) {
            actions[n++] = all[i].action;
        }
    }
    dpdk_flow_pattern_init(&pattern, key);
    return dpdk_flow_rule_create(layout->port_id, &attr, pattern.items,
                                 actions, rule, error);
}

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
dpdk_track_handle_create(uint16_t port_id, uint16_t peer_id,
                         const struct ct_offload_tcp_peer peers[2],
                         bool liberal, struct rte_flow_action_handle **handle,
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
    error->message = NULL;
    *handle = rte_flow_action_handle_create(port_id, &conf, &action, error);
    return *handle ? 0 : dpdk_flow_errno();
}

/* Rules that are created with 'handle' from now on are for the reply
 * direction. */
int
dpdk_track_handle_reverse(uint16_t port_id,
                          struct rte_flow_action_handle *handle,
                          struct rte_flow_error *error)
{
    const struct rte_flow_modify_conntrack update = {
        .new_ct.is_original_dir = 0,
        .direction = 1,
    };

    error->message = NULL;
    return (rte_flow_action_handle_update(port_id, handle, &update, error)
            ? dpdk_flow_errno() : 0);
}

/* Destroys 'handle', which no rule uses any more.  If that fails it is still
 * there. */
int
dpdk_track_handle_destroy(uint16_t port_id,
                          struct rte_flow_action_handle *handle,
                          struct rte_flow_error *error)
{
    error->message = NULL;
    return (rte_flow_action_handle_destroy(port_id, handle, error)
            ? dpdk_flow_errno() : 0);
}

/* The same, but tries again for up to a millisecond if that fails. */
int
dpdk_track_handle_destroy_retry(uint16_t port_id,
                                struct rte_flow_action_handle *handle,
                                struct rte_flow_error *error)
{
    unsigned int n = 0;
    int retval;

    do {
        retval = dpdk_track_handle_destroy(port_id, handle, error);
    } while (retval && dpdk_flow_wait_to_retry(retval, ++n));
    return retval;
}
