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

#include "test-ct-offload-dpdk.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "conntrack.h"
#include "csum.h"
#include "ct-offload-dpdk-flow.h"
#include "ct-offload-dpdk-track.h"
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

/* Tests the rte_flow provider on two ports of net_ring, with the emulated NIC
 * preloaded and listening at $EMUNIC_SOCKET:
 *
 *     ovstest test-ct-offload-dpdk
 *
 * What is tested is which rules and handles the NIC has, whatever fails, and
 * what the provider makes of their counters.  What a port sends comes back to
 * it.  The netdevs belong to nobody's datapath.  So it is this program that
 * says that dpif-offload-dpdk owns them. */

static const struct dpif_offload_class owner_class = { .type = "dpdk" };
static struct dpif_offload owner = { .class = &owner_class };
struct netdev *netdevs[N_PORTS];
static struct conntrack *ct;

static const char payload[] = "payload";

/* The emulated NIC. */

/* Sends 'command' and returns the answer. */
char *
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

void
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

            if (json_integer(group) != 1 || json_integer(priority) > 1) {
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

/* How many calls of 'operation' the NIC has let fail, on all ports. */
static long long int
nic_injected(const char *operation)
{
    char *answer = nic("json");
    struct json *json = json_from_string(answer);
    const struct json *ports = shash_find_data(json_object(json), "ports");
    long long int n = 0;

    for (size_t i = 0; i < json_array_size(ports); i++) {
        const struct shash *port = json_object(json_array_at(ports, i));
        const struct json *ops = shash_find_data(port, "operations");
        const struct json *op = shash_find_data(json_object(ops), operation);

        n += json_integer(shash_find_data(json_object(op), "injected"));
    }
    json_destroy(json);
    free(answer);
    return n;
}

/* Has the provider try again what it could not do before. */
void
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

/* Does the provider say 'text' in "ct-offload/show"? */
bool
provider_says(const char *text)
{
    struct ds ds = DS_EMPTY_INITIALIZER;
    bool says;

    ct_offload_dpdk_class.get_debug(&ds, NULL);
    says = strstr(ds_cstr(&ds), text) != NULL;
    ds_destroy(&ds);
    return says;
}

/* Sets other_config:hw-offload-ct, other_config:hw-offload-ct-bypass and
 * other_config:hw-offload-ct-forward. */
void
configure(const char *enable, const char *bypass, const char *forward)
{
    struct smap config = SMAP_INITIALIZER(&config);

    smap_add(&config, "hw-offload-ct-threads", "0");
    smap_add(&config, "hw-offload-ct", enable);
    smap_add(&config, "hw-offload-ct-bypass", bypass);
    smap_add(&config, "hw-offload-ct-forward", forward);
    ct_offload_set_config(&config);
    smap_destroy(&config);
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
    smap_add_format(&args, "dpdk-devargs", "net_ring%d", i);
    if (netdev_set_config(netdev, &args, &error)) {
        ovs_fatal(0, "%s", error);
    }
    ovs_assert(!netdev_reconfigure(netdev));
    smap_destroy(&args);
    ovsrcu_set(&netdev->dpif_offload, &owner);
    return netdev;
}

void
port_stop(int i)
{
    ovsrcu_set(&netdevs[i]->dpif_offload, NULL);
    ct_offload_netdev_flush(netdevs[i]);
    ovs_assert(!ct_offload_dpdk_ingress_group(netdevs[i]));
}

void
port_start(int i)
{
    ovsrcu_set(&netdevs[i]->dpif_offload, &owner);
}

/* As when the ports stop and start again. */
static void
ports_restart(void)
{
    for (int i = 0; i < N_PORTS; i++) {
        port_stop(i);
    }
    for (int i = 0; i < N_PORTS; i++) {
        port_start(i);
    }
}

/* Packets. */

struct dp_packet *
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

/* 'packet' comes from 'netdev' and passes ct(commit) in 'zone'.  Returns its
 * connection, valid until the thread quiesces. */
static const struct conn *
execute(struct dp_packet *packet, struct netdev *netdev, uint16_t zone)
{
    struct dp_packet_batch batch;
    const struct conn *conn;

    dp_packet_batch_init_packet(&batch, packet);
    conntrack_execute(ct, &batch, htons(ETH_TYPE_IP), false, true, zone, NULL,
                      NULL, NULL, NULL, time_msec(), 0, netdev);
    conn = packet->md.conn;
    dp_packet_delete_batch(&batch, true);
    return conn;
}

static struct dp_packet *
tcp_create(uint16_t client, bool reply, uint16_t flags, uint32_t seq,
           uint32_t ack)
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
    return packet;
}

