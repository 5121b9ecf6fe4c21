// backward.c: see backward.h. Mirrors forward.c block by block, in reverse. Gradients of parameters are added up;
// gradients of activations overwrite their buffers. dz is the residual stream's, float32; dza is its copy for products.
#include "host/model/backward.h"

#include "host/model/batch.h"
#include "host/model/forward.h"
#include "host/model/open.h"

// Gradients of tensor t and of all behind it in the table are final: the backward pass goes through the table from its
// end to its start.
static pa_status gradients_final(pa_context *c, int t, pa_err *err) {
    size_t from = t < c->params->count ? c->params->row[t].offset : c->floats;
    return c->last ? c->ops->sum_ready(c->device, from, err) : PA_OK;
}

// Numbers from row to row of a gradient of tensor t's output; 0: no gaps.
static int gradient_ld(const pa_context *c, int t) {
    return t == c->params->logits && c->logits_ld > c->params->model.vocab ? c->logits_ld : 0;
}

// dx (rows, in) (+)= dy (rows, out) w
static pa_status input_gradient(pa_context *c, int rows, const void *dy, int t, void *dx, bool add, pa_err *err) {
    const pa_param *w = &c->params->row[t];
    pa_product p = {
        .m = rows, .n = w->shape[1], .k = w->shape[0], .a = c->type, .b = c->type, .c = c->type, .add = add};
    p.lda = gradient_ld(c, t);
    return c->ops->product(c->device, &p, dy, pa_weight(c, t, 0), dx, err);
}

// dw (out, in) += dy^T x; a step's first overwrites what the last step left there.
static pa_status weight_gradient(pa_context *c, int rows, const void *dy, const void *x, int t, pa_err *err) {
    const pa_param *w = &c->params->row[t];
    pa_product p = {.m = w->shape[0],
                    .n = w->shape[1],
                    .k = rows,
                    .a = c->type,
                    .b = c->type,
                    .c = PA_TYPE_F32,
                    .a_t = true,
                    .lda = gradient_ld(c, t),
                    .add = !c->first || !w->linear};
    return c->ops->product(c->device, &p, dy, x, pa_gradient(c, t), err);
}

// The feed-forward half: from dz, dza at the block's end to dz, dza after attention.
static pa_status ff_backward(pa_context *c, int block, pa_err *err) {
    const pa_model *m = &c->params->model;
    const pa_block_index *t = &c->params->block[block];
    pa_saved *s = &c->saved[block];
    int C = m->dim, F = pa_ff(m), R = c->R;
    pa_status e;
    if ((e = weight_gradient(c, R, c->dza, s->g, t->ff_4, err))) return e;
    if ((e = input_gradient(c, R, c->dza, t->ff_4, c->dff, false, err))) return e;
    pa_dropout drop = pa_dropout_of(c, block);
    c->ops->activation_bwd(c->device, &(pa_activate){.type = c->type,
                                                     .kind = m->activation,
                                                     .g = c->dff,
                                                     .h = s->h,
                                                     .rows = R,
                                                     .F = F,
                                                     .dropout = &drop,
                                                     .sequence = c->N});
    if ((e = weight_gradient(c, R, c->dff, s->zn2, t->ff_1, err))) return e;
    if ((e = input_gradient(c, R, c->dff, t->ff_1, c->dxn, false, err))) return e;
    c->ops->layernorm_bwd(c->device, &(pa_layernorm_grads){.type = c->type,
                                                           .dx = c->dz,
                                                           .dx_copy = c->dza,
                                                           .dw = pa_gradient(c, t->ff_norm_w),
                                                           .db = pa_gradient(c, t->ff_norm_b),
                                                           .dy = c->dxn,
                                                           .x = s->z_mid,
                                                           .mean = s->mean2,
                                                           .rstd = s->rstd2,
                                                           .w = pa_parameter(c, t->ff_norm_w),
                                                           .rows = R,
                                                           .C = C,
                                                           .work = c->work.at});
    return gradients_final(c, t->ff_norm_w, err);
}

