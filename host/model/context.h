// context.h: a model on a device: its arenas, the buffers laid out in them, and the shape of the current call. Private
// to host/model/ and to the backends' `open`. Letters as in host/model/ops.h.
#ifndef PA_CONTEXT_H
#define PA_CONTEXT_H

#include "host/model/arena.h"
#include "host/model/backend.h"
#include "host/model/ops.h"

// What a device says of itself when it is opened.
typedef struct {
    pa_hardware hardware;
    char name[128];   // for the memory plan: "the CPU (avx2, 8 threads)"
    pa_type type;     // of activations and of weights in products
    size_t align;     // of everything in an arena, in bytes
    size_t multiple;  // the arrays of all parameters are padded to a multiple of so many numbers
    size_t workspace; // bytes that the device wants for itself
    bool unified;     // computes in the host's memory: the model copies nothing back and forth
    bool ranks;       // gradients are summed over ranks
    bool fuses;       // in decoding, gemv and attn_decode do what stands before and after them too
    int row;          // in training, rows of logits and of their gradient are padded to a multiple of so many numbers
    bool adds;        // products add the residual (pa_product.onto); else the layer norm behind them does
    pa_type muon;     // of Muon's products
    bool own_apart;   // with train.zero, the sums of this rank's shares lie one after the other in memory of their own,
                      // not in place
    // For traces: notes when the operations so far are done. marked: seconds from mark 0 to mark i, after `wait`. NULL:
    // operations are done when they return.
    pa_status (*mark)(pa_device *d, int i, pa_err *err);
    double (*marked)(pa_device *d, int i);
} pa_device_info;

// A batch as operations read it: one block of memory, so that one copy transfers it.
typedef struct {
    int32_t *token, *position; // (Q + R)
    int32_t *bag;              // (slots, Q + R), see pa_embed
    uint16_t *target;          // (R)
    uint64_t *window;          // (B)
} pa_input;

// The next call's batch is filled in and copied while the last call still computes. A unified device has one slot,
// which is the input.
typedef struct {
    pa_input host;
    char *device;        // where the block is copied to first
    pa_scalars *scalars; // the host's
    int B, M, N, K;
    bool dropout, last;
} pa_slot;

// Squares of gradients; nats of a call; of all calls since the last update; squares of a matrix.
enum { PA_SUM_SQUARES, PA_SUM_NATS, PA_SUM_TOTAL, PA_SUM_MATRIX, PA_SUMS };

struct pa_context {
    pa_open open;
    const pa_params *params;
    const pa_ops *ops;
    pa_device *device;
    pa_device_info info;
    pa_type type;
    int blocks;
    pa_arena arena[ARENAS];

    size_t floats, own;                      // numbers of all parameters, padded; of this rank's shares, or all
    bool shared;                             // moments are of this rank's shares, one after the other (pa_comm_share)
    size_t second;                           // of `own`, those with a second moment
    float *param, *grad, *moment1, *moment2; // floats, floats, own, second
    float *own_grad;                         // (own) where shared and the device keeps them apart, else NULL
    void *weight;                            // copy of param in `type`, or NULL with float32
    int8_t *weight8;     // with int8: the numbers of products' weights, at their places in param, and
    float *scale;        // one for each of their rows; tensor t's from scale[scale_at[t]], -1 where it has none
    ptrdiff_t *scale_at; // (tensors), the host's
    bool weight_stale;   // param was written, weight and weight8 were not
    uint32_t crc;        // CRC-32C of param and moments when they were last looked at,
    bool guarded;        // if nothing was written to them since
    bool grad_stale;     // no gradient since the update: those of `linear` tensors are the last step's, the others 0

    void *host; // the host's memory for copies; NULL on a unified device
    size_t input_bytes;
    pa_slot slot[2];
    pa_slot *filled;                    // the last one
    pa_slot *staged;                    // holds the next loss_grad's batch; NULL: none does
    pa_input in;                        // what operations read
    pa_scalars *scalars, *host_scalars; // of the current call; of the update, the host's
    double *sums, *host_sums;           // (PA_SUMS)
    double sums_here[PA_SUMS];          // host_sums of a unified device
    void *workspace;                    // the device's

    void *muon_x, *muon_y;  // of info.muon: a matrix on its way, the largest
    void *muon_square[4];   // (n, n) products of them; of the last two only where info.muon is float32
    pa_span *muon_of;       // (ranks) the parameters whose matrices each computes
    float *rotary_table;    // (context, rotary dims / 2, 2)
    float *xp;              // (Q, C) embedded prefix
    float **z;              // blocks + 1 residual streams (R, C); two in turn where nothing is kept
    pa_saved *saved;        // a block
    float *y;               // (R, C) output of a block's last product
    void *zf;               // (R, C) act: input of the logits' product
    float *mean_f, *rstd_f; // (R) with final_norm
    float *logits;          // (R, V), of loss_grad (R, logits_ld)
    int logits_ld;
    float *nats;    // (R)
    uint16_t *best; // (R)
    pa_work work;   // of attention and reductions

    float *dz, *dxp;       // (R, C), (Q, C)
    void *dza, *dxn;       // (R, C), (Q + R, C) act
    void *dff;             // (R, F) act
    void *dq, *dkv, *dout; // (R, 3 I) or (R, I) and (Q + R, 2 I); (R, I) act
    void *dlogits;         // (R, logits_ld) act

    pa_cache *cache;           // a block
    int cached, cached_prefix; // tokens in the window so far, and how many of them are prefix
    uint16_t *window;          // (S, context), the host's: the window's tokens,
    pa_keyboard *keyboard;     // (S) and what they say of the keyboard
    int32_t *step_in; // rows filled in self caches, in cross caches; tokens, positions (S); rows of bag_emb (slots, S)
    int32_t *host_step_in;
    float *step;        // rows of a decoding step
    float *host_logits; // (S, V)
    void *step_work;    // of attention in a decoding step

    int B, M, N, K, Q, R; // of the current call
    bool dropout;
    bool last;           // the current call is the last of its step, and there are other ranks
    bool first;          // the current call is the first of its step
    bool summing;        // since then, until the update
    float softmax_scale; // D^-1/2
    float loss_scaling;  // fp16: losses are multiplied by it before they are differentiated; 1 else
    int good_steps;      // since it last changed
};

// Tensor t for products; `offset` in elements from its start.
static inline const void *pa_weight(const pa_context *c, int t, size_t offset) {
    size_t at = c->params->row[t].offset + offset;
    return c->weight ? (const void *)((const uint16_t *)c->weight + at) : (const void *)(c->param + at);
}
// Tensor t, or NULL for -1.
static inline float *pa_parameter(const pa_context *c, int t) {
    return t < 0 ? NULL : c->param + c->params->row[t].offset;
}
// A training batch of windows that begin pieces: its shape seldom repeats.
static inline bool pa_is_rare(const pa_context *c) {
    return c->dz && c->M - c->N < c->params->model.prefix;
}
static inline float *pa_gradient(const pa_context *c, int t) {
    return t < 0 ? NULL : c->grad + c->params->row[t].offset;
}
// Element i of an act buffer.
static inline void *pa_at(const pa_context *c, const void *base, size_t i) {
    return (char *)base + i * pa_size(c->type);
}

#endif
