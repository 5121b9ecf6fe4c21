// comm_join.c: how ranks started one by one find each other. Rank 0 listens and writes its address and a random word into a file that all
// of them see. The others connect to it and receive a table of all addresses, or the reason why the run can't start. A file left by an
// earlier run leads nowhere, so ranks read it again until it is the right one. Rank 0 removes it once all ranks have connected.
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/ranks/comm_join.h"

#include "host/base/file.h"

enum { HOST = 64, WORD = 16, RETRY_MS = 50, GRACE = 5, QUIET = 5 }; // the last two in seconds

// What a rank sends to one that it connects to. Numbers in network order.
typedef struct {
    uint8_t word[WORD]; // from the file
    uint32_t world, rank, port;
    char host[HOST];
} greeting;

// What rank 0 replies: at once, that the rank belongs to the run; later, that all ranks are there and the table follows, or why not.
typedef struct {
    uint8_t word[WORD];
    uint32_t status; // a pa_status
    char why[sizeof((pa_err *)0)->text];
} answer;

typedef struct {
    uint32_t address, port; // address 0: the machine of rank 0
    char host[HOST];
} place;

typedef struct {
    pa_comm *comm;
    char path[4096 + 16];
    double until, timeout, began;
    bool *reported; // whether it has printed whom it waits for; shared by all copies of this struct
    int *fd, listener;
    greeting own;
    char host[256], port[16]; // of rank 0, from the file
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
    if (j->comm->rank && j->fd[0] < 0) return pa_error(err, PA_FAIL, "%s: no rank 0 within %g s (train.timeout)", j->path, j->timeout);
    name_missing(j, missing);
    return pa_error(err, PA_FAIL, "%s: expected %d ranks within %g s (train.timeout), still missing: %s", j->path, j->comm->size,
                    j->timeout, missing);
}

// Called now and then in every wait. Prints once, after a while, whom this rank waits for: otherwise a run would be silent for minutes if
// a rank was not started, or with another file. Rank 0 knows who is missing; the others know it from its table.
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
    if (getaddrinfo(host, port, &want, &found)) return -1;
    for (struct addrinfo *a = found; a && fd < 0; a = a->ai_next) {
        int error = 0;
        socklen_t length = sizeof error;
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0) break;
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
    char word[2 * WORD + 1];
    FILE *f = fopen(j->path, "r");
    bool whole = f && fscanf(f, "patrain-rendezvous-1 %255s %15s %32s", j->host, j->port, word) == 3 && strlen(word) == 2 * WORD;
    for (int i = 0; whole && i < WORD; i++) whole = sscanf(word + 2 * i, "%2hhx", &j->own.word[i]) == 1;
    if (f) fclose(f);
    if (whole && !strcmp(j->host, j->own.host)) strcpy(j->host, "127.0.0.1");
    return whole;
}

// Whether another rank 0 has replaced this one's file. Greets it, so that it exits too.
static bool replaced(const joining *j) {
    joining other = *j;
    if (!read_file(&other) || !memcmp(other.own.word, j->own.word, WORD)) return false;
    other.until = pa_clock() + GRACE < j->until ? pa_clock() + GRACE : j->until;
    int fd = connect_to(&other, other.host, other.port);
    if (fd < 0) return true;
    move_all(&other, fd, &other.own, sizeof other.own, true);
    close(fd);
    return true;
}

// Waits for a connection. Fails when time is up or when a rank that had connected is lost.
static pa_status await_one(const joining *j, struct pollfd *p, pa_err *err) {
    int own = j->comm->rank;
    for (;;) {
        double left = j->until - pa_clock();
        if (left <= 0) return timed_out(j, err);
        for (int r = 0; r < j->comm->size; r++) p[r] = (struct pollfd){.fd = j->fd[r], .events = POLLRDHUP};
        p[own] = (struct pollfd){.fd = j->listener, .events = POLLIN};
        int found = poll(p, (nfds_t)j->comm->size, left < 1 ? (int)(left * 1000) + 1 : 1000);
        for (int r = 0; found > 0 && r < j->comm->size; r++)
            if (r != own && p[r].revents) return pa_rank_lost(r, "while joining", err);
        if (found > 0) return PA_OK;
        report_wait(j);
        if (!found && !own && replaced(j)) return pa_error(err, PA_USAGE, "%s: two ranks have --rank 0", j->path);
    }
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
    joining soon = *j;
    soon.until = pa_clock() + GRACE;
    memcpy(a.word, j->own.word, WORD);
    snprintf(a.why, sizeof a.why, "%s", why);
    move_all(&soon, fd, &a, sizeof a, true);
}

static pa_status check(const joining *j, uint32_t rank, uint32_t world, pa_err *err) {
    if (world != (uint32_t)j->comm->size || rank >= world)
        return pa_error(err, PA_USAGE, "%s: expected --world %d, as on rank %d, found %u on rank %u", j->path, j->comm->size, j->comm->rank,
                        world, rank);
    if (rank == (uint32_t)j->comm->rank || j->fd[rank] >= 0) return pa_error(err, PA_USAGE, "%s: two ranks have --rank %u", j->path, rank);
    return PA_OK;
}

