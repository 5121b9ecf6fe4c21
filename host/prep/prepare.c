// prepare.c: see prepare.h.
#include "host/prep/prepare.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/file.h"
#include "host/files/token_set.h"
#include "host/prep/corpus_find.h"
#include "host/prep/set_files.h"
#include "host/prep/split.h"
#include "host/prep/work.h"

enum { PATH = 4096 };

typedef struct {
    const pa_prepare_options *o;
    pa_corpus corpus;
    pa_pieces pieces;
    pa_split_report split;
    pa_set_options set;
    pa_set_totals total[PA_SPLITS];
    pa_work *work; // folder for what is not finished
} prep;

// ---- the reports

// Tabs and line breaks have a meaning in a report, and control characters on a terminal: a name that holds them has
// spaces there.
static void put_cell(FILE *out, const char *text) {
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text, next = (unsigned char)text[1];
        bool is_c1 = c == 0xc2 && next >= 0x80 && next < 0xa0;
        putc(c < 32 || c == 127 || is_c1 ? ' ' : c, out);
        text += is_c1;
    }
}

static pa_status create_report(const prep *p, const char *name, const char *columns, pa_file *file, pa_err *err) {
    char path[PATH + 32];
    snprintf(path, sizeof path, "%s/%s", pa_work_path(p->work), name);
    pa_status s = pa_file_create(file, path, err);
    if (!s) fputs(columns, file->stream);
    return s;
}

static pa_status write_rejected(const prep *p, pa_err *err) {
    pa_file file;
    pa_status s = create_report(p, "rejected.tsv", "file\treason\n", &file, err);
    if (s) return s;
    for (size_t i = 0; i < p->corpus.count && !s; i++) {
        const pa_row *row = &p->pieces.row[i];
        char reason[sizeof(pa_err)] = "";
        if (row->state != PA_ROW_REFUSED) continue;
        size_t length = row->count < sizeof reason ? row->count : sizeof reason - 1;
        s = pa_pieces_fetch(&p->pieces, row->at, reason, length, err);
        put_cell(file.stream, p->corpus.file[i].name);
        putc('\t', file.stream);
        put_cell(file.stream, reason);
        putc('\n', file.stream);
    }
    if (!s) return pa_file_commit(&file, err);
    pa_file_abandon(&file);
    return s;
}

static pa_status write_duplicates(const prep *p, pa_err *err) {
    pa_file file;
    pa_status s = create_report(p, "duplicates.tsv", "file\tlike\thow\n", &file, err);
    if (s) return s;
    for (size_t i = 0; i < p->corpus.count; i++) {
        const pa_row *row = &p->pieces.row[i];
        if (row->state == PA_ROW_REFUSED || row->like == i) continue;
        put_cell(file.stream, p->corpus.file[i].name);
        putc('\t', file.stream);
        put_cell(file.stream, p->corpus.file[row->like].name);
        fprintf(file.stream, "\t%s\n", row->state == PA_ROW_COPY ? "identical" : "moved, stretched or transposed");
    }
    return pa_file_commit(&file, err);
}

static void print_row(const char *split, const pa_set_totals *t) {
    printf("%-10s %8zu %10zu %9.2f %11zu ", split, t->pieces, t->notes, t->seconds / 3600, t->tokens);
    if (t->pieces)
        printf("%12.3f %8zu\n", (double)t->tokens / (double)t->notes, t->dropped);
    else
        printf("%12s %8s  empty: too few files for this split\n", "-", "-");
}

static void print_table(const prep *p) {
    pa_set_totals all = {0};
    printf("%-10s %8s %10s %9s %11s %12s %8s\n", "split", "pieces", "notes", "hours", "tokens", "tokens/note",
           "dropped");
    for (pa_split i = 0; i < PA_SPLITS; i++) {
        const pa_set_totals *t = &p->total[i];
        print_row(pa_split_name(i), t);
        all.pieces += t->pieces;
        all.notes += t->notes;
        all.tokens += t->tokens;
        all.dropped += t->dropped;
        all.seconds += t->seconds;
    }
    print_row("all", &all);
}

static const char *plural(size_t count) {
    return count == 1 ? "" : "s";
}

// What became of files that are not read.
static void tell_skipped(const pa_corpus *c) {
    if (c->unlisted) {
        fprintf(stderr, "paprep: %zu MIDI file%s not in %s and %s left out, ", c->unlisted,
                c->unlisted == 1 ? " is" : "s are", c->metadata, c->unlisted == 1 ? "is" : "are");
        put_cell(stderr, c->unlisted_name);
        fprintf(stderr, "%s\n", c->unlisted == 1 ? "" : " the first");
    }
    if (c->apple) fprintf(stderr, "paprep: skipped %zu AppleDouble file%s (._*)\n", c->apple, plural(c->apple));
    if (c->again)
        fprintf(stderr, "paprep: skipped %zu further name%s of files and folders\n", c->again, plural(c->again));
    if (c->other) fprintf(stderr, "paprep: skipped %zu file%s of other kinds\n", c->other, plural(c->other));
}

