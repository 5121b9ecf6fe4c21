// test_emulator.cu: the emulator itself (tests/emulator): each twin of PTX against the manual's layouts, element by
// element; meeting points; that a kernel's mistakes are found; streams and graphs. The formulas here are the manual's,
// written down apart from the twins'.
#include "cuda/device.cuh"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {
#include <cmocka.h>
}

template <typename T> static T *device_array(size_t count) {
    void *p = nullptr;
    assert_int_equal(cudaMalloc(&p, count * sizeof(T)), cudaSuccess);
    return (T *)p;
}

static void setting(const char *name, const char *value) {
    if (value)
        setenv(name, value, 1);
    else
        unsetenv(name);
    emulator::read_settings();
}

// Runs what should end the program in a child; its last words.
static void assert_dies(void (*body)(), const char *words) {
    int ends[2];
    char said[4096] = "";
    assert_int_equal(pipe(ends), 0);
    fflush(nullptr);
    const pid_t child = fork();
    if (!child) {
        dup2(ends[1], 2);
        close(ends[0]);
        signal(SIGABRT, SIG_DFL);
        body();
        cudaDeviceSynchronize();
        _exit(0);
    }
    close(ends[1]);
    size_t used = 0;
    for (ssize_t n; used + 1 < sizeof said && (n = read(ends[0], said + used, sizeof said - 1 - used)) > 0;)
        used += (size_t)n;
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) != 0);
    if (!strstr(said, words)) print_error("expected \"%s\" in: %s\n", words, said);
    assert_non_null(strstr(said, words));
}

// --- mma ---

template <typename T> static uint16_t bits_of(float x) {
    T t = cuda_from_float<T>(x);
    uint16_t b;
    memcpy(&b, &t, 2);
    return b;
}

// The PTX manual's formulas for m16n8k16 (and k8: without the upper halves), element i of a lane's fragment.
static int a_row(int lane, int i) {
    const int group = lane >> 2;
    return (i >= 0 && i < 2) || (i >= 4 && i < 6) ? group : group + 8;
}
static int a_column(int lane, int i) {
    const int in_group = lane % 4;
    return i < 4 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8;
}
static int b_row(int lane, int i) {
    const int in_group = lane % 4;
    return i < 2 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8;
}
static int b_column(int lane) {
    return lane >> 2;
}
static int c_row(int lane, int i) {
    return i < 2 ? lane >> 2 : (lane >> 2) + 8;
}
static int c_column(int lane, int i) {
    return lane % 4 * 2 + (i & 1);
}

template <typename T> static __global__ void mma_kernel(float *d, const uint32_t *a, const uint32_t *b, bool wide) {
    const int lane = threadIdx.x;
    if (wide)
        cuda_mma_m16n8k16<T>(d + lane * 4, a + lane * 4, b + lane * 2);
    else
        cuda_mma_m16n8k8(d + lane * 4, a + lane * 4, b[lane * 2]);
}

// One element of a or b at a time: 1 there, 0 elsewhere, so that only its place decides the product.
template <typename T> static void mma_places(int K) {
    uint32_t *a = device_array<uint32_t>(32 * 4), *b = device_array<uint32_t>(32 * 2);
    float *d = device_array<float>(32 * 4), A[16][16], B[16][8];
    uint16_t *a16 = (uint16_t *)a, *b16 = (uint16_t *)b;
    for (int turn = 0; turn < 40; turn++) {
        for (int r = 0; r < 16; r++)
            for (int k = 0; k < 16; k++) A[r][k] = k >= K ? NAN : (float)((r * 31 + k * 17 + turn * 7) % 13 - 6);
        for (int k = 0; k < 16; k++)
            for (int n = 0; n < 8; n++) B[k][n] = k >= K ? NAN : (float)((k * 5 + n * 11 + turn * 3) % 9 - 4);
        for (int lane = 0; lane < 32; lane++) {
            for (int i = 0; i < 8; i++) a16[lane * 8 + i] = bits_of<T>(A[a_row(lane, i)][a_column(lane, i)]);
            for (int i = 0; i < 4; i++) b16[lane * 4 + i] = bits_of<T>(B[b_row(lane, i)][b_column(lane)]);
            for (int i = 0; i < 4; i++) d[lane * 4 + i] = (float)(100 * c_row(lane, i) + c_column(lane, i));
        }
        CUDA_LAUNCH((mma_kernel<T>), 1, 32, 0, 0, d, a, b, K == 16);
        assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < 4; i++) {
                const int row = c_row(lane, i), column = c_column(lane, i);
                float expected = (float)(100 * row + column);
                for (int k = 0; k < K; k++) expected += A[row][k] * B[k][column];
                assert_true(d[lane * 4 + i] == expected);
            }
    }
    cudaFree(a), cudaFree(b), cudaFree(d);
}

