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

#ifdef DPDK_NETDEV
#undef NDEBUG

#include "test-ct-offload-dpdk.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "conntrack.h"
#include "ct-offload-dpdk-path.h"
#include "ct-offload-dpdk.h"
#include "ct-offload.h"
#include "dp-packet.h"
#include "dpif.h"
#include "netdev.h"
#include "odp-util.h"
#include "openvswitch/json.h"
#include "openvswitch/match.h"
#include "openvswitch/ofp-flow.h"
#include "openvswitch/ofpbuf.h"
#include "packets.h"
#include "smap.h"
#include "timeval.h"
#include "util.h"

/* Tests of paths on the rte_flow provider: what rule a path becomes, and what
 * there is on the NIC, whatever happens to it and to its ports. */

/* Paths, from text. */

/* Initializes '*match' to 's', as "ovs-ofctl add-flow" takes it, and to what
 * the match of each path says besides. */
static void
match_from_string(struct match *match, const char *s)
{
    enum ofputil_protocol usable;
    struct ofputil_flow_mod fm;
    char *flow, *error;

    flow = xasprintf("%s,actions=drop", s);
    error = parse_ofp_str(&fm, OFPFC_ADD, flow, NULL, NULL, &usable);
    free(flow);
    if (error) {
        ovs_fatal(0, "%s: %s", s, error);
    }
    minimatch_expand(&fm.match, match);
    minimatch_destroy(&fm.match);
    free(CONST_CAST(struct ofpact *, fm.ofpacts));

    match->flow.in_port.odp_port = u32_to_odp(1);
    WC_MASK_FIELD(&match->wc, in_port);
    WC_MASK_FIELD(&match->wc, recirc_id);
    WC_MASK_FIELD(&match->wc, packet_type);
    match->wc.masks.nw_frag = FLOW_NW_FRAG_MASK;
    if (match->flow.vlans[0].tci & htons(VLAN_CFI)) {
        match->wc.masks.vlans[1].tci = OVS_BE16_MAX;
    }
}

static void
actions_from_string(struct ofpbuf *b, const char *s)
{
    ofpbuf_init(b, 0);
    if (odp_actions_from_string(s, NULL, b)) {
        ovs_fatal(0, "%s: these are no actions", s);
    }
}

/* Has the provider make a path of 'match' and 'actions' from netdevs[in] to
 * netdevs[out].  Returns 0 or a positive errno value. */
static int
path_add(const char *match_s, const char *actions_s, int in, int out,
         void **priv)
{
    struct ct_offload_path path = {
        .netdev_in = netdevs[in],
        .netdev_out = actions_s[0] ? netdevs[out] : NULL,
        .in_port = u32_to_odp(1), .out_port = u32_to_odp(2), .n_conns = 1,
    };
    struct ofpbuf actions;
    struct match match;
    int error;

    match_from_string(&match, match_s);
    actions_from_string(&actions, actions_s);
    path.match = &match;
    path.actions = actions.data;
    path.actions_len = actions.size;
    error = ct_offload_dpdk_class.path_add(&path, priv);
    ofpbuf_uninit(&actions);
    return error;
}

/* The same for a fence at netdevs[in]. */
static int
fence_add(const char *match_s, int in, void **priv)
{
    struct ct_offload_path fence = {
        .fence = true, .netdev_in = netdevs[in],
        .in_port = u32_to_odp(1), .out_port = ODPP_NONE,
    };
    struct match match;

    match_from_string(&match, match_s);
    fence.match = &match;
    return ct_offload_dpdk_class.path_add(&fence, priv);
}

static void
path_del(void **priv, uint64_t n_packets)
{
    struct dpif_flow_stats stats = { .n_packets = 0 };

    ct_offload_dpdk_class.path_del(priv, &stats);
    ovs_assert(stats.n_packets == n_packets);
}

/* The NIC. */

/* Returns the transfer rules of port 'i', a line each, which the caller must
 * free. */
static char *
nic_paths(int i)
{
    struct ds ds = DS_EMPTY_INITIALIZER;
    char *answer = nic("json");
    struct json *json = json_from_string(answer);
    const struct json *ports = shash_find_data(json_object(json), "ports");
    const struct json *rules
        = shash_find_data(json_object(json_array_at(ports, i)), "rules");

    for (size_t j = 0; j < json_array_size(rules); j++) {
        const struct shash *rule = json_object(json_array_at(rules, j));
        const char *domain = json_string(shash_find_data(rule, "domain"));

        if (!strcmp(domain, "transfer")) {
            ds_put_format(&ds, "%"PRId64"/%"PRId64": %s => %s\n",
                          json_integer(shash_find_data(rule, "group")),
                          json_integer(shash_find_data(rule, "priority")),
                          json_string(shash_find_data(rule, "pattern")),
                          json_string(shash_find_data(rule, "actions")));
        }
    }
    json_destroy(json);
    free(answer);
    return ds_steal_cstr(&ds);
}

static void
check_nic_paths(int i, const char *expected)
{
    char *paths = nic_paths(i);

    if (strcmp(paths, expected)) {
        ovs_fatal(0, "port %d has\n%snot\n%s", i, paths, expected);
    }
    free(paths);
}

/* Returns how many rules port 'i' has refused to create since this was last
 * asked. */
static int
nic_n_refused(int i)
{
    static long long int last[N_PORTS];
    char *answer = nic("json");
    struct json *json = json_from_string(answer);
    const struct json *port
        = json_array_at(shash_find_data(json_object(json), "ports"), i);
    const struct json *ops = shash_find_data(json_object(port), "operations");
    const struct json *op = shash_find_data(json_object(ops), "create");
    long long int before = last[i];

    last[i] = json_integer(shash_find_data(json_object(op), "failed"));
    json_destroy(json);
    free(answer);
    return last[i] - before;
}

static long long int
nic_stale(void)
{
    char *answer = nic("json");
    struct json *json = json_from_string(answer);
    long long int n;

    n = json_integer(shash_find_data(json_object(json), "stale"));
    json_destroy(json);
    free(answer);
    return n;
}

/* Ends with a message and with what the provider says. */
static void OVS_PRINTF_FORMAT(1, 2)
fail(const char *format, ...)
{
    struct ds ds = DS_EMPTY_INITIALIZER;
    va_list args;

    va_start(args, format);
    ds_put_format_valist(&ds, format, args);
    va_end(args);
    ds_put_char(&ds, '\n');
    ct_offload_dpdk_class.get_debug(&ds, NULL);
    ovs_fatal(0, "%s", ds_cstr(&ds));
}

