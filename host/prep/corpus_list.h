// corpus_list.h: reads the list of a corpus, in MAESTRO's two forms, CSV and JSON.
#ifndef PA_CORPUS_LIST_H
#define PA_CORPUS_LIST_H

#include "host/prep/corpus.h"

pa_status pa_corpus_read_list(pa_corpus *c, const char *path, pa_err *err);

#endif
