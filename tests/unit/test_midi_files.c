// test_midi_files.c: MIDI files as the world has them: every form that is read, every damage that is refused.
#include "tests/support/midi_bytes.h"
#include "tests/support/rows.h"
#include "tests/support/scratch.h"
#include "tokenizer/read.h"

static midi m;
static const pa_encode_options performance = {.encoding = PA_PERFORMANCE};
static const row one_note[] = {ON(0, 60, 64), OFF(500, 60), STOP};

// ---- forms of the file

static void tempo_is_that_of_all_tracks(void **state) {
    (void)state;
    midi_header(&m, 1, 2, 480);
    midi_begin(&m);
    MIDI_PUT(&m, "\0\xff\x51\3\x0f\x42\x40"); // 60 bpm
    midi_end(&m);
    midi_begin(&m);
    midi_rows(&m, (const row[]){DOWN(0), ON(0, 60, 64), STOP});
    MIDI_PUT(&m, "\x81\x70\xff\x51\3\x03\xd0\x90"); // 240 bpm from tick 240, not in the first track
    midi_rows(&m, (const row[]){OFF(240, 60), UP(480), STOP});
    midi_end(&m);
    expect_tokens(&m, PA_PERFORMANCE, "V15 +60 T75 -60", 0);
    expect_tokens(&m, PA_MIDI_NEURAL, "V16 +60 T100 -60", 0);
}

static void tempo_changes(void **state) {
    (void)state;
    midi_header(&m, 1, 2, 480);
    midi_begin(&m);
    MIDI_PUT(&m, "\x83\x60\xff\x51\3\x0f\x42\x40"); // 60 bpm from tick 480, which is at 0.5 s
    MIDI_PUT(&m, "\x83\x60\xff\x51\3\x0f\x42\x40"); // the same again
    MIDI_PUT(&m, "\x81\x70\xff\x51\3\0\0\0");       // no tempo
    midi_end(&m);
    midi_begin(&m);
    midi_rows(&m, (const row[]){ON(0, 60, 64), OFF(720, 60), ON(960, 62, 64), OFF(1440, 62), STOP});
    midi_end(&m);
    expect_tokens(&m, PA_PERFORMANCE, "V15 +60 T100 -60 T50 +62 T100 -62", 0);
}

// Bit for bit: a segment more would round the times that follow differently.
static void a_tempo_that_repeats_is_no_change(void **state) {
    (void)state;
    pa_song song[2];
    for (int repeated = 0; repeated < 2; repeated++) {
        midi_header(&m, 1, 2, 480);
        midi_begin(&m);
        MIDI_PUT(&m, "\0\xff\x51\3\x07\xb1\x21");
        if (repeated) MIDI_PUT(&m, "\x83\x61\xff\x51\3\x07\xb1\x21");
        midi_end(&m);
        midi_begin(&m);
        for (int i = 0; i < 500; i++) MIDI_PUT(&m, "\x07\x90\x3c\x40\x05\x80\x3c\x40");
        midi_end(&m);
        assert_int_equal(pa_song_read(&song[repeated], m.byte, m.count, &performance, &(pa_report){0}, NULL), PA_OK);
    }
    for (int i = 0; i < 500; i++) {
        assert_memory_equal(&song[0].part->note[i].start, &song[1].part->note[i].start, sizeof(double));
        assert_memory_equal(&song[0].part->note[i].end, &song[1].part->note[i].end, sizeof(double));
    }
    pa_song_clear(&song[0]);
    pa_song_clear(&song[1]);
}

static void without_a_tempo_it_is_120(void **state) {
    (void)state;
    midi_header(&m, 0, 1, 96);
    midi_begin(&m);
    midi_rows(&m, (const row[]){ON(0, 60, 64), OFF(96, 60), STOP});
    midi_end(&m);
    expect_tokens(&m, PA_PERFORMANCE, "V15 +60 T50 -60", 0);
}

static void smpte_time(void **state) {
    (void)state;
    static const struct {
        int division, ticks;
    } c[] = {{0xe728, 500}, {0xe250, 1200}, {0xe864, 1200}}; // 25 x 40, 30 x 80, 24 x 100 ticks a second
    EACH_ROW (i, c, NULL) {
        midi_header(&m, 0, 1, c[i].division);
        midi_begin(&m);
        MIDI_PUT(&m, "\0\xff\x51\3\x0f\x42\x40"); // tempo means nothing here
        midi_rows(&m, (const row[]){ON(0, 60, 64), OFF(c[i].ticks, 60), STOP});
        midi_end(&m);
        expect_tokens(&m, PA_PERFORMANCE, "V15 +60 T50 -60", 0);
    }
}