/* Tests. */

#define UDP4 "udp,vlan_tci=0,nw_src=10.0.0.1,nw_dst=10.0.0.2,"              \
    "udp_src=1,udp_dst=80"
#define TAGGED_UDP4 "udp,dl_vlan=5,nw_src=10.0.0.1,nw_dst=10.0.0.2,"       \
    "udp_src=1,udp_dst=80"
#define TCP4 "tcp,vlan_tci=0,nw_src=10.0.0.1,nw_dst=10.0.0.2,"              \
    "tcp_src=1,tcp_dst=80,tcp_flags=-fin-syn-rst+ack"
#define UDP6 "udp6,vlan_tci=0,ipv6_src=fc00::1,ipv6_dst=fc00::2,"           \
    "udp_src=1,udp_dst=80"

#define UDP4_RULE "0/1: eth has_vlan is 0 / ipv4 fragment_offset is 0x0000 " \
    "mask 0x3fff src is 10.0.0.1 dst is 10.0.0.2 / "                        \
    "udp src is 1 dst is 80 / end => "
#define TCP4_RULE "0/1: eth has_vlan is 0 / ipv4 fragment_offset is 0x0000 " \
    "mask 0x3fff src is 10.0.0.1 dst is 10.0.0.2 / "                        \
    "tcp src is 1 dst is 80 flags is 0x10 mask 0x17 / end => "
#define UDP6_RULE "0/1: eth has_vlan is 0 / ipv6 src is fc00::1 "           \
    "dst is fc00::2 has_frag_ext is 0 / udp src is 1 dst is 80 / end => "
#define OUT "represented_port id 1 / end\n"

/* What a path becomes. */
static void
test_rules(void)
{
    static const struct {
        const char *match;
        const char *actions;
        const char *rule;
    } cases[] = {
        { UDP4, "2", UDP4_RULE "count / " OUT },
        { TCP4, "2", TCP4_RULE "count / " OUT },
        { UDP6, "2", UDP6_RULE "count / " OUT },
        { UDP4, "", UDP4_RULE "count / drop / end\n" },

        /* What megaflows match besides. */
        { UDP4 ",dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02", "2",
          "0/1: eth dst is 02:00:00:00:00:02 src is 02:00:00:00:00:01 "
          "has_vlan is 0 / ipv4 fragment_offset is 0x0000 mask 0x3fff "
          "src is 10.0.0.1 dst is 10.0.0.2 / udp src is 1 dst is 80 / end => "
          "count / " OUT },
        { UDP4 ",nw_ttl=64,nw_tos=184", "2",
          "0/1: eth has_vlan is 0 / ipv4 tos is 0xb8 mask 0xfc "
          "fragment_offset is 0x0000 mask 0x3fff ttl is 64 "
          "src is 10.0.0.1 dst is 10.0.0.2 / udp src is 1 dst is 80 / end => "
          "count / " OUT },
        { UDP6 ",nw_ttl=64,nw_tos=184", "2",
          "0/1: eth has_vlan is 0 / ipv6 vtc_flow is 0x0b800000 "
          "mask 0x0fc00000 hop is 64 src is fc00::1 dst is fc00::2 "
          "has_frag_ext is 0 / udp src is 1 dst is 80 / end => "
          "count / " OUT },

        /* VLAN tags. */
        { TAGGED_UDP4,
          "pop_vlan,2",
          "0/1: eth has_vlan is 1 / vlan tci is 0x0005 mask 0x0fff "
          "has_more_vlan is 0 / ipv4 fragment_offset is 0x0000 mask 0x3fff "
          "src is 10.0.0.1 dst is 10.0.0.2 / udp src is 1 dst is 80 / end => "
          "of_pop_vlan / count / " OUT },
        { "udp,dl_vlan=5,dl_vlan_pcp=3,nw_src=10.0.0.1,nw_dst=10.0.0.2,"
          "udp_src=1,udp_dst=80",
          "pop_vlan,push_vlan(vid=6,pcp=1),2",
          "0/1: eth has_vlan is 1 / vlan tci is 0x6005 mask 0xefff "
          "has_more_vlan is 0 / ipv4 fragment_offset is 0x0000 mask 0x3fff "
          "src is 10.0.0.1 dst is 10.0.0.2 / udp src is 1 dst is 80 / end => "
          "of_pop_vlan / count / of_push_vlan type 33024 / "
          "of_set_vlan_vid vid 6 / of_set_vlan_pcp pcp 1 / " OUT },

        /* What is set, in hardware's order. */
        { TCP4 ",nw_ttl=64",
          "set(eth(src=02:00:00:00:00:03,dst=02:00:00:00:00:04)),"
          "set(ipv4(src=10.0.0.3,dst=10.0.0.4)),set(tcp(src=3,dst=4)),"
          "set(ipv4(ttl=63)),2",
          "0/1: eth has_vlan is 0 / ipv4 fragment_offset is 0x0000 "
          "mask 0x3fff ttl is 64 src is 10.0.0.1 dst is 10.0.0.2 / "
          "tcp src is 1 dst is 80 flags is 0x10 mask 0x17 / end => count / "
          "set_mac_src 02:00:00:00:00:03 / "
          "set_mac_dst 02:00:00:00:00:04 / "
          "set_ipv4_src 10.0.0.3 / "
          "set_ipv4_dst 10.0.0.4 / set_tp_src port 3 / "
          "set_tp_dst port 4 / set_ttl ttl 63 / " OUT },
        { UDP6, "set(ipv6(dst=fc00::4)),set(udp(dst=4)),"
          "set(ipv6(hlimit=63)),2",
          UDP6_RULE "count / set_ipv6_dst fc00::4 / "
          "set_tp_dst port 4 / set_ttl ttl 63 / " OUT },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        void *priv;

        if (path_add(cases[i].match, cases[i].actions, 0, 1, &priv)) {
            fail("%s %s: no rule", cases[i].match, cases[i].actions);
        }
        check_nic_paths(0, cases[i].rule);
        path_del(&priv, 0);
        check_nic_paths(0, "");
    }
}

