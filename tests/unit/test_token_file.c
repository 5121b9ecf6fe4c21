// test_token_file.c: token files come back as they were written, and damaged ones are refused with the reason.
#include "host/files/safetensors_write.h"
#include "host/train/windows.h"
#include "tests/support/rows.h"
#include "tests/support/scratch.h"

static pa_err err;

static void come_back(void **state) {
    (void)state;
    uint16_t a[] = {60, 300, 188}, c[] = {388};
    const pa_piece pieces[] = {{.token = a, .count = 3, .seconds = 1.5, .notes = 1},
                               {.dropped = 2},
                               {.token = c, .count = 1, .seconds = 0.25, .notes = 7}};
    const char *const names[] = {"a/\"b\"\\\n.mid", "\xe6\x97\xa5.mid", "caf\xe9.mid"};
    pa_tokens t;
    assert_int_equal(pa_tokens_write(scratch("t"), pieces, names, 3, PA_MIDI_NEURAL, "test", &err), PA_OK);
    assert_int_equal(pa_tokens_open(&t, scratch("t"), &err), PA_OK);
    assert_int_equal(t.pieces, 3);
    assert_int_equal(t.encoding, PA_MIDI_NEURAL);
    assert_memory_equal(t.tokens, ((uint16_t[]){60, 300, 188, 388}), 8);
    assert_memory_equal(t.offsets, ((int64_t[]){0, 3, 3, 4}), 32);
    assert_memory_equal(t.seconds, ((float[]){1.5f, 0, 0.25f}), 12);
    assert_memory_equal(t.notes, ((int64_t[]){1, 0, 7}), 24);
    assert_string_equal(pa_st_meta(t.file, "names"),
                        "[\"a/\\\"b\\\"\\\\\\n.mid\",\"\xe6\x97\xa5.mid\",\"caf\xc3\xa9.mid\"]");
    assert_string_equal(pa_st_meta(t.file, "split"), "test");
    pa_tokens_close(&t);
    pa_tokens_close(&t);
}

static void no_pieces(void **state) {
    (void)state;
    pa_tokens t;
    assert_int_equal(pa_tokens_write(scratch("t"), NULL, NULL, 0, PA_PERFORMANCE, "train", &err), PA_OK);
    assert_int_equal(pa_tokens_open(&t, scratch("t"), &err), PA_OK);
    assert_int_equal(t.pieces, 0);
    assert_int_equal(t.offsets[0], 0);
    pa_tokens_close(&t);
}

// A file with one thing wrong; NULL leaves out the tensor or the metadata.
typedef struct {
    const char *format, *encoding, *vocab;
    int64_t offset[3];
    int offsets, seconds, notes;
    uint16_t token;
    const char *message;
} damage;

