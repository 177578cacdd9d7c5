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

#ifndef CT_OFFLOAD_STATS_H
#define CT_OFFLOAD_STATS_H 1

#include "ct-offload.h"
#include "openvswitch/list.h"
#include "ovs-atomic.h"

/* What is counted
 * ===============
 *
 * Each thread counts for itself, so that threads do not share what they write.
 * Differences may be "negative" in one thread: only the sum over all threads
 * has a meaning.  Any thread may call these functions. */

/* Connections, beside the operations of each provider. */
enum ct_offload_counter {
    CT_OFFLOAD_N_OFFLOADED,     /* Held by a provider. */
    CT_OFFLOAD_N_BI_DIR,        /* Hardware has both directions of them... */
    CT_OFFLOAD_N_UNI_DIR,       /* ...or one. */
    CT_OFFLOAD_N_CLOSED,        /* Taken back upon FIN or RST. */
    CT_OFFLOAD_N_EVICTED,       /* Taken back for another reason. */
    CT_OFFLOAD_N_ASKED,         /* Out of time, but perhaps in use. */
    CT_OFFLOAD_N_EXTENDED,      /* Still in use. */
    CT_OFFLOAD_N_LAPSED,        /* Not in use any more. */
    CT_OFFLOAD_N_COUNTERS
};

struct ct_offload_op_stats {
    atomic_ullong total;
    atomic_ullong errors;
};

struct ct_offload_stats {
    struct ovs_list node;       /* In the list of threads. */
    ATOMIC(const char *) calling; /* Name of the provider that the thread is
                                   * calling, or NULL. */
    atomic_ullong counters[CT_OFFLOAD_N_COUNTERS];
    atomic_ullong reasons[CT_OFFLOAD_N_REASONS]; /* Connections that stay, or
                                                  * go back, for that. */
    atomic_ullong n_held[CT_OFFLOAD_MAX_PROVIDERS];
    struct ct_offload_op_stats ops[CT_OFFLOAD_MAX_PROVIDERS][CT_OFFLOAD_N_OPS];
};

/* Adds 'n' to 'counter', which belongs to the calling thread. */
static inline void
ct_offload_stats_add(atomic_ullong *counter, unsigned long long int n)
{
    unsigned long long int old;

    atomic_read_relaxed(counter, &old);
    atomic_store_relaxed(counter, old + n);
}

static inline unsigned long long int
ct_offload_stats_read(const atomic_ullong *counter)
{
    unsigned long long int n;

    atomic_read_relaxed(CONST_CAST(atomic_ullong *, counter), &n);
    return n;
}

struct ct_offload_stats *ct_offload_stats_get(void);
void ct_offload_stats_sum(struct ct_offload_stats *);
void ct_offload_stats_clear_slot(unsigned int slot);
void ct_offload_stats_format_calls(struct ds *);

void ct_offload_count(enum ct_offload_counter, int n);
void ct_offload_count_reason(enum ct_offload_reason);
const char *ct_offload_reason_name(enum ct_offload_reason);
const char *ct_offload_reason_to_string(enum ct_offload_reason);

#endif /* ct-offload-stats.h */
