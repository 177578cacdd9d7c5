/* SPDX-License-Identifier: Apache-2.0 */

#include <config.h>

#include "conntrack-offload.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include "ct-dpif.h"
#include "dp-packet.h"
#include "odp-util.h"
#include "openvswitch/dynamic-string.h"
#include "openvswitch/list.h"
#include "ovs-rcu.h"
#include "ovs-thread.h"
#include "util.h"

/* Where the packets of one direction come from. */
struct conn_offload_side {
    struct netdev *netdev;
    odp_port_t port_id;
    bool unmodified;
};

/* What an offloaded connection needs beside its state word. */
struct conn_offload {
    struct conn_offload_side orig;  /* For the owner of 'conn'. */
    struct conn_offload_side reply; /* Written by the thread that has set
                                     * CONN_OFFLOAD_REPLY, read by the owner
                                     * when CONN_OFFLOAD_REPLIED is set. */
    void *priv[CT_OFFLOAD_MAX_PROVIDERS]; /* For the owner of 'conn'. */
};
BUILD_ASSERT_DECL(sizeof(struct conn_offload) <= 96);

/* What one call of conntrack_execute() has raised.  This thread owns the
 * connection of every operation in 'ops'. */
struct conn_offload_batch {
    struct netdev *netdev_in;       /* Where the packets came from. */
    bool executing;                 /* In conntrack_execute()? */
    struct ct_offload_op_batch ops;
};

DEFINE_STATIC_PER_THREAD_DATA(struct conn_offload_batch *, thread_batch,
                              NULL);

/* Every 'struct conntrack', so that all connections can be found.
 * The mutex comes before any other lock of this module. */
struct conntrack_offload_node {
    struct ovs_list node;           /* In 'conntracks'. */
    struct conntrack *ct;
};
static struct ovs_mutex conntracks_mutex = OVS_MUTEX_INITIALIZER;
static struct ovs_list conntracks OVS_GUARDED_BY(conntracks_mutex)
    = OVS_LIST_INITIALIZER(&conntracks);

/* How conntrack frees a connection.  Known before CONN_OFFLOAD_FREE is set in
 * any. */
static ATOMIC(void (*)(struct conn *)) conn_delete = NULL;

static struct conn *
op_conn(const struct ct_offload_op *op)
{
    return CONST_CAST(struct conn *, op->ctx.conn);
}

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

static bool
state_swap(struct conn *conn, uint32_t *old, uint32_t new)
{
    return atomic_compare_exchange_weak_explicit(&conn->offload_state,
                                                 old, new,
                                                 memory_order_acq_rel,
                                                 memory_order_acquire);
}

/* Makes the calling thread the owner of 'conn', or, if it has an owner, leaves
 * 'pending' to that one.  Sets the bits 'set' and clears the bits 'clear'
 * either way.  Returns true if the calling thread owns 'conn' now. */
