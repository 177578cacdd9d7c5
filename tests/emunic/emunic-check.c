/* SPDX-License-Identifier: Apache-2.0 */

#include <config.h>

#include "emunic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <rte_errno.h>

/* A rule that is being looked at. */
struct check {
    struct emu_port *port;
    const struct emu_config *config;
    const struct rte_flow_attr *attr;
    struct emu_rule *rule;
    struct rte_flow_error *error;

    int level;                  /* 1 for an item of what is in a tunnel. */
    uint32_t layers[2];         /* Of the items so far. */
    bool has_fate, has_age, has_ct, has_count, has_mark, has_push;
    bool has_decap, has_encap;
};

static int
refuse(const struct check *check, int code, enum rte_flow_error_type type,
       const void *cause, const char *message)
{
    return rte_flow_error_set(check->error, code, type, cause, message);
}

static int
check_attr(struct check *check)
{
    const struct rte_flow_attr *attr = check->attr;
    const struct emu_config *config = check->config;
    uint32_t priorities = (attr->group ? config->priorities
                           : config->root_priorities);

    if (attr->reserved) {
        return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ATTR, attr,
                      "reserved bits of the attributes are set");
    }
    if (attr->egress) {
        return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ATTR_EGRESS, attr,
                      "egress rules are not supported");
    }
    if (!attr->ingress && !attr->transfer) {
        return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ATTR, attr,
                      "neither an ingress nor a transfer rule");
    }
    if (attr->ingress && attr->transfer) {
        return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ATTR_TRANSFER, attr,
                      "ingress is for rules that are not transfer rules");
    }
    if (attr->transfer && !config->transfer) {
        return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ATTR_TRANSFER, attr,
                      "transfer rules are not supported");
    }
    if (attr->transfer) {
        const struct emu_port *proxy = emu_port_proxy(check->port);

        if (proxy != check->port) {
            return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ATTR_TRANSFER,
                          attr, "transfer rules are for the proxy port");
        }
    }
    if (attr->group > config->groups) {
        return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ATTR_GROUP, attr,
                      "there is no such group");
    }
    if (attr->priority >= priorities
        && !(config->lowest_priority && attr->priority == UINT32_MAX)) {
        return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ATTR_PRIORITY, attr,
                      "there is no such priority");
    }
    check->rule->transfer = attr->transfer;
    check->rule->group = attr->group;
    check->rule->priority = attr->priority;
    return 0;
}

/* Makes the rule match 'layer' being there, or not, as a flag of an item
 * says. */
static void
match_layer(struct check *check, uint32_t layer, bool spec, bool mask)
{
    struct emu_rule *rule = check->rule;

    if (mask) {
        rule->flags[check->level] |= layer;
        rule->mask.levels[check->level].layers |= layer;
        if (spec) {
            rule->key.levels[check->level].layers |= layer;
        }
    }
}

static int
check_flags(struct check *check, const struct rte_flow_item *item,
            const void *mask_, bool second_vlan)
{
    if (item->type == RTE_FLOW_ITEM_TYPE_ETH) {
        const struct rte_flow_item_eth *spec = item->spec, *mask = mask_;

        if (spec->reserved) {
            return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ITEM_SPEC, item,
                          "reserved bits of ETH are set");
        }
        match_layer(check, EMU_VLAN, spec->has_vlan, mask->has_vlan);
    } else if (item->type == RTE_FLOW_ITEM_TYPE_VLAN) {
        const struct rte_flow_item_vlan *spec = item->spec, *mask = mask_;

        if (spec->reserved) {
            return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ITEM_SPEC, item,
                          "reserved bits of VLAN are set");
        }
        if (second_vlan && mask->has_more_vlan) {
            return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ITEM_MASK, item,
                          "more than two VLAN tags cannot be matched");
        }
        match_layer(check, EMU_VLAN2, spec->has_more_vlan,
                    mask->has_more_vlan);
    } else if (item->type == RTE_FLOW_ITEM_TYPE_IPV6) {
        const struct rte_flow_item_ipv6 *spec = item->spec, *mask = mask_;

        if (spec->reserved) {
            return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ITEM_SPEC, item,
                          "reserved bits of IPV6 are set");
        }
        if (!check->config->any_mask
            && (mask->has_hop_ext || mask->has_route_ext || mask->has_auth_ext
                || mask->has_esp_ext || mask->has_dest_ext
                || mask->has_mobil_ext || mask->has_hip_ext
                || mask->has_shim6_ext)) {
            return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ITEM_MASK, item,
                          "mask has bits that are not supported");
        }
        match_layer(check, EMU_HOP_EXT, spec->has_hop_ext, mask->has_hop_ext);
        match_layer(check, EMU_ROUTE_EXT, spec->has_route_ext,
                    mask->has_route_ext);
        match_layer(check, EMU_FRAG_EXT, spec->has_frag_ext,
                    mask->has_frag_ext);
        match_layer(check, EMU_AUTH_EXT, spec->has_auth_ext,
                    mask->has_auth_ext);
        match_layer(check, EMU_ESP_EXT, spec->has_esp_ext, mask->has_esp_ext);
        match_layer(check, EMU_DEST_EXT, spec->has_dest_ext,
                    mask->has_dest_ext);
        match_layer(check, EMU_MOBIL_EXT, spec->has_mobil_ext,
                    mask->has_mobil_ext);
        match_layer(check, EMU_HIP_EXT, spec->has_hip_ext, mask->has_hip_ext);
        match_layer(check, EMU_SHIM6_EXT, spec->has_shim6_ext,
                    mask->has_shim6_ext);
    } else if (item->type == RTE_FLOW_ITEM_TYPE_CONNTRACK) {
        const struct rte_flow_item_conntrack *spec = item->spec;
        const struct rte_flow_item_conntrack *mask = mask_;
        uint32_t known = (RTE_FLOW_CONNTRACK_PKT_STATE_VALID
                          | RTE_FLOW_CONNTRACK_PKT_STATE_CHANGED
                          | RTE_FLOW_CONNTRACK_PKT_STATE_INVALID
                          | RTE_FLOW_CONNTRACK_PKT_STATE_DISABLED
                          | RTE_FLOW_CONNTRACK_PKT_STATE_BAD);

        if (spec->flags & mask->flags & ~known) {
            return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ITEM_SPEC, item,
                          "unknown CONNTRACK flags");
        }
    }
    return 0;
}

