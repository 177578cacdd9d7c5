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

#include "ct-offload-dpdk-forward.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include "ct-offload-dpdk-probe.h"
#include "ct-offload-rows.h"
#include "ct-offload.h"
#include "dpif.h"
#include "netdev-dpdk.h"
#include "netlink.h"
#include "openvswitch/dynamic-string.h"
#include "openvswitch/json.h"
#include "openvswitch/match.h"
#include "packets.h"
#include "util.h"

/* How often to try to read the counters of a path that ends. */
#define LAST_TRIES 8

/* A path.  'home' is NULL, and there is no rule, if one of its ports has
 * stopped.  That changes with the mutex of 'home'. */
struct dpdk_path {
    struct ovs_list home_node;      /* In 'home->home_paths'. */
    struct ovs_list in_node;        /* In 'in->in_paths'. */
    struct ovs_list out_node;       /* In 'out->out_paths', if there is one. */
    ATOMIC(struct dpdk_port *) home;
    struct dpdk_port *in;
    struct dpdk_port *out;          /* Or NULL to drop. */
    struct rte_flow *rule;
    uint64_t n_packets, n_bytes;    /* As they were read last. */
    unsigned int n_popped;          /* Bytes that go before COUNT. */
};

/* For what 'closed' and the lists of paths of all ports are.  Taken inside of
 * the mutex of a port. */
static struct ovs_mutex links_mutex = OVS_MUTEX_INITIALIZER;

/* Paths. */

/* Is 'port' about to stop? */
static bool
port_is_closed(const struct dpdk_port *port)
    OVS_EXCLUDED(links_mutex)
{
    bool closed;

    ovs_mutex_lock(&links_mutex);
    closed = port->closed;
    ovs_mutex_unlock(&links_mutex);
    return closed;
}

/* Puts 'path', which is at 'home', into the lists of its ports.  Returns false
 * if one of them is about to stop. */
static bool
path_link(struct dpdk_path *path, struct dpdk_port *home)
    OVS_EXCLUDED(links_mutex)
{
    bool closed;

    ovs_mutex_lock(&links_mutex);
    closed = (home->closed || path->in->closed
              || (path->out && path->out->closed));
    if (!closed) {
        ovs_list_push_back(&home->home_paths, &path->home_node);
        home->n_home++;
        ovs_list_push_back(&path->in->in_paths, &path->in_node);
        path->in->n_in++;
        if (path->out) {
            ovs_list_push_back(&path->out->out_paths, &path->out_node);
            path->out->n_out++;
        }
    }
    ovs_mutex_unlock(&links_mutex);
    return !closed;
}

static void
path_unlink(struct dpdk_path *path, struct dpdk_port *home)
    OVS_REQUIRES(links_mutex)
{
    ovs_list_remove(&path->home_node);
    home->n_home--;
    ovs_list_remove(&path->in_node);
    path->in->n_in--;
    if (path->out) {
        ovs_list_remove(&path->out_node);
        path->out->n_out--;
    }
}

/* Locks the port that 'path' is at home and returns it, or returns NULL if
 * there is no rule any more.  A port that is not home any more is not freed
 * before the thread quiesces. */
static struct dpdk_port *
path_lock(struct dpdk_path *path)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    struct dpdk_port *home;

    atomic_read_explicit(&path->home, &home, memory_order_acquire);
    if (home) {
        ovs_mutex_lock(&home->mutex);
        if (!path->rule) {
            ovs_mutex_unlock(&home->mutex);
            home = NULL;
        }
    }
    return home;
}

/* Reads how many packets 'path' has forwarded.  Returns 0 or a positive errno
 * value. */
static int
path_query(struct dpdk_path *path, struct dpdk_port *home)
    OVS_REQUIRES(home->mutex)
{
    struct rte_flow_error error;
    int retval = dpdk_flow_rule_get_count(home->forward_id, path->rule,
                                          &path->n_packets, &path->n_bytes,
                                          &error);

    return dpdk_port_check(home, DPDK_CALL_QUERY, retval, &error);
}

