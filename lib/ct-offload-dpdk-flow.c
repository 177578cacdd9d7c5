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

#include "ct-offload-dpdk-flow.h"

#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <string.h>

#include <rte_errno.h>

#include "packets.h"
#include "util.h"

/* Segments with one of these are for software: they begin or end a connection,
 * or come from a peer that knows nothing of it any more. */
#define TCP_NOT_MATCHED (TCP_SYN | TCP_FIN | TCP_RST)

/* Errors. */

/* Returns the positive errno value of a call that failed. */
int
dpdk_flow_errno(void)
{
    return rte_errno > 0 ? rte_errno : EIO;
}

/* Is it worth the while to try at once again what failed with 'error'? */
static bool
error_is_momentary(int error)
{
    return (error == EAGAIN || error == EBUSY || error == EINTR
            || error == EIO || error == ETIMEDOUT);
}

/* May something that failed with 'error' work at another time?  Otherwise the
 * port cannot do it at all. */
bool
dpdk_flow_error_is_transient(int error)
{
    return (error_is_momentary(error) || error == EEXIST || error == ENOBUFS
            || error == ENOENT || error == ENOMEM || error == ENOSPC);
}

/* 'n' calls, one after the other, have failed, the last one with 'error'.  If
 * another one may work soon, waits a little, longer each time and less than a
 * millisecond in all, and returns true. */
bool
dpdk_flow_wait_to_retry(int error, unsigned int n)
{
    static const unsigned int pauses_us[] = { 50, 100, 200, 400 };

    if (!error_is_momentary(error) || n > ARRAY_SIZE(pauses_us)) {
        return false;
    }
    xnanosleep_no_quiesce(pauses_us[n - 1] * 1000);
    return true;
}

/* Patterns. */

/* Appends an item to 'pattern', which points to 'spec' and 'mask'. */
void
dpdk_flow_pattern_add(struct dpdk_flow_pattern *pattern,
                      enum rte_flow_item_type type, const void *spec,
                      const void *mask)
{
    ovs_assert(pattern->n_items < ARRAY_SIZE(pattern->items));
    pattern->items[pattern->n_items++] = (struct rte_flow_item) {
        .type = type,
        .spec = spec,
        .mask = mask,
    };
}

static void
pattern_add_l2(struct dpdk_flow_pattern *pattern,
               const struct dpdk_flow_key *key)
{
    pattern->eth.has_vlan = key->tagged;
    pattern->eth_mask.has_vlan = 1;
    dpdk_flow_pattern_add(pattern, RTE_FLOW_ITEM_TYPE_ETH, &pattern->eth,
                          &pattern->eth_mask);
    if (key->tagged) {
        /* The type is that of the tag: there are others, with the same ids. */
        pattern->eth.hdr.ether_type = htons(ETH_TYPE_VLAN_8021Q);
        pattern->eth_mask.hdr.ether_type = OVS_BE16_MAX;

        /* The priority in the tag may change from packet to packet. */
        pattern->vlan.hdr.vlan_tci = key->vlan_vid;
        pattern->vlan_mask.hdr.vlan_tci = htons(VLAN_VID_MASK);
        pattern->vlan_mask.has_more_vlan = 1;
        dpdk_flow_pattern_add(pattern, RTE_FLOW_ITEM_TYPE_VLAN,
                              &pattern->vlan, &pattern->vlan_mask);
    }
}

static void
pattern_add_ipv4(struct dpdk_flow_pattern *pattern,
                 const struct dpdk_flow_key *key)
{
    struct rte_flow_item_ipv4 *spec = &pattern->ip.ipv4;
    struct rte_flow_item_ipv4 *mask = &pattern->ip_mask.ipv4;

    spec->hdr.src_addr = key->src.ip;
    spec->hdr.dst_addr = key->dst.ip;
    mask->hdr.src_addr = mask->hdr.dst_addr = OVS_BE32_MAX;
    mask->hdr.fragment_offset = htons(IP_FRAG_OFF_MASK | IP_MORE_FRAGMENTS);
    dpdk_flow_pattern_add(pattern, RTE_FLOW_ITEM_TYPE_IPV4, spec, mask);
}

static void
pattern_add_ipv6(struct dpdk_flow_pattern *pattern,
                 const struct dpdk_flow_key *key)
{
    struct rte_flow_item_ipv6 *spec = &pattern->ip.ipv6;
    struct rte_flow_item_ipv6 *mask = &pattern->ip_mask.ipv6;

    /* The type of the addresses depends on the version of DPDK. */
    BUILD_ASSERT_DECL(sizeof spec->hdr.src_addr == sizeof key->src.in6);
    memcpy(&spec->hdr.src_addr, &key->src.in6, sizeof spec->hdr.src_addr);
    memcpy(&spec->hdr.dst_addr, &key->dst.in6, sizeof spec->hdr.dst_addr);
    memset(&mask->hdr.src_addr, 0xff, sizeof mask->hdr.src_addr);
    memset(&mask->hdr.dst_addr, 0xff, sizeof mask->hdr.dst_addr);
    mask->has_frag_ext = 1;
    dpdk_flow_pattern_add(pattern, RTE_FLOW_ITEM_TYPE_IPV6, spec, mask);
}

