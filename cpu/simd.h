// simd.h: vectors of the instruction set that a cpu/simd_*.c file is being compiled for: VW float lanes in GCC's vector
// extensions, which gcc and clang turn into plain code on any machine; intrinsics stand only where they say more than
// the extensions can. Knows nothing of tensors or models.
#ifndef PA_CPU_SIMD_H
#define PA_CPU_SIMD_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#include <immintrin.h>
#define SIMD_AVX512 1
#define VW 16
#define SIMD_REGISTERS 32
#elif defined(__AVX2__)
#include <immintrin.h>
#define VW 8
#define SIMD_REGISTERS 16
#else
#define VW 4
#if defined(__aarch64__) || defined(__powerpc64__)
#define SIMD_REGISTERS 32
#else
#define SIMD_REGISTERS 16
#endif
#endif

// Products of two neighbouring bf16 in one instruction.
#if defined(SIMD_AVX512) && defined(__AVX512BF16__)
#define SIMD_PAIRS 1
#else
#define SIMD_PAIRS 0
#endif

#define SIMD_INLINE static inline __attribute__((always_inline))
// Before a loop whose count is a constant once its function is inlined, so that arrays of vectors become registers.
#ifdef __clang__
#pragma clang diagnostic ignored                                                                                       \
    "-Wpass-failed" // a hint: some counts are known in some of the places a function is inlined in
#define SIMD_UNROLL _Pragma("unroll")
#else
#define SIMD_UNROLL _Pragma("GCC unroll 32")
#endif

typedef float vf __attribute__((vector_size(4 * VW), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * VW), may_alias));
typedef uint32_t vu __attribute__((vector_size(4 * VW), may_alias));
typedef uint16_t vh __attribute__((vector_size(2 * VW), may_alias));

SIMD_INLINE vf vf_set(float x) {
    return x - (vf){0};
}
SIMD_INLINE vu vu_set(uint32_t x) {
    return x - (vu){0};
}
SIMD_INLINE vf vf_load(const void *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
SIMD_INLINE void vf_store(void *p, vf v) {
    memcpy(p, &v, sizeof v);
}
SIMD_INLINE vu vu_load(const void *p) {
    return (vu)vf_load(p);
}
SIMD_INLINE void vu_store(void *p, vu v) {
    memcpy(p, &v, sizeof v);
}
// Lane by lane a where the mask (0 or -1) is set, else b.
SIMD_INLINE vf vf_select(vi mask, vf a, vf b) {
    return (vf)(((vi)a & mask) | ((vi)b & ~mask));
}
SIMD_INLINE vi vi_lanes(void) { // 0, 1, 2, ...
    vi v = {0};
    for (int i = 0; i < VW; i++) v[i] = i;
    return v;
}
// The larger; m where x is NaN.
SIMD_INLINE vf vf_max(vf x, vf m) {
#ifdef SIMD_AVX512
    return (vf)_mm512_max_ps((__m512)x, (__m512)m);
#elif VW == 8
    return (vf)_mm256_max_ps((__m256)x, (__m256)m);
#else
    return vf_select(x > m, x, m);
#endif
}
// The smaller; m where x is NaN.
SIMD_INLINE vf vf_min(vf x, vf m) {
#if VW == 8
    return (vf)_mm256_min_ps((__m256)x, (__m256)m);
#else
    return vf_select(x < m, x, m);
#endif
}
SIMD_INLINE bool vf_any_greater(vf a, vf b) {
#ifdef SIMD_AVX512
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ) != 0;
#elif VW == 8
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GT_OQ)) != 0;
#else
    vi m = a > b;
    int32_t any = 0;
    for (int i = 0; i < VW; i++) any |= m[i];
    return any != 0;
#endif
}
SIMD_INLINE float vf_sum(vf v) { // in one order: halves folded onto each other
    float x[VW];
    memcpy(x, &v, sizeof x);
    for (int n = VW / 2; n > 0; n /= 2)
        for (int i = 0; i < n; i++) x[i] += x[i + n];
    return x[0];
}