static void refuses(void **state) {
    (void)state;
    static const char F[] = "patrain-tokens-1", E[] = "performance", V[] = "390";
    static const damage cases[] = {
        {NULL,
         E,
         V,
         {0, 2, 4},
         3,
         2,
         2,
         60,
         "metadata format: expected patrain-tokens-1, found none; is this a token file of paprep's?"},
        {"pt",
         E,
         V,
         {0, 2, 4},
         3,
         2,
         2,
         60,
         "metadata format: expected patrain-tokens-1, found pt; is this a token file of paprep's?"},
        {F,
         E,
         "512",
         {0, 2, 4},
         3,
         2,
         2,
         60,
         "metadata vocab: expected 390, found 512; is this a token file of paprep's?"},
        {F, NULL, V, {0, 2, 4}, 3, 2, 2, 60, "metadata encoding: expected performance or midi-neural, found none"},
        {F, "remi", V, {0, 2, 4}, 3, 2, 2, 60, "metadata encoding: expected performance or midi-neural, found 'remi'"},
        {F, E, V, {0, 2, 3}, 3, 2, 2, 60, "offsets: expected 0 to 4, found 0 to 3"},
        {F, E, V, {1, 2, 4}, 3, 2, 2, 60, "offsets: expected 0 to 4, found 1 to 4"},
        {F, E, V, {0, 5, 4}, 3, 2, 2, 60, "offsets[2]: expected at least 5, found 4"},
        {F, E, V, {0, -1, 4}, 3, 2, 2, 60, "offsets[1]: expected at least 0, found -1"},
        {F, E, V, {0, 2, 4}, 3, 2, 2, PA_PAD, "tokens: expected ids below 389, found 389"},
        {F, E, V, {0, 2, 4}, 0, 2, 2, 60, "offsets: expected at least one, found none"},
        {F, E, V, {0, 2, 4}, 3, 1, 2, 60, ""},
        {F, E, V, {0, 2, 4}, 3, 2, 3, 60, ""},
        {F, E, V, {0, 2, 4}, -1, 2, 2, 60, ""},
    };
    EACH_ROW (i, cases, NULL) {
        const damage *d = &cases[i];
        uint16_t token[] = {60, 61, d->token, 62};
        float seconds[3] = {0};
        int64_t notes[3] = {0};
        pa_tensor tensor[4] = {{"tokens", PA_U16, 1, {4}, token, 8},
                               {"seconds", PA_F32, 1, {d->seconds}, seconds, (size_t)d->seconds * 4},
                               {"notes", PA_I64, 1, {d->notes}, notes, (size_t)d->notes * 8}};
        if (d->offsets >= 0)
            tensor[3] = (pa_tensor){"offsets", PA_I64, 1, {d->offsets}, d->offset, (size_t)d->offsets * 8};
        pa_meta meta[3];
        size_t metas = 0;
        if (d->format) meta[metas++] = (pa_meta){"format", d->format};
        if (d->encoding) meta[metas++] = (pa_meta){"encoding", d->encoding};
        if (d->vocab) meta[metas++] = (pa_meta){"vocab", d->vocab};
        assert_int_equal(pa_st_write(scratch("t"), tensor, d->offsets >= 0 ? 4 : 3, meta, metas, &err), PA_OK);
        pa_tokens t;
        char expected[sizeof err.text];
        assert_int_equal(pa_tokens_open(&t, scratch("t"), &err), PA_DATA);
        assert_null(t.file);
        if (!*d->message) continue; // said by pa_st_need
        snprintf(expected, sizeof expected, "%s: %s", scratch("t"), d->message);
        assert_string_equal(err.text, expected);
    }
}

static void another_file(void **state) {
    (void)state;
    static const char midi[] = "MThd\0\0\0\6\0\0\0\1\1\xe0MTrk";
    char expected[sizeof err.text];
    pa_tokens t;
    scratch_put_bytes("t", midi, sizeof midi - 1);
    assert_int_equal(pa_tokens_open(&t, scratch("t"), &err), PA_DATA);
    assert_null(t.file);
    snprintf(expected, sizeof expected, "%s: expected a safetensors file, found one that begins with \"%s\"",
             scratch("t"), "MThd\\x00\\x00\\x00\\x06\\x00\\x00\\x00\\x01\\x01\\xe0MT");
    assert_string_equal(err.text, expected);
}

static void full_disk(void **state) {
    (void)state;
    uint16_t a[2000] = {0};
    const pa_piece piece = {.token = a, .count = 2000, .seconds = 1, .notes = 1};
    const char *const name = "a.mid";
    scratch_limit(1024);
    assert_int_equal(pa_tokens_write(scratch("t"), &piece, &name, 1, PA_PERFORMANCE, "train", &err), PA_FAIL);
    assert_int_equal(scratch_entries(), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {SCRATCH_TEST(come_back), SCRATCH_TEST(no_pieces), SCRATCH_TEST(refuses),
                                       SCRATCH_TEST(another_file), SCRATCH_TEST(full_disk)};
    return cmocka_run_group_tests_name("token_file", tests, NULL, NULL);
}
