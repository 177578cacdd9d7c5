/* SPDX-License-Identifier: Apache-2.0 */

#include <config.h>

#include "ct-offload.h"

#include <errno.h>
#include <limits.h>
#include <strings.h>

#include "conntrack-offload.h"
#include "coverage.h"
#include "ct-offload-dpdk.h"
#include "ct-offload-dummy.h"
#include "ct-offload-thread.h"
#include "dpdk.h"
#include "dpif-offload.h"
#include "dpif-offload-provider.h"
#include "fatal-signal.h"
#include "netdev-provider.h"
#include "openvswitch/dynamic-string.h"
#include "openvswitch/json.h"
#include "openvswitch/list.h"
#include "openvswitch/usdt-probes.h"
#include "openvswitch/vlog.h"
#include "ovs-rcu.h"
#include "ovs-thread.h"
#include "smap.h"
#include "unixctl.h"
#include "util.h"

VLOG_DEFINE_THIS_MODULE(ct_offload);

COVERAGE_DEFINE(ct_offload_add);
COVERAGE_DEFINE(ct_offload_add_error);
COVERAGE_DEFINE(ct_offload_del);
COVERAGE_DEFINE(ct_offload_est);
COVERAGE_DEFINE(ct_offload_est_error);
COVERAGE_DEFINE(ct_offload_upd);

static struct vlog_rate_limit rl = VLOG_RATE_LIMIT_INIT(5, 5);

static const char *const op_names[CT_OFFLOAD_N_OPS] = {
    [CT_OFFLOAD_OP_ADD] = "add",
    [CT_OFFLOAD_OP_DEL] = "del",
    [CT_OFFLOAD_OP_UPD] = "upd",
    [CT_OFFLOAD_OP_POLICY] = "policy",
    [CT_OFFLOAD_OP_FLUSH] = "flush",
    [CT_OFFLOAD_OP_EST] = "est",
};

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

/* Are the built-in providers being unregistered because the program ends? */
static atomic_bool exiting = false;

/* Slots of those that are not thread-safe, and of those that are, as a bit for
 * each. */
static atomic_uint serial_slots = 0;
static atomic_uint safe_slots = 0;

/* Configuration: "hw-offload-ct", "hw-offload-ct-size",
 * "hw-offload-ct-bypass" and "hw-offload-ct-threads". */
#define DEFAULT_MAX_CONNS 250000
#define DEFAULT_N_THREADS 1
static unsigned int config_n_threads OVS_GUARDED_BY(registry_mutex)
    = DEFAULT_N_THREADS;
static bool started OVS_GUARDED_BY(registry_mutex) = false; /* Too late? */
static bool config_enabled OVS_GUARDED_BY(registry_mutex) = true;
static atomic_uint max_conns = DEFAULT_MAX_CONNS;
static atomic_bool config_bypass = false;

/* Connections that count against 'max_conns'. */
static atomic_uint n_conns = 0;

/* Serialises the callbacks of all providers that are not thread-safe. */
static struct ovs_mutex ct_offload_mutex = OVS_MUTEX_INITIALIZER;

/* What one thread has counted.  Only that thread writes to it, so that threads
 * do not share what they write.  Differences may be "negative" in one thread:
 * only the sum over all threads has a meaning. */
struct op_stats {
    atomic_ullong total;
    atomic_ullong errors;
};

struct thread_stats {
    struct ovs_list node;       /* In 'all_stats'. */
    unsigned int depth;         /* Callbacks that this thread is in. */
    ATOMIC(const char *) calling; /* Name of the provider, or NULL. */
    enum ct_offload_reason reason; /* Set by ct_offload_refuse(). */
    atomic_uint credit;         /* Taken from the limit in advance. */
    atomic_ullong counters[CT_OFFLOAD_N_COUNTERS];
    atomic_ullong reasons[CT_OFFLOAD_N_REASONS];
    atomic_ullong n_held[CT_OFFLOAD_MAX_PROVIDERS];
    struct op_stats ops[CT_OFFLOAD_MAX_PROVIDERS][CT_OFFLOAD_N_OPS];
};

DEFINE_STATIC_PER_THREAD_DATA(struct thread_stats *, thread_stats, NULL);

static struct ovs_mutex stats_mutex = OVS_MUTEX_INITIALIZER;
static struct ovs_list all_stats OVS_GUARDED_BY(stats_mutex)
    = OVS_LIST_INITIALIZER(&all_stats);
static ovsthread_key_t stats_key;

/* What threads that have ended had counted. */
static struct thread_stats ended_stats OVS_GUARDED_BY(stats_mutex);

static void ct_offload_show(struct unixctl_conn *, int argc,
                            const char *argv[], void *aux);

/* Credit: what connections may be offloaded, within the limit.  Each thread
 * takes some in advance while there is plenty, so that threads seldom write to
 * what they share. */
#define CREDIT_CHUNK 64

static unsigned int
credit_left(void)
{
    unsigned int n, max;

    atomic_read_relaxed(&max_conns, &max);
    atomic_read_relaxed(&n_conns, &n);
    return n < max ? max - n : 0;
}

/* Is there so much left that what threads have in advance is little? */
static bool
credit_is_plenty(void)
{
    return credit_left() >= CREDIT_CHUNK * 1024;
}

static void
credit_return(unsigned int n)
{
    unsigned int orig;

    if (n) {
        atomic_sub_relaxed(&n_conns, n, &orig);
    }
}

/* Takes 'n'.  Returns false if there is nothing left. */
static bool
credit_take(unsigned int n)
{
    unsigned int orig, max;

    atomic_read_relaxed(&max_conns, &max);
    atomic_add_relaxed(&n_conns, n, &orig);
    if (orig < max) {
        return true;
    }
    credit_return(n);
    return false;
}

/* Takes from 'stats' all credit that it has in advance, and returns it. */
static unsigned int
credit_collect(struct thread_stats *stats)
{
    unsigned int n;

    atomic_read_relaxed(&stats->credit, &n);
    return n ? atomic_exchange(&stats->credit, 0) : 0;
}

/* Takes one from 'stats'.  Returns false if there is none. */
static bool
credit_use(struct thread_stats *stats)
{
    unsigned int n;

    atomic_read_relaxed(&stats->credit, &n);
    while (n) {
        if (atomic_compare_exchange_weak_relaxed(&stats->credit, &n, n - 1)) {
            return true;
        }
    }
    return false;
}

