// forward.c: see forward.h. Follows docs/model.md block by block. A residual is added by the product before it where
// the device's products can, else by the layer norm behind it: a feed-forward's where the next block begins; the last
// layer norm does nothing else where the model has no final_norm. Keys and values interleave: rows of (k, v), or
// (q, k, v).
#include "host/model/forward.h"

#include "host/model/batch.h"
#include "host/model/open.h"

// y (rows, out) = x (rows, in) w^T, where tensor t is w (out, in). p: rows, y's type, and what else is not as usual.
static pa_status multiply(pa_context *c, pa_product p, const void *x, int t, void *y, pa_err *err) {
    const pa_param *w = &c->params->row[t];
    p.n = w->shape[0];
    p.k = w->shape[1];
    p.a = p.b = c->type;
    p.b_t = true;
    return c->ops->product(c->device, &p, x, pa_weight(c, t, 0), y, err);
}

static pa_status linear(pa_context *c, int rows, const void *x, int t, void *y, pa_type y_type, pa_err *err) {
    return multiply(c, (pa_product){.m = rows, .c = y_type}, x, t, y, err);
}

// The same in float32, added to the residual `onto` (rows, out) unless that is NULL.
static pa_status linear_onto(pa_context *c, int rows, const void *x, int t, const float *onto, float *y, pa_err *err) {
    return multiply(c, (pa_product){.m = rows, .c = PA_TYPE_F32, .onto = onto}, x, t, y, err);
}

pa_dropout pa_dropout_of(const pa_context *c, int block) {
    float p = c->dropout ? (float)c->params->model.dropout : 0;
    return (pa_dropout){.p = p, .seed = c->open.seed, .window = c->in.window, .layer = (uint32_t)block};
}

pa_attn pa_attention_of(const pa_context *c, int block) {
    const pa_model *m = &c->params->model;
    const pa_saved *s = &c->saved[block];
    bool cross = pa_is_cross(m, block);
    int I = pa_inner(m), ldkv = cross ? 2 * I : 3 * I;
    size_t prefix = cross ? (size_t)c->Q * (size_t)ldkv : 0;
    pa_attn a = {.type = c->type,
                 .batch = c->B,
                 .latents = c->N,
                 .kept = cross ? c->K : 0,
                 .heads = m->heads,
                 .dim_head = m->dim_head,
                 .scale = c->softmax_scale,
                 .ldq = cross ? I : 3 * I,
                 .ldkv = ldkv,
                 .ldo = I,
                 .q = s->q,
                 .kp = s->k,
                 .vp = s->v,
                 .kn = pa_at(c, s->k, prefix),
                 .vn = pa_at(c, s->v, prefix)};
    if (cross) a.dropout = pa_dropout_of(c, block); // as published: latent layers' attention has none
    return a;
}

void pa_enter(pa_context *c, int block, const float *x, const float *r, float *z) {
    const pa_block_index *t = &c->params->block[block];
    pa_saved *s = &c->saved[block];
    int C = c->params->model.dim, Q = pa_is_cross(&c->params->model, block) ? c->Q : 0;
    if (Q)
        c->ops->layernorm_fwd(c->device, &(pa_layernorm){.type = c->type,
                                                         .y = s->zn,
                                                         .mean = s->mean,
                                                         .rstd = s->rstd,
                                                         .x = c->xp,
                                                         .w = pa_parameter(c, t->context_norm_w),
                                                         .b = pa_parameter(c, t->context_norm_b),
                                                         .rows = Q,
                                                         .C = C});
    c->ops->layernorm_fwd(c->device, &(pa_layernorm){.type = c->type,
                                                     .z = z,
                                                     .y = pa_at(c, s->zn, (size_t)Q * (size_t)C),
                                                     .mean = s->mean + Q,
                                                     .rstd = s->rstd + Q,
                                                     .x = x,
                                                     .r = r,
                                                     .w = pa_parameter(c, t->norm_w),
                                                     .b = pa_parameter(c, t->norm_b),
                                                     .rows = c->R,
                                                     .C = C});
}

void pa_turn_heads(pa_context *c, int block, void *q, void *k, float sign) {
    const pa_model *m = &c->params->model;
    const bool cross = pa_is_cross(m, block);
    const int I = pa_inner(m), Q = cross ? c->Q : 0;
    pa_rotary r = {.type = c->type,
                   .x = q,
                   .ld = cross ? I : 3 * I,
                   .position = c->in.position + c->Q,
                   .table = c->rotary_table,
                   .rows = c->R,
                   .H = cross ? m->heads : 2 * m->heads, // a latent layer's keys follow the queries in their row
                   .D = m->dim_head,
                   .dims = pa_rotary_dims(m),
                   .sign = sign};
    c->ops->rotary(c->device, &r);
    if (!cross) return;
    r.x = k;
    r.ld = 2 * I;
    r.position -= Q;
    r.rows += Q;
    c->ops->rotary(c->device, &r);
}

