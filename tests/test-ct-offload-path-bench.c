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

#include "ct-offload-path.h"

#include <stdlib.h>

#include "conntrack-private.h"
#include "conntrack.h"
#include "ct-offload-path-private.h"
#include "ct-offload-private.h"
#include "ct-offload-thread.h"
#include "ct-offload-trace.h"
#include "ct-offload-wire.h"
#include "ct-offload.h"
#include "dp-packet.h"
#include "dpif-netdev-dpcls.h"
#include "dpif-netdev-flow.h"
#include "dpif-offload.h"
#include "dpif.h"
#include "flow.h"
#include "netdev-provider.h"
#include "netlink.h"
#include "odp-execute.h"
#include "openvswitch/ofpbuf.h"
#include "openvswitch/vlog.h"
#include "ovs-rcu.h"
#include "ovs-thread.h"
#include "ovstest.h"
#include "packets.h"
#include "smap.h"
#include "test-ct-offload-bench.h"
#include "timeval.h"
#include "util.h"
#include "vswitch-idl.h"

/* Measures what paths (see ct-offload-path.h) cost, without hardware.
 *
 *     ovstest test-ct-offload-path-bench COMMAND [KEY=VALUE]...
 *
 * prints lines of the form NAME VALUE.  Two ports, between which packets of
 * UDP go by two megaflows in each direction, with one ct() between them, have
 * a provider that forwards.  These are the commands:
 *
 *     make      tracing packets, and making paths of that
 *     policy    changing a megaflow of all paths
 *     sample    asking about all paths
 *     software  packets of connections that have no paths
 *
 * And these are understood by all of them:
 *
 *     conns=N        how many connections
 *     latency=NS     how long the provider needs to be asked, or to delete
 *     fences=BOOL    can it have fences?
 *     refused=BOOL   is there something that is not for hardware in the way?
 *     hw-offload-*   as in column other_config of the Open_vSwitch table */

/* As many packets as can be traced at the same time. */
#define BURST CT_TRACE_MAX

/* Connections that are made, or whose packets are traced, before the offload
 * thread is waited for. */
#define CHUNK (BURST * 128)

static struct smap args = SMAP_INITIALIZER(&args);
static unsigned int n_conns, latency_ns;
static struct conntrack *ct;
static struct netdev netdevs[2];

static void
report(const char *name, double value)
{
    printf("%s %.3f\n", name, value);
}

/* The provider. */

struct bench_path {
    uint64_t n_queries;
    bool fence;
};

static atomic_uint n_paths;
static atomic_ullong n_queries;
static long long int fence_up_ns; /* When that was. */

