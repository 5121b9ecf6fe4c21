// engines.h: the model's streams, as a cache: each follows one take of one session, and is given to another when the
// latter needs it. Where a take was cut, or continues another, its stream goes back to what they have in common. Knows
// nothing of sockets.
#ifndef PA_ENGINES_H
#define PA_ENGINES_H

#include "host/serve/session.h"

enum { PA_MOST_STREAMS = 16 };

// A key that a stream has.
typedef struct {
    pa_stroke key;
    size_t tokens; // of the stream up to it
    int velocity;  // pa_take_writer's after it
} pa_fed_key;

typedef struct {
    patrain_stream *stream;
    const pa_session *session; // NULL: it follows none
    int take;                  // number
    unsigned cuts;             // of the take
    pa_take_writer at;
    pa_fed_key *fed; // at.keys of them
    size_t room;
    double used;
} pa_engine_slot;

// Takes that grow together, one token each at a time.
typedef struct {
    patrain_stream *stream;
    int number;                // of takes
    const pa_session *session; // NULL: none grow
    pa_take_reader reader[PA_MOST_AT_ONCE];
} pa_engine_group;

typedef struct {
    const patrain_model *model;
    patrain_options options;
    int streams; // at most
    pa_engine_slot slot[PA_MOST_STREAMS];
    pa_engine_group group;
} pa_engines;

void pa_engines_close(pa_engines *e);
// A stream that has the take's keys and the time to `until`: one that has followed it, or another of the session, only
// gets what is new.
pa_status pa_engines_follow(pa_engines *e, const pa_session *s, const pa_take *t, int32_t until, pa_engine_slot **slot,
                            pa_err *err);
bool pa_engines_is_behind(const pa_engines *e, const pa_session *s, const pa_take *t);
void pa_engines_forget(pa_engines *e, const pa_session *s); // it is gone, or its streams are in doubt
// Computes what follows from the keys so far, so that the next prediction takes one token's time.
pa_status pa_engine_read(pa_engine_slot *slot, pa_err *err);
// Draws the model's next key and appends it to the take.
pa_status pa_engine_play(pa_engine_slot *slot, const pa_session *s, pa_take *t, pa_err *err);

// Begins to continue `number` takes of a session together, all equal to t so far. Not while another session's grow:
// *begun is then false.
pa_status pa_engines_begin_group(pa_engines *e, const pa_session *s, const pa_take *t, int number, bool *begun,
                                 pa_err *err);
// Draws a token for each; those that grow get its key.
pa_status pa_engines_play_group(pa_engines *e, pa_session *s, pa_err *err);
void pa_engines_end_group(pa_engines *e, const pa_session *s); // nothing where another session's grow

#endif
