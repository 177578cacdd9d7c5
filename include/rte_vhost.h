/* SPDX-License-Identifier: Apache-2.0 */

#ifndef COMPAT_RTE_VHOST_H
#define COMPAT_RTE_VHOST_H 1

/* Open vSwitch limits the number of queues of VDUSE devices with
 * rte_vhost_driver_set_max_queue_num().  It calls it for VDUSE devices only,
 * and a DPDK that does not have it does not know these, so that there it is
 * enough that the call compiles.  This header comes first in the search path,
 * and lets the linker find out whether DPDK has the function. */

#include_next <rte_vhost.h>

#include <errno.h>
#include <stdint.h>

int rte_vhost_driver_set_max_queue_num(const char *path,
                                       uint32_t max_queue_pairs)
    __attribute__((weak));

static inline int
compat_vhost_driver_set_max_queue_num(const char *path,
                                      uint32_t max_queue_pairs)
{
    return (rte_vhost_driver_set_max_queue_num
            ? rte_vhost_driver_set_max_queue_num(path, max_queue_pairs)
            : -ENOTSUP);
}
#define rte_vhost_driver_set_max_queue_num \
    compat_vhost_driver_set_max_queue_num

#endif /* COMPAT_RTE_VHOST_H */
