// models.c: a whole model's training step, prefill and decoding, timed, and on the CPU split by part: the context's
// table of operations is replaced by one that counts the time of each call. Knows nothing of tables of results.
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "host/model/context.h"

const char *const bench_part_name[PARTS] = {"linear", "attention", "activation",       "norms",
                                            "loss",   "optimizer", "other operations", "rest"};

static const pa_ops *real;
static double spent[PARTS];

// name of a table's operations with the time of each call added to its part.
#define TIMED(part, name, parameters, ...)                                                                             \
    static void timed_##name parameters {                                                                              \
        double start = pa_clock();                                                                                     \
        real->name(__VA_ARGS__);                                                                                       \
        spent[part] += pa_clock() - start;                                                                             \
    }
#define TIMED_STRUCT(part, name, type) TIMED(part, name, (pa_device * d, const type *a), d, a)
TIMED(PART_ATTENTION, attn_fwd, (pa_device * d, const pa_attn *a, void *o, float *lse, pa_work work), d, a, o, lse,
      work)
TIMED(PART_ATTENTION, attn_bwd, (pa_device * d, const pa_attn *a, const pa_attn_grads *g, pa_work work), d, a, g, work)
TIMED_STRUCT(PART_ATTENTION, attn_decode, pa_attn_decode)
TIMED(PART_OTHER, embed_fwd, (pa_device * d, float *x, const pa_embed *a), d, x, a)
TIMED_STRUCT(PART_OTHER, embed_bwd, pa_embed_grads)
TIMED_STRUCT(PART_OTHER, add_rows, pa_add_rows)
TIMED_STRUCT(PART_OTHER, add_rows_bwd, pa_add_rows_grads)
TIMED_STRUCT(PART_NORMS, layernorm_fwd, pa_layernorm)
TIMED_STRUCT(PART_NORMS, layernorm_bwd, pa_layernorm_grads)
TIMED_STRUCT(PART_NORMS, head_norm_fwd, pa_head_norm)
TIMED_STRUCT(PART_NORMS, head_norm_bwd, pa_head_norm_grads)
TIMED_STRUCT(PART_OTHER, rotary, pa_rotary)
TIMED_STRUCT(PART_ACTIVATION, activation_fwd, pa_activate)
TIMED_STRUCT(PART_ACTIVATION, activation_bwd, pa_activate)
TIMED_STRUCT(PART_LOSS, cross_entropy, pa_cross_entropy)
TIMED(PART_LOSS, sum, (pa_device * d, double *sum, double *total, const float *x, size_t n), d, sum, total, x, n)
TIMED(PART_OPTIMIZER, sum_squares, (pa_device * d, double *sum, const float *x, size_t n, void *work), d, sum, x, n,
      work)
TIMED_STRUCT(PART_OPTIMIZER, adam, pa_adam)
TIMED(PART_OTHER, cast, (pa_device * d, pa_type type, void *y, const float *x, size_t n), d, type, y, x, n)
TIMED(PART_OTHER, widen, (pa_device * d, pa_type type, float *y, const void *x, size_t n), d, type, y, x, n)
TIMED(PART_OTHER, column_sum, (pa_device * d, float *sum, const float *x, int rows, int C, void *work), d, sum, x, rows,
      C, work)
TIMED_STRUCT(PART_LINEAR, gemv, pa_gemv)
static pa_status timed_product(pa_device *d, const pa_product *p, const void *a, const void *b, void *c, pa_err *err) {
    double start = pa_clock();
    pa_status s = real->product(d, p, a, b, c, err);
    spent[PART_LINEAR] += pa_clock() - start;
    return s;
}

static void watch(pa_context *c) {
    static pa_ops timed;
    real = c->ops;
    timed = *c->ops;
#define WATCH(name) timed.name = timed_##name;
    WATCH(attn_fwd)
    WATCH(attn_bwd)
    WATCH(attn_decode)
    WATCH(embed_fwd)
    WATCH(embed_bwd)
    WATCH(add_rows)
    WATCH(add_rows_bwd)
    WATCH(layernorm_fwd)
    WATCH(layernorm_bwd)
    WATCH(head_norm_fwd)
    WATCH(head_norm_bwd)
    WATCH(rotary)
    WATCH(activation_fwd)
    WATCH(activation_bwd)
    WATCH(cross_entropy)
    WATCH(sum)
    WATCH(sum_squares)
    WATCH(adam)
    WATCH(cast)
    WATCH(widen)
    WATCH(column_sum)
    WATCH(gemv)
    WATCH(product)
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
    b->input = malloc((size_t)M * 2);
    b->target = malloc((size_t)M * 2);
    b->keep = malloc((size_t)(K + 1) * 4);
    b->logits = malloc((size_t)m.vocab * 4);
    if (!b->input || !b->target || !b->keep || !b->logits) return pa_error(err, PA_FAIL, "no memory");
    for (int i = 0; i < M; i++) {
        b->input[i] = token_at((size_t)i);
        b->target[i] = token_at((size_t)i + 1);
    }
    for (int i = 0; i < K; i++) b->keep[i] = (int32_t)((int64_t)i * v->prefix / K);
    b->batch = (pa_batch){
        .batch = 1, .length = M, .latents = N, .input = b->input, .target = b->target, .keep = b->keep, .kept = K};
    o.params = &b->params;
    o.comm = &b->comm;
    if ((s = be->open(&b->c, &o, err)) || (s = fill(b, err))) return s;
    if (be == pa_backend_cpu()) watch(b->c);
    return PA_OK;
}

