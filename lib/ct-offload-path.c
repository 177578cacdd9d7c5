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
#include "ct-offload-merge.h"
#include "ct-offload-port.h"
#include "ct-offload-private.h"
#include "ct-offload-thread.h"
#include "ct-offload-trace.h"
#include "dpif.h"
#include "hash.h"
#include "hmapx.h"
#include "odp-util.h"
#include "openvswitch/dynamic-string.h"
#include "openvswitch/hmap.h"
#include "openvswitch/list.h"
#include "openvswitch/vlog.h"
#include "ovs-rcu.h"
#include "ovs-thread.h"
#include "timeval.h"
#include "util.h"

VLOG_DEFINE_THIS_MODULE(ct_offload_path);

COVERAGE_DEFINE(ct_path_add);
COVERAGE_DEFINE(ct_path_add_fail);
COVERAGE_DEFINE(ct_path_del);
COVERAGE_DEFINE(ct_path_invalidate);

static struct vlog_rate_limit rl = VLOG_RATE_LIMIT_INIT(5, 5);

/* Least time between two passes that ask providers what they have counted, in
 * ms.  A pass takes at most one part in PASS_SHARE of a thread. */
#define PASS_MS 1000
#define PASS_SHARE 4

/* A path that has seen no packets for so long, in ms, goes: the next packet
 * comes to software, which judges. */
#define IDLE_MS 30000

/* A chain: see above. */
struct chain {
    struct hmap_node node;      /* In 'chains' while it is valid. */
    struct dp_netdev_flow *flows[CT_MERGE_MAX_FLOWS]; /* With references. */
    size_t n_flows;
    uint32_t shapes[CT_MERGE_MAX_CONNS];
    size_t n_conns;

    enum ct_merge_reason refused; /* Or CT_MERGE_OK... */
    struct ct_merge *merge;     /* ...and what was compiled. */

    bool valid;
    struct ovs_list dying_node; /* In 'dying' while it is not. */
    struct ovs_list paths;      /* Contains "struct path"s. */
    size_t n_paths;
    uint64_t n_packets, n_bytes; /* Of all its paths, as last sampled. */
};

enum path_state {
    PATH_NEW,                   /* A thread is telling the provider. */
    PATH_CANCEL,                /* That, and it is to go. */
    PATH_LIVE,
    PATH_ENDING,                /* A thread is telling the provider. */
};

/* What ties a path to a connection. */
struct path_conn {
    struct hmap_node node;      /* In 'path_conns', by 'conn'. */
    struct path *path;
    struct conn *conn;
    bool reply;                 /* Is the path its reply direction? */
};

struct path {
    struct hmap_node node;      /* In 'paths', by what it matches. */
    struct ovs_list chain_node; /* In 'chain->paths'. */
    struct chain *chain;
    struct conntrack *ct;
    struct ct_merge_path values;
    uint32_t ports[2];          /* In and out: see ct-offload-port.h. */
    unsigned int slot;          /* Its provider, in the registry... */
    void *priv;                 /* ...and that one's own. */
    uint64_t n_packets, n_bytes; /* As last sampled. */
    long long int used;         /* When that has changed, in ms. */
    long long int asked;        /* When the provider was asked last, in ms. */
    enum path_state state;
    bool made;                  /* Does the provider have it? */
    bool querying;              /* Its provider is being asked. */
    size_t n_conns;
    struct path_conn conns[CT_MERGE_MAX_CONNS];
};

/* What hangs off a megaflow that is in a chain, until it is freed. */
struct flow_block {
    struct hmapx chains;        /* Contains "struct chain"s. */

    /* What was credited to it. */
    atomic_ullong n_packets, n_bytes;
    atomic_llong used;          /* In ms. */
};

static struct ovs_mutex paths_mutex = OVS_MUTEX_INITIALIZER;
static pthread_cond_t paths_cond = PTHREAD_COND_INITIALIZER;
static struct hmap chains OVS_GUARDED_BY(paths_mutex)
    = HMAP_INITIALIZER(&chains);
static struct hmap paths OVS_GUARDED_BY(paths_mutex)
    = HMAP_INITIALIZER(&paths);
static struct hmap path_conns OVS_GUARDED_BY(paths_mutex)
    = HMAP_INITIALIZER(&path_conns);

/* Chains that are not valid any more, but have paths. */
static struct ovs_list dying OVS_GUARDED_BY(paths_mutex)
    = OVS_LIST_INITIALIZER(&dying);

/* Why paths have ended. */
enum path_end {
    END_MEGAFLOW,
    END_CONN,
    END_IDLE,
    END_CONFIG,
    END_KEY,                    /* Another one has the same match. */
    END_ERROR,                  /* It could not be made. */
    N_ENDS
};
static const char *end_names[N_ENDS] = {
    "megaflows", "connections", "idle", "configuration", "same match",
    "errors",
};
static unsigned long long int n_ended[N_ENDS] OVS_GUARDED_BY(paths_mutex);
static unsigned long long int n_added OVS_GUARDED_BY(paths_mutex);
static unsigned long long int n_failed OVS_GUARDED_BY(paths_mutex);

/* Traces that have led to no path: the connections were not, or not any more,
 * as they have to be, or the port that packets leave by is not known. */
