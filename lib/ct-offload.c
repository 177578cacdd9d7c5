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

#include "ct-offload-private.h"

#include <errno.h>

#include "coverage.h"
#include "ct-offload-stats.h"
#include "dpif-offload-provider.h"
#include "netdev-provider.h"
#include "openvswitch/dynamic-string.h"
#include "openvswitch/usdt-probes.h"
#include "openvswitch/vlog.h"
#include "ovs-rcu.h"
#include "ovs-thread.h"
#include "util.h"

VLOG_DEFINE_THIS_MODULE(ct_offload);

COVERAGE_DEFINE(ct_offload_add);
COVERAGE_DEFINE(ct_offload_add_error);
COVERAGE_DEFINE(ct_offload_del);
COVERAGE_DEFINE(ct_offload_est);
COVERAGE_DEFINE(ct_offload_est_error);
COVERAGE_DEFINE(ct_offload_upd);

static struct vlog_rate_limit rl = VLOG_RATE_LIMIT_INIT(5, 5);

/* A provider that is registered. */
struct provider {
    const struct ct_offload_class *class;
    unsigned int slot;          /* Index in 'providers'. */
    atomic_bool leaving;        /* Being unregistered: accepts no ADD. */
};

/* Readers follow the pointers under RCU, writers hold 'registry_mutex'.  That
 * is never held while waiting for a callback to end. */
static struct ovs_mutex registry_mutex = OVS_MUTEX_INITIALIZER;
static OVSRCU_TYPE(struct provider *) providers[CT_OFFLOAD_MAX_PROVIDERS];

/* Is there any provider, and may it hold connections? */
atomic_bool ct_offload_active = false;

/* Slots of the providers that accept new connections, as a bit for each: those
 * that want any connection, and those that set 'established_only'. */
static atomic_uint8_t accepting_any = 0;
static atomic_uint8_t accepting_established = 0;

/* The same for those of them that make paths. */
static atomic_uint8_t forwarding = 0;

/* Are the built-in providers being unregistered because the program ends? */
static atomic_bool exiting = false;

/* Slots of those that are not thread-safe, and of those that are, as a bit for
 * each. */
static atomic_uint serial_slots = 0;
static atomic_uint safe_slots = 0;

/* Configuration: "hw-offload-ct" and "hw-offload-ct-size", and
 * "hw-offload-ct-bypass". */
static bool config_enabled OVS_GUARDED_BY(registry_mutex) = true;
static bool config_forward OVS_GUARDED_BY(registry_mutex) = true;
static atomic_bool config_bypass = false;

/* Serialises the callbacks of all providers that are not thread-safe. */
static struct ovs_mutex ct_offload_mutex = OVS_MUTEX_INITIALIZER;

/* What a thread is doing. */
struct dispatch {
    unsigned int depth;         /* Callbacks that it is in. */
    enum ct_offload_reason reason; /* Set by ct_offload_refuse(). */
};
DEFINE_STATIC_PER_THREAD_DATA(struct dispatch, dispatch, { 0, 0 });

/* Registry. */

static struct provider *
provider_get(size_t slot)
{
    return ovsrcu_get(struct provider *, &providers[slot]);
}

static bool
provider_is_leaving(struct provider *p)
{
    bool leaving;

    atomic_read_relaxed(&p->leaving, &leaving);
    return leaving;
}

/* Before and after calls into 'p', or none if it is thread-safe. */
static void
provider_lock(struct provider *p)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    if (!p->class->thread_safe) {
        ovs_mutex_lock(&ct_offload_mutex);
    }
}

static void
provider_unlock(struct provider *p)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    if (!p->class->thread_safe) {
        ovs_mutex_unlock(&ct_offload_mutex);
    }
}

/* Like provider_lock(), but returns false if another thread is in a callback
 * that takes long. */
