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
#include "ct-offload-chain.h"
#include "ovs-atomic.h"

struct conn;
struct json;

/* Packets that hardware forwards by itself
 * ========================================
 *
 * A "path" is one direction of a connection, the packets of which hardware
 * sends from port to port.  It is one rule: a match on what these packets are
 * like on the wire, and actions.  It is learned from one packet, see
 * ct-offload-trace.h, which tells the chain of megaflows that packets go
 * through, see ct-offload-chain.h; the compiler in ct-offload-merge.h makes
 * the rule.
 *
 * A path belongs to the connections, one in each zone, that its packets pass:
 *
 *   - those that are established in hardware, at least one;
 *
 *   - those that have had no reply, as long as that is so;
 *
 *   - and none where ct() finds nothing, as long as nothing is committed there
 *     that it would find.
 *
 * It lives only as long as all that made it: a megaflow that is changed or
 * removed ends the paths of its chains, a connection that is taken back, as
 * its port may be, ends its own.  What the provider has counted is credited to
 * each megaflow of the chain, and tells when the connections were last used.
 *
 * Life
 * ====
 *
 *     est.     a connection is established in hardware: it waits for packets
 *              that are traced, by a bit in its state for each direction
 *     traced   the thread that has traced a packet makes itself the owner of
 *              all its connections, and leaves the rest to an offload thread
 *     new      the chain is looked up or compiled, the path is in all tables,
 *              and the provider is told
 *     live     the provider is asked from time to time what it has counted:
 *              see ct-offload-path-sample.c
 *     ending   whoever has begun that tells the provider, credits what was
 *              counted last, and frees the path
 *
 * Threads
 * =======
 *
 * The mutex of chains guards paths, too.  While that is released, a path that
 * is new or ending belongs to the thread that makes or ends it, and a live one
 * stays as long as somebody holds it. */

/* Calls from dpif-netdev.c: see below. */
void ct_path_flow_changed__(struct dp_netdev_flow *);
void ct_path_flow_sync__(struct dp_netdev_flow *);
void ct_path_flow_stats__(const struct dp_netdev_flow *,
                          struct dpif_flow_stats *, struct dpif_flow_attrs *);

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

/* 'flow', if it is nonnull, is about to be removed.  Waits a little, so that
 * its counters have what hardware has done for it last.  No lock may be held.
 */
static inline void
ct_path_flow_sync(struct dp_netdev_flow *flow)
{
    if (OVS_UNLIKELY(flow && dp_netdev_flow_get_ct_path(flow))) {
        ct_path_flow_sync__(flow);
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
void ct_path_make_init(void);
void ct_path_sample_init(void);
void ct_path_configure(bool enabled);

/* For people: appended to 'ds' or, if 'json' is nonnull, added to that. */
void ct_path_show(struct ds *, struct json *object);
void ct_path_show_chains(const char *more, struct ds *, struct json *array);
void ct_path_show_paths(const char *part, struct ds *, struct json *array);
void ct_path_explain(const struct conn *, struct ds *);

#endif /* ct-offload-path.h */
