// test_config.c: a configuration is read in all its forms; every mistake is reported with its line, its key and what
// was expected.
#include "host/files/config.h"
#include "host/files/config_read.h"

#include <math.h>

#include "host/files/config_schema.h"
#include "tests/support/rows.h"
#include "tests/support/same_config.h"
#include "tests/support/scratch.h"

static pa_err err;

// ---- what is accepted

static void values_are_read_in_all_their_forms(void **state) {
    (void)state;
    static const char text[] = "\xef\xbb\xbf# first\r\n"
                               "[model]\r\n"
                               "context=4096 ; tokens\r\n"
                               "  prefix : 1e3\t;indented, with a comment\n"
                               "\tposition = rotary\n"
                               "rotary_dims = 0\n"
                               "final_norm = yes\nqk_norm = on\ntie_embeddings = 1\n"
                               "; a comment\n   # another = one\n\n"
                               "[data] ; with a comment\n"
                               "train = a folder/x;y#z=1.safetensors ; not this\n"
                               "validation =\n"
                               "sampling = token\n"
                               "[train]\n"
                               "steps = 9007199254740991\n"
                               "minutes = .5\n"
                               "micro_batch = auto\n"
                               "precision = bf16\n"
                               "recompute = off\n"
                               "deterministic = yes\n"
                               "[optimizer]\n"
                               "lr = 2e-3\nweight_decay = -0\nname = adam\nschedule = wsd\n"
                               "[model]\n"
                               "depth = +3"; // again this section; no newline at the end
    pa_config c = pa_config_default();
    c.train.recompute = true;
    if (pa_config_parse(&c, "x", text, sizeof text - 1, &err)) fail_msg("%s", err.text);
    assert_int_equal(c.model.context, 4096);
    assert_int_equal(c.model.prefix, 1000);
    assert_int_equal(c.model.position, PA_POSITION_ROTARY);
    assert_int_equal(c.model.depth, 3);
    assert_true(c.model.final_norm && c.model.qk_norm && c.model.tie_embeddings && !c.train.recompute &&
                c.train.deterministic);
    assert_string_equal(c.data.train, "a folder/x;y#z=1.safetensors");
    assert_string_equal(c.data.validation, "");
    assert_int_equal(c.data.sampling, PA_SAMPLING_TOKEN);
    assert_true(c.train.steps == 9007199254740991 && c.train.minutes == 0.5 && c.train.micro_batch == 0);
    assert_int_equal(c.train.precision, PA_PRECISION_BF16);
    assert_true(c.optimizer.lr == 0.002 && c.optimizer.name == PA_ADAM && c.optimizer.schedule == PA_SCHEDULE_WSD);
    assert_true(c.optimizer.weight_decay == 0 && !signbit(c.optimizer.weight_decay));
    assert_int_equal(c.model.dim, 512); // unsaid: as it was
    assert_int_equal(pa_config_parse(&c, "x", "", 0, &err), PA_OK);
}

static void a_carriage_return_ends_a_line(void **state) {
    (void)state;
    static const char text[] = "# a comment\r[model]\rcontext = 4096\r\rprefix = 100 ; tokens\rdepth = x\r";
    pa_config c = pa_config_default();
    assert_int_equal(pa_config_parse(&c, "x", text, strlen(text) - 10, &err), PA_OK); // to the end of prefix
    assert_true(c.model.context == 4096 && c.model.prefix == 100);
    assert_int_equal(pa_config_parse(&c, "x", text, strlen(text), &err), PA_USAGE);
    assert_non_null(strstr(err.text, "x:6: model.depth"));
    assert_int_equal(pa_config_parse(&c, "x", "[model]\r\n\r\ndepth = x", 20, &err), PA_USAGE);
    assert_non_null(strstr(err.text, "x:3: model.depth"));
}

