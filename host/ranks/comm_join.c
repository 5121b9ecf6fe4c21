// comm_join.c: how ranks started one by one find each other. Rank 0 listens and writes its address and a random word
// into a file that all of them see. The others connect to it and receive a table of all addresses, or the reason why
// the run can't start. A file left by an earlier run leads nowhere, so ranks read it again until it is the right one.
// Rank 0 removes it once all ranks have connected.
//
// Two ranks prove to each other that they know the word (comm_greet.h). A stranger that connects delays nobody: all
// newcomers are polled at once.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/ranks/comm_join.h"

#include "host/base/file.h"
#include "host/ranks/comm_greet.h"

enum { RETRY_MS = 50, GRACE = 5, QUIET = 5, NEWCOMERS = 64, TRIES = 20 }; // GRACE and QUIET in seconds

// What rank 0 replies: at once, that the rank belongs to the run; later, that all ranks are there and the table
// follows, or why not.
typedef struct {
    uint32_t status; // a pa_status
    char why[sizeof((pa_err *)0)->text];
} answer;

typedef struct {
    uint32_t address, port; // address 0: the machine of rank 0
    char host[PA_HOST];
} place;

enum { OBSTACLE = 400 };

typedef struct {
    pa_comm *comm;
    char path[4096 + 16];
    double until, timeout, began;
    bool *reported; // whether it has printed whom it waits for; shared by all copies of this struct
    int *fd, listener;
    pa_greeting own;
    uint8_t word[PA_WORD];    // from the file
    char host[256], port[16]; // of rank 0, from the file
    char *obstacle;           // (OBSTACLE) why the last connection failed, or ""; shared by all copies
    place *table;             // (world)
} joining;

// Lists, as "1, 3", the ranks that are not connected yet. Returns how many.
static int name_missing(const joining *j, char names[PA_COMM_NAMES]) {
    int found = 0;
    size_t used = 0;
    for (int r = *names = 0; r < j->comm->size && used < PA_COMM_NAMES - 16; r++)
        if (r != j->comm->rank && j->fd[r] < 0)
            used += (size_t)snprintf(names + used, PA_COMM_NAMES - used, "%s%d", found++ ? ", " : "", r);
    return found;
}

static pa_status timed_out(const joining *j, pa_err *err) {
    char missing[PA_COMM_NAMES];
    if (j->comm->rank && j->fd[0] < 0)
        return pa_error(err, PA_FAIL, "%s: no rank 0 within %g s (train.timeout)%s%s", j->path, j->timeout,
                        *j->obstacle ? "; " : "", j->obstacle);
    name_missing(j, missing);
    return pa_error(err, PA_FAIL, "%s: expected %d ranks within %g s (train.timeout), still missing: %s", j->path,
                    j->comm->size, j->timeout, missing);
}

// Called now and then in every wait. Prints once, after a while, whom this rank waits for: otherwise a run would be
// silent for minutes if a rank was not started, or with another file. Rank 0 knows who is missing; the others know it
// from its table.
static void report_wait(const joining *j) {
    char names[PA_COMM_NAMES] = "0";
    bool seeks_root = j->comm->rank && j->fd[0] < 0, has_table = !j->comm->rank || *j->table[0].host;
    if (*j->reported || pa_clock() < j->began + QUIET) return;
    int found = seeks_root ? 1 : name_missing(j, names);
    if (!found) return;
    *j->reported = true;
    if (seeks_root || has_table)
        fprintf(stderr, "waiting for rank%s %s of %d at %s\n", found > 1 ? "s" : "", names, j->comm->size, j->path);
    else
        fprintf(stderr, "waiting for the rest of %d ranks at %s, like rank 0\n", j->comm->size, j->path);
}

// Returns 0 once the socket is ready, -1 when time is up.
static int ready(const joining *j, int fd, short events) {
    for (;;) {
        double left = j->until - pa_clock();
        struct pollfd p = {.fd = fd, .events = events};
        if (left <= 0) return -1;
        if (poll(&p, 1, left < 1 ? (int)(left * 1000) + 1 : 1000) > 0) return 0;
        report_wait(j);
    }
}

