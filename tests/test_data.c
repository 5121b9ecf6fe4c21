// test_data.c: what a step trains on: windows by (seed, number) alone, crops and shuffles that are uniform, augmentation that keeps the
// music, kept prefix positions. Token files themselves are tested with the tokenizer.
//
// Tests of uniformity count draws in n equally likely boxes. Pearson's sum over them is chi-square with n - 1 degrees of freedom: mean
// n - 1, deviation sqrt(2 (n - 1)). Five deviations are the bound; the seeds are fixed, so a test passes always or never.
#include "host/data.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { CONTEXT = 16, MOST_PIECES = 8, MOST_TOKENS = 4096, GUARD = 4 };

typedef struct {
    pa_tokens tokens;
    pa_config config;
    uint16_t token[MOST_TOKENS];
    int64_t offset[MOST_PIECES + 1];
} corpus;

// Pieces of these lengths; the corpus' k-th token is k mod 256, notes only, so that a token tells where it is from while there are few.
static void make(corpus *c, const int *length, int pieces) {
    *c = (corpus){.config = pa_config_default()};
    c->config.model.context = CONTEXT, c->config.model.prefix = 8;
    for (int p = 0; p < pieces; p++) c->offset[p + 1] = c->offset[p] + length[p];
    for (int i = 0; i < c->offset[pieces]; i++) c->token[i] = (uint16_t)(i % PA_TIME_SHIFT);
    c->tokens = (pa_tokens){.tokens = c->token, .offsets = c->offset, .pieces = pieces};
}

static void start(pa_sampler *s, const corpus *c) {
    pa_err err;
    if (pa_sampler_init(s, &c->tokens, &c->config, &err)) fail_msg("%s", err.text);
}

static double pearson(const int *count, int boxes, double total) {
    double sum = 0, expected = total / boxes;
    for (int i = 0; i < boxes; i++) sum += (count[i] - expected) * (count[i] - expected) / expected;
    return sum;
}

static void check_uniform(const int *count, int boxes, double total) {
    double chi = pearson(count, boxes, total), most = boxes - 1 + 5 * sqrt(2.0 * (boxes - 1));
    if (!(chi < most)) fail_msg("chi-square %g over %d boxes, expected below %g", chi, boxes, most);
}

static int piece_of(const corpus *c, uint16_t first) {
    for (int p = 0; p < c->tokens.pieces; p++)
        if (first < c->offset[p + 1]) return p;
    fail_msg("token %d is of no piece", first);
    return -1;
}

static void an_epoch_visits_each_piece_once(void **state) {
    (void)state;
    corpus c;
    pa_sampler s;
    uint16_t w[CONTEXT + 1];
    int order[2][6][6], equal = 0;
    make(&c, (int[]){20, 17, 30, 1, 25, 40}, 6);
    for (int seed = 0; seed < 2; seed++) {
        c.config.train.seed = seed;
        start(&s, &c);
        assert_int_equal(s.epoch_windows, 6);
        for (int epoch = 0; epoch < 6; epoch++) {
            unsigned seen = 0;
            for (int i = 0; i < 6; i++) {
                pa_sampler_window(&s, (uint64_t)(6 * epoch + i), w);
                order[seed][epoch][i] = piece_of(&c, w[0]);
                seen |= 1u << order[seed][epoch][i];
            }
            assert_int_equal(seen, 63);
        }
        pa_sampler_clear(&s);
    }
    for (int i = 0; i < 12; i++)
        for (int j = 0; j < i; j++) equal += !memcmp(order[i / 6][i % 6], order[j / 6][j % 6], sizeof order[0][0]);
    assert_true(equal <= 1); // 66 pairs, each equal once in 720
}

static void shuffles_are_uniform(void **state) {
    (void)state;
    enum { EPOCHS = 2400 };
    corpus c;
    pa_sampler s;
    uint16_t w[CONTEXT + 1];
    int count[24] = {0};
    make(&c, (int[]){20, 20, 20, 20}, 4);
    start(&s, &c);
    for (int epoch = 0; epoch < EPOCHS; epoch++) {
        int p[4], rank = 0;
        for (int i = 0; i < 4; i++) {
            pa_sampler_window(&s, (uint64_t)(4 * epoch + i), w);
            p[i] = piece_of(&c, w[0]);
        }
        for (int i = 0; i < 4; i++) { // the permutation's number, in mixed radix
            int less = 0;
            for (int j = i + 1; j < 4; j++) less += p[j] < p[i];
            rank = rank * (4 - i) + less;
        }
        count[rank]++;
    }
    check_uniform(count, 24, EPOCHS);
    pa_sampler_clear(&s);
}

