/* SPDX-License-Identifier: Apache-2.0 */

/* Tests the emulated NIC through the public interface of DPDK and through its
 * control socket.  Ports are made of rings: what is put into one is received,
 * what is sent is taken from another. */

#include <config.h>
#undef NDEBUG

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
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

/* Runs 'command', and returns what wait() says of it. */
static int
run_shell(const char *command)
{
    int status = -1;
    pid_t pid = fork();

    if (!pid) {
        execl("/bin/sh", "sh", "-c", command, (char *) NULL);
        _exit(127);
    }
    return pid > 0 && waitpid(pid, &status, 0) == pid ? status : -1;
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

        /* Breaks when two threads send, like many drivers' queues. */
        port->tx[i] = rte_ring_create(full, 256, SOCKET_ID_ANY,
                                      RING_F_SP_ENQ);
        assert(port->rx[i] && port->tx[i]);
    }
    id = rte_eth_from_rings(name, port->rx, N_QUEUES, port->tx, N_QUEUES, 0);
    assert(id >= 0);
    port->id = id;
}

/* Packets. */

struct spec {
    int vlan, vlan2;            /* Ids; 0 for none. */
    uint16_t tpid;              /* Of 'vlan'; 0 means 802.1Q or, before another
                                 * tag, 802.1ad. */
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

            value = htons(!i && s->tpid ? s->tpid
                          : i || !s->vlan2 ? RTE_ETHER_TYPE_VLAN
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
    rule->items[rule->n_items].type = RTE_FLOW_ITEM_TYPE_END;
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
    rule->actions[rule->n_actions].type = RTE_FLOW_ACTION_TYPE_END;
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
    if (code != EEXIST && code != ENOSPC && code != EAGAIN) {
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

/* Items.  A match has a pattern and packets that hit it or do not. */

/* Says whether 's' hits a rule of 'port' with the items of 'rule'. */
static bool
hits_at(struct rule *rule, const struct spec *s, int line)
{
    struct rte_flow *flow;
    bool hit;

    rule->n_actions = 0;
    memset(rule->actions, 0, sizeof rule->actions);
    ACTION(rule, COUNT, NULL);
    ACTION(rule, DROP, NULL);
    flow = create_at(&A, rule, 0, "", line);
    if (!flow) {
        return false;
    }
    hit = !to_software(&A, s);
    CHECK_INT(count(&A, flow), hit);
    destroy(&A, flow);
    return hit;
}
#define HITS(RULE, ...)                                                 \
    check(hits_at(RULE, &(struct spec) __VA_ARGS__, __LINE__), __LINE__, \
          "hits", "not hit by " #__VA_ARGS__)
#define MISSES(RULE, ...)                                               \
    check(!hits_at(RULE, &(struct spec) __VA_ARGS__, __LINE__), __LINE__, \
          "misses", "hit by " #__VA_ARGS__)

static void
test_item_eth(void)
{
    struct rte_flow_item_eth spec = { .has_vlan = 1 }, mask = { 0 };
    struct rule rule = rule_in(0, 0);

    ITEM(&rule, ETH, &spec, &mask);
    HITS(&rule, { .protocol = IPPROTO_TCP });
    mask.has_vlan = 1;
    MISSES(&rule, { .protocol = IPPROTO_TCP });
    HITS(&rule, { .protocol = IPPROTO_TCP, .vlan = 5 });
    spec.has_vlan = 0;
    HITS(&rule, { .protocol = IPPROTO_TCP });
    MISSES(&rule, { .protocol = IPPROTO_TCP, .vlan = 5 });

    mask.has_vlan = 0;
    memcpy(&spec.hdr.src_addr, mac_a, 6);
    memset(&mask.hdr.src_addr, 0xff, 6);
    HITS(&rule, { .protocol = IPPROTO_TCP });
    spec.hdr.src_addr.addr_bytes[5] = 9;
    MISSES(&rule, { .protocol = IPPROTO_TCP });
    mask.hdr.src_addr.addr_bytes[5] = 0xf0;
    HITS(&rule, { .protocol = IPPROTO_TCP });

    /* The default mask has the addresses and nothing else. */
    memcpy(&spec.hdr.src_addr, mac_a, 6);
    memcpy(&spec.hdr.dst_addr, mac_b, 6);
    spec.hdr.ether_type = htons(0x1234);
    rule.items[0].mask = NULL;
    HITS(&rule, { .protocol = IPPROTO_TCP });
    memcpy(&spec.hdr.dst_addr, mac_a, 6);
    MISSES(&rule, { .protocol = IPPROTO_TCP });

    memset(&mask, 0, sizeof mask);
    mask.hdr.ether_type = 0xffff;
    spec.hdr.ether_type = htons(RTE_ETHER_TYPE_IPV6);
    rule.items[0].mask = &mask;
    HITS(&rule, { .ipv6 = true, .protocol = IPPROTO_TCP });
    MISSES(&rule, { .protocol = IPPROTO_TCP });

    /* A pattern without items is for every packet. */
    rule.n_items = 0;
    memset(rule.items, 0, sizeof rule.items);
    HITS(&rule, { .protocol = IPPROTO_UDP });
}

static void
test_item_vlan(void)
{
    struct rte_flow_item_vlan spec = { .hdr.vlan_tci = htons(0xe005) };
    struct rte_flow_item_vlan mask = { .hdr.vlan_tci = htons(0x0fff) };
    struct rte_flow_item_vlan inner = { .hdr.vlan_tci = htons(6) };
    struct rule rule = rule_in(0, 0);

    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, VLAN, NULL, NULL);
    HITS(&rule, { .protocol = IPPROTO_TCP, .vlan = 5 });
    MISSES(&rule, { .protocol = IPPROTO_TCP });
    rule.items[1].spec = &spec;
    HITS(&rule, { .protocol = IPPROTO_TCP, .vlan = 5 });
    rule.items[1].mask = &mask;
    HITS(&rule, { .protocol = IPPROTO_TCP, .vlan = 5 });
    MISSES(&rule, { .protocol = IPPROTO_TCP, .vlan = 6 });
    mask.has_more_vlan = 1;
    HITS(&rule, { .protocol = IPPROTO_TCP, .vlan = 5 });
    MISSES(&rule, { .protocol = IPPROTO_TCP, .vlan = 5, .vlan2 = 6 });
    spec.has_more_vlan = 1;
    HITS(&rule, { .protocol = IPPROTO_TCP, .vlan = 5, .vlan2 = 6 });
    ITEM(&rule, VLAN, &inner, NULL);
    HITS(&rule, { .protocol = IPPROTO_TCP, .vlan = 5, .vlan2 = 6 });
    MISSES(&rule, { .protocol = IPPROTO_TCP, .vlan = 5, .vlan2 = 7 });
    ITEM(&rule, IPV4, NULL, NULL);
    HITS(&rule, { .protocol = IPPROTO_TCP, .vlan = 5, .vlan2 = 6 });
    MISSES(&rule, { .ipv6 = true, .protocol = IPPROTO_TCP, .vlan = 5,
                    .vlan2 = 6 });
}

/* The type of an ETH item before a VLAN item is that of the tag. */
static void
test_item_tpid(void)
{
    struct rte_flow_item_eth eth = { .has_vlan = 1 };
    struct rte_flow_item_eth eth_mask = {
        .hdr.ether_type = 0xffff, .has_vlan = 1,
    };
    struct rte_flow_item_vlan vlan = { .hdr.vlan_tci = htons(5) };
    struct rule rule = rule_in(0, 0);

    ITEM(&rule, ETH, &eth, &eth_mask);
    ITEM(&rule, VLAN, &vlan, NULL);
    ITEM(&rule, IPV4, NULL, NULL);
    eth.hdr.ether_type = htons(RTE_ETHER_TYPE_VLAN);
    HITS(&rule, { .protocol = IPPROTO_UDP, .vlan = 5 });
    MISSES(&rule, { .protocol = IPPROTO_UDP, .vlan = 5,
                    .tpid = RTE_ETHER_TYPE_QINQ });
    eth.hdr.ether_type = htons(RTE_ETHER_TYPE_QINQ);
    MISSES(&rule, { .protocol = IPPROTO_UDP, .vlan = 5 });
    HITS(&rule, { .protocol = IPPROTO_UDP, .vlan = 5,
                  .tpid = RTE_ETHER_TYPE_QINQ });
    eth_mask.hdr.ether_type = 0;
    HITS(&rule, { .protocol = IPPROTO_UDP, .vlan = 5 });
    HITS(&rule, { .protocol = IPPROTO_UDP, .vlan = 5,
                  .tpid = RTE_ETHER_TYPE_QINQ });
}

static void
test_item_ipv4(void)
{
    struct rte_flow_item_ipv4 spec = { .hdr.src_addr = htonl(0x0a000001) };
    struct rte_flow_item_ipv4 mask = { .hdr.src_addr = UINT32_MAX };
    struct rte_flow_item_ipv4 last = { .hdr.src_addr = htonl(0x0a000003) };
    struct rule rule = rule_in(0, 0);

    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, IPV4, &spec, &mask);
    HITS(&rule, { .protocol = IPPROTO_UDP, .src_host = 1 });
    MISSES(&rule, { .protocol = IPPROTO_UDP, .src_host = 2 });
    MISSES(&rule, { .ipv6 = true, .protocol = IPPROTO_UDP, .src_host = 1 });
    HITS(&rule, { .protocol = IPPROTO_UDP, .src_host = 1, .vlan = 5 });

    rule.items[1].last = &last;
    HITS(&rule, { .protocol = IPPROTO_UDP, .src_host = 1 });
    HITS(&rule, { .protocol = IPPROTO_UDP, .src_host = 2 });
    HITS(&rule, { .protocol = IPPROTO_UDP, .src_host = 3 });
    MISSES(&rule, { .protocol = IPPROTO_UDP, .src_host = 4 });
    MISSES(&rule, { .protocol = IPPROTO_UDP, .src_host = 0 });
    rule.items[1].last = NULL;

    mask = (struct rte_flow_item_ipv4) { .hdr.next_proto_id = 0xff };
    spec.hdr.next_proto_id = IPPROTO_UDP;
    HITS(&rule, { .protocol = IPPROTO_UDP });
    MISSES(&rule, { .protocol = IPPROTO_TCP });

    /* No fragment; the first one; later ones, as a range. */
    mask = (struct rte_flow_item_ipv4) { .hdr.fragment_offset =
                                         htons(0x3fff) };
    HITS(&rule, { .protocol = IPPROTO_UDP });
    MISSES(&rule, { .protocol = IPPROTO_UDP, .fragment = 0x2000 });
    spec.hdr.fragment_offset = htons(0x2000);
    HITS(&rule, { .protocol = IPPROTO_UDP, .fragment = 0x2000 });
    MISSES(&rule, { .protocol = IPPROTO_UDP, .fragment = 0x2001 });
    spec.hdr.fragment_offset = htons(1);
    mask.hdr.fragment_offset = htons(0x1fff);
    last = (struct rte_flow_item_ipv4) { .hdr.fragment_offset =
                                         htons(0x1fff) };
    rule.items[1].last = &last;
    HITS(&rule, { .protocol = IPPROTO_UDP, .fragment = 0x2007 });
    HITS(&rule, { .protocol = IPPROTO_UDP, .fragment = 7 });
    MISSES(&rule, { .protocol = IPPROTO_UDP, .fragment = 0x2000 });

    /* A later fragment has no transport header. */
    rule.n_items = 1;
    ITEM(&rule, IPV4, NULL, NULL);
    ITEM(&rule, UDP, NULL, NULL);
    rule.items[1].last = NULL;
    HITS(&rule, { .protocol = IPPROTO_UDP, .fragment = 0x2000 });
    MISSES(&rule, { .protocol = IPPROTO_UDP, .fragment = 0x2007 });
}

static void
test_item_ipv6(void)
{
    struct rte_flow_item_ipv6_frag_ext frag = { .hdr.frag_data = htons(1) };
    struct rte_flow_item_ipv6_frag_ext frag_mask = { .hdr.frag_data =
                                                     0xffff };
    struct rte_flow_item_ipv6 spec, mask, last;
    struct rule rule = rule_in(0, 0);
    uint8_t address[16];

    memset(&spec, 0, sizeof spec);
    memset(&mask, 0, sizeof mask);
    memset(&last, 0, sizeof last);
    ipv6_address(address, 1);
    memcpy(&spec.hdr.src_addr, address, 16);
    memset(&mask.hdr.src_addr, 0xff, 16);
    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, IPV6, &spec, &mask);
    HITS(&rule, { .ipv6 = true, .protocol = IPPROTO_TCP, .src_host = 1 });
    MISSES(&rule, { .ipv6 = true, .protocol = IPPROTO_TCP, .src_host = 2 });
    MISSES(&rule, { .protocol = IPPROTO_TCP, .src_host = 1 });
    ipv6_address(address, 3);
    memcpy(&last.hdr.src_addr, address, 16);
    rule.items[1].last = &last;
    HITS(&rule, { .ipv6 = true, .protocol = IPPROTO_TCP, .src_host = 3 });
    MISSES(&rule, { .ipv6 = true, .protocol = IPPROTO_TCP, .src_host = 4 });
    rule.items[1].last = NULL;

    memset(&mask, 0, sizeof mask);
    mask.has_frag_ext = 1;
    HITS(&rule, { .ipv6 = true, .protocol = IPPROTO_UDP });
    MISSES(&rule, { .ipv6 = true, .protocol = IPPROTO_UDP,
                    .ext = IPPROTO_FRAGMENT });
    spec.has_frag_ext = 1;
    HITS(&rule, { .ipv6 = true, .protocol = IPPROTO_UDP,
                  .ext = IPPROTO_FRAGMENT });
    ITEM(&rule, IPV6_FRAG_EXT, NULL, NULL);
    HITS(&rule, { .ipv6 = true, .protocol = IPPROTO_UDP,
                  .ext = IPPROTO_FRAGMENT });
    MISSES(&rule, { .ipv6 = true, .protocol = IPPROTO_UDP });
    rule.items[2].spec = &frag;
    rule.items[2].mask = &frag_mask;
    HITS(&rule, { .ipv6 = true, .protocol = IPPROTO_UDP, .fragment = 1,
                  .ext = IPPROTO_FRAGMENT });
    MISSES(&rule, { .ipv6 = true, .protocol = IPPROTO_UDP, .fragment = 9,
                    .ext = IPPROTO_FRAGMENT });
    ITEM(&rule, UDP, NULL, NULL);
    HITS(&rule, { .ipv6 = true, .protocol = IPPROTO_UDP, .fragment = 1,
                  .ext = IPPROTO_FRAGMENT });

    /* The other extension headers. */
    rule.n_items = 2;
    memset(&rule.items[2], 0, 2 * sizeof rule.items[2]);
    static const uint8_t exts[] = { 0, IPPROTO_ROUTING, IPPROTO_AH,
                                    IPPROTO_DSTOPTS, 135, 139, 140 };
    for (size_t i = 0; i < ARRAY_SIZE(exts); i++) {
        memset(&mask, 0, sizeof mask);
        mask.has_hop_ext = i == 0;
        mask.has_route_ext = i == 1;
        mask.has_auth_ext = i == 2;
        mask.has_dest_ext = i == 3;
        mask.has_mobil_ext = i == 4;
        mask.has_hip_ext = i == 5;
        mask.has_shim6_ext = i == 6;
        spec = mask;
        MISSES(&rule, { .ipv6 = true, .protocol = IPPROTO_TCP });
        if (exts[i]) {
            HITS(&rule, { .ipv6 = true, .protocol = IPPROTO_TCP,
                          .ext = exts[i] });
        }
        memset(&spec, 0, sizeof spec);
        HITS(&rule, { .ipv6 = true, .protocol = IPPROTO_TCP });
    }
    ITEM(&rule, TCP, NULL, NULL);
    HITS(&rule, { .ipv6 = true, .protocol = IPPROTO_TCP,
                  .ext = IPPROTO_AH });
}

static void
test_item_l4(void)
{
    struct rte_flow_item_tcp tcp = { .hdr.dst_port = htons(80) };
    struct rte_flow_item_tcp tcp_mask = { .hdr.dst_port = 0xffff };
    struct rte_flow_item_udp udp = { .hdr.src_port = htons(1000) };
    struct rte_flow_item_udp udp_mask = { .hdr.src_port = 0xffff };
    struct rte_flow_item_udp udp_last = { .hdr.src_port = htons(1100) };
    struct rte_flow_item_sctp sctp = { .hdr.dst_port = htons(7) };
    struct rte_flow_item_icmp icmp = { .hdr.icmp_type = 8 };
    struct rte_flow_item_icmp icmp_mask = { .hdr.icmp_type = 0xff };
    struct rte_flow_item_icmp6 icmp6 = { .type = 128 };
    struct rte_flow_item_icmp6 icmp6_mask = { .type = 0xff };
    struct rule rule = rule_in(0, 0);

    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, IPV4, NULL, NULL);
    ITEM(&rule, TCP, &tcp, &tcp_mask);
    HITS(&rule, { .protocol = IPPROTO_TCP, .dst = 80 });
    MISSES(&rule, { .protocol = IPPROTO_TCP, .dst = 81 });
    MISSES(&rule, { .protocol = IPPROTO_UDP, .dst = 80 });
    tcp_mask = (struct rte_flow_item_tcp) { .hdr.tcp_flags = RTE_TCP_SYN_FLAG
                                                          | RTE_TCP_FIN_FLAG
                                          };
    HITS(&rule, { .protocol = IPPROTO_TCP, .flags = RTE_TCP_ACK_FLAG });
    MISSES(&rule, { .protocol = IPPROTO_TCP, .flags = RTE_TCP_SYN_FLAG });
    CTL_OK("set tcp-flags off");
    REFUSED(&A, &rule, ENOTSUP, "TCP flags");
    CTL_OK("set tcp-flags on");

    rule.n_items = 2;
    ITEM(&rule, UDP, &udp, &udp_mask);
    HITS(&rule, { .protocol = IPPROTO_UDP, .src = 1000 });
    MISSES(&rule, { .protocol = IPPROTO_UDP, .src = 1001 });
    rule.items[2].last = &udp_last;
    HITS(&rule, { .protocol = IPPROTO_UDP, .src = 1001 });
    MISSES(&rule, { .protocol = IPPROTO_UDP, .src = 1101 });

    rule.n_items = 2;
    ITEM(&rule, SCTP, &sctp, NULL);
    HITS(&rule, { .protocol = IPPROTO_SCTP, .dst = 7 });
    MISSES(&rule, { .protocol = IPPROTO_SCTP, .dst = 8 });

    rule.n_items = 2;
    ITEM(&rule, ICMP, &icmp, &icmp_mask);
    HITS(&rule, { .protocol = IPPROTO_ICMP, .src = 8 });
    MISSES(&rule, { .protocol = IPPROTO_ICMP, .src = 0 });

    rule.n_items = 1;
    ITEM(&rule, IPV6, NULL, NULL);
    ITEM(&rule, ICMP6, &icmp6, &icmp6_mask);
    HITS(&rule, { .ipv6 = true, .protocol = IPPROTO_ICMPV6, .src = 128 });
    MISSES(&rule, { .ipv6 = true, .protocol = IPPROTO_ICMPV6, .src = 129 });
    MISSES(&rule, { .protocol = IPPROTO_ICMP, .src = 128 });
}

static void
test_item_errors(void)
{
    struct rte_flow_item_eth eth = { .has_vlan = 0 };
    struct rte_flow_item_eth eth_mask = { .has_vlan = 1 };
    struct rte_flow_item_eth type6 = { .hdr.ether_type =
                                       htons(RTE_ETHER_TYPE_IPV6) };
    struct rte_flow_item_eth type_mask = { .hdr.ether_type = 0xffff };
    struct rte_flow_item_ipv4 udp4 = { .hdr.next_proto_id = IPPROTO_UDP };
    struct rte_flow_item_ipv4 proto_mask = { .hdr.next_proto_id = 0xff };
    struct rte_flow_item_ipv4 high = { .hdr.src_addr = htonl(5) };
    struct rte_flow_item_ipv4 low = { .hdr.src_addr = htonl(4) };
    struct rte_flow_item_conntrack ct = { .flags = 1u << 20 };
    struct rte_flow_item_conntrack valid = {
        .flags = RTE_FLOW_CONNTRACK_PKT_STATE_VALID,
    };
    struct rte_flow_item_vlan more = { .has_more_vlan = 1 };
    struct rule rule;

#define RESET() (rule = dropping_rule())
    RESET();
    ITEM(&rule, MPLS, NULL, NULL);
    REFUSED(&A, &rule, ENOTSUP, "not supported");
    RESET();
    ITEM(&rule, ETH, NULL, &eth_mask);
    REFUSED(&A, &rule, EINVAL, "mask without spec");
    RESET();
    add_item(&rule, RTE_FLOW_ITEM_TYPE_ETH, NULL, NULL, &eth);
    REFUSED(&A, &rule, EINVAL, "last without spec");
    RESET();
    ITEM(&rule, IPV4, NULL, NULL);
    REFUSED(&A, &rule, EINVAL, "lowest layer");
    RESET();
    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, TCP, NULL, NULL);
    REFUSED(&A, &rule, EINVAL, "without its network layer");
    RESET();
    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, ETH, NULL, NULL);
    REFUSED(&A, &rule, EINVAL, "given twice");
    RESET();
    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, IPV4, NULL, NULL);
    ITEM(&rule, VLAN, NULL, NULL);
    REFUSED(&A, &rule, EINVAL, "order");
    RESET();
    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, IPV4, NULL, NULL);
    ITEM(&rule, IPV6, NULL, NULL);
    REFUSED(&A, &rule, EINVAL, "two network layers");
    RESET();
    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, IPV4, NULL, NULL);
    ITEM(&rule, TCP, NULL, NULL);
    ITEM(&rule, UDP, NULL, NULL);
    REFUSED(&A, &rule, EINVAL, "two transport layers");
    RESET();
    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, IPV4, NULL, NULL);
    ITEM(&rule, IPV6_FRAG_EXT, NULL, NULL);
    REFUSED(&A, &rule, EINVAL, "without IPV6");
    RESET();
    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, IPV6, NULL, NULL);
    ITEM(&rule, ICMP, NULL, NULL);
    REFUSED(&A, &rule, EINVAL, "without its network layer");
    RESET();
    ITEM(&rule, ETH, &eth, &eth_mask);
    ITEM(&rule, VLAN, NULL, NULL);
    REFUSED(&A, &rule, EINVAL, "contradicts");
    RESET();
    ITEM(&rule, ETH, &type6, &type_mask);
    ITEM(&rule, IPV4, NULL, NULL);
    REFUSED(&A, &rule, EINVAL, "contradicts");
    RESET();
    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, IPV4, &udp4, &proto_mask);
    ITEM(&rule, TCP, NULL, NULL);
    REFUSED(&A, &rule, EINVAL, "contradicts");
    RESET();
    eth.reserved = 1;
    ITEM(&rule, ETH, &eth, &eth_mask);
    REFUSED(&A, &rule, EINVAL, "reserved");
    RESET();
    ITEM(&rule, ETH, NULL, NULL);
    add_item(&rule, RTE_FLOW_ITEM_TYPE_IPV4, &high, NULL, &low);
    REFUSED(&A, &rule, EINVAL, "ends before it begins");
    RESET();
    ITEM(&rule, CONNTRACK, &ct, NULL);
    REFUSED(&A, &rule, EINVAL, "unknown CONNTRACK flags");
    RESET();
    ct.flags = RTE_FLOW_CONNTRACK_PKT_STATE_INVALID;
    add_item(&rule, RTE_FLOW_ITEM_TYPE_CONNTRACK, &valid, NULL, &ct);
    REFUSED(&A, &rule, ENOTSUP, "range");
    RESET();
    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, VLAN, NULL, NULL);
    ITEM(&rule, VLAN, &more, &more);
    REFUSED(&A, &rule, ENOTSUP, "more than two");
    CHECK_INT(report(-1, "rules"), 0);
}

static void
test_attr_errors(void)
{
    struct rte_flow_error error;
    struct rule rule;

    RESET();
    rule.attr.reserved = 1;
    REFUSED(&A, &rule, EINVAL, "reserved");
    RESET();
    rule.attr.ingress = 0;
    REFUSED(&A, &rule, EINVAL, "neither");
    RESET();
    rule.attr.egress = 1;
    REFUSED(&A, &rule, ENOTSUP, "egress");
    RESET();
    rule.attr.transfer = 1;
    REFUSED(&A, &rule, EINVAL, "not transfer");
    RESET();
    rule.attr.priority = 65536;
    REFUSED(&A, &rule, ENOTSUP, "priority");
    RESET();
    rule.attr.group = 9;
    CTL_OK("set port %u groups 8", A.id);
    REFUSED(&A, &rule, ENOTSUP, "group");
    CTL_OK("set port %s transfer off", A.name);
    RESET();
    rule.attr.ingress = 0;
    rule.attr.transfer = 1;
    REFUSED(&A, &rule, ENOTSUP, "transfer");
    CTL_OK("set profile generous");

    RESET();
    CHECK(!rte_flow_create(A.id, NULL, rule.items, rule.actions, &error));
    CHECK_INT(error.type, RTE_FLOW_ERROR_TYPE_ATTR);
    CHECK(!rte_flow_create(A.id, &rule.attr, NULL, rule.actions, &error));
    CHECK_INT(error.type, RTE_FLOW_ERROR_TYPE_ITEM_NUM);
    CHECK(!rte_flow_create(A.id, &rule.attr, rule.items, NULL, &error));
    CHECK_INT(error.type, RTE_FLOW_ERROR_TYPE_ACTION_NUM);
    CHECK_INT(rte_errno, EINVAL);
    CHECK(!rte_flow_create(A.id, NULL, NULL, NULL, NULL));
}

/* Actions. */

/* Says whether the checksums of 'mbuf', which is not fragmented, are right. */
static bool
checksums_ok(struct rte_mbuf *mbuf)
{
    struct rte_ether_hdr *eth = rte_pktmbuf_mtod(mbuf, void *);
    uint8_t *p = (uint8_t *) (eth + 1), *l4;
    uint16_t type = ntohs(eth->ether_type), sum;
    uint8_t protocol;

    while (type == RTE_ETHER_TYPE_VLAN || type == RTE_ETHER_TYPE_QINQ) {
        type = p[2] << 8 | p[3];
        p += 4;
    }
    if (type == RTE_ETHER_TYPE_IPV4) {
        struct rte_ipv4_hdr *ip = (void *) p;

        sum = ip->hdr_checksum;
        ip->hdr_checksum = 0;
        if (rte_ipv4_cksum(ip) != sum) {
            return false;
        }
        ip->hdr_checksum = sum;
        protocol = ip->next_proto_id;
        l4 = p + sizeof *ip;
    } else {
        protocol = ((struct rte_ipv6_hdr *) p)->proto;
        l4 = p + sizeof(struct rte_ipv6_hdr);
    }
    if (protocol == IPPROTO_ICMP) {
        return true;
    }
    l4 += (protocol == IPPROTO_TCP ? offsetof(struct rte_tcp_hdr, cksum)
           : protocol == IPPROTO_UDP ? offsetof(struct rte_udp_hdr,
                                                dgram_cksum) : 2);
    memcpy(&sum, l4, sizeof sum);
    memset(l4, 0, sizeof sum);
    l4 -= (protocol == IPPROTO_TCP ? offsetof(struct rte_tcp_hdr, cksum)
           : protocol == IPPROTO_UDP ? offsetof(struct rte_udp_hdr,
                                                dgram_cksum) : 2);
    return sum == (type == RTE_ETHER_TYPE_IPV4
                   ? rte_ipv4_udptcp_cksum((void *) p, l4)
                   : rte_ipv6_udptcp_cksum((void *) p, l4));
}

/* Runs an action on a packet and compares it with 'want', byte for byte except
 * for checksums, which have to be right. */
