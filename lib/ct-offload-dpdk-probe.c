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

#include "ct-offload-dpdk-probe.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include <rte_ethdev.h>

#include "hash.h"
#include "netdev-dpdk.h"
#include "netdev-provider.h"
#include "netdev.h"
#include "openvswitch/dynamic-string.h"
#include "openvswitch/json.h"
#include "openvswitch/shash.h"
#include "openvswitch/vlog.h"
#include "timeval.h"
#include "util.h"

VLOG_DEFINE_THIS_MODULE(ct_offload_dpdk_probe);

/* How long to wait before something that failed is tried again, in ms. */
#define RETRY_INTERVAL 1000

/* How often to try to destroy a rule of a port that is about to stop. */
#define LAST_TRIES 5

/* A rule that could not be destroyed. */
struct dead_path {
    struct ovs_list node;           /* In 'dead_paths' of its home. */
    struct rte_flow *rule;
};

/* What a rule has asked for that could not be made. */
struct unable {
    unsigned int caps;              /* Of enum dpdk_path_cap. */
    char *words;                    /* Of the driver. */
};

struct dpdk_pair {
    struct hmap_node node;          /* In 'pairs' of the port. */
    const struct dpdk_port *out;    /* Or NULL to drop. */
    uint16_t out_id;
    bool other_switch;              /* They do not reach each other. */
    enum dpdk_path_words words;     /* Of the last rule that had a choice. */
    struct unable *unable;
    size_t n_unable, allocated_unable;
};

enum dpdk_forward_state
dpdk_probe_get_state(struct dpdk_port *port)
{
    enum dpdk_forward_state state;

    atomic_read_relaxed(&port->forward, &state);
    return state;
}

/* Says what went wrong, for people. */
static char *
describe(int error, const struct rte_flow_error *flow_error)
{
    return xasprintf("%s (%s)", ovs_strerror(error),
                     flow_error->message ? flow_error->message : "no details");
}

/* Rules. */

static int
rule_create(struct dpdk_port *home, const struct dpdk_path_rule *rule,
            struct rte_flow **flow, struct rte_flow_error *error)
    OVS_REQUIRES(home->mutex)
{
    return dpdk_flow_rule_create(home->forward_id, &rule->attr, rule->pattern,
                                 rule->actions, flow, error);
}

/* Destroys those rules of 'port' that could not be destroyed before, as far as
 * possible. */
void
dpdk_probe_bury_dead(struct dpdk_port *port)
{
    struct dead_path *dead;

    LIST_FOR_EACH_SAFE (dead, node, &port->dead_paths) {
        struct rte_flow_error error;
        int retval = dpdk_flow_rule_destroy(port->forward_id, dead->rule,
                                            &error);

        if (dpdk_port_check(port, DPDK_CALL_DESTROY, retval, &error)) {
            break;
        }
        ovs_list_remove(&dead->node);
        free(dead);
    }
}

/* Destroys 'rule' of 'home', or leaves that to dpdk_probe_bury_dead().
 * Returns 0 or a positive errno value. */
int
dpdk_probe_rule_destroy(struct dpdk_port *home, struct rte_flow *rule)
{
    struct rte_flow_error error;
    int retval;

    retval = dpdk_flow_rule_destroy_retry(home->forward_id, rule, &error);
    if (dpdk_port_check(home, DPDK_CALL_DESTROY, retval, &error)) {
        struct dead_path *dead = xmalloc(sizeof *dead);

        dead->rule = rule;
        ovs_list_push_back(&home->dead_paths, &dead->node);
    }
    return retval;
}

/* What a port can do. */

/* Creates on 'home' a rule for 'ip_proto' that asks for no more than that, and
 * stores it in '*flow'. */
static int
probe(struct dpdk_port *home, uint8_t ip_proto,
      const struct dpdk_path_options *options, struct rte_flow **flow,
      struct rte_flow_error *error)
    OVS_REQUIRES(home->mutex)
{
    struct dpdk_path_rule rule;
    unsigned int n = 0;
    int retval;

    dpdk_path_rule_init_probe(&rule, ip_proto, options);
    do {
        retval = rule_create(home, &rule, flow, error);
    } while (retval && dpdk_flow_wait_to_retry(retval, ++n));
    return retval;
}

