// layout.c: what lies where in the CUDA backend's arenas. Takes no memory; mirrors the layout in cpu/open.c.
#include "cuda/context.h"

enum { ALIGN = 256 };
#define F32(count) pa_arena_take(a, (size_t)(count), 4)
#define ACT(count) pa_arena_take(a, (size_t)(count), cuda_size(c->type))

// The largest call, with its keys where a call has them; cross: with a prefix.
static cuda_attn attention_limits(const pa_context *c, bool cross, int batch, int latents, int kept) {
    const pa_model *m = &c->params->model;
    cuda_attn a = {
        .type = c->type, .batch = batch, .latents = latents, .kept = cross ? kept : 0, .heads = m->heads, .dim_head = m->dim_head};
    a.scale = c->softmax_scale, a.ldo = pa_inner(m), a.ldq = cross ? a.ldo : 3 * a.ldo, a.ldkv = cross ? 2 * a.ldo : 3 * a.ldo;
    a.kn = a.vn = (const void *)((uintptr_t)(batch * a.kept) * (uintptr_t)a.ldkv * cuda_size(c->type));
    return a;
}

static size_t work_bytes(const pa_context *c, size_t B, size_t N, size_t K) {
    const pa_model *m = &c->params->model;
    cuda_attn cross = attention_limits(c, true, (int)B, (int)N, (int)K), self = attention_limits(c, false, (int)B, (int)N, 0);
    size_t need[] = {cuda_attend_work(c->attend, &cross, c->open.training), cuda_attend_work(c->attend, &self, c->open.training),
                     cuda_norm_work(m->dim), cuda_norm_work(m->dim_head), cuda_sum_squares_work()};
    size_t most = 0;
    for (size_t i = 0; i < sizeof need / sizeof *need; i++)
        if (need[i] > most) most = need[i];
    return most;
}

static void layout_activations(pa_context *c, pa_arena *a, size_t B, size_t N, size_t K) {
    const pa_model *m = &c->params->model;
    size_t C = (size_t)m->dim, R = B * N, Q = B * K;
    c->xp = F32(Q * C);
    pa_layout_blocks(a, &c->open, cuda_size(c->type), B, N, K, c->z, c->saved);
    c->y = F32(R * C);
    c->zf = ACT(R * C);
    c->mean_f = F32(R), c->rstd_f = F32(R);
    c->logits = F32(R * (size_t)m->vocab), c->nats = F32(R);
    c->best = pa_arena_take(a, R, 2);
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
    int S = c->open.streams;
    pa_layout_caches(a, &c->open, cuda_size(c->type), c->cache);
    c->step = F32(cuda_step_floats(c));
    c->step_in = pa_arena_take(a, 2 + 2 * (size_t)S, 4);
    c->step_work = pa_arena_take(a, cuda_attn_decode_work(S, m->heads, m->dim_head), 1);
}

// At the same offsets in pinned memory and on the device.
static size_t layout_input(cuda_input *in, char *base, size_t B, size_t rows, size_t targets) {
    pa_arena block = {.base = base, .align = ALIGN}, *a = &block;
    in->token = pa_arena_take(a, rows, 4), in->position = pa_arena_take(a, rows, 4);
    in->target = pa_arena_take(a, targets, 2);
    in->window = pa_arena_take(a, B, 8);
    return a->used;
}

static void layout_workspace(pa_context *c, pa_arena *a, size_t B, size_t N, size_t K) {
    const pa_model *m = &c->params->model;
    c->rotary_table = F32((size_t)m->context * (size_t)pa_rotary_dims(m));
    c->decays = pa_arena_take(a, c->open.training ? c->floats / 16 : 0, 1);
    c->input_size = layout_input(&c->in, NULL, B, B * (K + N), B * N);
    char *in = pa_arena_take(a, c->input_size, 1);
    if (in) layout_input(&c->in, in, B, B * (K + N), B * N);
    for (int i = 0; i < 2; i++) c->slot[i].device = pa_arena_take(a, c->input_size, 1);
    c->scalars = pa_arena_take(a, 1, sizeof *c->scalars), c->sums = pa_arena_take(a, CUDA_SUMS, 8);
    c->work_size = work_bytes(c, B, N, K);
    c->work = pa_arena_take(a, c->work_size, 1);
    c->workspace = pa_arena_take(a, CUDA_MATMUL_WORKSPACE, 1);
}

void cuda_layout(pa_context *c) {
    const pa_model *m = &c->params->model;
    pa_arena *a = c->arena;
    size_t n = c->floats, B = (size_t)c->open.max_batch, N = (size_t)(m->context - m->prefix), K = (size_t)m->prefix;
    if (c->open.streams && !B) B = 1;
    pa_arenas_begin(a, ALIGN);
    c->param = pa_arena_take(&a[ARENA_PARAMETERS], n, 4);
    c->weight = pa_arena_take(&a[ARENA_WEIGHTS], c->type == CUDA_F32 ? 0 : n, 2);
    if (c->open.int8) {
        size_t rows = pa_layout_scales(c->params, c->scale_at);
        c->weight8 = pa_arena_take(&a[ARENA_INT8], n, 1), c->scale = pa_arena_take(&a[ARENA_INT8], rows, 4);
    }
    if (c->open.training) {
        c->grad = pa_arena_take(&a[ARENA_GRADIENTS], n, 4);
        c->own_grad = pa_arena_take(&a[ARENA_GRADIENTS], c->shared ? c->own : 0, 4);
        c->moment1 = pa_arena_take(&a[ARENA_MOMENTS], c->own, 4), c->moment2 = pa_arena_take(&a[ARENA_MOMENTS], c->own, 4);
    }
    if (B) layout_activations(c, &a[ARENA_ACTIVATIONS], B, N, K);
    if (B && c->open.training) layout_backward(c, &a[ARENA_BACKWARD], B, N, K);
    if (c->open.streams) layout_caches(c, &a[ARENA_CACHES]);
    layout_workspace(c, &a[ARENA_WORKSPACE], B, N, K);
}

size_t cuda_layout_pinned(pa_context *c, char *base) {
    const pa_model *m = &c->params->model;
    size_t S = (size_t)c->open.streams, B = (size_t)c->open.max_batch, N = (size_t)(m->context - m->prefix), K = (size_t)m->prefix;
    pa_arena block = {.base = base, .align = ALIGN}, *a = &block;
    if (S && !B) B = 1;
    for (int i = 0; i < 2; i++) {
        char *input = pa_arena_take(a, c->input_size, 1);
        if (input) layout_input(&c->slot[i].host, input, B, B * (K + N), B * N);
        c->slot[i].scalars = pa_arena_take(a, 1, sizeof *c->scalars);
    }
    c->host_scalars = pa_arena_take(a, 1, sizeof *c->host_scalars), c->host_sums = pa_arena_take(a, CUDA_SUMS, sizeof *c->host_sums);
    c->host_step_in = pa_arena_take(a, 2 + 2 * S, 4), c->host_logits = pa_arena_take(a, S * (size_t)m->vocab, 4);
    return a->used;
}
