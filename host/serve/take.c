// take.c: see take.h.
#include "host/serve/take.h"

#include <stdlib.h>
#include <string.h>

#include "tokenizer/tokens.h"

void pa_take_clear(pa_take *t) {
    free(t->key);
    *t = (pa_take){0};
}

static pa_status append(pa_take *t, pa_stroke key, pa_err *err) {
    if (t->keys >= PA_MOST_KEYS) return pa_error(err, PA_DATA, "a take holds at most %d notes", PA_MOST_KEYS / 2);
    if (t->keys == t->room) {
        size_t room = t->room ? 2 * t->room : 256;
        pa_stroke *larger = realloc(t->key, room * sizeof *larger);
        if (!larger) return pa_error(err, PA_FAIL, "no memory for a take of %zu keys", room);
        t->key = larger;
        t->room = room;
    }
    t->key[t->keys++] = key;
    t->down[key.pitch] = key.velocity > 0;
    t->model[key.pitch] = key.model;
    t->end = key.step;
    return PA_OK;
}

pa_status pa_take_add(pa_take *t, pa_stroke key, pa_err *err) {
    pa_status s = PA_OK;
    if (key.step < t->end) key.step = t->end;
    if (!key.velocity && !t->down[key.pitch]) return PA_OK;
    if (key.velocity && t->down[key.pitch])
        s = append(t, (pa_stroke){key.step, key.pitch, 0, t->model[key.pitch]}, err);
    return s ? s : append(t, key, err);
}

static void find_down(pa_take *t) {
    memset(t->down, 0, sizeof t->down);
    for (size_t i = 0; i < t->keys; i++) {
        t->down[t->key[i].pitch] = t->key[i].velocity > 0;
        t->model[t->key[i].pitch] = t->key[i].model;
    }
}

pa_status pa_take_cut(pa_take *t, int32_t step, bool all, pa_err *err) {
    pa_status s = PA_OK;
    while (t->keys && t->key[t->keys - 1].step > step) t->keys--;
    find_down(t);
    t->end = step;
    for (int pitch = 0; pitch < 128 && !s; pitch++)
        if (t->down[pitch] && (all || t->model[pitch]))
            s = append(t, (pa_stroke){step, (uint8_t)pitch, 0, t->model[pitch]}, err);
    return s;
}

pa_status pa_take_copy(pa_take *t, const pa_take *from, int32_t until, pa_err *err) {
    pa_status s = PA_OK;
    for (size_t i = 0; i < from->keys && from->key[i].step <= until && !s; i++) s = append(t, from->key[i], err);
    return s ? s : pa_take_cut(t, until, true, err);
}

static size_t write_shift(pa_take_writer *w, int32_t step, uint16_t *token) {
    size_t n = 0;
    while (w->step < step) {
        int part = step - w->step < PA_MOST_STEPS ? step - w->step : PA_MOST_STEPS;
        token[n++] = pa_shift_of(part);
        w->step += part;
    }
    return n;
}

pa_status pa_take_write(const pa_take *t, int32_t until, pa_take_writer *w, uint16_t **token, size_t *count,
                        pa_err *err) {
    int32_t last = until > t->end ? until : t->end;
    size_t n = 0, room = 3 * (t->keys - w->keys) + (size_t)(last > w->step ? last - w->step : 0) / PA_MOST_STEPS + 1;
    uint16_t *out = *token = malloc(room * sizeof *out);
    *count = 0;
    if (!out) return pa_error(err, PA_FAIL, "no memory for %zu tokens", room);
    for (; w->keys < t->keys; w->keys++) {
        const pa_stroke *key = &t->key[w->keys];
        n += write_shift(w, key->step, out + n);
        int bin = (key->velocity - 1) / 4;
        if (key->velocity && bin != w->velocity) {
            out[n++] = (uint16_t)(PA_VELOCITY + bin);
            w->velocity = bin;
        }
        out[n++] = (uint16_t)((key->velocity ? PA_NOTE_ON : PA_NOTE_OFF) + key->pitch);
    }
    n += write_shift(w, until, out + n);
    *count = n;
    return PA_OK;
}

pa_status pa_take_from_tokens(pa_take *t, const uint16_t *token, size_t count, pa_err *err) {
    int32_t step = t->end;
    int velocity = 64;
    pa_status s = PA_OK;
    for (size_t i = 0; i < count && !s; i++) {
        step += pa_shift_steps(token[i]);
        if (pa_is_velocity(token[i])) velocity = 4 * pa_velocity_bin(token[i]) + 1;
        if (step > PA_LONGEST_TAKE * PA_STEPS_A_SECOND)
            return pa_error(err, PA_DATA, "a take lasts at most %d hours", PA_LONGEST_TAKE / 3600);
        if (!pa_is_note(token[i])) continue;
        uint8_t loud = pa_is_note_on(token[i]) ? (uint8_t)velocity : 0;
        s = pa_take_add(t, (pa_stroke){step, (uint8_t)pa_pitch_of(token[i]), loud, false}, err);
    }
    return s ? s : pa_take_cut(t, step, true, err);
}
