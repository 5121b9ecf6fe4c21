// test_score.c: scoring over a fake model whose every number depends on all that a position sees: each token is scored
// once, in the window that gives it the most context, whatever the lengths, strides, prefixes and batches; and the
// original project's loss over its own crops.
#include "host/base/philox.h"
#include "host/lib/pieces.h"
#include "host/play/measure.h"
#include "tests/support/fake.h"
#include "tests/support/token_memory.h"

enum { PIECES = 34, TOKENS = PIECES * PIECES };

typedef struct {
    uint16_t token[TOKENS];
    int64_t offset[PIECES + 1], notes[PIECES];
    float seconds[PIECES];
    token_memory memory;
} corpus;

// Piece p has p tokens: every length from 0 on.
static void make(corpus *c) {
    memset(c, 0, sizeof *c);
    for (int p = 0; p < PIECES; p++) {
        c->offset[p + 1] = c->offset[p] + p;
        c->notes[p] = p / 4;
        c->seconds[p] = (float)p / 2;
    }
    for (int64_t i = 0; i < c->offset[PIECES]; i++)
        c->token[i] = (uint16_t)(fake_mix((uint64_t)i + 99) % (i % 5 ? PA_END : 3));
    token_memory_open(
        &c->memory,
        (pa_tokens){
            .tokens = c->token, .offsets = c->offset, .seconds = c->seconds, .notes = c->notes, .pieces = PIECES});
}

static pa_err err;

static pa_status predict(void *arg, const patrain_windows *w, pa_err *e) {
    pa_context *ctx = arg;
    double sum;
    const pa_batch b = {
        .batch = w->batch, .length = w->length, .latents = w->latents, .input = w->input, .target = w->target};
    return fake_backend.loss(ctx, &b, &sum, &(pa_scores){.nats = w->nats, .best = w->best, .logits = w->logits}, e);
}

typedef struct {
    const patrain_piece *piece;
    pa_measure *measure;
} sums;

static int found_context[PIECES][PIECES], most_context[PIECES][PIECES]; // of each token; by the rule

static void add_run(void *arg, const patrain_scored *run) {
    const sums *x = arg;
    for (size_t i = 0; i < run->count; i++) found_context[run->piece][run->first + i] = (int)(run->context + i);
    pa_measure_add(x->measure, x->piece[run->piece].tokens, run);
}

static pa_status score_pieces(pa_context *ctx, const corpus *c, int64_t pieces, int stride, int batch,
                              pa_measure *measure) {
    patrain_piece piece[PIECES];
    sums x = {piece, measure};
    pa_measure_clear(measure);
    assert_int_equal(pa_measure_init(measure, PIECES, &err), PA_OK);
    for (int p = 0; p < PIECES; p++)
        piece[p] = (patrain_piece){c->token + c->offset[p], (size_t)(c->offset[p + 1] - c->offset[p])};
    const pa_pieces how = {.backend = &fake_backend,
                           .ctx = ctx,
                           .model = &ctx->model,
                           .piece = piece,
                           .pieces = pieces ? (size_t)pieces : PIECES,
                           .batch = batch,
                           .stride = stride,
                           .scored = add_run,
                           .arg = &x};
    return pa_pieces_score(&how, &err);
}

static pa_status score_crops(pa_context *ctx, const corpus *c, int batch, const pa_crops *crops, pa_score *score) {
    const pa_model *m = &ctx->model;
    const pa_scoring x = {.predict = predict,
                          .arg = ctx,
                          .context = m->context,
                          .prefix = m->prefix,
                          .vocab = m->vocab,
                          .tokens = &c->memory.set,
                          .batch = batch};
    return pa_score_crops(&x, crops, score, &err);
}

static int class_of(int token) {
    return token < 128   ? PA_CLASS_NOTE_ON
           : token < 256 ? PA_CLASS_NOTE_OFF
           : token < 356 ? PA_CLASS_TIME_SHIFT
           : token < 388 ? PA_CLASS_VELOCITY
                         : PA_CLASS_END;
}

static void add(pa_score *sum, const uint16_t *window, int visible, int prefix, int target) {
    float logits[PA_VOCAB];
    fake_logits(window, visible, prefix, logits);
    sum->nats[class_of(target)] += (double)(float)fake_nats(logits, target);
    sum->tokens[class_of(target)]++;
    sum->correct[class_of(target)] += fake_best(logits) == target;
}

static void add_row(pa_measure_row *row, int rows, int before, double nats) {
    int found = 0;
    for (int r = 0; r < rows; r++) {
        if (before < row[r].from || before > row[r].to) continue;
        row[r].nats += nats;
        row[r].tokens++;
        found++;
    }
    assert_int_equal(found, 1);
}

