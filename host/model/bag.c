// bag.c: see bag.h.
#include "host/model/bag.h"

#include "tokenizer/tokens.h"

#include <string.h>

enum {
    CHORD = 4, // steps: notes less than so many after the one before belong to its onset
    KEY_ROWS = PA_KEYS * PA_KEY_TIMES,
    RELEASED = PA_ONSETS * PA_ONSET_TIMES,
    HELD = RELEASED + KEY_ROWS,
};
_Static_assert(HELD + KEY_ROWS == PA_KEYBOARD_ROWS, "the rows of the table");
_Static_assert(PA_ONSETS + PA_RELEASES + PA_HELD == PA_KEYBOARD_SLOTS, "the slots of a token");

void pa_keyboard_clear(pa_keyboard *k) {
    memset(k, 0, sizeof *k);
    for (int i = 0; i < PA_ONSETS; i++) k->onset[i] = -1;
}

static void take_up(pa_keyboard *k, int key) {
    int i = 0;
    while (i < k->held && k->down[i].key != key) i++;
    if (i == k->held) return;
    k->held--;
    memmove(k->down + i, k->down + i + 1, (size_t)(k->held - i) * sizeof *k->down);
}

// Puts it first.
static void put(pa_key_time *list, int *count, int most, pa_key_time first) {
    if (*count < most) ++*count;
    memmove(list + 1, list, (size_t)(*count - 1) * sizeof *list);
    list[0] = first;
}

static void press(pa_keyboard *k, int key) {
    take_up(k, key);
    put(k->down, &k->held, PA_KEYS, (pa_key_time){key, k->now});
    if (k->onset[0] < 0 || k->now - k->onset[0] >= CHORD)
        memmove(k->onset + 1, k->onset, (PA_ONSETS - 1) * sizeof *k->onset);
    k->onset[0] = k->now;
}

static void read_token(pa_keyboard *k, int token) {
    k->read++;
    if (pa_is_note_on(token)) {
        press(k, pa_pitch_of(token));
    } else if (pa_is_note_off(token)) {
        take_up(k, pa_pitch_of(token));
        put(k->up, &k->releases, PA_RELEASES, (pa_key_time){pa_pitch_of(token), k->now});
    } else {
        k->now += pa_shift_steps(token);
    }
}

// Steps 0 to 23 have one class each, then an octave has 8, up to 768 steps.
static int onset_time(int steps) {
    int octave = 0;
    while (steps >> octave >= 48) octave++;
    int of = steps < 24 ? steps : 24 + 8 * octave + ((steps >> octave) - 24) / 3;
    return of < PA_ONSET_TIMES ? of : PA_ONSET_TIMES - 1;
}

// From 0, 8, 24, 56, ... 1016 steps.
static int key_time(int steps) {
    int of = 0;
    while (of + 1 < PA_KEY_TIMES && steps >= 8 * ((2 << of) - 1)) of++;
    return of;
}

static int key_row(const pa_keyboard *k, pa_key_time of) {
    return of.key * PA_KEY_TIMES + key_time(k->now - of.time);
}

void pa_bag_rows(const pa_model *m, pa_keyboard *k, const uint16_t *input, int at, int32_t *row, size_t stride) {
    int lag_row = 0;
    if (m->keyboard) {
        if (k->read > at + 1) pa_keyboard_clear(k);
        while (k->read <= at) read_token(k, input[k->read]);
        for (int i = 0; i < PA_ONSETS; i++, row += stride)
            *row = k->onset[i] < 0 ? -1 : i * PA_ONSET_TIMES + onset_time(k->now - k->onset[i]);
        for (int i = 0; i < PA_RELEASES; i++, row += stride)
            *row = i < k->releases ? RELEASED + key_row(k, k->up[i]) : -1;
        for (int i = 0; i < PA_HELD; i++, row += stride) *row = i < k->held ? HELD + key_row(k, k->down[i]) : -1;
        lag_row = PA_KEYBOARD_ROWS;
    }
    for (int i = 0; i < m->lags; i++, row += stride, lag_row += m->vocab)
        *row = at > i ? lag_row + input[at - 1 - i] : -1;
}

// Appends a part behind the last.
static void add(pa_bag_part *part, int *count, int slots, int rows) {
    pa_bag_part *p = part + *count;
    *p = *count ? (pa_bag_part){p[-1].slot + p[-1].slots, slots, p[-1].row + p[-1].rows, rows}
                : (pa_bag_part){0, slots, 0, rows};
    ++*count;
}

int pa_bag_parts(const pa_model *m, pa_bag_part *part) {
    int count = 0;
    if (m->keyboard) {
        for (int i = 0; i < PA_ONSETS; i++) add(part, &count, 1, PA_ONSET_TIMES);
        add(part, &count, PA_RELEASES, KEY_ROWS);
        add(part, &count, PA_HELD, KEY_ROWS);
    }
    for (int i = 0; i < m->lags; i++) add(part, &count, 1, m->vocab);
    return count;
}
