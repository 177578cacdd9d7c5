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

/* Drives paths (see ct-offload-path.h) by random sequences of operations.
 *
 * There is a small datapath: a table of megaflows, which are made when a
 * packet finds none, by a policy.  Packets go through it, with ct() and
 * recirculation, and the layer is called as dpif-netdev.c does it.  Providers
 * check what they are told: what a path does to packets is compared with what
 * the datapath has just done to the one that was traced.  After each step all
 * paths are compared with the megaflows and connections that they depend on,
 * what providers have counted with what was credited to megaflows, and the
 * lives of connections with when they were used.
 *
 * With several threads, the same is compared where all of them pause, as far
 * as that is possible. */

#include <config.h>
#undef NDEBUG

#include "test-ct-offload-model.h"

#include <errno.h>
#include <netinet/in.h>

#include "conntrack-offload.h"
#include "conntrack-offload-run.h"
#include "conntrack-offload-state.h"
#include "conntrack.h"
#include "ct-offload-fence.h"
#include "ct-offload-path-private.h"
#include "ct-offload-path.h"
#include "ct-offload-private.h"
#include "ct-offload-thread.h"
#include "ct-offload-trace.h"
#include "ct-offload-wire.h"
#include "ct-offload.h"
#include "dp-packet.h"
#include "dpif-netdev-dpcls.h"
#include "dpif-netdev-flow.h"
#include "dpif.h"
#include "flow.h"
#include "hash.h"
#include "netlink.h"
#include "odp-execute.h"
#include "odp-util.h"
#include "openvswitch/dynamic-string.h"
#include "openvswitch/hmap.h"
#include "openvswitch/match.h"
#include "openvswitch/ofpbuf.h"
#include "ovs-rcu.h"
#include "ovs-thread.h"
#include "ovstest.h"
#include "packets.h"
#include "timeval.h"
#include "util.h"

enum {
    N_PROVIDERS = 3,
    N_PIPES = 8,
    N_ZONES = 4,
    N_CLIENTS = 3,              /* Of each of them... */
    N_THREAD_CLIENTS = 15,      /* ...if there are several threads. */
    MAX_ZONES = 2,              /* That a packet passes. */
    MAX_STAGES = MAX_ZONES + 1, /* Megaflows that a packet meets. */
    MAX_CTS = 2 * MAX_ZONES,    /* ct() actions that a packet meets. */
    MAX_PACKETS = 6,
    MAX_FLOWS = 1024,
    VLAN = 10,
};

static struct conntrack *ct;

/* In ms.  A path that forwards nothing for so long goes, if anybody looks. */
#define IDLE_MS 30000

/* Policy. */

/* What happens to packets between some clients and a server. */
struct pipe {
    /* Always. */
    size_t n_zones;
    uint16_t zones[MAX_ZONES];  /* As packets of clients pass them. */
    bool dnat[MAX_ZONES], snat[MAX_ZONES];
    bool look[MAX_ZONES];       /* Nothing is committed there. */
    bool one_way;               /* Do replies not pass the last one? */
    bool vlan;                  /* Do clients use a tag? */

    /* May change. */
    int ports[2];               /* Of the clients, and of the server. */
    int members[2];             /* By which port, plus 1, packets of either
                                 * direction leave, if those of the other one
                                 * come from another member of a bond. */
    unsigned int variant;       /* Bits: see make_megaflow(). */
};
static struct pipe pipes[N_PIPES] = {
    { .n_zones = 1, .zones = { 0 }, .ports = { 0, 2 } },
    { .n_zones = 2, .zones = { 0, 1 }, .ports = { 1, 3 } },
    { .n_zones = 1, .zones = { 2 }, .snat = { true }, .ports = { 0, 3 } },
    { .n_zones = 2, .zones = { 1, 2 }, .dnat = { true },
      .snat = { false, true }, .ports = { 1, 2 } },
    { .n_zones = 1, .zones = { 1 }, .vlan = true, .ports = { 0, 2 } },
    { .n_zones = 2, .zones = { 2, 2 }, .ports = { 1, 3 } },
    { .n_zones = 2, .zones = { 3, 0 }, .look = { true }, .ports = { 0, 3 } },
    { .n_zones = 2, .zones = { 0, 3 }, .one_way = true, .ports = { 1, 2 } },
};

/* Returns the number of zones that packets of direction 'dir' pass. */
static size_t
pipe_n_zones(const struct pipe *p, unsigned int dir)
{
    return p->n_zones - (dir && p->one_way);
}

/* Returns the port that they leave by. */
static int
pipe_get_output(const struct pipe *p, unsigned int dir)
{
    return p->members[dir] ? p->members[dir] - 1 : p->ports[!dir];
}

/* Returns the index in 'p->zones' of the one that they pass as number 'i'. */
static size_t
pipe_zone(const struct pipe *p, unsigned int dir, size_t i)
{
    return dir ? pipe_n_zones(p, dir) - 1 - i : i;
}

/* For what may change, of all of them.  The last one to be locked. */
static struct ovs_mutex policy_mutex = OVS_MUTEX_INITIALIZER;

enum { HOST_CLIENT = 1, HOST_SERVER = 2, HOST_SNAT = 101, HOST_VIP = 102 };

static ovs_be32
host_addr(unsigned int pipe, unsigned int host)
{
    return htonl(0x0a000000 + (pipe << 8) + host);
}

/* A megaflow. */
struct mflow {
    struct dp_netdev_flow *flow; /* With a reference. */
    const struct flow_wildcards *wc; /* Its mask. */
    unsigned int pipe, dir, stage;
    unsigned int change;        /* So often it was modified. */
    bool dead;
    uint64_t n_packets, n_bytes; /* What should have been credited to it. */
    long long int used;         /* When, in ms. */
};

/* What one thread that processes packets has. */
struct table {
    struct ovs_mutex mutex;
    struct mflow *flows[MAX_FLOWS] OVS_GUARDED; /* Some of them dead. */
    size_t n OVS_GUARDED;
};

/* Masks are there to stay, but megaflows have copies that are not: see
 * dpcls_destroy_subtable(). */
struct mask {
    struct netdev_flow_key key; /* Without the port: see
                                 * dp_netdev_flow_add(). */
    struct flow_wildcards wc;
};
static struct mask *masks[16];
static struct ovs_mutex masks_mutex = OVS_MUTEX_INITIALIZER;

static struct mask *
mask_get(const struct flow_wildcards *wc)
{
    struct mask *mask = NULL;
    size_t i;

    ovs_mutex_lock(&masks_mutex);
    for (i = 0; i < ARRAY_SIZE(masks) && masks[i]; i++) {
        if (flow_wildcards_equal(&masks[i]->wc, wc)) {
            mask = masks[i];
            break;
        }
    }
    if (!mask) {
        struct flow_wildcards no_port = *wc;

        ovs_assert(i < ARRAY_SIZE(masks));
        mask = masks[i] = xzalloc(sizeof *mask);
        mask->wc = *wc;
        no_port.masks.in_port.odp_port = 0;
        miniflow_map_init(&mask->key.mf, &no_port.masks);
        miniflow_init(&mask->key.mf, &no_port.masks);
    }
    ovs_mutex_unlock(&masks_mutex);
    return mask;
}

#define CS_MASK (CS_TRACKED | CS_NEW | CS_ESTABLISHED | CS_INVALID \
                 | CS_REPLY_DIR)

static uint32_t
stage_recirc_id(unsigned int pipe, unsigned int dir, unsigned int stage)
{
    return stage ? 1 + (pipe * 2 + dir) * MAX_STAGES + stage : 0;
}

static void
put_ct(struct ofpbuf *actions, const struct pipe *p, unsigned int pipe,
       unsigned int zone, bool commit)
{
    size_t ofs = nl_msg_start_nested(actions, OVS_ACTION_ATTR_CT);

    nl_msg_put_u16(actions, OVS_CT_ATTR_ZONE, p->zones[zone]);
    if (commit) {
        nl_msg_put_flag(actions, OVS_CT_ATTR_COMMIT);
    }
    if (p->dnat[zone] || p->snat[zone]) {
        size_t nat = nl_msg_start_nested(actions, OVS_CT_ATTR_NAT);

        if (commit) {
            nl_msg_put_flag(actions, (p->dnat[zone] ? OVS_NAT_ATTR_DST
                                      : OVS_NAT_ATTR_SRC));
            nl_msg_put_be32(actions, OVS_NAT_ATTR_IP_MIN,
                            host_addr(pipe, (p->dnat[zone] ? HOST_SERVER
                                             : HOST_SNAT)));
        }
        nl_msg_end_nested(actions, nat);
    }
    nl_msg_end_nested(actions, ofs);
}

/* Stores in 'wc' and 'actions' the megaflow for a packet that is like 'flow',
 * and in '*m' which one that is. */
static void
make_megaflow__(const struct flow *flow, struct flow_wildcards *wc,
                struct ofpbuf *actions, struct mflow *m)
    OVS_REQUIRES(policy_mutex)
{
    const struct pipe *p;
    unsigned int stage;

    memset(wc, 0, sizeof *wc);
    memset(m, 0, sizeof *m);
    WC_MASK_FIELD(wc, recirc_id);
    WC_MASK_FIELD(wc, in_port);
    WC_MASK_FIELD(wc, packet_type);
    WC_MASK_FIELD(wc, dl_type);
    WC_MASK_FIELD(wc, nw_proto);
    WC_MASK_FIELD_MASK(wc, nw_frag, FLOW_NW_FRAG_MASK);
    WC_MASK_FIELD(wc, vlans[0]);
    if (flow->recirc_id) {
        uint32_t n = flow->recirc_id - 1;

        m->stage = stage = n % MAX_STAGES;
        m->dir = n / MAX_STAGES % 2;
        m->pipe = n / MAX_STAGES / 2;
        wc->masks.ct_state = CS_MASK;
    } else {
        uint32_t addr = ntohl(flow->nw_src);

        m->stage = stage = 0;
        m->pipe = addr >> 8 & 0xff;
        m->dir = (addr & 0xff) == HOST_SERVER;
        WC_MASK_FIELD(wc, nw_src);
    }
    p = &pipes[m->pipe];

    if (stage) {
        unsigned int zone = pipe_zone(p, m->dir, stage - 1);

        if (!(flow->ct_state & CS_TRACKED) || flow->ct_state & CS_INVALID
            || (flow->ct_state & CS_NEW && m->dir && !p->look[zone])) {
            return;
        }
        if (!p->look[zone] && (flow->ct_state & CS_NEW
                               || (p->variant & 4 && !m->dir))) {
            put_ct(actions, p, m->pipe, zone, true);
        }
    } else if (p->ports[m->dir] != odp_to_u32(flow->in_port.odp_port) - 1) {
        return;
    } else if (p->vlan && !m->dir) {
        nl_msg_put_flag(actions, OVS_ACTION_ATTR_POP_VLAN);
    }
    if (stage < pipe_n_zones(p, m->dir)) {
        put_ct(actions, p, m->pipe, pipe_zone(p, m->dir, stage), false);
        nl_msg_put_u32(actions, OVS_ACTION_ATTR_RECIRC,
                       stage_recirc_id(m->pipe, m->dir, stage + 1));
        return;
    }

    if (p->variant & 1) {
        struct ovs_key_ethernet eth[2];
        size_t ofs = nl_msg_start_nested(actions, OVS_ACTION_ATTR_SET_MASKED);

        memset(eth, 0, sizeof eth);
        memset(&eth[1].eth_dst, 0xff, sizeof eth[1].eth_dst);
        eth[0].eth_dst = (struct eth_addr) ETH_ADDR_C(02,00,00,00,00,42);
        eth[0].eth_dst.ea[4] = p->variant;
        nl_msg_put_unspec(actions, OVS_KEY_ATTR_ETHERNET, eth, sizeof eth);
        nl_msg_end_nested(actions, ofs);
    }
    if (p->variant & 2) {
        struct ovs_key_ipv4 ip[2];
        size_t ofs = nl_msg_start_nested(actions, OVS_ACTION_ATTR_SET_MASKED);

        memset(ip, 0, sizeof ip);
        ip[0].ipv4_ttl = 63;
        ip[1].ipv4_ttl = 0xff;
        nl_msg_put_unspec(actions, OVS_KEY_ATTR_IPV4, ip, sizeof ip);
        nl_msg_end_nested(actions, ofs);
        WC_MASK_FIELD(wc, nw_ttl);
    }
    if (p->vlan && m->dir) {
        const struct ovs_action_push_vlan vlan = {
            .vlan_tpid = htons(ETH_TYPE_VLAN_8021Q),
            .vlan_tci = htons(VLAN | VLAN_CFI),
        };

        nl_msg_put_unspec(actions, OVS_ACTION_ATTR_PUSH_VLAN, &vlan,
                          sizeof vlan);
    }
    nl_msg_put_odp_port(actions, OVS_ACTION_ATTR_OUTPUT,
                        u32_to_odp(1 + pipe_get_output(p, m->dir)));
}

static void
make_megaflow(const struct flow *flow, struct flow_wildcards *wc,
              struct ofpbuf *actions, struct mflow *m)
{
    ovs_mutex_lock(&policy_mutex);
    make_megaflow__(flow, wc, actions, m);
    ovs_mutex_unlock(&policy_mutex);
}

/* Is 'value' like 'key', as far as 'mask' says? */
static bool
flow_matches(const struct flow *key, const struct flow *mask,
             const struct flow *value)
{
    const uint64_t *key_u64 = (const uint64_t *) key;
    const uint64_t *mask_u64 = (const uint64_t *) mask;
    const uint64_t *value_u64 = (const uint64_t *) value;

    for (size_t i = 0; i < FLOW_U64S; i++) {
        if ((key_u64[i] ^ value_u64[i]) & mask_u64[i]) {
            return false;
        }
    }
    return true;
}

