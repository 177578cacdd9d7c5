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

#ifndef CONNTRACK_OFFLOAD_RUN_H
#define CONNTRACK_OFFLOAD_RUN_H 1

#include "conntrack-offload-state.h"
#include "ct-offload.h"
#include "util.h"

struct conn_offload_batch;
struct ct_offload_task;

/* Doing what is pending
 * =====================
 *
 * What is pending for connections becomes operations, the providers are told
 * of these, and the answers decide what becomes of the connections.
 *
 * The operations on one connection are done one after the other, in the order
 * ADD, EST, lapse, UPD, and those that take it back; but DEL comes before an
 * ADD that was raised after it.  Those on different connections are done
 * together, so that a provider gets them as a batch.  An ADD waits for the DEL
 * of a predecessor: see conntrack-offload-state.h.
 *
 * The functions here are for any thread that owns the connections.  None may
 * be called with a lock held, or in a provider's callback. */

/* Connections that one thread owns. */
struct conns {
    struct conn **p;
    size_t n, allocated;
};

static inline void
conns_push(struct conns *conns, struct conn *conn)
{
    if (OVS_UNLIKELY(conns->n >= conns->allocated)) {
        conns->p = x2nrealloc(conns->p, &conns->allocated, sizeof *conns->p);
    }
    conns->p[conns->n++] = conn;
}

/* What one thread needs to do it.  Initially all zeros. */
struct conn_run {
    struct ct_offload_task *tasks;  /* What to tell the providers next. */
    size_t n_tasks, allocated_tasks;
    struct conns retired;           /* Predecessors of these connections. */

    /* Operations, at most one of each type for a connection, the results of
     * which somebody wants to have. */
    struct ct_offload_op *wanted[CT_OFFLOAD_BATCH_INLINE];
    size_t n_wanted;
};

/* What the file above does with the paths of connections. */
struct conn_run_paths {
    /* Ends all paths of a connection, which the calling thread owns. */
    void (*end)(struct conn *);

    /* Has a connection, which the calling thread owns, live on if one of its
     * paths was used.  Returns true if it has more time now. */
    bool (*ask)(struct conn *);

    /* A connection was committed.  Locks are held. */
    void (*committed)(struct conn_offload_batch *, const struct conn *);

    /* Port 'number' has stopped: ends all paths to it, but for those that
     * other threads are making or ending. */
    void (*port_stopped)(uint32_t number);
};

void conn_run_destroy(struct conn_run *);
void conn_run_set_paths(const struct conn_run_paths *);
void conn_run_committed(struct conn_offload_batch *, const struct conn *);
void conn_run_port_stopped(uint32_t number);
size_t conns_drain(struct conn_run *, struct conn **, size_t n);
void conns_drain_all(struct conn_run *, struct conn **, size_t n);

/* Connections in software, and those that are to be offered. */
void conn_set_reason(struct conn *, enum ct_offload_reason);
struct conn_offload *conn_alloc_offload(struct conn *);
void conn_free_offload(struct conn *);
uint32_t conn_await_reply(const struct conn *);

/* For any thread. */
bool conn_can_forward(const struct conn *, uint8_t slots, enum key_dir);
uint32_t conn_await_path(const struct conn *);
void conn_set_paths(struct conn *, uint32_t clear, uint32_t set);
void conn_forget_refusals(void);
bool conn_extend(struct conntrack *, struct conn *, long long int last_used);
long long int conn_get_timeout(struct conntrack *, const struct conn *);

#endif /* conntrack-offload-run.h */
