// inference.h: opens a checkpoint on a device for prediction. Knows nothing of what is predicted.
#ifndef PA_INFERENCE_H
#define PA_INFERENCE_H

#include "host/files/token_set.h"
#include "host/files/weights.h"

typedef struct {
    pa_weights weights;
    pa_params params;
    pa_comm comm;
    bool int8;
    const pa_backend *backend;
    pa_context *ctx; // NULL before pa_inference_start
} pa_inference;

// Finds and checks the checkpoint (checkpoint.h) and the device; x->params.model is known then. Clear with
// pa_inference_close, also where it failed.
pa_status pa_inference_open(pa_inference *x, const char *checkpoint, const char *config, const char *device, pa_err *err);
// Takes the memory and loads the weights. int8, max_batch and streams as in pa_open; precision is auto, fp32, bf16 or
// fp16.
pa_status pa_inference_start(pa_inference *x, const char *precision, bool int8, int max_batch, int streams, pa_err *err);
void pa_inference_close(pa_inference *x);

// Opens a token file or a list of them, which must have the checkpoint's encoding: PA_DATA names both. A foreign
// checkpoint doesn't know its own.
pa_status pa_inference_tokens(const pa_inference *x, pa_token_set *t, const char *list, pa_err *err);
const char *pa_inference_precision(const pa_inference *x); // as resolved

// PA_USAGE where `path`, the output file of --`option`, is `input` under any name: no program overwrites what it reads.
// `what` is it in the message; NULL for `input` is fine.
pa_status pa_check_spares(const char *option, const char *path, const char *what, const char *input, pa_err *err);

#endif
