// inference.c: see inference.h.
#include "host/play/inference.h"

#include <string.h>

#include "host/base/file.h"

static const char *const precision_name[] = {"auto", "fp32", "bf16", "fp16"}; // in the order of pa_precision

pa_status pa_inference_open(pa_inference *x, const char *checkpoint, const char *config, const char *device, pa_err *err) {
    *x = (pa_inference){.comm = pa_comm_single()};
    pa_status s = pa_backend_choose(device, &x->backend, err);
    if (!s) s = pa_weights_open(&x->weights, checkpoint, config, NULL, err);
    if (!s) s = pa_params_init(&x->params, &x->weights.model, err);
    return s;
}

pa_status pa_inference_start(pa_inference *x, const char *precision, bool int8, int max_batch, int streams, pa_err *err) {
    pa_open o = {.params = &x->params, .int8 = int8, .max_batch = max_batch, .streams = streams, .comm = &x->comm};
    o.deterministic = true; // the same seed, checkpoint and device give the same music
    while (strcmp(precision_name[o.precision], precision))
        if (++o.precision > PA_PRECISION_FP16)
            return pa_error(err, PA_USAGE, "--precision: expected auto, fp32, bf16 or fp16, found %s", precision);
    x->int8 = int8;
    pa_status s = x->backend->open(&x->ctx, &o, err);
    return s ? s : pa_weights_load(&x->weights, &x->params, x->backend, x->ctx, err);
}

void pa_inference_close(pa_inference *x) {
    if (x->ctx) x->backend->close(x->ctx);
    pa_params_clear(&x->params);
    pa_weights_close(&x->weights);
    x->ctx = NULL;
}

pa_status pa_inference_tokens(const pa_inference *x, pa_token_set *t, const char *list, pa_err *err) {
    pa_status s = pa_token_set_open(t, list, false, err);
    if (s || x->weights.foreign || t->encoding == x->weights.encoding) return s;
    s = pa_error(err, PA_DATA, "%s: encoding: expected %s, that of %s, found %s", list, pa_encoding_name(x->weights.encoding),
                 x->weights.path, pa_encoding_name(t->encoding));
    pa_token_set_close(t);
    return s;
}

const char *pa_inference_precision(const pa_inference *x) {
    static const char *const rounded[] = {"", "fp32, int8 weights", "bf16, int8 weights", "fp16, int8 weights"};
    return (x->int8 ? rounded : precision_name)[x->backend->precision(x->ctx)];
}

pa_status pa_check_spares(const char *option, const char *path, const char *what, const char *input, pa_err *err) {
    if (!input || !pa_same_file(input, path)) return PA_OK;
    return pa_error(err, PA_USAGE, "--%s: expected another file than %s, found %s", option, what, path);
}
