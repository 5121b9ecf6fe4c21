// library.h: models and handles for the tests of libpatrain.
#ifndef PA_TEST_LIBRARY_H
#define PA_TEST_LIBRARY_H

#include "include/patrain.h"

typedef struct {
    patrain_model *model;
    patrain_stream *stream;
    patrain_scorer *scorer;
} library_player;

void library_ok(patrain_status status, const patrain_error *error);
void library_refused(patrain_status found, const patrain_error *error, patrain_status status, const char *text);
void library_put_model(const char *path, const char *encoding);
const char *library_device(void);
patrain_options library_options(void);
patrain_sampling library_sampling(void);
library_player library_open_some(const char *path, const char *encoding, int sequences, int batch);
library_player library_open(const char *path, const char *encoding);
void library_close(library_player p);

#endif
