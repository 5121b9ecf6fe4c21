// simd_gemv.c: products of a matrix with one row a stream, for decoding. A row of w and a row of x are loaded once for
// several sums, of `streams` streams and `rows` rows; VW rows give one vector of results, so that their lanes are added
// up together. The order of additions depends on neither streams nor threads. Compiled once for each instruction set.
#include "cpu/simd_gemv.h"

#include "cpu/simd_math.h"

// Whether to prefetch. Without it 8- and 16-bit rows leave a third of an Intel core's memory rate unused; a Zen 4 loses
// by it (bench/log.md).
static bool gemv_ahead(void) {
#ifdef __x86_64__
    return __builtin_cpu_is("intel");
#else
    return false;
#endif
}

// VW neighbours of 8 bits.
SIMD_INLINE vf vf_load_int8(const int8_t *p) {
#if defined(SIMD_AVX512)
    return __builtin_convertvector((vi)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)), vf);
#elif defined(__AVX2__)
    return __builtin_convertvector((vi)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)), vf);
#else
    typedef int8_t vb __attribute__((vector_size(VW), may_alias));
    vb b;
    memcpy(&b, p, sizeof b);
    return __builtin_convertvector(__builtin_convertvector(b, vi), vf);
#endif
}

// Keeps both in registers; else GCC reads them from memory again wherever they are used.
SIMD_INLINE void vf_keep(vf *a, vf *b) {
#ifdef __x86_64__
    __asm__("" : "+v"(*a), "+v"(*b));
#else
    (void)a;
    (void)b;
#endif
}

typedef enum { GEMV_F32, GEMV_BF16, GEMV_INT8 } gemv_kind;
enum {
    SMALL = 16384,                // numbers of w; below, a parallel region costs more than it saves
    GEMV_AHEAD = 4096,            // bytes
    GEMV_SUMS = VW == 16 ? 8 : 4, // that fit into the registers, two vectors each
    GEMV_STREAMS = 4,             // at most GEMV_SUMS
    GEMV_LARGE = 1 << 20,         // bytes of w; a larger one comes from memory, which delivers few rows at once best
};

SIMD_INLINE size_t gemv_size(const gemv_kind kind) {
    return kind == GEMV_F32 ? 4 : kind == GEMV_BF16 ? 2 : 1;
}

// Two vectors of a row of w; for bf16 in the order of vf_split.
SIMD_INLINE void gemv_load(const gemv_kind kind, vf to[2], const char *w) {
    if (kind == GEMV_BF16) {
        const vu pair = vu_load((const uint16_t *)(const void *)w);
        to[0] = (vf)(pair << 16), to[1] = (vf)(pair & 0xffff0000u);
    } else {
        SIMD_UNROLL
        for (int j = 0; j < 2; j++)
            to[j] = kind == GEMV_F32 ? vf_load((const float *)(const void *)w + j * VW)
                                     : vf_load_int8((const int8_t *)w + j * VW);
    }
}

SIMD_INLINE void gemv_load_x(vf to[2], const float *x) {
    to[0] = vf_load(x), to[1] = vf_load(x + VW);
    vf_keep(&to[0], &to[1]);
}

// Adds 2 VW numbers of the rows, from number i on. Of rows and streams the fewer stay in registers.
SIMD_INLINE void gemv_step(const gemv_kind kind, const int streams, const int rows, vf sum[GEMV_SUMS][2],
                           const float *x, const char *const *w, const int n, const int i, const int ahead) {
    const int line = 64 / (int)gemv_size(kind);
    vf of[GEMV_STREAMS][2], part[GEMV_SUMS][2];
    for (int j = 0; ahead && i % line == 0 && j < rows; j++)
        __builtin_prefetch(w[j] + (size_t)i * gemv_size(kind) + ahead);
    if (streams < rows) SIMD_UNROLL
    for (int s = 0; s < streams; s++) gemv_load_x(of[s], x + (size_t)s * (size_t)n + i);
    else SIMD_UNROLL for (int j = 0; j < rows; j++) gemv_load(kind, part[j], w[j] + (size_t)i * gemv_size(kind));
    SIMD_UNROLL
    for (int u = 0; u < rows * streams; u++) {
        const bool by_row = streams < rows;
        const int j = by_row ? u / streams : u % rows, s = by_row ? u % streams : u / rows;
        if (by_row && s == 0) gemv_load(kind, part[j], w[j] + (size_t)i * gemv_size(kind));
        if (!by_row && j == 0) gemv_load_x(of[s], x + (size_t)s * (size_t)n + i);
        sum[s * rows + j][0] += of[s][0] * part[j][0], sum[s * rows + j][1] += of[s][1] * part[j][1];
    }
}