static bool
provider_trylock(struct provider *p)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    if (p->class->thread_safe) {
        return true;
    }
    for (int i = 0; i < 100; i++) {
        if (!ovs_mutex_trylock(&ct_offload_mutex)) {
            return true;
        }
        xnanosleep_no_quiesce(1000 * 1000);
    }
    return false;
}

static struct provider *
provider_find(const char *name)
    OVS_REQUIRES(registry_mutex)
{
    for (size_t i = 0; i < CT_OFFLOAD_MAX_PROVIDERS; i++) {
        struct provider *p = provider_get(i);

        if (p && !strcmp(p->class->name, name)) {
            return p;
        }
    }
    return NULL;
}

/* Tells everyone else what has changed in the registry or the configuration.
 * 'holding' if connections may still be held that will not be any more. */
static void
registry_changed(bool holding)
    OVS_REQUIRES(registry_mutex)
{
    uint8_t any = 0, established = 0, forward = 0;
    unsigned int serial = 0, safe = 0;

    for (size_t i = 0; i < CT_OFFLOAD_MAX_PROVIDERS; i++) {
        struct provider *p = provider_get(i);

        if (p && !provider_is_leaving(p)) {
            *(p->class->established_only ? &established : &any) |= 1u << i;
            forward |= p->class->path_add && config_forward ? 1u << i : 0;
        }
        if (p) {
            *(p->class->thread_safe ? &safe : &serial) |= 1u << i;
        }
    }
    if (!config_enabled) {
        any = established = forward = 0;
    }

    atomic_store_relaxed(&serial_slots, serial);
    atomic_store_relaxed(&safe_slots, safe);
    atomic_store_relaxed(&accepting_any, any);
    atomic_store_relaxed(&accepting_established, established);
    atomic_store_relaxed(&forwarding, forward);
    atomic_store_relaxed(&ct_offload_active, any || established || holding);
}

static int
register__(const struct ct_offload_class *class)
    OVS_REQUIRES(registry_mutex)
{
    struct provider *p;
    size_t slot = 0;
    int error;

    if (provider_find(class->name)) {
        VLOG_WARN("%s: a conntrack offload provider of this name is "
                  "registered already", class->name);
        return EEXIST;
    }
    while (slot < CT_OFFLOAD_MAX_PROVIDERS && provider_get(slot)) {
        slot++;
    }
    if (slot >= CT_OFFLOAD_MAX_PROVIDERS) {
        VLOG_WARN("%s: cannot register more than %d conntrack offload "
                  "providers", class->name, CT_OFFLOAD_MAX_PROVIDERS);
        return ENOSPC;
    }

    error = class->init ? class->init() : 0;
    if (error) {
        VLOG_WARN("%s: conntrack offload provider does not initialize: %s",
                  class->name, ovs_strerror(error));
        return error;
    }

    p = xmalloc(sizeof *p);
    p->class = class;
    p->slot = slot;
    atomic_init(&p->leaving, false);
    ct_offload_stats_clear_slot(slot);
    ovsrcu_set(&providers[slot], p);
    registry_changed(false);
    VLOG_DBG("%s: conntrack offload provider registered", class->name);
    return 0;
}

/* Registers 'class', which must stay valid until it is unregistered.  From now
 * on it is offered each connection that is committed.  Returns 0 if
 * successful, otherwise a positive errno value: EEXIST if a provider of its
 * name is registered, ENOSPC if there are too many, or what its 'init'
 * returned. */
int
ct_offload_register(const struct ct_offload_class *class)
{
    int error;

    ovs_assert(class->conn_add && class->conn_del && class->can_offload);
    ovs_assert(!class->path_add || (class->path_del && class->path_stats
                                    && class->can_forward));

    ovs_mutex_lock(&registry_mutex);
    error = register__(class);
    ovs_mutex_unlock(&registry_mutex);

    return error;
}

/* Has those who offer connections take them back, at the time of the call: see
 * ct_offload_set_take_back(). */
static void (*take_back_cb)(uint8_t leaving);

