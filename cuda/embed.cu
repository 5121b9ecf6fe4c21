// embed.cu: the sum of embeddings and its gradient, each sum in the order of the rows. Knows nothing of where tokens
// come from.
#include "cuda/rows.cuh"

enum { THREADS = 256, WARPS = THREADS / 32, EACH = 4, CHUNK = THREADS * EACH, COLUMNS = 128, POSITIONS = 32 };

static __device__ __forceinline__ void add4(float4 *to, const float *from) {
    const float4 b = *(const float4 *)from;
    to->x += b.x, to->y += b.y, to->z += b.z, to->w += b.w;
}

// A block a row: 4 C bytes read a table (which stays in the cache), 4 C written, C flop a table beyond the first.
static __global__ void __launch_bounds__(128) embed_kernel(float *x, pa_embed a, bool wide) {
    cuda_let_next_start(); // in decoding, a product
    const int C = a.C;
    const size_t row = blockIdx.x;
    const float *t = a.token_emb + (size_t)a.token[row] * C;
    const float *p = a.pos_emb ? a.pos_emb + (size_t)a.position[row] * C : NULL;
    x += row * C;
    if (wide) {
        for (int i = threadIdx.x * 4; i < C; i += 512) {
            float4 sum = *(const float4 *)(t + i);
            if (p) add4(&sum, p + i);
            for (int j = 0; j < a.slots; j++) {
                const int at = a.bag[(size_t)j * a.slot_ld + row];
                if (at >= 0) add4(&sum, a.bag_emb + (size_t)at * C + i);
            }
            *(float4 *)(x + i) = sum;
        }
    } else {
        for (int i = threadIdx.x; i < C; i += 128) {
            float sum = p ? t[i] + p[i] : t[i];
            for (int j = 0; j < a.slots; j++) {
                const int at = a.bag[(size_t)j * a.slot_ld + row];
                if (at >= 0) sum += a.bag_emb[(size_t)at * C + i];
            }
            x[i] = sum;
        }
    }
}
void cuda_embed_fwd(pa_device *d, float *x, const pa_embed *a) {
    const bool wide = a->C % 4 == 0 && cuda_wide(x, 0) && cuda_wide(a->token_emb, 0) && cuda_wide(a->pos_emb, 0) &&
                      cuda_wide(a->bag_emb, 0);
    if (a->rows) CUDA_LAUNCH(embed_kernel, dim3(a->rows), dim3(128), 0, d->stream, x, *a, wide);
}

// Rows from `base` on, CHUNK of them, whose index is in [low, high): to list, in order. Returns how many; all threads
// meet at its start.
static __device__ int find_rows(int *list, int *counts, const int32_t *index, int base, int rows, int low, int high) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unsigned votes[EACH];
    int mine = 0, before = 0, all = 0;
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        int row = base + (warp * EACH + k) * 32 + lane, i = row < rows ? index[row] : -1;
        votes[k] = __ballot_sync(0xffffffffu, i >= low && i < high);
        mine += __popc(votes[k]);
    }
    __syncthreads(); // the last chunk's list has been read
    if (lane == 0) counts[warp] = mine;
    __syncthreads();
    for (int w = 0; w < WARPS; w++) {
        if (w < warp) before += counts[w];
        all += counts[w];
    }
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        if (votes[k] >> lane & 1)
            list[before + __popc(votes[k] & ((1u << lane) - 1))] = base + (warp * EACH + k) * 32 + lane;
        before += __popc(votes[k]);
    }
    __syncthreads();
    return all;
}

// A block a row. 4 + 2 s bytes a number; limited by that.
template <typename T> static __global__ void __launch_bounds__(128) add_rows_kernel(pa_add_rows a) {
    const float *row = a.table + (size_t)a.token[blockIdx.x] * a.C;
    T *x = (T *)a.x + (size_t)blockIdx.x * a.ld;
    for (int i = threadIdx.x; i < a.C; i += 128) x[i] = cuda_from_float<T>(cuda_to_float(x[i]) + row[i]);
}
template <typename T> static void add_rows(pa_device *d, const pa_add_rows *a) {
    if (a->rows) CUDA_LAUNCH((add_rows_kernel<T>), dim3(a->rows), dim3(128), 0, d->stream, *a);
}
void cuda_add_rows(pa_device *d, const pa_add_rows *a) {
    CUDA_TYPED(a->type, add_rows, d, a);
}

