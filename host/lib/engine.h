// engine.h: a model on a device, for a stream or a scorer.
#ifndef PA_ENGINE_H
#define PA_ENGINE_H

#include "host/base/threads.h"
#include "host/lib/handles.h"

typedef struct {
    const patrain_model *model;
    const pa_backend *backend;
    pa_context *ctx;
    pa_comm comm;
    patrain_options options; // as resolved
} pa_engine;

// Opens it for a stream's sequences or a scorer's batch, whichever is not 0. options may be NULL. Close it also after a
// failure.
pa_status pa_engine_open(pa_engine *e, const patrain_model *m, const patrain_options *options, int batch, int sequences,
                         pa_err *err);
void pa_engine_close(pa_engine *e);
// The options with their defaults, but for device and precision; PA_USAGE for those out of range.
pa_status pa_engine_options(patrain_options *o, const patrain_options *given, pa_err *err);

// Call it before computations, and pa_threads_leave after them. In between, the context computes with as many threads
// as it was opened for, whatever the calling thread has set, but with one inside a parallel region of several.
pa_threads pa_engine_enter(const pa_engine *e);

#endif
