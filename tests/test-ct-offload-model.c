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

/* Drives the connection tracker by random sequences of operations, with
 * providers that check what they are told, and compares after each step what
 * these hold with what a simple model says that they should.
 *
 * All time is virtual, so that a sequence depends on nothing but its seed. */

#include <config.h>
#undef NDEBUG

#include "conntrack.h"

#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "command-line.h"
#include "conntrack-offload.h"
#include "conntrack-private.h"
#include "conntrack-tp.h"
#include "csum.h"
#include "ct-dpif.h"
#include "ct-offload-port.h"
#include "ct-offload-room.h"
#include "ct-offload-wire.h"
#include "ct-offload-thread.h"
#include "ct-offload.h"
#include "dp-packet.h"
#include "dpif-offload.h"
#include "flow.h"
#include "hash.h"
#include "latch.h"
#include "netdev-provider.h"
#include "openvswitch/dynamic-string.h"
#include "openvswitch/hmap.h"
#include "openvswitch/vlog.h"
#include "ovs-rcu.h"
#include "ovs-thread.h"
#include "ovstest.h"
#include "packets.h"
#include "random.h"
#include "smap.h"
#include "test-ct-offload-model.h"
#include "timeval.h"
#include "util.h"
#include "vswitch-idl.h"

enum {
    N_ZONES = 3,
    N_PROVIDERS = 3,
    N_CLIENTS = 5,
    MAX_PACKETS = NETDEV_MAX_BURST,
    N_TRACE = 50,
};

/* Ports with a meaning. */
enum {
    PORT_CLIENT = 30000,        /* First of the clients' ports. */
    PORT_SERVER = 1000,
    PORT_FTP = 21,
    PORT_FTP_DATA = 20,
    PORT_TFTP = 69,
};

/* Stands in for a sweep interval and all timeouts.  In s, as timeout policies
 * are, but of virtual time. */
#define SWEEP_S 1000
static const struct {
    enum ct_dpif_tp_attr attr;
    uint32_t s;
} timeouts[] = {
    { CT_DPIF_TP_ATTR_TCP_SYN_SENT, 1700 },
    { CT_DPIF_TP_ATTR_TCP_SYN_RECV, 1900 },
    { CT_DPIF_TP_ATTR_TCP_ESTABLISHED, 5300 },
    { CT_DPIF_TP_ATTR_TCP_FIN_WAIT, 2300 },
    { CT_DPIF_TP_ATTR_TCP_TIME_WAIT, 1300 },
    { CT_DPIF_TP_ATTR_TCP_CLOSE, 700 },
    { CT_DPIF_TP_ATTR_UDP_FIRST, 1600 },
    { CT_DPIF_TP_ATTR_UDP_SINGLE, 2600 },
    { CT_DPIF_TP_ATTR_UDP_MULTIPLE, 3100 },
    { CT_DPIF_TP_ATTR_ICMP_FIRST, 800 },
    { CT_DPIF_TP_ATTR_ICMP_REPLY, 2100 },
};

/* Ports.  Only their addresses and names matter. */
struct netdev model_netdevs[N_NETDEVS];

/* Are there several threads? */
bool threaded;

/* Failure, and what led to it. */

static struct {
    unsigned int step;
    char text[1600];
} trace[N_TRACE];
static unsigned int seed;
unsigned int step;
static unsigned int n_run;      /* Steps that were not left out. */
static unsigned int *failed;    /* Instead of a message, if nonnull. */

void
note(const char *format, ...)
{
    char *text = trace[n_run % N_TRACE].text;
    size_t len = strlen(text);
    va_list args;

    if (threaded) {
        return;
    }
    va_start(args, format);
    vsnprintf(text + len, sizeof trace[0].text - len, format, args);
    va_end(args);
}

void
fail(const char *format, ...)
{
    va_list args;

    if (failed) {
        *failed = step;
        _exit(1);
    }
    for (unsigned int i = n_run < N_TRACE ? 0 : n_run - N_TRACE + 1;
         !threaded && i <= n_run; i++) {
        printf("%u:%s\n", trace[i % N_TRACE].step, trace[i % N_TRACE].text);
    }
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\nfailed: seed %u, step %u\n", seed, step);
    fflush(stdout);
    _exit(1);
}

/* Random numbers.  Those of a step depend on nothing but the seed and the
 * number of the step, so that steps can be left out. */

DEFINE_STATIC_PER_THREAD_DATA(uint64_t, rng, 0);

static void
rng_start(uint64_t s)
{
    *rng_get() = s * UINT64_C(0x9e3779b97f4a7c15) + 0x1234567;
}

uint32_t
rng_next(void)
{
    uint64_t z = *rng_get() += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (z ^ (z >> 31)) >> 16;
}

/* Returns a number from 0 to n - 1. */
uint32_t
pick(uint32_t n)
{
    return rng_next() % n;
}

bool
percent(uint32_t n)
{
    return pick(100) < n;
}

/* Providers. */

enum answer {
    ANSWER_USED,                /* When it was used, 0 if never. */
    ANSWER_ZERO,
    ANSWER_NOW,
    ANSWER_FUTURE,
    ANSWER_NEVER_ENDING,
    ANSWER_ANCIENT,
    ANSWER_NEGATIVE,
    N_ANSWERS
};
static const char *const answer_names[] = {
    "used", "zero", "now", "future", "never-ending", "ancient", "negative"
};

/* What packets of one direction of a connection look like. */
struct side {
    bool known;
    struct netdev *netdev;      /* Where they come from, or NULL. */
    bool on_wire;               /* Do they look so there? */
    uint16_t vlan;              /* Tag, 0 if none. */
    bool stopped;               /* The port has stopped since. */
};

/* What a provider knows of a connection. */
struct held {
    struct hmap_node node;      /* In 'held' of its provider. */
    const struct conn *conn;
    struct ct_dpif_tuple tuples[2]; /* Original and reply. */
    uint16_t zone;
    uint32_t mark;
    ovs_u128 labels;
    struct side side[2];        /* By direction. */
    bool est, uni_dir;
    long long int used;
    atomic_flag busy;           /* In a callback. */
};

struct provider {
    struct ct_offload_class class;
    unsigned int id;
    bool registered;            /* As far as the model knows. */
    atomic_bool live;           /* Between init() and exit(). */

    /* What it does, in 16ths of the connections. */
    unsigned int refuse, errors, est_errors, uni_dir, salt;
    bool init_error;
    enum answer answer;

    atomic_flag called;         /* In a callback, unless it is thread-safe. */
    struct ovs_mutex mutex;
    struct hmap held OVS_GUARDED;
    unsigned long long int n_add, n_error, n_del, n_est, n_est_error, n_upd;
    unsigned long long int n_netdev_flush;
};

static struct provider providers[N_PROVIDERS];

static uint32_t
decision(const struct provider *p, const struct conn *conn)
{
    struct ct_dpif_tuple t;

    ct_offload_conn_get_tuple(conn, false, &t);
    return hash_bytes(&t, sizeof t,
                      hash_2words(p->salt, ct_offload_conn_get_zone(conn)));
}

static bool
will_refuse(const struct provider *p, const struct conn *conn)
{
    return p->refuse && decision(p, conn) % 16 < p->refuse;
}

static bool
will_err(const struct provider *p, const struct conn *conn)
{
    return p->errors && (decision(p, conn) >> 8) % 16 < p->errors;
}

static bool
will_err_est(const struct provider *p, const struct conn *conn)
{
    return (p->est_errors
            && (decision(p, conn) >> 16) % 16 < p->est_errors);
}

static bool
will_be_uni_dir(const struct provider *p, const struct conn *conn)
{
    return p->uni_dir && (decision(p, conn) >> 24) % 16 < p->uni_dir;
}

/* What 'p' answers at time 'when'. */
static long long int
will_answer(const struct provider *p, const struct held *h, long long int when)
{
    switch (p->answer) {
    case ANSWER_USED:
        return h->used;
    case ANSWER_NOW:
        return when;
    case ANSWER_FUTURE:
        return when + 1000 * 1000 * 1000;
    case ANSWER_NEVER_ENDING:
        return LLONG_MAX;
    case ANSWER_ANCIENT:
        return 1;
    case ANSWER_NEGATIVE:
        return -1;
    case ANSWER_ZERO:
    case N_ANSWERS:
    default:
        return 0;
    }
}

static struct held *
held_find(struct provider *p, const struct conn *conn)
    OVS_REQUIRES(p->mutex)
{
    struct held *h;

    HMAP_FOR_EACH_WITH_HASH (h, node, hash_pointer(conn, 0), &p->held) {
        if (h->conn == conn) {
            return h;
        }
    }
    return NULL;
}

/* Finds what 'p' knows of the connection of 'ctx', and checks that this is not
 * the only thread that tells 'p' of it. */
static struct held *
held_begin(struct provider *p, const struct ct_offload_ctx *ctx,
           const char *what)
    OVS_REQUIRES(p->mutex)
{
    struct held *h = held_find(p, ctx->conn);

    note(" %s.%s", p->class.name, what);
    if (!h) {
        fail("%s: %s of a connection that it does not hold",
             p->class.name, what);
    }
    if (!ctx->priv || *ctx->priv != h) {
        fail("%s: %s has lost its pointer", p->class.name, what);
    }
    if (atomic_flag_test_and_set(&h->busy)) {
        fail("%s: %s during another callback for the same connection",
             p->class.name, what);
    }
    if (threaded) {
        /* Make it more likely to be interrupted. */
        ovs_mutex_unlock(&p->mutex);
        sched_yield();
        ovs_mutex_lock(&p->mutex);
    }
    return h;
}

/* Before and after each callback. */

static void
call_begin(struct provider *p, const char *what)
{
    bool live;

    atomic_read(&p->live, &live);
    if (!live) {
        fail("%s: %s while it is not registered", p->class.name, what);
    }
    if (!p->class.thread_safe && atomic_flag_test_and_set(&p->called)) {
        fail("%s: %s during another callback", p->class.name, what);
    }
    if (threaded) {
        sched_yield();
    }
}

static void
call_end(struct provider *p)
{
    if (!p->class.thread_safe) {
        atomic_flag_clear(&p->called);
    }
}

static struct side
side_from_ctx(const struct ct_offload_ctx *ctx)
{
    struct side side = {
        .known = true,
        .netdev = ctx->netdev_in,
        .on_wire = ctx->unmodified,
        .vlan = (ctx->vlan == CT_OFFLOAD_VLAN_TAG
                 ? vlan_tci_to_vid(ctx->vlan_tci) : 0),
    };

    return side;
}

static bool
provider_can_offload(struct provider *p, const struct ct_offload_ctx *ctx)
{
    bool refuse;

    ovs_mutex_lock(&p->mutex);
    refuse = will_refuse(p, ctx->conn);
    ovs_mutex_unlock(&p->mutex);
    return !refuse;
}

static bool
tuple_equals(const struct ct_dpif_tuple *a, const struct ct_dpif_tuple *b)
{
    return !memcmp(a, b, sizeof *a);
}

/* 'p', which is told of the connection of 'h', holds nothing with one of its
 * tuples in the same zone: hardware with exact tuples would have an entry
 * already. */
static void
check_unique(struct provider *p, const struct held *h)
    OVS_REQUIRES(p->mutex)
{
    struct held *other;

    HMAP_FOR_EACH (other, node, &p->held) {
        for (int i = 0; i < 4 && other->zone == h->zone; i++) {
            if (tuple_equals(&other->tuples[i & 1], &h->tuples[i / 2])) {
                fail("%s: add of connection %p with a tuple of %p, which it "
                     "holds", p->class.name, h->conn, other->conn);
            }
        }
    }
}

/* Providers that are interested in established connections only hear of no
 * others. */
static void
check_established(struct provider *p, const struct conn *conn)
{
    uint8_t orig, reply;

    if (p->class.established_only
        && !threaded
        && (conn_is_tcp(conn)
            ? (ct_offload_conn_get_tcp_state(conn, &orig, &reply)
               && (orig != CT_DPIF_TCPS_ESTABLISHED
                   || reply != CT_DPIF_TCPS_ESTABLISHED))
            : !conn_is_established(conn))) {
        fail("%s: add of a connection that is not established",
             p->class.name);
    }
}

static int
provider_add(struct provider *p, const struct ct_offload_ctx *ctx)
{
    struct held *h;

    note(" %s.add", p->class.name);
    if (!ctx->priv || *ctx->priv) {
        fail("%s: add with a pointer", p->class.name);
    }
    check_established(p, ctx->conn);

    ovs_mutex_lock(&p->mutex);
    if (held_find(p, ctx->conn)) {
        fail("%s: add of a connection that it holds", p->class.name);
    }
    if (will_err(p, ctx->conn)) {
        note("(error)");
        p->n_error++;
        ovs_mutex_unlock(&p->mutex);
        return ENOSPC;
    }

    h = xzalloc(sizeof *h);
    h->conn = ctx->conn;
    ct_offload_conn_get_tuple(ctx->conn, false, &h->tuples[0]);
    ct_offload_conn_get_tuple(ctx->conn, true, &h->tuples[1]);
    h->zone = ct_offload_conn_get_zone(ctx->conn);
    h->mark = ct_offload_conn_get_mark(ctx->conn);
    h->labels = ct_offload_conn_get_labels(ctx->conn);
    h->side[0] = side_from_ctx(ctx);
    atomic_flag_clear(&h->busy);
    check_unique(p, h);
    hmap_insert(&p->held, &h->node, hash_pointer(ctx->conn, 0));
    p->n_add++;
    *ctx->priv = h;
    ovs_mutex_unlock(&p->mutex);
    return 0;
}

static void
provider_del(struct provider *p, const struct ct_offload_ctx *ctx)
{
    struct held *h;

    ovs_mutex_lock(&p->mutex);
    h = held_begin(p, ctx, "del");
    hmap_remove(&p->held, &h->node);
    p->n_del++;
    ovs_mutex_unlock(&p->mutex);
    free(h);
}

static int
provider_est(struct provider *p, const struct ct_offload_ctx *ctx)
{
    struct held *h;

    ovs_mutex_lock(&p->mutex);
    h = held_begin(p, ctx, "est");
    if (h->est) {
        fail("%s: a second est", p->class.name);
    }
    if (*ctx->uni_dir) {
        fail("%s: est is uni-dir already", p->class.name);
    }
    if (will_err_est(p, ctx->conn)) {
        note("(error)");
        hmap_remove(&p->held, &h->node);
        p->n_est_error++;
        ovs_mutex_unlock(&p->mutex);
        free(h);
        return ENOSPC;
    }
    h->est = true;
    h->side[1] = side_from_ctx(ctx);
    h->uni_dir = *ctx->uni_dir = will_be_uni_dir(p, ctx->conn);
    p->n_est++;
    atomic_flag_clear(&h->busy);
    ovs_mutex_unlock(&p->mutex);
    return 0;
}

static long long int
provider_upd(struct provider *p, const struct ct_offload_ctx *ctx)
{
    long long int last_used;
    struct held *h;

    ovs_mutex_lock(&p->mutex);
    h = held_begin(p, ctx, "upd");
    last_used = will_answer(p, h, time_msec());
    p->n_upd++;
    atomic_flag_clear(&h->busy);
    ovs_mutex_unlock(&p->mutex);
    return last_used;
}

