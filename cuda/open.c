// open.c: pa_backend_cuda: which GPU and type compute.
#include <stdlib.h>

#include "cuda/device.h"
#include "cuda/table.h"
#include "host/model/walk.h"

// CUDA 13 needs driver 580 or newer, whichever its minor version.
static pa_status driver_error(pa_err *err) {
    int knows = 0;
    cudaDriverGetVersion(&knows);
    if (!knows) return pa_error(err, PA_FAIL, "CUDA: no NVIDIA driver here; this build needs CUDA 13's, 580 or newer");
    return pa_error(err, PA_FAIL, "CUDA: the NVIDIA driver is of CUDA %d.%d; this build needs CUDA 13's, 580 or newer",
                    knows / 1000, knows % 1000 / 10);
}

pa_status cuda_check(cudaError_t status, const char *what, pa_err *err) {
    switch (status) {
    case cudaSuccess:
        return PA_OK;
    case cudaErrorNoDevice:
        if (getenv("CUDA_VISIBLE_DEVICES"))
            return pa_error(err, PA_FAIL, "CUDA: no such GPU: CUDA_VISIBLE_DEVICES is \"%s\"",
                            getenv("CUDA_VISIBLE_DEVICES"));
        return pa_error(err, PA_FAIL, "CUDA: no GPU here");
    case cudaErrorInsufficientDriver:
        return driver_error(err);
    case cudaErrorMemoryAllocation:
        return pa_error(err, PA_FAIL, "CUDA: out of memory while %s", what);
    case cudaErrorECCUncorrectable:
        return pa_error(err, PA_FAIL,
                        "CUDA: the GPU's memory had an uncorrectable error while %s; the last checkpoint is whole",
                        what);
    default:
        return pa_error(err, PA_FAIL, "CUDA: %s while %s (%s); the last checkpoint is whole",
                        cudaGetErrorString(status), what, cudaGetErrorName(status));
    }
}

pa_status cuda_wait(pa_device *d, const char *what, pa_err *err) {
    if (!d->stream) return PA_OK;
    cudaError_t status = cudaGetLastError();
    pa_status s = PA_OK;
    if (!status && d->ranks)
        s = cuda_ranks_wait(d->ranks, d->stream, &status, err);
    else if (!status)
        status = cudaStreamSynchronize(d->stream);
    return s ? s : cuda_check(status, what, err);
}

static pa_status cuda_check_machine(pa_err *err) {
    int count = 0;
    pa_status s = cuda_check(cudaGetDeviceCount(&count), "looking for a GPU", err);
    if (s) cudaGetLastError();
    return s ? s : count ? PA_OK : cuda_check(cudaErrorNoDevice, "looking for a GPU", err);
}

// Without a GPU the plan is still printed, for one that has bf16.
static pa_status choose_type(pa_device *d, pa_precision precision, const struct cudaDeviceProp *p, pa_err *err) {
    bool bf16 = p->major >= 8;
    switch (precision) {
    case PA_PRECISION_FP32:
        d->type = PA_TYPE_F32;
        break;
    case PA_PRECISION_FP16:
        d->type = PA_TYPE_F16;
        break;
    case PA_PRECISION_BF16:
        if (!bf16) return pa_error(err, PA_USAGE, "precision: %s has no bf16; expected auto, fp16 or fp32", p->name);
        d->type = PA_TYPE_BF16;
        break;
    default:
        d->type = bf16 ? PA_TYPE_BF16 : PA_TYPE_F16;
    }
    return PA_OK;
}

// Ranks take one GPU each; a rank that is shown only one takes that.
static pa_status choose_device(pa_device *d, struct cudaDeviceProp *p, pa_err *err) {
    int devices = 1;
    d->missing = cuda_check_machine(&d->absent);
    if (d->missing) return PA_OK;
    pa_status s = cuda_check(cudaGetDeviceCount(&devices), "counting GPUs", err);
    if (s) return s;
    int device = d->comm->local_rank % devices;
    s = cuda_check(cudaSetDevice(device), "choosing the GPU", err); // before anything makes a context
    if (!s) s = cuda_check(cudaGetDeviceProperties(p, device), "asking for the GPU's properties", err);
    if (!s && p->major * 10 + p->minor < 75)
        s = pa_error(err, PA_FAIL, "CUDA: %s has compute capability %d.%d; this build needs 7.5 or newer", p->name,
                     p->major, p->minor);
    return s;
}

