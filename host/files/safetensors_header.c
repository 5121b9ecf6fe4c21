// safetensors_header.c: see safetensors_header.h.
#include "host/files/safetensors_header.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/json.h"

static const double MOST_WHOLE =
    9007199254740991; // 2^53 - 1: beyond it a JSON number, a double, may stand for its neighbour

static const struct {
    const char *name;
    size_t size;
} dtypes[PA_DTYPES] = {
    [PA_F32] = {"F32", 4}, [PA_F64] = {"F64", 8}, [PA_BF16] = {"BF16", 2}, [PA_F16] = {"F16", 2},
    [PA_U16] = {"U16", 2}, [PA_I32] = {"I32", 4}, [PA_I64] = {"I64", 8},   [PA_U8] = {"U8", 1},
};

size_t pa_dtype_size(pa_dtype t) {
    return dtypes[t].size;
}

const char *pa_dtype_name(pa_dtype t) {
    return dtypes[t].name;
}

// ---- JSON

// "\u0000" in a JSON string would end a C string early, and hide the rest of a name.
static bool has_escaped_nul(const char *s) {
    for (; *s; s++)
        if (*s == '\\' && *++s == 'u' && !strncmp(s + 1, "0000", 4))
            return true;
        else if (!*s)
            break;
    return false;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

// Refuses a JSON object that has a name twice: readers differ in which of the two they take.
static pa_status check_names(const pa_st_header *h, const cJSON *object, size_t *count, pa_err *err) {
    pa_status status = PA_OK;
    size_t n = 0, i = 0;
    for (const cJSON *e = object->child; e; e = e->next) n++;
    const char **names = malloc((n + 1) * sizeof *names);
    if (!names) return pa_error(err, PA_FAIL, "%s: no memory for %zu names", h->path, n);
    for (const cJSON *e = object->child; e; e = e->next) names[i++] = e->string;
    qsort(names, n, sizeof *names, by_text);
    for (i = 1; i < n && !status; i++)
        if (!strcmp(names[i - 1], names[i]))
            status = pa_error(err, PA_DATA, "%s: expected each name once, found \"%.127s\" twice", h->path, names[i]);
    free(names);
    *count = n;
    return status;
}

static pa_status check_meta(const pa_st_header *h, pa_err *err) {
    size_t count;
    if (!h->meta) return PA_OK;
    if (!cJSON_IsObject(h->meta))
        return pa_error(err, PA_DATA, "%s: expected __metadata__ to be an object, found something else", h->path);
    for (const cJSON *e = h->meta->child; e; e = e->next)
        if (!cJSON_IsString(e))
            return pa_error(err, PA_DATA, "%s: metadata \"%.127s\": expected text in quotes, found something else",
                            h->path, e->string);
    return check_names(h, h->meta, &count, err);
}

pa_status pa_st_header_parse(pa_st_header *h, const char *text, size_t length, pa_err *err) {
    const char *end = NULL;
    if (strlen(text) != length || has_escaped_nul(text) || !pa_is_utf8(text, length))
        return pa_error(err, PA_DATA, "%s: expected a header in UTF-8 without NUL, found another byte", h->path);
    size_t values = pa_json_values(text); // a tensor of two dimensions has eight
    if (values > PA_JSON_VALUES)
        return pa_error(err, PA_DATA, "%s: expected a header of at most %d values, found %zu", h->path, PA_JSON_VALUES,
                        values);
    errno = 0;
    h->json = cJSON_ParseWithLengthOpts(text, length + 1, &end, 1);
    if (!h->json && errno == ENOMEM) return pa_error(err, PA_FAIL, "%s: no memory for its header", h->path);
    if (!h->json)
        return pa_error(err, PA_DATA, "%s: expected a header in JSON, found an error at its byte %td", h->path,
                        end ? end - text : (ptrdiff_t)0);
    h->meta = cJSON_GetObjectItemCaseSensitive(h->json, "__metadata__");
    return check_meta(h, err);
}

void pa_st_header_clear(pa_st_header *h) {
    cJSON_Delete(h->json);
    free(h->tensor);
    h->json = NULL;
    h->tensor = NULL;
}

// ---- tensors

static bool whole_number(const cJSON *n, size_t *out) {
    if (!cJSON_IsNumber(n) || !(n->valuedouble >= 0 && n->valuedouble <= MOST_WHOLE)) return false;
    *out = (size_t)n->valuedouble;
    return (double)*out == n->valuedouble;
}

// Of the whole file, as its header has it: up to the last byte of any tensor.
static size_t told_bytes(const pa_st_header *h) {
    size_t most = 0, end;
    for (const cJSON *e = h->json->child; e; e = e->next) {
        const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(e, "data_offsets");
        if (whole_number(cJSON_GetArrayItem(offsets, 1), &end) && end > most) most = end;
    }
    return h->file_bytes - h->data_bytes + most;
}

// "tensor NAME: expected ..., found ..."
#define REFUSE(entry, expected, ...)                                                                                   \
    return pa_error(err, PA_DATA, "%s: tensor \"%.127s\": expected " expected, h->path, (entry)->string, __VA_ARGS__)

// One entry of the header but for its data's place, which goes to *begin until all of them are known to be sound.
static pa_status parse_tensor(const pa_st_header *h, const cJSON *entry, pa_tensor *t, size_t *begin, pa_err *err) {
    const cJSON *dtype = cJSON_GetObjectItemCaseSensitive(entry, "dtype"),
                *shape = cJSON_GetObjectItemCaseSensitive(entry, "shape");
    const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(entry, "data_offsets");
    int members = cJSON_GetArraySize(entry);
    size_t end, size, bytes;
    t->name = entry->string;
    if (!cJSON_IsObject(entry) || members != 3 || !dtype || !shape || !offsets)
        REFUSE(entry, "an object of dtype, shape and data_offsets, found %s of %d",
               cJSON_IsObject(entry) ? "one" : "none", members);
    if (!cJSON_IsString(dtype)) REFUSE(entry, "a dtype in quotes, found %s", "something else");
    for (t->dtype = 0; t->dtype < PA_DTYPES && strcmp(dtypes[t->dtype].name, dtype->valuestring);) t->dtype++;
    if (t->dtype == PA_DTYPES)
        REFUSE(entry, "F32, F64, BF16, F16, U16, I32, I64 or U8, found %.127s", dtype->valuestring);
    if (!cJSON_IsArray(shape)) REFUSE(entry, "a shape in brackets, found %s", "something else");
    bytes = dtypes[t->dtype].size;
    for (const cJSON *d = shape->child; d; d = d->next) {
        if (t->rank == PA_MAX_RANK)
            REFUSE(entry, "at most %d dimensions, found %d", PA_MAX_RANK, cJSON_GetArraySize(shape));
        if (!whole_number(d, &size))
            REFUSE(entry, "dimension %d to be a whole number from 0 to 2^53 - 1, found another", t->rank);
        t->shape[t->rank++] = (int64_t)size;
        if (!pa_mul_size(bytes, size, &bytes))
            REFUSE(entry, "a shape of at most 2^64 - 1 bytes, found more with dimension %d", t->rank - 1);
    }
    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 || !whole_number(offsets->child, begin) ||
        !whole_number(offsets->child->next, &end))
        REFUSE(entry, "data_offsets of two whole numbers from 0 to 2^53 - 1, found %s", "something else");
    if (*begin > end)
        REFUSE(entry, "data_offsets in order within 0 to %zu, found %zu to %zu", h->data_bytes, *begin, end);
    if (end > h->data_bytes)
        REFUSE(entry,
               "data_offsets in order within 0 to %zu, found %zu to %zu; the file is cut short: expected %zu bytes, "
               "found %zu",
               h->data_bytes, *begin, end, told_bytes(h), h->file_bytes);
    if (end - *begin != bytes)
        REFUSE(entry, "%zu bytes of data for its shape and dtype, found %zu", bytes, end - *begin);
    t->bytes = bytes;
    return PA_OK;
}

