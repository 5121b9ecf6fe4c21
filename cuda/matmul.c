// matmul.c: matrix products by cuBLASLt, one cached plan a shape. Knows nothing of the model.
#include "cuda/matmul.h"

#include <cublasLt.h>
#include <stdlib.h>

enum { CANDIDATES = 6, TIMINGS = 3 };
#ifdef PA_EMULATOR
enum { LAUNCHES = 1 }; // that are timed together
#else
enum { LAUNCHES = 10 };
#endif

typedef struct {
    pa_product key;
    uint32_t alignment; // of all operands, in bytes
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t a, b, c; // of the library: its a is our b
    cublasLtMatmulAlgo_t algorithm;
} plan;

struct cuda_matmul {
    cublasLtHandle_t handle;
    cudaStream_t stream;
    void *workspace;
    bool timed;
    plan *plans;
    int count, capacity;
};

static pa_status blas_error(pa_err *err, const char *what, cublasStatus_t status) {
    return pa_error(err, PA_FAIL, "cuBLASLt: %s failed: %s", what, cublasLtGetStatusName(status));
}

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        cublasStatus_t status_ = (call);                                                                               \
        if (status_ != CUBLAS_STATUS_SUCCESS) {                                                                        \
            result = blas_error(err, #call, status_);                                                                  \
            goto done;                                                                                                 \
        }                                                                                                              \
    } while (0)

pa_status cuda_matmul_create(cuda_matmul **out, cudaStream_t stream, void *workspace, bool timed, pa_err *err) {
    pa_status result = PA_OK;
    cuda_matmul *mm = calloc(1, sizeof *mm);
    if (!mm) return pa_error(err, PA_FAIL, "no memory");
    mm->stream = stream, mm->workspace = workspace, mm->timed = timed;
    TRY(cublasLtCreate(&mm->handle));
done:
    if (result) cuda_matmul_destroy(mm);
    *out = result ? NULL : mm;
    return result;
}

static void plan_clear(plan *p) {
    if (p->operation) cublasLtMatmulDescDestroy(p->operation);
    if (p->a) cublasLtMatrixLayoutDestroy(p->a);
    if (p->b) cublasLtMatrixLayoutDestroy(p->b);
    if (p->c) cublasLtMatrixLayoutDestroy(p->c);
}

void cuda_matmul_destroy(cuda_matmul *mm) {
    if (!mm) return;
    for (int i = 0; i < mm->count; i++) plan_clear(&mm->plans[i]);
    if (mm->handle) cublasLtDestroy(mm->handle);
    free(mm->plans);
    free(mm);
}

int cuda_matmul_created(const cuda_matmul *mm) {
    return mm->count;
}

static cudaDataType_t data_type(pa_type t) {
    return t == PA_TYPE_F32 ? CUDA_R_32F : t == PA_TYPE_BF16 ? CUDA_R_16BF : CUDA_R_16F;
}

static cublasStatus_t launch(const cuda_matmul *mm, const plan *p, const cublasLtMatmulAlgo_t *algorithm, const void *a,
                             const void *b, const void *c, void *d) {
    const float one = 1, beta = p->key.add || p->key.onto ? 1 : 0;
    return cublasLtMatmul(mm->handle, p->operation, &one, b, p->a, a, p->b, &beta, c, p->c, d, p->c, algorithm,
                          mm->workspace, CUDA_MATMUL_WORKSPACE, mm->stream);
}

// Milliseconds of LAUNCHES runs between two events, the least of a few; negative where it fails. One more run precedes
// them, so that the GPU has something to do while they are launched.
static float time_of(const cuda_matmul *mm, const plan *p, const cublasLtMatmulAlgo_t *algorithm, const void *a,
                     const void *b, const void *c, void *d) {
    cudaEvent_t start = NULL, stop = NULL;
    float best = -1;
    if (cudaEventCreate(&start) || cudaEventCreate(&stop)) goto done;
    for (int i = 0; i < TIMINGS; i++) {
        float ms;
        bool ok = launch(mm, p, algorithm, a, b, c, d) == CUBLAS_STATUS_SUCCESS && !cudaEventRecord(start, mm->stream);
        for (int k = 0; ok && k < LAUNCHES; k++) ok = launch(mm, p, algorithm, a, b, c, d) == CUBLAS_STATUS_SUCCESS;
        if (!ok || cudaEventRecord(stop, mm->stream) || cudaEventSynchronize(stop) ||
            cudaEventElapsedTime(&ms, start, stop)) {
            best = -1;
            goto done;
        }
        if (best < 0 || ms < best) best = ms;
    }
done:
    if (start) cudaEventDestroy(start);
    if (stop) cudaEventDestroy(stop);
    return best;
}

// Times the candidates, and leaves the library's first choice only for one that is faster by more than a twentieth:
// noise should not choose, for another algorithm may sum in another order. A sum is not added meanwhile, but written to
// memory taken for it. No epilogue of the library is used: its GELU is the tanh approximation, and the model's bias is
// added where the residual is.
static void choose(cuda_matmul *mm, plan *p, const cublasLtMatmulHeuristicResult_t *candidate, int found, const void *a,
                   const void *b, void *c) {
    const void *from = p->key.onto ? p->key.onto : c;
    enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    p->algorithm = candidate[0].algo;
    void *d = c;
    if (!mm->timed) return;
    if (cudaStreamIsCapturing(mm->stream, &capture) || capture != cudaStreamCaptureStatusNone)
        return; // nothing may be timed now
    if (found < 2 || (p->key.add && cudaMalloc(&d, (size_t)p->key.m * (size_t)(p->key.ldc ? p->key.ldc : p->key.n) *
                                                       pa_size(p->key.c)))) {
        cudaGetLastError(); // no room to time: the library's first choice
        return;
    }
    float best = time_of(mm, p, &candidate[0].algo, a, b, from, d) * 0.95f;
    for (int i = 1; i < found; i++) {
        float ms = time_of(mm, p, &candidate[i].algo, a, b, from, d);
        if (ms >= 0 && (best < 0 || ms < best)) best = ms, p->algorithm = candidate[i].algo;
    }
    if (d != c) cudaFree(d);
}

