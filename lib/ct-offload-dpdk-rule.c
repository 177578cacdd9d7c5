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

#include "ct-offload-dpdk-rule.h"

#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <string.h>

#include "ct-offload.h"
#include "guarded-list.h"
#include "hash.h"
#include "openvswitch/dynamic-string.h"
#include "openvswitch/shash.h"
#include "openvswitch/vlog.h"
#include "timeval.h"
#include "util.h"

VLOG_DEFINE_THIS_MODULE(ct_offload_dpdk_rule);

/* How often a call that takes something back is tried at once, if it can be
 * tried again later. */
#define N_TRIES 4

/* Packets that were counted before a counter was read for the first time tell
 * when they passed, near enough, if the rule was not older than this, in ms.
 */
#define YOUNG_MS 60000

/* A connection that hardware tracks.  Its reply direction may arrive at
 * another port. */
struct dpdk_handle {
    struct dpdk_port *port;         /* That of the original direction. */
    struct rte_flow_action_handle *handle;
    struct ovs_refcount n_rules;    /* Rules that use it. */
    struct ovs_list node;           /* In 'port->dead_handles' if none does. */
};

/* One direction of one or more connections.  Protected by the mutex of its
 * port. */
struct dpdk_rule {
    struct hmap_node node;          /* In 'port->rules', by 'key'. */
    struct ovs_list dead_node;      /* In 'port->dead_rules', if it is dead. */
    struct dpdk_flow_key key;
    unsigned int n_conns;           /* That share it.  0 if it is dead. */
    struct rte_flow *flow;
    struct dpdk_handle *handle;     /* Or NULL. */
    long long int created;          /* When, in ms. */
    bool sampled;                   /* Was 'hits' read since then? */
    uint64_t hits;                  /* Packets until then. */
    long long int used;             /* When 'hits' was last found to have
                                     * changed, in ms, or 0. */
};

/* Handles. */

/* Stores in '*handlep' a new handle for 'conn', the directions of which arrive
 * at 'port' and 'peer', for rules of the original direction.  Both are locked.
 */
static int
handle_create(struct dpdk_port *port, struct dpdk_port *peer,
              const struct conn *conn, bool liberal,
              struct dpdk_handle **handlep)
    OVS_REQUIRES(port->mutex)
{
    struct rte_flow_action_handle *flow_handle;
    struct ct_offload_tcp_peer tcp_peers[2];
    struct rte_flow_error error;
    int retval;

    ct_offload_conn_get_tcp_peers(conn, tcp_peers);
    retval = dpdk_track_handle_create(port->layout.port_id,
                                      peer->layout.port_id, tcp_peers, liberal,
                                      &flow_handle, &error);
    if (!retval) {
        struct dpdk_handle *handle = xmalloc(sizeof *handle);

        handle->port = port;
        handle->handle = flow_handle;
        ovs_refcount_init(&handle->n_rules);
        port->n_handles++;
        *handlep = handle;
    }
    return dpdk_port_check(port, DPDK_CALL_HANDLE_CREATE, retval, &error);
}

/* One rule less uses 'handle', which may be NULL.  If it was the last one,
 * dpdk_rules_bury_dead() destroys the handle: its port need not be locked
 * here. */
static void
handle_unref(struct dpdk_handle *handle)
{
    if (handle && ovs_refcount_unref(&handle->n_rules) == 1) {
        guarded_list_push_back(&handle->port->dead_handles, &handle->node,
                               SIZE_MAX);
    }
}

/* Takes a handle from those of 'port' that are dead.  Returns NULL if there is
 * none. */
static struct dpdk_handle *
handle_pop_dead(struct dpdk_port *port)
{
    struct ovs_list *node = guarded_list_pop_front(&port->dead_handles);

    return node ? CONTAINER_OF(node, struct dpdk_handle, node) : NULL;
}

/* Destroys 'handle' of 'port', which is dead.  If that fails it stays so, and
 * this returns false. */
static bool
handle_destroy(struct dpdk_port *port, struct dpdk_handle *handle)
    OVS_REQUIRES(port->mutex)
{
    struct rte_flow_error error;
    int retval, n = 0;

    do {
        retval = dpdk_track_handle_destroy(port->layout.port_id,
                                           handle->handle, &error);
        dpdk_port_check(port, DPDK_CALL_HANDLE_DESTROY, retval, &error);
    } while (retval && ++n < N_TRIES);
    if (retval) {
        guarded_list_push_back(&port->dead_handles, &handle->node, SIZE_MAX);
        return false;
    }
    port->n_handles--;
    free(handle);
    return true;
}

/* Rules. */

