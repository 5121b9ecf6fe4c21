// cuda_ops.c: see cuda_ops.h. A call lists its operands with use() and change(), which give their twins on the device, and ends with
// done().
#include "tests/support/cuda_ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/simd.h"
#include "cuda/device.h"
#include "cuda/half.h"

enum { OPERANDS = 16 };
static struct {
    void *host, *device;
    size_t bytes;
    bool back, narrow;
    size_t rows, row, ld; // bytes; row 0: all of it comes back
    char *was;            // before the call, where rows come back
} operand[OPERANDS];
static int operands;
static cuda_ops_half half;

static void check(cudaError_t e, const char *what) {
    if (!e) return;
    fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(e));
    abort();
}
static pa_type type_of(pa_type t) {
    return t == PA_TYPE_F32 ? PA_TYPE_F32 : half ? PA_TYPE_F16 : PA_TYPE_BF16;
}

static void convert(uint16_t *to, const uint16_t *from, size_t n, bool to_half) {
    for (size_t i = 0; i < n; i++)
        to[i] = to_half ? cuda_half_from_float(bf16_to_float(from[i])) : bf16_from_float(cuda_half_to_float(from[i]));
}

static void *add(const void *host, size_t bytes, bool back, bool narrow) {
    void *device;
    uint16_t *other = NULL;
    if (!host) return NULL;
    if (operands == OPERANDS) abort();
    check(cudaMalloc(&device, bytes + 16), "cudaMalloc");
    if (narrow && half == CUDA_OPS_CONVERTED) {
        if (!(other = malloc(bytes + 2))) abort();
        convert(other, host, bytes / 2, true);
    }
    check(cudaMemcpy(device, other ? other : host, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
    free(other);
    operand[operands].host = (void *)(uintptr_t)host, operand[operands].device = device, operand[operands].bytes = bytes;
    operand[operands].back = back, operand[operands].row = 0, operand[operands++].narrow = narrow && half == CUDA_OPS_CONVERTED;
    return device;
}
// Plain memory: read, or also written.
static const void *use(const void *host, size_t bytes) {
    return add(host, bytes, false, false);
}
static void *change(void *host, size_t bytes) {
    return add(host, bytes, true, false);
}
// n numbers of type t.
static const void *use_act(pa_type t, const void *host, size_t n) {
    return add(host, n * pa_size(t), false, t != PA_TYPE_F32);
}
static void *change_act(pa_type t, void *host, size_t n) {
    return add(host, n * pa_size(t), true, t != PA_TYPE_F32);
}

// Rows that a kernel writes come back; what lies between them must be as it was.
static void rows_back(int i) {
    char *now = malloc(operand[i].bytes + 1), *was = operand[i].was;
    if (!now) abort();
    check(cudaMemcpy(now, operand[i].device, operand[i].bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
    if (operand[i].narrow) convert((uint16_t *)now, (uint16_t *)now, operand[i].bytes / 2, false);
    for (size_t r = 0; r < operand[i].rows; r++) {
        const size_t from = r * operand[i].ld, end = from + operand[i].row, next = from + operand[i].ld;
        memcpy((char *)operand[i].host + from, now + from, operand[i].row);
        if (r + 1 < operand[i].rows && !operand[i].narrow && memcmp(was + end, now + end, next - end)) {
            fprintf(stderr, "operand %d: row %zu was written beyond its end\n", i, r);
            abort();
        }
    }
    free(now), free(was);
}

static void done(void) {
    check(cudaGetLastError(), "launch");
    check(cudaDeviceSynchronize(), "kernel");
    for (int i = 0; i < operands; i++) {
        if (operand[i].row)
            rows_back(i);
        else if (operand[i].back)
            check(cudaMemcpy(operand[i].host, operand[i].device, operand[i].bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
        if (operand[i].back && !operand[i].row && operand[i].narrow) convert(operand[i].host, operand[i].host, operand[i].bytes / 2, false);
        check(cudaFree(operand[i].device), "cudaFree");
    }
    operands = 0;
}

static size_t product(int a, int b) {
    return (size_t)a * (size_t)b;
}
static int largest(const int32_t *x, int n) {
    int most = 0;
    for (int i = 0; i < n; i++) most = x[i] > most ? x[i] : most;
    return most;
}
static float *scratch(int C) {
    size_t bytes = cuda_norm_work(C);
    void *p = malloc(bytes);
    if (!p) abort();
    memset(p, 0xff, bytes);
    void *device = add(p, bytes, false, false);
    free(p);
    return device;
}

static void embed_fwd(float *x, const int32_t *token, const int32_t *position, const float *token_emb, const float *pos_emb, int rows,
                      int C) {
    size_t tokens = product(largest(token, rows) + 1, C) * 4, positions = pos_emb ? product(largest(position, rows) + 1, C) * 4 : 0;
    cuda_embed_fwd(0, change(x, product(rows, C) * 4), use(token, (size_t)rows * 4), use(position, (size_t)rows * 4),
                   use(token_emb, tokens), use(pos_emb, positions), rows, C);
    done();
}
static void embed_bwd(float *dtoken_emb, float *dpos_emb, const float *dx, const int32_t *token, const int32_t *position, int rows, int C) {
    int V = largest(token, rows) + 1, positions = largest(position, rows) + 1;
    cuda_embed_bwd(0, change(dtoken_emb, product(V, C) * 4), change(dpos_emb, product(positions, C) * 4), use(dx, product(rows, C) * 4),
                   use(token, (size_t)rows * 4), use(position, (size_t)rows * 4), rows, C, V, positions);
    done();
}

static void layernorm_fwd(pa_type t, float *z, void *y, float *mean, float *rstd, const float *x, const float *r, const float *bias,
                          const float *w, const float *b, int rows, int C) {
    size_t n = product(rows, C), width = (size_t)C * 4, height = (size_t)rows * 4;
    cuda_layernorm_fwd(0, type_of(t), change(z, n * 4), change_act(t, y, n), change(mean, height), change(rstd, height), use(x, n * 4),
                       use(r, n * 4), use(bias, width), use(w, width), use(b, width), rows, C);
    done();
}
static void layernorm_bwd(pa_type t, float *dx, void *dx_copy, float *dw, float *db, const void *dy, const float *x, const float *mean,
                          const float *rstd, const float *w, int rows, int C, float *work) {
    size_t n = product(rows, C), width = (size_t)C * 4, height = (size_t)rows * 4;
    (void)work;
    cuda_layernorm_bwd(0, type_of(t), change(dx, n * 4), change_act(t, dx_copy, n), change(dw, width), change(db, width), use_act(t, dy, n),
                       use(x, n * 4), use(mean, height), use(rstd, height), use(w, width), rows, C, scratch(C));
    done();
}
static size_t spread(int rows, ptrdiff_t ld, int width) { // numbers from the first row's first to the last row's last
    return (size_t)(rows - 1) * (size_t)ld + (size_t)width;
}
static void head_norm_fwd(pa_type t, void *x, ptrdiff_t ld, float *rstd, const float *w, int rows, int H, int D) {
    cuda_head_norm_fwd(0, type_of(t), change_act(t, x, spread(rows, ld, H * D)), ld, change(rstd, product(rows, H) * 4),
                       use(w, (size_t)D * 4), rows, H, D);
    done();
}
static void head_norm_bwd(pa_type t, void *dy, ptrdiff_t ld_dy, float *dw, const void *x, ptrdiff_t ld_x, const float *rstd, const float *w,
                          int rows, int H, int D, float *work) {
    (void)work;
    cuda_head_norm_bwd(0, type_of(t), change_act(t, dy, spread(rows, ld_dy, H * D)), ld_dy, change(dw, (size_t)D * 4),
                       use_act(t, x, spread(rows, ld_x, H * D)), ld_x, use(rstd, product(rows, H) * 4), use(w, (size_t)D * 4), rows, H, D,
                       scratch(D));
    done();
}
static void column_sum(float *sum, const float *x, int rows, int C) {
    cuda_column_sum(0, change(sum, (size_t)C * 4), use(x, product(rows, C) * 4), rows, C, scratch(C));
    done();
}

static void rotary(pa_type t, void *x, ptrdiff_t ld, const int32_t *position, const float *table, int rows, int H, int D, int R,
                   float sign) {
    cuda_rotary(0, type_of(t), change_act(t, x, spread(rows, ld, H * D)), ld, use(position, (size_t)rows * 4),
                use(table, product(largest(position, rows) + 1, R) * 4), rows, H, D, R, sign);
    done();
}

static const pa_dropout *dropout_of(pa_dropout *to, const pa_dropout *d, int rows, int sequence) {
    if (!d) return NULL;
    *to = (pa_dropout){d->p, d->seed, use(d->window, (size_t)((rows + sequence - 1) / sequence) * 8), d->layer};
    return to;
}
static void activation_fwd(pa_type t, pa_activation kind, void *g, const void *h, int rows, int F, const pa_dropout *dropout,
                           int sequence) {
    pa_dropout d;
    cuda_activation_fwd(0, type_of(t), (pa_activation)kind, change_act(t, g, product(rows, F)), use_act(t, h, product(rows, F)), rows, F,
                        dropout_of(&d, dropout, rows, sequence), sequence);
    done();
}
static void activation_bwd(pa_type t, pa_activation kind, void *dg, const void *h, int rows, int F, const pa_dropout *dropout,
                           int sequence) {
    pa_dropout d;
    cuda_activation_bwd(0, type_of(t), (pa_activation)kind, change_act(t, dg, product(rows, F)), use_act(t, h, product(rows, F)), rows, F,
                        dropout_of(&d, dropout, rows, sequence), sequence);
    done();
}
static void cast(pa_type t, void *y, const float *x, size_t n) {
    cuda_cast(0, type_of(t), change_act(t, y, n), use(x, n * 4), n);
    done();
}
static void widen(pa_type t, float *y, const void *x, size_t n) {
    cuda_widen(0, type_of(t), change(y, n * 4), use_act(t, x, n), n);
    done();
}

static void cross_entropy(pa_type t, void *dlogits, float *nats, uint16_t *best, const float *logits, const uint16_t *target, float scale,
                          float z_loss, int rows, int V) {
    pa_scalars s = {.loss_scale = scale};
    cuda_cross_entropy(0, type_of(t), change_act(t, dlogits, product(rows, V)), change(nats, (size_t)rows * 4),
                       change(best, (size_t)rows * 2), use(logits, product(rows, V) * 4), use(target, (size_t)rows * 2), use(&s, sizeof s),
                       z_loss, rows, V);
    done();
}
static double sum_squares(const float *x, size_t n) {
    double sum = NAN, work[8192];
    if (cuda_sum_squares_work() > sizeof work) abort();
    memset(work, 0xff, sizeof work);
    cuda_sum_squares(0, change(&sum, 8), use(x, n * 4), n, change(work, sizeof work));
    done();
    return sum;
}
// The kernel takes multiples of 16 numbers, and reads from the device whether they decay.
static void adam(pa_device *unused, const pa_adam *a) {
    const size_t n = a->to, all = (n + 15) / 16 * 16;
    float *x[4] = {a->p, a->g, a->m, a->v}, *padded[4];
    uint16_t *narrow = calloc(all, 2);
    uint8_t *decays = malloc(all / 16);
    (void)unused;
    for (int i = 0; i < 4; i++)
        if (!(padded[i] = calloc(all, 4)))
            abort();
        else
            memcpy(padded[i], x[i], n * 4);
    if (!narrow || !decays || a->from) abort();
    memset(decays, a->params->row[0].decays, all / 16);
    pa_device d = {.decays = change(decays, all / 16)};
    cuda_adam(&d, &(pa_adam){.to = all,
                             .p = change(padded[0], all * 4),
                             .g = change(padded[1], all * 4),
                             .m = change(padded[2], all * 4),
                             .v = change(padded[3], all * 4),
                             .copy = a->copy ? change_act(PA_TYPE_BF16, narrow, all) : NULL,
                             .type = type_of(PA_TYPE_BF16),
                             .squares = use(a->squares, sizeof *a->squares),
                             .scalars = use(a->scalars, sizeof *a->scalars)});
    done();
    for (int i = 0; i < 4; i++) memcpy(x[i], padded[i], n * 4), free(padded[i]);
    if (a->copy) memcpy(a->copy, narrow, n * 2);
    free(narrow), free(decays);
}

// Attention. Gradients of keys and values may lie in one array, each in a part of its rows.
static void *change_rows(pa_type t, void *host, int rows, ptrdiff_t ld, int width) {
    if (!rows) return NULL;
    void *device = change_act(t, host, spread(rows, ld, width));
    operand[operands - 1].rows = (size_t)rows, operand[operands - 1].row = (size_t)width * pa_size(t);
    operand[operands - 1].ld = (size_t)ld * pa_size(t);
    operand[operands - 1].was = malloc(operand[operands - 1].bytes);
    if (!operand[operands - 1].was) abort();
    memcpy(operand[operands - 1].was, host, operand[operands - 1].bytes);
    return device;
}
static pa_attn shape_of(const pa_attn *a) {
    return (pa_attn){.type = type_of(a->type),
                     .batch = a->batch,
                     .latents = a->latents,
                     .kept = a->kept,
                     .heads = a->heads,
                     .dim_head = a->dim_head,
                     .scale = a->scale,
                     .ldq = a->ldq,
                     .ldkv = a->ldkv,
                     .ldo = a->ldo};
}
static pa_attn attention_of(const pa_attn *a) {
    const int I = a->heads * a->dim_head, rows = a->batch * a->latents, prefix = a->batch * a->kept;
    pa_attn c = shape_of(a);
    c.q = use_act(a->type, a->q, spread(rows, a->ldq, I));
    c.kp = prefix ? use_act(a->type, a->kp, spread(prefix, a->ldkv, I)) : NULL;
    c.vp = prefix ? use_act(a->type, a->vp, spread(prefix, a->ldkv, I)) : NULL;
    c.kn = use_act(a->type, a->kn, spread(rows, a->ldkv, I));
    c.vn = use_act(a->type, a->vn, spread(rows, a->ldkv, I));
    if (a->dropout.p > 0)
        c.dropout = (pa_dropout){a->dropout.p, a->dropout.seed, use(a->dropout.window, (size_t)a->batch * 8), a->dropout.layer};
    return c;
}
static void attn_fwd(const pa_attn *a, void *o, float *lse, void *work) {
    const int rows = a->batch * a->latents;
    pa_attn c = attention_of(a);
    cuda_attn_fwd(0, &c, change_rows(a->type, o, rows, a->ldo, a->heads * a->dim_head), change(lse, product(rows, a->heads) * 4),
                  change(work, cuda_attn_work(&c)));
    done();
}
static void attn_bwd(const pa_attn *a, const void *o, const float *lse, const void *dout, void *dq, void *dkp, void *dvp, void *dkn,
                     void *dvn, void *work) {
    const int I = a->heads * a->dim_head, rows = a->batch * a->latents, prefix = a->batch * a->kept;
    pa_attn c = attention_of(a);
    cuda_attn_bwd(0, &c, use_act(a->type, o, spread(rows, a->ldo, I)), use(lse, product(rows, a->heads) * 4),
                  use_act(a->type, dout, spread(rows, a->ldo, I)), change_rows(a->type, dq, rows, a->ldq, I),
                  change_rows(a->type, dkp, prefix, a->ldkv, I), change_rows(a->type, dvp, prefix, a->ldkv, I),
                  change_rows(a->type, dkn, rows, a->ldkv, I), change_rows(a->type, dvn, rows, a->ldkv, I),
                  change(work, cuda_attn_work(&c)));
    done();
}
static size_t attn_work(const pa_attn *a, int threads) {
    const pa_attn c = shape_of(a);
    (void)threads;
    return cuda_attn_work(&c);
}

const cpu_ops *cuda_ops_table(cuda_ops_half as_half) {
    static const cpu_ops table = {.name = "cuda",
                                  .attn_fwd = attn_fwd,
                                  .attn_bwd = attn_bwd,
                                  .attn_work = attn_work,
                                  .embed_fwd = embed_fwd,
                                  .embed_bwd = embed_bwd,
                                  .layernorm_fwd = layernorm_fwd,
                                  .layernorm_bwd = layernorm_bwd,
                                  .rotary = rotary,
                                  .head_norm_fwd = head_norm_fwd,
                                  .head_norm_bwd = head_norm_bwd,
                                  .activation_fwd = activation_fwd,
                                  .activation_bwd = activation_bwd,
                                  .cross_entropy = cross_entropy,
                                  .sum_squares = sum_squares,
                                  .adam = adam,
                                  .cast = cast,
                                  .widen = widen,
                                  .column_sum = column_sum};
    half = as_half;
    return &table;
}
