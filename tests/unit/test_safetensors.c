// test_safetensors.c: a file that is damaged or made to do harm is refused with a line that says why. Files of our own
// are in test_safetensors_write.c.
#include "host/files/safetensors.h"
#include "tests/support/rows.h"
#include "tests/support/scratch.h"

#include <fcntl.h>

static pa_err err;

// ---- a file from its parts

static void put_file(uint64_t length, const char *header, size_t header_bytes, size_t data_bytes) {
    uint8_t *bytes = calloc(8 + header_bytes + data_bytes + 1, 1);
    assert_non_null(bytes);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, header_bytes);
    for (size_t i = 0; i < data_bytes; i++) bytes[8 + header_bytes + i] = (uint8_t)(i + 1);
    scratch_put_bytes("a", bytes, 8 + header_bytes + data_bytes);
    free(bytes);
}

static void put_header(const char *header, size_t data_bytes) {
    put_file(strlen(header), header, strlen(header), data_bytes);
}

static void expect_refused(pa_status status, const char *message) {
    char expected[sizeof err.text];
    pa_st *st = (pa_st *)&err;
    assert_int_equal(pa_st_open(&st, scratch("a"), &err), status);
    assert_null(st);
    snprintf(expected, sizeof expected, "%s: %s", scratch("a"), message);
    assert_string_equal(err.text, expected);
}

// Reads every byte that the file hands out, so that the sanitizers see them.
static unsigned sum_all(const pa_st *st) {
    unsigned sum = 0;
    for (size_t i = 0; i < pa_st_count(st); i++) {
        const pa_tensor *t = pa_st_at(st, i);
        assert_int_equal((uintptr_t)t->data % pa_dtype_size(t->dtype), 0);
        for (size_t b = 0; b < t->bytes; b++) sum += ((const uint8_t *)t->data)[b];
        sum += (unsigned)strlen(t->name);
    }
    return sum;
}

// ---- files that are refused

#define T(name, dtype, shape, offsets)                                                                                 \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" offsets "]}"

