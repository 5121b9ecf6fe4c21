// gemv.cu: products of few rows with a matrix, as decoding has them, with the layer norm before and the activation and
// residual after them; and weights of 8 bits. Limited by reading in out elements of weights, once for up to 8 streams.
// What an SM has on its way decides how fast that is (decode.cu).
#include <type_traits>

#include "cuda/activation.cuh"
#include "cuda/rows.cuh"

enum { WARPS = 4, MOST_STREAMS = 8 }; // of a block; streams a pass over the weights

template <> __device__ __forceinline__ float cuda_to_float(int8_t x) {
    return (float)x;
}

// Eight neighbours as they lie in memory, aligned to their size or to 16 bytes. A lane asks for TURN of them at once:
// 64 bytes.
template <typename T> struct eight {
    typedef typename std::conditional<sizeof(T) == 1, uint2, uint4>::type word;
    enum { WORDS = (int)(8 * sizeof(T) / sizeof(word)), TURN = (int)(8 / sizeof(T)) };
    word bits[WORDS];
};
// A row's columns from `first` on.
template <typename T>
static __device__ __forceinline__ void ask_turn(eight<T> e[eight<T>::TURN], const T *row, int first, int in) {
#pragma unroll
    for (int g = 0; g < eight<T>::TURN; g++) {
        const int i = first + 256 * g + 8 * (threadIdx.x % 32);
        const typename eight<T>::word *from = reinterpret_cast<const typename eight<T>::word *>(row + i);
        if (i >= in) continue;
#pragma unroll
        for (int k = 0; k < eight<T>::WORDS; k++) e[g].bits[k] = from[k];
    }
}
template <typename T> static __device__ __forceinline__ void unpack(float x[8], const eight<T> &e) {
    const T *t = reinterpret_cast<const T *>(&e);
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = cuda_to_float(t[i]);
}

// What stands before and after a product (host/model/ops.h, pa_gemv).
struct around {
    const float *norm_w, *norm_b;
    bool activates, adds;
    pa_activation kind;
};

// Sum of f(x) over a row, by a warp.
template <bool WIDE, typename F> static __device__ __forceinline__ float row_sum(const float *x, int in, F f) {
    enum { EACH = WIDE ? 8 : 1 };
    float sum = 0, v[8];
#pragma unroll 4
    for (int i = threadIdx.x % 32 * EACH; i < in; i += 32 * EACH) {
        if (WIDE)
            cuda_load8(v, x + i);
        else
            v[0] = x[i];
#pragma unroll
        for (int j = 0; j < EACH; j++) sum += f(v[j]);
    }
    return cuda_warp_sum(sum);
}

// Mean and 1 / deviation of a row of x, by a warp, summed as norm.cu does.
template <bool WIDE> static __device__ void statistics(float *mean, float *rstd, const float *x, int in) {
    const float m = row_sum<WIDE>(x, in, [](float v) { return v; }) / in;
    const float squares = row_sum<WIDE>(x, in, [&](float v) { return (v - m) * (v - m); });
    const float s = 1 / sqrtf(squares / in + 1e-5f);
    if (threadIdx.x % 32 == 0) *mean = m, *rstd = s;
}

// sum += rows x, for a turn's columns from `first` on.
template <typename T, int STREAMS, int ROWS>
static __device__ __forceinline__ void add_turn(float sum[ROWS][STREAMS], const eight<T> row[ROWS][eight<T>::TURN],
                                                const float *x, int first, const around &r, const float *mean,
                                                const float *rstd, int streams, int in) {
#pragma unroll
    for (int g = 0; g < eight<T>::TURN; g++) {
        const int i = first + 256 * g + 8 * (threadIdx.x % 32);
        if (i >= in) continue;
        float a[ROWS][8], b[8], scale[8], offset[8];
#pragma unroll
        for (int k = 0; k < ROWS; k++) unpack(a[k], row[k][g]);
        if (r.norm_w) cuda_load8(scale, r.norm_w + i), cuda_load8(offset, r.norm_b + i);
#pragma unroll
        for (int s = 0; s < STREAMS; s++) {
            if (s && s >= streams) break;
            cuda_load8(b, x + (size_t)s * in + i);
            if (r.norm_w) {
#pragma unroll
                for (int j = 0; j < 8; j++) b[j] = (b[j] - mean[s]) * rstd[s] * scale[j] + offset[j];
            }
#pragma unroll
            for (int k = 0; k < ROWS; k++)
#pragma unroll
                for (int j = 0; j < 8; j++) sum[k][s] += a[k][j] * b[j];
        }
    }
}