static void tell_duplicates(const prep *p) {
    const pa_split_report *r = &p->split;
    if (r->copies)
        fprintf(stderr, "paprep: %s %zu identical piece%s\n", p->set.keep_copies ? "kept" : "left out", r->copies,
                plural(r->copies));
    if (r->similar)
        fprintf(stderr, "paprep: %zu piece%s the notes of another, moved, stretched or transposed\n", r->similar,
                r->similar == 1 ? " has" : "s have");
    if (r->apart) fprintf(stderr, "paprep: %zu of these in another split than the piece that they repeat\n", r->apart);
    if (r->copies || r->similar) fprintf(stderr, "paprep: duplicates are listed in %s/duplicates.tsv\n", p->o->out);
}

static void tell_splits(const prep *p) {
    for (pa_split i = 0; i < PA_SPLITS; i++) {
        if (p->split.moved[i] < p->corpus.count) {
            fprintf(stderr, "paprep: no piece fell to %s: ", pa_split_name(i));
            put_cell(stderr, p->corpus.file[p->split.moved[i]].name);
            fprintf(stderr, " moved there\n");
        }
        if (p->total[i].files > 1)
            fprintf(stderr, "paprep: %zu files of %s: %s/%s-*.safetensors\n", p->total[i].files, pa_split_name(i),
                    p->o->out, pa_split_name(i));
    }
}

// ---- the work

// A refusal leaves an older set beside its own rejected.tsv.
static bool has_token_files(const char *folder) {
    bool found = false;
    DIR *d = opendir(folder);
    if (!d) return false;
    size_t length;
    pa_status listed = PA_OK;
    for (const struct dirent *e; !found && (e = pa_next_entry(d, folder, &listed, NULL));)
        found = pa_set_parts(e->d_name, &length);
    closedir(d);
    return found;
}

static pa_status refuse_all(const prep *p, bool nothing, pa_err *err) {
    const char *left = has_token_files(p->o->out) ? "; those of an earlier run are left as they were" : "";
    pa_status s = write_rejected(p, err);
    char from[PATH + 32], to[PATH + 32];
    snprintf(from, sizeof from, "%s/rejected.tsv", pa_work_path(p->work));
    snprintf(to, sizeof to, "%s/rejected.tsv", p->o->out);
    if (!s && rename(from, to)) s = pa_error(err, PA_FAIL, "cannot rename %s to %s: %s", from, to, strerror(errno));
    if (s) return s;
    if (nothing) return pa_error(err, PA_DATA, "%s: no file could be read; no token files written%s", p->o->midi, left);
    return pa_error(err, PA_DATA, "%s: --strict, and %zu files refused; no token files written%s", p->o->midi,
                    p->pieces.refused, left);
}

static const char *sostenuto_fate(const pa_encode_options *o) {
    if (o->sostenuto) return ", applied";
    return o->encoding == PA_PERFORMANCE ? ", ignored (--sostenuto applies it)" : ", ignored";
}

static pa_status write_set(prep *p, pa_err *err) {
    p->set = (pa_set_options){.encoding = p->o->encode.encoding,
                              .part_bytes = p->o->part_bytes,
                              .keep_copies = p->o->keep_duplicates || p->corpus.metadata};
    pa_status s = pa_split_pieces(&p->pieces, &p->split, err);
    if (!s) s = write_rejected(p, err);
    if (!s) s = write_duplicates(p, err);
    if (!s) s = pa_set_write(&p->pieces, &p->set, pa_work_path(p->work), p->total, err);
    if (!s) s = pa_set_install(pa_work_path(p->work), p->o->out, err);
    if (s) return s;
    print_table(p);
    pa_findings_print(stderr, &p->pieces.findings, sostenuto_fate(&p->o->encode), "paprep");
    tell_duplicates(p);
    tell_splits(p);
    return PA_OK;
}

static void tell_refused(const prep *p) {
    if (!p->pieces.refused) return;
    fprintf(stderr, "paprep: %zu of %zu files refused; %s/rejected.tsv says why\n", p->pieces.refused, p->corpus.count,
            p->o->out);
}

static pa_status prepare(prep *p, pa_err *err) {
    const pa_prepare_options *o = p->o;
    pa_status s = pa_corpus_find(&p->corpus, o->midi, o->metadata, err);
    if (s) return s;
    const pa_corpus *c = &p->corpus;
    tell_skipped(c);
    if (!c->count)
        return pa_error(err, PA_DATA, "%s: expected .mid, .midi, .kar, .rmi or .smf files, found none",
                        c->metadata ? c->metadata : o->midi);
    if ((s = pa_work_open(&p->work, o->out, err))) return s;
    const pa_pieces_options reading = {.folder = pa_work_path(p->work), .encode = &o->encode, .jobs = o->jobs};
    if ((s = pa_pieces_read(&p->pieces, c, &reading, err))) return s;
    bool nothing = p->pieces.refused == c->count;
    s = nothing || (o->strict && p->pieces.refused) ? refuse_all(p, nothing, err) : write_set(p, err);
    if (!s || s == PA_DATA) tell_refused(p);
    return s;
}

pa_status pa_prepare(const pa_prepare_options *o, pa_err *err) {
    prep p = {.o = o};
    pa_status s = prepare(&p, err), closed = pa_work_close(p.work, s ? NULL : err);
    if (!s) s = closed;
    size_t unseen = p.corpus.unseen + p.pieces.unseen;
    if ((!s || s == PA_DATA) && unseen)
        s = pa_error(err, PA_FAIL, "%s: cannot read %zu of its files and folders; %s/rejected.tsv names them", o->midi,
                     unseen, o->out);
    pa_pieces_clear(&p.pieces);
    pa_corpus_clear(&p.corpus);
    return s;
}
