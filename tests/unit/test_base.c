// test_base.c: what every part stands on: checksums, memory, and above all that no output file is ever left
// half-written.
#include "cuda/half.h"
#include "host/base/base.h"
#include "host/base/checksum.h"
#include "host/base/format.h"
#include "host/base/progress.h"
#include "host/ranks/comm.h"
#include "tests/support/rows.h"
#include "tests/support/scratch.h"

#include <fcntl.h>

static pa_err err;

static void crc_matches_published_values(void **state) {
    (void)state; // RFC 3720, B.4
    uint8_t bytes[32];
    assert_int_equal(pa_crc32c(0, "123456789", 9), 0xe3069283);
    memset(bytes, 0, sizeof bytes);
    assert_int_equal(pa_crc32c(0, bytes, sizeof bytes), 0x8a9136aa);
    memset(bytes, 0xff, sizeof bytes);
    assert_int_equal(pa_crc32c(0, bytes, sizeof bytes), 0x62a8ab43);
    for (int i = 0; i < 32; i++) bytes[i] = (uint8_t)i;
    assert_int_equal(pa_crc32c(0, bytes, sizeof bytes), 0x46dd794e);
    assert_int_equal(pa_crc32c(0, NULL, 0), 0);
}

// Every fp16 number is itself again, larger floats are in order, and between two neighbours the nearer is taken, or the
// even one.
static void fp16_rounds_to_the_nearest(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x7c00; h++) {
        float x = cuda_half_to_float((uint16_t)h), next = h == 0x7bff ? 65536 : cuda_half_to_float((uint16_t)(h + 1));
        assert_true(x == ldexpf((float)(h < 0x400 ? h : 0x400 | (h & 0x3ff)), h < 0x400 ? -24 : (int)(h >> 10) - 25));
        float middle = x + (next - x) / 2;
        for (uint32_t sign = 0; sign <= 0x8000; sign += 0x8000) {
            float one = sign ? -1 : 1;
            assert_int_equal(cuda_half_from_float(one * x), sign | h);
            assert_int_equal(cuda_half_from_float(one * nextafterf(middle, 0)), sign | h);
            assert_int_equal(cuda_half_from_float(one * middle), sign | (h + (h & 1)));
            assert_int_equal(cuda_half_from_float(one * nextafterf(middle, INFINITY)), sign | (h + 1));
            assert_true(cuda_half_to_float((uint16_t)(sign | h)) == one * x);
        }
    }
    assert_int_equal(cuda_half_from_float(INFINITY), 0x7c00);
    assert_int_equal(cuda_half_from_float(-INFINITY), 0xfc00);
    assert_true(cuda_half_to_float(0xfc00) == -INFINITY);
    assert_true(isnan(cuda_half_to_float(0x7e01)) && (cuda_half_from_float(NAN) & 0x7fff) > 0x7c00);
}

// The same of bf16, whose neighbours are as far apart as a float's exponent says.
static void bf16_rounds_to_the_nearest(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x7f80; h++) {
        float x = cuda_bf16_to_float((uint16_t)h), middle;
        uint32_t bits = h << 16 | 0x8000;
        memcpy(&middle, &bits, 4);
        for (uint32_t sign = 0; sign <= 0x8000; sign += 0x8000) {
            float one = sign ? -1 : 1;
            assert_int_equal(cuda_bf16_from_float(one * x), sign | h);
            assert_int_equal(cuda_bf16_from_float(one * nextafterf(middle, 0)), sign | h);
            assert_int_equal(cuda_bf16_from_float(one * middle), sign | (h + (h & 1)));
            assert_int_equal(cuda_bf16_from_float(one * nextafterf(middle, INFINITY)), sign | (h + 1));
        }
    }
    assert_int_equal(cuda_bf16_from_float(-INFINITY), 0xff80);
    assert_true(isnan(cuda_bf16_to_float(0x7fc0)) && (cuda_bf16_from_float(NAN) & 0x7fff) > 0x7f80);
}

