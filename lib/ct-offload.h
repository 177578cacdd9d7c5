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

#ifndef CT_OFFLOAD_H
#define CT_OFFLOAD_H 1

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "openvswitch/types.h"
#include "ovs-atomic.h"
#include "packets.h"

/* Connection tracking offload
 * ===========================
 *
 * The userspace connection tracker (conntrack.h) follows connections in
 * software.  Network hardware may follow them as well, if it is told about
 * each of them.  This module stands between the two: it keeps a registry of
 * "providers", each of which knows how to talk to one kind of hardware, and
 * brings them the events in the life of each connection:
 *
 *     ADD    the connection was committed;
 *     EST    its first reply was seen;
 *     UPD    when was it last used?
 *     DEL    it is gone, or is to be taken back into software.
 *
 * Writing a provider
 * ==================
 *
 * Fill in a 'struct ct_offload_class' and register it:
 *
 *     static const struct ct_offload_class my_class = {
 *         .name = "my-nic",
 *         .can_offload = my_can_offload,
 *         .conn_add = my_conn_add,
 *         .conn_del = my_conn_del,
 *     };
 *
 *     error = ct_offload_register(&my_class);
 *
 * Three callbacks are mandatory, the others are optional.  What a provider
 * can rely on:
 *
 *   - For each stay of a connection it sees ADD, then EST at most once, then
 *     DEL, and never two callbacks for one connection at a time, whatever the
 *     threads of OVS do.  UPD may come any number of times between ADD and
 *     DEL.
 *
 *   - EST, UPD and DEL come only for connections whose ADD it accepted, that
 *     is, for which 'conn_add' returned 0.
 *
 *   - An ADD whose connection is already gone is not sent at all.
 *
 *   - 'ctx->priv' points to a pointer that belongs to the provider alone.  It
 *     is NULL at ADD and keeps what the provider puts there until DEL: the
 *     provider's own state for a connection is found without a look-up.
 *
 *   - No lock of the connection tracker is held, so that every accessor below
 *     may be called.
 *
 * A connection is opaque to a provider: it sees it only through the accessor
 * functions ct_offload_conn_get_*() below.  Addresses are those that the
 * ct() action saw.  'ctx->unmodified' says whether the packet stood there as
 * it had come from its port; if it did not, the tuple is not what is on the
 * wire and hardware that matches packets must refuse the connection.
 *
 * Threads
 * =======
 *
 * Callbacks run in the offload threads (ct-offload-thread.h).  If there are
 * none (other_config:hw-offload-ct-threads=0, or programs that do not start
 * any), they run in the threads of the datapath: PMD threads, the main thread,
 * the thread that cleans up connections.  A few run in the main thread in any
 * case, see 'struct ct_offload_class'.
 *
 * By default all calls into all providers are serialised by one mutex, taken
 * once per batch of operations, so that no two callbacks of a class ever run
 * at the same time.  A class that sets 'thread_safe' is called without that
 * mutex: its callbacks may run in several threads at once, yet never for the
 * same connection.
 *
 * A callback must not quiesce in the sense of ovs-rcu.h, and must not call
 * ct_offload_register(), ct_offload_unregister() or ct_offload_barrier().  It
 * holds up RCU, and thus the memory of whatever is removed meanwhile: a
 * provider whose hardware may not answer should not wait for it for ever.
 *
 * Lock order, outermost first:
 *
 *     'registry_mutex'       ct-offload.c; not held while waiting for a
 *                            callback
 *     'conntracks_mutex'     conntrack-offload.c
 *     'queue.read_lock'      ct-offload-thread.c: an offload thread has that
 *                            of its own queue, all the time
 *     'ct_offload_mutex'     ct-offload.c: the providers' mutex
 *     what a provider has
 *     'conn->lock', 'ct_lock', 'resources_lock'
 *                            see conntrack-private.h
 *     'batches_mutex', 'stats_mutex', 'mutex' of an offload thread
 *                            nothing is taken inside of these
 *
 * Using the module
 * ================
 *
 * conntrack-offload.h has the functions through which the connection tracker
 * raises events.  Everything else is done by the functions below, which may be
 * called from any thread that holds none of the locks above, and is not inside
 * a callback. */

