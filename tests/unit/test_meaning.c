// test_meaning.c: a file means what a synthesiser would play: state by port and channel, not by track or program; one tempo map; ends of
// notes; what is left out and how that is reported.
#include "tests/support/midi_bytes.h"
#include "tests/support/rows.h"

static midi m;
static const pa_encode_options performance = {.encoding = PA_PERFORMANCE};

static void put_track(const row *r) {
    midi_begin(&m);
    midi_rows(&m, r);
    midi_end(&m);
}
#define TRACK(...) put_track((const row[]){__VA_ARGS__, STOP})
static const char TEMPO_120[] = "\0\xff\x51\3\x07\xa1\x20";

static void put_tempo_track(void) {
    midi_begin(&m);
    midi_put(&m, TEMPO_120, 7);
    midi_end(&m);
}

// ---- files that other programs stumbled over (../shared/cases has them, too)

// Where the file is at hand, these are its bytes.
static void same_as_case(const char *name) {
    char path[4096];
    uint8_t byte[1024];
    const char *data = getenv("PA_DATA");
    snprintf(path, sizeof path, "%s/../cases/%s", data ? data : "", name);
    FILE *f = data ? fopen(path, "rb") : NULL;
    if (!f) return;
    size_t count = fread(byte, 1, sizeof byte, f);
    fclose(f);
    assert_int_equal(m.count, count);
    assert_memory_equal(m.byte, byte, count);
}

static const row four_notes[] = {{0, 0x90, 60, 80},    {480, 0x80, 60, 64},  {480, 0x90, 62, 80},
                                 {960, 0x80, 62, 64},  {960, 0x90, 64, 80},  {1440, 0x80, 64, 64},
                                 {1440, 0x90, 65, 80}, {1920, 0x80, 65, 64}, STOP};

static void tempo_in_a_later_track(void **state) {
    (void)state;
    midi_header(&m, 1, 2, 480);
    midi_begin(&m);
    MIDI_PUT(&m, "\0\xff\3\x09"
                 "conductor");
    midi_end(&m);
    midi_begin(&m);
    MIDI_PUT(&m, "\0\xff\x51\3\x0f\x42\x40"); // 60 bpm
    midi_rows(&m, four_notes);
    midi_end(&m);
    same_as_case("tempo_in_later_track.mid");
    expect_tokens(&m, PA_PERFORMANCE, "V19 +60 T100 -60 +62 T100 -62 +64 T100 -64 +65 T100 -65", 0);
}

static void pedal_in_another_track(void **state) {
    (void)state;
    midi_header(&m, 1, 3, 480);
    put_tempo_track();
    TRACK({0, 0x90, 72, 80}, {240, 0x80, 72, 0}, {2880, 0x90, 74, 80}, {3120, 0x80, 74, 0});
    TRACK({0, 0xb0, 64, 127}, {0, 0x90, 48, 80}, {240, 0x80, 48, 0}, {1920, 0xb0, 64, 0}, {2880, 0x90, 50, 80}, {3120, 0x80, 50, 0});
    same_as_case("pedal_in_other_track.mid");
    expect_tokens(&m, PA_PERFORMANCE, "V19 +48 +72 T100 T100 -48 -72 T100 +50 +74 T25 -50 -74", 0);
}

static void pedal_in_a_track_of_its_own(void **state) {
    (void)state;
    pa_report r;
    midi_header(&m, 1, 3, 480);
    put_tempo_track();
    TRACK({0, 0x90, 72, 80}, {240, 0x80, 72, 0}, {2880, 0x90, 74, 80}, {3120, 0x80, 74, 0});
    TRACK({0, 0xb0, 64, 127}, {1920, 0xb0, 64, 0});
    same_as_case("pedal_in_own_track.mid");
    expect_options(&m, &performance, "V19 +72 T100 T100 -72 T100 +74 T25 -74", 0, &r);
    assert_int_equal(r.pedal, 2);
    assert_int_equal(r.idle_pedal, 0);
}

static void pedal_across_a_program_change(void **state) {
    (void)state;
    midi_header(&m, 0, 1, 480);
    TRACK({0, 0xb0, 64, 127}, {0, 0x90, 60, 80}, {480, 0x80, 60, 0}, {960, 0xc0, 1, 0}, {960, 0x90, 62, 80}, {1440, 0x80, 62, 0},
          {1920, 0xb0, 64, 0}, {8640, 0xc0, 0, 0}, {8640, 0x90, 64, 80}, {9600, 0x80, 64, 0});
    same_as_case("pedal_across_program_change.mid");
    expect_tokens(&m, PA_PERFORMANCE, "V19 +60 T100 +62 T100 -60 -62 T100 T100 T100 T100 T100 T100 T100 +64 T100 -64", 0);
}

