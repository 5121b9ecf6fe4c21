// plan.h: what lies where in a context's arenas.
#ifndef PA_PLAN_H
#define PA_PLAN_H

#include "host/model/context.h"

// Places everything in the arenas; counts while they have no base.
void pa_plan(pa_context *c);
// The same for the host's memory for copies; returns its bytes. On a unified device there is none: the buffers
// themselves are used.
size_t pa_plan_host(pa_context *c, void *base);

// Rows of one decoding step, float32, each from a multiple of 64 floats. NULL while there are none.
typedef struct {
    float *x, *xn, *qkv, *o, *hidden, *g, *y, *mean, *rstd, *head_rstd, *logits;
} pa_step_rows;
// Places them from `base`; returns their floats.
size_t pa_plan_step(const pa_context *c, float *base, pa_step_rows *r);
// Numbers in step_in.
size_t pa_step_in(const pa_context *c);

#endif
