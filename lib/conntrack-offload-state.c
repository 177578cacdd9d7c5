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

#include "conntrack-offload-state.h"

#include <netinet/in.h>
#include <string.h>

#include "ct-dpif.h"
#include "hash.h"
#include "odp-util.h"
#include "openvswitch/dynamic-string.h"
#include "ovs-rcu.h"
#include "ovs-thread.h"
#include "util.h"

/* How conntrack frees a connection.  Known before CONN_OFFLOAD_FREE is set in
 * any. */
static ATOMIC(void (*)(struct conn *)) conn_delete;

/* The state word. */

static bool
state_swap(struct conn *conn, uint32_t *old, uint32_t new)
{
    return atomic_compare_exchange_weak_explicit(&conn->offload_state,
                                                 old, new,
                                                 memory_order_acq_rel,
                                                 memory_order_acquire);
}

/* Returns the events that are not to be done if 'events' come after them. */
static uint32_t
events_cancelled_by(uint32_t events)
{
    return (events_have_del(events)
            ? CONN_OFFLOAD_PENDING_ADD | CONN_OFFLOAD_PENDING_EST : 0);
}

/* Raises 'events', CONN_OFFLOAD_PENDING_* bits, for 'conn'.  Clears the bits
 * 'clear' and sets the bits 'set' as well.  Returns true if the calling thread
 * owns 'conn' now and has to do them, false if 'conn' has an owner already,
 * which will, or if there is nothing to be done for 'conn' any more. */
bool
conn_raise(struct conn *conn, uint32_t events, uint32_t clear, uint32_t set)
{
    uint32_t old = conn_offload_state(conn);
    uint32_t new;

    clear |= events_cancelled_by(events);
    do {
        if (state_is_over(old)) {
            conn_undoom(conn);
            return false;
        }
        new = (old & ~clear) | set | events | CONN_OFFLOAD_BUSY;
    } while (!state_swap(conn, &old, new));

    return !(old & CONN_OFFLOAD_BUSY);
}

/* Makes the calling thread the owner of 'conn', or, if it has an owner, leaves
 * 'events' to that one.  Returns true if the calling thread owns 'conn' now.
 */
bool
conn_own(struct conn *conn, uint32_t events)
{
    uint32_t clear = events_cancelled_by(events);
    uint32_t old = conn_offload_state(conn);
    uint32_t new;

    do {
        if (state_is_over(old)) {
            return false;
        }
        new = (old & CONN_OFFLOAD_BUSY
               ? (old & ~clear) | events
               : old | CONN_OFFLOAD_BUSY);
    } while (!state_swap(conn, &old, new));

    return !(old & CONN_OFFLOAD_BUSY);
}

/* For the owner: returns the events that wait for it, and takes them from
 * there. */
uint32_t
conn_take_events(struct conn *conn)
{
    uint32_t state;

    atomic_and_explicit(&conn->offload_state, ~CONN_OFFLOAD_PENDING_MASK,
                        &state, memory_order_acq_rel);
    return state & CONN_OFFLOAD_PENDING_MASK;
}

/* For the owner: 'events', which it has taken, have to wait, unless something
 * that was raised meanwhile cancels them. */
void
conn_put_back(struct conn *conn, uint32_t events)
{
    uint32_t old = conn_offload_state(conn);

    while (events && !state_swap(conn, &old,
                                 old | (events & ~events_cancelled_by(old)))) {
        continue;
    }
}

/* For the owner: gives 'conn' up, unless there is something pending.  Hands it
 * to RCU if conntrack has left that to the owner; it is BUSY for ever then, so
 * that nobody who can still see it does anything with it.  Returns true if the
 * calling thread does not own 'conn' any more. */
bool
conn_disown(struct conn *conn)
{
    uint32_t old = conn_offload_state(conn);
    uint32_t new;

    do {
        if (old & CONN_OFFLOAD_PENDING_MASK) {
            return false;
        }
        new = old & CONN_OFFLOAD_FREE ? old : old & ~CONN_OFFLOAD_BUSY;
    } while (!state_swap(conn, &old, new));

    if (old & CONN_OFFLOAD_FREE) {
        void (*delete)(struct conn *);

        atomic_read_relaxed(&conn_delete, &delete);
        ovsrcu_postpone(delete, conn);
    }
    return true;
}

/* Clears the bits 'clear' and sets the bits 'set' of the state word of 'conn'.
 * Returns what that was before. */
