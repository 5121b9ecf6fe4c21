// generate.c: windows that follow one another while tokens are drawn. See generate.h.
#include "host/lib/generate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/philox.h"
#include "host/lib/repeats.h"

// A piece without a primer begins between mezzo piano and forte.
enum { FIRST_BIN = 12, FIRST_BINS = 10 };
// Steps that `density` applies to in full. Only short waits grow: a bias that grew with the whole shift of up to a
// second would make a pause endless.
enum { FULL_WAIT = 25 };

pa_status pa_generator_init(pa_generator *g, const pa_backend *backend, pa_context *ctx, const pa_model *m,
                            int sequences, pa_err *err) {
    size_t S = (size_t)sequences, places = S * (size_t)m->context;
    *g = (pa_generator){.backend = backend,
                        .ctx = ctx,
                        .model = m,
                        .sequences = sequences,
                        .ended = malloc(S * sizeof *g->ended),
                        .packed = malloc(places * sizeof *g->packed),
                        .logits = malloc(2 * S * PA_VOCAB * sizeof *g->logits),
                        .keys = malloc(S * sizeof *g->keys),
                        .density = malloc(S * sizeof *g->density)};
    if (!g->ended || !g->packed || !g->logits || !g->keys || !g->density)
        return pa_error(err, PA_FAIL, "no memory for %d sequences of %d tokens", sequences, m->context);
    pa_generator_start(g);
    return PA_OK;
}

void pa_generator_clear(pa_generator *g) {
    free(g->ended);
    free(g->token);
    free(g->was_drawn);
    free(g->spared);
    free(g->packed);
    free(g->logits);
    free(g->keys);
    free(g->density);
    *g = (pa_generator){0};
}

void pa_generator_start(pa_generator *g) {
    g->total = g->seen = g->drawn = g->spareds = 0;
    g->length = g->prefix = 0;
    g->open = g->sequences;
    memset(g->ended, 0, (size_t)g->sequences * sizeof *g->ended);
    for (int s = 0; s < g->sequences; s++) {
        pa_keys_start(&g->keys[s]);
        g->density[s] = (pa_density){0};
    }
}

static uint16_t *row_of(const pa_generator *g, int sequence) {
    return g->token + (size_t)sequence * g->room;
}

static pa_status make_room(pa_generator *g, pa_err *err) {
    if (g->total < g->room) return PA_OK;
    size_t room = g->room ? 2 * g->room : 1024, S = (size_t)g->sequences;
    uint16_t *token = malloc(S * room * sizeof *token);
    bool *was_drawn = realloc(g->was_drawn, room * sizeof *was_drawn);
    if (was_drawn) g->was_drawn = was_drawn;
    if (!token || !was_drawn) {
        free(token);
        return pa_error(err, PA_FAIL, "no memory for %zu sequences of %zu tokens", S, room);
    }
    for (size_t k = 0; k < S && g->total; k++) memcpy(token + k * room, row_of(g, (int)k), g->total * sizeof *token);
    free(g->token);
    g->token = token;
    g->room = room;
    return PA_OK;
}

static pa_status push(pa_generator *g, const uint16_t *token, bool was_drawn, pa_err *err) {
    pa_status e = make_room(g, err);
    if (e) return e;
    for (int s = 0; s < g->sequences; s++) {
        row_of(g, s)[g->total] = g->ended[s] ? PA_PAD : token[s];
        if (g->ended[s]) continue;
        pa_keys_follow(&g->keys[s], token[s]);
        pa_density_follow(&g->density[s], token[s], was_drawn);
    }
    g->was_drawn[g->total++] = was_drawn;
    g->drawn += was_drawn;
    return PA_OK;
}

pa_status pa_generator_append(pa_generator *g, const uint16_t *token, pa_err *err) {
    return push(g, token, false, err);
}

static pa_status note_spared(pa_generator *g, int sequence, int key, pa_err *err) {
    if (g->spareds == g->spared_room) {
        size_t room = g->spared_room ? 2 * g->spared_room : 1024;
        pa_spared *larger = realloc(g->spared, room * sizeof *larger);
        if (!larger) return pa_error(err, PA_FAIL, "no memory for %zu long notes", room);
        g->spared = larger;
        g->spared_room = room;
    }
    g->spared[g->spareds++] = (pa_spared){g->total, sequence, key, g->keys[sequence].kept[key]};
    return PA_OK;
}

