// checkpoint.h: the state of a run that checkpoints store, and resuming from the newest intact one. Independent of
// device and ranks.
#ifndef PA_CHECKPOINT_H
#define PA_CHECKPOINT_H

#include "host/files/config.h"
#include "host/train/run_lock.h"
#include "host/train/spike.h"
#include "tokenizer/tokens.h"

// What a checkpoint stores besides weights and moments.
typedef struct {
    int64_t step;    // steps done, skipped ones included
    int64_t updates; // steps not skipped: Adam's step
    double seconds;  // of training so far
    int64_t skips;   // in the whole run
    double best;     // best evaluation loss so far; INFINITY before the first
    int64_t best_step;
    int64_t evaluated; // step of the last evaluation; -1 before the first
    uint64_t seed;
    int64_t spikes;        // steps with a loss or gradient norm above its bound
    pa_running loss, norm; // the bounds
    pa_scaling scaling;    // fp16's loss scaling; factor 0: never used
    uint32_t validation;   // CRC-32C of the validation data that best was measured on; 0: none yet
} pa_run_state;

// The parts of a run that checkpoints are read from and written to. All pointers are borrowed.
typedef struct {
    const char *dir;
    const pa_config *config;
    pa_encoding encoding;
    uint32_t corpus;     // CRC-32C of the training data
    uint32_t validation; // and of the validation data; 0: none
    const pa_params *params;
    const pa_backend *backend;
    pa_context *ctx;
    float *average;      // with train.ema: of the weights, laid out as params; NULL without
    const pa_lock *lock; // of `dir`; NULL: none, nobody else knows of it
    FILE *out;           // messages; NULL: stderr
} pa_run;

// Loads weights, moments and state from the run's newest intact checkpoint; reports and skips damaged ones, among them
// those with numbers that are not finite, under another step's name, or whose state is not their model's. *found is
// false if there is none at all. With run->average, loads that too; of a checkpoint without one it becomes the weights.
// PA_DATA if all are damaged; PA_USAGE if it has another model, seed, encoding or corpus.
pa_status pa_checkpoint_resume(const pa_run *run, pa_run_state *state, bool *found, pa_err *err);

#endif
