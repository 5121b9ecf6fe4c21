// forward.c: the model's forward pass on the CPU and its loss. The order of operations is the one of model.md, block by block.
// Knows nothing of how an operation is done (cpu/ops.h) or where the tokens come from.
#include <stdlib.h>
#include <string.h>

#include "cpu/context.h"

pa_status cpu_linear(pa_context *c, int rows, int in, int out, const void *x, int t, void *y, cpu_type y_type, pa_err *err) {
    cpu_product p = {.m = rows, .n = out, .k = in, .a = c->type, .b = c->type, .c = y_type, .b_t = true};
    return cpu_matmul_run(c->mm, &p, x, cpu_weight(c, t, 0), y, err);
}

pa_status cpu_set_shape(pa_context *c, const pa_batch *b, pa_err *err) {
    const pa_model *m = &c->params->model;
    int most = c->open.max_batch ? c->open.max_batch : (c->open.streams ? 1 : 0), prefix = b->length - b->latents;
    if (b->batch < 1 || b->batch > most) return pa_error(err, PA_USAGE, "batch: expected 1 to %d sequences, found %d", most, b->batch);
    if (b->latents < 1 || b->latents > m->context - m->prefix)
        return pa_error(err, PA_USAGE, "batch: expected 1 to %d latents, found %d", m->context - m->prefix, b->latents);
    if (prefix < 0 || prefix > m->prefix)
        return pa_error(err, PA_USAGE, "batch: expected a prefix of 0 to %d tokens, found %d", m->prefix, prefix);
    c->B = b->batch, c->N = b->latents, c->K = b->keep ? b->kept : prefix;
    if (c->K < 0 || c->K > prefix) return pa_error(err, PA_USAGE, "batch: expected 0 to %d kept prefix positions, found %d", prefix, c->K);
    c->Q = c->B * c->K, c->R = c->B * c->N;
    c->window = c->open.training ? b->window : NULL;
    for (int i = 0; i < b->batch; i++)
        for (int k = 0; k < c->K; k++) {
            int at = b->keep ? b->keep[i * c->K + k] : k;
            if (at < 0 || at >= prefix) return pa_error(err, PA_USAGE, "batch: kept position %d is not in the prefix of %d", at, prefix);
            c->token[i * c->K + k] = b->input[i * b->length + at];
            c->position[i * c->K + k] = at;
        }
    for (int i = 0; i < b->batch; i++)
        for (int n = 0; n < c->N; n++) {
            c->token[c->Q + i * c->N + n] = b->input[i * b->length + prefix + n];
            c->position[c->Q + i * c->N + n] = prefix + n;
        }
    for (int r = 0; r < c->Q + c->R; r++)
        if (c->token[r] >= m->vocab)
            return pa_error(err, PA_USAGE, "batch: expected tokens below %d, found %d", m->vocab, (int)c->token[r]);
    return PA_OK;
}

cpu_dropout cpu_dropout_of(const pa_context *c, int block) {
    float p = c->window ? (float)c->params->model.dropout : 0;
    return (cpu_dropout){.p = p, .seed = c->open.seed, .window = c->window, .layer = (uint32_t)block};
}

void cpu_attention_of(const pa_context *c, int block, cpu_attn *a) {
    const pa_model *m = &c->params->model;
    const pa_saved *s = &c->saved[block];
    bool cross = pa_is_cross(m, block);
    int I = pa_inner(m), ldkv = cross ? 2 * I : 3 * I;
    size_t prefix = cross ? (size_t)c->Q * (size_t)ldkv : 0;
    *a = (cpu_attn){.type = c->type,
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
                    .kn = cpu_at(c, s->k, prefix),
                    .vn = cpu_at(c, s->v, prefix)};
    if (cross) a->dropout = cpu_dropout_of(c, block); // as published: latent layers' attention has none
}

// Normalises a block's input: z = x + r where r is given (the previous block's last product), x itself else.
void cpu_enter(pa_context *c, int block, const float *x, const float *r, float *z) {
    const pa_block_index *t = &c->params->block[block];
    pa_saved *s = &c->saved[block];
    int C = c->params->model.dim, Q = pa_is_cross(&c->params->model, block) ? c->Q : 0;
    if (Q)
        c->ops->layernorm_fwd(c->type, NULL, s->zn, s->mean, s->rstd, c->xp, NULL, NULL, cpu_param(c, t->context_norm_w),
                              cpu_param(c, t->context_norm_b), Q, C);
    c->ops->layernorm_fwd(c->type, z, cpu_at(c, s->zn, (size_t)Q * (size_t)C), s->mean + Q, s->rstd + Q, x, r, NULL,
                          cpu_param(c, t->norm_w), cpu_param(c, t->norm_b), c->R, C);
}

// Queries, keys and values from the normalised input, heads normalised and rotated.
static pa_status project(pa_context *c, int block, pa_err *err) {
    const pa_model *m = &c->params->model;
    const pa_block_index *t = &c->params->block[block];
    pa_saved *s = &c->saved[block];
    int C = m->dim, I = pa_inner(m), H = m->heads, D = m->dim_head, rotary = pa_rotary_dims(m);
    bool cross = pa_is_cross(m, block);
    int Q = cross ? c->Q : 0, ldq = cross ? I : 3 * I, ldkv = cross ? 2 * I : 3 * I;
    const int32_t *position = c->position + c->Q - Q;
    pa_status e;
    if (cross) {
        const void *latents = cpu_at(c, s->zn, (size_t)Q * (size_t)C);
        if ((e = cpu_linear(c, c->R, C, I, latents, t->q, s->q, c->type, err))) return e;
        if ((e = cpu_linear(c, Q + c->R, C, 2 * I, s->zn, t->kv, s->k, c->type, err))) return e;
    } else if ((e = cpu_linear(c, c->R, C, 3 * I, s->zn, t->qkv, s->q, c->type, err))) {
        return e;
    }
    if (m->qk_norm) {
        c->ops->head_norm_fwd(c->type, s->q, ldq, s->q_rstd, cpu_param(c, t->q_norm), c->R, H, D);
        c->ops->head_norm_fwd(c->type, s->k, ldkv, s->k_rstd, cpu_param(c, t->k_norm), Q + c->R, H, D);
    }
    c->ops->rotary(c->type, s->q, ldq, c->position + c->Q, c->rotary_table, c->R, H, D, rotary, 1);
    c->ops->rotary(c->type, s->k, ldkv, position, c->rotary_table, Q + c->R, H, D, rotary, 1);
    return PA_OK;
}

