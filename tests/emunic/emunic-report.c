/* SPDX-License-Identifier: Apache-2.0 */

#include <config.h>

#include "emunic.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static bool
all_bytes(const uint8_t *bytes, size_t n, uint8_t value)
{
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] != value) {
            return false;
        }
    }
    return true;
}

static void
field_format(FILE *out, const struct emu_rule *rule, size_t offset,
             const struct emu_field *f)
{
    const uint8_t *key = &rule->key.bytes[offset + f->offset];
    const uint8_t *mask = &rule->mask.bytes[offset + f->offset];
    const uint8_t *last = (rule->ranged
                           ? &rule->last->bytes[offset + f->offset] : key);
    bool ranged = memcmp(key, last, f->size);

    if (all_bytes(mask, f->size, 0)) {
        return;
    }
    fprintf(out, " %s %s ", f->name, ranged ? "from" : "is");
    emu_bytes_format(out, key, f);
    if (ranged) {
        fputs(" to ", out);
        emu_bytes_format(out, last, f);
    }
    if (!all_bytes(mask, f->size, f->format == EMU_FMT_DEC6 ? 0x3f : 0xff)) {
        fputs(" mask ", out);
        emu_bytes_format(out, mask, f);
    }
}

static void
put_hex(FILE *out, const uint8_t *bytes, size_t n)
{
    fputs(" 0x", out);
    for (size_t i = 0; i < n; i++) {
        fprintf(out, "%02x", bytes[i]);
    }
}

/* Writes the part of an option that has 'name' and 'n' bytes at 'offset'. */
static void
option_part_format(FILE *out, const struct emu_option *option,
                   const char *name, size_t offset, size_t n, uint8_t full)
{
    const uint8_t *mask = &option[1].bytes[offset];

    if (!all_bytes(mask, n, 0)) {
        fprintf(out, " %s is", name);
        put_hex(out, &option->bytes[offset], n);
        if (!all_bytes(mask, n, full)) {
            fputs(" mask", out);
            put_hex(out, mask, n);
        }
    }
}

/* Writes a Geneve option, behind which its mask is. */
static void
option_format(FILE *out, const struct emu_option *option)
{
    size_t n = sizeof option->bytes - 4;

    while (n && all_bytes(&option[1].bytes[4 + n - 4], 4, 0)) {
        n -= 4;
    }
    option_part_format(out, option, "class", 0, 2, 0xff);
    option_part_format(out, option, "type", 2, 1, 0xff);
    option_part_format(out, option, "len", 3, 1, 0x1f);
    option_part_format(out, option, "data", 4, n, 0xff);
}

static void
pattern_format(FILE *out, const struct emu_rule *rule)
{
    static const struct {
        uint32_t layer;
        const char *name;
    } exts[] = {
        { EMU_HOP_EXT, "has_hop_ext" }, { EMU_ROUTE_EXT, "has_route_ext" },
        { EMU_FRAG_EXT, "has_frag_ext" }, { EMU_AUTH_EXT, "has_auth_ext" },
        { EMU_ESP_EXT, "has_esp_ext" }, { EMU_DEST_EXT, "has_dest_ext" },
        { EMU_MOBIL_EXT, "has_mobil_ext" }, { EMU_HIP_EXT, "has_hip_ext" },
        { EMU_SHIM6_EXT, "has_shim6_ext" },
    };
    size_t n_options = 0;

    for (unsigned int i = 0; i < rule->n_items; i++) {
        const struct emu_item_class *class =
            emu_item_class(rule->items[i].type);
        size_t offset = rule->items[i].offset;
        bool inner = offset >= sizeof(struct emu_fields);
        uint32_t layers = rule->key.levels[inner].layers;
        uint32_t flags = rule->flags[inner];

        fputs(class->name, out);
        if (class->type == RTE_FLOW_ITEM_TYPE_GENEVE_OPT) {
            option_format(out, &rule->options[2 * n_options++]);
        }
        for (const struct emu_field *f = class->fields; f->name; f++) {
            field_format(out, rule, offset, f);
        }
        if (class->type == RTE_FLOW_ITEM_TYPE_ETH && flags & EMU_VLAN) {
            fprintf(out, " has_vlan is %d", !!(layers & EMU_VLAN));
        }
        if (class->type == RTE_FLOW_ITEM_TYPE_VLAN && flags & EMU_VLAN2
            && offset == class->offset + inner * sizeof(struct emu_fields)) {
            fprintf(out, " has_more_vlan is %d", !!(layers & EMU_VLAN2));
        }
        for (size_t j = 0; class->type == RTE_FLOW_ITEM_TYPE_IPV6
                           && j < EMU_ARRAY_SIZE(exts); j++) {
            if (flags & exts[j].layer) {
                fprintf(out, " %s is %d", exts[j].name,
                        !!(layers & exts[j].layer));
            }
        }
        fputs(" / ", out);
    }
    fputs("end", out);
}

