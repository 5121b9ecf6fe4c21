// backward.c: the model's gradients on the CPU, block by block in reverse, and the optimiser's step. Mirrors forward.c line by line.
// Gradients of parameters are added up; gradients of activations overwrite their buffers. dz is the residual stream's, float32;
// dza is its copy for products. Knows nothing of how an operation is done (cpu/ops.h).
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/context.h"

// Gradients of tensor t and of all behind it in the table are final: the backward pass goes through it from its end to its start.
static pa_status made(pa_context *c, int t, pa_err *err) {
    size_t from = t < c->params->count ? c->params->row[t].offset : c->params->floats;
    return c->summing ? pa_comm_reduce_ready(c->open.comm, c->final = from, err) : PA_OK;
}

// Between long operations: what other ranks have sent meanwhile is summed and answered.
static pa_status go_on(pa_context *c, pa_err *err) {
    return c->summing ? pa_comm_reduce_ready(c->open.comm, c->final, err) : PA_OK;
}

// dx (rows, in) (+)= dy (rows, out) w
static pa_status input_gradient(pa_context *c, int rows, int in, int out, const void *dy, int t, void *dx, bool add, pa_err *err) {
    cpu_product p = {.m = rows, .n = in, .k = out, .a = c->type, .b = c->type, .c = c->type, .add = add};
    pa_status e = cpu_matmul_run(c->mm, &p, dy, cpu_weight(c, t, 0), dx, err);
    return e ? e : go_on(c, err);
}

// dw (out, in) += dy^T x
static pa_status weight_gradient(pa_context *c, int rows, int in, int out, const void *dy, const void *x, int t, pa_err *err) {
    cpu_product p = {.m = out, .n = in, .k = rows, .a = c->type, .b = c->type, .c = CPU_F32, .a_t = true, .add = true};
    pa_status e = cpu_matmul_run(c->mm, &p, dy, x, cpu_grad(c, t), err);
    return e ? e : go_on(c, err);
}

// The feed-forward half: from dz, dza at the block's end to dz, dza after attention.
static pa_status ff_backward(pa_context *c, int block, pa_err *err) {
    const pa_model *m = &c->params->model;
    const pa_block_index *t = &c->params->block[block];
    pa_saved *s = &c->saved[block];
    int C = m->dim, F = pa_ff(m), R = c->R;
    pa_status e;
    if ((e = weight_gradient(c, R, F, C, c->dza, s->g, t->ff_4, err))) return e;
    if ((e = input_gradient(c, R, F, C, c->dza, t->ff_4, c->dff, false, err))) return e;
    cpu_dropout drop = cpu_dropout_of(c, block);
    c->ops->activation_bwd(c->type, m->activation, c->dff, s->h, R, F, &drop, c->N);
    if ((e = weight_gradient(c, R, C, F, c->dff, s->zn2, t->ff_1, err))) return e;
    if ((e = input_gradient(c, R, C, F, c->dff, t->ff_1, c->dxn, false, err))) return e;
    c->ops->layernorm_bwd(c->type, c->dz, c->dza, cpu_grad(c, t->ff_norm_w), cpu_grad(c, t->ff_norm_b), c->dxn, s->z_mid, s->mean2,
                          s->rstd2, cpu_param(c, t->ff_norm_w), R, C, c->work);
    return made(c, t->ff_norm_w, err);
}

// Gradients of q, k, v through rotation and head norms, in place.
static void unrotate(pa_context *c, int block, int Q, int ldq, int ldkv, void *dq, void *dk) {
    const pa_model *m = &c->params->model;
    const pa_block_index *t = &c->params->block[block];
    pa_saved *s = &c->saved[block];
    int H = m->heads, D = m->dim_head, rotary = pa_rotary_dims(m);
    const int32_t *latent = c->position + c->Q, *all = latent - Q;
    c->ops->rotary(c->type, dq, ldq, latent, c->rotary_table, c->R, H, D, rotary, -1);
    c->ops->rotary(c->type, dk, ldkv, all, c->rotary_table, Q + c->R, H, D, rotary, -1);
    if (!m->qk_norm) return;
    // Head norms are undone from their own outputs, which lie rotated in q and k: turn those back first.
    c->ops->rotary(c->type, s->q, ldq, latent, c->rotary_table, c->R, H, D, rotary, -1);
    c->ops->rotary(c->type, s->k, ldkv, all, c->rotary_table, Q + c->R, H, D, rotary, -1);
    c->ops->head_norm_bwd(c->type, dq, ldq, cpu_grad(c, t->q_norm), s->q, ldq, s->q_rstd, cpu_param(c, t->q_norm), c->R, H, D, c->work);
    c->ops->head_norm_bwd(c->type, dk, ldkv, cpu_grad(c, t->k_norm), s->k, ldkv, s->k_rstd, cpu_param(c, t->k_norm), Q + c->R, H, D,
                          c->work);
}

