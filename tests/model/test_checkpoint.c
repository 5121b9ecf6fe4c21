// test_checkpoint.c: what a run saves comes back to the bit; what is damaged is passed over and said; a save that fails leaves what there
// was. Files of only weights are in test_weights.c, whole runs that are killed in test_train.py.
#include "host/files/safetensors_write.h"
#include "host/train/checkpoint.h"
#include "host/train/saver.h"

#include <fcntl.h>
#include <math.h>

#include "tests/support/fixture.h"
#include "tests/support/scratch.h"

// A tiny model in training, and its run directory RUN.
typedef struct {
    fixture f;
    pa_config config;
    pa_run_state state;
    pa_context *ctx;
    char run[SCRATCH_PATH];
} bench;

static void begin(bench *b) {
    pa_model m = fixture_model();
    *b = (bench){.config = pa_config_default()};
    b->config.model = m;
    b->state = (pa_run_state){.best = INFINITY, .seed = 1, .evaluated = -1};
    fixture_init(&b->f, &m, 31);
    fixture_batch(&b->f, 2, 24, 15, 4, 37);
    b->ctx = fixture_open(fixture_backend(), &b->f, (pa_open){.max_batch = 2, .training = true, .precision = PA_PRECISION_FP32});
    snprintf(b->run, sizeof b->run, "%s/run", scratch_folder);
}

static void end(bench *b) {
    fixture_backend()->close(b->ctx);
    fixture_clear(&b->f);
}

static double train(bench *b) {
    const pa_backend *be = fixture_backend();
    pa_err err;
    double sum, norm;
    fixture_ok(be->loss_grad(b->ctx, &b->f.batch, 1.0f / 30, &sum, &err), &err);
    b->state.step++, b->state.updates++;
    pa_update u = {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.01, .decoupled = true, .clip = 1};
    u.step = b->state.updates;
    fixture_ok(be->update(b->ctx, &u, &norm, NULL, &err), &err);
    return sum;
}

static pa_run run_of(const bench *b) {
    return (pa_run){.dir = b->run,
                    .config = &b->config,
                    .encoding = PA_MIDI_NEURAL,
                    .corpus = 0xc0ffee,
                    .params = &b->f.params,
                    .backend = fixture_backend(),
                    .ctx = b->ctx};
}

static pa_status try_save(bench *b, bool best, pa_err *err) {
    pa_run run = run_of(b);
    pa_saver *saver;
    pa_status s = pa_saver_open(&saver, &run, err);
    if (!s) s = pa_saver_save(saver, &b->state, best, err);
    if (!s) s = pa_saver_wait(saver, err);
    pa_saver_close(saver);
    return s;
}

static void save(bench *b, int64_t step, bool best) {
    pa_err err;
    b->state.step = step;
    fixture_ok(try_save(b, best, &err), &err);
}

static pa_status resume(bench *b, bool *found, pa_err *err) {
    pa_run run = run_of(b);
    return pa_checkpoint_resume(&run, &b->state, found, err);
}

static const char *in_run(const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/run/%s", scratch_folder, name);
    return path;
}

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
        free(x), free(y);
    }
}

static void a_run_goes_on_to_the_bit(void **state) {
    (void)state;
    bench a, b;
    pa_err err;
    bool found;
    begin(&a), begin(&b);
    train(&a), train(&a), train(&a);
    a.state.seconds = 1.0 / 3, a.state.skips = 7, a.state.best = 0.1 + 0.2, a.state.best_step = 2, a.state.updates = 12,
    a.state.evaluated = 1;
    save(&a, 3, false);
    fixture_ok(resume(&b, &found, &err), &err);
    assert_true(found);
    assert_memory_equal(&a.state, &b.state, sizeof a.state);
    expect_same_tensors(&a, &b);
    assert_true(train(&a) == train(&b));
    expect_same_tensors(&a, &b);
    end(&a), end(&b);
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
    begin(&a), begin(&b);
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
    free(w), free(have);
    end(&a), end(&b);
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
    begin(&a), begin(&b);
    save(&a, 5, true);
    train(&a);
    save(&a, 5, false);
    assert_string_equal(steps_of(), "5");
    fixture_ok(resume(&b, &found, &err), &err);
    expect_same_tensors(&a, &b);
    end(&a), end(&b);
}

static void leavings_of_interrupted_saves_are_removed(void **state) {
    (void)state;
    bench b;
    pa_err err;
    bool found;
    begin(&b);
    save(&b, 5, false);
    fixture_ok(pa_make_dirs(in_run("checkpoints/step-00000006.tmp.4711"), &err), &err);
    scratch_put("run/checkpoints/step-00000006.tmp.4711/model.safetensors", "half");
    fixture_ok(pa_make_dirs(in_run("checkpoints/mine"), &err), &err); // whatever else someone put there stays
    fixture_ok(resume(&b, &found, &err), &err);
    assert_int_equal(b.state.step, 5);
    assert_string_equal(steps_of(), "mine 5");
    end(&b);
}

