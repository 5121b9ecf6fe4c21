// models.c: a whole model's training step, prefill and decoding, timed, and on the CPU split by part: the context's table of operations is
// replaced by one that counts the time of each call, and products count their own. Knows nothing of tables of results.
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "cpu/context.h"

const char *const bench_part_name[PARTS] = {"linear", "attention", "activation", "norms", "loss", "optimizer", "other operations", "rest"};

static const cpu_ops *real;
static double spent[PARTS];

#define TIMED(part, name, parameters, ...)                                                                                                 \
    static void timed_##name parameters {                                                                                                  \
        double start = pa_clock();                                                                                                         \
        real->name(__VA_ARGS__);                                                                                                           \
        spent[part] += pa_clock() - start;                                                                                                 \
    }
TIMED(PART_ATTENTION, attn_fwd, (const cpu_attn *a, void *o, float *lse, void *work), a, o, lse, work)
TIMED(PART_ATTENTION, attn_bwd,
      (const cpu_attn *a, const void *o, const float *lse, const void *dout, void *dq, void *dkp, void *dvp, void *dkn, void *dvn,
       void *work),
      a, o, lse, dout, dq, dkp, dvp, dkn, dvn, work)
TIMED(PART_ATTENTION, attn_decode,
      (cpu_type type, int streams, int heads, int dim_head, int length, int capacity, float scale, const float *q, const void *k,
       const void *v, float *o, void *work),
      type, streams, heads, dim_head, length, capacity, scale, q, k, v, o, work)
TIMED(PART_OTHER, embed_fwd,
      (float *x, const int32_t *token, const int32_t *position, const float *token_emb, const float *pos_emb, int rows, int C), x, token,
      position, token_emb, pos_emb, rows, C)
TIMED(PART_OTHER, embed_bwd,
      (float *dtoken_emb, float *dpos_emb, const float *dx, const int32_t *token, const int32_t *position, int rows, int C), dtoken_emb,
      dpos_emb, dx, token, position, rows, C)
TIMED(PART_NORMS, layernorm_fwd,
      (cpu_type type, float *z, void *y, float *mean, float *rstd, const float *x, const float *r, const float *bias, const float *w,
       const float *b, int rows, int C),
      type, z, y, mean, rstd, x, r, bias, w, b, rows, C)
TIMED(PART_NORMS, layernorm_bwd,
      (cpu_type type, float *dx, void *dx_copy, float *dw, float *db, const void *dy, const float *x, const float *mean, const float *rstd,
       const float *w, int rows, int C, float *work),
      type, dx, dx_copy, dw, db, dy, x, mean, rstd, w, rows, C, work)
TIMED(PART_OTHER, rotary,
      (cpu_type type, void *x, ptrdiff_t ld, const int32_t *position, const float *table, int rows, int H, int D, int R, float sign), type,
      x, ld, position, table, rows, H, D, R, sign)
TIMED(PART_NORMS, head_norm_fwd, (cpu_type type, void *x, ptrdiff_t ld, float *rstd, const float *w, int rows, int H, int D), type, x, ld,
      rstd, w, rows, H, D)
TIMED(PART_NORMS, head_norm_bwd,
      (cpu_type type, void *dy, ptrdiff_t ld_dy, float *dw, const void *x, ptrdiff_t ld_x, const float *rstd, const float *w, int rows,
       int H, int D, float *work),
      type, dy, ld_dy, dw, x, ld_x, rstd, w, rows, H, D, work)
TIMED(PART_ACTIVATION, activation_fwd,
      (cpu_type type, pa_activation kind, void *g, const void *h, int rows, int F, const cpu_dropout *d, int rows_a_sequence), type, kind,
      g, h, rows, F, d, rows_a_sequence)
TIMED(PART_ACTIVATION, activation_bwd,
      (cpu_type type, pa_activation kind, void *dg, const void *h, int rows, int F, const cpu_dropout *d, int rows_a_sequence), type, kind,
      dg, h, rows, F, d, rows_a_sequence)
TIMED(PART_LOSS, cross_entropy,
      (cpu_type type, void *dlogits, float *nats, uint16_t *best, const float *logits, const uint16_t *target, float scale, float z_loss,
       int rows, int V),
      type, dlogits, nats, best, logits, target, scale, z_loss, rows, V)
TIMED(PART_OPTIMIZER, adam,
      (float *p, float *g, float *m, float *v, uint16_t *copy, size_t n, float g_scale, double lr, double beta1, double beta2, double eps,
       double decay, bool decoupled, double c1, double c2),
      p, g, m, v, copy, n, g_scale, lr, beta1, beta2, eps, decay, decoupled, c1, c2)
TIMED(PART_OTHER, cast, (cpu_type type, void *y, const float *x, size_t n), type, y, x, n)
TIMED(PART_OTHER, widen, (cpu_type type, float *y, const void *x, size_t n), type, y, x, n)
TIMED(PART_OTHER, column_sum, (float *sum, const float *x, int rows, int C), sum, x, rows, C)
TIMED(PART_LINEAR, gemv,
      (cpu_type type, float *y, const float *x, const void *w, const float *bias, int streams, int in, int out, float *work), type, y, x, w,
      bias, streams, in, out, work)
