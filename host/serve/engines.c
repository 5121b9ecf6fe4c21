// engines.c: see engines.h.
#include "host/serve/engines.h"

#include <math.h>
#include <stdlib.h>

#include "host/play/library.h"
#include "tokenizer/tokens.h"

void pa_engines_close(pa_engines *e) {
    for (int i = 0; i < e->streams; i++) {
        patrain_stream_close(e->slot[i].stream);
        free(e->slot[i].fed);
        e->slot[i] = (pa_engine_slot){0};
    }
    patrain_stream_close(e->group.stream);
    e->group = (pa_engine_group){0};
}

static pa_engine_slot *find(pa_engines *e, const pa_session *s, const pa_take *t) {
    for (int i = 0; i < e->streams; i++)
        if (e->slot[i].session == s && e->slot[i].take == t->number) return &e->slot[i];
    return NULL;
}

void pa_engines_forget(pa_engines *e, const pa_session *s) {
    for (int i = 0; i < e->streams; i++)
        if (e->slot[i].session == s) e->slot[i].session = NULL;
    pa_engines_end_group(e, s);
}

bool pa_engines_is_behind(const pa_engines *e, const pa_session *s, const pa_take *t) {
    for (int i = 0; i < e->streams; i++) {
        const pa_engine_slot *slot = &e->slot[i];
        if (slot->session == s && slot->take == t->number) return slot->cuts != t->cuts || slot->at.keys < t->keys;
    }
    return t->keys > 0;
}

// ---- keys that a stream has

static size_t shared_keys(const pa_engine_slot *slot, const pa_take *t) {
    size_t n = slot->at.keys < t->keys ? slot->at.keys : t->keys;
    for (size_t i = 0; i < n; i++) {
        const pa_stroke *a = &slot->fed[i].key, *b = &t->key[i];
        if (a->step != b->step || a->pitch != b->pitch || a->velocity != b->velocity) return i;
    }
    return n;
}

static pa_status go_back(pa_engine_slot *slot, size_t keys, pa_err *err) {
    patrain_error why;
    const pa_fed_key *last = keys ? &slot->fed[keys - 1] : NULL;
    size_t tokens = last ? last->tokens : 0;
    slot->at = (pa_take_writer){keys, last ? last->key.step : 0, last ? last->velocity : -1};
    if (tokens == patrain_stream_length(slot->stream)) return PA_OK;
    return pa_from_library(patrain_stream_rewind(slot->stream, tokens, &why), &why, err);
}

static pa_status make_room(pa_engine_slot *slot, size_t keys, pa_err *err) {
    if (keys <= slot->room) return PA_OK;
    size_t room = 2 * keys + 256;
    pa_fed_key *larger = realloc(slot->fed, room * sizeof *larger);
    if (!larger) return pa_error(err, PA_FAIL, "no memory for a stream of %zu keys", room);
    slot->fed = larger;
    slot->room = room;
    return PA_OK;
}

static pa_status feed(pa_engine_slot *slot, const pa_take *t, const uint16_t *token, size_t count, pa_err *err) {
    size_t keys = slot->at.keys;
    int velocity = slot->at.velocity;
    patrain_error why;
    pa_status status = make_room(slot, t->keys, err);
    for (size_t i = 0; i < count && !status; i++) {
        status = pa_from_library(patrain_stream_append(slot->stream, &token[i], &why), &why, err);
        if (pa_is_velocity(token[i])) velocity = pa_velocity_bin(token[i]);
        if (!pa_is_note(token[i])) continue;
        slot->fed[keys] = (pa_fed_key){t->key[keys], patrain_stream_length(slot->stream), velocity};
        keys++;
    }
    return status;
}

// ---- streams

// The session's that has most of the take already, else one that follows nothing or was used longest ago.
static pa_status take_over(pa_engines *e, const pa_session *s, const pa_take *t, pa_engine_slot **slot, pa_err *err) {
    patrain_error why;
    pa_engine_slot *best = NULL, *oldest = &e->slot[0];
    size_t most = 0;
    for (int i = 0; i < e->streams; i++) {
        pa_engine_slot *x = &e->slot[i];
        size_t shared = x->session == s ? shared_keys(x, t) : 0;
        if (shared > most) {
            most = shared;
            best = x;
        }
        if (oldest->session && (!x->session || x->used < oldest->used)) oldest = x;
    }
    pa_status status = PA_OK;
    *slot = best ? best : oldest;
    if (!best) {
        oldest->session = NULL;
        if (!oldest->stream)
            status = pa_from_library(patrain_stream_open(&oldest->stream, e->model, &e->options, &why), &why, err);
        if (!status) status = pa_from_library(patrain_stream_start(oldest->stream, NULL, 0, &why), &why, err);
        oldest->at = (pa_take_writer){.velocity = -1};
    }
    if (status) return status;
    (*slot)->session = s;
    (*slot)->take = t->number;
    (*slot)->cuts = t->cuts - 1; // to be compared
    return PA_OK;
}

