// test_token_set.c: lists of token files: names, patterns, weights, the pieces of several files in order, and what is
// refused.
#include "host/files/token_set.h"
#include "tests/support/rows.h"
#include "tests/support/scratch.h"

static pa_err err;

// Two pieces of `first` and `first + 1`, the first of `length` tokens.
static void put_set(const char *name, pa_encoding e, const char *split, const char *set, uint16_t first, int length) {
    uint16_t token[64];
    for (int i = 0; i < length; i++) token[i] = first;
    token[length] = (uint16_t)(first + 1);
    const int64_t offsets[] = {0, length, length + 1}, notes[] = {first, 2};
    const float seconds[] = {(float)length, 1};
    const char *const names[] = {"a.mid", "b.mid"};
    const pa_token_rows rows = {.pieces = 2,
                                .offsets = offsets,
                                .seconds = seconds,
                                .notes = notes,
                                .names = names,
                                .encoding = e,
                                .split = split,
                                .set = set};
    pa_st_writer *w;
    assert_int_equal(pa_tokens_begin(&w, scratch(name), &rows, &err), PA_OK);
    assert_int_equal(pa_st_put(w, token, sizeof *token * (size_t)(length + 1), &err), PA_OK);
    assert_int_equal(pa_st_finish(w, &err), PA_OK);
}

static void put(const char *name, uint16_t first, int length) {
    put_set(name, PA_PERFORMANCE, "train", NULL, first, length);
}

// "@" stands for the test's folder.
static const char *in_folder(const char *list) {
    static char text[4096];
    size_t n = 0;
    for (; *list; list++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%.*s", *list == '@' ? 64 : 1,
                              *list == '@' ? scratch_folder : list);
    text[n] = 0;
    return text;
}

static void expect_pieces(const char *list, const int *first, int64_t pieces) {
    pa_token_set s;
    if (pa_token_set_open(&s, in_folder(list), true, &err)) fail_msg("%s: %s", list, err.text);
    int64_t tokens = 0, at = 0;
    if (s.pieces != pieces) fail_msg("%s: %lld pieces, expected %lld", list, (long long)s.pieces, (long long)pieces);
    for (int64_t p = 0; p < pieces; p++) {
        pa_token_piece piece = pa_token_set_piece(&s, p);
        if (piece.token[0] != first[p])
            fail_msg("%s: piece %lld is %d, expected %d", list, (long long)p, piece.token[0], first[p]);
        assert_int_equal(piece.notes, p % 2 ? 2 : first[p]);
        assert_true(piece.seconds == (double)piece.count);
        tokens += piece.count;
        for (int64_t i = 0; i <= piece.count; i++) assert_int_equal(pa_token_set_find(&s, at++), p); // END too
    }
    assert_int_equal(s.tokens, tokens);
    pa_token_set_close(&s);
}

static void lists(void **state) {
    (void)state;
    put("a.safetensors", 10, 5);
    put("b-1.safetensors", 20, 1);
    put("b-2.safetensors", 30, 9);
    put("c,[x]*2.safetensors", 40, 2);
    expect_pieces("@/a.safetensors", (int[]){10, 11}, 2);
    expect_pieces(" @/b-2.safetensors ,@/a.safetensors", (int[]){30, 31, 10, 11}, 4);
    expect_pieces("@/b-*.safetensors", (int[]){20, 21, 30, 31}, 4);
    expect_pieces("@/b-[2-9].safetensors", (int[]){30, 31}, 2);
    expect_pieces("@/a.safetensors*3,@/b-1.safetensors", (int[]){10, 11, 10, 11, 10, 11, 20, 21}, 8);
    expect_pieces("@/b-?.safetensors*2", (int[]){20, 21, 20, 21, 30, 31, 30, 31}, 8);
    expect_pieces("@/c,[x]*2.safetensors", (int[]){40, 41}, 2);
}

static void empty_files(void **state) {
    (void)state;
    put("a.safetensors", 10, 5);
    put("b.safetensors", 20, 5);
    assert_int_equal(pa_tokens_write(scratch("none.safetensors"), NULL, NULL, 0, PA_PERFORMANCE, "test", &err), PA_OK);
    expect_pieces("@/a.safetensors,@/none.safetensors,@/b.safetensors", (int[]){10, 11, 20, 21}, 4);
    expect_pieces("@/none.safetensors*2,@/a.safetensors", (int[]){10, 11}, 2);
    expect_pieces("@/a.safetensors,@/none.safetensors", (int[]){10, 11}, 2);
    expect_pieces("@/none.safetensors", NULL, 0);
}

static uint32_t crc_of(const char *list) {
    pa_token_set s;
    if (pa_token_set_open(&s, in_folder(list), true, &err)) fail_msg("%s: %s", list, err.text);
    uint32_t crc = s.crc;
    pa_token_set_close(&s);
    return crc;
}

// Checkpoints carry it: one file's must stay what it was.
static void checksums(void **state) {
    (void)state;
    pa_tokens t;
    put("a.safetensors", 10, 5);
    put("b.safetensors", 20, 5);
    assert_int_equal(pa_tokens_open(&t, scratch("a.safetensors"), &err), PA_OK);
    assert_int_equal(crc_of("@/a.safetensors"), pa_st_crc(t.file));
    pa_tokens_close(&t);
    const char *const list[] = {"@/a.safetensors", "@/b.safetensors", "@/a.safetensors*2",
                                "@/a.safetensors,@/b.safetensors", "@/b.safetensors,@/a.safetensors"};
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < i; j++) assert_int_not_equal(crc_of(list[i]), crc_of(list[j]));
    assert_int_equal(crc_of("@/?.safetensors"), crc_of(list[3]));
}

