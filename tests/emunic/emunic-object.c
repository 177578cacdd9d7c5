/* SPDX-License-Identifier: Apache-2.0 */

#include <config.h>

#include "emunic.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <rte_errno.h>

/* What rules and handles are called by: not addresses but numbers that are
 * never given twice, in a range where no memory is, so that a stale one is
 * found out and a dereferenced one is a crash. */
#define HANDLE_TAG UINT64_C(0x0e5a000000000000)
#define HANDLE_MASK UINT64_C(0xffff000000000000)

pthread_mutex_t emu_objects_mutex = PTHREAD_MUTEX_INITIALIZER;
_Atomic uint64_t emu_n_stale, emu_n_leaked_handles;

/* Protected by 'emu_objects_mutex'. */
static struct emu_map objects;
static size_t n_objects[RTE_MAX_ETHPORTS];

/* Returns a number that was never returned before. */
uint64_t
emu_next_id(void)
{
    static _Atomic uint64_t last;

    return atomic_fetch_add(&last, 1) + 1;
}

/* Returns the number of the rule or object behind 'handle', or 0 if it is none
 * that this NIC has ever given away. */
uint64_t
emu_handle_id(const void *handle)
{
    uint64_t value = (uintptr_t) handle;

    return (value & HANDLE_MASK) == HANDLE_TAG ? value & ~HANDLE_MASK : 0;
}

/* Returns what an application holds for the rule or object 'id'. */
void *
emu_id_handle(uint64_t id)
{
    return (void *) (uintptr_t) (HANDLE_TAG | id);
}

/* Returns a new object with one reference. */
struct emu_object *
emu_object_new(enum rte_flow_action_type type, uint16_t port)
{
    struct emu_object *object = emu_zalloc(sizeof *object);

    object->type = type;
    object->port = port;
    object->refs = 1;
    object->last_hit = emu_now();
    rte_spinlock_init(&object->lock);
    return object;
}

/* Gives one reference to 'object' back. */
void
emu_object_release(struct emu_object *object)
{
    bool last;

    pthread_mutex_lock(&emu_objects_mutex);
    last = !--object->refs;
    pthread_mutex_unlock(&emu_objects_mutex);
    if (last) {
        free(object);
    }
}

/* A rule that uses 'object' goes. */
void
emu_object_unuse(struct emu_object *object)
{
    pthread_mutex_lock(&emu_objects_mutex);
    object->n_rules--;
    pthread_mutex_unlock(&emu_objects_mutex);
    emu_object_release(object);
}

/* A rule, or an indirect action, that 'object' was made for is gone.  If it is
 * a counter, hardware needs a while before it can be used again. */
void
emu_counter_freed(const struct emu_object *object)
{
    struct emu_port *port = &emu_ports[object->port];
    uint32_t quarantine = port->config.counter_quarantine;

    if (object->type == RTE_FLOW_ACTION_TYPE_COUNT && quarantine) {
        port->counters_at = emu_now() + quarantine;
    }
}

/* Is there a counter for 'port'?  Returns 0 or a negative errno value. */
int
emu_counter_check(struct emu_port *port, struct rte_flow_error *error)
{
    if (port->config.counter_quarantine && emu_now() < port->counters_at) {
        return rte_flow_error_set(error, EAGAIN,
                                  RTE_FLOW_ERROR_TYPE_UNSPECIFIED, NULL,
                                  "the counters are not ready yet");
    }
    return 0;
}

/* Returns the indirect object behind 'handle' or NULL, which is counted for
 * 'port' as use of a stale handle unless 'quiet'.  The caller holds
 * 'emu_objects_mutex'. */
struct emu_object *
emu_object_find(uint16_t port, const void *handle, bool quiet)
{
    uint64_t id = emu_handle_id(handle);
    struct emu_node *node;

    for (node = emu_map_first(&objects, emu_hash64(id)); node && id;
         node = emu_map_next(node)) {
        struct emu_object *object = EMU_CONTAINER_OF(node, struct emu_object,
                                                     node);

        if (object->id == id) {
            return object;
        }
    }
    if (!quiet) {
        atomic_fetch_add(&emu_n_stale, 1);
        emu_count(&emu_ports[port], EMU_STALE, 1);
        emu_log("port %u: stale handle %"PRIu64" (%p)", port, id, handle);
    }
    return NULL;
}

/* Makes 'object' do what 'action' says.  Returns 0 or a negative errno
 * value. */
