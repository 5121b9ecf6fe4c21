// work.c: see work.h.
#include "host/prep/work.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "host/base/file.h"
#include "host/base/heartbeat.h"

enum { PATH = 4096, WORD = 16, STALE_MS = 5000, LOOK_MS = 200 };
static const char NAME[] = ".paprep-"; // and the process's word

// The marker in the folder says "paprep WORD N". Without locks N grows each second while its process lives.
struct pa_work {
    char out[PATH], path[PATH];
    int lock, marker; // descriptors, or -1
    int beat;
    pa_heartbeat heartbeat;
};

typedef struct {
    char text[64];
} mark;

static bool write_mark(const pa_work *w) {
    char text[64];
    int n = snprintf(text, sizeof text, "paprep %s %d\n", pa_process_word(), w->beat);
    return pwrite(w->marker, text, (size_t)n, 0) == n;
}

static void beat(void *work) {
    pa_work *w = work;
    w->beat++;
    if (!write_mark(w)) {} // a full disk, which the files will report
}

static pa_status start_beat(pa_work *w, pa_err *err) {
    int failed = pa_heartbeat_start(&w->heartbeat, beat, w);
    return failed ? pa_error(err, PA_FAIL, "cannot start a thread: %s", strerror(failed)) : PA_OK;
}

// ---- what was left

static bool has_name(const char *name) {
    const char *word = name + sizeof NAME - 1;
    return !strncmp(name, NAME, sizeof NAME - 1) && strspn(word, "0123456789abcdef") == WORD && !word[WORD];
}

// The marker of a folder in `out`; false where it has none of paprep's for this name.
static bool read_mark(const char *out, const char *name, mark *m) {
    char path[PATH + 300], expected[64];
    *m = (mark){""};
    snprintf(path, sizeof path, "%s/%s/.owner", out, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) return false;
    ssize_t n = read(fd, m->text, sizeof m->text - 1);
    close(fd);
    int length = snprintf(expected, sizeof expected, "paprep %s ", name + sizeof NAME - 1);
    return !n || (n > 0 && !strncmp(m->text, expected, (size_t)length)); // a power cut may have left it empty
}

// Whether a marker stays as it is while its process would write to it.
static bool is_stale(const char *out, const char *name, const mark *first) {
    mark now;
    for (int waited = 0; waited < STALE_MS; waited += LOOK_MS) {
        nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
        if (!read_mark(out, name, &now) || strcmp(now.text, first->text)) return false;
    }
    return true;
}

// Into this process's own folder first: of two that remove it one succeeds, and if this one is killed, the next removes
// both.
static pa_status remove_one(const pa_work *w, const char *name, pa_err *err) {
    char from[PATH + 300], to[PATH + 300];
    snprintf(from, sizeof from, "%s/%s", w->out, name);
    snprintf(to, sizeof to, "%s/.left", w->path);
    if (rename(from, to))
        return errno == ENOENT ? PA_OK
                               : pa_error(err, PA_FAIL, "cannot rename %s to %s: %s", from, to, strerror(errno));
    return pa_remove_tree(to, err);
}

static pa_status remove_left(const pa_work *w, bool locked, pa_err *err) {
    const char *own = w->path + strlen(w->out) + 1;
    pa_status s = PA_OK;
    mark m;
    DIR *d = opendir(w->out);
    if (!d) return pa_error(err, PA_FAIL, "cannot open %s: %s", w->out, strerror(errno));
    for (const struct dirent *e; !s && (e = pa_next_entry(d, w->out, &s, err));) {
        if (!strcmp(e->d_name, own) || !has_name(e->d_name)) continue;
        if (!read_mark(w->out, e->d_name, &m)) {
            if (locked) unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR); // if it is empty, of one that was about to go
        } else if (locked || is_stale(w->out, e->d_name, &m)) {
            s = remove_one(w, e->d_name, err);
        }
    }
    closedir(d);
    return s;
}

// ----

static pa_status create(pa_work *w, pa_err *err) {
    char path[PATH + 32];
    if (snprintf(w->path, sizeof w->path, "%s/%s%s", w->out, NAME, pa_process_word()) >= PATH - 300) {
        *w->path = 0;
        return pa_error(err, PA_FAIL, "%.200s...: path too long", w->out);
    }
    pa_status s = pa_make_dirs(w->path, err);
    if (s) return s;
    snprintf(path, sizeof path, "%s/.owner", w->path);
    w->marker = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (w->marker >= 0 && write_mark(w)) return PA_OK;
    return pa_error(err, PA_FAIL, "cannot write %s: %s", path, strerror(errno));
}

static pa_status open_folder(pa_work *w, pa_err *err) {
    pa_status s = pa_make_dirs(w->out, err);
    if (s) return s;
    w->lock = open(w->out, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (w->lock < 0) return pa_error(err, PA_FAIL, "cannot open %s: %s", w->out, strerror(errno));
    bool locked = !flock(w->lock, LOCK_EX | LOCK_NB);
    if (!locked && errno == EWOULDBLOCK) return pa_error(err, PA_FAIL, "%s: another paprep is writing to it", w->out);
    if ((s = create(w, err)) || (!locked && (s = start_beat(w, err)))) return s;
    return remove_left(w, locked, err);
}

pa_status pa_work_open(pa_work **work, const char *out, pa_err *err) {
    pa_work *w = *work = calloc(1, sizeof *w);
    if (!w) return pa_error(err, PA_FAIL, "no memory");
    w->lock = w->marker = -1;
    if (snprintf(w->out, sizeof w->out, "%s", out) >= (int)sizeof w->out)
        return pa_error(err, PA_FAIL, "%.200s...: path too long", out);
    return open_folder(w, err);
}

// The marker goes last: what is left after an error is known by it.
static pa_status remove_own(const pa_work *w, pa_err *err) {
    char path[PATH + 300];
    pa_status s = PA_OK;
    DIR *d = opendir(w->path);
    if (!d) return errno == ENOENT ? PA_OK : pa_error(err, PA_FAIL, "cannot open %s: %s", w->path, strerror(errno));
    for (const struct dirent *e; !s && (e = pa_next_entry(d, w->path, &s, err));) {
        if (!strcmp(e->d_name, ".owner")) continue;
        snprintf(path, sizeof path, "%s/%s", w->path, e->d_name);
        s = pa_remove_tree(path, err);
    }
    closedir(d);
    return s ? s : pa_remove_tree(w->path, err);
}

const char *pa_work_path(const pa_work *w) {
    return w->path;
}

pa_status pa_work_close(pa_work *w, pa_err *err) {
    if (!w) return PA_OK;
    pa_heartbeat_stop(&w->heartbeat);
    if (w->marker >= 0) close(w->marker);
    pa_status s = *w->path ? remove_own(w, err) : PA_OK;
    if (w->lock >= 0) close(w->lock);
    free(w);
    return s;
}
