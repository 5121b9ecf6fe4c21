// features.c: see features.h. Times are in steps of 10 ms.
#include "host/play/features.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    PART = 60 * PA_STEPS_A_SECOND,
    HALF = PA_STEPS_A_SECOND / 2,
    FIVE = 5 * PA_STEPS_A_SECOND,
    BEFORE = 60,                 // seconds before a take that it is compared with
    MOST_PART = PART + PART / 2, // of a passage that is one part
    LAGS = 64,                   // notes back that a loop is looked for
    GRAM = 5,                    // intervals of what returns
    CLASSES = 12,
    VELOCITY_BINS = 16,
};

// The longest time of each bin but the last.
static const int64_t edge[PA_RHYTHM_BINS - 1] = {3, 6, 12, 25, 50, 100, 200};

static const char *const name[PA_FEATURES] = {"notes_per_second",
                                              "polyphony",
                                              "note_seconds",
                                              "longest_note",
                                              "silence",
                                              "rests",
                                              "lowest_pitch",
                                              "pitch",
                                              "highest_pitch",
                                              "velocity",
                                              "velocity_spread",
                                              "velocity_correlation",
                                              "pitch_class_entropy",
                                              "pitch_class_change",
                                              "rhythm_entropy",
                                              "loop",
                                              "returns",
                                              "overlap",
                                              "divergence"};

const char *pa_feature_name(pa_feature f) {
    return name[f];
}

typedef struct {
    int64_t start, end;
    int pitch, velocity;
} event;

// Notes that sound in [first, last), in order of start and pitch.
typedef struct {
    event *event;
    size_t count;
    event *begun; // those that begin there
    size_t begins;
    int64_t first, last;
    int64_t *scratch; // (count)
} part;

static int by_start(const void *x, const void *y) {
    const event *a = x, *b = y;
    if (a->start != b->start) return a->start < b->start ? -1 : 1;
    return a->pitch - b->pitch;
}

static int by_size(const void *x, const void *y) {
    const int64_t *a = x, *b = y;
    return (*a > *b) - (*a < *b);
}

static void part_clear(part *p) {
    free(p->event);
    free(p->scratch);
    *p = (part){0};
}

static pa_status part_init(part *p, const pa_passage *x, int64_t first, int64_t last, pa_err *err) {
    size_t room = x->notes + 1;
    *p = (part){.first = first, .last = last, .event = malloc(room * sizeof *p->event)};
    p->scratch = malloc(room * sizeof *p->scratch);
    if (!p->event || !p->scratch) return pa_error(err, PA_FAIL, "no memory for the features of %zu notes", x->notes);
    for (size_t i = 0; i < x->notes; i++) {
        const pa_note *n = &x->note[i];
        event e = {llround(n->start * PA_STEPS_A_SECOND), llround(n->end * PA_STEPS_A_SECOND), n->pitch & 127,
                   n->velocity & 127};
        if (e.end > first && e.start < last) p->event[p->count++] = e;
    }
    qsort(p->event, p->count, sizeof *p->event, by_start);
    size_t before = 0;
    while (before < p->count && p->event[before].start < first) before++;
    p->begun = p->event + before;
    p->begins = p->count - before;
    return PA_OK;
}

// ---- histograms

static int bin_of(int64_t steps) {
    int b = 0;
    while (b < PA_RHYTHM_BINS - 1 && steps > edge[b]) b++;
    return b;
}

static int rhythm_bin(const part *p, size_t i) { // from note i to the next
    return bin_of(p->begun[i + 1].start - p->begun[i].start);
}

static double total(const double *count, int bins) {
    double sum = 0;
    for (int b = 0; b < bins; b++) sum += count[b];
    return sum;
}

static double entropy(const double *count, int bins) { // bits
    double sum = total(count, bins), bits = 0;
    for (int b = 0; b < bins; b++)
        if (count[b] > 0) bits -= count[b] / sum * log2(count[b] / sum);
    return sum > 0 ? bits : (double)NAN;
}

enum { HISTOGRAMS = 4, MOST_BINS = 16 };
static const int bins_of[HISTOGRAMS] = {CLASSES, PA_RHYTHM_BINS, PA_RHYTHM_BINS, VELOCITY_BINS};

// Of pitch classes, times between strokes, lengths and velocities.
typedef struct {
    double count[HISTOGRAMS][MOST_BINS];
} histograms;

static histograms histograms_of(const part *p) {
    histograms h = {0};
    for (size_t i = 0; i < p->begins; i++) {
        const event *e = &p->begun[i];
        h.count[0][e->pitch % CLASSES]++;
        if (i + 1 < p->begins) h.count[1][rhythm_bin(p, i)]++;
        h.count[2][bin_of(e->end - e->start)]++;
        h.count[3][e->velocity * VELOCITY_BINS / 128]++;
    }
    return h;
}