/* What there are no words for. */
static void
test_no_rules(void)
{
    static const struct {
        const char *match;
        const char *actions;
        enum dpdk_path_result result;
    } cases[] = {
        { "icmp,vlan_tci=0", "2", DPDK_PATH_BAD_MATCH },
        { "udp", "2", DPDK_PATH_BAD_MATCH }, /* Tagged or not? */
        { UDP4 ",metadata=1", "2", DPDK_PATH_BAD_MATCH },
        { UDP4 ",ct_mark=1", "2", DPDK_PATH_BAD_MATCH },
        { UDP4 ",tun_id=0", "2", DPDK_PATH_BAD_MATCH },
        { UDP6 ",ipv6_label=1", "2", DPDK_PATH_BAD_MATCH },
        { UDP4, "2,2", DPDK_PATH_BAD_ACTION },
        { UDP4, "2,set(udp(dst=4))", DPDK_PATH_BAD_ACTION },
        { UDP4, "set(udp(dst=4))", DPDK_PATH_BAD_ACTION },
        { UDP4, "pop_vlan,2", DPDK_PATH_BAD_ACTION },
        { UDP4, "push_vlan(vid=1,pcp=0),push_vlan(vid=2,pcp=0),2",
          DPDK_PATH_BAD_ACTION },
        { UDP4, "set(udp(dst=4)),set(udp(dst=5)),2", DPDK_PATH_BAD_ACTION },
        { UDP4, "set(udp(dst=4/0xff)),2", DPDK_PATH_BAD_ACTION },
        { UDP4, "set(tcp(dst=4)),2", DPDK_PATH_BAD_ACTION },
        { UDP4, "set(ipv6(dst=fc00::4)),2", DPDK_PATH_BAD_ACTION },
        { UDP4, "set(ipv4(tos=4)),2", DPDK_PATH_BAD_ACTION },
        { UDP4, "set(ipv4(tos=4,ttl=5)),2", DPDK_PATH_BAD_ACTION },
        { UDP6, "set(ipv6(label=4)),2", DPDK_PATH_BAD_ACTION },
        { UDP4, "set(skb_mark(4)),2", DPDK_PATH_BAD_ACTION },
        { UDP4, "recirc(1)", DPDK_PATH_BAD_ACTION },
        { UDP4, "trunc(100),2", DPDK_PATH_BAD_ACTION },
    };
    const struct dpdk_path_options options = { .from = 0, .to = 1 };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        enum dpdk_path_result result;
        struct dpdk_path_rule rule;
        struct ofpbuf actions;
        struct match match;

        match_from_string(&match, cases[i].match);
        actions_from_string(&actions, cases[i].actions);
        result = dpdk_path_rule_init(&rule, &match, NULL, actions.data,
                                     actions.size, &options);
        if (result != cases[i].result) {
            ovs_fatal(0, "%s %s: %d", cases[i].match, cases[i].actions,
                      result);
        }
        ofpbuf_uninit(&actions);
    }
}

/* Does bit 'bit' of struct flow, with mask, say nothing of packets that
 * 'match' does not say anyway?  So it is for the type of a tag that is not
 * there, and for bits that an identifier of a network does not have. */
static bool
bit_is_implied(const struct match *match, size_t bit)
{
    size_t ofs = offsetof(struct flow, vlans[0]);
    size_t id = offsetof(struct flow, tunnel.tun_id);

    return ((!(match->flow.vlans[0].tci & htons(VLAN_CFI)) && bit / 8 >= ofs
             && bit / 8 < ofs + sizeof match->flow.vlans[0])
            || (bit / 8 >= id && bit / 8 < id + 5));
}

/* Adds to 'match' what is always matched of a tunnel, and to that for Geneve
 * an option, the value of which is not matched. */
static void
match_set_tunnel(struct match *match, struct ct_offload_tunnel *tunnel)
{
    struct flow_tnl *flow = &match->flow.tunnel;
    struct flow_tnl *mask = &match->wc.masks.tunnel;

    flow->tp_dst = htons(4789);
    mask->tp_dst = OVS_BE16_MAX;
    tunnel->header_len = tunnel->ipv6 ? 70 : 50;
    if (tunnel->type == CT_OFFLOAD_TUNNEL_GENEVE) {
        flow->metadata.present.len = 2 * sizeof *flow->metadata.opts.gnv;
        mask->metadata.present.len = UINT8_MAX;
        flow->metadata.opts.gnv[0].opt_class = htons(0x102);
        mask->metadata.opts.gnv[0].opt_class = OVS_BE16_MAX;
        flow->metadata.opts.gnv[0].type = 0x80;
        mask->metadata.opts.gnv[0].type = UINT8_MAX;
        flow->metadata.opts.gnv[0].length = 1;
        mask->metadata.opts.gnv[0].length = 0x1f;
        tunnel->header_len += flow->metadata.present.len;
    }
}

/* Do the rules match the same bits? */
static bool
rules_have_same_masks(const struct dpdk_path_rule *a,
                      const struct dpdk_path_rule *b, bool tunnel)
{
    const struct dpdk_flow_pattern *am = &a->match, *bm = &b->match;
    const struct dpdk_tunnel_in *ai = &a->in, *bi = &b->in;

    if (memcmp(&am->eth_mask, &bm->eth_mask, sizeof am->eth_mask)
        || memcmp(&am->vlan_mask, &bm->vlan_mask, sizeof am->vlan_mask)
        || memcmp(&am->ip_mask, &bm->ip_mask, sizeof am->ip_mask)
        || memcmp(&am->l4_mask, &bm->l4_mask, sizeof am->l4_mask)) {
        return false;
    }
    return (!tunnel
            || (!memcmp(&ai->ip_mask, &bi->ip_mask, sizeof ai->ip_mask)
                && !memcmp(&ai->udp_mask, &bi->udp_mask, sizeof ai->udp_mask)
                && !memcmp(&ai->header_mask, &bi->header_mask,
                           sizeof ai->header_mask)
                && ai->n_opts == bi->n_opts
                && (!ai->n_opts
                    || ai->opt_masks[0].data[0] == bi->opt_masks[0].data[0])));
}

