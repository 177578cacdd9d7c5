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

#include "flow.h"
#include "hash.h"
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

static uint32_t
hash_add_be32(uint32_t hash, const ovs_16aligned_be32 *x)
{
    return hash_add(hash, (OVS_FORCE uint32_t) get_16aligned_be32(x));
}

static uint32_t
hash_add_be16s(uint32_t hash, ovs_be16 a, ovs_be16 b)
{
    return hash_add(hash, ((uint32_t) (OVS_FORCE uint16_t) a << 16
                           | (OVS_FORCE uint16_t) b));
}

/* Adds to '*hash' the VLAN tags in 'rest', and stores the Ethernet type behind
 * them in '*type'.  Returns false if there are more tags than ct() sees
 * through. */
static bool
hash_l2(uint32_t *hash, struct rest *rest, ovs_be16 *type)
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
        *hash = hash_add_be16s(*hash, *type,
                               vlan->vlan_tci & htons(VLAN_VID_MASK));
        *type = vlan->vlan_next_type;
    }
    return true;
}

static bool
hash_ipv4(uint32_t *hash, struct rest *rest, uint8_t *proto)
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
    *hash = hash_add_be32(*hash, &ip->ip_src);
    *hash = hash_add_be32(*hash, &ip->ip_dst);
    return true;
}

static bool
hash_ipv6(uint32_t *hash, struct rest *rest, uint8_t *proto)
{
    const struct ovs_16aligned_ip6_hdr *ip = pull(rest, sizeof *ip);

    if (!ip) {
        return false;
    }
    *proto = ip->ip6_nxt;
    for (int i = 0; i < 4; i++) {
        *hash = hash_add_be32(*hash, &ip->ip6_src.be32[i]);
        *hash = hash_add_be32(*hash, &ip->ip6_dst.be32[i]);
    }
    return true;
}

static bool
hash_l4(uint32_t *hash, struct rest *rest, uint8_t proto)
{
    const ovs_16aligned_be32 *ports;
    const struct icmp_header *icmp;

    switch (proto) {
    case IPPROTO_TCP:
    case IPPROTO_UDP:
    case IPPROTO_SCTP:
        ports = pull(rest, sizeof *ports);
        if (!ports) {
            return false;
        }
        *hash = hash_add_be32(*hash, ports);
        return true;

    case IPPROTO_ICMP:
    case IPPROTO_ICMPV6:
        /* What is used of the header is the same for both. */
        icmp = pull(rest, sizeof *icmp);
        if (!icmp) {
            return false;
        }
        *hash = hash_add(*hash, icmp->icmp_type << 8 | icmp->icmp_code);
        *hash = hash_add_be16s(*hash, icmp->icmp_fields.echo.id, 0);
        return true;

    case IPPROTO_HOPOPTS:
    case IPPROTO_ROUTING:
    case IPPROTO_DSTOPTS:
    case IPPROTO_AH:
    case IPPROTO_FRAGMENT:
        return false;

    default:
        return true;
    }
}

/* Returns the fingerprint of 'packet' as it is now, or 0 if it has none.  Only
 * the packet's data and type have to be initialized. */
uint32_t
ct_offload_wire_fingerprint(const struct dp_packet *packet)
{
    struct rest rest = { dp_packet_data(packet), dp_packet_size(packet) };
    uint32_t hash = 0;
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
    if (!hash_l4(&hash, &rest, proto)) {
        return 0;
    }
    hash = hash_finish(hash_add_be16s(hash, type, htons(proto)), 0);
    return hash ? hash : 1;
}

/* Has hardware seen 'packet' as it is now, as far as that can be matched? */
bool
ct_offload_wire_is_same(const struct dp_packet *packet)
{
    return (ct_offload_wire_is_known(packet)
            && packet->md.ct_wire == ct_offload_wire_fingerprint(packet));
}
