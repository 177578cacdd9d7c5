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

#ifdef DPDK_NETDEV
#undef NDEBUG

#include <rte_flow.h>
#include <stdlib.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "conntrack.h"
#include "ct-offload-dpdk-path.h"
#include "ct-offload-dpdk-track.h"
#include "ct-offload-dpdk.h"
#include "ct-offload-wire.h"
#include "ct-offload.h"
#include "dp-packet.h"
#include "dpdk.h"
#include "dpif-offload-provider.h"
#include "dpif.h"
#include "fatal-signal.h"
#include "flow.h"
#include "netdev-provider.h"
#include "netdev.h"
#include "netlink.h"
#include "odp-netlink.h"
#include "openvswitch/dynamic-string.h"
#include "openvswitch/match.h"
#include "openvswitch/ofpbuf.h"
#include "openvswitch/vlog.h"
#include "ovs-numa.h"
#include "ovs-rcu.h"
#include "ovstest.h"
#include "packets.h"
#include "smap.h"
#include "test-ct-offload-bench.h"
#include "timeval.h"
#include "util.h"

/* Measures how many rules per second the rte_flow provider installs, and how
 * many a loop of rte_flow_create() does on the same port.
 *
 *     ovstest test-ct-offload-dpdk-bench N-CONNS
 *
 * creates N-CONNS UDP connections, each of which gets two rules, and then as
 * many paths.  The port is one of net_null, so that the emulated NIC has to be
 * preloaded.
 *
 * The netdev belongs to nobody's datapath.  So it is this program that says
 * that dpif-offload-dpdk owns it. */

#define BURST NETDEV_MAX_BURST

static const struct rte_flow_action count_action = {
    .type = RTE_FLOW_ACTION_TYPE_COUNT,
};

static const struct dpif_offload_class owner_class = { .type = "dpdk" };
static struct dpif_offload owner = { .class = &owner_class };

static double
now_s(void)
{
    return now_ns() / 1e9;
}

/* Starts DPDK and returns a port that was started. */
static struct netdev *
port_open(void)
{
    struct smap args = SMAP_INITIALIZER(&args);
    struct netdev *netdev;
    char *error = NULL;

    smap_add(&args, "dpdk-init", "true");
    smap_add(&args, "dpdk-extra", "--no-huge --legacy-mem -m 256 --no-pci "
             "--no-shconf --no-telemetry --log-level=*:error");
    ovs_numa_init();
    dpdk_init(&args);
    if (!dpdk_available()) {
        ovs_fatal(0, "DPDK does not start");
    }

    ovs_assert(!netdev_open("bench", "dpdk", &netdev));
    smap_clear(&args);
    smap_add(&args, "dpdk-devargs", "net_null0");
    if (netdev_set_config(netdev, &args, &error)) {
        ovs_fatal(0, "%s", error);
    }
    ovs_assert(!netdev_reconfigure(netdev));
    smap_destroy(&args);
    return netdev;
}

/* Composes packets of BURST connections from number 'first' on. */
static void
packets_init(struct burst *packets, uint32_t first, bool reply)
{
    struct dp_packet *packet;

    burst_init(packets, BURST, IPPROTO_UDP, reply, first, 0, 0, 0);
    DP_PACKET_BATCH_FOR_EACH (i, packet, &packets->batch) {
        ct_offload_wire_receive(packet, true);
    }
}

/* Sends 'packets', which come from 'netdev', through 'ct'. */
static void
packets_execute(struct burst *packets, struct conntrack *ct,
                struct netdev *netdev)
{
    conntrack_execute(ct, &packets->batch, htons(ETH_TYPE_IP), false, true, 0,
                      NULL, NULL, NULL, NULL, time_msec(), 0, netdev);
}

/* Has BURST connections from number 'first' on established, so that the
 * provider is told of them with the next reply: 'packets' is made that. */
