// test_golden.c: the reference and a backend against what perceiver_ar_pytorch on PyTorch computes
// (tests/golden/make_golden.py).
//
// The rule: a float32 backend may be GOLDEN_FLOAT32 times as far from PyTorch's float64 result as PyTorch's own float32
// is, and a bf16 backend twice as far as PyTorch's bf16 autocast is, as may fp16, which is finer, where there is no
// bf16; each distance the Euclidean norm over one tensor. A tensor of a few elements can be near by luck: PyTorch's
// distance counts as at least its typical one, the root mean square over the tensors of that kind of distance over
// norm, times the tensor's norm; and as at least one rounding of every element.
#include "host/files/safetensors.h"
#include "tests/support/fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { GOLDEN_FLOAT32 = 4, GOLDEN_BF16 = 2 };
static const char *const CASES[] = {"default", "dropped", "short"};
enum { CASE_COUNT = sizeof CASES / sizeof *CASES };

typedef struct {
    pa_st *st;
    const char *name;
    fixture f;
    int scored;
    int wrong; // comparisons that failed
} golden;

static const pa_tensor *find(const golden *g, const char *kind, const char *name) {
    char path[160];
    snprintf(path, sizeof path, "%s/%s%s", g->name, kind, name);
    return pa_st_find(g->st, path);
}

static const pa_tensor *need(const golden *g, const char *kind, const char *name) {
    const pa_tensor *t = find(g, kind, name);
    if (!t) fail_msg("golden.safetensors has no %s/%s%s", g->name, kind, name);
    return t;
}

static size_t count_of(const pa_tensor *t) {
    return t->bytes / pa_dtype_size(t->dtype);
}

// As float64; free it.
static double *values(const pa_tensor *t) {
    size_t n = count_of(t);
    if (t->dtype == PA_F32) return fixture_widen(t->data, n);
    assert_int_equal(t->dtype, PA_F64);
    double *x = fixture_doubles(n);
    memcpy(x, t->data, n * sizeof *x);
    return x;
}

static void load(golden *g, pa_st *st, const char *name) {
    memset(g, 0, sizeof *g);
    g->st = st;
    g->name = name;
    const int64_t *s = need(g, "shape", "")->data;
    pa_model m = pa_model_default();
    m.context = (int)s[0];
    m.prefix = (int)s[1];
    m.dim = (int)s[2];
    m.heads = (int)s[3];
    m.dim_head = (int)s[4];
    m.depth = (int)s[5];
    m.perceive_depth = (int)s[6];
    m.ff_mult = (int)s[7];
    m.vocab = (int)s[8];
    fixture_init(&g->f, &m, 0);
    const pa_tensor *keep = find(g, "keep", ""), *target = need(g, "target", "");
    g->f.batch =
        (pa_batch){.batch = (int)s[9], .length = (int)s[10], .latents = (int)s[11], .kept = (int)(s[10] - s[11])};
    g->f.batch.input = need(g, "input", "")->data;
    g->f.batch.target = target->data;
    if (keep) {
        g->f.batch.keep = keep->data;
        g->f.batch.kept = (int)keep->shape[1];
    }
    for (size_t i = 0; i < count_of(target); i++) g->scored += g->f.batch.target[i] < m.vocab - 1;
    for (int t = 0; t < g->f.params.count; t++) {
        const pa_param *row = &g->f.params.row[t];
        const pa_tensor *w = need(g, "param/", row->name);
        assert_int_equal(w->rank, row->rank);
        for (int d = 0; d < w->rank; d++) assert_int_equal(w->shape[d], row->shape[d]);
        double *x = values(w);
        memcpy(g->f.w + row->offset, x, row->size * sizeof *x);
        free(x);
    }
}

