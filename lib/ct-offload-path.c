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

#include "ct-offload-path.h"

#include <string.h>

#include "conntrack-offload-batch.h"
#include "conntrack-offload.h"
#include "coverage.h"
#include "ct-offload-fence.h"
#include "ct-offload-path-private.h"
#include "ct-offload-private.h"
#include "ct-offload-thread.h"
#include "dpif.h"
#include "hash.h"
#include "openvswitch/usdt-probes.h"
#include "ovs-rcu.h"
#include "timeval.h"

COVERAGE_DEFINE(ct_path_del);
COVERAGE_DEFINE(ct_path_late);

/* For how long, in ms, a thread that removes megaflows may wait for hardware
 * within such a time. */
#define SYNC_MS 10
#define SYNC_PERIOD_MS 500
#define SYNC_STEP_US 200

/* An offload thread ends paths for no longer than that, in us, before it
 * quiesces. */
#define DYING_US 5000

/* All paths, by what they match; and what ties them to connections. */
static struct hmap paths[PATH_N_PARTS] OVS_GUARDED_BY(ct_chains_mutex);
static struct hmap path_conns[PATH_N_PARTS] OVS_GUARDED_BY(ct_chains_mutex);
static size_t n_paths OVS_GUARDED_BY(ct_chains_mutex);

/* What ties them to ct() actions that found nothing.  Readers need no lock. */
static struct cmap path_misses = CMAP_INITIALIZER;

/* A path is not held any more, was asked, or was destroyed. */
static pthread_cond_t paths_cond = PTHREAD_COND_INITIALIZER;

struct ct_path_counts ct_path_counts;
atomic_llong ct_path_pass_ms = 0;

/* Tables. */

/* A part uses the lower bits of a hash. */
static struct hmap *
part_of(struct hmap parts[], uint32_t hash)
{
    return &parts[hash >> (32 - PATH_PART_BITS)];
}

static uint32_t
tuple_hash(const struct ct_dpif_tuple *t, uint32_t basis)
{
    return hash_bytes(&t->src, sizeof t->src,
                      hash_bytes(&t->dst, sizeof t->dst,
                                 hash_3words((OVS_FORCE uint32_t) t->src_port
                                             << 16
                                             | (OVS_FORCE uint32_t)
                                               t->dst_port,
                                             t->ip_proto, basis)));
}

/* Returns the number of paths. */
size_t
ct_path_count(void)
{
    size_t n;

    ovs_mutex_lock(&ct_chains_mutex);
    n = n_paths;
    ovs_mutex_unlock(&ct_chains_mutex);
    return n;
}

/* Returns the next path in part number 'part' of the table after '*pos', which
 * is all zeros at first, or NULL.  The mutex may be released between two
 * calls: what is made or ends meanwhile may be left out. */
struct path *
ct_path_next(size_t part, struct hmap_position *pos)
{
    struct hmap_node *node = hmap_at_position(&paths[part], pos);

    return node ? CONTAINER_OF(node, struct path, node) : NULL;
}

/* Returns connection number 'i' of 'path', and in '*reply', if that is
 * nonnull, its direction. */
struct conn *
ct_path_get_conn(const struct path *path, size_t i, bool *reply)
{
    uintptr_t conn = path->conns[i].conn;

    if (reply) {
        *reply = conn & PATH_CONN_REPLY;
    }
    return (struct conn *) (conn & ~(uintptr_t) PATH_CONN_MASK);
}

/* Returns the first connection of 'path' that is established, and in '*reply'
 * its direction: the one that waits for packets. */
struct conn *
ct_path_get_lead(const struct path *path, bool *reply)
{
    for (size_t i = 0; i < path->n_conns; i++) {
        struct conn *conn = ct_path_get_conn(path, i, reply);

        if (conn_is_established(conn)) {
            return conn;
        }
    }
    return ct_path_get_conn(path, 0, reply);
}

static struct path *
path_conn_get_path(const struct path_conn *pc)
{
    const struct path_conn *first = pc - (pc->conn & PATH_CONN_INDEX);

    return CONTAINER_OF(CONST_CAST(struct path_conn *, first), struct path,
                        conns[0]);
}

