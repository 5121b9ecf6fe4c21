// paprep.c: the program that turns folders of MIDI files into token files, and token files back into MIDI. Knows neither encoding's
// rules (tokenizer/) nor how files are found (corpus.c).
#include "host/base/cli.h"
#include "host/base/file.h"
#include "host/base/progress.h"
#include "host/files/corpus.h"
#include "host/files/token_file.h"
#include "tokenizer/workers.h"
#include "tokenizer/write.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char PERFORMANCE[] = "performance"; // the default: a word from the command line is another string
#define NOT_GIVEN INT64_MIN

static const char *encoding_name = PERFORMANCE, *metadata = NULL, *events_path = NULL, *decode_path = NULL;
static int64_t jobs = NOT_GIVEN, piece = NOT_GIVEN;
static const char *program_list = NULL;
static bool strict = false, lenient = false, sostenuto = false;

static const pa_option options[] = {
    {"encoding", PA_OPT_CHOICE, &encoding_name, "performance|midi-neural", "how notes become tokens", "Tokens"},
    {"metadata", PA_OPT_STRING, &metadata, "FILE", "CSV or JSON with the columns split and midi_filename", NULL},
    {"jobs", PA_OPT_INT, &jobs, "N", "files read at once (default: one for each core)", NULL},
    {"strict", PA_OPT_FLAG, &strict, NULL, "refuse everything (status 3, no token files) if any file is refused", NULL},
    {"programs", PA_OPT_STRING, &program_list, "LIST",
     "instruments by General MIDI program, 0-127, such as 0-7,24 (default: all but drums)", NULL},
    {"sostenuto", PA_OPT_FLAG, &sostenuto, NULL, "apply the sostenuto pedal", NULL},
    {"lenient", PA_OPT_FLAG, &lenient, NULL, "read damaged files as far as possible", NULL},
    {"events", PA_OPT_STRING, &events_path, "FILE.mid", "print what a file holds and its events: seconds, token, event",
     "Looking at tokens"},
    {"decode", PA_OPT_STRING, &decode_path, "TOKENS", "write a piece of a token file as MIDI", NULL},
    {"piece", PA_OPT_INT, &piece, "K", "which one, counted from 0 (default: 0)", NULL},
};

static const pa_program program = {
    "paprep",
    "MIDI files to tokens",
    "MIDI_DIR OUT_DIR [options]\n--events FILE.mid [--encoding E]\n--decode TOKENS.safetensors OUT.mid [--piece K]",
    "paprep maestro-v3.0.0 data/maestro\n"
    "paprep my-recordings data/mine --encoding midi-neural --strict\n"
    "paprep --decode data/maestro/validation.safetensors piece.mid --piece 12",
    options,
    sizeof options / sizeof *options,
};

// What became of each file of the corpus.
typedef struct {
    pa_piece piece;
    char *reason; // NULL: it has tokens
} outcome;

typedef struct {
    pa_corpus corpus;
    pa_encode_options options;
    pa_findings findings;
    outcome *outcome;  // by file of the corpus
    const char **path; // of the files to be read
    size_t *file;      // their index in the corpus
    size_t reading, read, refused;
    pa_progress progress;
} prep;

static void refuse(prep *p, size_t file, const char *reason) {
    const char *path = p->corpus.file[file].path;
    size_t length = strlen(path);
    if (!strncmp(reason, path, length) && !strncmp(reason + length, ": ", 2)) reason += length + 2; // the report has a column for the file
    p->outcome[file].reason = strdup(reason);
    p->refused++;
}

static void take_piece(void *user, size_t index, pa_status status, pa_piece got, const char *reason) {
    prep *p = user;
    size_t file = p->file[index];
    p->outcome[file].piece = got;
    pa_findings_add(&p->findings, &got.report);
    if (status) refuse(p, file, reason);
    pa_progress_update(&p->progress, (double)++p->read);
}

