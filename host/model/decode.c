// decode.c: see decode.h. Within a window positions are fixed, so the keys and values of earlier positions never change
// while latents are appended: a new token costs one row through every layer, limited by reading weights and caches.
// What changes from token to token lies in step_in, so that a step can be replayed.
#include "host/model/decode.h"

#include <string.h>

#include "host/model/backward.h"
#include "host/model/batch.h"
#include "host/model/forward.h"
#include "host/model/open.h"
#include "host/model/plan.h"

static pa_status keep_rows(pa_context *c, int block, int stream, pa_err *err) {
    const pa_model *m = &c->params->model;
    const pa_saved *s = &c->saved[block];
    const pa_cache *cache = &c->cache[block];
    bool cross = pa_is_cross(m, block);
    return c->ops->cache_rows(c->device,
                              &(pa_cache_rows){.type = c->type,
                                               .rows = (cross ? c->Q : 0) + c->R,
                                               .heads = m->heads,
                                               .dim_head = m->dim_head,
                                               .stream = stream,
                                               .capacity = cache->capacity,
                                               .ld = (cross ? 2 : 3) * pa_inner(m),
                                               .k = s->k,
                                               .v = s->v,
                                               .cache_k = cache->k,
                                               .cache_v = cache->v},
                              err);
}

// A stream with the tokens of the stream before it, as all streams of one primer have, has its keys and values too.
static pa_status keep_again(pa_context *c, int stream, pa_err *err) {
    pa_status e = PA_OK;
    for (int i = 0; i < c->blocks && !e; i++) {
        const pa_cache *cache = &c->cache[i];
        size_t bytes = (size_t)cache->capacity * (size_t)pa_inner(&c->params->model) * pa_size(c->type);
        char *k = (char *)cache->k + (size_t)stream * bytes, *v = (char *)cache->v + (size_t)stream * bytes;
        if (!(e = c->ops->copy(c->device, k, k - bytes, bytes, err)))
            e = c->ops->copy(c->device, v, v - bytes, bytes, err);
    }
    return e;
}

static pa_status prefill_stream(pa_context *c, const pa_batch *b, int stream, pa_err *err) {
    pa_slot *slot;
    pa_status e = pa_send_batch(c, b, &slot, err);
    if (e || (e = pa_take_batch(c, slot, 0, err))) return e;
    pa_refresh_weights(c);
    if ((e = pa_forward(c, keep_rows, stream, err))) return e;
    return pa_logits(c, 1, err);
}

pa_status pa_context_prefill(pa_context *c, int length, int latents, const uint16_t *tokens, float *logits,
                             pa_err *err) {
    size_t V = (size_t)c->params->model.vocab, bytes = (size_t)length * sizeof *tokens;
    if (!c->open.streams) return pa_error(err, PA_USAGE, "prefill: this context was opened without streams");
    c->cached = 0;
    for (int s = 0; s < c->open.streams; s++) {
        pa_batch b = {.batch = 1, .length = length, .latents = latents, .input = tokens + (size_t)s * (size_t)length};
        bool again = s && !memcmp(b.input, b.input - length, bytes); // then the logits are still there too
        pa_status e = again ? keep_again(c, s, err) : prefill_stream(c, &b, s, err);
        if (!e) e = c->ops->download(c->device, c->host_logits + (size_t)s * V, c->logits, V * sizeof *logits, err);
        if (e) return e;
    }
    pa_status e = c->ops->wait(c->device, "reading the primer", err);
    if (e) return e;
    memcpy(logits, c->host_logits, (size_t)c->open.streams * V * sizeof *logits);
    c->cached = length;
    c->cached_prefix = length - latents;
    return PA_OK;
}

// y (S, out) = x (S, in) w^T (+ bias), w tensor t.
static void product(const pa_context *c, float *y, const float *x, int t, const float *bias, int in, int out) {
    bool int8 = c->weight8 && c->scale_at[t] >= 0;
    pa_gemv a = {.type = c->type,
                 .y = y,
                 .x = x,
                 .bias = bias,
                 .streams = c->open.streams,
                 .in = in,
                 .out = out,
                 .work = c->work.at};
    a.w = int8 ? c->weight8 + c->params->row[t].offset : pa_weight(c, t, 0);
    a.scale = int8 ? c->scale + c->scale_at[t] : NULL;
    (int8 ? c->ops->gemv_int8 : c->ops->gemv)(c->device, &a);
}

static void norm_heads(const pa_context *c, float *x, int ld, float *rstd, int norm) {
    const pa_model *m = &c->params->model;
    c->ops->head_norm_fwd(c->device, &(pa_head_norm){.type = PA_TYPE_F32,
                                                     .x = x,
                                                     .ld = ld,
                                                     .rstd = rstd,
                                                     .w = pa_parameter(c, norm),
                                                     .rows = c->open.streams,
                                                     .H = m->heads,
                                                     .D = m->dim_head});
}

static void turn_heads(const pa_context *c, float *x, int ld, int heads) {
    const pa_model *m = &c->params->model;
    c->ops->rotary(c->device, &(pa_rotary){.type = PA_TYPE_F32,
                                           .x = x,
                                           .ld = ld,
                                           .position = c->step_in + 2 + c->open.streams,
                                           .table = c->rotary_table,
                                           .rows = c->open.streams,
                                           .H = heads,
                                           .D = m->dim_head,
                                           .dims = pa_rotary_dims(m),
                                           .sign = 1});
}

