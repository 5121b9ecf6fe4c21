// test_cuda_ops.c: the CUDA kernels, in the emulator or on a GPU, against float64 at the small shapes of the case table
// (bench/cases.h).
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bench/cases.h"
#include "cpu/simd.h"
#include "cuda/device.h"
#include "cuda/half.h"
#include "tests/support/cuda_ops.h"

enum { S3_ATTENTION = 4 }; // rows of the case table

// Decoding and products have other operands here, and are tested through the whole model. Attention reads rows of 16
// bytes: the backend refuses a model with heads of other sizes (test_cuda_programs.py), as s3's of 20 dims are.
static bool covered(const case_row *row, int *left) {
    if (row->kind == CASE_ATTENTION_DECODE || row->kind == CASE_GEMV || row->kind == CASE_MATMUL) return false;
    if ((row->kind != CASE_ATTENTION_FWD && row->kind != CASE_ATTENTION_BWD) || row->dim_head % 8 == 0) return true;
    assert_int_equal(row->dim_head, 20);
    return ++*left, false;
}

static int check_type(pa_type type, cuda_ops_half half, const case_model *models, int n) {
    const pa_ops *ops = cuda_ops_table(half);
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
                printf("%s%s: %s is off by %.3g of what rounding allows (%.3g of the largest)\n", row[j].name,
                       half ? " as fp16" : "", e.output, e.allowed, e.error);
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
    assert_int_equal(check_type(PA_TYPE_F32, CUDA_OPS_BF16, case_small, 4), 0);
}
static void bf16_is_float64_but_for_rounding(void **state) {
    (void)state;
    assert_int_equal(check_type(PA_TYPE_BF16, CUDA_OPS_BF16, case_small, 4), 0);
}

// Dropout drops what the CPU drops: a half and rows of any width.
static void dropout_is_the_cpus(void **state) {
    (void)state;
    enum { rows = 6, sequence = 3, most = 40 };
    const uint64_t window[2] = {5, 77};
    pa_dropout d = {.p = 0.3f, .seed = 11, .window = window, .layer = 2};
    for (int F = 37; F <= most; F += 3) {
        float h[rows * most], g[2][rows * most];
        int dropped = 0;
        for (int i = 0; i < rows * F; i++) h[i] = (float)(1 + i % 7), g[0][i] = g[1][i] = 1;
        pa_activate a[2];
        for (int i = 0; i < 2; i++)
            a[i] = (pa_activate){
                .kind = PA_SQRELU, .g = g[i], .h = h, .rows = rows, .F = F, .dropout = &d, .sequence = sequence};
        cpu_ops_select("generic")->activation_fwd(NULL, &a[0]);
        cuda_ops_table(CUDA_OPS_BF16)->activation_fwd(NULL, &a[1]);
        for (int i = 0; i < rows * F; i++) assert_int_equal(g[0][i] == 0, g[1][i] == 0), dropped += g[0][i] == 0;
        assert_true(dropped > rows * F / 6 && dropped < rows * F / 2);
        for (int i = 0; i < rows * F; i++) g[0][i] = g[1][i] = 1;
        cpu_ops_select("generic")->activation_bwd(NULL, &a[0]);
        cuda_ops_table(CUDA_OPS_BF16)->activation_bwd(NULL, &a[1]);
        for (int i = 0; i < rows * F; i++)
            assert_true(fabsf(g[0][i] - g[1][i]) <= 4 * 0x1p-23f * fabsf(g[0][i])); // four roundings
    }
}

static float number(bool half, uint16_t bits) {
    return half ? cuda_half_to_float(bits) : bf16_to_float(bits);
}

