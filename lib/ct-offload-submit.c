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

#include "ct-offload.h"

#include <errno.h>

#include "conntrack-offload.h"
#include "conntrack-offload-batch.h"
#include "ct-offload-port.h"
#include "ct-offload-private.h"
#include "util.h"

/* Operations from outside
 * =======================
 *
 * conntrack's own operations are raised in conntrack-offload.c.  The functions
 * here are for others: they raise the same events, but do what is pending at
 * once, in the calling thread, and tell what came of it.  No lock may be held,
 * nor may they be called in a provider's callback. */

/* Waits until every thread has told the providers all that it knew when this
 * was called.  The caller must not hold any lock, or a pointer that is
 * protected by RCU. */
void
ct_offload_barrier(void)
{
    conn_batches_barrier(true);
}

/* Takes every connection from every provider, and has the providers drop what
 * is left.  Waits for offload threads and others that are calling providers,
 * but does not quiesce.  The caller must have made sure that no connection is
 * offered meanwhile: 'flush' of a provider would drop it, too. */
void
ct_offload_flush(void)
{
    struct ct_offload_task task = { .op.type = CT_OFFLOAD_OP_FLUSH };

    conntrack_offload_evict(0);
    conn_batches_barrier(false);
    ct_offload_dispatch(&task, 1);
}

/* Makes what 'op', an ADD or EST, says of its direction known of its
 * connection.  If the calling thread owns that, as 'owned' tells, then also if
 * something else was known, unless a provider was told that before.  Returns 0
 * or a positive errno value. */
static int
op_note_side(const struct ct_offload_op *op, bool owned)
{
    struct conn *conn = CONST_CAST(struct conn *, op->ctx.conn);
    struct conn_offload *offload = conn_get_offload(conn);
    uint32_t state = conn_offload_state(conn);
    bool add = op->type == CT_OFFLOAD_OP_ADD;
    enum key_dir dir = add ? CT_DIR_FWD : CT_DIR_REV;

    if (add && !offload) {
        if (state & CONN_OFFLOAD_GONE) {
            return EOPNOTSUPP;
        }
        offload = conn_alloc_offload(conn);
        if (!offload) {
            return ENOSPC;
        }
    }
    if (add) {
        /* Whoever has attached the block may not have got to it yet. */
        conntrack_offload_find(conn, offload);
    }
    if (offload) {
        if (owned && !(add ? state_held(state) : state_est(state))) {
            conn_side_clear(offload, dir);
        }
        conn_side_set(offload, dir, ct_offload_port_get(op->ctx.netdev_in),
                      &op->ctx);
    }
    return 0;
}

/* Returns the events that 'op' raises, of a connection that the calling thread
 * owns if 'owned'. */
static uint32_t
op_events(const struct ct_offload_op *op, bool owned)
{
    switch (op->type) {
    case CT_OFFLOAD_OP_ADD:
        /* Whoever takes it now has to know of the reply, too. */
        return (CONN_OFFLOAD_PENDING_ADD
                | (owned && conn_side_is_known(conn_get_offload(op->ctx.conn),
                                               CT_DIR_REV)
                   ? CONN_OFFLOAD_PENDING_EST : 0));
    case CT_OFFLOAD_OP_EST:
        return CONN_OFFLOAD_PENDING_EST;
    case CT_OFFLOAD_OP_UPD:
        return CONN_OFFLOAD_PENDING_UPD;
    case CT_OFFLOAD_OP_DEL:
        return CONN_OFFLOAD_PENDING_DEL;
    case CT_OFFLOAD_OP_POLICY:
    case CT_OFFLOAD_OP_FLUSH:
    default:
        return 0;
    }
}

/* Does what was raised with 'batch'. */
static void
submit_run(struct conn_offload_batch *batch)
{
    conn_batch_drain(batch);
    batch->run.n_wanted = 0;
}

/* Raises the events of 'op', to be done with 'batch', which has 'op' get its
 * result.  If the connection has another owner, that one does it, and there is
 * no result. */
