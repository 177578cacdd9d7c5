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

#include "ct-offload-thread.h"

#include <errno.h>

#include <poll.h>

#include "coverage.h"
#include "ct-offload-stats.h"
#include "ct-offload.h"
#include "latch.h"
#include "mov-avg.h"
#include "openvswitch/dynamic-string.h"
#include "openvswitch/json.h"
#include "openvswitch/vlog.h"
#include "ovs-rcu.h"
#include "ovs-thread.h"
#include "timeval.h"
#include "util.h"

VLOG_DEFINE_THIS_MODULE(ct_offload_thread);

/* How long a thread sleeps, in ms, when it has done what was queued, before it
 * looks for more.  The threads that queue work do not wake it up: that takes a
 * system call.  Meanwhile, events of a connection come together, and threads
 * do not fight over its memory. */
enum { SLEEP_MIN_MS = 1, SLEEP_MAX_MS = 8 };

/* A thread does not sleep while this many connections are queued. */
#define BUSY_QUEUE_SIZE (CT_OFFLOAD_QUEUE_SIZE / 4)

/* What takes this long, in ms, is worth telling. */
#define LONG_MS 1000

/* One out of this many connections is timed. */
#define SAMPLE_EVERY 16

/* A thread quiesces after each batch.  If one takes longer than this, in us,
 * the next ones are smaller.  After it has slept, a thread begins with a small
 * one, since hardware may have become slow. */
#define BATCH_MAX_US 5000
#define BATCH_START 4

/* Most passes of a barrier through the queues. */
#define MAX_PASSES 4

/* Number of connections that make up most of the exponential average, as for
 * the offload of flows. */
#define EMA_N 100

struct offload_thread {
    /* Written by all threads. */
    struct mpsc_queue queue;
    atomic_uint n_queued;       /* Connections in 'queue', or being done. */
    atomic_uint n_waiting;      /* Those of them that have to wait for what
                                 * another thread does. */
    struct latch wake;          /* Set to have the thread not sleep. */
    atomic_bool urged;          /* See ct_offload_threads_urge(). */

    PADDED_MEMBERS(CACHE_LINE_SIZE,
        pthread_t pthread;
        unsigned int index;
        atomic_bool exit;
        atomic_llong busy_since;    /* In ms, or 0 if there is no work. */
    );

    struct ovs_mutex mutex;     /* For the averages. */
    struct mov_avg_cma cma OVS_GUARDED;
    struct mov_avg_ema ema OVS_GUARDED;
};

/* What a thread that waits for an offload thread queues. */
struct barrier {
    struct ct_offload_job job;
    atomic_bool passed;
};

atomic_uint ct_offload_n_threads_ = 0;
static struct offload_thread *threads[CT_OFFLOAD_MAX_THREADS];

/* The number of threads that run: without offload threads, there is one all
 * the same, for what is to be done from time to time and what is urgent. */
static atomic_uint n_running = 0;

/* See ct_offload_threads_set_callbacks(). */
static size_t (*run_cb)(struct ct_offload_work **works, size_t n);
static void (*wait_cb)(bool quiesce);

/* See ct_offload_threads_set_tick() and ct_offload_threads_set_urgent(). */
static bool (*tick_cb)(unsigned int index, unsigned int n);
static bool (*urgent_cb)(void);

static unsigned int
get_n_running(void)
{
    unsigned int n;

    atomic_read_explicit(&n_running, &n, memory_order_acquire);
    return n;
}

/* For the threads that queue work. */

/* Announces 'n' items for offload thread 'index'. */
void
ct_offload_thread_expect(unsigned int index, unsigned int n)
{
    unsigned int orig;

    atomic_add_relaxed(&threads[index]->n_queued, n, &orig);
}

/* Returns a time for what is queued now, or CT_OFFLOAD_WORK_UNTIMED. */
static long long int
sample_time(void)
{
    static thread_local unsigned int n = 0;

    return n++ % SAMPLE_EVERY ? CT_OFFLOAD_WORK_UNTIMED : time_usec();
}

/* Queues 'work', which was announced by ct_offload_thread_expect(), for
 * offload thread 'index'. */
void
ct_offload_thread_post(unsigned int index, struct ct_offload_work *work)
{
    work->queued = sample_time();
    mpsc_queue_insert(&threads[index]->queue, &work->node);
}

/* Has 'job->run' called for 'job' by offload thread 'index', after what is
 * queued now, and wakes that up. */
