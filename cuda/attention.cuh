// attention.cuh: what both passes of attention share: rows, dropout, and the plain form: float32 arithmetic by tiles in
// shared memory, for float32 and for what has no tensor-core form. Only attention_*.cu include it. Knows nothing of the
// model.
//
// The plain form. 128 threads multiply a tile of ROWS rows with a tile of COLS, both of DP dims (D, filled up with
// zeros), all in float32. Thread (ty, tx) = (thread / 8, thread % 8) has rows ty R .. + R - 1 and columns tx C .. + C -
// 1 of the product, and of a sum of columns, weighted by such products, the same rows and dims 32 v + 4 tx .. + 3. A
// row of weights is written and read within eight lanes.
#ifndef PA_CUDA_ATTENTION_CUH
#define PA_CUDA_ATTENTION_CUH

#include "cuda/rows.cuh"
#include "host/base/philox.h"

// Dropout of the weights, as kernels take it.
struct attn_dropout {
    uint64_t seed;
    const uint64_t *window; // (B)
    uint32_t layer, limit;  // draws below the limit drop; 0: no dropout
    float kept;             // 1 / (1 - p)
};
static inline attn_dropout attn_dropout_of(const pa_dropout &d) {
    if (!(d.p > 0)) return attn_dropout{0, nullptr, 0, 0, 1};
    return attn_dropout{d.seed, d.window, d.layer, (uint32_t)((double)d.p * 4294967296.0),
                        (float)(1.0 / (1.0 - (double)d.p))};
}
// The CPU's draw for the weights of query n for keys m .. m + 3, m a multiple of 4.
static __device__ __forceinline__ pa_philox attn_draw(const attn_dropout &d, uint64_t window, int h, int n, int m) {
    const uint64_t index =
        1ull << 63 | (uint64_t)d.layer << 52 | (uint64_t)h << 40 | (uint64_t)n << 20 | (uint64_t)(m / 4);
    return pa_random(d.seed, PA_RANDOM_DROPOUT, window, index);
}
// What the weights of query n for keys m .. m + C - 1 are multiplied by; m a multiple of C, which divides 4.
template <int C>
static __device__ __forceinline__ void attn_keep(float keep[C], const attn_dropout &d, uint64_t window, int h, int n,
                                                 int m) {
#pragma unroll
    for (int j = 0; j < C; j++) keep[j] = 1;
    if (!d.limit) return;
    const pa_philox r = attn_draw(d, window, h, n, m);
#pragma unroll
    for (int j = 0; j < C; j++) {
        uint32_t v = r.v[j];
        if (C == 2) v = m % 4 ? r.v[2 + j] : r.v[j];
        keep[j] = v < d.limit ? 0.0f : d.kept;
    }
}

// Where head h of query n, or of key m, of sequence b is.
template <typename T, typename V>
static __device__ __forceinline__ T *attn_query(const pa_attn &a, V *base, ptrdiff_t ld, int b, int h, int n) {
    return (T *)base + ((ptrdiff_t)b * a.latents + n) * ld + (ptrdiff_t)h * a.dim_head;
}
template <typename T, typename V>
static __device__ __forceinline__ T *attn_key(const pa_attn &a, V *prefix, V *own, int b, int h, int m) {
    const ptrdiff_t row = m < a.kept ? (ptrdiff_t)b * a.kept + m : (ptrdiff_t)b * a.latents + m - a.kept;
    return (T *)(m < a.kept ? prefix : own) + row * a.ldkv + (ptrdiff_t)h * a.dim_head;
}

// Whether every row of all operands starts at a multiple of 16 bytes.
static inline bool attn_wide(const pa_attn *a) {
    return cuda_wide(a->q, a->ldq) && cuda_wide(a->kp, a->ldkv) && cuda_wide(a->vp, a->ldkv) &&
           cuda_wide(a->kn, a->ldkv) && cuda_wide(a->vn, a->ldkv) && a->ldo % 8 == 0;
}

enum { ATTN_THREADS = 128 };

