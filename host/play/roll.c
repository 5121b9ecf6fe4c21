// roll.c: see roll.h.
#include "host/play/roll.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#include "host/base/file.h"

// Sizes in px.
enum {
    LEFT = 40, // octave names
    RIGHT = 16,
    PLOT_WIDTH = 1200,
    TITLE = 30, // a take's heading
    STRIP = 16, // "primer" and "continuation" above a row
    PEDAL = 9,
    SECONDS = 22, // labels below a row, and the gap to the next
    BOTTOM = 6,
    MOST_HEIGHT = 32000, // cairo's images end at 32767
    LEAST_KEY = 2,       // height of a semitone where many takes share a picture
    LEVELS = 16,         // shades of velocity: notes of one shade are one path, a third of the size in SVG
};
_Static_assert(PA_ROLL_TAKES *(TITLE + STRIP + 128 * LEAST_KEY + PEDAL + SECONDS) + BOTTOM <= MOST_HEIGHT,
               "a row a take always fits");
static const double LONGEST_ROW = 30; // seconds, unless the picture would be taller than MOST_HEIGHT

static double longest(const pa_rendition *take, size_t takes) {
    double seconds = 0;
    for (size_t k = 0; k < takes; k++) seconds = fmax(seconds, pa_rendition_seconds(&take[k]));
    return seconds;
}

int pa_roll_rows(const pa_roll_layout *layout, const pa_rendition *take) {
    int rows = (int)ceil(pa_rendition_seconds(take) / layout->row_seconds - 1e-9);
    return rows > 1 ? rows : 1;
}

double pa_roll_top(const pa_roll_layout *layout, const pa_rendition *take, size_t k) {
    double y = 0;
    for (size_t i = 0; i < k; i++) y += TITLE + pa_roll_rows(layout, &take[i]) * layout->row_step;
    return y;
}

double pa_roll_height(const pa_roll_layout *layout, const pa_rendition *take, size_t takes) {
    return pa_roll_top(layout, take, takes) + BOTTOM;
}

double pa_roll_row_top(const pa_roll_layout *layout, int row) {
    return TITLE + row * layout->row_step + layout->plot_top;
}

// The pitches of all takes with a margin, three octaves at least.
static void measure_pitches(pa_roll_layout *l, const pa_rendition *take, size_t takes) {
    l->low = 127;
    l->high = 0;
    for (size_t k = 0; k < takes; k++) {
        for (size_t i = 0; i < take[k].notes; i++) {
            int pitch = take[k].note[i].pitch;
            if (pitch < l->low) l->low = pitch;
            if (pitch > l->high) l->high = pitch;
        }
        l->pedal = l->pedal || take[k].pedals;
    }
    if (l->low > l->high) l->low = l->high = 60;
    l->low = l->low > 2 ? l->low - 2 : 0;
    l->high = l->high < 125 ? l->high + 2 : 127;
    while (l->high - l->low < 36) {
        if (l->low > 0) l->low--;
        if (l->high < 127) l->high++;
    }
}

static void set_key(pa_roll_layout *l, double key) {
    l->key = key;
    l->plot_height = (l->high - l->low + 1) * key;
    l->row_step = STRIP + l->plot_height + (l->pedal ? PEDAL : 0) + SECONDS;
}

void pa_roll_measure(pa_roll_layout *layout, const pa_rendition *take, size_t takes) {
    pa_roll_layout l = {.width = LEFT + PLOT_WIDTH + RIGHT, .left = LEFT, .plot_width = PLOT_WIDTH, .plot_top = STRIP};
    measure_pitches(&l, take, takes);
    double seconds = longest(take, takes), fewest = ceil(seconds / (LONGEST_ROW + 6));
    l.row_seconds = fmax(5, ceil(seconds / fmax(1, fewest)));
    set_key(&l, fewest > 1 || takes > 1 ? 3 : 5);
    while ((l.height = pa_roll_height(&l, take, takes)) > MOST_HEIGHT) {
        if (l.row_seconds > seconds) { // one row a take
            set_key(&l, LEAST_KEY);
            l.height = pa_roll_height(&l, take, takes);
            break;
        }
        l.row_seconds *= 2;
    }
    *layout = l;
}

#ifndef PA_WITH_CAIRO
pa_status pa_roll_check(const char *path, size_t takes, pa_err *err) {
    (void)path;
    (void)takes;
    return pa_error(err, PA_USAGE,
                    "piano roll: built without cairo; install libcairo2-dev, then configure and build again");
}

pa_status pa_roll_svg(const pa_roll_layout *layout, const pa_rendition *take, FILE *stream, pa_err *err) {
    (void)layout;
    (void)take;
    (void)stream;
    return pa_roll_check("", 0, err);
}

