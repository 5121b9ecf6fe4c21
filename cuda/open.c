// open.c: the CUDA backend's device and memory: every arena is sized, printed and taken here, and nowhere else. Also tensors in and out.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/context.h"

// CUDA 13 needs driver 580 or newer, whichever its minor version.
static pa_status driver_error(pa_err *err) {
    int knows = 0;
    cudaDriverGetVersion(&knows);
    if (!knows) return pa_error(err, PA_FAIL, "CUDA: no NVIDIA driver here; this build needs CUDA 13's, 580 or newer");
    return pa_error(err, PA_FAIL, "CUDA: the NVIDIA driver is of CUDA %d.%d; this build needs CUDA 13's, 580 or newer", knows / 1000,
                    knows % 1000 / 10);
}

pa_status cuda_check(cudaError_t status, const char *what, pa_err *err) {
    switch (status) {
    case cudaSuccess:
        return PA_OK;
    case cudaErrorNoDevice:
        if (getenv("CUDA_VISIBLE_DEVICES"))
            return pa_error(err, PA_FAIL, "CUDA: no such GPU: CUDA_VISIBLE_DEVICES is \"%s\"", getenv("CUDA_VISIBLE_DEVICES"));
        return pa_error(err, PA_FAIL, "CUDA: no GPU here");
    case cudaErrorInsufficientDriver:
        return driver_error(err);
    case cudaErrorMemoryAllocation:
        return pa_error(err, PA_FAIL, "CUDA: out of memory while %s", what);
    case cudaErrorECCUncorrectable:
        return pa_error(err, PA_FAIL, "CUDA: the GPU's memory had an uncorrectable error while %s; the last checkpoint is whole", what);
    default:
        return pa_error(err, PA_FAIL, "CUDA: %s while %s (%s); the last checkpoint is whole", cudaGetErrorString(status), what,
                        cudaGetErrorName(status));
    }
}

pa_status cuda_wait(pa_context *c, const char *what, pa_err *err) {
    cudaError_t status = cudaGetLastError();
    pa_status s = PA_OK;
    if (!status && c->ranks)
        s = cuda_ranks_wait(c->ranks, c->stream, &status, err);
    else if (!status)
        status = cudaStreamSynchronize(c->stream);
    return s ? s : cuda_check(status, what, err);
}

static pa_status take_arenas(pa_context *c, pa_err *err) {
    for (int i = 0; i < ARENAS; i++) {
        pa_arena *a = &c->arena[i];
        a->size = a->used;
        if (!a->size) continue;
        cudaError_t status = cudaMalloc((void **)&a->base, a->size);
        size_t left = 0, all = 0;
        if (status == cudaErrorMemoryAllocation) {
            cudaGetLastError();
            cudaMemGetInfo(&left, &all);
            a->base = NULL;
            return pa_error(err, PA_FAIL,
                            "CUDA: out of memory: arena %s wants %.1f MB, %.1f of %.1f MB are free (the plan needs %.1f MB); try "
                            "train.recompute = true or a smaller train.micro_batch",
                            pa_arena_name(i), (double)a->size / 1e6, (double)left / 1e6, (double)all / 1e6,
                            (double)pa_arenas_total(c->arena) / 1e6);
        }
        pa_status s = cuda_check(status, "taking memory", err);
        if (!s) s = cuda_check(cudaMemsetAsync(a->base, 0, a->size, c->stream), "clearing memory", err);
        if (s) return s;
    }
    cuda_layout(c);
    return PA_OK;
}

static pa_status take_pinned(pa_context *c, pa_err *err) {
    pa_status s = cuda_check(cudaMallocHost((void **)&c->pinned, cuda_layout_pinned(c, NULL)), "taking pinned memory", err);
    if (!s) cuda_layout_pinned(c, c->pinned);
    return s;
}

