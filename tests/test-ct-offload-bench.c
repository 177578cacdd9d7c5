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
#undef NDEBUG

#include "conntrack.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif
#include <unistd.h>

#include "command-line.h"
#include "conntrack-private.h"
#include "ct-dpif.h"
#ifndef CT_BENCH_PLAIN
#include "ct-offload-thread.h"
#include "ct-offload-wire.h"
#include "ct-offload-private.h"
#include "ct-offload.h"
#endif
#include "dp-packet.h"
#include "fatal-signal.h"
#include "flow.h"
#include "netdev-provider.h"
#include "odp-util.h"
#include "openvswitch/vlog.h"
#include "ovs-rcu.h"
#include "ovs-thread.h"
#include "ovstest.h"
#include "packets.h"
#include "smap.h"
#include "test-ct-offload-bench.h"
#include "timeval.h"
#include "util.h"

/* Measures how fast the connection tracker is, with and without offload.
 *
 * Each command takes arguments of the form KEY=VALUE and prints its results as
 * lines of the form NAME VALUE.  These are understood by all of them:
 *
 *     offload=BOOL     register a provider that takes every connection
 *     latency=US       the provider needs this time for each operation...
 *     sleep=BOOL       ...and sleeps meanwhile, or else keeps its CPU busy
 *     hw-offload-*     as in column other_config of the Open_vSwitch table
 *     threads=N        threads that send packets, one on each CPU
 *     ms=MS            how long to measure
 *     pkts=N           do this number of packets per thread instead
 *
 * tests/bench compares the results with those of a tree that has no layer
 * for conntrack offload.  There this file compiles with CT_BENCH_PLAIN
 * defined. */

static struct smap args = SMAP_INITIALIZER(&args);

/* Makes the calling thread, and those that it creates, run on the 'n'th of
 * the CPUs that the process may use.  If there are not as many, starts again
 * from the first. */
static void
pin(unsigned int n)
{
#ifdef __linux__
    static cpu_set_t all;
    cpu_set_t one;

    if (!CPU_COUNT(&all)) {
        ovs_assert(!sched_getaffinity(0, sizeof all, &all));
    }
    n %= CPU_COUNT(&all);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &all) && !n--) {
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            ovs_assert(!sched_setaffinity(0, sizeof one, &one));
            return;
        }
    }
#endif
}

/* The provider: it does nothing, but takes its time. */

#ifdef CT_BENCH_PLAIN
static void
provider_start(void)
{
    if (smap_get_bool(&args, "offload", false)) {
        ovs_fatal(0, "this tree has no conntrack offload");
    }
}

static void
provider_stop(void)
{
}

static void
provider_wait(unsigned int n OVS_UNUSED)
{
}

static void
provider_be_slow(bool slow OVS_UNUSED)
{
}

static void
provider_bypass(void)
{
}

static unsigned int
provider_n_added(void)
{
    return 0;
}
#else
static atomic_uint latency_ns;
static bool latency_sleep;
static atomic_uint n_held;      /* Connections that the provider has. */
static atomic_uint n_added;     /* Since it became slow. */

/* Only while something is being measured, the provider should be slow. */
static void
provider_be_slow(bool slow)
{
    if (slow) {
        atomic_store_relaxed(&n_added, 0);
    }
    latency_sleep = smap_get_bool(&args, "sleep", false);
    atomic_store_relaxed(&latency_ns,
                         slow ? smap_get_uint(&args, "latency", 0) * 1000 : 0);
}

static void
provider_work(void)
{
    unsigned int ns;

    atomic_read_relaxed(&latency_ns, &ns);
    if (ns && latency_sleep) {
        struct timespec ts = { .tv_nsec = ns };

        nanosleep(&ts, NULL);
    } else if (ns) {
        long long int end = now_ns() + ns;

        while (now_ns() < end) {
            continue;
        }
    }
}

static bool
provider_can_offload(const struct ct_offload_ctx *ctx OVS_UNUSED)
{
    return true;
}

static int
provider_add(const struct ct_offload_ctx *ctx OVS_UNUSED)
{
    unsigned int n;

    provider_work();
    atomic_add_relaxed(&n_held, 1, &n);
    atomic_add_relaxed(&n_added, 1, &n);
    return 0;
}

