/* SPDX-License-Identifier: Apache-2.0 */

#ifndef CONNTRACK_OFFLOAD_H
#define CONNTRACK_OFFLOAD_H 1

#include "conntrack-private.h"
#include "ct-offload.h"

/* The life of a connection in hardware
 * ====================================
 *
 * conntrack.c calls the functions below where something happens to a
 * connection; conntrack-offload.c turns that into operations for the
 * providers of ct-offload.h.
 *
 * One atomic word in each connection, 'offload_state', decides every race.
 * It holds a phase:
 *
 *          commit, accepted           first reply
 *     NONE ----------------> ADDED ------------------> EST
 *      ^                       |                        |
 *      | eligible at a         | evicted                | evicted
 *      | later sweep           v                        |
 *      '-------------------- SOFTWARE <-----------------'
 *
 *     from any of them, when the connection is removed: GONE
 *
 * and a BUSY bit.  Only the thread that set BUSY, the owner, calls providers
 * for the connection.  Any other thread sets a pending bit and goes on.  The
 * owner does what is pending, in the order ADD, EST, UPD, DEL, before it
 * clears BUSY, by compare-and-swap.
 *
 * A connection that is being committed has an owner before any other thread
 * can find it: the thread that commits it.  Each thread collects the
 * connections that it owns in a batch.  At the end of conntrack_execute(),
 * when no lock is held and the mark and labels that the commit sets are in
 * place, it hands them over to the offload threads (see ct-offload-thread.h),
 * which own them then, and call the providers.  Without offload threads it
 * calls the providers itself.
 *
 * A connection that is removed while it has an owner is freed by the owner.
 *
 * Where an offloaded connection needs more than the state word, that is in a
 * 'struct conn_offload', which is allocated before ADD, and freed by RCU or
 * with the connection.  From ADD to DEL, the connection counts against the
 * limit on the number of offloaded connections.
 *
 * Expiration
 * ==========
 *
 * A connection whose time is up in software, but which a provider holds, is
 * still alive: hardware may be forwarding its packets.  Only the sweep that
 * cleans up connections ends it, after it has asked the providers when the
 * connection was last used.  With offload threads the sweep has them ask, and
 * the answer counts at the next sweep.
 *
 * The way back
 * ============
 *
 * A connection that is in software, because it is older than the provider,
 * because there was no room for it, or because it was evicted, is marked as
 * eligible by a sweep, and is then offered once more with its next packet in
 * original direction.  So the work is bounded by the sweeps. */

/* Bits of 'offload_state'. */
enum conn_offload_state {
    /* Phase. */
    CONN_OFFLOAD_NONE = 0,          /* Never held by a provider. */
    CONN_OFFLOAD_ADDED = 1,         /* Held by a provider. */
    CONN_OFFLOAD_EST = 2,           /* And established there. */
    CONN_OFFLOAD_SOFTWARE = 3,      /* Was held by a provider once. */
    CONN_OFFLOAD_GONE = 4,          /* Removed: nothing follows. */
    CONN_OFFLOAD_PHASE_MASK = 7,

    CONN_OFFLOAD_BUSY = 1 << 3,     /* Some thread owns the connection. */
    CONN_OFFLOAD_FREE = 1 << 4,     /* The owner frees the connection. */
    CONN_OFFLOAD_CLOSED = 1 << 5,   /* FIN or RST was seen: do not offload. */
    CONN_OFFLOAD_NO_SEQ_CHK = 1 << 6, /* Packets may have bypassed software:
                                       * sequence numbers prove nothing. */

    /* What to look out for in packets. */
    CONN_OFFLOAD_AWAIT_EST = 1 << 7, /* The first reply, the handshake. */
    CONN_OFFLOAD_AWAIT_FIN = 1 << 8, /* FIN and RST. */
    CONN_OFFLOAD_ELIGIBLE = 1 << 9, /* Any packet in original direction. */
    CONN_OFFLOAD_AWAIT_MASK = 7 << 7,

