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

#include "conntrack-offload.h"

#include <string.h>

#include "conntrack-offload-batch.h"
#include "coverage.h"
#include "ct-dpif.h"
#include "ct-offload-port.h"
#include "ct-offload-private.h"
#include "ct-offload-room.h"
#include "ct-offload-stats.h"
#include "ct-offload-thread.h"
#include "ct-offload-trace.h"
#include "ct-offload-wire.h"
#include "dp-packet.h"
#include "odp-util.h"
#include "openvswitch/dynamic-string.h"
#include "openvswitch/list.h"
#include "ovs-rcu.h"
#include "ovs-thread.h"
#include "timeval.h"
#include "util.h"

COVERAGE_DEFINE(ct_offload_expiry_asked);
COVERAGE_DEFINE(ct_offload_moved);

DEFINE_EXTERN_PER_THREAD_DATA(conntrack_offload_late, false);

/* Every 'struct conntrack', so that all connections can be found.
 * The mutex comes before any other lock of this module. */
struct conntrack_node {
    struct ovs_list node;           /* In 'conntracks'. */
    struct conntrack *ct;
};
static struct ovs_mutex conntracks_mutex = OVS_MUTEX_INITIALIZER;
static struct ovs_list conntracks OVS_GUARDED_BY(conntracks_mutex)
    = OVS_LIST_INITIALIZER(&conntracks);

/* Events from conntrack. */

/* Stores in 'ctx' the VLAN tags of 'pkt'. */
static void
ctx_set_vlan(struct ct_offload_ctx *ctx, const struct dp_packet *pkt)
{
    const struct vlan_eth_header *veh = dp_packet_eth(pkt);

    if (!veh) {
        ctx->vlan = CT_OFFLOAD_VLAN_OTHER;
    } else if (!eth_type_vlan(veh->veth_type)) {
        ctx->vlan = CT_OFFLOAD_VLAN_NONE;
    } else if (veh->veth_type == htons(ETH_TYPE_VLAN_8021Q)
               && !eth_type_vlan(veh->veth_next_type)) {
        ctx->vlan = CT_OFFLOAD_VLAN_TAG;
        ctx->vlan_tci = veh->veth_tci;
    } else {
        ctx->vlan = CT_OFFLOAD_VLAN_OTHER;
    }
}

/* Stores in '*ctx' what 'pkt' tells of its direction, and returns the number
 * of the port that it came from. */
static uint32_t
ctx_from_packet(struct ct_offload_ctx *ctx, struct netdev *netdev,
                const struct dp_packet *pkt)
{
    memset(ctx, 0, sizeof *ctx);
    ctx->input_port_id = ODPP_NONE;

    /* What was made here has no port.  (A reassembled packet may even have
     * been taken from another port's burst.) */
    if (netdev && ct_offload_wire_is_known(pkt)) {
        ctx->netdev_in = netdev;
        ctx->input_port_id = pkt->md.orig_in_port;
    }
    ctx->unmodified = ctx->netdev_in && ct_offload_wire_is_same(pkt);
    ctx_set_vlan(ctx, pkt);
    return ct_offload_port_get(ctx->netdev_in);
}

struct conn_offload_batch *
conntrack_offload_begin__(struct netdev *netdev_in)
{
    struct conn_offload_batch *batch = conn_batch_enter();

    batch->netdev_in = netdev_in;
    return batch;
}

void
conntrack_offload_end__(struct conn_offload_batch *batch)
{
    if (!batch) {
        batch = conn_batch_get();
        *conntrack_offload_late_get() = false;
    }
    conn_batch_leave(batch);
    batch->netdev_in = NULL;
}

