// batch.h: checks a batch and copies it to where operations read it.
#ifndef PA_BATCH_H
#define PA_BATCH_H

#include "host/model/context.h"

// Checks a batch, copies it into a slot, and sends it on its way beside the operations.
pa_status pa_send_batch(pa_context *c, const pa_batch *b, pa_slot **slot, pa_err *err);
// Makes a slot's batch the current call's. loss_scale: see pa_scalars.
pa_status pa_take_batch(pa_context *c, pa_slot *slot, float loss_scale, pa_err *err);
// Sends the batch of the next loss_grad ahead.
pa_status pa_context_stage(pa_context *c, const pa_batch *b, pa_err *err);

#endif
