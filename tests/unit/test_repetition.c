// test_repetition.c: the measures of repetition against their definitions, tried out by brute force.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "host/base/philox.h"
#include "host/play/repetition.h"

enum { MOST = 300 };

static pa_repetition measure(const uint8_t *pitch, size_t first, size_t count) {
    pa_note note[MOST] = {0};
    pa_repetition r;
    pa_err err;
    for (size_t i = 0; i < count; i++)
        note[i] = (pa_note){(double)i, (double)i + 1, pitch[i], (uint8_t)(40 + i % 3), 0};
    if (pa_repetition_measure(note, first, count, &r, &err)) fail_msg("%s", err.text);
    return r;
}

// Whether the run of `length` pitches that ends with note `at` was played before.
static bool heard_before(const uint8_t *pitch, size_t at, size_t length) {
    for (size_t end = length - 1; end < at; end++)
        if (!memcmp(pitch + end + 1 - length, pitch + at + 1 - length, length)) return true;
    return false;
}

static void by_definition(void **state) {
    (void)state;
    uint8_t pitch[MOST];
    for (uint64_t seed = 0; seed < 60; seed++) {
        size_t count = (size_t)pa_below(pa_random(seed, 1, 0, 0), MOST),
               first = count ? (size_t)pa_below(pa_random(seed, 1, 0, 1), count) : 0;
        size_t period = 1 + (size_t)pa_below(pa_random(seed, 1, 0, 2), 60), longest = 0, runs = 0, heard = 0;
        int pitches = 0;
        for (size_t i = 0; i < count; i++) { // a loop with slips
            bool slips = i < period || pa_uniform(pa_random(seed, 2, 0, i)) < 0.03;
            pitch[i] = slips ? (uint8_t)(60 + pa_below(pa_random(seed, 3, 0, i), 6)) : pitch[i - period];
        }
        for (size_t i = first; i < count; i++) {
            for (size_t n = longest + 1; n <= i && heard_before(pitch, i, n); n++) longest = n;
            runs += i + 1 >= PA_RUN;
            heard += i + 1 >= PA_RUN && heard_before(pitch, i, PA_RUN);
            pitches += !memchr(pitch + first, pitch[i], i - first);
        }
        pa_repetition r = measure(pitch, first, count);
        assert_int_equal(r.notes, count - first);
        assert_int_equal(r.longest, longest);
        assert_int_equal(r.pitches, pitches);
        assert_true(fabs(r.heard - (runs ? (double)heard / (double)runs : 0)) < 1e-12);
    }
}

static void known_pieces(void **state) {
    (void)state;
    uint8_t pitch[MOST];
    for (size_t i = 0; i < 128; i++) pitch[i] = (uint8_t)i; // a scale repeats nothing
    pa_repetition r = measure(pitch, 0, 128);
    assert_true(r.heard == 0 && r.longest == 0 && r.pitches == 128);
    for (size_t i = 0; i < 200; i++) pitch[i] = (uint8_t)(60 + i % 20); // stuck after its first 20 notes
    r = measure(pitch, 100, 200);
    assert_true(r.heard == 1 && r.longest == 180 && r.pitches == 20 && r.notes == 100);
    assert_true(fabs(r.velocity - 41) < 0.1);
    r = measure(pitch, 0, 0);
    assert_true(r.heard == 0 && r.longest == 0 && r.velocity == 0 && r.notes == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(by_definition), cmocka_unit_test(known_pieces)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
