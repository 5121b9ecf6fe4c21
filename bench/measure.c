// measure.c: times with their spread, and the roofs that they are held against. Knows nothing of what is measured.
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench.h"

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

pa_status bench_measure(const bench_job *job, bench_effort effort, bench_time *t, pa_err *err) {
    enum { MOST = 400 };
    double seconds[MOST], all = 0;
    int runs = 0;
    for (int i = -1; i < MOST && (!effort.most || i < effort.most); i++) {
        if (job->before) job->before(job->what);
        double start = pa_clock();
        pa_status s = job->work(job->what, err);
        if (s) return s;
        double spent = job->seconds ? job->seconds(job->what) : pa_clock() - start;
        if (i < 0 && spent < 4 * effort.seconds) continue; // that was the warm-up
        seconds[runs++] = spent, all += spent;
        if (all > 4 * effort.seconds || (all > effort.seconds && runs >= effort.least)) break;
    }
    qsort(seconds, (size_t)runs, sizeof *seconds, by_size);
    *t = (bench_time){seconds[runs / 2], seconds[runs / 4], seconds[runs - 1 - runs / 4], runs};
    return PA_OK;
}

enum { STREAM = 256 << 20 };

// Four times the largest cache: a quarter of that leaves half of it (bench/log.md).
static size_t flush_size(void) {
    const long cache = sysconf(_SC_LEVEL3_CACHE_SIZE), least = 128 << 20;
    return (size_t)(4 * cache > least ? 4 * cache : least) >> 16 << 16;
}

void bench_flush(void) {
    static char *other;
    static char value;
    const size_t size = flush_size();
    if (!other && !(other = malloc(size))) return;
    value++;
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < size; i += 1 << 16) memset(other + i, value, 1 << 16);
}

typedef struct {
    uint64_t *from, *to, sum;
    cpu_matmul *mm;
    pa_product p;
} stream;

static pa_status read_all(void *what, pa_err *err) {
    stream *s = what;
    uint64_t sum = 0;
#pragma omp parallel for schedule(static) reduction(+ : sum)
    for (size_t block = 0; block < STREAM / 8; block += 4096) {
        const uint64_t *p = s->from + block;
        for (size_t i = 0; i < 4096; i++) sum += p[i];
    }
    s->sum += sum;
    (void)err;
    return PA_OK;
}

// The same in four streams a thread, asked for ahead: more on an Intel core, less on a Zen 4.
static pa_status read_streams(void *what, pa_err *err) {
    enum { STREAMS = 4, LINE = 8, AHEAD = 256 }; // words
    stream *s = what;
    uint64_t sum = 0;
#pragma omp parallel reduction(+ : sum)
    {
        size_t threads = (size_t)omp_get_num_threads(), me = (size_t)omp_get_thread_num();
        size_t each = STREAM / 8 / threads / STREAMS / LINE * LINE;
        uint64_t sums[LINE] = {0}; // so that additions do not wait for one another
        const uint64_t *p = s->from + me * STREAMS * each;
        for (size_t i = 0; i < each; i += LINE)
            for (size_t j = 0; j < STREAMS; j++) {
                const uint64_t *q = p + j * each + i;
                __builtin_prefetch(q + AHEAD);
                for (int k = 0; k < LINE; k++) sums[k] += q[k];
            }
        for (int k = 0; k < LINE; k++) sum += sums[k];
    }
    s->sum += sum;
    (void)err;
    return PA_OK;
}

static pa_status copy_all(void *what, pa_err *err) {
    stream *s = what;
#pragma omp parallel
    {
        size_t threads = (size_t)omp_get_num_threads(), me = (size_t)omp_get_thread_num(), words = STREAM / 8;
        size_t low = words * me / threads, high = words * (me + 1) / threads;
        memcpy(s->to + low, s->from + low, (high - low) * 8);
    }
    (void)err;
    return PA_OK;
}

// Each number read and written where it is, as the optimiser does.
static pa_status change_all(void *what, pa_err *err) {
    stream *s = what;
#pragma omp parallel for simd schedule(static)
    for (size_t i = 0; i < STREAM / 8; i++) s->to[i] += 1;
    (void)err;
    return PA_OK;
}

static pa_status multiply(void *what, pa_err *err) {
    stream *s = what;
    return cpu_matmul_run(s->mm, &s->p, s->from, s->to, s->to + STREAM / 16, err);
}

static pa_status best_of(pa_status (*work)(void *, pa_err *), stream *s, double amount, double *best, pa_err *err) {
    for (int i = 0; i < 8; i++) {
        double start = pa_clock();
        pa_status e = work(s, err);
        if (e) return e;
        double rate = amount / (pa_clock() - start);
        if (rate > *best) *best = rate;
    }
    return PA_OK;
}

pa_status bench_roofs(const pa_ops *ops, bool bf16, bench_roof *best, pa_err *err) {
    enum { LONGEST = 3072 };
    const size_t room_size = cpu_matmul_room(LONGEST, LONGEST * LONGEST);
    stream s = {.from = case_memory(STREAM), .to = case_memory(STREAM)};
    void *room = pa_alloc(room_size);
    pa_status e = s.from && s.to && room
                      ? cpu_matmul_create(&s.mm, ops, room, LONGEST, LONGEST * LONGEST, err)
                      : pa_error(err, PA_FAIL, "no memory for %zu MB", (2 * STREAM + room_size) >> 20);
    for (size_t i = 0; !e && i < STREAM / 8; i++) s.from[i] = 0x3f803f803f803f80u; // near 1, as float32 and as bf16
    if (!e) e = copy_all(&s, err);                                                 // pages that are there
    if (!e) e = best_of(read_all, &s, STREAM, &best->read, err);
    if (!e) e = best_of(read_streams, &s, STREAM, &best->read, err);
    if (!e) e = best_of(change_all, &s, 2.0 * STREAM, &best->copy, err);
    if (!e) e = best_of(copy_all, &s, 2.0 * STREAM, &best->copy, err);
    static const int size[] = {1536, 2048, LONGEST};
    for (int type = PA_TYPE_F32; !e && type <= (bf16 ? PA_TYPE_BF16 : PA_TYPE_F32); type++)
        for (int i = 0; !e && i < 3; i++) {
            int n = size[i];
            pa_type t = (pa_type)type;
            s.p = (pa_product){.m = n, .n = n, .k = n, .a = t, .b = t, .c = t, .b_t = true};
            e = best_of(multiply, &s, 2.0 * n * n * n, &best->flops[type], err);
        }
    cpu_matmul_destroy(s.mm);
    free(s.from), free(s.to), free(room);
    return e;
}
