/* SPDX-License-Identifier: Apache-2.0 */

#include <config.h>

#include "emunic.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <string.h>

#define FIELD(STRUCT, MEMBER, NAME, FORMAT)             \
    { NAME, offsetof(struct STRUCT, MEMBER),            \
      sizeof ((struct STRUCT *) NULL)->MEMBER, FORMAT }

static const struct emu_field eth_fields[] = {
    FIELD(rte_ether_hdr, dst_addr, "dst", EMU_FMT_MAC),
    FIELD(rte_ether_hdr, src_addr, "src", EMU_FMT_MAC),
    FIELD(rte_ether_hdr, ether_type, "type", EMU_FMT_HEX),
    { NULL, 0, 0, 0 },
};

static const struct emu_field vlan_fields[] = {
    FIELD(rte_vlan_hdr, vlan_tci, "tci", EMU_FMT_HEX),
    FIELD(rte_vlan_hdr, eth_proto, "inner_type", EMU_FMT_HEX),
    { NULL, 0, 0, 0 },
};

static const struct emu_field ipv4_fields[] = {
    FIELD(rte_ipv4_hdr, version_ihl, "version_ihl", EMU_FMT_HEX),
    FIELD(rte_ipv4_hdr, type_of_service, "tos", EMU_FMT_HEX),
    FIELD(rte_ipv4_hdr, total_length, "length", EMU_FMT_DEC),
    FIELD(rte_ipv4_hdr, packet_id, "packet_id", EMU_FMT_DEC),
    FIELD(rte_ipv4_hdr, fragment_offset, "fragment_offset", EMU_FMT_HEX),
    FIELD(rte_ipv4_hdr, time_to_live, "ttl", EMU_FMT_DEC),
    FIELD(rte_ipv4_hdr, next_proto_id, "proto", EMU_FMT_DEC),
    FIELD(rte_ipv4_hdr, hdr_checksum, "checksum", EMU_FMT_HEX),
    FIELD(rte_ipv4_hdr, src_addr, "src", EMU_FMT_IPV4),
    FIELD(rte_ipv4_hdr, dst_addr, "dst", EMU_FMT_IPV4),
    { NULL, 0, 0, 0 },
};

static const struct emu_field ipv6_fields[] = {
    FIELD(rte_ipv6_hdr, vtc_flow, "vtc_flow", EMU_FMT_HEX),
    FIELD(rte_ipv6_hdr, payload_len, "length", EMU_FMT_DEC),
    FIELD(rte_ipv6_hdr, proto, "proto", EMU_FMT_DEC),
    FIELD(rte_ipv6_hdr, hop_limits, "hop", EMU_FMT_DEC),
    FIELD(rte_ipv6_hdr, src_addr, "src", EMU_FMT_IPV6),
    FIELD(rte_ipv6_hdr, dst_addr, "dst", EMU_FMT_IPV6),
    { NULL, 0, 0, 0 },
};

static const struct emu_field frag_fields[] = {
    FIELD(rte_ipv6_fragment_ext, next_header, "next_header", EMU_FMT_DEC),
    FIELD(rte_ipv6_fragment_ext, reserved, "reserved", EMU_FMT_HEX),
    FIELD(rte_ipv6_fragment_ext, frag_data, "frag_data", EMU_FMT_HEX),
    FIELD(rte_ipv6_fragment_ext, id, "id", EMU_FMT_DEC),
    { NULL, 0, 0, 0 },
};

static const struct emu_field tcp_fields[] = {
    FIELD(rte_tcp_hdr, src_port, "src", EMU_FMT_DEC),
    FIELD(rte_tcp_hdr, dst_port, "dst", EMU_FMT_DEC),
    FIELD(rte_tcp_hdr, sent_seq, "seq", EMU_FMT_DEC),
    FIELD(rte_tcp_hdr, recv_ack, "ack", EMU_FMT_DEC),
    FIELD(rte_tcp_hdr, data_off, "data_off", EMU_FMT_HEX),
    FIELD(rte_tcp_hdr, tcp_flags, "flags", EMU_FMT_HEX),
    FIELD(rte_tcp_hdr, rx_win, "window", EMU_FMT_DEC),
    FIELD(rte_tcp_hdr, cksum, "checksum", EMU_FMT_HEX),
    FIELD(rte_tcp_hdr, tcp_urp, "urgent", EMU_FMT_DEC),
    { NULL, 0, 0, 0 },
};

static const struct emu_field udp_fields[] = {
    FIELD(rte_udp_hdr, src_port, "src", EMU_FMT_DEC),
    FIELD(rte_udp_hdr, dst_port, "dst", EMU_FMT_DEC),
    FIELD(rte_udp_hdr, dgram_len, "length", EMU_FMT_DEC),
    FIELD(rte_udp_hdr, dgram_cksum, "checksum", EMU_FMT_HEX),
    { NULL, 0, 0, 0 },
};