// Where two folders can't be exchanged, the old one of a step stands aside for a moment.
static void a_folder_that_stood_aside_comes_back(void **state) {
    (void)state;
    bench b;
    pa_err err;
    bool found;
    begin(&b);
    save(&b, 5, false), save(&b, 6, false);
    char from[512];
    snprintf(from, sizeof from, "%s", in_run("checkpoints/step-00000006"));
    assert_int_equal(rename(from, in_run("checkpoints/step-00000006.old")), 0);
    fixture_ok(resume(&b, &found, &err), &err);
    assert_int_equal(b.state.step, 6);
    assert_string_equal(steps_of(), "5 6");
    fixture_ok(pa_make_dirs(in_run("checkpoints/step-00000005.old"), &err), &err); // the new one is there: the old one goes
    fixture_ok(resume(&b, &found, &err), &err);
    assert_string_equal(steps_of(), "5 6");
    end(&b);
}

// ---- damage

static void shorten(const char *name) {
    struct stat s;
    assert_int_equal(stat(in_run(name), &s), 0);
    assert_int_equal(truncate(in_run(name), s.st_size - 4), 0);
}

static void flip(const char *name) {
    FILE *f = fopen(in_run(name), "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, -101, SEEK_END), 0);
    int byte = fgetc(f);
    assert_int_equal(fseek(f, -101, SEEK_END), 0);
    assert_true(fputc(byte ^ 4, f) != EOF);
    assert_int_equal(fclose(f), 0);
}

static void cut_to_nothing(const char *name) {
    assert_int_equal(truncate(in_run(name), 0), 0);
}

static void put_text(const char *name) {
    FILE *f = fopen(in_run(name), "w");
    assert_true(f && fputs("no weights at all", f) >= 0 && !fclose(f));
}

static void take_away(const char *name) {
    assert_int_equal(pa_remove_tree(in_run(name), NULL), 0);
}

static void copy_of_tokens(const char *name) { // a safetensors file, and whole, but another kind
    pa_meta meta = {"format", "patrain-tokens-1"};
    fixture_ok(pa_st_write(in_run(name), NULL, 0, &meta, 1, NULL), &(pa_err){""});
}

static void state_of_another_step(const char *name) {
    char *text, from[512];
    size_t length;
    snprintf(from, sizeof from, "%s", in_run("checkpoints/step-00000010/state.safetensors"));
    assert_int_equal(pa_read_text(from, &text, &length, NULL), PA_OK);
    FILE *f = fopen(in_run(name), "wb");
    assert_true(f && fwrite(text, 1, length, f) == length && !fclose(f));
    free(text);
}

static void link_to_another_place(const char *name) {
    char from[512], to[512];
    snprintf(from, sizeof from, "%s", in_run(name));
    snprintf(to, sizeof to, "%s", in_run("elsewhere"));
    assert_int_equal(rename(from, to), 0);
    assert_int_equal(symlink(to, from), 0);
}

#define NEWEST "checkpoints/step-00000020"
static const struct {
    void (*damage)(const char *name);
    const char *name, *message; // message: what follows the file's path
} damages[] = {
    {shorten, NEWEST "/model.safetensors", "; the file is cut short: expected "},
    {shorten, NEWEST "/state.safetensors", "; the file is cut short: expected "},
    {flip, NEWEST "/model.safetensors", "expected data with CRC-32C"},
    {flip, NEWEST "/state.safetensors", "expected data with CRC-32C"},
    {cut_to_nothing, NEWEST "/model.safetensors", "expected a safetensors file of at least 8 bytes, found 0"},
    {cut_to_nothing, NEWEST "/state.safetensors", "expected a safetensors file of at least 8 bytes, found 0"},
    {put_text, NEWEST "/model.safetensors", "expected a safetensors file, found one that begins with \"no weights at al\""},
    {put_text, NEWEST "/state.safetensors", "expected a safetensors file, found one that begins with \"no weights at al\""},
    {take_away, NEWEST "/model.safetensors", "expected a run directory or a checkpoint, found no checkpoint in it"},
    {take_away, NEWEST "/state.safetensors", "expected the state that belongs to model.safetensors, found none"},
    {copy_of_tokens, NEWEST "/model.safetensors", "expected format patrain-checkpoint-1, found patrain-tokens-1"},
    {copy_of_tokens, NEWEST "/state.safetensors", "expected metadata step, found none"},
    {link_to_another_place, NEWEST, "expected a file or folder of the run, found a link"},
    {link_to_another_place, NEWEST "/model.safetensors", "expected a file or folder of the run, found a link"},
    {link_to_another_place, NEWEST "/state.safetensors", "expected a file or folder of the run, found a link"},
    {state_of_another_step, NEWEST "/state.safetensors", "expected step 20, of model.safetensors, found 10"},
};
enum { DAMAGES = sizeof damages / sizeof *damages };

// stderr of what follows goes to a file, until it is read back.
static int kept_stderr;
static void listen(void) {
    fflush(stderr);
    kept_stderr = dup(STDERR_FILENO);
    int fd = open(scratch("stderr"), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    assert_true(fd >= 0 && dup2(fd, STDERR_FILENO) >= 0);
    close(fd);
}

static char *heard(void) {
    char *text;
    fflush(stderr);
    dup2(kept_stderr, STDERR_FILENO), close(kept_stderr);
    assert_int_equal(pa_read_text(scratch("stderr"), &text, NULL, NULL), PA_OK);
    return text;
}

static void a_damaged_checkpoint_is_passed_over_and_told_of(void **state) {
    (void)state;
    for (int i = 0; i < DAMAGES; i++) {
        bench a, b;
        pa_err err;
        bool found = false;
        begin(&a), begin(&b);
        train(&a);
        save(&a, 10, false);
        double *w = fixture_read(fixture_backend(), a.ctx, &a.f.params, PA_PARAM);
        train(&a);
        save(&a, 20, false);
        damages[i].damage(damages[i].name);
        listen();
        pa_status s = resume(&b, &found, &err);
        char *said = heard();
        fixture_ok(s, &err);
        assert_true(found && b.state.step == 10 && b.state.updates == 1);
        assert_ptr_equal(strstr(said, "skipping a damaged checkpoint: "), said);
        assert_non_null(strstr(said, NEWEST));
        if (!strstr(said, damages[i].message)) fail_msg("expected \"%s\", found: %s", damages[i].message, said);
        double *have = fixture_read(fixture_backend(), b.ctx, &b.f.params, PA_PARAM);
        assert_memory_equal(w, have, a.f.params.floats * sizeof *w);
        free(w), free(have), free(said);
        end(&a), end(&b);
        assert_int_equal(pa_remove_tree(in_run(""), NULL), 0);
    }
}

static void nothing_but_damage_is_an_error(void **state) {
    (void)state;
    bench b;
    pa_err err;
    bool found = true;
    char expected[SCRATCH_PATH + 128];
    begin(&b);
    save(&b, 10, false), save(&b, 20, false);
    flip("checkpoints/step-00000010/model.safetensors");
    take_away("checkpoints/step-00000020/model.safetensors");
    listen();
    pa_status s = resume(&b, &found, &err);
    free(heard());
    assert_int_equal(s, PA_DATA);
    assert_false(found);
    snprintf(expected, sizeof expected,
             "%s/checkpoints: expected an intact checkpoint, found 2 damaged; --fresh starts over and keeps them aside", b.run);
    assert_string_equal(err.text, expected);
    end(&b);
}

// ---- another run's

static void another_model_or_seed_is_refused_by_name(void **state) {
    (void)state;
    bench b;
    pa_err err;
    bool found;
    begin(&b);
    save(&b, 10, false);
    b.config.model.prefix_dropout = 0.5, b.config.model.z_loss = 1; // of training only
    fixture_ok(resume(&b, &found, &err), &err);
    b.config.train.seed = 6;
    assert_int_equal(resume(&b, &found, &err), PA_USAGE);
    assert_string_equal(err.text, "train.seed: checkpoint 1, configuration 6");
    b.config.model.dim = 32, b.config.model.qk_norm = true;
    assert_int_equal(resume(&b, &found, &err), PA_USAGE);
    assert_string_equal(err.text, "model.dim: checkpoint 16, configuration 32; model.qk_norm: checkpoint false, configuration true");
    assert_false(found);
    end(&b);
}

// ---- a full disk

// Room for ever more of the files, until all of a checkpoint fits: an error every time before, nothing left beside, and the old one whole.
static void a_full_disk_leaves_the_old_checkpoint(void **state) {
    (void)state;
    bench a, b;
    pa_err err = {""};
    bool found;
    begin(&a), begin(&b);
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
    end(&a), end(&b);
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
        SCRATCH_TEST(a_run_goes_on_to_the_bit),
        SCRATCH_TEST(a_run_without_checkpoint_starts),
        SCRATCH_TEST(infinity_is_kept_as_the_best_before_the_first),
        SCRATCH_TEST(what_is_saved_is_what_was_there_when_it_began),
        SCRATCH_TEST(an_error_in_the_background_comes_forward),
        SCRATCH_TEST(the_newest_and_the_best_are_kept),
        SCRATCH_TEST(the_same_step_is_saved_over),
        SCRATCH_TEST(leavings_of_interrupted_saves_are_removed),
        SCRATCH_TEST(a_folder_that_stood_aside_comes_back),
        SCRATCH_TEST(a_damaged_checkpoint_is_passed_over_and_told_of),
        SCRATCH_TEST(nothing_but_damage_is_an_error),
        SCRATCH_TEST(another_model_or_seed_is_refused_by_name),
        SCRATCH_TEST(a_full_disk_leaves_the_old_checkpoint),
        SCRATCH_TEST(a_folder_that_cannot_be_made_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
