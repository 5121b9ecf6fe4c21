// programs.c: see programs.h.
#include "tokenizer/programs.h"

#include <stdlib.h>
#include <string.h>

enum { PROGRAMS = 128 };

// A number at *at, which moves behind it; -1 where there is none.
static long read_number(const char **at) {
    char *end;
    if (**at < '0' || **at > '9') return -1;
    long value = strtol(*at, &end, 10);
    *at = end;
    return value;
}

pa_status pa_programs_parse(const char *list, pa_programs *programs, pa_err *err) {
    *programs = (pa_programs){0};
    if (!strcmp(list, "all")) return PA_OK;
    for (const char *at = list;; at++) {
        long first = read_number(&at), last = first;
        if (*at == '-') {
            at++;
            last = read_number(&at);
        }
        if (first < 0 || last < first || last >= PROGRAMS || (*at && *at != ','))
            return pa_error(err, PA_USAGE,
                            "--programs: expected numbers from 0 to 127 such as 0-7,24, or all; found '%s'", list);
        for (long p = first; p <= last; p++) pa_programs_add(programs, (int)p);
        if (!*at) return PA_OK;
    }
}

void pa_programs_text(const pa_programs *programs, char *text, size_t size) {
    size_t used = 0;
    *text = 0;
    for (int first = 0; first < PROGRAMS; first++) {
        if (!pa_programs_has(programs, first)) continue;
        int last = first;
        while (last + 1 < PROGRAMS && pa_programs_has(programs, last + 1)) last++;
        int n = first == last ? snprintf(text + used, size - used, "%s%d", used ? ", " : "", first)
                              : snprintf(text + used, size - used, "%s%d-%d", used ? ", " : "", first, last);
        used += (size_t)n;
        if (used >= size) return;
        first = last;
    }
}