static void
provider_batch(struct provider *p, struct ct_offload_op_batch *batch)
{
    struct ct_offload_op *op;

    CT_OFFLOAD_BATCH_OP_FOR_EACH (i, op, batch) {
        switch (op->type) {
        case CT_OFFLOAD_OP_ADD:
            op->error = provider_add(p, &op->ctx);
            break;
        case CT_OFFLOAD_OP_DEL:
            provider_del(p, &op->ctx);
            break;
        case CT_OFFLOAD_OP_EST:
            op->error = provider_est(p, &op->ctx);
            break;
        case CT_OFFLOAD_OP_UPD:
            op->last_used = provider_upd(p, &op->ctx);
            op->error = op->last_used ? 0 : ENODATA;
            break;
        case CT_OFFLOAD_OP_POLICY:
        case CT_OFFLOAD_OP_FLUSH:
        default:
            OVS_NOT_REACHED();
        }
    }
}

static int
provider_init(struct provider *p)
{
    if (p->init_error) {
        return ENODEV;
    }
    atomic_store(&p->live, true);
    return 0;
}

static void
provider_exit(struct provider *p)
{
    ovs_mutex_lock(&p->mutex);
    if (hmap_count(&p->held)) {
        fail("%s: exit while it holds %"PRIuSIZE" connections",
             p->class.name, hmap_count(&p->held));
    }
    ovs_mutex_unlock(&p->mutex);
}

static void
provider_flush(struct provider *p)
{
    ovs_mutex_lock(&p->mutex);
    if (!threaded && hmap_count(&p->held)) {
        fail("%s: flush while it holds %"PRIuSIZE" connections",
             p->class.name, hmap_count(&p->held));
    }
    ovs_mutex_unlock(&p->mutex);
}

static void
provider_netdev_flush(struct provider *p, struct netdev *netdev)
{
    struct held *h;

    ovs_mutex_lock(&p->mutex);
    HMAP_FOR_EACH (h, node, &p->held) {
        if (h->side[0].netdev == netdev || h->side[1].netdev == netdev) {
            fail("%s: holds a connection of a port that is flushed",
                 p->class.name);
        }
    }
    p->n_netdev_flush++;
    ovs_mutex_unlock(&p->mutex);
}

#define PROVIDER_CALLBACKS(NAME, ID)                                        \
    static int                                                              \
    NAME##_init(void)                                                       \
    {                                                                       \
        return provider_init(&providers[ID]);                               \
    }                                                                       \
    static void                                                             \
    NAME##_exit(void)                                                       \
    {                                                                       \
        call_begin(&providers[ID], "exit");                                 \
        provider_exit(&providers[ID]);                                      \
        call_end(&providers[ID]);                                           \
        atomic_store(&providers[ID].live, false);                           \
    }                                                                       \
    static bool                                                             \
    NAME##_can_offload(const struct ct_offload_ctx *ctx)                    \
    {                                                                       \
        bool result;                                                        \
                                                                            \
        call_begin(&providers[ID], "can_offload");                          \
        result = provider_can_offload(&providers[ID], ctx);                 \
        call_end(&providers[ID]);                                           \
        return result;                                                      \
    }                                                                       \
    static int                                                              \
    NAME##_add(const struct ct_offload_ctx *ctx)                            \
    {                                                                       \
        int result;                                                         \
                                                                            \
        call_begin(&providers[ID], "add");                                  \
        result = provider_add(&providers[ID], ctx);                         \
        call_end(&providers[ID]);                                           \
        return result;                                                      \
    }                                                                       \
    static void                                                             \
    NAME##_del(const struct ct_offload_ctx *ctx)                            \
    {                                                                       \
        call_begin(&providers[ID], "del");                                  \
        provider_del(&providers[ID], ctx);                                  \
        call_end(&providers[ID]);                                           \
    }                                                                       \
    static int                                                              \
    NAME##_est(const struct ct_offload_ctx *ctx)                            \
    {                                                                       \
        int result;                                                         \
                                                                            \
        call_begin(&providers[ID], "est");                                  \
        result = provider_est(&providers[ID], ctx);                         \
        call_end(&providers[ID]);                                           \
        return result;                                                      \
    }                                                                       \
    static long long int                                                    \
    NAME##_upd(const struct ct_offload_ctx *ctx)                            \
    {                                                                       \
        long long int result;                                               \
                                                                            \
        call_begin(&providers[ID], "upd");                                  \
        result = provider_upd(&providers[ID], ctx);                         \
        call_end(&providers[ID]);                                           \
        return result;                                                      \
    }                                                                       \
    static void                                                             \
    NAME##_batch(struct ct_offload_op_batch *batch)                         \
    {                                                                       \
        call_begin(&providers[ID], "batch");                                \
        provider_batch(&providers[ID], batch);                              \
        call_end(&providers[ID]);                                           \
    }                                                                       \
    static void                                                             \
    NAME##_flush(void)                                                      \
    {                                                                       \
        call_begin(&providers[ID], "flush");                                \
        provider_flush(&providers[ID]);                                     \
        call_end(&providers[ID]);                                           \
    }                                                                       \
    static void                                                             \
    NAME##_netdev_flush(struct netdev *netdev)                              \
    {                                                                       \
        call_begin(&providers[ID], "netdev_flush");                         \
        provider_netdev_flush(&providers[ID], netdev);                      \
        call_end(&providers[ID]);                                           \
    }                                                                       \
    static const struct ct_offload_class NAME##_class = {                   \
        .name = #NAME,                                                      \
        .init = NAME##_init,                                                \
        .exit = NAME##_exit,                                                \
        .can_offload = NAME##_can_offload,                                  \
        .conn_add = NAME##_add,                                             \
        .conn_del = NAME##_del,                                             \
        .conn_established = NAME##_est,                                     \
        .conn_update = NAME##_upd,                                          \
        .batch_submit = NAME##_batch,                                       \
        .flush = NAME##_flush,                                              \
        .netdev_flush = NAME##_netdev_flush,                                \
    }

PROVIDER_CALLBACKS(a, 0);
PROVIDER_CALLBACKS(b, 1);
PROVIDER_CALLBACKS(c, 2);

/* One provider takes no batches, and does not forward packets by itself; one
 * is interested in established connections only; one may be called from
 * several threads. */
static void
providers_init(void)
{
    providers[0].class = a_class;
    providers[0].class.batch_submit = NULL;
    providers[1].class = b_class;
    providers[1].class.established_only = true;
    providers[1].class.may_bypass = true;
    providers[2].class = c_class;
    providers[2].class.thread_safe = true;
    providers[2].class.may_bypass = true;
    for (unsigned int i = 0; i < N_PROVIDERS; i++) {
        struct provider *p = &providers[i];

        p->id = i;
        atomic_flag_clear(&p->called);
        ovs_mutex_init(&p->mutex);
        ovs_mutex_lock(&p->mutex);
        hmap_init(&p->held);
        ovs_mutex_unlock(&p->mutex);
    }
}

/* Time, and the thread that cleans up.
 *
 * The thread sleeps in poll() until the clock says that it is time for the
 * next sweep.  A signal makes it look at the clock, which may have been
 * warped.  A sweep is over when it has reached a connection in its last list
 * which is there for that only. */

static struct conntrack *ct;
static long long int now;
static long long int next_sweep;

static void
wake(int sig_nr OVS_UNUSED)
{
    /* Interrupts poll(). */
}

static struct dp_packet *
compose(const struct flow *flow, const void *payload, size_t len)
{
    struct dp_packet *pkt = dp_packet_new(0);

    flow_compose(pkt, flow, payload, len, false);
    pkt_metadata_init(&pkt->md, u32_to_odp(1));
    return pkt;
}

/* Puts a connection that has expired, and that nobody offloads, into the last
 * list. */
static void
canary_create(void)
{
    struct flow flow = {
        .dl_type = htons(ETH_TYPE_IP),
        .nw_proto = IPPROTO_UDP,
        .nw_ttl = 64,
        .nw_src = htonl(0x0a0a0a0a),
        .nw_dst = htonl(0x0a0a0a0b),
        .tp_src = htons(PORT_CLIENT),
        .tp_dst = htons(PORT_TFTP),
    };
    unsigned int next_list = ct->next_list;
    struct dp_packet_batch batch;
    const struct rculist *node;
    struct conn *conn;

    ct->next_list = N_EXP_LISTS - 1;
    dp_packet_batch_init_packet(&batch, compose(&flow, NULL, 0));
    conntrack_execute(ct, &batch, flow.dl_type, false, true, CANARY_ZONE,
                      NULL, NULL, NULL, NULL, now, 0, NULL);
    dp_packet_delete_batch(&batch, true);
    node = rculist_front(&ct->exp_lists[N_EXP_LISTS - 1]);
    conn = CONTAINER_OF(CONST_CAST(struct rculist *, node), struct conn, node);
    atomic_store_relaxed(&conn->expiration, 0);
    ct->next_list = next_list;
}

static bool
canary_is_gone(void)
{
    bool gone;

    ovs_mutex_lock(&ct->ct_lock);
    gone = cmap_is_empty(&ct->conns[CANARY_ZONE]);
    ovs_mutex_unlock(&ct->ct_lock);
    return gone;
}

/* Lets the clock go on to 'now', when it is time for the next sweep, and waits
 * until that is over. */
static void
clean(void)
{
    /* The thread may not have fallen asleep yet: the sweep may start as soon
     * as the clock has been set. */
    canary_create();
    timeval_warp(now - time_msec());
    next_sweep = now + SWEEP_S * 1000;
    for (int i = 0; !canary_is_gone(); i++) {
        /* The signal may come just before poll(). */
        if (!(i % 64)) {
            pthread_kill(ct->clean_thread, SIGUSR1);
        }
        if (i < 256) {
            sched_yield();
        } else {
            xnanosleep(20 * 1000);
        }
    }
    ct_offload_barrier();
}

long long int timeout_ms[N_CT_TM];

static void
set_timeouts(void)
{
    struct timeout_policy tp;

    memset(&tp, 0, sizeof tp);
    for (size_t i = 0; i < CT_DPIF_TP_ATTR_MAX; i++) {
        tp.policy.attrs[i] = 10 * SWEEP_S;
        tp.policy.present |= 1u << i;
    }
    for (size_t i = 0; i < ARRAY_SIZE(timeouts); i++) {
        tp.policy.attrs[timeouts[i].attr] = (threaded ? 1 + i % 3
                                             : timeouts[i].s);
    }
    timeout_policy_update(ct, &tp);
    for (int i = 0; i < N_CT_TM; i++) {
        struct conn probe = { .tp_id = tp.policy.id };

        conn_init_expiration(ct, &probe, i, 0);
        atomic_read_relaxed(&probe.expiration, &timeout_ms[i]);
    }
}

/* Makes time virtual. */
static void
stop_time(void)
{
    now = time_msec();          /* Initializes the clock. */
    timeval_stop();
    now = time_msec();
    conntrack_set_sweep_interval(ct, SWEEP_S * 1000);

    /* The thread that cleans up may sleep the default interval first, and may
     * not even have begun to. */
    canary_create();
    for (int i = 1; !canary_is_gone(); i++) {
        if (!(i % 100)) {
            timeval_warp(SWEEP_S * 1000);
        }
        pthread_kill(ct->clean_thread, SIGUSR1);
        xnanosleep(100 * 1000);
    }
    now = time_msec() + 2 * SWEEP_S * 1000;
    clean();
}

/* Without limits, until a step changes them. */
unsigned int limit = UINT_MAX;
bool enabled = true;
bool config_bypass = false;

/* By default providers are called at once, so that after each step everything
 * is as it should be. */
unsigned int n_offload_threads = 0;

void
model_configure(void)
{
    struct smap config = SMAP_INITIALIZER(&config);

    smap_add_format(&config, "hw-offload-ct-threads", "%u",
                    n_offload_threads);
    smap_add(&config, "hw-offload-ct", enabled ? "true" : "false");
    smap_add(&config, "hw-offload-ct-bypass",
             config_bypass ? "true" : "false");
    smap_add_format(&config, "hw-offload-ct-size", "%u", limit);
    ct_offload_set_config(&config);
    smap_destroy(&config);

    if (!threaded) {
        /* Nothing is to happen between two steps. */
        ct_offload_threads_stop();
    }
}

static void
enable_offload(void)
{
    struct ovsrec_open_vswitch cfg;

    memset(&cfg, 0, sizeof cfg);
    smap_init(&cfg.other_config);
    smap_add(&cfg.other_config, "hw-offload", "true");
    smap_add_format(&cfg.other_config, "hw-offload-ct-threads", "%u",
                    n_offload_threads);
    dpif_offload_set_global_cfg(&cfg);
    ovs_assert(dpif_offload_enabled());
    smap_destroy(&cfg.other_config);
    model_configure();
}

/* The kind of test. */
static const struct model *model;

/* Prepares everything that does not depend on it. */
static void
start(void)
{
    struct sigaction action = { .sa_handler = wake };

    vlog_set_levels(NULL, VLF_ANY_DESTINATION, VLL_OFF);
    sigaction(SIGUSR1, &action, NULL);
    random_set_seed(seed ? seed : 1);
    for (int i = 0; i < N_NETDEVS; i++) {
        model_netdevs[i].name = xasprintf("port%d", i);
    }
    model->start();
    enable_offload();
    ct = conntrack_init();
}

/* The model. */

/* What the model knows of a connection. */
struct mconn {
    struct hmap_node node;      /* In 'mconns', by 'conn'. */
    size_t idx;                 /* In 'all'. */
    struct conn *conn;
    struct conn_key key[CT_DIRS];
    bool helper;                /* Stays in software. */
    bool related;               /* A helper's data connection. */
    bool nat;
    bool forced;                /* Made to expire. */
    bool gone;                  /* Forced, or another one has taken its place
                                 * when its time was up. */
    bool closed;                /* FIN or RST was seen. */
    bool no_seq_chk;            /* Packets may have bypassed software... */
    bool bypass;                /* ...and may now. */
    uint8_t uni;                /* Those with one direction only. */
    uint8_t held, est;          /* Providers. */
    bool room;                  /* Takes room in "hw-offload-ct-size". */
    struct side side[2];        /* While it has room. */
    bool await[2];              /* Is the next packet looked at? */
    bool await_fin;
    uint32_t mark;
    ovs_u128 label;
    enum ct_timeout tm;         /* For TCP: as the last burst left it. */
    long long int expiration;
    uint8_t tcp[2];             /* States of the peers. */
    uint32_t seq[2];            /* What they send next. */
    bool seq_unknown;           /* A packet with another one was accepted. */

    /* During a step. */
    long long int used;         /* What the providers said before. */
    unsigned int n_packets;     /* So many came for it... */
    bool touched;               /* ...and one was accepted... */
    bool fin;                   /* ...with FIN or RST. */
    bool was_established;
    bool adopt;                 /* See mconn_adopt(). */
    bool busy;                  /* In 'batch'. */
    bool add, establish, del;   /* What is to be done. */
};

static struct hmap mconns = HMAP_INITIALIZER(&mconns);
static struct mconn *all[4096];
static size_t n_all;

/* Connections for which something is to be done at the end of a burst. */
static struct mconn *batch[2 * MAX_PACKETS];
static size_t n_batch;

/* How often the providers should have been called. */
static struct {
    unsigned long long int n_add, n_error, n_del, n_est, n_est_error;
} expected[N_PROVIDERS];

/* What a run has done, to show that it was worth it. */
static struct {
    unsigned long long int packets, created, forced, evicted, extended,
        lapsed, no_room, established_only, bypassed, related, retired, moved,
        est_errors, adopted, settled, flooded;
} sum;

