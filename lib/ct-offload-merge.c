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
#include "ct-offload-merge.h"

#include <netinet/in.h>
#include <string.h>

#include "flow.h"
#include "hash.h"
#include "netdev-native-tnl.h"
#include "netlink.h"
#include "odp-util.h"
#include "openvswitch/ofpbuf.h"
#include "packets.h"
#include "util.h"

/* What ct_merge_instantiate() has to do, in the order of the chain. */
enum step_type {
    STEP_CHECK,                 /* The values must be those of 'masked'. */
    STEP_SET,                   /* The values become those of 'masked'. */
    STEP_CT,                    /* ct(), which sets mark and label. */
    STEP_HASH,                  /* dp_hash becomes 'hash'. */
    STEP_PUSH,                  /* tnl_push(). */
};

struct ct_merge_step {
    enum step_type type;
    struct ct_merge_masked masked;
    size_t index;               /* ct(): its number. */
    bool natted;                /* ct(): was translated before. */
    bool translate;             /* ct(): is translated by it. */
    struct ovs_action_hash hash;
    size_t flow;                /* hash(), tnl_push(): the number of the
                                 * megaflow. */
};

/* The TCP flags that are matched, and the one of them that is set. */
#define TCP_MATCHED (TCP_SYN | TCP_FIN | TCP_RST | TCP_ACK)
#define TCP_SET TCP_ACK

static const char *const reasons[CT_MERGE_N_REASONS] = {
    [CT_MERGE_OK] = "none",
    [CT_MERGE_BROKEN] = "megaflows do not lead to one another",
    [CT_MERGE_TOO_LONG] = "too many megaflows or ct() actions",
    [CT_MERGE_NO_CONN] = "no established connection",
    [CT_MERGE_PROTOCOL] = "neither TCP nor UDP",
    [CT_MERGE_INCONSISTENT] = "megaflows contradict one another",
    [CT_MERGE_TCP_FLAGS] = "match on TCP flags that software must see",
    [CT_MERGE_FRAGMENT] = "fragments",
    [CT_MERGE_INVALID] = "invalid packets",
    [CT_MERGE_TUNNEL] = "tunnel",
    [CT_MERGE_L3_PORT] = "packets without Ethernet header",
    [CT_MERGE_VLAN] = "more than one VLAN tag",
    [CT_MERGE_MPLS] = "MPLS",
    [CT_MERGE_NSH] = "NSH",
    [CT_MERGE_METER] = "meter",
    [CT_MERGE_SAMPLE] = "sample",
    [CT_MERGE_PSAMPLE] = "psample",
    [CT_MERGE_USERSPACE] = "userspace",
    [CT_MERGE_TRUNC] = "trunc",
    [CT_MERGE_CHECK_PKT_LEN] = "check_pkt_len",
    [CT_MERGE_LB_OUTPUT] = "lb_output",
    [CT_MERGE_CLONE] = "clone",
    [CT_MERGE_OUTPUTS] = "actions after output",
    [CT_MERGE_AFTER_RECIRC] = "actions after recirculation",
    [CT_MERGE_HASH] = "hash algorithm",
    [CT_MERGE_DEC_TTL] = "dec_ttl",
    [CT_MERGE_OTHER_ACTION] = "unknown action",
    [CT_MERGE_SET_TOS] = "set of IP TOS",
    [CT_MERGE_SET_IPV6_LABEL] = "set of IPv6 label",
    [CT_MERGE_SET_SKB_PRIORITY] = "set of skb_priority",
    [CT_MERGE_SET_PKT_MARK] = "set of pkt_mark",
    [CT_MERGE_SET_OTHER] = "set of another field",
    [CT_MERGE_SET_PART] = "set of a part of a field",
    [CT_MERGE_SET_TUPLE] = "set of tuple before ct()",
    [CT_MERGE_CT_FORCE] = "ct(force)",
    [CT_MERGE_CT_HELPER] = "ct(helper)",
    [CT_MERGE_CT_COMMIT] = "ct(commit) of a new connection",
    [CT_MERGE_CT_MARK] = "ct() changes mark or labels",
    [CT_MERGE_CT_TUPLE] = "ct() sees another tuple",
};

/* Returns 'reason' in a few words. */
const char *
ct_merge_reason_to_string(enum ct_merge_reason reason)
{
    return reasons[reason];
}

/* The offset and the size of FIRST to LAST in 'struct flow', or of FIELD. */
#define RANGE(FIRST, LAST) \
    offsetof(struct flow, FIRST), \
    OFFSETOFEND(struct flow, LAST) - offsetof(struct flow, FIRST)
#define FIELD(FIELD) RANGE(FIELD, FIELD)

struct field {
    size_t ofs, size;
};

/* The fields of a tuple, of IPv4 and IPv6. */
enum { IP_SRC, IP_DST, TP_SRC, TP_DST, N_TUPLE };
static const struct field tuple_fields[2][N_TUPLE] = {
    { { FIELD(nw_src) }, { FIELD(nw_dst) },
      { FIELD(tp_src) }, { FIELD(tp_dst) } },
    { { FIELD(ipv6_src) }, { FIELD(ipv6_dst) },
      { FIELD(tp_src) }, { FIELD(tp_dst) } },
};

/* Tuples and other values. */

static bool
tuple_is_ipv6(const struct ct_dpif_tuple *tuple)
{
    return tuple->l3_type == AF_INET6;
}

static bool
addr_equals(bool ipv6, const union ct_dpif_inet_addr *a,
            const union ct_dpif_inet_addr *b)
{
    return ipv6 ? ipv6_addr_equals(&a->in6, &b->in6) : a->ip == b->ip;
}

/* Returns the fields in which 'a' and 'b', of the same protocol, differ, as
 * bits. */
static uint8_t
tuple_diff(const struct ct_dpif_tuple *a, const struct ct_dpif_tuple *b)
{
    bool ipv6 = tuple_is_ipv6(a);

    return (!addr_equals(ipv6, &a->src, &b->src) << IP_SRC
            | !addr_equals(ipv6, &a->dst, &b->dst) << IP_DST
            | (a->src_port != b->src_port) << TP_SRC
            | (a->dst_port != b->dst_port) << TP_DST);
}

static struct ct_dpif_tuple
tuple_reverse(const struct ct_dpif_tuple *tuple)
{
    struct ct_dpif_tuple reverse = *tuple;

    reverse.src = tuple->dst;
    reverse.dst = tuple->src;
    reverse.src_port = tuple->dst_port;
    reverse.dst_port = tuple->src_port;
    return reverse;
}

/* The tuple of packets of the path that 'conn' has not translated. */
static const struct ct_dpif_tuple *
conn_tuple(const struct ct_merge_conn *conn)
{
    return &conn->tuple[conn->reply];
}

/* The tuple of packets of the path that 'conn' has translated. */
static struct ct_dpif_tuple
conn_translated(const struct ct_merge_conn *conn)
{
    return tuple_reverse(&conn->tuple[!conn->reply]);
}

static void
set_addr(union ct_dpif_inet_addr *addr, bool ipv6, ovs_be32 ip,
         const struct in6_addr *ip6)
{
    if (ipv6) {
        addr->in6 = *ip6;
    } else {
        addr->ip = ip;
    }
}

/* Returns the values that are in 'flow', or the mask of values, if that is
 * what 'flow' is. */
