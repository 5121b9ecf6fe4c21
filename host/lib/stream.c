// stream.c: the public library's streams. See include/patrain.h.
#include <stdlib.h>
#include <string.h>

#include "host/lib/engine.h"
#include "host/lib/generate.h"
#include "tokenizer/encode.h"

enum { MOST_SILENT = 1024 };

struct patrain_stream {
    pa_engine engine;
    pa_generator generator;
    uint16_t *token; // (sequences) the latest that were drawn
    // For patrain_stream_next_key, of the first sequence:
    int64_t steps;     // of 10 ms since the start
    uint16_t velocity; // the latest VELOCITY token; PA_PAD: none yet
};

static void clear(patrain_stream *s) {
    pa_generator_start(&s->generator);
    s->steps = 0;
    s->velocity = PA_PAD;
}

static pa_status open_stream(patrain_stream *s, const patrain_model *m, const patrain_options *given, pa_err *err) {
    patrain_options o;
    pa_status e = pa_engine_options(&o, given, err);
    if (e) return e;
    int sequences = o.sequences ? o.sequences : 1;
    s->token = malloc((size_t)sequences * sizeof *s->token);
    if (!s->token) return pa_error(err, PA_FAIL, "no memory for a stream");
    e = pa_engine_open(&s->engine, m, &o, 0, sequences, err);
    if (!e) e = pa_generator_init(&s->generator, s->engine.backend, s->engine.ctx, &m->params.model, sequences, err);
    if (!e) clear(s);
    return e;
}

patrain_status patrain_stream_open(patrain_stream **stream, const patrain_model *model, const patrain_options *options,
                                   patrain_error *error) {
    pa_err err = {""};
    patrain_stream *s = *stream = calloc(1, sizeof *s);
    pa_status e = s ? open_stream(s, model, options, &err) : pa_error(&err, PA_FAIL, "no memory for a stream");
    if (e) {
        patrain_stream_close(s);
        *stream = NULL;
    }
    return pa_lib_result(e, &err, error);
}

void patrain_stream_close(patrain_stream *s) {
    if (!s) return;
    pa_generator_clear(&s->generator);
    pa_engine_close(&s->engine);
    free(s->token);
    free(s);
}

const patrain_options *patrain_stream_options(const patrain_stream *s) {
    return &s->engine.options;
}

// ---- tokens in

// Follows the first sequence.
static void follow(patrain_stream *s, uint16_t token) {
    if (pa_is_velocity(token)) s->velocity = token;
    s->steps += pa_shift_steps(token);
}

static pa_status append(patrain_stream *s, const uint16_t *token, pa_err *err) {
    pa_generator *g = &s->generator;
    for (int k = 0; k < g->sequences; k++)
        if (!g->ended[k] && token[k] >= PA_END)
            return pa_error(err, PA_DATA, "token %zu: expected a number below %d, found %d", g->total, PA_END,
                            token[k]);
    pa_status e = pa_generator_append(g, token, err);
    if (!e && !g->ended[0]) follow(s, *token);
    return e;
}

patrain_status patrain_stream_start(patrain_stream *s, const uint16_t *tokens, size_t count, patrain_error *error) {
    pa_err err = {""};
    pa_status e = PA_OK;
    clear(s);
    for (size_t i = 0; i < count && !e; i++) {
        for (int k = 0; k < s->generator.sequences; k++) s->token[k] = tokens[i];
        e = append(s, s->token, &err);
    }
    if (e) clear(s);
    return pa_lib_result(e, &err, error);
}

patrain_status patrain_stream_append(patrain_stream *s, const uint16_t *tokens, patrain_error *error) {
    pa_err err = {""};
    return pa_lib_result(append(s, tokens, &err), &err, error);
}

size_t patrain_stream_length(const patrain_stream *s) {
    return s->generator.total;
}

patrain_status patrain_stream_rewind(patrain_stream *s, size_t count, patrain_error *error) {
    pa_err err = {""};
    const pa_generator *g = &s->generator;
    pa_status e = pa_generator_rewind(&s->generator, count, &err);
    if (e) return pa_lib_result(e, &err, error);
    s->steps = 0;
    s->velocity = PA_PAD;
    for (size_t i = 0; i < count && g->token[i] != PA_PAD; i++) follow(s, g->token[i]);
    return pa_lib_result(PA_OK, &err, error);
}

// ---- sampling

void patrain_sampling_default(patrain_sampling *sampling, size_t size) {
    pa_sampling_options o = pa_sampling_default();
    const patrain_sampling defaults = {.size = size,
                                       .temperature = o.temperature,
                                       .top_k = o.top_k,
                                       .top_p = o.top_p,
                                       .min_p = o.min_p,
                                       .repetition_penalty = o.repetition_penalty,
                                       .density = o.density,
                                       .seed = o.seed};
    memset(sampling, 0, size);
    memcpy(sampling, &defaults, size < sizeof defaults ? size : sizeof defaults);
}

