// device.cuh: what kernels need of a GPU beyond CUDA C++: every line of PTX in this tree, conversions, sums over a
// warp, and the launch. Only .cu files include it. In the emulator (PA_EMULATOR) .cu files are compiled as host C++
// against tests/emulator/include, and the PTX's twins in tests/emulator/device.h stand in for it. Knows nothing of the
// model.
//
// Letters of fragments: lane l of a warp has group g = l / 4 and place t = l % 4. Where an instruction is newer than
// the architecture that is being compiled for, it traps: launchers choose by cuda_arch().
#ifndef PA_CUDA_DEVICE_CUH
#define PA_CUDA_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>
#include <utility>

// Which code of this build the GPU runs: 75, 80 or 90 (sm_90a; GPUs that are newer run PTX, which lacks what is
// peculiar to it: 80). 0 where no GPU or none of the code suits.
extern "C" int cuda_arch(void);

template <typename T> __device__ __forceinline__ float cuda_to_float(T x);
template <> __device__ __forceinline__ float cuda_to_float(float x) {
    return x;
}
template <> __device__ __forceinline__ float cuda_to_float(__half x) {
    return __half2float(x);
}
template <> __device__ __forceinline__ float cuda_to_float(__nv_bfloat16 x) {
    return __bfloat162float(x);
}

// To nearest, ties to even.
template <typename T> __device__ __forceinline__ T cuda_from_float(float x);
template <> __device__ __forceinline__ float cuda_from_float(float x) {
    return x;
}
template <> __device__ __forceinline__ __half cuda_from_float(float x) {
    return __float2half_rn(x);
}
template <> __device__ __forceinline__ __nv_bfloat16 cuda_from_float(float x) {
    return __float2bfloat16_rn(x);
}

// Over all 32 lanes, which must all be here; each gets the same bits.
__device__ __forceinline__ float cuda_warp_sum(float x) {
#pragma unroll
    for (int step = 16; step; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}
__device__ __forceinline__ float cuda_warp_max(float x) {
#pragma unroll
    for (int step = 16; step; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

#ifdef PA_EMULATOR
#include "tests/emulator/device.h"
#else

// A kernel whose name has commas stands in parentheses.
#define CUDA_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                                    \
    (kernel)<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)
// The same without dynamic shared memory, for a kernel that may start before the stream's kernel before it has ended
// (on sm_90: as soon as all its blocks have called cuda_let_next_start or ended). Each of its threads calls
// cuda_await_earlier.
#define CUDA_LAUNCH_EARLY(kernel, grid, block, stream, ...) cuda_launch_early(kernel, grid, block, stream, __VA_ARGS__)
template <typename... P, typename... A>
static void cuda_launch_early(void (*kernel)(P...), dim3 grid, dim3 block, cudaStream_t stream, A &&...given) {
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t c = {};
    c.gridDim = grid, c.blockDim = block, c.stream = stream;
    c.attrs = &early, c.numAttrs = cuda_arch() == 90;
    cudaLaunchKernelEx(&c, kernel, std::forward<A>(given)...);
}

// Until the stream's earlier kernels have ended, where this one was launched early. Before it a kernel reads only what
// none of them writes, and writes nothing.
__device__ __forceinline__ void cuda_await_earlier() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The stream's next kernel may start, if it is launched early. It still awaits this one's end.
__device__ __forceinline__ void cuda_let_next_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// In a kernel: T *name, the dynamic shared memory.
#define CUDA_SHARED(T, name)                                                                                           \
    extern __shared__ __align__(16) unsigned char cuda_shared_[];                                                      \
    T *const name = reinterpret_cast<T *>(cuda_shared_)

// 2^x within 2 ulp; results below 2^-126 are 0.
__device__ __forceinline__ float cuda_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1 / x within 1 ulp, for normal x and results.
__device__ __forceinline__ float cuda_reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// d (16, 8) += a (16, 16) b (16, 8). Two neighbours lie in a register, the lower column (of a) or row (of b) in its low
// half: a[0] row g, columns 2t; a[1] row g + 8; a[2] row g, columns 2t + 8; a[3] row g + 8, columns 2t + 8; b[0] rows
// 2t, b[1] rows 2t + 8 of column g; d[0], d[1] row g, columns 2t, 2t + 1; d[2], d[3] row g + 8.
template <typename T>
__device__ __forceinline__ void cuda_mma_m16n8k16(float d[4], const uint32_t a[4], const uint32_t b[2]);
#if __CUDA_ARCH__ >= 800
#define CUDA_MMA_K16(T, name)                                                                                          \
    template <>                                                                                                        \
    __device__ __forceinline__ void cuda_mma_m16n8k16<T>(float d[4], const uint32_t a[4], const uint32_t b[2]) {       \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." name "." name                                            \
                     ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "                                             \
                     "{%0, %1, %2, %3};"                                                                               \
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                  \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                              \
    }
#else
#define CUDA_MMA_K16(T, name)                                                                                          \
    template <> __device__ __forceinline__ void cuda_mma_m16n8k16<T>(float *, const uint32_t *, const uint32_t *) {    \
        __trap();                                                                                                      \
    }
#endif
CUDA_MMA_K16(__half, "f16")
CUDA_MMA_K16(__nv_bfloat16, "bf16")
#undef CUDA_MMA_K16

// d (16, 8) += a (16, 8) b (8, 8), of __half: a[0] row g, columns 2t; a[1] row g + 8; b rows 2t of column g; d as
// above.
__device__ __forceinline__ void cuda_mma_m16n8k8(float d[4], const uint32_t a[2], uint32_t b) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b));
}

__device__ __forceinline__ uint32_t cuda_shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

// Matrices of 8 rows of 16 bytes from shared memory. Lanes 8 i .. 8 i + 7 give the addresses of matrix i's rows (with
// x2 the upper half's are not read); r[i] is columns 2t, 2t + 1 of its row g, or of its column g with _trans (so rows
// 2t, 2t + 1).
__device__ __forceinline__ void cuda_ldmatrix_x4(uint32_t r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(cuda_shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void cuda_ldmatrix_x4_trans(uint32_t r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(cuda_shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void cuda_ldmatrix_x2(uint32_t r[2], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(cuda_shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void cuda_ldmatrix_x2_trans(uint32_t r[2], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(cuda_shared_address(row))
                 : "memory");
}

// 16 bytes from global to shared memory, both aligned to 16, on their own way: they are there for this thread after a
// wait for their group, for others after a barrier that follows it. Not valid: zeros are written, and global is not
// read.
__device__ __forceinline__ void cuda_cp_async_16(void *shared, const void *global, bool valid) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(cuda_shared_address(shared)),
                 "l"(__cvta_generic_to_global(global)), "r"(valid ? 16 : 0)
                 : "memory");
#else
    (void)shared, (void)global, (void)valid;
    __trap();
#endif
}
// Ends a group: this thread's copies since the last one.
__device__ __forceinline__ void cuda_cp_async_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    __trap();
#endif
}
// Until all but the N newest groups of this thread have arrived.
template <int N> __device__ __forceinline__ void cuda_cp_async_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#else
    __trap();
#endif
}

#endif
#endif