/* Does 'flow' match the megaflow of 'm'? */
static bool
mflow_matches(const struct mflow *m, const struct flow *flow)
{
    return (m->flow->flow.recirc_id == flow->recirc_id
            && m->flow->flow.in_port.odp_port == flow->in_port.odp_port
            && flow_matches(&m->flow->flow, &m->wc->masks, flow));
}

static struct mflow *
table_find(struct table *t, const struct flow *flow)
    OVS_REQUIRES(t->mutex)
{
    for (size_t i = 0; i < t->n; i++) {
        struct mflow *m = t->flows[i];

        if (!m->dead && mflow_matches(m, flow)) {
            return m;
        }
    }
    return NULL;
}

/* See dp_netdev_actions_create(). */
static struct dp_netdev_actions *
actions_create(const struct ofpbuf *actions)
{
    struct dp_netdev_actions *a = xmalloc(sizeof *a + actions->size);

    a->size = actions->size;
    nullable_memcpy(a->actions, actions->data, actions->size);
    return a;
}

/* Adds a megaflow.  See dp_netdev_flow_add(). */
static void
table_add(struct table *t, const struct mflow *like, const struct flow *key,
          const struct flow_wildcards *wc, const struct ofpbuf *actions)
    OVS_REQUIRES(t->mutex)
{
    struct mflow *m = xmemdup(like, sizeof *like);
    struct dp_netdev_flow *flow = xzalloc(sizeof *flow);
    struct mask *mask = mask_get(wc);

    *CONST_CAST(struct flow *, &flow->flow) = *key;
    flow->cr.mask = xmemdup(&mask->key, sizeof mask->key);
    m->wc = &mask->wc;
    ovs_refcount_init(&flow->ref_cnt);
    atomic_init(&flow->ct_path, NULL);
    ovsrcu_init(&flow->actions, actions_create(actions));
    m->flow = flow;
    t->flows[t->n++] = m;
}

/* See flow_put_on_pmd(). */
static void
mflow_modify(struct mflow *m, const struct ofpbuf *actions)
{
    struct dp_netdev_actions *old
        = ovsrcu_get_protected(struct dp_netdev_actions *, &m->flow->actions);

    m->change++;
    ovsrcu_set(&m->flow->actions, actions_create(actions));
    ct_path_flow_changed(m->flow);
    ovsrcu_postpone(free, old);
}

/* See dp_netdev_pmd_remove_flow(). */
static void
mflow_kill(struct mflow *m)
{
    ovsrcu_postpone(free, m->flow->cr.mask);
    m->dead = true;
    m->flow->dead = true;
    ct_path_flow_changed(m->flow);
}

/* The policy for 'm' may have changed: sees to it that it does what it should.
 */
static void
mflow_revalidate(struct mflow *m, bool anyway)
{
    struct dp_netdev_actions *old
        = ovsrcu_get_protected(struct dp_netdev_actions *, &m->flow->actions);
    struct flow_wildcards wc;
    struct ofpbuf actions;
    struct mflow new;

    ofpbuf_init(&actions, 0);
    make_megaflow(&m->flow->flow, &wc, &actions, &new);
    if (!flow_wildcards_equal(&wc, m->wc)) {
        mflow_kill(m);
    } else if (anyway || old->size != actions.size
               || (old->size && memcmp(old->actions, actions.data,
                                       actions.size))) {
        mflow_modify(m, &actions);
    }
    ofpbuf_uninit(&actions);
}

/* Packets. */

/* What a ct() has found for a packet. */
struct found {
    struct conn *conn;          /* NULL if nothing. */
    bool reply;
    bool one_way;               /* It had no reply before. */
    struct conn_key key;        /* Where nothing was found. */
};

/* A packet on its way. */
struct packet {
    struct dp_packet *pkt;
    struct dp_packet *orig;     /* As it arrived. */
    struct flow flow;           /* The same. */
    unsigned int pipe, dir;
    odp_port_t out_port;
    uint16_t tcp_flags;
    struct mflow *route[MAX_STAGES]; /* What it has met... */
    unsigned int changes[MAX_STAGES]; /* ...as it was then. */
    size_t n_route;
    struct found found[MAX_CTS]; /* By each ct(). */
    size_t n_found;
    bool upcall;                /* It has met no megaflow somewhere. */
    bool broken;                /* A ct() has found it invalid, or has
                                 * committed a connection, or would have. */
};

struct burst {
    struct packet packets[MAX_PACKETS];
    size_t n;
    struct netdev *netdev;
    unsigned int locked;        /* Other ports that do not go: a mask. */
};

static bool burst_lock(struct burst *, struct netdev *);

struct worker {
    struct table *table;
    struct burst *burst;
    const struct flow *at;      /* The key of what is being executed. */
    unsigned int depth;         /* Of recirculation. */
};

/* Of the only thread. */
static struct table table0;

static struct packet *
worker_packet(const struct worker *w, const struct dp_packet *pkt)
{
    for (size_t i = 0; i < w->burst->n; i++) {
        if (w->burst->packets[i].pkt == pkt) {
            return &w->burst->packets[i];
        }
    }
    OVS_NOT_REACHED();
}

static void process(struct worker *, const struct dp_packet_batch *);

static void mpaths_replied(const struct conn *);

/* ct() was executed for 'p'. */
static void
packet_found(struct packet *p, bool commit)
{
    uint8_t state = p->pkt->md.ct_state;
    uint16_t zone = p->pkt->md.ct_zone;
    struct found *found = &p->found[p->n_found];

    ovs_assert(p->n_found < MAX_CTS);
    found->reply = (state & CS_REPLY_DIR) != 0;
    found->conn = conntrack_find_traced(ct, p->pkt);
    found->one_way = found->conn && !conn_is_established(found->conn);
    p->broken |= (!(state & CS_TRACKED) || state & (CS_INVALID | CS_RELATED)
                  || (!found->conn && (commit || state & CS_ESTABLISHED)));
    if (!found->conn) {
        struct flow flow;

        flow_extract(p->pkt, &flow);
        memset(&found->key, 0, sizeof found->key);
        found->key.zone = zone;
        found->key.nw_proto = flow.nw_proto;
        found->key.src.addr.ipv4 = flow.nw_src;
        found->key.dst.addr.ipv4 = flow.nw_dst;
        found->key.src.port = flow.tp_src;
        found->key.dst.port = flow.tp_dst;
    } else if (commit && p->n_found && !(found - 1)->conn
               && (found - 1)->key.zone == zone) {
        p->broken = true;               /* It is new. */
    }
    if (!threaded && found->conn && found->reply && !(state & CS_INVALID)) {
        mpaths_replied(found->conn);
    }
    p->n_found++;
}

/* See dp_execute_cb(). */
static void
execute_ct(struct worker *w, struct dp_packet_batch *batch,
           const struct nlattr *a)
{
    const struct nlattr *nat = nl_attr_find_nested(a, OVS_CT_ATTR_NAT);
    bool commit = nl_attr_find_nested(a, OVS_CT_ATTR_COMMIT) != NULL;
    struct nat_action_info_t info;
    struct dp_packet *pkt;

    memset(&info, 0, sizeof info);
    if (nat && commit) {
        const struct nlattr *min = nl_attr_find_nested(nat,
                                                       OVS_NAT_ATTR_IP_MIN);

        info.nat_action = (nl_attr_find_nested(nat, OVS_NAT_ATTR_SRC)
                           ? NAT_ACTION_SRC : NAT_ACTION_DST);
        info.min_addr.ipv4 = info.max_addr.ipv4 = nl_attr_get_be32(min);
    }
    conntrack_execute(ct, batch, htons(ETH_TYPE_IP), false, commit,
                      nl_attr_get_u16(nl_attr_find_nested(a,
                                                          OVS_CT_ATTR_ZONE)),
                      NULL, NULL, NULL, nat ? &info : NULL, time_msec(), 0,
                      w->burst->netdev);
    ct_trace_ct(batch, ct, w->at, commit);

    DP_PACKET_BATCH_FOR_EACH (i, pkt, batch) {
        packet_found(worker_packet(w, pkt), commit);
    }
}

/* See dp_netdev_pmd_get_netdev(). */
static struct netdev *
get_netdev(const void *w_, odp_port_t port)
{
    const struct worker *w = w_;
    struct netdev *netdev = &model_netdevs[odp_to_u32(port) - 1];

    return !threaded || burst_lock(w->burst, netdev) ? netdev : NULL;
}

static void
execute_cb(void *w_, struct dp_packet_batch *batch, const struct nlattr *a,
           bool should_steal)
{
    struct worker *w = w_;
    struct dp_packet *pkt;
    const struct flow *at = w->at;

    ovs_assert(!should_steal);
    switch ((int) nl_attr_type(a)) {
    case OVS_ACTION_ATTR_OUTPUT:
        DP_PACKET_BATCH_FOR_EACH (i, pkt, batch) {
            worker_packet(w, pkt)->out_port = nl_attr_get_odp_port(a);
        }
        break;

    case OVS_ACTION_ATTR_RECIRC:
        DP_PACKET_BATCH_FOR_EACH (i, pkt, batch) {
            pkt->md.recirc_id = nl_attr_get_u32(a);
        }
        w->depth++;
        process(w, batch);
        w->depth--;
        w->at = at;
        break;

    case OVS_ACTION_ATTR_CT:
        execute_ct(w, batch, a);
        break;

    default:
        OVS_NOT_REACHED();
    }
}

/* Packets in 'batch', which are like 'flow', meet 'm' or, if that is NULL,
 * none. */
static void
execute(struct worker *w, struct dp_packet_batch *batch, struct mflow *m,
        struct flow *flow)
{
    struct dp_packet *pkt;

    if (m) {
        const struct nlattr *actions;
        size_t len;

        DP_PACKET_BATCH_FOR_EACH (i, pkt, batch) {
            struct packet *p = worker_packet(w, pkt);

            if (!threaded) {
                p->changes[p->n_route] = m->change;
                p->route[p->n_route++] = m;
            }
        }
        /* See packet_batch_per_flow_execute(). */
        ct_trace_enter(m->flow, batch, w->depth);
        w->at = &m->flow->flow;
        actions = dp_netdev_flow_get_nlattrs(m->flow, &len);
        odp_execute_actions(w, batch, false, actions, len, execute_cb);
        ct_trace_leave(m->flow, &m->flow->flow, w->depth, get_netdev, w);
    } else {
        struct flow_wildcards wc;
        struct ofpbuf actions;
        struct mflow new;

        /* See handle_packet_upcall(). */
        note(" upcall");
        DP_PACKET_BATCH_FOR_EACH (i, pkt, batch) {
            worker_packet(w, pkt)->upcall = true;
        }
        ofpbuf_init(&actions, 0);
        make_megaflow(flow, &wc, &actions, &new);
        w->at = flow;
        odp_execute_actions(w, batch, false, actions.data, actions.size,
                            execute_cb);
        ovs_mutex_lock(&w->table->mutex);
        if (w->table->n < MAX_FLOWS && !table_find(w->table, flow)
            && percent(95)) {
            table_add(w->table, &new, flow, &wc, &actions);
        }
        ovs_mutex_unlock(&w->table->mutex);
        ofpbuf_uninit(&actions);
    }
}

static void
process(struct worker *w, const struct dp_packet_batch *batch)
{
    struct dp_packet_batch left = *batch;

    while (left.count) {
        struct dp_packet_batch same, others;
        struct dp_packet *pkt;
        struct mflow *m;
        struct flow first;

        dp_packet_batch_init(&same);
        dp_packet_batch_init(&others);
        flow_extract(left.packets[0], &first);
        ovs_mutex_lock(&w->table->mutex);
        m = table_find(w->table, &first);
        ovs_mutex_unlock(&w->table->mutex);
        DP_PACKET_BATCH_FOR_EACH (i, pkt, &left) {
            struct flow flow;

            flow_extract(pkt, &flow);
            dp_packet_batch_add((m ? mflow_matches(m, &flow) : !i)
                                ? &same : &others, pkt);
        }
        execute(w, &same, m, &first);
        left = others;
    }
}

/* Providers. */

/* A connection that a provider holds. */
struct held {
    struct hmap_node node;      /* In 'held' of its provider. */
    const struct conn *conn;
    bool est;
};

/* A path that a provider has. */
struct mpath {
    struct hmap_node node;      /* In 'paths' of its provider. */
    struct match match;
    struct netdev *netdevs[2];
    odp_port_t out_port;
    unsigned int pipe, dir;
    uint64_t n_packets, n_bytes; /* What hardware has forwarded... */
    uint64_t told;              /* ...and the packets that were told. */
    uint64_t told_bytes;
    long long int hit, noticed; /* When, and when that was told. */
    atomic_flag busy;           /* In a callback. */

    /* With one thread only: what it depends on. */
    struct mflow *route[MAX_STAGES];
    unsigned int changes[MAX_STAGES];
    size_t n_route;
    struct found found[MAX_CTS];
    uint32_t marks[MAX_CTS];
    size_t n_found;
    bool used;                  /* No sweep may end it. */
    bool replied;               /* What had no reply before has one. */
};

/* A fence that a provider has. */
struct mfence {
    struct hmap_node node;      /* In 'fences' of its provider. */
    struct match match;
    struct netdev *netdev;
};

/* With one thread: paths that have ended during a step in which no packets
 * were sent. */
static struct {
    struct provider *p;
    struct found found[MAX_CTS];
    size_t n_found;
} ended[64];
static size_t n_ended;

struct provider {
    struct ct_offload_class class;
    unsigned int id;
    bool registered;
    atomic_bool live;           /* Between init() and exit(). */
    atomic_flag called;         /* In a callback, unless it is thread-safe. */
    atomic_uint refuse, errors, path_errors, stats_errors; /* Percentages. */
    atomic_uint ports;          /* That it forwards from: a mask. */
    struct ovs_mutex mutex;
    struct hmap held OVS_GUARDED;
    struct hmap paths OVS_GUARDED;
    struct hmap fences OVS_GUARDED;
    unsigned long long int n_path_add, n_path_del, n_path_error, n_hits;
};
static struct provider providers[N_PROVIDERS];