// From dq and dkv to the gradient of the normalised input, dxn (Q + R, C).
static pa_status projection_backward(pa_context *c, int block, int Q, const void *dq, const void *dkv, pa_err *err) {
    const pa_model *m = &c->params->model;
    const pa_block_index *t = &c->params->block[block];
    const pa_saved *s = &c->saved[block];
    int C = m->dim, I = pa_inner(m);
    pa_status e;
    if (!pa_is_cross(m, block)) {
        if ((e = weight_gradient(c, c->R, C, 3 * I, dq, s->zn, t->qkv, err))) return e;
        return input_gradient(c, c->R, C, 3 * I, dq, t->qkv, c->dxn, false, err);
    }
    size_t latents = (size_t)Q * (size_t)C;
    if ((e = weight_gradient(c, c->R, C, I, dq, cpu_at(c, s->zn, latents), t->q, err))) return e;
    if ((e = weight_gradient(c, Q + c->R, C, 2 * I, dkv, s->zn, t->kv, err))) return e;
    if ((e = input_gradient(c, Q + c->R, C, 2 * I, dkv, t->kv, c->dxn, false, err))) return e;
    return input_gradient(c, c->R, C, I, dq, t->q, cpu_at(c, c->dxn, latents), true, err);
}

static pa_status attention_backward(pa_context *c, int block, pa_err *err) {
    const pa_model *m = &c->params->model;
    const pa_block_index *t = &c->params->block[block];
    const pa_saved *s = &c->saved[block];
    bool cross = pa_is_cross(m, block);
    int C = m->dim, I = pa_inner(m), R = c->R, Q = cross ? c->Q : 0, ldkv = cross ? 2 * I : 3 * I;
    pa_status e;
    if (t->out_b >= 0) c->ops->column_sum(cpu_grad(c, t->out_b), c->dz, R, C);
    if ((e = weight_gradient(c, R, I, C, c->dza, s->o, t->out_w, err))) return e;
    if ((e = input_gradient(c, R, I, C, c->dza, t->out_w, c->dout, false, err))) return e;
    cpu_attn a;
    cpu_attention_of(c, block, &a);
    void *dk = cross ? c->dkv : cpu_at(c, c->dq, (size_t)I), *dv = cpu_at(c, dk, (size_t)I);
    size_t prefix = (size_t)Q * (size_t)ldkv;
    c->ops->attn_bwd(&a, s->o, s->lse, c->dout, c->dq, dk, dv, cpu_at(c, dk, prefix), cpu_at(c, dv, prefix), c->work);
    unrotate(c, block, Q, cross ? I : 3 * I, ldkv, c->dq, dk);
    if ((e = projection_backward(c, block, Q, c->dq, c->dkv, err))) return e;
    if (Q)
        c->ops->layernorm_bwd(c->type, c->dxp, NULL, cpu_grad(c, t->context_norm_w), cpu_grad(c, t->context_norm_b), c->dxn, c->xp, s->mean,
                              s->rstd, cpu_param(c, t->context_norm_w), Q, C, c->work);
    c->ops->layernorm_bwd(c->type, c->dz, c->dza, cpu_grad(c, t->norm_w), cpu_grad(c, t->norm_b), cpu_at(c, c->dxn, (size_t)Q * (size_t)C),
                          c->z[block], s->mean + Q, s->rstd + Q, cpu_param(c, t->norm_w), R, C, c->work);
    return made(c, t->norm_w, err);
}

// From the logits' gradient to dz, dza at the last block's end.
static pa_status head_backward(pa_context *c, pa_err *err) {
    const pa_params *p = c->params;
    int C = p->model.dim, V = p->model.vocab, R = c->R;
    pa_status e;
    if ((e = weight_gradient(c, R, C, V, c->dlogits, c->zf, p->logits, err))) return e;
    if ((e = input_gradient(c, R, C, V, c->dlogits, p->logits, c->dza, false, err))) return e;
    if (p->model.final_norm) {
        memset(c->dz, 0, (size_t)R * (size_t)C * 4);
        memcpy(c->dxn, c->dza, (size_t)R * (size_t)C * cpu_size(c->type));
        c->ops->layernorm_bwd(c->type, c->dz, c->dza, cpu_grad(c, p->final_norm_w), cpu_grad(c, p->final_norm_b), c->dxn, c->z[c->blocks],
                              c->mean_f, c->rstd_f, cpu_param(c, p->final_norm_w), R, C, c->work);
    } else {
        c->ops->widen(c->type, c->dz, c->dza, (size_t)R * (size_t)C);
    }
    return made(c, p->model.final_norm ? p->final_norm_w : p->model.tie_embeddings ? p->count : p->logits, err);
}