/* Returns the next path of 'conn' after 'last', which may be NULL. */
static struct path *
conn_next_path(const struct conn *conn, const struct path *last)
    OVS_REQUIRES(ct_chains_mutex)
{
    uint32_t hash = hash_pointer(conn, 0);
    struct path_conn *pc;

    HMAP_FOR_EACH_WITH_HASH (pc, node, hash, part_of(path_conns, hash)) {
        struct path *path = path_conn_get_path(pc);

        if (ct_path_get_conn(path, pc->conn & PATH_CONN_INDEX, NULL) != conn) {
            continue;
        } else if (!last) {
            return path;
        } else if (path == last) {
            last = NULL;
        }
    }
    return NULL;
}

/* Returns a path that is the original, or the reply, direction of 'conn', or
 * NULL. */
struct path *
ct_path_of_conn(const struct conn *conn, bool reply)
{
    struct path *path = NULL;

    while ((path = conn_next_path(conn, path))) {
        for (size_t i = 0; i < path->n_conns; i++) {
            bool r;

            if (ct_path_get_conn(path, i, &r) == conn && r == reply) {
                return path;
            }
        }
    }
    return NULL;
}

/* 'path' is there, with its connections, until ct_path_unhold(). */
void
ct_path_hold(struct path *path)
{
    path->n_holds++;
}

void
ct_path_unhold(struct path *path)
{
    if (!--path->n_holds) {
        xpthread_cond_broadcast(&paths_cond);
    }
}

static struct path_miss *
path_get_misses(const struct path *path)
{
    return (struct path_miss *) &path->conns[path->n_conns];
}

size_t
ct_path_count_misses(const struct ct_chain_key *key)
{
    size_t n = 0;

    for (size_t i = 0; i < key->n_cts; i++) {
        n += key->cts[i] == CT_CHAIN_MISS;
    }
    return n;
}

/* Connections. */

/* Stores in '*mc' what ct() finds in 'conn', which may be NULL. */
static void
describe_conn(const struct conn *conn, bool reply, struct ct_merge_conn *mc)
{
    memset(mc, 0, sizeof *mc);
    if (!conn) {
        mc->kind = CT_MERGE_MISS;
        return;
    }
    mc->kind = (conn_is_established(conn) ? CT_MERGE_ESTABLISHED
                : CT_MERGE_ONE_WAY);
    mc->reply = reply;
    mc->snat = ct_offload_conn_is_snat(conn);
    mc->dnat = ct_offload_conn_is_dnat(conn);
    ct_offload_conn_get_tuple(conn, false, &mc->tuple[0]);
    ct_offload_conn_get_tuple(conn, true, &mc->tuple[1]);
}

/* The same, with what is guarded by the lock of 'conn'. */
void
ct_path_describe_conn(const struct conn *conn, bool reply,
                     struct ct_merge_conn *mc)
    OVS_EXCLUDED(ct_chains_mutex)
{
    describe_conn(conn, reply, mc);
    if (conn) {
        mc->mark = ct_offload_conn_get_mark(conn);
        mc->label = ct_offload_conn_get_labels(conn);
    }
}

/* Computes '*values' of 'path' again, which is held.  Returns false if its
 * connections have just changed, and it is about to end. */
bool
ct_path_describe(const struct path *path, struct ct_merge_path *values)
{
    const struct ct_chain_key *key = &path->chain->key;
    struct ct_merge_conn conns[CT_MERGE_MAX_CONNS];

    for (size_t i = 0; i < key->n_cts; i++) {
        const struct conn *conn
            = (key->cts[i] == CT_CHAIN_MISS ? NULL
               : ct_path_get_conn(path, key->cts[i], NULL));

        ct_path_describe_conn(conn, key->replies & 1u << i, &conns[i]);
    }
    return !ct_merge_instantiate(path->chain->merge, conns, NULL, values);
}

/* Stores in '*wire' the tuple that packets of 'path' have on the wire. */
static void
path_get_wire(const struct path *path, struct ct_dpif_tuple *wire)
{
    const struct ct_merge *merge = path->chain->merge;
    const struct ct_chain_key *key = &path->chain->key;
    struct ct_merge_conn first;

    describe_conn(ct_path_get_conn(path, key->cts[merge->first], NULL),
                  key->replies & 1u << merge->first, &first);
    ct_merge_get_wire(merge, &first, wire);
}

/* Life. */

/* Do packets of 'a' and 'b' arrive in the same tunnel, or both in none? */
static bool
tunnel_is_same(const struct flow_tnl *a, const struct flow_tnl *b)
{
    return (a->ip_src == b->ip_src && a->ip_dst == b->ip_dst
            && ipv6_addr_equals(&a->ipv6_src, &b->ipv6_src)
            && ipv6_addr_equals(&a->ipv6_dst, &b->ipv6_dst)
            && a->tun_id == b->tun_id && a->tp_dst == b->tp_dst);
}

