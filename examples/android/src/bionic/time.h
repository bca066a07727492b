/* The part of bionic's headers that edgekit uses: see README.md next to this file. */
#ifndef BIONIC_TIME_H
#define BIONIC_TIME_H

/* bits/timespec.h, __LP64__ */
struct timespec {
    long tv_sec, tv_nsec;
};

#define CLOCK_MONOTONIC 1 /* linux/time.h */

int clock_gettime(int clock, struct timespec *time);

#endif
