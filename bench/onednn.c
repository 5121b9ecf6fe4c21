// onednn.c: oneDNN's time for the work of a case, in the layouts that it likes best. Knows nothing of our own times.
#include <oneapi/dnnl/dnnl.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"

enum { STEPS = 3, ARGUMENTS = 6, MEMORIES = 16 };

// Primitives that run one after the other.
typedef struct {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_desc_t pd[STEPS];
    dnnl_primitive_t primitive[STEPS];
    dnnl_exec_arg_t argument[STEPS][ARGUMENTS];
    int arguments[STEPS], steps;
    dnnl_memory_t memory[MEMORIES];
    int memories;
    bool missing, failed; // missing: oneDNN has no such primitive here
} peer;

// The next step, and its result: `previous` makes memory of the step before its first operand.
static void step(peer *p, const void *descriptor) {
    if (p->missing || p->failed) return;
    dnnl_status_t s = dnnl_primitive_desc_create(&p->pd[p->steps], descriptor, NULL, p->engine, NULL);
    p->missing = s == dnnl_unimplemented;
    p->failed = s != dnnl_success && !p->missing;
    if (!s && dnnl_primitive_create(&p->primitive[p->steps], p->pd[p->steps])) p->failed = true;
    if (!s) p->steps++;
}

static void give(peer *p, int argument, dnnl_memory_t m) {
    int i = p->steps - 1;
    p->argument[i][p->arguments[i]++] = (dnnl_exec_arg_t){argument, m};
}

// An operand of the last step with numbers between 1 and 2, or a given one.
static dnnl_memory_t operand(peer *p, int argument) {
    if (p->missing || p->failed) return NULL;
    const dnnl_memory_desc_t *d = dnnl_primitive_desc_query_md(p->pd[p->steps - 1], dnnl_query_exec_arg_md, argument);
    dnnl_memory_t m = NULL;
    void *data = NULL;
    if (dnnl_memory_create(&m, d, p->engine, DNNL_MEMORY_ALLOCATE) || dnnl_memory_get_data_handle(m, &data)) {
        p->failed = true;
        return NULL;
    }
    p->memory[p->memories++] = m;
    for (size_t i = 0; i < dnnl_memory_desc_get_size(d) / 4; i++)
        ((uint32_t *)data)[i] =
            0x3f803f80u + ((uint32_t)i * 2654435761u >> 31 << 21 | (uint32_t)i % 64); // as float32 and as bf16
    give(p, argument, m);
    return m;
}

static dnnl_memory_desc_t plain(pa_type type, int rows, int columns) {
    dnnl_memory_desc_t d;
    dnnl_dims_t dims = {rows, columns};
    dnnl_memory_desc_init_by_tag(&d, 2, dims, type == PA_TYPE_F32 ? dnnl_f32 : dnnl_bf16, dnnl_ab);
    return d;
}
static dnnl_memory_desc_t any(pa_type type, int rows, int columns) {
    dnnl_memory_desc_t d;
    dnnl_dims_t dims = {rows, columns};
    dnnl_memory_desc_init_by_tag(&d, 2, dims, type == PA_TYPE_F32 ? dnnl_f32 : dnnl_bf16, dnnl_format_tag_any);
    return d;
}

static const char *make_matmul(peer *p, const pa_product *q) {
    dnnl_memory_desc_t a = any(q->a, q->m, q->k), b = any(q->b, q->k, q->n), c = any(q->c, q->m, q->n);
    dnnl_matmul_desc_t d;
    if (dnnl_matmul_desc_init(&d, &a, &b, NULL, &c)) p->failed = true;
    step(p, &d);
    operand(p, DNNL_ARG_SRC);
    operand(p, DNNL_ARG_WEIGHTS);
    operand(p, DNNL_ARG_DST);
    return q->add ? "its own layouts; nothing added" : "its own layouts";
}

static const char *make_layernorm(peer *p, const case_row *r) {
    dnnl_memory_desc_t x = plain(PA_TYPE_F32, r->rows, r->in);
    dnnl_layer_normalization_desc_t d;
    if (dnnl_layer_normalization_forward_desc_init(&d, dnnl_forward_training, &x, NULL, 1e-5f,
                                                   dnnl_use_scale | dnnl_use_shift))
        p->failed = true;
    step(p, &d);
    operand(p, DNNL_ARG_SRC);
    operand(p, DNNL_ARG_DST);
    operand(p, DNNL_ARG_MEAN);
    operand(p, DNNL_ARG_VARIANCE);
    operand(p, DNNL_ARG_SCALE);
    operand(p, DNNL_ARG_SHIFT);
    return "float32; no residual added";
}

