// cuda.c: the case table's rows on a GPU. Operands are drawn on the host as for the CPU, copied once, and computed on
// where they are; an event before and one behind each call give its time. Roofs: cuBLASLt's largest products, a copy,
// and a reduction that only reads.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "cpu/simd.h"
#include "cuda/device.h"
#include "cuda/half.h"
#include "cuda/table.h"
#ifdef PA_WITH_CUDNN
#include "cuda/cudnn.h"
#endif

typedef struct {
    case_run run; // run.at: twins of run.x
    pa_device device;
    cudaEvent_t start, stop;
    void *workspace, *flush;
    size_t flush_bytes;
    double seconds; // of the last call
#ifdef PA_WITH_CUDNN
    cuda_cudnn *cudnn;
    cuda_cudnn_pass pass;
#endif
} gpu;

#define BIT(i) (1u << (i))

// Which operands hold numbers of the row's type.
static unsigned narrow(const case_row *r) {
    switch (r->kind) {
    case CASE_ATTENTION_FWD:
    case CASE_ATTENTION_BWD:
        return BIT(X_Q) | BIT(X_KV) | BIT(X_O) | BIT(X_DOUT) | BIT(X_DQ) | BIT(X_DKV);
    case CASE_ATTENTION_DECODE:
        return BIT(X_KV);
    case CASE_LAYERNORM_FWD:
        return BIT(X_Y);
    case CASE_LAYERNORM_BWD:
        return BIT(X_COPY) | BIT(X_DY);
    case CASE_HEAD_NORM_FWD:
        return BIT(X_X);
    case CASE_HEAD_NORM_BWD:
        return BIT(X_DX) | BIT(X_IN);
    case CASE_ACTIVATION_FWD:
    case CASE_ACTIVATION_BWD:
        return BIT(X_H) | BIT(X_G);
    case CASE_ROTARY_FWD:
        return BIT(X_TURNED);
    case CASE_CROSS_ENTROPY:
        return BIT(X_DLOGITS);
    case CASE_ADAM:
        return BIT(X_NARROW);
    case CASE_CAST:
        return BIT(X_TO);
    case CASE_WIDEN:
        return BIT(X_FROM);
    case CASE_GEMV:
        return BIT(X_RIGHT);
    case CASE_MATMUL:
        return BIT(X_LEFT) | BIT(X_RIGHT) | (r->product.c == PA_TYPE_F32 ? 0 : BIT(X_OUT));
    default:
        return 0;
    }
}

// bf16 to fp16 and back, for GPUs that have no bf16. The case table's numbers fit.
static void convert(uint16_t *x, size_t n, bool to_half) {
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++)
        x[i] = to_half ? cuda_half_from_float(bf16_to_float(x[i])) : bf16_from_float(cuda_half_to_float(x[i]));
}

static pa_status copy(gpu *g, bool back, pa_err *err) {
    for (int i = 0; i < CASE_OPERANDS; i++) {
        case_operand *x = &g->run.x[i];
        bool half = g->run.type == PA_TYPE_F16 && narrow(&g->run.row) & BIT(i);
        if (i == X_WORK || !x->data || !g->run.at[i]) continue;
        if (half && !back) convert(x->data, x->bytes / 2, true);
        cudaError_t e = back ? cudaMemcpy(x->data, g->run.at[i], x->bytes, cudaMemcpyDeviceToHost)
                             : cudaMemcpy(g->run.at[i], x->data, x->bytes, cudaMemcpyHostToDevice);
        if (half) convert(x->data, x->bytes / 2, false);
        if (e) return cuda_check(e, "copying operands", err);
    }
    // Copies from pageable memory may still be under way, and our streams do not wait for the null stream's.
    return cuda_check(cudaDeviceSynchronize(), "copying operands", err);
}

