// cuda.c: the case table's rows on a GPU. Operands are drawn on the host as for the CPU, copied once, and computed on where they are; an
// event before and one behind each call give its time. Roofs: cuBLASLt's largest products, a copy, and a reduction that only reads.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "cpu/simd.h"
#include "cuda/device.h"
#include "cuda/half.h"
#ifdef PA_WITH_CUDNN
#include "cuda/cudnn.h"
#endif

typedef struct {
    case_run host;
    void *x[CASE_OPERANDS]; // twins of host.x
    pa_type type;
    pa_attn a;
    cudaStream_t stream;
    cudaEvent_t start, stop;
    cuda_matmul *mm;
    void *work, *workspace, *flush, *extra[3]; // extra: scalars and what else a kernel wants from device memory
    size_t flush_bytes;
    double seconds; // of the last call
#ifdef PA_WITH_CUDNN
    cuda_cudnn *cudnn;
#endif
} gpu;

enum { EX_SCALARS, EX_FIRST, EX_SECOND };
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
    for (size_t i = 0; i < n; i++) x[i] = to_half ? cuda_half_from_float(bf16_to_float(x[i])) : bf16_from_float(cuda_half_to_float(x[i]));
}

static pa_status copy(gpu *g, bool back, pa_err *err) {
    for (int i = 0; i < CASE_OPERANDS; i++) {
        case_operand *x = &g->host.x[i];
        bool half = g->type == PA_TYPE_F16 && narrow(&g->host.row) & BIT(i);
        if (!x->data || !g->x[i]) continue;
        if (half && !back) convert(x->data, x->bytes / 2, true);
        cudaError_t e = back ? cudaMemcpy(x->data, g->x[i], x->bytes, cudaMemcpyDeviceToHost)
                             : cudaMemcpy(g->x[i], x->data, x->bytes, cudaMemcpyHostToDevice);
        if (half) convert(x->data, x->bytes / 2, false);
        if (e) return cuda_check(e, "copying operands", err);
    }
    // Copies from pageable memory may still be under way, and our streams do not wait for the null stream's.
    return cuda_check(cudaDeviceSynchronize(), "copying operands", err);
}

static pa_product product_of(const gpu *g, const pa_product *p) {
    pa_product q = {.m = p->m, .n = p->n, .k = p->k, .a = g->type, .b = g->type, .c = p->c == PA_TYPE_F32 ? PA_TYPE_F32 : g->type};
    q.a_t = p->a_t, q.b_t = p->b_t, q.add = p->add;
    return q;
}

static void attention_of(gpu *g) {
    const case_row *r = &g->host.row;
    const pa_attn *a = &g->host.a;
    size_t I = (size_t)r->heads * (size_t)r->dim_head, size = pa_size(g->type), prefix = (size_t)(r->batch * r->kept) * (size_t)a->ldkv;
    const char *kv = r->cross ? g->x[X_KV] : (char *)g->x[X_Q] + I * size;
    g->a = (pa_attn){.type = g->type, .batch = r->batch, .latents = r->latents, .kept = r->kept, .heads = r->heads};
    g->a.dim_head = r->dim_head, g->a.scale = a->scale, g->a.ldq = a->ldq, g->a.ldkv = a->ldkv, g->a.ldo = a->ldo;
    g->a.q = g->x[X_Q], g->a.kp = kv, g->a.vp = kv + I * size;
    g->a.kn = kv + prefix * size, g->a.vn = kv + (prefix + I) * size;
}

static size_t work_bytes(const gpu *g) {
    const case_row *r = &g->host.row;
    switch (r->kind) {
    case CASE_ATTENTION_FWD:
    case CASE_ATTENTION_BWD:
        return cuda_attn_work(&g->a);
    case CASE_ATTENTION_DECODE:
        return cuda_attn_decode_work(r->batch, r->heads, r->dim_head);
    case CASE_SUM_SQUARES:
        return cuda_sum_squares_work();
    case CASE_LAYERNORM_BWD:
    case CASE_COLUMN_SUM:
        return cuda_norm_work(r->in);
    default:
        return cuda_norm_work(r->dim_head);
    }
}

