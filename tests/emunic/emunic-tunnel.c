/* SPDX-License-Identifier: Apache-2.0 */

#include <config.h>

#include "emunic.h"

#include <string.h>

#include <rte_byteorder.h>
#include <rte_mbuf.h>

/* The size of a header of VXLAN, or of Geneve without its options, and of that
 * of an option. */
#define TUNNEL_SIZE 8
#define OPTION_SIZE 4

/* What is in headers that are to be put before a packet. */
struct layout {
    bool ipv6;
    size_t l3, l4;              /* Offsets. */
    uint32_t tunnel;            /* EMU_VXLAN or EMU_GENEVE. */
};

static uint16_t
get_be16(const uint8_t *p)
{
    return p[0] << 8 | p[1];
}

static void
put_be16(uint8_t *p, uint16_t value)
{
    p[0] = value >> 8;
    p[1] = value;
}

/* Returns the size of the option at 'option' with its header. */
static size_t
option_size(const uint8_t *option)
{
    return OPTION_SIZE + (option[3] & 0x1f) * 4;
}

static bool
options_fit(const uint8_t *options, size_t size)
{
    while (size >= OPTION_SIZE && size >= option_size(options)) {
        size -= option_size(options);
        options += option_size(options);
    }
    return !size;
}

/* Returns the size of the tunnel's header that 'size' bytes at 'p', behind a
 * UDP header, begin with, or 0 if it is none.
 *
 * Rules say what the UDP ports of tunnels are, so that it is the header that
 * has to say what it is: where Geneve has a protocol, VXLAN has bits that
 * are 0. */
static size_t
tunnel_size(const uint8_t *p, size_t size, uint32_t *tunnel)
{
    if (size < TUNNEL_SIZE) {
        return 0;
    }
    if (get_be16(p + 2) >= 0x600 && !(p[0] & 0xc0)) {
        size_t options = (p[0] & 0x3f) * 4;

        *tunnel = EMU_GENEVE;
        return (size >= TUNNEL_SIZE + options
                && options_fit(p + TUNNEL_SIZE, options)
                ? TUNNEL_SIZE + options : 0);
    }
    *tunnel = EMU_VXLAN;
    return p[0] & 0x08 ? TUNNEL_SIZE : 0;
}

/* Says whether the lengths in the outer headers of 'packet', which is UDP, are
 * right, and what is covered by them is there. */
static bool
lengths_ok(const struct emu_packet *packet)
{
    const struct emu_fields *key = &packet->key.f;
    size_t udp = rte_be_to_cpu_16(key->udp.dgram_len);
    size_t end = packet->l3_offset;

    end += (key->layers & EMU_IPV4 ? rte_be_to_cpu_16(key->ipv4.total_length)
            : sizeof key->ipv6 + rte_be_to_cpu_16(key->ipv6.payload_len));
    return (udp >= sizeof key->udp && end == packet->l4_offset + udp
            && end <= rte_pktmbuf_pkt_len(packet->mbuf));
}

/* Says whether the checksums of the outer headers are right.  A UDP checksum
 * of 0 is. */
static bool
checksums_ok(const struct emu_packet *packet)
{
    const struct emu_fields *key = &packet->key.f;
    struct rte_ipv6_hdr ipv6 = key->ipv6;

    if (key->layers & EMU_IPV4) {
        const struct rte_ipv4_hdr *ip;

        ip = rte_pktmbuf_mtod_offset(packet->mbuf, void *, packet->l3_offset);
        return (rte_raw_cksum(ip, packet->l4_offset - packet->l3_offset)
                == UINT16_MAX
                && (!key->udp.dgram_cksum
                    || !rte_ipv4_udptcp_cksum_mbuf_verify(
                        packet->mbuf, ip, packet->l4_offset)));
    }

    /* Extension headers are not in the sum. */
    ipv6.proto = IPPROTO_UDP;
    ipv6.payload_len = key->udp.dgram_len;
    return (!key->udp.dgram_cksum
            || !rte_ipv6_udptcp_cksum_mbuf_verify(packet->mbuf, &ipv6,
                                                  packet->l4_offset));
}

/* Finds the tunnel's header of 'packet', whose other headers are known.
 * Packets that are cut off or have a wrong checksum have none.  Returns true
 * if there is a frame behind it. */
bool
emu_tunnel_parse(struct emu_packet *packet)
{
    struct emu_fields *key = &packet->key.f;
    size_t offset = packet->l4_offset + sizeof key->udp, size;
    uint32_t tunnel;
    const uint8_t *p;

    if (!(key->layers & EMU_UDP) || !lengths_ok(packet)) {
        return false;
    }
    p = rte_pktmbuf_mtod_offset(packet->mbuf, uint8_t *, offset);
    size = RTE_MIN(rte_pktmbuf_data_len(packet->mbuf) - offset,
                   rte_be_to_cpu_16(key->udp.dgram_len) - sizeof key->udp);
    size = tunnel_size(p, size, &tunnel);
    if (!size || !checksums_ok(packet)) {
        return false;
    }
    memcpy(tunnel == EMU_VXLAN ? key->vxlan : key->geneve, p, TUNNEL_SIZE);
    key->layers |= tunnel;
    packet->outer_size = offset + size;
    packet->options = p + TUNNEL_SIZE;
    packet->options_size = size - TUNNEL_SIZE;
    return tunnel == EMU_VXLAN || get_be16(p + 2) == EMU_GENEVE_ETHERNET;
}