static unsigned long long int n_not_held OVS_GUARDED_BY(paths_mutex);
static unsigned long long int n_no_port OVS_GUARDED_BY(paths_mutex);

static atomic_llong last_pass_ms = 0;

/* Megaflows. */

static void
flow_make_block(struct dp_netdev_flow *flow)
    OVS_REQUIRES(paths_mutex)
{
    if (!dp_netdev_flow_get_ct_path(flow)) {
        struct flow_block *block = xzalloc(sizeof *block);

        hmapx_init(&block->chains);
        dp_netdev_flow_set_ct_path(flow, block);
    }
}

/* A megaflow that had 'ct_path' is being freed. */
void
ct_path_flow_free(void *ct_path)
{
    struct flow_block *block = ct_path;

    if (block) {
        hmapx_destroy(&block->chains);
        free(block);
    }
}

/* Credits 'n_packets' packets with 'n_bytes' bytes on the wire, which hardware
 * has forwarded up to time 'used', to the megaflows of 'chain'. */
static void
chain_credit(struct chain *chain, uint64_t n_packets, uint64_t n_bytes,
             long long int used)
    OVS_REQUIRES(paths_mutex)
{
    chain->n_packets += n_packets;
    chain->n_bytes += n_bytes;
    for (size_t i = 0; i < chain->n_flows; i++) {
        struct flow_block *block = dp_netdev_flow_get_ct_path(chain->flows[i]);
        int64_t diff = chain->merge->size_diff[i] * (int64_t) n_packets;
        unsigned long long int orig;

        atomic_add_relaxed(&block->n_packets, n_packets, &orig);
        atomic_add_relaxed(&block->n_bytes, n_bytes + diff, &orig);
        atomic_store_relaxed(&block->used, used);
    }
}

/* Adds to '*stats', and to '*attrs' if that is nonnull, what hardware has done
 * for 'flow', which is in some chain or was. */
void
ct_path_flow_stats__(const struct dp_netdev_flow *flow,
                     struct dpif_flow_stats *stats,
                     struct dpif_flow_attrs *attrs)
{
    struct flow_block *block = dp_netdev_flow_get_ct_path(flow);
    unsigned long long int n;
    struct hmapx_node *node;
    bool live = false;
    long long int used;

    atomic_read_relaxed(&block->n_packets, &n);
    stats->n_packets += n;
    atomic_read_relaxed(&block->n_bytes, &n);
    stats->n_bytes += n;
    atomic_read_relaxed(&block->used, &used);
    stats->used = MAX(stats->used, used);
    if (attrs) {
        ovs_mutex_lock(&paths_mutex);
        HMAPX_FOR_EACH (node, &block->chains) {
            live |= ((struct chain *) node->data)->n_paths > 0;
        }
        ovs_mutex_unlock(&paths_mutex);
        attrs->offloaded |= live;
    }
}

/* Chains. */

/* Takes references on the 'n' megaflows in 'flows'.  Returns false, with none
 * taken, if one is being freed. */
static bool
flows_ref(struct dp_netdev_flow *const *flows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!dp_netdev_flow_try_ref(flows[i])) {
            while (i) {
                dp_netdev_flow_unref(flows[--i]);
            }
            return false;
        }
    }
    return true;
}

static void
flows_unref(struct dp_netdev_flow *const *flows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        dp_netdev_flow_unref(flows[i]);
    }
}

static void
chain_free(struct chain *chain)
    OVS_REQUIRES(paths_mutex)
{
    for (size_t i = 0; i < chain->n_flows; i++) {
        struct flow_block *block = dp_netdev_flow_get_ct_path(chain->flows[i]);

        hmapx_find_and_delete(&block->chains, chain);
    }
    flows_unref(chain->flows, chain->n_flows);
    ct_merge_destroy(chain->merge);
    free(chain);
}

/* 'chain' has lost its last path, or is not valid any more: frees it if both
 * is so. */
static void
chain_free_if_done(struct chain *chain)
    OVS_REQUIRES(paths_mutex)
{
    if (!chain->valid && !chain->n_paths) {
        ovs_list_remove(&chain->dying_node);
        chain_free(chain);
    }
}

/* From now on no path is made on 'chain', and those that are there go. */
static void
chain_invalidate(struct chain *chain)
    OVS_REQUIRES(paths_mutex)
{
    if (chain->valid) {
        COVERAGE_INC(ct_path_invalidate);
        chain->valid = false;
        hmap_remove(&chains, &chain->node);
        ovs_list_push_back(&dying, &chain->dying_node);
        chain_free_if_done(chain);
    }
}

static uint32_t
chain_hash(struct dp_netdev_flow *const *flows, size_t n_flows,
           const uint32_t *shapes, size_t n_conns)
{
    return hash_bytes(flows, n_flows * sizeof *flows,
                      hash_bytes(shapes, n_conns * sizeof *shapes, 0));
}

