/* patrain.h: plays with models that patrain has trained: MIDI to tokens, tokens to MIDI, and what a model makes of them.
 *
 * Link with -lpatrain: see docs/library.md for pkg-config and CMake. Training is not in the library.
 *
 * Errors. A function that can fail returns a patrain_status, and fills *error unless that is NULL: the status and one line of text. What a
 * failed function would have returned through other pointers is then unspecified, unless its description says otherwise.
 *
 * Threads. Every handle may be used by one thread at a time, and different handles by different threads at once. A model does not change
 * after it is opened: any number of streams may use it at once. Functions without a handle may be called at any time.
 *
 * Manners. The library prints nothing, installs no signal handler, does not end the process and forks no other. It reads the environment
 * (OMP_NUM_THREADS and its kind) and never changes it. It computes on OpenMP threads; the first stream of a process shortens the time for
 * which idle OpenMP threads spin, as patrain's programs do, unless OMP_WAIT_POLICY or GOMP_SPINCOUNT is set.
 *
 * Buffers. Sizes are in elements. Input and output buffers of one call must not overlap. What the library allocates for the caller is freed
 * with patrain_free.
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
    PATRAIN_BAD_USAGE = 2, /* an argument is out of range, or a file is not there */
    PATRAIN_BAD_DATA = 3,  /* a file's or a buffer's content is refused */
    PATRAIN_ENDED = 4,     /* the model ended the piece; no error */
} patrain_status;

typedef struct {
    patrain_status status;
    char text[1024]; /* one line in English, NUL-terminated */
} patrain_error;

PATRAIN_API const char *patrain_version(void); /* "0.1.0" */

/* Frees what a function of this library allocated for the caller. NULL is allowed. */
PATRAIN_API void patrain_free(void *memory);

/* ---- Tokens: one of 390 numbers each (docs/tokens.md).
 *
 * A key is struck (PATRAIN_NOTE_ON + pitch) as loudly as the last PATRAIN_VELOCITY + bin says, and released (PATRAIN_NOTE_OFF + pitch);
 * PATRAIN_TIME_SHIFT + n moves the clock by n + 1 hundredths of a second.
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

/* How tokens stand for notes. A model knows its own: patrain_model_describe. */
typedef enum {
    PATRAIN_PERFORMANCE = 0,
    PATRAIN_MIDI_NEURAL = 1,
} patrain_encoding;

typedef struct {
    double start, end; /* seconds */
    uint8_t pitch;     /* 0 .. 127; 60 is middle C */
    uint8_t velocity;  /* 1 .. 127 */
} patrain_note;

/* Reads a MIDI file and encodes it, without the silence before its first note. *tokens: allocated, *count of them. *dropped (may be NULL):
 * notes of the file without a token, such as drums. A damaged file is read as far as it can be. PATRAIN_BAD_DATA for a file without a note
 * to encode; PATRAIN_MIDI_NEURAL keeps no note of a file without a sustain pedal. Calls from several threads wait for each other.
 */
PATRAIN_API patrain_status patrain_encode_midi(const char *path, patrain_encoding encoding, uint16_t **tokens, size_t *count,
                                               size_t *dropped, patrain_error *error);

/* Encodes notes, which may come in any order. Each must start at 0 or later, end after it starts and within a day, and have a pitch and
 * a velocity in their ranges, else PATRAIN_BAD_DATA. *tokens: allocated, *count of them.
 */
PATRAIN_API patrain_status patrain_encode_notes(const patrain_note *notes, size_t note_count, patrain_encoding encoding, uint16_t **tokens,
                                                size_t *count, patrain_error *error);

/* Decodes any sequence of tokens: up to PATRAIN_END; PATRAIN_PAD is skipped; a note that is never released ends with the sequence.
 * PATRAIN_BAD_DATA for a number that is no token. *notes: allocated, *note_count of them in order of start.
 */
PATRAIN_API patrain_status patrain_decode(const uint16_t *tokens, size_t count, patrain_encoding encoding, patrain_note **notes,
                                          size_t *note_count, patrain_error *error);

/* Writes notes, which may come in any order, as a piano's MIDI file (type 0) to `path`. The file appears whole or not at all. */
PATRAIN_API patrain_status patrain_write_midi(const char *path, const patrain_note *notes, size_t note_count, patrain_error *error);

/* ---- Models */

typedef struct patrain_model patrain_model;

typedef struct {
    int context;               /* most tokens of a window */
    int prefix;                /* of these, tokens that are attended to but not predicted from */
    patrain_encoding encoding; /* PATRAIN_PERFORMANCE for a file of perceiver_ar_pytorch, which does not say */
    int64_t step;              /* of training; 0 if unknown */
    size_t parameters;
    const char *path; /* of the model file; valid until the model is closed */
} patrain_model_info;

/* Opens a checkpoint: a model.safetensors, a checkpoint directory, or a run directory (its best checkpoint, else its latest). `config`:
 * NULL, or an INI file whose [model] describes a file of perceiver_ar_pytorch that has no settings of its own. On failure *model is NULL.
 * The file is mapped, and must stay as it is until the model is closed.
 */