static void
take_back(uint8_t leaving)
{
    if (take_back_cb) {
        take_back_cb(leaving);
    }
}

/* From now on, 'cb' is called to take all connections from the providers, or,
 * if 'leaving' is not 0, from those in it, as a bit for each slot.  When it
 * returns, these must hold nothing.  It may quiesce.  Called once, before any
 * connection can be offered. */
void
ct_offload_set_take_back(void (*cb)(uint8_t leaving))
{
    take_back_cb = cb;
}

/* Unregisters 'class'.  When this returns, no callback of it is running or
 * will run, everything that it still held has been deleted from it, and its
 * 'exit' was called.
 *
 * Waits for all threads to quiesce (see ovs-rcu.h): the caller must not hold
 * any lock, or a pointer that is protected by RCU. */
void
ct_offload_unregister(const struct ct_offload_class *class)
{
    struct provider *p;

    if (dispatch_get()->depth) {
        VLOG_ERR("%s: cannot unregister a conntrack offload provider from a "
                 "callback", class->name);
        return;
    }

    ovs_mutex_lock(&registry_mutex);
    p = provider_find(class->name);
    if (!p || p->class != class || provider_is_leaving(p)) {
        ovs_mutex_unlock(&registry_mutex);
        VLOG_WARN("%s: conntrack offload provider is not registered",
                  class->name);
        return;
    }
    atomic_store_relaxed(&p->leaving, true);
    registry_changed(true);
    ovs_mutex_unlock(&registry_mutex);

    /* Every thread that might not have seen that 'p' is leaving ends what it
     * is doing. */
    ovsrcu_synchronize();
    take_back(1u << p->slot);
    ovsrcu_synchronize();

    /* Nobody holds anything of 'p' any more, so nobody calls it. */
    ovs_mutex_lock(&registry_mutex);
    ovsrcu_set(&providers[p->slot], NULL);
    registry_changed(ct_offload_leaving());
    ovs_mutex_unlock(&registry_mutex);
    ovsrcu_synchronize();

    if (class->exit) {
        class->exit();
    }
    free(p);
    VLOG_DBG("%s: conntrack offload provider unregistered", class->name);
}

/* Returns the providers that are being unregistered, as a bit for each slot.
 */
uint8_t
ct_offload_leaving(void)
{
    uint8_t leaving = 0;

    for (size_t i = 0; i < CT_OFFLOAD_MAX_PROVIDERS; i++) {
        struct provider *p = provider_get(i);

        if (p && provider_is_leaving(p)) {
            leaving |= 1u << i;
        }
    }
    return leaving;
}

/* Returns the providers that accept new connections, as a bit for each slot:
 * those that set 'established_only', or the others. */
uint8_t
ct_offload_accepting(bool established_only)
{
    uint8_t slots;

    atomic_read_relaxed(established_only ? &accepting_established
                        : &accepting_any, &slots);
    return slots;
}

/* Does any provider accept new connections? */
bool
ct_offload_is_accepting(void)
{
    return ct_offload_accepting(false) || ct_offload_accepting(true);
}

/* Is the program about to end?  What becomes of connections does not matter
 * then. */
bool
ct_offload_is_exiting(void)
{
    bool exits;

    atomic_read_relaxed(&exiting, &exits);
    return exits;
}

/* Is 'class' registered? */
bool
ct_offload_is_registered(const struct ct_offload_class *class)
{
    struct provider *p;

    ovs_mutex_lock(&registry_mutex);
    p = provider_find(class->name);
    ovs_mutex_unlock(&registry_mutex);
    return p && p->class == class;
}

/* Has 'class', if it is registered, accept no connections any more, because
 * the program is about to end. */
void
ct_offload_set_leaving(const struct ct_offload_class *class)
{
    struct provider *p;

    ovs_mutex_lock(&registry_mutex);
    p = provider_find(class->name);
    if (p && p->class == class) {
        atomic_store_relaxed(&p->leaving, true);
        registry_changed(true);
    }
    ovs_mutex_unlock(&registry_mutex);
}

