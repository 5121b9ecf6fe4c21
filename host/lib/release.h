// release.h: how long pianists let a note sound, the pedal included. Knows nothing of tokens and models.
#ifndef PA_RELEASE_H
#define PA_RELEASE_H

// Lengths are in steps of 10 ms. "Long" is a note that sounds longer than 95 % of pianists' notes of its octave.
int pa_release_least(int pitch); // where "long" begins
int pa_release_most(int pitch);  // no length that is drawn exceeds this
// The length of a long note that has sounded for `age` (0: since it was struck): a draw from the corpus's lengths above
// both `age` and pa_release_least. u: uniform in [0, 1). At least `age`, unless that is above pa_release_most.
double pa_release_length(int pitch, double age, double u);

#endif
