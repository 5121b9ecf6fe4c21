// backward.c: the model's gradients on a GPU, block by block in reverse, and the optimiser's step. Mirrors forward.c line by line.
// Gradients of parameters are added up; gradients of activations overwrite their buffers. dz is the residual stream's, float32;
// dza is its copy for products. Knows nothing of how an operation is done (cuda/kernels.h).
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/context.h"

// Gradients of tensor t and of all behind it in the table are final: the backward pass goes through it from its end to its start.
static pa_status made(pa_context *c, int t, pa_err *err) {
    size_t from = t < c->params->count ? c->params->row[t].offset : c->params->floats;
    return c->summing ? cuda_ranks_sum(c->ranks, c->stream, c->grad, c->own_grad, c->floats, from, err) : PA_OK;
}

// dx (rows, in) (+)= dy (rows, out) w
static pa_status input_gradient(pa_context *c, int rows, int in, int out, const void *dy, int t, void *dx, bool add, pa_err *err) {
    cuda_product p = {.m = rows, .n = in, .k = out, .a = c->type, .b = c->type, .c = c->type, .add = add};
    return cuda_matmul_run(c->mm, &p, dy, cuda_weight(c, t, 0), dx, err);
}

// dw (out, in) += dy^T x
static pa_status weight_gradient(pa_context *c, int rows, int in, int out, const void *dy, const void *x, int t, pa_err *err) {
    cuda_product p = {.m = out, .n = in, .k = rows, .a = c->type, .b = c->type, .c = CUDA_F32, .a_t = true, .add = true};
    return cuda_matmul_run(c->mm, &p, dy, x, cuda_grad(c, t), err);
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
    cuda_dropout drop = cuda_dropout_of(c, block);
    cuda_activation_bwd(c->stream, c->type, (cuda_activation)m->activation, c->dff, s->h, R, F, &drop, c->N);
    if ((e = weight_gradient(c, R, C, F, c->dff, s->zn2, t->ff_1, err))) return e;
    if ((e = input_gradient(c, R, C, F, c->dff, t->ff_1, c->dxn, false, err))) return e;
    cuda_layernorm_bwd(c->stream, c->type, c->dz, c->dza, cuda_grad(c, t->ff_norm_w), cuda_grad(c, t->ff_norm_b), c->dxn, s->z_mid,
                       s->mean2, s->rstd2, cuda_param(c, t->ff_norm_w), R, C, c->work);
    return made(c, t->ff_norm_w, err);
}

// Gradients of q, k, v through rotation and head norms, in place.
static void unrotate(pa_context *c, int block, int Q, int ldq, int ldkv, void *dq, void *dk) {
    const pa_model *m = &c->params->model;
    const pa_block_index *t = &c->params->block[block];
    pa_saved *s = &c->saved[block];
    int H = m->heads, D = m->dim_head, rotary = pa_rotary_dims(m);
    const int32_t *latent = c->in.position + c->Q, *all = latent - Q;
    cuda_rotary(c->stream, c->type, dq, ldq, latent, c->rotary_table, c->R, H, D, rotary, -1);
    cuda_rotary(c->stream, c->type, dk, ldkv, all, c->rotary_table, Q + c->R, H, D, rotary, -1);
    if (!m->qk_norm) return;
    // Head norms are undone from their own outputs, which lie rotated in q and k: turn those back first.
    cuda_rotary(c->stream, c->type, s->q, ldq, latent, c->rotary_table, c->R, H, D, rotary, -1);
    cuda_rotary(c->stream, c->type, s->k, ldkv, all, c->rotary_table, Q + c->R, H, D, rotary, -1);
    cuda_head_norm_bwd(c->stream, c->type, dq, ldq, cuda_grad(c, t->q_norm), s->q, ldq, s->q_rstd, cuda_param(c, t->q_norm), c->R, H, D,
                       c->work);
    cuda_head_norm_bwd(c->stream, c->type, dk, ldkv, cuda_grad(c, t->k_norm), s->k, ldkv, s->k_rstd, cuda_param(c, t->k_norm), Q + c->R, H,
                       D, c->work);
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
    if ((e = weight_gradient(c, c->R, C, I, dq, cuda_at(c, s->zn, latents), t->q, err))) return e;
    if ((e = weight_gradient(c, Q + c->R, C, 2 * I, dkv, s->zn, t->kv, err))) return e;
    if ((e = input_gradient(c, Q + c->R, C, 2 * I, dkv, t->kv, c->dxn, false, err))) return e;
    return input_gradient(c, c->R, C, I, dq, t->q, cuda_at(c, c->dxn, latents), true, err);
}

