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

#include "conntrack-offload-run.h"

#include <errno.h>
#include <string.h>

#include "conntrack-private.h"
#include "conntrack-tp.h"
#include "coverage.h"
#include "ct-offload-port.h"
#include "ct-offload-private.h"
#include "ct-offload-room.h"
#include "ct-offload-stats.h"
#include "ct-offload-thread.h"
#include "odp-util.h"
#include "ovs-rcu.h"
#include "timeval.h"

COVERAGE_DEFINE(ct_offload_evict);
COVERAGE_DEFINE(ct_offload_expiry_extended);
COVERAGE_DEFINE(ct_offload_full);
COVERAGE_DEFINE(ct_offload_preceded);
COVERAGE_DEFINE(ct_offload_queue_full);

/* For so long after a refusal may have become wrong, in ms, connections forget
 * it when a sweep comes to them. */
#define FORGET_MS 60000

/* See conn_run_set_paths(). */
static const struct conn_run_paths *paths;

/* See conn_forget_refusals(). */
static atomic_llong forget_until = 0;

/* At initialisation: knows who makes paths. */
void
conn_run_set_paths(const struct conn_run_paths *paths_)
{
    paths = paths_;
}

/* 'conn' was just committed, and can be found.  Locks are held. */
void
conn_run_committed(struct conn_offload_batch *batch, const struct conn *conn)
{
    if (paths) {
        paths->committed(batch, conn);
    }
}

/* Port 'number' has stopped. */
void
conn_run_port_stopped(uint32_t number)
{
    if (paths) {
        paths->port_stopped(number);
    }
}

/* Ends the paths of 'conn', which the calling thread owns. */
static void
conn_end_paths(struct conn *conn)
{
    if (conn_offload_state(conn) & CONN_OFFLOAD_PATH_MASK) {
        paths->end(conn);
    }
}

static bool
conn_is_in_hardware(const struct conn *conn)
{
    return (conn_offload_state(conn) & (CONN_OFFLOAD_HELD_MASK
                                        | CONN_OFFLOAD_PATH_MASK)) != 0;
}

/* Does one of the providers in 'slots' make paths where packets of 'conn' in
 * direction 'dir' come from? */
bool
conn_can_forward(const struct conn *conn, uint8_t slots, enum key_dir dir)
{
    struct conn_offload *offload = conn_get_offload(conn);
    struct ct_offload_ctx ctx;
    uint32_t port;

    return (offload && conn_side_get(offload, dir, &ctx, &port)
            && !ct_offload_port_is_unreliable(port)
            && ct_offload_can_forward(slots,
                                      ct_offload_port_get_netdev(port)));
}

/* Was a path of 'conn' refused by something that has not changed since? */
static bool
conn_path_is_refused(const struct conn *conn, bool reply)
{
    long long int until;

    if (conn_get_path_note(conn, reply) < CONN_PATH_REFUSED) {
        return false;
    }
    atomic_read_relaxed(&forget_until, &until);
    return time_msec() >= until;
}

/* What has refused paths may not do so any more. */
void
conn_forget_refusals(void)
{
    atomic_store_relaxed(&forget_until, time_msec() + FORGET_MS);
}

/* Returns the bits for packets of 'conn', which is established in hardware,
 * that have to be traced before they can be forwarded there, if they can. */
uint32_t
conn_await_path(const struct conn *conn)
{
    uint32_t state = conn_offload_state(conn);
    uint8_t slots = state_est(state) & ct_offload_forwarding();
    uint32_t await = 0;

    if (OVS_LIKELY(!slots) || !state_is_established(state)
        || state & CONN_OFFLOAD_GONE || conn_is_closed(conn)) {
        return 0;
    }
    for (int dir = 0; dir < CT_DIRS; dir++) {
        bool reply = dir == CT_DIR_REV;

        if (!(state & state_path_bit(reply))
            && !conn_path_is_refused(conn, reply)
            && conn_can_forward(conn, slots, dir)) {
            await |= state_await_path_bit(reply);
        }
    }
    return await;
}

/* Counts that the state word of a connection has become 'new', and was 'old'.
 */
static void
count_directions(uint32_t old, uint32_t new)
{
    if (state_is_bi_dir(old) != state_is_bi_dir(new)) {
        ct_offload_count(CT_OFFLOAD_N_BI_DIR, state_is_bi_dir(new) ? 1 : -1);
    }
    if (state_is_uni_dir(old) != state_is_uni_dir(new)) {
        ct_offload_count(CT_OFFLOAD_N_UNI_DIR, state_is_uni_dir(new) ? 1 : -1);
    }
}