/* No bit of a match is lost: with one more, it is another rule, or none. */
static void
test_bits(void)
{
    static const struct {
        const char *match;
        struct ct_offload_tunnel tunnel;
    } cases[] = {
        { UDP4, { .type = CT_OFFLOAD_TUNNEL_NONE } },
        { TCP4, { .type = CT_OFFLOAD_TUNNEL_NONE } },
        { UDP6, { .type = CT_OFFLOAD_TUNNEL_NONE } },
        { "udp,dl_vlan=5,nw_src=10.0.0.1,nw_dst=10.0.0.2,udp_src=1,udp_dst=80",
          { .type = CT_OFFLOAD_TUNNEL_NONE } },
        { UDP4 ",tun_id=1,tun_src=10.2.0.1,tun_dst=10.2.0.2",
          { .type = CT_OFFLOAD_TUNNEL_VXLAN } },
        { TCP4 ",tun_src=10.2.0.1,tun_dst=10.2.0.2",
          { .type = CT_OFFLOAD_TUNNEL_GENEVE } },
        { UDP4 ",tun_id=1,tun_ipv6_src=fc01::1,tun_ipv6_dst=fc01::2",
          { .type = CT_OFFLOAD_TUNNEL_GENEVE, .ipv6 = true } },
    };
    const struct dpdk_path_options options = { .from = 0, .to = 1 };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct ct_offload_tunnel tunnel_ = cases[i].tunnel;
        struct ct_offload_tunnel *tunnel = tunnel_.type ? &tunnel_ : NULL;
        struct dpdk_path_rule base;
        struct ofpbuf actions;
        struct match match;
        size_t n_rules = 0;

        actions_from_string(&actions, tunnel ? "tnl_pop(3),2" : "2");
        match_from_string(&match, cases[i].match);
        if (tunnel) {
            match_set_tunnel(&match, tunnel);
        }
        ovs_assert(!dpdk_path_rule_init(&base, &match, tunnel, actions.data,
                                        actions.size, &options));
        for (size_t bit = 0; bit < 2 * 8 * sizeof(struct flow); bit++) {
            uint8_t mask = 1u << bit / 2 % 8;
            size_t byte = bit / 2 / 8;
            struct dpdk_path_rule rule;
            struct match m = match;

            if (((uint8_t *) &m.wc.masks)[byte] & mask
                || (!(bit & 1) && bit_is_implied(&m, bit / 2))) {
                continue;
            }
            ((uint8_t *) &m.wc.masks)[byte] |= mask;
            if (bit & 1) {
                ((uint8_t *) &m.flow)[byte] |= mask;
            }
            if (dpdk_path_rule_init(&rule, &m, tunnel, actions.data,
                                    actions.size, &options)) {
                continue;
            }
            if (rules_have_same_masks(&rule, &base, tunnel != NULL)) {
                ovs_fatal(0, "%s: byte %"PRIuSIZE", bit 0x%x is lost",
                          cases[i].match, byte, mask);
            }
            n_rules++;
        }
        /* MAC addresses, TOS, TTL, each with both values, and outside TOS, TTL
         * and the source port. */
        ovs_assert(n_rules >= (2 * (2 * 48 + 8 + 8)
                               + (tunnel ? 2 * (8 + 8 + 16) : 0)));
        ofpbuf_uninit(&actions);
    }
}

/* Receives from netdevs[i].  Returns the number of packets. */
static size_t
receive(int i)
{
    struct dp_packet_batch batch;
    struct netdev_rxq *rxq;
    size_t n = 0;

    ovs_assert(!netdev_rxq_open(netdevs[i], &rxq, 0));
    for (int j = 0; j < 10 && !n; j++) {
        dp_packet_batch_init(&batch);
        if (!netdev_rxq_recv(rxq, &batch, NULL)) {
            n = dp_packet_batch_size(&batch);
            dp_packet_delete_batch(&batch, true);
        }
    }
    netdev_rxq_close(rxq);
    return n;
}

/* A packet of UDP4, in VLAN 5 if 'tagged', arrives at netdevs[i].  Returns its
 * size. */
static uint32_t
arrive_as(int i, bool tagged)
{
    struct dp_packet *packet = packet_create(IPPROTO_UDP, 1, false);
    struct dp_packet_batch batch;
    uint32_t size;

    if (tagged) {
        eth_push_vlan(packet, htons(ETH_TYPE_VLAN), htons(5));
    }
    size = dp_packet_size(packet);
    dp_packet_batch_init_packet(&batch, packet);
    ovs_assert(!netdev_send(netdevs[i], 0, &batch, true));
    return size;
}

static void
arrive_at(int i)
{
    arrive_as(i, false);
}

static void
arrive(void)
{
    arrive_at(0);
}

static void
check_stats(void **priv, int error, uint64_t n_packets)
{
    struct dpif_flow_stats stats = { .n_packets = 0 };

    ovs_assert(ct_offload_dpdk_class.path_stats(priv, &stats) == error);
    ovs_assert(stats.n_packets == n_packets);
    ovs_assert(!stats.n_packets == !stats.n_bytes);
}

/* Packets are forwarded, and counted. */
static void
test_counters(void)
{
    void *priv;

    ovs_assert(!path_add(UDP4, "2", 0, 1, &priv));
    check_stats(&priv, 0, 0);
    arrive();
    ovs_assert(!receive(0) && receive(1) == 1);
    check_stats(&priv, 0, 1);
    arrive();
    ovs_assert(!receive(0) && receive(1) == 1);

    /* What hardware does not tell now. */
    nic_set("fail query next 1 EIO");
    check_stats(&priv, EAGAIN, 1);

    /* The last time that hardware is asked, it has to tell. */
    nic_set("fail query next 3 EIO");
    path_del(&priv, 2);
    arrive();
    ovs_assert(receive(0) == 1 && !receive(1));
}

/* Bytes are counted as they arrive, whatever becomes of VLAN tags. */
static void
test_counted_bytes(void)
{
    static const struct {
        bool tagged;
        const char *match;
        const char *actions;
    } tests[] = {
        { false, UDP4, "2" },
        { false, UDP4, "push_vlan(vid=6,pcp=1),2" },
        { true, TAGGED_UDP4, "2" },
        { true, TAGGED_UDP4, "pop_vlan,2" },
        { true, TAGGED_UDP4, "pop_vlan,push_vlan(vid=6,pcp=1),2" },
    };

    for (size_t i = 0; i < ARRAY_SIZE(tests); i++) {
        struct dpif_flow_stats stats;
        uint32_t size;
        void *priv;

        ovs_assert(!path_add(tests[i].match, tests[i].actions, 0, 1, &priv));
        size = arrive_as(0, tests[i].tagged);
        ovs_assert(!receive(0) && receive(1) == 1);
        ovs_assert(!ct_offload_dpdk_class.path_stats(&priv, &stats));
        ovs_assert(stats.n_packets == 1 && stats.n_bytes == size);
        ct_offload_dpdk_class.path_del(&priv, &stats);
        ovs_assert(stats.n_packets == 1 && stats.n_bytes == size);
    }
}