static void
rewrite_at(enum rte_flow_action_type type, const void *conf,
           const struct spec *s, const struct spec *want, int line)
{
    struct rte_flow_action_queue queue = { 0 };
    struct rule rule = rule_in(0, 0);
    struct rte_mbuf *mbuf, *expected = build(want);
    struct rte_flow *flow;

    ITEM(&rule, ETH, NULL, NULL);
    if (s->vlan) {
        ITEM(&rule, VLAN, NULL, NULL);
    }
    add_item(&rule, s->ipv6 ? RTE_FLOW_ITEM_TYPE_IPV6
             : RTE_FLOW_ITEM_TYPE_IPV4, NULL, NULL, NULL);
    if (s->protocol == IPPROTO_TCP) {
        ITEM(&rule, TCP, NULL, NULL);
    } else if (s->protocol == IPPROTO_UDP) {
        ITEM(&rule, UDP, NULL, NULL);
    }
    add_action(&rule, type, conf);
    ACTION(&rule, QUEUE, &queue);
    flow = create_at(&A, &rule, 0, "", line);
    mbuf = pass(&A, s);
    check(mbuf != NULL, line, "rewrite", "packet lost");
    if (mbuf) {
        check(checksums_ok(mbuf) && checksums_ok(expected), line, "rewrite",
              "wrong checksum");
        /* The transport checksums are 0 now. */
        size_t length = (sizeof(struct rte_ether_hdr)
                         + (want->vlan ? 4 : 0)
                         + (want->ipv6 ? 40 : 20)
                         + (want->protocol == IPPROTO_TCP ? 20 : 8)
                         + want->length);
        check(!memcmp(rte_pktmbuf_mtod(mbuf, void *),
                      rte_pktmbuf_mtod(expected, void *), length), line,
              "rewrite", "wrong contents");
    }
    rte_pktmbuf_free(mbuf);
    rte_pktmbuf_free(expected);
    if (flow) {
        destroy(&A, flow);
    }
}
#define REWRITE(TYPE, CONF, S, WANT)                                    \
    rewrite_at(RTE_FLOW_ACTION_TYPE_##TYPE, CONF, S, WANT, __LINE__)

static void
test_rewrite(void)
{
    struct rte_flow_action_set_ipv4 ip4 = { htonl(0x0a000009) };
    struct rte_flow_action_set_ipv6 ip6;
    struct rte_flow_action_set_tp port = { htons(4242) };
    struct rte_flow_action_set_ttl ttl = { 9 };
    uint8_t address[16];

    ipv6_address(address, 9);
    memcpy(&ip6, address, 16);
    for (int i = 0; i < 8; i++) {
        struct spec s = {
            .ipv6 = i & 1, .protocol = i & 2 ? IPPROTO_TCP : IPPROTO_UDP,
            .vlan = i & 4 ? 5 : 0, .src_host = 1, .dst_host = 2,
            .src = 1000, .dst = 80, .length = 33,
        };
        struct spec want = s;

        want.src_host = 9;
        if (s.ipv6) {
            REWRITE(SET_IPV6_SRC, &ip6, &s, &want);
        } else {
            REWRITE(SET_IPV4_SRC, &ip4, &s, &want);
        }
        want = s;
        want.dst_host = 9;
        if (s.ipv6) {
            REWRITE(SET_IPV6_DST, &ip6, &s, &want);
        } else {
            REWRITE(SET_IPV4_DST, &ip4, &s, &want);
        }
        want = s;
        want.src = 4242;
        REWRITE(SET_TP_SRC, &port, &s, &want);
        want = s;
        want.dst = 4242;
        REWRITE(SET_TP_DST, &port, &s, &want);
        want = s;
        want.ttl = 9;
        REWRITE(SET_TTL, &ttl, &s, &want);
        want.ttl = 63;
        REWRITE(DEC_TTL, NULL, &s, &want);
        want = s;
        want.vlan = 0;
        if (s.vlan) {
            REWRITE(OF_POP_VLAN, NULL, &s, &want);
        }
    }

    /* ICMPv6 has the addresses in its checksum too. */
    struct spec echo = {
        .ipv6 = true, .protocol = IPPROTO_ICMPV6, .src = 128, .src_host = 1,
    };
    struct spec want = echo;

    want.src_host = 9;
    REWRITE(SET_IPV6_SRC, &ip6, &echo, &want);
}

/* A MODIFY_FIELD that sets 'field' to 'size' bytes. */
static struct rte_flow_action_modify_field
modify_to(enum rte_flow_field_id field, const void *value, size_t size)
{
    struct rte_flow_action_modify_field conf;

    memset(&conf, 0, sizeof conf);
    conf.operation = RTE_FLOW_MODIFY_SET;
    conf.dst.field = field;
    conf.src.field = RTE_FLOW_FIELD_VALUE;
    conf.width = 8 * size;
    memcpy(conf.src.value, value, size);
    return conf;
}

#define MODIFY(FIELD, VALUE, SIZE, S, WANT)                             \
    do {                                                                \
        struct rte_flow_action_modify_field conf_ =                     \
            modify_to(RTE_FLOW_FIELD_##FIELD, VALUE, SIZE);             \
                                                                        \
        REWRITE(MODIFY_FIELD, &conf_, S, WANT);                         \
    } while (0)

static void
test_modify_field(void)
{
    uint32_t address4 = htonl(0x0a000009);
    uint16_t port = htons(4242);
    uint8_t address6[16], ttl = 9;

    ipv6_address(address6, 9);
    for (int i = 0; i < 8; i++) {
        struct spec s = {
            .ipv6 = i & 1, .protocol = i & 2 ? IPPROTO_TCP : IPPROTO_UDP,
            .vlan = i & 4 ? 5 : 0, .src_host = 1, .dst_host = 2,
            .src = 1000, .dst = 80, .length = 33,
        };
        struct spec want[5] = { s, s, s, s, s };

        want[0].src_host = want[1].dst_host = 9;
        want[2].src = want[3].dst = 4242;
        want[4].ttl = 9;
        if (s.ipv6) {
            MODIFY(IPV6_SRC, address6, 16, &s, &want[0]);
            MODIFY(IPV6_DST, address6, 16, &s, &want[1]);
            MODIFY(IPV6_HOPLIMIT, &ttl, 1, &s, &want[4]);
        } else {
            MODIFY(IPV4_SRC, &address4, 4, &s, &want[0]);
            MODIFY(IPV4_DST, &address4, 4, &s, &want[1]);
            MODIFY(IPV4_TTL, &ttl, 1, &s, &want[4]);
        }
        if (s.protocol == IPPROTO_TCP) {
            MODIFY(TCP_PORT_SRC, &port, 2, &s, &want[2]);
            MODIFY(TCP_PORT_DST, &port, 2, &s, &want[3]);
        } else {
            MODIFY(UDP_PORT_SRC, &port, 2, &s, &want[2]);
            MODIFY(UDP_PORT_DST, &port, 2, &s, &want[3]);
        }
        MODIFY(MAC_SRC, mac_a, 6, &s, &s);
        MODIFY(MAC_DST, mac_b, 6, &s, &s);
    }
}

/* What MODIFY_FIELD does not do. */
static void
test_modify_field_errors(void)
{
    static const struct {
        enum rte_flow_field_id field;
        size_t size;
        enum rte_flow_item_type l3, l4; /* Of another kind. */
    } fields[] = {
#define FIELD(NAME, SIZE, L3, L4) \
        { RTE_FLOW_FIELD_##NAME, SIZE, RTE_FLOW_ITEM_TYPE_##L3, \
          RTE_FLOW_ITEM_TYPE_##L4 }
        FIELD(IPV4_SRC, 4, IPV6, UDP), FIELD(IPV4_DST, 4, IPV6, UDP),
        FIELD(IPV4_TTL, 1, IPV6, UDP), FIELD(IPV6_SRC, 16, IPV4, UDP),
        FIELD(IPV6_DST, 16, IPV4, UDP), FIELD(IPV6_HOPLIMIT, 1, IPV4, UDP),
        FIELD(TCP_PORT_SRC, 2, IPV4, UDP), FIELD(TCP_PORT_DST, 2, IPV4, UDP),
        FIELD(UDP_PORT_SRC, 2, IPV4, TCP), FIELD(UDP_PORT_DST, 2, IPV6, TCP),
#undef FIELD
    };
    struct rte_flow_action_modify_field conf, good;
    struct rule rule = transfer_rule();
    uint8_t value[16] = { 0 };

    for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
        struct rule other = transfer_rule();

        conf = modify_to(fields[i].field, value, fields[i].size);
        ITEM(&other, ETH, NULL, NULL);
        add_item(&other, fields[i].l3, NULL, NULL, NULL);
        add_item(&other, fields[i].l4, NULL, NULL, NULL);
        ACTION(&other, MODIFY_FIELD, &conf);
        ACTION(&other, DROP, NULL);
        REFUSED(&A, &other, EINVAL, "does not have the header");
    }

    good = modify_to(RTE_FLOW_FIELD_IPV4_SRC, value, 4);
    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, IPV4, NULL, NULL);
    ACTION(&rule, MODIFY_FIELD, &conf);
    ACTION(&rule, DROP, NULL);
    for (size_t i = 0; i < sizeof conf.dst.value; i++) {
        conf = good;
        conf.dst.value[i] = 1;
        REFUSED(&A, &rule, ENOTSUP, "of level 0");
    }
    conf = good;
    conf.width = 31;
    REFUSED(&A, &rule, ENOTSUP, "whole fields");
    conf = good;
    conf.operation = RTE_FLOW_MODIFY_ADD;
    REFUSED(&A, &rule, ENOTSUP, "to a value");
    conf = good;
    conf.src.field = RTE_FLOW_FIELD_IPV4_DST;
    REFUSED(&A, &rule, ENOTSUP, "to a value");
    conf = good;
    conf.dst.field = RTE_FLOW_FIELD_IPV4_DSCP;
    REFUSED(&A, &rule, ENOTSUP, "this field");
    conf = good;
    CREATE(&A, &rule);
    CHECK(shown(A.id, "modify_field ipv4_src 0.0.0.0 / drop / end"));
    flush();
    CTL_OK("set modify-field off");
    REFUSED(&A, &rule, ENOTSUP, "not supported");
    CTL_OK("set modify-field on");
    CTL_OK("set rewrite off");
    REFUSED(&A, &rule, ENOTSUP, "not supported");
    CTL_OK("set rewrite on");
    CREATE(&A, &rule);
    flush();
}

static void
test_rewrite_l2(void)
{
    struct rte_flow_action_of_push_vlan push = { htons(RTE_ETHER_TYPE_VLAN) };
    struct rte_flow_action_of_set_vlan_vid vid = { htons(77) };
    struct rte_flow_action_of_set_vlan_pcp pcp = { 5 };
    struct rte_flow_action_set_mac mac = { { 2, 4, 6, 8, 10, 12 } };
    struct rte_flow_action_queue queue = { 0 };
    struct rule rule = rule_in(0, 0);
    struct rte_ether_hdr *eth;
    struct rte_mbuf *mbuf;
    struct spec one = { .ttl = 1, .protocol = IPPROTO_UDP };
    uint8_t *p;

    ITEM(&rule, ETH, NULL, NULL);
    ACTION(&rule, OF_PUSH_VLAN, &push);
    ACTION(&rule, OF_SET_VLAN_VID, &vid);
    ACTION(&rule, OF_SET_VLAN_PCP, &pcp);
    ACTION(&rule, SET_MAC_SRC, &mac);
    mac.mac_addr[5] = 12;
    ACTION(&rule, SET_MAC_DST, &mac);
    ACTION(&rule, QUEUE, &queue);
    CREATE(&A, &rule);
    mbuf = pass(&A, &tcp_packet);
    CHECK(mbuf != NULL);
    eth = rte_pktmbuf_mtod(mbuf, void *);
    p = (uint8_t *) (eth + 1);
    CHECK(!memcmp(&eth->src_addr, mac.mac_addr, 6));
    CHECK(!memcmp(&eth->dst_addr, mac.mac_addr, 6));
    CHECK_INT(ntohs(eth->ether_type), RTE_ETHER_TYPE_VLAN);
    CHECK_INT(p[0] << 8 | p[1], 5 << 13 | 77);
    CHECK_INT(p[2] << 8 | p[3], RTE_ETHER_TYPE_IPV4);
    CHECK(checksums_ok(mbuf));
    CHECK_INT(mbuf->pkt_len, 64 + 4);
    rte_pktmbuf_free(mbuf);

    /* A second tag, and its id is the one that is set. */
    mbuf = pass(&A, &(struct spec) { .vlan = 3, .protocol = IPPROTO_UDP });
    p = rte_pktmbuf_mtod(mbuf, uint8_t *) + sizeof *eth;
    CHECK_INT(p[0] << 8 | p[1], 5 << 13 | 77);
    CHECK_INT(p[4] << 8 | p[5], 3);
    rte_pktmbuf_free(mbuf);
    flush();

    /* A TTL that runs out. */
    rule = rule_in(0, 0);
    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, IPV4, NULL, NULL);
    ACTION(&rule, DEC_TTL, NULL);
    ACTION(&rule, QUEUE, &queue);
    CREATE(&A, &rule);
    CHECK(!to_software(&A, &one));
    one.ttl = 2;
    CHECK(to_software(&A, &one));
    flush();
}

static void
test_action_errors(void)
{
    struct rte_flow_action_jump here = { 0 }, far = { UINT32_MAX };
    struct rte_flow_action_queue queue9 = { 9 }, queue0 = { 0 };
    struct rte_flow_action_of_push_vlan push = { htons(0x1234) };
    struct rte_flow_action_of_set_vlan_vid vid = { htons(0x1000) };
    struct rte_flow_action_of_set_vlan_pcp pcp = { 8 };
    struct rte_flow_action_set_tp port = { 0 };
    struct rte_flow_action_ethdev ethdev = { 9999 };
    struct rte_flow_action_port_id port_id = { .id = 9999 };
    struct rte_flow_action_mark mark = { 1 };
    struct rte_flow_action_age age = { .timeout = 0 };
    uint16_t queues[] = { 0, 9 };
    struct rte_flow_action_rss rss = { .queue_num = 0, .queue = queues };
    static const struct {
        enum rte_flow_action_type type;
        const char *text;
    } need_conf[] = {
        { RTE_FLOW_ACTION_TYPE_JUMP, "configuration" },
        { RTE_FLOW_ACTION_TYPE_MARK, "configuration" },
        { RTE_FLOW_ACTION_TYPE_QUEUE, "configuration" },
        { RTE_FLOW_ACTION_TYPE_RSS, "configuration" },
        { RTE_FLOW_ACTION_TYPE_PORT_ID, "configuration" },
        { RTE_FLOW_ACTION_TYPE_REPRESENTED_PORT, "configuration" },
        { RTE_FLOW_ACTION_TYPE_OF_PUSH_VLAN, "configuration" },
        { RTE_FLOW_ACTION_TYPE_OF_SET_VLAN_VID, "configuration" },
        { RTE_FLOW_ACTION_TYPE_OF_SET_VLAN_PCP, "configuration" },
        { RTE_FLOW_ACTION_TYPE_SET_MAC_SRC, "configuration" },
        { RTE_FLOW_ACTION_TYPE_SET_MAC_DST, "configuration" },
        { RTE_FLOW_ACTION_TYPE_SET_IPV4_SRC, "configuration" },
        { RTE_FLOW_ACTION_TYPE_SET_IPV4_DST, "configuration" },
        { RTE_FLOW_ACTION_TYPE_SET_IPV6_SRC, "configuration" },
        { RTE_FLOW_ACTION_TYPE_SET_IPV6_DST, "configuration" },
        { RTE_FLOW_ACTION_TYPE_SET_TP_SRC, "configuration" },
        { RTE_FLOW_ACTION_TYPE_SET_TP_DST, "configuration" },
        { RTE_FLOW_ACTION_TYPE_SET_TTL, "configuration" },
        { RTE_FLOW_ACTION_TYPE_MODIFY_FIELD, "configuration" },
        { RTE_FLOW_ACTION_TYPE_AGE, "configuration" },
        { RTE_FLOW_ACTION_TYPE_CONNTRACK, "configuration" },
        { RTE_FLOW_ACTION_TYPE_INDIRECT, "handle" },
    };
    uint8_t conf[64] = { 0 };
    struct rule rule;

#define RESET_ACTIONS()                         \
    do {                                        \
        rule = rule_in(0, 0);                   \
        ITEM(&rule, ETH, NULL, NULL);           \
    } while (0)
    for (size_t i = 0; i < ARRAY_SIZE(need_conf); i++) {
        RESET_ACTIONS();
        add_action(&rule, need_conf[i].type, NULL);
        REFUSED(&A, &rule, EINVAL, need_conf[i].text);
    }
    RESET_ACTIONS();
    REFUSED(&A, &rule, EINVAL, "no fate");
    ACTION(&rule, COUNT, NULL);
    REFUSED(&A, &rule, EINVAL, "no fate");
    ACTION(&rule, COUNT, NULL);
    ACTION(&rule, DROP, NULL);
    REFUSED(&A, &rule, EINVAL, "given twice");
    RESET_ACTIONS();
    ACTION(&rule, MARK, &mark);
    ACTION(&rule, MARK, &mark);
    ACTION(&rule, DROP, NULL);
    REFUSED(&A, &rule, EINVAL, "given twice");
    RESET_ACTIONS();
    ACTION(&rule, PASSTHRU, NULL);
    REFUSED(&A, &rule, ENOTSUP, "not supported");
    RESET_ACTIONS();
    ACTION(&rule, DROP, NULL);
    ACTION(&rule, QUEUE, &queue0);
    REFUSED(&A, &rule, EINVAL, "second fate");
    RESET_ACTIONS();
    ACTION(&rule, JUMP, &here);
    REFUSED(&A, &rule, EINVAL, "group that the rule is in");
    RESET_ACTIONS();
    ACTION(&rule, JUMP, &far);
    REFUSED(&A, &rule, ENOTSUP, "group");
    RESET_ACTIONS();
    ACTION(&rule, QUEUE, &queue9);
    REFUSED(&A, &rule, EINVAL, "queue");
    RESET_ACTIONS();
    ACTION(&rule, RSS, &rss);
    REFUSED(&A, &rule, EINVAL, "without queues");
    rss.queue_num = 2;
    REFUSED(&A, &rule, EINVAL, "no such queue");
    queues[1] = 1;
    rss.level = 2;
    REFUSED(&A, &rule, ENOTSUP, "inner");
    rss.level = 0;
    rss.func = RTE_ETH_HASH_FUNCTION_SIMPLE_XOR;
    REFUSED(&A, &rule, ENOTSUP, "hash function");
    rss.func = RTE_ETH_HASH_FUNCTION_DEFAULT;
    rss.key_len = 40;
    REFUSED(&A, &rule, EINVAL, "key");
    rss.key = conf;
    rss.key_len = 39;
    REFUSED(&A, &rule, ENOTSUP, "key");
    RESET_ACTIONS();
    ACTION(&rule, AGE, &age);
    ACTION(&rule, DROP, NULL);
    REFUSED(&A, &rule, EINVAL, "timeout of 0");
    age.timeout = 1;
    age.reserved = 1;
    REFUSED(&A, &rule, EINVAL, "reserved");

    /* Fates of one kind of rule in another. */
    RESET_ACTIONS();
    ethdev.port_id = B.id;
    ACTION(&rule, REPRESENTED_PORT, &ethdev);
    REFUSED(&A, &rule, EINVAL, "transfer rules");
    rule.attr.ingress = 0;
    rule.attr.transfer = 1;
    ethdev.port_id = 9999;
    REFUSED(&A, &rule, EINVAL, "no such port");
    rule.n_actions = 0;
    ACTION(&rule, PORT_ID, &port_id);
    REFUSED(&A, &rule, EINVAL, "no such port");
    rule.n_actions = 0;
    ACTION(&rule, QUEUE, &queue0);
    REFUSED(&A, &rule, EINVAL, "ingress rules");

    /* Changes of headers that the pattern does not have. */
    static const enum rte_flow_action_type changes[] = {
        RTE_FLOW_ACTION_TYPE_OF_POP_VLAN, RTE_FLOW_ACTION_TYPE_SET_IPV4_SRC,
        RTE_FLOW_ACTION_TYPE_SET_IPV4_DST, RTE_FLOW_ACTION_TYPE_SET_IPV6_SRC,
        RTE_FLOW_ACTION_TYPE_SET_IPV6_DST, RTE_FLOW_ACTION_TYPE_SET_TP_SRC,
        RTE_FLOW_ACTION_TYPE_SET_TP_DST, RTE_FLOW_ACTION_TYPE_SET_TTL,
        RTE_FLOW_ACTION_TYPE_DEC_TTL, RTE_FLOW_ACTION_TYPE_OF_SET_VLAN_VID,
        RTE_FLOW_ACTION_TYPE_OF_SET_VLAN_PCP,
    };
    for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
        RESET_ACTIONS();
        add_action(&rule, changes[i], conf);
        ACTION(&rule, DROP, NULL);
        REFUSED(&A, &rule, EINVAL, "does not have the header");
    }
    rule = rule_in(0, 0);
    ACTION(&rule, SET_MAC_SRC, conf);
    REFUSED(&A, &rule, EINVAL, "does not have the header");
    rule = rule_in(0, 0);
    ACTION(&rule, SET_MAC_DST, conf);
    REFUSED(&A, &rule, EINVAL, "does not have the header");
    RESET_ACTIONS();
    ACTION(&rule, OF_PUSH_VLAN, &push);
    REFUSED(&A, &rule, EINVAL, "not one of VLANs");
    push.ethertype = htons(RTE_ETHER_TYPE_QINQ);
    ACTION(&rule, OF_SET_VLAN_VID, &vid);
    REFUSED(&A, &rule, EINVAL, "12 bits");
    rule.n_actions = 1;
    ACTION(&rule, OF_SET_VLAN_PCP, &pcp);
    REFUSED(&A, &rule, EINVAL, "3 bits");
    RESET_ACTIONS();
    ITEM(&rule, IPV4, NULL, NULL);
    ITEM(&rule, SCTP, NULL, NULL);
    ACTION(&rule, SET_TP_SRC, &port);
    REFUSED(&A, &rule, EINVAL, "does not have the header");
    CHECK_INT(report(-1, "rules"), 0);
}

/* Fates. */

static void
test_queues(void)
{
    struct rte_flow_action_queue queue1 = { 1 };
    uint16_t one[] = { 1 }, both[] = { 0, 1 };
    struct rte_flow_action_rss rss = { .queue_num = 2, .queue = both };
    struct rule rule = rule_in(0, 0);
    struct rte_mbuf *mbuf = NULL;

    ITEM(&rule, ETH, NULL, NULL);
    ACTION(&rule, QUEUE, &queue1);
    CREATE(&A, &rule);
    CHECK(!to_software(&A, &tcp_packet));
    CHECK_INT(report(A.id, "steered"), 1);
    CHECK_INT(receive(&A, 1, &mbuf), 1);
    rte_pktmbuf_free(mbuf);
    flush();

    rule.n_actions = 0;
    ACTION(&rule, RSS, &rss);
    CREATE(&A, &rule);
    CHECK(to_software(&A, &tcp_packet));
    flush();

    rss.queue_num = 1;
    rss.queue = one;
    CREATE(&A, &rule);
    for (int i = 0; i < 600; i++) {
        rte_pktmbuf_free(pass(&A, &tcp_packet));
    }
    CHECK_INT(report(A.id, "steered"), 1 + 512);
    CHECK_INT(report(A.id, "steer_full"), 88);
    for (int i = 0; i < 8; i++) {
        CHECK_INT(receive(&A, 1, NULL), 64);
    }
    CHECK_INT(receive(&A, 1, NULL), 0);
    flush();
}

static void
test_jumps(void)
{
    struct rte_flow_action_jump jump1 = { 1 }, jump2 = { 2 };
    struct rule one = rule_in(1, 0), two = rule_in(2, 0);
    struct rule root = rule_in(0, 0), low = rule_in(0, 1);
    struct rte_flow_item_eth eth = { .has_vlan = 0 };
    struct rte_flow_item_eth mask = { .has_vlan = 1 };
    struct rte_flow *flow, *older;

    /* Nothing in the group. */
    ITEM(&root, ETH, NULL, NULL);
    ACTION(&root, JUMP, &jump1);
    flow = CREATE(&A, &root);
    CTL_OK("reset-counters");
    CHECK(to_software(&A, &tcp_packet));
    CTL_OK("set miss drop");
    CHECK(!to_software(&A, &tcp_packet));
    CHECK_INT(report(A.id, "missed"), 2);
    CHECK_INT(report(A.id, "dropped"), 1);
    CTL_OK("set miss software");

    /* In circles. */
    ITEM(&one, ETH, NULL, NULL);
    ACTION(&one, JUMP, &jump2);
    ITEM(&two, ETH, NULL, NULL);
    ACTION(&two, JUMP, &jump1);
    CREATE(&A, &one);
    CREATE(&A, &two);
    CHECK(!to_software(&A, &tcp_packet));
    CHECK_INT(report(A.id, "looped"), 1);
    destroy(&A, flow);

    /* Two rules that match, of one priority, and then of two. */
    root = dropping_rule();
    ITEM(&root, ETH, NULL, NULL);
    older = CREATE(&A, &root);
    root = dropping_rule();
    ITEM(&root, ETH, &eth, &mask);
    flow = CREATE(&A, &root);
    CHECK(!to_software(&A, &tcp_packet));
    CHECK_INT(report(A.id, "ambiguous"), 1);
    CHECK_INT(count(&A, older), 1);
    destroy(&A, flow);
    low = dropping_rule();
    low.attr.priority = 1;
    ITEM(&low, ETH, &eth, &mask);
    flow = CREATE(&A, &low);
    CHECK(!to_software(&A, &tcp_packet));
    CHECK_INT(report(A.id, "ambiguous"), 1);
    CHECK_INT(count(&A, flow), 0);
    flush();
}

static void
test_transfer(void)
{
    struct rte_flow_action_ethdev to_b = { B.id };
    struct rte_flow_action_port_id id_b = { .id = B.id };
    struct rte_flow_action_port_id original = { .original = 1, .id = B.id };
    struct rule rule = transfer_rule(), ingress = dropping_rule();
    struct rte_flow *flow, *other;
    struct rte_mbuf *mbuf;

    CTL_OK("reset-counters");
    ITEM(&ingress, ETH, NULL, NULL);
    other = CREATE(&A, &ingress);
    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, IPV4, NULL, NULL);
    ITEM(&rule, TCP, NULL, NULL);
    ACTION(&rule, COUNT, NULL);
    ACTION(&rule, REPRESENTED_PORT, &to_b);
    flow = CREATE(&A, &rule);

    /* Before ingress rules, which see the rest. */
    CHECK(!to_software(&A, &tcp_packet));
    CHECK_INT(count(&A, other), 0);
    mbuf = sent_by(&B);
    CHECK(mbuf && checksums_ok(mbuf));
    rte_pktmbuf_free(mbuf);
    CHECK_INT(report(A.id, "forwarded"), 1);
    CHECK(!to_software(&A, &(struct spec) { .protocol = IPPROTO_UDP }));
    CHECK_INT(count(&A, other), 1);
    CHECK(!sent_by(&B));
    destroy(&A, flow);

    rule.n_actions = 0;
    ACTION(&rule, PORT_ID, &id_b);
    flow = CREATE(&A, &rule);
    CHECK(!to_software(&A, &tcp_packet));
    mbuf = sent_by(&B);
    CHECK(mbuf != NULL);
    rte_pktmbuf_free(mbuf);
    destroy(&A, flow);

    rule.n_actions = 0;
    ACTION(&rule, PORT_ID, &original);
    flow = CREATE(&A, &rule);
    CHECK(!to_software(&A, &tcp_packet));
    mbuf = sent_by(&A);
    CHECK(mbuf != NULL);
    rte_pktmbuf_free(mbuf);
    destroy(&A, flow);

    /* To a port that takes no more, and to one that is stopped. */
    rule.n_actions = 0;
    ACTION(&rule, REPRESENTED_PORT, &to_b);
    CREATE(&A, &rule);
    for (int i = 0; i < 300; i++) {
        CHECK(!to_software(&A, &tcp_packet));
    }
    CHECK_INT(report(A.id, "tx_failed"), 300 - 255);
    while ((mbuf = sent_by(&B))) {
        rte_pktmbuf_free(mbuf);
    }
    CHECK_INT(rte_eth_dev_stop(B.id), 0);
    CHECK(!to_software(&A, &tcp_packet));
    CHECK_INT(report(A.id, "tx_failed"), 300 - 255 + 1);
    CHECK_INT(rte_eth_dev_start(B.id), 0);
    flush();
}

/* Says whether a packet that 'from' receives leaves through 'to', and does not
 * get to software. */
static bool
forwards(const struct port *from, const struct port *to, const struct spec *s)
{
    bool software = to_software(from, s);
    struct rte_mbuf *mbuf = sent_by(to);
    bool sent = mbuf != NULL;

    rte_pktmbuf_free(mbuf);
    return sent && !software;
}

static uint16_t
proxy_of(uint16_t port)
{
    uint16_t proxy = UINT16_MAX;

    CHECK_INT(rte_flow_pick_transfer_proxy(port, &proxy, NULL), 0);
    return proxy;
}

/* A transfer rule from the port that 'item' names, if any, to the one that
 * 'to' does. */
static struct rule
path_rule(const struct rte_flow_item_ethdev *item,
          const struct rte_flow_action_ethdev *to)
{
    struct rule rule = transfer_rule();

    if (item) {
        ITEM(&rule, REPRESENTED_PORT, item, NULL);
    }
    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, IPV4, NULL, NULL);
    ACTION(&rule, COUNT, NULL);
    ACTION(&rule, REPRESENTED_PORT, to);
    return rule;
}

static void
test_represented_port(void)
{
    struct rte_flow_item_ethdev from_a = { A.id }, from_b = { B.id };
    struct rte_flow_item_ethdev nobody = { 17 }, part = { 0xff };
    struct rte_flow_item_ipv4 low = { .hdr.src_addr = htonl(0x0a000001) };
    struct rte_flow_item_ipv4 high = { .hdr.src_addr = htonl(0x0a000009) };
    struct rte_flow_item_ipv4 source = { .hdr.src_addr = UINT32_MAX };
    struct rte_flow_action_ethdev to_a = { A.id }, to_b = { B.id };
    struct rte_flow_action_set_ttl ttl = { 9 };
    struct rte_flow_action_jump jump = { 3 };
    struct rule rule = path_rule(&from_b, &to_a), other;
    struct rte_flow *flow, *any;

    /* Created on A, for packets that B receives. */
    flow = CREATE(&A, &rule);
    CHECK(shown(A.id, "\"pattern\": \"represented_port id is 1 / eth / "));
    CHECK(forwards(&B, &A, &tcp_packet));
    CHECK(to_software(&A, &tcp_packet));
    CHECK_INT(count(&A, flow), 1);
    CHECK_INT(count(&B, flow), -1);
    CHECK(to_software(&B, &(struct spec) { .ipv6 = true }));

    /* The same match, wherever it is created, with the item or without. */
    REFUSED(&A, &rule, EEXIST, "exists");
    REFUSED(&B, &rule, EEXIST, "exists");
    other = path_rule(NULL, &to_a);
    REFUSED(&B, &other, EEXIST, "exists");
    destroy(&A, flow);
    CHECK(to_software(&B, &tcp_packet));
    flow = CREATE(&B, &other);
    REFUSED(&A, &rule, EEXIST, "exists");
    destroy(&B, flow);

    /* In rules with ranges, and after other items. */
    other = path_rule(NULL, &to_a);
    other.items[1].spec = &low;
    other.items[1].mask = &source;
    other.items[1].last = &high;
    flow = CREATE(&B, &other);
    CHECK(to_software(&A, &tcp_packet));
    CHECK(forwards(&B, &A, &tcp_packet));
    destroy(&B, flow);
    ITEM(&other, REPRESENTED_PORT, &from_b, NULL);
    flow = CREATE(&A, &other);
    CHECK(to_software(&A, &tcp_packet));
    CHECK(forwards(&B, &A, &tcp_packet));
    destroy(&A, flow);

    /* In other groups, after a change. */
    other = path_rule(&from_b, &to_a);
    other.n_actions = 0;
    ACTION(&other, SET_TTL, &ttl);
    ACTION(&other, JUMP, &jump);
    flow = CREATE(&A, &other);
    rule.attr.group = jump.group;
    any = CREATE(&A, &rule);
    CHECK(forwards(&B, &A, &tcp_packet));
    destroy(&A, any);
    destroy(&A, flow);

    /* Any port. */
    other = path_rule(&from_b, &to_b);
    other.items[0].spec = NULL;
    any = CREATE(&A, &other);
    CHECK(forwards(&A, &B, &tcp_packet));
    CHECK(forwards(&B, &B, &tcp_packet));
    destroy(&A, any);

    rule = dropping_rule();
    ITEM(&rule, REPRESENTED_PORT, &from_a, NULL);
    REFUSED(&A, &rule, EINVAL, "transfer");
    rule = path_rule(&nobody, &to_b);
    REFUSED(&A, &rule, EINVAL, "no such port");
    rule = path_rule(&from_a, &to_b);
    rule.items[0].mask = &part;
    REFUSED(&A, &rule, ENOTSUP, "a part");
    rule = path_rule(&from_a, &to_b);
    rule.items[0].last = &from_b;
    REFUSED(&A, &rule, ENOTSUP, "range");
    rule = path_rule(&from_a, &to_b);
    ITEM(&rule, REPRESENTED_PORT, &from_a, NULL);
    REFUSED(&A, &rule, EINVAL, "twice");
}

static void
test_overlap(void)
{
    static const struct spec udp = { .protocol = IPPROTO_UDP };
    struct rte_flow_item_ethdev from_a = { A.id };
    struct rte_flow_action_ethdev to_a = { A.id }, to_b = { B.id };
    struct rule plain = path_rule(NULL, &to_a), path = path_rule(NULL, &to_b);
    struct rule ingress = dropping_rule();
    struct rte_flow *flow, *hidden;

    CTL_OK("reset-counters");
    path.attr.priority = 1;
    ITEM(&path, TCP, NULL, NULL);
    hidden = CREATE(&A, &path);
    CHECK(forwards(&A, &B, &tcp_packet));

    /* Rules for other packets, in other domains, or of other ports. */
    CREATE(&B, &plain);
    CREATE(&A, &ingress);
    CHECK(forwards(&A, &B, &tcp_packet));
    CHECK_INT(report(A.id, "overlap"), 0);

    flow = CREATE(&A, &plain);
    CHECK(forwards(&A, &A, &udp));
    CHECK_INT(report(A.id, "overlap"), 0);
    CHECK(forwards(&A, &A, &tcp_packet));
    CHECK_INT(report(A.id, "overlap"), 1);
    CHECK_INT(report(A.id, "ambiguous"), 0);
    CHECK_INT(count(&A, hidden), 2);
    CHECK_INT(count(&A, flow), 2);
    destroy(&A, flow);
    CHECK(forwards(&A, &B, &tcp_packet));
    CHECK_INT(report(A.id, "overlap"), 1);

    /* Two of one priority, from two ports, and a third one that they hide. */
    path = path_rule(&from_a, &to_b);
    path.attr.priority = 1;
    CREATE(&B, &path);
    CHECK(forwards(&A, &B, &tcp_packet));
    CHECK_INT(report(A.id, "ambiguous"), 1);
    CHECK_INT(report(A.id, "overlap"), 1);
    path.attr.priority = 2;
    CREATE(&B, &path);
    CHECK(forwards(&A, &B, &tcp_packet));
    CHECK_INT(report(A.id, "ambiguous"), 2);
    CHECK_INT(report(A.id, "overlap"), 2);
    CHECK_INT(report(B.id, "overlap"), 0);
    flush();
    CTL_OK("reset-counters");
}