static void norm_heads_backward(pa_context *c, void *dy, void *x, int ld, const float *rstd, int norm, int rows) {
    const pa_model *m = &c->params->model;
    c->ops->head_norm_bwd(c->device, &(pa_head_norm_grads){.type = c->type,
                                                           .dy = dy,
                                                           .ld_dy = ld,
                                                           .dw = pa_gradient(c, norm),
                                                           .x = x,
                                                           .ld_x = ld,
                                                           .rstd = rstd,
                                                           .w = pa_parameter(c, norm),
                                                           .rows = rows,
                                                           .H = m->heads,
                                                           .D = m->dim_head,
                                                           .work = c->work.at});
}

// Gradients of q and k through rotation and head norms, in place.
static void unrotate(pa_context *c, int block, int Q, int ldq, int ldkv, void *dq, void *dk) {
    const pa_block_index *t = &c->params->block[block];
    pa_saved *s = &c->saved[block];
    pa_turn_heads(c, block, dq, dk, -1);
    if (!c->params->model.qk_norm) return;
    // The norms' gradients are computed from their outputs, which are in q and k, rotated: rotate them back first.
    pa_turn_heads(c, block, s->q, s->k, -1);
    norm_heads_backward(c, dq, s->q, ldq, s->q_rstd, t->q_norm, c->R);
    norm_heads_backward(c, dk, s->k, ldkv, s->k_rstd, t->k_norm, Q + c->R);
}

// From dq and dkv to the gradient of the normalised input, dxn (Q + R, C).
static pa_status projection_backward(pa_context *c, int block, int Q, pa_err *err) {
    const pa_model *m = &c->params->model;
    const pa_block_index *t = &c->params->block[block];
    const pa_saved *s = &c->saved[block];
    int C = m->dim;
    pa_status e;
    if (!pa_is_cross(m, block)) {
        if ((e = weight_gradient(c, c->R, c->dq, s->zn, t->qkv, err))) return e;
        return input_gradient(c, c->R, c->dq, t->qkv, c->dxn, false, err);
    }
    size_t latents = (size_t)Q * (size_t)C;
    if ((e = weight_gradient(c, c->R, c->dq, pa_at(c, s->zn, latents), t->q, err))) return e;
    if ((e = weight_gradient(c, Q + c->R, c->dkv, s->zn, t->kv, err))) return e;
    if ((e = input_gradient(c, Q + c->R, c->dkv, t->kv, c->dxn, false, err))) return e;
    return input_gradient(c, c->R, c->dq, t->q, pa_at(c, c->dxn, latents), true, err);
}

// A block's first norms: from dxn to dxp, dz and dza.
static void enter_backward(pa_context *c, int block, int Q) {
    const pa_block_index *t = &c->params->block[block];
    const pa_saved *s = &c->saved[block];
    int C = c->params->model.dim;
    if (Q)
        c->ops->layernorm_bwd(c->device, &(pa_layernorm_grads){.type = c->type,
                                                               .dx = c->dxp,
                                                               .dw = pa_gradient(c, t->context_norm_w),
                                                               .db = pa_gradient(c, t->context_norm_b),
                                                               .dy = c->dxn,
                                                               .x = c->xp,
                                                               .mean = s->mean,
                                                               .rstd = s->rstd,
                                                               .w = pa_parameter(c, t->context_norm_w),
                                                               .rows = Q,
                                                               .C = C,
                                                               .work = c->work.at});
    c->ops->layernorm_bwd(c->device, &(pa_layernorm_grads){.type = c->type,
                                                           .dx = c->dz,
                                                           .dx_copy = c->dza,
                                                           .dw = pa_gradient(c, t->norm_w),
                                                           .db = pa_gradient(c, t->norm_b),
                                                           .dy = pa_at(c, c->dxn, (size_t)Q * (size_t)C),
                                                           .x = c->z[block],
                                                           .mean = s->mean + Q,
                                                           .rstd = s->rstd + Q,
                                                           .w = pa_parameter(c, t->norm_w),
                                                           .rows = c->R,
                                                           .C = C,
                                                           .work = c->work.at});
}

