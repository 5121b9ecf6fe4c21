// run_dir.c: see run_dir.h.
#include "host/train/run_dir.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "host/base/file.h"
#include "host/files/checkpoint_list.h"
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

// Removes the temporary files that a process left, by its word.
static pa_status tidy(const char *folder, const char *word, pa_err *err) {
    char ending[32];
    DIR *d = opendir(folder);
    if (!d) return pa_error(err, PA_FAIL, "cannot read %s: %s", folder, strerror(errno));
    size_t length = (size_t)snprintf(ending, sizeof ending, ".tmp.%s", word);
    pa_status s = PA_OK;
    for (const struct dirent *e; !s && (e = pa_next_entry(d, folder, &s, err));) {
        size_t n = strlen(e->d_name);
        if (n > length && !strcmp(e->d_name + n - length, ending) && unlinkat(dirfd(d), e->d_name, 0))
            s = pa_error(err, PA_FAIL, "cannot remove %s/%s: %s", folder, e->d_name, strerror(errno));
    }
    closedir(d);
    return s;
}

// While this process has it, so that it is not moved from under another run. The lock moves with it.
static pa_status start_afresh(const char *run, FILE *out, pa_err *err) {
    char path[PATH + 32], before[17];
    struct stat there;
    pa_lock *old;
    snprintf(path, sizeof path, "%s/checkpoints", run);
    for (int looks = 0; !stat(run, &there) && access(path, F_OK) && rmdir(run); looks++) {
        if (looks == 20)
            return pa_error(err, PA_USAGE, "--fresh: expected a run directory, found %s, which has no checkpoints",
                            run);
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL); // another start may be creating it
    }
    if (stat(run, &there)) return move_aside(run, out, err); // nothing, or a link to nothing
    pa_status s = pa_lock_take(&old, run, before, out, err);
    if (!s) s = move_aside(run, out, err);
    pa_lock_release(old);
    return s;
}

pa_status pa_rundir_open(const char *run, bool fresh, pa_lock **lock, FILE *out, pa_err *err) {
    char path[PATH + 32], before[17];
    *lock = NULL;
    if (!*run || strlen(run) > MOST)
        return pa_error(err, PA_USAGE, "--run-dir: expected a path of 1 to %d bytes, found %zu", MOST, strlen(run));
    pa_status s = fresh ? start_afresh(run, out, err) : PA_OK;
    if (s) return s;
    // Checkpoints first: with them a folder is a run directory, for --fresh at the same time too.
    snprintf(path, sizeof path, "%s/checkpoints", run);
    if ((s = pa_make_dirs(path, err))) return s;
    snprintf(path, sizeof path, "%s/samples", run);
    if (mkdir(path, 0777) && errno != EEXIST) // not its parent, which another start may have moved aside just now
        return pa_error(err, PA_FAIL, "cannot create %s: %s", path, strerror(errno));
    if ((s = pa_lock_take(lock, run, before, out, err))) return s;
    if (*before &&
        ((s = tidy(run, before, err)) || (s = tidy(path, before, err)) || (s = pa_checkpoint_tidy(run, before, err))))
        return s;
    if ((s = pa_lock_sign(*lock, err))) return s;
    return pa_sync_dir(run, err); // the lock's name too, before that of any temporary file
}

void pa_rundir_abandon(const char *run) {
    static const char *const name[] = {"samples", "checkpoints", "lock", "lock.owner", ""};
    char path[PATH + 32];
    for (int i = 0; i < 5; i++) {
        snprintf(path, sizeof path, "%s/%s", run, name[i]);
        if (remove(path) && errno != ENOENT) return; // not empty: the run had begun before
    }
}

// Prints the settings that changed since the last start, if its settings can be read.
static void print_changes(const char *path, const pa_config *c, FILE *out) {
    pa_config before = pa_config_default();
    pa_err why;
    if (access(path, F_OK)) return;
    if (pa_config_read(&before, path, &why))
        fprintf(out, "warning: this start's settings replace those of the last, which can't be read: %s\n", why.text);
    else
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