static struct ct_merge_values
values_from_flow(const struct flow *flow, bool ipv6)
{
    struct ct_merge_values v;

    memset(&v, 0, sizeof v);
    set_addr(&v.tuple.src, ipv6, flow->nw_src, &flow->ipv6_src);
    set_addr(&v.tuple.dst, ipv6, flow->nw_dst, &flow->ipv6_dst);
    v.tuple.src_port = flow->tp_src;
    v.tuple.dst_port = flow->tp_dst;
    set_addr(&v.ct_tuple.src, ipv6, flow->ct_nw_src, &flow->ct_ipv6_src);
    set_addr(&v.ct_tuple.dst, ipv6, flow->ct_nw_dst, &flow->ct_ipv6_dst);
    v.ct_tuple.src_port = flow->ct_tp_src;
    v.ct_tuple.dst_port = flow->ct_tp_dst;
    v.ct_label = flow->ct_label;
    v.ct_mark = flow->ct_mark;
    v.dp_hash = flow->dp_hash;
    return v;
}

static void
tuple_to_flow(const struct ct_dpif_tuple *tuple, struct flow *flow)
{
    if (tuple_is_ipv6(tuple)) {
        flow->ipv6_src = tuple->src.in6;
        flow->ipv6_dst = tuple->dst.in6;
    } else {
        flow->nw_src = tuple->src.ip;
        flow->nw_dst = tuple->dst.ip;
    }
    flow->tp_src = tuple->src_port;
    flow->tp_dst = tuple->dst_port;
}

#define VALUES_U32S (sizeof(struct ct_merge_values) / sizeof(uint32_t))
BUILD_ASSERT_DECL(sizeof(struct ct_merge_values) % sizeof(uint32_t) == 0);

static const uint32_t *
values_u32(const struct ct_merge_values *values)
{
    return ALIGNED_CAST(const uint32_t *, values);
}

static bool
masked_is_any(const struct ct_merge_masked *masked)
{
    return is_all_zeros(&masked->mask, sizeof masked->mask);
}

static bool
masked_matches(const struct ct_merge_masked *masked,
               const struct ct_merge_values *values)
{
    const uint32_t *value = values_u32(&masked->value);
    const uint32_t *mask = values_u32(&masked->mask);

    for (size_t i = 0; i < VALUES_U32S; i++) {
        if ((values_u32(values)[i] ^ value[i]) & mask[i]) {
            return false;
        }
    }
    return true;
}

static void
masked_apply(const struct ct_merge_masked *masked,
             struct ct_merge_values *values)
{
    uint32_t *u32 = ALIGNED_CAST(uint32_t *, values);
    const uint32_t *value = values_u32(&masked->value);
    const uint32_t *mask = values_u32(&masked->mask);

    for (size_t i = 0; i < VALUES_U32S; i++) {
        u32[i] = (u32[i] & ~mask[i]) | (value[i] & mask[i]);
    }
}

/* Returns what about 'conn' decides how it goes through a chain: two
 * connections of the same shape differ in values only. */
uint32_t
ct_merge_conn_shape(const struct ct_merge_conn *conn)
{
    const struct ct_dpif_tuple *tuple = conn_tuple(conn);
    uint32_t shape = conn->kind;

    if (conn->kind != CT_MERGE_MISS) {
        struct ct_dpif_tuple translated = conn_translated(conn);

        shape |= (conn->reply << 2 | conn->snat << 3 | conn->dnat << 4
                  | conn->related << 5 | tuple_is_ipv6(tuple) << 6
                  | tuple_diff(tuple, &translated) << 8
                  | tuple->ip_proto << 16);
    }
    return shape;
}

/* The bits of 'struct flow' while a chain is compiled. */
struct state {
    struct ct_merge *m;
    const struct ct_merge_conn *conns;
    size_t n_conns;             /* Number of them. */
    bool ipv6;

    /* A bit that is in neither of the masks is as on the wire. */
    struct flow known;          /* Bits whose value is in 'value'. */
    struct flow path;           /* Bits whose value is the path's. */
    struct flow value;

    uint32_t recirc_id;         /* Of the next megaflow. */
    bool wire_tag;              /* Had packets a VLAN tag on the wire? */
    bool tag;                   /* Do they have one now? */
    size_t flow;                /* The number of the present megaflow. */
    bool done;                  /* No more actions may come. */
    bool output;                /* ... because packets have left. */
};

enum kind { WIRE, KNOWN, PATH };

static void
become(struct state *st, enum kind kind, size_t ofs, size_t size)
{
    memset((char *) &st->known + ofs, kind == KNOWN ? 0xff : 0, size);
    memset((char *) &st->path + ofs, kind == PATH ? 0xff : 0, size);
}

static void
tuple_become(struct state *st, enum kind kind)
{
    if (st->ipv6) {
        become(st, kind, RANGE(ipv6_src, ipv6_dst));
    } else {
        become(st, kind, RANGE(nw_src, nw_dst));
    }
    become(st, kind, RANGE(tp_src, tp_dst));
}

static void
ct_tuple_become(struct state *st, enum kind kind)
{
    if (st->ipv6) {
        become(st, kind, RANGE(ct_ipv6_src, ct_ipv6_dst));
    } else {
        become(st, kind, RANGE(ct_nw_src, ct_nw_dst));
    }
    become(st, kind, RANGE(ct_tp_src, ct_tp_dst));
}

static uint64_t *
u64s(const struct flow *flow)
{
    return CONST_CAST(uint64_t *, ALIGNED_CAST(const uint64_t *, flow));
}

static void
mask_field(struct flow *mask, const struct field *field)
{
    memset((char *) mask + field->ofs, 0xff, field->size);
}

/* 'dst' = 'a' & 'b'. */
static void
flow_and(struct flow *dst, const struct flow *a, const struct flow *b)
{
    for (size_t i = 0; i < FLOW_U64S; i++) {
        u64s(dst)[i] = u64s(a)[i] & u64s(b)[i];
    }
}

static struct ct_merge_step *
add_step(struct ct_merge *m, enum step_type type)
{
    struct ct_merge_step *step;

    if (m->n_steps >= m->allocated_steps) {
        m->steps = x2nrealloc(m->steps, &m->allocated_steps,
                              sizeof *m->steps);
    }
    step = &m->steps[m->n_steps++];
    memset(step, 0, sizeof *step);
    step->type = type;
    return step;
}

/* Adds a step of 'type' for the bits of 'flow' that are in 'mask', if there
 * are any among the values. */
static void
add_masked_step(struct state *st, enum step_type type,
                const struct flow *flow, const struct flow *mask)
{
    struct ct_merge_masked masked = {
        .value = values_from_flow(flow, st->ipv6),
        .mask = values_from_flow(mask, st->ipv6),
    };

    if (!masked_is_any(&masked)) {
        add_step(st->m, type)->masked = masked;
    }
}

/* Before the first megaflow.  All metadata is known, as is what packets do not
 * have. */
static void
state_init(struct state *st, const struct ct_merge_flow *first, bool ipv6,
           uint8_t nw_proto)
{
    struct match *match = &st->m->match;

    memset(&st->known, 0xff, sizeof st->known);
    st->value.in_port = first->key->in_port;
    st->value.packet_type = htonl(PT_ETH);
    st->value.dl_type = htons(ipv6 ? ETH_TYPE_IPV6 : ETH_TYPE_IP);
    st->value.nw_proto = nw_proto;
    st->ipv6 = ipv6;

    tuple_become(st, WIRE);
    become(st, WIRE, FIELD(dl_dst));
    become(st, WIRE, FIELD(dl_src));
    become(st, WIRE, FIELD(nw_tos));
    become(st, WIRE, FIELD(nw_ttl));
    if (ipv6) {
        become(st, WIRE, FIELD(ipv6_label));
    }
    if (nw_proto == IPPROTO_TCP) {
        become(st, WIRE, FIELD(tcp_flags));
        match->flow.tcp_flags = htons(TCP_SET);
        match->wc.masks.tcp_flags = htons(TCP_MATCHED);
    }

    /* Each megaflow of dpif-netdev says whether there is a tag. */
    st->tag = (first->key->vlans[0].tci & first->mask->vlans[0].tci
               & htons(VLAN_CFI)) != 0;
    st->wire_tag = st->tag;
    if (st->tag) {
        become(st, WIRE, FIELD(vlans[0]));
        match->flow.vlans[0].tci = htons(VLAN_CFI);
        match->wc.masks.vlans[0].tci = htons(VLAN_CFI);
        match->wc.masks.vlans[1].tci = OVS_BE16_MAX;
    } else {
        match->wc.masks.vlans[0].tci = OVS_BE16_MAX;
    }

    match->flow.in_port = st->value.in_port;
    match->flow.dl_type = st->value.dl_type;
    match->flow.nw_proto = nw_proto;
    WC_MASK_FIELD(&match->wc, in_port);
    WC_MASK_FIELD(&match->wc, recirc_id);
    WC_MASK_FIELD(&match->wc, packet_type);
    WC_MASK_FIELD(&match->wc, dl_type);
    WC_MASK_FIELD(&match->wc, nw_proto);
    match->wc.masks.nw_frag = FLOW_NW_FRAG_MASK;
}