int
emu_object_init(struct emu_object *object, struct emu_port *port,
                const struct rte_flow_action *action,
                struct rte_flow_error *error)
{
    const struct emu_config *config = &port->config;

    switch ((int) action->type) {
    case RTE_FLOW_ACTION_TYPE_COUNT:
        if (!config->count) {
            return rte_flow_error_set(error, ENOTSUP,
                                      RTE_FLOW_ERROR_TYPE_ACTION, action,
                                      "COUNT is not supported");
        }
        return 0;

    case RTE_FLOW_ACTION_TYPE_AGE: {
        const struct rte_flow_action_age *age = action->conf;

        if (!config->age) {
            return rte_flow_error_set(error, ENOTSUP,
                                      RTE_FLOW_ERROR_TYPE_ACTION, action,
                                      "AGE is not supported");
        }
        if (!age) {
            return rte_flow_error_set(error, EINVAL,
                                      RTE_FLOW_ERROR_TYPE_ACTION_CONF, action,
                                      "AGE without a configuration");
        }
        if (age->reserved) {
            return rte_flow_error_set(error, EINVAL,
                                      RTE_FLOW_ERROR_TYPE_ACTION_CONF, age,
                                      "reserved bits of AGE are set");
        }
        if (!age->timeout) {
            return rte_flow_error_set(error, EINVAL,
                                      RTE_FLOW_ERROR_TYPE_ACTION_CONF, age,
                                      "AGE with a timeout of 0");
        }
        object->timeout = age->timeout;
        object->context = age->context;
        return 0;
    }

    case RTE_FLOW_ACTION_TYPE_CONNTRACK:
        if (!config->conntrack) {
            return rte_flow_error_set(error, ENOTSUP,
                                      RTE_FLOW_ERROR_TYPE_ACTION, action,
                                      "CONNTRACK is not supported");
        }
        if (!action->conf) {
            return rte_flow_error_set(error, EINVAL,
                                      RTE_FLOW_ERROR_TYPE_ACTION_CONF, action,
                                      "CONNTRACK without a configuration");
        }
        object->ct = *(const struct rte_flow_action_conntrack *) action->conf;
        return emu_ct_check(&object->ct, error, action->conf);

    default:
        return rte_flow_error_set(error, ENOTSUP, RTE_FLOW_ERROR_TYPE_ACTION,
                                  action,
                                  "this action cannot be indirect");
    }
}

/* rte_flow_action_handle_create(), for 'port'. */
struct rte_flow_action_handle *
emu_handle_create(struct emu_port *port,
                  const struct rte_flow_indir_action_conf *conf,
                  const struct rte_flow_action *action,
                  struct rte_flow_error *error)
{
    struct emu_object *object;

    if (!conf || !action) {
        rte_flow_error_set(error, EINVAL, RTE_FLOW_ERROR_TYPE_UNSPECIFIED,
                           NULL, "no configuration or no action");
        return NULL;
    }
    if (!conf->ingress && !conf->egress && !conf->transfer) {
        rte_flow_error_set(error, EINVAL, RTE_FLOW_ERROR_TYPE_ACTION_CONF,
                           conf, "valid for no kind of rule");
        return NULL;
    }
    if (!conf->ingress && !conf->transfer) {
        rte_flow_error_set(error, ENOTSUP, RTE_FLOW_ERROR_TYPE_ACTION_CONF,
                           conf, "egress is not supported");
        return NULL;
    }
    if (conf->transfer && !port->config.transfer) {
        rte_flow_error_set(error, ENOTSUP, RTE_FLOW_ERROR_TYPE_ACTION_CONF,
                           conf, "transfer is not supported");
        return NULL;
    }
    if (emu_objects_count(port->id) >= port->config.max_handles) {
        rte_flow_error_set(error, ENOSPC, RTE_FLOW_ERROR_TYPE_UNSPECIFIED,
                           NULL, "the table of indirect actions is full");
        return NULL;
    }
    if (action->type == RTE_FLOW_ACTION_TYPE_COUNT
        && emu_counter_check(port, error)) {
        return NULL;
    }

    object = emu_object_new(action->type, port->id);
    object->transfer = conf->transfer;
    object->ingress = conf->ingress;
    if (emu_object_init(object, port, action, error)) {
        free(object);
        return NULL;
    }
    object->id = emu_next_id();
    pthread_mutex_lock(&emu_objects_mutex);
    emu_map_insert(&objects, &object->node, emu_hash64(object->id));
    n_objects[port->id]++;
    pthread_mutex_unlock(&emu_objects_mutex);
    return emu_id_handle(object->id);
}

