// plan.c: pa_backend_cuda in builds without CUDA: it prints the memory plan for a GPU with bf16 and can do nothing
// else.
#include <stdlib.h>

#include "cuda/sizes.h"
#include "host/model/walk.h"

static size_t attn_work(pa_device *d, const pa_attn *a, bool back) {
    (void)d;
    (void)back;
    return cuda_attn_work(a);
}

static size_t decode_work(pa_device *d, int streams, int heads, int dim_head, int capacity) {
    (void)d;
    (void)capacity;
    return cuda_attn_decode_work(streams, heads, dim_head);
}

static size_t norm_work(pa_device *d, int width) {
    (void)d;
    return cuda_norm_work(width);
}

static size_t sum_work(pa_device *d) {
    (void)d;
    return cuda_sum_squares_work();
}

static pa_status wait_for_nothing(pa_device *d, const char *what, pa_err *err) {
    (void)d;
    (void)what;
    (void)err;
    return PA_OK;
}

static void close_nothing(pa_device *d) {
    (void)d;
}

static pa_status not_built(pa_err *err) {
    return pa_error(err, PA_USAGE, "--device cuda: this build has no CUDA backend; expected auto or cpu");
}

static pa_status open_plan(pa_context **out, const pa_open *o, pa_err *err) {
    static const pa_ops table = {.name = "cuda",
                                 .attn_work = attn_work,
                                 .decode_work = decode_work,
                                 .norm_work = norm_work,
                                 .sum_work = sum_work,
                                 .wait = wait_for_nothing,
                                 .close = close_nothing};
    const pa_model *m = &o->params->model;
    *out = NULL;
    if (!o->plan_only) return not_built(err);
    if (m->dim_head % 8 || m->dim_head > 128)
        return pa_error(err, PA_USAGE,
                        "model.dim_head: expected a multiple of 8 up to 128 with --device cuda, found %d", m->dim_head);
    pa_type type = o->precision == PA_PRECISION_FP32   ? PA_TYPE_F32
                   : o->precision == PA_PRECISION_FP16 ? PA_TYPE_F16
                                                       : PA_TYPE_BF16;
    size_t flags = o->training ? cuda_flag_bytes(o->params->floats, o->comm->size) : 0, sums = 0;
    pa_status s = o->training ? pa_comm_set_bucket(o->comm, CUDA_BUCKET, err) : PA_OK;
    if (s) return s;
    if (o->training && o->sum_bf16 && o->comm->size > 1) sums = cuda_sum_bytes(pa_comm_bucket(o->comm));
    const pa_device_info info = {.name = "a GPU (none found)",
                                 .type = type,
                                 .align = CUDA_ALIGN,
                                 .multiple = cuda_multiple(o->comm->size),
                                 .workspace = CUDA_MATMUL_WORKSPACE + flags + sums,
                                 .muon = type,
                                 .row = 8,
                                 .own_apart = true};
    return pa_context_open(out, o, &table, NULL, &info, err);
}

const pa_backend *pa_backend_cuda(void) {
    static const pa_backend backend = {
        .name = "cuda", .own_transport = true, .check_machine = not_built, .open = open_plan, PA_WALK};
    return &backend;
}
