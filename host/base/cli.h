// cli.h: command lines from one table of options per program: parsing, --help with defaults, --version, errors.
// Knows nothing of what the options mean.
#ifndef PA_CLI_H
#define PA_CLI_H

#include "host/base/cli_table.h"

// Parses --name value, --name=value, --flag; "--" ends the options. Moves positional arguments, in order, to argv[1 ..
// *positionals]. *done: --help or --version was printed and the program should exit. PA_USAGE names the option, what it
// expects and what was found; for an unknown option, the nearest known one. Also opens /dev/null for each standard
// stream that is closed, so that no other file takes its place, and ignores SIGXFSZ, so that a file too large is an
// error of write.
pa_status pa_cli_parse(const pa_program *p, int argc, char **argv, int *positionals, bool *done, pa_err *err);

// The first call in main of a program that computes: makes waiting threads spin only briefly, unless OMP_WAIT_POLICY or
// GOMP_SPINCOUNT is set. libgomp's default keeps busy cores from other work (bench/log.md). libgomp reads its settings
// when it is loaded, so the program re-executes itself.
void pa_cli_spin_briefly(char **argv);

// The last call in main: prints the error, if any, flushes stdout (a full disk is a failure too) and returns the exit
// status.
int pa_cli_end(const pa_program *p, pa_status status, const pa_err *err);

#endif