/* Says whether the option at 'p' is 'want'. */
static bool
option_is(const uint8_t *p, const struct emu_option *want,
          const struct emu_option *mask)
{
    for (size_t i = 0; i < sizeof want->bytes; i++) {
        uint8_t differs = i < option_size(p) ? p[i] ^ want->bytes[i] : 0xff;

        if (differs & mask->bytes[i]) {
            return false;
        }
    }
    return true;
}

/* Says whether one of the packet's options is 'want'. */
static bool
has_option(const struct emu_packet *packet, const struct emu_option *want,
           const struct emu_option *mask)
{
    const uint8_t *p = packet->options, *end = p + packet->options_size;

    while (p < end && !option_is(p, want, mask)) {
        p += option_size(p);
    }
    return p < end;
}

/* Says whether 'packet' has all the Geneve options that 'rule' asks for,
 * wherever they are. */
bool
emu_options_match(const struct emu_packet *packet, const struct emu_rule *rule)
{
    for (size_t i = 0; i < rule->n_options; i++) {
        if (!has_option(packet, &rule->options[2 * i],
                        &rule->options[2 * i + 1])) {
            return false;
        }
    }
    return true;
}

/* Finds out what is in the 'size' bytes of 'header'.  Returns NULL, or why
 * they cannot be put before packets. */
static const char *
layout_parse(const uint8_t *header, size_t size, struct layout *layout)
{
    size_t type_at = offsetof(struct rte_ether_hdr, ether_type), left;
    uint16_t type = 0;
    const uint8_t *ip;

    for (int i = 0; i < 2 && size >= type_at + 2; i++) {
        type = get_be16(header + type_at);
        if (type != RTE_ETHER_TYPE_VLAN && type != RTE_ETHER_TYPE_QINQ) {
            break;
        }
        type_at += sizeof(struct rte_vlan_hdr);
    }
    layout->l3 = type_at + 2;
    layout->ipv6 = type == RTE_ETHER_TYPE_IPV6;
    layout->l4 = layout->l3 + (layout->ipv6 ? sizeof(struct rte_ipv6_hdr)
                               : sizeof(struct rte_ipv4_hdr));
    ip = header + layout->l3;
    if ((!layout->ipv6 && type != RTE_ETHER_TYPE_IPV4)
        || size < layout->l4 + sizeof(struct rte_udp_hdr)
        || (layout->ipv6 ? ip[0] >> 4 != 6 : ip[0] != RTE_IPV4_VHL_DEF)
        || ip[layout->ipv6 ? 6 : 9] != IPPROTO_UDP) {
        return "the headers are not those of a tunnel over UDP";
    }
    if (get_be16(header + layout->l4 + 6)) {
        return "UDP checksum must be 0: hardware computes none";
    }
    header += layout->l4 + sizeof(struct rte_udp_hdr);
    left = size - layout->l4 - sizeof(struct rte_udp_hdr);
    if (!left || tunnel_size(header, left, &layout->tunnel) != left
        || (layout->tunnel == EMU_GENEVE
            && get_be16(header + 2) != EMU_GENEVE_ETHERNET)) {
        return "the headers do not end with one of VXLAN or Geneve";
    }
    return NULL;
}

/* Returns NULL, and in '*tunnel' which one 'header' is of, or why it cannot be
 * put before packets. */
const char *
emu_encap_problem(const uint8_t *header, size_t size, uint32_t *tunnel)
{
    struct layout layout;
    const char *problem = layout_parse(header, size, &layout);

    *tunnel = problem ? 0 : layout.tunnel;
    return problem;
}

/* Puts 'header', in which there is no problem, before 'mbuf', and the lengths
 * and the checksum of IPv4 into it.  Returns false if there is no room. */
bool
emu_encap(struct rte_mbuf *mbuf, const uint8_t *header, size_t size)
{
    struct layout layout;
    size_t length;
    uint8_t *p;

    layout_parse(header, size, &layout);
    length = size + rte_pktmbuf_pkt_len(mbuf) - layout.l3;
    p = length <= UINT16_MAX ? (void *) rte_pktmbuf_prepend(mbuf, size) : NULL;
    if (!p) {
        return false;
    }
    memcpy(p, header, size);
    if (layout.ipv6) {
        put_be16(p + layout.l3 + offsetof(struct rte_ipv6_hdr, payload_len),
                 length - sizeof(struct rte_ipv6_hdr));
    } else {
        struct rte_ipv4_hdr *ip = (void *) (p + layout.l3);

        ip->total_length = rte_cpu_to_be_16(length);
        ip->hdr_checksum = 0;
        ip->hdr_checksum = rte_ipv4_cksum(ip);
    }
    put_be16(p + layout.l4 + offsetof(struct rte_udp_hdr, dgram_len),
             length - (layout.l4 - layout.l3));
    return true;
}
