// pointwise.cu: rotary positions, activations with dropout, casts. Each reads its operands once and writes once;
// limited by that. Knows nothing of the model.
#include "cuda/activation.cuh"
#include "cuda/rows.cuh"
#include "host/base/philox.h"

enum { THREADS = 256 };

// A thread turns E neighbouring pairs: (j, j + R/2) of a head. With s bytes a number: 4 s bytes of it and 8 of the
// table (which stays in the cache, shared by the heads), 6 flop a pair.
template <typename T, int E>
static __global__ void __launch_bounds__(THREADS)
    rotary_kernel(T *x, ptrdiff_t ld, const int32_t *position, const float *table, int rows, int H, int D, int half,
                  float sign) {
    const int each = half / E;
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= (size_t)rows * H * each) return;
    const int j = (int)(i % each) * E, head = (int)(i / each % H), row = (int)(i / each / H);
    T *a = x + row * ld + (ptrdiff_t)head * D + j;
    const float *angle = table + ((size_t)position[row] * half + j) * 2;
    float p[E], q[E], turn[2 * E];
    if (E == 8) {
        cuda_load8(p, a), cuda_load8(q, a + half), cuda_load8(turn, angle), cuda_load8(turn + E, angle + E);
    } else {
        p[0] = cuda_to_float(a[0]), q[0] = cuda_to_float(a[half]), turn[0] = angle[0], turn[1] = angle[1];
    }
#pragma unroll
    for (int k = 0; k < E; k++) {
        float c = turn[2 * k], s = sign * turn[2 * k + 1], was = p[k];
        p[k] = was * c - q[k] * s, q[k] = q[k] * c + was * s;
    }
    if (E == 8) {
        cuda_store8(a, p), cuda_store8(a + half, q);
    } else {
        a[0] = cuda_from_float<T>(p[0]), a[half] = cuda_from_float<T>(q[0]);
    }
}

template <typename T> static void rotary(cudaStream_t stream, const pa_rotary *a) {
    const int half = a->dims / 2;
    const size_t pairs = (size_t)a->rows * a->H * half;
    T *x = (T *)a->x;
    if (!pairs) return;
    if (cuda_wide(x, a->ld) && a->D % 8 == 0 && half % 8 == 0 && cuda_wide(a->table, half))
        CUDA_LAUNCH((rotary_kernel<T, 8>), dim3(cuda_blocks(pairs / 8, THREADS)), dim3(THREADS), 0, stream, x, a->ld,
                    a->position, a->table, a->rows, a->H, a->D, half, a->sign);
    else
        CUDA_LAUNCH((rotary_kernel<T, 1>), dim3(cuda_blocks(pairs, THREADS)), dim3(THREADS), 0, stream, x, a->ld,
                    a->position, a->table, a->rows, a->H, a->D, half, a->sign);
}
void cuda_rotary(pa_device *d, const pa_rotary *a) {
    CUDA_TYPED(a->type, rotary, d->stream, a);
}

// What a thread multiplies column i and the next of its row by: 0 where the draw drops, else 1 / (1 - p). One draw
// serves four columns.
template <int E>
static __device__ __forceinline__ void survive(float keep[E], const pa_dropout &d, int row, int i, int F,
                                               int sequence) {
    if (!(d.p > 0)) {
#pragma unroll
        for (int k = 0; k < E; k++) keep[k] = 1;
        return;
    }
    const uint32_t limit = (uint32_t)((double)d.p * 4294967296.0);
    const uint64_t at =
        ((uint64_t)d.layer << 48) + (uint64_t)(row % sequence) * (uint64_t)((F + 3) / 4) + (uint64_t)i / 4;
    const uint64_t window = d.window[row / sequence];
    const float kept = 1 / (1 - d.p);
#pragma unroll
    for (int k = 0; k < E; k += 4) {
        pa_philox r = pa_random(d.seed, PA_RANDOM_DROPOUT, window, at + k / 4);
#pragma unroll
        for (int j = 0; j < 4 && k + j < E; j++) keep[k + j] = r.v[E == 1 ? i % 4 : j] < limit ? 0.0f : kept;
    }
}