static void test_mma(void **) {
    mma_places<__half>(16);
    mma_places<__nv_bfloat16>(16);
    mma_places<__half>(8);
}

// --- ldmatrix ---

static __global__ void ldmatrix_kernel(uint32_t *out, int which) {
    __shared__ __align__(16) uint16_t rows[32][8];
    const int lane = threadIdx.x;
    for (int i = 0; i < 8; i++) rows[lane][i] = (uint16_t)(lane * 8 + i);
    __syncwarp();
    uint32_t r[4] = {0, 0, 0, 0};
    const void *row = rows[(lane + 8) % 32]; // matrix i lies in rows 8 i + 8 and on
    if (which == 0) cuda_ldmatrix_x4(r, row);
    if (which == 1) cuda_ldmatrix_x4_trans(r, row);
    if (which == 2) cuda_ldmatrix_x2(r, row);
    if (which == 3) cuda_ldmatrix_x2_trans(r, row);
    for (int i = 0; i < 4; i++) out[lane * 4 + i] = r[i];
}

static void test_ldmatrix(void **) {
    uint32_t *out = device_array<uint32_t>(128);
    for (int which = 0; which < 4; which++) {
        CUDA_LAUNCH(ldmatrix_kernel, 1, 32, 0, 0, out, which);
        assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < (which < 2 ? 4 : 2); i++)
                for (int half = 0; half < 2; half++) {
                    const int line = lane / 4, place = lane % 4 * 2 + half;
                    const int row = which % 2 ? place : line, column = which % 2 ? line : place;
                    assert_int_equal(out[lane * 4 + i] >> 16 * half & 0xffff, (i * 8 + 8 + row) % 32 * 8 + column);
                }
    }
    cudaFree(out);
}

// --- cp.async ---

static __global__ void copies_kernel(float *out, const float *in) {
    CUDA_SHARED(float, s);
    const int lane = threadIdx.x;
    for (int group = 0; group < 3; group++) {
        cuda_cp_async_16(s + (group * 32 + lane) * 4, in + (group * 32 + lane) * 4, lane != 5);
        cuda_cp_async_commit();
    }
    const float before = s[lane * 4];
    cuda_cp_async_wait<1>();
    const float first = s[lane * 4], second = s[(32 + lane) * 4 + 3], third = s[(64 + lane) * 4];
    cuda_cp_async_wait<0>();
    out[lane * 5] = before, out[lane * 5 + 1] = first, out[lane * 5 + 2] = second, out[lane * 5 + 3] = third;
    out[lane * 5 + 4] = s[(64 + lane) * 4 + 1];
}

static void test_copies(void **) {
    float *in = device_array<float>(3 * 32 * 4), *out = device_array<float>(32 * 5);
    for (int i = 0; i < 3 * 32 * 4; i++) in[i] = (float)(i + 1);
    CUDA_LAUNCH(copies_kernel, 1, 32, 3 * 32 * 16, 0, out, in);
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    for (int lane = 0; lane < 32; lane++) {
        const float *o = out + lane * 5;
        assert_true(isnan(o[0])); // not there before the wait
        assert_true(o[1] == (lane == 5 ? 0 : in[lane * 4]));
        assert_true(o[2] == (lane == 5 ? 0 : in[(32 + lane) * 4 + 3]));
        assert_true(isnan(o[3])); // the newest group was not waited for
        assert_true(o[4] == (lane == 5 ? 0 : in[(64 + lane) * 4 + 1]));
    }
    cudaFree(in), cudaFree(out);
}

// --- shuffles, votes, barriers ---

static __global__ void shuffles_kernel(int *out, unsigned *votes, float *sums) {
    const int lane = threadIdx.x % 32, base = threadIdx.x * 6;
    out[base] = __shfl_sync(0xffffffffu, lane, 7);
    out[base + 1] = __shfl_sync(0xffffffffu, lane, lane + 1, 8);
    out[base + 2] = __shfl_up_sync(0xffffffffu, lane, 3);
    out[base + 3] = __shfl_down_sync(0xffffffffu, lane, 3, 16);
    out[base + 4] = __shfl_xor_sync(0xffffffffu, lane, 5);
    out[base + 5] = lane < 16 ? __shfl_xor_sync(0x0000ffffu, lane, 1) : __shfl_xor_sync(0xffff0000u, lane, 2);
    votes[threadIdx.x * 3] = __ballot_sync(0xffffffffu, lane % 3 == 0);
    votes[threadIdx.x * 3 + 1] =
        (unsigned)__any_sync(0xffffffffu, lane == 9) + 2 * (unsigned)__any_sync(0xffffffffu, lane == 32);
    votes[threadIdx.x * 3 + 2] =
        (unsigned)__all_sync(0xffffffffu, lane < 32) + 2 * (unsigned)__all_sync(0xffffffffu, lane < 31);
    sums[threadIdx.x * 2] = cuda_warp_sum((float)lane), sums[threadIdx.x * 2 + 1] = cuda_warp_max((float)-lane);
}

