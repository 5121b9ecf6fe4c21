// open.c: the CPU backend's memory: every arena is sized, printed and taken here, and nowhere else. Also tensors in and out.
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/context.h"

#define F32(count) pa_arena_take(a, (size_t)(count), 4)
#define ACT(count) pa_arena_take(a, (size_t)(count), cpu_size(c->type))

static cpu_attn attention_limits(const pa_context *c, int batch, int latents, int kept) {
    const pa_model *m = &c->params->model;
    return (cpu_attn){.type = c->type, .batch = batch, .latents = latents, .kept = kept, .heads = m->heads, .dim_head = m->dim_head};
}

static void layout_activations(pa_context *c, pa_arena *a, size_t B, size_t N, size_t K) {
    const pa_model *m = &c->params->model;
    size_t C = (size_t)m->dim, R = B * N, Q = B * K, R2 = (size_t)pa_rotary_dims(m) / 2;
    c->rotary_table = F32((size_t)m->context * R2 * 2);
    c->token = pa_arena_take(a, Q + R, 4), c->position = pa_arena_take(a, Q + R, 4);
    c->xp = F32(Q * C);
    pa_layout_blocks(a, &c->open, cpu_size(c->type), B, N, K, c->z, c->saved);
    c->y = F32(R * C);
    c->zf = ACT(R * C);
    c->mean_f = F32(R), c->rstd_f = F32(R);
    c->logits = F32(R * (size_t)m->vocab), c->nats = F32(R);
    cpu_attn cross = attention_limits(c, (int)B, (int)N, (int)K), self = attention_limits(c, (int)B, (int)N, 0);
    size_t work = c->ops->attn_work(&cross, c->threads), other = c->ops->attn_work(&self, c->threads);
    size_t norm = (size_t)c->threads * 2 * (C > (size_t)m->dim_head ? C : (size_t)m->dim_head) * 4;
    if (other > work) work = other;
    c->work = pa_arena_take(a, work > norm ? work : norm, 1);
}

static void layout_backward(pa_context *c, pa_arena *a, size_t B, size_t N, size_t K) {
    const pa_model *m = &c->params->model;
    size_t C = (size_t)m->dim, I = (size_t)pa_inner(m), R = B * N, Q = B * K;
    c->dz = F32(R * C), c->dxp = F32(Q * C);
    c->dza = ACT(R * C), c->dxn = ACT((Q + R) * C);
    c->dff = ACT(R * (size_t)pa_ff(m));
    c->dq = ACT(R * 3 * I), c->dkv = ACT((Q + R) * 2 * I), c->dout = ACT(R * I);
    c->dlogits = ACT(R * (size_t)m->vocab);
}

static void layout_caches(pa_context *c, pa_arena *a) {
    const pa_model *m = &c->params->model;
    pa_layout_caches(a, &c->open, cpu_size(c->type), c->cache);
    c->step = F32(cpu_step_floats(c));
    size_t attention = c->ops->attn_decode_work(c->open.streams, m->heads, m->dim_head, m->context, c->threads);
    size_t longest = (size_t)(pa_ff(m) > pa_inner(m) ? pa_ff(m) : pa_inner(m)), product = (size_t)c->open.streams * longest * 4;
    c->step_work = pa_arena_take(a, attention > product ? attention : product, 1);
}

// What the widest product needs; sizes of weights' rows and columns, 3 I and the vocabulary among them.
static void widest(const pa_context *c, size_t *row, size_t *matrix) {
    const pa_params *p = c->params;
    *row = *matrix = 0;
    for (int t = 0; t < p->count; t++) {
        const pa_param *w = &p->row[t];
        if (w->rank != 2 || t == p->pos_emb) continue;
        if (w->size > *matrix) *matrix = w->size;
        for (int i = 0; i < 2; i++)
            if ((size_t)w->shape[i] > *row) *row = (size_t)w->shape[i];
    }
}