void
ct_offload_thread_post_job(unsigned int index, struct ct_offload_job *job)
{
    struct offload_thread *thread = threads[index];

    job->work.queued = 0;
    ct_offload_thread_expect(index, 1);
    mpsc_queue_insert(&thread->queue, &job->work.node);
    latch_set(&thread->wake);
}

/* May more connections be offloaded, or is any queue full?  True if there are
 * no offload threads. */
bool
ct_offload_threads_have_room(void)
{
    unsigned int n_threads = ct_offload_n_threads();

    for (size_t i = 0; i < n_threads; i++) {
        unsigned int n;

        atomic_read_relaxed(&threads[i]->n_queued, &n);
        if (n >= CT_OFFLOAD_QUEUE_SIZE) {
            return false;
        }
    }
    return true;
}

/* If 'thread' has been busy with one batch for long, appends that to 'ds'. */
static void
thread_format_busy(struct offload_thread *thread, struct ds *ds)
{
    struct ds calls = DS_EMPTY_INITIALIZER;
    long long int since, ms;

    atomic_read_relaxed(&thread->busy_since, &since);
    ms = time_msec() - since;
    if (since && ms >= LONG_MS) {
        ct_offload_stats_format_calls(&calls);
        ds_put_format(ds, ", busy for %lld ms with %s", ms,
                      calls.length ? ds_cstr(&calls) : "nothing");
    }
    ds_destroy(&calls);
}

/* Logs that the calling thread has been waiting for 'thread' since 'start', in
 * ms, if it is time to do so.  '*next' is that time; it doubles. */
static void
log_waiting(struct offload_thread *thread, long long int start,
            long long int *next)
{
    long long int waiting = time_msec() - start;
    struct ds ds = DS_EMPTY_INITIALIZER;
    unsigned int n_queued;

    if (waiting < *next) {
        return;
    }
    *next = 2 * waiting;
    atomic_read_relaxed(&thread->n_queued, &n_queued);
    thread_format_busy(thread, &ds);
    VLOG_WARN("waiting for offload thread %u for %lld ms: %u queued%s",
              thread->index, waiting, n_queued, ds_cstr(&ds));
    ds_destroy(&ds);
}

static void
barrier_wait(struct barrier *barrier, struct offload_thread *thread,
             bool quiesce)
{
    long long int start = time_msec();
    long long int next = LONG_MS;
    bool passed;

    for (;;) {
        atomic_read_explicit(&barrier->passed, &passed, memory_order_acquire);
        if (passed) {
            break;
        }
        if (quiesce) {
            xnanosleep(100 * 1000);
        } else {
            xnanosleep_no_quiesce(100 * 1000);
        }
        log_waiting(thread, start, &next);
    }
}

static void
barrier_run(struct ct_offload_job *job)
{
    struct barrier *barrier = CONTAINER_OF(job, struct barrier, job);

    atomic_store_explicit(&barrier->passed, true, memory_order_release);
}

static void
barrier_pass(unsigned int n_threads, bool quiesce)
{
    struct barrier barriers[CT_OFFLOAD_MAX_THREADS];

    for (size_t i = 0; i < n_threads; i++) {
        atomic_init(&barriers[i].passed, false);
        barriers[i].job.run = barrier_run;
        ct_offload_thread_post_job(i, &barriers[i].job);
    }
    for (size_t i = 0; i < n_threads; i++) {
        barrier_wait(&barriers[i], threads[i], quiesce);
    }
}

/* Is there anything that has to wait for what another thread does? */
static bool
threads_are_waiting(unsigned int n_threads)
{
    for (size_t i = 0; i < n_threads; i++) {
        unsigned int n;

        atomic_read_explicit(&threads[i]->n_waiting, &n, memory_order_acquire);
        if (n) {
            return true;
        }
    }
    return false;
}

/* Waits until the offload threads have done all that was queued when this was
 * called.  If 'quiesce', the calling thread may quiesce. */
void
ct_offload_threads_barrier(bool quiesce)
{
    unsigned int n_threads = get_n_running();

    /* What had to wait in one pass waited for something that was queued then.
     * Others may come to wait all the time, so there is a limit. */
    for (int i = 0; i < MAX_PASSES; i++) {
        barrier_pass(n_threads, quiesce);
        if (!threads_are_waiting(n_threads)) {
            break;
        }
    }
}

/* The threads themselves. */

static void
thread_done(struct offload_thread *thread, unsigned int n)
{
    unsigned int orig;

    atomic_sub_relaxed(&thread->n_queued, n, &orig);
}