/* A mask without a bit of 'spec' and 'last' that the NIC cannot match. */
static int
check_values(struct check *check, const struct rte_flow_item *item,
             const struct emu_item_class *class, size_t offset,
             bool second_vlan)
{
    struct emu_rule *rule = check->rule;
    uint8_t no_mask[64] = { 0 };
    const uint8_t *spec = item->spec, *mask = item->mask, *last = item->last;
    bool ranged = false;
    int retval;

    if (!mask) {
        mask = class->default_mask ? class->default_mask : no_mask;
    }
    if (!check->config->any_mask && class->mlx5_mask) {
        const uint8_t *allowed = class->mlx5_mask;

        for (size_t i = 0; i < class->size; i++) {
            if (mask[i] & ~allowed[i]) {
                return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ITEM_MASK,
                              item, "mask has bits that are not supported");
            }
        }
    }

    if (!check->config->tcp_flags && class->type == RTE_FLOW_ITEM_TYPE_TCP
        && mask[offsetof(struct rte_tcp_hdr, tcp_flags)]) {
        return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ITEM_MASK, item,
                      "TCP flags are not supported");
    }

    for (size_t i = 0; i < class->size; i++) {
        rule->mask.bytes[offset + i] = mask[i];
        rule->key.bytes[offset + i] = spec[i] & mask[i];
        rule->last->bytes[offset + i] = spec[i] & mask[i];
    }
    for (const struct emu_field *f = class->fields; last && f->name; f++) {
        const uint8_t *first = &rule->key.bytes[offset + f->offset];
        uint8_t *end = &rule->last->bytes[offset + f->offset];
        uint8_t value[16];
        bool zero = true;

        for (size_t i = 0; i < f->size; i++) {
            value[i] = last[f->offset + i] & mask[f->offset + i];
            zero &= !value[i];
        }
        if (zero || !memcmp(value, first, f->size)) {
            continue;           /* Means "the same as in spec". */
        }
        if (!check->config->ranges
            && !(f->size == 2 && (class->type == RTE_FLOW_ITEM_TYPE_IPV4
                                  || class->type
                                     == RTE_FLOW_ITEM_TYPE_IPV6_FRAG_EXT))) {
            return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ITEM_LAST, item,
                          "ranges are not supported");
        }
        if (f->format == EMU_FMT_HOST || f->format == EMU_FMT_PORT) {
            return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ITEM_LAST, item,
                          "this item has no range");
        }
        if (memcmp(value, first, f->size) < 0) {
            return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ITEM_LAST, item,
                          "the range ends before it begins");
        }
        memcpy(end, value, f->size);
        ranged = true;
    }

    retval = check_flags(check, item, mask, second_vlan);
    rule->ranged |= ranged;
    return retval;
}

/* Says whether the rule wants 'bytes' in a field to be something else than
 * 'value', so that it would never be hit. */
static bool
field_contradicts(const void *bytes_, const void *mask_, uint32_t value,
                  size_t size)
{
    const uint8_t *bytes = bytes_, *mask = mask_;

    for (size_t i = 0; i < size; i++) {
        uint8_t byte = value >> 8 * (size - 1 - i);

        if ((bytes[i] ^ byte) & mask[i]) {
            return true;
        }
    }
    return false;
}

/* Says whether the item before the network layer wants another Ethernet
 * type. */
static bool
type_contradicts(const struct check *check, uint16_t type)
{
    const struct emu_fields *key = &check->rule->key.levels[check->level];
    const struct emu_fields *mask = &check->rule->mask.levels[check->level];
    uint32_t layers = check->layers[check->level];

    if (layers & EMU_VLAN2) {
        return field_contradicts(&key->vlan[1].eth_proto,
                                 &mask->vlan[1].eth_proto, type, 2);
    } else if (layers & EMU_VLAN) {
        return field_contradicts(&key->vlan[0].eth_proto,
                                 &mask->vlan[0].eth_proto, type, 2);
    } else if (check->rule->flags[check->level] & EMU_VLAN
               && key->layers & EMU_VLAN) {
        return false;           /* The type is that of a tag. */
    }
    return field_contradicts(&key->eth.ether_type, &mask->eth.ether_type,
                             type, 2);
}

static bool
protocol_contradicts(const struct check *check, uint8_t protocol)
{
    const struct emu_fields *key = &check->rule->key.levels[check->level];
    const struct emu_fields *mask = &check->rule->mask.levels[check->level];
    uint32_t layers = check->layers[check->level];

    if (layers & EMU_IPV4) {
        return field_contradicts(&key->ipv4.next_proto_id,
                                 &mask->ipv4.next_proto_id, protocol, 1);
    } else if (layers & EMU_FRAG_EXT) {
        return field_contradicts(&key->frag.next_header,
                                 &mask->frag.next_header, protocol, 1);
    }
    return !(key->layers & EMU_IPV6_EXTS)
           && field_contradicts(&key->ipv6.proto, &mask->ipv6.proto,
                                protocol, 1);
}

/* Checks that an item that begins a tunnel, or is an option of one, may follow
 * those before it. */
static int
check_tunnel_stacking(const struct check *check,
                      const struct rte_flow_item *item, enum emu_layer layer)
{
    const enum rte_flow_error_type type = RTE_FLOW_ERROR_TYPE_ITEM;
    uint32_t layers = check->layers[0];

    if (!check->config->tunnels) {
        return refuse(check, ENOTSUP, type, item,
                      "tunnels are not supported");
    }
    if (!check->attr->transfer) {
        return refuse(check, ENOTSUP, type, item,
                      "tunnels are for transfer rules");
    }
    if (layer != EMU_GENEVE_OPT && layers & EMU_TUNNEL) {
        return refuse(check, EINVAL, type, item, "a second tunnel");
    }
    if (check->layers[1]) {
        return refuse(check, EINVAL, type, item,
                      "items are not in the order of the layers");
    }
    if (!(layers & (layer == EMU_GENEVE_OPT ? EMU_GENEVE : EMU_UDP))) {
        return refuse(check, EINVAL, type, item,
                      "tunnel without the header that carries it");
    }
    return 0;
}

/* Checks that an item of 'class' may follow those before it. */
static int
check_stacking(struct check *check, const struct rte_flow_item *item,
               enum emu_layer layer)
{
    const enum rte_flow_error_type type = RTE_FLOW_ERROR_TYPE_ITEM;
    uint32_t layers = check->layers[check->level];
    const struct emu_fields *key = &check->rule->key.levels[check->level];
    uint32_t flags = check->rule->flags[check->level];
    bool contradicts = false;

