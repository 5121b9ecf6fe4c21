// test_same_music.c: properties over random files: what changes nothing in the music (a merge to one track, program
// changes among pianos, repeated pedal messages) changes no token.
#include "tests/support/midi_bytes.h"

static midi m;

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
        e.byte[0] = 0x90 | channel;
        e.byte[1] = (uint8_t)(60 + draw(4));
        e.byte[2] = (uint8_t)(draw(6) ? 1 + draw(127) : 0);
    } else if (kind < 14) {
        e.byte[0] = 0x80 | channel;
        e.byte[1] = (uint8_t)(60 + draw(4));
        e.byte[2] = 64;
    } else if (kind < 18) {
        e.byte[0] = 0xb0 | channel;
        e.byte[1] = controller[draw(sizeof controller)];
        e.byte[2] = draw(2) ? 127 : 0;
    } else if (kind < 19) {
        e.byte[0] = 0xc0 | channel;
        e.byte[1] = (uint8_t)draw(8); // a piano
        e.count = 2;
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
            for (uint32_t k = draw(4); k && count < most; k--)
                e[count++] = draw_event(tick, track, ports ? (int)draw(2) : 0);
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
            midi_put(file, (const char[]){(char)0xff, 0x21, 1, (char)e[i].port, 0},
                     5); // and the delta of the event itself
            port = e[i].port;
        }
        midi_put(file, (const char *)e[i].byte, e[i].count);
    }
    midi_end_at(file, end - tick);
}

static void expect_same(pa_encoding encoding, const midi *a, const midi *b, int round) {
    pa_piece piece[2];
    bool neural = encoding == PA_MIDI_NEURAL;
    pa_encode_options o = {
        .encoding = encoding, .sostenuto = !neural && round & 1, .longest_pause = !neural && round & 2 ? 1 : 0};
    if (!neural && round & 4) pa_programs_parse("0-7", &o.programs, NULL);
    pa_status first = encode_with(a->byte, a->count, &o, &piece[0], NULL),
              second = encode_with(b->byte, b->count, &o, &piece[1], NULL);
    bool same = first == second && piece[0].count == piece[1].count && piece[0].dropped == piece[1].dropped &&
                piece[0].report.unclosed == piece[1].report.unclosed &&
                piece[0].report.notes == piece[1].report.notes &&
                (!piece[0].count || !memcmp(piece[0].token, piece[1].token, piece[0].count * sizeof(uint16_t)));
    if (!same) {
        char *text[] = {tokens_text(piece[0].token, piece[0].count), tokens_text(piece[1].token, piece[1].count)};
        fail_msg("round %d: %s, dropped %zu; %s, dropped %zu", round, text[0], piece[0].dropped, text[1],
                 piece[1].dropped);
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
        expect_same(PA_PERFORMANCE, &m, &merged, round);
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
        expect_same(PA_PERFORMANCE, &m, &plain, round);
    }
}

// A press that repeats the last one is left out, unless a program change stands between. Here one stands before every
// pedal message and sets the program that is set already.
static void a_repeated_press_changes_nothing_in_midi_neural(void **state) {
    (void)state;
    static midi whole;
    for (int round = 0; round < ROUNDS; round++) {
        any_event e[EVENTS], more[2 * EVENTS];
        uint8_t program[TRACKS][16] = {{0}};
        size_t count = draw_piece(e), used = 0;
        int end = e[count - 1].tick + (int)draw(600);
        for (size_t i = 0; i < count; i++) {
            uint8_t channel = e[i].byte[0] & 15, *now = &program[e[i].track][channel];
            if (e[i].byte[0] >> 4 == 0xc) *now = e[i].byte[1];
            any_event change = {
                .tick = e[i].tick, .track = e[i].track, .port = e[i].port, .count = 2, .byte = {0xc0 | channel, *now}};
            if (e[i].byte[0] >> 4 == 0xb) more[used++] = change;
            more[used++] = e[i];
        }
        midi_header(&m, 1, TRACKS, 480);
        midi_header(&whole, 1, TRACKS, 480);
        for (int t = 0; t < TRACKS; t++) {
            write_track(&m, e, count, t, end);
            write_track(&whole, more, used, t, end);
        }
        expect_same(PA_MIDI_NEURAL, &m, &whole, round);
    }
}

static void but_not_across_a_program_change(void **state) {
    (void)state;
    midi_header(&m, 0, 1, 500);
    midi_begin(&m);
    midi_rows(&m, (const row[]){DOWN(0),
                                ON(0, 60, 64),
                                OFF(100, 60),
                                {100, 0xc0, 1, 0},
                                DOWN(100),
                                ON(200, 62, 64),
                                OFF(250, 62),
                                UP(350),
                                STOP}); // the second press opens the window of the second part; the first part has none
    midi_end(&m);
    expect_tokens(&m, PA_MIDI_NEURAL, "T20 V16 +62 T5 -62", 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_and_its_merge_are_the_same_music),
        cmocka_unit_test(program_changes_among_pianos_change_nothing),
        cmocka_unit_test(a_repeated_press_changes_nothing_in_midi_neural),
        cmocka_unit_test(but_not_across_a_program_change),
    };
    return cmocka_run_group_tests_name("same_music", tests, NULL, NULL);
}
