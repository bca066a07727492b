/* Declarations that the files of the engine share; not for its users. */
#ifndef EDGEKIT_INTERNAL_H
#define EDGEKIT_INTERNAL_H

#include <stdarg.h>

#include "edgekit.h"

#if defined(__FAST_MATH__)
#error "edgekit promises the same bits everywhere: compile without -ffast-math"
#endif

/* The next multiple of EK_ALIGNMENT. */
static inline size_t ek_aligned(size_t size) { return (size + EK_ALIGNMENT - 1) / EK_ALIGNMENT * EK_ALIGNMENT; }

/* Bytes of a file, not NUL-terminated. */
typedef struct {
    const char *bytes;
    size_t length;
} ek_text;

/* Writes a sentence into `error` (may be NULL) and returns `status`.
 * %s: const char *; %u: uint64_t (cast the argument); %t: ek_text. */
int ek_fail(ek_error *error, int status, const char *format, ...);

#endif
