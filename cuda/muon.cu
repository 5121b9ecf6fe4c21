// muon.cu: Muon's operations beside products. Each reads its operands once and writes once; limited by that. Knows
// nothing of the model.
#include "cuda/rows.cuh"

enum { THREADS = 256, TILE = 32, TILE_ROWS = THREADS / TILE };

// What gradients are multiplied by, clipping included; 0 where their norm is not finite.
static __device__ float gradient_scale(const pa_scalars *s, double squares) {
    const double norm = s->grad_scale * sqrt(squares);
    if (!(norm <= 1.7976931348623157e308)) return 0;
    return (float)(s->grad_scale * (s->clip > 0 && norm > s->clip ? s->clip / norm : 1.0));
}

static __device__ __forceinline__ void momentum(float scale, float mu, float rest, float &m, float &g) {
    const float gradient = g * scale;
    m = mu * m + rest * gradient;
    g = rest * gradient + mu * m;
}

// n a multiple of 4. 8 n bytes read and written, 6 n flop.
static __global__ void __launch_bounds__(THREADS)
    momentum_kernel(float4 *m, float4 *g, size_t n, const double *squares, const pa_scalars *scalars) {
    __shared__ float shared[3];
    if (threadIdx.x == 0) {
        shared[0] = gradient_scale(scalars, *squares);
        shared[1] = (float)scalars->momentum;
        shared[2] = (float)(1 - scalars->momentum);
    }
    __syncthreads();
    const float scale = shared[0], mu = shared[1], rest = shared[2];
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < n / 4; i += (size_t)gridDim.x * THREADS) {
        if (scale == 0) {
            g[i] = make_float4(0, 0, 0, 0);
            continue;
        }
        float4 a = m[i], b = g[i];
        momentum(scale, mu, rest, a.x, b.x), momentum(scale, mu, rest, a.y, b.y);
        momentum(scale, mu, rest, a.z, b.z), momentum(scale, mu, rest, a.w, b.w);
        m[i] = a, g[i] = b;
    }
}

void cuda_momentum(pa_device *d, const pa_momentum *a) {
    unsigned blocks = cuda_blocks(a->n, 4 * THREADS);
    CUDA_LAUNCH(momentum_kernel, dim3(blocks < 2048 ? blocks : 2048), dim3(THREADS), 0, d->stream, (float4 *)a->m,
                (float4 *)a->g, a->n, a->squares, a->scalars);
}

// A block takes a tile of u; with `turn` through shared memory, so that rows are read and written along their length.
// (4 + s) n bytes. Shared memory: 4 KiB.
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    normalise_kernel(T *x, const float *u, int rows, int columns, bool turn, const double *squares) {
    __shared__ float tile[TILE][TILE + 1], shared;
    const int c0 = blockIdx.x * TILE, r0 = blockIdx.y * TILE, i = threadIdx.x % TILE;
    if (threadIdx.x == 0) shared = (float)(1 / (sqrt(*squares) + 1e-7));
    __syncthreads();
    const float scale = shared;
    for (int j = threadIdx.x / TILE; j < TILE; j += TILE_ROWS) {
        if (r0 + j >= rows || c0 + i >= columns) continue;
        const size_t at = (size_t)(r0 + j) * columns + c0 + i;
        if (turn)
            tile[j][i] = u[at] * scale;
        else
            x[at] = cuda_from_float<T>(u[at] * scale);
    }
    __syncthreads();
    for (int j = threadIdx.x / TILE; turn && j < TILE; j += TILE_ROWS)
        if (c0 + j < columns && r0 + i < rows) x[(size_t)(c0 + j) * rows + r0 + i] = cuda_from_float<T>(tile[i][j]);
}

template <typename T> static void launch_normalise(pa_device *d, const pa_normalise *a) {
    CUDA_LAUNCH((normalise_kernel<T>), dim3(cuda_blocks(a->columns, TILE), cuda_blocks(a->rows, TILE)), dim3(THREADS),
                0, d->stream, (T *)a->x, a->u, a->rows, a->columns, a->turn, a->squares);
}
void cuda_normalise(pa_device *d, const pa_normalise *a) {
    CUDA_TYPED(a->type, launch_normalise, d, a);
}

// 3 s n n bytes.
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    polynomial_kernel(T *b, const T *a, int n, float p0, float p1, float p2) {
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < (size_t)n * n; i += (size_t)gridDim.x * THREADS)
        b[i] = cuda_from_float<T>(p1 * cuda_to_float(a[i]) + p2 * cuda_to_float(b[i]) + (i % (n + 1) ? 0 : p0));
}

template <typename T> static void launch_polynomial(pa_device *d, const pa_polynomial *a) {
    unsigned blocks = cuda_blocks((size_t)a->n * a->n, THREADS);
    CUDA_LAUNCH((polynomial_kernel<T>), dim3(blocks < 2048 ? blocks : 2048), dim3(THREADS), 0, d->stream, (T *)a->b,
                (const T *)a->a, a->n, a->p0, a->p1, a->p2);
}
void cuda_polynomial(pa_device *d, const pa_polynomial *a) {
    CUDA_TYPED(a->type, launch_polynomial, d, a);
}

// As normalise_kernel, the other way round. (8 + 2 s) n bytes, 3 n flop.
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    muon_kernel(float *p, T *copy, const T *x, int rows, int columns, bool turn, bool decays, const double *squares,
                const pa_scalars *scalars) {
    __shared__ float tile[TILE][TILE + 1], shared[3];
    const int c0 = blockIdx.x * TILE, r0 = blockIdx.y * TILE, i = threadIdx.x % TILE;
    if (threadIdx.x == 0) {
        const double lr = scalars->lr[PA_GROUP_MATRIX];
        shared[0] = gradient_scale(scalars, *squares);
        shared[1] = decays ? (float)(1 - lr * scalars->decay) : 1;
        shared[2] = (float)(lr * sqrt(rows > columns ? (double)rows / columns : 1.0));
    }
    for (int j = threadIdx.x / TILE; turn && j < TILE; j += TILE_ROWS)
        if (c0 + j < columns && r0 + i < rows) tile[i][j] = cuda_to_float(x[(size_t)(c0 + j) * rows + r0 + i]);
    __syncthreads();
    const float keep = shared[1], step = shared[2];
    if (shared[0] == 0) return;
    for (int j = threadIdx.x / TILE; j < TILE; j += TILE_ROWS) {
        if (r0 + j >= rows || c0 + i >= columns) continue;
        const size_t at = (size_t)(r0 + j) * columns + c0 + i;
        const float now = p[at] * keep - step * (turn ? tile[j][i] : cuda_to_float(x[at]));
        p[at] = now;
        if (copy) copy[at] = cuda_from_float<T>(now);
    }
}

template <typename T> static void launch_muon(pa_device *d, const pa_muon *a) {
    CUDA_LAUNCH((muon_kernel<T>), dim3(cuda_blocks(a->columns, TILE), cuda_blocks(a->rows, TILE)), dim3(THREADS), 0,
                d->stream, a->p, (T *)a->copy, (const T *)a->x, a->rows, a->columns, a->turn, a->decays, a->squares,
                a->scalars);
}
void cuda_muon(pa_device *d, const pa_muon *a) {
    CUDA_TYPED(a->type, launch_muon, d, a);
}
