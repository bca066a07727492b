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

/* A sampler for ek_sampler_choose alone, in less memory; slower if it filters. It has `capacity` ids at most, of prompt
 * and text. */
size_t ek_lean_sampler_size(const ek_sampling *sampling, uint32_t vocab_size, uint32_t capacity);
int ek_lean_sampler_init(ek_sampler **sampler, void *memory, size_t size, const ek_sampling *sampling,
                         uint32_t vocab_size, uint32_t capacity, const uint32_t *prompt, uint32_t prompt_count,
                         ek_error *error);

/* Whether it runs on the file's own bytes. */
int ek_model_is_direct(const ek_model *model);

/* The sampler's own space for logits: choosing from these changes them, and copies nothing. */
float *ek_sampler_logits(ek_sampler *sampler);

#endif