/* What 'flow' matches that no rule of ours does. */
static enum ct_merge_reason
check_match(const struct state *st, const struct ct_merge_flow *flow)
{
    const struct match *match = &st->m->match;
    struct flow key;

    flow_and(&key, flow->key, flow->mask);
    return (key.packet_type != htonl(PT_ETH) ? CT_MERGE_L3_PORT
            : (!st->m->tunnel.type
               && !is_all_zeros(&key.tunnel, sizeof key.tunnel))
            ? CT_MERGE_TUNNEL
            : key.ct_state & CS_INVALID ? CT_MERGE_INVALID
            : key.nw_frag ? CT_MERGE_FRAGMENT
            : key.vlans[1].tci ? CT_MERGE_VLAN
            : key.mpls_lse[0] ? CT_MERGE_MPLS
            : key.nsh.path_hdr ? CT_MERGE_NSH
            : key.recirc_id != st->recirc_id ? CT_MERGE_BROKEN
            : (key.tcp_flags ^ match->flow.tcp_flags) & flow->mask->tcp_flags
              & match->wc.masks.tcp_flags ? CT_MERGE_TCP_FLAGS
            : CT_MERGE_OK);
}

static enum ct_merge_reason
merge_match(struct state *st, const struct ct_merge_flow *flow)
{
    const uint64_t *key = u64s(flow->key), *mask = u64s(flow->mask);
    const uint64_t *known = u64s(&st->known), *path = u64s(&st->path);
    const uint64_t *value = u64s(&st->value);
    uint64_t *matched = u64s(&st->m->match.flow);
    uint64_t *wc = u64s(&st->m->match.wc.masks);
    enum ct_merge_reason reason = check_match(st, flow);
    struct flow path_mask;

    if (reason) {
        return reason;
    }
    for (size_t i = 0; i < FLOW_U64S; i++) {
        uint64_t wire = mask[i] & ~known[i] & ~path[i];

        if ((key[i] ^ value[i]) & mask[i] & known[i]
            || (key[i] ^ matched[i]) & wire & wc[i]) {
            return CT_MERGE_INCONSISTENT;
        }
        matched[i] |= key[i] & wire;
        wc[i] |= wire;
    }

    flow_and(&path_mask, flow->mask, &st->path);
    add_masked_step(st, STEP_CHECK, flow->key, &path_mask);
    return CT_MERGE_OK;
}

/* The first ct() that finds a connection.  It knows the tuple that packets
 * have now.  They had it on the wire, too, but for what was set since.
 * Returns false unless that was matched before. */
static bool
find_wire_tuple(struct state *st)
{
    struct ct_merge *m = st->m;

    m->wire.value = values_from_flow(&m->match.flow, st->ipv6);
    m->wire.mask = values_from_flow(&st->known, st->ipv6);
    memset(&m->wire.mask.ct_tuple, 0, (sizeof m->wire.mask
                                       - sizeof m->wire.mask.tuple));

    struct ct_merge_values matched = values_from_flow(&m->match.wc.masks,
                                                      st->ipv6);
    for (size_t i = 0; i < VALUES_U32S; i++) {
        if (values_u32(&m->wire.mask)[i] & ~values_u32(&matched)[i]) {
            return false;
        }
    }
    m->first = m->n_conns - 1;
    return true;
}

/* Copies the value and the mask in 'a', if it is nonnull. */
static void
get_masked(const struct nlattr *a, void *value, void *mask, size_t size)
{
    if (a) {
        memcpy(value, nl_attr_get(a), size);
        memcpy(mask, (const char *) nl_attr_get(a) + size, size);
    }
}

/* Does to '*state' what conn_update_state() in conntrack.c does for 'conn'. */
static void
add_conn_ct_state(const struct ct_merge_conn *conn, uint8_t nw_proto,
                  uint8_t *state)
{
    if (conn->kind == CT_MERGE_ONE_WAY && nw_proto != IPPROTO_TCP) {
        *state |= CS_NEW;
    } else {
        *state = (*state & ~CS_NEW) | CS_ESTABLISHED;
        *state |= conn->reply ? CS_REPLY_DIR : 0;
    }
    *state |= conn->related ? CS_RELATED : 0;
}

/* ct() finds 'conn', and '*state' becomes its ct_state. */
static void
merge_conn(struct state *st, const struct nlattr *action,
           const struct ct_merge_conn *conn, struct ct_merge_step *step,
           uint8_t *state)
{
    add_conn_ct_state(conn, st->value.nw_proto, state);
    if (nl_attr_find_nested(action, OVS_CT_ATTR_NAT) && !step->natted
        && (conn->snat || conn->dnat)) {
        struct ct_dpif_tuple translated = conn_translated(conn);
        uint8_t diff = tuple_diff(conn_tuple(conn), &translated);

        for (size_t i = 0; i < N_TUPLE; i++) {
            if (diff & (1 << i)) {
                mask_field(&st->m->set.wc.masks, &tuple_fields[st->ipv6][i]);
            }
        }
        step->translate = true;
        *state |= conn->snat != conn->reply ? CS_SRC_NAT : CS_DST_NAT;
    }
    if (!conn->related) {
        const struct nlattr *mark, *labels;

        mark = nl_attr_find_nested(action, OVS_CT_ATTR_MARK);
        labels = nl_attr_find_nested(action, OVS_CT_ATTR_LABELS);
        get_masked(mark, &step->masked.value.ct_mark,
                   &step->masked.mask.ct_mark, sizeof(uint32_t));
        get_masked(labels, &step->masked.value.ct_label,
                   &step->masked.mask.ct_label, sizeof(ovs_u128));
    }
    tuple_become(st, PATH);
}

/* ct(), as process_one() in conntrack.c does it. */
static enum ct_merge_reason
merge_ct(struct state *st, const struct nlattr *action)
{
    const struct nlattr *a = nl_attr_find_nested(action, OVS_CT_ATTR_ZONE);
    uint16_t zone = a ? nl_attr_get_u16(a) : 0;
    uint8_t state = st->value.ct_zone == zone ? st->value.ct_state : 0;
    struct ct_merge *m = st->m;

    if (nl_attr_find_nested(action, OVS_CT_ATTR_FORCE_COMMIT)) {
        return CT_MERGE_CT_FORCE;
    } else if (nl_attr_find_nested(action, OVS_CT_ATTR_HELPER)) {
        return CT_MERGE_CT_HELPER;
    } else if (m->n_conns >= st->n_conns) {
        return CT_MERGE_BROKEN;
    }

    const struct ct_merge_conn *conn = &st->conns[m->n_conns];
    struct ct_merge_step *step = add_step(m, STEP_CT);

    step->index = m->n_conns;
    step->natted = state & (CS_SRC_NAT | CS_DST_NAT);
    m->shapes[m->n_conns++] = ct_merge_conn_shape(conn);

    if (conn->kind == CT_MERGE_MISS) {
        if (nl_attr_find_nested(action, OVS_CT_ATTR_COMMIT)) {
            return CT_MERGE_CT_COMMIT;
        } else if (step->natted) {
            return CT_MERGE_CT_TUPLE;
        }
        state = CS_NEW;
    } else {
        if (m->first == SIZE_MAX && !find_wire_tuple(st)) {
            return CT_MERGE_SET_TUPLE;
        }
        merge_conn(st, action, conn, step, &state);
    }
    become(st, conn->kind == CT_MERGE_MISS ? KNOWN : PATH, FIELD(ct_mark));
    become(st, conn->kind == CT_MERGE_MISS ? KNOWN : PATH, FIELD(ct_label));
    ct_tuple_become(st, PATH);
    st->value.ct_state = state | CS_TRACKED;
    st->value.ct_zone = zone;
    st->value.ct_nw_proto = st->value.nw_proto;
    return CT_MERGE_OK;
}