static void
work(void)
{
    long long int end = now_ns() + latency_ns;

    while (latency_ns && now_ns() < end) {
        continue;
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
    return 0;
}

static void
provider_del(const struct ct_offload_ctx *ctx OVS_UNUSED)
{
}

static bool
provider_can_forward(const struct netdev *netdev OVS_UNUSED)
{
    return true;
}

static int
provider_path_add(const struct ct_offload_path *p, void **priv)
{
    struct bench_path *path = xzalloc(sizeof *path);
    unsigned int n;

    path->fence = p->fence;
    if (p->fence) {
        fence_up_ns = now_ns();
    } else {
        atomic_add_relaxed(&n_paths, 1, &n);
    }
    *priv = path;
    return 0;
}

static void
provider_path_del(void **priv, struct dpif_flow_stats *last OVS_UNUSED)
{
    struct bench_path *path = *priv;
    unsigned int n;

    if (!path->fence) {
        work();
        atomic_sub_relaxed(&n_paths, 1, &n);
    }
    free(path);
}

static int
provider_path_stats(void **priv, struct dpif_flow_stats *total)
{
    struct bench_path *path = *priv;
    unsigned long long int n;

    work();
    total->n_packets = ++path->n_queries;
    total->n_bytes = total->n_packets * 100;
    atomic_add_relaxed(&n_queries, 1, &n);
    return 0;
}

static struct ct_offload_class provider = {
    .name = "bench",
    .thread_safe = true,
    .can_offload = provider_can_offload,
    .conn_add = provider_add,
    .conn_del = provider_del,
    .can_forward = provider_can_forward,
    .path_add = provider_path_add,
    .path_del = provider_path_del,
    .path_stats = provider_path_stats,
};

/* Megaflows. */

enum { N_STAGES = 2 };

static struct dp_netdev_flow *flows[2][N_STAGES]; /* By direction. */

/* Returns the megaflow for 'stage' of direction 'reply', which sends packets
 * to 'n_outputs' ports in the end. */
static struct dp_netdev_flow *
flow_create(bool reply, int stage, unsigned int n_outputs)
{
    struct dp_netdev_flow *flow = xzalloc(sizeof *flow);
    struct netdev_flow_key *mask = xzalloc(sizeof *mask);
    struct dp_netdev_actions *a;
    struct flow_wildcards wc;
    struct ofpbuf actions;
    struct flow key;

    memset(&key, 0, sizeof key);
    memset(&wc, 0, sizeof wc);
    key.in_port.odp_port = u32_to_odp(1 + reply);
    key.recirc_id = stage ? 1 + reply : 0;
    key.dl_type = htons(ETH_TYPE_IP);
    key.nw_proto = IPPROTO_UDP;
    WC_MASK_FIELD(&wc, recirc_id);
    WC_MASK_FIELD(&wc, packet_type);
    WC_MASK_FIELD(&wc, dl_type);
    WC_MASK_FIELD(&wc, nw_proto);
    WC_MASK_FIELD_MASK(&wc, nw_frag, FLOW_NW_FRAG_MASK);
    WC_MASK_FIELD(&wc, vlans[0]);
    if (stage) {
        key.ct_state = CS_TRACKED | CS_ESTABLISHED | (reply ? CS_REPLY_DIR
                                                      : 0);
        wc.masks.ct_state = (CS_TRACKED | CS_ESTABLISHED | CS_NEW
                             | CS_REPLY_DIR | CS_INVALID);
    }
    miniflow_map_init(&mask->mf, &wc.masks);
    miniflow_init(&mask->mf, &wc.masks);

    ofpbuf_init(&actions, 0);
    if (!stage) {
        size_t ofs = nl_msg_start_nested(&actions, OVS_ACTION_ATTR_CT);

        nl_msg_put_u16(&actions, OVS_CT_ATTR_ZONE, 1);
        nl_msg_end_nested(&actions, ofs);
        nl_msg_put_u32(&actions, OVS_ACTION_ATTR_RECIRC, 1 + reply);
    }
    while (stage && n_outputs--) {
        nl_msg_put_odp_port(&actions, OVS_ACTION_ATTR_OUTPUT,
                            u32_to_odp(2 - reply));
    }
    a = xmalloc(sizeof *a + actions.size);
    a->size = actions.size;
    memcpy(a->actions, actions.data, actions.size);
    ofpbuf_uninit(&actions);

    *CONST_CAST(struct flow *, &flow->flow) = key;
    flow->cr.mask = mask;
    ovs_refcount_init(&flow->ref_cnt);
    atomic_init(&flow->ct_path, NULL);
    ovsrcu_init(&flow->actions, a);
    return flow;
}

/* Has 'flow' drop packets.  See flow_put_on_pmd(). */
static void
flow_change(struct dp_netdev_flow *flow)
{
    struct dp_netdev_actions *old
        = ovsrcu_get_protected(struct dp_netdev_actions *, &flow->actions);

    ovsrcu_set(&flow->actions, xzalloc(sizeof *old));
    ct_path_flow_changed(flow);
    ovsrcu_postpone(free, old);
}

/* Packets. */

/* Makes the packets be those of BURST connections from 'first' on, as they
 * arrive. */
static void
burst_arrive(struct burst *burst, uint32_t first)
{
    struct dp_packet *packet;

    burst_set_conns(burst, first);
    DP_PACKET_BATCH_FOR_EACH (i, packet, &burst->batch) {
        pkt_metadata_init(&packet->md, u32_to_odp(1 + burst->reply));
        ct_offload_wire_receive(packet, ct_offload_is_active());
    }
}

static void
execute_ct(struct burst *burst, bool commit)
{
    conntrack_execute(ct, &burst->batch, htons(ETH_TYPE_IP), false, commit, 1,
                      NULL, NULL, NULL, NULL, time_msec(), 0,
                      &netdevs[burst->reply]);
}

static void process(struct burst *, int stage);

static void
execute_cb(void *burst_, struct dp_packet_batch *batch, const struct nlattr *a,
           bool should_steal OVS_UNUSED)
{
    struct burst *burst = burst_;
    struct dp_packet *packet;

    if (nl_attr_type(a) == OVS_ACTION_ATTR_CT) {
        execute_ct(burst, false);
        ct_trace_ct(batch, ct, &flows[burst->reply][0]->flow, false);
    } else if (nl_attr_type(a) == OVS_ACTION_ATTR_RECIRC) {
        DP_PACKET_BATCH_FOR_EACH (i, packet, batch) {
            packet->md.recirc_id = nl_attr_get_u32(a);
        }
        process(burst, 1);
    }
}

static struct netdev *
get_netdev(const void *aux OVS_UNUSED, odp_port_t port)
{
    return &netdevs[odp_to_u32(port) - 1];
}

/* See packet_batch_per_flow_execute(). */
static void
process(struct burst *burst, int stage)
{
    struct dp_netdev_flow *flow = flows[burst->reply][stage];
    const struct nlattr *actions;
    size_t len;

    ct_trace_enter(flow, &burst->batch, stage);
    actions = dp_netdev_flow_get_nlattrs(flow, &len);
    odp_execute_actions(burst, &burst->batch, false, actions, len, execute_cb);
    ct_trace_leave(flow, &flow->flow, stage, get_netdev, NULL);
}

/* Sends a packet of each connection.  Returns how long that took, in ns,
 * without what the offload thread did then. */
static long long int
send_round(struct burst *burst)
{
    long long int ns = 0;

    for (uint32_t n = 0; n < n_conns; n += CHUNK) {
        long long int start = now_ns();

        for (uint32_t i = n; i < n + CHUNK; i += BURST) {
            burst_arrive(burst, i);
            process(burst, 0);
        }
        ns += now_ns() - start;
        ct_offload_barrier();
    }
    return ns;
}

/* Has all connections established. */
static void
establish(struct burst bursts[2])
{
    for (uint32_t n = 0; n < n_conns; n += CHUNK) {
        for (int reply = 0; reply < 2; reply++) {
            for (uint32_t i = n; i < n + CHUNK; i += BURST) {
                burst_arrive(&bursts[reply], i);
                execute_ct(&bursts[reply], !reply);
            }
            ct_offload_barrier();
        }
    }
}

static unsigned int
get_n_paths(void)
{
    unsigned int n;

    atomic_read_relaxed(&n_paths, &n);
    return n;
}

static void
check_n_paths(unsigned int n)
{
    if (get_n_paths() != n) {
        ovs_fatal(0, "there are %u paths, not %u", get_n_paths(), n);
    }
}

/* Sends packets of each connection until all have a path in that direction.
 * Returns how many of each, and in '*ns', if that is nonnull, how long they
 * took. */
static unsigned int
make_paths(struct burst *burst, long long int *ns)
{
    long long int total = 0;
    unsigned int rounds = 0;

    while (get_n_paths() < n_conns && rounds < 10) {
        total += send_round(burst);
        rounds++;
    }
    check_n_paths(n_conns);
    if (ns) {
        *ns = total;
    }
    return rounds;
}

/* Commands. */

static void
cmd_make(struct burst bursts[2])
{
    long long int traced, plain;
    unsigned int rounds = make_paths(&bursts[0], &traced);

    plain = send_round(&bursts[0]);
    report("traced-ns", (double) (traced - plain) / n_conns);
    report("packet-ns", (double) plain / n_conns);
    report("packets-until-path", rounds);
    report("path-bytes", sizeof(struct path) + 2 * sizeof(struct path_conn));
}

static void
cmd_policy(struct burst bursts[2])
{
    long long int start, changed, gone;
    struct timespec pause = { .tv_nsec = 10 * 1000 };

    make_paths(&bursts[0], NULL);
    start = now_ns();
    flow_change(flows[0][1]);
    changed = now_ns();
    while (get_n_paths()) {
        nanosleep(&pause, NULL);
    }
    gone = now_ns();
    report("change-us", (changed - start) / 1e3);
    report("gone-ms", (gone - start) / 1e6);
    report("old-policy-ms",
           ((fence_up_ns ? fence_up_ns : gone) - start) / 1e6);
}

static void
cmd_sample(struct burst bursts[2])
{
    struct timespec pause = { .tv_nsec = 20 * 1000 * 1000 };
    struct bench_path **bare = xcalloc(n_conns, sizeof *bare);
    struct dpif_flow_stats stats;
    unsigned long long int n;
    long long int start, ns;

    make_paths(&bursts[0], NULL);

    /* From the middle of one pass to the middle of a later one. */
    atomic_store_relaxed(&n_queries, 0);
    do {
        nanosleep(&pause, NULL);
        atomic_read_relaxed(&n_queries, &n);
    } while (n < n_conns / 2);
    atomic_store_relaxed(&n_queries, 0);
    start = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    do {
        nanosleep(&pause, NULL);
        atomic_read_relaxed(&n_queries, &n);
    } while (n < 2 * n_conns);
    ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - start;
    report("sampled-ns", (double) ns / n);

    for (uint32_t i = 0; i < n_conns; i++) {
        bare[i] = xzalloc(sizeof *bare[i]);
    }
    start = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    for (uint32_t i = 0; i < n_conns; i++) {
        void *priv = bare[i];

        provider_path_stats(&priv, &stats);
    }
    ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - start;
    report("bare-ns", (double) ns / n_conns);
    for (uint32_t i = 0; i < n_conns; i++) {
        free(bare[i]);
    }
    free(bare);
}

static void
cmd_software(struct burst bursts[2])
{
    unsigned int rounds = smap_get_uint(&args, "rounds", 100);
    long long int ns = 0;

    /* What is to be traced is. */
    for (int reply = 0; reply < 2; reply++) {
        send_round(&bursts[reply]);
    }
    check_n_paths(0);
    for (unsigned int i = 0; i < rounds; i++) {
        ns += send_round(&bursts[0]);
    }
    report("packet-ns", (double) ns / n_conns / rounds);
}

static const struct bench_command {
    const char *name;
    void (*run)(struct burst bursts[2]);
} bench_commands[] = {
    { "make", cmd_make },
    { "policy", cmd_policy },
    { "sample", cmd_sample },
    { "software", cmd_software },
};

static void
offload_start(void)
{
    struct ovsrec_open_vswitch cfg;

    memset(&cfg, 0, sizeof cfg);
    smap_clone(&cfg.other_config, &args);
    smap_replace(&cfg.other_config, "hw-offload", "true");
    dpif_offload_set_global_cfg(&cfg);
    smap_destroy(&cfg.other_config);
    ct_offload_set_config(&args);
    ct_offload_threads_start(smap_get_uint(&args, "hw-offload-ct-threads",
                                           1));
    ovs_assert(!ct_offload_register(&provider));
}

static void
run(const struct bench_command *command)
{
    bool offload = smap_get_bool(&args, "hw-offload", true);
    unsigned int n_outputs = smap_get_bool(&args, "refused", false) ? 2 : 1;
    struct burst bursts[2];

    n_conns = ROUND_UP(smap_get_uint(&args, "conns", 1), CHUNK);
    latency_ns = smap_get_uint(&args, "latency", 0);
    provider.fences = smap_get_bool(&args, "fences", false);
    netdevs[0].name = "client";
    netdevs[1].name = "server";
    smap_replace(&args, "hw-offload-ct-size", "16000000");

    vlog_set_levels(NULL, VLF_ANY_DESTINATION, VLL_ERR);
    ct_offload_module_init();
    ct = conntrack_init();
    conntrack_set_maxconns(ct, 2 * n_conns);
    if (offload) {
        offload_start();
    }
    for (int reply = 0; reply < 2; reply++) {
        burst_init(&bursts[reply], BURST, IPPROTO_UDP, reply, 0, 0, 0, 0);
        for (int stage = 0; stage < N_STAGES; stage++) {
            flows[reply][stage] = flow_create(reply, stage, n_outputs);
        }
    }
    establish(bursts);
    command->run(bursts);
    if (offload) {
        ct_offload_unregister(&provider);
        ct_offload_threads_stop();
    }
    conntrack_destroy(ct);
    for (int reply = 0; reply < 2; reply++) {
        burst_destroy(&bursts[reply]);
    }
}

static void
test_ct_offload_path_bench_main(int argc, char *argv[])
{
    set_program_name(argv[0]);
    for (int i = 2; i < argc; i++) {
        const char *equals = strchr(argv[i], '=');

        if (!equals) {
            ovs_fatal(0, "%s: not KEY=VALUE", argv[i]);
        }
        smap_add_nocopy(&args, xmemdup0(argv[i], equals - argv[i]),
                        xstrdup(equals + 1));
    }
    for (size_t i = 0; argc > 1 && i < ARRAY_SIZE(bench_commands); i++) {
        if (!strcmp(argv[1], bench_commands[i].name)) {
            run(&bench_commands[i]);
            smap_destroy(&args);
            return;
        }
    }
    ovs_fatal(0, "usage: test-ct-offload-path-bench COMMAND [KEY=VALUE...]");
}

OVSTEST_REGISTER("test-ct-offload-path-bench",
                 test_ct_offload_path_bench_main);
