// same_config.h: compares two configurations key by key.
#ifndef PA_TEST_SAME_CONFIG_H
#define PA_TEST_SAME_CONFIG_H

#include "host/files/config_schema.h"
#include "tests/support/scratch.h"

static inline size_t key_size(const pa_key *k) {
    return k->type == PA_KEY_TEXT                            ? k->room
           : k->type == PA_KEY_BOOL                          ? sizeof(bool)
           : k->type == PA_KEY_INT || k->type == PA_KEY_ENUM ? 4
                                                             : 8;
}

static inline void expect_same(const pa_config *a, const pa_config *b) {
    for (const pa_key *k = pa_keys; k < pa_keys + pa_key_count; k++)
        if (memcmp((const char *)a + k->offset, (const char *)b + k->offset, key_size(k)))
            fail_msg("%s.%s differs", k->section, k->key);
}

#endif
