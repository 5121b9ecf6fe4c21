// test_checkpoint_damage.c: a damaged checkpoint is skipped, with a message that names the file and what is wrong with
// it; another model's or another seed's is refused.
#include "host/files/safetensors_write.h"

#include <fcntl.h>

#include "tests/support/training.h"

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
    {put_text, NEWEST "/model.safetensors",
     "expected a safetensors file, found one that begins with \"no weights at al\""},
    {put_text, NEWEST "/state.safetensors",
     "expected a safetensors file, found one that begins with \"no weights at al\""},
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
    dup2(kept_stderr, STDERR_FILENO);
    close(kept_stderr);
    assert_int_equal(pa_read_text(scratch("stderr"), &text, NULL, NULL), PA_OK);
    return text;
}

static void a_damaged_checkpoint_is_skipped_with_a_message(void **state) {
    (void)state;
    for (int i = 0; i < DAMAGES; i++) {
        bench a, b;
        pa_err err;
        bool found = false;
        begin(&a);
        begin(&b);
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
        free(w);
        free(have);
        free(said);
        end(&a);
        end(&b);
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
    save(&b, 10, false);
    save(&b, 20, false);
    flip("checkpoints/step-00000010/model.safetensors");
    take_away("checkpoints/step-00000020/model.safetensors");
    listen();
    pa_status s = resume(&b, &found, &err);
    free(heard());
    assert_int_equal(s, PA_DATA);
    assert_false(found);
    snprintf(expected, sizeof expected,
             "%s/checkpoints: expected an intact checkpoint, found 2 damaged; --fresh starts over and keeps them aside",
             b.run);
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
    b.config.model.dim = 32;
    b.config.model.qk_norm = true;
    assert_int_equal(resume(&b, &found, &err), PA_USAGE);
    assert_string_equal(
        err.text, "model.dim: checkpoint 16, configuration 32; model.qk_norm: checkpoint false, configuration true");
    assert_false(found);
    end(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(a_damaged_checkpoint_is_skipped_with_a_message),
        SCRATCH_TEST(nothing_but_damage_is_an_error),
        SCRATCH_TEST(another_model_or_seed_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
