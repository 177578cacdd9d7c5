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

#include "ct-offload-dpdk-tunnel.h"

#include <netinet/in.h>
#include <string.h>

#include "ct-offload.h"
#include "flow.h"
#include "netdev-native-tnl.h"
#include "odp-netlink.h"
#include "openvswitch/geneve.h"
#include "openvswitch/match.h"
#include "packets.h"
#include "unaligned.h"
#include "util.h"

/* Bits of 'ver_opt_len_o_c_rsvd0', see RFC 8926. */
#define GENEVE_OPT_LEN_SHIFT 8
#define GENEVE_OPT_LEN_MASK 0x3f00
#define GENEVE_OAM 0x0080

/* Matching what is outside.
 *
 * These clear in 'left' what they have translated. */

#define CLEAR(LEFT, FIELD) memset(&(LEFT)->FIELD, 0, sizeof (LEFT)->FIELD)

static void
match_eth(struct dpdk_tunnel_in *in, struct dpdk_flow_pattern *pattern,
          const struct ct_offload_tunnel *tunnel)
{
    memcpy(&in->eth.hdr.src_addr, &tunnel->src, ETH_ADDR_LEN);
    memcpy(&in->eth.hdr.dst_addr, &tunnel->dst, ETH_ADDR_LEN);
    memcpy(&in->eth_mask.hdr.src_addr, &tunnel->src_mask, ETH_ADDR_LEN);
    memcpy(&in->eth_mask.hdr.dst_addr, &tunnel->dst_mask, ETH_ADDR_LEN);
    in->eth_mask.has_vlan = 1;
    dpdk_flow_pattern_add(pattern, RTE_FLOW_ITEM_TYPE_ETH, &in->eth,
                          &in->eth_mask);
}

static void
match_ipv4(struct dpdk_tunnel_in *in, struct dpdk_flow_pattern *pattern,
           const struct flow_tnl *value, const struct flow_tnl *mask_,
           struct flow_tnl *left)
{
    struct rte_ipv4_hdr *spec = &in->ip.ipv4.hdr;
    struct rte_ipv4_hdr *mask = &in->ip_mask.ipv4.hdr;

    spec->src_addr = value->ip_src;
    spec->dst_addr = value->ip_dst;
    spec->type_of_service = value->ip_tos;
    spec->time_to_live = value->ip_ttl;
    mask->src_addr = mask_->ip_src;
    mask->dst_addr = mask_->ip_dst;
    mask->type_of_service = mask_->ip_tos;
    mask->time_to_live = mask_->ip_ttl;
    mask->fragment_offset = htons(IP_FRAG_OFF_MASK | IP_MORE_FRAGMENTS);
    dpdk_flow_pattern_add(pattern, RTE_FLOW_ITEM_TYPE_IPV4, &in->ip.ipv4,
                          &in->ip_mask.ipv4);
    left->ip_src = left->ip_dst = 0;
}

static void
match_ipv6(struct dpdk_tunnel_in *in, struct dpdk_flow_pattern *pattern,
           const struct flow_tnl *value, const struct flow_tnl *mask_,
           struct flow_tnl *left)
{
    struct rte_ipv6_hdr *spec = &in->ip.ipv6.hdr;
    struct rte_ipv6_hdr *mask = &in->ip_mask.ipv6.hdr;

    memcpy(&spec->src_addr, &value->ipv6_src, sizeof spec->src_addr);
    memcpy(&spec->dst_addr, &value->ipv6_dst, sizeof spec->dst_addr);
    memcpy(&mask->src_addr, &mask_->ipv6_src, sizeof mask->src_addr);
    memcpy(&mask->dst_addr, &mask_->ipv6_dst, sizeof mask->dst_addr);
    spec->vtc_flow = htonl((uint32_t) value->ip_tos << RTE_IPV6_HDR_TC_SHIFT);
    mask->vtc_flow = htonl((uint32_t) mask_->ip_tos << RTE_IPV6_HDR_TC_SHIFT);
    spec->hop_limits = value->ip_ttl;
    mask->hop_limits = mask_->ip_ttl;
    in->ip_mask.ipv6.has_frag_ext = 1;
    dpdk_flow_pattern_add(pattern, RTE_FLOW_ITEM_TYPE_IPV6, &in->ip.ipv6,
                          &in->ip_mask.ipv6);
    CLEAR(left, ipv6_src);
    CLEAR(left, ipv6_dst);
}

