/* SPDX-License-Identifier: Apache-2.0 */

#include <config.h>

#include "emunic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

/* Rules of one group that have a priority and a mask in common. */
struct emu_subtable {
    TAILQ_ENTRY(emu_subtable) list; /* In struct emu_group, by priority. */
    uint32_t priority;
    bool ranged;                /* Rules with ranges: compared one by one. */
    union emu_key mask;
    struct emu_map rules;       /* By the hash of the masked key. */
};

struct emu_group {
    struct emu_node node;
    uint32_t number;
    TAILQ_HEAD(, emu_subtable) subtables;
};

static struct emu_map *
groups_of(struct emu_port *port, bool transfer)
{
    return transfer ? &emu_switch_groups : &port->groups;
}

static struct emu_group *
group_find(const struct emu_map *groups, uint32_t number)
{
    struct emu_node *node;

    for (node = emu_map_first(groups, emu_hash64(number)); node;
         node = emu_map_next(node)) {
        struct emu_group *group = EMU_CONTAINER_OF(node, struct emu_group,
                                                   node);

        if (group->number == number) {
            return group;
        }
    }
    return NULL;
}

static uint64_t
masked_hash(const union emu_key *key, const union emu_key *mask)
{
    uint64_t hash = 0;

    for (size_t i = 0; i < EMU_KEY_WORDS; i++) {
        if (mask->words[i]) {
            hash = emu_hash64(hash ^ (key->words[i] & mask->words[i])) + i;
        }
    }
    return hash;
}

static bool
masked_equal(const union emu_key *a, const union emu_key *b,
             const union emu_key *mask)
{
    for (size_t i = 0; i < EMU_KEY_WORDS; i++) {
        if ((a->words[i] ^ b->words[i]) & mask->words[i]) {
            return false;
        }
    }
    return true;
}

/* Says whether a field of a packet is in a range, as far as 'mask' goes. */
static bool
in_range(const uint8_t *value, const uint8_t *first, const uint8_t *last,
         const uint8_t *mask, size_t size)
{
    int from = 0, to = 0;

    for (size_t i = 0; i < size && !from; i++) {
        from = (value[i] & mask[i]) - (first[i] & mask[i]);
    }
    for (size_t i = 0; i < size && !to; i++) {
        to = (last[i] & mask[i]) - (value[i] & mask[i]);
    }
    return from >= 0 && to >= 0;
}

static bool
ranges_match(const struct emu_rule *rule, const union emu_key *key)
{
    uint32_t wanted = rule->mask.f.layers;

    if ((key->f.layers ^ rule->key.f.layers) & wanted
        || (key->inner.layers ^ rule->key.inner.layers)
           & rule->mask.inner.layers
        || (key->f.port ^ rule->key.f.port) & rule->mask.f.port
        || (key->f.domain ^ rule->key.f.domain) & rule->mask.f.domain) {
        return false;
    }
    for (unsigned int i = 0; i < rule->n_items; i++) {
        const struct emu_item *item = &rule->items[i];
        const struct emu_field *f = emu_item_class(item->type)->fields;

        for (; f->name; f++) {
            size_t at = item->offset + f->offset;

            if (!in_range(&key->bytes[at], &rule->key.bytes[at],
                          &rule->last->bytes[at], &rule->mask.bytes[at],
                          f->size)) {
                return false;
            }
        }
    }
    return true;
}

static bool
same_match(const struct emu_rule *a, const struct emu_rule *b)
{
    return a->ranged == b->ranged && a->n_options == b->n_options
           && (!a->n_options
               || !memcmp(a->options, b->options,
                          2 * a->n_options * sizeof *a->options))
           && !memcmp(&a->mask, &b->mask, sizeof a->mask)
           && masked_equal(&a->key, &b->key, &a->mask)
           && (!a->ranged || masked_equal(a->last, b->last, &a->mask));
}

/* Returns the rule of 'port' that 'flow' stands for, or NULL if there is none
 * any more.  The caller holds the port's lock. */
struct emu_rule *
emu_rule_find(struct emu_port *port, const struct rte_flow *flow)
{
    uint64_t id = emu_handle_id(flow);
    struct emu_node *node;

    for (node = emu_map_first(&port->rules, emu_hash64(id)); node && id;
         node = emu_map_next(node)) {
        struct emu_rule *rule = EMU_CONTAINER_OF(node, struct emu_rule, node);

        if (rule->id == id) {
            return rule;
        }
    }
    return NULL;
}