static void
provider_del(const struct ct_offload_ctx *ctx OVS_UNUSED)
{
    unsigned int n;

    provider_work();
    atomic_sub_relaxed(&n_held, 1, &n);
}

static int
provider_est(const struct ct_offload_ctx *ctx OVS_UNUSED)
{
    provider_work();
    return 0;
}

static long long int
provider_upd(const struct ct_offload_ctx *ctx OVS_UNUSED)
{
    provider_work();
    return time_msec();
}

static struct ct_offload_class provider = {
    .name = "bench",
    .thread_safe = true,
    .can_offload = provider_can_offload,
    .conn_add = provider_add,
    .conn_del = provider_del,
    .conn_established = provider_est,
    .conn_update = provider_upd,
};

static unsigned int
provider_n_added(void)
{
    unsigned int n;

    atomic_read_relaxed(&n_added, &n);
    return n;
}

static void
provider_start(void)
{
    if (smap_get_bool(&args, "offload", false)) {
        ct_offload_set_config(&args);
        ct_offload_threads_start(smap_get_uint(&args, "hw-offload-ct-threads",
                                               1));
        ovs_assert(!ct_offload_register(&provider));
    }
}

/* Takes everything back from the provider. */
static void
provider_stop(void)
{
    if (smap_get_bool(&args, "offload", false)) {
        ct_offload_unregister(&provider);
        ct_offload_threads_stop();
    }
}

/* From the start on, packets may bypass software: the sweep has to ask. */
static void
provider_bypass(void)
{
    provider.may_bypass = true;
}

/* Waits until the provider has done all that it was told.  If offload is on,
 * it must have 'n' connections then. */
static void
provider_wait(unsigned int n)
{
    unsigned int held;

    ct_offload_barrier();
    atomic_read_relaxed(&n_held, &held);
    if (smap_get_bool(&args, "offload", false) && held != n) {
        ovs_fatal(0, "%u connections are offloaded, not %u", held, n);
    }
}
#endif

/* Packets and connections. */

#define BURST NETDEV_MAX_BURST

static void
conn_tuple(uint32_t n, uint8_t proto, struct ct_dpif_tuple *tuple)
{
    memset(tuple, 0, sizeof *tuple);
    tuple->l3_type = AF_INET;
    tuple->ip_proto = proto;
    tuple->src.ip = client_addr(n);
    tuple->dst.ip = server_addr();
    tuple->src_port = client_port(n);
    tuple->dst_port = htons(SERVER_PORT);
}

#ifndef CT_BENCH_PLAIN
/* The port that packets come from, or NULL. */
static struct netdev *netdev_in = NULL;
#endif

/* Sends the packets through 'ct'. */
static void
burst_execute(struct burst *burst, struct conntrack *ct, bool commit,
              long long int now)
{
    struct dp_packet *packet;

    DP_PACKET_BATCH_FOR_EACH (i, packet, &burst->batch) {
        pkt_metadata_init_conn(&packet->md);
#ifndef CT_BENCH_PLAIN
        if (netdev_in) {
            ct_offload_wire_receive(packet, true);
        }
#endif
    }
    conntrack_execute(ct, &burst->batch, htons(ETH_TYPE_IP), false, commit, 0,
                      NULL, NULL, NULL, NULL, now, 0
#ifndef CT_BENCH_PLAIN
                      , netdev_in
#endif
                      );
}

/* All of the packets must have had this 'ct_state'. */
static void
burst_check(const struct burst *burst, uint8_t ct_state)
{
    for (size_t i = 0; i < BURST; i++) {
        uint8_t got = burst->batch.packets[i]->md.ct_state;

        if (got != ct_state) {
            ovs_fatal(0, "ct_state is 0x%02x, not 0x%02x", got, ct_state);
        }
    }
}

/* Waits until the connections of the packets, to the last one of which a reply
 * was seen, are offloaded if they should be. */
static void
burst_wait_offloaded(const struct burst *burst OVS_UNUSED)
{
#ifndef CT_BENCH_PLAIN
    if (ct_offload_is_active()) {
        ct_offload_barrier();
        for (size_t i = 0; i < BURST; i++) {
            const struct conn *conn = burst->batch.packets[i]->md.conn;

            ovs_assert(ct_offload_conn_is_established(conn));
        }
    }
#endif
}

