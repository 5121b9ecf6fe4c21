// attention_bwd.cu: attention's backward pass: scores are computed again from lse. Knows nothing of layers, projections
// or rotary.
//
// With weights p = 2^(c q.k - lse), dropout's factors z, delta = o.dout: ds = p (z dout.v - delta); dv += p z dout, dk
// += scale ds q, dq += scale ds k. Three kernels: delta; dk and dv by blocks of keys that go through queries (8 D flop
// a pair); dq by blocks of queries that go through keys (6 D). That is 14 D flop a pair where one pass over pairs would
// need 10 D, and every sum has one order.
#include "cuda/attention_mma.cuh"

// A warp a row (b, n, h) of o and dout: 2 s D bytes read, 4 written, 2 D flop each.
template <typename T>
static __global__ void __launch_bounds__(ATTN_THREADS)
    delta_kernel(pa_attn a, const T *o, const T *dout, float *delta, size_t rows) {
    const size_t i = (size_t)blockIdx.x * (ATTN_THREADS / 32) + threadIdx.x / 32;
    if (i >= rows) return;
    const int h = (int)(i % a.heads), n = (int)(i / a.heads % a.latents), b = (int)(i / a.heads / a.latents);
    const T *x = attn_query<const T>(a, o, a.ldo, b, h, n), *y = attn_query<const T>(a, dout, a.ldo, b, h, n);
    float sum = 0;
    for (int d = threadIdx.x % 32; d < a.dim_head; d += 32) sum += cuda_to_float(x[d]) * cuda_to_float(y[d]);
    sum = cuda_warp_sum(sum);
    if (threadIdx.x % 32 == 0) delta[((size_t)b * a.heads + h) * a.latents + n] = sum;
}

