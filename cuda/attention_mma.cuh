// attention_mma.cuh: what both passes of attention share in their tensor-core form: tiles in shared memory and
// fragments of them. Only attention_*.cu include it. Knows nothing of the model.
//
// One form serves two architectures: m16n8k16 and cp.async from sm_80 on; on sm_75 two m16n8k8, whose fragments are the
// halves of the other's, and plain copies. A block is 4 warps; a warp multiplies 16 rows (MT times 16) by all columns
// of a tile, with sums in registers. Letters g, t as in device.cuh: a lane's element i of a 16 by 8 product is at row g
// + 8 (i / 2), column 2t + i % 2.
#ifndef PA_CUDA_ATTENTION_MMA_CUH
#define PA_CUDA_ATTENTION_MMA_CUH

#include "cuda/attention.cuh"

template <typename T> static __device__ __forceinline__ uint32_t attn_pack(float low, float high);
template <> __device__ __forceinline__ uint32_t attn_pack<__half>(float low, float high) {
    const __half2 v = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&v);
}
template <> __device__ __forceinline__ uint32_t attn_pack<__nv_bfloat16>(float low, float high) {
    const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&v);
}

template <typename T, int A, int DIMS> struct attn_mma {
    enum { ARCH = A, DP = DIMS, CHUNKS = DP / 8, STEPS = DP / 16 }; // D is filled up to DP with zeros

    // Whether this build's code for an architecture is this form's; the other's is empty.
    static __device__ constexpr bool here() {
#ifdef __CUDA_ARCH__
        return (ARCH >= 80) == (__CUDA_ARCH__ >= 800);
#else
        return true;
#endif
    }

    // Tiles (rows, DP): dims 8 chunk .. + 7 of a row. Chunks change places by the row, so that eight rows' same chunk
    // is in all banks.
    static __device__ __forceinline__ T *at(T *tile, int row, int chunk) {
        return tile + row * DP + (chunk ^ (row & 7)) * 8;
    }
    // Rows of one head in device memory. A thread reads the same chunk of each row. Places are counted in chunks of 16
    // bytes from the arrays' start, in 32 bits (64 GB): they take half the registers of addresses, and keys and values
    // have the same. Keys from `kept` on are in the other array; `own` is where row 0 would be there, and may wrap
    // around.
    struct rows_of {
        const uint4 *base;
        uint32_t first, ld;
        __device__ __forceinline__ const uint4 *at(int n) const {
            return base + (first + (uint32_t)n * ld);
        }
    };
    struct keys_of {
        const uint4 *prefix, *latent;
        uint32_t first, own, ld;
        int kept;
        __device__ __forceinline__ const uint4 *at(int m) const {
            const uint32_t row = (uint32_t)m * ld;
            return m < kept ? prefix + (first + row) : latent + (own + row);
        }
    };
    static __device__ __forceinline__ rows_of queries(const pa_attn &a, const void *base, ptrdiff_t ld, int b, int h) {
        const uint32_t chunks = (uint32_t)(ld / 8);
        return {(const uint4 *)base, (uint32_t)(b * a.latents) * chunks + column(a, h), chunks};
    }
    static __device__ __forceinline__ keys_of keys(const pa_attn &a, const void *prefix, const void *latent, int b,
                                                   int h) {
        const uint32_t ld = (uint32_t)(a.ldkv / 8);
        return {(const uint4 *)prefix,
                (const uint4 *)latent,
                (uint32_t)(b * a.kept) * ld + column(a, h),
                (uint32_t)(b * a.latents - a.kept) * ld + column(a, h),
                ld,
                a.kept};
    }
    static __device__ __forceinline__ uint32_t column(const pa_attn &a, int h) {
        return (uint32_t)(h * a.dim_head / 8) + threadIdx.x % CHUNKS;
    }
    // Copies a tile: rows begin .. + ROWS - 1; rows from `end` on are zeros. `fetch` starts it and `land` ends it, for
    // this thread. Where there is no cp.async a tile waits in registers in between, so that mathematics need not wait
    // for the loads. A thread copies every EACH-th row: EACH is a multiple of 8, so their chunks' places are a constant
    // apart.
    enum { EACH = ATTN_THREADS / CHUNKS };
    template <int ROWS> struct moving { uint4 x[ARCH >= 80 ? 1 : ROWS / EACH]; };
    template <int ROWS, typename S>
    static __device__ __forceinline__ void fetch(moving<ROWS> &held, T *tile, int D, const S &source, int begin,
                                                 int end) {
        static_assert(EACH % 8 == 0 && ROWS % EACH == 0, "a thread's rows");
        const int first = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
        const int left = chunk * 8 < D ? end - begin - first : 0;
#pragma unroll
        for (int i = 0; i < ROWS; i += EACH) {
            const uint4 *x = source.at(begin + first + i);
            if (ARCH >= 80)
                cuda_cp_async_16(at(tile, first, chunk) + i * DP, x, i < left);
            else
                held.x[i / EACH] = i < left ? *x : uint4{0, 0, 0, 0};
        }
    }
    template <int ROWS> static __device__ __forceinline__ void land(const moving<ROWS> &held, T *tile) {
#pragma unroll
        for (int i = 0; i < ROWS; i += EACH)
            if (ARCH < 80)
                *reinterpret_cast<uint4 *>(at(tile, threadIdx.x / CHUNKS, threadIdx.x % CHUNKS) + i * DP) =
                    held.x[i / EACH];
    }
    template <int ROWS, typename S>
    static __device__ __forceinline__ void copy(T *tile, int D, const S &source, int begin, int end) {
        moving<ROWS> held;
        fetch(held, tile, D, source, begin, end);
        land(held, tile);
    }
    static __device__ __forceinline__ void commit() {
        if (ARCH >= 80) cuda_cp_async_commit();
    }
    // For this thread's copies; a barrier is to follow.
    static __device__ __forceinline__ void wait() {
        if (ARCH >= 80) cuda_cp_async_wait<0>();
    }

    static __device__ __forceinline__ void mma(float d[4], const uint32_t a[4], const uint32_t b[2]) {
        if (ARCH >= 80) {
            cuda_mma_m16n8k16<T>(d, a, b);
        } else {
            cuda_mma_m16n8k8(d, a, b[0]);
            cuda_mma_m16n8k8(d, a + 2, b[1]);
        }
    }
    // Rows row .. + 15, dims 16 step .. + 15, as a.
    static __device__ __forceinline__ void rows(uint32_t a[4], T *tile, int row, int step) {
        const int lane = threadIdx.x % 32;
        cuda_ldmatrix_x4(a, at(tile, row + lane % 16, 2 * step + lane / 16));
    }
    // The same as b, summed over dims: b[0], b[1] for columns row .. + 7, b[2], b[3] for the next 8.
    static __device__ __forceinline__ void columns(uint32_t b[4], T *tile, int row, int step) {
        const int lane = threadIdx.x % 32;
        cuda_ldmatrix_x4(b, at(tile, row + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2));
    }
    // The same as b, summed over rows: b[0], b[1] for columns (dims) 16 step .. + 7, b[2], b[3] for the next 8.
    static __device__ __forceinline__ void dims(uint32_t b[4], T *tile, int row, int step) {
        const int lane = threadIdx.x % 32;
        cuda_ldmatrix_x4_trans(b, at(tile, row + lane % 16, 2 * step + lane / 16));
    }

    // s (16 MT, 8 N) = a tile^T: 32 MT N DP 8 flop a warp.
    template <int MT, int N>
    static __device__ __forceinline__ void product(float s[MT][N][4], const uint32_t a[MT][STEPS][4], T *tile) {
        zero<MT, N>(s);
#pragma unroll
        for (int step = 0; step < STEPS; step++)
#pragma unroll
            for (int n = 0; n < N; n += 2) {
                uint32_t b[4];
                columns(b, tile, n * 8, step);
#pragma unroll
                for (int i = 0; i < MT; i++) mma(s[i][n], a[i][step], b), mma(s[i][n + 1], a[i][step], b + 2);
            }
    }
    // The same with a read from rows row .. of another tile.
    template <int MT, int N>
    static __device__ __forceinline__ void product(float s[MT][N][4], T *left, int row, T *tile) {
        zero<MT, N>(s);
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            uint32_t a[MT][4], b[4];
#pragma unroll
            for (int i = 0; i < MT; i++) rows(a[i], left, row + i * 16, step);
#pragma unroll
            for (int n = 0; n < N; n += 2) {
                columns(b, tile, n * 8, step);
#pragma unroll
                for (int i = 0; i < MT; i++) mma(s[i][n], a[i], b), mma(s[i][n + 1], a[i], b + 2);
            }
        }
    }
    // sum (16 MT, DP) += w (16 MT, 8 N) tile, w rounded to T.
    template <int MT, int N>
    static __device__ __forceinline__ void accumulate(float sum[MT][CHUNKS][4], const float w[MT][N][4], T *tile) {
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t a[MT][4], b[4];
#pragma unroll
            for (int i = 0; i < MT; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    a[i][j] = attn_pack<T>(w[i][n + j / 2][j % 2 * 2], w[i][n + j / 2][j % 2 * 2 + 1]);
#pragma unroll
            for (int step = 0; step < STEPS; step++) {
                dims(b, tile, n * 8, step);
#pragma unroll
                for (int i = 0; i < MT; i++) mma(sum[i][2 * step], a[i], b), mma(sum[i][2 * step + 1], a[i], b + 2);
            }
        }
    }
    template <int MT, int N> static __device__ __forceinline__ void zero(float s[MT][N][4]) {
#pragma unroll
        for (int i = 0; i < MT * N * 4; i++) s[i / 4 / N][i / 4 % N][i % 4] = 0;
    }
    // Row g + 8 half of a sum, times factor.
    static __device__ __forceinline__ void store(T *to, const float sum[CHUNKS][4], int half, float factor, int D) {
        const int t = threadIdx.x % 4;
#pragma unroll
        for (int n = 0; n < CHUNKS; n++)
            if (n * 8 < D)
                *reinterpret_cast<uint32_t *>(to + n * 8 + t * 2) =
                    attn_pack<T>(sum[n][half * 2] * factor, sum[n][half * 2 + 1] * factor);
    }
};

