// format.h: what a file is by its first bytes, so that an error can name the wrong kind of file.
#ifndef PA_FORMAT_H
#define PA_FORMAT_H

#include "host/base/base.h"

enum { PA_FORMAT_BYTES = 128 }; // enough to recognise a format
typedef enum { PA_FORMAT_UNKNOWN, PA_FORMAT_MIDI, PA_FORMAT_AUDIO, PA_FORMAT_PYTORCH } pa_format;

// The format of a file that begins with these bytes.
pa_format pa_format_of(const uint8_t *bytes, size_t count);
// The format of a file; unknown if it cannot be read.
pa_format pa_format_of_file(const char *path);

#endif