struct conn;
struct ct_dpif_tuple;
struct ct_offload_path;
struct dpif_flow_stats;
struct dpif_offload;
struct ds;
struct json;
struct match;
struct netdev;
struct netdev_custom_stats;
struct nlattr;
struct smap;

/* The most providers that can be registered at once. */
#define CT_OFFLOAD_MAX_PROVIDERS 4

/* The VLAN tags of a packet. */
enum ct_offload_vlan {
    CT_OFFLOAD_VLAN_NONE,       /* No tag. */
    CT_OFFLOAD_VLAN_TAG,        /* One tag, an IEEE 802.1Q one. */
    CT_OFFLOAD_VLAN_OTHER,      /* Another one, or more of them. */
};

/* Why a connection is in software, or not in hardware yet. */
enum ct_offload_reason {
    CT_OFFLOAD_REASON_NONE,     /* No provider was asked yet. */
    CT_OFFLOAD_NOT_ESTABLISHED, /* Offered when it is. */
    CT_OFFLOAD_NO_PROVIDER,     /* Its port has no provider, or nobody knows
                                 * what port it is. */
    CT_OFFLOAD_NO_BYPASS,       /* It would not save software any packet. */
    CT_OFFLOAD_NO_FORWARD,      /* Its port cannot forward packets by itself.
                                 */
    CT_OFFLOAD_NOT_ON_WIRE,     /* ct() does not see what its port received. */
    CT_OFFLOAD_BAD_PROTOCOL,    /* Not one that the provider knows. */
    CT_OFFLOAD_BAD_VLAN,        /* Tags that the provider cannot match. */
    CT_OFFLOAD_HELPER,          /* Software reads its payload. */
    CT_OFFLOAD_CLOSING,         /* A FIN or RST was seen. */
    CT_OFFLOAD_LIMIT,           /* No room in "hw-offload-ct-size". */
    CT_OFFLOAD_QUEUE,           /* An offload thread has too much to do. */
    CT_OFFLOAD_PREDECESSOR,     /* Hardware may still have another connection
                                 * with its tuple. */
    CT_OFFLOAD_ERROR,           /* The provider failed. */
    CT_OFFLOAD_TAKEN_BACK,      /* Its port stopped, or its mark, labels,
                                 * port or the configuration have changed. */
    CT_OFFLOAD_REFUSED,         /* The provider does not say why. */
    CT_OFFLOAD_N_REASONS
};

/* What an operation is about. */
struct ct_offload_ctx {
    const struct conn *conn;    /* The connection. */
    struct netdev *netdev_in;   /* ADD: the port that the original direction
                                 * arrives at; EST: the same for the reply
                                 * direction.  May be NULL if not known, for
                                 * example for tunnels and for packets that
                                 * were reassembled.  NULL for UPD and DEL.
                                 * Valid during the callback only. */
    odp_port_t input_port_id;   /* Datapath port number of 'netdev_in', or
                                 * ODPP_NONE. */
    bool unmodified;            /* ADD, EST: has the packet come to ct() as its
                                 * port received it, as far as hardware can
                                 * match it?  See ct-offload-wire.h. */
    uint8_t vlan;               /* ADD, EST: 'enum ct_offload_vlan'. */
    ovs_be16 vlan_tci;          /* ADD, EST: the tag, if there is one. */
    void **priv;                /* Where a provider keeps its own state for
                                 * the connection.  Set by the layer. */
    bool *uni_dir;              /* EST: where a provider says that hardware
                                 * has only one direction.  False before. */
};

/* One side of a TCP connection, as the connection tracker knows it.  Sequence
 * numbers are those on the wire (RFC 9293), in host byte order. */
struct ct_offload_tcp_peer {
    uint32_t sent_end;          /* Highest sequence number sent, plus one. */
    uint32_t max_end;           /* Highest sequence number that the other side
                                 * has allowed: its ACK plus its window. */
    uint32_t max_window;        /* Largest window announced, in bytes. */
    uint8_t scale;              /* Window scale (RFC 7323), 0 if none. */
    bool scaled;                /* Do both sides scale their windows? */
    uint8_t state;              /* 'enum ct_dpif_tcp_state'. */
};