// Means over the histograms: the area that two of them share, and the Kullback-Leibler divergence of x from y, one
// added to each count.
static void compare(const histograms *x, const histograms *y, double *overlap, double *divergence) {
    *overlap = *divergence = 0;
    for (int k = 0; k < HISTOGRAMS; k++) {
        double sum_x = total(x->count[k], bins_of[k]), sum_y = total(y->count[k], bins_of[k]);
        for (int b = 0; b < bins_of[k]; b++) {
            double p = (x->count[k][b] + 1) / (sum_x + bins_of[k]), q = (y->count[k][b] + 1) / (sum_y + bins_of[k]);
            *overlap += fmin(x->count[k][b] / sum_x, y->count[k][b] / sum_y) / HISTOGRAMS; // NaN without notes
            *divergence += p * log(p / q) / HISTOGRAMS;
        }
        if (!(sum_x > 0 && sum_y > 0)) *overlap = *divergence = (double)NAN;
    }
}

// ---- features

static void add_time(const part *p, double *v) {
    bool sounds[MOST_PART / HALF] = {false}, begins[MOST_PART / HALF] = {false};
    int64_t halves = (p->last - p->first) / HALF, sounding = 0, silent = 0, resting = 0;
    for (size_t i = 0; i < p->count; i++) {
        const event *e = &p->event[i];
        int64_t from = e->start > p->first ? e->start - p->first : 0, to = e->end < p->last ? e->end : p->last;
        to -= p->first;
        sounding += to - from;
        for (int64_t h = from / HALF; h < halves && h * HALF < to; h++) sounds[h] = true;
        if (e->start >= p->first && from / HALF < halves) begins[from / HALF] = true;
    }
    for (int64_t h = 0; h < halves; h++) {
        silent += !sounds[h];
        resting += !begins[h];
    }
    double length = (double)(p->last - p->first);
    v[PA_NOTES_PER_SECOND] = (double)p->begins * PA_STEPS_A_SECOND / length;
    v[PA_POLYPHONY] = (double)sounding / length;
    v[PA_SILENCE] = halves ? (double)silent / (double)halves : (double)NAN;
    v[PA_RESTS] = halves ? (double)resting / (double)halves : (double)NAN;
}

static void add_lengths(const part *p, double *v) {
    size_t n = p->begins;
    if (!n) return;
    for (size_t i = 0; i < n; i++) p->scratch[i] = p->begun[i].end - p->begun[i].start;
    qsort(p->scratch, n, sizeof *p->scratch, by_size);
    v[PA_NOTE_SECONDS] = (double)(p->scratch[(n - 1) / 2] + p->scratch[n / 2]) / 2 / PA_STEPS_A_SECOND;
    v[PA_LONGEST_NOTE] = (double)p->scratch[n - 1] / PA_STEPS_A_SECOND;
}

static void add_register(const part *p, double *v) {
    if (!p->begins) return;
    int low = 127, high = 0;
    int64_t sum = 0;
    for (size_t i = 0; i < p->begins; i++) {
        int pitch = p->begun[i].pitch;
        low = pitch < low ? pitch : low;
        high = pitch > high ? pitch : high;
        sum += pitch;
    }
    v[PA_LOWEST_PITCH] = low;
    v[PA_PITCH] = (double)sum / (double)p->begins;
    v[PA_HIGHEST_PITCH] = high;
}

// Mean and spread of the velocities of notes [first, first + count).
static double mean_velocity(const part *p, size_t first, size_t count, double *spread) {
    double sum = 0, squares = 0;
    for (size_t i = first; i < first + count; i++) sum += p->begun[i].velocity;
    double mean = sum / (double)count;
    for (size_t i = first; i < first + count; i++) squares += pow(p->begun[i].velocity - mean, 2);
    *spread = sqrt(squares / (double)count);
    return mean;
}

static void add_velocity(const part *p, double *v) {
    size_t n = p->begins;
    double spread_x, spread_y, sum = 0;
    if (n) v[PA_VELOCITY_MEAN] = mean_velocity(p, 0, n, &v[PA_VELOCITY_SPREAD]);
    if (n < 3) return;
    double x = mean_velocity(p, 0, n - 1, &spread_x), y = mean_velocity(p, 1, n - 1, &spread_y);
    for (size_t i = 0; i + 1 < n; i++) sum += (p->begun[i].velocity - x) * (p->begun[i + 1].velocity - y);
    if (spread_x > 0 && spread_y > 0) v[PA_VELOCITY_CORRELATION] = sum / (double)(n - 1) / spread_x / spread_y;
}

// Half the distance between the pitch classes of each five seconds and the next.
static void add_pitch_class_change(const part *p, double *v) {
    double count[MOST_PART / FIVE][CLASSES] = {{0}}, sum = 0;
    int64_t groups = (p->last - p->first) / FIVE, pairs = 0;
    for (size_t i = 0; i < p->begins; i++) {
        int64_t g = (p->begun[i].start - p->first) / FIVE;
        if (g < groups) count[g][p->begun[i].pitch % CLASSES]++;
    }
    for (int64_t g = 0; g + 1 < groups; g++) {
        double a = total(count[g], CLASSES), b = total(count[g + 1], CLASSES);
        for (int c = 0; c < CLASSES && a > 0 && b > 0; c++) sum += fabs(count[g][c] / a - count[g + 1][c] / b) / 2;
        pairs += a > 0 && b > 0;
    }
    if (pairs) v[PA_PITCH_CLASS_CHANGE] = sum / (double)pairs;
}

