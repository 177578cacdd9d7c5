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

#include "ct-offload-path.h"

#include <inttypes.h>
#include <string.h>

#include "conntrack-offload-state.h"
#include "ct-offload-fence.h"
#include "ct-offload-path-private.h"
#include "ct-offload-port.h"
#include "ct-offload-private.h"
#include "ct-offload-rows.h"
#include "ct-offload-trace.h"
#include "odp-util.h"
#include "openvswitch/dynamic-string.h"
#include "openvswitch/json.h"
#include "openvswitch/ofpbuf.h"
#include "sset.h"

/* "ct-offload/show". */

static void
show_traces(struct ds *ds, struct json *json)
{
    struct json *object = json ? json_object_create() : NULL;
    const char *sep = "";

    if (!json) {
        ds_put_cstr(ds, "  traces: ");
    }
    for (int i = 0; i < CT_TRACE_N_RESULTS; i++) {
        const char *name = ct_trace_result_to_string(i);

        if (json) {
            json_object_put(object, name,
                            json_integer_create(ct_trace_count(i)));
        } else {
            ds_put_format(ds, "%s%llu %s", sep, ct_trace_count(i), name);
            sep = ", ";
        }
    }
    if (json) {
        json_object_put(json, "traces", object);
    } else {
        ds_put_char(ds, '\n');
    }
}

static void
show_ends(const struct ct_path_counts *counts, struct ds *ds,
          struct json *json)
{
    static const char *names[PATH_N_ENDS] = {
        [PATH_END_MEGAFLOW] = "megaflows",
        [PATH_END_CONN] = "connections",
        [PATH_END_IDLE] = "idle",
        [PATH_END_CONFIG] = "configuration",
        [PATH_END_KEY] = "same match",
        [PATH_END_HARDWARE] = "hardware",
        [PATH_END_UNSEEN] = "not followed",
        [PATH_END_ERROR] = "errors",
    };
    struct json *object = json ? json_object_create() : NULL;
    const char *sep = "";

    if (!json) {
        ds_put_cstr(ds, "  paths ended by: ");
    }
    for (int i = 0; i < PATH_N_ENDS; i++) {
        if (json) {
            json_object_put(object, names[i],
                            json_integer_create(counts->ended[i]));
        } else {
            ds_put_format(ds, "%s%s %llu", sep, names[i], counts->ended[i]);
            sep = ", ";
        }
    }
    if (json) {
        json_object_put(json, "ended-by", object);
    } else {
        ds_put_char(ds, '\n');
    }
}

static void
show_unreliable(struct ds *ds, struct json *json)
{
    struct json *array = json ? json_array_create_empty() : NULL;
    struct sset names = SSET_INITIALIZER(&names);
    const char **sorted, *sep = "  ports that do not follow rules: ";

    ct_offload_port_get_unreliable(&names);
    sorted = sset_sort(&names);
    for (size_t i = 0; i < sset_count(&names); i++) {
        if (json) {
            json_array_add(array, json_string_create(sorted[i]));
        } else {
            ds_put_format(ds, "%s%s", sep, sorted[i]);
            sep = ", ";
        }
    }
    if (json) {
        json_object_put(json, "not-following", array);
    } else if (*sep == ',') {
        ds_put_char(ds, '\n');
    }
    free(sorted);
    sset_destroy(&names);
}

/* What rules of paths match, but for the values. */
struct rule_mask {
    struct hmap_node node;
    struct flow_wildcards wc;
    ovs_be16 dl_type;
    uint8_t nw_proto;
};

/* Adds the mask of paths of 'chain' to 'masks', if it is a new one. */
static void
masks_add(struct hmap *masks, const struct ct_chain *chain)
    OVS_REQUIRES(ct_chains_mutex)
{
    const struct match *match = &chain->merge->match;
    uint32_t hash = flow_wildcards_hash(&match->wc, match->flow.nw_proto);
    struct rule_mask *mask;

    HMAP_FOR_EACH_WITH_HASH (mask, node, hash, masks) {
        if (flow_wildcards_equal(&mask->wc, &match->wc)
            && mask->dl_type == match->flow.dl_type
            && mask->nw_proto == match->flow.nw_proto) {
            return;
        }
    }
    mask = xmalloc(sizeof *mask);
    mask->wc = match->wc;
    mask->dl_type = match->flow.dl_type;
    mask->nw_proto = match->flow.nw_proto;
    hmap_insert(masks, &mask->node, hash);
}

