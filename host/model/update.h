// update.h: the optimiser's step, and fp16's loss scaling.
#ifndef PA_UPDATE_H
#define PA_UPDATE_H

#include "host/model/context.h"

pa_status pa_context_update(pa_context *c, const pa_update *u, double *norm, double *nats, pa_err *err);
pa_status pa_context_check(pa_context *c, pa_err *err);
pa_scaling pa_context_scaling(pa_context *c, const pa_scaling *set);

#endif
