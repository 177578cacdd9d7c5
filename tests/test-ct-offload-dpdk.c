/* SPDX-License-Identifier: Apache-2.0 */

#include <config.h>

#ifdef DPDK_NETDEV
#undef NDEBUG

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "conntrack.h"
#include "csum.h"
#include "ct-offload-dpdk.h"
#include "ct-offload-wire.h"
#include "ct-offload.h"
#include "dp-packet.h"
#include "dpdk.h"
#include "dpif-offload-provider.h"
#include "fatal-signal.h"
#include "flow.h"
#include "netdev-dpdk.h"
#include "netdev-provider.h"
#include "netdev.h"
#include "openvswitch/dynamic-string.h"
#include "openvswitch/json.h"
#include "openvswitch/vlog.h"
#include "ovs-numa.h"
#include "ovs-rcu.h"
#include "ovs-thread.h"
#include "ovstest.h"
#include "packets.h"
#include "smap.h"
#include "timeval.h"
#include "util.h"

/* Tests the rte_flow provider on two ports of net_null, with the emulated NIC
 * preloaded and listening at $EMUNIC_SOCKET:
 *
 *     ovstest test-ct-offload-dpdk
 *
 * No packet passes the NIC: what is tested is which rules and handles it has,
 * whatever fails.  The netdevs belong to nobody's datapath.  So it is this
 * program that says that dpif-offload-dpdk owns them. */

#define N_PORTS 2

static const struct dpif_offload_class owner_class = { .type = "dpdk" };
static struct dpif_offload owner = { .class = &owner_class };
static struct netdev *netdevs[N_PORTS];
static struct conntrack *ct;

static const char payload[] = "payload";

/* The emulated NIC. */

/* Sends 'command' and returns the answer. */
static char *
nic(const char *command)
{
    const char *path = getenv("EMUNIC_SOCKET");
    struct sockaddr_un sun = { .sun_family = AF_UNIX };
    struct ds answer = DS_EMPTY_INITIALIZER;
    char buffer[4096];
    ssize_t n;
    int fd;

    ovs_assert(path && strlen(path) < sizeof sun.sun_path);
    ovs_strlcpy(sun.sun_path, path, sizeof sun.sun_path);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    ovs_assert(fd >= 0);
    ovs_assert(!connect(fd, (struct sockaddr *) &sun, sizeof sun));
    ovs_assert(write(fd, command, strlen(command)) == strlen(command));
    ovs_assert(write(fd, "\n", 1) == 1);
    ovs_assert(!shutdown(fd, SHUT_WR));
    while ((n = read(fd, buffer, sizeof buffer)) > 0) {
        ds_put_buffer(&answer, buffer, n);
    }
    ovs_assert(!n);
    close(fd);
    return ds_steal_cstr(&answer);
}

static void
nic_set(const char *command)
{
    char *answer = nic(command);

    if (strcmp(answer, "ok\n")) {
        ovs_fatal(0, "%s: %s", command, answer);
    }
    free(answer);
}

/* What the NIC holds. */
struct holding {
    size_t layout;              /* Rules that are there without connections. */
    size_t conns;               /* Rules of connections. */
    size_t tracking;            /* Those of them that track. */
    size_t handles;
    long long int stale;
};

static struct holding
nic_holds(void)
{
    char *answer = nic("json");
    struct json *json = json_from_string(answer);
    const struct json *ports;
    struct holding holding = { 0 };

    ovs_assert(json->type == JSON_OBJECT);
    holding.stale = json_integer(shash_find_data(json_object(json), "stale"));
    ports = shash_find_data(json_object(json), "ports");
    for (size_t i = 0; i < json_array_size(ports); i++) {
        const struct shash *port = json_object(json_array_at(ports, i));
        const struct json *rules = shash_find_data(port, "rules");
        const struct json *handles = shash_find_data(port, "handles");

        for (size_t j = 0; j < json_array_size(rules); j++) {
            const struct shash *rule = json_object(json_array_at(rules, j));
            const struct json *group = shash_find_data(rule, "group");
            const struct json *priority = shash_find_data(rule, "priority");
            const struct json *actions = shash_find_data(rule, "actions");

            if (json_integer(group) != 1 || json_integer(priority) != 0) {
                holding.layout++;
            } else {
                holding.conns++;
                holding.tracking += strstr(json_string(actions),
                                           "conntrack") != NULL;
            }
        }
        holding.handles += json_array_size(handles);
    }
    json_destroy(json);
    free(answer);
    return holding;
}