/* What all paths in a direction of a pipe have told. */
static uint64_t told[N_PIPES][2];
static struct ovs_mutex told_mutex = OVS_MUTEX_INITIALIZER;

/* With one thread: what is being processed. */
static struct burst *current;

/* What a run has done, to show that it was worth it. */
static struct {
    unsigned long long int packets, created, settled, missed, one_way, fences;
} sum;

static void
call_begin(struct provider *p, const char *what)
{
    bool live;

    atomic_read(&p->live, &live);
    if (!live) {
        fail("%s: %s while it is not registered", p->class.name, what);
    }
    if (!p->class.thread_safe && atomic_flag_test_and_set(&p->called)) {
        fail("%s: %s during another callback", p->class.name, what);
    }
    if (threaded) {
        sched_yield();
    }
}

static void
call_end(struct provider *p)
{
    if (!p->class.thread_safe) {
        atomic_flag_clear(&p->called);
    }
}

/* Is something to happen in 'percentage' of the cases, to what has 'hash'?
 * With one thread that does not depend on what was done before. */
static bool
chance(atomic_uint *percentage, uint32_t hash)
{
    unsigned int n;

    atomic_read_relaxed(percentage, &n);
    return n && (threaded ? percent(n)
                 : hash_2words(hash, step) % 100 < n);
}

static uint32_t
conn_hash(const struct conn *conn)
{
    struct ct_dpif_tuple t;

    ct_offload_conn_get_tuple(conn, false, &t);
    return hash_bytes(&t, sizeof t, ct_offload_conn_get_zone(conn));
}

static uint32_t
path_hash(const struct match *match)
{
    return hash_2words(hash_2words((OVS_FORCE uint32_t) match->flow.nw_src,
                                   (OVS_FORCE uint32_t) match->flow.nw_dst),
                       hash_2words((OVS_FORCE uint16_t) match->flow.tp_src
                                   << 8 | match->flow.nw_proto,
                                   (OVS_FORCE uint16_t) match->flow.tp_dst));
}

static struct held *
held_find(struct provider *p, const struct conn *conn)
    OVS_REQUIRES(p->mutex)
{
    struct held *h;

    HMAP_FOR_EACH_WITH_HASH (h, node, hash_pointer(conn, 0), &p->held) {
        if (h->conn == conn) {
            return h;
        }
    }
    return NULL;
}

static bool
provider_can_offload(struct provider *p,
                     const struct ct_offload_ctx *ctx)
{
    return !chance(&p->refuse, conn_hash(ctx->conn));
}

static int
provider_add(struct provider *p, const struct ct_offload_ctx *ctx)
{
    struct held *h;

    if (chance(&p->errors, conn_hash(ctx->conn))) {
        return ENOSPC;
    }
    h = xzalloc(sizeof *h);
    h->conn = ctx->conn;
    *ctx->priv = h;
    ovs_mutex_lock(&p->mutex);
    hmap_insert(&p->held, &h->node, hash_pointer(h->conn, 0));
    ovs_mutex_unlock(&p->mutex);
    return 0;
}

/* Does 'conn' have a path? */
static bool
has_path(const struct conn *conn)
{
    return (conn_offload_state(conn) & CONN_OFFLOAD_PATH_MASK) != 0;
}

static void
provider_del(struct provider *p, const struct ct_offload_ctx *ctx)
{
    struct held *h = *ctx->priv;

    ovs_mutex_lock(&p->mutex);
    if (held_find(p, ctx->conn) != h) {
        fail("%s: del of a connection that it does not hold", p->class.name);
    }
    if (has_path(ctx->conn)) {
        fail("%s: del of a connection that has a path", p->class.name);
    }
    hmap_remove(&p->held, &h->node);
    ovs_mutex_unlock(&p->mutex);
    free(h);
}

static int
provider_est(struct provider *p, const struct ct_offload_ctx *ctx)
{
    struct held *h = *ctx->priv;
    bool error = chance(&p->errors, ~conn_hash(ctx->conn));

    ovs_mutex_lock(&p->mutex);
    h->est = true;
    if (error) {
        hmap_remove(&p->held, &h->node);
    }
    ovs_mutex_unlock(&p->mutex);
    if (error) {
        free(h);
    }
    return error ? ENOSPC : 0;
}

static bool
provider_forwards(struct provider *p, const struct netdev *netdev)
{
    unsigned int ports;

    atomic_read_relaxed(&p->ports, &ports);
    return ports & (1u << (netdev - model_netdevs));
}

/* Is a packet with 'flow' one that 'match' takes? */
static bool
match_takes(const struct match *match, const struct flow *flow)
{
    return flow_matches(&match->flow, &match->wc.masks, flow);
}

static void
path_output(void *port_, struct dp_packet_batch *batch OVS_UNUSED,
            const struct nlattr *a, bool should_steal OVS_UNUSED)
{
    odp_port_t *port = port_;

    ovs_assert(nl_attr_type(a) == OVS_ACTION_ATTR_OUTPUT
               && *port == ODPP_NONE);
    *port = nl_attr_get_odp_port(a);
}

/* Does the path 'path' do to the packet of 'packet' what software has done? */
static void
check_actions(const struct provider *p, const struct ct_offload_path *path,
              const struct packet *packet)
{
    struct dp_packet *pkt = dp_packet_clone(packet->orig);
    struct dp_packet_batch batch;
    odp_port_t port = ODPP_NONE;

    dp_packet_batch_init_packet(&batch, pkt);
    odp_execute_actions(&port, &batch, false, path->actions,
                        path->actions_len, path_output);
    if (port != packet->out_port || port != path->out_port) {
        fail("%s: path to port %d instead of %d", p->class.name,
             odp_to_u32(port), odp_to_u32(packet->out_port));
    }
    dp_packet_ol_send_prepare(pkt, 0);
    dp_packet_ol_send_prepare(packet->pkt, 0);
    if (port == ODPP_NONE) {
        /* Nobody sees what has happened to it before. */
    } else if (dp_packet_size(pkt) != dp_packet_size(packet->pkt)
        || memcmp(dp_packet_data(pkt), dp_packet_data(packet->pkt),
                  dp_packet_size(pkt))) {
        fail("%s: the path changes a packet in another way than software",
             p->class.name);
    }
    dp_packet_delete(pkt);
}

/* Notes in 'm' on what it depends: what the packet has met that was traced. */
static void
mpath_learn(struct provider *p, const struct ct_offload_path *path,
            struct mpath *m)
{
    const struct packet *packet = NULL;
    bool changed = false, established = false;
    size_t n_conns = 0;
    int best = 0;

    for (size_t i = 0; current && i < current->n; i++) {
        const struct packet *other = &current->packets[i];
        int rank = (1 + (other->upcall || other->broken ? 0 : 2)
                    + !(other->tcp_flags & TCP_SYN));

        /* Others of the same connection may not have been traced, or not to
         * the end: it is the last one, but no SYN, which megaflows may take
         * for new, if there is another one that can be. */
        if (other->pkt->md.ct_trace && match_takes(path->match, &other->flow)
            && rank >= best) {
            packet = other;
            best = rank;
        }
    }
    if (!packet) {
        fail("%s: a path that no packet has passed", p->class.name);
    }
    for (size_t i = 0; i < packet->n_found; i++) {
        const struct conn *conn = packet->found[i].conn;
        bool new = conn != NULL;

        for (size_t j = 0; j < i; j++) {
            new &= packet->found[j].conn != conn;
        }
        n_conns += new;
        established |= conn && !packet->found[i].one_way;
    }
    if (packet->upcall || packet->broken || path->n_conns != n_conns
        || !established) {
        fail("%s: a path of a packet that cannot be traced: number %"PRIdPTR
             ", upcall %d, broken %d, %u of %"PRIuSIZE" connections",
             p->class.name, packet - current->packets, packet->upcall,
             packet->broken, path->n_conns, n_conns);
    }
    memcpy(m->route, packet->route, sizeof m->route);
    m->n_route = packet->n_route;
    for (size_t i = 0; i < m->n_route; i++) {
        /* What megaflows do now counts: see interfere(). */
        m->changes[i] = m->route[i]->change;
        changed |= m->changes[i] != packet->changes[i];
    }
    if (!changed) {
        check_actions(p, path, packet);
    }
    memcpy(m->found, packet->found, sizeof m->found);
    m->n_found = packet->n_found;
    for (size_t i = 0; i < m->n_found; i++) {
        const struct conn *conn = m->found[i].conn;

        m->marks[i] = conn ? ct_offload_conn_get_mark(conn) : 0;
        sum.missed += !conn;
        sum.one_way += m->found[i].one_way;
    }
}

/* Do 'a' and 'b' match the same packets? */
static bool
same_match(const struct mpath *a, const struct match *b)
{
    return (a->match.flow.in_port.odp_port == b->flow.in_port.odp_port
            && a->match.flow.nw_src == b->flow.nw_src
            && a->match.flow.nw_dst == b->flow.nw_dst
            && a->match.flow.nw_proto == b->flow.nw_proto
            && a->match.flow.tp_src == b->flow.tp_src
            && a->match.flow.tp_dst == b->flow.tp_dst
            && a->match.flow.vlans[0].tci == b->flow.vlans[0].tci);
}

/* What a path of which has gone while the provider was being told. */
static const struct conn *interfered;
static bool calm;               /* Nothing does. */

/* Does what another thread might do while a provider is told of 'path'. */
static void
interfere(const struct mpath *path)
{
    uint32_t r = hash_2words(path_hash(&path->match), step);
    struct mflow *f = path->route[r / 256 % path->n_route];
    struct conn *conn = path->found[r / 256 % path->n_found].conn;

    if (r % 256 < 10) {
        note("(kill)");
        mflow_kill(f);
    } else if (r % 256 < 20) {
        note("(modify)");
        mflow_revalidate(f, true);
    } else if (r % 256 < 30 && !interfered && conn) {
        struct ct_dpif_tuple tuple;

        note("(flush)");
        ct_offload_conn_get_tuple(conn, false, &tuple);
        conntrack_flush_tuple(ct, &tuple, ct_offload_conn_get_zone(conn));
        interfered = conn;
    }
}

/* Returns the number of paths of 'p' whose packets 'fence' takes; if 'stale',
 * of those that are not by the policy any more. */
static size_t
mfence_count(const struct provider *p, const struct mfence *fence, bool stale)
    OVS_REQUIRES(p->mutex)
{
    const struct mpath *path;
    size_t n = 0;

    HMAP_FOR_EACH (path, node, &p->paths) {
        bool counts = !stale;

        if (path->netdevs[0] != fence->netdev
            || !flow_equal_except(&path->match.flow, &fence->match.flow,
                                  &fence->match.wc)) {
            continue;
        }
        for (size_t i = 0; i < path->n_route; i++) {
            counts |= (path->route[i]->dead
                       || path->route[i]->change != path->changes[i]);
        }
        n += counts;
    }
    return n;
}

static int
provider_fence_add(struct provider *p, const struct ct_offload_path *path,
                   void **priv)
{
    struct mfence *fence;
    uint32_t in_port = odp_to_u32(path->in_port);

    note("(fence)");
    if (path->netdev_in != &model_netdevs[in_port - 1] || path->netdev_out
        || path->actions_len) {
        fail("%s: wrong fence", p->class.name);
    }
    if (chance(&p->path_errors, path_hash(path->match))) {
        note("(error)");
        return ENOSPC;
    }
    fence = xzalloc(sizeof *fence);
    fence->match = *path->match;
    fence->netdev = path->netdev_in;
    ovs_mutex_lock(&p->mutex);
    if (!threaded && mfence_count(p, fence, true) < ct_fence_min_paths) {
        fail("%s: a fence against %"PRIuSIZE" paths, of which %"PRIuSIZE
             " are to go", p->class.name, mfence_count(p, fence, false),
             mfence_count(p, fence, true));
    }
    hmap_insert(&p->fences, &fence->node, hash_pointer(fence, 0));
    sum.fences++;
    ovs_mutex_unlock(&p->mutex);
    *priv = fence;
    return 0;
}

/* If 'priv' is a fence, takes it away and returns true. */
static bool
provider_fence_del(struct provider *p, const void *priv)
    OVS_REQUIRES(p->mutex)
{
    struct mfence *fence;

    HMAP_FOR_EACH_WITH_HASH (fence, node, hash_pointer(priv, 0), &p->fences) {
        if (fence != priv) {
            continue;
        }
        note(" %s.fence_del", p->class.name);
        hmap_remove(&p->fences, &fence->node);
        free(fence);
        return true;
    }
    return false;
}

/* Is there a fence in front of 'path'? */
static bool
provider_has_fence(const struct provider *p, const struct mpath *path)
    OVS_REQUIRES(p->mutex)
{
    const struct mfence *fence;

    HMAP_FOR_EACH (fence, node, &p->fences) {
        if (path->netdevs[0] == fence->netdev
            && flow_equal_except(&path->match.flow, &fence->match.flow,
                                 &fence->match.wc)) {
            return true;
        }
    }
    return false;
}