template <int DIMS> struct attn_plain {
    enum {
        DP = DIMS,
        ROWS = DP > 64 ? 32 : 64,
        COLS = DP > 64 ? 16 : 32,
        R = ROWS / 16,
        C = COLS / 8,
        LD = DP + 4, // floats from row to row: eight lanes' four floats each are in different banks
        LDW = COLS + 4,
        VECTORS = DP / 32,
        ROW_TILE = ROWS * LD,
        COL_TILE = COLS * LD,
        WEIGHTS = ROWS * LDW
    };
    // If every thread has EACH neighbouring rows of a tile, row i lies where row i / EACH of its i % EACH-th does.
    template <int COUNT, int EACH> static __device__ __forceinline__ int place(int i) {
        return i % EACH * (COUNT / EACH) + i / EACH;
    }
    // `from` gives the address of row i, NULL for zeros.
    template <typename T, int COUNT, int EACH, typename F>
    static __device__ __forceinline__ void load(float *to, int D, bool wide, F from) {
        for (int i = threadIdx.x; i < COUNT * (DP / 8); i += ATTN_THREADS) {
            const int row = i / (DP / 8), d = i % (DP / 8) * 8;
            const T *x = from(row);
            float v[8] = {0, 0, 0, 0, 0, 0, 0, 0};
            if (x && d < D) {
                if (wide) {
                    cuda_load8(v, x + d);
                } else {
#pragma unroll
                    for (int j = 0; j < 8; j++) v[j] = cuda_to_float(x[d + j]);
                }
            }
            cuda_store8(to + place<COUNT, EACH>(row) * LD + d, v);
        }
    }
    template <typename T, typename F>
    static __device__ __forceinline__ void load_rows(float *to, int D, bool wide, F from) {
        load<T, ROWS, R>(to, D, wide, from);
    }
    template <typename T, typename F>
    static __device__ __forceinline__ void load_cols(float *to, int D, bool wide, F from) {
        load<T, COLS, C>(to, D, wide, from);
    }

    // s = rows cols^T
    static __device__ __forceinline__ void product(float s[R][C], const float *rows, const float *cols) {
        const int ty = threadIdx.x / 8, tx = threadIdx.x % 8;
#pragma unroll
        for (int i = 0; i < R; i++)
#pragma unroll
            for (int j = 0; j < C; j++) s[i][j] = 0;
#pragma unroll 4
        for (int d = 0; d < DP; d += 4) {
            float4 x[R], y[C];
#pragma unroll
            for (int i = 0; i < R; i++) x[i] = *reinterpret_cast<const float4 *>(rows + (i * 16 + ty) * LD + d);
#pragma unroll
            for (int j = 0; j < C; j++) y[j] = *reinterpret_cast<const float4 *>(cols + (j * 8 + tx) * LD + d);
#pragma unroll
            for (int i = 0; i < R; i++)
#pragma unroll
                for (int j = 0; j < C; j++)
                    s[i][j] += x[i].x * y[j].x + x[i].y * y[j].y + x[i].z * y[j].z + x[i].w * y[j].w;
        }
    }

    // This thread's weights, for accumulate.
    static __device__ __forceinline__ void put(float *weights, const float w[R][C]) {
        const int ty = threadIdx.x / 8, tx = threadIdx.x % 8;
        __syncwarp();
#pragma unroll
        for (int i = 0; i < R; i++)
#pragma unroll
            for (int j = 0; j < C; j++) weights[(i * 16 + ty) * LDW + tx * C + j] = w[i][j];
        __syncwarp();
    }
    // sum += weights cols
    static __device__ __forceinline__ void accumulate(float sum[R][VECTORS * 4], const float *weights,
                                                      const float *cols) {
        const int ty = threadIdx.x / 8, tx = threadIdx.x % 8;
#pragma unroll 4
        for (int m = 0; m < COLS; m += 4) {
            float4 w[R];
#pragma unroll
            for (int i = 0; i < R; i++) w[i] = *reinterpret_cast<const float4 *>(weights + (i * 16 + ty) * LDW + m);
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const float *col = cols + place<COLS, C>(m + k) * LD + tx * 4;
#pragma unroll
                for (int v = 0; v < VECTORS; v++) {
                    const float4 y = *reinterpret_cast<const float4 *>(col + v * 32);
#pragma unroll
                    for (int i = 0; i < R; i++) {
                        const float x = k == 0 ? w[i].x : k == 1 ? w[i].y : k == 2 ? w[i].z : w[i].w;
                        sum[i][v * 4] += x * y.x, sum[i][v * 4 + 1] += x * y.y, sum[i][v * 4 + 2] += x * y.z,
                            sum[i][v * 4 + 3] += x * y.w;
                    }
                }
            }
        }
    }
    // A row of a sum, times factor.
    template <typename T>
    static __device__ __forceinline__ void store(T *to, const float sum[VECTORS * 4], float factor, int D) {
        const int tx = threadIdx.x % 8;
#pragma unroll
        for (int v = 0; v < VECTORS; v++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (v * 32 + tx * 4 + j < D) to[v * 32 + tx * 4 + j] = cuda_from_float<T>(sum[v * 4 + j] * factor);
    }
};

// Launches kernel<T, DP> with more than 48 KB of shared memory where it needs them.
#define ATTN_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                                    \
    do {                                                                                                               \
        const int bytes_ = (int)(shared_bytes);                                                                        \
        if (bytes_ > 48 << 10)                                                                                         \
            cudaFuncSetAttribute((const void *)(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, bytes_);         \
        CUDA_LAUNCH(kernel, grid, block, bytes_, stream, __VA_ARGS__);                                                 \
    } while (0)

#endif
