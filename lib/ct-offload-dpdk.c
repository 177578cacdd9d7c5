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

#include "ct-offload-dpdk.h"

#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <string.h>

#include "cmap.h"
#include "ct-offload-dpdk-flow.h"
#include "ct-offload.h"
#include "hash.h"
#include "netdev-dpdk.h"
#include "netdev-provider.h"
#include "netdev.h"
#include "openvswitch/dynamic-string.h"
#include "openvswitch/hmap.h"
#include "openvswitch/json.h"
#include "openvswitch/list.h"
#include "openvswitch/shash.h"
#include "openvswitch/vlog.h"
#include "ovs-atomic.h"
#include "ovs-rcu.h"
#include "ovs-thread.h"
#include "packets.h"
#include "timeval.h"
#include "unixctl.h"
#include "util.h"

VLOG_DEFINE_THIS_MODULE(ct_offload_dpdk);

static struct vlog_rate_limit rl = VLOG_RATE_LIMIT_INIT(5, 5);

/* Packets that were counted before a counter was read for the first time tell
 * when they passed, near enough, if the rule was not older than this, in ms.
 */
#define YOUNG_MS 60000

/* Overview
 * ========
 *
 * All of this is for hardware that forwards packets of connections by itself
 * once it has rules for them.  Ingress rules alone see what software sees and
 * buy nothing, so that nothing is programmed unless the operator says that
 * there is such hardware: other_config:hw-offload-ct-bypass.  What every port
 * needs for that, its layout, stays until the port stops, since
 * dpif-offload-dpdk's rules depend on it.
 *
 * A connection that is established gets one rule for each direction, on the
 * port that packets of the direction arrive at: see ct-offload-dpdk-flow.h for
 * what a rule does.  A direction whose port cannot have one is left out; the
 * connection is "uni-dir" then.  If anything fails, the connection has no rule
 * at all, and the provider does not hold it: it goes on in software.
 *
 * A TCP connection that has both directions on one port, or on ports that can
 * share the handle of a tracked connection, is tracked by hardware.  Rules
 * that share such a handle are created and destroyed with both ports locked.
 *
 * Connections with the same packets, in two zones, share rules, but a
 * connection that is tracked does not share any with one that is not: with
 * SNAT, one zone may see both directions as they are on the wire, and another
 * only one.  So what rules there are does not depend on which of them came
 * first.  There can be two rules for the same packets then.  Hardware follows
 * the one that tracks, and its packets count as use of both.
 *
 * Threads
 * =======
 *
 * Callbacks run in several threads at once.  A port is found without a lock,
 * and has a mutex for all that is about it.  If two are needed, the one at the
 * lower address is locked first.  'ports_mutex' comes before those, and is
 * for the appearance and disappearance of ports alone.
 *
 * dpdk_netdev_flush() removes a port when it is about to stop, at a time when
 * no connection refers to it any more.  The netdev has no owner in
 * dpif-offload then, so that it cannot get another port. */

/* Calls of rte_flow that can fail. */
enum dpdk_call {
    CALL_LAYOUT,
    CALL_CREATE,
    CALL_DESTROY,
    CALL_QUERY,
    CALL_HANDLE_CREATE,
    CALL_HANDLE_UPDATE,
    CALL_HANDLE_DESTROY,
    N_CALLS
};

static const char *const call_names[N_CALLS] = {
    [CALL_LAYOUT] = "layout",
    [CALL_CREATE] = "create",
    [CALL_DESTROY] = "destroy",
    [CALL_QUERY] = "query",
    [CALL_HANDLE_CREATE] = "handle-create",
    [CALL_HANDLE_UPDATE] = "handle-update",
    [CALL_HANDLE_DESTROY] = "handle-destroy",
};

/* How often a call that takes something back is tried at once, if it can be
 * tried again later. */
#define N_TRIES 4

/* How long to wait before a port that failed is tried again, in ms. */
#define RETRY_INTERVAL 1000

/* What is known of a port. */
enum dpdk_port_state {
    PORT_UNKNOWN,                   /* Nothing yet. */
    PORT_REFUSED,                   /* Cannot do anything. */
    PORT_UDP_ONLY,                  /* 'layout' is there, without TCP. */
    PORT_READY,                     /* 'layout' is there. */
};

struct dpdk_port {
    struct cmap_node node;          /* In 'ports', by 'netdev'. */
    struct netdev *netdev;          /* Valid until the port is 'gone'. */
    char *name;
    ATOMIC(enum dpdk_port_state) state; /* Written with 'mutex'. */

    struct ovs_mutex mutex;         /* For all that follows. */
    bool gone;                      /* Not in 'ports' any more. */
    bool verified;                  /* A rule has counted packets. */
    long long int retry_at;         /* When to try to make 'layout' again. */
    struct dpdk_flow_layout layout;
    struct hmap rules;              /* Of struct dpdk_rule. */
    struct ovs_list dead_rules;     /* Those that could not be destroyed. */
    struct ovs_list handles;        /* Of struct dpdk_handle. */
    struct ovs_list dead_handles;   /* Those that could not be destroyed. */
    struct dpdk_peer *peers;
    size_t n_peers;

    /* Statistics. */
    unsigned int n_handles;
    unsigned int n_bi_dir;          /* Connections with two rules... */
    unsigned int n_uni_dir;         /* ...or one, that began here. */
    unsigned long long int n_shared; /* Times that a rule was shared. */
    unsigned long long int errors[N_CALLS];
};

/* Can a port share handles with another one? */
struct dpdk_peer {
    uint16_t port_id;               /* The other one. */
    unsigned int epoch;             /* Valid if it is the present one. */
    bool shares;
};

/* A connection that hardware tracks.  Protected by the mutex of 'port', and
 * used in rules of 'port' and 'peer' only. */
struct dpdk_handle {
    struct ovs_list node;           /* In 'handles' or 'dead_handles'. */
    struct dpdk_port *port;         /* That of the original direction. */
    struct dpdk_port *peer;         /* That of the reply direction. */
    struct rte_flow_action_handle *handle;
    struct ovs_list rules;          /* That use it. */
};

/* One direction of one or more connections.  Protected by the mutex of 'port',
 * but for 'handle_node'. */
struct dpdk_rule {
    struct hmap_node node;          /* In 'port->rules', by 'key'. */
    struct ovs_list list_node;      /* In 'port->dead_rules', or in the list of
                                     * rules that were destroyed. */
    struct dpdk_port *port;
    struct dpdk_flow_key key;
    unsigned int n_conns;           /* That share it.  0 if it is dead. */
    struct rte_flow *flow;
    struct dpdk_handle *handle;     /* Or NULL. */
    struct ovs_list handle_node;    /* In 'handle->rules'. */
    bool reply;                     /* Direction, as 'handle' knows it. */
    bool has_age;
    long long int created;          /* When, in ms. */
    bool sampled;                   /* Was 'hits' read since then? */
    uint64_t hits;                  /* Packets until then. */
    long long int used;             /* When 'hits' was last found to have
                                     * changed, in ms, or 0. */
};

