// fuzz_safetensors.c: any bytes as a safetensors file: refused with a line of text, or every byte that is handed out
// can be read.
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "host/files/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint8_t read_byte;

static void open_bytes(const void *bytes, size_t size) {
    char path[32];
    pa_err err = {{0}};
    pa_st *st;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || write(fd, bytes, size) != (ssize_t)size) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    pa_status status = pa_st_open(&st, path, &err);
    close(fd);
    if (status != PA_OK) {
        if (status != PA_DATA || strncmp(err.text, path, strlen(path))) abort();
        return;
    }
    for (size_t i = 0; i < pa_st_count(st); i++) {
        const pa_tensor *t = pa_st_at(st, i);
        if ((uintptr_t)t->data % pa_dtype_size(t->dtype) || !pa_st_find(st, t->name)) abort();
        for (size_t b = 0; b < t->bytes; b++) read_byte = ((const uint8_t *)t->data)[b];
        if (pa_st_need(st, t->name, t->dtype, t->rank, t->shape, &t, &err)) abort();
        pa_st_need(st, t->name, PA_I64, 0, NULL, &t, &err);
    }
    pa_st_close(st);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    open_bytes(data, size);
    // Once more with the header's length put right, else hardly any input would get past it.
    const uint8_t *end = size > 8 ? memrchr(data + 8, '}', size - 8) : NULL;
    if (!end) return 0;
    uint8_t *copy = malloc(size);
    uint64_t length = (uint64_t)(end + 1 - data) - 8;
    if (!copy) abort();
    memcpy(copy, data, size);
    memcpy(copy, &length, 8);
    open_bytes(copy, size);
    free(copy);
    return 0;
}