/* A rule that cannot be made now. */
static void
test_transient_errors(void)
{
    void *priv;

    nic_set("fail create next 1 EIO");
    ovs_assert(path_add(UDP4, "2", 0, 1, &priv) == EIO);
    ovs_assert(!path_add(UDP4, "2", 0, 1, &priv));
    path_del(&priv, 0);

    nic_set("fail create next 1 ENOSPC");
    ovs_assert(path_add(UDP4, "2", 0, 1, &priv) == ENOSPC);
    ovs_assert(path_add(UDP4, "2", 0, 1, &priv) == EAGAIN);
    ovs_assert(provider_says("paths refused: table full 1\n"));
    timeval_warp(1001);
    ovs_assert(!path_add(UDP4, "2", 0, 1, &priv));
    path_del(&priv, 0);
}

/* Rules that do not go. */
static void
test_dead_paths(void)
{
    void *priv;

    ovs_assert(!path_add(UDP4, "2", 0, 1, &priv));
    nic_set("fail destroy every 1 EIO");
    path_del(&priv, 0);
    check_nic_paths(0, UDP4_RULE "count / " OUT);
    ovs_assert(path_add(TCP4, "2", 0, 1, &priv) == EAGAIN);
    ovs_assert(provider_says("1 rules that do not go"));
    nic_set("fail all off");
    ovs_assert(!path_add(UDP4, "2", 0, 1, &priv));
    check_nic_paths(0, UDP4_RULE "count / " OUT);
    path_del(&priv, 0);
    check_nic_paths(0, "");
}

/* What hardware cannot do is tried only once. */
static void
test_unable(void)
{
    void *priv;

    nic_set("fail create every 1 ENOTSUP");
    ovs_assert(path_add(UDP4, "set(udp(dst=4)),2", 0, 1, &priv)
               == EOPNOTSUPP);
    nic_set("fail all off");
    ovs_assert(provider_says("    to p1: cannot set ports: "));
    ovs_assert(path_add(UDP4, "set(udp(dst=5)),2", 0, 1, &priv)
               == EOPNOTSUPP);
    ovs_assert(provider_says("not supported 1"));

    /* Other things, and other ports. */
    ovs_assert(!path_add(UDP4, "2", 0, 1, &priv));
    path_del(&priv, 0);
    ovs_assert(!path_add(UDP4, "set(udp(dst=4)),2", 0, 0, &priv));
    path_del(&priv, 0);

    /* Until one of the ports restarts. */
    port_stop(1);
    port_start(1);
    ovs_assert(!path_add(UDP4, "set(udp(dst=4)),2", 0, 1, &priv));
    path_del(&priv, 0);
}

/* Has the provider find out what netdevs[i] can do. */
static void
learn(const struct conn *conn, int i)
{
    struct ct_offload_ctx ctx = { .conn = conn, .netdev_in = netdevs[i] };

    if (!ct_offload_dpdk_class.can_offload(&ctx)
        || !ct_offload_dpdk_class.can_forward(netdevs[i])) {
        fail("port %d does not forward", i);
    }
    check_nic_paths(i, "");
}

/* A port that stops takes the rules of all paths that have to do with it. */
static void
test_stop(const struct conn *conn)
{
    for (int i = 0; i < N_PORTS; i++) {
        void *to, *from, *other;

        ovs_assert(!path_add(UDP4, "2", !i, i, &to));
        ovs_assert(!path_add(TCP4, "2", i, !i, &from));
        ovs_assert(!path_add(UDP6, "2", !i, !i, &other));
        if (!i) {
            /* What was counted last is not lost. */
            arrive();
            receive(0);
        }
        port_stop(i);
        check_nic_paths(i, "");
        check_stats(&to, ENODEV, 0);
        check_stats(&from, ENODEV, 0);
        check_stats(&other, 0, 0);
        path_del(&to, 0);

        /* It is another one now. */
        port_start(i);
        learn(conn, i);
        path_del(&from, 0);
        path_del(&other, 0);
        check_nic_paths(0, "");
        check_nic_paths(1, "");
    }
}

static void
ports_learn(const struct conn *conn)
{
    for (int i = 0; i < N_PORTS; i++) {
        port_stop(i);
    }
    for (int i = 0; i < N_PORTS; i++) {
        port_start(i);
    }
    for (int i = 0; i < N_PORTS; i++) {
        learn(conn, i);
    }
}

/* Makes a path, if 'error' is 0, and checks that its rule is 'expected'. */
static void
check_path(const char *match, const char *actions, int error,
           const char *expected)
{
    void *priv;

    if (path_add(match, actions, 0, 1, &priv) != error) {
        fail("%s %s: not what was expected", match, actions);
    }
    if (!error) {
        check_nic_paths(0, expected);
        path_del(&priv, 0);
    }
    check_nic_paths(0, "");
}

/* Hardware that can do less, or wants to hear it in other words. */
static void
test_profiles(const struct conn *conn)
{
    static const char ttl[] = "0/1: eth has_vlan is 0 / "
        "ipv4 fragment_offset is 0x0000 mask 0x3fff ttl is 64 "
        "src is 10.0.0.1 dst is 10.0.0.2 / udp src is 1 dst is 80 / end => "
        "count / dec_ttl / " OUT;

    nic_set("set profile nat-bundle");
    ports_learn(conn);
    check_path(UDP4, "set(ipv4(src=10.0.0.3)),2", 0,
               UDP4_RULE "count / set_ipv4_src 10.0.0.3 / set_tp_src port 1 / "
               OUT);
    check_path(UDP4, "set(udp(dst=5)),2", 0,
               UDP4_RULE "count / set_ipv4_dst 10.0.0.2 / set_tp_dst port 5 / "
               OUT);
    check_path(UDP4, "set(ipv4(src=10.0.0.3,dst=10.0.0.4)),2", 0,
               UDP4_RULE "count / set_ipv4_src 10.0.0.3 / set_tp_src port 1 / "
               "set_ipv4_dst 10.0.0.4 / set_tp_dst port 80 / " OUT);
    check_path(UDP4 ",nw_ttl=64", "set(ipv4(ttl=63)),2", 0, ttl);
    check_path(UDP4 ",nw_ttl=64", "set(ipv4(ttl=62)),2", EOPNOTSUPP, NULL);
    check_path(UDP6, "set(ipv6(src=fc00::3)),2", EOPNOTSUPP, NULL);
    ovs_assert(provider_says("    to p1: cannot match IPv6, set IPv6 "
                             "addresses: Operation not supported ("));

    nic_set("set profile no-rewrite");
    ports_learn(conn);
    check_path(UDP4, "2", 0, UDP4_RULE "count / " OUT);
    check_path(UDP4, "set(ipv4(src=10.0.0.3)),2", EOPNOTSUPP, NULL);

    nic_set("set profile generous");
    ports_learn(conn);
}

