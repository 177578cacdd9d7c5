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

#include "ct-offload-trace.h"

#include <limits.h>
#include <string.h>

#include "conntrack-offload-state.h"
#include "coverage.h"
#include "dp-packet.h"
#include "flow.h"
#include "ovs-atomic.h"
#include "packets.h"
#include "timeval.h"
#include "util.h"

COVERAGE_DEFINE(ct_path_trace);
COVERAGE_DEFINE(ct_path_trace_abandon);

DEFINE_EXTERN_PER_THREAD_DATA(ct_trace_n, 0);

/* Packets are looked out for in no more than so many batches, or, if others
 * are to be looked out for, for so long, in ms. */
#define LOOKOUT_BATCHES 4096
#define LOOKOUT_INTERVAL 100

/* A packet that is to be traced from its first ct() on. */
struct lookout {
    uint32_t wire;              /* See ct-offload-wire.h; 0 if unused. */
    unsigned int left;          /* Batches. */
    long long int since;        /* In ms; lower than others if unused. */
};

/* Trace number N of this thread is slots[N - 1]. */
struct slots {
    struct ct_trace slots[CT_TRACE_MAX];
    struct lookout lookouts[CT_TRACE_MAX];
};
DEFINE_STATIC_PER_THREAD_DATA(struct slots, slots, { .slots = { { 0 } } });

/* See ct_trace_set_complete(). */
static enum ct_trace_result (*complete_cb)(struct ct_trace *);

/* Written for one packet in each direction of a connection only. */
static atomic_ullong n_results[CT_TRACE_N_RESULTS];

void
ct_trace_set_complete(enum ct_trace_result (*complete)(struct ct_trace *))
{
    complete_cb = complete;
}

/* Returns what "ct-offload/show" calls 'result'. */
const char *
ct_trace_result_to_string(enum ct_trace_result result)
{
    static const char *names[CT_TRACE_N_RESULTS] = {
        [CT_TRACE_COMPLETE] = "complete",
        [CT_TRACE_TOO_LONG] = "too long",
        [CT_TRACE_UPCALL] = "upcall",
        [CT_TRACE_LATE] = "late",
        [CT_TRACE_NEW] = "new connection",
        [CT_TRACE_INVALID] = "invalid",
        [CT_TRACE_BUSY] = "busy",
        [CT_TRACE_QUEUE] = "queue full",
    };

    return names[result];
}

/* Returns how many traces have had 'result'. */
unsigned long long int
ct_trace_count(enum ct_trace_result result)
{
    unsigned long long int n;

    atomic_read_relaxed(&n_results[result], &n);
    return n;
}

static void
lookout_end(struct lookout *lookout)
{
    lookout->wire = 0;
    lookout->since = LLONG_MIN;
    *ct_trace_n_get() -= 1;
}

/* Looks out for packets that were like 'wire' when they were received.  Not if
 * that is not known, or there is too much to look out for. */
static void
lookout_begin(struct slots *s, uint32_t wire)
{
    struct lookout *lookout = &s->lookouts[0];
    long long int now = time_msec();

    if (!wire) {
        return;
    }
    for (size_t i = 0; i < CT_TRACE_MAX; i++) {
        if (s->lookouts[i].wire == wire) {
            return;
        } else if (s->lookouts[i].since < lookout->since) {
            lookout = &s->lookouts[i];
        }
    }
    if (lookout->wire) {
        if (now - lookout->since < LOOKOUT_INTERVAL) {
            return;
        }
        lookout_end(lookout);   /* There may be no such packets any more. */
    }
    lookout->wire = wire;
    lookout->left = LOOKOUT_BATCHES;
    lookout->since = now;
    *ct_trace_n_get() += 1;
}

/* Could the next packet do better than 'trace' did? */
static bool
trace_is_worth_another(const struct ct_trace *trace)
{
    return (trace->result == CT_TRACE_UPCALL
            || trace->result == CT_TRACE_BUSY);
}

/* Ends 'trace'.  Its connection waits for none any more, unless the next
 * packet may do better. */
static void
trace_end(struct ct_trace *trace)
{
    unsigned long long int orig;

    if (trace->conn && !trace_is_worth_another(trace)) {
        conn_set_state(trace->conn, trace->await, 0);
    }
    if (trace->result == CT_TRACE_COMPLETE) {
        trace->result = complete_cb ? complete_cb(trace) : CT_TRACE_QUEUE;
        if (trace->conn && trace_is_worth_another(trace)) {
            conn_set_state(trace->conn, 0, trace->await);
        }
    }
    if (trace->result == CT_TRACE_LATE
        || (!trace->conn && trace_is_worth_another(trace))) {
        lookout_begin(slots_get(), trace->wire);
    }
    if (trace->result == CT_TRACE_COMPLETE) {
        COVERAGE_INC(ct_path_trace);
    } else {
        COVERAGE_INC(ct_path_trace_abandon);
    }
    atomic_add_relaxed(&n_results[trace->result], 1, &orig);
    trace->in_use = false;
    *ct_trace_n_get() -= 1;
}