// A warp ROWS rows. WIDE: rows are whole groups of eight. STREAMS: most of them. scale NULL: 1. in out elements of w
// read, 2 in out flop a stream; x, and with a norm its weights, come from the cache, once a warp: 4 in bytes a stream,
// so that with many streams two rows share them. A block asks for 8 KB of w (16 with two rows) before it takes the
// norm's statistics, which it does again for its rows (8 in bytes a stream from the cache): they take no longer than
// w's first bytes. Nothing is read across __syncwarp, without which ptxas asks for one after another to save registers.
template <typename T, bool WIDE, int STREAMS, int ROWS>
__global__ void __launch_bounds__(32 * WARPS) gemv_kernel(float *y, const float *x, const T *w, const float *scale,
                                                          const float *bias, around r, int streams, int in, int out) {
    __shared__ float mean[STREAMS], rstd[STREAMS];
    const int row = (blockIdx.x * WARPS + threadIdx.x / 32) * ROWS, lane = threadIdx.x % 32;
    const T *from[ROWS];
    eight<T> a[ROWS][eight<T>::TURN];
    float sum[ROWS][STREAMS] = {}, mine = 0;
    cuda_let_next_start();
#pragma unroll
    for (int k = 0; k < ROWS; k++) {
        from[k] = w + (size_t)min(row + k, out - 1) * in;
        if (WIDE) ask_turn(a[k], from[k], 0, in); // weights: nothing writes them meanwhile
    }
    cuda_await_earlier();
    if (r.norm_w) {
        for (int s = threadIdx.x / 32; s < streams; s += WARPS)
            statistics<WIDE>(&mean[s], &rstd[s], x + (size_t)s * in, in);
        __syncthreads();
    }
    if (row >= out) return;
    for (int first = 0; WIDE && first < in; first += 256 * eight<T>::TURN) {
#pragma unroll
        for (int k = 0; first && k < ROWS; k++) ask_turn(a[k], from[k], first, in);
        __syncwarp();
        add_turn<T, STREAMS, ROWS>(sum, a, x, first, r, mean, rstd, streams, in);
    }
    for (int i = lane; !WIDE && i < in; i += 32)
        for (int s = 0; s < STREAMS && s < streams; s++) {
            float b = x[(size_t)s * in + i];
            if (r.norm_w) b = (b - mean[s]) * rstd[s] * r.norm_w[i] + r.norm_b[i];
#pragma unroll
            for (int k = 0; k < ROWS; k++) sum[k][s] += cuda_to_float(from[k][i]) * b;
        }
#pragma unroll
    for (int k = 0; k < ROWS * STREAMS; k++) { // lane s ROWS + k has stream s of row k
        if (k / ROWS && k / ROWS >= streams) break;
        const float all = cuda_warp_sum(sum[k % ROWS][k / ROWS]);
        if (lane == k) mine = all;
    }
    const int own = row + lane % ROWS;
    if (lane >= streams * ROWS || own >= out) return;
    if (scale) mine *= scale[own];
    if (bias) mine += bias[own];
    if (r.activates) mine = activation<float>(r.kind, false, mine);
    y += (size_t)(lane / ROWS) * out + own;
    *y = r.adds ? *y + mine : mine;
}

template <typename T> static void gemv(cudaStream_t stream, const pa_gemv *a, const float *scale) {
    const int in = a->in, out = a->out;
    const around r = {a->norm_w, a->norm_b, a->activates, a->adds, a->kind};
    const T *w = (const T *)a->w;
    for (int s = 0; s < a->streams; s += MOST_STREAMS) {
        const int n = a->streams - s < MOST_STREAMS ? a->streams - s : MOST_STREAMS;
        const float *x = a->x + (size_t)s * in;
        float *y = a->y + (size_t)s * out;
#define LAUNCH(WIDE, STREAMS, ROWS)                                                                                    \
    CUDA_LAUNCH_EARLY((gemv_kernel<T, WIDE, STREAMS, ROWS>), dim3(cuda_blocks(out, WARPS *ROWS)), dim3(32 * WARPS),    \
                      stream, y, x, w, scale, a->bias, r, n, in, out)
        if (!cuda_wide(w, in) || !cuda_wide(x, in) || !cuda_wide(r.norm_w, in) || !cuda_wide(r.norm_b, in))
            LAUNCH(false, MOST_STREAMS, 1);
        else if (n == 1)
            LAUNCH(true, 1, 1);
        else
            LAUNCH(true, MOST_STREAMS, 2);
#undef LAUNCH
    }
}

void cuda_gemv(pa_device *d, const pa_gemv *a) {
    CUDA_TYPED(a->type, gemv, d->stream, a, NULL);
}
void cuda_gemv_int8(pa_device *d, const pa_gemv *a) {
    gemv<int8_t>(d->stream, a, a->scale);
}

// A warp a row, read twice: 8 in bytes read, 5 in written.
static __global__ void __launch_bounds__(32 * WARPS)
    round_int8_kernel(int8_t *q, float *scale, float *w, int rows, int in) {
    const int row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    w += (size_t)row * in, q += (size_t)row * in;
    float most = 0, sum = 0;
    for (int i = lane; i < in; i += 32) most = fmaxf(most, fabsf(w[i])), sum += w[i] * 0;
    most = cuda_warp_max(most) + cuda_warp_sum(sum);                            // what is not finite stays so
    const float step = most / 127, inverse = most > 1e-30f ? 127 / most : 0.0f; // else not a number of 8 bits
    for (int i = lane; i < in; i += 32) {
        float x = w[i] * inverse;
        q[i] = (int8_t)(x == x ? rintf(x) : 0.0f);
        w[i] = step * q[i];
    }
    if (lane == 0) scale[row] = step;
}
void cuda_round_int8(pa_device *d, int8_t *q, float *scale, float *w, int rows, int in) {
    CUDA_LAUNCH(round_int8_kernel, dim3(cuda_blocks(rows, WARPS)), dim3(32 * WARPS), 0, d->stream, q, scale, w, rows,
                in);
}
