/* SPDX-License-Identifier: Apache-2.0 */

/* Tests the emulated NIC through the public interface of DPDK and through its
 * control socket.  Ports are made of rings: what is put into one is received,
 * what is sent is taken from another. */

#undef NDEBUG

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <rte_bus_vdev.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_eth_ring.h>
#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_icmp.h>
#include <rte_ip.h>
#include <rte_mbuf.h>
#include <rte_ring.h>
#include <rte_sctp.h>
#include <rte_tcp.h>
#include <rte_udp.h>

#define ARRAY_SIZE(ARRAY) (sizeof (ARRAY) / sizeof (ARRAY)[0])
#define N_QUEUES 2

/* Results, as TAP. */

static int n_tests, n_failed;
static bool test_failed;

static void
check(bool ok, int line, const char *what, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static void
check(bool ok, int line, const char *what, const char *format, ...)
{
    va_list args;

    if (ok) {
        return;
    }
    test_failed = true;
    printf("# line %d: %s: ", line, what);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
}

#define CHECK(CONDITION) check(CONDITION, __LINE__, #CONDITION, "false")
#define CHECK_INT(A, B)                                                 \
    do {                                                                \
        long long int a_ = (A), b_ = (B);                               \
                                                                        \
        check(a_ == b_, __LINE__, #A, "%lld, not %lld", a_, b_);        \
    } while (0)

static void
begin_test(void)
{
    test_failed = false;
}

static void
end_test(const char *name)
{
    n_tests++;
    n_failed += test_failed;
    printf("%sok %d - %s\n", test_failed ? "not " : "", n_tests, name);
    fflush(stdout);
}

/* The control socket. */

/* Returns the answer to a command, which the caller frees. */
static char *
ctl(const char *format, ...) __attribute__((format(printf, 1, 2)));

static char *
ctl(const char *format, ...)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    char command[512], *answer = NULL;
    size_t size, n;
    va_list args;
    FILE *stream;
    int fd;

    va_start(args, format);
    n = vsnprintf(command, sizeof command - 1, format, args);
    va_end(args);
    command[n++] = '\n';

    strcpy(address.sun_path, getenv("EMUNIC_SOCKET"));
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *) &address, sizeof address)) {
        close(fd);
        return strdup("error: no connection\n");
    }
    assert(write(fd, command, n) == (ssize_t) n);
    shutdown(fd, SHUT_WR);
    stream = open_memstream(&answer, &size);
    for (;;) {
        char buffer[4096];
        ssize_t length = read(fd, buffer, sizeof buffer);

        if (length <= 0) {
            break;
        }
        fwrite(buffer, 1, length, stream);
    }
    fclose(stream);
    close(fd);
    return answer;
}

#define CTL_OK(...)                                                     \
    do {                                                                \
        char *answer_ = ctl(__VA_ARGS__);                               \
                                                                        \
        check(!strcmp(answer_, "ok\n"), __LINE__, "ctl", "%s", answer_); \
        free(answer_);                                                  \
    } while (0)

#define CTL_ERROR(TEXT, ...)                                            \
    do {                                                                \
        char *answer_ = ctl(__VA_ARGS__);                               \
                                                                        \
        check(!strncmp(answer_, "error: ", 7) && strstr(answer_, TEXT), \
              __LINE__, "ctl", "%s", answer_);                          \
        free(answer_);                                                  \
    } while (0)

/* Returns the number after 'name', quoted, in the report on 'port', or on all
 * ports if it is negative. */
static long long int
report(int port, const char *name)
{
    char *json = port < 0 ? ctl("json") : ctl("json %d", port);
    long long int value = -1;
    char quoted[64], *p;

    snprintf(quoted, sizeof quoted, "\"%s\": ", name);
    /* The first members are totals; a port's own come after its name. */
    p = strstr(json, port < 0 ? "{" : "\"port\":");
    p = p ? strstr(p, quoted) : NULL;
    if (p) {
        value = atoll(p + strlen(quoted));
    }
    free(json);
    return value;
}

/* Says whether the report on 'port' has 'text'. */
static bool
shown(int port, const char *text)
{
    char *answer = ctl("json %d", port);
    bool found = strstr(answer, text) != NULL;

    if (!found) {
        printf("# no \"%s\" in:\n# %s\n", text, answer);
    }
    free(answer);
    return found;
}

