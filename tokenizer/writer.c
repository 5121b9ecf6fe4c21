// writer.c: see writer.h.
#include "tokenizer/writer.h"

#include "tokenizer/song.h"

bool pa_writer_add(pa_writer *w, int token) {
    uint16_t *grown = pa_grow(w->token, &w->room, w->count, sizeof *grown);
    if (!grown) return false;
    w->token = grown;
    w->token[w->count++] = (uint16_t)token;
    return true;
}

bool pa_writer_shift(pa_writer *w, int64_t steps) {
    for (; steps > PA_MOST_STEPS; steps -= PA_MOST_STEPS)
        if (!pa_writer_add(w, pa_shift_of(PA_MOST_STEPS))) return false;
    return steps <= 0 || pa_writer_add(w, pa_shift_of((int)steps));
}