static pa_status mark(pa_device *d, int i, pa_err *err) {
    if (i >= d->marks) {
        int marks = d->marks ? 2 * d->marks : 512;
        cudaEvent_t *grown = realloc(d->mark, (size_t)marks * sizeof *grown);
        if (!grown) return pa_error(err, PA_FAIL, "no memory for a trace");
        d->mark = grown;
        for (; d->marks < marks; d->marks++) {
            cudaError_t e = cudaEventCreate(&d->mark[d->marks]);
            if (e) return cuda_check(e, "making events", err);
        }
    }
    return cuda_check(cudaEventRecord(d->mark[i], d->stream), "tracing", err);
}

static double marked(pa_device *d, int i) {
    float ms = 0;
    cudaEventElapsedTime(&ms, d->mark[0], d->mark[i]);
    return ms * 1e-3;
}

static pa_status prepare(pa_device *d, const pa_open *o, pa_device_info *info, pa_err *err) {
    const pa_model *m = &o->params->model;
    struct cudaDeviceProp p = {.name = "a GPU (none found)", .major = 8};
    pa_status s = choose_device(d, &p, err);
    if (s || (s = choose_type(d, o->precision, &p, err))) return s;
    if (m->dim_head % 8 || m->dim_head > 128)
        return pa_error(err, PA_USAGE,
                        "model.dim_head: expected a multiple of 8 up to 128 with --device cuda, found %d", m->dim_head);
    if (!d->missing && cuda_attend_pays(pa_latents(m), m->dim_head))
        d->attend = cuda_attend_create(o->deterministic, !o->comm->rank);
    d->flag_bytes = o->training ? cuda_flag_bytes(o->params->floats, o->comm->size) : 0;
    if (d->wants_ranks && (s = pa_comm_set_bucket(o->comm, CUDA_BUCKET, err))) return s;
    const size_t sums = d->sum_bf16 ? cuda_sum_bytes(pa_comm_bucket(o->comm)) : 0;
    *info = (pa_device_info){.type = d->type,
                             .align = CUDA_ALIGN,
                             .multiple = cuda_multiple(o->comm->size),
                             .workspace = CUDA_MATMUL_WORKSPACE + d->flag_bytes + sums,
                             .fuses = true,
                             .muon = d->type,
                             .ranks = d->wants_ranks,
                             .row = 8,
                             .adds = true,
                             .own_apart = true,
                             .mark = mark,
                             .marked = marked};
    info->hardware.threads = 1;
    snprintf(info->hardware.name, sizeof info->hardware.name, "%.*s", (int)sizeof info->hardware.name - 1, p.name);
    snprintf(info->hardware.instruction_set, sizeof info->hardware.instruction_set, "sm_%d%d", p.major, p.minor);
    snprintf(info->name, sizeof info->name, "%.*s", (int)sizeof info->name - 1, p.name);
    return PA_OK;
}

static pa_status cuda_open(pa_context **out, const pa_open *o, pa_err *err) {
    *out = NULL;
    pa_device_info info;
    pa_device *d = calloc(1, sizeof *d);
    if (!d) return pa_error(err, PA_FAIL, "no memory");
    d->comm = o->comm;
    d->params = o->params;
    d->deterministic = o->deterministic;
    d->wants_ranks = o->training && cuda_ranks_wanted(o->comm);
    d->sum_bf16 = d->wants_ranks && o->sum_bf16;
    pa_status s = prepare(d, o, &info, err);
    if (!s) return pa_context_open(out, o, &cuda_table, d, &info, err);
    cuda_table.close(d);
    return s;
}

const pa_backend *pa_backend_cuda(void) {
    static const pa_backend backend = {.name = "cuda",
                                       .own_transport = true,
                                       .check_machine = cuda_check_machine,
                                       .open = cuda_open,
                                       .stage = pa_context_stage,
                                       PA_WALK};
    return &backend;
}
