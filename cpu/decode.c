// decode.c: generation with cached keys and values on the CPU. Within a window positions are fixed, so the keys and values of earlier
// positions never change while latents are appended: a new token costs one row through every layer, limited by reading weights and caches.
#include <string.h>

#include "cpu/context.h"

// Rows of one step, float32, in this order: x, normalised, qkv, o, hidden, y, then statistics and positions.
size_t cpu_step_floats(const pa_context *c) {
    const pa_model *m = &c->params->model;
    size_t S = (size_t)c->open.streams, C = (size_t)m->dim, I = (size_t)pa_inner(m);
    return S * (3 * C + 4 * I + 2 * (size_t)pa_ff(m) + 3 + (size_t)m->heads) + 64;
}

typedef struct {
    float *x, *xn, *q, *k, *v, *o, *hidden, *g, *y, *mean, *rstd, *head_rstd;
    int32_t *position;
} step_rows;

static step_rows rows_of(const pa_context *c) {
    const pa_model *m = &c->params->model;
    size_t S = (size_t)c->open.streams, C = (size_t)m->dim, I = (size_t)pa_inner(m), F = (size_t)pa_ff(m);
    step_rows r;
    r.x = c->step, r.xn = r.x + S * C, r.y = r.xn + S * C;
    r.q = r.y + S * C, r.k = r.q + S * I, r.v = r.k + S * I, r.o = r.v + S * I;
    r.hidden = r.o + S * I, r.g = r.hidden + S * F;
    r.mean = r.g + S * F, r.rstd = r.mean + S, r.head_rstd = r.rstd + S;
    r.position = (int32_t *)(r.head_rstd + S * (size_t)m->heads);
    return r;
}

// Copies a block's keys and values (row, h, d) to its cache (stream, h, row, d).
static void keep_rows(pa_context *c, int block, int stream) {
    const pa_model *m = &c->params->model;
    const pa_saved *s = &c->saved[block];
    pa_cache *cache = &c->cache[block];
    bool cross = pa_is_cross(m, block);
    size_t H = (size_t)m->heads, D = (size_t)m->dim_head, I = H * D, ld = cross ? 2 * I : 3 * I, size = cpu_size(c->type);
    int rows = (cross ? c->Q : 0) + c->R;
    for (int row = 0; row < rows; row++)
        for (size_t h = 0; h < H; h++) {
            size_t from = (size_t)row * ld + h * D, to = (((size_t)stream * H + h) * (size_t)cache->capacity + (size_t)row) * D;
            memcpy((char *)cache->k + to * size, cpu_at(c, s->k, from), D * size);
            memcpy((char *)cache->v + to * size, cpu_at(c, s->v, from), D * size);
        }
}

// A stream whose tokens are the last one's, as all of a primer's are at first, has its keys and values too.
static void keep_again(pa_context *c, int stream) {
    for (int i = 0; i < c->blocks; i++) {
        pa_cache *cache = &c->cache[i];
        size_t bytes = (size_t)cache->capacity * (size_t)pa_inner(&c->params->model) * cpu_size(c->type), to = (size_t)stream * bytes;
        memcpy((char *)cache->k + to, (char *)cache->k + to - bytes, bytes);
        memcpy((char *)cache->v + to, (char *)cache->v + to - bytes, bytes);
    }
}

pa_status cpu_prefill(pa_context *c, int length, int latents, const uint16_t *tokens, float *logits, pa_err *err) {
    const pa_model *m = &c->params->model;
    if (!c->open.streams) return pa_error(err, PA_USAGE, "prefill: this context was opened without streams");
    c->cached = 0;
    for (int s = 0; s < c->open.streams; s++) {
        pa_batch b = {.batch = 1, .length = length, .latents = latents, .input = tokens + (size_t)s * (size_t)length};
        float *out = logits + (size_t)s * (size_t)m->vocab;
        if (s && !memcmp(b.input, b.input - length, (size_t)length * sizeof *tokens)) {
            keep_again(c, s);
            memcpy(out, out - m->vocab, (size_t)m->vocab * sizeof *out);
            continue;
        }
        pa_status e = cpu_forward(c, &b, keep_rows, s, err);
        if (e) return e;
        if ((e = cpu_linear(c, 1, m->dim, m->vocab, c->zf, c->params->logits, out, CPU_F32, err))) return e;
    }
    c->cached = length, c->cached_prefix = length - latents;
    return PA_OK;
}

// Puts rows (S, H D) at position `at` of a cache.
static void append(const pa_context *c, void *cache, int capacity, int at, const float *rows) {
    const pa_model *m = &c->params->model;
    size_t D = (size_t)m->dim_head, heads = (size_t)c->open.streams * (size_t)m->heads;
    for (size_t h = 0; h < heads; h++) c->ops->cast(c->type, cpu_at(c, cache, (h * (size_t)capacity + (size_t)at) * D), rows + h * D, D);
}

