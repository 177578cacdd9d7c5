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

#ifndef CT_OFFLOAD_PRIVATE_H
#define CT_OFFLOAD_PRIVATE_H 1

#include "ct-offload.h"

/* What the layer, but no provider, uses of the registry
 * =====================================================
 *
 * A task is an operation with what the layer needs to have the right providers
 * do it.  Whoever dispatches a task owns the connection: see
 * conntrack-offload-state.h.  Masks have a bit for each slot of the registry.
 */

struct ct_offload_task {
    struct ct_offload_op op;    /* What a provider sees. */

    /* In. */
    uint8_t except;             /* Providers that it does not concern. */
    bool established;           /* ADD: may those who are interested in nothing
                                 * else have it? */
    bool lapsed;                /* DEL: because it is not in use any more. */
    void **priv;                /* A pointer of each provider's own. */

    /* In and out. */
    uint8_t held;               /* Providers that hold the connection. */
    uint8_t est;                /* Those that know that it is established. */

    /* Out. */
    uint8_t uni;                /* EST: those that have one direction only. */
    uint8_t reason;             /* ADD, EST: why nobody took it. */
    bool uni_dir;               /* EST: for 'op.ctx.uni_dir'. */
};

/* For any thread. */
void ct_offload_op_preset(struct ct_offload_op *);
void ct_offload_dispatch(struct ct_offload_task *, size_t n);
uint8_t ct_offload_leaving(void);
uint8_t ct_offload_accepting(bool established_only);
bool ct_offload_is_exiting(void);
bool ct_offload_may_bypass(uint8_t held);
uint8_t ct_offload_forwarding(void);
bool ct_offload_can_forward(uint8_t slots, const struct netdev *netdev_in);
int ct_offload_path_add(unsigned int slot, const struct ct_offload_path *,
                        void **priv);
void ct_offload_path_del(unsigned int slot, void **priv,
                         struct dpif_flow_stats *last);
int ct_offload_path_stats(unsigned int slot, void **priv,
                          struct dpif_flow_stats *);
void ct_offload_format_held(const struct conn *, uint8_t held, void **priv,
                            struct ds *);

/* For the main thread. */
void ct_offload_set_take_back(void (*cb)(uint8_t leaving));
void ct_offload_set_leaving(const struct ct_offload_class *);
void ct_offload_set_exiting(void);
void ct_offload_configure(bool enabled, bool bypass);
bool ct_offload_set_forwarding(bool enabled);
void ct_offload_providers_netdev_flush(struct netdev *);
const struct ct_offload_class *ct_offload_provider_get(size_t slot,
                                                       bool *leaving);
bool ct_offload_provider_get_debug(size_t slot, struct ds *, struct json *);

#endif /* ct-offload-private.h */
