// run_lock.h: one process at a time has a run directory, and knows when it has it no more. Knows nothing of what is in
// the directory.
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
// PA_FAIL if RUN or its lock was moved, removed or taken since. Before each write: another run may have begun there.
// NULL is fine.
pa_status pa_lock_check(const pa_lock *lock, pa_err *err);
// If RUN was moved as it is, lock included: true, its new path, and the lock is for that from now on.
bool pa_lock_follow(pa_lock *lock, char *run, size_t size);
void pa_lock_release(pa_lock *lock); // NULL is fine

#endif
