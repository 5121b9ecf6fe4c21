// workers.c: files are read in forked processes that hand tokens back through a socket. libsmf aborts on what it did
// not expect; a worker that dies, or that needs too much time or memory, is replaced, and its file is refused once that
// has happened twice: the first time may have been for want of memory. A worker that something else may have ended,
// such as the kernel, says nothing of its file: if it comes to nothing again, in one worker alone, all ends with an
// error. Knows nothing of MIDI or of either encoding.
#include "tokenizer/workers.h"

#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST_WORKERS = 256, CPU_SECONDS = 60, MEMORY_GIB = 4, KEPT_BYTES = 16 << 20, LOOK_MS = 2000 };

// What comes back for a file, followed by its tokens.
typedef struct {
    pa_status status;
    pa_piece piece; // its pointer means nothing on this side
    char reason[sizeof(pa_err)];
} answer;

typedef struct {
    pid_t process;
    int socket;  // -1: no such worker
    size_t file; // being encoded
} worker;

typedef struct {
    const char *const *path;
    size_t count, next;  // files; the next to be handed out
    const size_t *order; // of the files, where not all are read; NULL: they are
    size_t *again;       // files to be read again
    size_t agains;
    bool second_try; // these are read, by one worker
    const pa_encode_options *options;
    pa_encoded *done;
    void *user;
    int jobs;
    worker worker[MOST_WORKERS];
} pool;

