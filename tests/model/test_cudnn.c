// test_cudnn.c: cuDNN takes the attention of v1 to v5 on sm_80 and sm_90, and refuses sm_75, asked without a GPU: the
// graphs are built against a description of one, with the toolkit's stub of the driver (which ctest puts first on the
// library path).
#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bench/cases.h"
#include "cuda/cudnn.h"

// Keys lie as in host/model/arena.h (pa_saved): the cross-attention's prefix and latents follow each other, the others'
// lie beside their queries.
static pa_attn shape(const case_model *m, pa_type type, int kept) {
    static const char base[16];
    const int I = m->heads * m->dim_head, N = m->context - m->prefix, ldkv = kept ? 2 * I : 3 * I;
    const size_t prefix = (size_t)kept * (size_t)ldkv * 2;
    return (pa_attn){.type = type,
                     .batch = m->batch,
                     .latents = N,
                     .kept = kept,
                     .heads = m->heads,
                     .dim_head = m->dim_head,
                     .scale = 0.125f,
                     .ldq = kept ? I : 3 * I,
                     .ldkv = ldkv,
                     .ldo = I,
                     .kp = base,
                     .vp = base,
                     .kn = base + prefix,
                     .vn = base + prefix};
}

static void models_are_taken(void **state) {
    (void)state;
    for (int m = 0; m < 5; m++)
        for (int type = PA_TYPE_BF16; type <= PA_TYPE_F16; type++)
            for (int i = 0; i < 3; i++) {
                case_model v = case_models[m];
                const int kept[] = {0, pa_kept(v.prefix, 0.7), v.prefix};
                v.batch = i ? 1 : 8;
                pa_attn a = shape(&v, (pa_type)type, kept[i]);
                assert_true(cuda_cudnn_expresses(&a));
                for (int pass = CUDA_CUDNN_FORWARD; pass <= CUDA_CUDNN_DETERMINISTIC; pass++)
                    for (int architecture = 80; architecture <= 90; architecture += 10) {
                        char why[512];
                        if (!cuda_cudnn_supports(architecture, &a, (cuda_cudnn_pass)pass, why, sizeof why))
                            fail_msg("%s, %d kept, %s, pass %d, sm_%d: %s", v.name, kept[i],
                                     type == PA_TYPE_BF16 ? "bf16" : "fp16", pass, architecture, why);
                    }
            }
}

static void others_are_not(void **state) {
    (void)state;
    char why[512];
    pa_attn a = shape(&case_models[0], PA_TYPE_F16, 308);
    assert_false(cuda_cudnn_supports(75, &a, CUDA_CUDNN_FORWARD, why, sizeof why));
    assert_non_null(strstr(why, "SM80"));
    assert_false(cuda_cudnn_supports(75, &a, CUDA_CUDNN_BACKWARD, why, sizeof why));
    a.batch = 2; // no one tensor holds the keys of two sequences: all prefixes lie before all latents
    assert_false(cuda_cudnn_expresses(&a));
    a.batch = 1, a.dropout.p = 0.1f;
    assert_false(cuda_cudnn_expresses(&a));
    a.dropout.p = 0, a.type = PA_TYPE_F32;
    assert_false(cuda_cudnn_expresses(&a));
    a.type = PA_TYPE_F16, a.ldq = 516; // rows of 1032 bytes
    assert_false(cuda_cudnn_expresses(&a));
    a.ldq = 512, a.kn = a.kp;
    assert_false(cuda_cudnn_expresses(&a));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(models_are_taken), cmocka_unit_test(others_are_not)};
    if (!dlopen("libcudnn.so.9", RTLD_NOW) || !dlopen("libcuda.so.1", RTLD_NOW)) {
        fprintf(stderr, "skipped: %s\n", dlerror());
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
