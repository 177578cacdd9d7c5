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

#ifndef CONNTRACK_OFFLOAD_STATE_H
#define CONNTRACK_OFFLOAD_STATE_H 1

#include <netinet/in.h>

#include "conntrack-private.h"
#include "ct-offload-thread.h"
#include "ct-offload.h"

/* The state of a connection in hardware
 * =====================================
 *
 * One atomic word in each connection, 'offload_state', decides every race.
 * Where an offloaded connection needs more than that, it is in a block, a
 * 'struct conn_offload', that hangs off the connection.
 *
 * The word has masks of the providers that hold the connection and of those
 * that know that it is established.  A connection is
 *
 *     in software   if nobody holds it;
 *     added         if somebody does;
 *     established   if all of these know that it is;
 *     gone          when it was removed, or was made to expire at once: it is
 *                   never offered again.
 *
 * Only the thread that set BUSY, the owner, calls providers for a connection.
 * Any other thread sets a pending bit and goes on.  The owner does what is
 * pending before it clears BUSY, by compare-and-swap.  What is pending is one
 * bit for each kind of event.  Taking a connection back cancels an ADD that
 * was raised before, so that where both are pending the ADD comes second.
 *
 * The block is there from before ADD until after DEL, and a connection counts
 * against the limit on offloaded connections for as long as it has a block.
 * Any thread may attach it, but only the owner, or who removes a connection
 * without one, detaches it.
 *
 * Why a connection is in software is beside the word, in 'offload_reason'.
 * CT_OFFLOAD_CLOSING, for FIN and RST, is there to stay: it is not offered any
 * more, even if it is still held when that is noted.
 *
 * What conntrack sees of a connection's packets is of interest only while one
 * of the AWAIT bits is set: that is all that is looked at for each packet.
 *
 * Order between connections
 * =========================
 *
 * A connection may follow another one with the same tuple, or the reverse one,
 * in the same zone.  Providers must see DEL of the first before ADD of the
 * second.  So a connection that goes while it is held, or while it has an
 * owner, is 'doomed' until its DEL is done: it is counted in slots that are
 * found by its tuples, and an ADD waits while a slot of its own tuples is not
 * empty.  A connection is doomed before it can have a successor: before it is
 * removed from conntrack's tables, or is made to expire.  Only the time of a
 * connection may be up without anything being called: its successor looks for
 * it before ADD.
 *
 * Threads
 * =======
 *
 * All functions may be called from any thread.  Those that are "for the owner"
 * are for the thread that owns the connection, or that alone can see it. */

/* Bits of 'offload_state'.  31 is free. */
enum conn_offload_state {
    CONN_OFFLOAD_BUSY = 1 << 0,     /* Some thread owns the connection. */
    CONN_OFFLOAD_GONE = 1 << 1,     /* Removed, or made to expire at once. */
    CONN_OFFLOAD_FREE = 1 << 2,     /* The owner hands it to RCU. */
    CONN_OFFLOAD_DOOMED = 1 << 3,   /* Successors wait for its DEL. */
    CONN_OFFLOAD_BYPASS = 1 << 4,   /* Packets may bypass software now... */
    CONN_OFFLOAD_NO_SEQ_CHK = 1 << 5, /* ...or could once: sequence numbers
                                       * prove nothing any more. */

    /* Hardware forwards its packets, in original or in reply direction: see
     * ct-offload-path.h. */
    CONN_OFFLOAD_PATH_ORIG = 1 << 6,
    CONN_OFFLOAD_PATH_REPLY = 1 << 29,
    CONN_OFFLOAD_PATH_MASK = 1 << 6 | 1 << 29,
    CONN_OFFLOAD_FORWARD = 1 << 30, /* These are what hardware has of it. */

    /* What to look out for in packets. */
    CONN_OFFLOAD_AWAIT_ORIG = 1 << 7, /* One in original direction. */
    CONN_OFFLOAD_AWAIT_REPLY = 1 << 8, /* One in reply direction. */
    CONN_OFFLOAD_AWAIT_FIN = 1 << 9, /* FIN and RST, of TCP only. */
    CONN_OFFLOAD_AWAIT_PATH_ORIG = 1 << 10, /* One that can be traced, in
                                             * original direction... */
    CONN_OFFLOAD_AWAIT_PATH_REPLY = 1 << 11, /* ...or in reply direction. */
    CONN_OFFLOAD_AWAIT_MASK = 0x1f << 7,

    /* Providers that hold the connection; those of them that were told EST;
     * those of these of which the hardware has one direction only. */
    CONN_OFFLOAD_HELD_SHIFT = 12,
    CONN_OFFLOAD_HELD_MASK = ((1 << CT_OFFLOAD_MAX_PROVIDERS) - 1) << 12,
    CONN_OFFLOAD_EST_SHIFT = 16,
    CONN_OFFLOAD_EST_MASK = ((1 << CT_OFFLOAD_MAX_PROVIDERS) - 1) << 16,
    CONN_OFFLOAD_UNI_SHIFT = 20,
    CONN_OFFLOAD_UNI_MASK = ((1 << CT_OFFLOAD_MAX_PROVIDERS) - 1) << 20,

