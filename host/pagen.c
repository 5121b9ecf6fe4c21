// pagen.c: continues a piece: options in, one call of host/play/continue.h, exit status out.
#include <math.h>
#include <signal.h>

#include "host/base/cli.h"
#include "host/files/mapping.h"
#include "host/files/model_path.h"
#include "host/play/continue.h"

#define NOT_GIVEN INT64_MIN
enum { DEFAULT_SECONDS = 60 };

static const char *program_list;
static double prime_seconds = (double)NAN, length_seconds = (double)NAN; // NaN: not given
static int64_t prime_tokens = NOT_GIVEN, length_tokens = NOT_GIVEN, number = 1, seed = 1, top_k, refill;
static bool with_primer, stop_at_end, long_notes, free_density;
static pa_continuation job = {.device = "auto", .precision = "auto"}; // the rest of its defaults is set in run

static const pa_option option[] = {
    {"primer", PA_OPT_STRING, &job.primer.path, "IN",
     "piece to continue: a MIDI file, or TOKENS.safetensors[:PIECE] (default: none)", "Music"},
    {"output", PA_OPT_STRING, &job.output.path, "OUT",
     "OUT.mid (with --number: OUT-1.mid, OUT-2.mid, ...), or OUT.safetensors for tokens", NULL},
    {"prime-seconds", PA_OPT_FLOAT, &prime_seconds, "S",
     "cut the primer after S seconds (default: at the end of its music)", NULL},
    {"prime-tokens", PA_OPT_INT, &prime_tokens, "N", "cut the primer after N tokens", NULL},
    {"length-seconds", PA_OPT_FLOAT, &length_seconds, "S",
     "length of the continuation in seconds; it ends at a pause within the next ten (default: 60)", NULL},
    {"length-tokens", PA_OPT_INT, &length_tokens, "N", "length in tokens; with both, whichever is reached first", NULL},
    {"number", PA_OPT_INT, &number, "K", "number of continuations", NULL},
    {"with-primer", PA_OPT_FLAG, &with_primer, NULL, "keep the primer's own events before the continuation (default)",
     NULL},
    {"without-primer", PA_OPT_FLAG, &job.output.without_primer, NULL,
     "write the continuation only, from time 0, at the tempo of the cut", NULL},
    {"stop-at-end", PA_OPT_FLAG, &stop_at_end, NULL, "stop where the model ends the piece", NULL},
    {"json", PA_OPT_FLAG, &job.json, NULL, "features of primer and continuations as JSON (docs/metrics.md)", NULL},
    {"programs", PA_OPT_STRING, &program_list, "LIST",
     "instruments of the primer to continue, General MIDI 0-127, such as 0-7,24 (default: all but drums)", "Primer"},
    {"sostenuto", PA_OPT_FLAG, &job.primer.sostenuto, NULL, "apply the primer's sostenuto pedal", NULL},
    {"strict", PA_OPT_FLAG, &job.primer.strict, NULL, "refuse a damaged primer (default: read as much as possible)",
     NULL},
    {"wav", PA_OPT_STRING, &job.show.sound[PA_SOUND_WAV], "F.wav",
     "sound as WAV (with --number: F-1.wav, F-2.wav, ...)", "Sound and picture"},
    {"flac", PA_OPT_STRING, &job.show.sound[PA_SOUND_FLAC], "F.flac", "sound as FLAC", NULL},
    {"ogg", PA_OPT_STRING, &job.show.sound[PA_SOUND_OGG], "F.ogg", "sound as Ogg Vorbis", NULL},
    {"mp3", PA_OPT_STRING, &job.show.sound[PA_SOUND_MP3], "F.mp3", "sound as MP3", NULL},
    {"play", PA_OPT_FLAG, &job.show.play, NULL, "play the continuations through the audio output", NULL},
    {"soundfont", PA_OPT_STRING, &job.show.font, "F.sf2", "SoundFont of the piano (default: an installed one)", NULL},
    {"piano-roll", PA_OPT_STRING, &job.show.roll, "F.png|F.svg", "picture of all continuations", NULL},
    {"html", PA_OPT_STRING, &job.show.page, "F.html", "web page of rolls, sound, notes and downloads", NULL},
    {"seed", PA_OPT_INT, &seed, "N", "random seed", "Sampling"},
    {"temperature", PA_OPT_FLOAT, &job.sampling.temperature, "T",
     "sampling temperature of pitches and velocities: below 1 more predictable, above 1 bolder; 0: greedy", NULL},
    {"top-k", PA_OPT_INT, &top_k, "K", "sample from the K most probable tokens; 0: all", NULL},
    {"top-p", PA_OPT_FLOAT, &job.sampling.top_p, "P",
     "sample from the smallest set of most probable tokens with total probability P", NULL},
    {"min-p", PA_OPT_FLOAT, &job.sampling.min_p, "P", "drop tokens less than P times as probable as the most probable",
     NULL},
    {"repetition-penalty", PA_OPT_FLOAT, &job.sampling.repetition_penalty, "R",
     "divisor for the probability of a note that has followed the latest one before; the effect falls to a third in "
     "ten seconds; below 1: more such notes",
     NULL},
    {"long-notes", PA_OPT_FLAG, &long_notes, NULL, "let the model decide when long notes end (default: as pianists do)",
     NULL},
    {"free-density", PA_OPT_FLAG, &free_density, NULL,
     "let the model decide how many notes a second it plays (default: about as many as the primer)", NULL},
    {"greedy", PA_OPT_FLAG, &job.greedy, NULL, "always take the most probable token", NULL},
    {"refill", PA_OPT_INT, &refill, "R", "latents that a new window begins with; 0: half of them", NULL},
    {"config", PA_OPT_STRING, &job.config, "C.ini", "model settings, for a file of perceiver_ar_pytorch",
     "Checkpoint and device"},
    {"device", PA_OPT_CHOICE, &job.device, "auto|cpu|cuda", "compute device", NULL},
    {"precision", PA_OPT_CHOICE, &job.precision, "auto|fp32|bf16|fp16", "precision of matrix products and attention",
     NULL},
    {"int8", PA_OPT_FLAG, &job.int8, NULL, "round the weights of matrix products to 8 bits", NULL},
};
static const pa_program program = {
    .name = "pagen",
    .summary = "Continues a piece of piano music with a trained model.",
    .usage = "CHECKPOINT --primer IN.mid --output OUT.mid [options]\nCHECKPOINT --output OUT.mid [options]",
    .note = PA_CHECKPOINT_NOTE,
    .example = "pagen runs/v1 --primer opening.mid --output continuation.mid --length-seconds 60 --seed 1",
    .option = option,
    .options = sizeof option / sizeof *option};