// The case's operands, drawn and prepared on the host, and their twins.
static pa_status take_operands(gpu *g, const case_row *row, const pa_ops *ops, bool half, pa_err *err) {
    pa_status s = case_open(&g->run, row, ops, err);
    if (s) return s;
    g->run.ops = &cuda_table;
    g->run.device = &g->device;
    g->run.type = row->type == PA_TYPE_F32 ? PA_TYPE_F32 : half ? PA_TYPE_F16 : PA_TYPE_BF16;
    cpu_matmul_destroy(g->run.mm);
    g->run.mm = NULL;
    memset(g->run.at, 0, sizeof g->run.at);
    g->run.x[X_WORK].bytes = row->kind == CASE_MATMUL ? CUDA_MATMUL_WORKSPACE : case_work(&g->run);
    cudaError_t e = cudaSuccess;
    for (int i = 0; i < CASE_OPERANDS && !e; i++)
        if (i == X_WORK || g->run.x[i].data) e = cudaMalloc(&g->run.at[i], g->run.x[i].bytes + 16);
    if (!e) e = cudaMemset(g->run.at[X_WORK], 0, g->run.x[X_WORK].bytes); // decoding counts in it from 0
    return cuda_check(e, "taking memory for a case", err);
}

static pa_status gpu_open(gpu *g, const case_row *row, const pa_ops *ops, bool half, pa_err *err) {
    struct cudaDeviceProp p;
    *g = (gpu){0};
    pa_status s = take_operands(g, row, ops, half, err);
    if (s || (s = cuda_check(cudaGetDeviceProperties(&p, 0), "asking for the GPU's properties", err))) return s;
    cudaError_t e = cudaStreamCreateWithFlags(&g->device.stream, cudaStreamNonBlocking);
    if (!e) e = cudaEventCreate(&g->start);
    if (!e) e = cudaEventCreate(&g->stop);
    g->flush_bytes = 2 * (size_t)p.l2CacheSize;
    if (!e && row->cold) e = cudaMalloc(&g->flush, g->flush_bytes);
    if (!e && row->kind == CASE_ADAM) e = cudaMalloc((void **)&g->device.flags, row->count / 16 + 16);
    if (!e && row->kind == CASE_ADAM) e = cudaMemset(g->device.flags, CUDA_DECAYS, row->count / 16);
    if ((s = cuda_check(e, "taking memory for a case", err))) return s;
    if (row->kind == CASE_MATMUL &&
        (s = cuda_matmul_create(&g->device.mm, g->device.stream, g->run.at[X_WORK], true, err)))
        return s;
    return copy(g, false, err);
}

static void gpu_close(gpu *g) {
    cuda_matmul_destroy(g->device.mm);
    for (int i = 0; i < CASE_OPERANDS; i++) cudaFree(g->run.at[i]);
    cudaFree(g->device.flags);
    cudaFree(g->workspace);
    cudaFree(g->flush);
    if (g->start) cudaEventDestroy(g->start);
    if (g->stop) cudaEventDestroy(g->stop);
    if (g->device.stream) cudaStreamDestroy(g->device.stream);
    case_close(&g->run);
}

static pa_status launch(gpu *g, pa_err *err) {
    pa_status s = case_execute(&g->run, err);
    return s ? s : cuda_check(cudaGetLastError(), g->run.row.name, err);
}

// Between two events. The GPU still has something to do when the first is queued, so that no launch is waited for in
// between: memory to clear, which also empties the cache, or the same work.
static pa_status timed(gpu *g, pa_status (*work)(gpu *, pa_err *), pa_err *err) {
    float ms = 0;
    pa_status s = PA_OK;
    cudaError_t e = cudaSuccess;
    if (g->flush)
        e = cudaMemsetAsync(g->flush, 0, g->flush_bytes, g->device.stream);
    else if ((s = work(g, err)) || (s = work(g, err)))
        return s;
    if (!e) e = cudaEventRecord(g->start, g->device.stream);
    if (e || (s = work(g, err))) return s ? s : cuda_check(e, "timing", err);
    if (!(e = cudaEventRecord(g->stop, g->device.stream)) && !(e = cudaEventSynchronize(g->stop)))
        e = cudaEventElapsedTime(&ms, g->start, g->stop);
    g->seconds = ms * 1e-3;
    return cuda_check(e, g->run.row.name, err);
}
static pa_status timed_ours(void *what, pa_err *err) {
    return timed(what, launch, err);
}
static double seconds(void *what) {
    return ((gpu *)what)->seconds;
}