static void
conns_establish(struct conntrack *ct, struct netdev *netdev, uint32_t first,
                struct burst *packets)
{
    for (int i = 0; i < 3; i++) {
        packets_init(packets, first, i & 1);
        packets_execute(packets, ct, netdev);
        burst_destroy(packets);
    }
    packets_init(packets, first, true);
}

/* The provider must have a rule for each direction of 'n' connections. */
static void
check_rules(uint32_t n)
{
    char *expected = xasprintf("connections: %"PRIu32" bi-dir, 0 uni-dir\n",
                               n);
    struct ds ds = DS_EMPTY_INITIALIZER;

    ct_offload_dpdk_class.get_debug(&ds, NULL);
    if (!strstr(ds_cstr(&ds), expected)) {
        ovs_fatal(0, "not all connections have rules: %s", ds_cstr(&ds));
    }
    ds_destroy(&ds);
    free(expected);
}

/* Returns the rules per second of the provider. */
static double
measure_provider(struct netdev *netdev, uint32_t n)
{
    struct burst *bursts = xcalloc(n / BURST, sizeof *bursts);
    struct conntrack *ct = conntrack_init();
    double start, seconds;

    for (uint32_t i = 0; i < n / BURST; i++) {
        conns_establish(ct, netdev, i * BURST, &bursts[i]);
    }
    start = now_s();
    for (uint32_t i = 0; i < n / BURST; i++) {
        packets_execute(&bursts[i], ct, netdev);
    }
    seconds = now_s() - start;
    check_rules(n);

    for (uint32_t i = 0; i < n / BURST; i++) {
        burst_destroy(&bursts[i]);
    }
    free(bursts);
    conntrack_flush(ct, NULL);
    ct_offload_barrier();
    check_rules(0);
    conntrack_destroy(ct);
    return n * 2 / seconds;
}

/* Creates the rule for one direction of connection 'n' on 'port_id': the same
 * that the provider has for it. */
static struct rte_flow *
bare_create(uint16_t port_id, uint32_t n, bool reply)
{
    static const struct rte_flow_attr attr = {
        .group = DPDK_TRACK_GROUP_CONNS,
        .priority = 1,
        .ingress = 1,
    };
    static const struct rte_flow_item_eth eth, eth_mask = { .has_vlan = 1 };
    static const struct rte_flow_item_ipv4 ip_mask = {
        .hdr.src_addr = OVS_BE32_MAX,
        .hdr.dst_addr = OVS_BE32_MAX,
        .hdr.fragment_offset = OVS_BE16_MAX & CONSTANT_HTONS(0x3fff),
    };
    static const struct rte_flow_item_udp udp_mask = {
        .hdr.src_port = OVS_BE16_MAX,
        .hdr.dst_port = OVS_BE16_MAX,
    };
    static const struct rte_flow_action_count count;
    static const struct rte_flow_action_age age = { .timeout = 0xffffff };
    static const struct rte_flow_action_jump jump = {
        .group = DPDK_TRACK_GROUP_FLOWS,
    };
    static const struct rte_flow_action actions[] = {
        { .type = RTE_FLOW_ACTION_TYPE_COUNT, .conf = &count },
        { .type = RTE_FLOW_ACTION_TYPE_AGE, .conf = &age },
        { .type = RTE_FLOW_ACTION_TYPE_JUMP, .conf = &jump },
        { .type = RTE_FLOW_ACTION_TYPE_END },
    };
    struct rte_flow_item_ipv4 ip = { .hdr.src_addr = 0 };
    struct rte_flow_item_udp udp = { .hdr.src_port = 0 };
    const struct rte_flow_item items[] = {
        { RTE_FLOW_ITEM_TYPE_ETH, &eth, NULL, &eth_mask },
        { RTE_FLOW_ITEM_TYPE_IPV4, &ip, NULL, &ip_mask },
        { RTE_FLOW_ITEM_TYPE_UDP, &udp, NULL, &udp_mask },
        { .type = RTE_FLOW_ITEM_TYPE_END },
    };
    struct rte_flow_error error;
    struct rte_flow *rule;
    struct flow flow;

    conn_flow(n, IPPROTO_UDP, reply, &flow);
    ip.hdr.src_addr = flow.nw_src;
    ip.hdr.dst_addr = flow.nw_dst;
    udp.hdr.src_port = flow.tp_src;
    udp.hdr.dst_port = flow.tp_dst;
    rule = rte_flow_create(port_id, &attr, items, actions, &error);
    if (!rule) {
        ovs_fatal(0, "rte_flow_create() failed: %s", error.message);
    }
    return rule;
}

