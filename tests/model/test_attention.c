// test_attention.c: attention of every instruction set that this machine has, against a plain float64 computation.
// Knows nothing of tiles. With PA_TEST_CUDA: the CUDA kernels instead, in the emulator or on a GPU, in fp16 too (with
// the argument fp16: only in that).
//
// Tolerance by rule: a tensor may be at most twice as far (largest error) from float64 as the plain computation in the
// same type is, plus one rounding of the tensor's largest number, plus 2^-24 of the magnitude of scores: these, and
// lse, are float32, and the weights that follow are off by that share. dq and dk also: one rounding of the largest
// summand, for sums may cancel and the plain computation be lucky in a small tensor, and 2^-23 of the magnitude of the
// two sums in dS.
#include "cpu/ops.h"
#include "cpu/simd.h"
#include "cuda/half.h"
#include "host/base/philox.h"
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
// cmocka needs those first.
#include <cmocka.h>

enum { O, LSE, DQ, DKP, DVP, DKN, DVN, RESULTS };
static const char *const result_name[] = {"o", "lse", "dq", "dkp", "dvp", "dkn", "dvn"};
static bool half, half_only; // what is called bf16 is fp16
#ifdef PA_TEST_CUDA
#include "tests/support/cuda_ops.h"
static const char *const isa_name[] = {"cuda"};
enum { MARGIN = 8, HALVES = 2 }; // rows of activations are aligned to 16 bytes, or they are read number by number
static const pa_ops *table(int i) {
    (void)i;
    return cuda_ops_table(half ? CUDA_OPS_HALF : CUDA_OPS_BF16);
}
// The kernels read rows of 16 bytes into tiles of up to 128 dims; the backend refuses a model with other heads.
static bool covered(int D) {
    return D % 8 == 0 && D <= 128;
}
enum { LEFT = 5 }; // of the special shapes
#else
static const char *const isa_name[] = {"generic", "avx2", "avx512", "avx512_bf16"};
enum { MARGIN = 1, HALVES = 1 };
static const pa_ops *table(int i) {
    return cpu_ops_select(isa_name[i]);
}
static bool covered(int D) {
    return D > 0;
}
enum { LEFT = 0 };
#endif
enum { TABLES = sizeof isa_name / sizeof *isa_name };

#include "tests/support/plain_attention.h"

// Forward and backward through a table; out[i].data of the type under test (lse: float).
static void run(const pa_ops *ops, const problem *t, tensor out[RESULTS]) {
    const shape *s = &t->s;
    const int I = s->heads * s->dim_head, prefix = s->batch * s->kept, rows = s->batch * s->latents;
    const int count[] = {rows, s->batch * s->heads, rows, prefix, prefix, rows, rows};
    const ptrdiff_t ld[] = {t->a.ldo, s->latents, t->a.ldq, t->a.ldkv, t->a.ldkv, t->a.ldkv, t->a.ldkv};
    for (int i = 0; i < RESULTS; i++)
        out[i] = tensor_make(i == LSE ? PA_TYPE_F32 : t->type, count[i], i == LSE ? s->latents : I, ld[i], NAN);
    omp_set_num_threads(s->threads);
    size_t bytes = ops->attn_work(NULL, &t->a, true);
    unsigned char *work = malloc(bytes + 64);
    memset(work, 0xff, bytes + 64); // NaN
    ops->attn_fwd(NULL, &t->a, out[O].data, out[LSE].data, (pa_work){.at = work, .bytes = bytes});
    for (size_t i = 0; i < 64; i++) assert_int_equal(work[bytes + i], 0xff);
    memset(work, 0xff, bytes);
    ops->attn_bwd(NULL, &t->a,
                  &(pa_attn_grads){.o = out[O].data,
                                   .lse = out[LSE].data,
                                   .dout = t->dout.data,
                                   .dq = out[DQ].data,
                                   .dkp = out[DKP].data,
                                   .dvp = out[DVP].data,
                                   .dkn = out[DKN].data,
                                   .dvn = out[DVN].data},
                  (pa_work){.at = work, .bytes = bytes});
    for (size_t i = 0; i < 64; i++) assert_int_equal(work[bytes + i], 0xff);
    free(work);
}