static bool
conn_own(struct conn *conn, uint32_t pending, uint32_t clear, uint32_t set)
{
    uint32_t old = conn_offload_state(conn);
    uint32_t new;

    do {
        new = (old & ~clear) | set;
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

/* Sets and clears bits of the state word of a connection that the calling
 * thread owns. */
static void
conn_set_state(struct conn *conn, uint32_t clear, uint32_t set)
{
    uint32_t old = conn_offload_state(conn);

    while (!state_swap(conn, &old, (old & ~clear) | set)) {
        continue;
    }
}

static struct conn_offload *
conn_get_offload(const struct conn *conn)
{
    return ovsrcu_get(struct conn_offload *,
                      &CONST_CAST(struct conn *, conn)->offload);
}

/* Returns the conn_offload of 'conn', allocating it if there is none.  Only
 * for a thread that owns 'conn' or that alone can see it. */
static struct conn_offload *
conn_alloc_offload(struct conn *conn)
{
    struct conn_offload *offload = conn_get_offload(conn);

    if (!offload) {
        offload = xzalloc(sizeof *offload);
        ovsrcu_set(&conn->offload, offload);
    }
    return offload;
}

static void
conn_free_offload(struct conn *conn)
{
    struct conn_offload *offload = conn_get_offload(conn);

    if (offload) {
        ovsrcu_set(&conn->offload, NULL);
        ovsrcu_postpone(free, offload);
    }
}

static void
side_set(struct conn_offload_side *side, struct netdev *netdev,
         odp_port_t port_id, bool unmodified)
{
    side->netdev = netdev;
    side->port_id = port_id;
    side->unmodified = unmodified;
}

/* Remembers in 'side' where 'pkt' came from. */
static void
side_set_from_packet(struct conn_offload_side *side, struct netdev *netdev,
                     const struct dp_packet *pkt)
{
    /* A reassembled packet may have been taken from another port's burst. */
    if (pkt->md.ct_rewrite & CT_REWRITE_REASSEMBLED) {
        netdev = NULL;
    }
    side_set(side, netdev, pkt->md.in_port.odp_port,
             netdev && !pkt->md.ct_rewrite);
}

static void
side_to_ctx(const struct conn_offload_side *side, struct ct_offload_ctx *ctx)
{
    ctx->netdev_in = side->netdev;
    ctx->input_port_id = side->port_id;
    ctx->unmodified = side->unmodified;
}

/* Prepares 'op' for ct_offload_dispatch().  The calling thread owns the
 * connection. */
static void
op_prepare(struct ct_offload_op *op)
{
    struct conn_offload *offload = conn_get_offload(op->ctx.conn);
    uint32_t state = conn_offload_state(op->ctx.conn);

    op->held = state_held(state);
    op->est = state_est(state);
    op->priv = offload ? offload->priv : NULL;
}

/* Initializes '*op' with 'type', for 'conn', with what is known of it.  The
 * calling thread owns 'conn'. */
static void
op_init(struct ct_offload_op *op, enum ct_offload_op_type type,
        const struct conn *conn)
{
    const struct conn_offload *offload = conn_get_offload(conn);

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

/* Has 'conn' a helper?  Such connections are never offloaded: software has to
 * read and sometimes to change their payload. */
static bool
conn_has_helper(const struct conn *conn)
{
    enum { FTP_PORT = 21, TFTP_PORT = 69 };
    const struct conn_key *key = &conn->key_node[CT_DIR_FWD].key;

    return (conn->alg
            || (key->nw_proto == IPPROTO_TCP
                && (key->src.port == htons(FTP_PORT)
                    || key->dst.port == htons(FTP_PORT)))
            || (key->nw_proto == IPPROTO_UDP
                && key->dst.port == htons(TFTP_PORT)));
}

/* Should 'op' be dispatched at all? */
static bool
op_is_wanted(const struct ct_offload_op *op)
{
    uint32_t state = conn_offload_state(op->ctx.conn);

    if (op->type != CT_OFFLOAD_OP_ADD) {
        return state_held(state) != 0;
    }
    return !(state & (CONN_OFFLOAD_PENDING_DEL | CONN_OFFLOAD_FREE))
           && (state & CONN_OFFLOAD_PHASE_MASK) != CONN_OFFLOAD_GONE
           && !conn_has_helper(op->ctx.conn);
}

/* Brings the state of the connection up to date with 'op', which was done or
 * found unnecessary.  'gone' if the connection must never be added again. */
static void
op_apply(const struct ct_offload_op *op, bool gone)
{
    struct conn *conn = op_conn(op);
    uint32_t state = conn_offload_state(conn);
    uint32_t old_phase = state & CONN_OFFLOAD_PHASE_MASK;
    uint32_t phase = old_phase;
    uint32_t set = 0;

    if (gone) {
        phase = CONN_OFFLOAD_GONE;
    } else if (!op->held) {
        if (old_phase != CONN_OFFLOAD_GONE) {
            phase = (old_phase == CONN_OFFLOAD_NONE
                     ? CONN_OFFLOAD_NONE : CONN_OFFLOAD_SOFTWARE);
        }
    } else if (op->est == op->held) {
        phase = CONN_OFFLOAD_EST;
        set = CONN_OFFLOAD_WAS_OFFLOADED;
    } else {
        phase = CONN_OFFLOAD_ADDED;
    }
    conn_set_state(conn,
                   CONN_OFFLOAD_PHASE_MASK
                   | CONN_OFFLOAD_HELD_MASK | CONN_OFFLOAD_EST_MASK
                   | (op->held ? 0 : (CONN_OFFLOAD_AWAIT_EST
                                      | CONN_OFFLOAD_REPLY
                                      | CONN_OFFLOAD_REPLIED)),
                   phase | set
                   | (uint32_t) op->held << CONN_OFFLOAD_HELD_SHIFT
                   | (uint32_t) op->est << CONN_OFFLOAD_EST_SHIFT);
    if (!op->held) {
        conn_free_offload(conn);
    }
    ct_offload_count_phase(old_phase == CONN_OFFLOAD_ADDED
                           || old_phase == CONN_OFFLOAD_EST,
                           old_phase == CONN_OFFLOAD_EST,
                           phase == CONN_OFFLOAD_ADDED
                           || phase == CONN_OFFLOAD_EST,
                           phase == CONN_OFFLOAD_EST);
}

/* Does one operation of 'type' on 'conn', which the calling thread owns. */
static void
conn_run(struct conn *conn, enum ct_offload_op_type type, bool gone)
{
    struct ct_offload_op op;

    if (type == CT_OFFLOAD_OP_ADD) {
        conn_alloc_offload(conn);
    }
    op_init(&op, type, conn);
    op_prepare(&op);
    if (op_is_wanted(&op)) {
        ct_offload_dispatch(&op, 1);
    }
    op_apply(&op, gone);
}

/* Takes 'conn', which the calling thread owns, away from the providers that
 * are being unregistered, but from no other. */
static void
conn_leave(struct conn *conn)
{
    struct ct_offload_op op;
    uint8_t leaving = ct_offload_leaving();

    op_init(&op, CT_OFFLOAD_OP_DEL, conn);
    op_prepare(&op);

    uint8_t held = op.held & ~leaving;
    uint8_t est = op.est & ~leaving;

    op.held &= leaving;
    if (op.held) {
        ct_offload_dispatch(&op, 1);
        op.held = held;
        op.est = est;
        op_apply(&op, false);
    }
}

/* Does what other threads have left to the owner of 'conn', until there is
 * nothing any more.  The calling thread owns 'conn', but does not when this
 * returns. */
static void
conn_drain(struct conn *conn)
{
    while (!conn_disown(conn)) {
        uint32_t pending;

        atomic_and_explicit(&conn->offload_state, ~CONN_OFFLOAD_PENDING_MASK,
                            &pending, memory_order_acq_rel);

        bool gone = pending & CONN_OFFLOAD_PENDING_DEL;

        if (pending & CONN_OFFLOAD_PENDING_ADD && !gone) {
            conn_run(conn, CT_OFFLOAD_OP_ADD, false);
        }
        if (pending & CONN_OFFLOAD_PENDING_EST) {
            conn_run(conn, CT_OFFLOAD_OP_EST, false);
        }
        if (pending & CONN_OFFLOAD_PENDING_UPD) {
            conn_run(conn, CT_OFFLOAD_OP_UPD, false);
        }
        if (pending & CONN_OFFLOAD_PENDING_LEAVE) {
            conn_leave(conn);
        }
        if (pending & (CONN_OFFLOAD_PENDING_DEL
                       | CONN_OFFLOAD_PENDING_EVICT)) {
            conn_run(conn, CT_OFFLOAD_OP_DEL, gone);
        }
    }
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

    if (!conn_own(conn, leave ? pending[op->type] : 0, 0, 0)) {
        op->error = EINPROGRESS;
        return false;
    }

    if (op->type == CT_OFFLOAD_OP_ADD) {
        struct conn_offload *offload = conn_alloc_offload(conn);

        if (!state_held(conn_offload_state(conn))) {
            side_set(&offload->orig, op->ctx.netdev_in,
                     op->ctx.input_port_id, op->ctx.unmodified);
            conn_set_state(conn, CONN_OFFLOAD_REPLY | CONN_OFFLOAD_REPLIED,
                           CONN_OFFLOAD_AWAIT_EST);
        }
    } else if (op->type == CT_OFFLOAD_OP_EST) {
        conn_set_state(conn, CONN_OFFLOAD_AWAIT_EST, 0);
    }
    op_prepare(op);
    if (!op_is_wanted(op)) {
        if (op->type == CT_OFFLOAD_OP_ADD) {
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
    op_apply(op, false);
    conn_drain(op_conn(op));
}

/* Does the operations in 'batch'.  The calling thread owns their connections,
 * but does not when this returns. */
static void
batch_run(struct conn_offload_batch *batch)
{
    struct ct_offload_op_batch *ops = &batch->ops;
    struct ct_offload_op *op;
    size_t n = 0;

    /* Leave out what is not wanted (any more). */
    CT_OFFLOAD_BATCH_OP_FOR_EACH (i, op, ops) {
        op_prepare(op);
        if (!op_is_wanted(op)) {
            op_apply(op, op->type == CT_OFFLOAD_OP_DEL);
            conn_drain(op_conn(op));
        } else {
            ops->ops[n++] = *op;
        }
    }
    ops->n_ops = n;
    if (!n) {
        return;
    }

    ct_offload_dispatch(ops->ops, n);
    CT_OFFLOAD_BATCH_OP_FOR_EACH (i, op, ops) {
        op_apply(op, op->type == CT_OFFLOAD_OP_DEL);
        conn_drain(op_conn(op));
    }
    ops->n_ops = 0;
}

/* Returns the batch of the calling thread if that is in conntrack_execute(),
 * otherwise NULL. */
static struct conn_offload_batch *
batch_get(void)
{
    struct conn_offload_batch *batch = *thread_batch_get();

    return batch && batch->executing ? batch : NULL;
}

/* Does an operation of 'type' on 'conn', which the calling thread owns, now
 * or with the rest of its batch. */
static void
batch_add(enum ct_offload_op_type type, struct conn *conn)
{
    struct conn_offload_batch *batch = batch_get();

    if (batch) {
        struct ct_offload_op op;

        op_init(&op, type, conn);
        ct_offload_op_batch_add(&batch->ops, type, &op.ctx);
    } else {
        conn_run(conn, type, type == CT_OFFLOAD_OP_DEL);
        conn_drain(conn);
    }
}

static void
thread_batch_destroy(void *batch_)
{
    struct conn_offload_batch *batch = batch_;

    ct_offload_op_batch_destroy(&batch->ops);
    free(batch);
}

static struct conn_offload_batch *
thread_batch_create(void)
{
    static struct ovsthread_once once = OVSTHREAD_ONCE_INITIALIZER;
    static ovsthread_key_t key;
    struct conn_offload_batch *batch = xzalloc(sizeof *batch);

    if (ovsthread_once_start(&once)) {
        ovsthread_key_create(&key, thread_batch_destroy);
        ovsthread_once_done(&once);
    }

    ct_offload_op_batch_init(&batch->ops);
    ovsthread_setspecific(key, batch);
    *thread_batch_get() = batch;
    return batch;
}

struct conn_offload_batch *
conntrack_offload_begin__(struct netdev *netdev_in)
{
    struct conn_offload_batch *batch = *thread_batch_get();

    if (OVS_UNLIKELY(!batch)) {
        batch = thread_batch_create();
    }
    batch->netdev_in = netdev_in;
    batch->executing = true;
    return batch;
}

void
conntrack_offload_end__(struct conn_offload_batch *batch)
{
    if (batch->ops.n_ops) {
        batch_run(batch);
    }
    batch->executing = false;
    batch->netdev_in = NULL;
}

void
conntrack_offload_conn_init__(struct conn *conn, const struct dp_packet *pkt)
{
    struct conn_offload_batch *batch = batch_get();

    /* If a provider came in the middle of conntrack_execute(), 'conn' is older
     * than the provider. */
    if (batch) {
        side_set_from_packet(&conn_alloc_offload(conn)->orig,
                             batch->netdev_in, pkt);
        atomic_init(&conn->offload_state,
                    CONN_OFFLOAD_BUSY | CONN_OFFLOAD_AWAIT_EST);
        batch_add(CT_OFFLOAD_OP_ADD, conn);
    }
}

void
conntrack_offload_conn_uninit__(struct conn *conn)
{
    /* A connection that has an owner and is freed all the same was never
     * committed, because there was no tuple left for NAT: its ADD is the last
     * thing in this thread's batch. */
    if (conn_offload_state(conn) & CONN_OFFLOAD_BUSY) {
        struct ct_offload_op_batch *ops = &batch_get()->ops;

        ovs_assert(ops->n_ops && ops->ops[ops->n_ops - 1].ctx.conn == conn);
        ops->n_ops--;
    }
    free(conn_get_offload(conn));
}

/* Are both peers of 'conn' established, or does that mean nothing for its
 * protocol? */
bool
conntrack_offload_handshake_done(const struct conn *conn)
{
    uint8_t orig, reply;

    return (!ct_offload_conn_get_tcp_state(conn, &orig, &reply)
            || (orig >= CT_DPIF_TCPS_ESTABLISHED
                && reply >= CT_DPIF_TCPS_ESTABLISHED));
}

void
conntrack_offload_conn_seen__(struct conn *conn, const struct dp_packet *pkt,
                              bool reply)
{
    struct conn_offload *offload = conn_get_offload(conn);
    uint32_t state = conn_offload_state(conn);
    bool replied = state & CONN_OFFLOAD_REPLIED;

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
        struct conn_offload_batch *batch = batch_get();
        uint32_t orig;

        atomic_or_explicit(&conn->offload_state, CONN_OFFLOAD_REPLY, &orig,
                           memory_order_acq_rel);
        if (orig & CONN_OFFLOAD_REPLY) {
            return;
        }
        side_set_from_packet(&offload->reply, batch ? batch->netdev_in : NULL,
                             pkt);
    }
    if (conn_own(conn, CONN_OFFLOAD_PENDING_EST,
                 done ? CONN_OFFLOAD_AWAIT_EST : 0, CONN_OFFLOAD_REPLIED)) {
        batch_add(CT_OFFLOAD_OP_EST, conn);
    }
}

void
conntrack_offload_conn_forced__(struct conn *conn)
{
    bool owner = conn_own(conn, CONN_OFFLOAD_PENDING_DEL, 0, 0);

    if (!owner) {
        struct conn_offload_batch *batch = batch_get();

        /* The owner may be this very thread.  Finish what there is, so that
         * DEL goes out before the ADD of the connection's successor. */
        if (batch && batch->ops.n_ops) {
            batch_run(batch);
            owner = conn_own(conn, CONN_OFFLOAD_PENDING_DEL, 0, 0);
        }
    }
    if (owner) {
        batch_add(CT_OFFLOAD_OP_DEL, conn);
    }
}

/* 'conn' was removed from conntrack.  Has 'delete' called for it, as by
 * ovsrcu_postpone(), when the providers are done with it.  No lock may be
 * held. */
void
conntrack_offload_conn_postpone(void (*delete)(struct conn *),
                                struct conn *conn)
{
    uint32_t state = CONN_OFFLOAD_NONE;
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
    if (conn_own(conn, CONN_OFFLOAD_PENDING_DEL, 0, CONN_OFFLOAD_FREE)) {
        batch_add(CT_OFFLOAD_OP_DEL, conn);
    }
}

/* Returns the CT_DPIF_STATUS_* flags that tell of 'conn' being offloaded. */
uint32_t
conntrack_offload_conn_status(const struct conn *conn)
{
    switch (conn_offload_state(conn) & CONN_OFFLOAD_PHASE_MASK) {
    case CONN_OFFLOAD_ADDED:
        return CT_DPIF_STATUS_OFFLOAD;
    case CONN_OFFLOAD_EST:
        return CT_DPIF_STATUS_OFFLOAD | CT_DPIF_STATUS_HW_OFFLOAD;
    default:
        return 0;
    }
}

/* Makes the connections of 'ct' known to the layer. */
void
conntrack_offload_init(struct conntrack *ct)
{
    struct conntrack_offload_node *node = xmalloc(sizeof *node);

    node->ct = ct;
    ovs_mutex_lock(&conntracks_mutex);
    ovs_list_push_back(&conntracks, &node->node);
    ovs_mutex_unlock(&conntracks_mutex);
}

/* 'ct' has no connections any more, and is about to be freed. */
void
conntrack_offload_destroy(struct conntrack *ct)
{
    struct conntrack_offload_node *node;

    ovs_mutex_lock(&conntracks_mutex);
    LIST_FOR_EACH (node, node, &conntracks) {
        if (node->ct == ct) {
            ovs_list_remove(&node->node);
            free(node);
            break;
        }
    }
    ovs_mutex_unlock(&conntracks_mutex);
}

static void
conntrack_evict(struct conntrack *ct, uint8_t leaving)
{
    uint8_t from = leaving ? leaving : UINT8_MAX;
    uint32_t pending = (leaving ? CONN_OFFLOAD_PENDING_LEAVE
                        : CONN_OFFLOAD_PENDING_EVICT);

    for (size_t i = 0; i < N_EXP_LISTS; i++) {
        struct conn *conn;

        RCULIST_FOR_EACH (conn, node, &ct->exp_lists[i]) {
            if (state_held(conn_offload_state(conn)) & from
                && conn_own(conn, pending, 0, pending)) {
                conn_drain(conn);
            }
        }
    }
}

/* Takes all connections back into software that one of the providers in
 * 'leaving', which are being unregistered, holds; from these only, or, if
 * 'leaving' is 0, all connections from all providers.  Those that have another
 * owner just now are done when that thread has quiesced. */
void
conntrack_offload_evict(uint8_t leaving)
{
    struct conntrack_offload_node *node;

    ovs_mutex_lock(&conntracks_mutex);
    LIST_FOR_EACH (node, node, &conntracks) {
        conntrack_evict(node->ct, leaving);
    }
    ovs_mutex_unlock(&conntracks_mutex);
}

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
    return ((conn_offload_state(conn) & CONN_OFFLOAD_PHASE_MASK)
            == CONN_OFFLOAD_EST);
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

    if (conn->key_node[CT_DIR_FWD].key.nw_proto != IPPROTO_TCP) {
        return false;
    }

    ovs_mutex_lock(&conn->lock);
    ct_proto_tcp.conn_get_protoinfo(conn, &info);
    ovs_mutex_unlock(&conn->lock);

    *orig = info.tcp.state_orig;
    *reply = info.tcp.state_reply;
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
