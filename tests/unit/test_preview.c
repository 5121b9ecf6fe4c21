// test_preview.c: a sample's picture and sound for TensorBoard: what is where, and how it sounds. That the PNG is one
// is checked here chunk by chunk; the WAV by Python's reader in test_train_logs.py.
#include "host/train/preview.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { HEAD = 44 };

static pa_err err;

static uint32_t big(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

// Bit by bit, most significant first: another way than preview.c's.
static uint32_t crc_of(const uint8_t *p, size_t count) {
    uint32_t crc = 0xffffffff, mirrored = 0;
    for (size_t i = 0; i < 8 * count; i++) {
        unsigned in = p[i / 8] >> i % 8 & 1, out = crc >> 31;
        crc = crc << 1 ^ (in ^ out ? 0x04c11db7 : 0);
    }
    for (int i = 0; i < 32; i++) mirrored |= (crc >> i & 1) << (31 - i);
    return ~mirrored;
}

// The pixels of a picture: indices into its palette.
static void read_png(const pa_preview *p, uint8_t *pixel, uint8_t *palette) {
    const uint8_t *at = (const uint8_t *)p->png, *end = at + p->png_size;
    uint8_t raw[PA_PREVIEW_HEIGHT * (PA_PREVIEW_WIDTH + 1)];
    size_t got = 0;
    assert_memory_equal(at, "\x89PNG\r\n\x1a\n", 8);
    for (at += 8; at < end; at += 12 + big(at)) {
        size_t size = big(at);
        const uint8_t *data = at + 8;
        assert_int_equal(crc_of(at + 4, size + 4), big(data + size));
        if (!memcmp(at + 4, "IHDR", 4)) {
            assert_int_equal(big(data), PA_PREVIEW_WIDTH);
            assert_int_equal(big(data + 4), PA_PREVIEW_HEIGHT);
            assert_memory_equal(data + 8, "\x08\x03\x00\x00\x00", 5);
        } else if (!memcmp(at + 4, "PLTE", 4)) {
            memcpy(palette, data, size);
        } else if (!memcmp(at + 4, "IDAT", 4)) {
            uint32_t a = 1, b = 0;
            assert_int_equal((data[0] << 8 | data[1]) % 31, 0); // zlib's check of its header
            for (size_t i = 2, last = 0; !last;) {
                size_t length = (size_t)(data[i + 1] | data[i + 2] << 8);
                last = data[i] & 1;
                assert_int_equal(length, (~(unsigned)(data[i + 3] | data[i + 4] << 8)) & 0xffff);
                assert_true(got + length <= sizeof raw);
                memcpy(raw + got, data + i + 5, length);
                got += length;
                i += 5 + length;
                if (last) assert_int_equal(i + 4, size);
            }
            for (size_t i = 0; i < got; i++) {
                a = (a + raw[i]) % 65521;
                b = (b + a) % 65521;
            }
            assert_int_equal(b << 16 | a, big(data + size - 4));
        }
    }
    assert_ptr_equal(at, end);
    assert_int_equal(got, sizeof raw);
    for (int y = 0; y < PA_PREVIEW_HEIGHT; y++) {
        assert_int_equal(raw[y * (PA_PREVIEW_WIDTH + 1)], 0);
        memcpy(pixel + y * PA_PREVIEW_WIDTH, raw + y * (PA_PREVIEW_WIDTH + 1) + 1, PA_PREVIEW_WIDTH);
    }
}

static int darkness(const uint8_t *palette, int index) {
    return 3 * 255 - palette[3 * index] - palette[3 * index + 1] - palette[3 * index + 2];
}

// Where notes are drawn: (second, pitch), of a picture that begins at second 7 of 12.
static void notes_are_where_they_sound(void **state) {
    (void)state;
    static const pa_note note[] = {{5, 8, 40, 60, 0},    {8, 9, 60, 30, 0}, {14, 14.001, 61, 120, 0},
                                   {26, 40, 108, 90, 0}, {3, 6, 50, 60, 0}, {27, 28, 90, 60, 0},
                                   {10, 11, 5, 60, 0}};
    static uint8_t pixel[PA_PREVIEW_HEIGHT * PA_PREVIEW_WIDTH], palette[3 * 256];
    pa_preview p;
    assert_int_equal(pa_preview_make(&p, note, sizeof note / sizeof *note, 12, &err), PA_OK);
    read_png(&p, pixel, palette);
    const struct {
        int pitch, left, right; // right: behind the last
    } drawn[] = {{40, 0, 50}, {60, 50, 100}, {61, 350, 351}, {108, 950, 1000}};
    for (int y = 0; y < PA_PREVIEW_HEIGHT; y++)
        for (int x = 0; x < PA_PREVIEW_WIDTH; x++) {
            bool expected = false;
            for (size_t i = 0; i < sizeof drawn / sizeof *drawn; i++)
                expected |= y / 2 == 108 - drawn[i].pitch && x >= drawn[i].left && x < drawn[i].right;
            if ((pixel[y * PA_PREVIEW_WIDTH + x] < 16) != expected) fail_msg("row %d, column %d", y, x);
        }
    const uint8_t *row = pixel + (ptrdiff_t)2 * (108 - 60) * PA_PREVIEW_WIDTH;
    int loud = pixel[2 * (108 - 61) * PA_PREVIEW_WIDTH + 350];
    assert_true(darkness(palette, row[60]) < darkness(palette, loud));
    const uint8_t *empty = pixel + (ptrdiff_t)2 * (108 - 70) * PA_PREVIEW_WIDTH;
    assert_int_not_equal(empty[248], empty[250]); // primer and continuation
    assert_int_not_equal(empty[248], empty[249]); // and a line between
    pa_preview_clear(&p);
}

static int sample_at(const pa_preview *p, double second) {
    const uint8_t *at = (const uint8_t *)p->wav + HEAD + 2 * (size_t)(second * PA_PREVIEW_RATE);
    return (int16_t)(at[0] | at[1] << 8);
}

static int loudest(const pa_preview *p, double from, double to) {
    int most = 0;
    for (double t = from; t < to; t += 1.0 / PA_PREVIEW_RATE)
        most = abs(sample_at(p, t)) > most ? abs(sample_at(p, t)) : most;
    return most;
}

// A loud and a soft A above middle C: 440 Hz, silent before and after, and dying away.
static void notes_sound(void **state) {
    (void)state;
    static const pa_note note[] = {{1, 3, 69, 100, 0}, {10, 11, 69, 40, 0}};
    pa_preview p;
    assert_int_equal(pa_preview_make(&p, note, 2, 0, &err), PA_OK);
    assert_int_equal(p.wav_size, HEAD + 2 * PA_PREVIEW_FRAMES);
    assert_int_equal(loudest(&p, 0, 0.99), 0);
    assert_in_range(loudest(&p, 1, 2), 29000, 30000);
    assert_true(loudest(&p, 2.5, 3) < loudest(&p, 1, 1.5));
    assert_true(loudest(&p, 10, 11) < 15000 && loudest(&p, 10, 11) > 3000);
    assert_true(loudest(&p, 3.5, 9.9) < 10 && loudest(&p, 12, 19.9) < 10);
    // The period: how well half a second agrees with itself one period later.
    double best = 0;
    int period = 0;
    for (int lag = 30; lag < 100; lag++) {
        double sum = 0;
        for (int i = 0; i < PA_PREVIEW_RATE / 2; i++)
            sum += (double)sample_at(&p, 1.1 + (double)i / PA_PREVIEW_RATE) *
                   sample_at(&p, 1.1 + (double)(i + lag) / PA_PREVIEW_RATE);
        if (sum > best) {
            best = sum;
            period = lag;
        }
    }
    assert_in_range(period, PA_PREVIEW_RATE / 440 - 1, PA_PREVIEW_RATE / 440 + 1);
    pa_preview_clear(&p);
}

static void no_note_is_silence(void **state) {
    (void)state;
    pa_preview p;
    assert_int_equal(pa_preview_make(&p, NULL, 0, 3, &err), PA_OK);
    assert_int_equal(loudest(&p, 0, 19.9), 0);
    pa_preview_clear(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(notes_are_where_they_sound),
        cmocka_unit_test(notes_sound),
        cmocka_unit_test(no_note_is_silence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
