// config_read.h: settings from INI text and from section.key=value.
#ifndef PA_CONFIG_READ_H
#define PA_CONFIG_READ_H

#include "host/files/config.h"

// Reads an INI file over *c. PA_USAGE names file, line, key, expected and found; an unknown key names the nearest known one.
pa_status pa_config_read(pa_config *c, const char *path, pa_err *err);
// The same from text (length bytes); `name` is said in errors.
pa_status pa_config_parse(pa_config *c, const char *name, const char *text, size_t length, pa_err *err);
// "section.key=value".
pa_status pa_config_set(pa_config *c, const char *assignment, pa_err *err);

#endif
