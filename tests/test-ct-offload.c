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
#include <stdlib.h>
#include <sys/resource.h>

#include "command-line.h"
#include "conntrack-offload-batch.h"
#include "conntrack-offload.h"
#include "conntrack-private.h"
#include "conntrack-tp.h"
#include "csum.h"
#include "ct-dpif.h"
#include "ct-offload-private.h"
#include "ct-offload.h"
#include "ct-offload-dummy.h"
#include "ct-offload-room.h"
#include "ct-offload-stats.h"
#include "ct-offload-thread.h"
#include "ct-offload-wire.h"
#include "dp-packet.h"
#include "flow.h"
#include "hash.h"
#include "netdev.h"
#include "openvswitch/dynamic-string.h"
#include "openvswitch/hmap.h"
#include "ovs-rcu.h"
#include "ovs-thread.h"
#include "ovstest.h"
#include "packets.h"
#include "random.h"
#include "smap.h"
#include "timeval.h"
#include "util.h"

/* Providers that write down what they are asked to do.  A line is
 *
 *     PROVIDER OPERATION SOURCE-PORT
 *
 * where SOURCE-PORT is that of the connection's original tuple. */

struct recorder {
    struct ct_offload_class class;
    int add_error;              /* What ADD returns. */
    int est_error;              /* What EST returns. */
    bool refuse;                /* What 'can_offload' says. */
    long long int last_used;    /* What UPD returns. */
    void (*meanwhile)(const char *op); /* Called before each operation. */

    /* What was said. */
    struct ct_offload_ctx add, est; /* The last ADD and EST. */
    unsigned int n_batches, n_ops; /* Native batches, operations in these. */
};

static atomic_uint touched_port;    /* Connection that is in use just now. */
static struct ds record = DS_EMPTY_INITIALIZER;
static int n_exits;

static uint16_t
conn_port(const struct conn *conn)
{
    struct ct_dpif_tuple tuple;

    ct_offload_conn_get_tuple(conn, false, &tuple);
    return ntohs(tuple.src_port);
}

static bool
is_touched(const struct conn *conn)
{
    unsigned int port;

    atomic_read_relaxed(&touched_port, &port);
    return port == conn_port(conn);
}

static void
note(const char *who, const char *what, const struct ct_offload_ctx *ctx,
     void (*meanwhile)(const char *op))
{
    if (meanwhile) {
        meanwhile(what);
    }
    ds_put_format(&record, "%s %s %"PRIu16"\n", who, what,
                  conn_port(ctx->conn));
}