/* Returns a path that matches packets with 'wire' of 'chain', or NULL. */
struct path *
ct_path_find(const struct ct_chain *chain, const struct ct_dpif_tuple *wire)
    OVS_REQUIRES(ct_chains_mutex)
{
    const struct match *match = &chain->merge->match;
    uint32_t hash = tuple_hash(wire, chain->ports[0]);
    struct path *p;

    HMAP_FOR_EACH_WITH_HASH (p, node, hash, part_of(paths, hash)) {
        const struct match *m = &p->chain->merge->match;
        struct ct_dpif_tuple other;

        if (p->chain->ports[0] == chain->ports[0]
            && m->flow.vlans[0].tci == match->flow.vlans[0].tci
            && tunnel_is_same(&m->flow.tunnel, &match->flow.tunnel)) {
            path_get_wire(p, &other);
            if (!memcmp(&other, wire, sizeof other)) {
                return p;
            }
        }
    }
    return NULL;
}

/* Puts 'path', whose packets have 'values', in all tables.  The calling thread
 * owns its connections. */
void
ct_path_link(struct path *path, const struct ct_merge_path *values)
    OVS_REQUIRES(ct_chains_mutex)
{
    struct path_miss *miss = path_get_misses(path);
    struct ct_chain *chain = path->chain;
    uint32_t hash = tuple_hash(&values->wire, chain->ports[0]);

    path->state = PATH_NEW;
    hmap_insert(part_of(paths, hash), &path->node, hash);
    n_paths++;
    ovs_list_push_back(&chain->paths, &path->chain_node);
    chain->n_paths++;
    for (size_t i = 0; i < path->n_conns; i++) {
        struct path_conn *pc = &path->conns[i];
        bool reply;
        struct conn *conn = ct_path_get_conn(path, i, &reply);

        hash = hash_pointer(conn, 0);
        hmap_insert(part_of(path_conns, hash), &pc->node, hash);

        /* Packets may bypass software before the provider returns.  A reply to
         * what has had none ends the path, and so does its end. */
        conn_set_paths(conn, 0, (state_path_bit(reply) | CONN_OFFLOAD_BYPASS
                                 | CONN_OFFLOAD_NO_SEQ_CHK
                                 | (conn_is_established(conn) ? 0
                                    : conn_await_reply(conn))));
        conn_note_path(conn, reply, CONN_PATH_OK);
    }
    for (size_t i = 0; i < chain->key.n_cts; i++) {
        if (chain->key.cts[i] == CT_CHAIN_MISS) {
            miss->path = path;
            miss->hash = tuple_hash(&values->seen[i], chain->key.zones[i]);
            cmap_insert(&path_misses, &miss->node, miss->hash);
            miss++;
        }
    }
}

/* From now on nobody but the caller, who goes on to call path_destroy(), does
 * anything with 'path'.  'end' is why. */
static void
path_unlink(struct path *path, enum path_end end)
    OVS_REQUIRES(ct_chains_mutex)
{
    path->state = PATH_ENDING;
    while (path->n_holds) {
        ovs_mutex_cond_wait(&paths_cond, &ct_chains_mutex);
    }
    ct_path_counts.ended[end]++;
}

/* Takes 'path' from all tables. */
static void
path_remove(struct path *path)
    OVS_REQUIRES(ct_chains_mutex)
{
    struct path_miss *misses = path_get_misses(path);
    size_t n_misses = ct_path_count_misses(&path->chain->key);

    hmap_remove(part_of(paths, path->node.hash), &path->node);
    n_paths--;
    ovs_list_remove(&path->chain_node);
    for (size_t i = 0; i < path->n_conns; i++) {
        struct hmap_node *node = &path->conns[i].node;

        hmap_remove(part_of(path_conns, node->hash), node);
    }
    for (size_t i = 0; i < n_misses; i++) {
        cmap_remove(&path_misses, &misses[i].node, misses[i].hash);
    }
}

/* The provider has counted 'stats' for 'path', in all, until 'now', in ms. */
static void
path_credit(struct path *path, const struct dpif_flow_stats *stats,
            long long int now)
    OVS_REQUIRES(ct_chains_mutex)
{
    if (stats->n_packets > path->n_packets) {
        path->used = now;
        path->moved = true;
        ct_chain_credit(path->chain, stats->n_packets - path->n_packets,
                        stats->n_bytes - path->n_bytes, path->used);
        path->n_packets = stats->n_packets;
        path->n_bytes = stats->n_bytes;
    }
}