    if (layer == EMU_CT) {
        if (layers & EMU_CT) {
            return refuse(check, EINVAL, type, item, "item given twice");
        }
        if (!check->config->conntrack) {
            return refuse(check, ENOTSUP, type, item,
                          "CONNTRACK is not supported");
        }
        if (!check->config->ct_anywhere && !check->attr->group) {
            return refuse(check, ENOTSUP, type, item,
                          "CONNTRACK cannot be matched in group 0");
        }
        return 0;
    }
    if (layer == EMU_PORT) {
        if (layers & EMU_PORT) {
            return refuse(check, EINVAL, type, item, "item given twice");
        }
        if (!check->attr->transfer) {
            return refuse(check, EINVAL, type, item,
                          "this item is for transfer rules");
        }
        return 0;
    }
    if (layer & (EMU_TUNNEL | EMU_GENEVE_OPT)) {
        return check_tunnel_stacking(check, item, layer);
    }
    if (check->level && layer & ~(EMU_ETH | EMU_VLAN | EMU_VLAN2 | EMU_IPV4
                                  | EMU_IPV6 | EMU_TCP | EMU_UDP)) {
        return refuse(check, ENOTSUP, type, item,
                      "this item is not supported in a tunnel");
    }
    if (layers & ~(EMU_CT | EMU_PORT) & ~(uint32_t) (layer - 1)) {
        return refuse(check, EINVAL, type, item,
                      layers & layer ? "item given twice"
                      : "items are not in the order of the layers");
    }
    if (layer != EMU_ETH && !(layers & EMU_ETH)) {
        return refuse(check, EINVAL, type, item,
                      "items do not start from the lowest layer");
    }
    switch ((int) layer) {
    case EMU_ETH:
        /* In a tunnel: else nothing is asked of Geneve. */
        contradicts = field_contradicts(&check->rule->key.f.geneve[2],
                                        &check->rule->mask.f.geneve[2],
                                        EMU_GENEVE_ETHERNET, 2);
        break;
    case EMU_VLAN:
    case EMU_VLAN2:
        contradicts = flags & layer && !(key->layers & layer);
        break;
    case EMU_IPV4:
        contradicts = type_contradicts(check, RTE_ETHER_TYPE_IPV4);
        break;
    case EMU_IPV6:
        if (layers & EMU_IPV4) {
            return refuse(check, EINVAL, type, item,
                          "two network layers");
        }
        contradicts = type_contradicts(check, RTE_ETHER_TYPE_IPV6);
        break;
    case EMU_FRAG_EXT:
        if (!(layers & EMU_IPV6)) {
            return refuse(check, EINVAL, type, item,
                          "IPV6_FRAG_EXT without IPV6");
        }
        contradicts = flags & EMU_FRAG_EXT && !(key->layers & EMU_FRAG_EXT);
        break;
    default:
        if (!(layers & (layer == EMU_ICMP ? EMU_IPV4
                        : layer == EMU_ICMP6 ? EMU_IPV6
                        : EMU_IPV4 | EMU_IPV6))) {
            return refuse(check, EINVAL, type, item,
                          "transport layer without its network layer");
        } else if (layers & EMU_L4) {
            return refuse(check, EINVAL, type, item, "two transport layers");
        } else {
            contradicts = protocol_contradicts(
                check, (layer == EMU_TCP ? IPPROTO_TCP
                        : layer == EMU_UDP ? IPPROTO_UDP
                        : layer == EMU_SCTP ? IPPROTO_SCTP
                        : layer == EMU_ICMP ? IPPROTO_ICMP
                        : IPPROTO_ICMPV6));
        }
        break;
    }
    if (contradicts) {
        return refuse(check, EINVAL, type, item,
                      "item contradicts the one before it");
    }
    return 0;
}

/* The port whose packets a transfer rule is for, as far as items say. */
static int
check_represented_port(const struct check *check,
                       const struct rte_flow_item *item)
{
    uint16_t port = check->rule->key.f.port, mask = check->rule->mask.f.port;

    if (mask && mask != UINT16_MAX) {
        return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ITEM_MASK, item,
                      "a part of the number of a port cannot be matched");
    }
    if (mask && (port >= RTE_MAX_ETHPORTS
                 || !rte_eth_dev_is_valid_port(port)
                 || !emu_port_get(port)
                 || !emu_ports_connected(port, check->port->id))) {
        return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ITEM_SPEC, item,
                      "there is no such port in this switch");
    }
    return 0;
}

/* Makes the rule match a Geneve option. */
static int
check_option(struct check *check, const struct rte_flow_item *item)
{
    const struct rte_flow_item_geneve_opt *spec = item->spec;
    const struct rte_flow_item_geneve_opt *mask = item->mask;
    struct emu_rule *rule = check->rule;
    struct emu_option *options, *want, *wmask;
    size_t n = rule->n_options;

    if (!spec) {
        return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ITEM_SPEC, item,
                      "GENEVE_OPT without spec");
    }
    if (item->last) {
        return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ITEM_LAST, item,
                      "this item has no range");
    }
    if (spec->option_len > 31) {
        return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ITEM_SPEC, item,
                      "the option is too long");
    }
    mask = mask ? mask : &rte_flow_item_geneve_opt_mask;
    if (mask->data && spec->option_len && !spec->data) {
        return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ITEM_SPEC, item,
                      "option without data");
    }
    if (!check->config->any_mask
        && (mask->option_class != UINT16_MAX || mask->option_type != UINT8_MAX
            || (mask->option_len & 0x1f) != 0x1f)) {
        return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ITEM_MASK, item,
                      "an option's class, type and length are matched in "
                      "full only");
    }

    options = emu_zalloc(2 * (n + 1) * sizeof *options);
    if (n) {
        memcpy(options, rule->options, 2 * n * sizeof *options);
        free(rule->options);
    }
    rule->options = options;
    want = &options[2 * n];
    wmask = want + 1;
    memcpy(wmask->bytes, &mask->option_class, 2);
    wmask->bytes[2] = mask->option_type;
    wmask->bytes[3] = mask->option_len & 0x1f;
    memcpy(want->bytes, &spec->option_class, 2);
    want->bytes[2] = spec->option_type;
    want->bytes[3] = spec->option_len;
    if (mask->data && spec->option_len) {
        memcpy(&wmask->bytes[4], mask->data, spec->option_len * 4);
        memcpy(&want->bytes[4], spec->data, spec->option_len * 4);
    }
    for (size_t i = 0; i < sizeof want->bytes; i++) {
        want->bytes[i] &= wmask->bytes[i];
    }
    rule->n_options++;
    return 0;
}

static int
check_item(struct check *check, const struct rte_flow_item *item)
{
    const struct emu_item_class *class = emu_item_class(item->type);
    struct emu_rule *rule = check->rule;
    bool second_vlan = false;
    enum emu_layer layer;
    size_t offset;
    int retval;

    if (!class) {
        return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ITEM, item,
                      "this item is not supported");
    }
    if (rule->n_items >= EMU_ARRAY_SIZE(rule->items)) {
        return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ITEM_NUM, item,
                      "too many items");
    }
    layer = class->layer;
    check->level = (check->layers[0] & EMU_TUNNEL
                    && !(layer & (EMU_TUNNEL | EMU_GENEVE_OPT | EMU_CT
                                  | EMU_PORT)));
    offset = class->offset + check->level * sizeof(struct emu_fields);
    if (layer == EMU_VLAN && check->layers[check->level] & EMU_VLAN) {
        second_vlan = true;
        layer = EMU_VLAN2;
        offset += sizeof(struct rte_vlan_hdr);
    }
    if (!item->spec && item->mask) {
        return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ITEM_MASK, item,
                      "mask without spec");
    }
    if (!item->spec && item->last) {
        return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ITEM_LAST, item,
                      "last without spec");
    }
    retval = check_stacking(check, item, layer);
    if (!retval && layer == EMU_GENEVE_OPT) {
        retval = check_option(check, item);
    } else if (!retval && item->spec) {
        retval = check_values(check, item, class, offset, second_vlan);
    }
    if (!retval && layer == EMU_PORT) {
        retval = check_represented_port(check, item);
    }
    if (retval) {
        return retval;
    }
    rule->items[rule->n_items++] = (struct emu_item) { item->type, offset };
    check->layers[check->level] |= layer;
    if (!(layer & (EMU_PORT | EMU_GENEVE_OPT))) {
        rule->key.levels[check->level].layers |= layer;
        rule->mask.levels[check->level].layers |= layer;
    }
    return 0;
}

/* Returns how many bytes 'n' bytes of a mask say something of. */
static size_t
count_bytes(const uint8_t *mask, size_t n)
{
    size_t count = 0;

    for (size_t i = 0; i < n; i++) {
        count += mask[i] != 0;
    }
    return count;
}

