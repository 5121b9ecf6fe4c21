// fake.h: a backend for tests of what lies above the seam: its logits are a hash of all that a position sees (the
// window's tokens up to it, and where the prefix ends), so that a wrong window, a wrong shape or a stale cache shows in
// every number. Refuses what a real one does.
#ifndef PA_TESTS_FAKE_H
#define PA_TESTS_FAKE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "host/model/backend.h"
#include "tokenizer/tokens.h"

enum { FAKE_CONTEXT = 32, FAKE_STREAMS = 4 };

struct pa_context {
    pa_model model;
    int max_batch, streams;
    uint16_t window[FAKE_STREAMS][FAKE_CONTEXT];
    int cached, prefix;
    int calls, prefills, fail_at; // loss, prefill or decode number fail_at fails
    float spoil;                  // not 0: what the logit of token 5 is from the second prefill or decode on
    bool never_releases;          // strokes are rare too, so that few keys are struck again
    int end_after; // not 0: tokens after which END is by far the most probable once, in stream s one token later than
                   // in s - 1
};

static inline pa_context fake_context(int context, int prefix, int max_batch, int streams) {
    pa_context c = {.max_batch = max_batch, .streams = streams};
    c.model = pa_model_default();
    c.model.context = context;
    c.model.prefix = prefix;
    c.model.vocab = PA_VOCAB;
    return c;
}

static inline uint64_t fake_mix(uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

// Logits behind `visible` tokens of a window whose first `prefix` are prefix.
static inline void fake_logits(const uint16_t *token, int visible, int prefix, float *logits) {
    uint64_t h = fake_mix((uint64_t)prefix + 1);
    for (int i = 0; i < visible; i++) h = fake_mix(h + token[i] + 1);
    for (int v = 0; v < PA_VOCAB; v++)
        logits[v] = (float)(fake_mix(h + 7u * (uint64_t)v) >> 40) * (1.0f / (1 << 21)) - 4; // [-4, 4)
}

static inline double fake_nats(const float *logits, int target) {
    double sum = 0;
    for (int v = 0; v < PA_VOCAB; v++) sum += exp((double)logits[v]);
    return log(sum) - (double)logits[target];
}

static inline int fake_best(const float *logits) {
    int best = 0;
    for (int v = 1; v < PA_VOCAB; v++) best = logits[v] > logits[best] ? v : best;
    return best;
}

static inline pa_status fake_check(pa_context *c, int length, int latents, const uint16_t *token, size_t tokens,
                                   pa_err *err) {
    const pa_model *m = &c->model;
    if (++c->calls == c->fail_at) return pa_error(err, PA_FAIL, "the device is on fire");
    if (latents < 1 || latents > m->context - m->prefix) return pa_error(err, PA_USAGE, "%d latents", latents);
    if (length - latents < 0 || length - latents > m->prefix)
        return pa_error(err, PA_USAGE, "prefix of %d", length - latents);
    for (size_t i = 0; i < tokens; i++)
        if (token[i] >= PA_VOCAB) return pa_error(err, PA_USAGE, "token %d", token[i]);
    return PA_OK;
}

static inline pa_status fake_loss(pa_context *c, const pa_batch *b, double *sum, const pa_scores *scores, pa_err *err) {
    float logits[PA_VOCAB];
    pa_status s = fake_check(c, b->length, b->latents, b->input, (size_t)b->batch * (size_t)b->length, err);
    if (!s && (b->batch < 1 || b->batch > c->max_batch)) s = pa_error(err, PA_USAGE, "batch of %d", b->batch);
    *sum = 0;
    for (int i = 0; i < b->batch && !s; i++)
        for (int n = 0; n < b->latents; n++) {
            int prefix = b->length - b->latents, target = b->target ? b->target[i * b->latents + n] : PA_PAD;
            size_t at = (size_t)i * (size_t)b->latents + (size_t)n;
            fake_logits(b->input + (size_t)i * (size_t)b->length, prefix + n + 1, prefix, logits);
            double nats = target == PA_PAD ? 0 : fake_nats(logits, target);
            *sum += nats;
            if (scores->nats) scores->nats[at] = (float)nats;
            if (scores->best) scores->best[at] = (uint16_t)fake_best(logits);
            if (scores->logits) memcpy(scores->logits + at * PA_VOCAB, logits, sizeof logits);
        }
    return s;
}

static inline void fake_answer(const pa_context *c, float *logits) {
    for (int s = 0; s < c->streams; s++) {
        fake_logits(c->window[s], c->cached, c->prefix, logits + s * PA_VOCAB);
        if (c->spoil != 0 && c->calls > 1) logits[s * PA_VOCAB + 5] = c->spoil;
        for (int key = 0; key < 128 && c->never_releases; key++) {
            logits[s * PA_VOCAB + PA_NOTE_ON + key] -= 4;
            logits[s * PA_VOCAB + PA_NOTE_OFF + key] = -100;
        }
        if (c->end_after && c->calls == c->end_after + s + 1) logits[s * PA_VOCAB + PA_END] = 100;
    }
}

static inline pa_status fake_prefill(pa_context *c, int length, int latents, const uint16_t *tokens, float *logits,
                                     pa_err *err) {
    pa_status s = fake_check(c, length, latents, tokens, (size_t)c->streams * (size_t)length, err);
    if (s) return s;
    for (int i = 0; i < c->streams; i++)
        memcpy(c->window[i], tokens + (size_t)i * (size_t)length, (size_t)length * sizeof *tokens);
    c->cached = length;
    c->prefix = length - latents;
    c->prefills++;
    fake_answer(c, logits);
    return PA_OK;
}

static inline pa_status fake_decode(pa_context *c, const uint16_t *tokens, float *logits, pa_err *err) {
    pa_status s = fake_check(c, c->cached + 1, c->cached + 1 - c->prefix, tokens, (size_t)c->streams, err);
    if (s) return s;
    for (int i = 0; i < c->streams; i++) c->window[i][c->cached] = tokens[i];
    c->cached++;
    fake_answer(c, logits);
    return PA_OK;
}

static inline pa_status fake_rewind(pa_context *c, int length, pa_err *err) {
    if (length < 1 || length < c->prefix || length > c->cached) return pa_error(err, PA_USAGE, "rewind to %d", length);
    c->cached = length;
    return PA_OK;
}

static const pa_backend fake_backend = {
    .name = "fake", .loss = fake_loss, .prefill = fake_prefill, .decode = fake_decode, .rewind = fake_rewind};

#endif