static uint32_t
key_hash(const struct dpdk_flow_key *key)
{
    return hash_bytes(key, sizeof *key, 0);
}

/* Returns the rule of 'port' for 'key' that tracks a connection or, unless
 * 'tracked', the one that does not.  Returns NULL if there is none. */
static struct dpdk_rule *
rule_find(struct dpdk_port *port, const struct dpdk_flow_key *key,
          bool tracked)
    OVS_REQUIRES(port->mutex)
{
    struct dpdk_rule *rule;

    HMAP_FOR_EACH_WITH_HASH (rule, node, key_hash(key), &port->rules) {
        if (!rule->handle == !tracked
            && !memcmp(&rule->key, key, sizeof *key)) {
            return rule;
        }
    }
    return NULL;
}

/* Creates a rule on 'port' for 'key', which tracks the connection of 'handle',
 * in reply direction if 'reply', if that is nonnull, and stores it in
 * '*rulep'.  'port' and 'handle->port' are locked. */
static int
rule_create(struct dpdk_port *port, const struct dpdk_flow_key *key,
            struct dpdk_handle *handle, bool reply, struct dpdk_rule **rulep)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    struct rte_flow_error error;
    struct dpdk_rule *rule;
    struct rte_flow *flow;
    int retval;

    if (handle && reply) {
        /* A handle is for the original direction first, and has one rule for
         * that, and one for this direction. */
        retval = dpdk_track_handle_reverse(handle->port->layout.port_id,
                                           handle->handle, &error);
        if (dpdk_port_check(handle->port, DPDK_CALL_HANDLE_UPDATE, retval,
                            &error)) {
            return retval;
        }
    }
    retval = dpdk_track_rule_create(&port->layout, key,
                                    handle ? handle->handle : NULL, &flow,
                                    &error);
    if (dpdk_port_check(port, DPDK_CALL_CREATE, retval, &error)) {
        return retval;
    }

    *rulep = rule = xzalloc(sizeof *rule);
    rule->key = *key;
    rule->n_conns = 1;
    rule->created = time_msec();
    rule->flow = flow;
    rule->handle = handle;
    hmap_insert(&port->rules, &rule->node, key_hash(key));
    ovs_list_init(&rule->dead_node);
    if (handle) {
        ovs_refcount_ref(&handle->n_rules);
    }
    return 0;
}

/* Frees 'rule' of 'port'. */
static void
rule_forget(struct dpdk_port *port, struct dpdk_rule *rule)
    OVS_REQUIRES(port->mutex)
{
    hmap_remove(&port->rules, &rule->node);
    ovs_list_remove(&rule->dead_node);
    handle_unref(rule->handle);
    free(rule);
}

/* Destroys 'rule' of 'port', which no connection has any more.  Returns false
 * if that fails. */
static bool
rule_destroy(struct dpdk_port *port, struct dpdk_rule *rule, int n_tries)
    OVS_REQUIRES(port->mutex)
{
    struct rte_flow_error error;
    int retval;

    do {
        retval = dpdk_flow_rule_destroy(port->layout.port_id, rule->flow,
                                        &error);
        dpdk_port_check(port, DPDK_CALL_DESTROY, retval, &error);
    } while (retval && --n_tries);
    if (!retval) {
        rule_forget(port, rule);
    }
    return !retval;
}

/* Destroys those rules of 'port' for 'key' that no connection has any more.
 * Returns 0 or, if that fails, EBUSY: they would take packets of others. */
static int
rule_bury(struct dpdk_port *port, const struct dpdk_flow_key *key)
    OVS_REQUIRES(port->mutex)
{
    for (int tracked = 0; tracked < 2; tracked++) {
        struct dpdk_rule *rule = rule_find(port, key, tracked);

        if (rule && !rule->n_conns && !rule_destroy(port, rule, 1)) {
            return EBUSY;
        }
    }
    return 0;
}

/* Gets rid of what nobody needs any more on 'port', as far as possible: what
 * could not be destroyed before, and handles. */
void
dpdk_rules_bury_dead(struct dpdk_port *port)
{
    struct dpdk_handle *handle;
    struct dpdk_rule *rule;

    dpdk_track_layout_tidy(&port->layout);
    LIST_FOR_EACH_SAFE (rule, dead_node, &port->dead_rules) {
        if (!rule_destroy(port, rule, 1)) {
            break;
        }
    }
    do {
        handle = handle_pop_dead(port);
    } while (handle && handle_destroy(port, handle));
}

/* Use. */

/* Stores in '*hits' how many packets hardware has counted for 'rule' of
 * 'port', and notes whether it counts at all.  Returns false if that is not to
 * be had. */
