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

#include "ct-offload-stats.h"

#include <limits.h>
#include <string.h>

#include "openvswitch/dynamic-string.h"
#include "ovs-thread.h"
#include "util.h"

DEFINE_STATIC_PER_THREAD_DATA(struct ct_offload_stats *, thread_stats, NULL);

static struct ovs_mutex stats_mutex = OVS_MUTEX_INITIALIZER;
static struct ovs_list all_stats OVS_GUARDED_BY(stats_mutex)
    = OVS_LIST_INITIALIZER(&all_stats);

/* What threads that have ended had counted. */
static struct ct_offload_stats ended_stats OVS_GUARDED_BY(stats_mutex);

/* Statistics. */

/* Adds 'src' to 'dst'. */
static void
counter_sum(atomic_ullong *dst, const atomic_ullong *src)
{
    ct_offload_stats_add(dst, ct_offload_stats_read(src));
}

/* Subtracts 'src' from 'dst'. */
static void
counter_subtract(atomic_ullong *dst, const atomic_ullong *src)
{
    ct_offload_stats_add(dst, -ct_offload_stats_read(src));
}

static void
stats_add(struct ct_offload_stats *dst, const struct ct_offload_stats *src)
{
    for (size_t i = 0; i < CT_OFFLOAD_N_COUNTERS; i++) {
        counter_sum(&dst->counters[i], &src->counters[i]);
    }
    for (size_t i = 0; i < CT_OFFLOAD_N_REASONS; i++) {
        counter_sum(&dst->reasons[i], &src->reasons[i]);
    }
    for (size_t i = 0; i < CT_OFFLOAD_MAX_PROVIDERS; i++) {
        counter_sum(&dst->n_held[i], &src->n_held[i]);
        for (size_t j = 0; j < CT_OFFLOAD_N_OPS; j++) {
            counter_sum(&dst->ops[i][j].total, &src->ops[i][j].total);
            counter_sum(&dst->ops[i][j].errors, &src->ops[i][j].errors);
        }
    }
}

static void
stats_thread_end(void *stats_)
{
    struct ct_offload_stats *stats = stats_;

    ovs_mutex_lock(&stats_mutex);
    stats_add(&ended_stats, stats);
    ovs_list_remove(&stats->node);
    ovs_mutex_unlock(&stats_mutex);
    free_cacheline(stats);
}

static struct ct_offload_stats *
stats_create(void)
{
    static struct ovs_mutex key_mutex = OVS_MUTEX_INITIALIZER;
    static ovsthread_key_t key OVS_GUARDED_BY(key_mutex) = NULL;
    struct ct_offload_stats *stats = xzalloc_cacheline(sizeof *stats);

    ovs_mutex_lock(&stats_mutex);
    ovs_list_push_back(&all_stats, &stats->node);
    ovs_mutex_unlock(&stats_mutex);

    ovs_mutex_lock(&key_mutex);
    if (!key) {
        ovsthread_key_create(&key, stats_thread_end);
    }
    ovsthread_setspecific(key, stats);
    ovs_mutex_unlock(&key_mutex);
    *thread_stats_get() = stats;
    return stats;
}

/* Returns what the calling thread counts in. */
struct ct_offload_stats *
ct_offload_stats_get(void)
{
    struct ct_offload_stats *stats = *thread_stats_get();

    return OVS_LIKELY(stats) ? stats : stats_create();
}

/* Makes 'counter', which went up and down, be from 0 to 'max'. */
static void
counter_limit(atomic_ullong *counter, unsigned long long int max)
{
    unsigned long long int n = ct_offload_stats_read(counter);

    if (n > max) {
        atomic_store_relaxed(counter, n > LLONG_MAX ? 0 : max);
    }
}

/* Stores the sum over all threads in '*sum'.  They go on counting: one may be
 * read before it counts an ADD, and another after it has counted the DEL. */
