// attention_fwd.cu: attention's forward pass: exact, by tiles, with an online softmax. Knows nothing of layers,
// projections or rotary.
#include "cuda/attention_mma.cuh"

// A block has ROWS queries of a head and goes through the keys that they see, COLS at a time: 4 D flop a pair, and the
// keys and values of a head are read once for every ROWS queries, 4 s D bytes a key with s bytes a number. Queries see
// more keys the later they are, so the last go first. Shared memory: (ROWS + 2 COLS) (DP + 4) + ROWS (COLS + 4) floats:
// 44 KB for D up to 64, 36 KB for 128: 3 or 4 blocks an SM on an A100, 4 or 5 on an H100, one on a T4.
template <typename T, int DIMS>
static __global__ void __launch_bounds__(ATTN_THREADS)
    fwd_plain_kernel(pa_attn a, attn_dropout dropout, T *o, float *lse, bool wide) {
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
    P::template load_rows<T>(q, D, wide, [&](int i) {
        return n0 + i < a.latents ? attn_query<const T>(a, a.q, a.ldq, b, h, n0 + i) : nullptr;
    });
    for (int m0 = 0; m0 < seen; m0 += P::COLS) {
        __syncthreads();
        P::template load_cols<T>(k, D, wide, [&](int i) {
            return m0 + i < seen ? attn_key<const T>(a, a.kp, a.kn, b, h, m0 + i) : nullptr;
        });
        P::template load_cols<T>(v, D, wide, [&](int i) {
            return m0 + i < seen ? attn_key<const T>(a, a.vp, a.vn, b, h, m0 + i) : nullptr;
        });
        __syncthreads();
        float s[P::R][P::C], keep[P::C];
        const int m = m0 + tx * P::C;
        P::product(s, q, k);
#pragma unroll
        for (int i = 0; i < P::R; i++) {
            float now = top[i];
#pragma unroll
            for (int j = 0; j < P::C; j++) {
                s[i][j] =
                    m + j <= a.kept + n + i ? s[i][j] * c : -INFINITY; // key 0 is seen by all, so a maximum is finite
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

template <typename T, int DIMS> static void fwd_plain_dims(cudaStream_t stream, const pa_attn *a, T *o, float *lse) {
    typedef attn_plain<DIMS> P;
    const dim3 grid(cuda_blocks(a->latents, P::ROWS), a->heads, a->batch);
    ATTN_LAUNCH((fwd_plain_kernel<T, DIMS>), grid, dim3(ATTN_THREADS),
                (P::ROW_TILE + 2 * P::COL_TILE + P::WEIGHTS) * sizeof(float), stream, *a, attn_dropout_of(a->dropout),
                o, lse, attn_wide(a));
}
template <typename T> static void fwd_plain(cudaStream_t stream, const pa_attn *a, void *o, float *lse) {
    if (a->dim_head <= 64 && sizeof(T) == 4)
        fwd_plain_dims<T, sizeof(T) == 4 ? 64 : 128>(stream, a, (T *)o, lse);
    else
        fwd_plain_dims<T, 128>(stream, a, (T *)o, lse);
}

// Online softmax of two rows: scores s become weights, in place; maxima, sums and output so far are scaled to the new
// maxima.
template <int N, int CHUNKS>
static __device__ __forceinline__ void online_softmax(float (&s)[N][4], float (&out)[CHUNKS][4], float (&top)[2],
                                                      float (&sum)[2], float c) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float now = top[half];
#pragma unroll
        for (int j = 0; j < N; j++) now = fmaxf(now, fmaxf(s[j][half * 2], s[j][half * 2 + 1]));
        now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 1));
        now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 2)); // finite: all see key 0
        const float factor = cuda_exp2((top[half] - now) * c);
        top[half] = now, sum[half] *= factor;
#pragma unroll
        for (int d = 0; d < CHUNKS; d++) out[d][half * 2] *= factor, out[d][half * 2 + 1] *= factor;
#pragma unroll
        for (int j = 0; j < N; j++)
#pragma unroll
            for (int e = half * 2; e < half * 2 + 2; e++)
                s[j][e] = cuda_exp2(s[j][e] * c - now * c), sum[half] += s[j][e];
    }
}

// The tensor-core form. A block has 64 MT queries of a head, 16 MT a warp, their fragments in registers, and goes
// through the keys that they see by tiles of 64; the next is copied while one is used. Only tiles on the border are
// masked, and a warp skips those that none of its queries sees. 4 D flop a pair; keys and values are read once for
// every 64 MT queries: 4 D bytes a key. Shared memory: two stages of keys and values, 512 DP bytes: 32 KB for D up to
// 64, 64 KB for 128; the queries pass through the second. Rows of 128 bytes or more with their chunks exchanged:
// neither copies nor ldmatrix meet in a bank. Blocks an SM: 2 by registers (D up to 64 without dropout: 255, all that a
// thread can have; so 8 warps), 3 with dropout, 2 of 64 KB on an A100 or H100; on a T4 2 and 1 by memory.
template <int DIMS, bool DROP> struct fwd_shape {
    enum { MT = DIMS > 64 || DROP ? 1 : 2, KEYS = 64, BLOCKS = DIMS <= 64 && DROP ? 3 : 2 };
};