/* Returns how many bytes of packets 'rule' looks at. */
static size_t
match_size(const struct emu_rule *rule)
{
    size_t size = 0;

    for (unsigned int i = 0; i < rule->n_items; i++) {
        size += count_bytes(&rule->mask.bytes[rule->items[i].offset],
                            emu_item_class(rule->items[i].type)->size);
    }
    for (size_t i = 0; i < rule->n_options; i++) {
        const struct emu_option *mask = &rule->options[2 * i + 1];

        size += count_bytes(mask->bytes, sizeof mask->bytes);
    }
    return size;
}

/* Checks what depends on all items. */
static int
check_pattern(const struct check *check, const struct rte_flow_item *end)
{
    const union emu_key *mask = &check->rule->mask;

    if (match_size(check->rule) > check->config->max_match) {
        return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ITEM_NUM, end,
                      "the pattern has too many bytes to match");
    }
    if (!check->config->any_mask
        && ((mask->f.udp.dgram_cksum && !(check->layers[0] & EMU_TUNNEL))
            || (mask->f.udp.dgram_cksum
                && mask->f.udp.dgram_cksum != UINT16_MAX)
            || mask->inner.udp.dgram_cksum)) {
        return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ITEM_MASK, end,
                      "UDP checksums are matched outside of a tunnel and in "
                      "full only");
    }
    return 0;
}

/* Whether a fate has been given already, or is not for this kind of rule. */
static int
check_fate(struct check *check, const struct rte_flow_action *action,
           bool ingress, bool transfer)
{
    if (check->has_fate) {
        return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ACTION, action,
                      "a second fate");
    }
    if (!ingress && check->attr->ingress) {
        return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ACTION, action,
                      "this action is for transfer rules");
    }
    if (!transfer && check->attr->transfer) {
        return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ACTION, action,
                      "this action is for ingress rules");
    }
    check->has_fate = true;
    return 0;
}

static int
check_once(struct check *check, const struct rte_flow_action *action,
           bool *has)
{
    if (*has) {
        return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ACTION, action,
                      "action given twice");
    }
    *has = true;
    return 0;
}

static int
check_queue(const struct check *check, const void *conf, uint16_t queue)
{
    if (queue >= check->port->n_rxq) {
        return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ACTION_CONF, conf,
                      "there is no such queue");
    }
    return 0;
}

static int
check_rss(const struct check *check, const struct rte_flow_action_rss *rss,
          struct emu_action *out)
{
    const enum rte_flow_error_type type = RTE_FLOW_ERROR_TYPE_ACTION_CONF;

    if (rss->func != RTE_ETH_HASH_FUNCTION_DEFAULT
        && rss->func != RTE_ETH_HASH_FUNCTION_TOEPLITZ) {
        return refuse(check, ENOTSUP, type, &rss->func,
                      "this RSS hash function is not supported");
    }
    if (rss->level > 1) {
        return refuse(check, ENOTSUP, type, &rss->level,
                      "RSS on inner headers is not supported");
    }
    if (rss->key_len && (!rss->key || rss->key_len != 40)) {
        return refuse(check, rss->key ? ENOTSUP : EINVAL, type, &rss->key_len,
                      "the RSS key is not of 40 bytes");
    }
    if (!rss->queue_num || !rss->queue) {
        return refuse(check, EINVAL, type, &rss->queue_num,
                      "RSS without queues");
    }
    for (uint32_t i = 0; i < rss->queue_num; i++) {
        int retval = check_queue(check, &rss->queue[i], rss->queue[i]);

        if (retval) {
            return retval;
        }
    }
    out->n_queues = rss->queue_num;
    out->queues = emu_zalloc(rss->queue_num * sizeof *out->queues);
    memcpy(out->queues, rss->queue, rss->queue_num * sizeof *out->queues);
    return 0;
}

static int
check_port(const struct check *check, const void *conf, uint32_t port_id)
{
    if (port_id >= RTE_MAX_ETHPORTS || !rte_eth_dev_is_valid_port(port_id)) {
        return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ACTION_CONF, conf,
                      "there is no such port");
    }
    if (!emu_port_get(port_id)
        || !emu_ports_connected(port_id, check->port->id)) {
        return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ACTION_CONF, conf,
                      "the port is not of this NIC");
    }
    return 0;
}

/* Checks a PORT_REPRESENTOR of 'port_id', which leaves packets to software: at
 * the port that receives them, and nowhere else. */
static int
check_representor(const struct check *check,
                  const struct rte_flow_action *action, uint16_t port_id)
{
    const struct emu_rule *rule = check->rule;

    if (port_id == UINT16_MAX ? !check->config->representor_any
        : !check->config->representor_own) {
        return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ACTION, action,
                      "PORT_REPRESENTOR of this kind is not supported");
    }
    if (port_id != UINT16_MAX
        && (port_id != rule->key.f.port || !rule->mask.f.port)) {
        return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ACTION_CONF,
                      action->conf, "the rule is not for packets of this "
                      "port only");
    }
    return 0;
}

/* Returns the layers that the pattern has of the packet as it is now: of what
 * is in the tunnel after its end. */
static uint32_t
layers_now(const struct check *check)
{
    return check->layers[check->has_decap];
}

/* Checks that the pattern has one of 'layers', which the action changes. */
static int
check_rewrite(struct check *check, const struct rte_flow_action *action,
              uint32_t layers)
{
    check->rule->rewrites = true;
    if (check->has_encap) {
        return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ACTION, action,
                      "headers cannot be changed after encapsulation");
    }
    if (check->layers[0] & EMU_TUNNEL && !check->has_decap) {
        return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ACTION, action,
                      "the headers of a tunnel cannot be changed");
    }
    if (!(layers_now(check) & layers)) {
        return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ACTION, action,
                      "the pattern does not have the header that this action "
                      "changes");
    }
    return 0;
}

/* The same for an action that changes a header other than a VLAN tag. */
static int
check_set(struct check *check, const struct rte_flow_action *action,
          uint32_t layers)
{
    const struct emu_config *config = check->config;

    if (!config->rewrite || !config->set_actions
        || (!config->set_ipv6
            && (action->type == RTE_FLOW_ACTION_TYPE_SET_IPV6_SRC
                || action->type == RTE_FLOW_ACTION_TYPE_SET_IPV6_DST))
        || (!config->set_ttl
            && action->type == RTE_FLOW_ACTION_TYPE_SET_TTL)) {
        return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ACTION, action,
                      "this action is not supported");
    }
    return check_rewrite(check, action, layers);
}