// GELU and its derivative at every number of both types, up to where the integral's lower tail leaves the normal
// numbers, by the rule of cases_check.c: the integral's parts within 12 + 2 x^2 roundings of float32, then one of the
// type, which is half a step where it is least.
static void gelu_is_its_integral(void **state) {
    (void)state;
    enum { most = 1 << 16 };
    static uint16_t h[most], g[2][most];
    for (int half = 0; half < 2; half++) {
        int n = 0;
        for (uint32_t bits = 0; bits < most; bits++)
            if (fabsf(number(half, (uint16_t)bits)) < 13) h[n] = (uint16_t)bits, g[1][n++] = half ? 0x3c00 : 0x3f80;
        const pa_ops *ops = cuda_ops_table(half ? CUDA_OPS_HALF : CUDA_OPS_BF16);
        pa_activate a = {.type = PA_TYPE_BF16, .kind = PA_GELU, .g = g[0], .h = h, .rows = 1, .F = n, .sequence = 1};
        ops->activation_fwd(NULL, &a);
        a.g = g[1];
        ops->activation_bwd(NULL, &a);
        for (int i = 0; i < n; i++) {
            const double x = (double)number(half, h[i]), phi = erfc(-x / sqrt(2)) / 2,
                         slope = x * exp(-x * x / 2) / sqrt(2 * acos(-1));
            const double exact[2] = {x * phi, phi + slope}, parts[2] = {fabs(x) * phi, phi + fabs(slope)};
            for (int back = 0; back < 2; back++) {
                const double found = (double)number(half, g[back][i]), stored = half ? 0x1p-11 : 0x1p-8,
                             least = half ? 0x1p-25 : 0x1p-126;
                if (!(fabs(found - exact[back]) <=
                      (12 + 2 * x * x) * 0x1p-24 * parts[back] + stored * fabs(exact[back]) + least))
                    fail_msg("%s of %.9g: expected %.9g, found %.9g", back ? "derivative" : "GELU", x, exact[back],
                             found);
            }
        }
        assert_true(n > most / 2);
    }
}

// Small multiples of 1/8 that every type holds, drawn by i.
static float eighths(size_t i, int most) {
    return (float)((int)(i * 2654435761u >> 7 & 0xffff) % (2 * most + 1) - most) / 8;
}
static void put(pa_type type, void *to, size_t i, float x) {
    if (type == PA_TYPE_F32)
        ((float *)to)[i] = x;
    else
        ((uint16_t *)to)[i] = type == PA_TYPE_F16 ? cuda_half_from_float(x) : bf16_from_float(x);
}
static void *device(const void *from, size_t bytes) {
    void *p;
    assert_int_equal(cudaMalloc(&p, bytes + 16), 0);
    assert_int_equal(cudaMemcpy(p, from, bytes, cudaMemcpyHostToDevice), 0);
    return p;
}
static void fetch(void *to, const void *from, size_t bytes) {
    assert_int_equal(cudaDeviceSynchronize(), 0);
    assert_int_equal(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), 0);
}

// Products of few rows: numbers that float32 adds up without rounding, so that every element must be read once. Widths
// that take each of the kernel's ways, 8 bits as a fourth type.
static void products_of_few_rows_are_exact(void **state) {
    (void)state;
    enum { out = 7, most = 3880, streams = 9 };
    static const int width[] = {8, 37, 264, 1024, most};
    static float x[streams * most], y[streams * out], wide[out * most];
    static int8_t narrow[out * most];
    const float scale[out] = {1, 2, 0.5f, 4, 1, 8, 2}, bias[out] = {1, -2, 3, 0, 0.125f, 7, -1};
    for (int type = 0; type <= 3; type++)
        for (size_t i = 0; i < sizeof width / sizeof *width; i++)
            for (int S = 1; S <= streams; S += 4) {
                const int in = width[i];
                for (int j = 0; j < S * in; j++) x[j] = eighths((size_t)j, 9);
                for (int j = 0; j < out * in; j++) {
                    const float w = eighths((size_t)j + 7, 8);
                    narrow[j] = (int8_t)(w * 8);
                    if (type < 3) put((pa_type)type, wide, (size_t)j, w);
                }
                const size_t count = (size_t)(out * in);
                void *a = device(x, sizeof x),
                     *w = type < 3 ? device(wide, count * pa_size((pa_type)type)) : device(narrow, count);
                void *b = device(bias, sizeof bias), *c = device(scale, sizeof scale), *z = device(y, sizeof y);
                pa_device null_stream = {.stream = 0};
                const pa_gemv g = {.type = type < 3 ? (pa_type)type : PA_TYPE_F32,
                                   .y = z,
                                   .x = a,
                                   .w = w,
                                   .scale = c,
                                   .bias = b,
                                   .streams = S,
                                   .in = in,
                                   .out = out};
                (type < 3 ? cuda_gemv : cuda_gemv_int8)(&null_stream, &g);
                fetch(y, z, sizeof y);
                for (int r = 0; r < S * out; r++) {
                    double sum = 0;
                    for (int j = 0; j < in; j++) sum += (double)x[r / out * in + j] * (double)narrow[r % out * in + j];
                    assert_true((double)y[r] ==
                                (double)bias[r % out] + (type < 3 ? sum / 8 : sum * (double)scale[r % out]));
                }
                cudaFree(a), cudaFree(w), cudaFree(b), cudaFree(c), cudaFree(z);
            }
}