/* Paths of 'conn' have come or gone: changes its state word. */
void
conn_set_paths(struct conn *conn, uint32_t clear, uint32_t set)
{
    uint32_t old = conn_set_state(conn, clear, set);

    count_directions(old, (old & ~clear) | set);
}

/* Connections in software. */

/* 'conn' stays in software for 'reason', or goes back there. */
void
conn_set_reason(struct conn *conn, enum ct_offload_reason reason)
{
    conn_note_reason(conn, reason);
    ct_offload_count_reason(reason);
}

static void
offload_free(struct conn_offload *offload)
{
    ovsrcu_postpone(free, offload);
    ct_offload_unreserve();
}

/* Frees the block of 'conn', if it has one: nobody else can attach or detach
 * it, or is going to. */
void
conn_free_offload(struct conn *conn)
{
    struct conn_offload *offload = conn_detach_offload(conn);

    if (offload) {
        offload_free(offload);
    }
}

/* Returns the block of 'conn', or a new one, with room for another offloaded
 * connection; or NULL if there is no room. */
struct conn_offload *
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
uint32_t
conn_await_reply(const struct conn *conn)
{
    return (CONN_OFFLOAD_AWAIT_REPLY
            | (conn_is_tcp(conn) ? CONN_OFFLOAD_AWAIT_FIN : 0));
}

/* 'conn', which the calling thread owns, is not held any more, for 'reason'.
 * It may have paths all the same, if it has had no reply. */
static void
conn_release(struct conn *conn, enum ct_offload_reason reason)
{
    struct conn_offload *offload;
    bool wait, paths_left;
    uint32_t state;

    conn_note_reason(conn, reason);
    wait = (!(conn_offload_state(conn) & CONN_OFFLOAD_GONE)
            && !conn_is_closed(conn)
            && ct_offload_accepting(true) && !conn_is_established(conn));
    paths_left = conn_offload_state(conn) & CONN_OFFLOAD_PATH_MASK;
    if (paths_left) {
        /* Packets bypass software, and what has had no reply waits for it: see
         * path_link() in ct-offload-path.c. */
        conn_set_state(conn, CONN_OFFLOAD_AWAIT_MASK,
                       (conn_is_established(conn) ? 0
                        : conn_await_reply(conn)));
    } else {
        conn_set_state(conn, CONN_OFFLOAD_AWAIT_MASK | CONN_OFFLOAD_BYPASS,
                       wait ? CONN_OFFLOAD_AWAIT_REPLY : 0);
    }
    offload = conn_detach_offload(conn);
    if (offload) {
        for (int dir = 0; dir < CT_DIRS; dir++) {
            ct_offload_port_remove(offload, dir);
        }
        state = conn_offload_state(conn);
        if (state & CONN_OFFLOAD_PENDING_ADD && !(state & CONN_OFFLOAD_GONE)
            && conn_attach_offload(conn, offload) == offload) {
            /* It is offered again at once, with what is known of it. */
            conn_set_state(conn, 0, conn_await_reply(conn));
            return;
        }
        offload_free(offload);
    }
    if (!paths_left) {
        conn_undoom(conn);
    }
}

/* Expiration. */

/* Returns how long 'conn' may be idle in its present state, in ms. */
long long int
conn_get_timeout(struct conntrack *ct, const struct conn *conn)
{
    struct conn probe = {
        .tp_id = conn->tp_id,
        .key_node[CT_DIR_FWD].key.zone = conn->key_node[CT_DIR_FWD].key.zone,
    };
    long long int ms;
    int timeout;

    atomic_read_relaxed(&CONST_CAST(struct conn *, conn)->timeout, &timeout);

    /* The timeout policy is applied to a connection, so have one. */
    conn_init_expiration(ct, &probe, timeout, 0);
    atomic_read_relaxed(&probe.expiration, &ms);
    return ms;
}

/* If 'conn' was used at 'last_used', as a provider says, then it expires at
 * that time plus the timeout of its state, unless it expires later anyway or
 * was forced to expire.  Returns true if it has more time now. */
bool
conn_extend(struct conntrack *ct, struct conn *conn, long long int last_used)
{
    long long int new, old;

    new = MIN(last_used, time_msec()) + conn_get_timeout(ct, conn);
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

    /* Packets may bypass software before EST returns. */
    if (t->op.type == CT_OFFLOAD_OP_EST && ct_offload_may_bypass(t->held)) {
        conn_set_state(task_conn(t), 0,
                       CONN_OFFLOAD_BYPASS | CONN_OFFLOAD_NO_SEQ_CHK);
    }
}

