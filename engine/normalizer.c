/* TokenMonster's normalization of a text: byte flags, case folding and NFD by Unicode 13.0, character by character.
 *
 * NFD follows the stream-safe rule (UAX 15) of Go's x/text/unicode/norm: no more than 30 non-starters in a row, else a
 * combining grapheme joiner comes between. So a character with its marks has a bounded length. */
#include "normalizer.h"

#define NORMALIZER_MOST_NONSTARTERS 30

size_t ek_normalize_bytes(const uint8_t *text, size_t length, unsigned flags, uint8_t *out) {
    size_t size = 0;
    for (size_t i = 0; i < length; i++) {
        uint8_t byte = text[i];
        if (flags & EK_UNIX_LINES && byte == '\r' && i + 1 < length && text[i + 1] == '\n') continue;
        if (flags & EK_QUOTEMARKS && byte == 0xE2 && i + 2 < length && text[i + 1] == 0x80) {
            uint8_t last = text[i + 2];
            byte = last == 0x98 || last == 0x99 ? '\'' : last == 0x9C || last == 0x9D ? '"' : byte;
            if (byte != 0xE2) i += 2;
        }
        if (flags & EK_COLLAPSE && byte == ' ' && size && out[size - 1] == ' ') continue;
        out[size++] = byte;
    }
    size_t start = 0;
    if (flags & EK_TRIM) {
        while (size && out[size - 1] <= ' ') size--;
        while (start < size && out[start] <= ' ') start++;
    }
    int space = flags & EK_LEADING_SPACE && start < size && out[start] != ' ';
    size -= start;
    if (space && !start)
        for (size_t i = size; i--;) out[i + 1] = out[i];
    else if (start > (size_t)space)
        for (size_t i = 0; i < size; i++) out[i + (size_t)space] = out[i + start];
    if (space) out[0] = ' ';
    return size + (size_t)space;
}

/* How many last bytes NFD leaves alone: a lead byte wants more bytes than there are, whatever they are. */
static size_t normalizer_tail(const uint8_t *text, size_t length) {
    static const uint8_t first[3] = {0xC2, 0xE0, 0xF0};
    for (size_t left = 3; left; left--)
        if (length >= left && text[length - left] >= first[left - 1] && text[length - left] < 0xF8) return left;
    return 0;
}

void ek_normalizer_start(ek_normalizer *n, const uint8_t *text, size_t length, unsigned flags, unsigned level) {
    static const ek_normalizer empty;
    *n = empty;
    n->at = text;
    n->end = text + length;
    n->flags = flags;
    n->level = level;
    n->tail = n->end - (flags & (EK_NFD | EK_ACCENTS) ? normalizer_tail(text, length) : 0);
}

/* The next character of the text with its case and accents removed, if that is wanted. False at the tail. */
static int normalizer_source(ek_normalizer *n, uint32_t *point) {
    if (n->source_at < n->source_count) {
        *point = n->source[n->source_at];
        return 1;
    }
    while (n->at < n->tail) {
        ek_utf8_read(n->at, (size_t)(n->tail - n->at), point);
        if (!(n->flags & EK_ACCENTS)) {
            if (n->flags & EK_LOWERCASE) *point = ek_lower(*point);
            return 1;
        }
        uint32_t parts[4];
        size_t count = ek_decompose(*point, parts);
        n->source_at = n->source_count = 0;
        for (size_t i = 0; i < count; i++) {
            /* Two marks that were non-spacing in Unicode 13. */
            if (ek_unicode_class(parts[i]) == EK_MARK_NONSPACING || parts[i] == 0x1734 || parts[i] == 0x1171E) continue;
            n->source[n->source_count++] = n->flags & EK_LOWERCASE ? ek_lower(parts[i]) : parts[i];
        }
        if (n->source_count) {
            *point = n->source[0];
            return 1;
        }
        n->at += ek_utf8_read(n->at, (size_t)(n->tail - n->at), point);
    }
    return 0;
}