static pa_status attention_backward(pa_context *c, int block, pa_err *err) {
    const pa_model *m = &c->params->model;
    const pa_block_index *t = &c->params->block[block];
    const pa_saved *s = &c->saved[block];
    bool cross = pa_is_cross(m, block);
    int C = m->dim, I = pa_inner(m), R = c->R, Q = cross ? c->Q : 0, ldkv = cross ? 2 * I : 3 * I;
    pa_status e;
    if (t->out_b >= 0) cuda_column_sum(c->stream, cuda_grad(c, t->out_b), c->dz, R, C, c->work);
    if ((e = weight_gradient(c, R, I, C, c->dza, s->o, t->out_w, err))) return e;
    if ((e = input_gradient(c, R, I, C, c->dza, t->out_w, c->dout, false, err))) return e;
    cuda_attn a;
    cuda_attention_of(c, block, &a);
    void *dk = cross ? c->dkv : cuda_at(c, c->dq, (size_t)I), *dv = cuda_at(c, dk, (size_t)I);
    size_t prefix = (size_t)Q * (size_t)ldkv;
    cuda_attend_bwd(c->attend, c->stream, &a, s->o, s->lse, c->dout, c->dq, dk, dv, cuda_at(c, dk, prefix), cuda_at(c, dv, prefix), c->work,
                    c->work_size);
    unrotate(c, block, Q, cross ? I : 3 * I, ldkv, c->dq, dk);
    if ((e = projection_backward(c, block, Q, c->dq, c->dkv, err))) return e;
    if (Q)
        cuda_layernorm_bwd(c->stream, c->type, c->dxp, NULL, cuda_grad(c, t->context_norm_w), cuda_grad(c, t->context_norm_b), c->dxn,
                           c->xp, s->mean, s->rstd, cuda_param(c, t->context_norm_w), Q, C, c->work);
    cuda_layernorm_bwd(c->stream, c->type, c->dz, c->dza, cuda_grad(c, t->norm_w), cuda_grad(c, t->norm_b),
                       cuda_at(c, c->dxn, (size_t)Q * (size_t)C), c->z[block], s->mean + Q, s->rstd + Q, cuda_param(c, t->norm_w), R, C,
                       c->work);
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
        size_t numbers = (size_t)R * (size_t)C;
        cudaError_t status = cudaMemsetAsync(c->dz, 0, numbers * 4, c->stream);
        if (!status) status = cudaMemcpyAsync(c->dxn, c->dza, numbers * cuda_size(c->type), cudaMemcpyDeviceToDevice, c->stream);
        if ((e = cuda_check(status, "moving a gradient", err))) return e;
        cuda_layernorm_bwd(c->stream, c->type, c->dz, c->dza, cuda_grad(c, p->final_norm_w), cuda_grad(c, p->final_norm_b), c->dxn,
                           c->z[c->blocks], c->mean_f, c->rstd_f, cuda_param(c, p->final_norm_w), R, C, c->work);
    } else {
        cuda_widen(c->stream, c->type, c->dz, c->dza, (size_t)R * (size_t)C);
    }
    return made(c, p->model.final_norm ? p->final_norm_w : p->model.tie_embeddings ? p->count : p->logits, err);
}

