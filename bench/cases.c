// cases.c: the rows of the case table. Their operands are in cases_operands.c, how each is run in cases_run.c, float64
// in cases_check.c.
#include "bench/cases.h"

#include <stdio.h>

const case_model case_models[5] = {{"v1", 2048, 1024, 512, 8, 64, 8, 1, 390},
                                   {"v2", 4096, 1536, 512, 8, 64, 8, 1, 390},
                                   {"v3", 8192, 1024, 1024, 8, 64, 8, 1, 390},
                                   {"v4", 16384, 512, 512, 4, 64, 8, 1, 390},
                                   {"v5", 4096, 1024, 2048, 16, 64, 8, 1, 390}};
const case_model case_small[5] = {
    {"s1", 41, 14, 24, 3, 8, 2, 2, 40},
    {"s2", 203, 77, 132, 2, 64, 1, 1, 390},
    {"s3", 70, 1, 37, 1, 20, 1, 3, 11},
    {"s4", 300, 128, 256, 4, 64, 1, 1, 390}, // more than one thread takes by itself
    {"s5", 560, 20, 8, 1, 8, 1, 1, 11}};     // rows enough that products of bf16 go part by part
const pa_scalars case_scalars = {.loss_scale = 0.25f,
                                 .grad_scale = 0.5f,
                                 .lr = {3e-4},
                                 .beta1 = 0.9,
                                 .beta2 = 0.999,
                                 .eps = 1e-8,
                                 .decay = 0.1,
                                 .c1 = 0.271,
                                 .c2 = 0.002997001,
                                 .decoupled = true};
const float case_z_loss = 0.01f;

pa_model case_settings(const case_model *m) {
    pa_model s = pa_model_default();
    s.context = m->context, s.prefix = m->prefix, s.dim = m->dim, s.heads = m->heads, s.dim_head = m->dim_head,
    s.depth = m->depth;
    s.vocab = m->vocab, s.prefix_dropout = 0.7;
    return s;
}

typedef struct {
    const case_model *m;
    pa_type type;
    case_row *row;
    int rows;
} table;

static case_row *add(table *t, case_kind kind, const char *what, double flop, double bytes) {
    case_row *row = &t->row[t->rows++];
    *row = (case_row){.kind = kind, .type = t->type, .flop = flop, .bytes = bytes};
    row->heads = t->m->heads, row->dim_head = t->m->dim_head, row->vocab = t->m->vocab, row->positions = t->m->context;
    snprintf(row->name, sizeof row->name, "%s %s %s", t->m->name, what, t->type == PA_TYPE_F32 ? "fp32" : "bf16");
    return row;
}

static void add_attention(table *t, bool cross) {
    const case_model *m = t->m;
    double N = m->context - m->prefix, K = cross ? pa_kept(m->prefix, 0.7) : 0, I = m->heads * m->dim_head,
           s = (double)pa_size(t->type);
    double pairs = m->batch * (N * (N + K) - N * (N - 1) / 2), q = m->batch * N * I * s,
           kv = 2 * m->batch * (N + K) * I * s;
    for (int back = 0; back < 2; back++) {
        char what[32];
        snprintf(what, sizeof what, "attention_%s %s", back ? "bwd" : "fwd", cross ? "cross" : "self");
        case_row *row = add(t, back ? CASE_ATTENTION_BWD : CASE_ATTENTION_FWD, what, (back ? 8 : 4) * I * pairs,
                            back ? 3 * q + kv + q + kv
                                 : 2 * q + kv); // q, k, v, o, dout read, dq, dk, dv written; q, k, v read, o written
        row->batch = m->batch, row->latents = (int)N, row->kept = (int)K, row->cross = cross;
    }
}

