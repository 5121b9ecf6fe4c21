/* patrain.h: the library of patrain: encodes MIDI files as tokens, continues and scores them with a trained model, and
 * writes MIDI files.
 *
 * Link with -lpatrain: see docs/library.md for pkg-config and CMake. Training is not in the library.
 *
 * Errors. A function that can fail returns a patrain_status, and fills *error unless that is NULL: the status and one
 * line of text. On failure, other outputs are unspecified unless stated.
 *
 * Threads. Every handle may be used by one thread at a time, and different handles by different threads at once. A
 * model does not change after it is opened: any number of streams and scorers may use it at once. Functions without a
 * handle may be called at any time.
 *
 * Side effects. The library prints nothing, installs no signal handlers and never ends the process. It forks only if
 * asked to (patrain_midi_options.isolated). It reads environment variables such as OMP_NUM_THREADS and sets none.
 *
 * OpenMP. The library computes on OpenMP threads: on fewer than asked for if OpenMP's settings allow fewer, on one
 * inside a parallel region of the caller. The caller's OpenMP settings stay as they are, with one exception: unless
 * OMP_WAIT_POLICY or GOMP_SPINCOUNT is set, the first stream or scorer of a process shortens the time for which idle
 * threads spin.
 *
 * Buffers. Sizes are in elements. Input and output buffers of one call must not overlap. What the library allocates for
 * the caller is freed with patrain_free; it may be resized with realloc.
 *
 * Structs. A struct that may grow begins with `size`: set it to sizeof the struct (anything else is PATRAIN_BAD_USAGE).
 * Structs that the library returns a pointer to belong to the library, and may grow at their end.
 *
 * The interface may change until version 1; the shared library's version (libpatrain.so.0) changes with it.
 */
#ifndef PATRAIN_H
#define PATRAIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PATRAIN_API __attribute__((visibility("default")))

typedef enum {
    PATRAIN_OK = 0,
    PATRAIN_FAILED = 1,    /* no memory, no disk, a device's error */
    PATRAIN_BAD_USAGE = 2, /* an argument is out of range, or a file does not exist */
    PATRAIN_BAD_DATA = 3,  /* the content of a file or buffer is refused */
    PATRAIN_ENDED = 4,     /* the model ended every sequence; no error */
} patrain_status;

typedef struct {
    patrain_status status;
    char text[1024]; /* one line in English, NUL-terminated */
} patrain_error;

PATRAIN_API const char *patrain_version(void); /* "0.1.0" */

/* Frees what a function of this library allocated for the caller. NULL is allowed. */
PATRAIN_API void patrain_free(void *memory);

/* ---- Tokens: numbers below 390 (docs/tokens.md).
 *
 * A key is struck (PATRAIN_NOTE_ON + pitch) as loudly as the last PATRAIN_VELOCITY + bin says, and released
 * (PATRAIN_NOTE_OFF + pitch); PATRAIN_TIME_SHIFT + n moves the clock by n + 1 hundredths of a second.
 */
enum {
    PATRAIN_NOTE_ON = 0,
    PATRAIN_NOTE_OFF = 128,
    PATRAIN_TIME_SHIFT = 256, /* + 0 .. 99 */
    PATRAIN_VELOCITY = 356,   /* + 0 .. 31 */
    PATRAIN_END = 388,
    PATRAIN_PAD = 389,
    PATRAIN_VOCABULARY = 390,
};

/* How tokens stand for notes. A model knows its own: patrain_model_describe(). */
typedef enum {
    PATRAIN_PERFORMANCE = 0,
    PATRAIN_MIDI_NEURAL = 1,
} patrain_encoding;

typedef struct {
    double start, end; /* seconds */
    uint8_t pitch;     /* 0 .. 127; 60 is middle C */
    uint8_t velocity;  /* 1 .. 127 */
    uint32_t token;    /* index of the token that struck it, set by patrain_decode, otherwise ignored */
} patrain_note;

