// trace.c: see trace.h. The measured step is never a captured graph, whose operations have no times of their own.
#include "host/model/trace.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "host/model/trace_report.h"

enum { MEASURED = 5 }; // step or token; before it plans are made, choices timed and graphs captured

typedef struct {
    const pa_ops *ops; // the backend's
    pa_device *device;
    pa_device_info info;
    pa_ops table;
    const char *name; // of the files
    bool on, begins, ends;
    bool decodes; // what is measured is a token
    int updates, tokens;
    double clock; // when the call at hand began
    pa_trace_call *call;
    int calls, capacity;
    pa_status failed;
    pa_err why;
} trace;

static trace *of(pa_device *d) {
    return (trace *)d;
}

static void mark(trace *t, int i) {
    if (t->info.mark && !t->failed) t->failed = t->info.mark(t->device, i, &t->why);
}

static pa_device *enter(trace *t) {
    if (t->on) t->clock = pa_clock();
    return t->device;
}

// After a call: what it did, and how many flop or bytes that takes at least.
__attribute__((format(printf, 5, 6))) static void leave(trace *t, const char *name, double flop, double bytes,
                                                        const char *format, ...) {
    if (!t->on) return;
    if (t->calls == t->capacity) {
        int capacity = t->capacity ? 2 * t->capacity : 512;
        pa_trace_call *grown = realloc(t->call, (size_t)capacity * sizeof *grown);
        if (!grown) {
            t->failed = pa_error(&t->why, PA_FAIL, "no memory for a trace of %d operations", capacity);
            return;
        }
        t->call = grown;
        t->capacity = capacity;
    }
    pa_trace_call *c = &t->call[t->calls++];
    *c = (pa_trace_call){.name = name, .flop = flop, .bytes = bytes, .begins = t->clock, .returns = pa_clock()};
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(c->shape, sizeof c->shape, format, arguments);
    va_end(arguments);
    mark(t, t->calls);
}

static void begin(trace *t, bool decodes) {
    t->on = true;
    t->decodes = decodes;
    t->calls = 0;
    mark(t, 0);
}

// All operations are done.
static pa_status finish(trace *t, pa_err *err) {
    t->on = t->ends = false;
    if (t->failed) {
        if (err) *err = t->why;
        return t->failed;
    }
    for (int i = 0; i < t->calls; i++)
        t->call[i].done = t->info.mark ? t->info.marked(t->device, i + 1) : t->call[i].returns - t->call[0].begins;
    const char *what = t->decodes ? "token" : "step";
    return pa_trace_report(t->name, t->ops->name, what, t->call, t->calls, err);
}

static double numbers(int rows, int columns) {
    return (double)rows * columns;
}

