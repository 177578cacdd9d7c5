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

#include <errno.h>
#include <string.h>

#include "conntrack-offload-run.h"
#include "ct-offload-fence.h"
#include "ct-offload-path-private.h"
#include "ct-offload-port.h"
#include "ct-offload-thread.h"
#include "netdev.h"
#include "openvswitch/vlog.h"
#include "timeval.h"

VLOG_DEFINE_THIS_MODULE(ct_offload_path_sample);

/* Asking hardware what paths have counted
 * =======================================
 *
 * Each offload thread asks about its share of the paths, one after the other,
 * and again when it is through.  Such a pass takes PASS_MS, or longer if there
 * is much to ask: in slices, after each of which the thread does other things
 * for PAUSE times as long.
 *
 * Paths that are not used for a while go: packets come to software then, which
 * judges.  So do those that hardware does not follow. */

#define PASS_MS 1000
#define SLICE_US 1000
#define PAUSE 3

/* A path that has seen no packets for so long, in ms, goes; sooner if one of
 * its connections would expire without them. */
#define IDLE_MS 30000

/* In so many passes software has seen a packet that the path should have
 * taken, and the path has counted none since the first one. */
#define UNSEEN_PASSES 4

struct sampler {
    long long int start;        /* Of the present pass, in ms. */
    long long int due;          /* When to go on, in ms. */
    size_t part;                /* With what... */
    struct hmap_position pos;   /* ...and where in it. */
    bool running;               /* In the middle of a pass? */
};
static struct sampler samplers[CT_OFFLOAD_MAX_THREADS];

/* Returns for how long 'path' may be idle, in ms. */
static long long int
path_idle_ms(const struct path *path)
    OVS_REQUIRES(ct_chains_mutex)
{
    long long int ms = IDLE_MS;

    for (size_t i = 0; i < path->n_conns; i++) {
        ms = MIN(ms, conn_get_timeout(path->chain->key.ct,
                                      ct_path_get_conn(path, i, NULL)));
    }
    return ms;
}

/* The port that packets of 'path' come from is known to follow rules, or, the
 * other way round, does not follow this one. */
static void
path_judge_port(const struct path *path, bool follows)
    OVS_REQUIRES(ct_chains_mutex)
{
    uint32_t port = path->chain->ports[0];

    if (follows) {
        if (!path->chain->followed) {
            path->chain->followed = true;
            ct_offload_port_follows(port);
        }
    } else if (!path->n_packets && ct_offload_port_disobeys(port)) {
        struct netdev *netdev = ct_offload_port_get_netdev(port);

        VLOG_WARN("port %s: hardware accepts rules and does not follow them: "
                  "it forwards no packets of connections any more until the "
                  "port restarts",
                  netdev ? netdev_get_name(netdev) : "?");
    }
}

/* Have packets of 'path' come to software since the last pass that it should
 * have taken?  Has the next one of them noted: its connection waits for a
 * packet, see conntrack_offload_conn_seen__(). */
static bool
path_was_passed_by(const struct path *path)
{
    bool reply;
    struct conn *conn = ct_path_get_lead(path, &reply);
    uint32_t await = state_await_path_bit(reply);
    bool seen = !(conn_offload_state(conn) & await);

    if (seen) {
        conn_set_state(conn, 0, await);
    }
    return seen;
}

/* Asks what 'path' has counted, and ends it if that is due, upon which it
 * returns true. */
static bool
path_sample(struct path *path, long long int now)
    OVS_REQUIRES(ct_chains_mutex)
{
    int error;

    if (path->state != PATH_LIVE || path->querying) {
        return false;
    }
    error = ct_path_query(path, now);
    if (path->state != PATH_LIVE) {
        return false;
    }
    if (error && error != EAGAIN) {
        ct_path_finish(path, PATH_END_HARDWARE);
        return true;
    }
    if (path->moved) {
        path_judge_port(path, true);
        path->moved = false;
        path->n_unseen = 0;
        return false;
    }

    if (!error && !ct_fence_is_at(path->chain->ports[0])) {
        path->n_unseen += path_was_passed_by(path);
    }
    if (path->n_unseen >= UNSEEN_PASSES) {
        path_judge_port(path, false);
        ct_path_finish(path, PATH_END_UNSEEN);
    } else if (now > path->used + path_idle_ms(path)) {
        ct_path_finish(path, PATH_END_IDLE);
    } else {
        return false;
    }
    return true;
}

/* A pass has ended: the longest one that any thread takes matters. */
static void
sampler_end_pass(struct sampler *s)
{
    long long int now = time_msec();
    long long int ms = MAX(now - s->start, PASS_MS);
    long long int old;

    atomic_read_relaxed(&ct_path_pass_ms, &old);
    if (ms > old || s == samplers) {
        atomic_store_relaxed(&ct_path_pass_ms, ms);
    }
    s->running = false;
    s->due = MAX(s->start + PASS_MS, now);
}

/* Looks at the next path of the pass of 's', or goes on to the next part of
 * the table, of which each 'n'th one is for it.  It is 'now', in ms. */
static void
sampler_next(struct sampler *s, unsigned int n, long long int now)
{
    struct path *path;

    ovs_mutex_lock(&ct_chains_mutex);
    path = ct_path_next(s->part, &s->pos);
    if (!path) {
        s->part += n;
        memset(&s->pos, 0, sizeof s->pos);
    } else if (path_sample(path, now) && s->pos.offset) {
        s->pos.offset--;        /* Another one is in its place. */
    }
    ovs_mutex_unlock(&ct_chains_mutex);
}

/* Called often by the offload thread with 'index', of 'n'.  Returns true if
 * there is more to do soon. */
static bool
tick(unsigned int index, unsigned int n)
{
    struct sampler *s = &samplers[index];
    long long int start = time_usec();
    long long int now = start / 1000;
    long long int took;

    if (now < s->due) {
        return s->running;
    }
    if (!s->running) {
        if (!ct_path_count()) {
            s->due = now + PASS_MS;
            return false;
        }
        s->running = true;
        s->start = now;
        s->part = index;
    }
    do {
        sampler_next(s, n, now);
        took = time_usec() - start;
        now = (start + took) / 1000;
    } while (s->part < PATH_N_PARTS && took < SLICE_US);

    if (s->part < PATH_N_PARTS) {
        s->due = now + (took * (1 + PAUSE) + 999) / 1000;
    } else {
        sampler_end_pass(s);
    }
    return s->running;
}

void
ct_path_sample_init(void)
{
    ct_offload_threads_set_tick(tick);
}