/* How a MIDI file is read. */
typedef struct {
    size_t size;
    int strict;              /* 1: a damaged file is PATRAIN_BAD_DATA; 0: it is read as far as it can be */
    int sostenuto;           /* 1: applies the middle pedal (PATRAIN_PERFORMANCE only) */
    const uint8_t *programs; /* (128) not 0 for each General MIDI program to encode (PATRAIN_PERFORMANCE only); NULL:
                                all but drums */
    int isolated;            /* 1: in a child process, so that a crash of the MIDI reader is PATRAIN_BAD_DATA.
                                Not while the program's other threads work: a fork copies the locks that they hold */
} patrain_midi_options;

/* What was found in a MIDI file. */
typedef struct {
    size_t size;
    size_t notes, dropped; /* notes encoded; notes without a token: drums, other programs, no length */
    double silence;        /* seconds before the first note, which have no tokens */
    double seconds;        /* from there to the end of the last note, before the pedal */
    size_t sostenuto;      /* messages of the middle pedal */
    size_t unclosed;       /* notes never released: PATRAIN_MIDI_NEURAL drops them, others last to the file's end */
    size_t unread;         /* bytes behind tracks' End of Track, left out */
    size_t mended;         /* damaged places */
    char first_mended[160];
} patrain_midi_report;

/* Reads a MIDI file and encodes it, without the silence before its first note. options may be NULL: all zeros. *tokens:
 * allocated, *count of them. report may be NULL. PATRAIN_BAD_DATA for a file without a note to encode;
 * PATRAIN_MIDI_NEURAL keeps no note of a file without a sustain pedal. Calls from several threads wait for each other.
 */
PATRAIN_API patrain_status patrain_encode_midi(const char *path, patrain_encoding encoding,
                                               const patrain_midi_options *options, uint16_t **tokens, size_t *count,
                                               patrain_midi_report *report, patrain_error *error);

/* Encodes notes, which may come in any order. Each must start at 0 or later, end after it starts and within a day, and
 * have a pitch and a velocity in their ranges, else PATRAIN_BAD_DATA. *tokens: allocated, *count of them.
 */
PATRAIN_API patrain_status patrain_encode_notes(const patrain_note *notes, size_t note_count, patrain_encoding encoding,
                                                uint16_t **tokens, size_t *count, patrain_error *error);

/* Decodes any sequence of tokens: up to PATRAIN_END; PATRAIN_PAD is skipped; a note that is never released ends with
 * the sequence. PATRAIN_BAD_DATA for a number that is not a token. *notes: allocated, *note_count of them in order of
 * start.
 */
PATRAIN_API patrain_status patrain_decode(const uint16_t *tokens, size_t count, patrain_encoding encoding,
                                          patrain_note **notes, size_t *note_count, patrain_error *error);

/* Cuts tokens at a time, which is rounded to hundredths of a second: keeps what comes before it and the releases there;
 * the TIME_SHIFT that crosses it is shortened to end there. *count becomes the number of tokens kept. PATRAIN_BAD_USAGE
 * if no key is struck before; the tokens then stay as they are.
 */
PATRAIN_API patrain_status patrain_cut(uint16_t *tokens, size_t *count, double seconds, patrain_error *error);

/* Writes notes, which may come in any order, as a piano's MIDI file (type 0) to `path`. The file appears whole or not
 * at all. */
PATRAIN_API patrain_status patrain_write_midi(const char *path, const patrain_note *notes, size_t note_count,
                                              patrain_error *error);

/* ---- Models */

typedef struct patrain_model patrain_model;

typedef struct {
    int context;               /* most tokens of a window */
    int prefix;                /* of these, tokens that are attended to but not predicted from */
    patrain_encoding encoding; /* PATRAIN_PERFORMANCE for a foreign file, which does not say */
    int foreign;               /* 1: a file of perceiver_ar_pytorch, without settings of its own */
    int64_t step;              /* of training; 0 if unknown */
    size_t parameters;
    const char *path; /* of the model file */
    int batch;        /* windows that keep a device busy: about 8192 latents */
} patrain_model_info;

