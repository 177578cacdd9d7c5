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

#include <errno.h>
#include <string.h>

#include "conntrack-offload-batch.h"
#include "conntrack-offload.h"
#include "coverage.h"
#include "ct-offload-path-private.h"
#include "ct-offload-port.h"
#include "ct-offload-private.h"
#include "ct-offload-thread.h"
#include "ct-offload-trace.h"
#include "dpif.h"
#include "hash.h"
#include "odp-util.h"
#include "openvswitch/ofpbuf.h"
#include "openvswitch/usdt-probes.h"
#include "openvswitch/vlog.h"
#include "ovs-rcu.h"
#include "timeval.h"

VLOG_DEFINE_THIS_MODULE(ct_offload_path);

COVERAGE_DEFINE(ct_path_add);
COVERAGE_DEFINE(ct_path_add_fail);
COVERAGE_DEFINE(ct_path_del);
COVERAGE_DEFINE(ct_path_late);

static struct vlog_rate_limit rl = VLOG_RATE_LIMIT_INIT(5, 5);

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

static const uint32_t path_bits[] = {
    [false] = CONN_OFFLOAD_PATH_ORIG, [true] = CONN_OFFLOAD_PATH_REPLY,
};
static const uint32_t await_bits[] = {
    [false] = CONN_OFFLOAD_AWAIT_PATH_ORIG,
    [true] = CONN_OFFLOAD_AWAIT_PATH_REPLY,
};

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

static size_t
key_count_misses(const struct ct_chain_key *key)
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
static void
describe_conn_locked(const struct conn *conn, bool reply,
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

        describe_conn_locked(conn, key->replies & 1u << i, &conns[i]);
    }
    return !ct_merge_instantiate(path->chain->merge, conns, NULL, values);
}

/* Stores in '*wire' the tuple that packets of 'path' have on the wire. */
static void
path_get_wire(const struct path *path, struct ct_dpif_tuple *wire)
{
    const struct ct_chain_key *key = &path->chain->key;
    struct ct_merge_conn conns[CT_MERGE_MAX_CONNS];

    for (size_t i = 0; i < key->n_cts; i++) {
        describe_conn(key->cts[i] == CT_CHAIN_MISS ? NULL
                      : ct_path_get_conn(path, key->cts[i], NULL),
                      key->replies & 1u << i, &conns[i]);
    }
    ct_merge_get_wire(path->chain->merge, conns, wire);
}

/* Life. */

static uint32_t
wire_hash(const struct ct_dpif_tuple *wire, uint32_t in_port)
{
    return tuple_hash(wire, in_port);
}

