/* The part of bionic's headers that edgekit uses: see README.md next to this file. */
#ifndef BIONIC_PTHREAD_H
#define BIONIC_PTHREAD_H

#include "signal.h"

/* bits/pthread_types.h, __LP64__: `typedef long pthread_t`, and `int32_t __private[10]` of a mutex, `[12]` of a condition.
 * Here a mutex has 48 bytes and both are aligned to 8: glibc for arm64 wants that, where the tests run the library. */
typedef long pthread_t;
typedef struct {
    long private_data[6];
} pthread_mutex_t;
typedef struct {
    long private_data[6];
} pthread_cond_t;

/* pthread.h. The attributes are always NULL here. */
int pthread_create(pthread_t *id, const void *attributes, void *(*start)(void *), void *argument);
int pthread_join(pthread_t id, void **result);
int pthread_mutex_init(pthread_mutex_t *mutex, const void *attributes);
int pthread_mutex_lock(pthread_mutex_t *mutex);
int pthread_mutex_unlock(pthread_mutex_t *mutex);
int pthread_mutex_destroy(pthread_mutex_t *mutex);
int pthread_cond_init(pthread_cond_t *condition, const void *attributes);
int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex);
int pthread_cond_broadcast(pthread_cond_t *condition);
int pthread_cond_destroy(pthread_cond_t *condition);

#endif
