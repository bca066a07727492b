/* Stop strings: as StopText in edgekit/inference/generate.py, on bytes. UTF-8 never matches inside a character. */
#include "stop_text.h"

static size_t length_of(const char *text) {
    size_t length = 0;
    while (text[length]) length++;
    return length;
}

static int begins(const char *text, const char *with, size_t length) {
    for (size_t i = 0; i < length; i++)
        if (text[i] != with[i]) return 0;
    return 1;
}

size_t ek_stop_text_size(const char *const *stops, uint32_t count, size_t piece) {
    size_t longest = 0;
    for (uint32_t i = 0; i < count; i++) {
        size_t length = length_of(stops[i]);
        if (length > longest) longest = length;
    }
    return longest + piece;
}

void ek_stop_text_next(ek_stop_text *s) {
    for (size_t i = s->out; i < s->held; i++) s->buffer[i - s->out] = s->buffer[i];
    s->held -= s->out;
    s->out = 0;
}

/* The first place at or after `from` where `stop` begins, or where the text ends in a beginning of it; `held` if none. */
static size_t match(const ek_stop_text *s, const char *stop, size_t length, int *whole) {
    *whole = 0;
    for (size_t at = s->out; at < s->held; at++) {
        size_t left = s->held - at;
        if (!begins(s->buffer + at, stop, left < length ? left : length)) continue;
        *whole = left >= length;
        return at;
    }
    return s->held;
}

void ek_stop_text_add(ek_stop_text *s, size_t length) {
    size_t certain, end = (size_t)-1;
    if (s->found) return;
    s->held += length;
    certain = s->held;
    for (uint32_t i = 0; i < s->count; i++) {
        int whole;
        size_t at = match(s, s->stops[i], length_of(s->stops[i]), &whole);
        if (whole && at < end) end = at;
        if (!whole && at < certain) certain = at;
    }
    if (end != (size_t)-1) {
        s->found = 1;
        s->held = certain = end;
    }
    s->out = certain;
}
