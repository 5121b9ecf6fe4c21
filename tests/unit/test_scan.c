// test_scan.c: a MIDI file's bytes taken apart: containers, chunks, events, what a lenient scan mends, ticks to seconds
// and back.
#include "tests/support/midi_bytes.h"
#include "tests/support/rows.h"
#include "tokenizer/tempo.h"

static midi m;
static const row one_note[] = {ON(0, 60, 64), OFF(500, 60), STOP};

// The events of all tracks: "tick:status" and value or type, tracks apart with '|'.
static const char *events_text(const midi *file, bool lenient, pa_mended *mended) {
    static char text[4096];
    char *at = text;
    pa_midi scan;
    pa_err err = {""};
    *at = 0;
    if (pa_midi_open(&scan, file->byte, file->count, lenient, &err)) {
        pa_midi_clear(&scan);
        snprintf(text, sizeof text, "refused: %s", err.text);
        return text;
    }
    *mended = scan.mended;
    for (size_t t = 0; t < scan.tracks; t++) {
        pa_midi_reader r = pa_midi_read(&scan, t, mended);
        pa_midi_event e;
        for (bool more = true; more;) {
            if (pa_midi_next(&r, &e, &more, &err)) {
                snprintf(text, sizeof text, "refused: %s", err.text);
                more = false;
                t = scan.tracks;
            } else if (more && e.status == PA_META) {
                at += sprintf(at, "%d:meta%02x ", (int)e.tick, e.type);
            } else if (more) {
                at += sprintf(at, "%d:%02x/%d/%d ", (int)e.tick, e.status, e.value[0], e.value[1]);
            }
        }
        if (t < scan.tracks) at += sprintf(at, "|");
    }
    pa_midi_clear(&scan);
    return text;
}

static void expect_events(const midi *file, const char *strict, const char *lenient, const char *first) {
    pa_mended mended = {0};
    assert_string_equal(events_text(file, false, &mended), strict);
    assert_int_equal(mended.count, 0);
    assert_string_equal(events_text(file, true, &mended), lenient);
    assert_string_equal(mended.first, first);
}

static void whole(const midi *file, const char *events) {
    expect_events(file, events, events, "");
}

static void put_track(void) {
    midi_begin(&m);
    midi_rows(&m, one_note);
    midi_end(&m);
}

static const char TRACK[] = "0:90/60/64 500:80/60/64 500:meta2f |";

static void an_event_knows_its_bytes(void **state) {
    (void)state;
    midi_header(&m, 0, 1, 500);
    midi_begin(&m);
    MIDI_PUT(&m, "\0\x90\x3c\x40\x83\x60\x3c\0\1\xff\1\3abc\2\xf0\2\1\xf7\0\xc3\7");
    midi_end(&m);
    static const struct {
        int64_t tick;
        size_t begin, end;
        uint8_t status;
        uint32_t length;
    } expected[] = {{0, 22, 26, 0x90, 2},   {480, 26, 30, 0x90, 2}, {481, 30, 37, 0xff, 3},
                    {483, 37, 42, 0xf0, 2}, {483, 42, 45, 0xc3, 1}, {483, 45, 49, 0xff, 0}};
    pa_midi scan;
    pa_midi_event e;
    bool more;
    assert_int_equal(pa_midi_open(&scan, m.byte, m.count, false, NULL), PA_OK);
    pa_midi_reader r = pa_midi_read(&scan, 0, NULL);
    EACH_ROW (i, expected, NULL) {
        assert_int_equal(pa_midi_next(&r, &e, &more, NULL), PA_OK);
        assert_true(more);
        assert_int_equal(e.tick, expected[i].tick);
        assert_int_equal(e.begin, expected[i].begin);
        assert_int_equal(e.end, expected[i].end);
        assert_int_equal(e.status, expected[i].status);
        assert_int_equal(e.length, expected[i].length);
        assert_ptr_equal(e.data + e.length, m.byte + e.end);
    }
    assert_int_equal(pa_midi_next(&r, &e, &more, NULL), PA_OK);
    assert_false(more);
    pa_midi_clear(&scan);
}

