// test_damage.c: every byte of a small checkpoint and of a token file changed, and every length short of the whole:
// refused, or harmless. Harmless is: weights, moments, state or tokens are read as they were to the bit, with every
// other word of the file's. That holds for the letters of the name "header_crc32c", without which the header's sum is
// not looked for; all other bytes are refused.
#include <fcntl.h>
#include <math.h>

#include "host/train/checkpoint.h"
#include "host/train/saver.h"
#include "host/train/windows.h"
#include "tests/support/fixture.h"
#include "tests/support/scratch.h"

typedef struct {
    char path[SCRATCH_PATH + 64];
    char *text;
    size_t length, header, name; // the header's end; where the one name begins
    int fd;
} victim;

static void take(victim *v, const char *name) {
    uint64_t header;
    snprintf(v->path, sizeof v->path, "%s", scratch(name));
    assert_int_equal(pa_read_text(v->path, &v->text, &v->length, NULL), PA_OK);
    memcpy(&header, v->text, 8);
    v->header = 8 + header;
    v->name = (size_t)(strstr(v->text + 8, "header_crc32c") - v->text);
    v->fd = open(v->path, O_WRONLY);
    assert_true(v->fd >= 0 && v->name < v->header);
}

static void put_back(victim *v) {
    assert_int_equal(pwrite(v->fd, v->text, v->length, 0), v->length);
    close(v->fd);
    free(v->text);
}

// Lengths: each in the header, each word's in the data. Bytes: in the header each bit and all bits, in the data one
// change a byte, another for each: a CRC of 32 bits finds any within 32 bits.
static size_t damage(victim *v, pa_status (*read)(void *user, const char *path), void *user) {
    size_t accepted = 0;
    for (size_t n = v->length; n-- > 0;) {
        if (n > v->header && n % 4 && n + 1 < v->length) continue;
        assert_int_equal(ftruncate(v->fd, (off_t)n), 0);
        assert_int_equal(read(user, v->path), PA_DATA);
    }
    assert_int_equal(pwrite(v->fd, v->text, v->length, 0), v->length);
    for (size_t i = 0; i < v->length; i++) {
        for (int bit = 0; bit < (i < v->header ? 9 : 1); bit++) {
            int change = i >= v->header ? 1 + (int)(i % 255) : bit < 8 ? 1 << bit : 255;
            char damaged = (char)(v->text[i] ^ change);
            assert_int_equal(pwrite(v->fd, &damaged, 1, (off_t)i), 1);
            pa_status s = read(user, v->path);
            if (s != PA_DATA && !(s == PA_OK && i >= v->name && i < v->name + strlen("header_crc32c")))
                fail_msg("%s: byte %zu of %zu changed by %02x: status %d", v->path, i, v->length, (unsigned)change, s);
            accepted += s == PA_OK;
        }
        assert_int_equal(pwrite(v->fd, &v->text[i], 1, (off_t)i), 1);
    }
    return accepted;
}

// ---- a token file

static const uint16_t piece_1[] = {356 + 16, 60, 256 + 24, 128 + 60, 62, 256 + 3, 128 + 62},
                      piece_2[] = {356, 64, 256, 128 + 64};
static const pa_piece pieces[] = {{.token = (uint16_t *)piece_1, .count = 7, .notes = 2, .seconds = 0.3},
                                  {.token = (uint16_t *)piece_2, .count = 4, .notes = 1, .seconds = 0.01}};
static const char *const names[] = {"a/first.mid", "second \xc3\xbc.mid"};

static pa_status read_tokens(void *user, const char *path) {
    (void)user;
    static const int64_t offsets[] = {0, 7, 11}, notes[] = {2, 1};
    static const float seconds[] = {0.3f, 0.01f};
    pa_tokens t;
    pa_err err;
    pa_status s = pa_tokens_open(&t, path, &err);
    if (s) return s;
    assert_int_equal(t.pieces, 2);
    assert_int_equal(t.encoding, PA_MIDI_NEURAL);
    assert_memory_equal(t.offsets, offsets, sizeof offsets);
    assert_memory_equal(t.notes, notes, sizeof notes);
    assert_memory_equal(t.seconds, seconds, sizeof seconds);
    assert_memory_equal(t.tokens, piece_1, sizeof piece_1);
    assert_memory_equal(t.tokens + 7, piece_2, sizeof piece_2);
    assert_string_equal(pa_st_meta(t.file, "names"), "[\"a/first.mid\",\"second \xc3\xbc.mid\"]");
    assert_string_equal(pa_st_meta(t.file, "split"), "train");
    pa_tokens_close(&t);
    return PA_OK;
}

