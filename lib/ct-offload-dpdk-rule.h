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

#ifndef CT_OFFLOAD_DPDK_RULE_H
#define CT_OFFLOAD_DPDK_RULE_H 1

#include <stdbool.h>
#include <stddef.h>

#include "ct-offload-dpdk-port.h"

/* Rules of connections on DPDK ports
 * ==================================
 *
 * There is a rule for each direction of a connection, on the port that its
 * packets arrive at.  Connections with the same packets, in two zones, share
 * rules, but a connection that is tracked does not share any with one that is
 * not: with SNAT, one zone may see both directions as they are on the wire,
 * and another only one.  So what rules there are does not depend on which of
 * them came first.  There can be two rules for the same packets then.
 * Hardware follows the one that tracks, and its packets count as use of both.
 *
 * A TCP connection that has both directions on one port, or on ports that can
 * share the handle of a tracked connection, is tracked.
 *
 * A rule that cannot be destroyed is dead: it belongs to no connection, stays
 * on a list of its port, and is tried again.  So is a handle that no rule
 * uses, which has to wait until its own port is locked.
 *
 * Ports are locked by the caller, those of both directions if there are two,
 * but for dpdk_rules_flush(). */

struct conn;
struct dpdk_rule;
struct ds;

int dpdk_rules_create(struct dpdk_port *const ports[2],
                      const struct dpdk_flow_key keys[2], const struct conn *,
                      bool liberal, struct dpdk_rule *rules[2]);
void dpdk_rule_release(struct dpdk_port *port, struct dpdk_rule *)
    OVS_REQUIRES(port->mutex);
long long int dpdk_rule_last_used(struct dpdk_port *port, struct dpdk_rule *,
                                  long long int now)
    OVS_REQUIRES(port->mutex);
void dpdk_rule_format(struct dpdk_port *port, const struct dpdk_rule *,
                      struct ds *)
    OVS_REQUIRES(port->mutex);

void dpdk_rules_bury_dead(struct dpdk_port *port) OVS_REQUIRES(port->mutex);
size_t dpdk_rules_survey(struct dpdk_port *port) OVS_REQUIRES(port->mutex);
void dpdk_rules_flush(struct dpdk_port *);

#endif /* ct-offload-dpdk-rule.h */
