// Ranks that look for each other among connections that are none: silent ones, echoes, ports of earlier runs; and what
// is named when they cannot. Each rank is a process of its own.
#include <arpa/inet.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "host/ranks/comm_greet.h"
#include "host/ranks/comm_start.h"
#include "tests/support/scratch.h"

static const char word[] = "00112233445566778899aabbccddeeff";

static pa_status join(pa_comm *c, int rank, int world, double seconds, pa_err *err) {
    return pa_comm_start(
        c, &(pa_comm_options){.rendezvous = scratch("meet"), .rank = rank, .world = world, .timeout = seconds}, err);
}

// Joins, sums and leaves in a process of its own, whose exit code is the status; 100 where the message lacks `text`.
static pid_t start(int rank, int world, double seconds, const char *text) {
    fflush(NULL);
    pid_t process = fork();
    if (process) return process;
    pa_comm c;
    pa_err err = {""};
    double one = 1;
    pa_status s = join(&c, rank, world, seconds, &err);
    if (!s && !(s = pa_comm_sum_f64(&c, &one, 1, &err))) pa_comm_end(&c);
    if (!strstr(err.text, text)) {
        fprintf(stderr, "rank %d: expected \"%s\", found \"%s\"\n", rank, text, err.text);
        _exit(100);
    }
    _exit((int)s);
}

static void ended(pid_t process, int code) {
    int status;
    waitpid(process, &status, 0);
    assert_int_equal(WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), code);
}

// A port that accepts connections and never says a word.
static int listen_somewhere(int *port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0 && !bind(fd, (struct sockaddr *)&at, sizeof at) && !listen(fd, 100));
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &length), 0);
    *port = ntohs(at.sin_port);
    return fd;
}

static int connect_to(int port) {
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0 && !connect(fd, (struct sockaddr *)&at, sizeof at));
    return fd;
}

static void put_file(int version, const char *host, int port) {
    char text[512];
    snprintf(text, sizeof text, "patrain-rendezvous-%d %s %d %s\n", version, host, port, word);
    scratch_put("meet", text);
}

static int port_of_file(void) {
    char text[512] = "", host[256];
    int port = 0;
    for (int i = 0; i < 1000 && !port; i++) {
        FILE *f = fopen(scratch("meet"), "r");
        if (!f || !fgets(text, sizeof text, f) || sscanf(text, "patrain-rendezvous-2 %255s %d", host, &port) != 2)
            usleep(10000);
        if (f) fclose(f);
    }
    assert_true(port > 0);
    return port;
}

static void proofs_match_published_values(void **state) {
    static const uint8_t none[] = {0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6,
                                   0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02, 0x93},
                         one[] = {0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44,
                                  0x34, 0x76, 0x59, 0x11, 0x9b, 0x22, 0xfc, 0x45};
    uint8_t key[PA_WORD], proof[PA_WORD];
    (void)state;
    for (int i = 0; i < PA_WORD; i++) key[i] = (uint8_t)i;
    pa_proof(proof, key, NULL, 0);
    assert_memory_equal(proof, none, PA_WORD);
    pa_proof(proof, key, "", 1);
    assert_memory_equal(proof, one, PA_WORD);
}

// One may be silent for five seconds, 64 at a time: these would take 45, if the oldest did not give way after one.
static void silent_connections_hold_up_nobody(void **state) {
    enum { SILENT = 600 };
    int fd[SILENT];
    (void)state;
    pid_t root = start(0, 3, 30, "");
    int port = port_of_file();
    for (int i = 0; i < SILENT; i++) {
        fd[i] = connect_to(port);
        if (i < 30 && i % 3 == 1) assert_int_equal(send(fd[i], "patrain-join-2", 10, 0), 10);
        if (i < 30 && i % 3 == 2) assert_int_equal(send(fd[i], word, 32, 0), 32);
    }
    pid_t other[] = {start(1, 3, 30, ""), start(2, 3, 30, "")};
    ended(root, 0);
    for (int i = 0; i < 2; i++) ended(other[i], 0);
    for (int i = 0; i < SILENT; i++) close(fd[i]);
}

static void a_silent_port_of_an_earlier_run_is_left_for_the_new_file(void **state) {
    int port, fd = listen_somewhere(&port);
    (void)state;
    put_file(2, "127.0.0.1", port);
    pid_t other = start(1, 2, 60, "");
    usleep(500000);
    pid_t root = start(0, 2, 60, "");
    ended(other, 0);
    ended(root, 0);
    close(fd);
}

// Sends everything back, and again, as often as a longer reply needs.
static void *echo(void *listener) {
    char data[4096];
    for (int fd; (fd = accept(*(int *)listener, NULL, NULL)) >= 0; close(fd))
        for (ssize_t n; (n = recv(fd, data, sizeof data, 0)) > 0;)
            for (int i = 0; i < 20; i++) send(fd, data, (size_t)n, MSG_NOSIGNAL);
    return NULL;
}

