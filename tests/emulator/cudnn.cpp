// cudnn.cpp: a stand-in for cuda/cudnn.cpp: attention by our own kernels, or by something that a test asks for through
// emulator_cudnn: a cuDNN that is missing, refuses, fails, is wrong in one number or gives NaN. It counts its calls.
#include "tests/emulator/cudnn.h"

#include <math.h>
#include <stdlib.h>

#include "cuda/cudnn.h"
#include "tests/emulator/emulator.h"

namespace emulator {
extern double ahead; // seconds that the clock of events runs ahead (runtime.cpp)
}

extern "C" {
emulator_cudnn_state emulator_cudnn;

struct cuda_cudnn {
    int unused;
};

cuda_cudnn *cuda_cudnn_create(char *why, size_t size) {
    snprintf(why, size, "missing");
    return emulator_cudnn.is == CUDNN_MISSING ? nullptr : new cuda_cudnn{};
}
void cuda_cudnn_destroy(cuda_cudnn *d) {
    delete d;
}
bool cuda_cudnn_expresses(const pa_attn *a) {
    const size_t prefix = (size_t)a->batch * (size_t)a->kept * (size_t)a->ldkv * pa_size(a->type);
    return a->type != PA_TYPE_F32 && !(a->dropout.p > 0) && (a->kept == 0 || a->batch == 1) &&
           (const char *)a->kp + prefix == a->kn;
}
size_t cuda_cudnn_work(cuda_cudnn *, const pa_attn *a, cuda_cudnn_pass pass) {
    if (emulator_cudnn.is == CUDNN_REFUSES) return SIZE_MAX;
    return cuda_attn_work(a) + emulator_cudnn.more_work +
           (pass == CUDA_CUDNN_DETERMINISTIC ? emulator_cudnn.once_work : 0);
}
const char *cuda_cudnn_why(const cuda_cudnn *) {
    return "as the test asks";
}

// Counts a call; true: it is one that is only timed, and takes no time or long.
static bool only_timed(cudaStream_t stream) {
    const bool timed = ++emulator_cudnn.calls > 1 && emulator_cudnn.calls <= 1 + emulator_cudnn.timed;
    if (timed && emulator_cudnn.slow) emulator::enqueue(stream, [] { emulator::ahead += 1000; });
    return timed;
}

// The last number of the last row.
static void spoil(cudaStream_t stream, const pa_attn *a, void *p, int rows, ptrdiff_t ld) {
    unsigned short *x = (unsigned short *)p + (rows - 1) * ld + a->heads * a->dim_head - 1;
    const int is = emulator_cudnn.is;
    emulator::enqueue(stream, [=] {
        if (is == CUDNN_NAN) *x = 0x7fff;                                      // a NaN in bf16 and in fp16
        if (is == CUDNN_WRONG) *x = a->type == PA_TYPE_BF16 ? 0x4248 : 0x5240; // 50
    });
}

bool cuda_cudnn_fwd(cuda_cudnn *, cudaStream_t stream, const pa_attn *a, void *o, float *lse, void *) {
    if (only_timed(stream)) return true;
    if (emulator_cudnn.is == CUDNN_FAILS) return false;
    cuda_attn_fwd(stream, a, o, lse);
    spoil(stream, a, o, a->batch * a->latents, a->ldo);
    return true;
}
bool cuda_cudnn_bwd(cuda_cudnn *, cudaStream_t stream, const pa_attn *a, const pa_attn_grads *g, cuda_cudnn_pass pass,
                    void *work) {
    const size_t prefix = (size_t)a->batch * (size_t)a->kept * (size_t)a->ldkv * pa_size(a->type);
    emulator_cudnn.pass = pass;
    if (only_timed(stream)) return true;
    if (emulator_cudnn.is == CUDNN_FAILS) return false;
    pa_attn_grads joined = *g; // as cuDNN has them: own rows follow the prefix
    joined.dkn = (char *)g->dkp + prefix;
    joined.dvn = (char *)g->dvp + prefix;
    cuda_attn_bwd(stream, a, &joined, work);
    spoil(stream, a, g->dvp, a->batch * (a->latents + a->kept), a->ldkv);
    return true;
}
bool cuda_cudnn_supports(int, const pa_attn *, cuda_cudnn_pass, char *, size_t) {
    return false;
}
}
