// report.c: see report.h.
#include "tokenizer/report.h"

static const char *plural(size_t count) {
    return count == 1 ? "" : "s";
}

static void print_tracks(FILE *out, const pa_report *r) {
    fprintf(out, "# format %d%s, %zu track%s, ", r->format, r->riff ? " in a RIFF wrapper" : "", r->tracks,
            plural(r->tracks));
    if (r->ppqn)
        fprintf(out, "%d ticks a quarter note\n", r->ppqn);
    else
        fprintf(out, "%.6g ticks a second\n", r->ticks_per_second);
    if (r->tracks_left_out)
        fprintf(out, "# %zu track%s beyond the %d of the header left out\n", r->tracks_left_out,
                plural(r->tracks_left_out), r->announced);
    else if (r->tracks > (size_t)r->announced)
        fprintf(out, "# the header counts %d track%s\n", r->announced, plural((size_t)r->announced));
    if (r->foreign_chunks)
        fprintf(out, "# %zu chunk%s of other kinds skipped\n", r->foreign_chunks, plural(r->foreign_chunks));
    if (r->unread_bytes)
        fprintf(out, "# %zu byte%s behind End of Track left out\n", r->unread_bytes, plural(r->unread_bytes));
    if (r->trailing_bytes)
        fprintf(out, "# %zu byte%s behind the last track skipped\n", r->trailing_bytes, plural(r->trailing_bytes));
}

static void print_tempo(FILE *out, const pa_report *r) {
    if (r->ppqn) fprintf(out, "# tempo %.6g bpm, %zu change%s\n", r->bpm, r->tempo_changes, plural(r->tempo_changes));
    if (r->tempos_overwritten)
        fprintf(out, "# %zu tempo%s replaced by a later one at the same tick\n", r->tempos_overwritten,
                plural(r->tempos_overwritten));
    if (r->tempos_repeated) fprintf(out, "# %zu tempo%s given again\n", r->tempos_repeated, plural(r->tempos_repeated));
    if (r->tempos_left_out)
        fprintf(out, "# %zu tempo%s outside of the first track left out\n", r->tempos_left_out,
                plural(r->tempos_left_out));
}

static void print_pedals(FILE *out, const pa_report *r, bool sostenuto_kept) {
    fprintf(out, "# sustain pedal: %zu message%s\n", r->pedal, plural(r->pedal));
    if (r->idle_pedal) fprintf(out, "# %zu of them where no note is played\n", r->idle_pedal);
    if (r->sostenuto)
        fprintf(out, "# sostenuto pedal: %zu message%s, %s\n", r->sostenuto, plural(r->sostenuto),
                sostenuto_kept ? "applied" : "ignored");
    if (r->soft) fprintf(out, "# soft pedal: %zu message%s, ignored\n", r->soft, plural(r->soft));
}

static void print_notes(FILE *out, const pa_report *r, bool unclosed_kept) {
    char programs[512];
    pa_programs_text(&r->programs, programs, sizeof programs);
    fprintf(out, "# %zu note%s%s%s\n", r->notes, plural(r->notes), *programs ? ", programs " : "", programs);
    if (r->drums) fprintf(out, "# %zu of them drums\n", r->drums);
    if (r->other_programs) fprintf(out, "# %zu of programs that --programs leaves out\n", r->other_programs);
    if (r->unclosed)
        fprintf(out, "# %zu never released, %s\n", r->unclosed,
                unclosed_kept ? "sounding to the end of the file" : "left out");
    if (r->all_off) fprintf(out, "# %zu message%s to end all notes of a channel\n", r->all_off, plural(r->all_off));
}

void pa_report_print(FILE *out, const pa_report *r, bool unclosed_kept, bool sostenuto_kept) {
    print_tracks(out, r);
    print_tempo(out, r);
    print_pedals(out, r, sostenuto_kept);
    print_notes(out, r, unclosed_kept);
    fprintf(out, "# %d:%05.2f long, music begins at %d:%05.2f\n", (int)(r->seconds / 60),
            r->seconds - 60 * (int)(r->seconds / 60), (int)(r->silence / 60), r->silence - 60 * (int)(r->silence / 60));
    if (r->trimmed > 0) fprintf(out, "# %.2f s of silence at the start left out\n", r->trimmed);
    if (r->pauses) fprintf(out, "# %zu pause%s shortened, by %.2f s\n", r->pauses, plural(r->pauses), r->shortened);
    if (r->mended.count)
        fprintf(out, "# %zu mended: %s%s\n", r->mended.count, r->mended.first,
                r->mended.count > 1 ? " (the first)" : "");
}

// ---- of a corpus

static void count(pa_finding *f, size_t notes) {
    f->files += notes > 0;
    f->notes += notes;
}

void pa_findings_add(pa_findings *f, const pa_report *r) {
    count(&f->mended, r->mended.count);
    count(&f->unclosed, r->unclosed);
    count(&f->drums, r->drums);
    count(&f->other_programs, r->other_programs);
    count(&f->pauses, r->pauses);
    count(&f->sostenuto, r->sostenuto);
    count(&f->idle_pedal, r->idle_pedal);
    count(&f->tracks_left_out, r->tracks_left_out);
    count(&f->unread_bytes, r->unread_bytes);
    count(&f->tempos_left_out, r->tempos_left_out);
}

void pa_findings_print(FILE *out, const pa_findings *f, const char *sostenuto, const char *program) {
    const struct {
        const pa_finding *found;
        const char *noun, *rest;
    } row[] = {
        {&f->mended, "damaged place", " mended"},
        {&f->unclosed, "note", " never released"},
        {&f->drums, "note", " of drums"},
        {&f->other_programs, "note", " of other programs left out"},
        {&f->pauses, "long pause", " shortened"},
        {&f->sostenuto, "message", " of the sostenuto pedal"},
        {&f->idle_pedal, "message", " of the sustain pedal where no note is played"},
        {&f->tracks_left_out, "track", " beyond the header's count left out"},
        {&f->unread_bytes, "byte", " behind End of Track left out"},
        {&f->tempos_left_out, "tempo", " outside of the first track left out"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        const pa_finding *found = row[i].found;
        if (found->notes)
            fprintf(out, "%s: %zu %s%s%s in %zu file%s%s\n", program, found->notes, row[i].noun, plural(found->notes),
                    row[i].rest, found->files, plural(found->files), found == &f->sostenuto ? sostenuto : "");
    }
}