static void
test_proxy(void)
{
    struct rte_flow_item_ethdev from_a = { A.id }, from_b = { B.id };
    struct rte_flow_item_ethdev from_c;
    struct rte_flow_action_ethdev to_a = { A.id }, to_b = { B.id };
    struct rule rule, ingress = dropping_rule();
    struct rte_flow *flow, *any;
    struct port port;
    uint16_t c;

    CTL_OK("reset-counters");
    CHECK_INT(proxy_of(A.id), A.id);
    CHECK_INT(proxy_of(B.id), B.id);
    CTL_OK("set proxy first");
    CHECK_INT(proxy_of(A.id), A.id);
    CHECK_INT(proxy_of(B.id), A.id);
    rule = path_rule(&from_b, &to_a);
    REFUSED(&B, &rule, ENOTSUP, "proxy");
    rule = path_rule(NULL, &to_a);
    REFUSED(&B, &rule, ENOTSUP, "proxy");

    /* Ingress rules have no proxy. */
    flow = CREATE(&B, &ingress);
    destroy(&B, flow);

    rule = path_rule(&from_b, &to_a);
    flow = CREATE(&A, &rule);
    CHECK(forwards(&B, &A, &tcp_packet));
    CHECK(to_software(&A, &tcp_packet));
    CHECK_INT(report(B.id, "forwarded"), 1);

    /* What has no item is for all ports. */
    rule = path_rule(NULL, &to_b);
    rule.attr.priority = 1;
    any = CREATE(&A, &rule);
    CHECK(forwards(&A, &B, &tcp_packet));
    CHECK(forwards(&B, &A, &tcp_packet));
    CHECK_INT(count(&A, any), 1);

    /* Rules are those of the proxy.  When it stops, they are gone. */
    CHECK_INT(rte_eth_dev_stop(B.id), 0);
    CHECK_INT(report(-1, "rules"), 2);
    CHECK_INT(rte_eth_dev_start(B.id), 0);
    CHECK(forwards(&B, &A, &tcp_packet));
    CHECK_INT(rte_eth_dev_stop(A.id), 0);
    CHECK_INT(report(A.id, "rules_lost"), 2);
    CHECK_INT(report(-1, "rules"), 0);
    CHECK(to_software(&B, &tcp_packet));
    CHECK_INT(rte_flow_destroy(A.id, flow, NULL), -ENOENT);
    CHECK_INT(count(&A, any), -1);
    CHECK_INT(report(-1, "stale"), 2);
    rule = path_rule(&from_b, &to_b);
    CHECK(!rte_flow_create(A.id, &rule.attr, rule.items, rule.actions, NULL));
    CHECK_INT(rte_errno, EINVAL);
    CHECK_INT(rte_eth_dev_start(A.id), 0);
    CHECK(to_software(&B, &tcp_packet));

    /* The proxy of a switch of its own closes.  Another port takes its place:
     * which, is told by when they came, not by their numbers. */
    open_port(&port, "proxy");
    c = port.id;
    CHECK_INT(start_port(&port, 1), 0);
    CTL_OK("set port %u switch-domain 5", c);
    CHECK_INT(proxy_of(c), c);
    CTL_OK("set port %u switch-domain 5", A.id);
    CHECK_INT(proxy_of(c), A.id);
    CTL_OK("set port %u switch-domain 0", A.id);
    CTL_OK("set port %u switch-domain 5", B.id);
    CHECK_INT(proxy_of(c), B.id);
    from_c.port_id = c;
    rule = path_rule(&from_c, &to_b);
    flow = CREATE(&B, &rule);
    CHECK(forwards(&port, &B, &tcp_packet));
    CTL_OK("set port %u switch-domain 0", B.id);
    destroy(&B, flow);
    CTL_OK("set switch-domain 0");
    CHECK_INT(proxy_of(c), A.id);
    CHECK_INT(rte_eth_dev_stop(c), 0);
    CHECK_INT(rte_eth_dev_close(c), 0);

    CTL_OK("set proxy all");
    rule = path_rule(&from_a, &to_b);
    flow = CREATE(&B, &rule);
    CHECK(forwards(&A, &B, &tcp_packet));
    destroy(&B, flow);
    CTL_OK("reset-counters");
}

static void
test_proxy_closes(void)
{
    struct rte_flow_item_ethdev from_d;
    struct rte_flow_action_ethdev to_d;
    struct port c, d, e;
    struct rule rule;

    CTL_OK("set proxy first");
    CTL_OK("set switch-domain 3");
    CTL_OK("set port %u switch-domain 0", A.id);
    CTL_OK("set port %u switch-domain 0", B.id);
    open_port(&c, "proxyc");
    open_port(&d, "proxyd");
    CHECK_INT(start_port(&c, 1), 0);
    CHECK_INT(start_port(&d, 1), 0);
    CHECK_INT(proxy_of(d.id), c.id);
    from_d.port_id = to_d.port_id = d.id;
    rule = path_rule(&from_d, &to_d);
    CREATE(&c, &rule);
    CHECK(forwards(&d, &d, &tcp_packet));
    CHECK_INT(rte_eth_dev_stop(c.id), 0);
    CHECK(to_software(&d, &tcp_packet));
    CHECK_INT(rte_eth_dev_start(c.id), 0);
    CREATE(&c, &rule);
    CHECK(forwards(&d, &d, &tcp_packet));

    /* A device that goes without a stop. */
    CHECK_INT(rte_vdev_uninit(c.name), 0);
    CHECK(to_software(&d, &tcp_packet));
    CHECK_INT(report(-1, "leaked_rules"), 1);
    CHECK_INT(report(-1, "rules"), 0);
    CHECK_INT(proxy_of(d.id), d.id);
    CREATE(&d, &rule);
    CHECK(forwards(&d, &d, &tcp_packet));

    /* It stays the proxy when the number of the old one is used again. */
    open_port(&e, "proxye");
    CHECK_INT(start_port(&e, 1), 0);
    CHECK_INT(e.id, c.id);
    CHECK_INT(proxy_of(e.id), d.id);
    CHECK_INT(proxy_of(d.id), d.id);
    CHECK_INT(rte_eth_dev_stop(e.id), 0);
    CHECK_INT(rte_eth_dev_close(e.id), 0);
    CHECK_INT(rte_eth_dev_stop(d.id), 0);
    CHECK_INT(rte_eth_dev_close(d.id), 0);
    CTL_OK("set proxy all");
    CTL_OK("set switch-domain 0");
    CTL_OK("reset-counters");
}

/* Everything that a connection's packets may need, in one rule. */

#define SYN_FIN_RST (RTE_TCP_SYN_FLAG | RTE_TCP_FIN_FLAG | RTE_TCP_RST_FLAG)

struct full_rule {
    struct rule rule;
    struct rte_flow_item_eth eth, eth_mask;
    struct rte_flow_item_vlan vlan, vlan_mask;
    struct rte_flow_item_ipv4 ip4, ip4_mask;
    struct rte_flow_item_ipv6 ip6, ip6_mask;
    struct rte_flow_item_tcp tcp, tcp_mask;
    struct rte_flow_item_udp udp, udp_mask;
    struct rte_flow_action_of_push_vlan push;
    struct rte_flow_action_of_set_vlan_vid vid;
    struct rte_flow_action_of_set_vlan_pcp pcp;
    struct rte_flow_action_set_mac mac_src, mac_dst;
    struct rte_flow_action_set_ipv4 ip4_src, ip4_dst;
    struct rte_flow_action_set_ipv6 ip6_src, ip6_dst;
    struct rte_flow_action_set_tp src, dst;
    struct rte_flow_action_set_ttl ttl;
    struct rte_flow_action_modify_field fields[7];
    size_t n_fields;
    struct rte_flow_action_ethdev to;
};

static void
full_pattern(struct full_rule *f, const struct spec *s)
{
    ITEM(&f->rule, ETH, &f->eth, &f->eth_mask);
    f->eth.has_vlan = s->vlan != 0;
    f->eth_mask.has_vlan = 1;
    if (s->vlan) {
        f->vlan.hdr.vlan_tci = htons(s->vlan);
        f->vlan_mask.hdr.vlan_tci = htons(0xfff);
        f->vlan_mask.has_more_vlan = 1;
        ITEM(&f->rule, VLAN, &f->vlan, &f->vlan_mask);
    }
    if (s->ipv6) {
        ipv6_address((void *) &f->ip6.hdr.src_addr, s->src_host);
        ipv6_address((void *) &f->ip6.hdr.dst_addr, s->dst_host);
        memset(&f->ip6_mask.hdr.src_addr, 0xff, 16);
        memset(&f->ip6_mask.hdr.dst_addr, 0xff, 16);
        f->ip6.hdr.hop_limits = 64;
        f->ip6_mask.hdr.hop_limits = 0xff;
        f->ip6_mask.has_frag_ext = 1;
        ITEM(&f->rule, IPV6, &f->ip6, &f->ip6_mask);
    } else {
        f->ip4.hdr.src_addr = htonl(0x0a000000 | s->src_host);
        f->ip4.hdr.dst_addr = htonl(0x0a000000 | s->dst_host);
        f->ip4_mask.hdr.src_addr = f->ip4_mask.hdr.dst_addr = UINT32_MAX;
        f->ip4.hdr.time_to_live = 64;
        f->ip4_mask.hdr.time_to_live = 0xff;
        f->ip4_mask.hdr.fragment_offset = htons(0x3fff);
        ITEM(&f->rule, IPV4, &f->ip4, &f->ip4_mask);
    }
    if (s->protocol == IPPROTO_TCP) {
        f->tcp.hdr.src_port = htons(s->src);
        f->tcp.hdr.dst_port = htons(s->dst);
        f->tcp_mask.hdr.src_port = f->tcp_mask.hdr.dst_port = UINT16_MAX;
        f->tcp.hdr.tcp_flags = RTE_TCP_ACK_FLAG;
        f->tcp_mask.hdr.tcp_flags = SYN_FIN_RST | RTE_TCP_ACK_FLAG;
        ITEM(&f->rule, TCP, &f->tcp, &f->tcp_mask);
    } else {
        f->udp.hdr.src_port = htons(s->src);
        f->udp.hdr.dst_port = htons(s->dst);
        f->udp_mask.hdr.src_port = f->udp_mask.hdr.dst_port = UINT16_MAX;
        ITEM(&f->rule, UDP, &f->udp, &f->udp_mask);
    }
}

static void
full_modify(struct full_rule *f, enum rte_flow_field_id field,
            const void *value, size_t size)
{
    f->fields[f->n_fields] = modify_to(field, value, size);
    ACTION(&f->rule, MODIFY_FIELD, &f->fields[f->n_fields++]);
}

/* Adds MODIFY_FIELD actions instead of what full_sets() has added. */
static void
full_modifies(struct full_rule *f, const struct spec *s)
{
    bool tcp = s->protocol == IPPROTO_TCP;

    full_modify(f, RTE_FLOW_FIELD_MAC_SRC, &f->mac_src, 6);
    full_modify(f, RTE_FLOW_FIELD_MAC_DST, &f->mac_dst, 6);
    if (s->ipv6) {
        full_modify(f, RTE_FLOW_FIELD_IPV6_SRC, &f->ip6_src, 16);
        full_modify(f, RTE_FLOW_FIELD_IPV6_DST, &f->ip6_dst, 16);
    } else {
        full_modify(f, RTE_FLOW_FIELD_IPV4_SRC, &f->ip4_src, 4);
        full_modify(f, RTE_FLOW_FIELD_IPV4_DST, &f->ip4_dst, 4);
    }
    full_modify(f, tcp ? RTE_FLOW_FIELD_TCP_PORT_SRC
                : RTE_FLOW_FIELD_UDP_PORT_SRC, &f->src, 2);
    full_modify(f, tcp ? RTE_FLOW_FIELD_TCP_PORT_DST
                : RTE_FLOW_FIELD_UDP_PORT_DST, &f->dst, 2);
    full_modify(f, s->ipv6 ? RTE_FLOW_FIELD_IPV6_HOPLIMIT
                : RTE_FLOW_FIELD_IPV4_TTL, &f->ttl, 1);
}

static void
full_sets(struct full_rule *f, const struct spec *s, const struct spec *want)
{
    memset(&f->mac_src, 6, sizeof f->mac_src);
    memset(&f->mac_dst, 8, sizeof f->mac_dst);
    ACTION(&f->rule, SET_MAC_SRC, &f->mac_src);
    ACTION(&f->rule, SET_MAC_DST, &f->mac_dst);
    if (s->ipv6) {
        ipv6_address((void *) &f->ip6_src, want->src_host);
        ipv6_address((void *) &f->ip6_dst, want->dst_host);
        ACTION(&f->rule, SET_IPV6_SRC, &f->ip6_src);
        ACTION(&f->rule, SET_IPV6_DST, &f->ip6_dst);
    } else {
        f->ip4_src.ipv4_addr = htonl(0x0a000000 | want->src_host);
        f->ip4_dst.ipv4_addr = htonl(0x0a000000 | want->dst_host);
        ACTION(&f->rule, SET_IPV4_SRC, &f->ip4_src);
        ACTION(&f->rule, SET_IPV4_DST, &f->ip4_dst);
    }
    f->src.port = htons(want->src);
    f->dst.port = htons(want->dst);
    ACTION(&f->rule, SET_TP_SRC, &f->src);
    ACTION(&f->rule, SET_TP_DST, &f->dst);
    f->ttl.ttl_value = want->ttl;
    ACTION(&f->rule, SET_TTL, &f->ttl);
}

/* 'want' is what comes out. */
static void
full_actions(struct full_rule *f, const struct spec *s,
             const struct spec *want, bool modify)
{
    size_t n;

    if (s->vlan) {
        ACTION(&f->rule, OF_POP_VLAN, NULL);
    }
    ACTION(&f->rule, COUNT, NULL);
    if (want->vlan) {
        f->push.ethertype = htons(RTE_ETHER_TYPE_VLAN);
        f->pcp.vlan_pcp = 5;
        f->vid.vlan_vid = htons(want->vlan & 0xfff);
        ACTION(&f->rule, OF_PUSH_VLAN, &f->push);
        ACTION(&f->rule, OF_SET_VLAN_VID, &f->vid);
        ACTION(&f->rule, OF_SET_VLAN_PCP, &f->pcp);
    }
    n = f->rule.n_actions;
    full_sets(f, s, want);
    if (modify) {
        f->rule.n_actions = n;
        full_modifies(f, s);
    }
    f->to.port_id = B.id;
    ACTION(&f->rule, REPRESENTED_PORT, &f->to);
}

static void
zero_udp_checksum(struct rte_mbuf *mbuf, const struct spec *s)
{
    size_t offset = (sizeof(struct rte_ether_hdr) + (s->vlan ? 4 : 0)
                     + (s->ipv6 ? 40 : 20)
                     + offsetof(struct rte_udp_hdr, dgram_cksum));

    memset(rte_pktmbuf_mtod_offset(mbuf, uint8_t *, offset), 0, 2);
}

/* Checks that B sends 'want', every byte of it, when A receives 's'. */
static void
becomes_at(const struct spec *s, const struct spec *want, bool no_checksum,
           int line)
{
    struct rte_mbuf *mbuf = build(s), *expected = build(want), *sent;
    struct rte_ether_hdr *eth = rte_pktmbuf_mtod(expected, void *);

    memset(&eth->src_addr, 6, sizeof eth->src_addr);
    memset(&eth->dst_addr, 8, sizeof eth->dst_addr);
    if (no_checksum) {
        zero_udp_checksum(mbuf, s);
        zero_udp_checksum(expected, want);
    }
    assert(!rte_ring_enqueue(A.rx[0], mbuf));
    check(!receive(&A, 0, NULL), line, "becomes", "seen by software");
    sent = sent_by(&B);
    check(sent && rte_pktmbuf_pkt_len(sent) == rte_pktmbuf_pkt_len(expected)
          && !memcmp(rte_pktmbuf_mtod(sent, void *), eth,
                     rte_pktmbuf_pkt_len(expected)),
          line, "becomes", "not sent, or wrong contents");
    rte_pktmbuf_free(sent);
    rte_pktmbuf_free(expected);
}

/* Says whether 's' reaches software as it was. */
static bool
untouched(const struct spec *s)
{
    struct rte_mbuf *mbuf = pass(&A, s), *expected = build(s);
    bool ok = (mbuf && !memcmp(rte_pktmbuf_mtod(mbuf, void *),
                               rte_pktmbuf_mtod(expected, void *),
                               rte_pktmbuf_pkt_len(expected)));

    rte_pktmbuf_free(mbuf);
    rte_pktmbuf_free(expected);
    return ok;
}

static void
check_full_rule(const struct spec *s, const struct spec *want, bool modify)
{
    struct full_rule f = { .rule = { .attr = { .transfer = 1,
                                               .priority = 1 } } };
    struct rte_flow_query_count query = { .reset = 0 };
    struct rte_flow_action count_action = {
        .type = RTE_FLOW_ACTION_TYPE_COUNT,
    };
    struct rte_flow *flow;
    struct spec other;

    full_pattern(&f, s);
    full_actions(&f, s, want, modify);
    flow = CREATE(&A, &f.rule);
    REFUSED(&A, &f.rule, EEXIST, "exists");
    becomes_at(s, want, false, __LINE__);
    if (s->protocol == IPPROTO_UDP) {
        becomes_at(s, want, true, __LINE__);
    } else {
        struct spec psh = *s, want_psh = *want;

        psh.flags |= RTE_TCP_PSH_FLAG;
        want_psh.flags |= RTE_TCP_PSH_FLAG;
        becomes_at(&psh, &want_psh, false, __LINE__);
        for (uint8_t flag = 1; flag <= RTE_TCP_ACK_FLAG; flag <<= 1) {
            other = *s;
            other.flags ^= flag;
            if (flag != RTE_TCP_PSH_FLAG) {
                CHECK(untouched(&other));
            }
        }
    }

    /* A packet is counted with the length it has then. */
    CHECK_INT(rte_flow_query(A.id, flow, &count_action, &query, NULL), 0);
    CHECK_INT(query.hits, 2);
    CHECK_INT(query.bytes, 2 * (14 + (s->ipv6 ? 40 : 20)
                                + (s->protocol == IPPROTO_TCP ? 20 : 8)
                                + s->length));

    /* What does not match is for software. */
    other = *s;
    other.ttl = 63;
    CHECK(untouched(&other));
    other = *s;
    other.vlan = 6;
    CHECK(untouched(&other));
    other = *s;
    other.vlan2 = 6;
    other.vlan = s->vlan ? s->vlan : 5;
    CHECK(untouched(&other));
    other = *s;
    other.src_host++;
    CHECK(untouched(&other));
    other = *s;
    other.dst++;
    CHECK(untouched(&other));
    other = *s;
    if (s->ipv6) {
        other.ext = IPPROTO_FRAGMENT;
    } else {
        other.fragment = RTE_IPV4_HDR_MF_FLAG;
    }
    CHECK(untouched(&other));
    CHECK(!sent_by(&B));
    destroy(&A, flow);
    CHECK(untouched(s));
}

/* Finds a port that makes the right checksum of 'want' be 'checksum'. */
static void
find_checksum(struct spec *want, uint16_t checksum)
{
    for (int i = 1; i <= UINT16_MAX; i++) {
        struct rte_ipv4_hdr *ip;
        struct rte_mbuf *mbuf;
        uint16_t sum;
        uint8_t *l4;

        want->src = i;
        mbuf = build(want);
        ip = rte_pktmbuf_mtod_offset(mbuf, void *,
                                     sizeof(struct rte_ether_hdr));
        l4 = (uint8_t *) (ip + 1);
        sum = (want->protocol == IPPROTO_TCP
               ? ((struct rte_tcp_hdr *) l4)->cksum
               : ((struct rte_udp_hdr *) l4)->dgram_cksum);
        rte_pktmbuf_free(mbuf);
        if (sum == checksum) {
            return;
        }
    }
    CHECK(!"a port with this checksum");
}

static void
test_full_rules(void)
{
    static const struct {
        const char *name;
        bool sets, modifies;
    } profiles[] = {
        { "mlx5-hws", false, true },
        { "mlx5-sws", true, true },
        { "no-tcp-flags", true, false },
        { "generous", true, true },
    };

    CTL_OK("reset-counters");
    for (int i = 0; i < 16 * 4; i++) {
        struct spec s = {
            .ipv6 = i & 1, .protocol = i & 2 ? IPPROTO_TCP : IPPROTO_UDP,
            .vlan = i & 4 ? 5 : 0, .src_host = 1, .dst_host = 2,
            .src = 1000, .dst = 80, .length = 33, .ttl = 64,
            .flags = RTE_TCP_ACK_FLAG, .seq = 4711, .ack = 815,
            .window = 99,
        };
        struct spec want = s;

        if (!(i % 16)) {
            CTL_OK("set profile %s", profiles[i / 16].name);
            CTL_OK("set tcp-flags on");
            CTL_OK("set equal-rules refused");
        }
        want.vlan = i & 8 ? 5 << 13 | 77 : 0;
        want.src_host = 200;
        want.dst_host = 201;
        want.src = 40000;
        want.dst = 8080;
        want.ttl = 63;
        for (int modify = 0; modify < 2; modify++) {
            if (!(modify ? profiles[i / 16].modifies
                  : profiles[i / 16].sets)) {
                continue;
            }
            check_full_rule(&s, &want, modify);

            /* Checksums that come to 0: UDP has no such thing. */
            if (!(i & ~(2 | 48))) {
                struct spec zero = want;

                find_checksum(&zero, s.protocol == IPPROTO_TCP ? 0
                              : UINT16_MAX);
                check_full_rule(&s, &zero, modify);
            }
        }
    }
    CHECK_INT(report(A.id, "ambiguous"), 0);
    CHECK_INT(report(A.id, "overlap"), 0);
    CTL_OK("reset-counters");
}

static void
test_port_representor(void)
{
    struct rte_flow_item_ethdev from_b = { B.id };
    struct rte_flow_action_ethdev to_b = { B.id }, a = { A.id };
    struct rte_flow_action_ethdev b = { B.id }, any = { UINT16_MAX };
    struct rte_flow_action_ethdev *ways[] = { &a, &any };
    struct rule path = path_rule(NULL, &to_b), fence, ingress;
    struct rte_flow *flow, *dropping;

    CTL_OK("reset-counters");
    path.attr.priority = 1;
    CREATE(&A, &path);
    CHECK(forwards(&A, &B, &tcp_packet));
    for (int i = 0; i < 2; i++) {
        fence = path_rule(NULL, ways[i]);
        fence.actions[1].type = RTE_FLOW_ACTION_TYPE_PORT_REPRESENTOR;
        flow = CREATE(&A, &fence);
        CHECK(shown(A.id, i ? "port_representor id 65535 / end"
                    : "port_representor id 0 / end"));
        CHECK(to_software(&A, &tcp_packet));
        CHECK(!sent_by(&B));
        CHECK_INT(count(&A, flow), 1);

        /* As any packet that is received: there are ingress rules. */
        ingress = dropping_rule();
        dropping = CREATE(&A, &ingress);
        CHECK(!to_software(&A, &tcp_packet));
        CHECK_INT(count(&A, dropping), 1);
        CHECK_INT(count(&A, flow), 2);
        destroy(&A, dropping);
        destroy(&A, flow);
        CHECK(forwards(&A, &B, &tcp_packet));
    }

    /* On a proxy, the port is that of the packets. */
    fence.items[0].type = RTE_FLOW_ITEM_TYPE_REPRESENTED_PORT;
    fence.items[0].spec = &from_b;
    fence.items[1].type = RTE_FLOW_ITEM_TYPE_ETH;
    fence.actions[1].conf = &b;
    flow = CREATE(&A, &fence);
    CHECK(to_software(&B, &tcp_packet));
    CHECK_INT(count(&A, flow), 1);
    destroy(&A, flow);
    fence.actions[1].conf = &a;
    REFUSED(&A, &fence, EINVAL, "this port only");
    CTL_OK("set proxy first");
    fence = path_rule(NULL, &a);
    fence.actions[1].type = RTE_FLOW_ACTION_TYPE_PORT_REPRESENTOR;
    REFUSED(&A, &fence, EINVAL, "this port only");
    fence.actions[1].conf = &any;
    flow = CREATE(&A, &fence);
    CHECK(to_software(&B, &tcp_packet));
    CHECK(to_software(&A, &tcp_packet));
    destroy(&A, flow);
    CTL_OK("set proxy all");

    fence.attr = rule_in(0, 0).attr;
    REFUSED(&A, &fence, EINVAL, "transfer");
    fence.attr = transfer_rule().attr;
    ACTION(&fence, DROP, NULL);
    REFUSED(&A, &fence, EINVAL, "fate");
    fence.n_actions = 1;
    ACTION(&fence, PORT_REPRESENTOR, NULL);
    REFUSED(&A, &fence, EINVAL, "configuration");

    /* What kinds of NICs accept. */
    fence.n_actions = 1;
    ACTION(&fence, PORT_REPRESENTOR, &any);
    CTL_OK("set representor-any off");
    REFUSED(&A, &fence, ENOTSUP, "PORT_REPRESENTOR");
    fence.actions[1].conf = &a;
    flow = CREATE(&A, &fence);
    destroy(&A, flow);
    CTL_OK("set profile mlx5-hws");
    REFUSED(&A, &fence, ENOTSUP, "PORT_REPRESENTOR");
    fence.actions[1].conf = &any;
    flow = CREATE(&A, &fence);
    destroy(&A, flow);
    CTL_OK("set profile mlx5-sws");
    REFUSED(&A, &fence, ENOTSUP, "PORT_REPRESENTOR");
    fence.actions[1].conf = &a;
    REFUSED(&A, &fence, ENOTSUP, "PORT_REPRESENTOR");
    CTL_OK("set profile generous");
    flush();
}

static void
test_switch_domain(void)
{
    struct rte_flow_item_ethdev from_a = { A.id }, from_b = { B.id };
    struct rte_flow_action_ethdev to_b = { B.id };
    struct rte_flow_action_port_id id_b = { .id = B.id };
    struct rule rule = path_rule(&from_a, &to_b), any = path_rule(NULL, &to_b);
    struct rte_eth_dev_info info;

    CHECK_INT(rte_eth_dev_info_get(A.id, &info), 0);
    CHECK_INT(info.switch_info.domain_id, 0);
    CHECK_INT(info.switch_info.port_id, A.id);
    CTL_OK("set port %u switch-domain 7", B.id);
    CHECK_INT(rte_eth_dev_info_get(A.id, &info), 0);
    CHECK_INT(info.switch_info.domain_id, 0);
    CHECK_INT(rte_eth_dev_info_get(B.id, &info), 0);
    CHECK_INT(info.switch_info.domain_id, 7);
    CHECK(shown(B.id, "\"switch_domain\": 7"));
    REFUSED(&A, &rule, EINVAL, "not of this NIC");
    rule.actions[1].type = RTE_FLOW_ACTION_TYPE_PORT_ID;
    rule.actions[1].conf = &id_b;
    REFUSED(&A, &rule, EINVAL, "not of this NIC");
    rule = path_rule(&from_b, &to_b);
    REFUSED(&A, &rule, EINVAL, "no such port");
    CREATE(&B, &rule);
    CHECK(forwards(&B, &B, &tcp_packet));

    /* Each switch has its own proxy and its own rules for all ports. */
    CTL_OK("set proxy first");
    CHECK_INT(proxy_of(B.id), B.id);
    flush();
    CREATE(&B, &any);
    CHECK(forwards(&B, &B, &tcp_packet));
    CHECK(to_software(&A, &tcp_packet));
    CTL_OK("set proxy all");
    CTL_OK("set switch-domain 0");
    flush();
}

/* Tunnels. */

/* The outer headers of a packet. */
struct tunnel {
    bool ipv6, geneve;
    int vlan;                   /* 0 for none. */
    uint16_t src;               /* UDP. */
    uint32_t vni;
    uint8_t tos, ttl;
    uint16_t fragment;          /* IPv4: the field. */
    uint8_t options[64];        /* Geneve, as on the wire. */
    size_t n_options;           /* Bytes of them. */
    bool checksum;              /* UDP. */
};

/* As OVN has it, behind another. */
#define TWO_OPTIONS                                             \
    .options = { 0x01, 0x03, 0x10, 1, 9, 9, 9, 9,               \
                 0x01, 0x02, 0x80, 1, 0, 4, 0, 2 },             \
    .n_options = 16

/* The inner packet is to B, the outer one to another host. */
static const uint8_t mac_outer[6] = { 2, 0, 0, 0, 9, 9 };

static void
put16(uint8_t *p, uint16_t value)
{
    p[0] = value >> 8;
    p[1] = value;
}

static size_t
outer_l3(const struct tunnel *t)
{
    return sizeof(struct rte_ether_hdr) + (t->vlan ? 4 : 0);
}

static size_t
outer_l4(const struct tunnel *t)
{
    return outer_l3(t) + (t->ipv6 ? 40 : 20);
}

static size_t
outer_size(const struct tunnel *t)
{
    return outer_l4(t) + 8 + 8 + t->n_options;
}

/* Writes outer headers without lengths and checksums to 'p'. */
static void
put_outer(uint8_t *p, const struct tunnel *t)
{
    uint8_t *ip = p + outer_l3(t), *udp = p + outer_l4(t), *hdr = udp + 8;

    memset(p, 0, outer_size(t));
    memcpy(p, mac_outer, 6);
    memcpy(p + 6, mac_a, 6);
    if (t->vlan) {
        put16(p + 12, RTE_ETHER_TYPE_VLAN);
        put16(p + 14, t->vlan);
    }
    put16(ip - 2, t->ipv6 ? RTE_ETHER_TYPE_IPV6 : RTE_ETHER_TYPE_IPV4);
    if (t->ipv6) {
        put16(ip, 0x6000 | t->tos << 4);
        ip[6] = IPPROTO_UDP;
        ip[7] = t->ttl ? t->ttl : 64;
        ipv6_address(ip + 8, 101);
        ipv6_address(ip + 24, 102);
    } else {
        ip[0] = 0x45;
        ip[1] = t->tos;
        put16(ip + 6, t->fragment);
        ip[8] = t->ttl ? t->ttl : 64;
        ip[9] = IPPROTO_UDP;
        memcpy(ip + 12, (uint8_t[]) { 10, 0, 0, 101, 10, 0, 0, 102 }, 8);
    }
    put16(udp, t->src);
    put16(udp + 2, t->geneve ? 6081 : 4789);
    hdr[0] = t->geneve ? t->n_options / 4 : 0x08;
    put16(hdr + 2, t->geneve ? 0x6558 : 0);
    put16(hdr + 4, t->vni >> 8);
    hdr[6] = t->vni;
    memcpy(hdr + 8, t->options, t->n_options);
}

/* Sets the checksum of UDP in 'mbuf', or that of IPv4. */
static void
set_outer_checksum(struct rte_mbuf *mbuf, const struct tunnel *t, bool of_udp)
{
    uint8_t *p = rte_pktmbuf_mtod(mbuf, uint8_t *);
    void *ip = p + outer_l3(t), *udp = p + outer_l4(t);
    struct rte_udp_hdr *udp_hdr = udp;
    struct rte_ipv4_hdr *ipv4 = ip;

    if (of_udp) {
        udp_hdr->dgram_cksum = 0;
        udp_hdr->dgram_cksum = (t->ipv6 ? rte_ipv6_udptcp_cksum(ip, udp)
                                : rte_ipv4_udptcp_cksum(ip, udp));
    } else {
        ipv4->hdr_checksum = 0;
        ipv4->hdr_checksum = rte_ipv4_cksum(ipv4);
    }
}

/* Puts outer headers before 'mbuf', as software does. */
static struct rte_mbuf *
wrap(struct rte_mbuf *mbuf, const struct tunnel *t)
{
    uint8_t *p = (uint8_t *) rte_pktmbuf_prepend(mbuf, outer_size(t));
    size_t length;

    assert(p);
    put_outer(p, t);
    length = rte_pktmbuf_pkt_len(mbuf);
    put16(p + outer_l4(t) + 4, length - outer_l4(t));
    if (t->ipv6) {
        put16(p + outer_l3(t) + 4, length - outer_l4(t));
    } else {
        put16(p + outer_l3(t) + 2, length - outer_l3(t));
        set_outer_checksum(mbuf, t, false);
    }
    if (t->checksum) {
        set_outer_checksum(mbuf, t, true);
    }
    return mbuf;
}