    /* Events that wait for the owner. */
    CONN_OFFLOAD_PENDING_ADD = 1 << 24,
    CONN_OFFLOAD_PENDING_EST = 1 << 25,
    CONN_OFFLOAD_PENDING_UPD = 1 << 26,

    /* To take it back.  There is one such event, the weaker ones of which add
     * up to the strongest one. */
    CONN_OFFLOAD_PENDING_LAPSE = 1 << 27, /* UPD, and DEL if not in use. */
    CONN_OFFLOAD_PENDING_UNREG = 2 << 27, /* DEL for those providers that are
                                           * being unregistered. */
    CONN_OFFLOAD_PENDING_DEL = 3 << 27, /* DEL for all of them. */

    CONN_OFFLOAD_PENDING_MASK = 0x1f << 24,
};
BUILD_ASSERT_DECL(CT_OFFLOAD_MAX_PROVIDERS == 4);

/* What an offloaded connection needs beside its state word. */
struct conn_offload {
    ATOMIC(struct conntrack *) ct;  /* Where it is, or NULL if not known. */

    /* Where the packets of each direction come from: written by any thread,
     * see conn_side_set().  'how' is 0 while that is not known. */
    atomic_uint64_t where[CT_DIRS]; /* Number of the port in ct-offload-port.h,
                                     * or 0, and 32 bits for odp_port_t. */
    atomic_uint32_t how[CT_DIRS];

    uint32_t port_number[CT_DIRS];  /* For ct-offload-port.c... */
    uint32_t port_index[CT_DIRS];   /* ...with the mutex of that port. */
    void *priv[CT_OFFLOAD_MAX_PROVIDERS]; /* For the owner. */
    struct ct_offload_work work;    /* To be queued for an offload thread,
                                     * which is the owner then. */
    struct conn *conn;              /* What this hangs off. */
};
BUILD_ASSERT_DECL(sizeof(struct conn_offload) <= 104);

/* The state word. */

static inline uint32_t
conn_offload_state(const struct conn *conn)
{
    uint32_t state;

    atomic_read_relaxed(&CONST_CAST(struct conn *, conn)->offload_state,
                        &state);
    return state;
}

static inline uint8_t
state_held(uint32_t state)
{
    return (state & CONN_OFFLOAD_HELD_MASK) >> CONN_OFFLOAD_HELD_SHIFT;
}

static inline uint8_t
state_est(uint32_t state)
{
    return (state & CONN_OFFLOAD_EST_MASK) >> CONN_OFFLOAD_EST_SHIFT;
}

static inline uint8_t
state_uni(uint32_t state)
{
    return (state & CONN_OFFLOAD_UNI_MASK) >> CONN_OFFLOAD_UNI_SHIFT;
}

/* Returns the bit of a path in original or in reply direction... */
static inline uint32_t
state_path_bit(bool reply)
{
    return reply ? CONN_OFFLOAD_PATH_REPLY : CONN_OFFLOAD_PATH_ORIG;
}

/* ...and that of the packet which is awaited for it. */
static inline uint32_t
state_await_path_bit(bool reply)
{
    return (reply ? CONN_OFFLOAD_AWAIT_PATH_REPLY
            : CONN_OFFLOAD_AWAIT_PATH_ORIG);
}

/* Are these CONN_OFFLOAD_PENDING_* bits to take a connection from all
 * providers, whatever they say? */
static inline bool
events_have_del(uint32_t events)
{
    return !(~events & CONN_OFFLOAD_PENDING_DEL);
}

/* Returns why 'conn' is in software, or will be if it is held. */
static inline enum ct_offload_reason
conn_reason(const struct conn *conn)
{
    uint8_t reason;

    atomic_read_relaxed(&CONST_CAST(struct conn *, conn)->offload_reason,
                        &reason);
    return reason;
}

/* Has a FIN or RST of 'conn' been seen? */
static inline bool
conn_is_closed(const struct conn *conn)
{
    return conn_reason(conn) == CT_OFFLOAD_CLOSING;
}

/* Why a direction of a connection has no path, as was found out last. */
enum conn_path_note {
    CONN_PATH_OK,               /* It has one, or was not traced yet. */
    CONN_PATH_NOT_HELD,         /* Not all connections of its packets are
                                 * established in hardware. */
    CONN_PATH_NO_PORT,          /* Where its packets leave is not known. */
    CONN_PATH_HARDWARE,         /* The provider has refused it. */
    CONN_PATH_UNABLE,           /* Its port cannot forward, or does not follow
                                 * rules. */

    CONN_PATH_TOO_LONG,         /* Its packets meet more than can be traced. */

    /* The chain of its megaflows has: plus an 'enum ct_merge_reason'. */
    CONN_PATH_REFUSED = 64,
};

static inline uint8_t
conn_get_path_note(const struct conn *conn, bool reply)
{
    uint8_t note;

    atomic_read_relaxed(&CONST_CAST(struct conn *, conn)->offload_path[reply],
                        &note);
    return note;
}

