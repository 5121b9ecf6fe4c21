// made_corpus.h: what the tests of training windows share: a corpus in memory, a sampler on it, and a test of
// uniformity.
//
// Tests of uniformity count draws in n equally likely boxes. Pearson's sum over them is chi-square with n - 1 degrees
// of freedom: mean n - 1, deviation sqrt(2 (n - 1)). Five deviations are the bound; the seeds are fixed, so a test
// passes always or never.
#ifndef PA_TESTS_MADE_CORPUS_H
#define PA_TESTS_MADE_CORPUS_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "host/train/windows.h"
#include "tests/support/token_memory.h"

enum { CONTEXT = 16, MOST_PIECES = 8, MOST_TOKENS = 4096 };

typedef struct {
    token_memory memory;
    pa_config config;
    uint16_t token[MOST_TOKENS];
    int64_t offset[MOST_PIECES + 1];
} corpus;

// Pieces of these lengths; the corpus' k-th token is k mod 256, notes only, so that in a small corpus a token
// identifies its place.
static inline void make(corpus *c, const int *length, int pieces) {
    *c = (corpus){.config = pa_config_default()};
    c->config.model.context = CONTEXT;
    c->config.model.prefix = 8;
    for (int p = 0; p < pieces; p++) c->offset[p + 1] = c->offset[p] + length[p];
    for (int i = 0; i < c->offset[pieces]; i++) c->token[i] = (uint16_t)(i % PA_TIME_SHIFT);
    token_memory_open(&c->memory, (pa_tokens){.tokens = c->token, .offsets = c->offset, .pieces = pieces});
}

static inline void start(pa_sampler *s, const corpus *c) {
    pa_err err;
    if (pa_sampler_init(s, &c->memory.set, &c->config, &err)) fail_msg("%s", err.text);
}

static inline double pearson(const int *count, int boxes, double total) {
    double sum = 0, expected = total / boxes;
    for (int i = 0; i < boxes; i++) sum += (count[i] - expected) * (count[i] - expected) / expected;
    return sum;
}

static inline void check_uniform(const int *count, int boxes, double total) {
    double chi = pearson(count, boxes, total), most = boxes - 1 + 5 * sqrt(2.0 * (boxes - 1));
    if (!(chi < most)) fail_msg("chi-square %g over %d boxes, expected below %g", chi, boxes, most);
}

#endif
