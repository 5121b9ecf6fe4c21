// test_spike.c: the running bound: its statistics, one spike, a level that stays.
#include "host/base/philox.h"
#include "host/train/spike.h"
#include "tests/support/scratch.h"

#include <math.h>

// Uniform in [2, 4]: mean 3, variance 1 / 3.
static double draw(uint64_t i) {
    return 2 + 2 * pa_uniform(pa_random(5, PA_RANDOM_ORDER, i, 0));
}

static void no_bound_before_there_are_enough(void **state) {
    (void)state;
    pa_running r = {0};
    double sum = 0, squares = 0;
    for (int i = 0; i < PA_SPIKE_STEPS; i++) {
        assert_true(isinf(pa_running_bound(&r)));
        double x = draw((uint64_t)i);
        pa_running_add(&r, x);
        sum += x;
        squares += x * x;
    }
    double mean = sum / PA_SPIKE_STEPS, variance = squares / PA_SPIKE_STEPS - mean * mean; // so far the plain ones
    assert_true(fabs(r.mean - mean) < 1e-12 && fabs(r.variance - variance) < 1e-12);
    assert_true(fabs(pa_running_bound(&r) - (mean + 6 * sqrt(variance))) < 1e-12);
}

static void a_run_that_goes_well_has_no_spike(void **state) {
    (void)state;
    pa_running r = {0};
    for (int i = 0; i < 100000; i++) { // of a bounded noise 6 deviations are never reached: 3 + 6 / sqrt(3) is above 4
        assert_true(draw((uint64_t)i) < pa_running_bound(&r));
        pa_running_add(&r, draw((uint64_t)i));
    }
}

static void each_of_two_spikes_is_found_and_a_level_is_learnt(void **state) {
    (void)state;
    pa_running r = {0};
    uint64_t i = 0;
    for (; i < 500; i++) pa_running_add(&r, draw(i));
    for (int spike = 0; spike < 2; spike++) {
        assert_true(1000 > pa_running_bound(&r));
        pa_running_add(&r, 1000);
        assert_true(pa_running_bound(&r) < 10);
        for (int k = 0; k < 10; k++) pa_running_add(&r, draw(i++));
    }
    int beyond = 0;
    for (int k = 0; k < 1000; k++) {
        beyond += 20 + draw(i) > pa_running_bound(&r);
        pa_running_add(&r, 20 + draw(i++));
    }
    assert_true(beyond > 0 && beyond < 2 * PA_SPIKE_STEPS);
    assert_true(fabs(r.mean - 23) < 1);
}

static void what_does_not_vary_may_rise_a_little(void **state) {
    (void)state;
    pa_running r = {0};
    for (int i = 0; i < 100; i++) pa_running_add(&r, 5);
    assert_true(fabs(pa_running_bound(&r) - 5 * 1.12) < 1e-12);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_bound_before_there_are_enough),
        cmocka_unit_test(a_run_that_goes_well_has_no_spike),
        cmocka_unit_test(each_of_two_spikes_is_found_and_a_level_is_learnt),
        cmocka_unit_test(what_does_not_vary_may_rise_a_little),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