#define RECORDER_CALLBACKS(NAME)                                            \
    static struct recorder NAME;                                            \
    static bool                                                             \
    NAME##_can_offload(const struct ct_offload_ctx *ctx OVS_UNUSED)         \
    {                                                                       \
        return !NAME.refuse;                                                \
    }                                                                       \
    static int                                                              \
    NAME##_add(const struct ct_offload_ctx *ctx)                            \
    {                                                                       \
        note(#NAME, NAME.add_error ? "add-error" : "add", ctx,              \
             NAME.meanwhile);                                               \
        NAME.add = *ctx;                                                    \
        ovs_assert(!*ctx->priv);                                            \
        *ctx->priv = CONST_CAST(struct conn *, ctx->conn);                  \
        return NAME.add_error;                                              \
    }                                                                       \
    static void                                                             \
    NAME##_del(const struct ct_offload_ctx *ctx)                            \
    {                                                                       \
        note(#NAME, "del", ctx, NAME.meanwhile);                            \
        ovs_assert(*ctx->priv == ctx->conn);                                \
    }                                                                       \
    static int                                                              \
    NAME##_est(const struct ct_offload_ctx *ctx)                            \
    {                                                                       \
        note(#NAME, NAME.est_error ? "est-error" : "est", ctx,              \
             NAME.meanwhile);                                               \
        NAME.est = *ctx;                                                    \
        ovs_assert(*ctx->priv == ctx->conn);                                \
        return NAME.est_error;                                              \
    }                                                                       \
    static long long int                                                    \
    NAME##_upd(const struct ct_offload_ctx *ctx)                            \
    {                                                                       \
        note(#NAME, "upd", ctx, NAME.meanwhile);                            \
        ovs_assert(*ctx->priv == ctx->conn);                                \
        return is_touched(ctx->conn) ? time_msec() : NAME.last_used;        \
    }                                                                       \
    static void                                                             \
    NAME##_exit(void)                                                       \
    {                                                                       \
        ds_put_cstr(&record, #NAME" exit\n");                               \
        n_exits++;                                                          \
    }                                                                       \
    static void                                                             \
    NAME##_flush(void)                                                      \
    {                                                                       \
        ds_put_cstr(&record, #NAME" flush\n");                              \
    }                                                                       \
    static void                                                             \
    NAME##_batch(struct ct_offload_op_batch *batch)                         \
    {                                                                       \
        struct ct_offload_op *op;                                           \
                                                                            \
        ds_put_format(&record, #NAME" batch %"PRIuSIZE"\n",                 \
                      ct_offload_op_batch_len(batch));                      \
        NAME.n_batches++;                                                   \
        NAME.n_ops += ct_offload_op_batch_len(batch);                       \
        CT_OFFLOAD_BATCH_OP_FOR_EACH (i, op, batch) {                       \
            switch (op->type) {                                             \
            case CT_OFFLOAD_OP_ADD:                                         \
                op->error = NAME##_add(&op->ctx);                           \
                break;                                                      \
            case CT_OFFLOAD_OP_DEL:                                         \
                NAME##_del(&op->ctx);                                       \
                break;                                                      \
            case CT_OFFLOAD_OP_EST:                                         \
                op->error = NAME##_est(&op->ctx);                           \
                break;                                                      \
            case CT_OFFLOAD_OP_UPD:                                         \
                op->last_used = NAME##_upd(&op->ctx);                       \
                op->error = 0;                                              \
                break;                                                      \
            case CT_OFFLOAD_OP_POLICY:                                      \
            case CT_OFFLOAD_OP_FLUSH:                                       \
            default:                                                        \
                OVS_NOT_REACHED();                                          \
            }                                                               \
        }                                                                   \
    }                                                                       \
    static struct recorder NAME = {                                         \
        .class = {                                                          \
            .name = #NAME,                                                  \
            .can_offload = NAME##_can_offload,                              \
            .conn_add = NAME##_add,                                         \
            .conn_del = NAME##_del,                                         \
            .conn_established = NAME##_est,                                 \
            .conn_update = NAME##_upd,                                      \
            .exit = NAME##_exit,                                            \
            .flush = NAME##_flush,                                          \
            .batch_submit = NAME##_batch,                                   \
        },                                                                  \
    }

RECORDER_CALLBACKS(a);
RECORDER_CALLBACKS(b);

/* Registers 'r', with a native 'batch_submit' if 'batch'. */
static void
recorder_register(struct recorder *r, bool batch)
{
    if (!batch) {
        r->class.batch_submit = NULL;
    }
    ovs_assert(!ct_offload_register(&r->class));
}

/* Checks that exactly 'expected' was recorded since the last time. */
#define CHECK_RECORD(EXPECTED) check_record(EXPECTED, OVS_SOURCE_LOCATOR)
static void
check_record(const char *expected, const char *where)
{
    if (strcmp(ds_cstr(&record), expected)) {
        ovs_fatal(0, "%s: expected:\n%sgot:\n%s", where, expected,
                  ds_cstr(&record));
    }
    ds_clear(&record);
}

/* Returns how many connections stayed in software for 'reason'. */
static unsigned int
n_reason(enum ct_offload_reason reason)
{
    struct ct_offload_stats sum;

    ct_offload_stats_sum(&sum);
    return ct_offload_stats_read(&sum.reasons[reason]);
}

/* Packets. */

static long long int now;
static const char data[10];

static struct dp_packet *
packet(uint8_t proto, bool ipv6, uint16_t src, uint16_t dst)
{
    struct dp_packet *pkt = dp_packet_new(0);
    struct flow flow;

    memset(&flow, 0, sizeof flow);
    flow.dl_type = htons(ipv6 ? ETH_TYPE_IPV6 : ETH_TYPE_IP);
    flow.nw_proto = proto;
    flow.nw_ttl = 64;
    flow.nw_src = htonl(0x0a000000 + (src < dst ? 1 : 2));
    flow.nw_dst = htonl(0x0a000000 + (src < dst ? 2 : 1));
    if (ipv6) {
        in6_addr_set_mapped_ipv4(&flow.ipv6_src, flow.nw_src);
        in6_addr_set_mapped_ipv4(&flow.ipv6_dst, flow.nw_dst);
        flow.nw_src = flow.nw_dst = 0;
    }
    flow.tp_src = htons(src);
    flow.tp_dst = htons(dst);
    flow_compose(pkt, &flow, data, sizeof data, false);
    pkt_metadata_init(&pkt->md, u32_to_odp(1));
    ct_offload_wire_receive(pkt, true);
    return pkt;
}

/* The port that servers listen at.  Packets to it are in original direction.
 */
#define SERVER 1000

static struct dp_packet *
udp(uint16_t client, bool reply)
{
    return packet(IPPROTO_UDP, false, reply ? SERVER : client,
                  reply ? client : SERVER);
}

/* Makes 'pkt' a TCP packet with 'flags', 'seq' and 'ack'. */
static struct dp_packet *
set_tcp(struct dp_packet *pkt, uint16_t flags, uint32_t seq, uint32_t ack)
{
    struct tcp_header *th = dp_packet_l4(pkt);

    th->tcp_ctl = TCP_CTL(flags, TCP_HEADER_LEN / 4);
    th->tcp_winsz = htons(65535);
    put_16aligned_be32(&th->tcp_seq, htonl(seq));
    put_16aligned_be32(&th->tcp_ack, htonl(ack));
    th->tcp_csum = 0;
    th->tcp_csum = csum_finish(
        csum_continue(packet_csum_pseudoheader(dp_packet_l3(pkt)),
                      th, TCP_HEADER_LEN + sizeof data));
    return pkt;
}

static struct dp_packet *
tcp(uint16_t client, bool reply, uint16_t flags, uint32_t seq, uint32_t ack)
{
    return set_tcp(packet(IPPROTO_TCP, false, reply ? SERVER : client,
                          reply ? client : SERVER), flags, seq, ack);
}

/* How packets go through conntrack. */
struct how {
    bool force, commit;
    uint16_t zone;
    const char *helper;
    const struct nat_action_info_t *nat;
    uint32_t *mark;
    struct ovs_key_ct_labels *labels;
    struct netdev *netdev;
    uint32_t tp_id;
};
static const struct how committing = { .commit = true };
static const struct how looking = { .commit = false };

/* Sends 'batch' through 'ct', and frees its packets.  Returns the 'ct_state'
 * of the first one. */
static uint8_t
execute_batch(struct conntrack *ct, struct dp_packet_batch *batch,
              const struct how *how)
{
    const struct dp_packet *first = batch->packets[0];
    const struct eth_header *eth = dp_packet_eth(first);
    ovs_be16 type = (eth_type_vlan(eth->eth_type) ? htons(ETH_TYPE_IP)
                     : eth->eth_type);
    uint8_t state;

    conntrack_execute(ct, batch, type, how->force, how->commit, how->zone,
                      how->mark, how->labels, how->helper, how->nat, now,
                      how->tp_id, how->netdev);
    state = batch->packets[0]->md.ct_state;
    dp_packet_delete_batch(batch, true);
    return state;
}

static uint8_t
execute(struct conntrack *ct, struct dp_packet *pkt, const struct how *how)
{
    struct dp_packet_batch batch;

    dp_packet_batch_init_packet(&batch, pkt);
    return execute_batch(ct, &batch, how);
}

/* Sends 'pkt', which is freed, through 'ct'.  Returns the connection that it
 * belongs to, or NULL. */
static struct conn *
find(struct conntrack *ct, struct dp_packet *pkt)
{
    struct dp_packet_batch batch;
    struct conn *conn;

    dp_packet_batch_init_packet(&batch, pkt);
    conntrack_execute(ct, &batch, htons(ETH_TYPE_IP), false, false, 0, NULL,
                      NULL, NULL, NULL, now, 0, NULL);
    conn = batch.packets[0]->md.conn;
    dp_packet_delete_batch(&batch, true);
    return conn;
}

/* The same for a UDP packet from 'client'. */
static struct conn *
find_udp(struct conntrack *ct, uint16_t client)
{
    return find(ct, udp(client, false));
}

static void *
idle_main(void *aux OVS_UNUSED)
{
    return NULL;
}

/* Creates a conntrack whose own sweep runs. */
static struct conntrack *
start_sweeping(void)
{
    now = time_msec();
    return conntrack_init();
}

/* Creates a conntrack that only 'sweep()' sweeps: conntrack's own thread
 * sweeps once at its start, which the scheduler may put anywhere. */
static struct conntrack *
start(void)
{
    struct conntrack *ct = start_sweeping();

    latch_set(&ct->clean_thread_exit);
    pthread_join(ct->clean_thread, NULL);
    ct->clean_thread = ovs_thread_create("idle", idle_main, NULL);

    /* The next sweep comes at once. */
    conntrack_set_sweep_interval(ct, 0);
    return ct;
}

/* Returns the number of connections in 'ct' with the tuple of 'udp(client)',
 * expired or not. */
static int
count_udp(struct conntrack *ct, uint16_t client)
{
    struct conn_key_node *keyn;
    int n = 0;

    CMAP_FOR_EACH (keyn, cm_node, &ct->conns[0]) {
        if (keyn->dir == CT_DIR_FWD
            && (keyn->key.src.port == htons(client)
                || keyn->key.dst.port == htons(client))) {
            n++;
        }
    }
    return n;
}

static long long int
conn_get_expiration(const struct conn *conn)
{
    long long int expiration;

    atomic_read_relaxed(&CONST_CAST(struct conn *, conn)->expiration,
                        &expiration);
    return expiration;
}

/* The time of 'conn' is up, as far as software knows. */
static void
conn_expire(struct conn *conn)
{
    now = time_msec();
    atomic_store_relaxed(&conn->expiration, now);
}

/* Default timeouts of UDP: for a single packet, and for both directions. */
enum { FIRST_MS = 60 * 1000, BIDIR_MS = 30 * 1000 };

static void
configure(const char *key, const char *value)
{
    struct smap config = SMAP_INITIALIZER(&config);

    if (value) {
        smap_add(&config, key, value);
    }
    ct_offload_set_config(&config);
    smap_destroy(&config);
}

/* Runs 'main_' with 'aux' in another thread, and waits for that. */
static void
in_thread(void *(*main_)(void *), void *aux)
{
    xpthread_join(ovs_thread_create("test", main_, aux), NULL);
}

/* Does for all connections in 'ct' what a sweep does to offload. */
static void
sweep(struct conntrack *ct)
{
    for (size_t i = 0; i < N_EXP_LISTS; i++) {
        struct conn_offload_batch *batch = conntrack_offload_begin(NULL);
        struct conn *conn;

        RCULIST_FOR_EACH (conn, node, &ct->exp_lists[i]) {
            conntrack_offload_sweep_conn(batch, ct, conn, now);
        }
        conntrack_offload_sweep_end(batch);
    }
}

/* Tests. */

static int
init_fails(void)
{
    return ENODEV;
}

static void
test_registry(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct ct_offload_class classes[CT_OFFLOAD_MAX_PROVIDERS + 1];
    const char *names[] = { "p0", "p1", "p2", "p3", "p4" };
    struct ct_offload_class failing = a.class;

    BUILD_ASSERT_DECL(ARRAY_SIZE(names) == ARRAY_SIZE(classes));

    ovs_assert(!ct_offload_is_active());
    recorder_register(&a, false);
    ovs_assert(ct_offload_is_active());
    ovs_assert(ct_offload_register(&a.class) == EEXIST);

    failing.name = "failing";
    failing.init = init_fails;
    ovs_assert(ct_offload_register(&failing) == ENODEV);
    ct_offload_unregister(&failing);

    ct_offload_unregister(&b.class);
    ct_offload_unregister(&a.class);
    ovs_assert(!ct_offload_is_active());
    CHECK_RECORD("a exit\n");
    ct_offload_unregister(&a.class);
    CHECK_RECORD("");

    for (size_t i = 0; i < ARRAY_SIZE(classes); i++) {
        classes[i] = a.class;
        classes[i].name = names[i];
        ovs_assert(ct_offload_register(&classes[i])
                   == (i < CT_OFFLOAD_MAX_PROVIDERS ? 0 : ENOSPC));
    }
    for (size_t i = 0; i < CT_OFFLOAD_MAX_PROVIDERS; i++) {
        ct_offload_unregister(&classes[i]);
    }
    ovs_assert(!ct_offload_register(&classes[CT_OFFLOAD_MAX_PROVIDERS]));
    ct_offload_unregister(&classes[CT_OFFLOAD_MAX_PROVIDERS]);
}

static void
test_mandatory(struct ovs_cmdl_context *ctx)
{
    if (!strcmp(ctx->argv[1], "conn_add")) {
        a.class.conn_add = NULL;
    } else if (!strcmp(ctx->argv[1], "conn_del")) {
        a.class.conn_del = NULL;
    } else if (!strcmp(ctx->argv[1], "can_offload")) {
        a.class.can_offload = NULL;
    } else {
        ovs_fatal(0, "no callback %s", ctx->argv[1]);
    }
    ct_offload_register(&a.class);
}

static void
test_life_cycle(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conntrack *ct = start();
    uint32_t mark[2] = { 5, UINT32_MAX };
    struct how marking = { .commit = true, .mark = mark };
    const struct conn *conn;

    ovs_assert(!ct_offload_dummy_register());

    /* Packets that are not committed raise nothing. */
    execute(ct, udp(1, false), &looking);
    ovs_assert(!ct_offload_dummy_n_added());

    /* Commit, and again. */
    execute(ct, udp(1, false), &marking);
    execute(ct, udp(1, false), &committing);
    conn = find_udp(ct, 1);
    ovs_assert(ct_offload_dummy_n_added() == 1);
    ovs_assert(ct_offload_dummy_contains(conn));
    ovs_assert(ct_offload_conn_is_offloaded(conn));
    ovs_assert(!ct_offload_conn_is_established(conn));
    ovs_assert(!ct_offload_dummy_is_bidirectional(conn));
    ovs_assert(ct_offload_conn_get_mark(conn) == 5);

    /* First reply, and another one. */
    ovs_assert(execute(ct, udp(1, true), &looking)
               == (CS_TRACKED | CS_ESTABLISHED | CS_REPLY_DIR));
    execute(ct, udp(1, true), &looking);
    ovs_assert(ct_offload_dummy_n_established() == 1);
    ovs_assert(ct_offload_dummy_is_bidirectional(conn));
    ovs_assert(ct_offload_conn_is_established(conn));

    /* Another connection, which goes with all of its zone. */
    execute(ct, udp(2, false), &committing);
    ovs_assert(ct_offload_dummy_n_held() == 2);
    uint16_t zone = 1;
    conntrack_flush(ct, &zone);
    ovs_assert(ct_offload_dummy_n_held() == 2);
    zone = 0;
    conntrack_flush(ct, &zone);
    ovs_assert(ct_offload_dummy_n_held() == 0);
    ovs_assert(ct_offload_dummy_n_deleted() == 2);

    /* The same tuple again: a new connection. */
    execute(ct, udp(1, false), &committing);
    ovs_assert(ct_offload_dummy_n_added() == 3);
    conntrack_flush(ct, NULL);
    ovs_assert(ct_offload_dummy_n_deleted() == 3);

    /* One tuple of two. */
    execute(ct, udp(1, false), &committing);
    execute(ct, udp(2, false), &committing);
    struct ct_dpif_tuple tuple;
    ct_offload_conn_get_tuple(find_udp(ct, 2), false, &tuple);
    ovs_assert(!conntrack_flush_tuple(ct, &tuple, 0));
    ovs_assert(ct_offload_dummy_n_held() == 1);
    ovs_assert(ct_offload_dummy_contains(find_udp(ct, 1)));

    /* All the rest, with conntrack itself. */
    conntrack_destroy(ct);
    ovs_assert(ct_offload_dummy_n_held() == 0);
    ovs_assert(ct_offload_dummy_n_added() == ct_offload_dummy_n_deleted());
    ovs_assert(!ct_offload_dummy_n_misused());
    ct_offload_dummy_unregister();

    /* Whoever registers it finds its counters at 0. */
    ovs_assert(ct_offload_dummy_n_added() && ct_offload_dummy_n_deleted()
               && ct_offload_dummy_n_established());
    ovs_assert(!ct_offload_dummy_register());
    ovs_assert(ct_offload_dummy_register() == EEXIST);
    ovs_assert(!ct_offload_dummy_n_added() && !ct_offload_dummy_n_deleted()
               && !ct_offload_dummy_n_established());
    ct_offload_dummy_unregister();
}

static void
test_order(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conntrack *ct = start();
    struct how forcing = { .commit = true, .force = true };
    struct dp_packet_batch batch;

    recorder_register(&a, false);

    /* Commit and reply in one batch. */
    dp_packet_batch_init_packet(&batch, udp(1, false));
    dp_packet_batch_add(&batch, udp(2, false));
    dp_packet_batch_add(&batch, udp(1, true));
    execute_batch(ct, &batch, &committing);
    CHECK_RECORD("a add 1\n"
                 "a add 2\n"
                 "a est 1\n");

    /* A forced commit in reply direction makes way for a connection the other
     * way around: DEL of the one comes before ADD of the other. */
    execute(ct, udp(1, true), &forcing);
    CHECK_RECORD("a del 1\n"
                 "a add 1000\n");

    /* The same for a connection that has an operation in the same batch. */
    dp_packet_batch_init_packet(&batch, udp(2, true));
    dp_packet_batch_add(&batch, udp(3, false));
    execute_batch(ct, &batch, &committing);
    CHECK_RECORD("a est 2\n"
                 "a add 3\n");
    dp_packet_batch_init_packet(&batch, udp(4, false));
    dp_packet_batch_add(&batch, udp(3, true));
    execute_batch(ct, &batch, &forcing);
    CHECK_RECORD("a add 4\n"
                 "a del 3\n"
                 "a add 1000\n");

    /* A connection that is gone before its ADD went out is never added. */
    dp_packet_batch_init_packet(&batch, udp(5, false));
    dp_packet_batch_add(&batch, udp(5, true));
    execute_batch(ct, &batch, &forcing);
    CHECK_RECORD("a add 1000\n");

    conntrack_flush(ct, NULL);
    ds_clear(&record);

    /* In one burst a connection sees its first reply, is reset, and makes way
     * for another one with the same ports.  What is about to be deleted need
     * not be established. */
    execute(ct, tcp(6, false, TCP_SYN, 100, 0), &committing);
    dp_packet_batch_init_packet(&batch, tcp(6, true, TCP_SYN | TCP_ACK, 500,
                                            101));
    dp_packet_batch_add(&batch, tcp(6, false, TCP_RST, 101, 0));
    dp_packet_batch_add(&batch, tcp(6, false, TCP_SYN, 9000, 0));
    execute_batch(ct, &batch, &committing);
    CHECK_RECORD("a add 6\n"
                 "a del 6\n"
                 "a add 6\n");

    conntrack_flush(ct, NULL);
    CHECK_RECORD("a del 6\n");
    conntrack_destroy(ct);
    CHECK_RECORD("");
    ct_offload_unregister(&a.class);
}

static void
test_tcp(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conntrack *ct = start();

    recorder_register(&a, false);
    b.class.established_only = true;
    recorder_register(&b, true);

    execute(ct, tcp(1, false, TCP_SYN, 100, 0), &committing);
    CHECK_RECORD("a add 1\n");

    /* A SYN-ACK is a reply, but the handshake is not complete. */
    execute(ct, tcp(1, true, TCP_SYN | TCP_ACK, 500, 101), &looking);
    execute(ct, tcp(1, true, TCP_SYN | TCP_ACK, 500, 101), &looking);
    CHECK_RECORD("a est 1\n");
    execute(ct, tcp(1, false, TCP_ACK, 101, 501), &looking);
    execute(ct, tcp(1, false, TCP_ACK, 101, 501), &looking);
    CHECK_RECORD("");
    execute(ct, tcp(1, true, TCP_ACK, 501, 101), &looking);
    CHECK_RECORD("b add 1\n"
                 "b est 1\n");
    execute(ct, tcp(1, false, TCP_ACK, 101, 501), &looking);
    execute(ct, tcp(1, true, TCP_ACK, 501, 101), &looking);
    CHECK_RECORD("");

    /* An invalid reply is none. */
    execute(ct, tcp(2, false, TCP_SYN, 100, 0), &committing);
    CHECK_RECORD("a add 2\n");
    ovs_assert(execute(ct, tcp(2, true, TCP_SYN | TCP_FIN, 500, 101),
                       &looking) & CS_INVALID);
    CHECK_RECORD("");

    /* Closing takes it back into software, for good. */
    execute(ct, tcp(1, false, TCP_FIN | TCP_ACK, 101, 501), &looking);
    CHECK_RECORD("a del 1\n"
                 "b del 1\n");
    execute(ct, tcp(1, true, TCP_FIN | TCP_ACK, 501, 102), &looking);
    execute(ct, tcp(1, false, TCP_ACK, 102, 502), &looking);
    sweep(ct);
    execute(ct, tcp(1, false, TCP_ACK, 102, 502), &looking);
    execute(ct, tcp(1, true, TCP_ACK, 502, 102), &looking);
    CHECK_RECORD("");

    /* Reuse of the ports. */
    execute(ct, tcp(1, false, TCP_SYN, 9000, 0), &committing);
    CHECK_RECORD("a add 1\n");

    /* And so does RST, even before the handshake is complete.  It is a reply,
     * too, but that does not matter any more. */
    execute(ct, tcp(1, true, TCP_RST | TCP_ACK, 0, 9001), &looking);
    CHECK_RECORD("a del 1\n");

    conntrack_destroy(ct);
    ct_offload_unregister(&a.class);
    ct_offload_unregister(&b.class);
}

static void
test_ineligible(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conntrack *ct = start();
    struct how ftp = { .commit = true, .helper = "ftp" };
    struct how snat = { .commit = true };
    struct nat_action_info_t nat = {
        .nat_action = NAT_ACTION_SRC | NAT_ACTION_SRC_PORT,
        .min_addr.ipv4 = htonl(0x0a000009),
        .max_addr.ipv4 = htonl(0x0a000009),
        .min_port = 7, .max_port = 7,
    };

    recorder_register(&a, false);

    /* Connections with a helper... */
    execute(ct, set_tcp(packet(IPPROTO_TCP, false, 1, 2000), TCP_SYN, 1, 0),
            &ftp);
    CHECK_RECORD("");

    /* ...or those that are from or to the port of one, on either side of
     * NAT. */
    static const struct {
        uint8_t proto;
        uint16_t src, dst;
        uint16_t nat_action, nat_port;
        bool helper;
    } ports[] = {
        { IPPROTO_TCP, 10, 21, 0, 0, true },
        { IPPROTO_TCP, 21, 20000, 0, 0, true },
        { IPPROTO_TCP, 11, 20, 0, 0, false },
        { IPPROTO_TCP, 12, 69, 0, 0, false },
        { IPPROTO_UDP, 13, 69, 0, 0, true },
        { IPPROTO_UDP, 69, 20001, 0, 0, true },
        { IPPROTO_UDP, 14, 21, 0, 0, false },
        { IPPROTO_TCP, 15, 2121, NAT_ACTION_DST, 21, true },
        { IPPROTO_TCP, 16, 21, NAT_ACTION_DST, 2122, true },
        { IPPROTO_TCP, 17, 2123, NAT_ACTION_DST, 22, false },
        { IPPROTO_TCP, 18, 2124, NAT_ACTION_SRC, 21, true },
        { IPPROTO_UDP, 19, 2125, NAT_ACTION_DST, 21, false },
        { IPPROTO_UDP, 20, 69, NAT_ACTION_DST, 2126, true },
        { IPPROTO_UDP, 22, 2127, NAT_ACTION_SRC, 70, false },
    };
    for (size_t i = 0; i < ARRAY_SIZE(ports); i++) {
        bool source = ports[i].nat_action & NAT_ACTION_SRC;
        struct nat_action_info_t to = {
            .nat_action = (ports[i].nat_action
                           | (source ? NAT_ACTION_SRC_PORT
                              : NAT_ACTION_DST_PORT)),
            .min_addr.ipv4 = htonl(0x0a000009),
            .max_addr.ipv4 = htonl(0x0a000009),
            .min_port = ports[i].nat_port,
            .max_port = ports[i].nat_port,
        };
        struct how how = {
            .commit = true,
            .nat = ports[i].nat_action ? &to : NULL,
        };
        struct dp_packet *pkt = packet(ports[i].proto, false, ports[i].src,
                                       ports[i].dst);

        if (ports[i].proto == IPPROTO_TCP) {
            set_tcp(pkt, TCP_SYN, 1, 0);
        }
        execute(ct, pkt, &how);
        if ((record.length == 0) != ports[i].helper) {
            ovs_fatal(0, "case %"PRIuSIZE": %s", i,
                      record.length ? "offered" : "not offered");
        }
        ds_clear(&record);
    }
    ovs_assert(n_reason(CT_OFFLOAD_HELPER) == 9);
    conntrack_flush(ct, NULL);
    ds_clear(&record);

    /* No tuple left for NAT: the second connection is never committed. */
    snat.nat = &nat;
    execute(ct, udp(1, false), &snat);
    execute(ct, udp(2, false), &snat);
    CHECK_RECORD("a add 1\n");
    execute(ct, udp(3, false), &committing);
    CHECK_RECORD("a add 3\n");

    /* What a provider refuses, or cannot take, has no EST and no DEL. */
    a.refuse = true;
    execute(ct, udp(4, false), &committing);
    execute(ct, udp(4, true), &looking);
    CHECK_RECORD("");
    a.refuse = false;
    a.add_error = ENOSPC;
    execute(ct, udp(5, false), &committing);
    execute(ct, udp(5, true), &looking);
    CHECK_RECORD("a add-error 5\n");

    /* Connections that are older than the provider. */
    a.add_error = 0;
    ct_offload_unregister(&a.class);
    CHECK_RECORD("a del 1\n"
                 "a del 3\n"
                 "a exit\n");
    execute(ct, udp(6, false), &committing);
    recorder_register(&a, false);
    execute(ct, udp(6, true), &looking);
    CHECK_RECORD("");

    conntrack_destroy(ct);
    CHECK_RECORD("");
    ct_offload_unregister(&a.class);
}

static void
test_providers(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conntrack *ct = start();
    struct ct_offload_ctx c = { .input_port_id = u32_to_odp(1) };

    execute(ct, udp(1, false), &committing);
    c.conn = find_udp(ct, 1);

    /* Without a provider. */
    ovs_assert(!ct_offload_can_offload(&c));
    ovs_assert(!ct_offload_conn_add(&c));
    ovs_assert(!ct_offload_conn_is_offloaded(c.conn));
    ovs_assert(!ct_offload_conn_update(&c));
    ct_offload_conn_established(&c);
    ct_offload_conn_del(&c);

    recorder_register(&a, false);
    recorder_register(&b, true);
    ovs_assert(ct_offload_can_offload(&c));

    /* The first error is returned, and the rest are told. */
    a.add_error = EIO;
    ovs_assert(ct_offload_conn_add(&c) == EIO);
    CHECK_RECORD("a add-error 1\n"
                 "b add 1\n");
    ovs_assert(ct_offload_conn_is_offloaded(c.conn));

    /* Only those hear of it that hold the connection. */
    b.last_used = 42;
    a.last_used = 43;
    ovs_assert(ct_offload_conn_update(&c) == 42);
    ct_offload_conn_established(&c);
    ct_offload_conn_established(&c);
    CHECK_RECORD("b upd 1\n"
                 "b est 1\n");
    ct_offload_conn_del(&c);
    ct_offload_conn_del(&c);
    CHECK_RECORD("b del 1\n");
    ovs_assert(!ct_offload_conn_is_offloaded(c.conn));

    /* Those that do not hold it yet get it when it is added again. */
    b.refuse = true;
    a.add_error = 0;
    ovs_assert(!ct_offload_conn_add(&c));
    b.refuse = false;
    ovs_assert(!ct_offload_conn_add(&c));
    ovs_assert(ct_offload_conn_update(&c) == 43);
    CHECK_RECORD("a add 1\n"
                 "b add 1\n"
                 "a upd 1\n"
                 "b upd 1\n");

    /* One provider goes, the other keeps what it holds. */
    ct_offload_unregister(&a.class);
    CHECK_RECORD("a del 1\n"
                 "a exit\n");
    ovs_assert(ct_offload_conn_is_offloaded(c.conn));
    ct_offload_conn_established(&c);
    CHECK_RECORD("b est 1\n");
    ct_offload_flush();
    CHECK_RECORD("b del 1\n"
                 "b flush\n");
    ct_offload_unregister(&b.class);
    conntrack_destroy(ct);
    CHECK_RECORD("b exit\n");
}

static void
test_batch(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conntrack *ct = start();
    struct ct_offload_op_batch batch;
    struct ct_offload_ctx c[2];

    memset(c, 0, sizeof c);
    for (size_t i = 0; i < ARRAY_SIZE(c); i++) {
        execute(ct, udp(1 + i, false), &committing);
        c[i].conn = find_udp(ct, 1 + i);
    }
    recorder_register(&a, false);
    recorder_register(&b, true);

    /* Results of every type, in one batch. */
    a.add_error = EIO;
    b.last_used = 7;
    ct_offload_op_batch_init(&batch);
    ct_offload_op_batch_add(&batch, CT_OFFLOAD_OP_UPD, &c[0]);
    ct_offload_op_batch_add(&batch, CT_OFFLOAD_OP_ADD, &c[0]);
    ct_offload_op_batch_add(&batch, CT_OFFLOAD_OP_POLICY, &c[0]);
    ct_offload_op_batch_add(&batch, CT_OFFLOAD_OP_UPD, &c[0]);
    ct_offload_op_batch_add(&batch, CT_OFFLOAD_OP_EST, &c[0]);
    ct_offload_op_batch_add(&batch, CT_OFFLOAD_OP_UPD, &c[1]);
    ct_offload_op_batch_add(&batch, CT_OFFLOAD_OP_DEL, &c[0]);
    ct_offload_op_batch_add(&batch, CT_OFFLOAD_OP_DEL, &c[1]);
    ct_offload_op_batch_add(&batch, 99, &c[1]);
    ct_offload_op_batch_add(&batch, CT_OFFLOAD_OP_FLUSH, &c[1]);
    ovs_assert(ct_offload_op_batch_len(&batch) == 10);
    ovs_assert(ct_offload_op_batch_size(&batch) == CT_OFFLOAD_BATCH_INLINE);
    ct_offload_op_batch_submit(&batch);

    static const int errors[] = {
        ENODATA, EIO, 0, 0, 0, ENODATA, 0, 0, EINVAL, 0
    };
    struct ct_offload_op *op;
    CT_OFFLOAD_BATCH_OP_FOR_EACH (i, op, &batch) {
        if (op->error != errors[i]) {
            ovs_fatal(0, "op %"PRIuSIZE": error %d instead of %d",
                      i, op->error, errors[i]);
        }
    }
    ovs_assert(batch.ops[3].last_used == 7);
    ct_offload_op_batch_destroy(&batch);
    CHECK_RECORD("a add-error 1\n"
                 "b add 1\n"
                 "b upd 1\n"
                 "b est 1\n"
                 "b del 1\n"
                 "a flush\n"
                 "b flush\n");

    /* Nothing, and more than fits into the batch itself. */
    ct_offload_op_batch_init(&batch);
    ct_offload_op_batch_submit(&batch);
    for (size_t i = 0; i < 100000; i++) {
        ct_offload_op_batch_add(&batch, CT_OFFLOAD_OP_POLICY, &c[0]);
    }
    a.refuse = b.refuse = true;
    ct_offload_op_batch_submit(&batch);
    CT_OFFLOAD_BATCH_OP_FOR_EACH (i, op, &batch) {
        ovs_assert(op->error == EPERM);
    }
    CHECK_RECORD("");

    /* What was destroyed is empty, and may be destroyed once more, or used. */
    ct_offload_op_batch_destroy(&batch);
    ct_offload_op_batch_destroy(&batch);
    ovs_assert(!ct_offload_op_batch_len(&batch));
    ovs_assert(ct_offload_op_batch_size(&batch) == CT_OFFLOAD_BATCH_INLINE);
    CT_OFFLOAD_BATCH_OP_FOR_EACH (i, op, &batch) {
        OVS_NOT_REACHED();
    }
    a.refuse = b.refuse = false;
    a.add_error = 0;

    /* Operations on one connection: nobody knows anything of a connection that
     * is gone again, nor does a provider that says 0. */
    static const enum ct_offload_op_type types[] = {
        CT_OFFLOAD_OP_ADD, CT_OFFLOAD_OP_DEL, CT_OFFLOAD_OP_UPD,
        CT_OFFLOAD_OP_ADD, CT_OFFLOAD_OP_UPD, CT_OFFLOAD_OP_EST,
        CT_OFFLOAD_OP_UPD, CT_OFFLOAD_OP_DEL,
    };
    static const int results[] = { 0, 0, ENODATA, 0, ENODATA, 0, ENODATA, 0 };
    b.last_used = 0;
    for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
        ct_offload_op_batch_add(&batch, types[i], &c[0]);
    }
    ct_offload_op_batch_submit(&batch);
    CT_OFFLOAD_BATCH_OP_FOR_EACH (i, op, &batch) {
        if (op->error != results[i] || op->last_used) {
            ovs_fatal(0, "op %"PRIuSIZE": error %d instead of %d",
                      i, op->error, results[i]);
        }
    }
    ct_offload_op_batch_destroy(&batch);
    CHECK_RECORD("a add 1\n"
                 "b add 1\n"
                 "a del 1\n"
                 "b del 1\n"
                 "a add 1\n"
                 "b add 1\n"
                 "a upd 1\n"
                 "b upd 1\n"
                 "a est 1\n"
                 "b est 1\n"
                 "a upd 1\n"
                 "b upd 1\n"
                 "a del 1\n"
                 "b del 1\n");

    /* The same in two operations of a native batch. */
    for (size_t i = 0; i < ARRAY_SIZE(c); i++) {
        ct_offload_op_batch_add(&batch, CT_OFFLOAD_OP_ADD, &c[i]);
    }
    ct_offload_op_batch_submit(&batch);
    ct_offload_op_batch_destroy(&batch);
    for (size_t i = 0; i < ARRAY_SIZE(c); i++) {
        ct_offload_op_batch_add(&batch, CT_OFFLOAD_OP_UPD, &c[i]);
    }
    ct_offload_op_batch_submit(&batch);
    CT_OFFLOAD_BATCH_OP_FOR_EACH (i, op, &batch) {
        ovs_assert(op->error == ENODATA && !op->last_used);
    }
    ct_offload_op_batch_destroy(&batch);
    CHECK_RECORD("a add 1\n"
                 "a add 2\n"
                 "b batch 2\n"
                 "b add 1\n"
                 "b add 2\n"
                 "a upd 1\n"
                 "a upd 2\n"
                 "b batch 2\n"
                 "b upd 1\n"
                 "b upd 2\n");

    /* Everything is forgotten after other operations, and before others. */
    ct_offload_op_batch_add(&batch, CT_OFFLOAD_OP_DEL, &c[0]);
    ct_offload_op_batch_add(&batch, CT_OFFLOAD_OP_EST, &c[1]);
    ct_offload_op_batch_add(&batch, CT_OFFLOAD_OP_FLUSH, &c[1]);
    ct_offload_op_batch_add(&batch, CT_OFFLOAD_OP_UPD, &c[1]);
    ct_offload_op_batch_add(&batch, CT_OFFLOAD_OP_ADD, &c[0]);
    ct_offload_op_batch_submit(&batch);
    CT_OFFLOAD_BATCH_OP_FOR_EACH (i, op, &batch) {
        ovs_assert(op->error == (i == 3 ? ENODATA : 0));
    }
    ct_offload_op_batch_destroy(&batch);
    CHECK_RECORD("a del 1\n"
                 "a est 2\n"
                 "b batch 2\n"
                 "b del 1\n"
                 "b est 2\n"
                 "a del 2\n"
                 "b del 2\n"
                 "a flush\n"
                 "b flush\n"
                 "a add 1\n"
                 "b add 1\n");

    ct_offload_unregister(&a.class);
    ct_offload_unregister(&b.class);
    conntrack_destroy(ct);
}

/* Unregistering in a callback is refused. */
static int
unregistering_add(const struct ct_offload_ctx *ctx)
{
    ct_offload_unregister(&a.class);
    return a_add(ctx);
}

static void
test_unregister_in_callback(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conntrack *ct = start();

    a.class.conn_add = unregistering_add;
    recorder_register(&a, false);
    execute(ct, udp(1, false), &committing);
    CHECK_RECORD("a add 1\n");
    ovs_assert(ct_offload_is_active());
    conntrack_destroy(ct);
}

static void
test_expiry(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conntrack *ct = start();
    struct conn *conn;
    long long int t;

    /* In software a late reply starts another connection... */
    execute(ct, udp(1, false), &committing);
    conn_expire(find_udp(ct, 1));
    ovs_assert(execute(ct, udp(1, true), &committing)
               == (CS_TRACKED | CS_NEW));
    ovs_assert(count_udp(ct, 1) == 2);
    conntrack_flush(ct, NULL);

    /* ...and so it does if hardware holds the connection, but software sees
     * all of its packets.  No last use could change that, so nobody asks. */
    recorder_register(&a, false);
    execute(ct, udp(1, false), &committing);
    execute(ct, udp(1, true), &looking);
    conn = find_udp(ct, 1);
    conn_expire(conn);
    a.last_used = now;
    ovs_assert(!find_udp(ct, 1));
    CHECK_RECORD("a add 1\n"
                 "a est 1\n");
    sweep(ct);
    ovs_assert(!find_udp(ct, 1));
    ovs_assert(conn_get_expiration(conn) == now);
    CHECK_RECORD("");
    ovs_assert(execute(ct, udp(1, true), &committing)
               == (CS_TRACKED | CS_NEW));
    ovs_assert(count_udp(ct, 1) == 2);
    CHECK_RECORD("a del 1\n"
                 "a add 1000\n");
    conntrack_flush(ct, NULL);
    CHECK_RECORD("a del 1000\n");

    /* Neither does a packet in original direction bring it back to life. */
    execute(ct, udp(1, false), &committing);
    conn = find_udp(ct, 1);
    conn_expire(conn);
    ovs_assert(execute(ct, udp(1, false), &committing)
               == (CS_TRACKED | CS_NEW));
    ovs_assert(find_udp(ct, 1) != conn);
    CHECK_RECORD("a add 1\n"
                 "a del 1\n"
                 "a add 1\n");
    conntrack_flush(ct, NULL);
    ct_offload_unregister(&a.class);

    /* Packets may bypass software, once the connection is established: it is
     * alive until the provider says that it is not. */
    a.class.may_bypass = true;
    recorder_register(&a, false);
    ds_clear(&record);
    execute(ct, udp(1, false), &committing);
    conn = find_udp(ct, 1);
    t = conn_get_expiration(conn);
    conn_expire(conn);
    ovs_assert(!find_udp(ct, 1));
    atomic_store_relaxed(&conn->expiration, t);
    execute(ct, udp(1, true), &committing);
    conn_expire(conn);
    ovs_assert(find_udp(ct, 1) == conn);
    conn_expire(conn);
    ovs_assert(execute(ct, udp(1, true), &committing)
               == (CS_TRACKED | CS_ESTABLISHED | CS_REPLY_DIR));
    ovs_assert(count_udp(ct, 1) == 1);
    CHECK_RECORD("a add 1\n"
                 "a est 1\n");

    /* The sweep does not ask as long as software has seen packets, unless the
     * connection will be out of time when the next one comes: counters have to
     * be read before they decide. */
    atomic_store_relaxed(&conn->expiration, now + 1);
    sweep(ct);
    CHECK_RECORD("");
    conntrack_set_sweep_interval(ct, 20000);
    atomic_store_relaxed(&conn->expiration, now + 30001);
    sweep(ct);
    CHECK_RECORD("");
    atomic_store_relaxed(&conn->expiration, now + 30000);
    sweep(ct);
    CHECK_RECORD("a upd 1\n");
    ovs_assert(conn_get_expiration(conn) == now + 30000);
    conntrack_set_sweep_interval(ct, 0);

    /* Then it does, and the connection lives as long after its last use as it
     * would in software. */
    conn_expire(conn);
    t = now;
    a.last_used = t - 10000;
    sweep(ct);
    CHECK_RECORD("a upd 1\n");
    ovs_assert(conn_get_expiration(conn) == t - 10000 + BIDIR_MS);
    ovs_assert(ct_offload_conn_is_offloaded(conn));
    sweep(ct);
    CHECK_RECORD("");

    /* A time in the future is now. */
    conn_expire(conn);
    a.last_used = now + 1000000;
    sweep(ct);
    CHECK_RECORD("a upd 1\n");
    ovs_assert(conn_get_expiration(conn) >= now + BIDIR_MS);
    ovs_assert(conn_get_expiration(conn) <= time_msec() + BIDIR_MS);

    /* A time before the connection existed does not shorten its life. */
    a.last_used = 1;
    struct ct_offload_ctx c = { .conn = conn };
    t = conn_get_expiration(conn);
    ovs_assert(ct_offload_conn_update(&c) == 1);
    ovs_assert(conn_get_expiration(conn) == t);
    CHECK_RECORD("a upd 1\n");

    /* Unused: hardware loses it with the sweep, and not before, so that the
     * next packet comes to software.  That finds nothing any more. */
    conn_expire(conn);
    ovs_assert(find_udp(ct, 1) == conn);
    conn_expire(conn);
    ovs_assert(ct_offload_conn_is_offloaded(conn));
    sweep(ct);
    CHECK_RECORD("a upd 1\n"
                 "a del 1\n");
    ovs_assert(!find_udp(ct, 1));
    sweep(ct);
    CHECK_RECORD("");

    /* Last use not known: software decides. */
    execute(ct, udp(2, false), &committing);
    execute(ct, udp(2, true), &committing);
    a.last_used = 0;
    conn_expire(find_udp(ct, 2));
    sweep(ct);
    CHECK_RECORD("a add 2\n"
                 "a est 2\n"
                 "a upd 2\n"
                 "a del 2\n");
    ovs_assert(!find_udp(ct, 2));

    /* Last used just as long ago as the timeout is. */
    execute(ct, udp(6, false), &committing);
    execute(ct, udp(6, true), &committing);
    conn = find_udp(ct, 6);
    conn_expire(conn);
    a.last_used = now - BIDIR_MS;
    sweep(ct);
    CHECK_RECORD("a add 6\n"
                 "a est 6\n"
                 "a upd 6\n"
                 "a del 6\n");
    ovs_assert(!find_udp(ct, 6));

    /* Two at once, in the same list of conntrack, natively batched.  Here the
     * operator says that packets bypass software. */
    ct_offload_unregister(&a.class);
    conntrack_flush(ct, NULL);
    configure("hw-offload-ct-bypass", "true");
    recorder_register(&b, true);
    for (int i = 10; i <= 10 + N_EXP_LISTS; i++) {
        execute(ct, udp(i, false), &committing);
        execute(ct, udp(i, true), &committing);
    }
    conn_expire(find_udp(ct, 10));
    conn_expire(find_udp(ct, 10 + N_EXP_LISTS));
    ds_clear(&record);
    sweep(ct);
    BUILD_ASSERT_DECL(N_EXP_LISTS == 100);
    CHECK_RECORD("b batch 2\n"
                 "b upd 110\n"
                 "b upd 10\n"
                 "b batch 2\n"
                 "b del 110\n"
                 "b del 10\n");
    ovs_assert(ct_offload_conn_is_offloaded(find_udp(ct, 11)));
    conntrack_destroy(ct);
    ds_clear(&record);
    ct_offload_unregister(&b.class);
}

/* The same in real time, with a short timeout and conntrack's own sweep. */
static void
test_real_time(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct timeout_policy policy = {
        .policy.id = 1,
        .policy.present = 1u << CT_DPIF_TP_ATTR_TCP_ESTABLISHED,
        .policy.attrs[CT_DPIF_TP_ATTR_TCP_ESTABLISHED] = 2,
    };
    struct how committing_tp = { .commit = true, .tp_id = 1 };
    struct conntrack *ct = start_sweeping();
    uint32_t n;

    /* The first sweep is 20 s after the start, the others are as told. */
    conntrack_set_sweep_interval(ct, 100);
    ovs_assert(!timeout_policy_update(ct, &policy));
    a.class.may_bypass = true;
    recorder_register(&a, false);
    xsleep(21);

    now = time_msec();
    for (int client = 1; client <= 2; client++) {
        execute(ct, tcp(client, false, TCP_SYN, 100, 0), &committing_tp);
        execute(ct, tcp(client, true, TCP_SYN | TCP_ACK, 500, 111), &looking);
        execute(ct, tcp(client, false, TCP_ACK, 111, 511), &looking);
    }
    conntrack_get_nconns(ct, &n);
    ovs_assert(n == 2);

    /* Hardware sees packets of one of them, for three times as long as the
     * timeout. */
    atomic_store_relaxed(&touched_port, 1);
    xsleep(6);
    conntrack_get_nconns(ct, &n);
    ovs_assert(n == 1);

    /* Then it does not any more. */
    atomic_store_relaxed(&touched_port, 0);
    xsleep(3);
    conntrack_get_nconns(ct, &n);
    ovs_assert(n == 0);
    ct_offload_barrier();
    ct_offload_unregister(&a.class);
    ds_clear(&record);

    /* If software sees every packet, hardware is not even asked. */
    atomic_store_relaxed(&touched_port, 3);
    recorder_register(&b, false);
    now = time_msec();
    execute(ct, tcp(3, false, TCP_SYN, 100, 0), &committing_tp);
    execute(ct, tcp(3, true, TCP_SYN | TCP_ACK, 500, 111), &looking);
    execute(ct, tcp(3, false, TCP_ACK, 111, 511), &looking);
    xsleep(3);
    conntrack_get_nconns(ct, &n);
    ovs_assert(n == 0);
    ct_offload_barrier();
    CHECK_RECORD("b add 3\n"
                 "b est 3\n"
                 "b del 3\n");

    conntrack_destroy(ct);
    CHECK_RECORD("");
    ct_offload_unregister(&b.class);
}

/* Sends a packet from 'client' in original direction. */
static void
touch(struct conntrack *ct, uint16_t client)
{
    execute(ct, udp(client, false), &looking);
}

static void
test_eviction(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conntrack *ct = start();
    uint32_t mark[2] = { 5, UINT32_MAX };
    struct how marking = { .commit = true, .mark = mark };
    struct netdev *p1 = (struct netdev *) &p1;
    struct netdev *p2 = (struct netdev *) &p2;
    struct how from_p1 = { .commit = true, .netdev = p1 };
    struct how from_p2 = { .commit = true, .netdev = p2 };

    recorder_register(&a, false);

    /* The mark that a commit sets is part of the commit. */
    execute(ct, udp(1, false), &marking);
    execute(ct, udp(1, false), &marking);
    CHECK_RECORD("a add 1\n");

    /* Another mark later takes the connection back into software. */
    mark[0] = 6;
    execute(ct, udp(1, false), &marking);
    CHECK_RECORD("a del 1\n");

    /* It comes back after a sweep, with its next packet. */
    touch(ct, 1);
    CHECK_RECORD("");
    sweep(ct);
    CHECK_RECORD("");
    execute(ct, udp(1, true), &looking);
    CHECK_RECORD("");
    touch(ct, 1);
    touch(ct, 1);
    CHECK_RECORD("a add 1\n");
    execute(ct, udp(1, true), &looking);
    CHECK_RECORD("a est 1\n");
    conntrack_flush(ct, NULL);
    CHECK_RECORD("a del 1\n");

    /* Ports go: connections that have them on either side. */
    execute(ct, udp(1, false), &from_p1);
    execute(ct, udp(2, false), &from_p1);
    execute(ct, udp(2, true), &from_p2);
    execute(ct, udp(3, false), &from_p2);
    execute(ct, udp(4, false), &committing);
    ds_clear(&record);
    ct_offload_netdev_flush(p1);
    ovs_assert(!ct_offload_conn_is_offloaded(find_udp(ct, 1)));
    ovs_assert(!ct_offload_conn_is_offloaded(find_udp(ct, 2)));
    ovs_assert(ct_offload_conn_is_offloaded(find_udp(ct, 3)));
    ovs_assert(ct_offload_conn_is_offloaded(find_udp(ct, 4)));
    ct_offload_netdev_flush(p2);
    ovs_assert(!ct_offload_conn_is_offloaded(find_udp(ct, 3)));
    ovs_assert(ct_offload_conn_is_offloaded(find_udp(ct, 4)));
    ds_clear(&record);
    ct_offload_netdev_flush(p2);
    CHECK_RECORD("");
    conntrack_flush(ct, NULL);
    CHECK_RECORD("a del 4\n");

    /* Its packets may bypass software: it is taken back with its expiration up
     * to date.  A thread that looks for it has read that its time is up in
     * software when it goes back there. */
    ct_offload_unregister(&a.class);
    a.class.may_bypass = true;
    recorder_register(&a, false);
    ds_clear(&record);
    execute(ct, udp(5, false), &from_p1);
    execute(ct, udp(5, true), &from_p2);
    struct conn *conn = find_udp(ct, 5);
    long long int ms = time_msec();
    atomic_store_relaxed(&conn->expiration, ms);
    a.last_used = ms;
    ct_offload_netdev_flush(p1);
    CHECK_RECORD("a add 5\n"
                 "a est 5\n"
                 "a upd 5\n"
                 "a del 5\n");
    ovs_assert(conn_get_expiration(conn) == ms + BIDIR_MS);
    ovs_assert(conntrack_offload_alive(conn, ms));
    a.last_used = 0;
    conntrack_flush(ct, NULL);
    ct_offload_unregister(&a.class);
    a.class.may_bypass = false;
    recorder_register(&a, false);
    ds_clear(&record);

    /* A connection that could not be added, or is older than the provider. */
    a.add_error = ENOSPC;
    execute(ct, udp(1, false), &committing);
    a.add_error = 0;
    touch(ct, 1);
    CHECK_RECORD("a add-error 1\n");
    sweep(ct);
    touch(ct, 1);
    CHECK_RECORD("a add 1\n");
    ct_offload_unregister(&a.class);
    recorder_register(&a, false);
    touch(ct, 1);
    CHECK_RECORD("a del 1\n"
                 "a exit\n");
    sweep(ct);
    touch(ct, 1);
    CHECK_RECORD("a add 1\n");

    conntrack_destroy(ct);
    CHECK_RECORD("a del 1\n");
    ct_offload_unregister(&a.class);
}

/* Opens a TCP connection from 'client'. */
static void
tcp_open(struct conntrack *ct, uint16_t client)
{
    execute(ct, tcp(client, false, TCP_SYN, 100, 0), &committing);
    execute(ct, tcp(client, true, TCP_SYN | TCP_ACK, 500, 101), &looking);
    execute(ct, tcp(client, false, TCP_ACK, 101, 501), &looking);
}

/* What comes over it then: packets that show where it comes from. */
static void
tcp_established(struct conntrack *ct, uint16_t client)
{
    execute(ct, tcp(client, true, TCP_ACK, 501, 101), &looking);
    execute(ct, tcp(client, false, TCP_ACK, 101, 501), &looking);
    execute(ct, tcp(client, true, TCP_ACK, 501, 101), &looking);
}

/* Closes what tcp_open() has opened. */
static void
tcp_close(struct conntrack *ct, uint16_t client)
{
    execute(ct, tcp(client, false, TCP_FIN | TCP_ACK, 101, 501), &looking);
    execute(ct, tcp(client, true, TCP_FIN | TCP_ACK, 501, 102), &looking);
    execute(ct, tcp(client, false, TCP_ACK, 102, 502), &looking);
}

static void
test_config(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conntrack *ct = start();

    recorder_register(&a, false);

    /* Above the limit connections stay in software, and are tried again when
     * a sweep finds that there is room. */
    configure("hw-offload-ct-size", "2");
    for (int i = 1; i <= 4; i++) {
        execute(ct, udp(i, false), &committing);
    }
    CHECK_RECORD("a add 1\n"
                 "a add 2\n");
    struct conn *conn = find_udp(ct, 3);
    sweep(ct);
    ovs_assert(!(conn_offload_state(conn) & CONN_OFFLOAD_AWAIT_MASK));
    touch(ct, 3);
    CHECK_RECORD("");
    configure("hw-offload-ct-size", "3");
    touch(ct, 3);
    CHECK_RECORD("");
    sweep(ct);
    touch(ct, 3);
    touch(ct, 4);
    CHECK_RECORD("a add 3\n");

    /* Less room than is used already: nothing is taken back. */
    configure("hw-offload-ct-size", "1");
    CHECK_RECORD("");
    struct ct_offload_ctx c = { .conn = find_udp(ct, 4) };
    ovs_assert(ct_offload_conn_add(&c) == ENOSPC);

    /* Values that are not valid change nothing. */
    static const char *const bad_sizes[] = {
        "-1", "4294967296", "99999999999999999999", "1x", "", "many"
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad_sizes); i++) {
        configure("hw-offload-ct-size", bad_sizes[i]);
        ovs_assert(ct_offload_is_active());
        ovs_assert(ct_offload_conn_add(&c) == ENOSPC);
    }
    configure("hw-offload-ct", "maybe");
    ovs_assert(ct_offload_is_active());

    /* Off, and on again. */
    configure("hw-offload-ct", "false");
    ovs_assert(!ct_offload_is_active());
    ovs_assert(!ct_offload_conn_is_offloaded(find_udp(ct, 1)));
    ovs_assert(!ct_offload_conn_is_offloaded(find_udp(ct, 2)));
    ovs_assert(!ct_offload_conn_is_offloaded(find_udp(ct, 3)));
    ds_clear(&record);
    execute(ct, udp(5, false), &committing);
    sweep(ct);
    touch(ct, 1);
    ct_offload_conn_add(&c);
    CHECK_RECORD("");
    configure("hw-offload-ct", NULL);
    ovs_assert(ct_offload_is_active());
    touch(ct, 1);
    CHECK_RECORD("");
    sweep(ct);
    for (int i = 1; i <= 5; i++) {
        touch(ct, i);
    }
    CHECK_RECORD("a add 1\n"
                 "a add 2\n"
                 "a add 3\n"
                 "a add 4\n"
                 "a add 5\n");

    /* A size of 0 is off, too. */
    configure("hw-offload-ct-size", "0");
    ovs_assert(!ct_offload_is_active());
    ovs_assert(!ct_offload_conn_is_offloaded(find_udp(ct, 5)));
    ds_clear(&record);

    /* The last room is not for a connection that another one is about to take
     * the place of. */
    tcp_open(ct, 1);
    tcp_close(ct, 1);
    configure("hw-offload-ct-size", "1");
    ovs_assert(ct_offload_is_active());
    sweep(ct);
    execute(ct, tcp(1, false, TCP_SYN, 9000, 0), &committing);
    CHECK_RECORD("a add 1\n");
    configure("hw-offload-ct-size", NULL);

    conntrack_destroy(ct);
    ct_offload_unregister(&a.class);
}

static void
test_seq_chk(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conntrack *ct = start();
    uint32_t far = 101 + (1u << 30);

    /* Packets do not bypass software: sequence numbers are checked. */
    recorder_register(&a, false);
    tcp_open(ct, 1);
    ovs_assert(execute(ct, tcp(1, false, TCP_ACK, far, 501), &looking)
               & CS_INVALID);
    ct_offload_unregister(&a.class);

    /* They may: sequence numbers are checked until EST... */
    a.class.may_bypass = true;
    a.class.established_only = true;
    recorder_register(&a, false);
    tcp_open(ct, 2);
    ovs_assert(execute(ct, tcp(2, true, TCP_RST | TCP_ACK, far, 101),
                       &looking) & CS_INVALID);
    CHECK_RECORD("a add 1\n"
                 "a est 1\n"
                 "a del 1\n"
                 "a exit\n");
    tcp_established(ct, 2);
    ovs_assert(!(execute(ct, tcp(2, false, TCP_ACK, far, 501), &looking)
                 & CS_INVALID));

    /* ...and not any more, even when the connection is back in software. */
    ct_offload_unregister(&a.class);
    ovs_assert(!(execute(ct, tcp(2, true, TCP_ACK, far, 101), &looking)
                 & CS_INVALID));

    conntrack_destroy(ct);
}

/* Races: what happens while a provider is being called. */

static struct conntrack *race_ct;
static const char *race_op;
static pthread_t race_thread;
static bool race_joinable;

static void *
race_flush(void *aux OVS_UNUSED)
{
    conntrack_flush(race_ct, NULL);
    return NULL;
}

static void *
race_reply(void *aux OVS_UNUSED)
{
    execute(race_ct, udp(1, true), &looking);
    return NULL;
}

static void *
race_force(void *aux OVS_UNUSED)
{
    struct how forcing = { .commit = true, .force = true };

    execute(race_ct, udp(1, true), &forcing);
    return NULL;
}

static void *
race_mark(void *aux OVS_UNUSED)
{
    uint32_t mark[2] = { 7, UINT32_MAX };
    struct how marking = { .commit = true, .mark = mark };

    execute(race_ct, udp(1, false), &marking);
    return NULL;
}

static void *
race_labels(void *aux OVS_UNUSED)
{
    struct ovs_key_ct_labels labels[2] = { { { { 7 } } }, { { { 0xff } } } };
    struct how labelling = { .commit = true, .labels = labels };

    execute(race_ct, udp(1, false), &labelling);
    return NULL;
}

static void *
race_unregister(void *aux OVS_UNUSED)
{
    ct_offload_unregister(&a.class);
    return NULL;
}

static void *
race_netdev_flush(void *netdev)
{
    ct_offload_netdev_flush(netdev);
    ds_put_cstr(&record, "flushed\n");
    return NULL;
}

/* Starts 'race_main' in a thread from within the operation 'race_op', and has
 * it end if it can.  If it cannot, gives it time to begin, or waits for
 * 'race_begun', where the result depends on that. */
static void *(*race_main)(void *);
static void *race_aux;
static uint8_t (*race_begun)(void);

static void
race(const char *op)
{
    if (race_op && !strcmp(op, race_op)) {
        race_op = NULL;
        race_thread = ovs_thread_create("race", race_main, race_aux);
        if (race_joinable) {
            xpthread_join(race_thread, NULL);
        } else {
            do {
                xnanosleep_no_quiesce(20 * 1000 * 1000);
            } while (race_begun && !race_begun());
        }
    }
}

static void
race_prepare(const char *op, void *(*main_)(void *), void *aux, bool joinable)
{
    race_op = op;
    race_main = main_;
    race_aux = aux;
    race_joinable = joinable;
}

/* If the thread could not end within the operation, has it end now. */
static void
race_end(void)
{
    ovs_assert(!race_op);
    if (!race_joinable) {
        ovsrcu_quiesce_start();
        xpthread_join(race_thread, NULL);
        ovsrcu_quiesce_end();
    }
}

static void
test_races(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conntrack *ct = race_ct = start();
    struct netdev *port = (struct netdev *) &port;
    struct how from_port = { .commit = true, .netdev = port };
    struct dp_packet_batch batch;

    /* Only calls to a provider that is thread-safe can meet each other. */
    a.class.thread_safe = true;
    a.class.may_bypass = true;
    a.meanwhile = race;
    recorder_register(&a, false);

    /* Removal while ADD is running. */
    race_prepare("add", race_flush, NULL, true);
    execute(ct, udp(1, false), &committing);
    race_end();
    CHECK_RECORD("a add 1\n"
                 "a del 1\n");
    ovs_assert(!find_udp(ct, 1));

    /* Removal of all connections of a batch while the first one is added. */
    race_prepare("add", race_flush, NULL, true);
    dp_packet_batch_init_packet(&batch, udp(1, false));
    dp_packet_batch_add(&batch, udp(2, false));
    execute_batch(ct, &batch, &committing);
    race_end();
    CHECK_RECORD("a add 1\n"
                 "a add 2\n"
                 "a del 1\n"
                 "a del 2\n");

    /* Reply while ADD is running. */
    race_prepare("add", race_reply, NULL, true);
    execute(ct, udp(1, false), &committing);
    race_end();
    CHECK_RECORD("a add 1\n"
                 "a est 1\n");
    ovs_assert(ct_offload_conn_is_established(find_udp(ct, 1)));

    /* Removal while EST is running. */
    execute(ct, udp(2, false), &committing);
    race_prepare("est", race_flush, NULL, true);
    execute(ct, udp(2, true), &looking);
    race_end();
    CHECK_RECORD("a add 2\n"
                 "a del 1\n"
                 "a est 2\n"
                 "a del 2\n");

    /* Forced expiry while the sweep asks: the extension must not win, and the
     * successor waits for DEL. */
    execute(ct, udp(1, false), &committing);
    execute(ct, udp(1, true), &looking);
    struct conn *conn = find_udp(ct, 1);
    conn_expire(conn);
    a.last_used = now;
    race_prepare("upd", race_force, NULL, true);
    sweep(ct);
    race_end();
    ovs_assert(conn_get_expiration(conn) == 0);
    ovs_assert(!ct_offload_conn_is_offloaded(conn));
    CHECK_RECORD("a add 1\n"
                 "a est 1\n"
                 "a upd 1\n"
                 "a del 1\n");
    execute(ct, udp(1, true), &looking);
    CHECK_RECORD("a add 1000\n");
    conntrack_flush(ct, NULL);
    ds_clear(&record);

    /* The mark or the labels change while ADD is running. */
    race_prepare("add", race_mark, NULL, true);
    execute(ct, udp(1, false), &committing);
    race_end();
    CHECK_RECORD("a add 1\n"
                 "a del 1\n");
    ovs_assert(ct_offload_conn_get_mark(find_udp(ct, 1)) == 7);
    race_prepare("add", race_mark, NULL, true);
    sweep(ct);
    touch(ct, 1);
    race_end();
    CHECK_RECORD("a add 1\n");
    conntrack_flush(ct, NULL);
    ds_clear(&record);
    race_prepare("add", race_labels, NULL, true);
    execute(ct, udp(1, false), &committing);
    race_end();
    CHECK_RECORD("a add 1\n"
                 "a del 1\n");
    conntrack_flush(ct, NULL);
    ds_clear(&record);

    /* The port goes while ADD is running. */
    race_prepare("add", race_netdev_flush, port, false);
    execute(ct, udp(1, false), &from_port);
    race_end();
    CHECK_RECORD("a add 1\n"
                 "a del 1\n"
                 "flushed\n");

    /* The provider goes while ADD is running. */
    conntrack_flush(ct, NULL);
    race_prepare("add", race_unregister, NULL, false);
    race_begun = ct_offload_leaving;
    dp_packet_batch_init_packet(&batch, udp(1, false));
    dp_packet_batch_add(&batch, udp(2, false));
    execute_batch(ct, &batch, &committing);
    race_end();
    CHECK_RECORD("a add 1\n"
                 "a del 1\n"
                 "a exit\n");

    conntrack_destroy(ct);
    CHECK_RECORD("");
}

/* Two threads that commit the same tuple at once. */

enum { N_COMMITS = 2000 };
static struct ovs_barrier commit_barrier;

static void *
commit_thread(void *ct)
{
    for (int i = 0; i < N_COMMITS; i++) {
        ovs_barrier_block(&commit_barrier);
        execute(ct, udp(1, false), &committing);
        ovs_barrier_block(&commit_barrier);
        ovsrcu_quiesce();
    }
    return NULL;
}

static void
test_same_tuple(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conntrack *ct = start();
    const uint16_t zone = 0;
    pthread_t threads[2];

    ovs_assert(!ct_offload_dummy_register());
    ovs_barrier_init(&commit_barrier, ARRAY_SIZE(threads) + 1);
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
        threads[i] = ovs_thread_create("commit", commit_thread, ct);
    }
    for (int i = 0; i < N_COMMITS; i++) {
        ovs_barrier_block(&commit_barrier);
        ovs_barrier_block(&commit_barrier);
        ovs_assert(count_udp(ct, 1) == 1);
        ovs_assert(ct_offload_dummy_n_added() == i + 1);
        conntrack_flush(ct, &zone);
        ovs_assert(!ct_offload_dummy_n_held());
    }
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
        xpthread_join(threads[i], NULL);
    }
    ovs_barrier_destroy(&commit_barrier);
    ovs_assert(!ct_offload_dummy_n_misused());
    conntrack_destroy(ct);
    ct_offload_dummy_unregister();
}