/* Returns the subtable of 'group' for 'rule', which is new if need be. */
static struct emu_subtable *
subtable_for(struct emu_group *group, const struct emu_rule *rule)
{
    struct emu_subtable *sub, *before = NULL;

    TAILQ_FOREACH (sub, &group->subtables, list) {
        if (sub->priority > rule->priority) {
            before = sub;
            break;
        }
        if (sub->priority == rule->priority && sub->ranged == rule->ranged
            && (sub->ranged
                || !memcmp(&sub->mask, &rule->mask, sizeof sub->mask))) {
            return sub;
        }
    }
    sub = emu_zalloc(sizeof *sub);
    sub->priority = rule->priority;
    sub->ranged = rule->ranged;
    sub->mask = rule->mask;
    if (before) {
        TAILQ_INSERT_BEFORE(before, sub, list);
    } else {
        TAILQ_INSERT_TAIL(&group->subtables, sub, list);
    }
    return sub;
}

/* Returns false if there is a rule with the same match, unless 'equal_ok'. */
static bool
match_insert(struct emu_map *groups, struct emu_rule *rule, bool equal_ok)
{
    uint64_t hash = rule->ranged ? 0 : masked_hash(&rule->key, &rule->mask);
    struct emu_group *group = group_find(groups, rule->group);
    struct emu_subtable *sub;

    if (!group) {
        group = emu_zalloc(sizeof *group);
        group->number = rule->group;
        TAILQ_INIT(&group->subtables);
        emu_map_insert(groups, &group->node, emu_hash64(group->number));
    }
    sub = subtable_for(group, rule);
    for (struct emu_node *node = emu_map_first(&sub->rules, hash); node;
         node = emu_map_next(node)) {
        if (!equal_ok && same_match(rule, EMU_CONTAINER_OF(node,
                                                           struct emu_rule,
                                                           match_node))) {
            return false;
        }
    }
    rule->subtable = sub;
    emu_map_insert(&sub->rules, &rule->match_node, hash);
    return true;
}

static void
match_remove(struct emu_map *groups, struct emu_rule *rule)
{
    struct emu_group *group = group_find(groups, rule->group);
    struct emu_subtable *sub = rule->subtable;

    emu_map_remove(&sub->rules, &rule->match_node);
    if (!sub->rules.n) {
        TAILQ_REMOVE(&group->subtables, sub, list);
        emu_map_destroy(&sub->rules);
        free(sub);
    }
    if (TAILQ_EMPTY(&group->subtables)) {
        emu_map_remove(groups, &group->node);
        free(group);
    }
}

/* Says whether 'rule' has a counter of its own. */
static bool
has_counter(const struct emu_rule *rule)
{
    for (size_t i = 0; i < rule->n_actions; i++) {
        if (rule->actions[i].type == RTE_FLOW_ACTION_TYPE_COUNT
            && !rule->actions[i].object->id) {
            return true;
        }
    }
    return false;
}

/* Adds 'rule' to 'port'.  Fails, with a negative errno value, if the table is
 * full, has no counter for it, or has a rule with the same match.  The caller
 * holds the port's lock for writing. */
int
emu_rule_insert(struct emu_port *port, struct emu_rule *rule,
                struct rte_flow_error *error)
{
    bool ok;

    if (port->rules.n >= port->config.max_rules) {
        return rte_flow_error_set(error, ENOSPC,
                                  RTE_FLOW_ERROR_TYPE_UNSPECIFIED, NULL,
                                  "the rule table is full");
    }
    if (has_counter(rule)) {
        int retval = emu_counter_check(port, error);

        if (retval) {
            return retval;
        }
    }
    rule->id = emu_next_id();
    if (rule->transfer) {
        pthread_rwlock_wrlock(&emu_switch_lock);
    }
    ok = match_insert(groups_of(port, rule->transfer), rule,
                      port->config.newest_wins);
    if (rule->transfer) {
        pthread_rwlock_unlock(&emu_switch_lock);
    }
    if (!ok) {
        return rte_flow_error_set(error, EEXIST,
                                  RTE_FLOW_ERROR_TYPE_UNSPECIFIED, NULL,
                                  "a rule with this match exists");
    }
    emu_map_insert(&port->rules, &rule->node, emu_hash64(rule->id));
    return 0;
}