/* Compiles 'chain', for connections that are like 'conns'. */
static enum ct_merge_reason
chain_compile(struct chain *chain, const struct ct_merge_conn *conns)
{
    struct flow_wildcards masks[CT_MERGE_MAX_FLOWS];
    struct ct_merge_flow flows[CT_MERGE_MAX_FLOWS];

    for (size_t i = 0; i < chain->n_flows; i++) {
        dp_netdev_flow_get_mask(chain->flows[i], &masks[i]);
        flows[i].key = dp_netdev_flow_get_key(chain->flows[i]);
        flows[i].mask = &masks[i].masks;
        flows[i].actions = dp_netdev_flow_get_nlattrs(chain->flows[i],
                                                      &flows[i].actions_len);
    }
    return ct_merge_create(flows, chain->n_flows, conns, chain->n_conns,
                           &chain->merge);
}

/* Returns the chain of 'flows', for connections that are like 'conns', which
 * is compiled if it is new.  Returns NULL if a megaflow is dead. */
static struct chain *
chain_get(struct dp_netdev_flow *const *flows, size_t n_flows,
          const struct ct_merge_conn *conns, size_t n_conns)
    OVS_REQUIRES(paths_mutex)
{
    uint32_t shapes[CT_MERGE_MAX_CONNS];
    struct chain *chain;
    uint32_t hash;

    for (size_t i = 0; i < n_conns; i++) {
        shapes[i] = ct_merge_conn_shape(&conns[i]);
    }
    hash = chain_hash(flows, n_flows, shapes, n_conns);
    HMAP_FOR_EACH_WITH_HASH (chain, node, hash, &chains) {
        if (chain->n_flows == n_flows && chain->n_conns == n_conns
            && !memcmp(chain->flows, flows, n_flows * sizeof *flows)
            && !memcmp(chain->shapes, shapes, n_conns * sizeof *shapes)) {
            return chain;
        }
    }

    if (!flows_ref(flows, n_flows)) {
        return NULL;
    }
    for (size_t i = 0; i < n_flows; i++) {
        flow_make_block(flows[i]);
    }
    /* Who changes a megaflow after this finds its block, and waits for the
     * mutex: see ct_path_flow_changed().  What was changed before is seen
     * here. */
    atomic_thread_fence(memory_order_seq_cst);
    for (size_t i = 0; i < n_flows; i++) {
        if (dp_netdev_flow_is_dead(flows[i])) {
            flows_unref(flows, n_flows);
            return NULL;
        }
    }
    chain = xzalloc(sizeof *chain);
    memcpy(chain->flows, flows, n_flows * sizeof *flows);
    chain->n_flows = n_flows;
    memcpy(chain->shapes, shapes, n_conns * sizeof *shapes);
    chain->n_conns = n_conns;
    chain->valid = true;
    ovs_list_init(&chain->paths);
    for (size_t i = 0; i < n_flows; i++) {
        struct flow_block *block = dp_netdev_flow_get_ct_path(flows[i]);

        hmapx_add(&block->chains, chain);
    }
    hmap_insert(&chains, &chain->node, hash);
    chain->refused = chain_compile(chain, conns);
    return chain;
}

/* Paths. */

static uint32_t
path_hash(const struct path *path)
{
    const struct ct_dpif_tuple *t = &path->values.wire;

    return hash_bytes(&t->src, sizeof t->src,
                      hash_bytes(&t->dst, sizeof t->dst,
                                 hash_2words((OVS_FORCE uint32_t) t->src_port
                                             << 16
                                             | (OVS_FORCE uint32_t)
                                               t->dst_port,
                                             path->ports[0])));
}

/* Returns another path with the same match as 'path', or NULL. */
static struct path *
path_find_rival(const struct path *path)
    OVS_REQUIRES(paths_mutex)
{
    const struct match *match = &path->chain->merge->match;
    struct path *p;

    HMAP_FOR_EACH_WITH_HASH (p, node, path_hash(path), &paths) {
        const struct match *m = &p->chain->merge->match;

        if (p->ports[0] == path->ports[0]
            && !memcmp(&p->values.wire, &path->values.wire,
                       sizeof p->values.wire)
            && m->flow.vlans[0].tci == match->flow.vlans[0].tci) {
            return p;
        }
    }
    return NULL;
}

static const uint32_t path_bits[] = {
    [false] = CONN_OFFLOAD_PATH_ORIG, [true] = CONN_OFFLOAD_PATH_REPLY,
};
static const uint32_t await_bits[] = {
    [false] = CONN_OFFLOAD_AWAIT_PATH_ORIG,
    [true] = CONN_OFFLOAD_AWAIT_PATH_REPLY,
};

/* Puts 'path' in all lists.  The calling thread owns its connections. */
static void
path_link(struct path *path)
    OVS_REQUIRES(paths_mutex)
{
    path->state = PATH_NEW;
    hmap_insert(&paths, &path->node, path_hash(path));
    ovs_list_push_back(&path->chain->paths, &path->chain_node);
    path->chain->n_paths++;
    for (size_t i = 0; i < path->n_conns; i++) {
        struct path_conn *pc = &path->conns[i];

        pc->path = path;
        hmap_insert(&path_conns, &pc->node, hash_pointer(pc->conn, 0));
        /* Packets may bypass software before the provider returns. */
        conn_set_state(pc->conn, 0, (path_bits[pc->reply]
                                     | CONN_OFFLOAD_BYPASS
                                     | CONN_OFFLOAD_NO_SEQ_CHK));
    }
}

/* From now on nobody but the caller, who goes on to call path_destroy(), does
 * anything with 'path'.  'end' is why. */
