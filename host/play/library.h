// library.h: what the programs add to the public library (include/patrain.h), through which they reach models: its
// errors as theirs, token files for a model, what --device auto prints.
#ifndef PA_LIBRARY_H
#define PA_LIBRARY_H

#include "host/files/token_set.h"
#include "include/patrain.h"

// The same status, with the text in *err.
pa_status pa_from_library(patrain_status status, const patrain_error *error, pa_err *err);

// The device of --device: where it is "auto" and this build has CUDA but the machine doesn't, prints why it is "cpu".
// "cuda" is not checked.
const char *pa_choose_device(const char *device);
void pa_precision_text(const patrain_options *o, char *text, size_t size); // "bf16, int8 weights"

// PA_DATA, which names both, where tokens have another encoding than a model's. A foreign model doesn't know its own.
pa_status pa_check_encoding(const pa_token_set *t, const patrain_model *model, const char *list, pa_err *err);
// Opens a token file or a list of them, which must have the model's encoding.
pa_status pa_open_tokens(pa_token_set *t, const patrain_model *model, const char *list, pa_err *err);

// PA_USAGE if `path`, the output file of --`option`, is the file `input`, under whatever name: no program overwrites
// what it reads. `what` names the input in the message; NULL for `input` is fine.
pa_status pa_check_spares(const char *option, const char *path, const char *what, const char *input, pa_err *err);
// PA_USAGE where `path` is there and lies in a run directory or a checkpoint: what a run has learned is not replaced by
// what is made with it.
pa_status pa_check_spares_runs(const char *option, const char *path, pa_err *err);

#endif
