// tensorboard.c: TensorBoard's event files: TFRecord frames (u64 length, its masked CRC-32C, bytes, theirs) around
// protobuf Event {1: double wall_time, 2: int64 step, 3: string file_version, 5: Summary {1: Value {1: string tag,
// 2: float simple_value, 4: Image, 6: Audio}}, 7: SessionLog {1: enum status}}. Image {1: int height, 2: int width,
// 3: int colorspace, 4: bytes}. Audio {1: float sample_rate, 2: int num_channels, 3: int length_frames, 4: bytes,
// 5: string content_type}.
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
static void put_number(message *m, int field, uint64_t v) {
    put_varint(m, (uint64_t)field << 3 | 0);
    put_varint(m, v);
}

static void put_float(message *m, int field, float v) {
    put_varint(m, (uint64_t)field << 3 | 5);
    put(m, &v, 4);
}

static void put_head(message *m, int field, size_t count) { // of `count` bytes
    put_varint(m, (uint64_t)field << 3 | 2);
    put_varint(m, count);
}

static void put_bytes(message *m, int field, const void *bytes, size_t count) {
    put_head(m, field, count);
    put(m, bytes, count);
}

static uint32_t masked(uint32_t crc) {
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

// A message that ends with bytes of its own, which are not copied: those of a picture or a sound.
typedef struct {
    message head;
    const void *rest;
    size_t count;
} long_message;

// Wraps it into field `field` of another, behind `before`, which may be NULL.
static void wrap(long_message *m, int field, const message *before) {
    message outer = before ? *before : (message){.count = 0};
    put_head(&outer, field, m->head.count + m->count);
    put(&outer, m->head.byte, m->head.count);
    m->head = outer;
}

static void put_event(FILE *f, int64_t step, int field, long_message *m) {
    message times = {.count = 0};
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    double wall = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    put_varint(&times, 1 << 3 | 1);
    put(&times, &wall, 8);
    put_number(&times, 2, (uint64_t)step);
    wrap(m, field, &times);
    uint64_t length = m->head.count + m->count;
    uint32_t crc = masked(pa_crc32c(0, &length, 8));
    uint32_t data_crc = pa_crc32c(0, m->head.byte, m->head.count);
    if (m->count) data_crc = pa_crc32c(data_crc, m->rest, m->count);
    data_crc = masked(data_crc);
    fwrite(&length, 8, 1, f);
    fwrite(&crc, 4, 1, f);
    fwrite(m->head.byte, 1, m->head.count, f);
    if (m->count) fwrite(m->rest, 1, m->count, f);
    fwrite(&data_crc, 4, 1, f);
    fflush(f);
}

static void put_short_event(FILE *f, int64_t step, int field, const void *bytes, size_t count) {
    long_message m = {.count = 0};
    put(&m.head, bytes, count);
    put_event(f, step, field, &m);
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
    put_short_event(f, 0, 3, "brain.Event:2", 13);
    put_short_event(f, from, 7, start, sizeof start);
    return f;
}

// m: a value's field `field`, or if that is 0 all but its tag.
static void put_value(FILE *f, int64_t step, const char *tag, int field, long_message *m) {
    message name = {.count = 0};
    put_bytes(&name, 1, tag, strlen(tag));
    if (field) {
        wrap(m, field, &name);
    } else {
        put(&name, m->head.byte, m->head.count);
        m->head = name;
    }
    wrap(m, 1, NULL);
    put_event(f, step, 5, m);
}

void pa_tensorboard_scalar(FILE *f, int64_t step, const char *tag, float value) {
    long_message m = {.count = 0};
    put_float(&m.head, 2, value);
    put_value(f, step, tag, 0, &m);
}

void pa_tensorboard_image(FILE *f, int64_t step, const char *tag, const pa_png *png) {
    enum { RGB = 3 };
    long_message m = {.rest = png->bytes, .count = png->count};
    put_number(&m.head, 1, (uint64_t)png->height);
    put_number(&m.head, 2, (uint64_t)png->width);
    put_number(&m.head, 3, RGB);
    put_head(&m.head, 4, png->count);
    put_value(f, step, tag, 4, &m);
}

void pa_tensorboard_audio(FILE *f, int64_t step, const char *tag, const pa_wav *wav) {
    long_message m = {.rest = wav->bytes, .count = wav->count};
    put_float(&m.head, 1, (float)wav->rate);
    put_number(&m.head, 2, 1); // channels
    put_number(&m.head, 3, (uint64_t)wav->frames);
    put_bytes(&m.head, 5, "audio/wav", 9);
    put_head(&m.head, 4, wav->count);
    put_value(f, step, tag, 6, &m);
}
