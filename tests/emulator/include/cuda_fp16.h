// cuda_fp16.h: a stand-in for CUDA's header of that name: what our kernels use of it.
#ifndef PA_EMULATOR_CUDA_FP16_H
#define PA_EMULATOR_CUDA_FP16_H

#include "cuda_runtime.h"

struct alignas(2) __half {
    uint16_t bits;
};
struct alignas(4) __half2 {
    __half x, y;
};

inline float __half2float(__half h) {
    const uint32_t sign = (uint32_t)(h.bits & 0x8000) << 16, rest = h.bits & 0x7fff;
    if (rest >= 0x7c00) return __uint_as_float(sign | 0x7f800000u | (rest & 0x3ff) << 13);
    // The exponent is off by 112; subnormal numbers come out right as well, since the product is exact.
    return __uint_as_float(sign | __float_as_uint(__uint_as_float(rest << 13) * 0x1p112f));
}
inline __half __float2half_rn(float x) {
    const uint32_t bits = __float_as_uint(x), rest = bits & 0x7fffffff;
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    if (rest > 0x7f800000) return {0x7fff};
    if (rest >= 0x477ff000) return {(uint16_t)(sign | 0x7c00)}; // from 65520 on
    uint32_t half;
    if (rest < 0x38800000) // below 2^-14 a half's unit is 2^-24, as is a float's between 0.5 and 1
        half = __float_as_uint(__uint_as_float(rest) + 0.5f) - 0x3f000000;
    else
        half = (rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13;
    return {(uint16_t)(sign | half)};
}
inline __half __float2half(float x) {
    return __float2half_rn(x);
}
inline __half2 __floats2half2_rn(float x, float y) {
    return {__float2half_rn(x), __float2half_rn(y)};
}
inline __half2 __float22half2_rn(float2 v) {
    return __floats2half2_rn(v.x, v.y);
}
inline float2 __half22float2(__half2 v) {
    return {__half2float(v.x), __half2float(v.y)};
}
inline unsigned short __half_as_ushort(__half x) {
    return x.bits;
}
inline __half __ushort_as_half(unsigned short x) {
    return {x};
}

#endif