static const struct {
    enum rte_flow_action_type type;
    const char *name;
    const char *value;          /* NULL if it has none, "" if 'bytes'. */
    enum emu_format format;
    uint8_t size;
} actions[] = {
#define ACTION(TYPE, VALUE, FORMAT, SIZE) \
    { RTE_FLOW_ACTION_TYPE_##TYPE, #TYPE, VALUE, FORMAT, SIZE }
    ACTION(DROP, NULL, 0, 0),
    ACTION(JUMP, "group", 0, 0),
    ACTION(MARK, "id", 0, 0),
    ACTION(QUEUE, "index", 0, 0),
    ACTION(RSS, NULL, 0, 0),
    ACTION(COUNT, NULL, 0, 0),
    ACTION(AGE, NULL, 0, 0),
    ACTION(CONNTRACK, NULL, 0, 0),
    ACTION(PORT_ID, "id", 0, 0),
    ACTION(REPRESENTED_PORT, "id", 0, 0),
    ACTION(PORT_REPRESENTOR, "id", 0, 0),
    ACTION(OF_PUSH_VLAN, "type", 0, 0),
    ACTION(OF_POP_VLAN, NULL, 0, 0),
    ACTION(OF_SET_VLAN_VID, "vid", 0, 0),
    ACTION(OF_SET_VLAN_PCP, "pcp", 0, 0),
    ACTION(SET_MAC_SRC, "", EMU_FMT_MAC, 6),
    ACTION(SET_MAC_DST, "", EMU_FMT_MAC, 6),
    ACTION(SET_IPV4_SRC, "", EMU_FMT_IPV4, 4),
    ACTION(SET_IPV4_DST, "", EMU_FMT_IPV4, 4),
    ACTION(SET_IPV6_SRC, "", EMU_FMT_IPV6, 16),
    ACTION(SET_IPV6_DST, "", EMU_FMT_IPV6, 16),
    ACTION(SET_TP_SRC, "port", 0, 0),
    ACTION(SET_TP_DST, "port", 0, 0),
    ACTION(SET_TTL, "ttl", 0, 0),
    ACTION(DEC_TTL, NULL, 0, 0),
    ACTION(MODIFY_FIELD, NULL, 0, 0),
    ACTION(VXLAN_DECAP, NULL, 0, 0),
    ACTION(RAW_DECAP, "size", 0, 0),
    ACTION(VXLAN_ENCAP, "size", 0, 0),
    ACTION(RAW_ENCAP, "size", 0, 0),
};

static const char *
action_name(enum rte_flow_action_type type)
{
    for (size_t i = 0; i < EMU_ARRAY_SIZE(actions); i++) {
        if (actions[i].type == type) {
            return actions[i].name;
        }
    }
    return "UNKNOWN";
}

/* Writes 's' in lower case. */
static void
put_lower(FILE *out, const char *s)
{
    for (; *s; s++) {
        fputc(*s >= 'A' && *s <= 'Z' ? *s - 'A' + 'a' : *s, out);
    }
}

static void
action_format(FILE *out, const struct emu_action *action)
{
    const struct emu_object *object = action->object;

    if (object && object->id) {
        fprintf(out, "indirect %"PRIu64" ", object->id);
    }
    put_lower(out, action_name(action->type));
    if (object) {
        if (action->type == RTE_FLOW_ACTION_TYPE_AGE) {
            fprintf(out, " timeout %"PRIu32, object->timeout);
        } else if (action->type == RTE_FLOW_ACTION_TYPE_CONNTRACK) {
            fprintf(out, " %s", action->original ? "original" : "reply");
        }
        return;
    }
    if (action->modify) {
        const struct emu_modify *m = action->modify;
        struct emu_field f = { "", 0, m->size, m->format };

        fprintf(out, " %s ", m->name);
        emu_bytes_format(out, action->bytes, &f);
    }
    for (size_t i = 0; i < EMU_ARRAY_SIZE(actions); i++) {
        struct emu_field f = { "", 0, actions[i].size, actions[i].format };

        if (actions[i].type == action->type && actions[i].value) {
            if (*actions[i].value) {
                fprintf(out, " %s %"PRIu32, actions[i].value, action->value);
            } else {
                fputc(' ', out);
                emu_bytes_format(out, action->bytes, &f);
            }
        }
    }
    if (action->n_queues) {
        fputs(" queues", out);
        for (uint32_t i = 0; i < action->n_queues; i++) {
            fprintf(out, " %u", action->queues[i]);
        }
    }
}

static void
actions_format(FILE *out, const struct emu_rule *rule)
{
    for (size_t i = 0; i < rule->n_actions; i++) {
        action_format(out, &rule->actions[i]);
        fputs(" / ", out);
    }
    fputs("end", out);
}

/* Writes 'rule' to 'out' in one line. */
void
emu_rule_format(FILE *out, const struct emu_rule *rule)
{
    fprintf(out, "rule %"PRIu64": %s group %"PRIu32" priority %"PRIu32
            " pattern ", rule->id, rule->transfer ? "transfer" : "ingress",
            rule->group, rule->priority);
    pattern_format(out, rule);
    fputs(" actions ", out);
    actions_format(out, rule);
    fprintf(out, " hits %"PRIu64" bytes %"PRIu64"\n", rule->hits,
            rule->bytes);
}

static const char *
ct_state_name(enum rte_flow_conntrack_state state)
{
    static const char *const names[] = {
        [RTE_FLOW_CONNTRACK_STATE_SYN_RECV] = "SYN_RECV",
        [RTE_FLOW_CONNTRACK_STATE_ESTABLISHED] = "ESTABLISHED",
        [RTE_FLOW_CONNTRACK_STATE_FIN_WAIT] = "FIN_WAIT",
        [RTE_FLOW_CONNTRACK_STATE_CLOSE_WAIT] = "CLOSE_WAIT",
        [RTE_FLOW_CONNTRACK_STATE_LAST_ACK] = "LAST_ACK",
        [RTE_FLOW_CONNTRACK_STATE_TIME_WAIT] = "TIME_WAIT",
    };

    return state < EMU_ARRAY_SIZE(names) ? names[state] : "UNKNOWN";
}

/* Writes what is special about 'object': as text or as JSON members. */
static void
object_format(FILE *out, struct emu_object *object, bool json)
{
    struct rte_flow_action_conntrack ct;
    struct emu_ct_stats stats;
    unsigned int n_rules;

    pthread_mutex_lock(&emu_objects_mutex);
    n_rules = object->n_rules;
    pthread_mutex_unlock(&emu_objects_mutex);
    rte_spinlock_lock(&object->lock);
    ct = object->ct;
    stats = object->ct_stats;
    rte_spinlock_unlock(&object->lock);

    fprintf(out, json ? "{\"id\": %"PRIu64", \"type\": \"" : "  handle %"PRIu64
            ": ", object->id);
    put_lower(out, action_name(object->type));
    fprintf(out, json ? "\", \"rules\": %u" : " rules %u", n_rules);
    if (object->type == RTE_FLOW_ACTION_TYPE_COUNT) {
        fprintf(out, json ? ", \"hits\": %"PRIu64", \"bytes\": %"PRIu64
                : " hits %"PRIu64" bytes %"PRIu64, object->hits,
                object->bytes);
    } else if (object->type == RTE_FLOW_ACTION_TYPE_AGE) {
        fprintf(out, json ? ", \"timeout\": %"PRIu32", \"idle_ms\": %"PRIu64
                ", \"aged\": %s" : " timeout %"PRIu32" idle_ms %"PRIu64
                " aged %s", object->timeout, emu_now() - object->last_hit,
                emu_object_aged(object) ? "true" : "false");
    } else if (object->type == RTE_FLOW_ACTION_TYPE_CONNTRACK) {
        fprintf(out, json ? ", \"state\": \"%s\", \"enable\": %d, \"liberal\":"
                " %d, \"peer_port\": %u, \"valid\": %"PRIu64
                ", \"changed\": %"PRIu64", \"invalid\": %"PRIu64
                ", \"disabled\": %"PRIu64", \"bad\": %"PRIu64
                : " state %s enable %d liberal %d peer_port %u valid %"PRIu64
                " changed %"PRIu64" invalid %"PRIu64" disabled %"PRIu64
                " bad %"PRIu64, ct_state_name(ct.state), ct.enable,
                ct.liberal_mode, ct.peer_port, stats.valid, stats.changed,
                stats.invalid, stats.disabled, stats.bad);
    }
    fputs(json ? "}" : "\n", out);
}

static void
totals(int only, size_t *rules, size_t *handles)
{
    *rules = *handles = 0;
    for (int i = 0; i < RTE_MAX_ETHPORTS; i++) {
        if (emu_ports[i].state == EMU_PORT_CLAIMED
            && (only < 0 || i == only)) {
            *rules += emu_ports[i].rules.n;
            *handles += emu_objects_count(i);
        }
    }
}

static void
port_text(FILE *out, struct emu_port *port)
{
    struct emu_object **objects;
    struct emu_rule **rules;
    size_t n;

    pthread_rwlock_rdlock(&port->lock);
    fprintf(out, "port %u (%s): %s, profile %s, %"PRIuSIZE" rules, %"PRIuSIZE
            " handles\n", port->id, port->name,
            port->started ? "started" : "stopped", port->config.profile,
            port->rules.n, emu_objects_count(port->id));
    for (int i = 0; i < EMU_N_COUNTERS; i++) {
        if (port->counters[i]) {
            fprintf(out, "  %s %"PRIu64"\n", emu_counter_names[i],
                    port->counters[i]);
        }
    }
    for (int i = 0; i < EMU_N_OPS; i++) {
        const struct emu_op_stats *op = &port->ops[i];

        if (op->n_ok || op->n_failed) {
            fprintf(out, "  %s ok %"PRIu64" failed %"PRIu64" injected %"PRIu64
                    "\n", emu_op_names[i], op->n_ok, op->n_failed,
                    op->n_injected);
        }
    }
    n = emu_rules_list(port, &rules);
    for (size_t i = 0; i < n; i++) {
        fputs("  ", out);
        emu_rule_format(out, rules[i]);
    }
    free(rules);
    n = emu_objects_list(port->id, &objects);
    for (size_t i = 0; i < n; i++) {
        object_format(out, objects[i], false);
        emu_object_release(objects[i]);
    }
    free(objects);
    pthread_rwlock_unlock(&port->lock);
}

/* Writes the state of 'port', or of all ports if it is negative, for
 * people. */
void
emu_report_text(FILE *out, int port)
{
    size_t n_rules, n_handles;

    totals(port, &n_rules, &n_handles);
    fprintf(out, "rules %"PRIuSIZE", handles %"PRIuSIZE", stale %"PRIu64
            ", leaked rules %"PRIu64", leaked handles %"PRIu64
            ", configuration errors %"PRIu64"\n", n_rules, n_handles,
            emu_n_stale, emu_n_leaked_rules, emu_n_leaked_handles,
            emu_n_config_errors);
    for (int i = 0; i < RTE_MAX_ETHPORTS; i++) {
        if (emu_ports[i].state == EMU_PORT_CLAIMED
            && (port < 0 || i == port)) {
            port_text(out, &emu_ports[i]);
        }
    }
}

static void
rule_json(FILE *out, const struct emu_rule *rule)
{
    bool first = true;

    fprintf(out, "{\"id\": %"PRIu64", \"domain\": \"%s\", \"group\": %"PRIu32
            ", \"priority\": %"PRIu32", \"pattern\": \"", rule->id,
            rule->transfer ? "transfer" : "ingress", rule->group,
            rule->priority);
    pattern_format(out, rule);
    fputs("\", \"actions\": \"", out);
    actions_format(out, rule);
    fprintf(out, "\", \"hits\": %"PRIu64", \"bytes\": %"PRIu64
            ", \"handles\": [", rule->hits, rule->bytes);
    for (size_t i = 0; i < rule->n_actions; i++) {
        const struct emu_object *object = rule->actions[i].object;

        if (object && object->id) {
            fprintf(out, "%s%"PRIu64, first ? "" : ", ", object->id);
            first = false;
        }
    }
    fputs("]}", out);
}

static void
name_json(FILE *out, const char *name)
{
    fputc('"', out);
    for (; *name; name++) {
        if ((unsigned char) *name < ' ') {
            fprintf(out, "\\u%04x", *name);
        } else {
            fprintf(out, *name == '"' || *name == '\\' ? "\\%c" : "%c", *name);
        }
    }
    fputc('"', out);
}

static void
config_json(FILE *out, const struct emu_config *c)
{
    fprintf(out, "{\"profile\": \"%s\", \"pretend\": %d, \"conntrack\": %d, "
            "\"age\": %d, \"count\": %d, \"transfer\": %d, \"eswitch\": %d, "
            "\"share_handles\": %d, \"proxy_first\": %d, "
            "\"switch_domain\": %"PRIu32", \"groups\": %"PRIu32
            ", \"max_rules\": %"PRIu32", \"max_handles\": %"PRIu32"}",
            c->profile, c->pretend, c->conntrack, c->age, c->count,
            c->transfer, c->eswitch, c->share_handles, c->proxy_first,
            c->switch_domain, c->groups, c->max_rules, c->max_handles);
}

static void
port_json(FILE *out, struct emu_port *port)
{
    struct emu_object **objects;
    struct emu_rule **rules;
    size_t n;

    pthread_rwlock_rdlock(&port->lock);
    fprintf(out, "{\"port\": %u, \"name\": ", port->id);
    name_json(out, port->name);
    fprintf(out, ", \"started\": %s, \"n_rxq\": %u, \"n_txq\": %u, "
            "\"config\": ", port->started ? "true" : "false", port->n_rxq,
            port->n_txq);
    config_json(out, &port->config);
    fputs(", \"counters\": {", out);
    for (int i = 0; i < EMU_N_COUNTERS; i++) {
        fprintf(out, "%s\"%s\": %"PRIu64, i ? ", " : "", emu_counter_names[i],
                port->counters[i]);
    }
    fputs("}, \"operations\": {", out);
    for (int i = 0; i < EMU_N_OPS; i++) {
        fprintf(out, "%s\"%s\": {\"ok\": %"PRIu64", \"failed\": %"PRIu64
                ", \"injected\": %"PRIu64"}", i ? ", " : "", emu_op_names[i],
                port->ops[i].n_ok, port->ops[i].n_failed,
                port->ops[i].n_injected);
    }
    fputs("}, \"rules\": [", out);
    n = emu_rules_list(port, &rules);
    for (size_t i = 0; i < n; i++) {
        fputs(i ? ",\n" : "\n", out);
        rule_json(out, rules[i]);
    }
    free(rules);
    fputs("], \"handles\": [", out);
    n = emu_objects_list(port->id, &objects);
    for (size_t i = 0; i < n; i++) {
        fputs(i ? ",\n" : "\n", out);
        object_format(out, objects[i], true);
        emu_object_release(objects[i]);
    }
    free(objects);
    fputs("]}", out);
    pthread_rwlock_unlock(&port->lock);
}

/* Writes the state of 'port', or of all ports if it is negative, as JSON. */
void
emu_report_json(FILE *out, int port)
{
    size_t n_rules, n_handles;
    bool first = true;

    totals(port, &n_rules, &n_handles);
    fprintf(out, "{\"rules\": %"PRIuSIZE", \"handles\": %"PRIuSIZE
            ", \"stale\": %"PRIu64", \"leaked_rules\": %"PRIu64
            ", \"leaked_handles\": %"PRIu64", \"config_errors\": %"PRIu64
            ", \"ports\": [", n_rules, n_handles, emu_n_stale,
            emu_n_leaked_rules, emu_n_leaked_handles, emu_n_config_errors);
    for (int i = 0; i < RTE_MAX_ETHPORTS; i++) {
        if (emu_ports[i].state == EMU_PORT_CLAIMED
            && (port < 0 || i == port)) {
            fputs(first ? "\n" : ",\n", out);
            port_json(out, &emu_ports[i]);
            first = false;
        }
    }
    fputs("]}\n", out);
}
