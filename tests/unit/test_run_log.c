// test_run_log.c: what a resumed run keeps of its metrics, and how much it reads for that.
#include "host/train/run_log.h"
#include "tests/support/scratch.h"

#include <sys/stat.h>
#include <unistd.h>

static pa_err err;

// Steps first to last, an evaluation behind each tenth.
static void put_lines(FILE *f, int first, int last) {
    for (int i = first; i <= last; i++) {
        fprintf(f, "{\"step\":%d,\"loss\":%d.5,\"time\":\"2026-01-31T09:30:00.125Z\"}\n", i, i);
        if (i % 10 == 0) fprintf(f, "{\"step\":%d,\"eval_loss\":2.5}\n", i);
    }
}

static void put_metrics(int last, const char *rest) {
    FILE *f = fopen(scratch("metrics.jsonl"), "w");
    assert_non_null(f);
    put_lines(f, 1, last);
    fputs(rest, f);
    fclose(f);
}

// Opens the logs of a run that resumes; what it prints.
static const char *resume(int64_t step, int64_t evaluated) {
    static char said[1024];
    memset(said, 0, sizeof said);
    FILE *out = fmemopen(said, sizeof said, "w");
    pa_runlog l = {.out = out};
    assert_int_equal(pa_runlog_open(&l, scratch_folder, step, evaluated, &err), PA_OK);
    pa_runlog_close(&l);
    fclose(out);
    return said;
}

static void lines_after_the_checkpoint_go(void **state) {
    (void)state;
    static const struct {
        int last;
        const char *rest;
        int64_t step, evaluated;
        int stays;
        bool evaluation;
    } row[] = {
        {20, "", 20, 20, 20, true},
        {20, "{\"step\":21,\"lo", 20, 20, 20, true}, // torn
        {20, "{\"step\":21}", 21, 20, 20, true},     // without its end
        {23, "", 20, 20, 20, true},
        {23, "", 20, 10, 20, false}, // its evaluation will be repeated
        {5000, "", 1, -1, 1, false}, // blocks from the end
        {5000, "", 4321, 4320, 4321, true},
        {20, "", 0, 0, 0, true},
        {20, "", -1, -1, 0, true}, // a new run
        {20, "\n\n{}\nnonsense\n", 20, 20, 20, true},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char *expected, *found;
        size_t length;
        put_metrics(row[i].last, row[i].rest);
        const char *said = resume(row[i].step, row[i].evaluated);
        FILE *f = open_memstream(&expected, &length);
        put_lines(f, 1, row[i].stays);
        fclose(f);
        if (!row[i].evaluation && row[i].stays % 10 == 0)
            expected[length - strlen("{'step':20,'eval_loss':2.5}\n")] = 0;
        assert_int_equal(pa_read_text(scratch("metrics.jsonl"), &found, NULL, &err), PA_OK);
        if (strcmp(found, expected))
            fail_msg("row %zu: %zu bytes stay, expected %zu", i, strlen(found), strlen(expected));
        bool lacks = row[i].step > row[i].stays;
        if (!!strstr(said, "lacks steps 21 to 21\n") != lacks) fail_msg("row %zu: %s", i, said);
        free(expected);
        free(found);
    }
}

static void what_a_disk_forgot_is_told(void **state) {
    (void)state;
    char expected[2 * SCRATCH_PATH];
    put_metrics(20, "");
    snprintf(expected, sizeof expected, "warning: %s lacks steps 21 to 30\n", scratch("metrics.jsonl"));
    assert_string_equal(resume(30, 30), expected);
    FILE *f = fopen(scratch("metrics.jsonl"), "a"); // the file's length was on the disk, its bytes were not
    for (int i = 0; i < 100000; i++) putc(0, f);
    fclose(f);
    assert_string_equal(resume(30, 30), expected);
}

static long long bytes_read(void) {
    long long bytes = -1;
    char line[128];
    FILE *f = fopen("/proc/self/io", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "rchar: %lld", &bytes) == 1) break;
    if (f) fclose(f);
    return bytes;
}

static void resuming_reads_the_end_only(void **state) {
    (void)state;
    long long used[2];
    if (bytes_read() < 0) skip();
    for (int i = 0; i < 2; i++) {
        int last = i ? 300000 : 3000;
        put_metrics(last, "");
        long long before = bytes_read();
        assert_string_equal(resume(last - 7, last - 10), "");
        used[i] = bytes_read() - before;
    }
    if (used[1] > used[0] + 4096) fail_msg("%lld bytes for 3,000 steps, %lld for 300,000", used[0], used[1]);
}

static void metrics_may_be_large(void **state) {
    (void)state;
    const off_t before = 5LL << 30;
    char *kept;
    size_t length;
    struct stat info;
    put_metrics(20, "");
    assert_int_equal(truncate(scratch("metrics.jsonl"), before), 0); // a hole, which takes no room on the disk
    FILE *f = fopen(scratch("metrics.jsonl"), "a");
    putc('\n', f);
    put_lines(f, 21, 40);
    fclose(f);
    assert_string_equal(resume(35, 30), "");
    f = open_memstream(&kept, &length);
    put_lines(f, 21, 35);
    fclose(f);
    free(kept);
    assert_int_equal(stat(scratch("metrics.jsonl"), &info), 0);
    assert_int_equal(info.st_size, before + 1 + (off_t)length);
}

static void event_files_of_one_second_are_apart(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) resume(-1, -1);
    assert_int_equal(scratch_entries(), 1 + 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(lines_after_the_checkpoint_go),       SCRATCH_TEST(what_a_disk_forgot_is_told),
        SCRATCH_TEST(resuming_reads_the_end_only),         SCRATCH_TEST(metrics_may_be_large),
        SCRATCH_TEST(event_files_of_one_second_are_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
