// cli.c: see cli.h.
#include "host/base/cli.h"

#include "host/base/cli_help.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LONGEST_NAME = 64 };

// Edit distance, except that a prefix of a known name is at distance 1.
static size_t distance(const char *name, const char *known) {
    return *name && !strncmp(name, known, strlen(name)) ? 1 : pa_edit_distance(name, known);
}

static pa_status unknown_option(const pa_program *p, const char *text, size_t length, pa_err *err) {
    char name[LONGEST_NAME + 1];
    snprintf(name, sizeof name, "%.*s", (int)length, text);
    const char *nearest = "help";
    size_t least = distance(name, nearest);
    for (size_t i = 0; i < p->options; i++) {
        size_t d = distance(name, p->option[i].name);
        if (d >= least) continue;
        least = d;
        nearest = p->option[i].name;
    }
    if (2 * least <= strlen(nearest))
        return pa_error(err, PA_USAGE, "unknown option --%s (did you mean --%s?)", name, nearest);
    return pa_error(err, PA_USAGE, "unknown option --%s (see %s --help)", name, p->name);
}

static bool is_choice(const char *choices, const char *word) {
    size_t length = strlen(word);
    for (const char *c = choices; c; c = strchr(c, '|') ? strchr(c, '|') + 1 : NULL)
        if (length == strcspn(c, "|") && !strncmp(c, word, length)) return true;
    return false;
}

static pa_status set_option(const pa_option *o, const char *text, pa_err *err) {
    char *end = NULL;
    errno = 0;
    switch (o->kind) {
    case PA_OPT_FLAG:
        *(bool *)o->value = true;
        return PA_OK;
    case PA_OPT_INT: {
        long long v = strtoll(text, &end, 10);
        if (end == text || *end || errno)
            return pa_error(err, PA_USAGE, "--%s: expected a whole number, found '%s'", o->name, text);
        *(int64_t *)o->value = v;
        return PA_OK;
    }
    case PA_OPT_FLOAT: {
        double v = strtod(text, &end);
        if (end == text || *end || !isfinite(v))
            return pa_error(err, PA_USAGE, "--%s: expected a number, found '%s'", o->name, text);
        *(double *)o->value = v;
        return PA_OK;
    }
    case PA_OPT_CHOICE:
        if (!is_choice(o->argument, text))
            return pa_error(err, PA_USAGE, "--%s: expected %s, found '%s'", o->name, o->argument, text);
        *(const char **)o->value = text;
        return PA_OK;
    case PA_OPT_STRING:
        *(const char **)o->value = text;
    }
    return PA_OK;
}

// Parses the option argv[*at]; advances *at if its value is the next argument.
static pa_status parse_option(const pa_program *p, int argc, char **argv, int *at, pa_err *err) {
    const char *text = argv[*at] + 2;
    size_t length = strcspn(text, "=");
    const pa_option *o = NULL;
    for (size_t i = 0; i < p->options && !o; i++)
        if (strlen(p->option[i].name) == length && !strncmp(p->option[i].name, text, length)) o = &p->option[i];
    if (!o) return unknown_option(p, text, length, err);
    if (o->kind == PA_OPT_FLAG) {
        if (text[length]) return pa_error(err, PA_USAGE, "--%s takes no value, found '%s'", o->name, text + length + 1);
        return set_option(o, NULL, err);
    }
    if (text[length]) return set_option(o, text + length + 1, err);
    if (*at + 1 >= argc) return pa_error(err, PA_USAGE, "--%s: expected %s, found nothing", o->name, o->argument);
    return set_option(o, argv[++*at], err);
}

void pa_cli_spin_briefly(char **argv) {
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT") || setenv("GOMP_SPINCOUNT", "3000", 1)) return;
    execv("/proc/self/exe", argv); // if that fails, the default applies
}

// If a standard stream is closed, the next file opened would take its number, and messages would end up in that file.
// So /dev/null takes it, opened for the opposite direction: using the stream is still an error.
static void hold_standard_streams(void) {
    for (int fd = 0; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0) return;
}

