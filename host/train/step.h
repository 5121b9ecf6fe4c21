// step.h: one training step. What it computes is a function of (seed, step) only, whatever the ranks, the micro-batch
// and the speed.
#ifndef PA_STEP_H
#define PA_STEP_H

#include "host/train/trainer.h"

// Draws the step's windows, sums their gradient over micro-batches and ranks, updates the weights and fills `log`.
// PA_STOPPED if the grace after a signal ended between two micro-batches: weights and moments are as before the step.
pa_status pa_train_step(pa_trainer *t, pa_step_log *log, pa_err *err);

// Share of the run that is done, by the nearest of its limits; 0 without a limit.
double pa_train_progress(const pa_trainer *t);

// Moves the progress bar to `share` of the current step.
void pa_train_move_bar(pa_trainer *t, double share);

#endif
