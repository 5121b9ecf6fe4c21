// reference.h: the model of model.md written a second time, as plainly as possible, in float64: what every backend is
// measured against. Shares no code with a backend, so that a mistake has to be made twice to pass.
#ifndef PA_TESTS_REFERENCE_H
#define PA_TESTS_REFERENCE_H

#include "host/model/params.h"

#include "host/model/backend.h"

// Where a plain 16-bit computation (as PyTorch's autocast) would round: operands and results of every matrix product,
// norm, rotation and activation, and attention probabilities; the residual stream, statistics, logits and loss stay
// exact. REF_FROZEN multiplies by the relative errors that a REF_ROUND run recorded: the same values at the same
// parameters, but a smooth function of them, so that differences of it give the gradient of a computation that is as
// inexact as bf16 is.
typedef enum { REF_EXACT, REF_ROUND, REF_FROZEN } ref_mode;
typedef struct {
    ref_mode mode;
    int bits;       // of a significand: 0 or 8: bf16's; 11: fp16's, without its bounds
    double *factor; // REF_ROUND: grown as needed, free() it; REF_FROZEN: read
    size_t next, capacity;
} ref_rounding;

typedef struct {
    double nats;      // sum over scored targets
    double objective; // nats + z_loss * sum of ln(Z)^2
    int scored;
} ref_loss;

// w: all parameters, tensor t at p->row[t].offset. rounding NULL: exact. logits (B, N, V) and nats (B, N) may be NULL.
ref_loss ref_forward(const pa_params *p, const double *w, const pa_batch *b, uint64_t seed,
                     const ref_rounding *rounding, double *logits, double *nats);
// Records the relative rounding errors of this batch at these parameters; the result is a REF_FROZEN rounding.
ref_rounding ref_freeze(const pa_params *p, const double *w, const pa_batch *b, uint64_t seed, int bits);

#endif
