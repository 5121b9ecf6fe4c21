// layout.c: what lies where in the CUDA backend's arenas. Takes no memory; mirrors the layout in cpu/open.c.
#include "cuda/context.h"

static void *take(pa_arena *a, size_t count, size_t size) {
    return pa_arena_take(a, count, size, 256);
}

#define F32(count) take(a, (size_t)(count), 4)
#define ACT(count) take(a, (size_t)(count), cuda_size(c->type))

static void layout_saved(pa_context *c, pa_arena *a, cuda_saved *s, bool cross, float *z_mid, size_t B, size_t N, size_t K) {
    const pa_model *m = &c->params->model;
    size_t C = (size_t)m->dim, I = (size_t)pa_inner(m), F = (size_t)pa_ff(m), H = (size_t)m->heads, R = B * N, Q = cross ? B * K : 0;
    s->zn = ACT((Q + R) * C);
    s->mean = F32(Q + R), s->rstd = F32(Q + R);
    if (cross) {
        s->q = ACT(R * I), s->k = ACT((Q + R) * 2 * I);
        s->v = s->k ? cuda_at(c, s->k, I) : NULL;
    } else {
        s->q = ACT(R * 3 * I);
        s->k = s->q ? cuda_at(c, s->q, I) : NULL, s->v = s->q ? cuda_at(c, s->q, 2 * I) : NULL;
    }
    s->q_rstd = F32(m->qk_norm ? R * H : 0), s->k_rstd = F32(m->qk_norm ? (Q + R) * H : 0);
    s->o = ACT(R * I), s->lse = F32(R * H);
    s->z_mid = z_mid ? z_mid : F32(R * C), s->zn2 = ACT(R * C);
    s->mean2 = F32(R), s->rstd2 = F32(R);
    s->h = ACT(R * F), s->g = ACT(R * F);
}

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

// Blocks whose activations are not kept lie in one place, as large as the largest.
static void layout_activations(pa_context *c, pa_arena *a, size_t B, size_t N, size_t K) {
    const pa_model *m = &c->params->model;
    size_t C = (size_t)m->dim, R = B * N, Q = B * K;
    bool keep_all = c->open.training && !c->open.recompute, keep_inputs = c->open.training;
    c->xp = F32(Q * C);
    for (int i = 0; i <= c->blocks; i++) c->z[i] = keep_inputs || i < 2 ? F32(R * C) : c->z[i - 2];
    // Outside what blocks share: the next block's input is still made from it when that block's own buffers are first written.
    float *z_mid = keep_all ? NULL : F32(R * C);
    size_t start = a->used, longest = start;
    for (int i = 0; i < c->blocks; i++) {
        if (!keep_all) a->used = start;
        layout_saved(c, a, &c->saved[i], cuda_is_cross(c, i), z_mid, B, N, K);
        if (a->used > longest) longest = a->used;
    }
    a->used = longest;
    c->y = F32(R * C);
    c->zf = ACT(R * C);
    c->mean_f = F32(R), c->rstd_f = F32(R);
    c->logits = F32(R * (size_t)m->vocab), c->nats = F32(R);
    c->best = take(a, R, 2);
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
    for (int i = 0; i < c->blocks; i++) {
        cuda_cache *k = &c->cache[i];
        k->capacity = cuda_is_cross(c, i) ? m->context : m->context - m->prefix;
        size_t count = (size_t)S * (size_t)k->capacity * (size_t)pa_inner(m);
        k->k = ACT(count), k->v = ACT(count);
    }
    c->step = F32(cuda_step_floats(c));
    c->step_in = take(a, 2 + 2 * (size_t)S, 4);
    c->step_work = take(a, cuda_attn_decode_work(S, m->heads, m->dim_head), 1);
}

// At the same offsets in pinned memory and on the device.
static size_t layout_input(cuda_input *in, char *base, size_t B, size_t rows, size_t targets) {
    pa_arena block = {.base = base}, *a = &block;
    in->token = take(a, rows, 4), in->position = take(a, rows, 4);
    in->target = take(a, targets, 2);
    in->window = take(a, B, 8);
    return a->used;
}