// clang-format off
static const struct {
    const char *header;
    size_t data;
    const char *message;
} bad_headers[] = {
    {"", 0, "expected a safetensors file, found one that begins with \"\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\""},
    {" {}", 0, "expected a safetensors file, found one that begins with \"\\x03\\x00\\x00\\x00\\x00\\x00\\x00\\x00 {}\""},
    {"[]", 0, "expected a safetensors file, found one that begins with \"\\x02\\x00\\x00\\x00\\x00\\x00\\x00\\x00[]\""},
    {"{", 0, "expected a header in JSON, found an error at its byte 1"},
    {"{} x", 0, "expected a header in JSON, found an error at its byte 3"},
    {"{\"a\":}", 0, "expected a header in JSON, found an error at its byte 5"},
    {"{\"a\xff\":1}", 0, "expected a header in UTF-8 without NUL, found another byte"},
    {"{\"a\\u0000b\":1}", 0, "expected a header in UTF-8 without NUL, found another byte"},
    {"{\"a\":1}", 0, "tensor \"a\": expected an object of dtype, shape and data_offsets, found none of 0"},
    {"{\"a\":[1,2,3]}", 0, "tensor \"a\": expected an object of dtype, shape and data_offsets, found none of 3"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "tensor \"a\": expected an object of dtype, shape and data_offsets, found one of 2"},
    {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "tensor \"a\": expected an object of dtype, shape and data_offsets, found one of 4"},
    {"{\"a\":{\"dtype\":\"U8\",\"SHAPE\":[1],\"data_offsets\":[0,1]}}", 1, "tensor \"a\": expected an object of dtype, shape and data_offsets, found one of 3"},
    {"{" T("a\\u001b[2J", "U9", "1", "0,1") "}", 1, "tensor \"a\\x1b[2J\": expected F32, F64, BF16, F16, U16, I32, I64 or U8, found U9"},
    {"{" T("a", "f32", "1", "0,4") "}", 4, "tensor \"a\": expected F32, F64, BF16, F16, U16, I32, I64 or U8, found f32"},
    {"{\"a\":{\"dtype\":5,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "tensor \"a\": expected a dtype in quotes, found something else"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]}}", 1, "tensor \"a\": expected a shape in brackets, found something else"},
    {"{" T("a", "U8", "-1", "0,1") "}", 1, "tensor \"a\": expected dimension 0 to be a whole number from 0 to 2^53 - 1, found another"},
    {"{" T("a", "U8", "1,1.5", "0,1") "}", 1, "tensor \"a\": expected dimension 1 to be a whole number from 0 to 2^53 - 1, found another"},
    {"{" T("a", "U8", "\"1\"", "0,1") "}", 1, "tensor \"a\": expected dimension 0 to be a whole number from 0 to 2^53 - 1, found another"},
    {"{" T("a", "U8", "9007199254740992,0", "0,0") "}", 0, "tensor \"a\": expected dimension 0 to be a whole number from 0 to 2^53 - 1, found another"},
    {"{" T("a", "U8", "1e400", "0,0") "}", 0, "tensor \"a\": expected dimension 0 to be a whole number from 0 to 2^53 - 1, found another"},
    {"{" T("a", "U8", "1,1,1,1,1,1,1,1,1", "0,1") "}", 1, "tensor \"a\": expected at most 8 dimensions, found 9"},
    {"{" T("a", "I64", "4294967296,4294967296", "0,0") "}", 0, "tensor \"a\": expected a shape of at most 2^64 - 1 bytes, found more with dimension 1"},
    {"{" T("a", "U8", "4294967296,4294967296", "0,0") "}", 0, "tensor \"a\": expected a shape of at most 2^64 - 1 bytes, found more with dimension 1"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":1}}", 1, "tensor \"a\": expected data_offsets of two whole numbers from 0 to 2^53 - 1, found something else"},
    {"{" T("a", "U8", "1", "0") "}", 1, "tensor \"a\": expected data_offsets of two whole numbers from 0 to 2^53 - 1, found something else"},
    {"{" T("a", "U8", "1", "0,1,2") "}", 1, "tensor \"a\": expected data_offsets of two whole numbers from 0 to 2^53 - 1, found something else"},
    {"{" T("a", "U8", "1", "-1,0") "}", 1, "tensor \"a\": expected data_offsets of two whole numbers from 0 to 2^53 - 1, found something else"},
    {"{" T("a", "U8", "1", "0,9007199254740993") "}", 1, "tensor \"a\": expected data_offsets of two whole numbers from 0 to 2^53 - 1, found something else"},
    {"{" T("a", "U8", "1", "1,0") "}", 1, "tensor \"a\": expected data_offsets in order within 0 to 1, found 1 to 0"},
    {"{" T("a", "U8", "2", "0,2") "}", 1, "tensor \"a\": expected data_offsets in order within 0 to 1, found 0 to 2; the file is cut short: expected 63 bytes, found 62"},
    {"{" T("a", "U8", "2", "0,2") "," T("b", "U8", "3", "2,5") "," T("c", "U8", "0", "2,2") ",\"d\":1}", 1, "tensor \"a\": expected data_offsets in order within 0 to 1, found 0 to 2; the file is cut short: expected 176 bytes, found 172"},
    {"{" T("a", "U8", "2", "0,1") "}", 1, "tensor \"a\": expected 2 bytes of data for its shape and dtype, found 1"},
    {"{" T("a", "U8", "1", "0,2") "}", 2, "tensor \"a\": expected 1 bytes of data for its shape and dtype, found 2"},
    {"{" T("a", "F32", "1", "0,2") "}", 2, "tensor \"a\": expected 4 bytes of data for its shape and dtype, found 2"},
    {"{" T("a", "U8", "", "0,0") "}", 0, "tensor \"a\": expected 1 bytes of data for its shape and dtype, found 0"},
    {"{" T("a", "U8", "2", "0,2") "," T("b", "U8", "2", "1,3") "}", 3, "tensor \"b\": expected its data at byte 2, found it at 1 (an overlap)"},
    {"{" T("a", "U8", "2", "0,2") "," T("b", "U8", "2", "0,2") "}", 2, "tensor \"b\": expected its data at byte 2, found it at 0 (an overlap)"},
    {"{" T("a", "U8", "2", "0,2") "," T("b", "U8", "0", "1,1") "}", 2, "tensor \"b\": expected its data at byte 2, found it at 1 (an overlap)"},
    {"{" T("a", "U8", "2", "0,2") "," T("b", "U8", "2", "3,5") "}", 5, "tensor \"b\": expected its data at byte 2, found it at 3 (a gap)"},
    {"{" T("a", "U8", "2", "1,3") "}", 3, "tensor \"a\": expected its data at byte 0, found it at 1 (a gap)"},
    {"{" T("a", "U8", "2", "0,2") "}", 3, "expected 2 bytes of data, found 3"},
    {"{}", 1, "expected 0 bytes of data, found 1"},
    {"{" T("a", "U8", "1", "0,1") "," T("a", "U8", "1", "1,2") "}", 2, "expected each name once, found \"a\" twice"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "expected each name once, found \"__metadata__\" twice"},
    {"{\"__metadata__\":[]}", 0, "expected __metadata__ to be an object, found something else"},
    {"{\"__metadata__\":{\"k\":1}}", 0, "metadata \"k\": expected text in quotes, found something else"},
    {"{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0, "expected each name once, found \"k\" twice"},
    {"{\"__metadata__\":{\"crc32c\":\"0000000\"}}", 0, "metadata \"crc32c\": expected 8 hexadecimal digits, found \"0000000\""},
    {"{\"__metadata__\":{\"crc32c\":\"0x000000\"}}", 0, "metadata \"crc32c\": expected 8 hexadecimal digits, found \"0x000000\""},
    {"{\"__metadata__\":{\"header_crc32c\":\"00000000\"}}", 0, "expected a header with CRC-32C 00000000, found 4cd142bb: the file is damaged"},
    {"{\"__metadata__\":{\"header_crc32c\":\"0\"}}", 0, "expected a header with CRC-32C 0, found 00000000: the file is damaged"},
    {"{\"__metadata__\":{\"header_crc32c\": \"00000000\"}}", 0, "expected a header with CRC-32C 00000000, found 00000000: the file is damaged"},
    {"{\"__metadata__\":{\"crc32c\":\"00000001\"}}", 0, "expected data with CRC-32C 00000001, found 00000000: the file is damaged"},
};
// clang-format on

