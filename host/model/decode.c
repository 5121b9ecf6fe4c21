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
    return pa_logits(c, 1, c->params->model.vocab, err);
}

static uint16_t *window(const pa_context *c, int stream) {
    return c->window + (size_t)stream * (size_t)c->params->model.context;
}

pa_status pa_context_prefill(pa_context *c, int length, int latents, const uint16_t *tokens, float *logits,
                             pa_err *err) {
    size_t V = (size_t)c->params->model.vocab, bytes = (size_t)length * sizeof *tokens;
    if (!c->open.streams) return pa_error(err, PA_USAGE, "prefill: this context was opened without streams");
    c->cached = 0;
    for (int s = 0; s < c->open.streams; s++) {
        memcpy(window(c, s), tokens + (size_t)s * (size_t)length, bytes);
        pa_keyboard_clear(&c->keyboard[s]);
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

// Rows that products of a step read: normalised, or to be normalised by the products themselves.
typedef struct {
    const float *x, *norm_w, *norm_b;
} input;

// x += rest (NULL: nothing), and its norm, which a device that fuses leaves to the products.
static input normalised(const pa_context *c, const pa_step_rows *rows, const float *rest, int w, int b) {
    const float *norm_w = pa_parameter(c, w), *norm_b = pa_parameter(c, b);
    if (c->info.fuses) return (input){rows->x, norm_w, norm_b};
    c->ops->layernorm_fwd(c->device, &(pa_layernorm){.type = PA_TYPE_F32,
                                                     .z = rows->x,
                                                     .y = rows->xn,
                                                     .mean = rows->mean,
                                                     .rstd = rows->rstd,
                                                     .x = rows->x,
                                                     .r = rest,
                                                     .w = norm_w,
                                                     .b = norm_b,
                                                     .rows = c->open.streams,
                                                     .C = c->params->model.dim});
    return (input){rows->xn, NULL, NULL};
}

// Runs `a` with tensor t as its weight.
static void product(const pa_context *c, pa_gemv a, int t) {
    bool int8 = c->weight8 && c->scale_at[t] >= 0;
    a.type = c->type;
    a.streams = c->open.streams;
    a.work = c->work.at;
    a.w = int8 ? c->weight8 + c->params->row[t].offset : pa_weight(c, t, 0);
    a.scale = int8 ? c->scale + c->scale_at[t] : NULL;
    (int8 ? c->ops->gemv_int8 : c->ops->gemv)(c->device, &a);
}

static pa_gemv projection(const pa_context *c, input in, float *y, int out) {
    return (pa_gemv){
        .y = y, .x = in.x, .norm_w = in.norm_w, .norm_b = in.norm_b, .in = c->params->model.dim, .out = out};
}

// y (S, out) = in w^T, w tensor t.
static void project(const pa_context *c, input in, int t, float *y, int out) {
    product(c, projection(c, in, y, out), t);
}

// rows->x += x (S, in) w^T + bias, w tensor t: at once where the device fuses, else with the next norm, for which this
// returns what is to be added.
static const float *add_product(const pa_context *c, const pa_step_rows *rows, const float *x, int t, int bias,
                                int in) {
    const bool fuses = c->info.fuses;
    float *y = fuses ? rows->x : rows->y;
    pa_gemv a = {.y = y, .x = x, .bias = pa_parameter(c, bias), .in = in, .out = c->params->model.dim, .adds = fuses};
    product(c, a, t);
    return fuses ? NULL : y;
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

// Norm and rotation of a's queries and new keys, k; a device that fuses leaves them to attention.
static void prepare_heads(const pa_context *c, int block, const pa_step_rows *r, float *k, pa_attn_decode *a) {
    const pa_model *m = &c->params->model;
    const pa_block_index *t = &c->params->block[block];
    float *q = r->qkv;
    int ldq = (int)a->ldq, ldkv = (int)a->ldkv;
    bool cross = pa_is_cross(m, block);
    if (c->info.fuses) {
        a->q_norm = pa_parameter(c, m->qk_norm ? t->q_norm : -1);
        a->k_norm = pa_parameter(c, m->qk_norm ? t->k_norm : -1);
        a->position = c->step_in + 2 + c->open.streams;
        a->table = c->rotary_table;
        a->dims = pa_rotary_dims(m);
        return;
    }
    if (m->qk_norm) {
        norm_heads(c, q, ldq, r->head_rstd, t->q_norm);
        norm_heads(c, k, ldkv, r->head_rstd, t->k_norm);
    }
    turn_heads(c, q, ldq, cross ? m->heads : 2 * m->heads); // the keys' heads follow the queries'
    if (cross) turn_heads(c, k, ldkv, m->heads);
}

// Both halves of a block return what `add_product` returned.
static const float *attend(const pa_context *c, int block, const pa_step_rows *r, const float *rest) {
    const pa_model *m = &c->params->model;
    const pa_block_index *t = &c->params->block[block];
    const pa_cache *cache = &c->cache[block];
    int S = c->open.streams, I = pa_inner(m);
    bool cross = pa_is_cross(m, block);
    // One row a stream of queries, keys and values; with cross-attention, of queries, and then of keys and values.
    float *q = r->qkv, *k = cross ? q + S * I : q + I;
    int ldq = cross ? I : 3 * I, ldkv = cross ? 2 * I : 3 * I;
    input in = normalised(c, r, rest, t->norm_w, t->norm_b);
    project(c, in, cross ? t->q : t->qkv, q, ldq);
    if (cross) project(c, in, t->kv, k, ldkv);
    if (m->value_emb)
        c->ops->add_rows(c->device, &(pa_add_rows){.type = PA_TYPE_F32,
                                                   .x = k + I,
                                                   .ld = ldkv,
                                                   .token = c->step_in + 2,
                                                   .table = pa_parameter(c, t->value_emb),
                                                   .rows = S,
                                                   .C = I});
    pa_attn_decode a = {.type = c->type,
                        .streams = S,
                        .heads = m->heads,
                        .dim_head = m->dim_head,
                        .length = c->step_in + (cross ? 1 : 0),
                        .capacity = cache->capacity,
                        .scale = c->softmax_scale,
                        .ldq = ldq,
                        .ldkv = ldkv,
                        .q = q,
                        .k_new = k,
                        .v_new = k + I,
                        .k = cache->k,
                        .v = cache->v,
                        .o = r->o,
                        .work = c->step_work};
    prepare_heads(c, block, r, k, &a);
    c->ops->attn_decode(c->device, &a);
    return add_product(c, r, r->o, t->out_w, t->out_b, I);
}

static const float *feed_forward(const pa_context *c, int block, const pa_step_rows *r, const float *rest) {
    const pa_model *m = &c->params->model;
    const pa_block_index *t = &c->params->block[block];
    int F = pa_ff(m);
    input in = normalised(c, r, rest, t->ff_norm_w, t->ff_norm_b);
    if (c->info.fuses) {
        pa_gemv a = projection(c, in, r->g, F);
        a.activates = true;
        a.kind = m->activation;
        product(c, a, t->ff_1);
    } else {
        pa_activate a = {.type = PA_TYPE_F32, .kind = m->activation, .g = r->g, .h = r->hidden, .F = F, .sequence = 1};
        a.rows = c->open.streams;
        project(c, in, t->ff_1, r->hidden, F);
        c->ops->activation_fwd(c->device, &a);
    }
    return add_product(c, r, r->g, t->ff_4, -1, F);
}

static pa_status step(void *what, pa_err *err) {
    pa_context *c = what;
    const pa_params *p = c->params;
    const pa_model *m = &p->model;
    int S = c->open.streams;
    pa_step_rows r;
    const float *rest = NULL; // what r.x still lacks
    pa_plan_step(c, c->step, &r);
    pa_status e = c->ops->upload(c->device, c->step_in, c->host_step_in, pa_step_in(c) * sizeof *c->step_in, err);
    if (e) return e;
    c->ops->embed_fwd(c->device, r.x,
                      &(pa_embed){.token = c->step_in + 2,
                                  .position = c->step_in + 2 + S,
                                  .bag = c->step_in + 2 + 2 * S,
                                  .token_emb = pa_parameter(c, p->token_emb),
                                  .pos_emb = pa_parameter(c, p->pos_emb),
                                  .bag_emb = pa_parameter(c, p->bag_emb),
                                  .rows = S,
                                  .C = m->dim,
                                  .slots = pa_bag_slots(m),
                                  .slot_ld = S});
    for (int i = 0; i < c->blocks; i++) {
        rest = attend(c, i, &r, rest);
        rest = feed_forward(c, i, &r, rest);
    }
    project(c, normalised(c, &r, rest, p->final_norm_w, p->final_norm_b), p->logits, r.logits, m->vocab);
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
        window(c, s)[c->cached] = tokens[s];
        pa_bag_rows(m, &c->keyboard[s], window(c, s), c->cached, c->host_step_in + 2 + 2 * S + s, (size_t)S);
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
