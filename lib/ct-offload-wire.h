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

#ifndef CT_OFFLOAD_WIRE_H
#define CT_OFFLOAD_WIRE_H 1

#include <stdbool.h>
#include <stdint.h>

#include "compiler.h"
#include "dp-packet.h"

/* Is what ct() sees what came from the port on the wire?
 * ======================================================
 *
 * Hardware matches packets as they come from a port.  Between the port and
 * ct() anything may change them: NAT, set and push actions, tunnels,
 * reassembly, the controller.  So, while connections are offloaded, a packet
 * that is received gets a fingerprint of what hardware matches:
 *
 *     VLAN tags (TPID and VID), addresses, IP protocol, ports (for ICMP: type,
 *     code and identifier).
 *
 * It is in the packet's metadata, as 'ct_wire', and never 0.  At ct(), the
 * fingerprint of the packet as it is then tells whether any of these has
 * changed.  What has changed and has changed back is the same.
 *
 * 'ct_wire' is 0 for a packet that no port has received as it is: which was
 * made here, as by the controller or by reassembly, or has been put into a
 * tunnel; and for one that hardware cannot match like that: a fragment, one
 * with IPv6 extension headers, one without IP.  It is also 0 for what was
 * received before the first connection was offloaded.
 *
 * A packet that has been taken out of a tunnel has the fingerprint of what was
 * inside, but that is not what came from the port. */

uint32_t ct_offload_wire_fingerprint(const struct dp_packet *);
bool ct_offload_wire_is_same(const struct dp_packet *);

/* 'packet', with new metadata, was just received from a port, or taken out of
 * a tunnel.  'active' is ct_offload_is_active(). */
static inline void
ct_offload_wire_receive(struct dp_packet *packet, bool active)
{
    if (OVS_UNLIKELY(active)) {
        packet->md.ct_wire = ct_offload_wire_fingerprint(packet);
    }
}

/* Was 'packet' received from a port, and is it known what it was like? */
static inline bool
ct_offload_wire_is_known(const struct dp_packet *packet)
{
    return packet->md.ct_wire != 0;
}

#endif /* ct-offload-wire.h */
