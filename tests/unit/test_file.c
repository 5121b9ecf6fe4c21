// test_file.c: files among others: processes with one id, links, permissions, and what is no regular file.
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "tests/support/scratch.h"

static pa_err err;

static void write_file(const char *name, const char *text) {
    pa_file f;
    assert_int_equal(pa_file_create(&f, scratch(name), &err), PA_OK);
    fputs(text, f.stream);
    assert_int_equal(pa_file_commit(&f, &err), PA_OK);
}

static unsigned mode_of(const char *name) {
    struct stat info;
    assert_int_equal(stat(scratch(name), &info), 0);
    return info.st_mode & 0777;
}

// A file of another process with our id, in another container, is not ours: neither name nor content of it is touched.
static void temporary_names_are_no_other_s(void **state) {
    (void)state;
    char name[64];
    pa_file f;
    snprintf(name, sizeof name, "a.tmp.%ld", (long)getpid());
    scratch_put(name, "another's");
    write_file("a", "new");
    scratch_expect("a", "new");
    scratch_expect(name, "another's");
    assert_int_equal(pa_file_create(&f, scratch("a"), &err), PA_OK);
    assert_non_null(strstr(f.temporary, pa_process_word()));
    assert_int_equal(strlen(pa_process_word()), 16);
    pa_file_abandon(&f);
    scratch_expect(name, "another's");
}

static void names_as_long_as_a_folder_holds(void **state) {
    (void)state;
    char name[256];
    pa_file f;
    memset(name, 'x', 255);
    name[255] = 0;
    char path[SCRATCH_PATH + 256];
    snprintf(path, sizeof path, "%s/%s", scratch_folder, name);
    assert_int_equal(pa_file_create(&f, path, &err), PA_OK);
    assert_int_equal(pa_file_commit(&f, &err), PA_OK);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(scratch_entries(), 1);
}

static void a_replaced_file_keeps_its_permissions(void **state) {
    (void)state;
    mode_t before = umask(022);
    write_file("a", "old");
    assert_int_equal(mode_of("a"), 0644);
    assert_int_equal(chmod(scratch("a"), 0600), 0);
    write_file("a", "new");
    assert_int_equal(mode_of("a"), 0600);
    assert_int_equal(chmod(scratch("a"), 0664), 0);
    write_file("a", "newer");
    assert_int_equal(mode_of("a"), 0664);
    umask(before);
}

static void of_a_link_the_target_is_replaced(void **state) {
    (void)state;
    struct stat info;
    pa_file f;
    assert_int_equal(mkdir(scratch("there"), 0777), 0);
    scratch_put("there/file", "old");
    assert_int_equal(symlink("there/file", scratch("link")), 0);
    write_file("link", "new");
    scratch_expect("there/file", "new");
    assert_int_equal(lstat(scratch("link"), &info), 0);
    assert_true(S_ISLNK(info.st_mode));
    assert_int_equal(symlink("none", scratch("dangling")), 0);
    assert_int_equal(pa_file_create(&f, scratch("dangling"), &err), PA_FAIL);
    assert_non_null(strstr(err.text, "/dangling, a link: No such file or directory"));
}

// ---- files that appear together

static void files_appear_together(void **state) {
    (void)state;
    scratch_put("a", "old");
    assert_int_equal(mkdir(scratch("there"), 0777), 0);
    pa_file_group group = {0};
    assert_int_equal(pa_file_group_begin(&group, &err), PA_OK);
    write_file("a", "new");
    write_file("b", "new");
    write_file("there/c", "new");
    scratch_expect("a", "old");
    assert_int_equal(access(scratch("b"), F_OK), -1);
    assert_int_equal(pa_file_group_end(&group, PA_OK, &err), PA_OK);
    scratch_expect("a", "new");
    scratch_expect("b", "new");
    scratch_expect("there/c", "new");
    assert_int_equal(scratch_entries(), 3);
    write_file("d", "new"); // by itself again
    scratch_expect("d", "new");
}

static void an_error_leaves_none_of_them(void **state) {
    (void)state;
    scratch_put("a", "old");
    pa_file_group group = {0};
    assert_int_equal(pa_file_group_begin(&group, &err), PA_OK);
    write_file("a", "new");
    write_file("b", "new");
    assert_int_equal(pa_file_group_end(&group, PA_DATA, &err), PA_DATA);
    scratch_expect("a", "old");
    assert_int_equal(scratch_entries(), 1);
}