static void smpte_drop_frames(void **state) {
    (void)state;
    pa_piece piece;
    midi_header(&m, 0, 1, 0xe364); // 30 / 1.001 x 100 ticks a second
    midi_begin(&m);
    midi_rows(&m, (const row[]){ON(0, 60, 64), OFF(300000, 60), STOP});
    midi_end(&m);
    assert_int_equal(encode_bytes(m.byte, m.count, PA_PERFORMANCE, &piece, NULL), PA_OK);
    assert_float_equal(piece.seconds, 100.1, 1e-9);
    pa_piece_clear(&piece);
}

static void running_status(void **state) {
    (void)state;
    midi_header(&m, 0, 1, 500);
    midi_begin(&m);
    MIDI_PUT(&m, "\0\x90\x3c\x40\0\x3e\x40");
    MIDI_PUT(&m, "\0\xff\1\1x\x64\x3c\0"); // a text in between does not end it
    MIDI_PUT(&m, "\0\xf0\2\1\xf7\x64\x3e\0");
    midi_end(&m);
    expect_tokens(&m, PA_PERFORMANCE, "V15 +60 +62 T10 -60 T10 -62", 0);
}

static void long_texts_and_system_events(void **state) {
    (void)state;
    midi_header(&m, 0, 1, 500);
    midi_begin(&m);
    char text[] = "\0\xff\2\x81\x48", filler[200];
    memset(filler, 'c', sizeof filler);
    midi_put(&m, text, 5);
    midi_put(&m, filler, sizeof filler);
    MIDI_PUT(&m, "\x64\xf7\3\xf2\1\2\x64\xf8\0\xf3\1\0\xf6"); // 200 ms in deltas of dropped events
    midi_rows(&m, one_note);
    midi_end(&m);
    expect_tokens(&m, PA_PERFORMANCE, "T20 V15 +60 T50 -60", 0);
}

static void tracks_without_notes(void **state) {
    (void)state;
    midi_header(&m, 1, 4, 500);
    midi_begin(&m);
    midi_end(&m);
    MIDI_PUT(&m, "MTrk\0\0\0\0"); // not even an end
    MIDI_PUT(&m, "XFIH\0\0\0\3abc");
    midi_begin(&m);
    MIDI_PUT(&m, "\0\xc0\5");
    midi_end(&m);
    midi_begin(&m);
    midi_rows(&m, one_note);
    midi_end(&m);
    expect_tokens(&m, PA_PERFORMANCE, "V15 +60 T50 -60", 0);
    midi_simple(&m, (const row[]){STOP});
    expect_tokens(&m, PA_PERFORMANCE, "", 0);
}

static void a_track_may_lack_its_end(void **state) {
    (void)state;
    midi_simple(&m, one_note);
    m.count -= 4;
    m.byte[m.track - 1] -= 4;
    expect_tokens(&m, PA_PERFORMANCE, "V15 +60 T50 -60", 0);
    midi_simple(&m, one_note);
    m.byte[m.track - 2] = 1; // too long by 256 bytes, but the end is there
    expect_tokens(&m, PA_PERFORMANCE, "V15 +60 T50 -60", 0);
    MIDI_PUT(&m, "\0\0\0trailing");
    expect_tokens(&m, PA_PERFORMANCE, "V15 +60 T50 -60", 0);
}

static void headers(void **state) {
    (void)state;
    static midi r;
    midi_simple(&m, one_note);
    r.count = 0;
    MIDI_PUT(&r, "RIFF\0\0\0\0RMIDdata\0\0\0\0");
    midi_put(&r, (const char *)m.byte, m.count);
    expect_tokens(&r, PA_PERFORMANCE, "V15 +60 T50 -60", 0);
    r.count = 0;
    midi_put(&r, (const char *)m.byte, 14);
    r.byte[7] = 8;
    MIDI_PUT(&r, "xy");
    midi_put(&r, (const char *)m.byte + 14, m.count - 14);
    expect_tokens(&r, PA_PERFORMANCE, "V15 +60 T50 -60", 0);
}

static void forty_minutes(void **state) {
    (void)state;
    enum { NOTES = 2400 };
    static row r[2 * NOTES + 1];
    for (int i = 0; i < NOTES; i++) {
        r[2 * i] = (row)ON(1000 * i, 60, 64);
        r[2 * i + 1] = (row)OFF(1000 * i + 500, 60);
    }
    r[2 * NOTES] = (row)STOP;
    pa_piece piece;
    midi_simple(&m, r);
    assert_int_equal(encode_bytes(m.byte, m.count, PA_PERFORMANCE, &piece, NULL), PA_OK);
    assert_int_equal(piece.notes, NOTES);
    assert_float_equal(piece.seconds, 2399.5, 1e-9);
    assert_float_equal(pa_token_seconds(piece.token, piece.count), 2399.5, 1e-9);
    pa_piece_clear(&piece);
}

