// test_midi_write.c: tokens to notes to files and back: for which notes nothing is lost, and what a written file looks
// like.
#include "tests/support/midi_bytes.h"
#include "tests/support/rows.h"
#include "tests/support/scratch.h"
#include "tokenizer/performance.h"
#include "tokenizer/write.h"

#include <math.h>

static const pa_encode_options performance = {.encoding = PA_PERFORMANCE};

// Notes on the grid of 10 ms, no two of a pitch at once, in order of (start, pitch).
static size_t draw_notes(pa_note *note, size_t most, bool overlap) {
    size_t count = 0;
    int start = (int)draw(300), last_pitch = -1, free_from[128] = {0};
    while (count < most && draw(40)) {
        int pitch = (int)draw(128);
        if (draw(3)) {
            start += (int)draw(draw(10) ? 20 : 300);
            last_pitch = -1;
        }
        if (!overlap && (pitch <= last_pitch || start < free_from[pitch])) continue;
        last_pitch = pitch;
        int end = start + 1 + (int)draw(150);
        free_from[pitch] = end;
        note[count++] = (pa_note){start / 100.0, end / 100.0, (uint8_t)pitch, (uint8_t)(1 + draw(127)), 0};
    }
    return count;
}

static pa_piece encode_notes(pa_note *note, size_t count) {
    pa_part part = {.note = note, .notes = count};
    const pa_song song = {.part = &part, .parts = 1};
    pa_piece piece = {0};
    assert_int_equal(pa_performance_encode(&song, &performance, &piece, NULL), PA_OK);
    return piece;
}

static pa_piece encode_again(const pa_piece *piece) {
    pa_note *note;
    size_t count;
    assert_int_equal(pa_decode(piece->token, piece->count, PA_PERFORMANCE, &note, &count, NULL), PA_OK);
    pa_piece again = encode_notes(note, count);
    free(note);
    return again;
}

static void assert_same_tokens(const pa_piece *a, const pa_piece *b) {
    assert_int_equal(a->count, b->count);
    if (a->count) assert_memory_equal(a->token, b->token, a->count * sizeof *a->token);
}

static void notes_on_the_grid_come_back(void **state) {
    (void)state;
    for (int i = 0; i < 2000; i++) {
        pa_note note[64];
        size_t count = draw_notes(note, 64, false);
        pa_piece piece = encode_notes(note, count), again = encode_again(&piece);
        assert_int_equal(piece.notes, count);
        assert_same_tokens(&piece, &again);
        pa_piece_clear(&piece);
        pa_piece_clear(&again);
    }
}

static void what_was_decoded_once_comes_back(void **state) {
    (void)state;
    for (int i = 0; i < 2000; i++) {
        pa_note note[64];
        uint16_t token[200];
        pa_piece piece = {.token = token, .count = draw(200)};
        for (size_t k = 0; k < piece.count; k++)
            token[k] = (uint16_t)(draw(2) ? draw(PA_VOCAB) : 60 + 128 * draw(2) + draw(3));
        pa_piece mixed = encode_notes(note, draw_notes(note, 64, true));
        pa_piece *from = i & 1 ? &piece : &mixed;
        pa_piece once = encode_again(from), twice = encode_again(&once);
        assert_same_tokens(&once, &twice);
        pa_piece_clear(&mixed);
        pa_piece_clear(&once);
        pa_piece_clear(&twice);
    }
}

static void midi_files_of_ours_come_back(void **state) {
    (void)state;
    for (int i = 0; i < 100; i++) {
        pa_note note[64];
        size_t count = draw_notes(note, 64, false);
        pa_piece piece = encode_notes(note, count), again;
        assert_int_equal(pa_midi_write(scratch("a.mid"), note, count, NULL), PA_OK);
        assert_int_equal(pa_encode_file(scratch("a.mid"), &performance, &again, NULL), count ? PA_OK : PA_DATA);
        assert_same_tokens(&piece, &again);
        assert_int_equal(again.dropped, 0);
        pa_piece_clear(&piece);
        pa_piece_clear(&again);
    }
}

static void writing_releases_a_key_before_it_is_struck_again(void **state) {
    (void)state;
    const pa_note note[] = {{0, 1, 60, 65, 0}, {0.5, 2, 60, 65, 0}, {0.5, 0.7, 60, 99, 0}, {3, 3, 61, 0, 0}};
    pa_piece piece;
    assert_int_equal(pa_midi_write(scratch("a.mid"), note, 4, NULL), PA_OK);
    assert_int_equal(pa_encode_file(scratch("a.mid"), &performance, &piece, NULL), PA_OK);
    char *text = tokens_text(piece.token, piece.count);
    assert_string_equal(text, "V16 +60 T50 -60 +60 T100 T50 -60 T100 V0 +61 T1 -61");
    free(text);
    pa_piece_clear(&piece);
}

static void written_bytes(void **state) {
    (void)state;
    static const char expected[] = "MThd\0\0\0\6\0\0\0\1\1\xf4MTrk\0\0\0\x20\0\xff\x51\3\x07\xa1\x20\0\xc0\0"
                                   "\0\x90\x3c\x41\x83\x74\x80\x3c\x40\0\x90\x3c\x41\x83\x74\x80\x3c\x40\0\xff\x2f";
    const pa_note note[] = {{0.5, 1, 60, 65, 0}, {0, 0.5, 60, 65, 0}}; // the key is released before it is struck again
    char *found;
    size_t length;
    assert_int_equal(pa_midi_write(scratch("a.mid"), note, 2, NULL), PA_OK);
    assert_int_equal(pa_read_text(scratch("a.mid"), &found, &length, NULL), PA_OK);
    assert_int_equal(length, sizeof expected);
    assert_memory_equal(found, expected, length);
    free(found);
}

static void writing_refuses_times_that_are_none(void **state) {
    (void)state;
    static const pa_note bad[] = {
        {-1, 1, 60, 64, 0}, {2, 1, 60, 64, 0}, {0, 1e9, 60, 64, 0}, {0, (double)NAN, 60, 64, 0}};
    EACH_ROW (i, bad, NULL) assert_int_equal(pa_midi_write(scratch("a.mid"), &bad[i], 1, NULL), PA_DATA);
    assert_int_equal(scratch_entries(), 0);
}

static void writing_to_a_full_disk(void **state) {
    (void)state;
    pa_note note[64];
    pa_err err = {""};
    scratch_limit(64);
    assert_int_equal(pa_midi_write(scratch("a.mid"), note, draw_notes(note, 64, false), &err), PA_FAIL);
    scratch_limit(0);
    assert_non_null(strstr(err.text, "a.mid"));
    assert_int_equal(scratch_entries(), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(notes_on_the_grid_come_back),
        cmocka_unit_test(what_was_decoded_once_comes_back),
        SCRATCH_TEST(midi_files_of_ours_come_back),
        SCRATCH_TEST(writing_releases_a_key_before_it_is_struck_again),
        SCRATCH_TEST(written_bytes),
        SCRATCH_TEST(writing_refuses_times_that_are_none),
        SCRATCH_TEST(writing_to_a_full_disk),
    };
    return cmocka_run_group_tests_name("midi_write", tests, NULL, NULL);
}