// Grid (rows of a table, C / COLUMNS): one row of it, from `first` on, COLUMNS columns of its gradient. dx has rows
// ld_dx apart. Warp w adds every WARPS-th row that has it in one of `slots`, then the warps' sums are added in their
// order. s C bytes read a row; each block also reads all ids, 4 bytes a row and slot, from the second level cache: V C
// / COLUMNS times (v3: 390 x 8 x 7.2k rows x 4 = 90 MB, some 20 us on an H100, as long as reading the rows).
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    embed_token_kernel(float *demb, const T *dx, ptrdiff_t ld_dx, const int32_t *index, int ld, int slots, int first,
                       int rows, int C) {
    __shared__ int list[CHUNK], counts[WARPS];
    __shared__ float sums[WARPS][COLUMNS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.y * COLUMNS + lane;
    const int wanted = first + blockIdx.x;
    float sum[4] = {0, 0, 0, 0};
    for (int slot = 0; slot < slots; slot++, index += ld)
        for (int base = 0; base < rows; base += CHUNK) {
            int found = find_rows(list, counts, index, base, rows, wanted, wanted + 1);
#pragma unroll 4
            for (int i = warp; i < found; i += WARPS) {
                const T *d = dx + list[i] * ld_dx + column;
#pragma unroll
                for (int k = 0; k < 4; k++) sum[k] += column + 32 * k < C ? cuda_to_float(d[32 * k]) : 0.0f;
            }
        }
#pragma unroll
    for (int k = 0; k < 4; k++) sums[warp][lane + 32 * k] = sum[k];
    __syncthreads();
    const int mine = blockIdx.y * COLUMNS + threadIdx.x;
    if (threadIdx.x >= COLUMNS || mine >= C) return;
    float all = demb[(size_t)wanted * C + mine];
    for (int w = 0; w < WARPS; w++) all += sums[w][threadIdx.x];
    demb[(size_t)wanted * C + mine] = all;
}

// A block: POSITIONS neighbouring positions, every WARPS-th of them for warp w; their gradients are added to in memory,
// row by row (a batch has few rows a position). 12 C bytes a row; ids are read positions / POSITIONS times (v4: 512 x
// 16k x 4 = 33 MB).
static __global__ void __launch_bounds__(THREADS)
    embed_position_kernel(float *demb, const float *dx, const int32_t *position, int rows, int C) {
    __shared__ int list[CHUNK], counts[WARPS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, low = blockIdx.x * POSITIONS;
    for (int base = 0; base < rows; base += CHUNK) {
        int found = find_rows(list, counts, position, base, rows, low, low + POSITIONS);
        for (int i = 0; i < found; i++) {
            int at = position[list[i]];
            if (at % WARPS != warp) continue;
            for (int c = lane; c < C; c += 32) demb[(size_t)at * C + c] += dx[(size_t)list[i] * C + c];
        }
    }
}
void cuda_embed_bwd(pa_device *d, const pa_embed_grads *a) {
    if (!a->rows) return;
    const unsigned columns = cuda_blocks((size_t)a->C, COLUMNS);
    CUDA_LAUNCH((embed_token_kernel<float>), dim3(a->V, columns), dim3(THREADS), 0, d->stream, a->dtoken_emb, a->dx,
                (ptrdiff_t)a->C, a->token, 0, 1, 0, a->rows, a->C);
    for (const pa_bag_part *p = a->part; p < a->part + a->parts; p++)
        CUDA_LAUNCH((embed_token_kernel<float>), dim3(p->rows, columns), dim3(THREADS), 0, d->stream, a->dbag_emb,
                    a->dx, (ptrdiff_t)a->C, a->bag + (size_t)p->slot * a->slot_ld, a->slot_ld, p->slots, p->row,
                    a->rows, a->C);
    if (a->dpos_emb)
        CUDA_LAUNCH(embed_position_kernel, dim3(cuda_blocks((size_t)a->positions, POSITIONS)), dim3(THREADS), 0,
                    d->stream, a->dpos_emb, a->dx, a->position, a->rows, a->C);
}

template <typename T> static void add_rows_bwd(pa_device *d, const pa_add_rows_grads *a) {
    if (a->rows)
        CUDA_LAUNCH((embed_token_kernel<T>), dim3(a->V, cuda_blocks((size_t)a->C, COLUMNS)), dim3(THREADS), 0,
                    d->stream, a->dtable, (const T *)a->dx, a->ld, a->token, 0, 1, 0, a->rows, a->C);
}
void cuda_add_rows_bwd(pa_device *d, const pa_add_rows_grads *a) {
    CUDA_TYPED(a->type, add_rows_bwd, d, a);
}
