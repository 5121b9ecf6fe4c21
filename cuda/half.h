// half.h: fp16 and bf16 numbers on the host, which not every C compiler has types for. Knows nothing of GPUs.
#ifndef PA_CUDA_HALF_H
#define PA_CUDA_HALF_H

#include <math.h>
#include <stdint.h>
#include <string.h>

// To nearest, ties to even; from 65520 on infinite.
static inline uint16_t cuda_half_from_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return sign | 0x7e00; // not a number
    if (bits >= 0x477ff000) return sign | 0x7c00;
    if (bits < 0x38800000) { // below 2^-14: a multiple of 2^-24
        return sign | (uint16_t)lrintf(fabsf(x) * 0x1p24f);
    }
    bits += 0xfff + (bits >> 13 & 1);
    return sign | (uint16_t)((bits - 0x38000000) >> 13);
}

static inline float cuda_half_to_float(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff;
    uint32_t bits = exponent == 31 ? 0x7f800000 | fraction << 13 : (exponent + 112) << 23 | fraction << 13;
    float x = (float)fraction * 0x1p-24f; // exponent 0
    if (exponent) memcpy(&x, &bits, 4);
    return sign ? -x : x;
}

// To nearest, ties to even; NaN stays NaN.
static inline uint16_t cuda_bf16_from_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)(isnan(x) ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float cuda_bf16_to_float(uint16_t h) {
    const uint32_t bits = (uint32_t)h << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

#endif
