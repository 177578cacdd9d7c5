/* SPDX-License-Identifier: Apache-2.0 */

#include <config.h>

#include "emunic.h"

#include <string.h>

#include <rte_byteorder.h>
#include <rte_mbuf.h>

/* Returns 'size' bytes at 'offset' of the packet, or NULL if the first segment
 * ends before. */
static void *
header_at(struct rte_mbuf *mbuf, size_t offset, size_t size)
{
    return (offset + size <= rte_pktmbuf_data_len(mbuf)
            ? rte_pktmbuf_mtod_offset(mbuf, uint8_t *, offset) : NULL);
}

/* Copies a header to the packet's key.  Returns NULL if it is cut off. */
static const void *
take(struct emu_packet *packet, size_t offset, void *to, size_t size,
     uint32_t layer)
{
    const void *header = header_at(packet->mbuf, offset, size);

    if (header) {
        memcpy(to, header, size);
        packet->key.f.layers |= layer;
    }
    return header;
}

static void
parse_tcp(struct emu_packet *packet, size_t end)
{
    struct emu_segment *segment = &packet->segment;
    size_t header = (packet->key.f.tcp.data_off >> 4) * 4;

    segment->tcp = &packet->key.f.tcp;
    segment->bad = (header < sizeof packet->key.f.tcp
                    || packet->l4_offset + header > end
                    || end > rte_pktmbuf_pkt_len(packet->mbuf));
    segment->length = segment->bad ? 0 : end - packet->l4_offset - header;
}

/* 'end' is where the network layer says that the packet ends. */
static void
parse_l4(struct emu_packet *packet, uint8_t protocol, size_t offset,
         size_t end)
{
    struct emu_fields *key = &packet->key.f;
    const void *header = NULL;

    switch (protocol) {
    case IPPROTO_TCP:
        header = take(packet, offset, &key->tcp, sizeof key->tcp, EMU_TCP);
        break;
    case IPPROTO_UDP:
        header = take(packet, offset, &key->udp, sizeof key->udp, EMU_UDP);
        break;
    case IPPROTO_SCTP:
        header = take(packet, offset, &key->sctp, sizeof key->sctp, EMU_SCTP);
        break;
    case IPPROTO_ICMP:
        if (key->layers & EMU_IPV4) {
            header = take(packet, offset, &key->icmp, sizeof key->icmp,
                          EMU_ICMP);
        }
        break;
    case IPPROTO_ICMPV6:
        if (key->layers & EMU_IPV6) {
            header = take(packet, offset, &key->icmp6, sizeof key->icmp6,
                          EMU_ICMP6);
        }
        break;
    default:
        break;
    }
    if (header) {
        packet->l4_offset = offset;
        if (protocol == IPPROTO_TCP) {
            parse_tcp(packet, end);
        }
    }
}

static void
parse_ipv4(struct emu_packet *packet, size_t offset)
{
    struct rte_ipv4_hdr *ip = &packet->key.f.ipv4;
    size_t length;

    if (!take(packet, offset, ip, sizeof *ip, EMU_IPV4)) {
        return;
    }
    packet->l3_offset = offset;
    length = (ip->version_ihl & 0xf) * 4;
    if (length >= sizeof *ip
        && !(rte_be_to_cpu_16(ip->fragment_offset)
             & RTE_IPV4_HDR_OFFSET_MASK)) {
        parse_l4(packet, ip->next_proto_id, offset + length,
                 offset + rte_be_to_cpu_16(ip->total_length));
    }
}