/* Ports of different switches do not reach each other. */
static void
test_switches(const struct conn *conn)
{
    nic_set("set port 1 switch-domain 5");
    ports_learn(conn);
    check_path(UDP4, "2", EOPNOTSUPP, NULL);
    ovs_assert(provider_says("    paths refused: output to another switch 1"));
    nic_set("set port 1 switch-domain 0");
    ports_learn(conn);
    check_path(UDP4, "2", 0, UDP4_RULE "count / " OUT);
}

/* netdevs[0], which was the proxy of netdevs[1], has stopped: the next path
 * looks for another one. */
static void
check_proxy_lost(void)
{
    void *priv;

    ovs_assert(ct_offload_dpdk_class.can_forward(netdevs[1]));
    ovs_assert(path_add(UDP4, "2", 1, 1, &priv) == ENODEV);
    ovs_assert(provider_says("port p1: in software: cannot forward: "
                             "the proxy, DPDK port 0, is not there\n"));
    ovs_assert(!ct_offload_dpdk_class.can_forward(netdevs[1]));
}

/* It is there again: without a new connection, paths from netdevs[1] have
 * their rules there, one of which is 'expected'. */
static void
check_proxy_found(const char *expected)
{
    void *priv;

    ovs_assert(path_add(UDP4, "2", 1, 0, &priv) == ENODEV);
    timeval_warp(1001);
    ovs_assert(ct_offload_dpdk_class.can_forward(netdevs[1]));
    ovs_assert(!path_add(UDP4, "2", 1, 0, &priv));
    check_nic_paths(0, expected);
    path_del(&priv, 0);
    ovs_assert(provider_says("port p1: forward, by rules on port p0\n"));
}

/* Hardware that wants all rules on one port. */
static void
test_proxy(const struct conn *conn)
{
    static const char from_p1[] = "0/1: represented_port id is 1 / "
        "eth has_vlan is 0 / ipv4 fragment_offset is 0x0000 mask 0x3fff "
        "src is 10.0.0.1 dst is 10.0.0.2 / udp src is 1 dst is 80 / end => "
        "count / represented_port id 0 / end\n";
    void *priv[2];

    nic_set("set proxy first");
    ports_learn(conn);
    ovs_assert(provider_says("port p0: forward\n"));
    ovs_assert(provider_says("port p1: forward, by rules on port p0\n"));

    for (int i = 0; i < 2; i++) {
        ovs_assert(!path_add(UDP4, "2", 1, 0, &priv[0]));
        ovs_assert(!path_add(TCP4, "2", 1, 1, &priv[1]));
        path_del(&priv[1], 0);
        check_nic_paths(0, from_p1);
        check_nic_paths(1, "");

        /* Packets of the port itself are counted. */
        arrive_at(1);
        ovs_assert(!receive(1) && receive(0) == 1);
        check_stats(&priv[0], 0, 1);
        arrive_at(0);
        ovs_assert(receive(0) == 1);
        check_stats(&priv[0], 0, 1);

        /* Neither from the port that has the rules, nor to it. */
        ovs_assert(!path_add(TCP4, "2", 1, 1, &priv[1]));
        port_stop(i);
        check_nic_paths(0, "");
        check_stats(&priv[0], ENODEV, 1);
        check_stats(&priv[1], ENODEV, 0);
        path_del(&priv[1], 0);
        if (!i) {
            check_proxy_lost();
        }
        port_start(i);
        if (!i) {
            check_proxy_found(from_p1);
        }
        for (int j = 0; j < N_PORTS; j++) {
            learn(conn, j);
        }
        path_del(&priv[0], 1);
    }
    nic_set("set proxy all");
    ports_learn(conn);
}

#define FENCE4 "0/0: eth has_vlan is 0 / "                                  \
    "ipv4 fragment_offset is 0x0000 mask 0x3fff dst is 10.0.0.0 "           \
    "mask 255.255.255.0 / udp / end => count / port_representor id "

/* Makes a fence of words with 'id', if 'error' is 0. */
static void
check_fence(int error, int id)
{
    void *priv;

    if (fence_add("udp,vlan_tci=0,nw_dst=10.0.0.0/24", 0, &priv) != error) {
        fail("a fence: not what was expected");
    }
    if (!error) {
        char *expected = xasprintf(FENCE4 "%d / end\n", id);

        check_nic_paths(0, expected);
        free(expected);
        path_del(&priv, 0);
    }
    check_nic_paths(0, "");
}

/* A fence has packets come to software that paths would take. */
static void
test_fences(const struct conn *conn)
{
    void *priv, *fence;

    check_fence(0, 0);
    ovs_assert(!path_add(UDP4, "2", 0, 1, &priv));
    ovs_assert(!fence_add("udp,vlan_tci=0,nw_dst=10.0.0.0/24", 0, &fence));
    arrive();
    ovs_assert(receive(0) == 1 && !receive(1));
    check_stats(&priv, 0, 0);
    path_del(&fence, 1);
    arrive();
    ovs_assert(!receive(0) && receive(1) == 1);
    path_del(&priv, 1);

    /* A port that stops has none any more. */
    ovs_assert(!fence_add("udp,vlan_tci=0", 0, &fence));
    port_stop(0);
    check_nic_paths(0, "");
    port_start(0);
    learn(conn, 0);
    path_del(&fence, 0);

    /* With the rules of other ports. */
    nic_set("set proxy first");
    ports_learn(conn);
    ovs_assert(!fence_add("tcp,vlan_tci=0", 1, &fence));
    check_nic_paths(0, "0/0: represented_port id is 1 / eth has_vlan is 0 / "
                    "ipv4 fragment_offset is 0x0000 mask 0x3fff / tcp / "
                    "end => count / port_representor id 1 / end\n");
    path_del(&fence, 0);
    nic_set("set proxy all");

    /* Hardware that has other words, or none. */
    nic_set("set representor-own off");
    ports_learn(conn);
    check_fence(0, UINT16_MAX);
    nic_set("set representor-any off");
    ports_learn(conn);
    check_fence(EOPNOTSUPP, 0);
    ovs_assert(provider_says("    to nowhere: cannot send to software: "
                             "Operation not supported ("));
    nic_set("set profile generous");
    ports_learn(conn);
}