/* Threads that send packets. */

struct worker {
    pthread_t thread;
    unsigned int id;
    struct conntrack *ct;
    unsigned long long int pkts;    /* To be sent, 0 for no limit. */
    unsigned int iterations;        /* Of its loop. */
    void (*main)(struct worker *);

    unsigned long long int n;       /* What was done... */
    long long int ns;               /* ...in this time... */
    long long int cpu_ns;           /* ...which took this time of the CPU. */
};

static struct ovs_barrier workers_ready;
static atomic_bool workers_stop;

static bool
worker_goes_on(const struct worker *w, unsigned long long int pkts)
{
    bool stop;

    if (w->pkts) {
        return pkts < w->pkts;
    }
    atomic_read_relaxed(&workers_stop, &stop);
    return !stop;
}

/* Called by each worker when its preparations are done. */
static void
worker_begin(struct worker *w)
{
    ovs_barrier_block(&workers_ready);
    provider_be_slow(true);
    w->cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    w->ns = now_ns();
}

/* At the end of each iteration of a worker's loop: quiesces as often as a PMD
 * thread does. */
static void
worker_iterate(struct worker *w)
{
    if (++w->iterations >= 1024) {
        w->iterations = 0;
        ovsrcu_try_quiesce();
    }
}

static void
worker_end(struct worker *w, unsigned long long int n)
{
    w->ns = now_ns() - w->ns;
    w->cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - w->cpu_ns;
    w->n = n;
}

static void *
worker_main(void *w_)
{
    struct worker *w = w_;

    pin(w->id);
    w->main(w);
    return NULL;
}

/* Has as many threads as the arguments say call 'main'.  Prints how many of
 * 'what' they have done per second, and per second of CPU time, together. */
static void
workers_run(struct conntrack *ct, void (*main)(struct worker *),
            const char *what)
{
    unsigned int n = smap_get_uint(&args, "threads", 1);
    unsigned long long int pkts = smap_get_ullong(&args, "pkts", 0);
    struct worker *workers = xcalloc(n, sizeof *workers);
    double rate = 0, cpu_rate = 0;

    atomic_init(&workers_stop, false);
    ovs_barrier_init(&workers_ready, n + 1);
    for (unsigned int i = 0; i < n; i++) {
        struct worker *w = &workers[i];

        w->id = i;
        w->ct = ct;
        w->pkts = pkts;
        w->main = main;
        w->thread = ovs_thread_create("worker", worker_main, w);
    }

    ovsrcu_quiesce_start();
    ovs_barrier_block(&workers_ready);
    if (!pkts) {
        xnanosleep(smap_get_uint(&args, "ms", 1000) * 1000000ULL);
        atomic_store_relaxed(&workers_stop, true);
    }
    for (unsigned int i = 0; i < n; i++) {
        xpthread_join(workers[i].thread, NULL);
        rate += workers[i].n * 1e9 / workers[i].ns;
        cpu_rate += workers[i].n * 1e9 / workers[i].cpu_ns;
    }
    provider_be_slow(false);
    ovsrcu_quiesce_end();
    ovs_barrier_destroy(&workers_ready);
    free(workers);
    printf("%s-per-second %.0f\n", what, rate);
    printf("%s-per-cpu-second %.0f\n", what, cpu_rate);
}

/* The connections of each worker have numbers of their own. */
static uint32_t
worker_first_conn(const struct worker *w)
{
    return w->id << 22;
}

/* Starts what every measurement needs.  Threads that conntrack and its
 * offload create run on the last CPU, the workers on the first ones. */
static struct conntrack *
begin(void)
{
    struct conntrack *ct;

#ifdef __linux__
    prctl(PR_SET_TIMERSLACK, 1);    /* Sleep as long as was asked for. */
#endif
    fatal_signal_init();
    vlog_set_levels(NULL, VLF_ANY_DESTINATION, VLL_ERR);
    pin(UINT_MAX);
    provider_start();
    ct = conntrack_init();
    ovsrcu_quiesce();
    return ct;
}

static void
end(struct conntrack *ct)
{
    conntrack_flush(ct, NULL);
    provider_stop();
    conntrack_destroy(ct);
    ovsrcu_exit();
}

/* Established traffic: packets of BURST connections, over and over. */