static void
parse_ipv6(struct emu_packet *packet, size_t offset)
{
    struct emu_fields *key = &packet->key.f;
    struct rte_ipv6_hdr *ip = &key->ipv6;
    uint8_t protocol;
    size_t end;

    if (!take(packet, offset, ip, sizeof *ip, EMU_IPV6)) {
        return;
    }
    packet->l3_offset = offset;
    end = offset + sizeof *ip + rte_be_to_cpu_16(ip->payload_len);
    protocol = ip->proto;
    offset += sizeof *ip;

    /* Each extension header but ESP begins with the next one's number and its
     * own length. */
    for (;;) {
        const uint8_t *ext = header_at(packet->mbuf, offset, 8);
        size_t unit = 8;
        uint32_t layer;

        switch (protocol) {
        case IPPROTO_HOPOPTS:
            layer = EMU_HOP_EXT;
            break;
        case IPPROTO_ROUTING:
            layer = EMU_ROUTE_EXT;
            break;
        case IPPROTO_FRAGMENT:
            if (!take(packet, offset, &key->frag, sizeof key->frag,
                      EMU_FRAG_EXT)) {
                return;
            }
            if (rte_be_to_cpu_16(key->frag.frag_data)
                & RTE_IPV6_EHDR_FO_MASK) {
                return;         /* What follows is not a header. */
            }
            protocol = key->frag.next_header;
            offset += sizeof key->frag;
            continue;
        case IPPROTO_AH:
            layer = EMU_AUTH_EXT;
            unit = 4;
            break;
        case IPPROTO_DSTOPTS:
            layer = EMU_DEST_EXT;
            break;
        case 135:
            layer = EMU_MOBIL_EXT;
            break;
        case 139:
            layer = EMU_HIP_EXT;
            break;
        case 140:
            layer = EMU_SHIM6_EXT;
            break;
        case IPPROTO_ESP:
            key->layers |= EMU_ESP_EXT;
            return;
        default:
            parse_l4(packet, protocol, offset, end);
            return;
        }
        if (!ext) {
            return;
        }
        key->layers |= layer;
        protocol = ext[0];
        offset += unit == 4 ? (ext[1] + 2) * 4 : (ext[1] + 1) * 8;
    }
}

/* Finds the headers of the frame that begins at 'offset' of 'mbuf'. */
static void
parse_frame(struct emu_packet *packet, struct rte_mbuf *mbuf, size_t offset)
{
    struct emu_fields *key = &packet->key.f;
    uint16_t type;

    memset(packet, 0, sizeof *packet);
    packet->mbuf = mbuf;
    if (!take(packet, offset, &key->eth, sizeof key->eth, EMU_ETH)) {
        return;
    }
    offset += sizeof key->eth;
    type = rte_be_to_cpu_16(key->eth.ether_type);
    for (int i = 0; i < 2; i++) {
        if (type != RTE_ETHER_TYPE_VLAN && type != RTE_ETHER_TYPE_QINQ) {
            break;
        }
        if (!take(packet, offset, &key->vlan[i], sizeof key->vlan[i],
                  i ? EMU_VLAN2 : EMU_VLAN)) {
            return;
        }
        type = rte_be_to_cpu_16(key->vlan[i].eth_proto);
        offset += sizeof key->vlan[i];
    }
    if (type == RTE_ETHER_TYPE_IPV4) {
        parse_ipv4(packet, offset);
    } else if (type == RTE_ETHER_TYPE_IPV6) {
        parse_ipv6(packet, offset);
    }
}

/* Finds the headers of 'mbuf'.  What is cut off is not there. */
void
emu_packet_parse(struct emu_packet *packet, struct rte_mbuf *mbuf)
{
    parse_frame(packet, mbuf, 0);
    if (emu_tunnel_parse(packet)) {
        struct emu_packet inner;

        parse_frame(&inner, mbuf, packet->outer_size);
        packet->key.inner = inner.key.f;
    }
}

/* Returns a hash of the addresses and ports of 'packet', the same for both
 * directions. */
uint32_t
emu_packet_hash(const struct emu_packet *packet)
{
    const struct emu_fields *key = &packet->key.f;
    uint64_t a[2], b[2], hash;

    if (key->layers & EMU_IPV6) {
        memcpy(a, &key->ipv6.src_addr, sizeof a);
        memcpy(b, &key->ipv6.dst_addr, sizeof b);
        hash = a[0] ^ a[1] ^ b[0] ^ b[1];
    } else {
        hash = key->ipv4.src_addr ^ key->ipv4.dst_addr;
    }
    hash = hash << 16 ^ key->tcp.src_port ^ key->tcp.dst_port
           ^ key->udp.src_port ^ key->udp.dst_port;
    return emu_hash64(hash);
}

/* Brings the checksum at 'sum' up to date after 'size' bytes, an even number,
 * changed from 'old' to 'new' (RFC 1624). */
static void
checksum_update(uint8_t sum[2], const void *old_, const void *new_,
                size_t size)
{
    const uint8_t *old = old_, *new = new_;
    uint32_t value = (uint16_t) ~(sum[0] << 8 | sum[1]);

    for (size_t i = 0; i < size; i += 2) {
        value += (uint16_t) ~(old[i] << 8 | old[i + 1]);
        value += new[i] << 8 | new[i + 1];
    }
    value = (value & 0xffff) + (value >> 16);
    value = (value & 0xffff) + (value >> 16);
    sum[0] = ~value >> 8;
    sum[1] = ~value;
}