/* Ports. */

struct port {
    uint16_t id;
    char name[32];
    struct rte_ring *rx[N_QUEUES], *tx[N_QUEUES];
};

static struct rte_mempool *pool;
static struct port A, B;

static int
start_port(const struct port *port, uint16_t n_queues)
{
    static const struct rte_eth_conf conf;
    int error;

    error = rte_eth_dev_configure(port->id, n_queues, n_queues, &conf);
    for (uint16_t i = 0; !error && i < n_queues; i++) {
        error = rte_eth_rx_queue_setup(port->id, i, 0, 0, NULL, pool);
        if (!error) {
            error = rte_eth_tx_queue_setup(port->id, i, 0, 0, NULL);
        }
    }
    return error ? error : rte_eth_dev_start(port->id);
}

static void
open_port(struct port *port, const char *name)
{
    char full[64];
    int id;

    snprintf(port->name, sizeof port->name, "net_ring_%s", name);
    for (int i = 0; i < N_QUEUES; i++) {
        snprintf(full, sizeof full, "%s_rx%d", name, i);
        port->rx[i] = rte_ring_create(full, 256, SOCKET_ID_ANY, 0);
        snprintf(full, sizeof full, "%s_tx%d", name, i);
        port->tx[i] = rte_ring_create(full, 256, SOCKET_ID_ANY, 0);
        assert(port->rx[i] && port->tx[i]);
    }
    id = rte_eth_from_rings(name, port->rx, N_QUEUES, port->tx, N_QUEUES, 0);
    assert(id >= 0);
    port->id = id;
}

/* Packets. */

struct spec {
    int vlan, vlan2;            /* Ids; 0 for none. */
    bool ipv6;
    uint8_t ext;                /* IPv6 extension header, or 0. */
    uint16_t fragment;          /* IPv4: the field; IPv6: frag_data. */
    uint8_t protocol;
    uint16_t src, dst;          /* Ports, or ICMP type and code. */
    uint8_t src_host, dst_host; /* The last byte of the addresses. */
    uint8_t ttl;                /* 0 means 64. */
    uint8_t flags;              /* TCP. */
    uint32_t seq, ack;
    uint16_t window;
    uint16_t length;            /* Of the payload. */
    uint8_t data_off;           /* 0 means right. */
};

static const uint8_t mac_a[6] = { 2, 0, 0, 0, 0, 1 };
static const uint8_t mac_b[6] = { 2, 0, 0, 0, 0, 2 };

static void
ipv6_address(uint8_t address[16], uint8_t host)
{
    memset(address, 0, 16);
    address[0] = 0xfd;
    address[15] = host;
}

static size_t
build_l4(uint8_t *p, const struct spec *s)
{
    struct rte_tcp_hdr *tcp = (void *) p;
    struct rte_udp_hdr *udp = (void *) p;
    struct rte_sctp_hdr *sctp = (void *) p;

    switch (s->protocol) {
    case IPPROTO_TCP:
        tcp->src_port = htons(s->src);
        tcp->dst_port = htons(s->dst);
        tcp->sent_seq = htonl(s->seq);
        tcp->recv_ack = htonl(s->ack);
        tcp->data_off = s->data_off ? s->data_off : 5 << 4;
        tcp->tcp_flags = s->flags;
        tcp->rx_win = htons(s->window);
        return sizeof *tcp;
    case IPPROTO_UDP:
        udp->src_port = htons(s->src);
        udp->dst_port = htons(s->dst);
        udp->dgram_len = htons(sizeof *udp + s->length);
        return sizeof *udp;
    case IPPROTO_SCTP:
        sctp->src_port = htons(s->src);
        sctp->dst_port = htons(s->dst);
        return sizeof *sctp;
    default:
        p[0] = s->src;
        p[1] = s->dst;
        return sizeof(struct rte_icmp_hdr);
    }
}

