/* TokenMonster's `.vocab` files: every field is checked, with the same rules as edgekit's Python. */
#include "bytes.h"
#include "tokenmonster.h"

#define TM_HEADER 24
#define TM_AFTER 15 /* bytes of a record after its token: flags, words, alternatives, id, score */

/* Walks over the records. `place` becomes the offset after them; `bytes` the length of all tokens together. */
static int tm_walk(const uint8_t *file, size_t length, size_t *place, size_t *bytes, ek_error *error) {
    if (length < TM_HEADER) return ek_fail(error, EK_DAMAGED, "the vocabulary is only %u bytes long", (uint64_t)length);
    if (length > 0x7FFFFFFF) return ek_fail(error, EK_UNSUPPORTED, "a vocabulary of more than 2 GB");
    if (file[0] > 2 || file[1] > 2)
        return ek_fail(error, EK_DAMAGED, "capcode %u and charset %u (each 0, 1 or 2): not a TokenMonster vocabulary",
                       (uint64_t)file[0], (uint64_t)file[1]);
    uint32_t count = ek_tm_u24(file + 17), longest = 0;
    *place = TM_HEADER;
    *bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t size = *place < length ? file[*place] : 0;
        if (*place < length && (size == 0 || size > EK_TM_LONGEST))
            return ek_fail(error, EK_DAMAGED, "record %u of the vocabulary is %u bytes long (1 to 40)", (uint64_t)i,
                           (uint64_t)size);
        if (length - *place < 1 + size + TM_AFTER || *place >= length)
            return ek_fail(error, EK_DAMAGED, "the vocabulary ends inside record %u of %u", (uint64_t)i,
                           (uint64_t)count);
        *place += 1 + size + TM_AFTER;
        *bytes += size;
        longest = size;
    }
    if (longest != file[23])
        return ek_fail(error, EK_DAMAGED, "the longest record is %u bytes, the vocabulary's header says %u",
                       (uint64_t)longest, (uint64_t)file[23]);
    return EK_OK;
}

/* Parts of the memory block: trie, records, pieces, bases, order; compact: pieces. */
static uint32_t tm_nodes(size_t bytes) { return (uint32_t)(bytes + bytes / 8 + 2048); }

static int tm_is_narrow(uint32_t count, int compact) { return compact && count < 0xFFFF; }

int ek_vocabulary_size(const uint8_t *file, size_t length, int compact, size_t *size, ek_error *error) {
    size_t place, bytes;
    int status = tm_walk(file, length, &place, &bytes, error);
    if (status) return status;
    if (bytes > 1 << 21) return ek_fail(error, EK_UNSUPPORTED, "a vocabulary with more than 2 MB of tokens");
    size_t count = ek_tm_u24(file + 17), table_size = ek_tm_u24(file + 14);
    *size = table_size * (tm_is_narrow((uint32_t)count, compact) ? sizeof(uint16_t) : sizeof(int32_t));
    if (compact) return EK_OK;
    *size = count * sizeof(ek_tm_record) + tm_nodes(bytes) * sizeof(ek_tm_node) + table_size * 2 * sizeof(int32_t) +
            count * 2 * sizeof(uint32_t);
    return EK_OK;
}

static int tm_check_alternatives(const ek_vocabulary *v, uint32_t index, const ek_tm_record *record, ek_error *error) {
    const uint8_t *token = v->file + record->offset;
    if (record->shorter[0] < 0 && record->shorter[1] >= 0)
        return ek_fail(error, EK_DAMAGED, "record %u has a second alternative but no first", (uint64_t)index);
    for (int i = 0; i < 2; i++) {
        if (record->shorter[i] < 0) continue;
        uint32_t other = (uint32_t)record->shorter[i];
        ek_tm_record prefix = ek_tm_at(v, other < index ? other : 0);
        if (other >= index || prefix.length > record->length ||
            ek_tm_compare(token, prefix.length, v->file + prefix.offset, prefix.length))
            return ek_fail(error, EK_DAMAGED, "record %u has alternative %u, which is not an earlier prefix of it",
                           (uint64_t)index, (uint64_t)other);
    }
    return EK_OK;
}

/* Wrong counts of words could keep the encoder in place. */
static int tm_check_words(const ek_vocabulary *v, uint32_t index, const ek_tm_record *record, ek_error *error) {
    unsigned spaces = 0;
    for (unsigned i = 0; i < record->length; i++) spaces += v->file[record->offset + i] == ' ';
    if (record->words <= spaces) return EK_OK;
    return ek_fail(error, EK_DAMAGED, "record %u counts %u words, more than it has spaces", (uint64_t)index,
                   (uint64_t)record->words);
}

