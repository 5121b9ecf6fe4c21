// pedal.c: when a file's sustain pedal is down, for pictures: the notes that an encoding gives include it.
#include "tokenizer/encode.h"

#include <stdlib.h>

#include "tokenizer/read.h"

static int by_start(const void *a, const void *b) {
    const pa_pedal_span *x = a, *y = b;
    return (x->down > y->down) - (x->down < y->down);
}

// Appends a part's spans; `end` lifts the pedal.
static size_t add_spans(const pa_part *part, double end, pa_pedal_span *span) {
    size_t n = 0;
    double since = -1;
    for (size_t i = 0; i < part->pedals; i++) {
        const pa_pedal *p = &part->pedal[i];
        if (p->kind == PA_PEDAL_DOWN && since < 0) since = p->time;
        if (p->kind != PA_PEDAL_UP || since < 0) continue;
        if (p->time > since) span[n++] = (pa_pedal_span){since, p->time};
        since = -1;
    }
    if (since >= 0 && end > since) span[n++] = (pa_pedal_span){since, end};
    return n;
}

// Those of several channels, joined where they overlap. Returns how many are left.
static size_t join(pa_pedal_span *span, size_t count) {
    size_t n = 0;
    qsort(span, count, sizeof *span, by_start);
    for (size_t i = 0; i < count; i++) {
        if (!n || span[i].down > span[n - 1].up)
            span[n++] = span[i];
        else if (span[i].up > span[n - 1].up)
            span[n - 1].up = span[i].up;
    }
    return n;
}

pa_status pa_read_pedal(const uint8_t *bytes, size_t count, const pa_encode_options *o, pa_pedal_span **span,
                        size_t *spans, pa_err *err) {
    pa_song song = {0};
    pa_report report = {0};
    size_t room = 1;
    *span = NULL;
    *spans = 0;
    pa_status s = pa_song_read(&song, bytes, count, o, &report, err);
    for (size_t i = 0; i < song.parts && !s; i++) room += song.part[i].pedals;
    if (!s && !(*span = malloc(room * sizeof **span))) s = pa_error(err, PA_FAIL, "no memory for the pedal of a file");
    for (size_t i = 0; i < song.parts && !s; i++)
        if (!song.part[i].drums && song.part[i].notes) *spans += add_spans(&song.part[i], song.end, *span + *spans);
    if (!s) *spans = join(*span, *spans);
    pa_song_clear(&song);
    return s;
}