static const struct emu_modify *
modify_find(enum rte_flow_field_id field)
{
    static const struct emu_modify fields[] = {
#define FIELD(FIELD, NAME, LAYERS, SIZE, FORMAT, SET)                   \
        { RTE_FLOW_FIELD_##FIELD, NAME, LAYERS, SIZE, EMU_FMT_##FORMAT, \
          RTE_FLOW_ACTION_TYPE_SET_##SET }
        FIELD(MAC_SRC, "mac_src", EMU_ETH, 6, MAC, MAC_SRC),
        FIELD(MAC_DST, "mac_dst", EMU_ETH, 6, MAC, MAC_DST),
        FIELD(IPV4_SRC, "ipv4_src", EMU_IPV4, 4, IPV4, IPV4_SRC),
        FIELD(IPV4_DST, "ipv4_dst", EMU_IPV4, 4, IPV4, IPV4_DST),
        FIELD(IPV6_SRC, "ipv6_src", EMU_IPV6, 16, IPV6, IPV6_SRC),
        FIELD(IPV6_DST, "ipv6_dst", EMU_IPV6, 16, IPV6, IPV6_DST),
        FIELD(TCP_PORT_SRC, "tcp_port_src", EMU_TCP, 2, DEC, TP_SRC),
        FIELD(TCP_PORT_DST, "tcp_port_dst", EMU_TCP, 2, DEC, TP_DST),
        FIELD(UDP_PORT_SRC, "udp_port_src", EMU_UDP, 2, DEC, TP_SRC),
        FIELD(UDP_PORT_DST, "udp_port_dst", EMU_UDP, 2, DEC, TP_DST),
        FIELD(IPV4_TTL, "ipv4_ttl", EMU_IPV4, 1, DEC, TTL),
        FIELD(IPV6_HOPLIMIT, "ipv6_hoplimit", EMU_IPV6, 1, DEC, TTL),
#undef FIELD
    };

    for (size_t i = 0; i < EMU_ARRAY_SIZE(fields); i++) {
        if (fields[i].field == field) {
            return &fields[i];
        }
    }
    return NULL;
}

/* Checks a MODIFY_FIELD, which sets a whole field to a value. */
static int
check_modify(struct check *check, const struct rte_flow_action *action,
             struct emu_action *out)
{
    const struct rte_flow_action_modify_field *conf = action->conf;
    const enum rte_flow_error_type type = RTE_FLOW_ERROR_TYPE_ACTION_CONF;
    static const uint8_t none[sizeof conf->dst.value];
    const struct emu_modify *modify = modify_find(conf->dst.field);

    if (!check->config->rewrite || !check->config->modify_field) {
        return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ACTION, action,
                      "this action is not supported");
    }
    if (conf->operation != RTE_FLOW_MODIFY_SET
        || conf->src.field != RTE_FLOW_FIELD_VALUE) {
        return refuse(check, ENOTSUP, type, conf,
                      "a field can only be set to a value");
    }
    if (!modify) {
        return refuse(check, ENOTSUP, type, conf,
                      "this field cannot be modified");
    }
    /* In the memory of a value, a destination has its level and offset. */
    if (memcmp(conf->dst.value, none, sizeof none)
        || conf->width != modify->size * 8u) {
        return refuse(check, ENOTSUP, type, conf,
                      "only whole fields can be modified, of level 0");
    }
    out->modify = modify;
    memcpy(out->bytes, conf->src.value, modify->size);
    for (size_t i = 0; i < modify->size && modify->size <= 2; i++) {
        out->value = out->value << 8 | out->bytes[i];
    }
    return check_rewrite(check, action, modify->layers);
}

/* What DECAP and ENCAP have in common.  Each comes once, before the fate. */
static int
check_tunnel_action(struct check *check, const struct rte_flow_action *action,
                    bool *has)
{
    const enum rte_flow_error_type type = RTE_FLOW_ERROR_TYPE_ACTION;

    if (!check->config->tunnels || !check->config->rewrite) {
        return refuse(check, ENOTSUP, type, action,
                      "tunnels are not supported");
    }
    if (!check->attr->transfer) {
        return refuse(check, ENOTSUP, type, action,
                      "tunnels are for transfer rules");
    }
    if (check->has_fate) {
        return refuse(check, EINVAL, type, action,
                      "DECAP or ENCAP after the fate");
    }
    return check_once(check, action, has);
}

/* Checks that the header that RAW_DECAP takes off is as long as that of the
 * pattern, as far as it is known. */
static int
check_decap_size(const struct check *check, const void *conf, size_t size)
{
    const struct emu_rule *rule = check->rule;
    uint32_t layers = rule->key.f.layers;
    size_t want = (sizeof(struct rte_ether_hdr)
                   + (layers & EMU_VLAN ? sizeof(struct rte_vlan_hdr) : 0)
                   + (layers & EMU_VLAN2 ? sizeof(struct rte_vlan_hdr) : 0)
                   + (layers & EMU_IPV4 ? sizeof(struct rte_ipv4_hdr)
                      : sizeof(struct rte_ipv6_hdr))
                   + sizeof(struct rte_udp_hdr) + sizeof rule->key.f.geneve);
    size_t max = want;

    if (layers & EMU_GENEVE) {
        size_t options = (rule->key.f.geneve[0] & 0x3f) * 4;
        bool known = (rule->mask.f.geneve[0] & 0x3f) == 0x3f;

        want += known ? options : 0;
        max += known ? options : 0x3f * 4;
    }
    if (size < want || size > max || (size - want) % 4) {
        return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ACTION_CONF, conf,
                      "the size is not that of the pattern's outer headers");
    }
    return 0;
}

static int
check_decap(struct check *check, const struct rte_flow_action *action,
            struct emu_action *out)
{
    const struct rte_flow_action_raw_decap *raw = action->conf;
    uint32_t tunnels = EMU_TUNNEL;
    int retval = check_tunnel_action(check, action, &check->has_decap);

    if (retval) {
        return retval;
    }
    if (check->rule->rewrites) {
        return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ACTION, action,
                      "DECAP after a change of headers");
    }
    if (action->type == RTE_FLOW_ACTION_TYPE_VXLAN_DECAP) {
        tunnels = EMU_VXLAN;
    }
    if (!(check->layers[0] & tunnels)) {
        return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ACTION, action,
                      "the pattern does not have the tunnel that DECAP ends");
    }
    if (action->type == RTE_FLOW_ACTION_TYPE_RAW_DECAP) {
        if (!raw->data) {
            return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ACTION_CONF, raw,
                          "RAW_DECAP without data");
        }
        retval = check_decap_size(check, raw, raw->size);
        out->value = check->rule->decap_size = raw->size;
    }

    /* What is left has to be a frame. */
    check->rule->key.inner.layers |= EMU_ETH;
    check->rule->mask.inner.layers |= EMU_ETH;
    check->rule->rewrites = true;
    return retval;
}

/* Stores in '*out' the headers that VXLAN_ENCAP describes by items. */
static int
check_encap_items(const struct check *check,
                  const struct rte_flow_action *action, struct emu_action *out)
{
    const struct rte_flow_action_vxlan_encap *encap = action->conf;
    const struct rte_flow_item *item = encap->definition;
    uint32_t last = 0;

    for (; item && item->type != RTE_FLOW_ITEM_TYPE_END; item++) {
        const struct emu_item_class *class = emu_item_class(item->type);

        if (item->type == RTE_FLOW_ITEM_TYPE_VOID) {
            continue;
        }
        if (!class || class->layer <= last
            || !(class->layer & (EMU_ETH | EMU_VLAN | EMU_IPV4 | EMU_IPV6
                                 | EMU_UDP | EMU_VXLAN))
            || !item->spec) {
            return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ACTION_CONF, item,
                          "the definition is not of items with their specs "
                          "in the order of headers");
        }
        last = class->layer;
        memcpy(&out->header[out->value], item->spec, class->size);
        out->value += class->size;
    }
    return 0;
}

