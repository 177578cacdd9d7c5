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

#ifndef CT_OFFLOAD_CHAIN_H
#define CT_OFFLOAD_CHAIN_H 1

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ct-offload-merge.h"
#include "openvswitch/hmap.h"
#include "openvswitch/list.h"
#include "ovs-thread.h"

struct conntrack;
struct ct_fence;
struct dp_netdev_flow;
struct dpif_flow_attrs;
struct dpif_flow_stats;
struct ds;
struct flow;
struct flow_wildcards;
struct nlattr;

/* Chains: what many paths have in common
 * ======================================
 *
 * A chain is a sequence of megaflows, with ct() between them, that packets go
 * through one after the other.  There are few: as many as there are ways
 * through the policy.  What is known of each is what the compiler in
 * ct-offload-merge.h makes of it, once.  If that refuses it, the chain stays
 * to remember why.
 *
 * A chain is valid as long as none of its megaflows is changed or removed.  No
 * path is made on one that is not, and it is freed with its last path.
 *
 * Each megaflow that is in a chain knows its chains.  What hardware has
 * forwarded on a chain is what it has done for each of its megaflows.
 *
 * Threads
 * =======
 *
 * One mutex guards chains, and paths, too.  It is held for memory operations
 * only, never around a call into a provider, and nothing is taken inside of
 * it.  It may be taken in the hooks of a megaflow, with the mutex of its PMD
 * thread's table held, and in those of a connection. */
extern struct ovs_mutex ct_chains_mutex;

/* In 'cts': ct() has found no connection. */
#define CT_CHAIN_MISS UINT8_MAX

/* What a chain is found by. */
struct ct_chain_key {
    struct dp_netdev_flow *flows[CT_MERGE_MAX_FLOWS];
    struct conntrack *ct;
    struct ct_merge_vport vport; /* Follows from the megaflows. */
    uint32_t shapes[CT_MERGE_MAX_CONNS]; /* See ct_merge_conn_shape(). */
    uint8_t cts[CT_MERGE_MAX_CONNS]; /* Each ct(): which of a path's
                                      * connections it finds. */
    uint8_t n_flows, n_cts;
    uint8_t replies;            /* A bit for each ct(): is the packet a reply
                                 * there?  The shapes have that, too. */
    uint16_t zones[CT_MERGE_MAX_CONNS]; /* Those of the actions. */
};

/* Of a chain that is not valid any more: see ct-offload-fence.h. */
enum ct_chain_fence {
    CT_CHAIN_FENCE_NONE,
    CT_CHAIN_FENCE_PENDING,     /* The provider is being told. */
    CT_CHAIN_FENCE_UP,
    CT_CHAIN_FENCE_REFUSED,
};

struct ct_chain {
    struct hmap_node node;      /* In 'ct_chains' while it is valid. */
    struct ct_chain_key key;    /* With references on the megaflows. */

    enum ct_merge_reason refused; /* Or CT_MERGE_OK... */
    struct ct_merge *merge;     /* ...and what was compiled. */

    /* Of its paths, while there are any. */
    uint32_t ports[2];          /* In and out: see ct-offload-port.h. */
    unsigned int slot;          /* The provider, in the registry. */
    bool followed;              /* Has hardware followed one of them? */

    bool valid;
    struct ovs_list dying_node; /* In 'ct_chains_dying' while it is not. */
    struct ovs_list paths;      /* For ct-offload-path.c... */
    size_t n_paths;             /* ...and how many are not destroyed yet. */
    enum ct_chain_fence fence;
    struct ct_fence *behind;    /* With CT_CHAIN_FENCE_UP. */

    /* As last sampled. */
    uint64_t n_packets, n_bytes; /* Of all its paths, on the wire. */
    long long int used;         /* When that has changed, in ms. */
};

extern struct hmap ct_chains OVS_GUARDED_BY(ct_chains_mutex);
extern struct ovs_list ct_chains_dying OVS_GUARDED_BY(ct_chains_mutex);

bool ct_chain_flows_ref(struct dp_netdev_flow *const *, size_t n);
void ct_chain_flows_unref(struct dp_netdev_flow *const *, size_t n);

struct ct_chain *ct_chain_get(const struct ct_chain_key *,
                              const struct ct_merge_conn[])
    OVS_REQUIRES(ct_chains_mutex);
void ct_chain_invalidate(struct ct_chain *) OVS_REQUIRES(ct_chains_mutex);
void ct_chain_lost_path(struct ct_chain *) OVS_REQUIRES(ct_chains_mutex);
void ct_chain_credit(struct ct_chain *, uint64_t n_packets, uint64_t n_bytes,
                     long long int used)
    OVS_REQUIRES(ct_chains_mutex);

/* Megaflows, of which 'dp_netdev_flow_get_ct_path()' is nonnull. */
bool ct_chains_invalidate_flow(struct dp_netdev_flow *)
    OVS_REQUIRES(ct_chains_mutex);
bool ct_chains_flow_has_paths(const struct dp_netdev_flow *)
    OVS_REQUIRES(ct_chains_mutex);
void ct_chains_get_flow_stats(const struct dp_netdev_flow *,
                              long long int recent, struct dpif_flow_stats *,
                              struct dpif_flow_attrs *)
    OVS_REQUIRES(ct_chains_mutex);

/* In dpif-netdev.c: what there is to know of a megaflow, and where it keeps
 * what is known here of it. */
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

/* Called by dpif-netdev.c. */
void ct_path_flow_free(void *ct_path);

#endif /* ct-offload-chain.h */
