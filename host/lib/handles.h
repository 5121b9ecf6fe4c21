// handles.h: what stands behind patrain.h's handles, for host/lib.
#ifndef PA_HANDLES_H
#define PA_HANDLES_H

#include "host/files/weights.h"
#include "host/play/keys.h"
#include "include/patrain.h"

struct patrain_model {
    pa_weights weights;
    pa_params params;
};

struct patrain_stream {
    const pa_model *model;
    const pa_backend *backend;
    pa_context *ctx;
    pa_comm comm;
    int threads;     // OpenMP's, for which ctx was opened
    uint16_t *token; // (2 context) the latest tokens
    size_t held;     // tokens in it
    size_t total;    // appended since the start
    size_t seen;     // of these, by the model
    size_t drawn;    // of these, by patrain_stream_next: the index of the next draw
    int length;      // tokens of the window in the caches; 0: none
    int prefix;      // its prefix
    float *logits;   // (2, V) of the next token, and a copy to draw from
    int down[PA_KEYS];
    int64_t steps;     // of 10 ms since the start
    uint16_t velocity; // the latest VELOCITY token; PA_PAD: none yet
    pa_encoding encoding;
};

// Fills *error (may be NULL) and returns the status.
patrain_status pa_lib_result(pa_status status, const pa_err *why, patrain_error *error);

#endif
