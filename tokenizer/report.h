// report.h: what was found in a MIDI file, and what became of it. Plain data: it travels through a pipe.
#ifndef PA_REPORT_H
#define PA_REPORT_H

#include "tokenizer/programs.h"
#include "tokenizer/scan.h"

typedef struct {
    bool riff;
    int format;
    int announced; // chunks that the header counts
    size_t tracks; // read
    size_t tracks_left_out, foreign_chunks, trailing_bytes;
    size_t unread_bytes;     // behind tracks' End of Track
    int ppqn;                // 0 with SMPTE time
    double ticks_per_second; // with SMPTE time
    double bpm;              // at the start
    size_t tempo_changes, tempos_repeated, tempos_overwritten, tempos_left_out;
    pa_programs programs;                   // of the notes, drums apart
    size_t pedal, sostenuto, soft;          // messages of controllers 64, 66 and 67
    size_t idle_pedal;                      // pedal messages of channels without a note
    size_t all_off;                         // controllers 120 and 123 to 127
    size_t notes;                           // note-ons
    size_t drums, other_programs, unclosed; // notes on channel 10; of programs not asked for; without a note-off
    double seconds;                         // to the last event
    double silence;                         // before the first note that is encoded
    double trimmed;                         // of it
    size_t pauses;                          // shortened
    double shortened;                       // seconds, in all
    pa_mended mended;
} pa_report;

// Lines that begin with '#'. unclosed_kept: whether the encoding has the notes without a note-off; sostenuto_kept
// likewise.
void pa_report_print(FILE *out, const pa_report *r, bool unclosed_kept, bool sostenuto_kept);

// The same over the files of a corpus: what a user should know of it. Files and, of them all, notes or messages.
typedef struct {
    size_t files, notes;
} pa_finding;

typedef struct {
    pa_finding mended, unclosed, drums, other_programs, pauses, sostenuto, idle_pedal, tracks_left_out, unread_bytes,
        tempos_left_out;
} pa_findings;

void pa_findings_add(pa_findings *f, const pa_report *r);
// A line for each that there is. sostenuto: what became of that pedal, the end of its line.
void pa_findings_print(FILE *out, const pa_findings *f, const char *sostenuto, const char *program);

#endif
