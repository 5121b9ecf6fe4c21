// test_splice.c: a file continued: its own events stay to the byte up to the cut, what is held there is released, and
// the continuation keeps the file's tempo map.
#include "tokenizer/splice.h"

#include <math.h>

#include "tests/support/midi_bytes.h"
#include "tests/support/scratch.h"
#include "tokenizer/tempo.h"

static pa_err err;

typedef struct {
    char *bytes;
    size_t count;
    pa_midi midi;
    pa_tempo_map map;
} out_file;

static out_file splice(const pa_splice *s) {
    out_file f;
    if (pa_splice_write(scratch("out.mid"), s, &err)) fail_msg("%s", err.text);
    assert_int_equal(pa_read_text(scratch("out.mid"), &f.bytes, &f.count, &err), PA_OK);
    if (pa_midi_open(&f.midi, (const uint8_t *)f.bytes, f.count, false, &err)) fail_msg("%s", err.text);
    if (pa_tempo_read(&f.map, &f.midi, &err)) fail_msg("%s", err.text);
    return f;
}

static void close_out(out_file *f) {
    pa_tempo_clear(&f->map);
    pa_midi_clear(&f->midi);
    free(f->bytes);
}

// A track's events: "0:ff03 61 62; 480:90 3c 40; ...".
static const char *events(const pa_midi *m, size_t track) {
    static char text[1 << 16];
    size_t used = 0;
    pa_midi_reader r = pa_midi_read(m, track, NULL);
    *text = 0;
    for (;;) {
        pa_midi_event e;
        bool more;
        if (pa_midi_next(&r, &e, &more, &err)) fail_msg("%s", err.text);
        if (!more) return text;
        assert_true(used + 4 * e.length + 64 < sizeof text);
        used += (size_t)sprintf(text + used, "%s%d:%02x", used ? "; " : "", (int)e.tick, e.status);
        if (e.status == PA_META) used += (size_t)sprintf(text + used, "%02x", e.type);
        for (uint32_t i = 0; i < e.length; i++) used += (size_t)sprintf(text + used, " %02x", e.data[i]);
    }
}

static void expect_events(const out_file *f, size_t track, const char *expected) {
    assert_string_equal(events(&f->midi, track), expected);
}

static void expect_bytes(const out_file *f, size_t track, const char *expected, size_t count) {
    const pa_midi_track *t = &f->midi.track[track];
    assert_int_equal(t->end - t->first, count);
    assert_memory_equal(f->bytes + t->first, expected, count);
}

// Two tracks, 100 ticks a quarter note: tempo 120 and from tick 200 (1 s) 60 bpm; text, sysex, running status.
static void put_two_tracks(midi *m) {
    midi_header(m, 1, 2, 100);
    midi_begin(m);
    MIDI_PUT(m, "\0\xff\3\5Piano\0\xff\x51\3\x07\xa1\x20\x81\x48\xff\x51\3\x0f\x42\x40\x82\x2c\xff\x51\3\x03\xd0\x90");
    midi_end(m);
    midi_begin(m);
    MIDI_PUT(m, "\0\xf0\4\x7e\x7f\x09\xf7\0\xc2\x06\0\xb2\x07\x50");
    MIDI_PUT(m,
             "\0\x92\x3c\x40\x64\x3c\0\0\x40\x41\x64\x40\0\0\xff\1\4text\0\x92\x43\x42\x64\x43\0\0\x45\x43\x64\x45\0");
    midi_end(m);
}

