// checkpoint_list.h: which checkpoints a run directory holds.
#ifndef PA_CHECKPOINT_LIST_H
#define PA_CHECKPOINT_LIST_H

#include "host/base/base.h"

// Puts in order what saves of a killed process left in DIR: folders named step-N.tmp.WORD and step-N.old.WORD.
pa_status pa_checkpoint_tidy(const char *dir, const char *word, pa_err *err);
// Steps of all checkpoints in DIR, newest first (free them).
pa_status pa_checkpoint_list(const char *dir, int64_t **step, size_t *count, pa_err *err);
// The newest's step, -1 where there is none; changes nothing.
int64_t pa_checkpoint_newest(const char *dir);

#endif
