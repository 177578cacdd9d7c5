/* SPDX-License-Identifier: Apache-2.0 */

#include <config.h>

#include "emunic.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

const char *const emu_op_names[EMU_N_OPS] = {
    [EMU_OP_VALIDATE] = "validate",
    [EMU_OP_CREATE] = "create",
    [EMU_OP_DESTROY] = "destroy",
    [EMU_OP_FLUSH] = "flush",
    [EMU_OP_QUERY] = "query",
    [EMU_OP_ISOLATE] = "isolate",
    [EMU_OP_DUMP] = "dump",
    [EMU_OP_AGED] = "aged",
    [EMU_OP_HANDLE_CREATE] = "handle-create",
    [EMU_OP_HANDLE_DESTROY] = "handle-destroy",
    [EMU_OP_HANDLE_UPDATE] = "handle-update",
    [EMU_OP_HANDLE_QUERY] = "handle-query",
};

_Atomic uint64_t emu_n_config_errors;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct emu_config defaults; /* Of ports to come. */
static bool have_defaults;
static uint64_t random_state = 1;

/* Returns a number from 0 to less than 1. */
double
emu_random(void)
{
    static pthread_mutex_t random_mutex = PTHREAD_MUTEX_INITIALIZER;
    uint64_t value;

    pthread_mutex_lock(&random_mutex);
    random_state += UINT64_C(0x9e3779b97f4a7c15);
    value = emu_hash64(random_state);
    pthread_mutex_unlock(&random_mutex);
    return (value >> 11) * 0x1p-53;
}

/* Sets what a profile decides, and leaves latency, faults, the quarantine of
 * counters, the size of a match, the eSwitch, the switch domain, the proxy and
 * the transmit lock alone.  Returns false if there is no such profile. */
static bool
set_profile(struct emu_config *c, const char *name)
{
    bool hws = !strcmp(name, "mlx5-hws");
    bool mlx5 = hws || !strcmp(name, "mlx5-sws");
    bool no_tcp_flags = !strcmp(name, "no-tcp-flags");
    bool no_rewrite = !strcmp(name, "no-rewrite");
    bool nat_bundle = !strcmp(name, "nat-bundle");
    bool others = no_tcp_flags || no_rewrite || nat_bundle;

    if (!mlx5 && !others && strcmp(name, "generous") && strcmp(name, "no-ct")
        && strcmp(name, "no-age") && strcmp(name, "pretend")) {
        return false;
    }
    snprintf(c->profile, sizeof c->profile, "%s", name);
    c->pretend = !strcmp(name, "pretend");
    c->conntrack = strcmp(name, "no-ct") && !others;
    c->age = strcmp(name, "no-age");
    c->count = true;
    c->transfer = true;
    c->ct_anywhere = !mlx5;
    c->ct_with_age = !mlx5;
    c->any_mask = !mlx5;
    c->tcp_flags = !no_tcp_flags;
    c->ranges = !mlx5;
    c->rewrite = !no_rewrite;
    c->set_actions = !hws;
    c->set_ipv6 = c->set_ttl = !nat_bundle;
    c->modify_field = !others;
    c->fixed_order = hws;
    c->nat_bundle = nat_bundle;
    c->tunnels = true;
    c->representor_own = !mlx5;
    c->representor_any = strcmp(name, "mlx5-sws") && !others;
    c->share_handles = !hws;
    c->newest_wins = hws;
    c->miss_drop = mlx5;
    c->lowest_priority = mlx5;
    c->groups = mlx5 ? 0xffff : UINT32_MAX - 1;
    c->root_priorities = mlx5 ? 16 : 65536;
    c->priorities = mlx5 ? 21844 : 65536;
    c->max_mark = mlx5 ? 0xffffef : UINT32_MAX;
    c->max_rules = 1 << 22;
    c->max_handles = 1 << 22;
    return true;
}