/* Ends 'path', which is in no list any more, after its counters were read:
 * what is not known now never will be. */
static void
path_end(struct dpdk_path *path, struct dpdk_port *home)
    OVS_REQUIRES(home->mutex)
{
    int n = 0;

    while (path_query(path, home) && ++n < LAST_TRIES) {
        continue;
    }
    dpdk_probe_rule_destroy(home, path->rule);
    path->rule = NULL;
    atomic_store_explicit(&path->home, NULL, memory_order_release);
}

static void
path_get_stats(const struct dpdk_path *path, struct dpif_flow_stats *stats)
{
    stats->n_packets = path->n_packets;
    stats->n_bytes = path->n_bytes + path->n_popped * path->n_packets;
}

static bool
path_is_limited(const struct dpdk_port *in, const struct dpdk_port *out)
{
    return (netdev_dpdk_is_limited(in->netdev)
            || (out && netdev_dpdk_is_limited(out->netdev)));
}

/* Counts a path from 'in' that is refused for 'why'.  Returns an errno value.
 */
static int
refuse(struct dpdk_port *in, enum dpdk_refusal why)
    OVS_REQUIRES(in->mutex)
{
    in->n_refused[why]++;
    return (why == DPDK_REFUSED_STATE ? ENODEV
            : why == DPDK_REFUSED_FULL || why == DPDK_REFUSED_DEAD ? EAGAIN
            : why == DPDK_REFUSED_LIMITED ? EPERM
            : EOPNOTSUPP);
}

/* Makes the rule of 'p', from 'in', which is at 'home', to 'out', and stores
 * it in '*flow'.  The ports but 'out' are locked. */
static int
path_make(const struct ct_offload_path *p, struct dpdk_port *in,
          struct dpdk_port *home, struct dpdk_port *out,
          struct rte_flow **flow)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    struct dpdk_path_options options = {
        .by_proxy = home != in, .fence = p->fence,
    };
    enum dpdk_refusal refusal;
    struct dpdk_pair *pair;
    int error;

    options.from = in->forward_id;
    if (p->netdev_out && (!out || port_is_closed(out))) {
        return refuse(in, DPDK_REFUSED_PORT);
    }
    pair = dpdk_pair_get(in, options.from, out);
    if (!pair) {
        return refuse(in, DPDK_REFUSED_PORT);
    }
    if (dpdk_pair_is_cut(pair)) {
        return refuse(in, DPDK_REFUSED_SWITCH);
    }
    if (path_is_limited(in, out)) {
        return refuse(in, DPDK_REFUSED_LIMITED);
    }
    if (p->match->flow.nw_proto == IPPROTO_TCP
        && dpdk_probe_get_state(in) != DPDK_FORWARD_READY) {
        return refuse(in, DPDK_REFUSED_TCP);
    }
    dpdk_probe_bury_dead(home);
    if (!p->fence && !ovs_list_is_empty(&home->dead_paths)) {
        return refuse(in, DPDK_REFUSED_DEAD);
    }
    error = dpdk_pair_create_rule(pair, home, p, &options, flow, &refusal);
    return refusal == DPDK_N_REFUSALS ? error : refuse(in, refusal);
}