/* Returns the rules per second of rte_flow_create(). */
static double
measure_bare(uint16_t port_id, uint32_t n)
{
    struct rte_flow **rules = xcalloc(2 * n, sizeof *rules);
    double start = now_s();
    double seconds;

    for (uint32_t i = 0; i < 2 * n; i++) {
        rules[i] = bare_create(port_id, i / 2, i & 1);
    }
    seconds = now_s() - start;

    for (uint32_t i = 0; i < 2 * n; i++) {
        struct rte_flow_error error;

        ovs_assert(!rte_flow_destroy(port_id, rules[i], &error));
    }
    free(rules);
    return n * 2 / seconds;
}

/* Paths. */

/* Stores in '*match' what the path of connection 'n' matches. */
static void
path_match_init(struct match *match, uint32_t n)
{
    struct flow flow;

    conn_flow(n, IPPROTO_UDP, false, &flow);
    match_init_catchall(match);
    match_set_in_port(match, 1);
    match_set_dl_tci(match, 0);
    match_set_dl_type(match, flow.dl_type);
    match_set_nw_proto(match, flow.nw_proto);
    match_set_nw_frag_masked(match, 0, FLOW_NW_FRAG_MASK);
    match_set_nw_src(match, flow.nw_src);
    match_set_nw_dst(match, flow.nw_dst);
    match_set_tp_src(match, flow.tp_src);
    match_set_tp_dst(match, flow.tp_dst);
}

/* Stores in 'rates' how many rules of 'n' paths are created and destroyed per
 * second by the provider, and in 'bare' how many of the same by rte_flow. */
static void
measure_paths(struct netdev *netdev, uint16_t port_id, uint32_t n,
              double rates[2], double bare[2])
{
    const struct dpdk_path_options options = {
        .from = port_id, .to = port_id,
    };
    struct dpdk_path_rule *rules = xmalloc(n * sizeof *rules);
    struct match *matches = xmalloc(n * sizeof *matches);
    struct rte_flow **flows = xmalloc(n * sizeof *flows);
    void **privs = xcalloc(n, sizeof *privs);
    struct ct_offload_path path = {
        .netdev_in = netdev, .netdev_out = netdev,
        .in_port = u32_to_odp(1), .out_port = u32_to_odp(1), .n_conns = 1,
    };
    struct dpif_flow_stats stats;
    struct ofpbuf actions;
    double start;

    ofpbuf_init(&actions, 0);
    nl_msg_put_odp_port(&actions, OVS_ACTION_ATTR_OUTPUT, u32_to_odp(1));
    path.actions = actions.data;
    path.actions_len = actions.size;
    for (uint32_t i = 0; i < n; i++) {
        path_match_init(&matches[i], i);
        ovs_assert(dpdk_path_rule_init(&rules[i], &matches[i], NULL,
                                       actions.data, actions.size, &options)
                   == DPDK_PATH_OK);
    }

    start = now_s();
    for (uint32_t i = 0; i < n; i++) {
        path.match = &matches[i];
        if (ct_offload_dpdk_class.path_add(&path, &privs[i])) {
            ovs_fatal(0, "path_add() failed");
        }
    }
    rates[0] = n / (now_s() - start);
    start = now_s();
    for (uint32_t i = 0; i < n; i++) {
        ct_offload_dpdk_class.path_del(&privs[i], &stats);
    }
    rates[1] = n / (now_s() - start);

    start = now_s();
    for (uint32_t i = 0; i < n; i++) {
        struct rte_flow_error error;

        flows[i] = rte_flow_create(port_id, &rules[i].attr, rules[i].pattern,
                                   rules[i].actions, &error);
        if (!flows[i]) {
            ovs_fatal(0, "rte_flow_create() failed: %s", error.message);
        }
    }
    bare[0] = n / (now_s() - start);
    start = now_s();
    for (uint32_t i = 0; i < n; i++) {
        struct rte_flow_query_count count = { .reset = 0 };
        struct rte_flow_error error;

        /* As the end of a path has to. */
        ovs_assert(!rte_flow_query(port_id, flows[i], &count_action, &count,
                                   &error));
        ovs_assert(!rte_flow_destroy(port_id, flows[i], &error));
    }
    bare[1] = n / (now_s() - start);

    ofpbuf_uninit(&actions);
    free(privs);
    free(flows);
    free(matches);
    free(rules);
}