// The names that other programs use lead to keys that exist.
static void synonyms_suggest_known_keys(void **state) {
    (void)state;
    static const char *const names[] = {"learning_rate", "batch_size",   "n_layer",    "num_heads",
                                        "max_steps",     "warmup_steps", "random_seed"};
    EACH_ROW (i, names, names[i]) {
        pa_config c = pa_config_default();
        char text[64], key[64] = "";
        snprintf(text, sizeof text, "train.%s=1", names[i]);
        assert_int_equal(pa_config_set(&c, text, &err), PA_USAGE);
        const char *guess = strstr(err.text, "did you mean '");
        if (!guess || sscanf(guess, "did you mean '%63[^']'", key) != 1) fail_msg("%s: %s", names[i], err.text);
        bool known = false;
        for (const pa_key *k = pa_keys; k < pa_keys + pa_key_count; k++) {
            snprintf(text, sizeof text, "%s.%s", k->section, k->key);
            known |= !strcmp(text, key);
        }
        if (!known) fail_msg("%s: suggests %s, which is no key", names[i], key);
    }
}

static void every_enum_name_is_its_value(void **state) {
    (void)state;
    pa_config c = pa_config_default();
    assert_int_equal(pa_config_set(&c, "train.precision=auto", &err), PA_OK);
    assert_int_equal(c.train.precision, PA_PRECISION_AUTO);
    assert_int_equal(pa_config_set(&c, "train.precision=fp32", &err), PA_OK);
    assert_int_equal(c.train.precision, PA_PRECISION_FP32);
    assert_int_equal(pa_config_set(&c, "train.precision=fp16", &err), PA_OK);
    assert_int_equal(c.train.precision, PA_PRECISION_FP16);
    assert_int_equal(pa_config_set(&c, "optimizer.name=adamw", &err), PA_OK);
    assert_int_equal(c.optimizer.name, PA_ADAMW);
    assert_int_equal(pa_config_set(&c, "optimizer.schedule=constant", &err), PA_OK);
    assert_int_equal(c.optimizer.schedule, PA_SCHEDULE_CONSTANT);
    assert_int_equal(pa_config_set(&c, "optimizer.schedule=linear", &err), PA_OK);
    assert_int_equal(c.optimizer.schedule, PA_SCHEDULE_LINEAR);
    assert_int_equal(pa_config_set(&c, "optimizer.schedule=cosine", &err), PA_OK);
    assert_int_equal(c.optimizer.schedule, PA_SCHEDULE_COSINE);
    assert_int_equal(pa_config_set(&c, "checkpoint.best_by=none", &err), PA_OK);
    assert_int_equal(c.checkpoint.best_by, PA_BEST_BY_NONE);
    assert_int_equal(pa_config_set(&c, "data.sampling=piece", &err), PA_OK);
    assert_int_equal(c.data.sampling, PA_SAMPLING_PIECE);
    assert_int_equal(pa_config_set(&c, "model.activation=sqrelu", &err), PA_OK);
    assert_int_equal(c.model.activation, PA_SQRELU);
    assert_int_equal(pa_config_set(&c, "model.position=learned+rotary", &err), PA_OK);
    assert_int_equal(c.model.position, PA_POSITION_LEARNED_ROTARY);
    assert_int_equal(pa_config_set(&c, " optimizer . beta1 = 0.5 ", &err), PA_OK);
    assert_true(c.optimizer.beta1 == 0.5);
    assert_int_equal(pa_config_set(&c, "data.train=a=b.c", &err), PA_OK);
    assert_string_equal(c.data.train, "a=b.c");
}

// ---- what is refused

