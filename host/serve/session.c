// session.c: see session.h.
#include "host/serve/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/base/file.h"
#include "host/files/safetensors_write.h"
#include "host/play/library.h"
#include "tokenizer/tokens.h"

pa_take *pa_session_take(pa_session *s, double number) {
    for (int i = 0; i < s->takes; i++)
        if (s->take[i].number == number) return &s->take[i];
    return NULL;
}

pa_take *pa_session_growing(pa_session *s, int k) {
    return s->growing >> k & 1 ? pa_session_take(s, s->active + k) : NULL;
}

pa_take *pa_session_active(pa_session *s) {
    int k = 0;
    if (!s->growing) return NULL;
    while (!(s->growing >> k & 1)) k++;
    return pa_session_take(s, s->active + k);
}

pa_status pa_session_add(pa_session *s, pa_take **take, pa_err *err) {
    if (s->takes == PA_MOST_TAKES)
        return pa_error(err, PA_DATA, "a session holds at most %d takes; remove one first", PA_MOST_TAKES);
    *take = &s->take[s->takes++];
    **take = (pa_take){.number = s->numbers++, .parent = -1};
    return PA_OK;
}

void pa_session_drop(pa_session *s, pa_take *take) {
    pa_take_clear(take);
    memmove(take, take + 1, (size_t)(&s->take[--s->takes] - take) * sizeof *take);
}

void pa_session_clear(pa_session *s) {
    for (int i = 0; i < s->takes; i++) pa_take_clear(&s->take[i]);
    memset(s, 0, sizeof *s);
}

size_t pa_session_keys(const pa_session *s) {
    size_t keys = 0;
    for (int i = 0; i < s->takes; i++) keys += s->take[i].keys;
    return keys;
}

pa_session *pa_session_find(pa_session *all, const char *id) {
    for (int i = 0; i < PA_MOST_SESSIONS; i++)
        if (*id && !strcmp(all[i].id, id)) return &all[i];
    return NULL;
}

pa_session *pa_session_of(pa_session *all, uint64_t client) {
    for (int i = 0; i < PA_MOST_SESSIONS; i++)
        if (*all[i].id && all[i].client == client) return &all[i];
    return NULL;
}

pa_session *pa_session_free(pa_session *all) {
    for (int i = 0; i < PA_MOST_SESSIONS; i++)
        if (!*all[i].id) return &all[i];
    return NULL;
}

pa_session *pa_session_oldest(pa_session *all) {
    pa_session *oldest = NULL;
    for (int i = 0; i < PA_MOST_SESSIONS; i++)
        if (*all[i].id && !all[i].client && (!oldest || all[i].used < oldest->used)) oldest = &all[i];
    return oldest;
}

// ---- files

pa_status pa_take_decode(const pa_take *t, patrain_note **note, size_t *notes, pa_err *err) {
    pa_take_writer w = {.velocity = -1};
    uint16_t *token = NULL;
    patrain_error why;
    size_t count;
    *note = NULL;
    pa_status s = pa_take_write(t, t->end, &w, &token, &count, err);
    if (!s) s = pa_from_library(patrain_decode(token, count, PATRAIN_PERFORMANCE, note, notes, &why), &why, err);
    free(token);
    return s;
}

pa_status pa_take_write_midi(const pa_take *t, const char *path, pa_err *err) {
    patrain_note *note;
    patrain_error why;
    size_t notes;
    pa_status s = pa_take_decode(t, &note, &notes, err);
    if (!s) s = pa_from_library(patrain_write_midi(path, note, notes, &why), &why, err);
    patrain_free(note);
    return s;
}

static pa_status save_takes(const pa_session *s, const char *folder, pa_err *err) {
    pa_status first = PA_OK;
    for (int i = 0; i < s->takes; i++) {
        char path[4096];
        pa_err why;
        const pa_take *t = &s->take[i];
        if (t->given || !t->keys) continue;
        snprintf(path, sizeof path, "%s/%.8s-%d.mid", folder, s->id, t->number + 1);
        pa_status e = pa_make_dirs(folder, &why);
        if (!e) e = pa_take_write_midi(t, path, &why);
        if (!e) printf("saved %s\n", path);
        if (e && !first) first = pa_error(err, e, "%s", why.text);
    }
    return first;
}

// ---- sessions as files: "takes" I32 (takes, FIELDS), the keys of all as "steps" I32 and "keys" U8 (keys, 3): pitch,
// velocity, whether it is the model's

enum { NUMBER, PARENT, BEGINS, END, GIVEN, KEYS, FIELDS };
static const char FORMAT[] = "paserve session 1";

static void name_file(char path[4096], const char *folder, const char *id) {
    snprintf(path, 4096, "%s/sessions/%s.safetensors", folder, id);
}

static void copy_out(const pa_session *s, int32_t *take, int32_t *step, uint8_t *key) {
    for (int i = 0; i < s->takes; i++) {
        const pa_take *t = &s->take[i];
        const int32_t field[FIELDS] = {t->number, t->parent, t->begins, t->end, t->given, (int32_t)t->keys};
        memcpy(take + (size_t)i * FIELDS, field, sizeof field);
        for (size_t k = 0; k < t->keys; k++, key += 3) {
            *step++ = t->key[k].step;
            key[0] = t->key[k].pitch;
            key[1] = t->key[k].velocity;
            key[2] = t->key[k].model;
        }
    }
}

