/* SPDX-License-Identifier: Apache-2.0 */

#include <config.h>

#include "emunic.h"

#include <errno.h>

/* TCP connection tracking, from the state that an application gives in struct
 * rte_flow_action_conntrack on.  The windows are those of "Real Stateful TCP
 * Packet Filtering in IP Filter" by Guido van Rooij; for each direction:
 *
 *     sent_end    the highest sequence number sent, plus one.
 *     reply_end   what the peer has allowed to be sent: ACK plus window.
 *     max_win     the largest window announced, scaled.
 *     max_ack     the highest ACK sent. */

#define VALID RTE_FLOW_CONNTRACK_PKT_STATE_VALID
#define CHANGED RTE_FLOW_CONNTRACK_PKT_STATE_CHANGED
#define INVALID RTE_FLOW_CONNTRACK_PKT_STATE_INVALID
#define DISABLED RTE_FLOW_CONNTRACK_PKT_STATE_DISABLED
#define BAD RTE_FLOW_CONNTRACK_PKT_STATE_BAD

static bool
before(uint32_t a, uint32_t b)
{
    return (int32_t) (a - b) < 0;
}

static bool
after(uint32_t a, uint32_t b)
{
    return before(b, a);
}

/* Says what is wrong with 'ct', in 'error' and with a negative errno value, or
 * returns 0. */
int
emu_ct_check(const struct rte_flow_action_conntrack *ct,
             struct rte_flow_error *error, const void *cause)
{
    if ((unsigned int) ct->state > RTE_FLOW_CONNTRACK_STATE_TIME_WAIT) {
        return rte_flow_error_set(error, EINVAL,
                                  RTE_FLOW_ERROR_TYPE_ACTION_CONF, cause,
                                  "unknown state of a connection");
    }
    if (!rte_eth_dev_is_valid_port(ct->peer_port)) {
        return rte_flow_error_set(error, EINVAL,
                                  RTE_FLOW_ERROR_TYPE_ACTION_CONF, cause,
                                  "the peer port of the connection does not "
                                  "exist");
    }
    if (ct->max_ack_window > 14) {
        return rte_flow_error_set(error, EINVAL,
                                  RTE_FLOW_ERROR_TYPE_ACTION_CONF, cause,
                                  "the ACK window's scale is more than 14");
    }
    return 0;
}

/* Says whether no TCP has a reason to send these flags together. */
static bool
flags_are_bad(uint8_t flags)
{
    uint8_t kind = flags & (RTE_TCP_SYN_FLAG | RTE_TCP_FIN_FLAG
                            | RTE_TCP_RST_FLAG);

    return (kind & (kind - 1))
           || !(flags & (RTE_TCP_SYN_FLAG | RTE_TCP_RST_FLAG
                         | RTE_TCP_ACK_FLAG));
}

static uint8_t
dir_scale(const struct rte_flow_tcp_dir_param *dir)
{
    return dir->scale == 0xf ? 0 : dir->scale;
}

static enum rte_flow_conntrack_tcp_last_index
last_index(uint8_t flags)
{
    if (flags & RTE_TCP_RST_FLAG) {
        return RTE_FLOW_CONNTRACK_FLAG_RST;
    } else if (flags & RTE_TCP_SYN_FLAG) {
        return (flags & RTE_TCP_ACK_FLAG ? RTE_FLOW_CONNTRACK_FLAG_SYNACK
                : RTE_FLOW_CONNTRACK_FLAG_SYN);
    } else if (flags & RTE_TCP_FIN_FLAG) {
        return RTE_FLOW_CONNTRACK_FLAG_FIN;
    }
    return RTE_FLOW_CONNTRACK_FLAG_ACK;
}

/* The four bounds: the data ends in the receiver's window and begins not too
 * far before it; the ACK is for something that was sent, and not too old. */
static bool
in_window(const struct rte_flow_action_conntrack *ct,
          const struct rte_flow_tcp_dir_param *sender,
          const struct rte_flow_tcp_dir_param *receiver,
          uint32_t seq, uint32_t end, bool has_ack, uint32_t ack)
{
    uint64_t ack_window = (uint64_t) sender->max_win << ct->max_ack_window;

    if (ack_window < 66000) {
        ack_window = 66000;
    } else if (ack_window > INT32_MAX / 2) {
        ack_window = INT32_MAX / 2;
    }
    return !after(seq, sender->reply_end)
           && !before(end, sender->sent_end - receiver->max_win)
           && (!has_ack
               || (!after(ack, receiver->sent_end)
                   && !before(ack, receiver->sent_end
                                   - (uint32_t) ack_window)));
}

/* Follows the sender's and the receiver's windows to a segment that is
 * valid. */
static void
move_windows(struct rte_flow_tcp_dir_param *sender,
             struct rte_flow_tcp_dir_param *receiver, uint32_t end,
             bool has_ack, uint32_t ack, uint32_t window)
{
    if (window > sender->max_win) {
        sender->max_win = window;
    }
    if (after(end, sender->sent_end)) {
        sender->sent_end = end;
        sender->data_unacked = 1;
    }
    if (after(end, sender->reply_end)) {
        /* A zero window probe, or liberal mode. */
        receiver->max_win += end - sender->reply_end;
        sender->reply_end = end;
    }
    if (has_ack) {
        if (after(ack, sender->max_ack)) {
            sender->max_ack = ack;
        }
        if (after(ack + window, receiver->reply_end)) {
            receiver->reply_end = ack + window;
        }
        if (!before(ack, receiver->sent_end)) {
            receiver->data_unacked = 0;
        }
        receiver->last_ack_seen = 1;
    }
}