// Pairs of a query and a key that it sees, of all heads.
static double pairs(const pa_attn *a) {
    return numbers(a->batch, a->heads) * (numbers(a->latents, a->kept) + a->latents * (a->latents + 1.0) / 2);
}
static void attn_fwd(pa_device *d, const pa_attn *a, void *o, float *lse, pa_work work) {
    of(d)->ops->attn_fwd(enter(of(d)), a, o, lse, work);
    leave(of(d), "attn_fwd", 4 * a->dim_head * pairs(a), 0, "B %d N %d K %d H %d D %d", a->batch, a->latents, a->kept,
          a->heads, a->dim_head);
}
static void attn_bwd(pa_device *d, const pa_attn *a, const pa_attn_grads *g, pa_work work) {
    of(d)->ops->attn_bwd(enter(of(d)), a, g, work);
    leave(of(d), "attn_bwd", 8 * a->dim_head * pairs(a), 0, "B %d N %d K %d H %d D %d", a->batch, a->latents, a->kept,
          a->heads, a->dim_head);
}
static size_t attn_work(pa_device *d, const pa_attn *a, bool back) {
    return of(d)->ops->attn_work(of(d)->device, a, back);
}
static void attn_decode(pa_device *d, const pa_attn_decode *a) {
    of(d)->ops->attn_decode(enter(of(d)), a);
    leave(of(d), "attn_decode", 0, 0, "S %d H %d D %d of %d", a->streams, a->heads, a->dim_head, a->capacity);
}
static size_t decode_work(pa_device *d, int streams, int heads, int dim_head, int capacity) {
    return of(d)->ops->decode_work(of(d)->device, streams, heads, dim_head, capacity);
}
static pa_status cache_rows(pa_device *d, const pa_cache_rows *a, pa_err *err) {
    pa_status s = of(d)->ops->cache_rows(enter(of(d)), a, err);
    leave(of(d), "cache_rows", 0, 4 * (double)pa_size(a->type) * numbers(a->rows, a->heads * a->dim_head), "%d x %d",
          a->rows, a->heads * a->dim_head);
    return s;
}
static void embed_fwd(pa_device *d, float *x, const pa_embed *a) {
    of(d)->ops->embed_fwd(enter(of(d)), x, a); // counted as if no slot were empty
    leave(of(d), "embed_fwd", 0, (12 + 4 * a->slots) * numbers(a->rows, a->C), "%d x %d", a->rows, a->C);
}
static void embed_bwd(pa_device *d, const pa_embed_grads *a) {
    of(d)->ops->embed_bwd(enter(of(d)), a);
    leave(of(d), "embed_bwd", 0, (20 + 8 * a->slots) * numbers(a->rows, a->C), "%d x %d", a->rows, a->C);
}
static void add_rows(pa_device *d, const pa_add_rows *a) {
    of(d)->ops->add_rows(enter(of(d)), a);
    leave(of(d), "add_rows", numbers(a->rows, a->C), (4 + 2 * (double)pa_size(a->type)) * numbers(a->rows, a->C),
          "%d x %d", a->rows, a->C);
}
static void add_rows_bwd(pa_device *d, const pa_add_rows_grads *a) {
    of(d)->ops->add_rows_bwd(enter(of(d)), a);
    leave(of(d), "add_rows_bwd", numbers(a->rows, a->C), (8 + (double)pa_size(a->type)) * numbers(a->rows, a->C),
          "%d x %d", a->rows, a->C);
}
static void layernorm_fwd(pa_device *d, const pa_layernorm *a) {
    of(d)->ops->layernorm_fwd(enter(of(d)), a);
    leave(of(d), "layernorm_fwd", 0, ((a->r ? 12 : 4) + (double)pa_size(a->type)) * numbers(a->rows, a->C),
          "%d x %d%s%s", a->rows, a->C, a->r ? " + r" : "", a->bias ? " + bias" : "");
}
static void layernorm_bwd(pa_device *d, const pa_layernorm_grads *a) {
    of(d)->ops->layernorm_bwd(enter(of(d)), a);
    leave(of(d), "layernorm_bwd", 0, (12 + (a->dx_copy ? 2 : 1) * (double)pa_size(a->type)) * numbers(a->rows, a->C),
          "%d x %d", a->rows, a->C);
}
static void head_norm_fwd(pa_device *d, const pa_head_norm *a) {
    of(d)->ops->head_norm_fwd(enter(of(d)), a);
    leave(of(d), "head_norm_fwd", 0, 2 * (double)pa_size(a->type) * numbers(a->rows, a->H * a->D), "%d x %d x %d",
          a->rows, a->H, a->D);
}
static void head_norm_bwd(pa_device *d, const pa_head_norm_grads *a) {
    of(d)->ops->head_norm_bwd(enter(of(d)), a);
    leave(of(d), "head_norm_bwd", 0, 3 * (double)pa_size(a->type) * numbers(a->rows, a->H * a->D), "%d x %d x %d",
          a->rows, a->H, a->D);
}
static size_t norm_work(pa_device *d, int width) {
    return of(d)->ops->norm_work(of(d)->device, width);
}
static void rotary(pa_device *d, const pa_rotary *a) {
    of(d)->ops->rotary(enter(of(d)), a);
    leave(of(d), "rotary", 0, 2 * (double)pa_size(a->type) * numbers(a->rows, a->H * a->dims), "%d x %d x %d", a->rows,
          a->H, a->dims);
}
static void activation_fwd(pa_device *d, const pa_activate *a) {
    of(d)->ops->activation_fwd(enter(of(d)), a);
    leave(of(d), "activation_fwd", 0, 2 * (double)pa_size(a->type) * numbers(a->rows, a->F), "%d x %d", a->rows, a->F);
}
static void activation_bwd(pa_device *d, const pa_activate *a) {
    of(d)->ops->activation_bwd(enter(of(d)), a);
    leave(of(d), "activation_bwd", 0, 3 * (double)pa_size(a->type) * numbers(a->rows, a->F), "%d x %d", a->rows, a->F);
}
static void cross_entropy(pa_device *d, const pa_cross_entropy *a) {
    of(d)->ops->cross_entropy(enter(of(d)), a);
    leave(of(d), "cross_entropy", 0, (4 + (a->dlogits ? (double)pa_size(a->type) : 0)) * numbers(a->rows, a->V),
          "%d x %d", a->rows, a->V);
}
static void sum(pa_device *d, double *to, double *total, const float *x, size_t n) {
    of(d)->ops->sum(enter(of(d)), to, total, x, n);
    leave(of(d), "sum", 0, 4 * (double)n, "%zu", n);
}
static void sum_squares(pa_device *d, double *to, const float *x, size_t n, void *work) {
    of(d)->ops->sum_squares(enter(of(d)), to, x, n, work);
    leave(of(d), "sum_squares", 0, 4 * (double)n, "%zu", n);
}
static size_t sum_work(pa_device *d) {
    return of(d)->ops->sum_work(of(d)->device);
}
static void adam(pa_device *d, const pa_adam *a) {
    of(d)->ops->adam(enter(of(d)), a);
    leave(of(d), "adam", 0, (28 + (a->copy ? (double)pa_size(a->type) : 0)) * (double)(a->to - a->from), "%zu",
          a->to - a->from);
}
static void momentum(pa_device *d, const pa_momentum *a) {
    of(d)->ops->momentum(enter(of(d)), a);
    leave(of(d), "momentum", 0, 16 * (double)a->n, "%zu", a->n);
}
static void normalise(pa_device *d, const pa_normalise *a) {
    of(d)->ops->normalise(enter(of(d)), a);
    leave(of(d), "normalise", 0, (4 + (double)pa_size(a->type)) * numbers(a->rows, a->columns), "%d x %d", a->rows,
          a->columns);
}
static void polynomial(pa_device *d, const pa_polynomial *a) {
    of(d)->ops->polynomial(enter(of(d)), a);
    leave(of(d), "polynomial", 0, 3 * (double)pa_size(a->type) * numbers(a->n, a->n), "%d x %d", a->n, a->n);
}
static void muon(pa_device *d, const pa_muon *a) {
    of(d)->ops->muon(enter(of(d)), a);
    leave(of(d), "muon", 0, (8 + 2 * (double)pa_size(a->type)) * numbers(a->rows, a->columns), "%d x %d", a->rows,
          a->columns);
}
static void cast(pa_device *d, pa_type type, void *y, const float *x, size_t n) {
    of(d)->ops->cast(enter(of(d)), type, y, x, n);
    leave(of(d), "cast", 0, (4 + (double)pa_size(type)) * (double)n, "%zu", n);
}
static void widen(pa_device *d, pa_type type, float *y, const void *x, size_t n) {
    of(d)->ops->widen(enter(of(d)), type, y, x, n);
    leave(of(d), "widen", 0, (4 + (double)pa_size(type)) * (double)n, "%zu", n);
}
static void column_sum(pa_device *d, float *to, const float *x, int rows, int C, void *work) {
    of(d)->ops->column_sum(enter(of(d)), to, x, rows, C, work);
    leave(of(d), "column_sum", 0, 4 * numbers(rows, C), "%d x %d", rows, C);
}
static pa_status product(pa_device *d, const pa_product *p, const void *a, const void *b, void *c, pa_err *err) {
    pa_status s = of(d)->ops->product(enter(of(d)), p, a, b, c, err);
    leave(of(d), "product", 2 * numbers(p->m, p->n) * p->k, 0, "%d x %d x %d %s%s%s", p->m, p->n, p->k,
          p->a_t ? "t" : "n", p->b_t ? "t" : "n", p->add ? " +=" : "");
    return s;
}
static void gemv(pa_device *d, const pa_gemv *a) {
    of(d)->ops->gemv(enter(of(d)), a);
    leave(of(d), "gemv", 0, (double)pa_size(a->type) * numbers(a->in, a->out), "S %d %d x %d%s%s%s", a->streams, a->out,
          a->in, a->norm_w ? " norm" : "", a->activates ? " activation" : "", a->adds ? " +=" : "");
}
static void gemv_int8(pa_device *d, const pa_gemv *a) {
    of(d)->ops->gemv_int8(enter(of(d)), a);
    leave(of(d), "gemv_int8", 0, numbers(a->in, a->out), "S %d %d x %d%s%s%s", a->streams, a->out, a->in,
          a->norm_w ? " norm" : "", a->activates ? " activation" : "", a->adds ? " +=" : "");
}
static void round_int8(pa_device *d, int8_t *q, float *scale, float *w, int rows, int in) {
    of(d)->ops->round_int8(enter(of(d)), q, scale, w, rows, in);
    leave(of(d), "round_int8", 0, 9 * numbers(rows, in), "%d x %d", rows, in);
}

