// test_features.c: features of music that is known, and the distance of takes. All features of generated music are
// compared with an independent computation by tests/programs/test_features.py.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "host/play/pianists.h"

enum { MOST = 1000 };

static pa_note note[MOST];

static pa_features measure(size_t count, double first, double last, const pa_passage *primer) {
    pa_features f;
    pa_err err;
    const pa_passage x = {note, count, first, last};
    if (pa_features_measure(&x, primer, &f, &err)) fail_msg("%s", err.text);
    return f;
}

static void is(const pa_features *f, pa_feature k, double expected) {
    double found = f->value[k];
    if (fabs(found - expected) < 1e-9 || (isnan(found) && isnan(expected))) return;
    fail_msg("%s: expected %g, found %g", pa_feature_name(k), expected, found);
}

static void a_scale(void **state) {
    (void)state;
    // Ten seconds of a chromatic scale, two notes a second of 0.25 s, louder by one each.
    for (size_t i = 0; i < 20; i++)
        note[i] = (pa_note){(double)i / 2, (double)i / 2 + 0.25, (uint8_t)(60 + i), (uint8_t)(40 + i), 0};
    pa_features f = measure(20, 0, 10, NULL);
    is(&f, PA_NOTES_PER_SECOND, 2);
    is(&f, PA_POLYPHONY, 0.5);
    is(&f, PA_NOTE_SECONDS, 0.25);
    is(&f, PA_LONGEST_NOTE, 0.25);
    is(&f, PA_SILENCE, 0);
    is(&f, PA_RESTS, 0);
    is(&f, PA_LOWEST_PITCH, 60);
    is(&f, PA_PITCH, 69.5);
    is(&f, PA_HIGHEST_PITCH, 79);
    is(&f, PA_VELOCITY_MEAN, 49.5);
    is(&f, PA_VELOCITY_SPREAD, sqrt(399.0 / 12));
    is(&f, PA_VELOCITY_CORRELATION, 1);
    is(&f, PA_PITCH_CLASS_CHANGE, 0.2); // C to A, then B flat to G: eight of ten are shared
    is(&f, PA_RHYTHM_ENTROPY, 0);
    is(&f, PA_LOOP, 18);
    is(&f, PA_RETURNS, 14.0 / 15);
    is(&f, PA_OVERLAP, (double)NAN);
    for (int b = 0; b < PA_RHYTHM_BINS; b++) assert_true(f.rhythm[b] == (b == 4)); // 0.25 to 0.5 s
    const pa_passage itself = {note, 20, 0, 10};
    f = measure(20, 0, 10, &itself);
    is(&f, PA_OVERLAP, 1);
    is(&f, PA_DIVERGENCE, 0);
}

static void held_notes_and_rests(void **state) {
    (void)state;
    // One that began before the passage, one that lasts beyond it, and a rest of two seconds in between.
    note[0] = (pa_note){0, 6, 48, 60, 0};
    note[1] = (pa_note){8, 30, 50, 60, 0};
    pa_features f = measure(2, 5, 15, NULL);
    is(&f, PA_NOTES_PER_SECOND, 0.1);
    is(&f, PA_POLYPHONY, 0.8);
    is(&f, PA_LONGEST_NOTE, 22);
    is(&f, PA_SILENCE, 0.2);
    is(&f, PA_RESTS, 0.95);
    is(&f, PA_VELOCITY_CORRELATION, (double)NAN);
    is(&f, PA_RETURNS, (double)NAN);
    f = measure(0, 0, 10, NULL);
    is(&f, PA_SILENCE, 1);
    is(&f, PA_PITCH, (double)NAN);
    f = measure(2, 5, 5, NULL);
    is(&f, PA_SILENCE, (double)NAN);
}

static void a_long_passage_is_a_mean_of_minutes(void **state) {
    (void)state;
    // A note a second in the first minute, four in the second, none in the third.
    size_t n = 0;
    for (size_t i = 0; i < 60; i++) note[n++] = (pa_note){(double)i, (double)i + 1, 60, 50, 0};
    for (size_t i = 0; i < 240; i++) note[n++] = (pa_note){60 + (double)i / 4, 60.1 + (double)i / 4, 66, 50, 0};
    pa_features f = measure(n, 0, 180, NULL);
    is(&f, PA_NOTES_PER_SECOND, 5.0 / 3);
    is(&f, PA_PITCH, 63); // of the parts that have notes
    f = measure(n, 0, 89.9, NULL);
    assert_true(f.value[PA_LOWEST_PITCH] == 60 && f.value[PA_HIGHEST_PITCH] == 66); // one part
    f = measure(n, 0, 90, NULL);
    assert_true(f.value[PA_LOWEST_PITCH] == 60 && f.value[PA_HIGHEST_PITCH] == 63); // two
}

static void distances(void **state) {
    (void)state;
    pa_features expected, primer, take;
    double part[PA_FEATURES];
    for (int f = 0; f < PA_FEATURES; f++) {
        const pa_feature_range *r = pa_pianists_range((pa_feature)f);
        assert_true(r->label && r->low <= r->middle && r->middle <= r->high && r->low < r->high);
        expected.value[f] = primer.value[f] = r->middle;
    }
    assert_true(pa_pianists_distance(&expected, NULL, part) == 0);
    primer.value[PA_NOTES_PER_SECOND] = 100; // nobody plays like that
    primer.value[PA_LOOP] = 100;             // and a take is not expected to repeat the primer's loops
    take = expected;
    take.value[PA_NOTES_PER_SECOND] = pa_pianists_range(PA_NOTES_PER_SECOND)->high;
    assert_true(pa_pianists_distance(&take, &primer, part) == 0);
    assert_true(pa_pianists_excess(PA_NOTES_PER_SECOND, 17) == 0 && pa_pianists_excess(PA_NOTES_PER_SECOND, 40) > 1);
    take.value[PA_LONGEST_NOTE] = 1; // shorter notes than usual do not count, longer ones do
    assert_true(pa_pianists_distance(&take, &primer, part) == 0);
    take.value[PA_LONGEST_NOTE] = 60;
    assert_true(pa_pianists_distance(&take, &primer, part) == 1.0 / PA_FEATURES && part[PA_LONGEST_NOTE] == 1);
    take.value[PA_PITCH] = (double)NAN;
    take.value[PA_OVERLAP] = (double)NAN;
    assert_true(pa_pianists_distance(&take, &primer, part) == 3.0 / PA_FEATURES);
    assert_true(pa_pianists_distance(&take, NULL, part) > 2.0 / PA_FEATURES && part[PA_OVERLAP] == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_scale), cmocka_unit_test(held_notes_and_rests),
                                       cmocka_unit_test(a_long_passage_is_a_mean_of_minutes),
                                       cmocka_unit_test(distances)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