static pa_status write_session(const pa_session *s, size_t keys, const char *path, pa_err *err) {
    const size_t takes = (size_t)s->takes;
    int32_t *take = malloc(takes * FIELDS * sizeof *take), *step = malloc(keys * sizeof *step);
    uint8_t *key = malloc(3 * keys);
    const pa_meta meta = {"format", FORMAT};
    pa_status e = take && step && key ? PA_OK : pa_error(err, PA_FAIL, "%s: no memory for %zu keys", path, keys);
    if (!e) {
        const int64_t n = (int64_t)keys;
        const pa_tensor tensor[] = {
            {"takes", PA_I32, 2, {s->takes, FIELDS}, take, takes * FIELDS * sizeof *take},
            {"steps", PA_I32, 1, {n}, step, keys * sizeof *step},
            {"keys", PA_U8, 2, {n, 3}, key, 3 * keys},
        };
        copy_out(s, take, step, key);
        e = pa_st_write(path, tensor, sizeof tensor / sizeof *tensor, &meta, 1, err);
    }
    free(take);
    free(step);
    free(key);
    return e;
}

static pa_status save_session(const pa_session *s, const char *folder, pa_err *err) {
    char path[4096], sessions[4096];
    size_t keys = pa_session_keys(s);
    name_file(path, folder, s->id);
    snprintf(sessions, sizeof sessions, "%s/sessions", folder);
    if (!keys) { // all takes were removed
        unlink(path);
        return PA_OK;
    }
    pa_status e = pa_make_dirs(sessions, err);
    return e ? e : write_session(s, keys, path, err);
}

pa_status pa_session_save(const pa_session *s, const char *folder, pa_err *err) {
    pa_err why;
    pa_status e = save_takes(s, folder, err), saved = save_session(s, folder, &why);
    return e || !saved ? e : pa_error(err, saved, "%s", why.text);
}

static pa_status read_take(pa_session *s, const int32_t *field, const int32_t *step, const uint8_t *key, size_t left,
                           pa_err *err) {
    static const int32_t most = PA_LONGEST_TAKE * PA_STEPS_A_SECOND;
    pa_take *t = &s->take[s->takes++];
    *t = (pa_take){.number = field[NUMBER], .parent = field[PARENT], .begins = field[BEGINS], .given = field[GIVEN]};
    bool valid = field[NUMBER] >= s->numbers && field[NUMBER] < INT32_MAX && field[PARENT] >= -1 &&
                 field[PARENT] < field[NUMBER] && field[BEGINS] >= 0 && field[END] >= field[BEGINS] &&
                 field[END] <= most && (size_t)field[KEYS] <= left;
    if (!valid) return pa_error(err, PA_DATA, "take %d: expected fields in their range", s->takes);
    s->numbers = field[NUMBER] + 1;
    pa_status e = PA_OK;
    for (int32_t i = 0; i < field[KEYS] && !e; i++, key += 3) {
        const pa_stroke stroke = {step[i], key[0], key[1], key[2]};
        if (step[i] < t->end || step[i] > field[END] || key[0] > 127 || key[1] > 127)
            return pa_error(err, PA_DATA, "take %d, key %d: out of range", s->takes, i + 1);
        e = pa_take_add(t, stroke, err);
    }
    return e ? e : pa_take_cut(t, field[END], true, err);
}

static pa_status read_session(pa_session *s, const pa_st *st, pa_err *err) {
    const pa_tensor *take, *step, *key;
    const char *format = pa_st_meta(st, "format");
    if (!format || strcmp(format, FORMAT) != 0) return pa_error(err, PA_DATA, "expected the format '%s'", FORMAT);
    pa_status e = pa_st_need(st, "takes", PA_I32, 2, (const int64_t[]){-1, FIELDS}, &take, err);
    if (!e) e = pa_st_need(st, "steps", PA_I32, 1, (const int64_t[]){-1}, &step, err);
    if (!e) e = pa_st_need(st, "keys", PA_U8, 2, (const int64_t[]){step->shape[0], 3}, &key, err);
    if (!e && take->shape[0] > PA_MOST_TAKES)
        e = pa_error(err, PA_DATA, "expected at most %d takes, found %lld", PA_MOST_TAKES, (long long)take->shape[0]);
    size_t keys = e ? 0 : (size_t)step->shape[0], at = 0;
    for (int64_t i = 0; !e && i < take->shape[0]; i++) {
        const int32_t *field = (const int32_t *)take->data + i * FIELDS;
        e = read_take(s, field, (const int32_t *)step->data + at, (const uint8_t *)key->data + 3 * at, keys - at, err);
        if (!e) at += (size_t)field[KEYS];
    }
    if (!e && at != keys) e = pa_error(err, PA_DATA, "expected %zu keys in the takes, found %zu", keys, at);
    return e;
}

pa_status pa_session_load(pa_session *s, const char *folder, const char *id, bool *found, pa_err *err) {
    char path[4096];
    pa_st *st = NULL;
    pa_err why = {""};
    name_file(path, folder, id);
    *found = *id && !access(path, F_OK);
    if (!*found) return PA_OK;
    pa_status e = pa_st_open(&st, path, err);
    if (e) return e;
    e = read_session(s, st, &why);
    pa_st_close(st);
    snprintf(s->id, sizeof s->id, "%s", id);
    if (!e) return PA_OK;
    pa_session_clear(s);
    return pa_error(err, e, "%s: %s", path, why.text);
}

pa_status pa_session_count_saved(const char *folder, int *count, pa_err *err) {
    char path[4096];
    snprintf(path, sizeof path, "%s/sessions", folder);
    *count = 0;
    DIR *sessions = opendir(path);
    if (!sessions && errno == ENOENT) return PA_OK;
    if (!sessions) return pa_error(err, PA_FAIL, "cannot open folder %s: %s", path, strerror(errno));
    pa_status e = PA_OK;
    while (pa_next_entry(sessions, path, &e, err)) ++*count;
    closedir(sessions);
    return e;
}