/* Queues the 'n' items in 'works', which have to wait, once more. */
static void
thread_requeue(struct offload_thread *thread, struct ct_offload_work **works,
               size_t n)
{
    unsigned int orig;

    atomic_add_explicit(&thread->n_waiting, n, &orig, memory_order_acq_rel);
    for (size_t i = 0; i < n; i++) {
        works[i]->queued = CT_OFFLOAD_WORK_WAITED;
        mpsc_queue_insert(&thread->queue, &works[i]->node);
    }
}

/* Has what is pending for the 'n' items in 'works' done.  Returns how long
 * that took, in us. */
static long long int
thread_run(struct offload_thread *thread, struct ct_offload_work **works,
           size_t n)
{
    long long int queued[CT_OFFLOAD_BATCH_INLINE];
    long long int start = time_usec();
    unsigned int n_waited = 0;
    long long int end;
    size_t n_waiting;
    unsigned int orig;

    /* The items may be freed when they are done. */
    for (size_t i = 0; i < n; i++) {
        queued[i] = works[i]->queued;
        n_waited += queued[i] == CT_OFFLOAD_WORK_WAITED;
    }
    atomic_store_relaxed(&thread->busy_since, start / 1000);
    n_waiting = run_cb(works, n);
    thread_requeue(thread, works, n_waiting);
    atomic_sub_explicit(&thread->n_waiting, n_waited, &orig,
                        memory_order_acq_rel);
    thread_done(thread, n - n_waiting);
    atomic_store_relaxed(&thread->busy_since, 0);
    end = time_usec();

    ovs_mutex_lock(&thread->mutex);
    for (size_t i = 0; i < n; i++) {
        if (queued[i] > CT_OFFLOAD_WORK_WAITED) {
            mov_avg_cma_update(&thread->cma, end - queued[i]);
            mov_avg_ema_update(&thread->ema, end - queued[i]);
        }
    }
    ovs_mutex_unlock(&thread->mutex);
    return end - start;
}

/* Takes up to '*max' items from the queue and has them done.  All are taken
 * before any is done: what was queued after DEL was raised for another one of
 * them is done after that DEL.  Adapts '*max', so that the thread quiesces
 * often enough.  Returns the number of items. */
static unsigned int
thread_run_batch(struct offload_thread *thread, size_t *max)
    OVS_REQUIRES(thread->queue.read_lock)
{
    struct ct_offload_work *works[CT_OFFLOAD_BATCH_INLINE];
    struct ct_offload_job *job = NULL;
    size_t n = 0;

    while (n < *max && !job) {
        struct mpsc_queue_node *node = mpsc_queue_pop(&thread->queue);

        if (!node) {
            break;
        }
        works[n] = CONTAINER_OF(node, struct ct_offload_work, node);
        if (works[n]->queued) {
            n++;
        } else {
            job = CONTAINER_OF(works[n], struct ct_offload_job, work);
        }
    }

    if (n) {
        long long int elapsed = thread_run(thread, works, n);

        if (elapsed > BATCH_MAX_US) {
            *max = MAX(n * BATCH_MAX_US / elapsed, 1);
        } else if (elapsed < BATCH_MAX_US / 4 && n == *max) {
            *max = MIN(*max * 2, CT_OFFLOAD_BATCH_INLINE);
        }
    }
    if (job) {
        thread_done(thread, 1);
        job->run(job);
    }
    return n + (job != NULL);
}

/* Has done what is urgent. */
static void
thread_run_urgent(struct offload_thread *thread)
{
    bool urged;

    atomic_read_explicit(&thread->urged, &urged, memory_order_acquire);
    if (OVS_UNLIKELY(urged)) {
        atomic_store_explicit(&thread->urged, false, memory_order_seq_cst);
        while (urgent_cb()) {
            ovsrcu_quiesce();
        }
        ovsrcu_quiesce();
    }
}

/* Sleeps for 'ms', unless somebody waits for the thread. */
static void
thread_sleep(struct offload_thread *thread, int ms)
{
    struct pollfd pfd = { .fd = thread->wake.fds[0], .events = POLLIN };

    ovsrcu_quiesce_start();
    if (poll(&pfd, 1, ms) > 0) {
        latch_poll(&thread->wake);
    }
    ovsrcu_quiesce_end();
}

/* Has done what is queued now.  Returns true if there was anything. */
static bool
thread_run_queue(struct offload_thread *thread, size_t *max)
    OVS_REQUIRES(thread->queue.read_lock)
{
    unsigned int todo, done = 0;

    thread_run_urgent(thread);
    atomic_read_relaxed(&thread->n_queued, &todo);
    while (done < todo) {
        unsigned int n = thread_run_batch(thread, max);

        if (!n) {
            break;
        }
        done += n;
        ovsrcu_quiesce();
        thread_run_urgent(thread);
    }
    return done > 0;
}