/* The program is about to end. */
void
ct_offload_set_exiting(void)
{
    atomic_store_relaxed(&exiting, true);
}

/* Lets providers accept connections, or not, and says whether packets may
 * bypass software whatever the providers say.  What they hold that they should
 * not hold then is taken back.  Only for the main thread, which must not hold
 * a pointer that is protected by RCU. */
void
ct_offload_configure(bool enabled, bool bypass)
{
    bool was_accepting = ct_offload_is_accepting();
    bool was_bypass = ct_offload_config_bypass();

    ovs_mutex_lock(&registry_mutex);
    config_enabled = enabled;
    atomic_store_relaxed(&config_bypass, bypass);
    registry_changed(was_accepting);
    ovs_mutex_unlock(&registry_mutex);

    if (was_accepting
        && (!ct_offload_is_accepting() || bypass != was_bypass)) {
        take_back(0);

        ovs_mutex_lock(&registry_mutex);
        registry_changed(false);
        ovs_mutex_unlock(&registry_mutex);
    }
}

/* Has the providers forget 'netdev', no connection of which they hold. */
void
ct_offload_providers_netdev_flush(struct netdev *netdev)
{
    for (size_t i = 0; i < CT_OFFLOAD_MAX_PROVIDERS; i++) {
        struct provider *p = provider_get(i);

        if (p && p->class->netdev_flush) {
            provider_lock(p);
            p->class->netdev_flush(netdev);
            provider_unlock(p);
        }
    }
}

/* If there is a provider in 'slot', returns its class, with '*leaving' set to
 * whether it is being unregistered.  Otherwise returns NULL. */
const struct ct_offload_class *
ct_offload_provider_get(size_t slot, bool *leaving)
{
    struct provider *p = provider_get(slot);

    *leaving = p && provider_is_leaving(p);
    return p ? p->class : NULL;
}

/* Has the provider in 'slot' say what there is to know about it, in 'ds' or
 * 'json'.  Returns false if another thread is in a callback for long. */
bool
ct_offload_provider_get_debug(size_t slot, struct ds *ds, struct json *json)
{
    struct provider *p = provider_get(slot);

    if (!p || !p->class->get_debug) {
        return true;
    }
    if (!provider_trylock(p)) {
        return false;
    }
    p->class->get_debug(ds, json);
    provider_unlock(p);
    return true;
}

/* Appends to 'ds' what the providers 'held' say of 'conn', which they hold and
 * the calling thread owns.  'priv' has their pointers. */
void
ct_offload_format_held(const struct conn *conn, uint8_t held, void **priv,
                       struct ds *ds)
{
    for (size_t i = 0; i < CT_OFFLOAD_MAX_PROVIDERS; i++) {
        struct provider *p = provider_get(i);

        if (p && held & (1u << i)) {
            struct ct_offload_ctx ctx = { .conn = conn, .priv = &priv[i] };

            ds_put_format(ds, "  %s", p->class->name);
            if (p->class->conn_format && provider_trylock(p)) {
                ds_put_cstr(ds, ": ");
                p->class->conn_format(&ctx, ds);
                provider_unlock(p);
            }
            ds_put_char(ds, '\n');
        }
    }
}

/* May packets of a connection that is established in the providers 'held'
 * bypass software?  The operator may know that they do when a provider does
 * not. */
bool
ct_offload_may_bypass(uint8_t held)
{
    bool bypass;

    atomic_read_relaxed(&config_bypass, &bypass);
    if (bypass && held) {
        return true;
    }
    for (size_t i = 0; i < CT_OFFLOAD_MAX_PROVIDERS; i++) {
        struct provider *p = provider_get(i);

        if (p && held & (1u << i) && p->class->may_bypass) {
            return true;
        }
    }
    return false;
}

/* Paths. */