static bool
active(void)
{
    for (int i = 0; i < N_PROVIDERS; i++) {
        if (providers[i].registered) {
            return enabled && limit;
        }
    }
    return false;
}

/* Providers that accept connections: those with 'established_only', or the
 * others. */
static uint8_t
accepting(bool established_only)
{
    uint8_t mask = 0;

    for (int i = 0; i < N_PROVIDERS; i++) {
        if (providers[i].registered && enabled && limit
            && providers[i].class.established_only == established_only) {
            mask |= 1 << i;
        }
    }
    return mask;
}

/* May packets of what 'mask' holds bypass software? */
static bool
may_bypass(uint8_t mask)
{
    for (int i = 0; i < N_PROVIDERS; i++) {
        if (mask & (1 << i)
            && (config_bypass || providers[i].class.may_bypass)) {
            return true;
        }
    }
    return false;
}

/* Connections that take room. */
static unsigned int
n_room(void)
{
    unsigned int n = 0;

    for (size_t i = 0; i < n_all; i++) {
        n += all[i]->room;
    }
    return n;
}

static bool
mconn_is_tcp(const struct mconn *m)
{
    return m->key[0].nw_proto == IPPROTO_TCP;
}

static bool
is_alive(const struct mconn *m)
{
    return !m->forced && (now < m->expiration || m->bypass);
}

static bool
is_established(const struct mconn *m)
{
    return (m->tm == CT_TM_TCP_ESTABLISHED || m->tm == CT_TM_OTHER_BIDIR
            || m->tm == CT_TM_ICMP_REPLY);
}

static bool
key_equals(const struct conn_key *a, const struct conn_key *b)
{
    return (!memcmp(&a->src, &b->src, sizeof a->src)
            && !memcmp(&a->dst, &b->dst, sizeof a->dst)
            && a->dl_type == b->dl_type
            && a->zone == b->zone
            && a->nw_proto == b->nw_proto);
}

static struct mconn *
mconn_find(const struct conn *conn)
{
    struct mconn *m;

    HMAP_FOR_EACH_WITH_HASH (m, node, hash_pointer(conn, 0), &mconns) {
        if (m->conn == conn) {
            return m;
        }
    }
    return NULL;
}

/* Finds the connection that a packet with 'key' belongs to. */
static struct mconn *
mconn_lookup(const struct conn_key *key, bool *reply)
{
    struct mconn *found = NULL;

    for (size_t i = 0; i < n_all; i++) {
        struct mconn *m = all[i];

        for (int dir = 0; dir < CT_DIRS; dir++) {
            if (key_equals(&m->key[dir], key) && is_alive(m)) {
                if (found) {
                    fail("the test has two connections with one tuple");
                }
                found = m;
                *reply = dir == CT_DIR_REV;
            }
        }
    }
    return found;
}

/* Is a packet with 'key' a matter for a helper? */
static bool
is_control(const struct conn_key *key)
{
    return ((key->nw_proto == IPPROTO_TCP
             && (key->src.port == htons(PORT_FTP)
                 || key->dst.port == htons(PORT_FTP)))
            || (key->nw_proto == IPPROTO_UDP
                && key->dst.port == htons(PORT_TFTP)));
}

static struct mconn *
mconn_create(struct conn *conn)
{
    const struct conn_key *key = &conn->key_node[CT_DIR_FWD].key;
    struct mconn *m = xzalloc(sizeof *m);

    m->conn = conn;
    m->key[0] = *key;
    m->key[1] = conn->key_node[CT_DIR_REV].key;
    m->related = conn->alg_related;
    m->nat = conn->nat_action != 0;
    m->helper = (conn->alg || is_control(&m->key[0])
                 || is_control(&m->key[1]));
    m->tm = (key->nw_proto == IPPROTO_TCP ? CT_TM_TCP_FIRST_PACKET
             : key->nw_proto == IPPROTO_UDP ? CT_TM_OTHER_FIRST
             : CT_TM_ICMP_FIRST);
    m->expiration = LLONG_MAX;          /* Until the burst is over. */
    m->seq[1] = rng_next();
    m->n_packets = 1;
    m->touched = true;

    if (n_all >= ARRAY_SIZE(all)) {
        fail("too many connections");
    }
    m->idx = n_all;
    all[n_all++] = m;
    hmap_insert(&mconns, &m->node, hash_pointer(conn, 0));
    sum.created++;
    sum.related += m->related;
    return m;
}

/* The providers that hold 'm' should have been told DEL. */
static void
mconn_unhold(struct mconn *m)
{
    for (int i = 0; i < N_PROVIDERS; i++) {
        expected[i].n_del += (m->held >> i) & 1;
    }
    m->held = m->est = 0;
}

/* 'm', which nobody holds, gives up what it had for that. */
static void
mconn_release(struct mconn *m)
{
    m->uni = 0;
    m->room = m->bypass = false;
    memset(m->side, 0, sizeof m->side);
    m->await[0] = m->await_fin = false;
    m->await[1] = (!m->gone && !m->closed && accepting(true)
                   && !is_established(m));
}

/* 'm' should be gone from conntrack. */
static void
mconn_remove(struct mconn *m)
{
    mconn_unhold(m);
    hmap_remove(&mconns, &m->node);
    all[m->idx] = all[--n_all];
    all[m->idx]->idx = m->idx;
    free(m);
}

/* What the providers in 'mask' would say if they were asked now when 'm' was
 * last used. */
static long long int
last_used(const struct mconn *m, uint8_t mask)
{
    long long int newest = 0;

    for (int i = 0; i < N_PROVIDERS; i++) {
        struct provider *p = &providers[i];

        if (mask & (1 << i)) {
            ovs_mutex_lock(&p->mutex);
            const struct held *h = held_find(p, m->conn);
            if (h) {
                newest = MAX(newest, will_answer(p, h, now));
            }
            ovs_mutex_unlock(&p->mutex);
        }
    }
    return MIN(newest, now);
}

/* Returns the expiration of 'm' after a provider has said that it was last
 * used at 'used'. */
static long long int
extended(const struct mconn *m, long long int used)
{
    return used && m->expiration ? MAX(m->expiration, used + timeout_ms[m->tm])
                                 : m->expiration;
}

/* 'm' should be taken back into software.  Providers would say that it was
 * last used at 'used'. */
static void
mconn_evict(struct mconn *m, long long int used)
{
    if (m->held && m->bypass && !m->gone) {
        m->expiration = extended(m, used);
    }
    sum.evicted += m->held != 0;
    mconn_unhold(m);
    mconn_release(m);
}

/* Compares everything. */

static void
check_expiration(struct mconn *m)
{
    long long int expiration;

    atomic_read_relaxed(&m->conn->expiration, &expiration);
    if (expiration != (m->forced ? 0 : m->expiration)) {
        fail("connection %p expires at %lld instead of %lld (now %lld)",
             m->conn, expiration - now, m->expiration - now, now);
    }
}

static void
check_conn(struct mconn *m)
{
    const struct conn *conn = m->conn;

    check_expiration(m);
    if (ct_offload_conn_is_offloaded(conn) != (m->held != 0)) {
        fail("connection %p: offloaded is %d", conn, !m->held);
    }
    if (ct_offload_conn_is_established(conn)
        != (m->held && m->est == m->held)) {
        fail("connection %p: established is not %d", conn,
             m->held && m->est == m->held);
    }
    if (conntrack_offload_no_seq_chk(conn) != m->no_seq_chk) {
        fail("connection %p: bypassing of sequence checks is not %d", conn,
             m->no_seq_chk);
    }
    if (conn->mark != m->mark || !ovs_u128_equals(conn->label, m->label)) {
        fail("connection %p: wrong mark or labels", conn);
    }
    if (m->room != !!conn_get_offload(conn)) {
        fail("connection %p should%s take room", conn, m->room ? "" : " not");
    }
    if (!(step % 16) && conn_is_preceded(conn)) {
        fail("connection %p waits for a predecessor, though none is left",
             conn);
    }
}

static bool
side_equals(const struct side *a, const struct side *b)
{
    return (a->netdev == b->netdev && a->on_wire == b->on_wire
            && a->vlan == b->vlan);
}

static const char *
side_name(const struct side *side)
{
    return side->netdev ? side->netdev->name : "no port";
}

static void
check_held(struct provider *p, struct held *h)
{
    struct mconn *m = mconn_find(h->conn);
    uint8_t bit = 1 << p->id;

    if (!m) {
        fail("%s: holds connection %p, which is gone", p->class.name, h->conn);
    }
    if (!(m->held & bit)) {
        fail("%s: holds connection %p, but should not", p->class.name,
             h->conn);
    }
    if (h->est != ((m->est & bit) != 0)) {
        fail("%s: connection %p: est is %d", p->class.name, h->conn, h->est);
    }
    if (p->class.established_only && !h->est) {
        fail("%s: connection %p: not established", p->class.name, h->conn);
    }
    if (h->mark != m->mark || !ovs_u128_equals(h->labels, m->label)) {
        fail("%s: connection %p: outdated mark or labels", p->class.name,
             h->conn);
    }
    for (int i = 0; i <= h->est; i++) {
        if (!side_equals(&h->side[i], &m->side[i])) {
            fail("%s: connection %p: direction %d: %s, on wire %d, vlan %d "
                 "instead of %s, %d, %d", p->class.name, h->conn, i,
                 side_name(&h->side[i]), h->side[i].on_wire, h->side[i].vlan,
                 side_name(&m->side[i]), m->side[i].on_wire, m->side[i].vlan);
        }
    }
}

static void
check_provider(struct provider *p, bool counters)
{
    unsigned int n = 0;
    struct held *h;

    for (size_t i = 0; i < n_all; i++) {
        n += (all[i]->held >> p->id) & 1;
    }
    ovs_mutex_lock(&p->mutex);
    HMAP_FOR_EACH (h, node, &p->held) {
        check_held(p, h);
    }
    if (hmap_count(&p->held) != n
        || p->n_add - p->n_del - p->n_est_error != n) {
        fail("%s: holds %"PRIuSIZE" connections (%llu added, %llu deleted) "
             "instead of %u", p->class.name, hmap_count(&p->held), p->n_add,
             p->n_del, n);
    }
    if (counters
        && (p->n_add != expected[p->id].n_add
            || p->n_error != expected[p->id].n_error
            || p->n_del != expected[p->id].n_del
            || p->n_est != expected[p->id].n_est
            || p->n_est_error != expected[p->id].n_est_error)) {
        fail("%s: in all %llu add, %llu error, %llu del, %llu est, %llu error "
             "instead of %llu, %llu, %llu, %llu, %llu", p->class.name,
             p->n_add, p->n_error, p->n_del, p->n_est, p->n_est_error,
             expected[p->id].n_add, expected[p->id].n_error,
             expected[p->id].n_del, expected[p->id].n_est,
             expected[p->id].n_est_error);
    }
    expected[p->id].n_add = p->n_add;
    expected[p->id].n_error = p->n_error;
    expected[p->id].n_del = p->n_del;
    expected[p->id].n_est = p->n_est;
    expected[p->id].n_est_error = p->n_est_error;
    ovs_mutex_unlock(&p->mutex);
}

static void
check_stats(void)
{
    unsigned int offloaded = 0, established = 0;
    struct netdev_custom_stats stats;

    for (size_t i = 0; i < n_all; i++) {
        offloaded += all[i]->held != 0;
        established += (all[i]->held && all[i]->held == all[i]->est
                        && !(all[i]->uni & all[i]->held));
    }
    if (!ct_offload_get_stats(&stats)) {
        return;
    }
    if (stats.counters[0].value != established
        || stats.counters[1].value != offloaded - established) {
        fail("statistics say %"PRIu64" bi-dir, %"PRIu64" uni-dir instead of "
             "%u, %u", stats.counters[0].value, stats.counters[1].value,
             established, offloaded - established);
    }
    netdev_free_custom_stats_counters(&stats);
    free(stats.label);
}

/* "dpctl/dump-conntrack" shows exactly those that are alive. */
static void
check_dump(void)
{
    for (uint16_t zone = 0; zone < N_ZONES; zone++) {
        struct conntrack_dump dump;
        struct ct_dpif_entry entry;
        int n = 0, n_offloaded = 0, buckets;

        for (size_t i = 0; i < n_all; i++) {
            if (is_alive(all[i]) && all[i]->key[0].zone == zone) {
                n++;
                n_offloaded += all[i]->held != 0;
            }
        }
        conntrack_dump_start(ct, &dump, &zone, &buckets);
        while (!conntrack_dump_next(&dump, &entry)) {
            n--;
            n_offloaded -= (entry.status & CT_DPIF_STATUS_OFFLOAD) != 0;
            ct_dpif_entry_uninit(&entry);
        }
        conntrack_dump_done(&dump);
        if (n || n_offloaded) {
            fail("the dump of zone %"PRIu16" lacks %d connections, %d of them "
                 "offloaded", zone, n, n_offloaded);
        }
    }
}

/* After a step: does everything agree with the model?  Only if 'counters' is
 * true it also says how often providers should have been called. */
static void
check(bool counters)
{
    struct conn *conn;
    size_t n = 0;

    for (int i = 0; i < N_EXP_LISTS; i++) {
        RCULIST_FOR_EACH (conn, node, &ct->exp_lists[i]) {
            struct mconn *m = mconn_find(conn);

            if (!m) {
                fail("conntrack has connection %p, which should be gone",
                     conn);
            }
            check_conn(m);
            n++;
        }
    }
    if (n != n_all) {
        fail("conntrack has %"PRIuSIZE" connections instead of %"PRIuSIZE, n,
             n_all);
    }
    for (int i = 0; i < N_PROVIDERS; i++) {
        check_provider(&providers[i], counters);
    }
    if (limit != UINT_MAX && ct_offload_room_is_left() != (n_room() < limit)) {
        fail("there is%s room, though %u of %u take some",
             n_room() < limit ? " no" : "", n_room(), limit);
    }
}

/* Packets. */

enum kind {
    KIND_PLAIN,
    KIND_ICMP_ERROR,            /* About a packet the other way. */
};

struct packet {
    struct conn_key key;
    enum kind kind;
    uint16_t flags;             /* TCP. */
    uint32_t seq, ack;
    const char *payload;
    size_t len;
    bool wild;                  /* Out of any window. */
    struct dp_packet *pkt;
    uint8_t state;              /* What 'ct_state' was afterward. */
};

/* Did conntrack find 'p' invalid?  A helper may find a packet invalid
 * afterward. */
static bool
is_invalid(const struct packet *p)
{
    return (p->state & (CS_INVALID | CS_ESTABLISHED | CS_NEW)) == CS_INVALID;
}

/* One call of conntrack_execute(). */
struct burst {
    size_t n;
    bool force, commit;
    uint16_t zone;
    bool ipv6;
    const char *helper;
    const struct nat_action_info_t *nat; /* NULL or 'nat_info'. */
    struct nat_action_info_t nat_info;
    bool set_mark, set_label;
    uint32_t mark;
    struct netdev *netdev;
    bool rewritten;             /* Not as they came from 'netdev'. */
    bool made_here;             /* They came from no port. */
    uint16_t vlan;              /* Tag, 0 if none. */
    bool was_active;
    struct packet packets[MAX_PACKETS];
};

/* Where the last helper expects a connection to. */
static struct conn_key expectation;

static void
set_addr(struct ct_endpoint *endpoint, bool ipv6, uint8_t host)
{
    ovs_be32 ipv4 = htonl(0x0a000000 + host);

    memset(endpoint, 0, sizeof *endpoint);
    if (ipv6) {
        in6_addr_set_mapped_ipv4(&endpoint->addr.ipv6, ipv4);
    } else {
        endpoint->addr.ipv4 = ipv4;
    }
}

