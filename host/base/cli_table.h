// cli_table.h: a program and the table of its options.
#ifndef PA_CLI_TABLE_H
#define PA_CLI_TABLE_H

#include "host/base/base.h"

typedef enum {
    PA_OPT_FLAG,   // bool *: true if given
    PA_OPT_INT,    // int64_t *
    PA_OPT_FLOAT,  // double *
    PA_OPT_STRING, // const char **
    PA_OPT_CHOICE, // const char **: one of the words of `argument`, "auto|cpu|cuda"
} pa_option_kind;

// The variable holds the default when parsing starts. --help prints it unless it is NULL, negative or NaN, which mean
// "not given".
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
    const char *note;    // lines after the synopsis that explain its words; NULL: none
    const char *example; // command lines, separated by '\n'
    const pa_option *option;
    size_t options;
} pa_program;

#endif
