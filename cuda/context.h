// context.h: what the CUDA backend keeps: arenas, the buffers laid out in them, and the shape of the call at hand. Private to cuda/.
// Letters as in host/model/params.h; R = B N latent rows, K kept prefix positions a sequence, Q = B K prefix rows. Mirrors cpu/context.h.
#ifndef PA_CUDA_CONTEXT_H
#define PA_CUDA_CONTEXT_H

#include "cuda/attend.h"
#include "cuda/kernels.h"
#include "cuda/matmul.h"
#include "cuda/nccl.h"
#include "host/model/arena.h"

// What a call needs of the host: one block, so that one copy carries it.
typedef struct {
    int32_t *token, *position; // (Q + R)
    uint16_t *target;          // (R)
    uint64_t *window;          // (B)
} cuda_input;

// One of two such blocks on their way, so that the next call's is filled and copied while the last call computes on its own.
typedef struct {
    cuda_input host;       // pinned
    char *device;          // where it is copied to, by the copy stream
    cuda_scalars *scalars; // pinned
    cudaEvent_t sent, taken;
    int B, M, N, K;
    bool dropout, last;
} cuda_slot;

// A captured call, replayed for the same shape.
typedef struct {
    int B, M, N, K;
    bool dropout, last, seen;
    cudaGraphExec_t run; // NULL: not captured yet
} cuda_step_graph;
enum { CUDA_GRAPHS = 4 };
enum { CUDA_SQUARES, CUDA_NATS, CUDA_TOTAL, CUDA_SUMS };

struct pa_context {
    pa_open open;
    const pa_params *params;
    cuda_type type;
    cuda_matmul *mm;
    cuda_attend *attend;
    cudaStream_t stream, copies;
    cudaGraphExec_t update_graph, decode_graph;
    cuda_step_graph graph[CUDA_GRAPHS];
    int graphs;
    int blocks;
    pa_arena arena[ARENAS];

    cuda_ranks *ranks;     // NULL: no others
    bool shared;           // several ranks with `zero`
    bool summing;          // the call at hand is the last of its step with several ranks
    bool summed;           // since then, until the update
    bool updated, decoded; // once

    size_t floats, own;                      // of the arena, equal shares for all ranks; of this rank's shares, or all
    float *param, *grad, *moment1, *moment2; // floats, floats, own, own
    float *own_grad;                         // (own) with `shared`: sums of this rank's shares, one after the other, as moments are
    void *weight;                            // copy of param in `type`, or NULL with float32
    int8_t *weight8;                         // with int8: the numbers of products' weights, at their places in param, and
    float *scale;                            // one for each of their rows; tensor t's from scale[scale_at[t]], -1 where it has none
    ptrdiff_t *scale_at;                     // (tensors), the host's
    uint8_t *decays;                         // (floats / 16)
    bool weight_stale;

    char *pinned; // all pinned memory
    size_t input_size;
    cuda_slot slot[2];
    cuda_slot *filled;                    // the last one
    cuda_slot *staged;                    // holds the next loss_grad's batch; NULL: none does
    cuda_input in;                        // on the device: what kernels read
    cuda_scalars *scalars, *host_scalars; // on the device; pinned, the update's
    double *sums, *host_sums;             // (CUDA_SUMS) on the device; pinned: squares; nats of a call; of all calls since the last update

    float *rotary_table;    // (context, rotary / 2, 2)
    float *xp;              // (Q, C) embedded prefix
    float **z;              // blocks + 1 residual streams (R, C); two in turn where nothing is kept
    pa_saved *saved;        // a block
    float *y;               // (R, C) output of a block's last product
    void *zf;               // (R, C) act: what the logits are made of
    float *mean_f, *rstd_f; // with final_norm
    float *logits;          // (R, V)
    float *nats;            // (R)
    uint16_t *best;         // (R)
    void *work;             // of attention and reductions, work_size bytes
    size_t work_size;
    void *workspace; // of cuBLASLt

    float *dz, *dxp;       // (R, C), (Q, C)
    void *dza, *dxn;       // (R, C), (Q + R, C) act
    void *dff;             // (R, F) act
    void *dq, *dkv, *dout; // (R, 3 I) or (R, I) and (Q + R, 2 I); (R, I) act
    void *dlogits;         // (R, V) act

