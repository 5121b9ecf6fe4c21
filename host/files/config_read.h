// config_read.h: settings from INI text and from section.key=value.
#ifndef PA_CONFIG_READ_H
#define PA_CONFIG_READ_H

#include "host/files/config.h"

// Reads an INI file over *c. Errors are PA_USAGE and name file, line and key; an unknown key suggests a known one.
pa_status pa_config_read(pa_config *c, const char *path, pa_err *err);
// The same from `length` bytes of text; errors begin with `name`.
pa_status pa_config_parse(pa_config *c, const char *name, const char *text, size_t length, pa_err *err);
// Sets one key from "section.key=value".
pa_status pa_config_set(pa_config *c, const char *assignment, pa_err *err);

#endif
