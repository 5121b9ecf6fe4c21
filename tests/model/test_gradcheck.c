// test_gradcheck.c: every gradient of a backend against central differences of the float64 reference, over every row of
// the tensor table, for the default model and each switch. A tensor that a switch adds is found here unasked. PA_DEVICE
// chooses the backend.
//
// The tolerance. Differences are taken twice: of the exact reference, which gives the gradient g, and of the reference
// with the relative errors of a plain bf16 computation frozen into it (reference.h), which gives a gradient as far from
// g as a plain bf16 computation's: d, the root mean square of that distance over the elements looked at of a tensor.
//   bf16     at most twice as far as the plain computation: 2 d.
//   fp16     the same of a plain fp16 computation.
//   float32  rounds 2^-16 as coarsely (24 bits against 8), but after each addition of a sum too, where a bf16 product
//   sums in
//            float32: n roundings that are as often up as down add up to sqrt(n) of them. So 2 d 2^-16 sqrt(n), n the
//            longest sum.
// Both distances are taken over DRAWS drawn models: where one position or one rounding has a large part in a gradient,
// the elements of a small tensor are off together, and a single draw says as little about a computation's usual error
// as a single number would. (Over 12 draws each, the gradients of q_norm and k_norm are off by 0.3 to 1.7 times a
// single draw's bound, in bf16 as in fp16, and one flipped rounding moved 1.7 to 1.2.) Few elements can be near by
// luck, so d is also at least the tensor's own root mean square times that ratio over the whole model. Single elements
// may be 6 times as far: the tail of a normal distribution beyond six deviations is 2e-9. The differences themselves,
// over STEP = 2^-16 either way of parameters of order 1, are off by STEP^2 / 6 = 4e-11 of a third derivative and by the
// rounding of an objective of some hundred nats, 1e-14 / STEP = 1e-9: a hundredth of the float32 bounds at most, also
// where sqrelu's second derivative jumps (next to no hidden unit is within a step of that).
#include "tests/support/fixture.h"

#include "host/base/philox.h"

#include <assert.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define STEP 0x1p-16
enum { SAMPLE = 64, DRAWS = 4, DEVIATIONS = 6, SEED = 77, MOST_TRIES = 200, BF16_BITS = 8, FP16_BITS = 11 };

typedef struct {
    int tensor;
    size_t element; // of the tensor
    double exact, coarse[FP16_BITS + 1], found[PA_PRECISION_FP16 + 1];
} probe;

typedef struct {
    const char *name;
    fixture f; // of the draw at hand, whose probes are from `first` on
    ref_rounding frozen;
    probe *probe;
    int first, probes;
} check;

static double objective(const check *c, const double *w, const ref_rounding *rounding) {
    return ref_forward(&c->f.params, w, &c->f.batch, SEED, rounding, NULL, NULL).objective;
}

static double moved(const check *c, double *w, size_t at, double by, const ref_rounding *rounding) {
    double was = w[at];
    w[at] = was + by;
    double value = objective(c, w, rounding);
    w[at] = was;
    return value;
}

static double slope(const check *c, double *w, size_t at, const ref_rounding *rounding) {
    return (moved(c, w, at, STEP, rounding) - moved(c, w, at, -STEP, rounding)) / (2 * STEP);
}

// All elements of small tensors in every draw; SAMPLE of larger ones, one drawn from each of SAMPLE equal parts, a
// share of them each draw. Of keyboard_emb a batch uses some rows in a hundred: drawn again and again until the
// objective depends on the element, from all of it, so that d is not that of two or three elements.
static void choose_probes(check *c, int draw) {
    double *w = fixture_doubles(c->f.params.floats);
    memcpy(w, c->f.w, c->f.params.floats * sizeof *w);
    c->first = c->probes;
    for (int t = 0; t < c->f.params.count; t++) {
        size_t size = c->f.params.row[t].size, count = size < SAMPLE ? size : SAMPLE, apart = size > SAMPLE ? DRAWS : 1;
        for (size_t i = size > SAMPLE ? (size_t)draw : 0; i < count; i += apart) {
            double u = size > SAMPLE ? pa_uniform(pa_random(7, PA_RANDOM_EVAL, (uint64_t)t, i)) : 0;
            size_t element = (size_t)(((double)i + u) * (double)size / (double)count);
            for (uint64_t k = 0; t == c->f.params.keyboard_emb && k < MOST_TRIES; k++) {
                if (slope(c, w, c->f.params.row[t].offset + element, NULL) != 0) break;
                element = pa_below(pa_random(8, PA_RANDOM_EVAL, i, k), size);
            }
            c->probe[c->probes++] = (probe){.tensor = t, .element = element};
        }
    }
    free(w);
}

// Of a plain computation whose significands have so many bits; 0: exact.
static void take_differences(check *c, int bits) {
    if (bits) c->frozen = ref_freeze(&c->f.params, c->f.w, &c->f.batch, SEED, bits);
#pragma omp parallel
    {
        double *w = fixture_doubles(c->f.params.floats);
        memcpy(w, c->f.w, c->f.params.floats * sizeof *w);
#pragma omp for schedule(dynamic, 8)
        for (int i = c->first; i < c->probes; i++) {
            probe *p = &c->probe[i];
            double g = slope(c, w, c->f.params.row[p->tensor].offset + p->element, bits ? &c->frozen : NULL);
            *(bits ? &p->coarse[bits] : &p->exact) = g;
        }
        free(w);
    }
    free(c->frozen.factor);
    c->frozen = (ref_rounding){0};
}

