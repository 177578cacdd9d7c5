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

/* Compares what ct-offload-merge.c makes of chains of megaflows with what
 * software does.
 *
 * "random" makes chains by sending a packet through random matches and
 * actions, with the real odp_execute_actions(), conntrack_execute() and
 * flow_extract().  Then it sends more packets through software, megaflow by
 * megaflow, and through the rule: those that the rule takes must pass all
 * megaflows, with the same results of ct(), and leave with the same bytes.
 *
 * "chains" prints what becomes of chains in a file. */

#include <config.h>
#undef NDEBUG

#include "ct-offload-merge.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command-line.h"
#include "conntrack.h"
#include "ct-dpif.h"
#include "ct-offload-rows.h"
#include "dp-packet.h"
#include "flow.h"
#include "netdev-native-tnl.h"
#include "netlink.h"
#include "odp-execute.h"
#include "odp-util.h"
#include "openvswitch/dynamic-string.h"
#include "openvswitch/ofp-port.h"
#include "openvswitch/ofpbuf.h"
#include "ovs-rcu.h"
#include "ovstest.h"
#include "packets.h"
#include "random.h"
#include "timeval.h"
#include "util.h"

static unsigned int seed;
static unsigned long long int n_chains; /* Number of the present one. */

static void OVS_PRINTF_FORMAT(1, 2) OVS_NO_RETURN
fail(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    printf("chain %llu: ", n_chains);
    vprintf(format, args);
    va_end(args);
    printf("\nfailed: seed %u\n", seed);
    fflush(stdout);
    _exit(1);
}

/* Random numbers, which depend on nothing but the seed. */

static uint64_t rng;

