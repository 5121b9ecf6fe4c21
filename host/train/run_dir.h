// run_dir.h: a run's directory: made, locked, moved aside, its settings written. Knows nothing of what is in a checkpoint.
#ifndef PA_RUNDIR_H
#define PA_RUNDIR_H

#include "host/files/config.h"

// Makes RUN with checkpoints/ and samples/ (with `fresh`, after moving an existing one to RUN.old-N) and locks it for this process:
// PA_FAIL names the process that has it; one that was killed is told of on stderr. The lock goes with the process, however it ends.
pa_status pa_rundir_open(const char *run, bool fresh, int *lock, pa_err *err);
void pa_rundir_close(int lock); // below 0: nothing
// Removes what pa_rundir_open made, of a run that could not begin; a directory that has anything in it stays.
void pa_rundir_abandon(const char *run);
// RUN/config.ini, resolved. Where the run was resumed, each key that differs from what was there is told of on stderr.
pa_status pa_rundir_write_config(const char *run, const pa_config *c, bool resumed, pa_err *err);

#endif
