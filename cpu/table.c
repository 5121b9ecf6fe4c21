// table.c: see table.h. Memory, waiting and sums over ranks of a CPU, and the operations of the instruction set that was chosen.
#include "cpu/table.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/device.h"
#include "cpu/muon.h"

static void attn_fwd(pa_device *d, const pa_attn *a, void *o, float *lse, pa_work work) {
    d->ops->attn_fwd(a, o, lse, work.at);
}

static void attn_bwd(pa_device *d, const pa_attn *a, const pa_attn_grads *g, pa_work work) {
    d->ops->attn_bwd(a, g->o, g->lse, g->dout, g->dq, g->dkp, g->dvp, g->dkn, g->dvn, work.at);
}

static size_t attn_work(pa_device *d, const pa_attn *a, bool back) {
    (void)back;
    return d->ops->attn_work(a, omp_get_max_threads());
}

// Rounds rows (S, H D) into row `at` of a cache.
static void append(pa_device *d, const pa_attn_decode *a, void *cache, int at, const float *rows) {
    size_t D = (size_t)a->dim_head, size = pa_size(a->type);
    for (int s = 0; s < a->streams; s++)
        for (int h = 0; h < a->heads; h++) {
            size_t to = ((size_t)(s * a->heads + h) * (size_t)a->capacity + (size_t)at) * D;
            d->ops->cast(a->type, (char *)cache + to * size, rows + s * a->ldkv + (ptrdiff_t)h * a->dim_head, D);
        }
}

static void attn_decode(pa_device *d, const pa_attn_decode *a) {
    append(d, a, a->k, *a->length, a->k_new);
    append(d, a, a->v, *a->length, a->v_new);
    d->ops->attn_decode(a->type, a->streams, a->heads, a->dim_head, *a->length + 1, a->capacity, a->scale, a->q, a->ldq, a->k, a->v, a->o,
                        a->work);
}

static size_t decode_work(pa_device *d, int streams, int heads, int dim_head, int capacity) {
    return d->ops->attn_decode_work(streams, heads, dim_head, capacity, omp_get_max_threads());
}

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

static void embed_fwd(pa_device *d, float *x, const pa_embed *a) {
    d->ops->embed_fwd(x, a->token, a->position, a->token_emb, a->pos_emb, a->rows, a->C);
}

static void embed_bwd(pa_device *d, const pa_embed_grads *a) {
    d->ops->embed_bwd(a->dtoken_emb, a->dpos_emb, a->dx, a->token, a->position, a->rows, a->C);
}

static void layernorm_fwd(pa_device *d, const pa_layernorm *a) {
    d->ops->layernorm_fwd(a->type, a->z, a->y, a->mean, a->rstd, a->x, a->r, a->bias, a->w, a->b, a->rows, a->C);
}

static void layernorm_bwd(pa_device *d, const pa_layernorm_grads *a) {
    d->ops->layernorm_bwd(a->type, a->dx, a->dx_copy, a->dw, a->db, a->dy, a->x, a->mean, a->rstd, a->w, a->rows, a->C, a->work);
}

static void head_norm_fwd(pa_device *d, const pa_head_norm *a) {
    d->ops->head_norm_fwd(a->type, a->x, a->ld, a->rstd, a->w, a->rows, a->H, a->D);
}

static void head_norm_bwd(pa_device *d, const pa_head_norm_grads *a) {
    d->ops->head_norm_bwd(a->type, a->dy, a->ld_dy, a->dw, a->x, a->ld_x, a->rstd, a->w, a->rows, a->H, a->D, a->work);
}

static size_t norm_work(pa_device *d, int width) {
    (void)d;
    return (size_t)omp_get_max_threads() * 2 * (size_t)width * sizeof(float);
}

static void rotary(pa_device *d, const pa_rotary *a) {
    d->ops->rotary(a->type, a->x, a->ld, a->position, a->table, a->rows, a->H, a->D, a->dims, a->sign);
}

static void activation_fwd(pa_device *d, const pa_activate *a) {
    d->ops->activation_fwd(a->type, a->kind, a->g, a->h, a->rows, a->F, a->dropout, a->sequence);
}

static void activation_bwd(pa_device *d, const pa_activate *a) {
    d->ops->activation_bwd(a->type, a->kind, a->g, a->h, a->rows, a->F, a->dropout, a->sequence);
}

static void cross_entropy(pa_device *d, const pa_cross_entropy *a) {
    d->ops->cross_entropy(a->type, a->dlogits, a->nats, a->best, a->logits, a->target, a->scalars->loss_scale, a->z_loss, a->rows, a->V);
}

static void sum(pa_device *d, double *to, double *total, const float *x, size_t n) {
    double all = 0;
    (void)d;
    for (size_t i = 0; i < n; i++) all += (double)x[i];
    *to = all;
    if (total) *total += all;
}