/* What '*ctx->priv' points to. */
struct dpdk_conn {
    struct dpdk_port *ports[2];     /* Of original and reply direction; NULL if
                                     * the direction is left out. */
    struct dpdk_rule *rules[2];     /* The same. */
    ovs_be16 vlan_vid;              /* Of the original direction. */
    bool tagged;
};

static struct ovs_mutex ports_mutex = OVS_MUTEX_INITIALIZER;
static struct cmap ports = CMAP_INITIALIZER;

/* Changes whenever what is known of peers may not be true any more. */
static atomic_uint peers_epoch = 0;

/* Errors of ports that are gone. */
static unsigned long long int past_errors[N_CALLS] OVS_GUARDED_BY(ports_mutex);

/* Does hardware not insist on TCP windows? */
static atomic_bool liberal = true;

/* Is the provider registered? */
static atomic_bool running = false;

/* Errors. */

/* 'call' has failed with 'error' on 'port'. */
static void
port_count_error(struct dpdk_port *port, enum dpdk_call call,
                 const struct rte_flow_error *error, int retval)
    OVS_REQUIRES(port->mutex)
{
    port->errors[call]++;
    VLOG_WARN_RL(&rl, "%s: %s failed: %s%s%s%s", port->name, call_names[call],
                 ovs_strerror(retval), error->message ? " (" : "",
                 error->message ? error->message : "",
                 error->message ? ")" : "");
}

/* Ports. */

static struct dpdk_port *
port_find(const struct netdev *netdev)
{
    struct dpdk_port *port;

    CMAP_FOR_EACH_WITH_HASH (port, node, hash_pointer(netdev, 0), &ports) {
        if (port->netdev == netdev) {
            return port;
        }
    }
    return NULL;
}

static bool
netdev_is_ours(const struct netdev *netdev)
{
    const char *owner = ct_offload_netdev_owner(netdev);

    return owner && !strcmp(owner, ct_offload_dpdk_class.name);
}

static struct dpdk_port *
port_create(struct netdev *netdev)
    OVS_REQUIRES(ports_mutex)
{
    struct dpdk_port *port = xzalloc(sizeof *port);

    port->netdev = netdev;
    port->name = xstrdup(netdev_get_name(netdev));
    atomic_init(&port->state, PORT_UNKNOWN);
    ovs_mutex_init(&port->mutex);
    hmap_init(&port->rules);
    ovs_list_init(&port->dead_rules);
    ovs_list_init(&port->handles);
    ovs_list_init(&port->dead_handles);
    cmap_insert(&ports, &port->node, hash_pointer(netdev, 0));
    return port;
}

static void
port_free(struct dpdk_port *port)
{
    dpdk_flow_layout_forget(&port->layout);
    hmap_destroy(&port->rules);
    ovs_mutex_destroy(&port->mutex);
    free(port->peers);
    free(port->name);
    free(port);
}

/* Returns the port of 'netdev', or NULL if it cannot have one.  It stays valid
 * until the thread quiesces. */
static struct dpdk_port *
port_get(struct netdev *netdev)
{
    struct dpdk_port *port = port_find(netdev);
    bool run;

    if (OVS_LIKELY(port)) {
        return port;
    }

    ovs_mutex_lock(&ports_mutex);
    atomic_read_relaxed(&running, &run);
    port = port_find(netdev);
    if (!port && run && netdev_is_ours(netdev)) {
        port = port_create(netdev);
    }
    ovs_mutex_unlock(&ports_mutex);

    return port;
}

/* The same, but for a 'netdev' that may be NULL or not one of ours. */
static struct dpdk_port *
port_get_ours(struct netdev *netdev)
{
    return netdev_is_ours(netdev) ? port_get(netdev) : NULL;
}

static enum dpdk_port_state
port_get_state(struct dpdk_port *port)
{
    enum dpdk_port_state state;

    atomic_read_relaxed(&port->state, &state);
    return state;
}

/* Does 'port' have its layout? */
static bool
port_is_ready(struct dpdk_port *port)
{
    return port_get_state(port) >= PORT_UDP_ONLY;
}

/* Can 'port', which is ready, have rules for 'ip_proto'? */
static bool
port_can_match(struct dpdk_port *port, uint8_t ip_proto)
{
    return ip_proto == IPPROTO_UDP || port_get_state(port) == PORT_READY;
}

static const char *
caps_to_string(unsigned int caps)
{
    unsigned int use = caps & (DPDK_FLOW_COUNT | DPDK_FLOW_AGE);

    return (caps & DPDK_FLOW_CONNTRACK ? "conntrack"
            : use == (DPDK_FLOW_COUNT | DPDK_FLOW_AGE) ? "count+age"
            : use == DPDK_FLOW_COUNT ? "count"
            : use == DPDK_FLOW_AGE ? "age"
            : "none");
}

/* Sees to it that 'port' has its layout.  Returns 0 or a positive errno value,
 * one for which dpdk_flow_error_is_transient() is true if it may have one
 * later. */
static int
port_make_ready(struct dpdk_port *port)
    OVS_REQUIRES(port->mutex)
{
    struct rte_flow_error error;
    uint16_t port_id;
    int retval;

    if (port_is_ready(port)) {
        return 0;
    }
    if (port->gone || port_get_state(port) == PORT_REFUSED) {
        return ENODEV;
    }
    if (time_msec() < port->retry_at
        || !netdev_dpdk_get_started_port(port->netdev, &port_id)) {
        return EAGAIN;
    }

    error.message = NULL;
    retval = (dpdk_flow_layout_destroy(&port->layout) ? EBUSY
              : dpdk_flow_layout_create(&port->layout, port_id,
                                        netdev_n_rxq(port->netdev), &error));
    if (!retval) {
        bool tcp = port->layout.caps & DPDK_FLOW_TCP;

        atomic_store_relaxed(&port->state, tcp ? PORT_READY : PORT_UDP_ONLY);
        VLOG_INFO("%s: can offload connections (%s%s)", port->name,
                  caps_to_string(port->layout.caps), tcp ? "" : ", UDP only");
    } else if (dpdk_flow_error_is_transient(retval)) {
        port_count_error(port, CALL_LAYOUT, &error, retval);
        port->retry_at = time_msec() + RETRY_INTERVAL;
    } else {
        atomic_store_relaxed(&port->state, PORT_REFUSED);
        VLOG_INFO("%s: cannot offload connections: %s%s%s%s", port->name,
                  ovs_strerror(retval), error.message ? " (" : "",
                  error.message ? error.message : "",
                  error.message ? ")" : "");
    }
    return retval;
}

/* Locks 'a' and 'b', either of which may be NULL, and which may be the same.
 */
static void
ports_lock(struct dpdk_port *a, struct dpdk_port *b)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    struct dpdk_port *first = a < b ? a : b;
    struct dpdk_port *second = a < b ? b : a;

    if (first && first != second) {
        ovs_mutex_lock(&first->mutex);
    }
    if (second) {
        ovs_mutex_lock(&second->mutex);
    }
}