void
conntrack_offload_conn_init__(struct conntrack *ct, struct conn *conn,
                              const struct dp_packet *pkt)
{
    struct conn_offload_batch *batch = conn_batch_get();
    struct conn_offload *offload;
    struct ct_offload_ctx ctx;
    uint32_t port;

    /* If a provider came in the middle of conntrack_execute(), 'conn' is older
     * than the provider. */
    if (!batch || !batch->depth || !ct_offload_is_accepting()) {
        return;
    }
    ct_trace_committed(pkt);
    if (!ct_offload_accepting(false)) {
        atomic_init(&conn->offload_state, CONN_OFFLOAD_AWAIT_REPLY);
        return;
    }

    offload = conn_alloc_offload(conn);
    if (offload) {
        atomic_store_relaxed(&offload->ct, ct);
        port = ctx_from_packet(&ctx, batch->netdev_in, pkt);
        conn_side_set(offload, CT_DIR_FWD, port, &ctx);

        conn_set_state(conn, 0, (CONN_OFFLOAD_BUSY | CONN_OFFLOAD_PENDING_ADD
                                 | conn_await_reply(conn)));
        conns_push(&batch->conns, conn);
    }
}

void
conntrack_offload_conn_uninit__(struct conn *conn)
{
    uint32_t state = conn_offload_state(conn);

    /* A connection that has an owner and is freed all the same was never
     * committed, because there was no tuple left for NAT: it is the last one
     * in this thread's batch. */
    if (state & CONN_OFFLOAD_BUSY && !(state & CONN_OFFLOAD_FREE)) {
        struct conn_offload_batch *batch = conn_batch_get();

        ovs_assert(batch->conns.n
                   && batch->conns.p[batch->conns.n - 1] == conn);
        batch->conns.n--;
    }
    conn_free_offload(conn);
}

/* 'conn', which no provider holds, has a packet in direction 'dir', after
 * which it could be offered to a provider.  Makes the calling thread its
 * owner, if it has none, and returns its block; or returns NULL if it cannot
 * be offered now.  '*owned' tells whether the calling thread is the owner. */
static struct conn_offload *
learn_own(struct conn *conn, enum key_dir dir, bool *owned)
{
    struct conn_offload *offload = conn_get_offload(conn);

    if (!offload && dir == CT_DIR_REV) {
        /* The original direction comes first: no room is taken for what has a
         * reply, but nothing else. */
        conn_set_state(conn, CONN_OFFLOAD_AWAIT_REPLY,
                       CONN_OFFLOAD_AWAIT_ORIG);
        return NULL;
    }
    if (!offload && conn_has_helper(conn)) {
        conn_set_reason(conn, CT_OFFLOAD_HELPER);
        conn_set_state(conn, CONN_OFFLOAD_AWAIT_MASK, 0);
        return NULL;
    }
    *owned = conn_own(conn, 0);
    if (!*owned) {
        return offload;
    }

    /* If it was removed before, then RCU frees it, whoever owns it: it must
     * not be handed over. */
    offload = (conn_offload_state(conn) & CONN_OFFLOAD_GONE
               ? NULL : conn_alloc_offload(conn));
    if (!offload) {
        conn_set_state(conn, CONN_OFFLOAD_AWAIT_MASK, 0);
    }
    return offload;
}

/* 'pkt' is what was awaited of direction 'dir' of 'conn', which has 'offload'.
 * The calling thread is the owner of 'conn' if 'owned'.  It need not be if
 * providers hold 'conn', or if another thread does something with it. */
static void
learn_packet(struct conn_offload_batch *batch, struct conn *conn,
             struct conn_offload *offload, const struct dp_packet *pkt,
             enum key_dir dir, bool owned)
{
    static const uint32_t await[] = {
        [CT_DIR_FWD] = CONN_OFFLOAD_AWAIT_ORIG,
        [CT_DIR_REV] = CONN_OFFLOAD_AWAIT_REPLY,
    };
    uint32_t state = conn_offload_state(conn);
    uint8_t any = ct_offload_accepting(false);
    uint8_t established_only = ct_offload_accepting(true);
    uint8_t takers = ((any | (conn_is_established(conn)
                              ? established_only : 0))
                      & ~state_held(state));
    uint32_t events = 0, clear = await[dir], set = 0;
    struct ct_offload_ctx ctx;
    bool reply_known;
    uint32_t port;

