// open.h: opens and closes a model on a device; reads and writes its tensors.
#ifndef PA_MODEL_OPEN_H
#define PA_MODEL_OPEN_H

#include "host/model/context.h"

// Opens a model on a device that was opened with o; owns the device from now on, after an error too.
pa_status pa_context_open(pa_context **c, const pa_open *o, const pa_ops *ops, pa_device *d, const pa_device_info *info,
                          pa_err *err);
void pa_context_close(pa_context *c);
pa_status pa_context_read(pa_context *c, pa_kind kind, int t, float *out, pa_err *err);
pa_status pa_context_write(pa_context *c, pa_kind kind, int t, const float *in, pa_err *err);
size_t pa_context_memory(const pa_context *c);
double pa_context_peak(pa_context *c);
void pa_context_describe(const pa_context *c, pa_hardware *hardware);
pa_precision pa_context_precision(const pa_context *c);
// Clears what the last step left of gradients, before they are read or added to from outside.
pa_status pa_settle_gradients(pa_context *c, pa_err *err);
// Casts, and with int8 rounds, the parameters again if any was written since.
void pa_refresh_weights(pa_context *c);

#endif