static pa_status make_streams(pa_context *c, pa_err *err) {
    cudaError_t e = cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking);
    if (!e) e = cudaStreamCreateWithFlags(&c->copies, cudaStreamNonBlocking);
    for (int i = 0; i < 2 && !e; i++)
        if (!(e = cudaEventCreateWithFlags(&c->slot[i].sent, cudaEventDisableTiming)))
            e = cudaEventCreateWithFlags(&c->slot[i].taken, cudaEventDisableTiming);
    return cuda_check(e, "making streams", err);
}

// To the device, in the stream that computes: a plain copy from pageable memory may return before its bytes are there, and that stream
// waits for no other.
static pa_status send(pa_context *c, void *to, const void *from, size_t bytes, const char *what, pa_err *err) {
    pa_status s = cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, c->stream), what, err);
    return s ? s : cuda_wait(c, what, err);
}

// Constants: rotation angles, and which parameters decay.
static pa_status fill_tables(pa_context *c, pa_err *err) {
    const pa_model *m = &c->params->model;
    size_t half = (size_t)pa_rotary_dims(m) / 2, angles = (size_t)m->context * half, groups = c->floats / 16;
    float *table = malloc((angles * 2 + 1) * sizeof *table);
    uint8_t *decays = calloc(groups + 1, 1);
    pa_status s = table && decays ? PA_OK : pa_error(err, PA_FAIL, "no memory");
    for (size_t i = 0; !s && i < angles; i++) {
        double angle = (double)(i / half) * pow(10000, -(double)(i % half) / (double)half);
        table[2 * i] = (float)cos(angle), table[2 * i + 1] = (float)sin(angle);
    }
    for (int t = 0; !s && t < c->params->count; t++) {
        const pa_param *row = &c->params->row[t];
        if (row->decays) memset(decays + row->offset / 16, 1, (row->size + 15) / 16);
    }
    if (!s && angles) s = send(c, c->rotary_table, table, angles * 8, "copying tables", err);
    if (!s && c->decays) s = send(c, c->decays, decays, groups, "copying tables", err);
    free(table), free(decays);
    return s;
}

static void cuda_close(pa_context *c) {
    if (!c) return;
    if (c->stream) cuda_wait(c, "ending", NULL);
    if (c->copies) cudaStreamSynchronize(c->copies);
    for (int i = 0; i < c->graphs; i++)
        if (c->graph[i].run) cudaGraphExecDestroy(c->graph[i].run);
    if (c->update_graph) cudaGraphExecDestroy(c->update_graph);
    if (c->decode_graph) cudaGraphExecDestroy(c->decode_graph);
    cuda_ranks_destroy(c->ranks);
    cuda_matmul_destroy(c->mm);
    cuda_attend_destroy(c->attend);
    for (int i = 0; i < ARENAS; i++)
        if (c->arena[i].base) cudaFree(c->arena[i].base);
    if (c->pinned) cudaFreeHost(c->pinned);
    for (int i = 0; i < 2; i++) {
        if (c->slot[i].sent) cudaEventDestroy(c->slot[i].sent);
        if (c->slot[i].taken) cudaEventDestroy(c->slot[i].taken);
    }
    if (c->stream) cudaStreamDestroy(c->stream);
    if (c->copies) cudaStreamDestroy(c->copies);
    free(c->saved), free(c->scale_at);
    free(c->cache);
    free(c->z);
    free(c);
}

static pa_status cuda_present(pa_err *err) {
    int count = 0;
    pa_status s = cuda_check(cudaGetDeviceCount(&count), "looking for a GPU", err);
    if (s) cudaGetLastError();
    return s ? s : count ? PA_OK : cuda_check(cudaErrorNoDevice, "looking for a GPU", err);
}