// The rule, by trying every window there could be: of those that have input `at` among their latents, the one that
// shows it the most.
static void add_by_rule(pa_measure *sum, const pa_model *m, int stride, const corpus *c, int number, int i) {
    const uint16_t *piece = c->token + c->offset[number];
    int P = m->prefix, N = m->context - P, most = 0, start = -1, prefix = -1, at = i - 1;
    double before = pa_score_nats(&sum->whole);
    for (int p = 0; p < P; p += N) // growing prefixes, before the first full window
        if (at >= p && at < p + N && at < P) most = at + 1, start = 0, prefix = p;
    for (int s = 0; s <= at; s += stride)
        if (at >= s + P && at < s + m->context && at - s + 1 > most) most = at - s + 1, start = s, prefix = P;
    assert_true(most > 0);
    most_context[number][i] = most;
    add(&sum->whole, piece + start, most, prefix, piece[i]);
    double nats = pa_score_nats(&sum->whole) - before;
    add_row(sum->position, PA_POSITIONS, i, nats);
    add_row(sum->context, PA_CONTEXTS, most, nats);
    sum->piece[number].nats += nats;
    sum->piece[number].tokens++;
}

static void check_close(const char *what, double found, double expected) {
    if (!(fabs(found - expected) <= 1e-9 * fabs(expected) + 1e-10))
        fail_msg("%s: %.12g, expected %.12g", what, found, expected);
}

static void check_rows(const char *what, const pa_measure_row *a, const pa_measure_row *b, int rows) {
    for (int r = 0; r < rows; r++) {
        assert_int_equal(a[r].tokens, b[r].tokens);
        check_close(what, a[r].nats, b[r].nats);
    }
}

static void check_same(const pa_score *a, const pa_score *b) {
    for (int c = 0; c < PA_CLASSES; c++) {
        assert_int_equal(a->tokens[c], b->tokens[c]);
        assert_int_equal(a->correct[c], b->correct[c]);
        if (fabs(a->nats[c] - b->nats[c]) > 1e-9 * fabs(b->nats[c]))
            fail_msg("class %d: %.12g, expected %.12g", c, a->nats[c], b->nats[c]);
    }
}

static void check_same_measure(const pa_measure *a, const pa_measure *b) {
    check_same(&a->whole, &b->whole);
    check_rows("position", a->position, b->position, PA_POSITIONS);
    check_rows("context", a->context, b->context, PA_CONTEXTS);
    for (int p = 0; p < PIECES; p++) {
        assert_int_equal(a->piece[p].tokens, b->piece[p].tokens);
        check_close("piece", a->piece[p].nats, b->piece[p].nats);
    }
}

static void every_token_once(void **state) {
    (void)state;
    corpus c;
    pa_measure expected = {0}, score = {0}, other = {0};
    make(&c);
    for (int context = 1; context <= 23; context += context < 7 ? 1 : 8)
        for (int prefix = 0; prefix < context; prefix += 1 + context / 9)
            for (int stride = 1; stride <= context - prefix; stride += 1 + context / 9) {
                pa_context ctx = fake_context(context, prefix, 8, 0);
                pa_measure_clear(&expected);
                assert_int_equal(pa_measure_init(&expected, PIECES, &err), PA_OK);
                for (int p = 0; p < PIECES; p++)
                    for (int i = 1; i < p; i++) add_by_rule(&expected, &ctx.model, stride, &c, p, i);
                if (score_pieces(&ctx, &c, 0, stride, 1, &score)) fail_msg("%s", err.text);
                check_same_measure(&score, &expected);
                assert_memory_equal(found_context, most_context, sizeof found_context);
                assert_int_equal(pa_score_tokens(&score.whole), c.offset[PIECES] - (PIECES - 1));
                int singly = ctx.calls, batch = 2 + (context + stride) % 7;
                assert_int_equal(score_pieces(&ctx, &c, 0, stride, batch, &other), PA_OK);
                assert_true(ctx.calls - singly < singly); // windows do share batches
                assert_memory_equal(&score.whole, &other.whole, sizeof score.whole);
                check_same_measure(&other, &score);
            }
    pa_measure_clear(&expected);
    pa_measure_clear(&score);
    pa_measure_clear(&other);
}

