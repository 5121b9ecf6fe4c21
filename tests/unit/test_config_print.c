// test_config_print.c: a configuration that is printed reads back to the bit; so does a checkpoint's model.
#include "host/files/config.h"
#include "host/files/config_read.h"

#include <math.h>

#include "host/files/config_schema.h"
#include "tests/support/same_config.h"
#include "tests/support/scratch.h"

static pa_err err;

static char *print(const pa_config *c, bool help) {
    char *text = NULL;
    size_t length;
    FILE *f = open_memstream(&text, &length);
    assert_non_null(f);
    pa_config_print(c, help, f);
    assert_int_equal(fclose(f), 0);
    return text;
}

static void expect_round_trip(const pa_config *c) {
    for (int help = 0; help < 2; help++) {
        pa_config again = pa_config_default();
        char *text = print(c, help);
        if (pa_config_parse(&again, "printed", text, strlen(text), &err)) fail_msg("%s", err.text);
        expect_same(c, &again);
        free(text);
    }
}

// ---- round trips

// A plain generator, so that a failure comes again.
static uint64_t next(void) {
    static uint64_t x = 88172645463325252;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return x;
}

// A value within the key's range, now and then one of its ends.
static double draw_number(const pa_key *k) {
    double high = k->high < 9e15 ? k->high : k->type == PA_KEY_INT ? 2147483647.0 : 9007199254740991.0, x;
    switch (next() % 6) {
    case 0:
        x = k->low;
        break;
    case 1:
        x = high;
        break;
    case 2:
        x = nextafter(k->low, INFINITY);
        break;
    case 3:
        x = k->low + (high - k->low) * exp2(-(double)(next() % 40));
        break;
    default:
        x = k->low + (high - k->low) * ((double)(next() >> 11) * 0x1p-53);
    }
    if (k->type != PA_KEY_REAL) x = floor(x);
    if ((k->above_low && x <= k->low) || (k->below_high && x >= high)) x = (k->low + high) / 3;
    return x;
}

static void draw_key(const pa_key *k, pa_config *c) {
    static const char letters[] = "abcXYZ019 /._-=:;#[]\"'%\\\xc3\xbc";
    char *at = (char *)c + k->offset;
    int names = 1;
    if (k->type == PA_KEY_BOOL) {
        *(bool *)at = next() & 1;
    } else if (k->type == PA_KEY_ENUM) {
        for (const char *p = k->names; *p; p++) names += *p == '|';
        memcpy(at, &(int){(int)(next() % (unsigned)names)}, sizeof(int));
    } else if (k->type == PA_KEY_TEXT) {
        size_t n = next() % 4 ? next() % 30 : k->room - 1; // the longest too: longer than inih's own lines
        memset(at, 0, k->room);
        for (size_t i = 0; i < n; i++) at[i] = letters[next() % (sizeof letters - 1)];
        for (size_t i = 0; i < n; i++) // no space at the ends, and no comment
            if ((at[i] == ' ' && (i == 0 || i == n - 1)) || (at[i] == ';' && (i == 0 || at[i - 1] == ' '))) at[i] = '_';
    } else {
        double x = draw_number(k);
        if (k->type == PA_KEY_INT)
            memcpy(at, &(int){(int)x}, sizeof(int));
        else if (k->type == PA_KEY_INT64)
            memcpy(at, &(int64_t){(int64_t)x}, sizeof(int64_t));
        else
            memcpy(at, &x, sizeof x);
    }
}

static void printed_settings_read_back_to_the_bit(void **state) {
    (void)state;
    pa_config c = pa_config_default();
    expect_round_trip(&c);
    assert_int_equal(pa_config_check(&c, &err), PA_OK);
    for (int run = 0; run < 2000; run++) {
        for (const pa_key *k = pa_keys; k < pa_keys + pa_key_count; k++) draw_key(k, &c);
        expect_round_trip(&c);
    }
}

static void doubles_print_as_short_as_can_be(void **state) {
    (void)state;
    pa_config c = pa_config_default();
    c.optimizer.lr = 2e-3;
    c.optimizer.eps = 1e-8;
    c.optimizer.beta2 = nextafter(0.999, 1);
    c.train.minutes = 0.1 + 0.2;
    char *text = print(&c, false);
    assert_non_null(strstr(text, "\nlr = 0.002\n"));
    assert_non_null(strstr(text, "\neps = 1e-08\n"));
    assert_non_null(strstr(text, "\nbeta2 = 0.9990000000000001\n"));
    assert_non_null(strstr(text, "\nminutes = 0.30000000000000004\n"));
    assert_non_null(strstr(text, "\nrotary_dims = auto\n"));
    assert_non_null(strstr(text, "\n\n[data]\ntrain = data/train.safetensors\n"));
    free(text);
}

static void help_stands_before_each_key(void **state) {
    (void)state;
    pa_config c = pa_config_default();
    c.optimizer.lr = 1;
    char *text = print(&c, true), *p = text;
    assert_non_null(strstr(
        text, "\n; Learning rate after the warm-up, with muon that of hidden matrices; auto: 0.0003, with muon 0.02. "
              "(auto or a number above 0 and at most 1; default auto)\nlr = 1\n"));
    assert_non_null(strstr(text, "(auto, fp32, bf16 or fp16; default auto)\nprecision = auto\n"));
    assert_non_null(strstr(text, "(auto or a whole number from 0 to 256; default auto)\nrotary_dims = auto\n"));
    for (int i = 0; i < pa_key_count; i++, p++) assert_non_null(p = strstr(p, "; default "));
    free(text);
}

// ---- the model of a checkpoint

static void model_text_is_the_model_section(void **state) {
    (void)state;
    pa_config c = pa_config_default(), again = c;
    c.model.dim = 192;
    c.model.prefix_dropout = 0.1;
    c.model.qk_norm = true;
    char *text = pa_config_model_text(&c.model);
    assert_non_null(text);
    assert_memory_equal(text, "[model]\n", 8);
    assert_null(strchr(text + 1, '['));
    assert_int_equal(pa_config_parse(&again, "checkpoint", text, strlen(text), &err), PA_OK);
    expect_same(&c, &again);
    free(text);
}

static void models_that_differ_are_told_apart(void **state) {
    (void)state;
    pa_model a = pa_model_default(), b = a;
    assert_int_equal(pa_config_same_model(&a, &b, &err), PA_OK);
    b.prefix_dropout = 0, b.dropout = 0.1, b.z_loss = 1e-4; // only training uses these
    b.rotary_dims = 32;                                     // what auto stands for
    assert_int_equal(pa_config_same_model(&a, &b, &err), PA_OK);
    b.rotary_dims = 16;
    assert_int_equal(pa_config_same_model(&a, &b, &err), PA_USAGE);
    assert_string_equal(err.text, "model.rotary_dims: checkpoint auto, configuration 16");
    b = a;
    a.dim = 256;
    b.final_norm = true;
    b.position = PA_POSITION_ROTARY;
    assert_int_equal(pa_config_same_model(&a, &b, &err), PA_USAGE);
    assert_string_equal(err.text, "model.dim: checkpoint 256, configuration 512; model.position: checkpoint "
                                  "learned+rotary, configuration rotary; "
                                  "model.final_norm: checkpoint false, configuration true");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(printed_settings_read_back_to_the_bit), cmocka_unit_test(doubles_print_as_short_as_can_be),
        cmocka_unit_test(help_stands_before_each_key),           cmocka_unit_test(model_text_is_the_model_section),
        cmocka_unit_test(models_that_differ_are_told_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