// In whatever order windows are asked for (other ranks, other micro-batches, after a stop), with all that is drawn switched on.
static void a_window_depends_on_its_number_alone(void **state) {
    (void)state;
    enum { WINDOWS = 60 };
    corpus c;
    pa_sampler s, other;
    uint16_t first[WINDOWS][CONTEXT + 1], again[CONTEXT + 1];
    make(&c, (int[]){20, 9, 33, 47}, 4);
    c.config.data.augment_transpose = 3, c.config.data.augment_stretch = 0.05, c.config.data.augment_velocity = 2;
    for (int sampling = PA_SAMPLING_PIECE; sampling <= PA_SAMPLING_TOKEN; sampling++) {
        c.config.data.sampling = (pa_sampling)sampling;
        start(&s, &c), start(&other, &c);
        for (int w = 0; w < WINDOWS; w++) pa_sampler_window(&s, (uint64_t)w, first[w]);
        for (int i = 0; i < WINDOWS; i++) {
            int w = i * 37 % WINDOWS;
            pa_sampler_window(i % 2 ? &s : &other, (uint64_t)w, again);
            assert_memory_equal(again, first[w], sizeof again);
        }
        int same = 0;
        c.config.train.seed++;
        for (int w = 0; w < WINDOWS; w++) {
            pa_sampler_window(&other, (uint64_t)w, again);
            same += !memcmp(again, first[w], sizeof again);
        }
        assert_true(same < WINDOWS / 4); // a window of 160 or so may come again
        pa_sampler_clear(&s), pa_sampler_clear(&other);
    }
}

static void crops_are_uniform_over_all_that_fit(void **state) {
    (void)state;
    enum { LENGTH = 30, STARTS = LENGTH + 1 - CONTEXT, WINDOWS = 200 * STARTS };
    corpus c;
    pa_sampler s;
    uint16_t w[CONTEXT + 1];
    int count[STARTS] = {0};
    make(&c, (int[]){LENGTH}, 1);
    start(&s, &c);
    for (int i = 0; i < WINDOWS; i++) {
        pa_sampler_window(&s, (uint64_t)i, w);
        assert_true(w[0] < STARTS);
        count[w[0]]++;
        for (int k = 0; k <= CONTEXT; k++) assert_int_equal(w[k], w[0] + k == LENGTH ? PA_END : w[0] + k);
    }
    check_uniform(count, STARTS, WINDOWS);
    pa_sampler_clear(&s);
}

// A piece and its END that fill the window, by one token more and less; and nothing but END.
static void shorter_pieces_end_and_are_filled_up(void **state) {
    (void)state;
    const int lengths[] = {CONTEXT + 1, CONTEXT, CONTEXT - 1, 1, 0};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        corpus c;
        pa_sampler s;
        uint16_t w[CONTEXT + 1];
        make(&c, &lengths[i], 1);
        start(&s, &c);
        for (uint64_t n = 0; n < 20; n++) {
            pa_sampler_window(&s, n, w);
            int first = lengths[i] > CONTEXT ? w[0] : 0;
            assert_true(first <= 1);
            for (int k = 0; k <= CONTEXT; k++) {
                int at = first + k, expected = at < lengths[i] ? at : at == lengths[i] ? PA_END : PA_PAD;
                assert_int_equal(w[k], expected);
            }
        }
        pa_sampler_clear(&s);
    }
}

// Lengths that, each with its END, are whole numbers of boxes of `unit` tokens.
static void check_token_sampling(const int *length, int unit, int boxes) {
    enum { EACH = 400 };
    corpus c;
    pa_sampler s;
    uint16_t w[CONTEXT + 1];
    int count[4] = {0}, box[24] = {0}, k = 0;
    make(&c, length, 4);
    c.config.data.sampling = PA_SAMPLING_TOKEN;
    start(&s, &c);
    assert_int_equal(s.epoch_windows, (c.offset[4] + CONTEXT - 1) / CONTEXT);
    for (int i = 0; i < EACH * boxes; i++) {
        pa_sampler_window(&s, (uint64_t)i, w);
        count[w[0] == PA_END ? 0 : piece_of(&c, w[0])]++;
    }
    for (int p = 0; p < 4; p++) // a piece of n boxes: each gets its share
        for (int n = (length[p] + 1) / unit, i = 0; i < n; i++) box[k++] = count[p] / n;
    assert_int_equal(k, boxes);
    check_uniform(box, boxes, EACH * boxes);
    pa_sampler_clear(&s);
}

