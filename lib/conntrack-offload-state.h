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
 * Any thread may allocate it, but only the owner releases it.
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

/* Bits of 'offload_state'. */
enum conn_offload_state {
    CONN_OFFLOAD_BUSY = 1 << 0,     /* Some thread owns the connection. */
    CONN_OFFLOAD_GONE = 1 << 1,     /* Removed, or made to expire at once. */
    CONN_OFFLOAD_FREE = 1 << 2,     /* The owner hands it to RCU. */
    CONN_OFFLOAD_CLOSED = 1 << 3,   /* FIN or RST was seen: do not offload. */
    CONN_OFFLOAD_DOOMED = 1 << 4,   /* Successors wait for its DEL. */
    CONN_OFFLOAD_BYPASS = 1 << 5,   /* Packets may bypass software now... */
    CONN_OFFLOAD_NO_SEQ_CHK = 1 << 6, /* ...or could once: sequence numbers
                                       * prove nothing any more. */

    /* What to look out for in packets. */
    CONN_OFFLOAD_AWAIT_ORIG = 1 << 8, /* One in original direction. */
    CONN_OFFLOAD_AWAIT_REPLY = 1 << 9, /* One in reply direction. */
    CONN_OFFLOAD_AWAIT_FIN = 1 << 10, /* FIN and RST, of TCP only. */
    CONN_OFFLOAD_AWAIT_MASK = 7 << 8,

    CONN_OFFLOAD_COUNTS = 1 << 11,  /* Against "hw-offload-ct-size". */

    /* Providers that hold the connection; those that were told EST. */
    CONN_OFFLOAD_HELD_SHIFT = 12,
    CONN_OFFLOAD_HELD_MASK = ((1 << CT_OFFLOAD_MAX_PROVIDERS) - 1) << 12,
    CONN_OFFLOAD_EST_SHIFT = 16,
    CONN_OFFLOAD_EST_MASK = ((1 << CT_OFFLOAD_MAX_PROVIDERS) - 1) << 16,

    /* Events that wait for the owner. */
    CONN_OFFLOAD_PENDING_ADD = 1 << 20,
    CONN_OFFLOAD_PENDING_EST = 1 << 21,
    CONN_OFFLOAD_PENDING_UPD = 1 << 22,
    CONN_OFFLOAD_PENDING_EXPIRE = 1 << 23, /* UPD, and DEL if not in use. */
    CONN_OFFLOAD_PENDING_LEAVE = 1 << 24, /* DEL for those providers that are
                                           * being unregistered. */
    CONN_OFFLOAD_PENDING_DEL = 1 << 25, /* For all of them. */
    CONN_OFFLOAD_PENDING_MASK = 0x3f << 20,

    /* Why it is in software: 'enum ct_offload_reason'.  While it is held, it
     * needs no reason: then, those of the providers with EST of which the
     * hardware has one direction only. */
    CONN_OFFLOAD_REASON_SHIFT = 28,
    CONN_OFFLOAD_REASON_MASK = (int) (0xfu << 28),
    CONN_OFFLOAD_UNI_SHIFT = CONN_OFFLOAD_REASON_SHIFT,
};
BUILD_ASSERT_DECL(CT_OFFLOAD_MAX_PROVIDERS == 4);
BUILD_ASSERT_DECL(CT_OFFLOAD_N_REASONS <= 16);

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

/* Returns why a connection with this state word is in software, if it is. */
static inline enum ct_offload_reason
state_reason(uint32_t state)
{
    return (state_held(state) ? CT_OFFLOAD_REASON_NONE
            : (enum ct_offload_reason) (state >> CONN_OFFLOAD_REASON_SHIFT));
}

/* Returns the providers that hold a connection with this state word and have
 * one direction of it only. */
static inline uint8_t
state_uni(uint32_t state)
{
    return state_held(state) & (state >> CONN_OFFLOAD_UNI_SHIFT);
}

/* Returns the bits for 'reason'. */
static inline uint32_t
state_from_reason(enum ct_offload_reason reason)
{
    return (uint32_t) reason << CONN_OFFLOAD_REASON_SHIFT;
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
    return state_is_established(state) && !state_uni(state);
}

bool conn_raise(struct conn *, uint32_t events, uint32_t clear, uint32_t set);
bool conn_own(struct conn *, uint32_t events);
bool conn_disown(struct conn *);
uint32_t conn_take_events(struct conn *);
void conn_put_back(struct conn *, uint32_t events);
void conn_set_state(struct conn *, uint32_t clear, uint32_t set);
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

struct conn_offload *conn_attach_offload(struct conn *);
void conn_detach_offload(struct conn *);
bool conn_reattach_offload(struct conn *, struct conn_offload *);

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

/* In conntrack-tcp.c: what is known of the peers of 'conn', a TCP connection.
 */
void conntrack_tcp_get_peers(const struct conn *conn,
                             struct ct_offload_tcp_peer peers[2])
    OVS_REQUIRES(conn->lock);

#endif /* conntrack-offload-state.h */