/* Returns the providers that make new paths, as a bit for each slot. */
uint8_t
ct_offload_forwarding(void)
{
    uint8_t slots;

    atomic_read_relaxed(&forwarding, &slots);
    return slots;
}

/* Has providers make paths, or not.  Returns true if that is a change.  For
 * the main thread. */
bool
ct_offload_set_forwarding(bool on)
{
    bool active, changed;

    ovs_mutex_lock(&registry_mutex);
    changed = on != config_forward;
    config_forward = on;
    atomic_read_relaxed(&ct_offload_active, &active);
    registry_changed(active);
    ovs_mutex_unlock(&registry_mutex);
    return changed;
}

/* Does one of the providers in 'slots' make paths for what 'netdev_in', which
 * may be NULL, receives? */
bool
ct_offload_can_forward(uint8_t slots, const struct netdev *netdev_in)
{
    for (unsigned int i = slots; i && netdev_in; i = zero_rightmost_1bit(i)) {
        struct provider *p = provider_get(raw_ctz(i));

        if (p && p->class->can_forward && p->class->can_forward(netdev_in)) {
            return true;
        }
    }
    return false;
}

/* Has the provider in 'slot', which holds the connections of 'path', make it.
 * Returns 0, with the provider's own in '*priv', or a positive errno value. */
int
ct_offload_path_add(unsigned int slot, const struct ct_offload_path *path,
                    void **priv)
{
    struct provider *p = provider_get(slot);
    int error;

    if (!p || provider_is_leaving(p)) {
        return ENODEV;
    }
    if (path->fence && !p->class->fences) {
        return EOPNOTSUPP;
    }
    provider_lock(p);
    error = p->class->path_add(path, priv);
    provider_unlock(p);
    return error;
}

/* Has the provider in 'slot' give a path up, and say in '*last' what it has
 * counted in all. */
void
ct_offload_path_del(unsigned int slot, void **priv,
                    struct dpif_flow_stats *last)
{
    struct provider *p = provider_get(slot);

    provider_lock(p);
    p->class->path_del(priv, last);
    provider_unlock(p);
}

/* Stores in '*total' what the provider in 'slot' has counted of a path.
 * Returns 0 or a positive errno value. */
int
ct_offload_path_stats(unsigned int slot, void **priv,
                      struct dpif_flow_stats *total)
{
    struct provider *p = provider_get(slot);
    int error;

    provider_lock(p);
    error = p->class->path_stats(priv, total);
    provider_unlock(p);
    return error;
}

/* Does other_config:hw-offload-ct-bypass say that hardware forwards packets of
 * offloaded connections by itself?  For any thread. */
bool
ct_offload_config_bypass(void)
{
    bool bypass;

    atomic_read_relaxed(&config_bypass, &bypass);
    return bypass;
}

/* Does other_config:hw-offload-ct-forward say that providers are to make
 * paths?  For any thread. */
bool
ct_offload_config_forward(void)
{
    return ct_offload_forwarding() != 0;
}

/* For a provider's 'can_offload': remembers 'reason' for the connection in
 * question, and returns false. */
bool
ct_offload_refuse(enum ct_offload_reason reason)
{
    dispatch_get()->reason = reason;
    return false;
}

/* Returns the name of the dpif-offload class that owns 'netdev', or NULL if
 * 'netdev' is NULL or nobody owns it. */
const char *
ct_offload_netdev_owner(const struct netdev *netdev)
{
    const struct dpif_offload *offload;

    if (!netdev) {
        return NULL;
    }
    offload = ovsrcu_get(const struct dpif_offload *,
                         &CONST_CAST(struct netdev *, netdev)->dpif_offload);
    return offload ? dpif_offload_type(offload) : NULL;
}

/* Dispatch. */

