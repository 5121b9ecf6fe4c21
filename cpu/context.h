// context.h: what the CPU backend keeps: arenas, the buffers laid out in them, and the shape of the call at hand. Private to cpu/.
// Letters as in host/model/params.h; R = B N latent rows, K kept prefix positions a sequence, Q = B K prefix rows.
#ifndef PA_CPU_CONTEXT_H
#define PA_CPU_CONTEXT_H

#include "cpu/matmul.h"
#include "cpu/ops.h"
#include "host/model/arena.h"

struct pa_context {
    pa_open open;
    const pa_params *params;
    cpu_type type;
    const cpu_ops *ops;
    cpu_matmul *mm;
    int threads, blocks;
    pa_arena arena[ARENAS];

    float *param, *grad;      // each params->floats
    float *moment1, *moment2; // the same, or with `shared` those of this rank's shares, one after the other (pa_comm_share)
    bool shared, summing;     // several ranks with `zero`; between the last loss_grad of a step and its update
    size_t final;             // while summing: gradients from here on are final
    uint16_t *weight;         // bf16 copy of param, or NULL
    int8_t *weight8;          // with int8: the numbers of products' weights, at their places in param, and
    float *scale;             // one for each of their rows; tensor t's from scale[scale_at[t]], -1 where it has none
    ptrdiff_t *scale_at;      // (tensors)
    bool weight_stale;
    void *room; // of products that are widened

    float *rotary_table;       // (context, rotary / 2, 2)
    int32_t *token, *position; // (Q + R)
    float *xp;                 // (Q, C) embedded prefix
    float **z;                 // blocks + 1 residual streams (R, C); two in turn where nothing is kept
    pa_saved *saved;           // a block
    float *y;                  // (R, C) output of a block's last product
    void *zf;                  // (R, C) act: what the logits are made of
    float *mean_f, *rstd_f;    // with final_norm
    float *logits;             // (R, V)
    float *nats;               // (R)
    void *work;                // of attention and reductions

    float *dz, *dxp;       // (R, C), (Q, C)
    void *dza, *dxn;       // (R, C), (Q + R, C) act
    void *dff;             // (R, F) act
    void *dq, *dkv, *dout; // (R, 3 I) or (R, I) and (Q + R, 2 I); (R, I) act
    void *dlogits;         // (R, V) act

    pa_cache *cache; // a block
    int cached;      // tokens in the window so far
    int cached_prefix;
    float *step; // rows of a decoding step
    void *step_work;

    int B, N, K, Q, R; // of the call at hand
    const uint64_t *window;
    float softmax_scale; // D^-1/2
    double nats_sum;     // of loss_grad calls since the last update
    double peak;
};

// Pointer to tensor t for products: bf16 copy or float32; offset in elements from its start.
static inline const void *cpu_weight(const pa_context *c, int t, size_t offset) {
    size_t at = c->params->row[t].offset + offset;
    return c->weight ? (const void *)(c->weight + at) : (const void *)(c->param + at);
}
static inline const float *cpu_param(const pa_context *c, int t) {
    return t < 0 ? NULL : c->param + c->params->row[t].offset;
}
static inline float *cpu_grad(const pa_context *c, int t) {
    return t < 0 ? NULL : c->grad + c->params->row[t].offset;
}
// Element i of an activation buffer.
static inline void *cpu_at(const pa_context *c, const void *base, size_t i) {
    return (char *)base + i * cpu_size(c->type);
}

// open.c
void cpu_refresh_weights(pa_context *c); // rounds and casts the parameters again if any was written
// forward.c: embeds and runs all blocks; zf is ready after it. With keep, which is called when a block's k and v are ready, zf is the last
// latent's row alone: the last block does without the others.
pa_status cpu_set_shape(pa_context *c, const pa_batch *b, pa_err *err);
pa_status cpu_forward(pa_context *c, const pa_batch *b, void (*keep)(pa_context *c, int block, int stream), int stream, pa_err *err);
void cpu_enter(pa_context *c, int block, const float *x, const float *r, float *z);
// A block from its normalised input: leaves z_mid and, with last_product, the feed-forward's output in y.
pa_status cpu_body(pa_context *c, int block, bool last_product, pa_err *err);
void cpu_attention_of(const pa_context *c, int block, cpu_attn *a);
cpu_dropout cpu_dropout_of(const pa_context *c, int block);
pa_status cpu_loss(pa_context *c, const pa_batch *b, double *sum, const pa_scores *scores, pa_err *err);
// y (rows, out) = x (rows, in) w^T
pa_status cpu_linear(pa_context *c, int rows, int in, int out, const void *x, int t, void *y, cpu_type y_type, pa_err *err);
// backward.c
pa_status cpu_loss_grad(pa_context *c, const pa_batch *b, float scale, double *sum, pa_err *err);
pa_status cpu_update(pa_context *c, const pa_update *u, double *norm, double *nats, pa_err *err);
// decode.c
size_t cpu_step_floats(const pa_context *c);
pa_status cpu_prefill(pa_context *c, int length, int latents, const uint16_t *tokens, float *logits, pa_err *err);
pa_status cpu_decode(pa_context *c, const uint16_t *tokens, float *logits, pa_err *err);

#endif
