/* From a text to the byte stream in which TokenMonster's tokens are written. Not for the engine's users. */
#ifndef EDGEKIT_NORMALIZER_H
#define EDGEKIT_NORMALIZER_H

#include "unicode.h"

/* Bits of a vocabulary's normalization byte. */
enum { EK_NFD = 1, EK_LOWERCASE = 2, EK_ACCENTS = 4, EK_QUOTEMARKS = 8, EK_COLLAPSE = 16, EK_TRIM = 32,
       EK_LEADING_SPACE = 64, EK_UNIX_LINES = 128 };
#define EK_BYTE_FLAGS (EK_QUOTEMARKS | EK_COLLAPSE | EK_TRIM | EK_LEADING_SPACE | EK_UNIX_LINES)

/* One text on its way through; its output comes in parts. */
typedef struct {
    const uint8_t *at, *end; /* what is left of the text */
    const uint8_t *tail;     /* NFD leaves the bytes from here on alone */
    unsigned flags, level;
    uint32_t source[4]; /* a character taken apart by EK_ACCENTS, and how much of it was read */
    unsigned source_at, source_count;
    uint32_t segment[64]; /* a character with its marks, in canonical order, and how much of it was read */
    unsigned segment_at, segment_count;
    unsigned nonstarters;     /* the last ones in a row */
    unsigned previous, earlier; /* kinds of the last two characters */
    int inside, single; /* in a run of capitals; its letters are capitals one by one, since a small one follows */
} ek_normalizer;

/* The flags of EK_BYTE_FLAGS, on a whole text; `out` holds length + 1 bytes. Returns the new length. */
size_t ek_normalize_bytes(const uint8_t *text, size_t length, unsigned flags, uint8_t *out);

void ek_normalizer_start(ek_normalizer *normalizer, const uint8_t *text, size_t length, unsigned flags, unsigned level);
/* The next character after case folding and NFD. False at the end of the text. */
int ek_normalizer_next(ek_normalizer *normalizer, uint32_t *point);
/* Whether a lowercase letter ends the run of capitals that the last character began. */
int ek_normalizer_run_is_mixed(const ek_normalizer *normalizer);

/* At least this many bytes are free in a buffer that capcode fills; it may change its last byte at the next call. */
#define EK_CAPCODE_MARGIN 16
/* Appends to out[0..size), which has `capacity` bytes, until it is nearly full or the text ends. Returns the new size. */
size_t ek_capcode_fill(ek_normalizer *normalizer, uint8_t *out, size_t size, size_t capacity);
int ek_normalizer_done(const ek_normalizer *normalizer);

/* Takes capcode out of a stream that comes in pieces. `out` has 2 * length + 8 bytes. Returns how many were written. */
size_t ek_undo_feed(ek_undo *undo, unsigned level, const uint8_t *bytes, size_t length, uint8_t *out);
/* What was held back, at most 8 bytes; the next feed begins a new stream. */
size_t ek_undo_flush(ek_undo *undo, unsigned level, uint8_t *out);

#endif
