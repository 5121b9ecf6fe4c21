// checkpoint.h: weights in and out of safetensors files, checkpoint directories and run directories. Independent of device and ranks.
#ifndef PA_CHECKPOINT_H
#define PA_CHECKPOINT_H

#include "host/config.h"
#include "host/safetensors.h"
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

// `from` is a model.safetensors, a checkpoint directory or a run directory (its `best`, else `latest`). A file without our metadata
// needs `config`, an INI file whose [model] says what shapes can't, or `model` itself (PA_USAGE without either). With our metadata what
// is given must agree.
// Every tensor of the model must be there with its shape, and nothing else but rotary_pos_emb.inv_freq; a leading "module." or "net."
// of names is taken off.
pa_status pa_weights_open(pa_weights *w, const char *from, const char *config, const pa_model *model, pa_err *err);
// Writes every parameter into an open context whose table is `params` (of w->model).
pa_status pa_weights_load(const pa_weights *w, const pa_params *params, const pa_backend *backend, pa_context *ctx, pa_err *err);
void pa_weights_close(pa_weights *w);

// What a run must remember besides weights and moments.
typedef struct {
    int64_t step;    // updates done, skipped ones included
    int64_t updates; // updates not skipped: Adam's step
    double seconds;  // of training so far
    int64_t skips;   // in all
    double best;     // best evaluation loss so far; infinity before the first
    int64_t best_step;
    int64_t evaluated; // step of the last evaluation; -1 before the first
    uint64_t seed;
} pa_run_state;

// Writes RUN/checkpoints/step-XXXXXXXX (model.safetensors, state.safetensors) whole or not at all and points RUN/latest at it, and
// RUN/best too where `best`; then removes all but the `keep` newest, never what latest or best point at.
pa_status pa_checkpoint_save(const char *run, const pa_config *c, pa_encoding encoding, const pa_run_state *state, const pa_params *params,
                             const pa_backend *backend, pa_context *ctx, bool best, pa_err *err);
// Finds the newest checkpoint of RUN that is whole (a damaged one is told of on stderr and passed over) and loads weights, moments and
// state. *found = false where there is none at all; PA_DATA where there are some and none is whole.
pa_status pa_checkpoint_resume(const char *run, const pa_config *c, pa_run_state *state, const pa_params *params, const pa_backend *backend,
                               pa_context *ctx, bool *found, pa_err *err);

#endif