// ---- damage

static void refused_headers(void **state) {
    (void)state;
    midi_simple(&m, one_note);
    midi good = m;
    m.byte[0] = 'm';
    expect_refused(&m, "not a MIDI file: expected MThd at its start");
    m = good;
    m.count = 13;
    expect_refused(&m, "not a MIDI file: expected MThd at its start");
    m = good;
    m.byte[7] = 5;
    expect_refused(&m, "header: expected at least 6 bytes inside the file, found a length of 5");
    m = good;
    m.byte[4] = 0xff;
    expect_refused(&m, "header: expected at least 6 bytes inside the file, found a length of 4278190086");
    m = good;
    m.byte[9] = 2;
    expect_refused(&m, "header: expected type 0 or 1, found 2");
    m = good;
    m.count = 14;
    expect_refused(&m, "expected tracks, found none; it is cut short");
    m = good;
    m.byte[12] = m.byte[13] = 0;
    expect_refused(&m, "header: expected ticks a quarter note, found 0");
    m = good;
    m.byte[12] = 0xff;
    expect_refused(&m, "header: expected 24, 25, 29 or 30 frames a second and ticks a frame, found 1 and 244");
    m = good;
    m.byte[11] = 2;
    expect_refused(&m, "expected 2 tracks, found 1; it is cut short");
}

static void refused_events(void **state) {
    (void)state;
    static const struct {
        const char *events;
        size_t count;
        const char *reason;
    } c[] = {
        {"\0\x3c\x40", 3, "track 1, byte 23: expected a status byte, found 0x3c"},
        {"\0\x90\x3c\x80", 4, "track 1, byte 25: expected a data byte below 128, found 0x80"},
        {"\0\xf4", 2, "track 1, byte 23: expected an event, found the undefined status 0xf4"},
        {"\x81\x82\x83\x84\5\x90\x3c\x40", 8,
         "track 1, byte 22: expected a number of at most 4 bytes, found a longer one"},
        {"\0\xff\1\x7f", 4, "track 1, byte 26: expected the rest of an event, found the end of the track"},
        {"\0\xf0\x7f", 3, "track 1, byte 25: expected the rest of an event, found the end of the track"},
        {"\xff\xff\xff\x7f\xf8\xff\xff\xff\x7f\x90\x3c\x40", 12, "a pause of 536870910 ticks, likely a damaged file"},
    };
    EACH_ROW (i, c, c[i].reason) {
        midi_header(&m, 0, 1, 500);
        midi_begin(&m);
        midi_put(&m, c[i].events, c[i].count);
        midi_end(&m);
        expect_refused(&m, c[i].reason);
    }
}

static void refused_lengths(void **state) {
    (void)state;
    midi_simple(&m, (const row[]){ON(0, 60, 64), OFF(86400001, 60), STOP});
    expect_refused(&m, "expected at most 86400 s of music, found an event at 86400 s");
    midi_simple(&m, (const row[]){DOWN(0), ON(0, 60, 64), OFF(100, 60), DOWN(86400001), STOP});
    expect_refused(&m, "expected at most 86400 s of music, found an event at 86400 s");
    midi_header(&m, 0, 1, 500);
    midi_begin(&m);
    for (int i = 0; i < 9; i++) MIDI_PUT(&m, "\xff\xff\xff\x7f\x90\x3c\x40");
    midi_end(&m);
    expect_refused(&m, "track 1, byte 82: tick 2415919095, likely a damaged file");
}

// A file of every kind of event, cut at each of its bytes: refused with a reason, or read where only the end of the
// track is missing.
static void cut_at_every_byte(void **state) {
    (void)state;
    midi_header(&m, 1, 2, 500);
    midi_begin(&m);
    MIDI_PUT(&m, "\0\xff\x51\3\x0f\x42\x40\0\xff\3\4name");
    midi_end(&m);
    midi_begin(&m);
    MIDI_PUT(&m, "\0\xf0\3\1\2\xf7\0\xc0\1\0\xb0\x40\x7f\0\x90\x3c\x40\x83\x60\x3c\0\0\xe0\1\2\0\xd0\1\0\xa0\1\2");
    midi_end(&m);
    for (size_t n = 0; n < m.count; n++) {
        pa_piece piece;
        pa_err err = {""};
        pa_status s = encode_bytes(m.byte, n, PA_PERFORMANCE, &piece, &err);
        if (s != PA_DATA || !*err.text) fail_msg("cut at %zu of %zu: status %d, '%s'", n, m.count, s, err.text);
    }
    expect_tokens(&m, PA_PERFORMANCE, "V15 +60 T96 -60", 0);
}