static void stop(bench *b) {
    if (b->c) b->be->close(b->c);
    free(b->input);
    free(b->target);
    free(b->keep);
    free(b->logits);
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
static pa_status run(bench *b, pa_status (*work)(void *, pa_err *), bench_effort effort, bench_model *row,
                     pa_err *err) {
    pa_status s = work(b, err); // first touches pages, creates primitives
    if (s) return s;
    double whole = pa_clock();
    bool cpu = b->be == pa_backend_cpu();
    memset(spent, 0, sizeof spent);
    s = bench_measure(&(bench_job){.work = work, .what = b}, effort, &row->time, err);
    if (s) return s;
    whole = pa_clock() - whole;
    row->memory = (double)b->be->memory(b->c);
    if (!cpu) return PA_OK;
    double rest = whole;
    for (int i = 0; i < PART_REST; i++) rest -= spent[i];
    spent[PART_REST] = rest;
    for (int i = 0; i < PARTS; i++) row->part[i] = spent[i] / whole * row->time.median;
    return PA_OK;
}

static double weight_numbers(const bench *b) { // that a token's products read
    double n = 0;
    for (int t = 0; t < b->params.count; t++)
        if (b->params.row[t].linear) n += (double)b->params.row[t].size;
    return n;
}

static void name(bench_model *row, const bench *b, const char *what) {
    pa_precision p = b->be->precision(b->c);
    snprintf(row->name, sizeof row->name, "%s %s %s", b->v->name, what,
             p == PA_PRECISION_FP32   ? "fp32"
             : p == PA_PRECISION_BF16 ? "bf16"
                                      : "fp16");
}

static pa_status bench_train(const pa_backend *be, const case_model *v, pa_precision precision, bench_effort effort,
                             bench_model *row, const char *what, pa_err *err) {
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

static pa_status bench_generate(const pa_backend *be, const case_model *v, pa_precision precision, bench_effort effort,
                                bench_model row[2], pa_err *err) {
    bench b;
    pa_status s = start(&b, be, v, (pa_open){.precision = precision, .streams = 1}, err);
    b.batch.length -= DECODED;
    b.batch.latents -= DECODED;
    if (!s) s = run(&b, prefill, effort, &row[0], err);
    if (!s) s = run(&b, decode, (bench_effort){1e9, 1, DECODED - 2}, &row[1], err);
    if (!s) {
        const pa_model *m = &b.params.model;
        pa_flops f = pa_count_flops(m, 1, m->prefix, b.batch.latents);
        double size = be->precision(b.c) == PA_PRECISION_FP32 ? 4 : 2, weights = weight_numbers(&b);
        double keys = b.batch.length + m->depth * (double)b.batch.latents + (1 + m->depth) * DECODED / 2.0;
        name(&row[0], &b, "prefill");
        name(&row[1], &b, "decode");
        // Logits and, in the last block, all that is behind queries, keys and values are one row's.
        double spared = b.batch.latents - 1, C = m->dim, I = pa_inner(m),
               last = (m->depth ? 0 : m->prefix) + b.batch.latents / 2.0;
        row[0].flop =
            f.linear_forward + f.attention_forward - 2 * spared * (C * (I + 2 * pa_ff(m) + m->vocab) + 2 * I * last);
        row[0].tokens = b.batch.length;
        row[1].tokens = 1;
        row[1].read_bound = true;
        row[1].flop = 2 * weights + 4 * keys * pa_inner(m);
        row[1].bytes = size * (weights + 2 * keys * pa_inner(m));
    }
    stop(&b);
    return s;
}

pa_status bench_models(const bench_model_run *o, bench_model row[BENCH_MODELS], int *rows, pa_err *err) {
    const char *train = o->threads < omp_get_max_threads() ? "train, one core" : "train";
    int all = omp_get_max_threads();
    pa_status s = PA_OK;
    memset(row, 0, BENCH_MODELS * sizeof *row);
    *rows = 0;
    omp_set_num_threads(o->threads);
    if (o->train && !(s = bench_train(o->backend, o->model, o->precision, o->effort, &row[0], train, err))) *rows = 1;
    if (!s && o->generate && !(s = bench_generate(o->backend, o->model, o->precision, o->effort, &row[*rows], err)))
        *rows += 2;
    omp_set_num_threads(all);
    return s;
}
