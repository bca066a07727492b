/* Characters: UTF-8, categories, simple case, canonical decomposition. The tables are in unicode_tables.inc. */
#include "unicode.h"

#include "unicode_tables.inc"

size_t ek_utf8_read(const uint8_t *bytes, size_t left, uint32_t *point) {
    uint32_t lead = bytes[0];
    *point = lead < 0x80 ? lead : EK_BYTE + lead;
    if (lead < 0xC2 || lead > 0xF4 || left < 2) return 1;
    uint32_t second = bytes[1];
    uint32_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    uint32_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (second < low || second > high) return 1;
    if (lead < 0xE0) {
        *point = (lead & 0x1F) << 6 | (second & 0x3F);
        return 2;
    }
    if (left < 3 || (bytes[2] & 0xC0) != 0x80) return 1;
    if (lead < 0xF0) {
        *point = (lead & 0x0F) << 12 | (second & 0x3F) << 6 | (bytes[2] & 0x3Fu);
        return 3;
    }
    if (left < 4 || (bytes[3] & 0xC0) != 0x80) return 1;
    *point = (lead & 7) << 18 | (second & 0x3F) << 12 | (bytes[2] & 0x3Fu) << 6 | (bytes[3] & 0x3Fu);
    return 4;
}

size_t ek_utf8_write(uint8_t *out, uint32_t point) {
    if (point < 0x80 || EK_IS_BYTE(point)) {
        out[0] = (uint8_t)point;
        return 1;
    }
    if (point < 0x800) {
        out[0] = (uint8_t)(0xC0 | point >> 6);
        out[1] = (uint8_t)(0x80 | (point & 0x3F));
        return 2;
    }
    if (point < 0x10000) {
        out[0] = (uint8_t)(0xE0 | point >> 12);
        out[1] = (uint8_t)(0x80 | (point >> 6 & 0x3F));
        out[2] = (uint8_t)(0x80 | (point & 0x3F));
        return 3;
    }
    out[0] = (uint8_t)(0xF0 | point >> 18);
    out[1] = (uint8_t)(0x80 | (point >> 12 & 0x3F));
    out[2] = (uint8_t)(0x80 | (point >> 6 & 0x3F));
    out[3] = (uint8_t)(0x80 | (point & 0x3F));
    return 4;
}

size_t ek_utf8_unfinished(const uint8_t *bytes, size_t length) {
    for (size_t count = 1; count <= 3 && count <= length; count++) {
        const uint8_t *at = bytes + length - count;
        if ((at[0] & 0xC0) == 0x80) continue; /* the lead byte is further left */
        size_t wants = at[0] < 0xC2 || at[0] > 0xF4 ? 1 : at[0] < 0xE0 ? 2 : at[0] < 0xF0 ? 3 : 4;
        if (wants <= count) return 0;
        uint8_t whole[4] = {at[0], 0x80, 0x80, 0x80};
        if (at[0] == 0xE0) whole[1] = 0xA0;
        if (at[0] == 0xF0) whole[1] = 0x90;
        for (size_t i = 1; i < count; i++) whole[i] = at[i];
        uint32_t point;
        return ek_utf8_read(whole, wants, &point) == wants ? count : 0;
    }
    return 0;
}

unsigned ek_unicode_class(uint32_t point) {
    if (point >= UNICODE_END) return point - 0xE0100u < 0xF0u ? EK_MARK_NONSPACING : EK_OTHER;
    uint32_t block = unicode_blocks[(uint32_t)unicode_groups[point >> 8] << 4 | (point >> 4 & 15)];
    return unicode_classes[block << 3 | (point >> 1 & 7)] >> ((point & 1) << 2) & 15;
}

