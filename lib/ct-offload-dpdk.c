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

#include "ct-offload-dpdk.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include "ct-offload-dpdk-forward.h"
#include "ct-offload-dpdk-probe.h"
#include "ct-offload-dpdk-rule.h"
#include "ct-offload-rows.h"
#include "ct-offload.h"
#include "netdev-dpdk.h"
#include "netdev.h"
#include "openvswitch/dynamic-string.h"
#include "openvswitch/json.h"
#include "openvswitch/shash.h"
#include "ovs-atomic.h"
#include "packets.h"
#include "timeval.h"
#include "unixctl.h"
#include "util.h"

/* Overview
 * ========
 *
 * A port is in one of these modes:
 *
 *   - Forward: hardware forwards packets of connections by itself, by a rule
 *     for each path, see ct-offload-dpdk-forward.h.  The provider takes
 *     connections only to have paths made of them, and has nothing to do for
 *     them until then.  What ct() sees of their packets need not be what is on
 *     the wire.
 *
 *   - Track: for hardware that forwards packets of connections by itself once
 *     it has ingress rules for them.  Only the operator can know that:
 *     other_config:hw-offload-ct-bypass.
 *
 *   - None.  Ingress rules alone see what software sees and buy nothing, so
 *     that nothing is programmed.
 *
 * When the configuration changes the mode from or to track, the layer takes
 * all connections back and offers them again.
 *
 * Tracking
 * ========
 *
 * What every port needs for that, its layout, stays until the port stops,
 * since dpif-offload-dpdk's rules depend on it.
 *
 * A connection that is established gets one rule for each direction, on the
 * port that packets of the direction arrive at: see ct-offload-dpdk-track.h
 * for what a rule does, and ct-offload-dpdk-rule.h for who shares it.  A
 * direction whose port cannot have one is left out; the connection is
 * "uni-dir" then.  If anything fails, the connection has no rule at all, and
 * the provider does not hold it: it goes on in software.
 *
 * Callbacks run in several threads at once, with the ports of the connection
 * locked. */

/* What '*ctx->priv' points to. */
struct dpdk_conn {
    bool forward;                   /* Is it for paths?  Then there is nothing
                                     * else. */
    struct dpdk_port *ports[2];     /* Of original and reply direction; NULL if
                                     * the direction is left out. */
    struct dpdk_rule *rules[2];     /* The same. */
    ovs_be16 vlan_vid;              /* Of the original direction. */
    bool tagged;
};

/* Does hardware not insist on TCP windows? */
static atomic_bool liberal = true;

/* Connections. */

/* Stores in '*key' what packets of 'conn' look like in one direction. */
static void
key_init(struct dpdk_flow_key *key, const struct conn *conn, bool reply,
         bool tagged, ovs_be16 vlan_vid)
{
    struct ct_dpif_tuple tuple;

    ct_offload_conn_get_tuple(conn, reply, &tuple);
    memset(key, 0, sizeof *key);
    if (tuple.l3_type == AF_INET6) {
        key->ipv6 = true;
        key->src.in6 = tuple.src.in6;
        key->dst.in6 = tuple.dst.in6;
    } else {
        key->src.ip = tuple.src.ip;
        key->dst.ip = tuple.dst.ip;
    }
    key->src_port = tuple.src_port;
    key->dst_port = tuple.dst_port;
    key->ip_proto = tuple.ip_proto;
    key->tagged = tagged;
    key->vlan_vid = tagged ? vlan_vid : 0;
}

/* Takes the rules of 'dc' away.  The ports, as for all of these, are locked.
 */
static void
conn_release_rules(struct dpdk_conn *dc)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    for (int i = 1; i >= 0; i--) {
        if (dc->rules[i]) {
            dpdk_rule_release(dc->ports[i], dc->rules[i]);
        }
    }
    for (int i = 0; i < 2; i++) {
        if (dc->ports[i]) {
            dpdk_rules_bury_dead(dc->ports[i]);
        }
    }
}

