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

#include "ct-offload.h"
#include "openvswitch/dynamic-string.h"
#include "openvswitch/json.h"
#include "openvswitch/match.h"
#include "util.h"

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

static void
format_eth(const char *name, struct eth_addr eth, struct eth_addr mask,
           struct ds *ds)
{
    if (!eth_addr_is_zero(mask)) {
        ds_put_cstr(ds, name);
        eth_format_masked(eth, &mask, ds);
        ds_put_char(ds, ',');
    }
}

/* Appends to 'ds' what packets are like that 'match' takes and, if that is
 * nonnull and not of type none, 'tunnel'. */
void
ct_offload_match_format(const struct match *match,
                        const struct ct_offload_tunnel *tunnel, struct ds *ds)
{
    static const char *const types[] = {
        [CT_OFFLOAD_TUNNEL_VXLAN] = "vxlan",
        [CT_OFFLOAD_TUNNEL_GENEVE] = "geneve",
    };

    if (tunnel && tunnel->type) {
        const struct tun_metadata *value = &match->flow.tunnel.metadata;
        const struct tun_metadata *mask = &match->wc.masks.tunnel.metadata;

        ds_put_format(ds, "%s(", types[tunnel->type]);
        format_eth("dl_src=", tunnel->src, tunnel->src_mask, ds);
        format_eth("dl_dst=", tunnel->dst, tunnel->dst_mask, ds);
        if (mask->present.len && value->present.len) {
            ds_put_cstr(ds, "options=");
            ds_put_hex(ds, value->opts.gnv, value->present.len);
            ds_put_char(ds, '/');
            ds_put_hex(ds, mask->opts.gnv, value->present.len);
        }
        ds_chomp(ds, ',');
        ds_put_cstr(ds, "),");
    }
    match_format(match, NULL, ds, OFP_DEFAULT_PRIORITY);
}