/* The caller holds 'mutex'. */
static struct emu_config *
get_defaults(void)
{
    if (!have_defaults) {
        set_profile(&defaults, "generous");
        defaults.tx_lock = true;
        defaults.max_match = UINT32_MAX;
        have_defaults = true;
    }
    return &defaults;
}

/* Makes 'config' that of a new port. */
void
emu_config_init(struct emu_config *config)
{
    pthread_mutex_lock(&mutex);
    *config = *get_defaults();
    pthread_mutex_unlock(&mutex);
}

static bool
parse_uint(const char *s, uint32_t max, uint32_t *value)
{
    unsigned long long int x;
    char *end;

    errno = 0;
    x = s && isdigit((unsigned char) *s) ? strtoull(s, &end, 0) : 0;
    if (!s || !isdigit((unsigned char) *s) || errno || *end || x > max) {
        return false;
    }
    *value = x;
    return true;
}

static const struct {
    const char *name;
    int value;
} errors[] = {
    { "EIO", EIO }, { "ENOSPC", ENOSPC }, { "ENOMEM", ENOMEM },
    { "EEXIST", EEXIST }, { "EINVAL", EINVAL }, { "ENOTSUP", ENOTSUP },
    { "EBUSY", EBUSY }, { "EAGAIN", EAGAIN }, { "ENOENT", ENOENT },
    { "ENODEV", ENODEV }, { "ENOSYS", ENOSYS }, { "EPERM", EPERM },
    { "EACCES", EACCES }, { "ETIMEDOUT", ETIMEDOUT },
};

static bool
parse_errno(const char *s, int *error)
{
    uint32_t value;

    for (size_t i = 0; i < EMU_ARRAY_SIZE(errors); i++) {
        if (!strcasecmp(s, errors[i].name)) {
            *error = errors[i].value;
            return true;
        }
    }
    if (!parse_uint(s, 4095, &value) || !value) {
        return false;
    }
    *error = value;
    return true;
}

/* The settings that are on or off, and those that are numbers. */

static const struct {
    const char *name;
    size_t offset;
    const char *on, *off;
} switches[] = {
#define SWITCH(NAME, MEMBER, ON, OFF) \
    { NAME, offsetof(struct emu_config, MEMBER), ON, OFF }
    SWITCH("pretend", pretend, "on", "off"),
    SWITCH("conntrack", conntrack, "on", "off"),
    SWITCH("age", age, "on", "off"),
    SWITCH("count", count, "on", "off"),
    SWITCH("transfer", transfer, "on", "off"),
    SWITCH("conntrack-anywhere", ct_anywhere, "on", "off"),
    SWITCH("conntrack-with-age", ct_with_age, "on", "off"),
    SWITCH("any-mask", any_mask, "on", "off"),
    SWITCH("tcp-flags", tcp_flags, "on", "off"),
    SWITCH("ranges", ranges, "on", "off"),
    SWITCH("rewrite", rewrite, "on", "off"),
    SWITCH("set-actions", set_actions, "on", "off"),
    SWITCH("set-ipv6", set_ipv6, "on", "off"),
    SWITCH("set-ttl", set_ttl, "on", "off"),
    SWITCH("modify-field", modify_field, "on", "off"),
    SWITCH("action-order", fixed_order, "fixed", "any"),
    SWITCH("nat-bundle", nat_bundle, "on", "off"),
    SWITCH("tunnels", tunnels, "on", "off"),
    SWITCH("representor-own", representor_own, "on", "off"),
    SWITCH("representor-any", representor_any, "on", "off"),
    SWITCH("share-handles", share_handles, "on", "off"),
    SWITCH("equal-rules", newest_wins, "newest", "refused"),
    SWITCH("miss", miss_drop, "drop", "software"),
    SWITCH("eswitch", eswitch, "on", "off"),
    SWITCH("tx-lock", tx_lock, "on", "off"),
    SWITCH("padding", padding, "on", "off"),
    SWITCH("lowest-priority", lowest_priority, "on", "off"),
    SWITCH("proxy", proxy_first, "first", "all"),
};

