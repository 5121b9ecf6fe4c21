// test_cli.c: option tables: what is taken, what is refused and in which words.
#include "host/base/cli.h"
#include "tests/support/scratch.h"

static bool flag;
static int64_t whole;
static double real;
static const char *text, *choice;
static const pa_option options[] = {
    {.name = "flag", .kind = PA_OPT_FLAG, .value = &flag, .help = "a flag", .group = "First"},
    {.name = "whole", .kind = PA_OPT_INT, .value = &whole, .argument = "N", .help = "a number"},
    {.name = "real-number",
     .kind = PA_OPT_FLOAT,
     .value = &real,
     .argument = "X",
     .help = "a number",
     .group = "Second"},
    {.name = "text", .kind = PA_OPT_STRING, .value = &text, .argument = "FILE", .help = "a file [or '\\']"},
    {.name = "device", .kind = PA_OPT_CHOICE, .value = &choice, .argument = "auto|cpu|cuda", .help = "where"},
};
static const pa_program program = {.name = "prog",
                                   .summary = "a program",
                                   .usage = "IN [options]\n--text FILE",
                                   .note = "IN: a file",
                                   .example = "prog in --whole 3",
                                   .option = options,
                                   .options = sizeof options / sizeof *options};

static int positionals;
static bool done;
static pa_err err;
static char *argument[16];

static pa_status parse(const char *line) {
    static char copy[256];
    int count = 1;
    argument[0] = "prog";
    snprintf(copy, sizeof copy, "%s", line);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " ")) argument[count++] = word;
    flag = false;
    whole = 7;
    real = -1;
    text = NULL;
    choice = "auto";
    *err.text = 0;
    return pa_cli_parse(&program, count, argument, &positionals, &done, &err);
}

static void takes_options_and_positionals(void **state) {
    (void)state;
    assert_int_equal(parse("a --flag --whole -3 b --real-number=2.5e-1 --text=x=y --device cuda -- --c"), PA_OK);
    assert_false(done);
    assert_true(flag);
    assert_int_equal(whole, -3);
    assert_float_equal(real, 0.25, 0);
    assert_string_equal(text, "x=y");
    assert_string_equal(choice, "cuda");
    assert_int_equal(positionals, 3);
    assert_string_equal(argument[1], "a");
    assert_string_equal(argument[2], "b");
    assert_string_equal(argument[3], "--c");
}

static void keeps_defaults(void **state) {
    (void)state;
    assert_int_equal(parse("-"), PA_OK);
    assert_int_equal(positionals, 1);
    assert_int_equal(whole, 7);
    assert_null(text);
    assert_string_equal(choice, "auto");
}