// clang-format off
static const struct { const char *text, *message; } bad_text[] = {
    {"dim = 5", "f.ini:1: expected a [section] before the first key, found 'dim'"},
    {"[model]\ndpeth = 8", "f.ini:2: unknown key 'model.dpeth' (did you mean 'model.depth'?)"},
    {"[train]\n\nlr = 1", "f.ini:3: unknown key 'train.lr' (did you mean 'optimizer.lr'?)"},
    {"[log]\never = 1", "f.ini:2: unknown key 'log.ever' (did you mean 'log.every'?)"},
    {"[checkpoint]\never = 1", "f.ini:2: unknown key 'checkpoint.ever' (did you mean 'checkpoint.every'?)"},
    {"[model]\nDim = 8", "f.ini:2: unknown key 'model.Dim' (did you mean 'model.dim'?)"},
    {"[model]\n= 8", "f.ini:2: unknown key 'model.' (patrain --print-config lists all)"},
    {"\n\n[modle]\nx = 1", "f.ini:3: unknown section '[modle]' (did you mean '[model]'?)"},
    {"[optimiser]", "f.ini:1: unknown section '[optimiser]' (did you mean '[optimizer]'?)"},
    {"[]", "f.ini:1: unknown section '[]' (patrain --print-config lists all)"},
    {"[model\ndim = 8", "f.ini:1: expected \"[section]\" and nothing after it, found \"[model\""},
    {"[model] dim = 8", "f.ini:1: expected \"[section]\" and nothing after it, found \"[model] dim = 8\""},
    {"[model]\ndim", "f.ini:2: expected \"key = value\" or \"[section]\", found neither"},
    {"[model]\n\n  dim 8\nx = 1", "f.ini:3: expected \"key = value\" or \"[section]\", found neither"},
    {"[model]\ndim = 8\n[train]\n[model]\ndim = 9", "f.ini:5: duplicate key 'model.dim', already set in line 2"},
    {"[model]\ndim = 8\n dim = 8", "f.ini:3: duplicate key 'model.dim', already set in line 2"},
    {"[model]\ndim =", "f.ini:2: model.dim: expected a whole number from 1 to 65536, found \"\""},
    {"[model]\ndim = abc", "f.ini:2: model.dim: expected a whole number from 1 to 65536, found \"abc\""},
    {"[model]\ndim = 8x ; no", "f.ini:2: model.dim: expected a whole number from 1 to 65536, found \"8x\""},
    {"[model]\ndim = 8.5", "f.ini:2: model.dim: expected a whole number from 1 to 65536, found \"8.5\""},
    {"[model]\ndim = 0x10", "f.ini:2: model.dim: expected a whole number from 1 to 65536, found \"0x10\""},
    {"[model]\ndim = 0", "f.ini:2: model.dim: expected a whole number from 1 to 65536, found \"0\""},
    {"[model]\ndim = 65537", "f.ini:2: model.dim: expected a whole number from 1 to 65536, found \"65537\""},
    {"[model]\ndim = 99999999999999999999",
     "f.ini:2: model.dim: expected a whole number from 1 to 65536, found \"99999999999999999999\""},
    {"[model]\ndim = auto", "f.ini:2: model.dim: expected a whole number from 1 to 65536, found \"auto\""},
    {"[model]\nrotary_dims = none",
     "f.ini:2: model.rotary_dims: expected auto or a whole number from 0 to 256, found \"none\""},
    {"[model]\nprefix_dropout = 1",
     "f.ini:2: model.prefix_dropout: expected a number of at least 0 and below 1, found \"1\""},
    {"[model]\nfinal_norm = maybe", "f.ini:2: model.final_norm: expected true or false, found \"maybe\""},
    {"[model]\nposition = learned", "f.ini:2: model.position: expected learned+rotary or rotary, found \"learned\""},
    {"[model]\nactivation = GELU", "f.ini:2: model.activation: expected gelu or sqrelu, found \"GELU\""},
    {"[train]\nprecision = fp8", "f.ini:2: train.precision: expected auto, fp32, bf16 or fp16, found \"fp8\""},
    {"[train]\nprecision = fp32|bf16",
     "f.ini:2: train.precision: expected auto, fp32, bf16 or fp16, found \"fp32|bf16\""},
    {"[train]\nsteps = 9007199254740993",
     "f.ini:2: train.steps: expected a whole number of at least 0 and at most 9007199254740991, found "
     "\"9007199254740993\""},
    {"[train]\nsteps = -1", "f.ini:2: train.steps: expected a whole number of at least 0, found \"-1\""},
    {"[train]\nepochs = nan", "f.ini:2: train.epochs: expected a number of at least 0, found \"nan\""},
    {"[train]\nepochs = inf", "f.ini:2: train.epochs: expected a number of at least 0, found \"inf\""},
    {"[train]\nepochs = 1e999", "f.ini:2: train.epochs: expected a number of at least 0, found \"1e999\""},
    {"[optimizer]\nlr = abc", "f.ini:2: optimizer.lr: expected auto or a number above 0 and at most 1, found \"abc\""},
    {"[optimizer]\nlr = 0", "f.ini:2: optimizer.lr: expected auto or a number above 0 and at most 1, found \"0\""},
    {"[optimizer]\nlr = 0.1-2",
     "f.ini:2: optimizer.lr: expected auto or a number above 0 and at most 1, found \"0.1-2\""},
    {"[optimizer]\nlr = 1e", "f.ini:2: optimizer.lr: expected auto or a number above 0 and at most 1, found \"1e\""},
    {"[optimizer]\nlr = 1 2", "f.ini:2: optimizer.lr: expected auto or a number above 0 and at most 1, found \"1 2\""},
    {"[optimizer]\nlr = 1e-3 # no comment",
     "f.ini:2: optimizer.lr: expected auto or a number above 0 and at most 1, found \"1e-3 # no comment\""},
    {"[optimizer]\nweight_decay = 101",
     "f.ini:2: optimizer.weight_decay: expected a number from 0 to 100, found \"101\""},
};
static const struct { const char *assignment, *message; } bad_assignment[] = {
    {"", "expected section.key=value, found \"\""},
    {"optimizer.lr", "expected section.key=value, found \"optimizer.lr\""},
    {"lr=1.0", "expected section.key=value, found \"lr=1.0\""},
    {"optimizer.lr=2", "optimizer.lr: expected auto or a number above 0 and at most 1, found \"2\""},
    {"optimizer.lrr=1", "unknown key 'optimizer.lrr' (did you mean 'optimizer.lr'?)"},
    {"optimizer.learning_rate=1", "unknown key 'optimizer.learning_rate' (did you mean 'optimizer.lr'?)"},
    {"train.batch_size=1", "unknown key 'train.batch_size' (did you mean 'train.global_batch'?)"},
    {"train.n_layer=1", "unknown key 'train.n_layer' (did you mean 'model.depth'?)"},
    {"train.zer=1", "unknown key 'train.zer' (did you mean 'train.zero'?)"},
    {"train.frobnicate=1", "unknown key 'train.frobnicate' (patrain --print-config lists all)"},
    {"optimzer.lr=1", "unknown section '[optimzer]' (did you mean '[optimizer]'?)"},
    {"data.train=a ;b",
     "data.train: expected text of at most 1023 bytes, no space at its ends and no \" ;\", found \"a ;b\""},
    {"data.train=;b",
     "data.train: expected text of at most 1023 bytes, no space at its ends and no \" ;\", found \";b\""},
    {"data.train=a\nb",
     "data.train: expected text of at most 1023 bytes, no space at its ends and no \" ;\", found \"a\\x0ab\""},
};
static const struct { const char *set[2], *message; } bad_together[] = {
    {{"model.prefix=2048"}, "model.prefix: expected 0 to 2047, found 2048"},
    {{"model.rotary_dims=31"}, "model.rotary_dims: expected an even number, found 31"},
    {{"train.micro_batch=9"}, "train.micro_batch: expected at most train.global_batch, 8, found 9"},
    {{"model.vocab=400"}, "model.vocab: expected 390, the size of both encodings, found 400"},
    {{"data.train="}, "data.train: expected a token file, found none"},
};
// clang-format on