static bool move_all(const joining *j, int fd, void *data, size_t bytes, bool out) {
    for (char *at = data; bytes;) {
        if (ready(j, fd, out ? POLLOUT : POLLIN)) return false;
        ssize_t n = out ? send(fd, at, bytes, MSG_DONTWAIT | MSG_NOSIGNAL) : recv(fd, at, bytes, MSG_DONTWAIT);
        if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (n <= 0) return false;
        at += n;
        bytes -= (size_t)n;
    }
    return true;
}

// A connection to each rank, the newcomers and the run's files.
static pa_status enough_descriptors(int world, pa_err *err) {
    struct rlimit limit;
    rlim_t need = (rlim_t)world + NEWCOMERS + 64;
    if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur >= need) return PA_OK;
    limit.rlim_cur = need < limit.rlim_max ? need : limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur >= need) return PA_OK;
    return pa_error(err, PA_FAIL, "communication: %d ranks need %llu file descriptors, the limit is %llu (ulimit -n)",
                    world, (unsigned long long)need, (unsigned long long)limit.rlim_cur);
}

static pa_status start_listening(joining *j, pa_err *err) {
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY)};
    socklen_t length = sizeof any;
    j->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (j->listener < 0 || bind(j->listener, (struct sockaddr *)&any, sizeof any) || listen(j->listener, 1024) ||
        getsockname(j->listener, (struct sockaddr *)&any, &length))
        return pa_error(err, PA_FAIL, "communication: cannot listen for other ranks: %s", strerror(errno));
    j->own.port = htonl(ntohs(any.sin_port));
    return PA_OK;
}

// Returns a socket connected to host:port, or -1.
static int connect_to(const joining *j, const char *host, const char *port) {
    struct addrinfo want = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found = NULL;
    int fd = -1;
    int failed = getaddrinfo(host, port, &want, &found);
    *j->obstacle = 0;
    if (failed) {
        snprintf(j->obstacle, OBSTACLE, "cannot find host %s: %s", host, gai_strerror(failed));
        return -1;
    }
    for (struct addrinfo *a = found; a && fd < 0; a = a->ai_next) {
        int error = 0;
        socklen_t length = sizeof error;
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0) {
            snprintf(j->obstacle, OBSTACLE, "cannot connect: %s", strerror(errno));
            break;
        }
        if ((!connect(fd, a->ai_addr, a->ai_addrlen) || errno == EINPROGRESS) && !ready(j, fd, POLLOUT) &&
            !getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) && !error)
            break;
        close(fd);
        fd = -1;
    }
    freeaddrinfo(found);
    return fd;
}