PATRAIN_API patrain_status patrain_model_open(patrain_model **model, const char *path, const char *config, patrain_error *error);

/* Closes a model, whose streams must be closed. NULL is allowed. */
PATRAIN_API void patrain_model_close(patrain_model *model);

PATRAIN_API patrain_model_info patrain_model_describe(const patrain_model *model);

/* ---- Streams: a sequence of tokens that grows at its end, and a model that predicts each next one.
 *
 * A stream sees as many of the latest tokens as the model's window holds; there is no limit to its length.
 */

typedef struct patrain_stream patrain_stream;

/* Zeros and NULL are the defaults. */
typedef struct {
    const char *device;    /* "auto" (a GPU if there is one, default), "cpu" or "cuda" */
    const char *precision; /* "auto" (default), "fp32", "bf16" or "fp16", of matrix products and attention */
    int int8;              /* 1: weights are rounded to 8 bits */
    int threads;           /* on a CPU; 0: as many as OpenMP would use */
} patrain_stream_options;

/* Opens an empty stream, with weights and memory of its own. options may be NULL. On failure *stream is NULL. */
PATRAIN_API patrain_status patrain_stream_open(patrain_stream **stream, const patrain_model *model, const patrain_stream_options *options,
                                               patrain_error *error);

/* NULL is allowed. */
PATRAIN_API void patrain_stream_close(patrain_stream *stream);

/* Empties the stream, and then appends `count` tokens: a primer, or none. PATRAIN_BAD_DATA for a number that is no token, or for
 * PATRAIN_END or PATRAIN_PAD; the stream is then empty.
 */
PATRAIN_API patrain_status patrain_stream_start(patrain_stream *stream, const uint16_t *tokens, size_t count, patrain_error *error);

/* Appends one token, such as one that a player has just played. Computes nothing until a prediction is asked for. */
PATRAIN_API patrain_status patrain_stream_append(patrain_stream *stream, uint16_t token, patrain_error *error);

/* How a token is chosen. Begin with patrain_sampling_default and change what you want; it is what pagen does without options. In this
 * order: the repetition penalty divides positive logits of tokens in the window by it, and multiplies negative ones; temperature; top_k
 * most probable tokens; of these the fewest that have a share of top_p; of these those at least min_p times as probable as the most
 * probable; one of the rest is drawn.
 */
typedef struct {
    double temperature;        /* 0.9; 0 to 100; 0: the most probable token, whatever the rest says */
    int top_k;                 /* 0: all; up to 390 */
    double top_p;              /* 1: all; above 0 */
    double min_p;              /* 0: all; up to 1 */
    double repetition_penalty; /* 1: none; 0.01 to 100 */
    int stop_at_end;           /* 1: the model may end the piece; 0: it never ends */
    int refill;                /* tokens of a full window's latents that the next window begins with; 0: half of them */
    int loose_keys;            /* 0: with PATRAIN_PERFORMANCE no key is struck while it is down or released while it is not */
    uint64_t seed, sequence;   /* random seed, and the number of this sequence with that seed */
} patrain_sampling;
PATRAIN_API patrain_sampling patrain_sampling_default(void);

/* Draws the next token, appends it, and returns it in *token (may be NULL). An empty stream begins with a PATRAIN_VELOCITY of medium
 * strength. The same model, device, tokens since patrain_stream_start, and sampling give the same token. PATRAIN_ENDED: the model ended the
 * piece; nothing was appended.
 */
PATRAIN_API patrain_status patrain_stream_next(patrain_stream *stream, const patrain_sampling *sampling, uint16_t *token,
                                               patrain_error *error);

/* A key that goes down or up. */
typedef struct {
    double seconds; /* from the start of the stream's first token */
    uint8_t pitch;
    uint8_t velocity; /* 0: it is released */
} patrain_key;

/* Draws and appends tokens until one strikes or releases a key, for playing while the model continues. PATRAIN_ENDED as above.
 * PATRAIN_FAILED if 1024 tokens strike and release none: such a model is of no use.
 */
PATRAIN_API patrain_status patrain_stream_next_key(patrain_stream *stream, const patrain_sampling *sampling, patrain_key *key,
                                                   patrain_error *error);

/* Logits of the next token: PATRAIN_VOCABULARY floats, for a sampler of your own. PATRAIN_BAD_USAGE for an empty stream. */
PATRAIN_API patrain_status patrain_stream_logits(patrain_stream *stream, float *logits, patrain_error *error);

/* How well the model predicts a sequence: nats[i] = -ln p(tokens[i] given those before it in its window), for `count` tokens and as many
 * nats. nats[0] is 0: nothing comes before it. Each token is scored once, with as much context as windows that advance by half their
 * latents give it, as paeval does. No PATRAIN_END or PATRAIN_PAD but a PATRAIN_END at the very end. The stream's own tokens stay as they
 * are.
 */
PATRAIN_API patrain_status patrain_stream_score(patrain_stream *stream, const uint16_t *tokens, size_t count, float *nats,
                                                patrain_error *error);

#ifdef __cplusplus
}
#endif

#endif
