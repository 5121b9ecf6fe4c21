// take.c: see take.h.
#include "host/serve/take.h"

#include <stdlib.h>
#include <string.h>

#include "tokenizer/tokens.h"
#include "tokenizer/writer.h"

void pa_take_clear(pa_take *t) {
    free(t->key);
    *t = (pa_take){0};
}

bool pa_take_is_full(const pa_take *t) {
    size_t down = 0;
    for (int pitch = 0; pitch < 128; pitch++) down += t->down[pitch];
    return t->keys + down + 2 > PA_MOST_KEYS;
}

static pa_status append(pa_take *t, pa_stroke key, pa_err *err) {
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
    if (key.velocity && pa_take_is_full(t))
        return pa_error(err, PA_DATA, "a take holds at most %d notes", PA_MOST_KEYS / 2);
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
    t->cuts++;
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

static bool write_shift(pa_take_writer *w, int32_t step, pa_writer *out) {
    bool ok = pa_writer_shift(out, step - w->step);
    if (step > w->step) w->step = step;
    return ok;
}

static bool write_key(pa_take_writer *w, const pa_stroke *key, pa_writer *out) {
    if (!write_shift(w, key->step, out)) return false;
    if (key->velocity && pa_performance_bin(key->velocity) != w->velocity) {
        w->velocity = pa_performance_bin(key->velocity);
        if (!pa_writer_add(out, PA_VELOCITY + w->velocity)) return false;
    }
    return pa_writer_add(out, (key->velocity ? PA_NOTE_ON : PA_NOTE_OFF) + key->pitch);
}

pa_status pa_take_write(const pa_take *t, int32_t until, pa_take_writer *w, uint16_t **token, size_t *count,
                        pa_err *err) {
    pa_writer out = {0};
    bool ok = true;
    *token = NULL;
    *count = 0;
    for (; w->keys < t->keys && ok; w->keys++) ok = write_key(w, &t->key[w->keys], &out);
    if (!ok || !write_shift(w, until, &out)) {
        free(out.token);
        return pa_error(err, PA_FAIL, "no memory for %zu tokens", out.count + 1);
    }
    *token = out.token;
    *count = out.count;
    return PA_OK;
}

pa_status pa_take_read(pa_take *t, uint16_t token, pa_take_reader *r, bool model, pa_err *err) {
    r->step += pa_shift_steps(token);
    if (pa_is_velocity(token)) r->velocity = pa_performance_velocity(token);
    if (r->step > PA_LONGEST_TAKE * PA_STEPS_A_SECOND)
        return pa_error(err, PA_DATA, "a take lasts at most %d hours", PA_LONGEST_TAKE / 3600);
    if (!pa_is_note(token)) return PA_OK;
    uint8_t loud = pa_is_note_on(token) ? (uint8_t)r->velocity : 0;
    return pa_take_add(t, (pa_stroke){r->step, (uint8_t)pa_pitch_of(token), loud, model}, err);
}

pa_status pa_take_from_tokens(pa_take *t, const uint16_t *token, size_t count, pa_err *err) {
    pa_take_reader r = {t->end, 64};
    pa_status s = PA_OK;
    for (size_t i = 0; i < count && !s; i++) s = pa_take_read(t, token[i], &r, false, err);
    return s ? s : pa_take_cut(t, r.step, true, err);
}
