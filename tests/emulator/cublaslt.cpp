// cublaslt.cpp: the stand-in cublasLt.h's calls: column-major products with float32 sums, by oneDNN's float32 product
// after widening. What the library asks of its caller is checked: leading dimensions, and operands aligned as its
// preference promised (256 bytes unless it said less). So is what the backend promises: that no sum is split into parts
// of 16 bits.
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <oneapi/dnnl/dnnl.h>

#include "tests/emulator/emulator.h"

struct cublasLtContext {
    int unused;
};
struct cublasLtMatmulDesc {
    cublasOperation_t a, b;
};
struct cublasLtMatrixLayout {
    cudaDataType_t type;
    int64_t rows, columns, ld;
};
struct cublasLtMatmulPreference {
    uint64_t workspace;
    uint32_t reduction;    // schemes allowed for a sum in parts
    uint32_t alignment[4]; // of a, b, c, d
};

static size_t size_of(cudaDataType_t t) {
    return t == CUDA_R_32F ? 4 : 2;
}

// The columns of a matrix, one after another without gaps.
static std::vector<float> widen(const cublasLtMatrixLayout &l, const void *p) {
    std::vector<float> out((size_t)(l.rows * l.columns));
    for (int64_t c = 0; c < l.columns; c++)
        for (int64_t r = 0; r < l.rows; r++) {
            const int64_t i = c * l.ld + r;
            out[(size_t)(c * l.rows + r)] = l.type == CUDA_R_32F   ? ((const float *)p)[i]
                                            : l.type == CUDA_R_16F ? __half2float(((const __half *)p)[i])
                                                                   : __bfloat162float(((const __nv_bfloat16 *)p)[i]);
        }
    return out;
}

static void narrow(const cublasLtMatrixLayout &l, void *p, const std::vector<float> &x) {
    for (int64_t c = 0; c < l.columns; c++)
        for (int64_t r = 0; r < l.rows; r++) {
            const int64_t i = c * l.ld + r;
            const float v = x[(size_t)(c * l.rows + r)];
            if (l.type == CUDA_R_32F)
                ((float *)p)[i] = v;
            else if (l.type == CUDA_R_16F)
                ((__half *)p)[i] = __float2half_rn(v);
            else
                ((__nv_bfloat16 *)p)[i] = __float2bfloat16_rn(v);
        }
}

// Where the shapes fit: rows and columns of the product, and what is summed over.
static bool shapes(const cublasLtMatmulDesc &o, const cublasLtMatrixLayout &a, const cublasLtMatrixLayout &b,
                   const cublasLtMatrixLayout &d, int64_t *inner) {
    const bool ta = o.a == CUBLAS_OP_T, tb = o.b == CUBLAS_OP_T;
    *inner = ta ? a.rows : a.columns;
    return (ta ? a.columns : a.rows) == d.rows && (tb ? b.rows : b.columns) == d.columns &&
           (tb ? b.columns : b.rows) == *inner && a.type == b.type;
}

extern "C" {

const char *cublasLtGetStatusName(cublasStatus_t status) {
    return status == CUBLAS_STATUS_SUCCESS         ? "CUBLAS_STATUS_SUCCESS"
           : status == CUBLAS_STATUS_INVALID_VALUE ? "CUBLAS_STATUS_INVALID_VALUE"
                                                   : "CUBLAS_STATUS_NOT_SUPPORTED";
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
    *handle = new cublasLtContext{};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute, cudaDataType_t scale) {
    if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    *desc = new cublasLtMatmulDesc{CUBLAS_OP_N, CUBLAS_OP_N};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
    delete desc;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes) {
    if (bytes != sizeof(cublasOperation_t)) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(attribute == CUBLASLT_MATMUL_DESC_TRANSA ? &desc->a : &desc->b, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType_t type, uint64_t rows,
                                          uint64_t columns, int64_t ld) {
    if (ld < (int64_t)rows) return CUBLAS_STATUS_INVALID_VALUE;
    *layout = new cublasLtMatrixLayout{type, (int64_t)rows, (int64_t)columns, ld};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
    *preference = new cublasLtMatmulPreference{0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void *value,
                                                    size_t bytes) {
    if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES && bytes == 8)
        memcpy(&preference->workspace, value, 8);
    else if (attribute == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK && bytes == 4)
        memcpy(&preference->reduction, value, 4);
    else if (attribute >= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES && bytes == 4)
        memcpy(&preference->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, 4);
    else
        return CUBLAS_STATUS_INVALID_VALUE;
    return CUBLAS_STATUS_SUCCESS;
}

// Two algorithms that do the same, so that there is something to choose from; each remembers what alignment it was
// promised.
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference,
                                              int wanted, cublasLtMatmulHeuristicResult_t *results, int *found) {
    int64_t inner;
    *found = 0;
    if (!shapes(*desc, *a, *b, *d, &inner)) return CUBLAS_STATUS_INVALID_VALUE;
    if (a->type == CUDA_R_16BF && emulator::architecture() < 80) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (d->type != CUDA_R_32F && preference->reduction & ~(uint32_t)CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE)
        return CUBLAS_STATUS_INVALID_VALUE;
    for (; *found < 2 && *found < wanted; ++*found) {
        results[*found] = {};
        for (int i = 0; i < 4; i++) results[*found].algo.data[i] = preference->alignment[i];
        results[*found].algo.data[4] = (uint64_t)*found, results[*found].algo.data[5] = preference->workspace;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout,
                              const void *beta, const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo, void *workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
    const cublasLtMatmulDesc o = *desc;
    const cublasLtMatrixLayout la = *a_layout, lb = *b_layout, lc = *c_layout, ld = *d_layout;
    const void *const operands[4] = {a, b, c, d};
    const float one = *(const float *)alpha, add = *(const float *)beta;
    int64_t inner;
    if (!shapes(o, la, lb, ld, &inner) || lc.rows != ld.rows || lc.columns != ld.columns || lc.type != ld.type)
        return CUBLAS_STATUS_INVALID_VALUE;
    for (int i = 0; i < 4; i++)
        if ((uintptr_t)operands[i] % algo->data[i]) return CUBLAS_STATUS_INVALID_VALUE;
    if (workspace_bytes < algo->data[5] || (workspace_bytes && (uintptr_t)workspace % 256))
        return CUBLAS_STATUS_INVALID_VALUE;
    if ((uintptr_t)a % size_of(la.type) || (uintptr_t)d % size_of(ld.type)) return CUBLAS_STATUS_INVALID_VALUE;
    emulator::enqueue(stream, [=] {
        const std::vector<float> x = widen(la, a), y = widen(lb, b);
        std::vector<float> z = add != 0 ? widen(lc, c) : std::vector<float>((size_t)(ld.rows * ld.columns));
        // Column-major a is row-major a transposed, so the row-major product is that of b and a.
        const char ta = o.a == CUBLAS_OP_T ? 'T' : 'N', tb = o.b == CUBLAS_OP_T ? 'T' : 'N';
        if (inner == 0)
            for (float &v : z) v *= add;
        else if (dnnl_sgemm(tb, ta, ld.columns, ld.rows, inner, one, y.data(), lb.rows, x.data(), la.rows, add,
                            z.data(), ld.rows) != dnnl_success)
            abort();
        narrow(ld, d, z);
    });
    return CUBLAS_STATUS_SUCCESS;
}
}