/* The packet forgets what ct() said. */
static void
merge_ct_clear(struct state *st)
{
    become(st, KNOWN, FIELD(ct_mark));
    become(st, KNOWN, FIELD(ct_label));
    ct_tuple_become(st, KNOWN);
    st->value.ct_state = 0;
    st->value.ct_zone = 0;
    st->value.ct_nw_proto = 0;
}

static enum ct_merge_reason
merge_hash(struct state *st, const struct ovs_action_hash *hash)
{
    struct ct_merge_step *step;

    if (hash->hash_alg != OVS_HASH_ALG_L4
        && hash->hash_alg != OVS_HASH_ALG_SYM_L4) {
        return CT_MERGE_HASH;
    }
    step = add_step(st->m, STEP_HASH);
    step->hash = *hash;
    step->flow = st->flow;
    become(st, PATH, FIELD(dp_hash));
    return CT_MERGE_OK;
}

static enum ct_merge_reason
merge_push_vlan(struct state *st, const struct ovs_action_push_vlan *vlan)
{
    if (st->tag || !eth_type_vlan(vlan->vlan_tpid)) {
        return CT_MERGE_VLAN;
    }
    st->tag = st->m->push_vlan = true;
    st->m->vlan = *vlan;
    st->value.vlans[0].tpid = vlan->vlan_tpid;
    st->value.vlans[0].tci = vlan->vlan_tci | htons(VLAN_CFI);
    return CT_MERGE_OK;
}

static void
merge_pop_vlan(struct state *st)
{
    if (st->tag && !st->m->push_vlan) {
        st->m->pop_vlan = true;
    }
    st->tag = st->m->push_vlan = false;
    become(st, KNOWN, FIELD(vlans[0]));
    memset(&st->value.vlans[0], 0, sizeof st->value.vlans[0]);
}

/* Tunnels. */

/* How long is what is outside of a tunnel, with 'n_opts' bytes of Geneve
 * options? */
static size_t
tunnel_header_len(const struct ct_offload_tunnel *tunnel, size_t n_opts)
{
    return (ETH_HEADER_LEN + (tunnel->ipv6 ? IPV6_HEADER_LEN : IP_HEADER_LEN)
            + UDP_HEADER_LEN
            + (tunnel->type == CT_OFFLOAD_TUNNEL_VXLAN
               ? sizeof(struct vxlanhdr)
               : sizeof(struct genevehdr) + n_opts));
}

/* What the first megaflow has matched, outside of the tunnel, becomes part of
 * 'tunnel' and '*match', what packets are like with the tunnel as metadata.
 * Returns false if it has matched what has no place there. */
static bool
tunnel_from_outer(struct ct_offload_tunnel *tunnel, const struct match *outer,
                  struct match *match)
{
    struct flow_tnl *tnl[2] = { &match->flow.tunnel, &match->wc.masks.tunnel };
    const struct flow *flow[2] = { &outer->flow, &outer->wc.masks };

    if (flow[1]->ipv6_label || flow[1]->tp_dst != OVS_BE16_MAX) {
        return false;
    }
    tunnel->src = flow[0]->dl_src;
    tunnel->src_mask = flow[1]->dl_src;
    tunnel->dst = flow[0]->dl_dst;
    tunnel->dst_mask = flow[1]->dl_dst;
    for (int i = 0; i < 2; i++) {
        tnl[i]->ip_src = flow[i]->nw_src;
        tnl[i]->ip_dst = flow[i]->nw_dst;
        tnl[i]->ipv6_src = flow[i]->ipv6_src;
        tnl[i]->ipv6_dst = flow[i]->ipv6_dst;
        tnl[i]->ip_tos = flow[i]->nw_tos;
        tnl[i]->ip_ttl = flow[i]->nw_ttl;
        tnl[i]->tp_src = flow[i]->tp_src;
        tnl[i]->tp_dst = flow[i]->tp_dst;
    }
    return true;
}

/* Packets have come out of a tunnel: what was outside is metadata now, which
 * 'next' is the first megaflow to match. */
static void
tunnel_become_metadata(struct state *st, const struct ct_merge_flow *next)
{
    const struct tun_metadata *key = &next->key->tunnel.metadata;
    const struct tun_metadata *mask = &next->mask->tunnel.metadata;
    struct ct_offload_tunnel *tunnel = &st->m->tunnel;
    struct flow_tnl *known = &st->known.tunnel;
    struct flow_tnl *value = &st->value.tunnel;
    struct match *match = &st->m->match;
    size_t n_opts = 0;

    if (tunnel->ipv6) {
        become(st, WIRE, FIELD(tunnel.ipv6_src));
        become(st, WIRE, FIELD(tunnel.ipv6_dst));
    } else {
        become(st, WIRE, FIELD(tunnel.ip_src));
        become(st, WIRE, FIELD(tunnel.ip_dst));
    }
    become(st, WIRE, FIELD(tunnel.ip_tos));
    become(st, WIRE, FIELD(tunnel.ip_ttl));
    become(st, WIRE, FIELD(tunnel.tp_src));
    become(st, WIRE, FIELD(tunnel.tp_dst));
    known->tun_id = ~htonll(0xffffff);
    known->flags &= ~(FLOW_TNL_F_DONT_FRAGMENT | FLOW_TNL_F_CSUM);
    value->flags = FLOW_TNL_F_KEY;

    if (tunnel->type == CT_OFFLOAD_TUNNEL_GENEVE) {
        /* Where megaflows match options, they match their length. */
        n_opts = mask->present.len == UINT8_MAX ? key->present.len : 0;
        known->flags &= ~FLOW_TNL_F_OAM;
        value->flags |= FLOW_TNL_F_UDPIF;
        value->metadata.present.len = n_opts;
        memset(&known->metadata.opts, 0, n_opts);
        match->flow.tunnel.metadata.present.len = n_opts;
        match->wc.masks.tunnel.metadata.present.len = UINT8_MAX;
    }
    tunnel->header_len = tunnel_header_len(tunnel, n_opts);
}

/* Before all others: does 'flow' nothing but take packets out of a tunnel, so
 * that they come from 'vport' next? */
static bool
flow_pops_tunnel(const struct ct_merge_flow *flow,
                 const struct ct_merge_vport *vport)
{
    const struct nlattr *a = flow->actions;

    return (vport->type && flow->actions_len
            && NLA_ALIGN(a->nla_len) == flow->actions_len
            && nl_attr_type(a) == OVS_ACTION_ATTR_TUNNEL_POP
            && nl_attr_get_odp_port(a) == vport->port);
}

/* Returns the UDP header of 'header', with which tnl_push() begins packets. */
static struct udp_header *
header_get_udp(const void *header)
{
    return (netdev_tnl_is_header_ipv6(header)
            ? (void *) (netdev_tnl_ipv6_hdr(CONST_CAST(void *, header)) + 1)
            : (void *) (netdev_tnl_ip_hdr(CONST_CAST(void *, header)) + 1));
}