/* Threads. */

struct worker {
    pthread_t thread;
    struct conntrack *ct;
    unsigned int seed;
};

enum { N_CLIENTS = 64, N_ROUNDS = 20000 };

static atomic_bool stop;

/* Sends random packets of few connections. */
static void *
packet_thread(void *worker_)
{
    struct worker *worker = worker_;
    unsigned int seed = worker->seed;

    for (int i = 0; i < N_ROUNDS; i++) {
        struct how how = { .commit = true, .force = !(rand_r(&seed) % 8) };
        struct dp_packet_batch batch;

        dp_packet_batch_init(&batch);
        for (int j = 0; j < 8; j++) {
            dp_packet_batch_add(&batch, udp(1 + rand_r(&seed) % N_CLIENTS,
                                            rand_r(&seed) % 2));
        }
        execute_batch(worker->ct, &batch, &how);
        ovsrcu_quiesce();
    }
    return NULL;
}

/* Flushes connections. */
static void *
flush_thread(void *worker_)
{
    struct worker *worker = worker_;
    bool stopping;

    do {
        uint16_t zone = 0;

        conntrack_flush(worker->ct, &zone);
        xnanosleep(50 * 1000);
        atomic_read_relaxed(&stop, &stopping);
    } while (!stopping);
    return NULL;
}

