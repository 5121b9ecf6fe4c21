// attention_fwd.cu: attention's forward pass: exact, by tiles, with an online softmax. Knows nothing of layers, projections or rotary.
#include "cuda/attention.cuh"

// A block has ROWS queries of a head and goes through the keys that they see, COLS at a time: 4 D flop a pair, and the keys and values of a
// head are read once for every ROWS queries, 4 s D bytes a key with s bytes a number. Queries see more keys the later they are, so the last
// go first. Shared memory: (ROWS + 2 COLS) (DP + 4) + ROWS (COLS + 4) floats: 44 KB for D up to 64, 36 KB for 128.
template <typename T, int DIMS>
static __global__ void __launch_bounds__(ATTN_THREADS) fwd_plain_kernel(cuda_attn a, attn_dropout dropout, T *o, float *lse, bool wide) {
    typedef attn_plain<DIMS> P;
    CUDA_SHARED(float, shared);
    float *const q = shared, *const k = q + P::ROW_TILE, *const v = k + P::COL_TILE, *const weights = v + P::COL_TILE;
    const int n0 = (int)(gridDim.x - 1 - blockIdx.x) * P::ROWS, h = blockIdx.y, b = blockIdx.z, D = a.dim_head;
    const int n = n0 + threadIdx.x / 8 * P::R, tx = threadIdx.x % 8, seen = a.kept + min(n0 + P::ROWS, a.latents);
    const float c = a.scale * 1.44269504f; // scores in log2
    const uint64_t window = dropout.limit ? dropout.window[b] : 0;
    float top[P::R], sum[P::R], out[P::R][P::VECTORS * 4];
#pragma unroll
    for (int i = 0; i < P::R; i++) {
        top[i] = -INFINITY, sum[i] = 0;
#pragma unroll
        for (int d = 0; d < P::VECTORS * 4; d++) out[i][d] = 0;
    }
    P::template load_rows<T>(q, D, wide,
                             [&](int i) { return n0 + i < a.latents ? attn_query<const T>(a, a.q, a.ldq, b, h, n0 + i) : nullptr; });
    for (int m0 = 0; m0 < seen; m0 += P::COLS) {
        __syncthreads();
        P::template load_cols<T>(k, D, wide,
                                 [&](int i) { return m0 + i < seen ? attn_key<const T>(a, a.kp, a.kn, b, h, m0 + i) : nullptr; });
        P::template load_cols<T>(v, D, wide,
                                 [&](int i) { return m0 + i < seen ? attn_key<const T>(a, a.vp, a.vn, b, h, m0 + i) : nullptr; });
        __syncthreads();
        float s[P::R][P::C], keep[P::C];
        const int m = m0 + tx * P::C;
        P::product(s, q, k);
#pragma unroll
        for (int i = 0; i < P::R; i++) {
            float now = top[i];
#pragma unroll
            for (int j = 0; j < P::C; j++) {
                s[i][j] = m + j <= a.kept + n + i ? s[i][j] * c : -INFINITY; // key 0 is seen by all, so a maximum is finite
                now = fmaxf(now, s[i][j]);
            }
#pragma unroll
            for (int step = 1; step < 8; step *= 2) now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, step));
            const float factor = cuda_exp2(top[i] - now);
            top[i] = now, sum[i] *= factor;
#pragma unroll
            for (int d = 0; d < P::VECTORS * 4; d++) out[i][d] *= factor;
            attn_keep<P::C>(keep, dropout, window, h, n + i, m);
#pragma unroll
            for (int j = 0; j < P::C; j++) {
                s[i][j] = cuda_exp2(s[i][j] - now), sum[i] += s[i][j];
                s[i][j] *= keep[j];
            }
        }
        P::put(weights, s);
        P::accumulate(out, weights, v);
    }
#pragma unroll
    for (int i = 0; i < P::R; i++) {
#pragma unroll
        for (int step = 1; step < 8; step *= 2) sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], step);
        if (n + i >= a.latents) continue;
        P::store(attn_query<T>(a, o, a.ldo, b, h, n + i), out[i], 1 / sum[i], D);
        if (tx == 0) lse[((size_t)b * a.heads + h) * a.latents + n + i] = top[i] * 0.69314718f + logf(sum[i]);
    }
}

template <typename T, int DIMS> static void fwd_plain_dims(cudaStream_t stream, const cuda_attn *a, T *o, float *lse) {
    typedef attn_plain<DIMS> P;
    const dim3 grid(cuda_blocks(a->latents, P::ROWS), a->heads, a->batch);
    ATTN_LAUNCH((fwd_plain_kernel<T, DIMS>), grid, dim3(ATTN_THREADS), (P::ROW_TILE + 2 * P::COL_TILE + P::WEIGHTS) * sizeof(float), stream,
                *a, attn_dropout_of(a->dropout), o, lse, attn_wide(a));
}
template <typename T> static void fwd_plain(cudaStream_t stream, const cuda_attn *a, void *o, float *lse) {
    if (a->dim_head <= 64)
        fwd_plain_dims<T, 64>(stream, a, (T *)o, lse);
    else
        fwd_plain_dims<T, 128>(stream, a, (T *)o, lse);
}

void cuda_attn_fwd(cudaStream_t stream, const cuda_attn *a, void *o, float *lse, void *) {
    CUDA_TYPED(a->type, fwd_plain, stream, a, o, lse);
}
