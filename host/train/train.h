// train.h: the training loop: windows, micro-batches, schedule, evaluation, logs, checkpoints, signals.
#ifndef PA_TRAIN_H
#define PA_TRAIN_H

#include "host/files/config.h"
#include "host/model/backend.h"

typedef struct {
    const char *run;  // run directory
    const char *init; // weights to start from, or NULL
    bool fresh;       // move an existing run directory aside first
    bool dry_run;     // one step, nothing written
    const pa_backend *backend;
    pa_comm comm; // the ranks; only rank 0 prints and writes
} pa_train_options;

// PA_STOPPED where a signal ended it after saving.
pa_status pa_train(const pa_config *config, const pa_train_options *options, pa_err *err);

// Learning rate of the update that brings the run from `progress` (0..1 of the whole run, by whichever limit is nearest) at `step` (0..).
double pa_learning_rate(const pa_config *c, int64_t step, double progress);

#endif
