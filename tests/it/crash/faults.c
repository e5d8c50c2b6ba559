/* Preloaded into a worker: the clock on its wall is off by FAULTY_CLOCK seconds, and its disk is full for as long as
   the file FAULTY_DISK is there. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static time_t off;
static const char *full;

__attribute__((constructor)) static void read_environment(void) {
    const char *seconds = getenv("FAULTY_CLOCK");
    off = seconds ? atol(seconds) : 0;
    full = getenv("FAULTY_DISK");
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += off;
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    int result = syscall(SYS_gettimeofday, now, zone);
    if (result == 0) now->tv_sec += off;
    return result;
}

time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}

/* Pipes and sockets go on. */
static int refuses(int file) {
    struct stat status;
    if (!full || access(full, F_OK) || fstat(file, &status) || !S_ISREG(status.st_mode)) return 0;
    errno = ENOSPC;
    return 1;
}

ssize_t write(int file, const void *bytes, size_t count) {
    return refuses(file) ? -1 : syscall(SYS_write, file, bytes, count);
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t at) {
    return refuses(file) ? -1 : syscall(SYS_pwrite64, file, bytes, count, at);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    return refuses(file) ? -1 : syscall(SYS_writev, file, parts, count);
}

ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *there, size_t count, unsigned int flags) {
    return refuses(to) ? -1 : syscall(SYS_copy_file_range, from, at, to, there, count, flags);
}

ssize_t sendfile64(int to, int from, off64_t *at, size_t count) {
    return refuses(to) ? -1 : syscall(SYS_sendfile, to, from, at, count);
}
