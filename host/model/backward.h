// backward.h: the model's gradients.
#ifndef PA_BACKWARD_H
#define PA_BACKWARD_H

#include "host/model/context.h"

pa_status pa_context_loss_grad(pa_context *c, const pa_batch *b, float scale, double *sum, pa_err *err);
// What `work` does, replayed where the device can.
pa_status pa_replay(pa_context *c, const pa_step *step, pa_status (*work)(void *, pa_err *), pa_err *err);

#endif
