/* Preloaded into a rank: counts the system calls that a save makes below a folder, and lets the n-th of them fail, or kills, stops, delays or
 * hangs the process there. By signals it lets the thread that gets one sleep for ever (SIGRTMIN + 10), or the next call of MPI fail (SIGRTMIN + 11).
 *
 *   PIMOE_FAULT_FOLDER=/run/checkpoints   what counts: calls on paths below it, and on files opened there for writing
 *   PIMOE_FAULT_RANK=1                    of which rank (OMPI_COMM_WORLD_RANK); unset: of every rank
 *   PIMOE_FAULT_READS=1                   counted are calls that read below it (open, read, pread), and no others
 *   PIMOE_FAULT_AT=17                     the first call that is hit, counted from 1; unset or 0: none, calls are only counted
 *   PIMOE_FAULT_TIMES=1                   so many calls in a row are hit; 0: all from there on
 *   PIMOE_FAULT_KIND=KILL|ENOSPC|EIO|EDQUOT|EROFS|SHORT|STOP|SLEEP|SLOW|MPI   SHORT: a write takes half of what it was given; other calls pass.
 *       STOP: SIGSTOP; SLEEP: for ever; SLOW: five seconds, then it passes; MPI: it passes, and the next call of MPI by any thread fails
 *       FLIP|CUT|GONE: before the call, the file has a byte changed in its middle, is cut there, or is removed; AWAY: before the call, the folder is
 *       renamed to that name and ".away"
 *   PIMOE_FAULT_STAMP=/tmp/stamp          made when the first call is hit
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
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum { kMostFiles = 4096 };
static atomic_int calls;
static atomic_char watched[kMostFiles];
static const char *folder;
static long first, times;
static int failure; /* errno; 0: kill; below 0: the kinds that are no errors */
enum { kShort = -1, kStop = -2, kSleep = -3, kSlow = -4, kMpi = -5, kFlip = -6, kCut = -7, kGone = -8, kAway = -9 };
static atomic_int mpi_fails;
static int active;
static int counts_reads;

static void sleep_for_ever(int number) {
  (void)number;
  for (;;) pause();
}
static void let_mpi_fail(int number) {
  (void)number;
  atomic_store(&mpi_fails, 1);
}

__attribute__((constructor)) static void begin(void) {
  signal(SIGRTMIN + 10, sleep_for_ever);
  signal(SIGRTMIN + 11, let_mpi_fail);
  const char *wanted = getenv("PIMOE_FAULT_RANK"), *rank = getenv("OMPI_COMM_WORLD_RANK"), *kind = getenv("PIMOE_FAULT_KIND");
  folder = getenv("PIMOE_FAULT_FOLDER");
  active = folder != NULL && (wanted == NULL || (rank != NULL && strcmp(rank, wanted) == 0));
  counts_reads = getenv("PIMOE_FAULT_READS") != NULL;
  first = getenv("PIMOE_FAULT_AT") ? atol(getenv("PIMOE_FAULT_AT")) : 0;
  times = getenv("PIMOE_FAULT_TIMES") ? atol(getenv("PIMOE_FAULT_TIMES")) : 1;
  if (kind == NULL || strcmp(kind, "KILL") == 0) failure = 0;
  else if (strcmp(kind, "ENOSPC") == 0) failure = ENOSPC;
  else if (strcmp(kind, "EIO") == 0) failure = EIO;
  else if (strcmp(kind, "EDQUOT") == 0) failure = EDQUOT;
  else if (strcmp(kind, "EROFS") == 0) failure = EROFS;
  else if (strcmp(kind, "ESTALE") == 0) failure = ESTALE;
  else if (strcmp(kind, "EACCES") == 0) failure = EACCES;
  else if (strcmp(kind, "STOP") == 0) failure = kStop;
  else if (strcmp(kind, "SLEEP") == 0) failure = kSleep;
  else if (strcmp(kind, "SLOW") == 0) failure = kSlow;
  else if (strcmp(kind, "MPI") == 0) failure = kMpi;
  else if (strcmp(kind, "FLIP") == 0) failure = kFlip;
  else if (strcmp(kind, "CUT") == 0) failure = kCut;
  else if (strcmp(kind, "GONE") == 0) failure = kGone;
  else if (strcmp(kind, "AWAY") == 0) failure = kAway;
  else if (strcmp(kind, "SHORT") == 0) failure = kShort;
  else abort();
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

/* By system calls alone, which nothing counts. */
static void damage(const char *path) {
  struct stat status;
  const int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR, 0);
  if (fd < 0 || fstat(fd, &status) != 0) return;
  const off_t middle = status.st_size / 2;
  char byte = 0;
  if (failure == kCut) syscall(SYS_ftruncate, fd, middle);
  if (failure == kFlip && syscall(SYS_pread64, fd, &byte, 1, middle) == 1) {
    byte ^= 0x10;
    syscall(SYS_pwrite64, fd, &byte, 1, middle);
  }
  if (failure == kGone) syscall(SYS_unlinkat, AT_FDCWD, path, 0);
  syscall(SYS_close, fd);
}
static void move_away(void) {
  char away[PATH_MAX];
  snprintf(away, sizeof(away), "%s.away", folder);
  syscall(SYS_renameat2, AT_FDCWD, folder, AT_FDCWD, away, 0);
}

