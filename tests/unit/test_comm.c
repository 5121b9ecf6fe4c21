// Ranks that find each other by a file: what they sum, to the bit; and that every wait ends when a rank goes, falls
// silent or never comes. Each rank is a process of its own, and its verdict the exit code.
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "host/ranks/comm_start.h"
#include "host/train/same_ranks.h"
#include "tests/support/scratch.h"

enum { FLOATS = 5003, MOST = 5 };

// In a rank: ends it with the line that failed.
#define HOLDS(condition)                                                                                               \
    if (!(condition)) return fprintf(stderr, "rank %d, line %d: %s\n", c->rank, __LINE__, err.text), 100

static pa_err err;
static double timeout;
static const char *meet = "meet";

static pa_status join(pa_comm *c, int rank, int world, double seconds) {
    err.text[0] = 0;
    return pa_comm_start(
        c, &(pa_comm_options){.rendezvous = scratch(meet), .rank = rank, .world = world, .timeout = seconds}, &err);
}

// Runs `body` on every rank and returns the exit codes in code[world]; -signal where one ended a rank.
static void run(int world, int (*body)(pa_comm *), int *code) {
    pid_t process[MOST];
    fflush(NULL);
    for (int r = 0; r < world; r++)
        if (!(process[r] = fork())) {
            pa_comm c;
            pa_status s = join(&c, r, world, timeout);
            if (s) {
                fprintf(stderr, "rank %d: %s\n", r, err.text);
                _exit(101);
            }
            int verdict = body(&c);
            if (verdict)
                pa_comm_abort(&c, verdict);
            else
                pa_comm_end(&c);
            _exit(verdict);
        }
    int left = world;
    for (int stopped = -1; left;) {
        int status;
        pid_t p = waitpid(-1, &status, WUNTRACED);
        for (int r = 0; r < world; r++) {
            if (process[r] != p) continue;
            if (WIFSTOPPED(status)) {
                stopped = r;
                continue;
            }
            code[r] = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
            left--;
        }
        if (left == 1 && stopped >= 0) kill(process[stopped], SIGKILL);
    }
}

static void all_hold(int world, int (*body)(pa_comm *)) {
    int code[MOST] = {0};
    timeout = 60;
    run(world, body, code);
    for (int r = 0; r < world; r++) assert_int_equal(code[r], 0);
}

// Number i of a rank: of many magnitudes, so that the order of a sum shows.
static float number(int rank, size_t i) {
    uint32_t x = (uint32_t)i * 2654435761u + (uint32_t)rank * 40503u + 12345u;
    x ^= x >> 15, x *= 2246822519u, x ^= x >> 13;
    return (float)((int)(x & 0xffff) - 32768) * (x & 0x10000 ? 1e-3f : 1.0f);
}

static float expected(int world, size_t i) {
    float sum = number(0, i);
    for (int r = 1; r < world; r++) sum += number(r, i);
    return sum;
}

// The array as it becomes ready: from its end, with pauses that differ between ranks.
static pa_status make_and_sum(pa_comm *c, float *data, size_t count, bool scatter) {
    unsigned seed = (unsigned)c->rank + 1;
    pa_status s = pa_comm_reduce_begin(c, data, count, scatter, &err);
    for (size_t from = count; from && !s;) {
        size_t n = (size_t)rand_r(&seed) % 700;
        for (size_t to = from, i = from = from > n ? from - n : 0; i < to; i++) data[i] = number(c->rank, i);
        if (rand_r(&seed) % 4 == 0) usleep((useconds_t)rand_r(&seed) % 3000);
        s = pa_comm_reduce_ready(c, from, &err);
    }
    return s ? s : pa_comm_reduce_end(c, &err);
}

