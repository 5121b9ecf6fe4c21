// page.c: see page.h. Fills in page.html, which the build embeds.
#include "host/play/page.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/file.h"
#include "host/play/pianists.h"
#include "host/play/roll.h"
#include "page_html.h" // PAGE_HTML, made by CMake

// Features that tell most about a take.
static const pa_feature column[] = {PA_NOTES_PER_SECOND, PA_POLYPHONY, PA_NOTE_SECONDS, PA_LONGEST_NOTE,
                                    PA_VELOCITY_MEAN,    PA_RETURNS,   PA_LOOP};
enum { COLUMNS = sizeof column / sizeof *column };

static void put_text(FILE *out, const char *text) { // in an element or an attribute
    for (; *text; text++) {
        const char *entity = *text == '&'   ? "&amp;"
                             : *text == '<' ? "&lt;"
                             : *text == '>' ? "&gt;"
                             : *text == '"' ? "&quot;"
                                            : NULL;
        if (entity)
            fputs(entity, out);
        else
            fputc(*text, out);
    }
}

static void put_base64(FILE *out, FILE *in) {
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned char b[3] = {0};
    for (size_t n; (n = fread(b, 1, 3, in)); memset(b, 0, sizeof b)) {
        unsigned bits = (unsigned)b[0] << 16 | (unsigned)b[1] << 8 | b[2];
        for (int i = 0; i < 4; i++) fputc(i <= (int)n ? digit[bits >> (18 - 6 * i) & 63] : '=', out);
    }
}

// An SVG's markup. Its ids get a prefix, for those of several pictures in a page would clash.
static pa_status put_svg(FILE *out, FILE *svg, size_t k, const char *label, pa_err *err) {
    static const char *const id[] = {" id=\"", "href=\"#", "url(#"};
    size_t length = (size_t)ftello(svg), count;
    char *text = malloc(length + 1);
    rewind(svg);
    if (!text) return pa_error(err, PA_FAIL, "no memory for a piano roll");
    count = fread(text, 1, length, svg);
    text[count] = 0;
    const char *p = strstr(text, "<svg");
    if (p) {
        fputs("<svg role=\"img\" aria-label=\"", out);
        put_text(out, label);
        fputc('"', out);
        for (p += 4; *p;) {
            size_t i = 0, n = 0;
            for (; i < sizeof id / sizeof *id; i++)
                if (!strncmp(p, id[i], n = strlen(id[i]))) break;
            if (i < sizeof id / sizeof *id)
                fprintf(out, "%sr%zu-", id[i], k);
            else
                fputc(*p, out);
            p += i < sizeof id / sizeof *id ? n : 1;
        }
    }
    free(text);
    return p ? PA_OK : pa_error(err, PA_FAIL, "no SVG from cairo");
}

// All takes have the same pitches and seconds a row, so that they can be compared; each has a picture of its own.
static void measure_rolls(const pa_page *page, pa_roll_layout *layout) {
    pa_note edge[] = {{.pitch = 127}, {.pitch = 0}}; // the lowest and the highest of all
    pa_rendition all = {.note = edge};
    for (size_t k = 0; k < page->takes; k++) {
        const pa_rendition *r = &page->take[k];
        all.seconds = fmax(all.seconds, pa_rendition_seconds(r));
        if (r->notes) all.notes = 2;
        for (size_t i = 0; i < r->notes; i++) {
            if (r->note[i].pitch < edge[0].pitch) edge[0].pitch = r->note[i].pitch;
            if (r->note[i].pitch > edge[1].pitch) edge[1].pitch = r->note[i].pitch;
        }
        if (r->pedals) all.pedals = 1;
    }
    pa_roll_measure(layout, &all, 1);
}