    port = ctx_from_packet(&ctx, batch->netdev_in, pkt);
    if (owned && !state_held(state)) {
        conn_side_clear(offload, dir);      /* Nobody has been told of it. */
    }
    if (!conn_side_is_known(offload, dir)) {
        conn_side_set(offload, dir, port, &ctx);
    } else if (state_held(state)
               && conn_side_has_moved(offload, dir, port, &ctx)) {
        COVERAGE_INC(ct_offload_moved);
        conn_batch_raise(batch, conn, CONN_OFFLOAD_PENDING_DEL, clear, 0);
        return;
    }

    reply_known = conn_side_is_known(offload, CT_DIR_REV);
    if (takers && !owned && state & CONN_OFFLOAD_BUSY) {
        clear = 0;                          /* The next packet tells. */
    } else if (takers & ((dir == CT_DIR_FWD ? any : 0)
                         | (reply_known ? established_only : 0))) {
        events |= CONN_OFFLOAD_PENDING_ADD;
    }
    if (reply_known && (events || !state_is_established(state))) {
        events |= CONN_OFFLOAD_PENDING_EST;
    }
    if (!reply_known || established_only & ~state_held(state) & ~takers) {
        set |= CONN_OFFLOAD_AWAIT_REPLY;
    }
    if (events && conn_is_tcp(conn)) {
        set |= CONN_OFFLOAD_AWAIT_FIN;
    }
    if (events && !owned) {
        conn_batch_raise(batch, conn, events, clear & ~set, set);
    } else {
        conn_set_state(conn, clear & ~set, set | events);
    }
}

/* 'pkt' is what was awaited of direction 'dir' of 'conn'. */
static void
conn_learn(struct conn_offload_batch *batch, struct conntrack *ct,
           struct conn *conn, const struct dp_packet *pkt, enum key_dir dir)
{
    struct conn_offload *offload = conn_get_offload(conn);
    uint32_t state = conn_offload_state(conn);
    bool owned = false;

    if (dir == CT_DIR_REV && state & CONN_OFFLOAD_PATH_MASK
        && !state_is_established(state)) {
        /* It has had no reply before: what ct() says of it changes. */
        conn_batch_raise(batch, conn, CONN_OFFLOAD_PENDING_DEL,
                         CONN_OFFLOAD_AWAIT_REPLY, 0);
        return;
    }
    if (!state_held(state)) {
        uint8_t established_only = ct_offload_accepting(true);

        if (!ct_offload_accepting(false)
            && !(established_only && conn_is_established(conn))) {
            /* Nobody wants it before it is established, if at all. */
            conn_set_state(conn, CONN_OFFLOAD_AWAIT_ORIG
                                 | CONN_OFFLOAD_AWAIT_REPLY,
                           established_only ? CONN_OFFLOAD_AWAIT_REPLY : 0);
            return;
        }
        offload = learn_own(conn, dir, &owned);
    }
    if (offload) {
        atomic_store_relaxed(&offload->ct, ct);
        learn_packet(batch, conn, offload, pkt, dir, owned);
    }

    /* What has nothing pending must not have an owner for long: it is not
     * offered by another thread meanwhile. */
    if (owned && !conn_disown(conn)) {
        conns_push(&batch->conns, conn);
    }
}

void
conntrack_offload_conn_seen__(struct conntrack *ct, struct conn *conn,
                              const struct dp_packet *pkt, const bool *reply,
                              enum ct_update_res res)
{
    uint32_t state = conn_offload_state(conn);
    struct conn_offload_batch *batch;
    uint32_t path = state_await_path_bit(*reply);
    bool fin, await;