static pa_status read_options(pa_encode_options *o, pa_err *err) {
    *o = (pa_encode_options){.lenient = lenient, .sostenuto = sostenuto, .longest_pause = PA_LONGEST_PAUSE};
    pa_status s = pa_encoding_parse(encoding_name, &o->encoding, err);
    if (!s && program_list) s = pa_programs_parse(program_list, &o->programs, err);
    if (!s && o->encoding == PA_MIDI_NEURAL && (program_list || sostenuto))
        s = pa_error(err, PA_USAGE, "--%s: expected with --encoding performance, found with midi-neural",
                     program_list ? "programs" : "sostenuto");
    return s;
}

static int count_cores(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
}

static pa_status read_files(prep *p, pa_err *err) {
    size_t count = p->corpus.count;
    p->outcome = calloc(count + 1, sizeof *p->outcome);
    p->path = calloc(count + 1, sizeof *p->path);
    p->file = calloc(count + 1, sizeof *p->file);
    if (!p->outcome || !p->path || !p->file) return pa_error(err, PA_FAIL, "no memory for %zu files", count);
    for (size_t i = 0; i < count; i++) {
        if (p->corpus.file[i].refused) {
            refuse(p, i, p->corpus.file[i].refused);
            continue;
        }
        p->path[p->reading] = p->corpus.file[i].path;
        p->file[p->reading++] = i;
    }
    pa_progress_start(&p->progress, "reading", "files", (double)p->reading);
    pa_status s = pa_encode_files(p->path, p->reading, &p->options, jobs == NOT_GIVEN ? count_cores() : (int)jobs, take_piece, p, err);
    pa_progress_end(&p->progress);
    return s;
}

// Tabs and line breaks have a meaning in the report, and escapes on a terminal, so a name that holds them has spaces there.
static void put_cell(FILE *out, const char *text) {
    for (; *text; text++) putc((unsigned char)*text < 32 ? ' ' : *text, out);
}

static pa_status write_report(const prep *p, const char *folder, pa_err *err) {
    char path[4096];
    pa_file file;
    snprintf(path, sizeof path, "%s/rejected.tsv", folder);
    pa_status s = pa_file_create(&file, path, err);
    if (s) return s;
    fprintf(file.stream, "file\treason\n");
    for (size_t i = 0; i < p->corpus.count; i++) {
        if (!p->outcome[i].reason) continue;
        put_cell(file.stream, p->corpus.file[i].name);
        putc('\t', file.stream);
        put_cell(file.stream, p->outcome[i].reason);
        putc('\n', file.stream);
    }
    return pa_file_commit(&file, err);
}

typedef struct {
    size_t pieces, notes, tokens, dropped;
    double seconds;
} totals;

static void print_row(const char *split, const totals *t) {
    printf("%-10s %8zu %10zu %9.2f %11zu ", split, t->pieces, t->notes, t->seconds / 3600, t->tokens);
    if (t->pieces)
        printf("%12.3f %8zu\n", (double)t->tokens / (double)t->notes, t->dropped);
    else
        printf("%12s %8s  empty: no file belongs to it\n", "-", "-");
}

static pa_status write_split(const prep *p, pa_split split, const char *folder, totals *t, pa_err *err) {
    char path[4096];
    size_t count = 0;
    pa_piece *pieces = malloc((p->corpus.count + 1) * sizeof *pieces);
    const char **names = malloc((p->corpus.count + 1) * sizeof *names);
    pa_status s = PA_OK;
    if (!pieces || !names) {
        s = pa_error(err, PA_FAIL, "no memory for %zu pieces", p->corpus.count);
        goto done;
    }
    for (size_t i = 0; i < p->corpus.count; i++) {
        if (p->outcome[i].reason || p->corpus.file[i].split != split) continue;
        const pa_piece *got = &p->outcome[i].piece;
        pieces[count] = *got;
        names[count++] = p->corpus.file[i].name;
        t->notes += got->notes, t->tokens += got->count, t->dropped += got->dropped, t->seconds += got->seconds;
    }
    t->pieces = count;
    snprintf(path, sizeof path, "%s/%s.safetensors", folder, pa_split_name(split));
    s = pa_tokens_write(path, pieces, names, count, p->options.encoding, pa_split_name(split), err);
done:
    free(pieces);
    free(names);
    return s;
}