static void mistakes_in_text_name_line_key_and_range(void **state) {
    (void)state;
    EACH_ROW (i, bad_text, bad_text[i].text) {
        pa_config c = pa_config_default(), before = c;
        pa_status status = pa_config_parse(&c, "f.ini", bad_text[i].text, strlen(bad_text[i].text), &err);
        if (status != PA_USAGE) fail_msg("\"%s\": status %d", bad_text[i].text, (int)status);
        assert_string_equal(err.text, bad_text[i].message);
        expect_same(&c, &before); // not even the lines before the mistake
    }
    pa_config c = pa_config_default();
    assert_int_equal(pa_config_parse(&c, "f.ini", "[log]\nevery = 1\0002", 18, &err), PA_USAGE);
    assert_string_equal(err.text, "f.ini:2: expected text, found a NUL byte");
}

static void mistakes_in_assignments_are_refused(void **state) {
    (void)state;
    EACH_ROW (i, bad_assignment, bad_assignment[i].assignment) {
        pa_config c = pa_config_default(), before = c;
        pa_status status = pa_config_set(&c, bad_assignment[i].assignment, &err);
        if (status != PA_USAGE) fail_msg("\"%s\": status %d", bad_assignment[i].assignment, (int)status);
        assert_string_equal(err.text, bad_assignment[i].message);
        expect_same(&c, &before);
    }
}