static struct rte_mbuf *
build_tunnel(const struct tunnel *t, const struct spec *s)
{
    return wrap(build(s), t);
}

/* Lets A receive 'mbuf'.  Returns what software gets, or NULL. */
static struct rte_mbuf *
pass_mbuf(struct rte_mbuf *mbuf)
{
    struct rte_mbuf *out = NULL;

    assert(!rte_ring_enqueue(A.rx[0], mbuf));
    receive(&A, 0, &out);
    return out;
}

static bool
same_packet(struct rte_mbuf *a, struct rte_mbuf *b)
{
    return (a && b && rte_pktmbuf_pkt_len(a) == rte_pktmbuf_pkt_len(b)
            && !memcmp(rte_pktmbuf_mtod(a, void *),
                       rte_pktmbuf_mtod(b, void *), rte_pktmbuf_pkt_len(a)));
}

/* Checks that A's 'mbuf' gets to software, with every byte as it was, if 'to'
 * is NULL, or else that it leaves through B as 'want'.  Frees both. */
static void
tunnel_at(struct rte_mbuf *mbuf, struct rte_mbuf *want, int line)
{
    struct rte_mbuf *as_it_was = rte_pktmbuf_copy(mbuf, pool, 0, UINT32_MAX);
    struct rte_mbuf *software = pass_mbuf(mbuf), *sent = sent_by(&B);

    if (want) {
        check(!software, line, "tunnel", "seen by software");
        check(sent != NULL, line, "tunnel", "not sent");
        check(!sent || same_packet(sent, want), line, "tunnel",
              "wrong contents");
    } else {
        check(!sent, line, "tunnel", "sent");
        check(same_packet(software, as_it_was), line, "tunnel",
              "not seen by software as it was");
    }
    rte_pktmbuf_free(as_it_was);
    rte_pktmbuf_free(software);
    rte_pktmbuf_free(sent);
    rte_pktmbuf_free(want);
}
#define BECOMES(MBUF, WANT) tunnel_at(MBUF, WANT, __LINE__)
#define STAYS(MBUF) tunnel_at(MBUF, NULL, __LINE__)

/* A rule for a tunnel, and what it points to. */
struct tunnel_rule {
    struct rule rule;
    struct rte_flow_item_eth eth, eth_mask, in_eth, in_eth_mask;
    struct rte_flow_item_vlan vlan, in_vlan, vlan_mask;
    struct rte_flow_item_ipv4 ip4, ip4_mask, in_ip4, in_ip4_mask;
    struct rte_flow_item_ipv6 ip6, ip6_mask, in_ip6, in_ip6_mask;
    struct rte_flow_item_udp udp, udp_mask, in_udp, in_udp_mask;
    struct rte_flow_item_tcp in_tcp, in_tcp_mask;
    struct rte_flow_item_vxlan vxlan;
    struct rte_flow_item_geneve geneve, geneve_mask;
    struct rte_flow_item_geneve_opt opt[2], opt_mask;
    uint32_t data[2], data_mask;
    struct rte_flow_action_raw_decap decap;
    struct rte_flow_action_raw_encap encap;
    struct rte_flow_action_ethdev to;
    uint8_t bytes[128];
};

/* Indexes of items of a rule for a tunnel without VLAN tags. */
enum { I_ETH, I_IP, I_UDP, I_TUNNEL };

static void
tunnel_outer_pattern(struct tunnel_rule *r, const struct tunnel *t)
{
    r->eth.has_vlan = t->vlan != 0;
    r->eth_mask.has_vlan = 1;
    memcpy(&r->eth.hdr.dst_addr, mac_outer, 6);
    memset(&r->eth_mask.hdr.dst_addr, 0xff, 6);
    ITEM(&r->rule, ETH, &r->eth, &r->eth_mask);
    r->vlan_mask.hdr.vlan_tci = htons(0xfff);
    if (t->vlan) {
        r->vlan.hdr.vlan_tci = htons(t->vlan);
        ITEM(&r->rule, VLAN, &r->vlan, &r->vlan_mask);
    }
    if (t->ipv6) {
        ipv6_address((void *) &r->ip6.hdr.src_addr, 101);
        ipv6_address((void *) &r->ip6.hdr.dst_addr, 102);
        memset(&r->ip6_mask.hdr.src_addr, 0xff, 16);
        memset(&r->ip6_mask.hdr.dst_addr, 0xff, 16);
        r->ip6.hdr.vtc_flow = htonl(0x60000000 | t->tos << 20);
        r->ip6.hdr.proto = IPPROTO_UDP;
        r->ip6.hdr.hop_limits = 64;
        r->ip6_mask.hdr.vtc_flow = htonl(0x0ff00000);
        r->ip6_mask.hdr.proto = 0xff;
        r->ip6_mask.hdr.hop_limits = 0xff;
        ITEM(&r->rule, IPV6, &r->ip6, &r->ip6_mask);
    } else {
        r->ip4.hdr.src_addr = htonl(0x0a000065);
        r->ip4.hdr.dst_addr = htonl(0x0a000066);
        r->ip4.hdr.type_of_service = t->tos;
        r->ip4.hdr.time_to_live = 64;
        r->ip4.hdr.next_proto_id = IPPROTO_UDP;
        r->ip4.hdr.fragment_offset = htons(t->fragment);
        r->ip4_mask.hdr.src_addr = r->ip4_mask.hdr.dst_addr = UINT32_MAX;
        r->ip4_mask.hdr.type_of_service = 0xff;
        r->ip4_mask.hdr.time_to_live = 0xff;
        r->ip4_mask.hdr.next_proto_id = 0xff;
        r->ip4_mask.hdr.fragment_offset = UINT16_MAX;
        ITEM(&r->rule, IPV4, &r->ip4, &r->ip4_mask);
    }
    r->udp.hdr.dst_port = htons(t->geneve ? 6081 : 4789);
    r->udp_mask.hdr.dst_port = UINT16_MAX;
    ITEM(&r->rule, UDP, &r->udp, &r->udp_mask);
    if (!t->geneve) {
        r->vxlan.hdr.vx_vni = htonl(t->vni << 8);
        ITEM(&r->rule, VXLAN, &r->vxlan, NULL);
        return;
    }
    r->geneve.ver_opt_len_o_c_rsvd0 = htons(t->n_options / 4 << 8);
    r->geneve.protocol = htons(0x6558);
    memcpy(r->geneve.vni, (uint8_t[]) { t->vni >> 16, t->vni >> 8, t->vni },
           3);
    r->geneve_mask.ver_opt_len_o_c_rsvd0 = htons(0x3f00);
    r->geneve_mask.protocol = UINT16_MAX;
    memset(r->geneve_mask.vni, 0xff, 3);
    ITEM(&r->rule, GENEVE, &r->geneve, &r->geneve_mask);
    if (t->n_options) {
        /* The last one. */
        const uint8_t *option = &t->options[t->n_options - 8];

        memcpy(&r->opt[0].option_class, option, 2);
        memcpy(&r->data[0], option + 4, 4);
        r->opt[0].option_type = option[2];
        r->opt[0].option_len = 1;
        r->opt[0].data = &r->data[0];
        r->opt_mask.option_class = UINT16_MAX;
        r->opt_mask.option_type = UINT8_MAX;
        r->opt_mask.option_len = 0x1f;
        r->opt_mask.data = &r->data_mask;
        r->data_mask = UINT32_MAX;
        ITEM(&r->rule, GENEVE_OPT, &r->opt[0], &r->opt_mask);
    }
}

static void
tunnel_inner_pattern(struct tunnel_rule *r, const struct spec *s)
{
    r->in_eth.has_vlan = s->vlan != 0;
    r->in_eth_mask.has_vlan = 1;
    ITEM(&r->rule, ETH, &r->in_eth, &r->in_eth_mask);
    if (s->vlan) {
        r->in_vlan.hdr.vlan_tci = htons(s->vlan);
        ITEM(&r->rule, VLAN, &r->in_vlan, &r->vlan_mask);
    }
    if (s->ipv6) {
        ipv6_address((void *) &r->in_ip6.hdr.src_addr, s->src_host);
        memset(&r->in_ip6_mask.hdr.src_addr, 0xff, 16);
        r->in_ip6_mask.has_frag_ext = 1;
        ITEM(&r->rule, IPV6, &r->in_ip6, &r->in_ip6_mask);
    } else {
        r->in_ip4.hdr.src_addr = htonl(0x0a000000 | s->src_host);
        r->in_ip4_mask.hdr.src_addr = UINT32_MAX;
        r->in_ip4_mask.hdr.fragment_offset = htons(0x3fff);
        ITEM(&r->rule, IPV4, &r->in_ip4, &r->in_ip4_mask);
    }
    if (s->protocol == IPPROTO_TCP) {
        r->in_tcp.hdr.dst_port = htons(s->dst);
        r->in_tcp_mask.hdr.dst_port = UINT16_MAX;
        r->in_tcp_mask.hdr.tcp_flags = SYN_FIN_RST;
        ITEM(&r->rule, TCP, &r->in_tcp, &r->in_tcp_mask);
    } else {
        r->in_udp.hdr.dst_port = htons(s->dst);
        r->in_udp_mask.hdr.dst_port = UINT16_MAX;
        ITEM(&r->rule, UDP, &r->in_udp, &r->in_udp_mask);
    }
}

/* Leaves the first 'n' items, or 'n' actions, of a rule. */
static void
cut_items(struct rule *rule, size_t n)
{
    rule->n_items = n;
    rule->items[n].type = RTE_FLOW_ITEM_TYPE_END;
}

static void
cut_actions(struct rule *rule, size_t n)
{
    rule->n_actions = n;
    rule->actions[n].type = RTE_FLOW_ACTION_TYPE_END;
}

/* Initialises '*r' to match what is in a tunnel, and no actions. */
static void
tunnel_pattern(struct tunnel_rule *r, const struct tunnel *t,
               const struct spec *s)
{
    memset(r, 0, sizeof *r);
    r->rule = transfer_rule();
    r->to.port_id = B.id;
    put_outer(r->bytes, t);
    r->decap.data = r->bytes;
    r->decap.size = outer_size(t);
    r->encap.data = r->bytes;
    r->encap.size = outer_size(t);
    tunnel_outer_pattern(r, t);
    if (s) {
        tunnel_inner_pattern(r, s);
    }
}

/* The same, with a decapsulation, COUNT, and B. */
static void
decap_rule(struct tunnel_rule *r, const struct tunnel *t,
           const struct spec *s, bool raw)
{
    tunnel_pattern(r, t, s);
    add_action(&r->rule, raw ? RTE_FLOW_ACTION_TYPE_RAW_DECAP
               : RTE_FLOW_ACTION_TYPE_VXLAN_DECAP, raw ? &r->decap : NULL);
    ACTION(&r->rule, COUNT, NULL);
    ACTION(&r->rule, REPRESENTED_PORT, &r->to);
}

/* Calls 'func' for each kind of tunnel, with and without a VLAN tag. */
static void
for_tunnels(void (*func)(const struct tunnel *))
{
    for (int i = 0; i < 8; i++) {
        struct tunnel t = {
            .ipv6 = i & 1, .vlan = i & 2 ? 7 : 0, .vni = 0x123456,
            .src = 50000, .tos = 0x28,
        };
        struct tunnel geneve = {
            .ipv6 = i & 1, .vlan = i & 2 ? 7 : 0, .vni = 0x123456,
            .src = 50000, .tos = 0x28, .geneve = true, TWO_OPTIONS,
        };

        func(i & 4 ? &geneve : &t);
    }
}

static const struct spec udp_packet = {
    .protocol = IPPROTO_UDP, .src_host = 1, .dst_host = 2, .src = 1000,
    .dst = 80, .length = 33,
};

static void
check_decap(const struct tunnel *t)
{
    for (int i = 0; i < 8; i++) {
        struct spec s = {
            .ipv6 = i & 1, .protocol = i & 2 ? IPPROTO_TCP : IPPROTO_UDP,
            .vlan = i & 4 ? 5 : 0, .src_host = 1, .dst_host = 2,
            .src = 1000, .dst = 80, .length = 50, .flags = RTE_TCP_ACK_FLAG,
        };
        struct tunnel with_sum = *t;
        struct rte_flow_query_count query = { .reset = 0 };
        struct rte_flow_action count_action = {
            .type = RTE_FLOW_ACTION_TYPE_COUNT,
        };
        bool raw = t->geneve || i & 1;
        struct tunnel_rule r;
        struct rte_flow *flow;
        struct rte_mbuf *want = build(&s);
        size_t length = rte_pktmbuf_pkt_len(want);

        decap_rule(&r, t, &s, raw);
        flow = CREATE(&A, &r.rule);
        REFUSED(&A, &r.rule, EEXIST, "exists");
        BECOMES(build_tunnel(t, &s), want);
        with_sum.checksum = true;
        with_sum.src = 40000;
        BECOMES(build_tunnel(&with_sum, &s), build(&s));

        /* A packet is counted with the length it has then, and the rule with
         * the one that it came with. */
        CHECK_INT(rte_flow_query(A.id, flow, &count_action, &query, NULL), 0);
        CHECK_INT(query.hits, 2);
        CHECK_INT(query.bytes, 2 * length);
        CHECK_INT(report(A.id, "bytes"), 2 * (length + outer_size(t)));

        /* What is in the tunnel is something else, or not a tunnel. */
#define DIFFERS(FIELD, VALUE)                   \
        do {                                    \
            struct spec other_ = s;             \
                                                \
            other_.FIELD = VALUE;               \
            STAYS(build_tunnel(t, &other_));    \
        } while (0)
        DIFFERS(src_host, 3);
        DIFFERS(dst, 81);
        DIFFERS(vlan, 6);
        DIFFERS(ipv6, !s.ipv6);
        DIFFERS(protocol, i & 2 ? IPPROTO_UDP : IPPROTO_TCP);
        if (s.protocol == IPPROTO_TCP) {
            DIFFERS(flags, RTE_TCP_FIN_FLAG | RTE_TCP_ACK_FLAG);
        }
        if (s.ipv6) {
            DIFFERS(ext, IPPROTO_FRAGMENT);
        } else {
            DIFFERS(fragment, RTE_IPV4_HDR_MF_FLAG);
        }
        STAYS(build(&s));
        destroy(&A, flow);
        STAYS(build_tunnel(t, &s));
    }
}

static void
test_decap(void)
{
    static const char *const profiles[] = { "mlx5-sws", "mlx5-hws",
                                            "no-tcp-flags", "generous" };

    CTL_OK("reset-counters");
    for (size_t i = 0; i < ARRAY_SIZE(profiles); i++) {
        CTL_OK("set profile %s", profiles[i]);
        CTL_OK("set tcp-flags on");
        CTL_OK("set equal-rules refused");
        for_tunnels(check_decap);
    }
    CHECK_INT(report(A.id, "ambiguous"), 0);
    CHECK_INT(report(A.id, "decap_size"), 0);
    CTL_OK("reset-counters");
    CTL_OK("set profile generous");
}

/* Packets whose outer headers are not those of the rule, or wrong. */
static void
check_outer_headers(const struct tunnel *t)
{
    size_t l3 = outer_l3(t), l4 = outer_l4(t);
    struct tunnel_rule r;
    struct tunnel other;
    struct rte_mbuf *mbuf;

    decap_rule(&r, t, &udp_packet, true);
    CREATE(&A, &r.rule);
#define OUTER_DIFFERS(FIELD, VALUE)                     \
    do {                                                \
        other = *t;                                     \
        other.FIELD = VALUE;                            \
        STAYS(build_tunnel(&other, &udp_packet));       \
    } while (0)
    OUTER_DIFFERS(vni, t->vni ^ 0x010000);
    OUTER_DIFFERS(vni, t->vni ^ 1);
    OUTER_DIFFERS(vlan, t->vlan ? 0 : 9);
    OUTER_DIFFERS(ipv6, !t->ipv6);
    OUTER_DIFFERS(tos, t->tos ^ 4);
    OUTER_DIFFERS(ttl, 63);
    OUTER_DIFFERS(geneve, !t->geneve);
    if (!t->ipv6) {
        OUTER_DIFFERS(fragment, RTE_IPV4_HDR_DF_FLAG);
    }

    /* Bytes that are other ones: in the MAC and IP addresses and the ports. */
#define BYTE_DIFFERS(AT, XOR)                                           \
    do {                                                                \
        mbuf = build_tunnel(t, &udp_packet);                            \
        rte_pktmbuf_mtod(mbuf, uint8_t *)[AT] ^= XOR;                   \
        if (!t->ipv6) {                                                 \
            set_outer_checksum(mbuf, t, false);                         \
        }                                                               \
        STAYS(mbuf);                                                    \
    } while (0)
    BYTE_DIFFERS(5, 1);
    BYTE_DIFFERS(l4 - 1, 1);
    BYTE_DIFFERS(l4 + 3, 1);

    /* Not a tunnel: the I flag, or the version and the protocol. */
    if (t->geneve) {
        BYTE_DIFFERS(l4 + 8, 0x40);
        BYTE_DIFFERS(l4 + 11, 1);

        /* Options that do not fit. */
        BYTE_DIFFERS(l4 + 8 + 8 + 8 + 3, 2);
        BYTE_DIFFERS(l4 + 8, 0x20);
    } else {
        BYTE_DIFFERS(l4 + 8, 0x08);
    }

    /* Lengths. */
    BYTE_DIFFERS(l4 + 4 + 1, 1);
    BYTE_DIFFERS(l3 + (t->ipv6 ? 4 : 2) + 1, 1);

    /* Checksums. */
    mbuf = build_tunnel(t, &udp_packet);
    rte_pktmbuf_mtod(mbuf, uint8_t *)[l4 + 7] = 1;
    STAYS(mbuf);
    other = *t;
    other.checksum = true;
    mbuf = build_tunnel(&other, &udp_packet);
    rte_pktmbuf_mtod(mbuf, uint8_t *)[outer_size(t) + 60] ^= 1;
    STAYS(mbuf);
    if (!t->ipv6) {
        mbuf = build_tunnel(t, &udp_packet);
        rte_pktmbuf_mtod(mbuf, uint8_t *)[l3 + 10] ^= 1;
        STAYS(mbuf);
    }

    /* Packets that are cut off. */
    for (uint16_t n = 1; n < outer_size(t) + 60; n++) {
        mbuf = build_tunnel(t, &udp_packet);
        rte_pktmbuf_trim(mbuf, rte_pktmbuf_pkt_len(mbuf) - n);
        STAYS(mbuf);
    }

    /* The lengths fit, but what is in the tunnel is cut off. */
    for (uint16_t n = 0; n < 14 + 20 + 8; n++) {
        mbuf = build(&udp_packet);
        rte_pktmbuf_trim(mbuf, rte_pktmbuf_pkt_len(mbuf) - n);
        STAYS(wrap(mbuf, t));
    }
    BECOMES(build_tunnel(t, &udp_packet), build(&udp_packet));
    flush();
}

static void
test_outer_headers(void)
{
    struct tunnel t = { .vni = 5, .src = 50000 };
    struct rte_mbuf *mbuf, *want;
    struct rte_ipv4_hdr *ip;
    struct tunnel_rule r;
    uint8_t *p;

    CTL_OK("reset-counters");
    for_tunnels(check_outer_headers);
    CHECK_INT(report(A.id, "decap_size"), 0);

    /* That there is no UDP checksum can be matched. */
    t.checksum = true;
    decap_rule(&r, &t, &udp_packet, false);
    r.udp_mask.hdr.dgram_cksum = UINT16_MAX;
    CTL_OK("set profile mlx5-sws");
    CREATE(&A, &r.rule);
    STAYS(build_tunnel(&t, &udp_packet));
    t.checksum = false;
    BECOMES(build_tunnel(&t, &udp_packet), build(&udp_packet));
    flush();

    /* More of a frame than its lengths say is a part of what is inside. */
    decap_rule(&r, &t, &udp_packet, false);
    CREATE(&A, &r.rule);
    mbuf = build_tunnel(&t, &udp_packet);
    want = build(&udp_packet);
    memset(rte_pktmbuf_append(mbuf, 3), 0, 3);
    memset(rte_pktmbuf_append(want, 3), 0, 3);
    BECOMES(mbuf, want);
    flush();

    /* Headers that the pattern does not describe. */
    decap_rule(&r, &t, NULL, true);
    r.eth_mask.has_vlan = 0;
    CREATE(&A, &r.rule);
    t.vlan = 4;
    STAYS(build_tunnel(&t, &udp_packet));
    CHECK_INT(report(A.id, "decap_size"), 1);
    CHECK_INT(report(A.id, "hits"), 0);
    t.vlan = 0;
    BECOMES(build_tunnel(&t, &udp_packet), build(&udp_packet));
    flush();
    CTL_OK("set profile generous");

    /* IPv4 options: a word of them. */
    decap_rule(&r, &t, NULL, false);
    CREATE(&A, &r.rule);
    mbuf = build_tunnel(&t, &udp_packet);
    p = (uint8_t *) rte_pktmbuf_prepend(mbuf, 4);
    memmove(p, p + 4, outer_l4(&t));
    ip = (void *) (p + outer_l3(&t));
    memset(ip + 1, 1, 4);
    ip->version_ihl = 0x46;
    ip->total_length = htons(ntohs(ip->total_length) + 4);
    ip->hdr_checksum = 0;
    ip->hdr_checksum = ~rte_raw_cksum(ip, 24);
    BECOMES(mbuf, build(&udp_packet));
    flush();
    CTL_OK("reset-counters");
}

static void
test_geneve_options(void)
{
    struct tunnel t = { .vni = 5, .geneve = true, TWO_OPTIONS };
    struct tunnel other, none = { .vni = 5, .geneve = true };
    struct rte_flow *first, *second;
    struct tunnel_rule r;

    CTL_OK("reset-counters");
    decap_rule(&r, &t, &udp_packet, true);
    first = CREATE(&A, &r.rule);
    BECOMES(build_tunnel(&t, &udp_packet), build(&udp_packet));

    /* Wherever it is. */
    other = t;
    memcpy(other.options, t.options + 8, 8);
    memcpy(other.options + 8, t.options, 8);
    BECOMES(build_tunnel(&other, &udp_packet), build(&udp_packet));

    /* Each part of it, and its length. */
    for (int i = 8; i < 16; i++) {
        if (i != 8 + 3) {
            other = t;
            other.options[i] ^= 1;
            STAYS(build_tunnel(&other, &udp_packet));
        }
    }
    other = t;
    other.options[3] = 0;
    memcpy(other.options + 4, t.options + 8, 8);
    other.options[7] = 2;
    STAYS(build_tunnel(&other, &udp_packet));
    other.options[7] = 1;
    other.options[15] = 0;
    BECOMES(build_tunnel(&other, &udp_packet), build(&udp_packet));
    other = t;
    other.options[8 + 3] = 0xe1;
    BECOMES(build_tunnel(&other, &udp_packet), build(&udp_packet));

    /* The length of all options together. */
    other = t;
    memcpy(other.options, t.options + 8, 8);
    other.n_options = 8;
    STAYS(build_tunnel(&other, &udp_packet));
    STAYS(build_tunnel(&none, &udp_packet));

    /* The same pattern with another value is another match. */
    REFUSED(&A, &r.rule, EEXIST, "exists");
    r.data[0] = htonl(0x00040003);
    second = CREATE(&A, &r.rule);
    BECOMES(build_tunnel(&t, &udp_packet), build(&udp_packet));
    CHECK_INT(count(&A, first), 5);
    CHECK_INT(count(&A, second), 0);
    other = t;
    other.options[15] = 3;
    BECOMES(build_tunnel(&other, &udp_packet), build(&udp_packet));
    CHECK_INT(count(&A, second), 1);
    CHECK_INT(report(A.id, "ambiguous"), 0);
    flush();

    /* Both options, in the other order, as a whole or in part. */
    decap_rule(&r, &t, NULL, true);
    r.rule.items[r.rule.n_items].type = RTE_FLOW_ITEM_TYPE_GENEVE_OPT;
    memcpy(&r.opt[1].option_class, t.options, 2);
    memcpy(&r.data[1], t.options + 4, 4);
    r.opt[1].option_type = t.options[2];
    r.opt[1].option_len = 1;
    r.opt[1].data = &r.data[1];
    ITEM(&r.rule, GENEVE_OPT, &r.opt[1], &r.opt_mask);
    CTL_OK("set profile mlx5-hws");
    CREATE(&A, &r.rule);
    BECOMES(build_tunnel(&t, &udp_packet), build(&udp_packet));
    other = t;
    other.options[7] ^= 1;
    STAYS(build_tunnel(&other, &udp_packet));
    flush();
    r.data_mask = htonl(0xffff0000);
    CREATE(&A, &r.rule);
    BECOMES(build_tunnel(&other, &udp_packet), build(&udp_packet));
    other.options[5] ^= 1;
    STAYS(build_tunnel(&other, &udp_packet));
    flush();
    r.opt_mask.data = NULL;
    CREATE(&A, &r.rule);
    BECOMES(build_tunnel(&other, &udp_packet), build(&udp_packet));
    other.options[2] ^= 1;
    STAYS(build_tunnel(&other, &udp_packet));
    flush();
    CTL_OK("set profile generous");

    /* More data than there are: the next option is not a part of them. */
    decap_rule(&r, &t, NULL, true);
    memcpy(&r.opt[0].option_class, t.options, 2);
    memcpy(r.data, t.options + 4, 8);
    r.opt[0].option_type = t.options[2];
    r.opt[0].option_len = 2;
    r.opt_mask.option_len = 0;
    r.opt_mask.data = (uint32_t[2]) { UINT32_MAX, UINT32_MAX };
    CREATE(&A, &r.rule);
    STAYS(build_tunnel(&t, &udp_packet));
    flush();
    r.opt_mask.data = (uint32_t[2]) { UINT32_MAX, 0 };
    CREATE(&A, &r.rule);
    BECOMES(build_tunnel(&t, &udp_packet), build(&udp_packet));
    flush();

    /* Without a match on their length, options may be too many. */
    decap_rule(&r, &t, NULL, true);
    r.geneve_mask.ver_opt_len_o_c_rsvd0 = 0;
    CREATE(&A, &r.rule);
    BECOMES(build_tunnel(&t, &udp_packet), build(&udp_packet));
    other = t;
    memcpy(other.options, t.options + 8, 8);
    other.n_options = 8;
    CHECK_INT(report(A.id, "decap_size"), 0);
    STAYS(build_tunnel(&other, &udp_packet));
    CHECK_INT(report(A.id, "decap_size"), 1);
    flush();

    /* What is in the tunnel is not a frame. */
    decap_rule(&r, &none, NULL, true);
    r.geneve_mask.protocol = 0;
    CREATE(&A, &r.rule);
    {
        struct rte_mbuf *mbuf = build_tunnel(&none, &udp_packet);

        put16(rte_pktmbuf_mtod_offset(mbuf, uint8_t *, outer_l4(&t) + 10),
              RTE_ETHER_TYPE_IPV4);
        STAYS(mbuf);
    }
    flush();
    CTL_OK("reset-counters");
}

/* Says whether a rule for a tunnel, whatever it is of, takes a UDP packet with
 * 'size' bytes of 'payload' and zeros behind, where lengths say that there are
 * 'n' bytes of it, or less than a UDP header if 'n' is negative. */
static bool
is_tunnel(bool geneve, const uint8_t *payload, size_t size, int n)
{
    struct spec s = {
        .protocol = IPPROTO_UDP, .dst = geneve ? 6081 : 4789,
    };
    struct rte_mbuf *mbuf = build(&s), *sent;
    struct rule rule = transfer_rule();
    uint8_t *ip = rte_pktmbuf_mtod_offset(mbuf, uint8_t *, 14);

    put16(ip + 2, 20 + 8 + n);
    put16(ip + 20 + 4, 8 + n);
    put16(ip + 20 + 6, 0);
    set_outer_checksum(mbuf, &(struct tunnel) { .vlan = 0 }, false);
    memset(rte_pktmbuf_append(mbuf, 64), 0, 64);
    memcpy(ip + 20 + 8, payload, size);
    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, IPV4, NULL, NULL);
    ITEM(&rule, UDP, NULL, NULL);
    add_item(&rule, geneve ? RTE_FLOW_ITEM_TYPE_GENEVE
             : RTE_FLOW_ITEM_TYPE_VXLAN, NULL, NULL, NULL);
    ACTION(&rule, REPRESENTED_PORT,
           &(struct rte_flow_action_ethdev) { B.id });
    CREATE(&A, &rule);
    rte_pktmbuf_free(pass_mbuf(mbuf));
    sent = sent_by(&B);
    rte_pktmbuf_free(sent);
    flush();
    return sent != NULL;
}

static void
test_tunnel_headers(void)
{
    static const uint8_t vxlan[8] = { 0x08 };
    uint8_t geneve[20] = { 3, 0, 0x65, 0x58, [8 + 3] = 1, [16 + 3] = 0 };

    for (int n = -8; n < 10; n++) {
        CHECK_INT(is_tunnel(false, vxlan, 8, n), n >= 8);
    }
    CHECK(!is_tunnel(false, (uint8_t[8]) { 0xf7 }, 8, 8));
    CHECK(!is_tunnel(true, vxlan, 8, 8));
    for (int n = -8; n <= 20; n++) {
        CHECK_INT(is_tunnel(true, geneve, 20, n), n == 20);
    }
    CHECK(!is_tunnel(false, geneve, 20, 20));

    /* The last option is longer than all of them together. */
    geneve[16 + 3] = 1;
    CHECK(!is_tunnel(true, geneve, 20, 20));
    geneve[16 + 3] = 0;
    geneve[8 + 3] = 2;
    CHECK(is_tunnel(true, geneve, 20, 20));
    geneve[8 + 3] = 3;
    CHECK(!is_tunnel(true, geneve, 20, 20));
    geneve[8 + 3] = 2;
    geneve[0] |= 0x40;
    CHECK(!is_tunnel(true, geneve, 20, 20));
    geneve[0] = 3;

    /* What is in it need not be a frame. */
    geneve[2] = RTE_ETHER_TYPE_IPV4 >> 8;
    geneve[3] = 0;
    CHECK(is_tunnel(true, geneve, 20, 20));
}

/* Sets the items of a VXLAN_ENCAP to what is in 'bytes'. */
static void
encap_items(struct rte_flow_item items[6], uint8_t *bytes,
            const struct tunnel *t)
{
    struct rte_flow_item *item = items;

    *item++ = (struct rte_flow_item) {
        .type = RTE_FLOW_ITEM_TYPE_ETH, .spec = bytes,
    };
    if (t->vlan) {
        *item++ = (struct rte_flow_item) {
            .type = RTE_FLOW_ITEM_TYPE_VLAN, .spec = bytes + 14,
        };
    }
    *item++ = (struct rte_flow_item) {
        .type = (t->ipv6 ? RTE_FLOW_ITEM_TYPE_IPV6
                 : RTE_FLOW_ITEM_TYPE_IPV4),
        .spec = bytes + outer_l3(t),
    };
    *item++ = (struct rte_flow_item) {
        .type = RTE_FLOW_ITEM_TYPE_UDP, .spec = bytes + outer_l4(t),
    };
    *item++ = (struct rte_flow_item) {
        .type = RTE_FLOW_ITEM_TYPE_VXLAN, .spec = bytes + outer_l4(t) + 8,
    };
    *item = (struct rte_flow_item) { .type = RTE_FLOW_ITEM_TYPE_END };
}

/* Says whether the outer checksum of 'mbuf' is right: the sum of an IPv4
 * header with its checksum is 0. */
static bool
outer_checksum_ok(struct rte_mbuf *mbuf, const struct tunnel *t)
{
    uint8_t *p = rte_pktmbuf_mtod(mbuf, uint8_t *) + outer_l3(t);
    uint32_t sum = 0;

    for (int i = 0; i < 20; i += 2) {
        sum += p[i] << 8 | p[i + 1];
    }
    return t->ipv6 || (sum & 0xffff) + (sum >> 16) == 0xffff;
}

