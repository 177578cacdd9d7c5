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

#include "ct-offload-dummy.h"

#include <errno.h>
#include <string.h>

#include "ct-offload-rows.h"
#include "ct-offload.h"
#include "dpif.h"
#include "hash.h"
#include "netdev.h"
#include "netdev-provider.h"
#include "openvswitch/dynamic-string.h"
#include "openvswitch/hmap.h"
#include "odp-util.h"
#include "openvswitch/json.h"
#include "openvswitch/list.h"
#include "openvswitch/vlog.h"
#include "ovs-thread.h"
#include "sset.h"
#include "timeval.h"
#include "unixctl.h"
#include "util.h"

VLOG_DEFINE_THIS_MODULE(ct_offload_dummy);

/* A connection that the provider holds. */
struct dummy_conn {
    struct hmap_node node;          /* In 'conns', by 'conn'. */
    const struct conn *conn;
    char *name;                     /* What identifies it, for people. */
    char *port_orig;                /* Name of the original direction's port,
                                     * or NULL. */
    char *port_reply;               /* The same for the reply direction. */
    bool modified_orig;             /* Were packets modified before ct()? */
    bool modified_reply;
    bool established;
    long long int last_used;        /* By "ct-offload-dummy/touch", or 0. */
};

/* A path, which the provider says to have hardware for. */
struct dummy_path {
    struct ovs_list node;           /* In 'paths'. */
    char *name;                     /* What it matches and does, for people. */
    uint64_t n_packets, n_bytes;    /* By "ct-offload-dummy/credit". */
};

enum dummy_counter {
    DUMMY_ADDED,
    DUMMY_DELETED,
    DUMMY_UPDATED,
    DUMMY_ESTABLISHED,
    DUMMY_MISUSED,              /* Calls that must not happen. */
    DUMMY_N_COUNTERS
};

static struct ovs_mutex mutex = OVS_MUTEX_INITIALIZER;
static struct hmap conns OVS_GUARDED_BY(mutex) = HMAP_INITIALIZER(&conns);
static unsigned int counters[DUMMY_N_COUNTERS] OVS_GUARDED_BY(mutex);
static struct ovs_list paths OVS_GUARDED_BY(mutex)
    = OVS_LIST_INITIALIZER(&paths);
static int add_error OVS_GUARDED_BY(mutex);
static int est_error OVS_GUARDED_BY(mutex);
static int stats_error OVS_GUARDED_BY(mutex); /* Of paths. */

/* How long the next operations take, by "ct-offload-dummy/set-delay". */
static unsigned int delay_us OVS_GUARDED_BY(mutex);
static unsigned int n_delays OVS_GUARDED_BY(mutex);

/* Ports of which connections are accepted. */
static bool accept_all OVS_GUARDED_BY(mutex); /* For test programs. */
static bool claim_all OVS_GUARDED_BY(mutex);
static struct sset claimed OVS_GUARDED_BY(mutex) = SSET_INITIALIZER(&claimed);

static bool enabled;            /* By --enable-dummy. */
static bool forward = false;    /* By "ct-offload-dummy/forward". */

static struct dummy_conn *
dummy_find(const struct conn *conn)
    OVS_REQUIRES(mutex)
{
    struct dummy_conn *dc;

    HMAP_FOR_EACH_WITH_HASH (dc, node, hash_pointer(conn, 0), &conns) {
        if (dc->conn == conn) {
            return dc;
        }
    }
    return NULL;
}

static void
dummy_misused(const struct ct_offload_ctx *ctx, const char *what)
    OVS_REQUIRES(mutex)
{
    struct ds ds = DS_EMPTY_INITIALIZER;

    counters[DUMMY_MISUSED]++;
    ct_offload_conn_format(ctx->conn, &ds);
    VLOG_ERR("%s: %s", ds_cstr(&ds), what);
    ds_destroy(&ds);
}

/* Takes as long as an operation is to take. */
static void
dummy_delay(void)
{
    unsigned int us = 0;

    ovs_mutex_lock(&mutex);
    if (n_delays) {
        us = delay_us;
        n_delays -= n_delays != UINT_MAX;
    }
    ovs_mutex_unlock(&mutex);

    if (us) {
        xnanosleep_no_quiesce(us * 1000LL);
    }
}

static char *
netdev_name_copy(const struct netdev *netdev)
{
    return netdev ? xstrdup(netdev_get_name(netdev)) : NULL;
}

