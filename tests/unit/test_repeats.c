// test_repeats.c: the penalty of notes that repeat.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "host/lib/repeats.h"

// 60 64, a second, 60 67, two seconds, 60 64, half a second, 60: 64 followed 60 3.5 and 0.5 s ago, 67 2.5 s ago.
static const uint16_t recent[] = {60, 64, 356, 355, 60, 188, 67, 355, 355, 60, 64, 305, 60};

static float expected(double first, double second) {
    return (float)(1 - log(2) * (exp(-first / 10) + exp(-second / 10)));
}

static void strokes_that_followed_the_latest_pitch(void **state) {
    (void)state;
    float logits[PA_VOCAB];
    int count = sizeof recent / sizeof *recent;
    for (int t = 0; t < PA_VOCAB; t++) logits[t] = 1;
    pa_repeats_penalise(recent, count, 2, logits);
    for (int t = 0; t < PA_VOCAB; t++) {
        float wanted = t == 64 ? expected(3.5, 0.5) : t == 67 ? expected(2.5, INFINITY) : 1;
        if (fabsf(logits[t] - wanted) > 1e-6f)
            fail_msg("token %d: expected %g, found %g", t, (double)wanted, (double)logits[t]);
    }
    for (int t = 0; t < PA_VOCAB; t++) logits[t] = 1;
    pa_repeats_penalise(recent, count - 1, 2, logits); // 64 is the latest, and 60 followed it
    pa_repeats_penalise(recent, 1, 2, logits);
    pa_repeats_penalise(recent, 0, 2, logits);
    for (int t = 0; t < PA_VOCAB; t++)
        if (t != 60 && logits[t] != 1) fail_msg("token %d: expected 1, found %g", t, (double)logits[t]);
    assert_true(logits[60] < 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(strokes_that_followed_the_latest_pitch)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