static pa_status attention_backward(pa_context *c, int block, pa_err *err) {
    const pa_model *m = &c->params->model;
    const pa_block_index *t = &c->params->block[block];
    const pa_saved *s = &c->saved[block];
    bool cross = pa_is_cross(m, block);
    int C = m->dim, I = pa_inner(m), R = c->R, Q = cross ? c->Q : 0, ldkv = cross ? 2 * I : 3 * I;
    pa_status e;
    if (t->out_b >= 0) c->ops->column_sum(c->device, pa_gradient(c, t->out_b), c->dz, R, C, c->work.at);
    if ((e = weight_gradient(c, R, c->dza, s->o, t->out_w, err))) return e;
    if ((e = input_gradient(c, R, c->dza, t->out_w, c->dout, false, err))) return e;
    pa_attn a = pa_attention_of(c, block);
    size_t prefix = (size_t)Q * (size_t)ldkv;
    pa_work work = c->work;
    work.rare = pa_is_rare(c);
    void *dk = cross ? c->dkv : pa_at(c, c->dq, (size_t)I), *dv = pa_at(c, dk, (size_t)I);
    c->ops->attn_bwd(c->device, &a,
                     &(pa_attn_grads){.o = s->o,
                                      .lse = s->lse,
                                      .dout = c->dout,
                                      .dq = c->dq,
                                      .dkp = dk,
                                      .dvp = dv,
                                      .dkn = pa_at(c, dk, prefix),
                                      .dvn = pa_at(c, dv, prefix)},
                     work);
    if (m->value_emb)
        c->ops->add_rows_bwd(c->device, &(pa_add_rows_grads){.type = c->type,
                                                             .dtable = pa_gradient(c, t->value_emb),
                                                             .dx = dv,
                                                             .ld = ldkv,
                                                             .token = c->in.token + (cross ? 0 : c->Q),
                                                             .rows = Q + R,
                                                             .C = I,
                                                             .V = m->vocab});
    unrotate(c, block, Q, cross ? I : 3 * I, ldkv, c->dq, dk);
    if ((e = projection_backward(c, block, Q, err))) return e;
    enter_backward(c, block, Q);
    return gradients_final(c, t->norm_w, err);
}

// From the logits' gradient to dz, dza at the last block's end.
static pa_status head_backward(pa_context *c, pa_err *err) {
    const pa_params *p = c->params;
    int C = p->model.dim, R = c->R;
    size_t numbers = (size_t)R * (size_t)C;
    pa_status e;
    if ((e = weight_gradient(c, R, c->dlogits, c->zf, p->logits, err))) return e;
    if ((e = input_gradient(c, R, c->dlogits, p->logits, c->dza, false, err))) return e;
    if (!p->model.final_norm) {
        c->ops->widen(c->device, c->type, c->dz, c->dza, numbers);
        return gradients_final(c, p->model.tie_embeddings ? p->count : p->logits, err);
    }
    if ((e = c->ops->clear(c->device, c->dz, numbers * sizeof *c->dz, err))) return e;
    if ((e = c->ops->copy(c->device, c->dxn, c->dza, numbers * pa_size(c->type), err))) return e;
    c->ops->layernorm_bwd(c->device, &(pa_layernorm_grads){.type = c->type,
                                                           .dx = c->dz,
                                                           .dx_copy = c->dza,
                                                           .dw = pa_gradient(c, p->final_norm_w),
                                                           .db = pa_gradient(c, p->final_norm_b),
                                                           .dy = c->dxn,
                                                           .x = c->z[c->blocks],
                                                           .mean = c->mean_f,
                                                           .rstd = c->rstd_f,
                                                           .w = pa_parameter(c, p->final_norm_w),
                                                           .rows = R,
                                                           .C = C,
                                                           .work = c->work.at});
    return gradients_final(c, p->final_norm_w, err);
}

