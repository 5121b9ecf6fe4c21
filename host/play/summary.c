// summary.c: see summary.h.
#include "host/play/summary.h"

#include <stdlib.h>
#include <string.h>

#include "host/play/repetition.h"

enum { MOST_MEASURED = 1 << 16 }; // notes of a row; hardly any piece has more

// Notes [first, end) of all that were played.
typedef struct {
    const char *name;
    const pa_note *note;
    size_t first, end;
    double seconds;
} row;

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static pa_status print_row(const row *w, int width, pa_err *err) {
    pa_repetition r;
    size_t notes = w->end - w->first, from = notes > MOST_MEASURED ? w->end - MOST_MEASURED : w->first;
    size_t before = PA_LOOK_BACK + PA_RUN,
           skip = from > before ? from - before : 0; // no run of PA_RUN notes is looked for further ahead
    pa_status s = pa_repetition_measure(w->note + skip, from - skip, w->end - skip, &r, err);
    if (!s)
        printf("%-*s%7zu%9.1f%9.1f%9d%10.1f%9.1f %%%9zu\n", width, w->name, notes, w->seconds,
               w->seconds > 0 ? (double)notes / w->seconds : 0, r.pitches, r.velocity, 100 * r.heard, r.longest);
    return s;
}

// *whole becomes false where a row is measured in part.
static pa_status print_take(const pa_output *o, const pa_primer *p, const pa_takes *t, size_t k, int width, bool *whole,
                            pa_err *err) {
    char name[4096];
    pa_take_notes n;
    pa_status s = pa_take_decode(p, &t->take[k], p->count, &n, err);
    if (s) return s;
    if (!k && p->count) s = print_row(&(row){"primer", n.note, 0, n.primer, pa_primer_seconds(p)}, width, err);
    if (!s) s = pa_output_name(o, k, name, sizeof name, err);
    if (pa_output_is_tokens(o)) snprintf(name, sizeof name, "continuation %zu", k + 1);
    row w = {base_name(name), n.note, n.primer, n.count, pa_token_seconds(t->take[k].token, t->take[k].count)};
    if (!s) s = print_row(&w, width, err);
    *whole = *whole && n.primer <= MOST_MEASURED && n.count - n.primer <= MOST_MEASURED;
    free(n.note);
    return s;
}

pa_status pa_summary_print(const pa_output *o, const pa_primer *p, const pa_takes *t, pa_err *err) {
    pa_status s = PA_OK;
    bool whole = true;
    int width = (int)strlen(base_name(o->path)) + 8; // room for a number in it
    if (width < 20) width = 20;
    printf("\n%-*s%7s%9s%9s%9s%10s%11s%9s\n", width, "", "notes", "seconds", "notes/s", "pitches", "velocity",
           "repeats", "longest");
    for (size_t k = 0; k < t->count && !s; k++) s = print_take(o, p, t, k, width, &whole, err);
    if (s) return s;
    printf("\nrepeats: share of the sequences of 16 pitches that were heard before; longest: notes in the longest such "
           "sequence.\n"
           "A model that is stuck in a loop nears 100 %%.\n");
    if (!whole)
        printf("With more than %d notes, the columns from pitches on are of the last %d.\n", MOST_MEASURED,
               MOST_MEASURED);
    return PA_OK;
}
