// safetensors_write.h: writes a safetensors file, whole or not at all. Knows nothing of what the tensors mean.
#ifndef PA_SAFETENSORS_WRITE_H
#define PA_SAFETENSORS_WRITE_H

#include "host/files/safetensors.h"

typedef struct {
    const char *key, *value;
} pa_meta;
// Writes path atomically, 64-byte aligned data, adding the metadata entries "header_crc32c" and "crc32c". Tensors are stored widest type
// first, so that each is aligned for its type (the format allows no gaps), and otherwise in the order given.
pa_status pa_st_write(const char *path, const pa_tensor *tensors, size_t count, const pa_meta *meta, size_t meta_count, pa_err *err);

#endif