static void
match_udp(struct dpdk_tunnel_in *in, struct dpdk_flow_pattern *pattern,
          const struct flow_tnl *value, const struct flow_tnl *mask,
          struct flow_tnl *left)
{
    in->udp.hdr.src_port = value->tp_src;
    in->udp.hdr.dst_port = value->tp_dst;
    in->udp_mask.hdr.src_port = mask->tp_src;
    in->udp_mask.hdr.dst_port = mask->tp_dst;
    dpdk_flow_pattern_add(pattern, RTE_FLOW_ITEM_TYPE_UDP, &in->udp,
                          &in->udp_mask);
    left->tp_src = left->tp_dst = 0;
}

static ovs_be32
tun_id_to_vni(ovs_be64 tun_id)
{
    return htonl(ntohll(tun_id) << 8);
}

static void
match_vxlan(struct dpdk_tunnel_in *in, struct dpdk_flow_pattern *pattern,
            const struct flow_tnl *value, const struct flow_tnl *mask)
{
    in->header.vxlan.hdr.vx_vni = tun_id_to_vni(value->tun_id);
    in->header_mask.vxlan.hdr.vx_vni = tun_id_to_vni(mask->tun_id);
    dpdk_flow_pattern_add(pattern, RTE_FLOW_ITEM_TYPE_VXLAN,
                          &in->header.vxlan, &in->header_mask.vxlan);
}

/* Adds an item for the Geneve option at 'value', the mask of which is at
 * 'mask'.  Returns false if there are too many. */
static bool
match_option(struct dpdk_tunnel_in *in, struct dpdk_flow_pattern *pattern,
             const struct geneve_opt *value, const struct geneve_opt *mask)
{
    struct rte_flow_item_geneve_opt *spec, *m;

    if (in->n_opts >= DPDK_TUNNEL_MAX_OPTS) {
        return false;
    }
    for (size_t i = 0; i < in->n_opts; i++) {
        if (in->opts[i].option_class == value->opt_class
            && in->opts[i].option_type == value->type) {
            return false;       /* Which of them? */
        }
    }
    spec = &in->opts[in->n_opts];
    m = &in->opt_masks[in->n_opts++];
    spec->option_class = value->opt_class;
    spec->option_type = value->type;
    spec->option_len = value->length;
    m->option_class = OVS_BE16_MAX;
    m->option_type = UINT8_MAX;
    m->option_len = 0x1f;
    if (value->length) {
        spec->data = CONST_CAST(void *, (const void *) (value + 1));
        m->data = CONST_CAST(void *, (const void *) (mask + 1));
    }
    dpdk_flow_pattern_add(pattern, RTE_FLOW_ITEM_TYPE_GENEVE_OPT, spec, m);
    return true;
}

/* Adds items for those of 'len' bytes of options that 'mask' matches. */
static bool
match_options(struct dpdk_tunnel_in *in, struct dpdk_flow_pattern *pattern,
              const struct tun_metadata *value,
              const struct tun_metadata *mask, size_t len)
{
    size_t i = 0, n = len / sizeof *value->opts.gnv;

    while (i < n && !is_all_zeros(&mask->opts.gnv[i],
                                  (n - i) * sizeof *mask->opts.gnv)) {
        const struct geneve_opt *opt = &value->opts.gnv[i];
        const struct geneve_opt *m = &mask->opts.gnv[i];

        if (m->opt_class != OVS_BE16_MAX || m->type != UINT8_MAX
            || m->length != 0x1f || m->r1 || m->r2 || m->r3
            || i + 1 + opt->length > n
            || !match_option(in, pattern, opt, m)) {
            return false;
        }
        i += 1 + opt->length;
    }
    return true;
}

static bool
match_geneve(struct dpdk_tunnel_in *in, struct dpdk_flow_pattern *pattern,
             const struct flow_tnl *value, const struct flow_tnl *mask,
             struct flow_tnl *left)
{
    struct rte_flow_item_geneve *spec = &in->header.geneve;
    struct rte_flow_item_geneve *m = &in->header_mask.geneve;
    size_t len = value->metadata.present.len;
    ovs_be32 vni = tun_id_to_vni(value->tun_id);
    ovs_be32 vni_mask = tun_id_to_vni(mask->tun_id);

