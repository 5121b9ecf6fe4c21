// format.c: see format.h.
#include "host/base/format.h"

#include <string.h>

typedef struct {
    const uint8_t *bytes;
    size_t count;
} head;

static bool has(head h, size_t at, const char *text) {
    size_t n = strlen(text);
    return h.count >= at + n && !memcmp(h.bytes + at, text, n);
}

static bool is_audio(head h) {
    bool mpeg_frame =
        h.count >= 2 && h.bytes[0] == 0xff && (h.bytes[1] & 0xe6) == 0xe2; // layer III, an MP3 without tags
    return mpeg_frame || has(h, 0, "ID3") || has(h, 0, "fLaC") || has(h, 0, "OggS") || has(h, 4, "ftyp") ||
           (has(h, 0, "RIFF") && has(h, 8, "WAVE")) || (has(h, 0, "FORM") && has(h, 8, "AIF"));
}

// torch.save writes a zip archive whose first entry is NAME/data.pkl; before version 1.6 a bare pickle.
static bool is_pytorch(head h) {
    if (h.count >= 3 && h.bytes[0] == 0x80 && h.bytes[1] >= 2 && h.bytes[1] <= 5 && h.bytes[2]) return true;
    return has(h, 0, "PK\3\4") && memmem(h.bytes, h.count, "data.pkl", 8);
}

pa_format pa_format_of(const uint8_t *bytes, size_t count) {
    head h = {bytes, count};
    if (has(h, 0, "MThd") || (has(h, 0, "RIFF") && has(h, 8, "RMID"))) return PA_FORMAT_MIDI;
    return is_audio(h) ? PA_FORMAT_AUDIO : is_pytorch(h) ? PA_FORMAT_PYTORCH : PA_FORMAT_UNKNOWN;
}

pa_format pa_format_of_file(const char *path) {
    uint8_t bytes[PA_FORMAT_BYTES];
    FILE *f = fopen(path, "rb");
    size_t count = f ? fread(bytes, 1, sizeof bytes, f) : 0;
    if (f) fclose(f);
    return pa_format_of(bytes, count);
}
