// base.h: what every part uses: status and error text, memory, clock, text.
// Knows nothing of models, music or devices.
#ifndef PA_BASE_H
#define PA_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "pa_version.h" // PA_VERSION, from CMakeLists.txt; PA_COMMIT is in pa_commit.h, which changes more often

// The value is the exit status that main returns for it.
typedef enum {
    PA_OK = 0,
    PA_FAIL = 1,     // a failure at run time: no memory, no disk, a device error
    PA_USAGE = 2,    // wrong usage or configuration
    PA_DATA = 3,     // input data refused
    PA_STOPPED = 75, // stopped on request after saving
} pa_status;

// One message for the user: the file, line or field, what was expected, what was found.
typedef struct {
    char text[1024];
} pa_err;

// Fills err (may be NULL) with the text, escaped (pa_escape), and returns status: `return pa_error(err, PA_DATA,
// ...);`.
pa_status pa_error(pa_err *err, pa_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));

double pa_clock(void); // seconds, monotonic

// Random hexadecimal digits, an even number, at most 32, and NUL: nobody can guess 32 of them.
pa_status pa_random_digits(char *out, size_t digits, pa_err *err);

// 64-byte aligned, zeroed memory; NULL if there is none. Release it with free().
void *pa_alloc(size_t bytes);
// Returns false if a * b overflows.
bool pa_mul_size(size_t a, size_t b, size_t *product);

bool pa_all_finite(const float *x, size_t count);

bool pa_is_utf8(const char *text, size_t length); // valid UTF-8 (RFC 3629)

// Makes text from files and users safe to print: control characters (C1 too) and bytes that are not UTF-8 become \x1b
// and the like; with `lines`, line breaks and tabs stay. Returns the length; text beyond `size` is cut.
size_t pa_escape(const char *text, size_t length, bool lines, char *out, size_t size);

size_t pa_edit_distance(const char *a, const char *b); // Levenshtein's, of the first 63 bytes each

#endif
