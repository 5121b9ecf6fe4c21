// test_cuda_ops.c: the CUDA kernels, in the emulator or on a GPU, against float64 at the small shapes of the case table (tests/cases.h).
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/simd.h"
#include "cuda/half.h"
#include "tests/cases.h"
#include "tests/cuda_ops.h"

enum { S3_ATTENTION = 4 }; // rows of the case table

// Decoding and products have other operands here, and are tested through the whole model. Attention reads rows of 16 bytes: the backend
// refuses a model with heads of other sizes (test_cuda_programs.py), as s3's of 20 dims are.
static bool covered(const case_row *row, int *left) {
    if (row->kind == CASE_ATTENTION_DECODE || row->kind == CASE_GEMV || row->kind == CASE_MATMUL) return false;
    if ((row->kind != CASE_ATTENTION_FWD && row->kind != CASE_ATTENTION_BWD) || row->dim_head % 8 == 0) return true;
    assert_int_equal(row->dim_head, 20);
    return ++*left, false;
}

static int check_type(cpu_type type, cuda_ops_half half, const case_model *models, int n) {
    const cpu_ops *ops = cuda_ops_table(half);
    int failed = 0, left = 0;
    for (int m = 0; m < n; m++) {
        case_row row[CASE_ROWS];
        int rows = case_table(&models[m], type, row);
        for (int j = 0; j < rows; j++) {
            case_run r;
            pa_err err;
            if (!covered(&row[j], &left)) continue;
            if (case_open(&r, &row[j], ops, &err) || case_execute(&r, &err)) fail_msg("%s", err.text);
            case_error e = case_check(&r, 1 << 20);
            if (!(e.allowed <= 1)) {
                printf("%s%s: %s is off by %.3g of what rounding allows (%.3g of the largest)\n", row[j].name, half ? " as fp16" : "",
                       e.output, e.allowed, e.error);
                failed++;
            }
            case_close(&r);
        }
    }
    assert_int_equal(left, S3_ATTENTION);
    return failed;
}
static void float32_is_float64_but_for_rounding(void **state) {
    (void)state;
    assert_int_equal(check_type(CPU_F32, CUDA_OPS_BF16, case_small, 4), 0);
}
static void bf16_is_float64_but_for_rounding(void **state) {
    (void)state;
    assert_int_equal(check_type(CPU_BF16, CUDA_OPS_BF16, case_small, 4), 0);
}

// Dropout drops what the CPU drops: a half and rows of any width.
static void dropout_is_the_cpus(void **state) {
    (void)state;
    enum { rows = 6, sequence = 3, most = 40 };
    const uint64_t window[2] = {5, 77};
    cpu_dropout d = {.p = 0.3f, .seed = 11, .window = window, .layer = 2};
    for (int F = 37; F <= most; F += 3) {
        float h[rows * most], g[2][rows * most];
        int dropped = 0;
        for (int i = 0; i < rows * F; i++) h[i] = (float)(1 + i % 7), g[0][i] = g[1][i] = 1;
        cpu_ops_select("generic")->activation_fwd(CPU_F32, PA_SQRELU, g[0], h, rows, F, &d, sequence);
        cuda_ops_table(CUDA_OPS_BF16)->activation_fwd(CPU_F32, PA_SQRELU, g[1], h, rows, F, &d, sequence);
        for (int i = 0; i < rows * F; i++) assert_int_equal(g[0][i] == 0, g[1][i] == 0), dropped += g[0][i] == 0;
        assert_true(dropped > rows * F / 6 && dropped < rows * F / 2);
        for (int i = 0; i < rows * F; i++) g[0][i] = g[1][i] = 1;
        cpu_ops_select("generic")->activation_bwd(CPU_F32, PA_SQRELU, g[0], h, rows, F, &d, sequence);
        cuda_ops_table(CUDA_OPS_BF16)->activation_bwd(CPU_F32, PA_SQRELU, g[1], h, rows, F, &d, sequence);
        for (int i = 0; i < rows * F; i++) assert_true(fabsf(g[0][i] - g[1][i]) <= 4 * 0x1p-23f * fabsf(g[0][i])); // four roundings
    }
}

static float number(bool half, uint16_t bits) {
    return half ? cuda_half_to_float(bits) : bf16_to_float(bits);
}

// GELU and its derivative at every number of both types, up to where the integral's lower tail leaves the normal numbers, by the rule of
// cases_check.c: the integral's parts within 12 + 2 x^2 roundings of float32, then one of the type, which is half a step where it is least.
static void gelu_is_its_integral(void **state) {
    (void)state;
    enum { most = 1 << 16 };
    static uint16_t h[most], g[2][most];
    for (int half = 0; half < 2; half++) {
        int n = 0;
        for (uint32_t bits = 0; bits < most; bits++)
            if (fabsf(number(half, (uint16_t)bits)) < 13) h[n] = (uint16_t)bits, g[1][n++] = half ? 0x3c00 : 0x3f80;
        const cpu_ops *ops = cuda_ops_table(half ? CUDA_OPS_HALF : CUDA_OPS_BF16);
        ops->activation_fwd(CPU_BF16, PA_GELU, g[0], h, 1, n, NULL, 1);
        ops->activation_bwd(CPU_BF16, PA_GELU, g[1], h, 1, n, NULL, 1);
        for (int i = 0; i < n; i++) {
            const double x = (double)number(half, h[i]), phi = erfc(-x / sqrt(2)) / 2, slope = x * exp(-x * x / 2) / sqrt(2 * acos(-1));
            const double exact[2] = {x * phi, phi + slope}, parts[2] = {fabs(x) * phi, phi + fabs(slope)};
            for (int back = 0; back < 2; back++) {
                const double found = (double)number(half, g[back][i]), stored = half ? 0x1p-11 : 0x1p-8, least = half ? 0x1p-25 : 0x1p-126;
                if (!(fabs(found - exact[back]) <= (12 + 2 * x * x) * 0x1p-24 * parts[back] + stored * fabs(exact[back]) + least))
                    fail_msg("%s of %.9g: expected %.9g, found %.9g", back ? "derivative" : "GELU", x, exact[back], found);
            }
        }
        assert_true(n > most / 2);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(float32_is_float64_but_for_rounding),
        cmocka_unit_test(bf16_is_float64_but_for_rounding),
        cmocka_unit_test(dropout_is_the_cpus),
        cmocka_unit_test(gelu_is_its_integral),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