static pa_status options_of(const patrain_sampling *p, const patrain_model *m, pa_sampling_options *o, pa_err *err) {
    pa_status e = pa_lib_size("patrain_sampling", p->size, sizeof *p, err);
    if (e) return e;
    *o = (pa_sampling_options){.temperature = p->temperature,
                               .top_k = p->top_k,
                               .top_p = p->top_p,
                               .min_p = p->min_p,
                               .repetition_penalty = p->repetition_penalty,
                               .density = p->density,
                               .stop_at_end = p->stop_at_end != 0,
                               .refill = p->refill,
                               .seed = p->seed,
                               .stream = p->sequence,
                               .keys = m->weights.encoding == PA_PERFORMANCE && !p->loose_keys,
                               .releases = !p->long_notes,
                               .steady = !p->free_density};
    return pa_sampling_check(o, &m->params.model, err);
}

patrain_status patrain_sampling_check(const patrain_sampling *sampling, const patrain_model *model,
                                      patrain_error *error) {
    pa_err err = {""};
    pa_sampling_options o;
    return pa_lib_result(options_of(sampling, model, &o, &err), &err, error);
}

// ---- predictions

patrain_status patrain_stream_next(patrain_stream *s, const patrain_sampling *sampling, uint16_t *tokens,
                                   patrain_error *error) {
    pa_err err = {""};
    pa_sampling_options o;
    pa_generator *g = &s->generator;
    pa_status e = options_of(sampling, s->engine.model, &o, &err);
    if (!e) {
        pa_threads before = pa_engine_enter(&s->engine);
        e = pa_generator_draw(g, &o, s->token, &err);
        pa_threads_leave(before);
    }
    if (!e && !g->ended[0]) follow(s, *s->token);
    if (!e && tokens) memcpy(tokens, s->token, (size_t)g->sequences * sizeof *tokens);
    pa_lib_result(e, &err, error);
    if (e || g->open) return (patrain_status)e;
    if (error) error->status = PATRAIN_ENDED;
    return PATRAIN_ENDED;
}

// The velocity at which a key struck now is decoded.
static pa_status velocity_now(const patrain_stream *s, uint8_t pitch, uint8_t *velocity, pa_err *err) {
    // A velocity that is still PAD is skipped.
    uint16_t token[] = {s->velocity, (uint16_t)(PA_NOTE_ON + pitch), PA_TIME_SHIFT, (uint16_t)(PA_NOTE_OFF + pitch)};
    pa_note *note;
    size_t count;
    pa_status e = pa_decode(token, sizeof token / sizeof *token, s->engine.model->weights.encoding, &note, &count, err);
    if (!e) *velocity = note[0].velocity;
    free(note);
    return e;
}

patrain_status patrain_stream_next_key(patrain_stream *s, const patrain_sampling *sampling, patrain_key *key,
                                       patrain_error *error) {
    pa_err err = {""};
    int sequences = s->generator.sequences;
    if (sequences > 1)
        return pa_lib_result(pa_error(&err, PA_USAGE, "expected a stream of one sequence, found %d", sequences), &err,
                             error);
    for (int i = 0; i < MOST_SILENT; i++) {
        uint16_t token;
        patrain_status e = patrain_stream_next(s, sampling, &token, error);
        if (e) return e;
        if (!pa_is_note(token)) continue;
        bool struck = pa_is_note_on(token);
        *key = (patrain_key){.seconds = (double)s->steps / PA_STEPS_A_SECOND, .pitch = (uint8_t)pa_pitch_of(token)};
        return pa_lib_result(struck ? velocity_now(s, key->pitch, &key->velocity, &err) : PA_OK, &err, error);
    }
    return pa_lib_result(pa_error(&err, PA_FAIL, "expected a note within %d tokens, found none", MOST_SILENT), &err,
                         error);
}

patrain_status patrain_stream_logits(patrain_stream *s, float *logits, patrain_error *error) {
    pa_err err = {""};
    pa_generator *g = &s->generator;
    pa_status e =
        g->total ? PA_OK : pa_error(&err, PA_USAGE, "expected a token to predict from, found an empty stream");
    if (!e) {
        pa_threads before = pa_engine_enter(&s->engine);
        e = pa_generator_advance(g, 0, &err);
        pa_threads_leave(before);
    }
    if (!e) memcpy(logits, g->logits, (size_t)g->sequences * PA_VOCAB * sizeof *logits);
    return pa_lib_result(e, &err, error);
}