// Rows are keys, columns queries, from the first that sees the block's first key. Shared memory: (2 ROWS + 2 COLS) (DP
// + 4) + ROWS (COLS + 4) floats: 61 KB for D up to 64, 53 KB for 128.
template <typename T, int DIMS>
static __global__ void __launch_bounds__(ATTN_THREADS)
    dkv_plain_kernel(pa_attn a, attn_dropout dropout, const float *lse, const float *delta, const T *dout, T *dkp,
                     T *dvp, T *dkn, T *dvn, bool wide) {
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
    P::template load_rows<T>(
        k, D, wide, [&](int i) { return m0 + i < keys ? attn_key<const T>(a, a.kp, a.kn, b, h, m0 + i) : nullptr; });
    P::template load_rows<T>(
        v, D, wide, [&](int i) { return m0 + i < keys ? attn_key<const T>(a, a.vp, a.vn, b, h, m0 + i) : nullptr; });
    for (int n0 = max(0, m0 - a.kept) / P::COLS * P::COLS; n0 < a.latents; n0 += P::COLS) {
        __syncthreads();
        P::template load_cols<T>(q, D, wide, [&](int i) {
            return n0 + i < a.latents ? attn_query<const T>(a, a.q, a.ldq, b, h, n0 + i) : nullptr;
        });
        P::template load_cols<T>(d_o, D, wide, [&](int i) {
            return n0 + i < a.latents ? attn_query<const T>(a, dout, a.ldo, b, h, n0 + i) : nullptr;
        });
        __syncthreads();
        float s[P::R][P::C], ds[P::R][P::C];
        P::product(s, k, q);
        P::product(ds, v, d_o);
#pragma unroll
        for (int j = 0; j < P::C; j++) {
            const int n = n0 + tx * P::C + j;
            const float top = n < a.latents ? lse[head + n] * 1.44269504f : 0,
                        mean = n < a.latents ? delta[head + n] : 0;
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

// Rows are queries, columns the keys that they see. Shared memory as above. Both: 2 or 3 blocks an SM on an A100, one
// on a T4; rows are read once, columns once for every ROWS of them.
template <typename T, int DIMS>
static __global__ void __launch_bounds__(ATTN_THREADS)
    dq_plain_kernel(pa_attn a, attn_dropout dropout, const float *lse, const float *delta, const T *dout, T *dq,
                    bool wide) {
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
        top[i] = n + i < a.latents ? lse[head + n + i] * 1.44269504f : 0,
        mean[i] = n + i < a.latents ? delta[head + n + i] : 0;
#pragma unroll
        for (int d = 0; d < P::VECTORS * 4; d++) sum[i][d] = 0;
    }
    P::template load_rows<T>(q, D, wide, [&](int i) {
        return n0 + i < a.latents ? attn_query<const T>(a, a.q, a.ldq, b, h, n0 + i) : nullptr;
    });
    P::template load_rows<T>(d_o, D, wide, [&](int i) {
        return n0 + i < a.latents ? attn_query<const T>(a, dout, a.ldo, b, h, n0 + i) : nullptr;
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

// The tensor-core forms. Weights and ds are rounded to T, sums are float32 in registers. Products are taken so that a
// warp's rows are keys (dk, dv) or queries (dq): what is multiplied next is then in the lanes that it is needed in, and
// never passes through shared memory.
//
// A block has 64 keys of a head, 16 a warp, and goes through the queries that see them by tiles of ROWS; the next is
// copied while one is used. Queries and dout are read once for every 64 keys. With D up to 64 and no dropout fragments
// of keys and values are held in registers, else they are read from shared memory each time and ROWS are fewer. Shared
// memory: two stages of q, dout, lse and delta, and keys and values where they are not held: 33 KB for D up to 64; 65
// KB for 128. sm_75 has 64 KB for all blocks: 29 KB, so that there is room for two, and 49 KB. Blocks an SM: 2 by
// registers (250 of them), 3 with D up to 64 and dropout; on a T4 2, and one for 128.
template <int ARCH, int DIMS, bool DROP> struct dkv_shape {
    enum {
        MT = 1,
        HELD = DIMS <= 64 && !DROP,
        ROWS = ARCH >= 80 ? (HELD ? 64 : 32) : (HELD ? 48 : 16),
        BLOCKS = ARCH >= 80 && DIMS <= 64 && DROP ? 3 : 2
    };
};
template <int DIMS, int MT, int ROWS, bool HELD> struct dkv_memory {
    enum {
        KEYS = 64 * MT,
        TILE = ROWS * DIMS,
        STAGE = 2 * TILE + 4 * ROWS, // numbers of T: q, dout, two floats a row
        LEFT = 2 * KEYS * DIMS,      // keys and values; where they are held they pass through the second stage
        BYTES = (HELD ? STAGE + (STAGE > LEFT ? STAGE : LEFT) : 2 * STAGE + LEFT) * 2
    };
};
// A number a thread of a tile's rows: lse in log2, then delta. A row past the end gets weights of 2^-infinity.
static __device__ __forceinline__ float row_statistic(const float *lse, const float *delta, int n, int latents,
                                                      int which) {
    if (n >= latents) return which ? 0.0f : INFINITY;
    return which ? delta[n] : lse[n] * 1.44269504f;
}

template <typename T, int ARCH, int DIMS, bool DROP, int MT, int ROWS, bool HELD, int BLOCKS>
static __global__ void __launch_bounds__(ATTN_THREADS, BLOCKS)
    dkv_mma_kernel(pa_attn a, attn_dropout dropout, const float *lse, const float *delta, const T *dout, T *dkp, T *dvp,
                   T *dkn, T *dvn) {
    typedef attn_mma<T, ARCH, DIMS> M;
    typedef dkv_memory<DIMS, MT, ROWS, HELD> S;
    enum { N = ROWS / 8, LATE = ARCH < 80 };
    if (!M::here()) return;
    CUDA_SHARED(T, shared);
    const int m0 = (int)blockIdx.x * S::KEYS, h = blockIdx.y, b = blockIdx.z, D = a.dim_head, keys = a.kept + a.latents;
    const int lane = threadIdx.x % 32, own = threadIdx.x / 32 * 16 * MT, m = m0 + own; // of this warp's keys
    const float c = a.scale * 1.44269504f;
    const uint64_t window = DROP ? dropout.window[b] : 0;
    const size_t head = ((size_t)b * a.heads + h) * a.latents;
    const auto queries = M::queries(a, a.q, a.ldq, b, h), douts = M::queries(a, dout, a.ldo, b, h);
    typename M::template moving<ROWS> next_q, next_d;
    const auto fetch = [&](T *stage, int n0) {
        M::fetch(next_q, stage, D, queries, n0, a.latents), M::fetch(next_d, stage + S::TILE, D, douts, n0, a.latents);
        M::commit();
    };
    const auto land = [&](T *stage) { M::land(next_q, stage), M::land(next_d, stage + S::TILE); };
    const auto statistic = [&](int n0) {
        return row_statistic(lse + head, delta + head, n0 + threadIdx.x % ROWS, a.latents, threadIdx.x / ROWS);
    };
    T *const left = shared + (HELD ? S::STAGE : 2 * S::STAGE); // keys, then values
    M::template copy<S::KEYS>(left, D, M::keys(a, a.kp, a.kn, b, h), m0, keys);
    M::template copy<S::KEYS>(left + S::KEYS * DIMS, D, M::keys(a, a.vp, a.vn, b, h), m0, keys);
    int n0 = max(0, m0 - a.kept) / ROWS * ROWS;
    fetch(shared, n0), land(shared);
    if (threadIdx.x < 2 * ROWS) reinterpret_cast<float *>(shared + 2 * S::TILE)[threadIdx.x] = statistic(n0);
    M::wait();
    __syncthreads();
    uint32_t k[MT][M::STEPS][4], v[MT][M::STEPS][4];
    if (HELD) {
#pragma unroll
        for (int i = 0; i < MT * M::STEPS; i++) {
            M::rows(k[i / M::STEPS][i % M::STEPS], left, own + i / M::STEPS * 16, i % M::STEPS);
            M::rows(v[i / M::STEPS][i % M::STEPS], left + S::KEYS * DIMS, own + i / M::STEPS * 16, i % M::STEPS);
        }
    }
    float dk[MT][M::CHUNKS][4], dv[MT][M::CHUNKS][4];
    M::template zero<MT, M::CHUNKS>(dk), M::template zero<MT, M::CHUNKS>(dv);
    for (int stage = 0; n0 < a.latents; n0 += ROWS, stage ^= 1) {
        M::wait();
        __syncthreads(); // this tile is there, and the other stage is read no more
        T *const q = shared + stage * S::STAGE, *const other = shared + (stage ^ 1) * S::STAGE;
        const bool more = n0 + ROWS < a.latents;
        if (more) fetch(other, n0 + ROWS);
        if (more && !LATE) land(other);
        const float next = more && threadIdx.x < 2 * ROWS ? statistic(n0 + ROWS) : 0.0f;
        if (m <= a.kept + n0 + ROWS - 1) {
            const float *const row = reinterpret_cast<const float *>(q + 2 * S::TILE);
            float s[MT][N][4], ds[MT][N][4];
            if (HELD) {
                M::template product<MT, N>(s, k, q);
                M::template product<MT, N>(ds, v, q + S::TILE);
            } else {
                M::template product<MT, N>(s, left, own, q);
                M::template product<MT, N>(ds, left + S::KEYS * DIMS, own, q + S::TILE);
            }
            const bool border = m + 16 * MT - 1 > a.kept + n0;
#pragma unroll
            for (int j = 0; j < N; j++)
#pragma unroll
                for (int i = 0; i < MT; i++) {
                    const int key = m + i * 16;
                    float keep[4] = {1, 1, 1, 1};
                    if (DROP) attn_keep_columns(keep, dropout, window, h, n0 + j * 8, key);
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        const int n = j * 8 + lane % 4 * 2 + e % 2;
                        float p = cuda_exp2(s[i][j][e] * c - row[n]);
                        if (border && key + lane / 4 + e / 2 * 8 > a.kept + n0 + n) p = 0;
                        s[i][j][e] = p * keep[e], ds[i][j][e] = p * (ds[i][j][e] * keep[e] - row[ROWS + n]);
                    }
                }
            M::template accumulate<MT, N>(dv, s, q + S::TILE);
            M::template accumulate<MT, N>(dk, ds, q);
        }
        if (more && LATE) land(other);
        if (more && threadIdx.x < 2 * ROWS) reinterpret_cast<float *>(other + 2 * S::TILE)[threadIdx.x] = next;
    }
#pragma unroll
    for (int i = 0; i < 2 * MT; i++) {
        const int at = m + i * 8 + lane / 4;
        if (at >= keys) continue;
        M::store(attn_key<T>(a, dkp, dkn, b, h, at), dk[i / 2], i % 2, a.scale, D);
        M::store(attn_key<T>(a, dvp, dvn, b, h, at), dv[i / 2], i % 2, 1.0f, D);
    }
}

// A block has 64 queries of a head, 16 a warp, fragments of q and dout in registers, and goes through the keys that
// they see by tiles of 64: keys and values are read once for every 64 queries, 6 D flop a pair. Shared memory: two
// stages of keys and values, 512 DP bytes; q and dout pass through the second. Blocks an SM: 3 by registers for D up to
// 64 (2 on a T4), 2 for 128 (one on a T4).
template <int ARCH, int DIMS> struct dq_shape {
    enum { MT = 1, KEYS = 64, BLOCKS = ARCH >= 80 && DIMS <= 64 ? 3 : 2 };
};

template <typename T, int ARCH, int DIMS, bool DROP, int MT, int KEYS, int BLOCKS>
static __global__ void __launch_bounds__(ATTN_THREADS, BLOCKS)
    dq_mma_kernel(pa_attn a, attn_dropout dropout, const float *lse, const float *delta, const T *dout, T *dq) {
    typedef attn_mma<T, ARCH, DIMS> M;
    enum { ROWS = 64 * MT, TILE = KEYS * DIMS, LATE = ARCH < 80 && DIMS <= 64 };
    enum { PART = !DROP ? KEYS : DIMS > 64 ? 16 : 32, N = PART / 8 };
    if (!M::here()) return;
    CUDA_SHARED(T, shared);
    const int n0 = (int)(gridDim.x - 1 - blockIdx.x) * ROWS, h = blockIdx.y, b = blockIdx.z, D = a.dim_head;
    const int lane = threadIdx.x % 32, own = threadIdx.x / 32 * 16 * MT, n = n0 + own,
              seen = a.kept + min(n0 + ROWS, a.latents);
    const float c = a.scale * 1.44269504f;
    const uint64_t window = DROP ? dropout.window[b] : 0;
    const size_t head = ((size_t)b * a.heads + h) * a.latents;
    const auto keys = M::keys(a, a.kp, a.kn, b, h), values = M::keys(a, a.vp, a.vn, b, h);
    typename M::template moving<KEYS> next_k, next_v;
    const auto fetch = [&](T *stage, int m0) {
        M::fetch(next_k, stage, D, keys, m0, seen), M::fetch(next_v, stage + TILE, D, values, m0, seen);
        M::commit();
    };
    const auto land = [&](T *stage) { M::land(next_k, stage), M::land(next_v, stage + TILE); };
    T *const left = shared + 2 * TILE;
    M::template copy<ROWS>(left, D, M::queries(a, a.q, a.ldq, b, h), n0, a.latents);
    M::template copy<ROWS>(left + ROWS * DIMS, D, M::queries(a, dout, a.ldo, b, h), n0, a.latents);
    fetch(shared, 0), land(shared);
    M::wait();
    __syncthreads();
    uint32_t q[MT][M::STEPS][4], d_o[MT][M::STEPS][4];
#pragma unroll
    for (int i = 0; i < MT * M::STEPS; i++) {
        M::rows(q[i / M::STEPS][i % M::STEPS], left, own + i / M::STEPS * 16, i % M::STEPS);
        M::rows(d_o[i / M::STEPS][i % M::STEPS], left + ROWS * DIMS, own + i / M::STEPS * 16, i % M::STEPS);
    }
    float sum[MT][M::CHUNKS][4], top[2 * MT], mean[2 * MT]; // rows n + 8 i + lane / 4
    M::template zero<MT, M::CHUNKS>(sum);
#pragma unroll
    for (int i = 0; i < 2 * MT; i++) {
        const int at = n + i * 8 + lane / 4;
        top[i] = at < a.latents ? lse[head + at] * 1.44269504f : 0, mean[i] = at < a.latents ? delta[head + at] : 0;
    }
    for (int m0 = 0, stage = 0; m0 < seen; m0 += KEYS, stage ^= 1) {
        M::wait();
        __syncthreads(); // this tile is there, and the other stage is read no more
        T *const k = shared + stage * 2 * TILE, *const other = shared + (stage ^ 1) * 2 * TILE;
        const bool more = m0 + KEYS < seen;
        if (more) fetch(other, m0 + KEYS);
        if (more && !LATE) land(other);
        if (m0 <= a.kept + n + 16 * MT - 1) {
            // By PART keys: with dropout, scores of 64 would take more registers than there are.
#pragma unroll
            for (int part = 0; part < KEYS; part += PART) {
                float s[MT][N][4], ds[MT][N][4];
                M::template product<MT, N>(s, q, k + part * DIMS);
                M::template product<MT, N>(ds, d_o, k + TILE + part * DIMS);
                const bool border = m0 + part + PART - 1 > a.kept + n;
#pragma unroll
                for (int j = 0; j < N; j++)
#pragma unroll
                    for (int i = 0; i < MT; i++) {
                        const int row = n + i * 16, key = m0 + part + j * 8;
                        float keep[4] = {1, 1, 1, 1};
                        if (DROP) attn_keep_rows(keep, dropout, window, h, row, key);
#pragma unroll
                        for (int e = 0; e < 4; e++) {
                            float p = cuda_exp2(s[i][j][e] * c - top[2 * i + e / 2]);
                            if (border && key + lane % 4 * 2 + e % 2 > a.kept + row + lane / 4 + e / 2 * 8) p = 0;
                            ds[i][j][e] = p * (ds[i][j][e] * keep[e] - mean[2 * i + e / 2]);
                        }
                    }
                M::template accumulate<MT, N>(sum, ds, k + part * DIMS);
            }
        }
        if (more && LATE) land(other);
    }
#pragma unroll
    for (int i = 0; i < 2 * MT; i++) {
        const int at = n + i * 8 + lane / 4;
        if (at < a.latents) M::store(attn_query<T>(a, dq, a.ldq, b, h, at), sum[i / 2], i % 2, a.scale, D);
    }
}

template <typename T, int DIMS>
static void bwd_plain_dims(cudaStream_t stream, const pa_attn *a, const pa_attn_grads *g, float *delta) {
    typedef attn_plain<DIMS> P;
    const size_t bytes = (2 * P::ROW_TILE + 2 * P::COL_TILE + P::WEIGHTS) * sizeof(float);
    const dim3 keys(cuda_blocks((size_t)a->kept + a->latents, P::ROWS), a->heads, a->batch),
        queries(cuda_blocks(a->latents, P::ROWS), a->heads, a->batch);
    const attn_dropout dropout = attn_dropout_of(a->dropout);
    const bool wide = attn_wide(a) && cuda_wide(g->dout, 8);
    ATTN_LAUNCH((dkv_plain_kernel<T, DIMS>), keys, dim3(ATTN_THREADS), bytes, stream, *a, dropout, g->lse, delta,
                (const T *)g->dout, (T *)g->dkp, (T *)g->dvp, (T *)g->dkn, (T *)g->dvn, wide);
    ATTN_LAUNCH((dq_plain_kernel<T, DIMS>), queries, dim3(ATTN_THREADS), bytes, stream, *a, dropout, g->lse, delta,
                (const T *)g->dout, (T *)g->dq, wide);
}
template <typename T>
static void bwd_plain(cudaStream_t stream, const pa_attn *a, const pa_attn_grads *g, float *delta) {
    if (a->dim_head <= 64 && sizeof(T) == 4)
        bwd_plain_dims<T, sizeof(T) == 4 ? 64 : 128>(stream, a, g, delta);
    else
        bwd_plain_dims<T, 128>(stream, a, g, delta);
}

template <typename T, int ARCH, int DIMS, bool DROP, int MT, int ROWS, bool HELD, int BLOCKS>
static void dkv_mma_of(cudaStream_t stream, const pa_attn *a, const pa_attn_grads *g, const float *delta) {
    const dim3 grid(cuda_blocks((size_t)a->kept + a->latents, 64 * MT), a->heads, a->batch);
    ATTN_LAUNCH((dkv_mma_kernel<T, ARCH, DIMS, DROP, MT, ROWS, HELD, BLOCKS>), grid, dim3(ATTN_THREADS),
                (dkv_memory<DIMS, MT, ROWS, HELD>::BYTES), stream, *a, attn_dropout_of(a->dropout), g->lse, delta,
                (const T *)g->dout, (T *)g->dkp, (T *)g->dvp, (T *)g->dkn, (T *)g->dvn);
}

template <typename T, int ARCH, int DIMS, bool DROP, int MT, int KEYS, int BLOCKS>
static void dq_mma_of(cudaStream_t stream, const pa_attn *a, const pa_attn_grads *g, const float *delta) {
    const dim3 grid(cuda_blocks(a->latents, 64 * MT), a->heads, a->batch);
    ATTN_LAUNCH((dq_mma_kernel<T, ARCH, DIMS, DROP, MT, KEYS, BLOCKS>), grid, dim3(ATTN_THREADS),
                4 * DIMS * (KEYS + (KEYS > 64 * MT ? KEYS : 64 * MT)), stream, *a, attn_dropout_of(a->dropout), g->lse,
                delta, (const T *)g->dout, (T *)g->dq);
}

template <typename T>
static void find_delta(cudaStream_t stream, const pa_attn *a, const pa_attn_grads *g, float *delta) {
    const size_t rows = (size_t)a->batch * a->latents * a->heads;
    CUDA_LAUNCH((delta_kernel<T>), dim3(cuda_blocks(rows, ATTN_THREADS / 32)), dim3(ATTN_THREADS), 0, stream, *a,
                (const T *)g->o, (const T *)g->dout, delta, rows);
}

#ifndef PA_ATTENTION_LADDER // which takes shapes of its own (bench/ladder.cu)
template <typename T, int ARCH, int DIMS, bool DROP>
static void bwd_mma(cudaStream_t stream, const pa_attn *a, const pa_attn_grads *g, float *delta) {
    typedef dkv_shape<ARCH, DIMS, DROP> K;
    typedef dq_shape<ARCH, DIMS> Q;
    dkv_mma_of<T, ARCH, DIMS, DROP, K::MT, K::ROWS, (bool)K::HELD, K::BLOCKS>(stream, a, g, delta);
    dq_mma_of<T, ARCH, DIMS, DROP, Q::MT, Q::KEYS, Q::BLOCKS>(stream, a, g, delta);
}

void cuda_attn_bwd(cudaStream_t stream, const pa_attn *a, const pa_attn_grads *g, void *work) {
    float *delta = (float *)work;
    const int form = attn_form(a, attn_wide(a));
    CUDA_TYPED(a->type, find_delta, stream, a, g, delta);
    if (form)
        ATTN_FORM(form, a, bwd_mma, stream, a, g, delta);
    else
        CUDA_TYPED(a->type, bwd_plain, stream, a, g, delta);
}
#endif
