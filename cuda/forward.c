// forward.c: the model's forward pass on a GPU and its loss. The order of operations is the one of model.md, block by block, as in
// cpu/forward.c. Knows nothing of how an operation is done (cuda/kernels.h) or where the tokens come from.
#include <stdlib.h>
#include <string.h>

#include "cuda/context.h"

pa_status cuda_linear(pa_context *c, int rows, int in, int out, const void *x, int t, void *y, cuda_type y_type, pa_err *err) {
    cuda_product p = {.m = rows, .n = out, .k = in, .a = c->type, .b = c->type, .c = y_type, .b_t = true};
    return cuda_matmul_run(c->mm, &p, x, cuda_weight(c, t, 0), y, err);
}

static pa_status set_rows(const pa_context *c, const cuda_slot *s, const pa_batch *b, pa_err *err) {
    const int prefix = s->M - s->N, Q = s->B * s->K, R = s->B * s->N;
    int32_t *token = s->host.token, *position = s->host.position;
    for (int i = 0; i < Q; i++) {
        int at = b->keep ? b->keep[i] : i % s->K;
        if (at < 0 || at >= prefix) return pa_error(err, PA_USAGE, "batch: kept position %d is not in the prefix of %d", at, prefix);
        token[i] = b->input[i / s->K * s->M + at];
        position[i] = at;
    }
    for (int i = 0; i < R; i++) {
        token[Q + i] = b->input[i / s->N * s->M + prefix + i % s->N];
        position[Q + i] = prefix + i % s->N;
    }
    for (int r = 0; r < Q + R; r++)
        if (token[r] >= c->params->model.vocab)
            return pa_error(err, PA_USAGE, "batch: expected tokens below %d, found %d", c->params->model.vocab, (int)token[r]);
    return PA_OK;
}

// Checks a batch and fills a slot's pinned memory with it.
static pa_status fill(const pa_context *c, cuda_slot *s, const pa_batch *b, pa_err *err) {
    const pa_model *m = &c->params->model;
    int most = c->open.max_batch ? c->open.max_batch : (c->open.streams ? 1 : 0), prefix = b->length - b->latents;
    if (b->batch < 1 || b->batch > most) return pa_error(err, PA_USAGE, "batch: expected 1 to %d sequences, found %d", most, b->batch);
    if (b->latents < 1 || b->latents > m->context - m->prefix)
        return pa_error(err, PA_USAGE, "batch: expected 1 to %d latents, found %d", m->context - m->prefix, b->latents);
    if (prefix < 0 || prefix > m->prefix)
        return pa_error(err, PA_USAGE, "batch: expected a prefix of 0 to %d tokens, found %d", m->prefix, prefix);
    s->B = b->batch, s->M = b->length, s->N = b->latents, s->K = b->keep ? b->kept : prefix;
    if (s->K < 0 || s->K > prefix) return pa_error(err, PA_USAGE, "batch: expected 0 to %d kept prefix positions, found %d", prefix, s->K);
    s->dropout = c->open.training && b->window && m->dropout > 0;
    s->last = b->last && c->ranks;
    for (int i = 0; i < s->B * s->N; i++) s->host.target[i] = b->target ? b->target[i] : UINT16_MAX;
    for (int i = 0; i < s->B; i++) s->host.window[i] = b->window ? b->window[i] : 0;
    return set_rows(c, s, b, err);
}

pa_status cuda_send(pa_context *c, const pa_batch *b, cuda_slot **slot, pa_err *err) {
    cuda_slot *s = &c->slot[c->filled == c->slot];
    if (s == c->staged) s = c->filled;
    // What was in it has been taken by the last call but one: this waits only where the host is two calls ahead.
    pa_status e = cuda_check(cudaEventSynchronize(s->taken), "waiting for an earlier batch", err);
    if (e || (e = fill(c, s, b, err))) return e;
    cudaError_t status = cudaMemcpyAsync(s->device, s->host.token, c->input_size, cudaMemcpyHostToDevice, c->copies);
    if (!status) status = cudaEventRecord(s->sent, c->copies);
    *slot = c->filled = s;
    return cuda_check(status, "sending a batch", err);
}

pa_status cuda_take(pa_context *c, cuda_slot *s, float loss_scale, pa_err *err) {
    c->B = s->B, c->M = s->M, c->N = s->N, c->K = s->K, c->dropout = s->dropout, c->summing = s->last;
    c->Q = c->B * c->K, c->R = c->B * c->N;
    *s->scalars = (cuda_scalars){.loss_scale = loss_scale};
    cudaError_t status = cudaStreamWaitEvent(c->stream, s->sent, 0);
    if (!status) status = cudaMemcpyAsync(c->in.token, s->device, c->input_size, cudaMemcpyDeviceToDevice, c->stream);
    if (!status) status = cudaMemcpyAsync(c->scalars, s->scalars, sizeof *c->scalars, cudaMemcpyHostToDevice, c->stream);
    if (!status) status = cudaEventRecord(s->taken, c->stream);
    return cuda_check(status, "taking a batch", err);
}