static void layout(pa_context *c) {
    const pa_model *m = &c->params->model;
    pa_arena *a = c->arena;
    size_t n = c->params->floats, B = (size_t)c->open.max_batch;
    if (c->open.streams && !B) B = 1;
    pa_arenas_begin(a, 64);
    c->param = pa_arena_take(&a[ARENA_PARAMETERS], n, 4);
    c->weight = pa_arena_take(&a[ARENA_WEIGHTS], c->type == CPU_BF16 ? n : 0, 2);
    if (c->open.int8) {
        size_t rows = pa_layout_scales(c->params, c->scale_at);
        c->weight8 = pa_arena_take(&a[ARENA_INT8], n, 1), c->scale = pa_arena_take(&a[ARENA_INT8], rows, 4);
    }
    if (c->open.training) {
        c->grad = pa_arena_take(&a[ARENA_GRADIENTS], n, 4);
        size_t own = c->shared ? pa_comm_share_floats(c->open.comm, n) : n;
        c->moment1 = pa_arena_take(&a[ARENA_MOMENTS], own, 4), c->moment2 = pa_arena_take(&a[ARENA_MOMENTS], own, 4);
    }
    if (B) layout_activations(c, &a[ARENA_ACTIVATIONS], B, (size_t)(m->context - m->prefix), (size_t)m->prefix);
    if (B && c->open.training) layout_backward(c, &a[ARENA_BACKWARD], B, (size_t)(m->context - m->prefix), (size_t)m->prefix);
    if (c->open.streams) layout_caches(c, &a[ARENA_CACHES]);
    size_t row, matrix;
    widest(c, &row, &matrix);
    bool widens = B && c->type == CPU_BF16 && cpu_matmul_widens(c->ops);
    c->room = pa_arena_take(&a[ARENA_WORKSPACE], widens ? cpu_matmul_room(row, matrix) : 0, 1);
}

static void print_plan(const pa_context *c, FILE *out) {
    char device[64];
    snprintf(device, sizeof device, "the CPU (%s, %d threads)", c->ops->name, c->threads);
    pa_arenas_print(c->arena, c->type == CPU_BF16 ? "bf16" : "fp32", device, out);
}

static pa_status take_arenas(pa_context *c, pa_err *err) {
    double have = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE), need = (double)pa_arenas_total(c->arena);
    if (need > have)
        return pa_error(
            err, PA_FAIL,
            "memory: the plan needs %.1f GB, this machine has %.1f GB; try train.recompute = true or a smaller train.micro_batch",
            need / 1e9, have / 1e9);
    for (int i = 0; i < ARENAS; i++) {
        pa_arena *a = &c->arena[i];
        a->size = a->used;
        if (!a->size) continue;
        a->base = mmap(NULL, a->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (a->base == MAP_FAILED) {
            a->base = NULL;
            return pa_error(err, PA_FAIL, "memory: arena %s: no room for %.1f MB", pa_arena_name(i), (double)a->size / 1e6);
        }
        madvise(a->base, a->size, MADV_HUGEPAGE); // fewer page walks; not there on every kernel, and not needed
    }
    layout(c);
    return PA_OK;
}

static void fill_rotary(pa_context *c) {
    const pa_model *m = &c->params->model;
    int half = pa_rotary_dims(m) / 2;
    if (!c->rotary_table) return;
#pragma omp parallel for
    for (int p = 0; p < m->context; p++)
        for (int j = 0; j < half; j++) {
            double angle = p * pow(10000, -(double)j / half);
            c->rotary_table[((size_t)p * (size_t)half + (size_t)j) * 2] = (float)cos(angle);
            c->rotary_table[((size_t)p * (size_t)half + (size_t)j) * 2 + 1] = (float)sin(angle);
        }
}

static void cpu_close(pa_context *c) {
    if (!c) return;
    for (int i = 0; i < ARENAS; i++)
        if (c->arena[i].base) munmap(c->arena[i].base, c->arena[i].size);
    cpu_matmul_destroy(c->mm);
    free(c->saved), free(c->scale_at);
    free(c->cache);
    free(c->z);
    free(c);
}

