// test_safetensors_write.c: what is written reads back; what cannot be read back is not written; any damage to it is
// found.
#include "host/files/safetensors.h"
#include "host/files/safetensors_write.h"
#include "tests/support/rows.h"
#include "tests/support/scratch.h"

#include <fcntl.h>

static pa_err err;

static const uint16_t words[3] = {1, 2, 65535};
static const int64_t longs[2] = {INT64_MIN, INT64_MAX};
static const double doubles[1] = {1.0 / 3};
static const float floats[6] = {0, -0.0f, 1.5f, -2, 3e38f, 1e-40f};
static const uint8_t bytes[5] = {1, 2, 3, 4, 5};
static const int32_t ints[1] = {-7};
static const pa_tensor all[] = {
    {"words", PA_U16, 1, {3}, words, 6},
    {"longs", PA_I64, 1, {2}, longs, 16},
    {"bytes", PA_U8, 2, {5, 1}, bytes, 5},
    {"floats", PA_F32, 2, {2, 3}, floats, 24},
    {"quo\"te\n\xc3\xbc", PA_F64, 0, {0}, doubles, 8},
    {"ints", PA_I32, 1, {1}, ints, 4},
    {"half", PA_F16, 1, {3}, words, 6},
    {"brain", PA_BF16, 1, {1}, words, 2},
    {"none", PA_F32, 2, {0, 7}, NULL, 0},
};
enum { ALL = sizeof all / sizeof *all };
static const pa_meta meta[] = {{"format", "pt"}, {"names", "[\"Für Elise\\n\", \"\"]\n"}, {"", ""}};

static void put_all(void) {
    assert_int_equal(pa_st_write(scratch("a"), all, ALL, meta, 3, &err), PA_OK);
}

static void expect_all(const pa_st *st) {
    assert_int_equal(pa_st_count(st), ALL);
    for (int i = 0; i < ALL; i++) {
        const pa_tensor *t = pa_st_find(st, all[i].name);
        assert_true(t && t->dtype == all[i].dtype && t->rank == all[i].rank && t->bytes == all[i].bytes);
        for (int d = 0; d < t->rank; d++) assert_int_equal(t->shape[d], all[i].shape[d]);
        if (t->bytes) assert_memory_equal(t->data, all[i].data, t->bytes);
    }
    for (int i = 0; i < 3; i++) assert_string_equal(pa_st_meta(st, meta[i].key), meta[i].value);
}

static void what_is_written_reads_back(void **state) {
    (void)state;
    pa_st *st;
    put_all();
    assert_int_equal(scratch_entries(), 1);
    assert_int_equal(pa_st_open(&st, scratch("a"), &err), PA_OK);
    assert_int_equal(pa_st_count(st), ALL);
    assert_string_equal(pa_st_path(st), scratch("a"));
    expect_all(st);
    assert_int_equal(strlen(pa_st_meta(st, "crc32c")), 8);
    assert_int_equal(strtoul(pa_st_meta(st, "crc32c"), NULL, 16), pa_st_crc(st));
    assert_null(pa_st_meta(st, "FORMAT"));
    assert_null(pa_st_find(st, "Words"));
    pa_st_close(st);
}

static void data_is_aligned_and_widest_first(void **state) {
    (void)state;
    char *text;
    size_t length;
    uint64_t header;
    pa_st *st;
    put_all();
    assert_int_equal(pa_read_text(scratch("a"), &text, &length, &err), PA_OK);
    memcpy(&header, text, 8);
    free(text);
    assert_int_equal((8 + header) % 64, 0);
    assert_int_equal(pa_st_open(&st, scratch("a"), &err), PA_OK);
    assert_string_equal(pa_st_at(st, 0)->name, "longs"); // of equals, in the order given
    assert_string_equal(pa_st_at(st, 1)->name, "quo\"te\n\xc3\xbc");
    for (size_t i = 0, at = 0; i < ALL; at += pa_st_at(st, i++)->bytes)
        assert_int_equal(at % pa_dtype_size(pa_st_at(st, i)->dtype), 0);
    pa_st_close(st);
}