static void the_file_s_own_bytes_stay(void **state) {
    (void)state;
    midi m;
    const pa_note note[] = {{2.0, 2.5, 72, 80, 0}, {2.5, 5, 74, 81, 0}};
    put_two_tracks(&m);
    // The cut is at 2 s, tick 300: 67 ends there, 69 would begin. The third tempo, at tick 500, is behind it.
    pa_splice s = {.bytes = m.byte, .count = m.count, .keep = 1.995, .cut = 2, .note = note, .notes = 2};
    out_file f = splice(&s);
    assert_int_equal(f.midi.format, 1);
    assert_int_equal(f.midi.tracks, 3);
    assert_int_equal(f.midi.ppqn, 100);
    static const char first[] = "\0\xff\3\5Piano\0\xff\x51\3\x07\xa1\x20\x81\x48\xff\x51\3\x0f\x42\x40\x64\xff\x2f";
    expect_bytes(&f, 0, first, sizeof first);
    static const char second[] = "\0\xf0\4\x7e\x7f\x09\xf7\0\xc2\x06\0\xb2\x07\x50"
                                 "\0\x92\x3c\x40\x64\x3c\0\0\x40\x41\x64\x40\0\0\xff\1\4text\0\x92\x43\x42"
                                 "\x64\x82\x43\x40\0\xff\x2f";
    expect_bytes(&f, 1, second, sizeof second);
    expect_events(&f, 2,
                  "0:ff03 70 61 74 72 61 69 6e 20 63 6f 6e 74 69 6e 75 61 74 69 6f 6e; 0:b0 07 50; 0:c0 06; "
                  "300:ff06 70 61 74 72 61 69 6e 20 63 6f 6e 74 69 6e 75 61 74 69 6f 6e; "
                  "300:90 48 50; 350:80 48 40; 350:90 4a 51; 600:80 4a 40; 600:ff2f");
    close_out(&f);
    s.bare = true; // the same in 60 bpm from 0 on
    f = splice(&s);
    assert_int_equal(f.midi.format, 0);
    assert_int_equal(f.midi.tracks, 1);
    expect_events(
        &f, 0,
        "0:ff03 70 61 74 72 61 69 6e 20 63 6f 6e 74 69 6e 75 61 74 69 6f 6e; 0:ff51 0f 42 40; 0:b2 07 50; 0:c2 06; "
        "0:92 48 50; 50:82 48 40; 50:92 4a 51; 300:82 4a 40; 300:ff2f");
    close_out(&f);
}

static void what_is_held_is_released(void **state) {
    (void)state;
    // 60 is held to 3 s; 62 is released, but the pedal holds it; 64 is down; a drum is down. All in ms.
    static const row rows[] = {ON(0, 60, 64),       DOWN(100),     ON(200, 62, 64), OFF(400, 62), ON(500, 64, 64),
                               {600, 0x99, 36, 90}, OFF(3000, 60), OFF(3000, 64),   UP(3100),     STOP};
    midi m;
    midi_simple(&m, rows);
    pa_splice s = {.bytes = m.byte, .count = m.count, .keep = 0.995, .cut = 1};
    out_file f = splice(&s); // nothing sounds on
    static const char kept[] = "0:90 3c 40; 100:b0 40 7f; 200:90 3e 40; 400:80 3e 40; 500:90 40 40; 600:99 24 5a; ";
    char expected[512];
    snprintf(expected, sizeof expected, "%s1000:80 3c 40; 1000:80 40 40; 1000:89 24 40; 1000:b0 40 00; 1000:ff2f",
             kept);
    expect_events(&f, 0, expected);
    assert_int_equal(f.midi.format, 1);
    close_out(&f);
    s.held[60] = 5, s.held[62] = 2.5, s.held[64] = 1.2, s.held[36] = 2; // the pedal is for 62; a drum is no pitch
    f = splice(&s);
    snprintf(expected, sizeof expected, "%s1000:89 24 40; 1200:80 40 40; 2500:b0 40 00; 5000:80 3c 40; 5000:ff2f",
             kept);
    expect_events(&f, 0, expected);
    close_out(&f);
}

// Whole, a file keeps what it ends with: the last note-off and the pedal, up to half a step after the cut.
static void a_whole_file_is_kept_whole(void **state) {
    (void)state;
    static const row rows[] = {ON(0, 60, 64), DOWN(3), OFF(500, 60), UP(1004), STOP};
    midi m;
    midi_simple(&m, rows);
    const pa_note note[] = {{1, 1.5, 72, 80, 0}};
    out_file f =
        splice(&(pa_splice){.bytes = m.byte, .count = m.count, .keep = 1.005, .cut = 1, .note = note, .notes = 1});
    expect_events(&f, 0, "0:90 3c 40; 3:b0 40 7f; 500:80 3c 40; 1004:b0 40 00; 1004:ff2f");
    assert_non_null(strstr(events(&f.midi, 1), "1000:91 48 50; 1500:81 48 40")); // a channel of its own
    close_out(&f);
}

// At 24 ticks a quarter note a tick is 20.8 ms, two steps: each time is off by at most half of one, however many came
// before, and no note begins before the cut or vanishes. The names and lengths of a file's chunks: "MThd 6, MTrk 19".
static const char *chunks(const out_file *f) {
    static char text[256];
    size_t used = 0;
    for (size_t at = 0; at < f->count;) {
        const uint8_t *b = (const uint8_t *)f->bytes + at;
        unsigned length = (unsigned)(b[4] << 24 | b[5] << 16 | b[6] << 8 | b[7]);
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%.4s %u", at ? ", " : "", (const char *)b, length);
        at += 8 + length;
        assert_true(at <= f->count && used < sizeof text);
    }
    return text;
}