static void a_pedal_never_lifted_ends_with_the_piece(void **state) {
    (void)state;
    midi_header(&m, 1, 3, 480);
    put_tempo_track();
    TRACK({0, 0xb0, 64, 127}, {0, 0x90, 36, 80}, {960, 0x80, 36, 0});
    row r[33];
    for (int i = 0; i < 16; i++) {
        r[i ? 2 * i - 1 : 0] = (row){480 * i, 0x91, (uint8_t)(72 + i), 80};
        r[i < 15 ? 2 * i + 2 : 31] = (row){480 * (i + 1), 0x81, (uint8_t)(72 + i), 0};
    }
    r[32] = (row)STOP;
    put_track(r);
    same_as_case("pedal_never_up_two_parts.mid");
    expect_tokens(&m, PA_PERFORMANCE,
                  "V19 +36 +72 T50 -72 +73 T50 -73 +74 T50 -74 +75 T50 -75 +76 T50 -76 +77 T50 -77 +78 T50 -78 +79 T50 -79 +80 T50 -80 +81 "
                  "T50 -81 +82 T50 -82 +83 T50 -83 +84 T50 -84 +85 T50 -85 +86 T50 -86 +87 T50 -36 -87",
                  0);
}

static void put_four_notes(void) {
    midi_begin(&m);
    for (int i = 0; i < 4; i++) {
        static const char pitch[] = {60, 62, 64, 65};
        midi_put(&m, (const char[]){0, (char)0x90, pitch[i], 80, (char)0x83, 0x60, (char)0x80, pitch[i], 64}, 9);
    }
    midi_end(&m);
}

static void a_list_before_the_music(void **state) {
    (void)state;
    m.count = 0;
    MIDI_PUT(&m, "RIFF\x64\0\0\0RMIDLIST\x12\0\0\0INFOINAM\6\0\0\0Sonatadata\x3e\0\0\0MThd\0\0\0\6\0\0\0\1\1\xe0");
    put_four_notes();
    same_as_case("rmid_list_first.rmi");
    expect_tokens(&m, PA_PERFORMANCE, "V19 +60 T50 -60 +62 T50 -62 +64 T50 -64 +65 T50 -65", 0);
}

static void a_foreign_chunk_that_is_counted(void **state) {
    (void)state;
    midi_header(&m, 1, 3, 480);
    put_tempo_track();
    MIDI_PUT(&m, "XFIH\0\0\0\4abcd");
    put_four_notes();
    same_as_case("ntrks_counts_foreign_chunk.mid");
    expect_tokens(&m, PA_PERFORMANCE, "V19 +60 T50 -60 +62 T50 -62 +64 T50 -64 +65 T50 -65", 0);
}

// ---- channels, ports and tracks

static void a_note_off_in_another_track(void **state) {
    (void)state;
    midi_header(&m, 1, 2, 500);
    TRACK(ON(0, 60, 64));
    TRACK(OFF(300, 60), ON(500, 62, 64), OFF(600, 62));
    expect_tokens(&m, PA_PERFORMANCE, "V15 +60 T30 -60 T20 +62 T10 -62", 0);
}

static void put_port(int port) {
    midi_put(&m, (const char[]){0, (char)0xff, 0x21, 1, (char)port}, 5);
}

static void ports_are_apart(void **state) {
    (void)state;
    midi_header(&m, 1, 3, 500);
    TRACK(ON(0, 60, 64), OFF(100, 60), OFF(400, 60)); // the note of port 1 is not released by port 0
    midi_begin(&m);
    put_port(1);
    midi_rows(&m, (const row[]){ON(200, 60, 64), OFF(500, 60), STOP});
    midi_end(&m);
    midi_begin(&m);
    put_port(255);
    midi_rows(&m, (const row[]){DOWN(0), UP(900), STOP});
    midi_end(&m);
    expect_tokens(&m, PA_PERFORMANCE, "V15 +60 T10 -60 T10 +60 T30 -60", 0);
}

static void surplus_tracks(void **state) {
    (void)state;
    pa_report r;
    midi_header(&m, 1, 1, 500);
    TRACK(DOWN(0), ON(0, 60, 64), OFF(100, 60), UP(200), DOWN(300), ON(400, 62, 64), OFF(450, 62), UP(500));
    TRACK(ON(600, 64, 64), OFF(700, 64));
    expect_options(&m, &performance, "V15 +60 T20 -60 T20 +62 T10 -62 T10 +64 T10 -64", 0, &r);
    assert_int_equal(r.tracks, 2);
    assert_int_equal(r.tracks_left_out, 0);
    expect_options(&m, &(pa_encode_options){.encoding = PA_MIDI_NEURAL}, "V16 +60 T20 -60 T20 V16 +62 T5 -62", 0, &r);
    assert_int_equal(r.tracks_left_out, 1);
}