static void a_failed_rename_states_what_is_written(void **state) {
    (void)state;
    pa_file_group group = {0};
    assert_int_equal(pa_file_group_begin(&group, &err), PA_OK);
    write_file("a", "new");
    write_file("b", "new");
    write_file("c", "new");
    assert_int_equal(mkdir(scratch("b"), 0777), 0);
    assert_int_equal(pa_file_group_end(&group, PA_OK, &err), PA_FAIL);
    assert_non_null(strstr(err.text, "/b: Is a directory; 1 of 3 files is written"));
    scratch_expect("a", "new");
    assert_int_equal(scratch_entries(), 2);
}

// Their temporary names are as long as a folder holds, and differ all the same.
static void long_names_wait_side_by_side(void **state) {
    (void)state;
    char name[256];
    memset(name, 'x', 255);
    name[255] = 0;
    pa_file_group group = {0};
    assert_int_equal(pa_file_group_begin(&group, &err), PA_OK);
    for (char k = '1'; k < '4'; k++) {
        name[254] = k;
        pa_file f;
        char path[SCRATCH_PATH + 256];
        snprintf(path, sizeof path, "%s/%s", scratch_folder, name);
        assert_int_equal(pa_file_create(&f, path, &err), PA_OK);
        assert_int_equal(pa_file_commit(&f, &err), PA_OK);
    }
    assert_int_equal(pa_file_group_end(&group, PA_OK, &err), PA_OK);
    assert_int_equal(scratch_entries(), 3);
}

// ---- what is no file

static void make_socket(const char *path) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_true(strlen(path) < sizeof at.sun_path);
    memcpy(at.sun_path, path, strlen(path));
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    close(fd);
}

static void only_files_are_opened(void **state) {
    (void)state;
    static const struct {
        const char *name, *found;
    } row[] = {{"pipe", "a named pipe"}, {"socket", "a socket"}, {"folder", "a folder"}, {"/dev/null", "a device"}};
    char path[SCRATCH_PATH], expected[2 * SCRATCH_PATH], *text;
    assert_int_equal(mkfifo(scratch("pipe"), 0666), 0);
    make_socket(scratch("socket"));
    assert_int_equal(mkdir(scratch("folder"), 0777), 0);
    alarm(20); // nothing may wait
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        snprintf(path, sizeof path, "%s", *row[i].name == '/' ? row[i].name : scratch(row[i].name));
        snprintf(expected, sizeof expected, "%s: expected a file, found %s", path, row[i].found);
        assert_int_equal(pa_open_regular(path, O_RDONLY, &err), -1);
        assert_string_equal(err.text, expected);
        if (i) {
            assert_int_equal(pa_read_text(path, &text, NULL, &err), PA_FAIL);
            assert_string_equal(err.text, expected);
        }
        assert_int_equal(pa_open_regular(path, O_RDWR | O_CREAT, &err), -1);
    }
    assert_int_equal(pa_read_text(scratch("pipe"), &text, NULL, &err), PA_FAIL);
    assert_non_null(strstr(err.text, "/pipe: expected a file, found a named pipe that nobody writes to"));
    int fd = pa_open_regular(scratch("file"), O_RDWR | O_CREAT, &err);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(pa_open_regular(scratch("none"), O_RDONLY, &err), -1);
    assert_non_null(strstr(err.text, "/none: No such file or directory"));
    alarm(0);
}

static void a_slow_writer_is_waited_for(void **state) {
    (void)state;
    char *text;
    assert_int_equal(mkfifo(scratch("pipe"), 0666), 0);
    int reads = open(scratch("pipe"), O_RDONLY | O_NONBLOCK), writes = open(scratch("pipe"), O_WRONLY);
    pid_t child = fork();
    if (!child) {
        usleep(50000);
        _exit(write(writes, "late", 4) != 4);
    }
    close(writes);
    assert_int_equal(pa_read_text(scratch("pipe"), &text, NULL, &err), PA_OK);
    assert_string_equal(text, "late");
    free(text);
    close(reads);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(temporary_names_are_no_other_s),
        SCRATCH_TEST(names_as_long_as_a_folder_holds),
        SCRATCH_TEST(a_replaced_file_keeps_its_permissions),
        SCRATCH_TEST(of_a_link_the_target_is_replaced),
        SCRATCH_TEST(files_appear_together),
        SCRATCH_TEST(an_error_leaves_none_of_them),
        SCRATCH_TEST(a_failed_rename_states_what_is_written),
        SCRATCH_TEST(long_names_wait_side_by_side),
        SCRATCH_TEST(only_files_are_opened),
        SCRATCH_TEST(a_slow_writer_is_waited_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
