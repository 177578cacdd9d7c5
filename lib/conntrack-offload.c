/* SPDX-License-Identifier: Apache-2.0 */

#include <config.h>

#include "conntrack-offload.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include "conntrack-tp.h"
#include "coverage.h"
#include "ct-dpif.h"
#include "ct-offload-thread.h"
#include "dp-packet.h"
#include "hash.h"
#include "odp-util.h"
#include "openvswitch/dynamic-string.h"
#include "openvswitch/list.h"
#include "ovs-rcu.h"
#include "ovs-thread.h"
#include "timeval.h"
#include "util.h"

COVERAGE_DEFINE(ct_offload_evict);
COVERAGE_DEFINE(ct_offload_expiry_asked);
COVERAGE_DEFINE(ct_offload_expiry_extended);
COVERAGE_DEFINE(ct_offload_full);
COVERAGE_DEFINE(ct_offload_queue_full);

/* Where the packets of one direction come from. */
struct conn_offload_side {
    ATOMIC(struct netdev *) netdev;
    odp_port_t port_id;
    ovs_be16 vlan_tci;
    uint8_t vlan;
    bool unmodified;
};

/* What an offloaded connection needs beside its state word. */
struct conn_offload {
    ATOMIC(struct conntrack *) ct;  /* Where it is, or NULL if not known. */
    struct conn_offload_side orig;  /* For the owner of the connection. */
    struct conn_offload_side reply; /* Written by the thread that has set
                                     * CONN_OFFLOAD_REPLY, read by the owner
                                     * when CONN_OFFLOAD_REPLIED is set. */
    void *priv[CT_OFFLOAD_MAX_PROVIDERS]; /* For the owner. */
    struct ct_offload_work work;    /* To be queued for an offload thread,
                                     * which is the owner then. */
    struct conn *conn;              /* What this hangs off. */
};
BUILD_ASSERT_DECL(sizeof(struct conn_offload) <= 96);

/* What one thread has to tell the providers. */
struct conn_offload_batch {
    struct ovs_list node;           /* In 'batches'. */
    atomic_uint seq;                /* Odd while 'depth' is not 0. */
    unsigned int depth;             /* Calls that have begun, but not ended:
                                     * only then may the thread own any
                                     * connection. */
    struct netdev *netdev_in;       /* Where the packets came from. */
    long long int now;              /* Time of the sweep, or 0. */

    /* Connections that the thread owns, with something pending, in the order
     * in which it came to own them. */
    struct conn **conns;
    size_t n_conns, allocated_conns;

    /* Connections that the thread's sweep owns, and is going to ask about. */
    struct conn **expired;
    size_t n_expired, allocated_expired;

    struct ct_offload_op_batch ops; /* For conns_run(). */
};

DEFINE_STATIC_PER_THREAD_DATA(struct conn_offload_batch *, thread_batch,
                              NULL);

static struct ovs_mutex batches_mutex = OVS_MUTEX_INITIALIZER;
static struct ovs_list batches OVS_GUARDED_BY(batches_mutex)
    = OVS_LIST_INITIALIZER(&batches);

/* Every 'struct conntrack', so that all connections can be found.
 * The mutex comes before any other lock of this module. */
struct conntrack_node {
    struct ovs_list node;           /* In 'conntracks'. */
    struct conntrack *ct;
};
static struct ovs_mutex conntracks_mutex = OVS_MUTEX_INITIALIZER;
static struct ovs_list conntracks OVS_GUARDED_BY(conntracks_mutex)
    = OVS_LIST_INITIALIZER(&conntracks);

/* How conntrack frees a connection.  Known before CONN_OFFLOAD_FREE is set in
 * any. */
static ATOMIC(void (*)(struct conn *)) conn_delete;

/* The state word. */

static uint8_t
state_held(uint32_t state)
{
    return (state & CONN_OFFLOAD_HELD_MASK) >> CONN_OFFLOAD_HELD_SHIFT;
}

static uint8_t
state_est(uint32_t state)
{
    return (state & CONN_OFFLOAD_EST_MASK) >> CONN_OFFLOAD_EST_SHIFT;
}

static uint32_t
state_phase(uint32_t state)
{
    return state & CONN_OFFLOAD_PHASE_MASK;
}

static bool
state_swap(struct conn *conn, uint32_t *old, uint32_t new)
{
    return atomic_compare_exchange_weak_explicit(&conn->offload_state,
                                                 old, new,
                                                 memory_order_acq_rel,
                                                 memory_order_acquire);
}

/* Raises 'events', CONN_OFFLOAD_PENDING_* bits, for 'conn'.  Clears the bits
 * 'clear' and sets the bits 'set' as well.  Returns true if the calling thread
 * owns 'conn' now and has to do them, false if 'conn' has an owner already,
 * which will. */
static bool
conn_raise(struct conn *conn, uint32_t events, uint32_t clear, uint32_t set)
{
    uint32_t old = conn_offload_state(conn);
    uint32_t new;

    do {
        new = (old & ~clear) | set | events | CONN_OFFLOAD_BUSY;
    } while (!state_swap(conn, &old, new));

    return !(old & CONN_OFFLOAD_BUSY);
}

/* Returns the events that wait for the owner of 'conn', which is the calling
 * thread, and takes them from there. */
static uint32_t
conn_take_events(struct conn *conn)
{
    uint32_t state;

    atomic_and_explicit(&conn->offload_state, ~CONN_OFFLOAD_PENDING_MASK,
                        &state, memory_order_acq_rel);
    return state & CONN_OFFLOAD_PENDING_MASK;
}

/* Makes the calling thread the owner of 'conn', or, if it has an owner, leaves
 * 'pending' to that one.  Clears the bits 'clear' either way.  Returns true if
 * the calling thread owns 'conn' now. */
static bool
conn_own(struct conn *conn, uint32_t pending, uint32_t clear)
{
    uint32_t old = conn_offload_state(conn);
    uint32_t new;

    do {
        new = old & ~clear;
        new |= old & CONN_OFFLOAD_BUSY ? pending : CONN_OFFLOAD_BUSY;
    } while (!state_swap(conn, &old, new));

    return !(old & CONN_OFFLOAD_BUSY);
}

/* Gives 'conn' up, unless there is something pending.  Frees it if conntrack
 * has left that to the owner; it is BUSY for ever then, so that nobody who can
 * still see it does anything with it.  Returns true if the calling thread does
 * not own 'conn' any more. */
static bool
conn_disown(struct conn *conn)
{
    uint32_t old = conn_offload_state(conn);
    uint32_t new;

    do {
        if (old & CONN_OFFLOAD_PENDING_MASK) {
            return false;
        }
        new = old & CONN_OFFLOAD_FREE ? old : old & ~CONN_OFFLOAD_BUSY;
    } while (!state_swap(conn, &old, new));

    if (old & CONN_OFFLOAD_FREE) {
        void (*delete)(struct conn *);

        atomic_read_relaxed(&conn_delete, &delete);
        ovsrcu_postpone(delete, conn);
    }
    return true;
}

