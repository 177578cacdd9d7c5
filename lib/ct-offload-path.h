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

#ifndef CT_OFFLOAD_PATH_H
#define CT_OFFLOAD_PATH_H 1

#include <stdbool.h>
#include <stddef.h>

#include "compiler.h"
#include "ovs-atomic.h"

struct conn;
struct dp_netdev_flow;
struct dpif_flow_attrs;
struct dpif_flow_stats;
struct ds;
struct flow;
struct flow_wildcards;
struct nlattr;

/* Packets that hardware forwards by itself
 * ========================================
 *
 * A "path" is one direction of a connection, the packets of which hardware
 * sends from port to port.  It is one rule: a match on what these packets are
 * like on the wire, and actions.  A "chain" is what many paths have in common:
 * a sequence of megaflows, with ct() between them, that packets go through.
 * See ct-offload-trace.h for how it is learned, and ct-offload-merge.h for how
 * it becomes a rule.
 *
 * A path belongs to the connections, one in each zone, that its packets pass.
 * It lives only as long as all that made it: a megaflow that is changed or
 * removed ends the paths of its chains, a connection that is taken back ends
 * its own.  What the provider has counted is credited to each megaflow of the
 * chain, and tells when its connections were last used.
 *
 * Life
 * ====
 *
 *     est.     a connection is established in hardware: it waits for packets
 *              that are traced, by a bit in its state for each direction
 *     traced   the thread that has traced a packet makes itself the owner of
 *              all its connections, and leaves the rest to an offload thread
 *     new      the chain is looked up or compiled, the path is in all lists,
 *              and the provider is told
 *     live
 *     ended    taken out of all lists; whoever has done that tells the
 *              provider, and credits what was counted last
 *
 * Threads
 * =======
 *
 * One mutex guards chains and paths.  It is held for memory operations only,
 * never around a call into a provider, and nothing is taken inside of it.
 * A megaflow's hooks are called with the mutex of its PMD thread's table held.
 */

/* Calls from dpif-netdev.c: see below. */
void ct_path_flow_changed__(struct dp_netdev_flow *);
void ct_path_flow_stats__(const struct dp_netdev_flow *,
                          struct dpif_flow_stats *, struct dpif_flow_attrs *);
void ct_path_flow_free(void *ct_path);

/* In dpif-netdev.c: what there is to know of a megaflow, and where it keeps
 * what this file knows of it. */
const struct flow *dp_netdev_flow_get_key(const struct dp_netdev_flow *);
void dp_netdev_flow_get_mask(const struct dp_netdev_flow *,
                             struct flow_wildcards *);
const struct nlattr *dp_netdev_flow_get_nlattrs(const struct dp_netdev_flow *,
                                                size_t *len);
void dp_netdev_flow_format_ufid(const struct dp_netdev_flow *, struct ds *);
bool dp_netdev_flow_is_dead(const struct dp_netdev_flow *);
bool dp_netdev_flow_try_ref(struct dp_netdev_flow *);
void *dp_netdev_flow_get_ct_path(const struct dp_netdev_flow *);
void dp_netdev_flow_set_ct_path(struct dp_netdev_flow *, void *);
void dp_netdev_flow_unref(struct dp_netdev_flow *);

/* What 'flow' does has changed, or it is dead.  The mutex of its table is
 * held. */
static inline void
ct_path_flow_changed(struct dp_netdev_flow *flow)
{
    /* Either this finds what a thread that makes a chain of 'flow' has put
     * there, or that thread finds the change. */
    atomic_thread_fence(memory_order_seq_cst);
    if (OVS_UNLIKELY(dp_netdev_flow_get_ct_path(flow))) {
        ct_path_flow_changed__(flow);
    }
}

/* Adds to '*stats', and to '*attrs' if that is nonnull, what hardware has done
 * for 'flow'. */
static inline void
ct_path_flow_stats(const struct dp_netdev_flow *flow,
                   struct dpif_flow_stats *stats,
                   struct dpif_flow_attrs *attrs)
{
    if (OVS_UNLIKELY(dp_netdev_flow_get_ct_path(flow))) {
        ct_path_flow_stats__(flow, stats, attrs);
    }
}

/* Calls from ct-offload-module.c. */
void ct_path_init(void);
void ct_path_configure(bool enabled);
void ct_path_format(struct ds *);
void ct_path_format_chains(struct ds *, bool more);
void ct_path_format_paths(struct ds *, const char *part);

#endif /* ct-offload-path.h */
