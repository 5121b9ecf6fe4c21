// norm.cu: residual and layer norm, the heads' RMS norm, sums of columns. Gradients of weights are summed by PARTS
// blocks, each over rows of its own, then over the blocks in their order. Knows nothing of the model.
#include "cuda/rows.cuh"

enum { PARTS = CUDA_NORM_PARTS, WARPS = 4, HEAD_THREADS = 256, REDUCE = 32 };

// Eight columns of one row: z = x (+ r (+ bias)).
static __device__ __forceinline__ void residual8(float v[8], float *z, const float *x, const float *r,
                                                 const float *bias, size_t at, int i) {
    float add[8], more[8];
    cuda_load8(v, x + at + i);
    if (!r) return;
    cuda_load8(add, r + at + i);
    if (bias) {
        cuda_load8(more, bias + i);
#pragma unroll
        for (int j = 0; j < 8; j++) add[j] += more[j];
    }
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] += add[j];
    cuda_store8(z + at + i, v);
}

// A warp a row, which it holds in registers: GROUPS times eight columns a lane, C <= 256 GROUPS. x, r read, z, y
// written: 12 + s bytes a number, 9 flop.
template <typename T, int GROUPS>
static __global__ void __launch_bounds__(32 * WARPS)
    layernorm_held_kernel(float *z, T *y, float *mean, float *rstd, const float *x, const float *r, const float *bias,
                          const float *w, const float *b, int rows, int C) {
    const int row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return; // a whole warp
    const size_t at = (size_t)row * C;
    float v[GROUPS][8], sum = 0, squares = 0;
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        int i = (g * 32 + lane) * 8;
        if (i >= C) continue;
        residual8(v[g], z, x, r, bias, at, i);
#pragma unroll
        for (int j = 0; j < 8; j++) sum += v[g][j];
    }
    if (!y) return;
    float m = cuda_warp_sum(sum) / C, s = 1;
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        if ((g * 32 + lane) * 8 >= C) continue;
#pragma unroll
        for (int j = 0; j < 8; j++) squares += (v[g][j] - m) * (v[g][j] - m);
    }
    s = 1 / sqrtf(cuda_warp_sum(squares) / C + 1e-5f);
    if (w && lane == 0) mean[row] = m, rstd[row] = s;
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        int i = (g * 32 + lane) * 8;
        if (i >= C) continue;
        if (w) {
            float scale[8], offset[8];
            cuda_load8(scale, w + i), cuda_load8(offset, b + i);
#pragma unroll
            for (int j = 0; j < 8; j++) v[g][j] = (v[g][j] - m) * s * scale[j] + offset[j];
        }
        cuda_store8(y + at + i, v[g]);
    }
}

// The same for any C: a warp a row, the row read three times (from the cache, all but once): the same bytes and flop.
template <typename T>
static __global__ void __launch_bounds__(32 * WARPS)
    layernorm_plain_kernel(float *z, T *y, float *mean, float *rstd, const float *x, const float *r, const float *bias,
                           const float *w, const float *b, int rows, int C) {
    const int row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return; // a whole warp
    const size_t at = (size_t)row * C;
    const float *from = r ? z + at : x + at; // each lane reads what it wrote itself
    float sum = 0, squares = 0;
    for (int i = lane; i < C; i += 32) {
        float v = x[at + i];
        if (r) z[at + i] = v = v + (bias ? r[at + i] + bias[i] : r[at + i]);
        sum += v;
    }
    if (!y) return;
    float m = cuda_warp_sum(sum) / C;
    for (int i = lane; i < C; i += 32) squares += (from[i] - m) * (from[i] - m);
    float s = 1 / sqrtf(cuda_warp_sum(squares) / C + 1e-5f);
    if (w && lane == 0) mean[row] = m, rstd[row] = s;
    for (int i = lane; i < C; i += 32) y[at + i] = cuda_from_float<T>(w ? (from[i] - m) * s * w[i] + b[i] : from[i]);
}