static void
established_prepare(struct worker *w, struct burst *orig, long long int now)
{
    uint32_t first = worker_first_conn(w);
    struct burst reply;

    burst_init(orig, BURST, IPPROTO_UDP, false, first, 0, 0, 0);
    burst_init(&reply, BURST, IPPROTO_UDP, true, first, 0, 0, 0);
    burst_execute(orig, w->ct, true, now);
    burst_check(orig, CS_TRACKED | CS_NEW);
    for (int i = 0; i < 2; i++) {
        burst_execute(&reply, w->ct, true, now);
        burst_execute(orig, w->ct, true, now);
    }
    burst_check(&reply, CS_TRACKED | CS_ESTABLISHED | CS_REPLY_DIR);
    burst_check(orig, CS_TRACKED | CS_ESTABLISHED);
    burst_destroy(&reply);
    ovsrcu_quiesce();
    burst_wait_offloaded(orig);
}

static void
established_main(struct worker *w)
{
    long long int now = time_msec();
    unsigned long long int n = 0;
    struct burst orig;

    established_prepare(w, &orig, now);
    worker_begin(w);
    while (worker_goes_on(w, n)) {
        burst_execute(&orig, w->ct, true, now);
        n += BURST;
        worker_iterate(w);
    }
    worker_end(w, n);
    burst_destroy(&orig);
}

static void
cmd_established(void)
{
    struct conntrack *ct = begin();

    workers_run(ct, established_main, "packets");
    end(ct);
}

/* New connections: TCP handshakes, each of which is followed by the removal of
 * an older connection. */

#define WINDOW 16384            /* Connections that are there at a time. */

#define N_CONNS (1 << 22)       /* That a worker may use. */

struct setup {
    struct burst syn, syn_ack, ack;
    uint32_t first;             /* First connection of the worker. */
    unsigned long long int n;   /* Connections that were set up. */
};

static void
setup_init(struct setup *s, uint32_t first)
{
    s->first = first;
    s->n = 0;
    burst_init(&s->syn, BURST, IPPROTO_TCP, false, first, TCP_SYN, 0, 0);
    burst_init(&s->syn_ack, BURST, IPPROTO_TCP, true, first,
               TCP_SYN | TCP_ACK, 0, 1);
    burst_init(&s->ack, BURST, IPPROTO_TCP, false, first, TCP_ACK, 1, 1);
}

static void
setup_destroy(struct setup *s)
{
    burst_destroy(&s->syn);
    burst_destroy(&s->syn_ack);
    burst_destroy(&s->ack);
}

static void
setup_remove(uint32_t first, struct conntrack *ct)
{
    for (uint32_t n = first; n < first + BURST; n++) {
        struct ct_dpif_tuple tuple;

        conn_tuple(n, IPPROTO_TCP, &tuple);
        ovs_assert(!conntrack_flush_tuple(ct, &tuple, 0));
    }
}

/* Sets up BURST connections and removes as many. */
static void
setup_run(struct setup *s, struct conntrack *ct, long long int now)
{
    uint32_t next = s->first + s->n % N_CONNS;

    burst_set_conns(&s->syn, next);
    burst_set_conns(&s->syn_ack, next);
    burst_set_conns(&s->ack, next);
    burst_execute(&s->syn, ct, true, now);
    burst_execute(&s->syn_ack, ct, false, now);
    burst_execute(&s->ack, ct, false, now);
    burst_check(&s->syn, CS_TRACKED | CS_NEW);
    burst_check(&s->ack, CS_TRACKED | CS_ESTABLISHED);

    if (s->n >= WINDOW) {
        setup_remove(s->first + (s->n - WINDOW) % N_CONNS, ct);
    }
    s->n += BURST;
}

static void
setup_main(struct worker *w)
{
    struct setup setup;

    setup_init(&setup, worker_first_conn(w));
    while (setup.n < 2 * WINDOW) {
        setup_run(&setup, w->ct, time_msec());
        worker_iterate(w);
    }

    unsigned long long int start = setup.n;

    worker_begin(w);
    while (worker_goes_on(w, 3 * (setup.n - start))) {
        setup_run(&setup, w->ct, time_msec());
        worker_iterate(w);
    }
    worker_end(w, setup.n - start);
    setup_destroy(&setup);
}