// From a block's queries, keys and values to z_mid and, with last_product, the feed-forward's output in y: of the latents from `first` on,
// which lie from the buffers' start. first > 0 is for one sequence without dropout.
static pa_status finish(pa_context *c, int block, int first, bool last_product, pa_err *err) {
    const pa_model *m = &c->params->model;
    const pa_block_index *t = &c->params->block[block];
    pa_saved *s = &c->saved[block];
    int C = m->dim, I = pa_inner(m), F = pa_ff(m), R = c->R - first;
    pa_status e;
    cpu_attn a;
    cpu_attention_of(c, block, &a);
    if (first) { // earlier latents' keys are behind the prefix's, and as visible
        size_t before = (size_t)(a.kept + first) * (size_t)a.ldkv;
        a.q = cpu_at(c, s->q, (size_t)first * (size_t)a.ldq);
        a.kn = cpu_at(c, s->k, before), a.vn = cpu_at(c, s->v, before);
        a.kept += first, a.latents = R;
    }
    c->ops->attn_fwd(&a, s->o, s->lse, c->work);
    if ((e = cpu_linear(c, R, I, C, s->o, t->out_w, c->y, CPU_F32, err))) return e;
    c->ops->layernorm_fwd(c->type, s->z_mid, s->zn2, s->mean2, s->rstd2, c->z[block] + (size_t)first * (size_t)C, c->y,
                          cpu_param(c, t->out_b), cpu_param(c, t->ff_norm_w), cpu_param(c, t->ff_norm_b), R, C);
    if ((e = cpu_linear(c, R, C, F, s->zn2, t->ff_1, s->h, c->type, err))) return e;
    cpu_dropout drop = cpu_dropout_of(c, block);
    c->ops->activation_fwd(c->type, m->activation, s->g, s->h, R, F, &drop, c->N);
    return last_product ? cpu_linear(c, R, F, C, s->g, t->ff_4, c->y, CPU_F32, err) : PA_OK;
}

pa_status cpu_body(pa_context *c, int block, bool last_product, pa_err *err) {
    pa_status e = project(c, block, err);
    return e ? e : finish(c, block, 0, last_product, err);
}

pa_status cpu_forward(pa_context *c, const pa_batch *b, void (*keep)(pa_context *, int, int), int stream, pa_err *err) {
    const pa_model *m = &c->params->model;
    const pa_params *p = c->params;
    int C = m->dim, last = c->blocks - 1;
    pa_status e = cpu_set_shape(c, b, err);
    if (e) return e;
    const int first = keep ? c->R - 1 : 0; // of the rows that the last block goes on with
    cpu_refresh_weights(c);
    c->ops->embed_fwd(c->xp, c->token, c->position, cpu_param(c, p->token_emb), cpu_param(c, p->pos_emb), c->Q, C);
    c->ops->embed_fwd(c->z[0], c->token + c->Q, c->position + c->Q, cpu_param(c, p->token_emb), cpu_param(c, p->pos_emb), c->R, C);
    cpu_enter(c, 0, c->z[0], NULL, NULL);
    for (int i = 0; i < c->blocks; i++) {
        if ((e = project(c, i, err))) return e;
        if (keep) keep(c, i, stream);
        if ((e = finish(c, i, i == last ? first : 0, true, err))) return e;
        if (i < last) cpu_enter(c, i + 1, c->saved[i].z_mid, c->y, c->z[i + 1]);
    }
    c->ops->layernorm_fwd(c->type, c->z[c->blocks], c->zf, c->mean_f, c->rstd_f, c->saved[last].z_mid, c->y, NULL,
                          cpu_param(c, p->final_norm_w), cpu_param(c, p->final_norm_b), c->R - first, C);
    return PA_OK;
}

pa_status cpu_loss(pa_context *c, const pa_batch *b, double *sum, const pa_scores *scores, pa_err *err) {
    const pa_model *m = &c->params->model;
    if (!c->logits) return pa_error(err, PA_USAGE, "loss: this context was opened without room for a batch");
    pa_status e = cpu_forward(c, b, NULL, 0, err);
    if (e || (e = cpu_linear(c, c->R, m->dim, m->vocab, c->zf, c->params->logits, c->logits, CPU_F32, err))) return e;
    c->ops->cross_entropy(c->type, NULL, c->nats, scores ? scores->best : NULL, c->logits, b->target, 0, 0, c->R, m->vocab);
    *sum = 0;
    for (int r = 0; r < c->R; r++) *sum += (double)c->nats[r];
    if (scores && scores->nats) memcpy(scores->nats, c->nats, (size_t)c->R * 4);
    if (scores && scores->logits) memcpy(scores->logits, c->logits, (size_t)c->R * (size_t)m->vocab * 4);
    return PA_OK;
}
