// cuda_ops.c: see cuda_ops.h. A call lists its operands with use() and change(), which give their twins on the device,
// and ends with done().
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
    operand[operands].host = (void *)(uintptr_t)host, operand[operands].device = device,
    operand[operands].bytes = bytes;
    operand[operands].back = back, operand[operands].row = 0,
    operand[operands++].narrow = narrow && half == CUDA_OPS_CONVERTED;
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
            check(cudaMemcpy(operand[i].host, operand[i].device, operand[i].bytes, cudaMemcpyDeviceToHost),
                  "cudaMemcpy");
        if (operand[i].back && !operand[i].row && operand[i].narrow)
            convert(operand[i].host, operand[i].host, operand[i].bytes / 2, false);
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
static float *scratch(size_t bytes) {
    void *p = malloc(bytes);
    if (!p) abort();
    memset(p, 0xff, bytes);
    void *device = add(p, bytes, false, false);
    free(p);
    return device;
}
static size_t no_work(pa_device *unused, int width) { // of the caller's
    (void)unused;
    (void)width;
    return 0;
}

static pa_device device; // the null stream

static void embed_fwd(pa_device *unused, float *x, const pa_embed *a) {
    const size_t rows = (size_t)a->rows;
    pa_embed c = *a;
    (void)unused;
    c.token = use(a->token, rows * 4);
    c.position = use(a->position, rows * 4);
    c.token_emb = use(a->token_emb, product(largest(a->token, a->rows) + 1, a->C) * 4);
    if (a->pos_emb) c.pos_emb = use(a->pos_emb, product(largest(a->position, a->rows) + 1, a->C) * 4);
    if (a->slots) {
        c.bag = use(a->bag, product((a->slots - 1) * a->slot_ld + a->rows, 4));
        c.bag_emb = use(a->bag_emb, product(largest(a->bag, (a->slots - 1) * a->slot_ld + a->rows) + 1, a->C) * 4);
    }
    cuda_embed_fwd(&device, change(x, product(a->rows, a->C) * 4), &c);
    done();
}
static void embed_bwd(pa_device *unused, const pa_embed_grads *a) {
    const size_t rows = (size_t)a->rows;
    pa_embed_grads c = *a;
    (void)unused;
    c.dtoken_emb = change(a->dtoken_emb, product(a->V, a->C) * 4);
    c.dpos_emb = change(a->dpos_emb, product(a->positions, a->C) * 4);
    c.dx = use(a->dx, product(a->rows, a->C) * 4);
    c.token = use(a->token, rows * 4);
    c.position = use(a->position, rows * 4);
    if (a->slots) {
        c.bag = use(a->bag, product((a->slots - 1) * a->slot_ld + a->rows, 4));
        c.dbag_emb = change(a->dbag_emb, product(a->part[a->parts - 1].row + a->part[a->parts - 1].rows, a->C) * 4);
    }
    cuda_embed_bwd(&device, &c);
    done();
}

static void add_rows(pa_device *unused, const pa_add_rows *a) {
    pa_add_rows c = *a;
    (void)unused;
    c.type = type_of(a->type);
    c.x = change_act(a->type, a->x, product(a->rows - 1, (int)a->ld) + (size_t)a->C);
    c.token = use(a->token, (size_t)a->rows * 4);
    c.table = use(a->table, product(largest(a->token, a->rows) + 1, a->C) * 4);
    cuda_add_rows(&device, &c);
    done();
}
static void add_rows_bwd(pa_device *unused, const pa_add_rows_grads *a) {
    pa_add_rows_grads c = *a;
    (void)unused;
    c.type = type_of(a->type);
    c.dtable = change(a->dtable, product(a->V, a->C) * 4);
    c.dx = use_act(a->type, a->dx, product(a->rows - 1, (int)a->ld) + (size_t)a->C);
    c.token = use(a->token, (size_t)a->rows * 4);
    cuda_add_rows_bwd(&device, &c);
    done();
}

