// test_encode_options.c: what a user asks for (programs, pauses, silence, lenient), and what is reported of a file.
#include "tests/support/midi_bytes.h"
#include "tests/support/rows.h"

static midi m;
static const pa_encode_options performance = {.encoding = PA_PERFORMANCE};

#define TRACK(...) midi_track(&m, (const row[]){__VA_ARGS__, STOP})
static void programs_are_chosen(void **state) {
    (void)state;
    pa_report r;
    pa_encode_options o = {.encoding = PA_PERFORMANCE};
    midi_header(&m, 0, 1, 500);
    TRACK({0, 0xc1, 40, 0}, ON(0, 60, 64), {0, 0x91, 72, 64}, {0, 0x99, 36, 64}, OFF(200, 60), {200, 0x81, 72, 0},
          {200, 0x89, 36, 0}, {300, 0xc0, 6, 0}, ON(300, 62, 64), OFF(500, 62));
    assert_int_equal(pa_programs_parse("0", &o.programs, NULL), PA_OK);
    expect_options(&m, &o, "V15 +60 T20 -60", 3, &r);
    assert_int_equal(r.drums, 1);
    assert_int_equal(r.other_programs, 2);
    assert_int_equal(pa_programs_parse("0-7,41", &o.programs, NULL), PA_OK);
    expect_options(&m, &o, "V15 +60 T20 -60 T10 +62 T20 -62", 2, NULL);
    assert_int_equal(pa_programs_parse("all", &o.programs, NULL), PA_OK);
    expect_options(&m, &o, "V15 +60 +72 T20 -60 -72 T10 +62 T20 -62", 1, &r);
    char text[64];
    pa_programs_text(&r.programs, text, sizeof text);
    assert_string_equal(text, "0, 6, 40");
}

static void lists_of_programs(void **state) {
    (void)state;
    static const char *const bad[] = {"", "128", "0-128", "7-0", "-1", "1,", ",1", "1-", "piano", "1;2", "1-2-3"};
    pa_programs p;
    pa_err err;
    char text[512];
    assert_int_equal(pa_programs_parse("127,0-7,64,3,63", &p, NULL), PA_OK);
    pa_programs_text(&p, text, sizeof text);
    assert_string_equal(text, "0-7, 63-64, 127");
    EACH_ROW (i, bad, bad[i]) assert_int_equal(pa_programs_parse(bad[i], &p, &err), PA_USAGE);
    for (int i = 0; i < 128; i += 2) pa_programs_add(&p, i);
    pa_programs_text(&p, text, 20); // is cut
}

static void expect_reason(const pa_encode_options *o, const char *reason) {
    pa_piece piece;
    pa_err err = {""};
    assert_int_equal(encode_with(m.byte, m.count, o, &piece, &err), PA_DATA);
    assert_string_equal(err.text, reason);
    assert_null(piece.token);
}

static void files_without_music(void **state) {
    (void)state;
    pa_encode_options o = {.encoding = PA_PERFORMANCE, .programs = {{2, 0}}}, neural = {.encoding = PA_MIDI_NEURAL};
    midi_header(&m, 0, 1, 500);
    TRACK(DOWN(0), UP(100));
    expect_reason(&performance, "no notes");
    midi_header(&m, 0, 1, 500);
    TRACK({0, 0x99, 36, 64}, {100, 0x89, 36, 0});
    expect_reason(&performance, "only drums: 1 note on channel 10 and no other");
    midi_header(&m, 0, 1, 500);
    TRACK({0, 0x99, 36, 64}, ON(0, 60, 64), OFF(100, 60), {100, 0x89, 36, 0});
    expect_reason(&o, "no note of the programs asked for: 1 are of others and 1 are drums");
    expect_reason(&neural, "no note of its 2 has a place in the midi-neural encoding");
}

static void pauses_are_shortened(void **state) {
    (void)state;
    pa_report r;
    pa_encode_options o = {.encoding = PA_PERFORMANCE, .longest_pause = 2};
    midi_header(&m, 0, 1, 500);
    TRACK(ON(0, 60, 64), OFF(2000, 60), ON(4010, 62, 64), OFF(4100, 62), ON(7999000, 64, 64), OFF(7999100, 64));
    expect_options(&m, &o, "V15 +60 T100 T100 -60 T100 T100 +62 T9 -62 T100 T100 +64 T10 -64", 0, &r);
    assert_int_equal(r.pauses, 2);
    assert_float_equal(r.shortened, 0.01 + 7992.9, 1e-9);
    pa_piece piece;
    assert_int_equal(encode_with(m.byte, m.count, &o, &piece, NULL), PA_OK);
    assert_float_equal(piece.seconds, 6.19, 1e-9);
    pa_piece_clear(&piece);
}