static struct dp_packet *
compose_plain(const struct packet *p)
{
    const struct conn_key *key = &p->key;
    struct dp_packet *pkt;
    struct flow flow;

    memset(&flow, 0, sizeof flow);
    flow.dl_type = key->dl_type;
    flow.nw_proto = key->nw_proto;
    flow.nw_ttl = 64;
    if (key->dl_type == htons(ETH_TYPE_IP)) {
        flow.nw_src = key->src.addr.ipv4;
        flow.nw_dst = key->dst.addr.ipv4;
    } else {
        flow.ipv6_src = key->src.addr.ipv6;
        flow.ipv6_dst = key->dst.addr.ipv6;
    }
    if (key->nw_proto == IPPROTO_ICMP || key->nw_proto == IPPROTO_ICMPV6) {
        flow.tp_src = htons(key->src.icmp_type);
        flow.tp_dst = htons(key->src.icmp_code);
        flow.igmp_group_ip4 = htonl((uint32_t) ntohs(key->src.icmp_id) << 16);
    } else {
        flow.tp_src = key->src.port;
        flow.tp_dst = key->dst.port;
    }
    pkt = compose(&flow, p->payload, p->len);

    if (key->nw_proto == IPPROTO_TCP) {
        struct tcp_header *th = dp_packet_l4(pkt);
        size_t size = TCP_HEADER_LEN + p->len;

        th->tcp_ctl = TCP_CTL(p->flags, TCP_HEADER_LEN / 4);
        th->tcp_winsz = htons(65535);
        put_16aligned_be32(&th->tcp_seq, htonl(p->seq));
        put_16aligned_be32(&th->tcp_ack, htonl(p->ack));
        th->tcp_csum = 0;
        th->tcp_csum = csum_finish(csum_continue(
            key->dl_type == htons(ETH_TYPE_IP)
            ? packet_csum_pseudoheader(dp_packet_l3(pkt))
            : packet_csum_pseudoheader6(dp_packet_l3(pkt)), th, size));
    } else if (key->nw_proto == IPPROTO_ICMP) {
        struct icmp_header *icmp = dp_packet_l4(pkt);

        icmp->icmp_fields.echo.id = key->src.icmp_id;
        icmp->icmp_csum = 0;
        icmp->icmp_csum = csum(icmp, ICMP_HEADER_LEN);
    }
    return pkt;
}

static void
key_reverse(struct conn_key *key)
{
    struct ct_endpoint src = key->src;

    key->src = key->dst;
    key->dst = src;
}

/* Returns an ICMP error, in the direction of 'p', about a packet the other
 * way. */
static struct dp_packet *
compose_error(const struct packet *p)
{
    struct packet about = { .key = p->key };
    struct dp_packet *inner, *pkt;
    struct icmp_header *icmp;
    struct ip_header *ip;
    struct flow flow = {
        .dl_type = htons(ETH_TYPE_IP),
        .nw_proto = IPPROTO_ICMP,
        .nw_ttl = 64,
        .nw_src = p->key.src.addr.ipv4,
        .nw_dst = p->key.dst.addr.ipv4,
        .tp_src = htons(ICMP4_DST_UNREACH),
        .tp_dst = htons(1),
    };

    key_reverse(&about.key);
    inner = compose_plain(&about);
    pkt = compose(&flow, NULL, 0);
    dp_packet_put(pkt, dp_packet_l3(inner), dp_packet_l3_size(inner));
    dp_packet_delete(inner);

    ip = dp_packet_l3(pkt);
    ip->ip_tot_len = htons(dp_packet_l3_size(pkt));
    ip->ip_csum = 0;
    ip->ip_csum = csum(ip, sizeof *ip);
    icmp = dp_packet_l4(pkt);
    icmp->icmp_csum = 0;
    icmp->icmp_csum = csum(icmp, dp_packet_l4_size(pkt));
    return pkt;
}

static void
note_endpoint(const struct conn_key *key, const struct ct_endpoint *endpoint)
{
    bool ipv6 = key->dl_type == htons(ETH_TYPE_IPV6);

    note("%u:%u", ipv6 ? endpoint->addr.ipv6.s6_addr[15]
                       : ntohl(endpoint->addr.ipv4) & 0xff,
         ntohs(endpoint->port));
}

static void
note_packet(const struct packet *p)
{
    note(" [%s%s ", p->key.nw_proto == IPPROTO_TCP ? "tcp"
                    : p->key.nw_proto == IPPROTO_UDP ? "udp" : "icmp",
         p->kind == KIND_ICMP_ERROR ? " error" : "");
    note_endpoint(&p->key, &p->key.src);
    note(">");
    note_endpoint(&p->key, &p->key.dst);
    if (p->key.nw_proto == IPPROTO_TCP && p->kind == KIND_PLAIN) {
        note(" %s%s%s%s%s", p->flags & TCP_SYN ? "S" : "",
             p->flags & TCP_FIN ? "F" : "", p->flags & TCP_RST ? "R" : "",
             p->flags & TCP_ACK ? "A" : "", p->wild ? " wild" : "");
    }
    note("]");
}

static void
note_burst(const struct burst *b)
{
    note(" zone=%"PRIu16"%s%s%s%s%s%s", b->zone, b->ipv6 ? " ipv6" : "",
         b->force ? " force" : "", b->commit ? " commit" : "",
         b->nat ? " nat" : "", b->helper ? " helper=" : "",
         b->helper ? b->helper : "");
    if (b->set_mark) {
        note(" mark=%u", b->mark);
    }
    if (b->set_label) {
        note(" label=%u", b->mark);
    }
    note(" %s%s%s", b->netdev ? b->netdev->name : "no-port",
         b->rewritten ? " rewritten" : "", b->made_here ? " made-here" : "");
    if (b->vlan) {
        note(" vlan=%u", b->vlan);
    }
    for (size_t i = 0; i < b->n; i++) {
        note_packet(&b->packets[i]);
    }
}

/* The model of what a packet does. */

/* Something is to be done for 'm' when the burst is over. */
static void
mconn_own(struct mconn *m)
{
    if (!m->busy) {
        m->busy = true;
        batch[n_batch++] = m;
    }
}

/* 'm' should be taken back into software when the burst is over.  Any offer
 * that was made before is off. */
static void
mconn_raise_del(struct mconn *m)
{
    m->add = m->establish = false;
    m->del = true;
    mconn_own(m);
}

static bool
mconn_take_room(struct mconn *m)
{
    if (!m->room && n_room() >= limit) {
        sum.no_room++;
        return false;
    }
    m->room = true;
    return true;
}

/* What packets of 'b' look like. */
static struct side
side_from_burst(const struct burst *b)
{
    struct side side = {
        .known = true,
        .netdev = b->made_here ? NULL : b->netdev,
        .on_wire = b->netdev && !b->rewritten && !b->made_here,
        .vlan = b->vlan,
    };

    return side;
}

/* Does 'new' show that 'old' is out of date? */
static bool
side_has_moved(const struct side *old, const struct side *new)
{
    return (new->netdev
            && (new->netdev != old->netdev
                || (new->on_wire && (!old->on_wire
                                     || new->vlan != old->vlan))));
}

/* 'm' was just created by 'b'. */
static void
mconn_init(struct mconn *m, const struct burst *b)
{
    if (!b->was_active) {
        return;
    }
    if (!accepting(false)) {
        m->await[1] = accepting(true) != 0;
    } else if (mconn_take_room(m)) {
        m->side[0] = side_from_burst(b);
        m->await[1] = true;
        m->await_fin = mconn_is_tcp(m);
        m->add = true;
        mconn_own(m);
    }
}

/* 'm', which nobody holds, has a packet in direction 'dir'.  Returns true if
 * it may be offered to providers, and whether it has no owner in '*owned'. */
static bool
mconn_learn_own(struct mconn *m, int dir, bool *owned)
{
    if (!accepting(false) && !(accepting(true) && is_established(m))) {
        m->await[0] = false;
        m->await[1] = accepting(true) != 0;
        return false;
    }
    if (!m->room && dir == CT_DIR_REV) {
        m->await[1] = false;
        m->await[0] = true;
        return false;
    }
    if (!m->room && m->helper) {
        m->await[0] = m->await[1] = m->await_fin = false;
        return false;
    }
    *owned = !m->busy && !m->gone;
    if (*owned && !mconn_take_room(m)) {
        m->await[0] = m->await[1] = m->await_fin = false;
    }
    return m->room;
}

/* A packet of direction 'dir' of 'm' is looked at. */
static void
mconn_learn(struct mconn *m, const struct burst *b, int dir)
{
    struct side side = side_from_burst(b);
    bool owned = false, again = false;
    uint8_t takers, established;

    if (!m->held && !mconn_learn_own(m, dir, &owned)) {
        return;
    }
    established = accepting(true);
    takers = ((accepting(false) | (is_established(m) ? established : 0))
              & ~m->held);
    if (!m->side[dir].known || owned) {
        m->side[dir] = side;
    } else if (m->held && side_has_moved(&m->side[dir], &side)) {
        m->await[dir] = false;
        mconn_raise_del(m);
        sum.moved++;
        return;
    }

    /* Those that want established connections only need the reply's port. */
    if (takers && m->busy) {
        again = true;
    } else if (takers & ((dir ? 0 : accepting(false))
                         | (m->side[1].known ? established : 0))) {
        m->add = true;
        mconn_own(m);
    }
    if (m->side[1].known && (!m->held || m->est != m->held || m->add)) {
        m->establish = true;
        mconn_own(m);
    }
    if (mconn_is_tcp(m) && (m->add || m->establish)) {
        m->await_fin = true;
    }
    m->await[dir] = again;
    if (!m->side[1].known || established & ~m->held & ~takers) {
        m->await[1] = true;
    }
}

/* 'm' should be made to expire, because another takes its place. */
static void
mconn_force(struct mconn *m)
{
    m->forced = true;
    m->expiration = 0;

    /* What has nothing to do with offload does not hear of it. */
    m->gone |= active() || conn_offload_state(m->conn) & CONN_OFFLOAD_GONE;
    if (m->held || m->busy) {
        mconn_raise_del(m);
    }
    sum.forced++;
}

/* 'p' was accepted for 'm', and not as the first one of a connection that is
 * to take its place. */
static void
mconn_seen(struct mconn *m, const struct burst *b, const struct packet *p,
           bool reply)
{
    bool fin = (m->await_fin && mconn_is_tcp(m)
                && p->flags & (TCP_FIN | TCP_RST));

    if (m->await[reply] && (!reply || p->state & CS_ESTABLISHED)) {
        mconn_learn(m, b, reply);
    }
    if (fin && (!m->gone || m->held || m->busy)) {
        m->await_fin = false;
        m->closed = true;
        mconn_raise_del(m);
    }
}

/* Follows the sequence numbers. */
static void
mconn_sent(struct mconn *m, const struct packet *p, bool reply)
{
    if (mconn_is_tcp(m) && !p->wild) {
        m->seq_unknown |= (p->seq != m->seq[reply]
                           || (p->flags & TCP_ACK
                               && p->ack != m->seq[!reply]));
        m->seq[reply] = p->seq + p->len + (p->flags & TCP_SYN ? 1 : 0)
                        + (p->flags & TCP_FIN ? 1 : 0);
    }
}

/* Sequence numbers of established connections are checked exactly if packets
 * cannot have bypassed software. */
static void
check_wild(struct mconn *m, bool valid)
{
    if (m->no_seq_chk && !valid) {
        fail("connection %p: a packet with a wild sequence number was refused,"
             " though packets may have bypassed software", m->conn);
    }
    if (!m->no_seq_chk && valid && !m->seq_unknown && !m->touched
        && m->tcp[0] == CT_DPIF_TCPS_ESTABLISHED
        && m->tcp[1] == CT_DPIF_TCPS_ESTABLISHED) {
        fail("connection %p: a packet with a wild sequence number was "
             "accepted", m->conn);
    }
    sum.bypassed += m->no_seq_chk;
}

/* If this is the only packet of a burst for 'm', a TCP connection, then this
 * is the timeout that is applied now.  (If there are more packets then the
 * model does not know exactly when a connection was established.) */
static void
mconn_tcp_timeout(struct mconn *m)
{
    uint8_t tm;

    if (mconn_is_tcp(m)) {
        atomic_read_relaxed(&m->conn->timeout, &tm);
        m->tm = tm;
    }
}

/* 'p' was found to belong to 'm', and updated it.  Returns true if another
 * connection should take the place of 'm'. */
static bool
mconn_update(struct mconn *m, const struct burst *b, const struct packet *p,
             bool reply)
{
    bool valid = p->state & CS_ESTABLISHED;

    m->n_packets++;
    if (mconn_is_tcp(m) && (p->flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN))
        == TCP_SYN
        && m->tcp[0] >= CT_DPIF_TCPS_FIN_WAIT_2
        && m->tcp[1] >= CT_DPIF_TCPS_FIN_WAIT_2) {
        mconn_force(m);
        return true;
    }
    if (p->wild) {
        if (b->n == 1) {
            check_wild(m, !is_invalid(p));
        }
        m->seq_unknown |= !is_invalid(p);
    }
    if (is_invalid(p)) {
        return false;
    }
    if (valid != !(p->state & CS_NEW) || (valid && reply
                                          != !!(p->state & CS_REPLY_DIR))) {
        fail("unexpected ct_state %"PRIx8, p->state);
    }
    m->touched = true;
    m->fin |= (p->flags & (TCP_FIN | TCP_RST)) != 0;
    mconn_sent(m, p, reply);
    if (m->key[0].nw_proto == IPPROTO_UDP) {
        m->tm = (reply || m->tm == CT_TM_OTHER_BIDIR ? CT_TM_OTHER_BIDIR
                 : CT_TM_OTHER_MULTIPLE);
    } else if (!mconn_is_tcp(m) && reply) {
        m->tm = CT_TM_ICMP_REPLY;
    }

    mconn_tcp_timeout(m);
    mconn_seen(m, b, p, reply);
    return false;
}

/* The mark and labels of 'm' were set. */
static void
mconn_mark(struct mconn *m, const struct burst *b)
{
    ovs_u128 label = { .u32[0] = b->mark };

    if (m->related) {
        return;
    }
    if (((b->set_mark && m->mark != b->mark)
         || (b->set_label && !ovs_u128_equals(m->label, label)))
        && (m->held || m->busy)
        && !(n_batch && batch[n_batch - 1] == m && m->add && !m->held)) {
        mconn_raise_del(m);
    }
    if (b->set_mark) {
        m->mark = b->mark;
    }
    if (b->set_label) {
        m->label = label;
    }
}

/* Goes through what 'p' should have done.  If a connection was created, then
 * it is '*created'.  Returns true if one was. */
static bool
model_packet(const struct burst *b, const struct packet *p,
             struct conn *created)
{
    bool reply = false;
    struct mconn *m = mconn_lookup(&p->key, &reply);
    bool create = false;
    bool is_new = false;

    if (m && b->force && reply) {
        mconn_force(m);
        m = NULL;
    }
    if (p->kind == KIND_ICMP_ERROR) {
        if (!(p->state & (m ? CS_RELATED : CS_INVALID))) {
            fail("unexpected ct_state %"PRIx8, p->state);
        }
    } else if (!m || mconn_update(m, b, p, reply)) {
        m = NULL;
        create = b->commit && !is_invalid(p);
    }