/* Clears the bits 'clear' and sets the bits 'set' of the state word of
 * 'conn'. */
static void
conn_set_state(struct conn *conn, uint32_t clear, uint32_t set)
{
    uint32_t old = conn_offload_state(conn);

    while (!state_swap(conn, &old, (old & ~clear) | set)) {
        continue;
    }
}

/* What hangs off a connection. */

static struct conn_offload *
conn_get_offload(const struct conn *conn)
{
    return ovsrcu_get(struct conn_offload *,
                      &CONST_CAST(struct conn *, conn)->offload);
}

/* Returns the conn_offload of 'conn', allocating it if there is none.  Returns
 * NULL if there is no room for another offloaded connection.  Only for a
 * thread that owns 'conn' or that alone can see it. */
static struct conn_offload *
conn_alloc_offload(struct conn *conn)
{
    struct conn_offload *offload = conn_get_offload(conn);

    if (!offload) {
        if (!ct_offload_threads_have_room()) {
            COVERAGE_INC(ct_offload_queue_full);
            ct_offload_count(CT_OFFLOAD_N_QUEUE_FULL, 1);
            return NULL;
        }
        if (!ct_offload_reserve()) {
            COVERAGE_INC(ct_offload_full);
            ct_offload_count(CT_OFFLOAD_N_FULL, 1);
            return NULL;
        }
        offload = xzalloc(sizeof *offload);
        offload->conn = conn;
        ovsrcu_set(&conn->offload, offload);
    }
    return offload;
}

/* 'conn', in 'phase', is not held any more.  If it is gone, what hangs off it
 * is freed with it: see conntrack_offload_conn_uninit__(). */
static void
conn_release_offload(struct conn *conn, uint32_t phase)
{
    struct conn_offload *offload = conn_get_offload(conn);

    if (offload && phase != CONN_OFFLOAD_GONE) {
        ovsrcu_set(&conn->offload, NULL);
        ovsrcu_postpone(free, offload);
    }
}

/* Returns where 'conn' is, or NULL if that is not known. */
static struct conntrack *
conn_get_conntrack(const struct conn *conn)
{
    struct conn_offload *offload = conn_get_offload(conn);
    struct conntrack *ct = NULL;

    if (offload) {
        atomic_read_relaxed(&offload->ct, &ct);
    }
    return ct;
}

/* Remembers in 'side' what 'ctx' says of a packet. */
static void
side_set(struct conn_offload_side *side, const struct ct_offload_ctx *ctx)
{
    side->port_id = ctx->input_port_id;
    side->vlan_tci = ctx->vlan_tci;
    side->vlan = ctx->vlan;
    side->unmodified = ctx->unmodified;
    atomic_store_relaxed(&side->netdev, ctx->netdev_in);
}

static struct netdev *
side_get_netdev(struct conn_offload_side *side)
{
    struct netdev *netdev;

    atomic_read_relaxed(&side->netdev, &netdev);
    return netdev;
}

/* Stores in 'ctx' the VLAN tags of 'pkt'. */
static void
ctx_set_vlan(struct ct_offload_ctx *ctx, const struct dp_packet *pkt)
{
    const struct vlan_eth_header *veh = dp_packet_eth(pkt);

    if (!veh) {
        ctx->vlan = CT_OFFLOAD_VLAN_OTHER;
    } else if (!eth_type_vlan(veh->veth_type)) {
        ctx->vlan = CT_OFFLOAD_VLAN_NONE;
    } else if (veh->veth_type == htons(ETH_TYPE_VLAN_8021Q)
               && !eth_type_vlan(veh->veth_next_type)) {
        ctx->vlan = CT_OFFLOAD_VLAN_TAG;
        ctx->vlan_tci = veh->veth_tci;
    } else {
        ctx->vlan = CT_OFFLOAD_VLAN_OTHER;
    }
}

/* Remembers in 'side' where 'pkt' came from. */
static void
side_set_from_packet(struct conn_offload_side *side, struct netdev *netdev,
                     const struct dp_packet *pkt)
{
    struct ct_offload_ctx ctx = {
        .input_port_id = pkt->md.in_port.odp_port,
    };

    /* A reassembled packet may have been taken from another port's burst. */
    if (!(pkt->md.ct_rewrite & CT_REWRITE_REASSEMBLED)) {
        ctx.netdev_in = netdev;
    }
    ctx.unmodified = ctx.netdev_in && !pkt->md.ct_rewrite;
    ctx_set_vlan(&ctx, pkt);
    side_set(side, &ctx);
}

static void
side_to_ctx(struct conn_offload_side *side, struct ct_offload_ctx *ctx)
{
    ctx->netdev_in = side_get_netdev(side);
    ctx->input_port_id = side->port_id;
    ctx->unmodified = side->unmodified;
    ctx->vlan = side->vlan;
    ctx->vlan_tci = side->vlan_tci;
}

/* Expiration. */

/* If 'conn' was used at 'last_used', as a provider says, then it expires at
 * that time plus the timeout of its state, unless it expires later anyway or
 * was forced to expire.  Returns true if that is after 'now'. */
static bool
conn_extend(struct conntrack *ct, struct conn *conn, long long int last_used,
            long long int now)
{
    struct conn probe = {
        .tp_id = conn->tp_id,
        .key_node[CT_DIR_FWD].key.zone = conn->key_node[CT_DIR_FWD].key.zone,
    };
    long long int new, old;
    enum ct_timeout timeout;

    atomic_read_relaxed(&conn->expiration, &old);
    if (!last_used) {
        return old > now;
    }

    /* The timeout policy is applied to a connection, so have one. */
    atomic_read_relaxed(&conn->timeout, &timeout);
    conn_init_expiration(ct, &probe, timeout, MIN(last_used, now));
    atomic_read_relaxed(&probe.expiration, &new);
    do {
        if (!old || new <= old) {
            return old > now;
        }
    } while (!atomic_compare_exchange_weak_explicit(&conn->expiration,
                                                    &old, new,
                                                    memory_order_relaxed,
                                                    memory_order_relaxed));
    return new > now;
}

/* Operations. */

static struct conn *
op_conn(const struct ct_offload_op *op)
{
    return CONST_CAST(struct conn *, op->ctx.conn);
}

/* Are packets with 'key' those of a helper's control connection, going by
 * their ports? */
static bool
key_has_helper(const struct conn_key *key)
{
    enum { FTP_PORT = 21, TFTP_PORT = 69 };

    return ((key->nw_proto == IPPROTO_TCP
             && (key->src.port == htons(FTP_PORT)
                 || key->dst.port == htons(FTP_PORT)))
            || (key->nw_proto == IPPROTO_UDP
                && key->dst.port == htons(TFTP_PORT)));
}

/* Has 'conn' a helper?  Such connections are never offloaded: software has to
 * read and sometimes to change their payload. */