static void
check_encap(const struct tunnel *t)
{
    for (int i = 0; i < 8; i++) {
        struct spec s = {
            .ipv6 = i & 1, .protocol = i & 2 ? IPPROTO_TCP : IPPROTO_UDP,
            .src_host = 1, .dst_host = 2, .src = 1000, .dst = 80,
            .length = 50, .flags = RTE_TCP_ACK_FLAG, .ttl = 64,
        };
        struct rte_flow_query_count query = { .reset = 0 };
        struct rte_flow_action count_action = {
            .type = RTE_FLOW_ACTION_TYPE_COUNT,
        };
        struct rte_flow_item items[6];
        struct rte_flow_action_vxlan_encap vxlan = { items };
        struct full_rule f = { .rule = transfer_rule() };
        bool raw = t->geneve || i & 4;
        struct spec want = s;
        struct rte_mbuf *mbuf;
        struct tunnel_rule r;
        struct rte_flow *flow;
        size_t length;

        /* The wrapped packet is what it is without a tunnel. */
        want.src_host = 200;
        want.dst_host = 201;
        want.src = 40000;
        want.dst = 8080;
        want.ttl = 63;
        tunnel_pattern(&r, t, NULL);
        full_pattern(&f, &s);
        full_actions(&f, &s, &want, i & 1);
        f.rule.n_actions--;

        /* Lengths and the checksum of IPv4, which are not used. */
        put16(r.bytes + outer_l3(t) + (t->ipv6 ? 4 : 2), 77);
        put16(r.bytes + outer_l4(t) + 4, 88);
        if (!t->ipv6) {
            put16(r.bytes + outer_l3(t) + 10, 99);
        }
        encap_items(items, r.bytes, t);
        add_action(&f.rule, raw ? RTE_FLOW_ACTION_TYPE_RAW_ENCAP
                   : RTE_FLOW_ACTION_TYPE_VXLAN_ENCAP,
                   raw ? (const void *) &r.encap : &vxlan);
        ACTION(&f.rule, REPRESENTED_PORT, &f.to);
        flow = CREATE(&A, &f.rule);

        /* Nothing of the application's memory is needed any more. */
        memset(r.bytes, 0xff, sizeof r.bytes);
        memset(items, 0xff, sizeof items);

        mbuf = build(&want);
        length = rte_pktmbuf_pkt_len(mbuf);
        memset(rte_pktmbuf_mtod_offset(mbuf, uint8_t *, 0), 8, 6);
        memset(rte_pktmbuf_mtod_offset(mbuf, uint8_t *, 6), 6, 6);
        CHECK(checksums_ok(mbuf));
        rte_pktmbuf_free(mbuf);
        mbuf = build(&want);
        memset(rte_pktmbuf_mtod_offset(mbuf, uint8_t *, 0), 8, 6);
        memset(rte_pktmbuf_mtod_offset(mbuf, uint8_t *, 6), 6, 6);
        wrap(mbuf, t);
        CHECK(outer_checksum_ok(mbuf, t));
        BECOMES(build(&s), mbuf);
        CHECK_INT(rte_flow_query(A.id, flow, &count_action, &query, NULL), 0);
        CHECK_INT(query.hits, 1);
        CHECK_INT(query.bytes, length);
        destroy(&A, flow);
    }
}

/* From one tunnel to another, with a change of what is inside. */
static void
check_tunnel_to_tunnel(const struct tunnel *t)
{
    struct tunnel to = {
        .ipv6 = !t->ipv6, .geneve = !t->geneve, .vni = 77, .src = 4,
    };
    struct rte_flow_action_set_ipv4 ip4 = { htonl(0x0a000009) };
    struct rte_flow_action_set_tp port = { htons(4242) };
    struct rte_flow_action_set_ttl ttl = { 9 };
    struct spec s = udp_packet, want;
    struct tunnel_rule r;
    uint8_t bytes[128];

    s.vlan = 5;
    want = s;
    want.src_host = 9;
    want.dst = 4242;
    want.ttl = 9;
    want.vlan = 0;
    tunnel_pattern(&r, t, &s);
    put_outer(bytes, &to);
    r.encap.data = bytes;
    r.encap.size = outer_size(&to);
    ACTION(&r.rule, RAW_DECAP, &r.decap);
    ACTION(&r.rule, OF_POP_VLAN, NULL);
    ACTION(&r.rule, COUNT, NULL);
    ACTION(&r.rule, SET_IPV4_SRC, &ip4);
    ACTION(&r.rule, SET_TP_DST, &port);
    ACTION(&r.rule, SET_TTL, &ttl);
    ACTION(&r.rule, RAW_ENCAP, &r.encap);
    ACTION(&r.rule, REPRESENTED_PORT, &r.to);
    CREATE(&A, &r.rule);
    for (int i = 0; i < 2; i++) {
        struct tunnel from = *t;

        from.checksum = i;
        BECOMES(build_tunnel(&from, &s), build_tunnel(&to, &want));
    }
    flush();
}

static void
test_encap(void)
{
    struct tunnel t = { .vni = 5 };
    struct tunnel_rule r;
    struct rte_mbuf *mbuf;

    for_tunnels(check_encap);
    for_tunnels(check_tunnel_to_tunnel);

    /* No room for the headers: there is no packet to send. */
    CTL_OK("reset-counters");
    tunnel_pattern(&r, &t, NULL);
    cut_items(&r.rule, 0);
    ITEM(&r.rule, ETH, NULL, NULL);
    ACTION(&r.rule, RAW_ENCAP, &r.encap);
    ACTION(&r.rule, REPRESENTED_PORT, &r.to);
    CREATE(&A, &r.rule);
    mbuf = build(&udp_packet);
    memset(rte_pktmbuf_prepend(mbuf, rte_pktmbuf_headroom(mbuf) - 49), 0,
           14);
    CHECK(!pass_mbuf(mbuf));
    CHECK(!sent_by(&B));
    CHECK_INT(report(A.id, "dropped"), 1);
    flush();
    CTL_OK("reset-counters");
}

/* After a JUMP, rules see what was in the tunnel. */
static void
test_tunnel_jump(void)
{
    struct rte_flow_action_jump jump = { 2 };
    struct tunnel t = { .vni = 5 };
    struct tunnel_rule r;
    struct rule rule;

    tunnel_pattern(&r, &t, NULL);
    ACTION(&r.rule, COUNT, NULL);
    ACTION(&r.rule, VXLAN_DECAP, NULL);
    ACTION(&r.rule, JUMP, &jump);
    CREATE(&A, &r.rule);
    rule = path_rule(NULL, &r.to);
    rule.attr.group = 2;
    CREATE(&A, &rule);
    BECOMES(build_tunnel(&t, &udp_packet), build(&udp_packet));
    STAYS(build(&udp_packet));
    flush();
}

static void
test_tunnel_item_errors(void)
{
    struct tunnel t = { .vni = 5, .geneve = true, TWO_OPTIONS };
    struct rte_flow_item_geneve_opt opt = { .option_len = 1 };
    struct rte_flow_item_geneve_opt opt_mask = { .option_type = 0xff };
    struct rte_flow_item_vxlan flags = { .hdr.vx_flags = htonl(0x08000000) };
    struct tunnel_rule r;
    uint32_t zero = 0;

#define RESET_TUNNEL()                                          \
    do {                                                        \
        decap_rule(&r, &t, NULL, true);                         \
        cut_items(&r.rule, r.rule.n_items - 1); /* GENEVE_OPT. */ \
        cut_actions(&r.rule, 0);                                \
        ACTION(&r.rule, DROP, NULL);                            \
    } while (0)
    RESET_TUNNEL();
    r.rule.attr.ingress = 1;
    r.rule.attr.transfer = 0;
    REFUSED(&A, &r.rule, ENOTSUP, "tunnels are for transfer");
    RESET_TUNNEL();
    ITEM(&r.rule, VXLAN, NULL, NULL);
    REFUSED(&A, &r.rule, EINVAL, "second tunnel");
    RESET_TUNNEL();
    ITEM(&r.rule, IPV4, NULL, NULL);
    REFUSED(&A, &r.rule, EINVAL, "lowest layer");
    RESET_TUNNEL();
    ITEM(&r.rule, ETH, NULL, NULL);
    ITEM(&r.rule, GENEVE_OPT, &opt, NULL);
    REFUSED(&A, &r.rule, EINVAL, "order");
    RESET_TUNNEL();
    ITEM(&r.rule, ETH, NULL, NULL);
    ITEM(&r.rule, IPV4, NULL, NULL);
    ITEM(&r.rule, VLAN, NULL, NULL);
    REFUSED(&A, &r.rule, EINVAL, "order");
    RESET_TUNNEL();
    ITEM(&r.rule, ETH, NULL, NULL);
    ITEM(&r.rule, TCP, NULL, NULL);
    REFUSED(&A, &r.rule, EINVAL, "without its network layer");
    RESET_TUNNEL();
    ITEM(&r.rule, ETH, NULL, NULL);
    ITEM(&r.rule, IPV4, NULL, NULL);
    ITEM(&r.rule, ICMP, NULL, NULL);
    REFUSED(&A, &r.rule, ENOTSUP, "in a tunnel");
    RESET_TUNNEL();
    r.geneve.protocol = htons(RTE_ETHER_TYPE_IPV4);
    ITEM(&r.rule, ETH, NULL, NULL);
    REFUSED(&A, &r.rule, EINVAL, "contradicts");
    RESET_TUNNEL();
    r.in_eth_mask.has_vlan = 1;
    ITEM(&r.rule, ETH, &r.in_eth, &r.in_eth_mask);
    ITEM(&r.rule, VLAN, NULL, NULL);
    REFUSED(&A, &r.rule, EINVAL, "contradicts");
    RESET_TUNNEL();
    cut_items(&r.rule, I_UDP);
    ITEM(&r.rule, GENEVE, NULL, NULL);
    REFUSED(&A, &r.rule, EINVAL, "without the header that carries it");
    RESET_TUNNEL();
    cut_items(&r.rule, I_TUNNEL);
    ITEM(&r.rule, VXLAN, NULL, NULL);
    ITEM(&r.rule, GENEVE_OPT, &opt, NULL);
    REFUSED(&A, &r.rule, EINVAL, "without the header that carries it");

    /* Options. */
    RESET_TUNNEL();
    ITEM(&r.rule, GENEVE_OPT, NULL, NULL);
    REFUSED(&A, &r.rule, EINVAL, "without spec");
    RESET_TUNNEL();
    add_item(&r.rule, RTE_FLOW_ITEM_TYPE_GENEVE_OPT, &opt, NULL, &opt);
    REFUSED(&A, &r.rule, ENOTSUP, "range");
    RESET_TUNNEL();
    ITEM(&r.rule, GENEVE_OPT, &opt, &opt_mask);
    opt_mask.data = &zero;
    REFUSED(&A, &r.rule, EINVAL, "without data");
    opt_mask.data = NULL;
    opt.option_len = 32;
    REFUSED(&A, &r.rule, EINVAL, "too long");
    opt.option_len = 1;

    /* Masks that mlx5 does not have. */
    CTL_OK("set profile mlx5-sws");
    REFUSED(&A, &r.rule, ENOTSUP, "in full");
    opt_mask.option_class = UINT16_MAX;
    REFUSED(&A, &r.rule, ENOTSUP, "in full");
    opt_mask.option_len = 0x1f;
    CREATE(&A, &r.rule);
    opt_mask.option_type = 0xf;
    REFUSED(&A, &r.rule, ENOTSUP, "in full");
    opt_mask.option_type = 0xff;
    opt_mask.option_class = htons(0xfff);
    REFUSED(&A, &r.rule, ENOTSUP, "in full");
    flush();
    RESET_TUNNEL();
    r.geneve_mask.ver_opt_len_o_c_rsvd0 = htons(0xc000);
    REFUSED(&A, &r.rule, ENOTSUP, "mask");
    RESET_TUNNEL();
    cut_items(&r.rule, I_TUNNEL);
    ITEM(&r.rule, VXLAN, &flags, &flags);
    REFUSED(&A, &r.rule, ENOTSUP, "mask");
    RESET_TUNNEL();
    r.udp_mask.hdr.dgram_cksum = htons(0xff);
    REFUSED(&A, &r.rule, ENOTSUP, "UDP checksum");
    r.udp_mask.hdr.dgram_cksum = UINT16_MAX;
    CREATE(&A, &r.rule);
    cut_items(&r.rule, I_TUNNEL);
    REFUSED(&A, &r.rule, ENOTSUP, "UDP checksum");
    flush();
    RESET_TUNNEL();
    tunnel_inner_pattern(&r, &udp_packet);
    r.in_udp_mask.hdr.dgram_cksum = UINT16_MAX;
    REFUSED(&A, &r.rule, ENOTSUP, "UDP checksum");
    CTL_OK("set profile generous");
    CREATE(&A, &r.rule);
    flush();
    CHECK_INT(report(-1, "rules"), 0);
}

static void
test_tunnel_action_errors(void)
{
    struct tunnel t = { .vni = 5, .geneve = true, TWO_OPTIONS };
    struct tunnel v = { .vni = 5 }, none = { .vni = 5, .geneve = true };
    struct rte_flow_action_set_ttl ttl = { 9 };
    struct rte_flow_action_of_push_vlan push = { htons(RTE_ETHER_TYPE_VLAN) };
    struct rte_flow_action_vxlan_encap vxlan = { NULL };
    struct rte_flow_item items[6];
    struct tunnel_rule r;

#define RESET_DECAP(TUNNEL)                             \
    do {                                                \
        tunnel_pattern(&r, TUNNEL, &udp_packet);        \
        encap_items(items, r.bytes, TUNNEL);            \
        vxlan.definition = items;                       \
    } while (0)
#define REFUSED_WITH_FATE(CODE, TEXT)                   \
    do {                                                \
        ACTION(&r.rule, REPRESENTED_PORT, &r.to);       \
        REFUSED(&A, &r.rule, CODE, TEXT);               \
    } while (0)

    /* DECAP. */
    RESET_DECAP(&v);
    cut_items(&r.rule, I_TUNNEL);
    ACTION(&r.rule, VXLAN_DECAP, NULL);
    REFUSED_WITH_FATE(EINVAL, "does not have the tunnel");
    RESET_DECAP(&v);
    cut_items(&r.rule, I_TUNNEL);
    ACTION(&r.rule, RAW_DECAP, &r.decap);
    REFUSED_WITH_FATE(EINVAL, "does not have the tunnel");
    RESET_DECAP(&t);
    ACTION(&r.rule, VXLAN_DECAP, NULL);
    REFUSED_WITH_FATE(EINVAL, "does not have the tunnel");
    RESET_DECAP(&t);
    ACTION(&r.rule, RAW_DECAP, NULL);
    REFUSED_WITH_FATE(EINVAL, "without a configuration");
    RESET_DECAP(&t);
    r.decap.data = NULL;
    ACTION(&r.rule, RAW_DECAP, &r.decap);
    REFUSED_WITH_FATE(EINVAL, "without data");
    RESET_DECAP(&v);
    ACTION(&r.rule, VXLAN_DECAP, NULL);
    ACTION(&r.rule, RAW_DECAP, &r.decap);
    REFUSED_WITH_FATE(EINVAL, "twice");
    RESET_DECAP(&v);
    ACTION(&r.rule, VXLAN_DECAP, NULL);
    ACTION(&r.rule, VXLAN_DECAP, NULL);
    REFUSED_WITH_FATE(EINVAL, "twice");
    RESET_DECAP(&v);
    ACTION(&r.rule, VXLAN_ENCAP, &vxlan);
    ACTION(&r.rule, VXLAN_DECAP, NULL);
    REFUSED_WITH_FATE(EINVAL, "after a change of headers");
    RESET_DECAP(&v);
    ACTION(&r.rule, REPRESENTED_PORT, &r.to);
    ACTION(&r.rule, VXLAN_DECAP, NULL);
    REFUSED(&A, &r.rule, EINVAL, "after the fate");

    /* Sizes: of VXLAN, of Geneve with known options and with others. */
    for (int i = 0; i < 3; i++) {
        const struct tunnel *kind = i ? &t : &v;

        RESET_DECAP(kind);
        if (i == 2) {
            r.geneve_mask.ver_opt_len_o_c_rsvd0 = 0;
        }
        ACTION(&r.rule, RAW_DECAP, &r.decap);
        ACTION(&r.rule, REPRESENTED_PORT, &r.to);
        CREATE(&A, &r.rule);
        flush();
        r.decap.size--;
        REFUSED(&A, &r.rule, EINVAL, "size");
        r.decap.size -= 3;
        if (i != 2) {
            REFUSED(&A, &r.rule, EINVAL, "size");
        }
        r.decap.size = outer_size(kind) + 4;
        if (i == 2) {
            CREATE(&A, &r.rule);
            flush();
            r.decap.size = 14 + 20 + 8 + 8 + 252 + 4;
        }
        REFUSED(&A, &r.rule, EINVAL, "size");
        r.decap.size = 14 + 20 + 8 + 4;
        REFUSED(&A, &r.rule, EINVAL, "size");
    }
    v.vlan = 5;
    RESET_DECAP(&v);
    r.decap.size -= 4;
    ACTION(&r.rule, RAW_DECAP, &r.decap);
    REFUSED_WITH_FATE(EINVAL, "size");
    v.vlan = 0;

    /* Changes of headers. */
    RESET_DECAP(&v);
    ACTION(&r.rule, SET_TTL, &ttl);
    REFUSED_WITH_FATE(EINVAL, "headers of a tunnel");
    RESET_DECAP(&v);
    ACTION(&r.rule, OF_PUSH_VLAN, &push);
    REFUSED_WITH_FATE(EINVAL, "headers of a tunnel");
    RESET_DECAP(&v);
    ACTION(&r.rule, VXLAN_ENCAP, &vxlan);
    ACTION(&r.rule, SET_TTL, &ttl);
    REFUSED_WITH_FATE(EINVAL, "after encapsulation");
    RESET_DECAP(&v);
    cut_items(&r.rule, I_TUNNEL + 1);
    ACTION(&r.rule, VXLAN_DECAP, NULL);
    ACTION(&r.rule, SET_TTL, &ttl);
    REFUSED_WITH_FATE(EINVAL, "does not have the header");

    /* ENCAP. */
    RESET_DECAP(&v);
    ACTION(&r.rule, VXLAN_ENCAP, &vxlan);
    ACTION(&r.rule, VXLAN_ENCAP, &vxlan);
    REFUSED_WITH_FATE(EINVAL, "twice");
    RESET_DECAP(&v);
    ACTION(&r.rule, VXLAN_ENCAP, &vxlan);
    ACTION(&r.rule, RAW_ENCAP, &r.encap);
    REFUSED_WITH_FATE(EINVAL, "twice");
    RESET_DECAP(&v);
    ACTION(&r.rule, REPRESENTED_PORT, &r.to);
    ACTION(&r.rule, RAW_ENCAP, &r.encap);
    REFUSED(&A, &r.rule, EINVAL, "after the fate");
    RESET_DECAP(&v);
    ACTION(&r.rule, RAW_ENCAP, NULL);
    REFUSED_WITH_FATE(EINVAL, "without a configuration");
    RESET_DECAP(&v);
    ACTION(&r.rule, VXLAN_ENCAP, NULL);
    REFUSED_WITH_FATE(EINVAL, "without a configuration");
    RESET_DECAP(&v);
    r.encap.data = NULL;
    ACTION(&r.rule, RAW_ENCAP, &r.encap);
    REFUSED_WITH_FATE(EINVAL, "without data");
    RESET_DECAP(&v);
    r.encap.size = 129;
    ACTION(&r.rule, RAW_ENCAP, &r.encap);
    REFUSED_WITH_FATE(EINVAL, "too many");
    RESET_DECAP(&v);
    vxlan.definition = NULL;
    ACTION(&r.rule, VXLAN_ENCAP, &vxlan);
    REFUSED_WITH_FATE(EINVAL, "not those of a tunnel");
    RESET_DECAP(&v);
    items[I_IP].spec = NULL;
    ACTION(&r.rule, VXLAN_ENCAP, &vxlan);
    REFUSED_WITH_FATE(EINVAL, "definition");
    items[I_IP].type = RTE_FLOW_ITEM_TYPE_TCP;
    items[I_IP].spec = r.bytes + 14;
    REFUSED(&A, &r.rule, EINVAL, "definition");
    items[I_IP] = items[I_UDP];
    REFUSED(&A, &r.rule, EINVAL, "definition");
    RESET_DECAP(&t);
    ACTION(&r.rule, VXLAN_ENCAP, &vxlan);
    REFUSED_WITH_FATE(EINVAL, "do not end with one of VXLAN");
    RESET_DECAP(&none);
    ACTION(&r.rule, VXLAN_ENCAP, &vxlan);
    REFUSED_WITH_FATE(EINVAL, "do not end with one of VXLAN");

    /* The headers of ENCAP: cut off anywhere, or not of a tunnel. */
    for (int i = 0; i < 4; i++) {
        struct tunnel kind = i & 1 ? t : v;

        kind.ipv6 = i & 2;
        RESET_DECAP(&kind);
        ACTION(&r.rule, RAW_ENCAP, &r.encap);
        ACTION(&r.rule, REPRESENTED_PORT, &r.to);
        CREATE(&A, &r.rule);
        flush();
        for (size_t n = 0; n < outer_size(&kind); n++) {
            r.encap.size = n;
            REFUSED(&A, &r.rule, EINVAL, "headers");
        }
        r.encap.size = outer_size(&kind) + 4;
        REFUSED(&A, &r.rule, EINVAL, "do not end");
        r.encap.size = outer_size(&kind);
        for (int j = 0; j < 5; j++) {
            size_t offsets[] = {
                12, outer_l3(&kind), outer_l3(&kind) + (kind.ipv6 ? 6 : 9),
                outer_l4(&kind) + 7, outer_l4(&kind) + 8,
            };

            r.bytes[offsets[j]] ^= 0x48;
            REFUSED(&A, &r.rule, EINVAL, j == 3 ? "UDP checksum must be 0"
                    : "headers");
            r.bytes[offsets[j]] ^= 0x48;
        }
        if (kind.geneve) {
            r.bytes[outer_l4(&kind) + 8 + 3] = 0;
            REFUSED(&A, &r.rule, EINVAL, "do not end");
        }
    }

    /* Two VLAN tags. */
    v.vlan = RTE_ETHER_TYPE_VLAN;
    RESET_DECAP(&v);
    memmove(r.bytes + 4, r.bytes, outer_size(&v));
    memmove(r.bytes, r.bytes + 4, 16);
    r.encap.size += 4;
    ACTION(&r.rule, RAW_ENCAP, &r.encap);
    REFUSED_WITH_FATE(EINVAL, "not those of a tunnel");
    v.vlan = 0;
    CHECK_INT(report(-1, "rules"), 0);

    /* Not for ingress rules. */
    for (int i = 0; i < 4; i++) {
        RESET_DECAP(&v);
        r.rule.attr.ingress = 1;
        r.rule.attr.transfer = 0;
        cut_items(&r.rule, I_TUNNEL);
        switch (i) {
        case 0: ACTION(&r.rule, VXLAN_DECAP, NULL); break;
        case 1: ACTION(&r.rule, RAW_DECAP, &r.decap); break;
        case 2: ACTION(&r.rule, VXLAN_ENCAP, &vxlan); break;
        case 3: ACTION(&r.rule, RAW_ENCAP, &r.encap); break;
        }
        REFUSED_WITH_FATE(ENOTSUP, "transfer");
    }
}

/* Tries everything that has to do with tunnels: items if they are refused, and
 * actions. */
static void
check_no_tunnels(bool items_refused)
{
    struct tunnel v = { .vni = 5 }, t = { .geneve = true, TWO_OPTIONS };
    struct rte_flow_action_vxlan_encap vxlan = { NULL };
    struct rte_flow_item items[6];
    struct tunnel_rule r;

    for (int i = 0; i < 2; i++) {
        tunnel_pattern(&r, i ? &t : &v, &udp_packet);
        ACTION(&r.rule, REPRESENTED_PORT, &r.to);
        create_at(&A, &r.rule, items_refused ? ENOTSUP : 0, "tunnels are not",
                  __LINE__);
        flush();
    }
    for (int i = 0; i < 4; i++) {
        tunnel_pattern(&r, &v, &udp_packet);
        encap_items(items, r.bytes, &v);
        vxlan.definition = items;
        if (items_refused) {
            cut_items(&r.rule, I_TUNNEL);
        }
        switch (i) {
        case 0: ACTION(&r.rule, VXLAN_DECAP, NULL); break;
        case 1: ACTION(&r.rule, RAW_DECAP, &r.decap); break;
        case 2: ACTION(&r.rule, VXLAN_ENCAP, &vxlan); break;
        case 3: ACTION(&r.rule, RAW_ENCAP, &r.encap); break;
        }
        ACTION(&r.rule, REPRESENTED_PORT, &r.to);
        REFUSED(&A, &r.rule, ENOTSUP, "tunnels are not supported");
    }
}

static void
test_no_tunnels(void)
{
    CTL_OK("set tunnels off");
    check_no_tunnels(true);
    CTL_OK("set port %u tunnels on", A.id);
    check_decap(&(struct tunnel) { .vni = 5 });
    CTL_OK("set profile no-rewrite");
    check_no_tunnels(false);
    CTL_OK("set profile generous");
    CTL_ERROR("tunnels is \"on\" or \"off\"", "set tunnels maybe");
    CTL_OK("reset-counters");
}

static void
test_tunnel_text(void)
{
    struct tunnel t = { .vni = 2, .geneve = true, TWO_OPTIONS };
    struct tunnel v = { .vni = 0x123456 };
    struct rte_flow_item_geneve_opt any = { .option_type = 7 };
    struct rte_flow_item_udp ports = { .hdr.src_port = htons(9) };
    struct rte_flow_action_vxlan_encap vxlan = { NULL };
    struct rte_flow_item items[6];
    struct spec s = udp_packet;
    struct tunnel_rule r;

    s.vlan = 5;
    decap_rule(&r, &t, &s, true);
    memset(&r.ip4_mask, 0, sizeof r.ip4_mask);
    r.vlan_mask.has_more_vlan = 1;
    cut_actions(&r.rule, 0);
    ACTION(&r.rule, RAW_DECAP, &r.decap);
    ACTION(&r.rule, RAW_ENCAP, &r.encap);
    ACTION(&r.rule, REPRESENTED_PORT, &r.to);
    CREATE(&A, &r.rule);
    CHECK(shown(A.id, "\"pattern\": \"eth dst is 02:00:00:00:09:09 has_vlan "
                "is 0 / ipv4 / udp dst is 6081 / geneve opt_len is 4 "
                "protocol is 0x6558 vni is 0x000002 / geneve_opt class is "
                "0x0102 type is 0x80 len is 0x01 data is 0x00040002 / eth "
                "has_vlan is 1 / vlan tci is 0x0005 mask 0x0fff "
                "has_more_vlan is 0 / ipv4 fragment_offset is 0x0000 mask "
                "0x3fff src is 10.0.0.1 / udp dst is 80 / end\", "
                "\"actions\": \"raw_decap size 66 / raw_encap size 66 / "
                "represented_port id "));
    flush();

    r.geneve_mask.ver_opt_len_o_c_rsvd0 = htons(0x0300);
    r.opt_mask.option_len = 1;
    r.data_mask = htonl(0xffff);
    cut_items(&r.rule, I_TUNNEL + 2);
    ITEM(&r.rule, GENEVE_OPT, &any, NULL);
    CREATE(&A, &r.rule);
    CHECK(shown(A.id, "geneve opt_len is 0 mask 3 protocol is 0x6558 vni is "
                "0x000002 / geneve_opt class is 0x0102 type is 0x80 len is "
                "0x01 mask 0x01 data is 0x00000002 mask 0x0000ffff / "
                "geneve_opt type is 0x07 / end"));
    flush();

    /* Two tags in a tunnel. */
    tunnel_pattern(&r, &v, NULL);
    r.in_vlan.has_more_vlan = r.vlan_mask.has_more_vlan = 1;
    ITEM(&r.rule, ETH, NULL, NULL);
    ITEM(&r.rule, VLAN, &r.in_vlan, &r.vlan_mask);
    ITEM(&r.rule, VLAN, NULL, NULL);
    ACTION(&r.rule, DROP, NULL);
    CREATE(&A, &r.rule);
    CHECK(shown(A.id, "vxlan vni is 0x123456 / eth / vlan tci is 0x0000 mask "
                "0x0fff has_more_vlan is 1 / vlan / end"));
    flush();

    tunnel_pattern(&r, &v, NULL);
    encap_items(items, r.bytes, &v);
    vxlan.definition = items;
    ITEM(&r.rule, ETH, NULL, NULL);
    ITEM(&r.rule, IPV6, NULL, NULL);

    /* A range in a tunnel. */
    add_item(&r.rule, RTE_FLOW_ITEM_TYPE_UDP,
             &(struct rte_flow_item_udp) { .hdr.src_port = htons(4) },
             &(struct rte_flow_item_udp) { .hdr.src_port = UINT16_MAX },
             &ports);
    ACTION(&r.rule, VXLAN_DECAP, NULL);
    ACTION(&r.rule, VXLAN_ENCAP, &vxlan);
    ACTION(&r.rule, REPRESENTED_PORT, &r.to);
    CREATE(&A, &r.rule);
    CHECK(shown(A.id, "vxlan vni is 0x123456 / eth / ipv6 / udp src from 4 "
                "to 9 / end\", \"actions\": \"vxlan_decap / vxlan_encap size "
                "50 / represented_port id "));
    v.tos = 0;
    s = udp_packet;
    s.ipv6 = true;
    for (s.src = 3; s.src <= 10; s.src++) {
        if (s.src == 3 || s.src == 10) {
            STAYS(build_tunnel(&v, &s));
        } else {
            BECOMES(build_tunnel(&v, &s),
                    build_tunnel(&(struct tunnel) { .vni = 0x123456 }, &s));
        }
    }
    s.src = 5;
    s.ipv6 = false;
    STAYS(build_tunnel(&v, &s));
    flush();
}

/* Tunnels that make no sense do no harm. */
static void
test_tunnel_garbage(void)
{
    struct tunnel t = { .vni = 5, .geneve = true, TWO_OPTIONS };
    struct tunnel v = { .vni = 5 };
    struct tunnel_rule r;

    for (int i = 0; i < 2; i++) {
        tunnel_pattern(&r, i ? &t : &v, NULL);
        r.eth_mask.has_vlan = 0;
        memset(&r.ip4_mask, 0, sizeof r.ip4_mask);
        memset(&r.udp_mask, 0, sizeof r.udp_mask);
        memset(&r.geneve_mask, 0, sizeof r.geneve_mask);
        ACTION(&r.rule, RAW_DECAP, &r.decap);
        ACTION(&r.rule, RAW_ENCAP, &r.encap);
        ACTION(&r.rule, REPRESENTED_PORT, &r.to);
        CREATE(&A, &r.rule);
    }
    srandom(1);
    for (int i = 0; i < 20000; i++) {
        struct tunnel kind = i & 1 ? t : v;
        struct rte_mbuf *mbuf;
        uint8_t *p;

        kind.vlan = i & 2;
        kind.checksum = i & 4;
        mbuf = build_tunnel(&kind, i & 8 ? &tcp_packet : &udp_packet);
        p = rte_pktmbuf_mtod(mbuf, uint8_t *);
        for (int j = 0; j < random() % 4; j++) {
            p[outer_l4(&kind) + random() % 60] = random();
        }
        if (i & 16) {
            rte_pktmbuf_trim(mbuf, random() % mbuf->pkt_len);
        }
        rte_pktmbuf_free(pass_mbuf(mbuf));
        rte_pktmbuf_free(sent_by(&B));
    }
    CHECK(report(A.id, "forwarded") > 1000);
    flush();
    CTL_OK("reset-counters");
}

/* Counters and ages. */

