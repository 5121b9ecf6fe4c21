// engine.c: see engine.h.
#include "host/lib/engine.h"

#include <omp.h>
#include <string.h>

#include "host/lib/spin.h"

static const char *const precision_name[] = {"auto", "fp32", "bf16", "fp16"}; // in the order of pa_precision

pa_threads pa_engine_enter(const pa_engine *e) {
    return pa_threads_enter(e->options.threads);
}

static pa_status check_device(const char *device, const pa_backend **backend, pa_err *err) {
    if (strcmp(device, "cpu") && strcmp(device, "cuda"))
        return pa_error(err, PA_USAGE, "device: expected auto, cpu or cuda, found %s", device);
    pa_status s = pa_backend_choose(device, backend, err);
    return s ? s : (*backend)->check_machine(err);
}

static pa_status choose_device(const char *device, const pa_backend **backend, pa_err *err) {
    if (strcmp(device, "auto")) return check_device(device, backend, err);
    return check_device("cuda", backend, NULL) ? pa_backend_choose("cpu", backend, err) : PA_OK;
}

patrain_status patrain_device_check(const char *device, patrain_error *error) {
    pa_err err = {""};
    const pa_backend *backend;
    return pa_lib_result(check_device(device, &backend, &err), &err, error);
}

static pa_status choose_precision(const char *name, pa_precision *precision, pa_err *err) {
    for (int i = 0; i < 4; i++) {
        *precision = (pa_precision)i;
        if (!strcmp(name, precision_name[i])) return PA_OK;
    }
    return pa_error(err, PA_USAGE, "precision: expected auto, fp32, bf16 or fp16, found %s", name);
}

pa_status pa_engine_options(patrain_options *o, const patrain_options *given, pa_err *err) {
    const struct {
        const char *name;
        const int *value;
    } count[] = {{"threads", &o->threads}, {"sequences", &o->sequences}, {"batch", &o->batch}};
    pa_status s = given ? pa_lib_size("patrain_options", given->size, sizeof *given, err) : PA_OK;
    if (s) return s;
    *o = given ? *given : (patrain_options){.size = sizeof *o};
    for (size_t i = 0; i < sizeof count / sizeof *count; i++)
        if (*count[i].value < 0)
            return pa_error(err, PA_USAGE, "%s: expected 1 or more, or 0 for the default, found %d", count[i].name,
                            *count[i].value);
    if (!o->device) o->device = "auto";
    if (!o->precision) o->precision = "auto";
    o->int8 = o->int8 != 0;
    if (!o->threads) o->threads = omp_get_max_threads();
    return PA_OK;
}

pa_status pa_engine_open(pa_engine *e, const patrain_model *m, const patrain_options *options, int batch, int sequences,
                         pa_err *err) {
    e->model = m;
    e->comm = pa_comm_single();
    pa_open open = {.params = &m->params, .max_batch = batch, .streams = sequences, .comm = &e->comm};
    open.deterministic = true; // the same seed, model and device give the same music
    pa_status s = pa_engine_options(&e->options, options, err);
    if (!s) s = choose_precision(e->options.precision, &open.precision, err);
    if (!s) s = choose_device(e->options.device, &e->backend, err);
    if (s) return s;
    open.int8 = e->options.int8;
    pa_spin_briefly();
    pa_threads before = pa_engine_enter(e);
    s = e->backend->open(&e->ctx, &open, err);
    if (!s) s = pa_weights_load(&m->weights, &m->params, e->backend, e->ctx, err);
    pa_threads_leave(before);
    if (s) return s;
    e->options.device = e->backend->name;
    e->options.precision = precision_name[e->backend->precision(e->ctx)];
    e->options.sequences = sequences;
    e->options.batch = batch;
    return PA_OK;
}

void pa_engine_close(pa_engine *e) {
    if (e->ctx) e->backend->close(e->ctx);
    e->ctx = NULL;
}