static pa_status write_splits(const prep *p, const char *folder, pa_err *err) {
    totals split[PA_SPLITS] = {0}, all = {0};
    for (pa_split i = 0; i < PA_SPLITS; i++) {
        pa_status s = write_split(p, i, folder, &split[i], err);
        if (s) return s;
    }
    printf("%-10s %8s %10s %9s %11s %12s %8s\n", "split", "pieces", "notes", "hours", "tokens", "tokens/note", "dropped");
    for (pa_split i = 0; i < PA_SPLITS; i++) {
        const totals *t = &split[i];
        print_row(pa_split_name(i), t);
        all = (totals){all.pieces + t->pieces, all.notes + t->notes, all.tokens + t->tokens, all.dropped + t->dropped,
                       all.seconds + t->seconds};
    }
    print_row("all", &all);
    return PA_OK;
}

// A refusal leaves an earlier run's token files beside its own rejected.tsv.
static bool has_token_files(const char *folder) {
    char path[4096];
    bool found = false;
    for (pa_split i = 0; i < PA_SPLITS && !found; i++) {
        snprintf(path, sizeof path, "%s/%s.safetensors", folder, pa_split_name(i));
        found = !access(path, F_OK);
    }
    return found;
}

static void tell_unlisted(const pa_corpus *c) {
    bool one = c->unlisted == 1;
    if (!c->unlisted) return;
    fprintf(stderr, "paprep: %zu MIDI file%s not in %s and %s left out, ", c->unlisted, one ? " is" : "s are", c->metadata,
            one ? "is" : "are");
    put_cell(stderr, c->unlisted_name);
    fprintf(stderr, "%s\n", one ? "" : " the first");
}

static pa_status prepare(const char *midi, const char *out, pa_err *err) {
    prep p = {0};
    pa_status s = read_options(&p.options, err);
    if (!s) s = pa_corpus_find(&p.corpus, midi, metadata, err);
    if (!s) tell_unlisted(&p.corpus);
    if (!s && !p.corpus.count)
        s = pa_error(err, PA_DATA, "%s: expected .mid or .midi files, found none", p.corpus.metadata ? p.corpus.metadata : midi);
    if (!s) s = pa_make_dirs(out, err);
    if (!s) s = read_files(&p, err);
    if (!s) s = write_report(&p, out, err);
    if (s) goto done;
    bool nothing = p.refused == p.corpus.count;
    if (!nothing && !(strict && p.refused)) s = write_splits(&p, out, err);
    if (s) goto done;
    pa_findings_print(stderr, &p.findings, "paprep");
    if (p.refused) fprintf(stderr, "paprep: %zu of %zu files refused; %s/rejected.tsv says why\n", p.refused, p.corpus.count, out);
    const char *left = has_token_files(out) ? "; those of an earlier run are left as they were" : "";
    if (nothing)
        s = pa_error(err, PA_DATA, "%s: no file could be read; no token files written%s", midi, left);
    else if (strict && p.refused)
        s = pa_error(err, PA_DATA, "%s: --strict, and %zu files refused; no token files written%s", midi, p.refused, left);
done:
    for (size_t i = 0; i < p.corpus.count && p.outcome; i++) {
        pa_piece_clear(&p.outcome[i].piece);
        free(p.outcome[i].reason);
    }
    free(p.outcome);
    free(p.path);
    free(p.file);
    pa_corpus_clear(&p.corpus);
    return s;
}

static pa_status print_events(const char *path, pa_err *err) {
    pa_encode_options o;
    pa_piece got;
    pa_status s = read_options(&o, err);
    if (s) return s;
    s = pa_encode_isolated(path, &o, &got, err);
    if (got.report.tracks) pa_report_print(stdout, &got.report, o.encoding == PA_PERFORMANCE, o.sostenuto);
    double now = 0;
    for (size_t i = 0; i < got.count; i++) {
        char text[32];
        pa_token_text(got.token[i], text, sizeof text);
        printf("%9.2f  %3d  %s\n", now, got.token[i], text);
        now += pa_token_seconds(&got.token[i], 1);
    }
    pa_piece_clear(&got);
    return s;
}

