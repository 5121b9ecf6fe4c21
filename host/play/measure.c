// measure.c: see measure.h.
#include "host/play/measure.h"

#include <math.h>
#include <stdlib.h>

pa_status pa_measure_init(pa_measure *m, size_t pieces, pa_err *err) {
    *m = (pa_measure){.pieces = pieces, .piece = calloc(pieces + 1, sizeof *m->piece)};
    for (int r = 0; r < PA_POSITIONS; r++)
        m->position[r] = (pa_measure_row){.from = r ? (4 << 2 * r) + 1 : 1, .to = 16 << 2 * r};
    for (int r = 0; r < PA_CONTEXTS; r++)
        m->context[r] = (pa_measure_row){.from = r ? (32 << r) + 1 : 1, .to = 64 << r};
    m->position[PA_POSITIONS - 1].to = INT64_MAX;
    m->context[PA_CONTEXTS - 1].to = INT64_MAX;
    return m->piece ? PA_OK : pa_error(err, PA_FAIL, "no memory for the sums of %zu pieces", pieces);
}

void pa_measure_clear(pa_measure *m) {
    free(m->piece);
    *m = (pa_measure){0};
}

// Adds nats[i] of tokens with before + i tokens before them.
static void add_rows(pa_measure_row *row, size_t before, const float *nats, size_t count) {
    for (size_t i = 0; i < count; i++) {
        while ((int64_t)(before + i) > row->to) row++;
        row->nats += (double)nats[i];
        row->tokens++;
    }
}

void pa_measure_add(pa_measure *m, const uint16_t *token, const patrain_scored *run) {
    pa_measure_sum *piece = &m->piece[run->piece];
    for (size_t i = 0; i < run->count; i++) {
        pa_score_add(&m->whole, token[run->first + i], run->best[i], run->nats[i]);
        piece->nats += (double)run->nats[i];
    }
    piece->tokens += (int64_t)run->count;
    add_rows(m->position, run->first, run->nats, run->count);
    add_rows(m->context, run->context, run->nats, run->count);
}

// ---- estimates

// The 97.5 % quantile of Student's t: a table, then Abramowitz and Stegun 26.7.5, whose error is below 0.1 % from four
// degrees on.
static double t_quantile(size_t degrees) {
    static const double table[] = {NAN, 12.7062, 4.3027, 3.1824};
    const double z = 1.959964, z2 = z * z, n = (double)degrees;
    if (degrees < sizeof table / sizeof *table) return table[degrees];
    return z * (1 + (z2 + 1) / (4 * n) + ((5 * z2 + 16) * z2 + 3) / (96 * n * n) +
                (((3 * z2 + 19) * z2 + 17) * z2 - 15) / (384 * n * n * n) +
                ((((79 * z2 + 776) * z2 + 1482) * z2 - 1920) * z2 - 945) / (92160 * n * n * n * n));
}

// A ratio estimator: the pieces are the clusters of a sample (docs/metrics.md). base: NULL, or what is subtracted.
static pa_estimate estimate(const pa_measure *m, const pa_measure *base) {
    double nats = 0, tokens = 0, squares = 0;
    size_t scored = 0;
    for (size_t i = 0; i < m->pieces; i++) {
        nats += m->piece[i].nats - (base ? base->piece[i].nats : 0);
        tokens += (double)m->piece[i].tokens;
        scored += m->piece[i].tokens > 0;
    }
    pa_estimate e = {.mean = nats / tokens, .error = (double)NAN, .low = (double)NAN, .high = (double)NAN};
    if (scored < 2) return e;
    for (size_t i = 0; i < m->pieces; i++) {
        double rest = m->piece[i].nats - (base ? base->piece[i].nats : 0) - e.mean * (double)m->piece[i].tokens;
        squares += rest * rest;
    }
    e.error = sqrt(squares * (double)scored / (double)(scored - 1)) / tokens;
    e.low = e.mean - t_quantile(scored - 1) * e.error;
    e.high = e.mean + t_quantile(scored - 1) * e.error;
    return e;
}

pa_estimate pa_measure_mean(const pa_measure *m) {
    return estimate(m, NULL);
}

pa_status pa_measure_difference(const pa_measure *m, const pa_measure *base, pa_estimate *e, pa_err *err) {
    if (m->pieces != base->pieces)
        return pa_error(err, PA_DATA, "expected two models scored on the same pieces, found %zu and %zu pieces",
                        m->pieces, base->pieces);
    for (size_t i = 0; i < m->pieces; i++)
        if (m->piece[i].tokens != base->piece[i].tokens)
            return pa_error(err, PA_DATA,
                            "piece %zu: expected two models scored on the same tokens, found %lld and %lld tokens", i,
                            (long long)m->piece[i].tokens, (long long)base->piece[i].tokens);
    *e = estimate(m, base);
    return PA_OK;
}
