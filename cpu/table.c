// table.c: see table.h. Memory, waiting and sums over ranks of a CPU, and the operations that no instruction set
// changes.
#include "cpu/table.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/device.h"
#include "cpu/muon.h"

static pa_status cache_rows(pa_device *d, const pa_cache_rows *a, pa_err *err) {
    size_t D = (size_t)a->dim_head, H = (size_t)a->heads, size = pa_size(a->type);
    (void)d;
    (void)err;
    for (int row = 0; row < a->rows; row++)
        for (size_t h = 0; h < H; h++) {
            size_t from = (size_t)row * (size_t)a->ld + h * D;
            size_t to = (((size_t)a->stream * H + h) * (size_t)a->capacity + (size_t)row) * D;
            memcpy((char *)a->cache_k + to * size, (const char *)a->k + from * size, D * size);
            memcpy((char *)a->cache_v + to * size, (const char *)a->v + from * size, D * size);
        }
    return PA_OK;
}

static void sum(pa_device *d, double *to, double *total, const float *x, size_t n) {
    double all = 0;
    (void)d;
    for (size_t i = 0; i < n; i++) all += (double)x[i];
    *to = all;
    if (total) *total += all;
}

// Between long operations: what other ranks have sent meanwhile is summed and answered.
static pa_status product(pa_device *d, const pa_product *p, const void *a, const void *b, void *c, pa_err *err) {
    pa_status s = cpu_matmul_run(d->mm, p, a, b, c, err);
    return s || !d->summing ? s : pa_comm_reduce_ready(d->comm, d->final, err);
}

static void round_int8(pa_device *d, int8_t *q, float *scale, float *w, int rows, int in) {
    (void)d;
#pragma omp parallel for schedule(static)
    for (int r = 0; r < rows; r++) {
        float *row = w + (size_t)r * (size_t)in, most = 0;
        int8_t *to = q + (size_t)r * (size_t)in;
        for (int i = 0; i < in; i++) most = fabsf(row[i]) > most || isnan(row[i]) ? fabsf(row[i]) : most; // NaN stays
        scale[r] = most / 127;
        float inverse = most > 1e-30f ? 127 / most : 0; // else not a number of 8 bits
        for (int i = 0; i < in; i++) {
            float x = row[i] * inverse;
            to[i] = (int8_t)(isnan(x) ? 0 : lrintf(x));
            row[i] = scale[r] * to[i];
        }
    }
}

static pa_status start(pa_device *d, pa_err *err) {
    (void)d;
    (void)err;
    return PA_OK;
}

static pa_status take(pa_device *d, const char *arena, size_t bytes, size_t plan, void **base, pa_err *err) {
    double have = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    (void)d;
    if ((double)plan > have)
        return pa_error(err, PA_FAIL,
                        "memory: the plan needs %.1f GB, this machine has %.1f GB; try train.recompute = true or a "
                        "smaller train.micro_batch",
                        (double)plan / 1e9, have / 1e9);
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return pa_error(err, PA_FAIL, "memory: arena %s: no room for %.1f MB", arena, (double)bytes / 1e6);
    madvise(p, bytes, MADV_HUGEPAGE); // fewer page walks; not there on every kernel, and not needed
    *base = p;
    return PA_OK;
}

static void give(pa_device *d, void *base, size_t bytes) {
    (void)d;
    munmap(base, bytes);
}

static pa_status ready(pa_device *d, void *workspace, pa_err *err) {
    pa_status s = cpu_matmul_check(d->isa, d->type, err);
    return s ? s : cpu_matmul_create(&d->mm, d->isa, workspace, d->row, d->matrix, err);
}

static void close_device(pa_device *d) {
    cpu_matmul_destroy(d->mm);
    free(d);
}

static pa_status clear(pa_device *d, void *to, size_t bytes, pa_err *err) {
    (void)d;
    (void)err;
    memset(to, 0, bytes);
    return PA_OK;
}

