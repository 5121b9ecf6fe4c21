// checkpoint.h: weights in and out of safetensors files, checkpoint directories and run directories. Independent of device and ranks.
#ifndef PA_CHECKPOINT_H
#define PA_CHECKPOINT_H

#include "host/config.h"
#include "host/safetensors.h"
#include "host/spike.h"
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

// `from` is a model.safetensors, a checkpoint directory or a run directory (its `best`, else `latest`, else the newest: a copy may
// have lost its links). A file without our metadata
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
    int64_t spikes;        // steps with a loss or a gradient norm beyond their bounds
    pa_running loss, norm; // which these have
    pa_scaling scaling;    // of fp16's losses, where the run was last on a device that scales them
} pa_run_state;

// A run as its checkpoints see it; all of it outlives them.
typedef struct {
    const char *dir;
    const pa_config *config;
    pa_encoding encoding;
    uint32_t corpus; // CRC-32C of what it trains on
    const pa_params *params;
    const pa_backend *backend;
    pa_context *ctx;
} pa_run;

// Writes checkpoints while training goes on. Takes memory for a copy of weights and moments, 12 bytes a parameter.
typedef struct pa_saver pa_saver;
pa_status pa_saver_open(pa_saver **s, const pa_run *run, pa_err *err);
// Copies weights, moments and state, and begins to write DIR/checkpoints/step-XXXXXXXX (model.safetensors, state.safetensors): whole,
// synced and read back before it takes its place, or not at all. Then DIR/latest points at it, and DIR/best too where `best`; then all but
// the `keep` newest are removed, never what latest or best point at. Waits for the one before, whose error it returns.
pa_status pa_saver_save(pa_saver *s, const pa_run_state *state, bool best, pa_err *err);
pa_status pa_saver_check(pa_saver *s, pa_err *err); // the error of one that failed meanwhile; doesn't wait
pa_status pa_saver_wait(pa_saver *s, pa_err *err);  // until the last one is there, or its error
void pa_saver_close(pa_saver *s);                   // waits; NULL is fine
// The other ranks' part in a save where moments are shared out (train.zero): rank 0 reads them, which all do together.
pa_status pa_saver_lend(const pa_run *run, pa_err *err);

// Finds the newest checkpoint of the run that is whole (a damaged one is told of on stderr and passed over) and loads weights, moments and
// state. *found = false where there is none at all; PA_DATA where there are some and none is whole; PA_USAGE where it is of another model,
// seed, encoding or corpus.
pa_status pa_checkpoint_resume(const pa_run *run, pa_run_state *state, bool *found, pa_err *err);
// Points DIR/latest at the checkpoint that a run goes on from, and DIR/best at its best: a save may have ended before it came to them.
pa_status pa_checkpoint_links(const char *dir, const pa_run_state *state, pa_err *err);
// Steps of all checkpoints in DIR, newest first (free them); what interrupted saves left is put in order on the way.
pa_status pa_checkpoint_list(const char *dir, int64_t **step, size_t *count, pa_err *err);
// The newest's step, -1 where there is none; changes nothing.
int64_t pa_checkpoint_newest(const char *dir);

#endif
