// rundir.h: a run's directory: made, locked, moved aside, its settings written. Knows nothing of what is in a checkpoint.
#ifndef PA_RUNDIR_H
#define PA_RUNDIR_H

#include "host/config.h"

// Makes RUN with checkpoints/ and samples/ (with `fresh`, after moving an existing one to RUN.old-N) and locks it for this process:
// PA_FAIL names the process that has it. *lock is to be closed at the end; the lock goes with the process, however it ends.
pa_status pa_rundir_open(const char *run, bool fresh, int *lock, pa_err *err);
// Removes what pa_rundir_open made, of a run that could not begin; a directory that has anything in it stays.
void pa_rundir_abandon(const char *run);
// RUN/config.ini, resolved.
pa_status pa_rundir_write_config(const char *run, const pa_config *c, pa_err *err);

#endif