// The last row of the case's cache: attn_decode puts it there itself.
static void last_keys(const gpu *g, float *k, float *v) {
    const case_row *r = &g->host.row;
    const size_t D = (size_t)r->dim_head, heads = (size_t)r->batch * (size_t)r->heads, rows = (size_t)r->latents;
    const void *data = g->host.x[X_KV].data;
    for (size_t i = 0; i < heads * D; i++)
        for (int which = 0; which < 2; which++) {
            const size_t at = ((size_t)which * heads * rows + i / D * rows + rows - 1) * D + i % D;
            (which ? v : k)[i] = r->type == PA_TYPE_F32 ? ((const float *)data)[at] : bf16_to_float(((const uint16_t *)data)[at]);
        }
}

static cudaError_t put(void **to, const void *from, size_t bytes) {
    cudaError_t e = cudaMalloc(to, bytes + 16);
    return e ? e : cudaMemcpy(*to, from, bytes, cudaMemcpyHostToDevice);
}

// What kernels read from device memory beside the operands.
static pa_status take_extra(gpu *g, pa_err *err) {
    const case_row *r = &g->host.row;
    const double one = 1;
    const int last = r->latents - 1;
    size_t keys = (size_t)r->batch * (size_t)r->heads * (size_t)r->dim_head, bytes = r->kind == CASE_ADAM ? r->count / 16 : keys * 8;
    cudaError_t e = put(&g->extra[EX_SCALARS], &case_scalars, sizeof case_scalars);
    if (!e)
        e = r->kind == CASE_ATTENTION_DECODE ? put(&g->extra[EX_FIRST], &last, sizeof last) : put(&g->extra[EX_FIRST], &one, sizeof one);
    char *second = malloc(bytes);
    if (!second) return pa_error(err, PA_FAIL, "no memory");
    memset(second, 1, bytes);
    if (r->kind == CASE_ATTENTION_DECODE) last_keys(g, (float *)(void *)second, (float *)(void *)second + keys);
    if (!e) e = put(&g->extra[EX_SECOND], second, bytes);
    free(second);
    return cuda_check(e, "taking memory for a case", err);
}

static pa_status gpu_open(gpu *g, const case_row *row, const cpu_ops *ops, bool half, pa_err *err) {
    *g = (gpu){.type = row->type == PA_TYPE_F32 ? PA_TYPE_F32 : half ? PA_TYPE_F16 : PA_TYPE_BF16};
    struct cudaDeviceProp p;
    pa_status s = case_open(&g->host, row, ops, err);
    cudaError_t e = cudaGetDeviceProperties(&p, 0);
    if (s || (s = cuda_check(e, "asking for the GPU's properties", err))) return s;
    for (int i = 0; i < CASE_OPERANDS && !e; i++)
        if (g->host.x[i].data && g->host.x[i].bytes) e = cudaMalloc(&g->x[i], g->host.x[i].bytes + 16);
    if (!e) e = cudaStreamCreateWithFlags(&g->stream, cudaStreamNonBlocking);
    if (!e) e = cudaEventCreate(&g->start);
    if (!e) e = cudaEventCreate(&g->stop);
    if (row->kind == CASE_ATTENTION_FWD || row->kind == CASE_ATTENTION_BWD) attention_of(g);
    if (!e) e = cudaMalloc(&g->work, work_bytes(g) + 16);
    if (!e) e = cudaMemset(g->work, 0, work_bytes(g)); // decoding counts in it from 0
    g->flush_bytes = 2 * (size_t)p.l2CacheSize;
    if (!e && row->cold) e = cudaMalloc(&g->flush, g->flush_bytes);
    if (!e && row->kind == CASE_MATMUL) e = cudaMalloc(&g->workspace, CUDA_MATMUL_WORKSPACE);
    if ((s = cuda_check(e, "taking memory for a case", err)) || (s = take_extra(g, err))) return s;
    if (row->kind == CASE_MATMUL && (s = cuda_matmul_create(&g->mm, g->stream, g->workspace, true, err))) return s;
    return copy(g, false, err);
}

static void gpu_close(gpu *g) {
    cuda_matmul_destroy(g->mm);
    for (int i = 0; i < CASE_OPERANDS; i++) cudaFree(g->x[i]);
    for (int i = 0; i < 3; i++) cudaFree(g->extra[i]);
    cudaFree(g->work), cudaFree(g->workspace), cudaFree(g->flush);
    if (g->start) cudaEventDestroy(g->start);
    if (g->stop) cudaEventDestroy(g->stop);
    if (g->stream) cudaStreamDestroy(g->stream);
    case_close(&g->host);
}