static bool
rule_get_hits(struct dpdk_port *port, const struct dpdk_rule *rule,
              uint64_t *hits)
    OVS_REQUIRES(port->mutex)
{
    struct rte_flow_error error;
    int retval = dpdk_flow_rule_get_hits(port->layout.port_id, rule->flow,
                                         hits, &error);

    if (dpdk_port_check(port, DPDK_CALL_QUERY, retval, &error)) {
        return false;
    }
    if (*hits && (rule->handle
                  || !(port->layout.caps & DPDK_TRACK_CONNTRACK))) {
        port->verified = true;
    }
    return true;
}

/* Returns when hardware has last followed 'rule' of 'port', or 0 if that is
 * not known at time 'now', in ms. */
static long long int
rule_last_hit(struct dpdk_port *port, struct dpdk_rule *rule,
              long long int now)
    OVS_REQUIRES(port->mutex)
{
    if (dpdk_track_rule_has_age(&port->layout, rule->handle)) {
        struct rte_flow_error error;
        unsigned int seconds;
        int retval = dpdk_flow_rule_get_idle(port->layout.port_id, rule->flow,
                                             &seconds, &error);

        if (!dpdk_port_check(port, DPDK_CALL_QUERY, retval, &error)
            && seconds != UINT_MAX) {
            return MAX(rule->used, now - seconds * 1000LL);
        }
    } else {
        uint64_t hits;

        if (rule_get_hits(port, rule, &hits)) {
            /* The layer asks twice before it lets a connection go.  What
             * passed before the first time may have been long ago. */
            if (hits != rule->hits
                && (rule->sampled || now - rule->created <= YOUNG_MS)) {
                rule->used = now;
            }
            rule->sampled = true;
            rule->hits = hits;
        }
    }
    return rule->used;
}

/* Returns when a packet that 'rule' of 'port' is for has last passed, or 0 if
 * that is not known at time 'now', in ms: as long as there is a rule for the
 * same packets that tracks, hardware follows that one. */
long long int
dpdk_rule_last_used(struct dpdk_port *port, struct dpdk_rule *rule,
                    long long int now)
{
    struct dpdk_rule *other = (rule->handle ? NULL
                               : rule_find(port, &rule->key, true));
    long long int used = rule_last_hit(port, rule, now);

    return other ? MAX(used, rule_last_hit(port, other, now)) : used;
}

/* Appends to 'ds' what there is to say about 'rule' of 'port'. */
void
dpdk_rule_format(struct dpdk_port *port, const struct dpdk_rule *rule,
                 struct ds *ds)
{
    uint64_t hits;

    ds_put_format(ds, "port %s, %s", port->name,
                  rule->handle ? "tracked" : "not tracked");
    if (port->layout.caps & DPDK_TRACK_COUNT
        && rule_get_hits(port, rule, &hits)) {
        ds_put_format(ds, ", %"PRIu64" packets", hits);
    }
    if (rule->n_conns > 1) {
        ds_put_format(ds, ", shared by %u connections", rule->n_conns);
    }
}

/* Returns how many rules of 'port' more than one connection has, and finds out
 * whether a few of its rules count packets, unless that is known. */
size_t
dpdk_rules_survey(struct dpdk_port *port)
{
    const struct dpdk_rule *rule;
    size_t n_shared = 0;
    int n_asked = 0;
    uint64_t hits;

    HMAP_FOR_EACH (rule, node, &port->rules) {
        n_shared += rule->n_conns > 1;
        if (!port->verified && n_asked++ < 16) {
            rule_get_hits(port, rule, &hits);
        }
    }
    return n_shared;
}

/* Connections. */

/* Says in '*trackedp' whether 'conn', with 'keys' on 'ports', can be tracked,
 * and stores a handle in '*handlep' if it takes a new one.  The ports are
 * locked. */
static int
conn_track(struct dpdk_port *const ports[2],
           const struct dpdk_flow_key keys[2], const struct conn *conn,
           bool liberal, bool *trackedp, struct dpdk_handle **handlep)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    struct dpdk_rule *orig = rule_find(ports[0], &keys[0], true);
    struct dpdk_rule *reply = rule_find(ports[1], &keys[1], true);

    if (orig || reply) {
        /* No two connections that can be tracked have one direction in common
         * and the other one not: NAT hides it from one of them. */
        *trackedp = orig && reply && orig->handle == reply->handle;
        return 0;
    }
    *trackedp = dpdk_ports_share_handles(ports[0], ports[1]);
    return (*trackedp
            ? handle_create(ports[0], ports[1], conn, liberal, handlep)
            : 0);
}

