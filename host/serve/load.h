// load.h: whether the machine is too busy for an answer, and what to do without. A machine that computes barely more
// than a second of music a second falls behind at the next disturbance, so it is relieved before notes are late. Knows
// nothing of clocks: times are arguments.
#ifndef PA_LOAD_H
#define PA_LOAD_H

typedef enum {
    PA_LOAD_NORMAL,
    PA_LOAD_SINGLE, // continuations wait, and then grow one after another
    PA_LOAD_SPARSE, // the answer has fewer notes
} pa_load_level;

typedef struct {
    pa_load_level level;
    double since; // when it last changed
} pa_load;

// now: any clock, in seconds; played: since the answer was asked for; margin: how far its notes are ahead. Changes the
// level by one at a time. Returns whether it did.
int pa_load_update(pa_load *l, double now, double played, double margin);
// Of what the page wants.
double pa_load_density(const pa_load *l, double wanted);

#endif