// A context takes work for its largest batch once; fewer sequences are split into more tasks, which may ask for more.
static void test_work_serves_all_smaller_calls(void **state) {
    (void)state;
    static const int size[] = {1, 700, 1500, 4000};
    for (int i = 0; i < 4; i++) {
        const pa_ops *ops = table(i);
        for (int threads = 1; ops && threads <= 64; threads += threads < 8 ? 1 : 14) {
            omp_set_num_threads(threads);
            for (int j = 0; j < 3 * 4 * 4 * 8; j++) {
                pa_attn a = {.type = j % 2 ? PA_TYPE_BF16 : PA_TYPE_F32, .heads = 1 + 3 * (j % 3), .dim_head = 64};
                a.batch = 1 + j / 3 % 8, a.latents = size[j / 24 % 4], a.kept = size[j / 96];
                const size_t work = ops->attn_work(NULL, &a, true);
                pa_attn less = a;
                for (less.batch = 1; less.batch <= a.batch; less.batch++)
                    assert_true(ops->attn_work(NULL, &less, true) <= work);
                less = a, less.latents = (a.latents + 1) / 2;
                assert_true(ops->attn_work(NULL, &less, true) <= work);
                less = a, less.kept = a.kept / 2;
                assert_true(ops->attn_work(NULL, &less, true) <= work);
            }
        }
    }
}

static double largest(const double *x, const double *y, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        double e = fabs(x[i] - (y ? y[i] : 0));
        if (!(e <= most)) most = e; // NaN wins
        if (e != e) return INFINITY;
    }
    return most;
}

// Rows of a result against the rule.
static void check(const problem *t, const char *isa, int which, const tensor *got) {
    const pa_type type = which == LSE ? PA_TYPE_F32 : t->type;
    const size_t n = (size_t)got->rows * (size_t)got->cols;
    const double unit = type == PA_TYPE_F32 ? 0x1p-24 : half ? 0x1p-12 : 0x1p-9;
    for (int r = 0; r < got->rows; r++)
        for (int c = 0; c < got->cols; c++) got->number[r * got->cols + c] = get(type, got->data, r * got->ld + c);
    double error = largest(got->number, t->exact[which], n), plain_error = largest(t->plain[which], t->exact[which], n);
    double bound = 2 * plain_error + unit * largest(t->exact[which], NULL, n);
    if (which == LSE)
        bound += unit * (4 + t->score) +
                 (t->type == PA_TYPE_BF16 ? 3e-6 : 0); // 4: of sums near 1; 3e-6: vf_exp2 of degree 4
    else
        bound += 0x1p-24 * t->score * largest(t->exact[which], NULL, n);
    if (which == DQ || which == DKP || which == DKN) bound += unit * t->summand + 0x1p-23 * t->terms;
    if (!(error <= bound))
        fail_msg("%s %s B %d N %d K %d H %d D %d spread %g drop %g threads %d: %s is off by %g, plain computation by "
                 "%g, allowed %g",
                 isa,
                 type == PA_TYPE_F32 ? "f32"
                 : half              ? "fp16"
                                     : "bf16",
                 t->s.batch, t->s.latents, t->s.kept, t->s.heads, t->s.dim_head, (double)t->s.spread, (double)t->s.drop,
                 t->s.threads, result_name[which], error, plain_error, bound);
    check_margins(type, got);
}

// A second run gives the same bits. Under the address sanitizer, which slows kernels tenfold, one is enough, and of
// fp16, whose kernels are those of bf16 with other conversions, one shape in four: that all shapes' numbers are right
// and repeat is for the plain builds.
#ifdef __SANITIZE_ADDRESS__
enum { REPEATS = 0, HALF_SHAPES = 4 };
#else
enum { REPEATS = 1, HALF_SHAPES = 1 };
#endif

