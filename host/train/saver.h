// saver.h: checkpoints written in the background while training goes on.
#ifndef PA_SAVER_H
#define PA_SAVER_H

#include "host/train/checkpoint.h"

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
// Points DIR/latest at the checkpoint that a run goes on from, and DIR/best at its best: a save may have ended before it came to them.
pa_status pa_checkpoint_links(const char *dir, const pa_run_state *state, pa_err *err);

#endif
