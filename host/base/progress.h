// progress.h: progress lines on stderr.
#ifndef PA_PROGRESS_H
#define PA_PROGRESS_H

#include "host/base/base.h"

// On a terminal a bar redrawn in place with rate and time left; elsewhere a plain line now and then.
typedef struct {
    const char *what, *unit;
    double total, started, shown;
    bool terminal;
} pa_progress;
void pa_progress_start(pa_progress *p, const char *what, const char *unit, double total);
void pa_progress_update(pa_progress *p, double done); // at most ten times a second on a terminal, each 10 s elsewhere
void pa_progress_end(pa_progress *p);                 // clears the bar

#endif
