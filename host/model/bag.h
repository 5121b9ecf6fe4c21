// bag.h: what is added to a token's embedding: rows of one table, chosen by the tokens up to it (PyTorch calls this an
// EmbeddingBag). docs/model.md lists the rows.
#ifndef PA_BAG_H
#define PA_BAG_H

#include "host/model/params.h"

enum { PA_KEYS = 128, PA_ONSETS = 2, PA_RELEASES = 4, PA_HELD = 24 };

typedef struct {
    int key, time;
} pa_key_time;

// The keyboard after the tokens of a window that were read. Times count steps of 10 ms from the window's start.
typedef struct {
    int read; // tokens
    int now;
    int onset[PA_ONSETS];                       // when the last ones were, the last first; -1: none
    int held, releases;                         // how many of these:
    pa_key_time down[PA_KEYS], up[PA_RELEASES]; // keys that are down, the last pressed first; the last released first
} pa_keyboard;

void pa_keyboard_clear(pa_keyboard *k);

// Writes the table's rows for token `at` of `input` to row[0], row[stride], ..., pa_bag_slots(m) of them; -1: none.
// Reads the tokens after those that k has read, which must be the same input's; or, if k has read more, all of them
// again.
void pa_bag_rows(const pa_model *m, pa_keyboard *k, const uint16_t *input, int at, int32_t *row, size_t stride);

// Rows [row, row + rows) of the table stand only in slots [slot, slot + slots) of a token's pa_bag_slots(m).
typedef struct {
    int slot, slots, row, rows;
} pa_bag_part;
enum { PA_BAG_PARTS = PA_ONSETS + 2 + PA_MOST_LAGS };
int pa_bag_parts(const pa_model *m, pa_bag_part *part); // how many

#endif
