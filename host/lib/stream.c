// stream.c: the public library's streams: one sequence of tokens, its caches, and the next token. See include/patrain.h.
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "host/lib/handles.h"
#include "host/lib/spin.h"
#include "host/play/generate.h"
#include "tokenizer/encode.h"

enum { MOST_SILENT = 1024, SHAPES = 8 };

// A context computes with the threads it was opened for, whichever thread calls and whatever that one has set.
static int enter(const patrain_stream *s) {
    int before = omp_get_max_threads();
    omp_set_num_threads(s->threads);
    return before;
}

static void leave(int before) {
    omp_set_num_threads(before);
}

// ---- opening

static pa_status choose_device(const char *device, const pa_backend **backend, pa_err *err) {
    if (!device) device = "auto";
    if (strcmp(device, "auto") && strcmp(device, "cpu") && strcmp(device, "cuda"))
        return pa_error(err, PA_USAGE, "device: expected auto, cpu or cuda, found %s", device);
    if (strcmp(device, "auto")) {
        pa_status s = pa_backend_choose(device, backend, err);
        return s ? s : (*backend)->check_machine(err);
    }
    if (!pa_backend_choose("cuda", backend, NULL) && !(*backend)->check_machine(NULL)) return PA_OK;
    return pa_backend_choose("cpu", backend, err);
}

static pa_status choose_precision(const char *name, pa_precision *precision, pa_err *err) {
    static const char *const names[] = {"auto", "fp32", "bf16", "fp16"}; // in the order of pa_precision
    *precision = PA_PRECISION_AUTO;
    for (int i = 0; name && i < 4; i++) {
        *precision = (pa_precision)i;
        if (!strcmp(name, names[i])) return PA_OK;
    }
    return name ? pa_error(err, PA_USAGE, "precision: expected auto, fp32, bf16 or fp16, found %s", name) : PA_OK;
}

static pa_status open_stream(patrain_stream *s, const patrain_model *m, const patrain_stream_options *o, pa_err *err) {
    pa_open open = {.params = &m->params, .max_batch = 1, .streams = 1, .deterministic = true, .comm = &s->comm};
    if (o->threads < 0) return pa_error(err, PA_USAGE, "threads: expected 1 or more, or 0 for OpenMP's number, found %d", o->threads);
    s->model = &m->weights.model;
    s->encoding = m->weights.encoding;
    s->comm = pa_comm_single();
    s->threads = o->threads ? o->threads : omp_get_max_threads();
    s->token = malloc(2 * (size_t)s->model->context * sizeof *s->token);
    s->logits = malloc((size_t)2 * PA_VOCAB * sizeof *s->logits);
    if (!s->token || !s->logits) return pa_error(err, PA_FAIL, "no memory for a stream");
    open.int8 = o->int8 != 0;
    pa_status e = choose_precision(o->precision, &open.precision, err);
    if (!e) e = choose_device(o->device, &s->backend, err);
    if (e) return e;
    pa_spin_briefly();
    int before = enter(s);
    e = s->backend->open(&s->ctx, &open, err);
    if (!e) e = pa_weights_load(&m->weights, &m->params, s->backend, s->ctx, err);
    leave(before);
    return e;
}

static void clear(patrain_stream *s) {
    s->held = s->total = s->seen = s->drawn = 0;
    s->length = s->prefix = 0;
    s->steps = 0;
    s->velocity = PA_PAD;
    memset(s->down, 0, sizeof s->down);
}

patrain_status patrain_stream_open(patrain_stream **stream, const patrain_model *model, const patrain_stream_options *options,
                                   patrain_error *error) {
    pa_err err = {""};
    const patrain_stream_options defaults = {0};
    patrain_stream *s = *stream = calloc(1, sizeof *s);
    pa_status e = s ? open_stream(s, model, options ? options : &defaults, &err) : pa_error(&err, PA_FAIL, "no memory for a stream");
    if (e) {
        patrain_stream_close(s);
        *stream = NULL;
    } else {
        clear(s);
    }
    return pa_lib_result(e, &err, error);
}

void patrain_stream_close(patrain_stream *s) {
    if (!s) return;
    if (s->ctx) s->backend->close(s->ctx);
    free(s->token);
    free(s->logits);
    free(s);
}

// ---- tokens in

static pa_status append(patrain_stream *s, uint16_t token, pa_err *err) {
    size_t context = (size_t)s->model->context;
    if (token >= PA_END) return pa_error(err, PA_DATA, "token %zu: expected a number below %d, found %d", s->total, PA_END, token);
    if (s->held == 2 * context) { // only a window's worth is ever needed
        memmove(s->token, s->token + context, context * sizeof *s->token);
        s->held = context;
    }
    s->token[s->held++] = token;
    s->total++;
    pa_keys_follow(s->down, token);
    if (pa_is_velocity(token)) s->velocity = token;
    s->steps += pa_shift_steps(token);
    return PA_OK;
}

