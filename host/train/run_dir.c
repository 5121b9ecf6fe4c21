// run_dir.c: a run's directory: made, locked, moved aside, its settings written.
#include "host/train/run_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/base/file.h"
#include "host/files/config_read.h"

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

// Whether the process that a lock names, "process 12 on host", is one of this machine that is no more.
static bool is_gone(const char *holder, const char *host) {
    int pid, at = 0;
    return sscanf(holder, "process %d on %n", &pid, &at) == 1 && at && !strcmp(holder + at, host) && kill(pid, 0) && errno == ESRCH;
}

// The kernel's lock goes with its process; the text in the file says whose it is, and stays where that process had no time to clear it. On
// a file system without locks the text alone decides.
static pa_status lock_run(const char *run, int *lock, pa_err *err) {
    char path[PATH + 32], holder[128], mine[128], host[64] = "?";
    snprintf(path, sizeof path, "%s/lock", run);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0) return pa_error(err, PA_FAIL, "%s: cannot be made: %s", path, strerror(errno));
    gethostname(host, sizeof host - 1);
    int refused = flock(fd, LOCK_EX | LOCK_NB) ? errno : 0;
    ssize_t length = read(fd, holder, sizeof holder - 1);
    holder[length > 0 ? length : 0] = 0;
    if (refused == EWOULDBLOCK) {
        close(fd);
        return pa_error(err, PA_FAIL, "%s: another run has this directory (%s)", run, *holder ? holder : "it left no name");
    }
    if (refused && *holder && !is_gone(holder, host)) {
        close(fd);
        return pa_error(err, PA_FAIL,
                        "%s: another run may have this directory (%s), whose file system has no locks (%s); if it has ended, remove %s",
                        run, holder, strerror(refused), path);
    }
    int n = snprintf(mine, sizeof mine, "process %d on %s", (int)getpid(), host);
    if (ftruncate(fd, 0) || pwrite(fd, mine, (size_t)n, 0) != n) {
        int why = errno;
        close(fd);
        return pa_error(err, PA_FAIL, "%s: cannot be written: %s", path, strerror(why));
    }
    if (*holder) fprintf(stderr, "%s: %s had this directory and is gone\n", run, holder);
    *lock = fd;
    return PA_OK;
}

void pa_rundir_close(int lock) {
    if (lock < 0) return;
    if (ftruncate(lock, 0)) {} // the next run takes it for a process that was killed, and says so
    close(lock);
}

// Removes what a process that was killed left beside the files and links it was about to replace.
static pa_status tidy(const char *folder, pa_err *err) {
    static const char *const ours[] = {"latest.", "best.", "config.ini.", "metrics.jsonl.", "step-"};
    DIR *d = opendir(folder);
    if (!d) return pa_error(err, PA_FAIL, "%s: cannot be read: %s", folder, strerror(errno));
    for (const struct dirent *e; (e = readdir(d));)
        for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
            if (!strncmp(e->d_name, ours[i], strlen(ours[i])) && strstr(e->d_name, ".tmp.")) unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
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
        snprintf(path, sizeof path, "%s/checkpoints", run);
        if (!stat(run, &there) && access(path, F_OK) && rmdir(run))
            return pa_error(err, PA_USAGE, "--fresh: expected the directory of a run, found %s without checkpoints in it", run);
        if (!stat(run, &there)) { // refuse to move a directory from under a run
            if ((s = lock_run(run, lock, err))) return s;
            pa_rundir_close(*lock), *lock = -1;
        }
        if ((s = move_aside(run, err))) return s;
    }
    snprintf(path, sizeof path, "%s/samples", run);
    if ((s = pa_make_dirs(path, err))) return s;
    snprintf(path, sizeof path, "%s/checkpoints", run);
    if ((s = pa_make_dirs(path, err)) || (s = pa_sync_dir(run, err)) || (s = lock_run(run, lock, err))) return s;
    snprintf(path, sizeof path, "%s/samples", run);
    if (!(s = tidy(run, err))) s = tidy(path, err);
    return s;
}

void pa_rundir_abandon(const char *run) {
    static const char *const name[] = {"samples", "checkpoints", "lock", ""};
    char path[PATH + 32];
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", run, name[i]);
        if (remove(path)) return; // something is in it: not a run that never began
    }
}

// Tells what differs from the settings that the run went by before. Where they can't be read, there is nothing to compare with.
static void tell_changes(const char *path, const pa_config *c) {
    pa_config before = pa_config_default();
    if (access(path, R_OK) || pa_config_read(&before, path, NULL)) return;
    pa_config_print_changes(&before, c, stderr);
}

pa_status pa_rundir_write_config(const char *run, const pa_config *c, bool resumed, pa_err *err) {
    char path[PATH];
    pa_file f;
    snprintf(path, sizeof path, "%s/config.ini", run);
    if (resumed) tell_changes(path, c);
    pa_status s = pa_file_create(&f, path, err);
    if (s) return s;
    pa_config_print(c, false, f.stream);
    return pa_file_commit(&f, err);
}