static bool
conn_has_helper(const struct conn *conn)
{
    return (conn->alg
            || key_has_helper(&conn->key_node[CT_DIR_FWD].key)
            || key_has_helper(&conn->key_node[CT_DIR_REV].key));
}

/* Should 'op' be dispatched at all, if 'state' is the state of its connection?
 */
static bool
op_is_wanted(const struct ct_offload_op *op, uint32_t state)
{
    const struct conn *conn = op->ctx.conn;

    if (op->type != CT_OFFLOAD_OP_ADD) {
        return op->held != 0;
    }
    return !(state & (CONN_OFFLOAD_PENDING_DEL | CONN_OFFLOAD_PENDING_EVICT
                      | CONN_OFFLOAD_FREE | CONN_OFFLOAD_CLOSED))
           && state_phase(state) != CONN_OFFLOAD_GONE
           && conn_get_offload(conn)
           && !conn_has_helper(conn);
}

/* Prepares 'op' for ct_offload_dispatch().  The calling thread owns the
 * connection. */
static void
op_prepare(struct ct_offload_op *op)
{
    struct conn_offload *offload = conn_get_offload(op->ctx.conn);
    uint32_t state = conn_offload_state(op->ctx.conn);

    op->held = state_held(state) & ~op->except;
    op->est = state_est(state) & ~op->except;
    op->priv = offload ? offload->priv : NULL;
    op->skip = !op_is_wanted(op, state);
}

/* Initializes '*op' with 'type', for 'conn', with what is known of it.  The
 * calling thread owns 'conn'. */
static void
op_init(struct ct_offload_op *op, enum ct_offload_op_type type,
        const struct conn *conn)
{
    struct conn_offload *offload = conn_get_offload(conn);

    memset(op, 0, sizeof *op);
    op->type = type;
    op->ctx.conn = conn;
    op->ctx.input_port_id = ODPP_NONE;
    if (offload && type == CT_OFFLOAD_OP_ADD) {
        side_to_ctx(&offload->orig, &op->ctx);
    } else if (offload && type == CT_OFFLOAD_OP_EST) {
        side_to_ctx(&offload->reply, &op->ctx);
    }
}

static bool
conn_is_tcp(const struct conn *conn)
{
    return conn->key_node[CT_DIR_FWD].key.nw_proto == IPPROTO_TCP;
}

/* Brings the state of the connection up to date with 'op', which was done or
 * found unnecessary.  'now' is the time. */
static void
op_finish(const struct ct_offload_op *op, long long int now)
{
    struct conn *conn = op_conn(op);
    uint32_t old = conn_offload_state(conn);
    uint32_t old_phase = state_phase(old);
    uint8_t held = op->held | (state_held(old) & op->except);
    uint8_t est = op->est | (state_est(old) & op->except);
    uint32_t clear = (CONN_OFFLOAD_PHASE_MASK | CONN_OFFLOAD_HELD_MASK
                      | CONN_OFFLOAD_EST_MASK);
    uint32_t set = ((uint32_t) held << CONN_OFFLOAD_HELD_SHIFT
                    | (uint32_t) est << CONN_OFFLOAD_EST_SHIFT);
    uint32_t phase = old_phase;

    if (op->type == CT_OFFLOAD_OP_UPD) {
        struct conntrack *ct = conn_get_conntrack(conn);

        if (!op->error && ct) {
            conn_extend(ct, conn, op->last_used, now ? now : time_msec());
        }
        return;
    }

    if (!conn_is_tcp(conn)) {
        clear |= CONN_OFFLOAD_AWAIT_FIN;
    }
    if (held) {
        phase = est == held ? CONN_OFFLOAD_EST : CONN_OFFLOAD_ADDED;
        /* Whatever other providers are waiting for. */
        if (ct_offload_may_bypass(est)) {
            set |= CONN_OFFLOAD_NO_SEQ_CHK;
        }
    } else {
        clear |= (CONN_OFFLOAD_START
                  | CONN_OFFLOAD_REPLY | CONN_OFFLOAD_REPLIED);
        if (op->gone || old_phase == CONN_OFFLOAD_GONE) {
            phase = CONN_OFFLOAD_GONE;
        } else if (old_phase != CONN_OFFLOAD_NONE) {
            phase = CONN_OFFLOAD_SOFTWARE;
        }
    }
    conn_set_state(conn, clear, phase | set);

    if (!held) {
        conn_release_offload(conn, phase);
        if (old & CONN_OFFLOAD_COUNTS) {
            ct_offload_unreserve();
        }
    }

    bool was_held = (old_phase == CONN_OFFLOAD_ADDED
                     || old_phase == CONN_OFFLOAD_EST);

    if (was_held != (held != 0)) {
        ct_offload_count(CT_OFFLOAD_N_OFFLOADED, held ? 1 : -1);
    }
    if ((old_phase == CONN_OFFLOAD_EST) != (phase == CONN_OFFLOAD_EST)) {
        ct_offload_count(CT_OFFLOAD_N_ESTABLISHED,
                         phase == CONN_OFFLOAD_EST ? 1 : -1);
    }
    if (was_held && !held && !op->gone && !op->lapsed) {
        COVERAGE_INC(ct_offload_evict);
        ct_offload_count(CT_OFFLOAD_N_EVICTED, 1);
    }
}

/* Doing what is pending. */

/* For conns_run(), beside CONN_OFFLOAD_PENDING_*: the answer to
 * CONN_OFFLOAD_PENDING_EXPIRE is there. */
#define EVENT_LAPSE (1u << 31)

/* Appends an operation of 'type' on 'conn', which the calling thread owns, to
 * 'ops'. */
static struct ct_offload_op *
ops_add(struct ct_offload_op_batch *ops, enum ct_offload_op_type type,
        const struct conn *conn)
{
    struct ct_offload_op op;

    op_init(&op, type, conn);
    ct_offload_op_batch_add(ops, type, &op.ctx);
    return &ops->ops[ops->n_ops - 1];
}

/* Does the operations in 'ops'. */
static void
ops_run(struct ct_offload_op_batch *ops, long long int now)
{
    struct ct_offload_op *op;
    bool wanted = false;

    CT_OFFLOAD_BATCH_OP_FOR_EACH (i, op, ops) {
        op_prepare(op);
        wanted |= !op->skip;
    }
    /* Dispatching may mean to wait for another thread. */
    if (wanted) {
        ct_offload_dispatch(ops->ops, ops->n_ops);
    }
    CT_OFFLOAD_BATCH_OP_FOR_EACH (i, op, ops) {
        op_finish(op, now);
    }
    ops->n_ops = 0;
}

/* 'conn' was asked about because its time was up.  If it is not in use in
 * hardware either, adds to 'ops' what takes it from the providers; the sweep
 * cleans it up then. */
