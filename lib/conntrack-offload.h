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

#ifndef CONNTRACK_OFFLOAD_H
#define CONNTRACK_OFFLOAD_H 1

#include "conntrack-offload-state.h"
#include "conntrack-private.h"
#include "ct-offload.h"
#include "dp-packet.h"
#include "ovs-thread.h"
#include "packets.h"

/* The life of a connection in hardware
 * ====================================
 *
 * conntrack.c calls the functions below where something happens to a
 * connection; conntrack-offload.c turns that into operations for the
 * providers of ct-offload.h.  The state word of a connection, which decides
 * who calls them, is explained in conntrack-offload-state.h; what becomes of
 * what is raised, in conntrack-offload-run.h.
 *
 *     committed    ADD for providers that want any connection.  It has an
 *                  owner before any other thread can find it: the thread that
 *                  commits it.
 *     packet seen  what a direction looks like is learned: EST with the first
 *                  valid reply; ADD and EST for providers that want
 *                  established connections only.
 *     FIN, RST, change of mark or labels: taken back into software, for good
 *                  or until a later sweep.
 *     forced to expire, removed: DEL.
 *     sweep        asks about connections the packets of which may bypass
 *                  software; has what is in software offered again, and what
 *                  is held looked at again, with the next packets: so work is
 *                  bounded by the sweeps.
 *
 * Each thread collects what it raises in a batch (see
 * conntrack-offload-batch.h), until the end of conntrack_execute(), when no
 * lock is held and the mark and labels that the commit sets are in place.
 *
 * Expiration
 * ==========
 *
 * Where software sees every packet of a connection, its time is up as without
 * offload: look-ups do not find it any more, and the sweep removes it, upon
 * which providers hear DEL.
 *
 * Where packets may bypass software, a connection is alive past that time.
 * The sweep has the provider asked when it was last used, and if that is too
 * long ago the connection is taken from hardware, so that the next packet
 * comes to software, and the next sweep removes it.  Its expiration is
 * otherwise what it would have been, had software seen that packet. */

struct conn_offload_batch;

/* Has the calling thread raised something since conntrack_offload_begin(),
 * which has returned NULL because there was no provider? */
DECLARE_EXTERN_PER_THREAD_DATA(bool, conntrack_offload_late);

struct conn_offload_batch *conntrack_offload_begin__(struct netdev *);
void conntrack_offload_end__(struct conn_offload_batch *);
void conntrack_offload_conn_init__(struct conntrack *, struct conn *,
                                   const struct dp_packet *);
void conntrack_offload_conn_committed__(const struct conn *);
void conntrack_offload_conn_uninit__(struct conn *);
void conntrack_offload_conn_seen__(struct conntrack *, struct conn *,
                                   const struct dp_packet *, const bool *reply,
                                   enum ct_update_res);
void conntrack_offload_conn_changed__(struct conn *);
void conntrack_offload_conn_forced__(struct conn *);
void conntrack_offload_sweep_conn__(struct conn_offload_batch *,
                                    struct conntrack *, struct conn *,
                                    long long int now);
void conntrack_offload_sweep_end__(struct conn_offload_batch *);

/* Calls from conntrack.c. */

void conntrack_offload_init(struct conntrack *);
void conntrack_offload_destroy(struct conntrack *);
void conntrack_offload_conn_removing(struct conn *);
void conntrack_offload_conn_postpone(void (*delete)(struct conn *),
                                     struct conn *);
uint32_t conntrack_offload_conn_status(const struct conn *);

/* At the start of conntrack_execute(): the packets came from 'netdev_in',
 * which may be NULL.  Also, with NULL, where many connections are about to be
 * removed.  The caller must pass what this returns to conntrack_offload_end()
 * and must not quiesce in between. */
static inline struct conn_offload_batch *
conntrack_offload_begin(struct netdev *netdev_in)
{
    return OVS_UNLIKELY(ct_offload_is_active())
           ? conntrack_offload_begin__(netdev_in) : NULL;
}

/* Tells the providers what happened since conntrack_offload_begin().  No lock
 * may be held.  (Providers may have come and gone since.) */
static inline void
conntrack_offload_end(struct conn_offload_batch *batch)
{
    if (OVS_UNLIKELY(batch || *conntrack_offload_late_get())) {
        conntrack_offload_end__(batch);
    }
}

/* 'conn' was just allocated for 'pkt', has its keys, and is going to be
 * committed to 'ct': no other thread can see it yet.  May be called with locks
 * held. */
static inline void
conntrack_offload_conn_init(struct conntrack *ct, struct conn *conn,
                            const struct dp_packet *pkt)
{
    if (OVS_UNLIKELY(ct_offload_is_active())) {
        conntrack_offload_conn_init__(ct, conn, pkt);
    }
}