static void
log_error(const struct provider *p, const struct ct_offload_op *op, int error)
{
    if (!VLOG_DROP_WARN(&rl)) {
        struct ds ds = DS_EMPTY_INITIALIZER;

        ct_offload_conn_format(op->ctx.conn, &ds);
        VLOG_WARN("%s: port %s: cannot offload connection %s: %s",
                  p->class->name,
                  op->ctx.netdev_in ? netdev_get_name(op->ctx.netdev_in)
                                    : "unknown",
                  ds_cstr(&ds), ovs_strerror(error));
        ds_destroy(&ds);
    }
}

/* Gives 'op' the result that it has when no provider does anything. */
void
ct_offload_op_preset(struct ct_offload_op *op)
{
    static const int errors[CT_OFFLOAD_N_OPS] = {
        [CT_OFFLOAD_OP_UPD] = ENODATA,
        [CT_OFFLOAD_OP_POLICY] = EPERM,
    };

    op->last_used = 0;
    op->error = op->type < CT_OFFLOAD_N_OPS ? errors[op->type] : EINVAL;
}

/* Prepares 't' for 'p': what it is given in a callback. */
static void
task_prepare(struct ct_offload_task *t, const struct provider *p)
{
    t->uni_dir = false;
    t->op.ctx.uni_dir = &t->uni_dir;
    t->op.ctx.priv = t->priv ? &t->priv[p->slot] : NULL;
}

/* Is 't' a matter for 'p'? */
static inline ALWAYS_INLINE bool
task_is_for(struct ct_offload_task *t, struct provider *p)
{
    unsigned int slot = 1u << p->slot;

    switch (t->op.type) {
    case CT_OFFLOAD_OP_ADD:
        if (t->held & slot || provider_is_leaving(p)
            || !ct_offload_is_accepting()) {
            return false;
        }
        if (p->class->established_only && !t->established) {
            t->reason = t->reason ? t->reason : CT_OFFLOAD_NOT_ESTABLISHED;
            return false;
        }
        dispatch_get()->reason = CT_OFFLOAD_REFUSED;
        if (!p->class->can_offload(&t->op.ctx)) {
            t->reason = dispatch_get()->reason;
            return false;
        }
        return true;

    case CT_OFFLOAD_OP_EST:
        return t->held & ~t->est & slot;

    case CT_OFFLOAD_OP_DEL:
    case CT_OFFLOAD_OP_UPD:
        return t->held & slot;

    case CT_OFFLOAD_OP_POLICY:
    case CT_OFFLOAD_OP_FLUSH:
        return !provider_is_leaving(p);

    default:
        return false;
    }
}

/* 'p' does not hold the connection of 't' any more. */
static void
task_unhold(struct ct_offload_task *t, const struct provider *p,
          struct ct_offload_stats *stats)
{
    t->held &= ~(1u << p->slot);
    t->est &= ~(1u << p->slot);
    if (t->priv) {
        t->priv[p->slot] = NULL;
    }
    ct_offload_stats_add(&stats->n_held[p->slot], -1);
}

/* 'p' has failed to do its part of 't', with 'error'. */
static void
task_failed(struct ct_offload_task *t, const struct provider *p, int error)
{
    log_error(p, &t->op, error);
    t->reason = CT_OFFLOAD_ERROR;
    if (t->priv) {
        t->priv[p->slot] = NULL;
    }
}

/* 'p' has done its part of 't', with the result 'error' and, for UPD,
 * 'last_used': combines that with what other providers have done. */
static inline ALWAYS_INLINE void
task_merge(struct ct_offload_task *t, const struct provider *p,
         struct ct_offload_stats *stats, int error, long long int last_used)
{
    struct ct_offload_op_stats *op_stats = &stats->ops[p->slot][t->op.type];

    OVS_USDT_PROBE(ct_offload, op, p->class->name, t->op.type, t->op.ctx.conn,
                   error);
    ct_offload_stats_add(&op_stats->total, 1);
    if (OVS_UNLIKELY(error)) {
        ct_offload_stats_add(&op_stats->errors, 1);
    }

