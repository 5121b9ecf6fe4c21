// test_model.c: a backend's forward pass, whole and with caches, against the float64 reference; causality; what is
// refused. PA_DEVICE chooses the backend. Gradients and the optimiser's step are in test_gradcheck.c and test_step.c.
//
// The tolerance, over the logits of a batch as one vector: d is how far a plain bf16 computation (reference.h) is from
// float64. A bf16 backend may be twice as far, and an fp16 one than a plain fp16 computation; a float32 one 2 d 2^-16
// sqrt(n), n the longest sum: it rounds 2^-16 as coarsely, but in sums too.
#include "tests/support/fixture.h"
#include "tests/support/rows.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct {
    const char *name;
    pa_model model;
    int batch, length, latents, kept;
} shape;

enum { SHAPES = 16 };
static int shapes(shape *s) {
    pa_model m = fixture_model();
    int n = 0;
    s[n++] = (shape){"default", m, 2, 24, 15, -1};
    s[n++] = (shape){"dropped prefix", m, 3, 24, 15, 3};
    s[n++] = (shape){"all dropped", m, 1, 24, 15, 0};
    s[n++] = (shape){"shorter prefix", m, 2, 19, 15, -1};
    s[n++] = (shape){"no prefix", m, 2, 7, 7, -1};
    s[n++] = (shape){"a model without prefix", m, 2, 15, 15, -1};
    s[n - 1].model.prefix = 0;
    s[n - 1].model.context = 15;
    s[n++] = (shape){"one token", m, 1, 1, 1, -1};
    s[n++] = (shape){"perceive_depth 2", m, 2, 24, 15, 4};
    s[n - 1].model.perceive_depth = 2;
    s[n++] = (shape){"no latent layers", m, 2, 24, 15, -1};
    s[n - 1].model.depth = 0;
    s[n++] = (shape){"switches", m, 2, 24, 15, 5};
    pa_model *all = &s[n - 1].model;
    all->position = PA_POSITION_ROTARY;
    all->activation = PA_SQRELU;
    all->rotary_dims = 4;
    all->final_norm = all->qk_norm = all->tie_embeddings = true;
    all->lags = 3;
    all->value_emb = true;
    s[n++] = (shape){"value_emb", m, 2, 24, 15, 5};
    s[n - 1].model.value_emb = true;
    s[n++] = (shape){"lags", m, 2, 24, 15, 5};
    s[n - 1].model.lags = 2;
    s[n++] = (shape){"keyboard", m, 2, 120, 70, 30};
    s[n - 1].model.context = 120;
    s[n - 1].model.prefix = 50;
    s[n - 1].model.vocab = 390;
    s[n - 1].model.keyboard = true;
    s[n - 1].model.lags = 1;
    s[n++] = (shape){"one wide head", m, 1, 24, 15, -1};
    s[n - 1].model.heads = 1;
    s[n - 1].model.dim_head = 80;
    s[n++] = (shape){"odd sizes", m, 2, 24, 15, -1};
    s[n - 1].model.dim = 13;
    s[n - 1].model.dim_head = 7;
    s[n - 1].model.vocab = 33;
    if (!fixture_takes(fixture_backend(), &s[n - 1].model)) s[n - 1].model.dim_head = 8;
    s[n++] = (shape){"long", m, 1, 330, 230, 77};
    s[n - 1].model.context = 330;
    s[n - 1].model.prefix = 100;
    s[n - 1].model.vocab = 390;
    s[n - 1].model.dim_head = 64;
    s[n - 1].model.value_emb = true;
    return n;
}

static void make(fixture *f, const shape *s, uint64_t seed) {
    fixture_init(f, &s->model, seed);
    fixture_batch(f, s->batch, s->length, s->latents, s->kept, seed + 1);
}

static size_t logit_count(const fixture *f) {
    return (size_t)f->batch.batch * (size_t)f->batch.latents * (size_t)f->params.model.vocab;
}

static double *exact_logits(const fixture *f) {
    double *x = fixture_doubles(logit_count(f));
    ref_forward(&f->params, f->w, &f->batch, 0, NULL, x, NULL);
    return x;
}