static const struct emu_field sctp_fields[] = {
    FIELD(rte_sctp_hdr, src_port, "src", EMU_FMT_DEC),
    FIELD(rte_sctp_hdr, dst_port, "dst", EMU_FMT_DEC),
    FIELD(rte_sctp_hdr, tag, "tag", EMU_FMT_HEX),
    FIELD(rte_sctp_hdr, cksum, "checksum", EMU_FMT_HEX),
    { NULL, 0, 0, 0 },
};

static const struct emu_field icmp_fields[] = {
    FIELD(rte_icmp_hdr, icmp_type, "type", EMU_FMT_DEC),
    FIELD(rte_icmp_hdr, icmp_code, "code", EMU_FMT_DEC),
    FIELD(rte_icmp_hdr, icmp_cksum, "checksum", EMU_FMT_HEX),
    FIELD(rte_icmp_hdr, icmp_ident, "ident", EMU_FMT_DEC),
    FIELD(rte_icmp_hdr, icmp_seq_nb, "seq", EMU_FMT_DEC),
    { NULL, 0, 0, 0 },
};

static const struct emu_field icmp6_fields[] = {
    FIELD(rte_flow_item_icmp6, type, "type", EMU_FMT_DEC),
    FIELD(rte_flow_item_icmp6, code, "code", EMU_FMT_DEC),
    FIELD(rte_flow_item_icmp6, checksum, "checksum", EMU_FMT_HEX),
    { NULL, 0, 0, 0 },
};

static const struct emu_field vxlan_fields[] = {
    { "flags", 0, 1, EMU_FMT_HEX },
    { "reserved", 1, 3, EMU_FMT_HEX },
    { "vni", 4, 3, EMU_FMT_HEX },
    { "last_reserved", 7, 1, EMU_FMT_HEX },
    { NULL, 0, 0, 0 },
};

static const struct emu_field geneve_fields[] = {
    { "opt_len", 0, 1, EMU_FMT_DEC6 },
    { "flags", 1, 1, EMU_FMT_HEX },
    { "protocol", 2, 2, EMU_FMT_HEX },
    { "vni", 4, 3, EMU_FMT_HEX },
    { "reserved", 7, 1, EMU_FMT_HEX },
    { NULL, 0, 0, 0 },
};

/* Options are not at one place of a packet. */
static const struct emu_field no_fields[] = {
    { NULL, 0, 0, 0 },
};

static const struct emu_field port_fields[] = {
    FIELD(rte_flow_item_ethdev, port_id, "id", EMU_FMT_PORT),
    { NULL, 0, 0, 0 },
};

static const struct emu_field conntrack_fields[] = {
    FIELD(rte_flow_item_conntrack, flags, "flags", EMU_FMT_HOST),
    { NULL, 0, 0, 0 },
};

/* What the mlx5 profiles match: like the masks in the driver's item checks,
 * the rest of a header cannot be matched. */

static const struct rte_flow_item_vlan mlx5_vlan_mask = {
    .hdr.vlan_tci = RTE_BE16(0xefff),
    .hdr.eth_proto = RTE_BE16(0xffff),
    .has_more_vlan = 1,
};

static const struct rte_flow_item_ipv4 mlx5_ipv4_mask = {
    .hdr = {
        .version_ihl = 0x0f,
        .type_of_service = 0xff,
        .fragment_offset = RTE_BE16(0xffff),
        .time_to_live = 0xff,
        .next_proto_id = 0xff,
        .src_addr = RTE_BE32(0xffffffff),
        .dst_addr = RTE_BE32(0xffffffff),
    },
};

static const struct rte_tcp_hdr mlx5_tcp_mask = {
    .src_port = RTE_BE16(0xffff),
    .dst_port = RTE_BE16(0xffff),
    .tcp_flags = 0xff,
};

static const struct rte_udp_hdr mlx5_udp_mask = {
    .src_port = RTE_BE16(0xffff),
    .dst_port = RTE_BE16(0xffff),
    .dgram_cksum = RTE_BE16(0xffff), /* Outside of a tunnel, in full. */
};

static const struct rte_sctp_hdr mlx5_sctp_mask = {
    .src_port = RTE_BE16(0xffff),
    .dst_port = RTE_BE16(0xffff),
};

static const struct rte_ipv6_fragment_ext mlx5_frag_mask = {
    .next_header = 0xff,
    .frag_data = RTE_BE16(0xffff),
};

static const struct rte_icmp_hdr mlx5_icmp_mask = {
    .icmp_type = 0xff,
    .icmp_code = 0xff,
    .icmp_ident = RTE_BE16(0xffff),
    .icmp_seq_nb = RTE_BE16(0xffff),
};

static const struct rte_flow_item_icmp6 mlx5_icmp6_mask = {
    .type = 0xff,
    .code = 0xff,
};

static const struct rte_flow_item_vxlan mlx5_vxlan_mask = {
    .hdr.vx_vni = RTE_BE32(0xffffff00),
};

static const struct rte_flow_item_geneve mlx5_geneve_mask = {
    .ver_opt_len_o_c_rsvd0 = RTE_BE16(0x3f00),
    .protocol = RTE_BE16(0xffff),
    .vni = { 0xff, 0xff, 0xff },
};

