// attend.c: see attend.h. cuDNN's kernels were seen to give NaN for shapes near the model's (d = 64, lengths that are
// no multiple of 128, a mask), so that no shape is trusted before it was compared here.
#include "cuda/attend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool cuda_attend_pays(int latents, int dim_head) {
    return latents >= 128 && dim_head >= 32;
}

#ifndef PA_WITH_CUDNN

cuda_attend *cuda_attend_create(void) {
    return NULL;
}
void cuda_attend_destroy(cuda_attend *t) {
    (void)t;
}
size_t cuda_attend_work(cuda_attend *t, const pa_attn *a, bool back) {
    (void)t, (void)back;
    return cuda_attn_work(a);
}
void cuda_attend_fwd(cuda_attend *t, cudaStream_t stream, const pa_attn *a, void *o, float *lse, pa_work work) {
    (void)t, (void)work;
    cuda_attn_fwd(stream, a, o, lse);
}
void cuda_attend_bwd(cuda_attend *t, cudaStream_t stream, const pa_attn *a, const pa_attn_grads *g, pa_work work) {
    (void)t;
    cuda_attn_bwd(stream, a, g, work.at);
}

#else
#include "cuda/cudnn.h"
#include "cuda/half.h"

enum { PROOFS = 32 }; // shapes, either way; more of them run on our kernels

typedef struct {
    pa_attn shape;
    bool back, equal;
} proof;

struct cuda_attend {
    cuda_cudnn *cudnn;
    proof proofs[PROOFS];
    int count;
};

cuda_attend *cuda_attend_create(void) {
    const char *wanted = getenv("PATRAIN_CUDNN");
    if (cuda_arch() != 90 || (wanted && !strcmp(wanted, "0"))) return NULL;
    cuda_attend *t = calloc(1, sizeof *t);
    if (t && (t->cudnn = cuda_cudnn_create())) return t;
    free(t);
    return NULL;
}

void cuda_attend_destroy(cuda_attend *t) {
    if (!t) return;
    cuda_cudnn_destroy(t->cudnn);
    free(t);
}

static bool offered(const cuda_attend *t, const pa_attn *a) {
    return t && cuda_attend_pays(a->latents, a->dim_head) && cuda_cudnn_expresses(a);
}

static size_t larger(size_t x, size_t y) {
    return x > y ? x : y;
}

size_t cuda_attend_work(cuda_attend *t, const pa_attn *a, bool back) {
    size_t most = cuda_attn_work(a);
    for (int b = 0; b <= (back ? 1 : 0) && offered(t, a); b++) {
        size_t theirs = cuda_cudnn_work(t->cudnn, a, b);
        if (theirs != SIZE_MAX) most = larger(most, theirs);
    }
    return most;
}

// One sequence of a shape on drawn numbers: operands, then each output twice, ours first.
enum { T_Q, T_K, T_V, T_DOUT, T_O, T_LSE, T_DQ, T_DK, T_DV, T_WORK, TENSORS };
typedef struct {
    pa_attn a;
    void *x[2][TENSORS];
    size_t bytes[TENSORS];
} trial;

static uint16_t draw(uint32_t *state, pa_type type) { // from -2 to 2
    *state = *state * 1664525 + 1013904223;
    float x = (float)(int32_t)*state * 0x1p-30f;
    return type == PA_TYPE_BF16 ? cuda_bf16_from_float(x) : cuda_half_from_float(x);
}

// All in the order of the stream, which does not wait for the null stream's copies.
static bool take(trial *r, const pa_attn *shape, size_t work, cudaStream_t stream) {
    pa_attn a = *shape;
    a.batch = 1, a.dropout.p = 0;
    const size_t q = (size_t)a.latents * (size_t)a.ldq * 2, o = (size_t)a.latents * (size_t)a.ldo * 2;
    const size_t keys = (size_t)(a.kept + a.latents), k = keys * (size_t)a.ldkv * 2, most = larger(larger(q, o), k) / 2;
    const size_t bytes[TENSORS] = {q, k, k, o, o, (size_t)a.heads * (size_t)a.latents * 4, q, k, k, work};
    uint16_t *numbers = malloc((most + 3 * 1001) * 2);
    uint32_t state = 1;
    bool ok = numbers != NULL;
    for (size_t i = 0; ok && i < most + 3 * 1001; i++) numbers[i] = draw(&state, a.type);
    for (int i = 0; ok && i < TENSORS; i++)
        for (int which = 0; ok && which < (i < T_O || i == T_WORK ? 1 : 2); which++) {
            ok = !cudaMalloc(&r->x[which][i], bytes[i] + 16) && !cudaMemsetAsync(r->x[which][i], 0, bytes[i], stream);
            if (ok && i < T_O)
                ok = !cudaMemcpyAsync(r->x[which][i], numbers + i * 1001, bytes[i], cudaMemcpyHostToDevice, stream);
        }
    ok = ok && !cudaStreamSynchronize(stream);
    free(numbers);
    a.q = r->x[0][T_Q], a.kp = r->x[0][T_K], a.vp = r->x[0][T_V];
    a.kn = (const char *)a.kp + (size_t)(a.kept * a.ldkv) * 2,
    a.vn = (const char *)a.vp + (size_t)(a.kept * a.ldkv) * 2;
    r->a = a;
    memcpy(r->bytes, bytes, sizeof bytes);
    return ok;
}