static void run_attention(gpu *g) {
    const case_row *r = &g->host.row;
    const size_t size = pa_size(g->type), I = (size_t)r->heads * (size_t)r->dim_head;
    char *dkv = r->cross ? g->x[X_DKV] : (char *)g->x[X_DQ] + I * size,
         *own = dkv + (size_t)(r->batch * r->kept) * (size_t)g->a.ldkv * size;
    if (r->kind == CASE_ATTENTION_FWD)
        cuda_attn_fwd(g->stream, &g->a, g->x[X_O], g->x[X_LSE], g->work);
    else
        cuda_attn_bwd(g->stream, &g->a, g->x[X_O], g->x[X_LSE], g->x[X_DOUT], g->x[X_DQ], dkv, dkv + I * size, own, own + I * size,
                      g->work);
}

static void run_norm(gpu *g) {
    const case_row *r = &g->host.row;
    void *const *x = g->x;
    const ptrdiff_t I = (ptrdiff_t)r->heads * r->dim_head;
    if (r->kind == CASE_LAYERNORM_FWD)
        cuda_layernorm_fwd(g->stream, g->type, x[X_Z], x[X_Y], x[X_MEAN], x[X_RSTD], x[X_X], x[X_R], NULL, x[X_W], x[X_B], r->rows, r->in);
    else if (r->kind == CASE_LAYERNORM_BWD)
        cuda_layernorm_bwd(g->stream, g->type, x[X_DX], x[X_COPY], x[X_DW], x[X_DB], x[X_DY], x[X_IN], x[X_IN_MEAN], x[X_IN_RSTD],
                           x[X_WEIGHT], r->rows, r->in, g->work);
    else if (r->kind == CASE_HEAD_NORM_FWD)
        cuda_head_norm_fwd(g->stream, g->type, x[X_X], I, x[X_RSTD], x[X_W], r->rows, r->heads, r->dim_head);
    else
        cuda_head_norm_bwd(g->stream, g->type, x[X_DX], I, x[X_DW], x[X_IN], I, x[X_IN_RSTD], x[X_WEIGHT], r->rows, r->heads, r->dim_head,
                           g->work);
}

static void run_decode(gpu *g) {
    const case_row *r = &g->host.row;
    const size_t half = g->host.x[X_KV].bytes / 2;
    const ptrdiff_t I = (ptrdiff_t)r->heads * r->dim_head;
    const float *k = g->extra[EX_SECOND], *v = k + r->batch * I;
    cuda_attn_decode(g->stream, g->type, r->batch, r->heads, r->dim_head, g->extra[EX_FIRST], r->latents, 1 / sqrtf((float)r->dim_head), I,
                     I, g->x[X_Q], k, v, g->x[X_KV], (char *)g->x[X_KV] + half, g->x[X_O], g->work);
}

static void run_adam(gpu *g) {
    pa_device d = {.stream = g->stream, .decays = g->extra[EX_SECOND]};
    cuda_adam(&d, &(pa_adam){.to = g->host.row.count,
                             .p = g->x[X_P],
                             .g = g->x[X_GRAD],
                             .m = g->x[X_M],
                             .v = g->x[X_V],
                             .copy = g->x[X_NARROW],
                             .type = g->type,
                             .squares = g->extra[EX_FIRST],
                             .scalars = g->extra[EX_SCALARS]});
}