static void
dummy_free(struct dummy_conn *dc)
    OVS_REQUIRES(mutex)
{
    hmap_remove(&conns, &dc->node);
    free(dc->name);
    free(dc->port_orig);
    free(dc->port_reply);
    free(dc);
}

static int
dummy_init(void)
{
    ct_offload_dummy_reset_counters();
    return 0;
}

static bool
dummy_can_offload(const struct ct_offload_ctx *ctx)
{
    const char *owner = ct_offload_netdev_owner(ctx->netdev_in);
    bool accept;

    if (owner && !strcmp(owner, ct_offload_dummy_class.name)) {
        return true;
    }

    ovs_mutex_lock(&mutex);
    accept = accept_all
             || (ctx->netdev_in && !owner
                 && (claim_all || sset_contains(
                         &claimed, netdev_get_name(ctx->netdev_in))));
    ovs_mutex_unlock(&mutex);

    return accept || ct_offload_refuse(CT_OFFLOAD_NO_PROVIDER);
}

static int
dummy_conn_add(const struct ct_offload_ctx *ctx)
{
    struct dummy_conn *dc;
    struct ds ds = DS_EMPTY_INITIALIZER;
    int error;

    ct_offload_conn_format(ctx->conn, &ds);
    dummy_delay();
    ovs_mutex_lock(&mutex);
    error = add_error;
    if (!error && dummy_find(ctx->conn)) {
        dummy_misused(ctx, "added twice");
        error = EEXIST;
    }
    if (!error) {
        dc = xzalloc(sizeof *dc);
        dc->conn = ctx->conn;
        dc->name = xstrdup(ds_cstr(&ds));
        dc->port_orig = netdev_name_copy(ctx->netdev_in);
        dc->modified_orig = ctx->netdev_in && !ctx->unmodified;
        hmap_insert(&conns, &dc->node, hash_pointer(dc->conn, 0));
        *ctx->priv = dc;
        counters[DUMMY_ADDED]++;
        VLOG_DBG("add %s, port %s", dc->name,
                 dc->port_orig ? dc->port_orig : "unknown");
    }
    ovs_mutex_unlock(&mutex);
    ds_destroy(&ds);

    return error;
}

/* Returns the connection of 'ctx', by its private pointer, or NULL if it is
 * not one that the provider holds. */
static struct dummy_conn *
dummy_get(const struct ct_offload_ctx *ctx)
    OVS_REQUIRES(mutex)
{
    struct dummy_conn *dc = dummy_find(ctx->conn);

    if (!dc || dc != *ctx->priv) {
        dummy_misused(ctx, "not held");
        return NULL;
    }
    return dc;
}

static void
dummy_conn_del(const struct ct_offload_ctx *ctx)
{
    struct dummy_conn *dc;

    dummy_delay();
    ovs_mutex_lock(&mutex);
    dc = dummy_get(ctx);
    if (dc) {
        VLOG_DBG("del %s", dc->name);
        counters[DUMMY_DELETED]++;
        dummy_free(dc);
    }
    ovs_mutex_unlock(&mutex);
}

static long long int
dummy_conn_update(const struct ct_offload_ctx *ctx)
{
    long long int last_used = 0;
    struct dummy_conn *dc;

    dummy_delay();
    ovs_mutex_lock(&mutex);
    dc = dummy_get(ctx);
    if (dc) {
        counters[DUMMY_UPDATED]++;
        last_used = dc->last_used;
    }
    ovs_mutex_unlock(&mutex);

    return last_used;
}

static int
dummy_conn_established(const struct ct_offload_ctx *ctx)
{
    struct dummy_conn *dc;
    int error = 0;

    dummy_delay();
    ovs_mutex_lock(&mutex);
    dc = dummy_get(ctx);
    if (dc && dc->established) {
        dummy_misused(ctx, "established twice");
    } else if (dc && est_error) {
        error = est_error;
        dummy_free(dc);
    } else if (dc) {
        dc->established = true;
        dc->port_reply = netdev_name_copy(ctx->netdev_in);
        dc->modified_reply = ctx->netdev_in && !ctx->unmodified;
        counters[DUMMY_ESTABLISHED]++;
        VLOG_DBG("est %s, port %s", dc->name,
                 dc->port_reply ? dc->port_reply : "unknown");
    }
    ovs_mutex_unlock(&mutex);

    return error;
}

