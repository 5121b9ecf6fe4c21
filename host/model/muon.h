// muon.h: the update of a model whose hidden matrices are Muon's (Jordan, 2024) and the rest AdamW's.
#ifndef PA_MODEL_MUON_H
#define PA_MODEL_MUON_H

#include "host/model/context.h"

// Numbers of the largest matrix and of the largest product of one with its transpose.
void pa_muon_sizes(const pa_params *p, size_t *matrix, size_t *square);
// Divides the matrices among the ranks: of[r] (ranks) are the bytes of the parameters whose matrices rank r computes.
void pa_muon_divide(const pa_params *p, int ranks, pa_span *of);
// Orthogonalises this rank's matrices, which lie in c->grad at their parameters' places, updates the parameters with
// them, and sends those to all ranks.
pa_status pa_muon_matrices(pa_context *c, pa_err *err);

#endif