static int
provider_path_add(struct provider *p, const struct ct_offload_path *path,
                  void **priv)
{
    const struct flow *flow = &path->match->flow;
    struct mpath *m, *other;

    note(" %s.path_add", p->class.name);
    if (*priv) {
        fail("%s: path_add with a pointer", p->class.name);
    }
    if (path->fence) {
        return provider_fence_add(p, path, priv);
    }
    if (!path->netdev_in || (!path->netdev_out && path->out_port != ODPP_NONE)
        || path->netdev_in != &model_netdevs[odp_to_u32(path->in_port) - 1]
        || (path->netdev_out
            && (path->netdev_out
                != &model_netdevs[odp_to_u32(path->out_port) - 1]))) {
        fail("%s: path of wrong ports", p->class.name);
    }
    if (!threaded && !provider_forwards(p, path->netdev_in)) {
        fail("%s: path from a port that it does not forward from",
             p->class.name);
    }
    if (chance(&p->path_errors, path_hash(path->match))) {
        note("(error)");
        ovs_mutex_lock(&p->mutex);
        p->n_path_error++;
        ovs_mutex_unlock(&p->mutex);
        return ENOSPC;
    }

    m = xzalloc(sizeof *m);
    m->match = *path->match;
    m->netdevs[0] = path->netdev_in;
    m->netdevs[1] = path->netdev_out;
    m->out_port = path->out_port;
    m->pipe = ntohl(flow->nw_src) >> 8 & 0xff;
    m->dir = (ntohl(flow->nw_src) & 0xff) == HOST_SERVER;
    m->noticed = m->hit = time_msec();
    atomic_flag_clear(&m->busy);
    if (!threaded) {
        mpath_learn(p, path, m);
    }
    ovs_mutex_lock(&p->mutex);
    HMAP_FOR_EACH (other, node, &p->paths) {
        if (same_match(other, path->match)) {
            fail("%s: a second path with the same match", p->class.name);
        }
    }
    hmap_insert(&p->paths, &m->node, hash_pointer(m, 0));
    p->n_path_add++;
    ovs_mutex_unlock(&p->mutex);
    *priv = m;
    if (!threaded && !calm && p->class.thread_safe) {
        interfere(m);
    }
    return 0;
}

static void mpath_noticed(const struct mpath *);

/* Tells in '*stats' what 'm' has counted. */
static void
mpath_tell(struct mpath *m, struct dpif_flow_stats *stats)
{
    uint64_t n = m->n_packets - m->told;

    stats->n_packets = m->n_packets;
    stats->n_bytes = m->n_bytes;
    if (!n) {
        return;
    }
    ovs_mutex_lock(&told_mutex);
    told[m->pipe][m->dir] += n;
    ovs_mutex_unlock(&told_mutex);
    m->noticed = time_msec();
    if (!threaded) {
        for (size_t i = 0; i < m->n_route; i++) {
            struct mflow *f = m->route[i];
            bool popped = pipes[m->pipe].vlan && !m->dir && i;

            f->n_packets += n;
            f->n_bytes += (m->n_bytes - m->told_bytes
                           - (popped ? n * VLAN_HEADER_LEN : 0));
            f->used = m->noticed;
        }
        mpath_noticed(m);
    }
    m->told = m->n_packets;
    m->told_bytes = m->n_bytes;
}

static struct mpath *
mpath_begin(struct provider *p, struct mpath *m, const char *what)
    OVS_REQUIRES(p->mutex)
{
    struct mpath *other;
    bool found = false;

    note(" %s.%s", p->class.name, what);
    HMAP_FOR_EACH_WITH_HASH (other, node, hash_pointer(m, 0), &p->paths) {
        found |= other == m;
    }
    if (!found) {
        fail("%s: %s of a path that it does not have", p->class.name, what);
    }
    if (atomic_flag_test_and_set(&m->busy)) {
        fail("%s: %s during another callback for the same path",
             p->class.name, what);
    }
    if (threaded) {
        ovs_mutex_unlock(&p->mutex);
        if (percent(10)) {
            xnanosleep_no_quiesce(pick(300) * 1000);
        }
        ovs_mutex_lock(&p->mutex);
    }
    return m;
}

/* Does the calling thread process packets? */
static thread_local bool is_packet_thread;

static void
provider_path_del(struct provider *p, void **priv,
                  struct dpif_flow_stats *last)
{
    struct mpath *m;

    if (is_packet_thread && ct_offload_n_threads()) {
        fail("%s: a packet waits for path_del", p->class.name);
    }
    ovs_mutex_lock(&p->mutex);
    if (provider_fence_del(p, *priv)) {
        ovs_mutex_unlock(&p->mutex);
        return;
    }
    m = mpath_begin(p, *priv, "path_del");
    if (m->used) {
        fail("%s: a sweep ends a path that was used", p->class.name);
    }
    if (!threaded && n_ended < ARRAY_SIZE(ended)) {
        ended[n_ended].p = p;
        memcpy(ended[n_ended].found, m->found, sizeof m->found);
        ended[n_ended++].n_found = m->n_found;
    }
    mpath_tell(m, last);
    hmap_remove(&p->paths, &m->node);
    p->n_path_del++;
    ovs_mutex_unlock(&p->mutex);
    free(m);
}

static int
provider_path_stats(struct provider *p, void **priv,
                    struct dpif_flow_stats *total)
{
    struct mpath *m;
    int error;

    ovs_mutex_lock(&p->mutex);
    m = mpath_begin(p, *priv, "path_stats");
    error = (chance(&p->stats_errors, path_hash(&m->match)) ? EAGAIN : 0);
    if (!error) {
        mpath_tell(m, total);
    }
    atomic_flag_clear(&m->busy);
    ovs_mutex_unlock(&p->mutex);
    return error;
}

static int
provider_init(struct provider *p)
{
    atomic_store(&p->live, true);
    return 0;
}

static void
provider_exit(struct provider *p)
{
    ovs_mutex_lock(&p->mutex);
    if (hmap_count(&p->held) || hmap_count(&p->paths)
        || hmap_count(&p->fences)) {
        fail("%s: exit while it holds %"PRIuSIZE" connections, %"PRIuSIZE
             " paths and %"PRIuSIZE" fences", p->class.name,
             hmap_count(&p->held), hmap_count(&p->paths),
             hmap_count(&p->fences));
    }
    ovs_mutex_unlock(&p->mutex);
}

static void
provider_netdev_flush(struct provider *p, struct netdev *netdev)
{
    struct mfence *fence;
    struct mpath *m;

    ovs_mutex_lock(&p->mutex);
    HMAP_FOR_EACH (m, node, &p->paths) {
        if (m->netdevs[0] == netdev || m->netdevs[1] == netdev) {
            fail("%s: has a path of a port that is flushed", p->class.name);
        }
    }
    HMAP_FOR_EACH (fence, node, &p->fences) {
        if (fence->netdev == netdev) {
            fail("%s: has a fence at a port that is flushed", p->class.name);
        }
    }
    ovs_mutex_unlock(&p->mutex);
}

#define CALL(ID, WHAT, RETURN)                  \
    call_begin(&providers[ID], WHAT);           \
    RETURN;                                     \
    call_end(&providers[ID])

#define PROVIDER(NAME, ID)                                                  \
    static int                                                              \
    NAME##_init(void)                                                       \
    {                                                                       \
        return provider_init(&providers[ID]);                               \
    }                                                                       \
    static void                                                             \
    NAME##_exit(void)                                                       \
    {                                                                       \
        CALL(ID, "exit", provider_exit(&providers[ID]));                    \
        atomic_store(&providers[ID].live, false);                           \
    }                                                                       \
    static bool                                                             \
    NAME##_can_offload(const struct ct_offload_ctx *ctx)                    \
    {                                                                       \
        bool result;                                                        \
                                                                            \
        CALL(ID, "can_offload",                                             \
             result = provider_can_offload(&providers[ID], ctx));           \
        return result;                                                      \
    }                                                                       \
    static int                                                              \
    NAME##_add(const struct ct_offload_ctx *ctx)                            \
    {                                                                       \
        int result;                                                         \
                                                                            \
        CALL(ID, "add", result = provider_add(&providers[ID], ctx));        \
        return result;                                                      \
    }                                                                       \
    static void                                                             \
    NAME##_del(const struct ct_offload_ctx *ctx)                            \
    {                                                                       \
        CALL(ID, "del", provider_del(&providers[ID], ctx));                 \
    }                                                                       \
    static int                                                              \
    NAME##_est(const struct ct_offload_ctx *ctx)                            \
    {                                                                       \
        int result;                                                         \
                                                                            \
        CALL(ID, "est", result = provider_est(&providers[ID], ctx));        \
        return result;                                                      \
    }                                                                       \
    static void                                                             \
    NAME##_netdev_flush(struct netdev *netdev)                              \
    {                                                                       \
        CALL(ID, "netdev_flush",                                            \
             provider_netdev_flush(&providers[ID], netdev));                \
    }                                                                       \
    static bool                                                             \
    NAME##_can_forward(const struct netdev *netdev)                         \
    {                                                                       \
        return provider_forwards(&providers[ID], netdev);                   \
    }                                                                       \
    static int                                                              \
    NAME##_path_add(const struct ct_offload_path *path, void **priv)        \
    {                                                                       \
        int result;                                                         \
                                                                            \
        CALL(ID, "path_add",                                                \
             result = provider_path_add(&providers[ID], path, priv));       \
        return result;                                                      \
    }                                                                       \
    static void                                                             \
    NAME##_path_del(void **priv, struct dpif_flow_stats *last)              \
    {                                                                       \
        CALL(ID, "path_del",                                                \
             provider_path_del(&providers[ID], priv, last));                \
    }                                                                       \
    static int                                                              \
    NAME##_path_stats(void **priv, struct dpif_flow_stats *total)           \
    {                                                                       \
        int result;                                                         \
                                                                            \
        CALL(ID, "path_stats",                                              \
             result = provider_path_stats(&providers[ID], priv, total));    \
        return result;                                                      \
    }                                                                       \
    static const struct ct_offload_class NAME##_class = {                   \
        .name = #NAME,                                                      \
        .init = NAME##_init,                                                \
        .exit = NAME##_exit,                                                \
        .can_offload = NAME##_can_offload,                                  \
        .conn_add = NAME##_add,                                             \
        .conn_del = NAME##_del,                                             \
        .conn_established = NAME##_est,                                     \
        .netdev_flush = NAME##_netdev_flush,                                \
        .fences = true,                                                     \
        .can_forward = NAME##_can_forward,                                  \
        .path_add = NAME##_path_add,                                        \
        .path_del = NAME##_path_del,                                        \
        .path_stats = NAME##_path_stats,                                    \
    }

PROVIDER(a, 0);
PROVIDER(b, 1);
PROVIDER(c, 2);

/* One provider is interested in established connections only; one may be
 * called from several threads; one has no paths. */
static void
paths_start(void)
{
    providers[0].class = a_class;
    providers[0].class.established_only = true;
    providers[1].class = b_class;
    providers[1].class.thread_safe = true;
    providers[2].class = c_class;
    providers[2].class.can_forward = NULL;
    providers[2].class.path_add = NULL;
    providers[2].class.path_del = NULL;
    providers[2].class.path_stats = NULL;
    for (unsigned int i = 0; i < N_PROVIDERS; i++) {
        struct provider *p = &providers[i];

        p->id = i;
        atomic_flag_clear(&p->called);
        atomic_store(&p->ports, 0xf);
        ovs_mutex_init(&p->mutex);
        ovs_mutex_lock(&p->mutex);
        hmap_init(&p->held);
        hmap_init(&p->paths);
        hmap_init(&p->fences);
        ovs_mutex_unlock(&p->mutex);
    }
    ovs_mutex_init(&table0.mutex);
    ct_fence_min_paths = 2;
}

/* The model of connections. */

struct mconn {
    struct hmap_node node;      /* In 'mconns', by 'conn'. */
    const struct conn *conn;
    long long int must_live;    /* Until then... */
    long long int may_live;     /* ...and no sweep finds it alive after that.
                                 */
    bool closed;                /* As conntrack has it. */
    bool doomed;                /* It should be gone. */
    bool may_go;                /* It may be gone. */
    bool seen;
};
static struct hmap mconns = HMAP_INITIALIZER(&mconns);

static struct mconn *
mconn_find(const struct conn *conn)
{
    struct mconn *m;

    HMAP_FOR_EACH_WITH_HASH (m, node, hash_pointer(conn, 0), &mconns) {
        if (m->conn == conn) {
            return m;
        }
    }
    return NULL;
}

static long long int
conn_timeout_ms(const struct conn *conn)
{
    int timeout;

    atomic_read_relaxed(&CONST_CAST(struct conn *, conn)->timeout, &timeout);
    return timeout_ms[timeout];
}

static long long int
conn_expiration(const struct conn *conn)
{
    long long int expiration;

    atomic_read_relaxed(&CONST_CAST(struct conn *, conn)->expiration,
                        &expiration);
    return expiration;
}

/* The provider has told what 'path' has counted. */
static void
mpath_noticed(const struct mpath *path)
{
    for (size_t i = 0; i < path->n_found; i++) {
        struct mconn *m = mconn_find(path->found[i].conn);

        if (m) {
            m->may_live = MAX(m->may_live,
                              time_msec() + conn_timeout_ms(m->conn));
        }
    }
}

/* A reply has met 'conn': paths that depend on its having had none go.  (What
 * ct() says of TCP is the same before and after that.) */
static void
mpaths_replied(const struct conn *conn)
{
    if (conn->key_node[CT_DIR_FWD].key.nw_proto == IPPROTO_TCP) {
        return;
    }
    for (int i = 0; i < N_PROVIDERS; i++) {
        struct provider *p = &providers[i];
        struct mpath *path;

        ovs_mutex_lock(&p->mutex);
        HMAP_FOR_EACH (path, node, &p->paths) {
            for (size_t j = 0; j < path->n_found; j++) {
                path->replied |= (path->found[j].conn == conn
                                  && path->found[j].one_way);
            }
        }
        ovs_mutex_unlock(&p->mutex);
    }
}

/* A packet has met 'conn'. */
static void
mconn_met(struct conn *conn, const struct packet *p)
{
    struct mconn *m = mconn_find(conn);

    if (!m) {
        m = xzalloc(sizeof *m);
        m->conn = conn;
        hmap_insert(&mconns, &m->node, hash_pointer(conn, 0));
        sum.created++;
    }
    if (!(p->pkt->md.ct_state & CS_INVALID)) {
        m->must_live = m->may_live = conn_expiration(conn);
    } else {
        m->may_live = MAX(m->may_live, conn_expiration(conn));
        m->must_live = MIN(m->must_live, m->may_live);
    }
    m->closed |= conn_is_closing(conn);
}

/* Compares everything. */

static bool forwarding = true;
static long long int last_sweep, sweep_before;

static bool
has_met(const struct mpath *path, const struct mflow *f)
{
    for (size_t i = 0; i < path->n_route; i++) {
        if (path->route[i] == f) {
            return true;
        }
    }
    return false;
}

