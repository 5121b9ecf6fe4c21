// run_lock.c: see run_lock.h. The kernel drops a lock when its process ends. The text in the file names the holder, and
// stays if the process is killed.
#include "host/train/run_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "host/base/file.h"
#include "host/base/heartbeat.h"

enum { PATH = 4096, STALE_MS = 5000, LOOK_MS = 200, GIVEN_BACK_MS = 1000 };

struct pa_lock {
    int fd;
    char run[PATH], path[PATH + 32];
    bool is_ours; // the file has our text
    int beat;
    pa_heartbeat heartbeat; // beats if the file is lock.owner
};

// What a lock's file says. text: all of it.
typedef struct {
    char text[256], holder[128], word[17];
} owner;

static owner read_owner(int fd) {
    owner o = {.text = ""};
    ssize_t length = pread(fd, o.text, sizeof o.text - 1, 0);
    o.text[length > 0 ? length : 0] = 0;
    snprintf(o.holder, sizeof o.holder, "%.*s", (int)strcspn(o.text, "\n"), o.text);
    const char *word = strchr(o.text, '\n'); // older versions have none
    if (word && strspn(word + 1, "0123456789abcdef") == 16) memcpy(o.word, word + 1, 16);
    return o;
}

static bool write_owner(pa_lock *l) {
    char text[256], host[64] = "?";
    gethostname(host, sizeof host - 1);
    int n = snprintf(text, sizeof text, "process %d on %s\n%s\n%d\n", (int)getpid(), host, pa_process_word(), l->beat);
    l->is_ours = true;
    return pwrite(l->fd, text, (size_t)n, 0) == n && !ftruncate(l->fd, n);
}

typedef enum { NOTHING, OURS, ANOTHER } place;

// What is at the path.
static place look(int fd, const char *path) {
    struct stat ours, there;
    int other = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK); // stat could be given what NFS remembers
    bool any = other >= 0 ? !fstat(other, &there) : errno != ENOENT && !lstat(path, &there); // no descriptor is left
    bool same = any && !fstat(fd, &ours) && ours.st_dev == there.st_dev && ours.st_ino == there.st_ino;
    if (other >= 0) close(other);
    return same ? OURS : any ? ANOTHER : NOTHING;
}

static bool is_at(int fd, const char *path) {
    return look(fd, path) == OURS;
}

static pa_status in_use(const pa_lock *l, const owner *o, pa_err *err) {
    return pa_error(err, PA_FAIL, "%s is in use by another run (%s)", l->run,
                    *o->holder ? o->holder : "unknown process");
}

