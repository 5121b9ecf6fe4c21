// attend.c: see attend.h. cuDNN's kernels were seen to give NaN for shapes near the model's (d = 64, lengths that are
// no multiple of 128, a mask), so that no shape is trusted before it was compared here. Nor is it always faster.
#include "cuda/attend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool cuda_attend_pays(int latents, int dim_head) {
    return latents >= 128 && dim_head >= 32;
}

#ifndef PA_WITH_CUDNN

cuda_attend *cuda_attend_create(bool deterministic, bool prints) {
    (void)deterministic, (void)prints;
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

enum { CHOICES = 32 }; // shapes, either way; more of them run on our kernels
#ifdef PA_EMULATOR
enum { LAUNCHES = 1 }; // that are timed
#else
enum { LAUNCHES = 10 };
#endif

// cuDNN below 9.25 makes its backward pass deterministic by keeping a matrix of scores: 822 MB for v3 at batch 1, 16 GB
// for v4 at batch 8. A pass that wants more work than this is not used.
static const size_t most_work = (size_t)256 << 20;

typedef struct {
    pa_attn shape;
    bool back, theirs;
} choice;

struct cuda_attend {
    cuda_cudnn *cudnn;
    bool deterministic, prints;
    choice choices[CHOICES];
    int count;
};

cuda_attend *cuda_attend_create(bool deterministic, bool prints) {
    const char *wanted = getenv("PATRAIN_CUDNN");
    char why[256] = "no memory";
    if (cuda_arch() != 90 || (wanted && !strcmp(wanted, "0"))) return NULL;
    cuda_attend *t = calloc(1, sizeof *t);
    if (t)
        *t = (cuda_attend){
            .cudnn = cuda_cudnn_create(why, sizeof why), .deterministic = deterministic, .prints = prints};
    if (t && t->cudnn) return t;
    if (prints) fprintf(stderr, "attention: our kernels (no cuDNN: %s)\n", why);
    free(t);
    return NULL;
}

void cuda_attend_destroy(cuda_attend *t) {
    if (!t) return;
    cuda_cudnn_destroy(t->cudnn);
    free(t);
}

static cuda_cudnn_pass pass_of(const cuda_attend *t, bool back) {
    return !back ? CUDA_CUDNN_FORWARD : t->deterministic ? CUDA_CUDNN_DETERMINISTIC : CUDA_CUDNN_BACKWARD;
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
        size_t theirs = cuda_cudnn_work(t->cudnn, a, pass_of(t, b));
        if (theirs <= most_work) most = larger(most, theirs);
    }
    return most;
}

// A shape on drawn numbers: operands, then each output twice, ours first.
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
    const size_t queries = (size_t)a.batch * (size_t)a.latents,
                 prefix = (size_t)a.batch * (size_t)a.kept * (size_t)a.ldkv;
    const size_t q = queries * (size_t)a.ldq * 2, o = queries * (size_t)a.ldo * 2;
    const size_t k = (prefix + queries * (size_t)a.ldkv) * 2, most = larger(larger(q, o), k) / 2;
    const size_t bytes[TENSORS] = {q, k, k, o, o, (size_t)a.heads * queries * 4, q, k, k, work};
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
    a.kn = (const char *)a.kp + prefix * 2;
    a.vn = (const char *)a.vp + prefix * 2;
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

// Ours, or cuDNN's, which writes tensors of its own.
static bool launch(cuda_attend *t, cudaStream_t stream, const trial *r, bool back, bool theirs) {
    const pa_attn *a = &r->a;
    void *const *x = r->x[0], *const *y = r->x[theirs], *work = r->x[0][T_WORK];
    const size_t prefix = (size_t)a->batch * (size_t)a->kept * (size_t)a->ldkv * 2;
    pa_attn_grads g = {.o = x[T_O], .lse = x[T_LSE], .dout = x[T_DOUT], .dq = y[T_DQ], .dkp = y[T_DK], .dvp = y[T_DV]};
    g.dkn = (char *)g.dkp + prefix;
    g.dvn = (char *)g.dvp + prefix;
    if (theirs && back) return cuda_cudnn_bwd(t->cudnn, stream, a, &g, pass_of(t, back), work);
    if (theirs) return cuda_cudnn_fwd(t->cudnn, stream, a, y[T_O], y[T_LSE], work);
    if (back)
        cuda_attn_bwd(stream, a, &g, work);
    else
        cuda_attn_fwd(stream, a, y[T_O], y[T_LSE]);
    return true;
}

// Milliseconds of a launch, of LAUNCHES between two events; negative where that fails. The same work precedes them, so
// that the first waits for none.
static float time_of(cuda_attend *t, cudaStream_t stream, const trial *r, bool back, bool theirs) {
    cudaEvent_t start = NULL, stop = NULL;
    float ms = -1;
    bool ok = !cudaEventCreate(&start) && !cudaEventCreate(&stop) && launch(t, stream, r, back, theirs) &&
              !cudaEventRecord(start, stream);
    for (int i = 0; ok && i < LAUNCHES; i++) ok = launch(t, stream, r, back, theirs);
    ok = ok && !cudaEventRecord(stop, stream) && !cudaEventSynchronize(stop) && !cudaEventElapsedTime(&ms, start, stop);
    if (start) cudaEventDestroy(start);
    if (stop) cudaEventDestroy(stop);
    return ok ? ms / LAUNCHES : -1;
}

