// comm.c: sums and gathers over any carrier of messages. Every rank sends each other rank its part directly; the rank
// that sums a part waits for all of it and adds in the order of ranks. Each rank sends 2 (W - 1) / W of the data for a
// sum over W ranks, in two steps; no algorithm sends less. Knows nothing of what is summed, nor of how messages travel.
#include "host/ranks/comm.h"

#include <stdlib.h>
#include <string.h>

#include "host/ranks/comm_carrier.h"

enum { ALIGN = 16, BUCKET = 1 << 20 }; // floats; the size of a bucket is measured in bench/log.md

pa_comm pa_comm_single(void) {
    return (pa_comm){.rank = 0, .size = 1, .local_rank = 0, .local_size = 1};
}

// PATRAIN_BUCKET sets the bytes, for measurements and tests.
static size_t bucket_floats(int size, size_t floats) {
    const char *set = getenv("PATRAIN_BUCKET");
    size_t share = (size_t)size * ALIGN;
    if (set) floats = strtoull(set, NULL, 10) / 4;
    return floats < share ? share : floats / share * share; // equal shares
}

static void free_peers(pa_comm *c) {
    if (c->peers) {
        free(c->peers->queue);
        free(c->peers->span);
        free(c->peers->staging);
        free(c->peers);
    }
    *c = pa_comm_single();
}

pa_status pa_comm_carry(pa_comm *c, const pa_carrier *carrier, void *own, double timeout, pa_err *err) {
    size_t W = (size_t)c->size, bucket = bucket_floats(c->size, BUCKET);
    pa_peers *l = calloc(1, sizeof *l + W * PA_COMM_F64 * sizeof *l->small);
    c->peers = l;
    if (l) {
        l->queue = calloc(W, sizeof *l->queue);
        l->span = calloc(W, sizeof *l->span);
        l->staging = malloc(bucket * sizeof(float));
    }
    if (!l || !l->queue || !l->span || !l->staging) {
        free_peers(c);
        return pa_error(err, PA_FAIL, "communication: no memory for messages to %zu ranks", W);
    }
    l->carrier = carrier;
    l->own = own;
    l->rank = c->rank;
    l->size = c->size;
    l->timeout = timeout;
    l->bucket = bucket;
    c->timeout = timeout;
    return PA_OK;
}

void pa_comm_end(pa_comm *c) {
    pa_peers *l = c->peers;
    double all = 0;
    if (l && !pa_comm_sum_f64(c, &all, 1, NULL)) l->carrier->end(l);
    free_peers(c);
}

void pa_comm_abort(pa_comm *c, int code) {
    pa_peers *l = c->peers;
    if (l && c->size > 1) l->carrier->abort(l, code);
    if (l && c->size == 1) l->carrier->end(l);
    free_peers(c);
}

void pa_comm_expect_end(pa_comm *c, int code) {
    pa_peers *l = c->peers;
    if (l && l->carrier->expect_end) l->carrier->expect_end(l, code);
}

pa_comm_traffic pa_comm_sent(const pa_comm *c) {
    return c->peers ? c->peers->sent : (pa_comm_traffic){0};
}

pa_status pa_rank_lost(int rank, const char *why, pa_err *err) {
    return pa_error(err, PA_FAIL, "communication: lost rank %d (%s); the same command resumes from the last checkpoint",
                    rank, why);
}

// ---- exchanges

static pa_status post(pa_peers *l, int peer, int way, const void *data, size_t bytes, pa_err *err) {
    pa_queue *q = &l->queue[peer][way];
    pa_move *m = &q->move[q->begun++ % PA_QUEUE];
    *m = (pa_move){.at = (char *)data, .left = bytes};
    if (way == PA_SEND) l->sent.bytes += bytes;
    return bytes && l->carrier->begin ? l->carrier->begin(l, peer, way, m, err) : PA_OK;
}

static bool through(const pa_peers *l, uint64_t exchange) {
    for (int r = 0; r < l->size; r++)
        if (r != l->rank && (l->queue[r][PA_SEND].done < exchange || l->queue[r][PA_RECEIVE].done < exchange))
            return false;
    return true;
}

static pa_status advance(pa_peers *l, bool *moved, pa_err *err) {
    for (int r = 0; r < l->size; r++)
        for (int way = 0; way < 2; way++)
            for (pa_queue *q = &l->queue[r][way]; q->done < q->begun; q->done++) {
                pa_move *m = &q->move[q->done % PA_QUEUE];
                pa_status s = m->left ? l->carrier->advance(l, r, way, m, moved, err) : PA_OK;
                if (s) return s;
                if (m->left) break;
            }
    return PA_OK;
}

