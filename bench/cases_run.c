// cases_run.c: the operands of the case table's rows, and how each row is run. Knows nothing of float64 (cases_check.c).
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

typedef struct {
    case_run *run;
    bool failed;
} maker;

static void *take(maker *m, int i, size_t bytes) {
    case_operand *x = &m->run->x[i];
    x->bytes = bytes;
    x->data = case_memory(bytes + 64);
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
    size_t I = (size_t)c->heads * (size_t)c->dim_head, R = (size_t)c->batch * (size_t)c->latents, Q = (size_t)c->batch * (size_t)c->kept;
    size_t ldq = c->cross ? I : 3 * I, ldkv = c->cross ? 2 * I : 3 * I, size = pa_size(c->type);
    numbers(m, X_Q, c->type, R * ldq, 0, 2);
    if (c->cross) numbers(m, X_KV, c->type, (Q + R) * ldkv, 0, 2);
    take(m, X_O, R * I * size), take(m, X_LSE, R * (size_t)c->heads * 4);
    numbers(m, X_DOUT, c->type, R * I, 0, 1);
    take(m, X_DQ, R * ldq * size), take(m, X_DKV, c->cross ? (Q + R) * ldkv * size : 0);
    if (m->failed) return;
    const char *kv = c->cross ? r->x[X_KV].data : (char *)r->x[X_Q].data + I * size;
    r->a = (pa_attn){.type = c->type, .batch = c->batch, .latents = c->latents, .kept = c->kept, .heads = c->heads};
    r->a.dim_head = c->dim_head, r->a.scale = 1 / sqrtf((float)c->dim_head);
    r->a.ldq = (ptrdiff_t)ldq, r->a.ldkv = (ptrdiff_t)ldkv, r->a.ldo = (ptrdiff_t)I;
    r->a.q = r->x[X_Q].data, r->a.kp = kv, r->a.vp = kv + I * size;
    r->a.kn = kv + Q * ldkv * size, r->a.vn = kv + (Q * ldkv + I) * size;
    take(m, X_WORK, r->ops->attn_work(&r->a, omp_get_max_threads()));
    if (!m->failed && c->kind == CASE_ATTENTION_BWD) r->ops->attn_fwd(&r->a, r->x[X_O].data, r->x[X_LSE].data, r->x[X_WORK].data);
}

static void open_decode(maker *m) {
    const case_row *c = &m->run->row;
    size_t I = (size_t)c->heads * (size_t)c->dim_head, S = (size_t)c->batch;
    numbers(m, X_Q, PA_TYPE_F32, S * I, 0, 2);
    numbers(m, X_KV, c->type, 2 * S * I * (size_t)c->latents, 0, 2);
    take(m, X_O, S * I * 4);
    take(m, X_WORK, m->run->ops->attn_decode_work(c->batch, c->heads, c->dim_head, c->latents, omp_get_max_threads()));
}