// Everything of a call that the device does, in the order of the stream: nothing here waits or takes memory.
static pa_status enqueue(pa_context *c, pa_err *err) {
    const pa_params *p = c->params;
    const pa_model *m = &p->model;
    int C = m->dim;
    pa_status e = cuda_forward(c, NULL, 0, err);
    if (e) return e;
    if ((e = cuda_linear(c, c->R, C, m->vocab, c->zf, p->logits, c->logits, CUDA_F32, err))) return e;
    cuda_cross_entropy(c->stream, c->type, c->dlogits, c->nats, NULL, c->logits, c->in.target, c->scalars, (float)m->z_loss, c->R,
                       m->vocab);
    cuda_sum(c->stream, &c->sums[CUDA_NATS], &c->sums[CUDA_TOTAL], c->nats, (size_t)c->R);
    if (c->Q && (e = cuda_check(cudaMemsetAsync(c->dxp, 0, (size_t)c->Q * (size_t)C * 4, c->stream), "clearing a gradient", err))) return e;
    if ((e = head_backward(c, err))) return e;
    for (int i = c->blocks - 1; i >= 0; i--) {
        if (c->open.recompute) {
            cuda_enter(c, i, c->z[i], NULL, NULL);
            if ((e = cuda_body(c, i, false, err))) return e;
        }
        if ((e = ff_backward(c, i, err)) || (e = attention_backward(c, i, err))) return e;
    }
    float *tokens = cuda_grad(c, p->token_emb), *positions = cuda_grad(c, p->pos_emb);
    const int32_t *token = c->in.token, *position = c->in.position;
    cuda_embed_bwd(c->stream, tokens, positions, c->dxp, token, position, c->Q, C, m->vocab, m->context);
    cuda_embed_bwd(c->stream, tokens, positions, c->dz, token + c->Q, position + c->Q, c->R, C, m->vocab, m->context);
    if ((e = made(c, 0, err))) return e;
    return c->summing ? cuda_ranks_join(c->ranks, c->stream, err) : PA_OK;
}

static pa_status capture(pa_context *c, cudaGraphExec_t *run, pa_status (*work)(pa_context *, pa_err *), pa_err *err) {
    cudaGraph_t graph = NULL;
    pa_status e = cuda_check(cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal), "capturing a step", err);
    if (e) return e;
    e = work(c, err);
    cudaError_t ended = cudaStreamEndCapture(c->stream, &graph);
    if (!e) e = cuda_check(ended, "capturing a step", err);
    if (!e) e = cuda_check(cudaGraphInstantiate(run, graph, 0), "making a graph of a step", err);
    if (graph) cudaGraphDestroy(graph);
    return e;
}

pa_status cuda_replay(pa_context *c, cudaGraphExec_t *run, bool *seen, pa_status (*work)(pa_context *, pa_err *), pa_err *err) {
    pa_status e = PA_OK;
    if (!*seen) return *seen = true, work(c, err);
    if (!*run && (e = capture(c, run, work, err))) return e;
    return cuda_check(cudaGraphLaunch(*run, c->stream), "starting a step", err);
}

// The graph of the call's shape; NULL where that is one shape too many.
static cuda_step_graph *graph_of(pa_context *c) {
    for (int i = 0; i < c->graphs; i++) {
        cuda_step_graph *g = &c->graph[i];
        if (g->B == c->B && g->M == c->M && g->N == c->N && g->K == c->K && g->dropout == c->dropout && g->last == c->summing) return g;
    }
    if (c->graphs == CUDA_GRAPHS) return NULL;
    cuda_step_graph *g = &c->graph[c->graphs++];
    *g = (cuda_step_graph){.B = c->B, .M = c->M, .N = c->N, .K = c->K, .dropout = c->dropout, .last = c->summing};
    return g;
}

pa_status cuda_loss_grad(pa_context *c, const pa_batch *b, float scale, double *sum, pa_err *err) {
    if (!c->dz) return pa_error(err, PA_USAGE, "loss_grad: this context was not opened for training");
    if (c->summed) return pa_error(err, PA_USAGE, "loss_grad: expected an update after the last gradient of a step");
    cuda_slot *slot = c->staged;
    if (!b && !slot) return pa_error(err, PA_USAGE, "loss_grad: no batch was staged");
    if (!b) c->staged = NULL;
    pa_status e = b ? cuda_send(c, b, &slot, err) : PA_OK;
    if (e || (e = cuda_take(c, slot, scale * c->loss_scaling, err))) return e;
    cuda_refresh_weights(c);
    cuda_step_graph *g = graph_of(c);
    e = g ? cuda_replay(c, &g->run, &g->seen, enqueue, err) : enqueue(c, err);
    c->summed = c->summing;
    if (e || !sum) return e;
    cudaError_t status = cudaMemcpyAsync(&c->host_sums[CUDA_NATS], &c->sums[CUDA_NATS], sizeof *sum, cudaMemcpyDeviceToHost, c->stream);
    if ((e = cuda_check(status, "fetching a loss", err)) || (e = cuda_wait(c, "computing gradients", err))) return e;
    *sum = c->host_sums[CUDA_NATS];
    return PA_OK;
}