// Lane i = the sum of the lanes of x[i].
SIMD_INLINE vf vf_sums(vf x[VW]) {
#if defined(SIMD_AVX512)
    const __m512i lane = (__m512i)vi_lanes();
    SIMD_UNROLL
    for (int step = 8; step > 0;
         step /= 2) { // halves of two vectors become one: lanes with `step` belong to the second
        const __mmask16 second = (__mmask16)(step == 8 ? 0xff00 : step == 4 ? 0xf0f0 : step == 2 ? 0xcccc : 0xaaaa);
        const __m512i other = _mm512_xor_si512(lane, _mm512_set1_epi32(step)),
                      index = _mm512_mask_add_epi32(other, second, other, _mm512_set1_epi32(16));
        SIMD_UNROLL
        for (int i = 0; i < step; i++) {
            __m512 a = (__m512)x[i], b = (__m512)x[i + step];
            x[i] = (vf)_mm512_mask_blend_ps(second, a, b) + (vf)_mm512_permutex2var_ps(a, index, b);
        }
    }
    return x[0];
#elif VW == 8
    __m256 a = _mm256_hadd_ps(_mm256_hadd_ps((__m256)x[0], (__m256)x[1]), _mm256_hadd_ps((__m256)x[2], (__m256)x[3]));
    __m256 b = _mm256_hadd_ps(_mm256_hadd_ps((__m256)x[4], (__m256)x[5]), _mm256_hadd_ps((__m256)x[6], (__m256)x[7]));
    return (vf)_mm256_permute2f128_ps(a, b, 0x20) + (vf)_mm256_permute2f128_ps(a, b, 0x31);
#else
    vf sums = {0};
    for (int i = 0; i < VW; i++) sums[i] = vf_sum(x[i]);
    return sums;
#endif
}