/* Is 'push' for VXLAN without extensions, of which hardware knows nothing? */
static bool
push_is_vxlan(const struct ovs_action_push_tnl *push)
{
    const struct vxlanhdr *vxlan
        = (const void *) (header_get_udp(push->header) + 1);

    return (push->tnl_type == OVS_VPORT_TYPE_VXLAN
            && get_16aligned_be32(&vxlan->vx_flags) == htonl(VXLAN_FLAGS));
}

static enum ct_merge_reason
merge_tunnel_push(struct state *st, const struct ovs_action_push_tnl *push)
{
    struct ct_merge_step *step;

    if (push->tnl_type != OVS_VPORT_TYPE_GENEVE && !push_is_vxlan(push)) {
        return CT_MERGE_TUNNEL;
    }
    st->m->push = xmemdup(push, sizeof *push);
    step = add_step(st->m, STEP_PUSH);
    step->flow = st->flow;
    return CT_MERGE_OK;
}

static enum ovs_key_attr
tp_key_attr(uint8_t nw_proto)
{
    return nw_proto == IPPROTO_TCP ? OVS_KEY_ATTR_TCP : OVS_KEY_ATTR_UDP;
}

/* Sets the bits of 'mask' to those of 'value'. */
static void
merge_set_flow(struct state *st, const struct flow *value,
               const struct flow *mask)
{
    for (size_t i = 0; i < FLOW_U64S; i++) {
        uint64_t m = u64s(mask)[i];

        u64s(&st->value)[i] = (u64s(&st->value)[i] & ~m)
                              | (u64s(value)[i] & m);
        u64s(&st->known)[i] |= m;
        u64s(&st->path)[i] &= ~m;
        u64s(&st->m->set.wc.masks)[i] |= m;
    }
    add_masked_step(st, STEP_SET, value, mask);
}

/* Puts what the data 'key' of a set action of 'type' says, or its mask, into
 * 'flow'. */
static void
set_to_flow(enum ovs_key_attr type, const void *key, struct flow *flow)
{
    const struct ovs_key_ethernet *eth = key;
    const struct ovs_key_ipv4 *ipv4 = key;
    const struct ovs_key_ipv6 *ipv6 = key;
    const struct ovs_key_tcp *tcp = key;

    memset(flow, 0, sizeof *flow);
    if (type == OVS_KEY_ATTR_ETHERNET) {
        flow->dl_src = eth->eth_src;
        flow->dl_dst = eth->eth_dst;
    } else if (type == OVS_KEY_ATTR_IPV4) {
        flow->nw_src = ipv4->ipv4_src;
        flow->nw_dst = ipv4->ipv4_dst;
        flow->nw_tos = ipv4->ipv4_tos;
        flow->nw_ttl = ipv4->ipv4_ttl;
    } else if (type == OVS_KEY_ATTR_IPV6) {
        flow->ipv6_src = ipv6->ipv6_src;
        flow->ipv6_dst = ipv6->ipv6_dst;
        flow->ipv6_label = ipv6->ipv6_label & htonl(IPV6_LABEL_MASK);
        flow->nw_tos = ipv6->ipv6_tclass;
        flow->nw_ttl = ipv6->ipv6_hlimit;
    } else {
        /* That of UDP is the same. */
        flow->tp_src = tcp->tcp_src;
        flow->tp_dst = tcp->tcp_dst;
    }
}

static enum ct_merge_reason
merge_set(struct state *st, const struct nlattr *a, bool masked)
{
    enum ovs_key_attr type = nl_attr_type(a);
    const char *key = nl_attr_get(a);
    struct flow value, mask;
    char ones[64];

    static const uint8_t refused[OVS_KEY_ATTR_MAX + 1] = {
        [OVS_KEY_ATTR_PRIORITY] = CT_MERGE_SET_SKB_PRIORITY,
        [OVS_KEY_ATTR_SKB_MARK] = CT_MERGE_SET_PKT_MARK,
        [OVS_KEY_ATTR_TUNNEL] = CT_MERGE_TUNNEL,
        [OVS_KEY_ATTR_MPLS] = CT_MERGE_MPLS,
        [OVS_KEY_ATTR_NSH] = CT_MERGE_NSH,
    };

    if (type != OVS_KEY_ATTR_ETHERNET
        && type != (st->ipv6 ? OVS_KEY_ATTR_IPV6 : OVS_KEY_ATTR_IPV4)
        && type != tp_key_attr(st->value.nw_proto)) {
        return (type <= OVS_KEY_ATTR_MAX && refused[type] ? refused[type]
                : CT_MERGE_SET_OTHER);
    }
    memset(ones, 0xff, sizeof ones);
    set_to_flow(type, key, &value);
    set_to_flow(type, masked ? key + nl_attr_get_size(a) / 2 : ones, &mask);
    merge_set_flow(st, &value, &mask);
    return CT_MERGE_OK;
}

/* All actions. */

/* Is there an action that is refused, whatever packets look like? */
static enum ct_merge_reason
check_actions(const struct nlattr *actions, size_t actions_len)
{
    const struct nlattr *a;
    size_t left;

    static const uint8_t refused[OVS_ACTION_ATTR_MAX + 1] = {
        [OVS_ACTION_ATTR_METER] = CT_MERGE_METER,
        [OVS_ACTION_ATTR_SAMPLE] = CT_MERGE_SAMPLE,
        [OVS_ACTION_ATTR_PSAMPLE] = CT_MERGE_PSAMPLE,
        [OVS_ACTION_ATTR_USERSPACE] = CT_MERGE_USERSPACE,
        [OVS_ACTION_ATTR_TRUNC] = CT_MERGE_TRUNC,
        [OVS_ACTION_ATTR_CHECK_PKT_LEN] = CT_MERGE_CHECK_PKT_LEN,
        [OVS_ACTION_ATTR_LB_OUTPUT] = CT_MERGE_LB_OUTPUT,
        [OVS_ACTION_ATTR_DEC_TTL] = CT_MERGE_DEC_TTL,
        [OVS_ACTION_ATTR_PUSH_MPLS] = CT_MERGE_MPLS,
        [OVS_ACTION_ATTR_POP_MPLS] = CT_MERGE_MPLS,
        [OVS_ACTION_ATTR_ADD_MPLS] = CT_MERGE_MPLS,
        [OVS_ACTION_ATTR_PUSH_ETH] = CT_MERGE_L3_PORT,
        [OVS_ACTION_ATTR_POP_ETH] = CT_MERGE_L3_PORT,
        [OVS_ACTION_ATTR_PUSH_NSH] = CT_MERGE_NSH,
        [OVS_ACTION_ATTR_POP_NSH] = CT_MERGE_NSH,
    };

    NL_ATTR_FOR_EACH_UNSAFE (a, left, actions, actions_len) {
        int type = nl_attr_type(a);
        enum ct_merge_reason reason
            = (type > OVS_ACTION_ATTR_MAX ? CT_MERGE_OTHER_ACTION
               : type == OVS_ACTION_ATTR_CLONE
               ? check_actions(nl_attr_get(a), nl_attr_get_size(a))
               : refused[type]);

        if (reason) {
            return reason;
        }
    }
    return CT_MERGE_OK;
}

