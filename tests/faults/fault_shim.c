/* Preloaded into a rank: counts the system calls that a save makes below a folder, and lets the n-th of them fail, or kills the process there.
 *
 *   PIMOE_FAULT_FOLDER=/run/checkpoints   what counts: calls on paths below it, and on files opened there for writing
 *   PIMOE_FAULT_RANK=1                    of which rank (OMPI_COMM_WORLD_RANK); unset: of every rank
 *   PIMOE_FAULT_AT=17                     the first call that is hit, counted from 1; unset or 0: none, calls are only counted
 *   PIMOE_FAULT_TIMES=1                   so many calls in a row are hit; 0: all from there on
 *   PIMOE_FAULT_KIND=KILL|ENOSPC|EIO|EDQUOT|EROFS|SHORT   SHORT: a write takes half of what it was given; other calls pass
 *   PIMOE_FAULT_COUNT=/tmp/count          the number of calls is appended there when the process ends in good order
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { kMostFiles = 4096 };
static atomic_int calls;
static atomic_char watched[kMostFiles];
static const char *folder;
static long first, times;
static int failure; /* errno; 0: kill; -1: short */
static int active;

__attribute__((constructor)) static void begin(void) {
  const char *wanted = getenv("PIMOE_FAULT_RANK"), *rank = getenv("OMPI_COMM_WORLD_RANK"), *kind = getenv("PIMOE_FAULT_KIND");
  folder = getenv("PIMOE_FAULT_FOLDER");
  active = folder != NULL && (wanted == NULL || (rank != NULL && strcmp(rank, wanted) == 0));
  first = getenv("PIMOE_FAULT_AT") ? atol(getenv("PIMOE_FAULT_AT")) : 0;
  times = getenv("PIMOE_FAULT_TIMES") ? atol(getenv("PIMOE_FAULT_TIMES")) : 1;
  if (kind == NULL || strcmp(kind, "KILL") == 0) failure = 0;
  else if (strcmp(kind, "ENOSPC") == 0) failure = ENOSPC;
  else if (strcmp(kind, "EIO") == 0) failure = EIO;
  else if (strcmp(kind, "EDQUOT") == 0) failure = EDQUOT;
  else if (strcmp(kind, "EROFS") == 0) failure = EROFS;
  else failure = -1;
}

__attribute__((destructor)) static void end(void) {
  const char *file = getenv("PIMOE_FAULT_COUNT");
  if (!active || file == NULL) return;
  active = 0;
  FILE *out = fopen(file, "a");
  if (out == NULL) return;
  fprintf(out, "%d\n", atomic_load(&calls));
  fclose(out);
}

static int below(const char *path) { return active && path != NULL && strstr(path, folder) != NULL; }

/* 1: the call is to fail, errno is set */
static int hit(int is_write) {
  const long number = atomic_fetch_add(&calls, 1) + 1;
  if (first == 0 || number < first || (times != 0 && number >= first + times)) return 0;
  if (failure == 0) {
    kill(getpid(), SIGKILL);
    pause();
  }
  if (failure == -1) return is_write ? -1 : 0;
  errno = failure;
  return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define WATCHED(fd) (active && (fd) >= 0 && (fd) < kMostFiles && atomic_load(&watched[fd]))

static int opened(int fd, int counts) {
  if (fd >= 0 && fd < kMostFiles) atomic_store(&watched[fd], (char)counts);
  return fd;
}

#define OPEN_BODY(call)                                        \
  mode_t mode = 0;                                             \
  if (flags & (O_CREAT | O_TMPFILE)) {                         \
    va_list list;                                              \
    va_start(list, flags);                                     \
    mode = (mode_t)va_arg(list, int);                          \
    va_end(list);                                              \
  }                                                            \
  const int writes = (flags & O_ACCMODE) != O_RDONLY;          \
  const int counts = below(path);                              \
  if (counts && writes && hit(0) == 1) return -1;              \
  return opened(call, counts && (writes || (flags & O_DIRECTORY)));

int open(const char *path, int flags, ...) { OPEN_BODY(REAL(open)(path, flags, mode)) }
int open64(const char *path, int flags, ...) { OPEN_BODY(REAL(open64)(path, flags, mode)) }

ssize_t write(int fd, const void *bytes, size_t count) {
  if (WATCHED(fd)) {
    const int what = hit(1);
    if (what == 1) return -1;
    if (what == -1 && count > 1) count /= 2;
  }
  return REAL(write)(fd, bytes, count);
}

int fsync(int fd) { return WATCHED(fd) && hit(0) == 1 ? -1 : REAL(fsync)(fd); }
int close(int fd) {
  const int counts = WATCHED(fd);
  if (fd >= 0 && fd < kMostFiles) atomic_store(&watched[fd], 0);
  if (counts && hit(0) == 1) {
    const int code = errno;
    REAL(close)(fd);
    errno = code;
    return -1;
  }
  return REAL(close)(fd);
}
int rename(const char *from, const char *to) { return below(to) && hit(0) == 1 ? -1 : REAL(rename)(from, to); }
int mkdir(const char *path, mode_t mode) { return below(path) && hit(0) == 1 ? -1 : REAL(mkdir)(path, mode); }
int unlink(const char *path) { return below(path) && hit(0) == 1 ? -1 : REAL(unlink)(path); }
int remove(const char *path) { return below(path) && hit(0) == 1 ? -1 : REAL(remove)(path); }
int rmdir(const char *path) { return below(path) && hit(0) == 1 ? -1 : REAL(rmdir)(path); }