void
ct_offload_stats_sum(struct ct_offload_stats *sum)
{
    struct ct_offload_stats *stats;

    memset(sum, 0, sizeof *sum);
    ovs_mutex_lock(&stats_mutex);
    stats_add(sum, &ended_stats);
    LIST_FOR_EACH (stats, node, &all_stats) {
        stats_add(sum, stats);
    }
    ovs_mutex_unlock(&stats_mutex);

    counter_limit(&sum->counters[CT_OFFLOAD_N_OFFLOADED], LLONG_MAX);
    for (size_t i = CT_OFFLOAD_N_BI_DIR; i <= CT_OFFLOAD_N_UNI_DIR; i++) {
        counter_limit(&sum->counters[i],
                      ct_offload_stats_read(
                          &sum->counters[CT_OFFLOAD_N_OFFLOADED]));
    }
    for (size_t i = 0; i < CT_OFFLOAD_MAX_PROVIDERS; i++) {
        counter_limit(&sum->n_held[i], LLONG_MAX);
    }
}

/* A provider is new in 'slot': forget what its predecessor counted. */
void
ct_offload_stats_clear_slot(unsigned int slot)
{
    struct ct_offload_stats sum;

    /* Threads may not write to another's counters, so have those of the ended
     * threads make the sum zero. */
    ct_offload_stats_sum(&sum);
    ovs_mutex_lock(&stats_mutex);
    counter_subtract(&ended_stats.n_held[slot], &sum.n_held[slot]);
    for (size_t i = 0; i < CT_OFFLOAD_N_OPS; i++) {
        counter_subtract(&ended_stats.ops[slot][i].total,
                         &sum.ops[slot][i].total);
        counter_subtract(&ended_stats.ops[slot][i].errors,
                         &sum.ops[slot][i].errors);
    }
    ovs_mutex_unlock(&stats_mutex);
}

/* Appends the names of the providers that are being called just now to 'ds',
 * separated by ", ". */
void
ct_offload_stats_format_calls(struct ds *ds)
{
    struct ct_offload_stats *stats;

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
    ct_offload_stats_add(&ct_offload_stats_get()->counters[counter], n);
}

/* Counts a connection that stays in software for 'reason'. */
void
ct_offload_count_reason(enum ct_offload_reason reason)
{
    ct_offload_stats_add(&ct_offload_stats_get()->reasons[reason], 1);
}

/* What is said of each reason: to programs and to people. */
static const struct {
    const char *name;
    const char *string;
} reasons[CT_OFFLOAD_N_REASONS] = {
    [CT_OFFLOAD_REASON_NONE] = { "waiting", "not offered yet" },
    [CT_OFFLOAD_NOT_ESTABLISHED] = { "not-established",
                                     "not established yet" },
    [CT_OFFLOAD_NO_PROVIDER] = { "no-provider",
                                 "port without a provider" },
    [CT_OFFLOAD_NO_BYPASS] = { "no-bypass",
                               "hw-offload-ct-bypass is not true" },
    [CT_OFFLOAD_NO_FORWARD] = { "no-forward",
                                "port cannot forward by itself" },
    [CT_OFFLOAD_NOT_ON_WIRE] = { "not-on-wire",
                                 "tuple is not what the port received" },
    [CT_OFFLOAD_BAD_PROTOCOL] = { "protocol", "protocol" },
    [CT_OFFLOAD_BAD_VLAN] = { "vlan", "VLAN tags" },
    [CT_OFFLOAD_HELPER] = { "helper", "helper reads its payload" },
    [CT_OFFLOAD_CLOSING] = { "closing", "closing or past its time" },
    [CT_OFFLOAD_LIMIT] = { "limit", "hw-offload-ct-size reached" },
    [CT_OFFLOAD_QUEUE] = { "queue", "offload thread has too much to do" },
    [CT_OFFLOAD_PREDECESSOR] = { "predecessor",
                                 "another connection has its tuple" },
    [CT_OFFLOAD_ERROR] = { "error", "error of the provider" },
    [CT_OFFLOAD_TAKEN_BACK] = { "taken-back",
                                "taken back, until it is offered again" },
    [CT_OFFLOAD_REFUSED] = { "refused", "refused by the provider" },
};

/* Returns the name of 'reason', for programs. */
const char *
ct_offload_reason_name(enum ct_offload_reason reason)
{
    return reasons[reason].name;
}

/* Returns 'reason' in words, for people. */
const char *
ct_offload_reason_to_string(enum ct_offload_reason reason)
{
    return reasons[reason].string;
}
