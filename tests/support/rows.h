// rows.h: a failing row of a table names itself. cmocka leaves a failing test by longjmp, so the row is named
// afterwards: when the next table begins, or when the program ends.
#ifndef PA_TEST_ROWS_H
#define PA_TEST_ROWS_H

#include <stdbool.h>
#include <stdio.h>

static char row_label[512]; // of the row that runs; empty behind a table's end

static inline void row_report(void) {
    if (row_label[0]) fprintf(stderr, "[   ROW    ] --- %s\n", row_label);
    row_label[0] = '\0';
}

__attribute__((destructor)) static void row_report_at_end(void) {
    row_report();
}

static inline bool row_next(const char *test, const char *table, size_t i, size_t count, const char *text) {
    if (!i) row_report();
    row_label[0] = '\0';
    if (i < count) snprintf(row_label, sizeof row_label, "%s: %s[%zu] %s", test, table, i, text ? text : "");
    return i < count;
}

// EACH_ROW(i, table, table[i].name) { ... }: a loop over a table. The text is what a row is called, or NULL. Leave it
// at its end only.
#define ROW_COUNT(table) (sizeof(table) / sizeof *(table))
#define EACH_ROW(i, table, text)                                                                                       \
    for (size_t i = 0; row_next(__func__, #table, i, ROW_COUNT(table), i < ROW_COUNT(table) ? (text) : NULL); i++)

#endif
