// backend.h: a whole model behind a small table of functions. No type of CUDA, MPI or oneDNN crosses it.
// A backend owns parameters, gradients, moments, activations and caches; the host owns files, data, schedules and
// sampling.
#ifndef PA_BACKEND_H
#define PA_BACKEND_H

#include "host/model/params.h"
#include "host/ranks/comm.h"

typedef enum { PA_PRECISION_AUTO, PA_PRECISION_FP32, PA_PRECISION_BF16, PA_PRECISION_FP16 } pa_precision;

typedef struct {
    const pa_params *params; // kept by reference
    // Of matrix products and attention; parameters, norms, softmax, loss and optimiser stay float32.
    pa_precision precision;
    int max_batch; // most sequences of one loss or loss_grad call; 0: neither will be called
    bool training; // allocates gradients and moments; without, loss_grad and update fail
    bool int8;     // rounds the weights of products to 8 bits, one scale a row, which decoding reads; not with training
    bool recompute;     // keep only each block's input and compute the rest again in the backward pass
    bool deterministic; // chooses nothing by its speed, which differs between starts
    int streams;        // sequences that prefill and decode advance together; 0: neither will be called
    uint64_t seed;      // of dropout
    pa_comm *comm;      // kept by reference
    bool muon;          // updates matrices by Muon, which has no second moment
    bool rates;         // embeddings, head and the rest have learning rates of their own
    bool sum_bf16;      // gradients are summed over ranks in bf16; only where own_transport
    bool zero;          // with several ranks: keeps only the moments of this rank's shares (pa_comm_share)
    FILE *plan;         // where to print the memory plan before anything is allocated; NULL: nowhere
    bool plan_only;     // print the plan and return PA_OK with *ctx = NULL
} pa_open;

enum { PA_BUSY_LATENTS = 8192 }; // about as many a call keep a device busy without much memory

// What one call computes on. Inputs are the first `length` tokens of a window; the last `latents` of them predict the
// next tokens.
typedef struct {
    int batch, length, latents; // B; M <= context; N >= 1, prefix P = M - N
    const uint16_t *input;      // (B, M)
    const uint16_t *target;     // (B, N); PA_PAD is not scored. NULL: none is
    const int32_t *keep;        // (B, kept) prefix positions that are attended to, ascending; NULL: all of them
    int kept;                   // with keep; P without
    const uint64_t *window;     // (B) the run's window numbers, which dropout draws by; NULL: no dropout (evaluation)
    bool last;                  // the last call of loss_grad before update: ranks begin to sum during its backward pass
} pa_batch;

// Any of these may be NULL.
typedef struct {
    float *nats;    // (B, N) -ln p(target), 0 where not scored
    uint16_t *best; // (B, N) most probable token
    float *logits;  // (B, N, V)
} pa_scores;

typedef struct {
    double lr;                             // of every group that has none of its own
    double lr_embedding, lr_head, lr_rest; // 0: lr
    double momentum;                       // of matrices, with pa_open.muon
    double beta1, beta2, eps, weight_decay;
    bool decoupled; // AdamW: decay outside the moments; else Adam with L2, as in PyTorch
    double clip;    // gradients are scaled down to this global norm; 0: never
    int64_t step;   // 1 for the first update: bias correction
} pa_update;

typedef enum { PA_PARAM, PA_GRAD, PA_MOMENT1, PA_MOMENT2 } pa_kind;

// fp16's loss scaling. update halves the factor if a gradient overflowed, and doubles it after many steps without.
// factor 0: no scaling.
typedef struct {
    double factor;
    int64_t steps; // since it last changed
} pa_scaling;

// The device, for a run's records.
typedef struct {
    char name[96];            // of a GPU; empty: the processor
    char instruction_set[16]; // "avx2"; of a GPU "sm_90"
    int threads;
} pa_hardware;

typedef struct pa_context pa_context;
typedef struct {
    const char *name;
    // Gradients of several ranks pass over the device's own connections, which pa_comm_sent doesn't count.
    bool own_transport;
    pa_status (*check_machine)(pa_err *err);                            // PA_OK if this machine can run it, or why not
    pa_status (*open)(pa_context **ctx, const pa_open *o, pa_err *err); // parameters start at zero
    void (*close)(pa_context *ctx);
    // Tensor `t` of the table as float32, in PyTorch's order. With `zero` all ranks read a moment together, and all of
    // them get it.
    pa_status (*read)(pa_context *ctx, pa_kind kind, int t, float *out, pa_err *err);
    pa_status (*write)(pa_context *ctx, pa_kind kind, int t, const float *in, pa_err *err);
    // Sum of nats over scored targets.
    pa_status (*loss)(pa_context *ctx, const pa_batch *b, double *sum, const pa_scores *scores, pa_err *err);
    // Same, and adds `scale` times the gradient of (sum of nats + z_loss * sum of ln(Z)^2) to the gradients. sum NULL:
    // a device may still be at work when this returns; `update` then returns the sum.
    pa_status (*loss_grad)(pa_context *ctx, const pa_batch *b, float scale, double *sum, pa_err *err);
    // Passes the batch of the next loss_grad in advance, so that it is copied to the device during earlier work; that
    // call then has b NULL. Optional.
    pa_status (*stage)(pa_context *ctx, const pa_batch *b, pa_err *err);
    // Sums gradients over ranks (as far as loss_grad has not), takes their global norm (before clipping), updates, and
    // clears them. A norm that is not finite leaves parameters and moments unchanged and clears the gradients. *nats
    // (may be NULL): the sum of this rank's loss_grad calls since the last update.
    pa_status (*update)(pa_context *ctx, const pa_update *u, double *norm, double *nats, pa_err *err);
    // PA_FAIL if parameters or moments changed since the last update, write or call of this: a bit flipped. Only in the
    // host's memory, as a GPU's corrects its own, and only with `zero` on several ranks. update begins with this.
    pa_status (*check)(pa_context *ctx, pa_err *err);
    // Fills the caches with `streams` sequences of `length` tokens, the last `latents` of them latents; logits
    // (streams, V) of the last.
    pa_status (*prefill)(pa_context *ctx, int length, int latents, const uint16_t *tokens, float *logits, pa_err *err);
    // Appends one token a stream as one more latent; PA_USAGE when the window is full.
    pa_status (*decode)(pa_context *ctx, const uint16_t *tokens, float *logits, pa_err *err);
    // Drops what follows the first `length` tokens of the caches, at least 1 and all of the prefix, so that decode
    // appends there; PA_USAGE where they hold fewer.
    pa_status (*rewind)(pa_context *ctx, int length, pa_err *err);
    // Installs `set` if non-NULL; returns the current scaling, which checkpoints store. Optional.
    pa_scaling (*scaling)(pa_context *ctx, const pa_scaling *set);
    size_t (*memory)(const pa_context *ctx); // bytes of all arenas
    // Flop/s of a large matrix product in the context's precision (MFU's measure): each call measures; the best so far.
    double (*peak)(pa_context *ctx);
    void (*describe)(const pa_context *ctx, pa_hardware *device);
    pa_precision (*precision)(const pa_context *ctx); // as resolved from PA_PRECISION_AUTO
} pa_backend;

const pa_backend *pa_backend_cpu(void);
const pa_backend *pa_backend_cuda(void); // built without CUDA (cuda/plan.c), it only prints the memory plan
// By --device: "auto", "cpu" or "cuda"; PA_USAGE for another name. "auto" takes a GPU if there is one, and prints why
// not.
pa_status pa_backend_choose(const char *device, const pa_backend **backend, pa_err *err);

#endif
