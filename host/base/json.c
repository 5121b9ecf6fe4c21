// json.c: see json.h.
#include "host/base/json.h"

#include <stdbool.h>
#include <string.h>

size_t pa_json_values(const char *text) {
    size_t count = 1;
    for (bool quoted = false; *text; text++)
        if (*text == '"')
            quoted = !quoted;
        else if (quoted && *text == '\\' && text[1])
            text++;
        else if (!quoted && strchr("[{,", *text)) // one after each
            count++;
    return count;
}
