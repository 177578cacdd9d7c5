/* SPDX-License-Identifier: Apache-2.0 */

#include <config.h>

#include "emunic.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <rte_errno.h>

struct emu_port emu_ports[RTE_MAX_ETHPORTS];
_Atomic uint64_t emu_n_leaked_rules;

const char *const emu_counter_names[EMU_N_COUNTERS] = {
    [EMU_RX_PACKETS] = "rx_packets",
    [EMU_RX_BYTES] = "rx_bytes",
    [EMU_TO_SOFTWARE] = "to_software",
    [EMU_DROPPED] = "dropped",
    [EMU_FORWARDED] = "forwarded",
    [EMU_ESWITCHED] = "eswitched",
    [EMU_TX_FAILED] = "tx_failed",
    [EMU_MARKED] = "marked",
    [EMU_MISSED] = "missed",
    [EMU_AMBIGUOUS] = "ambiguous",
    [EMU_OVERLAP] = "overlap",
    [EMU_DECAP_SIZE] = "decap_size",
    [EMU_LOOPED] = "looped",
    [EMU_STEERED] = "steered",
    [EMU_STEER_FULL] = "steer_full",
    [EMU_TX_CONTENDED] = "tx_contended",
    [EMU_STALE] = "stale",
    [EMU_RULES_LOST] = "rules_lost",
};

static _Atomic uint64_t clock_offset; /* Milliseconds. */

/* Returns 'size' bytes of zeros.  Does not return if there are none. */
void *
emu_zalloc(size_t size)
{
    void *p = calloc(1, size ? size : 1);

    if (!p) {
        fputs("emunic: out of memory\n", stderr);
        abort();
    }
    return p;
}

/* Writes a line to the log: the file $EMUNIC_LOG, or else stderr. */
void
emu_log(const char *format, ...)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static FILE *log;
    va_list args;

    pthread_mutex_lock(&mutex);
    if (!log) {
        const char *name = getenv("EMUNIC_LOG");

        log = name && *name ? fopen(name, "a") : stderr;
        if (!log) {
            fprintf(stderr, "emunic: %s: %s\n", name, rte_strerror(errno));
            log = stderr;
        }
    }
    fputs("emunic: ", log);
    va_start(args, format);
    vfprintf(log, format, args);
    va_end(args);
    fputc('\n', log);
    fflush(log);
    pthread_mutex_unlock(&mutex);
}

/* Returns the NIC's time in milliseconds. */
uint64_t
emu_now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
    return ts.tv_sec * UINT64_C(1000) + ts.tv_nsec / 1000000
           + atomic_load_explicit(&clock_offset, memory_order_relaxed);
}

/* Makes it 'seconds' later for the NIC, so that tests need not wait. */
void
emu_advance(unsigned int seconds)
{
    atomic_fetch_add(&clock_offset, seconds * UINT64_C(1000));
}

/* Spreads the bits of 'x'. */
uint64_t
emu_hash64(uint64_t x)
{
    x ^= x >> 33;
    x *= UINT64_C(0xff51afd7ed558ccd);
    x ^= x >> 33;
    x *= UINT64_C(0xc4ceb9fe1a85ec53);
    return x ^ x >> 33;
}

/* Frees what 'map', which is empty, has allocated. */
void
emu_map_destroy(struct emu_map *map)
{
    free(map->buckets);
    map->buckets = NULL;
    map->n_buckets = 0;
}

static void
map_link(struct emu_map *map, struct emu_node *node)
{
    struct emu_node **bucket = &map->buckets[node->hash
                                             & (map->n_buckets - 1)];

    node->next = *bucket;
    *bucket = node;
}

/* Adds 'node' to 'map'. */
void
emu_map_insert(struct emu_map *map, struct emu_node *node, uint64_t hash)
{
    if (map->n >= map->n_buckets) {
        struct emu_map old = *map;

        map->n_buckets = old.n_buckets ? old.n_buckets * 2 : 4;
        map->buckets = emu_zalloc(map->n_buckets * sizeof *map->buckets);
        for (size_t i = 0; i < old.n_buckets; i++) {
            struct emu_node *next;

            for (struct emu_node *n = old.buckets[i]; n; n = next) {
                next = n->next;
                map_link(map, n);
            }
        }
        free(old.buckets);
    }
    node->hash = hash;
    map_link(map, node);
    map->n++;
}

/* Takes 'node' from 'map', which it is in. */
void
emu_map_remove(struct emu_map *map, struct emu_node *node)
{
    struct emu_node **p = &map->buckets[node->hash & (map->n_buckets - 1)];

    while (*p != node) {
        p = &(*p)->next;
    }
    *p = node->next;
    map->n--;
}

/* Returns the first node of 'map' with 'hash', or NULL. */
struct emu_node *
emu_map_first(const struct emu_map *map, uint64_t hash)
{
    struct emu_node *node = NULL;

    if (map->n_buckets) {
        node = map->buckets[hash & (map->n_buckets - 1)];
        while (node && node->hash != hash) {
            node = node->next;
        }
    }
    return node;
}

/* Returns the node after 'node' that has the same hash, or NULL. */
struct emu_node *
emu_map_next(const struct emu_node *node)
{
    uint64_t hash = node->hash;
    struct emu_node *next = node->next;

    while (next && next->hash != hash) {
        next = next->next;
    }
    return next;
}

/* Returns the node after 'last' in no particular order, the first one if
 * 'last' is NULL, or NULL at the end. */