static enum ct_merge_reason
merge_action(struct state *st, const struct nlattr *a)
{
    int type = nl_attr_type(a);

    switch (type) {
    case OVS_ACTION_ATTR_OUTPUT:
        st->m->out_port = nl_attr_get_odp_port(a);
        st->done = st->output = true;
        return CT_MERGE_OK;

    case OVS_ACTION_ATTR_DROP:
        st->done = st->output = true;
        return CT_MERGE_OK;

    case OVS_ACTION_ATTR_RECIRC:
        st->recirc_id = st->value.recirc_id = nl_attr_get_u32(a);
        st->done = true;
        return CT_MERGE_OK;

    case OVS_ACTION_ATTR_CT:
        return merge_ct(st, a);

    case OVS_ACTION_ATTR_CT_CLEAR:
        merge_ct_clear(st);
        return CT_MERGE_OK;

    case OVS_ACTION_ATTR_SET:
    case OVS_ACTION_ATTR_SET_MASKED:
        return merge_set(st, nl_attr_get(a),
                         type == OVS_ACTION_ATTR_SET_MASKED);

    case OVS_ACTION_ATTR_PUSH_VLAN:
        return merge_push_vlan(st, nl_attr_get(a));

    case OVS_ACTION_ATTR_POP_VLAN:
        merge_pop_vlan(st);
        return CT_MERGE_OK;

    case OVS_ACTION_ATTR_HASH:
        return merge_hash(st, nl_attr_get(a));

    case OVS_ACTION_ATTR_TUNNEL_PUSH:
        return merge_tunnel_push(st, nl_attr_get(a));

    case OVS_ACTION_ATTR_TUNNEL_POP:
        return CT_MERGE_TUNNEL; /* But for the first: merge_tunnel_pop(). */

    default:
        return CT_MERGE_OTHER_ACTION;
    }
}

static enum ct_merge_reason
merge_action_list(struct state *st, const struct nlattr *actions, size_t len)
{
    const struct nlattr *a;
    size_t left;

    NL_ATTR_FOR_EACH_UNSAFE (a, left, actions, len) {
        enum ct_merge_reason reason;

        if (st->done) {
            return st->output ? CT_MERGE_OUTPUTS : CT_MERGE_AFTER_RECIRC;
        } else if (st->m->push && nl_attr_type(a) != OVS_ACTION_ATTR_OUTPUT) {
            return CT_MERGE_TUNNEL;
        } else if (nl_attr_type(a) != OVS_ACTION_ATTR_CLONE) {
            reason = merge_action(st, a);
        } else if (left > NLA_ALIGN(a->nla_len)) {
            return CT_MERGE_CLONE;
        } else {
            /* Nobody sees what becomes of the original. */
            reason = merge_action_list(st, nl_attr_get(a),
                                       nl_attr_get_size(a));
        }
        if (reason) {
            return reason;
        }
    }
    return CT_MERGE_OK;
}

static enum ct_merge_reason
merge_actions(struct state *st, const struct ct_merge_flow *flow, bool last)
{
    enum ct_merge_reason reason;

    st->done = false;
    reason = merge_action_list(st, flow->actions, flow->actions_len);
    if (reason) {
        return reason;
    }

    bool recirculates = st->done && !st->output;
    return recirculates == last ? CT_MERGE_BROKEN : CT_MERGE_OK;
}

/* After the last megaflow. */

/* Is the field at 'ofs' another one now than on the wire?  If so, and if all
 * of its bits are known now, completes its value. */
static bool
field_is_changed(struct state *st, size_t ofs, size_t size, bool *unknown)
{
    const uint8_t *known = (const uint8_t *) &st->known + ofs;
    const uint8_t *wire = (const uint8_t *) &st->m->match.flow + ofs;
    const uint8_t *matched = (const uint8_t *) &st->m->match.wc.masks + ofs;
    uint8_t *value = (uint8_t *) &st->value + ofs;
    bool changed = false;

    *unknown = false;
    for (size_t i = 0; i < size; i++) {
        if (known[i] & ~(matched[i] & ~(value[i] ^ wire[i]))) {
            changed = true;
        }
        if (~known[i] & ~matched[i] & 0xff) {
            *unknown = true;
        }
        value[i] = (value[i] & known[i]) | (wire[i] & ~known[i]);
    }
    return changed;
}

/* Decides which fields the rule sets, to what, but for the tuple's values. */
static enum ct_merge_reason
merge_sets(struct state *st)
{
    static const struct {
        struct field field;
        enum ct_merge_reason refused;
    } fields[] = {
        { { FIELD(dl_src) }, CT_MERGE_OK },
        { { FIELD(dl_dst) }, CT_MERGE_OK },
        { { FIELD(nw_ttl) }, CT_MERGE_OK },
        { { FIELD(nw_tos) }, CT_MERGE_SET_TOS },
        { { FIELD(ipv6_label) }, CT_MERGE_SET_IPV6_LABEL },
    };
    struct flow *mask = &st->m->set.wc.masks;

    for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
        const struct field *f = &fields[i].field;
        char *field_mask = (char *) mask + f->ofs;
        bool unknown;

        if (is_all_zeros(field_mask, f->size)) {
            continue;
        } else if (!field_is_changed(st, f->ofs, f->size, &unknown)) {
            memset(field_mask, 0, f->size);
        } else if (fields[i].refused || unknown) {
            return fields[i].refused ? fields[i].refused : CT_MERGE_SET_PART;
        } else {
            memset(field_mask, 0xff, f->size);
        }
    }
    for (size_t i = 0; i < N_TUPLE; i++) {
        const struct field *f = &tuple_fields[st->ipv6][i];

        if (!is_all_zeros((char *) mask + f->ofs, f->size)) {
            mask_field(mask, f);
        }
    }
    flow_and(&st->m->set.flow, &st->value, mask);
    return CT_MERGE_OK;
}

/* The tuple is matched exactly. */
static void
match_tuple(struct state *st)
{
    struct match *match = &st->m->match;

    st->m->matched.value = values_from_flow(&match->flow, st->ipv6);
    st->m->matched.mask = values_from_flow(&match->wc.masks, st->ipv6);
    for (size_t i = 0; i < N_TUPLE; i++) {
        mask_field(&match->wc.masks, &tuple_fields[st->ipv6][i]);
    }
}

/* The first megaflow, which takes packets out of a tunnel, from which they
 * come as packets that state_init() knows. */
static enum ct_merge_reason
merge_tunnel_pop(struct state *st, const struct ct_merge_flow flows[],
                 size_t n_flows, const struct ct_merge_vport *vport,
                 bool ipv6, uint8_t nw_proto)
{
    struct match *match = &st->m->match, outer;
    enum ct_merge_reason reason;

    if (n_flows < 2 || flows[1].key->in_port.odp_port != vport->port) {
        return CT_MERGE_BROKEN;
    }
    st->m->tunnel.ipv6 = flows[0].key->dl_type == htons(ETH_TYPE_IPV6);
    state_init(st, &flows[0], st->m->tunnel.ipv6, IPPROTO_UDP);
    reason = merge_match(st, &flows[0]);
    if (reason || st->tag) {
        return reason ? reason : CT_MERGE_VLAN;
    }

    outer = *match;
    match_init_catchall(match);
    state_init(st, &flows[1], ipv6, nw_proto);
    if (!tunnel_from_outer(&st->m->tunnel, &outer, match)) {
        return CT_MERGE_TUNNEL;
    }
    st->m->tunnel.type = vport->type;
    st->m->tunnel_port = vport->port;
    tunnel_become_metadata(st, &flows[1]);
    return CT_MERGE_OK;
}

/* What came out of a tunnel came from 'in_port', and there are properties of
 * tunnels that the policy cannot depend on, nor most hardware match. */
static void
finish_tunnel(struct ct_merge *m)
{
    struct flow_tnl *mask = &m->match.wc.masks.tunnel;

    mask->flags &= FLOW_TNL_PUB_F_MASK;
    m->match.flow.tunnel.flags &= mask->flags;
    if (mask->tun_id == htonll(0xffffff)) {
        mask->tun_id = OVS_BE64_MAX;    /* There are no other bits. */
    }
    m->match.flow.in_port.odp_port = m->in_port;
}