/* Opens a checkpoint: a model.safetensors, a checkpoint directory, or a run directory (its best checkpoint, else its
 * latest), or the name of one in a folder of models (docs/library.md). `config`: NULL, or an INI file whose [model]
 * describes a file of perceiver_ar_pytorch that has no settings of its own. On failure *model is NULL. The file is
 * mapped, and must stay as it is until the model is closed.
 */
PATRAIN_API patrain_status patrain_model_open(patrain_model **model, const char *path, const char *config,
                                              patrain_error *error);

/* Closes a model, whose streams and scorers must be closed. NULL is allowed. */
PATRAIN_API void patrain_model_close(patrain_model *model);

/* Valid until the model is closed. */
PATRAIN_API const patrain_model_info *patrain_model_describe(const patrain_model *model);

/* ---- Devices */

/* What a stream or a scorer computes with. Zeros and NULL are the defaults. */
typedef struct {
    size_t size;
    const char *device;    /* "auto" (a GPU if there is one, default), "cpu" or "cuda" */
    const char *precision; /* "auto" (default), "fp32", "bf16" or "fp16", of matrix products and attention */
    int int8;              /* 1: weights are rounded to 8 bits */
    int threads;           /* on a CPU; 0: as many as OpenMP would use */
    int sequences;         /* of a stream: how many grow together; 0: 1 */
    int batch;             /* of a scorer: most windows computed at a time; 0: patrain_model_info.batch */
} patrain_options;

/* PATRAIN_OK if this machine can compute on "cpu" or "cuda". PATRAIN_BAD_USAGE if the library was built without it,
 * PATRAIN_FAILED if the machine lacks it.
 */
PATRAIN_API patrain_status patrain_device_check(const char *device, patrain_error *error);

/* ---- Streams: sequences of tokens that grow at their ends, and a model that predicts each next token.
 *
 * A stream sees as many of the latest tokens as the model's window holds; it keeps all, two bytes each. All
 * sequences of a stream have the same length and are computed together, which takes less time than one stream for each.
 */

typedef struct patrain_stream patrain_stream;

/* Opens an empty stream, with weights and memory of its own. options may be NULL. On failure *stream is NULL. */
PATRAIN_API patrain_status patrain_stream_open(patrain_stream **stream, const patrain_model *model,
                                               const patrain_options *options, patrain_error *error);

/* NULL is allowed. */
PATRAIN_API void patrain_stream_close(patrain_stream *stream);

/* The options with their defaults resolved, such as "cpu" and "bf16". Valid until the stream is closed. */
PATRAIN_API const patrain_options *patrain_stream_options(const patrain_stream *stream);

/* Empties the stream, and then appends `count` tokens to each sequence: a primer, or none. PATRAIN_BAD_DATA for a
 * number that is not a token, or for PATRAIN_END or PATRAIN_PAD; the stream is then empty.
 */
PATRAIN_API patrain_status patrain_stream_start(patrain_stream *stream, const uint16_t *tokens, size_t count,
                                                patrain_error *error);

/* Appends a token to each sequence, such as one that a player has just played: as many tokens as sequences. Those of
 * sequences that have ended are ignored. Computes nothing until a prediction is asked for.
 */
PATRAIN_API patrain_status patrain_stream_append(patrain_stream *stream, const uint16_t *tokens, patrain_error *error);

/* Tokens of each sequence. */
PATRAIN_API size_t patrain_stream_length(const patrain_stream *stream);

