// corpus_find.h: finds the MIDI files of a folder, by MAESTRO's list or by their names.
#ifndef PA_CORPUS_FIND_H
#define PA_CORPUS_FIND_H

#include "host/prep/corpus.h"

// metadata: a CSV or JSON with MAESTRO's columns split and midi_filename; NULL: the folder's own maestro-v*.csv or
// .json, if it has one, else every .mid, .midi, .kar, .rmi and .smf below the folder, through links too; each file and
// folder once, whatever leads to it.
pa_status pa_corpus_find(pa_corpus *c, const char *folder, const char *metadata, pa_err *err);

#endif