static uint64_t
rng_next(void)
{
    uint64_t z = rng += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Returns a number from 0 to n - 1. */
static uint32_t
pick(uint32_t n)
{
    return (rng_next() >> 32) * n >> 32;
}

static bool
percent(uint32_t n)
{
    return pick(100) < n;
}

static void
fill_random(void *p_, size_t n)
{
    uint8_t *p = p_;

    for (size_t i = 0; i < n; i++) {
        p[i] = rng_next() >> 32;
    }
}

/* Fills 'mask', of 'n' bytes: often all zeros or all ones. */
static void
random_mask(void *mask, size_t n, uint32_t none, uint32_t all)
{
    uint32_t p = pick(100);

    if (p < none + all) {
        memset(mask, p < none ? 0 : 0xff, n);
    } else {
        fill_random(mask, n);
    }
}

/* Tunnels. */

/* What is outside of packets. */
struct outer {
    enum ct_offload_tunnel_type type;
    struct eth_addr src, dst;
    struct flow_tnl tnl;
};

/* That of the packets that are for the present chain. */
static struct outer outer;

static void
random_outer(struct outer *o)
{
    struct flow_tnl *tnl = &o->tnl;

    memset(o, 0, sizeof *o);
    o->type = (percent(40) ? CT_OFFLOAD_TUNNEL_VXLAN
               : CT_OFFLOAD_TUNNEL_GENEVE);
    fill_random(&o->src, sizeof o->src);
    fill_random(&o->dst, sizeof o->dst);
    if (percent(60)) {
        tnl->ip_src = htonl(1 + pick(INT32_MAX));
        tnl->ip_dst = htonl(1 + pick(INT32_MAX));
        tnl->flags = percent(50) ? FLOW_TNL_F_DONT_FRAGMENT : 0;
    } else {
        fill_random(&tnl->ipv6_src, sizeof tnl->ipv6_src);
        fill_random(&tnl->ipv6_dst, sizeof tnl->ipv6_dst);
    }
    tnl->flags |= percent(50) ? FLOW_TNL_F_CSUM : 0;
    tnl->tun_id = htonll(pick(1 << 24));
    tnl->ip_tos = pick(256);
    tnl->ip_ttl = 1 + pick(255);
    tnl->tp_src = htons(1 + pick(65535));
    tnl->tp_dst = htons(1 + pick(65535));
    if (o->type == CT_OFFLOAD_TUNNEL_GENEVE) {
        tnl->flags |= percent(10) ? FLOW_TNL_F_OAM : 0;
        tnl->metadata.present.len = percent(70) ? 4 * pick(6) : 0;
        fill_random(tnl->metadata.opts.gnv, tnl->metadata.present.len);
    }
}

/* Stores in '*push' the header of 'o'. */
static void
outer_to_push(const struct outer *o, struct ovs_action_push_tnl *push)
{
    const struct flow_tnl *tnl = &o->tnl;
    struct eth_header *eth = (void *) push->header;
    struct udp_header *udp;
    struct genevehdr *geneve;
    struct vxlanhdr *vxlan;
    uint8_t *end;

    memset(push, 0, sizeof *push);
    eth->eth_src = o->src;
    eth->eth_dst = o->dst;
    if (tnl->ip_dst) {
        struct ip_header *ip = netdev_tnl_ip_hdr(eth);

        eth->eth_type = htons(ETH_TYPE_IP);
        ip->ip_ihl_ver = IP_IHL_VER(5, 4);
        ip->ip_tos = tnl->ip_tos;
        ip->ip_ttl = tnl->ip_ttl;
        ip->ip_proto = IPPROTO_UDP;
        ip->ip_frag_off = htons(tnl->flags & FLOW_TNL_F_DONT_FRAGMENT
                                ? IP_DF : 0);
        put_16aligned_be32(&ip->ip_src, tnl->ip_src);
        put_16aligned_be32(&ip->ip_dst, tnl->ip_dst);
        udp = (void *) (ip + 1);
    } else {
        struct ovs_16aligned_ip6_hdr *ip6 = netdev_tnl_ipv6_hdr(eth);

        eth->eth_type = htons(ETH_TYPE_IPV6);
        put_16aligned_be32(&ip6->ip6_flow, htonl(6 << 28 | tnl->ip_tos << 20));
        ip6->ip6_hlim = tnl->ip_ttl;
        ip6->ip6_nxt = IPPROTO_UDP;
        memcpy(&ip6->ip6_src, &tnl->ipv6_src, sizeof ip6->ip6_src);
        memcpy(&ip6->ip6_dst, &tnl->ipv6_dst, sizeof ip6->ip6_dst);
        udp = (void *) (ip6 + 1);
    }
    udp->udp_src = tnl->tp_src;
    udp->udp_dst = tnl->tp_dst;
    udp->udp_csum = tnl->flags & FLOW_TNL_F_CSUM ? OVS_BE16_MAX : 0;
    if (o->type == CT_OFFLOAD_TUNNEL_VXLAN) {
        vxlan = (void *) (udp + 1);
        put_16aligned_be32(&vxlan->vx_flags, htonl(VXLAN_FLAGS));
        put_16aligned_be32(&vxlan->vx_vni, htonl(ntohll(tnl->tun_id) << 8));
        push->tnl_type = OVS_VPORT_TYPE_VXLAN;
        end = (uint8_t *) (vxlan + 1);
    } else {
        geneve = (void *) (udp + 1);
        put_16aligned_be32(&geneve->vni, htonl(ntohll(tnl->tun_id) << 8));
        geneve->proto_type = htons(ETH_TYPE_TEB);
        geneve->oam = (tnl->flags & FLOW_TNL_F_OAM) != 0;
        geneve->opt_len = tnl->metadata.present.len / 4;
        memcpy(geneve->options, tnl->metadata.opts.gnv,
               tnl->metadata.present.len);
        push->tnl_type = OVS_VPORT_TYPE_GENEVE;
        end = (uint8_t *) geneve->options + tnl->metadata.present.len;
    }
    push->header_len = end - (uint8_t *) push->header;
}

static struct udp_header *
header_get_udp(void *header)
{
    return (netdev_tnl_is_header_ipv6(header)
            ? (void *) (netdev_tnl_ipv6_hdr(header) + 1)
            : (void *) (netdev_tnl_ip_hdr(header) + 1));
}

static void
push_header(struct dp_packet *packet, const struct ovs_action_push_tnl *push)
{
    netdev_tnl_push_udp_header(NULL, NULL, packet, push);
}

/* Puts 'packet' into 'o', as another host would. */
static void
encapsulate(struct dp_packet *packet, const struct outer *o)
{
    struct ovs_action_push_tnl push;
    struct flow unused;

    outer_to_push(o, &push);
    dp_packet_ol_send_prepare(packet, 0);
    push_header(packet, &push);
    header_get_udp(dp_packet_data(packet))->udp_src = o->tnl.tp_src;
    dp_packet_ol_send_prepare(packet, 0);
    dp_packet_reset_offload(packet);
    flow_extract(packet, &unused);
}

/* Takes 'packet', of which the flow was extracted, out of 'outer'. */
static void
decapsulate(struct dp_packet *packet, odp_port_t port)
{
    packet = (outer.type == CT_OFFLOAD_TUNNEL_VXLAN
              ? netdev_vxlan_pop_header(packet)
              : netdev_geneve_pop_header(packet));
    ovs_assert(packet);
    dp_packet_reset_offload(packet);    /* As netdev_pop_header() does. */
    packet->md.in_port.odp_port = port;
}

/* Software. */

#define IN_PORT 1
#define TUNNEL_PORT 9
#define N_ZONES 4

/* What ct() has made of a packet. */
struct ct_result {
    uint8_t state;
    uint16_t zone;
    uint32_t mark;
    ovs_u128 label;
    struct ovs_key_ct_tuple_ipv4 tuple4;
    struct ovs_key_ct_tuple_ipv6 tuple6;
};

/* A packet on its way. */
struct run {
    struct dp_packet *packet;
    struct ct_result cts[CT_MERGE_MAX_CONNS * 4];
    size_t n_cts;
    uint32_t recirc_id;         /* Nonzero if the packet recirculates. */
    odp_port_t out_port;
    size_t n_stages;            /* Megaflows that it has met. */
    struct ct_merge_rss rss;
    bool hard;                  /* Is it the rule that executes actions? */
};

static struct conntrack *ct;
static long long int now;

static ovs_be16
packet_dl_type(const struct dp_packet *packet)
{
    const struct ip_header *ip = dp_packet_l3(packet);

    return htons(IP_VER(ip->ip_ihl_ver) == 4 ? ETH_TYPE_IP : ETH_TYPE_IPV6);
}

static void
ct_execute(struct dp_packet *packet, bool commit, uint16_t zone,
           const uint32_t *mark, const struct ovs_key_ct_labels *label,
           const struct nat_action_info_t *nat)
{
    struct dp_packet_batch batch;

    dp_packet_batch_init_packet(&batch, packet);
    conntrack_execute(ct, &batch, packet_dl_type(packet), false, commit, zone,
                      mark, label, NULL, nat, now, 0, NULL);
    ovs_assert(batch.count == 1 && batch.packets[0] == packet);
}

/* A ct() action, as dp_execute_cb() does it. */
static void
run_ct(struct run *run, const struct nlattr *a)
{
    const struct nlattr *zone = nl_attr_find_nested(a, OVS_CT_ATTR_ZONE);
    const struct nlattr *mark = nl_attr_find_nested(a, OVS_CT_ATTR_MARK);
    const struct nlattr *label = nl_attr_find_nested(a, OVS_CT_ATTR_LABELS);
    const struct nlattr *nat = nl_attr_find_nested(a, OVS_CT_ATTR_NAT);
    struct nat_action_info_t info = { .nat_action = NAT_ACTION_SRC };
    struct pkt_metadata *md = &run->packet->md;
    struct ct_result *result = &run->cts[run->n_cts++];

    ct_execute(run->packet, nl_attr_find_nested(a, OVS_CT_ATTR_COMMIT),
               nl_attr_get_u16(zone), mark ? nl_attr_get(mark) : NULL,
               label ? nl_attr_get(label) : NULL, nat ? &info : NULL);
    ovs_assert(run->n_cts <= ARRAY_SIZE(run->cts));
    memset(result, 0, sizeof *result);
    result->state = md->ct_state;
    result->zone = md->ct_zone;
    result->mark = md->ct_mark;
    result->label = md->ct_label;
    if (md->ct_orig_tuple_ipv6) {
        memcpy(&result->tuple6, &md->ct_orig_tuple.ipv6,
               OFFSETOFEND(struct ovs_key_ct_tuple_ipv6, ipv6_proto));
    } else {
        memcpy(&result->tuple4, &md->ct_orig_tuple.ipv4,
               OFFSETOFEND(struct ovs_key_ct_tuple_ipv4, ipv4_proto));
    }
}

static void
run_pop(struct run *run, odp_port_t port)
{
    struct flow unused;

    decapsulate(run->packet, port);
    if (run->hard) {
        flow_extract(run->packet, &unused);
    }
}

/* Software computes the UDP source port, and a rule has it. */
static void
run_push(struct run *run, const struct ovs_action_push_tnl *push)
{
    push_header(run->packet, push);
    if (run->hard) {
        struct ovs_action_push_tnl copy = *push;

        header_get_udp(dp_packet_data(run->packet))->udp_src
            = header_get_udp(copy.header)->udp_src;
    }
}

static void
run_cb(void *run_, struct dp_packet_batch *batch OVS_UNUSED,
       const struct nlattr *a, bool should_steal)
{
    struct run *run = run_;

    ovs_assert(!should_steal);
    switch ((int) nl_attr_type(a)) {
    case OVS_ACTION_ATTR_OUTPUT:
        ovs_assert(run->out_port == ODPP_NONE);
        run->out_port = nl_attr_get_odp_port(a);
        break;

    case OVS_ACTION_ATTR_RECIRC:
        run->recirc_id = nl_attr_get_u32(a);
        run->packet->md.recirc_id = run->recirc_id;
        break;

    case OVS_ACTION_ATTR_CT:
        run_ct(run, a);
        break;

    case OVS_ACTION_ATTR_TUNNEL_POP:
        run_pop(run, nl_attr_get_odp_port(a));
        break;

    case OVS_ACTION_ATTR_TUNNEL_PUSH:
        run_push(run, nl_attr_get(a));
        break;

    default:
        OVS_NOT_REACHED();
    }
}

/* Executes 'actions' on the packet. */
static void
run_actions(struct run *run, const void *actions, size_t size)
{
    const struct nlattr *a;
    size_t left;

    if (run->n_stages == run->rss.since) {
        run->rss.hash = dp_packet_get_rss_hash(run->packet);
    }
    run->recirc_id = 0;
    NL_ATTR_FOR_EACH (a, left, (const struct nlattr *) actions, size) {
        struct dp_packet_batch batch;

        if (run->n_stages < run->rss.since) {
            /* Extraction of the flow computes the RSS hash.  As if not. */
            dp_packet_ol_send_prepare(run->packet, 0);
            dp_packet_reset_offload(run->packet);
        }
        dp_packet_batch_init_packet(&batch, run->packet);
        odp_execute_actions(run, &batch, false, a, NLA_ALIGN(a->nla_len),
                            run_cb);
    }
    run->n_stages++;
}

/* The packet has an RSS hash from megaflow number 'rss_since' on. */
static void
run_init(struct run *run, const struct dp_packet *packet, size_t rss_since)
{
    memset(run, 0, sizeof *run);
    run->rss.since = rss_since;
    run->packet = dp_packet_clone(packet);
    pkt_metadata_init(&run->packet->md, u32_to_odp(IN_PORT));
    run->out_port = ODPP_NONE;
}

static void
run_uninit(struct run *run)
{
    dp_packet_delete(run->packet);
}

/* Chains. */

struct stage {
    struct flow key;
    struct flow mask;
    struct ofpbuf actions;
};

/* A connection that was made for a chain, and how. */
struct known_conn {
    uint16_t zone;
    struct nat_action_info_t nat;
    bool has_nat;
    struct ct_merge_conn conn;
};

struct chain {
    struct dp_packet *packet;   /* That it was made with. */
    struct run run;             /* What became of it. */
    struct stage stages[CT_MERGE_MAX_FLOWS];
    size_t n_stages;

    struct known_conn known[CT_MERGE_MAX_CONNS];
    size_t n_known;
    struct ct_merge_conn conns[CT_MERGE_MAX_CONNS];
    size_t conn_known[CT_MERGE_MAX_CONNS]; /* Index in 'known'. */
    uint16_t zones[CT_MERGE_MAX_CONNS];
    size_t n_conns;

    bool failed;                /* Could a connection not be made? */
    bool odd;                   /* Has a packet that NAT had translated in a
                                 * zone another tuple there than it should? */
};

/* What packets of 'chain' are like, with what was outside as metadata. */
static const struct flow *
chain_wire(const struct chain *chain)
{
    return &chain->stages[outer.type != 0].key;
}

/* Connections. */

static struct ct_dpif_tuple
reverse(const struct ct_dpif_tuple *t)
{
    struct ct_dpif_tuple r = *t;

    r.src = t->dst;
    r.dst = t->src;
    r.src_port = t->dst_port;
    r.dst_port = t->src_port;
    return r;
}

static bool
tuple_equal(const struct ct_dpif_tuple *a, const struct ct_dpif_tuple *b)
{
    size_t size = (a->l3_type == AF_INET6 ? sizeof a->src.in6
                   : sizeof a->src.ip);

    return (a->l3_type == b->l3_type && a->ip_proto == b->ip_proto
            && !memcmp(&a->src, &b->src, size)
            && !memcmp(&a->dst, &b->dst, size)
            && a->src_port == b->src_port && a->dst_port == b->dst_port);
}

static struct ct_dpif_tuple
flow_to_tuple(const struct flow *flow)
{
    struct ct_dpif_tuple t;

    memset(&t, 0, sizeof t);
    t.l3_type = flow->dl_type == htons(ETH_TYPE_IP) ? AF_INET : AF_INET6;
    t.ip_proto = flow->nw_proto;
    if (t.l3_type == AF_INET) {
        t.src.ip = flow->nw_src;
        t.dst.ip = flow->nw_dst;
    } else {
        t.src.in6 = flow->ipv6_src;
        t.dst.in6 = flow->ipv6_dst;
    }
    t.src_port = flow->tp_src;
    t.dst_port = flow->tp_dst;
    return t;
}

static void
tuple_to_flow(const struct ct_dpif_tuple *t, struct flow *flow)
{
    memset(flow, 0, sizeof *flow);
    flow->dl_type = htons(t->l3_type == AF_INET ? ETH_TYPE_IP : ETH_TYPE_IPV6);
    flow->nw_proto = t->ip_proto;
    flow->nw_ttl = 64;
    if (t->l3_type == AF_INET) {
        flow->nw_src = t->src.ip;
        flow->nw_dst = t->dst.ip;
    } else {
        flow->ipv6_src = t->src.in6;
        flow->ipv6_dst = t->dst.in6;
    }
    flow->tp_src = t->src_port;
    flow->tp_dst = t->dst_port;
}

static void
random_addr(union ct_dpif_inet_addr *addr)
{
    fill_random(addr, sizeof *addr);
    addr->ip6[0] &= htonl(0x7fffffff);
}

static struct dp_packet *
compose(const struct flow *flow, size_t payload)
{
    struct dp_packet *packet = dp_packet_new(0);
    struct flow unused;

    flow_compose(packet, flow, NULL, payload, false);
    flow_extract(packet, &unused);
    return packet;
}

/* Lets a connection have a packet with 'tuple' and 'flags'.  Returns whether
 * it is one. */
static bool
ct_packet(const struct ct_dpif_tuple *tuple, uint16_t flags, bool commit,
          uint16_t zone, uint32_t mark, ovs_u128 label,
          const struct nat_action_info_t *nat)
{
    const uint32_t marks[] = { mark, UINT32_MAX };
    struct ovs_key_ct_labels labels[2];
    struct dp_packet *packet;
    struct flow flow;
    bool valid;

    memcpy(&labels[0], &label, sizeof label);
    memset(&labels[1], 0xff, sizeof labels[1]);
    tuple_to_flow(tuple, &flow);
    flow.tcp_flags = htons(tuple->ip_proto == IPPROTO_TCP ? flags : 0);
    packet = compose(&flow, 0);
    pkt_metadata_init(&packet->md, u32_to_odp(IN_PORT));
    ct_execute(packet, commit, zone, commit ? marks : NULL,
               commit ? labels : NULL, nat);
    valid = !(packet->md.ct_state & CS_INVALID);
    dp_packet_delete(packet);
    return valid;
}

/* Finds the connection with original 'tuple' in 'zone'. */
static bool
find_conn(uint16_t zone, const struct ct_dpif_tuple *tuple,
          struct ct_dpif_entry *entry)
{
    struct conntrack_dump dump;
    bool found = false;
    int n;

    conntrack_dump_start(ct, &dump, &zone, &n);
    while (!found && !conntrack_dump_next(&dump, entry)) {
        found = tuple_equal(&entry->tuple_orig, tuple);
        ct_dpif_entry_uninit(entry);
    }
    conntrack_dump_done(&dump);
    return found;
}

static void
nat_to(struct nat_action_info_t *nat, const union ct_dpif_inet_addr *addr,
       ovs_be16 port)
{
    memcpy(&nat->min_addr, addr, sizeof nat->min_addr);
    nat->max_addr = nat->min_addr;
    if (port) {
        nat->min_port = nat->max_port = ntohs(port);
        nat->nat_action |= (nat->nat_action & NAT_ACTION_SRC
                            ? NAT_ACTION_SRC_PORT : NAT_ACTION_DST_PORT);
    }
}

static bool
is_known(const struct chain *chain, uint16_t zone,
         const struct ct_dpif_tuple *tuple)
{
    for (size_t i = 0; i < chain->n_known; i++) {
        const struct known_conn *known = &chain->known[i];

        if (known->zone == zone
            && (tuple_equal(tuple, &known->conn.tuple[0])
                || tuple_equal(tuple, &known->conn.tuple[1]))) {
            return true;
        }
    }
    return false;
}

/* Makes 'known', whose original tuple is set, and sets the reply tuple.  Fails
 * if there is no room for NAT, or if the tuple is another connection's. */
static bool
commit_conn(struct known_conn *known)
{
    struct ct_merge_conn *conn = &known->conn;
    struct ct_dpif_entry entry;

    if (!ct_packet(&conn->tuple[0], TCP_SYN, true, known->zone, conn->mark,
                   conn->label, known->has_nat ? &known->nat : NULL)
        || !find_conn(known->zone, &conn->tuple[0], &entry)) {
        return false;
    }
    conn->tuple[1] = entry.tuple_reply;
    return (conn->kind == CT_MERGE_ONE_WAY
            || (ct_packet(&conn->tuple[1], TCP_SYN | TCP_ACK, false,
                          known->zone, 0, OVS_U128_ZERO, NULL)
                && ct_packet(&conn->tuple[0], TCP_ACK, false, known->zone, 0,
                             OVS_U128_ZERO, NULL)));
}

/* Commits a connection in 'zone' that packets with 'tuple' belong to. */
static void
make_conn(struct chain *chain, uint16_t zone,
          const struct ct_dpif_tuple *tuple)
{
    struct known_conn *known = &chain->known[chain->n_known];
    struct ct_merge_conn *conn = &known->conn;
    struct ct_dpif_tuple orig = *tuple;
    struct nat_action_info_t nat;
    uint32_t kind = pick(5);    /* 0: no NAT; 1: nat(src); else to a tuple. */

    memset(known, 0, sizeof *known);
    memset(&nat, 0, sizeof nat);
    known->zone = zone;
    conn->kind = percent(80) ? CT_MERGE_ESTABLISHED : CT_MERGE_ONE_WAY;
    conn->reply = conn->kind == CT_MERGE_ESTABLISHED && percent(50);
    conn->snat = kind == 1 || kind == 2 || kind == 3;
    conn->dnat = kind == 4;
    nat.nat_action = (conn->snat ? NAT_ACTION_SRC
                      : conn->dnat ? NAT_ACTION_DST : 0);
    if (conn->reply) {
        orig = reverse(tuple);
        if (kind == 2 || kind == 3) {
            nat_to(&nat, &orig.src, orig.src_port);
            random_addr(&orig.src);
            orig.src_port = htons(1 + pick(65535));
        } else if (kind == 4) {
            nat_to(&nat, &orig.dst, orig.dst_port);
            random_addr(&orig.dst);
            orig.dst_port = htons(1 + pick(65535));
        }
    } else if (kind >= 2) {
        union ct_dpif_inet_addr addr;

        random_addr(&addr);
        nat_to(&nat, &addr, percent(50) ? htons(1 + pick(65535)) : 0);
    }
    if (percent(50)) {
        conn->mark = pick(4);
        conn->label.u64.lo = pick(4);
    }

    known->nat = nat;
    known->has_nat = kind != 0;
    conn->tuple[0] = orig;
    if (is_known(chain, zone, &orig) || !commit_conn(known)) {
        chain->failed = true;
    }
    chain->n_known++;
}

/* The tuple that ct() has written into a packet with 'tuple'. */
static struct ct_dpif_tuple
result_tuple(const struct ct_result *result, const struct ct_dpif_tuple *tuple)
{
    struct ct_dpif_tuple t = *tuple;

    if (t.l3_type == AF_INET) {
        t.src.ip = result->tuple4.ipv4_src;
        t.dst.ip = result->tuple4.ipv4_dst;
        t.src_port = result->tuple4.src_port;
        t.dst_port = result->tuple4.dst_port;
    } else {
        t.src.in6 = result->tuple6.ipv6_src;
        t.dst.in6 = result->tuple6.ipv6_dst;
        t.src_port = result->tuple6.src_port;
        t.dst_port = result->tuple6.dst_port;
    }
    return t;
}

/* The packet of 'chain', of which 'flow' was extracted before, has passed
 * ct().  Notes what ct() has found, by what it has written. */
static void
note_ct(struct chain *chain, const struct flow *flow)
{
    const struct ct_result *result = &chain->run.cts[chain->run.n_cts - 1];
    struct ct_merge_conn *conn = &chain->conns[chain->n_conns];
    struct ct_dpif_tuple tuple = flow_to_tuple(flow);
    struct ct_dpif_tuple orig = result_tuple(result, &tuple);
    bool natted = (flow->ct_zone == result->zone
                   && flow->ct_state & (CS_SRC_NAT | CS_DST_NAT));
    bool odd = natted;

    chain->zones[chain->n_conns++] = result->zone;
    memset(conn, 0, sizeof *conn);
    conn->kind = CT_MERGE_MISS;
    for (size_t i = 0; i < chain->n_known; i++) {
        const struct known_conn *known = &chain->known[i];

        if (known->zone == result->zone
            && tuple_equal(&orig, &known->conn.tuple[0])) {
            const struct ct_dpif_tuple *tuples = known->conn.tuple;
            struct ct_dpif_tuple reversed[] = {
                reverse(&tuples[1]), reverse(&tuples[0]),
            };

            *conn = known->conn;
            chain->conn_known[chain->n_conns - 1] = i;
            conn->reply = !tuple_equal(&tuple,
                                       natted ? &reversed[0] : &tuples[0]);
            odd = !tuple_equal(&tuple, (natted ? &reversed[conn->reply]
                                        : &tuples[conn->reply]));
        }
    }
    chain->odd |= odd;
}

/* Random chains. */

/* Random masks of a megaflow for 'key'. */
static void
make_mask(const struct flow *key, struct flow *mask)
{
    static const struct {
        size_t ofs, size;
    } fields[] = {
#define FIELD(NAME) \
        { offsetof(struct flow, NAME), sizeof(((struct flow *) 0)->NAME) }
        FIELD(dl_src), FIELD(dl_dst), FIELD(nw_src), FIELD(nw_dst),
        FIELD(ipv6_src), FIELD(ipv6_dst), FIELD(ipv6_label), FIELD(nw_tos),
        FIELD(nw_ttl), FIELD(tp_src), FIELD(tp_dst), FIELD(dp_hash),
        FIELD(ct_state), FIELD(ct_zone), FIELD(ct_mark), FIELD(ct_label),
        FIELD(ct_nw_src), FIELD(ct_nw_dst), FIELD(ct_ipv6_src),
        FIELD(ct_ipv6_dst), FIELD(ct_tp_src), FIELD(ct_tp_dst),
        FIELD(ct_nw_proto), FIELD(vlans[0]), FIELD(vlans[1]),
        FIELD(mpls_lse), FIELD(skb_priority), FIELD(pkt_mark), FIELD(nsh),
#undef FIELD
    };

    memset(mask, 0, sizeof *mask);
    for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
        random_mask((char *) mask + fields[i].ofs, fields[i].size, 55, 25);
    }
    if (percent(10)) {
        random_mask(&mask->tcp_flags, sizeof mask->tcp_flags, 30, 30);
    }
    random_mask(&mask->nw_proto, sizeof mask->nw_proto, 50, 50);
    memset(&mask->recirc_id, 0xff, sizeof mask->recirc_id);
    memset(&mask->in_port, 0xff, sizeof mask->in_port);
    memset(&mask->packet_type, 0xff, sizeof mask->packet_type);
    memset(&mask->dl_type, 0xff, sizeof mask->dl_type);
    mask->nw_frag = FLOW_NW_FRAG_MASK;

    /* As dpif-netdev and ofproto-dpif-xlate have it. */
    if (!mask->vlans[0].tci) {
        mask->vlans[0].tci = OVS_BE16_MAX;
    }
    mask->vlans[0].tci |= htons(VLAN_CFI);
    if (!(key->vlans[0].tci & htons(VLAN_CFI))) {
        mask->vlans[0].tpid = 0;
    }
}

