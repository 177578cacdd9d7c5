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

#ifndef CT_OFFLOAD_DPDK_FORWARD_H
#define CT_OFFLOAD_DPDK_FORWARD_H 1

#include "ct-offload-dpdk-port.h"

/* Paths on DPDK ports
 * ===================
 *
 * See ct-offload-dpdk-path.h for what the rule of a path is, and
 * ct-offload-dpdk-probe.h for which there can be.
 *
 * A port that polices what it receives, or has QoS for what it sends, has no
 * paths: packets would evade that.
 *
 * A port that stops takes the rules of all paths that begin, end or are at
 * home there.  What is left of such a path belongs to the layer, which finds
 * out when it asks how many packets have passed.
 *
 * There is no new path where rules of old ones do not go.
 *
 * All functions may be called from any thread, with no port locked. */

struct ct_offload_path;
struct dpif_flow_stats;
struct ds;
struct json;

/* Ports. */
void dpdk_forward_flush(struct dpdk_port *);
void dpdk_forward_show(struct dpdk_port *port, struct ds *, struct json *)
    OVS_REQUIRES(port->mutex);

/* Paths: see struct ct_offload_class. */
int dpdk_path_add(const struct ct_offload_path *, void **priv);
void dpdk_path_del(void **priv, struct dpif_flow_stats *last);
int dpdk_path_stats(void **priv, struct dpif_flow_stats *total);

#endif /* ct-offload-dpdk-forward.h */