static void
dummy_flush(void)
{
    struct dummy_conn *dc;

    ovs_mutex_lock(&mutex);
    HMAP_FOR_EACH_SAFE (dc, node, &conns) {
        VLOG_WARN("%s: flushed, but not deleted before", dc->name);
        counters[DUMMY_MISUSED]++;
        dummy_free(dc);
    }
    ovs_mutex_unlock(&mutex);
}

static bool
dummy_can_forward(const struct netdev *netdev_in OVS_UNUSED)
{
    return forward;
}

static int
dummy_path_add(const struct ct_offload_path *path, void **priv)
{
    struct dummy_path *dp = xzalloc(sizeof *dp);
    struct ds ds = DS_EMPTY_INITIALIZER;
    int error;

    if (path->fence) {
        ds_put_cstr(&ds, "fence ");
    }
    ct_offload_match_format(path->match, path->tunnel, &ds);
    if (!path->fence) {
        ds_put_cstr(&ds, ", actions:");
        format_odp_actions(&ds, path->actions, path->actions_len, NULL);
    }
    dp->name = ds_steal_cstr(&ds);

    dummy_delay();
    ovs_mutex_lock(&mutex);
    error = add_error;
    if (!error) {
        VLOG_DBG("path add %s", dp->name);
        ovs_list_push_back(&paths, &dp->node);
        *priv = dp;
    }
    ovs_mutex_unlock(&mutex);
    if (error) {
        free(dp->name);
        free(dp);
    }
    return error;
}

static void
dummy_path_del(void **priv, struct dpif_flow_stats *last)
{
    struct dummy_path *dp = *priv;

    dummy_delay();
    ovs_mutex_lock(&mutex);
    VLOG_DBG("path del %s", dp->name);
    last->n_packets = dp->n_packets;
    last->n_bytes = dp->n_bytes;
    ovs_list_remove(&dp->node);
    ovs_mutex_unlock(&mutex);
    free(dp->name);
    free(dp);
    *priv = NULL;
}

static int
dummy_path_stats(void **priv, struct dpif_flow_stats *total)
{
    struct dummy_path *dp = *priv;
    int error;

    ovs_mutex_lock(&mutex);
    error = stats_error;
    if (!error) {
        total->n_packets = dp->n_packets;
        total->n_bytes = dp->n_bytes;
    }
    ovs_mutex_unlock(&mutex);
    return error;
}

/* Appends to 'ds' what there is to say of 'dc', but for its name. */
static void
dummy_format(const struct dummy_conn *dc, struct ds *ds)
    OVS_REQUIRES(mutex)
{
    ds_put_format(ds, "ports=%s%s/%s%s%s",
                  dc->port_orig ? dc->port_orig : "unknown",
                  dc->modified_orig ? ",modified" : "",
                  dc->port_reply ? dc->port_reply : "unknown",
                  dc->modified_reply ? ",modified" : "",
                  dc->established ? ",established" : "");
}

static void
dummy_conn_format(const struct ct_offload_ctx *ctx, struct ds *ds)
{
    const struct dummy_conn *dc;

    ovs_mutex_lock(&mutex);
    dc = dummy_get(ctx);
    if (dc) {
        dummy_format(dc, ds);
    }
    ovs_mutex_unlock(&mutex);
}

static void
dummy_get_debug(struct ds *ds, struct json *json)
{
    const char **names;
    size_t n;

    ovs_mutex_lock(&mutex);
    names = sset_sort(&claimed);
    n = sset_count(&claimed);
    if (json) {
        struct json *array = json_array_create_empty();

        for (size_t i = 0; i < n; i++) {
            json_array_add(array, json_string_create(names[i]));
        }
        json_object_put(json, "claimed-ports", array);
        json_object_put(json, "claims-all", json_boolean_create(claim_all));
    } else if (claim_all || n) {
        ds_put_cstr(ds, "  claimed ports:");
        if (claim_all) {
            ds_put_cstr(ds, " all");
        }
        for (size_t i = 0; i < n; i++) {
            ds_put_format(ds, " %s", names[i]);
        }
        ds_put_char(ds, '\n');
    }
    free(names);
    ovs_mutex_unlock(&mutex);
}