#ifdef PA_WITH_CUDNN
static pa_status launch_cudnn(gpu *g, pa_err *err) {
    const case_row *r = &g->run.row;
    const pa_attn a = case_attention(&g->run);
    const size_t I = (size_t)a.ldo * pa_size(a.type);
    void *const *x = g->run.at;
    pa_attn_grads grads = {.o = x[X_O], .lse = x[X_LSE], .dout = x[X_DOUT], .dq = x[X_DQ]};
    grads.dkp = r->cross ? x[X_DKV] : (char *)x[X_DQ] + I;
    grads.dvp = (char *)grads.dkp + I;
    bool ok = r->kind == CASE_ATTENTION_FWD
                  ? cuda_cudnn_fwd(g->cudnn, g->device.stream, &a, x[X_O], x[X_LSE], g->workspace)
                  : cuda_cudnn_bwd(g->cudnn, g->device.stream, &a, &grads, g->pass, g->workspace);
    return ok ? PA_OK : pa_error(err, PA_FAIL, "%s: cuDNN failed", r->name);
}
static pa_status timed_cudnn(void *what, pa_err *err) {
    return timed(what, launch_cudnn, err);
}
static pa_status time_cudnn(gpu *g, const pa_attn *a, cuda_cudnn_pass pass, bench_effort effort, bool *has,
                            bench_time *t, pa_err *err) {
    size_t work = cuda_cudnn_work(g->cudnn, a, pass);
    *has = false;
    if (work == SIZE_MAX) return PA_OK;
    cudaFree(g->workspace);
    g->workspace = NULL;
    pa_status s = cuda_check(cudaMalloc(&g->workspace, work + 16), "taking memory for cuDNN", err);
    g->pass = pass;
    if (!s) s = bench_measure(&(bench_job){.work = timed_cudnn, .seconds = seconds, .what = g}, effort, t, err);
    *has = !s;
    return s;
}

// Of the backward pass the form whose sums have no order, and in the note the deterministic one.
static pa_status measure_cudnn(gpu *g, bench_effort effort, bench_case *to, pa_err *err) {
    const case_row *r = &g->run.row;
    const bool back = r->kind == CASE_ATTENTION_BWD;
    char why[64];
    if (r->kind != CASE_ATTENTION_FWD && !back) return PA_OK;
    const pa_attn a = case_attention(&g->run);
    if (!cuda_cudnn_expresses(&a) || !(g->cudnn = cuda_cudnn_create(why, sizeof why))) return PA_OK;
    pa_status s =
        time_cudnn(g, &a, back ? CUDA_CUDNN_BACKWARD : CUDA_CUDNN_FORWARD, effort, &to->has_peer, &to->peer, err);
    bench_time t;
    bool has = false;
    if (!s && back) s = time_cudnn(g, &a, CUDA_CUDNN_DETERMINISTIC, effort, &has, &t, err);
    if (has) {
        double megabytes = (double)cuda_cudnn_work(g->cudnn, &a, CUDA_CUDNN_DETERMINISTIC) / 1e6;
        snprintf(to->cudnn_note, sizeof to->cudnn_note, "deterministic %.3f, %.0f MB", t.median * 1e3, megabytes);
        to->peer_note = to->cudnn_note;
    }
    cuda_cudnn_destroy(g->cudnn);
    return s;
}
#endif

