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

#include "ct-offload-port.h"

#include "cmap.h"
#include "hash.h"
#include "netdev.h"
#include "ovs-rcu.h"
#include "ovs-thread.h"
#include "sset.h"
#include "util.h"

/* What is at one place in the list of a port. */
struct port_member {
    struct conn_offload *offload;
    enum key_dir dir;
};

/* So often a rule may not be followed before a port is unreliable. */
#define DISOBEYED_MAX 3

struct offload_port {
    struct cmap_node netdev_node;   /* In 'by_netdev', until it stops. */
    struct cmap_node number_node;   /* In 'by_number'. */
    struct netdev *netdev;
    uint32_t number;
    atomic_bool stopped;
    atomic_bool follows;            /* A rule has counted packets. */
    atomic_count n_disobeyed;       /* How often a rule has not. */

    struct ovs_mutex mutex;         /* For all that follows. */
    struct port_member *members;
    size_t n_members, allocated_members;
};

/* Readers need no lock, writers hold the mutex. */
static struct ovs_mutex ports_mutex = OVS_MUTEX_INITIALIZER;
static struct cmap by_netdev = CMAP_INITIALIZER;
static struct cmap by_number = CMAP_INITIALIZER;
static uint32_t last_number OVS_GUARDED_BY(ports_mutex);

static struct offload_port *
port_find_netdev(const struct netdev *netdev)
{
    struct offload_port *port;

    CMAP_FOR_EACH_WITH_HASH (port, netdev_node, hash_pointer(netdev, 0),
                             &by_netdev) {
        if (port->netdev == netdev) {
            return port;
        }
    }
    return NULL;
}

static struct offload_port *
port_find(uint32_t number)
{
    struct offload_port *port;

    CMAP_FOR_EACH_WITH_HASH (port, number_node, hash_int(number, 0),
                             &by_number) {
        if (port->number == number) {
            return port;
        }
    }
    return NULL;
}

static struct offload_port *
port_create(struct netdev *netdev)
    OVS_REQUIRES(ports_mutex)
{
    struct offload_port *port = xzalloc(sizeof *port);

    /* 0 is no port, and a number is not used twice before all have been. */
    do {
        port->number = ++last_number;
    } while (!port->number || port_find(port->number));
    port->netdev = netdev;
    atomic_init(&port->stopped, false);
    atomic_init(&port->follows, false);
    atomic_count_init(&port->n_disobeyed, 0);
    ovs_mutex_init(&port->mutex);
    cmap_insert(&by_number, &port->number_node, hash_int(port->number, 0));
    cmap_insert(&by_netdev, &port->netdev_node, hash_pointer(netdev, 0));
    return port;
}

/* Returns the number of 'netdev', or 0 if that is NULL.  'netdev' must not
 * have stopped. */
uint32_t
ct_offload_port_get(struct netdev *netdev)
{
    struct offload_port *port;

    if (!netdev) {
        return 0;
    }
    port = port_find_netdev(netdev);
    if (OVS_UNLIKELY(!port)) {
        ovs_mutex_lock(&ports_mutex);
        port = port_find_netdev(netdev);
        if (!port) {
            port = port_create(netdev);
        }
        ovs_mutex_unlock(&ports_mutex);
    }
    return port->number;
}

/* Returns the netdev of 'number', or NULL if that is 0 or has stopped. */
struct netdev *
ct_offload_port_get_netdev(uint32_t number)
{
    struct offload_port *port = number ? port_find(number) : NULL;
    bool stopped = true;

    if (port) {
        atomic_read_explicit(&port->stopped, &stopped, memory_order_acquire);
    }
    return stopped ? NULL : port->netdev;
}

/* Adds the connection of 'offload', in direction 'dir', to the list of port
 * 'number', unless it is in one already.  For its owner. */
void
ct_offload_port_add(uint32_t number, struct conn_offload *offload,
                    enum key_dir dir)
{
    struct offload_port *port = number ? port_find(number) : NULL;

    if (!port || offload->port_number[dir]) {
        return;
    }
    ovs_mutex_lock(&port->mutex);
    if (port->n_members >= port->allocated_members) {
        port->members = x2nrealloc(port->members, &port->allocated_members,
                                   sizeof *port->members);
    }
    offload->port_number[dir] = number;
    offload->port_index[dir] = port->n_members;
    port->members[port->n_members++] = (struct port_member) { offload, dir };
    ovs_mutex_unlock(&port->mutex);
}