/* Moves the state of 'ct' on; returns true if that was a change. */
static bool
move_state(struct rte_flow_action_conntrack *ct,
           struct rte_flow_tcp_dir_param *sender,
           struct rte_flow_tcp_dir_param *receiver, uint8_t flags,
           bool original, uint32_t ack)
{
    enum rte_flow_conntrack_state old = ct->state;
    bool fin = flags & RTE_TCP_FIN_FLAG;
    bool has_ack = flags & RTE_TCP_ACK_FLAG;

    /* An ACK of all that the peer, which has sent a FIN, has sent. */
    bool fin_acked = has_ack && receiver->close_initiated
                     && !before(ack, receiver->sent_end);

    if (ct->state == RTE_FLOW_CONNTRACK_STATE_SYN_RECV && original && has_ack
        && !(flags & RTE_TCP_SYN_FLAG)) {
        ct->state = RTE_FLOW_CONNTRACK_STATE_ESTABLISHED;
        ct->live_connection = 1;
    }
    if (ct->state == RTE_FLOW_CONNTRACK_STATE_FIN_WAIT && fin_acked) {
        ct->state = RTE_FLOW_CONNTRACK_STATE_CLOSE_WAIT;
    }
    if (ct->state == RTE_FLOW_CONNTRACK_STATE_LAST_ACK && fin_acked && !fin) {
        ct->state = RTE_FLOW_CONNTRACK_STATE_TIME_WAIT;
    }
    if (fin && !sender->close_initiated) {
        sender->close_initiated = 1;
        ct->state = (receiver->close_initiated
                     ? RTE_FLOW_CONNTRACK_STATE_LAST_ACK
                     : RTE_FLOW_CONNTRACK_STATE_FIN_WAIT);
    }
    return ct->state != old;
}

static uint32_t
process(struct emu_object *object, bool original,
        const struct emu_segment *segment)
{
    struct rte_flow_action_conntrack *ct = &object->ct;
    struct rte_flow_tcp_dir_param *sender, *receiver;
    const struct rte_tcp_hdr *tcp = segment->tcp;
    uint32_t seq, end, ack, window;
    bool has_ack, changed;
    uint8_t flags;

    if (!ct->enable) {
        return DISABLED;
    }
    if (!tcp || segment->bad || flags_are_bad(tcp->tcp_flags)) {
        return BAD;
    }

    sender = original ? &ct->original_dir : &ct->reply_dir;
    receiver = original ? &ct->reply_dir : &ct->original_dir;
    flags = tcp->tcp_flags;
    has_ack = flags & RTE_TCP_ACK_FLAG;
    seq = rte_be_to_cpu_32(tcp->sent_seq);
    ack = rte_be_to_cpu_32(tcp->recv_ack);
    end = seq + segment->length + !!(flags & RTE_TCP_SYN_FLAG)
          + !!(flags & RTE_TCP_FIN_FLAG);
    window = rte_be_to_cpu_16(tcp->rx_win);
    if (!(flags & RTE_TCP_SYN_FLAG)) {
        window <<= dir_scale(sender);
    }

    if (!ct->liberal_mode) {
        bool handshake = ct->state == RTE_FLOW_CONNTRACK_STATE_SYN_RECV;

        if (object->closed
            || ((flags & RTE_TCP_SYN_FLAG) && !handshake)
            || !in_window(ct, sender, receiver, seq, end, has_ack, ack)
            || ((flags & RTE_TCP_RST_FLAG) && before(seq, receiver->max_ack)))
        {
            return INVALID;
        }
        if (ct->retransmission_limit && segment->length
            && ct->last_direction == original && ct->last_seq == seq
            && ct->last_end == end) {
            if (++object->n_retransmissions > ct->retransmission_limit) {
                return INVALID;
            }
        } else {
            object->n_retransmissions = 0;
        }
    }

    if (flags & RTE_TCP_RST_FLAG) {
        changed = !object->closed;
        object->closed = true;
        ct->state = RTE_FLOW_CONNTRACK_STATE_TIME_WAIT;
    } else {
        move_windows(sender, receiver, end, has_ack, ack, window);
        changed = move_state(ct, sender, receiver, flags, original, ack);
    }
    ct->last_direction = original;
    ct->last_seq = seq;
    ct->last_ack = ack;
    ct->last_end = end;
    ct->last_window = rte_be_to_cpu_16(tcp->rx_win);
    ct->last_index = last_index(flags);
    return VALID | (changed ? CHANGED : 0);
}

/* Passes a segment of the given direction through the connection 'object'.
 * Returns what the CONNTRACK item matches, RTE_FLOW_CONNTRACK_PKT_STATE_*, and
 * says in '*established' whether the connection is. */
uint32_t
emu_ct_process(struct emu_object *object, bool original,
               const struct emu_segment *segment, bool *established)
{
    struct emu_ct_stats *stats = &object->ct_stats;
    uint32_t flags;

    *established = false;
    if (object->dead) {
        return DISABLED;
    }
    rte_spinlock_lock(&object->lock);
    flags = process(object, original, segment);
    *established = object->ct.state == RTE_FLOW_CONNTRACK_STATE_ESTABLISHED;
    stats->valid += !!(flags & VALID);
    stats->changed += !!(flags & CHANGED);
    stats->invalid += !!(flags & INVALID);
    stats->disabled += !!(flags & DISABLED);
    stats->bad += !!(flags & BAD);
    rte_spinlock_unlock(&object->lock);
    return flags;
}
