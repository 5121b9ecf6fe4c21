// fuzz_decode.c: any tokens through both decoders. What performance decodes is encoded again and is a fixed point from
// then on.
#include "tokenizer/performance.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds) {
    if (!holds) abort();
}

static void check_notes(const pa_note *note, size_t count) {
    for (size_t i = 0; i < count; i++) {
        require(note[i].start >= 0 && note[i].end > note[i].start && note[i].pitch < 128);
        require(note[i].velocity >= 1 && note[i].velocity < 128);
        require(i == 0 || note[i].start >= note[i - 1].start);
    }
}

static pa_piece encode_again(const uint16_t *token, size_t count) {
    pa_part part = {0};
    pa_song song = {.part = &part, .parts = 1};
    pa_piece piece = {0};
    require(pa_decode(token, count, PA_PERFORMANCE, &part.note, &part.notes, NULL) == PA_OK);
    check_notes(part.note, part.notes);
    require(pa_performance_encode(&song, &(pa_encode_options){.encoding = PA_PERFORMANCE}, &piece, NULL) == PA_OK);
    require(piece.dropped == 0);
    free(part.note);
    return piece;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    size_t count = size / 2, notes;
    uint16_t *token = malloc(size + 1);
    bool valid = true;
    pa_note *note;
    char text[32];
    if (!token) return 0;
    for (size_t i = 0; i < count; i++) {
        token[i] = (uint16_t)((data[2 * i] | data[2 * i + 1] << 8) & 511);
        valid = valid && token[i] < PA_VOCAB;
        pa_token_text(token[i], text, sizeof text);
    }
    require(pa_token_seconds(token, count) <= (double)count);
    for (pa_encoding e = PA_PERFORMANCE; e <= PA_MIDI_NEURAL; e++) {
        pa_status s = pa_decode(token, count, e, &note, &notes, NULL);
        require(s == (valid ? PA_OK : PA_DATA));
        check_notes(note, notes);
        free(note);
    }
    if (valid) {
        pa_piece once = encode_again(token, count), twice = encode_again(once.token, once.count);
        require(once.count == twice.count &&
                (!once.count || !memcmp(once.token, twice.token, once.count * sizeof *once.token)));
        pa_piece_clear(&once);
        pa_piece_clear(&twice);
    }
    free(token);
    return 0;
}