/* Makes 'mask' of a megaflow for 'key', which came from a tunnel, one for that
 * as well. */
static void
make_tunnel_mask(const struct flow_tnl *key, struct flow_tnl *mask)
{
    if (key->ip_dst) {
        random_mask(&mask->ip_src, sizeof mask->ip_src, 30, 50);
        random_mask(&mask->ip_dst, sizeof mask->ip_dst, 30, 50);
    } else {
        random_mask(&mask->ipv6_src, sizeof mask->ipv6_src, 30, 50);
        random_mask(&mask->ipv6_dst, sizeof mask->ipv6_dst, 30, 50);
    }
    random_mask(&mask->tun_id, sizeof mask->tun_id, 20, 60);
    random_mask(&mask->ip_tos, sizeof mask->ip_tos, 40, 50);
    random_mask(&mask->ip_ttl, sizeof mask->ip_ttl, 80, 10);
    random_mask(&mask->tp_src, sizeof mask->tp_src, 80, 10);
    random_mask(&mask->tp_dst, sizeof mask->tp_dst, 80, 10);
    mask->flags = rng_next() & (FLOW_TNL_F_DONT_FRAGMENT | FLOW_TNL_F_CSUM
                                | FLOW_TNL_F_KEY | FLOW_TNL_F_OAM);
    if (key->metadata.present.len) {
        mask->flags |= FLOW_TNL_F_UDPIF;
        mask->metadata.present.len = UINT8_MAX;
        random_mask(mask->metadata.opts.gnv, key->metadata.present.len, 30,
                    30);
    }
}