static bool
same_key(const struct conn_key *a, const struct conn_key *b)
{
    return (a->zone == b->zone && a->nw_proto == b->nw_proto
            && a->src.addr.ipv4 == b->src.addr.ipv4
            && a->dst.addr.ipv4 == b->dst.addr.ipv4
            && a->src.port == b->src.port && a->dst.port == b->dst.port);
}

/* There is no connection where packets of a path of 'p' found none, with
 * 'wanted'. */
static void
check_miss(const struct provider *p, const struct conn_key *wanted)
{
    const struct mconn *m;

    HMAP_FOR_EACH (m, node, &mconns) {
        for (int dir = 0; m->seen && dir < CT_DIRS; dir++) {
            const struct conn_key *key = &m->conn->key_node[dir].key;

            if (same_key(key, wanted)) {
                fail("%s: has a path of packets for which there is a "
                     "connection now", p->class.name);
            }
        }
    }
}

/* All that 'path', of 'p', depends on is as it was. */
static void
check_path(struct provider *p, const struct mpath *path, bool swept)
    OVS_REQUIRES(p->mutex)
{
    long long int idle_ms = IDLE_MS;

    if (!p->registered || !forwarding || !enabled || !limit) {
        fail("%s: has a path, though nothing is forwarded", p->class.name);
    }
    for (size_t i = 0; i < path->n_route; i++) {
        if (path->route[i]->dead) {
            fail("%s: has a path of a megaflow that is gone", p->class.name);
        }
        if (path->route[i]->change != path->changes[i]) {
            fail("%s: has a path of a megaflow that has changed",
                 p->class.name);
        }
    }
    if (path->replied) {
        fail("%s: has a path of a connection that has a reply now",
             p->class.name);
    }
    for (size_t i = 0; i < path->n_found; i++) {
        const struct found *found = &path->found[i];
        const struct mconn *m = mconn_find(found->conn);
        struct held *h = held_find(p, found->conn);

        if (!found->conn) {
            check_miss(p, &found->key);
            continue;
        }
        if (!m || !m->seen) {
            fail("%s: has a path of a connection that is gone",
                 p->class.name);
        }
        if (found->one_way) {
            if (conn_is_established(found->conn)
                && path->match.flow.nw_proto != IPPROTO_TCP) {
                fail("%s: has a path of a connection that is established now",
                     p->class.name);
            }
        } else if (!h || !h->est) {
            fail("%s: has a path of a connection that it does not hold",
                 p->class.name);
        }
        if (m->closed) {
            fail("%s: has a path of a connection that is closed",
                 p->class.name);
        }
        if (ct_offload_conn_get_mark(found->conn) != path->marks[i]) {
            fail("%s: has a path of a connection the mark of which has "
                 "changed", p->class.name);
        }
        idle_ms = MIN(idle_ms, conn_timeout_ms(found->conn));
    }
    if (swept) {
        unsigned int errors;

        atomic_read_relaxed(&p->stats_errors, &errors);
        if (path->noticed + idle_ms < sweep_before) {
            fail("%s: has a path that is idle", p->class.name);
        }
        if (path->n_packets != path->told && path->hit < sweep_before
            && !errors) {
            fail("%s: nobody has asked what a path has counted",
                 p->class.name);
        }
    }
}

/* The layer knows which paths there are of 'conn'. */
static void
check_state(const struct conn *conn)
{
    uint32_t state = conn_offload_state(conn);
    bool any[2] = { false, false };

    for (int i = 0; i < N_PROVIDERS; i++) {
        struct provider *p = &providers[i];
        struct mpath *path;

        ovs_mutex_lock(&p->mutex);
        HMAP_FOR_EACH (path, node, &p->paths) {
            for (size_t j = 0; j < path->n_found; j++) {
                if (path->found[j].conn == conn) {
                    any[path->found[j].reply] = true;
                }
            }
        }
        ovs_mutex_unlock(&p->mutex);
    }
    if (any[0] != !!(state & CONN_OFFLOAD_PATH_ORIG)
        || any[1] != !!(state & CONN_OFFLOAD_PATH_REPLY)) {
        fail("connection %p: paths %d %d, state %"PRIx32, conn, any[0],
             any[1], state);
    }
    if ((any[0] || any[1]) != !!(state & CONN_OFFLOAD_BYPASS)) {
        fail("connection %p: wrong bypass, state %"PRIx32, conn, state);
    }
    if (state & CONN_OFFLOAD_BUSY) {
        fail("connection %p has an owner", conn);
    }
}

static void
check_one_conn(struct conn *conn, void *aux OVS_UNUSED)
{
    struct mconn *m = mconn_find(conn);

    if (ct_offload_conn_get_zone(conn) == CANARY_ZONE) {
        return;
    }
    if (!m) {
        fail("connection %p, which should be gone, is alive", conn);
    }
    m->seen = true;
}

static void
check_conns(bool swept)
{
    long long int now = time_msec();
    struct mconn *m;

    conntrack_offload_for_each(check_one_conn, NULL);
    HMAP_FOR_EACH_SAFE (m, node, &mconns) {
        if (m->seen) {
            if (m->doomed) {
                fail("connection %p should be gone", m->conn);
            }
            if (swept && now >= m->may_live) {
                fail("connection %p should have expired at %lld, %lld ago",
                     m->conn, m->may_live, now - m->may_live);
            }
            check_state(m->conn);
        } else if (!m->doomed && !m->may_go && now < m->must_live) {
            fail("connection %p has expired too early, by %lld ms", m->conn,
                 m->must_live - now);
        }
    }
}

/* Where a path has ended, but its connections are as they were, the next
 * packet is traced. */
static void
check_ended(void)
{
    for (size_t i = 0; i < n_ended; i++) {
        struct provider *p = ended[i].p;
        bool all = p->registered && forwarding && enabled;

        const struct found *first = NULL; /* That is established. */

        for (size_t j = 0; j < ended[i].n_found && all; j++) {
            const struct found *found = &ended[i].found[j];
            const struct mconn *m = mconn_find(found->conn);

            if (!found->conn) {
                continue;
            }
            if (!first && !found->one_way) {
                first = found;
            }
            if (m && m->seen && !m->closed) {
                uint32_t state = conn_offload_state(m->conn);
                struct held *h;

                ovs_mutex_lock(&p->mutex);
                h = held_find(p, m->conn);
                all &= ((found->one_way && !conn_is_established(m->conn))
                        || (h && h->est && state_is_established(state)));
                ovs_mutex_unlock(&p->mutex);
            } else {
                all = false;
            }
        }
        /* With several, another one of them may wait, or the next sweep sees
         * to it. */
        if (all && first && ended[i].n_found == 1
            && !(conn_offload_state(first->conn)
                     & (first->reply ? CONN_OFFLOAD_AWAIT_PATH_REPLY
                        : CONN_OFFLOAD_AWAIT_PATH_ORIG))) {
            fail("connection %p, state %"PRIx32", had a path through %"PRIuSIZE
                 " ct() in direction %d of %s, and does not wait for another "
                 "one", first->conn, conn_offload_state(first->conn),
                 ended[i].n_found, first->reply, p->class.name);
        }
    }
    n_ended = 0;
}

/* Returns 'used' as it should be told of something that was used at time
 * 'used': it may be long until it is known that it was used again. */
static long long int
tell_used(long long int used)
{
    long long int pass_ms;

    atomic_read_relaxed(&ct_path_pass_ms, &pass_ms);
    return used && used >= time_msec() - 2 * pass_ms ? time_msec() : used;
}

static void
check_flow(struct mflow *f)
{
    struct dpif_flow_stats stats;
    struct dpif_flow_attrs attrs;
    bool any = false;

    for (int i = 0; i < N_PROVIDERS; i++) {
        struct provider *p = &providers[i];
        struct mpath *path;

        ovs_mutex_lock(&p->mutex);
        HMAP_FOR_EACH (path, node, &p->paths) {
            any |= has_met(path, f);
        }
        ovs_mutex_unlock(&p->mutex);
    }
    memset(&stats, 0, sizeof stats);
    memset(&attrs, 0, sizeof attrs);
    ct_path_flow_stats(f->flow, &stats, &attrs);
    if (stats.n_packets != f->n_packets || stats.n_bytes != f->n_bytes
        || stats.used != tell_used(f->used)) {
        fail("megaflow %u/%u/%u: %"PRIu64" packets instead of %"PRIu64", "
             "%"PRIu64" bytes instead of %"PRIu64", used %lld instead of "
             "%lld", f->pipe, f->dir, f->stage, stats.n_packets, f->n_packets,
             stats.n_bytes, f->n_bytes, stats.used, tell_used(f->used));
    }
    if (attrs.offloaded != any) {
        fail("megaflow %u/%u/%u: offloaded is %d instead of %d", f->pipe,
             f->dir, f->stage, attrs.offloaded, any);
    }
    if (f->dead && ovs_refcount_read(&f->flow->ref_cnt) != 1) {
        fail("megaflow %u/%u/%u, which is gone, has %u references", f->pipe,
             f->dir, f->stage, ovs_refcount_read(&f->flow->ref_cnt) - 1);
    }
}

static void
check_flows(void)
{
    struct table *t = &table0;

    ovs_mutex_lock(&t->mutex);
    for (size_t i = t->n; i > 0; i--) {
        struct mflow *f = t->flows[i - 1];

        check_flow(f);
        if (f->dead) {
            dp_netdev_flow_unref(f->flow);
            free(f);
            t->flows[i - 1] = t->flows[--t->n];
        }
    }
    ovs_mutex_unlock(&t->mutex);
}

static void
check(bool swept)
{
    struct mconn *m;

    HMAP_FOR_EACH (m, node, &mconns) {
        m->seen = false;
    }
    check_conns(swept);
    for (int i = 0; i < N_PROVIDERS; i++) {
        struct provider *p = &providers[i];
        struct mpath *path;

        ovs_mutex_lock(&p->mutex);
        HMAP_FOR_EACH (path, node, &p->paths) {
            check_path(p, path, swept);
        }
        ovs_mutex_unlock(&p->mutex);
    }
    check_flows();
    check_ended();
    HMAP_FOR_EACH_SAFE (m, node, &mconns) {
        m->may_go = false;
        if (!m->seen) {
            hmap_remove(&mconns, &m->node);
            free(m);
        }
    }
}

/* Sending packets. */

static void
burst_add(struct burst *b, unsigned int pipe, unsigned int dir,
          unsigned int client, bool tcp, uint16_t tcp_flags)
{
    struct packet *p = &b->packets[b->n++];
    const struct pipe *pp = &pipes[pipe];
    bool dnat = pp->dnat[0] || pp->dnat[1];
    bool snat = pp->snat[0] || pp->snat[1];
    struct flow flow;

    memset(p, 0, sizeof *p);
    p->pipe = pipe;
    p->dir = dir;
    p->tcp_flags = tcp ? tcp_flags : 0;
    p->out_port = ODPP_NONE;
    memset(&flow, 0, sizeof flow);
    flow.dl_type = htons(ETH_TYPE_IP);
    flow.nw_proto = tcp ? IPPROTO_TCP : IPPROTO_UDP;
    flow.nw_ttl = 64;
    flow.nw_src = host_addr(pipe, dir ? HOST_SERVER : HOST_CLIENT);
    flow.nw_dst = host_addr(pipe, (dir ? (snat ? HOST_SNAT : HOST_CLIENT)
                                   : (dnat ? HOST_VIP : HOST_SERVER)));
    flow.tp_src = htons(dir ? 1000 : 30000 + client);
    flow.tp_dst = htons(dir ? 30000 + client : 1000);
    flow.tcp_flags = htons(p->tcp_flags);
    if (pp->vlan && !dir) {
        flow.vlans[0].tpid = htons(ETH_TYPE_VLAN_8021Q);
        flow.vlans[0].tci = htons(VLAN | VLAN_CFI);
    }
    p->pkt = dp_packet_new(0);
    flow_compose(p->pkt, &flow, NULL, 0, false);
    pkt_metadata_init(&p->pkt->md,
                      u32_to_odp(1 + (b->netdev - model_netdevs)));
    ct_offload_wire_receive(p->pkt, true);
    dp_packet_ol_send_prepare(p->pkt, 0);
    p->orig = dp_packet_clone(p->pkt);
    flow_extract(p->orig, &p->flow);
    if (tcp) {
        /* A path takes other packets than those with SYN, FIN or RST. */
        p->flow.tcp_flags = htons(TCP_ACK);
    }
}

static void
burst_send(struct burst *b, struct table *table)
{
    struct worker w = { .table = table, .burst = b };
    struct dp_packet_batch batch;

    dp_packet_batch_init(&batch);
    for (size_t i = 0; i < b->n; i++) {
        dp_packet_batch_add(&batch, b->packets[i].pkt);
        note(" %s:%u.%u.%s%x", b->netdev->name, b->packets[i].pipe,
             b->packets[i].dir,
             b->packets[i].flow.nw_proto == IPPROTO_TCP ? "tcp:" : "udp",
             b->packets[i].tcp_flags);
    }
    process(&w, &batch);
}

static void
burst_destroy(struct burst *b)
{
    for (size_t i = 0; i < b->n; i++) {
        dp_packet_delete(b->packets[i].pkt);
        dp_packet_delete(b->packets[i].orig);
    }
}

/* Sends 'b', with one thread. */
static void
send_burst(struct burst *b)
{
    struct mconn *m;
    bool syn = false, fin = false;

    n_ended = 0;
    current = b;
    burst_send(b, &table0);
    current = NULL;
    for (size_t i = 0; i < b->n; i++) {
        struct packet *p = &b->packets[i];

        syn |= (p->tcp_flags & TCP_SYN) != 0;
        fin |= (p->tcp_flags & (TCP_FIN | TCP_RST)) != 0;
        for (size_t j = 0; j < p->n_found; j++) {
            if (p->found[j].conn) {
                mconn_met(p->found[j].conn, p);
            }
        }
    }
    if (interfered) {
        m = mconn_find(interfered);
        if (m) {
            m->doomed = true;
        }
        interfered = NULL;
    }
    HMAP_FOR_EACH (m, node, &mconns) {
        m->may_go |= syn && (m->closed || fin);
    }
    sum.packets += b->n;
    n_ended = 0;
    check(false);
}