// Escapes messages, so that no quoted text moves the cursor or sets the title. Progress bars write to the descriptor.
static ssize_t write_escaped(void *descriptor, const char *text, size_t length) {
    char part[4096];
    for (size_t done = 0; done < length;) {
        size_t n = length - done < sizeof part / 4 - 1 ? length - done : sizeof part / 4 - 1;
        while (n < length - done && n && ((unsigned char)text[done + n] & 0xc0) == 0x80) n--; // no character is cut
        if (!n) n = length - done < 4 ? length - done : 4;
        size_t out = pa_escape(text + done, n, true, part, sizeof part);
        for (size_t put = 0; put < out;) {
            ssize_t written = write(*(const int *)descriptor, part + put, out - put);
            if (written < 0 && errno != EINTR) return done ? (ssize_t)done : -1;
            if (written > 0) put += (size_t)written;
        }
        done += n;
    }
    return (ssize_t)length;
}

// stderr always, stdout if it is a terminal: files and pipes get the text unchanged.
static void escape_streams(void) {
    static int descriptor[] = {STDOUT_FILENO, STDERR_FILENO};
    FILE *out = isatty(STDOUT_FILENO)
                    ? fopencookie(&descriptor[0], "w", (cookie_io_functions_t){.write = write_escaped})
                    : NULL;
    FILE *errors = fopencookie(&descriptor[1], "w", (cookie_io_functions_t){.write = write_escaped});
    if (out) {
        setvbuf(out, NULL, _IOLBF, BUFSIZ);
        stdout = out;
    }
    if (!errors) return;
    setvbuf(errors, NULL, _IOLBF, BUFSIZ);
    stderr = errors;
}

pa_status pa_cli_parse(const pa_program *p, int argc, char **argv, int *positionals, bool *done, pa_err *err) {
    int kept = 0;
    bool options = true;
    *done = false;
    *positionals = 0;
    hold_standard_streams();
    escape_streams();
    signal(SIGXFSZ, SIG_IGN);
    signal(SIGPIPE, SIG_IGN); // finish the work even if nobody reads the output any more
    // --help prints the defaults, so it comes before any option is set.
    for (int i = 1; i < argc && strcmp(argv[i], "--") && !*done; i++) {
        pa_status s = PA_OK;
        *done = true;
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
            pa_cli_print_help(p);
        else if (!strncmp(argv[i], "--help=", 7))
            s = pa_cli_print_page(p, argv[i] + 7, err);
        else if (!strcmp(argv[i], "--version"))
            printf("%s %s\n", p->name, PA_VERSION);
        else
            *done = false;
        if (s) return s;
    }
    for (int i = 1; i < argc && !*done; i++) {
        char *a = argv[i];
        if (options && !strcmp(a, "--")) {
            options = false;
        } else if (options && !strncmp(a, "--", 2)) {
            pa_status s = parse_option(p, argc, argv, &i, err);
            if (s) return s;
        } else if (options && a[0] == '-' && a[1]) {
            return pa_error(err, PA_USAGE, "unknown option %s: options begin with two dashes (see %s --help)", a,
                            p->name);
        } else {
            argv[++kept] = a;
        }
    }
    *positionals = kept;
    return PA_OK;
}

int pa_cli_end(const pa_program *p, pa_status status, const pa_err *err) {
    if (status != PA_OK && status != PA_STOPPED) fprintf(stderr, "%s: %s\n", p->name, err->text);
    struct pollfd out = {STDOUT_FILENO, POLLOUT, 0};
    bool unread = poll(&out, 1, 0) > 0 && out.revents & POLLERR; // a pipe whose reader has ended
    errno = 0;
    if ((fflush(stdout) || ferror(stdout)) && !unread) {
        const char *why = errno ? strerror(errno) : "an earlier write failed (a full disk?)";
        fprintf(stderr, "%s: cannot write to standard output: %s\n", p->name, why);
        if (status == PA_OK) status = PA_FAIL;
    }
    fflush(stderr);
    return status;
}