/* Drops all but the first `count` tokens of each sequence, as if the others had never been there: sequences that ended
 * in those are open again. PATRAIN_BAD_USAGE if there are fewer.
 *
 * If the current window has latents among those that are left, it stays, and the next prediction costs one token. It is
 * to the bit what the stream predicted there in this window; to within rounding what it would have predicted, if it
 * read that part of the window at once. Otherwise the next prediction begins a new window, as after
 * patrain_stream_start.
 */
PATRAIN_API patrain_status patrain_stream_rewind(patrain_stream *stream, size_t count, patrain_error *error);

/* How a token is chosen. Begin with patrain_sampling_default, which sets pagen's defaults. In this order:
 *
 * 1. The probability of striking a key is divided by repetition_penalty for each time that this key followed the latest
 *    one in the window; the effect falls to a third in ten seconds.
 *    The probability of a wait (PATRAIN_TIME_SHIFT) of 250 ms or more is divided by density, that of a shorter one by
 *    density to the power of wait / 250 ms: 2 plays more notes a second, 0.5 fewer. Unless free_density is set, density
 *    is first multiplied by (density g / n)^2, at most by 2.5 either way: the stream was given g notes a second (mostly
 *    of its last 20 s), and has had n of late (6 s). Left alone, models play more notes than they are given.
 * 2. Logits of struck keys are divided by temperature, and those of velocities, each among themselves. When a key is
 *    struck or released, and which is released, stays as probable as the model has it: colder times make music denser.
 * 3. Only the top_k most probable tokens are kept; of these, the fewest whose probabilities add up to top_p; of these,
 *    those at least min_p times as probable as the most probable.
 * 4. One of the rest is drawn.
 */
typedef struct {
    size_t size;
    double temperature;        /* 0.9; 0 to 100; 0: the most probable token after step 1, whatever steps 2 and 3 say */
    int top_k;                 /* 0: all; up to 390 */
    double top_p;              /* 1: all; above 0 */
    double min_p;              /* 0: all; up to 1 */
    double repetition_penalty; /* 1: none; 0.01 to 100 */
    double density;            /* 1: as given, or with free_density as the model plays; 0.25 to 4 */
    int stop_at_end;           /* 1: the model may end a sequence; 0: it never ends */
    int refill;                /* latents of a full window that the next window begins with; 0: half of them */
    int loose_keys;    /* 0: with PATRAIN_PERFORMANCE no key is struck while it is down or released while it is not */
    int long_notes;    /* 0: long notes that the model leaves down end as pianists' do; 1: when the model ends them */
    uint64_t seed;     /* 1; random seed */
    uint64_t sequence; /* index of the stream's first sequence: same seed and index, same music */
    int free_density;  /* 0: about as many notes a second as the stream was given; 1: as the model plays */
} patrain_sampling;

/* Fills in the defaults. size: sizeof *sampling. */
PATRAIN_API void patrain_sampling_default(patrain_sampling *sampling, size_t size);

/* PATRAIN_BAD_USAGE names a setting out of range for the model, as patrain_stream_next would. */
PATRAIN_API patrain_status patrain_sampling_check(const patrain_sampling *sampling, const patrain_model *model,
                                                  patrain_error *error);

/* Draws the next token of each sequence, appends it, and returns it in `tokens` (as many as sequences; may be NULL).
 *
 * - An empty stream begins with a PATRAIN_VELOCITY of medium strength.
 * - The same model, options, tokens since patrain_stream_start, and sampling give the same tokens. A sequence's draws
 * depend on its own index, not on the other sequences.
 * - PATRAIN_END: the model ended that sequence; it stays ended until patrain_stream_start.
 * - PATRAIN_ENDED: all had ended before; nothing was appended.
 */
PATRAIN_API patrain_status patrain_stream_next(patrain_stream *stream, const patrain_sampling *sampling,
                                               uint16_t *tokens, patrain_error *error);

/* A key that goes down or up. */
typedef struct {
    double seconds; /* from the start of the stream's first token */
    uint8_t pitch;
    uint8_t velocity; /* 0: it is released */
} patrain_key;

