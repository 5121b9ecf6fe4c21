// safetensors_header.h: the header of a safetensors file, JSON from anyone: checked, in bounded memory. Private to
// safetensors.c.
#ifndef PA_SAFETENSORS_HEADER_H
#define PA_SAFETENSORS_HEADER_H

#include <cJSON.h>

#include "host/files/safetensors.h"

typedef struct {
    const char *path;              // of the file
    size_t file_bytes, data_bytes; // as found
    cJSON *json;                   // holds names and metadata
    const cJSON *meta;             // NULL: none
    pa_tensor *tensor;             // ascending in the file
    size_t count;
} pa_st_header;

// text: of `length` bytes and a NUL, begins with "{". Checks the metadata, which are in h->meta from then on. PA_DATA,
// PA_FAIL. Clear h after an error too.
pa_status pa_st_header_parse(pa_st_header *h, const char *text, size_t length, pa_err *err);
// Then h->tensor and h->count, with each tensor's data at its place in `data`.
pa_status pa_st_header_tensors(pa_st_header *h, const uint8_t *data, pa_err *err);
void pa_st_header_clear(pa_st_header *h);

#endif