static bool read_file(joining *j) {
    char word[2 * PA_WORD + 1], form[] = "patrain-rendezvous-2 %255[-A-Za-z0-9._] %15[0-9] %32s";
    int fd = open(j->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a FIFO would wait for a writer
    struct stat info;
    bool whole = fd >= 0 && !fstat(fd, &info) && S_ISREG(info.st_mode);
    FILE *f = whole ? fdopen(fd, "r") : NULL;
    whole = f && fscanf(f, form, j->host, j->port, word) == 3 && strlen(word) == 2 * PA_WORD;
    for (int i = 0; whole && i < PA_WORD; i++) whole = sscanf(word + 2 * i, "%2hhx", &j->word[i]) == 1;
    if (f)
        fclose(f);
    else if (fd >= 0)
        close(fd);
    if (whole && !strcmp(j->host, j->own.host)) strcpy(j->host, "127.0.0.1");
    return whole;
}

// The same with a deadline a few seconds away.
static joining soon(const joining *j) {
    joining s = *j;
    if (pa_clock() + GRACE < s.until) s.until = pa_clock() + GRACE;
    return s;
}

// Introduces this rank to a listener that knows the word.
static bool greet(const joining *j, int fd) {
    pa_hello h;
    pa_challenge c;
    pa_greeting g = j->own;
    if (!pa_greet_begin(&h) || !move_all(j, fd, &h, sizeof h, true) || !move_all(j, fd, &c, sizeof c, false))
        return false;
    return pa_greet_answer(&h, &c, j->word, &g) && move_all(j, fd, &g, sizeof g, true);
}

// Whether another rank 0 has replaced this one's file. Greets it, so that it exits too.
static bool replaced(const joining *j) {
    joining other = *j;
    if (!read_file(&other) || !memcmp(other.word, j->word, PA_WORD)) return false;
    other = soon(&other);
    int fd = connect_to(&other, other.host, other.port);
    if (fd < 0) return true;
    greet(&other, fd);
    close(fd);
    return true;
}

static int accept_one(const joining *j, uint32_t *address) {
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    int fd = accept4(j->listener, (struct sockaddr *)&from, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
    *address = fd < 0 || ntohl(from.sin_addr.s_addr) >> 24 == 127 ? 0 : from.sin_addr.s_addr;
    return fd;
}

static void reply(const joining *j, int fd, pa_status status, const char *why) {
    answer a = {.status = htonl((uint32_t)status)};
    joining now = *j;
    now.until = pa_clock() + GRACE;
    snprintf(a.why, sizeof a.why, "%s", why);
    move_all(&now, fd, &a, sizeof a, true);
}

static pa_status check(const joining *j, uint32_t rank, uint32_t world, pa_err *err) {
    if (world != (uint32_t)j->comm->size || rank >= world)
        return pa_error(err, PA_USAGE, "%s: expected --world %d, as on rank %d, found %u on rank %u", j->path,
                        j->comm->size, j->comm->rank, world, rank);
    if (rank == (uint32_t)j->comm->rank || j->fd[rank] >= 0)
        return pa_error(err, PA_USAGE, "%s: two ranks have --rank %u", j->path, rank);
    return PA_OK;
}

// A free place, or that of the oldest newcomer, which a rank would not need for a second; NULL: none.
static pa_newcomer *place_for_another(pa_newcomer *all) {
    pa_newcomer *n = &all[0];
    for (int i = 0; i < NEWCOMERS && n->fd >= 0; i++)
        if (all[i].fd < 0 || all[i].until < n->until) n = &all[i];
    return n->fd < 0 || n->until < pa_clock() + GRACE - 1 ? n : NULL;
}

static pa_status take_newcomer(const joining *j, pa_newcomer *n, pa_err *err) {
    uint32_t address;
    int fd = accept_one(j, &address);
    if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS))
        return pa_error(err, PA_FAIL, "communication: cannot accept a rank: %s", strerror(errno));
    if (fd < 0) return PA_OK; // it has gone again
    if (n->fd >= 0) close(n->fd);
    *n = (pa_newcomer){.fd = fd, .address = address, .until = pa_clock() + GRACE};
    return PA_OK;
}

static pa_status admit(joining *j, pa_newcomer *n, pa_err *err) {
    pa_greeting *g = &n->greeting;
    uint32_t rank = ntohl(g->rank);
    int fd = n->fd;
    pa_status s = check(j, rank, ntohl(g->world), err);
    n->fd = -1;
    if (!j->comm->rank) reply(j, fd, PA_OK, "");
    if (s) {
        if (!j->comm->rank) reply(j, fd, s, err->text);
        close(fd);
        return s;
    }
    j->fd[rank] = fd;
    g->host[PA_HOST - 1] = 0;
    if (j->comm->rank) return PA_OK;
    j->table[rank] = (place){.address = n->address, .port = g->port};
    memcpy(j->table[rank].host, g->host, PA_HOST);
    return PA_OK;
}