    switch (t->op.type) {
    case CT_OFFLOAD_OP_ADD:
        COVERAGE_INC(ct_offload_add);
        if (!error) {
            t->held |= 1u << p->slot;
            ct_offload_stats_add(&stats->n_held[p->slot], 1);
            break;
        }
        COVERAGE_INC(ct_offload_add_error);
        task_failed(t, p, error);
        t->op.error = t->op.error ? t->op.error : error;
        break;

    case CT_OFFLOAD_OP_DEL:
        COVERAGE_INC(ct_offload_del);
        task_unhold(t, p, stats);
        break;

    case CT_OFFLOAD_OP_EST:
        COVERAGE_INC(ct_offload_est);
        if (!error) {
            t->est |= 1u << p->slot;
            t->uni |= t->uni_dir ? 1u << p->slot : 0;
            break;
        }
        COVERAGE_INC(ct_offload_est_error);
        task_failed(t, p, error);
        task_unhold(t, p, stats);
        break;

    case CT_OFFLOAD_OP_UPD:
        COVERAGE_INC(ct_offload_upd);
        if (!error && last_used) {
            t->op.error = 0;
            t->op.last_used = MAX(t->op.last_used, last_used);
        }
        break;

    case CT_OFFLOAD_OP_POLICY:
        t->op.error = error ? t->op.error : 0;
        break;

    case CT_OFFLOAD_OP_FLUSH:
    default:
        break;
    }
}

/* Has 'p' do its part of 't', if it has one, by the callback for it. */
static inline ALWAYS_INLINE void
provider_do(struct provider *p, struct ct_offload_task *t,
            struct ct_offload_stats *stats)
{
    const struct ct_offload_class *class = p->class;
    const struct ct_offload_ctx *ctx = &t->op.ctx;
    long long int last_used = 0;
    int error = 0;

    task_prepare(t, p);
    if (!task_is_for(t, p)) {
        return;
    }
    switch (t->op.type) {
    case CT_OFFLOAD_OP_ADD:
        error = class->conn_add(ctx);
        break;
    case CT_OFFLOAD_OP_DEL:
        class->conn_del(ctx);
        break;
    case CT_OFFLOAD_OP_EST:
        error = class->conn_established ? class->conn_established(ctx) : 0;
        break;
    case CT_OFFLOAD_OP_UPD:
        last_used = class->conn_update ? class->conn_update(ctx) : 0;
        error = last_used ? 0 : ENODATA;
        break;
    case CT_OFFLOAD_OP_POLICY:
        error = class->can_offload(ctx) ? 0 : EPERM;
        break;
    case CT_OFFLOAD_OP_FLUSH:
        if (class->flush) {
            class->flush();
        }
        break;
    default:
        break;
    }
    task_merge(t, p, stats, error, last_used);
}

/* Has 'p' do its part of the 'n' tasks in 'tasks', at most
 * CT_OFFLOAD_BATCH_INLINE, by its 'batch_submit'. */
static void
provider_do_batch(struct provider *p, struct ct_offload_task *tasks, size_t n,
                  struct ct_offload_stats *stats)
{
    struct ct_offload_task *origin[CT_OFFLOAD_BATCH_INLINE];
    struct ct_offload_op_batch batch;
    struct ct_offload_op *op;

    ct_offload_op_batch_init(&batch);
    for (size_t i = 0; i < n; i++) {
        struct ct_offload_task *t = &tasks[i];

        if (t->op.type == CT_OFFLOAD_OP_POLICY
            || t->op.type == CT_OFFLOAD_OP_FLUSH) {
            provider_do(p, t, stats);
            continue;
        }
        task_prepare(t, p);
        if (task_is_for(t, p)) {
            origin[batch.n_ops] = t;
            batch.ops[batch.n_ops] = t->op;
            ct_offload_op_preset(&batch.ops[batch.n_ops++]);
        }
    }
    if (!batch.n_ops) {
        return;
    }