static void layernorm_fwd(pa_device *unused, const pa_layernorm *a) {
    const size_t n = product(a->rows, a->C), width = (size_t)a->C * 4, height = (size_t)a->rows * 4;
    pa_layernorm c = *a;
    (void)unused;
    c.type = type_of(a->type);
    c.z = change(a->z, n * 4);
    c.y = change_act(a->type, a->y, n);
    c.mean = change(a->mean, height);
    c.rstd = change(a->rstd, height);
    c.x = use(a->x, n * 4);
    c.r = use(a->r, n * 4);
    c.bias = use(a->bias, width);
    c.w = use(a->w, width);
    c.b = use(a->b, width);
    cuda_layernorm_fwd(&device, &c);
    done();
}
static void layernorm_bwd(pa_device *unused, const pa_layernorm_grads *a) {
    const size_t n = product(a->rows, a->C), width = (size_t)a->C * 4, height = (size_t)a->rows * 4;
    pa_layernorm_grads c = *a;
    (void)unused;
    c.type = type_of(a->type);
    c.dx = change(a->dx, n * 4);
    c.dx_copy = change_act(a->type, a->dx_copy, n);
    c.dw = change(a->dw, width);
    c.db = change(a->db, width);
    c.dy = use_act(a->type, a->dy, n);
    c.x = use(a->x, n * 4);
    c.mean = use(a->mean, height);
    c.rstd = use(a->rstd, height);
    c.w = use(a->w, width);
    c.work = scratch(cuda_norm_work(a->C));
    cuda_layernorm_bwd(&device, &c);
    done();
}
static size_t spread(int rows, ptrdiff_t ld, int width) { // numbers from the first row's first to the last row's last
    return (size_t)(rows - 1) * (size_t)ld + (size_t)width;
}
static void head_norm_fwd(pa_device *unused, const pa_head_norm *a) {
    pa_head_norm c = *a;
    (void)unused;
    c.type = type_of(a->type);
    c.x = change_act(a->type, a->x, spread(a->rows, a->ld, a->H * a->D));
    c.rstd = change(a->rstd, product(a->rows, a->H) * 4);
    c.w = use(a->w, (size_t)a->D * 4);
    cuda_head_norm_fwd(&device, &c);
    done();
}
static void head_norm_bwd(pa_device *unused, const pa_head_norm_grads *a) {
    pa_head_norm_grads c = *a;
    (void)unused;
    c.type = type_of(a->type);
    c.dy = change_act(a->type, a->dy, spread(a->rows, a->ld_dy, a->H * a->D));
    c.dw = change(a->dw, (size_t)a->D * 4);
    c.x = use_act(a->type, a->x, spread(a->rows, a->ld_x, a->H * a->D));
    c.rstd = use(a->rstd, product(a->rows, a->H) * 4);
    c.w = use(a->w, (size_t)a->D * 4);
    c.work = scratch(cuda_norm_work(a->D));
    cuda_head_norm_bwd(&device, &c);
    done();
}
static void column_sum(pa_device *unused, float *sum, const float *x, int rows, int C, void *work) {
    (void)unused;
    (void)work;
    cuda_column_sum(&device, change(sum, (size_t)C * 4), use(x, product(rows, C) * 4), rows, C,
                    scratch(cuda_norm_work(C)));
    done();
}

static void rotary(pa_device *unused, const pa_rotary *a) {
    pa_rotary c = *a;
    (void)unused;
    c.type = type_of(a->type);
    c.x = change_act(a->type, a->x, spread(a->rows, a->ld, a->H * a->D));
    c.position = use(a->position, (size_t)a->rows * 4);
    c.table = use(a->table, product(largest(a->position, a->rows) + 1, a->dims) * 4);
    cuda_rotary(&device, &c);
    done();
}

static pa_activate activate_of(const pa_activate *a, pa_dropout *dropout) {
    const size_t n = product(a->rows, a->F), sequences = (size_t)((a->rows + a->sequence - 1) / a->sequence);
    pa_activate c = *a;
    c.type = type_of(a->type);
    c.g = change_act(a->type, a->g, n);
    c.h = use_act(a->type, a->h, n);
    if (!a->dropout) return c;
    *dropout = *a->dropout;
    dropout->window = use(a->dropout->window, sequences * 8);
    c.dropout = dropout;
    return c;
}
static void activation_fwd(pa_device *unused, const pa_activate *a) {
    pa_dropout d;
    const pa_activate c = activate_of(a, &d);
    (void)unused;
    cuda_activation_fwd(&device, &c);
    done();
}
static void activation_bwd(pa_device *unused, const pa_activate *a) {
    pa_dropout d;
    const pa_activate c = activate_of(a, &d);
    (void)unused;
    cuda_activation_bwd(&device, &c);
    done();
}
static void cast(pa_device *unused, pa_type t, void *y, const float *x, size_t n) {
    (void)unused;
    cuda_cast(&device, type_of(t), change_act(t, y, n), use(x, n * 4), n);
    done();
}
static void widen(pa_device *unused, pa_type t, float *y, const void *x, size_t n) {
    (void)unused;
    cuda_widen(&device, type_of(t), change(y, n * 4), use_act(t, x, n), n);
    done();
}