static void
cmd_setup(void)
{
    struct conntrack *ct = begin();

    workers_run(ct, setup_main, "connections");
    printf("offloaded-per-second %.0f\n",
           provider_n_added() * 1000.0 / smap_get_uint(&args, "ms", 1000));
    end(ct);
}

/* Both: "rate" new connections per second arrive, and between them there is as
 * much established traffic as the thread can do. */

static void
mixed_main(struct worker *w)
{
    unsigned int rate = smap_get_uint(&args, "rate", 10000);
    long long int interval = 1000LL * 1000 * 1000 * BURST / rate;
    unsigned long long int n = 0;
    struct setup setup;
    struct burst orig;
    long long int next;

    established_prepare(w, &orig, time_msec());
    setup_init(&setup, worker_first_conn(w) + BURST);
    while (setup.n < 2 * WINDOW) {
        setup_run(&setup, w->ct, time_msec());
        worker_iterate(w);
    }

    worker_begin(w);
    next = now_ns();
    while (worker_goes_on(w, n)) {
        long long int now = time_msec();

        burst_execute(&orig, w->ct, true, now);
        n += BURST;
        if (now_ns() >= next) {
            setup_run(&setup, w->ct, now);
            next += interval;
        }
        worker_iterate(w);
    }
    worker_end(w, n);
    setup_destroy(&setup);
    burst_destroy(&orig);
}

static void
cmd_mixed(void)
{
    struct conntrack *ct = begin();

    workers_run(ct, mixed_main, "packets");
    end(ct);
}

/* Scale: "conns" connections at once. */

/* Returns the memory that the process has, in bytes. */
static long long int
memory_used(void)
{
    static const char file_name[] = "/proc/self/statm";
    FILE *stream = fopen(file_name, "r");
    long long int pages = 0;

    if (stream) {
        ovs_ignore(fscanf(stream, "%*d %lld", &pages));
        fclose(stream);
    }
    return pages * get_page_size();
}

/* Has connections 'first' to 'n' - 1 set up in 'ct'. */
static void
fill(struct conntrack *ct, uint32_t first, uint32_t n)
{
    struct burst orig, reply;

    burst_init(&orig, BURST, IPPROTO_UDP, false, 0, 0, 0, 0);
    burst_init(&reply, BURST, IPPROTO_UDP, true, 0, 0, 0, 0);
    for (uint32_t i = first; i < n; i += BURST) {
        long long int now = time_msec();

        burst_set_conns(&orig, i);
        burst_set_conns(&reply, i);
        burst_execute(&orig, ct, true, now);
        burst_execute(&reply, ct, false, now);
        burst_check(&reply, CS_TRACKED | CS_ESTABLISHED | CS_REPLY_DIR);

        /* Connections that come too fast stay in software. */
        if (!((i + BURST) % 8192)) {
            provider_wait(i + BURST);
        }
        ovsrcu_quiesce();
    }
    burst_destroy(&orig);
    burst_destroy(&reply);
}

/* Has 'ct' sweep every 'ms'.  Returns false if it has already begun to wait
 * for as long as it does by default. */
static bool
set_sweep_interval(struct conntrack *ct, uint32_t ms)
{
    long long int before;
    clockid_t clock;

    conntrack_set_sweep_interval(ct, 10);
    ovs_assert(!pthread_getcpuclockid(ct->clean_thread, &clock));
    xnanosleep(30 * 1000 * 1000);
    before = clock_ns(clock);
    xnanosleep(30 * 1000 * 1000);
    conntrack_set_sweep_interval(ct, ms);
    return clock_ns(clock) > before;
}

/* Returns the CPU time of one sweep of 'ct' in ns.  The sweeping thread tells
 * nobody when it begins and ends, but between sweeps it uses no CPU. */
static long long int
measure_sweep(struct conntrack *ct)
{
    long long int start, before, now;
    clockid_t clock;
    int idle = 0;

    ovs_assert(!pthread_getcpuclockid(ct->clean_thread, &clock));
    start = before = clock_ns(clock);
    while (idle < 30) {
        xnanosleep(5 * 1000 * 1000);
        now = clock_ns(clock);
        idle = now != start && now == before ? idle + 1 : 0;
        before = now;
    }
    return now - start;
}