    if (create) {
        if (created && key_equals(&created->key_node[CT_DIR_FWD].key,
                                  &p->key)) {
            m = mconn_create(created);
            m->seq[0] = p->seq;
            mconn_sent(m, p, false);
            m->seq_unknown = false;
            m->fin = (p->flags & (TCP_FIN | TCP_RST)) != 0;
            if (m->related) {
                m->mark = created->mark;
                m->label = created->label;
            }
            is_new = true;
            mconn_init(m, b);
        } else if (!b->nat) {
            fail("no connection was created");
        }
    }
    if (m) {
        mconn_mark(m, b);
    }
    return is_new;
}

/* Has 'other' a tuple of 'm'? */
static bool
mconn_same_tuple(const struct mconn *m, const struct mconn *other)
{
    return (other != m
            && (key_equals(&m->key[0], &other->key[0])
                || key_equals(&m->key[0], &other->key[1])
                || (m->nat && (key_equals(&m->key[1], &other->key[0])
                               || key_equals(&m->key[1], &other->key[1])))));
}

/* Providers should give up what has a tuple of 'm', and the time of which is
 * up. */
static void
mconn_retire_others(const struct mconn *m)
{
    for (size_t i = 0; i < n_all; i++) {
        struct mconn *other = all[i];

        if (!other->gone && !is_alive(other)
            && mconn_same_tuple(m, other)) {
            sum.retired += other->held != 0;
            other->gone = true;
            if (other->held) {
                mconn_unhold(other);
                mconn_release(other);
            }
        }
    }
}

/* 'm' should be offered to the providers.  Returns the first error. */
static int
mconn_add(struct mconn *m)
{
    int error = 0;

    if (m->gone || m->closed || now >= m->expiration || !m->room
        || m->helper) {
        error = EOPNOTSUPP;
    } else if (mconn_is_tcp(m)
               && MAX(m->tcp[0], m->tcp[1]) > CT_DPIF_TCPS_ESTABLISHED) {
        m->closed = true;
        error = EOPNOTSUPP;
    } else if (m->side[0].stopped) {
        error = EOPNOTSUPP;
    } else {
        bool established;

        m->side[1].known &= !m->side[1].stopped;
        established = m->side[1].known && is_established(m);
        mconn_retire_others(m);
        for (int i = 0; i < N_PROVIDERS; i++) {
            struct provider *p = &providers[i];

            if (!p->registered || m->held & (1 << i)
                || (p->class.established_only && !established)
                || will_refuse(p, m->conn)) {
                continue;
            }
            if (will_err(p, m->conn)) {
                expected[i].n_error++;
                error = ENOSPC;
            } else {
                expected[i].n_add++;
                m->held |= 1 << i;
                sum.established_only += p->class.established_only;
            }
        }
    }
    if (!m->held) {
        mconn_release(m);
    }
    return error;
}

/* Those who hold 'm' should be told that it is established. */
static void
mconn_establish(struct mconn *m)
{
    if (!m->held) {
        return;
    }
    if (!m->side[1].known) {
        m->await[1] = true;
        return;
    }
    if (now >= m->expiration && !m->bypass) {
        return;
    }
    if (may_bypass(m->held)) {
        m->bypass = m->no_seq_chk = true;
    }
    for (int i = 0; i < N_PROVIDERS; i++) {
        struct provider *p = &providers[i];

        if (!(m->held & ~m->est & (1 << i))) {
            continue;
        }
        if (will_err_est(p, m->conn)) {
            expected[i].n_est_error++;
            m->held &= ~(1 << i);
            sum.est_errors++;
        } else {
            expected[i].n_est++;
            m->est |= 1 << i;
            m->uni &= ~(1 << i);
            m->uni |= will_be_uni_dir(p, m->conn) << i;
        }
    }
    if (!may_bypass(m->est)) {
        m->bypass = false;
    }
    if (!m->held) {
        mconn_release(m);
    }
}

/* Several packets of a TCP connection were in one burst, so that the model
 * does not know exactly when it was established: takes over what the layer
 * says of 'm', which check() compares with what providers say. */
static void
mconn_adopt(struct mconn *m)
{
    uint32_t state = conn_offload_state(m->conn);
    struct conn_offload *offload = conn_get_offload(m->conn);

    m->held = m->est = m->uni = 0;
    for (int i = 0; i < N_PROVIDERS; i++) {
        struct provider *p = &providers[i];
        struct held *h;

        ovs_mutex_lock(&p->mutex);
        h = held_find(p, m->conn);
        m->held |= h ? 1 << i : 0;
        m->est |= h && h->est ? 1 << i : 0;
        m->uni |= h && h->uni_dir ? 1 << i : 0;
        ovs_mutex_unlock(&p->mutex);
    }
    m->closed = conn_is_closed(m->conn);
    if (m->held && (m->closed || state & CONN_OFFLOAD_GONE)) {
        fail("connection %p is held, though it is closed", m->conn);
    }
    m->gone = state & CONN_OFFLOAD_GONE;
    m->bypass = state & CONN_OFFLOAD_BYPASS;
    m->no_seq_chk = state & CONN_OFFLOAD_NO_SEQ_CHK;
    m->room = offload != NULL;
    m->await[0] = state & CONN_OFFLOAD_AWAIT_ORIG;
    m->await[1] = state & CONN_OFFLOAD_AWAIT_REPLY;
    m->await_fin = state & CONN_OFFLOAD_AWAIT_FIN;
    memset(m->side, 0, sizeof m->side);
    for (int dir = 0; dir < CT_DIRS && m->room; dir++) {
        struct ct_offload_ctx ctx;
        uint32_t port;

        memset(&ctx, 0, sizeof ctx);
        if (conn_side_get(offload, dir, &ctx, &port)) {
            ctx.netdev_in = ct_offload_port_get_netdev(port);
            m->side[dir] = side_from_ctx(&ctx);
        }
    }
    atomic_read_relaxed(&m->conn->expiration, &m->expiration);
}

/* The burst is over: what is known of 'm' in software. */
static void
mconn_finish(struct mconn *m)
{
    long long int expiration;

    if (!m->n_packets) {
        return;
    }
    atomic_read_relaxed(&m->conn->expiration, &expiration);
    mconn_tcp_timeout(m);
    if (mconn_is_tcp(m)) {
        ct_offload_conn_get_tcp_state(m->conn, &m->tcp[0], &m->tcp[1]);
    }
    if (m->touched && !m->forced
        && (!mconn_is_tcp(m) || expiration == now + timeout_ms[m->tm])) {
        /* A TCP packet may be accepted without extending the connection. */
        m->expiration = now + timeout_ms[m->tm];
    }
    m->adopt = (mconn_is_tcp(m) && m->n_packets > 1
                && !(m->was_established && is_established(m))
                && (m->was_established || is_established(m) || m->fin));
}

/* The burst is over: what should have become of the connections.  Returns
 * false if the model does not know how often providers should have been
 * called. */
static bool
model_end(void)
{
    bool exact = true;

    for (size_t i = 0; i < n_all; i++) {
        mconn_finish(all[i]);
    }
    for (size_t i = 0; i < n_batch; i++) {
        struct mconn *m = batch[i];

        if (m->del && !m->adopt) {
            mconn_evict(m, m->used);
        }
    }
    for (size_t i = 0; i < n_batch; i++) {
        struct mconn *m = batch[i];

        if (m->add && !m->adopt) {
            mconn_add(m);
        }
        if (m->establish && !m->adopt) {
            mconn_establish(m);
        }
    }
    for (size_t i = 0; i < n_all; i++) {
        for (size_t j = 0; all[i]->adopt && j < n_all; j++) {
            if (!all[j]->adopt && mconn_same_tuple(all[i], all[j])) {
                mconn_adopt(all[j]);
            }
        }
    }
    for (size_t i = 0; i < n_all; i++) {
        struct mconn *m = all[i];

        if (m->adopt) {
            mconn_adopt(m);
            sum.adopted++;
            exact = false;
        }
        m->n_packets = 0;
        m->touched = m->fin = m->adopt = false;
        m->busy = m->add = m->establish = m->del = false;
    }
    n_batch = 0;
    return exact;
}

/* 'b' is about to be sent. */
static void
model_begin(struct burst *b)
{
    b->was_active = active();
    for (size_t i = 0; i < n_all; i++) {
        all[i]->used = last_used(all[i], all[i]->held);
        all[i]->was_established = is_established(all[i]);
    }
}

/* Has 'pkt' look as 'b' says. */
static void
finish_packet(struct dp_packet *pkt, const struct burst *b)
{
    if (b->vlan) {
        eth_push_vlan(pkt, htons(ETH_TYPE_VLAN_8021Q), htons(b->vlan));
    }
    ct_offload_wire_receive(pkt, !b->made_here);
    if (b->rewritten && !b->made_here) {
        pkt->md.ct_wire = pkt->md.ct_wire == 1 ? 2 : 1;
    }
}

/* Sends 'b' through conntrack, and compares what happens to connections.
 * Deletes the packets. */
static void
execute(struct burst *b)
{
    struct conn *created[MAX_PACKETS];
    size_t n_created, n_expected = 0;
    struct dp_packet_batch packets;
    uint32_t mark[2] = { b->mark, UINT32_MAX };
    struct ovs_key_ct_labels label[2];
    unsigned int first;

    memset(label, 0, sizeof label);
    label[0].ct_labels_32[0] = b->mark;
    memset(&label[1], 0xff, sizeof label[1]);
    note_burst(b);

    dp_packet_batch_init(&packets);
    for (size_t i = 0; i < b->n; i++) {
        struct packet *p = &b->packets[i];

        p->pkt = (p->kind == KIND_ICMP_ERROR ? compose_error(p)
                  : compose_plain(p));
        finish_packet(p->pkt, b);
        dp_packet_batch_add(&packets, p->pkt);
    }

    /* The last list is for the canary. */
    if (ct->next_list + b->n >= N_EXP_LISTS - 1) {
        ct->next_list = 0;
    }
    first = ct->next_list;
    model_begin(b);
    conntrack_execute(ct, &packets,
                      htons(b->ipv6 ? ETH_TYPE_IPV6 : ETH_TYPE_IP), b->force,
                      b->commit, b->zone, b->set_mark ? mark : NULL,
                      b->set_label ? label : NULL, b->helper, b->nat, now, 0,
                      b->netdev);
    note(" =>");
    for (size_t i = 0; i < b->n; i++) {
        b->packets[i].state = b->packets[i].pkt->md.ct_state;
        note(" %"PRIx8, b->packets[i].state);
    }
    dp_packet_delete_batch(&packets, true);

    n_created = ct->next_list - first;
    for (size_t i = 0; i < n_created; i++) {
        const struct rculist *node = rculist_front(&ct->exp_lists[first + i]);

        created[i] = CONTAINER_OF(CONST_CAST(struct rculist *, node),
                                  struct conn, node);
    }
    for (size_t i = 0; i < b->n; i++) {
        n_expected += model_packet(b, &b->packets[i],
                                   n_expected < n_created
                                   ? created[n_expected] : NULL);
    }
    if (n_created != n_expected) {
        fail("%"PRIuSIZE" connections were created instead of %"PRIuSIZE,
             n_created, n_expected);
    }
    sum.packets += b->n;
    check(model_end());
}

/* Making up packets. */

static void
set_nat(struct burst *b, bool dst)
{
    struct nat_action_info_t *info = &b->nat_info;
    struct ct_endpoint endpoint;

    b->nat = info;
    set_addr(&endpoint, b->ipv6, dst ? 102 : 101);
    info->min_addr = endpoint.addr;
    info->max_addr = endpoint.addr;
    info->nat_action = dst ? NAT_ACTION_DST : NAT_ACTION_SRC;
    if (!dst && percent(50)) {
        /* So few that there may be none left. */
        info->nat_action |= NAT_ACTION_SRC_PORT;
        info->min_port = 2000;
        info->max_port = 2001;
    }
}

/* Flags and sequence numbers of a TCP packet for 'm', or for a new connection
 * if that is NULL.  A packet that can make room for another connection is not
 * good if it is not the 'first'. */
static void
make_tcp(struct packet *p, const struct mconn *m, bool reply, bool first)
{
    uint32_t r = pick(100);

    if (!m) {
        p->flags = (r < 65 ? TCP_SYN
                    : r < 85 ? TCP_ACK
                    : r < 90 ? TCP_SYN | TCP_ACK
                    : r < 95 ? TCP_FIN | TCP_ACK
                    : r < 98 ? TCP_RST
                    : TCP_SYN | TCP_FIN);
        p->seq = rng_next();
        p->ack = p->flags & TCP_ACK ? rng_next() : 0;
    } else {
        bool opening = m->tcp[reply] <= CT_DPIF_TCPS_SYN_SENT;

        p->flags = TCP_ACK;
        if (r < 60) {
            if (reply && opening && percent(75)) {
                p->flags |= TCP_SYN;
            }
        } else if (r < 66) {
            p->flags |= TCP_FIN;
        } else if (r < 70) {
            p->flags = TCP_RST | (percent(50) ? TCP_ACK : 0);
        } else if (r < 76) {
            p->flags = TCP_SYN;
        } else if (r < 84) {
            p->wild = true;
        } else if (r < 86) {
            p->flags = TCP_SYN | TCP_FIN;
        }
        p->seq = m->seq[reply];
        p->ack = p->flags & TCP_ACK ? m->seq[!reply] : 0;
        if (p->wild) {
            /* Only packets with data are checked. */
            p->seq += 0x60000000;
            p->len = 10;
        } else if (percent(20)) {
            p->len = 1 + pick(100);
        }
    }
    if (p->flags == TCP_SYN && !first) {
        p->flags = TCP_ACK;
        p->ack = m ? m->seq[!reply] : rng_next();
    }
}

/* Has an earlier packet of 'b' the addresses and ports of 'p'? */
static bool
is_first(const struct burst *b, const struct packet *p)
{
    struct conn_key key = p->key;

    key_reverse(&key);
    for (size_t i = 0; i < b->n; i++) {
        const struct packet *other = &b->packets[i];

        if (other != p && (key_equals(&other->key, &p->key)
                           || key_equals(&other->key, &key))) {
            return false;
        }
    }
    return true;
}

/* Makes the next packet of 'b' one in the direction of 'key'. */
static struct packet *
add_packet(struct burst *b, const struct conn_key *key)
{
    struct packet *p = &b->packets[b->n++];
    bool reply = false;

    memset(p, 0, sizeof *p);
    p->key = *key;
    if (key->nw_proto == IPPROTO_ICMP || key->nw_proto == IPPROTO_ICMPV6) {
        p->key.dst.icmp_id = p->key.src.icmp_id;
    }
    if (key->nw_proto == IPPROTO_TCP) {
        const struct mconn *m = mconn_lookup(key, &reply);

        make_tcp(p, m, reply, is_first(b, p));
    }
    if (key->dl_type == htons(ETH_TYPE_IP)
        && (key->nw_proto == IPPROTO_TCP || key->nw_proto == IPPROTO_UDP)
        && !b->nat && percent(4)) {
        p->kind = KIND_ICMP_ERROR;
        p->wild = false;
        p->payload = NULL;
        p->len = 0;
    }
    return p;
}

