// cases_operands.c: the operands of the case table's rows; see cases.h.
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bench/cases.h"
#include "cpu/simd.h"

// Operands. A number depends only on the operand and its place.
static double draw(int operand, size_t i) {
    uint64_t z = ((uint64_t)operand + 1) * 0x9e3779b97f4a7c15u + i * 0xd1342543de82ef95u;
    z = (z ^ z >> 31) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 29) >> 12) * 0x1p-51 - 1;
}

void *case_memory(size_t bytes) {
    enum { PAGE = 2 << 20 };
    if (bytes < 4 * PAGE) return pa_alloc(bytes);
    void *p = aligned_alloc(PAGE, (bytes + PAGE - 1) / PAGE * PAGE);
    if (p) madvise(p, bytes, MADV_HUGEPAGE), memset(p, 0, bytes);
    return p;
}

pa_attn case_attention(const case_run *r) {
    const case_row *c = &r->row;
    const size_t I = (size_t)c->heads * (size_t)c->dim_head, size = pa_size(r->type);
    const size_t ldq = c->cross ? I : 3 * I, ldkv = c->cross ? 2 * I : 3 * I,
                 prefix = (size_t)(c->batch * c->kept) * ldkv * size;
    const char *kv = c->cross ? r->at[X_KV] : (char *)r->at[X_Q] + I * size;
    return (pa_attn){.type = r->type,
                     .batch = c->batch,
                     .latents = c->latents,
                     .kept = c->kept,
                     .heads = c->heads,
                     .dim_head = c->dim_head,
                     .scale = 1 / sqrtf((float)c->dim_head),
                     .ldq = (ptrdiff_t)ldq,
                     .ldkv = (ptrdiff_t)ldkv,
                     .ldo = (ptrdiff_t)I,
                     .q = r->at[X_Q],
                     .kp = kv,
                     .vp = kv + I * size,
                     .kn = kv + prefix,
                     .vn = kv + prefix + I * size};
}

static size_t longest(const pa_product *p) {
    int most = p->m > p->n ? p->m : p->n;
    return (size_t)(p->k > most ? p->k : most);
}

size_t case_work(const case_run *r) {
    const case_row *c = &r->row;
    pa_attn a;
    switch (c->kind) {
    case CASE_ATTENTION_FWD:
    case CASE_ATTENTION_BWD:
        a = case_attention(r);
        return r->ops->attn_work(r->device, &a, true);
    case CASE_ATTENTION_DECODE:
        return r->ops->decode_work(r->device, c->batch, c->heads, c->dim_head, c->latents);
    case CASE_LAYERNORM_BWD:
    case CASE_COLUMN_SUM:
        return r->ops->norm_work(r->device, c->in);
    case CASE_HEAD_NORM_BWD:
        return r->ops->norm_work(r->device, c->dim_head);
    case CASE_SUM_SQUARES:
        return r->ops->sum_work(r->device);
    case CASE_GEMV:
        return (size_t)c->rows * (size_t)c->in * sizeof(float);
    case CASE_MATMUL: // of the CPU
        return cpu_matmul_room(longest(&c->product), (size_t)c->product.k * (size_t)c->product.n);
    default:
        return 0;
    }
}

typedef struct {
    case_run *run;
    bool failed;
} maker;

static void *take(maker *m, int i, size_t bytes) {
    case_operand *x = &m->run->x[i];
    x->bytes = bytes;
    m->run->at[i] = x->data = case_memory(bytes + 64);
    if (!x->data) m->failed = true;
    if (x->data) memset(x->data, 0xff, bytes); // NaN, until it is written
    return x->data;
}
static void numbers(maker *m, int i, pa_type type, size_t count, double middle, double spread) {
    void *to = take(m, i, count * pa_size(type));
    if (!to) return;
#pragma omp parallel for schedule(static)
    for (size_t j = 0; j < count; j++) {
        float x = (float)(middle + spread * draw(i, j));
        if (type == PA_TYPE_F32)
            ((float *)to)[j] = x;
        else
            ((uint16_t *)to)[j] = bf16_from_float(x);
    }
}
static void integers(maker *m, int i, size_t count, int below) {
    int32_t *to = take(m, i, count * 4);
    for (size_t j = 0; to && j < count; j++) to[j] = (int32_t)((draw(i, j) + 1) / 2 * below);
}
// To be restored by case_reset.
static void changes(maker *m, int i) {
    case_operand *x = &m->run->x[i];
    if (!x->data || !(x->initial = malloc(x->bytes + 1)))
        m->failed = true;
    else
        memcpy(x->initial, x->data, x->bytes);
}