static void silence_is_trimmed(void **state) {
    (void)state;
    midi_header(&m, 0, 1, 500);
    TRACK(DOWN(0), ON(36004, 60, 64), OFF(36104, 60), UP(36204), DOWN(36300), UP(36310), ON(36400, 60, 64),
          OFF(36500, 60));
    for (pa_encoding e = PA_PERFORMANCE; e <= PA_MIDI_NEURAL; e++) {
        pa_encode_options o = {.encoding = e, .trim_silence = true};
        pa_piece piece;
        assert_int_equal(encode_with(m.byte, m.count, &o, &piece, NULL), PA_OK);
        assert_float_equal(piece.report.trimmed, 36, 0.005);
        assert_float_equal(piece.report.silence, 36, 0.005);
        assert_float_equal(piece.seconds, 0.5, 0.005);
        assert_int_equal(piece.token[0], PA_VELOCITY + (e ? 16 : 15));
        pa_piece whole;
        o.trim_silence = false;
        assert_int_equal(encode_with(m.byte, m.count, &o, &whole, NULL), PA_OK);
        assert_int_equal(whole.count, piece.count + 36);
        assert_memory_equal(whole.token + 36, piece.token, piece.count * sizeof *piece.token);
        assert_float_equal(whole.report.trimmed, 0, 0);
        pa_piece_clear(&whole);
        pa_piece_clear(&piece);
    }
}

static void what_was_found(void **state) {
    (void)state;
    pa_report r;
    midi_header(&m, 1, 2, 480);
    midi_begin(&m);
    MIDI_PUT(&m, "\0\xff\x51\3\x0f\x42\x40\0\xff\x51\3\x07\xa1\x20"); // 60 bpm, replaced by 120
    MIDI_PUT(&m, "\x83\x60\xff\x51\3\x07\xa1\x20");                   // again
    midi_end(&m);
    MIDI_PUT(&m, "XFIH\0\0\0\4abcd");
    TRACK({0, 0xb0, 67, 1}, {0, 0xb1, 64, 127}, DOWN(0), ON(0, 60, 64), UP(480), OFF(480, 60), {480, 0xb0, 66, 0},
          {960, 0xb0, 123, 0});
    MIDI_PUT(&m, "abc");
    expect_options(&m, &performance, "V15 +60 T50 -60", 0, &r);
    assert_int_equal(r.format, 1);
    assert_int_equal(r.ppqn, 480);
    assert_int_equal(r.foreign_chunks, 1);
    assert_int_equal(r.trailing_bytes, 3);
    assert_float_equal(r.bpm, 120, 1e-9);
    assert_int_equal(r.tempo_changes, 0);
    assert_int_equal(r.tempos_overwritten, 1);
    assert_int_equal(r.tempos_repeated, 1);
    assert_int_equal(r.pedal, 3);
    assert_int_equal(r.idle_pedal, 1);
    assert_int_equal(r.sostenuto, 1);
    assert_int_equal(r.soft, 1);
    assert_int_equal(r.all_off, 1);
    assert_float_equal(r.seconds, 1, 1e-9);
}

// Left out and reported; no damage, so that a strict reading does the same. Zeros are padding.
static void bytes_behind_the_end_of_a_track(void **state) {
    (void)state;
    for (int padding = 0; padding < 2; padding++)
        for (int lenient = 0; lenient < 2; lenient++) {
            pa_report r;
            const pa_encode_options o = {.encoding = PA_PERFORMANCE, .lenient = lenient};
            midi_header(&m, 0, 1, 500);
            midi_begin(&m);
            MIDI_PUT(&m, "\0\x90\x3c\x40\x83\x74\x80\x3c\x40\0\xff\x2f\0\0\0");
            if (!padding) MIDI_PUT(&m, "\x90\x40\x40");
            midi_put(&m, (const char[4]){0}, padding ? 4 : 0);
            m.byte[m.track - 1] = (uint8_t)(m.count - m.track);
            expect_options(&m, &o, "V15 +60 T50 -60", 0, &r);
            assert_int_equal(r.unread_bytes, padding ? 0 : 3);
            assert_int_equal(r.mended.count, 0);
        }
}

// ---- damage

static void lenient_takes_what_is_there(void **state) {
    (void)state;
    pa_report r;
    const pa_encode_options lenient = {.encoding = PA_PERFORMANCE, .lenient = true};
    midi_header(&m, 1, 2, 500);
    TRACK(ON(0, 60, 200), OFF(100, 60), ON(200, 62, 64), OFF(300, 62), ON(400, 64, 64), OFF(500, 64));
    m.count -= 7; // in the last note-off; and the second track is missing
    expect_refused(&m, "expected 2 tracks, found 1; it is cut short");
    expect_options(&m, &lenient, "V31 +60 T10 -60 T10 V15 +62 T10 -62 T10 +64 T10 -64", 0, &r);
    assert_int_equal(r.mended.count, 3);
    assert_string_equal(r.mended.first, "1 of 2 tracks found; the file is cut short");
    assert_int_equal(r.unclosed, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(programs_are_chosen),
        cmocka_unit_test(lists_of_programs),
        cmocka_unit_test(files_without_music),
        cmocka_unit_test(pauses_are_shortened),
        cmocka_unit_test(silence_is_trimmed),
        cmocka_unit_test(what_was_found),
        cmocka_unit_test(bytes_behind_the_end_of_a_track),
        cmocka_unit_test(lenient_takes_what_is_there),
    };
    return cmocka_run_group_tests_name("encode_options", tests, NULL, NULL);
}