/* Draws and appends tokens until one strikes or releases a key, for playing while the model continues. PATRAIN_ENDED as
 * above. PATRAIN_FAILED if 1024 tokens strike and release none. PATRAIN_BAD_USAGE for a stream of several sequences.
 */
PATRAIN_API patrain_status patrain_stream_next_key(patrain_stream *stream, const patrain_sampling *sampling,
                                                   patrain_key *key, patrain_error *error);

/* Logits of the next tokens, PATRAIN_VOCABULARY floats for each sequence, for a sampler of your own. PATRAIN_BAD_USAGE
 * for an empty stream.
 */
PATRAIN_API patrain_status patrain_stream_logits(patrain_stream *stream, float *logits, patrain_error *error);

/* ---- Scorers: how well a model predicts given tokens. */

typedef struct patrain_scorer patrain_scorer;

/* Opens a scorer, with weights and memory of its own. options may be NULL. On failure *scorer is NULL. */
PATRAIN_API patrain_status patrain_scorer_open(patrain_scorer **scorer, const patrain_model *model,
                                               const patrain_options *options, patrain_error *error);

/* NULL is allowed. */
PATRAIN_API void patrain_scorer_close(patrain_scorer *scorer);

/* As patrain_stream_options. */
PATRAIN_API const patrain_options *patrain_scorer_options(const patrain_scorer *scorer);

/* nats[i] = -ln p(tokens[i] given those before it in its window), for `count` tokens and as many nats. nats[0] is 0:
 * nothing comes before it. Each token is scored once, as patrain_scorer_pieces does with stride 0. PATRAIN_BAD_DATA for
 * PATRAIN_PAD or a number that is not a token.
 */
PATRAIN_API patrain_status patrain_scorer_score(patrain_scorer *scorer, const uint16_t *tokens, size_t count,
                                                float *nats, patrain_error *error);

typedef struct {
    const uint16_t *tokens;
    size_t count;
} patrain_piece;

/* Tokens of a piece that have been scored. */
typedef struct {
    size_t piece, first, count; /* tokens[first] to tokens[first + count - 1] of that piece */
    const float *nats;          /* (count) -ln p(token) */
    const uint16_t *best;       /* (count) the most probable token instead */
    size_t context;             /* tokens that tokens[first] was predicted from; one more for each token after it */
} patrain_scored;

/* Scores every token but each piece's first exactly once. Windows advance by `stride` tokens (0: half of the latents),
 * and a token is scored in the first that holds it, which gives it the most context; before the first full window they
 * begin with the piece and have a shorter prefix. Calls `scored` for a window at a time; windows of one shape come
 * together, not in the order of the pieces. Small strides cost time.
 */
PATRAIN_API patrain_status patrain_scorer_pieces(patrain_scorer *scorer, const patrain_piece *pieces, size_t count,
                                                 int stride, void (*scored)(void *arg, const patrain_scored *run),
                                                 void *arg, patrain_error *error);

/* One forward pass over windows of equal length. Any output may be NULL. */
typedef struct {
    size_t size;
    int batch;   /* windows; at most the scorer's */
    int length;  /* tokens of a window; at most the model's context */
    int latents; /* the last so many of them predict the token after each; at most context - prefix, and the rest at
                    most prefix */
    const uint16_t *input; /* (batch, length) */
    /* (batch, latents) the tokens after the latents; PATRAIN_PAD is not scored. NULL: none is */
    const uint16_t *target;
    float *nats;    /* (batch, latents) -ln p(target); 0 if it is not scored */
    uint16_t *best; /* (batch, latents) most probable token */
    float *logits;  /* (batch, latents, PATRAIN_VOCABULARY) */
} patrain_windows;

PATRAIN_API patrain_status patrain_scorer_predict(patrain_scorer *scorer, const patrain_windows *windows,
                                                  patrain_error *error);

#ifdef __cplusplus
}
#endif

#endif