static void attend(pa_context *c, int block, const pa_step_rows *r) {
    const pa_model *m = &c->params->model;
    const pa_block_index *t = &c->params->block[block];
    pa_cache *cache = &c->cache[block];
    int S = c->open.streams, C = m->dim, I = pa_inner(m), H = m->heads;
    bool cross = pa_is_cross(m, block);
    // One row a stream of queries, keys and values; with cross-attention, of queries, and then of keys and values.
    float *q = r->qkv, *k = cross ? q + S * I : q + I, *v = k + I;
    int ldq = cross ? I : 3 * I, ldkv = cross ? 2 * I : 3 * I;
    product(c, q, r->xn, cross ? t->q : t->qkv, NULL, C, ldq);
    if (cross) product(c, k, r->xn, t->kv, NULL, C, 2 * I);
    if (m->qk_norm) {
        norm_heads(c, q, ldq, r->head_rstd, t->q_norm);
        norm_heads(c, k, ldkv, r->head_rstd, t->k_norm);
    }
    turn_heads(c, q, ldq, cross ? H : 2 * H); // the keys' heads follow the queries'
    if (cross) turn_heads(c, k, ldkv, H);
    c->ops->attn_decode(c->device, &(pa_attn_decode){.type = c->type,
                                                     .streams = S,
                                                     .heads = H,
                                                     .dim_head = m->dim_head,
                                                     .length = c->step_in + (cross ? 1 : 0),
                                                     .capacity = cache->capacity,
                                                     .scale = c->softmax_scale,
                                                     .ldq = ldq,
                                                     .ldkv = ldkv,
                                                     .q = q,
                                                     .k_new = k,
                                                     .v_new = v,
                                                     .k = cache->k,
                                                     .v = cache->v,
                                                     .o = r->o,
                                                     .work = c->step_work});
    product(c, r->y, r->o, t->out_w, pa_parameter(c, t->out_b), I, C);
}

// x += r, then its norm in xn.
static void normalise(const pa_context *c, const pa_step_rows *rows, const float *r, int w, int b) {
    c->ops->layernorm_fwd(c->device, &(pa_layernorm){.type = PA_TYPE_F32,
                                                     .z = rows->x,
                                                     .y = rows->xn,
                                                     .mean = rows->mean,
                                                     .rstd = rows->rstd,
                                                     .x = rows->x,
                                                     .r = r,
                                                     .w = pa_parameter(c, w),
                                                     .b = pa_parameter(c, b),
                                                     .rows = c->open.streams,
                                                     .C = c->params->model.dim});
}

static pa_status step(void *what, pa_err *err) {
    pa_context *c = what;
    const pa_params *p = c->params;
    const pa_model *m = &p->model;
    int S = c->open.streams, C = m->dim, F = pa_ff(m);
    pa_step_rows r;
    pa_plan_step(c, c->step, &r);
    pa_status e = c->ops->upload(c->device, c->step_in, c->host_step_in, (2 + 2 * (size_t)S) * sizeof *c->step_in, err);
    if (e) return e;
    c->ops->embed_fwd(c->device, r.x,
                      &(pa_embed){.token = c->step_in + 2,
                                  .position = c->step_in + 2 + S,
                                  .token_emb = pa_parameter(c, p->token_emb),
                                  .pos_emb = pa_parameter(c, p->pos_emb),
                                  .rows = S,
                                  .C = C});
    for (int i = 0; i < c->blocks; i++) {
        const pa_block_index *t = &p->block[i];
        normalise(c, &r, i ? r.y : NULL, t->norm_w, t->norm_b);
        attend(c, i, &r);
        normalise(c, &r, r.y, t->ff_norm_w, t->ff_norm_b);
        product(c, r.hidden, r.xn, t->ff_1, NULL, C, F);
        c->ops->activation_fwd(
            c->device,
            &(pa_activate){
                .type = PA_TYPE_F32, .kind = m->activation, .g = r.g, .h = r.hidden, .rows = S, .F = F, .sequence = 1});
        product(c, r.y, r.g, t->ff_4, NULL, F, C);
    }
    normalise(c, &r, r.y, p->final_norm_w, p->final_norm_b);
    product(c, r.logits, r.xn, p->logits, NULL, C, m->vocab);
    return c->ops->download(c->device, c->host_logits, r.logits, (size_t)S * (size_t)m->vocab * sizeof *r.logits, err);
}

pa_status pa_context_decode(pa_context *c, const uint16_t *tokens, float *logits, pa_err *err) {
    const pa_model *m = &c->params->model;
    int S = c->open.streams;
    if (!S || !c->cached) return pa_error(err, PA_USAGE, "decode: nothing was prefilled");
    if (c->cached >= m->context || c->cached - c->cached_prefix >= pa_latents(m))
        return pa_error(err, PA_USAGE, "decode: the window is full at %d tokens", c->cached);
    c->host_step_in[0] = c->cached - c->cached_prefix;
    c->host_step_in[1] = c->cached;
    for (int s = 0; s < S; s++) {
        if (tokens[s] >= m->vocab)
            return pa_error(err, PA_USAGE, "decode: expected tokens below %d, found %d", m->vocab, (int)tokens[s]);
        c->host_step_in[2 + s] = tokens[s];
        c->host_step_in[2 + S + s] = c->cached;
    }
    pa_refresh_weights(c);
    pa_status e = pa_replay(c, &(pa_step){.kind = PA_STEP_DECODE}, step, err);
    if (e || (e = c->ops->wait(c->device, "decoding", err))) return e;
    memcpy(logits, c->host_logits, (size_t)S * (size_t)m->vocab * sizeof *logits);
    c->cached++;
    return PA_OK;
}

// Later rows of the caches stay, to be written over.
pa_status pa_context_rewind(pa_context *c, int length, pa_err *err) {
    int least = c->cached_prefix > 1 ? c->cached_prefix : 1;
    if (!c->cached || length < least || length > c->cached)
        return pa_error(err, PA_USAGE, "rewind: expected %d to %d tokens, found %d", least, c->cached, length);
    c->cached = length;
    return PA_OK;
}