// The defaults and a part of the pieces.
static void counts(void **state) {
    (void)state;
    corpus c;
    pa_measure some = {0}, expected = {0};
    make(&c);
    pa_context ctx = fake_context(9, 4, 4096, 0);
    assert_int_equal(pa_measure_init(&expected, PIECES, &err), PA_OK);
    assert_int_equal(score_pieces(&ctx, &c, 6, 0, 4096, &some), PA_OK);
    for (int p = 0; p < 6; p++)
        for (int i = 1; i < p; i++) add_by_rule(&expected, &ctx.model, 2, &c, p, i);
    check_same_measure(&some, &expected);
    const pa_score *whole = &some.whole;
    assert_true(fabs(pa_score_loss(whole) * (double)pa_score_tokens(whole) - pa_score_nats(whole)) < 1e-9);
    assert_int_equal(score_pieces(&ctx, &c, 1, 0, 4096, &some), PA_OK);
    assert_true(isnan(pa_score_loss(whole)) && isnan(pa_measure_mean(&some).mean)); // an empty piece: nothing to score
    pa_measure_clear(&some);
    pa_measure_clear(&expected);
    assert_int_equal(pa_pieces_batch(&(pa_model){.context = 4096, .prefix = 1024}), 2);
    assert_int_equal(pa_pieces_batch(&(pa_model){.context = 16384, .prefix = 512}), 1);
}

// process_midi and cross_entropy(..., ignore_index = 0) of the original project, line by line, on the same crops.
static void seed_loss(void **state) {
    (void)state;
    enum { CONTEXT = 11, SEED = 5 };
    corpus c;
    make(&c);
    for (int prefix = 0; prefix < CONTEXT; prefix += 5) {
        pa_context ctx = fake_context(CONTEXT, prefix, 4, 0);
        pa_score expected = {0}, score, without;
        for (int p = 0; p < PIECES; p++) {
            uint16_t x[CONTEXT], tgt[CONTEXT];
            const uint16_t *raw = c.token + c.offset[p];
            double sum = 0;
            int count = 0;
            for (int i = 0; i < CONTEXT; i++) x[i] = tgt[i] = PA_PAD;
            if (p > 0 && p < CONTEXT + 1) {
                memcpy(x, raw, (size_t)p * 2);
                memcpy(tgt, raw + 1, (size_t)(p - 1) * 2);
                tgt[p - 1] = PA_END;
            } else if (p) {
                size_t start = (size_t)pa_below(pa_random(SEED, PA_RANDOM_EVAL, (uint64_t)p, 0),
                                                (uint64_t)(p - (CONTEXT + 1)) + 1);
                memcpy(x, raw + start, CONTEXT * 2);
                memcpy(tgt, raw + start + 1, CONTEXT * 2);
            }
            for (int i = prefix; i < CONTEXT; i++) {
                float logits[PA_VOCAB];
                fake_logits(x, i + 1, prefix, logits);
                if (tgt[i] != PA_PAD) add(&expected, x, i + 1, prefix, tgt[i]);
                if (tgt[i] != 0) {
                    sum += fake_nats(logits, tgt[i]);
                    count++;
                }
            }
            if (count) {
                expected.seed_sum += sum / count;
                expected.seed_crops++;
            }
        }
        assert_int_equal(score_crops(&ctx, &c, 3, &(pa_crops){.seed = SEED, .seed_too = true, .stop = NULL}, &score),
                         PA_OK);
        check_same(&score, &expected);
        assert_int_equal(score.seed_crops, expected.seed_crops);
        assert_true(fabs(pa_score_loss_seed(&score) - expected.seed_sum / (double)expected.seed_crops) < 1e-6);
        assert_int_equal(score_crops(&ctx, &c, 4, &(pa_crops){.seed = SEED, .seed_too = false, .stop = NULL}, &without),
                         PA_OK);
        const volatile sig_atomic_t stop = 1;
        pa_score none;
        assert_int_equal(score_crops(&ctx, &c, 4, &(pa_crops){.seed = SEED, .seed_too = false, .stop = &stop}, &none),
                         PA_STOPPED);
        assert_memory_equal(without.nats, score.nats, sizeof score.nats);
        assert_true(isnan(pa_score_loss_seed(&without)));
    }
}

static void refuses(void **state) {
    (void)state;
    corpus c;
    pa_measure measure = {0};
    pa_score score;
    make(&c);
    pa_context ctx = fake_context(8, 3, 4, 0);
    for (int stride = -1; stride <= 6; stride += 7) {
        assert_int_equal(score_pieces(&ctx, &c, 0, stride, 4, &measure), PA_USAGE);
        assert_non_null(strstr(err.text, "stride: expected 1 to 5"));
    }
    ctx.fail_at = 3;
    assert_int_equal(score_pieces(&ctx, &c, 0, 0, 4, &measure), PA_FAIL);
    assert_string_equal(err.text, "the device is on fire");
    ctx.calls = 0;
    assert_int_equal(score_crops(&ctx, &c, 4, &(pa_crops){.seed = 1, .seed_too = true, .stop = NULL}, &score), PA_FAIL);
    ctx.model.vocab = 100;
    assert_int_equal(score_crops(&ctx, &c, 4, &(pa_crops){.seed = 1}, &score), PA_USAGE);
    assert_non_null(strstr(err.text, "model.vocab: expected 390"));
    assert_int_equal(score_pieces(&ctx, &c, 0, 0, 4, &measure), PA_USAGE);
    assert_non_null(strstr(err.text, "model.vocab: expected 390"));
    pa_measure_clear(&measure);
}