// ---- ends of notes

static void all_notes_off_releases_the_keys(void **state) {
    (void)state;
    for (uint8_t controller = 123; controller < 128; controller++) {
        midi_header(&m, 0, 1, 500);
        TRACK(ON(0, 60, 64), {0, 0x91, 61, 64}, {300, 0xb0, controller, 0}, {500, 0x81, 61, 0});
        expect_tokens(&m, PA_PERFORMANCE, "V15 +60 +61 T30 -60 T20 -61", 0);
        midi_header(&m, 0, 1, 500);
        TRACK(DOWN(0), ON(0, 60, 64), {300, 0xb0, controller, 0}, UP(500)); // the pedal holds on
        expect_tokens(&m, PA_PERFORMANCE, "V15 +60 T50 -60", 0);
    }
}

static void all_sound_off_silences(void **state) {
    (void)state;
    midi_header(&m, 0, 1, 500);
    TRACK(DOWN(0), ON(0, 60, 64), OFF(100, 60), ON(200, 61, 64), {300, 0xb0, 120, 0}, ON(400, 62, 64), OFF(500, 62), UP(800));
    expect_tokens(&m, PA_PERFORMANCE, "V15 +60 T20 +61 T10 -60 -61 T10 +62 T40 -62", 0);
}

static void a_reset_lifts_the_pedals(void **state) {
    (void)state;
    midi_header(&m, 0, 1, 500);
    TRACK(DOWN(0), {0, 0xb0, 66, 127}, ON(0, 60, 64), OFF(100, 60), {300, 0xb0, 121, 0}, ON(400, 62, 64), OFF(500, 62));
    expect_tokens(&m, PA_PERFORMANCE, "V15 +60 T30 -60 T10 +62 T10 -62", 0);
    expect_options(&m, &(pa_encode_options){.sostenuto = true}, "V15 +60 T30 -60 T10 +62 T10 -62", 0, NULL);
}

#define SOSTENUTO(t, value)                                                                                                                \
    { t, 0xb0, 66, value }

static void expect_sostenuto(const char *ignored, const char *applied) {
    pa_report r;
    expect_options(&m, &performance, ignored, 0, &r);
    assert_true(r.sostenuto > 0);
    expect_options(&m, &(pa_encode_options){.sostenuto = true}, applied, 0, NULL);
}

static void sostenuto_holds_what_is_down_at_its_press(void **state) {
    (void)state;
    midi_header(&m, 0, 1, 500);
    TRACK(ON(0, 60, 64), ON(0, 62, 64), OFF(100, 62), SOSTENUTO(200, 127), ON(300, 64, 64), OFF(400, 60), OFF(400, 64), SOSTENUTO(500, 0));
    expect_sostenuto("V15 +60 +62 T10 -62 T20 +64 T10 -60 -64", "V15 +60 +62 T10 -62 T20 +64 T10 -64 T10 -60");
    midi_header(&m, 0, 1, 500); // with the sustain pedal: the release of either leaves what the other holds
    TRACK(ON(0, 60, 64), SOSTENUTO(100, 127), DOWN(150), OFF(200, 60), ON(200, 61, 64), OFF(250, 61), UP(300), SOSTENUTO(500, 0));
    expect_sostenuto("V15 +60 T20 +61 T10 -60 -61", "V15 +60 T20 +61 T10 -61 T20 -60");
    midi_header(&m, 0, 1, 500); // what only the sustain pedal holds is not down
    TRACK(DOWN(0), ON(0, 60, 64), OFF(100, 60), ON(100, 62, 64), SOSTENUTO(200, 127), UP(300), OFF(400, 62), SOSTENUTO(500, 0));
    expect_sostenuto("V15 +60 T10 +62 T20 -60 T10 -62", "V15 +60 T10 +62 T20 -60 T20 -62");
    midi_header(&m, 0, 1, 500); // struck again while it is held
    TRACK(ON(0, 60, 64), SOSTENUTO(100, 127), OFF(200, 60), ON(300, 60, 64), OFF(400, 60), SOSTENUTO(600, 0));
    expect_sostenuto("V15 +60 T20 -60 T10 +60 T10 -60", "V15 +60 T30 -60 +60 T30 -60");
    midi_header(&m, 0, 1, 500); // never lifted
    TRACK(ON(0, 60, 64), SOSTENUTO(100, 127), OFF(200, 60), ON(300, 62, 64), OFF(900, 62));
    expect_sostenuto("V15 +60 T20 -60 T10 +62 T60 -62", "V15 +60 T30 +62 T60 -60 -62");
}

