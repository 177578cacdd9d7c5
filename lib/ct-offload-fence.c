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

#include "ct-offload-fence.h"

#include <errno.h>
#include <string.h>

#include "coverage.h"
#include "ct-offload-port.h"
#include "ct-offload-private.h"
#include "dpif.h"
#include "odp-util.h"
#include "openvswitch/match.h"
#include "openvswitch/vlog.h"

VLOG_DEFINE_THIS_MODULE(ct_offload_fence);

COVERAGE_DEFINE(ct_path_fence);

static struct vlog_rate_limit rl = VLOG_RATE_LIMIT_INIT(5, 5);

size_t ct_fence_min_paths = 1000;

/* A fence. */
struct ct_fence {
    struct ovs_list node;       /* In 'fences'. */
    struct match match;
    struct ct_offload_tunnel tunnel; /* See ct-offload.h. */
    uint32_t port;              /* Where packets come from... */
    unsigned int slot;          /* ...and the provider. */
    void *priv;                 /* Of the provider. */
    size_t n_chains;            /* That are behind it. */
    bool busy;                  /* The provider is being told. */
};

static struct ovs_list fences OVS_GUARDED_BY(ct_chains_mutex)
    = OVS_LIST_INITIALIZER(&fences);
static struct ct_fence_counts counts OVS_GUARDED_BY(ct_chains_mutex);

/* Returns the fence that 'chain', all paths of which match 'match', can be
 * behind, or NULL. */
static struct ct_fence *
fence_find(const struct ct_chain *chain, const struct match *match)
    OVS_REQUIRES(ct_chains_mutex)
{
    struct ct_fence *fence;

    LIST_FOR_EACH (fence, node, &fences) {
        if (fence->port == chain->ports[0] && fence->slot == chain->slot
            && match_equal(&fence->match, match)
            && !memcmp(&fence->tunnel, &chain->merge->tunnel,
                       sizeof fence->tunnel)) {
            return fence;
        }
    }
    return NULL;
}

/* Should 'chain', the paths of which are to end, have a fence first?  Not just
 * now, if one that it can be behind comes or goes. */
bool
ct_fence_is_due(const struct ct_chain *chain)
{
    const struct ct_fence *fence;
    struct match match;

    if (chain->valid || chain->fence != CT_CHAIN_FENCE_NONE
        || chain->n_paths < ct_fence_min_paths) {
        return false;
    }
    ct_merge_get_common_match(chain->merge, &match);
    fence = fence_find(chain, &match);
    return !fence || !fence->busy;
}

/* Has the provider make 'fence' for 'chain'. */
static int
fence_add(struct ct_fence *fence, const struct ct_chain *chain)
    OVS_EXCLUDED(ct_chains_mutex)
{
    struct ct_offload_path path = {
        .fence = true,
        .netdev_in = ct_offload_port_get_netdev(fence->port),
        .in_port = chain->merge->in_port,
        .out_port = ODPP_NONE,
        .match = &fence->match,
        .tunnel = fence->tunnel.type ? &fence->tunnel : NULL,
    };

    return (path.netdev_in
            ? ct_offload_path_add(fence->slot, &path, &fence->priv) : ENODEV);
}

static void
fence_free(struct ct_fence *fence)
    OVS_REQUIRES(ct_chains_mutex)
{
    ovs_list_remove(&fence->node);
    free(fence);
}

/* Raises the fence of 'chain', if the provider can.  The caller holds one of
 * its paths.  Releases the mutex meanwhile. */
void
ct_fence_raise(struct ct_chain *chain)
{
    struct ct_fence *fence;
    struct match match;
    int error;

    ct_merge_get_common_match(chain->merge, &match);
    fence = fence_find(chain, &match);
    if (!fence) {
        fence = xzalloc(sizeof *fence);
        fence->match = match;
        fence->tunnel = chain->merge->tunnel;
        fence->port = chain->ports[0];
        fence->slot = chain->slot;
        fence->busy = true;
        ovs_list_push_back(&fences, &fence->node);

        chain->fence = CT_CHAIN_FENCE_PENDING;
        ovs_mutex_unlock(&ct_chains_mutex);
        error = fence_add(fence, chain);
        ovs_mutex_lock(&ct_chains_mutex);

        fence->busy = false;
        if (error) {
            fence_free(fence);
            chain->fence = CT_CHAIN_FENCE_REFUSED;
            counts.refused++;
            VLOG_INFO_RL(&rl, "a policy has changed that %"PRIuSIZE" paths "
                         "depend on, and hardware cannot send their packets "
                         "to software at once (%s): it forwards by the old "
                         "policy until each of them has ended",
                         chain->n_paths, ovs_strerror(error));
            return;
        }
        COVERAGE_INC(ct_path_fence);
        counts.raised++;
        counts.n_up++;
    }
    fence->n_chains++;
    chain->behind = fence;
    chain->fence = CT_CHAIN_FENCE_UP;
}

/* Lowers the fence of 'chain', if there is one, and no other chain is behind
 * it.  The caller is about to give up its last path.  Releases the mutex
 * meanwhile. */
void
ct_fence_lower(struct ct_chain *chain)
{
    struct ct_fence *fence = chain->behind;
    struct dpif_flow_stats stats;

    if (chain->fence != CT_CHAIN_FENCE_UP) {
        return;
    }
    chain->fence = CT_CHAIN_FENCE_PENDING;
    if (--fence->n_chains) {
        return;
    }
    fence->busy = true;
    ovs_mutex_unlock(&ct_chains_mutex);
    memset(&stats, 0, sizeof stats);
    ct_offload_path_del(fence->slot, &fence->priv, &stats);
    ovs_mutex_lock(&ct_chains_mutex);
    fence_free(fence);
    counts.n_up--;
}

/* May packets that arrive at 'port' come to software because of a fence? */
bool
ct_fence_is_at(uint32_t port)
{
    const struct ct_fence *fence;

    LIST_FOR_EACH (fence, node, &fences) {
        if (fence->port == port) {
            return true;
        }
    }
    return false;
}

void
ct_fence_get_counts(struct ct_fence_counts *c)
{
    *c = counts;
}