/* Returns how many different masks rules of paths have.  Hardware may look
 * each packet up by all of them. */
static size_t
count_masks(void)
    OVS_REQUIRES(ct_chains_mutex)
{
    struct hmap masks = HMAP_INITIALIZER(&masks);
    const struct ct_chain *chain;
    struct rule_mask *mask;
    size_t n;

    HMAP_FOR_EACH (chain, node, &ct_chains) {
        if (chain->n_paths) {
            masks_add(&masks, chain);
        }
    }
    n = hmap_count(&masks);
    HMAP_FOR_EACH_POP (mask, node, &masks) {
        free(mask);
    }
    hmap_destroy(&masks);
    return n;
}

/* Shows how paths are doing; as text, only once there was anything to do. */
void
ct_path_show(struct ds *ds, struct json *json)
{
    unsigned long long int n_refused = 0, n_chains = 0, n_traces = 0;
    struct ct_fence_counts fences;
    struct ct_path_counts counts;
    struct ct_chain *chain;
    size_t n = ct_path_count(), n_masks;
    long long int pass;

    for (int i = 0; i < CT_TRACE_N_RESULTS; i++) {
        n_traces += ct_trace_count(i);
    }
    if (!n_traces && !json) {
        return;
    }
    atomic_read_relaxed(&ct_path_pass_ms, &pass);
    ovs_mutex_lock(&ct_chains_mutex);
    counts = ct_path_counts;
    ct_fence_get_counts(&fences);
    HMAP_FOR_EACH (chain, node, &ct_chains) {
        n_refused += chain->refused != CT_MERGE_OK;
        n_chains += chain->refused == CT_MERGE_OK;
    }
    n_masks = count_masks();
    ovs_mutex_unlock(&ct_chains_mutex);

    const struct ct_offload_row rows[] = {
        { "paths", ", ", n, " paths" },
        { "chains", " in ", n_chains, " chains" },
        { "chains-refused", ", ", n_refused, " chains refused\n" },
    };
    const struct ct_offload_row more[] = {
        { "made", "  paths: ", counts.made, " made" },
        { "failed", ", ", counts.failed, " failed" },
        { "refused", ", ", counts.refused, " refused" },
        { "not-held", ", ", counts.not_held, " not held" },
        { "no-port", ", ", counts.no_port, " to unknown ports" },
        { "changed", ", ", counts.changed, " changed\n" },
        { "masks", "  rules: ", n_masks, " masks\n" },
        { "pass-ms", "  sampling: a pass takes ", pass, " ms\n" },
    };
    const struct ct_offload_row fence_rows[] = {
        { "fences", "  fences: ", fences.n_up, " up" },
        { "fences-raised", ", ", fences.raised, " raised" },
        { "fences-refused", ", ", fences.refused, " refused\n" },
    };
    bool on = ct_offload_forwarding() != 0;

    if (json) {
        json_object_put(json, "forwarding", json_boolean_create(on));
    } else {
        ds_put_format(ds, "forwarding: %s", on ? "on" : "off");
    }
    ct_offload_rows_show(rows, ARRAY_SIZE(rows), ds, json);
    show_traces(ds, json);
    show_ends(&counts, ds, json);
    ct_offload_rows_show(more, ARRAY_SIZE(more), ds, json);
    if (json || fences.raised || fences.refused) {
        ct_offload_rows_show(fence_rows, ARRAY_SIZE(fence_rows), ds, json);
    }
    show_unreliable(ds, json);
}

/* Paths. */

/* Appends what 'path', which is held, matches to 'match', and what it does to
 * 'actions'.  Returns false if it is about to end. */
