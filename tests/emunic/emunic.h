/* SPDX-License-Identifier: Apache-2.0 */

/* The emulated NIC: what its parts share.
 *
 * emunic-wrap.c       DPDK's public functions, and which ports are claimed.
 * emunic-port.c       A port: its locks, its life, faults and latency.
 * emunic-item.c       Pattern items: packet fields, their names, their masks.
 * emunic-check.c      What a rule has to look like.
 * emunic-table.c      Tables of rules, and finding one for a packet.
 * emunic-switch.c     Ports that are of one switch, and its transfer rules.
 * emunic-object.c     Counters, ages and connections: direct and indirect.
 * emunic-ct.c         TCP connection tracking.
 * emunic-packet.c     Taking packets apart, and changing them.
 * emunic-tunnel.c     Tunnels: finding, opening and making them.
 * emunic-datapath.c   From received packets to software, drop or a port.
 * emunic-config.c     Profiles and commands.
 * emunic-report.c     Text and JSON.
 * emunic-control.c    The socket and the file that commands come from.
 *
 * Locks are taken in this order: the mutex 'api' of a port, the 'lock' of a
 * port (of one port at a time), 'emu_switch_lock', 'emu_objects_mutex', the
 * spinlock of an object. */

#ifndef EMUNIC_H
#define EMUNIC_H 1

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_icmp.h>
#include <rte_ip.h>
#include <rte_sctp.h>
#include <rte_spinlock.h>
#include <rte_tcp.h>
#include <rte_udp.h>

#define PRIuSIZE "zu"
#define EMU_EXPORT __attribute__((visibility("default")))
#define EMU_PRINTF(FMT, ARGS) __attribute__((format(printf, FMT, ARGS)))
#define EMU_UNUSED __attribute__((unused))
#define EMU_ARRAY_SIZE(ARRAY) (sizeof (ARRAY) / sizeof (ARRAY)[0])
#define EMU_CONTAINER_OF(POINTER, STRUCT, MEMBER) \
    ((STRUCT *) (void *) ((char *) (POINTER) - offsetof(STRUCT, MEMBER)))

/* More queues of one port than these are left to the driver. */
#define EMU_MAX_QUEUES 64

/* More jumps than these for one packet are a loop. */
#define EMU_MAX_JUMPS 16

/* emunic-port.c: hash maps, whose nodes are part of what they hold. */

struct emu_node {
    struct emu_node *next;
    uint64_t hash;
};

struct emu_map {
    struct emu_node **buckets;
    size_t n_buckets;           /* 0 or a power of 2. */
    size_t n;
};

void emu_map_destroy(struct emu_map *);
void emu_map_insert(struct emu_map *, struct emu_node *, uint64_t hash);
void emu_map_remove(struct emu_map *, struct emu_node *);
struct emu_node *emu_map_first(const struct emu_map *, uint64_t hash);
struct emu_node *emu_map_next(const struct emu_node *);
struct emu_node *emu_map_any(const struct emu_map *, struct emu_node *last);

void *emu_zalloc(size_t);
void emu_log(const char *format, ...) EMU_PRINTF(1, 2);
uint64_t emu_now(void);
void emu_advance(unsigned int seconds);
uint64_t emu_hash64(uint64_t);

/* emunic-item.c: the fields of a packet that rules match. */

enum emu_layer {
    EMU_ETH = 1u << 0,
    EMU_VLAN = 1u << 1,
    EMU_VLAN2 = 1u << 2,
    EMU_IPV4 = 1u << 3,
    EMU_IPV6 = 1u << 4,
    EMU_HOP_EXT = 1u << 5,
    EMU_ROUTE_EXT = 1u << 6,
    EMU_FRAG_EXT = 1u << 7,
    EMU_AUTH_EXT = 1u << 8,
    EMU_ESP_EXT = 1u << 9,
    EMU_DEST_EXT = 1u << 10,
    EMU_MOBIL_EXT = 1u << 11,
    EMU_HIP_EXT = 1u << 12,
    EMU_SHIM6_EXT = 1u << 13,
    EMU_TCP = 1u << 14,
    EMU_UDP = 1u << 15,
    EMU_SCTP = 1u << 16,
    EMU_ICMP = 1u << 17,
    EMU_ICMP6 = 1u << 18,
    EMU_CT = 1u << 19,
    EMU_PORT = 1u << 20,        /* Only items are of it: packets have none. */
    EMU_VXLAN = 1u << 21,
    EMU_GENEVE = 1u << 22,
    EMU_GENEVE_OPT = 1u << 23,  /* The same as EMU_PORT. */
};
#define EMU_L4 (EMU_TCP | EMU_UDP | EMU_SCTP | EMU_ICMP | EMU_ICMP6)
#define EMU_IPV6_EXTS (EMU_HOP_EXT | EMU_ROUTE_EXT | EMU_FRAG_EXT \
                       | EMU_AUTH_EXT | EMU_ESP_EXT | EMU_DEST_EXT \
                       | EMU_MOBIL_EXT | EMU_HIP_EXT | EMU_SHIM6_EXT)
