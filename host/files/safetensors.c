// safetensors.c: reads a safetensors file: all of it is read and checked before it is mapped and any pointer handed
// out. A file may come from anyone, and its disk may fail: that is an error of read, where a mapping would end the
// program. Knows nothing of what the tensors mean. Writing is in safetensors_write.c.
#include "host/files/safetensors.h"

#include <cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/base/checksum.h"
#include "host/files/mapping.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format is little-endian and read in place");

enum { MOST_HEADER = 100000000 }; // bytes, the reference implementation's limit
// 2^53 - 1: beyond it a JSON number, a double, may stand for its neighbour.
static const double MOST_WHOLE = 9007199254740991;

struct pa_st {
    char *path, *header; // the header's text, NUL-terminated
    uint8_t first[16];   // bytes of the file, fewer where it has fewer
    pa_mapping map;
    size_t map_bytes;
    const uint8_t *data;
    size_t header_bytes, data_bytes;
    uint32_t crc; // of the data
    cJSON *json;  // holds names and metadata
    const cJSON *meta;
    pa_tensor *tensor; // ascending in the file
    size_t count;
    void **copy; // (count) of tensors that the file has misaligned
};

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

// A name from a file as it may be shown on a terminal: no control characters, not endless.
typedef struct {
    char text[128];
} shown;

static shown show(const char *name) {
    shown s;
    snprintf(s.text, sizeof s.text, "%s", name);
    for (char *p = s.text; *p; p++)
        if ((unsigned char)*p < 32 || *p == 127) *p = '?';
    return s;
}

static pa_status open_file(const char *path, int *out, struct stat *found, pa_err *err) {
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a named pipe must not keep us waiting
    *out = fd;
    if (fd < 0 || fstat(fd, &info)) return pa_error(err, PA_FAIL, "cannot open %s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return pa_error(err, PA_DATA, "%s: expected a safetensors file, found %s", path,
                        S_ISDIR(info.st_mode) ? "a folder" : "a pipe, socket or device");
    if (info.st_size < 8)
        return pa_error(err, PA_DATA, "%s: expected a safetensors file of at least 8 bytes, found %lld", path,
                        (long long)info.st_size);
    *found = info;
    return PA_OK;
}

static pa_status read_at(const pa_st *st, int fd, void *out, size_t count, size_t at, pa_err *err) {
    for (size_t done = 0; done < count;) {
        ssize_t got = pread(fd, (char *)out + done, count - done, (off_t)(at + done));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0)
            return pa_error(err, PA_FAIL, "cannot read %s after %zu of %zu bytes: %s", st->path, at + done,
                            st->map_bytes, got ? strerror(errno) : "end of file");
        done += (size_t)got;
    }
    return PA_OK;
}

// Shows what the file begins with: letters as they are and all else in hexadecimal, so that no byte does anything to a
// terminal.
static pa_status another_format(const pa_st *st, pa_err *err) {
    char text[4 * sizeof st->first + 1];
    size_t n = 0;
    for (size_t i = 0; i < sizeof st->first && i < st->map_bytes; i++) {
        uint8_t c = st->first[i];
        bool plain = c >= 32 && c < 127 && c != '"' && c != '\\';
        n += (size_t)(plain ? snprintf(text + n, sizeof text - n, "%c", c)
                            : snprintf(text + n, sizeof text - n, "\\x%02x", c));
    }
    return pa_error(err, PA_DATA, "%s: expected a safetensors file, found one that begins with \"%s\"", st->path, text);
}

static pa_status read_header(pa_st *st, int fd, pa_err *err) {
    uint64_t length;
    pa_status status =
        read_at(st, fd, st->first, st->map_bytes < sizeof st->first ? st->map_bytes : sizeof st->first, 0, err);
    if (status) return status;
    memcpy(&length, st->first, 8);
    size_t room = st->map_bytes - 8;
    // Text, or the first letters of another format, read as a length beyond all bounds.
    if (room ? length > room && st->first[8] != '{' : length > MOST_HEADER) return another_format(st, err);
    if (length > MOST_HEADER)
        return pa_error(err, PA_DATA, "%s: expected a header of at most %d bytes, found %llu", st->path, MOST_HEADER,
                        (unsigned long long)length);
    if (length > room)
        return pa_error(err, PA_DATA, "%s: expected a header of %llu bytes, found %zu: the file is cut short", st->path,
                        (unsigned long long)length, room);
    st->header_bytes = length;
    st->data_bytes = room - length;
    st->header = malloc(length + 1);
    if (!st->header)
        return pa_error(err, PA_FAIL, "%s: no memory for a header of %llu bytes", st->path, (unsigned long long)length);
    st->header[length] = 0;
    return read_at(st, fd, st->header, length, 8, err);
}