/* Counts 'dc' 'n' times, if it has rules. */
static void
conn_count(const struct dpdk_conn *dc, int n)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    if (dc->rules[0] && dc->rules[1]) {
        dc->ports[0]->n_bi_dir += n;
    } else if (dc->rules[0] || dc->rules[1]) {
        dc->ports[0]->n_uni_dir += n;
    }
}

/* 'dc', with 'keys', is established: gives it its rules.  Returns 0 or, if it
 * has none, a positive errno value.  The ports are locked. */
static int
conn_install(struct dpdk_conn *dc, const struct conn *conn,
             const struct dpdk_flow_key keys[2])
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    struct dpdk_port *able[2] = { NULL, NULL };
    bool lenient;
    int error = 0;

    for (int i = 0; i < 2; i++) {
        struct dpdk_port *port = dc->ports[i];
        int retval = port ? dpdk_port_make_ready(port) : ENODEV;

        if (!retval) {
            if (keys[i].ip_proto == IPPROTO_UDP
                || dpdk_port_get_state(port) == DPDK_PORT_READY) {
                able[i] = port;
            }
            dpdk_rules_bury_dead(port);
        } else if (dpdk_flow_error_is_transient(retval)) {
            error = retval;
        }
    }
    if (error) {
        return error;
    }
    if (!able[0] && !able[1]) {
        return EOPNOTSUPP;
    }
    atomic_read_relaxed(&liberal, &lenient);
    error = dpdk_rules_create(able, keys, conn, lenient, dc->rules);
    if (error) {
        conn_release_rules(dc);
    } else {
        conn_count(dc, 1);
    }
    return error;
}

/* Can 'port' track a connection like that in 'ctx'? */
static bool
can_track(const struct ct_offload_ctx *ctx, struct dpdk_port *port,
          uint8_t ip_proto)
{
    enum dpdk_port_state state;

    if (!ctx->unmodified) {
        return ct_offload_refuse(CT_OFFLOAD_NOT_ON_WIRE);
    }
    if (ctx->vlan == CT_OFFLOAD_VLAN_OTHER) {
        return ct_offload_refuse(CT_OFFLOAD_BAD_VLAN);
    }

    /* Where that is not known even now, EST will fail. */
    state = dpdk_port_learn_state(port);
    if (state == DPDK_PORT_REFUSED) {
        return ct_offload_refuse(CT_OFFLOAD_NO_PROVIDER);
    }
    if (state == DPDK_PORT_UDP_ONLY && ip_proto == IPPROTO_TCP) {
        return ct_offload_refuse(CT_OFFLOAD_BAD_PROTOCOL);
    }
    return true;
}

/* Can 'port' forward packets of 'ip_proto'? */
static bool
can_forward(struct dpdk_port *port, uint8_t ip_proto)
{
    enum dpdk_forward_state state = dpdk_probe_learn_state(port);

    if (state < DPDK_FORWARD_UDP_ONLY) {
        return ct_offload_refuse(CT_OFFLOAD_NO_FORWARD);
    }
    if (state == DPDK_FORWARD_UDP_ONLY && ip_proto == IPPROTO_TCP) {
        return ct_offload_refuse(CT_OFFLOAD_BAD_PROTOCOL);
    }
    return true;
}

static bool
dpdk_can_offload(const struct ct_offload_ctx *ctx)
{
    struct dpdk_port *port = dpdk_port_get(ctx->netdev_in);
    bool track = ct_offload_config_bypass();
    struct ct_dpif_tuple tuple;

    if (!port) {
        return ct_offload_refuse(CT_OFFLOAD_NO_PROVIDER);
    }
    if (!track && !ct_offload_config_forward()) {
        return ct_offload_refuse(CT_OFFLOAD_NO_BYPASS);
    }
    ct_offload_conn_get_tuple(ctx->conn, false, &tuple);
    if (tuple.ip_proto != IPPROTO_TCP && tuple.ip_proto != IPPROTO_UDP) {
        return ct_offload_refuse(CT_OFFLOAD_BAD_PROTOCOL);
    }
    return (track ? can_track(ctx, port, tuple.ip_proto)
            : can_forward(port, tuple.ip_proto));
}

