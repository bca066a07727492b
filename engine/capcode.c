/* Capcode: words and capitals as markers, so that `(Hello` is made of the same token as ` Hello` in running text.
 *
 * Level 1 puts 7F and a space before a word that has no space before it. Level 2 does that with `D `, and writes
 * capitals as markers over lowercase letters: C (one capital), W (a word of capitals). */
#include "normalizer.h"

#define CAPCODE_LETTER (EK_KIND_UPPER | EK_KIND_LOWER | EK_KIND_LETTER)
#define CAPCODE_GLUED (CAPCODE_LETTER | EK_KIND_APOSTROPHE | EK_KIND_MARK)
#define CAPCODE_IN_RUN (EK_KIND_UPPER | EK_KIND_NUMBER | EK_KIND_APOSTROPHE | EK_KIND_MARK)

/* Whether a word begins here that has no space before it. */
static int capcode_begins(const ek_normalizer *n, unsigned kind, unsigned letters, unsigned joined) {
    if (kind & letters)
        return !(n->previous & (EK_KIND_SPACE | EK_KIND_MARK | joined)) &&
               !(n->previous & EK_KIND_APOSTROPHE && n->earlier & CAPCODE_LETTER);
    return kind & EK_KIND_NUMBER && !(n->previous & (EK_KIND_SPACE | EK_KIND_NUMBER));
}

static size_t capcode_words(ek_normalizer *n, uint32_t point, unsigned kind, uint8_t *out, size_t size) {
    if (capcode_begins(n, kind, CAPCODE_LETTER, CAPCODE_LETTER)) {
        out[size++] = 0x7F;
        out[size++] = ' ';
    }
    return size + ek_utf8_write(out + size, point == 0x7F ? 0x14 : point);
}

/* The marker before a capital: 0, or D, or what is in front of a capital letter, C or W. */
static uint8_t capcode_capital(ek_normalizer *n, uint32_t lower, uint8_t *out, size_t *size) {
    if (n->inside) {
        if (n->single && ek_unicode_kind(lower) & EK_KIND_LOWER) return 'C';
        return n->previous & CAPCODE_GLUED ? 0 : 'D';
    }
    n->inside = 1;
    n->single = ek_normalizer_run_is_mixed(n);
    uint8_t marker = n->single ? 'C' : 'W';
    if (!(n->previous & EK_KIND_SPACE)) return marker;
    out[*size - 1] = marker; /* before the space that is there already */
    out[(*size)++] = ' ';
    return 0;
}

static size_t capcode_capitals(ek_normalizer *n, uint32_t point, unsigned kind, uint8_t *out, size_t size) {
    uint8_t marker = 0;
    int after_run = n->inside && !(kind & CAPCODE_IN_RUN);
    if (after_run) n->inside = 0;
    if (kind & EK_KIND_UPPER) {
        point = ek_lower(point);
        marker = capcode_capital(n, point, out, &size);
    } else if (n->inside) {
        if (kind & EK_KIND_NUMBER && !(n->previous & EK_KIND_NUMBER)) marker = 'D';
    } else if (after_run && kind & EK_KIND_LOWER) {
        marker = n->previous & CAPCODE_GLUED ? 0 : 'D';
    } else if (capcode_begins(n, kind, EK_KIND_LOWER, EK_KIND_LOWER)) {
        marker = 'D';
    }
    if (marker) {
        out[size++] = 'D';
        if (marker != 'D') out[size++] = marker;
        out[size++] = ' ';
    }
    return size + ek_utf8_write(out + size, point);
}

/* Stretches of ASCII that capcode only copies: spaces and letters, at level 2 small letters. */
static size_t capcode_plain(ek_normalizer *n, uint8_t *out, size_t size, size_t capacity) {
    unsigned plain = EK_KIND_SPACE | EK_KIND_LOWER | (n->level == 1 ? EK_KIND_UPPER : 0u);
    unsigned previous = n->previous, earlier = n->earlier;
    const uint8_t *at = n->at;
    if (n->inside || n->segment_at < n->segment_count || !(previous & plain)) return size;
    while (at < n->tail && size + EK_CAPCODE_MARGIN < capacity && *at < 0x80) {
        unsigned kind = ek_unicode_kind(*at);
        if (!(kind & plain)) break;
        out[size++] = *at++;
        earlier = previous;
        previous = kind;
    }
    if (at > n->at) n->nonstarters = 0;
    n->at = at;
    n->previous = previous;
    n->earlier = earlier;
    return size;
}

