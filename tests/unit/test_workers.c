// test_workers.c: a file that kills its reader is refused with a reason, and the others are unaffected. libsmf's reader
// is replaced by one that dies on request: the first note's velocity says how.
#include "tests/support/midi_bytes.h"
#include "tests/support/scratch.h"
#include "tokenizer/workers.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <smf.h>
#include <sys/wait.h>
#include <time.h>

static const pa_encode_options performance = {.encoding = PA_PERFORMANCE};

enum { LIVES = 64, ABORTS = 1, CRASHES, LEAVES, TIRES, SPINS, EATS, KILLED, KILLED_ONCE, ABORTS_ONCE, STOPS };

smf_t *smf_load_from_memory(const void *buffer, const int length) {
    static void *volatile eaten;
    const uint8_t *b = buffer;
    union {
        void *object;
        smf_t *(*function)(const void *, const int);
    } original = {dlsym(RTLD_NEXT, "smf_load_from_memory")};
    switch (length > 25 ? b[25] : LIVES) {
    case ABORTS:
        abort();
    case CRASHES:
        signal(SIGSEGV, SIG_DFL);
        raise(SIGSEGV);
        break;
    case LEAVES:
        _exit(7);
    case TIRES:
        raise(SIGXCPU); // as at the limit
        break;
    case SPINS:
        for (;;) {}
    case KILLED: // as by the kernel, for want of memory
        raise(SIGKILL);
        break;
    case KILLED_ONCE:
    case ABORTS_ONCE: // as glib does for want of memory
    case STOPS:
        if (!access(scratch("once"), F_OK)) break;
        scratch_put("once", "");
        raise(b[25] == STOPS ? SIGSTOP : b[25] == ABORTS_ONCE ? SIGABRT : SIGKILL);
        break;
    case EATS:
        while ((eaten = malloc(64 << 20))) memset(eaten, 1, 1 << 20);
        return NULL;
    }
    return original.function(buffer, length);
}

static void put_midi(const char *name, int velocity) {
    static midi m;
    midi_simple(&m, (const row[]){ON(0, 60, (uint8_t)velocity), OFF(500, 60), STOP});
    scratch_put_bytes(name, m.byte, m.count);
}

enum { FILES = 60 };
typedef struct {
    pa_status status[FILES];
    size_t tokens[FILES], seen;
    char reason[FILES][sizeof(pa_err)];
} results;

static void take(void *user, size_t index, pa_status status, pa_piece piece, const char *reason) {
    results *r = user;
    r->status[index] = status;
    r->tokens[index] = piece.count;
    r->seen++;
    snprintf(r->reason[index], sizeof r->reason[index], "%s", reason);
    pa_piece_clear(&piece);
}

static void encode(results *r, size_t count, int jobs) {
    static char path[FILES][SCRATCH_PATH];
    const char *paths[FILES];
    for (size_t i = 0; i < count; i++) {
        char name[32];
        snprintf(name, sizeof name, "%zu", i);
        snprintf(path[i], sizeof path[i], "%s", scratch(name));
        paths[i] = path[i];
    }
    memset(r, 0, sizeof *r);
    assert_int_equal(pa_encode_files(paths, count, &performance, jobs, take, r, NULL), PA_OK);
    assert_int_equal(r->seen, count);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); // no worker is left
}

static void the_rest_go_on(void **state) {
    (void)state;
    static results r;
    static const int dead[] = {3, 4, 20, 58};
    static const int how[] = {ABORTS, CRASHES, LEAVES, TIRES};
    static const char *const reason[] = {
        "the MIDI reader stopped with signal 6 (Aborted)", "the MIDI reader stopped with signal 11",
        "the MIDI reader stopped with exit status 7", "the MIDI reader took more than 60 s of processor time"};
    for (int i = 0; i < FILES; i++) {
        char name[32];
        snprintf(name, sizeof name, "%d", i);
        put_midi(name, LIVES);
        for (int k = 0; k < 4; k++)
            if (dead[k] == i) put_midi(name, how[k]);
    }
    for (int jobs = 1; jobs <= 64; jobs *= 8) {
        encode(&r, FILES, jobs);
        int refused = 0;
        for (int i = 0; i < FILES; i++) {
            refused += r.status[i] != PA_OK;
            if (!r.status[i]) assert_int_equal(r.tokens[i], 4);
        }
        assert_int_equal(refused, 4);
        for (int k = 0; k < 4; k++) {
            assert_int_equal(r.status[dead[k]], PA_DATA);
            assert_non_null(strstr(r.reason[dead[k]], reason[k]));
        }
    }
}