// Rows' bounds, over more tokens than the pieces above have.
static void rows(void **state) {
    (void)state;
    enum { COUNT = 20000 };
    static uint16_t token[COUNT], best[COUNT];
    static float nats[COUNT];
    pa_measure m;
    assert_int_equal(pa_measure_init(&m, 1, &err), PA_OK);
    pa_measure_add(&m, token, &(patrain_scored){.first = 1, .count = 5, .nats = nats, .best = best, .context = 1});
    pa_measure_add(&m, token,
                   &(patrain_scored){.first = 6, .count = COUNT - 6, .nats = nats, .best = best, .context = 6});
    const int64_t position[] = {16, 48, 192, 768, 3072, COUNT - 1 - 4096};
    const int64_t context[] = {64, 64, 128, 256, 512, 1024, 2048, 4096, 8192, COUNT - 1 - 16384};
    for (int r = 0; r < PA_POSITIONS; r++) assert_int_equal(m.position[r].tokens, position[r]);
    for (int r = 0; r < PA_CONTEXTS; r++) assert_int_equal(m.context[r].tokens, r < 10 ? context[r] : 0);
    for (int r = 1; r < PA_POSITIONS; r++) assert_int_equal(m.position[r].from, m.position[r - 1].to + 1);
    for (int r = 1; r < PA_CONTEXTS; r++) assert_int_equal(m.context[r].from, m.context[r - 1].to + 1);
    pa_measure_clear(&m);
}

// By hand, and Student's t from a table.
static void estimates(void **state) {
    (void)state;
    static const struct {
        size_t pieces;
        double nats[6], base[6];
        int64_t tokens[6];
        double mean, error, t;
    } row[] = {
        {2, {3, 5}, {0}, {1, 1}, 4, 1, 12.7062},             // the error of a plain mean, sqrt(2 (1 + 1)) / 2
        {3, {2, 4, 6}, {0}, {1, 2, 3}, 2, 0, 4.3027},        // equal means: none
        {4, {2, 0, 6, 0}, {0}, {1, 0, 3, 0}, 2, 0, 12.7062}, // pieces without a token don't count
        {3, {5, 4, 9}, {4, 4, 4}, {1, 2, 3}, 1, 0.5773502691896258, 4.3027}, // differences 1, 0 and 5: sqrt(3/2 (0 + 4
                                                                             // + 4)) / 6
        {6, {1, 2, 3, 4, 5, 6}, {0}, {1, 1, 1, 1, 1, 1}, 3.5, 0.7637626158259734, 2.5706},
    };
    for (size_t r = 0; r < sizeof row / sizeof *row; r++) {
        pa_measure m, base;
        pa_estimate e;
        char name[32];
        assert_int_equal(pa_measure_init(&m, row[r].pieces, &err), PA_OK);
        assert_int_equal(pa_measure_init(&base, row[r].pieces, &err), PA_OK);
        for (size_t i = 0; i < row[r].pieces; i++) {
            m.piece[i] = (pa_measure_sum){row[r].nats[i], row[r].tokens[i]};
            base.piece[i] = (pa_measure_sum){row[r].base[i], row[r].tokens[i]};
        }
        snprintf(name, sizeof name, "row %zu", r);
        assert_int_equal(pa_measure_difference(&m, &base, &e, &err), PA_OK);
        check_close(name, e.mean, row[r].mean);
        check_close(name, e.error, row[r].error);
        if (fabs(e.high - e.mean - row[r].t * e.error) > 1e-3 * e.error ||
            fabs(e.mean - e.low - row[r].t * e.error) > 1e-3 * e.error)
            fail_msg("%s: %g to %g, expected %g errors from %g", name, e.low, e.high, row[r].t, e.mean);
        base.piece[1].tokens++;
        assert_int_equal(pa_measure_difference(&m, &base, &e, &err), PA_DATA);
        assert_non_null(strstr(err.text, "piece 1: expected two models scored on the same tokens"));
        base.pieces--;
        assert_int_equal(pa_measure_difference(&m, &base, &e, &err), PA_DATA);
        m.pieces = 1;
        e = pa_measure_mean(&m);
        assert_true(!isnan(e.mean) && isnan(e.error) && isnan(e.low) && isnan(e.high)); // no interval from one piece
        pa_measure_clear(&m);
        pa_measure_clear(&base);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_token_once), cmocka_unit_test(counts),    cmocka_unit_test(rows),
        cmocka_unit_test(estimates),        cmocka_unit_test(seed_loss), cmocka_unit_test(refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