static float number(pa_type type, int tensor, const void *p, size_t i) {
    if (tensor == T_LSE) return ((const float *)p)[i];
    const uint16_t x = ((const uint16_t *)p)[i];
    return type == PA_TYPE_BF16 ? cuda_bf16_to_float(x) : cuda_half_to_float(x);
}

// Each side rounds to the type twice on the way, weights and results, so that they differ by at most four roundings in
// norm; logarithms of sums by less than one, for they make weights again.
static bool agree(const trial *r, int tensor) {
    const double u = r->a.type == PA_TYPE_BF16 ? 0x1p-8 : 0x1p-11;
    const size_t n = r->bytes[tensor] / (tensor == T_LSE ? 4 : 2);
    void *x = malloc(r->bytes[tensor]), *y = malloc(r->bytes[tensor]);
    double apart = 0, size = 0, most = 0;
    bool ok = x && y && !cudaMemcpy(x, r->x[0][tensor], r->bytes[tensor], cudaMemcpyDeviceToHost) &&
              !cudaMemcpy(y, r->x[1][tensor], r->bytes[tensor], cudaMemcpyDeviceToHost);
    for (size_t i = 0; ok && i < n; i++) {
        double a = number(r->a.type, tensor, x, i), d = number(r->a.type, tensor, y, i) - a;
        size += a * a, apart += d * d;
        if (!(fabs(d) <= most)) most = fabs(d); // NaN stays
    }
    free(x), free(y);
    return ok && (tensor == T_LSE ? most <= u : size > 0 && apart <= 16 * u * u * size);
}

static bool run_both(cuda_attend *t, cudaStream_t stream, const trial *r, bool back) {
    const pa_attn *a = &r->a;
    void *const *x = r->x[0], *const *y = r->x[1], *work = r->x[0][T_WORK];
    const size_t prefix = (size_t)(a->kept * a->ldkv) * 2;
    cuda_attn_fwd(stream, a, x[T_O], x[T_LSE]);
    if (!back) return cuda_cudnn_fwd(t->cudnn, stream, a, y[T_O], y[T_LSE], work) && !cudaStreamSynchronize(stream);
    pa_attn_grads g = {.o = x[T_O], .lse = x[T_LSE], .dout = x[T_DOUT], .dq = x[T_DQ], .dkp = x[T_DK], .dvp = x[T_DV]};
    g.dkn = (char *)g.dkp + prefix;
    g.dvn = (char *)g.dvp + prefix;
    cuda_attn_bwd(stream, a, &g, work);
    g.dq = y[T_DQ];
    g.dkp = y[T_DK];
    g.dvp = y[T_DV];
    return cuda_cudnn_bwd(t->cudnn, stream, a, &g, work) && !cudaStreamSynchronize(stream);
}

static bool prove(cuda_attend *t, cudaStream_t stream, const pa_attn *shape, bool back) {
    trial r = {0};
    pa_attn one = *shape; // where its keys lie, one sequence has them in one piece
    one.batch = 1;
    size_t work = cuda_cudnn_work(t->cudnn, &one, back);
    bool equal = work != SIZE_MAX && take(&r, shape, larger(work, cuda_attn_work(&one)), stream) &&
                 run_both(t, stream, &r, back);
    if (!back)
        equal = equal && agree(&r, T_O) && agree(&r, T_LSE);
    else
        equal = equal && agree(&r, T_DQ) && agree(&r, T_DK) && agree(&r, T_DV);
    for (int i = 0; i < TENSORS; i++) cudaFree(r.x[0][i]), cudaFree(r.x[1][i]);
    cudaGetLastError(); // no room to try is no error: our kernels run
    return equal;
}

static bool same(const pa_attn *x, const pa_attn *y) {
    return x->type == y->type && x->batch == y->batch && x->latents == y->latents && x->kept == y->kept &&
           x->heads == y->heads && x->dim_head == y->dim_head && x->ldq == y->ldq && x->ldkv == y->ldkv &&
           x->ldo == y->ldo;
}

static bool usable(cuda_attend *t, cudaStream_t stream, const pa_attn *a, bool back, size_t size) {
    enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    if (!offered(t, a)) return false;
    for (int i = 0; i < t->count; i++)
        if (t->proofs[i].back == back && same(&t->proofs[i].shape, a)) return t->proofs[i].equal;
    if (t->count == PROOFS || cudaStreamIsCapturing(stream, &capture) || capture != cudaStreamCaptureStatusNone)
        return false;
    size_t work = cuda_cudnn_work(t->cudnn, a, back);
    bool equal = work <= size && prove(t, stream, a, back);
    t->proofs[t->count++] = (proof){*a, back, equal};
    return equal;
}

void cuda_attend_fwd(cuda_attend *t, cudaStream_t stream, const pa_attn *a, void *o, float *lse, pa_work work) {
    if (!usable(t, stream, a, false, work.bytes) || !cuda_cudnn_fwd(t->cudnn, stream, a, o, lse, work.at))
        cuda_attn_fwd(stream, a, o, lse);
}

void cuda_attend_bwd(cuda_attend *t, cudaStream_t stream, const pa_attn *a, const pa_attn_grads *g, pa_work work) {
    if (!usable(t, stream, a, true, work.bytes) || !cuda_cudnn_bwd(t->cudnn, stream, a, g, work.at))
        cuda_attn_bwd(stream, a, g, work.at);
}
#endif