static void what_cannot_be_read_back_is_not_written(void **state) {
    (void)state;
    char expected[2 * SCRATCH_PATH];
    const struct {
        pa_tensor t[2];
        size_t count;
        const char *message;
    } bad[] = {
        {{{"a", PA_U8, 1, {3}, bytes, 2}}, 1, "tensor \"a\": expected 3 bytes for its shape, found 2"},
        {{{"", PA_U8, 1, {3}, bytes, 3}}, 1, "expected a tensor's name in UTF-8, used once, found \"\""},
        {{{"__metadata__", PA_U8, 1, {3}, bytes, 3}},
         1,
         "expected a tensor's name in UTF-8, used once, found \"__metadata__\""},
        {{{"a\xff", PA_U8, 1, {3}, bytes, 3}}, 1, "expected a tensor's name in UTF-8, used once, found \"a\\xff\""},
        {{{"a", PA_U8, 1, {3}, bytes, 3}, {"a", PA_F32, 1, {6}, floats, 24}},
         2,
         "expected a tensor's name in UTF-8, used once, found \"a\""},
    };
    const pa_meta bad_meta[][2] = {{{"k", "1"}, {"k", "2"}},
                                   {{"x", "y"}, {"k", "\xff"}},
                                   {{"x", "y"}, {"crc32c", "00000000"}},
                                   {{"x", "y"}, {"header_crc32c", "00000000"}}};
    scratch_put("a", "old");
    EACH_ROW (i, bad, bad[i].message) {
        assert_int_equal(pa_st_write(scratch("a"), bad[i].t, bad[i].count, NULL, 0, &err), PA_FAIL);
        snprintf(expected, sizeof expected, "%s: %s", scratch("a"), bad[i].message);
        assert_string_equal(err.text, expected);
    }
    EACH_ROW (i, bad_meta, bad_meta[i][1].key) {
        assert_int_equal(pa_st_write(scratch("a"), all, 1, bad_meta[i], 2, &err), PA_FAIL);
        snprintf(expected, sizeof expected, "%s: metadata \"%s\": expected UTF-8, and each key once", scratch("a"),
                 bad_meta[i][1].key);
        assert_string_equal(err.text, expected);
    }
    assert_int_equal(pa_st_write("/proc/a", all, ALL, NULL, 0, &err), PA_FAIL);
    scratch_expect("a", "old");
    assert_int_equal(scratch_entries(), 1);
}

static void full_disk_names_path_and_bytes(void **state) {
    (void)state;
    char expected[2 * SCRATCH_PATH];
    struct stat info;
    put_all();
    assert_int_equal(stat(scratch("a"), &info), 0);
    scratch_put("a", "old");
    for (size_t room = 1; room < (size_t)info.st_size; room += 37) {
        scratch_limit(room);
        assert_int_equal(pa_st_write(scratch("a"), all, ALL, meta, 3, &err), PA_FAIL);
        scratch_limit(0);
        snprintf(expected, sizeof expected, "cannot write %s, %lld bytes: File too large", scratch("a"),
                 (long long)info.st_size);
        assert_string_equal(err.text, expected);
        scratch_expect("a", "old");
        assert_int_equal(scratch_entries(), 1);
    }
    scratch_limit((size_t)info.st_size);
    put_all();
}