/* Has the provider try again what it could not do before. */
static void
provider_retry(void)
{
    struct ds ds = DS_EMPTY_INITIALIZER;

    ct_offload_dpdk_class.get_debug(&ds, NULL);
    ds_destroy(&ds);
}

/* The sum of the errors of 'call' on all ports, present and past. */
static long long int
provider_errors(const char *call)
{
    struct json *json = json_object_create();
    const struct shash_node *node;
    const struct json *errors;
    long long int n;

    ct_offload_dpdk_class.get_debug(NULL, json);
    errors = shash_find_data(json_object(json), "past-errors");
    n = json_integer(shash_find_data(json_object(errors), call));
    SHASH_FOR_EACH (node, json_object(shash_find_data(json_object(json),
                                                      "ports"))) {
        errors = shash_find_data(json_object(node->data), "errors");
        n += json_integer(shash_find_data(json_object(errors), call));
    }
    json_destroy(json);
    return n;
}

/* Ports. */

static void
dpdk_start(void)
{
    struct smap args = SMAP_INITIALIZER(&args);

    smap_add(&args, "dpdk-init", "true");
    smap_add(&args, "dpdk-extra", "--no-huge --legacy-mem -m 256 --no-pci "
             "--no-shconf --no-telemetry --log-level=*:error");
    ovs_numa_init();
    dpdk_init(&args);
    if (!dpdk_available()) {
        ovs_fatal(0, "DPDK does not start");
    }
    smap_destroy(&args);
}

static struct netdev *
port_open(int i)
{
    struct smap args = SMAP_INITIALIZER(&args);
    struct netdev *netdev;
    char *error = NULL;
    char name[16];

    snprintf(name, sizeof name, "p%d", i);
    ovs_assert(!netdev_open(name, "dpdk", &netdev));
    smap_add_format(&args, "dpdk-devargs", "net_null%d", i);
    if (netdev_set_config(netdev, &args, &error)) {
        ovs_fatal(0, "%s", error);
    }
    ovs_assert(!netdev_reconfigure(netdev));
    smap_destroy(&args);
    ovsrcu_set(&netdev->dpif_offload, &owner);
    return netdev;
}

/* As when the ports stop and start again. */
static void
ports_restart(void)
{
    for (int i = 0; i < N_PORTS; i++) {
        ovsrcu_set(&netdevs[i]->dpif_offload, NULL);
        ct_offload_netdev_flush(netdevs[i]);
        ovs_assert(!ct_offload_dpdk_ingress_group(netdevs[i]));
    }
    for (int i = 0; i < N_PORTS; i++) {
        ovsrcu_set(&netdevs[i]->dpif_offload, &owner);
    }
}

/* Packets. */

static struct dp_packet *
packet_create(uint8_t proto, uint16_t client, bool reply)
{
    struct dp_packet *packet = dp_packet_new(0);
    struct flow flow;

    memset(&flow, 0, sizeof flow);
    flow.dl_type = htons(ETH_TYPE_IP);
    flow.nw_proto = proto;
    flow.nw_ttl = 64;
    flow.nw_src = htonl(0x0a000001 + reply);
    flow.nw_dst = htonl(0x0a000002 - reply);
    flow.tp_src = htons(reply ? 80 : client);
    flow.tp_dst = htons(reply ? client : 80);
    flow_compose(packet, &flow, payload, sizeof payload, false);
    pkt_metadata_init(&packet->md, u32_to_odp(1));
    ct_offload_wire_receive(packet, true);
    return packet;
}

/* 'packet' comes from 'netdev' and passes ct(commit) in 'zone'. */
static void
execute(struct dp_packet *packet, struct netdev *netdev, uint16_t zone)
{
    struct dp_packet_batch batch;

    dp_packet_batch_init_packet(&batch, packet);
    conntrack_execute(ct, &batch, htons(ETH_TYPE_IP), false, true, zone, NULL,
                      NULL, NULL, NULL, time_msec(), 0, netdev);
    dp_packet_delete_batch(&batch, true);
}