static __device__ __forceinline__ void attn_swap(bool really, uint32_t &x, uint32_t &y) {
    const uint32_t was = x;
    x = really ? y : x, y = really ? was : y;
}
// What a product's elements are multiplied by whose rows are queries n .. + 15 and whose columns are keys m .. + 7: a
// draw serves the four elements of two lanes in one row; each of the two makes one row's.
static __device__ __forceinline__ void attn_keep_rows(float keep[4], const attn_dropout &d, uint64_t window, int h,
                                                      int n, int m) {
    const int lane = threadIdx.x % 32, t = lane % 4;
    const bool odd = t % 2;
    pa_philox r = attn_draw(d, window, h, n + lane / 4 + 8 * odd, m + t / 2 * 4);
    attn_swap(odd, r.v[0], r.v[2]),
        attn_swap(odd, r.v[1], r.v[3]); // v[0], v[1] are this lane's, the others the neighbour's
    uint32_t v[4] = {r.v[0], r.v[1], __shfl_xor_sync(0xffffffffu, r.v[2], 1), __shfl_xor_sync(0xffffffffu, r.v[3], 1)};
    attn_swap(odd, v[0], v[2]), attn_swap(odd, v[1], v[3]);
#pragma unroll
    for (int i = 0; i < 4; i++) keep[i] = v[i] < d.limit ? 0.0f : d.kept;
}
// The same where rows are keys m .. + 15 and columns queries n .. + 7: a draw serves one element of each of four lanes
// in one column; each of the four makes one element's.
static __device__ __forceinline__ void attn_keep_columns(float keep[4], const attn_dropout &d, uint64_t window, int h,
                                                         int n, int m) {
    const int lane = threadIdx.x % 32, g = lane / 4, own = g % 4;
    pa_philox r = attn_draw(d, window, h, n + lane % 4 * 2 + own % 2, m + own / 2 * 8 + g / 4 * 4);
    uint32_t *v = r.v;
    // v[x] becomes what lane own ^ x needs of this draw, then what this lane needs of that one's, then element i's.
    attn_swap(own & 1, v[0], v[1]), attn_swap(own & 1, v[2], v[3]), attn_swap(own & 2, v[0], v[2]),
        attn_swap(own & 2, v[1], v[3]);
#pragma unroll
    for (int x = 1; x < 4; x++) v[x] = __shfl_xor_sync(0xffffffffu, v[x], x * 4);
    attn_swap(own & 1, v[0], v[1]), attn_swap(own & 1, v[2], v[3]), attn_swap(own & 2, v[0], v[2]),
        attn_swap(own & 2, v[1], v[3]);
#pragma unroll
    for (int i = 0; i < 4; i++) keep[i] = v[i] < d.limit ? 0.0f : d.kept;
}