/* Connections of 'path', which is not in the tables any more, go on without
 * it.  One of them is traced again, if that makes sense. */
static void
path_release_conns(struct path *path, enum path_end end)
    OVS_REQUIRES(ct_chains_mutex)
{
    /* After PATH_END_CONN, it may be another connection that has gone. */
    bool again = (end != PATH_END_CONFIG && end != PATH_END_KEY
                  && end != PATH_END_ERROR);
    const struct conn *lead = ct_path_get_lead(path, NULL);

    for (size_t i = 0; i < path->n_conns; i++) {
        bool reply;
        struct conn *conn = ct_path_get_conn(path, i, &reply);
        uint32_t state = conn_offload_state(conn);
        uint32_t clear;

        /* Packets may reach a connection by more ways than one. */
        clear = ct_path_of_conn(conn, reply) ? 0 : state_path_bit(reply);
        if (!(state & CONN_OFFLOAD_PATH_MASK & ~clear)
            && !ct_offload_may_bypass(state_est(state))) {
            clear |= CONN_OFFLOAD_BYPASS;
        }
        conn_set_paths(conn, clear,
                       conn == lead && again && clear & state_path_bit(reply)
                       && state_is_established(state)
                       ? state_await_path_bit(reply) : 0);
    }
}

/* Has the provider give up 'path', after path_unlink(), and frees it. */
static void
path_destroy(struct path *path, enum path_end end)
    OVS_EXCLUDED(ct_chains_mutex)
{
    struct ct_chain *chain = path->chain;
    struct dpif_flow_stats last;

    memset(&last, 0, sizeof last);
    if (path->made) {
        ct_offload_path_del(chain->slot, &path->priv, &last);
        COVERAGE_INC(ct_path_del);
        OVS_USDT_PROBE(ct_offload, path_del, chain->slot, last.n_packets,
                       last.n_bytes, end);
    }
    ovs_mutex_lock(&ct_chains_mutex);
    path_credit(path, &last, time_msec());
    for (size_t i = 0; i < path->n_conns; i++) {
        conn_extend(chain->key.ct, ct_path_get_conn(path, i, NULL),
                    path->used);
    }
    if (chain->n_paths == 1) {
        ct_fence_lower(chain);
    }
    path_remove(path);
    path_release_conns(path, end);
    xpthread_cond_broadcast(&paths_cond);
    if (ct_path_count_misses(&chain->key)) {
        ovsrcu_postpone(free, path);
    } else {
        free(path);
    }
    ct_chain_lost_path(chain);
    ovs_mutex_unlock(&ct_chains_mutex);
}

/* Ends 'path', which is live, for reason 'end'.  Releases the mutex
 * meanwhile. */
void
ct_path_finish(struct path *path, enum path_end end)
{
    path_unlink(path, end);
    ovs_mutex_unlock(&ct_chains_mutex);
    path_destroy(path, end);
    ovs_mutex_lock(&ct_chains_mutex);
}

/* Ends all paths of 'conn', which the calling thread owns, so that none is
 * being made. */
static void
conn_end_paths(struct conn *conn)
{
    struct path *path;

    ovs_mutex_lock(&ct_chains_mutex);
    while ((path = conn_next_path(conn, NULL))) {
        if (path->state == PATH_ENDING) {
            ovs_mutex_cond_wait(&paths_cond, &ct_chains_mutex);
        } else {
            ct_path_finish(path, PATH_END_CONN);
        }
    }
    ovs_mutex_unlock(&ct_chains_mutex);
}

/* Asks the provider of 'path', which is live and not being asked, what it has
 * counted, and credits it.  Releases the mutex meanwhile; 'path' is there when
 * this returns, but somebody may wait to end it.  It is 'now', in ms.  Returns
 * 0 or a positive errno value. */
int
ct_path_query(struct path *path, long long int now)
{
    struct dpif_flow_stats stats;
    int error;

    path->querying = true;
    path->asked = now;
    ct_path_hold(path);
    ovs_mutex_unlock(&ct_chains_mutex);

    memset(&stats, 0, sizeof stats);
    error = ct_offload_path_stats(path->chain->slot, &path->priv, &stats);

    ovs_mutex_lock(&ct_chains_mutex);
    path->querying = false;
    if (!error) {
        path_credit(path, &stats, now);
    }
    path->n_holds--;
    xpthread_cond_broadcast(&paths_cond);
    return error;
}