static const struct {
    const char *name;
    size_t offset;
    uint32_t max;
} numbers[] = {
#define NUMBER(NAME, MEMBER, MAX) \
    { NAME, offsetof(struct emu_config, MEMBER), MAX }
    NUMBER("groups", groups, UINT32_MAX - 1),
    NUMBER("root-priorities", root_priorities, UINT32_MAX),
    NUMBER("priorities", priorities, UINT32_MAX),
    NUMBER("max-mark", max_mark, UINT32_MAX),
    NUMBER("max-rules", max_rules, UINT32_MAX),
    NUMBER("max-handles", max_handles, UINT32_MAX),
    NUMBER("max-match", max_match, UINT32_MAX),
    NUMBER("counter-quarantine", counter_quarantine, UINT32_MAX),
    NUMBER("switch-domain", switch_domain,
           RTE_ETH_DEV_SWITCH_DOMAIN_ID_INVALID - 1),
};

/* A change to a configuration.  Functions of this kind write what is wrong to
 * 'problem' and change nothing then. */
typedef bool (*change_func)(struct emu_config *, char **args, FILE *problem);

static bool
change_setting(struct emu_config *config, char **args, FILE *problem)
{
    const char *key = args[0], *value = args[1];

    if (!key || !value || args[2]) {
        fputs("set needs a setting and a value", problem);
        return false;
    }
    if (!strcmp(key, "profile")) {
        if (!set_profile(config, value)) {
            fprintf(problem, "there is no profile \"%s\" (generous, mlx5-sws, "
                    "mlx5-hws, no-ct, no-age, no-tcp-flags, no-rewrite, "
                    "nat-bundle, pretend)", value);
            return false;
        }
        return true;
    }
    for (size_t i = 0; i < EMU_ARRAY_SIZE(switches); i++) {
        bool *setting = (bool *) ((char *) config + switches[i].offset);

        if (strcmp(key, switches[i].name)) {
            continue;
        }
        if (strcmp(value, switches[i].on) && strcmp(value, switches[i].off)) {
            fprintf(problem, "%s is \"%s\" or \"%s\", not \"%s\"", key,
                    switches[i].on, switches[i].off, value);
            return false;
        }
        *setting = !strcmp(value, switches[i].on);
        return true;
    }
    for (size_t i = 0; i < EMU_ARRAY_SIZE(numbers); i++) {
        void *setting = (char *) config + numbers[i].offset;

        if (strcmp(key, numbers[i].name)) {
            continue;
        }
        if (!parse_uint(value, numbers[i].max, setting)) {
            fprintf(problem, "%s is a number from 0 to %u, not \"%s\"", key,
                    numbers[i].max, value);
            return false;
        }
        return true;
    }
    fprintf(problem, "there is no setting \"%s\"", key);
    return false;
}

/* Stores the range of operations that 'name' means. */
static bool
parse_op(const char *name, int *first, int *last, FILE *problem)
{
    if (name && !strcmp(name, "all")) {
        *first = 0;
        *last = EMU_N_OPS - 1;
        return true;
    }
    for (int i = 0; i < EMU_N_OPS; i++) {
        if (name && !strcmp(name, emu_op_names[i])) {
            *first = *last = i;
            return true;
        }
    }
    fprintf(problem, "there is no operation \"%s\" (all", name ? name : "");
    for (int i = 0; i < EMU_N_OPS; i++) {
        fprintf(problem, ", %s", emu_op_names[i]);
    }
    fputs(")", problem);
    return false;
}

static bool
change_latency(struct emu_config *config, char **args, FILE *problem)
{
    int first, last;
    uint32_t usec;

    if (!parse_op(args[0], &first, &last, problem)) {
        return false;
    }
    if (!parse_uint(args[1], 10 * 1000 * 1000, &usec) || args[2]) {
        fputs("latency is a number of microseconds, at most 10 seconds",
              problem);
        return false;
    }
    for (int i = first; i <= last; i++) {
        config->latency_us[i] = usec;
    }
    return true;
}

