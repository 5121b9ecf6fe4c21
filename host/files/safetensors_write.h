// safetensors_write.h: writes a safetensors file, whole or not at all. Knows nothing of what the tensors mean.
#ifndef PA_SAFETENSORS_WRITE_H
#define PA_SAFETENSORS_WRITE_H

#include "host/files/safetensors.h"

typedef struct {
    const char *key, *value;
} pa_meta;
// Writes path atomically, 64-byte aligned data, adding the metadata entries "header_crc32c" and "crc32c". Tensors are
// stored widest type first, so that each is aligned for its type (the format allows no gaps), and otherwise in the
// order given.
pa_status pa_st_write(const char *path, const pa_tensor *tensors, size_t count, const pa_meta *meta, size_t meta_count,
                      pa_err *err);

// The same for data that need not be in memory at once. pa_st_begin takes the tensors without their data and checks all
// but that; pa_st_put adds to the data, which are those of the tensors in the order above, without gaps; pa_st_finish
// needs all of them.
typedef struct pa_st_writer pa_st_writer;
pa_status pa_st_begin(pa_st_writer **w, const char *path, const pa_tensor *tensors, size_t count, const pa_meta *meta,
                      size_t meta_count, pa_err *err);
pa_status pa_st_put(pa_st_writer *w, const void *bytes, size_t count, pa_err *err);
pa_status pa_st_finish(pa_st_writer *w, pa_err *err); // frees w, whatever it returns
void pa_st_abandon(pa_st_writer *w);                  // leaves no file; NULL is fine

#endif