static void open_attention(maker *m) {
    case_run *r = m->run;
    const case_row *c = &r->row;
    size_t I = (size_t)c->heads * (size_t)c->dim_head, R = (size_t)c->batch * (size_t)c->latents,
           Q = (size_t)c->batch * (size_t)c->kept;
    size_t ldq = c->cross ? I : 3 * I, ldkv = c->cross ? 2 * I : 3 * I, size = pa_size(c->type);
    numbers(m, X_Q, c->type, R * ldq, 0, 2);
    if (c->cross) numbers(m, X_KV, c->type, (Q + R) * ldkv, 0, 2);
    take(m, X_O, R * I * size), take(m, X_LSE, R * (size_t)c->heads * 4);
    numbers(m, X_DOUT, c->type, R * I, 0, 1);
    take(m, X_DQ, R * ldq * size), take(m, X_DKV, c->cross ? (Q + R) * ldkv * size : 0);
    if (m->failed) return;
    take(m, X_WORK, case_work(r));
    const pa_attn a = case_attention(r);
    pa_work work = {.at = r->x[X_WORK].data, .bytes = r->x[X_WORK].bytes};
    if (!m->failed && c->kind == CASE_ATTENTION_BWD) r->ops->attn_fwd(NULL, &a, r->x[X_O].data, r->x[X_LSE].data, work);
}

// attn_decode puts the last row of the cache there itself.
static void open_decode(maker *m) {
    const case_row *c = &m->run->row;
    const size_t D = (size_t)c->dim_head, heads = (size_t)c->batch * (size_t)c->heads, I = D * heads,
                 rows = (size_t)c->latents;
    numbers(m, X_Q, PA_TYPE_F32, I, 0, 2);
    numbers(m, X_KV, c->type, 2 * I * rows, 0, 2);
    take(m, X_O, I * 4);
    int32_t *length = take(m, X_LENGTH, sizeof *length);
    float *last = take(m, X_NEW, 2 * I * 4);
    take(m, X_WORK, case_work(m->run));
    if (m->failed) return;
    *length = c->latents - 1;
    const void *cache = m->run->x[X_KV].data;
    for (size_t i = 0; i < 2 * I; i++) {
        const size_t at = (i / D * rows + rows - 1) * D + i % D;
        last[i] = c->type == PA_TYPE_F32 ? ((const float *)cache)[at] : bf16_to_float(((const uint16_t *)cache)[at]);
    }
}

static void open_norm(maker *m) {
    const case_row *c = &m->run->row;
    bool heads = c->kind == CASE_HEAD_NORM_FWD || c->kind == CASE_HEAD_NORM_BWD;
    size_t rows = (size_t)c->rows * (size_t)(heads ? c->heads : 1), width = (size_t)(heads ? c->dim_head : c->in),
           n = rows * width;
    if (c->kind == CASE_LAYERNORM_FWD) {
        numbers(m, X_X, PA_TYPE_F32, n, 0.5, 1), numbers(m, X_R, PA_TYPE_F32, n, 0, 1), take(m, X_Z, n * 4),
            take(m, X_Y, n * pa_size(c->type));
        take(m, X_MEAN, rows * 4), take(m, X_RSTD, rows * 4), numbers(m, X_W, PA_TYPE_F32, width, 1, 0.5),
            numbers(m, X_B, PA_TYPE_F32, width, 0, 1);
    } else if (c->kind == CASE_HEAD_NORM_FWD) {
        numbers(m, X_X, c->type, n, 0, 1), changes(m, X_X), take(m, X_RSTD, rows * 4),
            numbers(m, X_W, PA_TYPE_F32, width, 1, 0.5);
    } else {
        numbers(m, X_DX, heads ? c->type : PA_TYPE_F32, n, 0, 1), changes(m, X_DX);
        numbers(m, X_DW, PA_TYPE_F32, width, 0, 1), changes(m, X_DW);
        numbers(m, X_IN, heads ? c->type : PA_TYPE_F32, n, 0.5, 1), numbers(m, X_IN_RSTD, PA_TYPE_F32, rows, 1.5, 0.5);
        numbers(m, X_WEIGHT, PA_TYPE_F32, width, 1, 0.5), take(m, X_WORK, case_work(m->run));
        if (heads) return;
        take(m, X_COPY, n * pa_size(c->type)), numbers(m, X_DB, PA_TYPE_F32, width, 0, 1), changes(m, X_DB);
        numbers(m, X_DY, c->type, n, 0, 1), numbers(m, X_IN_MEAN, PA_TYPE_F32, rows, 0.5, 0.1);
    }
}

