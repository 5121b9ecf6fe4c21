// table.c: see table.h. The kernels in the device's stream; memory, copies, waiting and sums over ranks.
#include "cuda/table.h"

#include <stdlib.h>
#include <string.h>

#include "cuda/device.h"
#include "cuda/replay.h"

static void attn_fwd(pa_device *d, const pa_attn *a, void *o, float *lse, pa_work work) {
    if (work.rare)
        cuda_attn_fwd(d->stream, a, o, lse); // not worth a trial of cuDNN
    else
        cuda_attend_fwd(d->attend, d->stream, a, o, lse, work);
}

static void attn_bwd(pa_device *d, const pa_attn *a, const pa_attn_grads *g, pa_work work) {
    if (work.rare)
        cuda_attn_bwd(d->stream, a, g, work.at);
    else
        cuda_attend_bwd(d->attend, d->stream, a, g, work);
}

static size_t attn_work(pa_device *d, const pa_attn *a, bool back) {
    return cuda_attend_work(d->attend, a, back);
}

static size_t decode_work(pa_device *d, int streams, int heads, int dim_head, int capacity) {
    (void)d;
    (void)capacity;
    return cuda_attn_decode_work(streams, heads, dim_head);
}

static pa_status cache_rows(pa_device *d, const pa_cache_rows *a, pa_err *err) {
    size_t D = (size_t)a->dim_head, H = (size_t)a->heads, size = pa_size(a->type), pitch = (size_t)a->ld * size;
    cudaError_t e = cudaSuccess;
    for (size_t h = 0; h < H && !e; h++) {
        size_t to = ((size_t)a->stream * H + h) * (size_t)a->capacity * D * size, from = h * D * size;
        e = cudaMemcpy2DAsync((char *)a->cache_k + to, D * size, (const char *)a->k + from, pitch, D * size,
                              (size_t)a->rows, cudaMemcpyDeviceToDevice, d->stream);
        if (!e)
            e = cudaMemcpy2DAsync((char *)a->cache_v + to, D * size, (const char *)a->v + from, pitch, D * size,
                                  (size_t)a->rows, cudaMemcpyDeviceToDevice, d->stream);
    }
    return cuda_check(e, "filling a cache", err);
}

static size_t norm_work(pa_device *d, int width) {
    (void)d;
    return cuda_norm_work(width);
}

static size_t sum_work(pa_device *d) {
    (void)d;
    return cuda_sum_squares_work();
}

static pa_status product(pa_device *d, const pa_product *p, const void *a, const void *b, void *c, pa_err *err) {
    return cuda_matmul_run(d->mm, p, a, b, c, err);
}

static pa_status start(pa_device *d, pa_err *err) {
    if (d->missing) {
        if (err) *err = d->absent;
        return d->missing;
    }
    cudaError_t e = cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking);
    if (!e) e = cudaStreamCreateWithFlags(&d->copies, cudaStreamNonBlocking);
    for (int i = 0; i < 2 && !e; i++) {
        e = cudaEventCreateWithFlags(&d->slot[i].sent, cudaEventDisableTiming);
        if (!e) e = cudaEventCreateWithFlags(&d->slot[i].taken, cudaEventDisableTiming);
    }
    return cuda_check(e, "making streams", err);
}

static pa_status take(pa_device *d, const char *arena, size_t bytes, size_t plan, void **base, pa_err *err) {
    cudaError_t status = cudaMalloc(base, bytes);
    if (status == cudaErrorMemoryAllocation) {
        size_t left = 0, all = 0;
        cudaGetLastError();
        cudaMemGetInfo(&left, &all);
        *base = NULL;
        return pa_error(
            err, PA_FAIL,
            "CUDA: out of memory: arena %s wants %.1f MB, %.1f of %.1f MB are free (the plan needs %.1f MB); try "
            "train.recompute = true or a smaller train.micro_batch",
            arena, (double)bytes / 1e6, (double)left / 1e6, (double)all / 1e6, (double)plan / 1e6);
    }
    pa_status s = cuda_check(status, "taking memory", err);
    return s ? s : cuda_check(cudaMemsetAsync(*base, 0, bytes, d->stream), "clearing memory", err);
}

static void give(pa_device *d, void *base, size_t bytes) {
    (void)d;
    (void)bytes;
    cudaFree(base);
}

static pa_status take_host(pa_device *d, size_t bytes, void **base, pa_err *err) {
    (void)d;
    return cuda_check(cudaMallocHost(base, bytes), "taking pinned memory", err);
}

static void give_host(pa_device *d, void *base) {
    if (d->copies) cudaStreamSynchronize(d->copies);
    cudaFreeHost(base);
}