pa_status bench_cuda(const case_row *row, const pa_ops *ops, bool half, int samples, bench_effort effort,
                     bench_case *to, pa_err *err) {
    gpu g;
    pa_status s = gpu_open(&g, row, ops, half, err);
    if (!s && !(s = launch(&g, err)) && !(s = cuda_check(cudaStreamSynchronize(g.device.stream), row->name, err)) &&
        !(s = copy(&g, true, err))) {
        to->error = case_check(&g.run, samples);
    }
    if (!s) s = bench_measure(&(bench_job){.work = timed_ours, .seconds = seconds, .what = &g}, effort, &to->time, err);
#ifdef PA_WITH_CUDNN
    if (!s) s = measure_cudnn(&g, effort, to, err);
#endif
    gpu_close(&g);
    return s;
}

static pa_status launch_copy(gpu *g, pa_err *err) {
    return cuda_check(cudaMemcpyAsync(g->run.at[X_TO], g->run.at[X_FROM], g->run.x[X_TO].bytes,
                                      cudaMemcpyDeviceToDevice, g->device.stream),
                      "copying", err);
}
static pa_status timed_copy(void *what, pa_err *err) {
    return timed(what, launch_copy, err);
}

// What a row reaches, in its flop or else its bytes a second.
static pa_status rate(const case_row *row, const pa_ops *ops, bool half, bool copying, bench_effort effort,
                      double *best, pa_err *err) {
    gpu g;
    bench_time t;
    pa_status s = gpu_open(&g, row, ops, half, err);
    if (!s)
        s = bench_measure(&(bench_job){.work = copying ? timed_copy : timed_ours, .seconds = seconds, .what = &g},
                          effort, &t, err);
    gpu_close(&g);
    double found = s || !(t.low > 0) ? 0 : (row->kind == CASE_MATMUL ? row->flop : row->bytes) / t.low;
    if (found > *best) *best = found;
    return s;
}

pa_status bench_cuda_roofs(const pa_ops *ops, bool half, bench_roof *best, pa_err *err) {
#ifdef PA_EMULATOR
    enum { SIDE = 128, WORDS = 1 << 14 };
#else
    enum { SIDE = 8192, WORDS = 128 << 20 };
#endif
    const bench_effort effort = {.seconds = 0.1, .least = 5};
    case_row read = {.name = "read",
                     .kind = CASE_SUM_SQUARES,
                     .count = WORDS,
                     .bytes = 4.0 * WORDS,
                     .dim_head = 8,
                     .heads = 1,
                     .batch = 1};
    case_row copying = read;
    snprintf(copying.name, sizeof copying.name, "copy"), copying.kind = CASE_CAST, copying.bytes = 8.0 * WORDS;
    pa_status s = rate(&read, ops, half, false, effort, &best->read, err);
    if (!s) s = rate(&copying, ops, half, true, effort, &best->copy, err);
    for (int type = PA_TYPE_F32; !s && type <= PA_TYPE_BF16; type++) {
        const int n = SIDE / (type == PA_TYPE_F32 ? 2 : 1);
        case_row r = {.name = "product",
                      .kind = CASE_MATMUL,
                      .type = (pa_type)type,
                      .flop = 2.0 * n * n * n,
                      .dim_head = 8,
                      .heads = 1};
        r.batch = 1;
        r.product = (pa_product){.m = n, .n = n, .k = n, .a = r.type, .b = r.type, .c = r.type, .b_t = true};
        s = rate(&r, ops, half, false, effort, &best->flops[type], err);
    }
    return s;
}

pa_status bench_cuda_device(char *name, size_t size, bool *half, pa_err *err) {
    struct cudaDeviceProp p;
    pa_status s = cuda_check(cudaGetDeviceProperties(&p, 0), "asking for the GPU's properties", err);
    if (s) return s;
    snprintf(name, size, "%s", p.name);
    *half = p.major < 8;
    return PA_OK;
}
