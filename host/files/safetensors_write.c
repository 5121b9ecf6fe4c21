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
    for (int d = 0; fits && d < t->rank; d++)
        fits = t->shape[d] >= 0 && pa_mul_size(bytes, (size_t)t->shape[d], &bytes);
    if (!fits || bytes != t->bytes)
        return pa_error(err, PA_FAIL, "%s: tensor \"%s\": expected %zu bytes for its shape, found %zu", path, t->name,
                        bytes, t->bytes);
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
    return pa_error(err, PA_FAIL, "%s: metadata \"%s\": expected UTF-8, and each key once", path, meta[i].key);
}

struct pa_st_writer {
    pa_file file;
    char *header; // its checksums are zeros until all data are written
    uint64_t header_bytes;
    size_t bytes, left; // of the whole file; of its data, not written yet
    uint32_t crc;
};

// Pads the header to a whole number of 64 bytes (malloc'ed; NULL without memory).
static char *pad_header(const char *text, uint64_t *length) {
    size_t used = strlen(text), padded = (8 + used + 63) / 64 * 64 - 8;
    char *out = malloc(padded + 1);
    if (!out) return NULL;
    memcpy(out, text, used);
    memset(out + used, ' ', padded - used);
    out[padded] = 0;
    *length = padded;
    return out;
}

// The header (malloc'ed; NULL without memory) and its length; order[] is that of the data.
static char *print_header(const pa_tensor *const *order, size_t count, const pa_meta *meta, size_t meta_count,
                          uint64_t *length) {
    cJSON *json = cJSON_CreateObject(), *m = cJSON_AddObjectToObject(json, "__metadata__");
    char text[PA_MAX_RANK * 24 + 8], *printed = NULL, *padded = NULL;
    size_t begin = 0;
    bool whole = m && cJSON_AddStringToObject(m, "header_crc32c", "00000000");
    for (size_t i = 0; whole && i < meta_count; i++) {
        cJSON *value = cJSON_CreateStringReference(meta[i].value);
        whole = value && cJSON_AddItemToObject(m, meta[i].key, value);
    }
    whole = whole && cJSON_AddStringToObject(m, "crc32c", "00000000");
    for (size_t i = 0; whole && i < count; i++) {
        const pa_tensor *t = order[i];
        size_t n = 0;
        cJSON *e = cJSON_AddObjectToObject(json, t->name);
        whole = e && cJSON_AddStringToObject(e, "dtype", pa_dtype_name(t->dtype));
        // Raw text: cJSON would round whole numbers beyond 15 digits.
        text[n++] = '[';
        for (int d = 0; d < t->rank; d++)
            n += (size_t)snprintf(text + n, sizeof text - n, "%s%lld", d ? "," : "", (long long)t->shape[d]);
        snprintf(text + n, sizeof text - n, "]");
        whole = whole && cJSON_AddRawToObject(e, "shape", text);
        snprintf(text, sizeof text, "[%zu,%zu]", begin, begin + t->bytes);
        whole = whole && cJSON_AddRawToObject(e, "data_offsets", text);
        begin += t->bytes;
    }
    if (whole) printed = cJSON_PrintUnformatted(json);
    cJSON_Delete(json);
    if (printed) padded = pad_header(printed, length);
    cJSON_free(printed);
    return padded;
}

// Widest type first: each tensor's data is then aligned for its type without gaps, which the format forbids. Keeps the
// order of equals.
static const pa_tensor **sort_tensors(const pa_tensor *tensors, size_t count) {
    const pa_tensor **order = calloc(count + 1, sizeof(const pa_tensor *));
    size_t n = 0;
    for (size_t size = 8; order && size; size /= 2)
        for (size_t i = 0; i < count; i++)
            if (pa_dtype_size(tensors[i].dtype) == size) order[n++] = &tensors[i];
    return order;
}

static pa_status write_failed(const pa_st_writer *w, pa_err *err) {
    return pa_error(err, PA_FAIL, "cannot write %s, %zu bytes: %s", w->file.path, w->bytes, strerror(errno));
}

static pa_status put(pa_st_writer *w, const void *bytes, size_t count, pa_err *err) {
    errno = 0;
    return !count || fwrite(bytes, 1, count, w->file.stream) == count ? PA_OK : write_failed(w, err);
}

static pa_status put_header(pa_st_writer *w, pa_err *err) {
    pa_status s = put(w, &w->header_bytes, 8, err);
    return s ? s : put(w, w->header, w->header_bytes, err);
}