static void
ports_unlock(struct dpdk_port *a, struct dpdk_port *b)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    if (a) {
        ovs_mutex_unlock(&a->mutex);
    }
    if (b && b != a) {
        ovs_mutex_unlock(&b->mutex);
    }
}

/* Can a connection be tracked whose directions arrive at 'a' and 'b'?  Both
 * are locked. */
static bool
ports_share_handles(struct dpdk_port *a, struct dpdk_port *b)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    struct dpdk_peer *peer = NULL;
    struct rte_flow_error error;
    unsigned int epoch;
    int retval;

    if (!(a->layout.caps & b->layout.caps & DPDK_FLOW_CONNTRACK)) {
        return false;
    }
    if (a == b) {
        return true;
    }

    atomic_read_explicit(&peers_epoch, &epoch, memory_order_acquire);
    for (size_t i = 0; i < a->n_peers; i++) {
        if (a->peers[i].port_id == b->layout.port_id) {
            peer = &a->peers[i];
        }
    }
    if (peer && peer->epoch == epoch) {
        return peer->shares;
    }

    error.message = NULL;
    retval = dpdk_flow_probe_sharing(&a->layout, &b->layout, &error);
    if (dpdk_flow_error_is_transient(retval)) {
        port_count_error(a, CALL_LAYOUT, &error, retval);
        return false;
    }
    if (!peer) {
        a->peers = xrealloc(a->peers, (a->n_peers + 1) * sizeof *a->peers);
        peer = &a->peers[a->n_peers++];
        peer->port_id = b->layout.port_id;
    }
    peer->epoch = epoch;
    peer->shares = !retval;
    return peer->shares;
}

/* Handles. */

/* Frees 'handle' of 'port'. */
static void
handle_forget(struct dpdk_port *port, struct dpdk_handle *handle)
    OVS_REQUIRES(port->mutex)
{
    ovs_list_remove(&handle->node);
    port->n_handles--;
    free(handle);
}

/* Destroys 'handle' of 'port', which no rule uses.  Returns false if that
 * fails. */
static bool
handle_destroy(struct dpdk_port *port, struct dpdk_handle *handle, int n_tries)
    OVS_REQUIRES(port->mutex)
{
    struct rte_flow_error error;
    int retval = 0;

    for (int i = 0; i < n_tries; i++) {
        error.message = NULL;
        retval = dpdk_flow_handle_destroy(port->layout.port_id, handle->handle,
                                          &error);
        if (!retval) {
            break;
        }
        port_count_error(port, CALL_HANDLE_DESTROY, &error, retval);
    }
    if (retval) {
        return false;
    }
    handle_forget(port, handle);
    return true;
}

/* Destroys 'handle' of 'port', which no rule uses, or leaves that to
 * port_bury_dead(). */
static void
handle_release(struct dpdk_port *port, struct dpdk_handle *handle)
    OVS_REQUIRES(port->mutex)
{
    if (!handle_destroy(port, handle, N_TRIES)) {
        ovs_list_remove(&handle->node);
        ovs_list_push_back(&port->dead_handles, &handle->node);
    }
}

/* Returns a new handle for 'conn', the directions of which arrive at 'port'
 * and 'peer', for rules of the original direction.  Returns NULL if that
 * fails.  Both are locked. */
static struct dpdk_handle *
handle_create(struct dpdk_port *port, struct dpdk_port *peer,
              const struct conn *conn, int *errorp)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    struct rte_flow_action_handle *flow_handle;
    struct ct_offload_tcp_peer tcp_peers[2];
    struct rte_flow_error error;
    struct dpdk_handle *handle;
    bool lenient;
    int retval;

    atomic_read_relaxed(&liberal, &lenient);
    ct_offload_conn_get_tcp_peers(conn, tcp_peers);
    error.message = NULL;
    retval = dpdk_flow_handle_create(port->layout.port_id,
                                     peer->layout.port_id, tcp_peers, lenient,
                                     &flow_handle, &error);
    if (retval) {
        port_count_error(port, CALL_HANDLE_CREATE, &error, retval);
        *errorp = retval;
        return NULL;
    }

    handle = xzalloc(sizeof *handle);
    handle->port = port;
    handle->peer = peer;
    handle->handle = flow_handle;
    ovs_list_init(&handle->rules);
    ovs_list_push_back(&port->handles, &handle->node);
    port->n_handles++;
    return handle;
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

/* Moves 'rule' from what there is on 'port' to 'destroyed'. */
static void
rule_forget(struct dpdk_port *port, struct dpdk_rule *rule,
            struct ovs_list *destroyed)
    OVS_REQUIRES(port->mutex)
{
    hmap_remove(&port->rules, &rule->node);
    ovs_list_remove(&rule->list_node);
    ovs_list_push_back(destroyed, &rule->list_node);
}

/* Destroys 'rule' of 'port', which no connection has any more, and moves it to
 * 'destroyed', for rules_free().  Returns false if that fails. */
static bool
rule_destroy(struct dpdk_port *port, struct dpdk_rule *rule, int n_tries,
             struct ovs_list *destroyed)
    OVS_REQUIRES(port->mutex)
{
    struct rte_flow_error error;
    int retval = 0;

    for (int i = 0; i < n_tries; i++) {
        error.message = NULL;
        retval = dpdk_flow_rule_destroy(port->layout.port_id, rule->flow,
                                        &error);
        if (!retval) {
            break;
        }
        port_count_error(port, CALL_DESTROY, &error, retval);
    }
    if (retval) {
        return false;
    }
    rule_forget(port, rule, destroyed);
    return true;
}


/* Frees the rules in 'destroyed', and destroys the handles that no rule uses
 * any more.  No port may be locked. */
static void
rules_free(struct ovs_list *destroyed)
{
    struct dpdk_rule *rule;

    LIST_FOR_EACH_POP (rule, list_node, destroyed) {
        struct dpdk_handle *handle = rule->handle;

        if (handle) {
            struct dpdk_port *port = handle->port;

            ovs_mutex_lock(&port->mutex);
            ovs_list_remove(&rule->handle_node);
            if (ovs_list_is_empty(&handle->rules)) {
                handle_release(port, handle);
            }
            ovs_mutex_unlock(&port->mutex);
        }
        free(rule);
    }
}

/* Destroys those rules of 'port' for 'key' that no connection has any more.
 * Returns 0 or, if that fails, EBUSY: they would take packets of others. */
static int
rule_bury(struct dpdk_port *port, const struct dpdk_flow_key *key,
          struct ovs_list *destroyed)
    OVS_REQUIRES(port->mutex)
{
    for (int tracked = 0; tracked < 2; tracked++) {
        struct dpdk_rule *rule = rule_find(port, key, tracked);

        if (rule && !rule->n_conns
            && !rule_destroy(port, rule, 1, destroyed)) {
            return EBUSY;
        }
    }
    return 0;
}

/* Creates a rule on 'port' for 'key', which tracks the connection of 'handle',
 * in reply direction if 'reply', if that is nonnull.  Returns NULL if that
 * fails, with the reason in '*errorp'.  'port' and 'handle->port' are
 * locked. */
