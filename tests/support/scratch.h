// scratch.h: a folder of its own for each test that touches files, gone afterwards; and a disk that is full on demand.
#ifndef PA_TEST_SCRATCH_H
#define PA_TEST_SCRATCH_H

#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "host/base/base.h"
#include "host/base/file.h"

enum { SCRATCH_PATH = 256 };
static char scratch_folder[64];

// Path of `name` in the test's folder; good until the next call.
static inline const char *scratch(const char *name) {
    static char path[SCRATCH_PATH];
    snprintf(path, sizeof path, "%s/%s", scratch_folder, name);
    return path;
}

static inline void scratch_put_bytes(const char *name, const void *bytes, size_t count) {
    FILE *f = fopen(scratch(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, count, f), count);
    assert_int_equal(fclose(f), 0);
}

static inline void scratch_put(const char *name, const char *text) {
    scratch_put_bytes(name, text, strlen(text));
}

static inline void scratch_expect(const char *name, const char *text) {
    char *found;
    assert_int_equal(pa_read_text(scratch(name), &found, NULL, NULL), PA_OK);
    assert_string_equal(found, text);
    free(found);
}

static inline int scratch_entries(void) {
    DIR *d = opendir(scratch_folder);
    int n = 0;
    assert_non_null(d);
    for (const struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

// No file can be made longer than `bytes`, as on a disk that is full; 0: as before.
static inline void scratch_limit(size_t bytes) {
    struct rlimit limit;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes ? bytes : limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static inline int scratch_setup(void **state) {
    (void)state;
    snprintf(scratch_folder, sizeof scratch_folder, "/tmp/patrain-test-XXXXXX");
    return mkdtemp(scratch_folder) ? 0 : -1;
}

static inline int scratch_teardown(void **state) {
    (void)state;
    scratch_limit(0);
    return pa_remove_tree(scratch_folder, NULL) ? -1 : 0;
}

#define SCRATCH_TEST(f) cmocka_unit_test_setup_teardown(f, scratch_setup, scratch_teardown)

#endif
