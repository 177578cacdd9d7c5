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

#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <string.h>
#include <strings.h>

#include "conntrack-offload.h"
#include "conntrack-offload-batch.h"
#include "ct-dpif.h"
#include "ct-offload-dpdk.h"
#include "ct-offload-dummy.h"
#include "ct-offload-path.h"
#include "ct-offload-private.h"
#include "ct-offload-room.h"
#include "ct-offload-rows.h"
#include "ct-offload-stats.h"
#include "ct-offload-thread.h"
#include "ct-offload.h"
#include "dpdk.h"
#include "dpif-offload-provider.h"
#include "dpif-offload.h"
#include "fatal-signal.h"
#include "netdev-provider.h"
#include "openvswitch/dynamic-string.h"
#include "openvswitch/json.h"
#include "openvswitch/ofp-ct.h"
#include "openvswitch/vlog.h"
#include "ovs-rcu.h"
#include "ovs-thread.h"
#include "packets.h"
#include "smap.h"
#include "unixctl.h"
#include "util.h"

VLOG_DEFINE_THIS_MODULE(ct_offload_module);

/* The daemon's side of conntrack offload: its configuration, the providers
 * that are built in, ports that come and go, the end of the program, and what
 * users see.  All of it is for the main thread. */

/* Configuration, as it was read last. */
#define DEFAULT_N_THREADS 1
static bool config_enabled = true;
static bool config_bypass = false;
static bool config_forward = true;
static unsigned int config_size = CT_OFFLOAD_DEFAULT_ROOM;
static unsigned int config_n_threads = DEFAULT_N_THREADS;

static bool started;            /* Offload threads, if any. */

/* Providers that are built in, and active when hardware offload is enabled.
 */
static const struct ct_offload_class *const builtin_classes[] = {
#ifdef DPDK_NETDEV
    &ct_offload_dpdk_class,
#endif
    &ct_offload_dummy_class,
};

/* Can 'class', which is built in, be of use in this process by now? */
static bool
builtin_is_available(const struct ct_offload_class *class)
{
    return (class == &ct_offload_dummy_class ? ct_offload_dummy_is_enabled()
            : dpdk_available());
}

/* The end. */

/* How long a fatal signal waits for another thread that calls a provider. */
#define FATAL_WAIT_MS 1000

/* A fatal signal is about to end the process.  Other threads may be waiting
 * for the caller, so do not wait for them to quiesce. */
static void
fatal_signal(void *aux OVS_UNUSED)
{
    uint8_t leaving;

    ct_offload_set_exiting();
    for (size_t i = 0; i < ARRAY_SIZE(builtin_classes); i++) {
        ct_offload_set_leaving(builtin_classes[i]);
    }
    leaving = ct_offload_leaving();
    if (leaving) {
        /* Other threads may be adding connections that nobody holds yet. */
        conn_batches_wait(FATAL_WAIT_MS);
        ct_offload_threads_barrier(false);
        conntrack_offload_evict(leaving);
        conn_batches_wait(FATAL_WAIT_MS);
        ct_offload_threads_barrier(false);
    }
}

/* Called at the end of the program, before ovsrcu_exit(): takes from the
 * built-in providers all that they hold. */
void
ct_offload_exit(void)
{
    ct_offload_set_exiting();
    for (size_t i = 0; i < ARRAY_SIZE(builtin_classes); i++) {
        if (ct_offload_is_registered(builtin_classes[i])) {
            ct_offload_unregister(builtin_classes[i]);
        }
    }
    ct_offload_threads_stop();
}

/* Configuration. */

/* If hardware offload is enabled, registers the providers that are built in
 * and have become available, and starts the offload threads if there is
 * something for them to do.  To be called when something that they need has
 * been initialized. */