static pa_status begin(pa_st_writer **out, const char *path, const pa_tensor *const *order, size_t count,
                       const pa_meta *meta, size_t meta_count, pa_err *err) {
    pa_st_writer *w = calloc(1, sizeof *w);
    pa_status s = PA_OK;
    if (!w || !(w->header = print_header(order, count, meta, meta_count, &w->header_bytes))) {
        s = pa_error(err, PA_FAIL, "%s: no memory for a header of %zu tensors", path, count);
        goto done;
    }
    for (size_t i = 0; i < count; i++) w->left += order[i]->bytes;
    w->bytes = 8 + w->header_bytes + w->left;
    s = pa_file_create(&w->file, path, err);
    if (!s) s = put_header(w, err);
done:
    if (s)
        pa_st_abandon(w);
    else
        *out = w;
    return s;
}

static pa_status check_all(const char *path, const pa_tensor *tensors, size_t count, const pa_meta *meta,
                           size_t meta_count, pa_err *err) {
    pa_status s = PA_OK;
    for (size_t i = 0; i < count && !s; i++) s = check_tensor(path, tensors, i, err);
    for (size_t i = 0; i < meta_count && !s; i++) s = check_meta(path, meta, i, err);
    return s;
}

pa_status pa_st_begin(pa_st_writer **w, const char *path, const pa_tensor *tensors, size_t count, const pa_meta *meta,
                      size_t meta_count, pa_err *err) {
    *w = NULL;
    pa_status s = check_all(path, tensors, count, meta, meta_count, err);
    if (s) return s;
    const pa_tensor **order = sort_tensors(tensors, count);
    if (!order) return pa_error(err, PA_FAIL, "%s: no memory for %zu names", path, count);
    s = begin(w, path, order, count, meta, meta_count, err);
    free(order);
    return s;
}

pa_status pa_st_put(pa_st_writer *w, const void *bytes, size_t count, pa_err *err) {
    if (count > w->left)
        return pa_error(err, PA_FAIL, "%s: expected at most %zu more bytes of data, found %zu", w->file.path, w->left,
                        count);
    w->left -= count;
    w->crc = pa_crc32c(w->crc, bytes, count);
    return put(w, bytes, count, err);
}

// Both are eight digits: the header keeps its length. No quoted text can hold KEY, whose quotes would be escaped there.
static void fill_checksums(pa_st_writer *w) {
    static const char KEY[] = ",\"crc32c\":\"";
    const char *digits;
    char sum[16];
    snprintf(sum, sizeof sum, "%08x", w->crc);
    memcpy(strstr(w->header, KEY) + sizeof KEY - 1, sum, 8);
    snprintf(sum, sizeof sum, "%08x", pa_st_header_crc(w->header, w->header_bytes, &digits));
    memcpy(w->header + (digits - w->header), sum, 8);
}

pa_status pa_st_finish(pa_st_writer *w, pa_err *err) {
    pa_status s = PA_OK;
    if (w->left) {
        s = pa_error(err, PA_FAIL, "%s: expected %zu more bytes of data, found none", w->file.path, w->left);
        goto done;
    }
    fill_checksums(w);
    errno = 0;
    if (fseeko(w->file.stream, 0, SEEK_SET)) { // writes what is buffered
        s = write_failed(w, err);
        goto done;
    }
    s = put_header(w, err);
    if (!s) s = pa_file_commit(&w->file, err);
done:
    pa_st_abandon(w);
    return s;
}

void pa_st_abandon(pa_st_writer *w) {
    if (!w) return;
    pa_file_abandon(&w->file);
    free(w->header);
    free(w);
}

pa_status pa_st_write(const char *path, const pa_tensor *tensors, size_t count, const pa_meta *meta, size_t meta_count,
                      pa_err *err) {
    pa_st_writer *w = NULL;
    const pa_tensor **order = NULL;
    pa_status s = check_all(path, tensors, count, meta, meta_count, err);
    if (s) return s;
    if (!(order = sort_tensors(tensors, count)))
        return pa_error(err, PA_FAIL, "%s: no memory for %zu names", path, count);
    s = begin(&w, path, order, count, meta, meta_count, err);
    for (size_t i = 0; i < count && !s; i++) s = pa_st_put(w, order[i]->data, order[i]->bytes, err);
    if (!s)
        s = pa_st_finish(w, err);
    else
        pa_st_abandon(w);
    free(order);
    return s;
}
