// checkpoint.h: a run as its checkpoints see it, and the newest one that is whole, found again. Independent of device and ranks.
#ifndef PA_CHECKPOINT_H
#define PA_CHECKPOINT_H

#include "host/files/config.h"
#include "host/train/spike.h"
#include "tokenizer/tokens.h"

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

// Finds the newest checkpoint of the run that is whole (a damaged one is told of on stderr and passed over) and loads weights, moments and
// state. *found = false where there is none at all; PA_DATA where there are some and none is whole; PA_USAGE where it is of another model,
// seed, encoding or corpus.
pa_status pa_checkpoint_resume(const pa_run *run, pa_run_state *state, bool *found, pa_err *err);

#endif