static void crc_by_instruction_equals_crc_by_table(void **state) {
    (void)state;
    uint8_t bytes[300];
    for (int i = 0; i < 300; i++) bytes[i] = (uint8_t)(i * i * 7 + i);
    for (size_t offset = 0; offset < 9; offset++)
        for (size_t n = 0; n < 280; n++)
            assert_int_equal(pa_crc32c(5, bytes + offset, n), pa_crc32c_plain(5, bytes + offset, n));
}

static void crc_in_pieces_equals_crc_of_the_whole(void **state) {
    (void)state;
    uint8_t bytes[100];
    for (int i = 0; i < 100; i++) bytes[i] = (uint8_t)(i * 31);
    for (size_t cut = 0; cut <= 100; cut++)
        assert_int_equal(pa_crc32c(pa_crc32c(0, bytes, cut), bytes + cut, 100 - cut), pa_crc32c(0, bytes, 100));
}

static void error_text_may_quote_itself_and_is_cut_to_fit(void **state) {
    (void)state;
    char endless[2000];
    assert_int_equal(pa_error(&err, PA_DATA, "line %d", 5), PA_DATA);
    assert_int_equal(pa_error(&err, PA_USAGE, "file: %s", err.text), PA_USAGE);
    assert_string_equal(err.text, "file: line 5");
    assert_int_equal(pa_error(NULL, PA_FAIL, "unheard"), PA_FAIL);
    memset(endless, 'x', sizeof endless - 1);
    endless[sizeof endless - 1] = 0;
    pa_error(&err, PA_FAIL, "%s", endless);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
}

static void memory_is_aligned_and_zeroed(void **state) {
    (void)state;
    for (size_t n = 0; n < 200; n += 13) {
        uint8_t *p = pa_alloc(n);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (size_t i = 0; i < n; i++) assert_int_equal(p[i], 0);
        free(p);
    }
    assert_null(pa_alloc(SIZE_MAX));
    assert_null(pa_alloc(SIZE_MAX - 63));
}

static void products_that_overflow_are_refused(void **state) {
    (void)state;
    size_t product = 0;
    assert_true(pa_mul_size(6, 7, &product));
    assert_int_equal(product, 42);
    assert_true(pa_mul_size(SIZE_MAX, 1, &product));
    assert_true(pa_mul_size(SIZE_MAX, 0, &product));
    assert_false(pa_mul_size(SIZE_MAX / 2 + 1, 2, &product));
    assert_false(pa_mul_size((size_t)1 << 32, (size_t)1 << 32, &product));
}

static void one_number_that_is_not_finite_is_found(void **state) {
    (void)state;
    const float good[] = {0, -0.0F, 3.4028235e38F, -3.4028235e38F, 1e-45F}, bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    float x[67];
    assert_true(pa_all_finite(NULL, 0));
    for (size_t i = 0; i < 67; i++) x[i] = good[i % 5];
    assert_true(pa_all_finite(x, 67));
    for (size_t i = 0; i < 67; i++) {
        float was = x[i];
        x[i] = bad[i % 4];
        assert_false(pa_all_finite(x, 67));
        assert_true(pa_all_finite(x, i));
        x[i] = was;
    }
}

static void utf8_is_told_from_other_bytes(void **state) {
    (void)state;
    static const char *const good[] = {"",
                                       "abc",
                                       "\x7f",
                                       "\xc2\x80",
                                       "\xdf\xbf",
                                       "\xe0\xa0\x80",
                                       "\xed\x9f\xbf",
                                       "\xee\x80\x80",
                                       "\xf0\x90\x80\x80",
                                       "\xf4\x8f\xbf\xbf",
                                       "Für Elise"};
    static const char *const bad[] = {"\x80",
                                      "\xbf",
                                      "\xc0\x80",
                                      "\xc1\xbf",
                                      "\xc2",
                                      "\xc2\x41",
                                      "\xe0\x9f\xbf",
                                      "\xed\xa0\x80",
                                      "\xe1\x80",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xff",
                                      "a\xe1\x80\x41"};
    EACH_ROW (i, good, good[i]) assert_true(pa_is_utf8(good[i], strlen(good[i])));
    EACH_ROW (i, bad, bad[i]) assert_false(pa_is_utf8(bad[i], strlen(bad[i])));
}