static double timed_sum_squares(const float *x, size_t n) {
    double start = pa_clock(), sum = real->sum_squares(x, n);
    spent[PART_OPTIMIZER] += pa_clock() - start;
    return sum;
}

static void watch(pa_context *c) {
    static cpu_ops timed;
    real = c->ops, timed = *c->ops;
    timed.attn_fwd = timed_attn_fwd, timed.attn_bwd = timed_attn_bwd, timed.attn_decode = timed_attn_decode;
    timed.embed_fwd = timed_embed_fwd, timed.embed_bwd = timed_embed_bwd, timed.rotary = timed_rotary;
    timed.layernorm_fwd = timed_layernorm_fwd, timed.layernorm_bwd = timed_layernorm_bwd;
    timed.head_norm_fwd = timed_head_norm_fwd, timed.head_norm_bwd = timed_head_norm_bwd;
    timed.activation_fwd = timed_activation_fwd, timed.activation_bwd = timed_activation_bwd;
    timed.cross_entropy = timed_cross_entropy, timed.adam = timed_adam, timed.sum_squares = timed_sum_squares;
    timed.cast = timed_cast, timed.widen = timed_widen, timed.column_sum = timed_column_sum, timed.gemv = timed_gemv;
    c->ops = &timed;
}

typedef struct {
    const pa_backend *be;
    pa_context *c;
    const case_model *v;
    pa_params params;
    pa_comm comm;
    pa_batch batch;
    uint16_t *input, *target;
    int32_t *keep;
    float *logits;
    int64_t step;
} bench;

static uint16_t token_at(size_t i) {
    return (uint16_t)(i * 2654435761u % 387);
}

// Parameters of the right size; which they are does not matter, only that sums stay finite.
static pa_status fill(bench *b, pa_err *err) {
    size_t most = 0;
    for (int t = 0; t < b->params.count; t++)
        if (b->params.row[t].size > most) most = b->params.row[t].size;
    float *x = malloc(most * 4);
    if (!x) return pa_error(err, PA_FAIL, "no memory for a tensor of %zu numbers", most);
    pa_status s = PA_OK;
    for (int t = 0; !s && t < b->params.count; t++) {
        const pa_param *row = &b->params.row[t];
        uint32_t state = (uint32_t)t + 1;
        for (size_t i = 0; i < row->size; i++) {
            state = state * 1664525 + 1013904223;
            float u = (float)(state >> 8) * 0x1p-23f - 1;
            x[i] = row->init == PA_INIT_ZERO ? 0 : row->init == PA_INIT_ONE ? 1 : row->scale * u;
        }
        s = b->be->write(b->c, PA_PARAM, t, x, err);
    }
    free(x);
    return s;
}

static pa_status start(bench *b, const pa_backend *be, const case_model *v, pa_open o, pa_err *err) {
    *b = (bench){.be = be, .v = v, .comm = pa_comm_single()};
    pa_model m = case_settings(v);
    pa_status s = pa_params_init(&b->params, &m, err);
    if (s) return s;
    int M = v->context, N = M - v->prefix, K = pa_kept(v->prefix, m.prefix_dropout);
    b->input = malloc((size_t)M * 2), b->target = malloc((size_t)M * 2), b->keep = malloc((size_t)(K + 1) * 4);
    b->logits = malloc((size_t)m.vocab * 4);
    if (!b->input || !b->target || !b->keep || !b->logits) return pa_error(err, PA_FAIL, "no memory");
    for (int i = 0; i < M; i++) b->input[i] = token_at((size_t)i), b->target[i] = token_at((size_t)i + 1);
    for (int i = 0; i < K; i++) b->keep[i] = (int32_t)((int64_t)i * v->prefix / K);
    b->batch = (pa_batch){.batch = 1, .length = M, .latents = N, .input = b->input, .target = b->target, .keep = b->keep, .kept = K};
    o.params = &b->params, o.comm = &b->comm;
    if ((s = be->open(&b->c, &o, err)) || (s = fill(b, err))) return s;
    if (be == pa_backend_cpu()) watch(b->c);
    return PA_OK;
}

static void stop(bench *b) {
    if (b->c) b->be->close(b->c);
    free(b->input), free(b->target), free(b->keep), free(b->logits);
    pa_params_clear(&b->params);
}

static pa_status train_step(void *what, pa_err *err) {
    bench *b = what;
    double sum, norm;
    pa_status s = b->be->loss_grad(b->c, &b->batch, 1.0f / (float)b->batch.latents, &sum, err);
    pa_update u = {.lr = 1e-4, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .clip = 1, .step = ++b->step};
    return s ? s : b->be->update(b->c, &u, &norm, NULL, err);
}

static pa_status prefill(void *what, pa_err *err) {
    bench *b = what;
    return b->be->prefill(b->c, b->batch.length, b->batch.latents, b->input, b->logits, err);
}

