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
#undef NDEBUG

#include "ct-offload-wire.h"

#include <netinet/in.h>
#include <netinet/ip6.h>
#include <string.h>

#include "conntrack.h"
#include "csum.h"
#include "ct-offload.h"
#include "dp-packet.h"
#include "flow.h"
#include "ovstest.h"
#include "packets.h"
#include "timeval.h"
#include "util.h"

/* Packets of every kind that has a fingerprint. */

enum tags { NO_TAG, TAG, TAG_AD, TWO_TAGS, N_TAGS };

struct kind {
    uint16_t dl_type;
    uint8_t proto;
    enum tags tags;
};

static const uint8_t protos[] = {
    IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP, IPPROTO_ICMP, IPPROTO_GRE,
};

#define N_KINDS (2 * ARRAY_SIZE(protos) * N_TAGS)

static struct kind
kind_number(size_t n)
{
    uint8_t proto = protos[n / 2 / N_TAGS];
    bool ipv6 = n & 1;

    return (struct kind) {
        .dl_type = ipv6 ? ETH_TYPE_IPV6 : ETH_TYPE_IP,
        .proto = (ipv6 && proto == IPPROTO_ICMP ? IPPROTO_ICMPV6 : proto),
        .tags = n / 2 % N_TAGS,
    };
}

static bool
kind_is_icmp(const struct kind *kind)
{
    return kind->proto == IPPROTO_ICMP || kind->proto == IPPROTO_ICMPV6;
}

static bool
kind_has_ports(const struct kind *kind)
{
    return !kind_is_icmp(kind) && kind->proto != IPPROTO_GRE;
}

static void
push_tag(struct dp_packet *packet, uint16_t tpid, uint16_t tci)
{
    eth_push_vlan(packet, htons(tpid), htons(tci | VLAN_CFI));
}

/* Enough to be worth a fragment: see 'min_v4_frag_size'. */
#define PAYLOAD_LEN 1600

/* Returns a packet of 'kind', without metadata. */
static struct dp_packet *
compose(const struct kind *kind)
{
    struct dp_packet *packet = dp_packet_new(0);
    struct flow flow;

    memset(&flow, 0, sizeof flow);
    flow.dl_type = htons(kind->dl_type);
    flow.nw_proto = kind->proto;
    flow.nw_ttl = 64;
    flow.nw_src = htonl(0x0a000001);
    flow.nw_dst = htonl(0x0a000002);
    if (kind->dl_type == ETH_TYPE_IPV6) {
        in6_addr_set_mapped_ipv4(&flow.ipv6_src, flow.nw_src);
        in6_addr_set_mapped_ipv4(&flow.ipv6_dst, flow.nw_dst);
        flow.nw_src = flow.nw_dst = 0;
    }
    flow.tp_src = htons(1);
    flow.tp_dst = htons(2);
    if (kind_is_icmp(kind)) {
        flow.tp_src = htons(kind->proto == IPPROTO_ICMP ? ICMP4_ECHO_REQUEST
                            : ICMP6_ECHO_REQUEST);
        flow.tp_dst = 0;
    }
    flow_compose(packet, &flow, NULL, PAYLOAD_LEN, false);
    if (kind->tags != NO_TAG) {
        push_tag(packet, (kind->tags == TAG_AD ? ETH_TYPE_VLAN_8021AD
                          : ETH_TYPE_VLAN_8021Q), 5);
    }
    if (kind->tags == TWO_TAGS) {
        push_tag(packet, ETH_TYPE_VLAN_8021AD, 6);
    }
    return packet;
}

/* 'packet' is received, and parsed. */
static void
receive(struct dp_packet *packet)
{
    struct flow flow;

    pkt_metadata_init(&packet->md, u32_to_odp(1));
    ct_offload_wire_receive(packet, true);
    flow_extract(packet, &flow);
}

static struct dp_packet *
compose_received(const struct kind *kind)
{
    struct dp_packet *packet = compose(kind);

    receive(packet);
    return packet;
}

/* Changes to a packet of a kind. */

struct change {
    const char *name;
    bool same;                  /* Does hardware match the packet as before? */
    bool (*make)(struct dp_packet *, const struct kind *);
};

static bool
change_nothing(struct dp_packet *packet OVS_UNUSED,
               const struct kind *kind OVS_UNUSED)
{
    return true;
}

static bool
change_macs(struct dp_packet *packet, const struct kind *kind OVS_UNUSED)
{
    struct eth_header *eth = dp_packet_eth(packet);

    eth_addr_random(&eth->eth_src);
    eth_addr_random(&eth->eth_dst);
    return true;
}

