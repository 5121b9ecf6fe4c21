// rundir.c: a run's directory: made, locked, moved aside, its settings written.
#include "host/rundir.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH = 4096, MOST = 3500 }; // longer run paths would not leave room for names inside

static pa_status move_aside(const char *run, pa_err *err) {
    char old[PATH + 32];
    struct stat s;
    int length = (int)strlen(run);
    if (lstat(run, &s)) return PA_OK;
    while (length > 1 && run[length - 1] == '/') length--; // as the shell completes a folder's name
    for (int i = 1; i < 10000; i++) {
        snprintf(old, sizeof old, "%.*s.old-%d", length, run, i);
        if (!lstat(old, &s)) continue;
        if (rename(run, old)) return pa_error(err, PA_FAIL, "%s: cannot be moved to %s: %s", run, old, strerror(errno));
        fprintf(stderr, "%s moved to %s\n", run, old);
        return PA_OK;
    }
    return pa_error(err, PA_FAIL, "%s: expected a free name up to %s, found none", run, old);
}

static pa_status lock_run(const char *run, int *lock, pa_err *err) {
    char path[PATH + 32], holder[128] = "", mine[128];
    snprintf(path, sizeof path, "%s/lock", run);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0) return pa_error(err, PA_FAIL, "%s: cannot be made: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB)) {
        ssize_t n = read(fd, holder, sizeof holder - 1);
        holder[n > 0 ? n : 0] = 0;
        close(fd);
        return pa_error(err, PA_FAIL, "%s: another run has this directory (%s)", run, *holder ? holder : "it left no name");
    }
    char host[64] = "?";
    gethostname(host, sizeof host - 1);
    int n = snprintf(mine, sizeof mine, "process %d on %s", (int)getpid(), host);
    if (ftruncate(fd, 0) || pwrite(fd, mine, (size_t)n, 0) != n) {
        close(fd);
        return pa_error(err, PA_FAIL, "%s: cannot be written: %s", path, strerror(errno));
    }
    *lock = fd;
    return PA_OK;
}

pa_status pa_rundir_open(const char *run, bool fresh, int *lock, pa_err *err) {
    char path[PATH + 32];
    *lock = -1;
    if (!*run || strlen(run) > MOST)
        return pa_error(err, PA_USAGE, "--run-dir: expected a path of 1 to %d bytes, found %zu", MOST, strlen(run));
    pa_status s = PA_OK;
    if (fresh) {
        struct stat there;
        if (!stat(run, &there)) { // refuse to move a directory from under a run
            if ((s = lock_run(run, lock, err))) return s;
            close(*lock), *lock = -1;
        }
        if ((s = move_aside(run, err))) return s;
    }
    snprintf(path, sizeof path, "%s/samples", run);
    if ((s = pa_make_dirs(path, err))) return s;
    snprintf(path, sizeof path, "%s/checkpoints", run);
    if ((s = pa_make_dirs(path, err)) || (s = pa_sync_dir(run, err))) return s;
    return lock_run(run, lock, err);
}

void pa_rundir_abandon(const char *run) {
    static const char *const name[] = {"samples", "checkpoints", "lock", ""};
    char path[PATH + 32];
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", run, name[i]);
        if (remove(path)) return; // something is in it: not a run that never began
    }
}

pa_status pa_rundir_write_config(const char *run, const pa_config *c, pa_err *err) {
    char path[PATH];
    pa_file f;
    snprintf(path, sizeof path, "%s/config.ini", run);
    pa_status s = pa_file_create(&f, path, err);
    if (s) return s;
    pa_config_print(c, false, f.stream);
    return pa_file_commit(&f, err);
}
