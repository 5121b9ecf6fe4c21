// cli_help.c: see cli_help.h.
#include "host/base/cli_help.h"

#include <stdio.h>
#include <string.h>

static const pa_option other[] = {
    {.name = "help", .help = "print the options; --help=man, bash or zsh: a manual page or completions"},
    {.name = "version", .help = "print the version"}};
enum { OTHERS = sizeof other / sizeof *other };

// Row i of the table, and behind it --help and --version.
static const pa_option *row(const pa_program *p, size_t i) {
    return i < p->options ? &p->option[i] : &other[i - p->options];
}

// ---- --help

// Prints " (default: X)" unless there is none.
static void print_default(const pa_option *o) {
    if (!o->value) return;
    if (o->kind == PA_OPT_INT && *(int64_t *)o->value >= 0) printf(" (default: %lld)", (long long)*(int64_t *)o->value);
    if (o->kind == PA_OPT_FLOAT && *(double *)o->value >= 0) printf(" (default: %g)", *(double *)o->value);
    if ((o->kind == PA_OPT_STRING || o->kind == PA_OPT_CHOICE) && *(const char **)o->value)
        printf(" (default: %s)", *(const char **)o->value);
}

static void print_lines(const char *text, const char *name) {
    while (*text) {
        size_t length = strcspn(text, "\n");
        printf("  %s%s%.*s\n", name, *name ? " " : "", (int)length, text);
        text += length + (text[length] == '\n');
    }
}

static void print_option(const pa_option *o) {
    char left[128];
    snprintf(left, sizeof left, "--%s%s%s", o->name, o->argument ? " " : "", o->argument ? o->argument : "");
    printf("  %-26s%s%s", left, strlen(left) > 25 ? "\n                            " : "", o->help);
    print_default(o);
    putchar('\n');
}

void pa_cli_print_help(const pa_program *p) {
    printf("%s: %s\n\nUsage\n", p->name, p->summary);
    print_lines(p->usage, p->name);
    if (p->note) putchar('\n');
    if (p->note) print_lines(p->note, "");
    for (size_t i = 0; i < p->options; i++) {
        const pa_option *o = &p->option[i];
        if (o->group || i == 0) printf("\n%s\n", o->group ? o->group : "Options");
        print_option(o);
    }
    printf("\nOther\n");
    for (size_t i = 0; i < OTHERS; i++) print_option(&other[i]);
    if (p->example) {
        printf("\nExample\n");
        print_lines(p->example, "");
    }
}

// ---- man

// A plain dash is a hyphen there.
static void print_roff_part(const char *text, size_t length) {
    for (size_t i = 0; i < length; i++) {
        if (strchr("\\-", text[i])) putchar('\\');
        putchar(text[i]);
    }
}

static void print_roff(const char *text) {
    print_roff_part(text, strlen(text));
}

static void print_roff_lines(const char *text, const char *before) {
    while (*text) {
        size_t length = strcspn(text, "\n");
        printf(".br\n%s", before);
        print_roff_part(text, length);
        putchar('\n');
        text += length + (text[length] == '\n');
    }
}

static void print_man(const pa_program *p) {
    char before[64];
    snprintf(before, sizeof before, "\\fB%s\\fP ", p->name);
    printf(".TH %s 1 \"\" \"patrain %s\"\n.SH NAME\n%s \\- ", p->name, PA_VERSION, p->name);
    print_roff(p->summary);
    printf("\n.SH SYNOPSIS\n");
    print_roff_lines(p->usage, before);
    if (p->note) printf(".SH DESCRIPTION\n");
    if (p->note) print_roff_lines(p->note, "");
    for (size_t i = 0; i < p->options + OTHERS; i++) {
        const pa_option *o = row(p, i);
        if (i == 0) printf(".SH OPTIONS\n");
        if (i == p->options) printf(".SS Other\n");
        if (i < p->options && o->group) printf(".SS %s\n", o->group);
        printf(".TP\n\\fB\\-\\-");
        print_roff(o->name);
        printf("\\fP");
        if (o->argument) {
            printf(" \\fI");
            print_roff(o->argument);
            printf("\\fP");
        }
        putchar('\n');
        print_roff(o->help);
        print_default(o);
        putchar('\n');
    }
    printf(".SH EXIT STATUS\n0 success; 1 failure; 2 wrong usage or configuration; 3 input refused; 75 stopped on "
           "request, after saving\n");
    if (p->example) {
        printf(".SH EXAMPLE\n.nf\n");
        print_roff_lines(p->example, "");
        printf(".fi\n");
    }
}

// ---- completions

static void print_bash(const pa_program *p) {
    printf(
        "# bash completion of %s\n_%s() {\n  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}\n",
        p->name, p->name);
    printf("  case $before in\n");
    for (size_t i = 0; i < p->options; i++) {
        const pa_option *o = &p->option[i];
        if (o->kind != PA_OPT_CHOICE) continue;
        printf("    --%s) mapfile -t COMPREPLY < <(compgen -W '", o->name);
        for (const char *c = o->argument; *c; c++) putchar(*c == '|' ? ' ' : *c);
        printf("' -- \"$word\"); return ;;\n");
    }
    printf("  esac\n  [[ $word == -* ]] || return\n  mapfile -t COMPREPLY < <(compgen -W '");
    for (size_t i = 0; i < p->options + OTHERS; i++) printf("%s--%s", i ? " " : "", row(p, i)->name);
    printf("' -- \"$word\")\n}\ncomplete -o default -F _%s %s\n", p->name, p->name);
}

// Text between single quotes; brackets would end it.
static void print_zsh_text(const char *text) {
    for (; *text; text++) {
        if (strchr("[]\\", *text)) putchar('\\');
        if (*text == '\'')
            printf("'\\''");
        else
            putchar(*text);
    }
}

static void print_zsh(const pa_program *p) {
    printf("#compdef %s\n_arguments \\\n", p->name);
    for (size_t i = 0; i < p->options + OTHERS; i++) {
        const pa_option *o = row(p, i);
        printf("  '--%s[", o->name);
        print_zsh_text(o->help);
        putchar(']');
        if (o->argument) {
            printf(":value:");
            if (o->kind == PA_OPT_CHOICE) putchar('(');
            for (const char *c = o->argument; *c && o->kind == PA_OPT_CHOICE; c++) putchar(*c == '|' ? ' ' : *c);
            printf(o->kind == PA_OPT_CHOICE ? ")" : "_files");
        }
        printf("' \\\n");
    }
    printf("  '*:file:_files'\n");
}

pa_status pa_cli_print_page(const pa_program *p, const char *kind, pa_err *err) {
    static const struct {
        const char *kind;
        void (*print)(const pa_program *p);
    } page[] = {{"man", print_man}, {"bash", print_bash}, {"zsh", print_zsh}};
    for (size_t i = 0; i < sizeof page / sizeof *page; i++)
        if (!strcmp(kind, page[i].kind)) {
            page[i].print(p);
            return PA_OK;
        }
    return pa_error(err, PA_USAGE, "--help: expected nothing, or man, bash or zsh, found '%s'", kind);
}