// Without a GPU the plan is still made, for one that has bf16.
static pa_status choose_type(pa_context *c, const struct cudaDeviceProp *p, pa_err *err) {
    bool bf16 = p->major >= 8;
    switch (c->open.precision) {
    case PA_PRECISION_FP32:
        c->type = CUDA_F32;
        break;
    case PA_PRECISION_FP16:
        c->type = CUDA_F16;
        break;
    case PA_PRECISION_BF16:
        if (!bf16) return pa_error(err, PA_USAGE, "precision: %s has no bf16; expected auto, fp16 or fp32", p->name);
        c->type = CUDA_BF16;
        break;
    default:
        c->type = bf16 ? CUDA_BF16 : CUDA_F16;
    }
    return PA_OK;
}

static const char *precision_name(const pa_context *c) {
    return c->type == CUDA_F32 ? "fp32" : c->type == CUDA_BF16 ? "bf16" : "fp16";
}

static pa_status prepare(pa_context *c, pa_err *err) {
    const pa_model *m = &c->params->model;
    struct cudaDeviceProp properties = {.name = "a GPU, none is here", .major = 8};
    pa_err absent;
    pa_status present = cuda_present(&absent), s = PA_OK;
    int devices = 1, device = 0; // one a rank; where each rank is shown one alone, that
    if (!present) s = cuda_check(cudaGetDeviceCount(&devices), "counting GPUs", err);
    device = c->open.comm->local_rank % devices;
    if (!present && !s) s = cuda_check(cudaSetDevice(device), "choosing the GPU", err); // before anything makes a context
    if (!present && !s) s = cuda_check(cudaGetDeviceProperties(&properties, device), "asking for the GPU's properties", err);
    if (!present && !s && properties.major * 10 + properties.minor < 75)
        s = pa_error(err, PA_FAIL, "CUDA: %s has compute capability %d.%d; this build needs 7.5 or newer", properties.name,
                     properties.major, properties.minor);
    if (s || (s = choose_type(c, &properties, err))) return s;
    if (c->open.int8 && c->open.training)
        return pa_error(err, PA_USAGE, "weights of 8 bits are for evaluation and generation, not for training");
    if (m->dim_head % 8 || m->dim_head > 128)
        return pa_error(err, PA_USAGE, "model.dim_head: expected a multiple of 8 up to 128 with --device cuda, found %d", m->dim_head);
    if (!present && cuda_attend_pays(m->context - m->prefix, m->dim_head)) c->attend = cuda_attend_create();
    cuda_layout(c);
    if (c->open.plan) pa_arenas_print(c->arena, precision_name(c), properties.name, c->open.plan);
    if (c->open.plan_only) return PA_OK;
    if (present) return err ? *err = absent, present : present;
    if ((s = make_streams(c, err)) || (s = take_arenas(c, err)) || (s = take_pinned(c, err))) return s;
    if (c->open.training && cuda_ranks_wanted(c->open.comm) && (s = cuda_ranks_create(&c->ranks, c->open.comm, err))) return s;
    if ((s = cuda_matmul_create(&c->mm, c->stream, c->workspace, !c->open.deterministic, err))) return s;
    return fill_tables(c, err);
}

static pa_status cuda_open(pa_context **out, const pa_open *o, pa_err *err) {
    *out = NULL;
    pa_context *c = calloc(1, sizeof *c);
    if (!c) return pa_error(err, PA_FAIL, "no memory");
    c->open = *o;
    c->params = o->params;
    size_t multiple = 16 * (size_t)o->comm->size;
    c->floats = (o->params->floats + multiple - 1) / multiple * multiple;
    c->shared = o->training && o->zero && o->comm->size > 1;
    c->own = c->shared ? pa_comm_share_floats(o->comm, c->floats) : c->floats;
    c->softmax_scale = 1 / sqrtf((float)o->params->model.dim_head);
    c->blocks = o->params->model.perceive_depth + o->params->model.depth;
    c->saved = calloc((size_t)c->blocks, sizeof *c->saved);
    c->cache = calloc((size_t)c->blocks, sizeof *c->cache);
    c->z = calloc((size_t)c->blocks + 1, sizeof *c->z);
    c->scale_at = calloc((size_t)o->params->count, sizeof *c->scale_at);
    pa_status s = c->saved && c->cache && c->z && c->scale_at ? prepare(c, err) : pa_error(err, PA_FAIL, "no memory");
    c->loss_scaling = c->type == CUDA_F16 ? 65536 : 1;
    if (s || o->plan_only)
        cuda_close(c);
    else
        *out = c;
    return s;
}