static void
path_unlink(struct path *path, enum path_end end)
    OVS_REQUIRES(paths_mutex)
{
    path->state = PATH_ENDING;
    while (path->querying) {
        ovs_mutex_cond_wait(&paths_cond, &paths_mutex);
    }
    n_ended[end]++;
    hmap_remove(&paths, &path->node);
    ovs_list_remove(&path->chain_node);
}

/* The provider has counted 'stats' for 'path', in all. */
static void
path_count(struct path *path, const struct dpif_flow_stats *stats)
    OVS_REQUIRES(paths_mutex)
{
    if (stats->n_packets > path->n_packets) {
        path->used = time_msec();
        chain_credit(path->chain, stats->n_packets - path->n_packets,
                     stats->n_bytes - path->n_bytes, path->used);
        path->n_packets = stats->n_packets;
        path->n_bytes = stats->n_bytes;
    }
}

/* Is there a path of 'conn' in original or in reply direction? */
static bool
conn_has_path(const struct conn *conn, bool reply)
    OVS_REQUIRES(paths_mutex)
{
    struct path_conn *pc;

    HMAP_FOR_EACH_WITH_HASH (pc, node, hash_pointer(conn, 0), &path_conns) {
        if (pc->conn == conn && pc->reply == reply) {
            return true;
        }
    }
    return false;
}

/* Connections of 'path', which is being destroyed, go on without it.  The
 * first one is traced again, if that makes sense. */
static void
path_release_conns(struct path *path, enum path_end end)
    OVS_REQUIRES(paths_mutex)
{
    for (size_t i = 0; i < path->n_conns; i++) {
        struct path_conn *pc = &path->conns[i];
        uint32_t state = conn_offload_state(pc->conn);
        uint32_t clear;

        hmap_remove(&path_conns, &pc->node);
        /* Packets may reach a connection by more ways than one. */
        clear = (conn_has_path(pc->conn, pc->reply) ? 0
                 : path_bits[pc->reply]);
        if (!(state & CONN_OFFLOAD_GONE)) {
            conn_extend(path->ct, pc->conn, path->used);
        }
        if (!(state & CONN_OFFLOAD_PATH_MASK & ~clear)
            && !ct_offload_may_bypass(state_est(state))) {
            clear |= CONN_OFFLOAD_BYPASS;
        }
        conn_set_state(pc->conn, clear,
                       !i && (end == END_MEGAFLOW || end == END_IDLE)
                       && clear & path_bits[pc->reply]
                       && state_is_established(state)
                       ? await_bits[pc->reply] : 0);
    }
}

/* Has the provider give up 'path', after path_unlink(), and frees it. */
static void
path_destroy(struct path *path, enum path_end end)
    OVS_EXCLUDED(paths_mutex)
{
    struct dpif_flow_stats last;
    struct chain *chain = path->chain;

    memset(&last, 0, sizeof last);
    if (path->made) {
        ct_offload_path_del(path->slot, &path->priv, &last);
        COVERAGE_INC(ct_path_del);
    }
    ovs_mutex_lock(&paths_mutex);
    path_count(path, &last);
    path_release_conns(path, end);
    xpthread_cond_broadcast(&paths_cond);
    chain->n_paths--;
    chain_free_if_done(chain);
    ovs_mutex_unlock(&paths_mutex);
    free(path);
}

/* Returns a path of 'conn', or NULL. */
static struct path *
conn_find_path(const struct conn *conn)
    OVS_REQUIRES(paths_mutex)
{
    struct path_conn *pc;

    HMAP_FOR_EACH_WITH_HASH (pc, node, hash_pointer(conn, 0), &path_conns) {
        if (pc->conn == conn) {
            return pc->path;
        }
    }
    return NULL;
}

/* Ends all paths of 'conn', which the calling thread owns, so that none is
 * being made. */
static void
conn_end_paths(struct conn *conn)
{
    struct path *path;

    ovs_mutex_lock(&paths_mutex);
    while ((path = conn_find_path(conn))) {
        if (path->state == PATH_ENDING) {
            ovs_mutex_cond_wait(&paths_cond, &paths_mutex);
        } else {
            path_unlink(path, END_CONN);
            ovs_mutex_unlock(&paths_mutex);
            path_destroy(path, END_CONN);
            ovs_mutex_lock(&paths_mutex);
        }
    }
    ovs_mutex_unlock(&paths_mutex);
}

/* Asks the provider of 'path', which is live and not being asked, what it has
 * counted, and credits it.  It is there when this returns, but somebody may
 * wait to end it. */
static void
path_query(struct path *path)
    OVS_REQUIRES(paths_mutex)
{
    struct dpif_flow_stats stats;
    int error;

    path->querying = true;
    ovs_mutex_unlock(&paths_mutex);

    memset(&stats, 0, sizeof stats);
    error = ct_offload_path_stats(path->slot, &path->priv, &stats);

    ovs_mutex_lock(&paths_mutex);
    path->querying = false;
    xpthread_cond_broadcast(&paths_cond);
    if (!error) {
        path_count(path, &stats);
    }
}

/* Has 'conn', which the calling thread owns, live on if one of its paths was
 * used.  Returns true if it has more time now. */
