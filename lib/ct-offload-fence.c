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

/* Chains with a fence that is up. */
static struct ovs_list fences OVS_GUARDED_BY(ct_chains_mutex)
    = OVS_LIST_INITIALIZER(&fences);
static struct ct_fence_counts counts OVS_GUARDED_BY(ct_chains_mutex);

/* Should 'chain', the paths of which are to end, have a fence first? */
bool
ct_fence_is_due(const struct ct_chain *chain)
{
    return (!chain->valid && chain->fence == CT_CHAIN_FENCE_NONE
            && chain->n_paths >= ct_fence_min_paths);
}

/* Has the provider of 'chain' make a fence. */
static int
fence_add(struct ct_chain *chain)
    OVS_EXCLUDED(ct_chains_mutex)
{
    struct match match;
    struct ct_offload_path fence = {
        .fence = true,
        .netdev_in = ct_offload_port_get_netdev(chain->ports[0]),
        .in_port = chain->merge->in_port,
        .out_port = ODPP_NONE,
        .match = &match,
    };

    if (!fence.netdev_in) {
        return ENODEV;
    }
    ct_merge_get_common_match(chain->merge, &match);
    return ct_offload_path_add(chain->slot, &fence, &chain->fence_priv);
}

/* Raises the fence of 'chain', if the provider can.  The caller holds one of
 * its paths.  Releases the mutex meanwhile. */
void
ct_fence_raise(struct ct_chain *chain)
{
    int error;

    chain->fence = CT_CHAIN_FENCE_PENDING;
    ovs_mutex_unlock(&ct_chains_mutex);
    error = fence_add(chain);
    ovs_mutex_lock(&ct_chains_mutex);

    if (error) {
        chain->fence = CT_CHAIN_FENCE_REFUSED;
        counts.refused++;
        VLOG_INFO_RL(&rl, "a policy has changed that %"PRIuSIZE" paths "
                     "depend on, and hardware cannot send their packets to "
                     "software at once (%s): it forwards by the old policy "
                     "until each of them has ended", chain->n_paths,
                     ovs_strerror(error));
    } else {
        COVERAGE_INC(ct_path_fence);
        chain->fence = CT_CHAIN_FENCE_UP;
        counts.raised++;
        counts.n_up++;
        ovs_list_push_back(&fences, &chain->fence_node);
    }
}

/* Lowers the fence of 'chain', if there is one.  The caller is about to give
 * up its last path.  Releases the mutex meanwhile. */
void
ct_fence_lower(struct ct_chain *chain)
{
    struct dpif_flow_stats stats;

    if (chain->fence != CT_CHAIN_FENCE_UP) {
        return;
    }
    chain->fence = CT_CHAIN_FENCE_PENDING;
    ovs_mutex_unlock(&ct_chains_mutex);
    memset(&stats, 0, sizeof stats);
    ct_offload_path_del(chain->slot, &chain->fence_priv, &stats);
    ovs_mutex_lock(&ct_chains_mutex);
    ovs_list_remove(&chain->fence_node);
    counts.n_up--;
}

/* May packets that arrive at 'port' come to software because of a fence? */
bool
ct_fence_is_at(uint32_t port)
{
    const struct ct_chain *chain;

    LIST_FOR_EACH (chain, fence_node, &fences) {
        if (chain->ports[0] == port) {
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
