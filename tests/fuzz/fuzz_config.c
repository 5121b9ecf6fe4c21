// fuzz_config.c: any text as a configuration: refused with a line of text and nothing changed, or what is printed of it
// reads the same.
#include <stdlib.h>
#include <string.h>

#include "host/files/config.h"
#include "host/files/config_read.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *print(const pa_config *c, size_t *length) {
    char *text = NULL;
    FILE *f = open_memstream(&text, length);
    if (!f) abort();
    pa_config_print(c, true, f);
    if (fclose(f)) abort();
    return text;
}

static void check_round_trip(const pa_config *c) {
    pa_config again = pa_config_default();
    pa_err err;
    size_t length, second;
    char *a = print(c, &length);
    if (pa_config_parse(&again, "printed", a, length, &err)) abort();
    char *b = print(&again, &second);
    if (length != second || memcmp(a, b, length)) abort();
    pa_config_check(c, &err);
    free(a);
    free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pa_config c = pa_config_default(), before = c;
    pa_err err = {{0}};
    pa_status s = pa_config_parse(&c, "fuzz", (const char *)data, size, &err);
    if (s == PA_OK)
        check_round_trip(&c);
    else if (s != PA_USAGE || strncmp(err.text, "fuzz:", 5) || memcmp(&c, &before, sizeof c))
        abort();
    char *assignment = strndup((const char *)data, size);
    if (!assignment) abort();
    s = pa_config_set(&c, assignment, &err);
    if (s == PA_OK)
        check_round_trip(&c);
    else if (s != PA_USAGE)
        abort();
    free(assignment);
    return 0;
}