static void bad_header_is_refused_with_its_reason(void **state) {
    (void)state;
    EACH_ROW (i, bad_headers, bad_headers[i].message) {
        put_header(bad_headers[i].header, bad_headers[i].data);
        expect_refused(PA_DATA, bad_headers[i].message);
    }
}

static void bad_size_is_refused(void **state) {
    (void)state;
    char message[128];
    for (int n = 0; n < 8; n++) {
        scratch_put_bytes("a", "\0\0\0\0\0\0\0", (size_t)n);
        snprintf(message, sizeof message, "expected a safetensors file of at least 8 bytes, found %d", n);
        expect_refused(PA_DATA, message);
    }
    put_file(3, "{}", 2, 0);
    expect_refused(PA_DATA, "expected a header of 3 bytes, found 2: the file is cut short");
    put_file(100000000, "{}", 2, 0);
    expect_refused(PA_DATA, "expected a header of 100000000 bytes, found 2: the file is cut short");
    put_file(100000000, "", 0, 0);
    expect_refused(PA_DATA, "expected a header of 100000000 bytes, found 0: the file is cut short");
    put_file(100000001, "{}", 2, 0);
    expect_refused(PA_DATA, "expected a header of at most 100000000 bytes, found 100000001");
    put_file(UINT64_MAX, "{}", 2, 0);
    expect_refused(PA_DATA, "expected a header of at most 100000000 bytes, found 18446744073709551615");
    put_file(3, "{}\0", 3, 0);
    expect_refused(PA_DATA, "expected a header in UTF-8 without NUL, found another byte");
}

