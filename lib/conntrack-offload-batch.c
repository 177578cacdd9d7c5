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

#include "conntrack-offload-batch.h"

#include <string.h>

#include "conntrack-private.h"
#include "ct-offload-thread.h"
#include "hash.h"
#include "ovs-thread.h"
#include "timeval.h"
#include "util.h"

DEFINE_STATIC_PER_THREAD_DATA(struct conn_offload_batch *, thread_batch,
                              NULL);

/* The batches of all threads.  A barrier does not have the mutex while it
 * waits: a thread that wants a batch for the first time may have 'ct_lock',
 * and one that ends has a mutex of ovs-thread.c, which others may want before
 * they leave their batches.  So a batch stays here when its thread ends, for
 * another one. */
static struct ovs_mutex batches_mutex = OVS_MUTEX_INITIALIZER;
static struct ovs_list batches OVS_GUARDED_BY(batches_mutex)
    = OVS_LIST_INITIALIZER(&batches);

static void
thread_batch_destroy(void *batch_)
{
    struct conn_offload_batch *batch = batch_;

    conn_run_destroy(&batch->run);
    memset(&batch->run, 0, sizeof batch->run);
    free(batch->conns.p);
    memset(&batch->conns, 0, sizeof batch->conns);
    ovs_mutex_lock(&batches_mutex);
    batch->unused = true;
    ovs_mutex_unlock(&batches_mutex);
}

/* Returns a batch that no thread uses. */
static struct conn_offload_batch *
batches_get_unused(void)
    OVS_REQUIRES(batches_mutex)
{
    struct conn_offload_batch *batch;

    LIST_FOR_EACH (batch, node, &batches) {
        if (batch->unused) {
            batch->unused = false;
            return batch;
        }
    }
    batch = xzalloc_cacheline(sizeof *batch);
    atomic_init(&batch->seq, 0);
    ovs_list_push_back(&batches, &batch->node);
    return batch;
}

static struct conn_offload_batch *
thread_batch_create(void)
{
    static struct ovs_mutex key_mutex = OVS_MUTEX_INITIALIZER;
    static ovsthread_key_t key OVS_GUARDED_BY(key_mutex) = NULL;
    struct conn_offload_batch *batch;

    ovs_mutex_lock(&batches_mutex);
    batch = batches_get_unused();
    ovs_mutex_unlock(&batches_mutex);

    ovs_mutex_lock(&key_mutex);
    if (!key) {
        ovsthread_key_create(&key, thread_batch_destroy);
    }
    ovsthread_setspecific(key, batch);
    ovs_mutex_unlock(&key_mutex);
    *thread_batch_get() = batch;
    return batch;
}

static void
batch_next_seq(struct conn_offload_batch *batch)
{
    unsigned int seq;

    /* Only this thread writes to it. */
    atomic_read_relaxed(&batch->seq, &seq);
    atomic_store_explicit(&batch->seq, seq + 1, memory_order_release);
}

/* Returns the batch of the calling thread, or NULL if it has none yet. */
struct conn_offload_batch *
conn_batch_get(void)
{
    return *thread_batch_get();
}

/* From now on the calling thread may own connections, until
 * conn_batch_leave(). */
struct conn_offload_batch *
conn_batch_enter(void)
{
    struct conn_offload_batch *batch = *thread_batch_get();

    if (OVS_UNLIKELY(!batch)) {
        batch = thread_batch_create();
    }
    if (!batch->depth++) {
        batch_next_seq(batch);
        /* What a barrier is to make known is looked at after this only: see
         * batches_wait(). */
        atomic_thread_fence(memory_order_seq_cst);
    }
    return batch;
}

/* Returns a hash of the tuple of 'conn'.  It is the same for the reverse
 * tuple: the other side may be the one that takes it over. */
static uint32_t
conn_hash(const struct conn *conn)
{
    const struct conn_key *key = &conn->key_node[CT_DIR_FWD].key;

    return hash_int(hash_bytes(&key->src, sizeof key->src, 0)
                    ^ hash_bytes(&key->dst, sizeof key->dst, 0), key->zone);
}

/* Returns the number of the offload thread for 'conn'.  There is one. */
unsigned int
conn_batch_thread(const struct conn *conn)
{
    unsigned int n_threads = ct_offload_n_threads();

    return n_threads > 1 ? conn_hash(conn) % n_threads : 0;
}

/* To have what is pending for a connection without a block, which may have
 * paths, done by an offload thread. */
struct conn_job {
    struct ct_offload_job job;
    struct conn *conn;          /* The job owns it. */
};

static void
conn_job_run(struct ct_offload_job *job_)
{
    struct conn_job *job = CONTAINER_OF(job_, struct conn_job, job);
    struct conn_offload_batch *batch = conn_batch_enter();

    conns_drain_all(&batch->run, &job->conn, 1);
    conn_batch_leave(batch);
    free(job);
}

static void
post_conn_job(struct conn *conn)
{
    struct conn_job *job = xzalloc(sizeof *job);

    job->job.run = conn_job_run;
    job->conn = conn;
    ct_offload_thread_post_job(conn_batch_thread(conn), &job->job);
}

/* Gives the connections in 'batch', which the calling thread owns, to the
 * offload threads, those with the same tuple always to the same one. */