// Accepts ranks that know the word, and closes other connections, until `count` ranks have connected.
static pa_status receive(joining *j, int count, pa_err *err) {
    struct pollfd *p = calloc((size_t)j->comm->size, sizeof *p);
    pa_status s = p ? PA_OK : pa_error(err, PA_FAIL, "no memory");
    for (int come = 0; come < count && !s;) {
        uint32_t address;
        greeting g;
        if ((s = await_one(j, p, err))) break;
        int fd = accept_one(j, &address);
        joining soon = *j;
        soon.until = soon.until < pa_clock() + GRACE ? soon.until : pa_clock() + GRACE; // a stranger may send nothing
        if (fd >= 0 && (!move_all(&soon, fd, &g, sizeof g, false) || memcmp(g.word, j->own.word, WORD))) {
            close(fd);
            fd = -1;
        }
        if (fd < 0) continue;
        uint32_t rank = ntohl(g.rank);
        s = check(j, rank, ntohl(g.world), err);
        if (!j->comm->rank) reply(j, fd, PA_OK, "");
        if (s) {
            if (!j->comm->rank) reply(j, fd, s, err->text);
            close(fd);
            break;
        }
        j->fd[rank] = fd;
        come++;
        g.host[HOST - 1] = 0;
        if (!j->comm->rank) {
            j->table[rank] = (place){.address = address, .port = g.port};
            memcpy(j->table[rank].host, g.host, HOST);
        }
    }
    free(p);
    return s;
}

static pa_status write_file(joining *j, pa_err *err) {
    pa_file f;
    if (getrandom(j->own.word, WORD, 0) != WORD) return pa_error(err, PA_FAIL, "communication: no random numbers");
    pa_status s = pa_file_create(&f, j->path, err);
    if (s) return s;
    fchmod(fileno(f.stream), 0600); // whoever can read the word can join
    fprintf(f.stream, "patrain-rendezvous-1 %s %u ", j->host, ntohl(j->own.port));
    for (int i = 0; i < WORD; i++) fprintf(f.stream, "%02x", j->own.word[i]);
    fprintf(f.stream, "\n");
    return pa_file_commit(&f, err);
}

static pa_status join_as_root(joining *j, pa_err *err) {
    size_t size = (size_t)j->comm->size * sizeof *j->table;
    pa_status s = write_file(j, err);
    if (s) return s;
    joining file = *j;
    memcpy(j->table[0].host, j->own.host, HOST);
    s = receive(j, j->comm->size - 1, err);
    if (!read_file(&file) || !memcmp(file.own.word, j->own.word, WORD)) unlink(j->path); // unless it is another run's
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
    answer a;
    for (; pa_clock() < j->until; usleep(RETRY_MS * 1000)) {
        report_wait(j);
        if (!read_file(j)) continue;
        int fd = connect_to(j, j->host, j->port);
        if (fd < 0) continue;
        if (move_all(j, fd, &j->own, sizeof j->own, true) && move_all(j, fd, &a, sizeof a, false) && !memcmp(a.word, j->own.word, WORD)) {
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
        j->fd[r] = connect_to(j, j->table[r].address ? address : j->host, port);
        if (j->fd[r] < 0 || !move_all(j, j->fd[r], &j->own, sizeof j->own, true))
            s = pa_error(err, PA_FAIL, "communication: cannot connect to rank %d at %s port %s", r, j->table[r].address ? address : j->host,
                         port);
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
    double began = pa_clock();
    joining j = {.comm = c, .until = began + timeout, .timeout = timeout, .began = began, .reported = &reported, .fd = fd, .listener = -1};
    struct stat there;
    int on = 1;
    if (strlen(path) >= 4096) return pa_error(err, PA_USAGE, "--rendezvous: expected a path of up to 4095 bytes, found %zu", strlen(path));
    snprintf(j.path, sizeof j.path, !stat(path, &there) && S_ISDIR(there.st_mode) ? "%s/rendezvous" : "%s", path);
    j.own.world = htonl((uint32_t)c->size);
    j.own.rank = htonl((uint32_t)c->rank);
    gethostname(j.own.host, HOST - 1);
    gethostname(j.host, HOST - 1);
    j.table = calloc((size_t)c->size, sizeof *j.table);
    pa_status s = j.table ? start_listening(&j, err) : pa_error(err, PA_FAIL, "no memory");
    if (!s) s = c->rank ? join_as_other(&j, err) : join_as_root(&j, err);
    if (!s) count_neighbours(&j);
    for (int r = 0; r < c->size && !s; r++)
        if (fd[r] >= 0) setsockopt(fd[r], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (j.listener >= 0) close(j.listener);
    free(j.table);
    return s;
}