// Which form a call takes: 80 or 75, or 0: the plain one.
static inline int attn_form(const pa_attn *a, bool wide) {
    const int arch = cuda_arch();
    if (a->type == PA_TYPE_F32 || !wide) return 0;
    return arch >= 80 ? 80 : arch == 75 && a->type == PA_TYPE_F16 ? 75 : 0;
}

// Calls function<T, ARCH, DIMS, DROP>(arguments); a form of 75 or 80.
#define ATTN_FORM(form, a, function, ...)                                                                              \
    do {                                                                                                               \
        if ((form) == 75)                                                                                              \
            ATTN_FORM_DIMS(__half, 75, a, function, __VA_ARGS__);                                                      \
        else if ((a)->type == PA_TYPE_F16)                                                                             \
            ATTN_FORM_DIMS(__half, 80, a, function, __VA_ARGS__);                                                      \
        else                                                                                                           \
            ATTN_FORM_DIMS(__nv_bfloat16, 80, a, function, __VA_ARGS__);                                               \
    } while (0)
#define ATTN_FORM_DIMS(T, ARCH, a, function, ...)                                                                      \
    do {                                                                                                               \
        if ((a)->dim_head <= 64)                                                                                       \
            ATTN_FORM_DROP(T, ARCH, 64, a, function, __VA_ARGS__);                                                     \
        else                                                                                                           \
            ATTN_FORM_DROP(T, ARCH, 128, a, function, __VA_ARGS__);                                                    \
    } while (0)
#define ATTN_FORM_DROP(T, ARCH, DIMS, a, function, ...)                                                                \
    do {                                                                                                               \
        if ((a)->dropout.p > 0)                                                                                        \
            function<T, ARCH, DIMS, true>(__VA_ARGS__);                                                                \
        else                                                                                                           \
            function<T, ARCH, DIMS, false>(__VA_ARGS__);                                                               \
    } while (0)

#endif