static void *
thread_main(void *thread_)
{
    struct offload_thread *thread = thread_;
    size_t max = BATCH_START;
    int sleep = SLEEP_MIN_MS;
    unsigned int n_queued;
    bool exit, idle, more = false;

    mpsc_queue_acquire(&thread->queue);
    do {
        atomic_read_explicit(&thread->exit, &exit, memory_order_acquire);
        idle = !thread_run_queue(thread, &max);
        atomic_read_relaxed(&thread->n_queued, &n_queued);
        if (n_queued < BUSY_QUEUE_SIZE && !exit) {
            sleep = (idle && !more ? MIN(sleep * 2, SLEEP_MAX_MS)
                     : SLEEP_MIN_MS);
            thread_sleep(thread, sleep);
            max = MIN(max, BATCH_START);
        }
        if (tick_cb) {
            more = tick_cb(thread->index, get_n_running());
        }
        coverage_try_clear();
    } while (!exit || !idle);
    mpsc_queue_release(&thread->queue);

    return NULL;
}

void
ct_offload_threads_set_tick(bool (*tick)(unsigned int index, unsigned int n))
{
    tick_cb = tick;
}

void
ct_offload_threads_set_urgent(bool (*run)(void))
{
    urgent_cb = run;
}

/* For the thread that sweeps: if no thread could be started at all, what is to
 * be done from time to time is done here. */
void
ct_offload_threads_tick(void)
{
    if (tick_cb && !get_n_running()) {
        tick_cb(0, 1);
    }
}

/* Has what is urgent done by all threads that run, before anything that is
 * queued.  Returns false if there are none.  May be called with locks held. */
bool
ct_offload_threads_urge(void)
{
    unsigned int n = get_n_running();

    for (size_t i = 0; i < n; i++) {
        atomic_store_explicit(&threads[i]->urged, true, memory_order_seq_cst);
        latch_set(&threads[i]->wake);
    }
    return n > 0;
}

static void *
idle_main(void *aux OVS_UNUSED)
{
    return NULL;
}

/* From now on, 'run' is called in offload threads for the 'n' items in
 * 'works', at most CT_OFFLOAD_BATCH_INLINE.  It must move those that have to
 * wait for something that another thread does to the front, and return their
 * number.
 *
 * 'wait' is called when other threads must not queue anything any more.  It
 * must wait until those that may not have noticed have ended what they are
 * doing, and may quiesce if 'quiesce'.  Called once, before anything can be
 * queued. */
void
ct_offload_threads_set_callbacks(
    size_t (*run)(struct ct_offload_work **works, size_t n),
    void (*wait)(bool quiesce))
{
    run_cb = run;
    wait_cb = wait;
}

/* Can a thread be started?  ovs_thread_create() would end the process if not.
 * Returns 0 or a positive errno value. */
static int
try_thread(void)
{
    pthread_t pthread;
    int error;

    error = pthread_create(&pthread, NULL, idle_main, NULL);
    if (!error) {
        pthread_join(pthread, NULL);
    }
    return error;
}

static struct offload_thread *
thread_create(unsigned int index)
{
    struct offload_thread *thread = xzalloc_cacheline(sizeof *thread);

    mpsc_queue_init(&thread->queue);
    atomic_init(&thread->n_queued, 0);
    atomic_init(&thread->n_waiting, 0);
    latch_init(&thread->wake);
    atomic_init(&thread->urged, false);
    atomic_init(&thread->exit, false);
    atomic_init(&thread->busy_since, 0);
    thread->index = index;
    ovs_mutex_init(&thread->mutex);
    ovs_mutex_lock(&thread->mutex);
    mov_avg_cma_init(&thread->cma);
    mov_avg_ema_init(&thread->ema, EMA_N);
    ovs_mutex_unlock(&thread->mutex);
    thread->pthread = ovs_thread_create("ct_offload", thread_main, thread);
    return thread;
}

/* Starts 'n' offload threads, at most CT_OFFLOAD_MAX_THREADS.  There must not
 * be any yet.  Returns how many there are now, which is less than 'n' if the
 * system does not allow more. */
