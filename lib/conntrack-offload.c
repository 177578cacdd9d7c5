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

#include "conntrack-offload.h"

#include <errno.h>
#include <string.h>

#include "conntrack-tp.h"
#include "coverage.h"
#include "ct-dpif.h"
#include "ct-offload-port.h"
#include "ct-offload-private.h"
#include "ct-offload-room.h"
#include "ct-offload-stats.h"
#include "ct-offload-thread.h"
#include "ct-offload-wire.h"
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
COVERAGE_DEFINE(ct_offload_moved);
COVERAGE_DEFINE(ct_offload_preceded);
COVERAGE_DEFINE(ct_offload_queue_full);

/* Connections that one thread owns. */
struct conns {
    struct conn **p;
    size_t n, allocated;
};

static void
conns_push(struct conns *conns, struct conn *conn)
{
    if (OVS_UNLIKELY(conns->n >= conns->allocated)) {
        conns->p = x2nrealloc(conns->p, &conns->allocated, sizeof *conns->p);
    }
    conns->p[conns->n++] = conn;
}

/* What to tell providers of connections that one thread owns. */
struct tasks {
    struct ct_offload_task *p;
    size_t n, allocated;
};

/* What one thread has to tell the providers. */
struct conn_offload_batch {
    struct ovs_list node;           /* In 'batches'. */
    atomic_uint seq;                /* Odd while 'depth' is not 0. */
    unsigned int depth;             /* Calls that have begun, but not ended:
                                     * only then may the thread own any
                                     * connection. */
    bool late;                      /* One of them began without a provider. */
    bool walking;                   /* In a list of connections: do not call
                                     * providers before the end of it. */
    struct netdev *netdev_in;       /* Where the packets came from. */

    struct conns conns;             /* With something pending, in the order in
                                     * which the thread came to own them. */
    struct conns retired;           /* Predecessors of these. */