static bool send_all(int fd, const void *bytes, size_t count) {
    for (const char *at = bytes; count;) {
        ssize_t n = send(fd, at, count, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        at += n;
        count -= (size_t)n;
    }
    return true;
}

static bool receive_all(int fd, void *bytes, size_t count) {
    for (char *at = bytes; count;) {
        ssize_t n = recv(fd, at, count, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        at += n;
        count -= (size_t)n;
    }
    return true;
}

static bool send_answer(int fd, const answer *a) {
    return send_all(fd, a, sizeof *a) && send_all(fd, a->piece.token, a->piece.count * sizeof *a->piece.token);
}

static void limit(int resource, rlim_t soft) {
    struct rlimit r;
    if (getrlimit(resource, &r)) return;
    r.rlim_cur = r.rlim_max != RLIM_INFINITY && r.rlim_max < soft ? r.rlim_max : soft;
    setrlimit(resource, &r);
}

// Memory is limited beyond what the process has when it starts, which may be much: its parent's maps of large files, a
// device.
static void limit_memory(void) {
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%lu", &pages) == 1)
        limit(RLIMIT_AS, (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + ((rlim_t)MEMORY_GIB << 30));
    if (f) fclose(f);
}

static void work(const pool *p, int fd) {
    size_t file;
    limit(RLIMIT_CORE, 0);
    limit_memory();
    mallopt(M_MMAP_THRESHOLD, KEPT_BYTES); // what one file has used serves the next, without a page fault for each page
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES);
    while (receive_all(fd, &file, sizeof file)) {
        answer a = {0};
        pa_err err = {""};
        limit(RLIMIT_CPU, (rlim_t)(clock() / CLOCKS_PER_SEC) + CPU_SECONDS);
        a.status = pa_encode_file(p->path[file], p->options, &a.piece, &err);
        memcpy(a.reason, &err, sizeof err);
        if (!send_answer(fd, &a)) break;
        pa_piece_clear(&a.piece);
    }
    _exit(0);
}

// Forks; each side gets its end of a socket. *process is 0 in the new one.
static pa_status fork_with_socket(const char *what, pid_t *process, int *own, pa_err *err) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
        return pa_error(err, PA_FAIL, "no socket for %s: %s", what, strerror(errno));
    fflush(NULL); // what is buffered is written once, by this process
    *process = fork();
    pa_status s = *process < 0 ? pa_error(err, PA_FAIL, "no process for %s: %s", what, strerror(errno)) : PA_OK;
    int side = *process == 0;
    *own = pair[side];
    close(pair[!side]);
    if (s) close(*own);
    return s;
}

static pa_status start_worker(pool *p, worker *w, pa_err *err) {
    int own;
    pa_status s = fork_with_socket("a worker", &w->process, &own, err);
    if (s) return s;
    if (w->process == 0) {
        for (int i = 0; i < p->jobs; i++) // a worker must not keep another's socket open
            if (p->worker[i].socket >= 0) close(p->worker[i].socket);
        work(p, own);
    }
    w->socket = own;
    return PA_OK;
}

static void stop_worker(worker *w, int *status) {
    if (w->socket < 0) return;
    close(w->socket);
    w->socket = -1;
    while (waitpid(w->process, status, 0) < 0 && errno == EINTR) {}
}

// Whether this process was given less than a worker may use.
static bool has_little(void) {
    struct rlimit memory, data, time;
    const rlim_t most = (rlim_t)(MEMORY_GIB + 1) << 30;
    return !getrlimit(RLIMIT_AS, &memory) && !getrlimit(RLIMIT_DATA, &data) && !getrlimit(RLIMIT_CPU, &time) &&
           (memory.rlim_max < most || data.rlim_max < most || time.rlim_max < 10 * CPU_SECONDS);
}

// A file whose reader failed for a reason that may not be the file's. The second time it ends the work.
static pa_status try_again(pool *p, size_t file, const char *reason, pa_err *err) {
    if (p->second_try) return pa_error(err, PA_FAIL, "%s, twice: is memory or time short?", reason);
    p->again[p->agains++] = file;
    return PA_OK;
}

// The worker died over its file: says why.
static pa_status bury_worker(pool *p, worker *w, pa_err *err) {
    int status = 0;
    char reason[sizeof(pa_err)];
    const char *path = p->path[w->file];
    stop_worker(w, &status);
    int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    bool own = !signal || signal == SIGXCPU || signal == SIGABRT || signal == SIGSEGV || signal == SIGBUS ||
               signal == SIGFPE || signal == SIGILL || signal == SIGTRAP || signal == SIGSYS;
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU)
        snprintf(reason, sizeof reason, "%s: the MIDI reader took more than %d s of processor time", path, CPU_SECONDS);
    else if (WIFSIGNALED(status))
        snprintf(reason, sizeof reason, "%s: the MIDI reader stopped with signal %d (%s)", path, WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else
        snprintf(reason, sizeof reason, "%s: the MIDI reader stopped with exit status %d", path, WEXITSTATUS(status));
    bool repeats = signal == SIGXCPU || p->second_try; // glib aborts for want of memory too
    if (!repeats || !own || has_little()) return try_again(p, w->file, reason, err);
    p->done(p->user, w->file, PA_DATA, (pa_piece){0}, reason);
    return PA_OK;
}

// Hands the worker the next file; without one, it is stopped.
static pa_status give_work(pool *p, worker *w, pa_err *err) {
    int status;
    if (p->next == p->count) {
        stop_worker(w, &status);
        return PA_OK;
    }
    if (w->socket < 0) {
        pa_status s = start_worker(p, w, err);
        if (s) return s;
    }
    w->file = p->order ? p->order[p->next] : p->next;
    p->next++;
    send_all(w->socket, &w->file, sizeof w->file); // a worker that is gone is found when its answer is read
    return PA_OK;
}

// *gone: whoever should have answered has ended.
static pa_status receive_answer(int fd, answer *a, bool *gone, pa_err *err) {
    *gone = !receive_all(fd, a, sizeof *a);
    if (*gone) *a = (answer){0};
    a->piece.token = NULL;
    if (!a->piece.count) return PA_OK;
    a->piece.token = malloc(a->piece.count * sizeof *a->piece.token);
    if (!a->piece.token) return pa_error(err, PA_FAIL, "no memory for %zu tokens", a->piece.count);
    *gone = !receive_all(fd, a->piece.token, a->piece.count * sizeof *a->piece.token);
    if (*gone) pa_piece_clear(&a->piece);
    return PA_OK;
}

static pa_status take_answer(pool *p, worker *w, pa_err *err) {
    answer a;
    bool gone;
    pa_status s = receive_answer(w->socket, &a, &gone, err);
    if (s) return s;
    if (gone)
        s = bury_worker(p, w, err);
    else if (a.status == PA_FAIL && (!p->second_try || has_little()))
        s = try_again(p, w->file, a.reason, err);
    else // the second time, with all that a worker may have, it is the file's fault
        p->done(p->user, w->file, a.status == PA_FAIL ? PA_DATA : a.status, a.piece, a.reason);
    return s ? s : give_work(p, w, err);
}

// A worker that somebody stopped would keep the others waiting.
static void end_stopped(const pool *p) {
    for (int i = 0; i < p->jobs; i++) {
        siginfo_t info = {0};
        const worker *w = &p->worker[i];
        if (w->socket >= 0 && !waitid(P_PID, (id_t)w->process, &info, WSTOPPED | WNOHANG) && info.si_pid)
            kill(w->process, SIGKILL);
    }
}

// Hands out all files and takes what comes back.
static pa_status run_pool(pool *p, pa_err *err) {
    pa_status s = PA_OK;
    int busy = p->jobs;
    for (int i = 0; i < p->jobs; i++) p->worker[i].socket = -1;
    for (int i = 0; i < p->jobs && !s; i++) s = give_work(p, &p->worker[i], err);
    while (!s && busy) {
        struct pollfd ready[MOST_WORKERS];
        for (int i = 0; i < p->jobs; i++)
            ready[i] = (struct pollfd){p->worker[i].socket, POLLIN, 0}; // poll skips sockets below 0
        int found = poll(ready, (nfds_t)p->jobs, LOOK_MS);
        if (found < 0 && errno != EINTR) s = pa_error(err, PA_FAIL, "waiting for workers: %s", strerror(errno));
        if (found <= 0) end_stopped(p);
        for (int i = 0; i < p->jobs && !s && found > 0; i++)
            if (ready[i].fd >= 0 && ready[i].revents) s = take_answer(p, &p->worker[i], err);
        busy = 0;
        for (int i = 0; i < p->jobs; i++) busy += p->worker[i].socket >= 0;
    }
    for (int i = 0, status; i < p->jobs; i++) stop_worker(&p->worker[i], &status);
    return s;
}

pa_status pa_encode_files(const char *const *path, size_t count, const pa_encode_options *o, int jobs, pa_encoded *done,
                          void *user, pa_err *err) {
    jobs = jobs < 1 ? 1 : jobs > MOST_WORKERS ? MOST_WORKERS : jobs;
    if ((size_t)jobs > count) jobs = (int)count;
    pool *p = malloc(sizeof *p);
    size_t *again = malloc((count + 1) * sizeof *again);
    pa_status s = p && again ? PA_OK : pa_error(err, PA_FAIL, "no memory for workers");
    if (!s) {
        *p = (pool){
            .path = path, .count = count, .again = again, .options = o, .done = done, .user = user, .jobs = jobs};
        s = run_pool(p, err);
    }
    if (!s && p->agains) {
        *p = (pool){.path = path,
                    .count = p->agains,
                    .order = again,
                    .second_try = true,
                    .options = o,
                    .done = done,
                    .user = user,
                    .jobs = 1};
        s = run_pool(p, err);
    }
    free(again);
    free(p);
    return s;
}

typedef struct {
    pa_status status;
    pa_piece piece;
    pa_err reason;
} single;

static void keep_single(void *user, size_t index, pa_status status, pa_piece piece, const char *reason) {
    (void)index;
    single *one = user;
    one->status = status;
    one->piece = piece;
    snprintf(one->reason.text, sizeof one->reason.text, "%s", reason);
}

pa_status pa_encode_isolated(const char *path, const pa_encode_options *o, pa_piece *piece, pa_err *err) {
    single one = {.status = PA_FAIL};
    *piece = (pa_piece){0};
    if (access(path, F_OK)) return pa_error(err, PA_USAGE, "cannot open %s: %s", path, strerror(errno));
    pa_status s = pa_encode_files(&path, 1, o, 1, keep_single, &one, err);
    if (s) return s;
    *piece = one.piece;
    return one.status ? pa_error(err, one.status, "%s", one.reason.text) : PA_OK;
}

// ---- the pedal

typedef struct {
    pa_status status;
    size_t spans;
    char reason[sizeof(pa_err)];
} pedal_answer;

static void send_pedal(int fd, const uint8_t *bytes, size_t count, const pa_encode_options *o) {
    pedal_answer a = {0};
    pa_err err = {""};
    pa_pedal_span *span;
    limit(RLIMIT_CORE, 0);
    limit_memory();
    limit(RLIMIT_CPU, (rlim_t)(clock() / CLOCKS_PER_SEC) + CPU_SECONDS);
    a.status = pa_read_pedal(bytes, count, o, &span, &a.spans, &err);
    memcpy(a.reason, &err, sizeof err);
    if (send_all(fd, &a, sizeof a)) send_all(fd, span, a.spans * sizeof *span);
    _exit(0);
}

static pa_status receive_pedal(int fd, pa_pedal_span **span, size_t *spans, bool *gone, pa_err *err) {
    pedal_answer a;
    *span = NULL;
    *gone = !receive_all(fd, &a, sizeof a);
    if (*gone) return PA_OK;
    if (a.status) return pa_error(err, a.status, "%s", a.reason);
    *spans = a.spans;
    *span = malloc((a.spans + !a.spans) * sizeof **span);
    if (!*span) return pa_error(err, PA_FAIL, "no memory for the pedal of a file");
    *gone = !receive_all(fd, *span, a.spans * sizeof **span);
    return PA_OK;
}

pa_status pa_pedal_isolated(const uint8_t *bytes, size_t count, const pa_encode_options *o, pa_pedal_span **span,
                            size_t *spans, pa_err *err) {
    pa_status s = PA_OK;
    bool gone = true;
    *spans = 0;
    *span = NULL;
    for (int tries = 0; tries < 2 && gone && !s; tries++) {
        pid_t child;
        int own;
        if ((s = fork_with_socket("the MIDI reader", &child, &own, err))) return s;
        if (child == 0) send_pedal(own, bytes, count, o);
        s = receive_pedal(own, span, spans, &gone, err);
        close(own);
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR) {}
        if (gone || s) {
            free(*span);
            *span = NULL;
            *spans = 0;
        }
    }
    return gone && !s ? pa_error(err, PA_FAIL, "the MIDI reader stopped twice: is memory short?") : s;
}