static void chunks_of_other_kinds_stay(void **state) {
    (void)state;
    midi m;
    const row notes[] = {ON(0, 60, 64), OFF(100, 60), STOP};
    midi_header(&m, 1, 2, 500);
    MIDI_PUT(&m, "XFIH\0\0\0\3abcINFO\0\0\0\0");
    midi_begin(&m);
    midi_rows(&m, notes);
    midi_end(&m);
    MIDI_PUT(&m, "LYRC\0\0\0\2de");
    midi_begin(&m);
    midi_rows(&m, notes);
    midi_end(&m);
    MIDI_PUT(&m, "XFKM\0\0\0\1f");
    pa_splice s = {.bytes = m.byte, .count = m.count, .keep = 1, .cut = 1};
    out_file f = splice(&s);
    assert_string_equal(chunks(&f), "MThd 6, XFIH 3, INFO 0, MTrk 12, LYRC 2, MTrk 12, MTrk 56, XFKM 1");
    assert_memory_equal(f.bytes + f.count - 1, "f", 1);
    assert_int_equal(f.midi.tracks, 3);
    close_out(&f);
    s.bare = true;
    f = splice(&s);
    assert_string_equal(chunks(&f), "MThd 6, MTrk 31");
    close_out(&f);
    s.bare = false;
    s.lenient = true;
    m.byte[m.count - 2] = 9; // the last chunk is cut by the end of the file, and XFIH says that it goes on to there
    m.byte[14 + 4] = 9;
    s.bytes = m.byte;
    f = splice(&s);
    assert_string_equal(chunks(&f), "MThd 6, MTrk 12, LYRC 2, MTrk 12, MTrk 56");
    close_out(&f);
}

static void coarse_ticks_do_not_add_up(void **state) {
    (void)state;
    enum { NOTES = 4000 };
    static pa_note note[NOTES];
    static const row rows[] = {ON(0, 60, 64), OFF(24, 60), STOP};
    for (int i = 0; i < NOTES; i++) note[i] = (pa_note){0.5 + 0.03 * i, 0.51 + 0.03 * i, (uint8_t)(30 + i % 60), 64, 0};
    for (int smpte = 0; smpte < 2; smpte++) {
        midi m;
        midi_header(&m, 0, 1, smpte ? 0xe728 : 24); // 25 frames of 40 ticks: a millisecond
        midi_begin(&m);
        midi_rows(&m, rows);
        midi_end(&m);
        out_file f = splice(
            &(pa_splice){.bytes = m.byte, .count = m.count, .keep = 0.505, .cut = 0.5, .note = note, .notes = NOTES});
        double tick = smpte ? 0.001 : 0.5 / 24;
        int ons = 0, offs = 0;
        pa_midi_reader r = pa_midi_read(&f.midi, 1, NULL);
        pa_midi_event e;
        for (bool more; pa_midi_next(&r, &e, &more, &err) == PA_OK && more;) {
            double at = pa_tempo_seconds(&f.map, e.tick);
            if (e.status >> 4 == 9) {
                assert_int_equal(e.value[0], note[ons].pitch);
                assert_true(fabs(at - note[ons].start) <= tick / 2 + 1e-9 && at >= 0.5);
                ons++;
            } else if (e.status >> 4 == 8) {
                assert_true(at - note[offs].start > tick / 2 - 1e-9 && fabs(at - note[offs].end) <= tick + 1e-9);
                offs++;
            }
        }
        assert_true(ons == NOTES && offs == NOTES);
        close_out(&f);
    }
}

static void a_wrapper_is_taken_off(void **state) {
    (void)state;
    midi m, riff = {.count = 0};
    put_two_tracks(&m);
    MIDI_PUT(&riff, "RIFF\0\0\0\0RMIDLIST\4\0\0\0abcddata");
    midi_put(&riff, (const char[]){(char)m.count, (char)(m.count >> 8), 0, 0}, 4);
    midi_put(&riff, (const char *)m.byte, m.count);
    out_file plain = splice(&(pa_splice){.bytes = m.byte, .count = m.count, .keep = 1e9, .cut = 3});
    out_file f = splice(&(pa_splice){.bytes = riff.byte, .count = riff.count, .keep = 1e9, .cut = 3});
    assert_int_equal(f.count, plain.count);
    assert_memory_equal(f.bytes, plain.bytes, f.count);
    close_out(&plain);
    close_out(&f);
}