static int
compare_llongs(const void *a_, const void *b_)
{
    const long long int *a = a_, *b = b_;

    return *a < *b ? -1 : *a > *b;
}

static void
measure_sweeps(struct conntrack *ct, uint32_t n_conns)
{
    unsigned int n = smap_get_uint(&args, "sweeps", 5);
    long long int *ns = xcalloc(n, sizeof *ns);

    /* The first one may have begun already. */
    measure_sweep(ct);
    for (unsigned int i = 0; i < n; i++) {
        ns[i] = measure_sweep(ct);
    }
    qsort(ns, n, sizeof *ns, compare_llongs);
    printf("sweep-ns-per-connection %.2f\n", (double) ns[n / 2] / n_conns);
    free(ns);
}

/* Measures a sweep when the time of all connections is up.  They must be in
 * use in hardware. */
static void
measure_sweep_of_expired(struct conntrack *ct, uint32_t n_conns)
{
    long long int now = time_msec();
    double ns;

    ovsrcu_quiesce_end();
    for (size_t i = 0; i < N_EXP_LISTS; i++) {
        struct conn *conn;

        RCULIST_FOR_EACH (conn, node, &ct->exp_lists[i]) {
            atomic_store_relaxed(&conn->expiration, now);
        }
    }
    ovsrcu_quiesce_start();
    ns = measure_sweep(ct);
    printf("expired-sweep-ns-per-connection %.2f\n", ns / n_conns);
    provider_wait(n_conns);
}

static void
cmd_scale(void)
{
    uint32_t n = ROUND_UP(smap_get_uint(&args, "conns", 100000), BURST);
    struct conntrack *ct;
    long long int memory;
    long long int start;
    uint32_t n_conns;

    provider_bypass();
    ct = begin();
    while (!set_sweep_interval(ct, 300 + n / 2000)) {
        conntrack_destroy(ct);
        ct = conntrack_init();
    }
    /* Have a sweep visit all connections. */
    conntrack_set_maxconns(ct, MIN(n, UINT32_MAX / 64) * 64);

    memory = memory_used();
    start = now_ns();
    pin(0);
    fill(ct, 0, n);
    ovsrcu_quiesce_start();
    provider_wait(n);
    printf("fill-ns-per-connection %.1f\n", (double) (now_ns() - start) / n);
    printf("bytes-per-connection %.1f\n",
           (double) (memory_used() - memory) / n);
    ovs_assert(!conntrack_get_nconns(ct, &n_conns));
    ovs_assert(n_conns == n);

    measure_sweeps(ct, n);
    if (smap_get_bool(&args, "offload", false)) {
        measure_sweep_of_expired(ct, n);
    }
    ovsrcu_quiesce_end();

    start = now_ns();
    conntrack_flush(ct, NULL);
    printf("flush-ns-per-connection %.1f\n", (double) (now_ns() - start) / n);
    ovsrcu_quiesce_start();
    provider_wait(0);
    printf("flush-done-ns-per-connection %.1f\n",
           (double) (now_ns() - start) / n);
    ovsrcu_quiesce_end();
    end(ct);
}

#ifndef CT_BENCH_PLAIN
/* Ports that stop: one without connections, and one with some, when there are
 * "conns" connections elsewhere.  And the end of the daemon, with all of
 * these. */

static void
measure_stop(struct netdev *netdev, const char *what)
{
    long long int start = now_ns();

    ct_offload_netdev_flush(netdev);
    printf("%s-us %.1f\n", what, (now_ns() - start) / 1000.0);
}

static void
cmd_stop(void)
{
    /* Only their addresses matter. */
    static struct netdev elsewhere, empty, some;
    enum { N_SOME = 3 * BURST };
    uint32_t n = ROUND_UP(smap_get_uint(&args, "conns", 100000), BURST);
    struct conntrack *ct;
    long long int start;

    provider_bypass();
    ct = begin();
    netdev_in = &elsewhere;
    fill(ct, 0, n);
    provider_wait(n);
    measure_stop(&empty, "empty");

    netdev_in = &some;
    fill(ct, n, n + N_SOME);
    provider_wait(n + N_SOME);
    measure_stop(&some, "some");
    provider_wait(n);

    /* As at the end of the daemon. */
    provider_be_slow(true);
    ct_offload_set_exiting();
    start = now_ns();
    ct_offload_unregister(&provider);
    printf("exit-ms %.1f\n", (now_ns() - start) / 1e6);
    provider_be_slow(false);
    conntrack_flush(ct, NULL);
    ct_offload_threads_stop();
    conntrack_destroy(ct);
}