struct emu_node *
emu_map_any(const struct emu_map *map, struct emu_node *last)
{
    size_t i = 0;

    if (last) {
        if (last->next) {
            return last->next;
        }
        i = (last->hash & (map->n_buckets - 1)) + 1;
    }
    for (; i < map->n_buckets; i++) {
        if (map->buckets[i]) {
            return map->buckets[i];
        }
    }
    return NULL;
}

static int
port_event(uint16_t port_id, enum rte_eth_event_type type EMU_UNUSED,
           void *aux EMU_UNUSED, void *ret EMU_UNUSED)
{
    if (port_id < RTE_MAX_ETHPORTS) {
        emu_port_forget(&emu_ports[port_id]);
    }
    return 0;
}

static void
ports_init(void)
{
    pthread_rwlockattr_t attr;

    pthread_rwlockattr_init(&attr);
    pthread_rwlockattr_setkind_np(
        &attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    for (uint16_t i = 0; i < RTE_MAX_ETHPORTS; i++) {
        struct emu_port *port = &emu_ports[i];

        port->id = i;
        pthread_mutex_init(&port->api, NULL);
        pthread_rwlock_init(&port->lock, &attr);
    }
    pthread_rwlockattr_destroy(&attr);

    /* A device can go without rte_eth_dev_close(). */
    rte_eth_dev_callback_register(RTE_ETH_ALL, RTE_ETH_EVENT_DESTROY,
                                  port_event, NULL);
}

/* Gets 'emu_ports' ready for use.  Does nothing the next time. */
void
emu_ports_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, ports_init);
}

/* Makes 'port', which was not claimed, a port of the emulated NIC. */
void
emu_port_claim(struct emu_port *port)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static uint64_t n_claims;
    struct rte_eth_dev_info info;

    emu_control_start();

    pthread_mutex_lock(&mutex);
    if (port->state == EMU_PORT_UNKNOWN) {
        if (rte_eth_dev_get_name_by_port(port->id, port->name)) {
            snprintf(port->name, sizeof port->name, "port%u", port->id);
        }
        if (!rte_eth_dev_info_get(port->id, &info)) {
            port->n_rxq = port->n_driver_rxq = info.nb_rx_queues;
            port->n_txq = info.nb_tx_queues;
        }
        pthread_rwlock_wrlock(&port->lock);
        emu_config_init(&port->config);
        memset(port->ops, 0, sizeof port->ops);
        for (int i = 0; i < EMU_N_COUNTERS; i++) {
            atomic_store(&port->counters[i], 0);
        }
        port->claimed = ++n_claims;
        port->started = false;
        port->negotiated = false;
        port->state = EMU_PORT_CLAIMED;
        pthread_rwlock_unlock(&port->lock);
        emu_log("port %u (%s) has no flow API of its own: emulated",
                port->id, port->name);
    }
    pthread_mutex_unlock(&mutex);
}

/* Drops what 'port' still has: the device goes away. */
void
emu_port_forget(struct emu_port *port)
{
    size_t n_rules, n_handles;

    if (port->state != EMU_PORT_CLAIMED) {
        port->state = EMU_PORT_UNKNOWN;
        return;
    }
    emu_datapath_close(port);
    pthread_rwlock_wrlock(&port->lock);
    n_rules = emu_rules_flush(port);
    emu_map_destroy(&port->rules);
    emu_map_destroy(&port->groups);
    n_handles = emu_objects_close(port->id);
    port->started = false;
    port->state = EMU_PORT_UNKNOWN;
    pthread_rwlock_unlock(&port->lock);

    atomic_fetch_add(&emu_n_leaked_rules, n_rules);
    atomic_fetch_add(&emu_n_leaked_handles, n_handles);
    if (n_rules || n_handles) {
        emu_log("port %u (%s) closed with %"PRIuSIZE" rules and %"PRIuSIZE
                " handles left", port->id, port->name, n_rules, n_handles);
    }
}

/* Begins 'op' on 'port': waits for the calls before it, takes as long as the
 * configuration says, and fails if it says so.  'priority' is that of the rule
 * which 'op' is about, if any.  Returns 0 or a negative errno value;
 * emu_op_end() has to follow in either case. */
int
emu_op_begin(struct emu_port *port, enum emu_op op, const uint32_t *priority,
             struct rte_flow_error *error)
{
    struct emu_fault *fault = &port->config.faults[op];
    uint32_t latency;
    bool fail = false;

    pthread_mutex_lock(&port->api);
    pthread_rwlock_rdlock(&port->lock);
    latency = port->config.latency_us[op];
    pthread_rwlock_unlock(&port->lock);
    if (latency) {
        usleep(latency);
    }

    pthread_rwlock_wrlock(&port->lock);
    if (fault->any_priority
        || (priority && *priority == fault->priority)) {
        if (fault->next) {
            fault->next--;
            fail = true;
        }
        if (fault->every && ++fault->n_calls >= fault->every) {
            fault->n_calls = 0;
            fail = true;
        }
        if (fault->probability > 0 && emu_random() < fault->probability) {
            fail = true;
        }
    }
    if (fail) {
        port->ops[op].n_injected++;
        return rte_flow_error_set(error, fault->error ? fault->error : EIO,
                                  RTE_FLOW_ERROR_TYPE_UNSPECIFIED, NULL,
                                  "failure that the emulated NIC was told");
    }
    return 0;
}

/* Ends 'op', which emu_op_begin() has begun, and returns 'error'. */
int
emu_op_end(struct emu_port *port, enum emu_op op, int error)
{
    if (error) {
        port->ops[op].n_failed++;
    } else {
        port->ops[op].n_ok++;
    }
    pthread_rwlock_unlock(&port->lock);
    pthread_mutex_unlock(&port->api);
    return error;
}