/* Makes the next packet of 'b' one from a client to the server. */
static struct packet *
add_request(struct burst *b)
{
    unsigned int client = b->nat ? 20 + pick(4) : pick(N_CLIENTS);
    struct conn_key key;
    uint32_t r = pick(100);

    memset(&key, 0, sizeof key);
    key.dl_type = htons(b->ipv6 ? ETH_TYPE_IPV6 : ETH_TYPE_IP);
    key.zone = b->zone;
    set_addr(&key.src, b->ipv6, 1);
    set_addr(&key.dst, b->ipv6, 2);
    if (r < 20) {
        key.nw_proto = b->ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP;
        key.src.icmp_id = key.dst.icmp_id = htons(client);
        key.src.icmp_type = b->ipv6 ? ICMP6_ECHO_REQUEST : ICMP4_ECHO_REQUEST;
        key.dst.icmp_type = b->ipv6 ? ICMP6_ECHO_REPLY : ICMP4_ECHO_REPLY;
    } else {
        bool udp = r < 55;

        key.nw_proto = udp ? IPPROTO_UDP : IPPROTO_TCP;
        key.src.port = htons(PORT_CLIENT + client);
        key.dst.port = htons(b->nat || percent(90) ? PORT_SERVER
                             : udp ? PORT_TFTP : PORT_FTP);
    }
    return add_packet(b, &key);
}

/* Makes the next packet of 'b' one of a connection that there is, or was a
 * short time ago. */
static bool
add_known(struct burst *b)
{
    for (int i = 0; i < 8 && n_all; i++) {
        const struct mconn *m = all[pick(n_all)];
        const struct conn_key *key = &m->key[pick(100) < 45];

        if (key->zone == b->zone
            && key->dl_type == htons(b->ipv6 ? ETH_TYPE_IPV6 : ETH_TYPE_IP)
            && m->nat == (b->nat != NULL)
            && (!m->nat || (is_alive(m) && !b->force))) {
            add_packet(b, key);
            return true;
        }
    }
    return false;
}

static struct netdev *
pick_netdev(void)
{
    return percent(10) ? NULL : &model_netdevs[pick(N_NETDEVS)];
}

static void
burst_init(struct burst *b)
{
    memset(b, 0, offsetof(struct burst, packets));
    b->zone = pick(N_ZONES);
    b->ipv6 = percent(30);
    b->commit = percent(60);
    b->force = b->commit && percent(15);
    b->netdev = pick_netdev();
    if (b->commit && percent(15)) {
        b->set_mark = percent(70);
        b->set_label = !b->set_mark || percent(30);
        b->mark = 1 + pick(3);
    }
    b->rewritten = percent(8);
    b->made_here = percent(4);
    b->vlan = percent(85) ? 0 : 1 + pick(2);
}

static void
step_burst(void)
{
    struct burst b;
    size_t n = 1;

    burst_init(&b);
    if (percent(15)) {
        set_nat(&b, percent(40));
        b.force = false;
    } else if (percent(30)) {
        n = percent(10) ? MAX_PACKETS : 2 + pick(8);
        if (n == MAX_PACKETS) {
            b.set_mark = b.set_label = b.force = false;
        }
    }
    for (size_t i = 0; i < n; i++) {
        if (percent(40) || !add_known(&b)) {
            add_request(&b);
        }

        /* If the model does not know exactly who takes room, then there must
         * be enough: see mconn_adopt(). */
        if (limit != UINT_MAX && b.packets[b.n - 1].key.nw_proto == IPPROTO_TCP
            && !is_first(&b, &b.packets[b.n - 1])) {
            b.n--;
        }
    }
    if (n == 1 && !b.nat && b.commit && percent(10)) {
        b.helper = percent(50) ? "ftp" : "tftp";
    }
    execute(&b);
}

/* Takes one connection a bit further: what it most likely does next. */
static void
step_dialog(void)
{
    const struct mconn *m;
    struct burst b;
    bool reply = false;

    if (!n_all) {
        return;
    }
    m = all[pick(n_all)];
    burst_init(&b);
    b.zone = m->key[0].zone;
    b.ipv6 = m->key[0].dl_type == htons(ETH_TYPE_IPV6);
    b.commit = b.force = b.set_mark = b.set_label = false;
    if (!is_alive(m)) {
        return;
    }
    if (mconn_is_tcp(m)) {
        reply = (m->tcp[1] < CT_DPIF_TCPS_SYN_SENT
                 || (m->tcp[0] == CT_DPIF_TCPS_ESTABLISHED && percent(50)));
    } else {
        reply = percent(60);
    }
    if (m->nat) {
        set_nat(&b, false);
    }
    if (m->side[reply].known && percent(80)) {
        b.netdev = m->side[reply].netdev;
        b.rewritten = !m->side[reply].on_wire;
        b.made_here = false;
        b.vlan = m->side[reply].vlan;
    }

    struct packet *p = add_packet(&b, &m->key[reply]);
    p->kind = KIND_PLAIN;
    p->wild = false;
    p->len = 0;
    p->flags = TCP_ACK;
    if (mconn_is_tcp(m) && reply && m->tcp[1] < CT_DPIF_TCPS_SYN_SENT) {
        p->flags |= TCP_SYN;
    }
    p->seq = m->seq[reply];
    p->ack = m->seq[!reply];
    execute(&b);
}

/* Has a helper expect a data connection, or makes that. */
static void
step_helper(void)
{
    struct packet *p;
    struct burst b;

    burst_init(&b);
    b.set_mark = b.set_label = b.force = false;
    b.commit = true;
    if (expectation.nw_proto && percent(50)) {
        b.zone = expectation.zone;
        b.ipv6 = expectation.dl_type == htons(ETH_TYPE_IPV6);
        expectation.src.port = htons(PORT_FTP_DATA);
        if (expectation.nw_proto == IPPROTO_UDP) {
            expectation.src.port = htons(20000 + pick(2));
        }
        p = add_packet(&b, &expectation);
        p->kind = KIND_PLAIN;
    } else {
        bool udp = percent(50);
        char *payload = NULL;

        b.helper = udp ? "tftp" : "ftp";
        b.ipv6 = udp && b.ipv6;
        p = &b.packets[b.n++];
        memset(p, 0, sizeof *p);
        p->key.dl_type = htons(b.ipv6 ? ETH_TYPE_IPV6 : ETH_TYPE_IP);
        p->key.zone = b.zone;
        p->key.nw_proto = udp ? IPPROTO_UDP : IPPROTO_TCP;
        set_addr(&p->key.src, b.ipv6, 1);
        set_addr(&p->key.dst, b.ipv6, 2);
        p->key.src.port = htons(PORT_CLIENT + pick(N_CLIENTS));
        p->key.dst.port = htons(udp ? PORT_TFTP : PORT_FTP);
        p->flags = TCP_ACK;
        expectation = p->key;
        key_reverse(&expectation);
        if (!udp) {
            bool reply;
            const struct mconn *m = mconn_lookup(&p->key, &reply);
            uint16_t port = 1024 + pick(2);

            p->seq = m ? m->seq[0] : rng_next();
            p->ack = m ? m->seq[1] : rng_next();
            payload = xasprintf("PORT 10,0,0,1,%d,%d\r\n", port >> 8,
                                port & 0xff);
            p->payload = payload;
            p->len = strlen(payload);
            expectation.dst.port = htons(port);
        }
        execute(&b);
        free(payload);
        return;
    }
    execute(&b);
}

/* Sends a packet through ct() twice, as pipelines do: first to look, then to
 * commit or to set the mark. */
static void
step_twice(void)
{
    const struct mconn *m;
    struct packet look;
    struct mconn *found;
    struct burst b;
    bool reply;

    burst_init(&b);
    if (!n_all) {
        return;
    }
    m = all[pick(n_all)];
    if (m->nat || m->helper || !is_alive(m) || mconn_is_tcp(m)) {
        return;
    }
    b.zone = m->key[0].zone;
    b.ipv6 = m->key[0].dl_type == htons(ETH_TYPE_IPV6);
    b.commit = b.force = b.set_mark = b.set_label = false;
    memset(&look, 0, sizeof look);
    look.key = m->key[pick(2)];
    look.pkt = compose_plain(&look);
    found = mconn_lookup(&look.key, &reply);
    b.packets[b.n++] = look;
    note(" twice");
    note_burst(&b);

    struct dp_packet_batch packets;
    uint32_t mark[2] = { 1 + pick(3), UINT32_MAX };

    finish_packet(look.pkt, &b);
    model_begin(&b);
    dp_packet_batch_init_packet(&packets, look.pkt);
    conntrack_execute(ct, &packets, look.key.dl_type, false, false, b.zone,
                      NULL, NULL, NULL, NULL, now, 0, b.netdev);
    b.packets[0].state = look.pkt->md.ct_state;
    model_packet(&b, &b.packets[0], NULL);
    model_end();
    if (look.pkt->md.conn != found->conn) {
        fail("the packet does not remember its connection");
    }
    check(true);

    note(" mark=%u", mark[0]);
    model_begin(&b);
    conntrack_execute(ct, &packets, look.key.dl_type, false, true, b.zone,
                      mark, NULL, NULL, NULL, now, 0, b.netdev);
    dp_packet_delete_batch(&packets, true);
    b.set_mark = true;
    b.mark = mark[0];
    mconn_mark(found, &b);
    model_end();
    check(true);
}

/* Time. */

/* The sweep comes to 'm', which is alive. */
static void
model_sweep_conn(struct mconn *m)
{
    if (m->closed || m->gone || (m->await[0] && m->await[1])) {
        return;
    }
    if (!m->held && (!active() || n_room() >= limit || m->helper)) {
        return;
    }
    m->await[0] |= m->held || accepting(false) || is_established(m);
    m->await[1] = true;
}

/* The time of 'm' is up, but its packets may bypass software. */
static void
model_expire(struct mconn *m)
{
    m->expiration = extended(m, last_used(m, m->held));
    if (m->expiration > now) {
        sum.extended++;
    } else {
        mconn_unhold(m);
        mconn_release(m);
        sum.lapsed++;
    }
}

static void
model_sweep(void)
{
    for (int i = 0; i < N_EXP_LISTS; i++) {
        struct mconn *expire[ARRAY_SIZE(all)], *remove[ARRAY_SIZE(all)];
        struct mconn *ask[ARRAY_SIZE(all)];
        size_t n_expire = 0, n_remove = 0, n_ask = 0;
        struct conn *conn;

        /* Providers are called at the end of a list, and what they hold takes
         * room until then. */
        RCULIST_FOR_EACH (conn, node, &ct->exp_lists[i]) {
            struct mconn *m = mconn_find(conn);

            if (!is_alive(m)) {
                m->room = m->held;
                remove[n_remove++] = m;
            } else if (now >= m->expiration) {
                expire[n_expire++] = m;
            } else {
                if (m->bypass
                    && now + SWEEP_S * 1500 >= m->expiration) {
                    ask[n_ask++] = m;
                }
                model_sweep_conn(m);
            }
        }
        for (size_t j = 0; j < n_remove; j++) {
            mconn_remove(remove[j]);
        }
        for (size_t j = 0; j < n_ask; j++) {
            ask[j]->expiration = extended(ask[j],
                                          last_used(ask[j], ask[j]->held));
        }
        for (size_t j = 0; j < n_expire; j++) {
            model_expire(expire[j]);
        }
    }
}

/* Lets 'ms' pass, and cleans up if it is time to. */
static void
pass(long long int ms)
{
    note(" +%lld", ms);
    now += ms;
    if (now >= next_sweep) {
        note(" sweep");
        model_sweep();
        clean();
    } else {
        timeval_warp(ms);
    }
    ovs_assert(now == time_msec());
    check(true);
}

bool
model_pass(long long int ms)
{
    now += ms;
    if (now < next_sweep) {
        timeval_warp(ms);
        return false;
    }
    clean();
    return true;
}

long long int
model_next_sweep(void)
{
    return next_sweep;
}

static void
step_time(void)
{
    pass(1 + pick(200 * 1000));
}

static void
step_sweep(void)
{
    pass(next_sweep - now + (percent(50) ? 0 : pick(3000 * 1000)));
}

/* Everything else that can happen. */

static void
step_flush(void)
{
    uint16_t zone = pick(N_ZONES);
    bool everything = percent(10);

    note(" flush %d", everything ? -1 : zone);
    conntrack_flush(ct, everything ? NULL : &zone);
    for (size_t i = n_all; i > 0; i--) {
        if (everything || all[i - 1]->key[0].zone == zone) {
            mconn_remove(all[i - 1]);
        }
    }
    check(true);
}

static void
step_flush_tuple(void)
{
    struct ct_dpif_tuple tuple;
    struct mconn *m;
    bool reply;
    int error;

    if (!n_all) {
        return;
    }
    m = all[pick(n_all)];
    reply = percent(50);
    note(" flush-tuple ");
    note_endpoint(&m->key[reply], &m->key[reply].src);
    ct_offload_conn_get_tuple(m->conn, reply, &tuple);
    error = conntrack_flush_tuple(ct, &tuple, m->key[0].zone);
    m = mconn_lookup(&m->key[reply], &reply);
    if (error != (m ? 0 : ENOENT)) {
        fail("flushing a tuple gave error %d", error);
    }
    if (m) {
        mconn_remove(m);
    }
    check(true);
}

static void
step_register(void)
{
    struct provider *p = &providers[pick(N_PROVIDERS)];

    if (!p->registered) {
        int error;

        note(" register %s", p->class.name);
        p->init_error = percent(10);
        error = ct_offload_register(&p->class);
        if (error != (p->init_error ? ENODEV : 0)) {
            fail("%s: registration gave error %d", p->class.name, error);
        }
        p->registered = !error;
    } else {
        uint8_t bit = 1 << p->id;

        if (percent(50)) {
            return;
        }
        note(" unregister %s", p->class.name);
        p->registered = false;
        for (size_t i = 0; i < n_all; i++) {
            struct mconn *m = all[i];

            if (m->held == bit) {
                mconn_evict(m, last_used(m, bit));
            } else if (m->held & bit) {
                if (m->bypass) {
                    m->expiration = extended(m, last_used(m, bit));
                }
                m->held &= ~bit;
                m->est &= ~bit;
                m->bypass &= may_bypass(m->est);
                expected[p->id].n_del++;
            }
        }
        ct_offload_unregister(&p->class);
    }
    check(true);
}

static void
evict_all(void)
{
    for (size_t i = 0; i < n_all; i++) {
        if (all[i]->held || (all[i]->room && !all[i]->gone)) {
            mconn_evict(all[i], last_used(all[i], all[i]->held));
        }
    }
}

static void
step_offload_flush(void)
{
    note(" ct_offload_flush");
    evict_all();
    ct_offload_flush();
    check(true);
}

/* Single operations from outside of conntrack. */

static void
api_add(struct mconn *m, const struct ct_offload_ctx *ctx)
{
    int expect, error;

    note(" ct_offload_conn_add");
    if (m->gone) {
        expect = EOPNOTSUPP;
    } else if (!mconn_take_room(m)) {
        expect = ENOSPC;
    } else {
        if (!m->held) {
            m->side[0] = side_from_ctx(ctx);
        }
        m->await[1] = true;
        m->await_fin |= mconn_is_tcp(m);
        expect = mconn_add(m);
        if (m->side[1].known) {
            mconn_establish(m);
        }
    }
    error = ct_offload_conn_add(ctx);
    if (error != expect) {
        fail("adding connection %p gave error %d instead of %d", m->conn,
             error, expect);
    }
}

static void
api_establish(struct mconn *m, const struct ct_offload_ctx *ctx)
{
    note(" ct_offload_conn_established");
    if (!m->gone) {
        if (m->room && (!m->side[1].known || !m->est)) {
            m->side[1] = side_from_ctx(ctx);
        }
        m->await[1] = false;
        mconn_establish(m);
    }
    ct_offload_conn_established(ctx);
}