static volatile sig_atomic_t interrupted;
static void on_signal(int signal_number) {
    (void)signal_number;
    interrupted = 1;
}

// The first request to stop writes what there is; a second one ends the program at once. A terminal that is closed
// sends SIGHUP, often more than once, unless nohup has it ignored.
static void catch_signals(void) {
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND}, before;
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    a.sa_flags = 0;
    if (!sigaction(SIGHUP, NULL, &before) && before.sa_handler != SIG_IGN) sigaction(SIGHUP, &a, NULL);
}

static pa_status check_ranges(pa_err *err) {
    const struct {
        const char *name;
        int64_t value, least, most;
    } range[] = {{"prime-tokens", prime_tokens, 1, INT64_MAX},
                 {"length-tokens", length_tokens, 1, 1 << 30},
                 {"number", number, 1, 10000},
                 {"seed", seed, 0, INT64_MAX},
                 {"top-k", top_k, 0, PA_VOCAB},
                 {"refill", refill, 0, INT32_MAX}};
    for (size_t i = 0; i < sizeof range / sizeof *range; i++)
        if (range[i].value != NOT_GIVEN && (range[i].value < range[i].least || range[i].value > range[i].most))
            return pa_error(err, PA_USAGE, "--%s: expected %lld to %lld, found %lld", range[i].name,
                            (long long)range[i].least, (long long)range[i].most, (long long)range[i].value);
    for (int i = 0; i < 2; i++) {
        double seconds = i ? length_seconds : prime_seconds;
        if (!isnan(seconds) && !(seconds >= 0.01 && seconds <= 1e6))
            return pa_error(err, PA_USAGE, "--%s: expected 0.01 to 1000000 s, found %g",
                            i ? "length-seconds" : "prime-seconds", seconds);
    }
    return PA_OK;
}

static pa_status check_options(pa_err *err) {
    bool about_primer = !isnan(prime_seconds) || prime_tokens != NOT_GIVEN || with_primer ||
                        job.output.without_primer || program_list || job.primer.sostenuto || job.primer.strict;
    pa_status s = check_ranges(err);
    if (s) return s;
    if (!isnan(prime_seconds) && prime_tokens != NOT_GIVEN)
        return pa_error(err, PA_USAGE, "expected --prime-seconds or --prime-tokens, found both");
    if (with_primer && job.output.without_primer)
        return pa_error(err, PA_USAGE, "expected --with-primer or --without-primer, found both");
    if (!job.primer.path && about_primer)
        return pa_error(err, PA_USAGE, "expected --primer IN.mid with an option about the primer, found none");
    if (!job.output.path) return pa_error(err, PA_USAGE, "expected --output OUT.mid or OUT.safetensors, found none");
    if (program_list && (s = pa_programs_parse(program_list, &job.primer.programs, err))) return s;
    job.output.number = (int)number;
    if ((s = pa_output_check(&job.output, job.primer.path, err))) return s;
    if ((s = pa_output_check_spares(&job.output, "--config", job.config, err))) return s;
    return pa_show_check(&job.show, job.output.number, err);
}

static pa_status run(int argc, char **argv, pa_err *err) {
    bool done;
    int given;
    patrain_sampling_default(&job.sampling, sizeof job.sampling);
    pa_status s = pa_cli_parse(&program, argc, argv, &given, &done, err);
    if (s || done) return s;
    signal(SIGPIPE, SIG_IGN); // finish the music even if nobody reads what is printed
    if (given != 1)
        return pa_error(err, PA_USAGE, "expected only CHECKPOINT before the options, found %d arguments (pagen --help)",
                        given);
    if ((s = check_options(err))) return s;
    job.checkpoint = argv[1];
    job.primer.steps = isnan(prime_seconds) ? INT64_MAX : llround(prime_seconds * PA_STEPS_A_SECOND);
    job.primer.tokens = prime_tokens == NOT_GIVEN ? SIZE_MAX : (size_t)prime_tokens;
    job.sampling.stop_at_end = stop_at_end;
    job.sampling.long_notes = long_notes;
    job.sampling.free_density = free_density;
    job.sampling.top_k = (int)top_k;
    job.sampling.refill = (int)refill;
    job.sampling.seed = (uint64_t)seed;
    job.seconds = !isnan(length_seconds) ? length_seconds : length_tokens == NOT_GIVEN ? DEFAULT_SECONDS : 0;
    job.tokens = length_tokens == NOT_GIVEN ? 0 : (size_t)length_tokens;
    job.ready = catch_signals;
    job.stop = &interrupted;
    return pa_continue(&job, err);
}

int main(int argc, char **argv) {
    pa_err err = {""};
    pa_cli_spin_briefly(argv);
    pa_mapping_guard();
    return pa_cli_end(&program, run(argc, argv, &err), &err);
}