unsigned ek_unicode_kind(uint32_t point) {
    static const uint8_t kinds[16] = {0, EK_KIND_UPPER, EK_KIND_LOWER, EK_KIND_LETTER, EK_KIND_LETTER, EK_KIND_NUMBER,
                                      EK_KIND_MARK, EK_KIND_MARK, 0, 0, 0, 0, 0, 0, 0, 0};
    if (point < 128) return unicode_ascii[point];
    if (point == 0x2019) return EK_KIND_APOSTROPHE;
    if (point == 0x295) return EK_KIND_LOWER; /* a letter without case since Unicode 16 */
    return kinds[ek_unicode_class(point)];
}

/* The last run that begins at `point` or before it; runs hold `first << 11 | count - 1`. */
static size_t unicode_search(const uint32_t *runs, size_t count, uint32_t point) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (runs[middle] >> 11 <= point) low = middle + 1;
        else high = middle;
    }
    return low ? low - 1 : 0;
}

#define UNICODE_COUNT(array) (sizeof(array) / sizeof(array)[0])

static uint32_t unicode_case(const uint32_t *runs, const int32_t *distances, size_t count, uint32_t point) {
    size_t run = unicode_search(runs, count, point);
    uint32_t first = runs[run] >> 11, place = point - first;
    int32_t distance = distances[run];
    if (point < first || place > (runs[run] & 2047) || (distance & 1 && place & 1)) return point;
    return (uint32_t)((int32_t)point + (distance - (distance & 1)) / 2);
}

uint32_t ek_lower(uint32_t point) {
    if (point < 128) return point - 'A' < 26 ? point + 32 : point;
    return unicode_case(unicode_lower_runs, unicode_lower_distances, UNICODE_COUNT(unicode_lower_runs), point);
}

uint32_t ek_upper(uint32_t point) {
    if (point < 128) return point - 'a' < 26 ? point - 32 : point;
    return unicode_case(unicode_upper_runs, unicode_upper_distances, UNICODE_COUNT(unicode_upper_runs), point);
}

static size_t unicode_hangul(uint32_t syllable, uint32_t out[4]) {
    out[0] = 0x1100 + syllable / 588;
    out[1] = 0x1161 + syllable % 588 / 28;
    out[2] = 0x11A7 + syllable % 28;
    return syllable % 28 ? 3 : 2;
}

size_t ek_decompose(uint32_t point, uint32_t out[4]) {
    uint32_t seconds[3];
    size_t count = 0;
    if (point - 0xAC00u < 11172u) return unicode_hangul(point - 0xAC00u, out);
    for (size_t depth = 0; depth < 4 && point >= 0xC0; depth++) {
        size_t run = unicode_search(unicode_decomposed_runs, UNICODE_COUNT(unicode_decomposed_runs), point);
        uint32_t place = point - (unicode_decomposed_runs[run] >> 11);
        if (point < unicode_decomposed_runs[run] >> 11 || place > (unicode_decomposed_runs[run] & 2047)) break;
        place += unicode_decomposed_places[run];
        uint32_t parts = unicode_parts[unicode_second_parts[place]];
        point = unicode_first_parts[place] | parts >> 21 << 16;
        if (parts & 0x1FFFFF && count < 3) seconds[count++] = parts & 0x1FFFFF;
    }
    out[0] = point;
    for (size_t i = 0; i < count; i++) out[1 + i] = seconds[count - 1 - i];
    return count + 1;
}

unsigned ek_combining(uint32_t point, unsigned *lead, unsigned *trail) {
    *lead = *trail = 0;
    if (point < 0xA8) return 0;
    if (point - 0xAC00u < 11172u) {
        *trail = (point - 0xAC00u) % 28 ? 2 : 1;
        return 0;
    }
    size_t run = unicode_search(unicode_mark_runs, UNICODE_COUNT(unicode_mark_runs), point);
    uint32_t first = unicode_mark_runs[run] >> 11;
    if (point < first || point - first > (unicode_mark_runs[run] & 2047)) return 0;
    unsigned mark = unicode_marks[unicode_mark_kinds[run]];
    *lead = mark >> 8 & 15;
    *trail = mark >> 12;
    return mark & 255;
}
