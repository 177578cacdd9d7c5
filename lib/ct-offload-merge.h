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

#ifndef CT_OFFLOAD_MERGE_H
#define CT_OFFLOAD_MERGE_H 1

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ct-dpif.h"
#include "ct-offload.h"
#include "openvswitch/match.h"
#include "openvswitch/types.h"
#include "packets.h"

/* One match and one list of actions for a chain of megaflows
 * ==========================================================
 *
 * A packet that goes through ct() meets several megaflows, one after the
 * other: each ends in recirculation to the next one, and between two of them
 * ct(), NAT and set actions have changed the packet and its metadata.  This
 * module merges such a chain into what a single rule in hardware needs: a
 * match for packets as they are on the wire, and actions that do at once all
 * that the chain does.
 *
 * It is a compiler: functions from values to values, without locks and without
 * state of their own, which know neither conntrack nor any hardware.  It is
 * right if
 *
 *   - the rule takes only packets that software would send through exactly
 *     this chain, with the same result of each ct(), and
 *
 *   - what the rule does to them is what software would do, bit by bit.
 *
 * It need not take all packets that go through the chain, but takes all that
 * one rule can take: see "What is added" below.
 *
 * Chains and paths
 * ================
 *
 * Many connections go through one chain.  What differs between them are their
 * tuples, to what NAT changes these, marks and labels.  So there are two
 * steps:
 *
 *   - ct_merge_create() does, once for a chain, all that does not depend on a
 *     connection;
 *
 *   - ct_merge_instantiate() does the rest, for each "path", that is, one
 *     direction of a connection: it walks the tuple through the chain and
 *     compares.  It allocates nothing.
 *
 * A connection can go through a compiled chain if each ct() finds something
 * of the same "shape" there, see ct_merge_conn_shape(): the megaflows and the
 * shapes together are the key of a chain.
 *
 * How it works
 * ============
 *
 * Each bit of 'struct flow' is, at each point of the chain,
 *
 *   - as on the wire, at first all bits of what is in the packet's headers; or
 *
 *   - known: its value is the same in all packets of the chain, because an
 *     action has set it or because it is metadata; or
 *
 *   - the path's: its value is known as soon as the connections are.  That
 *     is what ct() and hash() make.
 *
 * What a megaflow matches of the first kind is added to the rule's match; of
 * the second kind, it must be that value, else no packet goes through this
 * chain; of the third kind, it is remembered for ct_merge_instantiate(), which
 * compares.  Actions make bits known, whatever they were.  ct() first of all
 * makes the tuple the path's: the packet has the tuple of the connection that
 * ct() has found, or it would have found another one.
 *
 * Hardware sets fields, not bits.  So of a field that is not as it was on the
 * wire, all other bits must be known or matched.
 *
 * ct()
 * ====
 *
 * What ct() says is a constant for as long as the connection's state is: the
 * caller ends a path when that changes.  Three kinds of results are such
 * constants, see 'enum ct_merge_kind'.  What conntrack would write into the
 * packet's metadata follows from the kind, the direction and NAT:
 *
 *   - ct_state begins anew when ct() is in another zone than the ct() before,
 *     and collects bits otherwise;
 *
 *   - a packet that was translated in this zone before is looked up by what it
 *     was before, and not translated again;
 *
 *   - ct(nat) makes the tuple the reverse of the other direction's;
 *
 *   - ct(commit) of a connection that was committed does nothing, unless it
 *     changes its mark or labels.
 *
 * What is added
 * =============
 *
 * To what megaflows match, ct_merge_create() always adds:
 *
 *   - the exact tuple;
 *
 *   - for TCP that SYN, FIN and RST are not set: software has to see these;
 *     and that ACK is: conntrack says of a packet with none of the four that
 *     it is invalid;
 *
 *   - that the packet is not a fragment, has no other VLAN tag than the one
 *     that the chain has seen, and comes from the chain's port.
 *
 * A 'struct match' cannot say that an IPv6 packet has no extension headers,
 * or that checksums are good.
 *
 * Tunnels
 * =======
 *
 * Packets can arrive in a tunnel.  The first megaflow does nothing but
 * tnl_pop() then, and the next one matches what was outside as metadata.  The
 * rule matches all of that at once: 'flow.tunnel' of its match is what the
 * packet has outside, and everything else is what it has inside.  What a
 * 'struct match' has no field for is in a 'struct ct_offload_tunnel'.
 * Conversely, tnl_push() right before output is one of the rule's actions.
 * The UDP source port that it sets depends on the path.
 *
 * Always added is that there are just as many bytes of Geneve options as the
 * chain has seen.
 *
 * Thread-safety
 * =============
 *
 * A 'struct ct_merge' does not change after ct_merge_create(). */

