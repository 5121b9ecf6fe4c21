// programs.h: sets of General MIDI programs, counted from 0 as in the file's bytes.
#ifndef PA_PROGRAMS_H
#define PA_PROGRAMS_H

#include "host/base/base.h"

typedef struct {
    uint64_t bits[2];
} pa_programs;

static inline void pa_programs_add(pa_programs *p, int program) {
    p->bits[program >> 6] |= (uint64_t)1 << (program & 63);
}
static inline bool pa_programs_has(const pa_programs *p, int program) {
    return p->bits[program >> 6] >> (program & 63) & 1;
}
static inline bool pa_programs_empty(const pa_programs *p) {
    return !(p->bits[0] | p->bits[1]);
}

// "0-7,24" and "all", which is the empty set. PA_USAGE for anything else.
pa_status pa_programs_parse(const char *list, pa_programs *programs, pa_err *err);
void pa_programs_text(const pa_programs *programs, char *text, size_t size); // "0-7, 24"

#endif