static void refuses(void **state) {
    (void)state;
    static const struct {
        const char *line, *message;
    } c[] = {
        {"--whloe 3", "unknown option --whloe (did you mean --whole?)"},
        {"--hlep", "unknown option --hlep (did you mean --help?)"},
        {"--quite-another", "unknown option --quite-another (see prog --help)"},
        {"--whol=3", "unknown option --whol (did you mean --whole?)"},
        {"--dev cpu", "unknown option --dev (did you mean --device?)"},
        {"--enc=x", "unknown option --enc (see prog --help)"},
        {"--=x", "unknown option -- (see prog --help)"},
        {"-w 3", "unknown option -w: options begin with two dashes (see prog --help)"},
        {"--whole x", "--whole: expected a whole number, found 'x'"},
        {"--whole 1.5", "--whole: expected a whole number, found '1.5'"},
        {"--whole=", "--whole: expected a whole number, found ''"},
        {"--whole 99999999999999999999", "--whole: expected a whole number, found '99999999999999999999'"},
        {"--real-number nan", "--real-number: expected a number, found 'nan'"},
        {"--real-number 1x", "--real-number: expected a number, found '1x'"},
        {"--device gpu", "--device: expected auto|cpu|cuda, found 'gpu'"},
        {"--device cud", "--device: expected auto|cpu|cuda, found 'cud'"},
        {"--flag=yes", "--flag takes no value, found 'yes'"},
        {"--help=html", "--help: expected nothing, or man, bash or zsh, found 'html'"},
        {"a --text", "--text: expected FILE, found nothing"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        pa_status s = parse(c[i].line);
        if (s != PA_USAGE || strcmp(err.text, c[i].message))
            fail_msg("'%s': expected %d, %s; found %d, %s", c[i].line, PA_USAGE, c[i].message, s, err.text);
    }
}

static void a_very_long_option(void **state) {
    (void)state;
    char line[200] = "--";
    memset(line + 2, 'x', 190);
    assert_int_equal(parse(line), PA_USAGE);
}

// What parsing prints, from a child whose standard output is a file.
static char *printed(const char *line) {
    char *found;
    int saved = dup(1);
    fflush(stdout);
    assert_non_null(freopen(scratch("out"), "w", stdout));
    pa_status s = parse(line);
    fflush(stdout);
    dup2(saved, 1);
    close(saved);
    assert_int_equal(s, PA_OK);
    assert_true(done);
    assert_int_equal(pa_read_text(scratch("out"), &found, NULL, NULL), PA_OK);
    return found;
}

static void help_and_version(void **state) {
    (void)state;
    char *found = printed("--whole 3 --help --nonsense");
    assert_string_equal(
        found, "prog: a program\n\nUsage\n  prog IN [options]\n  prog --text FILE\n\n  IN: a file\n\nFirst\n"
               "  --flag                    a flag\n"
               "  --whole N                 a number (default: 7)\n\nSecond\n"
               "  --real-number X           a number\n"
               "  --text FILE               a file [or '\\']\n"
               "  --device auto|cpu|cuda    where (default: auto)\n\nOther\n"
               "  --help                    print the options; --help=man, bash or zsh: a manual page or completions\n"
               "  --version                 print the version\n\nExample\n"
               "  prog in --whole 3\n");
    free(found);
    found = printed("--version");
    assert_string_equal(found, "prog " PA_VERSION "\n");
    free(found);
}

// The pages of cli_help.h, each by lines that only it has.
static void pages(void **state) {
    (void)state;
    static const struct {
        const char *line, *part;
    } c[] = {
        {"--help=man", ".TH prog 1 \"\" \"patrain " PA_VERSION "\"\n.SH NAME\nprog \\- a program\n"},
        {"--help=man", "\n.SH DESCRIPTION\n.br\nIN: a file\n.SH OPTIONS\n"},
        {"--help=man", "\n.SS Second\n.TP\n\\fB\\-\\-real\\-number\\fP \\fIX\\fP\na number\n"},
        {"--help=man", "\\fIFILE\\fP\na file [or '\\\\']\n"},
        {"--help=man --whole 3", "\na number (default: 7)\n"},
        {"--help=bash", "    --device) mapfile -t COMPREPLY < <(compgen -W 'auto cpu cuda' -- \"$word\"); return ;;\n"},
        {"--help=bash", "'--flag --whole --real-number --text --device --help --version'"},
        {"--help=zsh", "#compdef prog\n"},
        {"--help=zsh", "  '--text[a file \\[or '\\''\\\\'\\''\\]]:value:_files' \\\n"},
        {"--help=zsh", "  '--device[where]:value:(auto cpu cuda)' \\\n"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        char *found = printed(c[i].line);
        if (!strstr(found, c[i].part)) fail_msg("%s: expected %s in:\n%s", c[i].line, c[i].part, found);
        free(found);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_options_and_positionals),
        cmocka_unit_test(keeps_defaults),
        cmocka_unit_test(refuses),
        cmocka_unit_test(a_very_long_option),
        SCRATCH_TEST(help_and_version),
        SCRATCH_TEST(pages),
    };
    return cmocka_run_group_tests_name("cli", tests, NULL, NULL);
}
