// work.h: what the model computes for the sessions, a little at a time, and what the pages learn of it.
#ifndef PA_WORK_H
#define PA_WORK_H

#include "host/serve/engines.h"
#include "host/serve/hub.h"
#include "host/serve/latency.h"

enum { PA_HEAD_START = 5 }; // steps from the trigger to where an answer may begin: what its first note takes

typedef struct {
    pa_hub *hub;
    pa_engines engines;
    pa_session session[PA_MOST_SESSIONS];
    pa_latency latency; // of the answers
    size_t notes, late; // of the answers
    int next;           // session whose continuation is next
} pa_work;

// Computes a little for the session that needs it most. Returns the seconds until something is due.
double pa_work_do(pa_work *w);
// Takes that grow end at a time, or where they are; their keys are up: the model's, or all. What the model has prepared
// beyond is gone.
pa_status pa_work_interrupt(pa_work *w, pa_session *s, double time, bool all, pa_err *err);
// They grow no longer; the page learns it.
void pa_work_end(pa_work *w, pa_session *s);
// What it does has failed: it ends where it is, and the page learns it once.
void pa_work_fail(pa_work *w, pa_session *s, const pa_err *why);
// Begins an answer, asked for at `asked` by pa_clock(), at `time` of the take.
void pa_work_begin_answer(pa_session *s, const pa_take *t, double asked, double time);
// temperature and density of what is drawn from now on.
void pa_work_set(pa_session *s, double temperature, double density);

#endif