static int interval(const part *p, size_t i) { // in semitones, from note i to the next
    return p->begun[i + 1].pitch - p->begun[i].pitch;
}

static void add_loop(const part *p, double *v) {
    size_t intervals = p->begins ? p->begins - 1 : 0, longest = 0;
    for (size_t lag = 1; lag <= LAGS; lag++)
        for (size_t i = lag, run = 0; i < intervals; i++) {
            bool same = interval(p, i) == interval(p, i - lag) && rhythm_bin(p, i) == rhythm_bin(p, i - lag);
            run = same ? run + 1 : 0;
            longest = run > longest ? run : longest;
        }
    v[PA_LOOP] = (double)longest;
}

static void add_returns(const part *p, double *v) {
    size_t grams = p->begins > GRAM ? p->begins - GRAM : 0, different = 0;
    for (size_t i = 0; i < grams; i++) {
        p->scratch[i] = 0;
        for (size_t k = 0; k < GRAM; k++) p->scratch[i] = p->scratch[i] * 256 + interval(p, i + k) + 128;
    }
    qsort(p->scratch, grams, sizeof *p->scratch, by_size);
    for (size_t i = 0; i < grams; i++) different += !i || p->scratch[i] != p->scratch[i - 1];
    if (grams) v[PA_RETURNS] = (double)(grams - different) / (double)grams;
}

static void measure_part(const part *p, const histograms *primer, pa_features *f) {
    histograms h = histograms_of(p);
    double times = total(h.count[1], PA_RHYTHM_BINS), *v = f->value;
    for (int i = 0; i < PA_FEATURES; i++) v[i] = (double)NAN;
    for (int b = 0; b < PA_RHYTHM_BINS; b++) f->rhythm[b] = h.count[1][b] / times;
    add_time(p, v);
    add_lengths(p, v);
    add_register(p, v);
    add_velocity(p, v);
    add_pitch_class_change(p, v);
    add_loop(p, v);
    add_returns(p, v);
    v[PA_PITCH_CLASS_ENTROPY] = entropy(h.count[0], CLASSES);
    v[PA_RHYTHM_ENTROPY] = entropy(h.count[1], PA_RHYTHM_BINS);
    if (primer) compare(&h, primer, &v[PA_OVERLAP], &v[PA_DIVERGENCE]);
}

// ---- passages

// Sums of what is defined, and of how many.
typedef struct {
    double sum[PA_FEATURES + PA_RHYTHM_BINS];
    int count[PA_FEATURES + PA_RHYTHM_BINS];
} sums;

static void add(sums *s, const pa_features *f) {
    for (int i = 0; i < PA_FEATURES + PA_RHYTHM_BINS; i++) {
        double x = i < PA_FEATURES ? f->value[i] : f->rhythm[i - PA_FEATURES];
        if (isnan(x)) continue;
        s->sum[i] += x;
        s->count[i]++;
    }
}

static double mean_of(const sums *s, int i) {
    return s->count[i] ? s->sum[i] / s->count[i] : (double)NAN;
}

pa_status pa_features_measure(const pa_passage *x, const pa_passage *primer, pa_features *f, pa_err *err) {
    int64_t first = llround(x->first * PA_STEPS_A_SECOND), length = llround(x->last * PA_STEPS_A_SECOND) - first;
    int64_t parts = length < MOST_PART ? 1 : (length + PART / 2) / PART;
    pa_status s = PA_OK;
    histograms before = {0};
    sums all = {0};
    part p;
    if (primer) {
        s = part_init(&p, primer, llround(primer->first * PA_STEPS_A_SECOND), llround(primer->last * PA_STEPS_A_SECOND),
                      err);
        if (!s) before = histograms_of(&p);
        part_clear(&p);
    }
    for (int64_t k = 0; k < parts && length > 0 && !s; k++) {
        s = part_init(&p, x, first + length * k / parts, first + length * (k + 1) / parts, err);
        if (!s) {
            measure_part(&p, primer ? &before : NULL, f);
            add(&all, f);
        }
        part_clear(&p);
    }
    for (int i = 0; i < PA_FEATURES; i++) f->value[i] = mean_of(&all, i);
    for (int b = 0; b < PA_RHYTHM_BINS; b++) f->rhythm[b] = mean_of(&all, PA_FEATURES + b);
    return s;
}

pa_status pa_features_measure_take(const pa_passage *take, pa_features *primer, pa_features *f, pa_err *err) {
    const pa_passage before = {take->note, take->notes, fmax(0, take->first - BEFORE), take->first};
    const bool primed = take->first > 0;
    pa_status s = pa_features_measure(take, primed ? &before : NULL, f, err);
    return s || !primed || !primer ? s : pa_features_measure(&before, NULL, primer, err);
}
