// session.c: see session.h.
#include "host/serve/session.h"

#include <stdlib.h>
#include <string.h>

#include "host/base/file.h"
#include "host/play/library.h"

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

pa_session *pa_session_place(pa_session *all) {
    pa_session *place = NULL;
    for (int i = 0; i < PA_MOST_SESSIONS; i++) {
        if (!*all[i].id) return &all[i];
        if (!all[i].client && (!place || all[i].used < place->used)) place = &all[i];
    }
    return place;
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

pa_status pa_session_save(const pa_session *s, const char *folder, pa_err *err) {
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