static void riff_chunks_in_any_order(void **state) {
    (void)state;
    static const struct {
        const char *before;
        size_t count;
    } c[] = {{"", 0},
             {"LIST\4\0\0\0INFO", 12},
             {"LIST\5\0\0\0INFOx\0", 14}, // an odd length, padded
             {"LIST\5\0\0\0INFOx", 13},   // and not
             {"DISP\1\0\0\0a\0LIST\4\0\0\0INFO", 22}};
    EACH_ROW (i, c, NULL) {
        midi_header(&m, 0, 1, 500);
        put_track();
        midi inner = m;
        m.count = 0;
        MIDI_PUT(&m, "RIFF\0\0\0\0RMID");
        midi_put(&m, c[i].before, c[i].count);
        midi_put(&m, (const char[]){'d', 'a', 't', 'a', (char)inner.count, 0, 0, 0}, 8);
        midi_put(&m, (const char *)inner.byte, inner.count);
        MIDI_PUT(&m, "LIST\4\0\0\0INFO");
        whole(&m, TRACK);
    }
    m.count = 0;
    MIDI_PUT(&m, "RIFF\0\0\0\0RMIDLIST\4\0\0\0INFO");
    whole(&m, "refused: RIFF wrapper: expected a data chunk, found none");
}

static void chunks_of_other_kinds(void **state) {
    (void)state;
    for (int announced = 1; announced <= 4; announced++) {
        midi_header(&m, 1, announced, 500);
        put_track();
        MIDI_PUT(&m, "XFIH\0\0\0\4abcd");
        put_track();
        char both[128];
        snprintf(both, sizeof both, "%s%s", TRACK, TRACK);
        if (announced < 4)
            whole(&m, both);
        else
            expect_events(&m, "refused: expected 4 tracks, found 2; it is cut short", both,
                          "2 of 4 tracks found; the file is cut short");
    }
}

static void a_track_with_a_damaged_name(void **state) {
    (void)state;
    static const struct {
        char name[5];
        const char *strict, *first;
    } c[] = {
        {"MTrx", "refused: byte 14: expected a track named MTrk, found 'MTrx'",
         "byte 14: a chunk named 'MTrx' read as a track"},
        {"\xccTrk", "refused: byte 14: expected a track named MTrk, found '?Trk'",
         "byte 14: a chunk named '?Trk' read as a track"},
    };
    EACH_ROW (i, c, c[i].name) {
        midi_header(&m, 1, 1, 500);
        put_track();
        memcpy(m.byte + 14, c[i].name, 4);
        expect_events(&m, c[i].strict, "0:90/60/64 500:80/60/64 500:meta2f |", c[i].first);
    }
    memcpy(m.byte + 14, "MTxx", 4); // another kind
    expect_events(&m, "refused: expected tracks, found none; it is cut short",
                  "refused: expected tracks, found none; it is cut short", "");
}

static void what_stands_behind_the_tracks(void **state) {
    (void)state;
    midi_header(&m, 0, 1, 500);
    put_track();
    midi good = m;
    MIDI_PUT(&m, "\0\0\0trailing");
    whole(&m, TRACK);
    m = good;
    midi_put(&m, (const char *)good.byte, good.count); // another song
    whole(&m, TRACK);
}

static void bytes_behind_the_end(void **state) {
    (void)state;
    midi_header(&m, 0, 1, 500);
    midi_begin(&m);
    MIDI_PUT(&m, "\0\x90\x3c\x40\x83\x74\x80\x3c\x40\x83\x74\xff\x2f\0\0\0\x90\x40\x40");
    midi_end(&m);
    whole(&m, "0:90/60/64 500:80/60/64 1000:meta2f |");
}

