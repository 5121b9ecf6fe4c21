// decode.cu: what a decoding step needs beyond the row kernels: attention of one query a stream against a cache, and
// products of few rows with a matrix. Both are limited by reading: 2 S H (length + 1) D elements of cache; in out
// elements of weights, once for up to 4 streams. What an SM has on its way decides how fast that is: an H100 wants some
// 18 KB (3.35 TB/s times 0.7 us over 132 SMs), a T4 5 KB.
#include "cuda/rows.cuh"

enum { THREADS = 128, WARPS = THREADS / 32, UNROLL = 4, SPLIT_KEYS = 128, MOST_SPLITS = CUDA_DECODE_SPLITS };

// Softmax over some keys so far: largest score, sum of exponentials (base 2) below it, and 8 dims of the weighted sum
// of values.
struct __align__(8) partial {
    float top, sum, o[8];
};

static_assert(sizeof(partial) == CUDA_DECODE_PARTIAL, "cuda/sizes.h");

static __device__ __forceinline__ partial nothing() {
    return {-INFINITY, 0, {0, 0, 0, 0, 0, 0, 0, 0}};
}

static __device__ __forceinline__ void join(partial &a, const partial &b) {
    float top = fmaxf(a.top, b.top);
    float fa = a.top == top ? 1.0f : exp2f(a.top - top), fb = b.top == top ? 1.0f : exp2f(b.top - top);
    a.top = top, a.sum = a.sum * fa + b.sum * fb;
#pragma unroll
    for (int i = 0; i < 8; i++) a.o[i] = a.o[i] * fa + b.o[i] * fb;
}

static __device__ __forceinline__ partial shuffled(const partial &p, int mask) {
    partial q;
    q.top = __shfl_xor_sync(0xffffffffu, p.top, mask), q.sum = __shfl_xor_sync(0xffffffffu, p.sum, mask);
#pragma unroll
    for (int i = 0; i < 8; i++) q.o[i] = __shfl_xor_sync(0xffffffffu, p.o[i], mask);
    return q;
}

// Joins what a block's threads have: thread `part` below `parts` has the result. `lanes` neighbouring lanes (a power of
// two) hold a result, 8 dims each, in one order.
static __device__ partial join_block(partial p, partial (*shared)[16], int lanes, int parts) {
    const int lane = threadIdx.x % 32;
    for (int step = lanes; step < 32; step *= 2) join(p, shuffled(p, step));
    if (lane < parts) shared[threadIdx.x / 32][lane] = p;
    __syncthreads();
    if (threadIdx.x < parts)
        for (int w = 1; w < WARPS; w++) join(p, shared[w][threadIdx.x]);
    return p;
}

// A thread's share of keys [from, to) of one head of one stream. `lanes` lanes share a key; all that a turn reads is
// asked for before any of it is used: 32 UNROLL bytes a lane in 16 bits.
template <typename T>
static __device__ partial attend(const T *k, const T *v, const float q[8], int from, int to, int D, int lanes) {
    const int lane = threadIdx.x % 32, part = lane % lanes, keys = 32 / lanes, stride = WARPS * keys;
    const int dim = part * 8 < D ? part * 8 : 0; // lanes beyond D read the first dims and count for nothing
    partial p = nothing();
    // The same number of turns for every lane, so that all meet at the shuffles.
    for (int base = from + threadIdx.x / 32 * keys + lane / lanes, turn = from; turn < to;
         base += stride * UNROLL, turn += stride * UNROLL) {
        float score[UNROLL], top = p.top, x[UNROLL][8], y[UNROLL][8];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            const int m = base + u * stride;
            const size_t at = (size_t)(m < to ? m : from) * D + dim;
            cuda_load8(x[u], k + at), cuda_load8(y[u], v + at);
        }
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            score[u] = 0;
#pragma unroll
            for (int i = 0; i < 8; i++) score[u] += q[i] * x[u][i];
        }
        for (int step = 1; step < lanes; step *= 2)
#pragma unroll
            for (int u = 0; u < UNROLL; u++) score[u] += __shfl_xor_sync(0xffffffffu, score[u], step);
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            if (base + u * stride >= to) score[u] = -INFINITY;
            top = fmaxf(top, score[u]);
        }
        if (top == -INFINITY) continue; // nothing seen by this group of lanes yet; no meeting point follows
        const float factor = exp2f(p.top - top);
        p.top = top, p.sum *= factor;
#pragma unroll
        for (int i = 0; i < 8; i++) p.o[i] *= factor;
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            const float w = exp2f(score[u] - top);
            p.sum += w;