/* The most that a chain can have of them. */
#define CT_MERGE_MAX_FLOWS 8
#define CT_MERGE_MAX_CONNS 6

/* Why a chain, or a path, cannot be one rule. */
enum ct_merge_reason {
    CT_MERGE_OK,                /* It can. */

    /* The chain as a whole. */
    CT_MERGE_BROKEN,            /* A megaflow does not lead to the next one. */
    CT_MERGE_TOO_LONG,          /* Too many megaflows or ct() actions. */
    CT_MERGE_NO_CONN,           /* No connection is established. */
    CT_MERGE_PROTOCOL,          /* Neither TCP nor UDP over IP. */
    CT_MERGE_INCONSISTENT,      /* No packet would match all megaflows. */

    /* What is matched. */
    CT_MERGE_TCP_FLAGS,         /* Packets that software must see. */
    CT_MERGE_FRAGMENT,
    CT_MERGE_INVALID,           /* +inv. */
    CT_MERGE_TUNNEL,            /* Not one that this can merge. */
    CT_MERGE_L3_PORT,           /* Also an action. */
    CT_MERGE_VLAN,              /* More than one tag.  Also an action. */
    CT_MERGE_MPLS,              /* Also an action. */
    CT_MERGE_NSH,               /* Also an action. */

    /* Actions. */
    CT_MERGE_METER,
    CT_MERGE_SAMPLE,
    CT_MERGE_PSAMPLE,
    CT_MERGE_USERSPACE,
    CT_MERGE_TRUNC,
    CT_MERGE_CHECK_PKT_LEN,
    CT_MERGE_LB_OUTPUT,
    CT_MERGE_CLONE,
    CT_MERGE_OUTPUTS,           /* More than one, or actions after it. */
    CT_MERGE_AFTER_RECIRC,      /* Actions after recirculation. */
    CT_MERGE_HASH,              /* An algorithm that is not known here. */
    CT_MERGE_DEC_TTL,
    CT_MERGE_OTHER_ACTION,

    /* Set actions. */
    CT_MERGE_SET_TOS,
    CT_MERGE_SET_IPV6_LABEL,
    CT_MERGE_SET_SKB_PRIORITY,
    CT_MERGE_SET_PKT_MARK,
    CT_MERGE_SET_OTHER,
    CT_MERGE_SET_PART,          /* Of a field whose other bits are unknown. */
    CT_MERGE_SET_TUPLE,         /* Before ct(), and it was not matched. */

    /* ct(). */
    CT_MERGE_CT_FORCE,
    CT_MERGE_CT_HELPER,
    CT_MERGE_CT_COMMIT,         /* Would commit a connection. */
    CT_MERGE_CT_MARK,           /* Would change mark or labels. */
    CT_MERGE_CT_TUPLE,          /* Sees another tuple than its connection. */

    CT_MERGE_N_REASONS
};

const char *ct_merge_reason_to_string(enum ct_merge_reason);

/* What ct() has found. */
enum ct_merge_kind {
    CT_MERGE_ESTABLISHED,       /* A connection; both directions were seen. */
    CT_MERGE_ONE_WAY,           /* A connection that has had no reply. */
    CT_MERGE_MISS,              /* Nothing, and nothing was committed. */
};

/* A ct() of a path, and the connection that it finds.  Of a miss, nothing but
 * the kind matters. */
struct ct_merge_conn {
    enum ct_merge_kind kind;
    bool reply;                 /* Is the path its reply direction? */
    bool snat, dnat;            /* How it was committed. */
    bool related;               /* Has it 'parent'? */
    struct ct_dpif_tuple tuple[2]; /* Of original direction and of reply. */
    struct ct_dpif_tuple parent;   /* Original tuple of the connection that
                                    * it is a helper's data connection of. */
    uint32_t mark;
    ovs_u128 label;
};

