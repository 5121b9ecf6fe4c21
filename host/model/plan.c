// plan.c: see plan.h. Takes no memory.
#include "host/model/plan.h"

#include "host/model/muon.h"

static float *take_floats(pa_arena *a, size_t count) {
    return pa_arena_take(a, count, sizeof(float));
}

static void *take_acts(const pa_context *c, pa_arena *a, size_t count) {
    return pa_arena_take(a, count, pa_size(c->type));
}

// The largest call, with its keys where a call has them.
static pa_attn attention_limits(const pa_context *c, bool cross, int B, int N, int K) {
    const pa_model *m = &c->params->model;
    int I = pa_inner(m);
    pa_attn a = {
        .type = c->type, .batch = B, .latents = N, .kept = cross ? K : 0, .heads = m->heads, .dim_head = m->dim_head};
    a.scale = c->softmax_scale;
    a.ldo = I;
    a.ldq = cross ? I : 3 * I;
    a.ldkv = cross ? 2 * I : 3 * I;
    a.kn = (const void *)((uintptr_t)(B * a.kept) * (uintptr_t)a.ldkv *
                          pa_size(c->type)); // after the prefix's, as in pa_saved
    a.vn = a.kn;
    return a;
}

static size_t work_bytes(const pa_context *c, size_t B, size_t N, size_t K) {
    const pa_model *m = &c->params->model;
    pa_attn cross = attention_limits(c, true, (int)B, (int)N, (int)K),
            self = attention_limits(c, false, (int)B, (int)N, 0);
    size_t longest = (size_t)(pa_ff(m) > pa_inner(m) ? pa_ff(m) : pa_inner(m)),
           gemv = (size_t)c->open.streams * longest * sizeof(float);
    size_t need[] = {gemv,
                     c->ops->attn_work(c->device, &cross, c->open.training),
                     c->ops->attn_work(c->device, &self, c->open.training),
                     c->ops->norm_work(c->device, m->dim),
                     c->ops->norm_work(c->device, m->dim_head),
                     c->ops->sum_work(c->device)};
    size_t most = 0;
    for (size_t i = 0; i < sizeof need / sizeof *need; i++)
        if (need[i] > most) most = need[i];
    return most;
}

// At the same offsets in the host's memory and on the device.
static size_t plan_input(const pa_context *c, pa_input *in, char *base, size_t B, size_t N, size_t K) {
    pa_arena block = {.base = base, .align = c->info.align}, *a = &block;
    const size_t rows = B * (K + N);
    in->token = pa_arena_take(a, rows, 4);
    in->position = pa_arena_take(a, rows, 4);
    in->bag = pa_arena_take(a, (size_t)pa_bag_slots(&c->params->model) * rows, 4);
    in->target = pa_arena_take(a, B * N, 2);
    in->window = pa_arena_take(a, B, 8);
    return a->used;
}

// What a call reads beside parameters.
static void plan_inputs(pa_context *c, pa_arena *a, size_t B, size_t N, size_t K) {
    const pa_model *m = &c->params->model;
    c->rotary_table = take_floats(a, (size_t)m->context * (size_t)pa_rotary_dims(m));
    c->input_bytes = plan_input(c, &c->in, NULL, B, N, K);
    char *in = pa_arena_take(a, c->input_bytes, 1);
    if (in) plan_input(c, &c->in, in, B, N, K);
    for (int i = 0; i < 2 && !c->info.unified; i++) c->slot[i].device = pa_arena_take(a, c->input_bytes, 1);
}

static void plan_activations(pa_context *c, pa_arena *a, size_t B, size_t N, size_t K) {
    const pa_model *m = &c->params->model;
    size_t C = (size_t)m->dim, R = B * N, Q = B * K;
    plan_inputs(c, a, B, N, K);
    c->xp = take_floats(a, Q * C);
    pa_layout_blocks(a, &c->open, pa_size(c->type), R, Q, c->z, c->saved);
    c->y = take_floats(a, R * C);
    c->zf = take_acts(c, a, R * C);
    c->mean_f = take_floats(a, R);
    c->rstd_f = take_floats(a, R);
    c->logits = take_floats(a, R * (size_t)(c->open.training ? c->logits_ld : m->vocab));
    c->nats = take_floats(a, R);
    c->best = pa_arena_take(a, R, 2);
    c->work.bytes = work_bytes(c, B, N, K);
    c->work.at = pa_arena_take(a, c->work.bytes, 1);
}

static void plan_backward(pa_context *c, pa_arena *a, size_t B, size_t N, size_t K) {
    const pa_model *m = &c->params->model;
    size_t C = (size_t)m->dim, I = (size_t)pa_inner(m), R = B * N, Q = B * K;
    c->dz = take_floats(a, R * C);
    c->dxp = take_floats(a, Q * C);
    c->dza = take_acts(c, a, R * C);
    c->dxn = take_acts(c, a, (Q + R) * C);
    c->dff = take_acts(c, a, R * (size_t)pa_ff(m));
    c->dq = take_acts(c, a, R * 3 * I);
    c->dkv = take_acts(c, a, (Q + R) * 2 * I);
    c->dout = take_acts(c, a, R * I);
    c->dlogits = take_acts(c, a, R * (size_t)c->logits_ld);
}

