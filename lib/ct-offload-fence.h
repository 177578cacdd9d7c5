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

#ifndef CT_OFFLOAD_FENCE_H
#define CT_OFFLOAD_FENCE_H 1

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ct-offload-chain.h"

/* Fences: one rule for the end of many paths
 * ==========================================
 *
 * When a megaflow changes, a chain may have very many paths, each of which
 * hardware takes its time to give up.  Until then it goes on as the policy has
 * been.  A fence is a rule that has all packets which paths of the chain may
 * match come to software, whatever else they match.  It is raised before the
 * first of the paths is ended, and lowered with the last one.
 *
 * Packets of other chains may come to software meanwhile, too, and nothing is
 * to be concluded from that.  Chains that differ in what is not on the wire,
 * as in a hash, are behind the same fence.
 *
 * Not all hardware can have one.  Paths forward until their turn comes then.
 *
 * Any thread may call these functions. */

/* A chain with fewer paths than this has no fence.  A variable for tests. */
extern size_t ct_fence_min_paths;

/* How many there are, and what has happened to them so far. */
struct ct_fence_counts {
    unsigned long long int n_up, raised, refused;
};

bool ct_fence_is_due(const struct ct_chain *) OVS_REQUIRES(ct_chains_mutex);
void ct_fence_raise(struct ct_chain *) OVS_REQUIRES(ct_chains_mutex);
void ct_fence_lower(struct ct_chain *) OVS_REQUIRES(ct_chains_mutex);
bool ct_fence_is_at(uint32_t port) OVS_REQUIRES(ct_chains_mutex);
void ct_fence_get_counts(struct ct_fence_counts *)
    OVS_REQUIRES(ct_chains_mutex);

#endif /* ct-offload-fence.h */