// (tensors) 2 d
static double *bounds(const check *c, int bits) {
    int tensors = c->f.params.count;
    double *square = fixture_doubles((size_t)tensors), *error = fixture_doubles((size_t)tensors),
           *count = fixture_doubles((size_t)tensors);
    double squares = 0, errors = 0, *bound = fixture_doubles((size_t)tensors);
    for (int i = 0; i < c->probes; i++) {
        const probe *p = &c->probe[i];
        square[p->tensor] += p->exact * p->exact;
        error[p->tensor] += (p->coarse[bits] - p->exact) * (p->coarse[bits] - p->exact);
        count[p->tensor]++;
    }
    for (int t = 0; t < tensors; t++) {
        squares += square[t];
        errors += error[t];
    }
    for (int t = 0; t < tensors; t++) bound[t] = 2 * sqrt(fmax(error[t], square[t] * errors / squares) / count[t]);
    free(square);
    free(error);
    free(count);
    return bound;
}

static int longest_sum(const fixture *f) {
    const pa_model *m = &f->params.model;
    int sums[] = {m->vocab, m->dim, pa_inner(m), pa_ff(m), f->batch.batch * f->batch.length}, longest = 0;
    for (size_t i = 0; i < sizeof sums / sizeof *sums; i++) longest = sums[i] > longest ? sums[i] : longest;
    return longest;
}

// How many tensors or elements are out of the bounds of a plain computation with so many bits, times share.
static int compare(const check *c, pa_precision precision, int bits, double share) {
    static const char *const names[] = {"", "fp32", "bf16", "fp16"};
    int wrong = 0, tensors = c->f.params.count, worst = 0;
    double *bound = bounds(c, bits), *squares = fixture_doubles((size_t)tensors),
           *count = fixture_doubles((size_t)tensors);
    for (int i = 0; i < c->probes; i++) {
        const probe *p = &c->probe[i];
        double off = fabs(p->found[precision] - p->exact), allowed = DEVIATIONS * bound[p->tensor] * share;
        squares[p->tensor] += off * off;
        count[p->tensor]++;
        if (!(off <= allowed) && wrong++ < 8)
            print_error("%s %s: %s[%zu]: difference quotient %.9g, gradient %.9g, off by %.3g, allowed %.3g\n", c->name,
                        names[precision], c->f.params.row[p->tensor].name, p->element, p->exact, p->found[precision],
                        off, allowed);
    }
    for (int t = 0; t < tensors; t++) {
        double off = sqrt(squares[t] / count[t]), allowed = bound[t] * share;
        if (!(off <= allowed)) {
            print_error("%s %s: %s: off by %.3g (root mean square), allowed %.3g\n", c->name, names[precision],
                        c->f.params.row[t].name, off, allowed);
            wrong++;
        }
        squares[t] = off / allowed;
        if (squares[t] > squares[worst]) worst = t;
    }
    print_message("  %-16s %s: nearest to its bound at %.2f of it: %s\n", c->name, names[precision], squares[worst],
                  c->f.params.row[worst].name);
    free(bound);
    free(squares);
    free(count);
    return wrong;
}

// The backend's gradients at the draw's probes; 1 where the sum of nats is wrong.
static int run_backend(check *c, pa_precision precision) {
    const pa_backend *be = fixture_backend();
    pa_err err;
    pa_context *x = fixture_open(
        be, &c->f, (pa_open){.precision = precision, .max_batch = c->f.batch.batch, .training = true, .seed = SEED});
    double sum, expected = ref_forward(&c->f.params, c->f.w, &c->f.batch, SEED, NULL, NULL, NULL).nats;
    const float down = fixture_scale(precision);
    fixture_ok(be->loss_grad(x, &c->f.batch, down, &sum, &err), &err);
    double *grad = fixture_read(be, x, &c->f.params, PA_GRAD);
    for (int i = c->first; i < c->probes; i++) {
        probe *p = &c->probe[i];
        p->found[precision] = grad[c->f.params.row[p->tensor].offset + p->element] / (double)down;
    }
    free(grad);
    be->close(x);
    const double of_sum[] = {0, 0x1p-20, 0x1p-8, 0x1p-11};
    if (fabs(sum - expected) <= of_sum[precision] * expected) return 0;
    print_error("%s: sum of nats %.9g, reference %.9g\n", c->name, sum, expected);
    return 1;
}

typedef struct {
    const char *name;
    pa_model model;
    int batch, length, latents, kept; // kept < 0: no keep list
} gradient_case;