static int
dpdk_conn_add(const struct ct_offload_ctx *ctx)
{
    struct dpdk_port *port = dpdk_port_get(ctx->netdev_in);
    struct dpdk_conn *dc;

    if (!port) {
        return ENODEV;
    }
    dc = xzalloc(sizeof *dc);
    *ctx->priv = dc;
    if (!ct_offload_config_bypass()) {
        dc->forward = true;
        return 0;
    }
    dc->ports[0] = port;
    dc->tagged = ctx->vlan == CT_OFFLOAD_VLAN_TAG;
    dc->vlan_vid = ctx->vlan_tci & htons(VLAN_VID_MASK);
    return 0;
}

static int
dpdk_conn_established(const struct ct_offload_ctx *ctx)
{
    struct dpdk_conn *dc = *ctx->priv;
    struct dpdk_flow_key keys[2];
    int error;

    if (dc->forward) {
        struct dpdk_port *port = dpdk_port_get(ctx->netdev_in);

        if (port) {
            dpdk_probe_learn_state(port);
        }
        return 0;
    }
    if (ctx->unmodified && ctx->vlan != CT_OFFLOAD_VLAN_OTHER) {
        dc->ports[1] = dpdk_port_get(ctx->netdev_in);
    }
    key_init(&keys[0], ctx->conn, false, dc->tagged, dc->vlan_vid);
    key_init(&keys[1], ctx->conn, true, ctx->vlan == CT_OFFLOAD_VLAN_TAG,
             ctx->vlan_tci & htons(VLAN_VID_MASK));

    dpdk_ports_lock(dc->ports[0], dc->ports[1]);
    error = conn_install(dc, ctx->conn, keys);
    dpdk_ports_unlock(dc->ports[0], dc->ports[1]);

    if (error) {
        *ctx->priv = NULL;
        free(dc);
        return error;
    }
    *ctx->uni_dir = !dc->rules[0] || !dc->rules[1];
    return 0;
}

static long long int
dpdk_conn_update(const struct ct_offload_ctx *ctx)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    struct dpdk_conn *dc = *ctx->priv;
    long long int now = time_msec();
    long long int last_used = 0;

    dpdk_ports_lock(dc->ports[0], dc->ports[1]);
    for (int i = 0; i < 2; i++) {
        if (dc->rules[i]) {
            long long int used = dpdk_rule_last_used(dc->ports[i],
                                                     dc->rules[i], now);

            last_used = MAX(last_used, used);
        }
    }
    dpdk_ports_unlock(dc->ports[0], dc->ports[1]);
    return last_used;
}

static void
dpdk_conn_del(const struct ct_offload_ctx *ctx)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    struct dpdk_conn *dc = *ctx->priv;

    dpdk_ports_lock(dc->ports[0], dc->ports[1]);
    conn_count(dc, -1);
    conn_release_rules(dc);
    dpdk_ports_unlock(dc->ports[0], dc->ports[1]);
    free(dc);
}

static void
dpdk_conn_format(const struct ct_offload_ctx *ctx, struct ds *ds)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    static const char *const dirs[2] = { "original", "; reply" };
    struct dpdk_conn *dc = *ctx->priv;

    if (dc->forward) {
        ds_put_cstr(ds, "for paths");
        return;
    }
    dpdk_ports_lock(dc->ports[0], dc->ports[1]);
    for (int i = 0; i < 2; i++) {
        ds_put_format(ds, "%s: ", dirs[i]);
        if (dc->rules[i]) {
            dpdk_rule_format(dc->ports[i], dc->rules[i], ds);
        } else {
            ds_put_cstr(ds, "no rule");
        }
    }
    dpdk_ports_unlock(dc->ports[0], dc->ports[1]);
}

