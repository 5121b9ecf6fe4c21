// json.h: how much memory JSON may take that anyone may have written.
#ifndef PA_JSON_H
#define PA_JSON_H

#include <stddef.h>

// How many values a parser will find at most. One takes about 100 bytes of memory, and two of the text.
size_t pa_json_values(const char *text);
enum { PA_JSON_VALUES = 1 << 20 }; // in a file, at most

#endif
