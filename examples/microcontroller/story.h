/* A story from a GGUF file that lies in flash, in one block of memory: what the boards' programs share. */
#ifndef STORY_H
#define STORY_H

#include "edgekit.h"

typedef struct {
    uint32_t context;        /* positions of the cache: prompt and story; each costs memory */
    uint32_t max_new_tokens; /* 0: as many as the context holds */
    uint64_t seed;
} story_settings;

/* What a story took. */
typedef struct {
    size_t model, tokenizer, generation; /* bytes of their blocks */
    uint32_t prompt, tokens;             /* ids of the prompt, and after it */
} story_report;

/* Writes the prompt and its story, piece by piece, with the sampling settings of the file. `memory` is aligned to
 * EK_ALIGNMENT; the file's bytes are read where they are, and no matrix is copied. Returns EK_STOPPED, EK_LENGTH, or a
 * negative status with its sentence in `error`. */
typedef void story_write(const char *text, size_t length);
int story_run(const void *file, size_t length, const char *prompt, const story_settings *settings, void *memory,
              size_t size, story_write *write, story_report *report, ek_error *error);

#endif
