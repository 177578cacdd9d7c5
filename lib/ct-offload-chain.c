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

#include "ct-offload-chain.h"

#include <string.h>

#include "conntrack-offload-run.h"
#include "coverage.h"
#include "dpif.h"
#include "hash.h"
#include "hmapx.h"
#include "ovs-atomic.h"
#include "util.h"

COVERAGE_DEFINE(ct_path_invalidate);

struct ovs_mutex ct_chains_mutex = OVS_MUTEX_INITIALIZER;
struct hmap ct_chains = HMAP_INITIALIZER(&ct_chains);
struct ovs_list ct_chains_dying = OVS_LIST_INITIALIZER(&ct_chains_dying);

/* What hangs off a megaflow that is in a chain, until it is freed. */
struct flow_block {
    struct hmapx chains;        /* Contains "struct ct_chain"s. */

    /* What was done for it on chains that are not there any more. */
    uint64_t n_packets, n_bytes;
    long long int used;
};

/* Megaflows. */

static void
flow_make_block(struct dp_netdev_flow *flow)
    OVS_REQUIRES(ct_chains_mutex)
{
    if (!dp_netdev_flow_get_ct_path(flow)) {
        struct flow_block *block = xzalloc(sizeof *block);

        hmapx_init(&block->chains);
        dp_netdev_flow_set_ct_path(flow, block);
    }
}

/* A megaflow that had 'ct_path' is being freed. */
void
ct_path_flow_free(void *ct_path)
{
    struct flow_block *block = ct_path;

    if (block) {
        hmapx_destroy(&block->chains);
        free(block);
    }
}

/* Adds what 'chain' has done for its megaflow number 'i' to '*n_packets' and
 * '*n_bytes'. */
static void
chain_add_totals(const struct ct_chain *chain, size_t i, uint64_t *n_packets,
                 uint64_t *n_bytes)
    OVS_REQUIRES(ct_chains_mutex)
{
    *n_packets += chain->n_packets;
    *n_bytes += chain->n_bytes;
    if (chain->merge) {
        *n_bytes += chain->merge->size_diff[i] * (int64_t) chain->n_packets;
    }
}

/* Has any chain of 'flow' paths? */
bool
ct_chains_flow_has_paths(const struct dp_netdev_flow *flow)
{
    const struct flow_block *block = dp_netdev_flow_get_ct_path(flow);
    struct hmapx_node *node;

    HMAPX_FOR_EACH (node, &block->chains) {
        if (((const struct ct_chain *) node->data)->n_paths) {
            return true;
        }
    }
    return false;
}

/* Adds to '*stats', and to '*attrs' if that is nonnull, what hardware has done
 * for 'flow'.  Chains that have seen packets since 'recent' are in use now: it
 * may be long until that is known better. */
void
ct_chains_get_flow_stats(const struct dp_netdev_flow *flow,
                         long long int recent, struct dpif_flow_stats *stats,
                         struct dpif_flow_attrs *attrs)
{
    const struct flow_block *block = dp_netdev_flow_get_ct_path(flow);
    uint64_t n_packets = block->n_packets;
    uint64_t n_bytes = block->n_bytes;
    long long int used = block->used;
    struct hmapx_node *node;

    HMAPX_FOR_EACH (node, &block->chains) {
        const struct ct_chain *chain = node->data;

        for (size_t i = 0; i < chain->key.n_flows; i++) {
            if (chain->key.flows[i] == flow) {
                chain_add_totals(chain, i, &n_packets, &n_bytes);
            }
        }
        used = MAX(used, chain->used);
    }
    stats->n_packets += n_packets;
    stats->n_bytes += n_bytes;
    if (used && used >= recent) {
        used = time_msec();
    }
    stats->used = MAX(stats->used, used);
    if (attrs) {
        attrs->offloaded |= ct_chains_flow_has_paths(flow);
    }
}

/* Takes references on the 'n' megaflows in 'flows'.  Returns false, with none
 * taken, if one is being freed. */
