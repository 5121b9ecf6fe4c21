// average.c: see average.h.
#include "host/train/average.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

size_t pa_average_bytes(const pa_params *p) {
    return (p->floats + pa_params_largest(p)) * sizeof(float);
}

pa_status pa_average_open(pa_run *run, pa_err *err) {
    run->average = calloc(1, pa_average_bytes(run->params));
    if (run->average) return PA_OK;
    return pa_error(err, PA_FAIL, "no memory for the average of weights, %.1f MB",
                    (double)pa_average_bytes(run->params) * 1e-6);
}

// Room for a tensor, behind the average.
static float *tensor_of(const pa_run *run) {
    return run->average + run->params->floats;
}

pa_status pa_average_begin(const pa_run *run, pa_err *err) {
    pa_status s = PA_OK;
    for (int t = 0; t < run->params->count && !s; t++)
        s = run->backend->read(run->ctx, PA_PARAM, t, run->average + run->params->row[t].offset, err);
    return s;
}

pa_status pa_average_add(const pa_run *run, int64_t step, pa_err *err) {
    if (step % PA_AVERAGE_EVERY) return PA_OK;
    const double decay = fmin(run->config->train.ema, (1 + (double)step) / (10 + (double)step));
    const float share = (float)(1 - pow(decay, PA_AVERAGE_EVERY));
    const float *weight = tensor_of(run);
    pa_status s = PA_OK;
    for (int t = 0; t < run->params->count && !s; t++) {
        const size_t size = run->params->row[t].size;
        float *average = run->average + run->params->row[t].offset;
        s = run->backend->read(run->ctx, PA_PARAM, t, tensor_of(run), err);
        for (size_t i = 0; i < size && !s; i++) average[i] += share * (weight[i] - average[i]);
    }
    return s;
}

pa_status pa_average_swap(const pa_run *run, pa_err *err) {
    pa_status s = PA_OK;
    for (int t = 0; t < run->params->count && !s; t++) {
        float *average = run->average + run->params->row[t].offset;
        s = run->backend->read(run->ctx, PA_PARAM, t, tensor_of(run), err);
        if (!s) s = run->backend->write(run->ctx, PA_PARAM, t, average, err);
        memcpy(average, tensor_of(run), run->params->row[t].size * sizeof *average);
    }
    return s;
}
