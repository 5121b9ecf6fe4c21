// cases_attention.h: attention of the case table against float64.
#ifndef PA_BENCH_CASES_ATTENTION_H
#define PA_BENCH_CASES_ATTENTION_H

#include "bench/cases_checker.h"

void case_check_attention_fwd(checker *k);
void case_check_attention_bwd(checker *k);
void case_check_decode(checker *k);

#endif
