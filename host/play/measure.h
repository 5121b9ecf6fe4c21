// measure.h: what a model's predictions of whole pieces add up to: by kind of token, by position, by context and by
// piece, the mean's confidence interval and the difference of two models. Knows nothing of devices or of how results
// are printed.
#ifndef PA_MEASURE_H
#define PA_MEASURE_H

#include "host/play/score.h"

enum { PA_POSITIONS = 6, PA_CONTEXTS = 12 };

// Tokens with `from` to `to` tokens before them.
typedef struct {
    int64_t from, to; // to: INT64_MAX in the last row
    double nats;
    int64_t tokens;
} pa_measure_row;

typedef struct {
    double nats;
    int64_t tokens;
} pa_measure_sum;

typedef struct {
    pa_score whole;
    pa_measure_row position[PA_POSITIONS]; // by the tokens before it in its piece: 1-16, 17-64, …
    pa_measure_row context[PA_CONTEXTS];   // by the tokens before it in its window: 1-64, 65-128, …
    pa_measure_sum *piece;                 // (pieces)
    size_t pieces;
} pa_measure;

pa_status pa_measure_init(pa_measure *m, size_t pieces, pa_err *err);
void pa_measure_clear(pa_measure *m);
// Adds tokens that were scored; `token` are those of run->piece.
void pa_measure_add(pa_measure *m, const uint16_t *token, const patrain_scored *run);

// Nats a token, their standard error over pieces, and the 95 % confidence interval; NaN where fewer than two pieces
// were scored.
typedef struct {
    double mean, error, low, high;
} pa_estimate;

pa_estimate pa_measure_mean(const pa_measure *m);
// The same of the paired difference m - base. PA_DATA unless both scored the same number of tokens of each piece.
pa_status pa_measure_difference(const pa_measure *m, const pa_measure *base, pa_estimate *e, pa_err *err);

#endif