static uint16_t
get_switch_domain(uint16_t port_id)
{
    struct rte_eth_dev_info info;

    memset(&info, 0, sizeof info);
    return (rte_eth_dev_info_get(port_id, &info)
            ? RTE_ETH_DEV_SWITCH_DOMAIN_ID_INVALID
            : info.switch_info.domain_id);
}

/* Finds a port to which UDP that arrives at 'options->from' can be sent, by a
 * rule on 'home', and stores it in 'options->to', and the rule in '*flow'.
 * Not every switch sends packets back to where they came from. */
static int
probe_any(struct dpdk_port *home, struct dpdk_path_options *options,
          struct rte_flow **flow, struct rte_flow_error *error)
    OVS_REQUIRES(home->mutex)
{
    uint16_t domain = get_switch_domain(options->from);
    int retval;
    uint16_t to;

    options->to = options->from;
    retval = probe(home, IPPROTO_UDP, options, flow, error);
    if (!retval || dpdk_flow_error_is_transient(retval)) {
        return retval;
    }
    RTE_ETH_FOREACH_DEV (to) {
        struct rte_flow_error error2;

        if (to != options->from && get_switch_domain(to) == domain) {
            options->to = to;
            if (!probe(home, IPPROTO_UDP, options, flow, &error2)) {
                return 0;
            }
        }
    }
    return retval;
}

static void
port_set_words(struct dpdk_port *port, char *words)
    OVS_REQUIRES(port->mutex)
{
    free(port->forward_words);
    port->forward_words = words;
}

/* What 'port' can do is to be found out again, in 'ms'. */
static void
port_retry_in(struct dpdk_port *port, int ms)
    OVS_REQUIRES(port->mutex)
{
    atomic_store_relaxed(&port->forward_retry_at, time_msec() + ms);
}

/* Finds out whether 'port' forwards by rules on 'home', which may be the same.
 * Both are locked.  Returns 0 or a positive errno value: if
 * dpdk_flow_error_is_transient() is false for it, it does not. */
static int
port_probe(struct dpdk_port *port, struct dpdk_port *home, uint16_t port_id)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    struct dpdk_path_options options = {
        .from = port_id, .by_proxy = home != port,
    };
    struct rte_flow *udp_flow, *tcp_flow;
    struct rte_flow_error error;
    bool tcp = false;
    int retval;

    dpdk_probe_bury_dead(home);
    retval = probe_any(home, &options, &udp_flow, &error);
    if (!retval) {
        retval = probe(home, IPPROTO_TCP, &options, &tcp_flow, &error);
        tcp = !retval;
        if (retval && !dpdk_flow_error_is_transient(retval)) {
            retval = 0;
        }

        /* Not before, because hardware may need a while before it can use the
         * counter again. */
        dpdk_probe_rule_destroy(home, udp_flow);
        if (tcp) {
            dpdk_probe_rule_destroy(home, tcp_flow);
        }
    }
    if (!retval) {
        port_set_words(port, NULL);
        port->forward_id = port_id;
        port->home = home;
        atomic_store_relaxed(&port->forward, (tcp ? DPDK_FORWARD_READY
                                              : DPDK_FORWARD_UDP_ONLY));
        VLOG_INFO("%s: can forward packets of connections%s", port->name,
                  tcp ? "" : " (UDP only)");
        return 0;
    }
    if (dpdk_flow_error_is_transient(retval)) {
        dpdk_port_check(port, DPDK_CALL_LAYOUT, retval, &error);
        port_retry_in(port, RETRY_INTERVAL);
    }
    port_set_words(port, describe(retval, &error));
    return retval;
}

/* Is 'port', which is locked, to be asked now what it can do?  If so, stores
 * its DPDK port number in '*id'. */
static bool
port_is_unknown(struct dpdk_port *port, uint16_t *id)
    OVS_REQUIRES(port->mutex)
{
    long long int retry_at;

    atomic_read_relaxed(&port->forward_retry_at, &retry_at);
    return (!port->gone && time_msec() >= retry_at
            && dpdk_probe_get_state(port) == DPDK_FORWARD_UNKNOWN
            && netdev_dpdk_get_started_port(port->netdev, id));
}

/* Returns the port with a netdev of 'class' that has the DPDK port number
 * 'id', or NULL. */
