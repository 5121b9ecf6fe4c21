// optimizer.cu: the norm of all gradients and Adam over all tensors in one launch. Knows nothing of tensors but where
// decay applies.
#include "cuda/rows.cuh"

enum { THREADS = 256, PARTS = CUDA_SQUARES_PARTS };

// Over a block, in one order; thread 0 has the result. A barrier in each turn.
static __device__ double block_sum(double x) {
    __shared__ double all[THREADS];
    all[threadIdx.x] = x;
    __syncthreads();
    for (int step = THREADS / 2; step; step /= 2) {
        if ((int)threadIdx.x < step) all[threadIdx.x] += all[threadIdx.x + step];
        __syncthreads();
    }
    return all[0];
}

// Grid PARTS: part (PARTS). 4 n bytes read, 2 n flop, in double after the products' operands.
static __global__ void __launch_bounds__(THREADS) squares_kernel(double *part, const float *x, size_t n) {
    double sum = 0;
    for (size_t i = ((size_t)blockIdx.x * THREADS + threadIdx.x) * 4; i < n; i += (size_t)PARTS * THREADS * 4) {
        if (i + 4 <= n) {
            float4 v = *reinterpret_cast<const float4 *>(x + i);
            sum += (double)v.x * v.x + (double)v.y * v.y + ((double)v.z * v.z + (double)v.w * v.w);
        } else {
            for (size_t j = i; j < n; j++) sum += (double)x[j] * x[j];
        }
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

// One block: 8 PARTS bytes read.
static __global__ void __launch_bounds__(THREADS) parts_kernel(double *sum, const double *part) {
    double x = 0;
    for (int i = threadIdx.x; i < PARTS; i += THREADS) x += part[i];
    x = block_sum(x);
    if (threadIdx.x == 0) *sum = x;
}

void cuda_sum_squares(pa_device *d, double *sum, const float *x, size_t n, void *work) {
    CUDA_LAUNCH(squares_kernel, dim3(PARTS), dim3(THREADS), 0, d->stream, (double *)work, x, n);
    CUDA_LAUNCH(parts_kernel, dim3(1), dim3(THREADS), 0, d->stream, sum, (const double *)work);
}

struct adam_constants {
    float scale, keep, l2, b1, a1, b2, a2, step, root, eps;
    bool finite;
};

static __device__ adam_constants constants_of(const pa_scalars *s, pa_group group, double squares) {
    const float clip = (float)s->clip, lr = (float)s->lr[group], decay = (float)s->decay;
    const double norm = s->grad_scale * sqrt(squares);
    adam_constants k;
    k.finite = norm <= 1.7976931348623157e308;
    k.scale = (float)(s->grad_scale * (clip > 0 && norm > clip ? clip / norm : 1.0));
    k.keep = s->decoupled ? (float)(1 - (double)lr * decay) : 1.0f, k.l2 = s->decoupled ? 0.0f : decay;
    k.b1 = (float)s->beta1, k.a1 = (float)(1 - s->beta1), k.b2 = (float)s->beta2, k.a2 = (float)(1 - s->beta2);
    k.step = (float)((double)lr / (float)s->c1), k.root = (float)(1 / sqrt((double)(float)s->c2)),
    k.eps = (float)s->eps;
    return k;
}

template <typename T> static __device__ __forceinline__ void store4(T *to, float4 x) {
    uint2 bits;
    T *t = reinterpret_cast<T *>(&bits);
    t[0] = cuda_from_float<T>(x.x), t[1] = cuda_from_float<T>(x.y), t[2] = cuda_from_float<T>(x.z),
    t[3] = cuda_from_float<T>(x.w);
    *reinterpret_cast<uint2 *>(to) = bits;
}
template <> __device__ __forceinline__ void store4<float>(float *to, float4 x) {
    *reinterpret_cast<float4 *>(to) = x;
}

// A number. The same steps as the CPU's.
static __device__ __forceinline__ void adam(const adam_constants &k, bool decays, float &p, float g, float &m,
                                            float &v) {
    float gradient = g * k.scale + (decays ? k.l2 : 0.0f) * p;
    m = k.b1 * m + k.a1 * gradient;
    v = k.b2 * v + k.a2 * gradient * gradient;
    p = p * (decays ? k.keep : 1.0f) - k.step * m / (sqrtf(v) * k.root + k.eps);
}

// n a multiple of 16; four neighbours a turn. 16 n bytes read, 12 n (16 n where cleared) and the copy written, 16 n
// flop.
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    adam_kernel(float4 *p, float4 *g, float4 *m, float4 *v, T *copy, const uint8_t *flags, pa_group group, size_t n,
                const double *squares, const pa_scalars *scalars) {
    __shared__ adam_constants shared;
    if (threadIdx.x == 0) shared = constants_of(scalars, group, *squares);
    __syncthreads();
    const adam_constants k = shared;
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < n / 4; i += (size_t)gridDim.x * THREADS) {
        const uint8_t flag = flags[i / 4];
        if (k.finite) {
            float4 a = p[i], b = g[i], c = m[i], d = v[i];
            const bool decay = flag & CUDA_DECAYS;
            adam(k, decay, a.x, b.x, c.x, d.x), adam(k, decay, a.y, b.y, c.y, d.y);
            adam(k, decay, a.z, b.z, c.z, d.z), adam(k, decay, a.w, b.w, c.w, d.w);
            p[i] = a, m[i] = c, v[i] = d;
            if (copy) store4(copy + i * 4, a);
        }
        if (!(flag & CUDA_LINEAR)) g[i] = make_float4(0, 0, 0, 0);
    }
}

template <typename T> static void launch_adam(const pa_device *d, const pa_adam *a) {
    const size_t n = a->to - a->from;
    unsigned blocks = cuda_blocks(n, 4 * THREADS);
    if (!n) return;
    CUDA_LAUNCH((adam_kernel<T>), dim3(blocks < 2048 ? blocks : 2048), dim3(THREADS), 0, d->stream, (float4 *)a->p,
                (float4 *)a->g, (float4 *)a->m, (float4 *)a->v, (T *)a->copy, d->flags + a->from / 16, a->group, n,
                a->squares, a->scalars);
}

void cuda_adam(pa_device *d, const pa_adam *a) {
    CUDA_TYPED(a->type, launch_adam, d, a);
}