pa_status cuda_stage(pa_context *c, const pa_batch *b, pa_err *err) {
    if (!c->dz) return pa_error(err, PA_USAGE, "stage: this context was not opened for training");
    return cuda_send(c, b, &c->staged, err);
}

void cuda_refresh_weights(pa_context *c) {
    for (int t = 0; c->weight8 && c->weight_stale && t < c->params->count; t++) {
        const pa_param *row = &c->params->row[t];
        if (c->scale_at[t] >= 0)
            cuda_round_int8(c->stream, c->weight8 + row->offset, c->scale + c->scale_at[t], c->param + row->offset, row->shape[0],
                            row->shape[1]);
    }
    if (c->weight && c->weight_stale) cuda_cast(c->stream, c->type, c->weight, c->param, c->params->floats);
    c->weight_stale = false;
}

cuda_dropout cuda_dropout_of(const pa_context *c, int block) {
    float p = c->dropout ? (float)c->params->model.dropout : 0;
    return (cuda_dropout){.p = p, .seed = c->open.seed, .window = c->in.window, .layer = (uint32_t)block};
}

void cuda_attention_of(const pa_context *c, int block, cuda_attn *a) {
    const pa_model *m = &c->params->model;
    const pa_saved *s = &c->saved[block];
    bool cross = pa_is_cross(m, block);
    int I = pa_inner(m), ldkv = cross ? 2 * I : 3 * I;
    size_t prefix = cross ? (size_t)c->Q * (size_t)ldkv : 0;
    *a = (cuda_attn){.type = c->type,
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
                     .kn = cuda_at(c, s->k, prefix),
                     .vn = cuda_at(c, s->v, prefix)};
    if (cross) a->dropout = cuda_dropout_of(c, block); // as published: latent layers' attention has none
}

// Normalises a block's input: z = x + r where r is given (the previous block's last product), x itself else.
void cuda_enter(pa_context *c, int block, const float *x, const float *r, float *z) {
    const pa_block_index *t = &c->params->block[block];
    pa_saved *s = &c->saved[block];
    int C = c->params->model.dim, Q = pa_is_cross(&c->params->model, block) ? c->Q : 0;
    if (Q)
        cuda_layernorm_fwd(c->stream, c->type, NULL, s->zn, s->mean, s->rstd, c->xp, NULL, NULL, cuda_param(c, t->context_norm_w),
                           cuda_param(c, t->context_norm_b), Q, C);
    cuda_layernorm_fwd(c->stream, c->type, z, cuda_at(c, s->zn, (size_t)Q * (size_t)C), s->mean + Q, s->rstd + Q, x, r, NULL,
                       cuda_param(c, t->norm_w), cuda_param(c, t->norm_b), c->R, C);
}

// Queries, keys and values from the normalised input, heads normalised and rotated.
static pa_status project(pa_context *c, int block, pa_err *err) {
    const pa_model *m = &c->params->model;
    const pa_block_index *t = &c->params->block[block];
    pa_saved *s = &c->saved[block];
    int C = m->dim, I = pa_inner(m), H = m->heads, D = m->dim_head, rotary = pa_rotary_dims(m);
    bool cross = pa_is_cross(m, block);
    int Q = cross ? c->Q : 0, ldq = cross ? I : 3 * I, ldkv = cross ? 2 * I : 3 * I;
    const int32_t *latent = c->in.position + c->Q;
    pa_status e;
    if (cross) {
        const void *latents = cuda_at(c, s->zn, (size_t)Q * (size_t)C);
        if ((e = cuda_linear(c, c->R, C, I, latents, t->q, s->q, c->type, err))) return e;
        if ((e = cuda_linear(c, Q + c->R, C, 2 * I, s->zn, t->kv, s->k, c->type, err))) return e;
    } else if ((e = cuda_linear(c, c->R, C, 3 * I, s->zn, t->qkv, s->q, c->type, err))) {
        return e;
    }
    if (m->qk_norm) {
        cuda_head_norm_fwd(c->stream, c->type, s->q, ldq, s->q_rstd, cuda_param(c, t->q_norm), c->R, H, D);
        cuda_head_norm_fwd(c->stream, c->type, s->k, ldkv, s->k_rstd, cuda_param(c, t->k_norm), Q + c->R, H, D);
    }
    cuda_rotary(c->stream, c->type, s->q, ldq, latent, c->rotary_table, c->R, H, D, rotary, 1);
    cuda_rotary(c->stream, c->type, s->k, ldkv, latent - Q, c->rotary_table, Q + c->R, H, D, rotary, 1);
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
    cuda_attn a;
    cuda_attention_of(c, block, &a);
    if (first) { // earlier latents' keys are behind the prefix's, and as visible
        size_t before = (size_t)(a.kept + first) * (size_t)a.ldkv;
        a.q = cuda_at(c, s->q, (size_t)first * (size_t)a.ldq);
        a.kn = cuda_at(c, s->k, before), a.vn = cuda_at(c, s->v, before);
        a.kept += first, a.latents = R;
        cuda_attn_fwd(c->stream, &a, s->o, s->lse, c->work); // a shape of its own for each primer: not worth a trial of cuDNN
    } else {
        cuda_attend_fwd(c->attend, c->stream, &a, s->o, s->lse, c->work, c->work_size);
    }
    if ((e = cuda_linear(c, R, I, C, s->o, t->out_w, c->y, CUDA_F32, err))) return e;
    cuda_layernorm_fwd(c->stream, c->type, s->z_mid, s->zn2, s->mean2, s->rstd2, c->z[block] + (size_t)first * (size_t)C, c->y,
                       cuda_param(c, t->out_b), cuda_param(c, t->ff_norm_w), cuda_param(c, t->ff_norm_b), R, C);
    if ((e = cuda_linear(c, R, C, F, s->zn2, t->ff_1, s->h, c->type, err))) return e;
    cuda_dropout drop = cuda_dropout_of(c, block);
    cuda_activation_fwd(c->stream, c->type, (cuda_activation)m->activation, s->g, s->h, R, F, &drop, c->N);
    return last_product ? cuda_linear(c, R, F, C, s->g, t->ff_4, c->y, CUDA_F32, err) : PA_OK;
}