static pa_status spare(pa_generator *g, int sequence, const double *chance, pa_err *err) {
    double before[PA_KEYS];
    pa_keys *keys = &g->keys[sequence];
    pa_status s = PA_OK;
    memcpy(before, keys->kept, sizeof before);
    pa_keys_spare(keys, chance);
    for (int key = 0; key < PA_KEYS && !s; key++)
        if (keys->kept[key] != before[key]) s = note_spared(g, sequence, key, err);
    return s;
}

// What pa_generator_start and then the tokens that are left made of it.
static void follow_again(pa_generator *g) {
    g->drawn = 0;
    while (g->spareds && g->spared[g->spareds - 1].token >= g->total) g->spareds--;
    g->open = 0;
    for (size_t i = 0; i < g->total; i++) g->drawn += g->was_drawn[i];
    for (int s = 0; s < g->sequences; s++) {
        const uint16_t *row = row_of(g, s);
        pa_keys *keys = &g->keys[s];
        size_t at = 0;
        pa_keys_start(keys);
        g->density[s] = (pa_density){0};
        for (size_t i = 0; i < g->total && row[i] != PA_PAD; i++) {
            for (; at < g->spareds && g->spared[at].token <= i; at++)
                if (g->spared[at].sequence == s) keys->kept[g->spared[at].key] = g->spared[at].kept;
            if (g->was_drawn[i] && keys->begun < 0) keys->begun = keys->clock;
            pa_keys_follow(keys, row[i]);
            pa_density_follow(&g->density[s], row[i], g->was_drawn[i]);
        }
        g->ended[s] = g->total && row[g->total - 1] == PA_PAD;
        g->open += !g->ended[s];
    }
}

pa_status pa_generator_rewind(pa_generator *g, size_t total, pa_err *err) {
    if (total > g->total)
        return pa_error(err, PA_USAGE, "rewind: expected at most %zu tokens, found %zu", g->total, total);
    if (total < g->seen) {
        // The last token that is left is decoded again, for its logits.
        size_t before = g->seen - (size_t)g->length; // the window
        size_t length = total > before ? total - before - 1 : 0;
        bool held = length && length >= (size_t)g->prefix && !g->backend->rewind(g->ctx, (int)length, err);
        g->length = held ? (int)length : 0;
        g->seen = held ? total - 1 : 0;
    }
    g->total = total;
    follow_again(g);
    return PA_OK;
}

// Of each sequence the `count` tokens that begin `back` tokens before the end, one sequence after the other.
static const uint16_t *pack(pa_generator *g, size_t back, int count) {
    for (int s = 0; s < g->sequences; s++)
        memcpy(g->packed + (size_t)s * (size_t)count, row_of(g, s) + g->total - back,
               (size_t)count * sizeof *g->packed);
    return g->packed;
}

// The window that begins after `total` tokens: its first `prefix` of `length` tokens are the prefix.
static void choose_window(const pa_model *m, int refill, size_t total, int *length, int *prefix) {
    if (!refill) refill = (m->context - m->prefix) / 2;
    size_t most = (size_t)m->prefix + (size_t)(refill > 1 ? refill : 1);
    *length = (int)(total < most ? total : most);
    *prefix = *length > m->prefix ? m->prefix : *length - 1;
}

static pa_status open_window(pa_generator *g, int refill, pa_err *err) {
    choose_window(g->model, refill, g->total, &g->length, &g->prefix);
    g->seen = g->total;
    return g->backend->prefill(g->ctx, g->length, g->length - g->prefix, pack(g, (size_t)g->length, g->length),
                               g->logits, err);
}

// One step of decoding per new token, or a new window if this one has no room for all of them.
pa_status pa_generator_advance(pa_generator *g, int refill, pa_err *err) {
    size_t room = g->length ? (size_t)(pa_latents(g->model) - (g->length - g->prefix)) : 0;
    pa_status s = PA_OK;
    if (g->total - g->seen > room) s = open_window(g, refill, err);
    for (; g->seen < g->total && !s; g->seen++, g->length++)
        s = g->backend->decode(g->ctx, pack(g, g->total - g->seen, 1), g->logits, err);
    if (s) g->length = 0; // the caches are of no use: the next call opens a window
    if (s) g->seen = 0;
    return s;
}

