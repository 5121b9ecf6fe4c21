// test_density.c: how many notes a second a sequence was given and has had of late.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "host/lib/density.h"

// `seconds` of a note every `steps` of 10 ms, at most 100.
static void play(pa_density *d, int steps, int seconds, bool drawn) {
    for (int clock = 0; clock < seconds * PA_STEPS_A_SECOND; clock += steps) {
        pa_density_follow(d, PA_NOTE_ON + 60, drawn);
        pa_density_follow(d, PA_NOTE_OFF + 60, drawn);
        pa_density_follow(d, PA_VELOCITY + 10, drawn);
        pa_density_follow(d, (uint16_t)(PA_TIME_SHIFT + steps - 1), drawn);
    }
}

static void assert_near(double found, double expected) {
    if (fabs(found - expected) > 0.1 * expected) fail_msg("expected about %g, found %g", expected, found);
}

static void is_what_was_given(void **state) {
    (void)state;
    pa_density d = {0};
    assert_true(pa_density_wanted(&d, 1) == 1); // nothing was given
    play(&d, 25, 1, false);
    assert_true(pa_density_wanted(&d, 0.5) == 0.5); // too little
    play(&d, 25, 30, false);
    assert_near(pa_density_wanted(&d, 1), 1);
    play(&d, 25, 10, true);
    assert_near(pa_density_wanted(&d, 1), 1);
    play(&d, 20, 60, true); // 5 notes a second where 4 were given
    assert_near(pa_density_wanted(&d, 1), 0.64);
    play(&d, 12, 60, true);                          // 8.3
    assert_near(pa_density_wanted(&d, 2), 2 * 0.92); // twice as many as given are wanted
    play(&d, 3, 60, true);                           // 33 a second
    assert_near(pa_density_wanted(&d, 1), 0.4);      // at most
    play(&d, 100, 120, true);
    assert_near(pa_density_wanted(&d, 1), 2.5);
    play(&d, 100, 60, false);                    // from here on 1 is given
    assert_near(pa_density_wanted(&d, 1), 1.25); // not quite: the 4 before are not forgotten
}

static void silence_has_a_density(void **state) {
    (void)state;
    pa_density d = {0};
    for (int i = 0; i < 100; i++) pa_density_follow(&d, PA_TIME_SHIFT + 99, false);
    assert_true(pa_density_wanted(&d, 1) > 0 && pa_density_wanted(&d, 1) <= 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_what_was_given),
        cmocka_unit_test(silence_has_a_density),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