static void
conn_add_lapse(struct conn *conn, struct ct_offload_op_batch *ops,
               long long int now)
{
    long long int expiration;
    bool lapsed;

    atomic_read_relaxed(&conn->expiration, &expiration);
    lapsed = (now ? now : time_msec()) >= expiration;
    if (lapsed) {
        ops_add(ops, CT_OFFLOAD_OP_DEL, conn)->lapsed = true;
    }
    COVERAGE_INC(ct_offload_expiry_asked);
    COVERAGE_ADD(ct_offload_expiry_extended, !lapsed);
    ct_offload_count(CT_OFFLOAD_N_ASKED, 1);
    ct_offload_count(lapsed ? CT_OFFLOAD_N_LAPSED : CT_OFFLOAD_N_EXTENDED, 1);
}

/* Adds to 'ops' the operations that bring the first of 'events' of 'conn' to
 * the providers.  Returns the events that depend on the result of these. */
static uint32_t
conn_add_ops(struct conn *conn, uint32_t events,
             struct ct_offload_op_batch *ops, long long int now)
{
    bool del = events & CONN_OFFLOAD_PENDING_DEL;
    bool evict = events & CONN_OFFLOAD_PENDING_EVICT;

    /* An ADD that is followed by DEL is not sent at all. */
    if (events & CONN_OFFLOAD_PENDING_ADD && !del && !evict) {
        ops_add(ops, CT_OFFLOAD_OP_ADD, conn);
        return events & ~CONN_OFFLOAD_PENDING_ADD;
    }
    if (events & EVENT_LAPSE) {
        conn_add_lapse(conn, ops, now);
        return 0;
    }
    if (events & CONN_OFFLOAD_PENDING_EST) {
        ops_add(ops, CT_OFFLOAD_OP_EST, conn);
    }
    if (events & (CONN_OFFLOAD_PENDING_UPD | CONN_OFFLOAD_PENDING_EXPIRE)
        || evict) {
        ops_add(ops, CT_OFFLOAD_OP_UPD, conn);
    }
    if (del || evict) {
        ops_add(ops, CT_OFFLOAD_OP_DEL, conn)->gone = del;
        return 0;
    }
    if (events & CONN_OFFLOAD_PENDING_LEAVE) {
        uint8_t except = ~ct_offload_leaving();

        ops_add(ops, CT_OFFLOAD_OP_UPD, conn)->except = except;
        ops_add(ops, CT_OFFLOAD_OP_DEL, conn)->except = except;
    }
    return (events & CONN_OFFLOAD_PENDING_EXPIRE
            && state_held(conn_offload_state(conn)) ? EVENT_LAPSE : 0);
}

/* Does what is pending for the 'n' connections in 'conns', at most
 * CT_OFFLOAD_BATCH_INLINE, which the calling thread owns.  Of two connections
 * with the same tuple the older one comes first in 'conns': its DEL precedes
 * the ADD of its successor. */
static void
conns_run(struct conn_offload_batch *batch, struct conn **conns, size_t n)
{
    uint32_t events[CT_OFFLOAD_BATCH_INLINE];

    for (size_t i = 0; i < n; i++) {
        events[i] = conn_take_events(conns[i]);
    }
    do {
        for (size_t i = 0; i < n; i++) {
            if (events[i]) {
                events[i] = conn_add_ops(conns[i], events[i], &batch->ops,
                                         batch->now);
            }
        }
        if (!batch->ops.n_ops) {
            break;
        }
        ops_run(&batch->ops, batch->now);
    } while (true);
}

/* Gives up those of the 'n' connections in 'conns' for which nothing is
 * pending.  Returns the number of those that are left, which are moved to the
 * front. */
static size_t
conns_disown(struct conn **conns, size_t n)
{
    size_t left = 0;

    for (size_t i = 0; i < n; i++) {
        if (!conn_disown(conns[i])) {
            conns[left++] = conns[i];
        }
    }
    return left;
}

/* Does what is pending for the 'n' connections in 'conns', until there is
 * nothing any more.  The calling thread owns them, but does not when this
 * returns. */
static void
conns_drain(struct conn_offload_batch *batch, struct conn **conns, size_t n)
{
    for (size_t i = 0; i < n; i += CT_OFFLOAD_BATCH_INLINE) {
        size_t left = MIN(n - i, CT_OFFLOAD_BATCH_INLINE);

        do {
            conns_run(batch, &conns[i], left);
            left = conns_disown(&conns[i], left);
        } while (left);
    }
}

/* Batches. */

static void
thread_batch_destroy(void *batch_)
{
    struct conn_offload_batch *batch = batch_;

    ovs_mutex_lock(&batches_mutex);
    ovs_list_remove(&batch->node);
    ovs_mutex_unlock(&batches_mutex);
    ct_offload_op_batch_destroy(&batch->ops);
    free(batch->conns);
    free(batch->expired);
    free_cacheline(batch);
}