// What a product's result is to be, in double, and how far rounding may take it from there.
typedef struct {
    double value, off;
} bounded;

static bounded around_product(const pa_gemv *g, const float *x, const int8_t *w, double scale, double bias, double y) {
    double mean = 0, squares = 0, sum = 0, terms = 0;
    for (int i = 0; i < g->in; i++) mean += (double)x[i] / g->in;
    for (int i = 0; i < g->in; i++) squares += ((double)x[i] - mean) * ((double)x[i] - mean) / g->in;
    for (int i = 0; i < g->in; i++) {
        double b = (double)x[i];
        if (g->norm_w) b = (b - mean) / sqrt(squares + 1e-5) * (double)g->norm_w[i] + (double)g->norm_b[i];
        sum += b * w[i] * scale, terms += fabs(b * w[i] * scale);
    }
    bounded r = {sum + bias, ((sqrt(g->in) + 24) * terms + 2 * fabs(bias)) * 0x1p-24};
    if (g->activates && g->kind == PA_GELU) {
        const double v = r.value, phi = erfc(-v / sqrt(2)) / 2; // GELU's slope is at most 1.13
        r.off = 1.2 * r.off + 0x1p-24 * fabs(v) * (4 + (12 + 2 * v * v) * fmin(phi, 1 - phi));
        r.value = v * phi;
    } else if (g->activates) {
        r.off = 2 * fabs(r.value) * r.off + r.off * r.off;
        r.value = r.value > 0 ? r.value * r.value : 0;
    }
    r.off += 2 * 0x1p-24 * (fabs(r.value) + fabs(y));
    r.value += g->adds ? y : 0;
    return r;
}

// Layer norm before, activation and residual after a product of few rows, each with and without the others.
static void what_stands_around_a_product(void **state) {
    (void)state;
    enum { out = 7, most = 1024, streams = 9, variants = 12 };
    static const int width[] = {8, 37, 264, most};
    static float x[streams * most], y[streams * out], found[streams * out], norm[2][most], wide[out * most];
    static int8_t narrow[out * most];
    const float scale[out] = {1, 2, 0.5f, 4, 1, 8, 2}, bias[out] = {1, -2, 3, 0, 0.125f, 7, -1};
    for (int j = 0; j < streams * most; j++) x[j] = 1 + eighths((size_t)j, 9);
    for (int j = 0; j < out * most; j++) narrow[j] = (int8_t)(8 * eighths((size_t)j + 7, 8) / 4);
    for (int j = 0; j < most; j++) norm[0][j] = 1 + eighths((size_t)j + 1, 4), norm[1][j] = eighths((size_t)j + 5, 4);
    for (int j = 0; j < streams * out; j++) y[j] = eighths((size_t)j + 2, 30);
    for (int k = 0; k < 4 * 4 * 3 * variants; k++) {
        const int type = k % 4, in = width[k / 4 % 4], S = 1 + 4 * (k / 16 % 3), variant = k / 48;
        for (int j = 0; type < 3 && j < out * in; j++) put((pa_type)type, wide, (size_t)j, (float)narrow[j] / 8);
        void *w = type < 3 ? device(wide, (size_t)(out * in) * pa_size((pa_type)type)) : device(narrow, sizeof narrow);
        void *a = device(x, sizeof x), *b = device(bias, sizeof bias), *c = device(scale, sizeof scale);
        void *z = device(y, sizeof y), *n[2] = {device(norm[0], sizeof *norm), device(norm[1], sizeof *norm)};
        pa_device null_stream = {.stream = 0};
        pa_gemv g = {.type = type < 3 ? (pa_type)type : PA_TYPE_F32, .y = z, .x = a, .w = w, .scale = c, .streams = S};
        g.in = in, g.out = out;
        g.norm_w = variant % 2 ? n[0] : NULL, g.norm_b = variant % 2 ? n[1] : NULL;
        g.adds = variant / 2 % 2;
        g.bias = g.adds ? b : NULL;
        g.activates = variant / 4 > 0, g.kind = variant / 4 == 1 ? PA_GELU : PA_SQRELU;
        (type < 3 ? cuda_gemv : cuda_gemv_int8)(&null_stream, &g);
        fetch(found, z, sizeof found);
        if (g.norm_w) g.norm_w = norm[0], g.norm_b = norm[1];
        for (int r = 0; r < S * out; r++) {
            const int o = r % out;
            const bounded e = around_product(&g, x + r / out * in, narrow + o * in, type < 3 ? 0.125 : (double)scale[o],
                                             g.bias ? (double)bias[o] : 0, (double)y[r]);
            if (!(fabs((double)found[r] - e.value) <= e.off))
                fail_msg("type %d, %d columns, %d streams, variant %d, number %d: expected %.9g, found %.9g, %.3g off",
                         type, in, S, variant, r, e.value, (double)found[r], fabs((double)found[r] - e.value) / e.off);
        }
        cudaFree(a), cudaFree(b), cudaFree(c), cudaFree(w), cudaFree(z), cudaFree(n[0]), cudaFree(n[1]);
    }
}