// Lists, as "1, 3", the ranks that a message is awaited from, or else those that accept none. Returns how many.
static int name_silent(const pa_peers *l, char names[PA_COMM_NAMES]) {
    int way = PA_RECEIVE, found = 0;
    size_t used = 0;
    for (*names = 0; !found && way >= 0; way--)
        for (int r = 0; r < l->size; r++)
            if (l->queue[r][way].done < l->queue[r][way].begun && used < PA_COMM_NAMES - 16)
                used += (size_t)snprintf(names + used, PA_COMM_NAMES - used, "%s%d", found++ ? ", " : "", r);
    return found;
}

static pa_status silent(const pa_peers *l, pa_err *err) {
    char names[PA_COMM_NAMES];
    int found = name_silent(l, names);
    return pa_error(
        err, PA_FAIL,
        "communication: nothing from rank%s %s for %g s (train.timeout); the same command resumes from the last "
        "checkpoint",
        found > 1 ? "s" : "", names, l->timeout);
}

// The time that passes while nothing moves. At most a second per poll counts, so that time in which this process was
// stopped doesn't.
typedef struct {
    double last, waited;
} patience;

static double count_wait(pa_peers *l, patience *p) {
    double now = pa_clock(), passed = now - p->last;
    l->sent.waited += passed;
    p->last = now;
    return passed;
}

static pa_status wait_on(pa_peers *l, patience *p, bool moved, pa_err *err) {
    double passed = count_wait(l, p);
    p->waited = moved ? 0 : p->waited + (passed < 1 ? passed : 1);
    if (p->waited > l->timeout) return silent(l, err);
    if (!moved) l->carrier->idle(l, p->waited);
    return PA_OK;
}

static pa_status finish(pa_peers *l, pa_err *err) {
    patience p = {.last = pa_clock()};
    while (!through(l, l->posted)) {
        bool moved = false;
        pa_status s = advance(l, &moved, err);
        if (!s && !through(l, l->posted)) s = wait_on(l, &p, moved, err);
        if (s) return s;
    }
    count_wait(l, &p);
    return PA_OK;
}

static pa_status check(const pa_comm *c, pa_err *err) {
    if (c->peers && c->peers->busy) return pa_error(err, PA_FAIL, "communication: a sum in buckets is still open");
    if (c->peers) return PA_OK;
    return pa_error(err, PA_FAIL, "communication: not joined: a run of %d ranks", c->size);
}

// ---- all at once

pa_status pa_comm_gather(pa_comm *c, void *data, const pa_span *of, pa_err *err) {
    pa_peers *l = c->peers;
    pa_status s = PA_OK;
    if (c->size == 1 || (s = check(c, err))) return s;
    const pa_span mine = of[c->rank];
    l->posted++;
    for (int r = 0; r < c->size && !s; r++) {
        if (r == c->rank) continue;
        s = post(l, r, PA_RECEIVE, (char *)data + of[r].from, of[r].to - of[r].from, err);
        if (!s) s = post(l, r, PA_SEND, (char *)data + mine.from, mine.to - mine.from, err);
    }
    return s ? s : finish(l, err);
}

pa_status pa_comm_sum_f64(pa_comm *c, double *data, size_t count, pa_err *err) {
    pa_peers *l = c->peers;
    pa_status s = PA_OK;
    if (c->size == 1 || (s = check(c, err))) return s;
    if (count > PA_COMM_F64)
        return pa_error(err, PA_FAIL, "communication: expected at most %d numbers, found %zu", PA_COMM_F64, count);
    for (int r = 0; r < c->size; r++)
        l->span[r] = (pa_span){(size_t)r * count * sizeof *data, (size_t)(r + 1) * count * sizeof *data};
    memcpy(l->small + (size_t)c->rank * count, data, count * sizeof *data);
    if ((s = pa_comm_gather(c, l->small, l->span, err))) return s;
    for (size_t i = 0; i < count; i++) {
        data[i] = l->small[i];
        for (int r = 1; r < c->size; r++) data[i] += l->small[(size_t)r * count + i];
    }
    return PA_OK;
}

typedef struct {
    uint32_t status;
    char text[sizeof((pa_err *)0)->text];
} failure;