int
dpdk_path_add(const struct ct_offload_path *p, void **priv)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    struct dpdk_port *in = dpdk_port_find(p->netdev_in);
    struct dpdk_port *out = dpdk_port_get(p->netdev_out);
    struct dpdk_port *home;
    struct rte_flow *flow;
    struct dpdk_path *path;
    int error;

    if (!in) {
        return ENODEV;
    }
    if (dpdk_probe_is_due(in)) {
        dpdk_probe_learn_state(in);
    }
    ovs_mutex_lock(&in->mutex);
    home = in->home;
    if (!home || ct_offload_config_bypass()) {
        error = refuse(in, DPDK_REFUSED_STATE);
        ovs_mutex_unlock(&in->mutex);
        return error;
    }
    if (home != in) {
        ovs_mutex_unlock(&in->mutex);
        dpdk_ports_lock(in, home);
    }
    error = (in->gone || in->home != home ? refuse(in, DPDK_REFUSED_STATE)
             : path_make(p, in, home, out, &flow));
    if (!error) {
        path = xzalloc(sizeof *path);
        atomic_init(&path->home, home);
        path->in = in;
        path->out = out;
        path->rule = flow;
        if (nl_attr_find__(p->actions, p->actions_len,
                           OVS_ACTION_ATTR_POP_VLAN)) {
            path->n_popped = VLAN_HEADER_LEN;
        }
        if (nl_attr_find__(p->actions, p->actions_len,
                           OVS_ACTION_ATTR_TUNNEL_POP)) {
            path->n_popped += p->tunnel->header_len;
        }
        if (path_link(path, home)) {
            *priv = path;
        } else {
            error = refuse(in, DPDK_REFUSED_STATE);
            dpdk_probe_rule_destroy(home, flow);
            free(path);
        }
    }
    dpdk_ports_unlock(in, home);
    return error;
}

void
dpdk_path_del(void **priv, struct dpif_flow_stats *last)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    struct dpdk_path *path = *priv;
    struct dpdk_port *home = path_lock(path);

    if (home) {
        ovs_mutex_lock(&links_mutex);
        path_unlink(path, home);
        ovs_mutex_unlock(&links_mutex);
        path_end(path, home);
        ovs_mutex_unlock(&home->mutex);
    }
    path_get_stats(path, last);
    free(path);
}

/* Returns 0, EAGAIN if hardware does not tell now, or, if it does not, or must
 * not, forward packets of the path any more, another positive errno value. */
int
dpdk_path_stats(void **priv, struct dpif_flow_stats *total)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    struct dpdk_path *path = *priv;
    struct dpdk_port *home = path_lock(path);
    int error = ENODEV;

    if (home) {
        dpdk_probe_bury_dead(home);
        error = (path_is_limited(path->in, path->out) ? EPERM
                 : path_query(path, home) ? EAGAIN
                 : 0);
        ovs_mutex_unlock(&home->mutex);
    }
    path_get_stats(path, total);
    return error;
}

/* Ports that stop. */

/* Returns a path that begins, ends or is at home at 'port', or NULL. */
static struct dpdk_path *
port_first_path(struct dpdk_port *port)
    OVS_REQUIRES(links_mutex)
{
    return (!ovs_list_is_empty(&port->home_paths)
            ? CONTAINER_OF(ovs_list_front(&port->home_paths),
                           struct dpdk_path, home_node)
            : !ovs_list_is_empty(&port->in_paths)
            ? CONTAINER_OF(ovs_list_front(&port->in_paths),
                           struct dpdk_path, in_node)
            : !ovs_list_is_empty(&port->out_paths)
            ? CONTAINER_OF(ovs_list_front(&port->out_paths),
                           struct dpdk_path, out_node)
            : NULL);
}

/* Takes their rules from all paths of 'port', of which there is no new one any
 * more. */
static void
flush_paths(struct dpdk_port *port)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    struct dpdk_path *path;

    ovs_mutex_lock(&links_mutex);
    port->closed = true;
    while ((path = port_first_path(port)) != NULL) {
        struct dpdk_port *home;
        bool mine;

        /* The mutex of the port comes first, and meanwhile somebody else may
         * have ended the path. */
        atomic_read_relaxed(&path->home, &home);
        ovs_mutex_unlock(&links_mutex);
        ovs_mutex_lock(&home->mutex);
        ovs_mutex_lock(&links_mutex);
        mine = path == port_first_path(port);
        if (mine) {
            path_unlink(path, home);
        }
        ovs_mutex_unlock(&links_mutex);
        if (mine) {
            path_end(path, home);
        }
        ovs_mutex_unlock(&home->mutex);
        ovs_mutex_lock(&links_mutex);
    }
    ovs_mutex_unlock(&links_mutex);
}

/* Destroys or forgets all rules of paths that have to do with 'port', which is
 * about to stop. */
void
dpdk_forward_flush(struct dpdk_port *port)
{
    flush_paths(port);
    dpdk_probe_flush(port);
}