pa_status cpu_loss_grad(pa_context *c, const pa_batch *b, float scale, double *sum, pa_err *err) {
    const pa_params *p = c->params;
    const pa_model *m = &p->model;
    int C = m->dim;
    if (!c->dz) return pa_error(err, PA_USAGE, "loss_grad: this context was not opened for training");
    if (c->summing) return pa_error(err, PA_USAGE, "loss_grad: expected an update after the last gradient of a step");
    pa_status e = cpu_forward(c, b, NULL, 0, err);
    if (e || (e = cpu_linear(c, c->R, C, m->vocab, c->zf, p->logits, c->logits, CPU_F32, err))) return e;
    c->ops->cross_entropy(c->type, c->dlogits, c->nats, NULL, c->logits, b->target, scale, (float)m->z_loss, c->R, m->vocab);
    double nats = 0;
    for (int r = 0; r < c->R; r++) nats += (double)c->nats[r];
    c->nats_sum += nats;
    if (sum) *sum = nats;
    if (c->Q) memset(c->dxp, 0, (size_t)c->Q * (size_t)C * 4);
    c->final = p->floats, c->summing = b->last && c->open.comm->size > 1;
    if (c->summing && (e = pa_comm_reduce_begin(c->open.comm, c->grad, p->floats, c->shared, err))) return e;
    if ((e = head_backward(c, err))) return e;
    for (int i = c->blocks - 1; i >= 0; i--) {
        if (c->open.recompute) {
            cpu_enter(c, i, c->z[i], NULL, NULL);
            if ((e = cpu_body(c, i, false, err))) return e;
        }
        if ((e = ff_backward(c, i, err)) || (e = attention_backward(c, i, err))) return e;
    }
    float *tokens = cpu_grad(c, p->token_emb), *positions = cpu_grad(c, p->pos_emb);
    c->ops->embed_bwd(tokens, positions, c->dxp, c->token, c->position, c->Q, C);
    c->ops->embed_bwd(tokens, positions, c->dz, c->token + c->Q, c->position + c->Q, c->R, C);
    return made(c, 0, err);
}

// The sum of squares over the sum of all ranks' gradients: each adds up those of its shares, whether it has the others' or not.
static pa_status sum_squares(pa_context *c, double *sum, pa_err *err) {
    size_t n = c->params->floats;
    pa_comm *comm = c->open.comm;
    *sum = 0;
    if (comm->size == 1) {
        *sum = c->ops->sum_squares(c->grad, n);
        return PA_OK;
    }
    for (size_t b = 0; b < pa_comm_buckets(comm, n); b++) {
        pa_span own = pa_comm_share(comm, n, b, comm->rank);
        *sum += c->ops->sum_squares(c->grad + own.from, own.to - own.from);
    }
    return pa_comm_sum_f64(comm, sum, 1, err);
}

// Parameters [own.from, own.to), whose moments begin at `moment`.
static void update_span(pa_context *c, const pa_update *u, float scale, pa_span own, size_t moment) {
    const pa_params *p = c->params;
    for (int i = 0; i < p->count; i++) {
        const pa_param *row = &p->row[i];
        size_t from = row->offset > own.from ? row->offset : own.from;
        size_t to = row->offset + row->size < own.to ? row->offset + row->size : own.to, m = moment + from - own.from;
        if (from >= to) continue;
        c->ops->adam(c->param + from, c->grad + from, c->moment1 + m, c->moment2 + m, c->weight ? c->weight + from : NULL, to - from, scale,
                     u->lr, u->beta1, u->beta2, u->eps, row->decays ? u->weight_decay : 0, u->decoupled, 1 - pow(u->beta1, (double)u->step),
                     1 - pow(u->beta2, (double)u->step));
    }
}

// This rank's shares alone; then all ranks' parameters come together.
static pa_status update_shares(pa_context *c, const pa_update *u, float scale, pa_err *err) {
    pa_comm *comm = c->open.comm;
    size_t n = c->params->floats, moment = 0;
    for (size_t b = 0; b < pa_comm_buckets(comm, n); b++) {
        pa_span own = pa_comm_share(comm, n, b, comm->rank);
        update_span(c, u, scale, own, moment);
        moment += own.to - own.from;
    }
    memset(c->grad, 0, n * 4);
    c->weight_stale = true;
    return pa_comm_gather_shares(comm, c->param, n, err);
}

pa_status cpu_update(pa_context *c, const pa_update *u, double *norm, double *nats, pa_err *err) {
    size_t n = c->params->floats;
    double squares;
    if (!c->grad) return pa_error(err, PA_USAGE, "update: this context was not opened for training");
    pa_status e = c->summing ? PA_OK : pa_comm_reduce_begin(c->open.comm, c->grad, n, c->shared, err);
    c->summing = false;
    if (e || (e = pa_comm_reduce_end(c->open.comm, err)) || (e = sum_squares(c, &squares, err))) return e;
    *norm = sqrt(squares);
    if (nats) *nats = c->nats_sum;
    c->nats_sum = 0;
    if (!isfinite(*norm)) {
        memset(c->grad, 0, n * 4);
        return PA_OK;
    }
    float scale = u->clip > 0 && *norm > u->clip ? (float)(u->clip / *norm) : 1;
    if (c->shared) return update_shares(c, u, scale, err);
    update_span(c, u, scale, (pa_span){0, n}, 0);
    return PA_OK;
}