static struct packet
send_one(unsigned int pipe, unsigned int dir, unsigned int client, bool tcp,
         uint16_t tcp_flags)
{
    struct burst b;

    b.n = 0;
    b.netdev = &model_netdevs[pipes[pipe].ports[dir]];
    burst_add(&b, pipe, dir, client, tcp, tcp_flags);
    send_burst(&b);
    burst_destroy(&b);
    return b.packets[0];
}

/* Steps. */

static unsigned int
pick_client(void)
{
    return pick(threaded ? N_THREAD_CLIENTS : N_CLIENTS);
}

static uint16_t
pick_tcp_flags(unsigned int dir)
{
    uint32_t r = pick(100);

    return (r < 3 ? TCP_FIN | TCP_ACK
            : r < 5 ? TCP_RST | TCP_ACK
            : r < 15 ? TCP_SYN | (dir ? TCP_ACK : 0)
            : TCP_ACK);
}

static void
burst_make(struct burst *b, size_t max)
{
    unsigned int pipe = pick(N_PIPES);
    unsigned int dir = pick(2);
    size_t n = 1 + pick(max);
    int ports[N_PIPES];

    ovs_mutex_lock(&policy_mutex);
    for (int i = 0; i < N_PIPES; i++) {
        ports[i] = pipes[i].ports[dir];
    }
    ovs_mutex_unlock(&policy_mutex);
    b->n = 0;
    b->netdev = &model_netdevs[percent(96) ? ports[pipe] : pick(N_NETDEVS)];
    while (b->n < n) {
        burst_add(b, pipe, dir, pick_client(), percent(50),
                  pick_tcp_flags(dir));
        if (percent(30)) {
            unsigned int other = pick(N_PIPES);

            if (ports[other] == b->netdev - model_netdevs) {
                pipe = other;
            }
        }
    }
}

static void
step_burst(void)
{
    struct burst b;

    burst_make(&b, percent(50) ? 1 : MAX_PACKETS);
    send_burst(&b);
    burst_destroy(&b);
}

/* A client and a server talk. */
static void
step_talk(void)
{
    unsigned int pipe = pick(N_PIPES);
    unsigned int client = pick_client();
    bool tcp = percent(50);
    size_t first = percent(70) ? 0 : 3;
    size_t n = 3 + pick(6);

    for (size_t i = first; i < n; i++) {
        send_one(pipe, i & 1, client, tcp,
                 i == 0 ? TCP_SYN : i == 1 ? TCP_SYN | TCP_ACK : TCP_ACK);
    }
}

/* A sweep is about to begin: notes which paths have been used, or that it is
 * over. */
static void
mark_used(bool begin)
{
    for (int i = 0; i < 2; i++) {
        struct provider *p = &providers[i];
        unsigned int errors;
        struct mpath *path;

        atomic_read_relaxed(&p->stats_errors, &errors);
        ovs_mutex_lock(&p->mutex);
        HMAP_FOR_EACH (path, node, &p->paths) {
            path->used = begin && !errors && path->n_packets != path->told;
        }
        ovs_mutex_unlock(&p->mutex);
    }
}

static void
pass(long long int ms)
{
    bool swept;

    note(" +%lld", ms);
    mark_used(true);
    swept = model_pass(ms);
    mark_used(false);
    if (swept) {
        note(" sweep");
        sweep_before = last_sweep;
        last_sweep = time_msec();
    }
    check(swept);
}

static void
step_time(void)
{
    pass(1 + pick(200 * 1000));
}

static void
step_sweep(void)
{
    pass(model_next_sweep() - time_msec()
         + (percent(50) ? 0 : pick(3000 * 1000)));
}

/* Returns a random path of 'p', or NULL. */
static struct mpath *
pick_path(struct provider *p)
    OVS_REQUIRES(p->mutex)
{
    uint32_t salt = rng_next();
    struct mpath *path, *found = NULL;
    uint32_t best = 0;

    /* Where they are in the table depends on addresses in memory. */
    HMAP_FOR_EACH (path, node, &p->paths) {
        uint32_t hash = hash_int(path_hash(&path->match), salt);

        if (hash >= best) {
            best = hash;
            found = path;
        }
    }
    return found;
}

/* Hardware forwards packets of a path. */
static void
hit(struct provider *p)
{
    struct mpath *path;
    unsigned int n = 1 + pick(9);

    ovs_mutex_lock(&p->mutex);
    path = pick_path(p);
    if (path && !provider_has_fence(p, path)) {
        note(" %s.hit:%u.%u:%u", p->class.name, path->pipe, path->dir, n);
        path->n_packets += n;
        path->n_bytes += n * (60 + pick(1400));
        path->hit = time_msec();
        p->n_hits += n;
        for (size_t i = 0; i < path->n_found; i++) {
            struct mconn *m = mconn_find(path->found[i].conn);

            /* With several threads there are none of either. */
            if (m) {
                m->must_live = MAX(m->must_live,
                                   time_msec() + conn_timeout_ms(m->conn));
            }
        }
    }
    ovs_mutex_unlock(&p->mutex);
}

static void
step_hits(void)
{
    for (size_t n = 1 + pick(10); n > 0; n--) {
        hit(&providers[pick(2)]);
    }
    check(false);
}

static struct mflow *
pick_flow(struct table *t)
    OVS_REQUIRES(t->mutex)
{
    struct mflow *f = t->n ? t->flows[pick(t->n)] : NULL;

    return f && !f->dead ? f : NULL;
}

static void
change_pipe(struct pipe *p)
{
    ovs_mutex_lock(&policy_mutex);
    if (percent(70)) {
        p->variant = pick(8);
    } else if (percent(50)) {
        p->ports[pick(2)] = pick(N_NETDEVS);
    } else {
        p->members[pick(2)] = pick(1 + N_NETDEVS);
    }
    note(" pipe %"PRIuPTR" variant=%u ports=%d,%d members=%d,%d", p - pipes,
         p->variant, p->ports[0], p->ports[1], p->members[0], p->members[1]);
    ovs_mutex_unlock(&policy_mutex);
}

/* Changes megaflows. */
static void
change_flows(struct table *t)
{
    bool anyway = percent(10);
    struct mflow *f;

    ovs_mutex_lock(&t->mutex);
    f = pick_flow(t);
    if (f && percent(30)) {
        note(" kill %u.%u.%u", f->pipe, f->dir, f->stage);
        mflow_kill(f);
    } else if (f && percent(40)) {
        note(" modify %u.%u.%u", f->pipe, f->dir, f->stage);
        mflow_revalidate(f, anyway);
    } else {
        note(" revalidate");
        for (size_t i = 0; i < t->n; i++) {
            if (!t->flows[i]->dead) {
                mflow_revalidate(t->flows[i], false);
            }
        }
    }
    ovs_mutex_unlock(&t->mutex);
}

static void
step_policy(void)
{
    if (percent(40)) {
        change_pipe(&pipes[pick(N_PIPES)]);
    }
    change_flows(&table0);
    check(false);
}

static void
step_flush(void)
{
    uint16_t zone = pick(N_ZONES);
    bool all = percent(20);
    struct mconn *m;

    note(" flush %d", all ? -1 : zone);
    HMAP_FOR_EACH (m, node, &mconns) {
        m->doomed |= all || ct_offload_conn_get_zone(m->conn) == zone;
    }
    conntrack_flush(ct, all ? NULL : &zone);
    check(false);
}

static void
step_flush_one(void)
{
    struct mconn *m, *found = NULL;
    struct ct_dpif_tuple tuple;
    uint32_t salt = rng_next();
    uint32_t best = 0;

    HMAP_FOR_EACH (m, node, &mconns) {
        uint32_t hash = hash_int(conn_hash(m->conn), salt);

        if (hash >= best) {
            best = hash;
            found = m;
        }
    }
    if (!found) {
        return;
    }
    m = found;
    note(" flush-tuple %p", m->conn);
    ct_offload_conn_get_tuple(m->conn, percent(50), &tuple);
    m->doomed = true;
    conntrack_flush_tuple(ct, &tuple, ct_offload_conn_get_zone(m->conn));
    check(false);
}

/* Has the first packet of 'b', as if it came from the controller, meet ct() in
 * 'zone', perhaps with 'commit' and a mark, and with 'force', and returns what
 * that finds. */
static struct conn *
commit_packet(struct burst *b, uint16_t zone, bool commit, bool force)
{
    struct packet *p = &b->packets[0];
    uint32_t mark[2] = { 1 + pick(3), UINT32_MAX };
    struct dp_packet_batch batch;
    struct conn *conn;

    note(" ct zone=%u commit=%d force=%d mark=%d pipe=%u.%u", zone, commit,
         force, mark[0], p->pipe, p->dir);
    dp_packet_batch_init_packet(&batch, p->pkt);
    conntrack_execute(ct, &batch, htons(ETH_TYPE_IP), force, commit, zone,
                      commit ? mark : NULL, NULL, NULL, NULL, time_msec(), 0,
                      b->netdev);
    conn = conntrack_find_traced(ct, p->pkt);
    if (!threaded && conn && p->pkt->md.ct_state & CS_REPLY_DIR
        && !(p->pkt->md.ct_state & CS_INVALID)) {
        mpaths_replied(conn);
    }
    ct_trace_abandon();
    return conn;
}

/* A connection was committed, or has another mark: paths of packets that have
 * met it, which nobody need hold, may have ended for that. */
static void
ended_forget_partial(void)
{
    size_t n = 0;

    for (size_t i = 0; i < n_ended; i++) {
        bool partial = false;

        for (size_t j = 0; j < ended[i].n_found; j++) {
            partial |= !ended[i].found[j].conn || ended[i].found[j].one_way;
        }
        if (!partial) {
            ended[n++] = ended[i];
        }
    }
    n_ended = n;
}

static void
step_commit(void)
{
    unsigned int pipe = pick(N_PIPES);
    uint16_t zone = pipes[pipe].zones[pick(pipes[pipe].n_zones)];
    bool commit = percent(70);
    bool force = commit && percent(30);
    struct conn *conn;
    struct mconn *m;
    struct burst b;

    b.n = 0;
    b.netdev = &model_netdevs[pipes[pipe].ports[0]];
    burst_add(&b, pipe, (!commit || force) && percent(50), pick_client(),
              percent(50), TCP_ACK);
    HMAP_FOR_EACH (m, node, &mconns) {
        m->may_go |= force && ct_offload_conn_get_zone(m->conn) == zone;
    }
    conn = commit_packet(&b, zone, commit, force);
    if (conn) {
        mconn_met(conn, &b.packets[0]);
    }
    burst_destroy(&b);
    ended_forget_partial();
    check(false);
}

static void
step_register(void)
{
    struct provider *p = &providers[pick(N_PROVIDERS)];

    if (p->registered) {
        if (percent(60)) {
            return;
        }
        note(" unregister %s", p->class.name);
        ct_offload_unregister(&p->class);
        /* Paths of other providers may end, and wait for a sweep. */
        n_ended = 0;
    } else {
        note(" register %s", p->class.name);
        ovs_assert(!ct_offload_register(&p->class));
    }
    p->registered = !p->registered;
    check(false);
}

static void
step_config(void)
{
    if (percent(60)) {
        forwarding = percent(80);
        note(" forward %d", forwarding);
        ct_path_configure(forwarding);
    } else {
        enabled = percent(80);
        note(" enable %d", enabled);
        model_configure();
        forwarding = true;
    }
    check(false);
}

static void
check_port_is_free(const struct netdev *netdev)
{
    for (int i = 0; i < N_PROVIDERS; i++) {
        struct provider *p = &providers[i];
        struct mpath *path;

        ovs_mutex_lock(&p->mutex);
        HMAP_FOR_EACH (path, node, &p->paths) {
            if (path->netdevs[0] == netdev || path->netdevs[1] == netdev) {
                fail("%s: has a path of a port that was flushed",
                     p->class.name);
            }
        }
        ovs_mutex_unlock(&p->mutex);
    }
}

static void
step_port(void)
{
    struct netdev *netdev = &model_netdevs[pick(N_NETDEVS)];

    note(" netdev-flush %s", netdev->name);
    ct_offload_netdev_flush(netdev);
    check_port_is_free(netdev);
    check(false);
}

static void
change_behaviour(struct provider *p)
{
    atomic_store(&p->refuse, percent(70) ? 0 : pick(100));
    atomic_store(&p->errors, percent(70) ? 0 : pick(100));
    atomic_store(&p->path_errors, percent(70) ? 0 : pick(100));
    atomic_store(&p->stats_errors, percent(70) ? 0 : pick(100));
    atomic_store(&p->ports, percent(60) ? 0xf : pick(16));
}

static void
step_behaviour(void)
{
    change_behaviour(&providers[pick(N_PROVIDERS)]);
}

/* Does every provider of paths hold what 'packet' has met, and is there
 * nothing against a path? */
static bool
should_have_path(const struct packet *packet, int dir)
{
    const int *ports = pipes[packet->pipe].ports;
    const struct netdev *netdev = &model_netdevs[ports[dir]];
    bool any = false;

    if (packet->upcall || packet->broken || !forwarding || !enabled
        || !packet->n_found || !packet->found[0].conn
        || packet->found[0].one_way) {
        /* It is the first connection that waits for a trace. */
        return false;
    }
    for (int i = 0; i < 2; i++) {
        struct provider *p = &providers[i];
        unsigned int errors;
        bool all = true;

        if (!p->registered) {
            continue;
        }
        atomic_read_relaxed(&p->path_errors, &errors);
        if (errors || !provider_forwards(p, netdev)) {
            return false;
        }
        ovs_mutex_lock(&p->mutex);
        for (size_t j = 0; j < packet->n_found; j++) {
            const struct found *found = &packet->found[j];
            struct held *h = held_find(p, found->conn);

            all &= (!found->conn
                    || (found->one_way && !conn_is_closed(found->conn))
                    || (h && h->est));
        }
        ovs_mutex_unlock(&p->mutex);
        any |= all;
    }
    return any;
}