static void check_shape(shape s, pa_type type) {
    problem t;
    problem_make(&t, s, type);
    for (int i = 0; i < TABLES; i++) {
        const pa_ops *ops = table(i);
        if (!ops) continue;
        tensor got[RESULTS], again[RESULTS];
        run(ops, &t, got);
        for (int r = 0; r < RESULTS; r++) check(&t, isa_name[i], r, &got[r]);
        for (int repeat = 0; repeat < REPEATS; repeat++) {
            run(ops, &t, again);
            for (int r = 0; r < RESULTS; r++) {
                assert_memory_equal(got[r].data, again[r].data,
                                    (size_t)(got[r].rows * got[r].ld) * (r == LSE ? 4 : pa_size(type)));
                tensor_free(&again[r]);
            }
        }
        for (int r = 0; r < RESULTS; r++) tensor_free(&got[r]);
    }
    problem_free(&t);
}

static void check_types(shape s, int number) {
    if (!covered(s.dim_head)) return;
    if (!half_only) check_shape(s, PA_TYPE_F32);
    for (int i = half_only; i < (half_only || number % HALF_SHAPES == 0 ? HALVES : 1); i++) {
        half = i;
        check_shape(s, PA_TYPE_BF16);
    }
    half = false;
}

static void test_edge_sizes(void **state) {
    static const int latents[] = {1, 2, 15, 16, 17, 63, 64, 65, 127, 200}, kept[] = {0, 1, 37},
                     dims[] = {64, 8, 32, 40, 128};
    int i = 0;
    for (size_t n = 0; n < sizeof latents / sizeof *latents; n++)
        for (size_t k = 0; k < 3; k++, i++) {
            shape s = {1 + i % 2, latents[n], kept[k], 1 + i % 3, dims[i % 5], 2, 0, 1 + i % 3};
            check_types(s, i);
        }
    (void)state;
}

// Many key blocks, several query blocks, scores up to 80 and more either way, odd dims, the largest dim, more threads
// than heads.
static void test_special_shapes(void **state) {
    static const shape shapes[] = {
        {1, 70, 500, 2, 64, 2, 0, 2},    {1, 300, 0, 1, 64, 30, 0, 3},     {2, 65, 391, 1, 64, 60, 0, 2},
        {1, 200, 201, 1, 128, 40, 0, 5}, {1, 33, 700, 1, 32, 100, 0, 4},   {1, 20, 30, 2, 1, 2, 0, 1},
        {1, 20, 30, 2, 5, 2, 0, 2},      {1, 21, 200, 1, 77, 2, 0, 2},     {1, 20, 211, 1, 200, 2, 0, 2},
        {1, 37, 29, 1, 256, 4, 0, 2},    {1, 449, 3, 1, 16, 2, 0, 7},      {3, 97, 95, 2, 96, 2, 0, 4},
        {1, 1, 1000, 1, 64, 20, 0, 2},   {2, 130, 131, 2, 64, 2, 0.1f, 2}, {1, 67, 9, 3, 40, 20, 0.5f, 3},
        {1, 200, 0, 1, 32, 2, 0.9f, 1},
    };
    int left = 0;
    for (int i = 0; i < (int)(sizeof shapes / sizeof *shapes); i++) {
        left += !covered(shapes[i].dim_head);
        check_types(shapes[i], i);
    }
    assert_int_equal(left, LEFT);
    (void)state;
}

