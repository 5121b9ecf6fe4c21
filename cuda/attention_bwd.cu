// attention_bwd.cu: attention's backward pass: scores are computed again from lse. Knows nothing of layers, projections or rotary.
//
// With weights p = 2^(c q.k - lse), dropout's factors z, delta = o.dout: ds = p (z dout.v - delta); dv += p z dout, dk += scale ds q,
// dq += scale ds k. Three kernels: delta; dk and dv by blocks of keys that go through queries (8 D flop a pair); dq by blocks of queries
// that go through keys (6 D). That is 14 D flop a pair where one pass over pairs would need 10 D, and every sum has one order.
#include "cuda/attention.cuh"

// A warp a row (b, n, h) of o and dout: 2 s D bytes and 2 D flop each.
template <typename T>
static __global__ void __launch_bounds__(ATTN_THREADS) delta_kernel(cuda_attn a, const T *o, const T *dout, float *delta, size_t rows) {
    const size_t i = (size_t)blockIdx.x * (ATTN_THREADS / 32) + threadIdx.x / 32;
    if (i >= rows) return;
    const int h = (int)(i % a.heads), n = (int)(i / a.heads % a.latents), b = (int)(i / a.heads / a.latents);
    const T *x = attn_query<const T>(a, o, a.ldo, b, h, n), *y = attn_query<const T>(a, dout, a.ldo, b, h, n);
    float sum = 0;
    for (int d = threadIdx.x % 32; d < a.dim_head; d += 32) sum += cuda_to_float(x[d]) * cuda_to_float(y[d]);
    sum = cuda_warp_sum(sum);
    if (threadIdx.x % 32 == 0) delta[((size_t)b * a.heads + h) * a.latents + n] = sum;
}

// Rows are keys, columns queries, from the first that sees the block's first key. Shared memory: (2 ROWS + 2 COLS) (DP + 4) +
// ROWS (COLS + 4) floats: 61 KB for D up to 64, 53 KB for 128.
template <typename T, int DIMS>
static __global__ void __launch_bounds__(ATTN_THREADS)
    dkv_plain_kernel(cuda_attn a, attn_dropout dropout, const float *lse, const float *delta, const T *dout, T *dkp, T *dvp, T *dkn, T *dvn,
                     bool wide) {
    typedef attn_plain<DIMS> P;
    CUDA_SHARED(float, shared);
    float *const k = shared, *const v = k + P::ROW_TILE, *const q = v + P::ROW_TILE, *const d_o = q + P::COL_TILE,
                 *const weights = d_o + P::COL_TILE;
    const int m0 = (int)blockIdx.x * P::ROWS, h = blockIdx.y, b = blockIdx.z, D = a.dim_head, keys = a.kept + a.latents;
    const int m = m0 + threadIdx.x / 8 * P::R, tx = threadIdx.x % 8;
    const float c = a.scale * 1.44269504f;
    const uint64_t window = dropout.limit ? dropout.window[b] : 0;
    const size_t head = ((size_t)b * a.heads + h) * a.latents;
    float dk[P::R][P::VECTORS * 4], dv[P::R][P::VECTORS * 4];
#pragma unroll
    for (int i = 0; i < P::R; i++)
#pragma unroll
        for (int d = 0; d < P::VECTORS * 4; d++) dk[i][d] = dv[i][d] = 0;
    P::template load_rows<T>(k, D, wide, [&](int i) { return m0 + i < keys ? attn_key<const T>(a, a.kp, a.kn, b, h, m0 + i) : nullptr; });
    P::template load_rows<T>(v, D, wide, [&](int i) { return m0 + i < keys ? attn_key<const T>(a, a.vp, a.vn, b, h, m0 + i) : nullptr; });
    for (int n0 = max(0, m0 - a.kept) / P::COLS * P::COLS; n0 < a.latents; n0 += P::COLS) {
        __syncthreads();
        P::template load_cols<T>(q, D, wide,
                                 [&](int i) { return n0 + i < a.latents ? attn_query<const T>(a, a.q, a.ldq, b, h, n0 + i) : nullptr; });
        P::template load_cols<T>(d_o, D, wide,
                                 [&](int i) { return n0 + i < a.latents ? attn_query<const T>(a, dout, a.ldo, b, h, n0 + i) : nullptr; });
        __syncthreads();
        float s[P::R][P::C], ds[P::R][P::C];
        P::product(s, k, q);
        P::product(ds, v, d_o);
#pragma unroll
        for (int j = 0; j < P::C; j++) {
            const int n = n0 + tx * P::C + j;
            const float top = n < a.latents ? lse[head + n] * 1.44269504f : 0, mean = n < a.latents ? delta[head + n] : 0;
            float keep[P::R];
            attn_keep<P::R>(keep, dropout, window, h, n, m);
#pragma unroll
            for (int i = 0; i < P::R; i++) {
                const bool visible = n < a.latents && m + i <= a.kept + n;
                const float p = cuda_exp2(s[i][j] * c - top), z = keep[i];
                s[i][j] = visible ? p * z : 0.0f;
                ds[i][j] = visible ? p * (ds[i][j] * z - mean) : 0.0f;
            }
        }
        P::put(weights, s);
        P::accumulate(dv, weights, d_o);
        P::put(weights, ds);
        P::accumulate(dk, weights, q);
    }
#pragma unroll
    for (int i = 0; i < P::R; i++) {
        if (m + i >= keys) continue;
        P::store(attn_key<T>(a, dkp, dkn, b, h, m + i), dk[i], a.scale, D);
        P::store(attn_key<T>(a, dvp, dvn, b, h, m + i), dv[i], 1.0f, D);
    }
}

