// generate.c: windows that follow one another while tokens are drawn. See generate.h.
#include "host/play/generate.h"

#include <stdlib.h>
#include <string.h>

#include "host/base/philox.h"
#include "host/play/keys.h"

// A piece without a primer begins between mezzo piano and forte.
enum { FIRST_BIN = 12, FIRST_BINS = 10 };

typedef struct {
    const pa_generation *task;
    size_t done;      // tokens of each stream in task->out
    uint16_t *window; // (streams, context): the visible tokens
    int visible, prefix;
    uint16_t *packed; // (streams, visible), or (streams) for one step
    float *logits;    // (streams, V)
    int *down;        // (streams, PA_KEYS) notes that sound on a key: of a primer several may
} generator;

static uint16_t token_at(const pa_generation *t, int stream, size_t at) {
    return at < t->primer_count ? t->primer[at] : t->out[(size_t)stream * t->length + at - t->primer_count];
}

void pa_generate_window(const pa_model *m, int refill, size_t total, int *length, int *prefix) {
    if (!refill) refill = (m->context - m->prefix) / 2;
    size_t most = (size_t)m->prefix + (size_t)(refill > 1 ? refill : 1);
    *length = (int)(total < most ? total : most);
    *prefix = *length > m->prefix ? m->prefix : *length - 1;
}

uint16_t pa_generate_first(uint64_t seed, uint64_t stream) {
    return (uint16_t)(PA_VELOCITY + FIRST_BIN + (int)pa_below(pa_random(seed, PA_RANDOM_SAMPLE, stream, 0), FIRST_BINS));
}

static pa_status open_window(generator *g, pa_err *err) {
    const pa_generation *t = g->task;
    const pa_model *m = t->model;
    size_t total = t->primer_count + g->done;
    pa_generate_window(m, t->options->refill, total, &g->visible, &g->prefix);
    for (int s = 0; s < t->streams; s++) {
        uint16_t *row = g->window + (size_t)s * (size_t)m->context;
        for (int i = 0; i < g->visible; i++) row[i] = token_at(t, s, total - (size_t)g->visible + (size_t)i);
        memcpy(g->packed + (size_t)s * (size_t)g->visible, row, (size_t)g->visible * sizeof *row);
    }
    return t->backend->prefill(t->ctx, g->visible, g->visible - g->prefix, g->packed, g->logits, err);
}

// Leaves in g->logits what follows the tokens so far.
static pa_status advance(generator *g, pa_err *err) {
    const pa_generation *t = g->task;
    const pa_model *m = t->model;
    if (!g->visible || g->visible - g->prefix == m->context - m->prefix) return open_window(g, err);
    for (int s = 0; s < t->streams; s++) {
        g->packed[s] = token_at(t, s, t->primer_count + g->done - 1);
        g->window[(size_t)s * (size_t)m->context + (size_t)g->visible] = g->packed[s];
    }
    g->visible++;
    return t->backend->decode(t->ctx, g->packed, g->logits, err);
}

static void begin_from_nothing(generator *g) {
    const pa_generation *t = g->task;
    for (int s = 0; s < t->streams; s++) {
        t->out[(size_t)s * t->length] = pa_generate_first(t->options->seed, t->options->stream + (uint64_t)s);
        t->count[s] = 1;
    }
    g->done = 1;
}

// One more token for each stream that has not ended. *open: how many of them there still are.
static pa_status draw_tokens(generator *g, int *open, pa_err *err) {
    const pa_generation *t = g->task;
    *open = 0;
    for (int s = 0; s < t->streams; s++) {
        uint16_t *token = t->out + (size_t)s * t->length + g->done;
        *token = PA_PAD;
        if (t->count[s] < g->done) continue;
        pa_err why;
        float *logits = g->logits + (size_t)s * (size_t)t->model->vocab;
        if (t->options->keys) pa_keys_hold(g->down + s * PA_KEYS, logits);
        pa_draw d = {.logits = logits,
                     .recent = g->window + (size_t)s * (size_t)t->model->context,
                     .recent_count = g->visible,
                     .stream = t->options->stream + (uint64_t)s,
                     .index = g->done};
        pa_status e = pa_draw_token(t->options, &d, token, &why);
        if (e) return pa_error(err, e, "token %zu of stream %d: %s", g->done, s, why.text);
        if (*token == PA_END) {
            *token = PA_PAD;
            continue;
        }
        pa_keys_follow(g->down + s * PA_KEYS, *token);
        t->count[s]++;
        ++*open;
    }
    g->done++;
    return PA_OK;
}

pa_status pa_generate(const pa_generation *t, pa_err *err) {
    pa_status s = pa_sampling_check(t->options, t->model, err);
    if (s) return s;
    if (t->streams < 1) return pa_error(err, PA_USAGE, "streams: expected at least 1, found %d", t->streams);
    size_t places = (size_t)t->streams * (size_t)t->model->context;
    generator g = {.task = t,
                   .window = malloc(places * sizeof *g.window),
                   .packed = malloc(places * sizeof *g.packed),
                   .logits = malloc((size_t)t->streams * (size_t)t->model->vocab * sizeof *g.logits),
                   .down = calloc((size_t)t->streams, PA_KEYS * sizeof *g.down)};
    if (!g.window || !g.packed || !g.logits || !g.down) {
        s = pa_error(err, PA_FAIL, "no memory for %d streams of %d tokens", t->streams, t->model->context);
        goto done;
    }
    memset(t->count, 0, (size_t)t->streams * sizeof *t->count);
    for (int k = 0; k < t->streams; k++)
        for (size_t i = 0; i < t->primer_count; i++) pa_keys_follow(g.down + k * PA_KEYS, t->primer[i]);
    if (!t->primer_count && t->length) begin_from_nothing(&g);
    for (int open = t->streams; g.done < t->length && open;)
        if ((s = advance(&g, err)) || (s = draw_tokens(&g, &open, err)) || (t->more && !t->more(t->arg, g.done))) break;
done:
    free(g.window);
    free(g.packed);
    free(g.logits);
    free(g.down);
    return s;
}