static bool
conn_ask_paths(struct conn *conn)
{
    bool extended = false;
    long long int pass = time_msec();
    struct path_conn *pc;

    ovs_mutex_lock(&paths_mutex);
again:
    HMAP_FOR_EACH_WITH_HASH (pc, node, hash_pointer(conn, 0), &path_conns) {
        if (pc->conn == conn && pc->path->state == PATH_LIVE
            && pc->path->asked < pass) {
            if (pc->path->querying) {
                ovs_mutex_cond_wait(&paths_cond, &paths_mutex);
            } else {
                pc->path->asked = pass;
                path_query(pc->path);
            }
            goto again;                 /* Paths may have come and gone. */
        }
    }
    HMAP_FOR_EACH_WITH_HASH (pc, node, hash_pointer(conn, 0), &path_conns) {
        if (pc->conn == conn) {
            extended |= conn_extend(pc->path->ct, conn, pc->path->used);
        }
    }
    ovs_mutex_unlock(&paths_mutex);
    return extended;
}

/* Making. */

/* A trace on its way from the thread that has made it to an offload thread,
 * which makes a path of it. */
struct trace_job {
    struct ct_offload_job job;
    struct dp_netdev_flow *flows[CT_TRACE_MAX_FLOWS]; /* With references. */
    size_t n_flows;
    struct ct_trace_ct cts[CT_TRACE_MAX_CTS];
    size_t n_cts;
    struct path_conn conns[CT_TRACE_MAX_CTS]; /* It owns these: each connection
                                               * once. */
    size_t n_conns;
    struct conntrack *ct;
    uint32_t rss_hash;
    bool rss_valid;
};

/* Gives up the connections of 'job', after what became pending for them. */
static void
job_disown(struct trace_job *job)
{
    struct conn_offload_batch *batch = conn_batch_enter();

    for (size_t i = 0; i < job->n_conns; i++) {
        struct conn *conn = job->conns[i].conn;

        if (!conn_disown(conn)) {
            conns_push(&batch->conns, conn);
        }
    }
    conn_batch_leave(batch);
}

/* Has 'job' own the connections that it has met.  Returns false if one of them
 * has another owner. */
static bool
job_own(struct trace_job *job)
{
    for (size_t i = 0; i < job->n_cts; i++) {
        struct ct_trace_ct *stage = &job->cts[i];
        size_t j = 0;

        while (j < job->n_conns && job->conns[j].conn != stage->conn) {
            j++;
        }
        if (!stage->conn || j < job->n_conns) {
            continue;
        }
        if (!conn_own(stage->conn, 0)) {
            return false;
        }
        job->conns[job->n_conns++] = (struct path_conn) {
            .conn = stage->conn, .reply = stage->reply,
        };
    }
    return job->n_conns > 0;
}

static void
job_free(struct trace_job *job)
{
    job_disown(job);
    flows_unref(job->flows, job->n_flows);
    free(job);
}

/* Stores in '*mc' what ct() number 'i' of 'job' has found. */
static void
job_describe_conn(const struct trace_job *job, size_t i,
                  struct ct_merge_conn *mc)
{
    const struct conn *conn = job->cts[i].conn;

    memset(mc, 0, sizeof *mc);
    if (!conn) {
        mc->kind = CT_MERGE_MISS;
        return;
    }
    mc->kind = (conn_is_established(conn) ? CT_MERGE_ESTABLISHED
                : CT_MERGE_ONE_WAY);
    mc->reply = job->cts[i].reply;
    mc->snat = ct_offload_conn_is_snat(conn);
    mc->dnat = ct_offload_conn_is_dnat(conn);
    ct_offload_conn_get_tuple(conn, false, &mc->tuple[0]);
    ct_offload_conn_get_tuple(conn, true, &mc->tuple[1]);
    mc->mark = ct_offload_conn_get_mark(conn);
    mc->label = ct_offload_conn_get_labels(conn);
}

/* Finds the provider of a path of 'job': one that makes paths, and in which
 * all connections are established.  Returns its slot, or -1. */
static int
job_find_provider(const struct trace_job *job)
{
    uint8_t slots = ct_offload_forwarding();

    for (size_t i = 0; i < job->n_cts; i++) {
        const struct conn *conn = job->cts[i].conn;

        if (!conn || conn_offload_state(conn) & CONN_OFFLOAD_GONE
            || !conn_is_established(conn)) {
            return -1;
        }
        slots &= state_est(conn_offload_state(conn));
    }
    return slots ? raw_ctz(slots) : -1;
}

/* Finds the ports of 'path', of 'job', by where packets of its connections
 * come from: those of the other direction come from the port that it sends to.
 * Returns false if one is not known. */
static bool
job_find_ports(const struct trace_job *job, struct path *path)
{
    const struct ct_merge *merge = path->chain->merge;
    odp_port_t wanted[2] = { merge->in_port, merge->out_port };

    for (size_t i = 0; i < job->n_cts; i++) {
        struct conn *conn = job->cts[i].conn;
        struct conn_offload *offload = conn ? conn_get_offload(conn) : NULL;

        for (int out = 0; out < 2 && offload; out++) {
            bool reply = job->cts[i].reply ^ out;
            struct ct_offload_ctx ctx;
            uint32_t port;

            if (!path->ports[out]
                && conn_side_get(offload, reply ? CT_DIR_REV : CT_DIR_FWD,
                                 &ctx, &port)
                && ctx.input_port_id == wanted[out]) {
                path->ports[out] = port;
            }
        }
    }
    return path->ports[0] && (path->ports[1] || wanted[1] == ODPP_NONE);
}

