// test_windows.c: what a step trains on: windows by only (seed, number), crops and shuffles that are uniform, kept
// prefix positions. Augmentation is in test_augment.c; token files themselves are tested with the tokenizer.
#include "tests/support/made_corpus.h"
#include "tests/support/rows.h"

static int piece_of(const corpus *c, uint16_t first) {
    for (int p = 0; p < c->memory.set.pieces; p++)
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

// A file of weight 2 is two parts: its pieces come twice an epoch, and by tokens twice as often.
static void weights_repeat_pieces(void **state) {
    (void)state;
    corpus c, other;
    pa_sampler s;
    uint16_t w[CONTEXT + 1];
    int count[2] = {0};
    make(&c, (int[]){20, 17}, 2);
    make(&other, (int[]){30, 9, 41}, 3);
    for (int i = 0; i < 80; i++) other.token[i] = (uint16_t)(100 + i);
    pa_token_part part[] = {{&c.memory.file, 0, 0}, {&c.memory.file, 2, 37}, {&other.memory.file, 4, 74}};
    c.memory.set = (pa_token_set){.part = part, .parts = 3, .pieces = 7, .tokens = 154};
    start(&s, &c);
    assert_int_equal(s.epoch_windows, 7);
    for (int epoch = 0; epoch < 5; epoch++) {
        int seen[5] = {0};
        for (int i = 0; i < 7; i++) {
            pa_sampler_window(&s, (uint64_t)(7 * epoch + i), w);
            seen[w[0] < 20 ? 0 : w[0] < 37 ? 1 : w[0] < 130 ? 2 : w[0] < 139 ? 3 : 4]++;
        }
        assert_memory_equal(seen, ((int[]){2, 2, 1, 1, 1}), sizeof seen);
    }
    pa_sampler_clear(&s);
    c.config.data.sampling = PA_SAMPLING_TOKEN;
    start(&s, &c);
    assert_int_equal(s.epoch_windows, (154 + CONTEXT - 1) / CONTEXT);
    for (int i = 0; i < 16100; i++) { // 2 x (21 + 18) and 31 + 10 + 42 tokens, each with its END
        pa_sampler_window(&s, (uint64_t)i, w);
        count[w[0] >= 100]++;
    }
    assert_true(abs(count[0] - 16100 * 78 / 161) < 5 * sqrt(16100 * 78.0 / 161 * 83 / 161));
    pa_sampler_clear(&s);
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

// A share of each step's windows, its last ones, begins a piece, with one prefix; the others are as they are without.
static void some_windows_begin_a_piece(void **state) {
    (void)state;
    enum { STEPS = 3200, BATCH = 8, PARTS = 16, LENGTH = 60 };
    const double shares[] = {0, 0.1, 0.5, 1};
    EACH_ROW (i, shares, NULL) {
        corpus c, plain;
        pa_sampler s, other;
        uint16_t w[CONTEXT + 1], without[CONTEXT + 1];
        int total = 0, none = 0, with_starts = 0, part[PARTS] = {0};
        make(&c, (int[]){LENGTH, LENGTH, LENGTH}, 3);
        make(&plain, (int[]){LENGTH, LENGTH, LENGTH}, 3);
        c.config.data.piece_starts = shares[i];
        c.config.model.prefix = 10 * PARTS;
        start(&s, &c);
        start(&other, &plain);
        for (uint64_t step = 0; step < STEPS; step++) {
            int starts = pa_step_starts(&c.config, step), prefix = pa_window_prefix(&c.config, BATCH * (step + 1) - 1);
            double mean = shares[i] * BATCH;
            assert_true(starts >= floor(mean) && starts <= ceil(mean));
            total += starts;
            with_starts += starts > 0;
            none += prefix == 0;
            if (prefix > 0 && starts) part[prefix / 10 - 1]++;
            for (int k = 0; k < BATCH; k++) {
                uint64_t number = BATCH * step + (uint64_t)k;
                pa_sampler_window(&s, number, w);
                pa_sampler_window(&other, number, without);
                bool begins = k >= BATCH - starts;
                assert_int_equal(pa_window_prefix(&c.config, number), begins ? prefix : 10 * PARTS);
                if (begins)
                    assert_int_equal(w[0] % LENGTH, 0);
                else
                    assert_memory_equal(w, without, sizeof w);
            }
        }
        assert_true(fabs(total - shares[i] * BATCH * STEPS) <= 5 * sqrt(STEPS) / 2);
        assert_true(abs(none - with_starts / 2) <= 5 * sqrt(with_starts) / 2);
        if (with_starts) check_uniform(part, PARTS, with_starts - none);
        pa_sampler_clear(&s);
        pa_sampler_clear(&other);
    }
}

// In whatever order windows are asked for (other ranks, other micro-batches, after a stop), with all that is drawn
// switched on.
static void a_window_depends_on_its_number_alone(void **state) {
    (void)state;
    enum { WINDOWS = 60 };
    corpus c;
    pa_sampler s, other;
    uint16_t first[WINDOWS][CONTEXT + 1], again[CONTEXT + 1];
    make(&c, (int[]){20, 9, 33, 47}, 4);
    c.config.data.augment_transpose = 3;
    c.config.data.augment_stretch = 0.05;
    c.config.data.augment_velocity = 2;
    c.config.data.piece_starts = 0.3;
    for (int sampling = PA_SAMPLING_PIECE; sampling <= PA_SAMPLING_TOKEN; sampling++) {
        c.config.data.sampling = (pa_sampling)sampling;
        start(&s, &c);
        start(&other, &c);
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
        pa_sampler_clear(&s);
        pa_sampler_clear(&other);
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
    EACH_ROW (i, lengths, NULL) {
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
    assert_int_equal(pa_sampler_init(&s, &c.memory.set, &c.config, &err), PA_DATA);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_epoch_visits_each_piece_once),
        cmocka_unit_test(weights_repeat_pieces),
        cmocka_unit_test(shuffles_are_uniform),
        cmocka_unit_test(some_windows_begin_a_piece),
        cmocka_unit_test(a_window_depends_on_its_number_alone),
        cmocka_unit_test(crops_are_uniform_over_all_that_fit),
        cmocka_unit_test(shorter_pieces_end_and_are_filled_up),
        cmocka_unit_test(token_sampling_follows_length),
        cmocka_unit_test(no_pieces_are_refused),
        cmocka_unit_test(kept_positions_are_a_uniform_subset),
        cmocka_unit_test(all_or_none_of_the_prefix_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
