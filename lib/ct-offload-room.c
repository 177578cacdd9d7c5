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

#include "ct-offload-room.h"

#include "openvswitch/list.h"
#include "ovs-atomic.h"
#include "ovs-thread.h"
#include "util.h"

/* What a thread has taken in advance. */
struct room_thread {
    struct ovs_list node;       /* In 'threads'. */
    atomic_uint credit;
};

DEFINE_STATIC_PER_THREAD_DATA(struct room_thread *, room_thread, NULL);

static struct ovs_mutex threads_mutex = OVS_MUTEX_INITIALIZER;
static struct ovs_list threads OVS_GUARDED_BY(threads_mutex)
    = OVS_LIST_INITIALIZER(&threads);

static atomic_uint limit = CT_OFFLOAD_DEFAULT_ROOM;

/* Taken, in advance or not. */
static atomic_uint n_taken = 0;

/* How many a thread takes in advance. */
#define CREDIT_CHUNK 64

static unsigned int
credit_left(void)
{
    unsigned int n, max;

    atomic_read_relaxed(&limit, &max);
    atomic_read_relaxed(&n_taken, &n);
    return n < max ? max - n : 0;
}

/* Is there so much left that what threads have in advance is little? */
static bool
credit_is_plenty(void)
{
    return credit_left() >= CREDIT_CHUNK * 1024;
}

static void
credit_return(unsigned int n)
{
    unsigned int orig;

    if (n) {
        atomic_sub_relaxed(&n_taken, n, &orig);
    }
}

/* Takes 'n'.  Returns false if there is nothing left. */
static bool
credit_take(unsigned int n)
{
    unsigned int orig, max;

    atomic_read_relaxed(&limit, &max);
    atomic_add_relaxed(&n_taken, n, &orig);
    if (orig < max) {
        return true;
    }
    credit_return(n);
    return false;
}

/* Takes from 'thread' all credit that it has in advance, and returns it. */
static unsigned int
credit_collect(struct room_thread *thread)
{
    unsigned int n;

    atomic_read_relaxed(&thread->credit, &n);
    return n ? atomic_exchange(&thread->credit, 0) : 0;
}

/* Takes one from 'thread'.  Returns false if there is none. */
static bool
credit_use(struct room_thread *thread)
{
    unsigned int n;

    atomic_read_relaxed(&thread->credit, &n);
    while (n) {
        if (atomic_compare_exchange_weak_relaxed(&thread->credit, &n, n - 1)) {
            return true;
        }
    }
    return false;
}

static void
thread_end(void *thread_)
{
    struct room_thread *thread = thread_;

    ovs_mutex_lock(&threads_mutex);
    credit_return(credit_collect(thread));
    ovs_list_remove(&thread->node);
    ovs_mutex_unlock(&threads_mutex);
    free_cacheline(thread);
}

static struct room_thread *
thread_create(void)
{
    static struct ovs_mutex key_mutex = OVS_MUTEX_INITIALIZER;
    static ovsthread_key_t key OVS_GUARDED_BY(key_mutex) = NULL;
    struct room_thread *thread = xzalloc_cacheline(sizeof *thread);

    atomic_init(&thread->credit, 0);
    ovs_mutex_lock(&threads_mutex);
    ovs_list_push_back(&threads, &thread->node);
    ovs_mutex_unlock(&threads_mutex);

    ovs_mutex_lock(&key_mutex);
    if (!key) {
        ovsthread_key_create(&key, thread_end);
    }
    ovsthread_setspecific(key, thread);
    ovs_mutex_unlock(&key_mutex);
    *room_thread_get() = thread;
    return thread;
}

static struct room_thread *
thread_get(void)
{
    struct room_thread *thread = *room_thread_get();

    return OVS_LIKELY(thread) ? thread : thread_create();
}

/* Makes room for one more offloaded connection.  Returns false if there is
 * none. */
bool
ct_offload_reserve(void)
{
    struct room_thread *thread = thread_get();
    unsigned int orig;

    if (!credit_is_plenty()) {
        credit_return(credit_collect(thread));
        return credit_take(1);
    }
    if (credit_use(thread)) {
        return true;
    }
    if (!credit_take(CREDIT_CHUNK)) {
        return false;
    }
    atomic_add_relaxed(&thread->credit, CREDIT_CHUNK - 1, &orig);
    return true;
}

/* Undoes ct_offload_reserve(). */
void
ct_offload_unreserve(void)
{
    struct room_thread *thread = thread_get();
    unsigned int n;

    if (!credit_is_plenty()) {
        credit_return(1 + credit_collect(thread));
        return;
    }
    atomic_add_relaxed(&thread->credit, 1, &n);
    if (n >= 2 * CREDIT_CHUNK) {
        credit_return(credit_collect(thread));
    }
}

/* Takes back what threads have in advance, when there is little left: threads
 * that do nothing just now would keep it. */
void
ct_offload_room_collect(void)
{
    struct room_thread *thread;

    if (!credit_is_plenty()) {
        ovs_mutex_lock(&threads_mutex);
        LIST_FOR_EACH (thread, node, &threads) {
            credit_return(credit_collect(thread));
        }
        ovs_mutex_unlock(&threads_mutex);
    }
}

/* Is there room for another offloaded connection? */
bool
ct_offload_room_is_left(void)
{
    return credit_left() > 0;
}

/* From now on 'n' connections may be offloaded at once. */
void
ct_offload_room_set_limit(unsigned int n)
{
    atomic_store_relaxed(&limit, n);
    ct_offload_room_collect();
}

/* Returns how many connections may be offloaded at once. */
unsigned int
ct_offload_room_get_limit(void)
{
    unsigned int n;

    atomic_read_relaxed(&limit, &n);
    return n;
}
