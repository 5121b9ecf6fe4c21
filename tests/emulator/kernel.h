// kernel.h: CUDA's C++ as far as our kernels use it, for a host compiler: qualifiers, vectors, indices, barriers,
// shuffles, votes, atomics and arithmetic. Semantics after the CUDA C++ programming guide. Included by the stand-in
// cuda_runtime.h.
#ifndef PA_EMULATOR_KERNEL_H
#define PA_EMULATOR_KERNEL_H

#include <algorithm>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __constant__ static
// Blocks run one after another. Nothing else in a program of the emulator may be thread-local: all of that memory is
// poisoned between blocks.
#define __shared__ static thread_local

#include "tests/emulator/emulator.h"

#define threadIdx (::emulator::self->index)
#define blockIdx (::emulator::block_index)
#define blockDim (::emulator::block_dim)
#define gridDim (::emulator::grid_dim)
inline constexpr int warpSize = 32;

#define CUDA_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                                    \
    ::emulator::launch(#kernel, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)
#define CUDA_LAUNCH_EARLY(kernel, grid, block, stream, ...)                                                            \
    ::emulator::launch<true>(#kernel, kernel, grid, block, 0, stream, __VA_ARGS__)
#define CUDA_SHARED(T, name) T *const name = static_cast<T *>(::emulator::shared_memory())

// Every meeting point takes the place that it is called from.
#define PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(PLACE) {
    emulator::meet_block(0, file, line);
}
inline int __syncthreads_count(int predicate, PLACE) {
    return emulator::meet_block(predicate != 0, file, line);
}
inline int __syncthreads_or(int predicate, PLACE) {
    return emulator::meet_block(predicate != 0, file, line) > 0;
}
inline int __syncthreads_and(int predicate, PLACE) {
    return emulator::meet_block(predicate == 0, file, line) == 0;
}

namespace emulator {
extern const point at_syncwarp, at_shuffle, at_vote;
struct shuffled {
    uint64_t bits;
    int source; // lane
};
struct vote {
    bool predicate;
    unsigned ballot; // of the lanes that are here
};
template <typename T> T shuffle(unsigned mask, T value, int source, const char *file, int line) {
    static_assert(sizeof(T) <= 8, "shuffles take up to 8 bytes");
    shuffled s = {0, source};
    memcpy(&s.bits, &value, sizeof value);
    meet_warp(at_shuffle, mask, &s, file, line);
    memcpy(&value, &s.bits, sizeof value);
    return value;
}
inline unsigned ballot(unsigned mask, int predicate, const char *file, int line) {
    vote v = {predicate != 0, 0};
    meet_warp(at_vote, mask, &v, file, line);
    return v.ballot;
}
} // namespace emulator

inline void __syncwarp(unsigned mask = 0xffffffffu, PLACE) {
    emulator::meet_warp(emulator::at_syncwarp, mask, nullptr, file, line);
}
template <typename T> T __shfl_sync(unsigned mask, T value, int source, int width = 32, PLACE) {
    const int lane = emulator::self->lane;
    return emulator::shuffle(mask, value, (lane & ~(width - 1)) | (source & (width - 1)), file, line);
}
template <typename T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, PLACE) {
    const int lane = emulator::self->lane, from = lane - (int)delta;
    return emulator::shuffle(mask, value, from < (lane & ~(width - 1)) ? lane : from, file, line);
}
template <typename T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, PLACE) {
    const int lane = emulator::self->lane, from = lane + (int)delta;
    return emulator::shuffle(mask, value, from > (lane | (width - 1)) ? lane : from, file, line);
}
template <typename T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, PLACE) {
    const int lane = emulator::self->lane, from = lane ^ bits;
    return emulator::shuffle(mask, value, from > (lane | (width - 1)) ? lane : from, file, line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, PLACE) {
    return emulator::ballot(mask, predicate, file, line);
}
inline int __any_sync(unsigned mask, int predicate, PLACE) {
    return emulator::ballot(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, PLACE) {
    return emulator::ballot(mask, !predicate, file, line) == 0;
}
#undef PLACE

// One thread runs at a time, and memory has one order.
inline void __threadfence() {}
inline void __threadfence_block() {}
#define __trap() ::emulator::fault("__trap()")

// Integers only: sums of floats by atomics would depend on timing.
template <typename T, typename F> T emulator_atomic(T *at, F change) {
    T old = *at;
    *at = change(old);
    return old;
}
#define ATOMICS(T)                                                                                                     \
    inline T atomicAdd(T *at, T x) {                                                                                   \
        return emulator_atomic(at, [=](T old) { return old + x; });                                                    \
    }                                                                                                                  \
    inline T atomicMax(T *at, T x) {                                                                                   \
        return emulator_atomic(at, [=](T old) { return old > x ? old : x; });                                          \
    }                                                                                                                  \
    inline T atomicMin(T *at, T x) {                                                                                   \
        return emulator_atomic(at, [=](T old) { return old < x ? old : x; });                                          \
    }                                                                                                                  \
    inline T atomicExch(T *at, T x) {                                                                                  \
        return emulator_atomic(at, [=](T) { return x; });                                                              \
    }                                                                                                                  \
    inline T atomicCAS(T *at, T expected, T x) {                                                                       \
        return emulator_atomic(at, [=](T old) { return old == expected ? x : old; });                                  \
    }
ATOMICS(int)
ATOMICS(unsigned)
ATOMICS(unsigned long long)
#undef ATOMICS
inline unsigned atomicInc(unsigned *at, unsigned most) {
    return emulator_atomic(at, [=](unsigned old) { return old >= most ? 0 : old + 1; });
}

using std::max;
using std::min;
inline size_t min(size_t x, unsigned y) {
    return x < y ? x : y;
}
template <typename T> T __ldg(const T *p) {
    return *p;
}
inline unsigned __umulhi(unsigned x, unsigned y) {
    return (unsigned)((uint64_t)x * y >> 32);
}
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
    return (unsigned long long)((unsigned __int128)x * y >> 64);
}
inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
inline int __clz(int x) {
    return x ? __builtin_clz((unsigned)x) : 32;
}
inline int __ffs(int x) {
    return __builtin_ffs(x);
}
inline float __uint_as_float(unsigned x) {
    float y;
    memcpy(&y, &x, 4);
    return y;
}
inline unsigned __float_as_uint(float x) {
    unsigned y;
    memcpy(&y, &x, 4);
    return y;
}
inline float __int_as_float(int x) {
    return __uint_as_float((unsigned)x);
}
inline int __float_as_int(float x) {
    return (int)__float_as_uint(x);
}
inline float rsqrtf(float x) {
    return 1.0f / sqrtf(x);
}
inline float __expf(float x) {
    return expf(x);
}
inline float __logf(float x) {
    return logf(x);
}
inline float __fdividef(float x, float y) {
    return x / y;
}
inline float __fmaf_rn(float x, float y, float z) {
    return fmaf(x, y, z);
}

// The runtime's calls that take a kernel.
template <typename F> cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *a, F *kernel) {
    return emulator::function_attributes(a, (const void *)kernel);
}
template <typename F> cudaError_t cudaFuncSetAttribute(F *kernel, cudaFuncAttribute attribute, int value) {
    return emulator::set_function_attribute((const void *)kernel, attribute, value);
}
template <typename F>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, F *kernel, int threads, size_t shared) {
    (void)kernel, (void)shared;
    *blocks = 2048 / threads;
    return cudaSuccess;
}

#endif
