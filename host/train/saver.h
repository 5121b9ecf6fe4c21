// saver.h: checkpoints written in the background while training continues.
#ifndef PA_SAVER_H
#define PA_SAVER_H

#include "host/train/checkpoint.h"

// Holds a copy of weights and moments, 12 bytes a parameter, and of run->average.
typedef struct pa_saver pa_saver;
size_t pa_saver_floats(const pa_params *p, bool muon, bool average); // numbers in the copy
pa_status pa_saver_open(pa_saver **s, const pa_run *run, pa_err *err);
// Waits for the previous save and returns its error; PA_FAIL where weights or moments are not finite. Then copies
// weights, moments and state, and starts writing DIR/checkpoints/step-XXXXXXXX (model.safetensors with the weights or
// their average, state.safetensors with the rest), which appears only once it is complete, synced and read back. Then
// points DIR/latest at it (and DIR/best, with `best`) and removes all but the `keep` newest, except what latest and
// best point at.
pa_status pa_saver_save(pa_saver *s, const pa_run_state *state, bool best, pa_err *err);
pa_status pa_saver_check(pa_saver *s, pa_err *err); // the error of a save that has failed; does not wait
pa_status pa_saver_wait(pa_saver *s, pa_err *err);  // waits until the last save is on disk
void pa_saver_forget(pa_saver *s);                  // after a wait: its error, so that the next save is tried
void pa_saver_close(pa_saver *s);                   // waits too; NULL is fine
// The other ranks' part of a save with train.zero: reading the moments needs every rank.
pa_status pa_saver_lend(const pa_run *run, pa_err *err);
// Points DIR/latest at the checkpoint that a run resumes from, and DIR/best at its best; a crash may have left them
// behind.
pa_status pa_checkpoint_links(const char *dir, const pa_run_state *state, pa_err *err);

#endif