bool
ct_chain_flows_ref(struct dp_netdev_flow *const *flows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!dp_netdev_flow_try_ref(flows[i])) {
            ct_chain_flows_unref(flows, i);
            return false;
        }
    }
    return true;
}

void
ct_chain_flows_unref(struct dp_netdev_flow *const *flows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        dp_netdev_flow_unref(flows[i]);
    }
}

/* Chains. */

/* 'chain' was done: what it has done for its megaflows is theirs. */
static void
chain_free(struct ct_chain *chain)
    OVS_REQUIRES(ct_chains_mutex)
{
    for (size_t i = 0; i < chain->key.n_flows; i++) {
        struct flow_block *block
            = dp_netdev_flow_get_ct_path(chain->key.flows[i]);

        chain_add_totals(chain, i, &block->n_packets, &block->n_bytes);
        block->used = MAX(block->used, chain->used);
        hmapx_find_and_delete(&block->chains, chain);
    }
    ct_chain_flows_unref(chain->key.flows, chain->key.n_flows);
    ct_merge_destroy(chain->merge);
    free(chain);
}

static void
chain_free_if_done(struct ct_chain *chain)
    OVS_REQUIRES(ct_chains_mutex)
{
    if (!chain->valid && !chain->n_paths) {
        ovs_list_remove(&chain->dying_node);
        chain_free(chain);
    }
}

/* From now on no path is made on 'chain', and those that are there are to go.
 * It may be freed. */
void
ct_chain_invalidate(struct ct_chain *chain)
{
    if (chain->valid) {
        COVERAGE_INC(ct_path_invalidate);
        chain->valid = false;
        conn_forget_refusals();
        hmap_remove(&ct_chains, &chain->node);
        ovs_list_push_back(&ct_chains_dying, &chain->dying_node);
        chain_free_if_done(chain);
    }
}

/* A path of 'chain' was destroyed.  'chain' may be freed. */
void
ct_chain_lost_path(struct ct_chain *chain)
{
    chain->n_paths--;
    chain_free_if_done(chain);
}

/* Hardware has forwarded 'n_packets' packets, with 'n_bytes' bytes on the
 * wire, on 'chain', up to time 'used'. */
void
ct_chain_credit(struct ct_chain *chain, uint64_t n_packets, uint64_t n_bytes,
                long long int used)
{
    chain->n_packets += n_packets;
    chain->n_bytes += n_bytes;
    chain->used = used;
}

/* What 'flow' does has changed, or it is dead: invalidates its chains.
 * Returns true if they have paths. */
bool
ct_chains_invalidate_flow(struct dp_netdev_flow *flow)
{
    struct flow_block *block = dp_netdev_flow_get_ct_path(flow);
    bool any = ct_chains_flow_has_paths(flow);
    struct hmapx_node *node;

    HMAPX_FOR_EACH_SAFE (node, &block->chains) {
        ct_chain_invalidate(node->data);
    }
    return any;
}

static uint32_t
key_hash(const struct ct_chain_key *key)
{
    return hash_bytes(key->flows, key->n_flows * sizeof *key->flows,
                      hash_bytes(key->shapes,
                                 key->n_cts * sizeof *key->shapes, 0));
}

static struct ct_chain *
chain_find(const struct ct_chain_key *key, uint32_t hash)
    OVS_REQUIRES(ct_chains_mutex)
{
    struct ct_chain *chain;

    HMAP_FOR_EACH_WITH_HASH (chain, node, hash, &ct_chains) {
        const struct ct_chain_key *k = &chain->key;

        if (k->ct == key->ct && k->n_flows == key->n_flows
            && k->n_cts == key->n_cts
            && !memcmp(k->flows, key->flows, k->n_flows * sizeof *k->flows)
            && !memcmp(k->shapes, key->shapes, k->n_cts * sizeof *k->shapes)
            && !memcmp(k->cts, key->cts, k->n_cts)) {
            return chain;
        }
    }
    return NULL;
}