static bool
change_ttl(struct dp_packet *packet, const struct kind *kind)
{
    if (kind->dl_type == ETH_TYPE_IP) {
        struct ip_header *ip = dp_packet_l3(packet);

        ip->ip_ttl--;
        ip->ip_tos = 0xfc;
        ip->ip_id = htons(77);
    } else {
        struct ovs_16aligned_ip6_hdr *ip = dp_packet_l3(packet);

        ip->ip6_hlim--;
        put_16aligned_be32(&ip->ip6_flow, htonl(0x6fc12345));
    }
    return true;
}

static bool
change_metadata(struct dp_packet *packet, const struct kind *kind OVS_UNUSED)
{
    packet->md.skb_priority = 1;
    packet->md.pkt_mark = 2;
    packet->md.recirc_id = 3;
    packet->md.ct_state = CS_TRACKED;
    packet->md.in_port.odp_port = u32_to_odp(4);
    return true;
}

static bool
change_payload(struct dp_packet *packet, const struct kind *kind)
{
    if (kind->proto == IPPROTO_GRE) {
        return false;
    }
    *((char *) dp_packet_tail(packet) - 1) ^= 1;
    return true;
}

/* Of the outer tag. */
static bool
change_priority(struct dp_packet *packet, const struct kind *kind)
{
    struct vlan_eth_header *veh = dp_packet_eth(packet);

    if (kind->tags == NO_TAG) {
        return false;
    }
    veh->veth_tci ^= htons(VLAN_PCP_MASK | VLAN_CFI);
    return true;
}

static bool
change_vid(struct dp_packet *packet, const struct kind *kind)
{
    struct vlan_eth_header *veh = dp_packet_eth(packet);

    if (kind->tags == NO_TAG) {
        return false;
    }
    veh->veth_tci ^= htons(1);
    return true;
}

static bool
change_inner_vid(struct dp_packet *packet, const struct kind *kind)
{
    struct vlan_eth_header *veh = dp_packet_eth(packet);
    struct vlan_header *inner = (struct vlan_header *) (veh + 1);

    if (kind->tags != TWO_TAGS) {
        return false;
    }
    inner->vlan_tci ^= htons(1);
    return true;
}

static bool
change_tpid(struct dp_packet *packet, const struct kind *kind)
{
    struct vlan_eth_header *veh = dp_packet_eth(packet);

    if (kind->tags == NO_TAG) {
        return false;
    }
    veh->veth_type ^= htons(ETH_TYPE_VLAN_8021Q ^ ETH_TYPE_VLAN_8021AD);
    return true;
}

static bool
change_push_vlan(struct dp_packet *packet, const struct kind *kind OVS_UNUSED)
{
    push_tag(packet, ETH_TYPE_VLAN_8021Q, 0);
    return true;
}

static bool
change_pop_vlan(struct dp_packet *packet, const struct kind *kind)
{
    eth_pop_vlan(packet);
    return kind->tags != NO_TAG;
}

static bool
change_push_pop_vlan(struct dp_packet *packet, const struct kind *kind)
{
    change_push_vlan(packet, kind);
    eth_pop_vlan(packet);
    return true;
}

static bool
change_push_mpls(struct dp_packet *packet, const struct kind *kind OVS_UNUSED)
{
    push_mpls(packet, htons(ETH_TYPE_MPLS), htonl(0x1100));
    return true;
}

static bool
change_push_pop_mpls(struct dp_packet *packet, const struct kind *kind)
{
    change_push_mpls(packet, kind);
    pop_mpls(packet, htons(kind->dl_type));
    return true;
}

static void
set_addr(struct dp_packet *packet, const struct kind *kind, bool dst, int n)
{
    if (kind->dl_type == ETH_TYPE_IP) {
        struct ip_header *ip = dp_packet_l3(packet);

        packet_set_ipv4_addr(packet, dst ? &ip->ip_dst : &ip->ip_src,
                             htonl(0x0a000000 + n));
    } else {
        struct ovs_16aligned_ip6_hdr *ip = dp_packet_l3(packet);
        struct in6_addr addr;

        in6_addr_set_mapped_ipv4(&addr, htonl(0x0a000000 + n));
        packet_set_ipv6_addr(packet, kind->proto,
                             dst ? ip->ip6_dst.be32 : ip->ip6_src.be32,
                             &addr, true);
    }
}