static size_t
build_ipv4(uint8_t *p, const struct spec *s)
{
    struct rte_ipv4_hdr *ip = (void *) p;
    uint8_t *l4 = p + sizeof *ip;
    size_t size;

    ip->version_ihl = 0x45;
    ip->time_to_live = s->ttl ? s->ttl : 64;
    ip->next_proto_id = s->protocol;
    ip->fragment_offset = htons(s->fragment);
    ip->src_addr = htonl(0x0a000000 | s->src_host);
    ip->dst_addr = htonl(0x0a000000 | s->dst_host);
    size = build_l4(l4, s);
    for (int i = 0; i < s->length; i++) {
        l4[size++] = i;
    }
    ip->total_length = htons(sizeof *ip + size);
    ip->hdr_checksum = rte_ipv4_cksum(ip);
    if (s->protocol == IPPROTO_TCP) {
        ((struct rte_tcp_hdr *) l4)->cksum = rte_ipv4_udptcp_cksum(ip, l4);
    } else if (s->protocol == IPPROTO_UDP) {
        ((struct rte_udp_hdr *) l4)->dgram_cksum =
            rte_ipv4_udptcp_cksum(ip, l4);
    }
    return sizeof *ip + size;
}

static size_t
build_ipv6(uint8_t *p, const struct spec *s)
{
    struct rte_ipv6_hdr *ip = (void *) p;
    uint8_t *l4 = p + sizeof *ip;
    size_t size, ext = 0;

    ip->vtc_flow = htonl(0x60000000);
    ip->hop_limits = s->ttl ? s->ttl : 64;
    ip->proto = s->protocol;
    ipv6_address((void *) &ip->src_addr, s->src_host);
    ipv6_address((void *) &ip->dst_addr, s->dst_host);
    if (s->ext) {
        ip->proto = s->ext;
        l4[0] = s->protocol;
        if (s->ext == IPPROTO_FRAGMENT) {
            l4[2] = s->fragment >> 8;
            l4[3] = s->fragment;
        }
        ext = s->ext == IPPROTO_AH ? 12 : 8;
        l4[1] = s->ext == IPPROTO_AH ? 1 : 0;
        l4 += ext;
    }
    size = build_l4(l4, s);
    for (int i = 0; i < s->length; i++) {
        l4[size++] = i;
    }
    if (!s->ext) {
        ip->payload_len = htons(size);
        if (s->protocol == IPPROTO_TCP) {
            ((struct rte_tcp_hdr *) l4)->cksum = rte_ipv6_udptcp_cksum(ip, l4);
        } else if (s->protocol == IPPROTO_UDP) {
            ((struct rte_udp_hdr *) l4)->dgram_cksum =
                rte_ipv6_udptcp_cksum(ip, l4);
        } else if (s->protocol == IPPROTO_ICMPV6) {
            ((struct rte_icmp_hdr *) l4)->icmp_cksum =
                rte_ipv6_udptcp_cksum(ip, l4);
        }
    }
    ip->payload_len = htons(size + ext);
    return sizeof *ip + ext + size;
}

static struct rte_mbuf *
build(const struct spec *s)
{
    struct rte_mbuf *mbuf = rte_pktmbuf_alloc(pool);
    struct rte_ether_hdr *eth;
    uint8_t *type, *p;
    uint16_t value;
    size_t n;

    assert(mbuf);
    eth = rte_pktmbuf_mtod(mbuf, void *);
    memset(eth, 0, 256);
    memcpy(&eth->src_addr, mac_a, 6);
    memcpy(&eth->dst_addr, mac_b, 6);
    type = (uint8_t *) eth + offsetof(struct rte_ether_hdr, ether_type);
    p = (uint8_t *) (eth + 1);
    for (int i = 0; i < 2; i++) {
        int vid = i ? s->vlan2 : s->vlan;

        if (vid) {
            struct rte_vlan_hdr *vlan = (void *) p;

            value = htons(i || !s->vlan2 ? RTE_ETHER_TYPE_VLAN
                          : RTE_ETHER_TYPE_QINQ);
            memcpy(type, &value, sizeof value);
            vlan->vlan_tci = htons(vid);
            type = p + offsetof(struct rte_vlan_hdr, eth_proto);
            p += sizeof *vlan;
        }
    }
    value = htons(s->ipv6 ? RTE_ETHER_TYPE_IPV6 : RTE_ETHER_TYPE_IPV4);
    memcpy(type, &value, sizeof value);
    n = p - (uint8_t *) eth + (s->ipv6 ? build_ipv6 : build_ipv4)(p, s);
    rte_pktmbuf_append(mbuf, n < 60 ? 60 : n);
    return mbuf;
}