static bool is_shared(const pa_context *c, pa_kind kind) {
    return c->shared && (kind == PA_MOMENT1 || kind == PA_MOMENT2);
}

// This rank's part of a moment, to (`out`) or from the host's whole tensor.
static pa_status copy_shares(pa_context *c, pa_kind kind, int t, float *out, const float *in, pa_err *err) {
    const pa_param *row = &c->params->row[t];
    const pa_comm *comm = c->open.comm;
    float *device = kind == PA_MOMENT1 ? c->moment1 : c->moment2;
    pa_status s = PA_OK;
    for (size_t b = 0, at = 0; b < pa_comm_buckets(comm, c->floats) && !s; b++) {
        pa_span own = pa_comm_share(comm, c->floats, b, comm->rank);
        size_t from = own.from > row->offset ? own.from : row->offset, end = row->offset + row->size, to = own.to < end ? own.to : end;
        float *there = device + at + (from - own.from);
        size_t bytes = from < to ? (to - from) * 4 : 0;
        if (bytes && out)
            s = cuda_check(cudaMemcpy(out + (from - row->offset), there, bytes, cudaMemcpyDeviceToHost), "copying moments", err);
        if (bytes && !out) s = send(c, there, in + (from - row->offset), bytes, "copying moments", err);
        at += own.to - own.from;
    }
    return s;
}

static float *tensor(pa_context *c, pa_kind kind, int t) {
    float *base = kind == PA_PARAM ? c->param : kind == PA_GRAD ? c->grad : kind == PA_MOMENT1 ? c->moment1 : c->moment2;
    return base && t >= 0 && t < c->params->count ? base + c->params->row[t].offset : NULL;
}

static pa_status cuda_read(pa_context *c, pa_kind kind, int t, float *out, pa_err *err) {
    const float *from = tensor(c, kind, t);
    if (!from) return pa_error(err, PA_USAGE, "read: no tensor %d of kind %d here", t, (int)kind);
    pa_status s = cuda_wait(c, "finishing work before reading a tensor", err);
    size_t n = c->params->row[t].size, offset = c->params->row[t].offset;
    if (!s && is_shared(c, kind)) {
        if ((s = copy_shares(c, kind, t, out, NULL, err))) return s;
        return pa_comm_gather_part(c->open.comm, NULL, c->floats, offset, offset + n, out, err);
    }
    if (!s) s = cuda_check(cudaMemcpy(out, from, n * 4, cudaMemcpyDeviceToHost), "reading a tensor", err);
    // Gradients are kept times the loss scaling, a power of two.
    for (size_t i = 0; !s && kind == PA_GRAD && c->loss_scaling != 1 && i < n; i++) out[i] /= c->loss_scaling;
    return s;
}

static pa_status cuda_write(pa_context *c, pa_kind kind, int t, const float *in, pa_err *err) {
    float *to = tensor(c, kind, t);
    if (!to) return pa_error(err, PA_USAGE, "write: no tensor %d of kind %d here", t, (int)kind);
    if (is_shared(c, kind)) return copy_shares(c, kind, t, NULL, in, err);
    size_t n = c->params->row[t].size;
    float *scaled = NULL;
    if (kind == PA_GRAD && c->loss_scaling != 1) {
        if (!(scaled = malloc(n * 4))) return pa_error(err, PA_FAIL, "no memory to write a gradient");
        for (size_t i = 0; i < n; i++) scaled[i] = in[i] * c->loss_scaling;
    }
    pa_status s = send(c, to, scaled ? scaled : in, n * 4, "writing a tensor", err);
    free(scaled);
    if (kind == PA_PARAM) c->weight_stale = true;
    return s;
}