static bool
change_source(struct dp_packet *packet, const struct kind *kind)
{
    set_addr(packet, kind, false, 3);
    return true;
}

static bool
change_destination(struct dp_packet *packet, const struct kind *kind)
{
    set_addr(packet, kind, true, 3);
    return true;
}

static bool
change_there_and_back(struct dp_packet *packet, const struct kind *kind)
{
    change_source(packet, kind);
    set_addr(packet, kind, false, 1);
    return true;
}

static bool
change_swap_addrs(struct dp_packet *packet, const struct kind *kind)
{
    set_addr(packet, kind, false, 2);
    set_addr(packet, kind, true, 1);
    return true;
}

/* The first 16 bits of an IPv6 address count as well as the last ones. */
static bool
change_prefix(struct dp_packet *packet, const struct kind *kind)
{
    struct ovs_16aligned_ip6_hdr *ip = dp_packet_l3(packet);

    if (kind->dl_type != ETH_TYPE_IPV6) {
        return false;
    }
    put_16aligned_be32(&ip->ip6_src.be32[0], htonl(0xfe800000));
    return true;
}

static bool
change_proto(struct dp_packet *packet, const struct kind *kind)
{
    /* So that what is behind the IP header counts the same. */
    uint8_t proto = (kind->proto == IPPROTO_UDP ? IPPROTO_TCP
                     : kind->proto == IPPROTO_GRE ? IPPROTO_ESP
                     : kind->proto == IPPROTO_ICMP ? IPPROTO_ICMPV6
                     : kind->proto == IPPROTO_ICMPV6 ? IPPROTO_ICMP
                     : IPPROTO_UDP);

    if (kind->dl_type == ETH_TYPE_IP) {
        ((struct ip_header *) dp_packet_l3(packet))->ip_proto = proto;
    } else {
        ((struct ovs_16aligned_ip6_hdr *) dp_packet_l3(packet))->ip6_nxt
            = proto;
    }
    return true;
}

static bool
set_ports(struct dp_packet *packet, const struct kind *kind, int src, int dst)
{
    ovs_be16 *ports = dp_packet_l4(packet);

    if (!kind_has_ports(kind)) {
        return false;
    }
    ports[0] = htons(src);
    ports[1] = htons(dst);
    return true;
}

static bool
change_source_port(struct dp_packet *packet, const struct kind *kind)
{
    return set_ports(packet, kind, 3, 2);
}

static bool
change_destination_port(struct dp_packet *packet, const struct kind *kind)
{
    return set_ports(packet, kind, 1, 3);
}

static bool
change_swap_ports(struct dp_packet *packet, const struct kind *kind)
{
    return set_ports(packet, kind, 2, 1);
}

static bool
change_icmp_id(struct dp_packet *packet, const struct kind *kind)
{
    struct icmp_header *icmp = dp_packet_l4(packet);

    if (!kind_is_icmp(kind)) {
        return false;
    }
    icmp->icmp_fields.echo.id ^= htons(1);
    return true;
}

static bool
change_icmp_type(struct dp_packet *packet, const struct kind *kind)
{
    struct icmp_header *icmp = dp_packet_l4(packet);

    if (!kind_is_icmp(kind)) {
        return false;
    }
    icmp->icmp_type ^= 1;
    return true;
}

static bool
change_icmp_seq(struct dp_packet *packet, const struct kind *kind)
{
    struct icmp_header *icmp = dp_packet_l4(packet);

    if (!kind_is_icmp(kind)) {
        return false;
    }
    icmp->icmp_fields.echo.seq ^= htons(1);
    icmp->icmp_csum ^= htons(1);
    return true;
}

/* As when a packet is encapsulated: netdev_push_header(). */
static bool
change_new_metadata(struct dp_packet *packet,
                    const struct kind *kind OVS_UNUSED)
{
    pkt_metadata_init(&packet->md, u32_to_odp(1));
    return true;
}

/* As when a packet is decapsulated. */
static bool
change_tunnel_metadata(struct dp_packet *packet,
                       const struct kind *kind OVS_UNUSED)
{
    pkt_metadata_init_tnl(&packet->md);
    return true;
}

static bool
change_not_ethernet(struct dp_packet *packet,
                    const struct kind *kind OVS_UNUSED)
{
    packet->packet_type = htonl(PT_IPV4);
    return true;
}