static void token_sampling_follows_length(void **state) {
    (void)state;
    check_token_sampling((int[]){19, 39, 59, 119}, 20, 12);
    check_token_sampling((int[]){0, 1, 2, 3}, 1, 10);
}

static void no_pieces_are_refused(void **state) {
    (void)state;
    corpus c;
    pa_sampler s;
    pa_err err;
    make(&c, NULL, 0);
    assert_int_equal(pa_sampler_init(&s, &c.tokens, &c.config, &err), PA_DATA);
    assert_string_equal(err.text, "data/train.safetensors: expected at least one piece, found none");
}

static void kept_positions_are_a_uniform_subset(void **state) {
    (void)state;
    enum { PREFIX = 6, KEPT = 3, SUBSETS = 20, WINDOWS = 200 * SUBSETS };
    int count[1 << PREFIX] = {0}, boxes[SUBSETS], box = 0, same = 0;
    for (uint64_t w = 0; w < WINDOWS; w++) {
        int32_t keep[KEPT + 1] = {0}, again[KEPT + 1] = {0};
        keep[KEPT] = again[KEPT] = -7;
        pa_keep_positions(1, w, PREFIX, KEPT, keep);
        unsigned set = 0;
        for (int i = 0; i < KEPT; i++) {
            assert_in_range(keep[i], 0, PREFIX - 1);
            assert_true(!i || keep[i] > keep[i - 1]);
            set |= 1u << keep[i];
        }
        assert_int_equal(keep[KEPT], -7);
        count[set]++;
        pa_keep_positions(2, w, PREFIX, KEPT, again);
        same += !memcmp(keep, again, sizeof keep);
    }
    for (unsigned set = 0; set < 1 << PREFIX; set++)
        if (__builtin_popcount(set) == KEPT) boxes[box++] = count[set];
    assert_int_equal(box, SUBSETS);
    check_uniform(boxes, SUBSETS, WINDOWS);
    assert_true(abs(same - WINDOWS / SUBSETS) < 5 * sqrt(WINDOWS / SUBSETS)); // another seed draws independently
}

static void all_or_none_of_the_prefix_is_kept(void **state) {
    (void)state;
    int32_t keep[64];
    keep[0] = -7;
    pa_keep_positions(1, 5, 64, 0, keep);
    assert_int_equal(keep[0], -7);
    pa_keep_positions(1, 5, 64, 64, keep);
    for (int i = 0; i < 64; i++) assert_int_equal(keep[i], i);
    assert_int_equal(pa_kept(512, 0.7), 154); // 512 - 358
    assert_int_equal(pa_kept(512, 0), 512);
    assert_int_equal(pa_kept(1, 0.99), 1);
    assert_int_equal(pa_kept(0, 0.7), 0);
}

// ---- augmentation

// A piece as the tokenizer writes them: velocities, notes on and off, pauses of up to 2.5 s as full shifts and a rest.
static void make_music(corpus *c, int tokens, int low, int high, uint64_t seed) {
    make(c, &tokens, 1);
    c->config.model.context = 256;
    for (int i = 0, k = 0; i < tokens; k++) {
        pa_philox r = pa_random(seed, PA_RANDOM_SAMPLE, 0, (uint64_t)k);
        int steps = r.v[0] % 3 ? 0 : (int)(r.v[1] % (r.v[2] % 2 ? 250 : 20)) + 1, pitch = low + (int)(r.v[3] % (unsigned)(high - low + 1));
        for (; steps > 0 && i < tokens; steps -= 100) c->token[i++] = (uint16_t)(PA_TIME_SHIFT + (steps < 100 ? steps : 100) - 1);
        if (i < tokens && k % 3 == 0) c->token[i++] = (uint16_t)(PA_VELOCITY + r.v[2] % 32);
        if (i < tokens) c->token[i++] = (uint16_t)((k % 2 ? PA_NOTE_OFF : PA_NOTE_ON) + pitch);
    }
}

// What a window says, without its time shifts: each event with the clock at it, in steps of 10 ms.
typedef struct {
    int count, token[600], clock[600];
} events;