template <typename T> static void layernorm_fwd(cudaStream_t stream, const pa_layernorm *a) {
    const int C = a->C;
    dim3 grid(cuda_blocks((size_t)a->rows, WARPS)), block(32 * WARPS);
    const bool wide = cuda_wide(a->x, C) && cuda_wide(a->z, C) && cuda_wide(a->y, C) && cuda_wide(a->r, C) &&
                      cuda_wide(a->bias, C) && cuda_wide(a->w, C) && cuda_wide(a->b, C);
    if (!a->rows) return;
#define LAUNCH(...)                                                                                                    \
    CUDA_LAUNCH((__VA_ARGS__), grid, block, 0, stream, a->z, (T *)a->y, a->mean, a->rstd, a->x, a->r, a->bias, a->w,   \
                a->b, a->rows, C)
    if (!wide || C > 2048)
        LAUNCH(layernorm_plain_kernel<T>);
    else if (C <= 512)
        LAUNCH(layernorm_held_kernel<T, 2>);
    else if (C <= 1024)
        LAUNCH(layernorm_held_kernel<T, 4>);
    else
        LAUNCH(layernorm_held_kernel<T, 8>);
#undef LAUNCH
}
void cuda_layernorm_fwd(pa_device *d, const pa_layernorm *a) {
    CUDA_TYPED(a->type, layernorm_fwd, d->stream, a);
}

// a and b over the block, in one order, the same in each thread. shared: 2 floats a warp, of two turns (`turn` 0, 1, 0,
// ..), so that one barrier a turn is enough: who writes a half again has passed the barrier after all had read it.
static __device__ __forceinline__ void block_sum2(float &a, float &b, float (*shared)[32][2], int turn) {
    const int warps = blockDim.x / 32, lane = threadIdx.x % 32;
    a = cuda_warp_sum(a), b = cuda_warp_sum(b);
    if (warps == 1) return;
    if (lane == 0) shared[turn][threadIdx.x / 32][0] = a, shared[turn][threadIdx.x / 32][1] = b;
    __syncthreads();
    a = lane < warps ? shared[turn][lane][0] : 0.0f, b = lane < warps ? shared[turn][lane][1] : 0.0f;
    a = cuda_warp_sum(a), b = cuda_warp_sum(b);
}

// A block takes rows blockIdx.x, + gridDim.x, ..; a thread has eight columns (C <= 8 blockDim.x), kept in registers
// with the sums of their weights' gradients. dy, x, dx read, dx, its copy written: 12 + 2 s bytes a number, 18 flop;
// and 16 C bytes of partial sums a block.
template <typename T>
static __global__ void __launch_bounds__(512)
    layernorm_bwd_kernel(float *dx, T *copy, const T *dy, const float *x, const float *mean, const float *rstd,
                         const float *w, int rows, int C, float *work) {
    __shared__ float shared[2][32][2];
    const int i = threadIdx.x * 8;
    const bool mine = i < C;
    float scale[8], dw[8], db[8];
#pragma unroll
    for (int j = 0; j < 8; j++) scale[j] = dw[j] = db[j] = 0;
    if (mine) cuda_load8(scale, w + i);
    int turn = 0;
    for (int row = blockIdx.x; row < rows; row += gridDim.x, turn ^= 1) {
        const size_t at = (size_t)row * C + i;
        const float m = mean[row], s = rstd[row];
        float g[8] = {}, hat[8] = {}, d[8] = {}, a = 0, b = 0;
        if (mine) {
            cuda_load8(g, dy + at), cuda_load8(hat, x + at), cuda_load8(d, dx + at);
#pragma unroll
            for (int j = 0; j < 8; j++) {
                hat[j] = (hat[j] - m) * s;
                dw[j] += g[j] * hat[j], db[j] += g[j];
                g[j] *= scale[j];
                a += g[j], b += g[j] * hat[j];
            }
        }
        block_sum2(a, b, shared, turn);
        a /= C, b /= C;
        if (!mine) continue; // meets the others in the next turn
#pragma unroll
        for (int j = 0; j < 8; j++) d[j] += s * (g[j] - a - hat[j] * b);
        cuda_store8(dx + at, d);
        if (copy) cuda_store8(copy + at, d);
    }
    if (!mine) return;
    cuda_store8(work + (size_t)blockIdx.x * 2 * C + i, dw);
    cuda_store8(work + ((size_t)blockIdx.x * 2 + 1) * C + i, db);
}