    CONN_OFFLOAD_REPLY = 1 << 10,   /* Some thread has seen the first reply
                                     * and is writing down its port... */
    CONN_OFFLOAD_REPLIED = 1 << 11, /* ...which is there now. */

    /* Providers that hold the connection; those that were told EST. */
    CONN_OFFLOAD_HELD_SHIFT = 12,
    CONN_OFFLOAD_HELD_MASK = ((1 << CT_OFFLOAD_MAX_PROVIDERS) - 1) << 12,
    CONN_OFFLOAD_EST_SHIFT = 16,
    CONN_OFFLOAD_EST_MASK = ((1 << CT_OFFLOAD_MAX_PROVIDERS) - 1) << 16,

    /* Events that wait for the owner. */
    CONN_OFFLOAD_PENDING_ADD = 1 << 20,
    CONN_OFFLOAD_PENDING_EST = 1 << 21,
    CONN_OFFLOAD_PENDING_UPD = 1 << 22,
    CONN_OFFLOAD_PENDING_DEL = 1 << 23, /* For good. */
    CONN_OFFLOAD_PENDING_EVICT = 1 << 24, /* DEL, but stays in software. */
    CONN_OFFLOAD_PENDING_LEAVE = 1 << 25, /* The same, but only for providers
                                           * that are being unregistered. */
    CONN_OFFLOAD_PENDING_EXPIRE = 1 << 26, /* UPD, and DEL if not in use. */
    CONN_OFFLOAD_PENDING_MASK = 0x7f << 20,

    CONN_OFFLOAD_FORCED = 1 << 27,  /* Made to expire at once. */
    CONN_OFFLOAD_COUNTS = 1 << 28,  /* Against "hw-offload-ct-size". */

    /* What a connection that is to be offered to the providers begins with. */
    CONN_OFFLOAD_START = (CONN_OFFLOAD_AWAIT_EST | CONN_OFFLOAD_AWAIT_FIN
                          | CONN_OFFLOAD_COUNTS),
};

struct conn_offload_batch;
struct ct_offload_work;

struct conn_offload_batch *conntrack_offload_begin__(struct netdev *);
void conntrack_offload_end__(struct conn_offload_batch *);
void conntrack_offload_conn_init__(struct conntrack *, struct conn *,
                                   const struct dp_packet *);
void conntrack_offload_conn_uninit__(struct conn *);
void conntrack_offload_conn_seen__(struct conntrack *, struct conn *,
                                   const struct dp_packet *, const bool *reply,
                                   enum ct_update_res);
void conntrack_offload_conn_changed__(struct conn *);
void conntrack_offload_conn_forced__(struct conn *);
void conntrack_offload_sweep_conn__(struct conn_offload_batch *,
                                    struct conntrack *, struct conn *,
                                    long long int now);
void conntrack_offload_sweep_end__(struct conn_offload_batch *,
                                   struct conntrack *,
                                   void (*clean)(struct conntrack *,
                                                 struct conn *));

/* Calls from conntrack.c. */

void conntrack_offload_init(struct conntrack *);
void conntrack_offload_destroy(struct conntrack *);
void conntrack_offload_conn_postpone(void (*delete)(struct conn *),
                                     struct conn *);
uint32_t conntrack_offload_conn_status(const struct conn *);

static inline uint32_t
conn_offload_state(const struct conn *conn)
{
    uint32_t state;

    atomic_read_relaxed(&CONST_CAST(struct conn *, conn)->offload_state,
                        &state);
    return state;
}

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
 * may be held. */
static inline void
conntrack_offload_end(struct conn_offload_batch *batch)
{
    if (OVS_UNLIKELY(batch)) {
        conntrack_offload_end__(batch);
    }
}

/* 'conn' was just allocated for 'pkt', and is going to be committed to 'ct':
 * no other thread can see it yet.  May be called with locks held. */