static pa_status start(pa_device *d, pa_err *err) {
    return of(d)->ops->start(of(d)->device, err);
}
static pa_status take(pa_device *d, const char *arena, size_t bytes, size_t plan, void **base, pa_err *err) {
    return of(d)->ops->take(of(d)->device, arena, bytes, plan, base, err);
}
static void give(pa_device *d, void *base, size_t bytes) {
    of(d)->ops->give(of(d)->device, base, bytes);
}
static pa_status take_host(pa_device *d, size_t bytes, void **base, pa_err *err) {
    return of(d)->ops->take_host(of(d)->device, bytes, base, err);
}
static void give_host(pa_device *d, void *base) {
    of(d)->ops->give_host(of(d)->device, base);
}
static pa_status ready(pa_device *d, void *workspace, pa_err *err) {
    return of(d)->ops->ready(of(d)->device, workspace, err);
}
static void close_device(pa_device *d) {
    of(d)->ops->close(of(d)->device);
    free(of(d)->call);
    free(of(d));
}

static pa_status clear(pa_device *d, void *to, size_t bytes, pa_err *err) {
    pa_status s = of(d)->ops->clear(enter(of(d)), to, bytes, err);
    leave(of(d), "clear", 0, (double)bytes, "%zu bytes", bytes);
    return s;
}
static pa_status copy(pa_device *d, void *to, const void *from, size_t bytes, pa_err *err) {
    pa_status s = of(d)->ops->copy(enter(of(d)), to, from, bytes, err);
    leave(of(d), "copy", 0, 2 * (double)bytes, "%zu bytes", bytes);
    return s;
}
static pa_status upload(pa_device *d, void *to, const void *from, size_t bytes, pa_err *err) {
    pa_status s = of(d)->ops->upload(enter(of(d)), to, from, bytes, err);
    leave(of(d), "upload", 0, (double)bytes, "%zu bytes", bytes);
    return s;
}
static pa_status download(pa_device *d, void *to, const void *from, size_t bytes, pa_err *err) {
    pa_status s = of(d)->ops->download(enter(of(d)), to, from, bytes, err);
    leave(of(d), "download", 0, (double)bytes, "%zu bytes", bytes);
    return s;
}
static pa_status wait_for_all(pa_device *d, const char *what, pa_err *err) {
    trace *t = of(d);
    pa_status s = t->ops->wait(t->device, what, err);
    if (!s && t->ends) return finish(t, err);
    if (!s && t->begins) {
        t->begins = false;
        begin(t, false);
    }
    return s;
}