/* Does 'netdev_in' forward packets by itself now, or is the next path to find
 * that out? */
static bool
dpdk_can_forward(const struct netdev *netdev_in)
{
    struct dpdk_port *port = dpdk_port_find(netdev_in);

    return (port && (dpdk_probe_get_state(port) >= DPDK_FORWARD_UDP_ONLY
                     || dpdk_probe_is_due(port))
            && !ct_offload_config_bypass()
            && !netdev_dpdk_is_limited(netdev_in));
}

/* Batches. */

/* Does 'op'. */
static void
op_do(struct ct_offload_op *op)
{
    switch (op->type) {
    case CT_OFFLOAD_OP_ADD:
        op->error = dpdk_conn_add(&op->ctx);
        break;
    case CT_OFFLOAD_OP_EST:
        op->error = dpdk_conn_established(&op->ctx);
        break;
    case CT_OFFLOAD_OP_UPD:
        op->last_used = dpdk_conn_update(&op->ctx);
        op->error = op->last_used ? 0 : ENODATA;
        break;
    case CT_OFFLOAD_OP_DEL:
        dpdk_conn_del(&op->ctx);
        break;
    case CT_OFFLOAD_OP_POLICY:
    case CT_OFFLOAD_OP_FLUSH:
    default:
        break;
    }
}

/* Does all that is on one port, then all that is on the next: the port of the
 * original direction, so that operations on one connection stay in order. */
static void
dpdk_batch_submit(struct ct_offload_op_batch *batch)
{
    const struct dpdk_port *ports[CT_OFFLOAD_BATCH_INLINE];
    bool done[CT_OFFLOAD_BATCH_INLINE] = { false };
    struct ct_offload_op *op;

    ovs_assert(batch->n_ops <= ARRAY_SIZE(ports));
    CT_OFFLOAD_BATCH_OP_FOR_EACH (i, op, batch) {
        const struct dpdk_conn *dc = *op->ctx.priv;

        ports[i] = op->type == CT_OFFLOAD_OP_ADD ? NULL : dc->ports[0];
    }
    for (size_t i = 0; i < batch->n_ops; i++) {
        if (done[i]) {
            continue;
        }
        for (size_t j = i; j < batch->n_ops; j++) {
            if (ports[j] == ports[i]) {
                op_do(&batch->ops[j]);
                done[j] = true;
            }
        }
    }
}

/* The provider. */

static void
dpdk_unixctl_liberal(struct unixctl_conn *conn, int argc OVS_UNUSED,
                     const char *argv[], void *aux OVS_UNUSED)
{
    bool on = !strcmp(argv[1], "on");

    if (!on && strcmp(argv[1], "off")) {
        char *msg = xasprintf("\"%s\" is neither \"on\" nor \"off\"",
                              argv[1]);

        unixctl_command_reply_error(conn, msg);
        free(msg);
        return;
    }
    atomic_store_relaxed(&liberal, on);
    unixctl_command_reply(conn,
                          ct_offload_is_registered(&ct_offload_dpdk_class)
                          ? NULL
                          : "takes effect when hardware offload is enabled "
                            "and DPDK initialized (other_config:hw-offload, "
                            "other_config:dpdk-init)");
}

/* Called once, whether or not there will be DPDK. */
void
ct_offload_dpdk_module_init(void)
{
    unixctl_command_register("ct-offload-dpdk/liberal", "on|off", 1, 1,
                             dpdk_unixctl_liberal, NULL);
}

static int
dpdk_init(void)
{
    dpdk_ports_set_running(true);
    return 0;
}

static void
port_flush(struct dpdk_port *port)
{
    dpdk_forward_flush(port);
    dpdk_rules_flush(port);
}

static void
dpdk_exit(void)
{
    dpdk_ports_set_running(false);
    dpdk_ports_remove(NULL, port_flush);
}