static inline void
conntrack_offload_conn_init(struct conntrack *ct, struct conn *conn,
                            const struct dp_packet *pkt)
{
    if (OVS_UNLIKELY(ct_offload_is_active())) {
        conntrack_offload_conn_init__(ct, conn, pkt);
    }
}

/* 'conn' is about to be freed, and no other thread can see it any more. */
static inline void
conntrack_offload_conn_uninit(struct conn *conn)
{
    if (OVS_UNLIKELY(ovsrcu_get_protected(struct conn_offload *,
                                          &conn->offload))) {
        conntrack_offload_conn_uninit__(conn);
    }
}

/* 'pkt' belongs to 'conn', in the reply direction if '*reply', and has updated
 * it with result 'res'.  No lock may be held.  ('*reply' is seldom needed, and
 * this is done for each packet: so it is not read here.) */
static inline void
conntrack_offload_conn_seen(struct conntrack *ct, struct conn *conn,
                            const struct dp_packet *pkt, const bool *reply,
                            enum ct_update_res res)
{
    if (OVS_UNLIKELY(conn_offload_state(conn) & CONN_OFFLOAD_AWAIT_MASK)) {
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
                     & (CONN_OFFLOAD_HELD_MASK | CONN_OFFLOAD_BUSY))
        && conn->mark != mark) {
        conntrack_offload_conn_changed__(conn);
    }
}

static inline void
conntrack_offload_conn_label(struct conn *conn, ovs_u128 label)
    OVS_REQUIRES(conn->lock)
{
    if (OVS_UNLIKELY(conn_offload_state(conn)
                     & (CONN_OFFLOAD_HELD_MASK | CONN_OFFLOAD_BUSY))
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

/* The time of 'conn' is up in software at time 'now': is it alive in hardware?
 * A connection that was forced to expire is not. */
static inline bool
conntrack_offload_alive(const struct conn *conn, long long int now)
{
    long long int expiration;
    uint32_t state;

    atomic_read_explicit(&CONST_CAST(struct conn *, conn)->offload_state,
                         &state, memory_order_acquire);
    if (state & CONN_OFFLOAD_HELD_MASK) {
        return !(state & CONN_OFFLOAD_FORCED);
    }

    /* It may have been taken back into software just now, with more time. */
    atomic_read_relaxed(&CONST_CAST(struct conn *, conn)->expiration,
                        &expiration);
    return now < expiration;
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

/* Like conntrack_offload_end(), at the end of a sweep of 'ct': asks the
 * providers about connections the time of which is up, and has 'clean' called
 * for those that are not in use in hardware, either.  (If there are offload
 * threads, they ask, and the next sweep cleans up.)  The thread may
 * quiesce. */
static inline void
conntrack_offload_sweep_end(struct conn_offload_batch *batch,
                            struct conntrack *ct,
                            void (*clean)(struct conntrack *, struct conn *))
{
    if (OVS_UNLIKELY(batch)) {
        conntrack_offload_sweep_end__(batch, ct, clean);
    }
}

/* In conntrack-tcp.c: what is known of the peers of 'conn', a TCP connection.
 */
void conntrack_tcp_get_peers(const struct conn *conn,
                             struct ct_offload_tcp_peer peers[2])
    OVS_REQUIRES(conn->lock);

/* Calls from ct-offload.c. */

bool conntrack_offload_own(struct ct_offload_op *, bool leave);
void conntrack_offload_release(const struct ct_offload_op *);
void conntrack_offload_enter(void);
void conntrack_offload_leave(void);
void conntrack_offload_evict(uint8_t leaving, const struct netdev *);
void conntrack_offload_barrier(bool quiesce);
void conntrack_offload_run(struct ct_offload_work **, size_t n);
bool conntrack_offload_handshake_done(const struct conn *);

#endif /* conntrack-offload.h */