/* Removes the connection of 'offload', in direction 'dir', from the list that
 * it is in, if any.  For its owner. */
void
ct_offload_port_remove(struct conn_offload *offload, enum key_dir dir)
{
    struct offload_port *port;
    struct port_member *last;

    if (!offload->port_number[dir]) {
        return;
    }
    port = port_find(offload->port_number[dir]);
    ovs_mutex_lock(&port->mutex);
    last = &port->members[--port->n_members];
    last->offload->port_index[last->dir] = offload->port_index[dir];
    port->members[offload->port_index[dir]] = *last;
    offload->port_number[dir] = 0;
    ovs_mutex_unlock(&port->mutex);
}

/* Port 'number' has followed a rule. */
void
ct_offload_port_follows(uint32_t number)
{
    struct offload_port *port = port_find(number);
    bool follows = true;

    if (port) {
        atomic_read_relaxed(&port->follows, &follows);
    }
    if (!follows) {
        atomic_store_relaxed(&port->follows, true);
    }
}

/* Port 'number' has not followed a rule that it accepted.  Returns true if it
 * has become unreliable by that. */
bool
ct_offload_port_disobeys(uint32_t number)
{
    struct offload_port *port = port_find(number);
    bool follows;

    if (!port) {
        return false;
    }
    atomic_read_relaxed(&port->follows, &follows);
    return (!follows
            && atomic_count_inc(&port->n_disobeyed) + 1 == DISOBEYED_MAX);
}

static bool
port_is_unreliable(struct offload_port *port)
{
    return atomic_count_get(&port->n_disobeyed) >= DISOBEYED_MAX;
}

/* May hardware accept rules on port 'number', but not follow them? */
bool
ct_offload_port_is_unreliable(uint32_t number)
{
    struct offload_port *port = port_find(number);

    return port && port_is_unreliable(port);
}

/* Adds the names of all such ports to 'names'. */
void
ct_offload_port_get_unreliable(struct sset *names)
{
    struct offload_port *port;

    CMAP_FOR_EACH (port, netdev_node, &by_netdev) {
        if (port_is_unreliable(port)) {
            sset_add(names, netdev_get_name(port->netdev));
        }
    }
}

/* From now on the number of 'netdev' leads nowhere.  Returns it, or 0 if no
 * connection has ever come from 'netdev'. */
uint32_t
ct_offload_port_stop(const struct netdev *netdev)
{
    struct offload_port *port;

    ovs_mutex_lock(&ports_mutex);
    port = port_find_netdev(netdev);
    if (port) {
        atomic_store_explicit(&port->stopped, true, memory_order_release);
        cmap_remove(&by_netdev, &port->netdev_node, hash_pointer(netdev, 0));
    }
    ovs_mutex_unlock(&ports_mutex);

    return port ? port->number : 0;
}

/* Stores the connections on port 'number' in '*conns', to be freed by the
 * caller, and returns how many there are.  They are valid until the thread
 * quiesces. */
size_t
ct_offload_port_get_conns(uint32_t number, struct conn ***conns)
{
    struct offload_port *port = port_find(number);
    size_t n;

    ovs_mutex_lock(&port->mutex);
    n = port->n_members;
    *conns = xmalloc(MAX(n, 1) * sizeof **conns);
    for (size_t i = 0; i < n; i++) {
        (*conns)[i] = port->members[i].offload->conn;
    }
    ovs_mutex_unlock(&port->mutex);

    return n;
}

static void
port_free__(struct offload_port *port)
{
    ovs_mutex_destroy(&port->mutex);
    free(port->members);
    free(port);
}

/* Frees port 'number', which has stopped and has no connections any more. */
void
ct_offload_port_free(uint32_t number)
{
    struct offload_port *port;

    ovs_mutex_lock(&ports_mutex);
    port = port_find(number);
    cmap_remove(&by_number, &port->number_node, hash_int(number, 0));
    ovs_mutex_unlock(&ports_mutex);
    ovs_assert(!port->n_members);
    ovsrcu_postpone(port_free__, port);
}