static struct dpdk_port *
port_find_by_id(const struct netdev_class *class, uint16_t id)
{
    struct shash netdevs = SHASH_INITIALIZER(&netdevs);
    struct dpdk_port *port = NULL;
    struct shash_node *node;

    netdev_get_devices(class, &netdevs);
    SHASH_FOR_EACH (node, &netdevs) {
        struct netdev *netdev = node->data;
        uint16_t netdev_id;

        if (!port && netdev_dpdk_get_started_port(netdev, &netdev_id)
            && netdev_id == id) {
            port = dpdk_port_get(netdev);
        }
        netdev_close(netdev);
    }
    shash_destroy(&netdevs);
    return port;
}

/* 'port' of 'class', which is 'id', cannot have rules of its own.  Finds out
 * whether its proxy can. */
static void
port_learn_proxy(struct dpdk_port *port, const struct netdev_class *class,
                 uint16_t id)
    OVS_NO_THREAD_SAFETY_ANALYSIS
{
    uint16_t proxy_id, id2, proxy_id2;
    struct dpdk_port *proxy = NULL;
    int retval = ENODEV;

    if (!rte_flow_pick_transfer_proxy(id, &proxy_id, NULL)
        && proxy_id != id) {
        proxy = port_find_by_id(class, proxy_id);
        retval = proxy && proxy != port ? 0 : EAGAIN;
    }
    if (retval == EAGAIN) {
        proxy = NULL;
    }

    dpdk_ports_lock(port, proxy);
    if (port_is_unknown(port, &id2) && id2 == id) {
        if (proxy && !proxy->gone
            && netdev_dpdk_get_started_port(proxy->netdev, &proxy_id2)
            && proxy_id2 == proxy_id) {
            proxy->forward_id = proxy_id;
            retval = port_probe(port, proxy, id);
        } else if (retval != ENODEV) {
            retval = EAGAIN;
            port_set_words(port, xasprintf("the proxy, DPDK port %u, is not "
                                           "there", proxy_id));
            port_retry_in(port, RETRY_INTERVAL);
        }
        if (retval && !dpdk_flow_error_is_transient(retval)) {
            atomic_store_relaxed(&port->forward, DPDK_FORWARD_REFUSED);
            VLOG_INFO("%s: cannot forward packets of connections: %s",
                      port->name, port->forward_words);
        }
    }
    dpdk_ports_unlock(port, proxy);
}

/* Returns whether 'port' forwards, or finds that out. */
enum dpdk_forward_state
dpdk_probe_learn_state(struct dpdk_port *port)
{
    if (dpdk_probe_get_state(port) == DPDK_FORWARD_UNKNOWN) {
        const struct netdev_class *class = NULL;
        uint16_t id;

        ovs_mutex_lock(&port->mutex);
        if (port_is_unknown(port, &id)) {
            int retval;

            port->forward_id = id;
            retval = port_probe(port, port, id);
            if (retval && !dpdk_flow_error_is_transient(retval)) {
                class = port->netdev->netdev_class;
            }
        }
        ovs_mutex_unlock(&port->mutex);
        if (class) {
            port_learn_proxy(port, class, id);
        }
    }
    return dpdk_probe_get_state(port);
}

/* Was 'port' asked what it can do, and is to be asked once more now? */
bool
dpdk_probe_is_due(struct dpdk_port *port)
{
    long long int retry_at;

    if (dpdk_probe_get_state(port) != DPDK_FORWARD_UNKNOWN) {
        return false;
    }
    atomic_read_relaxed(&port->forward_retry_at, &retry_at);
    return retry_at && time_msec() >= retry_at;
}

/* Pairs of ports. */

static struct dpdk_pair *
pair_find(struct dpdk_port *in, const struct dpdk_port *out)
    OVS_REQUIRES(in->mutex)
{
    struct dpdk_pair *pair;

    HMAP_FOR_EACH_WITH_HASH (pair, node, hash_pointer(out, 0), &in->pairs) {
        if (pair->out == out) {
            return pair;
        }
    }
    return NULL;
}

/* Returns what is known of paths from 'in', which is 'in_id', to 'out', or to
 * nowhere if that is NULL.  Returns NULL if there cannot be any. */
struct dpdk_pair *
dpdk_pair_get(struct dpdk_port *in, uint16_t in_id, struct dpdk_port *out)
{
    struct dpdk_pair *pair = pair_find(in, out);
    uint16_t out_id = 0;

    if (pair) {
        return pair;
    }
    if (out && !netdev_dpdk_get_started_port(out->netdev, &out_id)) {
        return NULL;
    }
    pair = xzalloc(sizeof *pair);
    pair->out = out;
    pair->out_id = out_id;
    pair->other_switch = (out && get_switch_domain(in_id)
                          != get_switch_domain(out_id));
    hmap_insert(&in->pairs, &pair->node, hash_pointer(out, 0));
    return pair;
}