static void mended_tracks(void **state) {
    (void)state;
    midi_header(&m, 0, 1, 500);
    put_track();
    midi good = m;
    m.count -= 5; // cuts the last note-off
    expect_events(
        &m, "refused: track 1, byte 30: expected the rest of an event, found the end of the file; it is cut short",
        "0:90/60/64 |",
        "track 1, byte 30: expected the rest of an event, found the end of the file; it is cut short; the track ends "
        "there");
    m = good, m.count -= 4; // without the end of the track
    expect_events(&m, "refused: track 1: expected 13 bytes, found the end of the file; it is cut short",
                  "0:90/60/64 500:80/60/64 |",
                  "track 1: expected 13 bytes, found the end of the file; it is cut short; the track ends there");
    m = good;
    m.byte[25] = 200;
    expect_events(&m, "refused: track 1, byte 25: expected a data byte below 128, found 0xc8",
                  "0:90/60/127 500:80/60/64 500:meta2f |", "track 1, byte 25: a data byte of 200; read as 127");
    m = good;
    m.byte[24] = 200;
    expect_events(&m, "refused: track 1, byte 24: expected a data byte below 128, found 0xc8",
                  "500:80/60/64 500:meta2f |", "track 1, byte 24: a data byte of 200; the event is left out");
    m = good;
    m.byte[23] = 0xf4;
    expect_events(&m, "refused: track 1, byte 23: expected an event, found the undefined status 0xf4", "|",
                  "track 1, byte 23: expected an event, found the undefined status 0xf4; the track ends there");
}

static void a_length_past_the_end_of_the_file(void **state) {
    (void)state;
    midi_header(&m, 1, 2, 500);
    put_track();
    m.byte[18] = 1;
    put_track();
    char both[128];
    snprintf(both, sizeof both, "%s%s", TRACK, TRACK);
    expect_events(
        &m, "refused: expected 2 tracks, found 1; it is cut short", both,
        "byte 14: a chunk of 16777229 bytes runs past the end of the file; it ends where the next track begins");
}

static void ticks_and_seconds(void **state) {
    (void)state;
    pa_midi scan;
    pa_tempo_map map;
    midi_header(&m, 1, 2, 480);
    midi_begin(&m);
    MIDI_PUT(&m, "\x87\x40\xff\x51\3\x0f\x42\x40"); // 60 bpm from tick 960, at 1 s
    midi_end(&m);
    midi_begin(&m);
    MIDI_PUT(&m, "\0\xff\x51\3\x07\xa1\x20");     // 120 bpm
    MIDI_PUT(&m, "\x8f\0\xff\x51\3\x03\xd0\x90"); // 240 bpm from tick 1920, at 3 s
    MIDI_PUT(&m, "\x8f\0\xff\x51\3\x03\xd0\x90"); // again
    MIDI_PUT(&m, "\0\xff\x51\3\x0f\x42\x40");     // 60 bpm from tick 3840, at 4 s, overwrites it
    midi_end(&m);
    assert_int_equal(pa_midi_open(&scan, m.byte, m.count, false, NULL), PA_OK);
    assert_int_equal(pa_tempo_read(&map, &scan, NULL), PA_OK);
    static const struct {
        int64_t tick;
        double seconds;
    } c[] = {{0, 0}, {480, 0.5}, {960, 1}, {1440, 2}, {1920, 3}, {2880, 3.5}, {3840, 4}, {4320, 5}};
    EACH_ROW (i, c, NULL) {
        assert_float_equal(pa_tempo_seconds(&map, c[i].tick), c[i].seconds, 1e-12);
        assert_int_equal(pa_tempo_tick(&map, c[i].seconds - 1e-9), c[i].tick);
        assert_int_equal(pa_tempo_tick(&map, c[i].seconds + 1e-9), c[i].tick + 1);
    }
    assert_int_equal(map.repeated, 1);
    assert_int_equal(map.overwritten, 1);
    for (int64_t tick = 0; tick < 5000; tick++)
        assert_int_equal(pa_tempo_tick(&map, pa_tempo_seconds(&map, tick)), tick);
    pa_tempo_clear(&map);
    pa_midi_clear(&scan);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_event_knows_its_bytes),
        cmocka_unit_test(riff_chunks_in_any_order),
        cmocka_unit_test(chunks_of_other_kinds),
        cmocka_unit_test(a_track_with_a_damaged_name),
        cmocka_unit_test(what_stands_behind_the_tracks),
        cmocka_unit_test(bytes_behind_the_end),
        cmocka_unit_test(mended_tracks),
        cmocka_unit_test(a_length_past_the_end_of_the_file),
        cmocka_unit_test(ticks_and_seconds),
    };
    return cmocka_run_group_tests_name("scan", tests, NULL, NULL);
}