static void a_token_file(void **state) {
    (void)state;
    victim v;
    pa_err err;
    fixture_ok(pa_tokens_write(scratch("a"), pieces, names, 2, PA_MIDI_NEURAL, "train", &err), &err);
    assert_int_equal(read_tokens(NULL, scratch("a")), PA_OK);
    take(&v, "a");
    assert_true(damage(&v, read_tokens, NULL) > 0);
    put_back(&v);
}

// ---- a checkpoint

typedef struct {
    fixture f;
    pa_config config;
    pa_run_state state;
    pa_run run;
    double *expected[3];
} bench;

static const pa_kind kinds[] = {PA_PARAM, PA_MOMENT1, PA_MOMENT2};

// Both files have come through pa_st_open, as every reader's, before any tensor is looked at.
static pa_status read_checkpoint(void *user, const char *path) {
    bench *b = user;
    pa_st *st;
    pa_err err;
    bool found;
    pa_run_state state;
    pa_status s = pa_st_open(&st, path, &err);
    pa_st_close(st);
    if (s) return s;
    s = pa_checkpoint_resume(&b->run, &state, &found, &err);
    if (s) return s;
    assert_memory_equal(&state, &b->state, sizeof state);
    for (int k = 0; k < 3; k++) {
        double *have = fixture_read(b->run.backend, b->run.ctx, &b->f.params, kinds[k]);
        assert_memory_equal(have, b->expected[k], b->f.params.floats * sizeof *have);
        free(have);
    }
    return PA_OK;
}

static void a_checkpoint(void **state) {
    (void)state;
    bench b = {.config = pa_config_default(),
               .state = {.step = 7, .updates = 6, .seconds = 1.5, .skips = 1, .best = INFINITY, .seed = 1}};
    pa_model m = fixture_model();
    char dir[SCRATCH_PATH];
    pa_saver *saver;
    pa_err err;
    double sum, norm;
    m.dim = 8;
    m.heads = 1;
    m.depth = 1;
    b.config.model = m;
    fixture_init(&b.f, &m, 31);
    fixture_batch(&b.f, 2, 24, 15, 4, 37);
    pa_context *ctx = fixture_open(fixture_backend(), &b.f,
                                   (pa_open){.max_batch = 2, .training = true, .precision = PA_PRECISION_FP32});
    snprintf(dir, sizeof dir, "%s", scratch_folder);
    b.run = (pa_run){.dir = dir,
                     .config = &b.config,
                     .encoding = PA_MIDI_NEURAL,
                     .corpus = 7,
                     .params = &b.f.params,
                     .backend = fixture_backend(),
                     .ctx = ctx};
    fixture_ok(b.run.backend->loss_grad(ctx, &b.f.batch, 1.0f / 30, &sum, &err), &err);
    pa_update u = {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .step = 1};
    fixture_ok(b.run.backend->update(ctx, &u, &norm, NULL, &err), &err);
    for (int k = 0; k < 3; k++) b.expected[k] = fixture_read(b.run.backend, ctx, &b.f.params, kinds[k]);
    fixture_ok(pa_saver_open(&saver, &b.run, &err), &err);
    fixture_ok(pa_saver_save(saver, &b.state, false, &err), &err);
    fixture_ok(pa_saver_wait(saver, &err), &err);
    pa_saver_close(saver);
    for (int i = 0; i < 2; i++) {
        victim v;
        take(&v, i ? "checkpoints/step-00000007/state.safetensors" : "checkpoints/step-00000007/model.safetensors");
        assert_int_equal(read_checkpoint(&b, v.path), PA_OK);
        assert_true(damage(&v, read_checkpoint, &b) > 0);
        put_back(&v);
    }
    for (int k = 0; k < 3; k++) free(b.expected[k]);
    b.run.backend->close(ctx);
    fixture_clear(&b.f);
}

int main(void) {
    const struct CMUnitTest tests[] = {SCRATCH_TEST(a_token_file), SCRATCH_TEST(a_checkpoint)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