static bool
path_format_rule(const struct path *path, struct ds *match_,
                 struct ds *actions_)
    OVS_EXCLUDED(ct_chains_mutex)
{
    const struct ct_merge *merge = path->chain->merge;
    struct ct_merge_path values;
    struct ofpbuf actions;
    struct match match;

    if (!ct_path_describe(path, &values)) {
        return false;
    }
    ct_merge_get_match(merge, &values, &match);
    ct_offload_match_format(&match, &merge->tunnel, match_);
    ofpbuf_init(&actions, 0);
    ct_merge_put_actions(merge, &values, &actions);
    format_odp_actions(actions_, actions.data, actions.size, NULL);
    ofpbuf_uninit(&actions);
    return true;
}

struct show_paths_aux {
    const char *part;
    struct ds *ds;
    struct json *json;
};

static void
path_show(struct path *path, const struct show_paths_aux *aux)
    OVS_REQUIRES(ct_chains_mutex)
{
    const struct ct_offload_row rows[] = {
        { "packets", ", packets:", path->n_packets, "" },
        { "bytes", ", bytes:", path->n_bytes, "" },
        { "connections", ", connections:", path->n_conns, "" },
    };
    struct ds actions = DS_EMPTY_INITIALIZER;
    struct ds match = DS_EMPTY_INITIALIZER;
    bool found;

    if (path->state != PATH_LIVE) {
        return;
    }
    ct_path_hold(path);
    ovs_mutex_unlock(&ct_chains_mutex);

    found = path_format_rule(path, &match, &actions);
    if (found && aux->part) {
        found = (strstr(ds_cstr(&match), aux->part)
                 || strstr(ds_cstr(&actions), aux->part));
    }
    if (found && aux->json) {
        struct json *json = json_object_create();

        json_object_put_string(json, "match", ds_cstr(&match));
        json_object_put_string(json, "actions", ds_cstr(&actions));
        ct_offload_rows_show(rows, ARRAY_SIZE(rows), NULL, json);
        json_array_add(aux->json, json);
    } else if (found) {
        ds_put_format(aux->ds, "%s, actions:%s", ds_cstr(&match),
                      ds_cstr(&actions));
        ct_offload_rows_show(rows, ARRAY_SIZE(rows), aux->ds, NULL);
        ds_put_char(aux->ds, '\n');
    }
    ds_destroy(&match);
    ds_destroy(&actions);

    ovs_mutex_lock(&ct_chains_mutex);
    ct_path_unhold(path);
}

/* Shows each path that has 'part', if that is nonnull, in its match or
 * actions. */
void
ct_path_show_paths(const char *part, struct ds *ds, struct json *array)
{
    struct show_paths_aux aux = { part, ds, array };

    for (size_t i = 0; i < PATH_N_PARTS; i++) {
        struct hmap_position pos = { 0, 0 };
        struct path *path;

        ovs_mutex_lock(&ct_chains_mutex);
        while ((path = ct_path_next(i, &pos))) {
            path_show(path, &aux);
        }
        ovs_mutex_unlock(&ct_chains_mutex);
    }
}

/* Chains. */

