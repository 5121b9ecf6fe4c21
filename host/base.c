// base.c: error text, memory, clock, checksum and progress lines. Knows nothing of models, music, devices or file formats.
#include "host/base.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

pa_status pa_error(pa_err *err, pa_status status, const char *format, ...) {
    if (!err) return status;
    char text[sizeof err->text]; // an argument may be err->text itself
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    memcpy(err->text, text, strlen(text) + 1);
    return status;
}

double pa_clock(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
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
        int more = *p < 0x80 ? 0 : *p >= 0xc2 && *p < 0xe0 ? 1 : (*p & 0xf0) == 0xe0 ? 2 : *p >= 0xf0 && *p < 0xf5 ? 3 : -1;
        if (more < 0 || end - p <= more) return false;
        // The second byte also rules out forms longer than needed, surrogates, and what lies beyond U+10FFFF.
        if ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f) || (*p == 0xf0 && p[1] < 0x90) || (*p == 0xf4 && p[1] > 0x8f))
            return false;
        for (int i = 1; i <= more; i++)
            if ((p[i] & 0xc0) != 0x80) return false;
        p += 1 + more;
    }
    return true;
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

// ---- CRC-32C: eight bytes a time by table, or by the processor's own instruction (about 8 bytes in 3 cycles)

static uint32_t crc_table[8][256];

static void fill_crc_table(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++) c = c & 1 ? c >> 1 ^ 0x82f63b78u : c >> 1;
        crc_table[0][i] = c;
    }
    for (int t = 1; t < 8; t++)
        for (int i = 0; i < 256; i++) crc_table[t][i] = crc_table[t - 1][i] >> 8 ^ crc_table[0][crc_table[t - 1][i] & 255];
}

static uint32_t crc_by_table(uint32_t c, const uint8_t *p, size_t n) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill_crc_table);
    for (; n >= 8; n -= 8, p += 8) {
        c ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        c = crc_table[7][c & 255] ^ crc_table[6][c >> 8 & 255] ^ crc_table[5][c >> 16 & 255] ^ crc_table[4][c >> 24] ^ crc_table[3][p[4]] ^
            crc_table[2][p[5]] ^ crc_table[1][p[6]] ^ crc_table[0][p[7]];
    }
    while (n--) c = c >> 8 ^ crc_table[0][(c ^ *p++) & 255];
    return c;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc_by_sse42(uint32_t c, const uint8_t *p, size_t n) {
    uint64_t wide = c, word;
    for (; n >= 8; n -= 8, p += 8) {
        memcpy(&word, p, 8);
        wide = _mm_crc32_u64(wide, word);
    }
    c = (uint32_t)wide;
    while (n--) c = _mm_crc32_u8(c, *p++);
    return c;
}
#endif

uint32_t pa_crc32c(uint32_t crc, const void *bytes, size_t count) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) return ~crc_by_sse42(~crc, bytes, count);
#endif
    return ~crc_by_table(~crc, bytes, count);
}

uint32_t pa_crc32c_plain(uint32_t crc, const void *bytes, size_t count) {
    return ~crc_by_table(~crc, bytes, count);
}

// ---- progress

enum { PROGRESS_MS = 100, PLAIN_S = 10, QUIET_S = 1, BAR = 24 };

void pa_progress_start(pa_progress *p, const char *what, const char *unit, double total) {
    double now = pa_clock();
    *p = (pa_progress){what, unit, total, now, 0, isatty(STDERR_FILENO) && !(getenv("TERM") && !strcmp(getenv("TERM"), "dumb"))};
}

static int digits_after_point(double x) {
    return x < 10 ? 2 : x < 1000 ? 1 : 0;
}

static void format_duration(char *out, size_t size, double seconds) {
    long s = seconds < 1e9 ? (long)(seconds + 0.5) : 1000000000;
    if (s >= 3600)
        snprintf(out, size, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(out, size, "%ld:%02ld", s / 60, s % 60);
}

// "what  [#####.......]  40 %  2 of 5 files  0.50 files/s  0:06 left"; without a known total only what is known.
static void format_progress(const pa_progress *p, double done, double elapsed, bool bar, char *out, size_t size) {
    double rate = elapsed > 0 ? done / elapsed : 0;
    size_t n = (size_t)snprintf(out, size, "%s  ", p->what);
    if (p->total > 0) {
        double share = done < p->total ? done / p->total : 1;
        char left[32] = "?", marks[BAR + 1];
        int filled = (int)(share * BAR);
        if (rate > 0) format_duration(left, sizeof left, done < p->total ? (p->total - done) / rate : 0);
        for (int i = 0; i < BAR; i++) marks[i] = i < filled ? '#' : '.';
        marks[BAR] = 0;
        if (bar && n < size) n += (size_t)snprintf(out + n, size - n, "[%s]  ", marks);
        if (n < size)
            snprintf(out + n, size - n, "%.0f %%  %.0f of %.0f %s  %.*f %s/s  %s left", 100 * share, done, p->total, p->unit,
                     digits_after_point(rate), rate, p->unit, left);
    } else if (n < size) {
        snprintf(out + n, size - n, "%.0f %s  %.*f %s/s", done, p->unit, digits_after_point(rate), rate, p->unit);
    }
}

void pa_progress_update(pa_progress *p, double done) {
    double now = pa_clock(), elapsed = now - p->started;
    double since = p->shown > 0 ? now - p->shown : elapsed;
    char line[256];
    if (p->terminal) {
        if (p->shown > 0 ? since < 1e-3 * PROGRESS_MS : since < QUIET_S) return;
        struct winsize w;
        int columns = !ioctl(STDERR_FILENO, TIOCGWINSZ, &w) && w.ws_col > 1 ? w.ws_col - 1 : 79;
        format_progress(p, done, elapsed, columns >= 90, line, sizeof line);
        fprintf(stderr, "\r\033[K%.*s", columns, line);
        fflush(stderr);
    } else {
        if (since < PLAIN_S) return;
        format_progress(p, done, elapsed, false, line, sizeof line);
        fprintf(stderr, "%s\n", line);
    }
    p->shown = now;
}

void pa_progress_end(pa_progress *p) {
    if (p->terminal && p->shown > 0) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
    p->shown = 0;
}
