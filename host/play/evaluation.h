// evaluation.h: what paeval prints of a measurement, as a table for people or as JSON (docs/metrics.md).
#ifndef PA_EVALUATION_H
#define PA_EVALUATION_H

#include "host/play/library.h"
#include "host/play/measure.h"

// One model on all pieces.
typedef struct {
    const patrain_model_info *model;
    char device[16], precision[64];
    int stride;
    double took; // seconds
    pa_measure sums;
    pa_estimate mean;
} pa_result;

typedef struct {
    const char *tokens_path;
    const pa_token_set *tokens;
    const pa_result *result, *base; // base: NULL, or the model to compare with
    pa_estimate difference;         // result - base
    double loss_seed;
} pa_evaluation;

void pa_evaluation_print(const pa_evaluation *r);
pa_status pa_evaluation_print_json(const pa_evaluation *r, pa_err *err);

#endif