static void read_events(events *e, const uint16_t *w, int length) {
    int clock = 0, shift = 0;
    e->count = 0;
    for (int i = 0; i < length; i++) {
        assert_in_range(w[i], 0, PA_PAD);
        if (w[i] >= PA_TIME_SHIFT && w[i] < PA_VELOCITY) {
            assert_true(!shift || shift == 100); // full shifts first, as the tokenizer writes them
            shift = w[i] - PA_TIME_SHIFT + 1;
            clock += shift;
            continue;
        }
        shift = 0;
        e->token[e->count] = w[i], e->clock[e->count++] = clock;
    }
}

// Windows with and without augmentation, drawn from the same start, as events.
static void draw_both(corpus *c, uint64_t w, events *plain, events *changed) {
    int length = c->config.model.context + 1;
    uint16_t out[600 + GUARD];
    pa_sampler s;
    corpus bare = *c;
    bare.tokens.tokens = bare.token, bare.tokens.offsets = bare.offset;
    bare.config.data.augment_stretch = 0, bare.config.data.augment_transpose = bare.config.data.augment_velocity = 0;
    for (int i = 0; i < 2; i++) {
        start(&s, i ? c : &bare);
        memset(out, 0xab, sizeof out);
        pa_sampler_window(&s, w, out);
        for (int k = 0; k < GUARD; k++) assert_int_equal(out[length + k], 0xabab); // context + 1 and no more
        read_events(i ? changed : plain, out, length);
        pa_sampler_clear(&s);
    }
}

static int common(const events *a, const events *b) {
    return a->count < b->count ? a->count : b->count;
}

static void transposition_keeps_intervals_and_the_piano(void **state) {
    (void)state;
    corpus c;
    events plain, changed;
    int count[7] = {0};
    make_music(&c, 2000, 30, 100, 5);
    c.config.data.augment_transpose = 3;
    for (uint64_t w = 0; w < 350; w++) {
        int shift = 99;
        draw_both(&c, w, &plain, &changed);
        assert_int_equal(plain.count, changed.count);
        for (int i = 0; i < plain.count; i++) {
            int t = plain.token[i], by = changed.token[i] - t;
            assert_int_equal(plain.clock[i], changed.clock[i]);
            if (t >= PA_TIME_SHIFT) {
                assert_int_equal(by, 0);
                continue;
            }
            if (shift == 99) shift = by;
            assert_int_equal(by, shift);
            assert_true((t < PA_NOTE_OFF) == (changed.token[i] < PA_NOTE_OFF));
        }
        assert_in_range(shift + 3, 0, 6);
        count[shift + 3]++;
    }
    check_uniform(count, 7, 350);
}

static void transposition_stops_at_the_last_key(void **state) {
    (void)state;
    const struct {
        int low, high, down, up;
    } kase[] = {{21, 60, 0, 5}, {60, 108, -5, 0}, {22, 106, -1, 2}, {21, 108, 0, 0}, {15, 60, 0, 5}, {60, 120, -5, 0}};
    for (size_t k = 0; k < sizeof kase / sizeof *kase; k++) {
        corpus c;
        events plain, changed;
        int least = 99, most = -99;
        make_music(&c, 2000, kase[k].low, kase[k].high, 6);
        for (int i = 0; i < 2000; i += 40) c.token[i] = (uint16_t)kase[k].low, c.token[i + 1] = (uint16_t)kase[k].high;
        c.config.data.augment_transpose = 5;
        for (uint64_t w = 0; w < 60; w++) {
            draw_both(&c, w, &plain, &changed);
            for (int i = 0; i < common(&plain, &changed); i++) {
                int by = changed.token[i] - plain.token[i];
                least = by < least ? by : least, most = by > most ? by : most;
            }
        }
        assert_int_equal(least, kase[k].down);
        assert_int_equal(most, kase[k].up);
    }
}

static void velocity_moves_together_and_clamps(void **state) {
    (void)state;
    corpus c;
    events plain, changed;
    int count[9] = {0};
    make_music(&c, 2000, 30, 100, 7);
    c.config.data.augment_velocity = 4;
    for (uint64_t w = 0; w < 450; w++) {
        int by = 0;
        draw_both(&c, w, &plain, &changed);
        assert_int_equal(plain.count, changed.count);
        for (int i = 0; i < plain.count; i++) // the widest is that of bins that don't meet the ends
            if (abs(changed.token[i] - plain.token[i]) > abs(by)) by = changed.token[i] - plain.token[i];
        for (int i = 0; i < plain.count; i++) {
            int bin = plain.token[i] - PA_VELOCITY, to = bin + by < 0 ? 0 : bin + by > 31 ? 31 : bin + by;
            bool velocity = plain.token[i] >= PA_VELOCITY && plain.token[i] < PA_END;
            assert_int_equal(changed.token[i], velocity ? PA_VELOCITY + to : plain.token[i]);
        }
        count[by + 4]++;
    }
    check_uniform(count, 9, 450);
}