static void settings_that_do_not_go_together_are_refused(void **state) {
    (void)state;
    EACH_ROW (i, bad_together, bad_together[i].set[0]) {
        pa_config c = pa_config_default();
        assert_int_equal(pa_config_set(&c, bad_together[i].set[0], &err), PA_OK);
        pa_status status = pa_config_check(&c, &err);
        if (status != PA_USAGE) fail_msg("%s: status %d", bad_together[i].set[0], (int)status);
        assert_string_equal(err.text, bad_together[i].message);
    }
}

static void long_lines_are_read_whole(void **state) {
    (void)state;
    char text[4096], path[1100];
    memset(path, 'p', sizeof path);
    for (size_t n = 150; n < 1030; n += n < 210 || n > 1015 ? 1 : 31) { // around inih's 200 bytes and our 1023
        pa_config c = pa_config_default();
        snprintf(text, sizeof text, "[data]\ntrain = %.*s ; %1500s\nsampling = token\n", (int)n, path, "x");
        pa_status s = pa_config_parse(&c, "f.ini", text, strlen(text), &err);
        assert_int_equal(s, n < 1024 ? PA_OK : PA_USAGE);
        if (s) {
            assert_non_null(strstr(err.text, "f.ini:2: data.train: expected text of at most 1023 bytes"));
            continue;
        }
        assert_int_equal(strlen(c.data.train), n);
        assert_int_equal(strspn(c.data.train, "p"), n);
        assert_int_equal(c.data.sampling, PA_SAMPLING_TOKEN);
    }
    pa_config c = pa_config_default();
    snprintf(text, sizeof text, "[data]\n%.1000s = 5\n", path); // a key longer than inih's line
    assert_int_equal(pa_config_parse(&c, "f.ini", text, strlen(text), &err), PA_USAGE);
    assert_string_equal(err.text, "f.ini:2: expected \"key = value\" or \"[section]\", found neither");
}

static void file_is_read_and_named(void **state) {
    (void)state;
    pa_config c = pa_config_default();
    char expected[2 * SCRATCH_PATH];
    scratch_put("x.ini", "[optimizer]\nlr = 0.5\n");
    assert_int_equal(pa_config_read(&c, scratch("x.ini"), &err), PA_OK);
    assert_true(c.optimizer.lr == 0.5);
    scratch_put("x.ini", "[optimizer]\nlr = 5\n");
    assert_int_equal(pa_config_read(&c, scratch("x.ini"), &err), PA_USAGE);
    snprintf(expected, sizeof expected,
             "%s:2: optimizer.lr: expected auto or a number above 0 and at most 1, found \"5\"", scratch("x.ini"));
    assert_string_equal(err.text, expected);
    assert_int_equal(pa_config_read(&c, scratch("none.ini"), &err), PA_USAGE);
    snprintf(expected, sizeof expected, "cannot open %s: No such file or directory", scratch("none.ini"));
    assert_string_equal(err.text, expected);
}

static void configs_of_this_repository_are_valid(void **state) {
    (void)state;
    DIR *d = opendir("configs");
    int count = 0;
    assert_non_null(d);
    for (const struct dirent *e; (e = readdir(d));) {
        char path[300];
        pa_config c = pa_config_default();
        if (!strstr(e->d_name, ".ini")) continue;
        snprintf(path, sizeof path, "configs/%s", e->d_name);
        if (pa_config_read(&c, path, &err) || pa_config_check(&c, &err)) fail_msg("%s: %s", path, err.text);
        count++;
    }
    closedir(d);
    assert_true(count >= 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_read_in_all_their_forms),
        cmocka_unit_test(a_carriage_return_ends_a_line),
        cmocka_unit_test(synonyms_suggest_known_keys),
        cmocka_unit_test(every_enum_name_is_its_value),
        cmocka_unit_test(mistakes_in_text_name_line_key_and_range),
        cmocka_unit_test(mistakes_in_assignments_are_refused),
        cmocka_unit_test(settings_that_do_not_go_together_are_refused),
        cmocka_unit_test(long_lines_are_read_whole),
        SCRATCH_TEST(file_is_read_and_named),
        cmocka_unit_test(configs_of_this_repository_are_valid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
