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

#ifndef CT_OFFLOAD_DPDK_PROBE_H
#define CT_OFFLOAD_DPDK_PROBE_H 1

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ct-offload-dpdk-path.h"
#include "ct-offload-dpdk-port.h"

/* Which paths hardware can forward
 * ================================
 *
 * What a port can do is found out by doing it.  First of all, when it is first
 * needed, a rule that asks for the least, without which the port does not
 * forward at all; then a match on TCP flags, without which it forwards UDP
 * only.  Everything else shows when a path needs it.  If hardware cannot make
 * a rule, then no further one between the two ports that asks for the same is
 * tried, until one of them restarts.  If its table is full, none is tried for
 * a second.
 *
 * The rule of a path is made on the port that packets arrive at, or, if
 * hardware wants all such rules in one place, on the proxy of that port: this
 * is where it is at "home".  When a proxy stops, what is known of the ports
 * whose paths are at home there is to be found out again: the next path does.
 *
 * A rule that cannot be destroyed is dead: it forwards packets for as long as
 * hardware insists.  It stays on a list of its home, and is tried again.
 *
 * All functions may be called from any thread. */

struct ds;
struct dpdk_pair;
struct json;
struct match;
struct nlattr;

/* Ports. */
enum dpdk_forward_state dpdk_probe_get_state(struct dpdk_port *);
enum dpdk_forward_state dpdk_probe_learn_state(struct dpdk_port *);
bool dpdk_probe_is_due(struct dpdk_port *);
void dpdk_probe_flush(struct dpdk_port *);

/* What is known of paths from a port to another one. */
struct dpdk_pair *dpdk_pair_get(struct dpdk_port *in, uint16_t in_id,
                                struct dpdk_port *out)
    OVS_REQUIRES(in->mutex);
bool dpdk_pair_is_cut(const struct dpdk_pair *);
void dpdk_pairs_show(const struct dpdk_port *port, struct ds *, struct json *)
    OVS_REQUIRES(port->mutex);

/* Rules. */
int dpdk_pair_create_rule(struct dpdk_pair *, struct dpdk_port *home,
                          const struct ct_offload_path *,
                          struct dpdk_path_options *, struct rte_flow **,
                          enum dpdk_refusal *)
    OVS_REQUIRES(home->mutex);
int dpdk_probe_rule_destroy(struct dpdk_port *home, struct rte_flow *)
    OVS_REQUIRES(home->mutex);
void dpdk_probe_bury_dead(struct dpdk_port *port) OVS_REQUIRES(port->mutex);

#endif /* ct-offload-dpdk-probe.h */
