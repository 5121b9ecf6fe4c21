// song.c: see song.h.
#include "tokenizer/song.h"

#include <stdlib.h>

void *pa_grow(void *items, size_t *room, size_t count, size_t size) {
    if (count < *room) return items;
    size_t more = *room ? 2 * *room : 64;
    void *grown = realloc(items, more * size);
    if (grown) *room = more;
    return grown;
}

void pa_song_clear(pa_song *song) {
    for (size_t i = 0; i < song->parts; i++) {
        free(song->part[i].note);
        free(song->part[i].pedal);
    }
    free(song->part);
    *song = (pa_song){0};
}

pa_part *pa_song_add_part(pa_song *song) {
    pa_part *grown = pa_grow(song->part, &song->part_room, song->parts, sizeof *grown);
    if (!grown) return NULL;
    song->part = grown;
    song->part[song->parts] = (pa_part){0};
    return &song->part[song->parts++];
}

bool pa_part_add_note(pa_part *part, pa_note note) {
    pa_note *grown = pa_grow(part->note, &part->note_room, part->notes, sizeof note);
    if (!grown) return false;
    part->note = grown;
    part->note[part->notes++] = note;
    return true;
}

bool pa_part_add_pedal(pa_part *part, pa_pedal pedal) {
    pa_pedal *grown = pa_grow(part->pedal, &part->pedal_room, part->pedals, sizeof *grown);
    if (!grown) return false;
    part->pedal = grown;
    part->pedal[part->pedals++] = pedal;
    return true;
}