static pa_status slot_wait(pa_device *d, int slot, pa_err *err) {
    return of(d)->ops->slot_wait(of(d)->device, slot, err);
}
static pa_status slot_send(pa_device *d, int slot, void *to, const void *from, size_t bytes, pa_err *err) {
    return of(d)->ops->slot_send(of(d)->device, slot, to, from, bytes, err);
}
static pa_status slot_take(pa_device *d, int slot, void *to, const void *from, size_t bytes, pa_err *err) {
    pa_status s = of(d)->ops->slot_take(enter(of(d)), slot, to, from, bytes, err);
    leave(of(d), "slot_take", 0, 2 * (double)bytes, "%zu bytes", bytes);
    return s;
}
static pa_status slot_free(pa_device *d, int slot, pa_err *err) {
    return of(d)->ops->slot_free(of(d)->device, slot, err);
}

static pa_status replay(pa_device *d, const pa_step *step, pa_status (*work)(void *, pa_err *), void *what,
                        pa_err *err) {
    trace *t = of(d);
    if (step->kind == PA_STEP_UPDATE) {
        t->updates++;
        t->begins = t->updates == MEASURED - 1;
        t->ends = t->on;
    } else if (step->kind == PA_STEP_DECODE && ++t->tokens == MEASURED) {
        begin(t, true);
        t->ends = true;
    }
    if (t->on || !t->ops->replay) return work(what, err);
    return t->ops->replay(t->device, step, work, what, err);
}