static void normalizer_advance(ek_normalizer *n) {
    uint32_t point;
    if (n->source_at < n->source_count && ++n->source_at < n->source_count) return;
    n->at += ek_utf8_read(n->at, (size_t)(n->tail - n->at), &point);
}

/* Puts a code point behind those of its combining class or lower ones. */
static void normalizer_insert(ek_normalizer *n, uint32_t point, unsigned class) {
    unsigned place = n->segment_count++, lead, trail;
    while (class && place) {
        unsigned before = ek_combining(n->segment[place - 1], &lead, &trail);
        if (before <= class) break;
        n->segment[place] = n->segment[place - 1];
        place--;
    }
    n->segment[place] = point;
}

/* Reads the next character and its marks. */
static int normalizer_segment(ek_normalizer *n) {
    uint32_t point, parts[4];
    unsigned lead, trail, ignored, other;
    n->segment_at = n->segment_count = 0;
    while (n->segment_count + 5 <= sizeof n->segment / sizeof *n->segment && normalizer_source(n, &point)) {
        size_t count = ek_decompose(point, parts);
        if (n->segment_count && !ek_combining(parts[0], &ignored, &other)) break;
        ek_combining(point, &lead, &trail);
        if (n->nonstarters + lead > NORMALIZER_MOST_NONSTARTERS) {
            if (n->segment_count) break;
            normalizer_insert(n, EK_CGJ, 0);
            n->nonstarters = trail;
        } else {
            n->nonstarters = lead ? n->nonstarters + lead : trail;
        }
        for (size_t i = 0; i < count; i++) normalizer_insert(n, parts[i], ek_combining(parts[i], &ignored, &other));
        normalizer_advance(n);
    }
    return n->segment_count != 0;
}

int ek_normalizer_next(ek_normalizer *n, uint32_t *point) {
    if (n->segment_at < n->segment_count) {
        *point = n->segment[n->segment_at++];
        return 1;
    }
    if (!(n->flags & (EK_NFD | EK_ACCENTS)) && normalizer_source(n, point)) {
        normalizer_advance(n);
        return 1;
    }
    if (n->flags & (EK_NFD | EK_ACCENTS) && normalizer_segment(n)) {
        *point = n->segment[n->segment_at++];
        return 1;
    }
    if (n->at == n->end) return 0;
    n->at += ek_utf8_read(n->at, (size_t)(n->end - n->at), point);
    return 1;
}

int ek_normalizer_done(const ek_normalizer *n) {
    return n->at == n->end && n->segment_at == n->segment_count && n->source_at == n->source_count;
}

/* 0: the character continues a run of capitals. 1: it ends it. 2: it is a lowercase letter, which ends it. */
static int normalizer_ends_run(uint32_t point) {
    unsigned kind = ek_unicode_kind(point);
    if (kind & (EK_KIND_UPPER | EK_KIND_NUMBER | EK_KIND_APOSTROPHE | EK_KIND_MARK)) return 0;
    return kind & EK_KIND_LOWER ? 2 : 1;
}

int ek_normalizer_run_is_mixed(const ek_normalizer *n) {
    for (unsigned i = n->segment_at; i < n->segment_count; i++) {
        int ends = normalizer_ends_run(n->segment[i]);
        if (ends) return ends == 2;
    }
    ek_normalizer ahead = *n;
    uint32_t point;
    ahead.segment_at = ahead.segment_count = 0;
    while (ahead.at < ahead.end && *ahead.at < 0x80 && !(n->flags & (EK_LOWERCASE | EK_ACCENTS))) {
        int ends = normalizer_ends_run(*ahead.at++);
        if (ends) return ends == 2;
    }
    while (ek_normalizer_next(&ahead, &point)) {
        int ends = normalizer_ends_run(point);
        if (ends) return ends == 2;
    }
    return 0;
}