// What all operands are aligned to: 16 bytes, which is as much as the library's algorithms can use, or less.
static uint32_t alignment_of(const pa_product *p, const void *a, const void *b, const void *c) {
    uintptr_t bits = (uintptr_t)a | (uintptr_t)b | (uintptr_t)c | (uintptr_t)p->onto | 16;
    return (uint32_t)(bits & -bits);
}

// The library's matrices are column-major: our row-major c (m, n) is its (n, m), made of its a (n, k), which is our b,
// and its b (k, m).
static pa_status plan_create(cuda_matmul *mm, plan *p, const pa_product *key, const void *a, const void *b, void *c,
                             pa_err *err) {
    pa_status result = PA_OK;
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t candidate[CANDIDATES];
    cublasOperation_t op_a = key->b_t ? CUBLAS_OP_T : CUBLAS_OP_N, op_b = key->a_t ? CUBLAS_OP_T : CUBLAS_OP_N;
    const uint64_t m = (uint64_t)key->m, n = (uint64_t)key->n, k = (uint64_t)key->k;
    const int64_t lda = key->lda ? key->lda : key->a_t ? key->m : key->k, ldc = key->ldc ? key->ldc : key->n;
    const uint64_t workspace = CUDA_MATMUL_WORKSPACE;
    // Parts of a sum in float32, never in the result's 16 bits.
    const uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    int found = 0;
    *p = (plan){.key = *key, .alignment = alignment_of(key, a, b, c)};
    TRY(cublasLtMatmulDescCreate(&p->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    TRY(cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSA, &op_a, sizeof op_a));
    TRY(cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSB, &op_b, sizeof op_b));
    TRY(cublasLtMatrixLayoutCreate(&p->a, data_type(key->b), key->b_t ? k : n, key->b_t ? n : k, key->b_t ? k : n));
    TRY(cublasLtMatrixLayoutCreate(&p->b, data_type(key->a), key->a_t ? m : k, key->a_t ? k : m, lda));
    TRY(cublasLtMatrixLayoutCreate(&p->c, data_type(key->c), n, m, ldc));
    TRY(cublasLtMatmulPreferenceCreate(&preference));
    TRY(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                             sizeof workspace));
    TRY(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction,
                                             sizeof reduction));
    for (int i = CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES; i <= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES; i++)
        TRY(cublasLtMatmulPreferenceSetAttribute(preference, (cublasLtMatmulPreferenceAttributes_t)i, &p->alignment,
                                                 sizeof p->alignment));
    TRY(cublasLtMatmulAlgoGetHeuristic(mm->handle, p->operation, p->a, p->b, p->c, p->c, preference, CANDIDATES,
                                       candidate, &found));
    if (!found) {
        result =
            pa_error(err, PA_FAIL, "cuBLASLt: no algorithm for a product of %d by %d by %d", key->m, key->n, key->k);
        goto done;
    }
    choose(mm, p, candidate, found, a, b, c);
done:
    if (preference) cublasLtMatmulPreferenceDestroy(preference);
    if (result) plan_clear(p);
    return result;
}

static bool same(const pa_product *x, const pa_product *y) {
    return x->m == y->m && x->n == y->n && x->k == y->k && x->a == y->a && x->b == y->b && x->c == y->c &&
           x->a_t == y->a_t && x->b_t == y->b_t && x->add == y->add && x->lda == y->lda && x->ldc == y->ldc &&
           !x->onto == !y->onto;
}

static pa_status find(cuda_matmul *mm, const pa_product *key, const plan **found, const void *a, const void *b, void *c,
                      pa_err *err) {
    const uint32_t alignment = alignment_of(key, a, b, c);
    for (int i = 0; i < mm->count; i++)
        if (mm->plans[i].alignment == alignment && same(&mm->plans[i].key, key)) {
            *found = &mm->plans[i];
            return PA_OK;
        }
    if (mm->count == mm->capacity) {
        int capacity = mm->capacity ? 2 * mm->capacity : 32;
        plan *grown = realloc(mm->plans, (size_t)capacity * sizeof *grown);
        if (!grown) return pa_error(err, PA_FAIL, "no memory");
        mm->plans = grown, mm->capacity = capacity;
    }
    pa_status s = plan_create(mm, &mm->plans[mm->count], key, a, b, c, err);
    if (s) return s;
    *found = &mm->plans[mm->count++];
    return PA_OK;
}

pa_status cuda_matmul_run(cuda_matmul *mm, const pa_product *p, const void *a, const void *b, void *c, pa_err *err) {
    const plan *use = NULL;
    if (p->m == 0 || p->n == 0) return PA_OK;
    pa_status s = find(mm, p, &use, a, b, c, err);
    if (s) return s;
    cublasStatus_t status = launch(mm, use, &use->algorithm, a, b, p->onto ? p->onto : c, c);
    return status == CUBLAS_STATUS_SUCCESS ? PA_OK : blas_error(err, "cublasLtMatmul", status);
}