/* Does 'pair' lead to another switch? */
bool
dpdk_pair_is_cut(const struct dpdk_pair *pair)
{
    return pair->other_switch;
}

static void
pair_destroy(struct dpdk_port *in, struct dpdk_pair *pair)
    OVS_REQUIRES(in->mutex)
{
    hmap_remove(&in->pairs, &pair->node);
    for (size_t i = 0; i < pair->n_unable; i++) {
        free(pair->unable[i].words);
    }
    free(pair->unable);
    free(pair);
}

/* Has a rule that asked for 'caps' failed before? */
static bool
pair_is_unable(const struct dpdk_pair *pair, unsigned int caps)
{
    for (size_t i = 0; i < pair->n_unable; i++) {
        if (pair->unable[i].caps == caps) {
            return true;
        }
    }
    return false;
}

static void
pair_set_unable(struct dpdk_pair *pair, unsigned int caps, char *words)
{
    if (pair->n_unable >= pair->allocated_unable) {
        pair->unable = x2nrealloc(pair->unable, &pair->allocated_unable,
                                  sizeof *pair->unable);
    }
    pair->unable[pair->n_unable++] = (struct unable) {
        .caps = caps, .words = words,
    };
}

/* Hardware does not want to create 'rule' for 'p', in the words of 'options'.
 * Tries each of the other words for it, and remembers in 'pair' the ones that
 * it takes.  Returns 0 or an errno value: that of a try that may work at
 * another time, or else 'retval', the first one.  'error' is about that. */
static int
pair_try_other_words(struct dpdk_pair *pair, struct dpdk_port *home,
                     struct dpdk_path_rule *rule,
                     const struct ct_offload_path *p,
                     struct dpdk_path_options *options, int retval,
                     struct rte_flow **flow, struct rte_flow_error *error)
    OVS_REQUIRES(home->mutex)
{
    enum dpdk_path_words tried;

    tried = dpdk_path_rule_same_words(rule, options->words);
    for (int words = 0; words < DPDK_PATH_N_WORDS; words++) {
        struct rte_flow_error error2;
        int retval2;

        if (words == tried
            || dpdk_path_rule_same_words(rule, words) != words) {
            continue;
        }
        options->words = words;
        dpdk_path_rule_init(rule, p->match, p->tunnel, p->actions,
                            p->actions_len, options);
        retval2 = rule_create(home, rule, flow, &error2);
        if (!retval2) {
            pair->words = words;
            return 0;
        } else if (dpdk_flow_error_is_transient(retval2)) {
            retval = retval2;
            *error = error2;
        }
    }
    return retval;
}

/* Creates a rule on 'home' that makes packets of 'p' take 'pair', and stores
 * it in '*flow'.  Returns 0, or an errno value and in '*refusal', unless
 * hardware was asked, why not.  The port of 'pair' is locked, too. */
int
dpdk_pair_create_rule(struct dpdk_pair *pair, struct dpdk_port *home,
                      const struct ct_offload_path *p,
                      struct dpdk_path_options *options,
                      struct rte_flow **flow, enum dpdk_refusal *refusal)
{
    enum dpdk_path_result result;
    struct rte_flow_error error;
    struct dpdk_path_rule rule;
    int retval;

    options->to = pair->out_id;
    options->words = pair->words;
    result = dpdk_path_rule_init(&rule, p->match, p->tunnel, p->actions,
                                 p->actions_len, options);
    *refusal = (result == DPDK_PATH_BAD_MATCH ? DPDK_REFUSED_MATCH
                : result == DPDK_PATH_BAD_ACTION ? DPDK_REFUSED_ACTION
                : pair_is_unable(pair, rule.caps) ? DPDK_REFUSED_UNABLE
                : time_msec() < home->full_until ? DPDK_REFUSED_FULL
                : DPDK_N_REFUSALS);
    if (*refusal != DPDK_N_REFUSALS) {
        return *refusal == DPDK_REFUSED_FULL ? EAGAIN : EOPNOTSUPP;
    }