uint32_t
conn_set_state(struct conn *conn, uint32_t clear, uint32_t set)
{
    uint32_t old = conn_offload_state(conn);

    while (!state_swap(conn, &old, (old & ~clear) | set)) {
        continue;
    }
    return old;
}

/* Notes that 'conn' is, or is about to be, in software for 'reason'. */
void
conn_note_reason(struct conn *conn, enum ct_offload_reason reason)
{
    uint8_t old = conn_reason(conn);

    while (old != CT_OFFLOAD_CLOSING && old != reason
           && !atomic_compare_exchange_weak_explicit(&conn->offload_reason,
                                                     &old, reason,
                                                     memory_order_relaxed,
                                                     memory_order_relaxed)) {
        continue;
    }
}

/* Order between connections. */

/* Number of slots.  If two connections have one in common, a successor of one
 * waits for the other as well. */
#define N_DOOMED 16384
static atomic_uint doomed[N_DOOMED];

/* Returns the slot of the tuple that packets of 'conn' have in direction
 * 'dir'.  It is the same for the reverse tuple. */
static atomic_uint *
doomed_slot(const struct conn *conn, enum key_dir dir)
{
    const struct conn_key *key = &conn->key_node[dir].key;
    uint32_t hash = hash_bytes(&key->src, sizeof key->src, key->nw_proto)
                    ^ hash_bytes(&key->dst, sizeof key->dst, key->nw_proto);

    return &doomed[hash_int(hash, key->zone) % N_DOOMED];
}

static void
doomed_add(const struct conn *conn)
{
    for (int dir = 0; dir < CT_DIRS; dir++) {
        unsigned int orig;

        atomic_add(doomed_slot(conn, dir), 1, &orig);
    }
}

static void
doomed_sub(const struct conn *conn)
{
    for (int dir = 0; dir < CT_DIRS; dir++) {
        unsigned int orig;

        atomic_sub(doomed_slot(conn, dir), 1, &orig);
    }
}

/* 'conn' is about to leave conntrack's tables, or not to be found there any
 * more.  From now on it is never offered, and if it may be held then its
 * successors wait for its DEL.  The caller goes on to raise that.  Returns
 * false if that is being done already. */
bool
conn_doom(struct conn *conn)
{
    uint32_t old = conn_offload_state(conn);
    bool counted = false;
    bool doom;

    do {
        doom = (!(old & CONN_OFFLOAD_GONE)
                && old & (CONN_OFFLOAD_HELD_MASK | CONN_OFFLOAD_PATH_MASK
                          | CONN_OFFLOAD_BUSY));
        if (doom && !counted) {
            doomed_add(conn);
            counted = true;
        }
    } while (!state_swap(conn, &old, (old | CONN_OFFLOAD_GONE
                                      | (doom ? CONN_OFFLOAD_DOOMED : 0))));
    if (counted && !doom) {
        doomed_sub(conn);
    }
    return !(old & CONN_OFFLOAD_GONE);
}

/* No provider holds 'conn' any more, or will.  (It may have had an owner when
 * it was doomed, but none now.) */
void
conn_undoom(struct conn *conn)
{
    uint32_t old;

    if (conn_offload_state(conn) & CONN_OFFLOAD_DOOMED) {
        atomic_and_explicit(&conn->offload_state, ~CONN_OFFLOAD_DOOMED, &old,
                            memory_order_acq_rel);
        if (old & CONN_OFFLOAD_DOOMED) {
            doomed_sub(conn);
        }
    }
}

/* 'conn', for which conn_doom() was called, is to be freed by 'delete' when
 * RCU allows that.  If no provider is concerned, does that.  Otherwise leaves
 * it to the owner, together with DEL, and returns true if that is the calling
 * thread now. */
bool
conn_raise_free(struct conn *conn, void (*delete)(struct conn *))
{
    uint32_t old = conn_offload_state(conn);
    void (*old_delete)(struct conn *);

    atomic_read_relaxed(&conn_delete, &old_delete);
    if (OVS_UNLIKELY(old_delete != delete)) {
        atomic_store_relaxed(&conn_delete, delete);
    }
    do {
        if (OVS_LIKELY(state_is_over(old))) {
            conn_undoom(conn);
            ovsrcu_postpone(delete, conn);
            return false;
        }
    } while (!state_swap(conn, &old,
                         ((old & ~events_cancelled_by(
                               CONN_OFFLOAD_PENDING_DEL))
                          | CONN_OFFLOAD_PENDING_DEL | CONN_OFFLOAD_FREE
                          | CONN_OFFLOAD_BUSY)));

    return !(old & CONN_OFFLOAD_BUSY);
}