/* Abandons all traces of this thread.  Their connections may be gone. */
void
ct_trace_abandon__(void)
{
    struct slots *s = slots_get();

    for (size_t i = 0; i < CT_TRACE_MAX; i++) {
        if (s->slots[i].in_use) {
            s->slots[i].result = CT_TRACE_UPCALL;
            trace_end(&s->slots[i]);
        }
    }
}

/* Returns the trace of 'pkt' if its result is 'result', or NULL. */
static struct ct_trace *
packet_get_trace__(const struct dp_packet *pkt, enum ct_trace_result result)
{
    struct ct_trace *trace;

    if (!pkt->md.ct_trace) {
        return NULL;
    }
    trace = &slots_get()->slots[pkt->md.ct_trace - 1];
    return trace->in_use && trace->result == result ? trace : NULL;
}

/* Returns the trace of 'pkt', while all is well, or NULL. */
static struct ct_trace *
packet_get_trace(const struct dp_packet *pkt)
{
    return packet_get_trace__(pkt, CT_TRACE_COMPLETE);
}

/* Notes in 'trace' the RSS hash of 'pkt', which is at megaflow number 'flow'.
 */
static void
trace_rss(struct ct_trace *trace, const struct dp_packet *pkt, size_t flow)
{
    if (flow < trace->rss_since && dp_packet_rss_valid(pkt)) {
        trace->rss_hash = dp_packet_get_rss_hash(pkt);
        trace->rss_since = flow;
    }
}

/* Has 'pkt' traced, which is in a ct() now, for 'conn', which may be NULL, and
 * its bit 'await'.  Returns the trace, or NULL if there are too many. */
static struct ct_trace *
trace_begin(struct slots *s, const struct dp_packet *pkt, struct conn *conn,
            uint32_t await)
{
    struct ct_trace *trace = NULL;

    for (size_t i = 0; i < CT_TRACE_MAX; i++) {
        if (!s->slots[i].in_use) {
            trace = &s->slots[i];
        }
    }
    if (!trace) {
        return NULL;
    }
    memset(trace, 0, sizeof *trace);
    trace->in_use = true;
    trace->wire = pkt->md.ct_wire;
    trace->conn = conn;
    trace->await = await;
    trace->n_flows = 1;                 /* It is found by ct_trace_leave(). */
    trace->rss_since = CT_TRACE_MAX_FLOWS;
    trace_rss(trace, pkt, 0);
    *ct_trace_n_get() += 1;
    CONST_CAST(struct dp_packet *, pkt)->md.ct_trace = trace - s->slots + 1;
    return trace;
}

/* Has 'pkt', which is in a ct() now, traced for 'conn', which waits for that
 * with the bit 'await' in its state.  Not if it is traced already, or another
 * packet for 'conn', or too many are. */
void
ct_trace_begin(const struct dp_packet *pkt, struct conn *conn, uint32_t await)
{
    struct slots *s = slots_get();

    if (packet_get_trace(pkt)) {
        return;
    }
    if (packet_get_trace__(pkt, CT_TRACE_TOO_LONG)) {
        conn_set_state(conn, await, 0); /* See note_too_long(). */
        return;
    }
    for (size_t i = 0; i < CT_TRACE_MAX; i++) {
        const struct ct_trace *slot = &s->slots[i];

        if (slot->in_use && slot->conn == conn && slot->await == await) {
            return;
        }
    }
    trace_begin(s, pkt, conn, await);
}

void
ct_trace_enter__(struct dp_netdev_flow *flow,
                 const struct dp_packet_batch *batch, uint32_t recirc_depth)
{
    struct dp_packet *pkt;

    if (!recirc_depth) {
        /* These are left from what had no megaflow. */
        ct_trace_abandon__();
        return;
    }
    DP_PACKET_BATCH_FOR_EACH (i, pkt, batch) {
        struct ct_trace *trace = packet_get_trace(pkt);

        if (!trace) {
            continue;
        }
        if (trace->n_flows >= CT_TRACE_MAX_FLOWS) {
            trace->result = CT_TRACE_TOO_LONG;
        } else {
            trace_rss(trace, pkt, trace->n_flows);
            trace->flows[trace->n_flows++] = flow;
        }
    }
}

/* 'trace', which knows the megaflow that packets met first when they came out
 * of a tunnel, was within 'flow', which took them out. */