static int
check_encap(struct check *check, const struct rte_flow_action *action,
            struct emu_action *out)
{
    const enum rte_flow_error_type bad_conf = RTE_FLOW_ERROR_TYPE_ACTION_CONF;
    const struct rte_flow_action_raw_encap *raw = action->conf;
    int retval = check_tunnel_action(check, action, &check->has_encap);
    const char *problem;
    uint32_t tunnel;

    if (retval) {
        return retval;
    }
    check->rule->rewrites = true;
    out->header = emu_zalloc(RTE_PKTMBUF_HEADROOM);
    if (action->type == RTE_FLOW_ACTION_TYPE_VXLAN_ENCAP) {
        retval = check_encap_items(check, action, out);
        if (retval) {
            return retval;
        }
    } else {
        if (!raw->data || raw->size > RTE_PKTMBUF_HEADROOM) {
            return refuse(check, EINVAL, bad_conf, raw,
                          "RAW_ENCAP without data, or with too many");
        }
        memcpy(out->header, raw->data, raw->size);
        out->value = raw->size;
    }
    problem = emu_encap_problem(out->header, out->value, &tunnel);
    if (!problem && action->type == RTE_FLOW_ACTION_TYPE_VXLAN_ENCAP
        && tunnel != EMU_VXLAN) {
        problem = "the headers do not end with one of VXLAN";
    }
    return (problem ? refuse(check, EINVAL, bad_conf, action->conf, problem)
            : 0);
}

/* Says whether action 'i' of 'rule' is of 'type'. */
static bool
action_is(const struct emu_rule *rule, size_t i,
          enum rte_flow_action_type type)
{
    return i < rule->n_actions && rule->actions[i].type == type;
}

/* Checks that each change of an IPv4 address is next to one of the port of the
 * same side, and the other way around. */
static int
check_nat_bundles(const struct check *check,
                  const struct rte_flow_action *actions)
{
    static const enum rte_flow_action_type pairs[][2] = {
        { RTE_FLOW_ACTION_TYPE_SET_IPV4_SRC, RTE_FLOW_ACTION_TYPE_SET_TP_SRC },
        { RTE_FLOW_ACTION_TYPE_SET_IPV4_DST, RTE_FLOW_ACTION_TYPE_SET_TP_DST },
        { RTE_FLOW_ACTION_TYPE_SET_TP_SRC, RTE_FLOW_ACTION_TYPE_SET_IPV4_SRC },
        { RTE_FLOW_ACTION_TYPE_SET_TP_DST, RTE_FLOW_ACTION_TYPE_SET_IPV4_DST },
    };
    const struct emu_rule *rule = check->rule;

    for (size_t i = 0; i < rule->n_actions; i++) {
        for (size_t j = 0; j < EMU_ARRAY_SIZE(pairs); j++) {
            if (action_is(rule, i, pairs[j][0])
                && !action_is(rule, i + 1, pairs[j][1])
                && !(i && action_is(rule, i - 1, pairs[j][1]))) {
                return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ACTION,
                              actions, "address and port can be changed "
                              "together only");
            }
        }
    }
    return 0;
}

/* Returns the place of an action among others, or 0 if it has none. */
static int
action_place(enum rte_flow_action_type type)
{
    switch ((int) type) {
    case RTE_FLOW_ACTION_TYPE_VXLAN_DECAP:
    case RTE_FLOW_ACTION_TYPE_RAW_DECAP:
        return 1;
    case RTE_FLOW_ACTION_TYPE_OF_POP_VLAN:
        return 2;
    case RTE_FLOW_ACTION_TYPE_COUNT:
    case RTE_FLOW_ACTION_TYPE_AGE:
        return 3;
    case RTE_FLOW_ACTION_TYPE_CONNTRACK:
        return 4;
    case RTE_FLOW_ACTION_TYPE_OF_PUSH_VLAN:
    case RTE_FLOW_ACTION_TYPE_OF_SET_VLAN_VID:
    case RTE_FLOW_ACTION_TYPE_OF_SET_VLAN_PCP:
        return 5;
    case RTE_FLOW_ACTION_TYPE_MODIFY_FIELD:
        return 6;
    case RTE_FLOW_ACTION_TYPE_VXLAN_ENCAP:
    case RTE_FLOW_ACTION_TYPE_RAW_ENCAP:
        return 7;
    case RTE_FLOW_ACTION_TYPE_DROP:
    case RTE_FLOW_ACTION_TYPE_JUMP:
    case RTE_FLOW_ACTION_TYPE_QUEUE:
    case RTE_FLOW_ACTION_TYPE_RSS:
    case RTE_FLOW_ACTION_TYPE_PORT_ID:
    case RTE_FLOW_ACTION_TYPE_REPRESENTED_PORT:
    case RTE_FLOW_ACTION_TYPE_PORT_REPRESENTOR:
        return 8;
    default:
        return 0;
    }
}

/* Checks that the actions are in the order in which hardware does them, and
 * that a VLAN tag that is pushed is said in one go: its id comes next, and
 * then its priority, if there is one. */
static int
check_order(const struct check *check, const struct rte_flow_action *actions)
{
    const enum rte_flow_action_type push = RTE_FLOW_ACTION_TYPE_OF_PUSH_VLAN;
    const enum rte_flow_action_type vid = RTE_FLOW_ACTION_TYPE_OF_SET_VLAN_VID;
    const enum rte_flow_action_type pcp = RTE_FLOW_ACTION_TYPE_OF_SET_VLAN_PCP;
    const struct emu_rule *rule = check->rule;
    int last = 0;

    for (size_t i = 0; i < rule->n_actions; i++) {
        int place = action_place(rule->actions[i].type);

        if (place && place < last) {
            return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ACTION, actions,
                          "the actions are not in the order of hardware");
        }
        last = place ? place : last;
        if (action_is(rule, i, push) != action_is(rule, i + 1, vid)
            || (action_is(rule, i, pcp) && !(i && action_is(rule, i - 1, vid)))
            || (!i && action_is(rule, i, vid))) {
            return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ACTION, actions,
                          "what is said of a VLAN tag is not in the order of "
                          "hardware");
        }
    }
    return 0;
}

/* What rules demand of a CONNTRACK action, indirect or not. */
static int
check_ct(struct check *check, const struct rte_flow_action *action,
         bool indirect)
{
    const enum rte_flow_error_type type = RTE_FLOW_ERROR_TYPE_ACTION;
    int retval = check_once(check, action, &check->has_ct);

    if (retval || check->config->ct_anywhere) {
        return retval;
    }
    if (!indirect) {
        return refuse(check, ENOTSUP, type, action,
                      "CONNTRACK has to be an indirect action");
    }
    if (!check->attr->group) {
        return refuse(check, ENOTSUP, type, action,
                      "CONNTRACK is not supported in group 0");
    }
    if (!(layers_now(check) & EMU_TCP)) {
        return refuse(check, ENOTSUP, type, action,
                      "CONNTRACK is for TCP only");
    }
    if (check->has_fate) {
        return refuse(check, EINVAL, type, action,
                      "CONNTRACK after the fate");
    }
    return 0;
}

