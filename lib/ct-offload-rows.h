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

#ifndef CT_OFFLOAD_ROWS_H
#define CT_OFFLOAD_ROWS_H 1

#include <stddef.h>

struct ct_offload_tunnel;
struct ds;
struct json;
struct match;

/* A number that is shown: its name for programs, and its text for people, with
 * which it begins, and what follows it there.  The text and the JSON of a
 * report come from one table of these. */
struct ct_offload_row {
    const char *name;
    const char *before;
    unsigned long long int n;
    const char *after;
};

void ct_offload_rows_show(const struct ct_offload_row *, size_t n,
                          struct ds *, struct json *object);

void ct_offload_match_format(const struct match *,
                             const struct ct_offload_tunnel *, struct ds *);

#endif /* ct-offload-rows.h */
