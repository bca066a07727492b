/* The part of bionic's headers that edgekit uses: see README.md next to this file. */
#ifndef BIONIC_SIGNAL_H
#define BIONIC_SIGNAL_H

/* bits/signal_types.h, __LP64__: sigset_t is the kernel's, one unsigned long. It has 128 bytes here, which glibc, where
 * the tests run the library, writes. */
typedef struct {
    unsigned long bits[16];
} sigset_t;

/* asm-generic/signal-defs.h */
#define SIG_BLOCK 0
#define SIG_SETMASK 2

int sigfillset(sigset_t *set);
int pthread_sigmask(int how, const sigset_t *set, sigset_t *old);

#endif