static size_t cuda_memory(const pa_context *c) {
    return pa_arenas_total(c->arena);
}

static pa_precision cuda_precision(const pa_context *c) {
    return c->type == CUDA_F32 ? PA_PRECISION_FP32 : c->type == CUDA_BF16 ? PA_PRECISION_BF16 : PA_PRECISION_FP16;
}

// Numbers of either sign near 1, whatever their type: a product of zeros takes less power, and runs faster than real ones can.
static pa_status fill_numbers(pa_context *c, void *to, size_t bytes) {
    uint16_t *x = malloc(bytes);
    uint32_t state = 1;
    if (!x) return PA_FAIL;
    for (size_t i = 0; i < bytes / 2; i++)
        state = state * 1664525 + 1013904223, x[i] = (uint16_t)(0x3c00 | state >> 31 << 15 | (state >> 16 & 0x3ff));
    pa_status s = send(c, to, x, bytes, "copying numbers", NULL);
    free(x);
    return s;
}

// The best of a few products of 4096^3 (512^3 in the emulator), some at a time; 0 where that fails.
static double cuda_peak(pa_context *c) {
#ifdef PA_EMULATOR
    enum { n = 512, EACH = 1 };
#else
    enum { n = 4096, EACH = 8 };
#endif
    void *a = NULL, *b = NULL, *y = NULL;
    size_t bytes = (size_t)n * n * cuda_size(c->type);
    cuda_product p = {.m = n, .n = n, .k = n, .a = c->type, .b = c->type, .c = c->type};
    if (!cudaMalloc(&a, bytes) && !cudaMalloc(&b, bytes) && !cudaMalloc(&y, bytes) && !fill_numbers(c, a, bytes) &&
        !fill_numbers(c, b, bytes))
        for (int i = 0; i < 8; i++) {
            double start = pa_clock();
            pa_status s = PA_OK;
            for (int k = 0; k < EACH && !s; k++) s = cuda_matmul_run(c->mm, &p, a, b, y, NULL);
            if (s || cudaStreamSynchronize(c->stream)) break;
            double rate = EACH * 2.0 * n * n * n / (pa_clock() - start);
            if (rate > c->peak) c->peak = rate;
        }
    cudaFree(a), cudaFree(b), cudaFree(y);
    cudaGetLastError();
    return c->peak;
}

static void cuda_describe(const pa_context *c, pa_hardware *device) {
    struct cudaDeviceProp p;
    int devices = 0;
    *device = (pa_hardware){.name = "unknown", .threads = 1};
    if (cudaGetDeviceCount(&devices) || !devices || cudaGetDeviceProperties(&p, c->open.comm->local_rank % devices)) return;
    snprintf(device->name, sizeof device->name, "%s", p.name);
    snprintf(device->instruction_set, sizeof device->instruction_set, "sm_%d%d", p.major, p.minor);
}

const pa_backend *pa_backend_cuda(void) {
    static const pa_backend backend = {.name = "cuda",
                                       .own_links = true,
                                       .present = cuda_present,
                                       .open = cuda_open,
                                       .close = cuda_close,
                                       .read = cuda_read,
                                       .write = cuda_write,
                                       .loss = cuda_loss,
                                       .loss_grad = cuda_loss_grad,
                                       .stage = cuda_stage,
                                       .update = cuda_update,
                                       .prefill = cuda_prefill,
                                       .decode = cuda_decode,
                                       .scaling = cuda_scaling,
                                       .memory = cuda_memory,
                                       .peak = cuda_peak,
                                       .describe = cuda_describe,
                                       .precision = cuda_precision};
    return &backend;
}
