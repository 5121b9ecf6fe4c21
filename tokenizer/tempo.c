// tempo.c: see tempo.h. In double precision and in pretty_midi's order of operations, so that its times come out bit
// for bit.
#include "tokenizer/tempo.h"

#include <math.h>
#include <stdlib.h>

static bool add_change(pa_tempo_map *map, pa_tempo change) {
    if (map->count == map->room) {
        size_t room = map->room ? 2 * map->room : 16;
        pa_tempo *grown = realloc(map->change, room * sizeof *grown);
        if (!grown) return false;
        map->change = grown;
        map->room = room;
    }
    map->change[map->count++] = change;
    return true;
}

bool pa_tempo_start(pa_tempo_map *map, int ppqn, double ticks_per_second) {
    *map = (pa_tempo_map){.ppqn = ppqn, .last = -1};
    return add_change(map, (pa_tempo){0, 0, ppqn ? 60.0 / (120.0 * ppqn) : 1 / ticks_per_second});
}

bool pa_tempo_add(pa_tempo_map *map, int64_t tick, uint32_t microseconds) {
    if (!map->ppqn || !microseconds) return true;
    const pa_tempo last = map->change[map->count - 1];
    double scale = 60.0 / ((6e7 / microseconds) * map->ppqn);
    map->repeated += map->last >= 0 && scale == last.scale;
    map->overwritten += tick == map->last && scale != last.scale;
    map->last = tick;
    if (tick == 0) {
        map->change[0].scale = scale;
        return true;
    }
    return scale == last.scale ||
           add_change(map, (pa_tempo){tick, last.seconds + last.scale * (double)(tick - last.tick), scale});
}

void pa_tempo_clear(pa_tempo_map *map) {
    free(map->change);
    *map = (pa_tempo_map){0};
}

typedef struct {
    int64_t tick;
    size_t place;
    uint32_t microseconds;
} tempo_event;

static int by_tick(const void *x, const void *y) {
    const tempo_event *a = x, *b = y;
    if (a->tick != b->tick) return a->tick < b->tick ? -1 : 1;
    return a->place < b->place ? -1 : a->place > b->place;
}

// *event is malloc'ed, in order of (track, place).
static pa_status find_tempos(const pa_midi *midi, tempo_event **event, size_t *count, pa_err *err) {
    size_t room = 0;
    *event = NULL;
    *count = 0;
    for (size_t t = 0; t < midi->tracks; t++) {
        pa_midi_reader r = pa_midi_read(midi, t, NULL);
        for (bool more = true; more;) {
            pa_midi_event e;
            pa_status s = pa_midi_next(&r, &e, &more, err);
            if (s) return s;
            uint32_t tempo = more ? pa_midi_tempo(&e) : 0;
            if (!tempo) continue;
            if (*count == room) {
                room = room ? 2 * room : 64;
                tempo_event *grown = realloc(*event, room * sizeof *grown);
                if (!grown) return pa_error(err, PA_FAIL, "no memory for %zu tempos", room);
                *event = grown;
            }
            (*event)[*count] = (tempo_event){e.tick, *count, tempo};
            ++*count;
        }
    }
    return PA_OK;
}

pa_status pa_tempo_read(pa_tempo_map *map, const pa_midi *midi, pa_err *err) {
    tempo_event *event;
    size_t count;
    *map = (pa_tempo_map){0};
    pa_status s = find_tempos(midi, &event, &count, err);
    bool ok = s || pa_tempo_start(map, midi->ppqn, midi->ticks_per_second);
    if (!s && count) qsort(event, count, sizeof *event, by_tick);
    for (size_t i = 0; i < count && !s && ok; i++) ok = pa_tempo_add(map, event[i].tick, event[i].microseconds);
    free(event);
    if (s || ok) return s;
    pa_tempo_clear(map);
    return pa_error(err, PA_FAIL, "no memory for %zu tempos", count);
}

double pa_tempo_seconds(const pa_tempo_map *map, int64_t tick) {
    size_t low = 0, high = map->count;
    while (low + 1 < high) {
        size_t middle = (low + high) / 2;
        if (map->change[middle].tick <= tick)
            low = middle;
        else
            high = middle;
    }
    return map->change[low].seconds + map->change[low].scale * (double)(tick - map->change[low].tick);
}

int64_t pa_tempo_tick(const pa_tempo_map *map, double seconds) {
    size_t k = map->count - 1;
    if (seconds <= 0) return 0;
    while (k && map->change[k].seconds > seconds) k--;
    int64_t tick = map->change[k].tick + (int64_t)((seconds - map->change[k].seconds) / map->change[k].scale);
    while (tick > 0 && pa_tempo_seconds(map, tick - 1) >= seconds) tick--;
    while (pa_tempo_seconds(map, tick) < seconds) tick++;
    return tick;
}