static void
api_update(struct mconn *m, const struct ct_offload_ctx *ctx)
{
    long long int expect = 0, used;

    note(" ct_offload_conn_update");
    for (int i = 0; i < N_PROVIDERS; i++) {
        struct provider *p = &providers[i];

        if (m->held & (1 << i)) {
            ovs_mutex_lock(&p->mutex);
            expect = MAX(expect, will_answer(p, held_find(p, m->conn), now));
            ovs_mutex_unlock(&p->mutex);
        }
    }
    if (m->bypass) {
        m->expiration = extended(m, MIN(expect, now));
    }
    used = ct_offload_conn_update(ctx);
    if (used != expect) {
        fail("connection %p was last used at %lld instead of %lld", m->conn,
             used, expect);
    }
}

static void
step_api(void)
{
    struct ct_offload_ctx ctx = { .input_port_id = u32_to_odp(1) };
    struct mconn *m;

    if (!n_all || !active()) {
        return;
    }
    m = all[pick(n_all)];
    ctx.conn = m->conn;
    ctx.netdev_in = pick_netdev();
    ctx.unmodified = ctx.netdev_in != NULL;
    if (percent(30)) {
        api_update(m, &ctx);
    } else if (percent(20)) {
        api_establish(m, &ctx);
    } else if (m->held && percent(50)) {
        note(" ct_offload_conn_del");
        mconn_evict(m, last_used(m, m->held));
        ct_offload_conn_del(&ctx);
    } else {
        api_add(m, &ctx);
    }
    check(true);
}

static void
step_netdev_flush(void)
{
    struct netdev *netdev = &model_netdevs[pick(N_NETDEVS)];
    unsigned long long int n[N_PROVIDERS];

    note(" netdev-flush %s", netdev->name);
    for (size_t i = 0; i < n_all; i++) {
        struct mconn *m = all[i];

        if (m->held && (m->side[0].netdev == netdev
                        || (m->est && m->side[1].netdev == netdev))) {
            mconn_evict(m, last_used(m, m->held));
        }
        for (int dir = 0; dir < CT_DIRS; dir++) {
            m->side[dir].stopped |= m->side[dir].netdev == netdev;
        }
    }
    for (int i = 0; i < N_PROVIDERS; i++) {
        n[i] = providers[i].n_netdev_flush + providers[i].registered;
    }
    ct_offload_netdev_flush(netdev);
    for (int i = 0; i < N_PROVIDERS; i++) {
        if (providers[i].n_netdev_flush != n[i]) {
            fail("%s: netdev_flush was not called once",
                 providers[i].class.name);
        }
    }
    check(true);
}

static void
step_config(void)
{
    bool was_active = active();
    bool was_bypass = config_bypass;

    /* Mostly without limits. */
    enabled = percent(80);
    limit = (percent(70) ? UINT_MAX : percent(10) ? 0
             : n_room() ? pick(2 * n_room()) : 1 + pick(10));
    if (percent(50)) {
        config_bypass = percent(40);
    }
    note(" enabled %d limit %u bypass %d", enabled, limit, config_bypass);
    if (was_active && (!active() || config_bypass != was_bypass)) {
        evict_all();
    }
    model_configure();
    check(true);
}

/* Changes how a provider answers. */
static void
step_behaviour(void)
{
    struct provider *p = &providers[pick(N_PROVIDERS)];

    p->salt = rng_next();
    p->refuse = percent(50) ? 0 : pick(17);
    p->errors = percent(50) ? 0 : pick(17);
    p->est_errors = percent(60) ? 0 : pick(17);
    p->uni_dir = percent(60) ? 0 : pick(17);
    p->answer = percent(50) ? ANSWER_USED : pick(N_ANSWERS);
    note(" %s refuse=%u errors=%u est_errors=%u uni_dir=%u answer=%s",
         p->class.name, p->refuse, p->errors, p->est_errors, p->uni_dir,
         answer_names[p->answer]);
}

/* Hardware forwards packets of a connection. */
static void
step_use(void)
{
    const struct mconn *m;

    if (!n_all) {
        return;
    }
    m = all[pick(n_all)];
    for (int i = 0; i < N_PROVIDERS; i++) {
        struct provider *p = &providers[i];

        if (m->held & (1 << i) && percent(70)) {
            ovs_mutex_lock(&p->mutex);
            struct held *h = held_find(p, m->conn);
            if (h) {
                note(" use %s", p->class.name);
                h->used = now - (percent(50) ? 0 : pick(1000 * 1000));
            }
            ovs_mutex_unlock(&p->mutex);
        }
    }
}

/* Sends a packet of 'm' in direction 'dir', which looks as 'side' says. */
static void
say(const struct mconn *m, int dir, const struct side *side)
{
    struct packet *p;
    struct burst b;

    memset(&b, 0, offsetof(struct burst, packets));
    b.zone = m->key[0].zone;
    b.ipv6 = m->key[0].dl_type == htons(ETH_TYPE_IPV6);
    b.netdev = side->netdev;
    b.vlan = side->vlan;
    p = add_packet(&b, &m->key[dir]);
    p->kind = KIND_PLAIN;
    p->wild = false;
    p->len = 0;
    p->flags = TCP_ACK;
    p->seq = m->seq[dir];
    p->ack = m->seq[!dir];
    execute(&b);
}

/* Whatever was before: after two sweeps with packets after each, a connection
 * that is established is held by all providers that want it, and they know
 * what these packets look like. */
static void
step_settle(void)
{
    struct side side[2];
    struct mconn *m;
    struct conn *conn;

    if (!n_all || limit != UINT_MAX) {
        return;
    }
    m = all[pick(n_all)];
    if (!is_alive(m) || m->closed || m->gone || m->helper || m->nat
        || !is_established(m) || m->seq_unknown) {
        return;
    }
    conn = m->conn;
    for (int i = 0; i < 2; i++) {
        side[i] = (struct side) {
            .netdev = &model_netdevs[pick(N_NETDEVS)],
            .on_wire = true,
            .vlan = pick(3),
        };
    }
    for (int i = 0; i < N_PROVIDERS; i++) {
        struct provider *p = &providers[i];

        p->refuse = p->errors = p->est_errors = 0;
    }

    note(" settle");
    say(m, 0, &side[0]);
    for (int i = 0; i < 2; i++) {
        pass(next_sweep - now);
        for (int j = 0; j < 4; j++) {
            m = mconn_find(conn);
            say(m, j & 1, &side[j & 1]);
        }
    }
    for (int i = 0; i < N_PROVIDERS; i++) {
        struct provider *p = &providers[i];

        ovs_mutex_lock(&p->mutex);
        const struct held *h = held_find(p, conn);
        if (p->registered && enabled
            && (!h || !h->est || !side_equals(&h->side[0], &side[0])
                || !side_equals(&h->side[1], &side[1]))) {
            fail("%s does not know of connection %p, or not how it is now",
                 p->class.name, conn);
        }
        ovs_mutex_unlock(&p->mutex);
    }
    sum.settled++;
}

/* Many connections that are never established, because nobody answers, or
 * because nobody goes on after an answer. */
static void
step_flood(void)
{
    unsigned int before = n_room();
    bool tcp = percent(50);
    struct burst b;
    bool reply;

    if (n_all > ARRAY_SIZE(all) / 4) {
        return;
    }
    burst_init(&b);
    b.commit = true;
    b.force = b.set_mark = b.set_label = false;
    for (size_t i = 0; i < MAX_PACKETS; i++) {
        struct packet *p = &b.packets[b.n++];

        memset(p, 0, sizeof *p);
        p->key.dl_type = htons(b.ipv6 ? ETH_TYPE_IPV6 : ETH_TYPE_IP);
        p->key.zone = b.zone;
        p->key.nw_proto = tcp ? IPPROTO_TCP : IPPROTO_UDP;
        set_addr(&p->key.src, b.ipv6, 3);
        set_addr(&p->key.dst, b.ipv6, 2);
        p->key.dst.port = htons(PORT_SERVER);
        do {
            p->key.src.port = htons(10000 + pick(10000));
        } while (!is_first(&b, p) || mconn_lookup(&p->key, &reply));
        p->flags = TCP_SYN;
        p->seq = rng_next();
    }
    note(" flood");
    execute(&b);
    sum.flooded += b.n;

    if (tcp) {
        for (size_t i = 0; i < b.n; i++) {
            struct packet *p = &b.packets[i];

            key_reverse(&p->key);
            p->flags = TCP_SYN | TCP_ACK;
            p->ack = p->seq + 1;
            p->seq = rng_next();
        }
        execute(&b);
    }
    if (!accepting(false) && n_room() > before) {
        fail("a flood takes room");
    }
}

static const struct {
    unsigned int weight;
    void (*run)(void);
} steps[] = {
    { 4000, step_burst },
    { 2500, step_dialog },
    { 300, step_helper },
    { 400, step_twice },
    { 1000, step_time },
    { 300, step_sweep },
    { 10, step_flush },
    { 150, step_flush_tuple },
    { 80, step_register },
    { 20, step_offload_flush },
    { 200, step_api },
    { 100, step_netdev_flush },
    { 40, step_config },
    { 200, step_behaviour },
    { 600, step_use },
    { 40, step_settle },
    { 15, step_flood },
};

static void
random_step(void)
{
    unsigned int total = 0;
    unsigned int r, i;

    for (i = 0; i < ARRAY_SIZE(steps); i++) {
        total += steps[i].weight;
    }
    r = pick(total);
    for (i = 0; r >= steps[i].weight; i++) {
        r -= steps[i].weight;
    }
    steps[i].run();
    if (!(step % 64)) {
        check_stats();
        check_dump();
    }
}

/* Does a connection that is like 'key', or that is translated to 'to', wait
 * for a predecessor? */
static bool
is_preceded(const struct conn_key *key, const struct ct_endpoint *to)
{
    struct conn *probe = xzalloc(sizeof *probe);
    bool preceded;

    probe->key_node[CT_DIR_FWD].key = *key;
    probe->key_node[CT_DIR_REV].key = *key;
    key_reverse(&probe->key_node[CT_DIR_REV].key);
    if (to) {
        probe->key_node[CT_DIR_REV].key.dst = *to;
    }
    preceded = conn_is_preceded(probe);
    free(probe);
    return preceded;
}

/* There are no connections any more: nobody waits for any, ports have none,
 * and there is room. */
static void
check_nothing_left(void)
{
    static const uint8_t protocols[] = {
        IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP
    };

    for (uint32_t i = 0; i < 2 * N_ZONES * ARRAY_SIZE(protocols) * 256; i++) {
        struct conn_key key;
        struct ct_endpoint to;

        memset(&key, 0, sizeof key);
        key.dl_type = htons(i & 1 ? ETH_TYPE_IPV6 : ETH_TYPE_IP);
        key.zone = i / 512 % N_ZONES;
        key.nw_proto = protocols[i / 512 / N_ZONES];
        set_addr(&key.src, i & 1, 1);
        set_addr(&key.dst, i & 1, 2);
        set_addr(&to, i & 1, 101);
        key.src.port = to.port = htons(PORT_CLIENT + i / 2 % 64);
        key.dst.port = htons(i / 128 % 2 ? PORT_TFTP : PORT_SERVER);
        if (i / 256 % 2) {
            to.port = htons(2000 + i / 2 % 2);
        }
        if (is_preceded(&key, NULL) || is_preceded(&key, &to)) {
            fail("connections would wait for ones that are gone");
        }
    }
    for (int i = 0; i < N_NETDEVS; i++) {
        struct conn **conns;
        size_t n;

        n = ct_offload_port_get_conns(ct_offload_port_get(&model_netdevs[i]),
                                      &conns);
        if (n) {
            fail("%s has %"PRIuSIZE" connections that are gone",
                 model_netdevs[i].name, n);
        }
        free(conns);
    }
    limit = 1;
    model_configure();
    if (!ct_offload_room_is_left()) {
        fail("connections that are gone take room");
    }
}

/* At the end nothing may be left. */
static void
finish(void)
{
    while (n_all) {
        mconn_remove(all[0]);
    }
    conntrack_destroy(ct);
    for (int i = 0; i < N_PROVIDERS; i++) {
        check_provider(&providers[i], true);
    }
    check_stats();
    check_nothing_left();
    for (int i = 0; i < N_PROVIDERS; i++) {
        if (providers[i].registered) {
            ct_offload_unregister(&providers[i].class);
        }
    }
}

/* Runs steps 0 to 'n' - 1, but not those that 'skip', if nonnull, has. */
static void
run(unsigned int n, const bool *skip)
{
    start();
    stop_time();
    set_timeouts();
    model->begin(ct);
    for (step = 0; step < n; step++) {
        if (!skip || !skip[step]) {
            trace[n_run % N_TRACE].step = step;
            trace[n_run % N_TRACE].text[0] = '\0';
            rng_start(((uint64_t) seed << 32) + step);
            model->step();
            ovsrcu_quiesce();
            n_run++;
        }
    }
    model->finish();
}

static void
parse_seed(const char *s)
{
    if (!strcmp(s, "random")) {
        seed = random_uint32();
    } else if (!str_to_uint(s, 0, &seed)) {
        ovs_fatal(0, "%s: not a seed", s);
    }
    printf("seed %u\n", seed);
    fflush(stdout);
}

static unsigned int
parse_number(const char *s)
{
    unsigned int n;

    if (!str_to_uint(s, 0, &n)) {
        ovs_fatal(0, "%s: not a number", s);
    }
    return n;
}

static void
cmd_run(struct ovs_cmdl_context *ctx)
{
    long long int started = time_wall_msec();
    unsigned int n = parse_number(ctx->argv[2]);

    parse_seed(ctx->argv[1]);
    run(n, NULL);
    printf("%u steps, %lld ms, ", n, time_wall_msec() - started);
    model->report();
}

static void
random_report(void)
{
    printf("%llu packets, connections: %llu created, %llu related, %llu "
           "forced to expire, %llu retired, %llu evicted, %llu moved, %llu "
           "without room, %llu wild packets, %llu extended, %llu lapsed, "
           "%llu added when established, %llu errors then, %llu not "
           "modelled, %llu settled, %llu flooded\n",
           sum.packets, sum.created, sum.related, sum.forced, sum.retired,
           sum.evicted, sum.moved, sum.no_room, sum.bypassed, sum.extended,
           sum.lapsed, sum.established_only, sum.est_errors, sum.adopted,
           sum.settled, sum.flooded);
}

/* Does a process that runs steps 0 to 'n' - 1, without those in 'skip', fail?
 * If so, stores in '*failed' where. */
static bool
try_run(unsigned int n, const bool *skip)
{
    int status;
    pid_t pid;

    *failed = n;
    pid = fork();
    if (pid < 0) {
        ovs_fatal(errno, "fork failed");
    }
    if (!pid) {
        run(n, skip);
        _exit(0);
    }
    if (waitpid(pid, &status, 0) != pid) {
        ovs_fatal(errno, "waitpid failed");
    }
    return status != 0;
}