static void open_rotary(maker *m) {
    const case_row *c = &m->run->row;
    size_t n = (size_t)c->rows * (size_t)c->heads * (size_t)c->dim_head, half = (size_t)c->in / 2;
    numbers(m, X_TURNED, c->type, n, 0, 1), changes(m, X_TURNED);
    integers(m, X_AT, (size_t)c->rows, c->positions);
    float *angles = take(m, X_TABLE, (size_t)c->positions * half * 8);
    for (size_t i = 0; angles && i < (size_t)c->positions * half; i++) {
        double angle = (double)(i / half) * pow(10000, -(double)(i % half) / (double)half);
        angles[2 * i] = (float)cos(angle), angles[2 * i + 1] = (float)sin(angle);
    }
}

static void scalars(maker *m) {
    pa_scalars *s = take(m, X_SCALARS, sizeof *s);
    if (s) *s = case_scalars;
}

static void open_loss(maker *m) {
    const case_row *c = &m->run->row;
    size_t rows = (size_t)c->rows, n = rows * (size_t)c->vocab;
    numbers(m, X_LOGITS, PA_TYPE_F32, n, 1, 6);
    uint16_t *target = take(m, X_TARGET, rows * 2);
    for (size_t i = 0; target && i < rows; i++)
        target[i] = (uint16_t)((draw(X_TARGET, i) + 1) / 2 * c->vocab); // some are PAD
    take(m, X_NATS, rows * 4), take(m, X_BEST, rows * 2), take(m, X_DLOGITS, n * pa_size(c->type));
    scalars(m);
}

static void open_embed(maker *m) {
    const case_row *c = &m->run->row;
    size_t C = (size_t)c->in, rows = (size_t)c->rows;
    numbers(m, X_ROWS, PA_TYPE_F32, rows * C, 0, 1);
    integers(m, X_TOKEN, rows, c->vocab), integers(m, X_POSITION, rows, c->positions);
    numbers(m, X_TOKEN_EMB, PA_TYPE_F32, (size_t)c->vocab * C, 0, 1),
        numbers(m, X_POSITION_EMB, PA_TYPE_F32, (size_t)c->positions * C, 0, 1);
    if (c->kind == CASE_EMBED_BWD && !m->failed) changes(m, X_TOKEN_EMB), changes(m, X_POSITION_EMB);
}

static void open_adam(maker *m) {
    size_t n = m->run->row.count;
    numbers(m, X_P, PA_TYPE_F32, n, 0, 0.1), numbers(m, X_GRAD, PA_TYPE_F32, n, 0, 0.01),
        numbers(m, X_M, PA_TYPE_F32, n, 0, 0.01);
    numbers(m, X_V, PA_TYPE_F32, n, 1.01e-4, 1e-4);
    for (int i = X_P; i <= X_V; i++) changes(m, i);
    if (m->run->row.type == PA_TYPE_BF16) take(m, X_NARROW, n * 2);
    scalars(m);
    double *squares = take(m, X_SQUARES, sizeof *squares);
    if (squares) *squares = 1;
}

