// test_checkpoint.c: what a run saves comes back to the bit; a save that fails leaves what there was. Damaged
// checkpoints are in test_checkpoint_damage.c, files of only weights in test_weights.c, whole runs that are killed in
// test_train.py.
#include "host/files/checkpoint_list.h"
#include "tests/support/training.h"

// The checkpoints there are, "2 5 6", in order.
static const char *steps_of(void) {
    static char text[256];
    size_t at = 0;
    struct dirent **e;
    int n = scandir(in_run("checkpoints"), &e, NULL, alphasort);
    text[0] = 0;
    for (int i = 0; i < n; i++) {
        if (!strncmp(e[i]->d_name, "step-", 5) && strlen(e[i]->d_name) == 13)
            at += (size_t)snprintf(text + at, sizeof text - at, "%s%d", at ? " " : "", atoi(e[i]->d_name + 5));
        else if (e[i]->d_name[0] != '.')
            at += (size_t)snprintf(text + at, sizeof text - at, "%s%s", at ? " " : "", e[i]->d_name);
        free(e[i]);
    }
    if (n >= 0) free(e);
    return text;
}

static void expect_link(const char *name, const char *target) {
    char found[256] = "";
    assert_true(readlink(in_run(name), found, sizeof found - 1) > 0);
    assert_string_equal(found, target);
}

// ---- to the bit

static void expect_same_tensors(bench *a, bench *b) {
    for (int kind = PA_PARAM; kind <= PA_MOMENT2; kind++) {
        if (kind == PA_GRAD) continue;
        double *x = fixture_read(fixture_backend(), a->ctx, &a->f.params, (pa_kind)kind);
        double *y = fixture_read(fixture_backend(), b->ctx, &b->f.params, (pa_kind)kind);
        assert_true(fixture_norm(x, a->f.params.floats) > 0);
        assert_memory_equal(x, y, a->f.params.floats * sizeof *x);
        free(x);
        free(y);
    }
}

static void a_run_resumes_to_the_bit(void **state) {
    (void)state;
    bench a, b;
    pa_err err;
    bool found;
    begin(&a);
    begin(&b);
    train(&a);
    train(&a);
    train(&a);
    a.state.seconds = 1.0 / 3, a.state.skips = 7, a.state.best = 0.1 + 0.2, a.state.best_step = 2, a.state.updates = 12,
    a.state.evaluated = 1;
    save(&a, 3, false);
    fixture_ok(resume(&b, &found, &err), &err);
    assert_true(found);
    assert_memory_equal(&a.state, &b.state, sizeof a.state);
    expect_same_tensors(&a, &b);
    assert_true(train(&a) == train(&b));
    expect_same_tensors(&a, &b);
    end(&a);
    end(&b);
}

static void a_run_without_checkpoint_starts(void **state) {
    (void)state;
    bench b;
    pa_err err;
    bool found = true;
    begin(&b);
    fixture_ok(resume(&b, &found, &err), &err); // not even a directory
    assert_false(found);
    fixture_ok(pa_make_dirs(in_run("checkpoints"), &err), &err);
    found = true;
    fixture_ok(resume(&b, &found, &err), &err);
    assert_false(found);
    end(&b);
}

static void infinity_is_kept_as_the_best_before_the_first(void **state) {
    (void)state;
    bench b;
    pa_err err;
    bool found;
    begin(&b);
    save(&b, 0, false);
    b.state.best = 3;
    fixture_ok(resume(&b, &found, &err), &err);
    assert_true(isinf(b.state.best) && b.state.evaluated == -1);
    end(&b);
}

// ---- in the background