// How far a backend's logits may be from float64's.
static double allowed(const fixture *f, const double *exact, pa_precision precision) {
    const pa_model *m = &f->params.model;
    double *coarse = fixture_doubles(logit_count(f));
    ref_forward(&f->params, f->w, &f->batch, 0,
                &(ref_rounding){.mode = REF_ROUND, .bits = precision == PA_PRECISION_FP16 ? 11 : 8}, coarse, NULL);
    double d = fixture_distance(coarse, exact, logit_count(f));
    free(coarse);
    int sums[] = {m->vocab, m->dim, pa_inner(m), pa_ff(m), f->batch.length}, longest = 0;
    for (size_t i = 0; i < sizeof sums / sizeof *sums; i++) longest = sums[i] > longest ? sums[i] : longest;
    return 2 * d * (precision != PA_PRECISION_FP32 ? 1 : 0x1p-16 * sqrt(longest));
}

static const char *const precision_name[] = {"", "fp32", "bf16", "fp16"};

static void check_near(const char *name, const fixture *f, const float *logits, pa_precision precision) {
    double *exact = exact_logits(f), *ours = fixture_widen(logits, logit_count(f)),
           limit = allowed(f, exact, precision);
    double distance = fixture_distance(ours, exact, logit_count(f));
    print_message("  %-16s %s: %.2f of the bound, %.1e of the norm\n", name, precision_name[precision],
                  distance / limit, distance / fixture_norm(exact, logit_count(f)));
    assert_true(distance <= limit);
    free(exact);
    free(ours);
}

// nats and best agree with the logits.
static void check_scores(const fixture *f, const pa_scores *s, double sum) {
    int V = f->params.model.vocab;
    double total = 0;
    for (int r = 0; r < f->batch.batch * f->batch.latents; r++) {
        const float *row = s->logits + (size_t)r * (size_t)V;
        double most = -INFINITY, z = 0;
        for (int j = 0; j < V; j++) most = (double)row[j] > most ? (double)row[j] : most;
        for (int j = 0; j < V; j++) z += exp((double)row[j] - most);
        double nats = f->batch.target[r] < V - 1 ? most + log(z) - (double)row[f->batch.target[r]] : 0;
        // Of order 10, in float32, through V exponentials.
        assert_true(fabs((double)s->nats[r] - nats) <= 10 * sqrt(V) * 0x1p-24);
        assert_true((double)row[s->best[r]] == most);
        total += (double)s->nats[r];
    }
    assert_true(fabs(sum - total) <= 1e-12 * fabs(total));
}

static void check_forward(const shape *s, pa_precision precision) {
    const pa_backend *be = fixture_backend();
    fixture f;
    pa_err err;
    make(&f, s, 11);
    size_t rows = (size_t)s->batch * (size_t)s->latents;
    pa_scores scores = {calloc(rows, sizeof(float)), calloc(rows, sizeof(uint16_t)),
                        calloc(logit_count(&f), sizeof(float))};
    pa_context *c = fixture_open(be, &f, (pa_open){.precision = precision, .max_batch = s->batch});
    double sum, again;
    fixture_ok(be->loss(c, &f.batch, &sum, &scores, &err), &err);
    check_near(s->name, &f, scores.logits, precision);
    check_scores(&f, &scores, sum);
    fixture_ok(be->loss(c, &f.batch, &again, NULL, &err), &err);
    assert_true(sum == again);
    be->close(c);
    free(scores.nats);
    free(scores.best);
    free(scores.logits);
    fixture_clear(&f);
}

static void forward_equals_reference(void **state) {
    (void)state;
    shape s[SHAPES];
    int n = shapes(s);
    for (int i = 0; i < n; i++) check_forward(&s[i], PA_PRECISION_FP32);
}

static void sixteen_bits_are_as_good_as_plain(void **state) {
    (void)state;
    shape s[SHAPES];
    int n = shapes(s);
    for (pa_precision p = PA_PRECISION_BF16; p <= PA_PRECISION_FP16; p++)
        for (int i = 0; i < n && fixture_has(fixture_backend(), p); i++) check_forward(&s[i], p);
}

static float *logits_of(const pa_backend *be, pa_context *c, const fixture *f) {
    pa_err err;
    double sum;
    float *x = calloc(logit_count(f), sizeof *x);
    assert_non_null(x);
    fixture_ok(be->loss(c, &f->batch, &sum, &(pa_scores){.logits = x}, &err), &err);
    return x;
}

