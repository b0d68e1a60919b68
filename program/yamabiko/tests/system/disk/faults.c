/* A disk that fails, or is slow, as a file says: preloaded into the engine and its workers by the tests.
 *
 * Each line of the file that the environment names in FAULTS: a call, a part of a path, and what happens to that call
 * on such files: a number is an errno, `sNNN` a sleep of so many milliseconds before the real call, `h` a call that does
 * not go on while the file says so. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The errno that the call has to fail with, or 0. */
static int fault(const char *call, int fd) {
    char text[1024], link[64], path[512], name[32], part[256], what[32];
    const char *file = getenv("FAULTS");
    if (!file) return 0;
    int saved = errno, wanted, control;
    ssize_t n, len;
again:
    wanted = 0;
    control = open(file, O_RDONLY | O_CLOEXEC);
    if (control < 0) { errno = saved; return 0; }
    n = read(control, text, sizeof text - 1);
    close(control);
    if (n <= 0) { errno = saved; return 0; }
    text[n] = 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    len = readlink(link, path, sizeof path - 1);
    if (len < 0) { errno = saved; return 0; }
    path[len] = 0;
    char *rest = 0;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(0, "\n", &rest)) {
        if (sscanf(line, "%31s %255s %31s", name, part, what) != 3) continue;
        if (strcmp(name, call) || !strstr(path, part)) continue;
        if (what[0] == 'h') {
            struct timespec pause = { 0, 20000000 };
            nanosleep(&pause, 0);
            goto again;
        } else if (what[0] == 's') {
            long ms = atol(what + 1);
            struct timespec pause = { ms / 1000, (ms % 1000) * 1000000 };
            nanosleep(&pause, 0);
        } else {
            wanted = atoi(what);
        }
    }
    errno = saved;
    return wanted;
}

#define FAIL(call, fd) do { int e = fault(call, fd); if (e) { errno = e; return -1; } } while (0)
#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int fsync(int fd) { REAL(fsync); FAIL("fsync", fd); return real(fd); }
int fdatasync(int fd) { REAL(fdatasync); FAIL("fdatasync", fd); return real(fd); }
ssize_t pwritev(int fd, const struct iovec *v, int n, off_t at) {
    REAL(pwritev);
    FAIL("pwritev", fd);
    return real(fd, v, n, at);
}
ssize_t pwritev64(int fd, const struct iovec *v, int n, off_t at) { return pwritev(fd, v, n, at); }
ssize_t write(int fd, const void *bytes, size_t n) {
    REAL(write);
    FAIL("write", fd);
    return real(fd, bytes, n);
}