/* Dispatch: operations on BURST connections, over and over, that a provider
 * has no work with.  There are no offload threads. */

static bool
null_can_offload(const struct ct_offload_ctx *ctx OVS_UNUSED)
{
    return true;
}

static int
null_add(const struct ct_offload_ctx *ctx OVS_UNUSED)
{
    return 0;
}

static void
null_del(const struct ct_offload_ctx *ctx OVS_UNUSED)
{
}

static long long int
null_upd(const struct ct_offload_ctx *ctx OVS_UNUSED)
{
    return 1;
}

/* The same behind a readers-writer lock. */

static struct ovs_rwlock null_rwlock = OVS_RWLOCK_INITIALIZER;

static int
rwlock_add(const struct ct_offload_ctx *ctx)
{
    int error;

    ovs_rwlock_rdlock(&null_rwlock);
    error = null_add(ctx);
    ovs_rwlock_unlock(&null_rwlock);
    return error;
}

static void
rwlock_del(const struct ct_offload_ctx *ctx)
{
    ovs_rwlock_rdlock(&null_rwlock);
    null_del(ctx);
    ovs_rwlock_unlock(&null_rwlock);
}

static long long int
rwlock_upd(const struct ct_offload_ctx *ctx)
{
    long long int last_used;

    ovs_rwlock_rdlock(&null_rwlock);
    last_used = null_upd(ctx);
    ovs_rwlock_unlock(&null_rwlock);
    return last_used;
}

/* For all operations of a batch at once. */

static void
null_batch(struct ct_offload_op_batch *batch)
{
    struct ct_offload_op *op;

    CT_OFFLOAD_BATCH_OP_FOR_EACH (i, op, batch) {
        op->error = 0;
        op->last_used = 1;
    }
}

static void
rwlock_batch(struct ct_offload_op_batch *batch)
{
    ovs_rwlock_rdlock(&null_rwlock);
    null_batch(batch);
    ovs_rwlock_unlock(&null_rwlock);
}

static struct ct_offload_class null_class = {
    .name = "null",
    .can_offload = null_can_offload,
    .conn_add = null_add,
    .conn_del = null_del,
    .conn_update = null_upd,
};

/* Prepares 'null_class' as the argument "lock" says: with "mutex" it is not
 * thread-safe, with "rwlock" it has a lock of its own, otherwise none.  If the
 * argument "native" is true, it has its own function for batches. */
static void
null_class_init(void)
{
    const char *lock = smap_get_def(&args, "lock", "none");
    bool native = smap_get_bool(&args, "native", false);

    null_class.thread_safe = strcmp(lock, "mutex");
    if (!strcmp(lock, "rwlock")) {
        null_class.conn_add = rwlock_add;
        null_class.conn_del = rwlock_del;
        null_class.conn_update = rwlock_upd;
    }
    if (native) {
        null_class.batch_submit = (!strcmp(lock, "rwlock") ? rwlock_batch
                                   : null_batch);
    }
}

/* What the operations of one thread need. */
struct dispatch {
    struct burst burst;
    struct ct_offload_task tasks[BURST];
    void *priv[BURST][CT_OFFLOAD_MAX_PROVIDERS];
};

static void
dispatch_init(struct dispatch *d, struct worker *w)
{
    memset(d, 0, sizeof *d);
    established_prepare(w, &d->burst, time_msec());
    for (size_t i = 0; i < BURST; i++) {
        struct ct_offload_task *t = &d->tasks[i];

        t->op.type = CT_OFFLOAD_OP_UPD;
        t->op.ctx.conn = d->burst.batch.packets[i]->md.conn;
        t->op.ctx.input_port_id = ODPP_NONE;
        t->held = 1;
        t->priv = d->priv[i];
        ovs_assert(ct_offload_conn_is_offloaded(t->op.ctx.conn));
    }
}

/* Each of these does BURST operations. */

