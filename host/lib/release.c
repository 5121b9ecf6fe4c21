// release.c: see release.h.
#include "host/lib/release.h"

#include <math.h>
#include <stddef.h>

enum { LEVELS = 7 };

// Shares of notes that exceed a row's ages.
static const double level[LEVELS] = {0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005};

typedef struct {
    int lowest; // pitch; the next row's is above the octave
    int age[LEVELS];
} octave;

// MAESTRO v3.0.0's training split, 962 performances: bench/note_lengths.py data/train.safetensors
static const octave table[] = {
    {0, {701, 1055, 1439, 1864, 2650, 3697, 4508}},   // 129,279 notes
    {36, {549, 822, 1080, 1397, 1851, 2367, 3180}},   // 566,836 notes
    {48, {430, 641, 846, 1107, 1510, 1903, 2560}},    // 1,355,261 notes
    {60, {415, 609, 797, 1044, 1479, 1958, 2669}},    // 1,812,608 notes
    {72, {460, 678, 886, 1145, 1624, 2197, 3020}},    // 1,315,510 notes
    {84, {633, 954, 1254, 1621, 2331, 2898, 3722}},   // 426,015 notes
    {96, {1003, 1563, 1949, 2691, 3513, 4411, 6107}}, // 53,820 notes
};

static const int *row_of(int pitch) {
    size_t i = sizeof table / sizeof *table - 1;
    while (pitch < table[i].lowest) i--;
    return table[i].age;
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

double pa_release_age(int pitch, double age, double u) {
    const int *steps = row_of(pitch);
    double share = (1 - u) * share_beyond(steps, age);
    int i = 1;
    while (i < LEVELS - 1 && share < level[i]) i++;
    return steps[i - 1] + (steps[i] - steps[i - 1]) * log(share / level[i - 1]) / log(level[i] / level[i - 1]);
}