static void
tcp(uint16_t client, bool reply, uint16_t flags, uint32_t seq, uint32_t ack,
    struct netdev *netdev, uint16_t zone)
{
    struct dp_packet *packet = packet_create(IPPROTO_TCP, client, reply);
    struct tcp_header *th = dp_packet_l4(packet);

    th->tcp_ctl = TCP_CTL(flags, TCP_HEADER_LEN / 4);
    th->tcp_winsz = htons(65535);
    put_16aligned_be32(&th->tcp_seq, htonl(seq));
    put_16aligned_be32(&th->tcp_ack, htonl(ack));
    th->tcp_csum = 0;
    th->tcp_csum = csum_finish(
        csum_continue(packet_csum_pseudoheader(dp_packet_l3(packet)),
                      th, TCP_HEADER_LEN + sizeof payload));
    execute(packet, netdev, zone);
}

/* Opens a connection from port 'client', which comes in at netdevs[0], the
 * reply at netdevs[peer]. */
static void
conn_open(uint8_t proto, uint16_t client, int peer, uint16_t zone)
{
    if (proto == IPPROTO_TCP) {
        tcp(client, false, TCP_SYN, 100, 0, netdevs[0], zone);
        tcp(client, true, TCP_SYN | TCP_ACK, 500, 109, netdevs[peer], zone);
        tcp(client, false, TCP_ACK, 109, 509, netdevs[0], zone);
        tcp(client, true, TCP_ACK, 509, 117, netdevs[peer], zone);
    } else {
        execute(packet_create(proto, client, false), netdevs[0], zone);
        execute(packet_create(proto, client, true), netdevs[peer], zone);
    }
}

static void
conns_flush(const uint16_t *zone)
{
    conntrack_flush(ct, zone);
    ct_offload_barrier();
}

/* Tests. */

/* Nothing of connections is left on the NIC, and, if 'ports_too', nothing at
 * all. */
static void
check_empty(bool ports_too)
{
    struct holding holding;

    provider_retry();
    if (ports_too) {
        ports_restart();
    }
    holding = nic_holds();
    ovs_assert(!holding.conns);
    ovs_assert(!holding.handles);
    ovs_assert(!holding.stale);
    ovs_assert(!ports_too || !holding.layout);
}

static void
test_established(void)
{
    struct holding holding;

    /* Nothing before a connection is established. */
    tcp(1, false, TCP_SYN, 100, 0, netdevs[0], 0);
    tcp(1, true, TCP_SYN | TCP_ACK, 500, 109, netdevs[1], 0);
    execute(packet_create(IPPROTO_UDP, 2, false), netdevs[0], 0);
    holding = nic_holds();
    ovs_assert(!holding.layout && !holding.conns && !holding.handles);

    tcp(1, false, TCP_ACK, 109, 509, netdevs[0], 0);
    holding = nic_holds();
    ovs_assert(holding.layout && holding.conns == 2 && holding.tracking == 2);
    ovs_assert(holding.handles == 1);

    execute(packet_create(IPPROTO_UDP, 2, true), netdevs[1], 0);
    holding = nic_holds();
    ovs_assert(holding.conns == 4 && holding.tracking == 2);

    conns_flush(NULL);
    check_empty(false);
    check_empty(true);
}

static void
test_sharing(void)
{
    const uint16_t zones[] = { 1, 2 };
    struct holding holding;

    for (int peer = 0; peer < N_PORTS; peer++) {
        conn_open(IPPROTO_TCP, 1, peer, 1);
        conn_open(IPPROTO_TCP, 1, peer, 2);
        conn_open(IPPROTO_TCP, 2, peer, 2);
        holding = nic_holds();
        ovs_assert(holding.conns == 4 && holding.handles == 2);

        conns_flush(&zones[0]);
        holding = nic_holds();
        ovs_assert(holding.conns == 4 && holding.handles == 2);

        conns_flush(&zones[1]);
        check_empty(false);
    }
    check_empty(true);
}