static struct dpdk_rule *
rule_create(struct dpdk_port *port, const struct dpdk_flow_key *key,
            struct dpdk_handle *handle, bool reply, int *errorp)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    struct rte_flow_error error;
    struct rte_flow *flow;
    struct dpdk_rule *rule;
    int retval;

    error.message = NULL;
    if (handle && reply) {
        /* A handle is for the original direction first, and has one rule for
         * that, and one for this direction. */
        retval = dpdk_flow_handle_set_direction(handle->port->layout.port_id,
                                                handle->handle, true, &error);
        if (retval) {
            port_count_error(handle->port, CALL_HANDLE_UPDATE, &error, retval);
            *errorp = retval;
            return NULL;
        }
    }
    retval = dpdk_flow_rule_create(&port->layout, key,
                                   handle ? handle->handle : NULL, &flow,
                                   &error);
    if (retval) {
        port_count_error(port, CALL_CREATE, &error, retval);
        *errorp = retval;
        return NULL;
    }

    rule = xzalloc(sizeof *rule);
    rule->port = port;
    rule->key = *key;
    rule->n_conns = 1;
    rule->created = time_msec();
    rule->flow = flow;
    rule->handle = handle;
    rule->reply = reply;
    rule->has_age = dpdk_flow_rule_has_age(&port->layout,
                                           handle ? handle->handle : NULL);
    hmap_insert(&port->rules, &rule->node, key_hash(key));
    ovs_list_init(&rule->list_node);
    if (handle) {
        ovs_list_push_back(&handle->rules, &rule->handle_node);
    }
    return rule;
}

/* Stores in '*hits' how many packets hardware has counted for 'rule' of
 * 'port'.  Returns false if that is not to be had. */
static bool
rule_get_hits(struct dpdk_port *port, const struct dpdk_rule *rule,
              uint64_t *hits)
    OVS_REQUIRES(port->mutex)
{
    struct rte_flow_error error;
    int retval;

    error.message = NULL;
    retval = dpdk_flow_rule_get_hits(port->layout.port_id, rule->flow, hits,
                                     &error);
    if (retval) {
        port_count_error(port, CALL_QUERY, &error, retval);
        return false;
    }
    if (*hits && (rule->handle
                  || !(port->layout.caps & DPDK_FLOW_CONNTRACK))) {
        port->verified = true;
    }
    return true;
}

/* Finds out whether 'rule' of 'port' counts packets, unless that is known of
 * the port. */
static void
rule_verify(struct dpdk_port *port, const struct dpdk_rule *rule)
    OVS_REQUIRES(port->mutex)
{
    uint64_t hits;

    if (!port->verified) {
        rule_get_hits(port, rule, &hits);
    }
}

/* Looks at time 'now', in ms, whether packets have passed that 'rule' of
 * 'port' is for. */
static void
rule_sample(struct dpdk_port *port, struct dpdk_rule *rule, long long int now)
    OVS_REQUIRES(port->mutex)
{
    uint64_t hits;

    if (rule_get_hits(port, rule, &hits)) {
        /* The layer asks twice before it lets a connection go.  What passed
         * before the first time may have been long ago. */
        if (hits != rule->hits
            && (rule->sampled || now - rule->created <= YOUNG_MS)) {
            rule->used = now;
        }
        rule->sampled = true;
        rule->hits = hits;
    }
}

/* Returns when hardware has last followed 'rule' of 'port', or 0 if that is
 * not known. */
static long long int
rule_last_hit(struct dpdk_port *port, struct dpdk_rule *rule,
              long long int now)
    OVS_REQUIRES(port->mutex)
{
    struct rte_flow_error error;
    unsigned int seconds;
    int retval;

    if (!rule->has_age) {
        rule_sample(port, rule, now);
        return rule->used;
    }

    error.message = NULL;
    retval = dpdk_flow_rule_get_idle(port->layout.port_id, rule->flow,
                                     &seconds, &error);
    if (retval) {
        port_count_error(port, CALL_QUERY, &error, retval);
        return rule->used;
    }
    return (seconds == UINT_MAX ? rule->used
            : MAX(rule->used, now - seconds * 1000LL));
}

/* Returns when a packet that 'rule' of 'port' is for has last passed, or 0 if
 * that is not known: as long as there is a rule for the same packets that
 * tracks, hardware follows that one. */
static long long int
rule_last_used(struct dpdk_port *port, struct dpdk_rule *rule,
               long long int now)
    OVS_REQUIRES(port->mutex)
{
    long long int used = rule_last_hit(port, rule, now);

    if (!rule->handle) {
        struct dpdk_rule *other = rule_find(port, &rule->key, true);

        if (other) {
            used = MAX(used, rule_last_hit(port, other, now));
        }
    }
    return used;
}

/* A connection does not have 'rule' of 'port' any more: destroys it if no
 * other one has it, or leaves that to port_bury_dead().  Appends to
 * 'destroyed' what rules_free() is to be called for. */
static void
rule_release(struct dpdk_port *port, struct dpdk_rule *rule,
             struct ovs_list *destroyed)
    OVS_REQUIRES(port->mutex)
{
    if (--rule->n_conns) {
        return;
    }
    if (rule->handle) {
        struct dpdk_rule *other = rule_find(port, &rule->key, false);

        if (other && other->n_conns) {
            other->used = rule_last_used(port, other, time_msec());
        }
    }
    if (!rule_destroy(port, rule, N_TRIES, destroyed)) {
        ovs_list_push_back(&port->dead_rules, &rule->list_node);
    }
}

/* Tries to get rid of what could not be destroyed before on 'port'.  Appends
 * to 'destroyed' what rules_free() is to be called for. */
static void
port_bury_dead(struct dpdk_port *port, struct ovs_list *destroyed)
    OVS_REQUIRES(port->mutex)
{
    struct dpdk_handle *handle;
    struct dpdk_rule *rule;

    dpdk_flow_layout_tidy(&port->layout);
    LIST_FOR_EACH_SAFE (rule, list_node, &port->dead_rules) {
        if (!rule_destroy(port, rule, 1, destroyed)) {
            return;
        }
    }
    LIST_FOR_EACH_SAFE (handle, node, &port->dead_handles) {
        if (!handle_destroy(port, handle, 1)) {
            return;
        }
    }
}

/* Appends to 'ds' what there is to say about 'rule' of 'port'. */
static void
rule_format(struct dpdk_port *port, struct dpdk_rule *rule, struct ds *ds)
    OVS_REQUIRES(port->mutex)
{
    ds_put_format(ds, "port %s, %s", port->name,
                  rule->handle ? "tracked" : "not tracked");
    if (port->layout.caps & DPDK_FLOW_COUNT) {
        uint64_t hits;

        if (rule_get_hits(port, rule, &hits)) {
            ds_put_format(ds, ", %"PRIu64" packets", hits);
        }
    }
    if (rule->n_conns > 1) {
        ds_put_format(ds, ", shared by %u connections", rule->n_conns);
    }
}