// What somebody else did to a worker is not its file's fault: the file is read again.
static void ended_from_outside(void **state) {
    (void)state;
    static results r;
    static const int how[] = {KILLED_ONCE, ABORTS_ONCE, STOPS};
    pa_err err;
    for (int k = 0; k < 3; k++) {
        for (int i = 0; i < 8; i++) put_midi((const char[]){(char)('0' + i), 0}, i == 3 ? how[k] : LIVES);
        encode(&r, 8, 3);
        for (int i = 0; i < 8; i++) {
            assert_int_equal(r.status[i], PA_OK);
            assert_int_equal(r.tokens[i], 4);
        }
        unlink(scratch("once"));
    }
    put_midi("3", KILLED);
    char path[SCRATCH_PATH], expected[2 * SCRATCH_PATH];
    snprintf(path, sizeof path, "%s", scratch("3"));
    memset(&r, 0, sizeof r);
    assert_int_equal(pa_encode_files(&(const char *){path}, 1, &performance, 1, take, &r, &err), PA_FAIL);
    snprintf(expected, sizeof expected,
             "%s: the MIDI reader stopped with signal 9 (Killed), twice: is memory or time short?", path);
    assert_string_equal(err.text, expected);
    assert_int_equal(r.seen, 0);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
}

static void each_file_killing_its_worker(void **state) {
    (void)state;
    static results r;
    for (int i = 0; i < 8; i++) put_midi((const char[]){(char)('0' + i), 0}, ABORTS);
    encode(&r, 8, 2);
    for (int i = 0; i < 8; i++) assert_int_equal(r.status[i], PA_DATA);
}

static void one_isolated_file(void **state) {
    (void)state;
    pa_piece piece;
    pa_err err;
    put_midi("good", LIVES);
    assert_int_equal(pa_encode_isolated(scratch("good"), &performance, &piece, &err), PA_OK);
    assert_int_equal(piece.count, 4);
    assert_int_equal(piece.report.notes, 1);
    pa_piece_clear(&piece);
    scratch_put_bytes(
        "drums", (const uint8_t *)"MThd\0\0\0\6\0\0\0\1\1\xf4MTrk\0\0\0\x0c\0\x99\x24\x40\x10\x89\x24\0\0\xff\x2f", 34);
    assert_int_equal(pa_encode_isolated(scratch("drums"), &performance, &piece, &err), PA_DATA);
    assert_non_null(strstr(err.text, "/drums: only drums"));
    assert_int_equal(piece.report.drums, 1); // what was found comes along with a refusal
    put_midi("bad", ABORTS);
    assert_int_equal(pa_encode_isolated(scratch("bad"), &performance, &piece, &err), PA_DATA);
    assert_null(piece.token);
    assert_non_null(strstr(err.text, "/bad: the MIDI reader stopped with signal 6 (Aborted)"));
    assert_int_equal(pa_encode_isolated(scratch("none"), &performance, &piece, &err), PA_USAGE);
    assert_non_null(strstr(err.text, "/none: No such file or directory"));
}

static void one_isolated_pedal(void **state) {
    static const int how[] = {LIVES, KILLED_ONCE, ABORTS};
    static midi m;
    pa_pedal_span *span;
    size_t spans;
    pa_err err;
    (void)state;
    for (int k = 0; k < 3; k++) {
        midi_simple(&m, (const row[]){ON(0, 60, (uint8_t)how[k]), OFF(500, 60), STOP});
        pa_status s = pa_pedal_isolated(m.byte, m.count, &performance, &span, &spans, &err);
        assert_int_equal(s, how[k] == ABORTS ? PA_FAIL : PA_OK);
        assert_int_equal(spans, 0);
        if (s) assert_string_equal(err.text, "the MIDI reader stopped twice: is memory short?");
        free(span);
    }
    assert_false(access(scratch("once"), F_OK)); // it was killed once
}