// This rank's shares alone; then all ranks' parameters come together.
static pa_status update_shares(pa_context *c, pa_err *err) {
    pa_comm *comm = c->open.comm;
    pa_status e = cuda_ranks_sum_f64(c->ranks, c->stream, &c->sums[CUDA_SQUARES], err);
    if (e) return e;
    for (size_t b = 0, at = 0; b < pa_comm_buckets(comm, c->floats); b++) {
        pa_span own = pa_comm_share(comm, c->floats, b, comm->rank);
        void *weight = c->weight ? (uint16_t *)c->weight + own.from : NULL;
        cuda_adam(c->stream, c->param + own.from, c->own_grad + at, c->moment1 + at, c->moment2 + at, c->type, weight,
                  c->decays + own.from / 16, own.to - own.from, &c->sums[CUDA_SQUARES], c->scalars);
        at += own.to - own.from;
    }
    if ((e = cuda_check(cudaMemsetAsync(c->grad, 0, c->floats * 4, c->stream), "clearing gradients", err))) return e;
    return cuda_ranks_gather(c->ranks, c->stream, c->param, c->floats, err);
}

static pa_status enqueue_update(pa_context *c, pa_err *err) {
    cudaError_t status = cudaMemcpyAsync(c->scalars, c->host_scalars, sizeof *c->scalars, cudaMemcpyHostToDevice, c->stream);
    cuda_sum_squares(c->stream, &c->sums[CUDA_SQUARES], c->shared ? c->own_grad : c->grad, c->shared ? c->own : c->floats, c->work);
    if (c->shared) {
        pa_status e = update_shares(c, err);
        if (e) return e;
    } else {
        cuda_adam(c->stream, c->param, c->grad, c->moment1, c->moment2, c->type, c->weight, c->decays, c->floats, &c->sums[CUDA_SQUARES],
                  c->scalars);
    }
    if (!status) status = cudaMemcpyAsync(c->host_sums, c->sums, CUDA_SUMS * sizeof(double), cudaMemcpyDeviceToHost, c->stream);
    if (!status) status = cudaMemsetAsync(&c->sums[CUDA_TOTAL], 0, sizeof(double), c->stream);
    return cuda_check(status, "updating", err);
}

// fp16: halved when a gradient overflowed, doubled after 2,000 steps without.
static void rescale_loss(pa_context *c, bool finite) {
    if (c->type != CUDA_F16) return;
    if (!finite)
        c->loss_scaling = c->loss_scaling > 1 ? c->loss_scaling / 2 : 1, c->good_steps = 0;
    else if (++c->good_steps == 2000)
        c->loss_scaling = c->loss_scaling < 16777216 ? c->loss_scaling * 2 : c->loss_scaling, c->good_steps = 0;
}

pa_scaling cuda_scaling(pa_context *c, const pa_scaling *set) {
    if (c->type != CUDA_F16) return (pa_scaling){0};
    if (set) c->loss_scaling = (float)set->factor, c->good_steps = (int)set->steps;
    return (pa_scaling){c->loss_scaling, c->good_steps};
}

pa_status cuda_update(pa_context *c, const pa_update *u, double *norm, double *nats, pa_err *err) {
    if (!c->grad) return pa_error(err, PA_USAGE, "update: this context was not opened for training");
    pa_status e = PA_OK;
    if (c->ranks && !c->summed) {
        e = cuda_ranks_sum(c->ranks, c->stream, c->grad, c->own_grad, c->floats, 0, err);
        if (e || (e = cuda_ranks_join(c->ranks, c->stream, err))) return e;
    }
    c->summed = false;
    *c->host_scalars = (cuda_scalars){.grad_scale = 1 / c->loss_scaling,
                                      .clip = (float)u->clip,
                                      .lr = (float)u->lr,
                                      .beta1 = u->beta1,
                                      .beta2 = u->beta2,
                                      .eps = (float)u->eps,
                                      .decay = (float)u->weight_decay,
                                      .c1 = (float)(1 - pow(u->beta1, (double)u->step)),
                                      .c2 = (float)(1 - pow(u->beta2, (double)u->step)),
                                      .decoupled = u->decoupled};
    e = cuda_replay(c, &c->update_graph, &c->updated, enqueue_update, err);
    c->weight_stale |= c->shared;
    if (e || (e = cuda_wait(c, "computing a step", err))) return e;
    *norm = sqrt(c->host_sums[CUDA_SQUARES]) / (double)c->loss_scaling;
    if (nats) *nats = c->host_sums[CUDA_TOTAL];
    rescale_loss(c, isfinite(*norm));
    return PA_OK;
}
