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

#ifndef CONNTRACK_OFFLOAD_BATCH_H
#define CONNTRACK_OFFLOAD_BATCH_H 1

#include "conntrack-offload-run.h"
#include "openvswitch/list.h"

/* Who does what is pending, and when
 * ==================================
 *
 * Each thread collects the connections that it comes to own in a batch of its
 * own, from conn_batch_enter() to conn_batch_leave().  At the end, or when
 * that gets much, it hands them over to the offload threads (see
 * ct-offload-thread.h), which own them then.  Without offload threads it does
 * what is pending itself.
 *
 * A thread owns connections only between the two calls, and offload threads
 * those that are in their queues.  So a barrier waits for the batches first,
 * and for the queues then: what was in a batch when it began is in a queue
 * when it looks there.  The other way round, something could slip from one to
 * the other behind its back.
 *
 * A batch may be used by its thread only. */
struct conn_offload_batch {
    struct ovs_list node;           /* In 'batches', for barriers. */
    bool unused;                    /* Its thread has ended. */
    atomic_uint seq;                /* Odd while 'depth' is not 0. */

    unsigned int depth;             /* Calls of conn_batch_enter() that have
                                     * not ended: only then may the thread own
                                     * any connection. */
    struct conns conns;             /* With something pending, in the order in
                                     * which the thread came to own them. */
    struct conn_run run;            /* To do that. */

    /* For conntrack-offload.c. */
    struct netdev *netdev_in;       /* Where the packets came from. */
    bool walking;                   /* In a list of connections: do not call
                                     * providers before the end of it. */
};

void conn_batch_init(void);
struct conn_offload_batch *conn_batch_get(void);
struct conn_offload_batch *conn_batch_enter(void);
void conn_batch_leave(struct conn_offload_batch *);
void conn_batch_raise(struct conn_offload_batch *, struct conn *,
                      uint32_t events, uint32_t clear, uint32_t set);
void conn_batch_run_if_full(struct conn_offload_batch *);
void conn_batch_drain(struct conn_offload_batch *);
unsigned int conn_batch_thread(const struct conn *);

void conn_batches_barrier(bool quiesce);
bool conn_batches_wait(long long int ms);

#endif /* conntrack-offload-batch.h */
