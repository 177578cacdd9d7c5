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

#include "ct-offload-wire.h"

#include <netinet/in.h>
#include <netinet/ip6.h>
#include <string.h>

#include "flow.h"
#include "packets.h"
#include "unaligned.h"
#include "util.h"

/* What of a packet has not been looked at. */
struct rest {
    const char *data;
    size_t size;
};

/* Returns the next 'size' bytes of 'rest' and goes on behind them, or returns
 * NULL if there are not that many. */
static const void *
pull(struct rest *rest, size_t size)
{
    const char *data = rest->data;

    if (OVS_UNLIKELY(rest->size < size)) {
        return NULL;
    }
    rest->data += size;
    rest->size -= size;
    return data;
}

/* Adds 'x' to 'hash'.  This is done for every packet, and takes a quarter of
 * the time of the functions in hash.h, which are better than need be here: for
 * a given 'hash' no two values of 'x' give the same result. */
static uint64_t
mix(uint64_t hash, uint64_t x)
{
    hash = (hash ^ x) * UINT64_C(0x9e3779b97f4a7c15);
    return hash ^ hash >> 32;
}

/* Adds the 8 bytes at 'header' + 'ofs' to 'hash'. */
static uint64_t
mix_bytes(uint64_t hash, const void *header, size_t ofs)
{
    uint64_t x;

    memcpy(&x, (const char *) header + ofs, sizeof x);
    return mix(hash, x);
}

/* Adds to '*hash' the VLAN tags in 'rest', and stores the Ethernet type behind
 * them in '*type'.  Returns false if there are more tags than ct() sees
 * through. */
static bool
hash_l2(uint64_t *hash, struct rest *rest, ovs_be16 *type)
{
    const struct eth_header *eth = pull(rest, sizeof *eth);

    if (!eth) {
        return false;
    }
    *type = eth->eth_type;
    for (int i = 0; OVS_UNLIKELY(eth_type_vlan(*type)); i++) {
        const struct vlan_header *vlan = pull(rest, sizeof *vlan);

        if (!vlan || i >= FLOW_MAX_VLAN_HEADERS) {
            return false;
        }
        *hash = mix(*hash, ((uint32_t) ntohs(*type) << 16
                            | vlan_tci_to_vid(vlan->vlan_tci)));
        *type = vlan->vlan_next_type;
    }
    return true;
}

static bool
hash_ipv4(uint64_t *hash, struct rest *rest, uint8_t *proto)
{
    const struct ip_header *ip = pull(rest, sizeof *ip);
    size_t len;

    if (!ip || IP_VER(ip->ip_ihl_ver) != 4
        || IP_IS_FRAGMENT(ip->ip_frag_off)) {
        return false;
    }
    len = IP_IHL(ip->ip_ihl_ver) * 4;
    if (len < sizeof *ip || !pull(rest, len - sizeof *ip)) {
        return false;
    }
    *proto = ip->ip_proto;
    *hash = mix_bytes(*hash, ip, offsetof(struct ip_header, ip_src));
    return true;
}

static bool
hash_ipv6(uint64_t *hash, struct rest *rest, uint8_t *proto)
{
    const struct ovs_16aligned_ip6_hdr *ip = pull(rest, sizeof *ip);

    if (!ip) {
        return false;
    }
    *proto = ip->ip6_nxt;
    for (size_t i = 0; i < 4 * sizeof(uint64_t); i += sizeof(uint64_t)) {
        *hash = mix_bytes(*hash, ip, (offsetof(struct ovs_16aligned_ip6_hdr,
                                               ip6_src) + i));
    }
    return true;
}

/* Adds to '*hash' the Ethernet 'type', 'proto' and what is in 'rest' of the
 * header of that protocol. */
static bool
hash_l4(uint64_t *hash, struct rest *rest, ovs_be16 type, uint8_t proto)
{
    const ovs_16aligned_be32 *ports;
    const struct icmp_header *icmp;
    uint32_t x = 0;

    switch (proto) {
    case IPPROTO_TCP:
    case IPPROTO_UDP:
    case IPPROTO_SCTP:
        ports = pull(rest, sizeof *ports);
        if (!ports) {
            return false;
        }
        x = (OVS_FORCE uint32_t) get_16aligned_be32(ports);
        break;

    case IPPROTO_ICMP:
    case IPPROTO_ICMPV6:
        /* What is used of the header is the same for both. */
        icmp = pull(rest, sizeof *icmp);
        if (!icmp) {
            return false;
        }
        x = (icmp->icmp_type << 8 | icmp->icmp_code
             | (uint32_t) ntohs(icmp->icmp_fields.echo.id) << 16);
        break;

    case IPPROTO_HOPOPTS:
    case IPPROTO_ROUTING:
    case IPPROTO_DSTOPTS:
    case IPPROTO_AH:
    case IPPROTO_FRAGMENT:
        return false;

    default:
        break;
    }
    *hash = mix(*hash, ((uint64_t) (OVS_FORCE uint16_t) type << 48
                        | (uint64_t) proto << 32 | x));
    return true;
}

/* Returns the fingerprint of 'packet' as it is now, or 0 if it has none.  Only
 * the packet's data and type have to be initialized. */
uint32_t
ct_offload_wire_fingerprint(const struct dp_packet *packet)
{
    struct rest rest = { dp_packet_data(packet), dp_packet_size(packet) };
    uint64_t hash = 0;
    ovs_be16 type;
    uint8_t proto;

    if (!dp_packet_is_eth(packet) || !hash_l2(&hash, &rest, &type)) {
        return 0;
    }
    if (type == htons(ETH_TYPE_IP)) {
        if (!hash_ipv4(&hash, &rest, &proto)) {
            return 0;
        }
    } else if (type != htons(ETH_TYPE_IPV6)
               || !hash_ipv6(&hash, &rest, &proto)) {
        return 0;
    }
    if (!hash_l4(&hash, &rest, type, proto)) {
        return 0;
    }
    return (uint32_t) hash ? (uint32_t) hash : 1;
}

/* Has hardware seen 'packet' as it is now, as far as that can be matched? */
bool
ct_offload_wire_is_same(const struct dp_packet *packet)
{
    return (ct_offload_wire_is_known(packet)
            && !flow_tnl_dst_is_set(&packet->md.tunnel)
            && packet->md.ct_wire == ct_offload_wire_fingerprint(packet));
}