/* Finds as few steps as possible that fail, and shows them. */
static void
cmd_shrink(struct ovs_cmdl_context *ctx)
{
    unsigned int n = parse_number(ctx->argv[2]);
    unsigned int left = 0;
    bool *skip;

    parse_seed(ctx->argv[1]);
    failed = mmap(NULL, sizeof *failed, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (failed == MAP_FAILED) {
        ovs_fatal(errno, "mmap failed");
    }
    skip = xcalloc(n, sizeof *skip);
    if (!try_run(n, skip)) {
        ovs_fatal(0, "no failure in %u steps", n);
    }
    n = MIN(n, *failed + 1);
    for (unsigned int chunk = n / 2; chunk; chunk /= 2) {
        for (unsigned int i = 0; i + 1 < n; i += chunk) {
            unsigned int size = MIN(chunk, n - 1 - i);
            bool *old = xmemdup(&skip[i], size);

            if (memchr(old, false, size)) {
                memset(&skip[i], true, size);
                if (!try_run(n, skip)) {
                    memcpy(&skip[i], old, size);
                }
            }
            free(old);
        }
    }
    for (unsigned int i = 0; i < n; i++) {
        left += !skip[i];
    }
    printf("%u steps\n", left);
    failed = NULL;
    run(n, skip);
}

/* The threaded variant: no model, but the providers check what they are told,
 * and at the end nothing may be left. */

static atomic_bool stopping;
static atomic_uint64_t n_thread_packets;
static struct ovs_rwlock netdev_locks[N_NETDEVS];

static bool
is_stopping(void)
{
    bool stop;

    atomic_read_relaxed(&stopping, &stop);
    return stop;
}

void
rng_start_thread(void *seed_)
{
    rng_start(((uint64_t) seed << 32) + (uintptr_t) seed_);
}

/* Makes up a packet between a client and the server. */
static void
thread_packet(struct packet *p, const struct burst *b)
{
    static const uint16_t flags[] = {
        TCP_SYN, TCP_SYN | TCP_ACK, TCP_ACK, TCP_ACK, TCP_ACK, TCP_ACK,
        TCP_FIN | TCP_ACK, TCP_RST | TCP_ACK,
    };
    struct conn_key *key = &p->key;

    memset(p, 0, sizeof *p);
    key->dl_type = htons(b->ipv6 ? ETH_TYPE_IPV6 : ETH_TYPE_IP);
    key->nw_proto = percent(50) ? IPPROTO_UDP : IPPROTO_TCP;
    set_addr(&key->src, b->ipv6, 1);
    set_addr(&key->dst, b->ipv6, 2);
    key->src.port = htons(PORT_CLIENT + pick(N_CLIENTS));
    key->dst.port = htons(percent(95) ? PORT_SERVER : PORT_TFTP);
    if (b->nat) {
        /* Nobody else uses what addresses and ports are translated to. */
        key->src.port = htons(PORT_CLIENT + 20 + pick(4));
        key->dst.port = htons(PORT_SERVER);
        if (!b->commit) {
            bool dst = b->nat->nat_action & NAT_ACTION_DST;

            set_addr(dst ? &key->dst : &key->src, b->ipv6, dst ? 102 : 101);
            if (b->nat->nat_action & NAT_ACTION_SRC_PORT) {
                key->src.port = htons(2000 + pick(2));
            }
            key_reverse(key);
        }
    } else if (percent(50)) {
        key_reverse(key);
    }
    p->flags = flags[pick(ARRAY_SIZE(flags))];
}

static void
thread_burst(void)
    OVS_NO_THREAD_SAFETY_ANALYSIS /* It may have no port to lock. */
{
    uint32_t mark[2] = { pick(3), UINT32_MAX };
    struct dp_packet_batch packets;
    struct ovs_rwlock *lock = NULL;
    struct burst b;

    burst_init(&b);
    if (b.netdev) {
        /* A port that is about to go receives nothing. */
        lock = &netdev_locks[b.netdev - model_netdevs];
        if (ovs_rwlock_tryrdlock(lock)) {
            return;
        }
    }
    if (percent(20)) {
        set_nat(&b, percent(40));
        b.force = false;
    }
    b.n = percent(20) ? MAX_PACKETS : 1 + pick(8);
    dp_packet_batch_init(&packets);
    for (size_t i = 0; i < b.n; i++) {
        struct dp_packet *pkt;

        thread_packet(&b.packets[i], &b);
        pkt = compose_plain(&b.packets[i]);
        finish_packet(pkt, &b);
        dp_packet_batch_add(&packets, pkt);
    }
    conntrack_execute(ct, &packets,
                      htons(b.ipv6 ? ETH_TYPE_IPV6 : ETH_TYPE_IP), b.force,
                      b.commit, b.zone, b.set_mark ? mark : NULL,
                      NULL, NULL, b.nat, time_msec(), 0, b.netdev);
    dp_packet_delete_batch(&packets, true);
    if (lock) {
        ovs_rwlock_unlock(lock);
    }
}

static void *
packet_thread(void *seed_)
{
    uint64_t n, orig;

    rng_start_thread(seed_);
    for (n = 0; !is_stopping(); n++) {
        thread_burst();
        ovsrcu_quiesce();
    }
    atomic_add(&n_thread_packets, n, &orig);
    return NULL;
}

static void *
flush_thread(void *seed_)
{
    rng_start_thread(seed_);
    while (!is_stopping()) {
        uint16_t zone = pick(N_ZONES);
        struct ct_dpif_tuple tuple;

        if (percent(90)) {
            memset(&tuple, 0, sizeof tuple);
            tuple.l3_type = AF_INET;
            tuple.ip_proto = percent(50) ? IPPROTO_UDP : IPPROTO_TCP;
            tuple.src.ip = htonl(0x0a000001);
            tuple.dst.ip = htonl(0x0a000002);
            tuple.src_port = htons(PORT_CLIENT + pick(N_CLIENTS));
            tuple.dst_port = htons(PORT_SERVER);
            conntrack_flush_tuple(ct, &tuple, zone);
        } else {
            conntrack_flush(ct, percent(98) ? &zone : NULL);
        }
        ovsrcu_quiesce();
        xnanosleep(pick(1000) * 1000);
    }
    return NULL;
}

static void *
port_thread(void *seed_)
{
    rng_start_thread(seed_);
    while (!is_stopping()) {
        if (percent(90)) {
            int i = pick(N_NETDEVS);

            ovs_rwlock_wrlock(&netdev_locks[i]);
            ct_offload_netdev_flush(&model_netdevs[i]);
            for (int j = 0; j < N_PROVIDERS; j++) {
                struct provider *p = &providers[j];
                struct held *h;

                ovs_mutex_lock(&p->mutex);
                HMAP_FOR_EACH (h, node, &p->held) {
                    if (h->side[0].netdev == &model_netdevs[i]
                        || h->side[1].netdev == &model_netdevs[i]) {
                        fail("%s: holds a connection of a port that was "
                             "flushed", p->class.name);
                    }
                }
                ovs_mutex_unlock(&p->mutex);
            }
            ovs_rwlock_unlock(&netdev_locks[i]);
        } else if (percent(50)) {
            ct_offload_flush();
        } else {
            ct_offload_barrier();
        }
        xnanosleep(pick(3000) * 1000);
    }
    return NULL;
}

/* For conntrack_offload_for_each(): some connections. */
struct sample {
    struct conn *conns[16];
    size_t n;
};

static void
sample_one(struct conn *conn, void *sample_)
{
    struct sample *sample = sample_;

    if (sample->n < ARRAY_SIZE(sample->conns)) {
        sample->conns[sample->n++] = conn;
    } else {
        size_t i = pick(2 * ARRAY_SIZE(sample->conns));

        if (i < ARRAY_SIZE(sample->conns)) {
            sample->conns[i] = conn;
        }
    }
}

/* Submits a batch of operations on connections of 'sample', each of which may
 * be there several times, with 'netdev', and checks the results. */
static void
thread_submit(const struct sample *sample, struct netdev *netdev)
{
    static const enum ct_offload_op_type types[] = {
        CT_OFFLOAD_OP_ADD, CT_OFFLOAD_OP_ADD, CT_OFFLOAD_OP_EST,
        CT_OFFLOAD_OP_UPD, CT_OFFLOAD_OP_DEL, CT_OFFLOAD_OP_POLICY,
    };
    size_t n = percent(20) ? 2 * CT_OFFLOAD_BATCH_INLINE : 1 + pick(8);
    struct ct_offload_op_batch ops;
    struct ct_offload_op *op;

    ct_offload_op_batch_init(&ops);
    for (size_t i = 0; i < n; i++) {
        struct ct_offload_ctx ctx = {
            .conn = sample->conns[pick(sample->n)],
            .netdev_in = netdev,
            .unmodified = netdev && percent(80),
        };

        ct_offload_op_batch_add(&ops, (percent(1) ? CT_OFFLOAD_OP_FLUSH
                                         : types[pick(ARRAY_SIZE(types))]),
                                &ctx);
    }
    ct_offload_op_batch_submit(&ops);
    CT_OFFLOAD_BATCH_OP_FOR_EACH (i, op, &ops) {
        bool add = op->type == CT_OFFLOAD_OP_ADD;

        if (op->type == CT_OFFLOAD_OP_POLICY
            ? op->error && op->error != EPERM
            : (op->error && op->error != EINPROGRESS
               && !(op->type == CT_OFFLOAD_OP_UPD && op->error == ENODATA)
               && !(add && (op->error == ENOSPC
                            || op->error == EOPNOTSUPP)))) {
            fail("operation %d: %s", op->type, ovs_strerror(op->error));
        }
    }
    ct_offload_op_batch_destroy(&ops);
}

static void *
api_thread(void *seed_)
    OVS_NO_THREAD_SAFETY_ANALYSIS /* It may have no port to lock. */
{
    rng_start_thread(seed_);
    while (!is_stopping()) {
        struct sample sample = { .n = 0 };
        int i = pick(2 * N_NETDEVS);

        if (i < N_NETDEVS && ovs_rwlock_tryrdlock(&netdev_locks[i])) {
            continue;
        }
        conntrack_offload_for_each(sample_one, &sample);
        if (sample.n) {
            thread_submit(&sample, i < N_NETDEVS ? &model_netdevs[i] : NULL);
        }
        if (i < N_NETDEVS) {
            ovs_rwlock_unlock(&netdev_locks[i]);
        }
        ovsrcu_quiesce();
        xnanosleep(pick(200) * 1000);
    }
    return NULL;
}

/* What the main thread does meanwhile. */
static void
thread_configure(void)
{
    struct provider *p = &providers[pick(N_PROVIDERS)];
    uint32_t r = pick(100);

    if (r < 10) {
        if (p->registered) {
            ct_offload_unregister(&p->class);
            ovs_mutex_lock(&p->mutex);
            if (hmap_count(&p->held)) {
                fail("%s: holds connections after it was unregistered",
                     p->class.name);
            }
            ovs_mutex_unlock(&p->mutex);
        } else {
            ovs_assert(!ct_offload_register(&p->class));
        }
        p->registered = !p->registered;
    } else if (r < 15) {
        enabled = percent(80);
        limit = percent(50) ? UINT_MAX : pick(100);
        config_bypass = percent(30);
        model_configure();
    } else if (r < 50) {
        ovs_mutex_lock(&p->mutex);
        p->refuse = percent(50) ? 0 : pick(8);
        p->errors = percent(50) ? 0 : pick(8);
        p->est_errors = percent(50) ? 0 : pick(8);
        p->uni_dir = percent(50) ? 0 : pick(8);
        p->salt = rng_next();
        p->answer = pick(N_ANSWERS);
        ovs_mutex_unlock(&p->mutex);
    } else {
        timeval_warp(pick(1000));
    }
    xnanosleep(pick(2000) * 1000);
}

/* Like start(), for several threads, for which time goes on. */
struct conntrack *
model_start_threads(void)
{
    threaded = true;
    start();
    set_timeouts();
    conntrack_set_tcp_seq_chk(ct, false);
    conntrack_set_sweep_interval(ct, 2);

    /* The thread that cleans up may sleep the default interval first. */
    now = time_msec();
    canary_create();
    while (!canary_is_gone()) {
        timeval_warp(1000);
        pthread_kill(ct->clean_thread, SIGUSR1);
        xnanosleep(1000 * 1000);
    }
    rng_start_thread(NULL);
    return ct;
}

static void
random_run_threads(unsigned int seconds)
{
    static const struct {
        const char *name;
        void *(*start)(void *);
    } kinds[] = {
        { "packets", packet_thread },
        { "packets", packet_thread },
        { "packets", packet_thread },
        { "flush", flush_thread },
        { "ports", port_thread },
        { "api", api_thread },
        { "api", api_thread },
    };
    unsigned long long int n_add = 0, n_est = 0, n_upd = 0;
    pthread_t threads[ARRAY_SIZE(kinds)];
    long long int deadline;
    uint64_t n;

    model_start_threads();
    for (int i = 0; i < N_NETDEVS; i++) {
        ovs_rwlock_init(&netdev_locks[i]);
    }
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        threads[i] = ovs_thread_create(kinds[i].name, kinds[i].start,
                                       (void *) (uintptr_t) (i + 1));
    }
    deadline = time_wall_msec() + seconds * 1000LL;
    while (time_wall_msec() < deadline) {
        thread_configure();
    }
    atomic_store_relaxed(&stopping, true);
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
        xpthread_join(threads[i], NULL);
    }

    conntrack_destroy(ct);
    check_stats();
    check_nothing_left();
    for (int i = 0; i < N_PROVIDERS; i++) {
        struct provider *p = &providers[i];

        ovs_mutex_lock(&p->mutex);
        if (hmap_count(&p->held) || p->n_add != p->n_del + p->n_est_error) {
            fail("%s: holds %"PRIuSIZE" connections at the end: %llu added, "
                 "%llu deleted, %llu errors", p->class.name,
                 hmap_count(&p->held), p->n_add, p->n_del, p->n_est_error);
        }
        n_add += p->n_add;
        n_est += p->n_est;
        n_upd += p->n_upd;
        ovs_mutex_unlock(&p->mutex);
        if (p->registered) {
            ct_offload_unregister(&p->class);
        }
    }
    atomic_read(&n_thread_packets, &n);
    printf("%"PRIu64" bursts, %llu add, %llu est, %llu upd\n", n, n_add,
           n_est, n_upd);
}

static void
cmd_run_threads(struct ovs_cmdl_context *ctx)
{
    parse_seed(ctx->argv[1]);
    n_offload_threads = ctx->argc > 3 ? parse_number(ctx->argv[3]) : 0;
    model->run_threads(parse_number(ctx->argv[2]));
}

static const struct ovs_cmdl_command commands[] = {
    {"run", "SEED STEPS", 2, 2, cmd_run, OVS_RO},
    {"shrink", "SEED STEPS", 2, 2, cmd_shrink, OVS_RO},
    {"run-threads", "SEED SECONDS [OFFLOAD-THREADS]", 2, 3, cmd_run_threads,
     OVS_RO},
    {NULL, NULL, 0, 0, NULL, OVS_RO},
};

void
model_main(int argc, char *argv[], const struct model *model_)
{
    struct ovs_cmdl_context ctx = {
        .argc = argc - 1,
        .argv = argv + 1,
    };

    model = model_;
    set_program_name(argv[0]);
    ovs_cmdl_run_command(&ctx, commands);
}

static void
random_begin(struct conntrack *ct_ OVS_UNUSED)
{
}

static void
test_ct_offload_model_main(int argc, char *argv[])
{
    static const struct model random_model = {
        .start = providers_init,
        .begin = random_begin,
        .step = random_step,
        .finish = finish,
        .report = random_report,
        .run_threads = random_run_threads,
    };

    model_main(argc, argv, &random_model);
}

OVSTEST_REGISTER("test-ct-offload-model", test_ct_offload_model_main);
