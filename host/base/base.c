// base.c: error text, memory, clock, text.
#include "host/base/base.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

pa_status pa_error(pa_err *err, pa_status status, const char *format, ...) {
    if (!err) return status;
    char text[sizeof err->text]; // an argument may be err->text itself
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    pa_escape(text, strlen(text), false, err->text, sizeof err->text);
    return status;
}

double pa_clock(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

pa_status pa_random_digits(char *out, size_t digits, pa_err *err) {
    unsigned char byte[16];
    size_t count = digits / 2;
    if (getrandom(byte, count, 0) != (ssize_t)count)
        return pa_error(err, PA_FAIL, "no random numbers: %s", strerror(errno));
    for (size_t i = 0; i < count; i++) snprintf(out + 2 * i, 3, "%02x", byte[i]);
    return PA_OK;
}

void *pa_alloc(size_t bytes) {
    if (bytes > SIZE_MAX - 64) return NULL;
    size_t rounded = bytes ? (bytes + 63) / 64 * 64 : 64;
    void *p = aligned_alloc(64, rounded);
    if (p) memset(p, 0, rounded);
    return p;
}

bool pa_mul_size(size_t a, size_t b, size_t *product) {
    return !__builtin_mul_overflow(a, b, product);
}

bool pa_is_utf8(const char *text, size_t length) {
    const uint8_t *p = (const uint8_t *)text, *end = p + length;
    while (p < end) {
        int more = *p < 0x80                 ? 0
                   : *p >= 0xc2 && *p < 0xe0 ? 1
                   : (*p & 0xf0) == 0xe0     ? 2
                   : *p >= 0xf0 && *p < 0xf5 ? 3
                                             : -1;
        if (more < 0 || end - p <= more) return false;
        // The second byte also rules out forms longer than needed, surrogates, and what lies beyond U+10FFFF.
        if ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f) || (*p == 0xf0 && p[1] < 0x90) ||
            (*p == 0xf4 && p[1] > 0x8f))
            return false;
        for (int i = 1; i <= more; i++)
            if ((p[i] & 0xc0) != 0x80) return false;
        p += 1 + more;
    }
    return true;
}

// Bytes of the character at `at`; 0 for one that is no text.
static size_t character(const char *at, size_t left, bool lines) {
    unsigned char first = (unsigned char)*at;
    if (first < 0x80) return (first >= 32 && first < 127) || (lines && (first == '\n' || first == '\t'));
    for (size_t n = 2; n <= 4 && n <= left; n++)
        if (pa_is_utf8(at, n)) return first == 0xc2 && (unsigned char)at[1] < 0xa0 ? 0 : n;
    return 0;
}

size_t pa_escape(const char *text, size_t length, bool lines, char *out, size_t size) {
    static const char digits[] = "0123456789abcdef";
    size_t used = 0;
    for (size_t i = 0; i < length && size;) {
        size_t n = character(text + i, length - i, lines);
        if (used + (n ? n : 4) >= size) break;
        if (n) {
            memcpy(out + used, text + i, n);
        } else {
            unsigned char byte = (unsigned char)text[i];
            memcpy(out + used, (char[]){'\\', 'x', digits[byte >> 4], digits[byte & 15]}, 4);
        }
        used += n ? n : 4;
        i += n ? n : 1;
    }
    if (size) out[used] = 0;
    return used;
}

size_t pa_edit_distance(const char *a, const char *b) {
    enum { MOST = 63 };
    size_t row[MOST + 1], m = strnlen(a, MOST), n = strnlen(b, MOST);
    for (size_t j = 0; j <= n; j++) row[j] = j;
    for (size_t i = 1; i <= m; i++) {
        size_t corner = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t change = corner + (a[i - 1] != b[j - 1]), other = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            corner = row[j];
            row[j] = change < other ? change : other;
        }
    }
    return row[n];
}

bool pa_all_finite(const float *x, size_t count) {
    uint32_t most = 0; // of bits without the sign, which order as the numbers do
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    return most < 0x7f800000;
}