// Rows are queries, columns the keys that they see. Shared memory as above.
template <typename T, int DIMS>
static __global__ void __launch_bounds__(ATTN_THREADS)
    dq_plain_kernel(cuda_attn a, attn_dropout dropout, const float *lse, const float *delta, const T *dout, T *dq, bool wide) {
    typedef attn_plain<DIMS> P;
    CUDA_SHARED(float, shared);
    float *const q = shared, *const d_o = q + P::ROW_TILE, *const k = d_o + P::ROW_TILE, *const v = k + P::COL_TILE,
                 *const weights = v + P::COL_TILE;
    const int n0 = (int)(gridDim.x - 1 - blockIdx.x) * P::ROWS, h = blockIdx.y, b = blockIdx.z, D = a.dim_head;
    const int n = n0 + threadIdx.x / 8 * P::R, tx = threadIdx.x % 8, seen = a.kept + min(n0 + P::ROWS, a.latents);
    const float c = a.scale * 1.44269504f;
    const uint64_t window = dropout.limit ? dropout.window[b] : 0;
    const size_t head = ((size_t)b * a.heads + h) * a.latents;
    float sum[P::R][P::VECTORS * 4], top[P::R], mean[P::R];
#pragma unroll
    for (int i = 0; i < P::R; i++) {
        top[i] = n + i < a.latents ? lse[head + n + i] * 1.44269504f : 0, mean[i] = n + i < a.latents ? delta[head + n + i] : 0;
#pragma unroll
        for (int d = 0; d < P::VECTORS * 4; d++) sum[i][d] = 0;
    }
    P::template load_rows<T>(q, D, wide,
                             [&](int i) { return n0 + i < a.latents ? attn_query<const T>(a, a.q, a.ldq, b, h, n0 + i) : nullptr; });
    P::template load_rows<T>(d_o, D, wide,
                             [&](int i) { return n0 + i < a.latents ? attn_query<const T>(a, dout, a.ldo, b, h, n0 + i) : nullptr; });
    for (int m0 = 0; m0 < seen; m0 += P::COLS) {
        __syncthreads();
        P::template load_cols<T>(k, D, wide,
                                 [&](int i) { return m0 + i < seen ? attn_key<const T>(a, a.kp, a.kn, b, h, m0 + i) : nullptr; });
        P::template load_cols<T>(v, D, wide,
                                 [&](int i) { return m0 + i < seen ? attn_key<const T>(a, a.vp, a.vn, b, h, m0 + i) : nullptr; });
        __syncthreads();
        float s[P::R][P::C], ds[P::R][P::C], keep[P::C];
        const int m = m0 + tx * P::C;
        P::product(s, q, k);
        P::product(ds, d_o, v);
#pragma unroll
        for (int i = 0; i < P::R; i++) {
            attn_keep<P::C>(keep, dropout, window, h, n + i, m);
#pragma unroll
            for (int j = 0; j < P::C; j++) {
                const bool visible = n + i < a.latents && m + j <= a.kept + n + i;
                const float p = cuda_exp2(s[i][j] * c - top[i]), z = keep[j];
                ds[i][j] = visible ? p * (ds[i][j] * z - mean[i]) : 0.0f;
            }
        }
        P::put(weights, ds);
        P::accumulate(sum, weights, k);
    }
#pragma unroll
    for (int i = 0; i < P::R; i++)
        if (n + i < a.latents) P::store(attn_query<T>(a, dq, a.ldq, b, h, n + i), sum[i], a.scale, D);
}