    /* With CT_UPDATE_NEW, another connection is about to take its place. */
    if (res == CT_UPDATE_INVALID || res == CT_UPDATE_NEW) {
        return;
    }
    fin = state & CONN_OFFLOAD_AWAIT_FIN && conntrack_offload_is_fin(pkt);
    await = (*reply
             ? state & CONN_OFFLOAD_AWAIT_REPLY && res == CT_UPDATE_VALID
             : state & CONN_OFFLOAD_AWAIT_ORIG);
    if (state & path && res == CT_UPDATE_VALID && !fin) {
        if (!(state & state_path_bit(*reply))) {
            if (!(state & CONN_OFFLOAD_BUSY)) {
                ct_trace_begin(pkt, conn, path);
            }                           /* Else the next one. */
        } else if (ct_offload_wire_is_known(pkt)) {
            /* See ct-offload-path-sample.c. */
            conn_set_state(conn, path, 0);
        }
    }
    if (OVS_LIKELY(!fin && !await)) {
        return;
    }

    batch = conn_batch_enter();
    if (await) {
        conn_learn(batch, ct, conn, pkt, *reply ? CT_DIR_REV : CT_DIR_FWD);
    }
    if (fin) {
        conn_note_reason(conn, CT_OFFLOAD_CLOSING);
        conn_batch_raise(batch, conn, CONN_OFFLOAD_PENDING_DEL,
                    CONN_OFFLOAD_AWAIT_FIN, 0);
    }
    conn_batch_run_if_full(batch);
    conn_batch_leave(batch);
}

/* Returns the batch of the calling thread, in conntrack_execute().  If the
 * first provider came in the middle of that, makes up for
 * conntrack_offload_begin(). */
static struct conn_offload_batch *
get_batch(void)
{
    struct conn_offload_batch *batch = conn_batch_get();

    if (!batch || !batch->depth) {
        batch = conn_batch_enter();
        *conntrack_offload_late_get() = true;
    }
    return batch;
}

void
conntrack_offload_conn_committed__(const struct conn *conn)
{
    conn_run_committed(get_batch(), conn);
}

void
conntrack_offload_conn_changed__(struct conn *conn)
{
    struct conn_offload_batch *batch = get_batch();
    uint32_t state = conn_offload_state(conn);

    /* The commit that creates a connection sets its mark and labels, too.  One
     * that has paths is not new, even if it is about to be offered. */
    if (batch->conns.n && batch->conns.p[batch->conns.n - 1] == conn
        && state & CONN_OFFLOAD_PENDING_ADD && !state_held(state)
        && !(state & CONN_OFFLOAD_PATH_MASK)) {
        return;
    }

    /* Locks are held: only add to the batch. */
    conn_batch_raise(batch, conn, CONN_OFFLOAD_PENDING_DEL, 0, 0);
}

void
conntrack_offload_conn_forced__(struct conn *conn)
{
    struct conn_offload_batch *batch = conn_batch_enter();

    if (conn_doom(conn)) {
        conn_batch_raise(batch, conn, CONN_OFFLOAD_PENDING_DEL, 0, 0);
        conn_batch_run_if_full(batch);
    }
    conn_batch_leave(batch);
}

/* 'conn' is about to be removed from conntrack's tables, after which there may
 * be another connection with its tuple.  No lock may be held. */
void
conntrack_offload_conn_removing(struct conn *conn)
{
    uint32_t state = 0;

    if (OVS_UNLIKELY(!atomic_compare_exchange_strong(&conn->offload_state,
                                                     &state,
                                                     CONN_OFFLOAD_GONE))) {
        conn_doom(conn);
    }
}

/* 'conn' was removed from conntrack, after conntrack_offload_conn_removing().
 * Has 'delete' called for it, as by ovsrcu_postpone(), when the providers are
 * done with it.  No lock may be held. */
void
conntrack_offload_conn_postpone(void (*delete)(struct conn *),
                                struct conn *conn)
{
    /* RCU may take its time to free what nobody holds. */
    if (OVS_UNLIKELY(conn_get_offload(conn))
        && !(conn_offload_state(conn) & (CONN_OFFLOAD_HELD_MASK
                                         | CONN_OFFLOAD_BUSY))) {
        conn_free_offload(conn);
    }
    if (OVS_UNLIKELY(conn_raise_free(conn, delete))) {
        struct conn_offload_batch *batch = conn_batch_enter();

        conns_push(&batch->conns, conn);
        conn_batch_run_if_full(batch);
        conn_batch_leave(batch);
    }
}