// Waits until the listener, a newcomer or a rank stirs, or a second has passed. An error when a rank that had connected
// is lost.
static pa_status await_any(const joining *j, struct pollfd *p, pa_newcomer *all, pa_err *err) {
    const int own = j->comm->rank, size = j->comm->size;
    const double left = j->until - pa_clock();
    if (left <= 0) return timed_out(j, err);
    for (int r = 0; r < size; r++) p[r] = (struct pollfd){.fd = j->fd[r], .events = POLLRDHUP};
    for (int i = 0; i < NEWCOMERS; i++) p[size + i] = (struct pollfd){.fd = all[i].fd, .events = POLLIN};
    p[own] = (struct pollfd){.fd = place_for_another(all) ? j->listener : -1, .events = POLLIN};
    int found = poll(p, (nfds_t)(size + NEWCOMERS), left < 1 ? (int)(left * 1000) + 1 : 1000);
    for (int r = 0; found > 0 && r < size; r++)
        if (r != own && p[r].revents) return pa_rank_lost(r, "while joining", err);
    if (found <= 0) p[own].revents = 0;
    return PA_OK;
}

// Accepts ranks that know the word, and closes other connections, until `count` ranks have connected.
static pa_status receive(joining *j, int count, pa_err *err) {
    struct pollfd *p = calloc((size_t)j->comm->size + NEWCOMERS, sizeof *p);
    pa_newcomer *all = calloc(NEWCOMERS, sizeof *all);
    pa_status s = p && all ? PA_OK : pa_error(err, PA_FAIL, "no memory");
    double looked = pa_clock();
    for (int i = 0; all && i < NEWCOMERS; i++) all[i].fd = -1;
    for (int come = 0; come < count && !s;) {
        if ((s = await_any(j, p, all, err))) break;
        if (p[j->comm->rank].revents) s = take_newcomer(j, place_for_another(all), err);
        for (int i = 0; i < NEWCOMERS && !s && come < count; i++) {
            if (all[i].fd < 0 || !pa_greet_hear(&all[i], j->word)) continue;
            s = admit(j, &all[i], err);
            come += !s;
        }
        report_wait(j);
        if (s || j->comm->rank || pa_clock() < looked + 1) continue;
        looked = pa_clock();
        if (replaced(j)) s = pa_error(err, PA_USAGE, "%s: two ranks have --rank 0", j->path);
    }
    for (int i = 0; all && i < NEWCOMERS; i++)
        if (all[i].fd >= 0) close(all[i].fd);
    free(all);
    free(p);
    return s;
}

static pa_status write_file(joining *j, pa_err *err) {
    pa_file f;
    if (getrandom(j->word, PA_WORD, 0) != PA_WORD) return pa_error(err, PA_FAIL, "communication: no random numbers");
    pa_status s = pa_file_create(&f, j->path, err);
    if (s) return s;
    fchmod(fileno(f.stream), 0600); // whoever can read the word can join
    fprintf(f.stream, "patrain-rendezvous-2 %s %u ", j->host, ntohl(j->own.port));
    for (int i = 0; i < PA_WORD; i++) fprintf(f.stream, "%02x", j->word[i]);
    fprintf(f.stream, "\n");
    return pa_file_commit(&f, err);
}

static pa_status join_as_root(joining *j, pa_err *err) {
    size_t size = (size_t)j->comm->size * sizeof *j->table;
    pa_status s = write_file(j, err);
    if (s) return s;
    joining file = *j;
    memcpy(j->table[0].host, j->own.host, PA_HOST);
    s = receive(j, j->comm->size - 1, err);
    if (!read_file(&file) || !memcmp(file.word, j->word, PA_WORD)) unlink(j->path); // unless it is another run's
    for (int r = 1; r < j->comm->size; r++)
        if (j->fd[r] >= 0) reply(j, j->fd[r], s, s ? err->text : "");
    for (int r = 1; r < j->comm->size && !s; r++)
        if (!move_all(j, j->fd[r], j->table, size, true)) s = pa_rank_lost(r, "while joining", err);
    return s;
}

// Rank 0 has accepted this rank: it will send the table, or a reason, before this rank's own timeout.
static pa_status take_table(joining *j, pa_err *err) {
    answer a;
    j->until = pa_clock() + j->timeout + GRACE;
    if (!move_all(j, j->fd[0], &a, sizeof a, false)) return pa_rank_lost(0, "while joining", err);
    a.why[sizeof a.why - 1] = 0;
    if (a.status) return pa_error(err, ntohl(a.status) == PA_USAGE ? PA_USAGE : PA_FAIL, "%s", a.why);
    if (move_all(j, j->fd[0], j->table, (size_t)j->comm->size * sizeof *j->table, false)) return PA_OK;
    return pa_rank_lost(0, "while joining", err);
}