static void
dispatch_direct(struct dispatch *d)
{
    /* The compiler must not know which function this is. */
    long long int (*volatile upd)(const struct ct_offload_ctx *)
        = null_class.conn_update;

    for (size_t i = 0; i < BURST; i++) {
        d->tasks[i].op.last_used = upd(&d->tasks[i].op.ctx);
    }
}

static void
dispatch_single(struct dispatch *d)
{
    for (size_t i = 0; i < BURST; i++) {
        ct_offload_dispatch(&d->tasks[i], 1);
    }
}

static void
dispatch_batch(struct dispatch *d)
{
    ct_offload_dispatch(d->tasks, BURST);
}

static void
dispatch_add_del(struct dispatch *d)
{
    for (size_t i = 0; i < BURST; i++) {
        d->tasks[i].op.type = i & 1 ? CT_OFFLOAD_OP_DEL : CT_OFFLOAD_OP_ADD;
        d->tasks[i].held = i & 1;
        ct_offload_dispatch(&d->tasks[i], 1);
    }
}

static void
dispatch_conn_update(struct dispatch *d)
{
    for (size_t i = 0; i < BURST; i++) {
        ct_offload_conn_update(&d->tasks[i].op.ctx);
    }
}

static void (*dispatch_function)(struct dispatch *);

static void
dispatch_main(struct worker *w)
{
    unsigned long long int n = 0;
    struct dispatch d;

    dispatch_init(&d, w);
    dispatch_function(&d);
    worker_begin(w);
    while (worker_goes_on(w, n)) {
        dispatch_function(&d);
        n += BURST;
        worker_iterate(w);
    }
    worker_end(w, n);
    burst_destroy(&d.burst);
}

static void
cmd_dispatch(void)
{
    static const struct {
        const char *name;
        void (*function)(struct dispatch *);
    } functions[] = {
        { "direct", dispatch_direct },
        { "single", dispatch_single },
        { "batch", dispatch_batch },
        { "add-del", dispatch_add_del },
        { "conn-update", dispatch_conn_update },
    };
    struct conntrack *ct;

    null_class_init();
    ct = begin();
    ovs_assert(!ct_offload_register(&null_class));
    for (size_t i = 0; i < ARRAY_SIZE(functions); i++) {
        dispatch_function = functions[i].function;
        workers_run(ct, dispatch_main, functions[i].name);
        conntrack_flush(ct, NULL);
    }
    ct_offload_unregister(&null_class);
    end(ct);
}
#endif

/* Commands. */

static const struct bench_command {
    const char *name;
    void (*run)(void);
} bench_commands[] = {
    { "established", cmd_established },
    { "setup", cmd_setup },
    { "mixed", cmd_mixed },
    { "scale", cmd_scale },
#ifndef CT_BENCH_PLAIN
    { "dispatch", cmd_dispatch },
    { "stop", cmd_stop },
#endif
};

static void
parse_arg(const char *arg)
{
    static const char *const keys[] = {
        "conns", "latency", "lock", "ms", "native", "offload", "pkts",
        "rate", "sleep", "sweeps", "threads",
    };
    const char *equals = strchr(arg, '=');
    bool known = !strncmp(arg, "hw-offload-", 11);

    if (!equals) {
        ovs_fatal(0, "%s: not KEY=VALUE", arg);
    }
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        known |= (strlen(keys[i]) == equals - arg
                  && !strncmp(arg, keys[i], equals - arg));
    }
    if (!known) {
        ovs_fatal(0, "%s: unknown key", arg);
    }
    smap_add_nocopy(&args, xmemdup0(arg, equals - arg), xstrdup(equals + 1));
}

static void
test_ct_offload_bench_main(int argc, char *argv[])
{
    set_program_name(argv[0]);
    for (int i = 2; i < argc; i++) {
        parse_arg(argv[i]);
    }
    for (size_t i = 0; argc > 1 && i < ARRAY_SIZE(bench_commands); i++) {
        if (!strcmp(argv[1], bench_commands[i].name)) {
            bench_commands[i].run();
            smap_destroy(&args);
            return;
        }
    }
    ovs_fatal(0, "usage: test-ct-offload-bench COMMAND [KEY=VALUE...]");
}

OVSTEST_REGISTER("test-ct-offload-bench", test_ct_offload_bench_main);