/* Makes a path, and checks that its rule is 'expected' and that hardware has
 * refused 'n_refused' others. */
static void
check_words(const char *match, const char *actions, const char *expected,
            int n_refused)
{
    int n;

    nic_n_refused(0);
    check_path(match, actions, 0, expected);
    n = nic_n_refused(0);
    if (n != n_refused) {
        fail("%s %s: %d rules refused, not %d", match, actions, n, n_refused);
    }
}

/* Hardware that sets fields by MODIFY_FIELD. */
static void
test_modify_field(const struct conn *conn)
{
    static const char snat[] = UDP4_RULE
        "count / modify_field ipv4_src 10.0.0.3 / " OUT;
    void *priv, *fence;

    nic_set("set profile mlx5-hws");
    ports_learn(conn);

    /* What sets nothing has no other words. */
    check_words(UDP4, "2", UDP4_RULE "count / " OUT, 0);
    nic_set("fail create next 3 ENOTSUP");
    check_path(TCP4, "2", EOPNOTSUPP, NULL);
    ovs_assert(nic_n_refused(0) == 1);
    nic_set("fail create off");

    /* The first rule that needs others finds them... */
    check_words(UDP4, "set(ipv4(src=10.0.0.3)),2", snat, 2);

    /* ...and no other one does. */
    check_words(UDP4, "set(ipv4(src=10.0.0.3)),2", snat, 0);
    check_words(UDP4, "set(eth(src=02:00:00:00:00:03)),2", UDP4_RULE
                "count / modify_field mac_src 02:00:00:00:00:03 / " OUT, 0);
    check_words(UDP4, "set(eth(dst=02:00:00:00:00:04)),2", UDP4_RULE
                "count / modify_field mac_dst 02:00:00:00:00:04 / " OUT, 0);
    check_words(UDP4, "set(ipv4(dst=10.0.0.4)),set(udp(src=3,dst=4)),"
                "set(ipv4(ttl=63)),2", UDP4_RULE
                "count / modify_field ipv4_dst 10.0.0.4 / "
                "modify_field udp_port_src 3 / modify_field udp_port_dst 4 / "
                "modify_field ipv4_ttl 63 / " OUT, 0);
    check_words(TCP4, "set(tcp(src=258)),set(tcp(dst=513)),2", TCP4_RULE
                "count / modify_field tcp_port_src 258 / "
                "modify_field tcp_port_dst 513 / " OUT, 0);
    check_words(UDP6, "set(ipv6(src=fc00::3,dst=fc00::4)),"
                "set(ipv6(hlimit=63)),2", UDP6_RULE
                "count / modify_field ipv6_src fc00::3 / "
                "modify_field ipv6_dst fc00::4 / "
                "modify_field ipv6_hoplimit 63 / " OUT, 0);
    check_words(UDP4, "push_vlan(vid=6,pcp=1),"
                "set(eth(src=02:00:00:00:00:03)),2", UDP4_RULE
                "count / of_push_vlan type 33024 / of_set_vlan_vid vid 6 / "
                "of_set_vlan_pcp pcp 1 / "
                "modify_field mac_src 02:00:00:00:00:03 / " OUT, 0);
    check_words(UDP4, "2", UDP4_RULE "count / " OUT, 0);
    check_path(UDP4 ",nw_ttl=64", "set(ipv4(ttl=63)),2", 0, "0/1: "
               "eth has_vlan is 0 / ipv4 fragment_offset is 0x0000 "
               "mask 0x3fff ttl is 64 src is 10.0.0.1 dst is 10.0.0.2 / "
               "udp src is 1 dst is 80 / end => "
               "count / modify_field ipv4_ttl 63 / " OUT);

    /* There is one way less to say what sets no more than that. */
    ports_learn(conn);
    check_words(UDP4, "set(eth(src=02:00:00:00:00:03)),2", UDP4_RULE
                "count / modify_field mac_src 02:00:00:00:00:03 / " OUT, 1);

    /* Packets and fences. */
    ovs_assert(!path_add(UDP4, "set(ipv4(src=10.0.0.3)),2", 0, 1, &priv));
    arrive();
    ovs_assert(!receive(0) && receive(1) == 1);
    check_stats(&priv, 0, 1);
    nic_n_refused(0);
    ovs_assert(!fence_add("udp,vlan_tci=0", 0, &fence));
    ovs_assert(nic_n_refused(0) == 1);
    arrive();
    ovs_assert(receive(0) == 1 && !receive(1));
    check_stats(&priv, 0, 1);
    path_del(&fence, 1);
    path_del(&priv, 1);
    check_fence(0, UINT16_MAX);
    ovs_assert(!nic_n_refused(0));

    /* The words that are known are not the right ones any more, or there are
     * none at all: each is tried once. */
    nic_set("set modify-field off");
    nic_set("set set-actions on");
    check_words(UDP4, "set(ipv4(src=10.0.0.3)),2", UDP4_RULE
                "count / set_ipv4_src 10.0.0.3 / " OUT, 1);
    nic_set("set rewrite off");
    check_path(UDP4, "set(ipv4(dst=10.0.0.4)),2", EOPNOTSUPP, NULL);
    ovs_assert(nic_n_refused(0) == 3);
    check_path(UDP4, "set(ipv4(src=10.0.0.5)),2", EOPNOTSUPP, NULL);
    ovs_assert(!nic_n_refused(0));
    ovs_assert(provider_says("    to p1: cannot set IPv4 addresses: "
                             "Operation not supported ("));
    nic_set("set representor-any off");
    ports_learn(conn);
    check_fence(EOPNOTSUPP, 0);
    ovs_assert(nic_n_refused(0) == 2);

    /* By rules on a proxy, as there are no others in fact. */
    nic_set("set profile mlx5-hws");
    nic_set("set proxy first");
    ports_learn(conn);
    for (int i = 0; i < 2; i++) {
        nic_n_refused(0);
        ovs_assert(!path_add(UDP4, "set(ipv4(src=10.0.0.3)),2", 1, 0, &priv));
        ovs_assert(!fence_add("tcp,vlan_tci=0", 1, &fence));
        ovs_assert(nic_n_refused(0) == (i ? 0 : 3));
        check_nic_paths(0, "0/1: represented_port id is 1 / "
                        "eth has_vlan is 0 / "
                        "ipv4 fragment_offset is 0x0000 mask 0x3fff "
                        "src is 10.0.0.1 dst is 10.0.0.2 / "
                        "udp src is 1 dst is 80 / end => "
                        "count / modify_field ipv4_src 10.0.0.3 / "
                        "represented_port id 0 / end\n"
                        "0/0: represented_port id is 1 / "
                        "eth has_vlan is 0 / ipv4 fragment_offset is 0x0000 "
                        "mask 0x3fff / tcp / end => "
                        "count / port_representor id 65535 / end\n");
        path_del(&fence, 0);
        path_del(&priv, 0);
    }
    nic_set("set proxy all");

    nic_set("set profile generous");
    ports_learn(conn);
}