// Every channel in use: the piano's is shared, as it is. The sound of another is taken along; a port too.
static void channels_and_ports(void **state) {
    (void)state;
    midi m;
    for (int all = 0; all < 2; all++) {
        midi_header(&m, 1, 1, 500);
        midi_begin(&m);
        MIDI_PUT(&m, "\0\xff\x21\1\2");
        for (int c = 0; c < (all ? 16 : 4); c++)
            midi_put(&m, (const char[]){0, (char)(0x90 | c), 60, 64, 1, (char)(0x80 | c), 60, 0}, 8);
        MIDI_PUT(&m, "\0\xc3\4\0\xb3\x07\x64\0\xb3\x5b\x20\0\x93\x3c\x40\x10\x83\x3c\0");
        midi_end(&m);
        const pa_note note[] = {{1, 1.5, 72, 80, 0}};
        out_file f =
            splice(&(pa_splice){.bytes = m.byte, .count = m.count, .keep = 1, .cut = 1, .note = note, .notes = 1});
        const char *text = events(&f.midi, 1);
        assert_non_null(strstr(text, "0:ff21 02; "));
        assert_non_null(strstr(text, all ? "1000:93 48 50" : "1000:94 48 50"));
        assert_true(all ? !strstr(text, "c3") : strstr(text, "0:b4 07 64; 0:b4 5b 20; 0:c4 04; ") != NULL);
        close_out(&f);
    }
}

// A lenient reader's mended events make a file that strict ones read.
static void damage_is_mended(void **state) {
    (void)state;
    midi m;
    midi_header(&m, 0, 1, 500);
    midi_begin(&m);
    MIDI_PUT(&m, "\0\x90\x3c\xc8"   // a velocity of 200
                 "\x64\x91\xbc\x40" // a pitch of 188: left out, with its status
                 "\0\xff\1\1x"
                 "\x0a\x3e\x41\x14\x3c\x42"   // on channel 2 by running status
                 "\x14\x80\x3c\0\0\x3e\xff"); // a release of 255
    midi_end(&m);
    const pa_splice s = {.bytes = m.byte, .count = m.count - 4, .lenient = true, .keep = 5, .cut = 5}; // cut short
    out_file f = splice(&s);
    expect_events(&f, 0,
                  "0:90 3c 7f; 100:ff01 78; 110:91 3e 41; 130:91 3c 42; 150:80 3c 00; 150:80 3e 7f; 5000:81 3c 40; "
                  "5000:81 3e 40; 5000:ff2f");
    close_out(&f);
    pa_splice strict = s;
    strict.lenient = false;
    assert_int_equal(pa_splice_write(scratch("strict.mid"), &strict, &err), PA_DATA);
    assert_int_equal(access(scratch("strict.mid"), F_OK), -1);
}