static void norm_heads(pa_context *c, void *x, int ld, float *rstd, int norm, int rows) {
    const pa_model *m = &c->params->model;
    c->ops->head_norm_fwd(c->device, &(pa_head_norm){.type = c->type,
                                                     .x = x,
                                                     .ld = ld,
                                                     .rstd = rstd,
                                                     .w = pa_parameter(c, norm),
                                                     .rows = rows,
                                                     .H = m->heads,
                                                     .D = m->dim_head});
}

// Queries, keys and values from the normalised input, heads normalised and rotated.
static pa_status project(pa_context *c, int block, pa_err *err) {
    const pa_model *m = &c->params->model;
    const pa_block_index *t = &c->params->block[block];
    pa_saved *s = &c->saved[block];
    bool cross = pa_is_cross(m, block);
    int C = m->dim, I = pa_inner(m), Q = cross ? c->Q : 0, ldq = cross ? I : 3 * I, ldkv = cross ? 2 * I : 3 * I;
    pa_status e;
    if (cross) {
        const void *latents = pa_at(c, s->zn, (size_t)Q * (size_t)C);
        if ((e = linear(c, c->R, latents, t->q, s->q, c->type, err))) return e;
        if ((e = linear(c, Q + c->R, s->zn, t->kv, s->k, c->type, err))) return e;
    } else if ((e = linear(c, c->R, s->zn, t->qkv, s->q, c->type, err))) {
        return e;
    }
    if (m->value_emb)
        c->ops->add_rows(c->device, &(pa_add_rows){.type = c->type,
                                                   .x = s->v,
                                                   .ld = ldkv,
                                                   .token = c->in.token + (cross ? 0 : c->Q),
                                                   .table = pa_parameter(c, t->value_emb),
                                                   .rows = Q + c->R,
                                                   .C = I});
    if (m->qk_norm) {
        norm_heads(c, s->q, ldq, s->q_rstd, t->q_norm, c->R);
        norm_heads(c, s->k, ldkv, s->k_rstd, t->k_norm, Q + c->R);
    }
    pa_turn_heads(c, block, s->q, s->k, 1);
    return PA_OK;
}

// The attention of latents from `first` on, whose rows then lie from the buffers' start. first > 0 is for one sequence
// without dropout.
static void attend(pa_context *c, int block, int first) {
    pa_saved *s = &c->saved[block];
    pa_attn a = pa_attention_of(c, block);
    pa_work work = c->work;
    work.rare = pa_is_rare(c);
    if (first) { // earlier latents' keys are behind the prefix's, and as visible
        size_t before = (size_t)(a.kept + first) * (size_t)a.ldkv;
        a.q = pa_at(c, s->q, (size_t)first * (size_t)a.ldq);
        a.kn = pa_at(c, s->k, before);
        a.vn = pa_at(c, s->v, before);
        a.kept += first;
        a.latents -= first;
        work.rare = true; // a shape of its own for each primer
    }
    c->ops->attn_fwd(c->device, &a, s->o, s->lse, work);
}

// From a block's queries, keys and values to z_mid and the feed-forward's activation, of the latents from `first` on;
// with last_product also the feed-forward's output: in y, or where products add, the next block's z.
static pa_status finish(pa_context *c, int block, int first, bool last_product, pa_err *err) {
    const pa_model *m = &c->params->model;
    const pa_block_index *t = &c->params->block[block];
    pa_saved *s = &c->saved[block];
    int C = m->dim, F = pa_ff(m), R = c->R - first;
    const float *z = c->z[block] + (size_t)first * (size_t)C;
    const bool adds = c->info.adds && t->out_b < 0; // with a bias, the layer norm adds both
    pa_status e;
    attend(c, block, first);
    if ((e = linear_onto(c, R, s->o, t->out_w, adds ? z : NULL, adds ? s->z_mid : c->y, err))) return e;
    c->ops->layernorm_fwd(c->device, &(pa_layernorm){.type = c->type,
                                                     .z = s->z_mid,
                                                     .y = s->zn2,
                                                     .mean = s->mean2,
                                                     .rstd = s->rstd2,
                                                     .x = adds ? s->z_mid : z,
                                                     .r = adds ? NULL : c->y,
                                                     .bias = pa_parameter(c, t->out_b),
                                                     .w = pa_parameter(c, t->ff_norm_w),
                                                     .b = pa_parameter(c, t->ff_norm_b),
                                                     .rows = R,
                                                     .C = C});
    if ((e = linear(c, R, s->zn2, t->ff_1, s->h, c->type, err))) return e;
    pa_dropout drop = pa_dropout_of(c, block);
    c->ops->activation_fwd(c->device, &(pa_activate){.type = c->type,
                                                     .kind = m->activation,
                                                     .g = s->g,
                                                     .h = s->h,
                                                     .rows = R,
                                                     .F = F,
                                                     .dropout = &drop,
                                                     .sequence = c->N});
    if (!last_product) return PA_OK;
    if (c->info.adds) return linear_onto(c, R, s->g, t->ff_4, s->z_mid, c->z[block + 1], err);
    return linear_onto(c, R, s->g, t->ff_4, NULL, c->y, err);
}

