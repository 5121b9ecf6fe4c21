// comm_proof.h: how a rank proves that it knows the run's word without sending it.
#ifndef PA_COMM_PROOF_H
#define PA_COMM_PROOF_H

#include "host/base/base.h"

enum { PA_WORD = 16 };

// SipHash-2-4 of 128 bits, a message's code under a secret key. https://www.aumasson.jp/siphash/siphash.pdf
void pa_proof(uint8_t proof[PA_WORD], const uint8_t word[PA_WORD], const void *message, size_t bytes);

#endif
