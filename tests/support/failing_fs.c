// failing_fs.c: a file system that fails, put between a program and its C library by LD_PRELOAD.
//
//   FAILING_FS=CALL:PATH:N:HOW[,CALL:PATH:N:HOW ...]
//
// The Nth CALL on a path that contains PATH ("N+": that one and all after it) goes wrong as HOW says:
//   an error's number   it fails with that error
//   hang                it returns after ten minutes
//   torn                fwrite says that all is written, of half; write that half is
//   kill, killed        the process is killed before it, or after (fwrite: after half of it)
//   stop                the process stops before it (SIGSTOP), until somebody continues it
//   lost                rename, then killed, and what was in the renamed folder is cut in half: a disk whose fsync
//   lies, and no power
// Calls: fwrite fflush fclose write fsync rename renameat2 unlink symlink mkdir open (for writing) pread fstat flock,
// and omp_set_dynamic, whose path is "/". stdio's own calls of write are its library's, so stdio's functions are
// replaced beside it.
//
// Load averages are those of a busy machine, on which OMP_DYNAMIC=true gives a region one thread. All that happens,
// happens in one second.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef enum { GOES_ON, FAILS, TORN, KILL, KILLED, LOST } outcome;

static void *original(const char *name) {
    void *f = dlsym(RTLD_NEXT, name);
    if (!f) abort();
    return f;
}

#define CALL(name) ((__typeof__(&name))original(#name))

static outcome judge_by(const char *spec, atomic_long *calls, const char *call, const char *path) {
    char what[32], where[256], nth[16], how[32], *end;
    if (sscanf(spec, "%31[^:]:%255[^:]:%15[^:]:%31[^,]", what, where, nth, how) != 4) abort();
    if (strcmp(what, call) || !strstr(path, where)) return GOES_ON;
    long n = strtol(nth, &end, 10), now = atomic_fetch_add(calls, 1) + 1;
    if (now < n || (now > n && *end != '+')) return GOES_ON;
    if (!strcmp(how, "hang")) return sleep(600), GOES_ON;
    if (!strcmp(how, "stop")) return raise(SIGSTOP), GOES_ON;
    if (!strcmp(how, "torn")) return TORN;
    if (!strcmp(how, "kill")) raise(SIGKILL);
    if (!strcmp(how, "killed")) return KILLED;
    if (!strcmp(how, "lost")) return LOST;
    errno = atoi(how);
    return FAILS;
}

static outcome judge(const char *call, const char *path) {
    enum { MOST = 4 };
    static atomic_long calls[MOST];
    const char *spec = getenv("FAILING_FS");
    outcome o = GOES_ON;
    for (int i = 0; spec && *spec && i < MOST && o == GOES_ON; i++) {
        o = judge_by(spec, &calls[i], call, path);
        spec += strcspn(spec, ",");
        spec += *spec == ',';
    }
    return o;
}

static outcome judge_file(const char *call, int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    return judge(call, path);
}

static int after(outcome o, int result) {
    if (o == KILLED) raise(SIGKILL);
    return result;
}

size_t fwrite(const void *data, size_t size, size_t count, FILE *f) {
    outcome o = judge_file("fwrite", fileno(f));
    if (o == FAILS) return 0;
    if (o == GOES_ON) return CALL(fwrite)(data, size, count, f);
    CALL(fwrite)(data, 1, size * count / 2, f);
    if (o == TORN) return count;
    CALL(fflush)(f);
    return (size_t)after(o, 0);
}

ssize_t write(int fd, const void *data, size_t count) {
    outcome o = fd > STDERR_FILENO ? judge_file("write", fd) : GOES_ON;
    if (o == FAILS) return -1;
    return (ssize_t)after(o, (int)CALL(write)(fd, data, o == TORN || o == KILLED ? count / 2 : count));
}

int fflush(FILE *f) {
    outcome o = f ? judge_file("fflush", fileno(f)) : GOES_ON;
    return o == FAILS ? EOF : after(o, CALL(fflush)(f));
}

int fclose(FILE *f) {
    outcome o = judge_file("fclose", fileno(f));
    int why = errno, result = CALL(fclose)(f);
    if (o != FAILS) return after(o, result);
    errno = why;
    return EOF;
}

int fsync(int fd) {
    outcome o = judge_file("fsync", fd);
    return o == FAILS ? -1 : after(o, CALL(fsync)(fd));
}

static void halve(const char *folder, const char *name) {
    char path[4096];
    struct stat info;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (stat(path, &info) || truncate(path, info.st_size / 2)) abort();
}

static int after_rename(outcome o, const char *to, int result) {
    if (o == LOST) {
        halve(to, "model.safetensors");
        halve(to, "state.safetensors");
        raise(SIGKILL);
    }
    return after(o, result);
}

int rename(const char *from, const char *to) {
    outcome o = judge("rename", to);
    return o == FAILS ? -1 : after_rename(o, to, CALL(rename)(from, to));
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    outcome o = judge("renameat2", to);
    return o == FAILS ? -1 : after(o, CALL(renameat2)(from_folder, from, to_folder, to, flags));
}

int unlink(const char *path) {
    outcome o = judge("unlink", path);
    return o == FAILS ? -1 : after(o, CALL(unlink)(path));
}

int flock(int fd, int operation) {
    outcome o = judge_file("flock", fd);
    return o == FAILS ? -1 : after(o, CALL(flock)(fd, operation));
}

int symlink(const char *target, const char *path) {
    outcome o = judge("symlink", path);
    return o == FAILS ? -1 : after(o, CALL(symlink)(target, path));
}

int mkdir(const char *path, mode_t mode) {
    outcome o = judge("mkdir", path);
    return o == FAILS ? -1 : after(o, CALL(mkdir)(path, mode));
}

int open(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    int mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(args, int) : 0;
    va_end(args);
    outcome o = flags & O_ACCMODE ? judge("open", path) : GOES_ON;
    return o == FAILS ? -1 : after(o, CALL(open)(path, flags, mode));
}

ssize_t pread(int fd, void *data, size_t count, off_t at) {
    outcome o = judge_file("pread", fd);
    return o == FAILS ? -1 : after(o, (int)CALL(pread)(fd, data, count, at));
}

int fstat(int fd, struct stat *info) {
    outcome o = judge_file("fstat", fd);
    return o == FAILS ? -1 : after(o, CALL(fstat)(fd, info));
}

int getloadavg(double *load, int count) {
    for (int i = 0; i < count; i++) load[i] = 1000;
    return count;
}

time_t time(time_t *out) {
    const time_t now = 1800000000;
    if (out) *out = now;
    return now;
}

void omp_set_dynamic(int dynamic);
void omp_set_dynamic(int dynamic) {
    if (judge("omp_set_dynamic", "/") != FAILS) CALL(omp_set_dynamic)(dynamic);
}