// The same for any C: a thread has columns threadIdx.x, + blockDim.x, ..; sums of gradients lie in work, 16 bytes a
// number from the cache.
template <typename T>
static __global__ void __launch_bounds__(256)
    layernorm_bwd_plain_kernel(float *dx, T *copy, const T *dy, const float *x, const float *mean, const float *rstd,
                               const float *w, int rows, int C, float *work) {
    __shared__ float shared[2][32][2];
    float *dw = work + (size_t)blockIdx.x * 2 * C, *db = dw + C;
    int turn = 0;
    for (int i = threadIdx.x; i < C; i += blockDim.x) dw[i] = db[i] = 0;
    for (int row = blockIdx.x; row < rows; row += gridDim.x, turn ^= 1) {
        const size_t at = (size_t)row * C;
        const float m = mean[row], s = rstd[row];
        float a = 0, b = 0;
        for (int i = threadIdx.x; i < C; i += blockDim.x) {
            float d = cuda_to_float(dy[at + i]), hat = (x[at + i] - m) * s;
            dw[i] += d * hat, db[i] += d;
            a += d * w[i], b += d * w[i] * hat;
        }
        block_sum2(a, b, shared, turn);
        a /= C, b /= C;
        for (int i = threadIdx.x; i < C; i += blockDim.x) {
            float d = dx[at + i] + s * (cuda_to_float(dy[at + i]) * w[i] - a - (x[at + i] - m) * s * b);
            dx[at + i] = d;
            if (copy) copy[at + i] = cuda_from_float<T>(d);
        }
    }
}

// Block (32 columns, REDUCE): first (C) and second (C, may be NULL) += the columns of part (parts, 2, C). Grid (C / 32,
// 2). 4 parts bytes and parts flop a sum; 4 KB shared.
static __global__ void __launch_bounds__(32 * REDUCE)
    reduce_kernel(float *first, float *second, const float *part, int parts, int C) {
    __shared__ float all[REDUCE][32];
    const int column = blockIdx.x * 32 + threadIdx.x % 32, slice = threadIdx.x / 32;
    float sum = 0, *to = blockIdx.y ? second : first;
    if (column < C)
        for (int p = slice; p < parts; p += REDUCE) sum += part[((size_t)p * 2 + blockIdx.y) * C + column];
    all[slice][threadIdx.x % 32] = sum;
    __syncthreads();
    if (slice || column >= C) return;
    for (int i = 1; i < REDUCE; i++) sum += all[i][threadIdx.x];
    to[column] += sum;
}
static void reduce(cudaStream_t stream, float *first, float *second, const float *part, int parts, int C) {
    CUDA_LAUNCH(reduce_kernel, dim3(cuda_blocks((size_t)C, 32), second ? 2 : 1), dim3(32 * REDUCE), 0, stream, first,
                second, part, parts, C);
}

template <typename T> static void layernorm_bwd(cudaStream_t stream, const pa_layernorm_grads *a) {
    const int C = a->C, parts = a->rows < PARTS ? a->rows : PARTS;
    const bool wide = cuda_wide(a->dx, C) && cuda_wide(a->dx_copy, C) && cuda_wide(a->dy, C) && cuda_wide(a->x, C) &&
                      cuda_wide(a->w, C);
    T *copy = (T *)a->dx_copy;
    const T *dy = (const T *)a->dy;
    float *work = (float *)a->work;
    if (!a->rows) return;
    if (wide && C <= 4096)
        CUDA_LAUNCH((layernorm_bwd_kernel<T>), dim3(parts), dim3((C / 8 + 31) / 32 * 32), 0, stream, a->dx, copy, dy,
                    a->x, a->mean, a->rstd, a->w, a->rows, C, work);
    else
        CUDA_LAUNCH((layernorm_bwd_plain_kernel<T>), dim3(parts), dim3(256), 0, stream, a->dx, copy, dy, a->x, a->mean,
                    a->rstd, a->w, a->rows, C, work);
    reduce(stream, a->dw, a->db, work, parts, C);
}
void cuda_layernorm_bwd(pa_device *d, const pa_layernorm_grads *a) {
    CUDA_TYPED(a->type, layernorm_bwd, d->stream, a);
}