static pa_status put_roll(FILE *out, const pa_rendition *r, const pa_roll_layout *layout, size_t k, pa_err *err) {
    char label[200];
    pa_roll_layout l = *layout;
    pa_rendition untitled = *r; // the page has a heading
    untitled.name = NULL;
    l.height = pa_roll_height(&l, r, 1);
    FILE *svg = tmpfile();
    if (!svg) return pa_error(err, PA_FAIL, "cannot open a temporary file: %s", strerror(errno));
    int rows = pa_roll_rows(&l, r);
    snprintf(label, sizeof label, "Piano roll: %zu notes in %.0f s, in %d rows of %.0f s", r->notes,
             pa_rendition_seconds(r), rows, l.row_seconds);
    fprintf(out,
            "<div class=\"roll\" tabindex=\"0\" role=\"group\" aria-label=\"Piano roll\" data-width=\"%g\" "
            "data-height=\"%g\" "
            "data-left=\"%g\" data-plot=\"%g\" data-seconds=\"%g\" data-rows=\"%d\" data-top=\"%g\" data-step=\"%g\" "
            "data-high=\"%g\" data-end=\"%g\">\n",
            l.width, l.height, l.left, l.plot_width, l.row_seconds, rows, pa_roll_row_top(&l, 0), l.row_step,
            l.plot_height, pa_rendition_seconds(r));
    fputs("<div class=\"sheet\">", out);
    pa_status s = pa_roll_svg(&l, &untitled, svg, err);
    if (!s) s = put_svg(out, svg, k, label, err);
    fputs("<div class=\"cursor\" hidden></div></div></div>\n", out);
    fclose(svg);
    return s;
}

static pa_status put_sound(FILE *out, const pa_page *page, size_t k, pa_err *err) {
    FILE *mp3 = tmpfile(); // every browser plays MP3
    if (!mp3) return pa_error(err, PA_FAIL, "cannot open a temporary file: %s", strerror(errno));
    pa_status s = page->sound(page->arg, k, mp3, err);
    if (!s && (fflush(mp3) || ferror(mp3)))
        s = pa_error(err, PA_FAIL, "cannot write a temporary file: %s", strerror(errno));
    if (!s) {
        rewind(mp3);
        fputs("<audio preload=\"auto\" src=\"data:audio/mpeg;base64,", out);
        put_base64(out, mp3);
        fputs("\"></audio>\n", out);
    }
    fclose(mp3);
    return s;
}

static pa_status put_midi(FILE *out, const char *path, pa_err *err) {
    const char *slash = strrchr(path, '/');
    FILE *in = fopen(path, "rb");
    if (!in) return pa_error(err, PA_FAIL, "cannot open %s: %s", path, strerror(errno));
    fputs("<a class=\"midi\" download=\"", out);
    put_text(out, slash ? slash + 1 : path);
    fputs("\" href=\"data:audio/midi;base64,", out);
    put_base64(out, in);
    fputs("\">Download MIDI</a>\n", out);
    bool failed = ferror(in);
    fclose(in);
    return failed ? pa_error(err, PA_FAIL, "cannot read %s", path) : PA_OK;
}

static void put_notes(FILE *out, const pa_rendition *r) {
    static const char *const name[] = {"C", "C♯", "D", "E♭", "E", "F", "F♯", "G", "A♭", "A", "B♭", "B"};
    fprintf(
        out,
        "<details><summary>%zu notes as text</summary>\n<table><thead><tr><th>Second</th><th>Note</th><th>Length</th>",
        r->notes);
    fputs("<th>Velocity</th><th>Part</th></tr></thead><tbody>\n", out);
    for (size_t i = 0; i < r->notes; i++) {
        const pa_note *n = &r->note[i];
        fprintf(out, "<tr><td>%.2f<td>%s%d<td>%.2f<td>%d<td>%s\n", n->start, name[n->pitch % 12], n->pitch / 12 - 1,
                n->end - n->start, n->velocity,
                n->start < r->begins ? "primer"
                : r->begins > 0      ? "continuation"
                                     : "");
    }
    fputs("</tbody></table></details>\n", out);
}

static const char *name_of(const pa_rendition *r) {
    return r->name ? r->name : "Take";
}

// The end of a row of features; NULL: of pianists' ranges.
static void put_values(FILE *out, const pa_features *f) {
    for (size_t c = 0; c < COLUMNS; c++) {
        const pa_feature_range *r = pa_pianists_range(column[c]);
        if (!f)
            fprintf(out, "<td>%.*f to %.*f", r->decimals, r->low, r->decimals, r->high);
        else if (isnan(f->value[column[c]]))
            fputs("<td>-", out);
        else
            fprintf(out, "<td>%.*f", r->decimals, f->value[column[c]]);
    }
    fputc('\n', out);
}

