// test_attend.c: cuDNN's attention is used where it agrees with ours on this GPU and is faster, and nowhere else. In
// the emulator as an sm_90, with a stand-in that can be wrong (tests/emulator/cudnn.h).
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cuda/attend.h"
#include "cuda/cudnn.h"
#include "host/base/base.h"
#include "tests/emulator/cudnn.h"

enum { N = 128, H = 2, D = 32, I = H * D, MOST = 2 * (N + 16) * 3 * I, BYTES = MOST * 2 };
static bool deterministic = true, prints;
static char *memory, *work; // operands q, k v, o, dout, dq, dk dv lie BYTES apart
static float *lse;

static void *part(int i) {
    return memory + (size_t)i * BYTES;
}
static pa_attn shape(pa_type type, int batch, int kept) {
    pa_attn a = {.type = type, .batch = batch, .latents = N, .kept = kept, .heads = H, .dim_head = D, .scale = 0.5f};
    const size_t prefix = (size_t)(batch * kept * 2 * I) * 2;
    a.ldq = I, a.ldkv = 2 * I, a.ldo = I, a.q = part(0);
    a.kp = part(1), a.vp = (char *)part(1) + I * 2, a.kn = (char *)part(1) + prefix,
    a.vn = (char *)part(1) + prefix + I * 2;
    return a;
}

static void run(cuda_attend *t, cudaStream_t stream, const pa_attn *a, bool back, size_t size) {
    const size_t prefix = (size_t)(a->batch * a->kept * 2 * I) * 2;
    const pa_work room = {.at = work, .bytes = size};
    pa_attn_grads g = {.o = part(2), .lse = lse, .dout = part(3), .dq = part(4), .dkp = part(5)};
    g.dvp = (char *)g.dkp + I * 2;
    g.dkn = (char *)g.dkp + prefix;
    g.dvn = (char *)g.dvp + prefix;
    if (back)
        cuda_attend_bwd(t, stream, a, &g, room);
    else
        cuda_attend_fwd(t, stream, a, part(2), lse, room);
}

// Calls of cuDNN in two runs of a shape, and whether their results are the kernels' own.
static int calls(const pa_attn *a, bool back, size_t lacks, bool capture) {
    static char want[6][BYTES];
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    size_t size = cuda_attend_work(NULL, a, true) + emulator_cudnn.more_work - lacks;
    assert_int_equal(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), 0);
    emulator_cudnn.calls = 0;
    run(NULL, stream, a, false, size);
    if (back) run(NULL, stream, a, true, size);
    assert_int_equal(cudaStreamSynchronize(stream), 0);
    for (int i = 2; i < 6; i++) memcpy(want[i], part(i), BYTES);
    assert_int_equal(emulator_cudnn.calls, 0);
    cuda_attend *t = cuda_attend_create(deterministic, prints);
    for (int i = 0; i < 2; i++) {
        if (capture) assert_int_equal(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), 0);
        run(t, stream, a, back, size);
        if (!capture) continue;
        assert_int_equal(cudaStreamEndCapture(stream, &graph), 0);
        assert_int_equal(cudaGraphInstantiate(&exec, graph, 0), 0);
        assert_int_equal(cudaGraphLaunch(exec, stream), 0);
        assert_int_equal(cudaStreamSynchronize(stream), 0);
        cudaGraphExecDestroy(exec), cudaGraphDestroy(graph);
    }
    assert_int_equal(cudaStreamSynchronize(stream), 0);
    for (int i = 2; i < 6; i++) assert_memory_equal(want[i], part(i), BYTES);
    cuda_attend_destroy(t);
    cudaStreamDestroy(stream);
    return emulator_cudnn.calls;
}

static void used_where_it_agrees(void **state) {
    (void)state;
    emulator_cudnn = (emulator_cudnn_state){0};
    for (int type = PA_TYPE_BF16; type <= PA_TYPE_F16; type++)
        for (int back = 0; back < 2; back++) {
            pa_attn cross = shape((pa_type)type, 1, 16), self = shape((pa_type)type, 2, 0);
            assert_int_equal(calls(&cross, back, 0, false), 3); // one to prove, then two
            assert_int_equal(calls(&self, back, 0, false), 3);
        }
    emulator_cudnn.more_work = 256;
    pa_attn a = shape(PA_TYPE_BF16, 1, 16);
    assert_int_equal(calls(&a, true, 0, false), 3);
    assert_int_equal(calls(&a, true, 1, false), 0); // its work does not fit
}

