// run_lock.h: gives a run directory to one process at a time, which can check that it still has it. Knows nothing of
// what is in the directory.
#ifndef PA_RUN_LOCK_H
#define PA_RUN_LOCK_H

#include "host/base/base.h"

typedef struct pa_lock pa_lock;

// Locks RUN by its file `lock`, or on a file system without locks by `lock.owner`, which its holder rewrites each
// second: there it waits for seconds to see whether an old one still is. PA_FAIL if another process has RUN. Prints to
// `out` if the previous holder was killed. `before`: its pa_process_word, by which temporary files that it left are
// known; "" without one.
pa_status pa_lock_take(pa_lock **lock, const char *run, char before[static 17], FILE *out, pa_err *err);
// Writes this process's own name and word into the file, once what the last one left is gone. Before any temporary
// file: after a power cut they are known by the word.
pa_status pa_lock_sign(pa_lock *lock, pa_err *err);
// PA_FAIL if RUN or its lock was moved, removed or taken since. Call it before each write: another run may have begun
// there. NULL is fine.
pa_status pa_lock_check(const pa_lock *lock, pa_err *err);
// If RUN was moved together with its lock: stores its new path in `run`, which the lock is for from now on, and returns
// true.
bool pa_lock_follow(pa_lock *lock, char *run, size_t size);
void pa_lock_release(pa_lock *lock); // NULL is fine

#endif