/* Statistics. */

static void
counter_add(atomic_ullong *counter, unsigned long long int n)
{
    unsigned long long int old;

    atomic_read_relaxed(counter, &old);
    atomic_store_relaxed(counter, old + n);
}

static unsigned long long int
counter_get(const atomic_ullong *counter)
{
    unsigned long long int n;

    atomic_read_relaxed(CONST_CAST(atomic_ullong *, counter), &n);
    return n;
}

static void
stats_add(struct thread_stats *dst, const struct thread_stats *src)
{
    for (size_t i = 0; i < CT_OFFLOAD_N_COUNTERS; i++) {
        counter_add(&dst->counters[i], counter_get(&src->counters[i]));
    }
    for (size_t i = 0; i < CT_OFFLOAD_N_REASONS; i++) {
        counter_add(&dst->reasons[i], counter_get(&src->reasons[i]));
    }
    for (size_t i = 0; i < CT_OFFLOAD_MAX_PROVIDERS; i++) {
        counter_add(&dst->n_held[i], counter_get(&src->n_held[i]));
        for (size_t j = 0; j < CT_OFFLOAD_N_OPS; j++) {
            counter_add(&dst->ops[i][j].total,
                        counter_get(&src->ops[i][j].total));
            counter_add(&dst->ops[i][j].errors,
                        counter_get(&src->ops[i][j].errors));
        }
    }
}

static void
stats_thread_end(void *stats_)
{
    struct thread_stats *stats = stats_;

    ovs_mutex_lock(&stats_mutex);
    credit_return(credit_collect(stats));
    stats_add(&ended_stats, stats);
    ovs_list_remove(&stats->node);
    ovs_mutex_unlock(&stats_mutex);
    free_cacheline(stats);
}

static struct thread_stats *
stats_create(void)
{
    static struct ovsthread_once once = OVSTHREAD_ONCE_INITIALIZER;
    struct thread_stats *stats = xzalloc_cacheline(sizeof *stats);

    if (ovsthread_once_start(&once)) {
        ovsthread_key_create(&stats_key, stats_thread_end);
        ovsthread_once_done(&once);
    }

    ovs_mutex_lock(&stats_mutex);
    ovs_list_push_back(&all_stats, &stats->node);
    ovs_mutex_unlock(&stats_mutex);
    ovsthread_setspecific(stats_key, stats);
    *thread_stats_get() = stats;
    return stats;
}

/* Returns what the calling thread counts in. */
static struct thread_stats *
stats_get(void)
{
    struct thread_stats *stats = *thread_stats_get();

    return OVS_LIKELY(stats) ? stats : stats_create();
}

/* Makes 'counter', which went up and down, be from 0 to 'max'. */
static void
counter_limit(atomic_ullong *counter, unsigned long long int max)
{
    unsigned long long int n = counter_get(counter);

    if (n > max) {
        atomic_store_relaxed(counter, n > LLONG_MAX ? 0 : max);
    }
}

/* Stores the sum over all threads in '*sum'.  They go on counting: one may be
 * read before it counts an ADD, and another after it has counted the DEL. */
static void
stats_sum(struct thread_stats *sum)
{
    struct thread_stats *stats;

    memset(sum, 0, sizeof *sum);
    ovs_mutex_lock(&stats_mutex);
    stats_add(sum, &ended_stats);
    LIST_FOR_EACH (stats, node, &all_stats) {
        stats_add(sum, stats);
    }
    ovs_mutex_unlock(&stats_mutex);

    counter_limit(&sum->counters[CT_OFFLOAD_N_OFFLOADED], LLONG_MAX);
    counter_limit(&sum->counters[CT_OFFLOAD_N_BI_DIR],
                  counter_get(&sum->counters[CT_OFFLOAD_N_OFFLOADED]));
    for (size_t i = 0; i < CT_OFFLOAD_MAX_PROVIDERS; i++) {
        counter_limit(&sum->n_held[i], LLONG_MAX);
    }
}

/* A provider is new in 'slot': forget what its predecessor counted. */
static void
stats_clear_slot(unsigned int slot)
{
    struct thread_stats sum;

    /* Threads may not write to another's counters, so have those of the ended
     * threads make the sum zero. */
    stats_sum(&sum);
    ovs_mutex_lock(&stats_mutex);
    counter_add(&ended_stats.n_held[slot], -counter_get(&sum.n_held[slot]));
    for (size_t i = 0; i < CT_OFFLOAD_N_OPS; i++) {
        counter_add(&ended_stats.ops[slot][i].total,
                    -counter_get(&sum.ops[slot][i].total));
        counter_add(&ended_stats.ops[slot][i].errors,
                    -counter_get(&sum.ops[slot][i].errors));
    }
    ovs_mutex_unlock(&stats_mutex);
}

/* Appends the names of the providers that are being called just now to 'ds',
 * separated by ", ". */
void
ct_offload_format_calls(struct ds *ds)
{
    struct thread_stats *stats;

    ovs_mutex_lock(&stats_mutex);
    LIST_FOR_EACH (stats, node, &all_stats) {
        const char *name;

        atomic_read_relaxed(&stats->calling, &name);
        if (name) {
            ds_put_format(ds, "%s%s", ds->length ? ", " : "", name);
        }
    }
    ovs_mutex_unlock(&stats_mutex);
}

/* Adds 'n', which may be negative, to 'counter'. */
void
ct_offload_count(enum ct_offload_counter counter, int n)
{
    counter_add(&stats_get()->counters[counter], n);
}

/* Counts a connection that stays in software for 'reason'. */
void
ct_offload_count_reason(enum ct_offload_reason reason)
{
    counter_add(&stats_get()->reasons[reason], 1);
}

