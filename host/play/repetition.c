// repetition.c: see repetition.h.
#include "host/play/repetition.h"

#include <stdlib.h>

// run[d]: notes that the piece has been repeating what it played d notes earlier. Returns the longest.
static uint32_t extend_runs(uint32_t *run, const uint8_t *pitch, size_t at) {
    size_t most = at < PA_LOOK_BACK ? at : PA_LOOK_BACK;
    uint32_t longest = 0;
    for (size_t d = 1; d <= most; d++) {
        run[d] = pitch[at - d] == pitch[at] ? run[d] + 1 : 0;
        longest = run[d] > longest ? run[d] : longest;
    }
    return longest;
}

pa_status pa_repetition_measure(const pa_note *note, size_t first, size_t count, pa_repetition *r, pa_err *err) {
    pa_status s = PA_OK;
    bool used[128] = {false};
    size_t runs = 0, heard = 0, sum = 0;
    uint8_t *pitch = malloc(count + 1);
    uint32_t *run = calloc(PA_LOOK_BACK + 1, sizeof *run);
    *r = (pa_repetition){.notes = count - first};
    if (!pitch || !run) {
        s = pa_error(err, PA_FAIL, "no memory to look for repetitions in %zu notes", count);
        goto done;
    }
    for (size_t i = 0; i < count; i++) {
        pitch[i] = note[i].pitch & 127;
        size_t longest = extend_runs(run, pitch, i);
        if (i < first) continue;
        if (longest > r->longest) r->longest = longest;
        runs += i + 1 >= PA_RUN;
        heard += longest >= PA_RUN;
        sum += note[i].velocity;
        r->pitches += !used[pitch[i]];
        used[pitch[i]] = true;
    }
    if (r->notes) r->velocity = (double)sum / (double)r->notes;
    if (runs) r->heard = (double)heard / (double)runs;
done:
    free(pitch);
    free(run);
    return s;
}