pa_status pa_recompute(pa_context *c, int block, pa_err *err) {
    pa_enter(c, block, c->z[block], NULL, NULL);
    pa_status e = project(c, block, err);
    return e ? e : finish(c, block, 0, false, err);
}

static void embed(pa_context *c, float *x, int from, int rows) {
    const pa_params *p = c->params;
    c->ops->embed_fwd(c->device, x,
                      &(pa_embed){.token = c->in.token + from,
                                  .position = c->in.position + from,
                                  .bag = c->in.bag + from,
                                  .token_emb = pa_parameter(c, p->token_emb),
                                  .pos_emb = pa_parameter(c, p->pos_emb),
                                  .bag_emb = pa_parameter(c, p->bag_emb),
                                  .rows = rows,
                                  .C = p->model.dim,
                                  .slots = pa_bag_slots(&p->model),
                                  .slot_ld = c->Q + c->R});
}

pa_status pa_forward(pa_context *c, pa_keep keep, int stream, pa_err *err) {
    const pa_params *p = c->params;
    int last = c->blocks - 1;
    const int first = keep ? c->R - 1 : 0; // of the rows that the last block computes
    pa_status e;
    embed(c, c->xp, 0, c->Q);
    embed(c, c->z[0], c->Q, c->R);
    pa_enter(c, 0, c->z[0], NULL, NULL);
    for (int i = 0; i < c->blocks; i++) {
        if ((e = project(c, i, err))) return e;
        if (keep && (e = keep(c, i, stream, err))) return e;
        if ((e = finish(c, i, i == last ? first : 0, true, err))) return e;
        if (i == last) break;
        if (c->info.adds)
            pa_enter(c, i + 1, c->z[i + 1], NULL, NULL);
        else
            pa_enter(c, i + 1, c->saved[i].z_mid, c->y, c->z[i + 1]);
    }
    c->ops->layernorm_fwd(c->device, &(pa_layernorm){.type = c->type,
                                                     .z = c->z[c->blocks],
                                                     .y = c->zf,
                                                     .mean = c->mean_f,
                                                     .rstd = c->rstd_f,
                                                     .x = c->info.adds ? c->z[c->blocks] : c->saved[last].z_mid,
                                                     .r = c->info.adds ? NULL : c->y,
                                                     .w = pa_parameter(c, p->final_norm_w),
                                                     .b = pa_parameter(c, p->final_norm_b),
                                                     .rows = c->R - first,
                                                     .C = p->model.dim});
    return PA_OK;
}

pa_status pa_logits(pa_context *c, int rows, int ld, pa_err *err) {
    pa_product p = {.m = rows, .c = PA_TYPE_F32, .ldc = ld > c->params->model.vocab ? ld : 0};
    return multiply(c, p, c->zf, c->params->logits, c->logits, err);
}

static pa_status fetch_scores(pa_context *c, const pa_scores *s, pa_err *err) {
    size_t rows = (size_t)c->R, logits = rows * (size_t)c->params->model.vocab * sizeof(float);
    pa_status e = PA_OK;
    if (s && s->best) e = c->ops->download(c->device, s->best, c->best, rows * sizeof *s->best, err);
    if (!e && s && s->nats) e = c->ops->download(c->device, s->nats, c->nats, rows * sizeof *s->nats, err);
    if (!e && s && s->logits) e = c->ops->download(c->device, s->logits, c->logits, logits, err);
    return e;
}

pa_status pa_context_loss(pa_context *c, const pa_batch *b, double *sum, const pa_scores *scores, pa_err *err) {
    if (!c->logits) return pa_error(err, PA_USAGE, "loss: this context was opened without room for a batch");
    pa_slot *slot;
    pa_status e = pa_send_batch(c, b, &slot, err);
    if (e || (e = pa_take_batch(c, slot, 0, err))) return e;
    pa_refresh_weights(c);
    if ((e = pa_forward(c, NULL, 0, err)) || (e = pa_logits(c, c->R, c->params->model.vocab, err))) return e;
    c->ops->cross_entropy(c->device, &(pa_cross_entropy){.type = c->type,
                                                         .nats = c->nats,
                                                         .best = scores && scores->best ? c->best : NULL,
                                                         .logits = c->logits,
                                                         .target = c->in.target,
                                                         .scalars = c->scalars,
                                                         .rows = c->R,
                                                         .V = c->params->model.vocab,
                                                         .ld = c->params->model.vocab});
    c->ops->sum(c->device, &c->sums[PA_SUM_NATS], NULL, c->nats, (size_t)c->R);
    if ((e = fetch_scores(c, scores, err))) return e;
    e = c->ops->download(c->device, &c->host_sums[PA_SUM_NATS], &c->sums[PA_SUM_NATS], sizeof(double), err);
    if (e || (e = c->ops->wait(c->device, "computing a loss", err))) return e;
    *sum = c->host_sums[PA_SUM_NATS];
    return PA_OK;
}
