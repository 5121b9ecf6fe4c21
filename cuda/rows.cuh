// rows.cuh: what the row and element kernels share: eight neighbours at a time, and the choice of a type. Only .cu
// files include it. Knows nothing of the model.
#ifndef PA_CUDA_ROWS_CUH
#define PA_CUDA_ROWS_CUH

#include "cuda/device.cuh"
#include "cuda/device.h"

// Eight neighbours, aligned to 16 bytes, as float32.
template <typename T> __device__ __forceinline__ void cuda_load8(float x[8], const T *p) {
    uint4 bits = *reinterpret_cast<const uint4 *>(p);
    const T *t = reinterpret_cast<const T *>(&bits);
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = cuda_to_float(t[i]);
}
template <> __device__ __forceinline__ void cuda_load8<float>(float x[8], const float *p) {
    float4 a = *reinterpret_cast<const float4 *>(p), b = *reinterpret_cast<const float4 *>(p + 4);
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
}
template <typename T> __device__ __forceinline__ void cuda_store8(T *p, const float x[8]) {
    uint4 bits;
    T *t = reinterpret_cast<T *>(&bits);
#pragma unroll
    for (int i = 0; i < 8; i++) t[i] = cuda_from_float<T>(x[i]);
    *reinterpret_cast<uint4 *>(p) = bits;
}
template <> __device__ __forceinline__ void cuda_store8<float>(float *p, const float x[8]) {
    *reinterpret_cast<float4 *>(p) = make_float4(x[0], x[1], x[2], x[3]);
    *reinterpret_cast<float4 *>(p + 4) = make_float4(x[4], x[5], x[6], x[7]);
}

// Whether rows of p, `width` elements apart, can be read eight at a time. NULL can.
static inline bool cuda_wide(const void *p, ptrdiff_t width) {
    return (uintptr_t)p % 16 == 0 && width % 8 == 0;
}
static inline unsigned cuda_blocks(size_t n, size_t each) {
    return (unsigned)((n + each - 1) / each);
}

// Calls function<T>(arguments) with the T of `type`.
#define CUDA_TYPED(type, function, ...)                                                                                \
    do {                                                                                                               \
        if ((type) == PA_TYPE_F32)                                                                                     \
            function<float>(__VA_ARGS__);                                                                              \
        else if ((type) == PA_TYPE_BF16)                                                                               \
            function<__nv_bfloat16>(__VA_ARGS__);                                                                      \
        else                                                                                                           \
            function<__half>(__VA_ARGS__);                                                                             \
    } while (0)

#endif
