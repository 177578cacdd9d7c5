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

#include "ct-offload-dpdk-port.h"

#include <errno.h>
#include <string.h>

#include "ct-offload.h"
#include "hash.h"
#include "netdev-dpdk.h"
#include "netdev-provider.h"
#include "netdev.h"
#include "openvswitch/shash.h"
#include "openvswitch/vlog.h"
#include "ovs-rcu.h"
#include "timeval.h"
#include "util.h"

VLOG_DEFINE_THIS_MODULE(ct_offload_dpdk_port);

static struct vlog_rate_limit rl = VLOG_RATE_LIMIT_INIT(5, 5);

/* How long to wait before a port that failed is tried again, in ms. */
#define RETRY_INTERVAL 1000

static struct ovs_mutex ports_mutex = OVS_MUTEX_INITIALIZER;
static struct cmap ports = CMAP_INITIALIZER;

/* May ports appear? */
static bool running OVS_GUARDED_BY(ports_mutex) = false;

/* Errors of ports that are gone. */
static unsigned long long int past_errors[DPDK_N_CALLS]
    OVS_GUARDED_BY(ports_mutex);

/* Changes whenever what is known of shared handles may not be true any more.
 */
static atomic_uint shares_epoch = 1;

/* Errors. */

const char *const dpdk_call_names[DPDK_N_CALLS] = {
    [DPDK_CALL_LAYOUT] = "layout",
    [DPDK_CALL_CREATE] = "create",
    [DPDK_CALL_DESTROY] = "destroy",
    [DPDK_CALL_QUERY] = "query",
    [DPDK_CALL_HANDLE_CREATE] = "handle-create",
    [DPDK_CALL_HANDLE_UPDATE] = "handle-update",
    [DPDK_CALL_HANDLE_DESTROY] = "handle-destroy",
};

/* Counts an error of 'call' on 'port' if 'retval' is one.  Returns 'retval'.
 */
int
dpdk_port_check(struct dpdk_port *port, enum dpdk_call call, int retval,
                const struct rte_flow_error *error)
{
    if (retval) {
        port->errors[call]++;
        VLOG_WARN_RL(&rl, "%s: %s failed: %s (%s)", port->name,
                     dpdk_call_names[call], ovs_strerror(retval),
                     error->message ? error->message : "no details");
    }
    return retval;
}

/* All ports. */

static bool
netdev_is_ours(const struct netdev *netdev)
{
    const char *owner = ct_offload_netdev_owner(netdev);

    return owner && !strcmp(owner, DPDK_PORT_OWNER);
}

/* Returns the port that 'netdev' has, or NULL. */
struct dpdk_port *
dpdk_port_find(const struct netdev *netdev)
{
    struct dpdk_port *port;

    CMAP_FOR_EACH_WITH_HASH (port, node, hash_pointer(netdev, 0), &ports) {
        if (port->netdev == netdev) {
            return port;
        }
    }
    return NULL;
}

static struct dpdk_port *
port_create(struct netdev *netdev)
    OVS_REQUIRES(ports_mutex)
{
    struct dpdk_port *port = xzalloc(sizeof *port);

    port->netdev = netdev;
    port->name = xstrdup(netdev_get_name(netdev));
    atomic_init(&port->state, DPDK_PORT_UNKNOWN);
    ovs_mutex_init(&port->mutex);
    hmap_init(&port->rules);
    ovs_list_init(&port->dead_rules);
    guarded_list_init(&port->dead_handles);
    atomic_init(&port->forward, DPDK_FORWARD_UNKNOWN);
    atomic_init(&port->forward_retry_at, 0);
    hmap_init(&port->pairs);
    ovs_list_init(&port->dead_paths);
    ovs_list_init(&port->home_paths);
    ovs_list_init(&port->in_paths);
    ovs_list_init(&port->out_paths);
    cmap_insert(&ports, &port->node, hash_pointer(netdev, 0));
    return port;
}

static void
port_free(struct dpdk_port *port)
{
    hmap_destroy(&port->pairs);
    free(port->forward_words);
    hmap_destroy(&port->rules);
    guarded_list_destroy(&port->dead_handles);
    ovs_mutex_destroy(&port->mutex);
    free(port->name);
    free(port);
}