/* Is there a path that takes 'packet'? */
static bool
path_exists(const struct packet *packet)
{
    bool found = false;

    for (int i = 0; i < 2; i++) {
        struct provider *p = &providers[i];
        struct mpath *path;

        ovs_mutex_lock(&p->mutex);
        HMAP_FOR_EACH (path, node, &p->paths) {
            found |= match_takes(&path->match, &packet->flow);
        }
        ovs_mutex_unlock(&p->mutex);
    }
    return found;
}

static void *
show_thread(void *ds)
{
    ct_path_show_paths(NULL, ds, NULL);
    return NULL;
}

/* Returns any path that is live, the first one from part number 'part' of the
 * table on, or NULL. */
static struct path *
find_path(size_t part)
    OVS_REQUIRES(ct_chains_mutex)
{
    for (size_t i = 0; i < PATH_N_PARTS; i++) {
        struct hmap_position pos = { 0, 0 };
        struct path *path;

        while ((path = ct_path_next((part + i) % PATH_N_PARTS, &pos))) {
            if (path->state == PATH_LIVE) {
                return path;
            }
        }
    }
    return NULL;
}

/* Whoever shows paths does not keep others from them, not even while one of
 * them cannot be described. */
static void
check_show(void)
{
    struct ds ds = DS_EMPTY_INITIALIZER;
    struct conn *conn = NULL;
    struct path *path;
    pthread_t thread;
    bool held = false;

    ovs_mutex_lock(&ct_chains_mutex);
    path = find_path(0);
    if (path) {
        conn = ct_path_get_conn(path, 0, NULL);
        ct_path_hold(path);
    }
    ovs_mutex_unlock(&ct_chains_mutex);
    if (!path) {
        return;
    }

    ovs_mutex_lock(&conn->lock);
    thread = ovs_thread_create("show", show_thread, &ds);
    for (int i = 0; i < 10000 && !held; i++) {
        xnanosleep_no_quiesce(1000 * 1000);
        if (!ovs_mutex_trylock(&ct_chains_mutex)) {
            held = path->n_holds > 1;
            ovs_mutex_unlock(&ct_chains_mutex);
        }
    }
    if (!held) {
        fail("nobody else gets at paths while they are shown");
    }
    ovs_mutex_unlock(&conn->lock);
    xpthread_join(thread, NULL);

    ovs_mutex_lock(&ct_chains_mutex);
    ct_path_unhold(path);
    ovs_mutex_unlock(&ct_chains_mutex);
    ds_destroy(&ds);
}

/* Where there is nothing against it, connections get their paths. */
static void
step_settle(void)
{
    unsigned int pipe = pick(N_PIPES);
    unsigned int client = pick_client();
    bool tcp = percent(50);
    struct packet last[2];
    bool ok[2] = { false, false };

    for (int i = 0; i < 4; i++) {
        send_one(pipe, i & 1, client, tcp,
                 i == 0 ? TCP_SYN : i == 1 ? TCP_SYN | TCP_ACK : TCP_ACK);
    }
    calm = true;
    /* The first sweep may find what is held by some providers only, and so
     * on. */
    for (int i = 0; i < 8 && !(ok[0] && ok[1]); i++) {
        /* Sweeps are rare here, see FORGET_MS in conntrack-offload-run.c. */
        pass(model_next_sweep() - time_msec() - 1);
        conn_forget_refusals();
        pass(1);
        for (int j = 0; j < 6; j++) {
            last[j & 1] = send_one(pipe, j & 1, client, tcp, TCP_ACK);
        }
        for (int dir = 0; dir < 2; dir++) {
            ok[dir] = (path_exists(&last[dir])
                       || !should_have_path(&last[dir], dir));
        }
    }
    for (int dir = 0; dir < 2; dir++) {
        if (!ok[dir]) {
            struct ds ds = DS_EMPTY_INITIALIZER;

            ct_path_show(&ds, NULL);
            ct_path_show_chains(NULL, &ds, NULL);
            ct_path_show_paths(NULL, &ds, NULL);
            fail("no path in direction %d, state %"PRIx32"\n%s", dir,
                 conn_offload_state(last[dir].found[0].conn), ds_cstr(&ds));
        }
        sum.settled += path_exists(&last[dir]);
    }
    if (percent(5)) {
        check_show();
    }
    calm = false;
}

static const struct {
    void (*run)(void);
    unsigned int weight;
} steps[] = {
    { step_burst, 300 },
    { step_talk, 200 },
    { step_hits, 200 },
    { step_time, 60 },
    { step_sweep, 40 },
    { step_policy, 60 },
    { step_flush, 4 },
    { step_flush_one, 20 },
    { step_commit, 20 },
    { step_register, 10 },
    { step_config, 10 },
    { step_port, 10 },
    { step_behaviour, 15 },
    { step_settle, 10 },
};

static void
paths_step(void)
{
    unsigned int total = 0;
    unsigned int r, i;

    for (i = 0; i < ARRAY_SIZE(steps); i++) {
        total += steps[i].weight;
    }
    r = pick(total);
    for (i = 0; r >= steps[i].weight; i++) {
        r -= steps[i].weight;
    }
    steps[i].run();
}

static void
paths_begin(struct conntrack *ct_)
{
    ct = ct_;
    conntrack_set_tcp_seq_chk(ct, false);

    /* Of some times the layer has the lower half only. */
    model_pass(rng_next());
}

/* No chain and no path is left. */
static void
check_nothing_left(void)
{
    struct ds ds = DS_EMPTY_INITIALIZER;

    ct_path_show_paths(NULL, &ds, NULL);
    if (ds.length) {
        fail("there are paths at the end: %s", ds_cstr(&ds));
    }
    ct_path_show_chains(NULL, &ds, NULL);
    if (ds.length) {
        fail("there are chains at the end: %s", ds_cstr(&ds));
    }
    ds_destroy(&ds);
    for (int i = 0; i < N_PROVIDERS; i++) {
        struct provider *p = &providers[i];

        ovs_mutex_lock(&p->mutex);
        if (hmap_count(&p->paths) || hmap_count(&p->held)
            || hmap_count(&p->fences)
            || p->n_path_add != p->n_path_del) {
            fail("%s: holds %"PRIuSIZE" connections and %"PRIuSIZE" paths at "
                 "the end, %llu added, %llu deleted", p->class.name,
                 hmap_count(&p->held), hmap_count(&p->paths), p->n_path_add,
                 p->n_path_del);
        }
        ovs_mutex_unlock(&p->mutex);
        if (p->registered) {
            ct_offload_unregister(&p->class);
        }
    }
    for (size_t i = 0; i < ARRAY_SIZE(masks); i++) {
        free(masks[i]);
    }
}

static void
paths_finish(void)
{
    struct mconn *m;
    bool conns_first = percent(50);

    HMAP_FOR_EACH_SAFE (m, node, &mconns) {
        hmap_remove(&mconns, &m->node);
        free(m);
    }
    if (conns_first) {
        conntrack_destroy(ct);
    }
    ovs_mutex_lock(&table0.mutex);
    for (size_t i = 0; i < table0.n; i++) {
        if (!table0.flows[i]->dead) {
            mflow_kill(table0.flows[i]);
        }
    }
    ovs_mutex_unlock(&table0.mutex);
    check_flows();
    if (!conns_first) {
        conntrack_destroy(ct);
    }
    check_nothing_left();
}

static void
paths_report(void)
{
    struct ds ds = DS_EMPTY_INITIALIZER;

    ct_path_show(&ds, NULL);
    printf("%s%llu packets, %llu connections, %llu settled, paths with "
           "%llu misses, %llu one-way", ds_cstr(&ds), sum.packets,
           sum.created, sum.settled, sum.missed, sum.one_way);
    ds_destroy(&ds);
    for (int i = 0; i < 2; i++) {
        struct provider *p = &providers[i];

        printf("; %s: %llu paths, %llu errors, %llu packets forwarded",
               p->class.name, p->n_path_add, p->n_path_error, p->n_hits);
    }
    printf("\n");
}

/* The threaded variant.  Providers check what they are told, and where all
 * threads pause, paths must be those that the megaflows and connections of
 * that moment lead to. */

enum { N_WORKERS = 3 };

static struct table tables[N_WORKERS];
static atomic_bool stopping;
static atomic_uint64_t n_thread_packets;
static struct ovs_rwlock netdev_locks[N_NETDEVS];

/* Who does anything holds it for reading, who wants a pause for writing. */
static struct ovs_rwlock world;

/* What was credited to megaflows that are no more. */
static uint64_t retired[N_PIPES][2][MAX_STAGES];

/* Begins something.  Returns false if that is to end. */
static bool
work_begin(void)
    OVS_TRY_RDLOCK(true, world)
{
    for (;;) {
        bool stop;

        ovsrcu_quiesce();
        atomic_read_relaxed(&stopping, &stop);
        if (stop) {
            return false;
        }
        if (!ovs_rwlock_tryrdlock(&world)) {
            return true;
        }
        xnanosleep(100 * 1000);
    }
}

static void
work_end(void)
    OVS_RELEASES(world)
{
    ovs_rwlock_unlock(&world);
}

/* Keeps 'netdev' until 'b' was sent, unless it is about to go. */
static bool
burst_lock(struct burst *b, struct netdev *netdev)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    unsigned int i = netdev - model_netdevs;

    if (netdev != b->netdev && !(b->locked & 1u << i)) {
        if (ovs_rwlock_tryrdlock(&netdev_locks[i])) {
            return false;
        }
        b->locked |= 1u << i;
    }
    return true;
}

static void
burst_unlock(struct burst *b)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    for (; b->locked; b->locked = zero_rightmost_1bit(b->locked)) {
        ovs_rwlock_unlock(&netdev_locks[raw_ctz(b->locked)]);
    }
}

/* Sends 'b', unless its port is about to go: it receives nothing then. */
static void
thread_send(struct burst *b, struct table *table)
{
    struct ovs_rwlock *lock = &netdev_locks[b->netdev - model_netdevs];
    uint64_t orig;

    if (!ovs_rwlock_tryrdlock(lock)) {
        if (percent(2)) {
            const struct pipe *p = &pipes[b->packets[0].pipe];
            bool commit = percent(70);

            commit_packet(b, p->zones[pick(p->n_zones)], commit,
                          commit && percent(30));
        } else {
            b->locked = 0;
            burst_send(b, table);
            burst_unlock(b);
        }
        atomic_add_relaxed(&n_thread_packets, b->n, &orig);
        ovs_rwlock_unlock(lock);
    }
    burst_destroy(b);
}

static void
thread_talk(struct table *table)
{
    unsigned int pipe = pick(N_PIPES);
    unsigned int client = pick_client();
    bool tcp = percent(50);

    for (int i = 0; i < 8; i++) {
        struct burst b;

        b.n = 0;
        ovs_mutex_lock(&policy_mutex);
        b.netdev = &model_netdevs[pipes[pipe].ports[i & 1]];
        ovs_mutex_unlock(&policy_mutex);
        burst_add(&b, pipe, i & 1, client, tcp,
                  i == 0 ? TCP_SYN : i == 1 ? TCP_SYN | TCP_ACK : TCP_ACK);
        thread_send(&b, table);
    }
}

static void *
packet_thread(void *i_)
{
    struct table *table = &tables[(uintptr_t) i_ % N_WORKERS];

    rng_start_thread(i_);
    is_packet_thread = true;
    while (work_begin()) {
        if (percent(30)) {
            thread_talk(table);
        } else {
            struct burst b;

            burst_make(&b, percent(50) ? 1 : MAX_PACKETS);
            thread_send(&b, table);
        }
        work_end();
    }
    return NULL;
}

static void *
revalidator_thread(void *i_)
{
    rng_start_thread(i_);
    while (work_begin()) {
        if (percent(20)) {
            change_pipe(&pipes[pick(N_PIPES)]);
        }
        change_flows(&tables[pick(N_WORKERS)]);
        work_end();
        xnanosleep(pick(6000) * 1000);
    }
    return NULL;
}

static void *
flush_thread(void *i_)
{
    rng_start_thread(i_);
    while (work_begin()) {
        uint16_t zone = pick(N_ZONES);
        struct ct_dpif_tuple tuple;

        if (percent(95)) {
            unsigned int pipe = pick(N_PIPES);

            memset(&tuple, 0, sizeof tuple);
            tuple.l3_type = AF_INET;
            tuple.ip_proto = percent(50) ? IPPROTO_UDP : IPPROTO_TCP;
            tuple.src.ip = host_addr(pipe, HOST_CLIENT);
            tuple.dst.ip = host_addr(pipe, HOST_SERVER);
            tuple.src_port = htons(30000 + pick_client());
            tuple.dst_port = htons(1000);
            conntrack_flush_tuple(ct, &tuple, zone);
        } else {
            conntrack_flush(ct, percent(95) ? &zone : NULL);
        }
        work_end();
        xnanosleep(pick(3000) * 1000);
    }
    return NULL;
}

static void *
port_thread(void *i_)
{
    rng_start_thread(i_);
    while (work_begin()) {
        struct netdev *netdev = &model_netdevs[pick(N_NETDEVS)];

        if (percent(80)) {
            struct ovs_rwlock *lock = &netdev_locks[netdev - model_netdevs];

            ovs_rwlock_wrlock(lock);
            ct_offload_netdev_flush(netdev);
            check_port_is_free(netdev);
            ovs_rwlock_unlock(lock);
        } else if (percent(20)) {
            ct_offload_flush();
        } else {
            ct_offload_barrier();
        }
        work_end();
        xnanosleep(pick(20000) * 1000);
    }
    return NULL;
}

