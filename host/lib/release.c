// release.c: see release.h.
#include "host/lib/release.h"

#include <math.h>
#include <stddef.h>

enum { LEVELS = 7 };

// Shares of notes that sound longer than a row's lengths.
static const double level[LEVELS] = {0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005};

typedef struct {
    int lowest; // pitch; the next row's is above the octave
    int steps[LEVELS];
} octave;

// MAESTRO v3.0.0's training split, 962 performances: bench/note_lengths.py data/train.safetensors
static const octave table[] = {
    {0, {265, 417, 564, 764, 1149, 1525, 1847}},  // 129,279 notes, the longest 48.47 s
    {36, {207, 314, 426, 567, 868, 1179, 1478}},  // 566,836 notes, the longest 46.22 s
    {48, {165, 259, 353, 477, 693, 936, 1220}},   // 1,355,261 notes, the longest 52.84 s
    {60, {161, 247, 334, 451, 662, 884, 1171}},   // 1,812,608 notes, the longest 43.32 s
    {72, {155, 238, 323, 442, 671, 903, 1186}},   // 1,315,510 notes, the longest 47.59 s
    {84, {181, 286, 398, 547, 799, 1059, 1362}},  // 426,015 notes, the longest 46.53 s
    {96, {257, 413, 562, 741, 1049, 1345, 1894}}, // 53,820 notes, the longest 40.87 s
};

static const int *row_of(int pitch) {
    size_t i = sizeof table / sizeof *table - 1;
    while (pitch < table[i].lowest) i--;
    return table[i].steps;
}

int pa_release_least(int pitch) {
    return row_of(pitch)[0];
}

// Between two levels, and behind the last two, the hazard is constant: the share falls exponentially.
static double share_beyond(const int *steps, double age) {
    int i = 1;
    if (age <= steps[0]) return level[0];
    while (i < LEVELS - 1 && age >= steps[i]) i++;
    return level[i - 1] * pow(level[i] / level[i - 1], (age - steps[i - 1]) / (steps[i] - steps[i - 1]));
}

double pa_release_length(int pitch, double age, double u) {
    const int *steps = row_of(pitch);
    double share = (1 - u) * share_beyond(steps, age);
    int i = 1;
    while (i < LEVELS - 1 && share < level[i]) i++;
    return steps[i - 1] + (steps[i] - steps[i - 1]) * log(share / level[i - 1]) / log(level[i] / level[i - 1]);
}