struct ct_offload_class ct_offload_dummy_class = {
    .name = "dummy",
    .thread_safe = true,
    .init = dummy_init,
    .can_offload = dummy_can_offload,
    .conn_add = dummy_conn_add,
    .conn_del = dummy_conn_del,
    .conn_update = dummy_conn_update,
    .conn_established = dummy_conn_established,
    .flush = dummy_flush,
    .conn_format = dummy_conn_format,
    .get_debug = dummy_get_debug,
    .can_forward = dummy_can_forward,
    .fences = true,
    .path_add = dummy_path_add,
    .path_del = dummy_path_del,
    .path_stats = dummy_path_stats,
};

/* Registers a dummy provider that accepts every connection, with all counters
 * at 0.  Returns 0 if successful, otherwise a positive errno value. */
int
ct_offload_dummy_register(void)
{
    int error = ct_offload_register(&ct_offload_dummy_class);

    if (!error) {
        ovs_mutex_lock(&mutex);
        accept_all = true;
        ovs_mutex_unlock(&mutex);
    }
    return error;
}

/* Undoes ct_offload_dummy_register(). */
void
ct_offload_dummy_unregister(void)
{
    ct_offload_unregister(&ct_offload_dummy_class);
    ovs_mutex_lock(&mutex);
    accept_all = false;
    ovs_mutex_unlock(&mutex);
}

static unsigned int
dummy_count(enum dummy_counter counter)
{
    unsigned int n;

    ovs_mutex_lock(&mutex);
    n = counters[counter];
    ovs_mutex_unlock(&mutex);

    return n;
}

/* Returns the number of connections that were added. */
unsigned int
ct_offload_dummy_n_added(void)
{
    return dummy_count(DUMMY_ADDED);
}

/* Returns the number of connections that were deleted. */
unsigned int
ct_offload_dummy_n_deleted(void)
{
    return dummy_count(DUMMY_DELETED);
}

/* Returns how often the provider was asked for the last use of a connection.
 */
unsigned int
ct_offload_dummy_n_updated(void)
{
    return dummy_count(DUMMY_UPDATED);
}

/* Returns the number of connections that were established. */
unsigned int
ct_offload_dummy_n_established(void)
{
    return dummy_count(DUMMY_ESTABLISHED);
}

/* Returns the number of calls that broke the rules that a provider relies on:
 * a connection added or established twice, deleted without having been added.
 */
unsigned int
ct_offload_dummy_n_misused(void)
{
    return dummy_count(DUMMY_MISUSED);
}

/* Returns the number of connections that the provider holds. */
unsigned int
ct_offload_dummy_n_held(void)
{
    unsigned int n;

    ovs_mutex_lock(&mutex);
    n = hmap_count(&conns);
    ovs_mutex_unlock(&mutex);

    return n;
}

/* Sets all of the counters above, but for ct_offload_dummy_n_held(), to 0. */
void
ct_offload_dummy_reset_counters(void)
{
    ovs_mutex_lock(&mutex);
    memset(counters, 0, sizeof counters);
    ovs_mutex_unlock(&mutex);
}

/* From now on every ADD fails with 'error', a positive errno value, or, if it
 * is 0, succeeds again. */
void
ct_offload_dummy_set_add_error(int error)
{
    ovs_mutex_lock(&mutex);
    add_error = error;
    ovs_mutex_unlock(&mutex);
}

/* Does the provider hold 'conn'? */
bool
ct_offload_dummy_contains(const struct conn *conn)
{
    bool contains;

    ovs_mutex_lock(&mutex);
    contains = dummy_find(conn) != NULL;
    ovs_mutex_unlock(&mutex);

    return contains;
}

/* Does the provider hold 'conn', and know that it is established? */
bool
ct_offload_dummy_is_bidirectional(const struct conn *conn)
{
    const struct dummy_conn *dc;
    bool bidirectional;

    ovs_mutex_lock(&mutex);
    dc = dummy_find(conn);
    bidirectional = dc && dc->established;
    ovs_mutex_unlock(&mutex);

    return bidirectional;
}

static void
dummy_unixctl_claim(struct unixctl_conn *conn, int argc, const char *argv[],
                    void *aux OVS_UNUSED)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "all")) {
            struct netdev *netdev = netdev_from_name(argv[i]);

            if (!netdev) {
                char *error = xasprintf("there is no port \"%s\": add it to "
                                        "a bridge first, or claim \"all\"",
                                        argv[i]);

                unixctl_command_reply_error(conn, error);
                free(error);
                return;
            }
            netdev_close(netdev);
        }
    }

    ovs_mutex_lock(&mutex);
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "all")) {
            claim_all = true;
        } else {
            sset_add(&claimed, argv[i]);
        }
    }
    ovs_mutex_unlock(&mutex);
    unixctl_command_reply(conn, NULL);
}

