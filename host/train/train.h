// train.h: a training run from start to end: evaluation, logs, checkpoints, signals.
#ifndef PA_TRAIN_H
#define PA_TRAIN_H

#include "host/files/config.h"
#include "host/model/backend.h"

typedef struct {
    const char *run_dir;
    const char *init;    // weights to start from, or NULL
    const char *command; // command line, for the run's records
    bool fresh;          // move an existing run directory aside first
    bool dry_run;        // one window a rank, nothing written
    bool no_save;        // writes no checkpoint, not even at the end
    const pa_backend *backend;
    pa_comm *comm; // the ranks; only rank 0 prints and writes
} pa_train_options;

// Trains until a limit of the configuration is reached. PA_STOPPED if a signal stopped the run, after saving.
pa_status pa_train(const pa_config *config, const pa_train_options *options, pa_err *err);

#endif