/* Returns the checksum of the transport layer that covers addresses and ports,
 * or NULL if there is none to keep. */
static uint8_t *
l4_checksum(const struct emu_packet *packet)
{
    uint8_t *l4 = rte_pktmbuf_mtod_offset(packet->mbuf, uint8_t *,
                                          packet->l4_offset);

    if (packet->key.f.layers & EMU_TCP) {
        return l4 + offsetof(struct rte_tcp_hdr, cksum);
    } else if (packet->key.f.layers & EMU_UDP) {
        l4 += offsetof(struct rte_udp_hdr, dgram_cksum);
        return l4[0] || l4[1] ? l4 : NULL;
    } else if (packet->key.f.layers & EMU_ICMP6) {
        return l4 + offsetof(struct rte_icmp_hdr, icmp_cksum);
    }
    return NULL;
}

/* Changes 'size' bytes at 'field' to 'new', and the checksums with it. */
static void
set_field(struct emu_packet *packet, void *field, const void *new,
          size_t size, bool ip_header, bool pseudo_header)
{
    if (ip_header && packet->key.f.layers & EMU_IPV4) {
        uint8_t *ip = rte_pktmbuf_mtod_offset(packet->mbuf, uint8_t *,
                                              packet->l3_offset);

        checksum_update(ip + offsetof(struct rte_ipv4_hdr, hdr_checksum),
                        field, new, size);
    }
    if (pseudo_header) {
        uint8_t *sum = l4_checksum(packet);

        if (sum) {
            checksum_update(sum, field, new, size);
            if (!sum[0] && !sum[1] && packet->key.f.layers & EMU_UDP) {
                sum[0] = sum[1] = 0xff;
            }
        }
    }
    memcpy(field, new, size);
}

static bool
set_ttl(struct emu_packet *packet, bool decrement, uint8_t ttl)
{
    uint8_t *l3 = rte_pktmbuf_mtod_offset(packet->mbuf, uint8_t *,
                                          packet->l3_offset);

    if (packet->key.f.layers & EMU_IPV4) {
        struct rte_ipv4_hdr *ip = (struct rte_ipv4_hdr *) l3;
        uint8_t new[2] = { ttl, ip->next_proto_id };

        if (decrement) {
            if (ip->time_to_live <= 1) {
                return false;
            }
            new[0] = ip->time_to_live - 1;
        }
        set_field(packet, &ip->time_to_live, new, sizeof new, true, false);
    } else {
        struct rte_ipv6_hdr *ip = (struct rte_ipv6_hdr *) l3;

        if (decrement) {
            if (ip->hop_limits <= 1) {
                return false;
            }
            ttl = ip->hop_limits - 1;
        }
        ip->hop_limits = ttl;
    }
    return true;
}

static bool
push_vlan(struct emu_packet *packet, uint16_t type)
{
    struct rte_ether_hdr *old = rte_pktmbuf_mtod(packet->mbuf, void *);
    struct rte_ether_hdr eth = *old, *new;
    struct rte_vlan_hdr vlan = { .eth_proto = eth.ether_type };

    /* A new tag has the id and priority of the outermost one there is. */
    if (packet->key.f.layers & EMU_VLAN) {
        vlan.vlan_tci = packet->key.f.vlan[0].vlan_tci;
    }
    new = (void *) rte_pktmbuf_prepend(packet->mbuf, sizeof vlan);
    if (!new) {
        return false;
    }
    eth.ether_type = rte_cpu_to_be_16(type);
    memcpy(new, &eth, sizeof eth);
    memcpy(new + 1, &vlan, sizeof vlan);
    return true;
}

static bool
pop_vlan(struct emu_packet *packet)
{
    struct rte_ether_hdr *old = rte_pktmbuf_mtod(packet->mbuf, void *);
    struct rte_ether_hdr eth = *old;
    void *new;

    if (!(packet->key.f.layers & EMU_VLAN)) {
        return false;
    }
    eth.ether_type = packet->key.f.vlan[0].eth_proto;
    new = rte_pktmbuf_adj(packet->mbuf, sizeof(struct rte_vlan_hdr));
    memcpy(new, &eth, sizeof eth);
    return true;
}

static bool
set_vlan_tci(struct emu_packet *packet, uint16_t mask, uint16_t value)
{
    struct rte_vlan_hdr *vlan = header_at(packet->mbuf,
                                          sizeof(struct rte_ether_hdr),
                                          sizeof *vlan);

    if (!vlan || !(packet->key.f.layers & EMU_VLAN)) {
        return false;
    }
    vlan->vlan_tci = rte_cpu_to_be_16(
        (rte_be_to_cpu_16(vlan->vlan_tci) & ~mask) | value);
    return true;
}

