/* Records of a TokenMonster vocabulary: from memory, or read from the file each time if it is compact. */
#include "bytes.h"
#include "tokenmonster.h"

#define TM_AFTER 15 /* bytes of a record after its token: flags, words, alternatives, id, score */
#define TM_MINUS_ONE 0xBF800000u /* the score of a duplicate, as bits */
#define TM_NO_PIECE 0xFFFFu

/* Alternatives that text never becomes are skipped; then the second takes the place of the first. */
static void record_skip_silent(const ek_vocabulary *v, ek_tm_record *record) {
    for (int k = 1; k >= 0 && v->silent; k--) {
        if (record->shorter[k] < 0) continue;
        uint32_t index = (uint32_t)record->shorter[k], length = 1;
        while (index >= v->firsts[length + 1]) length++;
        const uint8_t *place = v->file + v->places[length] + (index - v->firsts[length]) * (1 + length + TM_AFTER);
        if (!v->silent[ek_tm_u24(place + 1 + length + 8)]) continue;
        record->shorter[k] = k ? -1 : record->shorter[1];
        record->shorter[1] = -1;
    }
}

ek_tm_record ek_tm_read(const ek_vocabulary *v, uint32_t index) {
    ek_tm_record record;
    uint32_t length = 1;
    while (index >= v->firsts[length + 1]) length++;
    record.length = (uint8_t)length;
    record.offset = v->places[length] + (index - v->firsts[length]) * (1 + length + TM_AFTER) + 1;
    const uint8_t *after = v->file + record.offset + length;
    record.flags = after[0];
    record.words = after[1];
    for (int k = 0; k < 2; k++) {
        uint32_t other = ek_tm_u24(after + 2 + 3 * k);
        record.shorter[k] = other == EK_TM_NONE ? -1 : (int32_t)other;
    }
    record.id = ek_tm_u24(after + 8);
    record.duplicate = ek_u32(after + 11) == TM_MINUS_ONE;
    int words = record.words, uniform = record.flags & EK_TM_UNIFORM ? 1 : 0;
    record.first = (int16_t)(record.length + uniform + (words > 1 ? words - 1 : 0) + 100 * words);
    record.second = (int16_t)(record.first + (record.flags & EK_TM_BEGINS_SPACE ? 1 : 0));
    record_skip_silent(v, &record);
    return record;
}

ek_tm_record ek_tm_at(const ek_vocabulary *v, uint32_t index) {
    return v->records ? v->records[index] : ek_tm_read(v, index);
}

int32_t ek_tm_piece(const ek_vocabulary *v, uint32_t id) {
    if (!v->narrow) return ((const int32_t *)v->pieces)[id];
    uint16_t record = ((const uint16_t *)v->pieces)[id];
    return record == TM_NO_PIECE ? -1 : record;
}

void ek_tm_set_piece(ek_vocabulary *v, uint32_t id, int32_t record) {
    if (v->narrow) ((uint16_t *)v->pieces)[id] = record < 0 ? TM_NO_PIECE : (uint16_t)record;
    else ((int32_t *)v->pieces)[id] = record;
}

/* Records of a length are sorted by their bytes. */
static int32_t record_search(const ek_vocabulary *v, const uint8_t *bytes, size_t length) {
    if (!length || length > EK_TM_LONGEST) return -1;
    uint32_t low = 0, high = v->firsts[length + 1] - v->firsts[length];
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        const uint8_t *token = v->file + v->places[length] + middle * (1 + length + TM_AFTER) + 1;
        int order = ek_tm_compare(token, length, bytes, length);
        if (!order) return (int32_t)(v->firsts[length] + middle);
        if (order < 0) low = middle + 1;
        else high = middle;
    }
    return -1;
}

int32_t ek_tm_base(const ek_vocabulary *v, uint32_t id) {
    if (v->bases) return v->bases[id];
    int32_t index = ek_tm_piece(v, id);
    if (index < 0) return -1;
    ek_tm_record record = ek_tm_read(v, (uint32_t)index);
    if (!record.duplicate) return index;
    index = record.length > 2 ? record_search(v, v->file + record.offset + 2, record.length - 2u) : -1;
    if (index < 0) return -1;
    record = ek_tm_read(v, (uint32_t)index);
    return record.id == id && !record.duplicate ? index : -1;
}

int32_t ek_tm_find(const ek_vocabulary *v, const uint8_t *bytes, size_t length) {
    int32_t index = record_search(v, bytes, length);
    if (index < 0 || !v->silent) return index;
    return v->silent[ek_tm_read(v, (uint32_t)index).id] ? -1 : index;
}