static pa_status choose_type(pa_context *c, pa_err *err) {
    if (!(c->ops = cpu_ops_select(getenv("PATRAIN_ISA"))))
        return pa_error(err, PA_USAGE,
                        "PATRAIN_ISA: expected an instruction set of this processor (generic, avx2, avx512, avx512_bf16), found \"%s\"",
                        getenv("PATRAIN_ISA"));
    switch (c->open.precision) {
    case PA_PRECISION_FP16:
        return pa_error(err, PA_USAGE, "precision: fp16 is for GPUs; on the CPU expected auto, fp32 or bf16");
    case PA_PRECISION_AUTO:
        // Generation waits for memory, which bf16 halves; everything else gains only where the processor multiplies bf16.
        c->type = !cpu_matmul_widens(c->ops) || (c->open.streams && !c->open.training) ? CPU_BF16 : CPU_F32;
        break;
    default:
        c->type = c->open.precision == PA_PRECISION_BF16 ? CPU_BF16 : CPU_F32;
    }
    return PA_OK;
}

static pa_status cpu_open(pa_context **out, const pa_open *o, pa_err *err) {
    *out = NULL;
    pa_context *c = calloc(1, sizeof *c);
    if (!c) return pa_error(err, PA_FAIL, "no memory");
    c->open = *o;
    c->params = o->params;
    c->shared = o->zero && o->comm->size > 1;
    c->threads = omp_get_max_threads();
    c->softmax_scale = 1 / sqrtf((float)o->params->model.dim_head);
    c->blocks = o->params->model.perceive_depth + o->params->model.depth;
    c->saved = calloc((size_t)c->blocks, sizeof *c->saved);
    c->cache = calloc((size_t)c->blocks, sizeof *c->cache);
    c->z = calloc((size_t)c->blocks + 1, sizeof *c->z);
    c->scale_at = calloc((size_t)o->params->count, sizeof *c->scale_at);
    pa_status s = c->saved && c->cache && c->z && c->scale_at ? choose_type(c, err) : pa_error(err, PA_FAIL, "no memory");
    if (!s && o->int8 && o->training) s = pa_error(err, PA_USAGE, "weights of 8 bits are for evaluation and generation, not for training");
    if (s) goto done;
    layout(c);
    if (o->plan) print_plan(c, o->plan);
    if (o->plan_only) goto done;
    size_t row, matrix;
    widest(c, &row, &matrix);
    if ((s = take_arenas(c, err)) || (s = cpu_matmul_create(&c->mm, c->ops, c->room, row, matrix, err))) goto done;
    fill_rotary(c);
    *out = c;
    return PA_OK;
done:
    cpu_close(c);
    return s;
}

static bool is_moment(pa_kind kind) {
    return kind == PA_MOMENT1 || kind == PA_MOMENT2;
}

static float *moments(pa_context *c, pa_kind kind) {
    return kind == PA_MOMENT1 ? c->moment1 : c->moment2;
}

static float *tensor(pa_context *c, pa_kind kind, int t) {
    float *base = kind == PA_PARAM ? c->param : kind == PA_GRAD ? c->grad : moments(c, kind);
    return base && t >= 0 && t < c->params->count ? base + c->params->row[t].offset : NULL;
}

static pa_status cpu_read(pa_context *c, pa_kind kind, int t, float *out, pa_err *err) {
    const float *from = tensor(c, kind, t);
    if (!from) return pa_error(err, PA_USAGE, "read: no tensor %d of kind %d here", t, (int)kind);
    if (c->shared && is_moment(kind)) {
        const pa_param *row = &c->params->row[t];
        return pa_comm_gather_part(c->open.comm, moments(c, kind), c->params->floats, row->offset, row->offset + row->size, out, err);
    }
    memcpy(out, from, c->params->row[t].size * 4);
    return PA_OK;
}

static pa_status cpu_write(pa_context *c, pa_kind kind, int t, const float *in, pa_err *err) {
    float *to = tensor(c, kind, t);
    if (!to) return pa_error(err, PA_USAGE, "write: no tensor %d of kind %d here", t, (int)kind);
    if (c->shared && is_moment(kind)) {
        const pa_param *row = &c->params->row[t];
        pa_comm_keep_part(c->open.comm, moments(c, kind), c->params->floats, row->offset, row->offset + row->size, in);
        return PA_OK;
    }
    memcpy(to, in, c->params->row[t].size * 4);
    if (kind == PA_PARAM) c->weight_stale = true;
    return PA_OK;
}