static void open_product(maker *m) {
    const case_row *c = &m->run->row;
    if (c->kind == CASE_GEMV) {
        size_t in = (size_t)c->in, out = (size_t)c->out, S = (size_t)c->rows;
        numbers(m, X_LEFT, PA_TYPE_F32, S * in, 0, 1), numbers(m, X_RIGHT, c->type, in * out, 0, 1),
            take(m, X_OUT, S * out * 4);
        numbers(m, X_BIAS, PA_TYPE_F32, out, 0, 1), take(m, X_WORK, case_work(m->run));
        return;
    }
    const pa_product *p = &c->product;
    size_t rows = (size_t)p->m, columns = (size_t)p->n, sums = (size_t)p->k;
    numbers(m, X_LEFT, p->a, rows * sums, 0, 1);
    numbers(m, X_RIGHT, p->b, sums * columns, 0, 1);
    if (!p->add)
        take(m, X_OUT, rows * columns * pa_size(p->c));
    else
        numbers(m, X_OUT, p->c, rows * columns, 0, 1), changes(m, X_OUT);
    take(m, X_WORK, case_work(m->run));
}

static void open_plain(maker *m) {
    const case_row *c = &m->run->row;
    size_t n = c->rows ? (size_t)c->rows * (size_t)c->in : c->count;
    switch (c->kind) {
    case CASE_ACTIVATION_FWD:
        numbers(m, X_H, c->type, n, 0, 5), take(m, X_G, n * pa_size(c->type));
        break;
    case CASE_ACTIVATION_BWD:
        numbers(m, X_H, c->type, n, 0, 5), numbers(m, X_G, c->type, n, 0, 1), changes(m, X_G);
        break;
    case CASE_COLUMN_SUM:
        numbers(m, X_FROM, PA_TYPE_F32, n, 0, 1), numbers(m, X_TO, PA_TYPE_F32, (size_t)c->in, 0, 1), changes(m, X_TO);
        take(m, X_WORK, case_work(m->run));
        break;
    case CASE_SUM_SQUARES:
        numbers(m, X_FROM, PA_TYPE_F32, n, 0, 1);
        take(m, X_TO, sizeof(double));
        take(m, X_WORK, case_work(m->run));
        break;
    default: // casts
        numbers(m, X_FROM, c->kind == CASE_CAST ? PA_TYPE_F32 : c->type, n, 0, 1),
            take(m, X_TO, n * (c->kind == CASE_CAST ? pa_size(c->type) : 4));
    }
}

pa_status case_open(case_run *r, const case_row *row, const pa_ops *ops, pa_err *err) {
    *r = (case_run){.row = *row, .ops = ops, .type = row->type};
    maker m = {.run = r};
    switch (row->kind) {
    case CASE_ATTENTION_FWD:
    case CASE_ATTENTION_BWD:
        open_attention(&m);
        break;
    case CASE_ATTENTION_DECODE:
        open_decode(&m);
        break;
    case CASE_LAYERNORM_FWD:
    case CASE_LAYERNORM_BWD:
    case CASE_HEAD_NORM_FWD:
    case CASE_HEAD_NORM_BWD:
        open_norm(&m);
        break;
    case CASE_ROTARY_FWD:
        open_rotary(&m);
        break;
    case CASE_CROSS_ENTROPY:
        open_loss(&m);
        break;
    case CASE_EMBED_FWD:
    case CASE_EMBED_BWD:
        open_embed(&m);
        break;
    case CASE_ADAM:
        open_adam(&m);
        break;
    case CASE_GEMV:
    case CASE_MATMUL:
        open_product(&m);
        break;
    default:
        open_plain(&m);
    }
    pa_status s = m.failed ? pa_error(err, PA_FAIL, "%s: no memory", row->name) : PA_OK;
    if (!s && row->kind == CASE_MATMUL)
        s = cpu_matmul_create(&r->mm, ops, r->x[X_WORK].data, longest(&row->product),
                              (size_t)row->product.k * (size_t)row->product.n, err);
    if (s) case_close(r);
    return s;
}

void case_close(case_run *r) {
    for (int i = 0; i < CASE_OPERANDS; i++) free(r->x[i].data), free(r->x[i].initial);
    cpu_matmul_destroy(r->mm);
    *r = (case_run){0};
}

void case_reset(case_run *r) {
    for (int i = 0; i < CASE_OPERANDS; i++)
        if (r->x[i].initial) memcpy(r->x[i].data, r->x[i].initial, r->x[i].bytes);
}