static void changed_at_random(void **state) {
    (void)state;
    static midi good;
    midi_header(&good, 1, 2, 500);
    midi_begin(&good);
    MIDI_PUT(&good, "\0\xff\x51\3\x0f\x42\x40\0\xff\3\4name");
    midi_end(&good);
    midi_begin(&good);
    midi_rows(&good, (const row[]){DOWN(0), ON(0, 60, 64), OFF(100, 60), ON(100, 64, 80), ON(200, 60, 64), UP(250),
                                   OFF(300, 60), OFF(400, 64), STOP});
    midi_end(&good);
    for (int i = 0; i < 20000; i++) {
        pa_piece piece;
        pa_err err = {""};
        m = good;
        for (uint32_t k = 1 + draw(4); k; k--) m.byte[14 + draw((uint32_t)good.count - 14)] = (uint8_t)draw(256);
        pa_encoding e = i & 1 ? PA_MIDI_NEURAL : PA_PERFORMANCE;
        pa_status s = encode_bytes(m.byte, m.count, e, &piece, &err);
        if (s && (s != PA_DATA || !*err.text)) fail_msg("round %d: status %d, '%s'", i, s, err.text);
        pa_piece_clear(&piece);
    }
}

static void noise(void **state) {
    (void)state;
    for (int i = 0; i < 2000; i++) {
        pa_piece piece;
        m.count = draw(300);
        for (size_t k = 0; k < m.count; k++) m.byte[k] = (uint8_t)draw(256);
        if (i & 1 && m.count > 22) { // behind a valid header and the head of a track
            memcpy(m.byte, "MThd\0\0\0\6\0\0\0\1\1\xe0MTrk\0\0", 20);
        }
        pa_status s = encode_bytes(m.byte, m.count, PA_PERFORMANCE, &piece, NULL);
        assert_true(s == PA_OK || s == PA_DATA);
        pa_piece_clear(&piece);
    }
}

static void files_that_are_none(void **state) {
    (void)state;
    pa_piece piece;
    pa_err err;
    char expected[SCRATCH_PATH + 64];
    assert_int_equal(pa_encode_file(scratch("none.mid"), &performance, &piece, &err), PA_DATA);
    snprintf(expected, sizeof expected, "%s: cannot open: No such file or directory", scratch("none.mid"));
    assert_string_equal(err.text, expected);
    assert_int_equal(pa_encode_file(scratch_folder, &performance, &piece, &err), PA_DATA);
    assert_non_null(strstr(err.text, "expected a regular file"));
    assert_int_equal(mkfifo(scratch("pipe.mid"), 0600), 0);
    assert_int_equal(pa_encode_file(scratch("pipe.mid"), &performance, &piece, &err), PA_DATA);
    scratch_put("large.mid", "MThd");
    assert_int_equal(truncate(scratch("large.mid"), PA_LONGEST_FILE + 1), 0);
    assert_int_equal(pa_encode_file(scratch("large.mid"), &performance, &piece, &err), PA_DATA);
    assert_non_null(strstr(err.text, "expected at most 67108864 bytes, found 67108865"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tempo_is_that_of_all_tracks),
        cmocka_unit_test(tempo_changes),
        cmocka_unit_test(a_tempo_that_repeats_is_no_change),
        cmocka_unit_test(without_a_tempo_it_is_120),
        cmocka_unit_test(smpte_time),
        cmocka_unit_test(smpte_drop_frames),
        cmocka_unit_test(running_status),
        cmocka_unit_test(long_texts_and_system_events),
        cmocka_unit_test(tracks_without_notes),
        cmocka_unit_test(a_track_may_lack_its_end),
        cmocka_unit_test(headers),
        cmocka_unit_test(forty_minutes),
        cmocka_unit_test(refused_headers),
        cmocka_unit_test(refused_events),
        cmocka_unit_test(refused_lengths),
        cmocka_unit_test(cut_at_every_byte),
        cmocka_unit_test(changed_at_random),
        cmocka_unit_test(noise),
        SCRATCH_TEST(files_that_are_none),
    };
    return cmocka_run_group_tests_name("midi_files", tests, NULL, NULL);
}