void
ct_offload_register_builtins(void)
{
    static bool registered[ARRAY_SIZE(builtin_classes)];
    bool any = false;

    if (!dpif_offload_enabled()) {
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(builtin_classes); i++) {
        if (!registered[i] && builtin_is_available(builtin_classes[i])) {
            registered[i] = true;
            ct_offload_register(builtin_classes[i]);
        }
    }
    for (size_t i = 0; i < CT_OFFLOAD_MAX_PROVIDERS; i++) {
        bool leaving;

        any = any || ct_offload_provider_get(i, &leaving);
    }
    if (any && !started) {
        started = true;
        ct_offload_threads_start(config_n_threads);
        fatal_signal_add_hook(fatal_signal, NULL, NULL, false);
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

/* Applies the configuration in 'config', column other_config of the
 * Open_vSwitch table.  The caller must not hold a pointer that is protected by
 * RCU. */
void
ct_offload_set_config(const struct smap *config)
{
    unsigned int n_threads;

    config_enabled = config_get_bool(config, "hw-offload-ct", true,
                                     config_enabled);
    config_bypass = config_get_bool(config, "hw-offload-ct-bypass", false,
                                    config_bypass);
    config_forward = config_get_bool(config, "hw-offload-ct-forward", true,
                                     config_forward);
    config_size = config_get_uint(config, "hw-offload-ct-size", UINT_MAX,
                                  CT_OFFLOAD_DEFAULT_ROOM, config_size);
    n_threads = config_get_uint(config, "hw-offload-ct-threads",
                                CT_OFFLOAD_MAX_THREADS, DEFAULT_N_THREADS,
                                config_n_threads);
    if (started && n_threads != config_n_threads) {
        VLOG_WARN("other_config:hw-offload-ct-threads changed from %u to %u: "
                  "restart the daemon for that to take effect",
                  config_n_threads, n_threads);
    }
    config_n_threads = n_threads;

    ct_offload_room_set_limit(config_size);
    ct_path_configure(config_forward);
    ct_offload_configure(config_enabled && config_size, config_bypass);
    ct_offload_register_builtins();
}

/* Ports. */

/* 'netdev' is about to stop, to be reconfigured or to go away, or has no owner
 * in dpif-offload any more.  When this returns, no provider holds anything
 * that refers to 'netdev'.  The caller must have made sure that no packets
 * come from 'netdev' meanwhile.  Waits for threads that are in a callback, but
 * does not quiesce. */
void
ct_offload_netdev_flush(struct netdev *netdev)
{
    conntrack_offload_stop_port(netdev);
    ct_offload_providers_netdev_flush(netdev);
}

/* 'netdev' is about to stop, as for ct_offload_netdev_flush(), and nobody is
 * to offload anything of it before ct_offload_netdev_start().  If rules for
 * flows would be lost as well as those for connections, dpif-offload's owner
 * of 'netdev' gives them up.  Returns that owner, or NULL if there is none
 * that has to.  The caller must not hold a lock of 'netdev' or a pointer that
 * is protected by RCU. */
const struct dpif_offload *
ct_offload_netdev_stop(struct netdev *netdev)
{
    const struct dpif_offload *owner
        = ovsrcu_get(const struct dpif_offload *, &netdev->dpif_offload);

    if (owner && !owner->class->netdev_flow_flush) {
        owner = NULL;
    }
    if (owner) {
        ovsrcu_set(&netdev->dpif_offload, NULL);
    }
    ct_offload_netdev_flush(netdev);
    if (owner) {
        owner->class->netdev_flow_flush(owner, netdev);
    }
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

/* What users see. */

/* Stores in 'stats' what "dpctl/offload-stats-show" is to show, and returns 1;
 * or returns 0 if no provider has ever taken a connection. */
size_t
ct_offload_get_stats(struct netdev_custom_stats *stats)
{
    struct ct_offload_thread_stats threads;
    static bool ever = false;
    struct ct_offload_stats sum;

    ct_offload_stats_sum(&sum);
    for (size_t i = 0; i < CT_OFFLOAD_MAX_PROVIDERS; i++) {
        ever = ever || ct_offload_stats_read(
            &sum.ops[i][CT_OFFLOAD_OP_ADD].total);
    }
    if (!ever) {
        return 0;
    }
    ct_offload_threads_get_stats(&threads);

    uint64_t n
        = ct_offload_stats_read(&sum.counters[CT_OFFLOAD_N_OFFLOADED]);
    uint64_t n_bi_dir
        = ct_offload_stats_read(&sum.counters[CT_OFFLOAD_N_BI_DIR]);
    uint64_t n_uni_dir
        = ct_offload_stats_read(&sum.counters[CT_OFFLOAD_N_UNI_DIR]);
    const struct {
        const char *name;
        uint64_t value;
    } rows[] = {
        { "CT bi-dir Connections", n_bi_dir },
        { "CT uni-dir Connections", n_uni_dir },
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

/* Shows the numbers of connections in 'ds', or in 'json' if that is
 * nonnull. */
static void
show_connections(const struct ct_offload_stats *sum, struct ds *ds,
                 struct json *json)
{
    unsigned long long int n[CT_OFFLOAD_N_COUNTERS];

    for (size_t i = 0; i < CT_OFFLOAD_N_COUNTERS; i++) {
        n[i] = ct_offload_stats_read(&sum->counters[i]);
    }

    const struct ct_offload_row rows[] = {
        { "offloaded", "connections: ", n[CT_OFFLOAD_N_OFFLOADED],
          " offloaded" },
        { "bi-dir", ", ", n[CT_OFFLOAD_N_BI_DIR], " bi-dir" },
        { "uni-dir", ", ", n[CT_OFFLOAD_N_UNI_DIR], " uni-dir\n" },
        { "limit", "  limit: ", ct_offload_room_get_limit(), "\n" },
        { "closed", "  closed by FIN or RST: ", n[CT_OFFLOAD_N_CLOSED], "\n" },
        { "taken-back", "  taken back into software: ",
          n[CT_OFFLOAD_N_EVICTED], "\n" },
        { "expiry-asked", "  idle in software: ", n[CT_OFFLOAD_N_ASKED],
          " asked" },
        { "expiry-extended", ", ", n[CT_OFFLOAD_N_EXTENDED],
          " in use in hardware" },
        { "expiry-lapsed", ", ", n[CT_OFFLOAD_N_LAPSED], " ended\n" },
    };

    ct_offload_rows_show(rows, ARRAY_SIZE(rows), ds, json);
}

/* The same for the connections that stay, or go back, into software. */
static void
show_reasons(const struct ct_offload_stats *sum, struct ds *ds,
             struct json *json)
{
    bool any = false;

    for (size_t i = 0; i < CT_OFFLOAD_N_REASONS; i++) {
        unsigned long long int n = ct_offload_stats_read(&sum->reasons[i]);

        if (json) {
            json_object_put(json, ct_offload_reason_name(i),
                            json_integer_create(n));
        } else if (n) {
            ds_put_format(ds, "%s  %s: %llu\n",
                          any ? "" : "kept in software:\n",
                          ct_offload_reason_to_string(i), n);
            any = true;
        }
    }
}

/* The same for provider 'slot', of 'class'. */
static void
show_provider(size_t slot, const struct ct_offload_class *class, bool leaving,
              const struct ct_offload_stats *sum, struct ds *ds,
              struct json *json)
{
    static const char *const names[CT_OFFLOAD_N_OPS] = {
        [CT_OFFLOAD_OP_ADD] = "add",
        [CT_OFFLOAD_OP_DEL] = "del",
        [CT_OFFLOAD_OP_UPD] = "upd",
        [CT_OFFLOAD_OP_POLICY] = "policy",
        [CT_OFFLOAD_OP_FLUSH] = "flush",
        [CT_OFFLOAD_OP_EST] = "est",
    };
    unsigned long long int n = ct_offload_stats_read(&sum->n_held[slot]);
    const char *state = leaving ? "leaving" : "active";
    struct json *ops = NULL;

    if (json) {
        ops = json_object_create();
        json_object_put_string(json, "state", state);
        json_object_put(json, "connections", json_integer_create(n));
        json_object_put(json, "operations", ops);
    } else {
        ds_put_format(ds, "\nprovider %s: %s, connections held: %llu\n"
                      "  %-8s %12s %12s\n", class->name, state, n,
                      "op", "total", "errors");
    }
    for (size_t i = 0; i < CT_OFFLOAD_N_OPS; i++) {
        const struct ct_offload_row rows[] = {
            { "total", "", ct_offload_stats_read(&sum->ops[slot][i].total),
              "" },
            { "errors", "", ct_offload_stats_read(&sum->ops[slot][i].errors),
              "" },
        };

        if (json) {
            struct json *op = json_object_create();

            ct_offload_rows_show(rows, ARRAY_SIZE(rows), NULL, op);
            json_object_put(ops, names[i], op);
        } else {
            ds_put_format(ds, "  %-8s %12llu %12llu\n", names[i], rows[0].n,
                          rows[1].n);
        }
    }
    if (!ct_offload_provider_get_debug(slot, json ? NULL : ds, json)
        && !json) {
        ds_put_cstr(ds, "  busy, no details\n");
    }
}

/* Returns why conntrack offload is off, if it is, with 'n' providers. */
static const char *
why_off(size_t n)
{
    return (!dpif_offload_enabled() ? "other_config:hw-offload is not true"
            : !config_enabled ? "other_config:hw-offload-ct is false"
            : !n ? "no provider"
            : "other_config:hw-offload-ct-size is 0");
}

static void
ct_offload_show(struct unixctl_conn *conn, int argc OVS_UNUSED,
                const char *argv[] OVS_UNUSED, void *aux OVS_UNUSED)
{
    bool as_json = (unixctl_command_get_output_format(conn)
                    == UNIXCTL_OUTPUT_FMT_JSON);
    struct json *providers = as_json ? json_object_create() : NULL;
    bool on = ct_offload_is_accepting();
    struct ds details = DS_EMPTY_INITIALIZER;
    struct ds ds = DS_EMPTY_INITIALIZER;
    struct ct_offload_stats sum;
    size_t n = 0;

    ct_offload_stats_sum(&sum);
    for (size_t i = 0; i < CT_OFFLOAD_MAX_PROVIDERS; i++) {
        const struct ct_offload_class *class;
        bool leaving;

        class = ct_offload_provider_get(i, &leaving);
        if (class) {
            struct json *json = as_json ? json_object_create() : NULL;

            show_provider(i, class, leaving, &sum, &details, json);
            if (json) {
                json_object_put(providers, class->name, json);
            }
            n++;
        }
    }

    if (as_json) {
        struct json *conns = json_object_create();
        struct json *reasons = json_object_create();
        struct json *paths = json_object_create();
        struct json *json = json_object_create();

        ct_path_show(NULL, paths);
        show_connections(&sum, NULL, conns);
        show_reasons(&sum, NULL, reasons);
        json_object_put(json, "enabled", json_boolean_create(on));
        json_object_put(json, "bypass", json_boolean_create(config_bypass));
        json_object_put(json, "connections", conns);
        json_object_put(json, "software", reasons);
        json_object_put(json, "threads", ct_offload_threads_to_json());
        json_object_put(json, "paths", paths);
        json_object_put(json, "providers", providers);
        unixctl_command_reply_json(conn, json);
    } else {
        ds_put_cstr(&ds, "conntrack offload: ");
        if (on) {
            ds_put_format(&ds, "on, %"PRIuSIZE" provider%s\n",
                          n, n == 1 ? "" : "s");
        } else {
            ds_put_format(&ds, "off (%s)\n", why_off(n));
        }
        ds_put_format(&ds, "packets may bypass software "
                      "(hw-offload-ct-bypass): %s\n",
                      config_bypass ? "true" : "as the provider says");
        show_connections(&sum, &ds, NULL);
        show_reasons(&sum, &ds, NULL);
        ds_put_format(&ds, "offload threads: %u", ct_offload_n_threads());
        if (started && ct_offload_n_threads() != config_n_threads) {
            ds_put_format(&ds, " (hw-offload-ct-threads is %u: restart the "
                          "daemon for that)", config_n_threads);
        }
        ds_put_char(&ds, '\n');
        ct_offload_threads_format(&ds);
        ct_path_show(&ds, NULL);
        ds_put_cstr(&ds, ds_cstr(&details));
        unixctl_command_reply(conn, ds_cstr(&ds));
    }
    ds_destroy(&details);
    ds_destroy(&ds);
}

/* "ct-offload/chains" and "ct-offload/paths". */

/* Replies to 'conn' with what 'show' shows, with 'arg'. */
static void
reply_paths(struct unixctl_conn *conn,
            void (*show)(const char *arg, struct ds *, struct json *),
            const char *arg)
{
    if (unixctl_command_get_output_format(conn) == UNIXCTL_OUTPUT_FMT_JSON) {
        struct json *array = json_array_create_empty();

        show(arg, NULL, array);
        unixctl_command_reply_json(conn, array);
    } else {
        struct ds ds = DS_EMPTY_INITIALIZER;

        show(arg, &ds, NULL);
        unixctl_command_reply(conn, ds_cstr(&ds));
        ds_destroy(&ds);
    }
}

static void
ct_offload_chains(struct unixctl_conn *conn, int argc, const char *argv[],
                  void *aux OVS_UNUSED)
{
    if (argc > 1 && strcmp(argv[1], "-m")) {
        unixctl_command_reply_error(conn, "say \"-m\" or nothing");
    } else {
        reply_paths(conn, ct_path_show_chains, argc > 1 ? argv[1] : NULL);
    }
}

static void
ct_offload_paths(struct unixctl_conn *conn, int argc, const char *argv[],
                 void *aux OVS_UNUSED)
{
    reply_paths(conn, ct_path_show_paths, argc > 1 ? argv[1] : NULL);
}

/* "ct-offload/explain". */

/* No more connections than that are explained. */
#define EXPLAIN_MAX 1000

struct explain_aux {
    struct ofp_ct_match match;
    bool with_zone;
    uint16_t zone;
    size_t n;
    struct ds ds;
};

static bool
addr_matches(const struct in6_addr *wanted, uint16_t l3_type,
             const union ct_dpif_inet_addr *addr)
{
    return (ipv6_is_zero(wanted)
            || (l3_type == AF_INET
                ? in6_addr_get_mapped_ipv4(wanted) == addr->ip
                : ipv6_addr_equals(wanted, &addr->in6)));
}

/* Is 'tuple' what 'wanted' says, as far as that says something? */
static bool
tuple_matches(const struct ofp_ct_tuple *wanted,
              const struct ct_dpif_tuple *tuple)
{
    return (addr_matches(&wanted->src, tuple->l3_type, &tuple->src)
            && addr_matches(&wanted->dst, tuple->l3_type, &tuple->dst)
            && (!wanted->src_port || wanted->src_port == tuple->src_port)
            && (!wanted->dst_port || wanted->dst_port == tuple->dst_port));
}

/* The same for 'conn', as "dpctl/flush-conntrack" would see it. */
static bool
conn_matches(const struct conn *conn, const struct ofp_ct_match *match)
{
    struct ct_dpif_tuple orig, reply;

    ct_offload_conn_get_tuple(conn, false, &orig);
    ct_offload_conn_get_tuple(conn, true, &reply);
    return ((!match->l3_type || match->l3_type == orig.l3_type)
            && (!match->ip_proto || match->ip_proto == orig.ip_proto)
            && tuple_matches(&match->tuple_orig, &orig)
            && tuple_matches(&match->tuple_reply, &reply)
            && !((match->mark ^ ct_offload_conn_get_mark(conn))
                 & match->mark_mask)
            && ovs_u128_equals(ovs_u128_and(match->labels,
                                            match->labels_mask),
                               ovs_u128_and(ct_offload_conn_get_labels(conn),
                                            match->labels_mask)));
}

static void
explain_one(struct conn *conn, void *aux_)
{
    struct explain_aux *aux = aux_;

    if ((!aux->with_zone || aux->zone == ct_offload_conn_get_zone(conn))
        && conn_matches(conn, &aux->match)
        && aux->n++ < EXPLAIN_MAX) {
        conntrack_offload_explain(conn, &aux->ds);
        ct_path_explain(conn, &aux->ds);
    }
}

/* Stores in '*aux' which connections the 'n' arguments in 'args' mean.
 * Returns true if successful, otherwise false with a message in 'error'. */
static bool
explain_parse(const char *args[], int n, struct ds *error,
              struct explain_aux *aux)
{
    unsigned int zone;

    /* ofp_ct_match_parse() does not care about the range. */
    if (!strncmp(args[0], "zone=", 5)
        && (!str_to_uint(args[0] + 5, 10, &zone) || zone > UINT16_MAX)) {
        ds_put_cstr(error, "zone is not an integer from 0 to 65535");
        return false;
    }
    return ofp_ct_match_parse(args, n, error, &aux->match, &aux->with_zone,
                              &aux->zone);
}

static void
ct_offload_explain(struct unixctl_conn *conn, int argc, const char *argv[],
                   void *aux_ OVS_UNUSED)
{
    struct ds error = DS_EMPTY_INITIALIZER;
    struct explain_aux aux;

    memset(&aux, 0, sizeof aux);
    ds_init(&aux.ds);
    if (argc > 1 && !explain_parse(&argv[1], argc - 1, &error, &aux)) {
        ds_put_cstr(&error, ": give what dpctl/flush-conntrack takes, for "
                    "example zone=5 'ct_nw_proto=6,ct_tp_dst=80'");
        unixctl_command_reply_error(conn, ds_cstr(&error));
    } else {
        conntrack_offload_for_each(explain_one, &aux);
        if (aux.n > EXPLAIN_MAX) {
            ds_put_format(&aux.ds, "and %"PRIuSIZE" more: give a zone or a "
                          "tuple\n", aux.n - EXPLAIN_MAX);
        } else if (!aux.n) {
            ds_put_cstr(&aux.ds, "no such connection\n");
        }
        unixctl_command_reply(conn, ds_cstr(&aux.ds));
    }
    ds_destroy(&aux.ds);
    ds_destroy(&error);
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
        ct_path_init();
        ct_path_make_init();
        ct_path_sample_init();
        unixctl_command_register("ct-offload/show", "", 0, 0,
                                 ct_offload_show, NULL);
        unixctl_command_register("ct-offload/explain",
                                 "[zone=ZONE] [ORIG_TUPLE [REPLY_TUPLE]]", 0,
                                 5, ct_offload_explain, NULL);
        unixctl_command_register("ct-offload/chains", "[-m]", 0, 1,
                                 ct_offload_chains, NULL);
        unixctl_command_register("ct-offload/paths", "[PART]", 0, 1,
                                 ct_offload_paths, NULL);
        unixctl_command_register("ct-offload/barrier", "", 0, 0,
                                 ct_offload_unixctl_barrier, NULL);
#ifdef DPDK_NETDEV
        ct_offload_dpdk_module_init();
#endif
        ovsthread_once_done(&once);
    }
}