static bool
apply(struct emu_packet *packet, const struct emu_action *action)
{
    struct rte_ether_hdr *eth = rte_pktmbuf_mtod(packet->mbuf, void *);
    uint8_t *l3 = rte_pktmbuf_mtod_offset(packet->mbuf, uint8_t *,
                                          packet->l3_offset);
    uint8_t *l4 = rte_pktmbuf_mtod_offset(packet->mbuf, uint8_t *,
                                          packet->l4_offset);
    struct rte_ipv4_hdr *ipv4 = (struct rte_ipv4_hdr *) l3;
    struct rte_ipv6_hdr *ipv6 = (struct rte_ipv6_hdr *) l3;
    rte_be16_t port = rte_cpu_to_be_16(action->value);

    switch ((int) (action->modify ? action->modify->set : action->type)) {
    case RTE_FLOW_ACTION_TYPE_OF_PUSH_VLAN:
        return push_vlan(packet, action->value);
    case RTE_FLOW_ACTION_TYPE_OF_POP_VLAN:
        return pop_vlan(packet);
    case RTE_FLOW_ACTION_TYPE_OF_SET_VLAN_VID:
        return set_vlan_tci(packet, 0x0fff, action->value);
    case RTE_FLOW_ACTION_TYPE_OF_SET_VLAN_PCP:
        return set_vlan_tci(packet, 0xe000, action->value << 13);
    case RTE_FLOW_ACTION_TYPE_SET_MAC_SRC:
        memcpy(&eth->src_addr, action->bytes, sizeof eth->src_addr);
        return true;
    case RTE_FLOW_ACTION_TYPE_SET_MAC_DST:
        memcpy(&eth->dst_addr, action->bytes, sizeof eth->dst_addr);
        return true;
    case RTE_FLOW_ACTION_TYPE_SET_IPV4_SRC:
        set_field(packet, &ipv4->src_addr, action->bytes, 4, true, true);
        return true;
    case RTE_FLOW_ACTION_TYPE_SET_IPV4_DST:
        set_field(packet, &ipv4->dst_addr, action->bytes, 4, true, true);
        return true;
    case RTE_FLOW_ACTION_TYPE_SET_IPV6_SRC:
        set_field(packet, &ipv6->src_addr, action->bytes, 16, false, true);
        return true;
    case RTE_FLOW_ACTION_TYPE_SET_IPV6_DST:
        set_field(packet, &ipv6->dst_addr, action->bytes, 16, false, true);
        return true;
    case RTE_FLOW_ACTION_TYPE_SET_TP_SRC:
        set_field(packet, l4, &port, sizeof port, false, true);
        return true;
    case RTE_FLOW_ACTION_TYPE_SET_TP_DST:
        set_field(packet, l4 + sizeof port, &port, sizeof port, false, true);
        return true;
    case RTE_FLOW_ACTION_TYPE_SET_TTL:
        return set_ttl(packet, false, action->value);
    case RTE_FLOW_ACTION_TYPE_DEC_TTL:
        return set_ttl(packet, true, 0);
    case RTE_FLOW_ACTION_TYPE_VXLAN_DECAP:
    case RTE_FLOW_ACTION_TYPE_RAW_DECAP:
        return rte_pktmbuf_adj(packet->mbuf, packet->outer_size) != NULL;
    case RTE_FLOW_ACTION_TYPE_VXLAN_ENCAP:
    case RTE_FLOW_ACTION_TYPE_RAW_ENCAP:
        return emu_encap(packet->mbuf, action->header, action->value);
    default:
        return true;
    }
}

/* Changes 'packet' as 'action' says.  Returns false if that cannot be, as when
 * the TTL is over or there is no room for a header: then the packet is to be
 * dropped. */
bool
emu_packet_apply(struct emu_packet *packet, const struct emu_action *action)
{
    struct emu_fields *key = &packet->key.f;
    uint16_t port = key->port, domain = key->domain;
    uint32_t ct_layer = key->layers & EMU_CT;
    uint32_t ct = key->ct;
    bool ok = apply(packet, action);

    emu_packet_parse(packet, packet->mbuf);
    key->ct = ct;
    key->layers |= ct_layer;
    key->port = port;
    key->domain = domain;
    return ok;
}
