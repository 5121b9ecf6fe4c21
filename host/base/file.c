// file.c: files that are never half-written, and folders. Knows nothing of what the files contain.
#include "host/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MOST_TEXT = 1 << 30 }; // bytes that pa_read_text reads at most

static const char *kind_of(mode_t mode) {
    return S_ISREG(mode)    ? "a file"
           : S_ISDIR(mode)  ? "a folder"
           : S_ISFIFO(mode) ? "a named pipe"
           : S_ISSOCK(mode) ? "a socket"
           : S_ISLNK(mode)  ? "a link"
                            : "a device";
}

// The folder that holds path: "." where path names none.
static void folder_of(const char *path, char *folder, size_t size) {
    const char *slash = strrchr(path, '/');
    if (!slash)
        snprintf(folder, size, ".");
    else
        snprintf(folder, size, "%.*s", slash == path ? 1 : (int)(slash - path), path);
}

static bool in_same_folder(const char *a, const char *b) {
    const char *x = strrchr(a, '/'), *y = strrchr(b, '/');
    return x && y ? x - a == y - b && !strncmp(a, b, (size_t)(x - a)) : x == y;
}

static char process_word[17];

static void draw_word(void) {
    uint64_t word;
    struct timespec now;
    if (getrandom(&word, sizeof word, GRND_NONBLOCK) != sizeof word) { // early in a machine's start
        clock_gettime(CLOCK_REALTIME, &now);
        word = (uint64_t)now.tv_sec << 32 ^ (uint64_t)now.tv_nsec << 16 ^ (uint64_t)getpid();
    }
    snprintf(process_word, sizeof process_word, "%016llx", (unsigned long long)word);
}

static void draw_first_word(void) {
    draw_word();
    pthread_atfork(NULL, NULL, draw_word); // a child is another process
}

const char *pa_process_word(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, draw_first_word);
    return process_word;
}

bool pa_temporary_name(const char *path, char *out, size_t size) {
    enum { LONGEST = 255 };
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char ending[32];
    int added = snprintf(ending, sizeof ending, ".tmp.%s", pa_process_word());
    size_t length = strlen(name), most = (size_t)(LONGEST - added);
    const char *kept = length > most ? name + length - most : name; // names of one command differ at their ends
    return snprintf(out, size, "%.*s%s%s", (int)(name - path), path, kept, ending) < (int)size;
}

// Where a link leads, else the path itself. False with errno.
static bool find_target(const char *path, char *target, size_t size) {
    struct stat info;
    char *found = NULL;
    if (!lstat(path, &info) && S_ISLNK(info.st_mode) && !(found = realpath(path, NULL))) return false;
    bool fits = snprintf(target, size, "%s", found ? found : path) < (int)size;
    free(found);
    errno = ENAMETOOLONG;
    return fits;
}

pa_status pa_file_create(pa_file *file, const char *path, pa_err *err) {
    char folder[sizeof file->path];
    struct stat info;
    *file = (pa_file){0};
    if (!*path) return pa_error(err, PA_FAIL, "output: expected a path, found an empty name");
    if (snprintf(file->path, sizeof file->path, "%s", path) >= (int)sizeof file->path)
        return pa_error(err, PA_FAIL, "%.200s...: expected a path of at most %zu bytes, found %zu", path,
                        sizeof file->path - 1, strlen(path));
    if (!find_target(path, file->target, sizeof file->target))
        return pa_error(err, PA_FAIL, "cannot create %s, a link: %s", path, strerror(errno));
    folder_of(file->target, folder, sizeof folder);
    if (stat(folder, &info))
        return pa_error(err, PA_FAIL, "cannot create %s: folder %s: %s", path, folder, strerror(errno));
    if (!S_ISDIR(info.st_mode))
        return pa_error(err, PA_FAIL, "%s: expected %s to be a folder, found %s", path, folder, kind_of(info.st_mode));
    bool replaces = !stat(file->target, &info);
    if (replaces && !S_ISREG(info.st_mode))
        return pa_error(err, PA_FAIL, "%s: expected a file or nothing here, found %s", path, kind_of(info.st_mode));
    pa_temporary_name(file->target, file->temporary, sizeof file->temporary);
    int fd = open(file->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) return pa_error(err, PA_FAIL, "cannot create %s: %s", path, strerror(errno));
    if (replaces && fchmod(fd, info.st_mode & 0777)) {} // some file systems have no permissions
    file->stream = fdopen(fd, "wb");
    if (file->stream) return PA_OK;
    close(fd);
    unlink(file->temporary);
    return pa_error(err, PA_FAIL, "cannot create %s: %s", path, strerror(errno));
}

// A finished file that waits for the others of its command.
typedef struct pa_finished {
    char *path, *temporary, *target;
} finished;

// Points to this thread's pa_file_group. A key, because the emulator takes every thread-local variable for __shared__
// (tests/emulator/kernel.h).
static pthread_key_t together;
static pthread_once_t together_once = PTHREAD_ONCE_INIT;
static int together_error;
static void make_together(void) {
    together_error = pthread_key_create(&together, NULL);
}