/* Appends a random set action of 'size' bytes. */
static void
make_set__(enum ovs_key_attr type, const void *key, size_t size, bool whole,
           struct ofpbuf *b)
{
    size_t ofs;

    if (whole) {
        ofs = nl_msg_start_nested(b, OVS_ACTION_ATTR_SET);
        nl_msg_put_unspec(b, type, key, size);
    } else {
        /* 'key' includes the mask. */
        uint8_t *data;

        ofs = nl_msg_start_nested(b, OVS_ACTION_ATTR_SET_MASKED);
        data = nl_msg_put_unspec_uninit(b, type, 2 * size);
        memcpy(data, key, 2 * size);
        for (size_t i = 0; i < size; i++) {
            data[i] &= data[size + i];
        }
    }
    nl_msg_end_nested(b, ofs);
}

static void
make_set(const struct flow *flow, struct ofpbuf *b)
{
    bool whole = percent(10);
    /* Masks of parts of fields are mostly refused. */
    uint32_t all = 34 - (percent(15) ? 20 : 0);
    uint32_t type = pick(4);

    if (type == 0) {
        struct ovs_key_ethernet k[2];

        fill_random(&k[0], sizeof k[0]);
        random_mask(&k[1].eth_src, sizeof k[1].eth_src, 66, all);
        random_mask(&k[1].eth_dst, sizeof k[1].eth_dst, 66, all);
        make_set__(OVS_KEY_ATTR_ETHERNET, k, sizeof k[0], whole, b);
    } else if (type == 1) {
        struct ovs_key_tcp k[2];

        fill_random(&k[0], sizeof k[0]);
        random_mask(&k[1].tcp_src, sizeof k[1].tcp_src, 66, all);
        random_mask(&k[1].tcp_dst, sizeof k[1].tcp_dst, 66, all);
        make_set__((flow->nw_proto == IPPROTO_TCP ? OVS_KEY_ATTR_TCP
                    : OVS_KEY_ATTR_UDP), k, sizeof k[0], whole, b);
    } else if (flow->dl_type == htons(ETH_TYPE_IP)) {
        struct ovs_key_ipv4 k[2];

        memset(k, 0, sizeof k);
        fill_random(&k[0], sizeof k[0]);
        k[0].ipv4_src &= htonl(0x7fffffff);
        k[0].ipv4_dst &= htonl(0x7fffffff);
        k[0].ipv4_tos = flow->nw_tos;
        random_mask(&k[1].ipv4_ttl, 1, 30, 60);
        if (type == 2) {
            random_mask(&k[1].ipv4_src, 4, 50, all);
            random_mask(&k[1].ipv4_dst, 4, 50, all);
            random_mask(&k[1].ipv4_tos, 1, 95, 5);
        }
        make_set__(OVS_KEY_ATTR_IPV4, k, sizeof k[0], whole, b);
    } else {
        struct ovs_key_ipv6 k[2];

        memset(k, 0, sizeof k);
        fill_random(&k[0], sizeof k[0]);
        k[0].ipv6_label = flow->ipv6_label;
        k[0].ipv6_tclass = flow->nw_tos;
        random_mask(&k[1].ipv6_hlimit, 1, 30, 60);
        if (type == 2) {
            random_mask(&k[1].ipv6_src, 16, 50, all);
            random_mask(&k[1].ipv6_dst, 16, 50, all);
            random_mask(&k[1].ipv6_tclass, 1, 95, 5);
            random_mask(&k[1].ipv6_label, 4, 95, 5);
            k[1].ipv6_label &= htonl(IPV6_LABEL_MASK);
        }
        make_set__(OVS_KEY_ATTR_IPV6, k, sizeof k[0], whole, b);
    }
}

static void
make_ct(struct chain *chain, const struct flow *flow, struct ofpbuf *b)
{
    struct ct_dpif_tuple tuple = flow_to_tuple(flow);
    uint16_t zone = pick(N_ZONES);
    bool nat = percent(70);
    bool commit = percent(20);
    size_t ofs;

    /* Most find a connection. */
    if (chain->n_known < ARRAY_SIZE(chain->known) && percent(85)
        && !(flow->ct_zone == zone
             && flow->ct_state & (CS_SRC_NAT | CS_DST_NAT))
        && !is_known(chain, zone, &tuple)) {
        make_conn(chain, zone, &tuple);
    }

    ofs = nl_msg_start_nested(b, OVS_ACTION_ATTR_CT);
    nl_msg_put_u16(b, OVS_CT_ATTR_ZONE, zone);
    if (commit) {
        nl_msg_put_flag(b, OVS_CT_ATTR_COMMIT);
        if (percent(30)) {
            const uint32_t mark[] = { 1, 1 };

            nl_msg_put_unspec(b, OVS_CT_ATTR_MARK, mark, sizeof mark);
        }
        if (percent(30)) {
            const ovs_u128 label[] = { { .u64 = { .lo = 0 } },
                                       { .u64 = { .lo = 2 } } };

            nl_msg_put_unspec(b, OVS_CT_ATTR_LABELS, label, sizeof label);
        }
    }
    if (nat) {
        size_t nested = nl_msg_start_nested(b, OVS_CT_ATTR_NAT);

        if (commit) {
            nl_msg_put_flag(b, OVS_NAT_ATTR_SRC);
        }
        nl_msg_end_nested(b, nested);
    }
    nl_msg_end_nested(b, ofs);
}

/* Appends a random action to 'b'. */
static void
make_action(struct chain *chain, const struct flow *flow, struct ofpbuf *b)
{
    uint32_t p = pick(100);

    if (p < 40 && chain->n_conns < CT_MERGE_MAX_CONNS) {
        make_ct(chain, flow, b);
    } else if (p < 70) {
        make_set(flow, b);
    } else if (p < 78) {
        nl_msg_put_flag(b, OVS_ACTION_ATTR_CT_CLEAR);
    } else if (p < 86) {
        const struct ovs_action_hash hash = {
            .hash_alg = percent(70) ? OVS_HASH_ALG_L4 : OVS_HASH_ALG_SYM_L4,
            .hash_basis = pick(3),
        };

        nl_msg_put_unspec(b, OVS_ACTION_ATTR_HASH, &hash, sizeof hash);
    } else if (p < 92) {
        nl_msg_put_flag(b, OVS_ACTION_ATTR_POP_VLAN);
    } else if (!(flow->vlans[0].tci & htons(VLAN_CFI)) || percent(5)) {
        const struct ovs_action_push_vlan vlan = {
            .vlan_tpid = htons(percent(80) ? ETH_TYPE_VLAN_8021Q
                               : ETH_TYPE_VLAN_8021AD),
            .vlan_tci = htons(rng_next() | VLAN_CFI),
        };

        nl_msg_put_unspec(b, OVS_ACTION_ATTR_PUSH_VLAN, &vlan, sizeof vlan);
    } else {
        make_set(flow, b);
    }
}

/* Begins 'chain' with a megaflow that takes the packet out of its tunnel. */
static void
make_pop_stage(struct chain *chain)
{
    struct stage *stage = &chain->stages[chain->n_stages++];

    flow_extract(chain->run.packet, &stage->key);
    make_mask(&stage->key, &stage->mask);
    if (percent(90)) {
        stage->mask.tp_dst = OVS_BE16_MAX;
        stage->mask.ipv6_label = 0;
    }
    ofpbuf_init(&stage->actions, 256);
    nl_msg_put_odp_port(&stage->actions, OVS_ACTION_ATTR_TUNNEL_POP,
                        u32_to_odp(TUNNEL_PORT));
    run_actions(&chain->run, stage->actions.data, stage->actions.size);
}

static void
make_push(struct ofpbuf *b)
{
    struct ovs_action_push_tnl push;
    struct outer o;

    random_outer(&o);
    outer_to_push(&o, &push);
    header_get_udp(push.header)->udp_src = 0;
    nl_msg_put_unspec(b, OVS_ACTION_ATTR_TUNNEL_PUSH, &push, sizeof push);
}

/* Extends 'chain' by a megaflow for the packet as it is now. */
static void
make_stage(struct chain *chain, bool last)
{
    struct stage *stage = &chain->stages[chain->n_stages++];
    struct run *run = &chain->run;
    uint32_t n_actions = pick(4) + !last;

    flow_extract(run->packet, &stage->key);
    make_mask(&stage->key, &stage->mask);
    if (outer.type) {
        make_tunnel_mask(&stage->key.tunnel, &stage->mask.tunnel);
    }
    ofpbuf_init(&stage->actions, 256);
    for (uint32_t i = 0; i <= n_actions; i++) {
        size_t ofs = stage->actions.size;
        size_t n_cts = run->n_cts;
        struct flow flow;

        flow_extract(run->packet, &flow);
        if (i < n_actions) {
            make_action(chain, &flow, &stage->actions);
        } else if (!last) {
            nl_msg_put_u32(&stage->actions, OVS_ACTION_ATTR_RECIRC,
                           chain->n_stages);
        } else if (percent(95)) {
            if (percent(20)) {
                make_push(&stage->actions);
            }
            nl_msg_put_odp_port(&stage->actions, OVS_ACTION_ATTR_OUTPUT,
                                u32_to_odp(2 + pick(3)));
        }
        run_actions(run, (char *) stage->actions.data + ofs,
                    stage->actions.size - ofs);
        if (run->n_cts > n_cts) {
            note_ct(chain, &flow);
        }
    }
}

static void
random_flow(struct flow *flow)
{
    struct ct_dpif_tuple tuple;

    memset(&tuple, 0, sizeof tuple);
    tuple.l3_type = percent(60) ? AF_INET : AF_INET6;
    tuple.ip_proto = percent(60) ? IPPROTO_TCP : IPPROTO_UDP;
    random_addr(&tuple.src);
    random_addr(&tuple.dst);
    tuple.src_port = htons(1 + pick(65535));
    tuple.dst_port = htons(1 + pick(65535));
    tuple_to_flow(&tuple, flow);
    fill_random(&flow->dl_src, sizeof flow->dl_src);
    fill_random(&flow->dl_dst, sizeof flow->dl_dst);
    flow->nw_tos = pick(256);
    flow->nw_ttl = 1 + pick(255);
    if (tuple.l3_type == AF_INET6) {
        flow->ipv6_label = htonl(pick(1 << 20));
    }
    if (tuple.ip_proto == IPPROTO_TCP) {
        flow->tcp_flags = htons(TCP_ACK | (percent(50) ? TCP_PSH : 0));
    }
    if (percent(30)) {
        flow->vlans[0].tpid = htons(percent(80) ? ETH_TYPE_VLAN_8021Q
                                    : ETH_TYPE_VLAN_8021AD);
        flow->vlans[0].tci = htons(rng_next() | VLAN_CFI);
    }
}