/* Returns the object behind 'handle' with a reference for the caller, or NULL
 * after setting 'error'. */
static struct emu_object *
object_get(struct emu_port *port, const void *handle,
           struct rte_flow_error *error)
{
    struct emu_object *object;

    pthread_mutex_lock(&emu_objects_mutex);
    object = emu_object_find(port->id, handle, false);
    if (!object) {
        rte_flow_error_set(error, ENOENT, RTE_FLOW_ERROR_TYPE_HANDLE, handle,
                           "no such indirect action");
    } else if (object->port != port->id) {
        rte_flow_error_set(error, EACCES, RTE_FLOW_ERROR_TYPE_HANDLE, handle,
                           "the indirect action belongs to another port");
        object = NULL;
    } else {
        object->refs++;
    }
    pthread_mutex_unlock(&emu_objects_mutex);
    return object;
}

/* rte_flow_action_handle_destroy(), for 'port'. */
int
emu_handle_destroy(struct emu_port *port,
                   struct rte_flow_action_handle *handle,
                   struct rte_flow_error *error)
{
    struct emu_object *object = object_get(port, handle, error);
    bool busy;

    if (!object) {
        return -rte_errno;
    }
    pthread_mutex_lock(&emu_objects_mutex);
    busy = object->n_rules != 0;
    if (!busy) {
        emu_map_remove(&objects, &object->node);
        n_objects[port->id]--;
        object->refs--;
        emu_counter_freed(object);
    }
    pthread_mutex_unlock(&emu_objects_mutex);
    emu_object_release(object);
    return busy ? rte_flow_error_set(error, EBUSY, RTE_FLOW_ERROR_TYPE_HANDLE,
                                     handle, "a rule uses the indirect action")
                : 0;
}

static int
ct_update(struct emu_object *object,
          const struct rte_flow_modify_conntrack *update,
          struct rte_flow_error *error)
{
    int retval = 0;

    if (update->reserved) {
        return rte_flow_error_set(error, EINVAL,
                                  RTE_FLOW_ERROR_TYPE_ACTION_CONF, update,
                                  "reserved bits of the update are set");
    }
    if (!update->direction && !update->state) {
        return rte_flow_error_set(error, EINVAL,
                                  RTE_FLOW_ERROR_TYPE_ACTION_CONF, update,
                                  "neither direction nor state to update");
    }
    if (update->state) {
        retval = emu_ct_check(&update->new_ct, error, update);
        if (retval) {
            return retval;
        }
    }
    rte_spinlock_lock(&object->lock);
    if (update->state) {
        uint32_t original = object->ct.is_original_dir;

        object->ct = update->new_ct;
        object->ct.is_original_dir = original;
        object->n_retransmissions = 0;
        object->closed = false;
    }
    if (update->direction) {
        object->ct.is_original_dir = update->new_ct.is_original_dir;
    }
    rte_spinlock_unlock(&object->lock);
    return 0;
}

static int
age_update(struct emu_object *object,
           const struct rte_flow_update_age *update,
           struct rte_flow_error *error)
{
    if (update->reserved) {
        return rte_flow_error_set(error, EINVAL,
                                  RTE_FLOW_ERROR_TYPE_ACTION_CONF, update,
                                  "reserved bits of the update are set");
    }
    if (update->timeout_valid) {
        if (!object->timeout) {
            object->last_hit = emu_now();
        }
        object->timeout = update->timeout;
        object->aged_out = false;
    }
    if (update->touch) {
        object->last_hit = emu_now();
        object->aged_out = false;
    }
    return 0;
}

/* rte_flow_action_handle_update(), for 'port'. */
int
emu_handle_update(struct emu_port *port,
                  struct rte_flow_action_handle *handle, const void *update,
                  struct rte_flow_error *error)
{
    struct emu_object *object = object_get(port, handle, error);
    int retval;

    if (!object) {
        return -rte_errno;
    }
    if (!update) {
        retval = rte_flow_error_set(error, EINVAL,
                                    RTE_FLOW_ERROR_TYPE_ACTION_CONF, NULL,
                                    "nothing to update with");
    } else if (object->type == RTE_FLOW_ACTION_TYPE_CONNTRACK) {
        retval = ct_update(object, update, error);
    } else if (object->type == RTE_FLOW_ACTION_TYPE_AGE) {
        retval = age_update(object, update, error);
    } else {
        retval = rte_flow_error_set(error, ENOTSUP,
                                    RTE_FLOW_ERROR_TYPE_ACTION, handle,
                                    "this action cannot be updated");
    }
    emu_object_release(object);
    return retval;
}