static void file_appears_whole_at_commit(void **state) {
    (void)state;
    pa_file f;
    scratch_put("a", "old");
    assert_int_equal(pa_file_create(&f, scratch("a"), &err), PA_OK);
    assert_true(fputs("new and longer", f.stream) >= 0);
    fflush(f.stream);
    scratch_expect("a", "old");
    assert_int_equal(scratch_entries(), 2);
    assert_int_equal(pa_file_commit(&f, &err), PA_OK);
    pa_file_abandon(&f);
    scratch_expect("a", "new and longer");
    assert_int_equal(scratch_entries(), 1);
}

static void abandoned_file_leaves_nothing(void **state) {
    (void)state;
    pa_file f;
    scratch_put("a", "old");
    assert_int_equal(pa_file_create(&f, scratch("a"), &err), PA_OK);
    fputs("half", f.stream);
    pa_file_abandon(&f);
    pa_file_abandon(&f);
    scratch_expect("a", "old");
    assert_int_equal(scratch_entries(), 1);
}

static void file_that_cannot_be_created_is_refused(void **state) {
    (void)state;
    pa_file f;
    char expected[3 * SCRATCH_PATH], folder[SCRATCH_PATH];
    scratch_put("file", "x");
    assert_int_equal(pa_file_create(&f, scratch("none/a"), &err), PA_FAIL);
    snprintf(folder, sizeof folder, "%s", scratch("none"));
    snprintf(expected, sizeof expected, "cannot create %s: folder %s: No such file or directory", scratch("none/a"),
             folder);
    assert_string_equal(err.text, expected);
    assert_int_equal(pa_file_create(&f, scratch("file/a"), &err), PA_FAIL);
    snprintf(folder, sizeof folder, "%s", scratch("file"));
    snprintf(expected, sizeof expected, "%s: expected %s to be a folder, found a file", scratch("file/a"), folder);
    assert_string_equal(err.text, expected);
    assert_int_equal(mkdir(scratch("folder"), 0777), 0);
    assert_int_equal(pa_file_create(&f, scratch("folder"), &err), PA_FAIL);
    snprintf(expected, sizeof expected, "%s: expected a file or nothing here, found a folder", scratch("folder"));
    assert_string_equal(err.text, expected);
    assert_int_equal(pa_file_create(&f, "/dev/null", &err), PA_FAIL);
    assert_string_equal(err.text, "/dev/null: expected a file or nothing here, found a device");
    assert_int_equal(pa_file_create(&f, "", &err), PA_FAIL);
    assert_string_equal(err.text, "output: expected a path, found an empty name");
    assert_int_equal(pa_file_create(&f, "/proc/a", &err), PA_FAIL); // where nobody, not even root, may create files
    assert_non_null(strstr(err.text, "cannot create /proc/a: "));
    pa_file_abandon(&f); // after a refusal: nothing
    assert_int_equal(scratch_entries(), 2);
}

static void full_disk_is_found_and_leaves_the_old_file(void **state) {
    (void)state;
    static const size_t sizes[] = {
        1000, 100000}; // found at the flush; found by a write before it, whose errno is gone by then
    static const char *const found[] = {"File too large", "an earlier write failed (a full disk?)"};
    char expected[2 * SCRATCH_PATH], block[1000] = {0};
    for (int i = 0; i < 2; i++) {
        pa_file f;
        scratch_put("a", "old");
        scratch_limit(500);
        assert_int_equal(pa_file_create(&f, scratch("a"), &err), PA_OK);
        for (size_t n = 0; n < sizes[i]; n += sizeof block) fwrite(block, 1, sizeof block, f.stream);
        assert_int_equal(pa_file_commit(&f, &err), PA_FAIL);
        scratch_limit(0);
        snprintf(expected, sizeof expected, "cannot write %s: %s", scratch("a"), found[i]);
        assert_string_equal(err.text, expected);
        scratch_expect("a", "old");
        assert_int_equal(scratch_entries(), 1);
    }
}