static void test_shuffles(void **) {
    int *out = device_array<int>(64 * 6);
    unsigned *votes = device_array<unsigned>(64 * 3);
    float *sums = device_array<float>(64 * 2);
    for (const char *seed : {"0", "1", "2", "3"}) {
        setting("PA_EMULATOR_SEED", seed);
        CUDA_LAUNCH(shuffles_kernel, 1, 64, 0, 0, out, votes, sums);
        assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
        for (int t = 0; t < 64; t++) {
            const int lane = t % 32, *o = out + t * 6;
            assert_int_equal(o[0], 7);
            assert_int_equal(o[1], lane / 8 * 8 + (lane + 1) % 8);
            assert_int_equal(o[2], lane < 3 ? lane : lane - 3);
            assert_int_equal(o[3], lane % 16 + 3 > 15 ? lane : lane + 3);
            assert_int_equal(o[4], lane ^ 5);
            assert_int_equal(o[5], lane < 16 ? lane ^ 1 : lane ^ 2);
            assert_int_equal(votes[t * 3], 0x49249249);
            assert_int_equal(votes[t * 3 + 1], 1);
            assert_int_equal(votes[t * 3 + 2], 1);
            assert_true(sums[t * 2] == 496 && sums[t * 2 + 1] == 0);
        }
    }
    setting("PA_EMULATOR_SEED", nullptr);
    cudaFree(out), cudaFree(votes), cudaFree(sums);
}

// Reverses numbers block by block through shared memory; without the barrier it reads what may not be written yet.
template <bool BARRIER> static __global__ void reverse_kernel(int *x) {
    __shared__ int s[256];
    s[threadIdx.x] = x[blockIdx.x * 256 + threadIdx.x];
    if (BARRIER) __syncthreads();
    x[blockIdx.x * 256 + threadIdx.x] = s[255 - threadIdx.x];
}

template <bool BARRIER> static int reversed_wrongly() {
    const int blocks = 3;
    int *x = device_array<int>(blocks * 256), wrong = 0;
    for (int i = 0; i < blocks * 256; i++) x[i] = i;
    CUDA_LAUNCH((reverse_kernel<BARRIER>), blocks, 256, 0, 0, x);
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    for (int i = 0; i < blocks * 256; i++) wrong += x[i] != i / 256 * 256 + 255 - i % 256;
    cudaFree(x);
    return wrong;
}

static void test_barrier(void **) {
    for (const char *seed : {"0", "1", "2", "3", "4", "5"}) {
        setting("PA_EMULATOR_SEED", seed);
        assert_int_equal(reversed_wrongly<true>(), 0);
        assert_int_equal(reversed_wrongly<false>(), 3 * 128); // of each pair, the one that runs first reads too early
    }
    setting("PA_EMULATOR_SEED", nullptr);
}

// Threads that have ended are not waited for, neither by the block nor by their warp.
static __global__ void early_kernel(int *out) {
    if (threadIdx.x % 2) return;
    __syncwarp();
    __syncthreads();
    out[threadIdx.x] =
        __syncthreads_count(threadIdx.x < 10) + 100 * __syncthreads_or(threadIdx.x == 4) + 1000 * __syncthreads_and(1);
}

static void test_early(void **) {
    int *out = device_array<int>(96);
    memset(out, 0, 96 * 4);
    CUDA_LAUNCH(early_kernel, 1, 96, 0, 0, out);
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    for (int i = 0; i < 96; i++) assert_int_equal(out[i], i % 2 ? 0 : 1105);
    cudaFree(out);
}

static __global__ void order_kernel(unsigned *next, unsigned *order) {
    order[atomicAdd(next, 1u)] = blockIdx.x * 128 + threadIdx.x;
}