static void cross_entropy(pa_device *unused, const pa_cross_entropy *a) {
    const size_t rows = (size_t)a->rows, n = product(a->rows, a->V);
    pa_cross_entropy c = *a;
    (void)unused;
    c.type = type_of(a->type);
    c.dlogits = change_act(a->type, a->dlogits, n);
    c.nats = change(a->nats, rows * 4);
    c.best = change(a->best, rows * 2);
    c.logits = use(a->logits, n * 4);
    c.target = use(a->target, rows * 2);
    c.scalars = use(a->scalars, sizeof *a->scalars);
    cuda_cross_entropy(&device, &c);
    done();
}
static void sum_squares(pa_device *unused, double *sum, const float *x, size_t n, void *work) {
    (void)unused;
    (void)work;
    cuda_sum_squares(&device, change(sum, sizeof *sum), use(x, n * 4), n, scratch(cuda_sum_squares_work()));
    done();
}
static size_t sum_work(pa_device *unused) {
    (void)unused;
    return 0;
}
// The kernel takes multiples of 16 numbers, and reads their flags from the device.
static void adam(pa_device *unused, const pa_adam *a) {
    const size_t n = a->to, all = (n + 15) / 16 * 16;
    float *x[4] = {a->p, a->g, a->m, a->v}, *padded[4];
    uint16_t *narrow = calloc(all, 2);
    uint8_t *flags = malloc(all / 16);
    (void)unused;
    for (int i = 0; i < 4; i++)
        if (!(padded[i] = calloc(all, 4)))
            abort();
        else
            memcpy(padded[i], x[i], n * 4);
    if (!narrow || !flags || a->from) abort();
    memset(flags, a->params->row[0].decays ? CUDA_DECAYS : 0, all / 16);
    pa_device d = {.flags = change(flags, all / 16)};
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
    free(narrow), free(flags);
}

// Attention. Gradients of keys and values may lie in one array, each in a part of its rows.
static void *change_rows(pa_type t, void *host, int rows, ptrdiff_t ld, int width) {
    if (!rows) return NULL;
    void *to = change_act(t, host, spread(rows, ld, width));
    operand[operands - 1].rows = (size_t)rows, operand[operands - 1].row = (size_t)width * pa_size(t);
    operand[operands - 1].ld = (size_t)ld * pa_size(t);
    operand[operands - 1].was = malloc(operand[operands - 1].bytes);
    if (!operand[operands - 1].was) abort();
    memcpy(operand[operands - 1].was, host, operand[operands - 1].bytes);
    return to;
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
        c.dropout =
            (pa_dropout){a->dropout.p, a->dropout.seed, use(a->dropout.window, (size_t)a->batch * 8), a->dropout.layer};
    return c;
}
static void attn_fwd(pa_device *unused, const pa_attn *a, void *o, float *lse, pa_work work) {
    const int rows = a->batch * a->latents;
    const pa_attn c = attention_of(a);
    (void)unused;
    (void)work;
    cuda_attn_fwd(0, &c, change_rows(a->type, o, rows, a->ldo, a->heads * a->dim_head),
                  change(lse, product(rows, a->heads) * 4));
    done();
}
static void attn_bwd(pa_device *unused, const pa_attn *a, const pa_attn_grads *g, pa_work work) {
    const int I = a->heads * a->dim_head, rows = a->batch * a->latents, prefix = a->batch * a->kept;
    const pa_attn c = attention_of(a);
    (void)unused;
    cuda_attn_bwd(0, &c,
                  &(pa_attn_grads){.o = use_act(a->type, g->o, spread(rows, a->ldo, I)),
                                   .lse = use(g->lse, product(rows, a->heads) * 4),
                                   .dout = use_act(a->type, g->dout, spread(rows, a->ldo, I)),
                                   .dq = change_rows(a->type, g->dq, rows, a->ldq, I),
                                   .dkp = change_rows(a->type, g->dkp, prefix, a->ldkv, I),
                                   .dvp = change_rows(a->type, g->dvp, prefix, a->ldkv, I),
                                   .dkn = change_rows(a->type, g->dkn, rows, a->ldkv, I),
                                   .dvn = change_rows(a->type, g->dvn, rows, a->ldkv, I)},
                  change(work.at, cuda_attn_work(&c)));
    done();
}
static size_t attn_work(pa_device *unused, const pa_attn *a, bool back) {
    const pa_attn c = shape_of(a);
    (void)unused;
    (void)back;
    return cuda_attn_work(&c);
}

const pa_ops *cuda_ops_table(cuda_ops_half as_half) {
    static const pa_ops table = {.name = "cuda",
                                 .attn_fwd = attn_fwd,
                                 .attn_bwd = attn_bwd,
                                 .attn_work = attn_work,
                                 .embed_fwd = embed_fwd,
                                 .embed_bwd = embed_bwd,
                                 .layernorm_fwd = layernorm_fwd,
                                 .layernorm_bwd = layernorm_bwd,
                                 .norm_work = no_work,
                                 .rotary = rotary,
                                 .add_rows = add_rows,
                                 .add_rows_bwd = add_rows_bwd,
                                 .head_norm_fwd = head_norm_fwd,
                                 .head_norm_bwd = head_norm_bwd,
                                 .activation_fwd = activation_fwd,
                                 .activation_bwd = activation_bwd,
                                 .cross_entropy = cross_entropy,
                                 .sum_squares = sum_squares,
                                 .sum_work = sum_work,
                                 .adam = adam,
                                 .cast = cast,
                                 .widen = widen,
                                 .column_sum = column_sum};
    half = as_half;
    return &table;
}