/* Returns the CT_DPIF_STATUS_* flags that tell of 'conn' being offloaded. */
uint32_t
conntrack_offload_conn_status(const struct conn *conn)
{
    uint32_t state = conn_offload_state(conn);

    return ((state_held(state) ? CT_DPIF_STATUS_OFFLOAD : 0)
            | (state_is_bi_dir(state) || state & CONN_OFFLOAD_PATH_MASK
               ? CT_DPIF_STATUS_HW_OFFLOAD : 0));
}

/* The sweep. */

/* Returns what to await of packets of 'conn', with this state word, which is
 * alive: those that show where it comes from, if it could be offered to a
 * provider, or is held and may have moved. */
static uint32_t
sweep_await(const struct conn *conn, uint32_t state)
{
    uint32_t both = CONN_OFFLOAD_AWAIT_ORIG | CONN_OFFLOAD_AWAIT_REPLY;

    if (state & (CONN_OFFLOAD_BUSY | CONN_OFFLOAD_GONE)
        || conn_is_closed(conn) || (state & both) == both) {
        return 0;
    }
    if (state_held(state)) {
        return both;
    }
    if (!ct_offload_is_accepting() || !ct_offload_room_is_left()
        || !ct_offload_threads_have_room() || conn_has_helper(conn)) {
        return 0;
    }
    return (ct_offload_accepting(false) || conn_is_established(conn)
            ? both : CONN_OFFLOAD_AWAIT_REPLY);
}

/* Has the providers asked when 'conn', packets of which may bypass software,
 * was last used: because its time is up, or will be by the next sweep.
 * Hardware may have counters only, which tell that packets came between two
 * readings: so there is a reading before the one that decides. */
static void
sweep_ask(struct conn_offload_batch *batch, struct conntrack *ct,
          struct conn *conn, uint32_t event)
{
    struct conn_offload *offload = conn_get_offload(conn);

    if (offload) {
        /* What was added by ct_offload_conn_add() may not know. */
        atomic_store_relaxed(&offload->ct, ct);
    }
    COVERAGE_INC(ct_offload_expiry_asked);
    ct_offload_count(CT_OFFLOAD_N_ASKED, 1);
    conn_batch_raise(batch, conn, event, 0, 0);
    conn_batch_run_if_full(batch);
}

void
conntrack_offload_sweep_conn__(struct conn_offload_batch *batch,
                               struct conntrack *ct, struct conn *conn,
                               long long int now)
{
    uint32_t state = conn_offload_state(conn);
    uint32_t await;

    batch->walking = true;
    if (state & CONN_OFFLOAD_BYPASS && !(state & CONN_OFFLOAD_GONE)) {
        /* Sweeps do not come on the dot. */
        long long int next = now + conntrack_get_sweep_interval(ct) * 3LL / 2;

        if (conn_is_past(conn, now)) {
            sweep_ask(batch, ct, conn, CONN_OFFLOAD_PENDING_LAPSE);
            return;
        }
        if (conn_is_past(conn, next)) {
            sweep_ask(batch, ct, conn, CONN_OFFLOAD_PENDING_UPD);
        }
    } else if (conn_is_past(conn, now)) {
        return;
    }

    await = (sweep_await(conn, state) | conn_await_path(conn)) & ~state;
    if (await) {
        conn_set_state(conn, 0, await);
    }
}

/* Ends what conntrack_offload_begin() began, at the end of a sweep. */
void
conntrack_offload_sweep_end__(struct conn_offload_batch *batch)
{
    /* Connections that this thread owns are not freed, so that it may quiesce
     * before it goes on to the next ones: hardware can be slow. */
    batch->walking = false;
    if (!ct_offload_n_threads()) {
        for (size_t i = 0; i < batch->conns.n; i += CT_OFFLOAD_BATCH_INLINE) {
            conns_drain_all(&batch->run, &batch->conns.p[i],
                            MIN(batch->conns.n - i, CT_OFFLOAD_BATCH_INLINE));
            ovsrcu_quiesce();
        }
        batch->conns.n = 0;
    }
    conn_batch_leave(batch);
    if (!ct_offload_n_threads()) {
        ct_offload_threads_tick();
    }
    ct_offload_room_collect();
}