static void an_echo_is_not_rank_0(void **state) {
    pthread_t thread;
    int port, fd = listen_somewhere(&port);
    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, echo, &fd), 0);
    put_file(2, "127.0.0.1", port);
    ended(start(1, 2, 2, "meet: no rank 0 within 2 s (train.timeout)"), PA_FAIL);
    shutdown(fd, SHUT_RDWR);
    pthread_join(thread, NULL);
    close(fd);
}

// It knows how ranks meet, but not the word: it takes no rank's place.
static void a_stranger_is_not_rank_1(void **state) {
    pa_hello h;
    pa_challenge c;
    pa_greeting g = {.world = htonl(2), .rank = htonl(1), .port = htonl(1), .host = "127.0.0.1"};
    char more;
    (void)state;
    pid_t root = start(0, 2, 30, "");
    int fd = connect_to(port_of_file());
    assert_true(pa_greet_begin(&h));
    assert_int_equal(send(fd, &h, sizeof h, 0), sizeof h);
    assert_int_equal(recv(fd, &c, sizeof c, MSG_WAITALL), sizeof c);
    assert_int_equal(send(fd, &g, sizeof g, 0), sizeof g);
    assert_true(recv(fd, &more, 1, 0) <= 0); // closed
    pid_t other = start(1, 2, 30, "");
    ended(root, 0);
    ended(other, 0);
    close(fd);
}

// A listener without the word is told nothing of the rank.
static void a_stranger_is_not_rank_0(void **state) {
    pa_hello h;
    pa_challenge c = {.proof = {1}};
    pa_greeting g;
    int port, listener = listen_somewhere(&port);
    (void)state;
    put_file(2, "127.0.0.1", port);
    pid_t other = start(1, 2, 2, "meet: no rank 0 within 2 s (train.timeout)");
    int fd = accept(listener, NULL, NULL);
    assert_int_equal(recv(fd, &h, sizeof h, MSG_WAITALL), sizeof h);
    assert_int_equal(send(fd, &c, sizeof c, 0), sizeof c);
    assert_true(recv(fd, &g, sizeof g, 0) <= 0);
    close(fd);
    close(listener);
    ended(other, PA_FAIL);
}

static void what_stands_in_the_way_is_named(void **state) {
    (void)state;
    put_file(2, "nowhere.invalid", 1);
    ended(start(1, 2, 2, "no rank 0 within 2 s (train.timeout); cannot find host nowhere.invalid: "), PA_FAIL);
    put_file(2, "a\033]0;b", 1);
    ended(start(1, 2, 1, "no rank 0 within 1 s (train.timeout)"), PA_FAIL);
    unlink(scratch("meet"));
    assert_int_equal(mkfifo(scratch("meet"), 0600), 0);
    ended(start(1, 2, 1, "no rank 0 within 1 s (train.timeout)"), PA_FAIL);
    ended(start(0, 2, 1, "meet: expected a file or nothing here, found a named pipe"), PA_FAIL);
    unlink(scratch("meet"));
    struct rlimit before, few = {100, 100};
    getrlimit(RLIMIT_NOFILE, &before);
    few.rlim_max = before.rlim_max;
    pid_t process = fork();
    if (!process) {
        few.rlim_max = 100;
        setrlimit(RLIMIT_NOFILE, &few);
        pa_comm c;
        pa_err err = {""};
        pa_status s = join(&c, 0, 2, 1, &err);
        if (!strstr(err.text, "communication: 2 ranks need ") || !strstr(err.text, ", the limit is 100 (ulimit -n)"))
            _exit(100);
        _exit((int)s);
    }
    ended(process, PA_FAIL);
}

static void what_is_no_number_is_no_rank(void **state) {
    static const char *const bad[] = {"abc", "", "1x", "-1", "99999999999999999999"};
    pa_comm c;
    pa_err err;
    (void)state;
    unsetenv("SLURM_PROCID");
    unsetenv("SLURM_NTASKS");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        setenv("RANK", bad[i], 1);
        setenv("WORLD_SIZE", "2", 1);
        assert_int_equal(join(&c, -1, -1, 1, &err), PA_USAGE);
        char expected[256];
        snprintf(expected, sizeof expected, "$RANK: expected a whole number from 0 to 2147483647, found '%s'", bad[i]);
        assert_string_equal(err.text, expected);
        setenv("RANK", "1", 1);
        setenv("WORLD_SIZE", bad[i], 1);
        assert_int_equal(join(&c, -1, -1, 1, &err), PA_USAGE);
        snprintf(expected, sizeof expected, "$WORLD_SIZE: expected a whole number from 0 to 2147483647, found '%s'",
                 bad[i]);
        assert_string_equal(err.text, expected);
    }
    unsetenv("RANK");
    unsetenv("WORLD_SIZE");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(proofs_match_published_values),
        SCRATCH_TEST(silent_connections_hold_up_nobody),
        SCRATCH_TEST(a_silent_port_of_an_earlier_run_is_left_for_the_new_file),
        SCRATCH_TEST(an_echo_is_not_rank_0),
        SCRATCH_TEST(a_stranger_is_not_rank_1),
        SCRATCH_TEST(a_stranger_is_not_rank_0),
        SCRATCH_TEST(what_stands_in_the_way_is_named),
        SCRATCH_TEST(what_is_no_number_is_no_rank),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