static void test_order(void **) {
    unsigned *next = device_array<unsigned>(1), *order = device_array<unsigned>(512), seen[4][512];
    const char *const seeds[4] = {"0", "7", "7", "8"};
    int moved = 0;
    for (int s = 0; s < 4; s++) {
        setting("PA_EMULATOR_SEED", seeds[s]);
        *next = 0;
        CUDA_LAUNCH(order_kernel, 4, 128, 0, 0, next, order);
        assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
        assert_int_equal(*next, 512);
        memcpy(seen[s], order, sizeof seen[s]);
        bool found[512] = {};
        for (int i = 0; i < 512; i++) found[order[i]] = true;
        for (int i = 0; i < 512; i++) assert_true(found[i]);
    }
    for (unsigned i = 0; i < 512; i++) {
        assert_int_equal(seen[0][i], i); // the natural order
        moved += seen[1][i] != seen[3][i];
    }
    assert_true(moved > 256);
    setting("PA_EMULATOR_SEED", nullptr);
    cudaFree(next), cudaFree(order);
}

// Shared memory holds nothing from the block before, static or dynamic.
static __global__ void remains_kernel(int *found) {
    __shared__ float x[16];
    CUDA_SHARED(float, y);
    if (threadIdx.x < 16)
        *found += !isnan(x[threadIdx.x]) + !isnan(y[threadIdx.x]), x[threadIdx.x] = y[threadIdx.x] = 1;
}

static void test_poison(void **) {
    int *found = device_array<int>(1);
    *found = 0;
    CUDA_LAUNCH(remains_kernel, 5, 32, 64, 0, found);
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    assert_int_equal(*found, 0);
    cudaFree(found);
}

// --- mistakes ---

static __global__ void lane_missing_kernel(int) {
    if (threadIdx.x != 3) __syncwarp();
    if (threadIdx.x == 3) __syncthreads();
}
static __global__ void divergent_kernel(int) {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
}
static __global__ void different_kernel(int) {
    threadIdx.x < 16 ? __syncwarp() : (void)__any_sync(0xffffffffu, 1);
}
static __global__ void partial_mma_kernel(int) {
    float d[4] = {};
    uint32_t a[2] = {};
    if (threadIdx.x >= 8) cuda_mma_m16n8k8(d, a, 0);
}
static __global__ void ended_source_kernel(int *out) {
    if (threadIdx.x >= 16) return;
    *out = __shfl_xor_sync(0xffffffffu, 1, 16);
}
static __global__ void stray_mask_kernel(int) {
    __syncwarp(0x0000ffffu);
}
static __global__ void misaligned_kernel(const float *in) {
    CUDA_SHARED(float, s);
    cuda_cp_async_16(s + 1, in, true);
}
static __global__ void unshared_kernel(const float *in) {
    uint32_t r[4];
    cuda_ldmatrix_x4(r, in);
}
static __global__ void too_new_kernel(int) {
    cuda_cp_async_commit();
}

static void test_mistakes(void **) {
    assert_dies([] { CUDA_LAUNCH(lane_missing_kernel, 1, 64, 0, 0, 0); },
                "lane_missing_kernel, block (0, 0, 0): threads wait for each other");
    assert_dies([] { CUDA_LAUNCH(lane_missing_kernel, 1, 64, 0, 0, 0); },
                "warp 0, lanes 3 to 3: wait at __syncthreads");
    assert_dies([] { CUDA_LAUNCH(divergent_kernel, 1, 64, 0, 0, 0); }, "threads are at different barriers");
    assert_dies([] { CUDA_LAUNCH(different_kernel, 1, 32, 0, 0, 0); },
                "lanes that should meet are at different places");
    assert_dies([] { CUDA_LAUNCH(partial_mma_kernel, 1, 32, 0, 0, 0); }, "not all 32 lanes take part");
    assert_dies([] { CUDA_LAUNCH(ended_source_kernel, 1, 32, 0, 0, device_array<int>(1)); },
                "shuffles from lane 16, which is not there");
    assert_dies([] { CUDA_LAUNCH(stray_mask_kernel, 1, 32, 0, 0, 0); }, "which exclude this one");
    assert_dies([] { CUDA_LAUNCH(misaligned_kernel, 1, 1, 64, 0, device_array<float>(4)); },
                "addresses must be multiples of 16");
    assert_dies([] { CUDA_LAUNCH(unshared_kernel, 1, 32, 0, 0, device_array<float>(4)); }, "is not in shared memory");
    assert_dies(
        [] {
            setting("PA_EMULATOR_SM", "75");
            CUDA_LAUNCH(too_new_kernel, 1, 1, 0, 0, 0);
        },
        "cp.async needs sm_80, and this is sm_75");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mma),      cmocka_unit_test(test_ldmatrix), cmocka_unit_test(test_copies),
        cmocka_unit_test(test_shuffles), cmocka_unit_test(test_barrier),  cmocka_unit_test(test_early),
        cmocka_unit_test(test_order),    cmocka_unit_test(test_poison),   cmocka_unit_test(test_mistakes),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