static int forks;
static void count_fork(void) {
    forks++;
}

// A process with several threads reads files without a fork.
static void a_reader(void **state) {
    (void)state;
    pa_reader r;
    pa_piece piece;
    pa_err err;
    assert_int_equal(pthread_atfork(count_fork, NULL, NULL), 0);
    assert_int_equal(pa_reader_start(&r, &err), PA_OK);
    put_midi("good", LIVES);
    put_midi("bad", ABORTS);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pa_reader_encode(&r, scratch("bad"), &performance, &piece, &err), PA_DATA);
        assert_non_null(strstr(err.text, "/bad: the MIDI reader stopped with signal 6 (Aborted)"));
        assert_int_equal(pa_reader_encode(&r, scratch("good"), &performance, &piece, &err), PA_OK);
        assert_int_equal(piece.count, 4);
        pa_piece_clear(&piece);
        assert_int_equal(pa_reader_encode(&r, scratch("none"), &performance, &piece, &err), PA_USAGE);
    }
    kill(r.process, SIGTERM); // as a supervisor does with all of a program's processes
    assert_int_equal(pa_reader_encode(&r, scratch("good"), &performance, &piece, &err), PA_OK);
    pa_piece_clear(&piece);
    assert_int_equal(forks, 1);
    kill(r.process, SIGKILL);
    assert_int_equal(pa_reader_encode(&r, scratch("good"), &performance, &piece, &err), PA_FAIL);
    assert_string_equal(err.text, "the process that reads MIDI files has ended");
    pa_reader_stop(&r);
    assert_int_equal(waitpid(r.process, NULL, 0), -1);
}

// Less than the 60 s that a file may take: of this process, not the file's fault.
static void little_time(void **state) {
    (void)state;
    put_midi("0", SPINS);
    pid_t child = fork();
    if (child == 0) {
        pa_piece piece;
        pa_err err = {""};
        rlim_t second = (rlim_t)(clock() / CLOCKS_PER_SEC) + 1;
        struct rlimit limit = {second, second};
        // A soft limit below the hard one, which kills without a word.
        limit.rlim_max++;
        setrlimit(RLIMIT_CPU, &limit);
        pa_status s = pa_encode_isolated(scratch("0"), &performance, &piece, &err);
        _exit(s == PA_FAIL && strstr(err.text, "twice: is memory or time short?") ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

// Less than the 4 GiB that a file may take, whether its reader reports it or aborts.
static void little_memory(void **state) {
    static const int how[] = {EATS, ABORTS};
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip(); // it takes memory of its own
#endif
    for (int k = 0; k < 2; k++) {
        put_midi("0", how[k]);
        pid_t child = fork();
        if (child == 0) {
            pa_piece piece;
            pa_err err = {""};
            setrlimit(RLIMIT_AS, &(struct rlimit){1 << 30, 1 << 30});
            pa_status s = pa_encode_isolated(scratch("0"), &performance, &piece, &err);
            _exit(s == PA_FAIL && strstr(err.text, "twice: is memory or time short?") ? 0 : 1);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
    }
}

static void a_file_that_takes_all_memory(void **state) {
    (void)state;
    pa_piece piece;
    pa_err err;
    put_midi("0", EATS);
    assert_int_equal(pa_encode_isolated(scratch("0"), &performance, &piece, &err), PA_DATA);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(the_rest_go_on),    SCRATCH_TEST(ended_from_outside), SCRATCH_TEST(each_file_killing_its_worker),
        SCRATCH_TEST(one_isolated_file), SCRATCH_TEST(one_isolated_pedal), SCRATCH_TEST(a_reader),
        SCRATCH_TEST(little_time),       SCRATCH_TEST(little_memory),      SCRATCH_TEST(a_file_that_takes_all_memory),
    };
    return cmocka_run_group_tests_name("workers", tests, NULL, NULL);
}
