// run_dir.c: see run_dir.h.
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

enum { PATH = 4096, MOST = 3500 }; // bytes of a run path, which leave room for names inside

static pa_status move_aside(const char *run, FILE *out, pa_err *err) {
    char old[PATH + 32];
    struct stat s;
    int length = (int)strlen(run);
    if (lstat(run, &s)) return PA_OK;
    while (length > 1 && run[length - 1] == '/') length--; // the shell completes folders with a slash
    for (int i = 1; i < 10000; i++) {
        snprintf(old, sizeof old, "%.*s.old-%d", length, run, i);
        if (!lstat(old, &s)) continue;
        if (rename(run, old)) return pa_error(err, PA_FAIL, "cannot move %s to %s: %s", run, old, strerror(errno));
        fprintf(out, "%s moved to %s\n", run, old);
        return PA_OK;
    }
    return pa_error(err, PA_FAIL, "%s: all names up to %s are taken", run, old);
}

// Whether a lock's holder, "process 12 on host", was a process of this machine that has ended.
static bool is_gone(const char *holder, const char *host) {
    int pid, at = 0;
    return sscanf(holder, "process %d on %n", &pid, &at) == 1 && at && !strcmp(holder + at, host) && kill(pid, 0) && errno == ESRCH;
}

// The kernel drops the lock when its process ends. The text in the file names the holder, and stays if the process is killed. On a file
// system without locks the text decides.
static pa_status lock_run(const char *run, int *lock, FILE *out, pa_err *err) {
    char path[PATH + 32], holder[128], mine[128], host[64] = "?";
    snprintf(path, sizeof path, "%s/lock", run);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0) return pa_error(err, PA_FAIL, "cannot create %s: %s", path, strerror(errno));
    gethostname(host, sizeof host - 1);
    int refused = flock(fd, LOCK_EX | LOCK_NB) ? errno : 0;
    ssize_t length = read(fd, holder, sizeof holder - 1);
    holder[length > 0 ? length : 0] = 0;
    if (refused == EWOULDBLOCK) {
        close(fd);
        return pa_error(err, PA_FAIL, "%s is in use by another run (%s)", run, *holder ? holder : "unknown process");
    }
    if (refused && *holder && !is_gone(holder, host)) {
        close(fd);
        return pa_error(err, PA_FAIL,
                        "%s may be in use by another run (%s): its file system has no locks (%s); if that run has ended, remove %s", run,
                        holder, strerror(refused), path);
    }
    int n = snprintf(mine, sizeof mine, "process %d on %s", (int)getpid(), host);
    if (ftruncate(fd, 0) || pwrite(fd, mine, (size_t)n, 0) != n) {
        int why = errno;
        close(fd);
        return pa_error(err, PA_FAIL, "cannot write %s: %s", path, strerror(why));
    }
    if (*holder) fprintf(out, "%s: the previous start was killed (%s)\n", run, holder);
    *lock = fd;
    return PA_OK;
}

void pa_rundir_close(int lock) {
    if (lock < 0) return;
    if (ftruncate(lock, 0)) {} // the next start will report a killed process
    close(lock);
}

// Removes the temporary files of a killed process.
static pa_status tidy(const char *folder, pa_err *err) {
    static const char *const ours[] = {"latest.", "best.", "config.ini.", "metrics.jsonl.", "step-"};
    DIR *d = opendir(folder);
    if (!d) return pa_error(err, PA_FAIL, "cannot read %s: %s", folder, strerror(errno));
    for (const struct dirent *e; (e = readdir(d));)
        for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
            if (!strncmp(e->d_name, ours[i], strlen(ours[i])) && strstr(e->d_name, ".tmp.")) unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
    return PA_OK;
}

pa_status pa_rundir_open(const char *run, bool fresh, int *lock, FILE *out, pa_err *err) {
    char path[PATH + 32];
    *lock = -1;
    if (!*run || strlen(run) > MOST)
        return pa_error(err, PA_USAGE, "--run-dir: expected a path of 1 to %d bytes, found %zu", MOST, strlen(run));
    pa_status s = PA_OK;
    if (fresh) {
        struct stat there;
        snprintf(path, sizeof path, "%s/checkpoints", run);
        if (!stat(run, &there) && access(path, F_OK) && rmdir(run))
            return pa_error(err, PA_USAGE, "--fresh: expected a run directory, found %s, which has no checkpoints", run);
        if (!stat(run, &there)) { // refuse to move a directory from under a run
            if ((s = lock_run(run, lock, out, err))) return s;
            pa_rundir_close(*lock);
            *lock = -1;
        }
        if ((s = move_aside(run, out, err))) return s;
    }
    snprintf(path, sizeof path, "%s/samples", run);
    if ((s = pa_make_dirs(path, err))) return s;
    snprintf(path, sizeof path, "%s/checkpoints", run);
    if ((s = pa_make_dirs(path, err)) || (s = pa_sync_dir(run, err)) || (s = lock_run(run, lock, out, err))) return s;
    snprintf(path, sizeof path, "%s/samples", run);
    if (!(s = tidy(run, err))) s = tidy(path, err);
    return s;
}

void pa_rundir_abandon(const char *run) {
    static const char *const name[] = {"samples", "checkpoints", "lock", ""};
    char path[PATH + 32];
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", run, name[i]);
        if (remove(path)) return; // not empty: the run had begun before
    }
}

// Prints the settings that changed since the last start, if its settings can be read.
static void print_changes(const char *path, const pa_config *c, FILE *out) {
    pa_config before = pa_config_default();
    if (access(path, R_OK) || pa_config_read(&before, path, NULL)) return;
    pa_config_print_changes(&before, c, out);
}

pa_status pa_rundir_write_config(const char *run, const pa_config *c, FILE *changes, pa_err *err) {
    char path[PATH];
    pa_file f;
    snprintf(path, sizeof path, "%s/config.ini", run);
    if (changes) print_changes(path, c, changes);
    pa_status s = pa_file_create(&f, path, err);
    if (s) return s;
    pa_config_print(c, false, f.stream);
    return pa_file_commit(&f, err);
}