#define ITEM(TYPE, NAME, LAYER, MEMBER, DEFAULT, MLX5, FIELDS)              \
    { RTE_FLOW_ITEM_TYPE_##TYPE, NAME, LAYER,                               \
      offsetof(struct emu_fields, MEMBER),                                  \
      sizeof ((struct emu_fields *) NULL)->MEMBER, DEFAULT, MLX5, FIELDS }

static const struct emu_item_class classes[] = {
    ITEM(ETH, "eth", EMU_ETH, eth, &rte_flow_item_eth_mask, NULL, eth_fields),
    ITEM(VLAN, "vlan", EMU_VLAN, vlan[0], &rte_flow_item_vlan_mask,
         &mlx5_vlan_mask, vlan_fields),
    ITEM(IPV4, "ipv4", EMU_IPV4, ipv4, &rte_flow_item_ipv4_mask,
         &mlx5_ipv4_mask, ipv4_fields),
    ITEM(IPV6, "ipv6", EMU_IPV6, ipv6, &rte_flow_item_ipv6_mask, NULL,
         ipv6_fields),
    ITEM(IPV6_FRAG_EXT, "ipv6_frag_ext", EMU_FRAG_EXT, frag, NULL,
         &mlx5_frag_mask, frag_fields),
    ITEM(TCP, "tcp", EMU_TCP, tcp, &rte_flow_item_tcp_mask, &mlx5_tcp_mask,
         tcp_fields),
    ITEM(UDP, "udp", EMU_UDP, udp, &rte_flow_item_udp_mask, &mlx5_udp_mask,
         udp_fields),
    ITEM(SCTP, "sctp", EMU_SCTP, sctp, &rte_flow_item_sctp_mask,
         &mlx5_sctp_mask, sctp_fields),
    ITEM(ICMP, "icmp", EMU_ICMP, icmp, &rte_flow_item_icmp_mask,
         &mlx5_icmp_mask, icmp_fields),
    ITEM(ICMP6, "icmp6", EMU_ICMP6, icmp6, &rte_flow_item_icmp6_mask,
         &mlx5_icmp6_mask, icmp6_fields),
    ITEM(VXLAN, "vxlan", EMU_VXLAN, vxlan, &rte_flow_item_vxlan_mask,
         &mlx5_vxlan_mask, vxlan_fields),
    ITEM(GENEVE, "geneve", EMU_GENEVE, geneve, &rte_flow_item_geneve_mask,
         &mlx5_geneve_mask, geneve_fields),
    { RTE_FLOW_ITEM_TYPE_GENEVE_OPT, "geneve_opt", EMU_GENEVE_OPT, 0, 0,
      &rte_flow_item_geneve_opt_mask, NULL, no_fields },
    ITEM(CONNTRACK, "conntrack", EMU_CT, ct, &rte_flow_item_conntrack_mask,
         NULL, conntrack_fields),
    ITEM(REPRESENTED_PORT, "represented_port", EMU_PORT, port,
         &rte_flow_item_ethdev_mask, NULL, port_fields),
};

/* Returns what there is to know about items of 'type', or NULL if the NIC
 * cannot match them. */
const struct emu_item_class *
emu_item_class(enum rte_flow_item_type type)
{
    for (size_t i = 0; i < EMU_ARRAY_SIZE(classes); i++) {
        if (classes[i].type == type) {
            return &classes[i];
        }
    }
    return NULL;
}

/* Writes the value of 'field' at 'bytes' to 'out' the way people read it. */
void
emu_bytes_format(FILE *out, const uint8_t *bytes,
                 const struct emu_field *field)
{
    char buffer[INET6_ADDRSTRLEN];
    uint64_t value = 0;

    switch (field->format) {
    case EMU_FMT_IPV4:
        fputs(inet_ntop(AF_INET, bytes, buffer, sizeof buffer), out);
        return;
    case EMU_FMT_IPV6:
        fputs(inet_ntop(AF_INET6, bytes, buffer, sizeof buffer), out);
        return;
    case EMU_FMT_MAC:
        for (int i = 0; i < 6; i++) {
            fprintf(out, "%s%02x", i ? ":" : "", bytes[i]);
        }
        return;
    case EMU_FMT_HOST: {
        uint32_t host;

        memcpy(&host, bytes, sizeof host);
        fprintf(out, "%#"PRIx32, host);
        return;
    }
    case EMU_FMT_PORT: {
        uint16_t port;

        memcpy(&port, bytes, sizeof port);
        fprintf(out, "%"PRIu16, port);
        return;
    }
    case EMU_FMT_DEC:
    case EMU_FMT_DEC6:
    case EMU_FMT_HEX:
        break;
    }
    for (int i = 0; i < field->size; i++) {
        value = value << 8 | bytes[i];
    }
    if (field->format == EMU_FMT_HEX) {
        fprintf(out, "0x%0*"PRIx64, field->size * 2, value);
    } else {
        fprintf(out, "%"PRIu64, value);
    }
}