static pa_status decode_piece(const char *tokens_path, const char *out, pa_err *err) {
    pa_tokens t;
    pa_note *notes = NULL;
    size_t count;
    if (pa_same_file(tokens_path, out)) return pa_error(err, PA_USAGE, "OUT.mid: expected another file than the token file, found %s", out);
    pa_status s = pa_tokens_open(&t, tokens_path, err);
    if (s) return s;
    int64_t k = piece == NOT_GIVEN ? 0 : piece;
    if (k < 0 || k >= t.pieces) {
        s = t.pieces ? pa_error(err, PA_USAGE, "--piece: expected 0 to %lld, found %lld", (long long)t.pieces - 1, (long long)k)
                     : pa_error(err, PA_DATA, "%s: expected a piece, found none", tokens_path);
    } else {
        const uint16_t *first = t.tokens + t.offsets[k];
        s = pa_decode(first, (size_t)(t.offsets[k + 1] - t.offsets[k]), t.encoding, &notes, &count, err);
    }
    if (!s) s = pa_midi_write(out, notes, count, err);
    free(notes);
    pa_tokens_close(&t);
    return s;
}

// An option that the mode would not look at is a mistake of the user's.
static pa_status check_options(pa_err *err) {
    enum { FOLDER = 1, EVENTS = 2, DECODE = 4 };
    static const char folder[] = "MIDI_DIR OUT_DIR";
    const struct {
        const char *name;
        bool given;
        int modes;
        const char *belongs;
    } row[] = {
        {"encoding", encoding_name != PERFORMANCE, FOLDER | EVENTS, "MIDI_DIR OUT_DIR or --events"},
        {"metadata", metadata != NULL, FOLDER, folder},
        {"jobs", jobs != NOT_GIVEN, FOLDER, folder},
        {"strict", strict, FOLDER, folder},
        {"programs", program_list != NULL, FOLDER | EVENTS, "MIDI_DIR OUT_DIR or --events"},
        {"sostenuto", sostenuto, FOLDER | EVENTS, "MIDI_DIR OUT_DIR or --events"},
        {"lenient", lenient, FOLDER | EVENTS, "MIDI_DIR OUT_DIR or --events"},
        {"piece", piece != NOT_GIVEN, DECODE, "--decode"},
    };
    int mode = events_path ? EVENTS : decode_path ? DECODE : FOLDER;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        if (row[i].given && !(row[i].modes & mode))
            return pa_error(err, PA_USAGE, "--%s: expected with %s, found with %s", row[i].name, row[i].belongs,
                            events_path   ? "--events"
                            : decode_path ? "--decode"
                                          : folder);
    return PA_OK;
}

static pa_status run(int argc, char **argv, pa_err *err) {
    bool done;
    int given;
    pa_status s = pa_cli_parse(&program, argc, argv, &given, &done, err);
    if (s || done) return s;
    int expected = events_path ? 0 : decode_path ? 1 : 2;
    if (events_path && decode_path) return pa_error(err, PA_USAGE, "expected --events or --decode, found both");
    if ((s = check_options(err))) return s;
    if (given != expected)
        return pa_error(err, PA_USAGE, "expected %s, found %d arguments (paprep --help)",
                        events_path   ? "nothing but --events FILE.mid"
                        : decode_path ? "--decode TOKENS OUT.mid"
                                      : "MIDI_DIR and OUT_DIR",
                        given);
    if (events_path) return print_events(events_path, err);
    if (decode_path) return decode_piece(decode_path, argv[1], err);
    if (jobs != NOT_GIVEN && (jobs < 1 || jobs > 256))
        return pa_error(err, PA_USAGE, "--jobs: expected 1 to 256, found %lld", (long long)jobs);
    return prepare(argv[1], argv[2], err);
}

int main(int argc, char **argv) {
    pa_err err = {""};
    return pa_cli_end(&program, run(argc, argv, &err), &err);
}