static void open_norm(maker *m) {
    const case_row *c = &m->run->row;
    bool heads = c->kind == CASE_HEAD_NORM_FWD || c->kind == CASE_HEAD_NORM_BWD;
    size_t rows = (size_t)c->rows * (size_t)(heads ? c->heads : 1), width = (size_t)(heads ? c->dim_head : c->in), n = rows * width;
    size_t work = (size_t)omp_get_max_threads() * 2 * width * 4;
    if (c->kind == CASE_LAYERNORM_FWD) {
        numbers(m, X_X, PA_TYPE_F32, n, 0.5, 1), numbers(m, X_R, PA_TYPE_F32, n, 0, 1), take(m, X_Z, n * 4),
            take(m, X_Y, n * pa_size(c->type));
        take(m, X_MEAN, rows * 4), take(m, X_RSTD, rows * 4), numbers(m, X_W, PA_TYPE_F32, width, 1, 0.5),
            numbers(m, X_B, PA_TYPE_F32, width, 0, 1);
    } else if (c->kind == CASE_HEAD_NORM_FWD) {
        numbers(m, X_X, c->type, n, 0, 1), changes(m, X_X), take(m, X_RSTD, rows * 4), numbers(m, X_W, PA_TYPE_F32, width, 1, 0.5);
    } else {
        numbers(m, X_DX, heads ? c->type : PA_TYPE_F32, n, 0, 1), changes(m, X_DX);
        numbers(m, X_DW, PA_TYPE_F32, width, 0, 1), changes(m, X_DW);
        numbers(m, X_IN, heads ? c->type : PA_TYPE_F32, n, 0.5, 1), numbers(m, X_IN_RSTD, PA_TYPE_F32, rows, 1.5, 0.5);
        numbers(m, X_WEIGHT, PA_TYPE_F32, width, 1, 0.5), take(m, X_NORM_WORK, work);
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

static void open_loss(maker *m) {
    const case_row *c = &m->run->row;
    size_t rows = (size_t)c->rows, n = rows * (size_t)c->vocab;
    numbers(m, X_LOGITS, PA_TYPE_F32, n, 1, 6);
    uint16_t *target = take(m, X_TARGET, rows * 2);
    for (size_t i = 0; target && i < rows; i++) target[i] = (uint16_t)((draw(X_TARGET, i) + 1) / 2 * c->vocab); // some are PAD
    take(m, X_NATS, rows * 4), take(m, X_BEST, rows * 2), take(m, X_DLOGITS, n * pa_size(c->type));
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
    numbers(m, X_P, PA_TYPE_F32, n, 0, 0.1), numbers(m, X_GRAD, PA_TYPE_F32, n, 0, 0.01), numbers(m, X_M, PA_TYPE_F32, n, 0, 0.01);
    numbers(m, X_V, PA_TYPE_F32, n, 1.01e-4, 1e-4);
    for (int i = X_P; i <= X_V; i++) changes(m, i);
    if (m->run->row.type == PA_TYPE_BF16) take(m, X_NARROW, n * 2);
    m->run->param = (pa_param){.rank = 1, .size = n, .decays = true};
    m->run->params = (pa_params){.row = &m->run->param, .count = 1};
    m->run->squares = 1;
}

static size_t longest(const pa_product *p) {
    int most = p->m > p->n ? p->m : p->n;
    return (size_t)(p->k > most ? p->k : most);
}

static void open_product(maker *m) {
    const case_row *c = &m->run->row;
    if (c->kind == CASE_GEMV) {
        size_t in = (size_t)c->in, out = (size_t)c->out, S = (size_t)c->rows;
        numbers(m, X_LEFT, PA_TYPE_F32, S * in, 0, 1), numbers(m, X_RIGHT, c->type, in * out, 0, 1), take(m, X_OUT, S * out * 4);
        numbers(m, X_BIAS, PA_TYPE_F32, out, 0, 1), take(m, X_WORK, S * in * 4);
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
    size_t row = longest(p);
    take(m, X_WORK, cpu_matmul_room(row, sums * columns));
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
        break;
    case CASE_SUM_SQUARES:
        numbers(m, X_FROM, PA_TYPE_F32, n, 0, 1);
        break;
    default: // casts
        numbers(m, X_FROM, c->kind == CASE_CAST ? PA_TYPE_F32 : c->type, n, 0, 1),
            take(m, X_TO, n * (c->kind == CASE_CAST ? pa_size(c->type) : 4));
    }
}

pa_status case_open(case_run *r, const case_row *row, const cpu_ops *ops, pa_err *err) {
    *r = (case_run){.row = *row, .ops = ops, .scalars = case_scalars};
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
        s = cpu_matmul_create(&r->mm, ops, r->x[X_WORK].data, longest(&row->product), (size_t)row->product.k * (size_t)row->product.n, err);
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

static void run_attention(case_run *r) {
    const case_row *c = &r->row;
    case_operand *x = r->x;
    size_t I = (size_t)c->heads * (size_t)c->dim_head, size = pa_size(c->type);
    char *dkv = c->cross ? x[X_DKV].data : (char *)x[X_DQ].data + I * size,
         *own = dkv + (size_t)(c->batch * c->kept) * (size_t)r->a.ldkv * size;
    if (c->kind == CASE_ATTENTION_FWD)
        r->ops->attn_fwd(&r->a, x[X_O].data, x[X_LSE].data, x[X_WORK].data);
    else
        r->ops->attn_bwd(&r->a, x[X_O].data, x[X_LSE].data, x[X_DOUT].data, x[X_DQ].data, dkv, dkv + I * size, own, own + I * size,
                         x[X_WORK].data);
}

static void run_norm(case_run *r) {
    const case_row *c = &r->row;
    case_operand *x = r->x;
    ptrdiff_t I = (ptrdiff_t)c->heads * c->dim_head;
    if (c->kind == CASE_LAYERNORM_FWD)
        r->ops->layernorm_fwd(c->type, x[X_Z].data, x[X_Y].data, x[X_MEAN].data, x[X_RSTD].data, x[X_X].data, x[X_R].data, NULL,
                              x[X_W].data, x[X_B].data, c->rows, c->in);
    else if (c->kind == CASE_LAYERNORM_BWD)
        r->ops->layernorm_bwd(c->type, x[X_DX].data, x[X_COPY].data, x[X_DW].data, x[X_DB].data, x[X_DY].data, x[X_IN].data,
                              x[X_IN_MEAN].data, x[X_IN_RSTD].data, x[X_WEIGHT].data, c->rows, c->in, x[X_NORM_WORK].data);
    else if (c->kind == CASE_HEAD_NORM_FWD)
        r->ops->head_norm_fwd(c->type, x[X_X].data, I, x[X_RSTD].data, x[X_W].data, c->rows, c->heads, c->dim_head);
    else
        r->ops->head_norm_bwd(c->type, x[X_DX].data, I, x[X_DW].data, x[X_IN].data, I, x[X_IN_RSTD].data, x[X_WEIGHT].data, c->rows,
                              c->heads, c->dim_head, x[X_NORM_WORK].data);
}

static void run_adam(case_run *r) {
    case_operand *x = r->x;
    r->ops->adam(NULL, &(pa_adam){.params = &r->params,
                                  .to = r->row.count,
                                  .p = x[X_P].data,
                                  .g = x[X_GRAD].data,
                                  .m = x[X_M].data,
                                  .v = x[X_V].data,
                                  .copy = x[X_NARROW].data,
                                  .type = r->row.type,
                                  .squares = &r->squares,
                                  .scalars = &r->scalars});
}

static void run_decode(case_run *r) {
    const case_row *c = &r->row;
    size_t half = r->x[X_KV].bytes / 2;
    r->ops->attn_decode(c->type, c->batch, c->heads, c->dim_head, c->latents, c->latents, 1 / sqrtf((float)c->dim_head), r->x[X_Q].data,
                        (ptrdiff_t)c->heads * c->dim_head, r->x[X_KV].data, (char *)r->x[X_KV].data + half, r->x[X_O].data,
                        r->x[X_WORK].data);
}

pa_status case_execute(case_run *r, pa_err *err) {
    const case_row *c = &r->row;
    const cpu_ops *ops = r->ops;
    case_operand *x = r->x;
    switch (c->kind) {
    case CASE_ATTENTION_FWD:
    case CASE_ATTENTION_BWD:
        run_attention(r);
        break;
    case CASE_ATTENTION_DECODE:
        run_decode(r);
        break;
    case CASE_LAYERNORM_FWD:
    case CASE_LAYERNORM_BWD:
    case CASE_HEAD_NORM_FWD:
    case CASE_HEAD_NORM_BWD:
        run_norm(r);
        break;
    case CASE_ACTIVATION_FWD:
        ops->activation_fwd(c->type, c->activation, x[X_G].data, x[X_H].data, c->rows, c->in, NULL, c->rows);
        break;
    case CASE_ACTIVATION_BWD:
        ops->activation_bwd(c->type, c->activation, x[X_G].data, x[X_H].data, c->rows, c->in, NULL, c->rows);
        break;
    case CASE_ROTARY_FWD:
        ops->rotary(c->type, x[X_TURNED].data, (ptrdiff_t)c->heads * c->dim_head, x[X_AT].data, x[X_TABLE].data, c->rows, c->heads,
                    c->dim_head, c->in, 1);
        break;
    case CASE_CROSS_ENTROPY:
        ops->cross_entropy(c->type, x[X_DLOGITS].data, x[X_NATS].data, x[X_BEST].data, x[X_LOGITS].data, x[X_TARGET].data,
                           case_scalars.loss_scale, case_z_loss, c->rows, c->vocab);
        break;
    case CASE_EMBED_FWD:
        ops->embed_fwd(x[X_ROWS].data, x[X_TOKEN].data, x[X_POSITION].data, x[X_TOKEN_EMB].data, x[X_POSITION_EMB].data, c->rows, c->in);
        break;
    case CASE_EMBED_BWD:
        ops->embed_bwd(x[X_TOKEN_EMB].data, x[X_POSITION_EMB].data, x[X_ROWS].data, x[X_TOKEN].data, x[X_POSITION].data, c->rows, c->in);
        break;
    case CASE_SUM_SQUARES:
        r->squares = ops->sum_squares(x[X_FROM].data, c->count);
        break;
    case CASE_ADAM:
        run_adam(r);
        break;
    case CASE_CAST:
        ops->cast(c->type, x[X_TO].data, x[X_FROM].data, c->count);
        break;
    case CASE_WIDEN:
        ops->widen(c->type, x[X_TO].data, x[X_FROM].data, c->count);
        break;
    case CASE_COLUMN_SUM:
        ops->column_sum(x[X_TO].data, x[X_FROM].data, c->rows, c->in);
        break;
    case CASE_GEMV:
        ops->gemv(c->type, x[X_OUT].data, x[X_LEFT].data, x[X_RIGHT].data, x[X_BIAS].data, c->rows, c->in, c->out, x[X_WORK].data);
        break;
    case CASE_MATMUL:
        return cpu_matmul_run(r->mm, &c->product, x[X_LEFT].data, x[X_RIGHT].data, x[X_OUT].data, err);
    }
    return PA_OK;
}
