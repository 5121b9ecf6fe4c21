/* continue.c: continues a MIDI file by 500 tokens. Usage: continue MODEL IN.mid OUT.mid (docs/library.md) */
#include <patrain.h>
#include <stdio.h>
#include <stdlib.h>

static patrain_error error;

static void check(patrain_status status) {
    if (status == PATRAIN_OK) return;
    fprintf(stderr, "continue: %s\n", error.text);
    exit(status);
}

int main(int argc, char **argv) {
    if (argc != 4) return fprintf(stderr, "usage: continue MODEL IN.mid OUT.mid\n"), 2;
    patrain_model *model;
    check(patrain_model_open(&model, argv[1], NULL, &error));
    patrain_encoding encoding = patrain_model_describe(model)->encoding;

    uint16_t *tokens;
    size_t count;
    check(patrain_encode_midi(argv[2], encoding, NULL, &tokens, &count, NULL, &error));
    patrain_stream *stream;
    check(patrain_stream_open(&stream, model, NULL, &error));
    check(patrain_stream_start(stream, tokens, count, &error));

    uint16_t *piece = realloc(tokens, (count + 500) * sizeof *piece);
    if (!piece) return 1;
    patrain_sampling sampling;
    patrain_sampling_default(&sampling, sizeof sampling);
    for (size_t i = 0; i < 500; i++) check(patrain_stream_next(stream, &sampling, &piece[count++], &error));

    patrain_note *notes;
    check(patrain_decode(piece, count, encoding, &notes, &count, &error));
    check(patrain_write_midi(argv[3], notes, count, &error));
    patrain_free(notes);
    patrain_free(piece);
    patrain_stream_close(stream);
    patrain_model_close(model);
    return 0;
}
