/* Text on its way out, kept back while its end may be the beginning of a stop string. */
#ifndef EDGEKIT_STOP_TEXT_H
#define EDGEKIT_STOP_TEXT_H

#include "internal.h"

typedef struct {
    const char *const *stops;
    uint32_t count;
    uint32_t found;  /* a stop string came: the text ends before it */
    char *buffer;    /* ek_stop_text_size bytes */
    size_t out;      /* bytes at the beginning that are certain: handed out, and dropped by the next call */
    size_t held;     /* all bytes in the buffer */
} ek_stop_text;

/* Bytes of the buffer, if at most `piece` are added between two calls of ek_stop_text_next. */
size_t ek_stop_text_size(const char *const *stops, uint32_t count, size_t piece);

/* Drops what was handed out. */
void ek_stop_text_next(ek_stop_text *s);

/* Where the next piece is to be written. */
static inline char *ek_stop_text_end(const ek_stop_text *s) { return s->buffer + s->held; }

/* `length` bytes were written there: what is certain now is in `out`. */
void ek_stop_text_add(ek_stop_text *s, size_t length);

/* The end of the text: all of it is certain. */
static inline void ek_stop_text_flush(ek_stop_text *s) { s->out = s->held; }

#endif