static int
check_object(struct check *check, const struct rte_flow_action *action,
             const struct emu_object *object)
{
    switch ((int) object->type) {
    case RTE_FLOW_ACTION_TYPE_COUNT:
        return check_once(check, action, &check->has_count);
    case RTE_FLOW_ACTION_TYPE_AGE:
        return check_once(check, action, &check->has_age);
    default:
        return check_ct(check, action, object->id != 0);
    }
}

/* Checks an INDIRECT action and takes a reference to what it stands for. */
static int
check_indirect(struct check *check, const struct rte_flow_action *action,
               struct emu_action *out)
{
    const enum rte_flow_error_type type = RTE_FLOW_ERROR_TYPE_ACTION_CONF;
    uint16_t port = check->port->id;
    struct emu_object *object;
    int retval = 0;

    if (!action->conf) {
        return refuse(check, EINVAL, type, action,
                      "indirect action without a handle");
    }
    pthread_mutex_lock(&emu_objects_mutex);
    object = emu_object_find(port, action->conf, false);
    if (!object) {
        retval = refuse(check, ENOENT, type, action,
                        "no such indirect action");
    } else if (object->port != port
               && !(object->type == RTE_FLOW_ACTION_TYPE_CONNTRACK
                    && object->ct.peer_port == port
                    && check->config->share_handles)) {
        retval = refuse(check, EACCES, type, action,
                        "the indirect action belongs to another port");
    } else if (check->attr->transfer ? !object->transfer : !object->ingress) {
        retval = refuse(check, EINVAL, type, action,
                        "the indirect action is for another kind of rule");
    } else {
        object->refs++;
        object->n_rules++;
        out->object = object;
        out->type = object->type;
    }
    pthread_mutex_unlock(&emu_objects_mutex);
    if (!retval) {
        retval = check_object(check, action, object);
    }
    return retval;
}

static int
check_action(struct check *check, const struct rte_flow_action *action,
             struct emu_action *out)
{
    const enum rte_flow_error_type bad_conf = RTE_FLOW_ERROR_TYPE_ACTION_CONF;
    const void *conf = action->conf;
    int retval = 0;

    out->type = action->type;
    switch ((int) action->type) {
    case RTE_FLOW_ACTION_TYPE_DROP:
        return check_fate(check, action, true, true);

    case RTE_FLOW_ACTION_TYPE_COUNT:
    case RTE_FLOW_ACTION_TYPE_AGE:
    case RTE_FLOW_ACTION_TYPE_CONNTRACK:
        out->object = emu_object_new(action->type, check->port->id);
        out->object->n_rules = 1;
        retval = emu_object_init(out->object, check->port, action,
                                 check->error);
        return retval ? retval : check_object(check, action, out->object);

    case RTE_FLOW_ACTION_TYPE_INDIRECT:
        return check_indirect(check, action, out);

    case RTE_FLOW_ACTION_TYPE_OF_POP_VLAN:
        return check_rewrite(check, action, EMU_VLAN);

    case RTE_FLOW_ACTION_TYPE_DEC_TTL:
        return check_set(check, action, EMU_IPV4 | EMU_IPV6);

    case RTE_FLOW_ACTION_TYPE_VXLAN_DECAP:
        return check_decap(check, action, out);

    case RTE_FLOW_ACTION_TYPE_JUMP:
    case RTE_FLOW_ACTION_TYPE_MARK:
    case RTE_FLOW_ACTION_TYPE_QUEUE:
    case RTE_FLOW_ACTION_TYPE_RSS:
    case RTE_FLOW_ACTION_TYPE_PORT_ID:
    case RTE_FLOW_ACTION_TYPE_REPRESENTED_PORT:
    case RTE_FLOW_ACTION_TYPE_PORT_REPRESENTOR:
    case RTE_FLOW_ACTION_TYPE_OF_PUSH_VLAN:
    case RTE_FLOW_ACTION_TYPE_OF_SET_VLAN_VID:
    case RTE_FLOW_ACTION_TYPE_OF_SET_VLAN_PCP:
    case RTE_FLOW_ACTION_TYPE_SET_MAC_SRC:
    case RTE_FLOW_ACTION_TYPE_SET_MAC_DST:
    case RTE_FLOW_ACTION_TYPE_SET_IPV4_SRC:
    case RTE_FLOW_ACTION_TYPE_SET_IPV4_DST:
    case RTE_FLOW_ACTION_TYPE_SET_IPV6_SRC:
    case RTE_FLOW_ACTION_TYPE_SET_IPV6_DST:
    case RTE_FLOW_ACTION_TYPE_SET_TP_SRC:
    case RTE_FLOW_ACTION_TYPE_SET_TP_DST:
    case RTE_FLOW_ACTION_TYPE_SET_TTL:
    case RTE_FLOW_ACTION_TYPE_MODIFY_FIELD:
    case RTE_FLOW_ACTION_TYPE_RAW_DECAP:
    case RTE_FLOW_ACTION_TYPE_VXLAN_ENCAP:
    case RTE_FLOW_ACTION_TYPE_RAW_ENCAP:
        if (!conf) {
            return refuse(check, EINVAL, bad_conf, action,
                          "action without a configuration");
        }
        break;

    default:
        return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ACTION, action,
                      "this action is not supported");
    }

    switch ((int) action->type) {
    case RTE_FLOW_ACTION_TYPE_JUMP:
        out->value = ((const struct rte_flow_action_jump *) conf)->group;
        if (out->value == check->attr->group) {
            return refuse(check, EINVAL, bad_conf, conf,
                          "jump to the group that the rule is in");
        }
        if (out->value > check->config->groups) {
            return refuse(check, ENOTSUP, bad_conf, conf,
                          "there is no such group");
        }
        return check_fate(check, action, true, true);

    case RTE_FLOW_ACTION_TYPE_MARK:
        out->value = ((const struct rte_flow_action_mark *) conf)->id;
        if (out->value > check->config->max_mark) {
            return refuse(check, EINVAL, bad_conf, conf,
                          "the mark is too large");
        }
        if (check->port->negotiated
            && !(check->port->metadata & RTE_ETH_RX_METADATA_USER_MARK)) {
            return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ACTION, action,
                          "delivery of marks was not negotiated");
        }
        return check_once(check, action, &check->has_mark);

    case RTE_FLOW_ACTION_TYPE_QUEUE:
        out->value = ((const struct rte_flow_action_queue *) conf)->index;
        retval = check_queue(check, conf, out->value);
        return retval ? retval : check_fate(check, action, true, false);

    case RTE_FLOW_ACTION_TYPE_RSS:
        retval = check_rss(check, conf, out);
        return retval ? retval : check_fate(check, action, true, false);

    case RTE_FLOW_ACTION_TYPE_PORT_ID: {
        const struct rte_flow_action_port_id *port = conf;

        out->value = port->original ? check->port->id : port->id;
        retval = check_port(check, conf, out->value);
        return retval ? retval : check_fate(check, action, false, true);
    }

    case RTE_FLOW_ACTION_TYPE_REPRESENTED_PORT:
        out->value = ((const struct rte_flow_action_ethdev *) conf)->port_id;
        retval = check_port(check, conf, out->value);
        return retval ? retval : check_fate(check, action, false, true);

    case RTE_FLOW_ACTION_TYPE_PORT_REPRESENTOR:
        out->value = ((const struct rte_flow_action_ethdev *) conf)->port_id;
        retval = check_fate(check, action, false, true);
        return retval ? retval : check_representor(check, action, out->value);

    case RTE_FLOW_ACTION_TYPE_OF_PUSH_VLAN:
        out->value = rte_be_to_cpu_16(
            ((const struct rte_flow_action_of_push_vlan *) conf)->ethertype);
        if (out->value != RTE_ETHER_TYPE_VLAN
            && out->value != RTE_ETHER_TYPE_QINQ) {
            return refuse(check, EINVAL, bad_conf, conf,
                          "the type of the VLAN tag is not one of VLANs");
        }
        check->has_push = true;
        return check_rewrite(check, action, UINT32_MAX);

    case RTE_FLOW_ACTION_TYPE_OF_SET_VLAN_VID:
        out->value = rte_be_to_cpu_16(
            ((const struct rte_flow_action_of_set_vlan_vid *) conf)->vlan_vid);
        if (out->value > 0xfff) {
            return refuse(check, EINVAL, bad_conf, conf,
                          "the VLAN id has more than 12 bits");
        }
        return check_rewrite(check, action,
                             check->has_push ? UINT32_MAX : EMU_VLAN);

    case RTE_FLOW_ACTION_TYPE_OF_SET_VLAN_PCP:
        out->value =
            ((const struct rte_flow_action_of_set_vlan_pcp *) conf)->vlan_pcp;
        if (out->value > 7) {
            return refuse(check, EINVAL, bad_conf, conf,
                          "the VLAN priority has more than 3 bits");
        }
        return check_rewrite(check, action,
                             check->has_push ? UINT32_MAX : EMU_VLAN);

    case RTE_FLOW_ACTION_TYPE_SET_MAC_SRC:
    case RTE_FLOW_ACTION_TYPE_SET_MAC_DST:
        memcpy(out->bytes, conf, 6);
        return check_set(check, action, EMU_ETH);

    case RTE_FLOW_ACTION_TYPE_SET_IPV4_SRC:
    case RTE_FLOW_ACTION_TYPE_SET_IPV4_DST:
        memcpy(out->bytes, conf, 4);
        return check_set(check, action, EMU_IPV4);

    case RTE_FLOW_ACTION_TYPE_SET_IPV6_SRC:
    case RTE_FLOW_ACTION_TYPE_SET_IPV6_DST:
        memcpy(out->bytes, conf, 16);
        return check_set(check, action, EMU_IPV6);

    case RTE_FLOW_ACTION_TYPE_SET_TP_SRC:
    case RTE_FLOW_ACTION_TYPE_SET_TP_DST:
        out->value = rte_be_to_cpu_16(
            ((const struct rte_flow_action_set_tp *) conf)->port);
        return check_set(check, action, EMU_TCP | EMU_UDP);

    case RTE_FLOW_ACTION_TYPE_MODIFY_FIELD:
        return check_modify(check, action, out);

    case RTE_FLOW_ACTION_TYPE_RAW_DECAP:
        return check_decap(check, action, out);

    case RTE_FLOW_ACTION_TYPE_VXLAN_ENCAP:
    case RTE_FLOW_ACTION_TYPE_RAW_ENCAP:
        return check_encap(check, action, out);

    default:
        out->value =
            ((const struct rte_flow_action_set_ttl *) conf)->ttl_value;
        return check_set(check, action, EMU_IPV4 | EMU_IPV6);
    }
}