static int sums(pa_comm *c) {
    static float data[FLOATS], own[FLOATS], part[FLOATS];
    HOLDS(!make_and_sum(c, data, FLOATS, false));
    for (size_t i = 0; i < FLOATS; i++) HOLDS(data[i] == expected(c->size, i));

    for (size_t i = 0; i < FLOATS; i++) data[i] = number(c->rank, i);
    HOLDS(!pa_comm_sum_f32(c, data, FLOATS, &err));
    for (size_t i = 0; i < FLOATS; i++) HOLDS(data[i] == expected(c->size, i));

    HOLDS(!make_and_sum(c, data, FLOATS, true));
    size_t at = 0;
    for (size_t b = 0; b < pa_comm_buckets(c, FLOATS); b++) {
        pa_span s = pa_comm_share(c, FLOATS, b, c->rank);
        for (size_t i = s.from; i < s.to; i++) HOLDS(data[i] == expected(c->size, i));
        for (size_t i = s.from; i < s.to; i++) own[at++] = data[i];
    }
    HOLDS(at == pa_comm_share_floats(c, FLOATS));
    HOLDS(!pa_comm_gather_shares(c, data, FLOATS, &err));
    for (size_t i = 0; i < FLOATS; i++) HOLDS(data[i] == expected(c->size, i));

    const size_t from[] = {0, 17, 4096, 5002}, to[] = {FLOATS, 18, 4999, 5003};
    for (int k = 0; k < 4; k++) {
        HOLDS(!pa_comm_gather_part(c, own, FLOATS, from[k], to[k], part, &err));
        for (size_t i = from[k]; i < to[k]; i++) HOLDS(part[i - from[k]] == expected(c->size, i));
    }

    double d[2] = {0.1 * (c->rank + 1), c->rank == 1 ? 1e300 : 1}, x = 0.1, y = 1;
    for (int r = 1; r < c->size; r++) {
        x += 0.1 * (r + 1);
        y += r == 1 ? 1e300 : 1;
    }
    HOLDS(!pa_comm_sum_f64(c, d, 2, &err) && d[0] == x && d[1] == y);
    return 0;
}

// Exactly what no algorithm can do without: 2 (W - 1) / W of the data a rank.
static int least(pa_comm *c) {
    enum { n = 1 << 14 };
    static float data[n];
    uint64_t before = pa_comm_sent(c).bytes;
    HOLDS(!pa_comm_sum_f32(c, data, n, &err));
    HOLDS(pa_comm_sent(c).bytes - before == 2ull * (unsigned)(c->size - 1) * n * sizeof *data / (unsigned)c->size);
    return 0;
}

// Larger than before, then smaller.
static int other_buckets(pa_comm *c) {
    const size_t share = 16 * (size_t)c->size;
    HOLDS(!pa_comm_set_bucket(c, 4 << 20, &err) && pa_comm_bucket(c) == (4 << 20) / share * share);
    if (sums(c)) return 1;
    HOLDS(!pa_comm_set_bucket(c, 1000, &err) && pa_comm_bucket(c) == 1000 / share * share);
    return sums(c);
}

static void ranks_sum_in_their_order(void **state) {
    (void)state;
    setenv("PATRAIN_BUCKET", "4096", 1);
    for (int world = 2; world <= MOST; world++) all_hold(world, sums);
    all_hold(2, least);
    all_hold(4, least);
    unsetenv("PATRAIN_BUCKET");
    all_hold(3, sums); // all in one bucket
    all_hold(3, other_buckets);
}

// Rank 1 is late, by less than one look at the connections lasts. The others wait for it from when they come until it
// does, by the clock that all processes share; half of that allows for what else the machine does in between.
static int one_is_late(pa_comm *c) {
    static float data[FLOATS];
    double waited[2] = {0}, late[2] = {0};
    for (int i = 0; i < 20; i++) {
        bool bucket = i % 2;
        double x = 0, came = 0;
        HOLDS(!pa_comm_sum_f64(c, &x, 1, &err));
        double before = pa_comm_sent(c).waited, here = pa_clock();
        if (c->rank == 1) {
            usleep(50000);
            came = pa_clock();
        }
        pa_status s = bucket ? pa_comm_reduce_begin(c, data, FLOATS, true, &err) : pa_comm_sum_f64(c, &x, 1, &err);
        HOLDS(!s && (!bucket || !pa_comm_reduce_end(c, &err)));
        waited[bucket] += pa_comm_sent(c).waited - before;
        HOLDS(!pa_comm_sum_f64(c, &came, 1, &err)); // only rank 1's is not 0
        late[bucket] += came > here ? came - here : 0;
    }
    for (int i = 0; i < 2; i++) HOLDS(c->rank == 1 || waited[i] >= late[i] / 2);
    return 0;
}