static struct rte_flow_action_handle *
handle_at(const struct port *port, enum rte_flow_action_type type,
          const void *conf, int code, const char *text, int line)
{
    struct rte_flow_indir_action_conf indirect = { .ingress = 1 };
    struct rte_flow_action action = { .type = type, .conf = conf };
    struct rte_flow_error error = { .message = NULL };
    struct rte_flow_action_handle *handle;

    rte_errno = 0;
    handle = rte_flow_action_handle_create(port->id, &indirect, &action,
                                           &error);
    check(!handle == !!code, line, "handle", "%s",
          error.message ? error.message : "not refused");
    if (code) {
        check(rte_errno == code, line, "handle", "%d, not %d", rte_errno,
              code);
        check(error.message && strstr(error.message, text), line, "handle",
              "\"%s\"", error.message ? error.message : "");
    }
    return handle;
}
#define HANDLE(PORT, TYPE, CONF)                                        \
    handle_at(PORT, RTE_FLOW_ACTION_TYPE_##TYPE, CONF, 0, "", __LINE__)
#define NO_HANDLE(PORT, TYPE, CONF, CODE, TEXT)                         \
    handle_at(PORT, RTE_FLOW_ACTION_TYPE_##TYPE, CONF, CODE, TEXT, __LINE__)

static void
test_count(void)
{
    struct rte_flow_action action = { .type = RTE_FLOW_ACTION_TYPE_COUNT };
    struct rte_flow_query_count query = { .reset = 1 };
    struct rte_flow_action_handle *handle = HANDLE(&A, COUNT, NULL);
    struct rule rule = rule_in(0, 0), plain = rule_in(0, 1);
    struct rte_flow *one, *two;

    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, IPV4, NULL, NULL);
    ITEM(&rule, TCP, NULL, NULL);
    ACTION(&rule, INDIRECT, handle);
    ACTION(&rule, DROP, NULL);
    one = CREATE(&A, &rule);
    rule.items[2].type = RTE_FLOW_ITEM_TYPE_UDP;
    two = CREATE(&A, &rule);
    CHECK(!to_software(&A, &tcp_packet));
    CHECK(!to_software(&A, &(struct spec) { .protocol = IPPROTO_UDP }));
    CHECK_INT(count(&A, one), 2);
    CHECK_INT(rte_flow_action_handle_destroy(A.id, handle, NULL), -EBUSY);
    CHECK_INT(rte_flow_action_handle_query(A.id, handle, &query, NULL), 0);
    CHECK_INT(query.hits, 2);
    CHECK_INT(query.bytes, 64 + 60);
    CHECK(query.hits_set && query.bytes_set);
    CHECK_INT(count(&A, two), 0);
    CHECK_INT(rte_flow_action_handle_update(A.id, handle, &query, NULL),
              -ENOTSUP);
    query.reserved = 1;
    CHECK_INT(rte_flow_action_handle_query(A.id, handle, &query, NULL),
              -EINVAL);
    CHECK_INT(rte_flow_action_handle_query(A.id, handle, NULL, NULL),
              -EINVAL);

    ITEM(&plain, ETH, NULL, NULL);
    ACTION(&plain, DROP, NULL);
    two = CREATE(&A, &plain);
    CHECK_INT(rte_flow_query(A.id, two, &action, &query, NULL), -EINVAL);
    CHECK_INT(rte_flow_query(A.id, two, NULL, &query, NULL), -EINVAL);
    action.type = RTE_FLOW_ACTION_TYPE_DROP;
    CHECK_INT(rte_flow_query(A.id, two, &action, &query, NULL), -ENOTSUP);
    flush();
    CHECK_INT(rte_flow_action_handle_destroy(A.id, handle, NULL), 0);

    CTL_OK("set count off");
    NO_HANDLE(&A, COUNT, NULL, ENOTSUP, "COUNT");
    CTL_OK("set count on");
}

static void
test_age(void)
{
    struct rte_flow_action_age conf = { .timeout = 30, .context = &conf };
    struct rte_flow_action_age plain = { .timeout = 60 };
    struct rte_flow_update_age update = { .timeout_valid = 1, .timeout = 90 };
    struct rte_flow_action action = { .type = RTE_FLOW_ACTION_TYPE_AGE };
    struct rte_flow_action_handle *handle = HANDLE(&A, AGE, &conf);
    struct rte_flow_query_age query;
    struct rule rule = rule_in(0, 0);
    struct rte_flow *flow;
    void *contexts[4];

    ITEM(&rule, ETH, NULL, NULL);
    ACTION(&rule, INDIRECT, handle);
    ACTION(&rule, DROP, NULL);
    CREATE(&A, &rule);
    rule.attr.priority = 1;
    rule.n_actions = 0;
    ACTION(&rule, AGE, &plain);
    ACTION(&rule, DROP, NULL);
    flow = CREATE(&A, &rule);

    CTL_OK("advance 20");
    CHECK(!to_software(&A, &tcp_packet));
    CTL_OK("advance 20");
    CHECK_INT(rte_flow_action_handle_query(A.id, handle, &query, NULL), 0);
    CHECK(!query.aged && query.sec_since_last_hit_valid);
    CHECK_INT(query.sec_since_last_hit, 20);
    CHECK_INT(rte_flow_query(A.id, flow, &action, &query, NULL), 0);
    CHECK_INT(query.sec_since_last_hit, 40);
    CHECK_INT(rte_flow_get_aged_flows(A.id, NULL, 0, NULL), 0);
    CTL_OK("advance 21");
    CHECK_INT(rte_flow_action_handle_query(A.id, handle, &query, NULL), 0);
    CHECK(query.aged && !query.sec_since_last_hit_valid);
    CHECK_INT(rte_flow_query(A.id, flow, &action, &query, NULL), 0);
    CHECK(query.aged);
    CHECK_INT(rte_flow_get_aged_flows(A.id, NULL, 0, NULL), 2);
    CHECK_INT(rte_flow_get_aged_flows(A.id, NULL, 1, NULL), -EINVAL);
    CHECK_INT(rte_flow_get_aged_flows(A.id, contexts, 1, NULL), 1);
    CHECK(contexts[0] == flow);
    CHECK_INT(rte_flow_get_aged_flows(A.id, contexts, 4, NULL), 1);
    CHECK(contexts[0] == &conf);
    CHECK_INT(rte_flow_get_aged_flows(A.id, contexts, 4, NULL), 0);

    /* A hit makes it young, and so do updates. */
    CHECK(!to_software(&A, &tcp_packet));
    CHECK_INT(rte_flow_action_handle_query(A.id, handle, &query, NULL), 0);
    CHECK(!query.aged);
    CHECK_INT(rte_flow_action_handle_update(A.id, handle, &update, NULL), 0);
    CTL_OK("advance 80");
    CHECK_INT(rte_flow_action_handle_query(A.id, handle, &query, NULL), 0);
    CHECK(!query.aged);
    update = (struct rte_flow_update_age) { .touch = 1 };
    CHECK_INT(rte_flow_action_handle_update(A.id, handle, &update, NULL), 0);
    CHECK_INT(rte_flow_action_handle_query(A.id, handle, &query, NULL), 0);
    CHECK_INT(query.sec_since_last_hit, 0);
    update = (struct rte_flow_update_age) { .timeout_valid = 1 };
    CHECK_INT(rte_flow_action_handle_update(A.id, handle, &update, NULL), 0);
    CTL_OK("advance 1000");
    CHECK_INT(rte_flow_action_handle_query(A.id, handle, &query, NULL), 0);
    CHECK(!query.aged);
    update.reserved = 1;
    CHECK_INT(rte_flow_action_handle_update(A.id, handle, &update, NULL),
              -EINVAL);
    CHECK_INT(rte_flow_action_handle_update(A.id, handle, NULL, NULL),
              -EINVAL);
    flush();
    CHECK_INT(rte_flow_action_handle_destroy(A.id, handle, NULL), 0);
}

static void
test_handles(void)
{
    struct rte_flow_indir_action_conf conf = { .egress = 1 };
    struct rte_flow_action action = { .type = RTE_FLOW_ACTION_TYPE_COUNT };
    struct rte_flow_action_handle *handle, *other;
    struct rte_flow_query_count query = { .reset = 0 };
    struct rte_flow_error error;
    struct rule rule = rule_in(0, 0);

    CHECK(!rte_flow_action_handle_create(A.id, &conf, &action, &error));
    CHECK_INT(rte_errno, ENOTSUP);
    conf.egress = 0;
    CHECK(!rte_flow_action_handle_create(A.id, &conf, &action, &error));
    CHECK_INT(rte_errno, EINVAL);
    CHECK(!rte_flow_action_handle_create(A.id, NULL, &action, &error));
    CHECK_INT(rte_errno, EINVAL);
    NO_HANDLE(&A, DROP, NULL, ENOTSUP, "cannot be indirect");

    /* One for transfer rules is not for ingress rules. */
    conf.transfer = 1;
    handle = rte_flow_action_handle_create(A.id, &conf, &action, &error);
    ITEM(&rule, ETH, NULL, NULL);
    ACTION(&rule, INDIRECT, handle);
    ACTION(&rule, DROP, NULL);
    REFUSED(&A, &rule, EINVAL, "another kind of rule");
    CHECK_INT(rte_flow_action_handle_destroy(A.id, handle, &error), 0);

    /* One port's is not another's. */
    handle = HANDLE(&A, COUNT, NULL);
    rule.actions[0].conf = handle;
    REFUSED(&B, &rule, EACCES, "another port");
    CHECK_INT(rte_flow_action_handle_destroy(B.id, handle, &error), -EACCES);
    CHECK_INT(rte_flow_action_handle_query(B.id, handle, &query, &error),
              -EACCES);
    CHECK_INT(rte_flow_action_handle_update(B.id, handle, &query, &error),
              -EACCES);
    CHECK(shown(A.id, "\"type\": \"count\", \"rules\": 0"));
    CHECK_INT(rte_flow_action_handle_destroy(A.id, handle, &error), 0);

    /* What is gone does not come back. */
    CTL_OK("reset-counters");
    other = HANDLE(&A, COUNT, NULL);
    CHECK(other != handle);
    REFUSED(&A, &rule, ENOENT, "no such");
    CHECK_INT(rte_flow_action_handle_destroy(A.id, handle, &error), -ENOENT);
    CHECK_INT(rte_flow_action_handle_query(A.id, handle, &query, &error),
              -ENOENT);
    CHECK_INT(rte_flow_action_handle_update(A.id, handle, &query, &error),
              -ENOENT);
    CHECK_INT(rte_flow_action_handle_destroy(A.id, NULL, &error), -ENOENT);
    CHECK_INT(report(-1, "stale"), 6);
    CHECK_INT(rte_flow_action_handle_destroy(A.id, other, &error), 0);
    CHECK_INT(report(-1, "handles"), 0);
}

static void
test_stale_rules(void)
{
    struct rte_flow_action action = { .type = RTE_FLOW_ACTION_TYPE_COUNT };
    struct rte_flow_query_count query = { .reset = 0 };
    struct rte_flow_error error;
    struct rule rule = dropping_rule();
    struct rte_flow *flow;

    CTL_OK("reset-counters");
    ITEM(&rule, ETH, NULL, NULL);
    flow = CREATE(&A, &rule);
    CHECK_INT(rte_flow_destroy(B.id, flow, &error), -ENOENT);
    CHECK_INT(error.type, RTE_FLOW_ERROR_TYPE_HANDLE);
    destroy(&A, flow);
    CHECK_INT(rte_flow_destroy(A.id, flow, &error), -ENOENT);
    CHECK_INT(rte_flow_query(A.id, flow, &action, &query, &error), -ENOENT);
    CHECK_INT(rte_flow_destroy(A.id, NULL, &error), -ENOENT);
    CHECK_INT(rte_flow_dev_dump(A.id, flow, stdout, &error), -ENOENT);
    CHECK_INT(report(-1, "stale"), 5);
    CTL_OK("reset-counters");
    CHECK_INT(report(-1, "stale"), 0);
}

/* Connections. */

static struct rte_flow_action_conntrack
connection(void)
{
    return (struct rte_flow_action_conntrack) {
        .peer_port = B.id,
        .is_original_dir = 1,
        .enable = 1,
        .live_connection = 1,
        .state = RTE_FLOW_CONNTRACK_STATE_ESTABLISHED,
        .max_ack_window = 0,
        .original_dir = {
            .scale = 2, .sent_end = 1000, .reply_end = 1000 + 4000,
            .max_win = 4000, .max_ack = 5000,
        },
        .reply_dir = {
            .scale = 0xf, .sent_end = 5000, .reply_end = 5000 + 4000,
            .max_win = 4000, .max_ack = 1000,
        },
    };
}

/* Rules that pass all TCP of 'A' and 'B' through a connection, and that mark
 * packets with what it says of them. */
struct tracked {
    struct rte_flow_action_handle *handle;
    struct rte_flow *orig, *reply;
};

static struct tracked
track(const struct rte_flow_action_conntrack *ct, bool reply)
{
    struct rte_flow_action_jump jump1 = { 1 }, jump2 = { 2 };
    struct rte_flow_action_queue queue = { 0 };
    struct rte_flow_modify_conntrack modify = { .direction = 1 };
    struct tracked t = { .handle = HANDLE(&A, CONNTRACK, ct) };

    for (int i = 0; i <= reply; i++) {
        const struct port *port = i ? &B : &A;
        struct rule root = rule_in(0, 0), rule = rule_in(1, 0);
        struct rte_flow *flow;

        ITEM(&root, ETH, NULL, NULL);
        ACTION(&root, JUMP, &jump1);
        CREATE(port, &root);
        ITEM(&rule, ETH, NULL, NULL);
        ITEM(&rule, IPV4, NULL, NULL);
        ITEM(&rule, TCP, NULL, NULL);
        ACTION(&rule, COUNT, NULL);
        ACTION(&rule, INDIRECT, t.handle);
        ACTION(&rule, JUMP, &jump2);
        flow = CREATE(port, &rule);
        *(i ? &t.reply : &t.orig) = flow;
        for (int bit = 0; bit < 5; bit++) {
            struct rte_flow_item_conntrack flags = { .flags = 1u << bit };
            struct rte_flow_action_mark mark = { 1u << bit };
            struct rule state = rule_in(2, bit == 1 ? 0 : 1);

            ITEM(&state, CONNTRACK, &flags, &flags);
            ACTION(&state, MARK, &mark);
            ACTION(&state, QUEUE, &queue);
            CREATE(port, &state);
        }
        if (!i && reply) {
            CHECK_INT(rte_flow_action_handle_update(A.id, t.handle, &modify,
                                                    NULL), 0);
        }
    }
    return t;
}

static void
untrack(struct tracked *t)
{
    flush();
    CHECK_INT(rte_flow_action_handle_destroy(A.id, t->handle, NULL), 0);
}

/* Sends a segment; returns what the connection says of it.  CHANGED goes
 * before VALID. */
static uint32_t
segment(bool original, uint8_t flags, uint32_t seq, uint32_t ack,
        uint16_t length)
{
    struct spec s = {
        .protocol = IPPROTO_TCP, .flags = flags, .seq = seq, .ack = ack,
        .length = length, .window = original ? 1000 : 4000,
    };
    struct rte_mbuf *mbuf = pass(original ? &A : &B, &s);
    uint32_t mark = 0;

    if (mbuf && mbuf->ol_flags & RTE_MBUF_F_RX_FDIR_ID) {
        mark = mbuf->hash.fdir.hi;
    }
    rte_pktmbuf_free(mbuf);
    return mark;
}

#define VALID RTE_FLOW_CONNTRACK_PKT_STATE_VALID
#define CHANGED RTE_FLOW_CONNTRACK_PKT_STATE_CHANGED
#define INVALID RTE_FLOW_CONNTRACK_PKT_STATE_INVALID
#define DISABLED RTE_FLOW_CONNTRACK_PKT_STATE_DISABLED
#define BAD RTE_FLOW_CONNTRACK_PKT_STATE_BAD
#define ACK RTE_TCP_ACK_FLAG
#define SYN RTE_TCP_SYN_FLAG
#define FIN RTE_TCP_FIN_FLAG
#define RST RTE_TCP_RST_FLAG

static int
ct_state(struct tracked *t)
{
    struct rte_flow_action_conntrack ct;

    CHECK_INT(rte_flow_action_handle_query(A.id, t->handle, &ct, NULL), 0);
    return ct.state;
}

static void
test_ct_windows(void)
{
    struct rte_flow_action_conntrack ct = connection();
    struct tracked t = track(&ct, true);

    /* Data and its ACK. */
    CHECK_INT(segment(true, ACK, 1000, 5000, 500), VALID);
    CHECK_INT(segment(false, ACK, 5000, 1500, 0), VALID);
    CHECK_INT(segment(false, ACK, 5000, 1500, 300), VALID);
    CHECK_INT(rte_flow_action_handle_query(A.id, t.handle, &ct, NULL), 0);
    CHECK_INT(ct.original_dir.sent_end, 1500);
    CHECK_INT(ct.original_dir.reply_end, 1500 + 4000);
    CHECK_INT(ct.reply_dir.sent_end, 5300);
    CHECK_INT(ct.reply_dir.max_ack, 1500);
    CHECK_INT(ct.original_dir.data_unacked, 0);
    CHECK_INT(ct.reply_dir.data_unacked, 1);
    CHECK_INT(ct.last_direction, 0);
    CHECK_INT(ct.last_seq, 5000);
    CHECK_INT(ct.last_end, 5300);
    CHECK_INT(ct.last_window, 4000);
    CHECK_INT(ct.last_index, RTE_FLOW_CONNTRACK_FLAG_ACK);

    /* A retransmission; the edges of the window; beyond them. */
    CHECK_INT(segment(true, ACK, 1000, 5000, 500), VALID);
    CHECK_INT(segment(true, ACK, 5501, 5000, 1), INVALID);
    CHECK_INT(segment(true, ACK, 1500u - 4000 - 2, 5000, 1), INVALID);
    CHECK_INT(segment(true, ACK, 1500, 5300, 1000), VALID);
    CHECK_INT(segment(true, ACK, 2500, 5301, 0), INVALID);
    CHECK_INT(segment(true, ACK, 2500, 5300u - 70000, 0), INVALID);
    CHECK_INT(segment(true, SYN, 2500, 0, 0), INVALID);
    CHECK_INT(segment(false, RST, 10, 0, 0), INVALID);

    /* In the window, but older than what has been acknowledged. */
    CHECK_INT(segment(false, RST, 5299, 0, 0), INVALID);
    CHECK_INT(ct_state(&t), RTE_FLOW_CONNTRACK_STATE_ESTABLISHED);
    CHECK(shown(A.id, "\"valid\": 5, \"changed\": 0, \"invalid\": 7"));
    untrack(&t);

    /* The scale of a window. */
    ct = connection();
    t = track(&ct, true);
    rte_pktmbuf_free(pass(&A, &(struct spec) {
        .protocol = IPPROTO_TCP, .flags = ACK, .seq = 1000, .ack = 5000,
        .window = 3000 }));
    CHECK_INT(rte_flow_action_handle_query(A.id, t.handle, &ct, NULL), 0);
    CHECK_INT(ct.original_dir.max_win, 4 * 3000);
    CHECK_INT(ct.reply_dir.reply_end, 5000 + 4 * 3000);
    untrack(&t);

    /* Sequence numbers that wrap around. */
    ct = connection();
    ct.original_dir.sent_end = UINT32_MAX - 99;
    ct.original_dir.reply_end = 3900;
    ct.reply_dir.max_ack = UINT32_MAX - 99;
    t = track(&ct, true);
    CHECK_INT(segment(true, ACK, UINT32_MAX - 99, 5000, 500), VALID);
    CHECK_INT(segment(false, ACK, 5000, 400, 0), VALID);
    CHECK_INT(segment(true, ACK, 400, 5000, 500), VALID);
    untrack(&t);
}

static void
test_ct_states(void)
{
    struct rte_flow_action_conntrack ct = connection();
    struct tracked t;

    ct.state = RTE_FLOW_CONNTRACK_STATE_SYN_RECV;
    ct.live_connection = 0;
    t = track(&ct, true);
    CHECK_INT(segment(false, SYN | ACK, 4999, 1000, 0), VALID);
    CHECK_INT(segment(true, ACK, 1000, 5000, 0), CHANGED);
    CHECK_INT(ct_state(&t), RTE_FLOW_CONNTRACK_STATE_ESTABLISHED);
    CHECK_INT(segment(true, ACK | FIN, 1000, 5000, 10), CHANGED);
    CHECK_INT(ct_state(&t), RTE_FLOW_CONNTRACK_STATE_FIN_WAIT);
    CHECK_INT(segment(true, ACK | FIN, 1000, 5000, 10), VALID);
    CHECK_INT(segment(false, ACK, 5000, 1010, 5), VALID);
    CHECK_INT(segment(false, ACK, 5005, 1011, 5), CHANGED);
    CHECK_INT(ct_state(&t), RTE_FLOW_CONNTRACK_STATE_CLOSE_WAIT);
    CHECK_INT(segment(false, ACK | FIN, 5010, 1011, 0), CHANGED);
    CHECK_INT(ct_state(&t), RTE_FLOW_CONNTRACK_STATE_LAST_ACK);
    CHECK_INT(segment(true, ACK, 1011, 5011, 0), CHANGED);
    CHECK_INT(ct_state(&t), RTE_FLOW_CONNTRACK_STATE_TIME_WAIT);
    untrack(&t);

    /* Both FIN at once. */
    ct = connection();
    t = track(&ct, true);
    CHECK_INT(segment(true, ACK | FIN, 1000, 5000, 0), CHANGED);
    CHECK_INT(segment(false, ACK | FIN, 5000, 1000, 0), CHANGED);
    CHECK_INT(ct_state(&t), RTE_FLOW_CONNTRACK_STATE_LAST_ACK);
    CHECK_INT(segment(true, ACK, 1001, 5001, 0), CHANGED);
    untrack(&t);

    /* RST ends it, and nothing is valid after that. */
    ct = connection();
    t = track(&ct, true);
    CHECK_INT(segment(false, RST | ACK, 5000, 1000, 0), CHANGED);
    CHECK_INT(ct_state(&t), RTE_FLOW_CONNTRACK_STATE_TIME_WAIT);
    CHECK_INT(segment(true, ACK, 1000, 5000, 0), INVALID);
    untrack(&t);
}

static void
test_ct_modes(void)
{
    struct rte_flow_modify_conntrack modify = { .state = 1 };
    struct rte_flow_action_conntrack ct = connection();
    struct rte_flow_error error;
    struct tracked t;

    ct.liberal_mode = 1;
    t = track(&ct, true);
    CHECK_INT(segment(true, ACK, 77777777, 123456, 5), VALID);
    CHECK_INT(segment(true, ACK | FIN, 77777777, 123456, 5), CHANGED);
    CHECK_INT(segment(false, RST, 1, 1, 0), CHANGED);

    /* A header that makes no sense. */
    CHECK_INT(segment(true, SYN | FIN, 0, 0, 0), BAD);
    CHECK_INT(segment(true, 0, 0, 0, 0), BAD);
    rte_pktmbuf_free(pass(&A, &(struct spec) {
        .protocol = IPPROTO_TCP, .flags = ACK, .data_off = 4 << 4 }));
    rte_pktmbuf_free(pass(&A, &(struct spec) {
        .protocol = IPPROTO_TCP, .flags = ACK, .data_off = 15 << 4 }));
    CHECK(shown(A.id, "\"bad\": 4"));

    /* Off, and on again with a new state. */
    modify.new_ct = connection();
    modify.new_ct.enable = 0;
    CHECK_INT(rte_flow_action_handle_update(A.id, t.handle, &modify, &error),
              0);
    CHECK_INT(segment(true, ACK, 1000, 5000, 0), DISABLED);
    modify.new_ct.enable = 1;
    CHECK_INT(rte_flow_action_handle_update(A.id, t.handle, &modify, &error),
              0);
    CHECK_INT(segment(true, ACK, 1000, 5000, 0), VALID);
    CHECK_INT(segment(true, ACK, 99999, 5000, 0), INVALID);

    modify.reserved = 1;
    CHECK_INT(rte_flow_action_handle_update(A.id, t.handle, &modify, &error),
              -EINVAL);
    modify.reserved = modify.state = 0;
    CHECK_INT(rte_flow_action_handle_update(A.id, t.handle, &modify, &error),
              -EINVAL);
    modify.state = 1;
    modify.new_ct.state = 17;
    CHECK_INT(rte_flow_action_handle_update(A.id, t.handle, &modify, &error),
              -EINVAL);
    untrack(&t);

    /* The same segment again and again. */
    ct = connection();
    ct.retransmission_limit = 2;
    t = track(&ct, true);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(segment(true, ACK, 1000, 5000, 10), VALID);
    }
    CHECK_INT(segment(true, ACK, 1000, 5000, 10), INVALID);
    CHECK_INT(segment(true, ACK, 1010, 5000, 10), VALID);
    untrack(&t);

    ct = connection();
    ct.peer_port = 999;
    NO_HANDLE(&A, CONNTRACK, &ct, EINVAL, "peer port");
    ct = connection();
    ct.max_ack_window = 15;
    NO_HANDLE(&A, CONNTRACK, &ct, EINVAL, "scale");
    ct = connection();
    ct.state = 6;
    NO_HANDLE(&A, CONNTRACK, &ct, EINVAL, "state");
    NO_HANDLE(&A, CONNTRACK, NULL, EINVAL, "configuration");
}

static void
test_ct_sharing(void)
{
    struct rte_flow_action_conntrack ct = connection();
    struct rte_flow_modify_conntrack modify = { .new_ct = ct, .state = 1 };
    struct rte_flow_action_queue queue = { 0 };
    struct rte_flow_action_handle *handle = HANDLE(&A, CONNTRACK, &ct);
    struct rule rule = rule_in(1, 0);
    struct rte_flow *flow;

    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, IPV4, NULL, NULL);
    ITEM(&rule, TCP, NULL, NULL);
    ACTION(&rule, INDIRECT, handle);
    ACTION(&rule, QUEUE, &queue);
    flow = CREATE(&B, &rule);
    CHECK(shown(B.id, "conntrack original"));
    CHECK_INT(rte_flow_action_handle_destroy(A.id, handle, NULL), -EBUSY);
    destroy(&B, flow);

    /* The direction is updated if that is asked for, and only then. */
    modify.new_ct.is_original_dir = 0;
    CHECK_INT(rte_flow_action_handle_update(A.id, handle, &modify, NULL), 0);
    flow = CREATE(&B, &rule);
    CHECK(shown(B.id, "conntrack original"));
    destroy(&B, flow);
    modify.direction = 1;
    CHECK_INT(rte_flow_action_handle_update(A.id, handle, &modify, NULL), 0);
    flow = CREATE(&B, &rule);
    CHECK(shown(B.id, "conntrack reply"));
    destroy(&B, flow);
    CTL_OK("set share-handles off");
    REFUSED(&B, &rule, EACCES, "another port");
    CTL_OK("set share-handles on");
    CHECK_INT(rte_flow_action_handle_destroy(A.id, handle, NULL), 0);

    /* Not even when they are shared, if it is not the peer's. */
    ct.peer_port = A.id;
    handle = HANDLE(&A, CONNTRACK, &ct);
    rule.actions[0].conf = handle;
    REFUSED(&B, &rule, EACCES, "another port");
    CHECK_INT(rte_flow_action_handle_destroy(A.id, handle, NULL), 0);
}

static void
test_eswitch(void)
{
    struct rte_flow_action_conntrack ct = connection();
    struct tracked t = track(&ct, true);
    struct rte_mbuf *mbuf;

    CTL_OK("reset-counters");
    CTL_OK("set eswitch on");

    /* 0 means that software did not see it. */
    CHECK_INT(segment(true, ACK, 1000, 5000, 100), 0);
    mbuf = sent_by(&B);
    CHECK(mbuf && checksums_ok(mbuf));
    rte_pktmbuf_free(mbuf);
    CHECK_INT(segment(false, ACK, 5000, 1100, 100), 0);
    mbuf = sent_by(&A);
    CHECK(mbuf != NULL);
    rte_pktmbuf_free(mbuf);
    CHECK_INT(count(&A, t.orig), 1);
    CHECK_INT(count(&B, t.reply), 1);
    CHECK_INT(report(A.id, "eswitched"), 1);
    CHECK_INT(report(B.id, "eswitched"), 1);
    CHECK_INT(report(A.id, "to_software"), 0);

    /* What is not in order, and what opens or closes, is for software. */
    CHECK_INT(segment(true, ACK, 99999, 5000, 0), INVALID);
    CHECK_INT(segment(true, SYN, 1000, 5000, 0), INVALID);
    CHECK_INT(segment(true, ACK | FIN, 1100, 5100, 0), CHANGED);
    CHECK_INT(segment(true, ACK | FIN, 1100, 5100, 0), VALID);
    CHECK_INT(segment(false, ACK, 5100, 1101, 0), CHANGED);
    CHECK_INT(segment(false, ACK, 5100, 1101, 10), VALID);
    CHECK_INT(segment(false, RST | ACK, 5110, 1101, 0), CHANGED);
    CHECK(!sent_by(&A) && !sent_by(&B));
    untrack(&t);

    /* Not even a SYN that is valid. */
    ct = connection();
    ct.liberal_mode = 1;
    t = track(&ct, true);
    CHECK_INT(segment(true, SYN, 1000, 5000, 0), VALID);
    CHECK(!sent_by(&B));
    untrack(&t);

    /* Not if something was changed. */
    ct = connection();
    t = track(&ct, false);
    destroy(&A, t.orig);
    struct rule rule = rule_in(1, 0);
    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, IPV4, NULL, NULL);
    ITEM(&rule, TCP, NULL, NULL);
    ACTION(&rule, INDIRECT, t.handle);
    ACTION(&rule, DEC_TTL, NULL);
    ACTION(&rule, JUMP, &(struct rte_flow_action_jump) { 2 });
    CREATE(&A, &rule);
    CHECK_INT(segment(true, ACK, 1000, 5000, 100), VALID);
    CHECK(!sent_by(&B));
    CTL_OK("set eswitch off");
    untrack(&t);
}

/* IPv6, with a VLAN tag and without, from the connection to the eSwitch. */
static void
test_ct_ipv6(void)
{
    struct rte_flow_action_conntrack ct = connection();
    struct rte_flow_action_handle *handle = HANDLE(&A, CONNTRACK, &ct);
    struct rte_flow_action_queue queue = { 0 };
    struct rule rule = rule_in(0, 0);
    struct spec s = {
        .ipv6 = true, .protocol = IPPROTO_TCP, .flags = RTE_TCP_ACK_FLAG,
        .seq = 1000, .ack = 5000, .window = 1000, .length = 77,
    };
    struct rte_flow *flow;
    struct rte_mbuf *mbuf;

    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, IPV6, NULL, NULL);
    ITEM(&rule, TCP, NULL, NULL);
    ACTION(&rule, COUNT, NULL);
    ACTION(&rule, INDIRECT, handle);
    ACTION(&rule, QUEUE, &queue);
    flow = CREATE(&A, &rule);
    CTL_OK("set eswitch on");
    for (s.vlan = 0; s.vlan < 2; s.vlan++) {
        CHECK(!to_software(&A, &s));
        mbuf = sent_by(&B);
        CHECK(mbuf && checksums_ok(mbuf));
        rte_pktmbuf_free(mbuf);
    }
    s.ext = IPPROTO_DSTOPTS;
    CHECK(!to_software(&A, &s));
    rte_pktmbuf_free(sent_by(&B));
    s.seq = 77777;
    CHECK(to_software(&A, &s));
    CHECK_INT(count(&A, flow), 4);
    CHECK_INT(rte_flow_action_handle_query(A.id, handle, &ct, NULL), 0);
    CHECK_INT(ct.original_dir.sent_end, 1077);
    CHECK(shown(A.id, "\"valid\": 3, \"changed\": 0, \"invalid\": 1"));
    CTL_OK("set eswitch off");
    flush();
    CHECK_INT(rte_flow_action_handle_destroy(A.id, handle, NULL), 0);
}

/* A port's life. */