/* 1: the call is to fail, errno is set. `path`: the file that it is about */
static int hit(int is_write, const char *path) {
  const long number = atomic_fetch_add(&calls, 1) + 1;
  if (first == 0 || number < first || (times != 0 && number >= first + times)) return 0;
  const char *stamp = getenv("PIMOE_FAULT_STAMP");
  if (stamp != NULL && number == first) syscall(SYS_mkdirat, AT_FDCWD, stamp, 0777);
  if (failure == 0) {
    kill(getpid(), SIGKILL);
    pause();
  }
  if (failure == kShort) return is_write ? -1 : 0;
  if (failure == kStop) raise(SIGSTOP);
  if (failure == kSleep) sleep_for_ever(0);
  if (failure == kSlow) sleep(5);
  if (failure == kMpi) let_mpi_fail(0);
  if (failure == kAway) move_away();
  else if (failure <= kFlip) damage(path);
  if (failure < 0) return 0;
  errno = failure;
  return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
/* Calls that save below the folder, unless those that read are counted. */
#define SAVES(path) (!counts_reads && below(path) && hit(0, path) == 1)
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
  const int reads = (flags & (O_ACCMODE | O_DIRECTORY)) == O_RDONLY; \
  const int writes = (flags & O_ACCMODE) != O_RDONLY;          \
  const int counts = below(path);                              \
  if (counts && (counts_reads ? reads : writes) && hit(0, path) == 1) return -1; \
  return opened(call, counts && (counts_reads ? reads : !reads));

int open(const char *path, int flags, ...) { OPEN_BODY(REAL(open)(path, flags, mode)) }
int open64(const char *path, int flags, ...) { OPEN_BODY(REAL(open64)(path, flags, mode)) }

static int reading_fails(int fd) {
  char link[64], path[PATH_MAX];
  if (!counts_reads || !WATCHED(fd)) return 0;
  snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, sizeof(path) - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return hit(0, path) == 1;
}
ssize_t read(int fd, void *bytes, size_t count) { return reading_fails(fd) ? -1 : REAL(read)(fd, bytes, count); }
ssize_t pread(int fd, void *bytes, size_t count, off_t from) { return reading_fails(fd) ? -1 : REAL(pread)(fd, bytes, count, from); }
ssize_t pread64(int fd, void *bytes, size_t count, off64_t from) { return reading_fails(fd) ? -1 : REAL(pread64)(fd, bytes, count, from); }

ssize_t write(int fd, const void *bytes, size_t count) {
  if (!counts_reads && WATCHED(fd)) {
    const int what = hit(1, NULL);
    if (what == 1) return -1;
    if (what == -1 && count > 1) count /= 2;
  }
  return REAL(write)(fd, bytes, count);
}

int fsync(int fd) { return !counts_reads && WATCHED(fd) && hit(0, NULL) == 1 ? -1 : REAL(fsync)(fd); }
int close(int fd) {
  const int counts = !counts_reads && WATCHED(fd);
  if (fd >= 0 && fd < kMostFiles) atomic_store(&watched[fd], 0);
  if (counts && hit(0, NULL) == 1) {
    const int code = errno;
    REAL(close)(fd);
    errno = code;
    return -1;
  }
  return REAL(close)(fd);
}
int rename(const char *from, const char *to) { return SAVES(to) ? -1 : REAL(rename)(from, to); }
int mkdir(const char *path, mode_t mode) { return SAVES(path) ? -1 : REAL(mkdir)(path, mode); }
int unlink(const char *path) { return SAVES(path) ? -1 : REAL(unlink)(path); }
int remove(const char *path) { return SAVES(path) ? -1 : REAL(remove)(path); }
int rmdir(const char *path) { return SAVES(path) ? -1 : REAL(rmdir)(path); }

/* MPI without its header: Open MPI's handles are pointers. 16 is MPI_ERR_OTHER. */
static int fails(void) { return atomic_exchange(&mpi_fails, 0) ? 16 : 0; }
#define MPI_CALL(name, parameters, arguments)                                                \
  int name parameters {                                                                      \
    const int code = fails();                                                                \
    return code != 0 ? code : ((int(*) parameters)dlsym(RTLD_NEXT, #name))arguments;         \
  }
MPI_CALL(MPI_Isend, (const void *b, int n, void *t, int to, int tag, void *c, void *r), (b, n, t, to, tag, c, r))
MPI_CALL(MPI_Irecv, (void *b, int n, void *t, int from, int tag, void *c, void *r), (b, n, t, from, tag, c, r))
MPI_CALL(MPI_Bcast, (void *b, int n, void *t, int root, void *c), (b, n, t, root, c))
MPI_CALL(MPI_Barrier, (void *c), (c))
MPI_CALL(MPI_Ibarrier, (void *c, void *r), (c, r))
MPI_CALL(MPI_Allgather, (const void *b, int n, void *t, void *rb, int rn, void *rt, void *c), (b, n, t, rb, rn, rt, c))
