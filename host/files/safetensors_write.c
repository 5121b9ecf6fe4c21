// safetensors_write.c: see safetensors_write.h.
#include "host/files/safetensors_write.h"

#include <cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/checksum.h"
#include "host/base/file.h"

// What is to be written is the program's own, but names and values may come from a user's file names.
static pa_status check_tensor(const char *path, const pa_tensor *tensors, size_t i, pa_err *err) {
    const pa_tensor *t = &tensors[i];
    size_t bytes = pa_dtype_size(t->dtype);
    bool fits = t->rank >= 0 && t->rank <= PA_MAX_RANK;
    for (int d = 0; fits && d < t->rank; d++) fits = t->shape[d] >= 0 && pa_mul_size(bytes, (size_t)t->shape[d], &bytes);
    if (!fits || bytes != t->bytes)
        return pa_error(err, PA_FAIL, "%s: tensor \"%s\": expected %zu bytes for its shape, found %zu", path, t->name, bytes, t->bytes);
    bool named = *t->name && strcmp(t->name, "__metadata__") && pa_is_utf8(t->name, strlen(t->name));
    for (size_t j = 0; named && j < i; j++) named = strcmp(t->name, tensors[j].name) != 0;
    if (named) return PA_OK;
    return pa_error(err, PA_FAIL, "%s: expected a tensor's name in UTF-8, used once, found \"%s\"", path, t->name);
}

static pa_status check_meta(const char *path, const pa_meta *meta, size_t i, pa_err *err) {
    bool valid = pa_is_utf8(meta[i].key, strlen(meta[i].key)) && pa_is_utf8(meta[i].value, strlen(meta[i].value));
    valid = valid && strcmp(meta[i].key, "crc32c") && strcmp(meta[i].key, "header_crc32c");
    for (size_t j = 0; valid && j < i; j++) valid = strcmp(meta[i].key, meta[j].key) != 0;
    if (valid) return PA_OK;
    return pa_error(err, PA_FAIL, "%s: metadata \"%s\": expected UTF-8 and a key used once, found otherwise", path, meta[i].key);
}

// The header padded to a whole number of 64 bytes, its own checksum in it (malloc'ed; NULL without memory).
static char *finish_header(char *text, size_t *length) {
    const char *digits;
    char sum[16];
    size_t used = strlen(text), padded = (8 + used + 63) / 64 * 64 - 8;
    char *out = malloc(padded + 1);
    if (!out) return NULL;
    memcpy(out, text, used), memset(out + used, ' ', padded - used), out[padded] = 0;
    snprintf(sum, sizeof sum, "%08x", pa_st_header_crc(out, padded, &digits));
    memcpy(out + (digits - out), sum, 8);
    *length = padded;
    return out;
}

// The header (malloc'ed; NULL without memory) and its length; order[] is that of the data.
static char *print_header(const pa_tensor *const *order, size_t count, const pa_meta *meta, size_t meta_count, uint32_t crc,
                          size_t *length) {
    cJSON *json = cJSON_CreateObject(), *m = cJSON_AddObjectToObject(json, "__metadata__");
    char text[PA_MAX_RANK * 24 + 8], *printed = NULL, *finished = NULL;
    size_t begin = 0;
    bool whole = m && cJSON_AddStringToObject(m, "header_crc32c", "00000000");
    for (size_t i = 0; whole && i < meta_count; i++) whole = cJSON_AddStringToObject(m, meta[i].key, meta[i].value) != NULL;
    snprintf(text, sizeof text, "%08x", crc);
    whole = whole && cJSON_AddStringToObject(m, "crc32c", text);
    for (size_t i = 0; whole && i < count; i++) {
        const pa_tensor *t = order[i];
        size_t n = 0;
        cJSON *e = cJSON_AddObjectToObject(json, t->name);
        whole = e && cJSON_AddStringToObject(e, "dtype", pa_dtype_name(t->dtype));
        // Raw text: cJSON would round whole numbers beyond 15 digits.
        text[n++] = '[';
        for (int d = 0; d < t->rank; d++) n += (size_t)snprintf(text + n, sizeof text - n, "%s%lld", d ? "," : "", (long long)t->shape[d]);
        snprintf(text + n, sizeof text - n, "]");
        whole = whole && cJSON_AddRawToObject(e, "shape", text);
        snprintf(text, sizeof text, "[%zu,%zu]", begin, begin + t->bytes);
        whole = whole && cJSON_AddRawToObject(e, "data_offsets", text);
        begin += t->bytes;
    }
    if (whole) printed = cJSON_PrintUnformatted(json);
    if (printed) finished = finish_header(printed, length);
    cJSON_free(printed), cJSON_Delete(json);
    return finished;
}

// Widest type first: each tensor's data is then aligned for its type without gaps, which the format forbids. Keeps the order of equals.
static const pa_tensor **sort_tensors(const pa_tensor *tensors, size_t count) {
    const pa_tensor **order = malloc((count + 1) * sizeof(const pa_tensor *));
    size_t n = 0;
    for (size_t size = 8; order && size; size /= 2)
        for (size_t i = 0; i < count; i++)
            if (pa_dtype_size(tensors[i].dtype) == size) order[n++] = &tensors[i];
    return order;
}

static bool put(pa_file *file, const void *bytes, size_t count) {
    return !count || fwrite(bytes, 1, count, file->stream) == count;
}

static pa_status write_all(pa_file *file, const char *header, uint64_t length, const pa_tensor *const *order, size_t count, pa_err *err) {
    size_t total = 8 + length;
    for (size_t i = 0; i < count; i++) total += order[i]->bytes;
    errno = 0;
    bool whole = put(file, &length, 8) && put(file, header, length);
    for (size_t i = 0; whole && i < count; i++) whole = put(file, order[i]->data, order[i]->bytes);
    if (whole && !fflush(file->stream)) return PA_OK;
    return pa_error(err, PA_FAIL, "%s: expected to write %zu bytes, found: %s", file->path, total, strerror(errno));
}

pa_status pa_st_write(const char *path, const pa_tensor *tensors, size_t count, const pa_meta *meta, size_t meta_count, pa_err *err) {
    pa_status status = PA_OK;
    pa_file file = {0};
    char *header = NULL;
    size_t length;
    uint32_t crc = 0;
    const pa_tensor **order = sort_tensors(tensors, count);
    if (!order) return pa_error(err, PA_FAIL, "%s: expected memory for %zu names", path, count);
    for (size_t i = 0; i < count; i++)
        if ((status = check_tensor(path, tensors, i, err))) goto done;
    for (size_t i = 0; i < meta_count; i++)
        if ((status = check_meta(path, meta, i, err))) goto done;
    for (size_t i = 0; i < count; i++) crc = pa_crc32c(crc, order[i]->data, order[i]->bytes);
    header = print_header(order, count, meta, meta_count, crc, &length);
    if (!header) {
        status = pa_error(err, PA_FAIL, "%s: expected memory for a header of %zu tensors", path, count);
        goto done;
    }
    if ((status = pa_file_create(&file, path, err)) || (status = write_all(&file, header, length, order, count, err))) goto done;
    status = pa_file_commit(&file, err);
done:
    pa_file_abandon(&file);
    free(header);
    free(order);
    return status;
}