/* Checks that the dummy provider was used as it should, and holds nothing. */
static void
check_dummy(void)
{
    ovs_assert(!ct_offload_dummy_n_misused());
    ovs_assert(!ct_offload_dummy_n_held());
    ovs_assert(ct_offload_dummy_n_added() == ct_offload_dummy_n_deleted());
    ovs_assert(ct_offload_dummy_n_established()
               <= ct_offload_dummy_n_added());
}

static void
test_threads(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conntrack *ct = start();
    struct worker workers[5];
    unsigned int n_added = 0;

    ovs_assert(!ct_offload_dummy_register());
    for (size_t i = 0; i < ARRAY_SIZE(workers); i++) {
        workers[i].ct = ct;
        workers[i].seed = i;
        workers[i].thread = ovs_thread_create(i ? "packets" : "flush",
                                              i ? packet_thread
                                              : flush_thread, &workers[i]);
    }

    /* Providers come and go meanwhile. */
    for (int i = 0; i < 50; i++) {
        ct_offload_dummy_unregister();
        check_dummy();
        n_added += ct_offload_dummy_n_added();
        ovs_assert(!ct_offload_dummy_register());
        xnanosleep(2 * 1000 * 1000);
    }

    for (size_t i = 1; i < ARRAY_SIZE(workers); i++) {
        xpthread_join(workers[i].thread, NULL);
    }
    atomic_store_relaxed(&stop, true);
    xpthread_join(workers[0].thread, NULL);

    conntrack_destroy(ct);
    check_dummy();
    n_added += ct_offload_dummy_n_added();
    ovs_assert(n_added > N_CLIENTS);
    ct_offload_dummy_unregister();
}

/* Offload threads. */

static atomic_bool gate_closed = false;
static atomic_uint n_at_gate = 0;

/* For 'meanwhile': does not return while the gate is closed. */
static void
wait_at_gate(const char *op OVS_UNUSED)
{
    unsigned int orig;
    bool closed;

    atomic_add(&n_at_gate, 1, &orig);
    for (;;) {
        atomic_read(&gate_closed, &closed);
        if (!closed) {
            break;
        }
        xnanosleep_no_quiesce(100 * 1000);
    }
}

/* Closes the gate when nothing is going on any more.  Returns what
 * await_gate() needs. */
static unsigned int
close_gate(void)
{
    unsigned int before;

    ct_offload_barrier();
    ds_clear(&record);
    atomic_read(&n_at_gate, &before);
    atomic_store(&gate_closed, true);
    return before;
}

/* Waits until a provider hangs, after 'before' others did. */
static void
await_gate(unsigned int before)
{
    unsigned int n;

    do {
        xnanosleep_no_quiesce(100 * 1000);
        atomic_read(&n_at_gate, &n);
    } while (n == before);
}

/* Has a provider hang in ADD of the UDP connection from 'client'. */
static void
hang(struct conntrack *ct, uint16_t client)
{
    unsigned int before = close_gate();

    execute(ct, udp(client, false), &committing);
    await_gate(before);
}

static void
resume(void)
{
    atomic_store(&gate_closed, false);
    ct_offload_barrier();
}

static void
unregister_a(const char *op OVS_UNUSED)
{
    ct_offload_unregister(&a.class);
}

static unsigned int
n_offloaded(void)
{
    struct netdev_custom_stats stats;
    unsigned int n;

    ovs_assert(ct_offload_get_stats(&stats) == 1);
    n = stats.counters[0].value + stats.counters[1].value;
    free(stats.label);
    free(stats.counters);
    return n;
}

static void
test_offload_threads(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    enum { FIRST = 2000, N = CT_OFFLOAD_QUEUE_SIZE + 100 };
    struct how forcing = { .force = true, .commit = true };
    struct conntrack *ct = start();
    struct ct_offload_thread_stats stats;
    uint32_t n;

    ovs_assert(ct_offload_threads_start(1) == 1);
    a.meanwhile = wait_at_gate;
    recorder_register(&a, false);

    execute(ct, udp(1, false), &committing);
    execute(ct, udp(1, true), &looking);
    ct_offload_barrier();
    CHECK_RECORD("a add 1\n"
                 "a est 1\n");

    /* While the provider hangs, packets pass and a flush returns.  What is
     * removed before it was added is not added. */
    hang(ct, 2);
    execute(ct, udp(3, false), &committing);
    ovs_assert(find_udp(ct, 3));
    conntrack_flush(ct, NULL);
    conntrack_get_nconns(ct, &n);
    ovs_assert(!n);
    CHECK_RECORD("");
    resume();
    CHECK_RECORD("a add 2\n"
                 "a del 2\n"
                 "a del 1\n");

    /* The tuple is taken over: first DEL, then ADD. */
    execute(ct, udp(1, false), &committing);
    hang(ct, 2);
    execute(ct, udp(1, true), &forcing);
    resume();
    CHECK_RECORD("a add 2\n"
                 "a del 1\n"
                 "a add 1000\n");

    /* The queue is bounded. */
    conntrack_flush(ct, NULL);
    hang(ct, 2);
    for (int i = 0; i < N; i++) {
        execute(ct, udp(FIRST + i, false), &committing);
    }
    ct_offload_threads_get_stats(&stats);
    ovs_assert(stats.n_queued == CT_OFFLOAD_QUEUE_SIZE);
    conntrack_get_nconns(ct, &n);
    ovs_assert(n == N + 1);
    resume();
    ovs_assert(n_offloaded() == CT_OFFLOAD_QUEUE_SIZE);

    /* The others are offered again when a sweep has found room. */
    sweep(ct);
    touch(ct, FIRST + N - 1);
    ct_offload_barrier();
    ovs_assert(n_offloaded() == CT_OFFLOAD_QUEUE_SIZE + 1);

    /* Removals are not bounded by the queue. */
    hang(ct, 3);
    conntrack_flush(ct, NULL);
    ct_offload_threads_get_stats(&stats);
    ovs_assert(stats.n_queued > CT_OFFLOAD_QUEUE_SIZE);
    ovs_assert(n_offloaded() == CT_OFFLOAD_QUEUE_SIZE + 1);
    resume();
    ovs_assert(!n_offloaded());
    ds_clear(&record);

    /* A callback in an offload thread. */
    a.meanwhile = unregister_a;
    execute(ct, udp(1, false), &committing);
    ct_offload_barrier();
    a.meanwhile = NULL;
    CHECK_RECORD("a add 1\n");

    /* Without threads again. */
    ct_offload_threads_stop();
    ovs_assert(!ct_offload_n_threads());
    execute(ct, udp(2, false), &committing);
    CHECK_RECORD("a add 2\n");

    /* Several threads; destruction and unregistration wait for them. */
    ovs_assert(ct_offload_threads_start(CT_OFFLOAD_MAX_THREADS)
               == CT_OFFLOAD_MAX_THREADS);
    conntrack_destroy(ct);
    ovs_assert(!n_offloaded());
    ct_offload_unregister(&a.class);
    ct_offload_threads_stop();
}

/* Connections that lose a race against their removal, and those that take over
 * a tuple. */

/* 'conn', the tuple of which is that of 'udp(client)', has a packet in
 * original direction. */
static void
see_udp(struct conntrack *ct, struct conn *conn, uint16_t client)
{
    struct dp_packet *pkt = udp(client, false);
    const bool reply = false;

    conntrack_offload_conn_seen(ct, conn, pkt, &reply, CT_UPDATE_VALID);
    dp_packet_delete(pkt);
}

static void
test_removed(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conntrack *ct = start();
    struct how forcing = { .force = true, .commit = true };
    struct ct_offload_thread_stats before, after;
    struct conn *conn;
    uint32_t orig;

    execute(ct, udp(1, false), &committing);
    execute(ct, udp(2, false), &committing);
    a.meanwhile = wait_at_gate;
    recorder_register(&a, false);

    /* A sweep found that the connection could be offered once more, but it was
     * made to expire before the sweep wrote that down.  A thread has a packet
     * of it.  Nothing would end it if a provider held it. */
    conn = find_udp(ct, 2);
    execute(ct, udp(2, true), &forcing);
    atomic_or(&conn->offload_state, CONN_OFFLOAD_AWAIT_ORIG, &orig);
    see_udp(ct, conn, 2);
    CHECK_RECORD("a add 1000\n");

    ovs_assert(ct_offload_threads_start(1) == 1);
    hang(ct, 3);

    /* The same with one that was removed.  RCU frees it, so that no offload
     * thread may get it any more. */
    conn = find_udp(ct, 1);
    conntrack_flush(ct, NULL);
    atomic_or(&conn->offload_state, CONN_OFFLOAD_AWAIT_ORIG, &orig);
    ct_offload_threads_get_stats(&before);
    see_udp(ct, conn, 1);
    ct_offload_threads_get_stats(&after);
    ovs_assert(after.n_queued == before.n_queued);
    ovs_assert(!(conn_offload_state(conn) & CONN_OFFLOAD_BUSY));

    resume();
    CHECK_RECORD("a add 3\n"
                 "a del 3\n"
                 "a del 1000\n");
    conntrack_destroy(ct);
    ct_offload_unregister(&a.class);
    ct_offload_threads_stop();
}

/* Threads in which the operations on connections of a client were done. */
static struct ovs_mutex client_mutex = OVS_MUTEX_INITIALIZER;
static unsigned int client_threads[SERVER];
static unsigned int client_ops[SERVER];

static void
note_client(const struct ct_offload_ctx *ctx)
{
    unsigned int id = ovsthread_id_self();
    struct ct_dpif_tuple tuple;
    uint16_t client;

    ct_offload_conn_get_tuple(ctx->conn, false, &tuple);
    client = MIN(ntohs(tuple.src_port), ntohs(tuple.dst_port));
    ovs_mutex_lock(&client_mutex);
    if (!client_ops[client]++) {
        client_threads[client] = id;
    }
    ovs_assert(client_threads[client] == id);
    ovs_mutex_unlock(&client_mutex);
}

static int
client_add(const struct ct_offload_ctx *ctx)
{
    note_client(ctx);
    return 0;
}

static bool
client_can_offload(const struct ct_offload_ctx *ctx OVS_UNUSED)
{
    return true;
}

/* A connection that takes the place of another one, in either direction, goes
 * to the same thread: DEL and ADD are in order only there. */