/* Returns the port of 'netdev', which may be NULL, or NULL if it cannot have
 * one. */
struct dpdk_port *
dpdk_port_get(struct netdev *netdev)
{
    struct dpdk_port *port;

    if (!netdev_is_ours(netdev)) {
        return NULL;
    }
    port = dpdk_port_find(netdev);
    if (OVS_UNLIKELY(!port)) {
        ovs_mutex_lock(&ports_mutex);
        port = dpdk_port_find(netdev);
        if (!port && running && netdev_is_ours(netdev)) {
            port = port_create(netdev);
        }
        ovs_mutex_unlock(&ports_mutex);
    }
    return port;
}

/* From now on, or not any more, ports may appear. */
void
dpdk_ports_set_running(bool running_)
{
    ovs_mutex_lock(&ports_mutex);
    running = running_;
    ovs_mutex_unlock(&ports_mutex);
}

/* Adds all ports to 'all', by their names. */
void
dpdk_ports_get_all(struct shash *all)
{
    struct dpdk_port *port;

    CMAP_FOR_EACH (port, node, &ports) {
        shash_add(all, port->name, port);
    }
}

/* Stores in 'errors' those of ports that were removed. */
void
dpdk_ports_get_past_errors(unsigned long long int errors[DPDK_N_CALLS])
{
    ovs_mutex_lock(&ports_mutex);
    memcpy(errors, past_errors, sizeof past_errors);
    ovs_mutex_unlock(&ports_mutex);
}

/* Removes 'port' from 'ports', destroys all that there is on it, what belongs
 * to connections with 'flush', and frees it. */
static void
port_destroy(struct dpdk_port *port, void (*flush)(struct dpdk_port *))
    OVS_REQUIRES(ports_mutex)
{
    struct dpdk_port *peer;
    unsigned int epoch;
    size_t n_failed;

    cmap_remove(&ports, &port->node, hash_pointer(port->netdev, 0));
    atomic_add_explicit(&shares_epoch, 1, &epoch, memory_order_acq_rel);
    ovs_mutex_lock(&port->mutex);
    port->gone = true;
    atomic_store_relaxed(&port->state, DPDK_PORT_UNKNOWN);
    ovs_mutex_unlock(&port->mutex);

    flush(port);

    /* Rules that were to find out whether 'peer' shares handles with 'port',
     * and could not be destroyed before. */
    CMAP_FOR_EACH (peer, node, &ports) {
        ovs_mutex_lock(&peer->mutex);
        dpdk_track_layout_tidy(&peer->layout);
        ovs_mutex_unlock(&peer->mutex);
    }

    ovs_mutex_lock(&port->mutex);
    n_failed = dpdk_track_layout_destroy(&port->layout);
    if (n_failed) {
        VLOG_ERR("%s: %"PRIuSIZE" rules or handles could not be destroyed",
                 port->name, n_failed);
    }
    dpdk_track_layout_forget(&port->layout);
    for (size_t i = 0; i < DPDK_N_CALLS; i++) {
        past_errors[i] += port->errors[i];
    }
    ovs_mutex_unlock(&port->mutex);
    ovsrcu_postpone(port_free, port);
}

/* Removes the port of 'netdev', if there is one, or, if 'netdev' is NULL, all
 * ports.  'flush' is called for each, and must destroy all that belongs to
 * connections, of which there are none any more.  When this returns, nothing
 * refers to 'netdev', and nothing that was made on it is there any more. */
void
dpdk_ports_remove(const struct netdev *netdev,
                  void (*flush)(struct dpdk_port *))
{
    struct dpdk_port *port;

    ovs_mutex_lock(&ports_mutex);
    CMAP_FOR_EACH (port, node, &ports) {
        if (!netdev || port->netdev == netdev) {
            port_destroy(port, flush);
        }
    }
    ovs_mutex_unlock(&ports_mutex);
}

/* What a port can do. */

enum dpdk_port_state
dpdk_port_get_state(struct dpdk_port *port)
{
    enum dpdk_port_state state;

    atomic_read_relaxed(&port->state, &state);
    return state;
}

/* Does 'port' have its layout? */
bool
dpdk_port_is_ready(struct dpdk_port *port)
{
    return dpdk_port_get_state(port) >= DPDK_PORT_UDP_ONLY;
}