#define EMU_TUNNEL (EMU_VXLAN | EMU_GENEVE)

/* A Geneve header's protocol, if there are frames in the tunnel. */
#define EMU_GENEVE_ETHERNET 0x6558

/* Every field that a rule can match, as on the wire, or the mask of one. */
struct emu_fields {
    struct rte_ether_hdr eth;
    struct rte_vlan_hdr vlan[2];
    struct rte_ipv4_hdr ipv4;
    struct rte_ipv6_hdr ipv6;
    struct rte_ipv6_fragment_ext frag;
    struct rte_tcp_hdr tcp;
    struct rte_udp_hdr udp;
    struct rte_sctp_hdr sctp;
    struct rte_icmp_hdr icmp;
    uint8_t icmp6[4];
    uint8_t vxlan[8], geneve[8]; /* Without options. */
    uint32_t ct;                /* RTE_FLOW_CONNTRACK_PKT_STATE_*. */
    uint32_t layers;            /* EMU_*: which headers there are. */
    uint16_t port, domain;      /* Where it is received. */
};

#define EMU_KEY_WORDS ((2 * sizeof(struct emu_fields) + 7) / 8)
union emu_key {
    struct {
        struct emu_fields f;
        struct emu_fields inner; /* What is in a tunnel. */
    };
    struct emu_fields levels[2]; /* The same. */
    uint8_t bytes[EMU_KEY_WORDS * 8];
    uint64_t words[EMU_KEY_WORDS];
};

enum emu_format {
    EMU_FMT_DEC,                /* An integer in network byte order. */
    EMU_FMT_HEX,                /* The same, in base 16. */
    EMU_FMT_DEC6,               /* An integer in the lower 6 bits. */
    EMU_FMT_HOST,               /* An integer in host byte order. */
    EMU_FMT_PORT,               /* The number of a port. */
    EMU_FMT_IPV4,
    EMU_FMT_IPV6,
    EMU_FMT_MAC,
};

struct emu_field {
    const char *name;           /* NULL at the end of a list. */
    uint8_t offset;             /* From the start of the item's header. */
    uint8_t size;
    enum emu_format format;
};

struct emu_item_class {
    enum rte_flow_item_type type;
    const char *name;
    enum emu_layer layer;
    uint16_t offset;            /* In struct emu_fields. */
    uint16_t size;              /* Of the header. */
    const void *default_mask;   /* What a missing mask stands for. */
    const void *mlx5_mask;      /* What can be matched in mlx5 profiles. */
    const struct emu_field *fields;
};

const struct emu_item_class *emu_item_class(enum rte_flow_item_type);
void emu_bytes_format(FILE *, const uint8_t *, const struct emu_field *);

/* emunic-object.c: counters, ages and connections.  An action of a rule that
 * is not indirect has an object of its own. */

/* How many packets CONNTRACK has said what of. */
struct emu_ct_stats {
    uint64_t valid, changed, invalid, disabled, bad;
};

struct emu_object {
    struct emu_node node;       /* In the registry, if it has an id. */
    uint64_t id;                /* 0 if it belongs to a rule. */
    enum rte_flow_action_type type;
    uint16_t port;
    bool transfer, ingress;
    unsigned int refs;          /* 'emu_objects_mutex'. */
    unsigned int n_rules;       /* That use it.  'emu_objects_mutex'. */
    _Atomic bool dead;          /* Its port is gone. */

    /* COUNT. */
    _Atomic uint64_t hits, bytes;

    /* AGE. */
    _Atomic uint64_t last_hit;
    uint32_t timeout;           /* Seconds. */
    void *context;
    _Atomic bool aged_out;      /* Given to rte_flow_get_aged_flows(). */

    /* CONNTRACK. */
    rte_spinlock_t lock;
    struct rte_flow_action_conntrack ct;
    unsigned int n_retransmissions;
    bool closed;                /* By RST. */
    struct emu_ct_stats ct_stats;
};

