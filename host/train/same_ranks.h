// same_ranks.h: checks that all ranks have the same build, settings and data at the start, and the same weights later.
#ifndef PA_SAME_RANKS_H
#define PA_SAME_RANKS_H

#include "host/train/trainer.h"

enum { PA_COMPARE_EVERY = 1000 }; // steps; weights are compared before each save too

// Compares this rank's build, command, configuration (but for data's paths) and checksums of data with rank 0's. On a
// difference every rank returns PA_USAGE with the same message: the first that differs, for the lowest rank that
// differs.
pa_status pa_same_start(const pa_trainer *t, pa_err *err);
// Likewise what the opened backend computes with.
pa_status pa_same_device(const pa_trainer *t, pa_err *err);

// Checks that weights and moments are those of the last update (backend.h), and compares the weights' checksums, 4
// bytes a rank. On a difference every rank returns PA_FAIL and names the ranks that differ from most. Reads all
// weights.
pa_status pa_same_weights(const pa_trainer *t, pa_err *err);

// The parts of these that know nothing of a trainer.
enum { PA_FACTS = 8192 };
// facts: lines "name = value", below lines "[section]".
pa_status pa_same_facts(pa_comm *c, const char facts[PA_FACTS], pa_err *err);
pa_status pa_same_digest(pa_comm *c, uint32_t digest, int64_t step, pa_err *err);

#endif