static void
test_successors(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    static const struct ct_offload_class class = {
        .name = "clients",
        .thread_safe = true,
        .can_offload = client_can_offload,
        .conn_add = client_add,
        .conn_del = note_client,
    };
    struct how forcing = { .force = true, .commit = true };
    struct conntrack *ct = start();
    enum { N = 64 };

    ovs_assert(ct_offload_threads_start(4) == 4);
    ovs_assert(!ct_offload_register(&class));
    for (int i = 1; i <= N; i++) {
        execute(ct, udp(i, false), &committing);
    }
    ct_offload_barrier();
    for (int i = 1; i <= N; i++) {
        execute(ct, udp(i, true), &forcing);
    }
    ct_offload_barrier();
    for (int i = 1; i <= N; i++) {
        ovs_assert(client_ops[i] == 3);
    }
    conntrack_destroy(ct);
    ct_offload_unregister(&class);
    ct_offload_threads_stop();
}

static void *
barrier_thread(void *aux OVS_UNUSED)
{
    ct_offload_barrier();
    return NULL;
}

static void *
enter_thread(void *n_entered)
{
    conn_batch_leave(conn_batch_enter());
    atomic_count_inc(n_entered);
    return NULL;
}

/* A thread does not wait for a barrier with its first connection, nor when it
 * ends: it may have a lock that is wanted by a thread that the barrier waits
 * for. */
static void
test_barrier_first(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conn_offload_batch *batch = conn_batch_enter();
    atomic_count n_entered = ATOMIC_COUNT_INIT(0);
    pthread_t barrier, threads[20];

    barrier = ovs_thread_create("barrier", barrier_thread, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
        /* The barrier begins some time. */
        xnanosleep_no_quiesce(5 * 1000 * 1000);
        threads[i] = ovs_thread_create("enter", enter_thread, &n_entered);
    }
    for (int i = 0; i < 3000; i++) {
        if (atomic_count_get(&n_entered) == ARRAY_SIZE(threads)) {
            break;
        }
        xnanosleep_no_quiesce(10 * 1000 * 1000);
    }
    ovs_assert(atomic_count_get(&n_entered) == ARRAY_SIZE(threads));

    conn_batch_leave(batch);
    xpthread_join(barrier, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
        xpthread_join(threads[i], NULL);
    }
}

/* The address that clients have behind NAT. */
#define NAT_ADDR CONSTANT_HTONL(0x0a0000fe)

static const struct nat_action_info_t nat_clients = {
    .nat_action = NAT_ACTION_SRC,
    .min_addr.ipv4 = NAT_ADDR,
    .max_addr.ipv4 = NAT_ADDR,
};

/* A packet from the server to 'client' behind NAT. */
static struct dp_packet *
udp_behind_nat(uint16_t client)
{
    struct dp_packet *pkt = udp(client, true);
    struct ip_header *ip = dp_packet_l3(pkt);

    packet_set_ipv4(pkt, get_16aligned_be32(&ip->ip_src), NAT_ADDR,
                    ip->ip_tos, ip->ip_ttl);
    return pkt;
}

/* Order between connections, whatever threads they are in. */

static void *
race_commit(void *aux OVS_UNUSED)
{
    execute(race_ct, udp(1, false), &committing);
    return NULL;
}

static void *
race_commit_reverse(void *aux OVS_UNUSED)
{
    execute(race_ct, udp(1, true), &committing);
    return NULL;
}

/* Checks that 'before' was recorded, and that the connection of 'udp(1)' is
 * deleted then before its successor, with the tuple of 'udp(1, reverse)', is
 * added: by offload threads as soon as that is possible, without them with its
 * next packet. */
static void
check_succession(struct conntrack *ct, const char *before, bool reverse)
{
    const char *add = reverse ? "a add 1000\n" : "a add 1\n";
    bool at_once = ct_offload_n_threads() > 0;
    char *expected = xasprintf("%sa del 1\n%s", before, at_once ? add : "");

    ct_offload_barrier();
    check_record(expected, OVS_SOURCE_LOCATOR);
    free(expected);
    if (!at_once) {
        execute(ct, udp(1, reverse), &looking);
        check_record(add, OVS_SOURCE_LOCATOR);
    }
    conntrack_flush(ct, NULL);
    ct_offload_barrier();
    ds_clear(&record);
}

static void
test_order_threads(struct ovs_cmdl_context *ctx)
{
    unsigned int n_threads = atoi(ctx->argv[1]);
    struct conntrack *ct = race_ct = start();
    struct conn_offload_batch *batch;
    struct conn *conn;

    ovs_assert(ct_offload_threads_start(n_threads) == n_threads);
    a.class.thread_safe = true;
    a.class.may_bypass = true;
    a.meanwhile = race;
    recorder_register(&a, false);

    /* A thread flushes, and has removed the connection, but has told nobody.
     * Another one commits its tuple. */
    execute(ct, udp(1, false), &committing);
    ct_offload_barrier();
    CHECK_RECORD("a add 1\n");
    batch = conntrack_offload_begin(NULL);
    conntrack_flush(ct, NULL);
    in_thread(race_commit, NULL);
    ct_offload_threads_barrier(false);
    CHECK_RECORD("");
    conntrack_offload_end(batch);
    check_succession(ct, "", false);

    /* The same with one tuple. */
    struct ct_dpif_tuple tuple;
    execute(ct, udp(1, false), &committing);
    ct_offload_barrier();
    CHECK_RECORD("a add 1\n");
    ct_offload_conn_get_tuple(find_udp(ct, 1), false, &tuple);
    batch = conntrack_offload_begin(NULL);
    ovs_assert(!conntrack_flush_tuple(ct, &tuple, 0));
    in_thread(race_commit_reverse, NULL);
    ct_offload_threads_barrier(false);
    CHECK_RECORD("");
    conntrack_offload_end(batch);
    check_succession(ct, "", true);

    /* A thread has seen the first reply in a burst that goes on.  Another one
     * forces a commit in reply direction. */
    execute(ct, udp(1, false), &committing);
    ct_offload_barrier();
    CHECK_RECORD("a add 1\n");
    batch = conntrack_offload_begin(NULL);
    execute(ct, udp(1, true), &looking);
    in_thread(race_force, NULL);
    ct_offload_threads_barrier(false);
    CHECK_RECORD("");
    conntrack_offload_end(batch);
    check_succession(ct, "", true);

    /* The same, but the time of the first connection is up, and the other
     * thread commits the second one as if there were no other. */
    execute(ct, udp(1, false), &committing);
    ct_offload_barrier();
    CHECK_RECORD("a add 1\n");
    conn = find_udp(ct, 1);
    batch = conntrack_offload_begin(NULL);
    execute(ct, udp(1, true), &looking);
    conn_expire(conn);
    in_thread(race_commit_reverse, NULL);
    ct_offload_threads_barrier(false);
    CHECK_RECORD("");
    conntrack_offload_end(batch);
    check_succession(ct, "", true);

    /* The time of a connection is up, and NAT gives its tuple to another
     * one. */
    struct how nat = { .commit = true, .nat = &nat_clients };
    execute(ct, udp_behind_nat(1), &committing);
    ct_offload_barrier();
    CHECK_RECORD("a add 1000\n");
    conn_expire(find(ct, udp_behind_nat(1)));
    execute(ct, udp(1, false), &nat);
    ct_offload_barrier();
    CHECK_RECORD("a del 1000\n"
                 "a add 1\n");
    conntrack_flush(ct, NULL);
    ct_offload_barrier();
    ds_clear(&record);

    /* A sweep has the provider asked about a connection: meanwhile a thread
     * commits another one in its place. */
    execute(ct, udp(1, false), &committing);
    execute(ct, udp(1, true), &committing);
    ct_offload_barrier();
    CHECK_RECORD("a add 1\n"
                 "a est 1\n");
    conn_expire(find_udp(ct, 1));
    race_prepare("upd", race_force, NULL, true);
    sweep(ct);
    ct_offload_barrier();
    race_end();
    check_succession(ct, "a upd 1\n", true);

    conntrack_destroy(ct);
    ct_offload_unregister(&a.class);
    ct_offload_threads_stop();
}

/* A provider like hardware that has a table of exact tuples: two connections
 * with the same one must not meet in it. */

struct table_entry {
    struct hmap_node node;      /* In 'table', by 'tuple'. */
    struct ct_dpif_tuple tuple;
    const struct conn *conn;
};

static struct ovs_mutex table_mutex = OVS_MUTEX_INITIALIZER;
static struct hmap table OVS_GUARDED_BY(table_mutex)
    = HMAP_INITIALIZER(&table);
static atomic_uint n_table_adds;    /* That many ADDs. */

/* The client whose connection has the provider wait in EST. */
enum { SLOW_CLIENT = 999 };

static struct table_entry *
table_find(const struct ct_dpif_tuple *tuple)
    OVS_REQUIRES(table_mutex)
{
    struct table_entry *entry;

    HMAP_FOR_EACH_WITH_HASH (entry, node, hash_bytes(tuple, sizeof *tuple, 0),
                             &table) {
        if (!memcmp(&entry->tuple, tuple, sizeof *tuple)) {
            return entry;
        }
    }
    return NULL;
}

static bool
table_can_offload(const struct ct_offload_ctx *ctx OVS_UNUSED)
{
    return true;
}

static int
table_add(const struct ct_offload_ctx *ctx)
{
    unsigned int orig;

    ovs_mutex_lock(&table_mutex);
    for (int reply = 0; reply < 2; reply++) {
        struct table_entry *entry = xzalloc(sizeof *entry);

        ct_offload_conn_get_tuple(ctx->conn, reply, &entry->tuple);
        if (table_find(&entry->tuple)) {
            ovs_fatal(0, "connection was added before its predecessor was "
                      "deleted");
        }
        entry->conn = ctx->conn;
        hmap_insert(&table, &entry->node,
                    hash_bytes(&entry->tuple, sizeof entry->tuple, 0));
    }
    ovs_mutex_unlock(&table_mutex);
    atomic_add(&n_table_adds, 1, &orig);
    return 0;
}

static void
table_del(const struct ct_offload_ctx *ctx)
{
    ovs_mutex_lock(&table_mutex);
    for (int reply = 0; reply < 2; reply++) {
        struct ct_dpif_tuple tuple;
        struct table_entry *entry;

        ct_offload_conn_get_tuple(ctx->conn, reply, &tuple);
        entry = table_find(&tuple);
        ovs_assert(entry && entry->conn == ctx->conn);
        hmap_remove(&table, &entry->node);
        free(entry);
    }
    ovs_mutex_unlock(&table_mutex);
}

static int
table_est(const struct ct_offload_ctx *ctx)
{
    if (conn_port(ctx->conn) == SLOW_CLIENT) {
        wait_at_gate("est");
    }
    return 0;
}

static bool
table_is_empty(void)
{
    bool empty;

    ovs_mutex_lock(&table_mutex);
    empty = hmap_is_empty(&table);
    ovs_mutex_unlock(&table_mutex);
    return empty;
}

static const struct ct_offload_class table_class = {
    .name = "table",
    .thread_safe = true,
    .can_offload = table_can_offload,
    .conn_add = table_add,
    .conn_del = table_del,
    .conn_established = table_est,
};

static unsigned int
count_offloaded(struct conn *conns[], size_t n)
{
    unsigned int n_held = 0;

    for (size_t i = 0; i < n; i++) {
        n_held += ct_offload_conn_is_offloaded(conns[i]);
    }
    return n_held;
}

/* Connections with NAT, and others that have the translated tuple, go to two
 * offload threads.  One of these is slow. */
static void
check_order_nat(struct conntrack *ct, bool flush)
{
    enum { N = 64 };
    struct how nat = { .commit = true, .nat = &nat_clients };
    struct how successor = { .commit = true, .force = !flush };
    struct conn *conns[N], *others[N];
    unsigned int before;

    for (int i = 1; i <= N; i++) {
        execute(ct, udp(i, false), &nat);
    }
    execute(ct, udp(SLOW_CLIENT, false), &committing);
    before = close_gate();
    execute(ct, udp(SLOW_CLIENT, true), &looking);
    await_gate(before);

    if (flush) {
        conntrack_flush(ct, NULL);
    }
    for (int i = 1; i <= N; i++) {
        execute(ct, udp_behind_nat(i), &successor);
        conns[i - 1] = find(ct, udp_behind_nat(i));
    }

    /* When the other thread has added any of these, it has seen to all that
     * was queued for it before. */
    for (int i = 0; i < N; i++) {
        execute(ct, udp(2 * N + i, false), &committing);
        others[i] = find_udp(ct, 2 * N + i);
    }
    do {
        xnanosleep_no_quiesce(100 * 1000);
    } while (!count_offloaded(others, N));
    ovs_assert(count_offloaded(conns, N) < N);

    atomic_store(&gate_closed, false);
    ct_offload_threads_barrier(false);
    ovs_assert(count_offloaded(conns, N) == N);
    conntrack_flush(ct, NULL);
    ct_offload_barrier();
    ovs_assert(table_is_empty());
}

static void
test_order_nat(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conntrack *ct = start();

    ovs_assert(ct_offload_threads_start(2) == 2);
    ovs_assert(!ct_offload_register(&table_class));
    check_order_nat(ct, false);
    check_order_nat(ct, true);
    conntrack_destroy(ct);
    ct_offload_unregister(&table_class);
    ct_offload_threads_stop();
}

/* Threads commit few tuples, in both directions, with and without NAT, by
 * force or not, while another one flushes: no two connections with the same
 * tuple ever meet in hardware. */
static void *
table_thread(void *worker_)
{
    enum { N = 8 };
    struct worker *worker = worker_;
    unsigned int seed = worker->seed;

    for (int i = 0; i < N_ROUNDS; i++) {
        struct how how = { .commit = true, .force = !(rand_r(&seed) % 4) };
        struct dp_packet_batch batch;

        if (rand_r(&seed) % 2) {
            how.nat = &nat_clients;
        }
        dp_packet_batch_init(&batch);
        for (int j = 0; j < 8; j++) {
            uint16_t client = 1 + rand_r(&seed) % N;

            dp_packet_batch_add(&batch, (rand_r(&seed) % 2
                                         ? udp(client, false)
                                         : udp_behind_nat(client)));
        }
        execute_batch(worker->ct, &batch, &how);
        ovsrcu_quiesce();
    }
    return NULL;
}

static void
test_order_stress(struct ovs_cmdl_context *ctx)
{
    unsigned int n_threads = atoi(ctx->argv[1]);
    struct conntrack *ct = start();
    struct worker workers[4];
    unsigned int n;

    ovs_assert(ct_offload_threads_start(n_threads) == n_threads);
    ovs_assert(!ct_offload_register(&table_class));
    for (size_t i = 0; i < ARRAY_SIZE(workers); i++) {
        workers[i].ct = ct;
        workers[i].seed = i;
        workers[i].thread = ovs_thread_create(i ? "packets" : "flush",
                                              i ? table_thread
                                              : flush_thread, &workers[i]);
    }
    ovsrcu_quiesce_start();
    for (size_t i = 1; i < ARRAY_SIZE(workers); i++) {
        xpthread_join(workers[i].thread, NULL);
    }
    atomic_store_relaxed(&stop, true);
    xpthread_join(workers[0].thread, NULL);
    ovsrcu_quiesce_end();

    conntrack_destroy(ct);
    ct_offload_barrier();
    ovs_assert(table_is_empty());
    atomic_read(&n_table_adds, &n);
    ovs_assert(n > 1000);
    ct_offload_unregister(&table_class);
    ct_offload_threads_stop();
}

/* A connection that is in use in hardware, but not in software, has a rival
 * with one of its tuples: it goes on. */
static void
test_rival(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct how nat = { .commit = true, .nat = &nat_clients };
    struct conntrack *ct = start();
    struct dp_packet *pkt;
    struct ip_header *ip;
    struct conn *conn;

    a.class.may_bypass = true;
    recorder_register(&a, false);
    execute(ct, udp(1, false), &nat);
    conn = find(ct, udp_behind_nat(1));
    execute(ct, udp_behind_nat(1), &looking);
    CHECK_RECORD("a add 1\n"
                 "a est 1\n");
    atomic_store_relaxed(&conn->expiration, now);

    pkt = udp(1, false);
    ip = dp_packet_l3(pkt);
    packet_set_ipv4(pkt, NAT_ADDR, get_16aligned_be32(&ip->ip_dst),
                    ip->ip_tos, ip->ip_ttl);
    execute(ct, pkt, &committing);
    CHECK_RECORD("");
    ovs_assert(ct_offload_conn_is_offloaded(conn));

    /* One whose time is up before EST does not come to life by that. */
    struct ct_offload_ctx c = { .input_port_id = u32_to_odp(1) };
    conntrack_flush(ct, NULL);
    ds_clear(&record);
    execute(ct, udp(2, false), &committing);
    conn = find_udp(ct, 2);
    atomic_store_relaxed(&conn->expiration, now);
    c.conn = conn;
    ct_offload_conn_established(&c);
    CHECK_RECORD("a add 2\n");
    ovs_assert(!conntrack_offload_alive(conn, now));

    conntrack_destroy(ct);
    ct_offload_unregister(&a.class);
}

/* Established connections only. */

/* Sends what it takes for the UDP connection from 'client' to be offered to a
 * provider that wants established connections: packets of both directions, and
 * the same once more. */
static void
udp_established(struct conntrack *ct, uint16_t client)
{
    for (int i = 0; i < 2; i++) {
        execute(ct, udp(client, false), &committing);
        execute(ct, udp(client, true), &looking);
    }
}

static void
test_established_only(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    enum { SIZE = 50, N_FLOOD = 200 };
    struct conntrack *ct = start();
    struct conn_offload_batch *batch;
    struct conn *conn;

    a.class.established_only = true;
    recorder_register(&a, false);
    configure("hw-offload-ct-size", "50");

    /* ADD and EST come with the fourth packet of a UDP connection.  Until the
     * third one it has no block, and takes no room, not even for the time of a
     * burst. */
    batch = conntrack_offload_begin(NULL);
    execute(ct, udp(1, false), &committing);
    ovs_assert(!conn_get_offload(find_udp(ct, 1)));
    conntrack_offload_end(batch);
    execute(ct, udp(1, false), &committing);
    execute(ct, udp(1, true), &looking);
    execute(ct, udp(1, true), &looking);
    conn = find(ct, udp(1, true));
    ovs_assert(!conn_get_offload(conn));
    execute(ct, udp(1, false), &looking);
    ovs_assert(conn_get_offload(conn));
    CHECK_RECORD("");
    execute(ct, udp(1, true), &looking);
    CHECK_RECORD("a add 1\n"
                 "a est 1\n");
    udp_established(ct, 1);
    CHECK_RECORD("");

    /* TCP: when both peers are established, after one more of each. */
    tcp_open(ct, 2);
    conn = find(ct, tcp(2, false, TCP_ACK, 101, 501));
    ovs_assert(!conn_get_offload(conn));
    execute(ct, tcp(2, true, TCP_ACK, 501, 101), &looking);
    ovs_assert(!conn_get_offload(conn));
    execute(ct, tcp(2, false, TCP_ACK, 101, 501), &looking);
    CHECK_RECORD("");
    execute(ct, tcp(2, true, TCP_ACK, 501, 101), &looking);
    CHECK_RECORD("a add 2\n"
                 "a est 2\n");

    /* An ADD from outside is for those that want any connection. */
    struct ct_offload_ctx c = { .input_port_id = u32_to_odp(1) };
    execute(ct, udp(3, false), &committing);
    c.conn = find_udp(ct, 3);
    ovs_assert(!ct_offload_conn_add(&c));
    ovs_assert(!ct_offload_conn_is_offloaded(c.conn));
    ovs_assert(!conn_get_offload(c.conn));
    CHECK_RECORD("");

    conntrack_flush(ct, NULL);
    ovs_assert(!n_offloaded());
    ds_clear(&record);

    /* Floods of SYNs, answered or not, and of datagrams that nobody answers
     * take nothing, even if sweeps look at these connections. */
    for (int i = 1; i <= N_FLOOD; i++) {
        execute(ct, tcp(i, false, TCP_SYN, 100, 0), &committing);
        execute(ct, tcp(N_FLOOD + i, false, TCP_SYN, 100, 0), &committing);
        execute(ct, tcp(N_FLOOD + i, true, TCP_SYN | TCP_ACK, 500, 101),
                &looking);
        execute(ct, udp(i, false), &committing);
    }
    sweep(ct);
    for (int i = 1; i <= N_FLOOD; i++) {
        execute(ct, tcp(i, false, TCP_SYN, 100, 0), &committing);
        execute(ct, tcp(N_FLOOD + i, false, TCP_SYN, 100, 0), &committing);
        execute(ct, tcp(N_FLOOD + i, true, TCP_SYN | TCP_ACK, 500, 101),
                &looking);
        execute(ct, udp(i, false), &committing);
        ovs_assert(!conn_get_offload(find_udp(ct, i)));
    }
    CHECK_RECORD("");

    /* All of the room is there for connections that matter, and no more. */
    for (int i = 1; i <= SIZE + 1; i++) {
        udp_established(ct, 2 * N_FLOOD + i);
    }
    ovs_assert(n_offloaded() == SIZE);
    ds_clear(&record);

    conntrack_destroy(ct);
    ct_offload_unregister(&a.class);
}