/* Hardware that cannot match as much as it takes for IPv6. */
static void
test_match_size(const struct conn *conn)
{
    nic_set("set max-match 20");
    ports_learn(conn);
    check_path(TCP4, "2", 0, TCP4_RULE "count / " OUT);
    check_path(UDP6, "2", EOPNOTSUPP, NULL);
    ovs_assert(provider_says("    to p1: cannot match IPv6: Operation not "
                             "supported (the pattern has too many bytes to "
                             "match)\n"));
    nic_set("set max-match 4294967295");
    check_path(UDP6, "2", EOPNOTSUPP, NULL);
    ovs_assert(provider_says("not supported 1"));
    ports_learn(conn);
    check_path(UDP6, "2", 0, UDP6_RULE "count / " OUT);
}

/* Hardware that needs a while before it can use counters again. */
static void
test_counter_quarantine(const struct conn *conn)
{
    static const char snat[] = "set(ipv4(src=10.0.0.3)),2";
    void *priv, *priv2;

    nic_set("set profile mlx5-hws");
    nic_set("set counter-quarantine 10000");
    ports_learn(conn);

    /* Those of the rules by which it was found out what the port can do. */
    ovs_assert(path_add(UDP4, snat, 0, 1, &priv) == EAGAIN);
    ovs_assert(path_add(UDP4, snat, 0, 1, &priv) == EAGAIN);
    ovs_assert(provider_says("paths refused: table full 1\n"));
    ovs_assert(!provider_says("cannot set"));
    nic_set("advance 10");
    timeval_warp(1001);
    ovs_assert(!path_add(UDP4, snat, 0, 1, &priv));
    ovs_assert(!path_add(TCP4, snat, 0, 1, &priv2));
    check_stats(&priv, 0, 0);
    path_del(&priv2, 0);
    ovs_assert(path_add(TCP4, snat, 0, 1, &priv2) == EAGAIN);
    check_stats(&priv, 0, 0);
    nic_set("advance 10");
    timeval_warp(1001);
    ovs_assert(!path_add(TCP4, snat, 0, 1, &priv2));
    path_del(&priv2, 0);
    path_del(&priv, 0);

    nic_set("set counter-quarantine 0");
    nic_set("set profile generous");
    ports_learn(conn);
}

/* No packet evades policing, or QoS. */
static void
test_limited(void)
{
    struct smap details = SMAP_INITIALIZER(&details);
    void *priv;

    smap_add(&details, "cir", "1000000");
    smap_add(&details, "cbs", "10000");
    for (int i = 0; i < N_PORTS; i++) {
        for (int qos = 0; qos < 2; qos++) {
            ovs_assert(!path_add(UDP4, "2", 0, 1, &priv));
            ovs_assert(ct_offload_dpdk_class.can_forward(netdevs[i]));
            if (qos) {
                ovs_assert(!netdev_set_qos(netdevs[i], "egress-policer",
                                           &details));
            } else {
                ovs_assert(!netdev_set_policing(netdevs[i], 1000, 0, 0, 0));
            }
            ovs_assert(!ct_offload_dpdk_class.can_forward(netdevs[i]));
            check_stats(&priv, EPERM, 0);
            path_del(&priv, 0);
            ovs_assert(path_add(UDP4, "2", 0, 1, &priv) == EPERM);
            ovs_assert(!netdev_set_qos(netdevs[i], "", &details));
            ovs_assert(!netdev_set_policing(netdevs[i], 0, 0, 0, 0));
        }
    }
    ovs_assert(provider_says("policing or QoS 4"));
    smap_destroy(&details);
}

/* Which ports forward is found out by trying. */
static void
test_probe(const struct conn *conn)
{
    struct ct_offload_ctx ctx = { .conn = conn, .netdev_in = netdevs[0] };
    void *priv;

    ovs_assert(!ct_offload_dpdk_class.can_forward(netdevs[0]));
    ovs_assert(path_add(UDP4, "2", 0, 1, &priv) == ENODEV);

    nic_set("fail create every 1 EIO");
    ovs_assert(!ct_offload_dpdk_class.can_offload(&ctx));
    ovs_assert(provider_says("port p0: in software: cannot forward: "
                             "Input/output error"));
    nic_set("fail all off");
    ovs_assert(!ct_offload_dpdk_class.can_offload(&ctx));
    timeval_warp(1001);

    nic_set("set transfer off");
    ovs_assert(!ct_offload_dpdk_class.can_offload(&ctx));
    ovs_assert(provider_says("port p0: in software: cannot forward: "
                             "Operation not supported (transfer rules are "
                             "not supported)"));
    nic_set("set transfer on");
    timeval_warp(1001);
    ovs_assert(!ct_offload_dpdk_class.can_offload(&ctx));
    port_stop(0);
    port_start(0);

    nic_set("set tcp-flags off");
    ovs_assert(ct_offload_dpdk_class.can_offload(&ctx));
    ovs_assert(provider_says("port p0: forward, UDP only"));
    ovs_assert(path_add(TCP4, "2", 0, 1, &priv) == EOPNOTSUPP);
    nic_set("set tcp-flags on");
    port_stop(0);
    port_start(0);

    for (int i = 0; i < N_PORTS; i++) {
        learn(conn, i);
    }
    ovs_assert(provider_says("port p0: forward\n"));
}

/* 'conn' is any connection over UDP.  The provider is registered, and makes
 * paths. */
void
test_paths(const struct conn *conn)
{
    test_no_rules();
    test_bits();
    test_probe(conn);
    test_rules();
    test_counters();
    test_counted_bytes();
    test_transient_errors();
    test_dead_paths();
    test_limited();
    test_unable();
    learn(conn, 1);
    test_stop(conn);
    test_profiles(conn);
    test_switches(conn);
    test_proxy(conn);
    test_fences(conn);
    test_modify_field(conn);
    test_match_size(conn);
    test_counter_quarantine(conn);
    ovs_assert(!nic_stale());
}

#endif /* DPDK_NETDEV */