// ours[count] against the tensor `kind``name`: at most `times` the distance stored as `error`. typical: see above.
static void compare(golden *g, const char *kind, const char *name, const char *error, double times, double typical,
                    const double *ours) {
    const pa_tensor *t = need(g, kind, name);
    char at[100];
    snprintf(at, sizeof at, "%s%s", kind, name);
    double theirs = *(const double *)need(g, at, error)->data;
    double *truth = values(t);
    double distance = fixture_distance(ours, truth, count_of(t)), norm = fixture_norm(truth, count_of(t));
    double allowed = times * fmax(theirs, norm * fmax(typical, 0x1p-24));
    if (!(distance <= allowed)) {
        print_error("%s/%s: distance %.3g of norm %.3g, PyTorch's %s %.3g, allowed %.3g\n", g->name, at, distance, norm,
                    error, theirs, allowed);
        g->wrong++;
    }
    free(truth);
}

static void compare_all(golden *g, const char *kind, const char *error, double times, const double *w) {
    double squares = 0;
    for (int t = 0; t < g->f.params.count; t++) {
        char at[100];
        snprintf(at, sizeof at, "%s%s", kind, g->f.params.row[t].name);
        const pa_tensor *stored = need(g, at, "");
        double *truth = values(stored),
               share = *(const double *)need(g, at, error)->data / fixture_norm(truth, count_of(stored));
        squares += share * share;
        free(truth);
    }
    double typical = sqrt(squares / g->f.params.count);
    for (int t = 0; t < g->f.params.count; t++)
        compare(g, kind, g->f.params.row[t].name, error, times, typical, w + g->f.params.row[t].offset);
}

// Float64 against float64: some hundred additions of 2^-53 each stay below 1e-13; 1e-10 is what a different formula
// would exceed.
static void reference_equals_pytorch(void **state) {
    pa_st *st = *state;
    for (int i = 0; i < CASE_COUNT; i++) {
        golden g;
        load(&g, st, CASES[i]);
        const pa_tensor *t = need(&g, "logits", "");
        double *logits = fixture_doubles(count_of(t)), *truth = values(t);
        ref_loss loss = ref_forward(&g.f.params, g.f.w, &g.f.batch, 0, NULL, logits, NULL);
        assert_int_equal(loss.scored, g.scored);
        assert_true(fixture_distance(logits, truth, count_of(t)) <= 1e-10 * fixture_norm(truth, count_of(t)));
        assert_true(fabs(loss.nats / loss.scored - *(const double *)need(&g, "loss", "")->data) <= 1e-10);
        free(logits);
        free(truth);
        fixture_clear(&g.f);
    }
}

static void no_tensor_is_left_out(void **state) {
    pa_st *st = *state;
    size_t parameters = 0, rows = 0;
    for (size_t i = 0; i < pa_st_count(st); i++) parameters += strstr(pa_st_at(st, i)->name, "/param/") != NULL;
    for (int i = 0; i < CASE_COUNT; i++) {
        golden g;
        load(&g, st, CASES[i]);
        rows += (size_t)g.f.params.count;
        fixture_clear(&g.f);
    }
    assert_int_equal(parameters, rows);
}

// Logits, loss and gradients in one precision.
static void check_case(golden *g, const pa_backend *be, pa_precision precision, const char *error, double times) {
    pa_err err;
    pa_context *c =
        fixture_open(be, &g->f, (pa_open){.precision = precision, .max_batch = g->f.batch.batch, .training = true});
    size_t n = count_of(need(g, "logits", ""));
    float *logits = calloc(n, sizeof *logits);
    assert_non_null(logits);
    double sum = 0;
    fixture_ok(be->loss(c, &g->f.batch, &sum, &(pa_scores){.logits = logits}, &err), &err);
    double *ours = fixture_widen(logits, n), mean = sum / g->scored;
    compare(g, "logits", "", error, times, 0, ours);
    compare(g, "loss", "", error, times, 0, &mean);
    fixture_ok(be->loss_grad(c, &g->f.batch, 1.0f / (float)g->scored, &sum, &err), &err);
    double *grad = fixture_read(be, c, &g->f.params, PA_GRAD);
    compare_all(g, "grad/", error, times, grad);
    free(logits);
    free(ours);
    free(grad);
    be->close(c);
}

