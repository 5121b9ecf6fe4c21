// decode.cu: attention of one query a stream against a cache, with what the heads go through before it. Limited by
// reading 2 S H (length + 1) D elements of cache. What an SM has on its way decides how fast that is: an H100 wants
// some 18 KB (3.35 TB/s times 0.7 us over 132 SMs), a T4 5 KB.
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

// What queries and new keys go through before attention (host/model/ops.h, pa_attn_decode).
struct turn {
    const float *q_norm, *k_norm;
    const int32_t *position;
    const float *table;
    int half; // dims / 2
};

// Dims 8 part, .. of a head (D) of this stream, normalised and turned; zeros beyond D. `lanes` neighbouring lanes share
// a head, and all lanes of a warp meet here. Reads as much again of the head for the other halves of pairs.
static __device__ void turned(float x[8], const float *head, const float *norm, const turn &t, int stream, int part,
                              int D, int lanes) {
    const bool mine = part * 8 < D;
    float s = 1;
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = 0;
    if (mine) cuda_load8(x, head + part * 8);
    if (norm) {
        float squares = 0;
#pragma unroll
        for (int i = 0; i < 8; i++) squares += x[i] * x[i];
        for (int step = lanes / 2; step; step /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, step);
        s = 1 / sqrtf(squares / D + 1e-6f);
    }
    if (!mine) return;
    const float *angle = t.half ? t.table + (size_t)t.position[stream] * t.half * 2 : NULL;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int d = part * 8 + i, other = d < t.half ? d + t.half : d - t.half, pair = d < t.half ? d : other;
        if (norm) x[i] *= s * norm[d];
        if (d >= 2 * t.half) continue;
        const float y = norm ? head[other] * (s * norm[other]) : head[other];
        const float c = angle[2 * pair], sine = angle[2 * pair + 1];
        x[i] = d < t.half ? x[i] * c - y * sine : x[i] * c + y * sine;
    }
}

// Grid (splits, S H): about 128 keys a block, at most 64 blocks a head. Each block's result goes to work, 5 D bytes
// written and read, then the last block of a head joins them in one order. 72 registers, so up to 7 blocks an SM, 4 KB
// a warp on its way; 4 D flop a key.
template <typename T>
__global__ void __launch_bounds__(THREADS)
    attn_decode_kernel(int H, int D, int lanes, const int *length, int capacity, float scale, ptrdiff_t ldq,
                       ptrdiff_t ldkv, const float *q, const float *k_new, const float *v_new, T *k, T *v, float *o,
                       partial *work, unsigned *arrived, turn t) {
    __shared__ partial shared[WARPS][16];
    __shared__ bool last;
    cuda_let_next_start();
    cuda_await_earlier();
    const int splits = gridDim.x, head = blockIdx.y, n = *length + 1, each = (n + splits - 1) / splits;
    const int from = min((int)blockIdx.x * each, n), to = min(from + each, n), part = threadIdx.x % lanes,
              parts = D / 8;
    const ptrdiff_t row = head / H, h = (ptrdiff_t)(head % H) * D;
    k += (size_t)head * capacity * D, v += (size_t)head * capacity * D;
    q += row * ldq + h, k_new += row * ldkv + h, v_new += row * ldkv + h;
    float x[8];
    if (from < n && to == n) { // this position's own key and value
        turned(x, k_new, t.k_norm, t, (int)row, part, D, lanes);
        if (threadIdx.x < parts) {
            cuda_store8(k + (size_t)(n - 1) * D + part * 8, x);
            cuda_load8(x, v_new + part * 8);
            cuda_store8(v + (size_t)(n - 1) * D + part * 8, x);
        }
        __syncthreads();
    }
    turned(x, q, t.q_norm, t, (int)row, part, D, lanes);
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] *= scale * 1.44269504f;
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
    const turn t = {a->q_norm, a->k_norm, a->position, a->table, a->dims / 2};
    CUDA_LAUNCH_EARLY((attn_decode_kernel<T>), grid, dim3(THREADS), stream, H, D, lanes, a->length, a->capacity,
                      a->scale, a->ldq, a->ldkv, a->q, a->k_new, a->v_new, (T *)a->k, (T *)a->v, a->o, parts,
                      (unsigned *)a->work, t);
}

void cuda_attn_decode(pa_device *d, const pa_attn_decode *a) {
    CUDA_TYPED(a->type, attn_decode, d->stream, a);
}