    pa_cache *cache; // a block
    int cached;      // tokens in the window so far
    int cached_prefix;
    int32_t *step_in, *host_step_in; // rows filled in self caches, in cross caches; tokens (S); positions (S); device and pinned
    float *step, *host_logits;       // rows of a decoding step; (S, V) pinned
    void *step_work;

    int B, M, N, K, Q, R; // of the call at hand
    bool dropout;
    float softmax_scale; // D^-1/2
    float loss_scaling;  // fp16: losses are multiplied by this before they are differentiated; 1 else
    int good_steps;      // since it last changed
    double peak;
};

// Pointer to tensor t for products; offset in elements from its start.
static inline const void *cuda_weight(const pa_context *c, int t, size_t offset) {
    size_t at = c->params->row[t].offset + offset;
    return c->weight ? (const void *)((const uint16_t *)c->weight + at) : (const void *)(c->param + at);
}
static inline const float *cuda_param(const pa_context *c, int t) {
    return t < 0 ? NULL : c->param + c->params->row[t].offset;
}
static inline float *cuda_grad(const pa_context *c, int t) {
    return t < 0 ? NULL : c->grad + c->params->row[t].offset;
}
// Element i of an activation buffer.
static inline void *cuda_at(const pa_context *c, const void *base, size_t i) {
    return (char *)base + i * cuda_size(c->type);
}

// open.c
// PA_OK, or an error that says what failed, where, and that nothing saved is lost.
pa_status cuda_check(cudaError_t status, const char *what, pa_err *err);
pa_status cuda_wait(pa_context *c, const char *what, pa_err *err); // for the stream; reports faults of launches too
// layout.c: what lies where in the arenas; counts while they have no base.
void cuda_layout(pa_context *c);
size_t cuda_layout_pinned(pa_context *c, char *base); // the host's twins of inputs, scalars and results: bytes of them
// forward.c: embeds and runs all blocks; zf is ready after it. With keep, which is called when a block's k and v are ready, zf is the last
// latent's row alone: the last block does without the others.
// Checks a batch, copies it to a slot and on to the device, beside what the stream does.
pa_status cuda_send(pa_context *c, const pa_batch *b, cuda_slot **slot, pa_err *err);
// Makes a slot's batch that of the call at hand. loss_scale: see cuda_scalars.
pa_status cuda_take(pa_context *c, cuda_slot *slot, float loss_scale, pa_err *err);
pa_status cuda_stage(pa_context *c, const pa_batch *b, pa_err *err);
pa_status cuda_forward(pa_context *c, void (*keep)(pa_context *c, int block, int stream), int stream, pa_err *err);
void cuda_enter(pa_context *c, int block, const float *x, const float *r, float *z);
pa_status cuda_body(pa_context *c, int block, bool last_product, pa_err *err);
void cuda_attention_of(const pa_context *c, int block, cuda_attn *a);
cuda_dropout cuda_dropout_of(const pa_context *c, int block);
void cuda_refresh_weights(pa_context *c);
pa_status cuda_loss(pa_context *c, const pa_batch *b, double *sum, const pa_scores *scores, pa_err *err);
// y (rows, out) = x (rows, in) w^T
pa_status cuda_linear(pa_context *c, int rows, int in, int out, const void *x, int t, void *y, cuda_type y_type, pa_err *err);
// backward.c
pa_status cuda_loss_grad(pa_context *c, const pa_batch *b, float scale, double *sum, pa_err *err);
pa_scaling cuda_scaling(pa_context *c, const pa_scaling *set);
pa_status cuda_update(pa_context *c, const pa_update *u, double *norm, double *nats, pa_err *err);
// What `work` enqueues: the first time as it is (kernels are loaded then, plans made and timed, NCCL connects), then captured as a graph,
// and from then on that graph.
pa_status cuda_replay(pa_context *c, cudaGraphExec_t *run, bool *seen, pa_status (*work)(pa_context *, pa_err *), pa_err *err);
// decode.c
size_t cuda_step_floats(const pa_context *c);
pa_status cuda_prefill(pa_context *c, int length, int latents, const uint16_t *tokens, float *logits, pa_err *err);
pa_status cuda_decode(pa_context *c, const uint16_t *tokens, float *logits, pa_err *err);

#endif