// Connects to the rank 0 that the file names, reading it again until one knows the file's word.
static pa_status find_root(joining *j, pa_err *err) {
    for (; pa_clock() < j->until; usleep(RETRY_MS * 1000)) {
        answer a;
        report_wait(j);
        if (!read_file(j)) continue;
        joining now = soon(j); // an earlier run's port may be silent
        int fd = connect_to(&now, j->host, j->port);
        if (fd < 0) continue;
        if (greet(&now, fd) && move_all(&now, fd, &a, sizeof a, false)) {
            j->fd[0] = fd;
            return take_table(j, err);
        }
        close(fd);
    }
    return timed_out(j, err);
}

// Finds rank 0 by the file; connects to the ranks below its own and accepts those above.
static pa_status join_as_other(joining *j, pa_err *err) {
    pa_status s = find_root(j, err);
    for (int r = 1; r < j->comm->rank && !s; r++) {
        char address[INET_ADDRSTRLEN], port[16];
        snprintf(port, sizeof port, "%u", ntohl(j->table[r].port));
        inet_ntop(AF_INET, &j->table[r].address, address, sizeof address);
        const char *host = j->table[r].address ? address : j->host;
        j->fd[r] = connect_to(j, host, port);
        for (int again = 0; j->fd[r] >= 0 && !greet(j, j->fd[r]); again++) { // it gave this one's place to another
            close(j->fd[r]);
            usleep(RETRY_MS * 1000);
            j->fd[r] = again < TRIES && pa_clock() < j->until ? connect_to(j, host, port) : -1;
        }
        if (j->fd[r] < 0)
            s = pa_error(err, PA_FAIL, "communication: cannot connect to rank %d at %s port %s%s%s", r, host, port,
                         *j->obstacle ? "; " : "", j->obstacle);
    }
    return s ? s : receive(j, j->comm->size - 1 - j->comm->rank, err);
}

static void count_neighbours(const joining *j) {
    pa_comm *c = j->comm;
    c->local_rank = c->local_size = 0;
    for (int r = 0; r < c->size; r++)
        if (!strcmp(j->table[r].host, j->own.host)) c->local_size++, c->local_rank += r < c->rank;
}

pa_status pa_tcp_join(pa_comm *c, const char *path, double timeout, int *fd, pa_err *err) {
    bool reported = false;
    char obstacle[OBSTACLE] = "";
    double began = pa_clock();
    joining j = {.comm = c,
                 .until = began + timeout,
                 .timeout = timeout,
                 .began = began,
                 .reported = &reported,
                 .fd = fd,
                 .listener = -1};
    j.obstacle = obstacle;
    struct stat there;
    int on = 1;
    if (strlen(path) >= 4096)
        return pa_error(err, PA_USAGE, "--rendezvous: expected a path of up to 4095 bytes, found %zu", strlen(path));
    snprintf(j.path, sizeof j.path, !stat(path, &there) && S_ISDIR(there.st_mode) ? "%s/rendezvous" : "%s", path);
    j.own.world = htonl((uint32_t)c->size);
    j.own.rank = htonl((uint32_t)c->rank);
    gethostname(j.own.host, PA_HOST - 1);
    gethostname(j.host, PA_HOST - 1);
    j.table = calloc((size_t)c->size, sizeof *j.table);
    pa_status s = j.table ? enough_descriptors(c->size, err) : pa_error(err, PA_FAIL, "no memory");
    if (!s) s = start_listening(&j, err);
    if (!s) s = c->rank ? join_as_other(&j, err) : join_as_root(&j, err);
    if (!s) count_neighbours(&j);
    for (int r = 0; r < c->size && !s; r++)
        if (fd[r] >= 0) setsockopt(fd[r], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (j.listener >= 0) close(j.listener);
    free(j.table);
    return s;
}