static void early_write_error_is_remembered_until_commit(void **state) {
    (void)state;
    pa_file f;
    assert_int_equal(pa_file_create(&f, scratch("a"), &err), PA_OK);
    scratch_limit(4);
    fputs("too long", f.stream);
    assert_int_equal(fflush(f.stream), EOF);
    scratch_limit(0);
    assert_int_equal(pa_file_commit(&f, &err), PA_FAIL);
    assert_int_equal(scratch_entries(), 0);
}

static void folders_are_made_and_files_in_the_way_refused(void **state) {
    (void)state;
    char expected[2 * SCRATCH_PATH];
    struct stat info;
    assert_int_equal(pa_make_dirs(scratch("a/b//c/"), &err), PA_OK);
    assert_int_equal(pa_make_dirs(scratch("a/b/c"), &err), PA_OK);
    assert_int_equal(stat(scratch("a/b/c"), &info), 0);
    assert_true(S_ISDIR(info.st_mode));
    scratch_put("a/file", "x");
    assert_int_equal(pa_make_dirs(scratch("a/file/d"), &err), PA_FAIL);
    snprintf(expected, sizeof expected, "%s: expected a folder, found a file", scratch("a/file"));
    assert_string_equal(err.text, expected);
    assert_int_equal(pa_make_dirs("/proc/none/x", &err), PA_FAIL);
    assert_non_null(strstr(err.text, "cannot create folder /proc/none: "));
    assert_int_equal(pa_make_dirs("", &err), PA_USAGE);
    assert_int_equal(pa_sync_dir(scratch("a"), &err), PA_OK);
    assert_int_equal(pa_sync_dir(scratch("none"), &err), PA_FAIL);
}

static void tree_is_removed_without_following_links(void **state) {
    (void)state;
    assert_int_equal(pa_make_dirs(scratch("outside"), &err), PA_OK);
    scratch_put("outside/precious", "x");
    assert_int_equal(pa_make_dirs(scratch("tree/a/b"), &err), PA_OK);
    scratch_put("tree/a/file", "x");
    assert_int_equal(mkfifo(scratch("tree/pipe"), 0666), 0);
    assert_int_equal(symlink("../../outside", scratch("tree/a/link")), 0);
    assert_int_equal(symlink("/nowhere", scratch("tree/dangling")), 0);
    assert_int_equal(symlink("outside", scratch("link")), 0);
    assert_int_equal(pa_remove_tree(scratch("tree"), &err), PA_OK);
    assert_int_equal(pa_remove_tree(scratch("tree"), &err), PA_OK); // a missing path is fine
    assert_int_equal(pa_remove_tree(scratch("link/"), &err), PA_OK);
    scratch_expect("outside/precious", "x");
    assert_int_equal(scratch_entries(), 1);
    assert_int_equal(pa_remove_tree(scratch("outside/."), &err), PA_FAIL);
    assert_int_equal(pa_remove_tree("/", &err), PA_FAIL);
    assert_string_equal(err.text, "/: expected the name of a folder to remove, found none");
    assert_int_equal(pa_remove_tree(scratch("outside/.."), &err), PA_FAIL);
    scratch_expect("outside/precious", "x");
    assert_int_equal(pa_remove_tree(scratch("outside/precious"), &err), PA_OK); // a file too
    assert_int_equal(pa_remove_tree("/proc/self", &err), PA_FAIL);
}