static int by_place(const void *a, const void *b) {
    const pa_tensor *s = a, *t = b;
    const uint8_t *p = s->data, *q = t->data;
    return p != q ? (p < q ? -1 : 1) : s->bytes != t->bytes ? (s->bytes < t->bytes ? -1 : 1) : strcmp(s->name, t->name);
}

// Data must follow data without gap or overlap, from the first byte to the last.
static pa_status check_places(const pa_st_header *h, const uint8_t *data, pa_err *err) {
    size_t at = 0;
    for (size_t i = 0; i < h->count; i++) {
        const pa_tensor *t = &h->tensor[i];
        size_t begin = (size_t)((const uint8_t *)t->data - data);
        if (begin != at)
            return pa_error(err, PA_DATA, "%s: tensor \"%.127s\": expected its data at byte %zu, found it at %zu (%s)",
                            h->path, t->name, at, begin, begin < at ? "an overlap" : "a gap");
        at += t->bytes;
    }
    if (at == h->data_bytes) return PA_OK;
    return pa_error(err, PA_DATA, "%s: expected %zu bytes of data, found %zu", h->path, at, h->data_bytes);
}

pa_status pa_st_header_tensors(pa_st_header *h, const uint8_t *data, pa_err *err) {
    pa_status status = check_names(h, h->json, &h->count, err);
    if (status) return status;
    if (h->meta) h->count--;
    h->tensor = calloc(h->count + 1, sizeof *h->tensor);
    if (!h->tensor) return pa_error(err, PA_FAIL, "%s: no memory for %zu tensors", h->path, h->count);
    pa_tensor *t = h->tensor;
    for (const cJSON *e = h->json->child; e; e = e->next) {
        size_t begin = 0;
        if (e == h->meta) continue;
        if ((status = parse_tensor(h, e, t, &begin, err))) return status;
        t++->data = data + begin;
    }
    qsort(h->tensor, h->count, sizeof *h->tensor, by_place);
    return check_places(h, data, err);
}
