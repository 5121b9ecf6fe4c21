// checkpoint_list.h: which checkpoints a run directory holds.
#ifndef PA_CHECKPOINT_LIST_H
#define PA_CHECKPOINT_LIST_H

#include "host/base/base.h"

// Cleans up after killed process WORD: removes its unfinished step-N.tmp.WORD in DIR, and renames its step-N.old.WORD
// back to step-N unless that exists.
pa_status pa_checkpoint_tidy(const char *dir, const char *word, pa_err *err);
// Steps of all checkpoints in DIR, newest first (free them).
pa_status pa_checkpoint_list(const char *dir, int64_t **step, size_t *count, pa_err *err);
// The newest checkpoint's step; -1 if there is none. Changes nothing.
int64_t pa_checkpoint_newest(const char *dir);

#endif