// One factor explains every event's time within half a step: nothing drifts.
static void stretching_rounds_the_clock_and_never_drifts(void **state) {
    (void)state;
    corpus c;
    events plain, changed;
    double least = 2, most = 0, sum = 0;
    make_music(&c, 4000, 30, 100, 8);
    c.config.data.augment_stretch = 0.05;
    for (uint64_t w = 0; w < 200; w++) {
        double low = 0.95, high = 1.05;
        draw_both(&c, w, &plain, &changed);
        for (int i = 0; i < common(&plain, &changed); i++) {
            assert_int_equal(plain.token[i], changed.token[i]);
            if (!plain.clock[i]) continue;
            low = fmax(low, (changed.clock[i] - 0.5) / plain.clock[i]), high = fmin(high, (changed.clock[i] + 0.5) / plain.clock[i]);
        }
        assert_true(low <= high);
        least = fmin(least, low), most = fmax(most, high), sum += (low + high) / 2;
    }
    assert_true(least < 0.96 && most > 1.04);
    assert_true(fabs(sum / 200 - 1) < 5 * 0.05 / sqrt(3.0 * 200)); // uniform in +-0.05: deviation 0.05 / sqrt 3
}

// However strongly time shrinks, and however many shifts vanish with it, the window goes on to its end or the piece's.
static void a_window_is_full_until_its_piece_ends(void **state) {
    (void)state;
    for (int far = 0; far < 2; far++) {
        corpus c;
        events plain, changed;
        make_music(&c, 4000, 30, 100, 9);
        for (int i = 0; far && i < 4000; i++) // pauses of 1.01 s: two tokens, that become one
            c.token[i] = (uint16_t)(i % 3 == 0 ? 60 : i % 3 == 1 ? PA_TIME_SHIFT + 99 : PA_TIME_SHIFT);
        c.config.data.augment_stretch = far ? 0.05 : 0.9;
        c.config.data.augment_transpose = 2;
        for (uint64_t w = 0; w < 200; w++) {
            bool ended = false;
            draw_both(&c, w, &plain, &changed);
            for (int i = 0; i < changed.count; i++) {
                assert_true(ended == (changed.token[i] == PA_PAD));
                ended = ended || changed.token[i] == PA_END;
            }
        }
    }
}

static void no_augmentation_is_the_identity(void **state) {
    (void)state;
    corpus c;
    events plain, changed;
    make_music(&c, 2000, 30, 100, 10);
    c.config.data.augment_stretch = 1e-12; // through the same code, and nothing to change
    for (uint64_t w = 0; w < 100; w++) {
        draw_both(&c, w, &plain, &changed);
        assert_memory_equal(&plain, &changed, sizeof(int) * (size_t)(1 + plain.count));
        assert_memory_equal(plain.clock, changed.clock, sizeof(int) * (size_t)plain.count);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_epoch_visits_each_piece_once),
        cmocka_unit_test(shuffles_are_uniform),
        cmocka_unit_test(a_window_depends_on_its_number_alone),
        cmocka_unit_test(crops_are_uniform_over_all_that_fit),
        cmocka_unit_test(shorter_pieces_end_and_are_filled_up),
        cmocka_unit_test(token_sampling_follows_length),
        cmocka_unit_test(no_pieces_are_refused),
        cmocka_unit_test(kept_positions_are_a_uniform_subset),
        cmocka_unit_test(all_or_none_of_the_prefix_is_kept),
        cmocka_unit_test(transposition_keeps_intervals_and_the_piano),
        cmocka_unit_test(transposition_stops_at_the_last_key),
        cmocka_unit_test(velocity_moves_together_and_clamps),
        cmocka_unit_test(stretching_rounds_the_clock_and_never_drifts),
        cmocka_unit_test(a_window_is_full_until_its_piece_ends),
        cmocka_unit_test(no_augmentation_is_the_identity),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