uint32_t ct_merge_conn_shape(const struct ct_merge_conn *);

/* A megaflow.  Bits of 'key' that are not in 'mask' do not matter. */
struct ct_merge_flow {
    const struct flow *key;
    const struct flow *mask;
    const struct nlattr *actions;
    size_t actions_len;
};

/* The tunnel port that the first megaflow has packets popped for, if it does.
 */
struct ct_merge_vport {
    odp_port_t port;
    enum ct_offload_tunnel_type type;
};

/* The fields that are in 'struct flow' and differ from path to path. */
struct ct_merge_values {
    struct ct_dpif_tuple tuple;
    struct ct_dpif_tuple ct_tuple;
    ovs_u128 ct_label;
    uint32_t ct_mark;
    uint32_t dp_hash;
};

struct ct_merge_masked {
    struct ct_merge_values value;
    struct ct_merge_values mask;
};

/* A compiled chain. */
struct ct_merge {
    /* The match on the wire.  That on the tuple is exact, but its values are
     * a path's: here they are what megaflows have matched of them. */
    struct match match;
    odp_port_t in_port;
    struct ct_offload_tunnel tunnel; /* If packets arrive in one... */
    odp_port_t tunnel_port;     /* ...for this port. */

    /* The actions, in the order in which they are done.  The values of the
     * tuple in 'set' are a path's. */
    bool pop_vlan;              /* After tnl_pop() for 'tunnel'. */
    bool push_vlan;
    struct ovs_action_push_vlan vlan;
    struct match set;           /* What is set, and its mask. */
    struct ovs_action_push_tnl *push; /* Or NULL. */
    odp_port_t out_port;        /* ODPP_NONE to drop. */

    /* By how many bytes packets are longer, when they meet each megaflow, than
     * they were on the wire. */
    int16_t size_diff[CT_MERGE_MAX_FLOWS];
    size_t n_flows;

    /* For ct_merge_instantiate(). */
    struct ct_merge_step *steps;
    size_t n_steps, allocated_steps;
    uint32_t shapes[CT_MERGE_MAX_CONNS];
    size_t n_conns;
    size_t first;               /* The first ct() that finds a connection... */
    struct ct_merge_masked wire;   /* ...whose tuple is on the wire but for
                                    * this. */
    struct ct_merge_masked matched; /* What the match says of the tuple. */
};

/* What differs from path to path. */
struct ct_merge_path {
    struct ct_dpif_tuple wire;  /* Of packets on the wire. */
    struct ct_dpif_tuple out;   /* Of packets that leave. */
    struct ct_dpif_tuple seen[CT_MERGE_MAX_CONNS]; /* By each ct(). */
    ovs_be16 udp_src;           /* Of the tunnel that they leave in; 0 if that
                                 * is not known. */
};

/* The RSS hash that packets have.  What is in a tunnel has none before it
 * comes out. */
struct ct_merge_rss {
    uint32_t hash;
    size_t since;               /* From which megaflow on.  There may be none
                                 * as long as nobody extracts the flow. */
};

enum ct_merge_reason ct_merge_create(const struct ct_merge_flow[],
                                     size_t n_flows,
                                     const struct ct_merge_conn[],
                                     size_t n_conns, struct ct_merge_vport,
                                     struct ct_merge **);
void ct_merge_destroy(struct ct_merge *);

enum ct_merge_reason ct_merge_instantiate(const struct ct_merge *,
                                          const struct ct_merge_conn[],
                                          const struct ct_merge_rss *,
                                          struct ct_merge_path *);
void ct_merge_get_wire(const struct ct_merge *,
                       const struct ct_merge_conn *first,
                       struct ct_dpif_tuple *);
void ct_merge_get_match(const struct ct_merge *, const struct ct_merge_path *,
                        struct match *);
void ct_merge_get_common_match(const struct ct_merge *, struct match *);
void ct_merge_put_actions(const struct ct_merge *,
                          const struct ct_merge_path *, struct ofpbuf *);

#endif /* ct-offload-merge.h */
