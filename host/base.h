// base.h: what every part shares: status and error text, memory, clock, checksums, files that are never half-written.
// Knows nothing of models, music or devices.
#ifndef PA_BASE_H
#define PA_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define PA_VERSION "0.1.0"

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

// Fills err (may be NULL) and returns status, so that a check reads `return pa_error(err, PA_DATA, "%s: ...", path);`.
pa_status pa_error(pa_err *err, pa_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));

double pa_clock(void); // seconds, monotonic

// 64-byte aligned, zeroed memory; NULL where there is none. Freed with free().
void *pa_alloc(size_t bytes);
// Two products of sizes that refuse to overflow: false where a * b does not fit.
bool pa_mul_size(size_t a, size_t b, size_t *product);

bool pa_is_utf8(const char *text, size_t length); // valid UTF-8, as RFC 3629 has it

size_t pa_edit_distance(const char *a, const char *b); // Levenshtein's, of the first 63 bytes each

// CRC-32C (Castagnoli) of bytes, continued from crc (0 to start).
uint32_t pa_crc32c(uint32_t crc, const void *bytes, size_t count);
uint32_t pa_crc32c_plain(uint32_t crc, const void *bytes, size_t count); // the same without the processor's instruction, for tests

// A file written beside its place as PATH.tmp.PID, fsynced and renamed by pa_file_commit (its folder fsynced too); until then PATH is
// as it was. On any error nothing is left beside. Write through file->stream; a failed write is found at commit at the latest.
typedef struct {
    FILE *stream;
    char path[4096];
    char temporary[4096 + 32];
} pa_file;
pa_status pa_file_create(pa_file *file, const char *path, pa_err *err);
pa_status pa_file_commit(pa_file *file, pa_err *err);
void pa_file_abandon(pa_file *file); // harmless after commit

pa_status pa_make_dirs(const char *path, pa_err *err);                              // mkdir -p; an empty path is PA_USAGE
pa_status pa_sync_dir(const char *path, pa_err *err);                               // fsync of a folder, so that renames in it last
pa_status pa_remove_tree(const char *path, pa_err *err);                            // rm -r; a missing path is fine; never follows links
bool pa_same_file(const char *a, const char *b);                                    // by whatever names; false where one is missing
pa_status pa_read_text(const char *path, char **text, size_t *length, pa_err *err); // whole file, NUL-terminated; free(*text)

// A progress line on stderr: on a terminal a bar redrawn in place with rate and time left, elsewhere a plain line now and then.
typedef struct {
    const char *what, *unit;
    double total, started, shown;
    bool terminal;
} pa_progress;
void pa_progress_start(pa_progress *p, const char *what, const char *unit, double total);
void pa_progress_update(pa_progress *p, double done); // at most ten times a second on a terminal, each 10 s elsewhere
void pa_progress_end(pa_progress *p);                 // clears the bar

#endif
