/* Characters: UTF-8, categories, simple case, canonical decomposition. Not for the engine's users. */
#ifndef EDGEKIT_UNICODE_H
#define EDGEKIT_UNICODE_H

#include "internal.h"

/* Classes of code points. Those from EK_NEWER on were not assigned in Unicode 13.0, which TokenMonster uses. */
enum {
    EK_OTHER, EK_UPPER, EK_LOWER, EK_TITLE, EK_LETTER, EK_NUMBER, EK_MARK_NONSPACING, EK_MARK, EK_PUNCTUATION,
    EK_WHITESPACE, EK_NEWER, EK_NEWER_UPPER = EK_NEWER, EK_NEWER_LOWER, EK_NEWER_LETTER, EK_NEWER_NUMBER,
    EK_NEWER_NONSPACING, EK_NEWER_MARK
};

/* Bits of a code point as capcode sees it. */
enum { EK_KIND_UPPER = 1, EK_KIND_LOWER = 2, EK_KIND_LETTER = 4, EK_KIND_NUMBER = 8, EK_KIND_MARK = 16,
       EK_KIND_APOSTROPHE = 32, EK_KIND_SPACE = 64 };

/* An ill-formed byte B is read as the code point EK_BYTE + B, which no well-formed text has. */
#define EK_BYTE 0xDC00u
#define EK_IS_BYTE(point) ((point) >= 0xDC80u && (point) <= 0xDCFFu)
#define EK_CGJ 0x34Fu /* the combining grapheme joiner */

/* Reads one code point; returns its length, 1 for an ill-formed byte. `left` is at least 1. */
size_t ek_utf8_read(const uint8_t *bytes, size_t left, uint32_t *point);
/* Writes at most 4 bytes and returns how many. */
size_t ek_utf8_write(uint8_t *out, uint32_t point);
/* How many of the last bytes are a character that more bytes could finish, 0 to 3. */
size_t ek_utf8_unfinished(const uint8_t *bytes, size_t length);

unsigned ek_unicode_class(uint32_t point);
/* By Unicode 13.0; also EK_KIND_APOSTROPHE and EK_KIND_SPACE. */
unsigned ek_unicode_kind(uint32_t point);
uint32_t ek_lower(uint32_t point);
uint32_t ek_upper(uint32_t point);
/* The full canonical decomposition; returns its length, 1 to 4. */
size_t ek_decompose(uint32_t point, uint32_t out[4]);
/* The combining class; how many non-starters begin and end the compatibility decomposition. */
unsigned ek_combining(uint32_t point, unsigned *lead, unsigned *trail);

#endif
