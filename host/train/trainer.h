// trainer.h: what trainer.c sets up and train.c runs. Private to the two.
#ifndef PA_TRAINER_H
#define PA_TRAINER_H

#include "host/base/progress.h"
#include "host/train/checkpoint.h"
#include "host/train/run_log.h"
#include "host/train/saver.h"
#include "host/train/train.h"
#include "host/train/windows.h"

typedef struct {
    const pa_config *config;
    const pa_train_options *options;
    const pa_backend *backend;
    pa_context *ctx;
    pa_comm comm;
    pa_params params;
    pa_token_set train, validation;
    bool has_validation;
    pa_sampler sampler;
    pa_run_state state;
    pa_runlog log;
    pa_progress bar;   // of the steps to the next line, on a terminal
    int64_t bar_began; // with this step
    double spoke;      // clock at the last line
    pa_run run;
    pa_saver *saver;                 // of rank 0, unless nothing is to be written
    int lock, micro, first, windows; // this rank's windows of a step: `windows` of them from `first`
    int kept, skips_in_a_row;
    double progress;      // share of the run that is done, as all ranks agreed before this step
    bool stopping;        // a rank was asked to stop
    double started, peak; // clock at the start less seconds trained before; flop/s
    int64_t drawn;        // step that the windows below are of; -1: none
    double scored;        // targets of this rank's windows
    pa_err absent;        // of a dry run: why no step can be run
    bool staged;          // their first micro-batch is with the backend
    uint16_t *tokens;     // (windows, context + 1)
    uint16_t *input, *target;
    int32_t *keep;
    uint64_t *number;
    int64_t saved_step;
} pa_trainer;

// All that a run needs before its first step, the checkpoint that it goes on from included. t->ctx stays NULL in a dry run for a device
// that is not there. t is to be closed after an error too.
pa_status pa_trainer_open(pa_trainer *t, const pa_config *config, const pa_train_options *options, pa_err *err);
void pa_trainer_close(pa_trainer *t);

#endif