static void what_is_saved_is_what_was_there_when_it_began(void **state) {
    (void)state;
    bench a, b;
    pa_err err;
    pa_saver *saver;
    bool found;
    begin(&a);
    begin(&b);
    pa_run run = run_of(&a);
    fixture_ok(pa_saver_open(&saver, &run, &err), &err);
    for (int i = 1; i <= 5; i++) { // the last of them is under way when the next begins, and when the saver is closed
        train(&a), train(&b);
        a.state.step = i;
        fixture_ok(pa_saver_save(saver, &a.state, false, &err), &err);
    }
    a.state.step = 6; // both are the trainer's again
    train(&a);
    pa_saver_close(saver);
    double *w = fixture_read(fixture_backend(), b.ctx, &b.f.params, PA_PARAM);
    fixture_ok(resume(&b, &found, &err), &err);
    assert_true(found && b.state.step == 5);
    double *have = fixture_read(fixture_backend(), b.ctx, &b.f.params, PA_PARAM);
    assert_memory_equal(w, have, a.f.params.floats * sizeof *w);
    free(w);
    free(have);
    end(&a);
    end(&b);
}

static void an_error_in_the_background_comes_forward(void **state) {
    (void)state;
    bench b;
    pa_err err, again;
    pa_saver *saver;
    begin(&b);
    save(&b, 1, false);
    pa_run run = run_of(&b);
    fixture_ok(pa_saver_open(&saver, &run, &err), &err);
    scratch_limit(1000);
    b.state.step = 2;
    fixture_ok(pa_saver_save(saver, &b.state, false, &err), &err);
    while (!pa_saver_check(saver, &err)) usleep(1000);
    assert_non_null(strstr(err.text, "/model.safetensors, "));
    assert_int_equal(pa_saver_wait(saver, &again), PA_FAIL);
    assert_string_equal(again.text, err.text);
    assert_int_equal(pa_saver_save(saver, &b.state, false, &again), PA_FAIL); // the run is over
    assert_string_equal(again.text, err.text);
    scratch_limit(0);
    pa_saver_close(saver);
    assert_string_equal(steps_of(), "1");
    end(&b);
}

// ---- which ones are there

static void the_newest_and_the_best_are_kept(void **state) {
    (void)state;
    bench b;
    begin(&b);
    b.config.checkpoint.keep = 2;
    for (int step = 1; step <= 6; step++) {
        save(&b, step, step == 2);
        assert_true(!access(in_run("latest/state.safetensors"), R_OK));
    }
    assert_string_equal(steps_of(), "2 5 6");
    expect_link("latest", "checkpoints/step-00000006");
    expect_link("best", "checkpoints/step-00000002");
    assert_true(!access(in_run("best/model.safetensors"), R_OK));
    b.config.checkpoint.keep = 1;
    save(&b, 7, false);
    assert_string_equal(steps_of(), "2 7");
    save(&b, 8, true); // the one that was best before goes
    assert_string_equal(steps_of(), "8");
    save(&b, 3, false); // gone back to: latest is never removed, though others are newer
    assert_string_equal(steps_of(), "3 8");
    expect_link("latest", "checkpoints/step-00000003");
    end(&b);
}

static void the_same_step_is_saved_over(void **state) {
    (void)state;
    bench a, b;
    pa_err err;
    bool found;
    begin(&a);
    begin(&b);
    save(&a, 5, true);
    train(&a);
    save(&a, 5, false);
    assert_string_equal(steps_of(), "5");
    fixture_ok(resume(&b, &found, &err), &err);
    expect_same_tensors(&a, &b);
    end(&a);
    end(&b);
}

#define KILLED "0123456789abcdef" // the word of a process that was killed

static void leavings_of_interrupted_saves_are_removed(void **state) {
    (void)state;
    bench b;
    pa_err err;
    bool found;
    begin(&b);
    save(&b, 5, false);
    fixture_ok(pa_make_dirs(in_run("checkpoints/step-00000006.tmp." KILLED), &err), &err);
    scratch_put("run/checkpoints/step-00000006.tmp." KILLED "/model.safetensors", "half");
    static const char *const mine[] = {"mine", "step-00000005.old", "step-00000005.tmp.good",
                                       "step-00000005.tmp.0123456789abcdee"};
    for (size_t i = 0; i < sizeof mine / sizeof *mine; i++) { // whatever else someone put there stays
        char path[64];
        snprintf(path, sizeof path, "checkpoints/%s", mine[i]);
        fixture_ok(pa_make_dirs(in_run(path), &err), &err);
    }
    fixture_ok(pa_checkpoint_tidy(in_run(""), KILLED, &err), &err);
    fixture_ok(resume(&b, &found, &err), &err);
    assert_int_equal(b.state.step, 5);
    assert_string_equal(steps_of(),
                        "mine 5 step-00000005.old step-00000005.tmp.0123456789abcdee step-00000005.tmp.good");
    end(&b);
}

