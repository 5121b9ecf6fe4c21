// threads.h: makes OpenMP regions get the number of threads that they ask for. With fewer, oneDNN 2.6.3 leaves part of
// a product undone; OMP_DYNAMIC, OMP_THREAD_LIMIT, OMP_MAX_ACTIVE_LEVELS and enclosing regions may cause that.
#ifndef PA_THREADS_H
#define PA_THREADS_H

#include "host/base/base.h"

// This thread's OpenMP settings.
typedef struct {
    int threads;
    bool dynamic;
} pa_threads;

// Until pa_threads_leave every region that this thread opens gets omp_get_max_threads() threads: `wanted`, or fewer if
// a setting allows fewer; one inside a region of several threads, which may hold the others. Returns the settings
// before.
pa_threads pa_threads_enter(int wanted);
void pa_threads_leave(pa_threads before);

// Lists OpenMP's environment variables: "OMP_DYNAMIC=true, OMP_NUM_THREADS=2", or "no OMP_ variable set".
void pa_threads_settings(char text[512]);

#endif
