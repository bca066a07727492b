/* Declarations that the files of the engine share; not for its users. */
#ifndef EDGEKIT_INTERNAL_H
#define EDGEKIT_INTERNAL_H

#include <stdarg.h>

#include "edgekit.h"

#if defined(__FAST_MATH__)
#error "edgekit promises the same bits everywhere: compile without -ffast-math"
#endif

/* Bytes of a file, not NUL-terminated. */
typedef struct {
    const char *bytes;
    size_t length;
} ek_text;

/* Writes a sentence into `error` (may be NULL) and returns `status`.
 * %s: const char *; %u: uint64_t (cast the argument); %t: ek_text. */
int ek_fail(ek_error *error, int status, const char *format, ...);

#endif
