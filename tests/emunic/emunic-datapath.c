/* SPDX-License-Identifier: Apache-2.0 */

#include <config.h>

#include "emunic.h"

#include <stdlib.h>
#include <string.h>

#include <rte_ether.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>

/* So many packets are looked at, and then forwarded, at a time. */
#define BURST 32

/* The least length of a frame, without its checksum. */
#define MIN_FRAME (RTE_ETHER_MIN_LEN - RTE_ETHER_CRC_LEN)

enum verdict {
    TO_SOFTWARE,
    TO_QUEUE,
    TO_PORT,
    TO_ESWITCH,
    TO_NOWHERE,
};

struct outcome {
    enum verdict verdict;
    uint16_t port;              /* TO_PORT, TO_ESWITCH. */
    uint16_t queue;             /* TO_QUEUE. */
};

/* A queue that packets are sent through.  Entries are found by the driver's
 * pointer to the queue, and never removed: a pointer that comes back is that
 * of a new queue, whose port writes its entry anew when it starts. */
struct tx_queue {
    _Atomic(void *) driver;
    eth_tx_burst_t burst;
    struct emu_port *port;
    rte_spinlock_t lock;
};

#define N_TX_QUEUES 4096
static struct tx_queue tx_queues[N_TX_QUEUES];
static pthread_mutex_t tx_queues_mutex = PTHREAD_MUTEX_INITIALIZER;

/* Returns the entry of 'driver', or the free one where it would be. */
static struct tx_queue *
tx_queue_find(void *driver)
{
    size_t i = emu_hash64((uintptr_t) driver) % N_TX_QUEUES;

    for (size_t n = 0; n < N_TX_QUEUES; n++) {
        struct tx_queue *q = &tx_queues[(i + n) % N_TX_QUEUES];
        void *p = atomic_load_explicit(&q->driver, memory_order_acquire);

        if (!p || p == driver) {
            return q;
        }
    }
    return NULL;
}

/* What applications call as the driver's transmit function: PMD threads, and
 * this NIC when it forwards, share queues of drivers that do not expect it. */
static uint16_t
tx_burst(void *driver, struct rte_mbuf **mbufs, uint16_t n)
{
    struct tx_queue *q = tx_queue_find(driver);
    uint16_t sent;

    if (!q->port->config.tx_lock) {
        return q->burst(driver, mbufs, n);
    }
    if (!rte_spinlock_trylock(&q->lock)) {
        emu_count(q->port, EMU_TX_CONTENDED, 1);
        rte_spinlock_lock(&q->lock);
    }
    sent = q->burst(driver, mbufs, n);
    rte_spinlock_unlock(&q->lock);
    return sent;
}

static void
tx_wrap(struct emu_port *port)
{
    struct rte_eth_fp_ops *ops = &rte_eth_fp_ops[port->id];

    if (ops->tx_pkt_burst == tx_burst) {
        return;
    }
    pthread_mutex_lock(&tx_queues_mutex);
    for (uint16_t i = 0; i < port->n_txq; i++) {
        void *driver = ops->txq.data[i];
        struct tx_queue *q = driver ? tx_queue_find(driver) : NULL;

        if (!q) {
            emu_log("port %u: queue %u cannot be locked: too many queues",
                    port->id, i);
            pthread_mutex_unlock(&tx_queues_mutex);
            return;
        }
        q->burst = ops->tx_pkt_burst;
        q->port = port;
        if (!q->driver) {
            rte_spinlock_init(&q->lock);
            atomic_store_explicit(&q->driver, driver, memory_order_release);
        }
    }
    pthread_mutex_unlock(&tx_queues_mutex);
    ops->tx_pkt_burst = tx_burst;
}

/* Sends 'n' packets out of port 'to', and frees those that it does not
 * take. */
static void
forward(struct emu_port *from, uint16_t to, uint16_t queue,
        struct rte_mbuf **mbufs, uint16_t n)
{
    struct emu_port *port = &emu_ports[to];
    uint16_t sent = 0;