enum ct_offload_op_type {
    CT_OFFLOAD_OP_ADD,          /* A connection was committed. */
    CT_OFFLOAD_OP_DEL,          /* A connection goes. */
    CT_OFFLOAD_OP_UPD,          /* Ask when a connection was last used. */
    CT_OFFLOAD_OP_POLICY,       /* Ask whether it could be offloaded. */
    CT_OFFLOAD_OP_FLUSH,        /* Forget everything. */
    CT_OFFLOAD_OP_EST,          /* The first reply was seen. */
};
#define CT_OFFLOAD_N_OPS (CT_OFFLOAD_OP_EST + 1)

/* One operation, and its result. */
struct ct_offload_op {
    enum ct_offload_op_type type;
    int error;                  /* Result: 0 or a positive errno value. */
    struct ct_offload_ctx ctx;
    long long int last_used;    /* UPD: result, in ms as time_msec() counts;
                                 * 0 if not known. */
};

/* Enough for what a burst of packets can raise: each of 32 packets may remove
 * one connection and add another. */
#define CT_OFFLOAD_BATCH_INLINE 64

/* A number of operations to be carried out together.  Up to
 * CT_OFFLOAD_BATCH_INLINE of them need no memory but the batch itself. */
struct ct_offload_op_batch {
    struct ct_offload_op *ops;  /* 'inline_ops', or allocated. */
    size_t n_ops;               /* Number of operations in 'ops'. */
    size_t allocated;           /* Number of operations 'ops' has room for. */
    struct ct_offload_op inline_ops[CT_OFFLOAD_BATCH_INLINE];
};

/* Makes OP (a 'struct ct_offload_op *') point to each operation of BATCH in
 * turn; IDX is declared by the macro and counts from 0. */
#define CT_OFFLOAD_BATCH_OP_FOR_EACH(IDX, OP, BATCH)                        \
    for (size_t IDX = 0;                                                    \
         IDX < (BATCH)->n_ops && ((OP) = &(BATCH)->ops[IDX], true);         \
         IDX++)

/* A kind of hardware, or something that acts like it. */
struct ct_offload_class {
    /* Unique name.  A provider that is built into OVS bears the name of the
     * dpif-offload class whose ports it serves. */
    const char *name;

    /* May callbacks run in several threads at once? */
    bool thread_safe;

    /* Is the provider interested in established connections only?  Then it
     * gets ADD and EST in one go, when both peers of a TCP connection are
     * established, or any other connection has had a valid reply, and packets
     * of both directions have been seen since.  Until then a connection takes
     * no room and costs nothing, so that floods of packets that nobody
     * answers, or of answers to such, take nothing from connections that
     * matter.  Otherwise EST is the first valid reply. */
    bool established_only;

    /* May packets of a connection that is established bypass software?  Then
     * software does not check sequence numbers any more, and asks the provider
     * about its last use before the connection expires. */
    bool may_bypass;

    /* Called by ct_offload_register(), in its thread.  A positive errno value
     * refuses the registration. */
    int (*init)(void);

    /* Called by ct_offload_unregister(), in its thread, when nothing of the
     * provider is in use any more. */
    void (*exit)(void);

    /* Mandatory.  Would the provider like to have this connection?  Should be
     * quick: it is called for each new connection.  To refuse, it should
     * "return ct_offload_refuse(reason);", so that operators see why. */
    bool (*can_offload)(const struct ct_offload_ctx *);

    /* Mandatory.  Take the connection.  Returns 0 or a positive errno value;
     * after an error the provider holds nothing of the connection. */
    int (*conn_add)(const struct ct_offload_ctx *);

    /* Mandatory.  Give the connection up.  Cannot fail. */
    void (*conn_del)(const struct ct_offload_ctx *);

    /* When was the connection last used?  Returns a time of time_msec(), or
     * 0 if that is not known. */
    long long int (*conn_update)(const struct ct_offload_ctx *);

    /* The connection is established; 'netdev_in' is the reply's port.  Returns
     * 0 or a positive errno value; after an error the provider holds nothing
     * of the connection, and may be offered it again later. */
    int (*conn_established)(const struct ct_offload_ctx *);