/* Compiles 'chain', which nobody else knows yet, for connections that are like
 * 'conns'.  Stores in 'actions' which actions of each megaflow were looked at.
 * Returns false if a megaflow is gone. */
static bool
chain_compile(struct ct_chain *chain, const struct ct_merge_conn conns[],
              const struct nlattr *actions[])
{
    struct flow_wildcards masks[CT_MERGE_MAX_FLOWS];
    struct ct_merge_flow flows[CT_MERGE_MAX_FLOWS];

    for (size_t i = 0; i < chain->key.n_flows; i++) {
        const struct dp_netdev_flow *flow = chain->key.flows[i];

        /* A reference does not keep the mask, which megaflows share: it may be
         * freed as soon as all threads have quiesced after a megaflow was
         * removed.  This one has not since it has seen that it is there. */
        if (dp_netdev_flow_is_dead(flow)) {
            return false;
        }
        dp_netdev_flow_get_mask(flow, &masks[i]);
        flows[i].key = dp_netdev_flow_get_key(flow);
        flows[i].mask = &masks[i].masks;
        actions[i] = flows[i].actions
            = dp_netdev_flow_get_nlattrs(flow, &flows[i].actions_len);
    }
    chain->refused = ct_merge_create(flows, chain->key.n_flows, conns,
                                     chain->key.n_cts, chain->key.vport,
                                     &chain->merge);
    return true;
}

/* Do the megaflows of 'chain' still do what 'actions' says, and live?  Whoever
 * changes one after this waits for the mutex, and invalidates 'chain'. */
static bool
chain_is_current(const struct ct_chain *chain, const struct nlattr *actions[])
    OVS_REQUIRES(ct_chains_mutex)
{
    for (size_t i = 0; i < chain->key.n_flows; i++) {
        flow_make_block(chain->key.flows[i]);
    }
    /* Either this is seen by ct_path_flow_changed(), or what that is called
     * for is seen here. */
    atomic_thread_fence(memory_order_seq_cst);
    for (size_t i = 0; i < chain->key.n_flows; i++) {
        const struct dp_netdev_flow *flow = chain->key.flows[i];
        size_t len;

        if (dp_netdev_flow_is_dead(flow)
            || dp_netdev_flow_get_nlattrs(flow, &len) != actions[i]) {
            return false;
        }
    }
    return true;
}

/* Returns the chain with 'key', for connections that are like 'conns', which
 * is compiled if it is new.  Returns NULL if a megaflow has just changed or
 * gone.  Releases the mutex while it compiles. */
struct ct_chain *
ct_chain_get(const struct ct_chain_key *key,
             const struct ct_merge_conn conns[])
{
    const struct nlattr *actions[CT_MERGE_MAX_FLOWS];
    uint32_t hash = key_hash(key);
    struct ct_chain *chain = chain_find(key, hash);
    struct ct_chain *other;
    bool current;

    if (chain || !ct_chain_flows_ref(key->flows, key->n_flows)) {
        return chain;
    }
    ovs_mutex_unlock(&ct_chains_mutex);
    chain = xzalloc(sizeof *chain);
    chain->key = *key;
    ovs_list_init(&chain->paths);
    current = chain_compile(chain, conns, actions);
    ovs_mutex_lock(&ct_chains_mutex);

    other = chain_find(key, hash);
    current = current && !other && chain_is_current(chain, actions);
    if (!current) {
        ct_chain_flows_unref(key->flows, key->n_flows);
        ct_merge_destroy(chain->merge);
        free(chain);
        return other;
    }
    for (size_t i = 0; i < key->n_flows; i++) {
        struct flow_block *block = dp_netdev_flow_get_ct_path(key->flows[i]);

        hmapx_add(&block->chains, chain);
    }
    chain->valid = true;
    hmap_insert(&ct_chains, &chain->node, hash);
    return chain;
}
