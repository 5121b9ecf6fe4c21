// run_dir.h: a run's directory: created, locked, moved aside, its settings written. It knows nothing of checkpoints'
// contents.
#ifndef PA_RUNDIR_H
#define PA_RUNDIR_H

#include "host/files/config.h"
#include "host/train/run_lock.h"

// Creates RUN with checkpoints/ and samples/ (with `fresh`, after moving an existing one to RUN.old-N) and locks it.
// PA_FAIL if another process has it. Prints to `out` what was moved, and whether the previous start was killed, whose
// temporary files it removes. Release the lock with pa_lock_release.
pa_status pa_rundir_open(const char *run, bool fresh, pa_lock **lock, FILE *out, pa_err *err);
// Removes what pa_rundir_open created for a run that could not begin, unless the directory holds anything else.
void pa_rundir_abandon(const char *run);
// Writes RUN/config.ini. Prints each key that differs from the previous file to `changes`, unless NULL.
pa_status pa_rundir_write_config(const char *run, const pa_config *c, FILE *changes, pa_err *err);

#endif