static double get(pa_type type, const void *from, size_t i) {
    return (double)(type == PA_TYPE_F32 ? ((const float *)from)[i]
                                        : number(type == PA_TYPE_F16, ((const uint16_t *)from)[i]));
}

// A head normalised (norm NULL: not) and turned by angle (half, 2), in double.
static void prepare(double *to, const float *head, const float *norm, const float *angle, int D, int half) {
    double squares = 0;
    for (int d = 0; d < D; d++) squares += (double)head[d] * (double)head[d] / D;
    for (int d = 0; d < D; d++) to[d] = (double)head[d] * (norm ? (double)norm[d] / sqrt(squares + 1e-6) : 1);
    for (int d = 0; d < half; d++) {
        const double c = (double)angle[2 * d], s = (double)angle[2 * d + 1], p = to[d], q = to[d + half];
        to[d] = p * c - q * s, to[d + half] = q * c + p * s;
    }
}

enum { POSITIONS = 5 };
typedef struct {
    pa_type type;
    int D, length, capacity;
    bool prepares; // norm and rotation of heads
} decode_shape;

// Attention of one query against a cache, twice on the same work. What lies behind the last row is no number.
// Exponents, of base 2, are off by the scores' rounding, 2^-24 of their terms' magnitude each, 8 more where heads are
// prepared; sums of n by sqrt(n) + 8 roundings.
static void decode_case(decode_shape t) {
    enum { S = 2, H = 2 };
    const pa_type type = t.type;
    const int D = t.D, length = t.length, capacity = t.capacity, half = t.prepares ? D / 4 : 0;
    const size_t I = (size_t)(H * D), each = (size_t)capacity * (size_t)D, size = pa_size(type), all = S * H * each;
    float *row = malloc(S * 3 * I * 4), *found = malloc(S * I * 4), *again = malloc(S * I * 4),
          *table = calloc(POSITIONS, (size_t)D * 4), norm[2][128], scale = (float)(1 / sqrt(D));
    const int32_t position[S] = {4, 1};
    char *cache[2] = {malloc(all * size), malloc(all * size)};
    double *p = malloc(sizeof *p * (size_t)(length + 1)), q[128], key[128];
    assert_true(row && found && again && table && cache[0] && cache[1] && p);
    for (size_t i = 0; i < S * 3 * I; i++) row[i] = eighths(i + 3, 12);
    for (int i = 0; i < POSITIONS * half; i++) table[2 * i] = (float)cos(i), table[2 * i + 1] = (float)sin(i);
    for (size_t i = 0; i < 256; i++) norm[i / 128][i % 128] = 1 + eighths(i, 4);
    memset(cache[0], 0xff, all * size), memset(cache[1], 0xff, all * size);
    for (size_t i = 0; i < all; i++)
        for (int kv = 0; kv < 2 && i % each < (size_t)length * (size_t)D; kv++)
            put(type, cache[kv], i, eighths(2 * i + (size_t)kv, 12));
    void *r = device(row, S * 3 * I * 4), *k = device(cache[0], all * size), *v = device(cache[1], all * size),
         *o = device(found, S * I * 4), *where = device(position, sizeof position);
    void *angles = device(table, POSITIONS * (size_t)D * 4), *norms = device(norm, sizeof norm);
    void *n = device(&length, sizeof length), *zeros = calloc(1, cuda_attn_decode_work(S, H, D));
    void *work = device(zeros, cuda_attn_decode_work(S, H, D));
    for (int turn = 0; turn < 2; turn++) {
        float *from = r, *w = norms;
        pa_device null_stream = {.stream = 0};
        pa_attn_decode a = {.type = type,
                            .streams = S,
                            .heads = H,
                            .dim_head = D,
                            .length = n,
                            .capacity = capacity,
                            .scale = scale,
                            .ldq = (ptrdiff_t)(3 * I),
                            .ldkv = (ptrdiff_t)(3 * I),
                            .q = from,
                            .k_new = from + I,
                            .v_new = from + 2 * I,
                            .k = k,
                            .v = v,
                            .o = o,
                            .work = work};
        if (t.prepares) a.q_norm = w, a.k_norm = w + 128, a.position = where, a.table = angles, a.dims = 2 * half;
        cuda_attn_decode(&null_stream, &a);
        fetch(turn ? again : found, o, S * I * 4);
    }
    assert_memory_equal(found, again, S * I * 4);
    fetch(cache[0], k, all * size), fetch(cache[1], v, all * size);
    const double stored = type == PA_TYPE_F32 ? 0x1p-24 : type == PA_TYPE_BF16 ? 0x1p-8 : 0x1p-11;
    for (size_t head = 0; head < S * H; head++) {
        const float *from = row + head / H * 3 * I + head % H * (size_t)D,
                    *angle = table + (size_t)(position[head / H] * half * 2);
        const size_t last = head * each + (size_t)(length * D);
        double top = -INFINITY, sum = 0, terms = 0, largest = 0;
        prepare(q, from, t.prepares ? norm[0] : NULL, angle, D, half);
        prepare(key, from + I, t.prepares ? norm[1] : NULL, angle, D, half);
        for (int d = 0; d < D; d++) largest = fmax(largest, fabs(key[d]));
        for (int d = 0; d < D; d++) { // what was put there: the key that scores are of
            const double is = get(type, cache[0], last + (size_t)d);
            if (!(fabs(is - key[d]) <= stored * fabs(key[d]) + (t.prepares ? 16 * 0x1p-24 * largest : 0)))
                fail_msg("D %d, %d of %d rows: key %d is %g, expected %g", D, length, capacity, d, is, key[d]);
            assert_true(get(type, cache[1], last + (size_t)d) == (double)from[2 * I + (size_t)d]);
        }
        for (int m = 0; m <= length; m++) {
            double s = 0, x = 0;
            for (int d = 0; d < D; d++) {
                const double product = q[d] * get(type, cache[0], head * each + (size_t)(m * D + d));
                s += product, x += fabs(product);
            }
            p[m] = s * (double)scale, top = fmax(top, p[m]), terms = fmax(terms, x * (double)scale);
        }
        for (int m = 0; m <= length; m++) sum += p[m] = exp(p[m] - top);
        for (int d = 0; d < D; d++) {
            double exact = 0;
            for (int m = 0; m <= length; m++)
                exact += p[m] / sum * get(type, cache[1], head * each + (size_t)(m * D + d));
            const double off = fabs((double)found[head * (size_t)D + (size_t)d] - exact),
                         allowed = ((t.prepares ? 10 : 2) * terms + sqrt(length) + 8) * 0x1p-24 * 1.5;
            if (!(off <= allowed))
                fail_msg("D %d, %d of %d rows%s: off by %g, allowed %g", D, length, capacity,
                         t.prepares ? ", prepared" : "", off, allowed);
        }
    }
    cudaFree(r), cudaFree(k), cudaFree(v), cudaFree(o), cudaFree(n), cudaFree(work);
    cudaFree(where), cudaFree(angles), cudaFree(norms);
    free(row), free(found), free(again), free(table), free(cache[0]), free(cache[1]), free(p), free(zeros);
}
static void attention_to_a_cache(void **state) {
    (void)state;
    static const int dims[] = {8, 40, 64, 128}, lengths[] = {0, 1, 130, 699};
    for (int i = 0; i < 3 * 16 * 2; i++)
        decode_case((decode_shape){(pa_type)(i / 32), dims[i / 4 % 4], lengths[i % 4], 700, i / 16 % 2});
    decode_case((decode_shape){PA_TYPE_BF16, 64, 3000, 9000, false}); // as many parts as there can be
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(float32_is_float64_but_for_rounding),
        cmocka_unit_test(bf16_is_float64_but_for_rounding),
        cmocka_unit_test(dropout_is_the_cpus),
        cmocka_unit_test(gelu_is_its_integral),
        cmocka_unit_test(products_of_few_rows_are_exact),
        cmocka_unit_test(what_stands_around_a_product),
        cmocka_unit_test(attention_to_a_cache),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