/* Connections. */

/* Can packets be matched that are as 'ctx' says? */
static bool
ctx_is_matchable(const struct ct_offload_ctx *ctx)
{
    return ctx->unmodified && ctx->vlan != CT_OFFLOAD_VLAN_OTHER;
}

/* Stores in '*key' what packets of 'conn' look like in one direction. */
static void
key_init(struct dpdk_flow_key *key, const struct conn *conn, bool reply,
         bool tagged, ovs_be16 vlan_vid)
{
    struct ct_dpif_tuple tuple;

    ct_offload_conn_get_tuple(conn, reply, &tuple);
    memset(key, 0, sizeof *key);
    if (tuple.l3_type == AF_INET6) {
        key->ipv6 = true;
        key->src.in6 = tuple.src.in6;
        key->dst.in6 = tuple.dst.in6;
    } else {
        key->src.ip = tuple.src.ip;
        key->dst.ip = tuple.dst.ip;
    }
    key->src_port = tuple.src_port;
    key->dst_port = tuple.dst_port;
    key->ip_proto = tuple.ip_proto;
    key->tagged = tagged;
    key->vlan_vid = tagged ? vlan_vid : 0;
}

/* Says in '*trackedp' whether 'dc' can be tracked, with 'keys', and returns a
 * handle if it takes a new one.  Returns NULL if not, with an error in
 * '*errorp' if there is one.  The ports are locked. */
static struct dpdk_handle *
conn_track(struct dpdk_conn *dc, const struct conn *conn,
           const struct dpdk_flow_key keys[2], bool *trackedp, int *errorp)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    struct dpdk_rule *orig = rule_find(dc->ports[0], &keys[0], true);
    struct dpdk_rule *reply = rule_find(dc->ports[1], &keys[1], true);

    if (orig || reply) {
        /* No two connections that can be tracked have one direction in common
         * and the other one not: NAT hides it from one of them. */
        *trackedp = orig && reply && orig->handle == reply->handle;
        return NULL;
    }
    *trackedp = ports_share_handles(dc->ports[0], dc->ports[1]);
    return (*trackedp
            ? handle_create(dc->ports[0], dc->ports[1], conn, errorp)
            : NULL);
}

/* Creates, or finds, the rules of 'dc' with 'keys', for the directions that
 * are 'able'.  Returns 0 or a positive errno value; after an error the caller
 * has to release what there is.  The ports are locked. */
static int
conn_create_rules(struct dpdk_conn *dc, const struct conn *conn,
                  const struct dpdk_flow_key keys[2], const bool able[2],
                  struct ovs_list *destroyed)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    struct dpdk_handle *handle = NULL;
    bool tracked = false;
    int error = 0;

    for (int i = 0; i < 2 && !error; i++) {
        if (able[i]) {
            error = rule_bury(dc->ports[i], &keys[i], destroyed);
        }
    }
    if (!error && keys[0].ip_proto == IPPROTO_TCP && able[0] && able[1]) {
        handle = conn_track(dc, conn, keys, &tracked, &error);
    }
    for (int i = 0; i < 2 && !error; i++) {
        if (!able[i]) {
            continue;
        }
        dc->rules[i] = rule_find(dc->ports[i], &keys[i], tracked);
        if (dc->rules[i]) {
            dc->rules[i]->n_conns++;
            dc->ports[i]->n_shared++;
        } else {
            dc->rules[i] = rule_create(dc->ports[i], &keys[i], handle, i,
                                       &error);
        }
    }
    if (handle && ovs_list_is_empty(&handle->rules)) {
        handle_release(dc->ports[0], handle);
    }
    return error;
}

/* Takes the rules of 'dc' away.  The ports are locked. */
static void
conn_release_rules(struct dpdk_conn *dc, struct ovs_list *destroyed)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    for (int i = 1; i >= 0; i--) {
        if (dc->rules[i]) {
            rule_release(dc->ports[i], dc->rules[i], destroyed);
            dc->rules[i] = NULL;
        }
    }
}

/* Counts 'dc' 'n' times, if it has rules. */
static void
conn_count(const struct dpdk_conn *dc, int n)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    if (dc->rules[0] && dc->rules[1]) {
        dc->ports[0]->n_bi_dir += n;
    } else if (dc->rules[0] || dc->rules[1]) {
        dc->ports[0]->n_uni_dir += n;
    }
}

/* 'dc', with 'keys', is established: gives it its rules.  Returns 0 or, if it
 * has none, a positive errno value.  The ports are locked. */
static int
conn_install(struct dpdk_conn *dc, const struct conn *conn,
             const struct dpdk_flow_key keys[2], struct ovs_list *destroyed)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    bool able[2] = { false, false };
    int error = 0;

    for (int i = 0; i < 2; i++) {
        struct dpdk_port *port = dc->ports[i];
        int retval = port ? port_make_ready(port) : ENODEV;

        if (!retval) {
            able[i] = port_can_match(port, keys[i].ip_proto);
            port_bury_dead(port, destroyed);
        } else if (dpdk_flow_error_is_transient(retval)) {
            error = retval;
        }
    }
    if (!error) {
        error = (able[0] || able[1]
                 ? conn_create_rules(dc, conn, keys, able, destroyed)
                 : EOPNOTSUPP);
    }
    if (error) {
        conn_release_rules(dc, destroyed);
    }
    conn_count(dc, 1);
    return error;
}

/* Undoes conn_install().  The ports are locked. */
static void
conn_uninstall(struct dpdk_conn *dc, struct ovs_list *destroyed)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    conn_count(dc, -1);
    for (int i = 0; i < 2; i++) {
        if (dc->rules[i]) {
            rule_verify(dc->ports[i], dc->rules[i]);
        }
        if (dc->ports[i]) {
            port_bury_dead(dc->ports[i], destroyed);
        }
    }
    conn_release_rules(dc, destroyed);
}

/* Returns when a packet of 'dc' has last passed, in either direction, or 0 if
 * that is not known.  The ports are locked. */
static long long int
conn_last_used(struct dpdk_conn *dc)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    long long int now = time_msec();
    long long int last_used = 0;

    for (int i = 0; i < 2; i++) {
        if (dc->rules[i]) {
            long long int used = rule_last_used(dc->ports[i], dc->rules[i],
                                                now);

            last_used = MAX(last_used, used);
        }
    }
    return last_used;
}

/* Returns what is known of 'port', or finds that out. */
static enum dpdk_port_state
port_learn_state(struct dpdk_port *port)
{
    if (port_get_state(port) == PORT_UNKNOWN) {
        ovs_mutex_lock(&port->mutex);
        port_make_ready(port);
        ovs_mutex_unlock(&port->mutex);
    }
    return port_get_state(port);
}