/* May providers still hold a connection that 'conn', which is alive, has
 * followed? */
bool
conn_is_preceded(const struct conn *conn)
{
    for (int dir = 0; dir < CT_DIRS; dir++) {
        unsigned int n;

        atomic_read(doomed_slot(conn, dir), &n);
        if (n) {
            return true;
        }
    }
    return false;
}

/* The block. */

/* Makes 'new' the block of 'conn', unless it has one.  Returns that which it
 * has now. */
struct conn_offload *
conn_attach_offload(struct conn *conn, struct conn_offload *new)
{
    struct conn_offload *old = NULL;

    return (atomic_compare_exchange_strong_explicit(&conn->offload, &old, new,
                                                    memory_order_acq_rel,
                                                    memory_order_acquire)
            ? new : old);
}

/* Takes the block from 'conn', and returns it, or NULL if there is none.
 * Other threads may be using it until they quiesce.  Whoever raises an event
 * after this returns, and looks for the block then, does not find it. */
struct conn_offload *
conn_detach_offload(struct conn *conn)
{
    struct conn_offload *offload;

    offload = atomic_exchange_explicit(&conn->offload, NULL,
                                       memory_order_acq_rel);
    if (offload) {
        conn_set_state(conn, 0, 0);
    }
    return offload;
}

/* Bits of 'how' in struct conn_offload.  The tag is in the upper half. */
enum {
    HOW_KNOWN = 1 << 0,
    HOW_UNMODIFIED = 1 << 1,
    HOW_VLAN_SHIFT = 2,             /* 'enum ct_offload_vlan'. */
    HOW_VLAN_MASK = 3 << 2,
    HOW_BEING_SET = 1 << 4,         /* By the only thread that may. */
    HOW_TCI_SHIFT = 16,
};

static uint32_t
how_from_ctx(const struct ct_offload_ctx *ctx)
{
    return (HOW_KNOWN | (ctx->unmodified ? HOW_UNMODIFIED : 0)
            | (uint32_t) ctx->vlan << HOW_VLAN_SHIFT
            | (uint32_t) ntohs(ctx->vlan_tci) << HOW_TCI_SHIFT);
}

static uint32_t
how_read(struct conn_offload *offload, enum key_dir dir)
{
    uint32_t how;

    atomic_read_explicit(&offload->how[dir], &how, memory_order_acquire);
    return how;
}

/* Remembers in 'offload' that packets of direction 'dir' come from 'port', a
 * number from ct-offload-port.h or 0, and otherwise are as 'ctx' says, if that
 * is not known.  Of several threads that do so at once, the first one wins. */
void
conn_side_set(struct conn_offload *offload, enum key_dir dir, uint32_t port,
              const struct ct_offload_ctx *ctx)
{
    uint64_t where = ((uint64_t) port << 32
                      | odp_to_u32(ctx->input_port_id));
    uint32_t unknown = 0;

    if (atomic_compare_exchange_strong_explicit(&offload->how[dir], &unknown,
                                                HOW_BEING_SET,
                                                memory_order_acquire,
                                                memory_order_relaxed)) {
        atomic_store_relaxed(&offload->where[dir], where);
        atomic_store_explicit(&offload->how[dir], how_from_ctx(ctx),
                              memory_order_release);
    }
}

/* Forgets what 'offload' knows of direction 'dir'.  For the owner. */
void
conn_side_clear(struct conn_offload *offload, enum key_dir dir)
{
    uint32_t how = how_read(offload, dir);

    if (how & HOW_KNOWN) {
        atomic_store_relaxed(&offload->how[dir], 0);
    }
}

/* If 'offload' knows where packets of direction 'dir' come from, stores the
 * number of the port in '*port', the rest but 'netdev_in' in 'ctx', and
 * returns true. */
bool
conn_side_get(struct conn_offload *offload, enum key_dir dir,
              struct ct_offload_ctx *ctx, uint32_t *port)
{
    uint32_t how = how_read(offload, dir);
    uint64_t where;

