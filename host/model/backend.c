// backend.c: which backend --device means.
#include "host/model/backend.h"

#include <stdio.h>
#include <string.h>

pa_status pa_backend_choose(const char *device, const pa_backend **backend, pa_err *err) {
    *backend = pa_backend_cpu();
    if (!strcmp(device, "cpu")) return PA_OK;
    if (!strcmp(device, "cuda")) {
        *backend = pa_backend_cuda();
        return PA_OK;
    }
    if (strcmp(device, "auto"))
        return pa_error(err, PA_USAGE, "--device: expected auto, cpu or cuda, found \"%s\"", device);
#ifdef PA_WITH_CUDA
    pa_err why;
    if (!pa_backend_cuda()->check_machine(&why))
        *backend = pa_backend_cuda();
    else
        fprintf(stderr, "%s; on the CPU\n", why.text);
#endif
    return PA_OK;
}