static void text_is_read_whole(void **state) {
    (void)state;
    char *text, expected[2 * SCRATCH_PATH], *large = malloc(100001);
    size_t length;
    int ends[2];
    memset(large, 'y', 100000);
    large[100000] = 0;
    for (int n = 0; n <= 100000; n = n ? n * 10 : 1) {
        scratch_put("a", large + 100000 - n);
        assert_int_equal(pa_read_text(scratch("a"), &text, &length, &err), PA_OK);
        assert_int_equal(length, n);
        assert_string_equal(text, large + 100000 - n);
        free(text);
    }
    assert_int_equal(pa_read_text("/proc/self/status", &text, NULL, &err), PA_OK); // whose size reads 0
    assert_non_null(strstr(text, "Name:"));
    free(text);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], large, 30000), 30000); // whose size isn't known before
    close(ends[1]);
    char name[32];
    snprintf(name, sizeof name, "/proc/self/fd/%d", ends[0]);
    assert_int_equal(pa_read_text(name, &text, &length, &err), PA_OK);
    assert_int_equal(length, 30000);
    assert_memory_equal(text, large, 30000);
    free(large);
    free(text);
    close(ends[0]);
    assert_int_equal(pa_read_text(scratch("none"), &text, &length, &err), PA_FAIL);
    snprintf(expected, sizeof expected, "cannot open %s: No such file or directory", scratch("none"));
    assert_string_equal(err.text, expected);
    assert_int_equal(pa_read_text(scratch(""), &text, &length, &err), PA_FAIL);
    snprintf(expected, sizeof expected, "%s: expected a file, found a folder", scratch(""));
    assert_string_equal(err.text, expected);
}

// What `update` writes on stderr after `seconds` of work.
static void capture_progress(bool terminal, double seconds, double done, double total, char *out, size_t size) {
    int old = dup(STDERR_FILENO), fd = open(scratch("stderr"), O_RDWR | O_CREAT | O_TRUNC, 0666);
    pa_progress p;
    dup2(fd, STDERR_FILENO);
    pa_progress_start(&p, "Reading", "files", total);
    p.terminal = terminal;
    p.started -= seconds;
    pa_progress_update(&p, done);
    pa_progress_update(&p, done); // too soon to be shown again
    pa_progress_end(&p);
    dup2(old, STDERR_FILENO);
    close(old);
    ssize_t n = pread(fd, out, size - 1, 0);
    out[n > 0 ? n : 0] = 0;
    close(fd);
}

static void progress_is_shown_now_and_then(void **state) {
    (void)state;
    char out[1024];
    capture_progress(false, 9.0, 50, 100, out, sizeof out);
    assert_string_equal(out, "");
    capture_progress(false, 20, 50, 100, out, sizeof out);
    assert_string_equal(out, "Reading  50 %  50 of 100 files  2.50 files/s  0:20 left\n");
    capture_progress(false, 7200, 100, 200, out, sizeof out);
    assert_string_equal(out, "Reading  50 %  100 of 200 files  0.01 files/s  2:00:00 left\n");
    capture_progress(false, 20, 0, 100, out, sizeof out);
    assert_string_equal(out, "Reading  0 %  0 of 100 files  0.00 files/s  ? left\n");
    capture_progress(false, 20, 50, 0, out, sizeof out);
    assert_string_equal(out, "Reading  50 files  2.50 files/s\n");
    capture_progress(true, 0.5, 50, 100, out, sizeof out);
    assert_string_equal(out, "");
    capture_progress(true, 20, 50, 100, out, sizeof out);
    assert_string_equal(out, "\r\033[KReading  50 %  50 of 100 files  2.50 files/s  0:20 left\r\033[K");
}

static void one_process_sums_to_its_own(void **state) {
    (void)state;
    pa_comm one = pa_comm_single(), two = {.rank = 1, .size = 2};
    float f[2] = {1, 2};
    double d[1] = {3};
    assert_int_equal(one.rank, 0);
    assert_int_equal(one.size, 1);
    assert_int_equal(pa_comm_sum_f32(&one, f, 2, &err), PA_OK);
    assert_int_equal(pa_comm_sum_f64(&one, d, 1, &err), PA_OK);
    assert_true(f[0] == 1 && f[1] == 2 && d[0] == 3);
    assert_int_equal(pa_comm_sum_f32(&two, f, 2, &err), PA_FAIL);
    assert_string_equal(err.text, "communication: not joined: a run of 2 ranks");
}