/* Receives what is in 'port', whose first packet is stored in '*first' and
 * otherwise freed.  Returns the number of packets. */
static int
receive(const struct port *port, uint16_t queue, struct rte_mbuf **first)
{
    struct rte_mbuf *mbufs[64];
    int n = rte_eth_rx_burst(port->id, queue, mbufs, ARRAY_SIZE(mbufs));

    for (int i = 0; i < n; i++) {
        if (!i && first) {
            *first = mbufs[i];
        } else {
            rte_pktmbuf_free(mbufs[i]);
        }
    }
    return n;
}

/* Lets 'port' receive one packet.  Returns it if it came through to software,
 * or NULL. */
static struct rte_mbuf *
pass(const struct port *port, const struct spec *s)
{
    struct rte_mbuf *mbuf = build(s), *out = NULL;

    assert(!rte_ring_enqueue(port->rx[0], mbuf));
    receive(port, 0, &out);
    return out;
}

/* The same, where only what became of it matters. */
static bool
to_software(const struct port *port, const struct spec *s)
{
    struct rte_mbuf *mbuf = pass(port, s);

    rte_pktmbuf_free(mbuf);
    return mbuf != NULL;
}

/* Returns a packet that 'port' has sent, or NULL. */
static struct rte_mbuf *
sent_by(const struct port *port)
{
    void *mbuf = NULL;

    for (int i = 0; i < N_QUEUES && !mbuf; i++) {
        if (rte_ring_dequeue(port->tx[i], &mbuf)) {
            mbuf = NULL;
        }
    }
    return mbuf;
}

/* Rules. */

struct rule {
    struct rte_flow_attr attr;
    struct rte_flow_item items[16];
    struct rte_flow_action actions[16];
    size_t n_items, n_actions;
};

static struct rule
rule_in(uint32_t group, uint32_t priority)
{
    return (struct rule) {
        .attr = { .ingress = 1, .group = group, .priority = priority },
    };
}

static struct rule
transfer_rule(void)
{
    return (struct rule) { .attr = { .transfer = 1 } };
}