/* Has 'conn', which the calling thread owns, live on if one of its paths was
 * used.  Returns true if it has more time now. */
static bool
conn_ask_paths(struct conn *conn)
{
    long long int now = time_msec();
    bool extended = false;
    struct path *path;

    ovs_mutex_lock(&ct_chains_mutex);
again:
    path = NULL;
    while ((path = conn_next_path(conn, path))) {
        if (path->state == PATH_LIVE
            && (int32_t) ((uint32_t) now - path->asked) > 0) {
            if (path->querying) {
                ovs_mutex_cond_wait(&paths_cond, &ct_chains_mutex);
            } else {
                ct_path_query(path, now);
            }
            goto again;                 /* Paths may have come and gone. */
        }
    }
    while ((path = conn_next_path(conn, path))) {
        extended |= conn_extend(path->chain->key.ct, conn, path->used);
    }
    ovs_mutex_unlock(&ct_chains_mutex);
    return extended;
}

/* Ending. */

/* Returns a path of a chain that is not valid any more and can be ended now,
 * to port number 'to' unless that is 0, or NULL.  Those that are being made
 * are ended by who makes them. */
static struct path *
dying_find(uint32_t to)
    OVS_REQUIRES(ct_chains_mutex)
{
    struct ct_chain *chain;

    LIST_FOR_EACH (chain, dying_node, &ct_chains_dying) {
        struct path *path;

        if (to && chain->ports[1] != to) {
            continue;
        }
        LIST_FOR_EACH (path, chain_node, &chain->paths) {
            if (path->state == PATH_LIVE) {
                return path;
            }
            if (path->state == PATH_NEW) {
                path->state = PATH_CANCEL;
            }
        }
    }
    return NULL;
}

/* Raises fences for chains that are not valid any more, where that is due. */
static void
dying_raise_fences(void)
    OVS_EXCLUDED(ct_chains_mutex)
{
    struct conn_offload_batch *batch = conn_batch_enter();
    struct ct_chain *chain;

    ovs_mutex_lock(&ct_chains_mutex);
again:
    LIST_FOR_EACH (chain, dying_node, &ct_chains_dying) {
        struct path *path;

        if (!ct_fence_is_due(chain)) {
            continue;
        }
        LIST_FOR_EACH (path, chain_node, &chain->paths) {
            if (path->state == PATH_LIVE) {
                ct_path_hold(path);
                ct_fence_raise(chain);
                ct_path_unhold(path);
                goto again;
            }
        }
    }
    ovs_mutex_unlock(&ct_chains_mutex);
    conn_batch_leave(batch);            /* It was to keep the ports. */
}

/* Ends paths of chains that are not valid any more, for a while.  Returns true
 * if there may be more. */
static bool
dying_run_some(void)
    OVS_EXCLUDED(ct_chains_mutex)
{
    long long int end = time_usec() + DYING_US;
    struct path *path;

    if (ct_offload_forwarding()) {
        dying_raise_fences();
    }
    ovs_mutex_lock(&ct_chains_mutex);
    while ((path = dying_find(0))) {
        ct_path_finish(path, (ct_offload_forwarding() ? PATH_END_MEGAFLOW
                              : PATH_END_CONFIG));
        if (time_usec() >= end) {
            break;
        }
    }
    ovs_mutex_unlock(&ct_chains_mutex);
    return path != NULL;
}

/* Ends all of them. */
static void
dying_run(void)
    OVS_EXCLUDED(ct_chains_mutex)
{
    while (dying_run_some()) {
        continue;
    }
}

/* Has the paths of chains that are not valid any more ended. */
static void
dying_kick(void)
{
    if (!ct_offload_threads_urge()) {
        dying_run();
    }
}

/* What 'flow' does has changed, or it is gone. */
void
ct_path_flow_changed__(struct dp_netdev_flow *flow)
{
    bool any;

    ovs_mutex_lock(&ct_chains_mutex);
    any = ct_chains_invalidate_flow(flow);
    ovs_mutex_unlock(&ct_chains_mutex);
    if (any) {
        dying_kick();
    }
}

/* Returns for how long the calling thread may wait for hardware now, in ms.
 * Adds 'spent' to what it has waited. */
static int
sync_time_left(int spent)
{
    static thread_local long long int since;
    static thread_local int total;
    long long int now = time_msec();

    if (now >= since + SYNC_PERIOD_MS) {
        since = now;
        total = 0;
    }
    total += spent;
    return SYNC_MS - total;
}

