// roll.h: piano rolls by cairo, as PNG or SVG. Time wraps into rows, as lines of text do, so that ten minutes stay
// legible. Knows nothing of models and tokens.
#ifndef PA_ROLL_H
#define PA_ROLL_H

#include "host/play/rendition.h"

// Where everything is, in px. Row r of take k shows seconds [r * row_seconds, (r + 1) * row_seconds).
typedef struct {
    double width, height;    // of the picture
    double left, plot_width; // of a row's notes
    double row_seconds;      // the same for all takes
    double row_step;         // from one row to the next
    double plot_top;         // a row's notes, from the row's top
    double plot_height;      // without the pedal's strip
    double key;              // height of a semitone
    int low, high;           // pitches shown, the same for all takes
    bool pedal;              // some take has a pedal's strip
} pa_roll_layout;

enum { PA_ROLL_TAKES = 96 }; // most takes of a picture

void pa_roll_measure(pa_roll_layout *layout, const pa_rendition *take, size_t takes); // takes: at most PA_ROLL_TAKES
int pa_roll_rows(const pa_roll_layout *layout, const pa_rendition *take);
double pa_roll_top(const pa_roll_layout *layout, const pa_rendition *take, size_t k);        // y of take k's heading
double pa_roll_height(const pa_roll_layout *layout, const pa_rendition *take, size_t takes); // of a picture
double pa_roll_row_top(const pa_roll_layout *layout, int row); // y of a row's notes, from its take's heading

// PA_USAGE unless path ends in .png or .svg, a picture holds that many takes, and this build has cairo: for a check
// before long work.
pa_status pa_roll_check(const char *path, size_t takes, pa_err *err);
// Draws the takes under one another. Atomic (file.h).
pa_status pa_roll_write(const char *path, const pa_rendition *take, size_t takes, pa_err *err);
// One take as SVG, into a stream.
pa_status pa_roll_svg(const pa_roll_layout *layout, const pa_rendition *take, FILE *stream, pa_err *err);

#endif