/* The rules of a connection in a VLAN match the type of the tag, too. */
static void
test_vlan(void)
{
    const char *pattern = "eth type is 0x8100 has_vlan is 1 "
                          "/ vlan tci is 0x0005 mask 0x0fff";
    char *answer, *p;
    int n = 0;

    for (int i = 0; i < 2; i++) {
        struct dp_packet *packet = packet_create(IPPROTO_UDP, 1, i);

        eth_push_vlan(packet, htons(ETH_TYPE_VLAN_8021Q), htons(5));
        ct_offload_wire_receive(packet, true);
        execute(packet, netdevs[i], 0);
    }
    answer = nic("json");
    for (p = answer; (p = strstr(p, pattern)); p++) {
        n++;
    }
    free(answer);
    ovs_assert(n == 2);
    conns_flush(NULL);
    check_empty(true);
}

/* Ports that do not share handles count the packets of a connection, and those
 * of one that is on one of them is tracked. */
static void
test_not_sharing(void)
{
    struct holding holding;

    nic_set("set share-handles off");
    conn_open(IPPROTO_TCP, 1, 1, 0);
    holding = nic_holds();
    ovs_assert(holding.conns == 2 && !holding.handles && !holding.tracking);
    conn_open(IPPROTO_TCP, 2, 0, 0);
    holding = nic_holds();
    ovs_assert(holding.conns == 4 && holding.handles == 1);
    ovs_assert(holding.tracking == 2);
    nic_set("set share-handles on");
    conns_flush(NULL);
    check_empty(true);
}

/* A rule that could not be destroyed is nobody's, and goes later. */
static void
test_dead(void)
{
    struct holding holding;
    long long int n;

    conn_open(IPPROTO_TCP, 1, 1, 0);
    n = provider_errors("destroy");
    nic_set("fail destroy every 1");
    conns_flush(NULL);
    holding = nic_holds();
    ovs_assert(holding.conns == 2 && holding.handles == 1);
    ovs_assert(provider_errors("destroy") > n);

    conn_open(IPPROTO_TCP, 1, 1, 0);
    holding = nic_holds();
    ovs_assert(holding.conns == 2 && holding.handles == 1);
    conns_flush(NULL);

    nic_set("fail destroy off");
    nic_set("fail handle-destroy every 1");
    conn_open(IPPROTO_TCP, 2, 1, 0);
    holding = nic_holds();
    ovs_assert(holding.conns == 2 && holding.handles == 2);
    conns_flush(NULL);
    holding = nic_holds();
    ovs_assert(!holding.conns && holding.handles == 2);

    nic_set("fail all off");
    check_empty(false);
    check_empty(true);
}

/* Two connections are opened while calls fail as 'failure' says. */
static void
open_with_failures(uint8_t proto, int peer, const char *failure,
                   struct holding *holding)
{
    long long int n = provider_errors("layout");

    nic_set(failure);
    conn_open(proto, 1, peer, 0);
    conn_open(proto, 2, peer, 0);
    nic_set("fail all off");

    /* A connection has all of its rules or none, unless one of the ports could
     * not be made ready. */
    provider_retry();
    *holding = nic_holds();
    ovs_assert(holding->conns == 0 || holding->conns == 2
               || holding->conns == 4 || provider_errors("layout") > n);
    ovs_assert(holding->tracking == 2 * holding->handles);

    conns_flush(NULL);
    check_empty(true);
}

/* Every N-th call fails, for each N up to more than there are. */
static void
test_failures(void)
{
    static const char *const operations[] = {
        "all", "create", "destroy", "handle-create", "handle-update",
        "handle-destroy",
    };
    static const char *const errors[] = { "EIO", "ENOSPC" };
    const uint8_t protos[] = { IPPROTO_TCP, IPPROTO_UDP };
    unsigned int n_none = 0, n_both = 0;

    for (size_t i = 0; i < ARRAY_SIZE(operations); i++) {
        for (int n = 1; n <= 40; n++) {
            for (int j = 0; j < 2 * 2 * N_PORTS; j++) {
                struct holding holding;
                char failure[64];

                snprintf(failure, sizeof failure, "fail %s every %d %s",
                         operations[i], n, errors[j & 1]);
                open_with_failures(protos[j >> 1 & 1], j >> 2, failure,
                                   &holding);
                n_none += !holding.conns;
                n_both += holding.conns == 4;
            }
        }
    }

    /* Or this would have tested nothing. */
    ovs_assert(n_none && n_both);
    ovs_assert(provider_errors("layout") && provider_errors("create"));
    ovs_assert(provider_errors("destroy") && provider_errors("handle-create"));
    ovs_assert(provider_errors("handle-update"));
    ovs_assert(provider_errors("handle-destroy"));
}