    if (mask->metadata.present.len != UINT8_MAX) {
        return false;
    }
    spec->ver_opt_len_o_c_rsvd0
        = htons(len / 4 << GENEVE_OPT_LEN_SHIFT
                | (value->flags & FLOW_TNL_F_OAM ? GENEVE_OAM : 0));
    m->ver_opt_len_o_c_rsvd0
        = htons(GENEVE_OPT_LEN_MASK
                | (mask->flags & FLOW_TNL_F_OAM ? GENEVE_OAM : 0));
    spec->protocol = htons(ETH_TYPE_TEB);
    m->protocol = OVS_BE16_MAX;
    memcpy(spec->vni, &vni, sizeof spec->vni);
    memcpy(m->vni, &vni_mask, sizeof m->vni);
    dpdk_flow_pattern_add(pattern, RTE_FLOW_ITEM_TYPE_GENEVE, spec, m);
    left->flags &= ~FLOW_TNL_F_OAM;
    left->metadata.present.len = 0;
    memset(left->metadata.opts.gnv, 0, len);
    return match_options(in, pattern, &value->metadata, &mask->metadata, len);
}

/* Adds items to 'pattern' for what 'match' and 'tunnel' say of what is outside
 * of packets.  'match' must stay for as long as 'in' does.  Clears in 'left'
 * what it has translated.  Returns false if it cannot translate everything. */
bool
dpdk_tunnel_match(struct dpdk_tunnel_in *in, struct dpdk_flow_pattern *pattern,
                  const struct match *match,
                  const struct ct_offload_tunnel *tunnel, struct flow *left_)
{
    const struct flow_tnl *value = &match->flow.tunnel;
    const struct flow_tnl *mask = &match->wc.masks.tunnel;
    struct flow_tnl *left = &left_->tunnel;

    memset(in, 0, offsetof(struct dpdk_tunnel_in, decap_data));
    match_eth(in, pattern, tunnel);
    if (tunnel->ipv6) {
        match_ipv6(in, pattern, value, mask, left);
    } else {
        match_ipv4(in, pattern, value, mask, left);
    }
    match_udp(in, pattern, value, mask, left);
    left->ip_tos = left->ip_ttl = 0;
    if (value->tun_id & mask->tun_id & ~htonll(0xffffff)) {
        return false;           /* No packet has that. */
    }
    left->tun_id = 0;
    if (tunnel->type == CT_OFFLOAD_TUNNEL_VXLAN) {
        match_vxlan(in, pattern, value, mask);
        return true;
    }
    return match_geneve(in, pattern, value, mask, left);
}

/* Actions. */

/* Stores in 'in' a header of those that 'tunnel' matches. */
static void
make_decap_data(struct dpdk_tunnel_in *in,
                const struct ct_offload_tunnel *tunnel)
{
    uint8_t *p = in->decap_data;
    struct rte_ipv4_hdr ipv4 = in->ip.ipv4.hdr;
    struct rte_ipv6_hdr ipv6 = in->ip.ipv6.hdr;
    struct rte_ether_hdr eth = in->eth.hdr;
    size_t ip_len;

    memset(p, 0, tunnel->header_len);
    eth.ether_type = htons(tunnel->ipv6 ? ETH_TYPE_IPV6 : ETH_TYPE_IP);
    ipv4.version_ihl = IP_IHL_VER(5, 4);
    ipv4.next_proto_id = IPPROTO_UDP;
    ipv6.vtc_flow |= htonl(6 << 28);
    ipv6.proto = IPPROTO_UDP;
    ip_len = tunnel->ipv6 ? sizeof ipv6 : sizeof ipv4;

    memcpy(p, &eth, sizeof eth);
    p += sizeof eth;
    memcpy(p, tunnel->ipv6 ? (void *) &ipv6 : (void *) &ipv4, ip_len);
    p += ip_len;
    memcpy(p, &in->udp.hdr, sizeof in->udp.hdr);
    p += sizeof in->udp.hdr;
    memcpy(p, &in->header.geneve, sizeof in->header.geneve);
}