static void another_format_is_refused_with_its_first_bytes(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t count;
        const char *shown;
    } other[] = {
        {"MThd\0\0\0\6\0\1\0\2\1\xe0MTrk\0\0", 20, "MThd\\x00\\x00\\x00\\x06\\x00\\x01\\x00\\x02\\x01\\xe0MT"},
        {"MThd\0\0\0\6", 8, "MThd\\x00\\x00\\x00\\x06"},
        {"MThd\0\0\0\6\0", 9, "MThd\\x00\\x00\\x00\\x06\\x00"},
        {"[model]\ndim = 8\n", 16, "[model]\\x0adim = 8\\x0a"},
        {"\"\\\x1b[2J\x7f\xc3\xa9%n{", 11, "\\x22\\x5c\\x1b[2J\\x7f\\xc3\\xa9%n"},
        {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 17,
         "\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff"},
        {"\3\0\0\0\0\0\0\0[]", 10, "\\x03\\x00\\x00\\x00\\x00\\x00\\x00\\x00[]"},
        {"\0\0\0\0\0\0\0\0{}", 10, "\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00{}"},
    };
    EACH_ROW (i, other, other[i].shown) {
        char message[256];
        scratch_put_bytes("a", other[i].bytes, other[i].count);
        snprintf(message, sizeof message, "expected a safetensors file, found one that begins with \"%s\"",
                 other[i].shown);
        expect_refused(PA_DATA, message);
    }
}

static void deep_nesting_is_refused(void **state) {
    (void)state;
    enum { DEPTH = 1000000 };
    char *header = malloc(DEPTH + 6);
    memcpy(header, "{\"a\":", 5);
    memset(header + 5, '[', DEPTH);
    header[DEPTH + 5] = 0;
    put_header(header, 0);
    free(header);
    pa_st *st;
    assert_int_equal(pa_st_open(&st, scratch("a"), &err), PA_DATA);
    assert_non_null(strstr(err.text, ": expected a header in JSON, found an error at its byte "));
}

// `before`, `count` times `sign`, `after`; free it.
static char *repeat(const char *before, char sign, size_t count, const char *after) {
    size_t first = strlen(before), last = strlen(after);
    char *text = malloc(first + count + last + 1);
    memcpy(text, before, first);
    memset(text + first, sign, count);
    memcpy(text + first + count, after, last + 1);
    return text;
}