static void a_wait_is_counted_to_its_end(void **state) {
    (void)state;
    all_hold(3, one_is_late);
}

// Rank 3 of 5 differs.
static int one_differs(pa_comm *c) {
    static const struct {
        const char *theirs, *others, *says; // NULL: no difference
    } row[] = {
        {"version = 1 a\n", "version = 1 b\n", "version: rank 0 has 1 b, rank 3 has 1 a; ranks of a run need the same"},
        {"[a]\nx = 1\n[b]\nx = 2\n", "[a]\nx = 1\n[b]\nx = 3\n",
         "b.x: rank 0 has 3, rank 3 has 2; ranks of a run need the same"},
        {"[a]\nx = 1\n", "[a]\nx = 1\ny = 2\n", "a.y: rank 0 has 2, rank 3 has none; ranks of a run need the same"},
        {"[a]\nx = 1\n", "[a]\nx = \n", "a.x: rank 0 has none, rank 3 has 1; ranks of a run need the same"},
        {"[a]\nx = 1\n", "[a]\nx = 1\n", NULL},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char facts[PA_FACTS] = "";
        snprintf(facts, sizeof facts, "%s", c->rank == 3 ? row[i].theirs : row[i].others);
        pa_status s = pa_same_facts(c, facts, &err);
        HOLDS(s == (row[i].says ? PA_USAGE : PA_OK) && (!s || !strcmp(err.text, row[i].says)));
    }
    HOLDS(!pa_same_digest(c, 7, 20, &err));
    HOLDS(pa_same_digest(c, c->rank == 3, 20, &err) == PA_FAIL);
    HOLDS(!strcmp(err.text, "weights of rank 3 differ from rank 0's at step 20, which is not saved"));
    HOLDS(pa_same_digest(c, c->rank < 2, 20, &err) == PA_FAIL);
    HOLDS(!strcmp(err.text, "weights of ranks 0, 1 differ from rank 2's at step 20, which is not saved"));
    return 0;
}

static void ranks_that_differ_are_named(void **state) {
    (void)state;
    all_hold(5, one_differs);
}

static int one_goes(pa_comm *c) {
    double x = 1;
    HOLDS(!pa_comm_sum_f64(c, &x, 1, &err));
    if (c->rank == 1) _exit(7);
    pa_status s = pa_comm_sum_f64(c, &x, 1, &err);
    HOLDS(s == PA_FAIL && strstr(err.text, "communication: lost rank 1 ("));
    return 1;
}

static int one_stops(pa_comm *c) {
    double x = 1;
    HOLDS(!pa_comm_sum_f64(c, &x, 1, &err));
    if (c->rank == 1) raise(SIGSTOP);
    pa_status s = pa_comm_sum_f64(c, &x, 1, &err);
    HOLDS(s == PA_FAIL && strstr(err.text, "communication: nothing from rank 1 for 5 s (train.timeout)"));
    return 1;
}

static int one_computes(pa_comm *c) {
    if (c->rank == 1) _exit(7);
    sleep(60); // ends before
    return 100;
}

static void a_rank_that_goes_is_told(void **state) {
    int code[MOST] = {0};
    (void)state;
    timeout = 60;
    run(3, one_goes, code);
    assert_int_equal(code[1], 7);
    assert_true(code[0] == 1 && code[2] == 1);
    run(2, one_computes, code);
    assert_int_equal(code[0], 1);
}

static void a_silent_rank_is_told_after_the_timeout(void **state) {
    int code[MOST] = {0};
    (void)state;
    timeout = 5;
    run(3, one_stops, code);
    assert_int_equal(code[1], -SIGKILL);
    assert_true(code[0] == 1 && code[2] == 1);
}

// Rank 2 goes, then rank 0 because of it, while rank 1 looks elsewhere.
static int one_leaves_after_another(pa_comm *c) {
    double x = 1;
    HOLDS(!pa_comm_sum_f64(c, &x, 1, &err));
    if (c->rank == 2) raise(SIGKILL);
    usleep(c->rank ? 2000000 : 200000);
    if (!c->rank) return 1;
    HOLDS(pa_comm_sum_f64(c, &x, 1, &err) == PA_FAIL && strstr(err.text, "lost rank 2"));
    return 1;
}