    pthread_rwlock_rdlock(&port->lock);
    if (port->state == EMU_PORT_CLAIMED && port->started && port->n_txq) {
        for (int tries = 0; sent < n && tries < 8; tries++) {
            sent += rte_eth_tx_burst(to, queue % port->n_txq, &mbufs[sent],
                                     n - sent);
        }
    }
    pthread_rwlock_unlock(&port->lock);
    if (sent < n) {
        emu_count(from, EMU_TX_FAILED, n - sent);
        rte_pktmbuf_free_bulk(&mbufs[sent], n - sent);
    }
}

/* Hits a rule's object.  Says in '*peer' where the eSwitch would send the
 * packet, or UINT16_MAX. */
static void
hit_object(struct emu_packet *packet, const struct emu_action *action,
           uint64_t now, uint16_t *peer)
{
    struct emu_object *object = action->object;
    uint32_t length = rte_pktmbuf_pkt_len(packet->mbuf);
    uint8_t flags = RTE_TCP_SYN_FLAG | RTE_TCP_FIN_FLAG | RTE_TCP_RST_FLAG;
    bool established;
    uint16_t other;

    if (object->dead) {
        return;
    }
    switch ((int) object->type) {
    case RTE_FLOW_ACTION_TYPE_COUNT:
        atomic_fetch_add_explicit(&object->hits, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&object->bytes, length,
                                  memory_order_relaxed);
        break;
    case RTE_FLOW_ACTION_TYPE_AGE:
        object->last_hit = now;
        object->aged_out = false;
        break;
    case RTE_FLOW_ACTION_TYPE_CONNTRACK:
        packet->key.f.ct = emu_ct_process(object, action->original,
                                          &packet->segment, &established);
        packet->key.f.layers |= EMU_CT;
        other = (packet->key.f.port == object->port ? object->ct.peer_port
                 : object->port);
        *peer = (established && other != packet->key.f.port
                 && packet->key.f.ct == RTE_FLOW_CONNTRACK_PKT_STATE_VALID
                 && !(packet->key.f.tcp.tcp_flags & flags)
                 ? other : UINT16_MAX);
        break;
    }
}

static void
choose_queue(const struct emu_packet *packet, const struct emu_action *action,
             uint16_t queue, struct outcome *outcome)
{
    for (uint32_t i = 0; i < action->n_queues; i++) {
        if (action->queues[i] == queue) {
            return;
        }
    }
    outcome->verdict = TO_QUEUE;
    outcome->queue = action->queues[emu_packet_hash(packet)
                                    % action->n_queues];
}

/* Runs the actions of 'rule'.  Returns true if it has a JUMP, to '*group'. */
static bool
run_actions(struct emu_port *port, struct emu_packet *packet,
            const struct emu_rule *rule, uint16_t queue, uint64_t now,
            uint16_t *peer, uint32_t *group, struct outcome *outcome)
{
    bool jump = false;

    for (size_t i = 0; i < rule->n_actions; i++) {
        const struct emu_action *action = &rule->actions[i];

        if (action->object) {
            hit_object(packet, action, now, peer);
            continue;
        }
        switch ((int) action->type) {
        case RTE_FLOW_ACTION_TYPE_MARK:
            packet->mbuf->hash.fdir.hi = action->value;
            packet->mbuf->ol_flags |= (RTE_MBUF_F_RX_FDIR
                                       | RTE_MBUF_F_RX_FDIR_ID);
            emu_count(port, EMU_MARKED, 1);
            break;
        case RTE_FLOW_ACTION_TYPE_JUMP:
            *group = action->value;
            jump = true;
            break;
        case RTE_FLOW_ACTION_TYPE_DROP:
            outcome->verdict = TO_NOWHERE;
            break;
        case RTE_FLOW_ACTION_TYPE_QUEUE:
            if (action->value != queue) {
                outcome->verdict = TO_QUEUE;
                outcome->queue = action->value;
            }
            break;
        case RTE_FLOW_ACTION_TYPE_RSS:
            choose_queue(packet, action, queue, outcome);
            break;
        case RTE_FLOW_ACTION_TYPE_PORT_ID:
        case RTE_FLOW_ACTION_TYPE_REPRESENTED_PORT:
            outcome->verdict = TO_PORT;
            outcome->port = action->value;
            break;
        case RTE_FLOW_ACTION_TYPE_PORT_REPRESENTOR:
            *peer = UINT16_MAX;
            break;
        default:
            *peer = UINT16_MAX;
            if (!emu_packet_apply(packet, action)) {
                outcome->verdict = TO_NOWHERE;
                return false;
            }
            break;
        }
    }
    return jump;
}