/* dpif-offload-dpdk has its rules after those of connections, but only where
 * there can be any. */
static void
test_ingress_group(void)
{
    struct holding holding;

    ovs_assert(ct_offload_dpdk_ingress_group(netdevs[0]) == 3);
    holding = nic_holds();
    ovs_assert(holding.layout && !holding.conns);
    check_empty(true);

    nic_set("set count off");
    nic_set("set age off");
    ovs_assert(ct_offload_dpdk_ingress_group(netdevs[0]) == 0);
    conn_open(IPPROTO_UDP, 1, 1, 0);
    holding = nic_holds();
    ovs_assert(!holding.layout && !holding.conns);
    nic_set("set profile generous");

    /* It has to be found out again when the port has restarted. */
    ovs_assert(ct_offload_dpdk_ingress_group(netdevs[0]) == 0);
    ports_restart();
    ovs_assert(ct_offload_dpdk_ingress_group(netdevs[0]) == 3);
    conns_flush(NULL);
    check_empty(true);
}

/* Threads open and close connections that have the same packets, in zones of
 * their own, while rules cannot always be destroyed. */
#define N_THREADS 3

static void *
thread_main(void *zone_)
{
    const uint16_t *zone = zone_;

    for (int i = 0; i < 200; i++) {
        conn_open(IPPROTO_TCP, 1, 1, *zone);
        conn_open(IPPROTO_UDP, 1, 1, *zone);
        conn_open(IPPROTO_TCP, 2 + *zone, 0, *zone);
        conntrack_flush(ct, zone);
        ovsrcu_quiesce();
    }
    return NULL;
}

static void
test_threads(void)
{
    const uint16_t zones[N_THREADS] = { 1, 2, 3 };
    pthread_t threads[N_THREADS];
    struct holding holding;

    nic_set("fail destroy probability 0.3");
    nic_set("fail handle-destroy probability 0.3");
    for (int i = 0; i < N_THREADS; i++) {
        threads[i] = ovs_thread_create("test", thread_main,
                                       CONST_CAST(uint16_t *, &zones[i]));
    }
    for (int i = 0; i < 20; i++) {
        provider_retry();
        ovs_assert(ct_offload_dpdk_ingress_group(netdevs[1]) == 3);
    }
    for (int i = 0; i < N_THREADS; i++) {
        xpthread_join(threads[i], NULL);
    }
    nic_set("fail all off");
    ct_offload_barrier();

    conn_open(IPPROTO_TCP, 1, 1, 0);
    holding = nic_holds();
    ovs_assert(holding.conns == 2 && holding.handles == 1);
    conns_flush(NULL);
    check_empty(true);
}

static void
test_ct_offload_dpdk_main(int argc OVS_UNUSED, char *argv[])
{
    struct smap config = SMAP_INITIALIZER(&config);

    set_program_name(argv[0]);
    fatal_signal_init();
    time_msec();                /* Initializes what threads should not. */
    vlog_set_levels(NULL, VLF_ANY_DESTINATION, VLL_OFF);
    dpdk_start();
    for (int i = 0; i < N_PORTS; i++) {
        netdevs[i] = port_open(i);
    }
    smap_add(&config, "hw-offload-ct-threads", "0");
    ct_offload_set_config(&config);
    ovs_assert(!ct_offload_register(&ct_offload_dpdk_class));
    ct = conntrack_init();

    test_established();
    test_sharing();
    test_vlan();
    test_not_sharing();
    test_dead();
    test_ingress_group();
    test_failures();
    test_threads();

    conn_open(IPPROTO_TCP, 1, 1, 0);
    ct_offload_unregister(&ct_offload_dpdk_class);
    ovs_assert(!nic_holds().layout && !nic_holds().conns);
    conntrack_destroy(ct);
    for (int i = 0; i < N_PORTS; i++) {
        ovsrcu_set(&netdevs[i]->dpif_offload, NULL);
        netdev_close(netdevs[i]);
    }
    smap_destroy(&config);
    ovsrcu_exit();
    printf("all tests passed\n");
}

OVSTEST_REGISTER("test-ct-offload-dpdk", test_ct_offload_dpdk_main);

#endif /* DPDK_NETDEV */
