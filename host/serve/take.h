// take.h: a piece of music that grows: keys that go down and up, each the player's or the model's. Knows nothing of
// models and sockets.
#ifndef PA_TAKE_H
#define PA_TAKE_H

#include "host/base/base.h"

enum {
    PA_LONGEST_TAKE = 4 * 3600, // seconds
    PA_MOST_KEYS = 100000,      // of a take, strokes and releases
};

typedef struct {
    int32_t step; // of 10 ms
    uint8_t pitch;
    uint8_t velocity; // 0: released
    bool model;       // its key, not the player's
} pa_stroke;

typedef struct {
    int number;     // its name for the page
    bool given;     // a file of the user's
    int parent;     // number of the take that it continues; -1: none
    int32_t begins; // step where it parts from its parent
    int32_t end;    // its last step
    pa_stroke *key; // in order of time
    size_t keys;
    size_t room;
    unsigned cuts;   // pa_take_cut so far: keys before its end may be others than they were
    bool down[128];  // at its end
    bool model[128]; // who struck it
} pa_take;

void pa_take_clear(pa_take *t);
bool pa_take_is_full(const pa_take *t);
// Appends a key at the end; an earlier one moves there. The release of a key that is up is ignored; a stroke of a key
// that is down releases it before. PA_DATA where the take is full: there is room for all releases, and no stroke.
pa_status pa_take_add(pa_take *t, pa_stroke key, pa_err *err);
// Drops what comes after a step; releases there the model's keys, or all. The take then ends at that step.
pa_status pa_take_cut(pa_take *t, int32_t step, bool all, pa_err *err);
pa_status pa_take_copy(pa_take *t, const pa_take *from, int32_t until, pa_err *err); // releases all keys there

// Where a token sequence of `performance` stands that a take is written to.
typedef struct {
    size_t keys; // of the take, already written
    int32_t step;
    int velocity; // bin of the latest VELOCITY; -1: none yet
} pa_take_writer;
// What follows: the take's other keys, and the time to `until`. *token is allocated, *count of them; NULL for none.
pa_status pa_take_write(const pa_take *t, int32_t until, pa_take_writer *w, uint16_t **token, size_t *count,
                        pa_err *err);

// Where a token sequence stands that a take is read from.
typedef struct {
    int32_t step;
    int velocity;
} pa_take_reader;
// Appends the key of a token, if it has one. PA_DATA where the take is too long.
pa_status pa_take_read(pa_take *t, uint16_t token, pa_take_reader *r, bool model, pa_err *err);
// Appends the keys of a token sequence, as the player's.
pa_status pa_take_from_tokens(pa_take *t, const uint16_t *token, size_t count, pa_err *err);

#endif