static void
batch_hand_over(struct conn_offload_batch *batch)
{
    unsigned int n_threads = ct_offload_n_threads();
    size_t n = 0;

    /* What no provider holds or may take does not concern the threads. */
    for (size_t i = 0; i < batch->conns.n; i++) {
        struct conn *conn = batch->conns.p[i];

        if (conn_get_offload(conn)) {
            batch->conns.p[n++] = conn;
        } else if (conn_offload_state(conn) & CONN_OFFLOAD_PATH_MASK) {
            post_conn_job(conn);
        } else {
            conns_drain_all(&batch->run, &conn, 1);
        }
    }

    if (n_threads == 1) {
        ct_offload_thread_expect(0, n);
    }
    for (size_t i = 0; i < n; i++) {
        struct conn *conn = batch->conns.p[i];
        unsigned int thread = conn_batch_thread(conn);

        if (n_threads > 1) {
            ct_offload_thread_expect(thread, 1);
        }
        ct_offload_thread_post(thread, &conn_get_offload(conn)->work);
    }
}

/* Does what is pending for the connections in 'batch', or leaves it to the
 * offload threads.  The calling thread owns them, but does not when this
 * returns. */
static void
batch_run(struct conn_offload_batch *batch)
{
    if (ct_offload_n_threads()) {
        batch_hand_over(batch);
    } else {
        conns_drain_all(&batch->run, batch->conns.p, batch->conns.n);
    }
    batch->conns.n = 0;
}

/* Ends what conn_batch_enter() began. */
void
conn_batch_leave(struct conn_offload_batch *batch)
{
    if (batch->depth == 1 && batch->conns.n) {
        batch_run(batch);
    }
    if (!--batch->depth) {
        batch_next_seq(batch);
    }
}

/* Raises 'events' for 'conn' as conn_raise() does, to be done with 'batch'
 * unless 'conn' has another owner. */
void
conn_batch_raise(struct conn_offload_batch *batch, struct conn *conn,
                 uint32_t events, uint32_t clear, uint32_t set)
{
    if (conn_raise(conn, events, clear, set)) {
        conns_push(&batch->conns, conn);
    }
}

/* Does what is in 'batch' if that is getting much.  No lock may be held. */
void
conn_batch_run_if_full(struct conn_offload_batch *batch)
{
    if (batch->conns.n >= CT_OFFLOAD_BATCH_INLINE
        && (!batch->walking || ct_offload_n_threads())) {
        batch_run(batch);
    }
}

/* Does what is pending for the connections in 'batch' at once, in the calling
 * thread.  What has to wait for something that another thread does stays
 * there. */
void
conn_batch_drain(struct conn_offload_batch *batch)
{
    batch->conns.n = conns_drain(&batch->run, batch->conns.p, batch->conns.n);
}

/* Waits until the thread of 'batch' has ended what it was doing when this was
 * called, or until 'deadline', in ms, has passed.  Returns false in the latter
 * case. */
static bool
batch_wait(struct conn_offload_batch *batch, bool quiesce,
           long long int deadline)
{
    unsigned int start, now;

    atomic_read_explicit(&batch->seq, &start, memory_order_acquire);
    now = start;
    while (start & 1 && now == start) {
        if (time_msec() > deadline) {
            return false;
        }
        if (quiesce) {
            xnanosleep(100 * 1000);
        } else {
            xnanosleep_no_quiesce(100 * 1000);
        }
        atomic_read_explicit(&batch->seq, &now, memory_order_acquire);
    }
    return true;
}

static bool
batches_wait(bool quiesce, long long int deadline)
{
    struct conn_offload_batch *own = *thread_batch_get();
    struct conn_offload_batch *batch;
    bool done = true;

    atomic_thread_fence(memory_order_seq_cst);
    ovs_mutex_lock(&batches_mutex);
    LIST_FOR_EACH (batch, node, &batches) {
        if (batch != own) {
            ovs_mutex_unlock(&batches_mutex);
            done = batch_wait(batch, quiesce, deadline) && done;
            ovs_mutex_lock(&batches_mutex);
        }
    }
    ovs_mutex_unlock(&batches_mutex);
    return done;
}

/* Waits until every other thread has ended what it was telling providers when
 * this was called.  The calling thread must not be in a call that can own
 * connections.  If 'quiesce' it may quiesce, so that it must not hold a
 * pointer that is protected by RCU. */
void
conn_batches_barrier(bool quiesce)
{
    struct conn_offload_batch *own = *thread_batch_get();

    ovs_assert(!own || !own->depth);
    /* In this order: see conntrack-offload-batch.h. */
    batches_wait(quiesce, LLONG_MAX);
    ct_offload_threads_barrier(quiesce);
}

/* For a fatal signal, in whatever the calling thread is: waits for the threads
 * that call providers themselves, at most for 'ms' each.  Returns false if one
 * did not end in that time. */
bool
conn_batches_wait(long long int ms)
{
    return batches_wait(false, time_msec() + ms);
}

/* For an offload thread: does what is pending for the connections of the 'n'
 * items in 'works', which the calling thread owns.  When this returns, it does
 * so only for those that have to wait for what another thread does.  Their
 * items are moved to the front of 'works', and their number is returned: they
 * are to be tried again. */
static size_t
run_works(struct ct_offload_work **works, size_t n)
{
    struct conn_offload_batch *batch = *thread_batch_get();

    if (!batch) {
        batch = thread_batch_create();
    }
    for (size_t i = 0; i < n; i++) {
        conns_push(&batch->conns,
                   CONTAINER_OF(works[i], struct conn_offload, work)->conn);
    }
    conn_batch_drain(batch);
    n = batch->conns.n;
    for (size_t i = 0; i < n; i++) {
        works[i] = &conn_get_offload(batch->conns.p[i])->work;
    }
    batch->conns.n = 0;
    return n;
}

/* Makes what is here known to the offload threads.  Called once, before any
 * connection can be offered. */
void
conn_batch_init(void)
{
    ct_offload_threads_set_callbacks(run_works, conn_batches_barrier);
}
