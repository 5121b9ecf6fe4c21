// test_hub.c: the bounds of what passes between the server's two threads.
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "host/serve/hub.h"

static int woken;

static void wake(void *arg) {
    (void)arg;
    woken++;
}

static bool upload(pa_hub *h, uint64_t client, size_t count) {
    pa_message m = {.deed = PA_DO_UPLOAD, .bytes = malloc(count), .count = count};
    assert_non_null(m.bytes);
    return pa_hub_ask(h, client, &m);
}

static void requests_are_bounded(void **state) {
    (void)state;
    pa_hub *h = pa_hub_open(wake, NULL);
    uint64_t one = pa_hub_join(h), other = pa_hub_join(h);
    pa_request r;
    for (int i = 0; i < PA_MOST_WAITING; i++) assert_true(pa_hub_ask(h, one, &(pa_message){.deed = PA_DO_HELLO}));
    assert_false(pa_hub_ask(h, one, &(pa_message){.deed = PA_DO_HELLO}));
    assert_true(pa_hub_ask(h, other, &(pa_message){.deed = PA_DO_HELLO}));
    assert_true(pa_hub_next(h, &r, 0)); // makes room for another
    assert_true(pa_hub_ask(h, one, &(pa_message){.deed = PA_DO_HELLO}));
    pa_hub_close(h);
}

static void uploads_are_bounded(void **state) {
    (void)state;
    enum { OF_ONE = PA_MOST_UPLOADED / PA_LONGEST_UPLOAD, CLIENTS = PA_MOST_UPLOADED_OF_ALL / PA_MOST_UPLOADED };
    pa_hub *h = pa_hub_open(wake, NULL);
    uint64_t client[CLIENTS + 1];
    pa_request r;
    for (int i = 0; i <= CLIENTS; i++) client[i] = pa_hub_join(h);
    for (int i = 0; i < OF_ONE; i++) assert_true(upload(h, client[0], PA_LONGEST_UPLOAD));
    assert_false(upload(h, client[0], 1));
    assert_true(upload(h, client[1], 1)); // others are served
    for (int i = 0; i <= OF_ONE; i++) {
        assert_true(pa_hub_next(h, &r, 0));
        free(r.message.bytes);
    }
    for (int i = 0; i < CLIENTS; i++)
        for (int k = 0; k < OF_ONE; k++) assert_true(upload(h, client[i], PA_LONGEST_UPLOAD));
    assert_false(upload(h, client[CLIENTS], 1));
    assert_true(pa_hub_next(h, &r, 0));
    free(r.message.bytes);
    assert_true(upload(h, client[CLIENTS], 1));
    pa_hub_close(h);
}

static void clients_are_bounded(void **state) {
    (void)state;
    pa_hub *h = pa_hub_open(wake, NULL);
    uint64_t client[PA_MOST_CLIENTS];
    for (int i = 0; i < PA_MOST_CLIENTS; i++) assert_true((client[i] = pa_hub_join(h)) > 0);
    assert_int_equal(pa_hub_join(h), 0);
    pa_hub_leave(h, client[7]);
    uint64_t next = pa_hub_join(h);
    assert_true(next > client[PA_MOST_CLIENTS - 1]); // never one that was
    pa_hub_close(h);
}

static void a_client_that_does_not_read(void **state) {
    (void)state;
    static char text[1 << 16];
    pa_hub *h = pa_hub_open(wake, NULL);
    uint64_t slow = pa_hub_join(h), other = pa_hub_join(h);
    bool more;
    woken = 0;
    for (int i = 0; i < PA_MOST_UNSENT / (int)sizeof text; i++) pa_hub_say(h, slow, text, sizeof text);
    assert_false(pa_hub_is_slow(h, slow));
    assert_int_equal(woken, 1);
    pa_hub_say(h, slow, text, 1);
    assert_true(pa_hub_is_slow(h, slow));
    assert_int_equal(woken, 2);
    assert_null(pa_hub_reply(h, slow, &more));
    pa_hub_say(h, other, "x", 1);
    pa_reply *r = pa_hub_reply(h, other, &more);
    assert_non_null(r);
    assert_false(more);
    free(r);
    pa_hub_close(h);
}

static void files_are_bounded(void **state) {
    (void)state;
    enum { OF_ONE = PA_MOST_FILES / 2 - 2, CLIENTS = PA_MOST_FILES_OF_ALL / PA_MOST_FILES };
    char *file = calloc(1, 2 * PA_MOST_FILES);
    pa_hub *h = pa_hub_open(wake, NULL);
    uint64_t client[CLIENTS + 1];
    bool more;
    assert_non_null(file);
    for (int i = 0; i <= CLIENTS; i++) client[i] = pa_hub_join(h);
    for (int i = 0; i < CLIENTS; i++) {
        for (int k = 0; k < 2; k++) assert_true(pa_hub_say_file(h, client[i], "{}", file, OF_ONE));
        assert_false(pa_hub_say_file(h, client[i], "{}", file, OF_ONE)); // others are served
    }
    assert_false(pa_hub_say_file(h, client[CLIENTS], "{}", file, OF_ONE));
    assert_false(pa_hub_is_slow(h, client[0])); // files are no flood of replies
    pa_hub_say(h, client[0], "x", 1);
    pa_reply *head = pa_hub_reply(h, client[0], &more), *first = pa_hub_reply(h, client[0], &more);
    assert_true(!head->binary && first->binary && first->count == OF_ONE);
    assert_memory_equal(head->room + PA_ROOM_BEFORE, "{}", 2);
    free(head);
    free(first);
    assert_true(pa_hub_say_file(h, client[CLIENTS], "{}", file, OF_ONE));
    for (int i = 0; i < 3; i++) pa_hub_leave(h, client[i]);
    pa_hub_leave(h, client[CLIENTS]);
    uint64_t other = pa_hub_join(h);
    assert_true(pa_hub_say_file(h, other, "{}", file, 2 * PA_MOST_FILES)); // one, however large
    assert_false(pa_hub_say_file(h, other, "{}", file, 1));
    pa_hub_close(h);
    free(file);
}

int main(void) {
    const struct CMUnitTest test[] = {cmocka_unit_test(requests_are_bounded), cmocka_unit_test(uploads_are_bounded),
                                      cmocka_unit_test(clients_are_bounded),
                                      cmocka_unit_test(a_client_that_does_not_read),
                                      cmocka_unit_test(files_are_bounded)};
    return cmocka_run_group_tests(test, NULL, NULL);
}