// The window's end is as far as decoding gets; there it is slowest.
enum { DECODED = 48 };
static pa_status decode(void *what, pa_err *err) {
    bench *b = what;
    return b->be->decode(b->c, b->input, b->logits, err);
}

// Each part as its share of the time of all calls, times the median.
static pa_status run(bench *b, pa_status (*work)(void *, pa_err *), bench_effort effort, bench_model *row, pa_err *err) {
    pa_status s = work(b, err); // pages are first touched, primitives made
    if (s) return s;
    double before = 0, whole = pa_clock();
    bool cpu = b->be == pa_backend_cpu();
    memset(spent, 0, sizeof spent);
    if (cpu) before = cpu_matmul_seconds(b->c->mm);
    s = bench_measure(&(bench_job){.work = work, .what = b}, effort, &row->time, err);
    if (s) return s;
    whole = pa_clock() - whole;
    row->memory = (double)b->be->memory(b->c);
    if (!cpu) return PA_OK;
    double rest = whole;
    spent[PART_LINEAR] += cpu_matmul_seconds(b->c->mm) - before;
    for (int i = 0; i < PART_REST; i++) rest -= spent[i];
    spent[PART_REST] = rest;
    for (int i = 0; i < PARTS; i++) row->part[i] = spent[i] / whole * row->time.median;
    return PA_OK;
}

static double weight_numbers(const bench *b) { // that a token's products read
    double n = 0;
    for (int t = 0; t < b->params.count; t++)
        if (b->params.row[t].rank == 2 && t != b->params.token_emb && t != b->params.pos_emb) n += (double)b->params.row[t].size;
    return n;
}

static void name(bench_model *row, const bench *b, const char *what) {
    pa_precision p = b->be->precision(b->c);
    snprintf(row->name, sizeof row->name, "%s %s %s", b->v->name, what,
             p == PA_PRECISION_FP32   ? "fp32"
             : p == PA_PRECISION_BF16 ? "bf16"
                                      : "fp16");
}

static pa_status bench_train(const pa_backend *be, const case_model *v, pa_precision precision, bench_effort effort, bench_model *row,
                             const char *what, pa_err *err) {
    bench b;
    pa_status s = start(&b, be, v, (pa_open){.precision = precision, .max_batch = 1, .training = true}, err);
    if (!s) s = run(&b, train_step, effort, row, err);
    if (!s) {
        pa_flops f = pa_count_flops(&b.params.model, 1, b.batch.kept, b.batch.latents);
        name(row, &b, what);
        row->flop = f.linear_forward + f.linear_backward + f.attention_forward + f.attention_backward;
        row->tokens = b.batch.latents;
    }
    stop(&b);
    return s;
}

static pa_status bench_generate(const pa_backend *be, const case_model *v, pa_precision precision, bench_effort effort, bench_model row[2],
                                pa_err *err) {
    bench b;
    pa_status s = start(&b, be, v, (pa_open){.precision = precision, .streams = 1}, err);
    b.batch.length -= DECODED, b.batch.latents -= DECODED;
    if (!s) s = run(&b, prefill, effort, &row[0], err);
    if (!s) s = run(&b, decode, (bench_effort){1e9, 1, DECODED - 2}, &row[1], err);
    if (!s) {
        const pa_model *m = &b.params.model;
        pa_flops f = pa_count_flops(m, 1, m->prefix, b.batch.latents);
        double size = be->precision(b.c) == PA_PRECISION_FP32 ? 4 : 2, weights = weight_numbers(&b);
        double keys = b.batch.length + m->depth * (double)b.batch.latents + (1 + m->depth) * DECODED / 2.0;
        name(&row[0], &b, "prefill"), name(&row[1], &b, "decode");
        // Logits and, in the last block, all that is behind queries, keys and values are one row's.
        double spared = b.batch.latents - 1, C = m->dim, I = pa_inner(m), last = (m->depth ? 0 : m->prefix) + b.batch.latents / 2.0;
        row[0].flop = f.linear_forward + f.attention_forward - 2 * spared * (C * (I + 2 * pa_ff(m) + m->vocab) + 2 * I * last);
        row[0].tokens = b.batch.length;
        row[1].tokens = 1, row[1].read_bound = true;
        row[1].flop = 2 * weights + 4 * keys * pa_inner(m), row[1].bytes = size * (weights + 2 * keys * pa_inner(m));
    }
    stop(&b);
    return s;
}

pa_status bench_models(const pa_backend *be, const case_model *v, pa_precision precision, int threads, bench_effort effort, bool train,
                       bool generate, bench_model row[BENCH_MODELS], int *rows, pa_err *err) {
    int all = omp_get_max_threads();
    memset(row, 0, BENCH_MODELS * sizeof *row);
    *rows = 0;
    omp_set_num_threads(threads);
    pa_status s = train ? bench_train(be, v, precision, effort, &row[0], threads < all ? "train, one core" : "train", err) : PA_OK;
    if (!s && train) *rows = 1;
    if (!s && generate && !(s = bench_generate(be, v, precision, effort, &row[*rows], err))) *rows += 2;
    omp_set_num_threads(all);
    return s;
}