/* Which packets a transfer rule is for if no item names a port: those of the
 * port it is created on or, if that is the proxy, of all ports of the
 * switch. */
static void
check_source(struct check *check)
{
    struct emu_fields *key = &check->rule->key.f;
    struct emu_fields *mask = &check->rule->mask.f;

    if (!check->attr->transfer || mask->port) {
        return;
    }
    if (check->config->proxy_first || check->layers[0] & EMU_PORT) {
        key->domain = check->config->switch_domain;
        mask->domain = UINT16_MAX;
    } else {
        key->port = check->port->id;
        mask->port = UINT16_MAX;
    }
}

static int
check_actions(struct check *check, const struct rte_flow_action *actions)
{
    struct emu_rule *rule = check->rule;
    size_t n = 0;

    while (actions[n].type != RTE_FLOW_ACTION_TYPE_END) {
        n++;
    }
    rule->actions = emu_zalloc(n * sizeof *rule->actions);
    for (; actions->type != RTE_FLOW_ACTION_TYPE_END; actions++) {
        int retval;

        if (actions->type == RTE_FLOW_ACTION_TYPE_VOID) {
            continue;
        }
        retval = check_action(check, actions, &rule->actions[rule->n_actions]);
        rule->n_actions++;
        if (retval) {
            return retval;
        }
    }
    if (!check->has_fate) {
        return refuse(check, EINVAL, RTE_FLOW_ERROR_TYPE_ACTION_NUM, actions,
                      "no fate");
    }
    if (check->config->fixed_order) {
        int retval = check_order(check, actions);

        if (retval) {
            return retval;
        }
    }
    if (check->config->nat_bundle) {
        int retval = check_nat_bundles(check, actions);

        if (retval) {
            return retval;
        }
    }
    if (check->has_ct && check->has_age && !check->config->ct_with_age) {
        return refuse(check, ENOTSUP, RTE_FLOW_ERROR_TYPE_ACTION, actions,
                      "AGE beside CONNTRACK is not supported");
    }
    return 0;
}

/* Returns the rule that an application describes, which is in no table yet, or
 * NULL if there cannot be such a rule on 'port': 'error' and rte_errno say
 * why.  The caller holds the port's lock. */
struct emu_rule *
emu_rule_compile(struct emu_port *port, const struct rte_flow_attr *attr,
                 const struct rte_flow_item *items,
                 const struct rte_flow_action *actions,
                 struct rte_flow_error *error)
{
    struct check check = {
        .port = port,
        .config = &port->config,
        .attr = attr,
        .error = error,
    };
    int retval;

    if (!attr) {
        refuse(&check, EINVAL, RTE_FLOW_ERROR_TYPE_ATTR, NULL,
               "no attributes");
        return NULL;
    } else if (!items) {
        refuse(&check, EINVAL, RTE_FLOW_ERROR_TYPE_ITEM_NUM, NULL,
               "no pattern");
        return NULL;
    } else if (!actions) {
        refuse(&check, EINVAL, RTE_FLOW_ERROR_TYPE_ACTION_NUM, NULL,
               "no actions");
        return NULL;
    }

    check.rule = emu_zalloc(sizeof *check.rule);
    check.rule->port = port->id;
    check.rule->last = emu_zalloc(sizeof *check.rule->last);
    retval = check_attr(&check);
    for (; !retval && items->type != RTE_FLOW_ITEM_TYPE_END; items++) {
        if (items->type != RTE_FLOW_ITEM_TYPE_VOID) {
            retval = check_item(&check, items);
        }
    }
    if (!retval) {
        retval = check_pattern(&check, items);
    }
    if (!retval) {
        check_source(&check);
        retval = check_actions(&check, actions);
    }
    if (retval) {
        emu_rule_free(check.rule);
        rte_errno = -retval;
        return NULL;
    }
    if (!check.rule->ranged) {
        free(check.rule->last);
        check.rule->last = NULL;
    }
    return check.rule;
}
