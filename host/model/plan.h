// plan.h: what lies where in a context's arenas.
#ifndef PA_PLAN_H
#define PA_PLAN_H

#include "host/model/context.h"

// Places everything in the arenas; counts while they have no base.
void pa_plan(pa_context *c);
// The same for the host's memory for copies; returns its bytes. On a unified device there is none: the buffers themselves are used.
size_t pa_plan_host(pa_context *c, void *base);

#endif
