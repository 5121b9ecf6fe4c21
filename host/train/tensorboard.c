// tensorboard.c: scalars in TensorBoard's event files: TFRecord frames (u64 length, its masked CRC-32C, bytes, theirs)
// around protobuf Event {1: double wall_time, 2: int64 step, 5: Summary {1: Value {1: string tag, 2: float
// simple_value}}}, 3: string file_version, 7: SessionLog {1: enum status}.
#include "host/train/tensorboard.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "host/base/checksum.h"
#include "host/base/file.h"

typedef struct {
    uint8_t byte[512];
    size_t count;
} message;

static void put(message *m, const void *bytes, size_t count) {
    if (m->count + count > sizeof m->byte) return; // a tag of 64 letters leaves room
    memcpy(m->byte + m->count, bytes, count);
    m->count += count;
}

static void put_varint(message *m, uint64_t v) {
    uint8_t b[10];
    size_t n = 0;
    for (; v > 127; v >>= 7) b[n++] = (uint8_t)(v | 128);
    b[n++] = (uint8_t)v;
    put(m, b, n);
}

// Wire types: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes.
static void put_bytes(message *m, int field, const void *bytes, size_t count) {
    put_varint(m, (uint64_t)field << 3 | 2);
    put_varint(m, count);
    put(m, bytes, count);
}

static uint32_t masked(const void *bytes, size_t count) {
    uint32_t crc = pa_crc32c(0, bytes, count);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static void put_event(FILE *f, int64_t step, int field, const void *bytes, size_t count) {
    message m = {.count = 0};
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    double wall = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    put_varint(&m, 1 << 3 | 1);
    put(&m, &wall, 8);
    put_varint(&m, 2 << 3 | 0);
    put_varint(&m, (uint64_t)step);
    put_bytes(&m, field, bytes, count);
    uint64_t length = m.count;
    uint32_t crc = masked(&length, 8), data_crc = masked(m.byte, m.count);
    fwrite(&length, 8, 1, f);
    fwrite(&crc, 4, 1, f);
    fwrite(m.byte, 1, m.count, f);
    fwrite(&data_crc, 4, 1, f);
    fflush(f);
}

FILE *pa_tensorboard_open(const char *folder, int64_t from, pa_err *err) {
    static const uint8_t start[] = {1 << 3 | 0, 1}; // SessionLog {1: START}
    char path[4096 + 128];
    FILE *f = NULL;
    for (int i = 0; !f && i < 100 && (!i || errno == EEXIST); i++) {
        snprintf(path, sizeof path, "%s/events.out.tfevents.%lld.patrain.%s-%d", folder, (long long)time(NULL),
                 pa_process_word(), i);
        f = fopen(path, "wbxe");
    }
    if (!f) {
        pa_error(err, PA_FAIL, "cannot write %s: %s", path, strerror(errno));
        return NULL;
    }
    put_event(f, 0, 3, "brain.Event:2", 13);
    put_event(f, from, 7, start, sizeof start);
    return f;
}

void pa_tensorboard_scalar(FILE *f, int64_t step, const char *tag, float value) {
    message v = {.count = 0}, summary = {.count = 0};
    put_bytes(&v, 1, tag, strlen(tag));
    put_varint(&v, 2 << 3 | 5);
    put(&v, &value, 4);
    put_bytes(&summary, 1, v.byte, v.count);
    put_event(f, step, 5, summary.byte, summary.count);
}
