// ladder.cu: the attention kernels in versions: tiles of other sizes, other numbers of blocks an SM, each with its time
// on this GPU. The first of a pass is the plain form, which the others' results are compared with; a star marks the
// version that training takes. Only what v3 and v4 train with: bf16, 64 dims a head, no dropout.
#define PA_ATTENTION_LADDER
#include "cuda/attention_bwd.cu"
#include "cuda/attention_fwd.cu"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

enum { DIMS = 64 };
#ifdef PA_EMULATOR
enum { LAUNCHES = 1, TIMINGS = 1 };
#else
enum { LAUNCHES = 10, TIMINGS = 3 };
#endif
typedef __nv_bfloat16 T;

struct operands {
    pa_attn a;
    pa_attn_grads g;
    float *delta;
    cudaStream_t stream;
};

static void plain_fwd(const operands &x) {
    fwd_plain<T>(x.stream, &x.a, (void *)x.g.o, (float *)x.g.lse);
}
template <int MT, int KEYS, int BLOCKS> static void fwd(const operands &x) {
    fwd_mma_of<T, 80, DIMS, false, MT, KEYS, BLOCKS>(x.stream, &x.a, (void *)x.g.o, (float *)x.g.lse);
}
static void plain_bwd(const operands &x) {
    find_delta<T>(x.stream, &x.a, &x.g, x.delta);
    bwd_plain<T>(x.stream, &x.a, &x.g, x.delta);
}
template <int MT, int ROWS, bool HELD, int BLOCKS> static void dkv(const operands &x) {
    dkv_mma_of<T, 80, DIMS, false, MT, ROWS, HELD, BLOCKS>(x.stream, &x.a, &x.g, x.delta);
}
template <int MT, int KEYS, int BLOCKS> static void dq(const operands &x) {
    dq_mma_of<T, 80, DIMS, false, MT, KEYS, BLOCKS>(x.stream, &x.a, &x.g, x.delta);
}

enum pass { FWD, DKV, DQ };
static const char *const pass_name[] = {"forward", "dk, dv", "dq"};
static const int pass_flop[] = {4, 8, 6}; // for each dim of a pair, as the kernels compute
struct rung {
    pass of;
    const char *what; // tile, and blocks an SM that registers must leave room for
    void (*run)(const operands &);
    bool taken;
};
static const rung ladder[] = {
    {FWD, "plain", plain_fwd, false},
    {FWD, "64 queries, 64 keys, 1 block", fwd<1, 64, 1>, false},
    {FWD, "64 queries, 64 keys, 3 blocks", fwd<1, 64, 3>, false},
    {FWD, "64 queries, 64 keys, 4 blocks", fwd<1, 64, 4>, false},
    {FWD, "64 queries, 128 keys, 2 blocks", fwd<1, 128, 2>, false},
    {FWD, "128 queries, 32 keys, 2 blocks", fwd<2, 32, 2>, false},
    {FWD, "128 queries, 32 keys, 3 blocks", fwd<2, 32, 3>, false},
    {FWD, "128 queries, 64 keys, 2 blocks", fwd<2, 64, 2>, true},
    {DKV, "plain, with dq", plain_bwd, false},
    {DKV, "64 keys, 32 queries, 3 blocks", dkv<1, 32, true, 3>, false},
    {DKV, "64 keys, 64 queries, 2 blocks", dkv<1, 64, true, 2>, true},
    {DKV, "64 keys not held, 32 queries, 3 blocks", dkv<1, 32, false, 3>, false},
    {DKV, "64 keys not held, 64 queries, 2 blocks", dkv<1, 64, false, 2>, false},
    {DKV, "128 keys not held, 16 queries, 2 blocks", dkv<2, 16, false, 2>, false},
    {DQ, "plain, with dk, dv", plain_bwd, false},
    {DQ, "64 queries, 32 keys, 3 blocks", dq<1, 32, 3>, false},
    {DQ, "64 queries, 32 keys, 4 blocks", dq<1, 32, 4>, false},
    {DQ, "64 queries, 64 keys, 2 blocks", dq<1, 64, 2>, false},
    {DQ, "64 queries, 64 keys, 3 blocks", dq<1, 64, 3>, true},
    {DQ, "128 queries, 32 keys, 2 blocks", dq<2, 32, 2>, false},
};

static void check(cudaError_t e, const char *what) {
    if (!e) return;
    fprintf(stderr, "ladder: %s: %s\n", what, cudaGetErrorString(e));
    exit(1);
}

// Eighths between -2 and 2.
static T *draw(size_t count, unsigned seed) {
    std::vector<T> x(count);
    T *to = nullptr;
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525 + 1013904223;
        x[i] = __float2bfloat16_rn((float)((int)(seed >> 16 & 31) - 16) / 8);
    }
    check(cudaMalloc((void **)&to, count * sizeof(T)), "taking memory");
    check(cudaMemcpy(to, x.data(), count * sizeof(T), cudaMemcpyHostToDevice), "copying operands");
    return to;
}