static void
dpdk_netdev_flush(struct netdev *netdev)
{
    dpdk_ports_remove(netdev, port_flush);
}

/* Returns the group in which dpif-offload-dpdk is to have its ingress rules on
 * 'netdev'.  On ports whose connections can be offloaded that is a group that
 * packets come to after the rules for connections, so that both are hit.
 *
 * Rules that are there already when connections begin to be offloaded stay in
 * the root group, before everything else, for as long as they live. */
uint32_t
ct_offload_dpdk_ingress_group(struct netdev *netdev)
{
    bool accepting = ct_offload_is_accepting() && ct_offload_config_bypass();
    struct dpdk_port *port = dpdk_port_find(netdev);
    bool ready = false;

    if (!port && accepting) {
        port = dpdk_port_get(netdev);
    }
    if (port) {
        ovs_mutex_lock(&port->mutex);
        ready = (dpdk_port_is_ready(port)
                 || (accepting && !dpdk_port_make_ready(port)));
        ovs_mutex_unlock(&port->mutex);
    }
    return ready ? DPDK_TRACK_GROUP_FLOWS : DPDK_TRACK_GROUP_ROOT;
}

/* "ct-offload/show".  Each of these appends to 'ds' or, if 'json' is nonnull,
 * adds to that. */

static void
show_errors(const unsigned long long int errors[DPDK_N_CALLS],
            const char *name, const char *title, struct ds *ds,
            struct json *json)
{
    struct json *object = json ? json_object_create() : NULL;

    if (!json) {
        ds_put_format(ds, "%s:", title);
    }
    for (size_t i = 0; i < DPDK_N_CALLS; i++) {
        if (json) {
            json_object_put(object, dpdk_call_names[i],
                            json_integer_create(errors[i]));
        } else {
            ds_put_format(ds, " %s %llu", dpdk_call_names[i], errors[i]);
        }
    }
    if (json) {
        json_object_put(json, name, object);
    } else {
        ds_put_char(ds, '\n');
    }
}

/* What 'port' can do, or why nothing is programmed. */
static void
show_caps(struct dpdk_port *port, struct ds *ds, struct json *json)
    OVS_REQUIRES(port->mutex)
{
    const char *obstacle = (ct_offload_config_bypass() ? NULL
                            : "other_config:hw-offload-ct-bypass is false");
    const char *mode = obstacle ? "none" : "track";
    const char *caps = dpdk_port_caps_to_string(port);
    bool ready = dpdk_port_is_ready(port);
    bool tcp = port->layout.caps & DPDK_TRACK_TCP;

    if (json) {
        json_object_put_string(json, "mode", mode);
        if (obstacle) {
            json_object_put_string(json, "in-software", obstacle);
        }
        json_object_put_string(json, "capabilities", caps);
        json_object_put(json, "tcp", json_boolean_create(tcp));
        json_object_put(json, "verified", json_boolean_create(port->verified));
    } else if (obstacle) {
        ds_put_format(ds, "in software: %s\n", obstacle);
    } else {
        ds_put_format(ds, "%s%s%s\n", caps,
                      ready && !tcp
                      ? ", UDP only (TCP flags cannot be matched)" : "",
                      ready && !port->verified ? ", unverified" : "");
    }
}