static int
compare_names(const void *a_, const void *b_)
{
    const char *const *a = a_;
    const char *const *b = b_;

    return strcmp(*a, *b);
}

static void
dummy_unixctl_dump(struct unixctl_conn *conn, int argc OVS_UNUSED,
                   const char *argv[] OVS_UNUSED, void *aux OVS_UNUSED)
{
    struct ds ds = DS_EMPTY_INITIALIZER;
    const struct dummy_conn *dc;
    char **lines;
    size_t n = 0;

    ovs_mutex_lock(&mutex);
    lines = xmalloc(hmap_count(&conns) * sizeof *lines);
    HMAP_FOR_EACH (dc, node, &conns) {
        struct ds line = DS_EMPTY_INITIALIZER;

        ds_put_format(&line, "%s,", dc->name);
        dummy_format(dc, &line);
        lines[n++] = ds_steal_cstr(&line);
    }
    ovs_mutex_unlock(&mutex);

    qsort(lines, n, sizeof *lines, compare_names);
    for (size_t i = 0; i < n; i++) {
        ds_put_format(&ds, "%s\n", lines[i]);
        free(lines[i]);
    }
    free(lines);
    unixctl_command_reply(conn, ds_cstr(&ds));
    ds_destroy(&ds);
}

static void
dummy_unixctl_counters(struct unixctl_conn *conn, int argc OVS_UNUSED,
                       const char *argv[] OVS_UNUSED, void *aux OVS_UNUSED)
{
    char *reply;

    ovs_mutex_lock(&mutex);
    reply = xasprintf("added=%u established=%u updated=%u deleted=%u held=%"
                      PRIuSIZE" misused=%u\n",
                      counters[DUMMY_ADDED], counters[DUMMY_ESTABLISHED],
                      counters[DUMMY_UPDATED], counters[DUMMY_DELETED],
                      hmap_count(&conns), counters[DUMMY_MISUSED]);
    ovs_mutex_unlock(&mutex);
    unixctl_command_reply(conn, reply);
    free(reply);
}

static void
dummy_unixctl_touch(struct unixctl_conn *conn, int argc OVS_UNUSED,
                    const char *argv[], void *aux OVS_UNUSED)
{
    long long int now = time_msec();
    struct dummy_conn *dc;
    size_t n = 0;

    ovs_mutex_lock(&mutex);
    HMAP_FOR_EACH (dc, node, &conns) {
        if (strstr(dc->name, argv[1])) {
            dc->last_used = now;
            n++;
        }
    }
    ovs_mutex_unlock(&mutex);

    if (n) {
        unixctl_command_reply(conn, NULL);
    } else {
        unixctl_command_reply_error(conn, "no such connection");
    }
}

static void
dummy_unixctl_paths(struct unixctl_conn *conn, int argc OVS_UNUSED,
                    const char *argv[] OVS_UNUSED, void *aux OVS_UNUSED)
{
    struct ds ds = DS_EMPTY_INITIALIZER;
    struct dummy_path *dp;

    ovs_mutex_lock(&mutex);
    LIST_FOR_EACH (dp, node, &paths) {
        ds_put_format(&ds, "%s\n", dp->name);
    }
    ovs_mutex_unlock(&mutex);
    unixctl_command_reply(conn, ds_cstr(&ds));
    ds_destroy(&ds);
}

/* Has paths forward packets. */
static void
dummy_unixctl_credit(struct unixctl_conn *conn, int argc OVS_UNUSED,
                     const char *argv[], void *aux OVS_UNUSED)
{
    unsigned int n_packets, n_bytes;
    struct dummy_path *dp;
    size_t n = 0;

    if (!str_to_uint(argv[2], 10, &n_packets)
        || !str_to_uint(argv[3], 10, &n_bytes)) {
        unixctl_command_reply_error(conn, "bad number");
        return;
    }
    ovs_mutex_lock(&mutex);
    LIST_FOR_EACH (dp, node, &paths) {
        if (strstr(dp->name, argv[1])) {
            dp->n_packets += n_packets;
            dp->n_bytes += n_bytes;
            n++;
        }
    }
    ovs_mutex_unlock(&mutex);

    if (n) {
        unixctl_command_reply(conn, NULL);
    } else {
        unixctl_command_reply_error(conn, "no such path");
    }
}

