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

#ifndef CT_OFFLOAD_THREAD_H
#define CT_OFFLOAD_THREAD_H 1

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mpsc-queue.h"
#include "ovs-atomic.h"

struct ds;
struct json;

/* Offload threads
 * ===============
 *
 * Programming hardware takes time, which the threads that forward packets do
 * not have.  Where there are offload threads, these own connections that have
 * something pending (see conntrack-offload.h), and call the providers.  A
 * connection is handed over through a node of its own, so that nothing is
 * allocated and nobody waits; while it is queued, further events are only bits
 * in its state.  Connections with the same tuple, or the reverse one, go to
 * the same thread, in the order in which they were queued.
 *
 * A queue is bounded: it has no more entries than there are offloaded
 * connections, and new connections are not offloaded while it is full.
 * Removals always fit in.
 *
 * Without offload threads, the thread in which something happens calls the
 * providers.  There is one that does nothing but what is to be done from time
 * to time, and what is urgent. */

/* The most offload threads. */
#define CT_OFFLOAD_MAX_THREADS 10

/* A thread takes no new connections while this many are queued for it. */
#define CT_OFFLOAD_QUEUE_SIZE 16384

/* Most items are not timed: reading the clock takes longer than queueing. */
#define CT_OFFLOAD_WORK_UNTIMED 1

/* An item that had to wait is not timed, either. */
#define CT_OFFLOAD_WORK_WAITED 2

/* An item for an offload thread. */
struct ct_offload_work {
    struct mpsc_queue_node node;
    long long int queued;       /* When, in us as time_usec() counts, or
                                 * one of the values above; 0 for a job. */
};

/* Something else for an offload thread to do, by itself. */
struct ct_offload_job {
    struct ct_offload_work work;
    void (*run)(struct ct_offload_job *);
};

/* What "dpctl/offload-stats-show" tells of the threads together.  Times are in
 * us, from queueing until the providers have been told. */
struct ct_offload_thread_stats {
    unsigned int n_queued;
    double mean, stddev;        /* Over all. */
    double exp_mean, exp_stddev; /* Exponentially weighted: recent ones. */
};

extern atomic_uint ct_offload_n_threads_;

/* Returns the number of offload threads.  Any thread may call this. */
static inline unsigned int
ct_offload_n_threads(void)
{
    unsigned int n;

    atomic_read_explicit(&ct_offload_n_threads_, &n, memory_order_acquire);
    return n;
}

/* For any thread. */
void ct_offload_thread_expect(unsigned int thread, unsigned int n);
void ct_offload_thread_post(unsigned int thread, struct ct_offload_work *);
void ct_offload_thread_post_job(unsigned int thread, struct ct_offload_job *);
bool ct_offload_threads_have_room(void);

/* For any thread that is not an offload thread, and holds no lock that is
 * taken in a callback of a provider. */
void ct_offload_threads_barrier(bool quiesce);

/* For conntrack-offload.c. */
void ct_offload_threads_set_callbacks(
    size_t (*run)(struct ct_offload_work **works, size_t n),
    void (*wait)(bool quiesce));

/* At initialisation: 'tick' is called often, by each thread number 'index' of
 * 'n', or, if there is none, by the thread that sweeps.  It returns true if it
 * has more to do soon. */
void ct_offload_threads_set_tick(bool (*tick)(unsigned int index,
                                              unsigned int n));
void ct_offload_threads_tick(void);

/* At initialisation: 'run' does a part of what is urgent, and returns true if
 * there may be more. */
void ct_offload_threads_set_urgent(bool (*run)(void));
bool ct_offload_threads_urge(void);

/* For the main thread. */
unsigned int ct_offload_threads_start(unsigned int n);
void ct_offload_threads_stop(void);
void ct_offload_threads_get_stats(struct ct_offload_thread_stats *);
void ct_offload_threads_format(struct ds *);
struct json *ct_offload_threads_to_json(void);

#endif /* ct-offload-thread.h */