static void check_precision(pa_st *st, pa_precision precision, const char *error, double times) {
    int wrong = 0;
    for (int i = 0; i < CASE_COUNT; i++) {
        golden g;
        load(&g, st, CASES[i]);
        if (fixture_takes(fixture_backend(), &g.f.params.model))
            check_case(&g, fixture_backend(), precision, error, times);
        wrong += g.wrong;
        fixture_clear(&g.f);
    }
    assert_int_equal(wrong, 0);
}

static void float32_is_near_pytorch(void **state) {
    check_precision(*state, PA_PRECISION_FP32, "/error", GOLDEN_FLOAT32);
}

static void sixteen_bits_are_near_pytorch(void **state) {
    check_precision(*state, fixture_16_bits(fixture_backend()), "/error_bf16", GOLDEN_BF16);
}

static void three_steps(golden *g, const char *kind, bool decoupled, double decay) {
    const pa_backend *be = fixture_backend();
    pa_err err;
    pa_context *c =
        fixture_open(be, &g->f, (pa_open){.precision = PA_PRECISION_FP32, .max_batch = 2, .training = true});
    for (int step = 1; step <= 3; step++) {
        pa_update u = {.lr = 1e-2,
                       .beta1 = 0.9,
                       .beta2 = 0.999,
                       .eps = 1e-8,
                       .weight_decay = decay,
                       .decoupled = decoupled,
                       .step = step};
        double sum, norm;
        fixture_ok(be->loss_grad(c, &g->f.batch, 1.0f / (float)g->scored, &sum, &err), &err);
        fixture_ok(be->update(c, &u, &norm, NULL, &err), &err);
    }
    double *w = fixture_read(be, c, &g->f.params, PA_PARAM);
    compare_all(g, kind, "/error", GOLDEN_FLOAT32, w);
    free(w);
    be->close(c);
}

static void optimisers_step_as_pytorch(void **state) {
    golden g;
    load(&g, *state, "default");
    three_steps(&g, "adam/", false, 0);
    three_steps(&g, "adamw/", true, 0.1);
    assert_int_equal(g.wrong, 0);
    fixture_clear(&g.f);
}

static int most_probable(const float *logits, int V) {
    int best = 0;
    for (int j = 1; j < V; j++)
        if (logits[j] > logits[best]) best = j;
    return best;
}

static void greedy_continuation_is_the_same(void **state) {
    const pa_backend *be = fixture_backend();
    for (int i = 0; i < CASE_COUNT; i++) {
        golden g;
        pa_err err;
        load(&g, *state, CASES[i]);
        const pa_tensor *t = need(&g, "greedy", "");
        const uint16_t *expected = t->data;
        int V = g.f.params.model.vocab, prefix = g.f.batch.length - g.f.batch.latents;
        if (!fixture_takes(be, &g.f.params.model)) {
            fixture_clear(&g.f);
            continue;
        }
        assert_int_equal(count_of(t), g.f.params.model.context - g.f.params.model.prefix - 1);
        float *logits = calloc((size_t)V, sizeof *logits);
        pa_context *c = fixture_open(be, &g.f, (pa_open){.precision = PA_PRECISION_FP32, .streams = 1});
        fixture_ok(be->prefill(c, prefix + 1, 1, g.f.batch.input, logits, &err), &err);
        for (size_t n = 0; n < count_of(t); n++) {
            assert_int_equal(most_probable(logits, V), expected[n]);
            fixture_ok(be->decode(c, &expected[n], logits, &err), &err);
        }
        be->close(c);
        free(logits);
        fixture_clear(&g.f);
    }
}

static int open_file(void **state) {
    pa_err err;
    pa_status s = pa_st_open((pa_st **)state, "tests/golden/golden.safetensors", &err);
    if (s) print_error("%s\n", err.text);
    return s;
}

static int close_file(void **state) {
    pa_st_close(*state);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference_equals_pytorch),   cmocka_unit_test(no_tensor_is_left_out),
        cmocka_unit_test(float32_is_near_pytorch),    cmocka_unit_test(sixteen_bits_are_near_pytorch),
        cmocka_unit_test(optimisers_step_as_pytorch), cmocka_unit_test(greedy_continuation_is_the_same),
    };
    return cmocka_run_group_tests(tests, open_file, close_file);
}
