// paprep.c: the program that turns folders of MIDI files into token files (host/prep/), and token files back into MIDI.
#include "host/base/cli.h"
#include "host/base/file.h"
#include "host/files/token_file.h"
#include "host/prep/prepare.h"
#include "tokenizer/workers.h"
#include "tokenizer/write.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

static const char PERFORMANCE[] = "performance"; // the default; its address shows that --encoding was not given
#define NOT_GIVEN INT64_MIN
#define PART_BYTES ((int64_t)1 << 31)

static const char *encoding_name = PERFORMANCE, *metadata = NULL, *events_path = NULL, *decode_path = NULL;
static int64_t jobs = NOT_GIVEN, piece = NOT_GIVEN, part_bytes = NOT_GIVEN;
static const char *program_list = NULL;
static bool strict = false, lenient = false, sostenuto = false, keep_duplicates = false;

static const pa_option options[] = {
    {"encoding", PA_OPT_CHOICE, &encoding_name, "performance|midi-neural", "how notes become tokens", "Tokens"},
    {"metadata", PA_OPT_STRING, &metadata, "FILE",
     "list with the columns split and midi_filename, CSV or JSON (default: MIDI_DIR/maestro-v*)", NULL},
    {"jobs", PA_OPT_INT, &jobs, "N", "files read at once (default: one per core)", NULL},
    {"strict", PA_OPT_FLAG, &strict, NULL, "no token files (status 3) if any file is refused", NULL},
    {"keep-duplicates", PA_OPT_FLAG, &keep_duplicates, NULL,
     "keep identical pieces (default: only the first of them, unless a list names them)", NULL},
    {"part-bytes", PA_OPT_INT, &part_bytes, "N",
     "largest token file in bytes; a larger split becomes SPLIT-00001-of-00002.safetensors, ... (default: 2^31)", NULL},
    {"programs", PA_OPT_STRING, &program_list, "LIST",
     "instruments by General MIDI program, 0-127, such as 0-7,24 (default: all but drums)", NULL},
    {"sostenuto", PA_OPT_FLAG, &sostenuto, NULL, "apply the sostenuto pedal", NULL},
    {"lenient", PA_OPT_FLAG, &lenient, NULL, "read damaged files as far as possible", NULL},
    {"events", PA_OPT_STRING, &events_path, "FILE.mid", "print what a file holds and its events: seconds, token, event",
     "Looking at tokens"},
    {"decode", PA_OPT_STRING, &decode_path, "TOKENS", "write a piece of a token file as MIDI", NULL},
    {"piece", PA_OPT_INT, &piece, "K", "number of the piece, from 0 (default: 0)", NULL},
};

static const pa_program program = {
    .name = "paprep",
    .summary = "Converts MIDI files to tokens. A folder without MAESTRO's list is split 90/5/5 by a hash of the notes.",
    .usage =
        "MIDI_DIR OUT_DIR [options]\n--events FILE.mid [--encoding E]\n--decode TOKENS.safetensors OUT.mid [--piece K]",
    .example = "paprep maestro-v3.0.0 data/maestro\n"
               "paprep my-recordings data/mine --encoding midi-neural --strict\n"
               "paprep --decode data/maestro/validation.safetensors piece.mid --piece 12",
    .option = options,
    .options = sizeof options / sizeof *options,
};

static pa_status read_options(pa_encode_options *o, pa_err *err) {
    *o = (pa_encode_options){.lenient = lenient, .sostenuto = sostenuto, .longest_pause = PA_LONGEST_PAUSE};
    pa_status s = pa_encoding_parse(encoding_name, &o->encoding, err);
    if (!s && program_list) s = pa_programs_parse(program_list, &o->programs, err);
    if (!s && o->encoding == PA_MIDI_NEURAL && (program_list || sostenuto))
        s = pa_error(err, PA_USAGE, "--%s needs --encoding performance", program_list ? "programs" : "sostenuto");
    return s;
}

static int count_cores(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
}

static pa_status prepare(const char *midi, const char *out, pa_err *err) {
    pa_prepare_options o = {.midi = midi,
                            .out = out,
                            .metadata = metadata,
                            .jobs = jobs == NOT_GIVEN ? count_cores() : (int)jobs,
                            .part_bytes = part_bytes == NOT_GIVEN ? PART_BYTES : part_bytes,
                            .strict = strict,
                            .keep_duplicates = keep_duplicates};
    pa_status s = read_options(&o.encode, err);
    if (!s && (o.jobs < 1 || o.jobs > 256))
        s = pa_error(err, PA_USAGE, "--jobs: expected 1 to 256, found %lld", (long long)jobs);
    if (!s && o.part_bytes < 1)
        s = pa_error(err, PA_USAGE, "--part-bytes: expected at least 1, found %lld", (long long)part_bytes);
    return s ? s : pa_prepare(&o, err);
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
    if (pa_same_file(tokens_path, out))
        return pa_error(err, PA_USAGE, "OUT.mid: expected another file than the token file, found %s", out);
    pa_status s = pa_tokens_open(&t, tokens_path, err);
    if (s) return s;
    int64_t k = piece == NOT_GIVEN ? 0 : piece;
    if (k < 0 || k >= t.pieces) {
        s = t.pieces ? pa_error(err, PA_USAGE, "--piece: expected 0 to %lld, found %lld", (long long)t.pieces - 1,
                                (long long)k)
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

// An option that the mode would ignore is an error.
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
        {"keep-duplicates", keep_duplicates, FOLDER, folder},
        {"part-bytes", part_bytes != NOT_GIVEN, FOLDER, folder},
        {"piece", piece != NOT_GIVEN, DECODE, "--decode"},
    };
    int mode = events_path ? EVENTS : decode_path ? DECODE : FOLDER;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        if (row[i].given && !(row[i].modes & mode))
            return pa_error(err, PA_USAGE, "--%s needs %s, found %s", row[i].name, row[i].belongs,
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
    return prepare(argv[1], argv[2], err);
}

int main(int argc, char **argv) {
    pa_err err = {""};
    return pa_cli_end(&program, run(argc, argv, &err), &err);
}