// With all values 1, an output is the share of weight that survived, over 1 - p: 1 on average.
static void test_dropout_share(void **state) {
    problem t;
    problem_make(&t, (shape){2, 100, 100, 2, 8, 0, 0.3f, 2}, PA_TYPE_F32);
    for (int i = 0; i < t.vp.rows * (int)t.vp.ld; i++) ((float *)t.vp.data)[i] = 1;
    for (int i = 0; i < t.vn.rows * (int)t.vn.ld; i++) ((float *)t.vn.data)[i] = 1;
    for (int i = 0; i < TABLES; i++) {
        const pa_ops *ops = table(i);
        if (!ops) continue;
        tensor got[RESULTS];
        run(ops, &t, got);
        double sum = 0;
        for (int r = 0; r < got[O].rows; r++)
            for (int h = 0; h < 2; h++) sum += (double)((float *)got[O].data)[r * got[O].ld + 8 * h];
        // Equal weights of 101..200 keys, 400 outputs: the deviation of the mean is at most sqrt(0.3 / 0.7 / 101 / 400)
        // = 0.0033.
        assert_true(fabs(sum / 400 - 1) < 4 * 0.0033);
        for (int r = 0; r < RESULTS; r++) tensor_free(&got[r]);
    }
    problem_free(&t);
    (void)state;
}

// A later key or value changes no earlier output, bit by bit; a NaN reaches every later output, and returns.
static void test_causality_and_nan(void **state) {
    const int N = 150, K = 11, D = 64, at = 70;
    for (int type = half_only ? 2 : 0; type < 1 + HALVES; type++) {
        problem t;
        half = type == 2;
        problem_make(&t, (shape){1, N, K, 1, D, 2, 0, 2}, type ? PA_TYPE_BF16 : PA_TYPE_F32);
        for (int i = 0; i < TABLES; i++) {
            const pa_ops *ops = table(i);
            if (!ops) continue;
            tensor before[RESULTS], after[RESULTS], nan[RESULTS];
            run(ops, &t, before);
            for (int d = 0; d < D; d++) {
                put(t.type, t.kn.data, at * t.a.ldkv + d, 90);
                put(t.type, t.vn.data, at * t.a.ldkv + d, 50);
            }
            run(ops, &t, after);
            assert_memory_equal(before[O].data, after[O].data, (size_t)(at * t.a.ldo) * pa_size(t.type));
            assert_memory_equal(before[LSE].data, after[LSE].data, at * sizeof(float));
            put(t.type, t.kn.data, at * t.a.ldkv + 3, NAN);
            run(ops, &t, nan);
            assert_memory_equal(before[O].data, nan[O].data, (size_t)(at * t.a.ldo) * pa_size(t.type));
            for (int n = at; n < N; n++) {
                assert_true(isnan(get(t.type, nan[O].data, n * t.a.ldo)));
                assert_true(isnan(get(t.type, nan[DQ].data, n * t.a.ldq)));
            }
            for (int r = 0; r < RESULTS; r++) tensor_free(&before[r]), tensor_free(&after[r]), tensor_free(&nan[r]);
            for (int d = 0; d < D; d++) {
                put(t.type, t.kn.data, at * t.a.ldkv + d, t.kn.number[at * D + d]);
                put(t.type, t.vn.data, at * t.a.ldkv + d, t.vn.number[at * D + d]);
            }
        }
        problem_free(&t);
    }
    (void)state;
}