// Where two folders can't be exchanged, the old one of a step stands aside for a moment.
static void a_folder_that_stood_aside_comes_back(void **state) {
    (void)state;
    bench b;
    pa_err err;
    bool found;
    begin(&b);
    save(&b, 5, false);
    save(&b, 6, false);
    char from[512];
    snprintf(from, sizeof from, "%s", in_run("checkpoints/step-00000006"));
    assert_int_equal(rename(from, in_run("checkpoints/step-00000006.old." KILLED)), 0);
    fixture_ok(pa_checkpoint_tidy(in_run(""), KILLED, &err), &err);
    fixture_ok(resume(&b, &found, &err), &err);
    assert_int_equal(b.state.step, 6);
    assert_string_equal(steps_of(), "5 6");
    fixture_ok(pa_make_dirs(in_run("checkpoints/step-00000005.old." KILLED), &err),
               &err); // the new one is there: the old one goes
    fixture_ok(pa_checkpoint_tidy(in_run(""), KILLED, &err), &err);
    fixture_ok(resume(&b, &found, &err), &err);
    assert_string_equal(steps_of(), "5 6");
    end(&b);
}

// ---- a full disk

// Room for ever more of the files, until all of a checkpoint fits: an error every time before, nothing left beside, and
// the old one whole.
static void a_full_disk_leaves_the_old_checkpoint(void **state) {
    (void)state;
    bench a, b;
    pa_err err = {""};
    bool found;
    begin(&a);
    begin(&b);
    train(&a);
    save(&a, 10, true);
    double *w = fixture_read(fixture_backend(), a.ctx, &a.f.params, PA_PARAM);
    train(&a);
    a.state.step = 20;
    size_t whole = 8 * a.f.params.floats; // of both moments, without the header
    pa_status s = PA_FAIL;
    for (size_t room = 16; s; room += whole / 5) {
        scratch_limit(room);
        s = try_save(&a, true, &err);
        scratch_limit(0);
        assert_true(s == PA_FAIL || room > whole);
        if (!s) break;
        assert_non_null(strstr(err.text, "cannot write "));
        assert_non_null(strstr(err.text, "File too large"));
        assert_string_equal(steps_of(), "10");
        expect_link("latest", "checkpoints/step-00000010");
        fixture_ok(resume(&b, &found, &err), &err);
        double *have = fixture_read(fixture_backend(), b.ctx, &b.f.params, PA_PARAM);
        assert_memory_equal(w, have, a.f.params.floats * sizeof *w);
        free(have);
    }
    assert_string_equal(steps_of(), "10 20");
    free(w);
    end(&a);
    end(&b);
}

static void a_folder_that_cannot_be_made_is_named(void **state) {
    (void)state;
    bench b;
    pa_err err;
    begin(&b);
    scratch_put("run", "a file");
    assert_int_equal(try_save(&b, false, &err), PA_FAIL);
    assert_non_null(strstr(err.text, "/run: expected a folder, found a file"));
    end(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(a_run_resumes_to_the_bit),
        SCRATCH_TEST(a_run_without_checkpoint_starts),
        SCRATCH_TEST(infinity_is_kept_as_the_best_before_the_first),
        SCRATCH_TEST(what_is_saved_is_what_was_there_when_it_began),
        SCRATCH_TEST(an_error_in_the_background_comes_forward),
        SCRATCH_TEST(the_newest_and_the_best_are_kept),
        SCRATCH_TEST(the_same_step_is_saved_over),
        SCRATCH_TEST(leavings_of_interrupted_saves_are_removed),
        SCRATCH_TEST(a_folder_that_stood_aside_comes_back),
        SCRATCH_TEST(a_full_disk_leaves_the_old_checkpoint),
        SCRATCH_TEST(a_folder_that_cannot_be_made_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