// Every length short of the whole is refused and called so. Every damaged byte is refused but for the letters of
// "header_crc32c": then the header's sum is not looked for, and all that the file says is what it said before.
static void damage_anywhere_is_refused_or_harmless(void **state) {
    (void)state;
    char *text, cut[128];
    size_t length, accepted = 0;
    uint64_t header;
    pa_st *st;
    put_all();
    assert_int_equal(pa_read_text(scratch("a"), &text, &length, &err), PA_OK);
    size_t name = (size_t)(strstr(text + 8, "header_crc32c") - text);
    memcpy(&header, text, 8);
    int fd = open(scratch("a"), O_WRONLY);
    for (size_t n = length; n-- > 0;) {
        assert_int_equal(ftruncate(fd, (off_t)n), 0);
        assert_int_equal(pa_st_open(&st, scratch("a"), &err), PA_DATA);
        if (n >= 8 + header)
            snprintf(cut, sizeof cut, "; the file is cut short: expected %zu bytes, found %zu", length, n);
        else if (n >= 8)
            snprintf(cut, sizeof cut, ": expected a header of %zu bytes, found %zu: the file is cut short",
                     (size_t)header, n - 8);
        else
            snprintf(cut, sizeof cut, ": expected a safetensors file of at least 8 bytes, found %zu", n);
        assert_non_null(strstr(err.text, cut));
    }
    assert_int_equal(pwrite(fd, text, length, 0), length);
    for (size_t i = 0; i < length; i++) {
        for (int change = 1; change < 256; change++) {
            char damaged = (char)(text[i] ^ change);
            assert_int_equal(pwrite(fd, &damaged, 1, (off_t)i), 1);
            pa_status s = pa_st_open(&st, scratch("a"), &err);
            if (!s) expect_all(st);
            pa_st_close(st);
            assert_true(s == PA_DATA || (s == PA_OK && i >= name && i < name + strlen("header_crc32c")));
            accepted += s == PA_OK;
        }
        assert_int_equal(pwrite(fd, &text[i], 1, (off_t)i), 1);
    }
    close(fd);
    assert_true(accepted > 0);
    free(text);
}

static void needed_tensor_is_checked(void **state) {
    (void)state;
    const pa_tensor *t;
    pa_st *st;
    char expected[2 * SCRATCH_PATH];
    static const int64_t exact[] = {2, 3}, any[] = {-1, 3}, other[] = {2, 4}, longer[] = {2, 3, -1};
    put_all();
    assert_int_equal(pa_st_open(&st, scratch("a"), &err), PA_OK);
    assert_int_equal(pa_st_need(st, "floats", PA_F32, 2, exact, &t, &err), PA_OK);
    assert_memory_equal(t->data, floats, sizeof floats);
    assert_int_equal(pa_st_need(st, "floats", PA_F32, 2, any, &t, &err), PA_OK);
    assert_int_equal(pa_st_need(st, "floats", PA_F32, -1, NULL, &t, &err), PA_OK);
    const struct {
        const char *name, *message;
        pa_dtype dtype;
        int rank;
        const int64_t *shape;
    } bad[] = {
        {"floats", "tensor \"floats\": expected F32 (2, 4), found F32 (2, 3)", PA_F32, 2, other},
        {"floats", "tensor \"floats\": expected F32 (2, 3, any), found F32 (2, 3)", PA_F32, 3, longer},
        {"floats", "tensor \"floats\": expected F64 (any, 3), found F32 (2, 3)", PA_F64, 2, any},
        {"floats", "tensor \"floats\": expected F16 of any shape, found F32 (2, 3)", PA_F16, -1, NULL},
        {"floats", "tensor \"floats\": expected F32 (), found F32 (2, 3)", PA_F32, 0, NULL},
        {"float", "expected a tensor \"float\", found none of that name", PA_F32, 2, exact},
    };
    EACH_ROW (i, bad, bad[i].message) {
        assert_int_equal(pa_st_need(st, bad[i].name, bad[i].dtype, bad[i].rank, bad[i].shape, &t, &err), PA_DATA);
        snprintf(expected, sizeof expected, "%s: %s", scratch("a"), bad[i].message);
        assert_string_equal(err.text, expected);
    }
    pa_st_close(st);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(what_is_written_reads_back),
        SCRATCH_TEST(data_is_aligned_and_widest_first),
        SCRATCH_TEST(what_cannot_be_read_back_is_not_written),
        SCRATCH_TEST(full_disk_names_path_and_bytes),
        SCRATCH_TEST(damage_anywhere_is_refused_or_harmless),
        SCRATCH_TEST(needed_tensor_is_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