static void the_first_that_went_is_named(void **state) {
    int code[MOST] = {0};
    (void)state;
    timeout = 60;
    run(3, one_leaves_after_another, code);
    assert_true(code[0] == 1 && code[1] == 1 && code[2] == -SIGKILL);
}

static int nothing(pa_comm *c) {
    double x = c->local_rank;
    HOLDS(c->local_size == c->size && c->local_rank == c->rank);
    HOLDS(access(scratch("meet"), F_OK));
    HOLDS(!pa_comm_sum_f64(c, &x, 1, &err));
    return 0;
}

static void what_an_earlier_run_left_is_no_obstacle(void **state) {
    (void)state;
    scratch_put("meet", "patrain-rendezvous-2 nowhere.invalid 1 00112233445566778899aabbccddeeff\n");
    all_hold(3, nothing);
    scratch_put("meet", "patrain-rendez");
    all_hold(2, nothing);
}

// The message, behind the file's name.
static void said(const char *text) {
    const char *path = scratch("meet");
    assert_memory_equal(err.text, path, strlen(path));
    assert_string_equal(err.text + strlen(path) + 2, text);
}

static void ranks_that_do_not_fit_are_refused(void **state) {
    pa_comm c;
    (void)state;
    unsetenv("RANK");
    unsetenv("WORLD_SIZE");
    unsetenv("SLURM_PROCID");
    unsetenv("SLURM_NTASKS");
    assert_int_equal(join(&c, 0, 3, 0.2), PA_FAIL);
    said("expected 3 ranks within 0.2 s (train.timeout), still missing: 1, 2");
    assert_int_equal(access(scratch("meet"), F_OK), -1);
    assert_int_equal(join(&c, 2, 3, 0.2), PA_FAIL);
    said("no rank 0 within 0.2 s (train.timeout)");
    assert_int_equal(join(&c, 3, 3, 1), PA_USAGE);
    assert_string_equal(err.text, "--rank: expected 0 to 2 with --world 3, found 3");
    assert_int_equal(join(&c, 0, 0, 1), PA_USAGE);
    assert_string_equal(err.text, "--world: expected 1 to 4096 ranks with --rendezvous, found 0");
    assert_int_equal(join(&c, 1, -1, 1), PA_USAGE);
    assert_string_equal(
        err.text, "--world: expected 1 to 4096 ranks with --rendezvous, found none, nor $WORLD_SIZE or $SLURM_NTASKS");
    assert_int_equal(join(&c, -1, 2, 1), PA_USAGE);
    assert_string_equal(err.text, "--rank: expected 0 to 1 with --world 2, found none, nor $RANK or $SLURM_PROCID");
    setenv("RANK", "0", 1);
    setenv("WORLD_SIZE", "1", 1);
    assert_int_equal(join(&c, -1, -1, 1), PA_OK);
    assert_true(c.rank == 0 && c.size == 1);
    unsetenv("RANK");
    unsetenv("WORLD_SIZE");
}

// Joins in a process of its own, which dies after `alive` seconds where that is not 0: its exit code is the status, 100
// more where the message is another.
static pid_t join_elsewhere(int rank, int world, double seconds, unsigned alive, const char *text) {
    pa_comm c;
    fflush(NULL);
    pid_t process = fork();
    if (process) return process;
    if (alive) alarm(alive);
    pa_status s = join(&c, rank, world, seconds);
    bool same = strstr(err.text, text);
    if (!same) fprintf(stderr, "rank %d of %d: %s\n", rank, world, err.text);
    _exit((int)s + (same ? 0 : 100));
}

static void ended(pid_t process, int code) {
    int status;
    waitpid(process, &status, 0);
    assert_int_equal(WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), code);
}