pa_status pa_comm_first_error(pa_comm *c, pa_status s, pa_err *err) {
    if (c->size == 1) return s;
    size_t W = (size_t)c->size;
    failure *all = calloc(W, sizeof *all);
    pa_span *of = calloc(W, sizeof *of);
    pa_status sent = all && of ? PA_OK : pa_error(err, PA_FAIL, "no memory");
    if (sent) goto done;
    all[c->rank].status = s;
    if (s) memcpy(all[c->rank].text, err->text, sizeof err->text);
    for (size_t r = 0; r < W; r++) of[r] = (pa_span){r * sizeof *all, (r + 1) * sizeof *all};
    if ((sent = pa_comm_gather(c, all, of, err))) goto done;
    for (size_t r = 0; r < W && !sent; r++)
        if (all[r].status)
            sent =
                pa_error(err, (pa_status)all[r].status, "rank %zu: %.*s", r, (int)sizeof all[r].text - 1, all[r].text);
done:
    free(all);
    free(of);
    return sent;
}

void pa_comm_silent(pa_comm *c, double seconds, char names[PA_COMM_NAMES]) {
    double here = 1;
    *names = 0;
    if (!c->peers) return;
    c->peers->timeout = seconds;
    if (pa_comm_sum_f64(c, &here, 1, NULL)) name_silent(c->peers, names);
}

pa_status pa_comm_sum_f32(pa_comm *c, float *data, size_t count, pa_err *err) {
    pa_status s = PA_OK;
    if (c->size == 1 || (s = check(c, err))) return s;
    s = pa_comm_reduce_begin(c, data, count, false, err);
    return s ? s : pa_comm_reduce_end(c, err);
}

// ---- in buckets

size_t pa_comm_bucket(const pa_comm *c) {
    return c->peers ? c->peers->bucket : (size_t)BUCKET;
}

pa_status pa_comm_set_bucket(pa_comm *c, size_t floats, pa_err *err) {
    pa_peers *l = c->peers;
    if (!l) return PA_OK;
    size_t bucket = bucket_floats(c->size, floats);
    float *staging = realloc(l->staging, bucket * sizeof *staging);
    if (!staging) return pa_error(err, PA_FAIL, "communication: no memory for a bucket of %zu numbers", bucket);
    l->staging = staging;
    l->bucket = bucket;
    return PA_OK;
}

size_t pa_comm_buckets(const pa_comm *c, size_t count) {
    return (count + pa_comm_bucket(c) - 1) / pa_comm_bucket(c);
}

pa_span pa_comm_share(const pa_comm *c, size_t count, size_t bucket, int rank) {
    size_t size = pa_comm_bucket(c), to = count - bucket * size, from = to > size ? to - size : 0, W = (size_t)c->size,
           r = (size_t)rank;
    size_t begin = from + (to - from) * r / W / ALIGN * ALIGN, end = from + (to - from) * (r + 1) / W / ALIGN * ALIGN;
    return (pa_span){begin, r + 1 == W ? to : end};
}

size_t pa_comm_share_floats(const pa_comm *c, size_t count) {
    size_t floats = 0;
    for (size_t b = 0; b < pa_comm_buckets(c, count); b++) {
        pa_span s = pa_comm_share(c, count, b, c->rank);
        floats += s.to - s.from;
    }
    return floats;
}

// Posts every rank's share of a bucket to every rank.
static pa_status post_gather(pa_comm *c, float *data, size_t count, size_t bucket, pa_err *err) {
    pa_peers *l = c->peers;
    pa_span mine = pa_comm_share(c, count, bucket, c->rank);
    pa_status s = PA_OK;
    l->posted++;
    for (int r = 0; r < c->size && !s; r++) {
        if (r == c->rank) continue;
        pa_span theirs = pa_comm_share(c, count, bucket, r);
        s = post(l, r, PA_RECEIVE, data + theirs.from, (theirs.to - theirs.from) * sizeof *data, err);
        if (!s) s = post(l, r, PA_SEND, data + mine.from, (mine.to - mine.from) * sizeof *data, err);
    }
    return s;
}

// Posts every rank's part of each share to the rank that sums it.
static pa_status post_scatter(pa_comm *c, size_t bucket, pa_err *err) {
    pa_peers *l = c->peers;
    pa_span mine = pa_comm_share(c, l->count, bucket, c->rank);
    size_t floats = mine.to - mine.from, place = 0;
    pa_status s = PA_OK;
    l->reduction = ++l->posted;
    l->reducing = true;
    for (int r = 0; r < c->size && !s; r++) {
        if (r == c->rank) continue;
        pa_span theirs = pa_comm_share(c, l->count, bucket, r);
        s = post(l, r, PA_RECEIVE, l->staging + place++ * floats, floats * sizeof *l->data, err);
        if (!s) s = post(l, r, PA_SEND, l->data + theirs.from, (theirs.to - theirs.from) * sizeof *l->data, err);
    }
    return s;
}