/* Puts a packet into the driver's queue 'driver_queue'.  Returns true if queue
 * 0 of 'port' has it then. */
static bool
arrives(const struct port *port, uint16_t driver_queue)
{
    assert(!rte_ring_enqueue(port->rx[driver_queue], build(&tcp_packet)));
    return receive(port, 0, NULL) == 1;
}

static void
test_stop(void)
{
    struct rte_eth_dev_info info;
    struct rte_flow_action_handle *handle = HANDLE(&A, COUNT, NULL);
    struct rte_flow_error error = { .message = NULL };
    struct rule rule = rule_in(0, 0);
    struct rte_flow *flow;

    CTL_OK("reset-counters");
    ITEM(&rule, ETH, NULL, NULL);
    ACTION(&rule, INDIRECT, handle);
    ACTION(&rule, DROP, NULL);
    flow = CREATE(&A, &rule);
    CHECK_INT(rte_flow_configure(A.id, NULL, 0, NULL, &error), -EINVAL);

    /* This driver cannot be reset, and goes on. */
    CHECK_INT(rte_eth_dev_reset(A.id), -ENOTSUP);
    CHECK(!to_software(&A, &tcp_packet));
    CHECK_INT(count(&A, flow), 1);
    CHECK_INT(rte_eth_dev_stop(A.id), 0);
    CHECK_INT(report(A.id, "rules_lost"), 1);
    CHECK_INT(report(-1, "rules"), 0);
    CHECK_INT(report(-1, "handles"), 1);
    CHECK(!rte_flow_create(A.id, &rule.attr, rule.items, rule.actions,
                           &error));
    CHECK_INT(rte_errno, EINVAL);
    CHECK_INT(error.type, RTE_FLOW_ERROR_TYPE_STATE);
    CHECK_INT(rte_flow_configure(A.id, NULL, 0, NULL, &error), -ENOTSUP);
    CHECK_INT(rte_flow_destroy(A.id, flow, &error), -ENOENT);
    CHECK_INT(report(-1, "stale"), 1);

    /* Fewer queues, and more again. */
    CHECK_INT(start_port(&A, 1), 0);
    CHECK(shown(A.id, "\"n_rxq\": 1"));
    CHECK_INT(rte_eth_dev_info_get(A.id, &info), 0);
    CHECK_INT(info.nb_rx_queues, 1);
    CHECK(to_software(&A, &tcp_packet));
    CHECK(arrives(&A, 1));
    flow = CREATE(&A, &rule);
    CHECK(!to_software(&A, &tcp_packet));
    CHECK(!arrives(&A, 1));
    CHECK_INT(count(&A, flow), 3);
    CHECK_INT(rte_flow_destroy(A.id, flow, &error), 0);
    rule.n_actions = 0;
    ACTION(&rule, QUEUE, &(struct rte_flow_action_queue) { 0 });
    flow = CREATE(&A, &rule);
    CHECK(!arrives(&A, 1));
    CHECK_INT(report(A.id, "steered"), 1);
    CHECK_INT(receive(&A, 0, NULL), 1);
    CHECK_INT(rte_eth_dev_stop(A.id), 0);
    CHECK_INT(start_port(&A, N_QUEUES), 0);
    CHECK(to_software(&A, &tcp_packet));
    CHECK(!arrives(&A, 1));
    CHECK_INT(receive(&A, 1, NULL), 1);
    CHECK_INT(rte_flow_action_handle_destroy(A.id, handle, &error), 0);
    CTL_OK("reset-counters");
}

static void
test_close(void)
{
    struct rte_flow_action_handle *handle, *of_b;
    struct rte_flow_action_conntrack ct;
    struct rule rule = rule_in(1, 0), root = rule_in(0, 0);
    struct port port;

    CTL_OK("reset-counters");
    open_port(&port, "c");
    CHECK_INT(start_port(&port, N_QUEUES), 0);
    ct = connection();
    ct.peer_port = A.id;
    handle = HANDLE(&port, CONNTRACK, &ct);
    of_b = HANDLE(&B, COUNT, NULL);
    ITEM(&rule, ETH, NULL, NULL);
    ACTION(&rule, INDIRECT, handle);
    ACTION(&rule, DROP, NULL);
    CREATE(&port, &rule);

    /* A's rule goes on without the connection. */
    CREATE(&A, &rule);
    ITEM(&root, ETH, NULL, NULL);
    ACTION(&root, JUMP, &(struct rte_flow_action_jump) { 1 });
    CREATE(&A, &root);
    CHECK_INT(rte_eth_dev_stop(port.id), 0);
    CHECK_INT(rte_eth_dev_close(port.id), 0);
    CTL_ERROR("no emulated port", "json %u", port.id);
    CHECK_INT(report(-1, "leaked_handles"), 1);
    CHECK_INT(report(-1, "leaked_rules"), 0);
    CHECK(!to_software(&A, &tcp_packet));
    CHECK_INT(rte_flow_action_handle_destroy(A.id, handle, NULL), -ENOENT);
    CHECK_INT(rte_flow_action_handle_destroy(B.id, of_b, NULL), 0);
    flush();
    CTL_OK("reset-counters");
}

static void
test_metadata(void)
{
    struct rte_flow_action_mark mark = { 1 };
    struct rule rule = rule_in(0, 0);
    uint64_t features = RTE_ETH_RX_METADATA_USER_MARK
                        | RTE_ETH_RX_METADATA_USER_FLAG;
    struct port port;

    CHECK_INT(rte_eth_rx_metadata_negotiate(A.id, &features), -EBUSY);
    open_port(&port, "d");
    CHECK_INT(rte_eth_rx_metadata_negotiate(port.id, &features), 0);
    CHECK_INT(features, RTE_ETH_RX_METADATA_USER_MARK);
    CHECK_INT(start_port(&port, 1), 0);
    ITEM(&rule, ETH, NULL, NULL);
    ACTION(&rule, MARK, &mark);
    ACTION(&rule, DROP, NULL);
    CREATE(&port, &rule);
    CHECK_INT(rte_eth_dev_stop(port.id), 0);
    CHECK_INT(rte_eth_dev_close(port.id), 0);

    open_port(&port, "e");
    features = 0;
    CHECK_INT(rte_eth_rx_metadata_negotiate(port.id, &features), 0);
    CHECK_INT(start_port(&port, 1), 0);
    REFUSED(&port, &rule, ENOTSUP, "negotiated");
    CHECK_INT(rte_eth_dev_stop(port.id), 0);
    CHECK_INT(rte_eth_dev_close(port.id), 0);
    CTL_OK("reset-counters");
}

/* A driver that has taken the tag off. */
static void
test_stripped_vlan(void)
{
    struct rte_flow_item_vlan vlan = { .hdr.vlan_tci = htons(5) };
    struct rule rule = rule_in(0, 0);
    struct rte_mbuf *mbuf;

    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, VLAN, &vlan, NULL);
    ACTION(&rule, MARK, &(struct rte_flow_action_mark) { 3 });
    ACTION(&rule, QUEUE, &(struct rte_flow_action_queue) { 0 });
    CREATE(&A, &rule);
    mbuf = build(&tcp_packet);
    mbuf->vlan_tci = 5;
    mbuf->ol_flags |= RTE_MBUF_F_RX_VLAN | RTE_MBUF_F_RX_VLAN_STRIPPED;
    assert(!rte_ring_enqueue(A.rx[0], mbuf));
    CHECK_INT(receive(&A, 0, &mbuf), 1);
    CHECK_INT(mbuf->hash.fdir.hi, 3);
    CHECK(mbuf->ol_flags & RTE_MBUF_F_RX_VLAN_STRIPPED);
    CHECK_INT(mbuf->vlan_tci, 5);
    CHECK_INT(mbuf->pkt_len, 64);
    rte_pktmbuf_free(mbuf);
    flush();
}

/* Returns the length at which a packet of 'length' bytes is received, or 0 if
 * it is not, or not as it was. */
static uint16_t
received_length(uint16_t length)
{
    struct rte_mbuf *mbuf = build(&tcp_packet);
    uint8_t sent[64], zeros[64] = { 0 };
    uint16_t result;

    assert(length <= sizeof sent && length <= mbuf->pkt_len);
    memset(rte_pktmbuf_mtod_offset(mbuf, uint8_t *, length), 0xff,
           mbuf->pkt_len - length);
    rte_pktmbuf_trim(mbuf, mbuf->pkt_len - length);
    memcpy(sent, rte_pktmbuf_mtod(mbuf, uint8_t *), length);
    assert(!rte_ring_enqueue(A.rx[0], mbuf));
    if (receive(&A, 0, &mbuf) != 1) {
        return 0;
    }
    result = mbuf->pkt_len;
    if (result < length || result > sizeof sent || mbuf->data_len != result
        || memcmp(rte_pktmbuf_mtod(mbuf, uint8_t *), sent, length)
        || memcmp(rte_pktmbuf_mtod_offset(mbuf, uint8_t *, length), zeros,
                  result - length)) {
        result = 0;
    }
    rte_pktmbuf_free(mbuf);
    return result;
}

static void
test_padding(void)
{
    CHECK_INT(received_length(54), 54);
    CTL_OK("set padding on");
    CTL_OK("reset-counters");
    CHECK_INT(received_length(54), 60);
    CHECK_INT(report(A.id, "rx_bytes"), 60);
    CHECK_INT(received_length(60), 60);
    CHECK_INT(received_length(61), 61);
    CTL_OK("set padding off");
    CHECK_INT(received_length(54), 54);
}

/* Packets that are cut off or make no sense do no harm. */
static void
test_garbage(void)
{
    struct rule rule = rule_in(0, 0);
    struct rte_flow_action_set_tp port = { htons(1) };
    struct rte_flow_action_conntrack ct = connection();

    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, IPV4, NULL, NULL);
    ITEM(&rule, TCP, NULL, NULL);
    ACTION(&rule, CONNTRACK, &ct);
    ACTION(&rule, SET_TP_SRC, &port);
    ACTION(&rule, DEC_TTL, NULL);
    ACTION(&rule, QUEUE, &(struct rte_flow_action_queue) { 0 });
    CREATE(&A, &rule);
    srandom(1);
    for (int i = 0; i < 20000; i++) {
        struct spec s = {
            .ipv6 = i & 1, .vlan = i & 2, .vlan2 = i & 4 ? 9 : 0,
            .protocol = IPPROTO_TCP, .flags = RTE_TCP_ACK_FLAG,
            .ext = i & 8 ? IPPROTO_FRAGMENT : 0,
        };
        struct rte_mbuf *mbuf = build(&s);
        uint8_t *p = rte_pktmbuf_mtod(mbuf, uint8_t *);
        uint16_t n = mbuf->pkt_len;

        for (int j = 0; j < random() % 4; j++) {
            p[random() % n] = random();
        }
        rte_pktmbuf_trim(mbuf, random() % n);
        assert(!rte_ring_enqueue(A.rx[0], mbuf));
        receive(&A, 0, NULL);
    }
    flush();
}

/* Profiles. */

static void
check_mlx5(const char *profile)
{
    struct rte_flow_item_ipv4 id = { .hdr.packet_id = 1 };
    struct rte_flow_item_ipv4 low = { .hdr.src_addr = htonl(1) };
    struct rte_flow_item_ipv4 high = { .hdr.src_addr = htonl(9) };
    struct rte_flow_item_conntrack flags = { .flags = VALID };
    struct rte_flow_action_conntrack ct = connection();
    struct rte_flow_action_age age = { .timeout = 9 };
    struct rte_flow_action_mark mark = { 0xfffff0 };
    struct rte_flow_action_jump jump = { 2 };
    struct rte_flow_action_handle *handle;
    struct rule rule;

    CTL_OK("set profile %s", profile);
    handle = HANDLE(&A, CONNTRACK, &ct);
#define RESET_CT(GROUP)                         \
    do {                                        \
        rule = rule_in(GROUP, 0);               \
        ITEM(&rule, ETH, NULL, NULL);           \
        ITEM(&rule, IPV4, NULL, NULL);          \
        ITEM(&rule, TCP, NULL, NULL);           \
    } while (0)
    RESET_CT(1);
    ACTION(&rule, CONNTRACK, &ct);
    ACTION(&rule, JUMP, &jump);
    REFUSED(&A, &rule, ENOTSUP, "indirect");
    RESET_CT(0);
    ACTION(&rule, INDIRECT, handle);
    ACTION(&rule, JUMP, &jump);
    REFUSED(&A, &rule, ENOTSUP, "group 0");
    RESET_CT(1);
    rule.items[2].type = RTE_FLOW_ITEM_TYPE_UDP;
    ACTION(&rule, INDIRECT, handle);
    ACTION(&rule, JUMP, &jump);
    REFUSED(&A, &rule, ENOTSUP, "TCP");
    RESET_CT(1);
    ACTION(&rule, JUMP, &jump);
    ACTION(&rule, INDIRECT, handle);
    REFUSED(&A, &rule, EINVAL, "after the fate");
    RESET_CT(1);
    ACTION(&rule, AGE, &age);
    ACTION(&rule, INDIRECT, handle);
    ACTION(&rule, JUMP, &jump);
    REFUSED(&A, &rule, ENOTSUP, "AGE beside");
    RESET_CT(1);
    ACTION(&rule, COUNT, NULL);
    ACTION(&rule, INDIRECT, handle);
    ACTION(&rule, JUMP, &jump);
    CREATE(&A, &rule);
    if (!strcmp(profile, "mlx5-sws")) {
        CREATE(&B, &rule);
    } else {
        REFUSED(&B, &rule, EACCES, "another port");
    }
    rule = dropping_rule();
    ITEM(&rule, CONNTRACK, &flags, &flags);
    REFUSED(&A, &rule, ENOTSUP, "group 0");
    rule.attr.group = 2;
    CREATE(&A, &rule);
    RESET();
    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, IPV4, &id, &id);
    REFUSED(&A, &rule, ENOTSUP, "mask");
    RESET();
    ITEM(&rule, ETH, NULL, NULL);
    add_item(&rule, RTE_FLOW_ITEM_TYPE_IPV4, &low, NULL, &high);
    REFUSED(&A, &rule, ENOTSUP, "ranges");
    RESET();
    rule.attr.priority = 16;
    REFUSED(&A, &rule, ENOTSUP, "priority");
    rule.attr.priority = UINT32_MAX;
    CREATE(&A, &rule);
    rule.attr.group = 5;
    rule.attr.priority = 16;
    CREATE(&A, &rule);
    rule = rule_in(0, 0);
    ITEM(&rule, ETH, NULL, NULL);
    ACTION(&rule, MARK, &mark);
    ACTION(&rule, DROP, NULL);
    REFUSED(&A, &rule, EINVAL, "mark");

    /* A miss in a group is the end of a packet. */
    flush();
    rule.n_actions = 0;
    ACTION(&rule, JUMP, &jump);
    CREATE(&A, &rule);
    CHECK(!to_software(&A, &tcp_packet));
    flush();
    CHECK_INT(rte_flow_action_handle_destroy(A.id, handle, NULL), 0);
    CHECK(shown(A.id, profile));
    CTL_OK("set profile generous");
}


static void
test_no_ct(void)
{
    struct rte_flow_item_conntrack flags = { .flags = VALID };
    struct rte_flow_action_conntrack ct = connection();
    struct rte_flow_port_info info;
    struct rule rule = dropping_rule();

    CTL_OK("set profile no-ct");
    NO_HANDLE(&A, CONNTRACK, &ct, ENOTSUP, "CONNTRACK");
    ITEM(&rule, CONNTRACK, &flags, &flags);
    REFUSED(&A, &rule, ENOTSUP, "CONNTRACK");
    CHECK_INT(rte_flow_info_get(A.id, &info, NULL, NULL), 0);
    CHECK(!info.max_nb_conn_tracks && info.max_nb_aging_objects);
    CTL_OK("set profile generous");
    rule.n_actions = 0;
    ACTION(&rule, CONNTRACK, &ct);
    ACTION(&rule, DROP, NULL);
    CREATE(&A, &rule);
    flush();
}

static void
test_no_age(void)
{
    struct rte_flow_action_age age = { .timeout = 9 };
    struct rule rule = dropping_rule();

    CTL_OK("set profile no-age");
    NO_HANDLE(&A, AGE, &age, ENOTSUP, "AGE");
    ACTION(&rule, AGE, &age);
    REFUSED(&A, &rule, ENOTSUP, "AGE");
    CTL_OK("set profile generous");
    CREATE(&A, &rule);
    flush();
}

/* What the profiles of NICs without connection tracking have in common: they
 * forward, count and change VLAN tags. */
static void
check_simple_nic(const char *profile)
{
    struct rte_flow_action_of_push_vlan push = { htons(RTE_ETHER_TYPE_VLAN) };
    struct rte_flow_action_of_set_vlan_vid vid = { htons(77) };
    struct rte_flow_action_of_set_vlan_pcp pcp = { 5 };
    struct rte_flow_action_conntrack ct = connection();
    struct rte_flow_action_ethdev to_b = { B.id };
    struct rte_flow_action_ethdev a = { A.id }, any = { UINT16_MAX };
    struct spec udp = { .protocol = IPPROTO_UDP, .vlan = 5 };
    struct rule rule = transfer_rule();
    struct rte_flow *flow;

    CTL_OK("set profile %s", profile);
    CHECK(shown(A.id, profile));
    NO_HANDLE(&A, CONNTRACK, &ct, ENOTSUP, "CONNTRACK");
    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, VLAN, NULL, NULL);
    ITEM(&rule, IPV4, NULL, NULL);
    ITEM(&rule, UDP, NULL, NULL);
    ACTION(&rule, OF_POP_VLAN, NULL);
    ACTION(&rule, COUNT, NULL);
    ACTION(&rule, OF_PUSH_VLAN, &push);
    ACTION(&rule, OF_SET_VLAN_PCP, &pcp);
    ACTION(&rule, OF_SET_VLAN_VID, &vid);
    ACTION(&rule, REPRESENTED_PORT, &to_b);
    flow = CREATE(&A, &rule);
    CHECK(forwards(&A, &B, &udp));
    CHECK_INT(count(&A, flow), 1);
    rule.attr.priority = 1;
    rule.n_actions = 0;
    ACTION(&rule, PORT_REPRESENTOR, &any);
    REFUSED(&A, &rule, ENOTSUP, "PORT_REPRESENTOR");
    rule.actions[0].conf = &a;
    CREATE(&A, &rule);
    flush();
}

/* Actions that change headers, each in a rule of its own.  Those in 'refused'
 * have to be. */
static void
check_sets(uint64_t refused)
{
    struct rte_flow_action_set_ipv4 ip4 = { htonl(0x0a000009) };
    struct rte_flow_action_set_ipv6 ip6 = { .ipv6_addr = { 0 } };
    struct rte_flow_action_set_mac mac = { { 2, 4, 6, 8, 10, 12 } };
    struct rte_flow_action_set_tp port = { htons(4242) };
    struct rte_flow_action_set_ttl ttl = { 9 };
    struct {
        enum rte_flow_action_type type;
        const void *conf;
        bool ipv6;
    } sets[] = {
        { RTE_FLOW_ACTION_TYPE_SET_MAC_SRC, &mac, false },
        { RTE_FLOW_ACTION_TYPE_SET_MAC_DST, &mac, false },
        { RTE_FLOW_ACTION_TYPE_SET_IPV4_SRC, &ip4, false },
        { RTE_FLOW_ACTION_TYPE_SET_IPV4_DST, &ip4, false },
        { RTE_FLOW_ACTION_TYPE_SET_IPV6_SRC, &ip6, true },
        { RTE_FLOW_ACTION_TYPE_SET_IPV6_DST, &ip6, true },
        { RTE_FLOW_ACTION_TYPE_SET_TP_SRC, &port, false },
        { RTE_FLOW_ACTION_TYPE_SET_TP_DST, &port, true },
        { RTE_FLOW_ACTION_TYPE_SET_TTL, &ttl, false },
        { RTE_FLOW_ACTION_TYPE_DEC_TTL, NULL, false },
    };

    for (size_t i = 0; i < ARRAY_SIZE(sets); i++) {
        struct rule rule = transfer_rule();
        bool refuse = refused & UINT64_C(1) << i;

        ITEM(&rule, ETH, NULL, NULL);
        add_item(&rule, sets[i].ipv6 ? RTE_FLOW_ITEM_TYPE_IPV6
                 : RTE_FLOW_ITEM_TYPE_IPV4, NULL, NULL, NULL);
        ITEM(&rule, UDP, NULL, NULL);
        add_action(&rule, sets[i].type, sets[i].conf);
        ACTION(&rule, DROP, NULL);
        create_at(&A, &rule, refuse ? ENOTSUP : 0, "", __LINE__);
        CHECK_INT(report(-1, "rules"), !refuse);
        flush();
    }
}

/* The same for MODIFY_FIELD, all of which have to be refused, or none. */
static void
check_modifies(bool refuse)
{
    static const struct {
        enum rte_flow_field_id field;
        size_t size;
        bool ipv6;
    } fields[] = {
        { RTE_FLOW_FIELD_MAC_SRC, 6, false },
        { RTE_FLOW_FIELD_MAC_DST, 6, false },
        { RTE_FLOW_FIELD_IPV4_SRC, 4, false },
        { RTE_FLOW_FIELD_IPV4_DST, 4, false },
        { RTE_FLOW_FIELD_IPV4_TTL, 1, false },
        { RTE_FLOW_FIELD_IPV6_SRC, 16, true },
        { RTE_FLOW_FIELD_IPV6_DST, 16, true },
        { RTE_FLOW_FIELD_IPV6_HOPLIMIT, 1, true },
        { RTE_FLOW_FIELD_UDP_PORT_SRC, 2, false },
        { RTE_FLOW_FIELD_UDP_PORT_DST, 2, true },
    };
    const uint8_t value[16] = { 0 };

    for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
        struct rte_flow_action_modify_field conf;
        struct rule rule = transfer_rule();

        conf = modify_to(fields[i].field, value, fields[i].size);
        ITEM(&rule, ETH, NULL, NULL);
        add_item(&rule, fields[i].ipv6 ? RTE_FLOW_ITEM_TYPE_IPV6
                 : RTE_FLOW_ITEM_TYPE_IPV4, NULL, NULL, NULL);
        ITEM(&rule, UDP, NULL, NULL);
        ACTION(&rule, MODIFY_FIELD, &conf);
        ACTION(&rule, DROP, NULL);
        create_at(&A, &rule, refuse ? ENOTSUP : 0, "not supported", __LINE__);
        CHECK_INT(report(-1, "rules"), !refuse);
        flush();
    }
}

static void
test_mlx5_sws(void)
{
    struct rule rule = dropping_rule();

    check_mlx5("mlx5-sws");
    CTL_OK("set profile mlx5-sws");
    check_sets(0);
    check_modifies(false);
    CREATE(&A, &rule);
    REFUSED(&A, &rule, EEXIST, "exists");
    flush();
    CTL_OK("set profile generous");
}

static void
test_mlx5_hws(void)
{
    struct rule rule = dropping_rule();
    struct rte_flow *flows[3];

    check_mlx5("mlx5-hws");
    CTL_OK("set profile mlx5-hws");
    check_sets(UINT64_MAX);
    check_modifies(false);

    /* Of equal rules, the newest is the one. */
    CTL_OK("reset-counters");
    for (int i = 0; i < 3; i++) {
        flows[i] = CREATE(&A, &rule);
        CHECK(!to_software(&A, &tcp_packet));
        CHECK_INT(count(&A, flows[i]), 1);
        CHECK_INT(report(A.id, "ambiguous"), i);
    }
    destroy(&A, flows[2]);
    CHECK(!to_software(&A, &tcp_packet));
    CHECK_INT(count(&A, flows[0]), 1);
    CHECK_INT(count(&A, flows[1]), 2);
    CHECK_INT(report(A.id, "ambiguous"), 3);
    destroy(&A, flows[1]);
    CHECK(!to_software(&A, &tcp_packet));
    CHECK_INT(count(&A, flows[0]), 2);
    CHECK_INT(report(A.id, "ambiguous"), 3);
    CTL_OK("set equal-rules refused");
    REFUSED(&A, &rule, EEXIST, "exists");
    flush();
    CTL_OK("reset-counters");
    CTL_OK("set profile generous");
}

/* Makes a rule of 'actions', each by a letter, in that order. */
static void
check_order(const char *actions, int code, const char *text)
{
    struct rte_flow_action_of_push_vlan push = { htons(RTE_ETHER_TYPE_VLAN) };
    struct rte_flow_action_of_set_vlan_vid vid = { htons(77) };
    struct rte_flow_action_of_set_vlan_pcp pcp = { 5 };
    struct rte_flow_action_conntrack ct = connection();
    struct rte_flow_action_age age = { .timeout = 9 };
    struct rte_flow_action_mark mark = { 1 };
    const uint8_t ttl = 9;
    struct rte_flow_action_modify_field modify
        = modify_to(RTE_FLOW_FIELD_IPV4_TTL, &ttl, 1);
    struct spec s = { .protocol = IPPROTO_TCP, .vlan = 5 };
    struct tunnel t = { .vni = 5 };
    struct rte_flow *flow;
    struct tunnel_rule r;

    tunnel_pattern(&r, &t, &s);
    if (!strchr(actions, 'D')) {
        cut_items(&r.rule, 0);
        tunnel_inner_pattern(&r, &s);
    }
    for (; *actions; actions++) {
        switch (*actions) {
        case 'D': ACTION(&r.rule, VXLAN_DECAP, NULL); break;
        case 'o': ACTION(&r.rule, OF_POP_VLAN, NULL); break;
        case 'c': ACTION(&r.rule, COUNT, NULL); break;
        case 'a': ACTION(&r.rule, AGE, &age); break;
        case 't': ACTION(&r.rule, CONNTRACK, &ct); break;
        case 'P': ACTION(&r.rule, OF_PUSH_VLAN, &push); break;
        case 'v': ACTION(&r.rule, OF_SET_VLAN_VID, &vid); break;
        case 'p': ACTION(&r.rule, OF_SET_VLAN_PCP, &pcp); break;
        case 'm': ACTION(&r.rule, MODIFY_FIELD, &modify); break;
        case 'E': ACTION(&r.rule, RAW_ENCAP, &r.encap); break;
        case 'k': ACTION(&r.rule, MARK, &mark); break;
        case 'f': ACTION(&r.rule, REPRESENTED_PORT, &r.to); break;
        }
    }
    flow = create_at(&A, &r.rule, code, text, __LINE__);
    if (flow) {
        destroy(&A, flow);
    }
}

/* The order of actions. */
static void
test_action_order(void)
{
    static const struct {
        const char *actions;
        const char *text;       /* Or NULL if they are fine. */
    } orders[] = {
        { "f", NULL }, { "cf", NULL }, { "DoctPvpmEf", NULL },
        { "DoctPvpmmmEf", NULL }, { "ooatPvPvf", NULL }, { "ckmf", NULL },
        { "kcmf", NULL }, { "acf", NULL }, { "tPvf", NULL },

        { "Dcof", "order of" }, { "cDf", "order of" },
        { "tcf", "order of" }, { "taf", "order of" }, { "tof", "order of" },
        { "Pvpcf", "order of" }, { "Pvtf", "order of" },
        { "mPvf", "order of" }, { "mcf", "order of" }, { "mtf", "order of" },
        { "mof", "order of" }, { "Ecf", "order of" }, { "fc", "order of" },
        { "mkcf", "order of" }, { "Pvof", "order of" },

        { "Pf", "VLAN tag" }, { "Ppvf", "VLAN tag" }, { "Ppf", "VLAN tag" },
        { "vf", "VLAN tag" }, { "pf", "VLAN tag" }, { "cvf", "VLAN tag" },
        { "cpf", "VLAN tag" }, { "Pvpvf", "VLAN tag" },
        { "PvPf", "VLAN tag" }, { "Pvppf", "VLAN tag" },
        { "Pkvf", "VLAN tag" },
    };

    for (size_t i = 0; i < ARRAY_SIZE(orders); i++) {
        check_order(orders[i].actions, 0, "");
    }
    CTL_OK("set action-order fixed");
    for (size_t i = 0; i < ARRAY_SIZE(orders); i++) {
        check_order(orders[i].actions, orders[i].text ? ENOTSUP : 0,
                    orders[i].text ? orders[i].text : "");
    }

    /* A fate is last of all. */
    check_order("fm", ENOTSUP, "order of");
    check_order("fPv", ENOTSUP, "order of");
    check_order("fE", EINVAL, "after the fate");
    check_order("Em", EINVAL, "after encapsulation");
    check_order("oDf", EINVAL, "headers of a tunnel");
    CTL_OK("set profile mlx5-hws");
    check_order("mcf", ENOTSUP, "order of");
    check_order("cmf", 0, "");
    CTL_OK("set profile mlx5-sws");
    check_order("mcf", 0, "");
    CTL_OK("set profile generous");
}

/* Counters that cannot be used again at once. */
static void
test_counter_quarantine(void)
{
    struct rte_flow_action_handle *handle, *handle2;
    struct rule rule = dropping_rule(), other = rule_in(0, 1);
    struct rte_flow_action_age age = { .timeout = 9 };
    struct rte_flow *flow;

    ITEM(&other, ETH, NULL, NULL);
    ACTION(&other, DROP, NULL);
    CTL_OK("set port %u counter-quarantine 1000000", A.id);
    flow = CREATE(&A, &rule);

    /* What was never made frees nothing. */
    CHECK_INT(rte_flow_validate(A.id, &rule.attr, rule.items, rule.actions,
                                NULL), 0);
    REFUSED(&A, &rule, EEXIST, "exists");
    handle = HANDLE(&A, COUNT, NULL);

    destroy(&A, flow);
    REFUSED(&A, &rule, EAGAIN, "not ready");
    NO_HANDLE(&A, COUNT, NULL, EAGAIN, "not ready");

    /* One that there is, none, and other ports: none of this takes or frees
     * one here. */
    CTL_OK("advance 500");
    flow = CREATE(&A, &other);
    destroy(&A, flow);
    handle2 = HANDLE(&A, AGE, &age);
    CHECK_INT(rte_flow_action_handle_destroy(A.id, handle2, NULL), 0);
    other.n_actions = 0;
    ACTION(&other, INDIRECT, handle);
    ACTION(&other, DROP, NULL);
    flow = CREATE(&A, &other);
    destroy(&A, flow);
    flow = CREATE(&B, &rule);
    destroy(&B, flow);
    flow = CREATE(&B, &rule);
    destroy(&B, flow);

    CTL_OK("advance 499");
    REFUSED(&A, &rule, EAGAIN, "not ready");
    CTL_OK("advance 2");
    flow = CREATE(&A, &rule);

    /* An indirect one. */
    CHECK_INT(rte_flow_action_handle_destroy(A.id, handle, NULL), 0);
    NO_HANDLE(&A, COUNT, NULL, EAGAIN, "not ready");

    /* A port that restarts has new ones. */
    CHECK_INT(rte_eth_dev_stop(A.id), 0);
    CHECK_INT(start_port(&A, N_QUEUES), 0);
    flow = CREATE(&A, &rule);
    destroy(&A, flow);
    REFUSED(&A, &rule, EAGAIN, "not ready");
    CTL_OK("set port %u counter-quarantine 0", A.id);
    CREATE(&A, &rule);
    flush();
    CTL_OK("reset-counters");
}

static void
test_no_tcp_flags(void)
{
    struct rte_flow_item_tcp flags = { .hdr.tcp_flags = 0x10 };
    struct rte_flow_item_tcp mask = { .hdr.tcp_flags = 0x17 };
    struct rte_flow_item_tcp ports = { .hdr.src_port = UINT16_MAX };
    struct rule rule = transfer_rule();

    check_simple_nic("no-tcp-flags");
    check_sets(0);
    check_modifies(true);
    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, IPV4, NULL, NULL);
    ITEM(&rule, TCP, &flags, &mask);
    ACTION(&rule, DROP, NULL);
    REFUSED(&A, &rule, ENOTSUP, "TCP flags");
    rule.items[2].mask = &ports;
    CREATE(&A, &rule);
    flush();
    CTL_OK("set profile generous");
    rule.items[2].mask = &mask;
    CREATE(&A, &rule);
    flush();
}