pa_status pa_file_group_begin(pa_file_group *group, pa_err *err) {
    pthread_once(&together_once, make_together);
    int why = together_error;
    if (!why) why = pthread_setspecific(together, group);
    if (why) return pa_error(err, PA_FAIL, "cannot write files together: %s", strerror(why));
    group->begun = true;
    return PA_OK;
}

static void clear_finished(finished *f) {
    free(f->path);
    free(f->temporary);
    free(f->target);
}

static pa_status wait_for_others(pa_file_group *group, const pa_file *file, pa_err *err) {
    finished f = {strdup(file->path), strdup(file->temporary), strdup(file->target)};
    finished *grown = realloc(group->file, (group->count + 1) * sizeof *grown);
    if (grown) group->file = grown;
    if (grown && f.path && f.temporary && f.target) {
        grown[group->count++] = f;
        return PA_OK;
    }
    clear_finished(&f);
    unlink(file->temporary);
    return pa_error(err, PA_FAIL, "%s: no memory for its name", file->path);
}

static pa_status place(const char *path, const char *temporary, const char *target, pa_err *err) {
    if (!rename(temporary, target)) return PA_OK;
    int why = errno;
    unlink(temporary);
    return pa_error(err, PA_FAIL, "cannot rename a new file to %s: %s", path, strerror(why));
}

static pa_status sync_folder_of(const char *target, pa_err *err) {
    char folder[sizeof(pa_file){0}.target];
    folder_of(target, folder, sizeof folder);
    return pa_sync_dir(folder, err);
}

pa_status pa_file_group_end(pa_file_group *group, pa_status s, pa_err *err) {
    size_t count = group->count, placed = 0;
    finished *f = group->file;
    pa_err why;
    if (group->begun) pthread_setspecific(together, NULL);
    while (!s && placed < count) {
        s = place(f[placed].path, f[placed].temporary, f[placed].target, &why);
        placed += !s;
        if (s && count > 1)
            pa_error(err, s, "%s; %zu of %zu files %s written", why.text, placed, count, placed == 1 ? "is" : "are");
        else if (s)
            pa_error(err, s, "%s", why.text);
    }
    for (size_t i = placed; i < count; i++) unlink(f[i].temporary);
    for (size_t i = 0; i < placed; i++) {
        if (i && in_same_folder(f[i].target, f[i - 1].target)) continue;
        pa_status synced = sync_folder_of(f[i].target, s ? NULL : err);
        if (!s) s = synced;
    }
    for (size_t i = 0; i < count; i++) clear_finished(&f[i]);
    free(f);
    *group = (pa_file_group){0};
    return s;
}

pa_status pa_file_commit(pa_file *file, pa_err *err) {
    bool failed = ferror(file->stream) != 0;
    errno = 0;
    failed = fflush(file->stream) || failed || fsync(fileno(file->stream));
    int why = errno;
    if (fclose(file->stream) && !failed) {
        failed = true;
        why = errno;
    }
    file->stream = NULL;
    if (failed) {
        unlink(file->temporary);
        return pa_error(err, PA_FAIL, "cannot write %s: %s", file->path,
                        why ? strerror(why) : "an earlier write failed (a full disk?)");
    }
    pthread_once(&together_once, make_together);
    pa_file_group *group = together_error ? NULL : pthread_getspecific(together);
    if (group) return wait_for_others(group, file, err);
    pa_status s = place(file->path, file->temporary, file->target, err);
    return s ? s : sync_folder_of(file->target, err);
}

void pa_file_abandon(pa_file *file) {
    if (!file->stream) return;
    fclose(file->stream);
    file->stream = NULL;
    unlink(file->temporary);
}

// Without waiting for the other end of a named pipe. -1 and an error for what is no file, nor a pipe where they are
// allowed.
static int open_at_once(const char *path, int flags, bool pipes, struct stat *info, pa_err *err) {
    int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0666), why = errno;
    bool known = fd >= 0 ? !fstat(fd, info) : !stat(path, info); // a socket can't be opened
    if (known && !S_ISREG(info->st_mode) && !(pipes && S_ISFIFO(info->st_mode)))
        pa_error(err, PA_FAIL, "%s: expected a file, found %s", path, kind_of(info->st_mode));
    else if (fd >= 0 && known)
        return fd;
    else
        pa_error(err, PA_FAIL, "cannot open %s: %s", path, strerror(why));
    if (fd >= 0) close(fd);
    return -1;
}

int pa_open_regular(const char *path, int flags, pa_err *err) {
    struct stat info;
    return open_at_once(path, flags, false, &info, err);
}

