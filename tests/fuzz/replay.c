// replay.c: runs every file of the folders or files named on the command line through a fuzzer's
// LLVMFuzzerTestOneInput, so that what a fuzzer once found is tested in every build. Takes libFuzzer's place where that
// isn't linked; knows no fuzzer by name.
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int files = 0, failures = 0;

static void replay_file(const char *path) {
    FILE *f = fopen(path, "rb");
    struct stat info;
    uint8_t *data = NULL;
    if (!f || fstat(fileno(f), &info)) {
        perror(path);
        failures++;
    } else {
        // A buffer of exactly the file's size, so that a read beyond its end is seen.
        size_t size = (size_t)info.st_size;
        data = malloc(size ? size : 1);
        if (!data || fread(data, 1, size, f) != size) {
            fprintf(stderr, "%s: can't be read\n", path);
            failures++;
        } else {
            LLVMFuzzerTestOneInput(data, size);
            files++;
        }
    }
    free(data);
    if (f) fclose(f);
}

static void replay(const char *path) {
    DIR *folder = opendir(path);
    if (!folder) {
        replay_file(path);
        return;
    }
    for (const struct dirent *e; (e = readdir(folder));) {
        char name[4096];
        if (e->d_name[0] == '.') continue;
        if (snprintf(name, sizeof name, "%s/%s", path, e->d_name) < (int)sizeof name) replay(name);
    }
    closedir(folder);
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) replay(argv[i]);
    printf("%d files replayed\n", files);
    return failures || !files;
}
