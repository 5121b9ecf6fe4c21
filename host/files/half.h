// half.h: 16-bit floating point to and from float32. Header only.
#ifndef PA_HALF_H
#define PA_HALF_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline float pa_float_of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline float pa_float_of_bf16(uint16_t h) {
    return pa_float_of_bits((uint32_t)h << 16);
}

static inline float pa_float_of_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13;
    if (rest >= 0x0f800000) return pa_float_of_bits(sign | 0x70000000 | rest);        // infinity, NaN
    return pa_float_of_bits(sign | 0x3f800000) * (pa_float_of_bits(rest) * 0x1p112f); // exact, subnormals too
}

// To nearest, ties to even; infinity from 65520 on.
static inline uint16_t pa_f16_of_float(float x) {
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    float a = fabsf(x);
    if (isnan(x)) return sign | 0x7e00;
    if (a >= 65520) return sign | 0x7c00;
    int e = a > 0x1p-14f ? ilogbf(a) : -14; // subnormals share the smallest exponent
    return (uint16_t)(sign + ((e + 14) << 10) + (int)rintf(ldexpf(a, 10 - e)));
}

#endif
