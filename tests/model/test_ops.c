// test_ops.c: every operation of cpu/ops.h and the matrix products, of each instruction set that this machine has,
// against float64, at the small shapes of the case table (bench/cases.h). What float64 gives and how far rounding may
// take a result from it is in cases_check.c.
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bench/cases.h"

static const char *const isa_name[] = {"generic", "avx2", "avx512", "avx512_bf16"};

// Everything but scratch memory as one piece, so that a second run can be compared bit by bit.
static char *snapshot(const case_run *r, size_t *bytes) {
    size_t at = 0;
    for (int i = 0; i < CASE_OPERANDS; i++) at += r->x[i].bytes;
    char *all = malloc(at);
    at = 0;
    for (int i = 0; i < CASE_OPERANDS; i++) {
        if (i == X_WORK || !r->x[i].bytes) continue;
        memcpy(all + at, r->x[i].data, r->x[i].bytes);
        at += r->x[i].bytes;
    }
    *bytes = at;
    return all;
}

// That nothing past an operand's end was written: pa_alloc leaves zeros there.
static void check_ends(const case_run *r) {
    for (int i = 0; i < CASE_OPERANDS; i++)
        for (size_t j = 0; r->x[i].data && j < 64; j++)
            assert_int_equal(((const char *)r->x[i].data)[r->x[i].bytes + j], 0);
}

static void check_row(const case_row *row, const pa_ops *ops) {
    case_run r;
    pa_err err;
    if (case_open(&r, row, ops, &err) || case_execute(&r, &err)) fail_msg("%s", err.text);
    case_error e = case_check(&r, 1 << 20);
    if (!(e.allowed <= 1))
        fail_msg("%s, %s: %s is off by %.3g of what rounding allows (%.3g of the largest)", ops->name, row->name,
                 e.output, e.allowed, e.error);
    check_ends(&r);
    size_t bytes;
    char *first = snapshot(&r, &bytes);
    case_reset(&r);
    if (case_execute(&r, &err)) fail_msg("%s", err.text);
    char *second = snapshot(&r, &bytes);
    if (memcmp(first, second, bytes)) fail_msg("%s, %s: a second run gives other bits", ops->name, row->name);
    free(first), free(second);
    if (getenv("PA_VERBOSE"))
        printf("%-12s %-36s %-10s error %.2e, %.3f of allowed\n", ops->name, row->name, e.output, e.error, e.allowed);
    case_close(&r);
}

static void check_type(pa_type type) {
    for (int i = 0; i < 4; i++) {
        const pa_ops *ops = cpu_ops_select(isa_name[i]);
        for (int m = 0; ops && m < 5; m++) {
            case_row row[CASE_ROWS];
            int rows = case_table(&case_small[m], type, row);
            omp_set_num_threads(1 + m);
            for (int j = 0; j < rows; j++) check_row(&row[j], ops);
        }
    }
}
static void float32_is_float64_but_for_rounding(void **state) {
    (void)state;
    check_type(PA_TYPE_F32);
}
static void bf16_is_float64_but_for_rounding(void **state) {
    (void)state;
    check_type(PA_TYPE_BF16);
}

// A row's flop are those that model.md counts: attention of a whole model from the table's rows is pa_count_flops's.
static void the_table_counts_as_the_model_does(void **state) {
    (void)state;
    for (int m = 0; m < 5; m++) {
        case_row row[CASE_ROWS];
        const case_model *v = &case_models[m];
        pa_model settings = case_settings(v);
        pa_flops all =
            pa_count_flops(&settings, v->batch, pa_kept(v->prefix, settings.prefix_dropout), v->context - v->prefix);
        double forward = 0, backward = 0;
        for (int i = case_table(v, PA_TYPE_F32, row) - 1; i >= 0; i--) {
            double blocks = row[i].cross ? 1 : v->depth;
            if (row[i].kind == CASE_ATTENTION_FWD) forward += blocks * row[i].flop;
            if (row[i].kind == CASE_ATTENTION_BWD) backward += blocks * row[i].flop;
            assert_true(row[i].flop >= 0 && row[i].bytes > 0);
        }
        assert_true(forward == all.attention_forward && backward == all.attention_backward);
    }
}

static void widen_wrongly(pa_device *d, pa_type t, void *y, const float *x, size_t n) {
    cpu_ops_select(NULL)->cast(d, t, y, x, n - 1);
}

static void a_wrong_product_is_found(void **state) {
    (void)state;
    pa_err err;
    for (pa_type type = PA_TYPE_F32; type <= PA_TYPE_BF16; type++)
        for (int i = 0; i < 4; i++) {
            const pa_ops *ops = cpu_ops_select(isa_name[i]);
            if (!ops) continue;
            pa_ops wrong = *ops;
            wrong.cast = widen_wrongly;
            if (cpu_matmul_check(ops, type, &err)) fail_msg("%s: %s", ops->name, err.text);
            assert_int_equal(cpu_matmul_check(&wrong, type, &err), PA_FAIL);
            assert_non_null(strstr(err.text, "OpenMP: a matrix product on 2 threads is wrong ("));
            assert_non_null(strstr(err.text, "OMP_PLACES=cores"));
        }
}

int main(void) {
    setenv("OMP_PLACES", "cores", 1); // read by no one now
    omp_set_num_threads(2);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wrong_product_is_found),
        cmocka_unit_test(float32_is_float64_but_for_rounding),
        cmocka_unit_test(bf16_is_float64_but_for_rounding),
        cmocka_unit_test(the_table_counts_as_the_model_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
