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
    pa_hub *h = pa_hub_open(wake, NULL);
    uint64_t one = pa_hub_join(h), other = pa_hub_join(h);
    pa_request r;
    for (int i = 0; i < PA_MOST_UPLOADED / PA_LONGEST_UPLOAD; i++)
        assert_true(upload(h, i % 2 ? one : other, PA_LONGEST_UPLOAD));
    assert_false(upload(h, one, 1));
    assert_true(pa_hub_next(h, &r, 0));
    free(r.message.bytes);
    assert_true(upload(h, one, 1));
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
    enum { FILE_SIZE = 1 << 23 };
    char *file = calloc(1, FILE_SIZE);
    pa_hub *h = pa_hub_open(wake, NULL);
    uint64_t one = pa_hub_join(h), other = pa_hub_join(h);
    bool more;
    assert_non_null(file);
    for (int i = 0; i < PA_MOST_FILES / FILE_SIZE - 1; i++) assert_true(pa_hub_say_file(h, one, "{}", file, FILE_SIZE));
    assert_false(pa_hub_say_file(h, other, "{}", file, FILE_SIZE));
    assert_false(pa_hub_is_slow(h, one)); // files are no flood of replies
    pa_hub_say(h, one, "x", 1);
    pa_reply *head = pa_hub_reply(h, one, &more), *first = pa_hub_reply(h, one, &more);
    assert_true(!head->binary && first->binary && first->count == FILE_SIZE);
    assert_memory_equal(head->room + PA_ROOM_BEFORE, "{}", 2);
    free(head);
    free(first);
    assert_true(pa_hub_say_file(h, other, "{}", file, FILE_SIZE));
    pa_hub_leave(h, one);
    for (int i = 0; i < PA_MOST_FILES / FILE_SIZE - 2; i++)
        assert_true(pa_hub_say_file(h, other, "{}", file, FILE_SIZE));
    assert_false(pa_hub_say_file(h, other, "{}", file, FILE_SIZE));
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