// Changing token t changes the prediction from t, and no bit of any before it, nor of another sequence. Every third t,
// from the number of the shape on, so that the shapes together cover all.
static void check_causality(const shape *s, int number, pa_precision precision) {
    const pa_backend *be = fixture_backend();
    fixture f;
    make(&f, s, 13);
    pa_context *c = fixture_open(be, &f, (pa_open){.precision = precision, .max_batch = s->batch});
    float *before = logits_of(be, c, &f);
    int prefix = s->length - s->latents;
    size_t V = (size_t)s->model.vocab, sequence = V * (size_t)s->latents;
    for (int t = s->latents > 3 ? prefix + number % 3 : prefix; t<s->length; t += s->length> 100 ? 37 : 3) {
        uint16_t *token = &f.input[t], was = *token;
        *token = (uint16_t)((was + 1) % s->model.vocab);
        float *after = logits_of(be, c, &f);
        size_t moved = V * (size_t)(t - prefix);
        assert_memory_equal(before, after, moved * sizeof *before);
        assert_true(memcmp(before + moved, after + moved, V * sizeof *before) != 0);
        if (s->batch > 1)
            assert_memory_equal(before + sequence, after + sequence,
                                (size_t)(s->batch - 1) * sequence * sizeof *before);
        *token = was;
        free(after);
    }
    free(before);
    be->close(c);
    fixture_clear(&f);
}

static void no_earlier_prediction_moves(void **state) {
    (void)state;
    shape s[SHAPES];
    int n = shapes(s);
    for (int i = 0; i < n; i++) {
        check_causality(&s[i], i, PA_PRECISION_FP32);
        check_causality(&s[i], i, fixture_16_bits(fixture_backend()));
    }
}

// A prefix position that is not kept changes nothing; one that is kept does.
static void dropped_positions_are_not_seen(void **state) {
    (void)state;
    const pa_backend *be = fixture_backend();
    shape s = {"", fixture_model(), 1, 24, 15, 4};
    fixture f;
    make(&f, &s, 17);
    pa_context *c = fixture_open(be, &f, (pa_open){.precision = PA_PRECISION_FP32, .max_batch = 1});
    float *before = logits_of(be, c, &f);
    for (int m = 0; m < 9; m++) {
        bool kept = false;
        for (int k = 0; k < 4; k++) kept |= f.keep[k] == m;
        f.input[m] ^= 1;
        float *after = logits_of(be, c, &f);
        assert_int_equal(memcmp(before, after, logit_count(&f) * sizeof *before) != 0, kept);
        f.input[m] ^= 1;
        free(after);
    }
    free(before);
    be->close(c);
    fixture_clear(&f);
}

// Goes back by a token and appends it again: the same logits to the bit where it was appended, else taken instead.
static void decode_again(const pa_backend *be, pa_context *c, int at, const uint16_t *token, bool appended, float *last,
                         size_t count) {
    pa_err err;
    float *again = calloc(count, sizeof *again);
    assert_non_null(again);
    fixture_ok(be->rewind(c, at, &err), &err);
    fixture_ok(be->decode(c, token, again, &err), &err);
    if (appended) assert_memory_equal(again, last, count * sizeof *again);
    memcpy(last, again, count * sizeof *again);
    free(again);
}

// Fills caches with the first `first` latents of each sequence of f, then appends the others, each twice; logits into
// the same places as loss's.
static void cached_logits(const pa_backend *be, pa_context *c, const fixture *f, int first, float *logits) {
    int S = f->batch.batch, N = f->batch.latents, M = f->batch.length, P = M - N;
    size_t V = (size_t)f->params.model.vocab;
    uint16_t *tokens = calloc((size_t)S * (size_t)M, sizeof *tokens);
    float *last = calloc((size_t)S * V, sizeof *last);
    assert_true(tokens && last);
    pa_err err;
    for (int n = first - 1; n < N; n++) {
        int length = P + first;
        if (n == first - 1) {
            for (int b = 0; b < S; b++)
                memcpy(tokens + (size_t)b * (size_t)length, f->input + (size_t)b * (size_t)M, (size_t)length * 2);
            fixture_ok(be->prefill(c, length, first, tokens, last, &err), &err);
            for (int b = 0; b < S; b++) tokens[b] = f->input[b * M + P + n];
            if (P + n) decode_again(be, c, P + n, tokens, false, last, (size_t)S * V);
        } else {
            for (int b = 0; b < S; b++) tokens[b] = f->input[b * M + P + n];
            fixture_ok(be->decode(c, tokens, last, &err), &err);
            decode_again(be, c, P + n, tokens, true, last, (size_t)S * V);
        }
        for (int b = 0; b < S; b++)
            memcpy(logits + ((size_t)b * (size_t)N + (size_t)n) * V, last + (size_t)b * V, V * sizeof *last);
    }
    free(tokens);
    free(last);
}