static enum ct_merge_reason
merge_chain(struct state *st, const struct ct_merge_flow flows[],
            size_t n_flows)
{
    struct ct_merge *m = st->m;

    for (size_t i = 0; i < n_flows; i++) {
        enum ct_merge_reason reason = check_actions(flows[i].actions,
                                                    flows[i].actions_len);

        if (reason) {
            return reason;
        }
    }
    for (size_t i = m->tunnel.type != 0; i < n_flows; i++) {
        enum ct_merge_reason reason;

        st->flow = i;
        reason = merge_match(st, &flows[i]);
        m->size_diff[i] = ((st->tag - st->wire_tag) * VLAN_HEADER_LEN
                           - (int) m->tunnel.header_len);
        if (!reason) {
            reason = merge_actions(st, &flows[i], i == n_flows - 1);
        }
        if (reason) {
            return reason;
        }
    }
    if (m->n_conns != st->n_conns) {
        return CT_MERGE_BROKEN;
    }
    if (m->tunnel.type) {
        finish_tunnel(m);
    }
    match_tuple(st);
    return merge_sets(st);
}

/* Checks that the connections can be those of one path, and finds out what
 * protocol they have. */
static enum ct_merge_reason
check_conns(const struct ct_merge_conn conns[], size_t n_conns,
            const struct ct_dpif_tuple **tuple)
{
    bool established = false;

    *tuple = NULL;
    for (size_t i = 0; i < n_conns; i++) {
        const struct ct_dpif_tuple *t = conn_tuple(&conns[i]);

        if (conns[i].kind == CT_MERGE_MISS) {
            continue;
        }
        established |= conns[i].kind == CT_MERGE_ESTABLISHED;
        if ((t->ip_proto != IPPROTO_TCP && t->ip_proto != IPPROTO_UDP)
            || (t->l3_type != AF_INET && t->l3_type != AF_INET6)
            || (*tuple && (t->ip_proto != (*tuple)->ip_proto
                           || t->l3_type != (*tuple)->l3_type))) {
            return CT_MERGE_PROTOCOL;
        }
        *tuple = t;
    }
    return established ? CT_MERGE_OK : CT_MERGE_NO_CONN;
}

/* Compiles the chain of the 'n_flows' megaflows in 'flows', in the order in
 * which a packet has met them, for it and for all others that find connections
 * of the same shape as those in 'conns', one for each ct() action.  If
 * the first one does nothing but take packets out of a tunnel, 'vport' says
 * what tunnel.  If successful, returns CT_MERGE_OK and stores the chain in
 * '*mp'.  Otherwise, returns why it cannot be one rule. */
enum ct_merge_reason
ct_merge_create(const struct ct_merge_flow flows[], size_t n_flows,
                const struct ct_merge_conn conns[], size_t n_conns,
                struct ct_merge_vport vport, struct ct_merge **mp)
{
    const struct ct_dpif_tuple *tuple;
    enum ct_merge_reason reason;
    struct state st;

    *mp = NULL;
    if (!n_flows) {
        return CT_MERGE_BROKEN;
    } else if (n_flows > CT_MERGE_MAX_FLOWS || n_conns > CT_MERGE_MAX_CONNS) {
        return CT_MERGE_TOO_LONG;
    }
    reason = check_conns(conns, n_conns, &tuple);
    if (reason) {
        return reason;
    }

    memset(&st, 0, sizeof st);
    st.m = xzalloc(sizeof *st.m);
    st.m->in_port = flows[0].key->in_port.odp_port;
    st.m->out_port = ODPP_NONE;
    match_init_catchall(&st.m->match);
    match_init_catchall(&st.m->set);
    st.m->n_flows = n_flows;
    st.m->first = SIZE_MAX;
    st.conns = conns;
    st.n_conns = n_conns;
    if (flow_pops_tunnel(&flows[0], &vport)) {
        reason = merge_tunnel_pop(&st, flows, n_flows, &vport,
                                  tuple_is_ipv6(tuple), tuple->ip_proto);
    } else {
        state_init(&st, &flows[0], tuple_is_ipv6(tuple), tuple->ip_proto);
    }

    reason = reason ? reason : merge_chain(&st, flows, n_flows);
    if (reason) {
        ct_merge_destroy(st.m);
    } else {
        *mp = st.m;
    }
    return reason;
}

void
ct_merge_destroy(struct ct_merge *m)
{
    if (m) {
        free(m->steps);
        free(m->push);
        free(m);
    }
}

/* Paths. */

static struct flow
flow_from_tuple(const struct ct_dpif_tuple *tuple)
{
    struct flow flow;

    memset(&flow, 0, sizeof flow);
    flow.dl_type = htons(tuple_is_ipv6(tuple) ? ETH_TYPE_IPV6 : ETH_TYPE_IP);
    flow.nw_proto = tuple->ip_proto;
    tuple_to_flow(tuple, &flow);
    return flow;
}

/* The same as netdev_tnl_get_src_port(). */
static ovs_be16
compute_udp_src(const struct ct_merge_step *step,
                const struct ct_dpif_tuple *tuple,
                const struct ct_merge_rss *rss)
{
    uint64_t hash = rss->hash;

    if (step->flow < rss->since) {
        struct flow flow = flow_from_tuple(tuple);

        hash = flow_hash_5tuple(&flow, 0);
    }
    hash = hash * (tnl_udp_port_max - tnl_udp_port_min) >> 32;
    return htons(hash + tnl_udp_port_min);
}

static uint32_t
compute_hash(const struct ct_merge_step *step,
             const struct ct_dpif_tuple *tuple, const struct ct_merge_rss *rss)
{
    const struct ovs_action_hash *action = &step->hash;
    struct flow flow;

    if (action->hash_alg == OVS_HASH_ALG_L4 && step->flow >= rss->since) {
        return hash_int(rss->hash, action->hash_basis);
    }
    flow = flow_from_tuple(tuple);
    return (action->hash_alg == OVS_HASH_ALG_L4
            ? flow_hash_5tuple(&flow, action->hash_basis)
            : flow_hash_symmetric_l3l4(&flow, action->hash_basis, false));
}

/* The packet that has 'v' passes ct(), which finds 'conn'. */
static enum ct_merge_reason
pass_ct(const struct ct_merge_step *step, const struct ct_merge_conn *conn,
        struct ct_merge_values *v)
{
    if (conn->kind == CT_MERGE_MISS) {
        v->ct_tuple = v->tuple;
        return CT_MERGE_OK;
    }

    struct ct_dpif_tuple translated = conn_translated(conn);
    if (tuple_diff(&v->tuple, (step->natted ? &translated
                               : conn_tuple(conn)))) {
        return CT_MERGE_CT_TUPLE;
    }
    if (step->translate) {
        v->tuple = translated;
    }
    v->ct_tuple = conn->related ? conn->parent : conn->tuple[0];
    if (v->ct_tuple.l3_type != v->tuple.l3_type
        || v->ct_tuple.ip_proto != v->tuple.ip_proto) {
        return CT_MERGE_CT_TUPLE;
    }
    v->ct_mark = conn->mark;
    v->ct_label = conn->label;
    return (masked_matches(&step->masked, v) ? CT_MERGE_OK
            : CT_MERGE_CT_MARK);
}

/* Can packets that find 'conns', as many as ct_merge_create() got, go through
 * the chain 'm'?  Returns CT_MERGE_OK and initializes '*path', or why not.
 *
 * 'rss' is the RSS hash of these packets, which is the same for all of them:
 * the port has computed it, or miniflow_extract() of the tuple.  If 'rss' is
 * NULL, packets are known to pass matches on dp_hash, and it is not known what
 * UDP source port they get from tnl_push(). */
enum ct_merge_reason
ct_merge_instantiate(const struct ct_merge *m,
                     const struct ct_merge_conn conns[],
                     const struct ct_merge_rss *rss,
                     struct ct_merge_path *path)
{
    struct ct_merge_values v;