// Of all that moves the clock, for a pause is several tokens.
static void weigh_waits(double density, float *logits) {
    const double bias = log(density);
    for (int steps = 1; steps <= 100; steps++)
        logits[PA_TIME_SHIFT + steps - 1] -= (float)(bias * fmin(1, (double)steps / FULL_WAIT));
}

static pa_status draw_one(pa_generator *g, const pa_sampling_options *o, int sequence, uint16_t *token, pa_err *err) {
    uint64_t number = o->stream + (uint64_t)sequence;
    float *logits = g->logits + (size_t)(g->sequences + sequence) * PA_VOCAB;
    pa_keys *keys = &g->keys[sequence];
    double chance[PA_VOCAB];
    pa_err why;
    if (!g->total) {
        *token = (uint16_t)(PA_VELOCITY + FIRST_BIN +
                            (int)pa_below(pa_random(o->seed, PA_RANDOM_SAMPLE, number, 0), FIRST_BINS));
        return PA_OK;
    }
    memcpy(logits, g->logits + (size_t)sequence * PA_VOCAB, PA_VOCAB * sizeof *logits);
    if (keys->begun < 0) keys->begun = keys->clock;
    if (o->repetition_penalty != 1)
        pa_repeats_penalise(row_of(g, sequence) + g->total - g->length, g->length, o->repetition_penalty, logits);
    const double density = o->steady ? pa_density_wanted(&g->density[sequence], o->density) : o->density;
    if (density != 1) weigh_waits(density, logits);
    if (o->keys) pa_keys_hold(keys, logits);
    bool due = o->releases && pa_keys_release(keys, o->keys, o->seed, number, logits);
    bool counts = o->releases && !due; // towards long notes
    pa_draw d = {.logits = logits, .stream = number, .index = g->drawn, .chance = counts ? chance : NULL};
    pa_status s = pa_draw_token(o, &d, token, &why);
    if (s) return pa_error(err, s, "token %zu of stream %d: %s", g->drawn, sequence, why.text);
    return counts ? spare(g, sequence, chance, err) : PA_OK;
}

pa_status pa_generator_draw(pa_generator *g, const pa_sampling_options *o, uint16_t *token, pa_err *err) {
    pa_status s = pa_sampling_check(o, g->model, err);
    if (!s && g->total && g->open) s = pa_generator_advance(g, o->refill, err);
    for (int k = 0; k < g->sequences && !s; k++) {
        token[k] = PA_END;
        if (!g->ended[k]) s = draw_one(g, o, k, &token[k], err);
    }
    if (s) return s;
    for (int k = 0; k < g->sequences; k++) {
        if (g->ended[k] || token[k] != PA_END) continue;
        g->ended[k] = true;
        g->open--;
    }
    if (!g->open) return PA_OK;
    return push(g, token, true, err);
}

static pa_status generate(const pa_generation *t, pa_generator *g, uint16_t *token, pa_err *err) {
    pa_status s = PA_OK;
    memset(t->count, 0, (size_t)t->streams * sizeof *t->count);
    for (size_t i = 0; i < t->primer_count && !s; i++) {
        for (int k = 0; k < t->streams; k++) token[k] = t->primer[i];
        s = pa_generator_append(g, token, err);
    }
    for (size_t done = 0; done < t->length && g->open && !s; done++) {
        s = pa_generator_draw(g, t->options, token, err);
        for (int k = 0; k < t->streams && !s; k++) {
            t->out[(size_t)k * t->length + done] = token[k] == PA_END ? PA_PAD : token[k];
            t->count[k] += token[k] != PA_END;
        }
    }
    return s;
}

pa_status pa_generate(const pa_generation *t, pa_err *err) {
    pa_generator g;
    pa_status s = pa_sampling_check(t->options, t->model, err);
    if (s) return s;
    if (t->streams < 1) return pa_error(err, PA_USAGE, "streams: expected at least 1, found %d", t->streams);
    uint16_t *token = malloc((size_t)t->streams * sizeof *token);
    s = pa_generator_init(&g, t->backend, t->ctx, t->model, t->streams, err);
    if (!s && !token) s = pa_error(err, PA_FAIL, "no memory for %d streams", t->streams);
    if (!s) s = generate(t, &g, token, err);
    pa_generator_clear(&g);
    free(token);
    return s;
}