// ---- a process that forks the workers

enum { LONGEST_READER_PATH = 4096 };

typedef struct {
    pa_encode_options options;
    char path[LONGEST_READER_PATH];
} question;

// What a terminal or a supervisor sends to all of a program's processes is for its first one, whose end is this one's.
static void serve_reader(int fd) {
    question q;
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    while (receive_all(fd, &q, sizeof q)) {
        answer a = {0};
        pa_err err = {""};
        a.status = pa_encode_isolated(q.path, &q.options, &a.piece, &err);
        memcpy(a.reason, &err, sizeof err);
        if (!send_answer(fd, &a)) break;
        pa_piece_clear(&a.piece);
    }
    _exit(0);
}

pa_status pa_reader_start(pa_reader *r, pa_err *err) {
    pa_status s = fork_with_socket("the MIDI reader", &r->process, &r->socket, err);
    if (!s && r->process == 0) serve_reader(r->socket);
    return s;
}

pa_status pa_reader_encode(pa_reader *r, const char *path, const pa_encode_options *o, pa_piece *piece, pa_err *err) {
    question q = {.options = *o};
    answer a;
    bool gone = true;
    *piece = (pa_piece){0};
    if (snprintf(q.path, sizeof q.path, "%s", path) >= (int)sizeof q.path)
        return pa_error(err, PA_USAGE, "%s: the path is too long", path);
    pa_status s = send_all(r->socket, &q, sizeof q) ? receive_answer(r->socket, &a, &gone, err) : PA_OK;
    if (s) return s;
    if (gone) return pa_error(err, PA_FAIL, "the process that reads MIDI files has ended");
    *piece = a.piece;
    return a.status ? pa_error(err, a.status, "%s", a.reason) : PA_OK;
}

void pa_reader_stop(pa_reader *r) {
    close(r->socket);
    while (waitpid(r->process, NULL, 0) < 0 && errno == EINTR) {}
}