static const struct change changes[] = {
    { "nothing", true, change_nothing },
    { "MAC addresses", true, change_macs },
    { "TTL, TOS, ID, label", true, change_ttl },
    { "metadata", true, change_metadata },
    { "payload", true, change_payload },
    { "VLAN priority", true, change_priority },
    { "push and pop VLAN", true, change_push_pop_vlan },
    { "push and pop MPLS", true, change_push_pop_mpls },
    { "address there and back", true, change_there_and_back },
    { "ICMP sequence number", true, change_icmp_seq },

    { "VID", false, change_vid },
    { "inner VID", false, change_inner_vid },
    { "TPID", false, change_tpid },
    { "push VLAN", false, change_push_vlan },
    { "pop VLAN", false, change_pop_vlan },
    { "push MPLS", false, change_push_mpls },
    { "source", false, change_source },
    { "destination", false, change_destination },
    { "addresses swapped", false, change_swap_addrs },
    { "prefix", false, change_prefix },
    { "protocol", false, change_proto },
    { "source port", false, change_source_port },
    { "destination port", false, change_destination_port },
    { "ports swapped", false, change_swap_ports },
    { "ICMP identifier", false, change_icmp_id },
    { "ICMP type", false, change_icmp_type },
    { "new metadata", false, change_new_metadata },
    { "tunnel metadata", false, change_tunnel_metadata },
    { "not Ethernet", false, change_not_ethernet },
};

static void
test_changes(void)
{
    for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
        const struct change *change = &changes[i];
        size_t n = 0;

        for (size_t j = 0; j < N_KINDS; j++) {
            struct kind kind = kind_number(j);
            struct dp_packet *packet = compose_received(&kind);
            struct dp_packet *clone = dp_packet_clone(packet);

            ovs_assert(ct_offload_wire_is_known(packet));
            ovs_assert(ct_offload_wire_is_same(packet));
            if (change->make(packet, &kind)) {
                n++;
                if (ct_offload_wire_is_same(packet) != change->same) {
                    ovs_fatal(0, "%s: kind %"PRIuSIZE" is %s", change->name,
                              j, change->same ? "not the same" : "the same");
                }
            }
            ovs_assert(ct_offload_wire_is_same(clone));
            dp_packet_delete(packet);
            dp_packet_delete(clone);
        }
        ovs_assert(n);
    }
}

/* No two kinds have the same fingerprint. */
static void
test_kinds(void)
{
    uint32_t fingerprints[N_KINDS];

    for (size_t i = 0; i < N_KINDS; i++) {
        struct kind kind = kind_number(i);
        struct dp_packet *packet = compose(&kind);

        fingerprints[i] = ct_offload_wire_fingerprint(packet);
        ovs_assert(fingerprints[i]);
        for (size_t j = 0; j < i; j++) {
            ovs_assert(fingerprints[i] != fingerprints[j]);
        }
        dp_packet_delete(packet);
    }
}

/* Packets without a fingerprint. */

static void
check_unknown(struct dp_packet *packet)
{
    pkt_metadata_init(&packet->md, u32_to_odp(1));
    ct_offload_wire_receive(packet, true);
    ovs_assert(!ct_offload_wire_is_known(packet));
    ovs_assert(!ct_offload_wire_is_same(packet));
    dp_packet_delete(packet);
}

/* No byte is read that is not there: the packets are on the heap, for the
 * sanitizers to see. */
static void
test_short(void)
{
    for (size_t i = 0; i < N_KINDS; i++) {
        struct kind kind = kind_number(i);
        struct dp_packet *packet = compose_received(&kind);
        size_t l4_ofs = packet->l4_ofs;
        size_t need = l4_ofs + (kind_has_ports(&kind) ? 4
                                : kind_is_icmp(&kind) ? ICMP_HEADER_LEN : 0);

        for (size_t size = 0; size <= need; size++) {
            struct dp_packet copy;
            void *data = xmemdup(dp_packet_data(packet), MAX(size, 1));

            dp_packet_use_const(&copy, data, size);
            if (size < need) {
                ovs_assert(!ct_offload_wire_fingerprint(&copy));
            } else {
                ovs_assert(ct_offload_wire_fingerprint(&copy)
                           == packet->md.ct_wire);
            }
            free(data);
        }
        dp_packet_delete(packet);
    }
}

static struct dp_packet *
compose_udp(bool ipv6)
{
    const struct kind kind = {
        .dl_type = ipv6 ? ETH_TYPE_IPV6 : ETH_TYPE_IP,
        .proto = IPPROTO_UDP,
    };

    return compose(&kind);
}