static void
tcp(uint16_t client, bool reply, uint16_t flags, uint32_t seq, uint32_t ack,
    struct netdev *netdev, uint16_t zone)
{
    execute(tcp_create(client, reply, flags, seq, ack), netdev, zone);
}

/* Opens a connection from port 'client', which comes in at netdevs[0], the
 * reply at netdevs[peer], and has it pass a few packets in both directions.
 * Returns it; it is valid until the thread quiesces. */
static const struct conn *
conn_open(uint8_t proto, uint16_t client, int peer, uint16_t zone)
{
    const struct conn *conn;

    if (proto == IPPROTO_TCP) {
        conn = execute(tcp_create(client, false, TCP_SYN, 100, 0), netdevs[0],
                       zone);
        tcp(client, true, TCP_SYN | TCP_ACK, 500, 109, netdevs[peer], zone);
        for (int i = 0; i < 3; i++) {
            uint32_t seq = i * sizeof payload;

            tcp(client, false, TCP_ACK, 109 + seq, 509 + seq, netdevs[0],
                zone);
            tcp(client, true, TCP_ACK, 509 + seq, 117 + seq, netdevs[peer],
                zone);
        }
    } else {
        conn = execute(packet_create(proto, client, false), netdevs[0], zone);
        for (int i = 0; i < 2; i++) {
            execute(packet_create(proto, client, true), netdevs[peer], zone);
            execute(packet_create(proto, client, false), netdevs[0], zone);
        }
        execute(packet_create(proto, client, true), netdevs[peer], zone);
    }
    return conn;
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

    for (int i = 0; i < 3; i++) {
        uint32_t seq = i * sizeof payload;

        tcp(1, false, TCP_ACK, 109 + seq, 509 + seq, netdevs[0], 0);
        tcp(1, true, TCP_ACK, 509 + seq, 117 + seq, netdevs[1], 0);
    }
    holding = nic_holds();
    ovs_assert(holding.layout && holding.conns == 2 && holding.tracking == 2);
    ovs_assert(holding.handles == 1);

    for (int i = 0; i < 2; i++) {
        execute(packet_create(IPPROTO_UDP, 2, true), netdevs[1], 0);
        execute(packet_create(IPPROTO_UDP, 2, false), netdevs[0], 0);
    }
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

    for (int i = 0; i < 6; i++) {
        struct dp_packet *packet = packet_create(IPPROTO_UDP, 1, i & 1);

        eth_push_vlan(packet, htons(ETH_TYPE_VLAN_8021Q), htons(5));
        ct_offload_wire_receive(packet, true);
        execute(packet, netdevs[i & 1], 0);
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

/* A rule that was to find out whether two ports share handles, and could not
 * be destroyed, does not keep its handle when the port of that stops. */
static void
test_dead_probe(void)
{
    struct holding holding;

    for (int i = 0; i < N_PORTS; i++) {
        ovs_assert(ct_offload_dpdk_ingress_group(netdevs[i]) == 3);
    }
    nic_set("fail port net_ring1 destroy every 1");
    conn_open(IPPROTO_TCP, 1, 1, 0);
    conns_flush(NULL);
    holding = nic_holds();
    ovs_assert(holding.tracking == 1 && holding.handles == 1);

    nic_set("fail all off");
    ports_restart();
    holding = nic_holds();
    ovs_assert(!holding.layout && !holding.conns && !holding.handles);
    check_empty(true);
}

/* Two connections are opened while calls fail as 'failure' says. */
static void
open_with_failures(uint8_t proto, int peer, const char *failure,
                   struct holding *holding)
{
    nic_set(failure);
    conn_open(proto, 1, peer, 0);
    conn_open(proto, 2, peer, 0);
    nic_set("fail all off");

    /* A connection has all of its rules or none. */
    provider_retry();
    *holding = nic_holds();
    ovs_assert(holding->conns == 0 || holding->conns == 2
               || holding->conns == 4);
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

/* The callbacks alone.  The layer knows connections, but has offload off. */

/* A connection that the provider may hold. */
struct held {
    void *priv;
    bool uni_dir;
    struct ct_offload_ctx orig, reply;
};

/* Makes 'held' a connection in 'zone' whose packets arrive at netdevs[0] and
 * netdevs[peer]. */
static void
held_init(struct held *held, uint8_t proto, uint16_t client, int peer,
          uint16_t zone)
{
    *held = (struct held) {
        .orig.conn = conn_open(proto, client, peer, zone),
        .orig.netdev_in = netdevs[0],
        .orig.unmodified = true,
        .orig.priv = &held->priv,
        .orig.uni_dir = &held->uni_dir,
    };
    held->reply = held->orig;
    held->reply.netdev_in = netdevs[peer];
}

/* Offers 'held' to the provider, alone or in a batch. */
static int
held_offer(struct held *held, bool in_batch)
{
    struct ct_offload_op_batch batch;
    int error;

    ovs_assert(ct_offload_dpdk_class.can_offload(&held->orig));
    ovs_assert(!ct_offload_dpdk_class.conn_add(&held->orig) && held->priv);
    if (!in_batch) {
        return ct_offload_dpdk_class.conn_established(&held->reply);
    }
    ct_offload_op_batch_init(&batch);
    ct_offload_op_batch_add(&batch, CT_OFFLOAD_OP_EST, &held->reply);
    ct_offload_dpdk_class.batch_submit(&batch);
    error = batch.ops[0].error;
    ct_offload_op_batch_destroy(&batch);
    return error;
}

static void
held_delete(struct held *held)
{
    ct_offload_dpdk_class.conn_del(&held->orig);
    held->priv = NULL;
}

/* Has the first 'n' ports get ready. */
static void
ports_make_ready(int n)
{
    configure("true", "true", "false");
    for (int i = 0; i < n; i++) {
        ovs_assert(ct_offload_dpdk_ingress_group(netdevs[i]) == 3);
    }
    configure("false", "true", "false");
}

/* How many connections the provider has rules for. */
static void
check_counts(int n_bi_dir, int n_uni_dir)
{
    char *expected = xasprintf("connections: %d bi-dir, %d uni-dir\n",
                               n_bi_dir, n_uni_dir);
    struct ds ds = DS_EMPTY_INITIALIZER;

    ct_offload_dpdk_class.get_debug(&ds, NULL);
    ovs_assert(strstr(ds_cstr(&ds), expected));
    ds_destroy(&ds);
    free(expected);
}

/* The provider must say of no port that it has found packets invalid. */
static void
check_nothing_invalid(void)
{
    static const char text[] = "invalid packets: ";
    struct ds ds = DS_EMPTY_INITIALIZER;
    const char *p;

    ct_offload_dpdk_class.get_debug(&ds, NULL);
    p = strstr(ds_cstr(&ds), text);
    ovs_assert(p);
    for (; p; p = strstr(p, text)) {
        p += strlen(text);
        ovs_assert(!strncmp(p, "0\n", 2));
    }
    ds_destroy(&ds);
}

/* The provider must say 'expected' of the rules of 'held'. */
static void
check_rules(const struct held *held, const char *expected)
{
    struct ds ds = DS_EMPTY_INITIALIZER;

    ct_offload_dpdk_class.conn_format(&held->orig, &ds);
    ovs_assert(!strcmp(ds_cstr(&ds), expected));
    ds_destroy(&ds);
}

/* After an error of EST the provider holds nothing of the connection. */
static void
test_est_errors(void)
{
    static const struct {
        const char *failure;
        uint8_t proto;
        int error;
    } cases[] = {
        { "fail create every 1 ENOSPC", IPPROTO_TCP, ENOSPC },
        { "fail create every 1 EIO", IPPROTO_UDP, EIO },
        { "fail port net_ring1 create every 1 EEXIST", IPPROTO_UDP, EEXIST },
        { "fail port net_ring1 create every 1 ENOSPC", IPPROTO_TCP, ENOSPC },
        { "fail handle-create every 1 ENOSPC", IPPROTO_TCP, ENOSPC },
        { "fail handle-update every 1 EIO", IPPROTO_TCP, EIO },
    };

    ports_make_ready(N_PORTS);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        for (int in_batch = 0; in_batch < 2; in_batch++) {
            struct holding holding;
            struct held held;

            held_init(&held, cases[i].proto, 1, 1, 0);
            nic_set(cases[i].failure);
            ovs_assert(held_offer(&held, in_batch) == cases[i].error);
            ovs_assert(!held.priv && !held.uni_dir);
            nic_set("fail all off");
            provider_retry();
            holding = nic_holds();
            ovs_assert(!holding.conns && !holding.handles);
            check_counts(0, 0);

            /* There is room now. */
            ovs_assert(!held_offer(&held, in_batch) && !held.uni_dir);
            ovs_assert(nic_holds().conns == 2);
            check_counts(1, 0);
            held_delete(&held);
            check_counts(0, 0);
        }
    }
    conns_flush(NULL);
    check_empty(true);
}

/* Where a port has no layout and cannot have one now, EST fails. */
static void
test_not_ready(void)
{
    struct holding holding;
    struct held held;

    held_init(&held, IPPROTO_UDP, 1, 1, 0);
    nic_set("fail create every 1 EIO");
    ovs_assert(held_offer(&held, false) == EIO && !held.priv);
    nic_set("fail all off");

    /* It is not tried again at once. */
    ovs_assert(held_offer(&held, false) == EAGAIN);
    ports_restart();
    ovs_assert(!held_offer(&held, false));
    held_delete(&held);
    ports_restart();

    /* One port is ready, the other one is not. */
    ports_make_ready(1);
    nic_set("fail create every 1 EIO");
    ovs_assert(held_offer(&held, false) == EIO);
    nic_set("fail all off");
    holding = nic_holds();
    ovs_assert(!holding.conns && !held.priv);

    conns_flush(NULL);
    check_empty(true);
}

/* A connection with one direction is held, and says so; one without any is
 * not. */
static void
test_uni_dir(void)
{
    const uint8_t protos[] = { IPPROTO_TCP, IPPROTO_UDP };
    struct held held;

    for (size_t i = 0; i < ARRAY_SIZE(protos); i++) {
        for (int in_batch = 0; in_batch < 2; in_batch++) {
            struct holding holding;

            held_init(&held, protos[i], 1, 1, 0);
            held.reply.unmodified = false;
            ovs_assert(!held_offer(&held, in_batch));
            ovs_assert(held.uni_dir);
            holding = nic_holds();
            ovs_assert(holding.conns == 1 && !holding.tracking);
            check_counts(0, 1);
            held_delete(&held);

            held.reply.unmodified = true;
            held.reply.netdev_in = NULL;
            ovs_assert(!held_offer(&held, in_batch));
            check_counts(0, 1);
            held_delete(&held);

            held.reply.netdev_in = netdevs[1];
            held.reply.vlan = CT_OFFLOAD_VLAN_OTHER;
            ovs_assert(!held_offer(&held, in_batch));
            check_counts(0, 1);
            held_delete(&held);
        }
    }

    /* What needs a NIC that tells TCP segments by their flags. */
    ports_restart();
    nic_set("set tcp-flags off");
    held_init(&held, IPPROTO_UDP, 2, 1, 0);
    ovs_assert(!held_offer(&held, false) && !held.uni_dir);
    held_delete(&held);
    held_init(&held, IPPROTO_TCP, 2, 1, 0);
    ovs_assert(!ct_offload_dpdk_class.can_offload(&held.orig));
    ovs_assert(!ct_offload_dpdk_class.conn_add(&held.orig));
    ovs_assert(ct_offload_dpdk_class.conn_established(&held.reply)
               == EOPNOTSUPP);
    ovs_assert(!held.priv);
    ovs_assert(provider_says("UDP only (TCP flags cannot be matched)"));
    nic_set("set tcp-flags on");

    conns_flush(NULL);
    check_empty(true);
}

/* What the provider does not take. */
static void
test_refused(void)
{
    struct ct_offload_ctx ctx;
    struct held held;

    held_init(&held, IPPROTO_UDP, 1, 1, 0);
    ovs_assert(ct_offload_dpdk_class.can_offload(&held.orig));

    ctx = held.orig;
    ctx.netdev_in = NULL;
    ovs_assert(!ct_offload_dpdk_class.can_offload(&ctx));
    ovs_assert(ct_offload_dpdk_class.conn_add(&ctx) == ENODEV && !held.priv);

    ctx = held.orig;
    ctx.unmodified = false;
    ovs_assert(!ct_offload_dpdk_class.can_offload(&ctx));

    ctx = held.orig;
    ctx.vlan = CT_OFFLOAD_VLAN_OTHER;
    ovs_assert(!ct_offload_dpdk_class.can_offload(&ctx));

    ovsrcu_set(&netdevs[0]->dpif_offload, NULL);
    ovs_assert(!ct_offload_dpdk_class.can_offload(&held.orig));
    ovs_assert(ct_offload_dpdk_class.conn_add(&held.orig) == ENODEV);
    ovsrcu_set(&netdevs[0]->dpif_offload, &owner);
    ovs_assert(ct_offload_dpdk_class.can_offload(&held.orig));

    conns_flush(NULL);
    check_empty(true);
}

/* Nothing is programmed before the operator says what it is good for. */
static void
test_bypass(void)
{
    struct holding holding;
    struct held held;

    held_init(&held, IPPROTO_UDP, 1, 1, 0);
    configure("true", "false", "false");
    ovs_assert(!ct_offload_dpdk_class.can_offload(&held.orig));
    ovs_assert(ct_offload_dpdk_ingress_group(netdevs[0]) == 0);
    conn_open(IPPROTO_UDP, 2, 1, 0);
    conn_open(IPPROTO_TCP, 2, 1, 0);
    holding = nic_holds();
    ovs_assert(!holding.layout && !holding.conns);
    ovs_assert(provider_says("port p0: in software: "
                             "other_config:hw-offload-ct-bypass is false\n"));

    /* The layout stays, since flows depend on it. */
    configure("true", "true", "false");
    ovs_assert(!provider_says("in software"));
    ovs_assert(ct_offload_dpdk_ingress_group(netdevs[0]) == 3);
    configure("true", "false", "false");
    ovs_assert(ct_offload_dpdk_ingress_group(netdevs[0]) == 3);
    ovs_assert(ct_offload_dpdk_ingress_group(netdevs[1]) == 0);
    ovs_assert(!ct_offload_dpdk_class.can_offload(&held.orig));

    configure("false", "true", "false");
    conns_flush(NULL);
    check_empty(true);
}

/* 'packet' arrives at 'netdev'. */
static void
arrive(struct dp_packet *packet, struct netdev *netdev)
{
    struct dp_packet_batch batch;
    struct netdev_rxq *rxq;
    size_t n = 0;

    dp_packet_batch_init_packet(&batch, packet);
    ovs_assert(!netdev_send(netdev, 0, &batch, true));
    ovs_assert(!netdev_rxq_open(netdev, &rxq, 0));
    for (int i = 0; i < 10 && !n; i++) {
        dp_packet_batch_init(&batch);
        if (!netdev_rxq_recv(rxq, &batch, NULL)) {
            n = dp_packet_batch_size(&batch);
            dp_packet_delete_batch(&batch, true);
        }
    }
    ovs_assert(n == 1);
    netdev_rxq_close(rxq);
}

/* 'held' is held by counters only, and nothing was counted yet: if its rules
 * are not 'young', what passes before they are read for the first time may
 * have been long ago.  'create' makes a packet of its original direction. */
static void
check_counted(const struct held *held, struct dp_packet *(*create)(void),
              bool young)
{
    struct ds ds = DS_EMPTY_INITIALIZER;
    long long int start, used;

    timeval_warp(young ? 59 * 1000 : 61 * 1000);
    start = time_msec();
    arrive(create(), netdevs[0]);

    /* Who only looks on takes no sample. */
    ct_offload_dpdk_class.conn_format(&held->orig, &ds);
    ds_destroy(&ds);
    used = ct_offload_dpdk_class.conn_update(&held->orig);
    ovs_assert(young ? used >= start && used <= time_msec() : !used);
    ovs_assert(ct_offload_dpdk_class.conn_update(&held->orig) == used);

    timeval_warp(1000);
    start = time_msec();
    arrive(create(), netdevs[0]);
    used = ct_offload_dpdk_class.conn_update(&held->orig);
    ovs_assert(used >= start && used <= time_msec());

    /* Nothing has passed since. */
    xnanosleep(10 * 1000 * 1000);
    ovs_assert(ct_offload_dpdk_class.conn_update(&held->orig) == used);
}

static struct dp_packet *
create_segment(void)
{
    return tcp_create(1, false, TCP_ACK, 133, 533);
}

static struct dp_packet *
create_datagram(void)
{
    return packet_create(IPPROTO_UDP, 1, false);
}

/* SYN, FIN and RST are no use of 'held'. */
static void
check_flags(const struct held *held)
{
    static const uint16_t flags[] = {
        TCP_SYN, TCP_SYN | TCP_ACK, TCP_FIN | TCP_ACK, TCP_RST,
        TCP_RST | TCP_ACK,
    };
    long long int used = ct_offload_dpdk_class.conn_update(&held->orig);

    ovs_assert(used);
    xnanosleep(10 * 1000 * 1000);
    for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
        arrive(tcp_create(1, false, flags[i], 133, 533), netdevs[0]);
        ovs_assert(ct_offload_dpdk_class.conn_update(&held->orig) == used);
    }
}

static void
test_last_use(void)
{
    long long int start;
    struct held held[2];

    /* Tracked. */
    nic_set("set profile no-age");
    held_init(&held[0], IPPROTO_TCP, 1, 1, 1);
    ovs_assert(!held_offer(&held[0], false));
    check_counted(&held[0], create_segment, false);
    check_flags(&held[0]);
    check_rules(&held[0], "original: port p0, tracked, 2 packets; "
                          "reply: port p1, tracked, 0 packets");

    /* Beside one that is not tracked, whose packets are the same. */
    held_init(&held[1], IPPROTO_TCP, 1, 1, 2);
    held[1].reply.unmodified = false;
    ovs_assert(!held_offer(&held[1], false));
    start = time_msec();
    arrive(create_segment(), netdevs[0]);
    ovs_assert(ct_offload_dpdk_class.conn_update(&held[1].orig) >= start);
    ovs_assert(ct_offload_dpdk_class.conn_update(&held[0].orig) >= start);
    xnanosleep(10 * 1000 * 1000);
    start = time_msec();
    arrive(create_segment(), netdevs[0]);
    held_delete(&held[0]);
    ovs_assert(ct_offload_dpdk_class.conn_update(&held[1].orig) >= start);
    held_delete(&held[1]);

    /* Not tracked. */
    held_init(&held[1], IPPROTO_TCP, 1, 1, 2);
    held[1].reply.unmodified = false;
    ovs_assert(!held_offer(&held[1], false));
    check_counted(&held[1], create_segment, true);
    check_flags(&held[1]);
    held_delete(&held[1]);
    held_init(&held[1], IPPROTO_UDP, 1, 1, 2);
    ovs_assert(!held_offer(&held[1], false));
    check_counted(&held[1], create_datagram, false);
    held_delete(&held[1]);
    ports_restart();

    /* Where hardware does not track, it finds nothing invalid. */
    nic_set("set profile no-ct");
    held_init(&held[1], IPPROTO_UDP, 1, 1, 2);
    ovs_assert(!held_offer(&held[1], false));
    arrive(create_datagram(), netdevs[0]);
    check_nothing_invalid();
    held_delete(&held[1]);
    ports_restart();

    /* With AGE. */
    nic_set("set profile generous");
    held_init(&held[1], IPPROTO_UDP, 1, 1, 2);
    ovs_assert(!held_offer(&held[1], false));
    arrive(create_datagram(), netdevs[0]);
    ovs_assert(ct_offload_dpdk_class.conn_update(&held[1].orig));
    nic_set("advance 16777216");
    ovs_assert(!ct_offload_dpdk_class.conn_update(&held[1].orig));
    held_delete(&held[1]);

    conns_flush(NULL);
    check_empty(true);
}

/* A call that fails again and again is tried a few times, in about a
 * millisecond. */
static void
test_retry(void)
{
    struct dpdk_track_layout layout = { .n = 0 };
    struct rte_flow_error error;
    struct dpdk_flow_key key;
    struct rte_flow *rule;
    long long int n;
    uint16_t port_id;

    ovs_assert(netdev_dpdk_get_started_port(netdevs[0], &port_id));
    ovs_assert(!dpdk_track_layout_create(&layout, port_id, 1, &error));
    memset(&key, 0, sizeof key);
    key.ip_proto = IPPROTO_UDP;
    ovs_assert(!dpdk_track_rule_create(&layout, &key, NULL, &rule, &error));

    n = nic_injected("destroy");
    nic_set("fail destroy every 1 EIO");
    ovs_assert(dpdk_flow_rule_destroy_retry(port_id, rule, &error) == EIO);
    ovs_assert(nic_injected("destroy") - n == 5);
    nic_set("fail destroy every 1 ENOSPC");
    ovs_assert(dpdk_flow_rule_destroy_retry(port_id, rule, &error) == ENOSPC);
    ovs_assert(nic_injected("destroy") - n == 6);
    nic_set("fail destroy next 4 EBUSY");
    ovs_assert(!dpdk_flow_rule_destroy_retry(port_id, rule, &error));

    ovs_assert(!dpdk_track_layout_destroy(&layout));
    dpdk_track_layout_forget(&layout);
    nic_set("fail all off");
    check_empty(true);
}

/* What rules there are for two connections, in two zones, that have the
 * packets of one direction in common does not depend on which of them came
 * first, or goes first. */
static void
test_order(void)
{
    for (int i = 0; i < 4; i++) {
        struct holding holding;
        struct held held[2];

        /* One zone sees both directions, the other only one. */
        held_init(&held[0], IPPROTO_TCP, 1, 1, 1);
        held_init(&held[1], IPPROTO_TCP, 1, 1, 2);
        held[1].reply.unmodified = false;
        for (int j = 0; j < 2; j++) {
            ovs_assert(!held_offer(&held[j ^ (i & 1)], false));
        }
        holding = nic_holds();
        ovs_assert(holding.conns == 3 && holding.tracking == 2);
        ovs_assert(holding.handles == 1);
        check_counts(1, 1);
        check_rules(&held[0], "original: port p0, tracked, 0 packets; "
                              "reply: port p1, tracked, 0 packets");
        check_rules(&held[1], "original: port p0, not tracked, 0 packets; "
                              "reply: no rule");

        /* A third one, like the first. */
        if (i & 1) {
            struct held third;

            held_init(&third, IPPROTO_TCP, 1, 1, 3);
            ovs_assert(!held_offer(&third, false));
            check_rules(&third,
                        "original: port p0, tracked, 0 packets, shared by 2 "
                        "connections; reply: port p1, tracked, 0 packets, "
                        "shared by 2 connections");
            held_delete(&third);
        }

        held_delete(&held[i >> 1 & 1]);
        holding = nic_holds();
        if (i >> 1 & 1) {
            ovs_assert(holding.conns == 2 && holding.tracking == 2);
        } else {
            ovs_assert(holding.conns == 1 && !holding.handles);
        }
        held_delete(&held[!(i >> 1 & 1)]);
        check_empty(false);
    }
    conns_flush(NULL);
    check_empty(true);
}

static void
test_callbacks(void)
{
    configure("false", "true", "false");
    test_est_errors();
    test_not_ready();
    test_uni_dir();
    test_refused();
    test_bypass();
    test_order();
    test_last_use();
    test_retry();
    configure("true", "true", "false");
}

/* A port that forwards has no rules for connections, whatever they look like,
 * and none for anything else. */
static void
test_forward(void)
{
    struct holding holding;
    struct held held;

    configure("false", "false", "false");
    held_init(&held, IPPROTO_UDP, 1, 1, 0);
    configure("true", "false", "true");
    held.orig.unmodified = held.reply.unmodified = false;
    held.orig.vlan = CT_OFFLOAD_VLAN_OTHER;
    held.reply.netdev_in = NULL;
    for (int in_batch = 0; in_batch < 2; in_batch++) {
        ovs_assert(!held_offer(&held, in_batch));
        ovs_assert(!ct_offload_dpdk_class.conn_update(&held.orig));
        check_rules(&held, "for paths");
        held_delete(&held);
    }
    held.orig.netdev_in = NULL;
    ovs_assert(!ct_offload_dpdk_class.can_offload(&held.orig));
    ovs_assert(ct_offload_dpdk_ingress_group(netdevs[0]) == 0);
    holding = nic_holds();
    ovs_assert(!holding.layout && !holding.conns);

    ports_restart();
    test_paths(held.orig.conn);
    conns_flush(NULL);
    check_empty(true);
    configure("true", "true", "false");
}

static void
test_ct_offload_dpdk_main(int argc OVS_UNUSED, char *argv[])
{
    set_program_name(argv[0]);
    fatal_signal_init();
    time_msec();                /* Initializes what threads should not. */
    vlog_set_levels(NULL, VLF_ANY_DESTINATION, VLL_OFF);
    dpdk_start();
    for (int i = 0; i < N_PORTS; i++) {
        netdevs[i] = port_open(i);
    }
    configure("true", "true", "false");
    ovs_assert(!ct_offload_register(&ct_offload_dpdk_class));
    ct = conntrack_init();

    test_callbacks();
    test_established();
    test_sharing();
    test_vlan();
    test_not_sharing();
    test_dead();
    test_dead_probe();
    test_ingress_group();
    test_failures();
    test_threads();
    test_forward();

    conn_open(IPPROTO_TCP, 1, 1, 0);
    ct_offload_unregister(&ct_offload_dpdk_class);
    ovs_assert(!nic_holds().layout && !nic_holds().conns);
    conntrack_destroy(ct);
    for (int i = 0; i < N_PORTS; i++) {
        ovsrcu_set(&netdevs[i]->dpif_offload, NULL);
        netdev_close(netdevs[i]);
    }
    ovsrcu_exit();
    printf("all tests passed\n");
}

OVSTEST_REGISTER("test-ct-offload-dpdk", test_ct_offload_dpdk_main);

#endif /* DPDK_NETDEV */