/* Connections that have an owner. */

static void *
owner_reply(void *ct)
{
    execute(ct, udp(1, true), &looking);
    return NULL;
}

static void
test_owner(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct ct_offload_ctx side = { .input_port_id = u32_to_odp(1) };
    struct conntrack *ct = start();
    struct conn_offload_batch *batch;
    struct conn_offload *offload;
    struct conn probe, *conn;
    uint32_t port;

    a.class.established_only = true;
    recorder_register(&a, false);
    configure("hw-offload-ct-size", "1");

    /* A packet that raises nothing does not keep another thread from making an
     * offer until the end of its burst. */
    execute(ct, udp(1, false), &committing);
    execute(ct, udp(1, true), &looking);
    batch = conntrack_offload_begin(NULL);
    execute(ct, udp(1, false), &looking);
    in_thread(owner_reply, ct);
    CHECK_RECORD("a add 1\n"
                 "a est 1\n");
    conntrack_offload_end(batch);
    conntrack_flush(ct, NULL);
    CHECK_RECORD("a del 1\n");

    /* What has a block, but is not held, does not keep the room until RCU
     * frees it. */
    execute(ct, udp(1, false), &committing);
    execute(ct, udp(1, true), &looking);
    execute(ct, udp(1, false), &looking);
    ovs_assert(!ct_offload_room_is_left());
    conntrack_flush(ct, NULL);
    ovs_assert(ct_offload_room_is_left());

    /* The first of two threads tells where packets come from, also if both of
     * them see that this is not known. */
    execute(ct, udp(1, false), &committing);
    execute(ct, udp(1, true), &looking);
    execute(ct, udp(1, false), &looking);
    offload = conn_get_offload(find_udp(ct, 1));
    conn_side_set(offload, CT_DIR_REV, 5, &side);
    conn_side_set(offload, CT_DIR_REV, 6, &side);
    ovs_assert(conn_side_get(offload, CT_DIR_REV, &side, &port) && port == 5);
    conntrack_flush(ct, NULL);
    ct_offload_unregister(&a.class);
    CHECK_RECORD("a exit\n");
    a.class.established_only = false;

    /* One provider holds a connection, and another one has to wait for a
     * predecessor: the first one can be unregistered meanwhile. */
    ovs_assert(ct_offload_threads_start(1) == 1);
    recorder_register(&a, false);
    execute(ct, udp(1, false), &committing);
    ct_offload_barrier();
    CHECK_RECORD("a add 1\n");
    recorder_register(&b, false);
    conn = find_udp(ct, 1);
    memset(&probe, 0, sizeof probe);
    for (int dir = 0; dir < CT_DIRS; dir++) {
        probe.key_node[dir].key = conn->key_node[dir].key;
    }
    atomic_init(&probe.offload_state, 1 << CONN_OFFLOAD_HELD_SHIFT);
    conn_doom(&probe);
    sweep(ct);
    execute(ct, udp(1, false), &looking);
    ct_offload_unregister(&a.class);
    CHECK_RECORD("a del 1\n"
                 "a exit\n");
    conn_undoom(&probe);
    ct_offload_barrier();
    CHECK_RECORD("b add 1\n");

    conntrack_destroy(ct);
    ct_offload_barrier();
    CHECK_RECORD("b del 1\n");
    ct_offload_unregister(&b.class);
    ct_offload_threads_stop();
}

/* EST fails: nothing says that a connection is in hardware that is not. */
static void
check_not_offloaded(struct conntrack *ct, uint16_t client)
{
    const struct conn *conn = find(ct, udp(client, true));

    ovs_assert(!ct_offload_conn_is_offloaded(conn));
    ovs_assert(!ct_offload_conn_is_established(conn));
    ovs_assert(!conntrack_offload_conn_status(conn));
    ovs_assert(!conn_get_offload(conn));
}

static void
test_est_error(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conntrack *ct = start();
    struct ct_offload_stats sum;
    struct dp_packet_batch batch;

    configure("hw-offload-ct-size", "1");
    a.class.may_bypass = true;
    recorder_register(&a, false);
    a.est_error = ENOSPC;

    execute(ct, udp(1, false), &committing);
    ovs_assert(n_offloaded() == 1);
    execute(ct, udp(1, true), &looking);
    CHECK_RECORD("a add 1\n"
                 "a est-error 1\n");
    check_not_offloaded(ct, 1);
    ovs_assert(!n_offloaded());
    ovs_assert(n_reason(CT_OFFLOAD_ERROR) == 1);
    ct_offload_stats_sum(&sum);
    ovs_assert(ct_offload_stats_read(&sum.ops[0][CT_OFFLOAD_OP_EST].errors)
               == 1);

    /* Its packets do not bypass software. */
    struct conn *conn = find_udp(ct, 1);
    long long int t = conn_get_expiration(conn);
    conn_expire(conn);
    ovs_assert(!find_udp(ct, 1));
    atomic_store_relaxed(&conn->expiration, t);

    /* It has no room any more, and is not offered again before a sweep. */
    execute(ct, udp(1, false), &looking);
    execute(ct, udp(1, true), &looking);
    CHECK_RECORD("");
    execute(ct, udp(2, false), &committing);
    CHECK_RECORD("a add 2\n");
    conntrack_offload_conn_forced(find_udp(ct, 2));
    CHECK_RECORD("a del 2\n");
    a.est_error = 0;
    sweep(ct);
    execute(ct, udp(1, false), &looking);
    execute(ct, udp(1, true), &looking);
    CHECK_RECORD("a add 1\n"
                 "a est 1\n");
    ovs_assert(conntrack_offload_conn_status(conn)
               == (CT_DPIF_STATUS_OFFLOAD | CT_DPIF_STATUS_HW_OFFLOAD));
    conntrack_flush(ct, NULL);
    ds_clear(&record);

    /* Two at once, in a native batch of another provider.  What the first one
     * holds stays there. */
    configure("hw-offload-ct-size", NULL);
    recorder_register(&b, true);
    b.est_error = EIO;
    dp_packet_batch_init_packet(&batch, udp(1, false));
    dp_packet_batch_add(&batch, udp(2, false));
    execute_batch(ct, &batch, &committing);
    ds_clear(&record);
    dp_packet_batch_init_packet(&batch, udp(1, true));
    dp_packet_batch_add(&batch, udp(2, true));
    execute_batch(ct, &batch, &looking);
    CHECK_RECORD("a est 1\n"
                 "a est 2\n"
                 "b batch 2\n"
                 "b est-error 1\n"
                 "b est-error 2\n");
    ovs_assert(ct_offload_conn_is_established(find(ct, udp(1, true))));
    ovs_assert(ct_offload_conn_is_established(find(ct, udp(2, true))));
    ovs_assert(n_offloaded() == 2);

    /* The other one is offered it again. */
    b.est_error = 0;
    touch(ct, 1);
    CHECK_RECORD("");
    sweep(ct);
    touch(ct, 1);
    CHECK_RECORD("b add 1\n"
                 "b est 1\n");
    conntrack_flush(ct, NULL);
    ovs_assert(!n_offloaded());
    ct_offload_unregister(&a.class);
    ct_offload_unregister(&b.class);

    /* Established only: ADD succeeds, EST fails. */
    a.class.established_only = true;
    recorder_register(&a, false);
    ds_clear(&record);
    a.est_error = ENOSPC;
    udp_established(ct, 3);
    CHECK_RECORD("a add 3\n"
                 "a est-error 3\n");
    check_not_offloaded(ct, 3);
    udp_established(ct, 3);
    CHECK_RECORD("");
    a.est_error = 0;
    sweep(ct);
    udp_established(ct, 3);
    CHECK_RECORD("a add 3\n"
                 "a est 3\n");

    conntrack_destroy(ct);
    ct_offload_unregister(&a.class);
}

/* What a connection's packets look like is learned again. */

/* Makes 'pkt' one that was received with a tag. */
static struct dp_packet *
with_vlan(struct dp_packet *pkt, uint16_t tci)
{
    eth_push_vlan(pkt, htons(ETH_TYPE_VLAN_8021Q), htons(tci));
    ct_offload_wire_receive(pkt, true);
    return pkt;
}

/* Makes 'pkt' one that was put together from fragments. */
static struct dp_packet *
reassembled(struct dp_packet *pkt)
{
    pkt->md.ct_wire = 0;
    return pkt;
}

/* Makes 'pkt' one that was not like that when it was received. */
static struct dp_packet *
rewritten(struct dp_packet *pkt)
{
    pkt->md.ct_wire = pkt->md.ct_wire == 1 ? 2 : 1;
    return pkt;
}

static void
test_learn(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conntrack *ct = start();
    struct netdev *p1 = (struct netdev *) &p1;
    struct netdev *p2 = (struct netdev *) &p2;
    struct netdev *p3 = (struct netdev *) &p3;
    struct how from_p1 = { .commit = true, .netdev = p1 };
    struct how from_p2 = { .commit = true, .netdev = p2 };
    struct how from_p3 = { .commit = true, .netdev = p3 };

    recorder_register(&a, false);
    execute(ct, udp(1, false), &from_p1);
    execute(ct, udp(1, true), &from_p2);
    CHECK_RECORD("a add 1\n"
                 "a est 1\n");
    ovs_assert(a.add.netdev_in == p1 && a.add.unmodified);
    ovs_assert(a.est.netdev_in == p2 && a.est.unmodified);
    ovs_assert(a.add.vlan == CT_OFFLOAD_VLAN_NONE);

    /* Work is bounded by the sweeps: each arms one look at a direction, which
     * changes nothing if all is as it was. */
    execute(ct, udp(1, true), &from_p3);
    CHECK_RECORD("");
    sweep(ct);
    execute(ct, udp(1, false), &from_p1);
    execute(ct, udp(1, true), &from_p2);
    execute(ct, udp(1, true), &from_p3);
    CHECK_RECORD("");

    /* The server has moved: the connection is taken back, and offered again
     * after another sweep, from where it is now. */
    sweep(ct);
    execute(ct, udp(1, true), &from_p3);
    CHECK_RECORD("a del 1\n");
    execute(ct, udp(1, false), &from_p1);
    execute(ct, udp(1, true), &from_p3);
    CHECK_RECORD("");
    sweep(ct);
    execute(ct, udp(1, false), &from_p1);
    execute(ct, udp(1, true), &from_p3);
    CHECK_RECORD("a add 1\n"
                 "a est 1\n");
    ovs_assert(a.add.netdev_in == p1 && a.est.netdev_in == p3);
    ct_offload_netdev_flush(p2);
    CHECK_RECORD("");

    /* So has the client. */
    sweep(ct);
    execute(ct, udp(1, false), &from_p2);
    CHECK_RECORD("a del 1\n");
    sweep(ct);
    execute(ct, udp(1, false), &from_p2);
    execute(ct, udp(1, true), &from_p3);
    CHECK_RECORD("a add 1\n"
                 "a est 1\n");
    ovs_assert(a.add.netdev_in == p2 && a.est.netdev_in == p3);

    /* Another VLAN; another priority is the same VLAN. */
    sweep(ct);
    execute(ct, with_vlan(udp(1, false), 5), &from_p2);
    CHECK_RECORD("a del 1\n");
    sweep(ct);
    execute(ct, with_vlan(udp(1, false), 5), &from_p2);
    CHECK_RECORD("a add 1\n");
    ovs_assert(a.add.vlan == CT_OFFLOAD_VLAN_TAG);
    ovs_assert(a.add.vlan_tci == htons(5));
    sweep(ct);
    execute(ct, with_vlan(udp(1, false), 5 | 1 << VLAN_PCP_SHIFT), &from_p2);
    CHECK_RECORD("");
    sweep(ct);
    execute(ct, with_vlan(udp(1, false), 6), &from_p2);
    CHECK_RECORD("a del 1\n");
    conntrack_flush(ct, NULL);

    /* The first reply comes in fragments, so that its port is not known.  A
     * whole one tells more; fragments after that tell nothing new. */
    execute(ct, udp(1, false), &from_p1);
    execute(ct, reassembled(udp(1, true)), &from_p2);
    CHECK_RECORD("a add 1\n"
                 "a est 1\n");
    ovs_assert(!a.est.netdev_in && !a.est.unmodified);
    sweep(ct);
    execute(ct, reassembled(udp(1, true)), &from_p2);
    CHECK_RECORD("");
    sweep(ct);
    execute(ct, udp(1, true), &from_p2);
    CHECK_RECORD("a del 1\n");
    sweep(ct);
    execute(ct, udp(1, false), &from_p1);
    execute(ct, udp(1, true), &from_p2);
    CHECK_RECORD("a add 1\n"
                 "a est 1\n");
    ovs_assert(a.est.netdev_in == p2 && a.est.unmodified);
    sweep(ct);
    execute(ct, reassembled(udp(1, true)), &from_p2);
    CHECK_RECORD("");
    conntrack_flush(ct, NULL);
    ds_clear(&record);

    /* The first packet was not what its port had received, a later one is; a
     * direction that is on the wire is not taken back for one that is not. */
    execute(ct, rewritten(udp(1, false)), &from_p1);
    ovs_assert(a.add.netdev_in == p1 && !a.add.unmodified);
    sweep(ct);
    execute(ct, udp(1, false), &from_p1);
    CHECK_RECORD("a add 1\n"
                 "a del 1\n");
    sweep(ct);
    execute(ct, udp(1, false), &from_p1);
    ovs_assert(a.add.netdev_in == p1 && a.add.unmodified);
    sweep(ct);
    execute(ct, rewritten(udp(1, false)), &from_p1);
    CHECK_RECORD("a add 1\n");

    conntrack_destroy(ct);
    ct_offload_unregister(&a.class);
}

/* What belongs to each provider is decided per provider. */
static void
test_side_by_side(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conntrack *ct = start();
    struct netdev *p1 = (struct netdev *) &p1;
    struct netdev *p2 = (struct netdev *) &p2;
    struct how from_p1 = { .commit = true, .netdev = p1 };
    struct how from_p2 = { .commit = true, .netdev = p2 };

    /* A second provider gets what the first one holds already, after a sweep,
     * and the first one does not get it again. */
    recorder_register(&a, false);
    execute(ct, udp(1, false), &from_p1);
    execute(ct, udp(1, true), &from_p2);
    execute(ct, udp(2, false), &from_p1);
    recorder_register(&b, false);
    execute(ct, udp(1, false), &from_p1);
    execute(ct, udp(1, true), &from_p2);
    CHECK_RECORD("a add 1\n"
                 "a est 1\n"
                 "a add 2\n");
    sweep(ct);
    execute(ct, udp(1, false), &from_p1);
    CHECK_RECORD("b add 1\n"
                 "b est 1\n");
    ovs_assert(b.add.netdev_in == p1 && b.est.netdev_in == p2);
    execute(ct, udp(1, true), &from_p2);
    execute(ct, udp(2, false), &from_p1);
    CHECK_RECORD("b add 2\n");
    execute(ct, udp(2, true), &from_p2);
    CHECK_RECORD("a est 2\n"
                 "b est 2\n");
    sweep(ct);
    execute(ct, udp(1, false), &from_p1);
    execute(ct, udp(1, true), &from_p2);
    CHECK_RECORD("");
    ovs_assert(n_offloaded() == 2);
    conntrack_flush(ct, NULL);
    ovs_assert(!n_offloaded());
    ds_clear(&record);

    /* One provider fails: the other one goes on, and the connection is tried
     * again with the one that failed, which finds its own pointer NULL. */
    a.add_error = ENOSPC;
    execute(ct, udp(1, false), &from_p1);
    CHECK_RECORD("a add-error 1\n"
                 "b add 1\n");
    execute(ct, udp(1, false), &from_p1);
    CHECK_RECORD("");
    sweep(ct);
    execute(ct, udp(1, false), &from_p1);
    CHECK_RECORD("a add-error 1\n");
    execute(ct, udp(1, false), &from_p1);
    CHECK_RECORD("");
    a.add_error = 0;
    execute(ct, udp(1, true), &from_p2);
    CHECK_RECORD("b est 1\n");
    sweep(ct);
    execute(ct, udp(1, false), &from_p1);
    CHECK_RECORD("a add 1\n"
                 "a est 1\n");
    conntrack_flush(ct, NULL);
    ds_clear(&record);

    /* The same when it is established already. */
    a.add_error = ENOSPC;
    execute(ct, udp(1, false), &from_p1);
    execute(ct, udp(1, true), &from_p2);
    ovs_assert(ct_offload_conn_is_established(find_udp(ct, 1)));
    ds_clear(&record);
    a.add_error = 0;
    execute(ct, udp(1, false), &from_p1);
    execute(ct, udp(1, true), &from_p2);
    CHECK_RECORD("");
    sweep(ct);
    execute(ct, udp(1, false), &from_p1);
    CHECK_RECORD("a add 1\n"
                 "a est 1\n");

    /* One refuses. */
    b.refuse = true;
    execute(ct, udp(3, false), &from_p1);
    execute(ct, udp(3, true), &from_p2);
    CHECK_RECORD("a add 3\n"
                 "a est 3\n");
    b.refuse = false;
    sweep(ct);
    execute(ct, udp(3, false), &from_p1);
    CHECK_RECORD("b add 3\n"
                 "b est 3\n");
    conntrack_flush(ct, NULL);
    ds_clear(&record);

    /* Of two errors the first one is told. */
    struct ct_offload_ctx c = { .conn = NULL };
    a.refuse = b.refuse = true;
    execute(ct, udp(4, false), &committing);
    a.refuse = b.refuse = false;
    c.conn = find_udp(ct, 4);
    a.add_error = EIO;
    b.add_error = ENOSPC;
    ovs_assert(ct_offload_conn_add(&c) == EIO);
    a.add_error = 0;
    ovs_assert(ct_offload_conn_add(&c) == ENOSPC);
    CHECK_RECORD("a add-error 4\n"
                 "b add-error 4\n"
                 "a add 4\n"
                 "b add-error 4\n");
    b.add_error = 0;

    /* Some may bypass software, for one of them it does not matter. */
    conntrack_flush(ct, NULL);
    ct_offload_unregister(&b.class);
    b.class.may_bypass = true;
    recorder_register(&b, false);
    ds_clear(&record);
    execute(ct, udp(5, false), &from_p1);
    execute(ct, udp(5, true), &from_p2);
    struct conn *conn = find_udp(ct, 5);
    conn_expire(conn);
    ovs_assert(find_udp(ct, 5) == conn);
    conn_expire(conn);
    a.last_used = now - 1000;
    b.last_used = now - 2000;
    long long int t = now;
    sweep(ct);
    ovs_assert(conn_get_expiration(conn) == t - 1000 + BIDIR_MS);
    CHECK_RECORD("a add 5\n"
                 "b add 5\n"
                 "a est 5\n"
                 "b est 5\n"
                 "a upd 5\n"
                 "b upd 5\n");

    /* When that one goes, software sees every packet again. */
    ct_offload_unregister(&b.class);
    CHECK_RECORD("b upd 5\n"
                 "b del 5\n"
                 "b exit\n");
    ovs_assert(ct_offload_conn_is_offloaded(conn));
    t = conn_get_expiration(conn);
    conn_expire(conn);
    ovs_assert(!find_udp(ct, 5));
    atomic_store_relaxed(&conn->expiration, t);

    /* When it comes back, it finds nothing of its own in the connection. */
    b.class.may_bypass = false;
    recorder_register(&b, false);
    sweep(ct);
    execute(ct, udp(5, false), &from_p1);
    CHECK_RECORD("b add 5\n"
                 "b est 5\n");

    conntrack_destroy(ct);
    ct_offload_unregister(&a.class);
    ct_offload_unregister(&b.class);
}