pa_status pa_roll_write(const char *path, const pa_rendition *take, size_t takes, pa_err *err) {
    (void)take;
    return pa_roll_check(path, takes, err);
}
#else

#include <cairo-svg.h>
#include <cairo.h>

static bool ends_with(const char *path, const char *end) {
    size_t n = strlen(path), m = strlen(end);
    return n > m && !strcasecmp(path + n - m, end);
}

pa_status pa_roll_check(const char *path, size_t takes, pa_err *err) {
    if (!ends_with(path, ".png") && !ends_with(path, ".svg"))
        return pa_error(err, PA_USAGE, "--piano-roll: expected a name in .png or .svg, found %s", path);
    if (takes > PA_ROLL_TAKES)
        return pa_error(err, PA_USAGE, "--piano-roll: expected at most %d continuations in one picture, found %zu",
                        PA_ROLL_TAKES, takes);
    return PA_OK;
}

typedef struct {
    double r, g, b;
} colour;

static const colour INK = {0.13, 0.14, 0.17}, PALE_INK = {0.42, 0.44, 0.48}, SECOND_LINE = {0.90, 0.91, 0.92},
                    LABELLED_LINE = {0.80, 0.81, 0.83}, OCTAVE_LINE = {0.82, 0.84, 0.86},
                    PRIMER_PAPER = {0.945, 0.935, 0.905}, PAPER = {1, 1, 1}, FRAME = {0.62, 0.64, 0.67},
                    PEDAL_INK = {0.55, 0.57, 0.60};

// Soft is light and loud is dark, so that the order survives print in grey and any colour blindness. The shades spread
// over the velocities that pianists use.
static colour of_level(int level) {
    static const colour stop[] = {
        {0.62, 0.83, 0.82}, {0.27, 0.64, 0.82}, {0.20, 0.37, 0.74}, {0.49, 0.13, 0.56}, {0.55, 0.0, 0.14}};
    enum { LAST = sizeof stop / sizeof *stop - 1 };
    double at = (double)level / (LEVELS - 1) * LAST;
    int i = at < LAST ? (int)at : LAST - 1;
    double f = at - i;
    const colour *a = &stop[i], *b = &stop[i + 1];
    return (colour){a->r + f * (b->r - a->r), a->g + f * (b->g - a->g), a->b + f * (b->b - a->b)};
}

static int level_of(int velocity) {
    enum { SOFT = 20, LOUD = 110 };
    int level = (velocity - SOFT) * LEVELS / (LOUD - SOFT);
    return level < 0 ? 0 : level < LEVELS ? level : LEVELS - 1;
}

static void set(cairo_t *c, colour ink) {
    cairo_set_source_rgb(c, ink.r, ink.g, ink.b);
}

static void fill_box(cairo_t *c, double x, double y, double width, double height, colour ink) {
    set(c, ink);
    cairo_rectangle(c, x, y, width, height);
    cairo_fill(c);
}

static void line(cairo_t *c, double x0, double y0, double x1, double y1, double width, colour ink) {
    set(c, ink);
    cairo_set_line_width(c, width);
    cairo_move_to(c, x0, y0);
    cairo_line_to(c, x1, y1);
    cairo_stroke(c);
}

typedef struct {
    double align, size; // share of the text that is left of x; pixels
    bool bold;
    colour ink;
} lettering;