/* Returns 'reason' in words, for people. */
const char *
ct_offload_reason_to_string(enum ct_offload_reason reason)
{
    static const char *const strings[CT_OFFLOAD_N_REASONS] = {
        [CT_OFFLOAD_REASON_NONE] = "not offered yet",
        [CT_OFFLOAD_NOT_ESTABLISHED] = "not established yet",
        [CT_OFFLOAD_NO_PROVIDER] = "port without provider",
        [CT_OFFLOAD_NO_BYPASS] = "hw-offload-ct-bypass is false",
        [CT_OFFLOAD_NOT_ON_WIRE] = "tuple not on the wire",
        [CT_OFFLOAD_BAD_PROTOCOL] = "protocol",
        [CT_OFFLOAD_BAD_VLAN] = "VLAN tags",
        [CT_OFFLOAD_HELPER] = "helper",
        [CT_OFFLOAD_CLOSING] = "closing",
        [CT_OFFLOAD_LIMIT] = "limit reached",
        [CT_OFFLOAD_QUEUE] = "queue full",
        [CT_OFFLOAD_PREDECESSOR] = "predecessor in hardware",
        [CT_OFFLOAD_ERROR] = "error of the provider",
        [CT_OFFLOAD_TAKEN_BACK] = "taken back",
        [CT_OFFLOAD_REFUSED] = "refused by the provider",
    };

    return strings[reason];
}

/* The limit on the number of offloaded connections. */

/* Makes room for one more offloaded connection.  Returns false if there is
 * none. */
bool
ct_offload_reserve(void)
{
    struct thread_stats *stats = stats_get();
    unsigned int orig;

    if (!credit_is_plenty()) {
        credit_return(credit_collect(stats));
        return credit_take(1);
    }
    if (credit_use(stats)) {
        return true;
    }
    if (!credit_take(CREDIT_CHUNK)) {
        return false;
    }
    atomic_add_relaxed(&stats->credit, CREDIT_CHUNK - 1, &orig);
    return true;
}

/* Undoes ct_offload_reserve(). */
void
ct_offload_unreserve(void)
{
    struct thread_stats *stats = stats_get();
    unsigned int n;

    if (!credit_is_plenty()) {
        credit_return(1 + credit_collect(stats));
        return;
    }
    atomic_add_relaxed(&stats->credit, 1, &n);
    if (n >= 2 * CREDIT_CHUNK) {
        credit_return(credit_collect(stats));
    }
}

/* Takes back what threads have in advance, when there is little left: threads
 * that do nothing just now would keep it. */
void
ct_offload_collect_credit(void)
{
    struct thread_stats *stats;

    if (!credit_is_plenty()) {
        ovs_mutex_lock(&stats_mutex);
        LIST_FOR_EACH (stats, node, &all_stats) {
            credit_return(credit_collect(stats));
        }
        ovs_mutex_unlock(&stats_mutex);
    }
}

/* Could another connection be offloaded? */
bool
ct_offload_has_room(void)
{
    return credit_left() > 0 && ct_offload_threads_have_room();
}

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
    uint8_t any = 0, established = 0;
    unsigned int serial = 0, safe = 0;
    unsigned int max;

    for (size_t i = 0; i < CT_OFFLOAD_MAX_PROVIDERS; i++) {
        struct provider *p = provider_get(i);

        if (p && !provider_is_leaving(p)) {
            *(p->class->established_only ? &established : &any) |= 1u << i;
        }
        if (p) {
            *(p->class->thread_safe ? &safe : &serial) |= 1u << i;
        }
    }
    atomic_read_relaxed(&max_conns, &max);
    if (!config_enabled || !max) {
        any = established = 0;
    }

    atomic_store_relaxed(&serial_slots, serial);
    atomic_store_relaxed(&safe_slots, safe);
    atomic_store_relaxed(&accepting_any, any);
    atomic_store_relaxed(&accepting_established, established);
    atomic_store_relaxed(&ct_offload_active, any || established || holding);
}

/* Providers that are built in, and active when hardware offload is enabled.
 */
static const struct ct_offload_class *const builtin_classes[] = {
#ifdef DPDK_NETDEV
    &ct_offload_dpdk_class,
#endif
    &ct_offload_dummy_class,
};

/* How long a fatal signal waits for another thread that calls a provider. */
#define FATAL_WAIT_MS 1000

/* A fatal signal is about to end the process.  Other threads may be waiting
 * for the caller, so do not wait for them to quiesce. */
static void
ct_offload_fatal_signal(void *aux OVS_UNUSED)
{
    uint8_t leaving;

    ovs_mutex_lock(&registry_mutex);
    for (size_t i = 0; i < ARRAY_SIZE(builtin_classes); i++) {
        struct provider *p = provider_find(builtin_classes[i]->name);

        if (p) {
            atomic_store_relaxed(&p->leaving, true);
        }
    }
    registry_changed(true);
    ovs_mutex_unlock(&registry_mutex);

    atomic_store_relaxed(&exiting, true);
    leaving = ct_offload_leaving();
    if (leaving) {
        /* Other threads may be adding connections that nobody holds yet. */
        conntrack_offload_wait(FATAL_WAIT_MS);
        ct_offload_threads_barrier(false);
        conntrack_offload_evict(leaving);
        conntrack_offload_wait(FATAL_WAIT_MS);
        ct_offload_threads_barrier(false);
    }
}

/* Can 'class', which is built in, be of use in this process by now? */
static bool
builtin_is_available(const struct ct_offload_class *class)
{
    return (class == &ct_offload_dummy_class ? ct_offload_dummy_is_enabled()
            : dpdk_available());
}

/* Starts the offload threads if there is something for them to do, and if that
 * has not been done. */