// Each takes a hundred times the memory of its two bytes.
static void many_values_are_refused(void **state) {
    (void)state;
    enum { MOST = 1 << 20, AROUND = 4 }; // values beside the zeros: the header, the list, two of a metadata entry
    static const struct {
        size_t zeros;
        const char *message;
    } row[] = {
        {MOST - AROUND, "tensor \"a\": expected an object of dtype, shape and data_offsets, found none of 1048572"},
        {MOST - AROUND + 1, "expected a header of at most 1048576 values, found 1048577"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char *header = repeat("{\"__metadata__\":{\"k\":\"\\\"[,{\"},\"a\":[0", ' ', 2 * (row[i].zeros - 1), "]}");
        for (char *at = strchr(header, ' '); *at == ' '; at += 2) memcpy(at, ",0", 2);
        put_header(header, 0);
        free(header);
        expect_refused(PA_DATA, row[i].message);
    }
    char *header = repeat("{\"__metadata__\":{\"k\":\"", ',', MOST + 1, "\"}}"); // signs of a text are no values
    put_header(header, 0);
    free(header);
    pa_st *st;
    assert_int_equal(pa_st_open(&st, scratch("a"), &err), PA_OK);
    pa_st_close(st);
}

static void what_is_no_file_is_refused(void **state) {
    (void)state;
    char missing[sizeof err.text];
    pa_st *st = NULL;
    snprintf(missing, sizeof missing, "cannot open %s: No such file or directory", scratch("a"));
    assert_int_equal(pa_st_open(&st, scratch("a"), &err), PA_FAIL);
    assert_string_equal(err.text, missing);
    assert_int_equal(mkdir(scratch("a"), 0777), 0);
    expect_refused(PA_DATA, "expected a safetensors file, found a folder");
    assert_int_equal(rmdir(scratch("a")), 0);
    assert_int_equal(mkfifo(scratch("a"), 0666), 0);
    expect_refused(PA_DATA, "expected a safetensors file, found a pipe, socket or device");
    assert_int_equal(pa_st_open(&st, "/dev/null", &err), PA_DATA);
    assert_string_equal(err.text, "/dev/null: expected a safetensors file, found a pipe, socket or device");
}

// ---- files that are accepted

static void unusual_but_valid_files_are_read(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t data, count;
    } good[] = {
        {"{}", 0, 0},
        {"{}   ", 0, 0},
        {"{\"__metadata__\":{}}", 0, 0},
        {"{" T("", "U8", "1", "0,1") "}", 1, 1},
        {"{" T("scalar", "F32", "", "0,4") "}", 4, 1},
        {"{" T("empty", "F32", "3,0,5", "0,0") "}", 0, 1},
        {"{" T("a", "U8", "2", "0,2") "," T("e", "U8", "0", "2,2") "," T("f", "U8", "0", "0,0") "}", 2, 3},
        {"{" T("b", "U8", "2", "1,3") "," T("a", "U8", "1", "0,1") "}", 3, 2}, // not in the order of the data
        {"{" T("a", "U8", "1,1,1,1,1,1,1,1", "0,1") "}", 1, 1},
        {"{" T("b\\\\u0000", "U8", "1", "0,1") "}", 1, 1}, // a backslash, not an escape
    };
    EACH_ROW (i, good, good[i].header) {
        pa_st *st;
        put_header(good[i].header, good[i].data);
        assert_int_equal(pa_st_open(&st, scratch("a"), &err), PA_OK);
        assert_int_equal(pa_st_count(st), good[i].count);
        assert_null(pa_st_at(st, good[i].count));
        sum_all(st);
        pa_st_close(st);
    }
    pa_st_close(NULL);
}

static void misaligned_data_is_handed_out_aligned(void **state) {
    (void)state; // each data section begins at another byte, and the tensor at another byte of it
    for (int pad = 0; pad < 9; pad++) {
        char header[256];
        pa_st *st;
        snprintf(header, sizeof header,
                 "{" T("a", "U8", "3", "0,3") "," T("b", "F64", "2", "3,19") "," T("c", "U16", "1", "19,21") "}%*s",
                 pad, "");
        put_header(header, 21);
        assert_int_equal(pa_st_open(&st, scratch("a"), &err), PA_OK);
        sum_all(st);
        const uint8_t *b = pa_st_find(st, "b")->data, *c = pa_st_find(st, "c")->data;
        for (int i = 0; i < 16; i++) assert_int_equal(b[i], i + 4);
        assert_int_equal(c[0], 20);
        pa_st_close(st);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(bad_header_is_refused_with_its_reason),
        SCRATCH_TEST(bad_size_is_refused),
        SCRATCH_TEST(another_format_is_refused_with_its_first_bytes),
        SCRATCH_TEST(deep_nesting_is_refused),
        SCRATCH_TEST(many_values_are_refused),
        SCRATCH_TEST(what_is_no_file_is_refused),
        SCRATCH_TEST(unusual_but_valid_files_are_read),
        SCRATCH_TEST(misaligned_data_is_handed_out_aligned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
