// test_half.c: F16 to float and back.
#include "host/files/half.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
// cmocka needs those first.
#include <cmocka.h>

// Every F16 comes back, and what lies between two of them goes to the nearer one, from halfway to the even one.
static void floats_round_to_the_nearest_half(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x7c00; h++) {
        double low = (double)pa_float_of_f16((uint16_t)h),
               high = h == 0x7bff ? 65536 : (double)pa_float_of_f16((uint16_t)(h + 1));
        float middle = (float)((low + high) / 2);
        uint16_t even = (uint16_t)(h + (h & 1));
        bool right = pa_f16_of_float((float)low) == h && pa_f16_of_float((float)-low) == (h | 0x8000) &&
                     pa_f16_of_float(middle) == even && pa_f16_of_float(nextafterf(middle, 0)) == h &&
                     pa_f16_of_float(nextafterf(middle, INFINITY)) == h + 1;
        if (!right) fail_msg("%04x", h);
    }
    assert_int_equal(pa_f16_of_float(INFINITY), 0x7c00);
    assert_int_equal(pa_f16_of_float(-1e30f), 0xfc00);
    assert_true(isnan(pa_float_of_f16(pa_f16_of_float(NAN))) && isinf(pa_float_of_f16(0x7c00)));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(floats_round_to_the_nearest_half),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
