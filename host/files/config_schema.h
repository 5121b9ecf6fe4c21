// config_schema.h: the schema table, private to config.c and config_read.c.
#ifndef PA_CONFIG_SCHEMA_H
#define PA_CONFIG_SCHEMA_H

#include "host/files/config.h"

typedef enum { PA_KEY_INT, PA_KEY_INT64, PA_KEY_REAL, PA_KEY_BOOL, PA_KEY_ENUM, PA_KEY_TEXT } pa_key_type;

typedef struct {
    const char *section, *key;
    size_t offset; // in pa_config
    pa_key_type type;
    double low, high;           // of numbers
    bool above_low, below_high; // excludes the bound itself
    bool automatic;             // 0 reads and prints as "auto"
    const char *names;          // of an enum, "a|b|c", in the order of its values
    size_t room;                // of a text, its NUL included
    const char *help;
} pa_key;

extern const pa_key pa_keys[];
extern const int pa_key_count;

// "a whole number from 2 to 64", "adam or adamw": the range of a key, for error messages and help.
void pa_key_range(const pa_key *k, char *out, size_t size);

enum { PA_KEY_TEXT_ROOM = 1024 + 64 }; // holds any range or value
#endif
