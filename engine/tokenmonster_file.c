/* TokenMonster's `.vocab` files: every field is checked, with the same rules as edgekit's Python. */
#include "bytes.h"
#include "tokenmonster.h"

#define TM_HEADER 24
#define TM_AFTER 15 /* bytes of a record after its token: flags, words, alternatives, id, score */

static uint32_t tm_u24(const uint8_t *bytes) {
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16;
}


#define TM_MINUS_ONE 0xBF800000u /* the score of a duplicate, as bits */

/* Walks over the records. `place` becomes the offset after them; `bytes` the length of all tokens together. */
static int tm_walk(const uint8_t *file, size_t length, size_t *place, size_t *bytes, ek_error *error) {
    if (length < TM_HEADER) return ek_fail(error, EK_DAMAGED, "the vocabulary is only %u bytes long", (uint64_t)length);
    if (length > 0x7FFFFFFF) return ek_fail(error, EK_UNSUPPORTED, "a vocabulary of more than 2 GB");
    if (file[0] > 2 || file[1] > 2)
        return ek_fail(error, EK_DAMAGED, "capcode %u and charset %u (each 0, 1 or 2): not a TokenMonster vocabulary",
                       (uint64_t)file[0], (uint64_t)file[1]);
    uint32_t count = tm_u24(file + 17), longest = 0;
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

/* Parts of the memory block: records, trie, pieces, bases, order. */
static uint32_t tm_nodes(size_t bytes) { return (uint32_t)(bytes + bytes / 8 + 2048); }

int ek_vocabulary_size(const uint8_t *file, size_t length, size_t *size, ek_error *error) {
    size_t place, bytes;
    int status = tm_walk(file, length, &place, &bytes, error);
    if (status) return status;
    if (bytes > 1 << 21) return ek_fail(error, EK_UNSUPPORTED, "a vocabulary with more than 2 MB of tokens");
    size_t count = tm_u24(file + 17), table_size = tm_u24(file + 14);
    *size = count * sizeof(ek_tm_record) + tm_nodes(bytes) * sizeof(ek_tm_node) + table_size * 2 * sizeof(int32_t) +
            count * 2 * sizeof(uint32_t);
    return EK_OK;
}

/* Compares two tokens of the file as bytes. */
static int tm_compare(const uint8_t *a, size_t a_length, const uint8_t *b, size_t b_length) {
    for (size_t i = 0; i < a_length && i < b_length; i++)
        if (a[i] != b[i]) return a[i] < b[i] ? -1 : 1;
    return a_length < b_length ? -1 : a_length > b_length;
}

static int tm_check_alternatives(const ek_vocabulary *v, uint32_t index, const uint8_t *after, ek_error *error) {
    ek_tm_record *record = &v->records[index];
    const uint8_t *token = v->file + record->offset;
    uint32_t alternatives[2] = {tm_u24(after), tm_u24(after + 3)};
    record->shorter[0] = record->shorter[1] = -1;
    if (alternatives[0] == EK_TM_NONE && alternatives[1] != EK_TM_NONE)
        return ek_fail(error, EK_DAMAGED, "record %u has a second alternative but no first", (uint64_t)index);
    for (int i = 0; i < 2; i++) {
        uint32_t other = alternatives[i];
        if (other == EK_TM_NONE) continue;
        const ek_tm_record *prefix = &v->records[other < index ? other : 0];
        if (other >= index || prefix->length > record->length ||
            tm_compare(token, prefix->length, v->file + prefix->offset, prefix->length))
            return ek_fail(error, EK_DAMAGED, "record %u has alternative %u, which is not an earlier prefix of it",
                           (uint64_t)index, (uint64_t)other);
        record->shorter[i] = (int32_t)other;
    }
    return EK_OK;
}

/* Wrong counts of words could keep the encoder in place. */
static int tm_check_words(const ek_vocabulary *v, uint32_t index, ek_error *error) {
    const ek_tm_record *record = &v->records[index];
    unsigned spaces = 0;
    for (unsigned i = 0; i < record->length; i++) spaces += v->file[record->offset + i] == ' ';
    if (record->words <= spaces) return EK_OK;
    return ek_fail(error, EK_DAMAGED, "record %u counts %u words, more than it has spaces", (uint64_t)index,
                   (uint64_t)record->words);
}

static int tm_check_id(ek_vocabulary *v, uint32_t index, uint32_t score, ek_error *error) {
    const ek_tm_record *record = &v->records[index];
    if (record->id >= v->table_size)
        return ek_fail(error, EK_DAMAGED, "record %u has id %u, the table size is %u", (uint64_t)index,
                       (uint64_t)record->id, (uint64_t)v->table_size);
    v->pieces[record->id] = (int32_t)index;
    if (record->duplicate) return EK_OK;
    if ((score & 0x7FFFFFFF) > 0x7F800000u || (score >> 31 && score != 0x80000000u))
        return ek_fail(error, EK_DAMAGED, "record %u has a score below 0", (uint64_t)index);
    if (v->bases[record->id] >= 0)
        return ek_fail(error, EK_DAMAGED, "record %u has id %u, which another token has", (uint64_t)index,
                       (uint64_t)record->id);
    v->bases[record->id] = (int32_t)index;
    return EK_OK;
}

static int tm_read_record(ek_vocabulary *v, uint32_t index, size_t place, ek_error *error) {
    ek_tm_record *record = &v->records[index];
    record->length = v->file[place];
    record->offset = (uint32_t)place + 1;
    const uint8_t *token = v->file + place + 1, *after = token + record->length;
    record->flags = after[0];
    record->words = after[1];
    record->id = tm_u24(after + 8);
    record->duplicate = ek_u32(after + 11) == TM_MINUS_ONE;
    int words = record->words, uniform = record->flags & EK_TM_UNIFORM ? 1 : 0;
    record->first = (int16_t)(record->length + uniform + (words > 1 ? words - 1 : 0) + 100 * words);
    record->second = (int16_t)(record->first + (record->flags & EK_TM_BEGINS_SPACE ? 1 : 0));
    if (index) {
        const ek_tm_record *before = record - 1;
        if (record->length < before->length ||
            (record->length == before->length &&
             tm_compare(v->file + before->offset, before->length, token, record->length) >= 0))
            return ek_fail(error, EK_DAMAGED, "record %u is out of order or comes twice", (uint64_t)index);
    }
    int status = tm_check_words(v, index, error);
    if (!status) status = tm_check_alternatives(v, index, after + 2, error);
    return status ? status : tm_check_id(v, index, ek_u32(after + 11), error);
}

/* A duplicate is another token with the marker and a space before it. */
static int tm_check_duplicates(const ek_vocabulary *v, ek_error *error) {
    uint8_t marker = v->level == 1 ? 0x7F : 'D';
    for (uint32_t i = 0; i < v->count; i++) {
        const ek_tm_record *record = &v->records[i];
        if (!record->duplicate) continue;
        int32_t index = v->bases[record->id];
        const ek_tm_record *base = &v->records[index < 0 ? 0 : index];
        const uint8_t *token = v->file + record->offset;
        if (v->level == 0 || record->length < 2 || token[0] != marker || token[1] != ' ' ||
            (index < 0 ? record->length != 2
                       : tm_compare(token + 2, record->length - 2u, v->file + base->offset, base->length)))
            return ek_fail(error, EK_DAMAGED, "record %u is marked as a duplicate of id %u, but is none", (uint64_t)i,
                           (uint64_t)record->id);
    }
    return EK_OK;
}

static int tm_check_ids(const ek_vocabulary *v, uint32_t size, ek_error *error) {
    uint32_t used = v->unk != EK_TM_NONE;
    for (uint32_t id = 0; id < v->table_size; id++) used += v->bases[id] >= 0;
    if (used != size)
        return ek_fail(error, EK_DAMAGED, "%u ids are in use, the vocabulary's header says %u", (uint64_t)used,
                       (uint64_t)size);
    if (v->unk != EK_TM_NONE && (v->unk >= v->table_size || v->bases[v->unk] >= 0))
        return ek_fail(error, EK_DAMAGED, "the unknown token's id %u is not free", (uint64_t)v->unk);
    if (v->delete_token == EK_TM_NONE) return EK_OK;
    int32_t index = v->delete_token < v->table_size ? v->bases[v->delete_token] : -1;
    if (v->level == 0 || index < 0 || v->records[index].length != 1 ||
        v->file[v->records[index].offset] != (v->level == 1 ? 0x7F : 'D'))
        return ek_fail(error, EK_DAMAGED, "the delete token %u is not the marker of capcode level %u",
                       (uint64_t)v->delete_token, (uint64_t)v->level);
    return EK_OK;
}

/* Deleted tokens are not used, but the file must end after them, and no id may be above the table's size. */
static int tm_check_rest(const ek_vocabulary *v, size_t length, size_t place, ek_error *error) {
    uint32_t highest = v->unk != EK_TM_NONE ? v->unk + 1 : 0, count = tm_u24(v->file + place);
    place += 3;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t size = place < length ? v->file[place] : 0;
        if (place >= length || length - place < 1 + size + 7)
            return ek_fail(error, EK_DAMAGED, "the vocabulary ends inside deleted token %u of %u", (uint64_t)i,
                           (uint64_t)count);
        uint32_t id = tm_u24(v->file + place + 1 + size);
        if (size == 0 || size > EK_TM_LONGEST || (id != EK_TM_NONE && id >= v->table_size))
            return ek_fail(error, EK_DAMAGED, "deleted token %u has %u bytes and id %u", (uint64_t)i, (uint64_t)size,
                           (uint64_t)id);
        if (id != EK_TM_NONE && id + 1 > highest) highest = id + 1;
        place += 1 + size + 7;
    }
    if (place != length)
        return ek_fail(error, EK_DAMAGED, "the vocabulary has %u bytes too many at the end", (uint64_t)(length - place));
    for (uint32_t id = v->table_size; id > highest; id--)
        if (v->bases[id - 1] >= 0) highest = id;
    if (highest != v->table_size)
        return ek_fail(error, EK_DAMAGED, "the table size is %u, but ids end at %u", (uint64_t)v->table_size,
                       (uint64_t)highest);
    return EK_OK;
}