static void notes_never_released_are_counted(void **state) {
    (void)state;
    pa_report r;
    midi_header(&m, 1, 2, 500);
    TRACK(ON(0, 60, 64), ON(500, 64, 64), ON(500, 67, 64));
    midi_begin(&m);
    midi_rows(&m, (const row[]){OFF(300, 60), STOP});
    midi_end_at(&m, 1708);
    expect_options(&m, &performance, "V15 +60 T30 -60 T20 +64 +67 T100 T51 -64 -67", 0, &r);
    assert_int_equal(r.unclosed, 2);
}

// ---- what is asked for

static void programs_are_chosen(void **state) {
    (void)state;
    pa_report r;
    pa_encode_options o = {.encoding = PA_PERFORMANCE};
    midi_header(&m, 0, 1, 500);
    TRACK({0, 0xc1, 40, 0}, ON(0, 60, 64), {0, 0x91, 72, 64}, {0, 0x99, 36, 64}, OFF(200, 60), {200, 0x81, 72, 0}, {200, 0x89, 36, 0},
          {300, 0xc0, 6, 0}, ON(300, 62, 64), OFF(500, 62));
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
    expect_reason(&performance, "only drums: all of its 1 notes are on channel 10");
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
    TRACK(DOWN(0), ON(36004, 60, 64), OFF(36104, 60), UP(36204), DOWN(36300), UP(36310), ON(36400, 60, 64), OFF(36500, 60));
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
    TRACK({0, 0xb0, 67, 1}, {0, 0xb1, 64, 127}, DOWN(0), ON(0, 60, 64), UP(480), OFF(480, 60), {480, 0xb0, 66, 0}, {960, 0xb0, 123, 0});
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

// ---- properties, over random files

enum { TRACKS = 4, EVENTS = 60, ROUNDS = 2500 };

typedef struct {
    int tick, track, port;
    uint8_t count, byte[6];
} any_event;

static any_event draw_event(int tick, int track, int port) {
    static const uint8_t controller[] = {64, 64, 64, 64, 64, 66, 67, 120, 121, 123, 127, 7};
    any_event e = {.tick = tick, .track = track, .port = port, .count = 3};
    uint8_t channel = (uint8_t[]){0, 0, 0, 1, 9}[draw(5)];
    uint32_t kind = draw(20);
    if (kind < 8) {
        e.byte[0] = 0x90 | channel, e.byte[1] = (uint8_t)(60 + draw(4)), e.byte[2] = (uint8_t)(draw(6) ? 1 + draw(127) : 0);
    } else if (kind < 14) {
        e.byte[0] = 0x80 | channel, e.byte[1] = (uint8_t)(60 + draw(4)), e.byte[2] = 64;
    } else if (kind < 18) {
        e.byte[0] = 0xb0 | channel, e.byte[1] = controller[draw(sizeof controller)], e.byte[2] = draw(2) ? 127 : 0;
    } else if (kind < 19) {
        e.byte[0] = 0xc0 | channel, e.byte[1] = (uint8_t)draw(8), e.count = 2; // a piano
    } else {
        memcpy(e.byte, (const uint8_t[]){0xff, 0x51, 3, (uint8_t)(1 + draw(15)), (uint8_t)draw(256), 0}, 6);
        e.count = 6;
    }
    return e;
}

// In order of (tick, track, place): that of a merge.
static size_t draw_piece(any_event *e) {
    size_t count = 0, most = 1 + draw(EVENTS);
    bool ports = !draw(3);
    for (int tick = 0; count < most; tick += 1 + (draw(3) ? 0 : (int)draw(400)))
        for (int track = 0; track < TRACKS; track++)
            for (uint32_t k = draw(4); k && count < most; k--) e[count++] = draw_event(tick, track, ports ? (int)draw(2) : 0);
    return count;
}

// Those of one track; -1: all, as one.
static void write_track(midi *file, const any_event *e, size_t count, int track, int end) {
    int tick = 0, port = 0;
    midi_begin(file);
    for (size_t i = 0; i < count; i++) {
        if (track >= 0 && e[i].track != track) continue;
        midi_delta(file, e[i].tick - tick);
        tick = e[i].tick;
        if (e[i].port != port) {
            midi_put(file, (const char[]){(char)0xff, 0x21, 1, (char)e[i].port, 0}, 5); // and the delta of the event itself
            port = e[i].port;
        }
        midi_put(file, (const char *)e[i].byte, e[i].count);
    }
    midi_end_at(file, end - tick);
}

static void expect_same(const midi *a, const midi *b, int round) {
    pa_piece piece[2];
    pa_encode_options o = {.encoding = PA_PERFORMANCE, .sostenuto = round & 1, .longest_pause = round & 2 ? 1 : 0};
    if (round & 4) pa_programs_parse("0-7", &o.programs, NULL);
    pa_status first = encode_with(a->byte, a->count, &o, &piece[0], NULL), second = encode_with(b->byte, b->count, &o, &piece[1], NULL);
    bool same = first == second && piece[0].count == piece[1].count && piece[0].dropped == piece[1].dropped &&
                piece[0].report.unclosed == piece[1].report.unclosed && piece[0].report.notes == piece[1].report.notes &&
                (!piece[0].count || !memcmp(piece[0].token, piece[1].token, piece[0].count * sizeof(uint16_t)));
    if (!same) {
        char *text[] = {tokens_text(piece[0].token, piece[0].count), tokens_text(piece[1].token, piece[1].count)};
        fail_msg("round %d: %s, dropped %zu; %s, dropped %zu", round, text[0], piece[0].dropped, text[1], piece[1].dropped);
    }
    pa_piece_clear(&piece[0]);
    pa_piece_clear(&piece[1]);
}

static void a_file_and_its_merge_are_the_same_music(void **state) {
    (void)state;
    static midi merged;
    for (int round = 0; round < ROUNDS; round++) {
        any_event e[EVENTS];
        size_t count = draw_piece(e);
        int end[TRACKS], last = 0;
        midi_header(&m, 1, TRACKS, 480);
        for (int t = 0; t < TRACKS; t++) {
            end[t] = e[count - 1].tick + (int)draw(600);
            last = end[t] > last ? end[t] : last;
            write_track(&m, e, count, t, end[t]);
        }
        midi_header(&merged, 0, 1, 480);
        write_track(&merged, e, count, -1, last);
        expect_same(&m, &merged, round);
    }
}

static void program_changes_among_pianos_change_nothing(void **state) {
    (void)state;
    static midi plain;
    for (int round = 0; round < ROUNDS; round++) {
        any_event e[EVENTS], without[EVENTS];
        size_t count = draw_piece(e), kept = 0;
        int end = e[count - 1].tick + (int)draw(600);
        for (size_t i = 0; i < count; i++)
            if (e[i].byte[0] >> 4 != 0xc) without[kept++] = e[i];
        midi_header(&m, 1, TRACKS, 480);
        midi_header(&plain, 1, TRACKS, 480);
        for (int t = 0; t < TRACKS; t++) {
            write_track(&m, e, count, t, end);
            write_track(&plain, without, kept, t, end);
        }
        expect_same(&m, &plain, round);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tempo_in_a_later_track),
        cmocka_unit_test(pedal_in_another_track),
        cmocka_unit_test(pedal_in_a_track_of_its_own),
        cmocka_unit_test(pedal_across_a_program_change),
        cmocka_unit_test(a_pedal_never_lifted_ends_with_the_piece),
        cmocka_unit_test(a_list_before_the_music),
        cmocka_unit_test(a_foreign_chunk_that_is_counted),
        cmocka_unit_test(a_note_off_in_another_track),
        cmocka_unit_test(ports_are_apart),
        cmocka_unit_test(surplus_tracks),
        cmocka_unit_test(all_notes_off_releases_the_keys),
        cmocka_unit_test(all_sound_off_silences),
        cmocka_unit_test(a_reset_lifts_the_pedals),
        cmocka_unit_test(sostenuto_holds_what_is_down_at_its_press),
        cmocka_unit_test(notes_never_released_are_counted),
        cmocka_unit_test(programs_are_chosen),
        cmocka_unit_test(lists_of_programs),
        cmocka_unit_test(files_without_music),
        cmocka_unit_test(pauses_are_shortened),
        cmocka_unit_test(silence_is_trimmed),
        cmocka_unit_test(what_was_found),
        cmocka_unit_test(lenient_takes_what_is_there),
        cmocka_unit_test(a_file_and_its_merge_are_the_same_music),
        cmocka_unit_test(program_changes_among_pianos_change_nothing),
    };
    return cmocka_run_group_tests_name("meaning", tests, NULL, NULL);
}