unsigned int
ct_offload_threads_start(unsigned int n)
{
    unsigned int started = 0;

    ovs_assert(!get_n_running() && n <= CT_OFFLOAD_MAX_THREADS);
    while (started < MAX(n, 1)) {
        int error = try_thread();

        if (error) {
            VLOG_WARN("cannot start conntrack offload thread %u: %s; %s",
                      started, ovs_strerror(error),
                      started ? "there are fewer of them than configured"
                      : "the datapath's threads call the hardware, which may "
                        "slow them down");
            break;
        }
        threads[started] = thread_create(started);
        started++;
    }
    atomic_store_explicit(&n_running, started, memory_order_release);
    atomic_store_explicit(&ct_offload_n_threads_, MIN(n, started),
                          memory_order_release);
    return MIN(n, started);
}

/* Ends the offload threads, when they have done what is queued.  No provider
 * may be registered any more. */
void
ct_offload_threads_stop(void)
{
    unsigned int n = get_n_running();

    /* No other thread queues anything from now on. */
    atomic_store_explicit(&ct_offload_n_threads_, 0, memory_order_release);
    if (wait_cb) {
        wait_cb(true);
    }
    atomic_store_explicit(&n_running, 0, memory_order_release);

    for (size_t i = 0; i < n; i++) {
        struct offload_thread *thread = threads[i];

        atomic_store_explicit(&thread->exit, true, memory_order_release);
        latch_set(&thread->wake);
        pthread_join(thread->pthread, NULL);
        mpsc_queue_destroy(&thread->queue);
        latch_destroy(&thread->wake);
        ovs_mutex_destroy(&thread->mutex);
        free_cacheline(thread);
        threads[i] = NULL;
    }
}

/* What users see. */

static void
thread_get_stats(struct offload_thread *thread,
                 struct ct_offload_thread_stats *stats)
{
    atomic_read_relaxed(&thread->n_queued, &stats->n_queued);
    ovs_mutex_lock(&thread->mutex);
    stats->mean = mov_avg_cma(&thread->cma);
    stats->stddev = mov_avg_cma_std_dev(&thread->cma);
    stats->exp_mean = mov_avg_ema(&thread->ema);
    stats->exp_stddev = mov_avg_ema_std_dev(&thread->ema);
    ovs_mutex_unlock(&thread->mutex);
}

/* Stores in '*sum' the sum of what is queued, and the averages over the
 * threads. */
void
ct_offload_threads_get_stats(struct ct_offload_thread_stats *sum)
{
    unsigned int n_threads = ct_offload_n_threads();

    memset(sum, 0, sizeof *sum);
    for (size_t i = 0; i < n_threads; i++) {
        struct ct_offload_thread_stats stats;

        thread_get_stats(threads[i], &stats);
        sum->n_queued += stats.n_queued;
        sum->mean += stats.mean / n_threads;
        sum->stddev += stats.stddev / n_threads;
        sum->exp_mean += stats.exp_mean / n_threads;
        sum->exp_stddev += stats.exp_stddev / n_threads;
    }
}

/* Appends a line for each thread to 'ds'. */
void
ct_offload_threads_format(struct ds *ds)
{
    unsigned int n_threads = ct_offload_n_threads();

    for (size_t i = 0; i < n_threads; i++) {
        struct ct_offload_thread_stats stats;

        thread_get_stats(threads[i], &stats);
        ds_put_format(ds, "  offload thread %"PRIuSIZE": %u queued", i,
                      stats.n_queued);
        thread_format_busy(threads[i], ds);
        ds_put_format(ds, ", latency %.0f us (deviation %.0f), recently "
                      "%.0f us (deviation %.0f)\n", stats.mean, stats.stddev,
                      stats.exp_mean, stats.exp_stddev);
    }
}

/* Returns the same as an array of JSON objects. */
struct json *
ct_offload_threads_to_json(void)
{
    unsigned int n_threads = ct_offload_n_threads();
    struct json *array = json_array_create_empty();

    for (size_t i = 0; i < n_threads; i++) {
        struct ct_offload_thread_stats stats;
        struct json *json = json_object_create();

        thread_get_stats(threads[i], &stats);
        json_object_put(json, "queued", json_integer_create(stats.n_queued));
        json_object_put(json, "latency-mean-us",
                        json_real_create(stats.mean));
        json_object_put(json, "latency-stddev-us",
                        json_real_create(stats.stddev));
        json_object_put(json, "latency-recent-mean-us",
                        json_real_create(stats.exp_mean));
        json_object_put(json, "latency-recent-stddev-us",
                        json_real_create(stats.exp_stddev));
        json_array_add(array, json);
    }
    return array;
}
