// threads.c: see threads.h.
#include "host/base/threads.h"

#include <omp.h>
#include <string.h>

extern char **environ;

pa_threads pa_threads_enter(int wanted) {
    pa_threads before = {omp_get_max_threads(), omp_get_dynamic()};
    int limit = omp_get_thread_limit();
    if (wanted > limit) wanted = limit;
    if (omp_in_parallel() || omp_get_active_level() >= omp_get_max_active_levels()) wanted = 1;
    omp_set_dynamic(0);
    omp_set_num_threads(wanted);
    return before;
}

void pa_threads_leave(pa_threads before) {
    omp_set_num_threads(before.threads);
    omp_set_dynamic(before.dynamic);
}

void pa_threads_settings(char text[512]) {
    size_t used = 0;
    snprintf(text, 512, "no OMP_ variable set");
    for (char **e = environ; *e && used < 400; e++)
        if (!strncmp(*e, "OMP_", 4) || !strncmp(*e, "KMP_", 4) || !strncmp(*e, "GOMP_", 5))
            used += (size_t)snprintf(text + used, 512 - used, "%s%.100s", used ? ", " : "", *e);
}
