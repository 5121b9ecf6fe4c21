// threads.h: how many threads an OpenMP region gets, made certain. oneDNN 2.6.3 leaves part of a product undone where a
// region gets fewer threads than it asks for, as OMP_DYNAMIC, OMP_THREAD_LIMIT, OMP_MAX_ACTIVE_LEVELS and enclosing
// regions may cause.
#ifndef PA_THREADS_H
#define PA_THREADS_H

#include "host/base/base.h"

// This thread's OpenMP settings.
typedef struct {
    int threads;
    bool dynamic;
} pa_threads;

// From here to pa_threads_leave every region that this thread opens gets the threads that omp_get_max_threads() says:
// `wanted`, or fewer where a setting allows fewer; one inside a region of several threads, which may hold the others.
// Returns the settings before.
pa_threads pa_threads_enter(int wanted);
void pa_threads_leave(pa_threads before);

// Lists what the environment sets of OpenMP, as "OMP_DYNAMIC=true, OMP_NUM_THREADS=2", or "no OMP_ variable set".
void pa_threads_settings(char text[512]);

#endif
