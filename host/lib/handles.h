// handles.h: what stands behind patrain.h's models and what all of host/lib uses.
#ifndef PA_HANDLES_H
#define PA_HANDLES_H

#include "host/files/weights.h"
#include "include/patrain.h"

struct patrain_model {
    pa_weights weights;
    pa_params params;
    patrain_model_info info;
};

// Fills *error (may be NULL) and returns the status.
patrain_status pa_lib_result(pa_status status, const pa_err *why, patrain_error *error);
// PA_USAGE unless a caller's struct has the size that this library knows.
pa_status pa_lib_size(const char *name, size_t size, size_t expected, pa_err *err);

#endif