    for (size_t i = 0; i < m->n_conns; i++) {
        if (ct_merge_conn_shape(&conns[i]) != m->shapes[i]) {
            return CT_MERGE_INCONSISTENT;
        }
    }

    memset(&v, 0, sizeof v);
    memset(path, 0, sizeof *path);
    ct_merge_get_wire(m, &conns[m->first], &path->wire);
    v.tuple = path->wire;
    if (!masked_matches(&m->matched, &v)) {
        return CT_MERGE_INCONSISTENT;
    }

    for (size_t i = 0; i < m->n_steps; i++) {
        const struct ct_merge_step *step = &m->steps[i];
        enum ct_merge_reason reason;

        switch (step->type) {
        case STEP_CHECK:
            if (!rss) {
                v.dp_hash = step->masked.value.dp_hash;
            }
            if (!masked_matches(&step->masked, &v)) {
                return CT_MERGE_INCONSISTENT;
            }
            break;

        case STEP_SET:
            masked_apply(&step->masked, &v);
            break;

        case STEP_CT:
            path->seen[step->index] = v.tuple;
            reason = pass_ct(step, &conns[step->index], &v);
            if (reason) {
                return reason;
            }
            break;

        case STEP_HASH:
            if (rss) {
                v.dp_hash = compute_hash(step, &v.tuple, rss);
            }
            break;

        case STEP_PUSH:
            if (rss) {
                path->udp_src = compute_udp_src(step, &v.tuple, rss);
            }
            break;

        default:
            OVS_NOT_REACHED();
        }
    }
    path->out = v.tuple;
    return CT_MERGE_OK;
}

/* Stores in '*wire' the tuple that packets have on the wire for which ct()
 * number 'm->first' finds 'first', of which only the tuples and the direction
 * matter. */
void
ct_merge_get_wire(const struct ct_merge *m, const struct ct_merge_conn *first,
                  struct ct_dpif_tuple *wire)
{
    struct ct_merge_values v;

    memset(&v, 0, sizeof v);
    v.tuple = *conn_tuple(first);
    masked_apply(&m->wire, &v);
    *wire = v.tuple;
}

/* Initializes 'match' to what packets of 'path' are on the wire, which goes
 * through 'm'. */
void
ct_merge_get_match(const struct ct_merge *m, const struct ct_merge_path *path,
                   struct match *match)
{
    *match = m->match;
    tuple_to_flow(&path->wire, &match->flow);
}

/* Stores in '*match' what all paths of 'm' match. */
void
ct_merge_get_common_match(const struct ct_merge *m, struct match *match)
{
    struct ct_dpif_tuple mask = m->matched.mask.tuple;

    *match = m->match;
    mask.l3_type = (match->flow.dl_type == htons(ETH_TYPE_IPV6)
                    ? AF_INET6 : AF_INET);
    tuple_to_flow(&mask, &match->wc.masks);
    match_zero_wildcarded_fields(match);
}

/* The opposite of set_to_flow().  Returns the size of 'key'. */
static size_t
set_from_flow(enum ovs_key_attr type, const struct flow *flow, void *key)
{
    struct ovs_key_ethernet *eth = key;
    struct ovs_key_ipv4 *ipv4 = key;
    struct ovs_key_ipv6 *ipv6 = key;
    struct ovs_key_tcp *tcp = key;

    if (type == OVS_KEY_ATTR_ETHERNET) {
        eth->eth_src = flow->dl_src;
        eth->eth_dst = flow->dl_dst;
        return sizeof *eth;
    } else if (type == OVS_KEY_ATTR_IPV4) {
        ipv4->ipv4_src = flow->nw_src;
        ipv4->ipv4_dst = flow->nw_dst;
        ipv4->ipv4_ttl = flow->nw_ttl;
        return sizeof *ipv4;
    } else if (type == OVS_KEY_ATTR_IPV6) {
        ipv6->ipv6_src = flow->ipv6_src;
        ipv6->ipv6_dst = flow->ipv6_dst;
        ipv6->ipv6_hlimit = flow->nw_ttl;
        return sizeof *ipv6;
    } else {
        tcp->tcp_src = flow->tp_src;
        tcp->tcp_dst = flow->tp_dst;
        return sizeof *tcp;
    }
}

/* Appends to 'b' an action that sets what is of 'type' in 'set', if there is
 * anything. */
static void
put_set(struct ofpbuf *b, enum ovs_key_attr type, const struct match *set)
{
    union {
        struct ovs_key_ethernet eth;
        struct ovs_key_ipv4 ipv4;
        struct ovs_key_ipv6 ipv6;
        struct ovs_key_tcp tcp;
    } key, mask;
    size_t size;

    memset(&key, 0, sizeof key);
    memset(&mask, 0, sizeof mask);
    set_from_flow(type, &set->flow, &key);
    size = set_from_flow(type, &set->wc.masks, &mask);
    if (!is_all_zeros(&mask, size)) {
        bool all = is_all_ones(&mask, size);
        size_t ofs = nl_msg_start_nested(b, (all ? OVS_ACTION_ATTR_SET
                                             : OVS_ACTION_ATTR_SET_MASKED));
        char *data = nl_msg_put_unspec_uninit(b, type, all ? size : 2 * size);

        memcpy(data, &key, size);
        if (!all) {
            memcpy(data + size, &mask, size);
        }
        nl_msg_end_nested(b, ofs);
    }
}

/* Appends to 'b' tnl_push() with the header in 'push', but for 'udp_src'. */
static void
put_tunnel_push(struct ofpbuf *b, const struct ovs_action_push_tnl *push,
                ovs_be16 udp_src)
{
    struct ovs_action_push_tnl *copy;

    copy = nl_msg_put_unspec_uninit(b, OVS_ACTION_ATTR_TUNNEL_PUSH,
                                    sizeof *copy);
    *copy = *push;
    header_get_udp(copy->header)->udp_src = udp_src;
}

/* Appends to 'b' the actions for packets of 'path', which goes through 'm'.
 * Each field is in them once at most.  They end with output; to drop, there is
 * nothing.  This is their order:
 *
 *     tnl_pop, pop_vlan, push_vlan, set of eth, ip or ipv6, tcp or udp, ttl,
 *     tnl_push, output. */
void
ct_merge_put_actions(const struct ct_merge *m,
                     const struct ct_merge_path *path, struct ofpbuf *b)
{
    if (m->out_port == ODPP_NONE) {
        return;
    }
    if (m->tunnel.type) {
        nl_msg_put_odp_port(b, OVS_ACTION_ATTR_TUNNEL_POP, m->tunnel_port);
    }
    if (m->pop_vlan) {
        nl_msg_put_flag(b, OVS_ACTION_ATTR_POP_VLAN);
    }
    if (m->push_vlan) {
        nl_msg_put_unspec(b, OVS_ACTION_ATTR_PUSH_VLAN, &m->vlan,
                          sizeof m->vlan);
    }

    struct match set = m->set;
    enum ovs_key_attr ip = (tuple_is_ipv6(&path->out) ? OVS_KEY_ATTR_IPV6
                            : OVS_KEY_ATTR_IPV4);

    tuple_to_flow(&path->out, &set.flow);
    flow_and(&set.flow, &set.flow, &set.wc.masks);
    put_set(b, OVS_KEY_ATTR_ETHERNET, &set);
    set.flow.nw_ttl = set.wc.masks.nw_ttl = 0;
    put_set(b, ip, &set);
    put_set(b, tp_key_attr(path->out.ip_proto), &set);
    memset(&set, 0, sizeof set);
    set.flow.nw_ttl = m->set.flow.nw_ttl;
    set.wc.masks.nw_ttl = m->set.wc.masks.nw_ttl;
    put_set(b, ip, &set);
    if (m->push) {
        put_tunnel_push(b, m->push, path->udp_src);
    }
    nl_msg_put_odp_port(b, OVS_ACTION_ATTR_OUTPUT, m->out_port);
}