/* 'conn' was committed, and can be found from now on.  'ct_lock' is held. */
static inline void
conntrack_offload_conn_committed(const struct conn *conn)
{
    if (OVS_UNLIKELY(ct_offload_is_active())) {
        conntrack_offload_conn_committed__(conn);
    }
}

/* 'conn' is about to be freed, and no other thread can see it any more. */
static inline void
conntrack_offload_conn_uninit(struct conn *conn)
{
    if (OVS_UNLIKELY(conn_get_offload(conn))) {
        conntrack_offload_conn_uninit__(conn);
    }
}

/* Is 'pkt', a TCP segment, FIN or RST? */
static inline bool
conntrack_offload_is_fin(const struct dp_packet *pkt)
{
    const struct tcp_header *th = dp_packet_l4(pkt);

    return TCP_FLAGS(th->tcp_ctl) & (TCP_FIN | TCP_RST);
}

/* 'pkt' belongs to 'conn', in the reply direction if '*reply', and has updated
 * it with result 'res'.  No lock may be held.  ('*reply' is seldom needed, and
 * this is done for each packet: so it is not read here.) */
static inline void
conntrack_offload_conn_seen(struct conntrack *ct, struct conn *conn,
                            const struct dp_packet *pkt, const bool *reply,
                            enum ct_update_res res)
{
    uint32_t state = conn_offload_state(conn);

    /* Nearly all packets of an offloaded TCP connection are neither FIN nor
     * RST, and nothing else is awaited of them. */
    if (OVS_UNLIKELY(state & CONN_OFFLOAD_AWAIT_MASK)
        && (state & (CONN_OFFLOAD_AWAIT_MASK & ~CONN_OFFLOAD_AWAIT_FIN)
            || conntrack_offload_is_fin(pkt))) {
        conntrack_offload_conn_seen__(ct, conn, pkt, reply, res);
    }
}

/* The mark or labels of 'conn' are about to be set to 'mark' or 'label'.  Its
 * lock is held. */
static inline void
conntrack_offload_conn_mark(struct conn *conn, uint32_t mark)
    OVS_REQUIRES(conn->lock)
{
    if (OVS_UNLIKELY(conn_offload_state(conn)
                     & (CONN_OFFLOAD_HELD_MASK | CONN_OFFLOAD_PATH_MASK
                        | CONN_OFFLOAD_BUSY))
        && conn->mark != mark) {
        conntrack_offload_conn_changed__(conn);
    }
}

static inline void
conntrack_offload_conn_label(struct conn *conn, ovs_u128 label)
    OVS_REQUIRES(conn->lock)
{
    if (OVS_UNLIKELY(conn_offload_state(conn)
                     & (CONN_OFFLOAD_HELD_MASK | CONN_OFFLOAD_PATH_MASK
                        | CONN_OFFLOAD_BUSY))
        && !ovs_u128_equals(conn->label, label)) {
        conntrack_offload_conn_changed__(conn);
    }
}

/* 'conn' was made to expire at once: another connection is about to take its
 * place.  No lock may be held.  (Even if no provider holds it, another thread
 * may be about to offer it.) */
static inline void
conntrack_offload_conn_forced(struct conn *conn)
{
    if (OVS_UNLIKELY(ct_offload_is_active() || conn_offload_state(conn))) {
        conntrack_offload_conn_forced__(conn);
    }
}

/* May packets of 'conn' have passed that software has not seen? */
static inline bool
conntrack_offload_no_seq_chk(const struct conn *conn)
{
    return conn_offload_state(conn) & CONN_OFFLOAD_NO_SEQ_CHK;
}

/* A sweep of 'ct', inside of conntrack_offload_begin(), looks at 'conn' at
 * time 'now', before it cleans 'conn' up if that has expired. */
static inline void
conntrack_offload_sweep_conn(struct conn_offload_batch *batch,
                             struct conntrack *ct, struct conn *conn,
                             long long int now)
{
    if (OVS_UNLIKELY(batch)) {
        conntrack_offload_sweep_conn__(batch, ct, conn, now);
    }
}

/* Like conntrack_offload_end(), at the end of a sweep.  The thread may
 * quiesce. */
static inline void
conntrack_offload_sweep_end(struct conn_offload_batch *batch)
{
    if (OVS_UNLIKELY(batch)) {
        conntrack_offload_sweep_end__(batch);
    }
}

/* Calls from ct-offload-submit.c and ct-offload-module.c. */

void conntrack_offload_evict(uint8_t leaving);
void conntrack_offload_stop_port(const struct netdev *);
void conntrack_offload_find(const struct conn *, struct conn_offload *);
void conntrack_offload_for_each(void (*cb)(struct conn *, void *aux),
                                void *aux);
void conntrack_offload_explain(struct conn *, struct ds *);

#endif /* conntrack-offload.h */
