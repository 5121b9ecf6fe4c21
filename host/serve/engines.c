// engines.c: see engines.h.
#include "host/serve/engines.h"

#include <math.h>
#include <stdlib.h>

#include "host/play/library.h"
#include "tokenizer/tokens.h"

void pa_engines_close(pa_engines *e) {
    for (int i = 0; i < e->streams; i++) {
        patrain_stream_close(e->slot[i].stream);
        e->slot[i] = (pa_engine_slot){0};
    }
}

static pa_engine_slot *find(pa_engines *e, const pa_session *s, const pa_take *t) {
    for (int i = 0; i < e->streams; i++)
        if (e->slot[i].session == s && e->slot[i].take == t->number) return &e->slot[i];
    return NULL;
}

void pa_engines_forget(pa_engines *e, const pa_session *s) {
    for (int i = 0; i < e->streams; i++)
        if (e->slot[i].session == s) e->slot[i].session = NULL;
}

bool pa_engines_is_behind(const pa_engines *e, const pa_session *s, const pa_take *t) {
    for (int i = 0; i < e->streams; i++)
        if (e->slot[i].session == s && e->slot[i].take == t->number) return e->slot[i].at.keys < t->keys;
    return t->keys > 0;
}

// One that follows nothing, or was used longest ago.
static pa_status take_over(pa_engines *e, const pa_session *s, const pa_take *t, pa_engine_slot **slot, pa_err *err) {
    patrain_error why;
    pa_engine_slot *best = &e->slot[0];
    for (int i = 1; i < e->streams && best->session; i++)
        if (!e->slot[i].session || e->slot[i].used < best->used) best = &e->slot[i];
    best->session = NULL;
    pa_status status = PA_OK;
    if (!best->stream)
        status = pa_from_library(patrain_stream_open(&best->stream, e->model, &e->options, &why), &why, err);
    if (!status) status = pa_from_library(patrain_stream_start(best->stream, NULL, 0, &why), &why, err);
    if (status) return status;
    best->at = (pa_take_writer){.velocity = -1};
    best->session = s;
    best->take = t->number;
    *slot = best;
    return PA_OK;
}

pa_status pa_engines_follow(pa_engines *e, const pa_session *s, const pa_take *t, int32_t until, pa_engine_slot **slot,
                            pa_err *err) {
    uint16_t *token = NULL;
    size_t count = 0;
    patrain_error why;
    pa_status status = (*slot = find(e, s, t)) ? PA_OK : take_over(e, s, t, slot, err);
    if (!status) status = pa_take_write(t, until, &(*slot)->at, &token, &count, err);
    for (size_t i = 0; i < count && !status; i++)
        status = pa_from_library(patrain_stream_append((*slot)->stream, &token[i], &why), &why, err);
    free(token);
    if (status && *slot) (*slot)->session = NULL;
    if (!status) (*slot)->used = pa_clock();
    return status;
}

pa_status pa_engine_read(pa_engine_slot *slot, pa_err *err) {
    float logits[PATRAIN_VOCABULARY];
    patrain_error why;
    return pa_from_library(patrain_stream_logits(slot->stream, logits, &why), &why, err);
}

pa_status pa_engine_play(pa_engine_slot *slot, const pa_session *s, pa_take *t, pa_err *err) {
    patrain_key key;
    patrain_error why;
    pa_status status = pa_from_library(patrain_stream_next_key(slot->stream, &s->how, &key, &why), &why, err);
    if (status) return status;
    double step = round(key.seconds * PA_STEPS_A_SECOND);
    if (step > (double)PA_LONGEST_TAKE * PA_STEPS_A_SECOND)
        return pa_error(err, PA_DATA, "a take lasts at most %d hours", PA_LONGEST_TAKE / 3600);
    status = pa_take_add(t, (pa_stroke){(int32_t)step, key.pitch, key.velocity, true}, err);
    slot->at = (pa_take_writer){t->keys, (int32_t)step, key.velocity ? pa_performance_bin(key.velocity) : -1};
    return status;
}
