// tokens.c: names of encodings and tokens. See tokens.h.
#include "tokenizer/tokens.h"

#include <stdlib.h>
#include <string.h>

const char *pa_encoding_name(pa_encoding e) {
    return e == PA_PERFORMANCE ? "performance" : "midi-neural";
}

pa_status pa_encoding_parse(const char *name, pa_encoding *e, pa_err *err) {
    for (pa_encoding i = PA_PERFORMANCE; i <= PA_MIDI_NEURAL; i++) {
        *e = i;
        if (!strcmp(name, pa_encoding_name(i))) return PA_OK;
    }
    return pa_error(err, PA_USAGE, "encoding: expected performance or midi-neural, found '%s'", name);
}

void pa_piece_clear(pa_piece *piece) {
    free(piece->token);
    *piece = (pa_piece){0};
}

double pa_token_seconds(const uint16_t *token, size_t count) {
    int64_t steps = 0;
    for (size_t i = 0; i < count && token[i] != PA_END; i++) steps += pa_shift_steps(token[i]);
    return (double)steps / PA_STEPS_A_SECOND;
}

void pa_token_text(uint16_t token, char *text, size_t size) {
    if (pa_is_note_on(token))
        snprintf(text, size, "NOTE_ON %d", pa_pitch_of(token));
    else if (pa_is_note_off(token))
        snprintf(text, size, "NOTE_OFF %d", pa_pitch_of(token));
    else if (pa_is_time_shift(token))
        snprintf(text, size, "TIME_SHIFT %.2f s", (double)pa_shift_steps(token) / PA_STEPS_A_SECOND);
    else if (pa_is_velocity(token))
        snprintf(text, size, "VELOCITY %d", pa_velocity_bin(token));
    else if (token < PA_VOCAB)
        snprintf(text, size, token == PA_END ? "END" : "PAD");
    else
        snprintf(text, size, "UNKNOWN %d", token);
}