/* Guards come before what they guard. */

/* What 'ct_state' says of a packet far ahead in sequence, sent by another
 * thread. */
static uint8_t race_state;

static void *
race_far_rst(void *aux OVS_UNUSED)
{
    race_state = execute(race_ct, tcp(1, false, TCP_RST, 101 + (1u << 20),
                                      501), &looking);
    return NULL;
}

static void *
race_fin(void *aux OVS_UNUSED)
{
    execute(race_ct, tcp(1, false, TCP_FIN | TCP_ACK, 101, 501), &looking);
    return NULL;
}

/* Sets the mark of the connections of clients 1 and 2 in one burst. */
static void *
race_mark_two(void *aux OVS_UNUSED)
{
    uint32_t mark[2] = { 7, UINT32_MAX };
    struct how marking = { .commit = true, .mark = mark };
    struct dp_packet_batch batch;

    dp_packet_batch_init_packet(&batch, udp(1, false));
    dp_packet_batch_add(&batch, udp(2, false));
    execute_batch(race_ct, &batch, &marking);
    return NULL;
}

static void
test_guards(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conntrack *ct = race_ct = start();
    struct ct_offload_ctx c = { .input_port_id = u32_to_odp(1) };
    struct conn_offload_batch *batch;
    struct conn *conn, *second;
    pthread_t thread;

    /* Packets may bypass software as soon as EST is running: a RST that
     * follows what software has not seen is valid then. */
    a.class.thread_safe = true;
    a.class.may_bypass = true;
    a.meanwhile = race;
    recorder_register(&a, false);
    execute(ct, tcp(1, false, TCP_SYN, 100, 0), &committing);
    race_prepare("est", race_far_rst, NULL, true);
    execute(ct, tcp(1, true, TCP_SYN | TCP_ACK, 500, 101), &looking);
    race_end();
    ovs_assert(!(race_state & CS_INVALID));
    CHECK_RECORD("a add 1\n"
                 "a est 1\n"
                 "a upd 1\n"
                 "a del 1\n");
    conntrack_flush(ct, NULL);
    ct_offload_unregister(&a.class);
    ds_clear(&record);

    /* A thread has a packet of an established connection, after which it is
     * offered.  Another one sees FIN before that... */
    tcp_open(ct, 1);
    recorder_register(&a, false);
    sweep(ct);
    batch = conntrack_offload_begin(NULL);
    conn = find(ct, tcp(1, false, TCP_ACK, 101, 501));
    ovs_assert(conn_offload_state(conn) & CONN_OFFLOAD_PENDING_ADD);
    in_thread(race_fin, NULL);
    conntrack_offload_end(batch);
    ovs_assert(!ct_offload_conn_is_offloaded(conn));
    CHECK_RECORD("");
    conntrack_flush(ct, NULL);

    /* ...or before the packet, so that nobody has looked at the FIN... */
    ct_offload_unregister(&a.class);
    tcp_open(ct, 1);
    recorder_register(&a, false);
    sweep(ct);
    execute(ct, tcp(1, true, TCP_FIN | TCP_ACK, 501, 101), &looking);
    execute(ct, tcp(1, false, TCP_ACK, 101, 502), &looking);
    ds_clear(&record);
    sweep(ct);
    execute(ct, tcp(1, false, TCP_ACK, 101, 502), &looking);
    execute(ct, tcp(1, true, TCP_ACK, 502, 101), &looking);
    conn = find(ct, tcp(1, false, TCP_ACK, 101, 502));
    ovs_assert(!ct_offload_conn_is_offloaded(conn));
    CHECK_RECORD("");
    conntrack_flush(ct, NULL);

    /* ...or while ADD is running. */
    ct_offload_unregister(&a.class);
    tcp_open(ct, 1);
    recorder_register(&a, false);
    ds_clear(&record);
    sweep(ct);
    race_prepare("add", race_fin, NULL, true);
    execute(ct, tcp(1, false, TCP_ACK, 101, 501), &looking);
    race_end();
    CHECK_RECORD("a add 1\n"
                 "a del 1\n");
    conntrack_flush(ct, NULL);
    ct_offload_unregister(&a.class);
    ds_clear(&record);

    /* A provider comes in the middle of a burst that sets the mark of two
     * connections, and takes the second one, before its mark is set. */
    execute(ct, udp(1, false), &committing);
    execute(ct, udp(2, false), &committing);
    conn = find_udp(ct, 1);
    second = find_udp(ct, 2);
    ovs_mutex_lock(&second->lock);
    thread = ovs_thread_create("marks", race_mark_two, NULL);
    while (!ct_offload_conn_get_mark(conn)) {
        xnanosleep_no_quiesce(100 * 1000);
    }
    recorder_register(&a, false);
    c.conn = second;
    ovs_assert(!ct_offload_conn_add(&c));
    ovs_mutex_unlock(&second->lock);
    xpthread_join(thread, NULL);
    ovs_assert(ct_offload_conn_get_mark(second) == 7);
    CHECK_RECORD("a add 2\n"
                 "a del 2\n");
    conntrack_flush(ct, NULL);

    /* It is gone again when the burst ends. */
    execute(ct, udp(1, false), &committing);
    conntrack_offload_conn_changed__(find_udp(ct, 1));
    atomic_store_relaxed(&ct_offload_active, false);
    conntrack_offload_end(NULL);
    atomic_store_relaxed(&ct_offload_active, true);
    CHECK_RECORD("a add 1\n"
                 "a del 1\n");
    ct_offload_barrier();
    conntrack_flush(ct, NULL);

    /* A connection is taken back and added again after a thread has seen its
     * reply, and before that is raised: what the thread knows of the port went
     * with the first stay. */
    struct netdev *port = (struct netdev *) &port;
    struct how from_port = { .commit = true, .netdev = port };
    execute(ct, udp(1, false), &from_port);
    conn = find_udp(ct, 1);
    batch = conntrack_offload_begin(NULL);
    conntrack_offload_conn_changed__(conn);
    conn_raise(conn, CONN_OFFLOAD_PENDING_EST, CONN_OFFLOAD_AWAIT_REPLY, 0);
    conntrack_offload_end(batch);
    CHECK_RECORD("a add 1\n"
                 "a del 1\n");
    sweep(ct);
    batch = conntrack_offload_begin(NULL);
    execute(ct, udp(1, false), &from_port);
    conn_raise(conn, CONN_OFFLOAD_PENDING_EST, CONN_OFFLOAD_AWAIT_REPLY, 0);
    conntrack_offload_end(batch);
    CHECK_RECORD("a add 1\n");
    execute(ct, udp(1, true), &from_port);
    CHECK_RECORD("a est 1\n");
    ovs_assert(a.est.netdev_in == port);

    conntrack_destroy(ct);
    ct_offload_unregister(&a.class);
}

/* The public functions do what the hooks do. */

/* Submits an operation of 'type' in a batch.  Returns its result. */
static int
submit(enum ct_offload_op_type type, const struct ct_offload_ctx *c)
{
    struct ct_offload_op_batch batch;
    int error;

    ct_offload_op_batch_init(&batch);
    ct_offload_op_batch_add(&batch, type, c);
    ct_offload_op_batch_submit(&batch);
    error = batch.ops[0].error;
    ct_offload_op_batch_destroy(&batch);
    return error;
}

static void
test_api(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conntrack *ct = race_ct = start();
    struct netdev *p1 = (struct netdev *) &p1;
    struct netdev *p2 = (struct netdev *) &p2;
    struct ct_offload_ctx orig = { .netdev_in = p1, .unmodified = true };
    struct ct_offload_ctx reply = { .netdev_in = p2, .unmodified = true };
    uint32_t mark[2] = { 5, UINT32_MAX };
    struct how marking = { .commit = true, .mark = mark, .netdev = p1 };
    struct how from_p1 = { .commit = true, .netdev = p1 };
    struct conn *conn;
    unsigned int n;

    /* Older than the provider. */
    for (int i = 1; i <= 6; i++) {
        execute(ct, udp(i, false), &committing);
    }
    tcp_open(ct, 7);
    tcp_close(ct, 7);
    recorder_register(&a, false);

    /* What is said of ports goes to the provider, and the connection goes with
     * the port. */
    orig.conn = reply.conn = find_udp(ct, 1);
    ovs_assert(!ct_offload_conn_add(&orig));
    ovs_assert(a.add.netdev_in == p1 && a.add.unmodified);
    ct_offload_conn_established(&reply);
    ovs_assert(a.est.netdev_in == p2 && a.est.unmodified);
    CHECK_RECORD("a add 1\n"
                 "a est 1\n");

    /* It is held already. */
    ovs_assert(!ct_offload_conn_add(&orig));
    ct_offload_conn_established(&reply);
    CHECK_RECORD("");
    ct_offload_netdev_flush(p2);
    CHECK_RECORD("a del 1\n");
    ovs_assert(!ct_offload_conn_add(&orig));
    CHECK_RECORD("a add 1\n");
    ct_offload_netdev_flush(p1);
    CHECK_RECORD("a del 1\n");

    /* Packets raise what remains to be said. */
    ovs_assert(!ct_offload_conn_add(&orig));
    execute(ct, udp(1, true), &looking);
    CHECK_RECORD("a add 1\n"
                 "a est 1\n");

    /* Closed by a FIN that was seen, or not, since it was older than the
     * provider. */
    orig.conn = find(ct, tcp(7, false, TCP_ACK, 102, 502));
    ovs_assert(ct_offload_conn_add(&orig) == EOPNOTSUPP);
    tcp_open(ct, 8);
    orig.conn = find(ct, tcp(8, false, TCP_ACK, 101, 501));
    ovs_assert(!submit(CT_OFFLOAD_OP_ADD, &orig));
    execute(ct, tcp(8, false, TCP_FIN | TCP_ACK, 101, 501), &looking);
    ovs_assert(submit(CT_OFFLOAD_OP_ADD, &orig) == EOPNOTSUPP);
    ds_clear(&record);

    /* Its time is up, in this very millisecond. */
    orig.conn = conn = find_udp(ct, 2);
    do {
        conn_expire(conn);
        ovs_assert(ct_offload_conn_add(&orig) == EOPNOTSUPP);
    } while (time_msec() != now);
    atomic_store_relaxed(&conn->expiration, now + FIRST_MS);
    CHECK_RECORD("");
    ovs_assert(!ct_offload_conn_add(&orig));
    CHECK_RECORD("a add 2\n");

    /* Made to expire: still in conntrack's tables. */
    orig.conn = conn = find_udp(ct, 3);
    ct_offload_conn_add(&orig);
    conntrack_offload_conn_forced(conn);
    CHECK_RECORD("a add 3\n"
                 "a del 3\n");
    ovs_assert(ct_offload_conn_add(&orig) == EOPNOTSUPP);
    ct_offload_conn_established(&orig);
    ovs_assert(!ct_offload_conn_update(&orig));
    ct_offload_conn_del(&orig);
    CHECK_RECORD("");

    /* Removed: RCU frees it, whatever this thread does. */
    orig.conn = conn = find_udp(ct, 4);
    conntrack_flush(ct, NULL);
    ds_clear(&record);
    ovs_assert(ct_offload_conn_add(&orig) == EOPNOTSUPP);
    ovs_assert(!conn_get_offload(conn));
    ct_offload_conn_del(&orig);
    CHECK_RECORD("");

    /* The connection has another owner, which is busy with ADD: that one does
     * what is raised meanwhile. */
    ovs_assert(ct_offload_threads_start(1) == 1);
    a.meanwhile = wait_at_gate;
    hang(ct, 1);
    orig.conn = reply.conn = find_udp(ct, 1);
    ovs_assert(ct_offload_conn_add(&orig) == EINPROGRESS);
    ct_offload_conn_established(&reply);
    ovs_assert(submit(CT_OFFLOAD_OP_UPD, &orig) == EINPROGRESS);
    CHECK_RECORD("");
    resume();
    CHECK_RECORD("a add 1\n"
                 "a est 1\n"
                 "a upd 1\n");
    ovs_assert(a.est.netdev_in == p2);
    hang(ct, 2);
    orig.conn = find_udp(ct, 2);
    ovs_assert(submit(CT_OFFLOAD_OP_DEL, &orig) == EINPROGRESS);
    resume();
    CHECK_RECORD("a add 2\n"
                 "a del 2\n");

    /* It is busy with DEL: ADD comes after that, with what packets have shown,
     * and EST with the next reply. */
    execute(ct, udp(9, false), &from_p1);
    n = close_gate();
    execute(ct, udp(9, false), &marking);
    await_gate(n);
    memset(&a.add, 0, sizeof a.add);
    orig.conn = find_udp(ct, 9);
    ovs_assert(ct_offload_conn_add(&orig) == EINPROGRESS);
    resume();
    CHECK_RECORD("a del 9\n"
                 "a add 9\n");
    ovs_assert(a.add.netdev_in == p1 && a.add.unmodified);
    execute(ct, udp(9, true), &looking);
    ct_offload_barrier();
    CHECK_RECORD("a est 9\n");

    /* It has not even begun with DEL. */
    hang(ct, 10);
    mark[0] = 6;
    execute(ct, udp(9, false), &marking);
    memset(&a.add, 0, sizeof a.add);
    ovs_assert(ct_offload_conn_add(&orig) == EINPROGRESS);
    resume();
    CHECK_RECORD("a add 10\n"
                 "a del 9\n"
                 "a add 9\n");
    ovs_assert(a.add.netdev_in == p1 && a.add.unmodified);

    /* The same, but it was removed: there is no way back. */
    struct ct_dpif_tuple tuple;
    hang(ct, 11);
    ct_offload_conn_get_tuple(orig.conn, false, &tuple);
    ovs_assert(!conntrack_flush_tuple(ct, &tuple, 0));
    ovs_assert(ct_offload_conn_add(&orig) == EINPROGRESS);
    resume();
    CHECK_RECORD("a add 11\n"
                 "a del 9\n");

    /* And the room that it takes comes back. */
    conntrack_flush(ct, NULL);
    ct_offload_barrier();
    configure("hw-offload-ct-size", "1");
    for (int i = 0; i < 3; i++) {
        execute(ct, udp(9, false), &from_p1);
        ct_offload_barrier();
        ovs_assert(n_offloaded() == 1);
        conntrack_flush(ct, NULL);
        ct_offload_barrier();
    }

    conntrack_destroy(ct);
    ct_offload_unregister(&a.class);
    ct_offload_threads_stop();
}

/* Operations from outside, while other threads are busy with the connection.
 */

static void *
race_add(void *conn)
{
    struct ct_offload_ctx c = { .conn = conn };

    ovs_assert(ct_offload_conn_add(&c) == EINPROGRESS);
    return NULL;
}

static void *
race_flush_add(void *conn)
{
    conntrack_flush(race_ct, NULL);
    return race_add(conn);
}

/* Takes connections from a provider, as if that were being unregistered. */
static void *
race_leave(void *aux OVS_UNUSED)
{
    ct_offload_set_leaving(&a.class);
    conntrack_offload_evict(ct_offload_leaving());
    return NULL;
}

static atomic_bool offered;

static void *
offer(void *conn)
{
    struct ct_offload_ctx c = { .conn = conn };

    ct_offload_conn_add(&c);
    atomic_store(&offered, true);
    return NULL;
}

/* For conntrack_offload_for_each(), during which no other thread can find out
 * where a connection is: this thread owns 'conn', takes it back and gives it
 * up, while another one, which it stores in '*thread_', is about to raise an
 * ADD of it. */
static void
take_back_offered(struct conn *conn, void *thread_)
{
    struct conn_offload_batch *batch = conntrack_offload_begin(NULL);
    pthread_t *thread = thread_;

    conntrack_offload_conn_changed__(conn);
    *thread = ovs_thread_create("offer", offer, conn);
    while (!conn_get_offload(conn)) {
        xnanosleep_no_quiesce(100 * 1000);
    }
    conntrack_offload_end(batch);
}

/* The same, but this thread does nothing with 'conn', and when it has given
 * it up, a third one offers it, too, and has some time for that. */
static void
offer_twice(struct conn *conn, void *threads_)
{
    pthread_t *threads = threads_;
    bool done = false;

    atomic_init(&offered, false);
    ovs_assert(conn_own(conn, 0));
    threads[0] = ovs_thread_create("offer", offer, conn);
    while (!conn_get_offload(conn)) {
        xnanosleep_no_quiesce(100 * 1000);
    }
    ovs_assert(conn_disown(conn));
    threads[1] = ovs_thread_create("offer", offer, conn);
    for (int i = 0; i < 100 && !done; i++) {
        xnanosleep_no_quiesce(1000 * 1000);
        atomic_read(&offered, &done);
    }
}

static void
test_api_races(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conntrack *ct = race_ct = start();
    uint32_t mark[2] = { 5, UINT32_MAX };
    struct how marking = { .commit = true, .mark = mark };
    struct conn probe, *conn;
    pthread_t threads[2];
    unsigned int n;

    /* The time of a connection is up, and it is being taken back, for the sake
     * of its successor.  If it is offered meanwhile, the successor does not
     * wait any longer... */
    a.class.thread_safe = true;
    a.meanwhile = race;
    recorder_register(&a, false);
    execute(ct, udp(1, false), &committing);
    conn = find_udp(ct, 1);
    conn_expire(conn);
    race_prepare("del", race_add, conn, true);
    ds_clear(&record);
    execute(ct, udp(1, false), &committing);
    race_end();
    CHECK_RECORD("a del 1\n"
                 "a add 1\n");

    /* ...nor does any other one, ever, if both are removed as well. */
    conn = find_udp(ct, 1);
    conn_expire(conn);
    race_prepare("del", race_flush_add, conn, true);
    execute(ct, udp(1, false), &committing);
    race_end();
    CHECK_RECORD("a del 1\n");
    execute(ct, udp(1, false), &committing);
    CHECK_RECORD("a add 1\n");
    conntrack_flush(ct, NULL);
    ct_offload_unregister(&a.class);

    /* A connection is offered while its owner is about to give it up. */
    execute(ct, udp(1, false), &committing);
    recorder_register(&a, false);
    ds_clear(&record);
    conntrack_offload_for_each(take_back_offered, &threads[0]);
    xpthread_join(threads[0], NULL);
    CHECK_RECORD("a add 1\n");

    /* Two threads offer it at once, and only one of them knows yet where it
     * is, and that it has a predecessor. */
    conntrack_flush(ct, NULL);
    configure("hw-offload-ct-size", "1");
    execute(ct, udp(1, false), &committing);
    conn_expire(find_udp(ct, 1));
    execute(ct, udp(1, false), &committing);
    configure("hw-offload-ct-size", NULL);
    ds_clear(&record);
    conntrack_offload_for_each(offer_twice, threads);
    xpthread_join(threads[0], NULL);
    xpthread_join(threads[1], NULL);
    CHECK_RECORD("a del 1\n"
                 "a add 1\n");

    /* A connection is being taken back, and is offered to another provider,
     * while the one that has it is unregistered.  There is a predecessor. */
    ovs_assert(ct_offload_threads_start(1) == 1);
    a.meanwhile = wait_at_gate;
    recorder_register(&b, false);
    conn = find_udp(ct, 1);
    n = close_gate();
    execute(ct, udp(1, false), &marking);
    await_gate(n);
    a.refuse = true;
    race_add(conn);
    conntrack_offload_evict(1);
    memset(&probe, 0, sizeof probe);
    for (int dir = 0; dir < CT_DIRS; dir++) {
        probe.key_node[dir].key = conn->key_node[dir].key;
    }
    atomic_init(&probe.offload_state, 1 << CONN_OFFLOAD_HELD_SHIFT);
    conn_doom(&probe);
    resume();
    CHECK_RECORD("a del 1\n");
    conn_undoom(&probe);
    ct_offload_barrier();
    CHECK_RECORD("b add 1\n");
    conntrack_flush(ct, NULL);
    ct_offload_threads_stop();
    ds_clear(&record);

    /* A provider, which does not know when a connection was last used, is
     * unregistered after another one has told that. */
    struct ct_offload_ctx c = { .conn = NULL };
    a.meanwhile = race;
    a.refuse = false;
    b.class.may_bypass = true;
    execute(ct, udp(1, false), &committing);
    execute(ct, udp(1, true), &looking);
    CHECK_RECORD("b add 1\n"
                 "a add 1\n"
                 "b est 1\n"
                 "a est 1\n");
    b.last_used = now;
    c.conn = find_udp(ct, 1);
    race_prepare("upd", race_leave, NULL, true);
    ovs_assert(ct_offload_conn_update(&c) == now);
    CHECK_RECORD("b upd 1\n"
                 "a upd 1\n"
                 "a upd 1\n"
                 "a del 1\n");

    conntrack_destroy(ct);
    ct_offload_unregister(&b.class);
}

