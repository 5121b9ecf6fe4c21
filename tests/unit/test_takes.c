// test_takes.c: where a continuation ends.
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "host/play/takes.h"

enum { MOST = 4000, LIMIT = 1000 };

typedef struct {
    const char *what;
    int64_t seconds;      // of a stroke every 0.5 s
    int64_t stroke, next; // between these two there is none; in steps
    int64_t end;          // expected
} row;

static const row rows[] = {
    {"no pause: at the first stroke from there on", 30, 0, 0, 1000},
    {"the longest pause", 30, 1400, 1480, 1480},
    {"a whole pause, whatever its length", 30, 1200, 1350, 1300},
    {"a whole pause that begins before", 30, 920, 1100, 1020},
    {"a whole pause that is over", 30, 800, 1100, 1000},
    {"a pause that comes too late", 30, 2100, 2190, 1000},
    {"a pause that ends too late", 30, 1990, 2070, 1000},
    {"music that is too short", 5, 0, 0, 500},
};

// Time shifts to `to`.
static size_t wait_until(uint16_t *token, size_t count, int64_t *clock, int64_t to) {
    while (*clock < to) {
        int steps = to - *clock < PA_MOST_STEPS ? (int)(to - *clock) : PA_MOST_STEPS;
        token[count++] = pa_shift_of(steps);
        *clock += steps;
    }
    return count;
}

static void ends(void **state) {
    (void)state;
    int failed = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const row *r = &rows[i];
        uint16_t token[MOST];
        size_t count = 0;
        int64_t clock = 0;
        for (int64_t at = 0; at < 100 * r->seconds; at++) {
            bool skipped = at % 50 || (at > r->stroke && at < r->next);
            if (skipped && at != r->stroke && at != r->next) continue;
            count = wait_until(token, count, &clock, at);
            token[count++] = 60;
            token[count++] = PA_NOTE_OFF + 60;
        }
        count = wait_until(token, count, &clock, 100 * r->seconds);
        int64_t end = pa_take_end(token, count, LIMIT);
        if (end != r->end) print_error("%s: expected %lld, found %lld\n", r->what, (long long)r->end, (long long)end);
        failed += end != r->end;
    }
    assert_int_equal(failed, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(ends)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
