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

#include "conntrack-offload.h"
#include "ct-offload-private.h"
#include "util.h"

/* Operations from outside
 * =======================
 *
 * conntrack's own operations are raised in conntrack-offload.c.  The functions
 * here are for others: they do single operations, or batches of them, at once,
 * and tell what came of it.  Order between operations on a connection, and
 * between connections, is kept as for those from conntrack. */

/* Waits until every thread has told the providers all that it knew when this
 * was called.  The caller must not hold any lock, or a pointer that is
 * protected by RCU. */
void
ct_offload_barrier(void)
{
    conntrack_offload_barrier(true);
}

static bool
op_has_conn(const struct ct_offload_op *op)
{
    switch (op->type) {
    case CT_OFFLOAD_OP_ADD:
    case CT_OFFLOAD_OP_DEL:
    case CT_OFFLOAD_OP_UPD:
    case CT_OFFLOAD_OP_EST:
        return true;
    case CT_OFFLOAD_OP_POLICY:
    case CT_OFFLOAD_OP_FLUSH:
    default:
        return false;
    }
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
    conntrack_offload_barrier(false);
    ct_offload_dispatch(&task, 1);
}

/* Does the 'n' tasks in 'tasks', all of which can be dispatched. */
static void
submit_run(struct ct_offload_task *tasks, size_t n)
{
    if (n) {
        ct_offload_dispatch(tasks, n);
        for (size_t i = 0; i < n; i++) {
            if (op_has_conn(&tasks[i].op)) {
                conntrack_offload_release(&tasks[i]);
            }
        }
    }
}

/* Does the 'n' operations in 'tasks', in order. */
static void
submit(struct ct_offload_task *tasks, size_t n)
{
    size_t start = 0;

    conntrack_offload_enter();

    /* Operations are dispatched in runs, tasks[start] to tasks[i - 1], in
     * which no connection occurs twice: a connection that cannot be owned may
     * be owned by this thread, for the sake of the run. */
    for (size_t i = 0; i < n; i++) {
        struct ct_offload_task *t = &tasks[i];

        ct_offload_op_preset(&t->op);
        if (t->op.type == CT_OFFLOAD_OP_FLUSH) {
            submit_run(&tasks[start], i - start);
            start = i + 1;
            conntrack_offload_leave();
            ct_offload_flush();
            conntrack_offload_enter();
        } else if (op_has_conn(&t->op)) {
            bool owned = conntrack_offload_own(t, i == start);

            if (!owned && i > start) {
                submit_run(&tasks[start], i - start);
                start = i;
                ct_offload_op_preset(&t->op);
                owned = conntrack_offload_own(t, true);
            }
            start += !owned;
        }
    }
    submit_run(&tasks[start], n - start);
    conntrack_offload_leave();
}

/* Does all operations in 'batch', in order, and stores the result of each in
 * it: what it would have been if it had been done alone.  If another thread is
 * calling providers for a connection just now, it will do the operation as
 * well; 'error' is EINPROGRESS then. */
void
ct_offload_op_batch_submit(struct ct_offload_op_batch *batch)
{
    struct ct_offload_task *tasks = xcalloc(batch->n_ops, sizeof *tasks);
    struct ct_offload_op *op;

    CT_OFFLOAD_BATCH_OP_FOR_EACH (i, op, batch) {
        tasks[i].op = *op;
    }
    submit(tasks, batch->n_ops);
    CT_OFFLOAD_BATCH_OP_FOR_EACH (i, op, batch) {
        *op = tasks[i].op;
    }
    free(tasks);
}

static int
submit_one(enum ct_offload_op_type type, const struct ct_offload_ctx *ctx,
           long long int *last_used)
{
    struct ct_offload_task task = { .op.type = type, .op.ctx = *ctx };

    submit(&task, 1);
    if (last_used) {
        *last_used = task.op.last_used;
    }
    return task.op.error;
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

/* Takes the connection of 'ctx' from every provider that holds it. */
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