/* All connections. */

static void
find_one(struct conn *conn, void *wanted_)
{
    const struct conn **wanted = wanted_;

    if (conn == *wanted) {
        *wanted = NULL;
    }
}

/* Finds out where 'conn' is, for its block 'offload', unless that is known. */
void
conntrack_offload_find(const struct conn *conn, struct conn_offload *offload)
{
    struct conntrack_node *node;
    struct conntrack *ct;

    atomic_read_relaxed(&offload->ct, &ct);
    if (ct) {
        return;
    }
    ovs_mutex_lock(&conntracks_mutex);
    LIST_FOR_EACH (node, node, &conntracks) {
        const struct conn *wanted = conn;

        conntrack_for_each_rival(node->ct, conn, CT_DIR_FWD, find_one,
                                 &wanted);
        if (!wanted) {
            atomic_store_relaxed(&offload->ct, node->ct);
        }
    }
    ovs_mutex_unlock(&conntracks_mutex);
}

/* For the registry: see ct_offload_set_take_back(). */
static void
take_back(uint8_t leaving)
{
    /* Threads may still be telling providers of new connections.  Those that
     * own a connection that is to be taken back end that, too. */
    conn_batches_barrier(true);
    conntrack_offload_evict(leaving);
    conn_batches_barrier(true);
}

/* Makes the connections of 'ct' known to the layer, and those who do something
 * for them to what is below this file. */
void
conntrack_offload_init(struct conntrack *ct)
{
    static struct ovsthread_once once = OVSTHREAD_ONCE_INITIALIZER;
    struct conntrack_node *node = xmalloc(sizeof *node);

    if (ovsthread_once_start(&once)) {
        ct_offload_set_take_back(take_back);
        conn_batch_init();
        ovsthread_once_done(&once);
    }

    node->ct = ct;
    ovs_mutex_lock(&conntracks_mutex);
    ovs_list_push_back(&conntracks, &node->node);
    ovs_mutex_unlock(&conntracks_mutex);
}

/* 'ct' has no connections any more, and is about to be freed. */
void
conntrack_offload_destroy(struct conntrack *ct)
{
    struct conntrack_node *node;

    ovs_mutex_lock(&conntracks_mutex);
    LIST_FOR_EACH (node, node, &conntracks) {
        if (node->ct == ct) {
            ovs_list_remove(&node->node);
            free(node);
            break;
        }
    }
    ovs_mutex_unlock(&conntracks_mutex);

    /* Nobody finds connections of 'ct' any more.  Those that were queued, here
     * or by conntrack_offload_evict() in another thread, refer to 'ct'. */
    ct_offload_threads_barrier(false);
}

/* Has the calling thread have a batch.  To be called before 'conntracks_mutex'
 * is taken: a barrier holds the lock that a new batch needs, and may wait for
 * a thread that waits for 'conntracks_mutex' in a batch. */
static void
make_batch(void)
{
    conn_batch_leave(conn_batch_enter());
}

/* Has all connections of 'ct' taken back into software, or those that one of
 * the providers in 'leaving' holds from these only. */
static void
conntrack_evict(struct conntrack *ct, uint8_t leaving)
{
    struct conn_offload_batch *batch = conn_batch_enter();

    for (size_t i = 0; i < N_EXP_LISTS; i++) {
        struct conn *conn;

        RCULIST_FOR_EACH (conn, node, &ct->exp_lists[i]) {
            uint32_t state = conn_offload_state(conn);

            if (leaving ? state_held(state) & leaving
                : (state & (CONN_OFFLOAD_HELD_MASK | CONN_OFFLOAD_BUSY)
                   || conn_get_offload(conn))) {
                conn_batch_raise(batch, conn,
                                 (leaving ? CONN_OFFLOAD_PENDING_UNREG
                                  : CONN_OFFLOAD_PENDING_DEL), 0, 0);
            }
            conn_batch_run_if_full(batch);
        }
    }
    conn_batch_leave(batch);
}