/* Makes a path of 'job', and links it, with everything but the provider done.
 * Returns it, or NULL.  If another one has the same match, takes that out of
 * the lists, and stores it in '*rival'. */
static struct path *
job_link(const struct trace_job *job, int slot, struct path **rival)
    OVS_REQUIRES(paths_mutex)
{
    struct ct_merge_conn conns[CT_MERGE_MAX_CONNS];
    struct path *path;
    struct chain *chain;

    *rival = NULL;
    for (size_t i = 0; i < job->n_cts; i++) {
        job_describe_conn(job, i, &conns[i]);
    }
    chain = chain_get(job->flows, job->n_flows, conns, job->n_cts);
    if (!chain || chain->refused) {
        return NULL;
    }

    path = xzalloc(sizeof *path);
    path->chain = chain;
    path->ct = job->ct;
    path->slot = slot;
    if (ct_merge_instantiate(chain->merge, conns,
                             job->rss_valid ? &job->rss_hash : NULL,
                             &path->values)) {
        n_failed++;
        free(path);
        return NULL;
    }
    if (!job_find_ports(job, path)) {
        n_no_port++;
        free(path);
        return NULL;
    }
    memcpy(path->conns, job->conns, sizeof path->conns);
    path->n_conns = job->n_conns;
    *rival = path_find_rival(path);
    if (*rival
        && ((*rival)->state != PATH_LIVE || (*rival)->chain == chain)) {
        *rival = NULL;          /* It is the same, or not to be had now. */
        free(path);
        return NULL;
    }
    path_link(path);
    if (*rival) {
        /* This may wait, and nothing but 'path' keeps 'chain' from being freed
         * meanwhile. */
        path_unlink(*rival, END_KEY);
    }
    return path;
}