static bool
dpdk_can_offload(const struct ct_offload_ctx *ctx)
{
    struct dpdk_port *port = port_get_ours(ctx->netdev_in);
    struct ct_dpif_tuple tuple;
    enum dpdk_port_state state;

    if (!port) {
        return ct_offload_refuse(CT_OFFLOAD_NO_PROVIDER);
    }
    if (!ct_offload_config_bypass()) {
        return ct_offload_refuse(CT_OFFLOAD_NO_BYPASS);
    }
    if (!ctx->unmodified) {
        return ct_offload_refuse(CT_OFFLOAD_NOT_ON_WIRE);
    }
    if (ctx->vlan == CT_OFFLOAD_VLAN_OTHER) {
        return ct_offload_refuse(CT_OFFLOAD_BAD_VLAN);
    }
    ct_offload_conn_get_tuple(ctx->conn, false, &tuple);
    if (tuple.ip_proto != IPPROTO_TCP && tuple.ip_proto != IPPROTO_UDP) {
        return ct_offload_refuse(CT_OFFLOAD_BAD_PROTOCOL);
    }

    /* Where that is not known even now, EST will fail. */
    state = port_learn_state(port);
    if (state == PORT_REFUSED) {
        return ct_offload_refuse(CT_OFFLOAD_NO_PROVIDER);
    }
    if (state == PORT_UDP_ONLY && tuple.ip_proto == IPPROTO_TCP) {
        return ct_offload_refuse(CT_OFFLOAD_BAD_PROTOCOL);
    }
    return true;
}

static int
dpdk_conn_add(const struct ct_offload_ctx *ctx)
{
    struct dpdk_port *port = port_get_ours(ctx->netdev_in);
    struct dpdk_conn *dc;

    if (!port) {
        return ENODEV;
    }
    dc = xzalloc(sizeof *dc);
    dc->ports[0] = port;
    dc->tagged = ctx->vlan == CT_OFFLOAD_VLAN_TAG;
    dc->vlan_vid = ctx->vlan_tci & htons(VLAN_VID_MASK);
    *ctx->priv = dc;
    return 0;
}

static int
dpdk_conn_established(const struct ct_offload_ctx *ctx)
{
    struct ovs_list destroyed = OVS_LIST_INITIALIZER(&destroyed);
    struct dpdk_conn *dc = *ctx->priv;
    struct dpdk_flow_key keys[2];
    int error;

    if (ctx_is_matchable(ctx)) {
        dc->ports[1] = port_get_ours(ctx->netdev_in);
    }
    key_init(&keys[0], ctx->conn, false, dc->tagged, dc->vlan_vid);
    key_init(&keys[1], ctx->conn, true, ctx->vlan == CT_OFFLOAD_VLAN_TAG,
             ctx->vlan_tci & htons(VLAN_VID_MASK));

    ports_lock(dc->ports[0], dc->ports[1]);
    error = conn_install(dc, ctx->conn, keys, &destroyed);
    ports_unlock(dc->ports[0], dc->ports[1]);

    rules_free(&destroyed);
    if (error) {
        *ctx->priv = NULL;
        free(dc);
        return error;
    }
    *ctx->uni_dir = !dc->rules[0] || !dc->rules[1];
    return 0;
}

static long long int
dpdk_conn_update(const struct ct_offload_ctx *ctx)
{
    struct dpdk_conn *dc = *ctx->priv;
    long long int last_used;

    ports_lock(dc->ports[0], dc->ports[1]);
    last_used = conn_last_used(dc);
    ports_unlock(dc->ports[0], dc->ports[1]);

    return last_used;
}

static void
dpdk_conn_del(const struct ct_offload_ctx *ctx)
{
    struct ovs_list destroyed = OVS_LIST_INITIALIZER(&destroyed);
    struct dpdk_conn *dc = *ctx->priv;

    ports_lock(dc->ports[0], dc->ports[1]);
    conn_uninstall(dc, &destroyed);
    ports_unlock(dc->ports[0], dc->ports[1]);

    rules_free(&destroyed);
    free(dc);
}

/* Appends to 'ds' what there is to say of the rules of 'dc'.  The ports are
 * locked. */
static void
conn_format(const struct dpdk_conn *dc, struct ds *ds)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    static const char *const dirs[2] = { "original", "reply" };

    for (int i = 0; i < 2; i++) {
        ds_put_format(ds, "%s%s: ", i ? "; " : "", dirs[i]);
        if (dc->rules[i]) {
            rule_format(dc->ports[i], dc->rules[i], ds);
        } else {
            ds_put_cstr(ds, "no rule");
        }
    }
}

static void
dpdk_conn_format(const struct ct_offload_ctx *ctx, struct ds *ds)
{
    struct dpdk_conn *dc = *ctx->priv;

    ports_lock(dc->ports[0], dc->ports[1]);
    conn_format(dc, ds);
    ports_unlock(dc->ports[0], dc->ports[1]);
}

/* Does 'op'. */
static void
op_do(struct ct_offload_op *op)
{
    switch (op->type) {
    case CT_OFFLOAD_OP_ADD:
        op->error = dpdk_conn_add(&op->ctx);
        break;
    case CT_OFFLOAD_OP_EST:
        op->error = dpdk_conn_established(&op->ctx);
        break;
    case CT_OFFLOAD_OP_UPD:
        op->last_used = dpdk_conn_update(&op->ctx);
        op->error = op->last_used ? 0 : ENODATA;
        break;
    case CT_OFFLOAD_OP_DEL:
        dpdk_conn_del(&op->ctx);
        break;
    case CT_OFFLOAD_OP_POLICY:
    case CT_OFFLOAD_OP_FLUSH:
    default:
        break;
    }
}

/* Returns the port that 'op' is done with: that of the connection's original
 * direction, so that operations on one connection stay in order. */
static const struct dpdk_port *
op_port(const struct ct_offload_op *op)
{
    const struct dpdk_conn *dc;

    if (op->type == CT_OFFLOAD_OP_ADD) {
        return NULL;
    }
    dc = *op->ctx.priv;
    return dc->ports[0];
}

static void
dpdk_batch_submit(struct ct_offload_op_batch *batch)
{
    const struct dpdk_port *op_ports[CT_OFFLOAD_BATCH_INLINE];
    uint64_t todo;
    size_t n = batch->n_ops;

    ovs_assert(n <= ARRAY_SIZE(op_ports));
    BUILD_ASSERT_DECL(ARRAY_SIZE(op_ports) <= 64);
    for (size_t i = 0; i < n; i++) {
        op_ports[i] = op_port(&batch->ops[i]);
    }
    todo = n < 64 ? (UINT64_C(1) << n) - 1 : UINT64_MAX;

    /* All of one port, then all of the next. */
    while (todo) {
        const struct dpdk_port *port = op_ports[raw_ctz(todo)];

        for (size_t i = raw_ctz(todo); i < n; i++) {
            if (todo & (UINT64_C(1) << i) && op_ports[i] == port) {
                op_do(&batch->ops[i]);
                todo &= ~(UINT64_C(1) << i);
            }
        }
    }
}

/* Ports that stop. */

/* Destroys 'rule' of 'port' or, if that fails for good, forgets it.  Appends
 * it to 'destroyed', for rules_free(), either way. */