/* Returns what 'port' can do, for people. */
const char *
dpdk_port_caps_to_string(struct dpdk_port *port)
{
    unsigned int caps = port->layout.caps;
    unsigned int use = caps & (DPDK_TRACK_COUNT | DPDK_TRACK_AGE);

    if (!dpdk_port_is_ready(port)) {
        return (dpdk_port_get_state(port) == DPDK_PORT_REFUSED ? "none"
                : "not known yet");
    }
    return (caps & DPDK_TRACK_CONNTRACK ? "conntrack"
            : use == DPDK_TRACK_COUNT ? "count"
            : use == DPDK_TRACK_AGE ? "age"
            : "count+age");
}

/* Sees to it that 'port' has its layout.  Returns 0 or a positive errno value,
 * one for which dpdk_flow_error_is_transient() is true if it may have one
 * later. */
int
dpdk_port_make_ready(struct dpdk_port *port)
{
    struct rte_flow_error error = { .message = NULL };
    uint16_t port_id;
    int retval;

    if (dpdk_port_is_ready(port)) {
        return 0;
    }
    if (port->gone || dpdk_port_get_state(port) == DPDK_PORT_REFUSED) {
        return ENODEV;
    }
    if (time_msec() < port->retry_at
        || !netdev_dpdk_get_started_port(port->netdev, &port_id)) {
        return EAGAIN;
    }

    retval = (dpdk_track_layout_destroy(&port->layout) ? EBUSY
              : dpdk_track_layout_create(&port->layout, port_id,
                                         netdev_n_rxq(port->netdev), &error));
    if (!retval) {
        bool tcp = port->layout.caps & DPDK_TRACK_TCP;

        atomic_store_relaxed(&port->state, (tcp ? DPDK_PORT_READY
                                            : DPDK_PORT_UDP_ONLY));
        VLOG_INFO("%s: can offload connections (%s%s)", port->name,
                  dpdk_port_caps_to_string(port), tcp ? "" : ", UDP only");
    } else if (dpdk_flow_error_is_transient(retval)) {
        dpdk_port_check(port, DPDK_CALL_LAYOUT, retval, &error);
        port->retry_at = time_msec() + RETRY_INTERVAL;
    } else {
        atomic_store_relaxed(&port->state, DPDK_PORT_REFUSED);
        VLOG_INFO("%s: cannot offload connections: %s (%s)", port->name,
                  ovs_strerror(retval),
                  error.message ? error.message : "no details");
    }
    return retval;
}

/* Returns what is known of 'port', or finds that out. */
enum dpdk_port_state
dpdk_port_learn_state(struct dpdk_port *port)
{
    if (dpdk_port_get_state(port) == DPDK_PORT_UNKNOWN) {
        ovs_mutex_lock(&port->mutex);
        dpdk_port_make_ready(port);
        ovs_mutex_unlock(&port->mutex);
    }
    return dpdk_port_get_state(port);
}

/* Two ports. */

/* Locks 'a' and 'b', either of which may be NULL, and which may be the same.
 */
void
dpdk_ports_lock(struct dpdk_port *a, struct dpdk_port *b)
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

void
dpdk_ports_unlock(struct dpdk_port *a, struct dpdk_port *b)
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
bool
dpdk_ports_share_handles(struct dpdk_port *a, struct dpdk_port *b)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    struct rte_flow_error error;
    unsigned int epoch;
    int8_t *shares;
    int retval;

    if (!(a->layout.caps & b->layout.caps & DPDK_TRACK_CONNTRACK)) {
        return false;
    }
    if (a == b) {
        return true;
    }

    atomic_read_explicit(&shares_epoch, &epoch, memory_order_acquire);
    if (a->shares_epoch != epoch) {
        a->shares_epoch = epoch;
        memset(a->shares, 0, sizeof a->shares);
    }
    shares = &a->shares[b->layout.port_id];
    if (!*shares) {
        retval = dpdk_track_probe_sharing(&a->layout, &b->layout, &error);
        if (dpdk_flow_error_is_transient(retval)) {
            dpdk_port_check(a, DPDK_CALL_LAYOUT, retval, &error);
            return false;
        }
        *shares = retval ? -1 : 1;
    }
    return *shares > 0;
}