static void *
hardware_thread(void *i_)
{
    rng_start_thread(i_);
    while (work_begin()) {
        for (int i = 0; i < 20; i++) {
            hit(&providers[pick(2)]);
        }
        work_end();
        xnanosleep(pick(500) * 1000);
    }
    return NULL;
}

/* Holds paths as who shows them does, but for longer: they must not be freed
 * meanwhile. */
static void *
watch_thread(void *i_)
{
    rng_start_thread(i_);
    while (work_begin()) {
        struct path *path;

        ovs_mutex_lock(&ct_chains_mutex);
        path = find_path(pick(PATH_N_PARTS));
        if (path) {
            ct_path_hold(path);
        }
        ovs_mutex_unlock(&ct_chains_mutex);

        if (path) {
            struct ct_merge_path values;

            xnanosleep(pick(1000) * 1000);
            ct_path_describe(path, &values);

            ovs_mutex_lock(&ct_chains_mutex);
            ct_path_unhold(path);
            ovs_mutex_unlock(&ct_chains_mutex);
        }
        work_end();
        xnanosleep(pick(1000) * 1000);
    }
    return NULL;
}

/* A pause. */

static struct conn *pause_conns[4096];
static size_t n_pause_conns;

static void
pause_add(struct conn *conn, void *aux OVS_UNUSED)
{
    if (n_pause_conns < ARRAY_SIZE(pause_conns)) {
        pause_conns[n_pause_conns++] = conn;
    }
}

/* Returns the connection that a packet with 'key' belongs to, and its
 * direction in '*dir'. */
static struct conn *
pause_find(const struct conn_key *key, int *dir)
{
    for (size_t i = 0; i < n_pause_conns; i++) {
        for (int d = 0; d < CT_DIRS; d++) {
            if (same_key(&pause_conns[i]->key_node[d].key, key)) {
                *dir = d;
                return pause_conns[i];
            }
        }
    }
    return NULL;
}

/* What packets of a path meet. */
struct walk {
    uint32_t ct_states[MAX_ZONES]; /* After each ct(). */
    size_t n;                   /* How many ct() actions there can be... */
    bool held;                  /* ...and are these as they have to be? */
};

/* Finds out which connections packets of 'path' meet, and whether 'p' holds
 * them. */
static void
path_walk(struct provider *p, const struct mpath *path, struct walk *walk)
    OVS_REQUIRES(p->mutex)
{
    const struct pipe *pp = &pipes[path->pipe];
    const struct flow *flow = &path->match.flow;
    struct conn_key key;

    memset(walk, 0, sizeof *walk);
    memset(&key, 0, sizeof key);
    key.nw_proto = flow->nw_proto;
    key.src.addr.ipv4 = flow->nw_src;
    key.dst.addr.ipv4 = flow->nw_dst;
    key.src.port = flow->tp_src;
    key.dst.port = flow->tp_dst;
    for (size_t i = 0; i < pipe_n_zones(pp, path->dir); i++) {
        uint32_t *state = &walk->ct_states[walk->n++];
        const struct conn_key *other;
        struct conn *conn;
        struct held *h;
        int dir;

        *state = CS_TRACKED;
        key.zone = pp->zones[pipe_zone(pp, path->dir, i)];
        conn = pause_find(&key, &dir);
        if (!conn) {
            *state |= CS_NEW;
            continue;
        }
        if (conn_is_established(conn)) {
            h = held_find(p, conn);
            if (h && h->est) {
                walk->held = true;
            } else if (key.nw_proto != IPPROTO_TCP) {
                walk->held = false;
                return;
            }                   /* Else it may have been on its way. */
        }
        if (conn_is_established(conn) || key.nw_proto == IPPROTO_TCP) {
            *state |= CS_ESTABLISHED | (dir == CT_DIR_REV ? CS_REPLY_DIR : 0);
        } else {
            *state |= CS_NEW;
        }
        other = &conn->key_node[!dir].key;
        if (pp->dnat[0] || pp->dnat[1] || pp->snat[0] || pp->snat[1]) {
            key.src = other->dst;
            key.dst = other->src;
        }
    }
}

/* Do megaflows of 't' lead packets that meet what 'walk' says to where 'path'
 * sends them? */
static bool
path_has_flows(struct table *t, const struct mpath *path,
               const struct walk *walk)
    OVS_NO_THREAD_SAFETY_ANALYSIS /* pause_check() has locked it. */
{
    struct flow flow = path->match.flow;
    odp_port_t out_port = ODPP_NONE;
    bool recirc = true;

    flow.packet_type = htonl(PT_ETH);
    for (size_t i = 0; i <= walk->n && recirc; i++) {
        const struct nlattr *actions, *a;
        const struct mflow *f;
        size_t len, left;

        if (i) {
            memset(flow.vlans, 0, sizeof flow.vlans);
            flow.recirc_id = stage_recirc_id(path->pipe, path->dir, i);
            flow.ct_state = walk->ct_states[i - 1];
        }
        f = table_find(t, &flow);
        if (!f) {
            return false;
        }
        recirc = false;
        actions = dp_netdev_flow_get_nlattrs(f->flow, &len);
        NL_ATTR_FOR_EACH (a, left, actions, len) {
            if (nl_attr_type(a) == OVS_ACTION_ATTR_OUTPUT) {
                out_port = nl_attr_get_odp_port(a);
            }
            recirc |= nl_attr_type(a) == OVS_ACTION_ATTR_RECIRC;
        }
    }
    return !recirc && out_port == path->out_port;
}

/* Returns 'what', which is wrong with 'path' of 'p', with what there is to say
 * of that. */
static const char *
pause_describe(struct provider *p, const struct mpath *path, const char *what)
    OVS_REQUIRES(p->mutex)
{
    static struct ds ds = DS_EMPTY_INITIALIZER;

    ds_clear(&ds);
    ds_put_format(&ds, "%s: %s: ", p->class.name, what);
    match_format(&path->match, NULL, &ds, 0);
    for (size_t i = 0; i < n_pause_conns; i++) {
        const struct conn *conn = pause_conns[i];
        const struct conn_key *key = &conn->key_node[CT_DIR_FWD].key;

        if (key->src.port == path->match.flow.tp_src
            || key->src.port == path->match.flow.tp_dst) {
            struct held *h = held_find(p, conn);

            ds_put_char(&ds, '\n');
            ct_offload_conn_format(conn, &ds);
            ds_put_format(&ds, " state %"PRIx32"%s%s%s",
                          conn_offload_state(conn), h ? ", held" : "",
                          h && h->est ? ", est." : "",
                          time_msec() > conn_expiration(conn)
                          ? ", expired" : "");
        }
    }
    return ds_cstr(&ds);
}

/* Returns what is wrong with the paths of 'p', or NULL. */
static const char *
pause_check_paths(struct provider *p)
    OVS_REQUIRES(p->mutex)
{
    struct mpath *path;

    HMAP_FOR_EACH (path, node, &p->paths) {
        bool found = false;
        struct walk walk;

        if (!forwarding || !enabled || !p->registered) {
            return "a path though nothing is forwarded";
        }
        path_walk(p, path, &walk);
        if (!walk.held) {
            return pause_describe(p, path, "a path without its connections");
        }
        for (int i = 0; i < N_WORKERS; i++) {
            found |= path_has_flows(&tables[i], path, &walk);
        }
        if (!found) {
            return pause_describe(p, path, "a path without its megaflows");
        }
    }
    return NULL;
}

/* Returns NULL if all is well now, or what is not. */
static const char *
pause_check(void)
    OVS_NO_THREAD_SAFETY_ANALYSIS /* It locks all tables. */
{
    uint64_t credited[N_PIPES][2][MAX_STAGES];
    const char *result = NULL;

    /* Revalidators have them locked when they call providers. */
    for (int i = 0; i < N_WORKERS; i++) {
        ovs_mutex_lock(&tables[i].mutex);
    }
    memcpy(credited, retired, sizeof credited);
    for (int i = 0; i < N_WORKERS; i++) {
        const struct table *t = &tables[i];

        for (size_t j = 0; j < t->n; j++) {
            const struct mflow *f = t->flows[j];
            struct dpif_flow_stats stats;

            memset(&stats, 0, sizeof stats);
            ct_path_flow_stats(f->flow, &stats, NULL);
            credited[f->pipe][f->dir][f->stage] += stats.n_packets;
        }
    }
    ovs_mutex_lock(&told_mutex);
    for (int i = 0; i < N_PIPES; i++) {
        for (int dir = 0; dir < 2; dir++) {
            for (size_t s = 0; s <= pipe_n_zones(&pipes[i], dir); s++) {
                if (credited[i][dir][s] != told[i][dir]) {
                    result = "wrong credit";
                }
            }
        }
    }
    ovs_mutex_unlock(&told_mutex);

    n_pause_conns = 0;
    conntrack_offload_for_each(pause_add, NULL);
    for (int i = 0; i < 2 && !result; i++) {
        struct provider *p = &providers[i];

        ovs_mutex_lock(&p->mutex);
        result = pause_check_paths(p);
        ovs_mutex_unlock(&p->mutex);
    }
    for (int i = 0; i < N_WORKERS; i++) {
        ovs_mutex_unlock(&tables[i].mutex);
    }
    return result;
}

/* Forgets megaflows that are gone, and that nobody has a reference on.
 * Returns true if there are no others that are gone. */
static bool
retire_flows(void)
{
    bool all = true;

    for (int i = 0; i < N_WORKERS; i++) {
        struct table *t = &tables[i];

        ovs_mutex_lock(&t->mutex);
        for (size_t j = t->n; j > 0; j--) {
            struct mflow *f = t->flows[j - 1];
            struct dpif_flow_stats stats;

            if (!f->dead) {
                continue;
            }
            if (ovs_refcount_read(&f->flow->ref_cnt) != 1) {
                all = false;
                continue;
            }
            memset(&stats, 0, sizeof stats);
            ct_path_flow_stats(f->flow, &stats, NULL);
            retired[f->pipe][f->dir][f->stage] += stats.n_packets;
            dp_netdev_flow_unref(f->flow);
            free(f);
            t->flows[j - 1] = t->flows[--t->n];
        }
        ovs_mutex_unlock(&t->mutex);
    }
    return all;
}

/* With all other threads but those that clean up and that call providers
 * waiting, compares everything. */
static void
pause_world(void)
{
    const char *error;

    ovsrcu_quiesce_start();
    ovs_rwlock_wrlock(&world);
    ovsrcu_quiesce_end();
    for (int i = 0; ; i++) {
        ct_offload_barrier();
        error = pause_check();
        if (!error && retire_flows()) {
            break;
        }
        if (i >= 1000) {
            fail("%s", error ? error : "references on megaflows are left");
        }
        xnanosleep(1000 * 1000);
    }
    ovs_rwlock_unlock(&world);
}

/* What the main thread does meanwhile. */
static void
thread_configure(void)
{
    uint32_t r = pick(1000);

    if (r < 10) {
        struct provider *p = &providers[pick(N_PROVIDERS)];

        if (p->registered) {
            ct_offload_unregister(&p->class);
        } else {
            ovs_assert(!ct_offload_register(&p->class));
        }
        p->registered = !p->registered;
    } else if (r < 15) {
        enabled = percent(80);
        model_configure();
        forwarding = true;
    } else if (r < 25) {
        forwarding = percent(70);
        ct_path_configure(forwarding);
    } else if (r < 50) {
        change_behaviour(&providers[pick(N_PROVIDERS)]);
    } else if (r < 53) {
        pause_world();
    } else {
        timeval_warp(pick(30));
    }
    xnanosleep(pick(2000) * 1000);
}

static void
paths_run_threads(unsigned int seconds)
{
    static const struct {
        const char *name;
        void *(*start)(void *);
    } kinds[] = {
        { "packets", packet_thread },
        { "packets", packet_thread },
        { "packets", packet_thread },
        { "revalidator", revalidator_thread },
        { "flush", flush_thread },
        { "ports", port_thread },
        { "hardware", hardware_thread },
        { "watch", watch_thread },
    };
    pthread_t threads[ARRAY_SIZE(kinds)];
    long long int deadline;
    uint64_t n;

    ct = model_start_threads();
    ovs_rwlock_init(&world);
    for (int i = 0; i < N_NETDEVS; i++) {
        ovs_rwlock_init(&netdev_locks[i]);
    }
    for (int i = 0; i < N_WORKERS; i++) {
        ovs_mutex_init(&tables[i].mutex);
    }
    for (int i = 0; i < N_PROVIDERS; i++) {
        ovs_assert(!ct_offload_register(&providers[i].class));
        providers[i].registered = true;
    }
    model_configure();                /* Starts the offload threads. */
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        threads[i] = ovs_thread_create(kinds[i].name, kinds[i].start,
                                       (void *) (uintptr_t) (i + 1));
    }
    deadline = time_wall_msec() + seconds * 1000LL;
    while (time_wall_msec() < deadline) {
        thread_configure();
    }
    atomic_store_relaxed(&stopping, true);
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
        xpthread_join(threads[i], NULL);
    }

    pause_world();
    conntrack_destroy(ct);
    for (int i = 0; i < N_WORKERS; i++) {
        ovs_mutex_lock(&tables[i].mutex);
        for (size_t j = 0; j < tables[i].n; j++) {
            if (!tables[i].flows[j]->dead) {
                mflow_kill(tables[i].flows[j]);
            }
        }
        ovs_mutex_unlock(&tables[i].mutex);
    }
    pause_world();
    check_nothing_left();
    atomic_read(&n_thread_packets, &n);
    sum.packets = n;
    paths_report();
}

static void
test_ct_offload_model_paths_main(int argc, char *argv[])
{
    static const struct model model = {
        .start = paths_start,
        .begin = paths_begin,
        .step = paths_step,
        .finish = paths_finish,
        .report = paths_report,
        .run_threads = paths_run_threads,
    };

    model_main(argc, argv, &model);
}

OVSTEST_REGISTER("test-ct-offload-model-paths",
                 test_ct_offload_model_paths_main);
