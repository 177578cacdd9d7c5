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

#ifndef CT_OFFLOAD_DPDK_PORT_H
#define CT_OFFLOAD_DPDK_PORT_H 1

#include <stdbool.h>
#include <stdint.h>

#include <rte_config.h>

#include "cmap.h"
#include "ct-offload-dpdk-track.h"
#include "guarded-list.h"
#include "openvswitch/hmap.h"
#include "openvswitch/list.h"
#include "ovs-atomic.h"
#include "ovs-thread.h"

/* Ports of the conntrack offload provider on DPDK's rte_flow
 * ==========================================================
 *
 * A port appears when it is first asked for, and is removed when it is about
 * to stop.  The netdev has no owner in dpif-offload then, so that it cannot
 * get another port.
 *
 * All functions may be called from any thread.  A port is found without a
 * lock, stays valid until the thread quiesces, and has a mutex for all that is
 * about it.  If those of two are needed, dpdk_ports_lock() takes them in the
 * order of their addresses.  A mutex that is for the appearance and removal
 * of ports alone comes before those. */

struct netdev;
struct shash;

/* The owner of the ports, in dpif-offload. */
#define DPDK_PORT_OWNER "dpdk"

/* Calls of rte_flow that can fail. */
enum dpdk_call {
    DPDK_CALL_LAYOUT,
    DPDK_CALL_CREATE,
    DPDK_CALL_DESTROY,
    DPDK_CALL_QUERY,
    DPDK_CALL_HANDLE_CREATE,
    DPDK_CALL_HANDLE_UPDATE,
    DPDK_CALL_HANDLE_DESTROY,
    DPDK_N_CALLS
};

/* What is known of a port. */
enum dpdk_port_state {
    DPDK_PORT_UNKNOWN,              /* Nothing yet. */
    DPDK_PORT_REFUSED,              /* Cannot do anything. */
    DPDK_PORT_UDP_ONLY,             /* 'layout' is there, without TCP. */
    DPDK_PORT_READY,                /* 'layout' is there. */
};

/* Does a port forward packets by itself? */
enum dpdk_forward_state {
    DPDK_FORWARD_UNKNOWN,
    DPDK_FORWARD_REFUSED,           /* No. */
    DPDK_FORWARD_UDP_ONLY,          /* Yes, but TCP. */
    DPDK_FORWARD_READY,             /* Yes. */
};

/* Why a path was refused before hardware was asked. */
enum dpdk_refusal {
    DPDK_REFUSED_STATE,             /* Its port does not forward, any more. */
    DPDK_REFUSED_MATCH,             /* No words for what it matches... */
    DPDK_REFUSED_ACTION,            /* ...or does. */
    DPDK_REFUSED_PORT,              /* It does not lead to a DPDK port... */
    DPDK_REFUSED_SWITCH,            /* ...or to one of another switch. */
    DPDK_REFUSED_TCP,               /* It needs a match on TCP flags. */
    DPDK_REFUSED_LIMITED,           /* Policing or QoS would be lost. */
    DPDK_REFUSED_UNABLE,            /* Something like it has failed before. */
    DPDK_REFUSED_FULL,              /* The table was full a moment ago. */
    DPDK_REFUSED_DEAD,              /* There are rules that do not go. */
    DPDK_N_REFUSALS
};

struct dpdk_port {
    struct cmap_node node;          /* By 'netdev'. */
    struct netdev *netdev;          /* Valid until the port is 'gone'. */
    char *name;
    ATOMIC(enum dpdk_port_state) state; /* Written with 'mutex'. */

    struct ovs_mutex mutex;         /* For all that follows. */
    bool gone;                      /* Was removed. */
    long long int retry_at;         /* When to try to make 'layout' again. */
    struct dpdk_track_layout layout;
    unsigned long long int errors[DPDK_N_CALLS];

    /* Which ports, by their number, can share handles with this one: -1 for
     * no, 1 for yes, 0 if that is not known. */
    int8_t shares[RTE_MAX_ETHPORTS];
    unsigned int shares_epoch;      /* When that was true. */

    /* Of ct-offload-dpdk-rule.c. */
    struct hmap rules;              /* Of struct dpdk_rule. */
    struct ovs_list dead_rules;     /* Those that could not be destroyed. */
    struct guarded_list dead_handles; /* Those that no rule uses. */
    unsigned int n_handles;         /* Of struct dpdk_handle, with those. */
    bool verified;                  /* A rule has counted packets. */
    unsigned long long int n_shared; /* Times that a rule was shared. */

    /* Of ct-offload-dpdk-probe.c. */
    ATOMIC(enum dpdk_forward_state) forward; /* Written with 'mutex'. */
    char *forward_words;            /* Why it does not forward, or NULL. */
    atomic_llong forward_retry_at;  /* When to look again whether it does, or
                                     * 0.  Written with 'mutex'. */
    struct dpdk_port *home;         /* Where its paths have their rules: itself
                                     * or its proxy; NULL unless it does. */
    uint16_t forward_id;            /* Its DPDK port number, if it forwards or
                                     * is home of others. */
    struct hmap pairs;              /* Of struct dpdk_pair, by where to. */
    long long int full_until;       /* No new rules before that. */
    struct ovs_list dead_paths;     /* Of struct dead_path. */

    /* Of ct-offload-dpdk-forward.c. */
    unsigned long long int n_refused[DPDK_N_REFUSALS];

    /* The same, with its mutex for lists of paths.  Those by 'home' have their
     * rules on this port, those by 'in' and 'out' begin and end here. */
    bool closed;                    /* There is no new one. */
    struct ovs_list home_paths, in_paths, out_paths;
    unsigned int n_in, n_out, n_home; /* How many there are. */

    /* Of ct-offload-dpdk.c. */
    unsigned int n_bi_dir;          /* Connections with two rules... */
    unsigned int n_uni_dir;         /* ...or one, that began here. */
};

/* All ports. */
void dpdk_ports_set_running(bool);
void dpdk_ports_remove(const struct netdev *,
                       void (*flush)(struct dpdk_port *));
void dpdk_ports_get_all(struct shash *);
void dpdk_ports_get_past_errors(unsigned long long int errors[DPDK_N_CALLS]);

/* One port. */
struct dpdk_port *dpdk_port_find(const struct netdev *);
struct dpdk_port *dpdk_port_get(struct netdev *);
enum dpdk_port_state dpdk_port_get_state(struct dpdk_port *);
enum dpdk_port_state dpdk_port_learn_state(struct dpdk_port *);
bool dpdk_port_is_ready(struct dpdk_port *);
int dpdk_port_make_ready(struct dpdk_port *port) OVS_REQUIRES(port->mutex);
const char *dpdk_port_caps_to_string(struct dpdk_port *port)
    OVS_REQUIRES(port->mutex);

/* Two of them. */
void dpdk_ports_lock(struct dpdk_port *, struct dpdk_port *);
void dpdk_ports_unlock(struct dpdk_port *, struct dpdk_port *);
bool dpdk_ports_share_handles(struct dpdk_port *, struct dpdk_port *);

/* Errors. */
extern const char *const dpdk_call_names[DPDK_N_CALLS];
int dpdk_port_check(struct dpdk_port *port, enum dpdk_call, int retval,
                    const struct rte_flow_error *)
    OVS_REQUIRES(port->mutex);

#endif /* ct-offload-dpdk-port.h */
