// release.h: how long pianists let a note sound, the pedal included. Knows nothing of tokens and models.
#ifndef PA_RELEASE_H
#define PA_RELEASE_H

// Lengths are in steps of 10 ms. "Long" is a note that sounds longer than 95 % of pianists' notes of its octave.
int pa_release_least(int pitch); // where "long" begins
// The length that a share of 1 - u of the corpus's notes exceeds, of those longer than both `age` and pa_release_least.
// u: in [0, 1].
double pa_release_length(int pitch, double age, double u);

#endif