pa_status pa_engines_follow(pa_engines *e, const pa_session *s, const pa_take *t, int32_t until, pa_engine_slot **slot,
                            pa_err *err) {
    uint16_t *token = NULL;
    size_t count = 0;
    pa_status status = (*slot = find(e, s, t)) ? PA_OK : take_over(e, s, t, slot, err);
    if (status) return status;
    if ((*slot)->cuts != t->cuts) status = go_back(*slot, shared_keys(*slot, t), err);
    pa_take_writer at = (*slot)->at;
    if (!status) status = pa_take_write(t, until, &at, &token, &count, err);
    if (!status) status = feed(*slot, t, token, count, err);
    free(token);
    (*slot)->at = at;
    (*slot)->cuts = t->cuts;
    (*slot)->used = pa_clock();
    if (status) (*slot)->session = NULL;
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
    size_t before = t->keys;
    pa_status status = make_room(slot, before + 1, err);
    if (!status) status = pa_from_library(patrain_stream_next_key(slot->stream, &s->how, &key, &why), &why, err);
    if (status) return status;
    double step = round(key.seconds * PA_STEPS_A_SECOND);
    if (step > (double)PA_LONGEST_TAKE * PA_STEPS_A_SECOND)
        return pa_error(err, PA_DATA, "a take lasts at most %d hours", PA_LONGEST_TAKE / 3600);
    status = pa_take_add(t, (pa_stroke){(int32_t)step, key.pitch, key.velocity, true}, err);
    slot->at = (pa_take_writer){t->keys, (int32_t)step, key.velocity ? pa_performance_bin(key.velocity) : -1};
    if (t->keys == before + 1)
        slot->fed[before] = (pa_fed_key){t->key[before], patrain_stream_length(slot->stream), slot->at.velocity};
    else
        slot->session = NULL; // the take has not what the stream has
    return status;
}

// ---- takes together

pa_status pa_engines_begin_group(pa_engines *e, const pa_session *s, const pa_take *t, int number, bool *begun,
                                 pa_err *err) {
    pa_engine_group *g = &e->group;
    pa_take_writer w = {.velocity = -1};
    uint16_t *token = NULL;
    size_t count = 0;
    patrain_error why;
    *begun = !g->session;
    if (!*begun) return PA_OK;
    pa_status status = pa_take_write(t, t->begins, &w, &token, &count, err);
    if (!status && g->number != number) {
        patrain_options o = e->options;
        o.sequences = number;
        patrain_stream_close(g->stream);
        g->number = 0;
        status = pa_from_library(patrain_stream_open(&g->stream, e->model, &o, &why), &why, err);
    }
    if (!status) status = pa_from_library(patrain_stream_start(g->stream, token, count, &why), &why, err);
    free(token);
    if (status) return status;
    g->number = number;
    g->session = s;
    int velocity = w.velocity < 0 ? 64 : pa_performance_velocity((uint16_t)(PA_VELOCITY + w.velocity));
    for (int k = 0; k < number; k++) g->reader[k] = (pa_take_reader){t->begins, velocity};
    return PA_OK;
}

pa_status pa_engines_play_group(pa_engines *e, pa_session *s, pa_err *err) {
    pa_engine_group *g = &e->group;
    uint16_t token[PA_MOST_AT_ONCE];
    patrain_error why;
    pa_status status = pa_from_library(patrain_stream_next(g->stream, &s->how, token, &why), &why, err);
    for (int k = 0; k < g->number && !status; k++) {
        pa_take *t = pa_session_growing(s, k);
        if (t) status = pa_take_read(t, token[k], &g->reader[k], true, err);
    }
    return status;
}

void pa_engines_end_group(pa_engines *e, const pa_session *s) {
    if (e->group.session == s) e->group.session = NULL;
}