size_t pa_plan_step(const pa_context *c, float *base, pa_step_rows *r) {
    const pa_model *m = &c->params->model;
    size_t S = (size_t)c->open.streams, C = (size_t)m->dim, I = (size_t)pa_inner(m), F = (size_t)pa_ff(m), used = 0;
    struct {
        float **row;
        size_t width;
    } part[] = {{&r->x, C},
                {&r->xn, C},
                {&r->y, C},
                {&r->qkv, 3 * I},
                {&r->o, I},
                {&r->g, F},
                {&r->mean, 1},
                {&r->rstd, 1},
                {&r->hidden, F},
                {&r->head_rstd, (size_t)m->heads},
                {&r->logits, (size_t)m->vocab}};
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        *part[i].row = base ? base + used : NULL;
        used += (S * part[i].width + 63) / 64 * 64;
    }
    return used;
}

size_t pa_step_in(const pa_context *c) {
    return 2 + (size_t)c->open.streams * (2 + (size_t)pa_bag_slots(&c->params->model));
}

static void plan_caches(pa_context *c, pa_arena *a) {
    const pa_model *m = &c->params->model;
    pa_step_rows rows;
    pa_layout_caches(a, &c->open, pa_size(c->type), c->cache);
    c->step = take_floats(a, pa_plan_step(c, NULL, &rows));
    c->step_in = pa_arena_take(a, pa_step_in(c), 4);
    c->step_work =
        pa_arena_take(a, c->ops->decode_work(c->device, c->open.streams, m->heads, m->dim_head, m->context), 1);
}

static void plan_muon(pa_context *c, pa_arena *a) {
    size_t matrix, square;
    pa_muon_sizes(c->params, &matrix, &square);
    c->muon_x = pa_arena_take(a, matrix, pa_size(c->info.muon));
    c->muon_y = pa_arena_take(a, matrix, pa_size(c->info.muon));
    for (int i = 0; i < (c->info.muon == PA_TYPE_F32 ? 4 : 2); i++)
        c->muon_square[i] = pa_arena_take(a, square, pa_size(c->info.muon));
}

void pa_plan(pa_context *c) {
    const pa_model *m = &c->params->model;
    pa_arena *a = c->arena;
    size_t n = c->floats, B = (size_t)c->open.max_batch, N = (size_t)(m->context - m->prefix), K = (size_t)m->prefix;
    if (c->open.streams && !B) B = 1;
    pa_arenas_begin(a, c->info.align);
    c->param = take_floats(&a[ARENA_PARAMETERS], n);
    c->weight = pa_arena_take(&a[ARENA_WEIGHTS], c->type == PA_TYPE_F32 ? 0 : n, 2);
    if (c->open.int8) {
        size_t rows = pa_layout_scales(c->params, c->scale_at);
        c->weight8 = pa_arena_take(&a[ARENA_INT8], n, 1);
        c->scale = take_floats(&a[ARENA_INT8], rows);
    }
    if (c->open.training) {
        c->grad = take_floats(&a[ARENA_GRADIENTS], n);
        c->own_grad = take_floats(&a[ARENA_GRADIENTS], c->shared && c->info.own_apart ? c->own : 0);
        c->moment1 = take_floats(&a[ARENA_MOMENTS], c->own);
        c->moment2 = take_floats(&a[ARENA_MOMENTS], c->second);
    }
    if (c->open.training && c->open.muon) plan_muon(c, &a[ARENA_WORKSPACE]);
    c->scalars = pa_arena_take(&a[ARENA_ACTIVATIONS], 1, sizeof *c->scalars);
    c->sums = pa_arena_take(&a[ARENA_ACTIVATIONS], PA_SUMS, sizeof *c->sums);
    if (B) plan_activations(c, &a[ARENA_ACTIVATIONS], B, N, K);
    if (B && c->open.training) plan_backward(c, &a[ARENA_BACKWARD], B, N, K);
    if (c->open.streams) plan_caches(c, &a[ARENA_CACHES]);
    c->workspace = pa_arena_take(&a[ARENA_WORKSPACE], c->info.workspace, 1);
}

static void plan_unified(pa_context *c) {
    pa_step_rows rows;
    pa_plan_step(c, c->step, &rows);
    c->slot[0].host = c->in;
    c->slot[0].scalars = c->scalars;
    c->host_scalars = c->scalars;
    c->host_sums = c->sums_here; // apart: sums are cleared before they are read
    c->host_step_in = c->step_in;
    c->host_logits = rows.logits;
}

size_t pa_plan_host(pa_context *c, void *base) {
    const pa_model *m = &c->params->model;
    size_t S = (size_t)c->open.streams, B = (size_t)c->open.max_batch, N = (size_t)(m->context - m->prefix),
           K = (size_t)m->prefix;
    pa_arena block = {.base = base, .align = c->info.align}, *a = &block;
    if (c->info.unified) {
        plan_unified(c);
        return 0;
    }
    if (S && !B) B = 1;
    for (int i = 0; i < 2; i++) {
        char *input = pa_arena_take(a, c->input_bytes, 1);
        if (input) plan_input(c, &c->slot[i].host, input, B, N, K);
        c->slot[i].scalars = pa_arena_take(a, 1, sizeof *c->scalars);
    }
    c->host_scalars = pa_arena_take(a, 1, sizeof *c->host_scalars);
    c->host_sums = pa_arena_take(a, PA_SUMS, sizeof *c->host_sums);
    c->host_step_in = pa_arena_take(a, S ? pa_step_in(c) : 0, 4);
    c->host_logits = pa_arena_take(a, S * (size_t)m->vocab, 4);
    return a->used;
}