extern pthread_mutex_t emu_objects_mutex;
extern _Atomic uint64_t emu_n_stale, emu_n_leaked_handles;

struct emu_port;
struct emu_object *emu_object_new(enum rte_flow_action_type, uint16_t port);
void emu_object_release(struct emu_object *);
void emu_object_unuse(struct emu_object *);
struct emu_object *emu_object_find(uint16_t port, const void *handle,
                                   bool quiet);
int emu_object_init(struct emu_object *, struct emu_port *,
                    const struct rte_flow_action *, struct rte_flow_error *);
struct rte_flow_action_handle *emu_handle_create(
    struct emu_port *, const struct rte_flow_indir_action_conf *,
    const struct rte_flow_action *, struct rte_flow_error *);
int emu_handle_destroy(struct emu_port *, struct rte_flow_action_handle *,
                       struct rte_flow_error *);
int emu_handle_update(struct emu_port *, struct rte_flow_action_handle *,
                      const void *update, struct rte_flow_error *);
int emu_handle_query(struct emu_port *, const struct rte_flow_action_handle *,
                     void *data, struct rte_flow_error *);
int emu_object_query(struct emu_object *, const void *cause, void *data,
                     struct rte_flow_error *);
bool emu_object_aged(const struct emu_object *);
void emu_counter_freed(const struct emu_object *);
int emu_counter_check(struct emu_port *, struct rte_flow_error *);
size_t emu_objects_count(uint16_t port);
size_t emu_objects_close(uint16_t port);
size_t emu_objects_list(uint16_t port, struct emu_object ***);
uint64_t emu_handle_id(const void *handle);
void *emu_id_handle(uint64_t id);
uint64_t emu_next_id(void);

/* emunic-ct.c. */

struct emu_segment {
    const struct rte_tcp_hdr *tcp;
    uint32_t length;            /* Of the payload. */
    bool bad;                   /* The lengths do not fit each other. */
};

int emu_ct_check(const struct rte_flow_action_conntrack *,
                 struct rte_flow_error *, const void *cause);
uint32_t emu_ct_process(struct emu_object *, bool original,
                        const struct emu_segment *, bool *established);

/* emunic-table.c: rules. */

struct emu_action {
    enum rte_flow_action_type type; /* That of the object, if indirect. */
    struct emu_object *object;  /* COUNT, AGE, CONNTRACK: has a reference. */
    bool original;              /* CONNTRACK: the direction of the rule. */
    const struct emu_modify *modify; /* MODIFY_FIELD. */
    uint32_t value;             /* An id, group, queue, port, TTL, ... */
    uint8_t bytes[16];          /* An address. */
    uint8_t *header;            /* Encapsulation: 'value' bytes. */
    uint16_t *queues;           /* RSS. */
    uint32_t n_queues;
};

/* A field that MODIFY_FIELD can set. */
struct emu_modify {
    enum rte_flow_field_id field;
    const char *name;
    uint32_t layers;            /* EMU_*: one of these has it. */
    uint8_t size;
    enum emu_format format;
    enum rte_flow_action_type set; /* The action that does the same. */
};

/* A Geneve option that a packet has to have, or the mask of one. */
struct emu_option {
    uint8_t bytes[128];         /* As on the wire: 4 of a header, and data. */
};

struct emu_item {
    uint16_t type;              /* RTE_FLOW_ITEM_TYPE_*. */
    uint16_t offset;            /* Of its fields in union emu_key. */
};

struct emu_rule {
    struct emu_node node;       /* In 'rules' of 'port', by id. */
    struct emu_node match_node; /* In 'subtable'. */
    struct emu_subtable *subtable;
    uint64_t id;
    uint16_t port;              /* On which it was created. */
    bool transfer;
    uint32_t group, priority;

    struct emu_item items[32];
    unsigned int n_items;
    uint32_t flags[2];          /* EMU_* that the rule itself asks for. */
    bool ranged;
    union emu_key key, mask;
    union emu_key *last;        /* If 'ranged', else NULL. */
    struct emu_option *options; /* Each with its mask behind it. */
    size_t n_options;

    struct emu_action *actions;
    size_t n_actions;
    bool rewrites;
    uint32_t decap_size;        /* Of RAW_DECAP, or 0. */

    _Atomic uint64_t hits, bytes;
};

struct emu_rule *emu_rule_find(struct emu_port *, const struct rte_flow *);
int emu_rule_insert(struct emu_port *, struct emu_rule *,
                    struct rte_flow_error *);