    /* Do all of the batch's operations, in order, with the results in them
     * (they are preset to what they are if nothing is done).  Instead of the
     * four callbacks above, which are then called only for single operations
     * outside of batches.  ADD operations have passed 'can_offload'.  A batch
     * has ADD, EST, UPD and DEL only, and has no operation on a connection
     * that follows an ADD, EST or DEL of the same connection.  An error of ADD
     * or EST goes into 'error' of the operation.  'priv' of each
     * operation's 'ctx' is the provider's. */
    void (*batch_submit)(struct ct_offload_op_batch *);

    /* Drop whatever is left, when DEL has been sent for all that was held. */
    void (*flush)(void);

    /* 'netdev' is about to stop or to go away: when this returns, nothing in
     * the provider refers to it.  May be called again for the same netdev. */
    void (*netdev_flush)(struct netdev *netdev);

    /* Appends to 'ds' what an operator would like to know about a connection
     * that the provider holds, for example its rules and how many packets they
     * have seen, in a few words. */
    void (*conn_format)(const struct ct_offload_ctx *, struct ds *);

    /* Appends to 'ds', or adds to the JSON object 'json' if that is nonnull,
     * what an operator would like to know about the provider. */
    void (*get_debug)(struct ds *ds, struct json *json);

    /* All of these or none.  They are called for ports that 'can_forward'
     * returns true for, and for connections that are established in the
     * provider; by any thread, for a path by one at a time. */

    /* Does 'path_add' know fences?  A fence is a path which has packets come
     * to software, whatever other paths they match: there is one while very
     * many paths are being ended.  It may match less than a path must, and so
     * more packets. */
    bool fences;

    /* Does hardware forward packets from 'netdev_in' by itself, or may
     * 'path_add' find that it does?  Quick. */
    bool (*can_forward)(const struct netdev *netdev_in);

    /* Have hardware forward the packets of the path, and count them.  All that
     * is in it is valid during the call only.  '*priv' is the provider's own
     * from now on.  Returns 0 or a positive errno value; packets then go
     * through software. */
    int (*path_add)(const struct ct_offload_path *, void **priv);

    /* Have hardware forward no packets of the path any more, at once.  Stores
     * in '*last' how many packets and bytes it has forwarded in all.  Cannot
     * fail. */
    void (*path_del)(void **priv, struct dpif_flow_stats *last);

    /* Stores in '*total' how many packets and bytes hardware has forwarded so
     * far, the bytes as they arrived.  Returns 0; or EAGAIN if that is not
     * known just now; or another positive errno value if hardware cannot, or
     * must not, forward them any more, upon which 'path_del' is called. */
    int (*path_stats)(void **priv, struct dpif_flow_stats *total);
};

/* A kind of tunnel over UDP, with Ethernet in it. */
enum ct_offload_tunnel_type {
    CT_OFFLOAD_TUNNEL_NONE,
    CT_OFFLOAD_TUNNEL_VXLAN,        /* RFC 7348. */
    CT_OFFLOAD_TUNNEL_GENEVE,       /* RFC 8926. */
};

/* What 'flow.tunnel' of a match does not tell of the tunnel that packets
 * arrive in: they have no VLAN tag outside, and no IPv4 options. */
struct ct_offload_tunnel {
    enum ct_offload_tunnel_type type;
    bool ipv6;                      /* Outside. */
    struct eth_addr src, src_mask;  /* Outside. */
    struct eth_addr dst, dst_mask;
    size_t header_len;              /* Of all that is outside, in bytes. */
};

/* A direction of a connection that hardware is to forward by itself. */
struct ct_offload_path {
    bool fence;                     /* See 'fences' above.  There is no
                                     * 'netdev_out', and no actions. */
    struct netdev *netdev_in;       /* Where the packets arrive... */
    struct netdev *netdev_out;      /* ...and leave, or NULL to drop them. */
    odp_port_t in_port, out_port;   /* Their datapath port numbers. */
    const struct match *match;      /* What the packets are like on the wire.
                                     * Others must not be taken. */
    const struct ct_offload_tunnel *tunnel; /* If they arrive in a tunnel, for
                                     * which 'flow.tunnel' of 'match' is, and
                                     * the rest for what is inside.  Else
                                     * NULL. */
    const struct nlattr *actions;   /* OVS_ACTION_ATTR_*: what to do with them:
                                     * TUNNEL_POP, POP_VLAN, PUSH_VLAN, SET or
                                     * SET_MASKED of each field at most once,
                                     * TUNNEL_PUSH, OUTPUT.  If the header to
                                     * push has a UDP checksum, it is to be
                                     * computed, or set to 0 by hardware that
                                     * cannot do that. */
    size_t actions_len;
    unsigned int n_conns;           /* That packets pass, one in each zone. */
};