static void add_rows(table *t, int rows, int F) {
    const case_model *m = t->m;
    int C = m->dim, I = m->heads * m->dim_head;
    double n = (double)rows * C, f = (double)rows * F, i = (double)rows * I, s = (double)pa_size(t->type);
    case_row *r;
    r = add(t, CASE_LAYERNORM_FWD, "layernorm_fwd", 9 * n, (12 + s) * n), r->rows = rows, r->in = C;
    r = add(t, CASE_LAYERNORM_BWD, "layernorm_bwd", 18 * n, (12 + 2 * s) * n), r->rows = rows, r->in = C;
    r = add(t, CASE_HEAD_NORM_FWD, "head_norm_fwd", 4 * i, 2 * s * i), r->rows = rows;
    r = add(t, CASE_HEAD_NORM_BWD, "head_norm_bwd", 12 * i, 3 * s * i), r->rows = rows;
    r = add(t, CASE_ACTIVATION_FWD, "gelu_fwd", 37 * f, 2 * s * f), r->rows = rows, r->in = F;
    r = add(t, CASE_ACTIVATION_BWD, "gelu_bwd", 40 * f, 3 * s * f), r->rows = rows, r->in = F;
    r = add(t, CASE_ACTIVATION_FWD, "sqrelu_fwd", 2 * f, 2 * s * f), r->rows = rows, r->in = F,
    r->activation = PA_SQRELU;
    r = add(t, CASE_ACTIVATION_BWD, "sqrelu_bwd", 3 * f, 3 * s * f), r->rows = rows, r->in = F,
    r->activation = PA_SQRELU;
    pa_model settings = case_settings(m);
    double turned = (double)rows * m->heads * pa_rotary_dims(&settings);
    r = add(t, CASE_ROTARY_FWD, "rotary", 3 * turned, 2 * s * turned), r->rows = rows,
    r->in = pa_rotary_dims(&settings);
    r = add(t, CASE_CROSS_ENTROPY, "cross_entropy", 40.0 * rows * m->vocab, (4 + s) * rows * m->vocab), r->rows = rows;
    r = add(t, CASE_EMBED_FWD, "embed_fwd", n, 12 * n), r->rows = rows, r->in = C, r->cold = true;
    r = add(t, CASE_EMBED_BWD, "embed_bwd", 2 * n, 20 * n), r->rows = rows, r->in = C, r->cold = true;
    r = add(t, CASE_COLUMN_SUM, "column_sum", n, 4 * n), r->rows = rows, r->in = C, r->reads = true;
}

static void add_weights(table *t, int F) {
    const case_model *m = t->m;
    pa_params p;
    pa_model settings = case_settings(m);
    size_t all = pa_params_init(&p, &settings, NULL) ? 0 : p.floats;
    pa_params_clear(&p);
    double w = (double)F * m->dim, s = (double)pa_size(t->type);
    case_row *r;
    r = add(t, CASE_SUM_SQUARES, "sum_squares", 2 * (double)all, 4 * (double)all), r->count = all,
    r->cold = r->reads = true;
    r = add(t, CASE_ADAM, "adam", 16 * w, (32 + (t->type == PA_TYPE_BF16 ? 2 : 0)) * w),
    r->count = (size_t)F * (size_t)m->dim, r->cold = true;
    r = add(t, CASE_CAST, "cast", 0, (4 + s) * w), r->count = (size_t)F * (size_t)m->dim, r->cold = true;
    r = add(t, CASE_WIDEN, "widen", 0, (4 + s) * w), r->count = (size_t)F * (size_t)m->dim, r->cold = true;
    r = add(t, CASE_GEMV, "gemv", 2 * w * m->batch, s * w), r->in = m->dim, r->out = F, r->rows = m->batch,
    r->cold = r->reads = true;
    double cache = (double)m->batch * m->context * m->heads * m->dim_head;
    r = add(t, CASE_ATTENTION_DECODE, "attention_decode", 4 * cache, 2 * s * cache);
    r->batch = m->batch, r->latents = m->context, r->cold = r->reads = true;
}

static void add_product(table *t, const char *what, pa_product p) {
    double s = (double)pa_size(t->type), mn = (double)p.m * p.n;
    double bytes = s * ((double)p.m * p.k + (double)p.k * p.n) + mn * (double)pa_size(p.c) * (p.add ? 2 : 1);
    p.a = p.b = t->type;
    add(t, CASE_MATMUL, what, 2 * mn * p.k, bytes)->product = p;
}

// The three products of a weight (F, C), and the forward one of the logits and of q, k, v.
static void add_products(table *t, int rows, int F) {
    int C = t->m->dim, I = t->m->heads * t->m->dim_head, V = t->m->vocab;
    add_product(t, "matmul y=xw", (pa_product){.m = rows, .n = F, .k = C, .c = t->type, .b_t = true});
    add_product(t, "matmul dx=dyw", (pa_product){.m = rows, .n = C, .k = F, .c = t->type});
    add_product(t, "matmul dw+=dyx",
                (pa_product){.m = F, .n = C, .k = rows, .c = PA_TYPE_F32, .a_t = true, .add = true});
    add_product(t, "matmul qkv", (pa_product){.m = rows, .n = 3 * I, .k = C, .c = t->type, .b_t = true});
    add_product(t, "matmul logits", (pa_product){.m = rows, .n = V, .k = C, .c = PA_TYPE_F32, .b_t = true});
}

int case_table(const case_model *m, pa_type type, case_row row[CASE_ROWS]) {
    table t = {.m = m, .type = type, .row = row};
    pa_model settings = case_settings(m);
    int rows = m->batch * (m->context - m->prefix), F = pa_ff(&settings);
    add_products(&t, rows, F);
    add_attention(&t, true);
    add_attention(&t, false);
    add_rows(&t, rows, F);
    add_weights(&t, F);
    return t.rows;
}
