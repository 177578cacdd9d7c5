/* SPDX-License-Identifier: Apache-2.0 */

#ifndef COMPAT_RTE_VHOST_H
#define COMPAT_RTE_VHOST_H 1

/* Open vSwitch limits the number of queues of VDUSE devices with
 * rte_vhost_driver_set_max_queue_num(), which DPDK has since 23.11.  It calls
 * it for VDUSE devices only, which 22.11 does not know, so that there it is
 * enough that the function exists.  This header comes first in the search
 * path, and adds what the header of the same name in DPDK lacks. */

#include_next <rte_vhost.h>

#include <errno.h>
#include <rte_version.h>

#if RTE_VERSION < RTE_VERSION_NUM(23, 11, 0, 0)
static inline int
rte_vhost_driver_set_max_queue_num(const char *path, uint32_t max_queue_pairs)
{
    (void) path;
    (void) max_queue_pairs;
    return -ENOTSUP;
}
#endif

#endif /* COMPAT_RTE_VHOST_H */