    struct tasks tasks;             /* For conns_run(). */
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

/* Connections in software. */

/* 'conn' stays in software for 'reason', or goes back there. */
static void
conn_set_reason(struct conn *conn, enum ct_offload_reason reason)
{
    conn_note_reason(conn, reason);
    ct_offload_count_reason(reason);
}

/* 'offload' was taken from its connection. */
static void
offload_free(struct conn_offload *offload)
{
    ovsrcu_postpone(free, offload);
    ct_offload_unreserve();
}

/* Returns the block of 'conn', or a new one, with room for another offloaded
 * connection; or NULL if there is no room. */
static struct conn_offload *
conn_alloc_offload(struct conn *conn)
{
    struct conn_offload *offload = conn_get_offload(conn);
    struct conn_offload *new;

    if (offload) {
        return offload;
    }
    if (!ct_offload_threads_have_room()) {
        COVERAGE_INC(ct_offload_queue_full);
        conn_set_reason(conn, CT_OFFLOAD_QUEUE);
        return NULL;
    }
    if (!ct_offload_reserve()) {
        COVERAGE_INC(ct_offload_full);
        conn_set_reason(conn, CT_OFFLOAD_LIMIT);
        return NULL;
    }

    new = xzalloc(sizeof *new);
    new->conn = conn;
    offload = conn_attach_offload(conn, new);
    if (offload != new) {
        free(new);
        ct_offload_unreserve();
    }
    return offload;
}

/* Returns what to await of packets of 'conn' when it is offered. */
static uint32_t
conn_await_reply(const struct conn *conn)
{
    return (CONN_OFFLOAD_AWAIT_REPLY
            | (conn_is_tcp(conn) ? CONN_OFFLOAD_AWAIT_FIN : 0));
}

/* 'conn', which the calling thread owns, is not held any more, for 'reason'.
 */
static void
conn_release(struct conn *conn, enum ct_offload_reason reason)
{
    struct conn_offload *offload;
    bool wait = (!(conn_offload_state(conn) & CONN_OFFLOAD_GONE)
                 && !conn_is_closed(conn)
                 && ct_offload_accepting(true) && !conn_is_established(conn));

    conn_note_reason(conn, reason);
    conn_set_state(conn, CONN_OFFLOAD_AWAIT_MASK | CONN_OFFLOAD_BYPASS,
                   wait ? CONN_OFFLOAD_AWAIT_REPLY : 0);
    offload = conn_detach_offload(conn);
    if (offload) {
        for (int dir = 0; dir < CT_DIRS; dir++) {
            ct_offload_port_remove(offload, dir);
        }
        if (conn_offload_state(conn) & CONN_OFFLOAD_PENDING_ADD
            && conn_attach_offload(conn, offload) == offload) {
            /* It is offered again at once, with what is known of it. */
            conn_set_state(conn, 0, conn_await_reply(conn));
            return;
        }
        offload_free(offload);
    }
    conn_undoom(conn);
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

/* Stores in '*ctx' what 'pkt' tells of its direction, and returns the number
 * of the port that it came from. */
static uint32_t
ctx_from_packet(struct ct_offload_ctx *ctx, struct netdev *netdev,
                const struct dp_packet *pkt)
{
    memset(ctx, 0, sizeof *ctx);
    ctx->input_port_id = pkt->md.in_port.odp_port;

    /* What was made here has no port.  (A reassembled packet may even have
     * been taken from another port's burst.) */
    if (ct_offload_wire_is_known(pkt)) {
        ctx->netdev_in = netdev;
    }
    ctx->unmodified = ctx->netdev_in && ct_offload_wire_is_same(pkt);
    ctx_set_vlan(ctx, pkt);
    return ct_offload_port_get(ctx->netdev_in);
}

/* Expiration. */

/* If 'conn' was used at 'last_used', as a provider says, then it expires at
 * that time plus the timeout of its state, unless it expires later anyway or
 * was forced to expire.  Returns true if it has more time now. */
static bool
conn_extend(struct conntrack *ct, struct conn *conn, long long int last_used)
{
    struct conn probe = {
        .tp_id = conn->tp_id,
        .key_node[CT_DIR_FWD].key.zone = conn->key_node[CT_DIR_FWD].key.zone,
    };
    long long int new, old;
    int timeout;

    /* The timeout policy is applied to a connection, so have one. */
    atomic_read_relaxed(&conn->timeout, &timeout);
    conn_init_expiration(ct, &probe, timeout, MIN(last_used, time_msec()));
    atomic_read_relaxed(&probe.expiration, &new);
    atomic_read_relaxed(&conn->expiration, &old);
    do {
        if (!old || new <= old) {
            return false;
        }
    } while (!atomic_compare_exchange_weak_explicit(&conn->expiration,
                                                    &old, new,
                                                    memory_order_relaxed,
                                                    memory_order_relaxed));
    return true;
}

/* Operations. */

static struct conn *
task_conn(const struct ct_offload_task *t)
{
    return CONST_CAST(struct conn *, t->op.ctx.conn);
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

/* Initializes '*t' with 'type', for 'conn', with what is known of it.  The
 * calling thread owns 'conn'. */
static void
task_init(struct ct_offload_task *t, enum ct_offload_op_type type,
        const struct conn *conn)
{
    struct conn_offload *offload = conn_get_offload(conn);
    uint32_t port;

    memset(t, 0, sizeof *t);
    t->op.type = type;
    t->op.ctx.conn = conn;
    t->op.ctx.input_port_id = ODPP_NONE;
    if (offload && (type == CT_OFFLOAD_OP_ADD || type == CT_OFFLOAD_OP_EST)) {
        conn_side_get(offload,
                      type == CT_OFFLOAD_OP_ADD ? CT_DIR_FWD : CT_DIR_REV,
                      &t->op.ctx, &port);
        t->op.ctx.netdev_in = ct_offload_port_get_netdev(port);
        t->op.ctx.unmodified &= t->op.ctx.netdev_in != NULL;
        t->established = (conn_side_is_known(offload, CT_DIR_REV)
                          && conn_is_established(conn));
    }
}

/* Prepares 't' for ct_offload_dispatch().  The calling thread owns the
 * connection. */
static void
task_prepare(struct ct_offload_task *t)
{
    struct conn_offload *offload = conn_get_offload(t->op.ctx.conn);
    uint32_t state = conn_offload_state(t->op.ctx.conn);

    t->held = state_held(state) & ~t->except;
    t->est = state_est(state) & ~t->except;
    t->priv = offload ? offload->priv : NULL;
    t->skip = t->op.type == CT_OFFLOAD_OP_ADD ? !offload : !t->held;

    /* What is dead must not come to life because packets may bypass software
     * now: another connection may have taken its place. */
    if (t->op.type == CT_OFFLOAD_OP_EST && !(state & CONN_OFFLOAD_BYPASS)
        && conn_is_past(t->op.ctx.conn, time_msec())) {
        t->skip = true;
    }

    /* Packets may bypass software before EST returns. */
    if (t->op.type == CT_OFFLOAD_OP_EST && !t->skip
        && ct_offload_may_bypass(t->held)) {
        conn_set_state(task_conn(t), 0,
                       CONN_OFFLOAD_BYPASS | CONN_OFFLOAD_NO_SEQ_CHK);
    }
}

/* Counts what has become of 'conn', whose state word was 'old', perhaps
 * because it has 'lapsed'. */
static void
count_change(const struct conn *conn, uint32_t old, bool lapsed)
{
    uint32_t new = conn_offload_state(conn);
    bool was_held = state_held(old) != 0;
    bool held = state_held(new) != 0;

    if (was_held != held) {
        ct_offload_count(CT_OFFLOAD_N_OFFLOADED, held ? 1 : -1);
    }
    if (state_is_bi_dir(old) != state_is_bi_dir(new)) {
        ct_offload_count(CT_OFFLOAD_N_BI_DIR, state_is_bi_dir(new) ? 1 : -1);
    }
    if (was_held && !held) {
        if (conn_is_closed(conn)) {
            ct_offload_count(CT_OFFLOAD_N_CLOSED, 1);
        } else if (!(new & CONN_OFFLOAD_GONE) && !lapsed) {
            COVERAGE_INC(ct_offload_evict);
            ct_offload_count(CT_OFFLOAD_N_EVICTED, 1);
        }
    }
}

/* Brings the state of the connection up to date with 't', which changes who
 * holds it, and was done or found unnecessary. */
static void
task_finish_held(const struct ct_offload_task *t)
{
    struct conn *conn = task_conn(t);
    struct conn_offload *offload = conn_get_offload(conn);
    uint32_t old = conn_offload_state(conn);
    uint8_t held = t->held | (state_held(old) & t->except);
    uint8_t est = t->est | (state_est(old) & t->except);
    uint8_t uni = (t->uni | state_uni(old)) & est;
    uint32_t set = ((uint32_t) held << CONN_OFFLOAD_HELD_SHIFT
                    | (uint32_t) est << CONN_OFFLOAD_EST_SHIFT
                    | (uint32_t) uni << CONN_OFFLOAD_UNI_SHIFT);
    uint32_t clear = (CONN_OFFLOAD_HELD_MASK | CONN_OFFLOAD_EST_MASK
                      | CONN_OFFLOAD_UNI_MASK);
    enum key_dir dir = (t->op.type == CT_OFFLOAD_OP_EST ? CT_DIR_REV
                        : CT_DIR_FWD);

    if (held && t->op.type != CT_OFFLOAD_OP_DEL) {
        struct ct_offload_ctx ctx;
        uint32_t port;

        conn_side_get(offload, dir, &ctx, &port);
        ct_offload_port_add(port, offload, dir);
    }
    if (!ct_offload_may_bypass(est)) {
        clear |= CONN_OFFLOAD_BYPASS;
    }
    conn_set_state(conn, clear, set);
    count_change(conn, old, t->lapsed);
    if (!held && t->op.type == CT_OFFLOAD_OP_DEL) {
        conn_release(conn, CT_OFFLOAD_TAKEN_BACK);
    } else if (!held) {
        if (!conn_is_closed(conn)) {
            ct_offload_count_reason(t->reason);
        }
        conn_release(conn, t->reason);
    }
}

/* Does what 't', which was done or found unnecessary, leads to. */
static void
task_finish(const struct ct_offload_task *t)
{
    struct conn *conn = task_conn(t);
    struct conntrack *ct;

    switch (t->op.type) {
    case CT_OFFLOAD_OP_UPD:
        /* Where software sees all packets, it knows when a connection is dead:
         * another one may have its tuple then. */
        ct = conn_get_conntrack(conn);
        if (!t->op.error && ct
            && conn_offload_state(conn) & CONN_OFFLOAD_BYPASS
            && conn_extend(ct, conn, t->op.last_used)) {
            COVERAGE_INC(ct_offload_expiry_extended);
            ct_offload_count(CT_OFFLOAD_N_EXTENDED, 1);
        }
        break;
    case CT_OFFLOAD_OP_ADD:
    case CT_OFFLOAD_OP_DEL:
    case CT_OFFLOAD_OP_EST:
        task_finish_held(t);
        break;
    case CT_OFFLOAD_OP_POLICY:
    case CT_OFFLOAD_OP_FLUSH:
    default:
        break;
    }
}

/* Doing what is pending. */

/* For conns_run(), beside CONN_OFFLOAD_PENDING_*: the answer to
 * CONN_OFFLOAD_PENDING_LAPSE is there. */
#define EVENT_LAPSE (1u << 31)

/* Appends an operation of 'type' on 'conn', which the calling thread owns, to
 * 'tasks'. */
static struct ct_offload_task *
tasks_add(struct tasks *tasks, enum ct_offload_op_type type,
          const struct conn *conn)
{
    struct ct_offload_task *t;

    if (OVS_UNLIKELY(tasks->n >= tasks->allocated)) {
        tasks->p = x2nrealloc(tasks->p, &tasks->allocated, sizeof *tasks->p);
    }
    t = &tasks->p[tasks->n++];
    task_init(t, type, conn);
    return t;
}

/* Does what is in 'tasks', which is empty then. */
static void
tasks_run(struct tasks *tasks)
{
    bool wanted = false;

    for (size_t i = 0; i < tasks->n; i++) {
        task_prepare(&tasks->p[i]);
        wanted |= !tasks->p[i].skip;
    }
    /* Dispatching may mean to wait for another thread. */
    if (wanted) {
        ct_offload_dispatch(tasks->p, tasks->n);
    }
    for (size_t i = 0; i < tasks->n; i++) {
        task_finish(&tasks->p[i]);
    }
    tasks->n = 0;
}

/* For retire_one(). */
struct retire_aux {
    struct conn_offload_batch *batch;
    const struct conn *successor;
    long long int now;
    bool rival;                 /* Is another one alive? */
};

/* If 'conn' is not alive, 'aux->successor' with a tuple of it has taken its
 * place: providers must give it up first.  If it is, and providers may hold
 * it, they cannot have the other one. */
static void
retire_one(struct conn *conn, void *aux_)
{
    struct retire_aux *aux = aux_;
    struct conn_offload_batch *batch = aux->batch;
    uint32_t state = conn_offload_state(conn);

    if (conn == aux->successor) {
        return;
    }
    if (!conn_is_past(conn, aux->now)
        || conntrack_offload_alive(conn, aux->now)) {
        aux->rival |= (!(state & CONN_OFFLOAD_GONE)
                       && state & (CONN_OFFLOAD_HELD_MASK
                                   | CONN_OFFLOAD_BUSY));
        return;
    }
    if (conn_doom(conn)
        && conn_raise(conn, CONN_OFFLOAD_PENDING_DEL, 0, 0)) {
        conns_push(&batch->retired, conn);
        conn_take_events(conn);
        tasks_add(&batch->tasks, CT_OFFLOAD_OP_DEL, conn);
    }
}

/* Has providers give up connections that have a tuple of 'conn' and whose time
 * is up.  Returns false if there is one that is alive: two threads had another
 * opinion of the time, or a connection that NAT has changed looks like another
 * one that it has not. */
static bool
retire_predecessors(struct conn_offload_batch *batch, const struct conn *conn)
{
    struct conntrack *ct = conn_get_conntrack(conn);
    struct retire_aux aux = { batch, conn, time_msec(), false };

    if (ct) {
        /* Of two that are being offered at once, one at least sees that the
         * other one has an owner. */
        atomic_thread_fence(memory_order_seq_cst);
        conntrack_for_each_rival(ct, conn, CT_DIR_FWD, retire_one, &aux);
        if (conn->nat_action) {
            conntrack_for_each_rival(ct, conn, CT_DIR_REV, retire_one, &aux);
        }
    }
    return !aux.rival;
}

/* Gives up what retire_predecessors() has found, after its DEL. */
static void
retired_disown(struct conn_offload_batch *batch)
{
    for (size_t i = 0; i < batch->retired.n; i++) {
        /* Nobody holds it, nor ever will. */
        while (!conn_disown(batch->retired.p[i])) {
            conn_take_events(batch->retired.p[i]);
        }
    }
    batch->retired.n = 0;
}

/* Has the port stopped that packets of direction 'dir' came from, as far as
 * 'offload' knows? */
static bool
side_has_stopped(struct conn_offload *offload, enum key_dir dir)
{
    struct ct_offload_ctx ctx;
    uint32_t port;

    conn_side_get(offload, dir, &ctx, &port);
    return port && !ct_offload_port_get_netdev(port);
}

/* May 'conn', which the calling thread owns, be offered to providers?  If so,
 * returns CT_OFFLOAD_REASON_NONE, with '*wait' set to true if it has to wait
 * for its predecessor.  Adds to 'batch->tasks' what has to be done before. */
static enum ct_offload_reason
conn_check_add(struct conn_offload_batch *batch, struct conn *conn, bool *wait)
{
    struct conn_offload *offload = conn_get_offload(conn);

    *wait = false;
    if (conn_offload_state(conn) & CONN_OFFLOAD_GONE
        || conn_is_closed(conn)) {
        return CT_OFFLOAD_CLOSING;
    }
    if (conn_is_past(conn, time_msec())) {
        return CT_OFFLOAD_TAKEN_BACK;
    }
    if (!offload || !ct_offload_is_accepting()) {
        return CT_OFFLOAD_TAKEN_BACK;
    }
    if (conn_has_helper(conn)) {
        return CT_OFFLOAD_HELPER;
    }
    if (conn_is_closing(conn)) {
        return CT_OFFLOAD_CLOSING;
    }
    if (side_has_stopped(offload, CT_DIR_FWD)) {
        return CT_OFFLOAD_TAKEN_BACK;
    }
    if (side_has_stopped(offload, CT_DIR_REV)) {
        /* There will be no EST before another reply. */
        conn_side_clear(offload, CT_DIR_REV);
    }
    if (!retire_predecessors(batch, conn)) {
        return CT_OFFLOAD_PREDECESSOR;
    }
    *wait = conn_is_preceded(conn);
    return CT_OFFLOAD_REASON_NONE;
}

/* Offers 'conn' to the providers, as an operation in 'batch->tasks'.  Returns
 * false if it has to wait for its predecessor. */
static bool
conn_add_add(struct conn_offload_batch *batch, struct conn *conn)
{
    enum ct_offload_reason reason;
    bool wait;

    reason = conn_check_add(batch, conn, &wait);
    if (wait) {
        return false;
    } else if (!reason) {
        tasks_add(&batch->tasks, CT_OFFLOAD_OP_ADD, conn);
    } else if (!state_held(conn_offload_state(conn))) {
        ct_offload_count_reason(reason);
        conn_release(conn, reason);
    }
    return true;
}

/* Tells those providers that hold 'conn' that it is established, as an
 * operation in 'tasks'.  If its port is not known, or has stopped, that waits
 * for another packet. */
static void
conn_add_est(struct conn *conn, struct tasks *tasks)
{
    struct conn_offload *offload = conn_get_offload(conn);

    if (!offload || !state_held(conn_offload_state(conn))) {
        return;
    }
    if (!conn_side_is_known(offload, CT_DIR_REV)
        || side_has_stopped(offload, CT_DIR_REV)) {
        conn_side_clear(offload, CT_DIR_REV);
        conn_set_state(conn, 0, CONN_OFFLOAD_AWAIT_REPLY);
        return;
    }
    tasks_add(tasks, CT_OFFLOAD_OP_EST, conn);
}

/* Takes 'conn' from all providers but those in 'except', by operations in
 * 'tasks'.  If it goes on in software, it should expire when it would have. */
static void
conn_add_del(struct conn *conn, struct tasks *tasks,
             uint8_t except)
{
    uint32_t state = conn_offload_state(conn);

    if (state & CONN_OFFLOAD_BYPASS && !(state & CONN_OFFLOAD_GONE)
        && !ct_offload_is_exiting()) {
        tasks_add(tasks, CT_OFFLOAD_OP_UPD, conn)->except = except;
    }
    tasks_add(tasks, CT_OFFLOAD_OP_DEL, conn)->except = except;
}

/* 'conn' was asked about because its time was up.  If it is not in use in
 * hardware either, adds to 'tasks' what takes it from the providers; a sweep
 * cleans it up then. */
static void
conn_add_lapse(struct conn *conn, struct tasks *tasks)
{
    if (conn_is_past(conn, time_msec())) {
        tasks_add(tasks, CT_OFFLOAD_OP_DEL, conn)->lapsed = true;
        ct_offload_count(CT_OFFLOAD_N_LAPSED, 1);
    }
}

/* Adds to 'batch->tasks' the operations that bring the first of 'events' of
 * 'conn' to the providers.  Returns the events that are left: those that
 * depend on the result, or have to wait. */
static uint32_t
conn_add_ops(struct conn_offload_batch *batch, struct conn *conn,
             uint32_t events)
{
    struct tasks *tasks = &batch->tasks;
    uint32_t waiting = 0;

    if (events_have_del(events)) {
        /* An ADD or EST that was raised before is not pending any more.  One
         * that was raised after it stays so. */
        conn_add_del(conn, tasks, 0);
        events &= CONN_OFFLOAD_PENDING_ADD | CONN_OFFLOAD_PENDING_EST;
        if (events) {
            conn_put_back(conn, events);
        }
        return 0;
    }
    if (events & CONN_OFFLOAD_PENDING_ADD) {
        if (conn_add_add(batch, conn)) {
            return events & ~CONN_OFFLOAD_PENDING_ADD;
        }
        /* The providers that hold it do not wait for that. */
        waiting = events & (CONN_OFFLOAD_PENDING_ADD
                            | CONN_OFFLOAD_PENDING_EST);
        events &= ~waiting;
    }
    if (events & CONN_OFFLOAD_PENDING_EST) {
        conn_add_est(conn, tasks);
        events &= ~CONN_OFFLOAD_PENDING_EST;
    } else if (events & EVENT_LAPSE) {
        conn_add_lapse(conn, tasks);
        events &= ~EVENT_LAPSE;
    } else if (events & CONN_OFFLOAD_PENDING_LAPSE) {
        events &= ~CONN_OFFLOAD_PENDING_LAPSE;
        if (state_held(conn_offload_state(conn))) {
            tasks_add(tasks, CT_OFFLOAD_OP_UPD, conn);
            events &= ~CONN_OFFLOAD_PENDING_UPD;
            events |= EVENT_LAPSE;
        }
    } else if (events & CONN_OFFLOAD_PENDING_UPD) {
        tasks_add(tasks, CT_OFFLOAD_OP_UPD, conn);
        events &= ~CONN_OFFLOAD_PENDING_UPD;
    } else if (events & CONN_OFFLOAD_PENDING_UNREG) {
        conn_add_del(conn, tasks, ~ct_offload_leaving());
        events &= ~CONN_OFFLOAD_PENDING_UNREG;
        if (waiting) {
            /* It is still to be offered when nobody holds it any more. */
            conn_put_back(conn, waiting);
            waiting = 0;
        }
    }
    return events | waiting;
}

/* Does what is pending for the 'n' connections in 'conns', at most
 * CT_OFFLOAD_BATCH_INLINE, which the calling thread owns.  What has to wait
 * for something that another thread does stays pending.  Returns true if
 * anything was done. */
static bool
conns_run(struct conn_offload_batch *batch, struct conn **conns, size_t n)
{
    uint32_t events[CT_OFFLOAD_BATCH_INLINE];
    bool any = false;
    bool progress;

    for (size_t i = 0; i < n; i++) {
        events[i] = conn_take_events(conns[i]);
    }
    do {
        progress = false;
        for (size_t i = 0; i < n; i++) {
            if (events[i]) {
                uint32_t left = conn_add_ops(batch, conns[i], events[i]);

                progress |= left != events[i];
                events[i] = left;
            }
        }
        progress |= batch->tasks.n > 0;
        any |= progress;
        tasks_run(&batch->tasks);
        retired_disown(batch);
    } while (progress);

    for (size_t i = 0; i < n; i++) {
        if (events[i]) {
            /* What was raised meanwhile comes after it, or cancels it. */
            conn_put_back(conns[i], events[i]);
        }
    }
    return any;
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
 * nothing any more, or until all that is has to wait.  The calling thread owns
 * them.  When this returns, it does so only for those that have to wait, which
 * are moved to the front, and the number of which is returned. */
static size_t
conns_drain(struct conn_offload_batch *batch, struct conn **conns, size_t n)
{
    size_t n_waiting = 0;

    for (size_t i = 0; i < n; i += CT_OFFLOAD_BATCH_INLINE) {
        size_t left = MIN(n - i, CT_OFFLOAD_BATCH_INLINE);
        bool progress;

        do {
            progress = conns_run(batch, &conns[i], left);
            left = conns_disown(&conns[i], left);
        } while (left && progress);
        memmove(&conns[n_waiting], &conns[i], left * sizeof *conns);
        n_waiting += left;
    }
    return n_waiting;
}

/* The same, but what has to wait is left to the next packets. */
static void
conns_drain_all(struct conn_offload_batch *batch, struct conn **conns,
                size_t n)
{
    while ((n = conns_drain(batch, conns, n))) {
        for (size_t i = 0; i < n; i++) {
            struct conn *conn = conns[i];
            uint32_t state = conn_offload_state(conn);

            if (!(state & CONN_OFFLOAD_PENDING_ADD)) {
                continue;
            }
            COVERAGE_INC(ct_offload_preceded);
            conn_set_state(conn, (CONN_OFFLOAD_PENDING_ADD
                                  | CONN_OFFLOAD_PENDING_EST), 0);
            if (!state_held(state)) {
                conn_release(conn, CT_OFFLOAD_PREDECESSOR);
                ct_offload_count_reason(CT_OFFLOAD_PREDECESSOR);
            }
            conn_set_state(conn, 0, (CONN_OFFLOAD_AWAIT_ORIG
                                     | CONN_OFFLOAD_AWAIT_REPLY));
        }
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
    free(batch->tasks.p);
    free(batch->conns.p);
    free(batch->retired.p);
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
        /* What a barrier is to make known is looked at after this only: see
         * batches_wait(). */
        atomic_thread_fence(memory_order_seq_cst);
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
    for (size_t i = 0; i < batch->conns.n; i++) {
        struct conn *conn = batch->conns.p[i];

        if (conn_get_offload(conn)) {
            batch->conns.p[n++] = conn;
        } else {
            conns_drain_all(batch, &conn, 1);
        }
    }

    if (n_threads == 1) {
        ct_offload_thread_expect(0, n);
    }
    for (size_t i = 0; i < n; i++) {
        struct conn *conn = batch->conns.p[i];
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
        conns_drain_all(batch, batch->conns.p, batch->conns.n);
    }
    batch->conns.n = 0;
}

/* Ends what batch_enter() began. */
static void
batch_leave(struct conn_offload_batch *batch)
{
    if (batch->depth == 1 && batch->conns.n) {
        batch_run(batch);
    }
    if (!--batch->depth) {
        batch_next_seq(batch);
    }
}

/* Raises 'events' for 'conn' as conn_raise() does, to be done with 'batch'
 * unless 'conn' has another owner. */
static void
batch_raise(struct conn_offload_batch *batch, struct conn *conn,
            uint32_t events, uint32_t clear, uint32_t set)
{
    if (conn_raise(conn, events, clear, set)) {
        conns_push(&batch->conns, conn);
    }
}

/* Does what is in 'batch' if that is getting much.  No lock may be held. */
static void
batch_run_if_full(struct conn_offload_batch *batch)
{
    if (batch->conns.n >= CT_OFFLOAD_BATCH_INLINE
        && (!batch->walking || ct_offload_n_threads())) {
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
    if (!batch) {
        batch = *thread_batch_get();
        if (!batch || !batch->late || batch->depth > 1) {
            return;
        }
        batch->late = false;
    }
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

/* Waits until the thread of 'batch' has ended what it was doing when this was
 * called, or until 'deadline', in ms, has passed.  Returns false in the latter
 * case. */
static bool
batch_wait(struct conn_offload_batch *batch, bool quiesce,
           long long int deadline)
{
    unsigned int start, now;

    atomic_read_explicit(&batch->seq, &start, memory_order_acquire);
    now = start;
    while (start & 1 && now == start) {
        if (time_msec() > deadline) {
            return false;
        }
        if (quiesce) {
            xnanosleep(100 * 1000);
        } else {
            xnanosleep_no_quiesce(100 * 1000);
        }
        atomic_read_explicit(&batch->seq, &now, memory_order_acquire);
    }
    return true;
}

static bool
batches_wait(bool quiesce, long long int deadline)
{
    struct conn_offload_batch *own = *thread_batch_get();
    struct conn_offload_batch *batch;
    bool done = true;

    atomic_thread_fence(memory_order_seq_cst);
    ovs_mutex_lock(&batches_mutex);
    LIST_FOR_EACH (batch, node, &batches) {
        done = (batch == own || batch_wait(batch, quiesce, deadline)) && done;
    }
    ovs_mutex_unlock(&batches_mutex);
    return done;
}

/* Waits until every other thread has ended what it was telling providers when
 * this was called.  The calling thread must not be in a call that can own
 * connections.  If 'quiesce' it may quiesce, so that it must not hold a
 * pointer that is protected by RCU. */
void
conntrack_offload_barrier(bool quiesce)
{
    struct conn_offload_batch *own = *thread_batch_get();

    ovs_assert(!own || !own->depth);
    batches_wait(quiesce, LLONG_MAX);
    ct_offload_threads_barrier(quiesce);
}

/* For a fatal signal, in whatever the calling thread is: waits for the threads
 * that call providers themselves, at most for 'ms' each.  Returns false if one
 * did not end in that time. */
bool
conntrack_offload_wait(long long int ms)
{
    return batches_wait(false, time_msec() + ms);
}

/* For an offload thread: does what is pending for the connections of the 'n'
 * items in 'works', which the calling thread owns.  When this returns, it does
 * so only for those that have to wait for what another thread does.  Their
 * items are moved to the front of 'works', and their number is returned: they
 * are to be tried again. */
static size_t
run_works(struct ct_offload_work **works, size_t n)
{
    struct conn_offload_batch *batch = *thread_batch_get();

    if (!batch) {
        batch = thread_batch_create();
    }
    for (size_t i = 0; i < n; i++) {
        conns_push(&batch->conns, CONTAINER_OF(works[i], struct conn_offload,
                                      work)->conn);
    }
    n = conns_drain(batch, batch->conns.p, batch->conns.n);
    for (size_t i = 0; i < n; i++) {
        works[i] = &conn_get_offload(batch->conns.p[i])->work;
    }
    batch->conns.n = 0;
    return n;
}

/* Single operations from outside. */

static void
find_one(struct conn *conn, void *wanted_)
{
    const struct conn **wanted = wanted_;

    if (conn == *wanted) {
        *wanted = NULL;
    }
}

/* Finds out where 'conn' is, for its block 'offload', unless that is known. */
static void
find_conntrack(const struct conn *conn, struct conn_offload *offload)
{
    struct conntrack_node *node;
    struct conntrack *ct;

    atomic_read_relaxed(&offload->ct, &ct);
    if (ct) {
        return;
    }
    ovs_mutex_lock(&conntracks_mutex);
    LIST_FOR_EACH (node, node, &conntracks) {
        const struct conn *wanted = conn;

        conntrack_for_each_rival(node->ct, conn, CT_DIR_FWD, find_one,
                                 &wanted);
        if (!wanted) {
            atomic_store_relaxed(&offload->ct, node->ct);
        }
    }
    ovs_mutex_unlock(&conntracks_mutex);
}

/* Notes in the block of the connection of 't', an ADD or EST, what 't' says
 * of its direction, unless that is known.  Returns 0 or a positive errno
 * value. */
static int
api_note_side(struct conn *conn, const struct ct_offload_task *t)
{
    bool add = t->op.type == CT_OFFLOAD_OP_ADD;
    enum key_dir dir = add ? CT_DIR_FWD : CT_DIR_REV;
    struct conn_offload *offload = conn_get_offload(conn);

    if (add && !offload) {
        if (conn_offload_state(conn) & CONN_OFFLOAD_GONE) {
            return EOPNOTSUPP;
        }
        offload = conn_alloc_offload(conn);
        if (!offload) {
            return ENOSPC;
        }
        find_conntrack(conn, offload);
    }
    if (offload && !conn_side_is_known(offload, dir)) {
        conn_side_set(offload, dir, ct_offload_port_get(t->op.ctx.netdev_in),
                      &t->op.ctx);
    }
    return 0;
}

/* 't', an ADD or EST of a connection that the calling thread owns, is to be
 * dispatched.  What it says of its direction is what is known from now on,
 * unless a provider was told something else before: then the others should
 * hear the same. */
static void
api_use_side(struct conn *conn, struct ct_offload_task *t)
{
    struct conn_offload *offload = conn_get_offload(conn);
    bool add = t->op.type == CT_OFFLOAD_OP_ADD;
    enum key_dir dir = add ? CT_DIR_FWD : CT_DIR_REV;
    uint32_t state = conn_offload_state(conn);
    uint32_t port;

    if (offload) {
        if (!(add ? state_held(state) : state_est(state))) {
            conn_side_clear(offload, dir);
            port = ct_offload_port_get(t->op.ctx.netdev_in);
            conn_side_set(offload, dir, port, &t->op.ctx);
        }
        conn_side_get(offload, dir, &t->op.ctx, &port);
        t->op.ctx.netdev_in = ct_offload_port_get_netdev(port);
    }
}

/* May 't', an ADD of a connection that the calling thread owns, be
 * dispatched?  Returns 0 or a positive errno value. */
static int
api_check_add(struct conn_offload_batch *batch, struct ct_offload_task *t)
{
    struct conn *conn = task_conn(t);
    enum ct_offload_reason reason;
    bool wait;

    conn_set_state(conn, 0, conn_await_reply(conn));
    reason = conn_check_add(batch, conn, &wait);
    if (batch->retired.n) {
        tasks_run(&batch->tasks);
        retired_disown(batch);
        reason = conn_check_add(batch, conn, &wait);
    }
    if (wait) {
        return EINPROGRESS;
    }
    if (reason) {
        return EOPNOTSUPP;
    }
    if (conn_side_is_known(conn_get_offload(conn), CT_DIR_REV)) {
        /* Whoever takes it now has to know, too. */
        conn_set_state(conn, 0, CONN_OFFLOAD_PENDING_EST);
        t->established = conn_is_established(conn);
    }
    return 0;
}

/* Makes the calling thread the owner of the connection of 't', or, if it has
 * an owner, leaves 't' to that one if 'leave' is true.  Returns true if the
 * calling thread owns it now; otherwise false, with the reason in the error of
 * 't'. */
static bool
api_own(struct ct_offload_task *t, bool leave)
{
    static const uint32_t pending[] = {
        [CT_OFFLOAD_OP_ADD] = CONN_OFFLOAD_PENDING_ADD,
        [CT_OFFLOAD_OP_EST] = CONN_OFFLOAD_PENDING_EST,
        [CT_OFFLOAD_OP_UPD] = CONN_OFFLOAD_PENDING_UPD,
        [CT_OFFLOAD_OP_DEL] = CONN_OFFLOAD_PENDING_DEL,
    };
    bool add = t->op.type == CT_OFFLOAD_OP_ADD;
    bool note = add || t->op.type == CT_OFFLOAD_OP_EST;
    struct conn *conn = task_conn(t);
    struct conn_offload *offload;

    do {
        t->op.error = note ? api_note_side(conn, t) : 0;
        if (t->op.error) {
            return false;
        }
        if (add && leave) {
            conn_set_state(conn, 0, conn_await_reply(conn));
        }
        offload = conn_get_offload(conn);
        if (conn_own(conn, leave ? pending[t->op.type] : 0)) {
            /* A previous owner may have released the block since. */
            t->op.error = note ? api_note_side(conn, t) : 0;
            return true;
        }
        if (!(conn_offload_state(conn) & CONN_OFFLOAD_BUSY)) {
            t->op.error = add ? EOPNOTSUPP : t->op.error;
            return false;
        }

        /* The owner does an ADD with the block that it finds: if it has just
         * released that one, try again. */
    } while (add && leave && conn_get_offload(conn) != offload);

    t->op.error = EINPROGRESS;
    return false;
}

/* Makes the calling thread the owner of the connection of 't', so that 't'
 * can be dispatched; the caller must call conntrack_offload_release() then.
 * Returns false if 't' cannot or need not be dispatched, with the reason in
 * 't->op.error'.  EINPROGRESS means that the connection has an owner, who does
 * the operation if 'leave' is true, or waits for its predecessor. */
bool
conntrack_offload_own(struct ct_offload_task *t, bool leave)
{
    struct conn_offload_batch *batch = *thread_batch_get();
    struct conn *conn = task_conn(t);
    int preset = t->op.error;
    int error;

    if (t->op.type == CT_OFFLOAD_OP_ADD && !ct_offload_is_accepting()) {
        /* There is nobody to offer it to, which is no error. */
        return false;
    }
    if (!api_own(t, leave)) {
        t->op.error = t->op.error ? t->op.error : preset;
        return false;
    }
    error = t->op.error;
    t->op.error = preset;

    if (t->op.type == CT_OFFLOAD_OP_ADD) {
        api_use_side(conn, t);
        error = error ? error : api_check_add(batch, t);
    } else if (t->op.type == CT_OFFLOAD_OP_EST) {
        api_use_side(conn, t);
        conn_set_state(conn, CONN_OFFLOAD_AWAIT_REPLY, 0);
    }
    task_prepare(t);
    if (error == EINPROGRESS) {
        conn_raise(conn, CONN_OFFLOAD_PENDING_ADD, 0, 0);
        conns_push(&batch->conns, conn);
    } else if (error || t->skip) {
        if (t->op.type == CT_OFFLOAD_OP_ADD
            && !(conn_offload_state(conn) & (CONN_OFFLOAD_HELD_MASK
                                             | CONN_OFFLOAD_PENDING_ADD))) {
            conn_release(conn, CT_OFFLOAD_REASON_NONE);
        }
        conns_drain_all(batch, &conn, 1);
    } else {
        return true;
    }
    t->op.error = error ? error : t->op.error;
    return false;
}

/* 't', whose connection the calling thread owns by conntrack_offload_own(),
 * was done. */
void
conntrack_offload_release(const struct ct_offload_task *t)
{
    struct conn *conn = task_conn(t);

    task_finish(t);
    conns_drain_all(*thread_batch_get(), &conn, 1);
}

/* Events from conntrack. */

void
conntrack_offload_conn_init__(struct conntrack *ct, struct conn *conn,
                              const struct dp_packet *pkt)
{
    struct conn_offload_batch *batch = *thread_batch_get();
    struct conn_offload *offload;
    struct ct_offload_ctx ctx;
    uint32_t port;

    /* If a provider came in the middle of conntrack_execute(), 'conn' is older
     * than the provider. */
    if (!batch || !batch->depth || !ct_offload_is_accepting()) {
        return;
    }
    if (!ct_offload_accepting(false)) {
        atomic_init(&conn->offload_state, CONN_OFFLOAD_AWAIT_REPLY);
        return;
    }

    offload = conn_alloc_offload(conn);
    if (offload) {
        atomic_store_relaxed(&offload->ct, ct);
        port = ctx_from_packet(&ctx, batch->netdev_in, pkt);
        conn_side_set(offload, CT_DIR_FWD, port, &ctx);

        conn_set_state(conn, 0, (CONN_OFFLOAD_BUSY | CONN_OFFLOAD_PENDING_ADD
                                 | conn_await_reply(conn)));
        conns_push(&batch->conns, conn);
    }
}

void
conntrack_offload_conn_uninit__(struct conn *conn)
{
    struct conn_offload *offload = conn_detach_offload(conn);
    uint32_t state = conn_offload_state(conn);

    /* A connection that has an owner and is freed all the same was never
     * committed, because there was no tuple left for NAT: it is the last one
     * in this thread's batch. */
    if (state & CONN_OFFLOAD_BUSY && !(state & CONN_OFFLOAD_FREE)) {
        struct conn_offload_batch *batch = *thread_batch_get();

        ovs_assert(batch->conns.n
                   && batch->conns.p[batch->conns.n - 1] == conn);
        batch->conns.n--;
    }
    if (offload) {
        offload_free(offload);
    }
}

/* 'conn', which no provider holds, has a packet in direction 'dir', after
 * which it could be offered to a provider.  Makes the calling thread its
 * owner, if it has none, and returns its block; or returns NULL if it cannot
 * be offered now.  '*owned' tells whether the calling thread is the owner. */
static struct conn_offload *
learn_own(struct conn *conn, enum key_dir dir, bool *owned)
{
    struct conn_offload *offload = conn_get_offload(conn);

    if (!offload && dir == CT_DIR_REV) {
        /* The original direction comes first: no room is taken for what has a
         * reply, but nothing else. */
        conn_set_state(conn, CONN_OFFLOAD_AWAIT_REPLY,
                       CONN_OFFLOAD_AWAIT_ORIG);
        return NULL;
    }
    if (!offload && conn_has_helper(conn)) {
        conn_set_reason(conn, CT_OFFLOAD_HELPER);
        conn_set_state(conn, CONN_OFFLOAD_AWAIT_MASK, 0);
        return NULL;
    }
    *owned = conn_own(conn, 0);
    if (!*owned) {
        return offload;
    }

    /* If it was removed before, then RCU frees it, whoever owns it: it must
     * not be handed over. */
    offload = (conn_offload_state(conn) & CONN_OFFLOAD_GONE
               ? NULL : conn_alloc_offload(conn));
    if (!offload) {
        conn_set_state(conn, CONN_OFFLOAD_AWAIT_MASK, 0);
    }
    return offload;
}

/* 'pkt' is what was awaited of direction 'dir' of 'conn', which has 'offload'.
 * The calling thread is the owner of 'conn' if 'owned'.  It need not be if
 * providers hold 'conn', or if another thread does something with it. */
static void
learn_packet(struct conn_offload_batch *batch, struct conn *conn,
             struct conn_offload *offload, const struct dp_packet *pkt,
             enum key_dir dir, bool owned)
{
    static const uint32_t await[] = {
        [CT_DIR_FWD] = CONN_OFFLOAD_AWAIT_ORIG,
        [CT_DIR_REV] = CONN_OFFLOAD_AWAIT_REPLY,
    };
    uint32_t state = conn_offload_state(conn);
    uint8_t any = ct_offload_accepting(false);
    uint8_t established_only = ct_offload_accepting(true);
    uint8_t takers = ((any | (conn_is_established(conn)
                              ? established_only : 0))
                      & ~state_held(state));
    uint32_t events = 0, clear = await[dir], set = 0;
    struct ct_offload_ctx ctx;
    bool reply_known;
    uint32_t port;

    port = ctx_from_packet(&ctx, batch->netdev_in, pkt);
    if (owned && !state_held(state)) {
        conn_side_clear(offload, dir);      /* Nobody has been told of it. */
    }
    if (!conn_side_is_known(offload, dir)) {
        conn_side_set(offload, dir, port, &ctx);
    } else if (state_held(state)
               && conn_side_has_moved(offload, dir, port, &ctx)) {
        COVERAGE_INC(ct_offload_moved);
        batch_raise(batch, conn, CONN_OFFLOAD_PENDING_DEL, clear, 0);
        return;
    }

    reply_known = conn_side_is_known(offload, CT_DIR_REV);
    if (takers && !owned && state & CONN_OFFLOAD_BUSY) {
        clear = 0;                          /* The next packet tells. */
    } else if (takers & ((dir == CT_DIR_FWD ? any : 0)
                         | (reply_known ? established_only : 0))) {
        events |= CONN_OFFLOAD_PENDING_ADD;
    }
    if (reply_known && (events || !state_is_established(state))) {
        events |= CONN_OFFLOAD_PENDING_EST;
    }
    if (!reply_known || established_only & ~state_held(state) & ~takers) {
        set |= CONN_OFFLOAD_AWAIT_REPLY;
    }
    if (events && conn_is_tcp(conn)) {
        set |= CONN_OFFLOAD_AWAIT_FIN;
    }
    if (events && !owned) {
        batch_raise(batch, conn, events, clear & ~set, set);
    } else {
        conn_set_state(conn, clear & ~set, set | events);
    }
}

/* 'pkt' is what was awaited of direction 'dir' of 'conn'. */
static void
conn_learn(struct conn_offload_batch *batch, struct conntrack *ct,
           struct conn *conn, const struct dp_packet *pkt, enum key_dir dir)
{
    struct conn_offload *offload = conn_get_offload(conn);
    bool owned = false;

    if (!state_held(conn_offload_state(conn))) {
        uint8_t established_only = ct_offload_accepting(true);

        if (!ct_offload_accepting(false)
            && !(established_only && conn_is_established(conn))) {
            /* Nobody wants it before it is established, if at all. */
            conn_set_state(conn, CONN_OFFLOAD_AWAIT_ORIG
                                 | CONN_OFFLOAD_AWAIT_REPLY,
                           established_only ? CONN_OFFLOAD_AWAIT_REPLY : 0);
            return;
        }
        offload = learn_own(conn, dir, &owned);
    }
    if (offload) {
        atomic_store_relaxed(&offload->ct, ct);
        learn_packet(batch, conn, offload, pkt, dir, owned);
    }

    /* What has nothing pending must not have an owner for long: it is not
     * offered by another thread meanwhile. */
    if (owned && !conn_disown(conn)) {
        conns_push(&batch->conns, conn);
    }
}

void
conntrack_offload_conn_seen__(struct conntrack *ct, struct conn *conn,
                              const struct dp_packet *pkt, const bool *reply,
                              enum ct_update_res res)
{
    uint32_t state = conn_offload_state(conn);
    struct conn_offload_batch *batch;
    bool fin, await;

    /* With CT_UPDATE_NEW, another connection is about to take its place. */
    if (res == CT_UPDATE_INVALID || res == CT_UPDATE_NEW) {
        return;
    }
    fin = state & CONN_OFFLOAD_AWAIT_FIN && conntrack_offload_is_fin(pkt);
    await = (*reply
             ? state & CONN_OFFLOAD_AWAIT_REPLY && res == CT_UPDATE_VALID
             : state & CONN_OFFLOAD_AWAIT_ORIG);
    if (OVS_LIKELY(!fin && !await)) {
        return;
    }

    batch = batch_enter();
    if (await) {
        conn_learn(batch, ct, conn, pkt, *reply ? CT_DIR_REV : CT_DIR_FWD);
    }
    if (fin) {
        conn_note_reason(conn, CT_OFFLOAD_CLOSING);
        batch_raise(batch, conn, CONN_OFFLOAD_PENDING_DEL,
                    CONN_OFFLOAD_AWAIT_FIN, 0);
    }
    batch_run_if_full(batch);
    batch_leave(batch);
}

void
conntrack_offload_conn_changed__(struct conn *conn)
{
    struct conn_offload_batch *batch = *thread_batch_get();

    /* If the first provider came in the middle of conntrack_execute(), this
     * makes up for conntrack_offload_begin(). */
    if (!batch || !batch->depth) {
        batch = batch_enter();
        batch->late = true;
    }

    /* The commit that creates a connection sets its mark and labels, too. */
    if (batch->conns.n && batch->conns.p[batch->conns.n - 1] == conn
        && conn_offload_state(conn) & CONN_OFFLOAD_PENDING_ADD
        && !state_held(conn_offload_state(conn))) {
        return;
    }

    /* Locks are held: only add to the batch. */
    batch_raise(batch, conn, CONN_OFFLOAD_PENDING_DEL, 0, 0);
}

void
conntrack_offload_conn_forced__(struct conn *conn)
{
    struct conn_offload_batch *batch = batch_enter();

    if (conn_doom(conn)) {
        batch_raise(batch, conn, CONN_OFFLOAD_PENDING_DEL, 0, 0);
        batch_run_if_full(batch);
    }
    batch_leave(batch);
}

/* 'conn' is about to be removed from conntrack's tables, after which there may
 * be another connection with its tuple.  No lock may be held. */
void
conntrack_offload_conn_removing(struct conn *conn)
{
    uint32_t state = 0;

    if (OVS_UNLIKELY(!atomic_compare_exchange_strong(&conn->offload_state,
                                                     &state,
                                                     CONN_OFFLOAD_GONE))) {
        conn_doom(conn);
    }
}

/* 'conn' was removed from conntrack, after conntrack_offload_conn_removing().
 * Has 'delete' called for it, as by ovsrcu_postpone(), when the providers are
 * done with it.  No lock may be held. */
void
conntrack_offload_conn_postpone(void (*delete)(struct conn *),
                                struct conn *conn)
{
    /* RCU may take its time to free what nobody holds. */
    if (OVS_UNLIKELY(conn_get_offload(conn))
        && !(conn_offload_state(conn) & (CONN_OFFLOAD_HELD_MASK
                                         | CONN_OFFLOAD_BUSY))) {
        struct conn_offload *offload = conn_detach_offload(conn);

        if (offload) {
            offload_free(offload);
        }
    }
    if (OVS_UNLIKELY(conn_raise_free(conn, delete))) {
        struct conn_offload_batch *batch = batch_enter();

        conns_push(&batch->conns, conn);
        batch_run_if_full(batch);
        batch_leave(batch);
    }
}

/* Returns the CT_DPIF_STATUS_* flags that tell of 'conn' being offloaded. */
uint32_t
conntrack_offload_conn_status(const struct conn *conn)
{
    uint32_t state = conn_offload_state(conn);

    return ((state_held(state) ? CT_DPIF_STATUS_OFFLOAD : 0)
            | (state_is_bi_dir(state) ? CT_DPIF_STATUS_HW_OFFLOAD : 0));
}

/* The sweep. */

/* Returns what to await of packets of 'conn', with this state word, which is
 * alive: those that show where it comes from, if it could be offered to a
 * provider, or is held and may have moved. */
static uint32_t
sweep_await(const struct conn *conn, uint32_t state)
{
    uint32_t both = CONN_OFFLOAD_AWAIT_ORIG | CONN_OFFLOAD_AWAIT_REPLY;

    if (state & (CONN_OFFLOAD_BUSY | CONN_OFFLOAD_GONE)
        || conn_is_closed(conn) || (state & both) == both) {
        return 0;
    }
    if (state_held(state)) {
        return both;
    }
    if (!ct_offload_is_accepting() || !ct_offload_room_is_left()
        || !ct_offload_threads_have_room() || conn_has_helper(conn)) {
        return 0;
    }
    return (ct_offload_accepting(false) || conn_is_established(conn)
            ? both : CONN_OFFLOAD_AWAIT_REPLY);
}

/* Has the providers asked when 'conn', packets of which may bypass software,
 * was last used: because its time is up, or will be by the next sweep.
 * Hardware may have counters only, which tell that packets came between two
 * readings: so there is a reading before the one that decides. */
static void
sweep_ask(struct conn_offload_batch *batch, struct conntrack *ct,
          struct conn *conn, uint32_t event)
{
    struct conn_offload *offload = conn_get_offload(conn);

    if (offload) {
        /* What was added by ct_offload_conn_add() may not know. */
        atomic_store_relaxed(&offload->ct, ct);
    }
    COVERAGE_INC(ct_offload_expiry_asked);
    ct_offload_count(CT_OFFLOAD_N_ASKED, 1);
    batch_raise(batch, conn, event, 0, 0);
    batch_run_if_full(batch);
}

void
conntrack_offload_sweep_conn__(struct conn_offload_batch *batch,
                               struct conntrack *ct, struct conn *conn,
                               long long int now)
{
    uint32_t state = conn_offload_state(conn);
    uint32_t await;

    batch->walking = true;
    if (state & CONN_OFFLOAD_BYPASS && !(state & CONN_OFFLOAD_GONE)) {
        /* Sweeps do not come on the dot. */
        long long int next = now + conntrack_get_sweep_interval(ct) * 3LL / 2;

        if (conn_is_past(conn, now)) {
            sweep_ask(batch, ct, conn, CONN_OFFLOAD_PENDING_LAPSE);
            return;
        }
        if (conn_is_past(conn, next)) {
            sweep_ask(batch, ct, conn, CONN_OFFLOAD_PENDING_UPD);
        }
    } else if (conn_is_past(conn, now)) {
        return;
    }

    await = sweep_await(conn, state) & ~state;
    if (await) {
        conn_set_state(conn, 0, await);
    }
}

/* Ends what conntrack_offload_begin() began, at the end of a sweep. */
void
conntrack_offload_sweep_end__(struct conn_offload_batch *batch)
{
    /* Connections that this thread owns are not freed, so that it may quiesce
     * before it goes on to the next ones: hardware can be slow. */
    batch->walking = false;
    if (!ct_offload_n_threads()) {
        for (size_t i = 0; i < batch->conns.n; i += CT_OFFLOAD_BATCH_INLINE) {
            conns_drain_all(batch, &batch->conns.p[i],
                            MIN(batch->conns.n - i, CT_OFFLOAD_BATCH_INLINE));
            ovsrcu_quiesce();
        }
        batch->conns.n = 0;
    }
    batch_leave(batch);
    ct_offload_room_collect();
}

/* All connections. */

/* For the registry: see ct_offload_set_take_back(). */
static void
take_back(uint8_t leaving)
{
    /* Threads may still be telling providers of new connections.  Those that
     * own a connection that is to be taken back end that, too. */
    conntrack_offload_barrier(true);
    conntrack_offload_evict(leaving);
    conntrack_offload_barrier(true);
}

/* Makes the connections of 'ct' known to the layer, and those who do something
 * for them to what is below this file. */
void
conntrack_offload_init(struct conntrack *ct)
{
    static struct ovsthread_once once = OVSTHREAD_ONCE_INITIALIZER;
    struct conntrack_node *node = xmalloc(sizeof *node);

    if (ovsthread_once_start(&once)) {
        ct_offload_set_take_back(take_back);
        ct_offload_threads_set_callbacks(run_works,
                                         conntrack_offload_barrier);
        ovsthread_once_done(&once);
    }

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

/* Has all connections of 'ct' taken back into software, or those that one of
 * the providers in 'leaving' holds from these only. */
static void
conntrack_evict(struct conntrack *ct, uint8_t leaving)
{
    struct conn_offload_batch *batch = batch_enter();

    for (size_t i = 0; i < N_EXP_LISTS; i++) {
        struct conn *conn;

        RCULIST_FOR_EACH (conn, node, &ct->exp_lists[i]) {
            uint32_t state = conn_offload_state(conn);

            if (leaving ? state_held(state) & leaving
                : (state & (CONN_OFFLOAD_HELD_MASK | CONN_OFFLOAD_BUSY)
                   || conn_get_offload(conn))) {
                batch_raise(batch, conn, (leaving ? CONN_OFFLOAD_PENDING_UNREG
                                          : CONN_OFFLOAD_PENDING_DEL), 0, 0);
            }
            batch_run_if_full(batch);
        }
    }
    batch_leave(batch);
}

/* Takes connections back into software: if 'leaving' is not 0, those that one
 * of the providers in 'leaving', which are being unregistered, holds, and from
 * these only; otherwise all of them.
 *
 * Connections that have another owner just now are done when that one has
 * ended what it is doing: see conntrack_offload_barrier(). */
void
conntrack_offload_evict(uint8_t leaving)
{
    struct conntrack_node *node;

    ovs_mutex_lock(&conntracks_mutex);
    LIST_FOR_EACH (node, node, &conntracks) {
        conntrack_evict(node->ct, leaving);
    }
    ovs_mutex_unlock(&conntracks_mutex);
}

/* Takes the connections on 'netdev', which is about to stop, back into
 * software.  When this returns, no provider holds one, and none is being
 * offered.  Costs in proportion to these connections. */
void
conntrack_offload_stop_port(const struct netdev *netdev)
{
    uint32_t port = ct_offload_port_stop(netdev);
    struct conn **conns;
    size_t n;

    if (!port) {
        return;
    }

    /* Whoever has found 'netdev' before may be adding connections. */
    conntrack_offload_barrier(false);
    n = ct_offload_port_get_conns(port, &conns);
    if (n) {
        struct conn_offload_batch *batch = batch_enter();

        for (size_t i = 0; i < n; i++) {
            batch_raise(batch, conns[i], CONN_OFFLOAD_PENDING_DEL, 0, 0);
            batch_run_if_full(batch);
        }
        batch_leave(batch);
        conntrack_offload_barrier(false);
    }
    free(conns);
    ct_offload_port_free(port);
}

/* Calls 'cb' with 'aux' for each connection that is known to conntrack, and
 * alive.  It must not remove any. */
void
conntrack_offload_for_each(void (*cb)(struct conn *, void *aux), void *aux)
{
    long long int now = time_msec();
    struct conntrack_node *node;

    ovs_mutex_lock(&conntracks_mutex);
    LIST_FOR_EACH (node, node, &conntracks) {
        for (size_t i = 0; i < N_EXP_LISTS; i++) {
            struct conn *conn;

            RCULIST_FOR_EACH (conn, node, &node->ct->exp_lists[i]) {
                if (!conn_is_past(conn, now)
                    || conntrack_offload_alive(conn, now)) {
                    cb(conn, aux);
                }
            }
        }
    }
    ovs_mutex_unlock(&conntracks_mutex);
}

/* Appends to 'ds' what there is to say of 'conn': who holds it, or why nobody
 * does. */
void
conntrack_offload_explain(struct conn *conn, struct ds *ds)
{
    struct conn_offload_batch *batch = batch_enter();
    uint32_t state = conn_offload_state(conn);

    ct_offload_conn_format(conn, ds);
    if (state_held(state)) {
        ds_put_format(ds, "\n  in hardware: %s\n",
                      state_is_bi_dir(state) ? "bi-dir"
                      : state_is_established(state) ? "uni-dir"
                      : "not established");
        if (conn_own(conn, 0)) {
            struct conn_offload *offload = conn_get_offload(conn);

            if (offload) {
                ct_offload_format_held(conn,
                                       state_held(conn_offload_state(conn)),
                                       offload->priv, ds);
            }
            conns_push(&batch->conns, conn);
        } else {
            ds_put_cstr(ds, "  an operation is running, no details\n");
        }
    } else if (state & CONN_OFFLOAD_BUSY) {
        ds_put_cstr(ds, "\n  in software: being offered\n");
    } else {
        ds_put_format(ds, "\n  in software: %s\n",
                      ct_offload_reason_to_string(conn_reason(conn)));
    }
    batch_run_if_full(batch);
    batch_leave(batch);
}