/* Has the port forward, and measures paths. */
static void
report_paths(struct netdev *netdev, uint16_t port_id, uint32_t n)
{
    struct conntrack *ct = conntrack_init();
    struct burst packets;
    double rates[2], bare[2];

    /* A connection has the port asked what it can do. */
    conns_establish(ct, netdev, 0, &packets);
    packets_execute(&packets, ct, netdev);
    burst_destroy(&packets);
    measure_paths(netdev, port_id, n, rates, bare);
    measure_paths(netdev, port_id, n, rates, bare);
    printf("paths-per-second %.0f\n", rates[0]);
    printf("bare-paths-per-second %.0f\n", bare[0]);
    printf("path-ends-per-second %.0f\n", rates[1]);
    printf("bare-path-ends-per-second %.0f\n", bare[1]);
    conntrack_flush(ct, NULL);
    ct_offload_barrier();
    conntrack_destroy(ct);
}

static void
test_ct_offload_dpdk_bench_main(int argc, char *argv[])
{
    struct smap config = SMAP_INITIALIZER(&config);
    struct netdev *netdev;
    uint16_t port_id;
    uint32_t n;

    set_program_name(argv[0]);
    if (argc != 2) {
        ovs_fatal(0, "usage: test-ct-offload-dpdk-bench N-CONNS");
    }
    n = ROUND_UP(strtoul(argv[1], NULL, 0), BURST);

#ifdef __linux__
    prctl(PR_SET_TIMERSLACK, 1);    /* The emulated NIC sleeps when it is told
                                     * to take its time. */
#endif
    fatal_signal_init();
    vlog_set_levels(NULL, VLF_ANY_DESTINATION, VLL_ERR);
    netdev = port_open();
    ovs_assert(netdev_dpdk_get_started_port(netdev, &port_id));
    ovsrcu_set(&netdev->dpif_offload, &owner);
    smap_add_format(&config, "hw-offload-ct-size", "%"PRIu32, n);
    smap_add(&config, "hw-offload-ct-threads", "0");
    smap_add(&config, "hw-offload-ct-bypass", "true");
    ct_offload_set_config(&config);
    ovs_assert(!ct_offload_register(&ct_offload_dpdk_class));

    /* The first time, they would have to get their memory from the kernel. */
    measure_provider(netdev, n);
    measure_bare(port_id, n);
    printf("rules-per-second %.0f\n", measure_provider(netdev, n));
    printf("bare-rules-per-second %.0f\n", measure_bare(port_id, n));

    smap_replace(&config, "hw-offload-ct-bypass", "false");
    ct_offload_set_config(&config);
    report_paths(netdev, port_id, n);

    ct_offload_unregister(&ct_offload_dpdk_class);
    ovsrcu_set(&netdev->dpif_offload, NULL);
    netdev_close(netdev);
    smap_destroy(&config);
    ovsrcu_exit();
}

OVSTEST_REGISTER("test-ct-offload-dpdk-bench",
                 test_ct_offload_dpdk_bench_main);

#endif /* DPDK_NETDEV */
