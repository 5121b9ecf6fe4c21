// test_session.c: sessions as files: what comes back, and files that are none.
#include "host/files/safetensors_write.h"
#include "host/serve/session.h"

#include "tests/support/scratch.h"

enum { TAKES = 2, FIELDS = 6, KEYS = 4 };
static const char ID[] = "00112233445566778899aabbccddeeff";

// A file as pa_session_save writes it, to be spoilt.
typedef struct {
    int32_t take[TAKES][FIELDS], step[KEYS];
    uint8_t key[KEYS][3];
    int64_t takes;
    const char *format;
} content;
static const content good = {.take = {{3, -1, 0, 30, 1, 2}, {5, 3, 10, 40, 0, 2}},
                             .step = {0, 20, 15, 40},
                             .key = {{60, 80, 0}, {60, 0, 0}, {61, 70, 1}, {61, 0, 1}},
                             .takes = TAKES,
                             .format = "paserve session 1"};

static pa_status load(pa_session *s, pa_err *err) {
    bool found;
    *s = (pa_session){0};
    pa_status status = pa_session_load(s, scratch_folder, ID, &found, err);
    assert_true(found);
    return status;
}

static pa_status load_content(const content *c, pa_session *s, pa_err *err) {
    char path[SCRATCH_PATH];
    const pa_tensor tensor[] = {
        {"takes", PA_I32, 2, {c->takes, FIELDS}, c->take, (size_t)c->takes * sizeof *c->take},
        {"steps", PA_I32, 1, {KEYS}, c->step, sizeof c->step},
        {"keys", PA_U8, 2, {KEYS, 3}, c->key, sizeof c->key},
    };
    const pa_meta meta = {"format", c->format};
    assert_int_equal(pa_make_dirs(scratch("sessions"), err), PA_OK);
    snprintf(path, sizeof path, "%s/sessions/%s.safetensors", scratch_folder, ID);
    assert_int_equal(pa_st_write(path, tensor, 3, &meta, 1, err), PA_OK);
    return load(s, err);
}

static void comes_back(void **state) {
    static pa_session s, back;
    pa_err err;
    bool found;
    (void)state;
    assert_int_equal(load_content(&good, &s, &err), PA_OK);
    assert_int_equal(pa_session_save(&s, scratch_folder, &err), PA_OK);
    assert_int_equal(load(&back, &err), PA_OK);
    assert_string_equal(back.id, ID);
    assert_int_equal(back.takes, TAKES);
    assert_int_equal(back.numbers, 6);
    for (int i = 0; i < TAKES; i++) {
        const pa_take *a = &s.take[i], *b = &back.take[i];
        const int32_t field[] = {b->number, b->parent, b->begins, b->end, b->given, (int32_t)b->keys};
        assert_memory_equal(field, good.take[i], sizeof field);
        assert_int_equal(a->keys, b->keys);
        for (size_t k = 0; k < b->keys; k++) {
            assert_int_equal(a->key[k].step, b->key[k].step);
            assert_int_equal(b->key[k].step, good.step[2 * (size_t)i + k]);
            assert_memory_equal(((const uint8_t[]){b->key[k].pitch, b->key[k].velocity, b->key[k].model}),
                                good.key[2 * (size_t)i + k], 3);
        }
    }
    pa_session_clear(&s);
    pa_session_clear(&back);
    assert_int_equal(pa_session_load(&s, scratch_folder, "", &found, &err), PA_OK);
    assert_false(found);
}

static void is_none(void **state) {
    static pa_session s;
    static content bad[16];
    enum { NUMBER, PARENT, BEGINS, END, GIVEN, COUNT };
    pa_err err;
    int n = 0;
    (void)state;
    for (int i = 0; i < 16; i++) bad[i] = good;
    bad[n++].format = "paserve session 2";
    bad[n++].takes = 1; // keys that no take has
    bad[n].take[1][PARENT] = -1;
    bad[n++].take[1][NUMBER] = 3;
    bad[n++].take[0][NUMBER] = INT32_MAX;
    bad[n++].take[1][PARENT] = 5;
    bad[n++].take[0][PARENT] = -2;
    bad[n++].take[0][BEGINS] = -1;
    bad[n++].take[1][BEGINS] = 41;
    bad[n++].take[1][END] = PA_LONGEST_TAKE * 100 + 1;
    bad[n++].take[1][END] = 39;
    bad[n++].take[1][COUNT] = 3;
    bad[n++].take[1][COUNT] = -1;
    bad[n++].step[1] = -1;
    bad[n++].step[3] = 14;
    bad[n++].key[2][0] = 128;
    bad[n++].key[2][1] = 128;
    assert_int_equal(n, 16);
    for (int i = 0; i < n; i++) {
        if (load_content(&bad[i], &s, &err) != PA_DATA) fail_msg("%d is taken", i);
        assert_non_null(strstr(err.text, ID));
        assert_string_equal(s.id, ""); // the place is free again
        assert_int_equal(s.takes, 0);
    }
}

int main(void) {
    const struct CMUnitTest test[] = {SCRATCH_TEST(comes_back), SCRATCH_TEST(is_none)};
    return cmocka_run_group_tests(test, NULL, NULL);
}