// Latents before `first` have no logits of their own here: they are taken as exact.
static void check_cached(const char *name, const pa_backend *be, pa_context *c, const fixture *f, int first,
                         pa_precision precision) {
    float *logits = calloc(logit_count(f), sizeof *logits);
    assert_non_null(logits);
    double *exact = exact_logits(f);
    for (size_t i = 0; i < logit_count(f); i++) logits[i] = (float)exact[i];
    cached_logits(be, c, f, first, logits);
    check_near(name, f, logits, precision);
    free(logits);
    free(exact);
}

static void check_decoding(const shape *s, pa_precision precision) {
    const pa_backend *be = fixture_backend();
    fixture f;
    pa_err err;
    make(&f, s, 19);
    f.batch.keep = NULL, f.batch.kept = s->length - s->latents; // prefix dropout is for training
    pa_context *c = fixture_open(be, &f, (pa_open){.precision = precision, .streams = s->batch});
    check_cached(s->name, be, c, &f, 1, precision);
    int some = s->latents > 3 ? s->latents / 2 : 1, seen = s->length - s->latents + some;
    check_cached(s->name, be, c, &f, some, precision); // a new window: nothing of the old one is left
    for (int b = 1; b < s->batch; b++) memcpy(f.input + b * s->length, f.input, (size_t)seen * sizeof *f.input);
    check_cached(s->name, be, c, &f, some, precision); // streams that begin alike
    if (s->latents == s->model.context - s->model.prefix) {
        float *logits = calloc((size_t)s->batch * (size_t)s->model.vocab, sizeof *logits);
        assert_int_equal(be->decode(c, f.input, logits, &err), PA_USAGE);
        free(logits);
    }
    be->close(c);
    fixture_clear(&f);
}

static void cached_decoding_equals_the_full_pass(void **state) {
    (void)state;
    shape s[SHAPES];
    int n = shapes(s);
    for (pa_precision p = PA_PRECISION_FP32; p <= PA_PRECISION_FP16; p++)
        for (int i = 0; i < n && fixture_has(fixture_backend(), p); i++) check_decoding(&s[i], p);
}

// Weights of 8 bits: each row of a product's weight holds multiples of its largest / 127, at most half of one from what
// was written; the full pass and the decoder compute with those. All else stays.
static void weights_of_8_bits(void **state) {
    (void)state;
    const pa_backend *be = fixture_backend();
    shape s[SHAPES];
    for (int k = 0, n = shapes(s); k < 2 * n; k++) {
        fixture f;
        pa_err err;
        double sum;
        const int i = k / 2;
        const pa_precision precision = k % 2 ? fixture_16_bits(be) : PA_PRECISION_FP32;
        make(&f, &s[i], 37);
        f.batch.keep = NULL;
        f.batch.kept = s[i].length - s[i].latents;
        pa_open o = {.precision = precision, .max_batch = s[i].batch, .streams = s[i].batch, .int8 = true};
        pa_context *c = fixture_open(be, &f, o);
        fixture_ok(be->loss(c, &f.batch, &sum, NULL, &err), &err);
        double *rounded = fixture_read(be, c, &f.params, PA_PARAM);
        int products = 0;
        for (int t = 0; t < f.params.count; t++) {
            const pa_param *row = &f.params.row[t];
            bool product = row->rank == 2 && row->group != PA_GROUP_EMBEDDING;
            size_t in = product ? (size_t)row->shape[1] : row->size;
            products += product;
            for (size_t r = 0; r < row->size / in; r++) {
                double *was = f.w + row->offset + r * in, *is = rounded + row->offset + r * in, most = 0;
                for (size_t j = 0; j < in; j++) most = fmax(most, fabs(was[j]));
                for (size_t j = 0; j < in; j++) {
                    double q = is[j] / (most / 127);
                    if (product)
                        assert_true(fabs(q - round(q)) < 1e-4 && fabs(is[j] - was[j]) <= most / 127 * 0.5001);
                    else
                        assert_true(is[j] == was[j]);
                }
            }
        }
        assert_true(products > 5 && fixture_distance(rounded, f.w, f.params.floats) > 0);
        memcpy(f.w, rounded, f.params.floats * sizeof *rounded); // what the reference computes with
        check_cached(s[i].name, be, c, &f, 1, precision);
        be->close(c);
        free(rounded);
        fixture_clear(&f);
    }
    fixture f;
    make(&f, &s[0], 37);
    pa_context *c = NULL;
    pa_err err;
    pa_comm single = pa_comm_single();
    pa_open o = {.params = &f.params, .max_batch = 1, .training = true, .int8 = true, .comm = &single};
    assert_int_equal(be->open(&c, &o, &err), PA_USAGE);
    fixture_clear(&f);
}

