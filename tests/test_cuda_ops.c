// test_cuda_ops.c: the CUDA kernels, in the emulator or on a GPU, against float64 at the small shapes of the case table (tests/cases.h).
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/cases.h"
#include "tests/cuda_ops.h"

static bool covered(const case_row *row) {
    if (row->kind == CASE_ATTENTION_FWD || row->kind == CASE_ATTENTION_BWD) return row->dim_head % 8 == 0;
    return row->kind != CASE_ATTENTION_DECODE && row->kind != CASE_GEMV && row->kind != CASE_MATMUL;
}

static int check_type(cpu_type type, cuda_ops_half half, const case_model *models, int n) {
    const cpu_ops *ops = cuda_ops_table(half);
    int failed = 0;
    for (int m = 0; m < n; m++) {
        case_row row[CASE_ROWS];
        int rows = case_table(&models[m], type, row);
        for (int j = 0; j < rows; j++) {
            case_run r;
            pa_err err;
            if (!covered(&row[j])) continue;
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(float32_is_float64_but_for_rounding),
        cmocka_unit_test(bf16_is_float64_but_for_rounding),
        cmocka_unit_test(dropout_is_the_cpus),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
