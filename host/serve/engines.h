// engines.h: the model's streams, as a cache: each follows one take of one session, and is given to another when the
// latter needs it. Knows nothing of sockets.
#ifndef PA_ENGINES_H
#define PA_ENGINES_H

#include "host/serve/session.h"

enum { PA_MOST_STREAMS = 16 };

typedef struct {
    patrain_stream *stream;
    const pa_session *session; // NULL: it follows none
    int take;                  // number
    pa_take_writer at;
    double used;
} pa_engine_slot;

typedef struct {
    const patrain_model *model;
    patrain_options options;
    int streams; // at most
    pa_engine_slot slot[PA_MOST_STREAMS];
} pa_engines;

void pa_engines_close(pa_engines *e);
// A stream that has the take's keys and the time to `until`: one that has followed it only gets what is new.
pa_status pa_engines_follow(pa_engines *e, const pa_session *s, const pa_take *t, int32_t until, pa_engine_slot **slot,
                            pa_err *err);
bool pa_engines_is_behind(const pa_engines *e, const pa_session *s, const pa_take *t);
void pa_engines_forget(pa_engines *e, const pa_session *s); // a take of it was cut, or it is gone
// Computes what follows from the keys so far, so that the next prediction takes one token's time.
pa_status pa_engine_read(pa_engine_slot *slot, pa_err *err);
// Draws the model's next key and appends it to the take.
pa_status pa_engine_play(pa_engine_slot *slot, const pa_session *s, pa_take *t, pa_err *err);

#endif