    retval = rule_create(home, &rule, flow, &error);
    if (retval && !dpdk_flow_error_is_transient(retval)) {
        retval = pair_try_other_words(pair, home, &rule, p, options, retval,
                                      flow, &error);
    }
    if (!retval) {
        return 0;
    } else if (!dpdk_flow_error_is_transient(retval)) {
        pair_set_unable(pair, rule.caps, describe(retval, &error));
        return EOPNOTSUPP;
    }
    dpdk_port_check(home, DPDK_CALL_CREATE, retval, &error);
    if (retval == ENOSPC || retval == ENOMEM || retval == ENOENT
        || retval == ENOBUFS || retval == EAGAIN) {
        home->full_until = time_msec() + RETRY_INTERVAL;
    }
    return retval;
}

/* Ports that stop. */

/* Destroys, or forgets, rules of 'port' that could not be destroyed before. */
static void
flush_dead(struct dpdk_port *port)
    OVS_REQUIRES(port->mutex)
{
    struct dead_path *dead;

    LIST_FOR_EACH_SAFE (dead, node, &port->dead_paths) {
        struct rte_flow_error error;
        int retval;

        for (int i = 0; i < LAST_TRIES; i++) {
            retval = dpdk_flow_rule_destroy_retry(port->forward_id, dead->rule,
                                                  &error);
            if (!retval) {
                break;
            }
        }
        if (dpdk_port_check(port, DPDK_CALL_DESTROY, retval, &error)) {
            VLOG_ERR("%s: the rule of a path could not be destroyed",
                     port->name);
        }
        ovs_list_remove(&dead->node);
        free(dead);
    }
}

static void
port_forget(struct dpdk_port *port)
    OVS_REQUIRES(port->mutex)
{
    atomic_store_relaxed(&port->forward, DPDK_FORWARD_UNKNOWN);
    port->home = NULL;
}

/* Forgets what is known of 'port', which is about to stop, has no paths, and
 * is not locked. */
void
dpdk_probe_flush(struct dpdk_port *port)
{
    struct shash peers = SHASH_INITIALIZER(&peers);
    struct shash_node *node;
    struct dpdk_pair *pair;

    ovs_mutex_lock(&port->mutex);
    flush_dead(port);
    port_forget(port);
    HMAP_FOR_EACH_SAFE (pair, node, &port->pairs) {
        pair_destroy(port, pair);
    }
    ovs_mutex_unlock(&port->mutex);

    dpdk_ports_get_all(&peers);
    SHASH_FOR_EACH (node, &peers) {
        struct dpdk_port *peer = node->data;

        ovs_mutex_lock(&peer->mutex);
        pair = pair_find(peer, port);
        if (pair) {
            pair_destroy(peer, pair);
        }
        if (peer->home == port) {
            /* There may be another one, or this one again. */
            port_forget(peer);
            port_retry_in(peer, 0);
        }
        dpdk_probe_bury_dead(peer);
        ovs_mutex_unlock(&peer->mutex);
    }
    shash_destroy(&peers);
}

/* Appends to 'ds' or, if 'json' is nonnull, adds to that, what rules from
 * 'port' to other ports have asked for in vain. */
void
dpdk_pairs_show(const struct dpdk_port *port, struct ds *ds, struct json *json)
{
    struct json *array = json ? json_array_create_empty() : NULL;
    const struct dpdk_pair *pair;

    HMAP_FOR_EACH (pair, node, &port->pairs) {
        for (size_t i = 0; i < pair->n_unable; i++) {
            const struct unable *unable = &pair->unable[i];
            const char *to = pair->out ? pair->out->name : "nowhere";
            struct ds caps = DS_EMPTY_INITIALIZER;

            for (int bit = 0; bit < DPDK_PATH_N_CAPS; bit++) {
                if (unable->caps & (1u << bit)) {
                    ds_put_format(&caps, "%s%s", caps.length ? ", " : "",
                                  dpdk_path_cap_to_string(1u << bit));
                }
            }
            if (json) {
                struct json *object = json_object_create();

                json_object_put_string(object, "to", to);
                json_object_put_string(object, "what", ds_cstr(&caps));
                json_object_put_string(object, "why", unable->words);
                json_array_add(array, object);
            } else {
                ds_put_format(ds, "    to %s: cannot %s: %s\n", to,
                              ds_cstr(&caps), unable->words);
            }
            ds_destroy(&caps);
        }
    }
    if (json) {
        json_object_put(json, "unable", array);
    }
}