patrain_status patrain_stream_start(patrain_stream *s, const uint16_t *tokens, size_t count, patrain_error *error) {
    pa_err err = {""};
    pa_status e = PA_OK;
    clear(s);
    for (size_t i = 0; i < count && !e; i++) e = append(s, tokens[i], &err);
    if (e) clear(s);
    return pa_lib_result(e, &err, error);
}

patrain_status patrain_stream_append(patrain_stream *s, uint16_t token, patrain_error *error) {
    pa_err err = {""};
    return pa_lib_result(append(s, token, &err), &err, error);
}

// ---- predictions

// Brings s->logits up to the latest token: one step of decoding per new token, or a new window when this one is full.
static pa_status advance(patrain_stream *s, int refill, pa_err *err) {
    const pa_model *m = s->model;
    pa_status e = PA_OK;
    int before = enter(s);
    while (s->seen < s->total && !e) {
        bool full = s->length - s->prefix == m->context - m->prefix;
        if (s->length && !full) {
            e = s->backend->decode(s->ctx, s->token + s->held - (s->total - s->seen), s->logits, err);
            if (!e) s->length++, s->seen++;
        } else {
            pa_generate_window(m, refill, s->total, &s->length, &s->prefix);
            e = s->backend->prefill(s->ctx, s->length, s->length - s->prefix, s->token + s->held - s->length, s->logits, err);
            if (!e) s->seen = s->total;
        }
    }
    leave(before);
    if (e) s->length = 0; // the caches are of no use; the next call fills them anew
    return e;
}

patrain_sampling patrain_sampling_default(void) {
    pa_sampling_options o = pa_sampling_default();
    return (patrain_sampling){.temperature = o.temperature,
                              .top_k = o.top_k,
                              .top_p = o.top_p,
                              .min_p = o.min_p,
                              .repetition_penalty = o.repetition_penalty,
                              .seed = o.seed};
}

static pa_sampling_options options_of(const patrain_sampling *p) {
    pa_sampling_options o = pa_sampling_default();
    o.temperature = p->temperature;
    o.top_k = p->top_k;
    o.top_p = p->top_p;
    o.min_p = p->min_p;
    o.repetition_penalty = p->repetition_penalty;
    o.stop_at_end = p->stop_at_end != 0;
    o.refill = p->refill;
    o.seed = p->seed;
    o.stream = p->sequence;
    return o;
}

static pa_status draw(patrain_stream *s, const patrain_sampling *sampling, uint16_t *token, pa_err *err) {
    pa_sampling_options o = options_of(sampling);
    pa_status e = pa_sampling_check(&o, s->model, err);
    if (e) return e;
    if (!s->total) {
        *token = pa_generate_first(o.seed, o.stream);
        return PA_OK;
    }
    if ((e = advance(s, o.refill, err))) return e;
    float *logits = s->logits + PA_VOCAB;
    memcpy(logits, s->logits, PA_VOCAB * sizeof *logits);
    if (s->encoding == PA_PERFORMANCE && !sampling->loose_keys) pa_keys_hold(s->down, logits);
    pa_draw d = {
        .logits = logits, .recent = s->token + s->held - s->length, .recent_count = s->length, .stream = o.stream, .index = s->drawn};
    return pa_draw_token(&o, &d, token, err);
}

patrain_status patrain_stream_next(patrain_stream *s, const patrain_sampling *sampling, uint16_t *token, patrain_error *error) {
    pa_err err = {""};
    uint16_t t = PA_PAD;
    pa_status e = draw(s, sampling, &t, &err);
    if (!e && t == PA_END) {
        pa_lib_result(PA_OK, &err, error);
        if (error) error->status = PATRAIN_ENDED;
        return PATRAIN_ENDED;
    }
    if (!e) e = append(s, t, &err);
    if (!e) s->drawn++;
    if (!e && token) *token = t;
    return pa_lib_result(e, &err, error);
}

// What the encoding makes of a key struck now.
static pa_status velocity_now(const patrain_stream *s, uint8_t pitch, uint8_t *velocity, pa_err *err) {
    uint16_t token[] = {s->velocity, (uint16_t)(PA_NOTE_ON + pitch), PA_TIME_SHIFT, (uint16_t)(PA_NOTE_OFF + pitch)}; // PAD is skipped
    pa_note *note;
    size_t count;
    pa_status e = pa_decode(token, sizeof token / sizeof *token, s->encoding, &note, &count, err);
    if (!e) *velocity = note[0].velocity;
    free(note);
    return e;
}

