// preview.c: a PNG of one byte a pixel in a palette, not compressed; a WAV of a few decaying partials a note. See
// preview.h.
#include "host/train/preview.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    PRIMER_SECONDS = 5,
    LOWEST = 21, // pitches of a piano: 88
    HIGHEST = 108,
    LEVELS = 16, // shades of velocity
    PAPER = LEVELS,
    PRIMER_PAPER,
    OCTAVE_LINE,
    BEGIN_LINE,
    COLOURS,
    LARGEST_STORED = 65535, // bytes of a block of deflate that is not compressed
};

static uint32_t crc_32(uint32_t crc, const uint8_t *byte, size_t count) { // PNG's: not CRC-32C
    crc = ~crc;
    for (size_t i = 0; i < count; i++) {
        crc ^= byte[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

static uint32_t adler_32(const uint8_t *byte, size_t count) {
    uint32_t a = 1, b = 0;
    for (size_t i = 0; i < count; i++) {
        a = (a + byte[i]) % 65521;
        b = (b + a) % 65521;
    }
    return b << 16 | a;
}

static void put_big(uint8_t *out, uint32_t v) {
    for (int i = 0; i < 4; i++) out[i] = (uint8_t)(v >> (24 - 8 * i));
}

static void put_little(FILE *f, uint32_t v, int bytes) {
    for (int i = 0; i < bytes; i++) fputc((int)(v >> 8 * i & 255), f);
}

// ---- picture

static void put_chunk(FILE *f, const char *type, const uint8_t *byte, size_t count) {
    uint8_t number[4];
    put_big(number, (uint32_t)count);
    fwrite(number, 4, 1, f);
    fwrite(type, 4, 1, f);
    fwrite(byte, 1, count, f);
    put_big(number, crc_32(crc_32(0, (const uint8_t *)type, 4), byte, count));
    fwrite(number, 4, 1, f);
}

// A zlib stream of stored blocks.
static size_t wrap(const uint8_t *raw, size_t size, uint8_t *out) {
    size_t n = 0;
    out[n++] = 0x78;
    out[n++] = 0x01;
    for (size_t done = 0, part; done < size; done += part) {
        part = size - done < LARGEST_STORED ? size - done : LARGEST_STORED;
        out[n++] = done + part == size;
        for (unsigned side = 0; side < 2; side++) {
            unsigned length = side ? ~(unsigned)part : (unsigned)part;
            out[n++] = (uint8_t)length;
            out[n++] = (uint8_t)(length >> 8);
        }
        memcpy(out + n, raw + done, part);
        n += part;
    }
    put_big(out + n, adler_32(raw, size));
    return n + 4;
}

static int column(double seconds) {
    double x = floor(seconds * PA_PREVIEW_WIDTH / PA_PREVIEW_SECONDS);
    return x < 0 ? 0 : x < PA_PREVIEW_WIDTH ? (int)x : PA_PREVIEW_WIDTH;
}

// Rows of PNG: a filter byte, then a byte a pixel. Two rows a key, the highest on top.
enum { ROW = 1 + PA_PREVIEW_WIDTH };

static void fill(uint8_t *picture, int pitch, int left, int right, int colour) {
    for (int y = 2 * (HIGHEST - pitch); y < 2 * (HIGHEST - pitch) + 2; y++)
        for (int x = left; x < right; x++) picture[y * ROW + 1 + x] = (uint8_t)colour;
}

static void draw(uint8_t *picture, const pa_note *note, size_t count, double from, double begins) {
    int begin = column(begins - from);
    memset(picture, 0, (size_t)PA_PREVIEW_HEIGHT * ROW);
    for (int pitch = LOWEST; pitch <= HIGHEST; pitch++) {
        int paper = pitch % 12 ? PAPER : OCTAVE_LINE; // every C
        fill(picture, pitch, begin, PA_PREVIEW_WIDTH, paper);
        fill(picture, pitch, 0, begin, pitch % 12 ? PRIMER_PAPER : OCTAVE_LINE);
        if (begin > 0 && begin < PA_PREVIEW_WIDTH) fill(picture, pitch, begin - 1, begin, BEGIN_LINE);
    }
    for (size_t i = 0; i < count; i++) {
        int left = column(note[i].start - from), right = column(note[i].end - from);
        if (note[i].pitch < LOWEST || note[i].pitch > HIGHEST || note[i].end <= from) continue;
        if (right == left && right < PA_PREVIEW_WIDTH) right++;
        fill(picture, note[i].pitch, left, right, note[i].velocity * LEVELS / 128);
    }
}

// Soft is light, loud is dark.
static void choose_colours(uint8_t *rgb) {
    static const uint8_t soft[] = {170, 215, 225}, loud[] = {50, 10, 60},
                         other[][3] = {{255, 255, 255}, {236, 232, 222}, {215, 218, 222}, {200, 40, 40}};
    for (int i = 0; i < LEVELS; i++)
        for (int c = 0; c < 3; c++) rgb[3 * i + c] = (uint8_t)(soft[c] + (loud[c] - soft[c]) * i / (LEVELS - 1));
    memcpy(rgb + 3 * LEVELS, other, sizeof other);
}

static bool write_png(FILE *f, const pa_note *note, size_t count, double from, double begins) {
    enum { RAW = PA_PREVIEW_HEIGHT * ROW, BLOCKS = RAW / LARGEST_STORED + 1 };
    uint8_t header[] = {0, 0, 0, 0, 0, 0, 0, 0, 8, 3, 0, 0, 0}, palette[3 * COLOURS]; // 8 bits, palette
    uint8_t *raw = malloc(RAW), *packed = malloc(RAW + 5 * BLOCKS + 6);
    if (raw && packed) {
        put_big(header, PA_PREVIEW_WIDTH);
        put_big(header + 4, PA_PREVIEW_HEIGHT);
        choose_colours(palette);
        draw(raw, note, count, from, begins);
        fwrite("\x89PNG\r\n\x1a\n", 8, 1, f);
        put_chunk(f, "IHDR", header, sizeof header);
        put_chunk(f, "PLTE", palette, sizeof palette);
        put_chunk(f, "IDAT", packed, wrap(raw, RAW, packed));
        put_chunk(f, "IEND", raw, 0);
    }
    bool done = raw && packed;
    free(raw);
    free(packed);
    return done;
}

// ---- sound

// Adds a partial to `sound`, from frame `first` to `last`, where the damper falls.
static void add_partial(float *sound, double frequency, double loudness, int64_t first, int64_t last) {
    enum { RISE = PA_PREVIEW_RATE / 300 };
    const double still = 1e-4, turn = 2 * M_PI * frequency / PA_PREVIEW_RATE;
    const double ring = exp(-(0.7 + frequency / 500) / PA_PREVIEW_RATE), damped = exp(-25.0 / PA_PREVIEW_RATE);
    double x = 0, y = loudness, dx = cos(turn), dy = sin(turn); // a vector that turns and shrinks
    for (int64_t i = first; i < PA_PREVIEW_FRAMES && fabs(x) + fabs(y) > still; i++) {
        double shrink = i < last ? ring : damped, next = shrink * (x * dx - y * dy);
        double rise = i - first < RISE ? (double)(i - first) / RISE : 1;
        if (i >= 0) sound[i] += (float)(rise * x);
        y = shrink * (x * dy + y * dx);
        x = next;
    }
}

static void add_note(float *sound, const pa_note *n, double from) {
    double first = floor((n->start - from) * PA_PREVIEW_RATE), last = floor((n->end - from) * PA_PREVIEW_RATE);
    double frequency = 440 * exp2((n->pitch - 69) / 12.0), loudness = pow(n->velocity / 127.0, 1.5);
    if (last <= 0 || first >= PA_PREVIEW_FRAMES) return;
    for (int h = 1; h <= 6 && h * frequency < 0.4 * PA_PREVIEW_RATE; h++)
        add_partial(sound, h * frequency, loudness / pow(h, 1.5), (int64_t)first, (int64_t)last);
}

static bool write_wav(FILE *f, const pa_note *note, size_t count, double from) {
    enum { BYTES = 2 * PA_PREVIEW_FRAMES };
    float *sound = calloc(PA_PREVIEW_FRAMES, sizeof *sound), peak = 0;
    if (!sound) return false;
    for (size_t i = 0; i < count; i++) add_note(sound, &note[i], from);
    for (size_t i = 0; i < PA_PREVIEW_FRAMES; i++) peak = fmaxf(peak, fabsf(sound[i]));
    float scale = peak > 0 ? 0.9f * INT16_MAX / peak : 0;
    fwrite("RIFF", 4, 1, f);
    put_little(f, 36 + BYTES, 4);
    fwrite("WAVEfmt ", 8, 1, f);
    put_little(f, 16, 4);
    put_little(f, 1, 2); // PCM
    put_little(f, 1, 2); // channels
    put_little(f, PA_PREVIEW_RATE, 4);
    put_little(f, 2 * PA_PREVIEW_RATE, 4);
    put_little(f, 2, 2);
    put_little(f, 16, 2);
    fwrite("data", 4, 1, f);
    put_little(f, BYTES, 4);
    for (size_t i = 0; i < PA_PREVIEW_FRAMES; i++) put_little(f, (uint32_t)lrintf(scale * sound[i]), 2);
    free(sound);
    return true;
}

pa_status pa_preview_make(pa_preview *p, const pa_note *notes, size_t count, double begins, pa_err *err) {
    double from = begins > PRIMER_SECONDS ? begins - PRIMER_SECONDS : 0;
    *p = (pa_preview){0};
    FILE *png = open_memstream(&p->png, &p->png_size), *wav = open_memstream(&p->wav, &p->wav_size);
    bool made = png && wav && write_png(png, notes, count, from, begins) && write_wav(wav, notes, count, from);
    if (png && fclose(png)) made = false;
    if (wav && fclose(wav)) made = false;
    return made ? PA_OK : pa_error(err, PA_FAIL, "no memory for a preview");
}

void pa_preview_clear(pa_preview *p) {
    free(p->png);
    free(p->wav);
    *p = (pa_preview){0};
}
