// tempo.h: ticks to seconds and back. One map serves the whole piece, whatever track a tempo stands in.
#ifndef PA_TEMPO_H
#define PA_TEMPO_H

#include "tokenizer/scan.h"

// From `tick`, which is at `seconds`, a tick takes `scale` seconds.
typedef struct {
    int64_t tick;
    double seconds, scale;
} pa_tempo;

typedef struct {
    pa_tempo *change; // in order of tick; the first is at tick 0
    size_t count, room;
    int ppqn;           // 0 with SMPTE time, which no tempo changes
    size_t repeated;    // tempos that change nothing
    size_t overwritten; // tempos at a tick that has another one already; the last in order of (track, place) counts
    int64_t last;       // tick of the last tempo given; -1 before the first
} pa_tempo_map;

// 120 bpm. False without memory.
bool pa_tempo_start(pa_tempo_map *map, int ppqn, double ticks_per_second);
// Tempos come in order of tick. One at tick 0 replaces the initial one.
bool pa_tempo_add(pa_tempo_map *map, int64_t tick, uint32_t microseconds);
// The map of a file: the tempos of all its tracks.
pa_status pa_tempo_read(pa_tempo_map *map, const pa_midi *midi, pa_err *err);
void pa_tempo_clear(pa_tempo_map *map);

double pa_tempo_seconds(const pa_tempo_map *map, int64_t tick);
// The first tick at or after `seconds`.
int64_t pa_tempo_tick(const pa_tempo_map *map, double seconds);

#endif
