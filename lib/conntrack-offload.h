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
 *                              |                        |
 *                              | evicted                | evicted
 *                              v                        |
 *                           SOFTWARE <------------------'
 *
 *     from any of them, when the connection is removed: GONE
 *
 * and a BUSY bit.  Only the thread that set BUSY, the owner, calls providers
 * for the connection.  Any other thread sets a pending bit and goes on.  The
 * owner does what is pending, in the order ADD, EST, UPD, DEL, before it
 * clears BUSY, by compare-and-swap.
 *
 * A connection that is being committed has an owner before any other thread
 * can find it: the thread that commits it.  It calls the providers at the end
 * of conntrack_execute(), with all the other operations that the packets of
 * that call have raised, when no lock is held and the mark and labels that the
 * commit sets are in place.
 *
 * A connection that is removed while it has an owner is freed by the owner.
 *
 * Where an offloaded connection needs more than the state word, that is in a
 * 'struct conn_offload', which is allocated before ADD and freed by RCU. */

/* Bits of 'offload_state'. */
enum conn_offload_state {
    /* Phase. */
    CONN_OFFLOAD_NONE = 0,          /* Not known to any provider. */
    CONN_OFFLOAD_ADDED = 1,         /* Held by a provider. */
    CONN_OFFLOAD_EST = 2,           /* And established there. */
    CONN_OFFLOAD_SOFTWARE = 3,      /* Was held by a provider once. */
    CONN_OFFLOAD_GONE = 4,          /* Removed: nothing follows. */
    CONN_OFFLOAD_PHASE_MASK = 7,

    CONN_OFFLOAD_BUSY = 1 << 3,     /* Some thread owns the connection. */
    CONN_OFFLOAD_AWAIT_EST = 1 << 4, /* Show valid packets to the layer. */
    CONN_OFFLOAD_REPLY = 1 << 5,    /* Some thread has seen the first reply
                                     * and is writing down its port... */
    CONN_OFFLOAD_REPLIED = 1 << 6,  /* ...which is there now. */
    CONN_OFFLOAD_FREE = 1 << 7,     /* The owner frees the connection. */
    CONN_OFFLOAD_WAS_OFFLOADED = 1 << 15, /* Was established in a provider. */

    /* Events that wait for the owner. */
    CONN_OFFLOAD_PENDING_ADD = 1 << 8,
    CONN_OFFLOAD_PENDING_EST = 1 << 9,
    CONN_OFFLOAD_PENDING_UPD = 1 << 10,
    CONN_OFFLOAD_PENDING_DEL = 1 << 11, /* For good. */
    CONN_OFFLOAD_PENDING_EVICT = 1 << 12, /* DEL, but stays in software. */
    CONN_OFFLOAD_PENDING_LEAVE = 1 << 13, /* The same, but only for providers
                                           * that are being unregistered. */
    CONN_OFFLOAD_PENDING_MASK = 0x3f << 8,

    /* Providers that hold the connection; those that were told EST. */
    CONN_OFFLOAD_HELD_SHIFT = 16,
    CONN_OFFLOAD_HELD_MASK = ((1 << CT_OFFLOAD_MAX_PROVIDERS) - 1) << 16,
    CONN_OFFLOAD_EST_SHIFT = 24,
    CONN_OFFLOAD_EST_MASK = ((1 << CT_OFFLOAD_MAX_PROVIDERS) - 1) << 24,
};

struct conn_offload_batch;

struct conn_offload_batch *conntrack_offload_begin__(struct netdev *);
void conntrack_offload_end__(struct conn_offload_batch *);
void conntrack_offload_conn_init__(struct conn *, const struct dp_packet *);
void conntrack_offload_conn_uninit__(struct conn *);
void conntrack_offload_conn_seen__(struct conn *, const struct dp_packet *,
                                   bool reply);
void conntrack_offload_conn_forced__(struct conn *);

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
 * which may be NULL.  The caller must pass what this returns to
 * conntrack_offload_end() and must not quiesce in between. */
static inline struct conn_offload_batch *
conntrack_offload_begin(struct netdev *netdev_in)
{
    return OVS_UNLIKELY(ct_offload_is_active())
           ? conntrack_offload_begin__(netdev_in) : NULL;
}

/* At the end of conntrack_execute(): tells the providers what happened in it.
 * No lock may be held. */
static inline void
conntrack_offload_end(struct conn_offload_batch *batch)
{
    if (OVS_UNLIKELY(batch)) {
        conntrack_offload_end__(batch);
    }
}

/* 'conn' was just allocated for 'pkt', and is going to be committed: no other
 * thread can see it yet.  May be called with locks held. */
static inline void
conntrack_offload_conn_init(struct conn *conn, const struct dp_packet *pkt)
{
    if (OVS_UNLIKELY(ct_offload_is_active())) {
        conntrack_offload_conn_init__(conn, pkt);
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

/* 'pkt' belongs to 'conn', in the reply direction if 'reply', and has updated
 * it with result 'res'.  No lock may be held. */
static inline void
conntrack_offload_conn_seen(struct conn *conn, const struct dp_packet *pkt,
                            bool reply, enum ct_update_res res)
{
    if (OVS_UNLIKELY(conn_offload_state(conn) & CONN_OFFLOAD_AWAIT_EST)
        && res == CT_UPDATE_VALID) {
        conntrack_offload_conn_seen__(conn, pkt, reply);
    }
}

/* 'conn' was made to expire at once: another connection is about to take its
 * place.  No lock may be held. */
static inline void
conntrack_offload_conn_forced(struct conn *conn)
{
    if (OVS_UNLIKELY(conn_offload_state(conn))) {
        conntrack_offload_conn_forced__(conn);
    }
}

/* Calls from ct-offload.c. */

bool conntrack_offload_own(struct ct_offload_op *, bool leave);
void conntrack_offload_release(const struct ct_offload_op *);
void conntrack_offload_evict(uint8_t leaving);
bool conntrack_offload_handshake_done(const struct conn *);

#endif /* conntrack-offload.h */