// Random files, cut anywhere: the events before the cut are the input's, and those behind it release what is held.
static void random_files(void **state) {
    (void)state;
    for (int i = 0; i < 200; i++) {
        midi m;
        int tracks = 1 + (int)draw(4), status = 0;
        midi_header(&m, tracks > 1, tracks, 24 + (int)draw(400));
        for (int t = 0; t < tracks; t++) {
            midi_begin(&m);
            status = 0;
            for (uint32_t k = draw(60); k; k--) {
                const char pitch = (char)draw(128), value = (char)draw(128);
                midi_delta(&m, (int)(draw(3) ? draw(30) : draw(500)));
                switch (draw(12)) {
                case 0:
                    midi_put(&m, (const char[]){(char)0xff, 0x51, 3, (char)(2 + draw(14)), pitch, value}, 6);
                    break;
                case 1:
                    midi_put(&m, (const char[]){(char)0xff, 1, 2, pitch, value}, 5);
                    break;
                case 2:
                    midi_put(&m, (const char[]){(char)0xf0, 2, pitch, (char)0xf7}, 4);
                    break;
                default: {
                    static const uint8_t kinds[] = {0x90, 0x90, 0x80, 0xb0};
                    int next = kinds[draw(4)] | (int)draw(3);
                    if (next != status || draw(2)) midi_put(&m, (const char[]){(char)next}, 1);
                    status = next;
                    midi_put(&m, (const char[]){next >> 4 == 0xb ? 64 : (char)(60 + pitch % 8), value}, 2);
                }
                }
            }
            midi_end(&m);
        }
        pa_midi in;
        pa_tempo_map map;
        assert_int_equal(pa_midi_open(&in, m.byte, m.count, false, &err), PA_OK);
        assert_int_equal(pa_tempo_read(&map, &in, &err), PA_OK);
        double cut = draw(600) / 100.0;
        int64_t keep = pa_tempo_tick(&map, cut);
        pa_splice s = {.bytes = m.byte, .count = m.count, .keep = cut, .cut = cut};
        for (int p = 0; p < 128; p++) s.held[p] = cut + draw(200) / 100.0;
        out_file f = splice(&s);
        for (size_t t = 0; t < in.tracks; t++) {
            pa_midi_reader a = pa_midi_read(&in, t, NULL), b = pa_midi_read(&f.midi, t, NULL);
            pa_midi_event x, y;
            bool more, down[16][128] = {{false}}, pedal[16] = {false};
            for (;;) {
                assert_int_equal(pa_midi_next(&a, &x, &more, &err), PA_OK);
                if (!more || x.tick >= keep || (x.status == PA_META && x.type == PA_META_END)) break;
                assert_int_equal(pa_midi_next(&b, &y, &more, &err), PA_OK);
                assert_int_equal(x.end - x.begin, y.end - y.begin);
                assert_memory_equal(m.byte + x.begin, f.bytes + y.begin, x.end - x.begin);
                if (x.status >> 4 == 9) down[x.status & 15][x.value[0]] = x.value[1];
                if (x.status >> 4 == 8) down[x.status & 15][x.value[0]] = false;
                if (x.status >> 4 == 0xb) pedal[x.status & 15] = x.value[1] >= 64;
            }
            while (pa_midi_next(&b, &y, &more, &err) == PA_OK && more && y.status != PA_META) {
                assert_true(y.tick >= keep);
                bool *state_of = y.status >> 4 == 8 ? &down[y.status & 15][y.value[0]] : &pedal[y.status & 15];
                assert_true(*state_of && (y.status >> 4 == 8 || y.value[1] == 0));
                *state_of = false;
            }
            for (int c = 0; c < 16; c++) {
                assert_false(pedal[c]);
                for (int p = 0; p < 128; p++) assert_false(down[c][p]);
            }
        }
        close_out(&f);
        pa_tempo_clear(&map);
        pa_midi_clear(&in);
    }
}

// Whatever bytes a lenient reader takes, the file that comes of them is sound.
static void damaged_bytes_become_a_sound_file(void **state) {
    (void)state;
    int spliced = 0;
    for (int i = 0; i < 300; i++) {
        midi m;
        put_two_tracks(&m);
        for (uint32_t k = 1 + draw(4); k; k--)
            m.byte[draw(3) ? 22 + draw((uint32_t)m.count - 22) : draw((uint32_t)m.count)] = (uint8_t)draw(256);
        if (!draw(4)) m.count -= draw((uint32_t)m.count);
        const pa_note note[] = {{2.5, 3, 72, 80, 0}};
        pa_splice s = {
            .bytes = m.byte, .count = m.count, .lenient = true, .keep = 2, .cut = 2, .note = note, .notes = 1};
        pa_status status = pa_splice_write(scratch("out.mid"), &s, &err);
        if (status) continue;
        out_file f = splice(&s); // reads it strictly
        for (size_t t = 0; t < f.midi.tracks; t++) events(&f.midi, t);
        spliced++;
        close_out(&f);
    }
    assert_true(spliced > 100);
}

static void a_full_disk(void **state) {
    (void)state;
    midi m;
    put_two_tracks(&m);
    scratch_limit(64);
    assert_int_equal(
        pa_splice_write(scratch("a.mid"), &(pa_splice){.bytes = m.byte, .count = m.count, .keep = 9, .cut = 9}, &err),
        PA_FAIL);
    scratch_limit(0);
    assert_int_equal(scratch_entries(), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(the_file_s_own_bytes_stay),
        SCRATCH_TEST(what_is_held_is_released),
        SCRATCH_TEST(a_whole_file_is_kept_whole),
        SCRATCH_TEST(chunks_of_other_kinds_stay),
        SCRATCH_TEST(coarse_ticks_do_not_add_up),
        SCRATCH_TEST(a_wrapper_is_taken_off),
        SCRATCH_TEST(channels_and_ports),
        SCRATCH_TEST(damage_is_mended),
        SCRATCH_TEST(random_files),
        SCRATCH_TEST(damaged_bytes_become_a_sound_file),
        SCRATCH_TEST(a_full_disk),
    };
    return cmocka_run_group_tests_name("splice", tests, NULL, NULL);
}