/* Tells the provider of 'path', which is linked. */
static int
path_add(struct path *path)
    OVS_EXCLUDED(paths_mutex)
{
    const struct ct_merge *merge = path->chain->merge;
    struct ct_offload_path p = {
        .netdev_in = ct_offload_port_get_netdev(path->ports[0]),
        .netdev_out = ct_offload_port_get_netdev(path->ports[1]),
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
    ct_merge_get_match(merge, &path->values, &match);
    ct_merge_put_actions(merge, &path->values, &actions);
    p.match = &match;
    p.actions = actions.data;
    p.actions_len = actions.size;
    error = ct_offload_path_add(path->slot, &p, &path->priv);
    ofpbuf_uninit(&actions);
    return error;
}

/* Makes a path of a trace. */
static void
job_run(struct ct_offload_job *job_)
{
    struct trace_job *job = CONTAINER_OF(job_, struct trace_job, job);
    struct path *path = NULL, *rival = NULL;
    bool cancelled;
    int error, slot;

    ovs_mutex_lock(&paths_mutex);
    /* With the mutex, so that ct_path_configure() finds the path. */
    slot = job_find_provider(job);
    if (slot >= 0) {
        path = job_link(job, slot, &rival);
    } else {
        n_not_held++;
    }
    ovs_mutex_unlock(&paths_mutex);

    if (rival) {
        path_destroy(rival, END_KEY);
    }
    if (path) {
        error = path_add(path);
        ovs_mutex_lock(&paths_mutex);
        cancelled = path->state == PATH_CANCEL || !path->chain->valid;
        if (error) {
            COVERAGE_INC(ct_path_add_fail);
            n_failed++;
            VLOG_DBG_RL(&rl, "a path cannot be made: %s",
                        ovs_strerror(error));
        } else {
            COVERAGE_INC(ct_path_add);
            n_added++;
        }
        path->made = !error;
        if (error || cancelled) {
            path_unlink(path, error ? END_ERROR : END_MEGAFLOW);
        } else {
            path->state = PATH_LIVE;
            path->used = time_msec();
        }
        ovs_mutex_unlock(&paths_mutex);
        if (error || cancelled) {
            path_destroy(path, error ? END_ERROR : END_MEGAFLOW);
        }
    }
    job_free(job);
}

/* Do the actions of 'flow' end with recirculation? */
static bool
flow_recirculates(const struct dp_netdev_flow *flow)
{
    const struct nlattr *actions, *a;
    size_t len, left;
    bool recirc = false;

    actions = dp_netdev_flow_get_nlattrs(flow, &len);
    NL_ATTR_FOR_EACH_UNSAFE (a, left, actions, len) {
        recirc = nl_attr_type(a) == OVS_ACTION_ATTR_RECIRC;
    }
    return recirc;
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
    if (flow_recirculates(trace->flows[trace->n_flows - 1])) {
        /* The last megaflow is just being made: the next packet meets it. */
        conn_set_state(trace->conn, 0, trace->await);
        return CT_TRACE_UPCALL;
    }
    if (!ct_offload_threads_have_room()) {
        return CT_TRACE_QUEUE;
    }
    if (!flows_ref(trace->flows, trace->n_flows)) {
        return CT_TRACE_UPCALL;
    }
    job = xzalloc(sizeof *job);
    job->job.run = job_run;
    memcpy(job->flows, trace->flows, sizeof job->flows);
    job->n_flows = trace->n_flows;
    memcpy(job->cts, trace->cts, sizeof job->cts);
    job->n_cts = trace->n_cts;
    job->ct = trace->ct;
    job->rss_hash = trace->rss_hash;
    job->rss_valid = trace->rss_valid;

    batch = conn_batch_enter();
    if (!job_own(job)) {
        job_free(job);
        conn_batch_leave(batch);
        return CT_TRACE_BUSY;
    }
    if (ct_offload_n_threads()) {
        ct_offload_thread_post_job(conn_batch_thread(job->conns[0].conn),
                                   &job->job);
    } else {
        job_run(&job->job);
    }
    conn_batch_leave(batch);
    return CT_TRACE_COMPLETE;
}

/* Ending. */

/* Ends paths of chains that are not valid any more. */
static void
dying_run(void)
    OVS_EXCLUDED(paths_mutex)
{
    enum path_end end = (ct_offload_forwarding() ? END_MEGAFLOW : END_CONFIG);

    for (;;) {
        struct chain *chain;
        struct path *path = NULL;

        ovs_mutex_lock(&paths_mutex);
        LIST_FOR_EACH (chain, dying_node, &dying) {
            struct path *p;

            LIST_FOR_EACH (p, chain_node, &chain->paths) {
                if (p->state == PATH_LIVE) {
                    path = p;
                    break;
                }
                if (p->state == PATH_NEW) {
                    p->state = PATH_CANCEL; /* Whoever makes it ends it. */
                }
            }
            if (path) {
                break;
            }
        }
        if (path) {
            path_unlink(path, end);
        }
        ovs_mutex_unlock(&paths_mutex);
        if (!path) {
            break;
        }
        path_destroy(path, end);
    }
}

static void
dying_job_run(struct ct_offload_job *job)
{
    dying_run();
    free(job);
}

/* Has the paths of chains that are not valid any more ended. */
static void
dying_kick(void)
{
    if (ct_offload_n_threads()) {
        struct ct_offload_job *job = xzalloc(sizeof *job);

        job->run = dying_job_run;
        ct_offload_thread_post_job(0, job);
    } else {
        dying_run();
    }
}

/* What 'flow' does has changed, or it is gone. */
void
ct_path_flow_changed__(struct dp_netdev_flow *flow)
{
    struct flow_block *block;
    struct hmapx_node *node;
    bool any = false;

    ovs_mutex_lock(&paths_mutex);
    block = dp_netdev_flow_get_ct_path(flow);
    HMAPX_FOR_EACH_SAFE (node, &block->chains) {
        struct chain *chain = node->data;

        any |= chain->n_paths > 0;
        chain_invalidate(chain);
    }
    ovs_mutex_unlock(&paths_mutex);
    if (any) {
        dying_kick();
    }
}

/* Sampling. */

/* Asks providers what all paths have counted, and ends those that are idle. */
static void
paths_sample(void)
    OVS_EXCLUDED(paths_mutex)
{
    long long int now = time_msec();
    struct hmap_position pos = { 0, 0 };
    struct hmap_node *node;

    ovs_mutex_lock(&paths_mutex);
    while ((node = hmap_at_position(&paths, &pos))) {
        struct path *path = CONTAINER_OF(node, struct path, node);

        if (path->state != PATH_LIVE || path->querying) {
            continue;
        }
        path_query(path);
        if (now > path->used + IDLE_MS && path->state == PATH_LIVE) {
            path_unlink(path, END_IDLE);
            ovs_mutex_unlock(&paths_mutex);
            path_destroy(path, END_IDLE);
            ovs_mutex_lock(&paths_mutex);
        }
    }
    ovs_mutex_unlock(&paths_mutex);
    atomic_store_relaxed(&last_pass_ms, time_msec() - now);
}

/* Does what is to be done from time to time. */
static void
tick(void)
{
    static atomic_llong next = 0;
    long long int now = time_msec();
    long long int pass, due;
    bool any;

    /* Several threads may sweep. */
    atomic_read_relaxed(&next, &due);
    if (now < due || !atomic_compare_exchange_strong(&next, &due,
                                                     now + PASS_MS)) {
        return;
    }
    ovs_mutex_lock(&paths_mutex);
    any = !hmap_is_empty(&paths);
    ovs_mutex_unlock(&paths_mutex);
    if (any) {
        paths_sample();
    }
    atomic_read_relaxed(&last_pass_ms, &pass);
    atomic_store_relaxed(&next, time_msec() + MAX(PASS_MS,
                                                  PASS_SHARE * pass));
}

/* Configuration. */

/* Has paths made or not.  Those that are there go if not: no packet passes by
 * one when this returns.  For the main thread. */
void
ct_path_configure(bool on)
{
    struct chain *chain;

    if (ct_offload_set_forwarding(on) && !on) {
        ovs_mutex_lock(&paths_mutex);
        HMAP_FOR_EACH_SAFE (chain, node, &chains) {
            chain_invalidate(chain);
        }
        ovs_mutex_unlock(&paths_mutex);
        dying_run();
        conn_batches_barrier(true);
    }
}

/* Makes what is here known to the files below.  Called once, before there can
 * be any connection. */
void
ct_path_init(void)
{
    ct_trace_set_complete(trace_complete);
    ct_offload_threads_set_tick(tick);
    conn_run_set_paths(conn_end_paths, conn_ask_paths);
}

/* For people. */

/* Appends to 'ds' how paths are doing, once there was anything to be done. */
void
ct_path_format(struct ds *ds)
{
    size_t n_refused = 0;
    struct chain *chain;
    unsigned long long int n_traces = 0;
    const char *sep = "";
    long long int pass;

    for (int i = 0; i < CT_TRACE_N_RESULTS; i++) {
        n_traces += ct_trace_count(i);
    }
    if (!n_traces) {
        return;
    }
    atomic_read_relaxed(&last_pass_ms, &pass);
    ovs_mutex_lock(&paths_mutex);
    HMAP_FOR_EACH (chain, node, &chains) {
        n_refused += chain->refused != CT_MERGE_OK;
    }
    ds_put_format(ds, "forwarding: %s, %"PRIuSIZE" paths in %"PRIuSIZE
                  " chains, %"PRIuSIZE" chains refused\n",
                  ct_offload_forwarding() ? "on" : "off", hmap_count(&paths),
                  hmap_count(&chains) - n_refused, n_refused);
    ds_put_cstr(ds, "  traces: ");
    for (int i = 0; i < CT_TRACE_N_RESULTS; i++) {
        ds_put_format(ds, "%s%llu %s", sep, ct_trace_count(i),
                      ct_trace_result_to_string(i));
        sep = ", ";
    }
    ds_put_format(ds, "\n  paths: %llu made, %llu failed, %llu not held, "
                  "%llu to unknown ports\n",
                  n_added, n_failed, n_not_held, n_no_port);
    ds_put_cstr(ds, "  paths ended by: ");
    sep = "";
    for (int i = 0; i < N_ENDS; i++) {
        ds_put_format(ds, "%s%s %llu", sep, end_names[i], n_ended[i]);
        sep = ", ";
    }
    ds_put_format(ds, "\n  sampling: last pass %lld ms\n", pass);
    ovs_mutex_unlock(&paths_mutex);
}

/* Appends to 'ds' what 'path' matches and does. */
static void
path_format(const struct path *path, struct ds *ds)
    OVS_REQUIRES(paths_mutex)
{
    struct ofpbuf actions;
    struct match match;

    ct_merge_get_match(path->chain->merge, &path->values, &match);
    match_format(&match, NULL, ds, OFP_DEFAULT_PRIORITY);
    ofpbuf_init(&actions, 0);
    ct_merge_put_actions(path->chain->merge, &path->values, &actions);
    ds_put_cstr(ds, ", actions:");
    format_odp_actions(ds, actions.data, actions.size, NULL);
    ofpbuf_uninit(&actions);
    ds_put_format(ds, ", packets:%"PRIu64", bytes:%"PRIu64
                  ", connections:%"PRIuSIZE,
                  path->n_packets, path->n_bytes, path->n_conns);
}

/* Appends to 'ds' a line for each path that has 'part', if that is nonnull, in
 * it. */
void
ct_path_format_paths(struct ds *ds, const char *part)
{
    struct path *path;

    ovs_mutex_lock(&paths_mutex);
    HMAP_FOR_EACH (path, node, &paths) {
        struct ds line = DS_EMPTY_INITIALIZER;

        path_format(path, &line);
        if (!part || strstr(ds_cstr(&line), part)) {
            ds_put_format(ds, "%s\n", ds_cstr(&line));
        }
        ds_destroy(&line);
    }
    ovs_mutex_unlock(&paths_mutex);
}

/* Appends to 'ds' what chains there are; if 'more', with their megaflows. */
void
ct_path_format_chains(struct ds *ds, bool more)
{
    struct chain *chain;

    ovs_mutex_lock(&paths_mutex);
    HMAP_FOR_EACH (chain, node, &chains) {
        ds_put_format(ds, "%"PRIuSIZE" megaflows, %"PRIuSIZE" ct()",
                      chain->n_flows, chain->n_conns);
        if (chain->refused) {
            ds_put_format(ds, ", refused: %s\n",
                          ct_merge_reason_to_string(chain->refused));
        } else {
            ds_put_format(ds, ", port %"PRIu32" to ", chain->merge->in_port);
            if (chain->merge->out_port == ODPP_NONE) {
                ds_put_cstr(ds, "drop");
            } else {
                ds_put_format(ds, "%"PRIu32, chain->merge->out_port);
            }
            ds_put_format(ds, ", paths:%"PRIuSIZE", packets:%"PRIu64
                          ", bytes:%"PRIu64"\n", chain->n_paths,
                          chain->n_packets, chain->n_bytes);
        }
        for (size_t i = 0; i < chain->n_flows && more; i++) {
            ds_put_cstr(ds, "  ");
            dp_netdev_flow_format_ufid(chain->flows[i], ds);
            ds_put_char(ds, '\n');
        }
    }
    ovs_mutex_unlock(&paths_mutex);
}
