// work.h: the folder .paprep-WORD in an output folder, where a set is prepared. One paprep at a time has an output
// folder; where the file system has no locks, each works in a folder of its own.
#ifndef PA_WORK_H
#define PA_WORK_H

#include "host/base/base.h"

typedef struct pa_work pa_work;

// Creates `out` and the folder in it, and removes those of processes that were killed: their marker names them, and is
// not written to any more. PA_FAIL where another paprep has `out`.
pa_status pa_work_open(pa_work **work, const char *out, pa_err *err);
const char *pa_work_path(const pa_work *work);
// Removes the folder. NULL is fine.
pa_status pa_work_close(pa_work *work, pa_err *err);

#endif