static bool
change_fault(struct emu_config *config, char **args, FILE *problem)
{
    struct emu_fault fault = { .error = EIO, .any_priority = true };
    int first, last;

    if (args[0] && !strcmp(args[0], "priority")) {
        if (!parse_uint(args[1], UINT32_MAX, &fault.priority)) {
            fputs("priority needs a number", problem);
            return false;
        }
        fault.any_priority = false;
        args += 2;
    }
    if (!parse_op(args[0], &first, &last, problem)) {
        return false;
    }
    if (args[1] && !strcmp(args[1], "off") && !args[2]) {
        fault.error = 0;
    } else if (!args[1] || !args[2]) {
        fputs("fail needs \"off\", \"every N\", \"next N\" or "
              "\"probability P\"", problem);
        return false;
    } else if (!strcmp(args[1], "every") || !strcmp(args[1], "next")) {
        uint32_t n;

        if (!parse_uint(args[2], UINT32_MAX, &n) || !n) {
            fprintf(problem, "\"%s\" is not a number above 0", args[2]);
            return false;
        }
        *(args[1][0] == 'e' ? &fault.every : &fault.next) = n;
    } else if (!strcmp(args[1], "probability")) {
        char *end;

        fault.probability = strtod(args[2], &end);
        if (end == args[2] || *end
            || !(fault.probability >= 0 && fault.probability <= 1)) {
            fprintf(problem, "\"%s\" is not a number from 0 to 1", args[2]);
            return false;
        }
    } else {
        fprintf(problem, "fail has no \"%s\"", args[1]);
        return false;
    }
    if (args[1] && args[2] && args[3]
        && (!parse_errno(args[3], &fault.error) || args[4])) {
        fprintf(problem, "\"%s\" is not an errno value", args[3]);
        return false;
    }
    for (int i = first; i <= last; i++) {
        config->faults[i] = fault;
    }
    return true;
}

static int
parse_port(const char *s, FILE *problem)
{
    uint32_t number;

    for (int i = 0; s && i < RTE_MAX_ETHPORTS; i++) {
        if (emu_ports[i].state == EMU_PORT_CLAIMED
            && (!strcmp(emu_ports[i].name, s)
                || (parse_uint(s, RTE_MAX_ETHPORTS - 1, &number)
                    && (int) number == i))) {
            return i;
        }
    }
    fprintf(problem, "there is no emulated port \"%s\"", s ? s : "");
    return -1;
}

/* Applies a change to one port, or to all of them and those to come. */
static bool
change(change_func func, char **args, FILE *problem)
{
    bool ok;

    if (args[0] && !strcmp(args[0], "port")) {
        int i = parse_port(args[1], problem);

        if (i < 0) {
            return false;
        }
        pthread_rwlock_wrlock(&emu_ports[i].lock);
        ok = func(&emu_ports[i].config, args + 2, problem);
        pthread_rwlock_unlock(&emu_ports[i].lock);
        return ok;
    }

    pthread_mutex_lock(&mutex);
    ok = func(get_defaults(), args, problem);
    pthread_mutex_unlock(&mutex);
    for (int i = 0; ok && i < RTE_MAX_ETHPORTS; i++) {
        if (emu_ports[i].state == EMU_PORT_CLAIMED) {
            pthread_rwlock_wrlock(&emu_ports[i].lock);
            func(&emu_ports[i].config, args, problem);
            pthread_rwlock_unlock(&emu_ports[i].lock);
        }
    }
    return ok;
}

static bool
report(void (*func)(FILE *, int port), char **args, FILE *out, FILE *problem)
{
    int port = -1;

    if (args[0]) {
        port = parse_port(args[0], problem);
        if (port < 0) {
            return false;
        }
    }
    func(out, port);
    return true;
}

