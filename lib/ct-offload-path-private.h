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

#ifndef CT_OFFLOAD_PATH_PRIVATE_H
#define CT_OFFLOAD_PATH_PRIVATE_H 1

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cmap.h"
#include "ct-offload-chain.h"
#include "openvswitch/hmap.h"
#include "openvswitch/list.h"
#include "util.h"

/* What a path is: for ct-offload-path*.c only, see ct-offload-path.h. */

/* Why paths have ended. */
enum path_end {
    PATH_END_MEGAFLOW,
    PATH_END_CONN,
    PATH_END_IDLE,
    PATH_END_CONFIG,
    PATH_END_KEY,               /* Another one has the same match. */
    PATH_END_HARDWARE,          /* The provider cannot go on. */
    PATH_END_UNSEEN,            /* It has counted nothing, while packets that
                                 * it should have taken came to software. */
    PATH_END_ERROR,             /* It could not be made. */
    PATH_N_ENDS
};

enum path_state {
    PATH_NEW,                   /* A thread is telling the provider. */
    PATH_CANCEL,                /* That, and it is to go. */
    PATH_LIVE,
    PATH_ENDING,                /* A thread is telling the provider. */
};

/* What ties a path to a connection. */
struct path_conn {
    struct hmap_node node;      /* In a table of connections. */
    uintptr_t conn;             /* And in the lowest bits, which are 0 in the
                                 * pointer: */
};

#define PATH_CONN_INDEX 7       /* Which of the path's connections it is. */
#define PATH_CONN_REPLY 8       /* Is the path its reply direction? */
#define PATH_CONN_MASK 15


/* What ties a path to a ct() that found no connection. */
struct path_miss {
    struct cmap_node node;      /* In a table, by zone and tuple. */
    struct path *path;
    uint32_t hash;
};

struct path {
    struct hmap_node node;      /* In a table, by what it matches. */
    struct ovs_list chain_node; /* In 'chain->paths'. */
    struct ct_chain *chain;
    void *priv;                 /* Of the provider. */
    uint64_t n_packets, n_bytes; /* As last sampled. */
    long long int used;         /* When that has changed, in ms. */
    uint32_t asked;             /* When the provider was asked last, in ms. */
    uint8_t state;              /* enum path_state. */
    uint8_t n_conns;
    uint8_t n_holds;            /* It must not be freed. */
    bool made : 1;              /* Does the provider have it? */
    bool querying : 1;          /* The provider is being asked. */
    bool moved : 1;             /* It has counted packets in this pass. */
    uint8_t n_unseen : 4;       /* Passes: see PATH_END_UNSEEN. */
    struct path_conn conns[];   /* And 'struct path_miss'es after these. */
};

/* There may be millions of them: with two connections, no more than that. */
BUILD_ASSERT_DECL(sizeof(struct path) + 2 * sizeof(struct path_conn) <= 128);

/* Tables of paths are in so many parts, so that no operation on one of them
 * takes long. */
#define PATH_PART_BITS 10
#define PATH_N_PARTS (1u << PATH_PART_BITS)

/* What has happened to paths so far. */
struct ct_path_counts {
    unsigned long long int made, failed;
    unsigned long long int ended[PATH_N_ENDS];

    /* Traces that have led to no path. */
    unsigned long long int not_held; /* The connections were not, or not any
                                      * more, as they have to be. */
    unsigned long long int no_port; /* Where packets leave is not known. */
    unsigned long long int refused; /* By the compiler. */
    unsigned long long int changed; /* A megaflow has just changed. */
};
extern struct ct_path_counts ct_path_counts OVS_GUARDED_BY(ct_chains_mutex);

size_t ct_path_count(void);
struct path *ct_path_next(size_t part, struct hmap_position *)
    OVS_REQUIRES(ct_chains_mutex);
struct path *ct_path_of_conn(const struct conn *, bool reply)
    OVS_REQUIRES(ct_chains_mutex);
struct conn *ct_path_get_conn(const struct path *, size_t i, bool *reply);
struct conn *ct_path_get_lead(const struct path *, bool *reply);
void ct_path_hold(struct path *) OVS_REQUIRES(ct_chains_mutex);
void ct_path_unhold(struct path *) OVS_REQUIRES(ct_chains_mutex);
void ct_path_describe_conn(const struct conn *, bool reply,
                           struct ct_merge_conn *)
    OVS_EXCLUDED(ct_chains_mutex);
size_t ct_path_count_misses(const struct ct_chain_key *);
struct path *ct_path_find(const struct ct_chain *,
                          const struct ct_dpif_tuple *wire)
    OVS_REQUIRES(ct_chains_mutex);
void ct_path_link(struct path *, const struct ct_merge_path *)
    OVS_REQUIRES(ct_chains_mutex);
bool ct_path_describe(const struct path *, struct ct_merge_path *)
    OVS_EXCLUDED(ct_chains_mutex);
int ct_path_query(struct path *, long long int now)
    OVS_REQUIRES(ct_chains_mutex);
void ct_path_finish(struct path *, enum path_end)
    OVS_REQUIRES(ct_chains_mutex);

/* Told by ct-offload-path-sample.c: how long a pass takes, from one reading of
 * a path to the next, in ms. */
extern atomic_llong ct_path_pass_ms;

#endif /* ct-offload-path-private.h */