/* Takes 'packet' through the rules of one domain.  Returns true if one of them
 * had a fate for it. */
static bool
run_domain(struct emu_port *port, bool transfer, struct emu_packet *packet,
           uint16_t queue, uint64_t now, uint16_t *peer,
           struct outcome *outcome)
{
    uint32_t group = 0;

    for (int jumps = 0; jumps <= EMU_MAX_JUMPS; jumps++) {
        struct emu_rule *rule;
        bool ambiguous, overlap;

        rule = emu_rule_lookup(port, transfer, group, packet, &ambiguous,
                               &overlap);
        if (!rule) {
            if (group) {
                emu_count(port, EMU_MISSED, 1);
                if (port->config.miss_drop) {
                    outcome->verdict = TO_NOWHERE;
                    return true;
                }
            }
            return false;
        }
        if (ambiguous) {
            emu_count(port, EMU_AMBIGUOUS, 1);
        }
        if (overlap) {
            emu_count(port, EMU_OVERLAP, 1);
        }
        if (rule->decap_size && rule->decap_size != packet->outer_size) {
            emu_count(port, EMU_DECAP_SIZE, 1);
            return false;
        }
        atomic_fetch_add_explicit(&rule->hits, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&rule->bytes,
                                  rte_pktmbuf_pkt_len(packet->mbuf),
                                  memory_order_relaxed);
        if (!run_actions(port, packet, rule, queue, now, peer, &group,
                         outcome)) {
            return true;
        }
    }
    emu_count(port, EMU_LOOPED, 1);
    outcome->verdict = TO_NOWHERE;
    return true;
}

static struct outcome
classify(struct emu_port *port, struct rte_mbuf *mbuf, uint16_t queue,
         uint64_t now)
{
    struct outcome outcome = { .verdict = TO_SOFTWARE };
    struct emu_packet packet;
    uint16_t peer = UINT16_MAX;

    if (port->config.pretend) {
        return outcome;
    }
    emu_packet_parse(&packet, mbuf);
    packet.key.f.port = port->id;
    packet.key.f.domain = port->config.switch_domain;
    if (!run_domain(port, true, &packet, queue, now, &peer, &outcome)
        || outcome.verdict == TO_SOFTWARE) {
        run_domain(port, false, &packet, queue, now, &peer, &outcome);
    }
    if (port->config.eswitch && peer != UINT16_MAX
        && (outcome.verdict == TO_SOFTWARE || outcome.verdict == TO_QUEUE)) {
        outcome.verdict = TO_ESWITCH;
        outcome.port = peer;
    }
    return outcome;
}

static bool
steer(struct emu_port *port, uint16_t queue, struct rte_mbuf *mbuf)
{
    struct emu_steer *steer = (queue < EMU_MAX_QUEUES ? port->steer[queue]
                               : NULL);
    bool ok = false;

    if (steer) {
        rte_spinlock_lock(&steer->lock);
        if (steer->n < EMU_ARRAY_SIZE(steer->mbufs)) {
            steer->mbufs[(steer->head + steer->n++)
                         % EMU_ARRAY_SIZE(steer->mbufs)] = mbuf;
            ok = true;
        }
        rte_spinlock_unlock(&steer->lock);
    }
    return ok;
}