static void layout_workspace(pa_context *c, pa_arena *a, size_t B, size_t N, size_t K) {
    const pa_model *m = &c->params->model;
    c->rotary_table = F32((size_t)m->context * (size_t)pa_rotary_dims(m));
    c->decays = take(a, c->open.training ? c->floats / 16 : 0, 1);
    c->input_size = layout_input(&c->in, NULL, B, B * (K + N), B * N);
    char *in = take(a, c->input_size, 1);
    if (in) layout_input(&c->in, in, B, B * (K + N), B * N);
    for (int i = 0; i < 2; i++) c->slot[i].device = take(a, c->input_size, 1);
    c->scalars = take(a, 1, sizeof *c->scalars), c->sums = take(a, CUDA_SUMS, 8);
    c->work_size = work_bytes(c, B, N, K);
    c->work = take(a, c->work_size, 1);
    c->workspace = take(a, CUDA_MATMUL_WORKSPACE, 1);
}

void cuda_layout(pa_context *c) {
    const pa_model *m = &c->params->model;
    pa_arena *a = c->arena;
    size_t n = c->floats, B = (size_t)c->open.max_batch, N = (size_t)(m->context - m->prefix), K = (size_t)m->prefix;
    if (c->open.streams && !B) B = 1;
    for (int i = 0; i < ARENAS; i++) a[i].used = 0;
    c->param = take(&a[ARENA_PARAMETERS], n, 4);
    c->weight = take(&a[ARENA_WEIGHTS], c->type == CUDA_F32 ? 0 : n, 2);
    if (c->open.int8) {
        size_t rows = 0;
        for (int t = 0; t < c->params->count; t++) {
            const pa_param *row = &c->params->row[t];
            bool product = row->rank == 2 && t != c->params->token_emb && t != c->params->pos_emb;
            c->scale_at[t] = product ? (ptrdiff_t)rows : -1;
            if (product) rows += (size_t)row->shape[0];
        }
        c->weight8 = take(&a[ARENA_INT8], n, 1), c->scale = take(&a[ARENA_INT8], rows, 4);
    }
    if (c->open.training) {
        c->grad = take(&a[ARENA_GRADIENTS], n, 4);
        c->own_grad = take(&a[ARENA_GRADIENTS], c->shared ? c->own : 0, 4);
        c->moment1 = take(&a[ARENA_MOMENTS], c->own, 4), c->moment2 = take(&a[ARENA_MOMENTS], c->own, 4);
    }
    if (B) layout_activations(c, &a[ARENA_ACTIVATIONS], B, N, K);
    if (B && c->open.training) layout_backward(c, &a[ARENA_BACKWARD], B, N, K);
    if (c->open.streams) layout_caches(c, &a[ARENA_CACHES]);
    layout_workspace(c, &a[ARENA_WORKSPACE], B, N, K);
}

size_t cuda_layout_pinned(pa_context *c, char *base) {
    const pa_model *m = &c->params->model;
    size_t S = (size_t)c->open.streams, B = (size_t)c->open.max_batch, N = (size_t)(m->context - m->prefix), K = (size_t)m->prefix;
    pa_arena block = {.base = base}, *a = &block;
    if (S && !B) B = 1;
    for (int i = 0; i < 2; i++) {
        char *input = take(a, c->input_size, 1);
        if (input) layout_input(&c->slot[i].host, input, B, B * (K + N), B * N);
        c->slot[i].scalars = take(a, 1, sizeof *c->scalars);
    }
    c->host_scalars = take(a, 1, sizeof *c->host_scalars), c->host_sums = take(a, CUDA_SUMS, sizeof *c->host_sums);
    c->host_step_in = take(a, 2 + 2 * S, 4), c->host_logits = take(a, S * (size_t)m->vocab, 4);
    return a->used;
}
