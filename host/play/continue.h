// continue.h: what pagen does: opens a model, reads a primer, continues it, writes the takes and prints a summary.
#ifndef PA_CONTINUE_H
#define PA_CONTINUE_H

#include <signal.h>

#include "host/play/output.h"
#include "host/play/show.h"

typedef struct {
    const char *checkpoint, *config; // config: NULL unless the checkpoint needs one
    const char *device, *precision;  // as the options of the same name
    bool int8;
    pa_primer_options primer;
    patrain_sampling sampling; // `loose_keys` is set from the primer's encoding
    bool greedy;               // instead of the temperature
    double seconds;            // of each take, which ends at a pause from there on (pa_take_end); 0: no limit
    size_t tokens;             // of each take; 0: no limit but by seconds
    pa_output output;
    pa_show show;
    bool json;                         // the summary, instead of a table
    void (*ready)(void);               // called before the first token; from then on `stop` is looked at
    const volatile sig_atomic_t *stop; // nonzero: stop, and write what there is
} pa_continuation;

// PA_STOPPED if `stop` ended it and something was written.
pa_status pa_continue(const pa_continuation *c, pa_err *err);

#endif