/* Counts that the state word of 'conn' has become 'new', and was 'old',
 * perhaps because it has 'lapsed'. */
static void
count_change(const struct conn *conn, uint32_t old, uint32_t new, bool lapsed)
{
    bool was_held = state_held(old) != 0;
    bool held = state_held(new) != 0;

    if (was_held != held) {
        ct_offload_count(CT_OFFLOAD_N_OFFLOADED, held ? 1 : -1);
    }
    count_directions(old, new);
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
    uint8_t forward = est & ct_offload_forwarding();
    enum key_dir dir = (t->op.type == CT_OFFLOAD_OP_EST ? CT_DIR_REV
                        : CT_DIR_FWD);

    if (held && t->op.type != CT_OFFLOAD_OP_DEL) {
        struct ct_offload_ctx ctx;
        uint32_t port;

        conn_side_get(offload, dir, &ctx, &port);
        ct_offload_port_add(port, offload, dir);
    }
    if (!ct_offload_may_bypass(est) && !(old & CONN_OFFLOAD_PATH_MASK)) {
        clear |= CONN_OFFLOAD_BYPASS;
    }
    if (!est) {
        clear |= CONN_OFFLOAD_FORWARD;
    } else if (forward && (conn_can_forward(conn, forward, CT_DIR_FWD)
                           || conn_can_forward(conn, forward, CT_DIR_REV))) {
        set |= CONN_OFFLOAD_FORWARD;
    }
    old = conn_set_state(conn, clear, set);
    count_change(conn, old, (old & ~clear) | set, t->lapsed);
    if (t->op.type == CT_OFFLOAD_OP_EST) {
        uint32_t await = conn_await_path(conn);

        if (await) {
            conn_set_state(conn, 0, await);
        }
    }
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

void
conn_run_destroy(struct conn_run *run)
{
    free(run->tasks);
    free(run->retired.p);
}

/* For conns_run(), beside CONN_OFFLOAD_PENDING_*: the answer to
 * CONN_OFFLOAD_PENDING_LAPSE is there. */
#define EVENT_LAPSE (1u << 31)

/* Appends an operation of 'type' on 'conn', which the calling thread owns, to
 * the tasks of 'run'. */
static struct ct_offload_task *
run_add(struct conn_run *run, enum ct_offload_op_type type,
        const struct conn *conn)
{
    struct ct_offload_task *t;

    if (OVS_UNLIKELY(run->n_tasks >= run->allocated_tasks)) {
        run->tasks = x2nrealloc(run->tasks, &run->allocated_tasks,
                                sizeof *run->tasks);
    }
    t = &run->tasks[run->n_tasks++];
    task_init(t, type, conn);
    return t;
}

/* An operation of 'type' on 'conn' has this result: tells who wants to have
 * it.  The first one is it: the same may be done again for other reasons. */
static void
run_answer(struct conn_run *run, const struct conn *conn,
           enum ct_offload_op_type type, int error, long long int last_used)
{
    for (size_t i = 0; i < run->n_wanted; i++) {
        struct ct_offload_op *op = run->wanted[i];

        if (op->ctx.conn == conn && op->type == type) {
            op->error = error;
            op->last_used = last_used;
            run->wanted[i] = run->wanted[--run->n_wanted];
            return;
        }
    }
}

/* Does the tasks of 'run', which has none then. */
static void
run_tasks(struct conn_run *run)
{
    for (size_t i = 0; i < run->n_tasks; i++) {
        task_prepare(&run->tasks[i]);
    }
    /* Dispatching may mean to wait for another thread. */
    if (run->n_tasks) {
        ct_offload_dispatch(run->tasks, run->n_tasks);
    }
    for (size_t i = 0; i < run->n_tasks; i++) {
        const struct ct_offload_task *t = &run->tasks[i];

        task_finish(t);
        run_answer(run, task_conn(t), t->op.type, t->op.error,
                   t->op.last_used);
    }
    run->n_tasks = 0;
}

/* For retire_one(). */
struct retire_aux {
    struct conn_run *run;
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
    struct conn_run *run = aux->run;
    uint32_t state = conn_offload_state(conn);

    if (conn == aux->successor) {
        return;
    }
    if (conntrack_offload_alive(conn, aux->now)) {
        aux->rival |= (!(state & CONN_OFFLOAD_GONE)
                       && state & (CONN_OFFLOAD_HELD_MASK
                                   | CONN_OFFLOAD_BUSY));
        return;
    }
    if (conn_doom(conn)
        && conn_raise(conn, CONN_OFFLOAD_PENDING_DEL, 0, 0)) {
        conns_push(&run->retired, conn);
        conn_take_events(conn);
        conn_end_paths(conn);
        run_add(run, CT_OFFLOAD_OP_DEL, conn);
    }
}

/* Has providers give up connections that have a tuple of 'conn' and whose time
 * is up.  Returns false if there is one that is alive: two threads had another
 * opinion of the time, or a connection that NAT has changed looks like another
 * one that it has not. */
static bool
retire_predecessors(struct conn_run *run, const struct conn *conn)
{
    struct conntrack *ct = conn_get_conntrack(conn);
    struct retire_aux aux = { run, conn, time_msec(), false };

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
retired_disown(struct conn_run *run)
{
    for (size_t i = 0; i < run->retired.n; i++) {
        /* Nobody holds it, nor ever will. */
        while (!conn_disown(run->retired.p[i])) {
            conn_take_events(run->retired.p[i]);
        }
    }
    run->retired.n = 0;
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
 * for its predecessor.  Adds to 'run' what has to be done before. */
static enum ct_offload_reason
conn_check_add(struct conn_run *run, struct conn *conn, bool *wait)
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
    if (!retire_predecessors(run, conn)) {
        return CT_OFFLOAD_PREDECESSOR;
    }
    *wait = conn_is_preceded(conn);
    return CT_OFFLOAD_REASON_NONE;
}

/* Offers 'conn' to the providers, as a task of 'run'.  Returns false if it has
 * to wait for its predecessor. */
static bool
conn_add_add(struct conn_run *run, struct conn *conn)
{
    enum ct_offload_reason reason;
    bool wait;

    reason = conn_check_add(run, conn, &wait);
    if (wait) {
        return false;
    } else if (!reason) {
        run_add(run, CT_OFFLOAD_OP_ADD, conn);
    } else {
        if (!state_held(conn_offload_state(conn))) {
            ct_offload_count_reason(reason);
            conn_release(conn, reason);
        }
        run_answer(run, conn, CT_OFFLOAD_OP_ADD, EOPNOTSUPP, 0);
    }
    return true;
}

/* Tells those providers that hold 'conn' that it is established, as a task of
 * 'run'.  If its port is not known, or has stopped, that waits
 * for another packet. */
static void
conn_add_est(struct conn_run *run, struct conn *conn)
{
    struct conn_offload *offload = conn_get_offload(conn);
    uint32_t state = conn_offload_state(conn);

    if (!state_held(state)) {
        return;
    }
    if (!(state & CONN_OFFLOAD_BYPASS) && conn_is_past(conn, time_msec())) {
        /* What is dead must not come to life because packets may bypass
         * software now: another connection may have taken its place. */
        return;
    }
    if (!conn_side_is_known(offload, CT_DIR_REV)
        || side_has_stopped(offload, CT_DIR_REV)) {
        conn_side_clear(offload, CT_DIR_REV);
        conn_set_state(conn, 0, CONN_OFFLOAD_AWAIT_REPLY);
        return;
    }
    run_add(run, CT_OFFLOAD_OP_EST, conn);
}

/* Asks when 'conn' was last used, by tasks of 'run' and by its paths. */
static void
conn_add_upd(struct conn_run *run, struct conn *conn)
{
    if (conn_offload_state(conn) & CONN_OFFLOAD_PATH_MASK
        && paths->ask(conn)) {
        COVERAGE_INC(ct_offload_expiry_extended);
        ct_offload_count(CT_OFFLOAD_N_EXTENDED, 1);
    }
    run_add(run, CT_OFFLOAD_OP_UPD, conn);
}

/* Takes 'conn' from all providers but those in 'except', by tasks of 'run'.
 * If it goes on in software, it should expire when it would have. */
static void
conn_add_del(struct conn_run *run, struct conn *conn, uint8_t except)
{
    uint32_t state = conn_offload_state(conn);

    if (!state_held(state)) {
        conn_end_paths(conn);
        conn_release(conn, CT_OFFLOAD_TAKEN_BACK);
        return;
    }
    if (!(state_held(state) & ~except)) {
        return;
    }
    if (state & CONN_OFFLOAD_BYPASS && !(state & CONN_OFFLOAD_GONE)
        && !ct_offload_is_exiting()) {
        run_add(run, CT_OFFLOAD_OP_UPD, conn)->except = except;
    }
    conn_end_paths(conn);
    run_add(run, CT_OFFLOAD_OP_DEL, conn)->except = except;
}

/* 'conn' was asked about because its time was up.  If it is not in use in
 * hardware either, adds to 'run' what takes it from the providers; a sweep
 * cleans it up then. */
static void
conn_add_lapse(struct conn_run *run, struct conn *conn)
{
    if (conn_is_past(conn, time_msec())) {
        conn_end_paths(conn);
        run_add(run, CT_OFFLOAD_OP_DEL, conn)->lapsed = true;
        ct_offload_count(CT_OFFLOAD_N_LAPSED, 1);
    }
}

/* Adds to 'run' the tasks that bring the first of 'events' of 'conn' to the
 * providers.  Returns the events that are left: those that depend on the
 * result, or have to wait. */
static uint32_t
conn_add_ops(struct conn_run *run, struct conn *conn,
             uint32_t events)
{
    uint32_t waiting = 0;

    if (events_have_del(events)) {
        /* An ADD or EST that was raised before is not pending any more.  One
         * that was raised after it stays so. */
        conn_put_back(conn, events & (CONN_OFFLOAD_PENDING_ADD
                                      | CONN_OFFLOAD_PENDING_EST));
        conn_add_del(run, conn, 0);
        return 0;
    }
    if (events & CONN_OFFLOAD_PENDING_ADD) {
        if (conn_add_add(run, conn)) {
            return events & ~CONN_OFFLOAD_PENDING_ADD;
        }
        /* The providers that hold it do not wait for that. */
        waiting = events & (CONN_OFFLOAD_PENDING_ADD
                            | CONN_OFFLOAD_PENDING_EST);
        events &= ~waiting;
    }
    if (events & CONN_OFFLOAD_PENDING_EST) {
        conn_add_est(run, conn);
        events &= ~CONN_OFFLOAD_PENDING_EST;
    } else if (events & EVENT_LAPSE) {
        conn_add_lapse(run, conn);
        events &= ~EVENT_LAPSE;
    } else if (events & CONN_OFFLOAD_PENDING_LAPSE) {
        events &= ~CONN_OFFLOAD_PENDING_LAPSE;
        if (conn_is_in_hardware(conn)) {
            conn_add_upd(run, conn);
            events &= ~CONN_OFFLOAD_PENDING_UPD;
            events |= EVENT_LAPSE;
        }
    } else if (events & CONN_OFFLOAD_PENDING_UPD) {
        if (conn_is_in_hardware(conn)) {
            conn_add_upd(run, conn);
        }
        events &= ~CONN_OFFLOAD_PENDING_UPD;
    } else if (events & CONN_OFFLOAD_PENDING_UNREG) {
        /* It is still to be offered when nobody holds it any more. */
        conn_put_back(conn, waiting);
        waiting = 0;
        conn_add_del(run, conn, ~ct_offload_leaving());
        events &= ~CONN_OFFLOAD_PENDING_UNREG;
    }
    return events | waiting;
}

/* Does what is pending for the 'n' connections in 'conns', at most
 * CT_OFFLOAD_BATCH_INLINE, which the calling thread owns.  What has to wait
 * for something that another thread does stays pending.  Returns true if
 * anything was done. */
static bool
conns_run(struct conn_run *run, struct conn **conns, size_t n)
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
                uint32_t left = conn_add_ops(run, conns[i], events[i]);

                progress |= left != events[i];
                events[i] = left;
            }
        }
        progress |= run->n_tasks > 0;
        any |= progress;
        run_tasks(run);
        retired_disown(run);
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
size_t
conns_drain(struct conn_run *run, struct conn **conns, size_t n)
{
    size_t n_waiting = 0;

    for (size_t i = 0; i < n; i += CT_OFFLOAD_BATCH_INLINE) {
        size_t left = MIN(n - i, CT_OFFLOAD_BATCH_INLINE);
        bool progress;

        do {
            progress = conns_run(run, &conns[i], left);
            left = conns_disown(&conns[i], left);
        } while (left && progress);
        memmove(&conns[n_waiting], &conns[i], left * sizeof *conns);
        n_waiting += left;
    }
    return n_waiting;
}

/* The same, but what has to wait is left to the next packets. */
void
conns_drain_all(struct conn_run *run, struct conn **conns,
                size_t n)
{
    while ((n = conns_drain(run, conns, n))) {
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
