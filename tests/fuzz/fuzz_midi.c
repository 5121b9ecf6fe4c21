// fuzz_midi.c: MIDI bytes through both encodings, in this process: clean.c's promise is that libsmf, which aborts on
// what it does not expect, never sees such bytes. The first byte's lowest bit: 0, the rest is a file; 1, the rest is a
// list of events, so that the fuzzer spends its time on pairing, pedals and order and not on framing. Its other bits
// are options.
#include "tokenizer/encode.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds) {
    if (!holds) abort();
}

// Three bytes an event: time since the last, kind and channel, value.
static size_t make_file(const uint8_t *data, size_t size, uint8_t *file) {
    static const uint8_t head[] = "MThd\0\0\0\6\0\0\0\1\1\xf4MTrk\0\0\0";
    size_t used = sizeof head;
    memcpy(file, head, sizeof head);
    for (size_t i = 0; i + 3 <= size; i += 3) {
        uint8_t kind = data[i + 1] >> 4, value = data[i + 2];
        file[used++] = 0x80 | (data[i] & 15); // up to 2 s
        file[used++] = data[i] >> 4 << 3;
        uint8_t channel = data[i + 1] & 1, status = kind < 5 ? 0x90 : kind < 10 ? 0x80 : kind < 15 ? 0xb0 : 0xc0;
        file[used++] = status | (data[i + 1] & 2 ? 9 : channel);
        static const uint8_t controller[] = {64, 64, 64, 66, 66, 120, 121, 123};
        file[used++] = status == 0xb0   ? controller[(data[i + 1] >> 2 & 3) + 4 * (kind & 1)]
                       : status == 0xc0 ? value & 3
                                        : 60 + (value & 3);
        if (status != 0xc0) file[used++] = status == 0x90 ? value >> 2 : value & 127;
    }
    memcpy(file + used, "\0\xff\x2f", 4);
    used += 4;
    for (int k = 0; k < 4; k++) file[18 + k] = (uint8_t)((used - 22) >> (24 - 8 * k));
    return used;
}

static void check_piece(const pa_piece *piece, pa_encoding e) {
    size_t on = 0, off = 0;
    pa_note *note;
    size_t notes;
    for (size_t i = 0; i < piece->count; i++) {
        require(piece->token[i] < PA_END);
        on += pa_is_note_on(piece->token[i]);
        off += pa_is_note_off(piece->token[i]);
    }
    require(on == piece->notes && off == on);
    require(pa_decode(piece->token, piece->count, e, &note, &notes, NULL) == PA_OK);
    require(e == PA_MIDI_NEURAL || notes == piece->notes); // every note lasts a step, and none is lost
    for (size_t i = 1; i < notes; i++) require(note[i].start >= note[i - 1].start && note[i].end > note[i].start);
    free(note);
}

static void check_pedal(const uint8_t *file, size_t count, const pa_encode_options *o) {
    pa_pedal_span *span;
    size_t spans;
    require(pa_read_pedal(file, count, o, &span, &spans, NULL) == PA_OK);
    for (size_t i = 0; i < spans; i++) require(span[i].up > span[i].down && (!i || span[i].down > span[i - 1].up));
    free(span);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    bool events = data[0] & 1;
    pa_encode_options o = {
        .lenient = data[0] & 2,
        .sostenuto = data[0] & 4,
        .trim_silence = data[0] & 8,
        .longest_pause = data[0] & 16 ? 1 : 0,
        .programs = {{data[0] & 32 ? 5 : 0, 0}},
    };
    uint8_t *file = malloc(events ? 2 * size + 64 : size);
    if (!file) return 0;
    size_t count = size - 1;
    if (events)
        count = make_file(data + 1, size - 1, file);
    else
        memcpy(file, data + 1, count);
    for (o.encoding = PA_PERFORMANCE; o.encoding <= PA_MIDI_NEURAL; o.encoding++) {
        pa_piece piece;
        pa_err err = {""};
        pa_status s = pa_encode_bytes(file, count, &o, &piece, &err);
        bool empty = s == PA_DATA && (!strncmp(err.text, "no note", 7) || !strncmp(err.text, "only drums", 10));
        require(s == PA_OK || empty || (s == PA_DATA && !events && *err.text && !strstr(err.text, "libsmf")));
        require(o.lenient || !piece.report.mended.count);
        require(s != PA_OK || piece.count > 0);
        require(s == PA_OK || piece.count == 0);
        if (o.encoding == PA_PERFORMANCE && (!s || empty)) require(piece.notes + piece.dropped == piece.report.notes);
        check_piece(&piece, o.encoding);
        if (!s && o.encoding == PA_PERFORMANCE) check_pedal(file, count, &o);
        pa_piece_clear(&piece);
    }
    free(file);
    return 0;
}
