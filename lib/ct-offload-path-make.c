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
#include "netdev.h"
#include "odp-util.h"
#include "openvswitch/ofpbuf.h"
#include "openvswitch/usdt-probes.h"
#include "openvswitch/vlog.h"
#include "timeval.h"

VLOG_DEFINE_THIS_MODULE(ct_offload_path_make);

COVERAGE_DEFINE(ct_path_add);
COVERAGE_DEFINE(ct_path_add_fail);

static struct vlog_rate_limit rl = VLOG_RATE_LIMIT_INIT(5, 5);

/* A trace on its way from the thread that has made it to an offload thread,
 * which makes a path of it. */
struct trace_job {
    struct ct_offload_job job;
    struct ct_chain_key key;    /* But for the shapes.  It has references on
                                 * the megaflows. */
    struct conn *conns[CT_TRACE_MAX_CTS]; /* It owns these, each once. */
    size_t n_conns;
    uint8_t replies;            /* A bit for each connection. */
    odp_port_t out_port;        /* Where the packet left, or ODPP_NONE. */
    uint32_t out;               /* The same: see ct-offload-port.h. */
    long long int used;         /* When the packet was traced. */
    struct ct_merge_rss rss;
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

/* Finds the ports of a path of 'job', in 'merge': the one that packets of its
 * connections come from, and the one that the packet has left by.  Packets of
 * the other direction need not come from there.  Returns false if one is not
 * known. */
static bool
job_find_ports(const struct trace_job *job, const struct ct_merge *merge,
               uint32_t ports[2])
{
    ports[0] = 0;
    ports[1] = job->out;
    for (size_t i = 0; i < job->n_conns && !ports[0]; i++) {
        struct conn_offload *offload = conn_get_offload(job->conns[i]);
        bool reply = job->replies & 1u << i;
        struct ct_offload_ctx ctx;
        uint32_t port;

        if (offload
            && conn_side_get(offload, reply ? CT_DIR_REV : CT_DIR_FWD,
                             &ctx, &port)
            && ctx.input_port_id == merge->in_port) {
            ports[0] = port;
        }
    }
    return (ports[0] && job->out_port == merge->out_port
            && (ports[1] || job->out_port == ODPP_NONE));
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
        chain->followed = false;
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
              : ct_merge_instantiate(chain->merge, conns, &job->rss, values));
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
    size_t n_misses = ct_path_count_misses(&chain->key);
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
    rival = ct_path_find(chain, &values->wire);
    if (rival && (rival->state != PATH_LIVE || rival->chain == chain)) {
        return NULL;            /* It is the same, or not to be had now. */
    }
    path = path_create(job, chain);
    ct_path_link(path, values);
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
    p.tunnel = merge->tunnel.type ? &merge->tunnel : NULL;
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
        ct_path_describe_conn(job->key.cts[i] == CT_CHAIN_MISS ? NULL
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

/* Returns the last action of 'flow' if it is of 'type', or NULL.  What is
 * recirculated after tnl_push() is not what was traced, and does not count. */
static const struct nlattr *
flow_get_last_action(const struct dp_netdev_flow *flow, int type)
{
    const struct nlattr *actions, *a, *last = NULL;
    bool pushed = false;
    size_t len, left;

    actions = dp_netdev_flow_get_nlattrs(flow, &len);
    do {
        NL_ATTR_FOR_EACH_UNSAFE (a, left, actions, len) {
            pushed |= nl_attr_type(a) == OVS_ACTION_ATTR_TUNNEL_PUSH;
            last = a;
        }
        if (last) {
            actions = nl_attr_get(last);
            len = nl_attr_get_size(last);
        }
    } while (last && nl_attr_type(last) == OVS_ACTION_ATTR_CLONE && len);
    return (last && nl_attr_type(last) == type
            && !(pushed && type == OVS_ACTION_ATTR_RECIRC) ? last : NULL);
}

/* Returns where the actions of 'flow' send packets at their end, or 0 if they
 * do not recirculate them. */
static uint32_t
flow_get_recirc(const struct dp_netdev_flow *flow)
{
    const struct nlattr *a = flow_get_last_action(flow,
                                                  OVS_ACTION_ATTR_RECIRC);

    return a ? nl_attr_get_u32(a) : 0;
}

/* Returns where the actions of 'flow' output packets to at their end, or
 * ODPP_NONE.  If that is more than one port, there is no path. */
static odp_port_t
flow_get_output(const struct dp_netdev_flow *flow)
{
    const struct nlattr *a = flow_get_last_action(flow,
                                                  OVS_ACTION_ATTR_OUTPUT);

    return a ? nl_attr_get_odp_port(a) : ODPP_NONE;
}

/* What kind of tunnel has 'netdev', which may be NULL? */
static enum ct_offload_tunnel_type
netdev_get_tunnel_type(const struct netdev *netdev)
{
    const char *type = netdev ? netdev_get_type(netdev) : "";

    return (!strcmp(type, "geneve") ? CT_OFFLOAD_TUNNEL_GENEVE
            : !strcmp(type, "vxlan") ? CT_OFFLOAD_TUNNEL_VXLAN
            : CT_OFFLOAD_TUNNEL_NONE);
}

/* Returns the tunnel that the actions of 'flow' take packets out of, if that
 * is one that is known here. */
static struct ct_merge_vport
flow_get_vport(const struct dp_netdev_flow *flow, const struct ct_trace *trace)
{
    const struct nlattr *a = flow_get_last_action(flow,
                                                  OVS_ACTION_ATTR_TUNNEL_POP);
    struct ct_merge_vport vport = { .type = CT_OFFLOAD_TUNNEL_NONE };

    if (a) {
        vport.port = nl_attr_get_odp_port(a);
        vport.type = netdev_get_tunnel_type(
            trace->get_netdev(trace->aux, vport.port));
    }
    return vport;
}

/* Returns how many ct() actions there are in 'actions', before tnl_push(). */
static size_t
count_cts(const struct nlattr *actions, size_t len)
{
    const struct nlattr *a;
    size_t n = 0, left;

    NL_ATTR_FOR_EACH_UNSAFE (a, left, actions, len) {
        if (nl_attr_type(a) == OVS_ACTION_ATTR_TUNNEL_PUSH) {
            break;
        }
        n += (nl_attr_type(a) == OVS_ACTION_ATTR_CT ? 1
              : nl_attr_type(a) == OVS_ACTION_ATTR_CLONE
              ? count_cts(nl_attr_get(a), nl_attr_get_size(a)) : 0);
    }
    return n;
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
        const struct nlattr *actions;
        size_t len;

        actions = dp_netdev_flow_get_nlattrs(trace->flows[i], &len);
        n_cts += count_cts(actions, len);
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
    job->key.vport = flow_get_vport(trace->flows[0], trace);
    job->used = time_msec();
    job->rss.hash = trace->rss_hash;
    job->rss.since = trace->rss_since;

    batch = conn_batch_enter();
    job->out_port = flow_get_output(trace->flows[trace->n_flows - 1]);
    if (job->out_port != ODPP_NONE) {
        job->out = ct_offload_port_get(trace->get_netdev(trace->aux,
                                                         job->out_port));
    }
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

/* Makes what is here known to the files below.  Called once, before there can
 * be any connection. */
void
ct_path_make_init(void)
{
    ct_trace_set_complete(trace_complete);
}
