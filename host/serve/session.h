// session.h: what a page works on: its takes, and what the model is doing with one of them. A session outlives its
// connection. Only the computing thread touches it.
#ifndef PA_SESSION_H
#define PA_SESSION_H

#include "host/serve/load.h"
#include "host/serve/message.h"
#include "host/serve/take.h"
#include "include/patrain.h"

enum {
    PA_MOST_SESSIONS = 256,        // in memory
    PA_MOST_SAVED = 1000,          // in files
    PA_MOST_KEYS_OF_ONE = 1 << 20, // of all takes of a session
    PA_MOST_KEYS_OF_ALL = 8 << 20, // of all sessions: 64 MB
};

typedef enum {
    PA_IDLE,
    PA_CONTINUING, // one or several takes, as fast as it can, up to `until`
    PA_LISTENING,  // reads what the player plays
    PA_ANSWERING,  // a few seconds ahead of the page's clock
} pa_activity;

// Times are pa_clock()'s, but for `turn`.
typedef struct {
    double origin; // of the take's step 0
    double began;  // when it was asked for
    double asked;  // the same; 0: its first note has been sent
    double turn;   // the page's number of the answer
    double told;   // when the page was told the margin
    double least;  // seconds that a note was ahead, a second after it began or later
    size_t notes, late;
    pa_load load;
} pa_answer;

typedef struct {
    char id[PA_SESSION_ID + 1]; // "": a free place
    uint64_t client;            // 0: none is connected
    double used;                // pa_clock() of its latest request
    pa_take take[PA_MOST_TAKES];
    int takes;
    int numbers; // of takes so far
    pa_activity activity;
    int active;       // number of the first take it is about
    unsigned growing; // bit k: take `active` + k still grows; 0: IDLE
    int32_t until;    // CONTINUING: step where it ends; ANSWERING: where it begins
    pa_answer answer; // ANSWERING
    bool over;        // its duet has failed: what the player still plays is not wanted
    double density;   // as the page wants it
    patrain_sampling how;
} pa_session;

pa_take *pa_session_take(pa_session *s, double number); // NULL: it has none of that number
pa_take *pa_session_growing(pa_session *s, int k);      // NULL: take `active` + k does not grow
pa_take *pa_session_active(pa_session *s);              // the first that grows; NULL: idle
// A new one, empty. PA_DATA where there are too many.
pa_status pa_session_add(pa_session *s, pa_take **take, pa_err *err);
void pa_session_drop(pa_session *s, pa_take *take);
void pa_session_clear(pa_session *s); // frees its takes and its place

size_t pa_session_keys(const pa_session *s); // of all its takes

// Of all places: the one with that id; a free one; that of the session without a connection that was used longest ago.
// NULL: there is none.
pa_session *pa_session_find(pa_session *all, const char *id);
pa_session *pa_session_free(pa_session *all);
pa_session *pa_session_oldest(pa_session *all);
pa_session *pa_session_of(pa_session *all, uint64_t client);

pa_status pa_take_decode(const pa_take *t, patrain_note **note, size_t *notes, pa_err *err); // patrain_free(*note)
pa_status pa_take_write_midi(const pa_take *t, const char *path, pa_err *err);
// Saves each take that is the user's or the model's work, thus no given file, as MIDI, and prints what it wrote; and
// the session, for pa_session_load.
pa_status pa_session_save(const pa_session *s, const char *folder, pa_err *err);
// Into a free place. *found: whether there is a file of that id.
pa_status pa_session_load(pa_session *s, const char *folder, const char *id, bool *found, pa_err *err);
pa_status pa_session_count_saved(const char *folder, int *count, pa_err *err);

#endif
