// generate.c: windows that follow one another while tokens are sampled. See generate.h.
#include "host/play/generate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/philox.h"

// A piece without a primer begins between mezzo piano and forte.
enum { FIRST_BIN = 12, FIRST_BINS = 10, KEYS = 128 };
static const float never = -1e30f; // a logit must be finite

typedef struct {
    const pa_backend *backend;
    pa_context *ctx;
    const pa_model *model;
    const pa_sampling_options *options;
    const uint16_t *primer;
    size_t primer_count, length;
    int streams;
    uint16_t *out;    // (streams, length)
    size_t done;      // tokens of each stream in it
    uint16_t *window; // (streams, context): what is visible now
    int visible, prefix;
    uint16_t *packed; // (streams, visible), or (streams) for one step
    float *logits;    // (streams, V)
    int *down;        // (streams, KEYS) notes that sound on a key: of a primer several may
} generator;

static uint16_t token_at(const generator *g, int stream, size_t at) {
    return at < g->primer_count ? g->primer[at] : g->out[(size_t)stream * g->length + at - g->primer_count];
}

// A window on the most recent P + refill tokens, or on all where there are fewer.
static pa_status open_window(generator *g, pa_err *err) {
    const pa_model *m = g->model;
    int refill = g->options->refill ? g->options->refill : (m->context - m->prefix) / 2;
    size_t total = g->primer_count + g->done, most = (size_t)m->prefix + (size_t)(refill > 1 ? refill : 1);
    g->visible = (int)(total < most ? total : most);
    g->prefix = g->visible > m->prefix ? m->prefix : g->visible - 1;
    for (int s = 0; s < g->streams; s++) {
        uint16_t *row = g->window + (size_t)s * (size_t)m->context;
        for (int i = 0; i < g->visible; i++) row[i] = token_at(g, s, total - (size_t)g->visible + (size_t)i);
        memcpy(g->packed + (size_t)s * (size_t)g->visible, row, (size_t)g->visible * sizeof *row);
    }
    return g->backend->prefill(g->ctx, g->visible, g->visible - g->prefix, g->packed, g->logits, err);
}

// Leaves in g->logits what follows the tokens so far.
static pa_status advance(generator *g, pa_err *err) {
    const pa_model *m = g->model;
    if (!g->visible || g->visible - g->prefix == m->context - m->prefix) return open_window(g, err);
    for (int s = 0; s < g->streams; s++) {
        g->packed[s] = token_at(g, s, g->primer_count + g->done - 1);
        g->window[(size_t)s * (size_t)m->context + (size_t)g->visible] = g->packed[s];
    }
    g->visible++;
    return g->backend->decode(g->ctx, g->packed, g->logits, err);
}

static void begin_from_nothing(generator *g, size_t *made) {
    for (int s = 0; s < g->streams; s++) {
        pa_philox r = pa_random(g->options->seed, PA_RANDOM_SAMPLE, g->options->stream + (uint64_t)s, 0);
        g->out[(size_t)s * g->length] = (uint16_t)(PA_VELOCITY + FIRST_BIN + (int)pa_below(r, FIRST_BINS));
        made[s] = 1;
    }
    g->done = 1;
}

static void follow_keys(int *down, uint16_t token) {
    if (token < PA_NOTE_OFF)
        down[token - PA_NOTE_ON]++;
    else if (token < PA_TIME_SHIFT && down[token - PA_NOTE_OFF])
        down[token - PA_NOTE_OFF]--;
}

static void hold_to_keys(const int *down, float *logits) {
    for (int key = 0; key < KEYS; key++) {
        float *on = &logits[PA_NOTE_ON + key], *off = &logits[PA_NOTE_OFF + key];
        if (!down[key]) {
            *off = never;
            continue;
        }
        float most = fmaxf(*on, *off);
        *off = most + logf(expf(*on - most) + expf(*off - most));
        *on = never;
    }
}

// One more token for each stream that has not ended. *going: how many of them there still are.
static pa_status sample_streams(generator *g, size_t *made, int *going, pa_err *err) {
    *going = 0;
    for (int s = 0; s < g->streams; s++) {
        uint16_t *token = g->out + (size_t)s * g->length + g->done;
        *token = PA_PAD;
        if (made[s] < g->done) continue;
        pa_err why;
        float *logits = g->logits + (size_t)s * (size_t)g->model->vocab;
        if (g->options->keys) hold_to_keys(g->down + s * KEYS, logits);
        pa_status e = pa_sample(g->options, logits, g->window + (size_t)s * (size_t)g->model->context, g->visible,
                                g->options->stream + (uint64_t)s, g->done, token, &why);
        if (e) return pa_error(err, e, "token %zu of stream %d: %s", g->done, s, why.text);
        if (*token == PA_END) {
            *token = PA_PAD;
            continue;
        }
        follow_keys(g->down + s * KEYS, *token);
        made[s]++;
        ++*going;
    }
    g->done++;
    return PA_OK;
}

pa_status pa_generate(const pa_backend *backend, pa_context *ctx, const pa_model *m, const pa_sampling_options *o, const uint16_t *primer,
                      size_t primer_count, int streams, size_t length, uint16_t *out, size_t *made, bool (*more)(void *arg, size_t done),
                      void *arg, pa_err *err) {
    pa_status s = pa_sampling_check(o, m, err);
    if (s) return s;
    if (streams < 1) return pa_error(err, PA_USAGE, "streams: expected at least 1, found %d", streams);
    generator g = {.backend = backend, .ctx = ctx, .model = m, .options = o, .primer = primer, .primer_count = primer_count};
    size_t places = (size_t)streams * (size_t)m->context;
    g.streams = streams, g.length = length, g.out = out;
    g.window = malloc(places * sizeof *g.window), g.packed = malloc(places * sizeof *g.packed);
    g.logits = malloc((size_t)streams * (size_t)m->vocab * sizeof *g.logits), g.down = calloc((size_t)streams, KEYS * sizeof *g.down);
    if (!g.window || !g.packed || !g.logits || !g.down) {
        s = pa_error(err, PA_FAIL, "no memory for %d streams of %d tokens", streams, m->context);
        goto done;
    }
    memset(made, 0, (size_t)streams * sizeof *made);
    for (int k = 0; k < streams; k++)
        for (size_t i = 0; i < primer_count; i++) follow_keys(g.down + k * KEYS, primer[i]);
    if (!primer_count && length) begin_from_nothing(&g, made);
    for (int going = streams; g.done < length && going;)
        if ((s = advance(&g, err)) || (s = sample_streams(&g, made, &going, err)) || (more && !more(arg, g.done))) break;
done:
    free(g.window), free(g.packed), free(g.logits), free(g.down);
    return s;
}
