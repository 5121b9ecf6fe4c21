// release.h: how long pianists let a note sound, the pedal included. Knows nothing of tokens and models.
#ifndef PA_RELEASE_H
#define PA_RELEASE_H

// An age is in steps of 10 ms since the note's stroke, and PA_RELEASE_STROKE more for each stroke of any key since: the
// more a pianist plays, the sooner notes end. "Long" is a note that reaches a greater age than 95 % of pianists' notes
// of its octave.
enum { PA_RELEASE_STROKE = 20 };
int pa_release_least(int pitch); // the age at which a note is long
// The age that a share of 1 - u of the corpus's notes exceeds, of those that exceed both `age` and pa_release_least.
// u: in [0, 1].
double pa_release_age(int pitch, double age, double u);

#endif
