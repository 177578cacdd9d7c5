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
