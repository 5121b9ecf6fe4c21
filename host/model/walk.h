// walk.h: what every backend's table has in common: the model itself.
#ifndef PA_WALK_H
#define PA_WALK_H

#include "host/model/backward.h"
#include "host/model/batch.h"
#include "host/model/decode.h"
#include "host/model/forward.h"
#include "host/model/open.h"
#include "host/model/update.h"

// The entries of a pa_backend that are not the backend's own, as designated initialisers.
#define PA_WALK                                                                                                        \
    .close = pa_context_close, .read = pa_context_read, .write = pa_context_write, .loss = pa_context_loss,            \
    .loss_grad = pa_context_loss_grad, .update = pa_context_update, .check = pa_context_check,                         \
    .prefill = pa_context_prefill, .decode = pa_context_decode, .rewind = pa_context_rewind,                           \
    .scaling = pa_context_scaling, .memory = pa_context_memory, .peak = pa_context_peak,                               \
    .describe = pa_context_describe, .precision = pa_context_precision

#endif
