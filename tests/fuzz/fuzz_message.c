// fuzz_message.c: any text as a page's message: refused with a line of text, or a message whose fields are in range.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/serve/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pa_message m;
    pa_err err = {""};
    char *text = malloc(size ? size : 1); // no NUL behind it, as from a socket
    if (!text) abort();
    memcpy(text, data, size);
    pa_status s = pa_message_parse(text, size, &m, &err);
    free(text);
    if (s ? s != PA_DATA || !*err.text : size > PA_LONGEST_MESSAGE) abort();
    if (s) return 0;
    const double number[] = {m.take, m.time,    m.pitch,       m.velocity, m.turn,
                             m.at,   m.seconds, m.temperature, m.density,  m.seed};
    for (size_t i = 0; i < sizeof number / sizeof *number; i++)
        if (!(number[i] >= 0 && number[i] <= 4294967295.0)) abort();
    if (!(m.number >= 1 && m.number <= PA_MOST_AT_ONCE)) abort();
    if (m.pitch > 127 || m.velocity > 127 || m.bytes || m.deed >= PA_DO_UPLOAD) abort();
    if (strlen(m.session) % PA_SESSION_ID) abort();
    return 0;
}
