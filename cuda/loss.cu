// loss.cu: cross-entropy that leaves the gradient of the logits, and the sum of the losses. Probabilities are never
// stored. Knows nothing of how the logits came about.
#include "cuda/rows.cuh"

enum { WARPS = 4, SUM_THREADS = 1024 };

// A warp a row; lane l holds columns l, l + 32, .. of it in registers, HELD of them; HELD 0: V is larger, and they are
// read again each time. 4 V bytes read a row, s V written, 40 V flop (counting e^x as 15).
template <typename T, int HELD>
static __global__ void __launch_bounds__(32 * WARPS)
    cross_entropy_kernel(T *d, float *nats, uint16_t *best, const float *logits, const uint16_t *target,
                         const pa_scalars *scalars, float z_loss, int rows, int V, int ld) {
    const int row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32, turns = HELD ? HELD : (V + 31) / 32;
    if (row >= rows) return; // a whole warp
    const float *x = logits + (size_t)row * ld;
    float held[HELD ? HELD : 1], top = -INFINITY, sum = 0;
    int at = V;
#pragma unroll
    for (int k = 0; k < turns; k++) {
        int i = lane + 32 * k;
        float a = i < V ? x[i] : -INFINITY;
        if (HELD) held[k] = a;
        if (i < V && (at == V || a > top)) top = a, at = i;
    }
    for (int step = 16; step; step /= 2) { // the largest, of equals the first
        float a = __shfl_xor_sync(0xffffffffu, top, step);
        int b = __shfl_xor_sync(0xffffffffu, at, step);
        if (a > top || (a == top && b < at)) top = a, at = b;
    }
#pragma unroll
    for (int k = 0; k < turns; k++) {
        int i = lane + 32 * k;
        float e = i < V ? expf((HELD ? held[k] : x[i]) - top) : 0.0f;
        if (HELD) held[k] = e;
        sum += e;
    }
    sum = cuda_warp_sum(sum);
    const float log_z = logf(sum) + top;
    const int t = target ? target[row] : V;
    const bool scored = t < V - 1;
    if (lane == 0) {
        nats[row] = scored ? log_z - x[t] : 0.0f;
        if (best) best[row] = (uint16_t)at;
    }
    if (!d) return;
    const float scale = scored ? scalars->loss_scale : 0.0f, factor = scale * (1 + 2 * z_loss * log_z) / sum;
#pragma unroll
    for (int k = 0; k < turns; k++) {
        int i = lane + 32 * k;
        if (i >= V) continue;
        float p = scored ? factor * (HELD ? held[k] : expf(x[i] - top)) : 0.0f;
        d[(size_t)row * ld + i] = cuda_from_float<T>(i == t ? p - scale : p);
    }
}

template <typename T> static void cross_entropy(cudaStream_t stream, const pa_cross_entropy *a) {
    dim3 grid(cuda_blocks((size_t)a->rows, WARPS)), block(32 * WARPS);
    if (!a->rows) return;
#define LAUNCH(held)                                                                                                   \
    CUDA_LAUNCH((cross_entropy_kernel<T, held>), grid, block, 0, stream, (T *)a->dlogits, a->nats, a->best, a->logits, \
                a->target, a->scalars, a->z_loss, a->rows, a->V, a->ld)
    if (a->V <= 32 * 13)
        LAUNCH(13);
    else if (a->V <= 32 * 32)
        LAUNCH(32);
    else
        LAUNCH(0);
#undef LAUNCH
}

void cuda_cross_entropy(pa_device *d, const pa_cross_entropy *a) {
    CUDA_TYPED(a->type, cross_entropy, d->stream, a);
}

// One block: n is a batch's rows. 4 n bytes read.
static __global__ void __launch_bounds__(SUM_THREADS) sum_kernel(double *sum, double *total, const float *x, size_t n) {
    __shared__ double all[SUM_THREADS];
    double s = 0;
    for (size_t i = threadIdx.x; i < n; i += SUM_THREADS) s += x[i];
    all[threadIdx.x] = s;
    __syncthreads();
    for (int step = SUM_THREADS / 2; step; step /= 2) {
        if ((int)threadIdx.x < step) all[threadIdx.x] += all[threadIdx.x + step];
        __syncthreads();
    }
    if (threadIdx.x) return;
    *sum = all[0];
    if (total) *total += all[0];
}

void cuda_sum(pa_device *d, double *sum, double *total, const float *x, size_t n) {
    CUDA_LAUNCH(sum_kernel, dim3(1), dim3(SUM_THREADS), 0, d->stream, sum, total, x, n);
}
