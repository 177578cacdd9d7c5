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

#ifndef TEST_CT_OFFLOAD_BENCH_H
#define TEST_CT_OFFLOAD_BENCH_H 1

#include <netinet/in.h>
#include <string.h>
#include <time.h>

#include "dp-packet.h"
#include "flow.h"
#include "packets.h"
#include "unaligned.h"
#include "util.h"

/* What the programs that measure conntrack offload have in common: time, and
 * packets of many connections. */

static inline long long int
clock_ns(clockid_t id)
{
    struct timespec ts;

    ovs_assert(!clock_gettime(id, &ts));
    return ts.tv_sec * 1000LL * 1000 * 1000 + ts.tv_nsec;
}

static inline long long int
now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

/* Connection number N has a client address and port of its own. */

enum { SERVER_PORT = 80, N_CLIENT_PORTS = 1 << 15, FIRST_CLIENT_PORT = 2000 };

static inline ovs_be32
client_addr(uint32_t n)
{
    return htonl(0x0a000000 + n / N_CLIENT_PORTS);
}

static inline ovs_be16
client_port(uint32_t n)
{
    return htons(FIRST_CLIENT_PORT + n % N_CLIENT_PORTS);
}

static inline ovs_be32
server_addr(void)
{
    return htonl(0xc0a80001);
}

/* Stores in 'flow' what packets of connection number 'n' look like. */
static inline void
conn_flow(uint32_t n, uint8_t proto, bool reply, struct flow *flow)
{
    memset(flow, 0, sizeof *flow);
    flow->dl_type = htons(ETH_TYPE_IP);
    flow->nw_proto = proto;
    flow->nw_ttl = 64;
    flow->nw_src = reply ? server_addr() : client_addr(n);
    flow->nw_dst = reply ? client_addr(n) : server_addr();
    flow->tp_src = reply ? htons(SERVER_PORT) : client_port(n);
    flow->tp_dst = reply ? client_port(n) : htons(SERVER_PORT);
}

/* Packets of connections, one of each, in one direction. */
struct burst {
    struct dp_packet_batch batch;
    uint8_t proto;
    bool reply;
};

/* Composes packets for 'n_packets' connections from 'first' on.  'tcp_flags'
 * and what follows is for TCP only. */
static inline void
burst_init(struct burst *burst, size_t n_packets, uint8_t proto, bool reply,
           uint32_t first, uint16_t tcp_flags, uint32_t seq, uint32_t ack)
{
    burst->proto = proto;
    burst->reply = reply;
    dp_packet_batch_init(&burst->batch);
    for (uint32_t n = first; n < first + n_packets; n++) {
        struct dp_packet *packet = dp_packet_new(0);
        struct flow flow;

        conn_flow(n, proto, reply, &flow);
        flow.tcp_flags = htons(tcp_flags);
        flow_compose(packet, &flow, NULL, 64, false);
        pkt_metadata_init(&packet->md, u32_to_odp(1));

        if (proto == IPPROTO_TCP) {
            struct tcp_header *tcp = dp_packet_l4(packet);

            tcp->tcp_winsz = htons(65535);
            put_16aligned_be32(&tcp->tcp_seq, htonl(seq));
            put_16aligned_be32(&tcp->tcp_ack, htonl(ack));
        }
        /* Do not measure checksums. */
        dp_packet_ip_checksum_set_good(packet);
        dp_packet_l4_checksum_set_good(packet);
        dp_packet_batch_add(&burst->batch, packet);
    }
}

/* Makes the packets be about the connections from 'first' on. */
static inline void
burst_set_conns(struct burst *burst, uint32_t first)
{
    struct dp_packet *packet;

    DP_PACKET_BATCH_FOR_EACH (i, packet, &burst->batch) {
        struct ip_header *ip = dp_packet_l3(packet);
        ovs_be16 *ports = dp_packet_l4(packet);

        put_16aligned_be32(burst->reply ? &ip->ip_dst : &ip->ip_src,
                           client_addr(first + i));
        ports[burst->reply] = client_port(first + i);
    }
}

static inline void
burst_destroy(struct burst *burst)
{
    dp_packet_delete_batch(&burst->batch, true);
}

#endif /* test-ct-offload-bench.h */