/* Takes 'rule' from 'port'.  The caller holds the port's lock for writing and
 * frees the rule after that. */
void
emu_rule_remove(struct emu_port *port, struct emu_rule *rule)
{
    emu_map_remove(&port->rules, &rule->node);
    for (size_t i = 0; i < rule->n_actions; i++) {
        const struct emu_object *object = rule->actions[i].object;

        if (object && !object->id) {
            emu_counter_freed(object);
        }
    }
    if (rule->transfer) {
        pthread_rwlock_wrlock(&emu_switch_lock);
    }
    match_remove(groups_of(port, rule->transfer), rule);
    if (rule->transfer) {
        pthread_rwlock_unlock(&emu_switch_lock);
    }
}

/* Frees 'rule', which is in no table, and lets go of its objects. */
void
emu_rule_free(struct emu_rule *rule)
{
    for (size_t i = 0; i < rule->n_actions; i++) {
        if (rule->actions[i].object) {
            emu_object_unuse(rule->actions[i].object);
        }
        free(rule->actions[i].queues);
        free(rule->actions[i].header);
    }
    free(rule->actions);
    free(rule->options);
    free(rule->last);
    free(rule);
}

/* Removes all rules that were created on 'port' and returns how many there
 * were.  The caller holds the port's lock for writing. */
size_t
emu_rules_flush(struct emu_port *port)
{
    struct emu_node *node;
    size_t n = 0;

    while ((node = emu_map_any(&port->rules, NULL))) {
        struct emu_rule *rule = EMU_CONTAINER_OF(node, struct emu_rule, node);

        emu_rule_remove(port, rule);
        emu_rule_free(rule);
        n++;
    }
    return n;
}

/* Returns the rule that 'packet' hits in a group, or NULL.  Says in
 * '*ambiguous' whether another rule of the same priority matches too: which of
 * them hardware takes is undefined, or the newest, if they match the same.
 * Says in '*overlap' whether it is a transfer rule that hides one of another
 * priority.  The caller holds the port's lock, and for transfer rules that of
 * the switch. */
struct emu_rule *
emu_rule_lookup(struct emu_port *port, bool transfer, uint32_t group_number,
                const struct emu_packet *packet, bool *ambiguous,
                bool *overlap)
{
    const union emu_key *key = &packet->key;
    struct emu_group *group = group_find(groups_of(port, transfer),
                                         group_number);
    struct emu_rule *found = NULL;
    struct emu_subtable *sub;

    *ambiguous = *overlap = false;
    if (!group) {
        return NULL;
    }
    TAILQ_FOREACH (sub, &group->subtables, list) {
        bool hidden = found && sub->priority != found->priority;
        struct emu_node *node;

        if (hidden && !transfer) {
            break;
        }
        node = emu_map_first(&sub->rules, sub->ranged
                                          ? 0 : masked_hash(key, &sub->mask));
        for (; node; node = emu_map_next(node)) {
            struct emu_rule *rule = EMU_CONTAINER_OF(node, struct emu_rule,
                                                     match_node);

            if (!(rule->ranged
                  ? ranges_match(rule, key)
                  : masked_equal(&rule->key, key, &rule->mask))
                || !emu_options_match(packet, rule)) {
                continue;
            }
            if (hidden) {
                *overlap = true;
                return found;
            }
            *ambiguous |= found != NULL;
            if (!found
                || (rule->id < found->id) != same_match(rule, found)) {
                found = rule;
            }
        }
    }
    return found;
}

static int
compare_rules(const void *a_, const void *b_)
{
    const struct emu_rule *a = *(struct emu_rule *const *) a_;
    const struct emu_rule *b = *(struct emu_rule *const *) b_;

    return a->id < b->id ? -1 : a->id > b->id;
}

/* Stores in '*rules' the rules of 'port' in the order in which they were
 * created, and returns their number.  The caller holds the port's lock and
 * frees '*rules'. */
size_t
emu_rules_list(struct emu_port *port, struct emu_rule ***rules)
{
    size_t n = 0;

    *rules = emu_zalloc((port->rules.n + 1) * sizeof **rules);
    for (struct emu_node *node = emu_map_any(&port->rules, NULL); node;
         node = emu_map_any(&port->rules, node)) {
        (*rules)[n++] = EMU_CONTAINER_OF(node, struct emu_rule, node);
    }
    qsort(*rules, n, sizeof **rules, compare_rules);
    return n;
}