static pa_status copy(pa_device *d, void *to, const void *from, size_t bytes, pa_err *err) {
    (void)d;
    (void)err;
    if (to != from) memcpy(to, from, bytes); // the host's twin of a buffer is the buffer itself
    return PA_OK;
}

static pa_status wait_for_nothing(pa_device *d, const char *what, pa_err *err) {
    (void)d;
    (void)what;
    (void)err;
    return PA_OK;
}

static pa_status sum_begin(pa_device *d, float *grad, float *own, size_t count, bool scatter, pa_err *err) {
    (void)own;
    d->summing = true;
    d->final = count;
    return pa_comm_reduce_begin(d->comm, grad, count, scatter, err);
}

static pa_status sum_ready(pa_device *d, size_t from, pa_err *err) {
    d->final = from;
    return pa_comm_reduce_ready(d->comm, from, err);
}

static pa_status sum_end(pa_device *d, pa_err *err) {
    d->summing = false;
    return pa_comm_reduce_end(d->comm, err);
}

static pa_status sum_f64(pa_device *d, double *x, pa_err *err) {
    return pa_comm_sum_f64(d->comm, x, 1, err);
}

static pa_status gather(pa_device *d, float *data, size_t count, pa_err *err) {
    return pa_comm_gather_shares(d->comm, data, count, err);
}

static pa_status gather_spans(pa_device *d, float *data, const pa_span *of, pa_err *err) {
    return pa_comm_gather(d->comm, data, of, err);
}

static pa_status squares_by_rank(pa_device *d, double *to, const float *grad, size_t count, pa_err *err) {
    *to = 0;
    for (size_t b = 0; b < pa_comm_buckets(d->comm, count); b++) {
        pa_span own = pa_comm_share(d->comm, count, b, d->comm->rank);
        double bucket;
        d->isa->sum_squares(d, &bucket, grad + own.from, own.to - own.from, NULL);
        *to += bucket;
    }
    return pa_comm_sum_f64(d->comm, to, 1, err);
}

// The best of a few products of 1536^3, the size from which oneDNN is at its peak with a weight as layers have it (the
// other way round float32 of AVX-512 is a third slower at this size), of float32 where bf16 is widened to it; 0 where
// that fails.
static double peak(pa_device *d) {
    enum { n = 1536 };
    void *a = pa_alloc((size_t)n * n * 4), *b = pa_alloc((size_t)n * n * 4), *y = pa_alloc((size_t)n * n * 4);
    pa_type type = cpu_matmul_widens(d->isa) ? PA_TYPE_F32 : d->type;
    pa_product p = {.m = n, .n = n, .k = n, .a = type, .b = type, .c = type, .b_t = true};
    for (int i = 0; i < 4 && a && b && y; i++) {
        double start_time = pa_clock();
        if (cpu_matmul_run(d->mm, &p, a, b, y, NULL)) break;
        double rate = 2.0 * n * n * n / (pa_clock() - start_time);
        if (rate > d->peak) d->peak = rate;
    }
    free(a);
    free(b);
    free(y);
    return d->peak;
}

pa_ops cpu_table(const pa_ops *isa) {
    pa_ops t = *isa;
    t.name = "cpu";
    t.cache_rows = cache_rows;
    t.sum = sum;
    t.momentum = cpu_momentum;
    t.normalise = cpu_normalise;
    t.polynomial = cpu_polynomial;
    t.muon = cpu_muon;
    t.product = product;
    t.round_int8 = round_int8;
    t.start = start;
    t.take = take;
    t.give = give;
    t.ready = ready;
    t.close = close_device;
    t.clear = clear;
    t.copy = copy;
    t.upload = copy;
    t.download = copy;
    t.wait = wait_for_nothing;
    t.sum_begin = sum_begin;
    t.sum_ready = sum_ready;
    t.sum_end = sum_end;
    t.sum_f64 = sum_f64;
    t.gather = gather;
    t.gather_spans = gather_spans;
    t.squares_by_rank = squares_by_rank;
    t.peak = peak;
    return t;
}