static void
add_item(struct rule *rule, enum rte_flow_item_type type, const void *spec,
         const void *mask, const void *last)
{
    rule->items[rule->n_items++] = (struct rte_flow_item) {
        .type = type, .spec = spec, .mask = mask, .last = last,
    };
}
#define ITEM(RULE, TYPE, SPEC, MASK) \
    add_item(RULE, RTE_FLOW_ITEM_TYPE_##TYPE, SPEC, MASK, NULL)

static void
add_action(struct rule *rule, enum rte_flow_action_type type,
           const void *conf)
{
    rule->actions[rule->n_actions++] = (struct rte_flow_action) {
        .type = type, .conf = conf,
    };
}
#define ACTION(RULE, TYPE, CONF) \
    add_action(RULE, RTE_FLOW_ACTION_TYPE_##TYPE, CONF)

/* Creates 'rule'.  Unless 'code' is 0, that has to fail with this errno value
 * and a message with 'text'. */
static struct rte_flow *
create_at(const struct port *port, const struct rule *rule, int code,
          const char *text, int line)
{
    struct rte_flow_error error = { .message = NULL };
    struct rte_flow *flow;
    int valid;

    valid = rte_flow_validate(port->id, &rule->attr, rule->items,
                              rule->actions, &error);
    if (code != EEXIST && code != ENOSPC) {
        check(valid == -code, line, "validate", "%d (%s), not %d", valid,
              error.message ? error.message : "", -code);
    }
    error.message = NULL;
    rte_errno = 0;
    flow = rte_flow_create(port->id, &rule->attr, rule->items, rule->actions,
                           &error);
    check(!flow == !!code, line, "create", "%s",
          error.message ? error.message : "not refused");
    if (code) {
        check(rte_errno == code, line, "create", "%d, not %d", rte_errno,
              code);
        check(error.message && strstr(error.message, text), line, "create",
              "\"%s\"", error.message ? error.message : "");
        check(error.type != RTE_FLOW_ERROR_TYPE_NONE, line, "create",
              "no type of error");
    }
    return flow;
}
#define CREATE(PORT, RULE) create_at(PORT, RULE, 0, "", __LINE__)
#define REFUSED(PORT, RULE, CODE, TEXT) \
    create_at(PORT, RULE, CODE, TEXT, __LINE__)

static void
destroy(const struct port *port, struct rte_flow *flow)
{
    CHECK_INT(rte_flow_destroy(port->id, flow, NULL), 0);
}

static void
flush(void)
{
    CHECK_INT(rte_flow_flush(A.id, NULL), 0);
    CHECK_INT(rte_flow_flush(B.id, NULL), 0);
}

static long long int
count(const struct port *port, struct rte_flow *flow)
{
    struct rte_flow_action action = { .type = RTE_FLOW_ACTION_TYPE_COUNT };
    struct rte_flow_query_count query = { .reset = 0 };

    return (rte_flow_query(port->id, flow, &action, &query, NULL) ? -1
            : (long long int) query.hits);
}

/* An ingress rule in group 0 with a COUNT and a DROP, to be given items. */
static struct rule
dropping_rule(void)
{
    struct rule rule = rule_in(0, 0);

    ACTION(&rule, COUNT, NULL);
    ACTION(&rule, DROP, NULL);
    return rule;
}

static const struct spec tcp_packet = {
    .protocol = IPPROTO_TCP, .src_host = 1, .dst_host = 2, .src = 1000,
    .dst = 80, .flags = RTE_TCP_ACK_FLAG, .length = 10,
};

/* Ports. */

static void
test_claim(void)
{
    struct rte_eth_dev_info info;
    struct rte_flow_error error;
    uint16_t null, bond;

    CHECK_INT(report(A.id, "rules"), 0);
    CHECK(shown(A.id, "\"started\": true"));
    CHECK_INT(rte_eth_dev_info_get(A.id, &info), 0);
    CHECK(info.dev_capa & RTE_ETH_DEV_CAPA_FLOW_SHARED_OBJECT_KEEP);
    CHECK(!(info.dev_capa & RTE_ETH_DEV_CAPA_FLOW_RULE_KEEP));

    /* A driver of another kind without a flow API. */
    CHECK_INT(rte_vdev_init("net_null0", NULL), 0);
    CHECK_INT(rte_eth_dev_get_port_by_name("net_null0", &null), 0);
    CHECK_INT(rte_flow_flush(null, &error), 0);
    CHECK_INT(report(null, "port"), null);
    CHECK_INT(rte_vdev_uninit("net_null0"), 0);
    CTL_ERROR("no emulated port", "json %u", null);

    /* One with a flow API of its own. */
    if (!rte_vdev_init("net_bonding0", "mode=1")) {
        CHECK_INT(rte_eth_dev_get_port_by_name("net_bonding0", &bond), 0);
        rte_flow_flush(bond, &error);
        CTL_ERROR("no emulated port", "json %u", bond);
        CHECK_INT(rte_vdev_uninit("net_bonding0"), 0);
    } else {
        printf("# no net_bonding: a driver with a flow API is not tested\n");
    }

    /* None at all. */
    CHECK_INT(rte_flow_flush(17, &error), -ENODEV);
}

/* Rules. */

static void
test_rule_life(void)
{
    struct rule rule = dropping_rule();
    struct rte_flow *flow, *other;

    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, VOID, NULL, NULL);
    ITEM(&rule, IPV4, NULL, NULL);
    CHECK(to_software(&A, &tcp_packet));
    flow = CREATE(&A, &rule);
    CHECK(!to_software(&A, &tcp_packet));
    CHECK_INT(count(&A, flow), 1);
    CHECK_INT(report(A.id, "hits"), 1);
    CHECK(to_software(&B, &tcp_packet));
    REFUSED(&A, &rule, EEXIST, "exists");
    other = CREATE(&B, &rule);
    CHECK(other != flow);
    destroy(&B, other);
    destroy(&A, flow);
    CHECK(to_software(&A, &tcp_packet));
    other = CREATE(&A, &rule);
    CHECK(other != flow);
    CHECK_INT(rte_flow_flush(A.id, NULL), 0);
    CHECK_INT(report(A.id, "rules"), 0);
}

static void
test_groups(void)
{
    struct rte_flow_action_jump jump1 = { 1 }, jump2 = { 2 };
    struct rte_flow_action_mark mark = { 77 };
    struct rte_flow_action_rss rss = {
        .queue_num = 1, .queue = (uint16_t[]) { 0 },
    };
    struct rule root = rule_in(0, 1), first = rule_in(1, 0);
    struct rule last = rule_in(1, 5), second = rule_in(2, 0);
    struct rte_flow *flows[4];
    struct rte_mbuf *mbuf;

    ITEM(&root, ETH, NULL, NULL);
    ACTION(&root, JUMP, &jump1);
    ITEM(&first, ETH, NULL, NULL);
    ITEM(&first, IPV4, NULL, NULL);
    ITEM(&first, TCP, NULL, NULL);
    ACTION(&first, COUNT, NULL);
    ACTION(&first, JUMP, &jump2);
    ITEM(&last, ETH, NULL, NULL);
    ACTION(&last, COUNT, NULL);
    ACTION(&last, RSS, &rss);
    ITEM(&second, ETH, NULL, NULL);
    ACTION(&second, COUNT, NULL);
    ACTION(&second, MARK, &mark);
    ACTION(&second, RSS, &rss);
    flows[0] = CREATE(&A, &root);
    flows[1] = CREATE(&A, &last);
    flows[2] = CREATE(&A, &first);
    flows[3] = CREATE(&A, &second);

    mbuf = pass(&A, &tcp_packet);
    CHECK(mbuf != NULL);
    CHECK(mbuf && mbuf->ol_flags & RTE_MBUF_F_RX_FDIR_ID
          && mbuf->hash.fdir.hi == 77);
    rte_pktmbuf_free(mbuf);
    CHECK_INT(count(&A, flows[1]), 0);
    CHECK_INT(count(&A, flows[2]), 1);
    CHECK_INT(count(&A, flows[3]), 1);

    mbuf = pass(&A, &(struct spec) { .protocol = IPPROTO_UDP });
    CHECK(mbuf && !(mbuf->ol_flags & RTE_MBUF_F_RX_FDIR_ID));
    rte_pktmbuf_free(mbuf);
    CHECK_INT(count(&A, flows[1]), 1);
    CHECK_INT(count(&A, flows[2]), 1);
    CHECK(shown(A.id, "\"group\": 1, \"priority\": 0, \"pattern\": "
                "\"eth / ipv4 / tcp / end\", \"actions\": "
                "\"count / jump group 2 / end\""));
    flush();
}

struct test {
    const char *name;
    void (*func)(void);
};

static const struct test tests[] = {
    { "claims ports without a flow API, and no others", test_claim },
    { "a rule is created, hit, counted and destroyed", test_rule_life },
    { "groups, priorities, JUMP, MARK and RSS", test_groups },
};

int
main(int argc, char *argv[])
{
    char *eal_args[] = {
        argv[0], "--no-huge", "-m", "64", "--no-pci", "-l", "0",
        "--log-level=*:error", "--no-shconf", "--no-telemetry", NULL,
    };

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!getenv("EMUNIC_SOCKET")) {
        fputs("use run-test-emunic\n", stderr);
        return 1;
    }
    if (rte_eal_init(ARRAY_SIZE(eal_args) - 1, eal_args) < 0) {
        puts("1..0 # SKIP the DPDK environment does not start");
        return 0;
    }
    pool = rte_pktmbuf_pool_create("pool", 4095, 0, 0, 2048, SOCKET_ID_ANY);
    assert(pool);
    open_port(&A, "a");
    open_port(&B, "b");
    assert(!start_port(&A, N_QUEUES) && !start_port(&B, N_QUEUES));

    for (size_t i = 0; i < ARRAY_SIZE(tests); i++) {
        if (argc > 1 && !strstr(tests[i].name, argv[1])) {
            continue;
        }
        begin_test();
        tests[i].func();
        end_test(tests[i].name);
    }
    rte_eal_cleanup();
    printf("1..%d\n# %d passed, %d failed\n", n_tests, n_tests - n_failed,
           n_failed);
    return n_failed != 0;
}