    atomic_read_relaxed(&offload->where[dir], &where);
    *port = where >> 32;
    ctx->input_port_id = u32_to_odp((uint32_t) where);
    ctx->unmodified = (how & HOW_UNMODIFIED) != 0;
    ctx->vlan = (how & HOW_VLAN_MASK) >> HOW_VLAN_SHIFT;
    ctx->vlan_tci = htons(how >> HOW_TCI_SHIFT);
    return (how & HOW_KNOWN) != 0;
}

/* Does 'offload' know where packets of direction 'dir' come from? */
bool
conn_side_is_known(struct conn_offload *offload, enum key_dir dir)
{
    return how_read(offload, dir) & HOW_KNOWN;
}

/* Does a packet of direction 'dir' from 'port', otherwise as 'ctx' says, show
 * that what 'offload' knows is out of date?  Not if it is one that tells less,
 * such as a fragment. */
bool
conn_side_has_moved(struct conn_offload *offload, enum key_dir dir,
                    uint32_t port, const struct ct_offload_ctx *ctx)
{
    struct ct_offload_ctx old;
    uint32_t old_port;

    if (!port || !conn_side_get(offload, dir, &old, &old_port)) {
        return false;
    }
    if (port != old_port) {
        return true;
    }
    return (ctx->unmodified
            && (!old.unmodified || ctx->vlan != old.vlan
                || (ctx->vlan_tci ^ old.vlan_tci) & htons(VLAN_VID_MASK)));
}

/* The connection itself. */

/* Is 'conn' established: have both peers of a TCP connection said so, or has
 * any other had a valid reply?  Conntrack's choice of a timeout tells. */
bool
conn_is_established(const struct conn *conn)
{
    int timeout;

    atomic_read_relaxed(&CONST_CAST(struct conn *, conn)->timeout, &timeout);
    return (timeout == CT_TM_TCP_ESTABLISHED || timeout == CT_TM_OTHER_BIDIR
            || timeout == CT_TM_ICMP_REPLY);
}

/* Has 'conn', a TCP connection or not, begun to close?  Takes 'conn->lock':
 * who sets CONN_OFFLOAD_AWAIT_FIN before either sees here what a FIN has done,
 * or is told of the FIN. */
bool
conn_is_closing(const struct conn *conn)
{
    uint8_t orig, reply;

    return (ct_offload_conn_get_tcp_state(conn, &orig, &reply)
            && MAX(orig, reply) > CT_DPIF_TCPS_ESTABLISHED);
}

/* Are packets with 'key' those of a helper's control connection, going by
 * their ports? */
static bool
key_has_helper(const struct conn_key *key)
{
    enum { FTP_PORT = 21, TFTP_PORT = 69 };

    return ((key->nw_proto == IPPROTO_TCP
             && (key->src.port == htons(FTP_PORT)
                 || key->dst.port == htons(FTP_PORT)))
            || (key->nw_proto == IPPROTO_UDP
                && key->dst.port == htons(TFTP_PORT)));
}

/* Has 'conn' a helper?  Such connections are never offloaded: software has to
 * read and sometimes to change their payload. */
bool
conn_has_helper(const struct conn *conn)
{
    return (conn->alg
            || key_has_helper(&conn->key_node[CT_DIR_FWD].key)
            || key_has_helper(&conn->key_node[CT_DIR_REV].key));
}

/* Is the time of 'conn' up at time 'now', as far as software knows? */
bool
conn_is_past(const struct conn *conn, long long int now)
{
    long long int expiration;

    atomic_read_relaxed(&CONST_CAST(struct conn *, conn)->expiration,
                        &expiration);
    return now >= expiration;
}

/* What providers may ask. */

/* Is 'conn' held by any provider? */
bool
ct_offload_conn_is_offloaded(const struct conn *conn)
{
    return state_held(conn_offload_state(conn)) != 0;
}

/* Has every provider that holds 'conn' been told of its establishment? */
bool
ct_offload_conn_is_established(const struct conn *conn)
{
    return state_is_established(conn_offload_state(conn));
}

static void
endpoint_to_inet_addr(const struct ct_endpoint *endpoint, bool ipv6,
                      union ct_dpif_inet_addr *addr)
{
    if (ipv6) {
        addr->in6 = endpoint->addr.ipv6;
    } else {
        addr->ip = endpoint->addr.ipv4;
    }
}

/* Stores in '*tuple' the original or reply tuple of 'conn', addresses and
 * ports in network byte order. */