/* Registry. */
void ct_offload_module_init(void);
int ct_offload_register(const struct ct_offload_class *);
void ct_offload_unregister(const struct ct_offload_class *);
void ct_offload_set_config(const struct smap *other_config);
void ct_offload_register_builtins(void);
void ct_offload_netdev_flush(struct netdev *);
const struct dpif_offload *ct_offload_netdev_stop(struct netdev *);
void ct_offload_netdev_start(struct netdev *,
                             const struct dpif_offload *owner);
void ct_offload_barrier(void);
void ct_offload_exit(void);
size_t ct_offload_get_stats(struct netdev_custom_stats *);

/* Single operations. */
int ct_offload_conn_add(const struct ct_offload_ctx *);
void ct_offload_conn_del(const struct ct_offload_ctx *);
long long int ct_offload_conn_update(const struct ct_offload_ctx *);
void ct_offload_conn_established(const struct ct_offload_ctx *);
bool ct_offload_can_offload(const struct ct_offload_ctx *);
void ct_offload_flush(void);

/* Batches. */
void ct_offload_op_batch_init(struct ct_offload_op_batch *);
void ct_offload_op_batch_add(struct ct_offload_op_batch *,
                             enum ct_offload_op_type,
                             const struct ct_offload_ctx *);
void ct_offload_op_batch_submit(struct ct_offload_op_batch *);
void ct_offload_op_batch_destroy(struct ct_offload_op_batch *);

/* Returns the number of operations in 'batch'. */
static inline size_t
ct_offload_op_batch_len(const struct ct_offload_op_batch *batch)
{
    return batch->n_ops;
}

/* Returns the number of operations that 'batch' has room for before it needs
 * more memory. */
static inline size_t
ct_offload_op_batch_size(const struct ct_offload_op_batch *batch)
{
    return batch->allocated;
}

/* What providers may ask about a connection.  All of these may be called from
 * any thread that does not hold 'conn->lock', while 'conn' is valid: in a
 * callback, or until the thread quiesces. */
bool ct_offload_conn_is_offloaded(const struct conn *);
bool ct_offload_conn_is_established(const struct conn *);
void ct_offload_conn_get_tuple(const struct conn *, bool reply,
                               struct ct_dpif_tuple *);
uint16_t ct_offload_conn_get_zone(const struct conn *);
uint32_t ct_offload_conn_get_mark(const struct conn *);
ovs_u128 ct_offload_conn_get_labels(const struct conn *);
bool ct_offload_conn_is_snat(const struct conn *);
bool ct_offload_conn_is_dnat(const struct conn *);
bool ct_offload_conn_get_tcp_state(const struct conn *, uint8_t *orig,
                                   uint8_t *reply);
bool ct_offload_conn_get_tcp_peers(const struct conn *,
                                   struct ct_offload_tcp_peer peers[2]);
void ct_offload_conn_format(const struct conn *, struct ds *);

/* For a provider's 'can_offload', and what else it may want to know. */
bool ct_offload_refuse(enum ct_offload_reason);
bool ct_offload_config_bypass(void);
bool ct_offload_config_forward(void);
bool ct_offload_is_accepting(void);
bool ct_offload_is_registered(const struct ct_offload_class *);
const char *ct_offload_netdev_owner(const struct netdev *);

extern atomic_bool ct_offload_active;

/* May connections be offloaded, or held by a provider?  Costs next to nothing.
 */
static inline bool
ct_offload_is_active(void)
{
    bool active;

    atomic_read_relaxed(&ct_offload_active, &active);
    return active;
}

#endif /* ct-offload.h */