static void sleep_ms(int ms) {
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

// ---- without the kernel's locks

static void beat(void *lock) {
    pa_lock *l = lock;
    l->beat++;
    if (!write_owner(l)) {} // a full disk: others will see a lock that has stopped, this process that it is taken
}

// Whether the holder has ended: its file no longer changes. False as soon as it changes; *gone if it was removed.
static bool is_stale(const pa_lock *l, owner *o, bool *gone) {
    *gone = false;
    for (int waited = 0; waited <= STALE_MS; waited += LOOK_MS) {
        int fd = open(l->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        *gone = fd < 0;
        if (*gone) return false;
        owner now = read_owner(fd);
        close(fd);
        if (!waited) *o = now;
        if (strcmp(now.text, o->text)) return false;
        sleep_ms(LOOK_MS);
    }
    return true;
}

// Whether ours is no longer there. Another start may have taken it for a stale one, and gives it back (remove_stale).
static bool is_lost(const pa_lock *l) {
    for (int waited = 0;; waited += LOOK_MS) {
        place at = look(l->fd, l->path);
        if (at != NOTHING || !l->heartbeat.beats || waited >= GIVEN_BACK_MS) return at != OURS;
        sleep_ms(LOOK_MS);
    }
}

// Moves a stale file out of the way. If another process was faster, and this is its new one, gives it back.
static bool remove_stale(const pa_lock *l, const owner *stale) {
    char aside[PATH + 64];
    pa_temporary_name(l->path, aside, sizeof aside);
    if (rename(l->path, aside)) return errno == ENOENT;
    int fd = open(aside, O_RDONLY | O_CLOEXEC);
    owner found = fd < 0 ? (owner){.text = ""} : read_owner(fd);
    if (fd >= 0) close(fd);
    bool same = !strcmp(found.text, stale->text);
    if (!same && link(aside, l->path)) {} // the other finds out that its lock is gone
    unlink(aside);
    return same;
}

static pa_status take_owner(pa_lock *l, owner *killed, pa_err *err) {
    owner o;
    bool gone;
    *killed = (owner){.text = ""};
    snprintf(l->path, sizeof l->path, "%s/lock.owner", l->run);
    for (;;) {
        l->fd = open(l->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666); // of two processes one succeeds
        if (l->fd >= 0) break;
        if (errno != EEXIST) return pa_error(err, PA_FAIL, "cannot create %s: %s", l->path, strerror(errno));
        if (is_stale(l, &o, &gone)) {
            if (!remove_stale(l, &o)) return in_use(l, &o, err);
            *killed = o;
        } else if (!gone) {
            return in_use(l, &o, err);
        }
    }
    if (!write_owner(l)) return pa_error(err, PA_FAIL, "cannot write %s: %s", l->path, strerror(errno));
    return pa_heartbeat_start(&l->heartbeat, beat, l) ? pa_error(err, PA_FAIL, "cannot start a thread") : PA_OK;
}

// ----

static pa_status take(pa_lock *l, owner *killed, pa_err *err) {
    for (;;) {
        snprintf(l->path, sizeof l->path, "%s/lock", l->run);
        l->fd = pa_open_regular(l->path, O_RDWR | O_CREAT | O_NOFOLLOW, err);
        if (l->fd < 0) return PA_FAIL;
        int refused = flock(l->fd, LOCK_EX | LOCK_NB) ? errno : 0;
        *killed = read_owner(l->fd);
        if (refused == EWOULDBLOCK) return in_use(l, killed, err);
        if (refused) { // no locks here
            close(l->fd);
            return take_owner(l, killed, err);
        }
        if (is_at(l->fd, l->path)) break;
        close(l->fd); // moved away meanwhile
    }
    return PA_OK;
}

pa_status pa_lock_take(pa_lock **lock, const char *run, char before[static 17], FILE *out, pa_err *err) {
    pa_lock *l = *lock = calloc(1, sizeof *l);
    owner last = {.text = ""};
    *before = 0;
    if (!l) return pa_error(err, PA_FAIL, "no memory for a lock");
    l->fd = -1;
    snprintf(l->run, sizeof l->run, "%s", run);
    pa_status s = take(l, &last, err);
    if (s) {
        if (l->fd >= 0) close(l->fd);
        free(l);
        *lock = NULL;
        return s;
    }
    memcpy(before, last.word, sizeof last.word);
    if (*last.holder) fprintf(out, "%s: the previous start was killed (%s)\n", run, last.holder);
    return PA_OK;
}

pa_status pa_lock_sign(pa_lock *l, pa_err *err) {
    if (!l->is_ours && !write_owner(l)) return pa_error(err, PA_FAIL, "cannot write %s: %s", l->path, strerror(errno));
    if (!fsync(l->fd) || errno == EINVAL || errno == ENOTSUP) return PA_OK;
    return pa_error(err, PA_FAIL, "cannot sync %s: %s", l->path, strerror(errno));
}

pa_status pa_lock_check(const pa_lock *l, pa_err *err) {
    if (!l || !is_lost(l)) return PA_OK;
    return pa_error(err, PA_FAIL, "%s or its lock was moved, removed or taken during this run; nothing more is written",
                    l->run);
}

bool pa_lock_follow(pa_lock *l, char *run, size_t size) {
    char self[64], path[PATH + 32], checkpoints[PATH + 64];
    snprintf(self, sizeof self, "/proc/self/fd/%d", l->fd);
    ssize_t n = readlink(self, path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    char *slash = strrchr(path, '/');
    if (!slash || strcmp(slash, strrchr(l->path, '/')) || !is_at(l->fd, path)) return false;
    snprintf(checkpoints, sizeof checkpoints, "%.*s/checkpoints", (int)(slash - path), path);
    if (access(checkpoints, F_OK) || snprintf(run, size, "%.*s", (int)(slash - path), path) >= (int)size) return false;
    snprintf(l->run, sizeof l->run, "%s", run);
    snprintf(l->path, sizeof l->path, "%s", path);
    return true;
}

// No holder, and the word by which the next start finds temporary files that could not be removed.
static void write_ended(pa_lock *l) {
    char text[32];
    int n = snprintf(text, sizeof text, "\n%s\n", pa_process_word());
    if (pwrite(l->fd, text, (size_t)n, 0) != n) {} // the next start will report a killed process
}

void pa_lock_release(pa_lock *l) {
    if (!l) return;
    if (l->heartbeat.beats) {
        pa_heartbeat_stop(&l->heartbeat);
        if (is_at(l->fd, l->path)) unlink(l->path);
    } else if (l->is_ours) {
        write_ended(l);
    }
    close(l->fd);
    free(l);
}