static void
chain_show(const struct ct_chain *chain, bool more, struct ds *ds,
           struct json *array)
    OVS_REQUIRES(ct_chains_mutex)
{
    const struct ct_offload_row rows[] = {
        { "megaflows", "", chain->key.n_flows, " megaflows" },
        { "cts", ", ", chain->key.n_cts, " ct()" },
    };
    const struct ct_offload_row counts[] = {
        { "paths", ", paths:", chain->n_paths, "" },
        { "packets", ", packets:", chain->n_packets, "" },
        { "bytes", ", bytes:", chain->n_bytes, "\n" },
    };
    struct json *json = array ? json_object_create() : NULL;
    struct json *ufids = array ? json_array_create_empty() : NULL;

    ct_offload_rows_show(rows, ARRAY_SIZE(rows), ds, json);
    if (chain->refused) {
        const char *reason = ct_merge_reason_to_string(chain->refused);

        if (json) {
            json_object_put_string(json, "refused", reason);
        } else {
            ds_put_format(ds, ", refused: %s\n", reason);
        }
    } else {
        odp_port_t out = chain->merge->out_port;

        if (json) {
            json_object_put(json, "in-port",
                            json_integer_create(
                                odp_to_u32(chain->merge->in_port)));
            json_object_put(json, "out-port",
                            out == ODPP_NONE ? json_null_create()
                            : json_integer_create(odp_to_u32(out)));
        } else {
            ds_put_format(ds, ", port %"PRIu32" to ", chain->merge->in_port);
            if (out == ODPP_NONE) {
                ds_put_cstr(ds, "drop");
            } else {
                ds_put_format(ds, "%"PRIu32, out);
            }
        }
        ct_offload_rows_show(counts, ARRAY_SIZE(counts), ds, json);
    }
    for (size_t i = 0; i < chain->key.n_flows && (more || json); i++) {
        struct ds ufid = DS_EMPTY_INITIALIZER;

        dp_netdev_flow_format_ufid(chain->key.flows[i], &ufid);
        if (json) {
            json_array_add(ufids, json_string_create(ds_cstr(&ufid)));
        } else {
            ds_put_format(ds, "  %s\n", ds_cstr(&ufid));
        }
        ds_destroy(&ufid);
    }
    if (more && !chain->refused && !json) {
        ds_put_cstr(ds, "  match: ");
        ct_offload_match_format(&chain->merge->match, &chain->merge->tunnel,
                                ds);
        ds_put_char(ds, '\n');
    }
    if (json) {
        json_object_put(json, "ufids", ufids);
        json_array_add(array, json);
    }
}

/* Shows what chains there are; if 'more' is nonnull, with their megaflows. */
void
ct_path_show_chains(const char *more, struct ds *ds, struct json *array)
{
    struct hmap_position pos = { 0, 0 };
    struct hmap_node *node;

    ovs_mutex_lock(&ct_chains_mutex);
    while ((node = hmap_at_position(&ct_chains, &pos))) {
        chain_show(CONTAINER_OF(node, struct ct_chain, node), more != NULL, ds,
                   array);
        ovs_mutex_unlock(&ct_chains_mutex);
        ovs_mutex_lock(&ct_chains_mutex);
    }
    ovs_mutex_unlock(&ct_chains_mutex);
}

/* "ct-offload/explain". */

static const char *
note_to_string(uint8_t note)
{
    switch (note) {
    case CONN_PATH_OK:
        return "no packet was traced yet";
    case CONN_PATH_NOT_HELD:
        return "not all connections of its packets are in hardware";
    case CONN_PATH_NO_PORT:
        return "where its packets leave is not known";
    case CONN_PATH_HARDWARE:
        return "hardware has refused the rule";
    case CONN_PATH_UNABLE:
        return "the port cannot forward, or does not follow rules";
    case CONN_PATH_TOO_LONG:
        return ct_merge_reason_to_string(CT_MERGE_TOO_LONG);
    default:
        return ct_merge_reason_to_string(note - CONN_PATH_REFUSED);
    }
}

/* Appends to 'ds' which packets of 'conn' hardware forwards by itself, if any
 * could be. */
void
ct_path_explain(const struct conn *conn, struct ds *ds)
{
    static const char *const dirs[] = { "original", "reply" };
    uint32_t state = conn_offload_state(conn);

    if (!(state & (CONN_OFFLOAD_FORWARD | CONN_OFFLOAD_PATH_MASK))) {
        return;
    }
    for (int reply = 0; reply < 2; reply++) {
        struct path *path;

        ds_put_format(ds, "  %s direction: ", dirs[reply]);
        ovs_mutex_lock(&ct_chains_mutex);
        path = ct_path_of_conn(conn, reply);
        if (path) {
            ds_put_format(ds, "forwarded by hardware, packets:%"PRIu64
                          ", bytes:%"PRIu64"\n",
                          path->n_packets, path->n_bytes);
        } else {
            ds_put_format(ds, "packets come to software: %s\n",
                          note_to_string(conn_get_path_note(conn, reply)));
        }
        ovs_mutex_unlock(&ct_chains_mutex);
    }
}