static void
test_no_rewrite(void)
{
    check_simple_nic("no-rewrite");
    check_sets(UINT64_MAX);
    check_modifies(true);
    CTL_OK("set profile generous");
    check_sets(0);
    check_modifies(false);
}

static void
test_nat_bundle(void)
{
    struct rte_flow_action_set_ipv4 ip4 = { htonl(0x0a000009) };
    struct rte_flow_action_set_tp port = { htons(4242) };
    struct rule rule = transfer_rule();

    check_simple_nic("nat-bundle");
    check_sets(0x1fc);
    check_modifies(true);

    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, IPV4, NULL, NULL);
    ITEM(&rule, UDP, NULL, NULL);
    ACTION(&rule, SET_IPV4_SRC, &ip4);
    ACTION(&rule, SET_TP_SRC, &port);
    ACTION(&rule, DROP, NULL);
    CREATE(&A, &rule);
    flush();
    rule.actions[0].type = RTE_FLOW_ACTION_TYPE_SET_IPV4_DST;
    REFUSED(&A, &rule, ENOTSUP, "together");
    rule.actions[1].type = RTE_FLOW_ACTION_TYPE_SET_TP_DST;
    CREATE(&A, &rule);
    flush();

    /* Both sides: two bundles. */
    rule.n_actions = 0;
    ACTION(&rule, SET_TP_DST, &port);
    ACTION(&rule, VOID, NULL);
    ACTION(&rule, SET_IPV4_DST, &ip4);
    ACTION(&rule, SET_IPV4_SRC, &ip4);
    ACTION(&rule, SET_TP_SRC, &port);
    ACTION(&rule, DROP, NULL);
    CREATE(&A, &rule);
    flush();
    rule.n_actions = 0;
    ACTION(&rule, SET_IPV4_SRC, &ip4);
    ACTION(&rule, SET_IPV4_DST, &ip4);
    ACTION(&rule, SET_TP_SRC, &port);
    ACTION(&rule, SET_TP_DST, &port);
    ACTION(&rule, DROP, NULL);
    REFUSED(&A, &rule, ENOTSUP, "together");
    CTL_OK("set profile generous");
    CREATE(&A, &rule);
    flush();
    check_sets(0);
}

static void
test_pretend(void)
{
    struct rte_flow_action_conntrack ct = connection();
    struct rte_flow_action_ethdev to_b = { B.id };
    struct rule rule = dropping_rule(), path = path_rule(NULL, &to_b);
    struct rte_flow *flow;
    struct tracked t;

    CTL_OK("set profile pretend");
    ITEM(&rule, ETH, NULL, NULL);
    flow = CREATE(&A, &rule);
    CHECK(to_software(&A, &tcp_packet));
    CHECK_INT(count(&A, flow), 0);
    flow = CREATE(&A, &path);
    CHECK(to_software(&A, &tcp_packet));
    CHECK(!sent_by(&B));
    CHECK_INT(count(&A, flow), 0);
    REFUSED(&A, &path, EEXIST, "exists");
    CHECK_INT(report(-1, "rules"), 2);
    flush();
    t = track(&ct, true);
    CHECK_INT(segment(true, ACK, 1000, 5000, 100), 0);
    CHECK_INT(ct_state(&t), RTE_FLOW_CONNTRACK_STATE_ESTABLISHED);
    untrack(&t);
    CTL_OK("set profile generous");
}

/* Limits, faults and latency. */

static void
test_limits(void)
{
    struct rte_flow_action_handle *handles[2];
    struct rule rule = dropping_rule();
    struct rte_flow *flow;

    ITEM(&rule, ETH, NULL, NULL);
    CTL_OK("set max-rules 1");
    CTL_OK("set port %u max-rules 2", B.id);
    flow = CREATE(&A, &rule);
    rule.attr.priority = 1;
    REFUSED(&A, &rule, ENOSPC, "full");
    CREATE(&B, &rule);
    destroy(&A, flow);
    flow = CREATE(&A, &rule);
    flush();
    CTL_OK("set max-handles 2");
    handles[0] = HANDLE(&A, COUNT, NULL);
    handles[1] = HANDLE(&A, COUNT, NULL);
    NO_HANDLE(&A, COUNT, NULL, ENOSPC, "full");
    for (int i = 0; i < 2; i++) {
        CHECK_INT(rte_flow_action_handle_destroy(A.id, handles[i], NULL), 0);
    }
    CTL_OK("set profile generous");
}

/* The size of what a rule matches, in a tunnel and outside. */
static void
test_match_size(void)
{
    struct spec s = { .protocol = IPPROTO_TCP, .vlan = 5, .ipv6 = true };
    static const struct tunnel tunnels[] = {
        { .geneve = true, TWO_OPTIONS },
        { .vni = 5 },
    };
    /* Outside a MAC address, of IPv4 all that is matched, a UDP port and a
     * VNI, and with Geneve the length of options, the protocol and an option.
     * Inside a tag, an IPv6 address, and a port and flags of TCP. */
    static const int sizes[] = {
        6 + 13 + 2 + 6 + 8 + 2 + 16 + 3, 6 + 13 + 2 + 3 + 2 + 16 + 3,
    };
    struct rule rule = dropping_rule();
    struct tunnel_rule r;

    for (size_t i = 0; i < ARRAY_SIZE(tunnels); i++) {
        tunnel_pattern(&r, &tunnels[i], &s);
        ACTION(&r.rule, DROP, NULL);
        CTL_OK("set max-match %d", sizes[i] - 1);
        REFUSED(&A, &r.rule, ENOTSUP, "too many bytes");
        CTL_OK("set max-match %d", sizes[i]);
        CREATE(&A, &r.rule);
        flush();
    }
    CTL_OK("set max-match 0");
    ITEM(&rule, ETH, NULL, NULL);
    CREATE(&A, &rule);
    flush();
    CTL_OK("set max-match %u", UINT32_MAX);
}

/* Each operation, told to fail, does, and does nothing. */
static void
test_faults(void)
{
    struct rte_flow_action action = { .type = RTE_FLOW_ACTION_TYPE_COUNT };
    struct rte_flow_action_age age_conf = { .timeout = 5 };
    struct rte_flow_update_age update = { .touch = 1 };
    struct rte_flow_query_count query = { .reset = 0 };
    struct rte_flow_query_age query_age;
    struct rte_flow_action_handle *handle = HANDLE(&A, AGE, &age_conf);
    struct rte_flow_error error;
    struct rule rule = dropping_rule();
    struct rte_flow *flow;
    int n;

    CTL_OK("reset-counters");
    ITEM(&rule, ETH, NULL, NULL);
    flow = CREATE(&A, &rule);
    CTL_OK("fail all next 1 ENOMEM");
    CHECK_INT(rte_flow_validate(A.id, &rule.attr, rule.items, rule.actions,
                                &error), -ENOMEM);
    CHECK(!rte_flow_create(A.id, &rule.attr, rule.items, rule.actions,
                           &error));
    CHECK_INT(rte_errno, ENOMEM);
    CHECK(strstr(error.message, "was told"));
    CHECK_INT(rte_flow_destroy(A.id, flow, &error), -ENOMEM);
    CHECK_INT(rte_flow_query(A.id, flow, &action, &query, &error), -ENOMEM);
    CHECK_INT(rte_flow_isolate(A.id, 0, &error), -ENOMEM);
    CHECK_INT(rte_flow_dev_dump(A.id, NULL, stdout, &error), -ENOMEM);
    CHECK_INT(rte_flow_get_aged_flows(A.id, NULL, 0, &error), -ENOMEM);
    NO_HANDLE(&A, COUNT, NULL, ENOMEM, "was told");
    CHECK_INT(rte_flow_action_handle_destroy(A.id, handle, &error), -ENOMEM);
    CHECK_INT(rte_flow_action_handle_update(A.id, handle, &update, &error),
              -ENOMEM);
    CHECK_INT(rte_flow_action_handle_query(A.id, handle, &query_age, &error),
              -ENOMEM);
    CHECK_INT(report(-1, "rules"), 1);
    CHECK_INT(rte_flow_flush(A.id, &error), -ENOMEM);

    /* A flush that fails destroys the rules, says rte_flow.h. */
    CHECK_INT(report(-1, "rules"), 0);
    CHECK(shown(A.id, "\"handle-query\": {\"ok\": 0, \"failed\": 1, "
                "\"injected\": 1}"));
    CHECK_INT(rte_flow_action_handle_destroy(A.id, handle, &error), 0);

    CTL_OK("fail all off");
    CTL_OK("fail create every 3 EBUSY");
    n = 0;
    for (int i = 0; i < 9; i++) {
        flow = rte_flow_create(A.id, &rule.attr, rule.items, rule.actions,
                               &error);
        if (flow) {
            destroy(&A, flow);
        } else {
            CHECK_INT(rte_errno, EBUSY);
            CHECK_INT(i % 3, 2);
            n++;
        }
    }
    CHECK_INT(n, 3);
    CTL_OK("seed 1");
    CTL_OK("fail create probability 0.1");
    n = 0;
    for (int i = 0; i < 1000; i++) {
        flow = rte_flow_create(A.id, &rule.attr, rule.items, rule.actions,
                               &error);
        if (flow) {
            destroy(&A, flow);
        } else {
            CHECK_INT(rte_errno, EIO);
            n++;
        }
    }
    CHECK(n > 60 && n < 140);
    CTL_OK("fail port %u create probability 1", A.id);
    CHECK(!rte_flow_create(A.id, &rule.attr, rule.items, rule.actions,
                           &error));
    CTL_OK("fail create off");
    flow = CREATE(&A, &rule);
    flush();

    /* Only rules of one priority. */
    CTL_OK("fail priority 1 all every 1");
    flow = CREATE(&A, &rule);
    CHECK_INT(rte_flow_query(A.id, flow, &action, &query, &error), 0);
    destroy(&A, flow);
    rule.attr.priority = 1;
    CHECK(!rte_flow_create(A.id, &rule.attr, rule.items, rule.actions,
                           &error));
    CHECK_INT(rte_flow_validate(A.id, &rule.attr, rule.items, rule.actions,
                                &error), -EIO);
    CTL_OK("fail create off");
    CTL_OK("fail validate off");
    flow = CREATE(&A, &rule);
    CHECK_INT(rte_flow_query(A.id, flow, &action, &query, &error), -EIO);
    CHECK_INT(rte_flow_destroy(A.id, flow, &error), -EIO);
    CHECK_INT(rte_flow_flush(A.id, &error), 0);
    CTL_OK("fail all off");
}

static uint64_t
usec(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * UINT64_C(1000000) + ts.tv_nsec / 1000;
}

static void
test_latency(void)
{
    struct rule rule = dropping_rule();
    uint64_t start;

    ITEM(&rule, ETH, NULL, NULL);
    CTL_OK("latency create 20000");
    start = usec();
    CREATE(&A, &rule);
    CHECK(usec() - start >= 20000);
    CTL_OK("latency all 0");
    start = usec();
    CREATE(&B, &rule);
    CHECK(usec() - start < 20000);
    flush();
}

struct destruction {
    struct rte_flow *flows[1000];
    int n;                      /* How many to destroy. */
    int n_ok;
    _Atomic bool begun;
};

static void *
destroy_main(void *destruction_)
{
    struct destruction *d = destruction_;

    for (int i = 0; i < d->n; i++) {
        d->begun = i > 0;
        d->n_ok += !rte_flow_destroy(A.id, d->flows[i], NULL);
    }
    return NULL;
}

/* Creates 'n' transfer rules on A, each for a source address of its own. */
static void
create_many(struct destruction *d, int n)
{
    struct rte_flow_item_ipv4 source, mask = { .hdr.src_addr = UINT32_MAX };
    struct rte_flow_action_ethdev to_b = { B.id };
    struct rule rule = path_rule(NULL, &to_b);

    d->n = n;
    d->n_ok = 0;
    d->begun = false;
    rule.items[1].spec = &source;
    rule.items[1].mask = &mask;
    for (int i = 0; i < n; i++) {
        source = (struct rte_flow_item_ipv4) {
            .hdr.src_addr = htonl(0x0a000000 + i),
        };
        d->flows[i] = rte_flow_create(A.id, &rule.attr, rule.items,
                                      rule.actions, NULL);
        CHECK(d->flows[i] != NULL);
    }
}

static void
test_latency_of_many(void)
{
    static const struct spec last = { .src_host = 255 };
    static struct destruction d;
    uint64_t start = usec();
    pthread_t thread;

    create_many(&d, 100);
    CTL_OK("latency destroy 1000");
    start = usec();
    destroy_main(&d);
    CHECK(usec() - start >= 100 * 1000);
    CHECK_INT(d.n_ok, 100);
    CHECK_INT(report(-1, "rules"), 0);

    /* It takes 100 seconds, until that is changed.  Meanwhile rules are in
     * force, and other ports do not wait. */
    CTL_OK("latency destroy 0");
    create_many(&d, 1000);
    CTL_OK("latency port %u destroy 100000", A.id);
    start = usec();
    assert(!pthread_create(&thread, NULL, destroy_main, &d));
    while (!d.begun) {
        usleep(1000);
    }
    CHECK(forwards(&A, &B, &last));
    CHECK(report(-1, "rules") > 0);
    CHECK_INT(rte_flow_flush(B.id, NULL), 0);
    CTL_OK("latency port %u destroy 0", A.id);
    assert(!pthread_join(thread, NULL));
    CHECK(usec() - start < 50 * 1000 * 1000);
    CHECK_INT(d.n_ok, 1000);
    CHECK_INT(report(-1, "rules"), 0);
    CHECK(to_software(&A, &last));

    /* So is that of creation. */
    CTL_OK("latency create 1000");
    start = usec();
    create_many(&d, 10);
    CHECK(usec() - start >= 10 * 1000);
    CTL_OK("latency create 0");
    flush();
}

/* Commands. */

static void
test_commands(void)
{
    char name[] = "/tmp/test-emunic.XXXXXX";
    char *answer;
    FILE *stream;

    CTL_ERROR("no command", "frobnicate");
    CTL_ERROR("a setting and a value", "set");
    CTL_ERROR("a setting and a value", "set profile");
    CTL_ERROR("a setting and a value", "set profile no-ct extra");
    CTL_ERROR("no setting", "set frob on");
    CTL_ERROR("no profile", "set profile frob");
    CTL_ERROR("\"on\" or \"off\"", "set age maybe");
    CTL_ERROR("\"drop\" or \"software\"", "set miss off");
    CTL_ERROR("number from 0", "set groups x");
    CTL_ERROR("number from 0", "set max-rules -1");
    CTL_ERROR("number from 0", "set switch-domain 65535");
    CTL_ERROR("\"first\" or \"all\"", "set proxy last");
    CTL_ERROR("number from 0", "set max-rules 99999999999999999999");
    CTL_ERROR("no emulated port", "set port 77 age on");
    CTL_ERROR("no emulated port", "set port");
    CTL_ERROR("no operation", "latency frob 1");
    CTL_ERROR("microseconds", "latency create");
    CTL_ERROR("microseconds", "latency create 99999999");
    CTL_ERROR("no operation", "fail");
    CTL_ERROR("priority needs", "fail priority");
    CTL_ERROR("priority needs", "fail priority x create every 1");
    CTL_ERROR("fail needs", "fail create");
    CTL_ERROR("above 0", "fail create every 0");
    CTL_ERROR("0 to 1", "fail create probability 2");
    CTL_ERROR("0 to 1", "fail create probability x");
    CTL_ERROR("fail has no", "fail create often 2");
    CTL_ERROR("errno", "fail create next 1 EFROB");
    CTL_ERROR("seconds", "advance");
    CTL_ERROR("number", "seed x");
    CTL_ERROR("name of a file", "load");
    CTL_ERROR("No such file", "load /nonexistent/file");
    CTL_ERROR("no emulated port", "show nobody");

    answer = ctl("help");
    CHECK(strstr(answer, "advance SECONDS"));
    free(answer);
    answer = ctl("  # a comment");
    CHECK(!*answer);
    free(answer);
    answer = ctl("show");
    CHECK(strstr(answer, "rules 0, handles 0"));
    CHECK(strstr(answer, "(net_ring_a)"));
    free(answer);

    /* The program for it. */
    if (getenv("EMUNIC_CTL")) {
        char command[256];

        snprintf(command, sizeof command,
                 "LD_PRELOAD= %s set age on > /dev/null",
                 getenv("EMUNIC_CTL"));
        CHECK_INT(run_shell(command), 0);
        snprintf(command, sizeof command,
                 "LD_PRELOAD= %s frobnicate > /dev/null",
                 getenv("EMUNIC_CTL"));
        CHECK(run_shell(command) != 0);
    }

    /* A client that goes without listening. */
    for (int i = 0; i < 10; i++) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);

        strcpy(address.sun_path, getenv("EMUNIC_SOCKET"));
        CHECK_INT(connect(fd, (struct sockaddr *) &address, sizeof address),
                  0);
        CHECK_INT(write(fd, "json\njson\nshow", 14), 14);
        close(fd);
    }

    /* Wrong lines of a file are skipped, and all are named. */
    stream = fdopen(mkstemp(name), "w");
    fputs("set age off\n# fine\nset frob on\n\nload x\nset age on\n"
          "set groups 7\n", stream);
    fclose(stream);
    answer = ctl("load %s", name);
    CHECK(strstr(answer, ":3: there is no setting \"frob\"; "));
    CHECK(strstr(answer, ":5: a file cannot load files"));
    free(answer);
    CHECK(shown(A.id, "\"age\": 1"));
    CHECK(shown(A.id, "\"groups\": 7,"));
    CTL_OK("set profile generous");
    stream = fopen(name, "w");
    fputs("set profile no-ct\n", stream);
    fclose(stream);
    CTL_OK("load %s", name);
    CHECK(shown(A.id, "\"profile\": \"no-ct\""));
    CTL_OK("set profile generous");
    unlink(name);
}

/* What the NIC read at its start has one wrong line: see run-test-emunic. */
static void
test_start_file(void)
{
    CHECK_INT(report(-1, "config_errors"), 1);
}

static void
test_unsupported(void)
{
    struct rte_flow_queue_info queue_info;
    struct rte_flow_port_info info;
    struct rte_flow_error error = { .message = NULL };
    uint16_t proxy = 99;

    CHECK_INT(rte_flow_isolate(A.id, 1, &error), -ENOTSUP);
    CHECK_INT(rte_flow_isolate(A.id, 0, &error), 0);
    CHECK_INT(rte_flow_pick_transfer_proxy(A.id, &proxy, &error), 0);
    CHECK_INT(proxy, A.id);
    CHECK_INT(rte_flow_info_get(A.id, &info, &queue_info, &error), 0);
    CHECK(!info.max_nb_queues && info.max_nb_conn_tracks
          && info.max_nb_counters && info.max_nb_aging_objects);

    CHECK(!rte_flow_pattern_template_create(A.id, NULL, NULL, &error));
    CHECK_INT(rte_errno, ENOTSUP);
    CHECK(strstr(error.message, "not supported"));
    CHECK_INT(rte_flow_pattern_template_destroy(A.id, NULL, NULL), -ENOTSUP);
    CHECK(!rte_flow_actions_template_create(A.id, NULL, NULL, NULL, NULL));
    CHECK_INT(rte_flow_actions_template_destroy(A.id, NULL, NULL), -ENOTSUP);
    CHECK(!rte_flow_template_table_create(A.id, NULL, NULL, 0, NULL, 0,
                                          NULL));
    CHECK_INT(rte_flow_template_table_destroy(A.id, NULL, NULL), -ENOTSUP);
    CHECK(!rte_flow_async_create(A.id, 0, NULL, NULL, NULL, 0, NULL, 0, NULL,
                                 NULL));
    CHECK_INT(rte_flow_async_destroy(A.id, 0, NULL, NULL, NULL, NULL),
              -ENOTSUP);
    CHECK_INT(rte_flow_push(A.id, 0, NULL), -ENOTSUP);
    CHECK_INT(rte_flow_pull(A.id, 0, NULL, 0, NULL), -ENOTSUP);
    CHECK(!rte_flow_async_action_handle_create(A.id, 0, NULL, NULL, NULL,
                                               NULL, NULL));
    CHECK_INT(rte_flow_async_action_handle_destroy(A.id, 0, NULL, NULL, NULL,
                                                   NULL), -ENOTSUP);
    CHECK_INT(rte_flow_async_action_handle_update(A.id, 0, NULL, NULL, NULL,
                                                  NULL, NULL), -ENOTSUP);
    CHECK_INT(rte_flow_async_action_handle_query(A.id, 0, NULL, NULL, NULL,
                                                 NULL, NULL), -ENOTSUP);
}

static void
test_dump(void)
{
    struct rte_flow_item_ipv4 ip4 = { .hdr.src_addr = htonl(0x0a000001) };
    struct rte_flow_item_ipv4 ip4_mask = {
        .hdr.src_addr = UINT32_MAX, .hdr.fragment_offset = htons(0x3fff),
    };
    struct rte_flow_item_eth eth = { .has_vlan = 0 };
    struct rte_flow_item_eth eth_mask = { .has_vlan = 1 };
    struct rte_flow_item_udp udp = { .hdr.dst_port = htons(53) };
    struct rte_flow_item_udp last = { .hdr.dst_port = htons(55) };
    struct rte_flow_item_udp udp_mask = { .hdr.dst_port = 0xffff };
    struct rte_flow_action_age age = { .timeout = 30 };
    struct rule rule = rule_in(3, 4);
    char *text = NULL;
    size_t size;
    FILE *stream;
    struct rte_flow *flow;

    ITEM(&rule, ETH, &eth, &eth_mask);
    ITEM(&rule, IPV4, &ip4, &ip4_mask);
    add_item(&rule, RTE_FLOW_ITEM_TYPE_UDP, &udp, &udp_mask, &last);
    ACTION(&rule, AGE, &age);
    ACTION(&rule, SET_MAC_SRC, mac_a);
    ACTION(&rule, DROP, NULL);
    flow = CREATE(&A, &rule);
    for (int i = 0; i < 2; i++) {
        stream = open_memstream(&text, &size);
        CHECK_INT(rte_flow_dev_dump(A.id, i ? flow : NULL, stream, NULL), 0);
        fclose(stream);
        check(strstr(text, "ingress group 3 priority 4 pattern eth has_vlan "
                     "is 0 / ipv4 fragment_offset is 0x0000 mask 0x3fff src "
                     "is 10.0.0.1 / udp dst from 53 to 55 / end actions age "
                     "timeout 30 / set_mac_src 02:00:00:00:00:01 / drop / "
                     "end hits 0 bytes 0\n") != NULL, __LINE__, "dump", "%s",
              text);
        free(text);
    }
    CHECK_INT(rte_flow_dev_dump(A.id, NULL, NULL, NULL), -EINVAL);

    /* Another range is another match. */
    REFUSED(&A, &rule, EEXIST, "exists");
    last.hdr.dst_port = htons(56);
    CREATE(&A, &rule);
    flush();
}

/* Many rules of one kind are found as fast as one. */
static void
test_many_rules(void)
{
    enum { N = 50000 };
    struct rte_flow_item_ipv4 ip4 = { .hdr.dst_addr = 0 };
    struct rule rule = dropping_rule();
    struct rte_flow **flows = calloc(N, sizeof *flows);
    uint64_t start = usec();

    ITEM(&rule, ETH, NULL, NULL);
    ITEM(&rule, IPV4, &ip4, NULL);
    for (int i = 0; i < N; i++) {
        ip4.hdr.src_addr = htonl(0x0a000001 + i);
        ip4.hdr.dst_addr = htonl(0x0a000002);
        flows[i] = rte_flow_create(A.id, &rule.attr, rule.items,
                                   rule.actions, NULL);
        assert(flows[i]);
    }
    for (int i = 0; i < 1000; i++) {
        CHECK(!to_software(&A, &tcp_packet));
    }
    CHECK_INT(count(&A, flows[0]), 1000);
    CHECK_INT(count(&A, flows[1]), 0);
    for (int i = 0; i < N; i++) {
        destroy(&A, flows[i]);
    }
    CHECK(usec() - start < 20 * 1000 * 1000);
    CHECK_INT(report(-1, "rules"), 0);
    free(flows);
}

/* Threads: two that receive, of which one's packets are forwarded to the queue
 * that the other sends through, and one that changes rules. */

static _Atomic bool stop_threads;

static void *
receive_main(void *port_)
{
    const struct port *port = port_;

    while (!stop_threads) {
        struct rte_mbuf *mbuf = rte_pktmbuf_alloc(pool);

        if (mbuf) {
            rte_pktmbuf_free(mbuf);
            mbuf = build(&tcp_packet);
            if (rte_ring_enqueue(port->rx[0], mbuf)) {
                rte_pktmbuf_free(mbuf);
            }
        }
        mbuf = NULL;
        if (receive(port, 0, &mbuf)) {
            if (!rte_eth_tx_burst(B.id, 0, &mbuf, 1)) {
                rte_pktmbuf_free(mbuf);
            }
        }
        while ((mbuf = sent_by(&B))) {
            rte_pktmbuf_free(mbuf);
        }
    }
    return NULL;
}

static void
test_threads(void)
{
    struct rte_flow_action_ethdev to_b = { B.id };
    struct rte_flow_action_conntrack ct = connection();
    struct rule forward = transfer_rule(), rule = rule_in(0, 0);
    pthread_t threads[2];
    uint64_t start;

    ITEM(&forward, ETH, NULL, NULL);
    ACTION(&forward, REPRESENTED_PORT, &to_b);
    CREATE(&A, &forward);
    stop_threads = false;
    assert(!pthread_create(&threads[0], NULL, receive_main, &A));
    assert(!pthread_create(&threads[1], NULL, receive_main, &B));
    ITEM(&rule, ETH, NULL, NULL);
    start = usec();
    while (usec() - start < 1000 * 1000) {
        struct rte_flow_action_handle *handle = HANDLE(&B, CONNTRACK, &ct);
        struct rte_flow *flow;

        rule.n_actions = 0;
        ACTION(&rule, INDIRECT, handle);
        ACTION(&rule, QUEUE, &(struct rte_flow_action_queue) { 0 });
        flow = CREATE(&B, &rule);
        destroy(&B, flow);
        CHECK_INT(rte_flow_action_handle_destroy(B.id, handle, NULL), 0);
        free(ctl("json"));
    }
    stop_threads = true;
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK(report(A.id, "forwarded") > 0);
    CHECK_INT(report(-1, "stale"), 0);
    flush();
    for (int i = 0; i < 4; i++) {
        receive(&A, 0, NULL);
        receive(&B, 0, NULL);
    }
}

static void
test_empty(void)
{
    struct rte_mbuf *mbuf;

    while ((mbuf = sent_by(&A)) || (mbuf = sent_by(&B))) {
        rte_pktmbuf_free(mbuf);
    }
    CHECK_INT(report(-1, "rules"), 0);
    CHECK_INT(report(-1, "handles"), 0);
    CHECK_INT(rte_mempool_in_use_count(pool), 0);
}

struct test {
    const char *name;
    void (*func)(void);
};

static const struct test tests[] = {
    { "a wrong line of the file read at start is counted", test_start_file },
    { "claims ports without a flow API, and no others", test_claim },
    { "a rule is created, hit, counted and destroyed", test_rule_life },
    { "groups, priorities, JUMP, MARK and RSS", test_groups },
    { "item ETH", test_item_eth },
    { "item VLAN", test_item_vlan },
    { "item ETH with the type of a tag", test_item_tpid },
    { "item IPV4", test_item_ipv4 },
    { "items IPV6 and IPV6_FRAG_EXT", test_item_ipv6 },
    { "items TCP, UDP, SCTP, ICMP and ICMP6", test_item_l4 },
    { "items that are refused", test_item_errors },
    { "attributes that are refused", test_attr_errors },
    { "SET_IPV4, SET_IPV6, SET_TP, TTL, POP_VLAN, checksums", test_rewrite },
    { "SET_MAC, PUSH_VLAN, SET_VLAN, TTL at its end", test_rewrite_l2 },
    { "MODIFY_FIELD", test_modify_field },
    { "MODIFY_FIELD that is refused", test_modify_field_errors },
    { "actions that are refused", test_action_errors },
    { "QUEUE and RSS to other queues", test_queues },
    { "misses, loops and ambiguous rules", test_jumps },
    { "transfer, REPRESENTED_PORT and PORT_ID", test_transfer },
    { "transfer: item REPRESENTED_PORT", test_represented_port },
    { "transfer: rules that overlap", test_overlap },
    { "transfer: a proxy", test_proxy },
    { "transfer: a proxy that closes", test_proxy_closes },
    { "transfer: rules that match and change everything", test_full_rules },
    { "transfer: PORT_REPRESENTOR", test_port_representor },
    { "transfer: switch domains", test_switch_domain },
    { "tunnels: decapsulation", test_decap },
    { "tunnels: outer headers", test_outer_headers },
    { "tunnels: their own headers", test_tunnel_headers },
    { "tunnels: Geneve options", test_geneve_options },
    { "tunnels: encapsulation", test_encap },
    { "tunnels: JUMP", test_tunnel_jump },
    { "tunnels: items that are refused", test_tunnel_item_errors },
    { "tunnels: actions that are refused", test_tunnel_action_errors },
    { "tunnels: not supported", test_no_tunnels },
    { "tunnels: as text", test_tunnel_text },
    { "tunnels: garbage", test_tunnel_garbage },
    { "COUNT, direct and indirect", test_count },
    { "AGE, direct and indirect", test_age },
    { "indirect actions that are refused or stale", test_handles },
    { "stale rules", test_stale_rules },
    { "CONNTRACK: windows", test_ct_windows },
    { "CONNTRACK: states", test_ct_states },
    { "CONNTRACK: modes, updates and bad headers", test_ct_modes },
    { "CONNTRACK: the peer port's rules", test_ct_sharing },
    { "eSwitch", test_eswitch },
    { "CONNTRACK and eSwitch: IPv6, VLAN", test_ct_ipv6 },
    { "a stop takes rules and leaves indirect actions", test_stop },
    { "a close takes everything", test_close },
    { "metadata negotiation", test_metadata },
    { "a VLAN tag that the driver has taken off", test_stripped_vlan },
    { "padding of short packets", test_padding },
    { "garbage", test_garbage },
    { "profile mlx5-sws", test_mlx5_sws },
    { "profile mlx5-hws", test_mlx5_hws },
    { "profile no-ct", test_no_ct },
    { "profile no-age", test_no_age },
    { "profile no-tcp-flags", test_no_tcp_flags },
    { "profile no-rewrite", test_no_rewrite },
    { "profile nat-bundle", test_nat_bundle },
    { "profile pretend", test_pretend },
    { "the order of actions", test_action_order },
    { "full tables", test_limits },
    { "counters that are not ready", test_counter_quarantine },
    { "the size of a match", test_match_size },
    { "faults", test_faults },
    { "latency", test_latency },
    { "latency of many rules, changed meanwhile", test_latency_of_many },
    { "commands and what is wrong with them", test_commands },
    { "what is not supported", test_unsupported },
    { "rules as text", test_dump },
    { "many rules", test_many_rules },
    { "threads", test_threads },
    { "nothing is left", test_empty },
};

/* Returns the first CPU that the program may run on. */
static int
first_cpu(void)
{
    cpu_set_t set;
    int cpu = 0;

    if (sched_getaffinity(0, sizeof set, &set)) {
        return 0;
    }
    while (cpu < CPU_SETSIZE - 1 && !CPU_ISSET(cpu, &set)) {
        cpu++;
    }
    return cpu;
}

int
main(int argc, char *argv[])
{
    char cpu[16];
    char *eal_args[] = {
        argv[0], "--no-huge", "-m", "64", "--no-pci", "-l", cpu,
        "--log-level=*:error", "--no-shconf", "--no-telemetry", NULL,
    };

    setvbuf(stdout, NULL, _IOLBF, 0);
    snprintf(cpu, sizeof cpu, "%d", first_cpu());
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