void emu_rule_remove(struct emu_port *, struct emu_rule *);
void emu_rule_free(struct emu_rule *);
size_t emu_rules_flush(struct emu_port *);
struct emu_packet;
struct emu_rule *emu_rule_lookup(struct emu_port *, bool transfer,
                                 uint32_t group, const struct emu_packet *,
                                 bool *ambiguous, bool *overlap);
size_t emu_rules_list(struct emu_port *, struct emu_rule ***);

/* emunic-switch.c. */

extern pthread_rwlock_t emu_switch_lock; /* Transfer rules.  Datapath reads. */
extern struct emu_map emu_switch_groups;

struct emu_port *emu_port_proxy(struct emu_port *);
bool emu_ports_connected(uint16_t, uint16_t);

/* emunic-check.c. */

struct emu_rule *emu_rule_compile(struct emu_port *,
                                  const struct rte_flow_attr *,
                                  const struct rte_flow_item *,
                                  const struct rte_flow_action *,
                                  struct rte_flow_error *);

/* emunic-config.c. */

enum emu_op {
    EMU_OP_VALIDATE,
    EMU_OP_CREATE,
    EMU_OP_DESTROY,
    EMU_OP_FLUSH,
    EMU_OP_QUERY,
    EMU_OP_ISOLATE,
    EMU_OP_DUMP,
    EMU_OP_AGED,
    EMU_OP_HANDLE_CREATE,
    EMU_OP_HANDLE_DESTROY,
    EMU_OP_HANDLE_UPDATE,
    EMU_OP_HANDLE_QUERY,
    EMU_N_OPS
};

struct emu_fault {
    unsigned int every;         /* Each N-th call fails. */
    unsigned int next;          /* The next N calls fail. */
    double probability;
    int error;
    bool any_priority;          /* Not only rules of 'priority'. */
    uint32_t priority;
    unsigned int n_calls;       /* Since 'every' was set. */
};

struct emu_config {
    char profile[16];
    bool pretend;               /* Accept rules and do nothing. */
    bool conntrack, age, count, transfer;
    bool ct_anywhere;           /* Direct, any protocol, group, place. */
    bool ct_with_age;
    bool any_mask;              /* Else those of 'mlx5_mask'. */
    bool tcp_flags;             /* Can be matched. */
    bool ranges;
    bool rewrite;               /* Headers other than VLAN tags. */
    bool set_actions;           /* By SET_MAC, SET_IPV4, ..., DEC_TTL. */
    bool set_ipv6, set_ttl;
    bool modify_field;          /* By MODIFY_FIELD. */
    bool fixed_order;           /* Of actions. */
    bool tunnels;               /* Items, and actions if 'rewrite' is set. */
    bool nat_bundle;            /* Addresses change with their ports only. */
    bool representor_own;       /* PORT_REPRESENTOR of the port itself. */
    bool representor_any;       /* The same, called UINT16_MAX. */
    bool share_handles;         /* With the peer port of a connection. */
    bool newest_wins;           /* Of rules that match the same. */
    bool miss_drop;             /* What a group without a match does. */
    bool eswitch;
    bool tx_lock;
    bool padding;               /* Of short packets that are received. */
    bool lowest_priority;       /* UINT32_MAX is one. */
    bool proxy_first;           /* It has the transfer rules of all ports. */
    uint32_t switch_domain;
    uint32_t groups;            /* The highest. */
    uint32_t root_priorities, priorities; /* How many. */
    uint32_t max_mark;
    uint32_t max_rules, max_handles;
    uint32_t max_match;         /* How many bytes of headers. */
    uint32_t counter_quarantine; /* In ms, after a counter was freed. */
    uint32_t latency_us[EMU_N_OPS];
    struct emu_fault faults[EMU_N_OPS];
};

extern const char *const emu_op_names[EMU_N_OPS];
void emu_config_init(struct emu_config *);
void emu_command(const char *line, FILE *out);
extern _Atomic uint64_t emu_n_config_errors;
double emu_random(void);

/* emunic-port.c: ports. */