size_t ek_capcode_fill(ek_normalizer *n, uint8_t *out, size_t size, size_t capacity) {
    uint32_t point;
    while (size + EK_CAPCODE_MARGIN < capacity) {
        if (n->level && !(n->flags & (EK_LOWERCASE | EK_ACCENTS))) size = capcode_plain(n, out, size, capacity);
        if (size + EK_CAPCODE_MARGIN >= capacity || !ek_normalizer_next(n, &point)) break;
        unsigned kind = ek_unicode_kind(point);
        if (n->level == 0) size += ek_utf8_write(out + size, point);
        else if (n->level == 1) size = capcode_words(n, point, kind, out, size);
        else size = capcode_capitals(n, point, kind, out, size);
        n->earlier = n->previous;
        n->previous = kind;
    }
    return size;
}

/* ---- back ---- */

static size_t undo_marked(ek_undo *undo, const uint8_t *bytes, size_t length, uint8_t *out) {
    size_t size = 0;
    for (size_t i = 0; i < length; i++) {
        if (undo->deleting) undo->deleting = 0;
        else if (bytes[i] == 0x7F) undo->deleting = 1;
        else out[size++] = bytes[i];
    }
    return size;
}

static size_t undo_character(ek_undo *undo, uint32_t point, uint8_t *out) {
    int printed = 1;
    switch (point) {
        case 'C': undo->character = 1; undo->word = 0; return 0;
        case 'W': undo->word = undo->fresh = 1; undo->character = 0; return 0;
        case 'D': undo->deleting = 1; return 0;
        default: break;
    }
    if (undo->deleting) {
        undo->deleting = 0;
        printed = 0;
    } else if (point == ' ') {
        undo->word = undo->word && undo->fresh;
    } else if (undo->character) {
        undo->character = 0;
        point = ek_upper(point);
    } else if (undo->word) {
        unsigned kind = ek_unicode_kind(point);
        if (kind & (EK_KIND_UPPER | EK_KIND_LOWER)) point = ek_upper(point);
        else if (!(kind & (EK_KIND_NUMBER | EK_KIND_APOSTROPHE | EK_KIND_MARK))) undo->word = 0;
    }
    undo->fresh = 0;
    return printed ? ek_utf8_write(out, point) : 0;
}

static size_t undo_characters(ek_undo *undo, const uint8_t *bytes, size_t length, uint8_t *out) {
    size_t size = 0;
    uint32_t point;
    for (size_t i = 0; i < length;) {
        i += ek_utf8_read(bytes + i, length - i, &point);
        size += undo_character(undo, point, out + size);
    }
    return size;
}

size_t ek_undo_feed(ek_undo *undo, unsigned level, const uint8_t *bytes, size_t length, uint8_t *out) {
    size_t size = 0, place = 0;
    if (level == 1) return undo_marked(undo, bytes, length, out);
    if (level == 0) {
        for (; size < length; size++) out[size] = bytes[size];
        return size;
    }
    /* Finish the held character first, byte by byte; then all but an unfinished one at the end. */
    while (undo->held_count && place < length) {
        undo->held[undo->held_count++] = bytes[place++];
        size_t unfinished = ek_utf8_unfinished(undo->held, undo->held_count);
        size_t whole = undo->held_count - unfinished;
        size += undo_characters(undo, undo->held, whole, out + size);
        for (size_t i = 0; i < unfinished; i++) undo->held[i] = undo->held[whole + i];
        undo->held_count = (uint8_t)unfinished;
    }
    size_t unfinished = ek_utf8_unfinished(bytes + place, length - place) & 3;
    size += undo_characters(undo, bytes + place, length - place - unfinished, out + size);
    for (size_t i = 0; i < unfinished; i++) undo->held[i] = bytes[length - unfinished + i];
    if (unfinished) undo->held_count = (uint8_t)unfinished;
    return size;
}

size_t ek_undo_flush(ek_undo *undo, unsigned level, uint8_t *out) {
    static const ek_undo empty;
    size_t size = level == 2 ? undo_characters(undo, undo->held, undo->held_count, out) : 0;
    *undo = empty;
    return size;
}