template <typename T, int ARCH, int DIMS, bool DROP, int MT, int KEYS, int BLOCKS>
static __global__ void __launch_bounds__(ATTN_THREADS, BLOCKS)
    fwd_mma_kernel(pa_attn a, attn_dropout dropout, T *o, float *lse) {
    typedef attn_mma<T, ARCH, DIMS> M;
    enum { ROWS = 64 * MT, N = KEYS / 8, TILE = KEYS * DIMS, LATE = ARCH < 80 && DIMS <= 64 };
    if (!M::here()) return;
    CUDA_SHARED(T, shared);
    const int n0 = (int)(gridDim.x - 1 - blockIdx.x) * ROWS, h = blockIdx.y, b = blockIdx.z, D = a.dim_head;
    const int lane = threadIdx.x % 32, seen = a.kept + min(n0 + ROWS, a.latents);
    const int first = n0 + threadIdx.x / 32 * 16 * MT; // of this warp's queries
    const float c = a.scale * 1.44269504f;             // scores in log2
    const uint64_t window = DROP ? dropout.window[b] : 0;
    const auto keys = M::keys(a, a.kp, a.kn, b, h), values = M::keys(a, a.vp, a.vn, b, h);
    typename M::template moving<KEYS> next_k, next_v;
    const auto fetch = [&](T *stage, int m0) {
        M::fetch(next_k, stage, D, keys, m0, seen), M::fetch(next_v, stage + TILE, D, values, m0, seen);
        M::commit();
    };
    const auto land = [&](T *stage) { M::land(next_k, stage), M::land(next_v, stage + TILE); };
    M::template copy<ROWS>(shared + 2 * TILE, D, M::queries(a, a.q, a.ldq, b, h), n0, a.latents);
    fetch(shared, 0), land(shared);
    M::wait();
    __syncthreads();
    uint32_t q[MT][M::STEPS][4];
    float out[MT][M::CHUNKS][4], top[MT][2], sum[MT][2];
#pragma unroll
    for (int i = 0; i < MT; i++) {
#pragma unroll
        for (int step = 0; step < M::STEPS; step++) M::rows(q[i][step], shared + 2 * TILE, first - n0 + i * 16, step);
        top[i][0] = top[i][1] = -INFINITY, sum[i][0] = sum[i][1] = 0;
    }
    M::template zero<MT, M::CHUNKS>(out);
    for (int m0 = 0, stage = 0; m0 < seen; m0 += KEYS, stage ^= 1) {
        M::wait();
        __syncthreads(); // this tile is there, and the other stage is read no more
        T *const k = shared + stage * 2 * TILE, *const other = shared + (stage ^ 1) * 2 * TILE;
        const bool more = m0 + KEYS < seen;
        if (more) fetch(other, m0 + KEYS);
        if (more && !LATE) land(other);
        if (m0 <= a.kept + first + 16 * MT - 1) {
            float s[MT][N][4];
            M::template product<MT, N>(s, q, k);
#pragma unroll
            for (int i = 0; i < MT; i++) {
                const int n = first + i * 16 + lane / 4;
                if (m0 + KEYS - 1 > a.kept + first + i * 16) {
#pragma unroll
                    for (int j = 0; j < N * 4; j++)
                        if (m0 + j / 4 * 8 + lane % 4 * 2 + j % 2 > a.kept + n + j / 2 % 2 * 8)
                            s[i][j / 4][j % 4] = -INFINITY;
                }
                online_softmax<N, M::CHUNKS>(s[i], out[i], top[i], sum[i], c);
                if (DROP) {
#pragma unroll
                    for (int j = 0; j < N; j++) {
                        float keep[4];
                        attn_keep_rows(keep, dropout, window, h, first + i * 16, m0 + j * 8);
#pragma unroll
                        for (int e = 0; e < 4; e++) s[i][j][e] *= keep[e];
                    }
                }
            }
            M::template accumulate<MT, N>(out, s, k + TILE);
        }
        if (more && LATE) land(other);
    }
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int n = first + i * 16 + half * 8 + lane / 4;
            float all = sum[i][half];
            all += __shfl_xor_sync(0xffffffffu, all, 1), all += __shfl_xor_sync(0xffffffffu, all, 2);
            if (n >= a.latents) continue;
            M::store(attn_query<T>(a, o, a.ldo, b, h, n), out[i], half, 1 / all, D);
            if (lane % 4 == 0) lse[((size_t)b * a.heads + h) * a.latents + n] = top[i][half] * a.scale + logf(all);
        }
}

template <typename T, int ARCH, int DIMS, bool DROP, int MT, int KEYS, int BLOCKS>
static void fwd_mma_of(cudaStream_t stream, const pa_attn *a, void *o, float *lse) {
    const dim3 grid(cuda_blocks(a->latents, 64 * MT), a->heads, a->batch);
    ATTN_LAUNCH((fwd_mma_kernel<T, ARCH, DIMS, DROP, MT, KEYS, BLOCKS>), grid, dim3(ATTN_THREADS),
                4 * DIMS * (KEYS + (KEYS > 32 * MT ? KEYS : 32 * MT)), stream, *a, attn_dropout_of(a->dropout), (T *)o,
                lse);
}

#ifndef PA_ATTENTION_LADDER // which takes shapes of its own (bench/ladder.cu)
template <typename T, int ARCH, int DIMS, bool DROP>
static void fwd_mma(cudaStream_t stream, const pa_attn *a, void *o, float *lse) {
    typedef fwd_shape<DIMS, DROP> S;
    fwd_mma_of<T, ARCH, DIMS, DROP, S::MT, S::KEYS, S::BLOCKS>(stream, a, o, lse);
}

void cuda_attn_fwd(cudaStream_t stream, const pa_attn *a, void *o, float *lse) {
    const int form = attn_form(a, attn_wide(a));
    if (form)
        ATTN_FORM(form, a, fwd_mma, stream, a, o, lse);
    else
        CUDA_TYPED(a->type, fwd_plain, stream, a, o, lse);
}
#endif
