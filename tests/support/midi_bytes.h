// midi_bytes.h: MIDI files built byte by byte, and tokens as short text, for the tests of the tokenizer.
#ifndef PA_TEST_MIDI_BYTES_H
#define PA_TEST_MIDI_BYTES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tokenizer/encode.h"

typedef struct {
    uint8_t byte[1 << 16];
    size_t count, track; // bytes so far; where the current track's length stands
} midi;

static inline void midi_put(midi *m, const char *bytes, size_t count) {
    assert_true(m->count + count <= sizeof m->byte);
    memcpy(m->byte + m->count, bytes, count);
    m->count += count;
}
// MIDI_PUT(m, "\x00\x90"): a literal, whatever zeros it holds.
#define MIDI_PUT(m, literal) midi_put(m, literal, sizeof literal - 1)

static inline void midi_header(midi *m, int type, int tracks, int division) {
    const char rest[] = {0, (char)type, 0, (char)tracks, (char)(division >> 8), (char)division};
    m->count = 0;
    MIDI_PUT(m, "MThd\0\0\0\6");
    midi_put(m, rest, sizeof rest);
}

static inline void midi_begin(midi *m) {
    MIDI_PUT(m, "MTrk\0\0\0\0");
    m->track = m->count;
}

static inline void midi_delta(midi *m, int ticks) {
    char b[4];
    int used = 0;
    for (int shift = 21; shift >= 0; shift -= 7)
        if (used || !shift || ticks >> shift) b[used++] = (char)((ticks >> shift & 127) | (shift ? 128 : 0));
    midi_put(m, b, (size_t)used);
}

// The end of the track, `ticks` behind its last event.
static inline void midi_end_at(midi *m, int ticks) {
    midi_delta(m, ticks);
    MIDI_PUT(m, "\xff\x2f\0");
    for (int i = 0; i < 4; i++) m->byte[m->track - 4 + (size_t)i] = (uint8_t)((m->count - m->track) >> (24 - 8 * i));
}

static inline void midi_end(midi *m) {
    midi_end_at(m, 0);
}

// An event at an absolute tick, which is a millisecond in midi_simple's files.
typedef struct {
    int tick;
    uint8_t status, a, b;
} row;
#define ON(t, pitch, velocity)                                                                                         \
    { t, 0x90, pitch, velocity }
#define OFF(t, pitch)                                                                                                  \
    { t, 0x80, pitch, 64 }
#define CC(t, value)                                                                                                   \
    { t, 0xb0, 64, value }
#define DOWN(t) CC(t, 127)
#define UP(t) CC(t, 0)
#define STOP                                                                                                           \
    { -1, 0, 0, 0 }

static inline void midi_rows(midi *m, const row *r) {
    for (int tick = 0; r->tick >= 0; tick = r++->tick) {
        midi_delta(m, r->tick - tick);
        midi_put(m, (const char[]){(char)r->status, (char)r->a, (char)r->b}, r->status >> 4 == 0xc ? 2 : 3);
    }
}

static inline void midi_track(midi *m, const row *r) {
    midi_begin(m);
    midi_rows(m, r);
    midi_end(m);
}

// Type 0, 500 ticks a quarter note, 120 bpm.
static inline void midi_simple(midi *m, const row *r) {
    midi_header(m, 0, 1, 500);
    midi_track(m, r);
}

// "V15 +60 T50 -60": VELOCITY 15, NOTE_ON 60, TIME_SHIFT 50 steps, NOTE_OFF 60.
static inline char *tokens_text(const uint16_t *token, size_t count) {
    char *text = malloc(8 * count + 1), *at = text;
    assert_non_null(text);
    *at = 0;
    for (size_t i = 0; i < count; i++) {
        const char *space = i ? " " : "";
        int t = token[i];
        if (pa_is_note_on(t))
            at += sprintf(at, "%s+%d", space, pa_pitch_of(t));
        else if (pa_is_note_off(t))
            at += sprintf(at, "%s-%d", space, pa_pitch_of(t));
        else if (pa_is_time_shift(t))
            at += sprintf(at, "%sT%d", space, pa_shift_steps(t));
        else
            at += sprintf(at, "%sV%d", space, pa_velocity_bin(t));
    }
    return text;
}

// From a copy of exactly the file's size, so that a read past its end is seen.
static inline pa_status encode_with(const uint8_t *bytes, size_t count, const pa_encode_options *o, pa_piece *piece,
                                    pa_err *err) {
    uint8_t *copy = malloc(count ? count : 1);
    assert_non_null(copy);
    if (count) memcpy(copy, bytes, count);
    pa_status s = pa_encode_bytes(copy, count, o, piece, err);
    free(copy);
    return s;
}

static inline pa_status encode_bytes(const uint8_t *bytes, size_t count, pa_encoding e, pa_piece *piece, pa_err *err) {
    return encode_with(bytes, count, &(pa_encode_options){.encoding = e}, piece, err);
}

// expected "": the file is read and nothing of it is encoded. *report may be NULL.
static inline void expect_options(const midi *m, const pa_encode_options *o, const char *expected, size_t dropped,
                                  pa_report *report) {
    pa_piece piece;
    pa_err err = {""};
    pa_status s = encode_with(m->byte, m->count, o, &piece, &err);
    if (s && (*expected || strncmp(err.text, "no note", 7))) fail_msg("refused: %s", err.text);
    char *text = tokens_text(piece.token, piece.count);
    assert_string_equal(text, expected);
    assert_int_equal(piece.dropped, dropped);
    if (report) *report = piece.report;
    free(text);
    pa_piece_clear(&piece);
}

static inline void expect_tokens(const midi *m, pa_encoding e, const char *expected, size_t dropped) {
    expect_options(m, &(pa_encode_options){.encoding = e}, expected, dropped, NULL);
}

// The same numbers in every run.
static inline uint32_t draw(uint32_t below) {
    static uint32_t state = 1;
    state = state * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)state * below >> 32);
}

static inline void expect_refused(const midi *m, const char *reason) {
    pa_piece piece;
    pa_err err = {""};
    assert_int_equal(encode_bytes(m->byte, m->count, PA_PERFORMANCE, &piece, &err), PA_DATA);
    assert_string_equal(err.text, reason);
}

#endif