// Dims of a head that a lane has. WIDE: eight neighbours, `lanes` lanes (a power of two) a head. Else a warp a head,
// dims 32 apart; D <= 256.
template <bool WIDE> static __device__ __forceinline__ int dim_of(int part, int j) {
    return WIDE ? part * 8 + j : part + 32 * j;
}
template <typename T, bool WIDE>
static __device__ __forceinline__ void load_head(float v[8], const T *x, int part, int D) {
    if (WIDE && part * 8 < D) {
        cuda_load8(v, x + part * 8);
    } else {
#pragma unroll
        for (int j = 0; j < 8; j++)
            v[j] = !WIDE && dim_of<WIDE>(part, j) < D ? cuda_to_float(x[dim_of<WIDE>(part, j)]) : 0.0f;
    }
}
template <typename T, bool WIDE>
static __device__ __forceinline__ void store_head(T *x, const float v[8], int part, int D) {
    if (WIDE) {
        if (part * 8 < D) cuda_store8(x + part * 8, v);
    } else {
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (part + 32 * j < D) x[part + 32 * j] = cuda_from_float<T>(v[j]);
    }
}
static __device__ __forceinline__ float lanes_sum(float x, int lanes) {
    for (int step = lanes / 2; step; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

// 2 s bytes and 4 flop a number.
template <typename T, bool WIDE>
static __global__ void __launch_bounds__(HEAD_THREADS)
    head_norm_kernel(T *x, ptrdiff_t ld, float *rstd, const float *w, int rows, int H, int D, int lanes) {
    const size_t head = ((size_t)blockIdx.x * HEAD_THREADS + threadIdx.x) / lanes;
    const int part = threadIdx.x % lanes;
    const bool mine = head < (size_t)rows * H; // those beyond meet at the shuffles
    T *at = x + (mine ? (ptrdiff_t)(head / H) * ld + (ptrdiff_t)(head % H) * D : 0);
    float v[8], scale[8], squares = 0;
    load_head<T, WIDE>(v, at, part, mine ? D : 0), load_head<float, WIDE>(scale, w, part, D);
#pragma unroll
    for (int j = 0; j < 8; j++) squares += v[j] * v[j];
    float s = 1 / sqrtf(lanes_sum(squares, lanes) / D + 1e-6f);
    if (!mine) return;
    if (part == 0) rstd[head] = s;
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] *= s * scale[j];
    store_head<T, WIDE>(at, v, part, D);
}

// Blocks take heads in turn; each thread sums dw of its dims, then the block in the order of its groups of lanes. 3 s
// bytes and 12 flop a number, 8 D bytes of partial sums a block; 8 KB shared.
template <typename T, bool WIDE>
static __global__ void __launch_bounds__(HEAD_THREADS)
    head_norm_bwd_kernel(T *dy, ptrdiff_t ld_dy, const T *y, ptrdiff_t ld_y, const float *rstd, const float *w,
                         int rows, int H, int D, int lanes, float *work) {
    __shared__ float sums[HEAD_THREADS][8];
    const int groups = HEAD_THREADS / lanes, part = threadIdx.x % lanes;
    const size_t all = (size_t)rows * H;
    float scale[8], dw[8];
    load_head<float, WIDE>(scale, w, part, D);
#pragma unroll
    for (int j = 0; j < 8; j++) dw[j] = 0;
    for (size_t first = (size_t)blockIdx.x * groups; first < all; first += (size_t)gridDim.x * groups) {
        const size_t head = first + threadIdx.x / lanes;
        const bool mine = head < all;
        const size_t row = mine ? head / H : 0, h = mine ? head % H : 0;
        T *to = dy + (ptrdiff_t)row * ld_dy + h * D;
        float g[8], hat[8], b = 0;
        load_head<T, WIDE>(g, to, part, mine ? D : 0),
            load_head<T, WIDE>(hat, y + (ptrdiff_t)row * ld_y + h * D, part, mine ? D : 0);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            hat[j] = scale[j] == 0 ? 0.0f : hat[j] / scale[j];
            dw[j] += g[j] * hat[j], g[j] *= scale[j], b += g[j] * hat[j];
        }
        b = lanes_sum(b, lanes) / D;
        if (!mine) continue;
        const float s = rstd[head];
#pragma unroll
        for (int j = 0; j < 8; j++) g[j] = s * (g[j] - hat[j] * b);
        store_head<T, WIDE>(to, g, part, D);
    }
#pragma unroll
    for (int j = 0; j < 8; j++) sums[threadIdx.x][j] = dw[j];
    __syncthreads();
    for (int d = threadIdx.x; d < D; d += HEAD_THREADS) {
        float sum = 0;
        for (int g = 0; g < groups; g++)
            sum += WIDE ? sums[g * lanes + d / 8][d % 8] : sums[g * lanes + d % 32][d / 32];
        work[(size_t)blockIdx.x * 2 * D + d] = sum;
    }
}