static void
show_track(struct dpdk_port *port, struct ds *ds, struct json *json)
    OVS_REQUIRES(port->mutex)
{
    size_t n_rules_shared = dpdk_rules_survey(port);
    struct rte_flow_error error;
    uint64_t invalid = 0;

    if (port->layout.invalid) {
        dpdk_flow_rule_get_hits(port->layout.port_id, port->layout.invalid,
                                &invalid, &error);
    }

    const struct ct_offload_row conn_rows[] = {
        { "bi-dir", "    connections: ", port->n_bi_dir, " bi-dir" },
        { "uni-dir", ", ", port->n_uni_dir, " uni-dir\n" },
    };
    const struct ct_offload_row rows[] = {
        { "rules", "    rules: ", hmap_count(&port->rules), "" },
        { "rules-shared", ", ", n_rules_shared, " of them shared" },
        { "times-shared", ", ", port->n_shared, " times in all\n" },
        { "tracked-connections", "    tracked connections: ",
          port->n_handles, "" },
        { "invalid-packets", ", invalid packets: ", invalid, "\n" },
    };
    struct json *conns = json ? json_object_create() : NULL;

    show_caps(port, ds, json);
    ct_offload_rows_show(conn_rows, ARRAY_SIZE(conn_rows), ds, conns);
    ct_offload_rows_show(rows, ARRAY_SIZE(rows), ds, json);
    if (json) {
        json_object_put(json, "connections", conns);
    }
}

static void
show_port(struct dpdk_port *port, struct ds *ds, struct json *json)
    OVS_REQUIRES(port->mutex)
{
    if (!ct_offload_config_bypass() && ct_offload_config_forward()) {
        dpdk_forward_show(port, ds, json);
    } else {
        show_track(port, ds, json);
    }
    show_errors(port->errors, "errors", "    errors", ds, json);
}

static void
dpdk_get_debug(struct ds *ds, struct json *json)
{
    struct json *json_ports = json ? json_object_create() : NULL;
    unsigned long long int past_errors[DPDK_N_CALLS];
    struct shash ports = SHASH_INITIALIZER(&ports);
    const struct shash_node **nodes;
    struct dpdk_port *port;
    bool lenient;

    atomic_read_relaxed(&liberal, &lenient);
    if (json) {
        json_object_put(json, "liberal", json_boolean_create(lenient));
        json_object_put(json, "ports", json_ports);
    } else {
        ds_put_format(ds, "  TCP windows: %s (ct-offload-dpdk/liberal %s)\n",
                      lenient ? "hardware does not insist on them"
                      : "hardware insists on them", lenient ? "on" : "off");
    }

    dpdk_ports_get_all(&ports);
    nodes = shash_sort(&ports);
    for (size_t i = 0; i < shash_count(&ports); i++) {
        port = nodes[i]->data;
        ovs_mutex_lock(&port->mutex);
        dpdk_probe_bury_dead(port);
        dpdk_rules_bury_dead(port);
        ovs_mutex_unlock(&port->mutex);
    }
    for (size_t i = 0; i < shash_count(&ports); i++) {
        struct json *json_port = json ? json_object_create() : NULL;

        port = nodes[i]->data;
        if (json) {
            json_object_put(json_ports, port->name, json_port);
        } else {
            ds_put_format(ds, "  port %s: ", port->name);
        }
        ovs_mutex_lock(&port->mutex);
        dpdk_rules_bury_dead(port);     /* Rules of other ports had handles. */
        show_port(port, ds, json_port);
        ovs_mutex_unlock(&port->mutex);
    }
    free(nodes);
    shash_destroy(&ports);

    dpdk_ports_get_past_errors(past_errors);
    show_errors(past_errors, "past-errors",
                "  errors before ports were stopped", ds, json);
}

const struct ct_offload_class ct_offload_dpdk_class = {
    .name = DPDK_PORT_OWNER,
    .thread_safe = true,
    .established_only = true,
    .init = dpdk_init,
    .exit = dpdk_exit,
    .can_offload = dpdk_can_offload,
    .conn_add = dpdk_conn_add,
    .conn_del = dpdk_conn_del,
    .conn_update = dpdk_conn_update,
    .conn_established = dpdk_conn_established,
    .batch_submit = dpdk_batch_submit,
    .netdev_flush = dpdk_netdev_flush,
    .conn_format = dpdk_conn_format,
    .get_debug = dpdk_get_debug,
    .fences = true,
    .can_forward = dpdk_can_forward,
    .path_add = dpdk_path_add,
    .path_del = dpdk_path_del,
    .path_stats = dpdk_path_stats,
};
