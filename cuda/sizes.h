// sizes.h: sizes of the CUDA backend's memory that need no CUDA: its memory plan is printed by every build.
#ifndef PA_CUDA_SIZES_H
#define PA_CUDA_SIZES_H

#include <stddef.h>

#include "host/model/ops.h"

enum {
    CUDA_ALIGN = 256,                 // bytes, of everything in an arena
    CUDA_BUCKET = 4 << 20,            // numbers of a bucket of gradients; bench/results/ranks.md says why
    CUDA_MATMUL_WORKSPACE = 32 << 20, // bytes
    CUDA_NORM_PARTS = 512,            // blocks of a sum over rows
    CUDA_SQUARES_PARTS = 1024,        // blocks of a sum of squares
    CUDA_DECODE_SPLITS = 64,          // most parts of a cache that are attended to separately
    CUDA_DECODE_PARTIAL = 10 * 4,     // bytes of a part's result, for 8 numbers of a head
};

// Bytes of work of the operations of the same names in kernels.h.
static inline size_t cuda_attn_work(const pa_attn *a) {
    return (size_t)a->batch * (size_t)a->heads * (size_t)a->latents * sizeof(float);
}

// Bytes of the counters in decoding attention, before the partial results.
static inline size_t cuda_decode_counters(int streams, int heads) {
    return ((size_t)streams * (size_t)heads * 4 + 255) / 256 * 256;
}

static inline size_t cuda_attn_decode_work(int streams, int heads, int dim_head) {
    size_t parts = (size_t)streams * (size_t)heads * CUDA_DECODE_SPLITS;
    return cuda_decode_counters(streams, heads) + parts * (size_t)(dim_head / 8) * CUDA_DECODE_PARTIAL;
}

static inline size_t cuda_norm_work(int C) {
    return (size_t)CUDA_NORM_PARTS * 2 * (size_t)C * sizeof(float);
}

static inline size_t cuda_sum_squares_work(void) {
    return CUDA_SQUARES_PARTS * sizeof(double);
}

// The arrays of all parameters are padded to a multiple of so many numbers.
static inline size_t cuda_multiple(int ranks) {
    return 16 * (size_t)ranks;
}

// Bytes of flags, one for each 16 parameters, and padding.
static inline size_t cuda_flag_bytes(size_t floats, int ranks) {
    size_t multiple = cuda_multiple(ranks);
    return ((floats + multiple - 1) / multiple * multiple / 16 + CUDA_ALIGN - 1) / CUDA_ALIGN * CUDA_ALIGN;
}

// Bytes of a bucket of gradients in bf16, and of its sum.
static inline size_t cuda_sum_bytes(size_t bucket) {
    return 2 * bucket * 2;
}

#endif