static void sum_squares(pa_device *d, double *to, const float *x, size_t n, void *work) {
    (void)work;
    *to = d->ops->sum_squares(x, n);
}

static size_t sum_work(pa_device *d) {
    (void)d;
    return 0;
}

static void adam(pa_device *d, const pa_adam *a) {
    d->ops->adam(d, a);
}

static void cast(pa_device *d, pa_type type, void *y, const float *x, size_t n) {
    d->ops->cast(type, y, x, n);
}

static void widen(pa_device *d, pa_type type, float *y, const void *x, size_t n) {
    d->ops->widen(type, y, x, n);
}

static void column_sum(pa_device *d, float *to, const float *x, int rows, int C, void *work) {
    (void)work;
    d->ops->column_sum(to, x, rows, C);
}

// Between long operations: what other ranks have sent meanwhile is summed and answered.
static pa_status product(pa_device *d, const pa_product *p, const void *a, const void *b, void *c, pa_err *err) {
    pa_status s = cpu_matmul_run(d->mm, p, a, b, c, err);
    return s || !d->summing ? s : pa_comm_reduce_ready(d->comm, d->final, err);
}

static void gemv(pa_device *d, const pa_gemv *a) {
    d->ops->gemv(a->type, a->y, a->x, a->w, a->bias, a->streams, a->in, a->out, a->work);
}

static void gemv_int8(pa_device *d, const pa_gemv *a) {
    d->ops->gemv_int8(a->y, a->x, a->w, a->scale, a->bias, a->streams, a->in, a->out);
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
        return pa_error(
            err, PA_FAIL,
            "memory: the plan needs %.1f GB, this machine has %.1f GB; try train.recompute = true or a smaller train.micro_batch",
            (double)plan / 1e9, have / 1e9);
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return pa_error(err, PA_FAIL, "memory: arena %s: no room for %.1f MB", arena, (double)bytes / 1e6);
    madvise(p, bytes, MADV_HUGEPAGE); // fewer page walks; not there on every kernel, and not needed
    *base = p;
    return PA_OK;
}

static void give(pa_device *d, void *base, size_t bytes) {
    (void)d;
    munmap(base, bytes);
}

static pa_status ready(pa_device *d, void *workspace, pa_err *err) {
    return cpu_matmul_create(&d->mm, d->ops, workspace, d->row, d->matrix, err);
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
        *to += d->ops->sum_squares(grad + own.from, own.to - own.from);
    }
    return pa_comm_sum_f64(d->comm, to, 1, err);
}

// The best of a few products of 1536^3, the size from which oneDNN is at its peak with a weight as layers have it (the other way round
// float32 of AVX-512 is a third slower at this size), of float32 where bf16 is widened to it; 0 where that fails.
static double peak(pa_device *d) {
    enum { n = 1536 };
    void *a = pa_alloc((size_t)n * n * 4), *b = pa_alloc((size_t)n * n * 4), *y = pa_alloc((size_t)n * n * 4);
    pa_type type = cpu_matmul_widens(d->ops) ? PA_TYPE_F32 : d->type;
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

const pa_ops cpu_table = {.name = "cpu",
                          .attn_fwd = attn_fwd,
                          .attn_bwd = attn_bwd,
                          .attn_work = attn_work,
                          .attn_decode = attn_decode,
                          .decode_work = decode_work,
                          .cache_rows = cache_rows,
                          .embed_fwd = embed_fwd,
                          .embed_bwd = embed_bwd,
                          .layernorm_fwd = layernorm_fwd,
                          .layernorm_bwd = layernorm_bwd,
                          .head_norm_fwd = head_norm_fwd,
                          .head_norm_bwd = head_norm_bwd,
                          .norm_work = norm_work,
                          .rotary = rotary,
                          .activation_fwd = activation_fwd,
                          .activation_bwd = activation_bwd,
                          .cross_entropy = cross_entropy,
                          .sum = sum,
                          .sum_squares = sum_squares,
                          .sum_work = sum_work,
                          .adam = adam,
                          .momentum = cpu_momentum,
                          .normalise = cpu_normalise,
                          .polynomial = cpu_polynomial,
                          .muon = cpu_muon,
                          .cast = cast,
                          .widen = widen,
                          .column_sum = column_sum,
                          .product = product,
                          .gemv = gemv,
                          .gemv_int8 = gemv_int8,
                          .round_int8 = round_int8,
                          .start = start,
                          .take = take,
                          .give = give,
                          .ready = ready,
                          .close = close_device,
                          .clear = clear,
                          .copy = copy,
                          .upload = copy,
                          .download = copy,
                          .wait = wait_for_nothing,
                          .sum_begin = sum_begin,
                          .sum_ready = sum_ready,
                          .sum_end = sum_end,
                          .sum_f64 = sum_f64,
                          .gather = gather,
                          .gather_spans = gather_spans,
                          .squares_by_rank = squares_by_rank,
                          .peak = peak};
