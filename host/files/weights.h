// weights.h: finds, checks and loads a model file, one of ours or of perceiver_ar_pytorch. Knows nothing of training.
#ifndef PA_WEIGHTS_H
#define PA_WEIGHTS_H

#include "host/files/config.h"
#include "host/files/safetensors.h"
#include "tokenizer/tokens.h"

// A model file found, opened and understood.
typedef struct {
    pa_st *file;
    pa_model model;
    pa_encoding encoding; // of its own metadata; PA_PERFORMANCE for a foreign file
    int64_t step;         // 0 for a foreign file
    bool foreign;         // of perceiver_ar_pytorch, without our metadata
    char path[4096];      // of the model file itself
} pa_weights;

// `from` is a path or a name (model_path.h). A file without our metadata needs `config`, an INI file whose [model] says
// what shapes can't, or `model` itself (PA_USAGE without either). With our metadata, what is given must agree. Every
// tensor of the model must be there once, with its shape, as F32, F64, BF16 or F16. Two more may be, for
// perceiver_ar_pytorch: rotary_pos_emb.inv_freq and, with model.position = rotary, a pos_emb.weight of zeros. A leading
// "module." or "net." of names is dropped.
pa_status pa_weights_open(pa_weights *w, const char *from, const char *config, const pa_model *model, pa_err *err);
// Writes every parameter into an open context whose table is `params` (of w->model), as float32: F16 and BF16 exactly,
// F64 rounded to nearest. PA_DATA for a number of these that float32 cannot hold, or that is not finite.
pa_status pa_weights_load(const pa_weights *w, const pa_params *params, const pa_backend *backend, pa_context *ctx,
                          pa_err *err);
// Writes a copy with its metadata: F32, or F16 where `half` (rounded to nearest; PA_DATA where a number is above its
// range, 65504).
pa_status pa_weights_export(const pa_weights *w, const char *path, bool half, pa_err *err);
void pa_weights_close(pa_weights *w);

#endif