static void
start_threads(void)
    OVS_REQUIRES(registry_mutex)
{
    bool any = false;

    for (size_t i = 0; i < CT_OFFLOAD_MAX_PROVIDERS; i++) {
        any = any || provider_get(i);
    }
    if (any && !started && dpif_offload_enabled()) {
        started = true;
        ct_offload_threads_start(config_n_threads);
        fatal_signal_add_hook(ct_offload_fatal_signal, NULL, NULL, false);
    }
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
    stats_clear_slot(slot);
    ovsrcu_set(&providers[slot], p);
    start_threads();
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

    ovs_mutex_lock(&registry_mutex);
    error = register__(class);
    ovs_mutex_unlock(&registry_mutex);

    return error;
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

    if (stats_get()->depth) {
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
     * is doing.  What those hold up in which we find another owner ends then
     * as well. */
    ovsrcu_synchronize();
    conntrack_offload_barrier(true);
    conntrack_offload_evict(1u << p->slot);
    conntrack_offload_barrier(true);
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

/* Does other_config:hw-offload-ct-bypass say that hardware forwards packets of
 * offloaded connections by itself?  For any thread. */
bool
ct_offload_config_bypass(void)
{
    bool bypass;

    atomic_read_relaxed(&config_bypass, &bypass);
    return bypass;
}

/* For a provider's 'can_offload': remembers 'reason' for the connection in
 * question, and returns false. */
bool
ct_offload_refuse(enum ct_offload_reason reason)
{
    stats_get()->reason = reason;
    return false;
}

/* Waits until every thread has told the providers all that it knew when this
 * was called.  The caller must not hold any lock, or a pointer that is
 * protected by RCU. */
void
ct_offload_barrier(void)
{
    conntrack_offload_barrier(true);
}

/* 'netdev' is about to stop, to be reconfigured or to go away, or has no owner
 * in dpif-offload any more.  When this returns, no provider holds anything
 * that refers to 'netdev'.  The caller must have made sure that no packets
 * come from 'netdev' meanwhile.  Waits for threads that are in a callback, but
 * does not quiesce. */
void
ct_offload_netdev_flush(struct netdev *netdev)
{
    conntrack_offload_stop_port(netdev);
    for (size_t i = 0; i < CT_OFFLOAD_MAX_PROVIDERS; i++) {
        struct provider *p = provider_get(i);

        if (p && p->class->netdev_flush) {
            provider_lock(p);
            p->class->netdev_flush(netdev);
            provider_unlock(p);
        }
    }
}

/* 'netdev' is about to stop, as for ct_offload_netdev_flush(), and nobody is
 * to offload anything of it before ct_offload_netdev_start().  Rules for flows
 * would be lost as well as those for connections, so dpif-offload's owner of
 * 'netdev' gives them up.  Returns that owner, or NULL if there is none that
 * has to.  May quiesce.  Only for the main thread. */
const struct dpif_offload *
ct_offload_netdev_stop(struct netdev *netdev)
{
    const struct dpif_offload *owner = NULL;

#ifdef DPDK_NETDEV
    owner = ovsrcu_get(const struct dpif_offload *, &netdev->dpif_offload);
    if (owner && owner->class == &dpif_offload_dpdk_class) {
        ovsrcu_set(&netdev->dpif_offload, NULL);
    } else {
        owner = NULL;
    }
#endif
    ct_offload_netdev_flush(netdev);
#ifdef DPDK_NETDEV
    if (owner) {
        dpif_offload_dpdk_flush(owner, netdev);
    }
#endif
    return owner;
}

/* 'netdev' has started again; 'owner' is what ct_offload_netdev_stop() has
 * returned. */
void
ct_offload_netdev_start(struct netdev *netdev,
                        const struct dpif_offload *owner)
{
    if (owner) {
        ovsrcu_set(&netdev->dpif_offload, owner);
    }
}

static void
ct_offload_unixctl_barrier(struct unixctl_conn *conn, int argc OVS_UNUSED,
                           const char *argv[] OVS_UNUSED,
                           void *aux OVS_UNUSED)
{
    ct_offload_barrier();
    unixctl_command_reply(conn, NULL);
}

/* Called once, when the datapath modules are initialized. */
void
ct_offload_module_init(void)
{
    static struct ovsthread_once once = OVSTHREAD_ONCE_INITIALIZER;

    if (ovsthread_once_start(&once)) {
        unixctl_command_register("ct-offload/show", "", 0, 0,
                                 ct_offload_show, NULL);
        unixctl_command_register("ct-offload/barrier", "", 0, 0,
                                 ct_offload_unixctl_barrier, NULL);
        ovsthread_once_done(&once);
    }
}

/* If hardware offload is enabled, registers the providers that are built in
 * and have become available.  For the main thread, whenever something that
 * they need may have been initialized. */
void
ct_offload_register_builtins(void)
{
    static bool registered[ARRAY_SIZE(builtin_classes)];

    if (!dpif_offload_enabled()) {
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(builtin_classes); i++) {
        if (!registered[i] && builtin_is_available(builtin_classes[i])) {
            registered[i] = true;
            ct_offload_register(builtin_classes[i]);
        }
    }
}

/* Returns the value of boolean 'key' in 'config', 'def' if there is none, or
 * 'old' with a warning if it is not valid. */
static bool
config_get_bool(const struct smap *config, const char *key, bool def, bool old)
{
    const char *value = smap_get(config, key);

    if (!value) {
        return def;
    }
    if (!strcasecmp(value, "true")) {
        return true;
    }
    if (!strcasecmp(value, "false")) {
        return false;
    }
    VLOG_WARN("other_config:%s=%s is not \"true\" or \"false\", keeping %s",
              key, value, old ? "true" : "false");
    return old;
}

/* The same for an integer from 0 to 'max'. */
static unsigned int
config_get_uint(const struct smap *config, const char *key, unsigned int max,
                unsigned int def, unsigned int old)
{
    const char *value = smap_get(config, key);
    long long int n;

    if (!value) {
        return def;
    }
    if (str_to_llong(value, 10, &n) && n >= 0 && n <= max) {
        return n;
    }
    VLOG_WARN("other_config:%s=%s is not an integer from 0 to %u, keeping %u",
              key, value, max, old);
    return old;
}

/* Reads "hw-offload-ct-threads" from 'config'. */
static void
config_threads(const struct smap *config)
    OVS_REQUIRES(registry_mutex)
{
    unsigned int n = config_get_uint(config, "hw-offload-ct-threads",
                                     CT_OFFLOAD_MAX_THREADS,
                                     DEFAULT_N_THREADS, config_n_threads);

    if (started && n != config_n_threads) {
        VLOG_WARN("other_config:hw-offload-ct-threads changed from %u to %u: "
                  "restart the daemon for that to take effect",
                  config_n_threads, n);
    }
    config_n_threads = n;
}

/* Applies the configuration in 'config', column other_config of the
 * Open_vSwitch table.  Only for the main thread, which must not hold a pointer
 * that is protected by RCU. */
void
ct_offload_set_config(const struct smap *config)
{
    bool was_accepting = ct_offload_is_accepting();
    unsigned int max;
    bool bypass;

    ovs_mutex_lock(&registry_mutex);
    config_enabled = config_get_bool(config, "hw-offload-ct", true,
                                     config_enabled);
    atomic_read_relaxed(&config_bypass, &bypass);
    bypass = config_get_bool(config, "hw-offload-ct-bypass", false, bypass);
    atomic_store_relaxed(&config_bypass, bypass);
    atomic_read_relaxed(&max_conns, &max);
    max = config_get_uint(config, "hw-offload-ct-size", UINT_MAX,
                          DEFAULT_MAX_CONNS, max);
    atomic_store_relaxed(&max_conns, max);
    config_threads(config);
    start_threads();
    registry_changed(was_accepting);
    ovs_mutex_unlock(&registry_mutex);
    ct_offload_collect_credit();

    ct_offload_register_builtins();

    if (was_accepting && !ct_offload_is_accepting()) {
        /* Threads may still be telling providers of new connections. */
        conntrack_offload_barrier(true);
        conntrack_offload_evict(0);
        conntrack_offload_barrier(true);

        ovs_mutex_lock(&registry_mutex);
        registry_changed(false);
        ovs_mutex_unlock(&registry_mutex);
    }
}

/* Called at the end of the program, before ovsrcu_exit(): takes from the
 * built-in providers all that they hold.  Only for the main thread. */
void
ct_offload_exit(void)
{
    atomic_store_relaxed(&exiting, true);
    for (size_t i = 0; i < ARRAY_SIZE(builtin_classes); i++) {
        bool registered;

        ovs_mutex_lock(&registry_mutex);
        registered = provider_find(builtin_classes[i]->name) != NULL;
        ovs_mutex_unlock(&registry_mutex);

        if (registered) {
            ct_offload_unregister(builtin_classes[i]);
        }
    }
    ct_offload_threads_stop();
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
static void
op_preset(struct ct_offload_op *op)
{
    static const int errors[CT_OFFLOAD_N_OPS] = {
        [CT_OFFLOAD_OP_UPD] = ENODATA,
        [CT_OFFLOAD_OP_POLICY] = EPERM,
    };

    op->last_used = 0;
    op->uni_dir = false;
    op->ctx.uni_dir = &op->uni_dir;
    op->error = op->type < CT_OFFLOAD_N_OPS ? errors[op->type] : EINVAL;
}

/* Is 'op' a matter for 'p'? */
static inline ALWAYS_INLINE bool
op_is_for(struct ct_offload_op *op, struct provider *p,
          struct thread_stats *stats)
{
    unsigned int slot = 1u << p->slot;

    switch (op->type) {
    case CT_OFFLOAD_OP_ADD:
        if (op->held & slot || provider_is_leaving(p)
            || !ct_offload_is_accepting()) {
            return false;
        }
        if (p->class->established_only && !op->established) {
            op->reason = op->reason ? op->reason : CT_OFFLOAD_NOT_ESTABLISHED;
            return false;
        }
        stats->reason = CT_OFFLOAD_REFUSED;
        if (!p->class->can_offload(&op->ctx)) {
            op->reason = stats->reason;
            return false;
        }
        return true;

    case CT_OFFLOAD_OP_EST:
        return op->held & ~op->est & slot;

    case CT_OFFLOAD_OP_DEL:
    case CT_OFFLOAD_OP_UPD:
        return op->held & slot;

    case CT_OFFLOAD_OP_POLICY:
    case CT_OFFLOAD_OP_FLUSH:
        return !provider_is_leaving(p);

    default:
        return false;
    }
}

/* 'p' does not hold the connection of 'op' any more. */
static inline void
op_unhold(struct ct_offload_op *op, const struct provider *p,
          struct thread_stats *stats)
{
    op->held &= ~(1u << p->slot);
    op->est &= ~(1u << p->slot);
    if (op->priv) {
        op->priv[p->slot] = NULL;
    }
    counter_add(&stats->n_held[p->slot], -1);
}

/* 'p' has failed to do its part of 'op', with 'error'. */
static void
op_failed(struct ct_offload_op *op, const struct provider *p, int error)
{
    log_error(p, op, error);
    op->reason = CT_OFFLOAD_ERROR;
    if (op->priv) {
        op->priv[p->slot] = NULL;
    }
}

/* 'p' has done its part of 'op', with the result 'error' and, for UPD,
 * 'last_used': combines that with what other providers have done. */
static inline ALWAYS_INLINE void
op_merge(struct ct_offload_op *op, const struct provider *p,
         struct thread_stats *stats, int error, long long int last_used)
{
    struct op_stats *op_stats = &stats->ops[p->slot][op->type];

    OVS_USDT_PROBE(ct_offload, op, p->class->name, op->type, op->ctx.conn,
                   error);
    counter_add(&op_stats->total, 1);
    if (OVS_UNLIKELY(error)) {
        counter_add(&op_stats->errors, 1);
    }

    switch (op->type) {
    case CT_OFFLOAD_OP_ADD:
        COVERAGE_INC(ct_offload_add);
        if (!error) {
            op->held |= 1u << p->slot;
            counter_add(&stats->n_held[p->slot], 1);
            break;
        }
        COVERAGE_INC(ct_offload_add_error);
        op_failed(op, p, error);
        op->error = op->error ? op->error : error;
        break;

    case CT_OFFLOAD_OP_DEL:
        COVERAGE_INC(ct_offload_del);
        op_unhold(op, p, stats);
        break;

    case CT_OFFLOAD_OP_EST:
        COVERAGE_INC(ct_offload_est);
        if (!error) {
            op->est |= 1u << p->slot;
            break;
        }
        COVERAGE_INC(ct_offload_est_error);
        op_failed(op, p, error);
        op_unhold(op, p, stats);
        break;

    case CT_OFFLOAD_OP_UPD:
        COVERAGE_INC(ct_offload_upd);
        if (!error && last_used) {
            op->error = 0;
            op->last_used = MAX(op->last_used, last_used);
        }
        break;

    case CT_OFFLOAD_OP_POLICY:
        op->error = error ? op->error : 0;
        break;

    case CT_OFFLOAD_OP_FLUSH:
    default:
        break;
    }
}

/* Has 'p' do its part of 'op', if it has one, by the callback for it. */
static inline ALWAYS_INLINE void
provider_do(struct provider *p, struct ct_offload_op *op,
            struct thread_stats *stats)
{
    const struct ct_offload_class *class = p->class;
    long long int last_used = 0;
    int error = 0;

    op->ctx.priv = op->priv ? &op->priv[p->slot] : NULL;
    if (!op_is_for(op, p, stats)) {
        return;
    }
    switch (op->type) {
    case CT_OFFLOAD_OP_ADD:
        error = class->conn_add(&op->ctx);
        break;
    case CT_OFFLOAD_OP_DEL:
        class->conn_del(&op->ctx);
        break;
    case CT_OFFLOAD_OP_EST:
        if (class->conn_established) {
            error = class->conn_established(&op->ctx);
        }
        break;
    case CT_OFFLOAD_OP_UPD:
        if (class->conn_update) {
            last_used = class->conn_update(&op->ctx);
        }
        error = last_used ? 0 : ENODATA;
        break;
    case CT_OFFLOAD_OP_POLICY:
        error = class->can_offload(&op->ctx) ? 0 : EPERM;
        break;
    case CT_OFFLOAD_OP_FLUSH:
        if (class->flush) {
            class->flush();
        }
        break;
    default:
        break;
    }
    op_merge(op, p, stats, error, last_used);
}

/* Has 'p' do its part of the 'n' operations in 'ops', at most
 * CT_OFFLOAD_BATCH_INLINE, by its 'batch_submit'. */
static void
provider_do_batch(struct provider *p, struct ct_offload_op *ops, size_t n,
                  struct thread_stats *stats)
{
    struct ct_offload_op *origin[CT_OFFLOAD_BATCH_INLINE];
    struct ct_offload_op_batch batch;
    struct ct_offload_op *op;

    ct_offload_op_batch_init(&batch);
    for (size_t i = 0; i < n; i++) {
        op = &ops[i];
        if (op->skip) {
            continue;
        }
        if (op->type == CT_OFFLOAD_OP_POLICY
            || op->type == CT_OFFLOAD_OP_FLUSH) {
            provider_do(p, op, stats);
            continue;
        }
        op->ctx.priv = op->priv ? &op->priv[p->slot] : NULL;
        if (op_is_for(op, p, stats)) {
            origin[batch.n_ops] = op;
            batch.ops[batch.n_ops] = *op;
            op_preset(&batch.ops[batch.n_ops++]);
        }
    }
    if (!batch.n_ops) {
        return;
    }

    p->class->batch_submit(&batch);
    CT_OFFLOAD_BATCH_OP_FOR_EACH (i, op, &batch) {
        origin[i]->uni_dir |= op->uni_dir;
        op_merge(origin[i], p, stats, op->error, op->last_used);
    }
}

static void
provider_dispatch(struct provider *p, struct ct_offload_op *ops, size_t n,
                  struct thread_stats *stats)
{
    stats->depth++;
    atomic_store_relaxed(&stats->calling, p->class->name);
    if (p->class->batch_submit && n > 1) {
        for (size_t i = 0; i < n; i += CT_OFFLOAD_BATCH_INLINE) {
            provider_do_batch(p, &ops[i],
                              MIN(n - i, CT_OFFLOAD_BATCH_INLINE), stats);
        }
    } else {
        for (size_t i = 0; i < n; i++) {
            if (!ops[i].skip) {
                provider_do(p, &ops[i], stats);
            }
        }
    }
    atomic_store_relaxed(&stats->calling, NULL);
    stats->depth--;
}

/* Has the providers in 'slots', a bit for each, do the 'n' operations in
 * 'ops', if they are 'thread_safe' or not. */
static void
dispatch_to(unsigned int slots, bool thread_safe, struct ct_offload_op *ops,
            size_t n, struct thread_stats *stats)
{
    for (; slots; slots = zero_rightmost_1bit(slots)) {
        struct provider *p = provider_get(raw_ctz(slots));

        if (p && p->class->thread_safe == thread_safe) {
            provider_dispatch(p, ops, n, stats);
        }
    }
}

/* Has all providers do the 'n' operations in 'ops', and stores the results
 * there.  The calling thread must own the connections (see
 * conntrack-offload.h).  No operation may depend on the result of an earlier
 * one, that is, none may follow an ADD or DEL of the same connection. */
void
ct_offload_dispatch(struct ct_offload_op *ops, size_t n)
{
    struct thread_stats *stats = stats_get();
    unsigned int serial, safe;

    for (size_t i = 0; i < n; i++) {
        op_preset(&ops[i]);
    }

    /* A provider that comes just now has nothing to do with 'ops'. */
    atomic_read_relaxed(&serial_slots, &serial);
    if (serial) {
        ovs_mutex_lock(&ct_offload_mutex);
        dispatch_to(serial, false, ops, n, stats);
        ovs_mutex_unlock(&ct_offload_mutex);
    }
    atomic_read_relaxed(&safe_slots, &safe);
    dispatch_to(safe, true, ops, n, stats);
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

/* Frees what 'batch' uses, except for 'batch' itself. */
void
ct_offload_op_batch_destroy(struct ct_offload_op_batch *batch)
{
    if (batch->ops != batch->inline_ops) {
        free(batch->ops);
    }
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

static bool
op_has_conn(const struct ct_offload_op *op)
{
    switch (op->type) {
    case CT_OFFLOAD_OP_ADD:
    case CT_OFFLOAD_OP_DEL:
    case CT_OFFLOAD_OP_UPD:
    case CT_OFFLOAD_OP_EST:
        return true;
    case CT_OFFLOAD_OP_POLICY:
    case CT_OFFLOAD_OP_FLUSH:
    default:
        return false;
    }
}

static void
flush__(void)
{
    struct ct_offload_op op = { .type = CT_OFFLOAD_OP_FLUSH };

    conntrack_offload_evict(0);
    conntrack_offload_barrier(false);
    ct_offload_dispatch(&op, 1);
}

/* Does the 'n' operations in 'ops', all of which can be dispatched. */
static void
submit_run(struct ct_offload_op *ops, size_t n)
{
    if (n) {
        ct_offload_dispatch(ops, n);
        for (size_t i = 0; i < n; i++) {
            if (op_has_conn(&ops[i])) {
                conntrack_offload_release(&ops[i]);
            }
        }
    }
}

/* Does all operations in 'batch', in order, and stores the result of each in
 * it: what it would have been if it had been done alone.  If another thread is
 * calling providers for a connection just now, it will do the operation as
 * well; 'error' is EINPROGRESS then. */
void
ct_offload_op_batch_submit(struct ct_offload_op_batch *batch)
{
    struct ct_offload_op *ops = batch->ops;
    size_t start = 0;

    conntrack_offload_enter();

    /* Operations are dispatched in runs, ops[start] to ops[i - 1], in which no
     * connection occurs twice: a connection that cannot be owned may be owned
     * by this thread, for the sake of the run. */
    for (size_t i = 0; i < batch->n_ops; i++) {
        struct ct_offload_op *op = &ops[i];

        op_preset(op);
        if (op->type == CT_OFFLOAD_OP_FLUSH) {
            submit_run(&ops[start], i - start);
            start = i + 1;
            conntrack_offload_leave();
            flush__();
            conntrack_offload_enter();
        } else if (op_has_conn(op) && !conntrack_offload_own(op, false)) {
            submit_run(&ops[start], i - start);
            start = conntrack_offload_own(op, true) ? i : i + 1;
        }
    }
    submit_run(&ops[start], batch->n_ops - start);
    conntrack_offload_leave();
}

static int
submit_one(enum ct_offload_op_type type, const struct ct_offload_ctx *ctx,
           long long int *last_used)
{
    struct ct_offload_op op = { .type = type, .ctx = *ctx };

    conntrack_offload_enter();
    op_preset(&op);
    if (!op_has_conn(&op)) {
        ct_offload_dispatch(&op, 1);
    } else if (conntrack_offload_own(&op, true)) {
        ct_offload_dispatch(&op, 1);
        conntrack_offload_release(&op);
    }
    conntrack_offload_leave();
    if (last_used) {
        *last_used = op.last_used;
    }
    return op.error;
}

/* Offers the connection of 'ctx' to every provider whose 'can_offload' accepts
 * it.  Returns 0 if there was no error, or the first error of any provider; or
 * EOPNOTSUPP if the connection must stay in software, or EINPROGRESS if
 * another thread will do it. */
int
ct_offload_conn_add(const struct ct_offload_ctx *ctx)
{
    return submit_one(CT_OFFLOAD_OP_ADD, ctx, NULL);
}

/* Takes the connection of 'ctx' from every provider that holds it. */
void
ct_offload_conn_del(const struct ct_offload_ctx *ctx)
{
    submit_one(CT_OFFLOAD_OP_DEL, ctx, NULL);
}

/* Returns the newest time, as time_msec() counts, at which any provider that
 * holds the connection of 'ctx' has seen it used, or 0 if none knows. */
long long int
ct_offload_conn_update(const struct ct_offload_ctx *ctx)
{
    long long int last_used;

    submit_one(CT_OFFLOAD_OP_UPD, ctx, &last_used);
    return last_used;
}

/* Tells every provider that holds the connection of 'ctx', and does not know
 * yet, that it is established. */
void
ct_offload_conn_established(const struct ct_offload_ctx *ctx)
{
    submit_one(CT_OFFLOAD_OP_EST, ctx, NULL);
}

/* Returns true if any provider would take the connection of 'ctx'. */
bool
ct_offload_can_offload(const struct ct_offload_ctx *ctx)
{
    return !submit_one(CT_OFFLOAD_OP_POLICY, ctx, NULL);
}

/* Takes every connection from every provider, and has the providers drop what
 * is left.  Waits for offload threads and others that are calling providers,
 * but does not quiesce.  The caller must have made sure that no connection is
 * offered meanwhile: 'flush' of a provider would drop it, too. */
void
ct_offload_flush(void)
{
    flush__();
}

/* Stores in 'stats' what "dpctl/offload-stats-show" is to show, and returns 1;
 * or returns 0 if no provider has ever taken a connection. */
size_t
ct_offload_get_stats(struct netdev_custom_stats *stats)
{
    struct ct_offload_thread_stats threads;
    unsigned long long int n_added = 0;
    struct thread_stats sum;

    stats_sum(&sum);
    for (size_t i = 0; i < CT_OFFLOAD_MAX_PROVIDERS; i++) {
        n_added += counter_get(&sum.ops[i][CT_OFFLOAD_OP_ADD].total);
    }
    if (!n_added) {
        return 0;
    }
    ct_offload_threads_get_stats(&threads);

    uint64_t n = counter_get(&sum.counters[CT_OFFLOAD_N_OFFLOADED]);
    uint64_t n_est = counter_get(&sum.counters[CT_OFFLOAD_N_BI_DIR]);
    const struct {
        const char *name;
        uint64_t value;
    } rows[] = {
        { "CT bi-dir Connections", n_est },
        { "CT uni-dir Connections", n - n_est },
        { "CT Enqueued offloads", threads.n_queued },
        { "CT Inserted offloads", n },
        { "CT Average latency (us)", threads.mean },
        { "CT Latency stddev (us)", threads.stddev },
        { "CT Exp. Average latency (us)", threads.exp_mean },
        { "CT Exp. Latency stddev (us)", threads.exp_stddev },
    };

    stats->label = xstrdup("ct-offload");
    stats->size = ct_offload_n_threads() ? ARRAY_SIZE(rows) : 2;
    stats->counters = xcalloc(stats->size, sizeof *stats->counters);
    for (size_t i = 0; i < stats->size; i++) {
        snprintf(stats->counters[i].name, sizeof stats->counters[i].name,
                 "  Total %33s", rows[i].name);
        stats->counters[i].value = rows[i].value;
    }
    return 1;
}

/* "ct-offload/show". */

static const char *
provider_state(struct provider *p)
{
    return provider_is_leaving(p) ? "leaving" : "active";
}

static struct json *
provider_to_json(struct provider *p, const struct thread_stats *sum)
{
    struct json *json = json_object_create();
    struct json *ops = json_object_create();

    json_object_put_string(json, "state", provider_state(p));
    json_object_put(json, "connections",
                    json_integer_create(counter_get(&sum->n_held[p->slot])));
    for (size_t i = 0; i < CT_OFFLOAD_N_OPS; i++) {
        const struct op_stats *stats = &sum->ops[p->slot][i];
        struct json *op = json_object_create();

        json_object_put(op, "total",
                        json_integer_create(counter_get(&stats->total)));
        json_object_put(op, "errors",
                        json_integer_create(counter_get(&stats->errors)));
        json_object_put(ops, op_names[i], op);
    }
    json_object_put(json, "operations", ops);
    if (p->class->get_debug && provider_trylock(p)) {
        p->class->get_debug(NULL, json);
        provider_unlock(p);
    }
    return json;
}

static void
provider_format(struct provider *p, const struct thread_stats *sum,
                struct ds *ds)
{
    ds_put_format(ds, "\nprovider %s: %s, connections held: %llu\n",
                  p->class->name, provider_state(p),
                  counter_get(&sum->n_held[p->slot]));
    ds_put_format(ds, "  %-8s %12s %12s\n", "op", "total", "errors");
    for (size_t i = 0; i < CT_OFFLOAD_N_OPS; i++) {
        const struct op_stats *stats = &sum->ops[p->slot][i];

        ds_put_format(ds, "  %-8s %12llu %12llu\n", op_names[i],
                      counter_get(&stats->total),
                      counter_get(&stats->errors));
    }
    if (p->class->get_debug) {
        if (provider_trylock(p)) {
            p->class->get_debug(ds, NULL);
            provider_unlock(p);
        } else {
            ds_put_cstr(ds, "  busy, no details\n");
        }
    }
}

static struct json *
counters_to_json(const struct thread_stats *sum)
{
    static const char *const names[CT_OFFLOAD_N_COUNTERS] = {
        [CT_OFFLOAD_N_OFFLOADED] = "offloaded",
        [CT_OFFLOAD_N_BI_DIR] = "bi-dir",
        [CT_OFFLOAD_N_CLOSED] = "closed",
        [CT_OFFLOAD_N_EVICTED] = "taken-back",
        [CT_OFFLOAD_N_ASKED] = "expiry-asked",
        [CT_OFFLOAD_N_EXTENDED] = "expiry-extended",
        [CT_OFFLOAD_N_LAPSED] = "expiry-lapsed",
    };
    struct json *json = json_object_create();
    unsigned int max;

    for (size_t i = 0; i < CT_OFFLOAD_N_COUNTERS; i++) {
        json_object_put(json, names[i],
                        json_integer_create(counter_get(&sum->counters[i])));
    }
    atomic_read_relaxed(&max_conns, &max);
    json_object_put(json, "limit", json_integer_create(max));
    return json;
}

static void
counters_format(const struct thread_stats *sum, struct ds *ds)
{
    unsigned int max;

    atomic_read_relaxed(&max_conns, &max);
    ds_put_format(ds, "connections: %llu offloaded, %llu bi-dir\n",
                  counter_get(&sum->counters[CT_OFFLOAD_N_OFFLOADED]),
                  counter_get(&sum->counters[CT_OFFLOAD_N_BI_DIR]));
    ds_put_format(ds, "  limit %u, refused because of it: %llu\n", max,
                  counter_get(&sum->reasons[CT_OFFLOAD_LIMIT]));
    if (ct_offload_n_threads()) {
        ds_put_format(ds, "  refused because too many were queued: %llu\n",
                      counter_get(&sum->reasons[CT_OFFLOAD_QUEUE]));
    }
    ds_put_format(ds, "  taken back into software: %llu\n",
                  counter_get(&sum->counters[CT_OFFLOAD_N_EVICTED]));
    ds_put_format(ds, "  idle in software: %llu asked, %llu in use in "
                  "hardware, %llu ended\n",
                  counter_get(&sum->counters[CT_OFFLOAD_N_ASKED]),
                  counter_get(&sum->counters[CT_OFFLOAD_N_EXTENDED]),
                  counter_get(&sum->counters[CT_OFFLOAD_N_LAPSED]));
}

static void
ct_offload_show(struct unixctl_conn *conn, int argc OVS_UNUSED,
                const char *argv[] OVS_UNUSED, void *aux OVS_UNUSED)
{
    enum unixctl_output_fmt fmt = unixctl_command_get_output_format(conn);
    struct json *json_providers = json_object_create();
    struct ds text = DS_EMPTY_INITIALIZER;
    struct ds ds = DS_EMPTY_INITIALIZER;
    struct thread_stats sum;
    bool enabled;
    size_t n = 0;

    stats_sum(&sum);
    ovs_mutex_lock(&registry_mutex);
    enabled = config_enabled;
    ovs_mutex_unlock(&registry_mutex);
    for (size_t i = 0; i < CT_OFFLOAD_MAX_PROVIDERS; i++) {
        struct provider *p = provider_get(i);

        if (p) {
            n++;
            if (fmt == UNIXCTL_OUTPUT_FMT_JSON) {
                json_object_put(json_providers, p->class->name,
                                provider_to_json(p, &sum));
            } else {
                provider_format(p, &sum, &text);
            }
        }
    }

    if (fmt == UNIXCTL_OUTPUT_FMT_JSON) {
        struct json *json = json_object_create();

        json_object_put(json, "enabled",
                        json_boolean_create(ct_offload_is_accepting()));
        json_object_put(json, "connections", counters_to_json(&sum));
        json_object_put(json, "threads", ct_offload_threads_to_json());
        json_object_put(json, "providers", json_providers);
        unixctl_command_reply_json(conn, json);
    } else {
        json_destroy(json_providers);
        ds_put_cstr(&ds, "conntrack offload: ");
        if (ct_offload_is_accepting()) {
            ds_put_format(&ds, "on, %"PRIuSIZE" provider%s\n",
                          n, n == 1 ? "" : "s");
        } else {
            ds_put_format(&ds, "off (%s)\n",
                          !dpif_offload_enabled()
                          ? "other_config:hw-offload is not true"
                          : !enabled
                          ? "other_config:hw-offload-ct is false"
                          : !n ? "no provider"
                          : "other_config:hw-offload-ct-size is 0");
        }
        counters_format(&sum, &ds);
        ct_offload_threads_format(&ds);
        ds_put_cstr(&ds, ds_cstr(&text));
        unixctl_command_reply(conn, ds_cstr(&ds));
    }
    ds_destroy(&text);
    ds_destroy(&ds);
}