/* Takes connections back into software: if 'leaving' is not 0, those that one
 * of the providers in 'leaving', which are being unregistered, holds, and from
 * these only; otherwise all of them.
 *
 * Connections that have another owner just now are done when that one has
 * ended what it is doing: see conn_batches_barrier(). */
void
conntrack_offload_evict(uint8_t leaving)
{
    struct conntrack_node *node;

    make_batch();
    ovs_mutex_lock(&conntracks_mutex);
    LIST_FOR_EACH (node, node, &conntracks) {
        conntrack_evict(node->ct, leaving);
    }
    ovs_mutex_unlock(&conntracks_mutex);
}

/* Takes the connections on 'netdev', which is about to stop, back into
 * software, and ends the paths that lead there.  When this returns, no
 * provider holds one, and none is being offered.  Costs in proportion to these
 * connections and paths. */
void
conntrack_offload_stop_port(const struct netdev *netdev)
{
    uint32_t port = ct_offload_port_stop(netdev);
    struct conn **conns;
    size_t n;

    if (!port) {
        return;
    }

    /* Whoever has found 'netdev' before may be adding connections. */
    conn_batches_barrier(false);
    conn_run_port_stopped(port);
    n = ct_offload_port_get_conns(port, &conns);
    if (n) {
        struct conn_offload_batch *batch = conn_batch_enter();

        for (size_t i = 0; i < n; i++) {
            conn_batch_raise(batch, conns[i], CONN_OFFLOAD_PENDING_DEL, 0, 0);
            conn_batch_run_if_full(batch);
        }
        conn_batch_leave(batch);
    }
    conn_batches_barrier(false);
    free(conns);
    ct_offload_port_free(port);
}

/* Calls 'cb' with 'aux' for each connection that is known to conntrack, and
 * alive.  It must not remove any. */
void
conntrack_offload_for_each(void (*cb)(struct conn *, void *aux), void *aux)
{
    long long int now = time_msec();
    struct conntrack_node *node;

    make_batch();
    ovs_mutex_lock(&conntracks_mutex);
    LIST_FOR_EACH (node, node, &conntracks) {
        for (size_t i = 0; i < N_EXP_LISTS; i++) {
            struct conn *conn;

            RCULIST_FOR_EACH (conn, node, &node->ct->exp_lists[i]) {
                if (conntrack_offload_alive(conn, now)) {
                    cb(conn, aux);
                }
            }
        }
    }
    ovs_mutex_unlock(&conntracks_mutex);
}

/* Appends to 'ds' what there is to say of 'conn': who holds it, or why nobody
 * does. */
void
conntrack_offload_explain(struct conn *conn, struct ds *ds)
{
    struct conn_offload_batch *batch = conn_batch_enter();
    uint32_t state = conn_offload_state(conn);

    ct_offload_conn_format(conn, ds);
    if (state_held(state)) {
        ds_put_format(ds, "\n  in hardware: %s\n",
                      state_is_bi_dir(state) ? "bi-dir"
                      : state_is_established(state) ? "uni-dir"
                      : "not established");
        if (conn_own(conn, 0)) {
            struct conn_offload *offload = conn_get_offload(conn);

            if (offload) {
                ct_offload_format_held(conn,
                                       state_held(conn_offload_state(conn)),
                                       offload->priv, ds);
            }
            conns_push(&batch->conns, conn);
        } else {
            ds_put_cstr(ds, "  an operation is running, no details\n");
        }
    } else if (state & CONN_OFFLOAD_BUSY) {
        ds_put_cstr(ds, "\n  in software: being offered\n");
    } else {
        ds_put_format(ds, "\n  in software: %s\n",
                      ct_offload_reason_to_string(conn_reason(conn)));
    }
    conn_batch_run_if_full(batch);
    conn_batch_leave(batch);
}