// What Adam reads of the table of parameters.
static pa_status send_flags(pa_device *d, pa_err *err) {
    if (!d->flag_bytes) return PA_OK;
    uint8_t *flags = calloc(d->flag_bytes, 1);
    if (!flags) return pa_error(err, PA_FAIL, "no memory");
    for (int t = 0; t < d->params->count; t++) {
        const pa_param *row = &d->params->row[t];
        const int flag = (row->decays ? CUDA_DECAYS : 0) | (row->linear ? CUDA_LINEAR : 0);
        memset(flags + row->offset / 16, flag, (row->size + 15) / 16);
    }
    // In the stream that computes: a plain copy from pageable memory may return before its bytes are there, and that
    // stream waits for no other.
    pa_status s = cuda_check(cudaMemcpyAsync(d->flags, flags, d->flag_bytes, cudaMemcpyHostToDevice, d->stream),
                             "copying tables", err);
    if (!s) s = cuda_wait(d, "copying tables", err);
    free(flags);
    return s;
}

static pa_status ready(pa_device *d, void *workspace, pa_err *err) {
    d->flags = (uint8_t *)workspace + CUDA_MATMUL_WORKSPACE;
    void *half = d->sum_bf16 ? d->flags + d->flag_bytes : NULL;
    pa_status s = d->wants_ranks ? cuda_ranks_create(&d->ranks, d->comm, half, err) : PA_OK;
    if (!s) s = cuda_matmul_create(&d->mm, d->stream, workspace, !d->deterministic, err);
    return s ? s : send_flags(d, err);
}

static void close_device(pa_device *d) {
    cuda_replay_clear(d);
    cuda_ranks_destroy(d->ranks);
    cuda_matmul_destroy(d->mm);
    cuda_attend_destroy(d->attend);
    for (int i = 0; i < 2; i++) {
        if (d->slot[i].sent) cudaEventDestroy(d->slot[i].sent);
        if (d->slot[i].taken) cudaEventDestroy(d->slot[i].taken);
    }
    for (int i = 0; i < d->marks; i++) cudaEventDestroy(d->mark[i]);
    free(d->mark);
    if (d->stream) cudaStreamDestroy(d->stream);
    if (d->copies) cudaStreamDestroy(d->copies);
    free(d);
}

static pa_status clear(pa_device *d, void *to, size_t bytes, pa_err *err) {
    return cuda_check(cudaMemsetAsync(to, 0, bytes, d->stream), "clearing numbers", err);
}

static pa_status copy(pa_device *d, void *to, const void *from, size_t bytes, pa_err *err) {
    return cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, d->stream), "copying numbers", err);
}

static pa_status upload(pa_device *d, void *to, const void *from, size_t bytes, pa_err *err) {
    return cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, d->stream), "copying to the GPU", err);
}

static pa_status download(pa_device *d, void *to, const void *from, size_t bytes, pa_err *err) {
    return cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, d->stream), "copying from the GPU", err);
}

static pa_status slot_wait(pa_device *d, int slot, pa_err *err) {
    return cuda_check(cudaEventSynchronize(d->slot[slot].taken), "waiting for an earlier batch", err);
}

static pa_status slot_send(pa_device *d, int slot, void *to, const void *from, size_t bytes, pa_err *err) {
    cudaError_t e = cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, d->copies);
    if (!e) e = cudaEventRecord(d->slot[slot].sent, d->copies);
    return cuda_check(e, "sending a batch", err);
}

static pa_status slot_take(pa_device *d, int slot, void *to, const void *from, size_t bytes, pa_err *err) {
    cudaError_t e = cudaStreamWaitEvent(d->stream, d->slot[slot].sent, 0);
    if (!e) e = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, d->stream);
    return cuda_check(e, "taking a batch", err);
}

static pa_status slot_free(pa_device *d, int slot, pa_err *err) {
    return cuda_check(cudaEventRecord(d->slot[slot].taken, d->stream), "taking a batch", err);
}

static pa_status sum_begin(pa_device *d, float *grad, float *own, size_t count, bool scatter, pa_err *err) {
    (void)scatter;
    (void)err;
    d->grad = grad;
    d->own = own;
    d->count = count;
    return PA_OK;
}

static pa_status sum_ready(pa_device *d, size_t from, pa_err *err) {
    pa_status s = cuda_ranks_sum(d->ranks, d->stream, d->grad, d->own, d->count, from, err);
    return s || from ? s : cuda_ranks_join(d->ranks, d->stream, err);
}

static pa_status sum_end(pa_device *d, pa_err *err) {
    (void)d;
    (void)err;
    return PA_OK; // sum_ready from 0 has joined the streams
}

static pa_status sum_f64(pa_device *d, double *x, pa_err *err) {
    return cuda_ranks_sum_f64(d->ranks, d->stream, x, err);
}

static pa_status gather(pa_device *d, float *data, size_t count, pa_err *err) {
    return cuda_ranks_gather(d->ranks, d->stream, data, count, err);
}

