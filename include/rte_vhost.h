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