// y (S, out) = x (S, in) w^T (+ bias): `out` rows of tensor t from `first`.
static void product(const pa_context *c, float *y, const float *x, int t, int first, const float *bias, int in, int out) {
    size_t at = (size_t)first * (size_t)in;
    int S = c->open.streams;
    if (c->weight8 && c->scale_at[t] >= 0)
        c->ops->gemv_int8(y, x, c->weight8 + c->params->row[t].offset + at, c->scale + c->scale_at[t] + first, bias, S, in, out);
    else
        c->ops->gemv(c->type, y, x, cpu_weight(c, t, at), bias, S, in, out, c->step_work);
}

static void attend(pa_context *c, int block, const step_rows *r) {
    const pa_model *m = &c->params->model;
    const pa_block_index *t = &c->params->block[block];
    pa_cache *cache = &c->cache[block];
    int S = c->open.streams, C = m->dim, I = pa_inner(m), H = m->heads, D = m->dim_head, rotary = pa_rotary_dims(m);
    bool cross = pa_is_cross(m, block);
    int at = cross ? c->cached : c->cached - c->cached_prefix; // of the new key in this cache
    // One stream's q, k and v are neighbours, and so are the rows that give them: one product does.
    product(c, r->q, r->xn, cross ? t->q : t->qkv, 0, NULL, C, S == 1 && !cross ? 3 * I : I);
    if (S > 1 || cross) product(c, r->k, r->xn, cross ? t->kv : t->qkv, cross ? 0 : I, NULL, C, S == 1 ? 2 * I : I);
    if (S > 1) product(c, r->v, r->xn, cross ? t->kv : t->qkv, cross ? I : 2 * I, NULL, C, I);
    if (m->qk_norm) {
        c->ops->head_norm_fwd(CPU_F32, r->q, I, r->head_rstd, cpu_param(c, t->q_norm), S, H, D);
        c->ops->head_norm_fwd(CPU_F32, r->k, I, r->head_rstd, cpu_param(c, t->k_norm), S, H, D);
    }
    c->ops->rotary(CPU_F32, r->q, I, r->position, c->rotary_table, S, H, D, rotary, 1);
    c->ops->rotary(CPU_F32, r->k, I, r->position, c->rotary_table, S, H, D, rotary, 1);
    append(c, cache->k, cache->capacity, at, r->k);
    append(c, cache->v, cache->capacity, at, r->v);
    c->ops->attn_decode(c->type, S, H, D, at + 1, cache->capacity, c->softmax_scale, r->q, cache->k, cache->v, r->o, c->step_work);
    product(c, r->y, r->o, t->out_w, 0, cpu_param(c, t->out_b), I, C);
}

pa_status cpu_decode(pa_context *c, const uint16_t *tokens, float *logits, pa_err *err) {
    const pa_params *p = c->params;
    const pa_model *m = &p->model;
    int S = c->open.streams, C = m->dim, F = pa_ff(m);
    if (!S || !c->cached) return pa_error(err, PA_USAGE, "decode: nothing was prefilled");
    if (c->cached >= m->context || c->cached - c->cached_prefix >= m->context - m->prefix)
        return pa_error(err, PA_USAGE, "decode: the window is full at %d tokens", c->cached);
    step_rows r = rows_of(c);
    cpu_refresh_weights(c);
    for (int s = 0; s < S; s++) {
        int32_t token = tokens[s];
        if (token >= m->vocab) return pa_error(err, PA_USAGE, "decode: expected tokens below %d, found %d", m->vocab, (int)token);
        r.position[s] = c->cached;
        c->ops->embed_fwd(r.x + (size_t)s * (size_t)C, &token, &r.position[s], cpu_param(c, p->token_emb), cpu_param(c, p->pos_emb), 1, C);
    }
    for (int i = 0; i < c->blocks; i++) {
        const pa_block_index *t = &p->block[i];
        c->ops->layernorm_fwd(CPU_F32, r.x, r.xn, r.mean, r.rstd, r.x, i ? r.y : NULL, NULL, cpu_param(c, t->norm_w),
                              cpu_param(c, t->norm_b), S, C);
        attend(c, i, &r);
        c->ops->layernorm_fwd(CPU_F32, r.x, r.xn, r.mean, r.rstd, r.x, r.y, NULL, cpu_param(c, t->ff_norm_w), cpu_param(c, t->ff_norm_b), S,
                              C);
        product(c, r.hidden, r.xn, t->ff_1, 0, NULL, C, F);
        c->ops->activation_fwd(CPU_F32, m->activation, r.g, r.hidden, S, F, NULL, 1);
        product(c, r.y, r.g, t->ff_4, 0, NULL, F, C);
    }
    c->ops->layernorm_fwd(CPU_F32, r.x, r.xn, r.mean, r.rstd, r.x, r.y, NULL, cpu_param(c, p->final_norm_w), cpu_param(c, p->final_norm_b),
                          S, C);
    product(c, logits, r.xn, p->logits, 0, NULL, C, m->vocab);
    c->cached++;
    return PA_OK;
}
