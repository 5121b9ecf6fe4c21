// stop.h: signals that stop a run. SIGINT, SIGTERM, SIGUSR1, SIGUSR2 and SIGXCPU let the current step finish, for
// `grace` seconds; a second SIGINT exits at once. It knows nothing of steps or checkpoints.
#ifndef PA_STOP_H
#define PA_STOP_H

#include <signal.h>

#include "host/base/base.h"

typedef struct {
    int grace;            // seconds from the first signal until `drop` is called
    bool prints;          // prints a message at the first signal
    void (*drop)(void *); // called once, in a thread of its own, and may end the process; NULL: never
    void *context;        // its argument
} pa_stop_options;

// Catches the signals, for one run at a time. Without it, or after pa_stop_end, the functions below do nothing.
pa_status pa_stop_begin(const pa_stop_options *o, pa_err *err);
void pa_stop_end(void);

const volatile sig_atomic_t *pa_stop_requested(void); // nonzero after the first signal
bool pa_stop_grace_over(void);

// `drop` is called only between these two, around work that may be abandoned. pa_stop_forbid waits for it to return.
void pa_stop_allow(void);
void pa_stop_forbid(void);

#endif