// The take that comes at that place: the nearest first, where they are ranked.
static size_t nth(const pa_page *page, size_t place) {
    for (size_t k = 0; k < page->takes; k++)
        if (page->take[k].rank == (int)place + 1) return k;
    return place;
}

static void put_features(FILE *out, const pa_page *page) {
    const bool ranked = page->takes > 1;
    const char *const unranked = ranked ? "<td>" : "";
    fputs("<div class=\"features\" tabindex=\"0\" role=\"group\" aria-label=\"Features\">\n<table><thead><tr>"
          "<th>Take</th>",
          out);
    if (ranked) fputs("<th>Rank</th>", out);
    for (size_t c = 0; c < COLUMNS; c++) fprintf(out, "<th>%s</th>", pa_pianists_range(column[c])->label);
    fputs("</tr></thead><tbody>\n", out);
    if (page->primer) {
        fprintf(out, "<tr><th scope=\"row\">primer</th>%s", unranked);
        put_values(out, page->primer);
    }
    for (size_t place = 0; place < page->takes; place++) {
        size_t k = nth(page, place);
        fprintf(out, "<tr><th scope=\"row\"><a href=\"#take%zu\">", k);
        put_text(out, name_of(&page->take[k]));
        fputs("</a></th>", out);
        if (ranked) fprintf(out, "<td>%d", page->take[k].rank);
        put_values(out, page->take[k].features);
    }
    fprintf(out, "<tr><th scope=\"row\">pianists</th>%s", unranked);
    put_values(out, NULL);
    fputs("</tbody></table></div>\n", out);
}

static pa_status put_take(FILE *out, const pa_page *page, const pa_roll_layout *layout, size_t k, pa_err *err) {
    const pa_rendition *r = &page->take[k];
    fprintf(out, "<section aria-labelledby=\"take%zu\" data-begins=\"%g\">\n<h2 id=\"take%zu\">", k, r->begins, k);
    put_text(out, name_of(r));
    fputs("</h2>\n", out);
    fputs("<div class=\"player\">\n<button type=\"button\" class=\"play\" disabled>Play</button>\n", out);
    if (r->begins > 0) fputs("<button type=\"button\" class=\"jump\">Continuation</button>\n", out);
    fputs(
        "<input class=\"seek\" type=\"range\" min=\"0\" max=\"1\" value=\"0\" step=\"0.1\" aria-label=\"Position\">\n",
        out);
    fputs("<span class=\"time\">0:00</span>\n", out);
    pa_status s = page->midi ? put_midi(out, page->midi[k], err) : PA_OK;
    if (!s) s = put_sound(out, page, k, err);
    fputs("</div>\n", out);
    if (!s) s = put_roll(out, r, layout, k, err);
    if (!s && r->remark && *r->remark) {
        fputs("<p class=\"remark\">", out);
        put_text(out, r->remark);
        fputs("</p>\n", out);
    }
    if (!s) put_notes(out, r);
    fputs("</section>\n", out);
    return s;
}

// The template, up to a mark and from it on.
static const char *put_until(FILE *out, const char *html, const char *mark) {
    const char *at = strstr(html, mark);
    fwrite(html, 1, (size_t)(at - html), out);
    return at + strlen(mark);
}

static pa_status put_page(FILE *out, const pa_page *page, pa_err *err) {
    pa_roll_layout layout;
    pa_status s = PA_OK;
    measure_rolls(page, &layout);
    const char *html = put_until(out, (const char *)PAGE_HTML, "{{title}}");
    put_text(out, page->title);
    html = put_until(out, html, "{{heading}}");
    put_text(out, page->title);
    html = put_until(out, html, "{{features}}");
    if (page->takes && page->take[0].features) put_features(out, page);
    html = put_until(out, html, "{{takes}}");
    for (size_t place = 0; place < page->takes && !s; place++) s = put_take(out, page, &layout, nth(page, place), err);
    html = put_until(out, html, "{{facts}}");
    if (page->facts) put_text(out, page->facts);
    fputs(html, out);
    return s;
}

pa_status pa_page_write(const char *path, const pa_page *page, pa_err *err) {
    pa_file file;
    pa_status s = pa_file_create(&file, path, err);
    if (s) return s;
    s = put_page(file.stream, page, err);
    if (!s) return pa_file_commit(&file, err);
    pa_file_abandon(&file);
    return s;
}