static operands open_operands(int latents, int heads) {
    const size_t I = (size_t)heads * DIMS, rows = latents;
    operands x = {};
    T *const qkv = draw(rows * 3 * I, 1), *const grad = draw(rows * 3 * I, 2);
    float *numbers = nullptr;
    check(cudaMalloc((void **)&numbers, 2 * rows * heads * sizeof(float)), "taking memory");
    x.a.type = PA_TYPE_BF16, x.a.batch = 1, x.a.latents = latents, x.a.heads = heads, x.a.dim_head = DIMS;
    x.a.scale = 0.125f, x.a.ldq = x.a.ldkv = (ptrdiff_t)(3 * I), x.a.ldo = (ptrdiff_t)I;
    x.a.q = qkv, x.a.kn = qkv + I, x.a.vn = qkv + 2 * I;
    x.g.o = draw(rows * I, 3), x.g.dout = draw(rows * I, 4), x.g.lse = numbers, x.delta = numbers + rows * heads;
    x.g.dq = grad, x.g.dkn = grad + I, x.g.dvn = grad + 2 * I;
    check(cudaStreamCreateWithFlags(&x.stream, cudaStreamNonBlocking), "making a stream");
    return x;
}

// What a pass writes, columns `from` .. of rows of 3 I.
static std::vector<float> results(const operands &x, pass of) {
    const size_t I = x.a.ldo, rows = x.a.latents, ld = of == FWD ? I : 3 * I;
    std::vector<T> all(rows * ld);
    check(cudaStreamSynchronize(x.stream), "running a kernel");
    check(cudaMemcpy(all.data(), of == FWD ? x.g.o : x.g.dq, all.size() * sizeof(T), cudaMemcpyDeviceToHost),
          "copying results");
    std::vector<float> out;
    for (size_t i = 0; i < all.size(); i++)
        if (of == FWD || (of == DQ) == (i % ld < I)) out.push_back(__bfloat162float(all[i]));
    return out;
}

// Of norms.
static double distance(const std::vector<float> &x, const std::vector<float> &y) {
    double off = 0, all = 0;
    for (size_t i = 0; i < x.size(); i++)
        off += ((double)x[i] - y[i]) * ((double)x[i] - y[i]), all += (double)y[i] * y[i];
    return sqrt(off / all); // a result that is no number stays one
}

// Milliseconds of a launch: the least of a few times LAUNCHES between two events.
static double time_of(const rung &r, const operands &x) {
    cudaEvent_t start, stop;
    float best = INFINITY;
    check(cudaEventCreate(&start), "timing"), check(cudaEventCreate(&stop), "timing");
    for (int i = 0; i < TIMINGS; i++) {
        float ms = 0;
        r.run(x);
        check(cudaEventRecord(start, x.stream), "timing");
        for (int k = 0; k < LAUNCHES; k++) r.run(x);
        check(cudaEventRecord(stop, x.stream), "timing"), check(cudaEventSynchronize(stop), r.what);
        check(cudaEventElapsedTime(&ms, start, stop), "timing");
        if (ms < best) best = ms;
    }
    cudaEventDestroy(start), cudaEventDestroy(stop);
    return (double)best / LAUNCHES;
}

// The number of versions that are wrong.
static int climb(const char *model, int latents, int heads) {
    const operands x = open_operands(latents, heads);
    std::vector<float> plain;
    int wrong = 0;
    printf("%s: latents %d, heads %d of %d dims\n%-10s %-42s %9s %8s %9s\n", model, latents, heads, DIMS, "pass",
           "version", "ms", "TFLOP/s", "off by");
    for (const rung &r : ladder) {
        const bool first = !plain.size() || strncmp(r.what, "plain", 5) == 0;
        const double flop = pass_flop[r.of] * (double)DIMS * heads * latents * (latents + 1.0) / 2;
        r.run(x);
        check(cudaGetLastError(), r.what);
        const std::vector<float> found = results(x, r.of);
        if (first) plain = found;
        const double off = distance(found, plain), ms = time_of(r, x);
        printf("%-10s %-40s %s %9.3f %8.1f %9.1e%s\n", pass_name[r.of], r.what, r.taken ? "*" : " ", ms,
               flop / ms * 1e-9, off, off <= 0x1p-6 ? "" : "  WRONG");
        wrong += !(off <= 0x1p-6); // four roundings of bf16
    }
    printf("\n");
    return wrong;
}

int main(int argc, char **argv) {
    setvbuf(stdout, nullptr, _IOLBF, 0); // what is known when a limit ends this
    const bool quick = argc == 2 && !strcmp(argv[1], "--quick");
    if (argc > 1 && !quick) {
        fprintf(stderr, "usage: pabench_attention [--quick]\n");
        return 2;
    }
    if (cuda_arch() < 80) {
        fprintf(stderr, "pabench_attention: expected a GPU with bf16 (sm_80 or newer)\n");
        return 1;
    }
    const int wrong = quick ? climb("small", 150, 1) : climb("v3", 7168, 8) + climb("v4", 15872, 4);
    return wrong ? 1 : 0;
}
