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

#include <config.h>

#include "ct-offload-rows.h"

#include "openvswitch/dynamic-string.h"
#include "openvswitch/json.h"

/* Appends the 'n' 'rows' to 'ds' or, if 'object' is nonnull, adds them to
 * that.  For any thread. */
void
ct_offload_rows_show(const struct ct_offload_row *rows, size_t n,
                     struct ds *ds, struct json *object)
{
    for (size_t i = 0; i < n; i++) {
        if (object) {
            json_object_put(object, rows[i].name,
                            json_integer_create(rows[i].n));
        } else {
            ds_put_format(ds, "%s%llu%s", rows[i].before, rows[i].n,
                          rows[i].after);
        }
    }
}