static void embed_backward(pa_context *c, const float *dx, int from, int rows) {
    const pa_params *p = c->params;
    pa_bag_part part[PA_BAG_PARTS];
    c->ops->embed_bwd(c->device, &(pa_embed_grads){.dtoken_emb = pa_gradient(c, p->token_emb),
                                                   .dpos_emb = pa_gradient(c, p->pos_emb),
                                                   .dbag_emb = pa_gradient(c, p->bag_emb),
                                                   .dx = dx,
                                                   .token = c->in.token + from,
                                                   .position = c->in.position + from,
                                                   .bag = c->in.bag + from,
                                                   .rows = rows,
                                                   .C = p->model.dim,
                                                   .V = p->model.vocab,
                                                   .positions = p->model.context,
                                                   .slots = pa_bag_slots(&p->model),
                                                   .slot_ld = c->Q + c->R,
                                                   .parts = pa_bag_parts(&p->model, part),
                                                   .part = part});
}

static pa_status backward(pa_context *c, pa_err *err) {
    pa_status e = head_backward(c, err);
    for (int i = c->blocks - 1; i >= 0 && !e; i--) {
        if (c->open.recompute && (e = pa_recompute(c, i, err))) return e;
        if (!(e = ff_backward(c, i, err))) e = attention_backward(c, i, err);
    }
    if (e) return e;
    embed_backward(c, c->dxp, 0, c->Q);
    embed_backward(c, c->dz, c->Q, c->R);
    return gradients_final(c, 0, err);
}

// All that the device does for a call. It only calls operations and copies, so that it can be replayed.
static pa_status forward_and_backward(void *what, pa_err *err) {
    pa_context *c = what;
    const pa_model *m = &c->params->model;
    pa_status e = pa_forward(c, NULL, 0, err);
    if (e || (e = pa_logits(c, c->R, c->logits_ld, err))) return e;
    c->ops->cross_entropy(c->device, &(pa_cross_entropy){.type = c->type,
                                                         .dlogits = c->dlogits,
                                                         .nats = c->nats,
                                                         .logits = c->logits,
                                                         .target = c->in.target,
                                                         .scalars = c->scalars,
                                                         .z_loss = (float)m->z_loss,
                                                         .rows = c->R,
                                                         .V = m->vocab,
                                                         .ld = c->logits_ld});
    c->ops->sum(c->device, &c->sums[PA_SUM_NATS], &c->sums[PA_SUM_TOTAL], c->nats, (size_t)c->R);
    if (c->Q && (e = c->ops->clear(c->device, c->dxp, (size_t)c->Q * (size_t)m->dim * sizeof *c->dxp, err))) return e;
    if (c->last && (e = c->ops->sum_begin(c->device, c->grad, c->own_grad, c->floats, c->shared, err))) return e;
    return backward(c, err);
}

pa_status pa_replay(pa_context *c, const pa_step *step, pa_status (*work)(void *, pa_err *), pa_err *err) {
    return c->ops->replay ? c->ops->replay(c->device, step, work, c, err) : work(c, err);
}

pa_status pa_context_loss_grad(pa_context *c, const pa_batch *b, float scale, double *sum, pa_err *err) {
    if (!c->dz) return pa_error(err, PA_USAGE, "loss_grad: this context was not opened for training");
    if (c->summing) return pa_error(err, PA_USAGE, "loss_grad: expected an update after the last gradient of a step");
    pa_slot *slot = c->staged;
    if (!b && !slot) return pa_error(err, PA_USAGE, "loss_grad: no batch was staged");
    if (!b) c->staged = NULL;
    pa_status e = b ? pa_send_batch(c, b, &slot, err) : PA_OK;
    if (e || (e = pa_take_batch(c, slot, scale * c->loss_scaling, err))) return e;
    pa_refresh_weights(c);
    c->first = c->grad_stale;
    c->grad_stale = false;
    pa_step step = {PA_STEP_GRADIENTS, c->B, c->M, c->N, c->K, c->dropout, c->first, c->last};
    e = pa_is_rare(c) ? forward_and_backward(c, err) : pa_replay(c, &step, forward_and_backward, err);
    c->summing = c->last;
    if (e || !sum) return e;
    e = c->ops->download(c->device, &c->host_sums[PA_SUM_NATS], &c->sums[PA_SUM_NATS], sizeof *sum, err);
    if (e || (e = c->ops->wait(c->device, "computing gradients", err))) return e;
    *sum = c->host_sums[PA_SUM_NATS];
    return PA_OK;
}