pa_status cuda_body(pa_context *c, int block, bool last_product, pa_err *err) {
    pa_status e = project(c, block, err);
    return e ? e : finish(c, block, 0, last_product, err);
}

pa_status cuda_forward(pa_context *c, void (*keep)(pa_context *, int, int), int stream, pa_err *err) {
    const pa_params *p = c->params;
    const int32_t *token = c->in.token, *position = c->in.position;
    int C = p->model.dim, last = c->blocks - 1;
    const int first = keep ? c->R - 1 : 0; // of the rows that the last block goes on with
    pa_status e;
    cuda_embed_fwd(c->stream, c->xp, token, position, cuda_param(c, p->token_emb), cuda_param(c, p->pos_emb), c->Q, C);
    cuda_embed_fwd(c->stream, c->z[0], token + c->Q, position + c->Q, cuda_param(c, p->token_emb), cuda_param(c, p->pos_emb), c->R, C);
    cuda_enter(c, 0, c->z[0], NULL, NULL);
    for (int i = 0; i < c->blocks; i++) {
        if ((e = project(c, i, err))) return e;
        if (keep) keep(c, i, stream);
        if ((e = finish(c, i, i == last ? first : 0, true, err))) return e;
        if (i < last) cuda_enter(c, i + 1, c->saved[i].z_mid, c->y, c->z[i + 1]);
    }
    cuda_layernorm_fwd(c->stream, c->type, c->z[c->blocks], c->zf, c->mean_f, c->rstd_f, c->saved[last].z_mid, c->y, NULL,
                       cuda_param(c, p->final_norm_w), cuda_param(c, p->final_norm_b), c->R - first, C);
    return PA_OK;
}

static pa_status copy_out(pa_context *c, const pa_scores *s, pa_err *err) {
    size_t rows = (size_t)c->R, bytes = rows * (size_t)c->params->model.vocab * 4;
    cudaError_t e = cudaSuccess;
    if (s && s->best && !e) e = cudaMemcpyAsync(s->best, c->best, rows * 2, cudaMemcpyDeviceToHost, c->stream);
    if (s && s->nats && !e) e = cudaMemcpyAsync(s->nats, c->nats, rows * 4, cudaMemcpyDeviceToHost, c->stream);
    if (s && s->logits && !e) e = cudaMemcpyAsync(s->logits, c->logits, bytes, cudaMemcpyDeviceToHost, c->stream);
    if (!e) e = cudaMemcpyAsync(&c->host_sums[CUDA_NATS], &c->sums[CUDA_NATS], sizeof(double), cudaMemcpyDeviceToHost, c->stream);
    return cuda_check(e, "fetching scores", err);
}

pa_status cuda_loss(pa_context *c, const pa_batch *b, double *sum, const pa_scores *scores, pa_err *err) {
    const pa_model *m = &c->params->model;
    if (!c->logits) return pa_error(err, PA_USAGE, "loss: this context was opened without room for a batch");
    cuda_slot *slot;
    pa_status e = cuda_send(c, b, &slot, err);
    if (e || (e = cuda_take(c, slot, 0, err))) return e;
    cuda_refresh_weights(c);
    if ((e = cuda_forward(c, NULL, 0, err))) return e;
    if ((e = cuda_linear(c, c->R, m->dim, m->vocab, c->zf, c->params->logits, c->logits, CUDA_F32, err))) return e;
    cuda_cross_entropy(c->stream, c->type, NULL, c->nats, c->best, c->logits, c->in.target, c->scalars, 0, c->R, m->vocab);
    cuda_sum(c->stream, &c->sums[CUDA_NATS], NULL, c->nats, (size_t)c->R);
    if ((e = copy_out(c, scores, err)) || (e = cuda_wait(c, "computing a loss", err))) return e;
    *sum = c->host_sums[CUDA_NATS];
    return PA_OK;
}
