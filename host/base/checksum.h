// checksum.h: CRC-32C, the checksum of every file that patrain writes.
#ifndef PA_CHECKSUM_H
#define PA_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

// CRC-32C (Castagnoli) of bytes, continued from crc (0 to start).
uint32_t pa_crc32c(uint32_t crc, const void *bytes, size_t count);
// The same without the CRC instruction, for tests.
uint32_t pa_crc32c_plain(uint32_t crc, const void *bytes, size_t count);

#endif