/* Creates, or finds, and stores in 'rules' the rules of 'conn', with 'keys' on
 * 'ports', without the directions whose port is NULL.  If it is to be tracked,
 * hardware does not insist on its TCP windows if 'liberal'.  Returns 0 or a
 * positive errno value; after an error the caller has to release what there
 * is.  dpdk_rules_bury_dead() may have something to do then. */
int
dpdk_rules_create(struct dpdk_port *const ports[2],
                  const struct dpdk_flow_key keys[2], const struct conn *conn,
                  bool liberal, struct dpdk_rule *rules[2])
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    struct dpdk_handle *handle = NULL;
    bool tracked = false;
    int error = 0;

    for (int i = 0; i < 2 && !error; i++) {
        if (ports[i]) {
            error = rule_bury(ports[i], &keys[i]);
        }
    }
    if (!error && keys[0].ip_proto == IPPROTO_TCP && ports[0] && ports[1]) {
        error = conn_track(ports, keys, conn, liberal, &tracked, &handle);
    }
    for (int i = 0; i < 2 && !error; i++) {
        if (!ports[i]) {
            continue;
        }
        rules[i] = rule_find(ports[i], &keys[i], tracked);
        if (rules[i]) {
            rules[i]->n_conns++;
            ports[i]->n_shared++;
        } else {
            error = rule_create(ports[i], &keys[i], handle, i, &rules[i]);
        }
    }
    handle_unref(handle);
    return error;
}

/* A connection does not have 'rule' of 'port' any more: destroys it if no
 * other one has it, or leaves that to dpdk_rules_bury_dead(), which may have a
 * handle to destroy, too. */
void
dpdk_rule_release(struct dpdk_port *port, struct dpdk_rule *rule)
{
    uint64_t hits;

    if (!port->verified) {
        rule_get_hits(port, rule, &hits);
    }
    if (--rule->n_conns) {
        return;
    }
    if (rule->handle) {
        struct dpdk_rule *other = rule_find(port, &rule->key, false);

        if (other && other->n_conns) {
            other->used = dpdk_rule_last_used(port, other, time_msec());
        }
    }
    if (!rule_destroy(port, rule, N_TRIES)) {
        ovs_list_push_back(&port->dead_rules, &rule->dead_node);
    }
}

/* Ports that stop. */

/* Destroys those rules of 'port' that use a handle of 'owner' or, if that is
 * NULL, all rules, or forgets those that cannot be destroyed.  Returns whether
 * 'port' has handles. */
static bool
flush_rules(struct dpdk_port *port, const struct dpdk_port *owner)
{
    struct dpdk_rule *rule;
    bool handles;

    ovs_mutex_lock(&port->mutex);
    HMAP_FOR_EACH_SAFE (rule, node, &port->rules) {
        struct rte_flow_error error;
        int retval;

        if (owner && (!rule->handle || rule->handle->port != owner)) {
            continue;
        }
        if (rule->n_conns) {
            VLOG_ERR("%s: a rule is left though its connection is not",
                     port->name);
        }
        retval = dpdk_flow_rule_destroy_retry(port->layout.port_id, rule->flow,
                                              &error);
        if (dpdk_port_check(port, DPDK_CALL_DESTROY, retval, &error)) {
            VLOG_ERR("%s: a rule could not be destroyed", port->name);
        }
        rule_forget(port, rule);
    }
    handles = port->n_handles != 0;
    ovs_mutex_unlock(&port->mutex);
    return handles;
}

/* Destroys or forgets all that connections have made on 'port', which is about
 * to stop. */
void
dpdk_rules_flush(struct dpdk_port *port)
{
    struct shash peers = SHASH_INITIALIZER(&peers);
    const struct shash_node *node;
    struct dpdk_handle *handle;

    if (flush_rules(port, NULL)) {
        /* Rules of other ports that could not be destroyed before may use
         * them. */
        dpdk_ports_get_all(&peers);
    }
    SHASH_FOR_EACH (node, &peers) {
        flush_rules(node->data, port);
    }
    shash_destroy(&peers);

    ovs_mutex_lock(&port->mutex);
    while ((handle = handle_pop_dead(port)) != NULL) {
        struct rte_flow_error error;
        int retval = dpdk_track_handle_destroy_retry(port->layout.port_id,
                                                     handle->handle, &error);

        if (dpdk_port_check(port, DPDK_CALL_HANDLE_DESTROY, retval, &error)) {
            VLOG_ERR("%s: a handle could not be destroyed", port->name);
        }
        port->n_handles--;
        free(handle);
    }
    ovs_mutex_unlock(&port->mutex);
}
