// safetensors.c: reads a safetensors file: all of it is read and checked before it is mapped and any pointer handed
// out. A file may come from anyone, and its disk may fail: that is an error of read, where a mapping would end the
// program. Knows nothing of what the tensors mean. Writing is in safetensors_write.c.
#include "host/files/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/base/checksum.h"
#include "host/files/mapping.h"
#include "host/files/safetensors_header.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format is little-endian and read in place");

enum { MOST_HEADER = 100000000 }; // bytes, the reference implementation's limit

struct pa_st {
    char *path, *header; // the header's text, NUL-terminated
    uint8_t first[16];   // bytes of the file, fewer where it has fewer
    pa_mapping map;
    size_t map_bytes;
    const uint8_t *data;
    size_t header_bytes, data_bytes;
    uint32_t crc; // of the data
    pa_st_header parsed;
    void **copy; // (count) of tensors that the file has misaligned
};

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
    return pa_error(err, PA_DATA, "%s: expected a header with CRC-32C %.127s, found %s: the file is damaged", st->path,
                    sum, found);
}

// Against the checksums that the metadata hold.
static pa_status check_sums(const pa_st *st, pa_err *err) {
    pa_status status = check_header(st, err);
    if (status) return status;
    const char *sum = st->data ? pa_st_meta(st, "crc32c") : NULL;
    if (!sum) return PA_OK;
    if (!is_sum(sum))
        return pa_error(err, PA_DATA, "%s: metadata \"crc32c\": expected 8 hexadecimal digits, found \"%.127s\"",
                        st->path, sum);
    uint32_t expected = (uint32_t)strtoul(sum, NULL, 16);
    if (st->crc == expected) return PA_OK;
    return pa_error(err, PA_DATA, "%s: expected data with CRC-32C %08x, found %08x: the file is damaged", st->path,
                    expected, st->crc);
}

static pa_status align_tensors(pa_st *st, pa_err *err) {
    st->copy = calloc(st->parsed.count + 1, sizeof *st->copy);
    if (!st->copy) return pa_error(err, PA_FAIL, "%s: no memory for %zu tensors", st->path, st->parsed.count);
    for (size_t i = 0; i < st->parsed.count; i++) {
        pa_tensor *t = &st->parsed.tensor[i];
        if ((uintptr_t)t->data % pa_dtype_size(t->dtype) == 0) continue;
        st->copy[i] = pa_alloc(t->bytes);
        if (!st->copy[i])
            return pa_error(err, PA_FAIL, "%s: tensor \"%.127s\": no memory for %zu bytes", st->path, t->name,
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
    status = pa_st_header_tensors(&st->parsed, st->data, err);
    if (!status) status = read_data(st, fd, &st->crc, err);
    if (!status) status = check_sums(st, err);
    return status ? status : align_tensors(st, err);
}

static pa_status parse_header(pa_st *st, pa_err *err) {
    if (st->header[0] != '{') return another_format(st, err);
    st->parsed = (pa_st_header){.path = st->path, .file_bytes = st->map_bytes, .data_bytes = st->data_bytes};
    return pa_st_header_parse(&st->parsed, st->header, st->header_bytes, err);
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
    if (!status) status = tensors ? open_tensors(st, fd, info.st_mtim, err) : check_sums(st, err);
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
    for (size_t i = 0; st->copy && i < st->parsed.count; i++) free(st->copy[i]);
    free(st->copy);
    pa_st_header_clear(&st->parsed);
    free(st->header);
    pa_mapping_close(&st->map);
    free(st->path);
    free(st);
}

size_t pa_st_count(const pa_st *st) {
    return st->parsed.count;
}

const pa_tensor *pa_st_at(const pa_st *st, size_t index) {
    return index < st->parsed.count ? &st->parsed.tensor[index] : NULL;
}

const pa_tensor *pa_st_find(const pa_st *st, const char *name) {
    for (size_t i = 0; i < st->parsed.count; i++)
        if (!strcmp(st->parsed.tensor[i].name, name)) return &st->parsed.tensor[i];
    return NULL;
}

const char *pa_st_meta(const pa_st *st, const char *key) {
    const cJSON *e = cJSON_GetObjectItemCaseSensitive(st->parsed.meta, key);
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
    return pa_error(err, PA_DATA, "%s: tensor \"%s\": expected %s %s, found %s %s", st->path, name,
                    pa_dtype_name(dtype), want, pa_dtype_name(t->dtype), have);
}