enum emu_counter {
    EMU_RX_PACKETS,
    EMU_RX_BYTES,
    EMU_TO_SOFTWARE,
    EMU_DROPPED,
    EMU_FORWARDED,              /* By a transfer rule. */
    EMU_ESWITCHED,              /* Without one. */
    EMU_TX_FAILED,
    EMU_MARKED,
    EMU_MISSED,                 /* No rule in a group other than 0. */
    EMU_AMBIGUOUS,              /* Two rules of one priority match. */
    EMU_OVERLAP,                /* Transfer rules of two priorities do. */
    EMU_DECAP_SIZE,             /* RAW_DECAP of other headers. */
    EMU_LOOPED,
    EMU_STEERED,                /* To another queue. */
    EMU_STEER_FULL,
    EMU_TX_CONTENDED,
    EMU_STALE,                  /* Rules or handles that are not there. */
    EMU_RULES_LOST,             /* In a stop. */
    EMU_N_COUNTERS
};

extern const char *const emu_counter_names[EMU_N_COUNTERS];

struct emu_op_stats {
    uint64_t n_ok, n_failed, n_injected;
};

/* Packets that a rule sends to another queue than they arrived at. */
struct emu_steer {
    rte_spinlock_t lock;
    unsigned int head, n;
    struct rte_mbuf *mbufs[512];
};

struct emu_port {
    pthread_mutex_t api;        /* Serialises the calls for this port. */
    pthread_rwlock_t lock;      /* Rules, configuration.  Datapath reads. */
    uint16_t id;
    char name[RTE_ETH_NAME_MAX_LEN];
    _Atomic int state;          /* EMU_PORT_*. */
    _Atomic uint64_t claimed;   /* Its place in the order of claims. */
    bool started;
    bool negotiated;            /* Metadata was, ... */
    uint64_t metadata;          /* ...and this is what it came to. */
    uint16_t n_rxq, n_txq;
    uint16_t n_driver_rxq;      /* At least 'n_rxq'. */
    struct emu_config config;
    struct emu_map rules;       /* Created on it. */
    struct emu_map groups;      /* Of ingress rules. */
    _Atomic uint64_t counters_at; /* When there are counters again. */
    struct emu_op_stats ops[EMU_N_OPS];
    _Atomic uint64_t counters[EMU_N_COUNTERS];
    const struct rte_eth_rxtx_callback *callbacks[EMU_MAX_QUEUES];
    struct emu_steer *steer[EMU_MAX_QUEUES];
};

enum {
    EMU_PORT_UNKNOWN,
    EMU_PORT_FOREIGN,           /* Has a flow API of its own. */
    EMU_PORT_CLAIMED,
};

extern struct emu_port emu_ports[RTE_MAX_ETHPORTS];
extern _Atomic uint64_t emu_n_leaked_rules;

struct emu_port *emu_port_get(uint16_t port_id);
void emu_ports_init(void);
void emu_port_claim(struct emu_port *);
void emu_port_forget(struct emu_port *);
int emu_op_begin(struct emu_port *, enum emu_op, const uint32_t *priority,
                 struct rte_flow_error *);
int emu_op_end(struct emu_port *, enum emu_op, int error);

static inline void
emu_count(struct emu_port *port, enum emu_counter counter, uint64_t n)
{
    atomic_fetch_add_explicit(&port->counters[counter], n,
                              memory_order_relaxed);
}

/* emunic-packet.c. */

struct emu_packet {
    struct rte_mbuf *mbuf;
    union emu_key key;
    uint16_t l3_offset, l4_offset; /* 0 if there is none. */
    struct emu_segment segment; /* If it is TCP. */
    uint16_t outer_size;        /* Up to what is in a tunnel, or 0. */
    const uint8_t *options;     /* Geneve's, whose lengths fit. */
    size_t options_size;
};

void emu_packet_parse(struct emu_packet *, struct rte_mbuf *);
bool emu_packet_apply(struct emu_packet *, const struct emu_action *);
uint32_t emu_packet_hash(const struct emu_packet *);

/* emunic-tunnel.c. */

bool emu_tunnel_parse(struct emu_packet *);
bool emu_options_match(const struct emu_packet *, const struct emu_rule *);
const char *emu_encap_problem(const uint8_t *header, size_t size,
                              uint32_t *tunnel);
bool emu_encap(struct rte_mbuf *, const uint8_t *header, size_t size);

/* emunic-datapath.c. */

void emu_datapath_start(struct emu_port *);
void emu_datapath_stop(struct emu_port *);
void emu_datapath_close(struct emu_port *);

/* emunic-report.c. */

void emu_report_text(FILE *, int port);
void emu_report_json(FILE *, int port);
void emu_rule_format(FILE *, const struct emu_rule *);

/* emunic-control.c. */

void emu_control_start(void);
bool emu_control_load(const char *file, FILE *out);

#endif /* emunic.h */
