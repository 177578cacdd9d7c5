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

#ifndef CT_OFFLOAD_TRACE_H
#define CT_OFFLOAD_TRACE_H 1

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "compiler.h"
#include "openvswitch/types.h"
#include "ovs-thread.h"

struct conn;
struct conntrack;
struct dp_netdev_flow;
struct dp_packet;
struct dp_packet_batch;
struct flow;
struct netdev;
struct nlattr;

/* Which way a packet goes
 * =======================
 *
 * To have hardware forward the packets of a connection, one has to know which
 * megaflows and which connections a packet of it meets.  So one packet in each
 * direction is traced: while it goes through the datapath, its thread notes
 * what it meets.
 *
 * conntrack-offload.c begins a trace when a connection waits for one.  The
 * number of the trace is in the packet's metadata, 'md.ct_trace'.  From then
 * on ct_trace_enter(), for each megaflow that packets are about to meet, and
 * ct_trace_ct(), after each ct(), note what they have to do with the packet.
 *
 * The first megaflow has begun before the trace.  It is the one that executes
 * the ct() which began the trace, but only ct_trace_leave() proves it: the
 * actions may have been those of an upcall, or a packet-out, with no megaflow
 * behind them.  When the first megaflow ends, all that it led to has ended:
 * the trace is complete.  Others are abandoned, and a later packet is traced:
 * nothing outlives the burst of packets.
 *
 * Packets that come out of a tunnel meet their first ct() within a megaflow
 * that the one which has taken them out of it leads to.  The latter is the
 * outermost of the burst, and becomes the first one of the trace when it ends.
 *
 * A connection can be met after other ct() actions that find none, or none
 * that waits.  Its trace begins too late then.  But it knows what the packet
 * was like when it was received (see ct-offload-wire.h): that is looked out
 * for, and the next such packet is traced from its first ct() on.
 *
 * All functions are for the thread that processes the packets.  Where no
 * packet is traced they cost a comparison. */

/* The most that a trace can have of them. */
#define CT_TRACE_MAX_FLOWS 8
#define CT_TRACE_MAX_CTS 6

/* The most traces of a thread at once. */
#define CT_TRACE_MAX 8

/* What happens to traces. */
enum ct_trace_result {
    CT_TRACE_COMPLETE,
    CT_TRACE_TOO_LONG,          /* Too many megaflows or ct() actions. */
    CT_TRACE_UPCALL,            /* Not all was done by megaflows. */
    CT_TRACE_LATE,              /* Began after the first ct(). */
    CT_TRACE_NEW,               /* A ct() committed a connection, or would
                                 * have. */
    CT_TRACE_INVALID,           /* A ct() found the packet invalid, related to
                                 * a connection, or changed by a helper. */
    CT_TRACE_BUSY,              /* Another thread does something about one of
                                 * the connections. */
    CT_TRACE_QUEUE,             /* An offload thread has too much to do. */
    CT_TRACE_N_RESULTS
};

/* A ct() that a packet has met. */
struct ct_trace_ct {
    const struct flow *at;      /* 'flow' of what executed it. */
    struct conn *conn;          /* NULL if it found nothing. */
    uint16_t zone;
    bool reply;
};

/* Returns the netdev of a port that packets leave by, in the thread that 'aux'
 * is of, or NULL. */
typedef struct netdev *ct_trace_get_netdev_func(const void *aux, odp_port_t);

struct ct_trace {
    enum ct_trace_result result; /* CT_TRACE_COMPLETE while all is well. */
    struct dp_netdev_flow *flows[CT_TRACE_MAX_FLOWS];
    size_t n_flows;
    struct ct_trace_ct cts[CT_TRACE_MAX_CTS];
    size_t n_cts;
    struct conntrack *ct;
    struct conn *conn;          /* That has waited for it, or NULL... */
    uint32_t await;             /* ...with this bit in its state. */
    uint32_t wire;              /* See ct-offload-wire.h, or 0. */
    uint32_t rss_hash;          /* It had that... */
    size_t rss_since;           /* ...when it met this megaflow, or later. */
    ct_trace_get_netdev_func *get_netdev; /* Once it is complete... */
    const void *aux;                      /* ...with this. */
    bool tunnelled;             /* The first megaflow is still to be found. */
    bool in_use;
};

/* Number of traces of this thread, and of packets that it looks out for. */
DECLARE_EXTERN_PER_THREAD_DATA(unsigned int, ct_trace_n);

void ct_trace_begin(const struct dp_packet *, struct conn *, uint32_t await);
void ct_trace_enter__(struct dp_netdev_flow *, const struct dp_packet_batch *,
                      uint32_t recirc_depth);
void ct_trace_leave__(struct dp_netdev_flow *, const struct flow *,
                      uint32_t recirc_depth, ct_trace_get_netdev_func *,
                      const void *aux);
void ct_trace_abandon__(void);
void ct_trace_committed__(const struct dp_packet *);
void ct_trace_ct__(const struct dp_packet_batch *, struct conntrack *,
                   const struct flow *at, bool commit);

/* The packets in 'batch' are about to meet 'flow'.  'recirc_depth' says how
 * often they were recirculated within the present burst. */
static inline void
ct_trace_enter(struct dp_netdev_flow *flow,
               const struct dp_packet_batch *batch, uint32_t recirc_depth)
{
    if (OVS_UNLIKELY(*ct_trace_n_get())) {
        ct_trace_enter__(flow, batch, recirc_depth);
    }
}

/* The actions of 'flow', with key 'key', were executed, and all that they led
 * to.  'get_netdev' with 'aux' tells which ports packets leave by. */
static inline void
ct_trace_leave(struct dp_netdev_flow *flow, const struct flow *key,
               uint32_t recirc_depth, ct_trace_get_netdev_func *get_netdev,
               const void *aux)
{
    if (OVS_UNLIKELY(*ct_trace_n_get())) {
        ct_trace_leave__(flow, key, recirc_depth, get_netdev, aux);
    }
}

/* The actions of something that is no megaflow were executed, not within those
 * of a megaflow, and all that they led to. */
static inline void
ct_trace_abandon(void)
{
    if (OVS_UNLIKELY(*ct_trace_n_get())) {
        ct_trace_abandon__();
    }
}

/* A connection is about to be committed for 'pkt'. */
static inline void
ct_trace_committed(const struct dp_packet *pkt)
{
    if (OVS_UNLIKELY(*ct_trace_n_get())) {
        ct_trace_committed__(pkt);
    }
}

/* ct(), in the actions of the megaflow with key 'at' or of something else, has
 * been executed for 'batch', by 'ct'. */
static inline void
ct_trace_ct(const struct dp_packet_batch *batch, struct conntrack *ct,
            const struct flow *at, bool commit)
{
    if (OVS_UNLIKELY(*ct_trace_n_get())) {
        ct_trace_ct__(batch, ct, at, commit);
    }
}

/* At initialisation: 'complete' is called with each trace that is complete,
 * which is its to use until it returns; it returns what has become of it. */
void ct_trace_set_complete(
    enum ct_trace_result (*complete)(struct ct_trace *));

/* In dpif-netdev.c: for a PMD thread. */
struct netdev *dp_netdev_pmd_get_netdev(const void *pmd, odp_port_t);

const char *ct_trace_result_to_string(enum ct_trace_result);
unsigned long long int ct_trace_count(enum ct_trace_result);

#endif /* ct-offload-trace.h */