/* Says whether the timeout of the AGE object 'object' has passed. */
bool
emu_object_aged(const struct emu_object *object)
{
    return object->timeout
           && emu_now() - object->last_hit >= object->timeout * UINT64_C(1000);
}

/* Stores in '*data' what 'object' knows.  Returns 0 or a negative errno
 * value. */
int
emu_object_query(struct emu_object *object, const void *cause, void *data,
                 struct rte_flow_error *error)
{
    if (!data) {
        return rte_flow_error_set(error, EINVAL,
                                  RTE_FLOW_ERROR_TYPE_UNSPECIFIED, cause,
                                  "no memory for the answer");
    }
    if (object->type == RTE_FLOW_ACTION_TYPE_COUNT) {
        struct rte_flow_query_count *count = data;

        if (count->reserved) {
            return rte_flow_error_set(error, EINVAL,
                                      RTE_FLOW_ERROR_TYPE_UNSPECIFIED, cause,
                                      "reserved bits of the query are set");
        }
        count->hits_set = count->bytes_set = 1;
        if (count->reset) {
            count->hits = atomic_exchange(&object->hits, 0);
            count->bytes = atomic_exchange(&object->bytes, 0);
        } else {
            count->hits = object->hits;
            count->bytes = object->bytes;
        }
    } else if (object->type == RTE_FLOW_ACTION_TYPE_AGE) {
        struct rte_flow_query_age *age = data;

        memset(age, 0, sizeof *age);
        age->aged = emu_object_aged(object);
        age->sec_since_last_hit_valid = !age->aged;
        if (!age->aged) {
            age->sec_since_last_hit = (emu_now() - object->last_hit) / 1000;
        }
    } else {
        struct rte_flow_action_conntrack *ct = data;

        rte_spinlock_lock(&object->lock);
        *ct = object->ct;
        rte_spinlock_unlock(&object->lock);
    }
    return 0;
}

/* rte_flow_action_handle_query(), for 'port'. */
int
emu_handle_query(struct emu_port *port,
                 const struct rte_flow_action_handle *handle, void *data,
                 struct rte_flow_error *error)
{
    struct emu_object *object = object_get(port, handle, error);
    int retval;

    if (!object) {
        return -rte_errno;
    }
    retval = emu_object_query(object, handle, data, error);
    emu_object_release(object);
    return retval;
}

static int
compare_objects(const void *a_, const void *b_)
{
    const struct emu_object *a = *(struct emu_object *const *) a_;
    const struct emu_object *b = *(struct emu_object *const *) b_;

    return a->id < b->id ? -1 : a->id > b->id;
}

/* Stores in '*list' the indirect objects of 'port' in the order in which they
 * were created and returns their number.  The caller gives back the references
 * and frees '*list'. */
size_t
emu_objects_list(uint16_t port, struct emu_object ***list)
{
    size_t n = 0;

    pthread_mutex_lock(&emu_objects_mutex);
    *list = emu_zalloc((objects.n + 1) * sizeof **list);
    for (struct emu_node *node = emu_map_any(&objects, NULL); node;
         node = emu_map_any(&objects, node)) {
        struct emu_object *object = EMU_CONTAINER_OF(node, struct emu_object,
                                                     node);

        if (object->port == port) {
            object->refs++;
            (*list)[n++] = object;
        }
    }
    pthread_mutex_unlock(&emu_objects_mutex);
    qsort(*list, n, sizeof **list, compare_objects);
    return n;
}

/* Returns the number of indirect objects of 'port'. */
size_t
emu_objects_count(uint16_t port)
{
    size_t n;

    pthread_mutex_lock(&emu_objects_mutex);
    n = n_objects[port];
    pthread_mutex_unlock(&emu_objects_mutex);
    return n;
}

/* Destroys the indirect objects of 'port' and returns how many there were.
 * Rules of other ports that use one keep its memory, but it does nothing any
 * more. */
size_t
emu_objects_close(uint16_t port)
{
    struct emu_object **list;
    size_t n = emu_objects_list(port, &list);

    for (size_t i = 0; i < n; i++) {
        pthread_mutex_lock(&emu_objects_mutex);
        emu_map_remove(&objects, &list[i]->node);
        n_objects[port]--;
        list[i]->dead = true;
        pthread_mutex_unlock(&emu_objects_mutex);
        emu_object_release(list[i]);
        emu_object_release(list[i]);
    }
    free(list);
    return n;
}