/* Returns a packet with 'flow', within 'o' if that is a tunnel. */
static struct dp_packet *
compose_wire(const struct flow *flow, const struct outer *o)
{
    struct dp_packet *packet = compose(flow, pick(64));

    if (flow->dl_type == htons(ETH_TYPE_IP) && flow->nw_proto == IPPROTO_UDP
        && percent(10)) {
        struct udp_header *udp = dp_packet_l4(packet);

        udp->udp_csum = 0;
    }
    if (percent(50)) {
        dp_packet_ip_checksum_set_unknown(packet);
        dp_packet_l4_checksum_set_unknown(packet);
    }
    if (o->type) {
        encapsulate(packet, o);
    }
    return packet;
}

static void
chain_init(struct chain *chain, const struct dp_packet *packet,
           size_t rss_since)
{
    size_t n = 1 + pick(percent(30) ? CT_MERGE_MAX_FLOWS : 4);
    struct ct_dpif_tuple flow_tuple;

    memset(chain, 0, sizeof *chain);
    run_init(&chain->run, packet, rss_since);
    if (outer.type) {
        make_pop_stage(chain);
        n -= n == CT_MERGE_MAX_FLOWS;
    }
    for (size_t i = 0; i < n; i++) {
        make_stage(chain, i == n - 1);
    }
    flow_tuple = flow_to_tuple(chain_wire(chain));
    for (size_t i = 0; i < chain->n_conns; i++) {
        struct ct_merge_conn *conn = &chain->conns[i];
        struct ct_dpif_entry entry;
        struct ct_dpif_tuple tuple;
        bool found;

        tuple = result_tuple(&chain->run.cts[i], &flow_tuple);
        found = find_conn(chain->zones[i], &tuple, &entry);
        if (found != (conn->kind != CT_MERGE_MISS)) {
            /* It was made later. */
            chain->failed = true;
        } else if (found) {
            /* A ct() may have changed them. */
            conn->mark = entry.mark;
            conn->label = entry.labels;
        }
    }
}

static void
chain_uninit(struct chain *chain)
{
    for (size_t i = 0; i < chain->n_stages; i++) {
        ofpbuf_uninit(&chain->stages[i].actions);
    }
    run_uninit(&chain->run);
}

/* Compiles 'chain' for 'conns'. */
static enum ct_merge_reason
chain_compile(const struct chain *chain, const struct ct_merge_conn conns[],
              struct ct_merge **mp)
{
    struct ct_merge_flow flows[CT_MERGE_MAX_FLOWS];

    for (size_t i = 0; i < chain->n_stages; i++) {
        const struct stage *stage = &chain->stages[i];

        flows[i].key = &stage->key;
        flows[i].mask = &stage->mask;
        flows[i].actions = stage->actions.data;
        flows[i].actions_len = stage->actions.size;
    }
    return ct_merge_create(flows, chain->n_stages, conns, chain->n_conns,
                           (struct ct_merge_vport) {
                               u32_to_odp(TUNNEL_PORT), outer.type },
                           mp);
}

/* What happens to packets. */

/* Sends the packet of 'run' through 'chain' in software.  Returns whether it
 * meets all megaflows, with the same results of ct() as those of the packet
 * that made the chain.  'size_diff', if nonnull, is by how much it must be
 * longer than on the wire when it meets each. */
static bool
run_chain(const struct chain *chain, struct run *run,
          const int16_t size_diff[])
{
    size_t wire_size = dp_packet_size(run->packet);

    for (size_t i = 0; i < chain->n_stages; i++) {
        const struct stage *stage = &chain->stages[i];
        struct flow_wildcards wc = { .masks = stage->mask };
        struct flow flow;

        flow_extract(run->packet, &flow);
        if (!flow_equal_except(&flow, &stage->key, &wc)) {
            return false;
        }
        if (size_diff && dp_packet_size(run->packet) != wire_size
                                                        + size_diff[i]) {
            fail("megaflow %"PRIuSIZE": size %"PRIu32", not %"PRIuSIZE" + %d",
                 i, dp_packet_size(run->packet), wire_size, size_diff[i]);
        }
        run_actions(run, stage->actions.data, stage->actions.size);
    }
    return true;
}

static bool
run_has_same_cts(const struct run *a, const struct run *b)
{
    return (a->n_cts == b->n_cts
            && !memcmp(a->cts, b->cts, a->n_cts * sizeof a->cts[0]));
}

static void
run_finish(struct run *run)
{
    dp_packet_ol_send_prepare(run->packet, 0);
}

/* The rule. */

struct rule {
    struct ct_merge *m;
    struct match match;
    struct ofpbuf actions;
};

/* Does what all paths of 'm' match take all packets of 'match', too? */
static bool
is_common(const struct ct_merge *m, const struct match *match)
{
    const uint8_t *value = (const uint8_t *) &match->flow;
    const uint8_t *mask = (const uint8_t *) &match->wc.masks;
    const uint8_t *common_value, *common_mask;
    struct match common;

    ct_merge_get_common_match(m, &common);
    common_value = (const uint8_t *) &common.flow;
    common_mask = (const uint8_t *) &common.wc.masks;
    for (size_t i = 0; i < sizeof match->flow; i++) {
        if (common_mask[i] & (~mask[i] | (value[i] ^ common_value[i]))) {
            return false;
        }
    }
    return true;
}

/* Makes 'rule' of 'm' and of what it makes of 'conns'. */
static enum ct_merge_reason
rule_init(struct rule *rule, struct ct_merge *m,
          const struct ct_merge_conn conns[], const struct ct_merge_rss *rss)
{
    struct ct_merge_path path;
    enum ct_merge_reason reason = ct_merge_instantiate(m, conns, rss, &path);

    if (!reason) {
        rule->m = m;
        ct_merge_get_match(m, &path, &rule->match);
        ovs_assert(is_common(m, &rule->match));
        ofpbuf_init(&rule->actions, 256);
        ct_merge_put_actions(m, &path, &rule->actions);
    }
    return reason;
}

static void
rule_uninit(struct rule *rule)
{
    ofpbuf_uninit(&rule->actions);
}

static bool
eth_matches(struct eth_addr a, struct eth_addr value, struct eth_addr mask)
{
    for (size_t i = 0; i < ARRAY_SIZE(a.be16); i++) {
        if ((a.be16[i] ^ value.be16[i]) & mask.be16[i]) {
            return false;
        }
    }
    return true;
}

/* Is 'packet' in the tunnel that 'rule' matches, as far as the match does not
 * say that?  If so, takes it out of that. */
static bool
rule_takes_tunnel(const struct rule *rule, struct dp_packet *packet)
{
    const struct ct_offload_tunnel *tunnel = &rule->m->tunnel;
    size_t size = dp_packet_size(packet);
    struct flow flow;

    ovs_assert(tunnel->type == outer.type);
    flow_extract(packet, &flow);
    if (flow.vlans[0].tci || flow.nw_frag || flow.nw_proto != IPPROTO_UDP
        || flow.dl_type != htons(tunnel->ipv6 ? ETH_TYPE_IPV6 : ETH_TYPE_IP)
        || !eth_matches(flow.dl_src, tunnel->src, tunnel->src_mask)
        || !eth_matches(flow.dl_dst, tunnel->dst, tunnel->dst_mask)) {
        return false;
    }
    decapsulate(packet, u32_to_odp(IN_PORT));
    return size - dp_packet_size(packet) == tunnel->header_len;
}

static bool
rule_takes(const struct rule *rule, const struct dp_packet *packet_)
{
    struct dp_packet *packet = dp_packet_clone(packet_);
    struct flow flow;
    bool takes;

    pkt_metadata_init(&packet->md, u32_to_odp(IN_PORT));
    takes = !rule->m->tunnel.type || rule_takes_tunnel(rule, packet);
    flow_extract(packet, &flow);
    takes &= flow_equal_except(&flow, &rule->match.flow, &rule->match.wc);
    dp_packet_delete(packet);
    return takes;
}

static void
run_rule(const struct rule *rule, struct run *run)
{
    struct flow flow;

    run->hard = true;
    flow_extract(run->packet, &flow);
    run_actions(run, rule->actions.data, rule->actions.size);
    run_finish(run);
}

static void OVS_NO_RETURN
fail_chain(const struct chain *chain, const struct ct_merge_conn conns[],
           const struct rule *rule,
           const struct dp_packet *wire, const struct run *soft,
           const struct run *hard, const char *what)
{
    struct ds ds = DS_EMPTY_INITIALIZER;

    for (size_t i = 0; i < chain->n_stages; i++) {
        const struct stage *stage = &chain->stages[i];
        struct match match;

        match_init(&match, &stage->key,
                   &(struct flow_wildcards) { .masks = stage->mask });
        ds_put_format(&ds, "megaflow %"PRIuSIZE": ", i);
        match_format(&match, NULL, &ds, 0);
        ds_put_cstr(&ds, "\n  actions: ");
        format_odp_actions(&ds, stage->actions.data, stage->actions.size,
                           NULL);
        ds_put_char(&ds, '\n');
    }
    for (size_t i = 0; i < chain->n_conns; i++) {
        const struct ct_merge_conn *conn = &conns[i];

        ds_put_format(&ds, "ct() %"PRIuSIZE": kind %d%s%s%s zone %d mark "
                      "%"PRIx32" ", i, conn->kind,
                      conn->reply ? " reply" : "", conn->snat ? " snat" : "",
                      conn->dnat ? " dnat" : "", chain->zones[i], conn->mark);
        if (conn->kind != CT_MERGE_MISS) {
            ct_dpif_format_tuple(&ds, &conn->tuple[0]);
            ds_put_cstr(&ds, " reply ");
            ct_dpif_format_tuple(&ds, &conn->tuple[1]);
        }
        ds_put_char(&ds, '\n');
    }
    if (rule) {
        ds_put_cstr(&ds, "rule: ");
        match_format(&rule->match, NULL, &ds, 0);
        ds_put_cstr(&ds, "\n  actions: ");
        format_odp_actions(&ds, rule->actions.data, rule->actions.size, NULL);
        ds_put_char(&ds, '\n');
    }
    if (wire) {
        ds_put_cstr(&ds, "packet:\n");
        ds_put_hex_dump(&ds, dp_packet_data(wire), dp_packet_size(wire), 0,
                        false);
    }
    if (soft) {
        ds_put_format(&ds, "software, to %"PRIu32":\n", soft->out_port);
        ds_put_hex_dump(&ds, dp_packet_data(soft->packet),
                        dp_packet_size(soft->packet), 0, false);
    }
    if (hard) {
        ds_put_format(&ds, "rule, to %"PRIu32":\n", hard->out_port);
        ds_put_hex_dump(&ds, dp_packet_data(hard->packet),
                        dp_packet_size(hard->packet), 0, false);
    }
    fputs(ds_cstr(&ds), stdout);
    fail("%s", what);
}