/* Callbacks of classes that are not thread-safe never overlap. */

static atomic_uint n_inside = 0;
static atomic_uint n_calls = 0;
static void (*serial_meanwhile)(void);

static void
serial_call(void)
{
    void (*meanwhile)(void) = serial_meanwhile;
    unsigned int orig;

    atomic_add(&n_calls, 1, &orig);
    atomic_add(&n_inside, 1, &orig);
    ovs_assert(!orig);
    if (meanwhile) {
        serial_meanwhile = NULL;
        meanwhile();
    }
    atomic_sub(&n_inside, 1, &orig);
}

static bool
serial_can_offload(const struct ct_offload_ctx *ctx OVS_UNUSED)
{
    serial_call();
    return true;
}

static int
serial_add(const struct ct_offload_ctx *ctx OVS_UNUSED)
{
    serial_call();
    return 0;
}

static void
serial_del(const struct ct_offload_ctx *ctx OVS_UNUSED)
{
    serial_call();
}

static void
serial_netdev_flush(struct netdev *netdev OVS_UNUSED)
{
    serial_call();
}

static void
serial_batch(struct ct_offload_op_batch *batch OVS_UNUSED)
{
    struct ct_offload_op *op;

    serial_call();
    CT_OFFLOAD_BATCH_OP_FOR_EACH (i, op, batch) {
        op->error = 0;
    }
}

static void *
serial_commit(void *aux OVS_UNUSED)
{
    execute(race_ct, udp(2, false), &committing);
    return NULL;
}

static void *
serial_commit_two(void *aux OVS_UNUSED)
{
    struct dp_packet_batch batch;

    dp_packet_batch_init_packet(&batch, udp(3, false));
    dp_packet_batch_add(&batch, udp(4, false));
    execute_batch(race_ct, &batch, &committing);
    return NULL;
}

static void *
serial_flush_port(void *aux OVS_UNUSED)
{
    struct netdev *port = (struct netdev *) &port;

    ct_offload_netdev_flush(port);
    return NULL;
}

static void *
serial_policy(void *conn)
{
    struct ct_offload_ctx c = { .conn = conn };

    ct_offload_can_offload(&c);
    return NULL;
}

static pthread_t serial_threads[4];
static struct conn *serial_conn;

/* Starts other threads that call the providers, and gives them time. */
static void
serial_race(void)
{
    serial_threads[0] = ovs_thread_create("a", serial_commit, NULL);
    serial_threads[1] = ovs_thread_create("b", serial_commit_two, NULL);
    serial_threads[2] = ovs_thread_create("c", serial_flush_port, NULL);
    serial_threads[3] = ovs_thread_create("d", serial_policy, serial_conn);
    xnanosleep_no_quiesce(100 * 1000 * 1000);
}

static void
test_serial(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    static const struct ct_offload_class single = {
        .name = "single",
        .can_offload = serial_can_offload,
        .conn_add = serial_add,
        .conn_del = serial_del,
        .netdev_flush = serial_netdev_flush,
    };
    static const struct ct_offload_class native = {
        .name = "native",
        .can_offload = serial_can_offload,
        .conn_add = serial_add,
        .conn_del = serial_del,
        .netdev_flush = serial_netdev_flush,
        .batch_submit = serial_batch,
    };
    struct conntrack *ct = race_ct = start();
    unsigned int before, n;

    execute(ct, udp(9, false), &committing);
    serial_conn = find_udp(ct, 9);
    ovs_assert(!ct_offload_register(&single));
    ovs_assert(!ct_offload_register(&native));

    /* While a connection is added. */
    serial_meanwhile = serial_race;
    execute(ct, udp(1, false), &committing);
    for (size_t i = 0; i < ARRAY_SIZE(serial_threads); i++) {
        xpthread_join(serial_threads[i], NULL);
    }

    /* 'can_offload' for four connections, 'conn_add' for all or two of them,
     * 'batch_submit' for the others, 'netdev_flush', and 'can_offload' once
     * more. */
    atomic_read(&n_calls, &n);
    ovs_assert(n == 2 * 4 + 4 + 3 + 2 + 2);

    /* While a port goes. */
    conntrack_flush(ct, NULL);
    atomic_read(&n_calls, &before);
    execute(ct, udp(9, false), &committing);
    serial_conn = find_udp(ct, 9);
    serial_meanwhile = serial_race;
    serial_flush_port(NULL);
    for (size_t i = 0; i < ARRAY_SIZE(serial_threads); i++) {
        xpthread_join(serial_threads[i], NULL);
    }
    atomic_read(&n_calls, &n);
    ovs_assert(n - before == 2 * 4 + 4 + 3 + 4 + 2);

    conntrack_destroy(ct);
    ct_offload_unregister(&single);
    ct_offload_unregister(&native);
}

/* An offload thread that has much to do quiesces all the same. */

static atomic_bool grace_period_ended = false;

static void
note_grace_period(void *aux OVS_UNUSED)
{
    atomic_store(&grace_period_ended, true);
}

/* Takes its time, until there was a grace period, for which all threads must
 * quiesce, since the first ADD. */
static void
slow_until_grace_period(const char *op OVS_UNUSED)
{
    static bool asked = false;
    bool ended;

    if (!asked) {
        asked = true;
        ovsrcu_postpone(note_grace_period, &asked);
    }
    atomic_read(&grace_period_ended, &ended);
    if (!ended) {
        xnanosleep_no_quiesce(1000 * 1000);
    }
}

static void
slow(const char *op OVS_UNUSED)
{
    xnanosleep_no_quiesce(1000 * 1000);
}

static void
test_quiesce(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    enum { N = 10000 };
    struct conntrack *ct = start();
    unsigned int n_ops, n_batches, n_added;
    struct ct_offload_stats sum;
    uint32_t n;
    bool ended;

    ovs_assert(ct_offload_threads_start(1) == 1);
    a.meanwhile = slow_until_grace_period;
    recorder_register(&a, false);
    for (int i = 0; i < N; i++) {
        execute(ct, udp(2000 + i, false), &committing);
    }
    conntrack_get_nconns(ct, &n);
    ovs_assert(n == N);

    /* If this takes as long as all of them do, the test fails. */
    ovsrcu_quiesce_start();
    do {
        xnanosleep(1000 * 1000);
        atomic_read(&grace_period_ended, &ended);
        ct_offload_stats_sum(&sum);
        n_added = ct_offload_stats_read(&sum.counters[CT_OFFLOAD_N_OFFLOADED]);
    } while (!ended && n_added < N);
    ovsrcu_quiesce_end();
    ovs_assert(ended);
    ct_offload_barrier();
    conntrack_flush(ct, NULL);
    ct_offload_unregister(&a.class);

    /* A provider that becomes slow is given what takes 5 ms at once. */
    recorder_register(&b, true);
    for (int i = 0; i < 200; i++) {
        execute(ct, udp(2000 + i, false), &committing);
    }
    ct_offload_barrier();
    n_ops = b.n_ops;
    n_batches = b.n_batches;
    b.meanwhile = slow;
    conntrack_flush(ct, NULL);
    ct_offload_barrier();
    ovs_assert((b.n_ops - n_ops) <= 5 * (b.n_batches - n_batches));
    b.meanwhile = NULL;

    conntrack_destroy(ct);
    ct_offload_unregister(&b.class);
    ct_offload_threads_stop();
}

/* Room that a thread has taken in advance is there for others when the thread
 * has ended. */
static void *
room_thread(void *ct)
{
    execute(ct, udp(1, false), &committing);
    return NULL;
}

static void
test_room(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conntrack *ct = start();

    recorder_register(&a, false);
    in_thread(room_thread, ct);
    CHECK_RECORD("a add 1\n");
    configure("hw-offload-ct-size", "2");
    execute(ct, udp(2, false), &committing);
    CHECK_RECORD("a add 2\n");
    execute(ct, udp(3, false), &committing);
    CHECK_RECORD("");
    ovs_assert(n_reason(CT_OFFLOAD_LIMIT) == 1);
    conntrack_flush(ct, NULL);
    ds_clear(&record);

    /* All of it comes back, whoever took it. */
    for (int i = 1; i <= 3; i++) {
        execute(ct, udp(i, false), &committing);
    }
    CHECK_RECORD("a add 1\n"
                 "a add 2\n");

    conntrack_destroy(ct);
    ct_offload_unregister(&a.class);
}

/* What was seen to is not raised again with each packet. */
static void
check_idle(struct conntrack *ct, const struct conn *conn,
           struct dp_packet *orig, struct dp_packet *reply)
{
    struct ct_offload_thread_stats before, after;

    ct_offload_threads_get_stats(&before);
    for (int i = 0; i < 3; i++) {
        execute(ct, dp_packet_clone(orig), &looking);
        execute(ct, dp_packet_clone(reply), &looking);
        if (i) {
            ovs_assert(!(conn_offload_state(conn)
                         & (CONN_OFFLOAD_AWAIT_ORIG
                            | CONN_OFFLOAD_AWAIT_REPLY)));
        }
    }
    dp_packet_delete(orig);
    dp_packet_delete(reply);
    ct_offload_threads_get_stats(&after);
    ovs_assert(after.n_queued == before.n_queued);
    CHECK_RECORD("");
}

static void
test_idle(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    enum { N = 200 };
    struct conntrack *ct = start();
    struct conn *held, *closed, *refused, *failed;

    ovs_assert(ct_offload_threads_start(1) == 1);
    a.meanwhile = wait_at_gate;
    recorder_register(&a, false);

    udp_established(ct, 1);
    held = find_udp(ct, 1);
    tcp_open(ct, 2);
    tcp_close(ct, 2);
    closed = find(ct, tcp(2, false, TCP_ACK, 102, 502));
    ct_offload_barrier();
    a.refuse = true;
    udp_established(ct, 3);
    refused = find_udp(ct, 3);
    ct_offload_barrier();
    a.refuse = false;
    a.add_error = ENOSPC;
    udp_established(ct, 4);
    failed = find_udp(ct, 4);
    ct_offload_barrier();
    a.add_error = 0;

    hang(ct, 5);
    check_idle(ct, held, udp(1, false), udp(1, true));
    check_idle(ct, closed, tcp(2, false, TCP_ACK, 102, 502),
               tcp(2, true, TCP_ACK, 502, 102));
    check_idle(ct, refused, udp(3, false), udp(3, true));
    check_idle(ct, failed, udp(4, false), udp(4, true));

    /* After a sweep each direction of what is held is looked at, and no
     * more. */
    sweep(ct);
    check_idle(ct, held, udp(1, false), udp(1, true));
    check_idle(ct, closed, tcp(2, false, TCP_ACK, 102, 502),
               tcp(2, true, TCP_ACK, 502, 102));
    resume();
    conntrack_flush(ct, NULL);
    ct_offload_barrier();
    ct_offload_unregister(&a.class);
    ct_offload_threads_stop();

    /* A flush, and the end of conntrack, tell a provider in batches. */
    recorder_register(&b, true);
    for (int flush = 0; flush < 2; flush++) {
        for (int i = 0; i < N; i++) {
            execute(ct, udp(2000 + i, false), &committing);
        }
        b.n_ops = b.n_batches = 0;
        if (!flush) {
            conntrack_flush(ct, NULL);
        } else {
            conntrack_destroy(ct);
        }
        ovs_assert(b.n_ops == N);
        ovs_assert(b.n_batches == DIV_ROUND_UP(N, CT_OFFLOAD_BATCH_INLINE));
    }
    ct_offload_unregister(&b.class);
}

/* Who turns offload off, changes it, or has everything forgotten, waits for
 * the threads that are calling a provider. */

static void *
barrier_configure(void *key)
{
    configure(key, !strcmp(key, "hw-offload-ct") ? "false" : "true");
    ds_put_cstr(&record, "configured\n");
    return NULL;
}

static void *
barrier_flush(void *aux OVS_UNUSED)
{
    ct_offload_flush();
    ds_put_cstr(&record, "flushed\n");
    return NULL;
}

static void *
barrier_batch(void *conn)
{
    struct ct_offload_ctx c = { .conn = conn };

    submit(CT_OFFLOAD_OP_FLUSH, &c);
    ds_put_cstr(&record, "flushed\n");
    return NULL;
}

/* While ADD of the connection from client 1 is running, in this thread or in
 * an offload thread, has 'main_' run, which must not end before 'expected' is
 * recorded. */
static void
check_barrier(struct conntrack *ct, void *(*main_)(void *), void *aux,
              const char *expected)
{
    unsigned int n_threads = ct_offload_n_threads();

    race_prepare("add", main_, aux, false);
    execute(ct, udp(1, false), &committing);
    if (n_threads) {
        ct_offload_threads_barrier(true);
    }
    race_end();
    check_record(expected, OVS_SOURCE_LOCATOR);
    conntrack_flush(ct, NULL);
    configure("hw-offload-ct", NULL);
    ct_offload_barrier();
    ds_clear(&record);
}

static void
test_barriers(struct ovs_cmdl_context *ctx)
{
    unsigned int n_threads = atoi(ctx->argv[1]);
    struct conntrack *ct = race_ct = start();

    ovs_assert(ct_offload_threads_start(n_threads) == n_threads);
    a.class.thread_safe = true;
    a.meanwhile = race;
    recorder_register(&a, false);
    check_barrier(ct, barrier_configure, "hw-offload-ct",
                  "a add 1\n"
                  "a del 1\n"
                  "configured\n");
    check_barrier(ct, barrier_configure, "hw-offload-ct-bypass",
                  "a add 1\n"
                  "a del 1\n"
                  "configured\n");
    check_barrier(ct, barrier_flush, NULL,
                  "a add 1\n"
                  "a del 1\n"
                  "a flush\n"
                  "flushed\n");
    check_barrier(ct, barrier_batch, NULL,
                  "a add 1\n"
                  "a del 1\n"
                  "a flush\n"
                  "flushed\n");
    conntrack_destroy(ct);
    ct_offload_unregister(&a.class);
    ct_offload_threads_stop();
}

/* When providers are told to forget everything, they do not hold anything any
 * more. */
static void
test_flush(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct conntrack *ct = start();
    struct ct_offload_op_batch batch;
    struct ct_offload_ctx c = { .conn = NULL };

    recorder_register(&a, false);
    execute(ct, udp(1, false), &committing);
    ds_clear(&record);
    ct_offload_op_batch_init(&batch);
    ct_offload_op_batch_add(&batch, CT_OFFLOAD_OP_FLUSH, &c);
    ct_offload_op_batch_submit(&batch);
    ct_offload_op_batch_destroy(&batch);
    CHECK_RECORD("a del 1\n"
                 "a flush\n");

    ovs_assert(ct_offload_threads_start(1) == 1);
    execute(ct, udp(2, false), &committing);
    ct_offload_barrier();
    ds_clear(&record);
    ct_offload_flush();
    CHECK_RECORD("a del 2\n"
                 "a flush\n");

    conntrack_destroy(ct);
    ct_offload_unregister(&a.class);
    ct_offload_threads_stop();
}

/* The system does not allow more threads. */
static void
test_no_thread(struct ovs_cmdl_context *ctx OVS_UNUSED)
{
    struct rlimit old, limit;
    struct conntrack *ct;

    /* No memory for a stack. */
    ovs_assert(!getrlimit(RLIMIT_AS, &old));
    limit = old;
    limit.rlim_cur = 1;
    ovs_assert(!setrlimit(RLIMIT_AS, &limit));
    ovs_assert(ct_offload_threads_start(2) == 0);
    ovs_assert(!setrlimit(RLIMIT_AS, &old));

    ct = start();
    recorder_register(&a, false);
    execute(ct, udp(1, false), &committing);
    CHECK_RECORD("a add 1\n");
    conntrack_destroy(ct);
    CHECK_RECORD("a del 1\n");
    ct_offload_unregister(&a.class);
}

static const struct ovs_cmdl_command commands[] = {
    {"registry", "", 0, 0, test_registry, OVS_RO},
    {"mandatory", "CALLBACK", 1, 1, test_mandatory, OVS_RO},
    {"life-cycle", "", 0, 0, test_life_cycle, OVS_RO},
    {"order", "", 0, 0, test_order, OVS_RO},
    {"tcp", "", 0, 0, test_tcp, OVS_RO},
    {"ineligible", "", 0, 0, test_ineligible, OVS_RO},
    {"providers", "", 0, 0, test_providers, OVS_RO},
    {"batch", "", 0, 0, test_batch, OVS_RO},
    {"expiry", "", 0, 0, test_expiry, OVS_RO},
    {"real-time", "", 0, 0, test_real_time, OVS_RO},
    {"eviction", "", 0, 0, test_eviction, OVS_RO},
    {"offload-threads", "", 0, 0, test_offload_threads, OVS_RO},
    {"removed", "", 0, 0, test_removed, OVS_RO},
    {"successors", "", 0, 0, test_successors, OVS_RO},
    {"flush", "", 0, 0, test_flush, OVS_RO},
    {"established-only", "", 0, 0, test_established_only, OVS_RO},
    {"owner", "", 0, 0, test_owner, OVS_RO},
    {"rival", "", 0, 0, test_rival, OVS_RO},
    {"guards", "", 0, 0, test_guards, OVS_RO},
    {"api", "", 0, 0, test_api, OVS_RO},
    {"api-races", "", 0, 0, test_api_races, OVS_RO},
    {"serial", "", 0, 0, test_serial, OVS_RO},
    {"quiesce", "", 0, 0, test_quiesce, OVS_RO},
    {"room", "", 0, 0, test_room, OVS_RO},
    {"idle", "", 0, 0, test_idle, OVS_RO},
    {"barriers", "N", 1, 1, test_barriers, OVS_RO},
    {"barrier-first", "", 0, 0, test_barrier_first, OVS_RO},
    {"est-error", "", 0, 0, test_est_error, OVS_RO},
    {"learn", "", 0, 0, test_learn, OVS_RO},
    {"side-by-side", "", 0, 0, test_side_by_side, OVS_RO},
    {"order-threads", "N", 1, 1, test_order_threads, OVS_RO},
    {"order-nat", "", 0, 0, test_order_nat, OVS_RO},
    {"order-stress", "N", 1, 1, test_order_stress, OVS_RO},
    {"no-thread", "", 0, 0, test_no_thread, OVS_RO},
    {"config", "", 0, 0, test_config, OVS_RO},
    {"seq-chk", "", 0, 0, test_seq_chk, OVS_RO},
    {"races", "", 0, 0, test_races, OVS_RO},
    {"same-tuple", "", 0, 0, test_same_tuple, OVS_RO},
    {"unregister-in-callback", "", 0, 0, test_unregister_in_callback, OVS_RO},
    {"threads", "", 0, 0, test_threads, OVS_RO},
    {NULL, NULL, 0, 0, NULL, OVS_RO},
};

static void
test_ct_offload_main(int argc, char *argv[])
{
    struct ovs_cmdl_context ctx = {
        .argc = argc - 1,
        .argv = argv + 1,
    };

    set_program_name(argv[0]);
    ovs_cmdl_run_command(&ctx, commands);
    ds_destroy(&record);
}

OVSTEST_REGISTER("test-ct-offload", test_ct_offload_main);