static pa_status sum_begin(pa_device *d, float *grad, float *own, size_t count, bool scatter, pa_err *err) {
    return of(d)->ops->sum_begin(of(d)->device, grad, own, count, scatter, err);
}
static pa_status sum_ready(pa_device *d, size_t from, pa_err *err) {
    pa_status s = of(d)->ops->sum_ready(enter(of(d)), from, err);
    leave(of(d), "sum_ready", 0, 0, "from %zu", from);
    return s;
}
static pa_status sum_end(pa_device *d, pa_err *err) {
    pa_status s = of(d)->ops->sum_end(enter(of(d)), err);
    leave(of(d), "sum_end", 0, 0, "all");
    return s;
}
static pa_status sum_f64(pa_device *d, double *x, pa_err *err) {
    pa_status s = of(d)->ops->sum_f64(enter(of(d)), x, err);
    leave(of(d), "sum_f64", 0, 0, "1");
    return s;
}
static pa_status gather(pa_device *d, float *data, size_t count, pa_err *err) {
    pa_status s = of(d)->ops->gather(enter(of(d)), data, count, err);
    leave(of(d), "gather", 0, 0, "%zu", count);
    return s;
}
static pa_status gather_spans(pa_device *d, float *data, const pa_span *spans, pa_err *err) {
    pa_status s = of(d)->ops->gather_spans(enter(of(d)), data, spans, err);
    leave(of(d), "gather_spans", 0, 0, "all");
    return s;
}
static pa_status squares_by_rank(pa_device *d, double *to, const float *grad, size_t count, pa_err *err) {
    pa_status s = of(d)->ops->squares_by_rank(enter(of(d)), to, grad, count, err);
    leave(of(d), "squares_by_rank", 0, 0, "%zu", count);
    return s;
}
static double peak(pa_device *d) {
    return of(d)->ops->peak(of(d)->device);
}

static const pa_ops wrapped = {.attn_fwd = attn_fwd,
                               .attn_bwd = attn_bwd,
                               .attn_work = attn_work,
                               .attn_decode = attn_decode,
                               .decode_work = decode_work,
                               .cache_rows = cache_rows,
                               .embed_fwd = embed_fwd,
                               .embed_bwd = embed_bwd,
                               .add_rows = add_rows,
                               .add_rows_bwd = add_rows_bwd,
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
                               .momentum = momentum,
                               .normalise = normalise,
                               .polynomial = polynomial,
                               .muon = muon,
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
                               .take_host = take_host,
                               .give_host = give_host,
                               .ready = ready,
                               .close = close_device,
                               .clear = clear,
                               .copy = copy,
                               .upload = upload,
                               .download = download,
                               .wait = wait_for_all,
                               .slot_wait = slot_wait,
                               .slot_send = slot_send,
                               .slot_take = slot_take,
                               .slot_free = slot_free,
                               .replay = replay,
                               .sum_begin = sum_begin,
                               .sum_ready = sum_ready,
                               .sum_end = sum_end,
                               .sum_f64 = sum_f64,
                               .gather = gather,
                               .gather_spans = gather_spans,
                               .peak = peak};

pa_status pa_trace_wrap(const pa_ops **ops, pa_device **d, const pa_device_info *info, pa_err *err) {
    const char *name = getenv("PATRAIN_TRACE");
    if (!name || !*name) return PA_OK;
    trace *t = calloc(1, sizeof *t);
    if (!t) return pa_error(err, PA_FAIL, "no memory");
    *t = (trace){.ops = *ops, .device = *d, .info = *info, .table = wrapped, .name = name};
    t->table.name = t->ops->name;
    if (t->ops->squares_by_rank) t->table.squares_by_rank = squares_by_rank;
    *ops = &t->table;
    *d = (pa_device *)t;
    return PA_OK;
}
