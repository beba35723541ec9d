/* Records what a process writes to the files of a directory, when it syncs them, and what it sends to its sockets; and
 * makes chosen calls fail. Loaded with LD_PRELOAD; `tests/support/disk` reads the trace and describes its format.
 *
 * TIDINGS_DISK_DIR      files below it are recorded
 * TIDINGS_DISK_TRACE    the trace; appended to
 * TIDINGS_DISK_CONTROL  the rules for faults, shared memory: struct rule[RULES]
 * TIDINGS_DISK_FORGETS  if set: what a failed sync should have written is gone from the page cache, too, at once. (The
 *                       kernel counts it as clean, and may drop it as soon as it wants the memory.)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, CREATE, WRITE, TRUNCATE, SYNC, UNLINK, RENAME, LINK, SYNC_DIRECTORY, SENT, CLOSED };
enum { ON_SYNC = 1, ON_WRITE = 2 };
enum { RULES = 4, FDS = 65536, DIE = -1 };

struct record {
    int32_t op, error;
    int64_t file, offset, length; /* `length` bytes follow */
} __attribute__((packed));

struct rule {
    int32_t on;        /* ON_SYNC, ON_WRITE; 0: no rule */
    char suffix[20];   /* of the file's name; empty: any */
    int32_t skip;      /* let so many pass */
    int32_t count;     /* then fail so many */
    int32_t every;     /* then let so many pass again, and fail one, and so on; 0: not */
    int32_t error;     /* an errno; DIE: the process is killed instead, before the call */
    int32_t after;     /* if set: it holds once the rule before it has failed what it was to fail */
    int32_t failed;    /* how many calls this rule has failed */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int trace = -1;
static char directory[PATH_MAX];
static size_t directory_length;
static struct rule *rules;
static int forgets;
static int64_t inode_of[FDS]; /* of recorded files; 0: not recorded */
static char suffix_of[FDS][20];
static char is_directory[FDS];

static void put(const void *data, size_t length) {
    const char *at = data;
    while (length > 0) {
        ssize_t done = syscall(SYS_write, trace, at, length);
        if (done <= 0) abort();
        at += done;
        length -= done;
    }
}

static void note(int op, int error, int64_t file, int64_t offset, const void *data, int64_t length) {
    struct record record = {op, error, file, offset, length};
    put(&record, sizeof record);
    if (length > 0) put(data, length);
}

static void note_two(int op, const char *first, const char *second) {
    char both[2 * PATH_MAX];
    size_t length = strlen(first) + 1;
    memcpy(both, first, length);
    memcpy(both + length, second, strlen(second));
    note(op, 0, 0, 0, both, length + strlen(second));
}

__attribute__((constructor)) static void start(void) {
    const char *where = getenv("TIDINGS_DISK_DIR"), *path = getenv("TIDINGS_DISK_TRACE");
    const char *control = getenv("TIDINGS_DISK_CONTROL");
    if (!where || !path || !control || !realpath(where, directory)) return;
    directory_length = strlen(directory);
    forgets = getenv("TIDINGS_DISK_FORGETS") != 0;
    int fd = syscall(SYS_openat, AT_FDCWD, control, O_RDWR | O_CLOEXEC);
    rules = mmap(0, RULES * sizeof *rules, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd < 0 || rules == MAP_FAILED) abort();
    syscall(SYS_close, fd);
    fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    trace = fcntl(fd, F_DUPFD_CLOEXEC, 1000);
    if (trace < 0) trace = fd;
    if (trace < 0) abort();
}

/* The path as it is in the directory that is recorded, else 0. */
static const char *recorded(int at, const char *path, char *whole) {
    char parent[PATH_MAX];
    if (trace < 0 || !path) return 0;
    if (path[0] != '/') {
        if (at != AT_FDCWD || !getcwd(parent, sizeof parent)) return 0;
        if (snprintf(whole, PATH_MAX, "%s/%s", parent, path) >= PATH_MAX) return 0;
    } else {
        snprintf(whole, PATH_MAX, "%s", path);
    }
    if (strncmp(whole, directory, directory_length)) return 0;
    if (whole[directory_length] && whole[directory_length] != '/') return 0;
    size_t length = strlen(whole);
    if (length > 4 && !strcmp(whole + length - 4, "-shm")) return 0; /* made anew after a crash */
    return whole;
}

static int64_t inode(int fd) { return fd >= 0 && fd < FDS ? inode_of[fd] : 0; }

/* The error with which a call on a recorded file is to fail, else 0. */
static int fault(int on, int fd) {
    for (int n = 0; n < RULES; n++) {
        struct rule *rule = &rules[n];
        if (rule->on != on || (rule->suffix[0] && strcmp(rule->suffix, suffix_of[fd]))) continue;
        if (rule->after && n > 0 && rules[n - 1].count > 0) continue;
        if (rule->skip > 0) {
            rule->skip--;
        } else if (rule->count > 0) {
            if (!--rule->count && rule->every > 0) {
                rule->skip = rule->every - 1;
                rule->count = 1;
            }
            rule->failed++;
            /* Whoever writes holds the lock: so the trace ends where the process did. */
            if (rule->error == DIE) syscall(SYS_kill, getpid(), SIGKILL);
            return rule->error;
        }
    }
    return 0;
}

/* What a file held before it was written to, since it was last synced; the newest first. */
struct before {
    struct before *next;
    int64_t file, offset, length;
    char data[];
};
static struct before *unsynced;

static void remember(int fd, int64_t offset, int64_t length) {
    if (!forgets) return;
    struct before *before = calloc(1, sizeof *before + length); /* beyond the file's end there are zeros */
    if (!before) abort();
    *before = (struct before){unsynced, inode(fd), offset, length};
    if (syscall(SYS_pread64, fd, before->data, length, offset) < 0) {
        free(before); /* opened for writing only: nobody reads it here */
        return;
    }
    unsynced = before;
}

static void forget(int fd, int restore) {
    for (struct before **at = &unsynced; *at;) {
        struct before *before = *at;
        if (before->file != inode(fd)) {
            at = &before->next;
            continue;
        }
        if (restore && syscall(SYS_pwrite64, fd, before->data, before->length, before->offset) < 0) abort();
        *at = before->next;
        free(before);
    }
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static void opened(int fd, int at, const char *path, int existed) {
    char whole[PATH_MAX];
    struct stat found;
    if (fd < 0 || fd >= FDS || !recorded(at, path, whole) || fstat(fd, &found)) return;
    if (!S_ISREG(found.st_mode) && !S_ISDIR(found.st_mode)) return;
    const char *suffix = strrchr(whole, '.');
    pthread_mutex_lock(&lock);
    inode_of[fd] = found.st_ino;
    is_directory[fd] = S_ISDIR(found.st_mode);
    snprintf(suffix_of[fd], sizeof suffix_of[fd], "%s", suffix ? suffix : "");
    if (!is_directory[fd]) note(existed ? OPEN : CREATE, 0, found.st_ino, 0, whole, strlen(whole));
    pthread_mutex_unlock(&lock);
}

#define OPENS(name, at, parameters, arguments)                                                   \
    int name parameters {                                                                        \
        REAL(name);                                                                              \
        mode_t mode = 0;                                                                         \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                     \
            va_list rest;                                                                        \
            va_start(rest, flags);                                                               \
            mode = va_arg(rest, mode_t);                                                         \
            va_end(rest);                                                                        \
        }                                                                                        \
        char whole[PATH_MAX];                                                                    \
        int existed = !recorded(at, path, whole) || !faccessat(AT_FDCWD, whole, F_OK, 0);        \
        int fd = real arguments;                                                                 \
        int kept = errno;                                                                        \
        opened(fd, at, path, existed);                                                           \
        errno = kept;                                                                            \
        return fd;                                                                               \
    }
OPENS(open, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPENS(open64, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPENS(openat, at, (int at, const char *path, int flags, ...), (at, path, flags, mode))
OPENS(openat64, at, (int at, const char *path, int flags, ...), (at, path, flags, mode))

int close(int fd) {
    REAL(close);
    if (fd == trace && trace >= 0) return 0;
    if (trace >= 0 && fd >= 0 && fd < FDS) {
        pthread_mutex_lock(&lock);
        if (!inode_of[fd]) note(CLOSED, 0, fd, 0, 0, 0);
        inode_of[fd] = 0;
        int result = real(fd);
        pthread_mutex_unlock(&lock);
        return result;
    }
    return real(fd);
}

#define FAILS(on)                                  \
    int error = fault(on, fd);                     \
    if (error) {                                   \
        pthread_mutex_unlock(&lock);               \
        errno = error;                             \
        return -1;                                 \
    }

#define PWRITES(name, type)                                                          \
    ssize_t name(int fd, const void *data, size_t length, type offset) {             \
        REAL(name);                                                                  \
        if (!inode(fd)) return real(fd, data, length, offset);                       \
        pthread_mutex_lock(&lock);                                                   \
        FAILS(ON_WRITE)                                                              \
        remember(fd, offset, length);                                                \
        ssize_t done = real(fd, data, length, offset);                               \
        if (done > 0) note(WRITE, 0, inode(fd), offset, data, done);                 \
        pthread_mutex_unlock(&lock);                                                 \
        return done;                                                                 \
    }
PWRITES(pwrite, off_t)
PWRITES(pwrite64, off64_t)

static int is_socket(int fd) {
    struct stat found;
    return trace >= 0 && !fstat(fd, &found) && S_ISSOCK(found.st_mode);
}

ssize_t write(int fd, const void *data, size_t length) {
    REAL(write);
    if (inode(fd)) {
        pthread_mutex_lock(&lock);
        FAILS(ON_WRITE)
        off_t before = fcntl(fd, F_GETFL) & O_APPEND ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
        remember(fd, before, length);
        ssize_t done = real(fd, data, length);
        if (done > 0) note(WRITE, 0, inode(fd), before, data, done);
        pthread_mutex_unlock(&lock);
        return done;
    }
    if (!is_socket(fd)) return real(fd, data, length);
    pthread_mutex_lock(&lock);
    ssize_t done = real(fd, data, length);
    if (done > 0) note(SENT, 0, fd, 0, data, done);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t send(int fd, const void *data, size_t length, int flags) {
    REAL(send);
    if (trace < 0) return real(fd, data, length, flags);
    pthread_mutex_lock(&lock);
    ssize_t done = real(fd, data, length, flags);
    if (done > 0) note(SENT, 0, fd, 0, data, done);
    pthread_mutex_unlock(&lock);
    return done;
}

static void note_parts(int fd, const struct iovec *parts, int count, ssize_t done) {
    for (int n = 0; n < count && done > 0; n++) {
        ssize_t length = (ssize_t)parts[n].iov_len < done ? (ssize_t)parts[n].iov_len : done;
        note(SENT, 0, fd, 0, parts[n].iov_base, length);
        done -= length;
    }
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    if (!is_socket(fd)) return real(fd, parts, count);
    pthread_mutex_lock(&lock);
    ssize_t done = real(fd, parts, count);
    note_parts(fd, parts, count, done);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    REAL(sendmsg);
    if (trace < 0) return real(fd, message, flags);
    pthread_mutex_lock(&lock);
    ssize_t done = real(fd, message, flags);
    note_parts(fd, message->msg_iov, message->msg_iovlen, done);
    pthread_mutex_unlock(&lock);
    return done;
}

/* Nothing is really synced: what would be on the disk is reckoned from the trace, and a run is quicker. */
static int synced(int fd) {
    pthread_mutex_lock(&lock);
    if (is_directory[fd]) {
        note(SYNC_DIRECTORY, 0, inode(fd), 0, 0, 0);
        pthread_mutex_unlock(&lock);
        return 0;
    }
    int error = fault(ON_SYNC, fd);
    note(SYNC, error, inode(fd), forgets, 0, 0);
    forget(fd, error != 0);
    pthread_mutex_unlock(&lock);
    errno = error ? error : errno;
    return error ? -1 : 0;
}

int fdatasync(int fd) {
    REAL(fdatasync);
    return inode(fd) ? synced(fd) : real(fd);
}

int fsync(int fd) {
    REAL(fsync);
    return inode(fd) ? synced(fd) : real(fd);
}

#define TRUNCATES(name, type)                                       \
    int name(int fd, type length) {                                 \
        REAL(name);                                                 \
        if (!inode(fd)) return real(fd, length);                    \
        pthread_mutex_lock(&lock);                                  \
        FAILS(ON_WRITE)                                             \
        int result = real(fd, length);                              \
        if (!result) note(TRUNCATE, 0, inode(fd), length, 0, 0);    \
        pthread_mutex_unlock(&lock);                                \
        return result;                                              \
    }
TRUNCATES(ftruncate, off_t)
TRUNCATES(ftruncate64, off64_t)

#define ALLOCATES(name, type)                                                                  \
    int name(int fd, type offset, type length) {                                               \
        REAL(name);                                                                            \
        if (!inode(fd)) return real(fd, offset, length);                                       \
        pthread_mutex_lock(&lock);                                                             \
        struct stat before;                                                                    \
        int error = fault(ON_WRITE, fd);                                                       \
        if (!error && !fstat(fd, &before)) {                                                   \
            error = real(fd, offset, length);                                                  \
            if (!error && offset + length > before.st_size)                                    \
                note(TRUNCATE, 0, inode(fd), offset + length, 0, 0);                           \
        }                                                                                      \
        pthread_mutex_unlock(&lock);                                                           \
        return error;                                                                          \
    }
ALLOCATES(posix_fallocate, off_t)
ALLOCATES(posix_fallocate64, off64_t)

int unlink(const char *path) {
    REAL(unlink);
    char whole[PATH_MAX];
    if (!recorded(AT_FDCWD, path, whole)) return real(path);
    pthread_mutex_lock(&lock);
    int result = real(path);
    if (!result) note(UNLINK, 0, 0, 0, whole, strlen(whole));
    pthread_mutex_unlock(&lock);
    return result;
}

#define MOVES(name, op)                                                                               \
    int name(const char *from, const char *to) {                                                      \
        REAL(name);                                                                                   \
        char first[PATH_MAX], second[PATH_MAX];                                                       \
        if (!recorded(AT_FDCWD, from, first) || !recorded(AT_FDCWD, to, second)) return real(from, to); \
        pthread_mutex_lock(&lock);                                                                    \
        int result = real(from, to);                                                                  \
        if (!result) note_two(op, first, second);                                                     \
        pthread_mutex_unlock(&lock);                                                                  \
        return result;                                                                                \
    }
MOVES(rename, RENAME)
MOVES(link, LINK)

int linkat(int at, const char *from, int to_at, const char *to, int flags) {
    REAL(linkat);
    char first[PATH_MAX], second[PATH_MAX];
    if (!recorded(at, from, first) || !recorded(to_at, to, second)) return real(at, from, to_at, to, flags);
    pthread_mutex_lock(&lock);
    int result = real(at, from, to_at, to, flags);
    if (!result) note_two(LINK, first, second);
    pthread_mutex_unlock(&lock);
    return result;
}