static void
reset_counters(void)
{
    for (int i = 0; i < RTE_MAX_ETHPORTS; i++) {
        struct emu_port *port = &emu_ports[i];

        if (port->state == EMU_PORT_CLAIMED) {
            pthread_rwlock_wrlock(&port->lock);
            memset(port->ops, 0, sizeof port->ops);
            for (int j = 0; j < EMU_N_COUNTERS; j++) {
                port->counters[j] = 0;
            }
            pthread_rwlock_unlock(&port->lock);
        }
    }
    emu_n_stale = emu_n_leaked_rules = emu_n_leaked_handles = 0;
}

static const char help[] = "\
show [PORT]             a report for people\n\
json [PORT]             a report for programs\n\
set [port PORT] SETTING VALUE\n\
latency [port PORT] OPERATION|all MICROSECONDS\n\
fail [port PORT] [priority N] OPERATION|all WHEN [ERRNO]\n\
                        WHEN: off|every N|next N|probability P\n\
advance SECONDS         make it later for the NIC\n\
seed N                  begin \"probability\" anew\n\
reset-counters\n\
load FILE               run the commands in FILE\n\
help\n";

/* Runs 'args'.  Returns false and writes to 'problem' if they are wrong. */
static bool
run(char **args, FILE *out, FILE *problem)
{
    const char *name = args[0];
    uint32_t number;

    args++;
    if (!strcmp(name, "show")) {
        return report(emu_report_text, args, out, problem);
    } else if (!strcmp(name, "json")) {
        return report(emu_report_json, args, out, problem);
    } else if (!strcmp(name, "help")) {
        fputs(help, out);
        return true;
    } else if (!strcmp(name, "load")) {
        if (!args[0] || args[1]) {
            fputs("load needs the name of a file", problem);
            return false;
        }
        if (!emu_control_load(args[0], problem)) {
            return false;
        }
    } else if (!strcmp(name, "set")) {
        if (!change(change_setting, args, problem)) {
            return false;
        }
    } else if (!strcmp(name, "latency")) {
        if (!change(change_latency, args, problem)) {
            return false;
        }
    } else if (!strcmp(name, "fail")) {
        if (!change(change_fault, args, problem)) {
            return false;
        }
    } else if (!strcmp(name, "advance")) {
        if (!parse_uint(args[0], INT_MAX, &number) || args[1]) {
            fputs("advance needs a number of seconds", problem);
            return false;
        }
        emu_advance(number);
    } else if (!strcmp(name, "seed")) {
        if (!parse_uint(args[0], UINT32_MAX, &number) || args[1]) {
            fputs("seed needs a number", problem);
            return false;
        }
        random_state = number;
    } else if (!strcmp(name, "reset-counters")) {
        reset_counters();
    } else {
        fprintf(problem, "there is no command \"%s\"; try \"help\"", name);
        return false;
    }
    fputs("ok\n", out);
    return true;
}

/* Runs the command 'line' and writes the answer to 'out': a report, "ok", or
 * a line that begins with "error: ". */
void
emu_command(const char *line, FILE *out)
{
    char *copy = strdup(line), *args[16], *save = NULL, *text = NULL;
    size_t n = 0, size;
    FILE *problem = open_memstream(&text, &size);

    copy[strcspn(copy, "#\r\n")] = '\0';
    for (char *s = strtok_r(copy, " \t", &save); s;
         s = strtok_r(NULL, " \t", &save)) {
        if (n < EMU_ARRAY_SIZE(args) - 6) {
            args[n++] = s;
        }
    }
    /* Functions look a few arguments ahead. */
    for (size_t i = n; i < EMU_ARRAY_SIZE(args); i++) {
        args[i] = NULL;
    }
    if (n && !run(args, out, problem)) {
        atomic_fetch_add(&emu_n_config_errors, 1);
        fclose(problem);
        problem = NULL;
        fprintf(out, "error: %s\n", text);
        emu_log("\"%.*s\": %s", (int) strcspn(line, "\r\n"), line, text);
    }
    if (problem) {
        fclose(problem);
    }
    free(text);
    free(copy);
}
