// cli.h: the command line of every program from one table of options: parsing, --help with defaults, --version, error texts.
// Knows nothing of what the options mean.
#ifndef PA_CLI_H
#define PA_CLI_H

#include "host/base/base.h"

typedef enum {
    PA_OPT_FLAG,   // bool *: true where given
    PA_OPT_INT,    // int64_t *
    PA_OPT_FLOAT,  // double *
    PA_OPT_STRING, // const char **
    PA_OPT_CHOICE, // const char **: one of the words of `argument`, "auto|cpu|cuda"
} pa_option_kind;

// The variable holds the default when parsing starts. --help prints it, unless it is NULL, negative or NaN: the marks of "not given".
typedef struct {
    const char *name; // without the dashes
    pa_option_kind kind;
    void *value;
    const char *argument; // its name in the help: "FILE", "N"; NULL for a flag
    const char *help;     // one line
    const char *group;    // heading in the help; NULL: that of the row above
} pa_option;

typedef struct {
    const char *name;    // "paprep"
    const char *summary; // one line
    const char *usage;   // lines of synopsis without the program's name, separated by '\n'
    const char *example; // command lines, separated by '\n'
    const pa_option *option;
    size_t options;
} pa_program;

// Takes --name value, --name=value, --flag; "--" ends the options. Positional arguments are moved, in order, to argv[1 .. *positionals].
// *done: --help or --version was printed and the program should end. PA_USAGE names the option, what it expects and what was found; for
// an unknown option, the nearest known one. From then on no file takes the place of a standard stream that was closed, and
// SIGXFSZ is ignored: a file that may not grow is an error of write, to be told of.
pa_status pa_cli_parse(const pa_program *p, int argc, char **argv, int *positionals, bool *done, pa_err *err);

// The first call of a main that computes: threads that wait spin briefly, unless OMP_WAIT_POLICY or GOMP_SPINCOUNT is set. libgomp's
// default keeps busy cores from any other work (bench/log.md). It reads its settings when it is loaded, so the program starts itself again.
void pa_cli_spin_briefly(char **argv);

// The end of a main: prints the error, if status is one, flushes stdout (a full disk is a failure too) and returns the exit status.
int pa_cli_end(const pa_program *p, pa_status status, const pa_err *err);

#endif