#pragma unroll
            for (int i = 0; i < 8; i++) p.o[i] += w * y[u][i];
        }
    }
    return p;
}

// Grid (splits, S H): about 128 keys a block, at most 64 blocks a head. Each block's result goes to work, 5 D bytes
// written and read, then the last block of a head joins them in one order. 72 registers, so up to 7 blocks an SM, 4 KB
// a warp on its way; 4 D flop a key.
template <typename T>
__global__ void __launch_bounds__(THREADS)
    attn_decode_kernel(int H, int D, int lanes, const int *length, int capacity, float scale, ptrdiff_t ldq,
                       ptrdiff_t ldkv, const float *q, const float *k_new, const float *v_new, T *k, T *v, float *o,
                       partial *work, unsigned *arrived) {
    __shared__ partial shared[WARPS][16];
    __shared__ bool last;
    const int splits = gridDim.x, head = blockIdx.y, n = *length + 1, each = (n + splits - 1) / splits;
    const int from = min((int)blockIdx.x * each, n), to = min(from + each, n), part = threadIdx.x % lanes,
              parts = D / 8;
    const ptrdiff_t row = head / H, h = (ptrdiff_t)(head % H) * D;
    k += (size_t)head * capacity * D, v += (size_t)head * capacity * D;
    q += row * ldq + h, k_new += row * ldkv + h, v_new += row * ldkv + h;
    if (from < n && to == n) { // this position's own key and value
        for (int d = threadIdx.x; d < D; d += THREADS) {
            k[(size_t)(n - 1) * D + d] = cuda_from_float<T>(k_new[d]);
            v[(size_t)(n - 1) * D + d] = cuda_from_float<T>(v_new[d]);
        }
        __syncthreads();
    }
    float x[8];
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = part < parts ? q[part * 8 + i] * (scale * 1.44269504f) : 0.0f;
    partial p = join_block(attend(k, v, x, from, to, D, lanes), shared, lanes, parts);
    work += (size_t)head * splits * parts;
    if (threadIdx.x < parts) {
        work[blockIdx.x * parts + threadIdx.x] = p;
        __threadfence();
    }
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(&arrived[head], 1u) + 1 == (unsigned)splits;
    __syncthreads();
    if (!last) return;
    __threadfence();
    if (threadIdx.x == 0) arrived[head] = 0;
    p = nothing();
    if (part < parts)
        for (int s = threadIdx.x / lanes; s < splits; s += THREADS / lanes) join(p, work[s * parts + part]);
    p = join_block(p, shared, lanes, parts);
    if (threadIdx.x >= parts) return;
    for (int i = 0; i < 8; i++) o[(size_t)head * D + threadIdx.x * 8 + i] = p.o[i] / p.sum;
}

static int splits_of(int capacity) {
    int splits = (capacity + SPLIT_KEYS - 1) / SPLIT_KEYS;
    return splits < 1 ? 1 : splits > MOST_SPLITS ? MOST_SPLITS : splits;
}
template <typename T> static void attn_decode(cudaStream_t stream, const pa_attn_decode *a) {
    const int H = a->heads, D = a->dim_head;
    int lanes = 1;
    while (lanes * 8 < D) lanes *= 2;
    dim3 grid(splits_of(a->capacity), a->streams * H);
    partial *parts = (partial *)((char *)a->work + cuda_decode_counters(a->streams, H));
    CUDA_LAUNCH((attn_decode_kernel<T>), grid, dim3(THREADS), 0, stream, H, D, lanes, a->length, a->capacity, a->scale,
                a->ldq, a->ldkv, a->q, a->k_new, a->v_new, (T *)a->k, (T *)a->v, a->o, parts, (unsigned *)a->work);
}

void cuda_attn_decode(pa_device *d, const pa_attn_decode *a) {
    CUDA_TYPED(a->type, attn_decode, d->stream, a);
}

enum { GEMV_STREAMS = 4, GEMV_ROWS = 4 }; // streams a pass over the weights; rows a block, a warp each

template <> __device__ __forceinline__ float cuda_to_float(int8_t x) {
    return (float)x;
}
template <> __device__ __forceinline__ void cuda_load8<int8_t>(float x[8], const int8_t *p) {
    uint2 bits = *reinterpret_cast<const uint2 *>(p);
    const int8_t *t = reinterpret_cast<const int8_t *>(&bits);
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = (float)t[i];
}