static void
rule_flush(struct dpdk_port *port, struct dpdk_rule *rule,
           struct ovs_list *destroyed)
    OVS_REQUIRES(port->mutex)
{
    struct rte_flow_error error;
    int retval;

    error.message = NULL;
    retval = dpdk_flow_rule_destroy_retry(port->layout.port_id, rule->flow,
                                          &error);
    if (retval) {
        port_count_error(port, CALL_DESTROY, &error, retval);
        VLOG_ERR("%s: a rule could not be destroyed", port->name);
    }
    rule_forget(port, rule, destroyed);
}

/* Destroys or forgets all rules of 'port'. */
static void
port_flush_rules(struct dpdk_port *port, struct ovs_list *destroyed)
    OVS_REQUIRES(port->mutex)
{
    struct dpdk_rule *rule;

    HMAP_FOR_EACH_SAFE (rule, node, &port->rules) {
        if (rule->n_conns) {
            VLOG_ERR("%s: a rule is left though its connection is not",
                     port->name);
        }
        rule_flush(port, rule, destroyed);
    }
}

/* Destroys those rules on other ports that use a handle of 'port'.  They are
 * there only because they could not be destroyed before. */
static void
port_flush_peers(struct dpdk_port *port)
{
    struct ovs_list destroyed = OVS_LIST_INITIALIZER(&destroyed);
    bool done;

    do {
        struct dpdk_port *peer = NULL;
        struct dpdk_handle *handle;

        ovs_mutex_lock(&port->mutex);
        LIST_FOR_EACH (handle, node, &port->handles) {
            peer = handle->peer;
        }
        done = !peer;
        ovs_mutex_unlock(&port->mutex);

        if (peer) {
            struct dpdk_rule *rule;

            ovs_mutex_lock(&peer->mutex);
            HMAP_FOR_EACH_SAFE (rule, node, &peer->rules) {
                if (rule->handle && rule->handle->port == port) {
                    rule_flush(peer, rule, &destroyed);
                }
            }
            ovs_mutex_unlock(&peer->mutex);
            rules_free(&destroyed);
        }
    } while (!done);
}

static void
port_flush_handles(struct dpdk_port *port)
    OVS_REQUIRES(port->mutex)
{
    struct dpdk_handle *handle;

    LIST_FOR_EACH_SAFE (handle, node, &port->dead_handles) {
        struct rte_flow_error error;
        int retval;

        error.message = NULL;
        retval = dpdk_flow_handle_destroy_retry(port->layout.port_id,
                                                handle->handle, &error);
        if (retval) {
            port_count_error(port, CALL_HANDLE_DESTROY, &error, retval);
            VLOG_ERR("%s: a handle could not be destroyed", port->name);
        }
        handle_forget(port, handle);
    }
}

/* Removes 'port' from 'ports', destroys all that there is on it and frees it.
 */
static void
port_destroy(struct dpdk_port *port)
    OVS_REQUIRES(ports_mutex)
{
    struct ovs_list destroyed = OVS_LIST_INITIALIZER(&destroyed);
    unsigned int epoch;
    size_t n_failed;

    cmap_remove(&ports, &port->node, hash_pointer(port->netdev, 0));
    atomic_add_explicit(&peers_epoch, 1, &epoch, memory_order_acq_rel);

    ovs_mutex_lock(&port->mutex);
    port->gone = true;
    port_flush_rules(port, &destroyed);
    n_failed = dpdk_flow_layout_destroy(&port->layout);
    if (n_failed) {
        VLOG_ERR("%s: %"PRIuSIZE" rules or handles could not be destroyed",
                 port->name, n_failed);
    }
    atomic_store_relaxed(&port->state, PORT_UNKNOWN);
    ovs_mutex_unlock(&port->mutex);

    rules_free(&destroyed);
    port_flush_peers(port);
    ovs_mutex_lock(&port->mutex);
    port_flush_handles(port);
    for (size_t i = 0; i < N_CALLS; i++) {
        past_errors[i] += port->errors[i];
    }
    ovs_mutex_unlock(&port->mutex);
    ovsrcu_postpone(port_free, port);
}

static void
dpdk_netdev_flush(struct netdev *netdev)
{
    struct dpdk_port *port;

    ovs_mutex_lock(&ports_mutex);
    port = port_find(netdev);
    if (port) {
        port_destroy(port);
    }
    ovs_mutex_unlock(&ports_mutex);
}

/* The provider. */

static void
dpdk_unixctl_liberal(struct unixctl_conn *conn, int argc OVS_UNUSED,
                     const char *argv[], void *aux OVS_UNUSED)
{
    bool on = !strcmp(argv[1], "on");
    bool run;

    if (!on && strcmp(argv[1], "off")) {
        char *msg = xasprintf("\"%s\" is neither \"on\" nor \"off\"",
                              argv[1]);

        unixctl_command_reply_error(conn, msg);
        free(msg);
        return;
    }
    atomic_store_relaxed(&liberal, on);
    atomic_read_relaxed(&running, &run);
    unixctl_command_reply(conn, run ? NULL
                          : "takes effect when hardware offload is enabled "
                            "and DPDK initialized (other_config:hw-offload, "
                            "other_config:dpdk-init)");
}

/* Called once, whether or not there will be DPDK. */
void
ct_offload_dpdk_module_init(void)
{
    unixctl_command_register("ct-offload-dpdk/liberal", "on|off", 1, 1,
                             dpdk_unixctl_liberal, NULL);
}

static int
dpdk_init(void)
{
    atomic_store_relaxed(&running, true);
    return 0;
}

static void
dpdk_exit(void)
{
    struct dpdk_port *port;

    ovs_mutex_lock(&ports_mutex);
    atomic_store_relaxed(&running, false);
    CMAP_FOR_EACH (port, node, &ports) {
        port_destroy(port);
    }
    ovs_mutex_unlock(&ports_mutex);
}

/* Returns the group in which dpif-offload-dpdk is to have its ingress rules on
 * 'netdev'.  On ports whose connections can be offloaded that is a group that
 * packets come to after the rules for connections, so that both are hit.
 *
 * Rules that are there already when connections begin to be offloaded stay in
 * the root group, before everything else, for as long as they live. */
uint32_t
ct_offload_dpdk_ingress_group(struct netdev *netdev)
{
    bool accepting = ct_offload_is_accepting() && ct_offload_config_bypass();
    struct dpdk_port *port = accepting ? port_get(netdev) : port_find(netdev);
    bool ready;

    if (!port) {
        return DPDK_FLOW_GROUP_ROOT;
    }
    ovs_mutex_lock(&port->mutex);
    ready = port_is_ready(port) || (accepting && !port_make_ready(port));
    ovs_mutex_unlock(&port->mutex);

    return ready ? DPDK_FLOW_GROUP_FLOWS : DPDK_FLOW_GROUP_ROOT;
}

/* "ct-offload/show". */

/* What is shown of a port. */
struct port_report {
    const char *caps;
    bool ready;
    bool tcp;
    bool verified;
    unsigned int n_bi_dir, n_uni_dir;
    size_t n_rules;
    size_t n_rules_shared;
    unsigned int n_handles;
    unsigned long long int n_shared;
    unsigned long long int n_invalid;
    unsigned long long int errors[N_CALLS];
};