static void check_case(void **state) {
    const gradient_case *g = *state;
    const bool bf16 = fixture_has(fixture_backend(), PA_PRECISION_BF16),
               fp16 = fixture_has(fixture_backend(), PA_PRECISION_FP16);
    check c = {.name = g->name};
    int wrong = 0;
    for (int draw = 0; draw < DRAWS; draw++) {
        fixture_clear(&c.f);
        fixture_init(&c.f, &g->model, 3 + (uint64_t)draw);
        fixture_batch(&c.f, g->batch, g->length, g->latents, g->kept, 5 + (uint64_t)draw);
        if (g->model.dropout > 0) c.f.batch.window = c.f.window;
        if (!draw) c.probe = calloc((size_t)c.f.params.count * SAMPLE * DRAWS, sizeof *c.probe);
        assert_non_null(c.probe);
        choose_probes(&c, draw);
        take_differences(&c, 0);
        take_differences(&c, BF16_BITS);
        if (fp16) take_differences(&c, FP16_BITS);
        wrong += run_backend(&c, PA_PRECISION_FP32);
        if (bf16) wrong += run_backend(&c, PA_PRECISION_BF16);
        if (fp16) wrong += run_backend(&c, PA_PRECISION_FP16);
    }
    wrong += compare(&c, PA_PRECISION_FP32, BF16_BITS, 0x1p-16 * sqrt(longest_sum(&c.f)));
    if (bf16) wrong += compare(&c, PA_PRECISION_BF16, BF16_BITS, 1);
    if (fp16) wrong += compare(&c, PA_PRECISION_FP16, FP16_BITS, 1);
    free(c.probe);
    fixture_clear(&c.f);
    assert_int_equal(wrong, 0);
}

enum { CASES = 21 };
static int fill(gradient_case *g) {
    pa_model base = fixture_model(), one = base;
    one.depth = 1;
    int n = 0;
    g[n++] = (gradient_case){"default", base, 2, 24, 15, -1};
    g[n++] = (gradient_case){"perceive_depth 2", one, 2, 24, 15, -1};
    g[n - 1].model.perceive_depth = 2;
    g[n++] = (gradient_case){"dropped prefix", one, 2, 24, 15, 4};
    g[n - 1].model.perceive_depth = 2;
    g[n++] = (gradient_case){"all dropped", one, 2, 24, 15, 0};
    g[n++] = (gradient_case){"shorter prefix", one, 2, 19, 15, -1};
    g[n++] = (gradient_case){"no prefix", one, 3, 13, 13, -1};
    g[n++] = (gradient_case){"a model without prefix", one, 2, 13, 13, -1};
    g[n - 1].model.prefix = 0;
    g[n - 1].model.context = 13;
    g[n++] = (gradient_case){"one latent", one, 2, 10, 1, 5};
    g[n++] = (gradient_case){"rotary only", one, 2, 24, 15, -1};
    g[n - 1].model.position = PA_POSITION_ROTARY;
    g[n++] = (gradient_case){"sqrelu", one, 2, 24, 15, -1};
    g[n - 1].model.activation = PA_SQRELU;
    g[n++] = (gradient_case){"rotary_dims 4", one, 2, 24, 15, -1};
    g[n - 1].model.rotary_dims = 4;
    g[n++] = (gradient_case){"final_norm", one, 2, 24, 15, -1};
    g[n - 1].model.final_norm = true;
    g[n++] = (gradient_case){"qk_norm", one, 2, 24, 15, -1};
    g[n - 1].model.qk_norm = true;
    g[n++] = (gradient_case){"z_loss", one, 2, 24, 15, -1};
    g[n - 1].model.z_loss = 0.1;
    g[n++] = (gradient_case){"tie_embeddings", one, 2, 24, 15, -1};
    g[n - 1].model.tie_embeddings = true;
    g[n++] = (gradient_case){"lags", one, 2, 22, 15, 4};
    g[n - 1].model.lags = 3;
    g[n++] = (gradient_case){"keyboard", one, 2, 24, 15, 4};
    g[n - 1].model.vocab = 390;
    g[n - 1].model.keyboard = true;
    g[n - 1].model.lags = 1;
    g[n++] = (gradient_case){"value_emb", one, 2, 24, 15, 4};
    g[n - 1].model.value_emb = true;
    g[n++] = (gradient_case){"full vocabulary", one, 2, 24, 15, 7};
    g[n - 1].model.vocab = 390;
    g[n++] = (gradient_case){"dropout", one, 2, 24, 15, 7};
    g[n - 1].model.dropout = 0.3;
    g[n - 1].model.perceive_depth = 2;
    pa_model *all = &g[n].model;
    g[n++] = (gradient_case){"all switches", one, 2, 23, 15, 5};
    all->perceive_depth = 2;
    all->position = PA_POSITION_ROTARY;
    all->activation = PA_SQRELU;
    all->rotary_dims = 6;
    all->final_norm = all->qk_norm = all->tie_embeddings = true;
    all->z_loss = 0.01;
    all->lags = 1;
    all->value_emb = true;
    return n;
}

int main(void) {
    static gradient_case cases[CASES];
    struct CMUnitTest tests[CASES];
    int n = fill(cases);
    assert(n == CASES);

    for (int i = 0; i < n; i++) tests[i] = (struct CMUnitTest){cases[i].name, check_case, NULL, NULL, &cases[i]};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