void
ct_offload_conn_get_tuple(const struct conn *conn, bool reply,
                          struct ct_dpif_tuple *tuple)
{
    const struct conn_key *key
        = &conn->key_node[reply ? CT_DIR_REV : CT_DIR_FWD].key;
    bool ipv6 = key->dl_type == htons(ETH_TYPE_IPV6);

    memset(tuple, 0, sizeof *tuple);
    tuple->l3_type = ipv6 ? AF_INET6 : AF_INET;
    tuple->ip_proto = key->nw_proto;
    endpoint_to_inet_addr(&key->src, ipv6, &tuple->src);
    endpoint_to_inet_addr(&key->dst, ipv6, &tuple->dst);
    if (key->nw_proto == IPPROTO_ICMP || key->nw_proto == IPPROTO_ICMPV6) {
        tuple->icmp_id = key->src.icmp_id;
        tuple->icmp_type = key->src.icmp_type;
        tuple->icmp_code = key->src.icmp_code;
    } else {
        tuple->src_port = key->src.port;
        tuple->dst_port = key->dst.port;
    }
}

/* Returns the zone of 'conn'. */
uint16_t
ct_offload_conn_get_zone(const struct conn *conn)
{
    return conn->key_node[CT_DIR_FWD].key.zone;
}

/* Returns the mark of 'conn'. */
uint32_t
ct_offload_conn_get_mark(const struct conn *conn)
{
    uint32_t mark;

    ovs_mutex_lock(&conn->lock);
    mark = conn->mark;
    ovs_mutex_unlock(&conn->lock);

    return mark;
}

/* Returns the labels of 'conn'. */
ovs_u128
ct_offload_conn_get_labels(const struct conn *conn)
{
    ovs_u128 labels;

    ovs_mutex_lock(&conn->lock);
    labels = conn->label;
    ovs_mutex_unlock(&conn->lock);

    return labels;
}

/* Does NAT change the source of packets of 'conn' in original direction? */
bool
ct_offload_conn_is_snat(const struct conn *conn)
{
    return conn->nat_action & NAT_ACTION_SRC;
}

/* Does NAT change the destination of packets of 'conn' in original direction?
 */
bool
ct_offload_conn_is_dnat(const struct conn *conn)
{
    return conn->nat_action & NAT_ACTION_DST;
}

/* If 'conn' is a TCP connection, stores the states of the peer that sends in
 * original direction and of the one that sends in reply direction in '*orig'
 * and '*reply' (enum ct_dpif_tcp_state) and returns true.  Otherwise returns
 * false. */
bool
ct_offload_conn_get_tcp_state(const struct conn *conn, uint8_t *orig,
                              uint8_t *reply)
{
    struct ct_dpif_protoinfo info;

    if (!conn_is_tcp(conn)) {
        return false;
    }

    ovs_mutex_lock(&conn->lock);
    ct_proto_tcp.conn_get_protoinfo(conn, &info);
    ovs_mutex_unlock(&conn->lock);

    *orig = info.tcp.state_orig;
    *reply = info.tcp.state_reply;
    return true;
}

/* If 'conn' is a TCP connection, stores what is known of the peer that sends
 * in original direction in 'peers[0]' and of the other one in 'peers[1]' and
 * returns true.  Otherwise returns false. */
bool
ct_offload_conn_get_tcp_peers(const struct conn *conn,
                              struct ct_offload_tcp_peer peers[2])
{
    if (!conn_is_tcp(conn)) {
        return false;
    }

    ovs_mutex_lock(&conn->lock);
    conntrack_tcp_get_peers(conn, peers);
    ovs_mutex_unlock(&conn->lock);
    return true;
}

/* Appends to 'ds' what identifies 'conn', in the style of
 * "dpctl/dump-conntrack". */
void
ct_offload_conn_format(const struct conn *conn, struct ds *ds)
{
    struct ct_dpif_tuple tuple;
    uint16_t zone = ct_offload_conn_get_zone(conn);

    ct_offload_conn_get_tuple(conn, false, &tuple);
    ct_dpif_format_ipproto(ds, tuple.ip_proto);
    ds_put_cstr(ds, ",orig=(");
    ct_dpif_format_tuple(ds, &tuple);
    ds_put_cstr(ds, "),reply=(");
    ct_offload_conn_get_tuple(conn, true, &tuple);
    ct_dpif_format_tuple(ds, &tuple);
    ds_put_char(ds, ')');
    if (zone) {
        ds_put_format(ds, ",zone=%"PRIu16, zone);
    }
}