static pa_status gather_spans(pa_device *d, float *data, const pa_span *of, pa_err *err) {
    return cuda_ranks_gather_spans(d->ranks, d->stream, data, of, err);
}

// Numbers of either sign near 1, whatever their type: a product of zeros takes less power, and runs faster than real
// ones can.
static pa_status fill_numbers(pa_device *d, void *to, size_t bytes) {
    uint16_t *x = malloc(bytes);
    uint32_t state = 1;
    if (!x) return PA_FAIL;
    for (size_t i = 0; i < bytes / 2; i++) {
        state = state * 1664525 + 1013904223;
        x[i] = (uint16_t)(0x3c00 | state >> 31 << 15 | (state >> 16 & 0x3ff));
    }
    pa_status s = upload(d, to, x, bytes, NULL);
    if (!s) s = cuda_wait(d, "copying numbers", NULL);
    free(x);
    return s;
}

// The best of a few products of 8192^3, two at a time (float32: 4096^3; the emulator: 512^3), as pabench's roof is
// found; 0 where that fails.
static double peak(pa_device *d) {
#ifdef PA_EMULATOR
    enum { SIDE = 512, EACH = 1 };
#else
    enum { SIDE = 8192, EACH = 2 };
#endif
    const int n = d->type == PA_TYPE_F32 ? SIDE / 2 : SIDE;
    void *a = NULL, *b = NULL, *y = NULL;
    size_t bytes = (size_t)n * (size_t)n * pa_size(d->type);
    pa_product p = {.m = n, .n = n, .k = n, .a = d->type, .b = d->type, .c = d->type, .b_t = true};
    bool ok = !cudaMalloc(&a, bytes) && !cudaMalloc(&b, bytes) && !cudaMalloc(&y, bytes) &&
              !fill_numbers(d, a, bytes) && !fill_numbers(d, b, bytes);
    for (int i = 0; ok && i < 8; i++) {
        double begins = pa_clock();
        pa_status s = PA_OK;
        for (int k = 0; k < EACH && !s; k++) s = cuda_matmul_run(d->mm, &p, a, b, y, NULL);
        if (s || cudaStreamSynchronize(d->stream)) break;
        double rate = EACH * 2.0 * n * n * n / (pa_clock() - begins);
        if (rate > d->peak) d->peak = rate;
    }
    cudaFree(a);
    cudaFree(b);
    cudaFree(y);
    cudaGetLastError();
    return d->peak;
}

const pa_ops cuda_table = {.name = "cuda",
                           .attn_fwd = attn_fwd,
                           .attn_bwd = attn_bwd,
                           .attn_work = attn_work,
                           .attn_decode = cuda_attn_decode,
                           .decode_work = decode_work,
                           .cache_rows = cache_rows,
                           .embed_fwd = cuda_embed_fwd,
                           .embed_bwd = cuda_embed_bwd,
                           .add_rows = cuda_add_rows,
                           .add_rows_bwd = cuda_add_rows_bwd,
                           .layernorm_fwd = cuda_layernorm_fwd,
                           .layernorm_bwd = cuda_layernorm_bwd,
                           .head_norm_fwd = cuda_head_norm_fwd,
                           .head_norm_bwd = cuda_head_norm_bwd,
                           .norm_work = norm_work,
                           .rotary = cuda_rotary,
                           .activation_fwd = cuda_activation_fwd,
                           .activation_bwd = cuda_activation_bwd,
                           .cross_entropy = cuda_cross_entropy,
                           .sum = cuda_sum,
                           .sum_squares = cuda_sum_squares,
                           .sum_work = sum_work,
                           .adam = cuda_adam,
                           .momentum = cuda_momentum,
                           .normalise = cuda_normalise,
                           .polynomial = cuda_polynomial,
                           .muon = cuda_muon,
                           .cast = cuda_cast,
                           .widen = cuda_widen,
                           .column_sum = cuda_column_sum,
                           .product = product,
                           .gemv = cuda_gemv,
                           .gemv_int8 = cuda_gemv_int8,
                           .round_int8 = cuda_round_int8,
                           .start = start,
                           .take = take,
                           .give = give,
                           .take_host = take_host,
                           .give_host = give_host,
                           .ready = ready,
                           .close = close_device,
                           .clear = clear,
                           .copy = copy,
                           .upload = upload,
                           .download = download,
                           .wait = cuda_wait,
                           .slot_wait = slot_wait,
                           .slot_send = slot_send,
                           .slot_take = slot_take,
                           .slot_free = slot_free,
                           .replay = cuda_replay,
                           .sum_begin = sum_begin,
                           .sum_ready = sum_ready,
                           .sum_end = sum_end,
                           .sum_f64 = sum_f64,
                           .gather = gather,
                           .gather_spans = gather_spans,
                           .peak = peak};