// At once, on every rank, not after the timeout (which would be PA_FAIL).
static void ranks_that_do_not_fit_each_other_are_told_at_once(void **state) {
    pa_comm c;
    (void)state;
    const char *worlds = ": expected --world 3, as on rank 0, found 4 on rank 1";
    pid_t other[] = {join_elsewhere(1, 4, 60, 0, worlds), 0};
    assert_int_equal(join(&c, 0, 3, 60), PA_USAGE);
    said(worlds + 2);
    ended(other[0], PA_USAGE);

    const char *twice = ": two ranks have --rank 1";
    other[0] = join_elsewhere(1, 3, 60, 0, twice);
    other[1] = join_elsewhere(1, 3, 60, 0, twice);
    assert_int_equal(join(&c, 0, 3, 60), PA_USAGE);
    said(twice + 2);
    ended(other[0], PA_USAGE);
    ended(other[1], PA_USAGE);

    other[0] = join_elsewhere(0, 2, 60, 0, ": two ranks have --rank 0");
    assert_int_equal(join(&c, 0, 2, 60), PA_USAGE);
    said("two ranks have --rank 0");
    ended(other[0], PA_USAGE);
}

// All that a rank said, once: the file's name is between the two.
static void waited_for(int rank, const char *before, const char *file, const char *after) {
    char name[16], text[SCRATCH_PATH + 80];
    snprintf(text, sizeof text, "waiting for %s at %s%s\n", before, scratch(file), after);
    snprintf(name, sizeof name, "said-%d", rank);
    scratch_expect(name, text);
}

// After five seconds on stderr, and as an error in the end.
static void a_rank_that_never_comes_is_named_to_all(void **state) {
    const char *late = ": expected 4 ranks within 7 s (train.timeout), still missing: 2, 3";
    int own = dup(STDERR_FILENO);
    pid_t process[3];
    (void)state;
    for (int r = 0; r < 3; r++) { // rank 2 with another file
        char name[16];
        snprintf(name, sizeof name, "said-%d", r);
        int file = open(scratch(name), O_WRONLY | O_CREAT, 0600);
        meet = r < 2 ? "meet" : "elsewhere";
        dup2(file, STDERR_FILENO);
        close(file);
        process[r] = join_elsewhere(r, 4, 7, 0, r < 2 ? late : ": no rank 0 within 7 s (train.timeout)");
        dup2(own, STDERR_FILENO);
    }
    meet = "meet";
    close(own);
    for (int r = 0; r < 3; r++) ended(process[r], PA_FAIL);
    waited_for(0, "ranks 2, 3 of 4", "meet", "");
    waited_for(1, "the rest of 4 ranks", "meet", ", like rank 0");
    waited_for(2, "rank 0 of 4", "elsewhere", "");
}

static void a_rank_that_goes_while_others_are_awaited_is_told(void **state) {
    (void)state;
    for (int gone = 0; gone < 3; gone++) {
        char text[80];
        pid_t other[2];
        snprintf(text, sizeof text, "communication: lost rank %d (while joining)", gone);
        for (int r = 0; r < 3; r++) // the fourth never comes
            if (r != gone) other[r > gone ? r - 1 : r] = join_elsewhere(r, 4, 60, 0, text);
        struct stat file = {.st_mode = 0600};
        while (gone && stat(scratch("meet"), &file)) usleep(10000);
        assert_int_equal(file.st_mode & 0777, 0600); // nobody else is to know the word
        ended(join_elsewhere(gone, 4, 60, 5, ""), -SIGALRM);
        ended(other[0], PA_FAIL);
        ended(other[1], PA_FAIL);
        unlink(scratch("meet"));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(ranks_sum_in_their_order),
        SCRATCH_TEST(ranks_that_differ_are_named),
        SCRATCH_TEST(a_wait_is_counted_to_its_end),
        SCRATCH_TEST(a_rank_that_goes_is_told),
        SCRATCH_TEST(a_silent_rank_is_told_after_the_timeout),
        SCRATCH_TEST(the_first_that_went_is_named),
        SCRATCH_TEST(what_an_earlier_run_left_is_no_obstacle),
        SCRATCH_TEST(ranks_that_do_not_fit_are_refused),
        SCRATCH_TEST(ranks_that_do_not_fit_each_other_are_told_at_once),
        SCRATCH_TEST(a_rank_that_never_comes_is_named_to_all),
        SCRATCH_TEST(a_rank_that_goes_while_others_are_awaited_is_told),
    };
    setenv("OMP_NUM_THREADS", "1", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