// Eight neighbours of a row a lane, in GROUPS turns at once, then the rest in fewer. All of w is asked for before any
// is used: nothing is read across __syncwarp, without which ptxas asks for one after another to save registers.
template <typename T, int STREAMS, int GROUPS>
static __device__ __forceinline__ void gemv_row(float sum[STREAMS], const float *x, const T *row, int first,
                                                int streams, int in) {
    const int lane = threadIdx.x % 32;
    for (; GROUPS > 1 ? first + 256 * GROUPS <= in : first + 8 * lane < in; first += 256 * GROUPS) {
        float a[GROUPS][8], b[8];
#pragma unroll
        for (int g = 0; g < GROUPS; g++) cuda_load8(a[g], row + first + 256 * g + 8 * lane);
        if (GROUPS > 1) __syncwarp();
#pragma unroll
        for (int s = 0; s < STREAMS; s++) {
            if (s && s >= streams) break;
#pragma unroll
            for (int g = 0; g < GROUPS; g++) {
                cuda_load8(b, x + (size_t)s * in + first + 256 * g + 8 * lane);
#pragma unroll
                for (int j = 0; j < 8; j++) sum[s] += a[g][j] * b[j];
            }
        }
    }
    if constexpr (GROUPS > 1) gemv_row<T, STREAMS, GROUPS / 2>(sum, x, row, first, streams, in);
}

// A warp a row. WIDE: rows are whole groups of eight; 64 bytes of w a lane are on their way at once. STREAMS: most of
// them. scale NULL: 1. in out elements of w read, 2 in out flop a stream; x comes from the cache. A block's four warps
// have 8 KB of w on their way, and up to 11 blocks are on an SM with one stream, 6 with more (4 in int8), where `out`
// has rows enough: 4 a block.
template <typename T, bool WIDE, int STREAMS>
__global__ void __launch_bounds__(32 * GEMV_ROWS) gemv_kernel(float *y, const float *x, const T *w, const float *scale,
                                                              const float *bias, int streams, int in, int out) {
    const int row = blockIdx.x * GEMV_ROWS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= out) return;
    const T *from = w + (size_t)row * in;
    float sum[STREAMS] = {};
    if (WIDE) {
        gemv_row<T, STREAMS, 8 / sizeof(T)>(sum, x, from, 0, streams, in);
    } else {
        for (int i = lane; i < in; i += 32)
            for (int s = 0; s < STREAMS && s < streams; s++) sum[s] += cuda_to_float(from[i]) * x[(size_t)s * in + i];
    }
#pragma unroll
    for (int s = 0; s < STREAMS; s++) {
        if (s >= streams) break;
        float all = cuda_warp_sum(sum[s]);
        if (scale) all *= scale[row];
        if (lane == 0) y[(size_t)s * out + row] = bias ? all + bias[row] : all;
    }
}

template <typename T> static void gemv(cudaStream_t stream, const pa_gemv *a, const float *scale) {
    const int in = a->in, out = a->out;
    dim3 grid((out + GEMV_ROWS - 1) / GEMV_ROWS), block(32 * GEMV_ROWS);
    const T *w = (const T *)a->w;
    for (int s = 0; s < a->streams; s += GEMV_STREAMS) {
        int n = a->streams - s < GEMV_STREAMS ? a->streams - s : GEMV_STREAMS;
        const float *x = a->x + (size_t)s * in;
        float *y = a->y + (size_t)s * out;
        if (!cuda_wide(w, in) || !cuda_wide(x, in))
            CUDA_LAUNCH((gemv_kernel<T, false, GEMV_STREAMS>), grid, block, 0, stream, y, x, w, scale, a->bias, n, in,
                        out);
        else if (n == 1)
            CUDA_LAUNCH((gemv_kernel<T, true, 1>), grid, block, 0, stream, y, x, w, scale, a->bias, n, in, out);
        else
            CUDA_LAUNCH((gemv_kernel<T, true, GEMV_STREAMS>), grid, block, 0, stream, y, x, w, scale, a->bias, n, in,
                        out);
    }
}

void cuda_gemv(pa_device *d, const pa_gemv *a) {
    CUDA_TYPED(a->type, gemv, d->stream, a, NULL);
}
void cuda_gemv_int8(pa_device *d, const pa_gemv *a) {
    gemv<int8_t>(d->stream, a, a->scale);
}

// A warp a row, read twice: 8 in bytes read, 5 in written.
static __global__ void __launch_bounds__(32 * GEMV_ROWS)
    round_int8_kernel(int8_t *q, float *scale, float *w, int rows, int in) {
    const int row = blockIdx.x * GEMV_ROWS + threadIdx.x / 32, lane = threadIdx.x % 32;
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
    CUDA_LAUNCH(round_int8_kernel, dim3(cuda_blocks(rows, GEMV_ROWS)), dim3(32 * GEMV_ROWS), 0, d->stream, q, scale, w,
                rows, in);
}