static pa_status launch(gpu *g, pa_err *err) {
    const case_row *r = &g->host.row;
    void *const *x = g->x;
    const pa_activation kind = (pa_activation)r->activation;
    pa_product p;
    switch (r->kind) {
    case CASE_ATTENTION_FWD:
    case CASE_ATTENTION_BWD:
        run_attention(g);
        break;
    case CASE_ATTENTION_DECODE:
        run_decode(g);
        break;
    case CASE_LAYERNORM_FWD:
    case CASE_LAYERNORM_BWD:
    case CASE_HEAD_NORM_FWD:
    case CASE_HEAD_NORM_BWD:
        run_norm(g);
        break;
    case CASE_ACTIVATION_FWD:
        cuda_activation_fwd(g->stream, g->type, kind, x[X_G], x[X_H], r->rows, r->in, NULL, r->rows);
        break;
    case CASE_ACTIVATION_BWD:
        cuda_activation_bwd(g->stream, g->type, kind, x[X_G], x[X_H], r->rows, r->in, NULL, r->rows);
        break;
    case CASE_ROTARY_FWD:
        cuda_rotary(g->stream, g->type, x[X_TURNED], (ptrdiff_t)r->heads * r->dim_head, x[X_AT], x[X_TABLE], r->rows, r->heads, r->dim_head,
                    r->in, 1);
        break;
    case CASE_CROSS_ENTROPY:
        cuda_cross_entropy(g->stream, g->type, x[X_DLOGITS], x[X_NATS], x[X_BEST], x[X_LOGITS], x[X_TARGET], g->extra[EX_SCALARS],
                           case_z_loss, r->rows, r->vocab);
        break;
    case CASE_EMBED_FWD:
        cuda_embed_fwd(g->stream, x[X_ROWS], x[X_TOKEN], x[X_POSITION], x[X_TOKEN_EMB], x[X_POSITION_EMB], r->rows, r->in);
        break;
    case CASE_EMBED_BWD:
        cuda_embed_bwd(g->stream, x[X_TOKEN_EMB], x[X_POSITION_EMB], x[X_ROWS], x[X_TOKEN], x[X_POSITION], r->rows, r->in, r->vocab,
                       r->positions);
        break;
    case CASE_SUM_SQUARES:
        cuda_sum_squares(g->stream, g->extra[EX_FIRST], x[X_FROM], r->count, g->work);
        break;
    case CASE_ADAM:
        run_adam(g);
        break;
    case CASE_CAST:
        cuda_cast(g->stream, g->type, x[X_TO], x[X_FROM], r->count);
        break;
    case CASE_WIDEN:
        cuda_widen(g->stream, g->type, x[X_TO], x[X_FROM], r->count);
        break;
    case CASE_COLUMN_SUM:
        cuda_column_sum(g->stream, x[X_TO], x[X_FROM], r->rows, r->in, g->work);
        break;
    case CASE_GEMV:
        cuda_gemv(g->stream, g->type, x[X_OUT], x[X_LEFT], x[X_RIGHT], x[X_BIAS], r->rows, r->in, r->out);
        break;
    case CASE_MATMUL:
        p = product_of(g, &r->product);
        return cuda_matmul_run(g->mm, &p, x[X_LEFT], x[X_RIGHT], x[X_OUT], err);
    }
    return cuda_check(cudaGetLastError(), r->name, err);
}

// Between two events. The GPU still has something to do when the first is queued, so that no launch is waited for in between: memory to
// clear, which also empties the cache, or the same work.
static pa_status timed(gpu *g, pa_status (*work)(gpu *, pa_err *), pa_err *err) {
    float ms = 0;
    pa_status s = PA_OK;
    cudaError_t e = cudaSuccess;
    if (g->flush)
        e = cudaMemsetAsync(g->flush, 0, g->flush_bytes, g->stream);
    else if ((s = work(g, err)) || (s = work(g, err)))
        return s;
    if (!e) e = cudaEventRecord(g->start, g->stream);
    if (e || (s = work(g, err))) return s ? s : cuda_check(e, "timing", err);
    if (!(e = cudaEventRecord(g->stop, g->stream)) && !(e = cudaEventSynchronize(g->stop)))
        e = cudaEventElapsedTime(&ms, g->start, g->stop);
    g->seconds = ms * 1e-3;
    return cuda_check(e, g->host.row.name, err);
}
static pa_status timed_ours(void *what, pa_err *err) {
    return timed(what, launch, err);
}
static double seconds(void *what) {
    return ((gpu *)what)->seconds;
}