static struct conn_offload_batch *
thread_batch_create(void)
{
    static struct ovsthread_once once = OVSTHREAD_ONCE_INITIALIZER;
    static ovsthread_key_t key;
    struct conn_offload_batch *batch = xzalloc_cacheline(sizeof *batch);

    if (ovsthread_once_start(&once)) {
        ovsthread_key_create(&key, thread_batch_destroy);
        ovsthread_once_done(&once);
    }

    atomic_init(&batch->seq, 0);
    ct_offload_op_batch_init(&batch->ops);
    ovs_mutex_lock(&batches_mutex);
    ovs_list_push_back(&batches, &batch->node);
    ovs_mutex_unlock(&batches_mutex);
    ovsthread_setspecific(key, batch);
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

/* From now on the calling thread may own connections, until batch_leave(). */
static struct conn_offload_batch *
batch_enter(void)
{
    struct conn_offload_batch *batch = *thread_batch_get();

    if (OVS_UNLIKELY(!batch)) {
        batch = thread_batch_create();
    }
    if (!batch->depth++) {
        batch_next_seq(batch);
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

/* Gives the connections in 'batch', which the calling thread owns, to the
 * offload threads, those with the same tuple always to the same one. */
static void
batch_hand_over(struct conn_offload_batch *batch)
{
    unsigned int n_threads = ct_offload_n_threads();
    size_t n = 0;

    /* What no provider holds or may take does not concern the threads. */
    for (size_t i = 0; i < batch->n_conns; i++) {
        struct conn *conn = batch->conns[i];

        if (conn_get_offload(conn)) {
            batch->conns[n++] = conn;
        } else {
            conns_drain(batch, &conn, 1);
        }
    }

    if (n_threads == 1) {
        ct_offload_thread_expect(0, n);
    }
    for (size_t i = 0; i < n; i++) {
        struct conn *conn = batch->conns[i];
        unsigned int thread = 0;

        if (n_threads > 1) {
            thread = conn_hash(conn) % n_threads;
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
        conns_drain(batch, batch->conns, batch->n_conns);
    }
    batch->n_conns = 0;
}

/* Ends what batch_enter() began. */
static void
batch_leave(struct conn_offload_batch *batch)
{
    if (batch->depth == 1 && batch->n_conns) {
        batch_run(batch);
    }
    if (!--batch->depth) {
        batch_next_seq(batch);
    }
}

/* Adds 'conn', which the calling thread owns, to 'batch'. */
static void
batch_add(struct conn_offload_batch *batch, struct conn *conn)
{
    if (OVS_UNLIKELY(batch->n_conns >= batch->allocated_conns)) {
        batch->conns = x2nrealloc(batch->conns, &batch->allocated_conns,
                                  sizeof *batch->conns);
    }
    batch->conns[batch->n_conns++] = conn;
}

/* Raises 'events' for 'conn', to be done with 'batch' unless 'conn' has
 * another owner. */
static void
batch_raise(struct conn_offload_batch *batch, struct conn *conn,
            uint32_t events)
{
    if (conn_raise(conn, events, 0, 0)) {
        batch_add(batch, conn);
    }
}

/* Does what is in 'batch' if that is getting much.  No lock may be held. */
static void
batch_run_if_full(struct conn_offload_batch *batch)
{
    if (batch->n_conns >= CT_OFFLOAD_BATCH_INLINE) {
        batch_run(batch);
    }
}

struct conn_offload_batch *
conntrack_offload_begin__(struct netdev *netdev_in)
{
    struct conn_offload_batch *batch = batch_enter();

    batch->netdev_in = netdev_in;
    return batch;
}

void
conntrack_offload_end__(struct conn_offload_batch *batch)
{
    batch_leave(batch);
    batch->netdev_in = NULL;
}

/* From now on the calling thread may call conntrack_offload_own(), until
 * conntrack_offload_leave(). */
void
conntrack_offload_enter(void)
{
    batch_enter();
}

/* Ends what conntrack_offload_enter() began. */
void
conntrack_offload_leave(void)
{
    batch_leave(*thread_batch_get());
}

static void
batch_wait(struct conn_offload_batch *batch, bool quiesce)
{
    unsigned int start, now;

    atomic_read_explicit(&batch->seq, &start, memory_order_acquire);
    now = start;
    while (start & 1 && now == start) {
        if (quiesce) {
            xnanosleep(100 * 1000);
        } else {
            xnanosleep_no_quiesce(100 * 1000);
        }
        atomic_read_explicit(&batch->seq, &now, memory_order_acquire);
    }
}

/* Waits until every other thread has ended what it was telling providers when
 * this was called.  The calling thread must not be in a call that can own
 * connections.  If 'quiesce' it may quiesce, so that it must not hold a
 * pointer that is protected by RCU. */
void
conntrack_offload_barrier(bool quiesce)
{
    struct conn_offload_batch *own = *thread_batch_get();
    struct conn_offload_batch *batch;

    ovs_assert(!own || !own->depth);
    ovs_mutex_lock(&batches_mutex);
    LIST_FOR_EACH (batch, node, &batches) {
        batch_wait(batch, quiesce);
    }
    ovs_mutex_unlock(&batches_mutex);
    ct_offload_threads_barrier(quiesce);
}

/* For an offload thread: does what is pending for the connections of the 'n'
 * items in 'works', which the calling thread owns, but does not when this
 * returns. */
void
conntrack_offload_run(struct ct_offload_work **works, size_t n)
{
    struct conn_offload_batch *batch = *thread_batch_get();

    if (!batch) {
        batch = thread_batch_create();
    }
    for (size_t i = 0; i < n; i++) {
        batch_add(batch, CONTAINER_OF(works[i], struct conn_offload,
                                      work)->conn);
    }
    conns_drain(batch, batch->conns, batch->n_conns);
    batch->n_conns = 0;
}

/* Single operations from outside. */

/* Prepares 'conn', which no provider holds and the calling thread owns, for
 * 'op', an ADD.  Stores in 'op->error' why it cannot be dispatched, if so. */
static void
own_for_add(struct conn *conn, struct ct_offload_op *op)
{
    struct conn_offload *offload;
    long long int expiration;

    /* If its time is up, there may be another one with the same tuple. */
    atomic_read_relaxed(&conn->expiration, &expiration);
    if (time_msec() >= expiration
        || state_phase(conn_offload_state(conn)) == CONN_OFFLOAD_GONE) {
        op->error = EOPNOTSUPP;
        return;
    }

    offload = conn_alloc_offload(conn);
    if (!offload) {
        op->error = ENOSPC;
        return;
    }
    side_set(&offload->orig, &op->ctx);
    conn_set_state(conn, CONN_OFFLOAD_REPLY | CONN_OFFLOAD_REPLIED,
                   CONN_OFFLOAD_START);
}

/* Makes the calling thread the owner of the connection of 'op', so that 'op'
 * can be dispatched; the caller must call conntrack_offload_release() then.
 * Returns false if 'op' cannot or need not be dispatched, with the reason in
 * 'op->error'.  EINPROGRESS means that the connection has an owner; if 'leave'
 * is true, that one does the operation. */
bool
conntrack_offload_own(struct ct_offload_op *op, bool leave)
{
    static const uint32_t pending[] = {
        [CT_OFFLOAD_OP_ADD] = CONN_OFFLOAD_PENDING_ADD,
        [CT_OFFLOAD_OP_EST] = CONN_OFFLOAD_PENDING_EST,
        [CT_OFFLOAD_OP_UPD] = CONN_OFFLOAD_PENDING_UPD,
        [CT_OFFLOAD_OP_DEL] = CONN_OFFLOAD_PENDING_EVICT,
    };
    struct conn *conn = op_conn(op);

    if (!conn_own(conn, leave ? pending[op->type] : 0, 0)) {
        op->error = EINPROGRESS;
        return false;
    }

    if (op->type == CT_OFFLOAD_OP_ADD
        && !state_held(conn_offload_state(conn))) {
        own_for_add(conn, op);
    } else if (op->type == CT_OFFLOAD_OP_EST) {
        conn_set_state(conn, CONN_OFFLOAD_AWAIT_EST, 0);
    }

    op_prepare(op);
    if (op->skip) {
        if (op->type == CT_OFFLOAD_OP_ADD && !op->error) {
            op->error = EOPNOTSUPP;
        }
        conntrack_offload_release(op);
        return false;
    }
    return true;
}

/* 'op', whose connection the calling thread owns by conntrack_offload_own(),
 * was done. */
void
conntrack_offload_release(const struct ct_offload_op *op)
{
    struct conn *conn = op_conn(op);

    op_finish(op, 0);
    conns_drain(*thread_batch_get(), &conn, 1);
}

/* Events from conntrack. */

void
conntrack_offload_conn_init__(struct conntrack *ct, struct conn *conn,
                              const struct dp_packet *pkt)
{
    struct conn_offload_batch *batch = *thread_batch_get();
    struct conn_offload *offload;

    /* If a provider came in the middle of conntrack_execute(), 'conn' is older
     * than the provider. */
    if (!batch || !batch->depth || !ct_offload_is_accepting()) {
        return;
    }

    offload = conn_alloc_offload(conn);
    if (offload) {
        atomic_store_relaxed(&offload->ct, ct);
        side_set_from_packet(&offload->orig, batch->netdev_in, pkt);

        /* The protocol of 'conn' is not known yet. */
        atomic_init(&conn->offload_state,
                    CONN_OFFLOAD_BUSY | CONN_OFFLOAD_START
                    | CONN_OFFLOAD_PENDING_ADD);
        batch_add(batch, conn);
    }
}

void
conntrack_offload_conn_uninit__(struct conn *conn)
{
    struct conn_offload *offload = conn_get_offload(conn);
    uint32_t state = conn_offload_state(conn);

    /* A connection that has an owner and is freed all the same was never
     * committed, because there was no tuple left for NAT: it is the last one
     * in this thread's batch. */
    if (state & CONN_OFFLOAD_BUSY && !(state & CONN_OFFLOAD_FREE)) {
        struct conn_offload_batch *batch = *thread_batch_get();

        ovs_assert(batch->n_conns
                   && batch->conns[batch->n_conns - 1] == conn);
        batch->n_conns--;
    }
    if (state & CONN_OFFLOAD_COUNTS) {
        ct_offload_unreserve();
    }
    free(offload);
}

/* Are both peers of 'conn' established, or does that mean nothing for its
 * protocol? */
bool
conntrack_offload_handshake_done(const struct conn *conn)
{
    uint8_t orig, reply;

    return (!ct_offload_conn_get_tcp_state(conn, &orig, &reply)
            || (orig == CT_DPIF_TCPS_ESTABLISHED
                && reply == CT_DPIF_TCPS_ESTABLISHED));
}

/* 'pkt', from 'conn', may be what makes it established. */
static void
conn_seen_reply(struct conn_offload_batch *batch, struct conn *conn,
                const struct dp_packet *pkt, bool reply)
{
    struct conn_offload *offload = conn_get_offload(conn);
    bool replied = conn_offload_state(conn) & CONN_OFFLOAD_REPLIED;

    if (!offload || (!reply && !replied)) {
        return;
    }

    /* Providers that want to hear of the first reply hear of that.  For those
     * that want the handshake to be complete, look again later. */
    bool done = (!ct_offload_wants_handshake()
                 || conntrack_offload_handshake_done(conn));
    if (replied && !done) {
        return;
    }

    if (!replied) {
        uint32_t orig;

        atomic_or_explicit(&conn->offload_state, CONN_OFFLOAD_REPLY, &orig,
                           memory_order_acq_rel);
        if (orig & CONN_OFFLOAD_REPLY) {
            return;
        }
        side_set_from_packet(&offload->reply, batch->netdev_in, pkt);
    }
    if (conn_raise(conn, CONN_OFFLOAD_PENDING_EST,
                   done ? CONN_OFFLOAD_AWAIT_EST : 0, CONN_OFFLOAD_REPLIED)) {
        batch_add(batch, conn);
    }
}

/* 'conn', which was marked as eligible, has 'pkt' in original direction: offer
 * it once more. */
static void
conn_seen_eligible(struct conn_offload_batch *batch, struct conntrack *ct,
                   struct conn *conn, const struct dp_packet *pkt)
{
    struct conn_offload *offload;
    uint8_t orig, reply;
    uint32_t state;

    if (!conn_own(conn, 0, CONN_OFFLOAD_ELIGIBLE)) {
        return;
    }

    /* If it was removed before, then RCU frees it, whoever owns it: it must
     * not be handed over. */
    state = conn_offload_state(conn);
    if (ct_offload_conn_get_tcp_state(conn, &orig, &reply)
        && MAX(orig, reply) > CT_DPIF_TCPS_ESTABLISHED) {
        conn_set_state(conn, 0, CONN_OFFLOAD_CLOSED);
    } else if (ct_offload_is_accepting() && !state_held(state)
               && state_phase(state) != CONN_OFFLOAD_GONE) {
        offload = conn_alloc_offload(conn);
        if (offload) {
            atomic_store_relaxed(&offload->ct, ct);
            side_set_from_packet(&offload->orig, batch->netdev_in, pkt);
            conn_set_state(conn, 0, (CONN_OFFLOAD_START
                                     | CONN_OFFLOAD_PENDING_ADD));
        }
    }
    batch_add(batch, conn);
}

void
conntrack_offload_conn_seen__(struct conntrack *ct, struct conn *conn,
                              const struct dp_packet *pkt, const bool *reply,
                              enum ct_update_res res)
{
    uint32_t state = conn_offload_state(conn);
    struct conn_offload_batch *batch;
    bool fin = false;

    if (state & CONN_OFFLOAD_AWAIT_FIN && conn_is_tcp(conn)) {
        const struct tcp_header *th = dp_packet_l4(pkt);

        fin = TCP_FLAGS(th->tcp_ctl) & (TCP_FIN | TCP_RST);
    }
    /* With CT_UPDATE_NEW, another connection is about to take its place. */
    if (res == CT_UPDATE_INVALID || res == CT_UPDATE_NEW
        || !(fin || state & (CONN_OFFLOAD_AWAIT_EST
                             | CONN_OFFLOAD_ELIGIBLE))) {
        return;
    }

    batch = batch_enter();
    if (state & CONN_OFFLOAD_AWAIT_EST && res == CT_UPDATE_VALID) {
        conn_seen_reply(batch, conn, pkt, *reply);
    }
    if (fin && conn_raise(conn, CONN_OFFLOAD_PENDING_EVICT,
                          CONN_OFFLOAD_AWAIT_FIN, CONN_OFFLOAD_CLOSED)) {
        batch_add(batch, conn);
    }
    if (state & CONN_OFFLOAD_ELIGIBLE && !*reply) {
        conn_seen_eligible(batch, ct, conn, pkt);
    }
    batch_run_if_full(batch);
    batch_leave(batch);
}

void
conntrack_offload_conn_changed__(struct conn *conn)
{
    struct conn_offload_batch *batch = *thread_batch_get();

    /* Outside of conntrack_offload_begin() there is no provider, or the last
     * one is just leaving and takes 'conn' with it. */
    if (!batch || !batch->depth) {
        return;
    }

    /* The commit that creates a connection sets its mark and labels, too. */
    if (batch->n_conns && batch->conns[batch->n_conns - 1] == conn
        && conn_offload_state(conn) & CONN_OFFLOAD_PENDING_ADD) {
        return;
    }

    /* Locks are held: only add to the batch. */
    batch_raise(batch, conn, CONN_OFFLOAD_PENDING_EVICT);
}

void
conntrack_offload_conn_forced__(struct conn *conn)
{
    struct conn_offload_batch *batch = batch_enter();

    /* The successor of 'conn', with the same tuple, comes after 'conn' in the
     * batch and in the queue. */
    if (conn_raise(conn, CONN_OFFLOAD_PENDING_DEL, 0, CONN_OFFLOAD_FORCED)) {
        batch_add(batch, conn);
    }
    batch_run_if_full(batch);
    batch_leave(batch);
}

/* 'conn' was removed from conntrack.  Has 'delete' called for it, as by
 * ovsrcu_postpone(), when the providers are done with it.  No lock may be
 * held. */
void
conntrack_offload_conn_postpone(void (*delete)(struct conn *),
                                struct conn *conn)
{
    uint32_t state = CONN_OFFLOAD_NONE;
    struct conn_offload_batch *batch;
    void (*old_delete)(struct conn *);

    if (OVS_LIKELY(atomic_compare_exchange_strong(&conn->offload_state, &state,
                                                  CONN_OFFLOAD_GONE))) {
        ovsrcu_postpone(delete, conn);
        return;
    }

    atomic_read_relaxed(&conn_delete, &old_delete);
    if (old_delete != delete) {
        atomic_store_relaxed(&conn_delete, delete);
    }
    batch = batch_enter();
    if (conn_raise(conn, CONN_OFFLOAD_PENDING_DEL, 0, CONN_OFFLOAD_FREE)) {
        batch_add(batch, conn);
        batch_run_if_full(batch);
    }
    batch_leave(batch);
}

/* Returns the CT_DPIF_STATUS_* flags that tell of 'conn' being offloaded. */
uint32_t
conntrack_offload_conn_status(const struct conn *conn)
{
    switch (state_phase(conn_offload_state(conn))) {
    case CONN_OFFLOAD_ADDED:
        return CT_DPIF_STATUS_OFFLOAD;
    case CONN_OFFLOAD_EST:
        return CT_DPIF_STATUS_OFFLOAD | CT_DPIF_STATUS_HW_OFFLOAD;
    default:
        return 0;
    }
}

/* The sweep. */

/* Should 'conn', with this state word, be offered to the providers once more?
 */
static bool
sweep_is_eligible(const struct conn *conn, uint32_t state)
{
    return ((state_phase(state) == CONN_OFFLOAD_NONE
             || state_phase(state) == CONN_OFFLOAD_SOFTWARE)
            && !(state & (CONN_OFFLOAD_BUSY | CONN_OFFLOAD_CLOSED
                          | CONN_OFFLOAD_ELIGIBLE))
            && !conn_has_helper(conn));
}

void
conntrack_offload_sweep_conn__(struct conn_offload_batch *batch,
                               struct conntrack *ct, struct conn *conn,
                               long long int now)
{
    uint32_t state = conn_offload_state(conn);
    long long int expiration;

    atomic_read_relaxed(&conn->expiration, &expiration);
    if (state & CONN_OFFLOAD_HELD_MASK) {
        struct conn_offload *offload = conn_get_offload(conn);

        if (now < expiration || !expiration) {
            return;
        }
        if (offload) {
            /* What was added by ct_offload_conn_add() does not know. */
            atomic_store_relaxed(&offload->ct, ct);
        }
        if (ct_offload_n_threads()) {
            batch_raise(batch, conn, CONN_OFFLOAD_PENDING_EXPIRE);
            batch_run_if_full(batch);
        } else if (conn_own(conn, 0, 0)) {
            if (batch->n_expired >= batch->allocated_expired) {
                batch->expired = x2nrealloc(batch->expired,
                                            &batch->allocated_expired,
                                            sizeof *batch->expired);
            }
            batch->expired[batch->n_expired++] = conn;
            batch->now = now;
        }
    } else if (now < expiration && sweep_is_eligible(conn, state)
               && ct_offload_is_accepting() && ct_offload_has_room()) {
        conn_set_state(conn, 0, CONN_OFFLOAD_ELIGIBLE);
    }
}

/* Asks the providers about connections in use, at the end of a sweep.  Cleans
 * up those that are not by calling 'clean', unless that is NULL. */
static void
sweep_ask(struct conn_offload_batch *batch, struct conntrack *ct,
          void (*clean)(struct conntrack *, struct conn *))
{
    /* Connections that this thread owns are not freed, so that it may quiesce
     * before it goes on to the next ones: hardware can be slow. */
    for (size_t i = 0; i < batch->n_expired; i += CT_OFFLOAD_BATCH_INLINE) {
        size_t n = MIN(batch->n_expired - i, CT_OFFLOAD_BATCH_INLINE);
        struct conn *conns[CT_OFFLOAD_BATCH_INLINE];

        for (size_t j = 0; j < n; j++) {
            conns[j] = batch->expired[i + j];
            conn_raise(conns[j], CONN_OFFLOAD_PENDING_EXPIRE, 0, 0);
        }
        conns_drain(batch, &batch->expired[i], n);
        for (size_t j = 0; clean && j < n; j++) {
            long long int expiration;

            atomic_read_relaxed(&conns[j]->expiration, &expiration);
            if (batch->now >= expiration
                && !conntrack_offload_alive(conns[j], batch->now)) {
                clean(ct, conns[j]);
            }
        }
        batch_run_if_full(batch);
        ovsrcu_quiesce();
    }
    batch->n_expired = 0;
    batch->now = 0;
}

/* Ends what conntrack_offload_begin() began, at the end of a sweep of 'ct'
 * that has called conntrack_offload_sweep_conn() for each connection. */
void
conntrack_offload_sweep_end__(struct conn_offload_batch *batch,
                              struct conntrack *ct,
                              void (*clean)(struct conntrack *, struct conn *))
{
    sweep_ask(batch, ct, clean);
    batch_leave(batch);
    ct_offload_collect_credit();
}

/* All connections. */

/* Makes the connections of 'ct' known to the layer. */
void
conntrack_offload_init(struct conntrack *ct)
{
    struct conntrack_node *node = xmalloc(sizeof *node);

    node->ct = ct;
    ovs_mutex_lock(&conntracks_mutex);
    ovs_list_push_back(&conntracks, &node->node);
    ovs_mutex_unlock(&conntracks_mutex);
}

/* 'ct' has no connections any more, and is about to be freed. */
void
conntrack_offload_destroy(struct conntrack *ct)
{
    struct conntrack_node *node;

    ovs_mutex_lock(&conntracks_mutex);
    LIST_FOR_EACH (node, node, &conntracks) {
        if (node->ct == ct) {
            ovs_list_remove(&node->node);
            free(node);
            break;
        }
    }
    ovs_mutex_unlock(&conntracks_mutex);

    /* Nobody finds connections of 'ct' any more.  Those that were queued, here
     * or by conntrack_offload_evict() in another thread, refer to 'ct'. */
    ct_offload_threads_barrier(false);
}

/* Does 'conn' come from 'netdev' in either direction, as far as the layer
 * knows? */
static bool
conn_is_on_netdev(const struct conn *conn, const struct netdev *netdev)
{
    struct conn_offload *offload = conn_get_offload(conn);

    return offload && (side_get_netdev(&offload->orig) == netdev
                       || side_get_netdev(&offload->reply) == netdev);
}

static void
conntrack_evict(struct conntrack *ct, uint8_t leaving,
                const struct netdev *netdev)
{
    struct conn_offload_batch *batch = batch_enter();

    for (size_t i = 0; i < N_EXP_LISTS; i++) {
        struct conn *conn;

        RCULIST_FOR_EACH (conn, node, &ct->exp_lists[i]) {
            uint32_t state = conn_offload_state(conn);

            if (leaving) {
                if (state_held(state) & leaving) {
                    batch_raise(batch, conn, CONN_OFFLOAD_PENDING_LEAVE);
                }
            } else if (state & (CONN_OFFLOAD_HELD_MASK | CONN_OFFLOAD_BUSY)
                       && (!netdev || conn_is_on_netdev(conn, netdev))) {
                batch_raise(batch, conn, CONN_OFFLOAD_PENDING_EVICT);
            }
            batch_run_if_full(batch);
        }
    }
    batch_leave(batch);
}

/* Takes connections back into software:
 *
 *     - if 'leaving' is not 0, those that one of the providers in 'leaving',
 *       which are being unregistered, holds, and from these only;
 *
 *     - otherwise from all providers, and, if 'netdev' is nonnull, those which
 *       have 'netdev' as port.
 *
 * Connections that have another owner just now are done when that one has
 * ended what it is doing: see conntrack_offload_barrier(). */
void
conntrack_offload_evict(uint8_t leaving, const struct netdev *netdev)
{
    struct conntrack_node *node;

    ovs_mutex_lock(&conntracks_mutex);
    LIST_FOR_EACH (node, node, &conntracks) {
        conntrack_evict(node->ct, leaving, netdev);
    }
    ovs_mutex_unlock(&conntracks_mutex);
}

/* What providers may ask. */

/* Is 'conn' held by any provider? */
bool
ct_offload_conn_is_offloaded(const struct conn *conn)
{
    return state_held(conn_offload_state(conn)) != 0;
}

/* Has every provider that holds 'conn' been told of its establishment? */
bool
ct_offload_conn_is_established(const struct conn *conn)
{
    return state_phase(conn_offload_state(conn)) == CONN_OFFLOAD_EST;
}

static void
endpoint_to_inet_addr(const struct ct_endpoint *endpoint, bool ipv6,
                      union ct_dpif_inet_addr *addr)
{
    if (ipv6) {
        addr->in6 = endpoint->addr.ipv6;
    } else {
        addr->ip = endpoint->addr.ipv4;
    }
}

/* Stores in '*tuple' the original or reply tuple of 'conn', addresses and
 * ports in network byte order. */
void
ct_offload_conn_get_tuple(const struct conn *conn, bool reply,
                          struct ct_dpif_tuple *tuple)
{
    const struct conn_key *key
        = &conn->key_node[reply ? CT_DIR_REV : CT_DIR_FWD].key;
    bool ipv6 = key->dl_type == htons(ETH_TYPE_IPV6);

    memset(tuple, 0, sizeof *tuple);
    tuple->l3_type = ipv6 ? AF_INET6 : AF_INET;
    tuple->ip_proto = key->nw_proto;
    endpoint_to_inet_addr(&key->src, ipv6, &tuple->src);
    endpoint_to_inet_addr(&key->dst, ipv6, &tuple->dst);
    if (key->nw_proto == IPPROTO_ICMP || key->nw_proto == IPPROTO_ICMPV6) {
        tuple->icmp_id = key->src.icmp_id;
        tuple->icmp_type = key->src.icmp_type;
        tuple->icmp_code = key->src.icmp_code;
    } else {
        tuple->src_port = key->src.port;
        tuple->dst_port = key->dst.port;
    }
}

/* Returns the zone of 'conn'. */
uint16_t
ct_offload_conn_get_zone(const struct conn *conn)
{
    return conn->key_node[CT_DIR_FWD].key.zone;
}

/* Returns the mark of 'conn'. */
uint32_t
ct_offload_conn_get_mark(const struct conn *conn)
{
    uint32_t mark;

    ovs_mutex_lock(&conn->lock);
    mark = conn->mark;
    ovs_mutex_unlock(&conn->lock);

    return mark;
}

/* Returns the labels of 'conn'. */
ovs_u128
ct_offload_conn_get_labels(const struct conn *conn)
{
    ovs_u128 labels;

    ovs_mutex_lock(&conn->lock);
    labels = conn->label;
    ovs_mutex_unlock(&conn->lock);

    return labels;
}

/* Does NAT change the source of packets of 'conn' in original direction? */
bool
ct_offload_conn_is_snat(const struct conn *conn)
{
    return conn->nat_action & NAT_ACTION_SRC;
}

/* Does NAT change the destination of packets of 'conn' in original direction?
 */
bool
ct_offload_conn_is_dnat(const struct conn *conn)
{
    return conn->nat_action & NAT_ACTION_DST;
}

/* If 'conn' is a TCP connection, stores the states of the peer that sends in
 * original direction and of the one that sends in reply direction in '*orig'
 * and '*reply' (enum ct_dpif_tcp_state) and returns true.  Otherwise returns
 * false. */
bool
ct_offload_conn_get_tcp_state(const struct conn *conn, uint8_t *orig,
                              uint8_t *reply)
{
    struct ct_dpif_protoinfo info;

    if (!conn_is_tcp(conn)) {
        return false;
    }

    ovs_mutex_lock(&conn->lock);
    ct_proto_tcp.conn_get_protoinfo(conn, &info);
    ovs_mutex_unlock(&conn->lock);

    *orig = info.tcp.state_orig;
    *reply = info.tcp.state_reply;
    return true;
}

/* If 'conn' is a TCP connection, stores what is known of the peer that sends
 * in original direction in 'peers[0]' and of the other one in 'peers[1]' and
 * returns true.  Otherwise returns false. */
bool
ct_offload_conn_get_tcp_peers(const struct conn *conn,
                              struct ct_offload_tcp_peer peers[2])
{
    if (!conn_is_tcp(conn)) {
        return false;
    }

    ovs_mutex_lock(&conn->lock);
    conntrack_tcp_get_peers(conn, peers);
    ovs_mutex_unlock(&conn->lock);
    return true;
}

/* Appends to 'ds' what identifies 'conn', in the style of
 * "dpctl/dump-conntrack". */
void
ct_offload_conn_format(const struct conn *conn, struct ds *ds)
{
    struct ct_dpif_tuple tuple;
    uint16_t zone = ct_offload_conn_get_zone(conn);

    ct_offload_conn_get_tuple(conn, false, &tuple);
    ct_dpif_format_ipproto(ds, tuple.ip_proto);
    ds_put_cstr(ds, ",orig=(");
    ct_dpif_format_tuple(ds, &tuple);
    ds_put_cstr(ds, "),reply=(");
    ct_offload_conn_get_tuple(conn, true, &tuple);
    ct_dpif_format_tuple(ds, &tuple);
    ds_put_char(ds, ')');
    if (zone) {
        ds_put_format(ds, ",zone=%"PRIu16, zone);
    }
}
