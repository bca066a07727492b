/* Threads for Windows; threads_posix.c says more. */
#if defined(_WIN32) && !defined(EK_NO_THREADS)
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>

#include "internal.h"

typedef HANDLE thread;

typedef struct {
    SRWLOCK mutex;
    CONDITION_VARIABLE condition;
} signal_for_all;

static int signal_open(signal_for_all *s) {
    InitializeSRWLock(&s->mutex);
    InitializeConditionVariable(&s->condition);
    return 0;
}

static void signal_close(signal_for_all *s) { (void)s; }
static void lock(signal_for_all *s) { AcquireSRWLockExclusive(&s->mutex); }
static void unlock(signal_for_all *s) { ReleaseSRWLockExclusive(&s->mutex); }
static void sleep_unlocked(signal_for_all *s) { SleepConditionVariableSRW(&s->condition, &s->mutex, INFINITE, 0); }
static void wake_sleepers(signal_for_all *s) { WakeAllConditionVariable(&s->condition); }

static int64_t nanoseconds(void) {
    LARGE_INTEGER count, second; /* the product of a day's counts and 1e9 would overflow */
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&second);
    return count.QuadPart / second.QuadPart * 1000000000 +
           count.QuadPart % second.QuadPart * 1000000000 / second.QuadPart;
}

static void worker_main(void *worker);

static DWORD WINAPI entry(void *worker) {
    worker_main(worker);
    return 0;
}

static int start(thread *id, void *worker) {
    *id = CreateThread(NULL, 0, entry, worker, 0, NULL);
    return *id == NULL;
}

static void join(thread id) {
    WaitForSingleObject(id, INFINITE);
    CloseHandle(id);
}

#include "threads.inc"
#else
typedef int ek_no_windows_threads; /* a file must not be empty */
#endif
