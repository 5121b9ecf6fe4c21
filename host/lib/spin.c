// spin.c: see spin.h. GCC's libgomp reads its settings when it is loaded, which is before any code of ours. By default
// threads spin for some milliseconds at every barrier, which costs a factor of 100 beside other work (bench/log.md),
// unless the process has more OpenMP threads than processors: then they spin for 1000 rounds. So a team of idle threads
// makes up that number. They sleep in their barrier for ever.
#include "host/lib/spin.h"

#include <omp.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#if defined(__GNUC__) && !defined(__clang__)

static void *hold_team(void *arg) {
    (void)arg;
    // All processors' threads and one more, however few the caller computes on.
#pragma omp parallel num_threads(omp_get_num_procs() + 1)
    __asm__ volatile(""); // an empty region is optimised away
    for (;;) pause();
    return NULL;
}

static void start_team(void) {
    pthread_t thread;
    pthread_attr_t attributes;
    sigset_t all, before;
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) return;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all); // the process's signals are the caller's
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_create(&thread, &attributes, hold_team, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

void pa_spin_briefly(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start_team);
}

#else

void pa_spin_briefly(void) {}

#endif