static int tm_check_id(ek_vocabulary *v, uint32_t index, const ek_tm_record *record, ek_error *error) {
    uint32_t score = ek_u32(v->file + record->offset + record->length + 11);
    if (record->id >= v->table_size)
        return ek_fail(error, EK_DAMAGED, "record %u has id %u, the table size is %u", (uint64_t)index,
                       (uint64_t)record->id, (uint64_t)v->table_size);
    int32_t base = ek_tm_base(v, record->id);
    ek_tm_set_piece(v, record->id, (int32_t)index);
    if (record->duplicate) return EK_OK;
    if ((score & 0x7FFFFFFF) > 0x7F800000u || (score >> 31 && score != 0x80000000u))
        return ek_fail(error, EK_DAMAGED, "record %u has a score below 0", (uint64_t)index);
    if (base >= 0)
        return ek_fail(error, EK_DAMAGED, "record %u has id %u, which another token has", (uint64_t)index,
                       (uint64_t)record->id);
    if (v->bases) v->bases[record->id] = (int32_t)index;
    return EK_OK;
}

static int tm_read_record(ek_vocabulary *v, uint32_t index, ek_error *error) {
    const ek_tm_record record = ek_tm_read(v, index);
    if (v->records) v->records[index] = record;
    if (index) {
        const ek_tm_record before = ek_tm_at(v, index - 1);
        if (ek_tm_compare(v->file + before.offset, before.length, v->file + record.offset, record.length) >= 0 &&
            record.length == before.length)
            return ek_fail(error, EK_DAMAGED, "record %u is out of order or comes twice", (uint64_t)index);
    }
    int status = tm_check_words(v, index, &record, error);
    if (!status) status = tm_check_alternatives(v, index, &record, error);
    return status ? status : tm_check_id(v, index, &record, error);
}

/* A duplicate is another token with the marker and a space before it. */
static int tm_check_duplicates(const ek_vocabulary *v, ek_error *error) {
    uint8_t marker = v->level == 1 ? 0x7F : 'D';
    for (uint32_t i = 0; i < v->count; i++) {
        const ek_tm_record record = ek_tm_at(v, i);
        if (!record.duplicate) continue;
        int32_t index = ek_tm_base(v, record.id);
        const ek_tm_record base = ek_tm_at(v, index < 0 ? 0 : (uint32_t)index);
        const uint8_t *token = v->file + record.offset;
        if (v->level == 0 || record.length < 2 || token[0] != marker || token[1] != ' ' ||
            (index < 0 ? record.length != 2
                       : ek_tm_compare(token + 2, record.length - 2u, v->file + base.offset, base.length)))
            return ek_fail(error, EK_DAMAGED, "record %u is marked as a duplicate of id %u, but is none", (uint64_t)i,
                           (uint64_t)record.id);
    }
    return EK_OK;
}

static int tm_check_ids(const ek_vocabulary *v, uint32_t size, ek_error *error) {
    uint32_t used = v->unk != EK_TM_NONE;
    for (uint32_t id = 0; id < v->table_size; id++) used += ek_tm_base(v, id) >= 0;
    if (used != size)
        return ek_fail(error, EK_DAMAGED, "%u ids are in use, the vocabulary's header says %u", (uint64_t)used,
                       (uint64_t)size);
    if (v->unk != EK_TM_NONE && (v->unk >= v->table_size || ek_tm_base(v, v->unk) >= 0))
        return ek_fail(error, EK_DAMAGED, "the unknown token's id %u is not free", (uint64_t)v->unk);
    if (v->delete_token == EK_TM_NONE) return EK_OK;
    int32_t index = v->delete_token < v->table_size ? ek_tm_base(v, v->delete_token) : -1;
    const uint8_t *token = index < 0 ? NULL : v->file + ek_tm_at(v, (uint32_t)index).offset;
    if (v->level == 0 || !token || token[-1] != 1 || token[0] != (v->level == 1 ? 0x7F : 'D'))
        return ek_fail(error, EK_DAMAGED, "the delete token %u is not the marker of capcode level %u",
                       (uint64_t)v->delete_token, (uint64_t)v->level);
    return EK_OK;
}

