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

#ifndef CT_OFFLOAD_PORT_H
#define CT_OFFLOAD_PORT_H 1

#include "conntrack-offload-state.h"

struct sset;

/* Ports, and the offloaded connections on each
 * ============================================
 *
 * A connection remembers its ports as numbers, each of which is used only
 * once: a number never leads to a netdev that has stopped since, however old
 * it is.  For each port there is a list of the connections that providers hold
 * and that have it as port of either direction, so that a port that stops
 * costs no more than these do.
 *
 * When a port stops, ct_offload_port_stop() makes its number lead nowhere.
 * Threads that found the netdev before must have ended what they were doing
 * before the caller goes on: see conn_batches_barrier().  The list is
 * complete then, and ct_offload_port_free() frees it when it is empty.
 *
 * Hardware may accept rules and not follow them: a port where nothing has ever
 * been seen to follow one is unreliable when that has been noticed a few
 * times.
 *
 * Any thread may call these functions.  A netdev is valid until the thread
 * leaves conntrack_offload_end(), that is, until a barrier can be passed. */

uint32_t ct_offload_port_get(struct netdev *);
struct netdev *ct_offload_port_get_netdev(uint32_t port);

void ct_offload_port_add(uint32_t port, struct conn_offload *, enum key_dir);
void ct_offload_port_remove(struct conn_offload *, enum key_dir);

void ct_offload_port_follows(uint32_t port);
bool ct_offload_port_disobeys(uint32_t port);
bool ct_offload_port_is_unreliable(uint32_t port);
void ct_offload_port_get_unreliable(struct sset *names);

uint32_t ct_offload_port_stop(const struct netdev *);
size_t ct_offload_port_get_conns(uint32_t port, struct conn ***);
void ct_offload_port_free(uint32_t port);

#endif /* ct-offload-port.h */