// E neighbours a thread. Forward: g = activation(h), 2 s bytes; backward: g = g activation'(h), 3 s bytes; GELU's 25
// flop, 100 in float32; 20 integer multiplications a number more with dropout.
template <typename T, bool BACK, int E>
static __global__ void __launch_bounds__(THREADS)
    activation_kernel(pa_activation kind, T *g, const T *h, int rows, int F, pa_dropout dropout, int sequence) {
    const int each = F / E;
    const size_t t = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (t >= (size_t)rows * each) return;
    const int row = (int)(t / each), i = (int)(t % each) * E;
    float x[E], up[E], keep[E];
    if (E == 8) {
        cuda_load8(x, h + t * E);
        if (BACK) cuda_load8(up, g + t * E);
    } else {
        x[0] = cuda_to_float(h[t]);
        if (BACK) up[0] = cuda_to_float(g[t]);
    }
    survive<E>(keep, dropout, row, i, F, sequence);
#pragma unroll
    for (int k = 0; k < E; k++)
        x[k] = keep[k] == 0 ? 0.0f : activation<T>(kind, BACK, x[k]) * (BACK ? up[k] * keep[k] : keep[k]);
    if (E == 8)
        cuda_store8(g + t * E, x);
    else
        g[t] = cuda_from_float<T>(x[0]);
}

template <typename T, bool BACK> static void run_activation(cudaStream_t stream, const pa_activate *a) {
    pa_dropout d = {0, 0, NULL, 0};
    if (a->dropout) d = *a->dropout;
    const bool wide = cuda_wide(a->g, a->F) && cuda_wide(a->h, a->F);
    dim3 grid(cuda_blocks((size_t)a->rows * a->F, wide ? 8 * THREADS : THREADS)), block(THREADS);
    T *g = (T *)a->g;
    const T *h = (const T *)a->h;
    if (!a->rows) return;
    if (wide)
        CUDA_LAUNCH((activation_kernel<T, BACK, 8>), grid, block, 0, stream, a->kind, g, h, a->rows, a->F, d,
                    a->sequence);
    else
        CUDA_LAUNCH((activation_kernel<T, BACK, 1>), grid, block, 0, stream, a->kind, g, h, a->rows, a->F, d,
                    a->sequence);
}
template <typename T> static void activate(cudaStream_t stream, const pa_activate *a) {
    run_activation<T, false>(stream, a);
}
template <typename T> static void activate_back(cudaStream_t stream, const pa_activate *a) {
    run_activation<T, true>(stream, a);
}
void cuda_activation_fwd(pa_device *d, const pa_activate *a) {
    CUDA_TYPED(a->type, activate, d->stream, a);
}
void cuda_activation_bwd(pa_device *d, const pa_activate *a) {
    CUDA_TYPED(a->type, activate_back, d->stream, a);
}

// Eight neighbours a thread, the last n % 8 by one; WIDE: both ends aligned. 4 + s bytes a number.
template <typename To, typename From, bool WIDE>
static __global__ void __launch_bounds__(THREADS) convert_kernel(To *y, const From *x, size_t n) {
    const size_t i = ((size_t)blockIdx.x * THREADS + threadIdx.x) * 8;
    float v[8];
    if (WIDE && i + 8 <= n) {
        cuda_load8(v, x + i);
        cuda_store8(y + i, v);
    } else {
        for (size_t j = i; j < n && j < i + 8; j++) y[j] = cuda_from_float<To>(cuda_to_float(x[j]));
    }
}
template <typename To, typename From> static void convert(cudaStream_t stream, To *y, const From *x, size_t n) {
    dim3 grid(cuda_blocks(n, 8 * THREADS)), block(THREADS);
    if (!n) return;
    if (cuda_wide(y, 0) && cuda_wide(x, 0))
        CUDA_LAUNCH((convert_kernel<To, From, true>), grid, block, 0, stream, y, x, n);
    else
        CUDA_LAUNCH((convert_kernel<To, From, false>), grid, block, 0, stream, y, x, n);
}
template <typename T> static void cast(cudaStream_t stream, void *y, const float *x, size_t n) {
    convert(stream, (T *)y, x, n);
}
template <typename T> static void widen(cudaStream_t stream, float *y, const void *x, size_t n) {
    convert(stream, y, (const T *)x, n);
}
void cuda_cast(pa_device *d, pa_type type, void *y, const float *x, size_t n) {
    CUDA_TYPED(type, cast, d->stream, y, x, n);
}
void cuda_widen(pa_device *d, pa_type type, float *y, const void *x, size_t n) {
    CUDA_TYPED(type, widen, d->stream, y, x, n);
}
void cuda_cast_bf16(cudaStream_t stream, void *y, const float *x, size_t n) {
    cast<__nv_bfloat16>(stream, y, x, n);
}
void cuda_widen_bf16(cudaStream_t stream, float *y, const void *x, size_t n) {
    widen<__nv_bfloat16>(stream, y, x, n);
}