/* Returns the first fragment, or the last one, of the two of a packet. */
static struct dp_packet *
compose_fragment(bool first)
{
    const size_t cut = 1400;    /* Counted from the UDP header on. */
    struct dp_packet *packet = compose_udp(false);
    struct ip_header *ip = dp_packet_l3(packet);
    char *l4 = dp_packet_l4(packet);
    size_t size = dp_packet_l4_size(packet);
    size_t new_size = first ? cut : size - cut;

    if (!first) {
        memmove(l4, l4 + cut, new_size);
    }
    dp_packet_set_size(packet, dp_packet_size(packet) - (size - new_size));
    ip->ip_frag_off = htons(first ? IP_MORE_FRAGMENTS : cut / 8);
    ip->ip_tot_len = htons(IP_HEADER_LEN + new_size);
    ip->ip_csum = 0;
    ip->ip_csum = csum(ip, IP_HEADER_LEN);
    return packet;
}

static void
test_unknown(void)
{
    static const uint8_t extensions[] = {
        IPPROTO_HOPOPTS, IPPROTO_ROUTING, IPPROTO_FRAGMENT, IPPROTO_DSTOPTS,
        IPPROTO_AH,
    };
    static const uint8_t bad_ihl_vers[] = {
        IP_IHL_VER(4, 4), IP_IHL_VER(15, 5), IP_IHL_VER(5, 6),
    };
    struct dp_packet *packet;

    /* Offload is off. */
    packet = compose_udp(false);
    pkt_metadata_init(&packet->md, u32_to_odp(1));
    ct_offload_wire_receive(packet, false);
    ovs_assert(!ct_offload_wire_is_known(packet));
    ovs_assert(!ct_offload_wire_is_same(packet));
    dp_packet_delete(packet);

    /* Not received. */
    packet = compose_udp(false);
    ovs_assert(!ct_offload_wire_is_known(packet));
    ovs_assert(!ct_offload_wire_is_same(packet));
    dp_packet_delete(packet);

    check_unknown(compose_fragment(true));
    check_unknown(compose_fragment(false));

    for (size_t i = 0; i < ARRAY_SIZE(extensions); i++) {
        packet = compose_udp(true);
        ((struct ovs_16aligned_ip6_hdr *) dp_packet_l3(packet))->ip6_nxt
            = extensions[i];
        check_unknown(packet);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad_ihl_vers); i++) {
        packet = compose_udp(false);
        ((struct ip_header *) dp_packet_l3(packet))->ip_ihl_ver
            = bad_ihl_vers[i];
        check_unknown(packet);
    }

    packet = compose_udp(false);
    push_mpls(packet, htons(ETH_TYPE_MPLS), htonl(0x1100));
    check_unknown(packet);

    packet = compose_udp(false);
    for (int i = 0; i <= FLOW_MAX_VLAN_HEADERS; i++) {
        push_tag(packet, ETH_TYPE_VLAN_8021Q, 1);
    }
    check_unknown(packet);

    packet = dp_packet_new(0);
    compose_arp(packet, ARP_OP_REQUEST, eth_addr_zero, eth_addr_zero, true,
                htonl(1), htonl(2));
    check_unknown(packet);
}

/* IPv4 options are nothing special. */
static void
test_options(void)
{
    struct dp_packet *packet = compose_udp(false);
    uint32_t fingerprint = ct_offload_wire_fingerprint(packet);
    struct ip_header *ip = dp_packet_l3(packet);
    ovs_be32 *ports = dp_packet_l4(packet);

    ip->ip_ihl_ver = IP_IHL_VER(6, 4);
    ports[1] = ports[0];
    ports[0] = 0;
    ovs_assert(ct_offload_wire_fingerprint(packet) == fingerprint);
    ports[1] ^= htonl(1);
    ovs_assert(ct_offload_wire_fingerprint(packet) != fingerprint);
    dp_packet_delete(packet);
}

/* What providers hear. */

/* Of the last connection that was added, or 'conn' is NULL. */
static struct ct_offload_ctx added;

static bool
can_offload(const struct ct_offload_ctx *ctx OVS_UNUSED)
{
    return true;
}

static int
conn_add(const struct ct_offload_ctx *ctx)
{
    added = *ctx;
    return 0;
}

static void
conn_del(const struct ct_offload_ctx *ctx OVS_UNUSED)
{
}

static const struct ct_offload_class class = {
    .name = "wire",
    .can_offload = can_offload,
    .conn_add = conn_add,
    .conn_del = conn_del,
};

static struct conntrack *ct;
static struct netdev *port = (struct netdev *) &port;