/* Returns the action that takes packets out of 'tunnel', after
 * dpdk_tunnel_match(). */
struct rte_flow_action
dpdk_tunnel_decap(struct dpdk_tunnel_in *in,
                  const struct ct_offload_tunnel *tunnel)
{
    if (tunnel->type == CT_OFFLOAD_TUNNEL_VXLAN) {
        return (struct rte_flow_action) {
            .type = RTE_FLOW_ACTION_TYPE_VXLAN_DECAP,
        };
    }
    make_decap_data(in, tunnel);
    in->decap.data = in->decap_data;
    in->decap.size = tunnel->header_len;
    return (struct rte_flow_action) {
        .type = RTE_FLOW_ACTION_TYPE_RAW_DECAP,
        .conf = &in->decap,
    };
}

static void
out_add_item(struct dpdk_tunnel_out *out, size_t i,
             enum rte_flow_item_type type, const void *spec, const void *mask)
{
    out->items[i] = (struct rte_flow_item) {
        .type = type, .spec = spec, .mask = mask,
    };
}

/* Says the VXLAN header in 'out', the IPv6 or IPv4 header of which is at 'ip'
 * and the UDP header at 'udp', in items. */
static void
make_vxlan_items(struct dpdk_tunnel_out *out, bool ipv6, const void *ip,
                 const struct udp_header *udp)
{
    memset(&out->eth, 0, sizeof out->eth);
    memcpy(&out->eth.hdr, out->header, sizeof out->eth.hdr);
    out_add_item(out, 0, RTE_FLOW_ITEM_TYPE_ETH, &out->eth,
                 &rte_flow_item_eth_mask);
    if (ipv6) {
        memset(&out->ipv6, 0, sizeof out->ipv6);
        memcpy(&out->ipv6.hdr, ip, sizeof out->ipv6.hdr);
        out_add_item(out, 1, RTE_FLOW_ITEM_TYPE_IPV6, &out->ipv6,
                     &rte_flow_item_ipv6_mask);
    } else {
        out_add_item(out, 1, RTE_FLOW_ITEM_TYPE_IPV4, ip,
                     &rte_flow_item_ipv4_mask);
    }
    out_add_item(out, 2, RTE_FLOW_ITEM_TYPE_UDP, udp,
                 &rte_flow_item_udp_mask);
    out_add_item(out, 3, RTE_FLOW_ITEM_TYPE_VXLAN, udp + 1,
                 &rte_flow_item_vxlan_mask);
    out_add_item(out, 4, RTE_FLOW_ITEM_TYPE_END, NULL, NULL);
}

/* Stores in '*action' the one that puts packets into the tunnel in 'push'.
 * Returns false if there is none. */
bool
dpdk_tunnel_encap(struct dpdk_tunnel_out *out,
                  const struct ovs_action_push_tnl *push,
                  struct rte_flow_action *action)
{
    bool ipv6 = netdev_tnl_is_header_ipv6(push->header);
    void *ip = (char *) out->header + ETH_HEADER_LEN;
    struct udp_header *udp;

    if (push->header_len > sizeof out->header
        || (push->tnl_type != OVS_VPORT_TYPE_VXLAN
            && push->tnl_type != OVS_VPORT_TYPE_GENEVE)) {
        return false;
    }
    memcpy(out->header, push->header, push->header_len);
    udp = ALIGNED_CAST(struct udp_header *,
                       (char *) ip + (ipv6 ? IPV6_HEADER_LEN
                                      : IP_HEADER_LEN));
    udp->udp_csum = 0;
    if (push->tnl_type == OVS_VPORT_TYPE_VXLAN) {
        make_vxlan_items(out, ipv6, ip, udp);
        out->encap.vxlan.definition = out->items;
        action->type = RTE_FLOW_ACTION_TYPE_VXLAN_ENCAP;
    } else {
        out->encap.raw = (struct rte_flow_action_raw_encap) {
            .data = (uint8_t *) out->header, .size = push->header_len,
        };
        action->type = RTE_FLOW_ACTION_TYPE_RAW_ENCAP;
    }
    action->conf = &out->encap;
    return true;
}