/* Deleted tokens are not used, but the file must end after them, and no id may be above the table's size. */
static int tm_check_rest(const ek_vocabulary *v, size_t length, size_t place, ek_error *error) {
    uint32_t highest = v->unk != EK_TM_NONE ? v->unk + 1 : 0, count = ek_tm_u24(v->file + place);
    place += 3;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t size = place < length ? v->file[place] : 0;
        if (place >= length || length - place < 1 + size + 7)
            return ek_fail(error, EK_DAMAGED, "the vocabulary ends inside deleted token %u of %u", (uint64_t)i,
                           (uint64_t)count);
        uint32_t id = ek_tm_u24(v->file + place + 1 + size);
        if (size == 0 || size > EK_TM_LONGEST || (id != EK_TM_NONE && id >= v->table_size))
            return ek_fail(error, EK_DAMAGED, "deleted token %u has %u bytes and id %u", (uint64_t)i, (uint64_t)size,
                           (uint64_t)id);
        if (id != EK_TM_NONE && id + 1 > highest) highest = id + 1;
        place += 1 + size + 7;
    }
    if (place != length)
        return ek_fail(error, EK_DAMAGED, "the vocabulary has %u bytes too many at the end", (uint64_t)(length - place));
    for (uint32_t id = v->table_size; id > highest; id--)
        if (ek_tm_base(v, id - 1) >= 0) highest = id;
    if (highest != v->table_size)
        return ek_fail(error, EK_DAMAGED, "the table size is %u, but ids end at %u", (uint64_t)v->table_size,
                       (uint64_t)highest);
    return EK_OK;
}

/* Where the records of each length begin. They come sorted by length; the last entry is the end of all. */
static int tm_find_lengths(ek_vocabulary *v, ek_error *error) {
    uint32_t place = TM_HEADER, length = 1;
    v->firsts[0] = v->firsts[1] = 0, v->places[0] = v->places[1] = place;
    for (uint32_t i = 0; i < v->count; i++) {
        uint32_t size = v->file[place];
        if (size < length && i)
            return ek_fail(error, EK_DAMAGED, "record %u is out of order or comes twice", (uint64_t)i);
        while (length < size) v->firsts[++length] = i, v->places[length] = place;
        place += 1 + size + TM_AFTER;
    }
    while (length <= EK_TM_LONGEST) v->firsts[++length] = v->count, v->places[length] = place;
    return EK_OK;
}

static void tm_lay_out(ek_vocabulary *v, uint8_t *memory, int compact) {
    v->narrow = (uint32_t)tm_is_narrow(v->count, compact);
    v->pieces = memory;
    if (compact) return;
    v->trie = (ek_tm_node *)(void *)memory;
    v->records = (ek_tm_record *)(v->trie + v->nodes);
    v->pieces = v->records + v->count;
    v->bases = (int32_t *)v->pieces + v->table_size;
    v->order = (uint32_t *)(v->bases + v->table_size);
}

int ek_vocabulary_open(ek_vocabulary *v, const uint8_t *file, size_t length, int compact, void *memory,
                       ek_error *error) {
    static const ek_vocabulary empty;
    size_t end, bytes;
    int status = tm_walk(file, length, &end, &bytes, error);
    if (status) return status;
    if (length - end < 256 + 3) return ek_fail(error, EK_DAMAGED, "the vocabulary ends before the list of deleted tokens");
    *v = empty;
    v->file = file;
    v->level = file[0];
    v->charset = file[1];
    v->flags = file[2];
    v->unk = ek_tm_u24(file + 8);
    v->table_size = ek_tm_u24(file + 14);
    v->count = ek_tm_u24(file + 17);
    v->delete_token = ek_tm_u24(file + 20);
    v->nodes = tm_nodes(bytes);
    tm_lay_out(v, memory, compact);
    if (v->charset == 2) return ek_fail(error, EK_UNSUPPORTED, "a TokenMonster vocabulary of the charset UTF-16");
    for (uint32_t id = 0; id < v->table_size; id++) {
        ek_tm_set_piece(v, id, -1);
        if (v->bases) v->bases[id] = -1;
    }
    status = tm_find_lengths(v, error);
    for (uint32_t i = 0; i < v->count && !status; i++) status = tm_read_record(v, i, error);
    for (int i = 0; i < 256; i++) {
        uint8_t class = file[end + (size_t)i];
        v->follow[i] = class == 1 ? 1 : class == 10 ? 2 : class == 12 ? 3 : 0;
    }
    if (!status) status = tm_check_duplicates(v, error);
    if (!status) status = tm_check_ids(v, ek_tm_u24(file + 11), error);
    return status ? status : tm_check_rest(v, length, end + 256, error);
}