static void refused(void **state) {
    (void)state;
    put("a.safetensors", 10, 5);
    put("b.safetensors", 10, 5);
    put_set("neural.safetensors", PA_MIDI_NEURAL, "train", NULL, 10, 5);
    static const struct {
        const char *list;
        bool weighted;
        pa_status status;
        const char *message;
    } row[] = {
        {"", true, PA_USAGE, "expected a token file between the commas, found nothing"},
        {"@/a.safetensors,", true, PA_USAGE, "expected a token file between the commas, found nothing"},
        {"@/z-*.safetensors", true, PA_USAGE, "@/z-*.safetensors: expected a token file, found none that matches"},
        {"@/a.safetensors*0.5", true, PA_USAGE,
         "@/a.safetensors*0.5: expected a token file, found none that matches (a weight is a whole number: "
         "a.safetensors*3)"},
        {"@/z.safetensors", true, PA_USAGE, "cannot open @/z.safetensors: No such file or directory"},
        {"@/a.safetensors*0", true, PA_USAGE, "@/a.safetensors: expected a weight of 1 to 1000"},
        {"@/a.safetensors*1001", true, PA_USAGE, "@/a.safetensors: expected a weight of 1 to 1000"},
        {"@/a.safetensors*3", false, PA_USAGE, "@/a.safetensors: expected no weight, found *3"},
        {"@/a.safetensors,@/?.safetensors", true, PA_USAGE,
         "@/a.safetensors: expected each file once, found it twice; @/a.safetensors*2 doubles its weight"},
        {"@/a.safetensors,@/neural.safetensors", true, PA_DATA,
         "@/neural.safetensors: encoding: expected performance, that of @/a.safetensors, found midi-neural"},
    };
    EACH_ROW (i, row, row[i].message) {
        pa_token_set s;
        assert_int_equal(pa_token_set_open(&s, in_folder(row[i].list), row[i].weighted, &err), row[i].status);
        assert_string_equal(err.text, in_folder(row[i].message));
        assert_null(s.file);
    }
}

// A file, and what else is in its folder: refused where both bear paprep's names and different ids, or where parts are
// missing.
static void sets_of_different_runs(void **state) {
    (void)state;
    static const struct {
        const char *open, *beside, *id[2], *message;
    } row[] = {
        {"train.safetensors",
         "validation.safetensors",
         {"1", "2"},
         "@/validation.safetensors: expected the set of @/train.safetensors, 1, found 2"},
        {"train.safetensors",
         "test.safetensors",
         {"1", "2"},
         "@/test.safetensors: expected the set of @/train.safetensors, 1, found 2"},
        {"test.safetensors",
         "train-00002-of-00003.safetensors",
         {"2", "1"},
         "@/train-00002-of-00003.safetensors: expected the set of @/test.safetensors, 2, found 1"},
        {"train-00001-of-00002.safetensors",
         "train-00002-of-00002.safetensors",
         {"1", "2"},
         "@/train-00002-of-00002.safetensors: expected the set of @/train-00001-of-00002.safetensors, 1, found 2"},
        {"train-00001-of-00002.safetensors", "train-00002-of-00002.safetensors", {"1", "1"}, NULL},
        {"train-00001-of-00003.safetensors",
         "train-00002-of-00003.safetensors",
         {"1", "1"},
         "@/train-00001-of-00003.safetensors: expected all 3 files of its split beside it, found 2"},
        {"train.safetensors", "validation.safetensors", {"1", "1"}, NULL},
        {"train.safetensors",
         "validation.safetensors",
         {"1", NULL},
         NULL}, // of an older paprep, or made by another program
        {"train.safetensors", "other/validation.safetensors", {"1", "2"}, NULL},
        {"maestro.safetensors", "train.safetensors", {"1", "2"}, NULL},
        {"train.safetensors", "train-old.safetensors", {"1", "2"}, NULL},
        {"train.safetensors", "testimony.safetensors", {"1", "2"}, NULL},
    };
    assert_int_equal(mkdir(scratch("other"), 0777), 0);
    EACH_ROW (i, row, row[i].beside) {
        pa_token_set s;
        char expected[4200];
        put_set(row[i].open, PA_PERFORMANCE, "train", row[i].id[0], 10, 5);
        put_set(row[i].beside, PA_PERFORMANCE, "train", row[i].id[1], 20, 5);
        pa_status status = pa_token_set_open(&s, scratch(row[i].open), true, &err);
        assert_int_equal(status, row[i].message ? PA_DATA : PA_OK);
        snprintf(expected, sizeof expected, "%s: run paprep again", row[i].message ? in_folder(row[i].message) : "");
        if (status) assert_string_equal(err.text, expected);
        pa_token_set_close(&s);
        unlink(scratch(row[i].open));
        unlink(scratch(row[i].beside));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {SCRATCH_TEST(lists), SCRATCH_TEST(empty_files), SCRATCH_TEST(checksums),
                                       SCRATCH_TEST(refused), SCRATCH_TEST(sets_of_different_runs)};
    return cmocka_run_group_tests_name("token_set", tests, NULL, NULL);
}
