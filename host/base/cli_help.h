// cli_help.h: what an option table says: --help, a manual page, completions for shells.
#ifndef PA_CLI_HELP_H
#define PA_CLI_HELP_H

#include "host/base/cli_table.h"

void pa_cli_print_help(const pa_program *p);
// Prints the page `kind`, "man", "bash" or "zsh", on stdout. PA_USAGE lists the kinds.
pa_status pa_cli_print_page(const pa_program *p, const char *kind, pa_err *err);

#endif