// bf16: the upper half of a float, rounded to nearest even; NaN stays NaN.
SIMD_INLINE float bf16_to_float(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float x;
    memcpy(&x, &u, 4);
    return x;
}
SIMD_INLINE uint16_t bf16_from_float(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return (uint16_t)(x != x ? (u >> 16) | 0x40 : (u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
SIMD_INLINE vf vf_load_bf16(const uint16_t *p) {
    vh h;
    memcpy(&h, p, sizeof h);
    return (vf)(__builtin_convertvector(h, vu) << 16);
}
SIMD_INLINE void vf_store_bf16(uint16_t *p, vf x) {
#if SIMD_PAIRS
    __m256i h = (__m256i)_mm512_cvtneps_pbh((__m512)x);
#else
    vu u = (vu)x, nan = (vu)(x != x);
    vu rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    vh h = __builtin_convertvector((nan & ((u >> 16) | 0x40)) | (~nan & rounded), vh);
#endif
    memcpy(p, &h, sizeof h);
}

// Rows of bf16 are read 32-bit lane by lane, two neighbours each, whose lower and upper become two vectors. to = from
// in that order: of each 2 VW numbers the even ones, then the odd. n: whole 2 VW.
SIMD_INLINE void vf_split(float *to, const float *from, int n) {
    for (int i = 0; i < n; i += 2 * VW)
        for (int j = 0; j < VW; j++) to[i + j] = from[i + 2 * j], to[i + VW + j] = from[i + 2 * j + 1];
}
SIMD_INLINE void vf_merge(float *to, const float *from, int n) { // and back
    for (int i = 0; i < n; i += 2 * VW)
        for (int j = 0; j < VW; j++) to[i + 2 * j] = from[i + j], to[i + 2 * j + 1] = from[i + VW + j];
}

// 2^x to a relative error of 1e-7 (degree 6) or 3e-6 (degree 4, for results that become bf16); 0 below -126 or so, inf
// above 128, NaN for NaN. Minimax polynomials of 2^f, |f| <= 1/2, times 2^round(x).
SIMD_INLINE vf vf_exp2(vf x, const int degree) {
    static const float c4[] = {9.999992614e-01f, 6.931218147e-01f, 2.402474483e-01f, 5.591786032e-02f,
                               9.570101908e-03f};
    static const float c6[] = {1.0f,
                               6.931472057e-01f,
                               2.402264689e-01f,
                               5.550328777e-02f,
                               9.618488957e-03f,
                               1.339993122e-03f,
                               1.534581201e-04f};
    const float *c = degree == 4 ? c4 : c6;
#ifdef SIMD_AVX512
    vf n = (vf)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vf f = (vf)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    vf t = vf_min(vf_set(128.0f), vf_max(vf_set(-127.0f), x)); // NaN passes
    vf shifted = t + 12582912.0f;                              // 1.5 * 2^23: the integer lands in the low bits
    vf f = t - (shifted - 12582912.0f);
#endif
    vf y = vf_set(c[degree]);
    SIMD_UNROLL
    for (int i = degree - 1; i >= 0; i--) y = y * f + c[i];
#ifdef SIMD_AVX512
    return (vf)_mm512_scalef_ps((__m512)y, (__m512)n);
#else
    return y * (vf)(((vu)shifted - 0x4b400000u + 127u) << 23);
#endif
}

#if SIMD_PAIRS
// Lane i: (lo[i], hi[i]) as two neighbouring bf16, the unit of vf_dot.
SIMD_INLINE vu vu_pair(vf lo, vf hi) {
    const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                                6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (vu)_mm512_permutexvar_epi16(interleave, (__m512i)_mm512_cvtne2ps_pbh((__m512)hi, (__m512)lo));
}
// 2 VW neighbouring bf16.
SIMD_INLINE vu vu_bf16(vf first, vf second) {
    return (vu)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
}
// sum + a.lo b.lo + a.hi b.hi in each lane.
SIMD_INLINE vf vf_dot(vf sum, vu a, vu b) {
    return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
#endif

// One Philox4x32-10 draw a lane (host/base/philox.h): out[i] is v[i] of pa_philox_raw(key, high, low), low = (low1,
// low0).
SIMD_INLINE void vu_philox(vu out[4], uint64_t key, uint64_t high, vu low1, vu low0) {
    typedef uint64_t vl __attribute__((vector_size(4 * VW), may_alias));
    const vl lower = (uint64_t)0xffffffffu - (vl){0};
    vu c0 = low0, c1 = low1, c2 = vu_set((uint32_t)high), c3 = vu_set((uint32_t)(high >> 32));
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        vl m0 = (uint64_t)0xD2511F53u - (vl){0}, m2 = (uint64_t)0xCD9E8D57u - (vl){0};
#ifdef SIMD_AVX512
        vl e0 = (vl)_mm512_mul_epu32((__m512i)c0, (__m512i)m0),
           o0 = (vl)_mm512_mul_epu32((__m512i)((vl)c0 >> 32), (__m512i)m0);
        vl e2 = (vl)_mm512_mul_epu32((__m512i)c2, (__m512i)m2),
           o2 = (vl)_mm512_mul_epu32((__m512i)((vl)c2 >> 32), (__m512i)m2);
#else
        vl e0 = ((vl)c0 & lower) * m0, o0 = ((vl)c0 >> 32) * m0;
        vl e2 = ((vl)c2 & lower) * m2, o2 = ((vl)c2 >> 32) * m2;
#endif
        vu hi0 = (vu)(e0 >> 32 | (o0 & ~lower)), lo0 = (vu)((e0 & lower) | o0 << 32);
        vu hi2 = (vu)(e2 >> 32 | (o2 & ~lower)), lo2 = (vu)((e2 & lower) | o2 << 32);
        c0 = hi2 ^ c1 ^ k0, c1 = lo2, c2 = hi0 ^ c3 ^ k1, c3 = lo0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

#endif