// q = round(w / scale), scale = max |w| of the row / 127; the parameters become what that stands for, so that evaluation and prefill
// compute with the weights that decoding reads.
static void round_weights(pa_context *c, int t) {
    const pa_param *tensor = &c->params->row[t];
    int rows = (int)tensor->shape[0], in = (int)tensor->shape[1];
#pragma omp parallel for schedule(static)
    for (int r = 0; r < rows; r++) {
        size_t at = tensor->offset + (size_t)r * (size_t)in;
        float *w = c->param + at, most = 0;
        for (int i = 0; i < in; i++) most = fabsf(w[i]) > most || isnan(w[i]) ? fabsf(w[i]) : most; // NaN stays
        float scale = most / 127, inverse = most > 1e-30f ? 127 / most : 0;                         // else not a number of 8 bits
        for (int i = 0; i < in; i++) {
            float q = w[i] * inverse;
            c->weight8[at + (size_t)i] = (int8_t)(isnan(q) ? 0 : lrintf(q));
            w[i] = scale * c->weight8[at + (size_t)i];
        }
        c->scale[c->scale_at[t] + r] = scale;
    }
}

void cpu_refresh_weights(pa_context *c) {
    for (int t = 0; c->weight8 && c->weight_stale && t < c->params->count; t++)
        if (c->scale_at[t] >= 0) round_weights(c, t);
    if (c->weight && c->weight_stale) c->ops->cast(CPU_BF16, c->weight, c->param, c->params->floats);
    c->weight_stale = false;
}

static size_t cpu_memory(const pa_context *c) {
    return pa_arenas_total(c->arena);
}

static pa_precision cpu_precision(const pa_context *c) {
    return c->type == CPU_BF16 ? PA_PRECISION_BF16 : PA_PRECISION_FP32;
}

// The best of a few products of 1536^3, the size from which oneDNN is at its peak with a weight as layers have it (the other way round
// float32 of AVX-512 is a third slower at this size), of float32 where bf16 is widened to it; 0 where that fails.
static double cpu_peak(pa_context *c) {
    enum { n = 1536 };
    void *a = pa_alloc((size_t)n * n * 4), *b = pa_alloc((size_t)n * n * 4), *y = pa_alloc((size_t)n * n * 4);
    cpu_type type = cpu_matmul_widens(c->ops) ? CPU_F32 : c->type;
    cpu_product p = {.m = n, .n = n, .k = n, .a = type, .b = type, .c = type, .b_t = true};
    for (int i = 0; i < 4 && a && b && y; i++) {
        double start = pa_clock();
        if (cpu_matmul_run(c->mm, &p, a, b, y, NULL)) break;
        double rate = 2.0 * n * n * n / (pa_clock() - start);
        if (rate > c->peak) c->peak = rate;
    }
    free(a), free(b), free(y);
    return c->peak;
}

static void cpu_describe(const pa_context *c, pa_hardware *device) {
    *device = (pa_hardware){.threads = c->threads};
    snprintf(device->instruction_set, sizeof device->instruction_set, "%s", c->ops->name);
}

static pa_status cpu_present(pa_err *err) {
    (void)err;
    return PA_OK;
}

const pa_backend *pa_backend_cpu(void) {
    static const pa_backend backend = {.name = "cpu",
                                       .present = cpu_present,
                                       .open = cpu_open,
                                       .close = cpu_close,
                                       .read = cpu_read,
                                       .write = cpu_write,
                                       .loss = cpu_loss,
                                       .loss_grad = cpu_loss_grad,
                                       .update = cpu_update,
                                       .prefill = cpu_prefill,
                                       .decode = cpu_decode,
                                       .memory = cpu_memory,
                                       .peak = cpu_peak,
                                       .describe = cpu_describe,
                                       .precision = cpu_precision};
    return &backend;
}