pa_status pa_make_dirs(const char *path, pa_err *err) {
    char part[4096], parent[4096];
    struct stat info;
    if (!*path)
        return pa_error(err, PA_USAGE,
                        "expected the name of a folder, found an empty one"); // names in it would begin with "/"
    if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part)
        return pa_error(err, PA_FAIL, "%.200s...: expected a path of at most %zu bytes, found %zu", path,
                        sizeof part - 1, strlen(path));
    for (char *p = part; *p;) {
        p += strspn(p, "/");
        p += strcspn(p, "/");
        char kept = *p;
        *p = 0;
        if (mkdir(part, 0777)) {
            int why = errno;
            if (stat(part, &info)) return pa_error(err, PA_FAIL, "cannot create folder %s: %s", part, strerror(why));
            if (!S_ISDIR(info.st_mode))
                return pa_error(err, PA_FAIL, "%s: expected a folder, found %s", part, kind_of(info.st_mode));
        } else {
            folder_of(part, parent, sizeof parent);
            pa_status s = access(parent, R_OK) ? PA_OK : pa_sync_dir(parent, err);
            if (s) return s;
        }
        *p = kept;
    }
    return PA_OK;
}

pa_status pa_sync_dir(const char *path, pa_err *err) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return pa_error(err, PA_FAIL, "cannot open folder %s: %s", path, strerror(errno));
    int failed = fsync(fd) && errno != EINVAL && errno != ENOTSUP; // some file systems can't sync a folder
    int why = errno;
    close(fd);
    return failed ? pa_error(err, PA_FAIL, "cannot sync folder %s: %s", path, strerror(why)) : PA_OK;
}

const struct dirent *pa_next_entry(DIR *folder, const char *path, pa_status *s, pa_err *err) {
    const struct dirent *e;
    do {
        errno = 0;
        e = readdir(folder);
    } while (e && (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")));
    int why = errno;
    if (e || !why) return e;
    *s = pa_error(err, PA_FAIL, "cannot read folder %s: %s", path, strerror(why));
    errno = why;
    return NULL;
}

// Removes `name` in the open folder `at`. Opening refuses symbolic links, so none is followed even if the tree changes
// meanwhile.
static int remove_at(int at, const char *name) {
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return errno == ENOTDIR || errno == ELOOP ? unlinkat(at, name, 0) : -1;
    DIR *folder = fdopendir(fd);
    if (!folder) {
        close(fd);
        return -1;
    }
    pa_status listed = PA_OK;
    int failed = 0;
    for (const struct dirent *e; !failed && (e = pa_next_entry(folder, name, &listed, NULL));)
        failed = remove_at(fd, e->d_name);
    int why = errno;
    closedir(folder);
    if (!failed && !listed) return unlinkat(at, name, AT_REMOVEDIR);
    errno = why;
    return -1;
}

pa_status pa_remove_tree(const char *path, pa_err *err) {
    char name[4096];
    if (snprintf(name, sizeof name, "%s", path) >= (int)sizeof name)
        return pa_error(err, PA_FAIL, "%.200s...: expected a path of at most %zu bytes, found %zu", path,
                        sizeof name - 1, strlen(path));
    size_t n = strlen(name);
    while (n && name[n - 1] == '/') name[--n] = 0; // "link/" would name the folder behind the link
    const char *last = strrchr(name, '/');
    last = last ? last + 1 : name;
    if (!*last || !strcmp(last, ".") || !strcmp(last, ".."))
        return pa_error(err, PA_FAIL, "%s: expected the name of a folder to remove, found none", path);
    if (!remove_at(AT_FDCWD, name) || errno == ENOENT) return PA_OK;
    return pa_error(err, PA_FAIL, "cannot remove %s: %s", path, strerror(errno));
}

bool pa_same_file(const char *a, const char *b) {
    struct stat x, y;
    return !stat(a, &x) && !stat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

pa_status pa_read_text(const char *path, char **text, size_t *length, pa_err *err) {
    pa_status status = PA_OK;
    char *buffer = NULL;
    size_t used = 0, room = 0;
    struct stat info;
    int fd = open_at_once(path, O_RDONLY, true, &info, err);
    if (fd < 0) return PA_FAIL;
    for (ssize_t got = 1; got;) {
        if (used + 1 >= room) { // the size of a pipe or of a file in /proc isn't known in advance
            room =
                room ? 2 * room : (size_t)(info.st_size > 4094 && info.st_size < MOST_TEXT ? info.st_size : 4094) + 2;
            char *larger = room <= 2 * (size_t)MOST_TEXT ? realloc(buffer, room) : NULL;
            if (!larger) {
                status = pa_error(err, PA_FAIL,
                                  "%s: expected at most %d bytes of text and memory for them, found more than %zu",
                                  path, MOST_TEXT, used);
                goto done;
            }
            buffer = larger;
        }
        got = read(fd, buffer + used, room - used - 1);
        if (got < 0 && errno == EAGAIN && !fcntl(fd, F_SETFL, 0)) continue; // a pipe with a writer: waits for it
        if (got < 0 && errno != EINTR) {
            status = pa_error(err, PA_FAIL, "cannot read %s after %zu bytes: %s", path, used, strerror(errno));
            goto done;
        }
        if (got > 0) used += (size_t)got;
    }
    if (!used && S_ISFIFO(info.st_mode)) {
        status = pa_error(err, PA_FAIL, "%s: expected a file, found a named pipe that nobody writes to", path);
        goto done;
    }
    buffer[used] = 0;
    *text = buffer;
    if (length) *length = used;
    buffer = NULL;
done:
    free(buffer);
    close(fd);
    return status;
}