int ek_vocabulary_open(ek_vocabulary *v, const uint8_t *file, size_t length, void *memory, ek_error *error) {
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
    v->unk = tm_u24(file + 8);
    v->table_size = tm_u24(file + 14);
    v->count = tm_u24(file + 17);
    v->delete_token = tm_u24(file + 20);
    v->nodes = tm_nodes(bytes);
    v->trie = memory;
    v->records = (ek_tm_record *)(v->trie + v->nodes);
    v->pieces = (int32_t *)(v->records + v->count);
    v->bases = v->pieces + v->table_size;
    v->order = (uint32_t *)(v->bases + v->table_size);
    if (v->charset == 2) return ek_fail(error, EK_UNSUPPORTED, "a TokenMonster vocabulary of the charset UTF-16");
    for (uint32_t id = 0; id < v->table_size; id++) v->pieces[id] = v->bases[id] = -1;
    size_t place = TM_HEADER;
    for (uint32_t i = 0; i < v->count && !status; i++) {
        status = tm_read_record(v, i, place, error);
        place += 1u + v->records[i].length + TM_AFTER;
    }
    for (int i = 0; i < 256; i++) {
        uint8_t class = file[end + (size_t)i];
        v->follow[i] = class == 1 ? 1 : class == 10 ? 2 : class == 12 ? 3 : 0;
    }
    if (!status) status = tm_check_duplicates(v, error);
    if (!status) status = tm_check_ids(v, tm_u24(file + 11), error);
    return status ? status : tm_check_rest(v, length, end + 256, error);
}
