// library.c: see library.h.
#include "host/play/library.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/base/file.h"

pa_status pa_from_library(patrain_status status, const patrain_error *error, pa_err *err) {
    return status ? pa_error(err, (pa_status)status, "%s", error->text) : PA_OK;
}

const char *pa_choose_device(const char *device) {
    patrain_error why;
    if (strcmp(device, "auto")) return device;
    patrain_status s = patrain_device_check("cuda", &why);
    if (s == PATRAIN_OK) return "cuda";
    if (s == PATRAIN_FAILED) fprintf(stderr, "%s; on the CPU\n", why.text);
    return "cpu";
}

void pa_precision_text(const patrain_options *o, char *text, size_t size) {
    snprintf(text, size, "%s%s", o->precision, o->int8 ? ", int8 weights" : "");
}

pa_status pa_check_encoding(const pa_token_set *t, const patrain_model *model, const char *list, pa_err *err) {
    const patrain_model_info *m = patrain_model_describe(model);
    if (m->foreign || t->encoding == (pa_encoding)m->encoding) return PA_OK;
    return pa_error(err, PA_DATA, "%s: encoding: expected %s, that of %s, found %s", list,
                    pa_encoding_name((pa_encoding)m->encoding), m->path, pa_encoding_name(t->encoding));
}

pa_status pa_open_tokens(pa_token_set *t, const patrain_model *model, const char *list, pa_err *err) {
    pa_status s = pa_token_set_open(t, list, false, err);
    if (!s && (s = pa_check_encoding(t, model, list, err))) pa_token_set_close(t);
    return s;
}

pa_status pa_check_spares(const char *option, const char *path, const char *what, const char *input, pa_err *err) {
    if (!input || !pa_same_file(input, path)) return PA_OK;
    return pa_error(err, PA_USAGE, "--%s: expected another file than %s, found %s", option, what, path);
}

static bool has(const char *folder, const char *name) {
    char path[4096 + 32];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return !access(path, F_OK);
}

static bool is_run(const char *folder) {
    return has(folder, "state.safetensors") ||
           (has(folder, "checkpoints") && has(folder, "samples") && has(folder, "config.ini"));
}

pa_status pa_check_spares_runs(const char *option, const char *path, pa_err *err) {
    enum { LEVELS = 3 }; // RUN/checkpoints/step-00000100/model.safetensors
    char *folder = realpath(path, NULL);
    bool found = false;
    for (int i = 0; folder && i < LEVELS && !found; i++) {
        char *slash = strrchr(folder, '/');
        *slash = 0;
        if (slash == folder) break;
        found = is_run(folder);
    }
    free(folder);
    if (!found) return PA_OK;
    return pa_error(err, PA_USAGE, "--%s: expected a new file or one outside run directories, found %s", option, path);
}