patrain_status patrain_stream_next_key(patrain_stream *s, const patrain_sampling *sampling, patrain_key *key, patrain_error *error) {
    pa_err err = {""};
    for (int i = 0; i < MOST_SILENT; i++) {
        uint16_t token;
        patrain_status e = patrain_stream_next(s, sampling, &token, error);
        if (e) return e;
        if (!pa_is_note(token)) continue;
        bool struck = pa_is_note_on(token);
        *key = (patrain_key){.seconds = (double)s->steps / 100, .pitch = (uint8_t)pa_pitch_of(token)};
        return pa_lib_result(struck ? velocity_now(s, key->pitch, &key->velocity, &err) : PA_OK, &err, error);
    }
    return pa_lib_result(pa_error(&err, PA_FAIL, "expected a note within %d tokens, found none", MOST_SILENT), &err, error);
}

patrain_status patrain_stream_logits(patrain_stream *s, float *logits, patrain_error *error) {
    pa_err err = {""};
    pa_status e = s->total ? advance(s, 0, &err) : pa_error(&err, PA_USAGE, "expected a token to predict from, found an empty stream");
    if (!e) memcpy(logits, s->logits, PA_VOCAB * sizeof *logits);
    return pa_lib_result(e, &err, error);
}

// ---- scores

typedef struct {
    const uint16_t *token;
    size_t count;
    float *nats;
    uint16_t *input, *target; // (context), (N)
    float *window_nats;       // (N)
} scoring;

// Scores the targets of latents [skip, latents) of the window at `start`. What lies behind the end is padding, so that few shapes occur.
static pa_status score_window(patrain_stream *s, scoring *x, size_t start, int prefix, int latents, int skip, pa_err *err) {
    int N = s->model->context - s->model->prefix, step = (N + SHAPES - 1) / SHAPES;
    int padded = (latents + step - 1) / step * step;
    if (padded > N) padded = N;
    for (int i = 0; i < prefix + padded; i++) x->input[i] = i < prefix + latents ? x->token[start + (size_t)i] : PA_PAD;
    for (int n = 0; n < padded; n++)
        x->target[n] = n >= skip && n < latents ? x->token[start + (size_t)prefix + (size_t)n + 1] : PA_PAD; // PAD is not scored
    double sum;
    pa_batch b = {.batch = 1, .length = prefix + padded, .latents = padded, .input = x->input, .target = x->target, .kept = prefix};
    pa_status e = s->backend->loss(s->ctx, &b, &sum, &(pa_scores){.nats = x->window_nats}, err);
    for (int n = skip; n < latents && !e; n++) x->nats[start + (size_t)prefix + (size_t)n + 1] = x->window_nats[n];
    return e;
}

// Windows as in host/play/score.c: up to the first full one they begin at 0 with a shorter prefix; then they advance by half the latents.
static pa_status score_all(patrain_stream *s, scoring *x, pa_err *err) {
    int P = s->model->prefix, N = s->model->context - P, stride = N > 1 ? N / 2 : 1;
    size_t inputs = x->count - 1;
    pa_status e = PA_OK;
    for (size_t done = 0; done < inputs && !e;) {
        size_t start = 0;
        int prefix = P, room = N, skip = 0;
        if (done < (size_t)P) {
            prefix = (int)done;
            room = P - prefix < N ? P - prefix : N;
        } else if (done > (size_t)P) {
            start = done + (size_t)stride - (size_t)s->model->context;
            skip = N - stride;
        }
        size_t left = inputs - start - (size_t)prefix;
        int latents = left < (size_t)room ? (int)left : room;
        e = score_window(s, x, start, prefix, latents, skip, err);
        done += (size_t)(latents - skip);
    }
    return e;
}

patrain_status patrain_stream_score(patrain_stream *s, const uint16_t *tokens, size_t count, float *nats, patrain_error *error) {
    pa_err err = {""};
    size_t context = (size_t)s->model->context;
    scoring x = {.token = tokens, .count = count, .nats = nats};
    x.input = malloc(context * sizeof *x.input);
    x.target = malloc(context * sizeof *x.target);
    x.window_nats = malloc(context * sizeof *x.window_nats);
    pa_status e = x.input && x.target && x.window_nats ? PA_OK : pa_error(&err, PA_FAIL, "no memory to score %zu tokens", count);
    for (size_t i = 0; i < count && !e; i++)
        if (tokens[i] >= PA_END && !(tokens[i] == PA_END && i + 1 == count))
            e = pa_error(&err, PA_DATA, "token %zu: expected a number below %d, found %d", i, PA_END, tokens[i]);
    if (count) nats[0] = 0;
    int before = enter(s);
    if (!e && count > 1) e = score_all(s, &x, &err);
    leave(before);
    free(x.input);
    free(x.target);
    free(x.window_nats);
    return pa_lib_result(e, &err, error);
}
