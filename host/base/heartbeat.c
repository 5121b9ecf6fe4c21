// heartbeat.c: see heartbeat.h.
#include "host/base/heartbeat.h"

#include <errno.h>
#include <signal.h>
#include <time.h>

static void *beat(void *heartbeat) {
    pa_heartbeat *h = heartbeat;
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next); // the time of day may be set back
    pthread_mutex_lock(&h->mutex);
    while (!h->ending) {
        next.tv_sec++;
        if (pthread_cond_timedwait(&h->ends, &h->mutex, &next) == ETIMEDOUT) h->act(h->arg);
    }
    pthread_mutex_unlock(&h->mutex);
    return NULL;
}

int pa_heartbeat_start(pa_heartbeat *h, void (*act)(void *arg), void *arg) {
    sigset_t all, before; // signals go to the main thread
    pthread_condattr_t clock;
    *h = (pa_heartbeat){.act = act, .arg = arg};
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_mutex_init(&h->mutex, NULL);
    pthread_cond_init(&h->ends, &clock);
    pthread_condattr_destroy(&clock);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&h->thread, NULL, beat, h);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    h->beats = !failed;
    return failed;
}

void pa_heartbeat_stop(pa_heartbeat *h) {
    if (!h->beats) return;
    pthread_mutex_lock(&h->mutex);
    h->ending = true;
    pthread_cond_signal(&h->ends);
    pthread_mutex_unlock(&h->mutex);
    pthread_join(h->thread, NULL);
    h->beats = false;
}