static void
pattern_add_l4(struct dpdk_flow_pattern *pattern,
               const struct dpdk_flow_key *key)
{
    enum rte_flow_item_type type = RTE_FLOW_ITEM_TYPE_UDP;

    /* The ports are at the same place in both headers. */
    pattern->l4.udp.hdr.src_port = key->src_port;
    pattern->l4.udp.hdr.dst_port = key->dst_port;
    pattern->l4_mask.udp.hdr.src_port = OVS_BE16_MAX;
    pattern->l4_mask.udp.hdr.dst_port = OVS_BE16_MAX;
    if (key->ip_proto == IPPROTO_TCP) {
        type = RTE_FLOW_ITEM_TYPE_TCP;
        pattern->l4_mask.tcp.hdr.tcp_flags = TCP_NOT_MATCHED;
    }
    dpdk_flow_pattern_add(pattern, type, &pattern->l4, &pattern->l4_mask);
}

/* Makes 'pattern' match the packets of 'key', but for TCP segments that are
 * for software. */
void
dpdk_flow_pattern_init(struct dpdk_flow_pattern *pattern,
                       const struct dpdk_flow_key *key)
{
    memset(pattern, 0, sizeof *pattern);
    pattern_add_l2(pattern, key);
    if (key->ipv6) {
        pattern_add_ipv6(pattern, key);
    } else {
        pattern_add_ipv4(pattern, key);
    }
    pattern_add_l4(pattern, key);
    dpdk_flow_pattern_add(pattern, RTE_FLOW_ITEM_TYPE_END, NULL, NULL);
}

/* Rules. */

/* Creates a rule and stores it in '*rule'. */
int
dpdk_flow_rule_create(uint16_t port_id, const struct rte_flow_attr *attr,
                      const struct rte_flow_item *items,
                      const struct rte_flow_action *actions,
                      struct rte_flow **rule, struct rte_flow_error *error)
{
    error->message = NULL;
    *rule = rte_flow_create(port_id, attr, items, actions, error);
    return *rule ? 0 : dpdk_flow_errno();
}

/* Destroys 'rule'.  If that fails it is still there. */
int
dpdk_flow_rule_destroy(uint16_t port_id, struct rte_flow *rule,
                       struct rte_flow_error *error)
{
    error->message = NULL;
    return rte_flow_destroy(port_id, rule, error) ? dpdk_flow_errno() : 0;
}

/* The same, but tries again for up to a millisecond if that fails. */
int
dpdk_flow_rule_destroy_retry(uint16_t port_id, struct rte_flow *rule,
                             struct rte_flow_error *error)
{
    unsigned int n = 0;
    int retval;

    do {
        retval = dpdk_flow_rule_destroy(port_id, rule, error);
    } while (retval && dpdk_flow_wait_to_retry(retval, ++n));
    return retval;
}

/* Stores in '*query', which is all zeros, what the action of 'rule' with
 * 'type' and 'conf' says. */
static int
rule_query(uint16_t port_id, struct rte_flow *rule,
           enum rte_flow_action_type type, const void *conf, void *query,
           struct rte_flow_error *error)
{
    const struct rte_flow_action actions[] = {
        { .type = type, .conf = conf },
        { .type = RTE_FLOW_ACTION_TYPE_END },
    };

    error->message = NULL;
    return (rte_flow_query(port_id, rule, actions, query, error)
            ? dpdk_flow_errno() : 0);
}

/* Stores in '*hits' how many packets 'rule' has matched, and in '*bytes' how
 * many bytes these had, as far as hardware tells. */
int
dpdk_flow_rule_get_count(uint16_t port_id, struct rte_flow *rule,
                         uint64_t *hits, uint64_t *bytes,
                         struct rte_flow_error *error)
{
    const struct rte_flow_action_count count = { .id = 0 };
    struct rte_flow_query_count query = { .hits = 0 };
    int retval = rule_query(port_id, rule, RTE_FLOW_ACTION_TYPE_COUNT, &count,
                            &query, error);

    if (!retval) {
        *hits = query.hits_set ? query.hits : 0;
        *bytes = query.bytes_set ? query.bytes : 0;
    }
    return retval;
}

/* Stores in '*hits' how many packets 'rule' has matched. */
int
dpdk_flow_rule_get_hits(uint16_t port_id, struct rte_flow *rule,
                        uint64_t *hits, struct rte_flow_error *error)
{
    uint64_t bytes;

    return dpdk_flow_rule_get_count(port_id, rule, hits, &bytes, error);
}

/* Stores in '*seconds' how long ago 'rule' has last matched a packet, or
 * UINT_MAX if that is not known. */
int
dpdk_flow_rule_get_idle(uint16_t port_id, struct rte_flow *rule,
                        unsigned int *seconds, struct rte_flow_error *error)
{
    const struct rte_flow_action_age age = {
        .timeout = DPDK_FLOW_AGE_TIMEOUT,
    };
    struct rte_flow_query_age query = { .aged = 0 };
    int retval = rule_query(port_id, rule, RTE_FLOW_ACTION_TYPE_AGE, &age,
                            &query, error);

    if (!retval) {
        *seconds = (query.aged || !query.sec_since_last_hit_valid ? UINT_MAX
                    : query.sec_since_last_hit);
    }
    return retval;
}
