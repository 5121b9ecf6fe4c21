// trainer.h: the state of a training run, private to host/train.
#ifndef PA_TRAINER_H
#define PA_TRAINER_H

#include "host/base/progress.h"
#include "host/train/checkpoint.h"
#include "host/train/run_log.h"
#include "host/train/saver.h"
#include "host/train/tee.h"
#include "host/train/train.h"
#include "host/train/windows.h"

enum { PA_DRY_LATENTS = 1024 }; // enough rows for the products' full speed, few enough for seconds
#define PA_WARMUP_SHARE 0.1     // of the run: a warm-up that would not fit takes this much

typedef struct {
    const pa_train_options *options;
    pa_run run; // directory, configuration, backend and its context
    pa_comm *comm;
    bool is_root; // rank 0, which prints and writes
    FILE *out;    // messages: to stderr and train.log
    pa_tee *tee;  // of the root
    pa_params params;
    pa_token_set train, validation;
    bool has_validation; // and it has something to score
    pa_sampler sampler;
    pa_run_state state;
    pa_runlog log;
    pa_saver *saver;  // of the root, unless dry_run
    pa_lock *lock;    // of the run directory; NULL: not the root's, or a dry run
    char moved[4096]; // where it was moved to while the run had it; "" if it was not

    int micro_batch;           // windows a call of loss_grad, at most
    int first_window, windows; // this rank's part of a step's windows
    int step_windows;          // windows a step, over all ranks
    int latents;               // of a window; in a dry run at most PA_DRY_LATENTS of them
    int kept;                  // prefix positions of a full window kept after prefix_dropout
    double warmup;             // optimizer.warmup; if that is longer than the run, PA_WARMUP_SHARE of the run
    int skips_in_a_row;
    bool bad_loss;      // the last step's is not finite: it is not saved
    double progress;    // share of the run that is done, agreed on by all ranks before the step
    bool stopping;      // some rank got a signal to stop
    double started;     // clock at the start, less the seconds of earlier starts
    double peak;        // measured flop/s of all ranks
    int64_t saved_step; // -1 before the first
    pa_err absent;      // of a dry run without its device: why no step can run

    int64_t drawn;    // step of the windows below; -1: none
    double scored;    // targets of this rank's windows
    bool are_tokens;  // they are all token ids
    int64_t verified; // epoch in which the token files were last read whole
    int staged;       // windows of their first micro-batch, where the backend has it; else 0
    uint16_t *tokens; // (windows, context + 1)
    uint64_t *number; // (windows) window numbers of the run
    uint16_t *input;  // (micro_batch, context)
    uint16_t *target; // (micro_batch, latents)
    int32_t *keep;    // (micro_batch, kept)

    pa_progress bar;   // of the steps until the next line, on a terminal
    int64_t bar_began; // step
    double last_line;  // clock
} pa_trainer;

// Prepares everything before the first step and loads the checkpoint to resume from. In a dry run without its device,
// run.ctx stays NULL. Close t after an error too.
pa_status pa_trainer_open(pa_trainer *t, const pa_config *config, const pa_train_options *options, pa_err *err);
void pa_trainer_close(pa_trainer *t);

#endif
