// comm_tcp.c: see comm_tcp.h. A thread watches for ranks that exit while this one computes and doesn't poll.
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "host/ranks/comm_tcp.h"

#include "host/ranks/comm_join.h"

typedef struct {
    pthread_t watch;
    bool watched;
    atomic_bool leaving;
    atomic_int lost;     // the rank that was lost first, -1: none
    atomic_int end_code; // exit code if a rank is lost as expected, 0: losing one is an error
    int size;
    struct pollfd *idle, *hangup; // (size) of the main thread, of the watching thread
    int fd[];                     // (size)
} tcp;

// Names the rank that was lost first: others may have exited because of it.
static pa_status lost_rank(const tcp *t, int peer, const char *why, pa_err *err) {
    int lost = atomic_load(&t->lost);
    return lost < 0 || lost == peer ? pa_rank_lost(peer, why, err) : pa_rank_lost(lost, "connection closed", err);
}

static pa_status tcp_advance(pa_peers *l, int peer, int way, pa_move *m, bool *moved, pa_err *err) {
    const tcp *t = l->own;
    while (m->left) {
        ssize_t n = way == PA_SEND ? send(t->fd[peer], m->at, m->left, MSG_DONTWAIT | MSG_NOSIGNAL)
                                   : recv(t->fd[peer], m->at, m->left, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return PA_OK;
        if (n < 0) return lost_rank(t, peer, strerror(errno), err);
        if (!n) return lost_rank(t, peer, "connection closed", err);
        m->at += n;
        m->left -= (size_t)n;
        *moved = true;
    }
    return PA_OK;
}

static void tcp_idle(pa_peers *l, double waited) {
    tcp *t = l->own;
    (void)waited;
    for (int r = 0; r < t->size; r++) {
        pa_queue *q = l->queue[r];
        bool out = q[PA_SEND].done < q[PA_SEND].begun, in = q[PA_RECEIVE].done < q[PA_RECEIVE].begun;
        t->idle[r] = (struct pollfd){.fd = out || in ? t->fd[r] : -1,
                                     .events = (short)((out ? POLLOUT : 0) | (in ? POLLIN : 0))};
    }
    poll(t->idle, (nfds_t)t->size, 100);
}

// A rank that computes, saves or samples would notice only by the next message that another was lost, which may take
// minutes. This thread ends the process after a few seconds. Files are renamed into place when complete, so none is
// left half-written.
static void *watch(void *data) {
    tcp *t = data;
    struct pollfd *p = t->hangup;
    for (int r = 0; r < t->size; r++) p[r] = (struct pollfd){.fd = t->fd[r], .events = POLLRDHUP};
    while (!atomic_load(&t->leaving)) {
        if (poll(p, (nfds_t)t->size, 100) <= 0) continue;
        int lost = 0;
        while (lost < t->size && !p[lost].revents) lost++;
        atomic_store(&t->lost, lost);
        for (int i = 0; i < 50 && !atomic_load(&t->leaving); i++) poll(NULL, 0, 100);
        if (atomic_load(&t->leaving)) break;
        int expected = atomic_load(&t->end_code);
        if (expected) _exit(expected);
        pa_err err;
        pa_rank_lost(lost, "connection closed", &err);
        fprintf(stderr, "patrain: %s\n", err.text);
        _exit(PA_FAIL);
    }
    return NULL;
}

static void leave(tcp *t) {
    if (t->watched) {
        atomic_store(&t->leaving, true);
        pthread_join(t->watch, NULL);
    }
    for (int r = 0; r < t->size; r++)
        if (t->fd[r] >= 0) close(t->fd[r]);
    free(t->idle);
    free(t->hangup);
    free(t);
}

static void tcp_end(pa_peers *l) {
    leave(l->own);
}

// Keeps the connections for a moment, so that others see which rank failed first.
static void tcp_abort(pa_peers *l, int code) {
    tcp *t = l->own;
    (void)code;
    atomic_store(&t->leaving, true);
    usleep(500000);
    leave(t);
}

static void tcp_expect_end(pa_peers *l, int code) {
    tcp *t = l->own;
    atomic_store(&t->end_code, code);
}

// An option's value, or the environment's; NONE: neither is given.
enum { NONE = -1 };
static pa_status or_environment(int *given, const char *one, const char *other, pa_err *err) {
    const char *name = getenv(one) ? one : other, *text = getenv(name);
    char *end;
    if (*given >= 0 || !text) return PA_OK;
    long value = strtol(text, &end, 10);
    if (end == text || *end || value < 0 || value > INT_MAX)
        return pa_error(err, PA_USAGE, "$%s: expected a whole number from 0 to %d, found '%.80s'", name, INT_MAX, text);
    *given = (int)value;
    return PA_OK;
}

static const pa_carrier sockets = {
    .advance = tcp_advance, .idle = tcp_idle, .end = tcp_end, .abort = tcp_abort, .expect_end = tcp_expect_end};

pa_status pa_tcp_start(pa_comm *c, const char *rendezvous, int rank, int world, double timeout, pa_err *err) {
    pa_status s = or_environment(&rank, "RANK", "SLURM_PROCID", err);
    if (s || (s = or_environment(&world, "WORLD_SIZE", "SLURM_NTASKS", err))) return s;
    if (world == NONE)
        return pa_error(
            err, PA_USAGE,
            "--world: expected 1 to 4096 ranks with --rendezvous, found none, nor $WORLD_SIZE or $SLURM_NTASKS");
    if (world < 1 || world > 4096)
        return pa_error(err, PA_USAGE, "--world: expected 1 to 4096 ranks with --rendezvous, found %d", world);
    if (rank == NONE)
        return pa_error(err, PA_USAGE,
                        "--rank: expected 0 to %d with --world %d, found none, nor $RANK or $SLURM_PROCID", world - 1,
                        world);
    if (rank < 0 || rank >= world)
        return pa_error(err, PA_USAGE, "--rank: expected 0 to %d with --world %d, found %d", world - 1, world, rank);
    c->rank = rank;
    c->size = world;
    if (world == 1) return PA_OK;
    tcp *t = calloc(1, sizeof *t + (size_t)world * sizeof *t->fd);
    if (!t) return pa_error(err, PA_FAIL, "no memory");
    for (int r = 0; r < world; r++) t->fd[r] = -1;
    atomic_init(&t->lost, -1);
    t->size = world;
    t->idle = calloc((size_t)world, sizeof *t->idle);
    t->hangup = calloc((size_t)world, sizeof *t->hangup);
    s = t->idle && t->hangup ? PA_OK : pa_error(err, PA_FAIL, "no memory");
    if (!s) s = pa_tcp_join(c, rendezvous, timeout, t->fd, err);
    if (!s && !(t->watched = !pthread_create(&t->watch, NULL, watch, t)))
        s = pa_error(err, PA_FAIL, "communication: cannot start a thread");
    if (!s) s = pa_comm_carry(c, &sockets, t, timeout, err);
    if (s) {
        leave(t);
        *c = pa_comm_single();
    }
    return s;
}
