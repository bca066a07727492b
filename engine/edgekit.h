/* edgekit: runs a small Llama from a GGUF file.
 *
 * C99 without dependencies: no allocation, no operating system, no libm. The caller owns the file's bytes and one block
 * of memory for each object, whose size it can ask for. Everything read from a file is checked before it is used. The
 * logits have the same bits on every processor, with any number of threads; docs/arithmetic.md specifies how.
 *
 * An object belongs to one thread at a time. Functions return EK_OK or a negative status; the sentence about the last
 * error of a call that takes an `ek_error` is in it. Memory blocks must be aligned to EK_ALIGNMENT.
 */
#ifndef EDGEKIT_H
#define EDGEKIT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EK_VERSION "0.3.0"
#define EK_INTERFACE 1 /* grows with every change of this file that breaks programs compiled before */
#define EK_ALIGNMENT 64

#if defined(_WIN32) && defined(EK_SHARED)
#define EK_API __declspec(dllexport)
#elif defined(__GNUC__)
#define EK_API __attribute__((visibility("default")))
#else
#define EK_API
#endif

/* ---- errors ---- */

typedef enum {
    EK_OK = 0,
    EK_DAMAGED = -1,     /* the file is cut short or contradicts itself */
    EK_UNSUPPORTED = -2, /* a valid file that this engine does not run: another architecture or type, named in the text */
    EK_MEMORY = -3,      /* the block of memory is too small or not aligned */
    EK_ARGUMENT = -4,    /* an argument is out of range */
    EK_CONTEXT = -5,     /* the tokens do not fit into the context; nothing was appended */
    EK_NO_TOKEN = -6,    /* every token is banned: nothing can follow */
    EK_NOT_FINITE = -7   /* the logits are not finite: a bias is too large, or the model is damaged */
} ek_status;

/* One sentence, NUL-terminated UTF-8; empty if there was no error. */
typedef struct {
    char text[256];
} ek_error;

EK_API const char *ek_version(void);
EK_API int ek_interface(void);

/* ---- model: gguf.c, model.c, forward.c ---- */

typedef struct ek_model ek_model;

/* ---- sampler: sampler.c ---- */

typedef struct ek_sampler ek_sampler;

/* ---- tokenizer: tokenizer.c, tokenmonster.c, bpe.c ---- */

typedef struct ek_tokenizer ek_tokenizer;

/* ---- generation: generate.c ---- */

#ifdef __cplusplus
}
#endif
#endif