static void not_used_elsewhere(void **state) {
    (void)state;
    for (int back = 0; back < 2; back++) {
        emulator_cudnn = (emulator_cudnn_state){0};
        pa_attn two = shape(PA_TYPE_BF16, 2, 16), a = shape(PA_TYPE_BF16, 1, 16);
        assert_int_equal(calls(&two, back, 0, false), 0);
        assert_int_equal(calls(&a, back, 0, true), 0); // first met while captured: not proved
        pa_attn few = a, narrow = a;
        few.latents = N - 1, narrow.dim_head = D - 8;
        assert_int_equal(calls(&few, back, 0, false) + calls(&narrow, back, 0, false), 0); // cannot pay
        for (int is = CUDNN_MISSING; is <= CUDNN_NAN; is++) {
            emulator_cudnn.is = is;
            assert_in_range(calls(&a, back, 0, false), 0, 1); // at most the one that would prove it
        }
    }
    emulator_cudnn = (emulator_cudnn_state){0};
    pa_attn a = shape(PA_TYPE_BF16, 1, 16);
    setenv("PATRAIN_CUDNN", "0", 1);
    assert_int_equal(calls(&a, false, 0, false), 0);
    unsetenv("PATRAIN_CUDNN");
}

// Two calls are timed where nothing has to be deterministic.
static void the_faster_one_is_used(void **state) {
    (void)state;
    pa_attn a = shape(PA_TYPE_BF16, 1, 16);
    deterministic = false;
    for (int back = 0; back < 2; back++) {
        emulator_cudnn = (emulator_cudnn_state){.timed = 2, .once_work = (size_t)300 << 20};
        assert_int_equal(calls(&a, back, 0, false), 1 + 2 + 2);
        emulator_cudnn.slow = true;
        assert_int_equal(calls(&a, back, 0, false), 1 + 2);
    }
    assert_int_equal(emulator_cudnn.pass, CUDA_CUDNN_BACKWARD);
    deterministic = true;
    emulator_cudnn = (emulator_cudnn_state){0};
    assert_int_equal(calls(&a, true, 0, false), 3);
    assert_int_equal(emulator_cudnn.pass, CUDA_CUDNN_DETERMINISTIC);
    emulator_cudnn.once_work = (size_t)300 << 20; // more than is worth it
    assert_int_equal(calls(&a, true, 0, false), 0);
}

// Each choice and each failure is printed once, however often the shape comes.
static void what_is_used_is_printed_once(void **state) {
    (void)state;
    static const struct {
        int is;
        const char *says;
    } row[] = {{CUDNN_RIGHT, "attention forward, B 1 N 128 K 16 H 2 D 32: cuDNN\n"},
               {CUDNN_MISSING, "attention: our kernels (no cuDNN: missing)\n"},
               {CUDNN_REFUSES, ": our kernels (cuDNN has no plan: as the test asks)\n"},
               {CUDNN_FAILS, ": our kernels (cuDNN failed: as the test asks)\n"},
               {CUDNN_WRONG, ": our kernels (cuDNN's results differ from theirs)\n"},
               {CUDNN_NAN, ": our kernels (cuDNN's results differ from theirs)\n"}};
    FILE *const real = stderr;
    pa_attn a = shape(PA_TYPE_BF16, 1, 16);
    prints = true;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char *text = NULL;
        size_t length;
        emulator_cudnn = (emulator_cudnn_state){.is = row[i].is};
        stderr = open_memstream(&text, &length);
        calls(&a, false, 0, false);
        fclose(stderr);
        stderr = real;
        const char *found = strstr(text, row[i].says), *end = strchr(text, '\n');
        if (!found || !end || end[1]) fail_msg("expected one line with %s, found %s", row[i].says, text);
        free(text);
    }
    prints = false;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(used_where_it_agrees), cmocka_unit_test(not_used_elsewhere),
                                       cmocka_unit_test(the_faster_one_is_used),
                                       cmocka_unit_test(what_is_used_is_printed_once)};
    pa_attn largest = shape(PA_TYPE_BF16, 2, 16);
    size_t bytes = cuda_attend_work(NULL, &largest, true) + 4096;
    if (cudaMalloc((void **)&memory, 6 * BYTES) || cudaMalloc((void **)&work, bytes) ||
        cudaMalloc((void **)&lse, 2 * H * N * 4))
        abort();
    for (size_t i = 0; i < 6 * MOST; i++)
        ((uint16_t *)(void *)memory)[i] = (uint16_t)(0x3c00 + i * 37 % 512 + (i % 3 ? 0x8000 : 0));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