/* Takes up to 'n' packets that were sent to 'queue' from others. */
static uint16_t
unsteer(struct emu_port *port, uint16_t queue, struct rte_mbuf **mbufs,
        uint16_t n)
{
    struct emu_steer *steer = (queue < EMU_MAX_QUEUES ? port->steer[queue]
                               : NULL);
    uint16_t i = 0;

    if (steer && steer->n) {
        rte_spinlock_lock(&steer->lock);
        for (; i < n && steer->n; i++) {
            mbufs[i] = steer->mbufs[steer->head++];
            steer->head %= EMU_ARRAY_SIZE(steer->mbufs);
            steer->n--;
        }
        rte_spinlock_unlock(&steer->lock);
    }
    return i;
}

/* Makes 'mbuf' as long as frames are on a wire. */
static void
pad(struct rte_mbuf *mbuf)
{
    if (mbuf->nb_segs == 1 && rte_pktmbuf_pkt_len(mbuf) < MIN_FRAME) {
        size_t n = MIN_FRAME - rte_pktmbuf_pkt_len(mbuf);
        void *end = rte_pktmbuf_append(mbuf, n);

        if (end) {
            memset(end, 0, n);
        }
    }
}

/* Looks at up to BURST packets.  Returns how many are for software, which are
 * moved to the front of 'mbufs'. */
static uint16_t
rx_some(struct emu_port *port, uint16_t queue, struct rte_mbuf **mbufs,
        uint16_t n, uint64_t now)
{
    struct rte_mbuf *out[BURST], *burst[BURST];
    uint16_t ports[BURST], n_out = 0, n_software = 0;
    uint64_t bytes = 0;

    pthread_rwlock_rdlock(&port->lock);
    pthread_rwlock_rdlock(&emu_switch_lock);
    for (uint16_t i = 0; i < n; i++) {
        struct rte_mbuf *mbuf = mbufs[i];
        bool stripped = mbuf->ol_flags & RTE_MBUF_F_RX_VLAN_STRIPPED;
        struct outcome outcome;

        if (port->config.padding) {
            pad(mbuf);
        }
        bytes += rte_pktmbuf_pkt_len(mbuf);
        if (stripped) {
            /* Rules match what is on the wire. */
            stripped = !rte_vlan_insert(&mbuf);
        }
        outcome = classify(port, mbuf, queue, now);
        if (stripped && (outcome.verdict == TO_SOFTWARE
                         || outcome.verdict == TO_QUEUE)) {
            rte_vlan_strip(mbuf);
        }

        switch (outcome.verdict) {
        case TO_QUEUE:
            if (steer(port, outcome.queue, mbuf)) {
                emu_count(port, EMU_STEERED, 1);
                break;
            }
            emu_count(port, EMU_STEER_FULL, 1);
            /* Fall through. */
        case TO_SOFTWARE:
            mbufs[n_software++] = mbuf;
            break;
        case TO_PORT:
        case TO_ESWITCH:
            emu_count(port, outcome.verdict == TO_PORT ? EMU_FORWARDED
                      : EMU_ESWITCHED, 1);
            ports[n_out] = outcome.port;
            out[n_out++] = mbuf;
            break;
        case TO_NOWHERE:
            emu_count(port, EMU_DROPPED, 1);
            rte_pktmbuf_free(mbuf);
            break;
        }
    }
    pthread_rwlock_unlock(&emu_switch_lock);
    pthread_rwlock_unlock(&port->lock);
    emu_count(port, EMU_RX_PACKETS, n);
    emu_count(port, EMU_RX_BYTES, bytes);

    /* Without the lock: only one port's is held at a time. */
    for (uint16_t i = 0; i < n_out; i++) {
        uint16_t to = ports[i], n_burst = 0;

        if (to == UINT16_MAX) {
            continue;
        }
        for (uint16_t j = i; j < n_out; j++) {
            if (ports[j] == to) {
                burst[n_burst++] = out[j];
                ports[j] = UINT16_MAX;
            }
        }
        forward(port, to, queue, burst, n_burst);
    }
    return n_software;
}

