/* SPDX-License-Identifier: Apache-2.0 */

#ifndef CT_OFFLOAD_ROOM_H
#define CT_OFFLOAD_ROOM_H 1

#include <stdbool.h>

/* The limit on the number of offloaded connections
 * ================================================
 *
 * "other_config:hw-offload-ct-size" limits how many connections may be
 * offloaded at once.  Each thread takes some in advance while there is plenty,
 * so that threads seldom write to what they share.  Any thread may call these
 * functions. */

#define CT_OFFLOAD_DEFAULT_ROOM 250000

bool ct_offload_reserve(void);
void ct_offload_unreserve(void);
bool ct_offload_room_is_left(void);
void ct_offload_room_collect(void);
void ct_offload_room_set_limit(unsigned int);
unsigned int ct_offload_room_get_limit(void);

#endif /* ct-offload-room.h */