static void formats_are_told_by_their_first_bytes(void **state) {
    (void)state;
    const struct {
        const char *bytes;
        size_t count;
        pa_format format;
    } kase[] = {
#define HEAD(format, bytes) {bytes, sizeof bytes - 1, format}
        HEAD(PA_FORMAT_MIDI, "MThd\0\0\0\6"),
        HEAD(PA_FORMAT_MIDI, "RIFF\1\1\1\1RMID"),
        HEAD(PA_FORMAT_AUDIO, "RIFF\1\1\1\1WAVEfmt "),
        HEAD(PA_FORMAT_AUDIO, "ID3\4"),
        HEAD(PA_FORMAT_AUDIO, "\xff\xfb\x90"),
        HEAD(PA_FORMAT_AUDIO, "fLaC"),
        HEAD(PA_FORMAT_AUDIO, "OggS"),
        HEAD(PA_FORMAT_AUDIO, "\0\0\0\x20"
                              "ftypM4A "),
        HEAD(PA_FORMAT_AUDIO, "FORM\0\0\0\0AIFF"),
        HEAD(PA_FORMAT_PYTORCH, "PK\3\4\0\0\0\0model/data.pkl"),
        HEAD(PA_FORMAT_PYTORCH, "\x80\2\x8a\nl\xfc"),
        HEAD(PA_FORMAT_UNKNOWN, "PK\3\4\0\0\0\0word/document.xml"),
        HEAD(PA_FORMAT_UNKNOWN, "\x80\2\0\0\0\0\0\0{"), // a safetensors header of 640 bytes
        HEAD(PA_FORMAT_UNKNOWN, "MTh"),
        HEAD(PA_FORMAT_UNKNOWN, ""),
#undef HEAD
    };
    EACH_ROW (i, kase, NULL) {
        if (pa_format_of((const uint8_t *)kase[i].bytes, kase[i].count) != kase[i].format) fail_msg("row %zu", i);
        scratch_put_bytes("f", kase[i].bytes, kase[i].count);
        if (pa_format_of_file(scratch("f")) != kase[i].format) fail_msg("file of row %zu", i);
    }
    assert_int_equal(pa_format_of_file(scratch("none")), PA_FORMAT_UNKNOWN);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(formats_are_told_by_their_first_bytes),
        cmocka_unit_test(crc_matches_published_values),
        cmocka_unit_test(fp16_rounds_to_the_nearest),
        cmocka_unit_test(bf16_rounds_to_the_nearest),
        cmocka_unit_test(crc_by_instruction_equals_crc_by_table),
        cmocka_unit_test(crc_in_pieces_equals_crc_of_the_whole),
        cmocka_unit_test(error_text_may_quote_itself_and_is_cut_to_fit),
        cmocka_unit_test(memory_is_aligned_and_zeroed),
        cmocka_unit_test(products_that_overflow_are_refused),
        cmocka_unit_test(one_number_that_is_not_finite_is_found),
        cmocka_unit_test(utf8_is_told_from_other_bytes),
        SCRATCH_TEST(file_appears_whole_at_commit),
        SCRATCH_TEST(abandoned_file_leaves_nothing),
        SCRATCH_TEST(file_that_cannot_be_created_is_refused),
        SCRATCH_TEST(full_disk_is_found_and_leaves_the_old_file),
        SCRATCH_TEST(early_write_error_is_remembered_until_commit),
        SCRATCH_TEST(folders_are_made_and_files_in_the_way_refused),
        SCRATCH_TEST(tree_is_removed_without_following_links),
        SCRATCH_TEST(text_is_read_whole),
        SCRATCH_TEST(progress_is_shown_now_and_then),
        cmocka_unit_test(one_process_sums_to_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