    p->class->batch_submit(&batch);
    CT_OFFLOAD_BATCH_OP_FOR_EACH (i, op, &batch) {
        task_merge(origin[i], p, stats, op->error, op->last_used);
    }
}

static void
provider_dispatch(struct provider *p, struct ct_offload_task *tasks, size_t n,
                  struct ct_offload_stats *stats)
{
    dispatch_get()->depth++;
    atomic_store_relaxed(&stats->calling, p->class->name);
    if (p->class->batch_submit && n > 1) {
        for (size_t i = 0; i < n; i += CT_OFFLOAD_BATCH_INLINE) {
            provider_do_batch(p, &tasks[i],
                              MIN(n - i, CT_OFFLOAD_BATCH_INLINE), stats);
        }
    } else {
        for (size_t i = 0; i < n; i++) {
            provider_do(p, &tasks[i], stats);
        }
    }
    atomic_store_relaxed(&stats->calling, NULL);
    dispatch_get()->depth--;
}

/* Has the providers in 'slots', a bit for each, do the 'n' tasks in
 * 'tasks', if they are 'thread_safe' or not. */
static void
dispatch_to(unsigned int slots, bool thread_safe,
            struct ct_offload_task *tasks, size_t n,
            struct ct_offload_stats *stats)
{
    for (; slots; slots = zero_rightmost_1bit(slots)) {
        struct provider *p = provider_get(raw_ctz(slots));

        if (p && p->class->thread_safe == thread_safe) {
            provider_dispatch(p, tasks, n, stats);
        }
    }
}

/* Has all providers do the 'n' tasks in 'tasks', and stores the results
 * there.  The calling thread must own the connections (see
 * conntrack-offload.h).  None may depend on the result of an earlier one,
 * that is, follow an ADD or DEL of the same connection. */
void
ct_offload_dispatch(struct ct_offload_task *tasks, size_t n)
{
    struct ct_offload_stats *stats = ct_offload_stats_get();
    unsigned int serial, safe;

    for (size_t i = 0; i < n; i++) {
        ct_offload_op_preset(&tasks[i].op);
        tasks[i].uni = 0;
    }

    /* A provider that comes just now has nothing to do with 'tasks'. */
    atomic_read_relaxed(&serial_slots, &serial);
    if (serial) {
        ovs_mutex_lock(&ct_offload_mutex);
        dispatch_to(serial, false, tasks, n, stats);
        ovs_mutex_unlock(&ct_offload_mutex);
    }
    atomic_read_relaxed(&safe_slots, &safe);
    dispatch_to(safe, true, tasks, n, stats);
}

/* Batches. */

/* Initializes 'batch' as an empty batch. */
void
ct_offload_op_batch_init(struct ct_offload_op_batch *batch)
{
    batch->ops = batch->inline_ops;
    batch->n_ops = 0;
    batch->allocated = ARRAY_SIZE(batch->inline_ops);
}

/* Frees what 'batch' uses, except for 'batch' itself, which is empty then. */
void
ct_offload_op_batch_destroy(struct ct_offload_op_batch *batch)
{
    if (batch->ops != batch->inline_ops) {
        free(batch->ops);
    }
    ct_offload_op_batch_init(batch);
}

/* Appends an operation of 'type' with a copy of 'ctx' to 'batch'. */
void
ct_offload_op_batch_add(struct ct_offload_op_batch *batch,
                        enum ct_offload_op_type type,
                        const struct ct_offload_ctx *ctx)
{
    struct ct_offload_op *op;

    if (OVS_UNLIKELY(batch->n_ops >= batch->allocated)) {
        size_t size = batch->allocated * sizeof *batch->ops;

        batch->ops = (batch->ops == batch->inline_ops
                      ? memcpy(xmalloc(2 * size), batch->ops, size)
                      : xrealloc(batch->ops, 2 * size));
        batch->allocated *= 2;
    }

    op = &batch->ops[batch->n_ops++];
    memset(op, 0, sizeof *op);
    op->type = type;
    op->ctx = *ctx;
}