#ifdef PA_WITH_CUDNN
static pa_status launch_cudnn(gpu *g, pa_err *err) {
    const case_row *r = &g->host.row;
    const size_t I = (size_t)r->heads * (size_t)r->dim_head * pa_size(g->type);
    char *dkv = r->cross ? g->x[X_DKV] : (char *)g->x[X_DQ] + I;
    bool ok = r->kind == CASE_ATTENTION_FWD ? cuda_cudnn_fwd(g->cudnn, g->stream, &g->a, g->x[X_O], g->x[X_LSE], g->workspace)
                                            : cuda_cudnn_bwd(g->cudnn, g->stream, &g->a, g->x[X_O], g->x[X_LSE], g->x[X_DOUT], g->x[X_DQ],
                                                             dkv, dkv + I, g->workspace);
    return ok ? PA_OK : pa_error(err, PA_FAIL, "%s: cuDNN failed", r->name);
}
static pa_status timed_cudnn(void *what, pa_err *err) {
    return timed(what, launch_cudnn, err);
}
static pa_status measure_cudnn(gpu *g, bench_effort effort, bool *has, bench_time *t, pa_err *err) {
    const case_row *r = &g->host.row;
    const bool back = r->kind == CASE_ATTENTION_BWD;
    if ((r->kind != CASE_ATTENTION_FWD && !back) || !cuda_cudnn_expresses(&g->a) || !(g->cudnn = cuda_cudnn_create())) return PA_OK;
    size_t work = cuda_cudnn_work(g->cudnn, &g->a, back);
    pa_status s = PA_OK;
    if (work != SIZE_MAX && !(s = cuda_check(cudaMalloc(&g->workspace, work + 16), "taking memory for cuDNN", err))) {
        s = bench_measure(&(bench_job){.work = timed_cudnn, .seconds = seconds, .what = g}, effort, t, err);
        *has = !s;
    }
    cuda_cudnn_destroy(g->cudnn);
    return s;
}
#endif

pa_status bench_cuda(const case_row *row, const cpu_ops *ops, bool half, int samples, bench_effort effort, bench_case *to, pa_err *err) {
    gpu g;
    pa_status s = gpu_open(&g, row, ops, half, err);
    if (!s && !(s = launch(&g, err)) && !(s = cuda_check(cudaStreamSynchronize(g.stream), row->name, err)) && !(s = copy(&g, true, err))) {
        if (row->kind == CASE_SUM_SQUARES)
            s = cuda_check(cudaMemcpy(&g.host.squares, g.extra[EX_FIRST], 8, cudaMemcpyDeviceToHost), "reading a sum", err);
        if (!s) to->error = case_check(&g.host, samples);
    }
    if (!s) s = bench_measure(&(bench_job){.work = timed_ours, .seconds = seconds, .what = &g}, effort, &to->time, err);
#ifdef PA_WITH_CUDNN
    if (!s) s = measure_cudnn(&g, effort, &to->has_peer, &to->peer, err);
#endif
    gpu_close(&g);
    return s;
}

static pa_status launch_copy(gpu *g, pa_err *err) {
    return cuda_check(cudaMemcpyAsync(g->x[X_TO], g->x[X_FROM], g->host.x[X_TO].bytes, cudaMemcpyDeviceToDevice, g->stream), "copying",
                      err);
}
static pa_status timed_copy(void *what, pa_err *err) {
    return timed(what, launch_copy, err);
}

// What a row reaches, in its flop or else its bytes a second.
static pa_status rate(const case_row *row, const cpu_ops *ops, bool half, bool copying, bench_effort effort, double *best, pa_err *err) {
    gpu g;
    bench_time t;
    pa_status s = gpu_open(&g, row, ops, half, err);
    if (!s) s = bench_measure(&(bench_job){.work = copying ? timed_copy : timed_ours, .seconds = seconds, .what = &g}, effort, &t, err);
    gpu_close(&g);
    double found = s || !(t.low > 0) ? 0 : (row->kind == CASE_MATMUL ? row->flop : row->bytes) / t.low;
    if (found > *best) *best = found;
    return s;
}

pa_status bench_cuda_roofs(const cpu_ops *ops, bool half, bench_roof *best, pa_err *err) {
#ifdef PA_EMULATOR
    enum { SIDE = 128, WORDS = 1 << 14 };
#else
    enum { SIDE = 8192, WORDS = 128 << 20 };
#endif
    const bench_effort effort = {.seconds = 0.1, .least = 5};
    case_row read = {.name = "read", .kind = CASE_SUM_SQUARES, .count = WORDS, .bytes = 4.0 * WORDS, .dim_head = 8, .heads = 1, .batch = 1};
    case_row copying = read;
    snprintf(copying.name, sizeof copying.name, "copy"), copying.kind = CASE_CAST, copying.bytes = 8.0 * WORDS;
    pa_status s = rate(&read, ops, half, false, effort, &best->read, err);
    if (!s) s = rate(&copying, ops, half, true, effort, &best->copy, err);
    for (int type = PA_TYPE_F32; !s && type <= PA_TYPE_BF16; type++) {
        const int n = SIDE / (type == PA_TYPE_F32 ? 2 : 1);
        case_row r = {.name = "product", .kind = CASE_MATMUL, .type = (pa_type)type, .flop = 2.0 * n * n * n, .dim_head = 8, .heads = 1};
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