/* Packets beside the one that the chain was made with. */

/* Puts random bits into 'flow', except those in 'keep'. */
static void
mutate_flow(struct flow *flow, const struct flow *keep)
{
    static const struct {
        size_t ofs, size;
    } fields[] = {
#define FIELD(NAME) \
        { offsetof(struct flow, NAME), sizeof(((struct flow *) 0)->NAME) }
        FIELD(dl_src), FIELD(dl_dst), FIELD(nw_tos), FIELD(nw_ttl),
        FIELD(tcp_flags), FIELD(ipv6_label), FIELD(vlans[0].tci),
        FIELD(nw_src), FIELD(nw_dst), FIELD(ipv6_src), FIELD(ipv6_dst),
        FIELD(tp_src), FIELD(tp_dst),
#undef FIELD
    };
    uint32_t how = pick(3);

    for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
        uint8_t *value = (uint8_t *) flow + fields[i].ofs;
        const uint8_t *kept = (const uint8_t *) keep + fields[i].ofs;

        if (how == 0 || percent(20)) {
            uint8_t any[sizeof(struct in6_addr)];

            fill_random(any, fields[i].size);
            for (size_t j = 0; j < fields[i].size; j++) {
                value[j] = (value[j] & kept[j]) | (any[j] & ~kept[j]);
            }
        }
    }
    if (!keep->vlans[0].tpid && percent(20)) {
        flow->vlans[0].tpid = htons(ETH_TYPE_VLAN_8021AD);
    } else if (!flow->vlans[0].tpid) {
        flow->vlans[0].tpid = htons(ETH_TYPE_VLAN_8021Q);
    }
    flow->ipv6_label &= htonl(IPV6_LABEL_MASK);
    flow->tcp_flags &= htons(0xfff);
    if (flow->dl_type == htons(ETH_TYPE_IP)) {
        memset(&flow->ipv6_label, 0, sizeof flow->ipv6_label);
        memset(&flow->ipv6_src, 0, 2 * sizeof flow->ipv6_src);
    } else {
        flow->nw_src = flow->nw_dst = 0;
    }
}

/* Puts random bits into 'o', except those in 'keep'. */
static void
mutate_outer(struct outer *o, const struct ct_offload_tunnel *tunnel,
             const struct flow_tnl *keep)
{
    struct outer other = *o;
    uint8_t *values[] = { (uint8_t *) &o->src, (uint8_t *) &o->dst,
                          (uint8_t *) &o->tnl };
    const uint8_t *others[] = { (uint8_t *) &other.src, (uint8_t *) &other.dst,
                                (uint8_t *) &other.tnl };
    const uint8_t *kept[] = { (uint8_t *) &tunnel->src_mask,
                              (uint8_t *) &tunnel->dst_mask,
                              (uint8_t *) keep };
    const size_t sizes[] = { sizeof o->src, sizeof o->dst, sizeof o->tnl };
    struct flow_tnl *tnl = &other.tnl;

    random_outer(&other);
    other.type = o->type;
    if (o->tnl.ip_dst) {
        tnl->ip_src = tnl->ip_src ? tnl->ip_src : htonl(1);
        tnl->ip_dst = tnl->ip_dst ? tnl->ip_dst : htonl(1);
        memset(&tnl->ipv6_src, 0, sizeof tnl->ipv6_src);
        memset(&tnl->ipv6_dst, 0, sizeof tnl->ipv6_dst);
    } else {
        tnl->ip_src = tnl->ip_dst = 0;
    }
    /* The policy does not depend on these: there are as many megaflows. */
    tnl->flags &= FLOW_TNL_F_OAM;
    tnl->flags |= o->tnl.flags & ~FLOW_TNL_F_OAM;
    tnl->tp_dst = o->tnl.tp_dst;
    if (percent(80)) {
        tnl->metadata.present.len = o->tnl.metadata.present.len;
    }
    fill_random(tnl->metadata.opts.gnv, tnl->metadata.present.len);
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        for (size_t j = 0; j < sizes[i]; j++) {
            if (percent(30)) {
                values[i][j] = ((values[i][j] & kept[i][j])
                                | (others[i][j] & ~kept[i][j]));
            }
        }
    }
    if (o->type == CT_OFFLOAD_TUNNEL_VXLAN) {
        o->tnl.flags &= ~FLOW_TNL_F_OAM;
        o->tnl.metadata.present.len = 0;
    }
}

/* What a rule matches in any case, see ct-offload-merge.h. */
static void
always_matched(const struct flow *wire, struct flow *mask)
{
    memset(mask, 0, sizeof *mask);
    memset(&mask->nw_src, 0xff, 2 * sizeof mask->nw_src);
    memset(&mask->ipv6_src, 0xff, 2 * sizeof mask->ipv6_src);
    mask->tp_src = mask->tp_dst = OVS_BE16_MAX;
    mask->dl_type = OVS_BE16_MAX;
    mask->nw_proto = UINT8_MAX;
    mask->nw_frag = UINT8_MAX;
    mask->vlans[0].tci = mask->vlans[1].tci = htons(VLAN_CFI);
    mask->tunnel.tp_src = mask->tunnel.tp_dst = OVS_BE16_MAX;
    mask->tunnel.metadata.present.len = UINT8_MAX;
    if (wire->nw_proto == IPPROTO_TCP) {
        mask->tcp_flags = htons(TCP_SYN | TCP_FIN | TCP_RST | TCP_ACK);
    }
}

static void
make_other_flow(const struct flow *wire, const struct rule *rule,
                struct flow *flow, struct outer *o)
{
    struct flow keep;
    uint32_t p = pick(100);

    *flow = *wire;
    *o = outer;
    if (o->type && percent(60)) {
        struct ct_offload_tunnel tunnel = rule->m->tunnel;

        keep = rule->match.wc.masks;
        if (percent(30)) {
            /* The rule may take it. */
            memset(&tunnel, 0, sizeof tunnel);
            memset(&keep.tunnel, 0, sizeof keep.tunnel);
        }
        mutate_outer(o, &tunnel, &keep.tunnel);
        flow->tunnel = o->tnl;
        if (percent(50)) {
            return;
        }
    }
    if (p < 60) {
        /* The rule takes it. */
        mutate_flow(flow, &rule->match.wc.masks);
        return;
    } else if (p < 85) {
        /* The rule may take it. */
        always_matched(wire, &keep);
        if (percent(50)) {
            /* One bit is enough for it not to. */
            uint8_t *bytes = (uint8_t *) &keep + pick(sizeof keep);

            memset(&keep, 0xff, sizeof keep);
            *bytes &= ~(1 << pick(8));
        }
        mutate_flow(flow, &keep);
        return;
    }
    memset(&keep, 0xff, sizeof keep);
    switch (pick(5)) {
    case 0:
        if (flow->vlans[0].tci) {
            flow->vlans[0].tci = 0;
        } else {
            flow->vlans[0].tpid = htons(ETH_TYPE_VLAN_8021Q);
            flow->vlans[0].tci = htons(VLAN_CFI | pick(4096));
        }
        break;

    case 1:
        flow->vlans[0].tpid = flow->vlans[1].tpid = htons(ETH_TYPE_VLAN_8021Q);
        flow->vlans[0].tci |= htons(VLAN_CFI);
        flow->vlans[1].tci |= htons(VLAN_CFI);
        break;

    case 2:
        flow->nw_frag = FLOW_NW_FRAG_ANY;
        break;

    case 3:
        flow->tcp_flags ^= htons(1 << pick(12));
        break;

    case 4:
        flow->nw_proto ^= IPPROTO_TCP ^ IPPROTO_UDP;
        break;
    }
}

/* Statistics. */

static struct {
    unsigned long long int chains, compiled, cases, taken, refused_packets;
    unsigned long long int refused[CT_MERGE_N_REASONS];
    unsigned long long int paths, other_paths;
} n;

/* 'packet' is on the wire.  'flow' was extracted from it. */
static void
check_packet(const struct chain *chain, const struct rule *rule,
             const struct dp_packet *packet, const struct flow *wire)
{
    struct run soft, hard;

    n.cases++;
    if (rule_takes(rule, packet)) {
        n.taken++;
        run_init(&soft, packet, chain->run.rss.since);
        run_init(&hard, packet, chain->run.rss.since);
        run_rule(rule, &hard);
        if (!run_chain(chain, &soft, rule->m->size_diff)) {
            fail_chain(chain, chain->conns, rule, packet, &soft, NULL,
                       "the rule takes what megaflows do not");
        }
        run_finish(&soft);
        if (!run_has_same_cts(&soft, &chain->run)) {
            fail_chain(chain, chain->conns, rule, packet, &soft, NULL,
                       "ct() has another result");
        }
        if (soft.out_port != hard.out_port) {
            fail_chain(chain, chain->conns, rule, packet, &soft, &hard,
                       "another port");
        }
        if (soft.out_port != ODPP_NONE
            && !dp_packet_equal(soft.packet, hard.packet)) {
            fail_chain(chain, chain->conns, rule, packet, &soft, &hard,
                       "other bytes");
        }
        run_uninit(&soft);
        run_uninit(&hard);
    } else {
        const struct flow *made = chain_wire(chain);
        struct flow_wildcards always;

        always_matched(made, &always.masks);
        if (!flow_equal_except(wire, made, &always)) {
            return;
        }
        n.refused_packets++;
        run_init(&soft, packet, chain->run.rss.since);
        if (run_chain(chain, &soft, NULL)
            && run_has_same_cts(&soft, &chain->run)) {
            fail_chain(chain, chain->conns, rule, packet, &soft, NULL,
                       "the rule does not take what megaflows do");
        }
        run_uninit(&soft);
    }
}