struct gradients {
    const void *o, *dout;
    const float *lse;
    float *delta;
    void *dq, *dkp, *dvp, *dkn, *dvn;
};

template <typename T, int DIMS> static void bwd_plain_dims(cudaStream_t stream, const cuda_attn *a, const gradients &g) {
    typedef attn_plain<DIMS> P;
    const size_t bytes = (2 * P::ROW_TILE + 2 * P::COL_TILE + P::WEIGHTS) * sizeof(float);
    const dim3 keys(cuda_blocks((size_t)a->kept + a->latents, P::ROWS), a->heads, a->batch),
        queries(cuda_blocks(a->latents, P::ROWS), a->heads, a->batch);
    const attn_dropout dropout = attn_dropout_of(a->dropout);
    const bool wide = attn_wide(a) && cuda_wide(g.dout, 8);
    ATTN_LAUNCH((dkv_plain_kernel<T, DIMS>), keys, dim3(ATTN_THREADS), bytes, stream, *a, dropout, g.lse, g.delta, (const T *)g.dout,
                (T *)g.dkp, (T *)g.dvp, (T *)g.dkn, (T *)g.dvn, wide);
    ATTN_LAUNCH((dq_plain_kernel<T, DIMS>), queries, dim3(ATTN_THREADS), bytes, stream, *a, dropout, g.lse, g.delta, (const T *)g.dout,
                (T *)g.dq, wide);
}
template <typename T> static void bwd(cudaStream_t stream, const cuda_attn *a, const gradients &g) {
    const size_t rows = (size_t)a->batch * a->latents * a->heads;
    CUDA_LAUNCH((delta_kernel<T>), dim3(cuda_blocks(rows, ATTN_THREADS / 32)), dim3(ATTN_THREADS), 0, stream, *a, (const T *)g.o,
                (const T *)g.dout, g.delta, rows);
    if (a->dim_head <= 64)
        bwd_plain_dims<T, 64>(stream, a, g);
    else
        bwd_plain_dims<T, 128>(stream, a, g);
}

void cuda_attn_bwd(cudaStream_t stream, const cuda_attn *a, const void *o, const float *lse, const void *dout, void *dq, void *dkp,
                   void *dvp, void *dkn, void *dvn, void *work) {
    const gradients g = {o, dout, lse, (float *)work, dq, dkp, dvp, dkn, dvn};
    CUDA_TYPED(a->type, bwd, stream, a, g);
}

size_t cuda_attn_work(const cuda_attn *a) {
    return (size_t)a->batch * a->heads * a->latents * sizeof(float);
}
