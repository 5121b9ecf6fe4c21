// test_mapping.c: files that change while they are open.
#include <fcntl.h>
#include <sys/mman.h>

#include "host/files/mapping.h"
#include "host/files/token_set.h"
#include "tests/support/scratch.h"

static pa_err err;

// A token file of some pages.
static void put_tokens(void) {
    enum { COUNT = 20000 };
    static uint16_t token[COUNT];
    pa_piece piece = {.token = token, .count = COUNT, .seconds = 1, .notes = COUNT};
    for (int i = 0; i < COUNT; i++) token[i] = 60;
    assert_int_equal(pa_tokens_write(scratch("t.safetensors"), &piece, (const char *const[]){"one"}, 1, PA_PERFORMANCE,
                                     "train", &err),
                     PA_OK);
}

static void overwrite(off_t at, const void *bytes, size_t count) {
    int fd = open(scratch("t.safetensors"), O_WRONLY);
    assert_int_equal(pwrite(fd, bytes, count, at), (ssize_t)count);
    close(fd);
}

static void cut_short(void) {
    assert_int_equal(truncate(scratch("t.safetensors"), 100), 0);
}

static void write_noise(void) {
    static uint8_t noise[30000];
    memset(noise, 0xff, sizeof noise);
    overwrite(5000, noise, sizeof noise);
}

// As rsync --inplace --times does.
static void write_without_a_trace(void) {
    struct stat before;
    assert_int_equal(stat(scratch("t.safetensors"), &before), 0);
    overwrite(9000, "\1", 1);
    assert_int_equal(
        utimensat(AT_FDCWD, scratch("t.safetensors"), (struct timespec[]){before.st_atim, before.st_mtim}, 0), 0);
}

// The mapping keeps the old file.
static void replace(void) {
    char other[SCRATCH_PATH];
    snprintf(other, sizeof other, "%s", scratch("other"));
    scratch_put("other", "x");
    assert_int_equal(rename(other, scratch("t.safetensors")), 0);
}

static void remove_it(void) {
    assert_int_equal(unlink(scratch("t.safetensors")), 0);
}

static void changes_are_found_and_nothing_faults(void **state) {
    (void)state;
    static const struct {
        const char *what;
        void (*change)(void);
        pa_status check, verify;
        const char *message;
    } row[] = {
        {"cut short", cut_short, PA_DATA, PA_DATA,
         "t.safetensors could not be read, or was cut short, while it was open"},
        {"overwritten", write_noise, PA_DATA, PA_DATA, "t.safetensors was written to while it was open"},
        {"without a trace", write_without_a_trace, PA_OK, PA_DATA,
         "t.safetensors was changed while it was open: expected data with CRC-32C "},
        {"replaced", replace, PA_OK, PA_OK, ""},
        {"removed", remove_it, PA_OK, PA_OK, ""},
    };
    pa_mapping_guard();
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        pa_token_set t;
        uint64_t sum = 0;
        put_tokens();
        assert_int_equal(pa_token_set_open(&t, scratch("t.safetensors"), true, &err), PA_OK);
        assert_int_equal(pa_token_set_check(&t, true, &err), PA_OK);
        row[i].change();
        pa_token_piece p = pa_token_set_piece(&t, 0);
        assert_int_equal(p.count, 20000);
        for (int64_t at = 0; at < p.count; at++) sum += p.token[at]; // a page that is gone reads as zeros
        if (!row[i].verify && sum != 60 * 20000) fail_msg("%s: another sum", row[i].what);
        pa_status check = pa_token_set_check(&t, false, &err), verify = pa_token_set_check(&t, true, &err);
        if (check != row[i].check || verify != row[i].verify) fail_msg("%s: %d, %d", row[i].what, check, verify);
        if (verify && !strstr(err.text, row[i].message)) fail_msg("%s: %s", row[i].what, err.text);
        pa_token_set_close(&t);
        unlink(scratch("t.safetensors"));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {SCRATCH_TEST(changes_are_found_and_nothing_faults)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