static const char *make_gelu(peer *p, const case_row *r, bool back) {
    dnnl_memory_desc_t x = plain(r->type, r->rows, r->in);
    dnnl_eltwise_desc_t d;
    if (back ? dnnl_eltwise_backward_desc_init(&d, dnnl_eltwise_gelu_erf, &x, &x, 0, 0)
             : dnnl_eltwise_forward_desc_init(&d, dnnl_forward_training, dnnl_eltwise_gelu_erf, &x, 0, 0))
        p->failed = true;
    if (back) { // needs the description of its forward pass
        dnnl_eltwise_desc_t f;
        dnnl_primitive_desc_t hint = NULL;
        dnnl_status_t s = dnnl_eltwise_forward_desc_init(&f, dnnl_forward_training, dnnl_eltwise_gelu_erf, &x, 0, 0);
        if (!s) s = dnnl_primitive_desc_create(&hint, &f, NULL, p->engine, NULL);
        if (!s) s = dnnl_primitive_desc_create(&p->pd[0], &d, NULL, p->engine, hint);
        if (!s) s = dnnl_primitive_create(&p->primitive[0], p->pd[0]);
        p->missing = s == dnnl_unimplemented;
        p->failed = s != dnnl_success && !p->missing;
        p->steps = !s;
        if (hint) dnnl_primitive_desc_destroy(hint);
        operand(p, DNNL_ARG_SRC);
        operand(p, DNNL_ARG_DIFF_DST);
        operand(p, DNNL_ARG_DIFF_SRC);
        return "";
    }
    step(p, &d);
    operand(p, DNNL_ARG_SRC);
    operand(p, DNNL_ARG_DST);
    return "";
}

static const char *make_softmax(peer *p, const case_row *r) {
    dnnl_memory_desc_t x = plain(PA_TYPE_F32, r->rows, r->vocab);
    dnnl_logsoftmax_desc_t d;
    if (dnnl_logsoftmax_forward_desc_init(&d, dnnl_forward_training, &x, 1)) p->failed = true;
    step(p, &d);
    operand(p, DNNL_ARG_SRC);
    operand(p, DNNL_ARG_DST);
    return "log-softmax forward only";
}

// One head, every pair: scores, softmax, product with the values.
static const char *make_attention(peer *p, const case_row *r) {
    int keys = r->kept + r->latents;
    dnnl_memory_desc_t q = plain(r->type, r->latents, r->dim_head), k = any(r->type, r->dim_head, keys),
                       s = plain(r->type, r->latents, keys);
    dnnl_memory_desc_t v = any(r->type, keys, r->dim_head);
    dnnl_matmul_desc_t first, last;
    dnnl_softmax_desc_t middle;
    if (dnnl_matmul_desc_init(&first, &q, &k, NULL, &s) || dnnl_matmul_desc_init(&last, &s, &v, NULL, &q) ||
        dnnl_softmax_forward_desc_init(&middle, dnnl_forward_inference, &s, 1))
        p->failed = true;
    step(p, &first);
    operand(p, DNNL_ARG_SRC);
    operand(p, DNNL_ARG_WEIGHTS);
    dnnl_memory_t scores = operand(p, DNNL_ARG_DST);
    step(p, &middle);
    if (scores) {
        give(p, DNNL_ARG_SRC, scores);
        give(p, DNNL_ARG_DST, scores);
    }
    step(p, &last);
    if (scores) give(p, DNNL_ARG_SRC, scores);
    operand(p, DNNL_ARG_WEIGHTS);
    operand(p, DNNL_ARG_DST);
    return "scores in memory; all pairs, masked or not";
}

static pa_status execute(void *what, pa_err *err) {
    peer *p = what;
    for (int i = 0; i < p->steps; i++)
        if (dnnl_primitive_execute(p->primitive[i], p->stream, p->arguments[i], p->argument[i]))
            return pa_error(err, PA_FAIL, "oneDNN: a primitive to compare with failed");
    return dnnl_stream_wait(p->stream) ? pa_error(err, PA_FAIL, "oneDNN: waiting failed") : PA_OK;
}

pa_status bench_onednn(const case_row *row, bench_effort effort, bool *has, bench_time *t, const char **note,
                       pa_err *err) {
    peer p = {0};
    double times = 1;
    *has = false;
    *note = "";
    if (dnnl_engine_create(&p.engine, dnnl_cpu, 0) ||
        dnnl_stream_create(&p.stream, p.engine, dnnl_stream_default_flags))
        p.failed = true;
    bool gelu = row->activation == PA_GELU;
    if (row->kind == CASE_MATMUL)
        *note = make_matmul(&p, &row->product);
    else if (row->kind == CASE_LAYERNORM_FWD)
        *note = make_layernorm(&p, row);
    else if (gelu && (row->kind == CASE_ACTIVATION_FWD || row->kind == CASE_ACTIVATION_BWD))
        *note = make_gelu(&p, row, row->kind == CASE_ACTIVATION_BWD);
    else if (row->kind == CASE_CROSS_ENTROPY)
        *note = make_softmax(&p, row);
    else if (row->kind == CASE_ATTENTION_FWD)
        *note = make_attention(&p, row), times = row->heads * row->batch;
    else
        p.missing = true;
    pa_status s = p.failed ? pa_error(err, PA_FAIL, "oneDNN: no primitive for %s", row->name) : PA_OK;
    if (!s && !p.missing) {
        s = bench_measure(&(bench_job){.work = execute, .what = &p}, effort, t, err);
        t->median *= times;
        t->low *= times;
        t->high *= times;
        *has = !s;
    }
    for (int i = 0; i < STEPS; i++) {
        if (p.primitive[i]) dnnl_primitive_destroy(p.primitive[i]);
        if (p.pd[i]) dnnl_primitive_desc_destroy(p.pd[i]);
    }
    for (int i = 0; i < p.memories; i++) dnnl_memory_destroy(p.memory[i]);
    if (p.stream) dnnl_stream_destroy(p.stream);
    if (p.engine) dnnl_engine_destroy(p.engine);
    return s;
}