// to[s][at + j] = row w[j] times the row of stream s, in lanes that are still to be added up.
SIMD_INLINE void gemv_rows(const gemv_kind kind, const int streams, const int rows, vf to[GEMV_STREAMS][VW], int at,
                           const float *x, const char *const *w, const int n, const int ahead) {
    vf sum[GEMV_SUMS][2] = {{{0}}};
    for (int i = 0; i + 2 * VW <= n; i += 2 * VW) gemv_step(kind, streams, rows, sum, x, w, n, i, ahead);
    SIMD_UNROLL
    for (int s = 0; s < streams; s++)
        for (int j = 0; j < rows; j++) to[s][at + j] = sum[s * rows + j][0] + sum[s * rows + j][1];
}

SIMD_INLINE float gemv_number(const gemv_kind kind, const char *w) {
    return kind == GEMV_F32    ? *(const float *)(const void *)w
           : kind == GEMV_BF16 ? bf16_to_float(*(const uint16_t *)(const void *)w)
                               : (float)*(const int8_t *)w;
}

// Results o, o + 1, …, VW of them or what is left, of `streams` streams from `first` on.
SIMD_INLINE void gemv_block(const gemv_kind kind, const int streams, const int rows, const pa_gemv *a, const float *x,
                            const int first, const int o, const int ahead) {
    const int n = a->in, whole = n / (2 * VW) * (2 * VW), count = a->out - o < VW ? a->out - o : VW;
    const size_t row = (size_t)n * gemv_size(kind);
    const char *w = (const char *)a->w + (size_t)o * row;
    vf lanes[GEMV_STREAMS][VW];
    x += (size_t)first * (size_t)n;
    for (int r = 0; r < VW; r += rows) {
        const char *from[GEMV_SUMS];
        for (int j = 0; j < rows; j++) from[j] = w + (r + j < count ? (size_t)(r + j) * row : 0);
        gemv_rows(kind, streams, rows, lanes, r, x, from, n, ahead);
    }
    for (int s = 0; s < streams; s++) {
        float sum[VW], *y = a->y + (size_t)(first + s) * (size_t)a->out + o;
        vf_store(sum, vf_sums(lanes[s]));
        for (int r = 0; r < count; r++) {
            for (int i = whole; i < n; i++)
                sum[r] += x[(size_t)s * (size_t)n + (size_t)i] *
                          gemv_number(kind, w + (size_t)r * row + (size_t)i * gemv_size(kind));
            y[r] = (a->scale ? a->scale[o + r] * sum[r] : sum[r]) + (a->bias ? a->bias[o + r] : 0);
        }
    }
}

SIMD_INLINE void gemv_blocks(const gemv_kind kind, const pa_gemv *a, const float *x, int o, const int ahead) {
    int s = 0;
    for (; s + GEMV_STREAMS <= a->streams; s += GEMV_STREAMS)
        gemv_block(kind, GEMV_STREAMS, GEMV_SUMS / GEMV_STREAMS, a, x, s, o, ahead);
    for (; s + 2 <= a->streams; s += 2) gemv_block(kind, 2, GEMV_SUMS / 2, a, x, s, o, ahead);
    if (s == a->streams) return;
    if ((size_t)a->in * (size_t)a->out * gemv_size(kind) > GEMV_LARGE)
        gemv_block(kind, 1, 2, a, x, s, o, ahead);
    else
        gemv_block(kind, 1, GEMV_SUMS, a, x, s, o, ahead);
}

static void gemv_all(gemv_kind kind, const pa_gemv *a, const float *x) {
    const bool ahead = gemv_ahead();
#pragma omp parallel for schedule(static) if ((size_t)a->in * (size_t)a->out > SMALL)
    for (int o = 0; o < a->out; o += VW) {
        if (kind == GEMV_F32)
            gemv_blocks(GEMV_F32, a, x, o, 0);
        else if (kind == GEMV_BF16 && ahead)
            gemv_blocks(GEMV_BF16, a, x, o, GEMV_AHEAD);
        else if (kind == GEMV_BF16)
            gemv_blocks(GEMV_BF16, a, x, o, 0);
        else if (ahead)
            gemv_blocks(GEMV_INT8, a, x, o, GEMV_AHEAD);
        else
            gemv_blocks(GEMV_INT8, a, x, o, 0);
    }
}

void CPU_ISA(gemv)(pa_device *d, const pa_gemv *a) {
    const size_t in = (size_t)a->in;
    float *placed = a->work;
    (void)d;
    if (a->type == PA_TYPE_F32) {
        gemv_all(GEMV_F32, a, a->x);
        return;
    }
    for (size_t s = 0; s < (size_t)a->streams; s++) {
        memcpy(placed + s * in, a->x + s * in, in * sizeof *placed);
        vf_split(placed + s * in, a->x + s * in, a->in / (2 * VW) * (2 * VW));
    }
    gemv_all(GEMV_BF16, a, placed);
}

void CPU_ISA(gemv_int8)(pa_device *d, const pa_gemv *a) {
    (void)d;
    gemv_all(GEMV_INT8, a, a->x);
}