static inline void
conn_note_path(struct conn *conn, bool reply, uint8_t note)
{
    atomic_store_relaxed(&conn->offload_path[reply], note);
}

/* Is a connection with this state word established wherever it is held? */
static inline bool
state_is_established(uint32_t state)
{
    return state_held(state) && state_held(state) == state_est(state);
}

/* And does hardware have both of its directions? */
static inline bool
state_is_bi_dir(uint32_t state)
{
    return (state_is_established(state)
            && (state & CONN_OFFLOAD_FORWARD
                ? !(~state & CONN_OFFLOAD_PATH_MASK) : !state_uni(state)));
}

/* Or one of them? */
static inline bool
state_is_uni_dir(uint32_t state)
{
    return (state_held(state) && !state_is_bi_dir(state)
            && (!(state & CONN_OFFLOAD_FORWARD)
                || state & CONN_OFFLOAD_PATH_MASK));
}

/* Is a connection with this state word out of reach: removed, or made to
 * expire, and of no concern to any provider?  RCU may be about to free it. */
static inline bool
state_is_over(uint32_t state)
{
    return (state & CONN_OFFLOAD_GONE
            && !(state & (CONN_OFFLOAD_HELD_MASK | CONN_OFFLOAD_PATH_MASK
                          | CONN_OFFLOAD_BUSY)));
}

bool conn_raise(struct conn *, uint32_t events, uint32_t clear, uint32_t set);
bool conn_own(struct conn *, uint32_t events);
bool conn_disown(struct conn *);
uint32_t conn_take_events(struct conn *);
void conn_put_back(struct conn *, uint32_t events);
uint32_t conn_set_state(struct conn *, uint32_t clear, uint32_t set);
void conn_note_reason(struct conn *, enum ct_offload_reason);

/* Order between connections. */

bool conn_doom(struct conn *);
void conn_undoom(struct conn *);
bool conn_raise_free(struct conn *, void (*delete)(struct conn *));
bool conn_is_preceded(const struct conn *);

/* The block. */

/* Returns the block of 'conn', valid until the thread quiesces, or NULL. */
static inline struct conn_offload *
conn_get_offload(const struct conn *conn)
{
    struct conn_offload *offload;

    atomic_read_explicit(&CONST_CAST(struct conn *, conn)->offload, &offload,
                         memory_order_acquire);
    return offload;
}

struct conn_offload *conn_attach_offload(struct conn *, struct conn_offload *);
struct conn_offload *conn_detach_offload(struct conn *);

void conn_side_set(struct conn_offload *, enum key_dir, uint32_t port,
                   const struct ct_offload_ctx *);
void conn_side_clear(struct conn_offload *, enum key_dir);
bool conn_side_get(struct conn_offload *, enum key_dir,
                   struct ct_offload_ctx *, uint32_t *port);
bool conn_side_is_known(struct conn_offload *, enum key_dir);
bool conn_side_has_moved(struct conn_offload *, enum key_dir, uint32_t port,
                         const struct ct_offload_ctx *);

/* The connection itself. */

static inline bool
conn_is_tcp(const struct conn *conn)
{
    return conn->key_node[CT_DIR_FWD].key.nw_proto == IPPROTO_TCP;
}

bool conn_is_established(const struct conn *);
bool conn_is_closing(const struct conn *);
bool conn_has_helper(const struct conn *);
bool conn_is_past(const struct conn *, long long int now);

/* Is 'conn' alive at time 'now'?  If packets may bypass software, then also if
 * its time is up in software, unless it was forced to expire.  (This is part
 * of each look-up: a call would cost more than it does.) */
static inline bool
conntrack_offload_alive(const struct conn *conn, long long int now)
{
    long long int expiration;
    uint32_t state;

    /* If it was taken back into software just now, it got more time before
     * that. */
    atomic_read_explicit(&CONST_CAST(struct conn *, conn)->offload_state,
                         &state, memory_order_acquire);
    atomic_read_relaxed(&CONST_CAST(struct conn *, conn)->expiration,
                        &expiration);
    return state & CONN_OFFLOAD_BYPASS ? expiration != 0 : now < expiration;
}

/* In conntrack.c: calls 'cb' for each connection of 'ct', even if it has
 * expired, that has a tuple in common with 'conn' and is found by that of
 * 'conn' in direction 'dir'. */
void conntrack_for_each_rival(struct conntrack *, const struct conn *,
                              enum key_dir dir,
                              void (*cb)(struct conn *, void *aux),
                              void *aux);

struct conn *conntrack_find_traced(struct conntrack *,
                                   const struct dp_packet *);
bool conntrack_has_tuple(struct conntrack *, uint16_t zone,
                         const struct ct_dpif_tuple *);

/* In conntrack-tcp.c: what is known of the peers of 'conn', a TCP connection.
 */
void conntrack_tcp_get_peers(const struct conn *conn,
                             struct ct_offload_tcp_peer peers[2])
    OVS_REQUIRES(conn->lock);

#endif /* conntrack-offload-state.h */