/* Returns a path that matches packets with 'wire' of 'chain', or NULL. */
static struct path *
path_find(const struct ct_chain *chain, const struct ct_dpif_tuple *wire)
    OVS_REQUIRES(ct_chains_mutex)
{
    const struct match *match = &chain->merge->match;
    uint32_t hash = wire_hash(wire, chain->ports[0]);
    struct path *p;

    HMAP_FOR_EACH_WITH_HASH (p, node, hash, part_of(paths, hash)) {
        const struct match *m = &p->chain->merge->match;
        struct ct_dpif_tuple other;

        if (p->chain->ports[0] == chain->ports[0]
            && m->flow.vlans[0].tci == match->flow.vlans[0].tci) {
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
static void
path_link(struct path *path, const struct ct_merge_path *values)
    OVS_REQUIRES(ct_chains_mutex)
{
    struct path_miss *miss = path_get_misses(path);
    struct ct_chain *chain = path->chain;
    uint32_t hash = wire_hash(&values->wire, chain->ports[0]);

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
        conn_set_paths(conn, 0, (path_bits[reply] | CONN_OFFLOAD_BYPASS
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
    size_t n_misses = key_count_misses(&path->chain->key);

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

/* The provider has counted 'stats' for 'path', in all. */
static void
path_credit(struct path *path, const struct dpif_flow_stats *stats)
    OVS_REQUIRES(ct_chains_mutex)
{
    if (stats->n_packets > path->n_packets) {
        path->used = time_msec();
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
    bool again = (end == PATH_END_MEGAFLOW || end == PATH_END_IDLE
                  || end == PATH_END_UNSEEN || end == PATH_END_HARDWARE);

    const struct conn *lead = ct_path_get_lead(path, NULL);

    for (size_t i = 0; i < path->n_conns; i++) {
        bool reply;
        struct conn *conn = ct_path_get_conn(path, i, &reply);
        uint32_t state = conn_offload_state(conn);
        uint32_t clear;

        /* Packets may reach a connection by more ways than one. */
        clear = ct_path_of_conn(conn, reply) ? 0 : path_bits[reply];
        if (!(state & CONN_OFFLOAD_PATH_MASK & ~clear)
            && !ct_offload_may_bypass(state_est(state))) {
            clear |= CONN_OFFLOAD_BYPASS;
        }
        conn_set_paths(conn, clear,
                       conn == lead && again && clear & path_bits[reply]
                       && state_is_established(state)
                       ? await_bits[reply] : 0);
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
    path_credit(path, &last);
    for (size_t i = 0; i < path->n_conns; i++) {
        conn_extend(chain->key.ct, ct_path_get_conn(path, i, NULL),
                    path->used);
    }
    path_remove(path);
    path_release_conns(path, end);
    xpthread_cond_broadcast(&paths_cond);
    if (key_count_misses(&chain->key)) {
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
 * this returns, but somebody may wait to end it.  Returns 0 or a positive
 * errno value. */
int
ct_path_query(struct path *path)
{
    struct dpif_flow_stats stats;
    int error;

    path->querying = true;
    path->asked = time_msec();
    ct_path_hold(path);
    ovs_mutex_unlock(&ct_chains_mutex);

    memset(&stats, 0, sizeof stats);
    error = ct_offload_path_stats(path->chain->slot, &path->priv, &stats);

    ovs_mutex_lock(&ct_chains_mutex);
    path->querying = false;
    xpthread_cond_broadcast(&paths_cond);
    if (!error) {
        path_credit(path, &stats);
    }
    ct_path_unhold(path);
    return error;
}

/* Has 'conn', which the calling thread owns, live on if one of its paths was
 * used.  Returns true if it has more time now. */
static bool
conn_ask_paths(struct conn *conn)
{
    uint32_t now = time_msec();
    bool extended = false;
    struct path *path;

    ovs_mutex_lock(&ct_chains_mutex);
again:
    path = NULL;
    while ((path = conn_next_path(conn, path))) {
        if (path->state == PATH_LIVE && (int32_t) (now - path->asked) > 0) {
            if (path->querying) {
                ovs_mutex_cond_wait(&paths_cond, &ct_chains_mutex);
            } else {
                ct_path_query(path);
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

/* Making. */

/* A trace on its way from the thread that has made it to an offload thread,
 * which makes a path of it. */
struct trace_job {
    struct ct_offload_job job;
    struct ct_chain_key key;    /* But for the shapes.  It has references on
                                 * the megaflows. */
    struct conn *conns[CT_TRACE_MAX_CTS]; /* It owns these, each once. */
    size_t n_conns;
    uint8_t replies;            /* A bit for each connection. */
    long long int used;         /* When the packet was traced. */
    uint32_t rss_hash;
    bool rss_valid;
};

/* Gives up the connections of 'job', after what became pending for them.  If
 * 'run', the calling thread does that itself, so that who waits for the job
 * has waited for that, too. */
static void
job_disown(struct trace_job *job, bool run)
{
    struct conn_offload_batch *batch = conn_batch_enter();

    for (size_t i = 0; i < job->n_conns; i++) {
        if (!conn_disown(job->conns[i])) {
            conns_push(&batch->conns, job->conns[i]);
        }
    }
    if (run) {
        conn_batch_drain(batch);
    }
    conn_batch_leave(batch);
}

/* Has 'job' own the connections that 'trace' has met.  Returns false if one of
 * them has another owner. */
static bool
job_own(struct trace_job *job, const struct ct_trace *trace)
{
    struct ct_chain_key *key = &job->key;

    for (size_t i = 0; i < trace->n_cts; i++) {
        const struct ct_trace_ct *stage = &trace->cts[i];
        size_t j = 0;

        key->zones[i] = stage->zone;
        key->replies |= stage->reply << i;
        while (j < job->n_conns && job->conns[j] != stage->conn) {
            j++;
        }
        key->cts[i] = stage->conn ? j : CT_CHAIN_MISS;
        if (!stage->conn || j < job->n_conns) {
            continue;
        }
        if (!conn_own(stage->conn, 0)) {
            return false;
        }
        job->replies |= stage->reply << j;
        job->conns[job->n_conns++] = stage->conn;
    }
    key->n_cts = trace->n_cts;
    return job->n_conns > 0;
}

static void
job_free(struct trace_job *job, bool run)
{
    job_disown(job, run);
    ct_chain_flows_unref(job->key.flows, job->key.n_flows);
    free(job);
}

/* Tells the connections of 'job', in the direction of the packet, why they
 * have no path. */
static void
job_note(const struct trace_job *job, uint8_t why)
{
    for (size_t i = 0; i < job->n_conns; i++) {
        conn_note_path(job->conns[i], (job->replies & 1u << i) != 0, why);
    }
}

/* Do packets of connection number 'i' of 'job' come from 'in_port', as far as
 * is known? */
static bool
job_conn_is_from(const struct trace_job *job, size_t i, odp_port_t in_port)
{
    struct conn_offload *offload = conn_get_offload(job->conns[i]);
    struct ct_offload_ctx ctx;
    uint32_t port;

    return (offload
            && conn_side_get(offload, (job->replies & 1u << i
                                       ? CT_DIR_REV : CT_DIR_FWD),
                             &ctx, &port)
            && ctx.input_port_id == in_port);
}

/* Returns the providers that make paths where the packets of 'job' come from,
 * as a bit for each slot. */
static uint8_t
job_get_slots(const struct trace_job *job)
    OVS_EXCLUDED(ct_chains_mutex)
{
    odp_port_t in_port
        = dp_netdev_flow_get_key(job->key.flows[0])->in_port.odp_port;
    uint8_t slots = 0;

    for (unsigned int s = ct_offload_forwarding(); s;
         s = zero_rightmost_1bit(s)) {
        for (size_t i = 0; i < job->n_conns; i++) {
            /* Others have moved, which is about to be noticed. */
            if (job_conn_is_from(job, i, in_port)
                && conn_can_forward(job->conns[i], rightmost_1bit(s),
                                    (job->replies & 1u << i
                                     ? CT_DIR_REV : CT_DIR_FWD))) {
                slots |= rightmost_1bit(s);
                break;
            }
        }
    }
    return slots;
}

/* Finds the provider of a path of 'job': one of those in 'slots' that makes
 * paths, and in which all connections are established, but for those that have
 * had no reply.  Returns its slot, or -1. */
static int
job_find_provider(const struct trace_job *job, uint8_t slots)
{
    bool any = false;

    slots &= ct_offload_forwarding();
    for (size_t i = 0; i < job->n_conns; i++) {
        uint32_t state = conn_offload_state(job->conns[i]);

        if (state & CONN_OFFLOAD_GONE || conn_is_closed(job->conns[i])) {
            return -1;
        }
        if (conn_is_established(job->conns[i])) {
            slots &= state_est(state);
            any = true;
        }
    }
    return any && slots ? raw_ctz(slots) : -1;
}

/* Finds the ports of a path of 'job', in 'merge', by where packets of its
 * connections come from: those of the other direction come from the port that
 * it sends to.  Returns false if one is not known. */
static bool
job_find_ports(const struct trace_job *job, const struct ct_merge *merge,
               uint32_t ports[2])
{
    odp_port_t wanted[2] = { merge->in_port, merge->out_port };

    ports[0] = ports[1] = 0;
    for (size_t i = 0; i < job->n_conns; i++) {
        struct conn_offload *offload = conn_get_offload(job->conns[i]);

        for (int out = 0; out < 2 && offload; out++) {
            bool reply = !!(job->replies & 1u << i) ^ out;
            struct ct_offload_ctx ctx;
            uint32_t port;

            if (!ports[out]
                && conn_side_get(offload, reply ? CT_DIR_REV : CT_DIR_FWD,
                                 &ctx, &port)
                && ctx.input_port_id == wanted[out]) {
                ports[out] = port;
            }
        }
    }
    return ports[0] && (ports[1] || wanted[1] == ODPP_NONE);
}

/* Has 'chain' have 'ports', and the provider in 'slot'.  Returns false if it
 * has paths that have others: these are about to end. */
static bool
chain_bind(struct ct_chain *chain, const uint32_t ports[2], unsigned int slot)
    OVS_REQUIRES(ct_chains_mutex)
{
    if (!chain->n_paths) {
        memcpy(chain->ports, ports, sizeof chain->ports);
        chain->slot = slot;
    }
    return (chain->ports[0] == ports[0] && chain->ports[1] == ports[1]
            && chain->slot == slot);
}

/* Returns the chain of a path of 'job', with the path's own in '*values', or
 * NULL if there cannot be a path. */
static struct ct_chain *
job_find_chain(struct trace_job *job, uint8_t slots,
               const struct ct_merge_conn conns[],
               struct ct_merge_path *values)
    OVS_REQUIRES(ct_chains_mutex)
{
    enum ct_merge_reason reason;
    struct ct_chain *chain;
    uint32_t ports[2];
    int slot;

    for (size_t i = 0; i < job->key.n_cts; i++) {
        job->key.shapes[i] = ct_merge_conn_shape(&conns[i]);
    }
    chain = ct_chain_get(&job->key, conns);
    if (!chain) {
        ct_path_counts.changed++;
        return NULL;
    }
    /* With the mutex, which ct_chain_get() may have released, so that
     * ct_path_configure() finds the path. */
    slot = job_find_provider(job, slots);
    if (slot < 0) {
        ct_path_counts.not_held++;
        job_note(job, slots ? CONN_PATH_NOT_HELD : CONN_PATH_UNABLE);
        return NULL;
    }
    reason = (chain->refused ? chain->refused
              : ct_merge_instantiate(chain->merge, conns,
                                     job->rss_valid ? &job->rss_hash : NULL,
                                     values));
    if (reason) {
        ct_path_counts.refused++;
        job_note(job, CONN_PATH_REFUSED + reason);
        return NULL;
    }
    if (!job_find_ports(job, chain->merge, ports)
        || !chain_bind(chain, ports, slot)) {
        ct_path_counts.no_port++;
        job_note(job, CONN_PATH_NO_PORT);
        return NULL;
    }
    return chain;
}

/* Returns a new path of 'job' on 'chain'. */
static struct path *
path_create(const struct trace_job *job, struct ct_chain *chain)
    OVS_REQUIRES(ct_chains_mutex)
{
    size_t n_misses = key_count_misses(&chain->key);
    struct path *path;

    path = xzalloc(sizeof *path + job->n_conns * sizeof *path->conns
                   + n_misses * sizeof(struct path_miss));
    path->chain = chain;
    path->n_conns = job->n_conns;
    path->used = job->used;
    path->asked = job->used - 1;        /* So that it is before now. */
    for (size_t i = 0; i < job->n_conns; i++) {
        uintptr_t conn = (uintptr_t) job->conns[i];

        ovs_assert(!(conn & PATH_CONN_MASK));
        path->conns[i].conn = (conn | i | (job->replies & 1u << i
                                           ? PATH_CONN_REPLY : 0));
    }
    return path;
}

/* Makes a path of 'job', and links it, with everything but the provider done.
 * Returns it, or NULL. */
static struct path *
job_link(struct trace_job *job, uint8_t slots,
         const struct ct_merge_conn conns[], struct ct_merge_path *values)
    OVS_REQUIRES(ct_chains_mutex)
{
    struct ct_chain *chain = job_find_chain(job, slots, conns, values);
    struct path *path, *rival;

    if (!chain) {
        return NULL;
    }
    rival = path_find(chain, &values->wire);
    if (rival && (rival->state != PATH_LIVE || rival->chain == chain)) {
        return NULL;            /* It is the same, or not to be had now. */
    }
    path = path_create(job, chain);
    path_link(path, values);
    if (rival) {
        /* This may wait, and nothing but 'path' keeps 'chain' from being freed
         * meanwhile. */
        ct_path_finish(rival, PATH_END_KEY);
    }
    return path;
}

/* Tells the provider of 'path', which is linked, and whose packets have
 * 'values'.  Returns 0 or a positive errno value. */
static int
path_add(struct path *path, const struct ct_merge_path *values)
    OVS_EXCLUDED(ct_chains_mutex)
{
    const struct ct_chain *chain = path->chain;
    const struct ct_merge *merge = chain->merge;
    struct ct_offload_path p = {
        .netdev_in = ct_offload_port_get_netdev(chain->ports[0]),
        .netdev_out = ct_offload_port_get_netdev(chain->ports[1]),
        .in_port = merge->in_port,
        .out_port = merge->out_port,
        .n_conns = path->n_conns,
    };
    struct ofpbuf actions;
    struct match match;
    int error;

    if (!p.netdev_in || (!p.netdev_out && p.out_port != ODPP_NONE)) {
        return ENODEV;
    }
    ofpbuf_init(&actions, 0);
    ct_merge_get_match(merge, values, &match);
    ct_merge_put_actions(merge, values, &actions);
    p.match = &match;
    p.actions = actions.data;
    p.actions_len = actions.size;
    error = ct_offload_path_add(chain->slot, &p, &path->priv);
    OVS_USDT_PROBE(ct_offload, path_add, chain->slot, p.in_port, p.out_port,
                   error);
    ofpbuf_uninit(&actions);
    return error;
}

/* Do packets of 'path' not find any more what they found in 'conns': was a
 * connection committed where there was none, or has one that had no reply
 * changed? */
static bool
path_is_outdated(const struct path *path, const struct ct_merge_conn conns[],
                 const struct ct_merge_path *values)
    OVS_EXCLUDED(ct_chains_mutex)
{
    const struct ct_chain_key *key = &path->chain->key;

    /* Either this sees it, or conn_end_misses() or conn_seen() the path. */
    atomic_thread_fence(memory_order_seq_cst);
    for (size_t i = 0; i < key->n_cts; i++) {
        const struct conn *conn;

        if (conns[i].kind == CT_MERGE_MISS) {
            if (conntrack_has_tuple(key->ct, key->zones[i],
                                    &values->seen[i])) {
                return true;
            }
        } else if (conns[i].kind == CT_MERGE_ONE_WAY) {
            conn = ct_path_get_conn(path, key->cts[i], NULL);
            if (conn_is_closing(conn) || conn_is_established(conn)) {
                return true;
            }
        }
    }
    return false;
}

/* Makes 'path' of 'job', which is linked. */
static void
job_make(const struct trace_job *job, struct path *path,
         const struct ct_merge_conn conns[],
         const struct ct_merge_path *values)
    OVS_EXCLUDED(ct_chains_mutex)
{
    bool outdated = path_is_outdated(path, conns, values);
    enum path_end end = PATH_END_ERROR;
    int error = outdated ? EAGAIN : path_add(path, values);

    ovs_mutex_lock(&ct_chains_mutex);
    path->made = !error;
    if (!error) {
        COVERAGE_INC(ct_path_add);
        ct_path_counts.made++;
        end = PATH_END_MEGAFLOW;
    } else {
        COVERAGE_INC(ct_path_add_fail);
        ct_path_counts.failed++;
        job_note(job, outdated ? CONN_PATH_NOT_HELD : CONN_PATH_HARDWARE);
        VLOG_DBG_RL(&rl, "a path cannot be made: %s", ovs_strerror(error));
    }
    if (error || path->state == PATH_CANCEL || !path->chain->valid) {
        ct_path_finish(path, end);
    } else {
        path->state = PATH_LIVE;
    }
    ovs_mutex_unlock(&ct_chains_mutex);
}

/* Makes a path of a trace. */
static void
job_run(struct ct_offload_job *job_)
{
    struct trace_job *job = CONTAINER_OF(job_, struct trace_job, job);
    struct ct_merge_conn conns[CT_MERGE_MAX_CONNS];
    struct ct_merge_path values;
    struct path *path;
    uint8_t slots;

    slots = job_get_slots(job);
    for (size_t i = 0; i < job->key.n_cts; i++) {
        describe_conn_locked(job->key.cts[i] == CT_CHAIN_MISS ? NULL
                             : job->conns[job->key.cts[i]],
                             (job->key.replies & 1u << i) != 0, &conns[i]);
    }
    ovs_mutex_lock(&ct_chains_mutex);
    path = job_link(job, slots, conns, &values);
    ovs_mutex_unlock(&ct_chains_mutex);
    if (path) {
        job_make(job, path, conns, &values);
    }
    job_free(job, true);
}

/* Returns where the actions of 'flow' send packets at their end, or 0 if they
 * do not recirculate them. */
static uint32_t
flow_get_recirc(const struct dp_netdev_flow *flow)
{
    const struct nlattr *actions, *a;
    uint32_t recirc_id = 0;
    size_t len, left;

    actions = dp_netdev_flow_get_nlattrs(flow, &len);
    NL_ATTR_FOR_EACH_UNSAFE (a, left, actions, len) {
        recirc_id = (nl_attr_type(a) == OVS_ACTION_ATTR_RECIRC
                     ? nl_attr_get_u32(a) : 0);
    }
    return recirc_id;
}

/* Has 'trace' all the megaflows that the packet has met?  If one was just
 * being made, the packet was sent on by the actions of an upcall. */
static bool
trace_has_all_flows(const struct ct_trace *trace)
{
    for (size_t i = 0; i < trace->n_flows; i++) {
        const struct dp_netdev_flow *next
            = i + 1 < trace->n_flows ? trace->flows[i + 1] : NULL;

        if (flow_get_recirc(trace->flows[i])
            != (next ? dp_netdev_flow_get_key(next)->recirc_id : 0)) {
            return false;
        }
    }
    return true;
}

/* Has 'trace' all the ct() actions that its megaflows have? */
static bool
trace_has_all_cts(const struct ct_trace *trace)
{
    size_t n_cts = 0;

    for (size_t i = 0; i < trace->n_flows; i++) {
        const struct nlattr *actions, *a;
        size_t len, left;

        actions = dp_netdev_flow_get_nlattrs(trace->flows[i], &len);
        NL_ATTR_FOR_EACH_UNSAFE (a, left, actions, len) {
            n_cts += nl_attr_type(a) == OVS_ACTION_ATTR_CT;
        }
    }
    return trace->n_cts >= n_cts;
}

/* For ct-offload-trace.c. */
static enum ct_trace_result
trace_complete(struct ct_trace *trace)
{
    struct conn_offload_batch *batch;
    struct trace_job *job;

    if (dp_netdev_flow_get_key(trace->flows[0])->recirc_id) {
        return CT_TRACE_LATE;
    }
    if (!trace_has_all_flows(trace)) {
        return CT_TRACE_UPCALL;
    }
    if (!trace_has_all_cts(trace)) {
        return CT_TRACE_LATE;
    }
    if (!ct_offload_threads_have_room()) {
        return CT_TRACE_QUEUE;
    }
    if (!ct_chain_flows_ref(trace->flows, trace->n_flows)) {
        return CT_TRACE_UPCALL;
    }
    job = xzalloc(sizeof *job);
    job->job.run = job_run;
    memcpy(job->key.flows, trace->flows, sizeof job->key.flows);
    job->key.n_flows = trace->n_flows;
    job->key.ct = trace->ct;
    job->used = time_msec();
    job->rss_hash = trace->rss_hash;
    job->rss_valid = trace->rss_valid;

    batch = conn_batch_enter();
    if (!job_own(job, trace)) {
        job_free(job, false);
        conn_batch_leave(batch);
        return CT_TRACE_BUSY;
    }
    if (ct_offload_n_threads()) {
        ct_offload_thread_post_job(conn_batch_thread(job->conns[0]),
                                   &job->job);
    } else {
        job_run(&job->job);
    }
    conn_batch_leave(batch);
    return CT_TRACE_COMPLETE;
}

/* Ending. */

/* Returns a path of a chain that is not valid any more and can be ended now,
 * or NULL.  Those that are being made are ended by who makes them. */
static struct path *
dying_find(void)
    OVS_REQUIRES(ct_chains_mutex)
{
    struct ct_chain *chain;

    LIST_FOR_EACH (chain, dying_node, &ct_chains_dying) {
        struct path *path;

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

/* Ends paths of chains that are not valid any more, for a while.  Returns true
 * if there may be more. */
static bool
dying_run_some(void)
    OVS_EXCLUDED(ct_chains_mutex)
{
    long long int end = time_usec() + DYING_US;
    struct path *path;

    ovs_mutex_lock(&ct_chains_mutex);
    while ((path = dying_find())) {
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
    };

    for (size_t i = 0; i < PATH_N_PARTS; i++) {
        hmap_init(&paths[i]);
        hmap_init(&path_conns[i]);
    }
    ct_trace_set_complete(trace_complete);
    ct_offload_threads_set_urgent(dying_run_some);
    conn_run_set_paths(&run_paths);
}