/* What people see.  Appends to 'ds' or, if 'json' is nonnull, adds to that. */

/* Why paths were refused. */
static void
show_refusals(const struct dpdk_port *port, struct ds *ds, struct json *json)
    OVS_REQUIRES(port->mutex)
{
    static const struct {
        const char *name;           /* For programs. */
        const char *text;           /* For people. */
    } refusals[DPDK_N_REFUSALS] = {
        [DPDK_REFUSED_STATE] = { "port", "port not ready" },
        [DPDK_REFUSED_MATCH] = { "match", "match" },
        [DPDK_REFUSED_ACTION] = { "action", "action" },
        [DPDK_REFUSED_PORT] = { "output", "output to other kind of port" },
        [DPDK_REFUSED_SWITCH] = { "switch", "output to another switch" },
        [DPDK_REFUSED_TCP] = { "tcp", "TCP flags" },
        [DPDK_REFUSED_LIMITED] = { "limited", "policing or QoS" },
        [DPDK_REFUSED_UNABLE] = { "unable", "not supported" },
        [DPDK_REFUSED_FULL] = { "full", "table full" },
        [DPDK_REFUSED_DEAD] = { "dead", "rules that do not go" },
    };
    struct json *object = json ? json_object_create() : NULL;
    const char *sep = "    paths refused: ";

    for (size_t i = 0; i < DPDK_N_REFUSALS; i++) {
        if (json) {
            json_object_put(object, refusals[i].name,
                            json_integer_create(port->n_refused[i]));
        } else if (port->n_refused[i]) {
            ds_put_format(ds, "%s%s %llu", sep, refusals[i].text,
                          port->n_refused[i]);
            sep = ", ";
        }
    }
    if (json) {
        json_object_put(json, "refused", object);
    } else if (*sep == ',') {
        ds_put_char(ds, '\n');
    }
}

void
dpdk_forward_show(struct dpdk_port *port, struct ds *ds, struct json *json)
{
    enum dpdk_forward_state state = dpdk_probe_get_state(port);
    bool limited = !port->gone && netdev_dpdk_is_limited(port->netdev);
    bool on = state >= DPDK_FORWARD_UDP_ONLY;
    unsigned int n_in, n_out, n_home;

    ovs_mutex_lock(&links_mutex);
    n_in = port->n_in;
    n_out = port->n_out;
    n_home = port->n_home;
    ovs_mutex_unlock(&links_mutex);

    const struct ct_offload_row rows[] = {
        { "paths-in", "    paths: ", n_in, " from here" },
        { "paths-out", ", ", n_out, " to here" },
        { "path-rules", ", ", n_home, " with their rule here" },
        { "dead-path-rules", ", ", ovs_list_size(&port->dead_paths),
          " rules that do not go\n" },
    };

    if (json) {
        json_object_put_string(json, "mode", on ? "forward" : "none");
        json_object_put(json, "tcp",
                        json_boolean_create(state == DPDK_FORWARD_READY));
        json_object_put(json, "limited", json_boolean_create(limited));
        if (port->home && port->home != port) {
            json_object_put_string(json, "proxy", port->home->name);
        }
        if (!on) {
            json_object_put_string(json, "in-software", port->forward_words
                                   ? port->forward_words : "not known yet");
        }
    } else if (on) {
        ds_put_format(ds, "forward%s%s%s%s\n",
                      state == DPDK_FORWARD_READY ? ""
                      : ", UDP only (TCP flags cannot be matched)",
                      port->home != port ? ", by rules on port " : "",
                      port->home != port ? port->home->name : "",
                      limited ? ", not now (policing or QoS)" : "");
    } else {
        ds_put_format(ds, "in software: %s%s\n",
                      port->forward_words ? "cannot forward: " : "",
                      port->forward_words ? port->forward_words
                      : "not known yet");
    }
    ct_offload_rows_show(rows, ARRAY_SIZE(rows), ds, json);
    show_refusals(port, ds, json);
    dpdk_pairs_show(port, ds, json);
}
