// simd_math.h: element functions written so that loops over them vectorise on every instruction set: no branches, no
// library calls. Included only by cpu/simd_*.c. Under `#pragma omp simd`, gcc and clang turn them into vector code.
#ifndef PA_CPU_SIMD_MATH_H
#define PA_CPU_SIMD_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "cpu/ops.h"
#include "cpu/simd.h"

SIMD_INLINE float f32_of_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}
SIMD_INLINE uint32_t bits_of_f32(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

// Element i of a tensor of type t. With t a constant, as in the two calls of a body, the test is gone.
SIMD_INLINE float act_get(pa_type t, const void *x, size_t i) {
    return t == PA_TYPE_F32 ? ((const float *)x)[i] : bf16_to_float(((const uint16_t *)x)[i]);
}
SIMD_INLINE void act_set(pa_type t, void *x, size_t i, float value) {
    if (t == PA_TYPE_F32)
        ((float *)x)[i] = value;
    else
        ((uint16_t *)x)[i] = bf16_from_float(value);
}
// Elements i to i + n, n <= VW; lanes beyond are 0.
SIMD_INLINE vf act_load(pa_type t, const void *x, size_t i, int n) {
    if (n == VW) return t == PA_TYPE_F32 ? vf_load((const float *)x + i) : vf_load_bf16((const uint16_t *)x + i);
    vf v = {0};
    for (int j = 0; j < n; j++) v[j] = act_get(t, x, i + (size_t)j);
    return v;
}
SIMD_INLINE void act_store(pa_type t, void *x, size_t i, int n, vf v) {
    if (n == VW && t == PA_TYPE_F32)
        vf_store((float *)x + i, v);
    else if (n == VW)
        vf_store_bf16((uint16_t *)x + i, v);
    else
        for (int j = 0; j < n; j++) act_set(t, x, i + (size_t)j, v[j]);
}
SIMD_INLINE void *act_at(pa_type t, const void *x, size_t i) {
    return (char *)x + i * (t == PA_TYPE_F32 ? 4 : 2);
}

// e^x for x <= 88, 0 below -87.3; within 2 units in the last place. x = n ln 2 + r, |r| <= ln 2 / 2, Taylor's series of
// degree 7 in r.
SIMD_INLINE float exp_f32(float x) {
    float in = x < -87.3f ? -87.3f : x > 88.0f ? 88.0f : x; // a NaN goes through
    float shifted = in * 1.44269504f + 12582912.0f;         // 1.5 * 2^23: the integer lands in the low bits
    float n = shifted - 12582912.0f;
    float r = (in - n * 0.693359375f) + n * 2.12194440e-4f; // ln 2 in two parts, the first exact with n
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720, p = p * r + 1.0f / 120, p = p * r + 1.0f / 24, p = p * r + 1.0f / 6, p = p * r + 0.5f,
    p = p * r + 1.0f, p = p * r + 1.0f;
    float scale = f32_of_bits((bits_of_f32(shifted) - 0x4b400000u + 127u) << 23);
    float e = p * scale;
    return x < -87.3f ? 0.0f : e;
}

// Normal distribution: its integral Phi(x) and e^(-x^2/2). With u = |x| / sqrt(2): Phi(-|x|) = erfc(u) / 2, erfc(u) =
// e^(-u^2) t P(t), t = 1 / (1 + 0.4 u); P is a least-maximum fit of degree 9 to e^(u^2) erfc(u) on 0 <= u <= 9.5 with a
// relative error of 7e-9.
SIMD_INLINE vf normal_integral(vf x, vf *gauss) {
    vf u = (vf)((vu)x & 0x7fffffffu) * 0.70710678f, t = 1.0f / (1.0f + 0.4f * u), g = vf_exp2(-0.72134752f * x * x, 6);
    vf p = t * -0.030597033f + 0.20348403f;
    p = p * t - 0.51174301f, p = p * t + 0.56478170f, p = p * t - 0.29888900f, p = p * t + 0.27991945f;
    p = p * t + 0.12694190f, p = p * t + 0.21551132f, p = p * t + 0.22487999f, p = p * t + 0.22571066f;
    vf tail = 0.5f * g * t * p;
    *gauss = g;
    return vf_select(x < 0.0f, tail, 1.0f - tail);
}

#endif
