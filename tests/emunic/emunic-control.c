/* SPDX-License-Identifier: Apache-2.0 */

#include <config.h>

#include "emunic.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <rte_errno.h>

/* Runs the commands in 'file'.  Lines that are wrong are skipped; what is
 * wrong with them goes to the log, and to 'problem' that they are.  Returns
 * false if there was one. */
bool
emu_control_load(const char *file, FILE *problem)
{
    FILE *stream = fopen(file, "r");
    char *line = NULL, *answer = NULL;
    size_t size = 0, answer_size;
    int number = 0, n_bad = 0;

    if (!stream) {
        fprintf(problem, "%s: %s", file, rte_strerror(errno));
        return false;
    }
    while (getline(&line, &size, stream) != -1) {
        FILE *out;

        number++;
        line[strcspn(line, "\r\n")] = '\0';
        if (!strncmp(line + strspn(line, " \t"), "load", 4)) {
            fprintf(problem, "%s%s:%d: a file cannot load files",
                    n_bad++ ? "; " : "", file, number);
            continue;
        }
        out = open_memstream(&answer, &answer_size);
        emu_command(line, out);
        fclose(out);
        if (!strncmp(answer, "error: ", 7)) {
            answer[strcspn(answer, "\n")] = '\0';
            fprintf(problem, "%s%s:%d: %s", n_bad++ ? "; " : "", file,
                    number, answer + 7);
        }
        free(answer);
    }
    free(line);
    fclose(stream);
    return !n_bad;
}

/* Writes 'size' bytes to 'fd'.  Returns false if the client is gone or does
 * not read. */
static bool
write_all(int fd, const char *bytes, size_t size)
{
    while (size) {
        ssize_t n = send(fd, bytes, size, MSG_NOSIGNAL);

        if (n <= 0) {
            return false;
        }
        bytes += n;
        size -= n;
    }
    return true;
}

static void
serve(int fd)
{
    struct timeval timeout = { .tv_sec = 5 };
    FILE *in = fdopen(fd, "r");
    char *line = NULL;
    size_t size = 0;
    bool ok = true;

    if (!in) {
        close(fd);
        return;
    }

    /* A client that says nothing does not keep others waiting for ever. */
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    while (ok && getline(&line, &size, in) != -1) {
        char *answer = NULL;
        size_t answer_size;
        FILE *out = open_memstream(&answer, &answer_size);

        /* Not to the socket, as locks are held for a report. */
        emu_command(line, out);
        fclose(out);
        ok = write_all(fd, answer, answer_size);
        free(answer);
    }
    free(line);
    fclose(in);
}

static void *
control_main(void *listener_)
{
    int listener = (int) (intptr_t) listener_;
    sigset_t all;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    for (;;) {
        int fd = accept(listener, NULL, NULL);

        if (fd >= 0) {
            serve(fd);
        } else if (errno != EINTR && errno != ECONNABORTED) {
            usleep(100 * 1000);
        }
    }
    return NULL;
}

static void
listen_on(const char *name)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    pthread_t thread;
    int listener;

    if (strlen(name) >= sizeof address.sun_path) {
        emu_log("%s: the name is too long for a socket", name);
        return;
    }
    strcpy(address.sun_path, name);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unlink(name);
    if (listener < 0
        || bind(listener, (struct sockaddr *) &address, sizeof address)
        || listen(listener, 16)) {
        emu_log("%s: %s", name, rte_strerror(errno));
        if (listener >= 0) {
            close(listener);
        }
        return;
    }
    if (pthread_create(&thread, NULL, control_main,
                       (void *) (intptr_t) listener)) {
        emu_log("%s: no thread for the control socket", name);
        close(listener);
        return;
    }
    pthread_detach(thread);
}

static void
control_init(void)
{
    const char *file = getenv("EMUNIC_CONFIG");
    const char *name = getenv("EMUNIC_SOCKET");

    if (file && *file) {
        char *text = NULL;
        size_t size;
        FILE *problem = open_memstream(&text, &size);

        emu_control_load(file, problem);
        fclose(problem);
        if (*text) {
            emu_log("%s", text);
        }
        free(text);
    }
    if (name && *name) {
        listen_on(name);
    }
}

/* Reads $EMUNIC_CONFIG and listens on $EMUNIC_SOCKET, the first time.  Not to
 * be called before the program has become a daemon. */
void
emu_control_start(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, control_init);
}

/* Says whether the executable at 'image' has DPDK in it, rather than being
 * linked with the shared library: the text of a message of ethdev, and not the
 * name of the library. */
static bool
is_static(const char *image, size_t size)
{
    static const char text[] = "Ethdev port_id=%u";
    static const char library[] = "librte_ethdev.so";

    return (memmem(image, size, text, sizeof text - 1)
            && !memmem(image, size, library, sizeof library - 1));
}

/* Static DPDK cannot be preloaded before, and nothing would say so. */
static void __attribute__((constructor))
check_program(void)
{
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    struct stat st;

    if (fd >= 0 && !fstat(fd, &st) && st.st_size > 0) {
        void *image = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);

        if (image != MAP_FAILED) {
            if (is_static(image, st.st_size)) {
                emu_log("this program has a static DPDK: no port is emulated");
            }
            munmap(image, st.st_size);
        }
    }
    if (fd >= 0) {
        close(fd);
    }
}
