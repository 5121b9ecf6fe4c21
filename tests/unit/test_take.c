// test_take.c: a take's keys, cut and written as tokens.
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "host/serve/latency.h"
#include "host/serve/take.h"
#include "tokenizer/tokens.h"

static void add(pa_take *t, int step, int pitch, int velocity, bool model) {
    pa_err err;
    assert_int_equal(pa_take_add(t, (pa_stroke){step, (uint8_t)pitch, (uint8_t)velocity, model}, &err), PA_OK);
}

static void check_key(const pa_take *t, size_t i, int step, int pitch, int velocity) {
    assert_true(i < t->keys);
    assert_int_equal(t->key[i].step, step);
    assert_int_equal(t->key[i].pitch, pitch);
    assert_int_equal(t->key[i].velocity, velocity);
}

static void keys_alternate(void **state) {
    pa_take t = {0};
    (void)state;
    add(&t, 10, 60, 80, false);
    add(&t, 20, 61, 0, false); // is up
    assert_int_equal(t.keys, 1);
    add(&t, 30, 60, 70, true); // is down
    assert_int_equal(t.keys, 3);
    check_key(&t, 1, 30, 60, 0);
    check_key(&t, 2, 30, 60, 70);
    add(&t, 5, 60, 0, false); // earlier than the end
    check_key(&t, 3, 30, 60, 0);
    pa_take_clear(&t);
}

static void cut_releases(void **state) {
    pa_take t = {0};
    pa_err err;
    (void)state;
    add(&t, 0, 50, 80, false);
    add(&t, 10, 60, 80, true);
    add(&t, 40, 62, 80, true);
    add(&t, 50, 60, 0, true);
    assert_int_equal(pa_take_cut(&t, 30, false, &err), PA_OK);
    assert_int_equal(t.keys, 3); // the model's key is up, the player's stays
    check_key(&t, 2, 30, 60, 0);
    assert_true(t.down[50]);
    assert_int_equal(t.end, 30);
    assert_int_equal(pa_take_cut(&t, 35, true, &err), PA_OK);
    check_key(&t, 3, 35, 50, 0);
    pa_take_clear(&t);
}

static void is_full(void **state) {
    pa_take t = {0};
    pa_err err;
    (void)state;
    for (int i = 0; i < PA_MOST_KEYS / 2; i++) {
        add(&t, i, 60, 80, false);
        add(&t, i, 60, 0, false);
    }
    assert_int_equal(pa_take_add(&t, (pa_stroke){0, 60, 80, false}, &err), PA_DATA);
    assert_string_equal(err.text, "a take holds at most 50000 notes");
    pa_take_clear(&t);
}

// However many keys are held, they can be released, and the take can be cut and copied.
static void is_full_with_keys_down(void **state) {
    pa_take t = {0}, copy = {0};
    pa_err err;
    int i = 0;
    (void)state;
    while (!pa_take_add(&t, (pa_stroke){i, (uint8_t)(i % 100), 80, false}, &err)) i++;
    assert_string_equal(err.text, "a take holds at most 50000 notes");
    assert_true(pa_take_is_full(&t));
    assert_in_range(t.keys, PA_MOST_KEYS - 102, PA_MOST_KEYS - 100);
    assert_int_equal(pa_take_copy(&copy, &t, t.end, &err), PA_OK);
    assert_int_equal(pa_take_cut(&t, t.end, true, &err), PA_OK);
    assert_int_equal(t.keys, copy.keys);
    for (int pitch = 0; pitch < 128; pitch++) assert_false(t.down[pitch] || copy.down[pitch]);
    pa_take_clear(&t);
    pa_take_clear(&copy);
}

static void tokens_in_parts(void **state) {
    static const uint16_t expected[] = {
        PA_VELOCITY + 19, 60, PA_TIME_SHIFT + 99, PA_TIME_SHIFT + 99, PA_TIME_SHIFT + 49,
        PA_NOTE_OFF + 60, 62, PA_TIME_SHIFT + 9};
    pa_take t = {0}, back = {0};
    pa_take_writer w = {.velocity = -1};
    pa_err err;
    uint16_t *token, all[8];
    size_t count, n = 0;
    (void)state;
    add(&t, 0, 60, 80, false);
    for (int part = 0; part < 2; part++) { // as it grows
        assert_int_equal(pa_take_write(&t, part ? 260 : 0, &w, &token, &count, &err), PA_OK);
        for (size_t i = 0; i < count; i++) all[n++] = token[i];
        free(token);
        if (part) break;
        add(&t, 250, 60, 0, false);
        add(&t, 250, 62, 79, false);
    }
    assert_int_equal(n, 8);
    assert_memory_equal(all, expected, sizeof expected);
    assert_int_equal(pa_take_from_tokens(&back, all, n, &err), PA_OK);
    check_key(&back, 1, 250, 60, 0);
    check_key(&back, 2, 250, 62, 77); // a bin's velocity
    check_key(&back, 3, 260, 62, 0);
    pa_take_clear(&t);
    pa_take_clear(&back);
}

static void quantiles(void **state) {
    static pa_latency l;
    (void)state;
    for (int i = 100; i > 0; i--) pa_latency_add(&l, i);
    assert_float_equal(pa_latency_quantile(&l, 0.5), 50, 0);
    assert_float_equal(pa_latency_quantile(&l, 0.99), 99, 0);
}

int main(void) {
    const struct CMUnitTest test[] = {cmocka_unit_test(keys_alternate),  cmocka_unit_test(cut_releases),
                                      cmocka_unit_test(is_full),         cmocka_unit_test(is_full_with_keys_down),
                                      cmocka_unit_test(tokens_in_parts), cmocka_unit_test(quantiles)};
    return cmocka_run_group_tests(test, NULL, NULL);
}