static void
submit_raise(struct conn_offload_batch *batch, struct ct_offload_op *op)
{
    struct conn *conn = CONST_CAST(struct conn *, op->ctx.conn);
    bool add = op->type == CT_OFFLOAD_OP_ADD;
    bool est = op->type == CT_OFFLOAD_OP_EST;
    struct conn_offload *offload;
    bool owned = conn_own(conn, 0);
    bool was_owned;

    if (!owned && batch->conns.n) {
        /* The owner may be this thread, because of an earlier operation. */
        submit_run(batch);
        owned = conn_own(conn, 0);
    }
    do {
        int error = add || est ? op_note_side(op, owned) : 0;

        if (error) {
            op->error = error;
            if (owned) {
                conns_push(&batch->conns, conn);
            }
            return;
        }
        was_owned = owned;
        offload = conn_get_offload(conn);
        owned |= conn_raise(conn, op_events(op, owned),
                            est ? CONN_OFFLOAD_AWAIT_REPLY : 0,
                            add ? conn_await_reply(conn) : 0);

        /* An ADD is done with the block that the owner finds: if the previous
         * owner has just released that one, try again. */
    } while (add && (owned ? !was_owned
                     : !offload || conn_get_offload(conn) != offload));

    if (owned) {
        conns_push(&batch->conns, conn);
        batch->run.wanted[batch->run.n_wanted++] = op;
        op->error = add ? EINPROGRESS : op->error;
        if (batch->run.n_wanted >= ARRAY_SIZE(batch->run.wanted)) {
            submit_run(batch);
        }
    } else if (!state_is_over(conn_offload_state(conn))) {
        op->error = EINPROGRESS;
    } else if (add) {
        op->error = EOPNOTSUPP;
    }
}

/* Does the 'n' operations in 'ops', in order. */
static void
submit(struct ct_offload_op *ops, size_t n)
{
    struct conn_offload_batch *batch = conn_batch_enter();

    for (size_t i = 0; i < n; i++) {
        struct ct_offload_op *op = &ops[i];

        ct_offload_op_preset(op);
        switch (op->type) {
        case CT_OFFLOAD_OP_ADD:
            if (!ct_offload_is_accepting()) {
                break;          /* Nobody to offer it to, which is no error. */
            }
            /* Fall through. */
        case CT_OFFLOAD_OP_DEL:
        case CT_OFFLOAD_OP_UPD:
        case CT_OFFLOAD_OP_EST:
            submit_raise(batch, op);
            break;
        case CT_OFFLOAD_OP_POLICY: {
            struct ct_offload_task task = { .op = *op };

            ct_offload_dispatch(&task, 1);
            op->error = task.op.error;
            break;
        }
        case CT_OFFLOAD_OP_FLUSH:
            submit_run(batch);
            conn_batch_leave(batch);
            ct_offload_flush();
            batch = conn_batch_enter();
            break;
        default:
            break;
        }
    }
    submit_run(batch);
    conn_batch_leave(batch);
}

/* Does all operations in 'batch', in order, and stores the result of each in
 * it: what it would have been if it had been done alone.  If another thread is
 * calling providers for a connection just now, it will do the operation as
 * well; 'error' is EINPROGRESS then. */
void
ct_offload_op_batch_submit(struct ct_offload_op_batch *batch)
{
    submit(batch->ops, batch->n_ops);
}

static int
submit_one(enum ct_offload_op_type type, const struct ct_offload_ctx *ctx,
           long long int *last_used)
{
    struct ct_offload_op op = { .type = type, .ctx = *ctx };

    submit(&op, 1);
    if (last_used) {
        *last_used = op.last_used;
    }
    return op.error;
}

/* Offers the connection of 'ctx' to every provider whose 'can_offload' accepts
 * it.  Returns 0 if there was no error, or the first error of any provider; or
 * EOPNOTSUPP if the connection must stay in software, or EINPROGRESS if
 * another thread will do it. */
int
ct_offload_conn_add(const struct ct_offload_ctx *ctx)
{
    return submit_one(CT_OFFLOAD_OP_ADD, ctx, NULL);
}

/* Takes the connection of 'ctx' from every provider that holds it.  Where
 * packets may have bypassed software, asks first when it was last used, as it
 * goes on in software. */
void
ct_offload_conn_del(const struct ct_offload_ctx *ctx)
{
    submit_one(CT_OFFLOAD_OP_DEL, ctx, NULL);
}

/* Returns the newest time, as time_msec() counts, at which any provider that
 * holds the connection of 'ctx' has seen it used, or 0 if none knows. */
long long int
ct_offload_conn_update(const struct ct_offload_ctx *ctx)
{
    long long int last_used;

    submit_one(CT_OFFLOAD_OP_UPD, ctx, &last_used);
    return last_used;
}

/* Tells every provider that holds the connection of 'ctx', and does not know
 * yet, that it is established. */
void
ct_offload_conn_established(const struct ct_offload_ctx *ctx)
{
    submit_one(CT_OFFLOAD_OP_EST, ctx, NULL);
}

/* Returns true if any provider would take the connection of 'ctx'. */
bool
ct_offload_can_offload(const struct ct_offload_ctx *ctx)
{
    return !submit_one(CT_OFFLOAD_OP_POLICY, ctx, NULL);
}