static void
port_get_report(struct dpdk_port *port, struct port_report *report)
    OVS_REQUIRES(port->mutex)
{
    int n_queries = 16;
    struct rte_flow_error error;
    struct dpdk_rule *rule;
    uint64_t hits = 0;

    memset(report, 0, sizeof *report);
    HMAP_FOR_EACH (rule, node, &port->rules) {
        report->n_rules_shared += rule->n_conns > 1;
        if (n_queries-- > 0) {
            rule_verify(port, rule);
        }
    }
    if (port->layout.invalid) {
        dpdk_flow_rule_get_hits(port->layout.port_id, port->layout.invalid,
                                &hits, &error);
    }
    report->ready = port_is_ready(port);
    report->caps = (report->ready ? caps_to_string(port->layout.caps)
                    : port_get_state(port) == PORT_REFUSED ? "none"
                    : "not known yet");
    report->tcp = port->layout.caps & DPDK_FLOW_TCP;
    report->verified = port->verified;
    report->n_bi_dir = port->n_bi_dir;
    report->n_uni_dir = port->n_uni_dir;
    report->n_rules = hmap_count(&port->rules);
    report->n_handles = port->n_handles;
    report->n_shared = port->n_shared;
    report->n_invalid = hits;
    memcpy(report->errors, port->errors, sizeof report->errors);
}

static void
errors_format(const unsigned long long int errors[N_CALLS], struct ds *ds)
{
    for (size_t i = 0; i < N_CALLS; i++) {
        ds_put_format(ds, " %s %llu", call_names[i], errors[i]);
    }
    ds_put_char(ds, '\n');
}

static struct json *
errors_to_json(const unsigned long long int errors[N_CALLS])
{
    struct json *json = json_object_create();

    for (size_t i = 0; i < N_CALLS; i++) {
        json_object_put(json, call_names[i], json_integer_create(errors[i]));
    }
    return json;
}

/* Why nothing is programmed on any port, or NULL. */
static const char *
get_obstacle(void)
{
    return (ct_offload_config_bypass() ? NULL
            : "other_config:hw-offload-ct-bypass is false");
}

static void
port_report_format(const struct port_report *report, struct ds *ds)
{
    const char *obstacle = get_obstacle();

    if (obstacle) {
        ds_put_format(ds, "in software: %s\n", obstacle);
    } else {
        ds_put_format(ds, "%s%s%s\n", report->caps,
                      report->ready && !report->tcp
                      ? ", UDP only (TCP flags cannot be matched)" : "",
                      report->ready && !report->verified
                      ? ", unverified" : "");
    }
    ds_put_format(ds, "    connections: %u bi-dir, %u uni-dir\n",
                  report->n_bi_dir, report->n_uni_dir);
    ds_put_format(ds, "    rules: %"PRIuSIZE", %"PRIuSIZE" of them shared, "
                  "%llu times in all\n", report->n_rules,
                  report->n_rules_shared, report->n_shared);
    ds_put_format(ds, "    tracked connections: %u, invalid packets: %llu\n",
                  report->n_handles, report->n_invalid);
    ds_put_cstr(ds, "    errors:");
    errors_format(report->errors, ds);
}

static struct json *
port_report_to_json(const struct port_report *report)
{
    struct json *json = json_object_create();
    struct json *conns = json_object_create();
    const char *obstacle = get_obstacle();

    if (obstacle) {
        json_object_put_string(json, "in-software", obstacle);
    }
    json_object_put_string(json, "capabilities", report->caps);
    json_object_put(json, "tcp", json_boolean_create(report->tcp));
    json_object_put(json, "verified", json_boolean_create(report->verified));
    json_object_put(conns, "bi-dir", json_integer_create(report->n_bi_dir));
    json_object_put(conns, "uni-dir", json_integer_create(report->n_uni_dir));
    json_object_put(json, "connections", conns);
    json_object_put(json, "rules", json_integer_create(report->n_rules));
    json_object_put(json, "rules-shared",
                    json_integer_create(report->n_rules_shared));
    json_object_put(json, "times-shared",
                    json_integer_create(report->n_shared));
    json_object_put(json, "tracked-connections",
                    json_integer_create(report->n_handles));
    json_object_put(json, "invalid-packets",
                    json_integer_create(report->n_invalid));
    json_object_put(json, "errors", errors_to_json(report->errors));
    return json;
}

static void
dpdk_get_debug(struct ds *ds, struct json *json)
{
    struct json *json_ports = json_object_create();
    struct shash sorted = SHASH_INITIALIZER(&sorted);
    const struct shash_node **nodes;
    struct dpdk_port *port;
    bool lenient;

    atomic_read_relaxed(&liberal, &lenient);
    if (json) {
        json_object_put(json, "liberal", json_boolean_create(lenient));
    } else {
        ds_put_format(ds, "  TCP windows: %s (ct-offload-dpdk/liberal %s)\n",
                      lenient ? "hardware does not insist on them"
                      : "hardware insists on them", lenient ? "on" : "off");
    }

    /* Ports are valid until the thread quiesces, even those that go. */
    CMAP_FOR_EACH (port, node, &ports) {
        shash_add(&sorted, port->name, port);
    }
    nodes = shash_sort(&sorted);
    for (size_t i = 0; i < shash_count(&sorted); i++) {
        struct ovs_list destroyed = OVS_LIST_INITIALIZER(&destroyed);
        struct port_report report;

        port = nodes[i]->data;
        ovs_mutex_lock(&port->mutex);
        port_bury_dead(port, &destroyed);
        port_get_report(port, &report);
        ovs_mutex_unlock(&port->mutex);
        rules_free(&destroyed);

        if (json) {
            json_object_put(json_ports, port->name,
                            port_report_to_json(&report));
        } else {
            ds_put_format(ds, "  port %s: ", port->name);
            port_report_format(&report, ds);
        }
    }
    free(nodes);
    shash_destroy(&sorted);

    ovs_mutex_lock(&ports_mutex);
    if (json) {
        json_object_put(json, "ports", json_ports);
        json_object_put(json, "past-errors", errors_to_json(past_errors));
    } else {
        json_destroy(json_ports);
        ds_put_cstr(ds, "  errors before ports were stopped:");
        errors_format(past_errors, ds);
    }
    ovs_mutex_unlock(&ports_mutex);
}

const struct ct_offload_class ct_offload_dpdk_class = {
    .name = "dpdk",
    .thread_safe = true,
    .established_only = true,
    .init = dpdk_init,
    .exit = dpdk_exit,
    .can_offload = dpdk_can_offload,
    .conn_add = dpdk_conn_add,
    .conn_del = dpdk_conn_del,
    .conn_update = dpdk_conn_update,
    .conn_established = dpdk_conn_established,
    .batch_submit = dpdk_batch_submit,
    .netdev_flush = dpdk_netdev_flush,
    .conn_format = dpdk_conn_format,
    .get_debug = dpdk_get_debug,
};