static void add_parts(pa_comm *c, size_t bucket) {
    pa_peers *l = c->peers;
    pa_span mine = pa_comm_share(c, l->count, bucket, c->rank);
    size_t floats = mine.to - mine.from;
    float sum[1024];
    for (size_t at = 0; at < floats; at += 1024) {
        size_t n = floats - at < 1024 ? floats - at : 1024, place = 0;
        float *own = l->data + mine.from + at;
        for (int r = 0; r < c->size; r++) {
            const float *part = r == c->rank ? own : l->staging + place++ * floats + at;
            if (r == 0)
                memcpy(sum, part, n * sizeof *sum);
            else
                for (size_t i = 0; i < n; i++) sum[i] += part[i];
        }
        memcpy(own, sum, n * sizeof *sum);
    }
}

// Sums one bucket at a time, while the sum of the one before is distributed: the order of messages is the same on every
// rank.
static pa_status reduce_some(pa_comm *c, bool *moved, pa_err *err) {
    pa_peers *l = c->peers;
    size_t buckets = pa_comm_buckets(c, l->count);
    pa_status s = advance(l, moved, err);
    while (!s) {
        if (l->reducing) {
            if (!through(l, l->reduction)) return PA_OK;
            add_parts(c, l->next);
            l->reducing = false;
            *moved = true;
            if (!l->scatter && (s = post_gather(c, l->data, l->count, l->next, err))) return s;
            l->next++;
        }
        if (l->next == buckets || pa_comm_share(c, l->count, l->next, 0).from < l->ready) return PA_OK;
        if ((s = post_scatter(c, l->next, err))) return s;
        s = advance(l, moved, err);
    }
    return s;
}

pa_status pa_comm_reduce_begin(pa_comm *c, float *data, size_t count, bool scatter, pa_err *err) {
    pa_peers *l = c->peers;
    pa_status s = PA_OK;
    if (c->size == 1 || (s = check(c, err))) return s;
    l->data = data;
    l->count = l->ready = count;
    l->scatter = scatter;
    l->next = 0;
    l->busy = true;
    l->reducing = false;
    return PA_OK;
}

pa_status pa_comm_reduce_ready(pa_comm *c, size_t from, pa_err *err) {
    bool moved = false;
    if (c->size == 1) return PA_OK;
    c->peers->ready = from;
    return reduce_some(c, &moved, err);
}

pa_status pa_comm_reduce_end(pa_comm *c, pa_err *err) {
    pa_peers *l = c->peers;
    if (c->size == 1) return PA_OK;
    patience p = {.last = pa_clock()};
    l->ready = 0;
    for (;;) {
        bool moved = false;
        pa_status s = reduce_some(c, &moved, err);
        l->busy = l->next < pa_comm_buckets(c, l->count) || !through(l, l->posted);
        if (!s && l->busy) s = wait_on(l, &p, moved, err);
        if (s) return s;
        if (!l->busy) break;
    }
    count_wait(l, &p);
    return PA_OK;
}

pa_status pa_comm_gather_shares(pa_comm *c, float *data, size_t count, pa_err *err) {
    pa_status s = PA_OK;
    if (c->size == 1 || (s = check(c, err))) return s;
    for (size_t b = 0; b < pa_comm_buckets(c, count) && !s; b++) {
        if (b && b % PA_QUEUE == 0) s = finish(c->peers, err); // the queues are full
        if (!s) s = post_gather(c, data, count, b, err);
    }
    return s ? s : finish(c->peers, err);
}

static pa_span overlap(pa_span a, size_t from, size_t to) {
    pa_span s = {a.from > from ? a.from : from, a.to < to ? a.to : to};
    return s.from < s.to ? s : (pa_span){from, from};
}

pa_status pa_comm_gather_part(pa_comm *c, const float *own, size_t count, size_t from, size_t to, float *out,
                              pa_err *err) {
    pa_status s = check(c, err);
    for (size_t b = 0, at = 0; b < pa_comm_buckets(c, count) && !s; b++) {
        pa_span mine = pa_comm_share(c, count, b, c->rank), part = overlap(mine, from, to);
        bool any = false;
        for (int r = 0; r < c->size; r++) {
            pa_span p = overlap(pa_comm_share(c, count, b, r), from, to);
            any |= p.from < p.to;
            c->peers->span[r] = (pa_span){(p.from - from) * sizeof *out, (p.to - from) * sizeof *out};
        }
        if (own && part.from < part.to)
            memcpy(out + (part.from - from), own + at + (part.from - mine.from), (part.to - part.from) * sizeof *out);
        if (any) s = pa_comm_gather(c, out, c->peers->span, err);
        at += mine.to - mine.from;
    }
    return s;
}
