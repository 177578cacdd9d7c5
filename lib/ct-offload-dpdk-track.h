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

#ifndef CT_OFFLOAD_DPDK_TRACK_H
#define CT_OFFLOAD_DPDK_TRACK_H 1

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rte_flow.h>

#include "ct-offload-dpdk-flow.h"
#include "ct-offload.h"

/* Rules that track connections
 * ============================
 *
 * Packets pass these groups of ingress rules, on each port with conntrack
 * offload:
 *
 *     group    first                              last
 *     -----    -------------------------------    -----------------------
 *     ROOT     eth / ip / tcp or udp: to CONNS    any: to FLOWS
 *     CONNS    one connection, one direction:     any: to FLOWS
 *              count, track, to STATE; then
 *              those that do not track: count,
 *              age, to FLOWS
 *     STATE    valid in its connection: to FLOWS  any: count, to FLOWS
 *     FLOWS    rules of dpif-offload-dpdk         any: to software
 *
 * STATE is there only if hardware tracks connections.  Hardware needs a rule
 * that matches everything in each group: what becomes of a packet that matches
 * none is not defined.
 *
 * What a rule in CONNS counts is taken for use of its connection.  So SYN, FIN
 * and RST match none of them: software judges them, and a peer that begins
 * anew does not keep its old connection alive.  Of what is left, hardware that
 * does not insist on TCP windows finds only segments without ACK or with wrong
 * lengths or checksums invalid, and no TCP sends those.  If it is told to
 * insist, it finds some invalid that software, which does not check sequence
 * numbers while packets may bypass it, takes for use of the connection just
 * the same.  That is why the count is not behind STATE, where it would take a
 * second rule for each direction.
 *
 * What ct-offload-dpdk-flow.h says of its functions goes for these, too, but
 * that a layout must not be used in two threads at once. */

enum dpdk_track_group {
    DPDK_TRACK_GROUP_ROOT,
    DPDK_TRACK_GROUP_CONNS,
    DPDK_TRACK_GROUP_STATE,
    DPDK_TRACK_GROUP_FLOWS,
};

/* What a port can do. */
enum dpdk_track_cap {
    DPDK_TRACK_COUNT = 1 << 0,      /* Counts the packets of a rule. */
    DPDK_TRACK_AGE = 1 << 1,        /* Knows when a rule was last hit. */
    DPDK_TRACK_TCP = 1 << 2,        /* Tells TCP segments by their flags:
                                     * without that, no rules for TCP. */
    DPDK_TRACK_CONNTRACK = 1 << 3,  /* Tracks TCP connections. */
};

/* The rules of a port that are there without any connection, and what was to
 * find out what the port can do and could not be destroyed.  An empty one is
 * all zeros. */
struct dpdk_track_layout {
    uint16_t port_id;
    unsigned int n_rxq;
    unsigned int caps;              /* Of 'enum dpdk_track_cap'. */
    struct dpdk_track_object *objects; /* In the order of their creation. */
    size_t n_needed;                /* The first of them are the layout... */
    size_t n;                       /* ...and the others are to go. */
    size_t allocated;
    struct rte_flow *invalid;       /* The one of the rules that counts what is
                                     * not valid, or NULL. */
};

int dpdk_track_layout_create(struct dpdk_track_layout *, uint16_t port_id,
                             unsigned int n_rxq, struct rte_flow_error *);
void dpdk_track_layout_tidy(struct dpdk_track_layout *);
size_t dpdk_track_layout_destroy(struct dpdk_track_layout *);
void dpdk_track_layout_forget(struct dpdk_track_layout *);
int dpdk_track_probe_sharing(struct dpdk_track_layout *,
                             struct dpdk_track_layout *peer,
                             struct rte_flow_error *);

int dpdk_track_rule_create(const struct dpdk_track_layout *,
                           const struct dpdk_flow_key *,
                           struct rte_flow_action_handle *, struct rte_flow **,
                           struct rte_flow_error *);
bool dpdk_track_rule_has_age(const struct dpdk_track_layout *, bool tracked);

int dpdk_track_handle_create(uint16_t port_id, uint16_t peer_id,
                             const struct ct_offload_tcp_peer peers[2],
                             bool liberal, struct rte_flow_action_handle **,
                             struct rte_flow_error *);
int dpdk_track_handle_reverse(uint16_t port_id,
                              struct rte_flow_action_handle *,
                              struct rte_flow_error *);
int dpdk_track_handle_destroy(uint16_t port_id,
                              struct rte_flow_action_handle *,
                              struct rte_flow_error *);
int dpdk_track_handle_destroy_retry(uint16_t port_id,
                                    struct rte_flow_action_handle *,
                                    struct rte_flow_error *);

#endif /* ct-offload-dpdk-track.h */
