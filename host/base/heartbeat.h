// heartbeat.h: a thread that does something each second, by which others see that its process is alive.
#ifndef PA_HEARTBEAT_H
#define PA_HEARTBEAT_H

#include <pthread.h>
#include <stdbool.h>

typedef struct {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t ends;
    bool beats, ending;
    void (*act)(void *arg);
    void *arg;
} pa_heartbeat;

// Calls act(arg) each second, whatever is done to the time of day, until pa_heartbeat_stop. The thread takes no
// signals. Returns 0, or an errno where no thread can be started.
int pa_heartbeat_start(pa_heartbeat *h, void (*act)(void *arg), void *arg);
// Returns when act is not running and will not be called again. A zeroed one that was not started is fine.
void pa_heartbeat_stop(pa_heartbeat *h);

#endif
