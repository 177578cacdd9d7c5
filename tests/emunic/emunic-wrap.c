/* SPDX-License-Identifier: Apache-2.0 */

/* The functions of DPDK that the emulated NIC answers.  Their definitions here
 * come before those in librte_ethdev because this library is preloaded.  For a
 * port that is not claimed they call the original. */

#include <config.h>

#include "emunic.h"

#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <rte_errno.h>

/* The original of the DPDK function NAME. */
#define REAL(NAME)                                                  \
    ({                                                              \
        static __typeof__(&NAME) real_;                             \
                                                                    \
        if (!real_) {                                               \
            real_ = (__typeof__(&NAME)) real_symbol(#NAME);         \
        }                                                           \
        real_;                                                      \
    })

static void *
real_symbol(const char *name)
{
    void *symbol = dlsym(RTLD_NEXT, name);

    if (!symbol) {
        emu_log("%s() of DPDK is not to be found: the emulated NIC needs "
                "shared DPDK libraries", name);
        abort();
    }
    return symbol;
}

/* Returns the port 'port_id' if it is one of this NIC, else NULL.  Claims it
 * if nobody has asked before and its driver has no flow API. */
struct emu_port *
emu_port_get(uint16_t port_id)
{
    static const struct rte_flow_attr attr = { .ingress = 1 };
    static const struct rte_flow_item items[] = {
        { .type = RTE_FLOW_ITEM_TYPE_ETH },
        { .type = RTE_FLOW_ITEM_TYPE_END },
    };
    static const struct rte_flow_action actions[] = {
        { .type = RTE_FLOW_ACTION_TYPE_DROP },
        { .type = RTE_FLOW_ACTION_TYPE_END },
    };
    struct rte_flow_error error;
    struct emu_port *port;

    if (port_id >= RTE_MAX_ETHPORTS) {
        return NULL;
    }
    port = &emu_ports[port_id];
    if (port->state == EMU_PORT_UNKNOWN) {
        int retval;

        emu_ports_init();
        retval = REAL(rte_flow_validate)(port_id, &attr, items, actions,
                                         &error);
        if (retval == -ENODEV) {
            return NULL;
        } else if (retval != -ENOSYS) {
            port->state = EMU_PORT_FOREIGN;
            emu_log("port %u has a flow API of its own: left alone", port_id);
        } else {
            emu_port_claim(port);
        }
    }
    return port->state == EMU_PORT_CLAIMED ? port : NULL;
}

/* Flow rules. */

EMU_EXPORT int
rte_flow_validate(uint16_t port_id, const struct rte_flow_attr *attr,
                  const struct rte_flow_item items[],
                  const struct rte_flow_action actions[],
                  struct rte_flow_error *error)
{
    struct emu_port *port = emu_port_get(port_id);
    struct emu_rule *rule;
    int retval;

    if (!port) {
        return REAL(rte_flow_validate)(port_id, attr, items, actions, error);
    }
    retval = emu_op_begin(port, EMU_OP_VALIDATE,
                          attr ? &attr->priority : NULL, error);
    if (!retval) {
        rule = emu_rule_compile(port, attr, items, actions, error);
        if (rule) {
            emu_rule_free(rule);
        } else {
            retval = -rte_errno;
        }
    }
    return emu_op_end(port, EMU_OP_VALIDATE, retval);
}

/* The direction of a connection at the time that a rule is created is the
 * direction of the rule. */
static void
capture_directions(struct emu_rule *rule)
{
    for (size_t i = 0; i < rule->n_actions; i++) {
        struct emu_action *action = &rule->actions[i];

        if (action->type == RTE_FLOW_ACTION_TYPE_CONNTRACK) {
            rte_spinlock_lock(&action->object->lock);
            action->original = action->object->ct.is_original_dir;
            rte_spinlock_unlock(&action->object->lock);
        }
    }
}

EMU_EXPORT struct rte_flow *
rte_flow_create(uint16_t port_id, const struct rte_flow_attr *attr,
                const struct rte_flow_item items[],
                const struct rte_flow_action actions[],
                struct rte_flow_error *error)
{
    struct emu_port *port = emu_port_get(port_id);
    struct emu_rule *rule = NULL;
    struct rte_flow *flow = NULL;
    int retval;

    if (!port) {
        return REAL(rte_flow_create)(port_id, attr, items, actions, error);
    }
    retval = emu_op_begin(port, EMU_OP_CREATE,
                          attr ? &attr->priority : NULL, error);
    if (!retval && !port->started) {
        retval = rte_flow_error_set(error, EINVAL, RTE_FLOW_ERROR_TYPE_STATE,
                                    NULL, "the port is not started");
    }
    if (!retval) {
        rule = emu_rule_compile(port, attr, items, actions, error);
        retval = rule ? emu_rule_insert(port, rule, error) : -rte_errno;
    }
    if (!retval) {
        capture_directions(rule);
        flow = emu_id_handle(rule->id);
    } else if (rule) {
        emu_rule_free(rule);
    }
    emu_op_end(port, EMU_OP_CREATE, retval);
    if (retval) {
        rte_errno = -retval;
    }
    return flow;
}

/* Returns the rule behind 'flow', or NULL after counting that there is none
 * and saying so in 'error'. */
static struct emu_rule *
find_rule(struct emu_port *port, const struct rte_flow *flow,
          struct rte_flow_error *error)
{
    struct emu_rule *rule = emu_rule_find(port, flow);

    if (!rule) {
        atomic_fetch_add(&emu_n_stale, 1);
        emu_count(port, EMU_STALE, 1);
        emu_log("port %u: stale rule %"PRIu64" (%p)", port->id,
                emu_handle_id(flow), (const void *) flow);
        rte_flow_error_set(error, ENOENT, RTE_FLOW_ERROR_TYPE_HANDLE, flow,
                           "the port has no such rule");
    }
    return rule;
}

/* Stores the priority of a rule in 'priority' and returns it, or returns NULL
 * if 'port' has no such rule. */
static const uint32_t *
rule_priority(struct emu_port *port, const struct rte_flow *flow,
              uint32_t *priority)
{
    const struct emu_rule *rule;

    pthread_rwlock_rdlock(&port->lock);
    rule = emu_rule_find(port, flow);
    if (rule) {
        *priority = rule->priority;
    }
    pthread_rwlock_unlock(&port->lock);
    return rule ? priority : NULL;
}

EMU_EXPORT int
rte_flow_destroy(uint16_t port_id, struct rte_flow *flow,
                 struct rte_flow_error *error)
{
    struct emu_port *port = emu_port_get(port_id);
    uint32_t priority;
    int retval;

    if (!port) {
        return REAL(rte_flow_destroy)(port_id, flow, error);
    }
    retval = emu_op_begin(port, EMU_OP_DESTROY,
                          rule_priority(port, flow, &priority), error);
    if (!retval) {
        struct emu_rule *rule = find_rule(port, flow, error);

        if (rule) {
            emu_rule_remove(port, rule);
            emu_rule_free(rule);
        } else {
            retval = -ENOENT;
        }
    }
    return emu_op_end(port, EMU_OP_DESTROY, retval);
}

EMU_EXPORT int
rte_flow_flush(uint16_t port_id, struct rte_flow_error *error)
{
    struct emu_port *port = emu_port_get(port_id);
    int retval;

    if (!port) {
        return REAL(rte_flow_flush)(port_id, error);
    }
    retval = emu_op_begin(port, EMU_OP_FLUSH, NULL, error);

    /* A failure destroys the rules as well: rte_flow.h says so. */
    emu_rules_flush(port);
    return emu_op_end(port, EMU_OP_FLUSH, retval);
}

/* Returns the object of 'rule' that 'action' asks for, or NULL. */
static struct emu_object *
queried_object(const struct emu_rule *rule,
               const struct rte_flow_action *action)
{
    for (size_t i = 0; i < rule->n_actions; i++) {
        struct emu_object *object = rule->actions[i].object;

        if (object && object->type == action->type
            && object->type != RTE_FLOW_ACTION_TYPE_CONNTRACK) {
            return object;
        }
    }
    return NULL;
}

EMU_EXPORT int
rte_flow_query(uint16_t port_id, struct rte_flow *flow,
               const struct rte_flow_action *action, void *data,
               struct rte_flow_error *error)
{
    struct emu_port *port = emu_port_get(port_id);
    struct emu_object *object;
    struct emu_rule *rule;
    uint32_t priority;
    int retval;

    if (!port) {
        return REAL(rte_flow_query)(port_id, flow, action, data, error);
    }
    retval = emu_op_begin(port, EMU_OP_QUERY,
                          rule_priority(port, flow, &priority), error);
    if (!retval) {
        rule = find_rule(port, flow, error);
        object = rule && action ? queried_object(rule, action) : NULL;
        if (!rule) {
            retval = -ENOENT;
        } else if (!action) {
            retval = rte_flow_error_set(error, EINVAL,
                                        RTE_FLOW_ERROR_TYPE_ACTION, NULL,
                                        "no action to query");
        } else if (action->type != RTE_FLOW_ACTION_TYPE_COUNT
                   && action->type != RTE_FLOW_ACTION_TYPE_AGE) {
            retval = rte_flow_error_set(error, ENOTSUP,
                                        RTE_FLOW_ERROR_TYPE_ACTION, action,
                                        "this action cannot be queried");
        } else if (!object) {
            retval = rte_flow_error_set(error, EINVAL,
                                        RTE_FLOW_ERROR_TYPE_ACTION, action,
                                        "the rule does not have the action");
        } else {
            retval = emu_object_query(object, action, data, error);
        }
    }
    return emu_op_end(port, EMU_OP_QUERY, retval);
}

EMU_EXPORT int
rte_flow_isolate(uint16_t port_id, int set, struct rte_flow_error *error)
{
    struct emu_port *port = emu_port_get(port_id);
    int retval;

    if (!port) {
        return REAL(rte_flow_isolate)(port_id, set, error);
    }
    retval = emu_op_begin(port, EMU_OP_ISOLATE, NULL, error);
    if (!retval && set) {
        retval = rte_flow_error_set(error, ENOTSUP,
                                    RTE_FLOW_ERROR_TYPE_UNSPECIFIED, NULL,
                                    "isolated mode is not supported");
    }
    return emu_op_end(port, EMU_OP_ISOLATE, retval);
}

EMU_EXPORT int
rte_flow_dev_dump(uint16_t port_id, struct rte_flow *flow, FILE *file,
                  struct rte_flow_error *error)
{
    struct emu_port *port = emu_port_get(port_id);
    struct emu_rule *rule;
    int retval;

    if (!port) {
        return REAL(rte_flow_dev_dump)(port_id, flow, file, error);
    }
    retval = emu_op_begin(port, EMU_OP_DUMP, NULL, error);
    if (!retval && !file) {
        retval = rte_flow_error_set(error, EINVAL,
                                    RTE_FLOW_ERROR_TYPE_UNSPECIFIED, NULL,
                                    "no file to dump to");
    }
    if (!retval && flow) {
        rule = find_rule(port, flow, error);
        if (rule) {
            emu_rule_format(file, rule);
        } else {
            retval = -ENOENT;
        }
    } else if (!retval) {
        struct emu_rule **rules;
        size_t n = emu_rules_list(port, &rules);

        for (size_t i = 0; i < n; i++) {
            emu_rule_format(file, rules[i]);
        }
        free(rules);
    }
    return emu_op_end(port, EMU_OP_DUMP, retval);
}

/* Stores the context of 'object' if it has aged out and was not reported since
 * its last hit.  'fallback' stands for a context of NULL. */
static uint32_t
report_aged(struct emu_object *object, void *fallback, void **contexts,
            uint32_t n_contexts, uint32_t n)
{
    if (object->type != RTE_FLOW_ACTION_TYPE_AGE || object->aged_out
        || !emu_object_aged(object)) {
        return n;
    }
    if (n_contexts) {
        if (n >= n_contexts) {
            return n;
        }
        contexts[n] = object->context ? object->context : fallback;
        object->aged_out = true;
    }
    return n + 1;
}

EMU_EXPORT int
rte_flow_get_aged_flows(uint16_t port_id, void **contexts,
                        uint32_t nb_contexts, struct rte_flow_error *error)
{
    struct emu_port *port = emu_port_get(port_id);
    struct emu_object **objects;
    struct emu_rule **rules;
    size_t n_objects, n_rules;
    uint32_t n = 0;
    int retval;

    if (!port) {
        return REAL(rte_flow_get_aged_flows)(port_id, contexts, nb_contexts,
                                             error);
    }
    retval = emu_op_begin(port, EMU_OP_AGED, NULL, error);
    if (!retval && nb_contexts && !contexts) {
        retval = rte_flow_error_set(error, EINVAL,
                                    RTE_FLOW_ERROR_TYPE_UNSPECIFIED, NULL,
                                    "no memory for the contexts");
    }
    if (!retval) {
        n_rules = emu_rules_list(port, &rules);
        for (size_t i = 0; i < n_rules; i++) {
            for (size_t j = 0; j < rules[i]->n_actions; j++) {
                struct emu_object *object = rules[i]->actions[j].object;

                if (object && !object->id) {
                    n = report_aged(object, emu_id_handle(rules[i]->id),
                                    contexts, nb_contexts, n);
                }
            }
        }
        free(rules);
        n_objects = emu_objects_list(port_id, &objects);
        for (size_t i = 0; i < n_objects; i++) {
            n = report_aged(objects[i], emu_id_handle(objects[i]->id),
                            contexts, nb_contexts, n);
            emu_object_release(objects[i]);
        }
        free(objects);
    }
    emu_op_end(port, EMU_OP_AGED, retval);
    return retval ? retval : (int) n;
}

EMU_EXPORT int
rte_flow_pick_transfer_proxy(uint16_t port_id, uint16_t *proxy_port_id,
                             struct rte_flow_error *error)
{
    struct emu_port *port = emu_port_get(port_id);

    if (!port) {
        return REAL(rte_flow_pick_transfer_proxy)(port_id, proxy_port_id,
                                                  error);
    }
    *proxy_port_id = emu_port_proxy(port)->id;
    return 0;
}

/* Indirect actions. */

EMU_EXPORT struct rte_flow_action_handle *
rte_flow_action_handle_create(uint16_t port_id,
                              const struct rte_flow_indir_action_conf *conf,
                              const struct rte_flow_action *action,
                              struct rte_flow_error *error)
{
    struct emu_port *port = emu_port_get(port_id);
    struct rte_flow_action_handle *handle = NULL;
    int retval;

    if (!port) {
        return REAL(rte_flow_action_handle_create)(port_id, conf, action,
                                                   error);
    }
    retval = emu_op_begin(port, EMU_OP_HANDLE_CREATE, NULL, error);
    if (!retval) {
        handle = emu_handle_create(port, conf, action, error);
        retval = handle ? 0 : -rte_errno;
    }
    emu_op_end(port, EMU_OP_HANDLE_CREATE, retval);
    if (retval) {
        rte_errno = -retval;
    }
    return handle;
}

EMU_EXPORT int
rte_flow_action_handle_destroy(uint16_t port_id,
                               struct rte_flow_action_handle *handle,
                               struct rte_flow_error *error)
{
    struct emu_port *port = emu_port_get(port_id);
    int retval;

    if (!port) {
        return REAL(rte_flow_action_handle_destroy)(port_id, handle, error);
    }
    retval = emu_op_begin(port, EMU_OP_HANDLE_DESTROY, NULL, error);
    if (!retval) {
        retval = emu_handle_destroy(port, handle, error);
    }
    return emu_op_end(port, EMU_OP_HANDLE_DESTROY, retval);
}

EMU_EXPORT int
rte_flow_action_handle_update(uint16_t port_id,
                              struct rte_flow_action_handle *handle,
                              const void *update,
                              struct rte_flow_error *error)
{
    struct emu_port *port = emu_port_get(port_id);
    int retval;

    if (!port) {
        return REAL(rte_flow_action_handle_update)(port_id, handle, update,
                                                   error);
    }
    retval = emu_op_begin(port, EMU_OP_HANDLE_UPDATE, NULL, error);
    if (!retval) {
        retval = emu_handle_update(port, handle, update, error);
    }
    return emu_op_end(port, EMU_OP_HANDLE_UPDATE, retval);
}

EMU_EXPORT int
rte_flow_action_handle_query(uint16_t port_id,
                             const struct rte_flow_action_handle *handle,
                             void *data, struct rte_flow_error *error)
{
    struct emu_port *port = emu_port_get(port_id);
    int retval;

    if (!port) {
        return REAL(rte_flow_action_handle_query)(port_id, handle, data,
                                                  error);
    }
    retval = emu_op_begin(port, EMU_OP_HANDLE_QUERY, NULL, error);
    if (!retval) {
        retval = emu_handle_query(port, handle, data, error);
    }
    return emu_op_end(port, EMU_OP_HANDLE_QUERY, retval);
}

/* Flow queues and templates: what the NIC does not have. */

static int
not_supported(struct rte_flow_error *error)
{
    return rte_flow_error_set(error, ENOTSUP, RTE_FLOW_ERROR_TYPE_UNSPECIFIED,
                              NULL, "flow queues and templates are not "
                              "supported");
}

EMU_EXPORT int
rte_flow_info_get(uint16_t port_id, struct rte_flow_port_info *port_info,
                  struct rte_flow_queue_info *queue_info,
                  struct rte_flow_error *error)
{
    struct emu_port *port = emu_port_get(port_id);

    if (!port) {
        return REAL(rte_flow_info_get)(port_id, port_info, queue_info, error);
    }
    if (port_info) {
        memset(port_info, 0, sizeof *port_info);
        pthread_rwlock_rdlock(&port->lock);
        if (port->config.count) {
            port_info->max_nb_counters = port->config.max_rules;
        }
        if (port->config.age) {
            port_info->max_nb_aging_objects = port->config.max_rules;
        }
        if (port->config.conntrack) {
            port_info->max_nb_conn_tracks = port->config.max_handles;
        }
        pthread_rwlock_unlock(&port->lock);
    }
    if (queue_info) {
        memset(queue_info, 0, sizeof *queue_info);
    }
    return 0;
}

EMU_EXPORT int
rte_flow_configure(uint16_t port_id, const struct rte_flow_port_attr *attr,
                   uint16_t nb_queue,
                   const struct rte_flow_queue_attr *queue_attr[],
                   struct rte_flow_error *error)
{
    struct emu_port *port = emu_port_get(port_id);

    if (!port) {
        return REAL(rte_flow_configure)(port_id, attr, nb_queue, queue_attr,
                                        error);
    }
    if (port->started) {
        return rte_flow_error_set(error, EINVAL, RTE_FLOW_ERROR_TYPE_STATE,
                                  NULL, "the port is started");
    }
    return not_supported(error);
}

/* Defines a function that returns a pointer and is not supported. */
#define NO_POINTER(TYPE, NAME, PARAMETERS, ARGS)        \
    EMU_EXPORT TYPE *                                   \
    NAME PARAMETERS                                     \
    {                                                   \
        if (!emu_port_get(port_id)) {                   \
            return REAL(NAME) ARGS;                     \
        }                                               \
        not_supported(error);                           \
        return NULL;                                    \
    }

/* Defines a function that returns an int and is not supported. */
#define NO_INT(NAME, PARAMETERS, ARGS)                  \
    EMU_EXPORT int                                      \
    NAME PARAMETERS                                     \
    {                                                   \
        if (!emu_port_get(port_id)) {                   \
            return REAL(NAME) ARGS;                     \
        }                                               \
        return not_supported(error);                    \
    }

NO_POINTER(struct rte_flow_pattern_template, rte_flow_pattern_template_create,
           (uint16_t port_id,
            const struct rte_flow_pattern_template_attr *attr,
            const struct rte_flow_item items[], struct rte_flow_error *error),
           (port_id, attr, items, error))

NO_INT(rte_flow_pattern_template_destroy,
       (uint16_t port_id, struct rte_flow_pattern_template *template,
        struct rte_flow_error *error),
       (port_id, template, error))

NO_POINTER(struct rte_flow_actions_template, rte_flow_actions_template_create,
           (uint16_t port_id,
            const struct rte_flow_actions_template_attr *attr,
            const struct rte_flow_action actions[],
            const struct rte_flow_action masks[],
            struct rte_flow_error *error),
           (port_id, attr, actions, masks, error))

NO_INT(rte_flow_actions_template_destroy,
       (uint16_t port_id, struct rte_flow_actions_template *template,
        struct rte_flow_error *error),
       (port_id, template, error))

NO_POINTER(struct rte_flow_template_table, rte_flow_template_table_create,
           (uint16_t port_id, const struct rte_flow_template_table_attr *attr,
            struct rte_flow_pattern_template *patterns[], uint8_t n_patterns,
            struct rte_flow_actions_template *actions[], uint8_t n_actions,
            struct rte_flow_error *error),
           (port_id, attr, patterns, n_patterns, actions, n_actions, error))

NO_INT(rte_flow_template_table_destroy,
       (uint16_t port_id, struct rte_flow_template_table *table,
        struct rte_flow_error *error),
       (port_id, table, error))

NO_POINTER(struct rte_flow, rte_flow_async_create,
           (uint16_t port_id, uint32_t queue,
            const struct rte_flow_op_attr *attr,
            struct rte_flow_template_table *table,
            const struct rte_flow_item items[], uint8_t pattern,
            const struct rte_flow_action actions[], uint8_t action,
            void *aux, struct rte_flow_error *error),
           (port_id, queue, attr, table, items, pattern, actions, action, aux,
            error))

NO_INT(rte_flow_async_destroy,
       (uint16_t port_id, uint32_t queue, const struct rte_flow_op_attr *attr,
        struct rte_flow *flow, void *aux, struct rte_flow_error *error),
       (port_id, queue, attr, flow, aux, error))

NO_INT(rte_flow_push,
       (uint16_t port_id, uint32_t queue, struct rte_flow_error *error),
       (port_id, queue, error))

NO_INT(rte_flow_pull,
       (uint16_t port_id, uint32_t queue, struct rte_flow_op_result results[],
        uint16_t n, struct rte_flow_error *error),
       (port_id, queue, results, n, error))

NO_POINTER(struct rte_flow_action_handle, rte_flow_async_action_handle_create,
           (uint16_t port_id, uint32_t queue,
            const struct rte_flow_op_attr *attr,
            const struct rte_flow_indir_action_conf *conf,
            const struct rte_flow_action *action, void *aux,
            struct rte_flow_error *error),
           (port_id, queue, attr, conf, action, aux, error))

NO_INT(rte_flow_async_action_handle_destroy,
       (uint16_t port_id, uint32_t queue, const struct rte_flow_op_attr *attr,
        struct rte_flow_action_handle *handle, void *aux,
        struct rte_flow_error *error),
       (port_id, queue, attr, handle, aux, error))

NO_INT(rte_flow_async_action_handle_update,
       (uint16_t port_id, uint32_t queue, const struct rte_flow_op_attr *attr,
        struct rte_flow_action_handle *handle, const void *update, void *aux,
        struct rte_flow_error *error),
       (port_id, queue, attr, handle, update, aux, error))

NO_INT(rte_flow_async_action_handle_query,
       (uint16_t port_id, uint32_t queue, const struct rte_flow_op_attr *attr,
        const struct rte_flow_action_handle *handle, void *data, void *aux,
        struct rte_flow_error *error),
       (port_id, queue, attr, handle, data, aux, error))

/* A port's life. */

EMU_EXPORT int
rte_eth_dev_info_get(uint16_t port_id, struct rte_eth_dev_info *info)
{
    int retval = REAL(rte_eth_dev_info_get)(port_id, info);

    /* Not emu_port_get(), which comes here. */
    if (!retval && port_id < RTE_MAX_ETHPORTS
        && emu_ports[port_id].state == EMU_PORT_CLAIMED) {
        info->nb_rx_queues = emu_ports[port_id].n_rxq;
        info->dev_capa |= RTE_ETH_DEV_CAPA_FLOW_SHARED_OBJECT_KEEP;
        info->dev_capa &= ~(uint64_t) RTE_ETH_DEV_CAPA_FLOW_RULE_KEEP;
        info->switch_info.name = "emunic";
        info->switch_info.domain_id =
            emu_ports[port_id].config.switch_domain;
        info->switch_info.port_id = port_id;
    }
    return retval;
}

EMU_EXPORT int
rte_eth_rx_metadata_negotiate(uint16_t port_id, uint64_t *features)
{
    struct emu_port *port = emu_port_get(port_id);
    int retval = REAL(rte_eth_rx_metadata_negotiate)(port_id, features);

    if (!port || retval == -EBUSY || retval == -EINVAL) {
        return retval;
    }
    *features &= RTE_ETH_RX_METADATA_USER_MARK;
    pthread_rwlock_wrlock(&port->lock);
    port->negotiated = true;
    port->metadata = *features;
    pthread_rwlock_unlock(&port->lock);
    return 0;
}

/* Do packets come to all queues that the driver has, however few of them are
 * configured?  They do not in a NIC.  (net_af_packet has a socket for each
 * queue.  The kernel chooses among them by a hash that differs each time that
 * it is booted.) */
static bool
driver_uses_all_queues(const struct rte_eth_dev_info *info)
{
    return (!strcmp(info->driver_name, "net_af_packet")
            || !strcmp(info->driver_name, "net_ring"));
}

EMU_EXPORT int
rte_eth_dev_configure(uint16_t port_id, uint16_t nb_rx_queue,
                      uint16_t nb_tx_queue, const struct rte_eth_conf *conf)
{
    struct emu_port *port = emu_port_get(port_id);
    uint16_t n_driver_rxq = nb_rx_queue;
    struct rte_eth_dev_info info;
    int retval;

    if (port && nb_rx_queue && !REAL(rte_eth_dev_info_get)(port_id, &info)
        && driver_uses_all_queues(&info)) {
        n_driver_rxq = RTE_MAX(nb_rx_queue, info.max_rx_queues);
    }
    retval = REAL(rte_eth_dev_configure)(port_id, n_driver_rxq, nb_tx_queue,
                                         conf);
    if (port && !retval) {
        /* With 0 and 0 it is DPDK that decides. */
        if (!REAL(rte_eth_dev_info_get)(port_id, &info)) {
            n_driver_rxq = info.nb_rx_queues;
            nb_tx_queue = info.nb_tx_queues;
        }
        pthread_rwlock_wrlock(&port->lock);
        port->n_rxq = nb_rx_queue ? nb_rx_queue : n_driver_rxq;
        port->n_driver_rxq = n_driver_rxq;
        port->n_txq = nb_tx_queue;
        pthread_rwlock_unlock(&port->lock);
    }
    return retval;
}

EMU_EXPORT int
rte_eth_rx_queue_setup(uint16_t port_id, uint16_t queue, uint16_t n_desc,
                       unsigned int socket, const struct rte_eth_rxconf *conf,
                       struct rte_mempool *pool)
{
    struct emu_port *port = emu_port_get(port_id);
    int retval = REAL(rte_eth_rx_queue_setup)(port_id, queue, n_desc, socket,
                                              conf, pool);

    /* What the application does not know of is set up as the first one. */
    if (port && !queue) {
        for (uint16_t i = port->n_rxq; !retval && i < port->n_driver_rxq;
             i++) {
            retval = REAL(rte_eth_rx_queue_setup)(port_id, i, n_desc, socket,
                                                  conf, pool);
        }
    }
    return retval;
}

EMU_EXPORT int
rte_eth_dev_start(uint16_t port_id)
{
    struct emu_port *port = emu_port_get(port_id);
    int retval = REAL(rte_eth_dev_start)(port_id);

    if (port && !retval) {
        emu_datapath_start(port);
    }
    return retval;
}

EMU_EXPORT int
rte_eth_dev_stop(uint16_t port_id)
{
    struct emu_port *port = emu_port_get(port_id);
    bool started = port && port->started;
    int retval;

    /* First, as other ports may be about to forward to this one. */
    if (port) {
        emu_datapath_stop(port);
    }
    retval = REAL(rte_eth_dev_stop)(port_id);
    if (retval && started) {
        emu_datapath_start(port);
    }
    return retval;
}

EMU_EXPORT int
rte_eth_dev_reset(uint16_t port_id)
{
    struct emu_port *port = emu_port_get(port_id);
    int retval = REAL(rte_eth_dev_reset)(port_id);

    /* Drivers that cannot be reset go on. */
    if (port && retval != -ENOTSUP) {
        emu_datapath_stop(port);
    }
    return retval;
}

EMU_EXPORT int
rte_eth_dev_close(uint16_t port_id)
{
    struct emu_port *port = emu_port_get(port_id);
    int retval = REAL(rte_eth_dev_close)(port_id);

    /* DPDK has told of it, while the port was still there; see
     * emu_ports_init(). */
    if (port && !retval && port->state == EMU_PORT_CLAIMED
        && !rte_eth_dev_is_valid_port(port_id)) {
        emu_port_forget(port);
    }
    return retval;
}