/* From now on every ADD or EST, as 'error_' says, fails. */
static void
dummy_unixctl_set_error(struct unixctl_conn *conn, int argc OVS_UNUSED,
                        const char *argv[], void *error_)
{
    int error, *errorp = error_;

    if (!str_to_int(argv[1], 10, &error) || error < 0) {
        unixctl_command_reply_error(conn, "bad errno value");
        return;
    }
    ovs_mutex_lock(&mutex);
    *errorp = error;
    ovs_mutex_unlock(&mutex);
    unixctl_command_reply(conn, NULL);
}

/* Sets '*flag_', which is in the provider's class: the provider comes anew,
 * and is offered again what it held. */
static void
dummy_unixctl_flag(struct unixctl_conn *conn, int argc OVS_UNUSED,
                   const char *argv[], void *flag_)
{
    bool on = !strcmp(argv[1], "on");
    bool *flag = flag_;

    if (!on && strcmp(argv[1], "off")) {
        unixctl_command_reply_error(conn, "say \"on\" or \"off\"");
        return;
    }
    if (*flag != on) {
        bool registered = ct_offload_is_registered(&ct_offload_dummy_class);

        if (registered) {
            ct_offload_unregister(&ct_offload_dummy_class);
        }
        *flag = on;
        if (registered) {
            ct_offload_register(&ct_offload_dummy_class);
        }
    }
    unixctl_command_reply(conn, NULL);
}

static void
dummy_unixctl_delay(struct unixctl_conn *conn, int argc, const char *argv[],
                    void *aux OVS_UNUSED)
{
    unsigned int us, n = UINT_MAX;

    if (!str_to_uint(argv[1], 10, &us)
        || (argc > 2 && !str_to_uint(argv[2], 10, &n))) {
        unixctl_command_reply_error(conn, "bad number");
        return;
    }
    ovs_mutex_lock(&mutex);
    delay_us = us;
    n_delays = n;
    ovs_mutex_unlock(&mutex);
    unixctl_command_reply(conn, NULL);
}

/* Makes the provider one of those that are active when hardware offload is
 * enabled, and registers its commands. */
void
ct_offload_dummy_enable(void)
{
    enabled = true;
    unixctl_command_register("ct-offload-dummy/claim", "all|PORT...",
                             1, INT_MAX, dummy_unixctl_claim, NULL);
    unixctl_command_register("ct-offload-dummy/dump", "", 0, 0,
                             dummy_unixctl_dump, NULL);
    unixctl_command_register("ct-offload-dummy/counters", "", 0, 0,
                             dummy_unixctl_counters, NULL);
    unixctl_command_register("ct-offload-dummy/touch", "PART-OF-CONNECTION",
                             1, 1, dummy_unixctl_touch, NULL);
    unixctl_command_register("ct-offload-dummy/set-add-error", "ERRNO", 1, 1,
                             dummy_unixctl_set_error, &add_error);
    unixctl_command_register("ct-offload-dummy/set-est-error", "ERRNO", 1, 1,
                             dummy_unixctl_set_error, &est_error);
    unixctl_command_register("ct-offload-dummy/set-stats-error", "ERRNO", 1,
                             1, dummy_unixctl_set_error, &stats_error);
    unixctl_command_register("ct-offload-dummy/bypass", "on|off", 1, 1,
                             dummy_unixctl_flag,
                             &ct_offload_dummy_class.may_bypass);
    unixctl_command_register("ct-offload-dummy/established-only", "on|off",
                             1, 1, dummy_unixctl_flag,
                             &ct_offload_dummy_class.established_only);
    unixctl_command_register("ct-offload-dummy/forward", "on|off", 1, 1,
                             dummy_unixctl_flag, &forward);
    unixctl_command_register("ct-offload-dummy/paths", "", 0, 0,
                             dummy_unixctl_paths, NULL);
    unixctl_command_register("ct-offload-dummy/credit",
                             "PART-OF-PATH PACKETS BYTES", 3, 3,
                             dummy_unixctl_credit, NULL);
    unixctl_command_register("ct-offload-dummy/set-delay", "US [N]", 1, 2,
                             dummy_unixctl_delay, NULL);
}

/* Was ct_offload_dummy_enable() called? */
bool
ct_offload_dummy_is_enabled(void)
{
    return enabled;
}