static void
trace_prepend(struct ct_trace *trace, struct dp_netdev_flow *flow)
{
    if (trace->n_flows >= CT_TRACE_MAX_FLOWS) {
        trace->result = CT_TRACE_TOO_LONG;
        return;
    }
    memmove(&trace->flows[1], &trace->flows[0],
            trace->n_flows * sizeof trace->flows[0]);
    trace->flows[0] = flow;
    trace->n_flows++;
    trace->rss_since++;
}

void
ct_trace_leave__(struct dp_netdev_flow *flow, const struct flow *key,
                 uint32_t recirc_depth, ct_trace_get_netdev_func *get_netdev,
                 const void *aux)
{
    struct slots *s = slots_get();

    for (size_t i = 0; i < CT_TRACE_MAX; i++) {
        struct ct_trace *trace = &s->slots[i];

        if (!trace->in_use) {
            continue;
        }
        if (trace->tunnelled && !recirc_depth) {
            trace_prepend(trace, flow);
        } else if (trace->n_cts && trace->cts[0].at == key) {
            trace->flows[0] = flow;
            /* Only tnl_pop() begins anew within another megaflow. */
            trace->tunnelled = recirc_depth == 1 && !key->recirc_id;
            if (trace->tunnelled) {
                continue;
            }
        } else {
            continue;
        }
        trace->get_netdev = get_netdev;
        trace->aux = aux;
        trace_end(trace);
    }
    if (!recirc_depth) {
        ct_trace_abandon__();
    }
}

/* A connection is about to be committed for 'pkt'. */
void
ct_trace_committed__(const struct dp_packet *pkt)
{
    struct ct_trace *trace = packet_get_trace(pkt);

    if (trace) {
        trace->result = CT_TRACE_NEW;
    }
}

/* 'ct' was executed for 'pkt': notes that in 'trace'. */
static void
trace_ct(struct ct_trace *trace, const struct dp_packet *pkt,
         struct conntrack *ct, const struct flow *at, bool commit)
{
    uint8_t state = pkt->md.ct_state;
    struct ct_trace_ct *stage;

    if (trace->n_cts >= CT_TRACE_MAX_CTS) {
        trace->result = CT_TRACE_TOO_LONG;
        return;
    }
    stage = &trace->cts[trace->n_cts++];
    stage->at = at;             /* Whatever it was: see ct_trace_leave__(). */
    if (!(state & CS_TRACKED) || state & (CS_INVALID | CS_RELATED)) {
        trace->result = CT_TRACE_INVALID;
        return;
    }
    stage->zone = pkt->md.ct_zone;
    stage->reply = (state & CS_REPLY_DIR) != 0;
    stage->conn = conntrack_find_traced(ct, pkt);
    trace->ct = ct;
    if (!stage->conn && state & CS_ESTABLISHED) {
        trace->result = CT_TRACE_BUSY;  /* It was removed just now. */
    } else if (!stage->conn && commit) {
        trace->result = CT_TRACE_NEW;   /* There is no room for it. */
    }
}

/* 'ct' was executed for 'pkt', which goes through more than a trace can have:
 * tells the connection that it has found. */
static void
note_too_long(struct conntrack *ct, const struct dp_packet *pkt)
{
    struct conn *conn = conntrack_find_traced(ct, pkt);

    if (conn) {
        conn_note_path(conn, (pkt->md.ct_state & CS_REPLY_DIR) != 0,
                       CONN_PATH_TOO_LONG);
    }
}

/* The packets in 'batch' have been received and are in their first ct():
 * begins to trace those that are looked out for. */
static void
lookouts_check(struct slots *s, const struct dp_packet_batch *batch)
{
    for (size_t i = 0; i < CT_TRACE_MAX; i++) {
        struct lookout *lookout = &s->lookouts[i];
        struct dp_packet *pkt;

        if (!lookout->wire) {
            continue;
        }
        DP_PACKET_BATCH_FOR_EACH (j, pkt, batch) {
            if (pkt->md.ct_wire == lookout->wire) {
                if (packet_get_trace(pkt) || trace_begin(s, pkt, NULL, 0)) {
                    lookout->left = 1;
                }
                break;
            }
        }
        if (!--lookout->left) {
            lookout_end(lookout);
        }
    }
}

void
ct_trace_ct__(const struct dp_packet_batch *batch, struct conntrack *ct,
              const struct flow *at, bool commit)
{
    struct dp_packet *pkt;

    if (!at->recirc_id) {
        lookouts_check(slots_get(), batch);
    }

    DP_PACKET_BATCH_FOR_EACH (i, pkt, batch) {
        struct ct_trace *trace = packet_get_trace(pkt);

        if (trace) {
            trace_ct(trace, pkt, ct, at, commit);
        }
        if (packet_get_trace__(pkt, CT_TRACE_TOO_LONG)) {
            note_too_long(ct, pkt);
        }
    }
}