/* 'flow' is about to be removed, and its counters to be read: ends its paths,
 * and waits a little until what they have counted last is known. */
void
ct_path_flow_sync__(struct dp_netdev_flow *flow)
{
    int left = sync_time_left(0);
    int waited_us = 0;
    bool any;

    ct_path_flow_changed__(flow);
    for (;;) {
        ovs_mutex_lock(&ct_chains_mutex);
        any = ct_chains_flow_has_paths(flow);
        ovs_mutex_unlock(&ct_chains_mutex);
        if (!any || waited_us >= left * 1000) {
            break;
        }
        xnanosleep_no_quiesce(SYNC_STEP_US * 1000);
        waited_us += SYNC_STEP_US;
    }
    if (any) {
        COVERAGE_INC(ct_path_late);
    }
    sync_time_left(DIV_ROUND_UP(waited_us, 1000));
}

void
ct_path_flow_stats__(const struct dp_netdev_flow *flow,
                     struct dpif_flow_stats *stats,
                     struct dpif_flow_attrs *attrs)
{
    long long int pass_ms;

    atomic_read_relaxed(&ct_path_pass_ms, &pass_ms);
    ovs_mutex_lock(&ct_chains_mutex);
    ct_chains_get_flow_stats(flow, time_msec() - 2 * pass_ms, stats, attrs);
    ovs_mutex_unlock(&ct_chains_mutex);
}

/* Ends all paths to port 'number', which has stopped, but for those that other
 * threads are making or ending. */
static void
port_end_paths(uint32_t number)
    OVS_EXCLUDED(ct_chains_mutex)
{
    struct ct_chain *chain;
    struct path *path;

    ovs_mutex_lock(&ct_chains_mutex);
    HMAP_FOR_EACH_SAFE (chain, node, &ct_chains) {
        if (chain->n_paths && chain->ports[1] == number) {
            ct_chain_invalidate(chain);
        }
    }
    while ((path = dying_find(number))) {
        ct_path_finish(path, PATH_END_MEGAFLOW);
    }
    ovs_mutex_unlock(&ct_chains_mutex);
}

/* 'conn' was committed: packets that found nothing before find it now.  Takes
 * the connections that they belong to back from hardware, by 'batch'. */
static void
conn_end_misses(struct conn_offload_batch *batch, const struct conn *conn)
{
    uint16_t zone = ct_offload_conn_get_zone(conn);

    /* See path_is_outdated(). */
    atomic_thread_fence(memory_order_seq_cst);
    for (int reply = 0; reply < 2; reply++) {
        struct ct_dpif_tuple tuple;
        struct path_miss *miss;
        uint32_t hash;

        ct_offload_conn_get_tuple(conn, reply, &tuple);
        hash = tuple_hash(&tuple, zone);
        if (OVS_LIKELY(!cmap_find(&path_misses, hash))) {
            continue;
        }
        ovs_mutex_lock(&ct_chains_mutex);
        CMAP_FOR_EACH_WITH_HASH (miss, node, hash, &path_misses) {
            conn_batch_raise(batch, ct_path_get_conn(miss->path, 0, NULL),
                             CONN_OFFLOAD_PENDING_DEL, 0, 0);
        }
        ovs_mutex_unlock(&ct_chains_mutex);
    }
}

/* Configuration. */

/* Has paths made or not.  Those that are there go if not: no packet passes by
 * one when this returns.  For the main thread. */
void
ct_path_configure(bool on)
{
    struct ct_chain *chain;

    if (ct_offload_set_forwarding(on) && !on) {
        ovs_mutex_lock(&ct_chains_mutex);
        HMAP_FOR_EACH_SAFE (chain, node, &ct_chains) {
            ct_chain_invalidate(chain);
        }
        ovs_mutex_unlock(&ct_chains_mutex);
        dying_run();
        conn_batches_barrier(true);
    }
}

/* Makes what is here known to the files below.  Called once, before there can
 * be any connection. */
void
ct_path_init(void)
{
    static const struct conn_run_paths run_paths = {
        .end = conn_end_paths,
        .ask = conn_ask_paths,
        .committed = conn_end_misses,
        .port_stopped = port_end_paths,
    };

    for (size_t i = 0; i < PATH_N_PARTS; i++) {
        hmap_init(&paths[i]);
        hmap_init(&path_conns[i]);
    }
    ct_offload_threads_set_urgent(dying_run_some);
    conn_run_set_paths(&run_paths);
}