static void text(cairo_t *c, double x, double y, lettering l, const char *words) {
    cairo_text_extents_t e;
    cairo_select_font_face(c, "sans-serif", CAIRO_FONT_SLANT_NORMAL,
                           l.bold ? CAIRO_FONT_WEIGHT_BOLD : CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_font_size(c, l.size);
    cairo_text_extents(c, words, &e);
    set(c, l.ink);
    cairo_move_to(c, x - l.align * e.x_advance, y);
    cairo_show_text(c, words);
}

static void clock_text(double second, char *words, size_t size) {
    long s = lround(second);
    if (s < 3600)
        snprintf(words, size, "%ld:%02ld", s / 60, s % 60);
    else
        snprintf(words, size, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
}

// The least step of whole seconds that takes `px`.
static double step_of(const pa_roll_layout *l, double px) {
    static const double step[] = {1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600};
    for (size_t i = 0; i < sizeof step / sizeof *step; i++)
        if (step[i] / l->row_seconds * l->plot_width >= px) return step[i];
    return 43200;
}

// One row of a take.
typedef struct {
    const pa_roll_layout *layout;
    const pa_rendition *take;
    double from, to; // seconds with something to show; the grid ends there
    double top;      // y of the notes
} row;

static row row_of(const pa_roll_layout *l, const pa_rendition *take, double top, int number) {
    row r = {.layout = l, .take = take, .from = number * l->row_seconds, .top = top + pa_roll_row_top(l, number)};
    r.to = fmin(r.from + l->row_seconds, fmax(ceil(pa_rendition_seconds(take)), 1));
    return r;
}

static double x_of(const row *r, double second) {
    const pa_roll_layout *l = r->layout;
    double x = l->left + (second - r->from) / l->row_seconds * l->plot_width;
    return round(x * 4) / 4; // short numbers in SVG
}

static void draw_section(cairo_t *c, const row *r, double from, double to, bool primer) {
    double x = x_of(r, from), width = x_of(r, to) - x, y = r->top - STRIP;
    const char *words = primer ? "primer" : "continuation";
    cairo_text_extents_t e;
    if (primer) fill_box(c, x, r->top, width, r->layout->plot_height, PRIMER_PAPER);
    cairo_select_font_face(c, "sans-serif", CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_font_size(c, 12);
    cairo_text_extents(c, words, &e);
    if (e.x_advance + 6 < width) text(c, x + 5, y + 12, (lettering){.size = 12, .ink = primer ? PALE_INK : INK}, words);
}

static void draw_paper(cairo_t *c, const row *r) {
    const pa_roll_layout *l = r->layout;
    double begins = r->take->begins, left = x_of(r, r->from), right = x_of(r, r->to), bottom = r->top + l->plot_height;
    fill_box(c, left, r->top, right - left, l->plot_height, PAPER);
    if (begins > 0 && begins > r->from) draw_section(c, r, r->from, fmin(begins, r->to), true);
    if (begins > 0 && begins < r->to) draw_section(c, r, fmax(begins, r->from), r->to, false);
    double small = step_of(l, 12), large = step_of(l, 56);
    for (double s = ceil(r->from / small - 1e-9) * small; s <= r->to; s += small) {
        bool labelled = fmod(s + 1e-6, large) < 2e-6;
        line(c, x_of(r, s), r->top, x_of(r, s), bottom, 1, labelled ? LABELLED_LINE : SECOND_LINE);
    }
    for (double s = ceil(r->from / large - 1e-9) * large; s <= r->to; s += large) {
        char words[32];
        clock_text(s, words, sizeof words);
        text(c, x_of(r, s), bottom + (l->pedal ? PEDAL : 0) + 12,
             (lettering){.align = 0.5, .size = 11, .ink = PALE_INK}, words);
    }
    for (int pitch = (l->low + 11) / 12 * 12; pitch <= l->high; pitch += 12) {
        double y = bottom - (pitch - l->low) * l->key;
        char words[16];
        line(c, left, y, right, y, 1, OCTAVE_LINE);
        snprintf(words, sizeof words, "C%d", pitch / 12 - 1);
        text(c, left - 5, y + 1, (lettering){.align = 1, .size = 11, .ink = PALE_INK}, words);
    }
    line(c, left, bottom, right, bottom, 1, FRAME);
    line(c, left, r->top, right, r->top, 1, FRAME);
}

static void draw_pedal(cairo_t *c, const row *r) {
    const pa_roll_layout *l = r->layout;
    double y = r->top + l->plot_height + 2;
    bool pressed = false;
    for (size_t i = 0; i < r->take->pedals; i++) {
        double down = fmax(r->take->pedal[i].down, r->from), up = fmin(r->take->pedal[i].up, r->to);
        if (up <= down) continue;
        fill_box(c, x_of(r, down), y, fmax(x_of(r, up) - x_of(r, down) - 1, 1), PEDAL - 4, PEDAL_INK);
        pressed = true;
    }
    if (pressed) text(c, l->left - 5, y + 6, (lettering){.align = 1, .size = 9, .ink = PALE_INK}, "pedal");
}

// The boundary, over the notes.
static void draw_boundary(cairo_t *c, const row *r) {
    double begins = r->take->begins, x = x_of(r, begins);
    if (begins <= 0 || begins < r->from || begins >= r->to) return;
    line(c, x, r->top - STRIP + 2, x, r->top + r->layout->plot_height, 2, INK);
}

static void draw_notes(cairo_t *c, const pa_roll_layout *l, const pa_rendition *take, double top) {
    int rows = pa_roll_rows(l, take);
    for (int level = 0; level < LEVELS; level++) {
        for (size_t i = 0; i < take->notes; i++) {
            const pa_note *n = &take->note[i];
            if (level_of(n->velocity) != level) continue;
            for (int k = (int)(n->start / l->row_seconds);
                 k < rows && k * l->row_seconds < fmax(n->end, n->start + 1e-9); k++) {
                row r = row_of(l, take, top, k);
                double x = x_of(&r, fmax(n->start, r.from)), end = x_of(&r, fmin(n->end, r.to));
                double y = r.top + l->plot_height - (n->pitch - l->low + 1) * l->key;
                cairo_rectangle(c, x, y + 0.25, fmax(end - x - 0.75, 1.75), l->key - 0.5);
            }
        }
        set(c, of_level(level));
        cairo_fill(c);
    }
}

static void draw_legend(cairo_t *c, const pa_roll_layout *l) {
    double x = l->left + l->plot_width - 30 - LEVELS * 7, y = 12;
    for (int level = 0; level < LEVELS; level++) fill_box(c, x + level * 7, y, 7, 9, of_level(level));
    text(c, x - 6, y + 8, (lettering){.align = 1, .size = 12, .ink = PALE_INK}, "velocity: soft");
    text(c, x + LEVELS * 7 + 5, y + 8, (lettering){.size = 12, .ink = PALE_INK}, "loud");
}

static void draw_take(cairo_t *c, const pa_roll_layout *l, const pa_rendition *take, double top) {
    int rows = pa_roll_rows(l, take);
    if (take->name) text(c, l->left, top + 21, (lettering){.size = 13, .bold = true, .ink = INK}, take->name);
    for (int k = 0; k < rows; k++) {
        row r = row_of(l, take, top, k);
        draw_paper(c, &r);
        if (l->pedal) draw_pedal(c, &r);
    }
    draw_notes(c, l, take, top);
    for (int k = 0; k < rows; k++) {
        row r = row_of(l, take, top, k);
        draw_boundary(c, &r);
    }
}

static cairo_status_t to_stream(void *stream, const unsigned char *bytes, unsigned count) {
    return fwrite(bytes, 1, count, stream) == count ? CAIRO_STATUS_SUCCESS : CAIRO_STATUS_WRITE_ERROR;
}

static cairo_surface_t *open_surface(const pa_roll_layout *l, bool svg, double scale, FILE *stream) {
    if (!svg)
        return cairo_image_surface_create(CAIRO_FORMAT_RGB24, (int)(l->width * scale), (int)ceil(l->height * scale));
    cairo_surface_t *surface = cairo_svg_surface_create_for_stream(to_stream, stream, l->width, l->height);
    cairo_svg_surface_set_document_unit(surface, CAIRO_SVG_UNIT_PX);
    return surface;
}

static cairo_status_t draw(const pa_roll_layout *l, const pa_rendition *take, size_t takes, bool svg, FILE *stream) {
    double scale = !svg && l->height * 2 <= MOST_HEIGHT ? 2 : 1; // pixels a px, for fine screens
    cairo_surface_t *surface = open_surface(l, svg, scale, stream);
    cairo_t *c = cairo_create(surface);
    cairo_scale(c, scale, scale);
    fill_box(c, 0, 0, l->width, l->height, PAPER);
    for (size_t k = 0; k < takes; k++) draw_take(c, l, &take[k], pa_roll_top(l, take, k));
    draw_legend(c, l);
    cairo_status_t drawn = cairo_status(c);
    cairo_destroy(c);
    if (!drawn && !svg) drawn = cairo_surface_write_to_png_stream(surface, to_stream, stream);
    cairo_surface_finish(surface);
    if (!drawn) drawn = cairo_surface_status(surface);
    cairo_surface_destroy(surface);
    return drawn;
}

pa_status pa_roll_svg(const pa_roll_layout *layout, const pa_rendition *take, FILE *stream, pa_err *err) {
    cairo_status_t drawn = draw(layout, take, 1, true, stream);
    return drawn ? pa_error(err, PA_FAIL, "cannot draw a piano roll: %s", cairo_status_to_string(drawn)) : PA_OK;
}

pa_status pa_roll_write(const char *path, const pa_rendition *take, size_t takes, pa_err *err) {
    pa_roll_layout l;
    pa_file file;
    pa_status s = pa_roll_check(path, takes, err);
    if (!s) s = pa_file_create(&file, path, err);
    if (s) return s;
    pa_roll_measure(&l, take, takes);
    cairo_status_t drawn = draw(&l, take, takes, ends_with(path, ".svg"), file.stream);
    if (!drawn || ferror(file.stream)) return pa_file_commit(&file, err);
    pa_file_abandon(&file);
    return pa_error(err, PA_FAIL, "cannot write %s: %s", path, cairo_status_to_string(drawn));
}
#endif
