// decode.c: generation with cached keys and values on a GPU. Within a window positions are fixed, so the keys and values of earlier
// positions never change while latents are appended: a new token costs one row through every layer, limited by reading weights and
// caches. A token is one graph launch; what changes from token to token lies in step_in. Mirrors cpu/decode.c.
#include <string.h>

#include "cuda/context.h"

// Rows of one step, float32, each from a multiple of 64 floats.
typedef struct {
    float *x, *xn, *qkv, *o, *hidden, *g, *y, *mean, *rstd, *head_rstd, *logits;
} step_rows;

static size_t rows_at(const pa_context *c, float *base, step_rows *r) {
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

size_t cuda_step_floats(const pa_context *c) {
    step_rows r;
    return rows_at(c, NULL, &r);
}

// Copies a block's keys and values (row, h, d) to its cache (stream, h, row, d), a head at a time.
static void keep_rows(pa_context *c, int block, int stream) {
    const pa_model *m = &c->params->model;
    const pa_saved *s = &c->saved[block];
    pa_cache *cache = &c->cache[block];
    bool cross = pa_is_cross(m, block);
    size_t H = (size_t)m->heads, D = (size_t)m->dim_head, I = H * D, ld = cross ? 2 * I : 3 * I, size = cuda_size(c->type);
    size_t rows = (size_t)((cross ? c->Q : 0) + c->R);
    for (size_t h = 0; h < H; h++) {
        size_t to = ((size_t)stream * H + h) * (size_t)cache->capacity * D;
        cudaMemcpy2DAsync((char *)cache->k + to * size, D * size, cuda_at(c, s->k, h * D), ld * size, D * size, rows,
                          cudaMemcpyDeviceToDevice, c->stream);
        cudaMemcpy2DAsync((char *)cache->v + to * size, D * size, cuda_at(c, s->v, h * D), ld * size, D * size, rows,
                          cudaMemcpyDeviceToDevice, c->stream);
    }
}

// A stream whose tokens are the last one's, as all of a primer's are at first, has its keys, values and logits too.
static void keep_again(pa_context *c, int stream) {
    for (int i = 0; i < c->blocks; i++) {
        pa_cache *cache = &c->cache[i];
        size_t bytes = (size_t)cache->capacity * (size_t)pa_inner(&c->params->model) * cuda_size(c->type), to = (size_t)stream * bytes;
        cudaMemcpyAsync((char *)cache->k + to, (char *)cache->k + to - bytes, bytes, cudaMemcpyDeviceToDevice, c->stream);
        cudaMemcpyAsync((char *)cache->v + to, (char *)cache->v + to - bytes, bytes, cudaMemcpyDeviceToDevice, c->stream);
    }
}

pa_status cuda_prefill(pa_context *c, int length, int latents, const uint16_t *tokens, float *logits, pa_err *err) {
    const pa_model *m = &c->params->model;
    size_t V = (size_t)m->vocab;
    if (!c->open.streams) return pa_error(err, PA_USAGE, "prefill: this context was opened without streams");
    c->cached = 0;
    for (int s = 0; s < c->open.streams; s++) {
        pa_batch b = {.batch = 1, .length = length, .latents = latents, .input = tokens + (size_t)s * (size_t)length};
        cuda_slot *slot;
        pa_status e;
        if (s && !memcmp(b.input, b.input - length, (size_t)length * sizeof *tokens)) {
            keep_again(c, s); // the logits are still there
        } else {
            if ((e = cuda_send(c, &b, &slot, err)) || (e = cuda_take(c, slot, 0, err))) return e;
            cuda_refresh_weights(c);
            if ((e = cuda_forward(c, keep_rows, s, err))) return e;
            if ((e = cuda_linear(c, 1, m->dim, m->vocab, c->zf, c->params->logits, c->logits, CUDA_F32, err))) return e;
        }
        cudaError_t status = cudaMemcpyAsync(c->host_logits + (size_t)s * V, c->logits, V * 4, cudaMemcpyDeviceToHost, c->stream);
        if ((e = cuda_check(status, "fetching logits", err))) return e;
    }
    pa_status e = cuda_wait(c, "reading the primer", err);
    if (e) return e;
    memcpy(logits, c->host_logits, (size_t)c->open.streams * V * 4);
    c->cached = length, c->cached_prefix = length - latents;
    return PA_OK;
}

// y (S, out) = x (S, in) w^T (+ bias), w tensor t.
static void product(const pa_context *c, float *y, const float *x, int t, const float *bias, int in, int out) {
    int S = c->open.streams;
    if (c->weight8 && c->scale_at[t] >= 0)
        cuda_gemv_int8(c->stream, y, x, c->weight8 + c->params->row[t].offset, c->scale + c->scale_at[t], bias, S, in, out);
    else
        cuda_gemv(c->stream, c->type, y, x, cuda_weight(c, t, 0), bias, S, in, out);
}

static void attend(pa_context *c, int block, const step_rows *r) {
    const pa_model *m = &c->params->model;
    const pa_block_index *t = &c->params->block[block];
    pa_cache *cache = &c->cache[block];
    int S = c->open.streams, C = m->dim, I = pa_inner(m), H = m->heads, D = m->dim_head, rotary = pa_rotary_dims(m);
    bool cross = pa_is_cross(m, block);
    const int *length = c->step_in + (cross ? 1 : 0), *position = c->step_in + 2 + S;
    // One row a stream of queries, keys and values, or, with cross-attention, of queries and then of keys and values.
    float *q = r->qkv, *k = cross ? q + S * I : q + I, *v = k + I;
    int ldq = cross ? I : 3 * I, ldkv = cross ? 2 * I : 3 * I;
    product(c, q, r->xn, cross ? t->q : t->qkv, NULL, C, ldq);
    if (cross) product(c, k, r->xn, t->kv, NULL, C, 2 * I);
    if (m->qk_norm) {
        cuda_head_norm_fwd(c->stream, CUDA_F32, q, ldq, r->head_rstd, cuda_param(c, t->q_norm), S, H, D);
        cuda_head_norm_fwd(c->stream, CUDA_F32, k, ldkv, r->head_rstd, cuda_param(c, t->k_norm), S, H, D);
    }
    cuda_rotary(c->stream, CUDA_F32, q, ldq, position, c->rotary_table, S, cross ? H : 2 * H, D, rotary, 1);
    if (cross) cuda_rotary(c->stream, CUDA_F32, k, ldkv, position, c->rotary_table, S, H, D, rotary, 1);
    cuda_attn_decode(c->stream, c->type, S, H, D, length, cache->capacity, c->softmax_scale, ldq, ldkv, q, k, v, cache->k, cache->v, r->o,
                     c->step_work);
    product(c, r->y, r->o, t->out_w, cuda_param(c, t->out_b), I, C);
}

static pa_status enqueue_step(pa_context *c, pa_err *err) {
    const pa_params *p = c->params;
    const pa_model *m = &p->model;
    int S = c->open.streams, C = m->dim, F = pa_ff(m);
    step_rows r;
    rows_at(c, c->step, &r);
    const int32_t *token = c->step_in + 2, *position = token + S;
    cudaError_t status = cudaMemcpyAsync(c->step_in, c->host_step_in, (2 + 2 * (size_t)S) * 4, cudaMemcpyHostToDevice, c->stream);
    cuda_embed_fwd(c->stream, r.x, token, position, cuda_param(c, p->token_emb), cuda_param(c, p->pos_emb), S, C);
    for (int i = 0; i < c->blocks; i++) {
        const pa_block_index *t = &p->block[i];
        cuda_layernorm_fwd(c->stream, CUDA_F32, r.x, r.xn, r.mean, r.rstd, r.x, i ? r.y : NULL, NULL, cuda_param(c, t->norm_w),
                           cuda_param(c, t->norm_b), S, C);
        attend(c, i, &r);
        cuda_layernorm_fwd(c->stream, CUDA_F32, r.x, r.xn, r.mean, r.rstd, r.x, r.y, NULL, cuda_param(c, t->ff_norm_w),
                           cuda_param(c, t->ff_norm_b), S, C);
        product(c, r.hidden, r.xn, t->ff_1, NULL, C, F);
        cuda_activation_fwd(c->stream, CUDA_F32, (cuda_activation)m->activation, r.g, r.hidden, S, F, NULL, 1);
        product(c, r.y, r.g, t->ff_4, NULL, F, C);
    }
    cuda_layernorm_fwd(c->stream, CUDA_F32, r.x, r.xn, r.mean, r.rstd, r.x, r.y, NULL, cuda_param(c, p->final_norm_w),
                       cuda_param(c, p->final_norm_b), S, C);
    product(c, r.logits, r.xn, p->logits, NULL, C, m->vocab);
    size_t bytes = (size_t)S * (size_t)m->vocab * 4;
    if (!status) status = cudaMemcpyAsync(c->host_logits, r.logits, bytes, cudaMemcpyDeviceToHost, c->stream);
    return cuda_check(status, "decoding", err);
}

pa_status cuda_decode(pa_context *c, const uint16_t *tokens, float *logits, pa_err *err) {
    const pa_model *m = &c->params->model;
    int S = c->open.streams;
    if (!S || !c->cached) return pa_error(err, PA_USAGE, "decode: nothing was prefilled");
    if (c->cached >= m->context || c->cached - c->cached_prefix >= m->context - m->prefix)
        return pa_error(err, PA_USAGE, "decode: the window is full at %d tokens", c->cached);
    c->host_step_in[0] = c->cached - c->cached_prefix, c->host_step_in[1] = c->cached;
    for (int s = 0; s < S; s++) {
        if (tokens[s] >= m->vocab) return pa_error(err, PA_USAGE, "decode: expected tokens below %d, found %d", m->vocab, (int)tokens[s]);
        c->host_step_in[2 + s] = tokens[s], c->host_step_in[2 + S + s] = c->cached;
    }
    cuda_refresh_weights(c);
    pa_status e = cuda_replay(c, &c->decode_graph, &c->decoded, enqueue_step, err);
    if (e || (e = cuda_wait(c, "decoding", err))) return e;
    memcpy(logits, c->host_logits, (size_t)S * (size_t)m->vocab * 4);
    c->cached++;
    return PA_OK;
}