// loss and caches of one context do not disturb each other.
static void evaluation_between_tokens_changes_nothing(void **state) {
    (void)state;
    const pa_backend *be = fixture_backend();
    shape s = {"", fixture_model(), 2, 12, 3, -1};
    fixture f;
    pa_err err;
    make(&f, &s, 23);
    size_t V = (size_t)s.model.vocab;
    float *quiet = calloc(2 * V, sizeof *quiet), *disturbed = calloc(2 * V, sizeof *disturbed);
    pa_context *c = fixture_open(be, &f, (pa_open){.precision = PA_PRECISION_FP32, .max_batch = 2, .streams = 2});
    for (int i = 0; i < 2; i++) {
        double sum;
        fixture_ok(be->prefill(c, 12, 3, f.input, quiet, &err), &err);
        if (i) fixture_ok(be->loss(c, &f.batch, &sum, NULL, &err), &err);
        fixture_ok(be->decode(c, (uint16_t[]){5, 6}, i ? disturbed : quiet, &err), &err);
    }
    fixture_ok(be->prefill(c, 12, 3, f.input, quiet, &err), &err);
    fixture_ok(be->decode(c, (uint16_t[]){5, 6}, quiet, &err), &err);
    assert_memory_equal(quiet, disturbed, 2 * V * sizeof *quiet);
    be->close(c);
    free(quiet);
    free(disturbed);
    fixture_clear(&f);
}

static void what_is_wrong_is_refused(void **state) {
    (void)state;
    const pa_backend *be = fixture_backend();
    shape s = {"", fixture_model(), 2, 24, 15, 4};
    fixture f;
    pa_err err;
    double sum;
    make(&f, &s, 29);
    pa_context *c = fixture_open(be, &f, (pa_open){.precision = PA_PRECISION_FP32, .max_batch = 2, .streams = 1});
    const pa_batch good = f.batch;
    pa_batch bad[] = {good, good, good, good, good, good, good, good};
    const int32_t keep[] = {0, 1, 2, 9, 0, 1, 2, 3};
    const uint16_t unknown[48] = {[47] = 40};
    float logits[40];
    bad[0].batch = 3;
    bad[1].batch = 0;
    bad[2].latents = 16;
    bad[3].latents = 0;
    bad[4].latents = 14;
    bad[5].keep = keep;
    bad[6].input = unknown;
    bad[7].kept = 10;
    EACH_ROW (i, bad, NULL) {
        err.text[0] = 0;
        assert_int_equal(be->loss(c, &bad[i], &sum, NULL, &err), PA_USAGE);
        assert_true(err.text[0] != 0);
    }
    assert_int_equal(be->loss_grad(c, &good, 1, &sum, &err), PA_USAGE); // not opened for training
    assert_int_equal(be->update(c, &(pa_update){.lr = 1, .step = 1}, &sum, NULL, &err), PA_USAGE);
    assert_int_equal(be->decode(c, unknown, logits, &err), PA_USAGE); // nothing was prefilled
    assert_int_equal(be->rewind(c, 1, &err), PA_USAGE);
    assert_int_equal(be->prefill(c, 25, 15, unknown, logits, &err), PA_USAGE);
    assert_int_equal(be->prefill(c, 24, 16, unknown, logits, &err), PA_USAGE);
    fixture_ok(be->loss(c, &good, &sum, NULL, &err), &err);
    be->close(c);
    fixture_clear(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_equals_reference),
        cmocka_unit_test(sixteen_bits_are_as_good_as_plain),
        cmocka_unit_test(no_earlier_prediction_moves),
        cmocka_unit_test(dropped_positions_are_not_seen),
        cmocka_unit_test(cached_decoding_equals_the_full_pass),
        cmocka_unit_test(weights_of_8_bits),
        cmocka_unit_test(evaluation_between_tokens_changes_nothing),
        cmocka_unit_test(what_is_wrong_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