/* Other paths through a chain. */

static void
rename_port(struct ct_dpif_tuple *tuple, ovs_be16 from, ovs_be16 to)
{
    if (tuple->src_port == from) {
        tuple->src_port = to;
    }
    if (tuple->dst_port == from) {
        tuple->dst_port = to;
    }
}

/* Makes a connection like 'known', but for another port. */
static bool
rename_conn(struct known_conn *known, ovs_be16 from, ovs_be16 to)
{
    struct ct_dpif_tuple old = known->conn.tuple[0];

    rename_port(&known->conn.tuple[0], from, to);
    if (known->nat.min_port == ntohs(from)) {
        known->nat.min_port = known->nat.max_port = ntohs(to);
    }
    return (tuple_equal(&old, &known->conn.tuple[0])
            ? known->nat.min_port != ntohs(to) : commit_conn(known));
}

/* Does 'conn' in 'zone' have the mark and the label that conntrack has? */
static bool
conn_is_unchanged(uint16_t zone, const struct ct_merge_conn *conn)
{
    struct ct_dpif_entry entry;

    return (conn->kind == CT_MERGE_MISS
            || (find_conn(zone, &conn->tuple[0], &entry)
                && entry.mark == conn->mark
                && ovs_u128_equals(entry.labels, conn->label)));
}

/* Gives 'known' another mark or label. */
static bool
mark_conn(struct known_conn *known)
{
    struct ct_merge_conn *conn = &known->conn;

    if (percent(50)) {
        conn->mark ^= 1;
    } else {
        conn->label.u64.lo ^= 2;
    }
    /* It is another one's packet if two connections have the same tuple. */
    return (ct_packet(&conn->tuple[0], TCP_ACK, true, known->zone, conn->mark,
                      conn->label, NULL)
            && conn_is_unchanged(known->zone, conn));
}

/* Makes the connections of another path through 'chain', and in '*flow' what
 * its packets are.  Fails if that is not possible. */
static bool
make_other_path(const struct chain *chain, struct ct_merge_conn conns[],
                struct flow *flow)
{
    struct known_conn known[CT_MERGE_MAX_CONNS];
    bool rename = percent(70);
    uint32_t marked = chain->n_known ? pick(chain->n_known) : 0;
    struct ct_dpif_tuple tuple;
    ovs_be16 from, to;

    *flow = *chain_wire(chain);
    tuple = flow_to_tuple(flow);
    from = percent(50) ? tuple.src_port : tuple.dst_port;
    to = from ^ htons(1 << pick(16));
    if (rename) {
        flow->tp_src = flow->tp_src == from ? to : flow->tp_src;
        flow->tp_dst = flow->tp_dst == from ? to : flow->tp_dst;
    }
    memcpy(known, chain->known, sizeof known);
    for (size_t i = 0; i < chain->n_known; i++) {
        struct ct_dpif_entry entry;

        if (find_conn(known[i].zone, &known[i].conn.tuple[0], &entry)) {
            known[i].conn.mark = entry.mark;
            known[i].conn.label = entry.labels;
        }
        if (rename ? !rename_conn(&known[i], from, to)
            : i == marked && !mark_conn(&known[i])) {
            return false;
        }
    }
    for (size_t i = 0; i < chain->n_conns; i++) {
        conns[i] = chain->conns[i];
        if (conns[i].kind != CT_MERGE_MISS) {
            conns[i] = known[chain->conn_known[i]].conn;
            conns[i].reply = chain->conns[i].reply;
        }
        if (ct_merge_conn_shape(&conns[i])
            != ct_merge_conn_shape(&chain->conns[i])) {
            return false;
        }
    }
    return true;
}

/* Sends a packet of another path through 'chain' in software.  Returns whether
 * it is one that hardware could take as well: ct() finds the same, and changes
 * nothing.  'rule', if nonnull, must have the same result. */
static bool
run_other_path(const struct chain *chain, const struct ct_merge_conn conns[],
               const struct rule *rule, const struct dp_packet *packet)
{
    struct run soft, hard;
    bool same;

    run_init(&soft, packet, chain->run.rss.since);
    same = (run_chain(chain, &soft, NULL) && soft.n_cts == chain->n_conns);
    for (size_t i = 0; same && i < chain->n_conns; i++) {
        const struct ct_dpif_tuple *orig = &conns[i].tuple[0];
        struct ct_dpif_tuple tuple = result_tuple(&soft.cts[i], orig);

        same = (soft.cts[i].state == chain->run.cts[i].state
                && (conns[i].kind == CT_MERGE_MISS
                    || tuple_equal(&tuple, orig))
                && conn_is_unchanged(chain->zones[i], &conns[i]));
    }
    if (rule && same) {
        run_init(&hard, packet, chain->run.rss.since);
        run_rule(rule, &hard);
        run_finish(&soft);
        if (soft.out_port != hard.out_port
            || (soft.out_port != ODPP_NONE
                && !dp_packet_equal(soft.packet, hard.packet))) {
            fail_chain(chain, conns, rule, packet, &soft, &hard,
                       "the rule for another path is wrong");
        }
        run_uninit(&hard);
    }
    run_uninit(&soft);
    return same;
}

/* The compiled 'm' for other connections. */
static void
check_other_path(const struct chain *chain, struct ct_merge *m)
{
    struct ct_merge_conn conns[CT_MERGE_MAX_CONNS];
    enum ct_merge_reason reason;
    struct dp_packet *packet;
    struct rule rule;
    struct flow flow;
    bool taken, same;
    struct run run;

    if (!make_other_path(chain, conns, &flow)) {
        return;
    }
    packet = compose_wire(&flow, &outer);
    run_init(&run, packet, chain->run.rss.since);
    run_chain(chain, &run, NULL);
    reason = rule_init(&rule, m, conns, &run.rss);
    run_uninit(&run);
    taken = !reason && rule_takes(&rule, packet);
    same = run_other_path(chain, conns, taken ? &rule : NULL, packet);
    if (same != taken) {
        fail_chain(chain, conns, reason ? NULL : &rule, packet, NULL, NULL,
                   reason ? ct_merge_reason_to_string(reason)
                   : "another path is not one");
    }
    n.other_paths += taken;
    if (!reason) {
        rule_uninit(&rule);
    }
    n.paths++;
    dp_packet_delete(packet);
}

/* Does 'packet', which has made 'chain', go through it again?  Connections
 * that were made on its way may have changed what an earlier ct() finds.
 * Notes the RSS hash that it has when it goes through all at once. */
static bool
chain_is_stable(struct chain *chain, const struct dp_packet *packet)
{
    struct run run;
    bool stable;

    run_init(&run, packet, chain->run.rss.since);
    stable = (run_chain(chain, &run, NULL)
              && run_has_same_cts(&run, &chain->run));
    chain->run.rss = run.rss;
    run_uninit(&run);
    return stable;
}

/* Makes a chain and checks about 'n_packets' packets. */
static void
check_chain(int n_packets)
{
    size_t rss_since = CT_MERGE_MAX_FLOWS;
    enum ct_merge_reason reason;
    struct dp_packet *packet;
    struct ct_merge *m;
    struct chain chain;
    struct rule rule;
    struct flow flow;

    n_chains++;
    now = time_msec();
    random_flow(&flow);
    memset(&outer, 0, sizeof outer);
    if (percent(25)) {
        random_outer(&outer);
        flow.tunnel = outer.tnl;
    }
    packet = compose_wire(&flow, &outer);
    if (outer.type) {
        /* What comes out has none before its flow is extracted. */
        if (flow.dl_type == htons(ETH_TYPE_IP) && percent(50)) {
            rss_since = 1;
        }
    } else if (dp_packet_rss_valid(packet) && percent(50)) {
        rss_since = pick(3);
    }
    chain_init(&chain, packet, rss_since);
    if (chain.failed || !chain_is_stable(&chain, packet)) {
        goto out;
    }
    n.chains++;

    reason = chain_compile(&chain, chain.conns, &m);
    if (!reason) {
        reason = rule_init(&rule, m, chain.conns, &chain.run.rss);
    }
    n.refused[reason]++;
    if (!reason) {
        n.compiled++;
        if (!rule_takes(&rule, packet)) {
            fail_chain(&chain, chain.conns, &rule, packet, NULL, NULL,
                       "the rule does not take its own packet");
        }
        check_packet(&chain, &rule, packet, &flow);
        while (--n_packets > 0) {
            struct outer other_outer;
            struct dp_packet *other;
            struct flow other_flow;

            make_other_flow(chain_wire(&chain), &rule, &other_flow,
                            &other_outer);
            other = compose_wire(&other_flow, &other_outer);
            check_packet(&chain, &rule, other, &other_flow);
            dp_packet_delete(other);
        }
        rule_uninit(&rule);
        if (!chain.odd) {
            check_other_path(&chain, m);
        }
    } else if (!chain.odd && (reason == CT_MERGE_INCONSISTENT
                                  || reason == CT_MERGE_BROKEN
                                  || reason == CT_MERGE_CT_TUPLE)) {
        fail_chain(&chain, chain.conns, NULL, packet, NULL, NULL,
                   ct_merge_reason_to_string(reason));
    }
    ct_merge_destroy(m);

out:
    chain_uninit(&chain);
    dp_packet_delete(packet);
    for (uint16_t zone = 0; zone < N_ZONES; zone++) {
        conntrack_flush(ct, &zone);
    }
    ovsrcu_quiesce();
}

static void
cmd_random(struct ovs_cmdl_context *ctx)
{
    unsigned long long int cases;

    if (!strcmp(ctx->argv[1], "random")) {
        seed = random_uint32();
    } else if (!str_to_uint(ctx->argv[1], 0, &seed)) {
        ovs_fatal(0, "%s: not a seed", ctx->argv[1]);
    }
    if (!str_to_ullong(ctx->argv[2], 0, &cases)) {
        ovs_fatal(0, "%s: not a number", ctx->argv[2]);
    }
    printf("seed %u\n", seed);
    fflush(stdout);

    rng = seed;
    random_set_seed(seed ? seed : 1);
    flow_limit_vlans(FLOW_MAX_VLAN_HEADERS);
    ct = conntrack_init();
    conntrack_set_tcp_seq_chk(ct, false);
    while (n.cases < cases) {
        check_chain(20);
    }
    conntrack_destroy(ct);

    printf("%llu packets, %llu of them taken by a rule, %llu almost\n"
           "%llu paths, %llu of them good\n"
           "%llu chains\n", n.cases, n.taken, n.refused_packets, n.paths,
           n.other_paths, n.chains);
    for (int i = 0; i < CT_MERGE_N_REASONS; i++) {
        if (n.refused[i]) {
            printf("  %llu %s\n", n.refused[i],
                   i ? ct_merge_reason_to_string(i) : "compiled");
        }
    }
    /* Is it a test at all? */
    if (n.compiled < n.chains / 4 || n.taken < n.cases / 2) {
        fail("too few chains are compiled, or packets taken");
    }
}