#ifndef PA_TEST_CUDA
// A cache holding a sequence's keys, the last of them put there by the operation, gives its last query what the whole
// computation gives.
static void check_decode(shape s, pa_type type) {
    const int S = s.batch, H = s.heads, D = s.dim_head, length = s.kept + s.latents, capacity = length + 9;
    problem t;
    problem_make(&t, s, type);
    float *q = calloc((size_t)(S * H * D), sizeof(float)), *o = calloc((size_t)(S * H * D), sizeof(float));
    void *cache[2];
    float *own[2];
    const ptrdiff_t I = (ptrdiff_t)H * D;
    const int32_t filled = length - 1;
    for (int i = 0; i < 2; i++) {
        own[i] = calloc((size_t)(S * H * D), sizeof(float));
        cache[i] = malloc((size_t)(S * H * capacity * D) * 4);
        memset(cache[i], 0xff, (size_t)(S * H * capacity * D) * 4);
        tensor *kept = i ? &t.vp : &t.kp, *latent = i ? &t.vn : &t.kn;
        for (int b = 0; b < S; b++)
            for (int h = 0; h < H; h++)
                for (int m = 0; m < length; m++)
                    for (int d = 0; d < D; d++) {
                        const double x = row_of(kept->number, latent->number, &s, b, m)[h * D + d];
                        if (m < filled) put(type, cache[i], (((ptrdiff_t)b * H + h) * capacity + m) * D + d, x);
                        own[i][b * I + h * D + d] = (float)x; // ends as the last row
                    }
    }
    double *exact = calloc((size_t)(S * H * D), sizeof(double)), *near = calloc((size_t)(S * H * D), sizeof(double));
    double *got = calloc((size_t)(S * H * D), sizeof(double));
    for (int i = 0; i < S * H * D; i++) {
        size_t at = ((size_t)(i / (H * D)) * (size_t)s.latents + (size_t)s.latents - 1) * (size_t)(H * D) +
                    (size_t)(i % (H * D));
        q[i] = (float)t.q.number[at];
        exact[i] = t.exact[O][at], near[i] = t.plain[O][at];
    }
    omp_set_num_threads(s.threads);
    for (int i = 0; i < TABLES; i++) {
        const pa_ops *ops = table(i);
        if (!ops) continue;
        size_t bytes = ops->decode_work(NULL, S, H, D, capacity);
        unsigned char *work = malloc(bytes + 64);
        memset(work, 0xff, bytes + 64);
        ops->attn_decode(NULL, &(pa_attn_decode){.type = type,
                                                 .streams = S,
                                                 .heads = H,
                                                 .dim_head = D,
                                                 .length = &filled,
                                                 .capacity = capacity,
                                                 .scale = t.a.scale,
                                                 .ldq = I,
                                                 .ldkv = I,
                                                 .q = q,
                                                 .k_new = own[0],
                                                 .v_new = own[1],
                                                 .k = cache[0],
                                                 .v = cache[1],
                                                 .o = o,
                                                 .work = work});
        for (size_t j = 0; j < 64; j++) assert_int_equal(work[bytes + j], 0xff);
        for (int j = 0; j < S * H * D; j++) got[j] = (double)o[j];
        size_t n = (size_t)(S * H * D);
        double bound = 2 * largest(near, exact, n) + 0x1p-24 * (1 + t.score) * largest(exact, NULL, n),
               error = largest(got, exact, n);
        if (!(error <= bound))
            fail_msg("%s decode length %d D %d: off by %g, allowed %g", isa_name[i], length, D, error, bound);
        free(work);
    }
    free(q), free(o), free(own[0]), free(own[1]), free(cache[0]), free(cache[1]), free(exact), free(near), free(got);
    problem_free(&t);
}

static void test_decode(void **state) {
    static const int lengths[] = {1, 2, 15, 16, 17, 63, 64, 65, 255, 256, 257, 600}, dims[] = {64, 8, 40, 128, 77};
    for (int i = 0; i < 12; i++) {
        shape s = {1 + i % 3, 1, lengths[i] - 1, 1 + i % 2, dims[i % 5], i % 4 == 3 ? 60 : 2, 0, 1 + i % 3};
        check_decode(s, PA_TYPE_F32);
        check_decode(s, PA_TYPE_BF16);
    }
    (void)state;
}
#endif

int main(int argc, char **argv) {
    half_only = argc > 1 && !strcmp(argv[1], "fp16");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_edge_sizes),
        cmocka_unit_test(test_work_serves_all_smaller_calls),
        cmocka_unit_test(test_special_shapes),
        cmocka_unit_test(test_dropout_share),
#ifndef PA_TEST_CUDA
        cmocka_unit_test(test_decode),
#endif
        cmocka_unit_test(test_causality_and_nan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
