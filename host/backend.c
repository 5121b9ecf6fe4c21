// backend.c: which backend --device means.
#include "host/backend.h"

#include <string.h>

pa_status pa_backend_choose(const char *device, const pa_backend **backend, pa_err *err) {
    *backend = NULL;
    if (!strcmp(device, "cuda")) return pa_error(err, PA_USAGE, "--device cuda: this build has no CUDA backend; expected auto or cpu");
    if (strcmp(device, "auto") && strcmp(device, "cpu"))
        return pa_error(err, PA_USAGE, "--device: expected auto, cpu or cuda, found \"%s\"", device);
    *backend = pa_backend_cpu();
    return PA_OK;
}
