// safetensors.h: the one file format: tokens, checkpoints, golden vectors. Reading maps the file into memory and checks
// everything (header size, JSON, names, dtypes, shapes, offsets that overlap, leave gaps or overflow, the checksums if
// the metadata has them) before any pointer is handed out. Format: github.com/huggingface/safetensors.
#ifndef PA_SAFETENSORS_H
#define PA_SAFETENSORS_H

#include "host/base/base.h"

typedef enum { PA_F32, PA_F64, PA_BF16, PA_F16, PA_U16, PA_I32, PA_I64, PA_U8, PA_DTYPES } pa_dtype;
size_t pa_dtype_size(pa_dtype t);
const char *pa_dtype_name(pa_dtype t); // "F32"

enum { PA_MAX_RANK = 8 };
typedef struct {
    const char *name;
    pa_dtype dtype;
    int rank;
    int64_t shape[PA_MAX_RANK];
    const void *data; // aligned for dtype. Reading: into the mapping, or a copy where the file has it elsewhere;
                      // writing: the caller's
    size_t bytes;
} pa_tensor;

typedef struct pa_st pa_st;

// PA_DATA for a file that is no valid safetensors file (one line: what was expected and found), PA_FAIL where it can't
// be read. Metadata entries "crc32c" (8 hex digits over the data section) and "header_crc32c" (over the header with
// these very digits as zeros) are verified if present.
pa_status pa_st_open(pa_st **st, const char *path, pa_err *err);
// Reads and checks only the header: enough for pa_st_meta and pa_st_close.
pa_status pa_st_open_meta(pa_st **st, const char *path, pa_err *err);
void pa_st_close(pa_st *st); // NULL is fine
// PA_DATA if the file was changed since it was opened, or could not be read: pa_st_check compares its size and time,
// pa_st_verify reads all of it.
pa_status pa_st_check(const pa_st *st, pa_err *err);
pa_status pa_st_verify(const pa_st *st, pa_err *err);
size_t pa_st_count(const pa_st *st);
const pa_tensor *pa_st_at(const pa_st *st, size_t index);       // in file order
const pa_tensor *pa_st_find(const pa_st *st, const char *name); // NULL if absent
const char *pa_st_meta(const pa_st *st, const char *key);       // NULL if absent
const char *pa_st_path(const pa_st *st);
uint32_t pa_st_crc(const pa_st *st); // CRC-32C of the data section
// Finds name and checks dtype and shape (rank < 0: any shape; a dimension < 0: any size). PA_DATA names file and
// tensor.
pa_status pa_st_need(const pa_st *st, const char *name, pa_dtype dtype, int rank, const int64_t *shape,
                     const pa_tensor **found, pa_err *err);
// CRC-32C of a header of `length` bytes (NUL-terminated) with the digits of its own entry taken as zeros; *digits is
// their place, NULL where there are none.
uint32_t pa_st_header_crc(const char *header, size_t length, const char **digits);

#endif