/* Chains in a file. */

/* A chain as it is read. */
struct text_chain {
    struct flow keys[CT_MERGE_MAX_FLOWS + 2];
    struct flow masks[CT_MERGE_MAX_FLOWS + 2];
    struct ofpbuf actions[CT_MERGE_MAX_FLOWS + 2];
    size_t n_flows;
    struct ct_merge_conn conns[CT_MERGE_MAX_CONNS + 2];
    size_t n_conns;
    struct ct_merge_vport vport;
};

/* "tcp,SRC,SPORT,DST,DPORT" */
static bool
parse_tuple(char *s, struct ct_dpif_tuple *t)
{
    char *save = NULL;
    char *proto = strtok_r(s, ",", &save);
    char *src = strtok_r(NULL, ",", &save);
    char *sport = strtok_r(NULL, ",", &save);
    char *dst = strtok_r(NULL, ",", &save);
    char *dport = strtok_r(NULL, ",", &save);

    if (!dport) {
        return false;
    }
    memset(t, 0, sizeof *t);
    t->ip_proto = (!strcmp(proto, "tcp") ? IPPROTO_TCP
                   : !strcmp(proto, "udp") ? IPPROTO_UDP : IPPROTO_SCTP);
    t->src_port = htons(atoi(sport));
    t->dst_port = htons(atoi(dport));
    if (ip_parse(src, &t->src.ip) && ip_parse(dst, &t->dst.ip)) {
        t->l3_type = AF_INET;
        return true;
    }
    t->l3_type = AF_INET6;
    return (ipv6_parse(src, &t->src.in6) && ipv6_parse(dst, &t->dst.in6));
}

/* The words after "ct": what is known of a connection, and its tuples. */
static void
parse_conn(char *s, struct ct_merge_conn *conn)
{
    char *save = NULL;
    int n_tuples = 0;

    memset(conn, 0, sizeof *conn);
    for (char *word = strtok_r(s, " ", &save); word;
         word = strtok_r(NULL, " ", &save)) {
        if (!strcmp(word, "miss")) {
            conn->kind = CT_MERGE_MISS;
        } else if (!strcmp(word, "one-way")) {
            conn->kind = CT_MERGE_ONE_WAY;
        } else if (!strcmp(word, "reply")) {
            conn->reply = true;
        } else if (!strcmp(word, "snat")) {
            conn->snat = true;
        } else if (!strcmp(word, "dnat")) {
            conn->dnat = true;
        } else if (!strcmp(word, "related")) {
            conn->related = true;
        } else if (!strncmp(word, "mark=", 5)) {
            conn->mark = strtoul(word + 5, NULL, 0);
        } else if (!strncmp(word, "label=", 6)) {
            conn->label.u64.lo = strtoull(word + 6, NULL, 0);
        } else if (n_tuples == 3 || !parse_tuple(word, (n_tuples == 2
                                                        ? &conn->parent
                                                        : &conn->tuple
                                                          [n_tuples]))) {
            ovs_fatal(0, "%s: bad word", word);
        } else {
            n_tuples++;
        }
    }
    if (n_tuples == 1) {
        conn->tuple[1] = reverse(&conn->tuple[0]);
    }
}

static void
parse_flow(const char *s, struct flow *key, struct flow *mask)
{
    struct flow_wildcards wc;
    struct ofpbuf k, m;
    char *error = NULL;

    ofpbuf_init(&k, 0);
    ofpbuf_init(&m, 0);
    if (odp_flow_from_string(s, NULL, &k, &m, &error)
        || odp_flow_key_to_flow(k.data, k.size, key, &error) == ODP_FIT_ERROR
        || odp_flow_key_to_mask(m.data, m.size, &wc, key, &error)
           == ODP_FIT_ERROR) {
        ovs_fatal(0, "%s: %s", s, error);
    }
    *mask = wc.masks;
    /* As dpif-netdev does. */
    if (!mask->vlans[0].tci) {
        mask->vlans[0].tci = OVS_BE16_MAX;
    }
    ofpbuf_uninit(&k);
    ofpbuf_uninit(&m);
}

/* Parses 's' as odp_actions_from_string() does, which does not know hash(). */
static void
parse_actions(char *s, struct ofpbuf *actions)
{
    struct ovs_action_hash hash;
    char *p = strstr(s, "hash(");
    int len = 0;

    if (p) {
        *p = '\0';
    }
    if (odp_actions_from_string(s, NULL, actions)) {
        ovs_fatal(0, "%s: bad actions", s);
    }
    if (p) {
        p += strlen("hash(");
        hash.hash_alg = *p == 'l' ? OVS_HASH_ALG_L4 : OVS_HASH_ALG_SYM_L4;
        p += strcspn(p, "(");
        if (!ovs_scan(p, "(%"SCNi32"))%n", &hash.hash_basis, &len)) {
            ovs_fatal(0, "%s: bad hash", p);
        }
        nl_msg_put_unspec(actions, OVS_ACTION_ATTR_HASH, &hash, sizeof hash);
        parse_actions(p + len, actions);
    }
}

/* Prints what becomes of 'tc', and empties it. */
static void
finish_text_chain(struct text_chain *tc)
{
    struct ct_merge_flow flows[ARRAY_SIZE(tc->keys)];
    struct ds ds = DS_EMPTY_INITIALIZER;
    enum ct_merge_reason reason;
    struct ct_merge *m;
    struct rule rule;

    for (size_t i = 0; i < tc->n_flows; i++) {
        flows[i].key = &tc->keys[i];
        flows[i].mask = &tc->masks[i];
        flows[i].actions = tc->actions[i].data;
        flows[i].actions_len = tc->actions[i].size;
    }
    reason = ct_merge_create(flows, tc->n_flows, tc->conns, tc->n_conns,
                             tc->vport, &m);
    if (!reason) {
        reason = rule_init(&rule, m, tc->conns, NULL);
    }
    if (reason) {
        printf("  refused: %s\n", ct_merge_reason_to_string(reason));
    } else {
        ct_offload_match_format(&rule.match, &m->tunnel, &ds);
        printf("  %s\n", ds_cstr(&ds));
        ds_clear(&ds);
        format_odp_actions(&ds, rule.actions.data, rule.actions.size, NULL);
        printf("  => %s\n", ds_cstr(&ds));
        for (size_t i = 0; i < m->n_flows; i++) {
            if (m->size_diff[i]) {
                printf("  bytes at megaflow %"PRIuSIZE": %+d\n", i,
                       m->size_diff[i]);
            }
        }
        rule_uninit(&rule);
    }
    ct_merge_destroy(m);
    ds_destroy(&ds);
    for (size_t i = 0; i < tc->n_flows; i++) {
        ofpbuf_uninit(&tc->actions[i]);
    }
    memset(tc, 0, sizeof *tc);
}

/* Reads chains, and prints what becomes of them.  Each is some lines, and
 * then an empty one:
 *
 *     chain NAME
 *     tunnel geneve|vxlan PORT      if the first megaflow pops for that port
 *     ct [miss|one-way] [reply] [snat] [dnat] [mark=N] [label=N]
 *        TUPLE [REPLY-TUPLE [related PARENT-TUPLE]]     for each ct() action
 *     flow FLOW                                         for each megaflow
 *     actions ACTIONS
 *
 * The reply tuple is the reverse one if it is not given. */
static void
cmd_chains(struct ovs_cmdl_context *ctx)
{
    struct ds line = DS_EMPTY_INITIALIZER;
    FILE *f = fopen(ctx->argv[1], "r");
    struct text_chain *tc = xzalloc(sizeof *tc);
    bool started = false;

    if (!f) {
        ovs_fatal(errno, "%s", ctx->argv[1]);
    }
    for (;;) {
        bool eof = ds_get_line(&line, f);
        char *s = ds_cstr(&line);

        if (eof || !*s) {
            if (started) {
                finish_text_chain(tc);
                started = false;
            }
            if (eof) {
                break;
            }
        } else if (!strncmp(s, "chain ", 6)) {
            puts(s + 6);
            started = true;
        } else if (!strncmp(s, "tunnel ", 7)) {
            tc->vport.type = (s[7] == 'g' ? CT_OFFLOAD_TUNNEL_GENEVE
                              : CT_OFFLOAD_TUNNEL_VXLAN);
            tc->vport.port = u32_to_odp(atoi(strrchr(s, ' ')));
        } else if (!strncmp(s, "ct ", 3)) {
            parse_conn(s + 3, &tc->conns[tc->n_conns++]);
        } else if (!strncmp(s, "flow ", 5)) {
            parse_flow(s + 5, &tc->keys[tc->n_flows],
                       &tc->masks[tc->n_flows]);
        } else if (!strncmp(s, "actions ", 8)) {
            struct ofpbuf *actions = &tc->actions[tc->n_flows++];

            ofpbuf_init(actions, 0);
            parse_actions(s + 8, actions);
        } else {
            ovs_fatal(0, "%s: bad line", s);
        }
        ovs_assert(tc->n_flows < ARRAY_SIZE(tc->keys)
                   && tc->n_conns < ARRAY_SIZE(tc->conns));
    }
    fclose(f);
    free(tc);
    ds_destroy(&line);
}

static const struct ovs_cmdl_command commands[] = {
    {"random", "SEED PACKETS", 2, 2, cmd_random, OVS_RO},
    {"chains", "FILE", 1, 1, cmd_chains, OVS_RO},
    {NULL, NULL, 0, 0, NULL, OVS_RO},
};

static void
test_ct_offload_merge_main(int argc, char *argv[])
{
    struct ovs_cmdl_context ctx = {
        .argc = argc - 1,
        .argv = argv + 1,
    };

    set_program_name(argv[0]);
    ovs_cmdl_run_command(&ctx, commands);
}

OVSTEST_REGISTER("test-ct-offload-merge", test_ct_offload_merge_main);