// Whether cuDNN agrees with ours on a trial's numbers.
static bool compare(cuda_attend *t, cudaStream_t stream, const trial *r, bool back, char *why, size_t size) {
    bool ran = launch(t, stream, r, false, false); // whose o and lse the backward pass reads
    if (back) ran = ran && launch(t, stream, r, true, false);
    if (!ran || !launch(t, stream, r, back, true) || cudaStreamSynchronize(stream)) {
        snprintf(why, size, "cuDNN failed: %s", cuda_cudnn_why(t->cudnn));
        return false;
    }
    bool equal = back ? agree(r, T_DQ) && agree(r, T_DK) && agree(r, T_DV) : agree(r, T_O) && agree(r, T_LSE);
    if (!equal) snprintf(why, size, "cuDNN's results differ from theirs");
    return equal;
}

// Whether cuDNN is used for a shape, and why: times, or what is wrong with it. room: bytes of work at hand.
static bool prefer(cuda_attend *t, cudaStream_t stream, const pa_attn *a, bool back, size_t room, char *why,
                   size_t size) {
    trial r = {0};
    size_t work = cuda_cudnn_work(t->cudnn, a, pass_of(t, back));
    bool theirs = false;
    if (work == SIZE_MAX)
        snprintf(why, size, "cuDNN has no plan: %s", cuda_cudnn_why(t->cudnn));
    else if (work > most_work || work > room)
        snprintf(why, size, "cuDNN needs %.1f MB of workspace", (double)work / 1e6);
    else if (!take(&r, a, larger(work, cuda_attn_work(a)), stream))
        snprintf(why, size, "no memory to try cuDNN");
    else
        theirs = compare(t, stream, &r, back, why, size);
    if (theirs && !t->deterministic) {
        float ms[2];
        for (int i = 0; i < 2; i++) ms[i] = time_of(t, stream, &r, back, i);
        theirs = ms[1] >= 0 && (ms[0] < 0 || ms[1] < ms[0]);
        snprintf(why, size, "cuDNN %.3f ms, our kernels %.3f ms", (double)ms[1], (double)ms[0]);
    }
    for (int i = 0; i < TENSORS; i++) cudaFree(r.x[0][i]), cudaFree(r.x[1][i]);
    cudaGetLastError(); // no room to try is no error: our kernels run
    return theirs;
}

static void print_choice(const cuda_attend *t, const pa_attn *a, bool back, bool theirs, const char *why) {
    if (!t->prints) return;
    fprintf(stderr, "attention %s, B %d N %d K %d H %d D %d: %s%s%s%s\n", back ? "backward" : "forward", a->batch,
            a->latents, a->kept, a->heads, a->dim_head, theirs ? "cuDNN" : "our kernels", *why ? " (" : "", why,
            *why ? ")" : "");
}

static bool same(const pa_attn *x, const pa_attn *y) {
    return x->type == y->type && x->batch == y->batch && x->latents == y->latents && x->kept == y->kept &&
           x->heads == y->heads && x->dim_head == y->dim_head && x->ldq == y->ldq && x->ldkv == y->ldkv &&
           x->ldo == y->ldo;
}

// The choice for a shape, made where it is new. NULL: our kernels.
static choice *choose(cuda_attend *t, cudaStream_t stream, const pa_attn *a, bool back, size_t room) {
    enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    char why[256] = "";
    if (!offered(t, a)) return NULL;
    for (int i = 0; i < t->count; i++)
        if (t->choices[i].back == back && same(&t->choices[i].shape, a)) return &t->choices[i];
    if (t->count == CHOICES || cudaStreamIsCapturing(stream, &capture) || capture != cudaStreamCaptureStatusNone)
        return NULL;
    choice *c = &t->choices[t->count++];
    *c = (choice){*a, back, prefer(t, stream, a, back, room, why, sizeof why)};
    print_choice(t, a, back, c->theirs, why);
    return c;
}

static void gave_up(cuda_attend *t, choice *c) {
    c->theirs = false;
    print_choice(t, &c->shape, c->back, false, cuda_cudnn_why(t->cudnn));
}

void cuda_attend_fwd(cuda_attend *t, cudaStream_t stream, const pa_attn *a, void *o, float *lse, pa_work work) {
    choice *c = choose(t, stream, a, false, work.bytes);
    if (c && c->theirs) {
        if (cuda_cudnn_fwd(t->cudnn, stream, a, o, lse, work.at)) return;
        gave_up(t, c);
    }
    cuda_attn_fwd(stream, a, o, lse);
}

void cuda_attend_bwd(cuda_attend *t, cudaStream_t stream, const pa_attn *a, const pa_attn_grads *g, pa_work work) {
    choice *c = choose(t, stream, a, true, work.bytes);
    if (c && c->theirs) {
        if (cuda_cudnn_bwd(t->cudnn, stream, a, g, pass_of(t, true), work.at)) return;
        gave_up(t, c);
    }
    cuda_attn_bwd(stream, a, g, work.at);
}
#endif
