// activation.cuh: GELU and squared ReLU, and their derivatives. Only .cu files include it.
#ifndef PA_CUDA_ACTIVATION_CUH
#define PA_CUDA_ACTIVATION_CUH

#include "cuda/device.cuh"
#include "host/model/params.h"

// The normal distribution's integral, and e^(-x^2 / 2). For float32 by the library; for 16 bits, where erfcf itself
// would take longer than reading and writing, either tail within 12 + 2 x^2 roundings of float32: the tail over e^(-x^2
// / 2) is a polynomial of 1 / (1 + 0.3 |x|), fitted to 2^-24 for |x| up to 13.5, where the tail ends in 2^-126.
template <typename T> static __device__ __forceinline__ float normal_integral(float x, float &bell) {
    if (sizeof(T) == 4) {
        bell = expf(-0.5f * x * x);
        return 0.5f * erfcf(-0.70710678f * x);
    }
    const float factors[] = {0.038334254f, -0.16895197f, 0.22821732f,  -0.07599961f, 0.1421851f,
                             0.09483298f,  0.12188205f,  0.119493064f, 6.8529126e-6f};
    const float t = cuda_reciprocal(1 + 0.3f * fabsf(x));
    bell = cuda_exp2(-0.72134752f * x * x);
    float tail = factors[0];
#pragma unroll
    for (int i = 1; i < 9; i++) tail = tail * t + factors[i];
    return x < 0 ? tail * bell : 1 - tail * bell;
}
// g = activation(h), or its derivative.
template <typename T> static __device__ __forceinline__ float activation(pa_activation kind, bool back, float x) {
    if (kind == PA_SQRELU) {
        float positive = x < 0 ? 0.0f : x; // NaN stays
        return back ? 2 * positive : positive * positive;
    }
    float bell, phi = normal_integral<T>(x, bell);
    return back ? phi + 0.39894228f * x * bell : x * phi;
}

#endif