/* 'packets', at least one, come from 'port' to ct(commit,zone='zone'), and
 * are gone then, if 'last'. */
static void
commit(struct dp_packet_batch *packets, uint16_t zone,
       const struct nat_action_info_t *nat)
{
    memset(&added, 0, sizeof added);
    conntrack_execute(ct, packets, htons(ETH_TYPE_IP), false, true, zone, NULL,
                      NULL, NULL, nat, time_msec(), 0, port);
    ct_offload_barrier();
}

static void
commit_one(struct dp_packet *packet)
{
    struct dp_packet_batch batch;

    dp_packet_batch_init_packet(&batch, packet);
    commit(&batch, 0, NULL);
    dp_packet_delete_batch(&batch, true);
    conntrack_flush(ct, NULL);
    ovs_assert(added.conn);
}

static void
test_vlan(void)
{
    const enum ct_offload_vlan expected[N_TAGS] = {
        [NO_TAG] = CT_OFFLOAD_VLAN_NONE,
        [TAG] = CT_OFFLOAD_VLAN_TAG,
        [TAG_AD] = CT_OFFLOAD_VLAN_OTHER,
        [TWO_TAGS] = CT_OFFLOAD_VLAN_OTHER,
    };

    for (enum tags tags = 0; tags < N_TAGS; tags++) {
        const struct kind kind = { ETH_TYPE_IP, IPPROTO_UDP, tags };

        commit_one(compose_received(&kind));
        ovs_assert(added.netdev_in == port && added.unmodified);
        ovs_assert(added.vlan == expected[tags]);
        ovs_assert(tags != TAG || added.vlan_tci == htons(5));
    }
}

static void
test_modified(void)
{
    const struct kind kind = { ETH_TYPE_IP, IPPROTO_UDP, NO_TAG };
    struct dp_packet *packet;

    packet = compose_received(&kind);
    change_ttl(packet, &kind);
    change_macs(packet, &kind);
    commit_one(packet);
    ovs_assert(added.netdev_in == port && added.unmodified);

    /* It is from the port, yet not as it was. */
    packet = compose_received(&kind);
    change_destination_port(packet, &kind);
    commit_one(packet);
    ovs_assert(added.netdev_in == port && !added.unmodified);

    /* It was made here. */
    packet = compose(&kind);
    receive(packet);
    change_new_metadata(packet, &kind);
    commit_one(packet);
    ovs_assert(!added.netdev_in && !added.unmodified);
}

/* NAT that changes nothing, and NAT that does, before another zone. */
static void
test_nat(void)
{
    const struct kind kind = { ETH_TYPE_IP, IPPROTO_UDP, NO_TAG };
    struct nat_action_info_t nat = { .nat_action = NAT_ACTION_SRC };

    for (int i = 0; i < 2; i++) {
        struct dp_packet_batch batch;

        if (i) {
            nat.min_addr.ipv4 = nat.max_addr.ipv4 = htonl(0x0a000003);
        }
        dp_packet_batch_init_packet(&batch, compose_received(&kind));
        commit(&batch, 1, &nat);
        ovs_assert(added.netdev_in == port && added.unmodified);
        commit(&batch, 2, NULL);
        ovs_assert(added.netdev_in == port && added.unmodified == !i);
        dp_packet_delete_batch(&batch, true);
        conntrack_flush(ct, NULL);
    }
}

static void
test_reassembled(void)
{
    struct dp_packet_batch batch;

    dp_packet_batch_init(&batch);
    for (int i = 0; i < 2; i++) {
        struct dp_packet *packet = compose_fragment(!i);

        receive(packet);
        dp_packet_batch_add(&batch, packet);
    }
    commit(&batch, 0, NULL);
    ovs_assert(added.conn && !added.netdev_in && !added.unmodified);
    dp_packet_delete_batch(&batch, true);
    conntrack_flush(ct, NULL);
}

static void
test_ct_offload_wire_main(int argc OVS_UNUSED, char *argv[])
{
    set_program_name(argv[0]);
    flow_limit_vlans(FLOW_MAX_VLAN_HEADERS);

    test_changes();
    test_kinds();
    test_short();
    test_unknown();
    test_options();

    ct = conntrack_init();
    ovs_assert(!ct_offload_register(&class));
    test_vlan();
    test_modified();
    test_nat();
    test_reassembled();
    conntrack_destroy(ct);
    ct_offload_unregister(&class);
}

OVSTEST_REGISTER("test-ct-offload-wire", test_ct_offload_wire_main);
