/* SPDX-License-Identifier: Apache-2.0 */

#include <config.h>

#include "emunic.h"

/* All transfer rules are in one place: those that are created on one port may
 * be for the packets of another.  Domains keep switches apart. */
pthread_rwlock_t emu_switch_lock =
    PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
struct emu_map emu_switch_groups;

/* Says whether ports 'a' and 'b', which are claimed, are of one switch. */
bool
emu_ports_connected(uint16_t a, uint16_t b)
{
    return (emu_ports[a].config.switch_domain
            == emu_ports[b].config.switch_domain);
}

/* Returns the port on which the transfer rules of 'port' are to be created: in
 * the switches where one port has all of them, the one that was claimed
 * first. */
struct emu_port *
emu_port_proxy(struct emu_port *port)
{
    struct emu_port *proxy = port;

    for (uint16_t i = 0; port->config.proxy_first && i < RTE_MAX_ETHPORTS;
         i++) {
        struct emu_port *other = &emu_ports[i];

        if (other->state == EMU_PORT_CLAIMED
            && emu_ports_connected(port->id, i)
            && other->claimed < proxy->claimed) {
            proxy = other;
        }
    }
    return proxy;
}