static pa_status read_data(const pa_st *st, int fd, uint32_t *crc, pa_err *err) {
    size_t room = st->data_bytes < 1 << 20 ? st->data_bytes : 1 << 20, begin = st->map_bytes - st->data_bytes;
    void *buffer = malloc(room + 1);
    pa_status status = buffer ? PA_OK : pa_error(err, PA_FAIL, "%s: no memory for %zu bytes", st->path, room);
    for (size_t at = 0; at < st->data_bytes && !status; at += room) {
        size_t part = st->data_bytes - at < room ? st->data_bytes - at : room;
        status = read_at(st, fd, buffer, part, begin + at, err);
        if (!status) *crc = pa_crc32c(*crc, buffer, part);
    }
    free(buffer);
    return status;
}

// "\u0000" in a JSON string would end a C string early, and hide the rest of a name.
static bool has_escaped_nul(const char *s) {
    for (; *s; s++)
        if (*s == '\\' && *++s == 'u' && !strncmp(s + 1, "0000", 4))
            return true;
        else if (!*s)
            break;
    return false;
}

static pa_status parse_header(pa_st *st, pa_err *err) {
    size_t length = st->header_bytes;
    const char *end = NULL;
    if (st->header[0] != '{') return another_format(st, err);
    if (strlen(st->header) != length || has_escaped_nul(st->header) || !pa_is_utf8(st->header, length))
        return pa_error(err, PA_DATA, "%s: expected a header in UTF-8 without NUL, found another byte", st->path);
    errno = 0;
    st->json = cJSON_ParseWithLengthOpts(st->header, length + 1, &end, 1);
    if (!st->json && errno == ENOMEM) return pa_error(err, PA_FAIL, "%s: no memory for its header", st->path);
    if (!st->json)
        return pa_error(err, PA_DATA, "%s: expected a header in JSON, found an error at its byte %td", st->path,
                        end ? end - st->header : (ptrdiff_t)0);
    return PA_OK;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

// Refuses a JSON object that has a name twice: readers differ in which of the two they take.
static pa_status check_names(const pa_st *st, const cJSON *object, size_t *count, pa_err *err) {
    pa_status status = PA_OK;
    size_t n = 0, i = 0;
    for (const cJSON *e = object->child; e; e = e->next) n++;
    const char **names = malloc((n + 1) * sizeof *names);
    if (!names) return pa_error(err, PA_FAIL, "%s: no memory for %zu names", st->path, n);
    for (const cJSON *e = object->child; e; e = e->next) names[i++] = e->string;
    qsort(names, n, sizeof *names, by_text);
    for (i = 1; i < n && !status; i++)
        if (!strcmp(names[i - 1], names[i]))
            status = pa_error(err, PA_DATA, "%s: expected each name once, found \"%s\" twice", st->path,
                              show(names[i]).text);
    free(names);
    *count = n;
    return status;
}

static bool whole_number(const cJSON *n, size_t *out) {
    if (!cJSON_IsNumber(n) || !(n->valuedouble >= 0 && n->valuedouble <= MOST_WHOLE)) return false;
    *out = (size_t)n->valuedouble;
    return (double)*out == n->valuedouble;
}

// Of the whole file, as its header has it: up to the last byte of any tensor.
static size_t told_bytes(const pa_st *st) {
    size_t most = 0, end;
    for (const cJSON *e = st->json->child; e; e = e->next) {
        const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(e, "data_offsets");
        if (whole_number(cJSON_GetArrayItem(offsets, 1), &end) && end > most) most = end;
    }
    return st->map_bytes - st->data_bytes + most;
}

// "tensor NAME: expected ..., found ..."
#define REFUSE(entry, expected, ...)                                                                                   \
    return pa_error(err, PA_DATA, "%s: tensor \"%s\": expected " expected, st->path, show((entry)->string).text,       \
                    __VA_ARGS__)

// One entry of the header but for its data's place, which goes to *begin until all of them are known to be sound.
static pa_status parse_tensor(const pa_st *st, const cJSON *entry, pa_tensor *t, size_t *begin, pa_err *err) {
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
        REFUSE(entry, "F32, F64, BF16, F16, U16, I32, I64 or U8, found %s", show(dtype->valuestring).text);
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
        REFUSE(entry, "data_offsets in order within 0 to %zu, found %zu to %zu", st->data_bytes, *begin, end);
    if (end > st->data_bytes)
        REFUSE(entry,
               "data_offsets in order within 0 to %zu, found %zu to %zu; the file is cut short: expected %zu bytes, "
               "found %zu",
               st->data_bytes, *begin, end, told_bytes(st), st->map_bytes);
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
static pa_status check_places(const pa_st *st, pa_err *err) {
    size_t at = 0;
    for (size_t i = 0; i < st->count; i++) {
        const pa_tensor *t = &st->tensor[i];
        size_t begin = (size_t)((const uint8_t *)t->data - st->data);
        if (begin != at)
            return pa_error(err, PA_DATA, "%s: tensor \"%s\": expected its data at byte %zu, found it at %zu (%s)",
                            st->path, show(t->name).text, at, begin, begin < at ? "an overlap" : "a gap");
        at += t->bytes;
    }
    if (at == st->data_bytes) return PA_OK;
    return pa_error(err, PA_DATA, "%s: expected %zu bytes of data, found %zu", st->path, at, st->data_bytes);
}

static pa_status parse_tensors(pa_st *st, pa_err *err) {
    pa_status status = check_names(st, st->json, &st->count, err);
    if (status) return status;
    if (st->meta) st->count--;
    st->tensor = calloc(st->count + 1, sizeof *st->tensor);
    st->copy = calloc(st->count + 1, sizeof *st->copy);
    if (!st->tensor || !st->copy) return pa_error(err, PA_FAIL, "%s: no memory for %zu tensors", st->path, st->count);
    pa_tensor *t = st->tensor;
    for (const cJSON *e = st->json->child; e; e = e->next) {
        size_t begin;
        if (e == st->meta) continue;
        if ((status = parse_tensor(st, e, t, &begin, err))) return status;
        t++->data = st->data + begin;
    }
    qsort(st->tensor, st->count, sizeof *st->tensor, by_place);
    return check_places(st, err);
}

static bool is_sum(const char *text) {
    return strlen(text) == 8 && strspn(text, "0123456789abcdefABCDEF") == 8;
}

// The writer puts the entry first, so that nothing that looks like it comes before.
uint32_t pa_st_header_crc(const char *header, size_t length, const char **digits) {
    static const char KEY[] = "\"header_crc32c\":\"";
    const char *found = strstr(header, KEY);
    *digits = found ? found + sizeof KEY - 1 : NULL;
    if (!found || *digits + 8 > header + length) return 0;
    uint32_t crc = pa_crc32c(0, header, (size_t)(*digits - header));
    crc = pa_crc32c(crc, "00000000", 8);
    return pa_crc32c(crc, *digits + 8, (size_t)(header + length - *digits - 8));
}

static pa_status check_header(const pa_st *st, pa_err *err) {
    const char *sum = pa_st_meta(st, "header_crc32c"), *digits;
    char found[16];
    if (!sum) return PA_OK;
    snprintf(found, sizeof found, "%08x", pa_st_header_crc(st->header, st->header_bytes, &digits));
    if (digits && !strcmp(sum, found) && !strncmp(digits, found, 8)) return PA_OK;
    return pa_error(err, PA_DATA, "%s: expected a header with CRC-32C %s, found %s: the file is damaged", st->path,
                    show(sum).text, found);
}

static pa_status check_meta(const pa_st *st, pa_err *err) {
    size_t count;
    if (!st->meta) return PA_OK;
    if (!cJSON_IsObject(st->meta))
        return pa_error(err, PA_DATA, "%s: expected __metadata__ to be an object, found something else", st->path);
    for (const cJSON *e = st->meta->child; e; e = e->next)
        if (!cJSON_IsString(e))
            return pa_error(err, PA_DATA, "%s: metadata \"%s\": expected text in quotes, found something else",
                            st->path, show(e->string).text);
    pa_status status = check_names(st, st->meta, &count, err);
    if (status || (status = check_header(st, err))) return status;
    const char *sum = st->data ? pa_st_meta(st, "crc32c") : NULL;
    if (!sum) return PA_OK;
    if (!is_sum(sum))
        return pa_error(err, PA_DATA, "%s: metadata \"crc32c\": expected 8 hexadecimal digits, found \"%s\"", st->path,
                        show(sum).text);
    uint32_t expected = (uint32_t)strtoul(sum, NULL, 16);
    if (st->crc == expected) return PA_OK;
    return pa_error(err, PA_DATA, "%s: expected data with CRC-32C %08x, found %08x: the file is damaged", st->path,
                    expected, st->crc);
}

static pa_status align_tensors(pa_st *st, pa_err *err) {
    for (size_t i = 0; i < st->count; i++) {
        pa_tensor *t = &st->tensor[i];
        if ((uintptr_t)t->data % dtypes[t->dtype].size == 0) continue;
        st->copy[i] = pa_alloc(t->bytes);
        if (!st->copy[i])
            return pa_error(err, PA_FAIL, "%s: tensor \"%s\": no memory for %zu bytes", st->path, show(t->name).text,
                            t->bytes);
        memcpy(st->copy[i], t->data, t->bytes);
        t->data = st->copy[i];
    }
    return PA_OK;
}

static pa_status open_tensors(pa_st *st, int fd, struct timespec changed, pa_err *err) {
    pa_status status = pa_mapping_open(&st->map, fd, st->map_bytes, changed, st->path, err);
    if (status) return status;
    st->data = st->map.bytes + st->map_bytes - st->data_bytes;
    status = parse_tensors(st, err);
    if (!status) status = read_data(st, fd, &st->crc, err);
    if (!status) status = check_meta(st, err);
    return status ? status : align_tensors(st, err);
}

static pa_status open_parts(pa_st **out, const char *path, bool tensors, pa_err *err) {
    pa_st *st = calloc(1, sizeof *st);
    *out = NULL;
    if (!st || !(st->path = strdup(path))) {
        free(st);
        return pa_error(err, PA_FAIL, "%s: no memory to open it", path);
    }
    int fd;
    struct stat info = {0};
    pa_status status = open_file(path, &fd, &info, err);
    st->map = (pa_mapping){.fd = fd, .slot = -1};
    if (!status) {
        st->map_bytes = (size_t)info.st_size;
        status = read_header(st, fd, err);
    }
    if (!status) status = parse_header(st, err);
    st->meta = cJSON_GetObjectItemCaseSensitive(st->json, "__metadata__");
    if (!status) status = tensors ? open_tensors(st, fd, info.st_mtim, err) : check_meta(st, err);
    if (status)
        pa_st_close(st);
    else
        *out = st;
    return status;
}

pa_status pa_st_open(pa_st **st, const char *path, pa_err *err) {
    return open_parts(st, path, true, err);
}

pa_status pa_st_open_meta(pa_st **st, const char *path, pa_err *err) {
    return open_parts(st, path, false, err);
}

pa_status pa_st_check(const pa_st *st, pa_err *err) {
    return pa_mapping_check(&st->map, st->path, err);
}

pa_status pa_st_verify(const pa_st *st, pa_err *err) {
    uint32_t crc = 0;
    pa_status status = pa_st_check(st, err);
    if (!status) status = read_data(st, st->map.fd, &crc, err);
    if (status || crc == st->crc) return status;
    return pa_error(err, PA_DATA, "%s was changed while it was open: expected data with CRC-32C %08x, found %08x",
                    st->path, st->crc, crc);
}

void pa_st_close(pa_st *st) {
    if (!st) return;
    for (size_t i = 0; st->copy && i < st->count; i++) free(st->copy[i]);
    free(st->copy);
    free(st->tensor);
    cJSON_Delete(st->json);
    free(st->header);
    pa_mapping_close(&st->map);
    free(st->path);
    free(st);
}

size_t pa_st_count(const pa_st *st) {
    return st->count;
}

const pa_tensor *pa_st_at(const pa_st *st, size_t index) {
    return index < st->count ? &st->tensor[index] : NULL;
}

const pa_tensor *pa_st_find(const pa_st *st, const char *name) {
    for (size_t i = 0; i < st->count; i++)
        if (!strcmp(st->tensor[i].name, name)) return &st->tensor[i];
    return NULL;
}

const char *pa_st_meta(const pa_st *st, const char *key) {
    const cJSON *e = cJSON_GetObjectItemCaseSensitive(st->meta, key);
    return e ? e->valuestring : NULL;
}

const char *pa_st_path(const pa_st *st) {
    return st->path;
}

uint32_t pa_st_crc(const pa_st *st) {
    return st->crc;
}

// "(390, 512)"; a negative dimension reads "any".
static void print_shape(char *out, size_t size, int rank, const int64_t *shape) {
    size_t n = (size_t)snprintf(out, size, "(");
    for (int i = 0; i < rank && n < size; i++)
        n += (size_t)(shape[i] < 0 ? snprintf(out + n, size - n, "%sany", i ? ", " : "")
                                   : snprintf(out + n, size - n, "%s%lld", i ? ", " : "", (long long)shape[i]));
    if (n < size) snprintf(out + n, size - n, ")");
}

pa_status pa_st_need(const pa_st *st, const char *name, pa_dtype dtype, int rank, const int64_t *shape,
                     const pa_tensor **found, pa_err *err) {
    const pa_tensor *t = pa_st_find(st, name);
    *found = t;
    if (!t) return pa_error(err, PA_DATA, "%s: expected a tensor \"%s\", found none of that name", st->path, name);
    bool fits = t->dtype == dtype && (rank < 0 || t->rank == rank);
    for (int i = 0; fits && i < rank; i++) fits = shape[i] < 0 || shape[i] == t->shape[i];
    if (fits) return PA_OK;
    char want[256] = "of any shape", have[256];
    if (rank >= 0) print_shape(want, sizeof want, rank, shape);
    print_shape(have, sizeof have, t->rank, t->shape);
    return pa_error(err, PA_DATA, "%s: tensor \"%s\": expected %s %s, found %s %s", st->path, name, dtypes[dtype].name,
                    want, dtypes[t->dtype].name, have);
}