static int lanes_of(int D) {
    int lanes = 1;
    while (lanes * 8 < D) lanes *= 2;
    return lanes;
}
template <typename T> static void head_norm_fwd(cudaStream_t stream, const pa_head_norm *a) {
    const bool wide = a->D % 8 == 0 && cuda_wide(a->x, a->ld) && cuda_wide(a->w, 0);
    const int lanes = wide ? lanes_of(a->D) : 32;
    dim3 grid(cuda_blocks((size_t)a->rows * a->H * lanes, HEAD_THREADS)), block(HEAD_THREADS);
    T *x = (T *)a->x;
    if (!a->rows) return;
    if (wide)
        CUDA_LAUNCH((head_norm_kernel<T, true>), grid, block, 0, stream, x, a->ld, a->rstd, a->w, a->rows, a->H, a->D,
                    lanes);
    else
        CUDA_LAUNCH((head_norm_kernel<T, false>), grid, block, 0, stream, x, a->ld, a->rstd, a->w, a->rows, a->H, a->D,
                    lanes);
}
void cuda_head_norm_fwd(pa_device *d, const pa_head_norm *a) {
    CUDA_TYPED(a->type, head_norm_fwd, d->stream, a);
}

template <typename T> static void head_norm_bwd(cudaStream_t stream, const pa_head_norm_grads *a) {
    const bool wide = a->D % 8 == 0 && cuda_wide(a->dy, a->ld_dy) && cuda_wide(a->x, a->ld_x) && cuda_wide(a->w, 0);
    const int lanes = wide ? lanes_of(a->D) : 32,
              blocks = (int)cuda_blocks((size_t)a->rows * a->H * lanes, HEAD_THREADS);
    const int parts = blocks < PARTS ? blocks : PARTS;
    T *dy = (T *)a->dy;
    const T *x = (const T *)a->x;
    float *work = (float *)a->work;
    if (!a->rows) return;
    if (wide)
        CUDA_LAUNCH((head_norm_bwd_kernel<T, true>), dim3(parts), dim3(HEAD_THREADS), 0, stream, dy, a->ld_dy, x,
                    a->ld_x, a->rstd, a->w, a->rows, a->H, a->D, lanes, work);
    else
        CUDA_LAUNCH((head_norm_bwd_kernel<T, false>), dim3(parts), dim3(HEAD_THREADS), 0, stream, dy, a->ld_dy, x,
                    a->ld_x, a->rstd, a->w, a->rows, a->H, a->D, lanes, work);
    reduce(stream, a->dw, NULL, work, parts, a->D);
}
void cuda_head_norm_bwd(pa_device *d, const pa_head_norm_grads *a) {
    CUDA_TYPED(a->type, head_norm_bwd, d->stream, a);
}

// Grid (parts, C / 256): rows blockIdx.x, + parts, .. of a column a thread. 4 bytes and a flop a number.
static __global__ void __launch_bounds__(256) column_kernel(float *work, const float *x, int rows, int C) {
    const int column = blockIdx.y * 256 + threadIdx.x;
    float sum = 0;
    if (column >= C) return;
#pragma unroll 4
    for (int row = blockIdx.x; row < rows; row += gridDim.x) sum += x[(size_t)row * C + column];
    work[(size_t)blockIdx.x * 2 * C + column] = sum;
}
void cuda_column_sum(pa_device *d, float *sum, const float *x, int rows, int C, void *work) {
    const int parts = rows < PARTS ? rows : PARTS;
    if (!rows) return;
    CUDA_LAUNCH(column_kernel, dim3(parts, cuda_blocks((size_t)C, 256)), dim3(256), 0, d->stream, (float *)work, x,
                rows, C);
    reduce(d->stream, sum, NULL, (const float *)work, parts, C);
}
