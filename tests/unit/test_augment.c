// test_augment.c: augmented windows keep the music: intervals, order and relative times, within a piano's keys and the
// window's length.
#include "tests/support/made_corpus.h"

enum { GUARD = 4 };

// A piece as the tokenizer writes them: velocities, notes on and off, pauses of up to 2.5 s as full shifts and a rest.
static void make_music(corpus *c, int tokens, int low, int high, uint64_t seed) {
    make(c, &tokens, 1);
    c->config.model.context = 256;
    for (int i = 0, k = 0; i < tokens; k++) {
        pa_philox r = pa_random(seed, PA_RANDOM_SAMPLE, 0, (uint64_t)k);
        int steps = r.v[0] % 3 ? 0 : (int)(r.v[1] % (r.v[2] % 2 ? 250 : 20)) + 1,
            pitch = low + (int)(r.v[3] % (unsigned)(high - low + 1));
        for (; steps > 0 && i < tokens; steps -= 100)
            c->token[i++] = (uint16_t)(PA_TIME_SHIFT + (steps < 100 ? steps : 100) - 1);
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
        e->token[e->count] = w[i];
        e->clock[e->count++] = clock;
    }
}

// Windows with and without augmentation, drawn from the same start, as events.
static void draw_both(corpus *c, uint64_t w, events *plain, events *changed) {
    int length = c->config.model.context + 1;
    uint16_t out[600 + GUARD];
    pa_sampler s;
    corpus bare = *c;
    bare.config.data.augment_stretch = 0;
    bare.config.data.augment_transpose = bare.config.data.augment_velocity = 0;
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
        for (int i = 0; i < 2000; i += 40) {
            c.token[i] = (uint16_t)kase[k].low;
            c.token[i + 1] = (uint16_t)kase[k].high;
        }
        c.config.data.augment_transpose = 5;
        for (uint64_t w = 0; w < 60; w++) {
            draw_both(&c, w, &plain, &changed);
            for (int i = 0; i < common(&plain, &changed); i++) {
                int by = changed.token[i] - plain.token[i];
                least = by < least ? by : least;
                most = by > most ? by : most;
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
            low = fmax(low, (changed.clock[i] - 0.5) / plain.clock[i]);
            high = fmin(high, (changed.clock[i] + 0.5) / plain.clock[i]);
        }
        assert_true(low <= high);
        least = fmin(least, low);
        most = fmax(most, high);
        sum += (low + high) / 2;
    }
    assert_true(least < 0.96 && most > 1.04);
    assert_true(fabs(sum / 200 - 1) < 5 * 0.05 / sqrt(3.0 * 200)); // uniform in +-0.05: deviation 0.05 / sqrt 3
}

// However strongly time shrinks, and however many shifts vanish with it, the window is filled to its end or the
// piece's.
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
        cmocka_unit_test(transposition_keeps_intervals_and_the_piano),
        cmocka_unit_test(transposition_stops_at_the_last_key),
        cmocka_unit_test(velocity_moves_together_and_clamps),
        cmocka_unit_test(stretching_rounds_the_clock_and_never_drifts),
        cmocka_unit_test(a_window_is_full_until_its_piece_ends),
        cmocka_unit_test(no_augmentation_is_the_identity),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