/* Receives up to 'n' packets from queues that the application does not know
 * of. */
static uint16_t
rx_unknown_queues(struct emu_port *port, struct rte_mbuf **mbufs, uint16_t n)
{
    uint16_t received = 0;

    for (uint16_t i = port->n_rxq; i < port->n_driver_rxq; i++) {
        received += rte_eth_rx_burst(port->id, i, &mbufs[received],
                                     n - received);
    }
    return received;
}

/* What DPDK calls with the packets of a queue before the application sees
 * them. */
static uint16_t
rx_callback(uint16_t port_id, uint16_t queue, struct rte_mbuf **mbufs,
            uint16_t n, uint16_t max, void *aux EMU_UNUSED)
{
    struct emu_port *port = &emu_ports[port_id];
    uint64_t now = n ? emu_now() : 0;
    uint16_t n_software = 0;

    for (uint16_t i = 0; i < n; i += BURST) {
        uint16_t some = RTE_MIN(n - i, BURST);
        uint16_t left = rx_some(port, queue, &mbufs[i], some, now);

        memmove(&mbufs[n_software], &mbufs[i], left * sizeof *mbufs);
        n_software += left;
    }
    n_software += unsteer(port, queue, &mbufs[n_software], max - n_software);
    if (n_software) {
        emu_count(port, EMU_TO_SOFTWARE, n_software);
    }
    if (!queue) {
        n_software += rx_unknown_queues(port, &mbufs[n_software],
                                        max - n_software);
    }
    return n_software;
}

/* Begins to look at the packets of 'port', which has started. */
void
emu_datapath_start(struct emu_port *port)
{
    uint16_t n_rxq = RTE_MIN(port->n_driver_rxq, EMU_MAX_QUEUES);

    for (uint16_t i = 0; i < n_rxq; i++) {
        if (n_rxq > 1 && !port->steer[i]) {
            port->steer[i] = emu_zalloc(sizeof *port->steer[i]);
            rte_spinlock_init(&port->steer[i]->lock);
        }
        if (!port->callbacks[i]) {
            port->callbacks[i] = rte_eth_add_rx_callback(port->id, i,
                                                         rx_callback, NULL);
        }
        if (!port->callbacks[i]) {
            emu_log("port %u: no callback for queue %u", port->id, i);
        }
    }
    if (port->n_driver_rxq > EMU_MAX_QUEUES) {
        emu_log("port %u: only the first %d of %u queues are looked at",
                port->id, EMU_MAX_QUEUES, port->n_driver_rxq);
    }
    tx_wrap(port);

    pthread_rwlock_wrlock(&port->lock);
    port->started = true;
    pthread_rwlock_unlock(&port->lock);
}

/* 'port' is about to stop: rules do not survive that, indirect actions do. */
void
emu_datapath_stop(struct emu_port *port)
{
    size_t n;

    pthread_rwlock_wrlock(&port->lock);
    port->started = false;
    n = emu_rules_flush(port);
    port->counters_at = 0;
    pthread_rwlock_unlock(&port->lock);
    if (n) {
        emu_count(port, EMU_RULES_LOST, n);
        emu_log("port %u (%s) stopped: %"PRIuSIZE" rules lost", port->id,
                port->name, n);
    }
}

/* Looks at the packets of 'port' no longer: it goes away. */
void
emu_datapath_close(struct emu_port *port)
{
    for (uint16_t i = 0; i < EMU_MAX_QUEUES; i++) {
        if (port->callbacks[i]) {
            if (!rte_eth_remove_rx_callback(port->id, i,
                                            port->callbacks[i])) {
                rte_free((void *) (uintptr_t) port->callbacks[i]);
            }
            port->callbacks[i] = NULL;
        }
        if (port->steer[i]) {
            struct rte_mbuf *mbuf;

            while (unsteer(port, i, &mbuf, 1)) {
                rte_pktmbuf_free(mbuf);
            }
            free(port->steer[i]);
            port->steer[i] = NULL;
        }
    }
}
