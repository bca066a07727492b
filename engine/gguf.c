/* Reads GGUF: the header, keys and tensor descriptions, each length and count checked before it is used.
 *
 * The layout (ggml/docs/gguf.md), little endian:
 *     "GGUF" · u32 version · u64 tensors · u64 keys · keys · descriptions of tensors · padding · data
 *     key: string · u32 type · value          string: u64 length · bytes
 *     array: u32 type of items · u64 count · items
 *     tensor: string · u32 dimensions · u64 each, fastest first · u32 type · u64 offset into the data
 * The time is linear in the bytes that are there, whatever the counts claim.
 */
#include "gguf.h"

#define MOST_ENTRIES 65536u
#define LONGEST_NAME 65536u

typedef struct {
    const uint8_t *bytes;
    size_t size, at;
} cursor;

static const uint8_t *take(cursor *c, uint64_t count) {
    if (count > c->size - c->at) return NULL;
    const uint8_t *p = c->bytes + c->at;
    c->at += (size_t)count;
    return p;
}

static int cut(ek_error *error) { return ek_fail(error, EK_DAMAGED, "the file is cut off or damaged in its header"); }

static uint32_t number_bytes(uint32_t type) {
    static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < sizeof bytes ? bytes[type] : 0;
}

/* Key names and tensor names go into messages, so they must be one short line. */
static int read_name(cursor *c, ek_text *name, ek_error *error) {
    const uint8_t *p = take(c, 8);
    if (!p) return cut(error);
    uint64_t length = ek_u64(p);
    if (length > LONGEST_NAME || !(p = take(c, length))) return cut(error);
    for (uint64_t i = 0; i < length; i++)
        if (p[i] < 32 || p[i] == 127) return ek_fail(error, EK_DAMAGED, "a name is not printable: the file is damaged");
    name->bytes = (const char *)p;
    name->length = (size_t)length;
    return EK_OK;
}

static int read_strings(cursor *c, ek_value *value) {
    size_t start = c->at;
    value->data = c->bytes + start;
    if (value->count > (c->size - c->at) / 8) return 0;
    for (uint64_t i = 0; i < value->count; i++) {
        const uint8_t *p = take(c, 8);
        if (!p || !take(c, ek_u64(p))) return 0;
    }
    value->length = c->at - start;
    return 1;
}

static int read_array(cursor *c, ek_text key, ek_value *value, ek_error *error) {
    const uint8_t *p = take(c, 12);
    if (!p) return cut(error);
    value->array = 1;
    value->type = ek_u32(p);
    value->count = ek_u64(p + 4);
    if (value->type == EK_STRING) return read_strings(c, value) ? EK_OK : cut(error);
    uint32_t bytes = number_bytes(value->type);
    if (!bytes) return ek_fail(error, EK_DAMAGED, "key %t is an array of a type that GGUF readers do not take", key);
    if (value->count > (c->size - c->at) / bytes) return cut(error);
    value->length = (size_t)value->count * bytes;
    value->data = take(c, value->length);
    return EK_OK;
}

static int read_value(cursor *c, ek_text key, ek_value *value, ek_error *error) {
    const uint8_t *p = take(c, 4);
    if (!p) return cut(error);
    value->type = ek_u32(p);
    value->array = 0;
    value->count = 1;
    if (value->type == EK_ARRAY) return read_array(c, key, value, error);
    uint64_t length = number_bytes(value->type);
    if (value->type == EK_STRING) {
        if (!(p = take(c, 8))) return cut(error);
        length = ek_u64(p);
    } else if (!length) {
        return ek_fail(error, EK_DAMAGED, "key %t has the unknown type %u", key, (uint64_t)value->type);
    }
    if (!(value->data = take(c, length))) return cut(error);
    value->length = (size_t)length;
    return EK_OK;
}

static int read_header(cursor *c, ek_file *file, uint64_t *keys, ek_error *error) {
    const uint8_t *p = c->bytes && c->size >= 4 ? take(c, 4) : NULL;
    if (!p || p[0] != 'G' || p[1] != 'G' || p[2] != 'U' || p[3] != 'F')
        return ek_fail(error, EK_DAMAGED, "not a GGUF file (it does not begin with `GGUF`)");
    if (!(p = take(c, 20))) return cut(error);
    uint32_t version = ek_u32(p);
    if (version >> 16) return ek_fail(error, EK_UNSUPPORTED, "a big-endian GGUF file; edgekit reads little-endian ones");
    if (version < 2 || version > 3)
        return ek_fail(error, EK_UNSUPPORTED, "GGUF version %u; edgekit reads 2 and 3", (uint64_t)version);
    file->tensors = ek_u64(p + 4);
    *keys = ek_u64(p + 12);
    /* The smallest entries: an empty name and a value of one byte; an empty name and no dimension. */
    if (*keys > c->size / 13 || file->tensors > c->size / 24)
        return ek_fail(error, EK_DAMAGED, "the file claims %u keys and %u tensors, more than it holds", *keys,
                       file->tensors);
    if (*keys > MOST_ENTRIES || file->tensors > MOST_ENTRIES)
        return ek_fail(error, EK_UNSUPPORTED, "the file has %u keys and %u tensors; edgekit reads at most %u of each",
                       *keys, file->tensors, (uint64_t)MOST_ENTRIES);
    return EK_OK;
}

int ek_walk_keys(const void *bytes, size_t size, ek_visit_key *visit, void *context, ek_file *file, ek_error *error) {
    cursor c = {bytes, size, 0};
    uint64_t keys = 0;
    *file = (ek_file){bytes, size, 0, 0, 32, 0};
    if (error) error->text[0] = 0;
    int status = read_header(&c, file, &keys, error);
    for (uint64_t i = 0; i < keys && !status; i++) {
        ek_text key;
        ek_value value;
        if ((status = read_name(&c, &key, error)) || (status = read_value(&c, key, &value, error))) break;
        if (ek_same(key, "general.alignment") &&
            (ek_value_unsigned(&value, 0, &file->alignment) || file->alignment > 1 << 20 || !file->alignment ||
             (file->alignment & (file->alignment - 1))))
            return ek_fail(error, EK_DAMAGED, "general.alignment must be a power of two, at most 1048576");
        status = visit(context, key, &value, error);
    }
    file->infos = c.at;
    return status;
}

static int read_info(cursor *c, ek_tensor_info *info, ek_error *error) {
    int status = read_name(c, &info->name, error);
    if (status) return status;
    const uint8_t *p = take(c, 4);
    if (!p) return cut(error);
    info->dimensions = ek_u32(p);
    if (info->dimensions < 1 || info->dimensions > 4)
        return ek_fail(error, EK_DAMAGED, "tensor %t has %u dimensions, not 1 to 4", info->name,
                       (uint64_t)info->dimensions);
    if (!(p = take(c, 8 * info->dimensions + 12))) return cut(error);
    info->width = ek_u64(p);
    info->rows = 1;
    for (uint32_t i = 1; i < info->dimensions; i++) info->rows = ek_times(info->rows, ek_u64(p + 8 * i));
    p += 8 * info->dimensions;
    info->type = ek_u32(p);
    info->offset = ek_u64(p + 4);
    ek_type type = ek_type_of(info->type);
    if (!type.elements)
        return ek_fail(error, EK_DAMAGED, "tensor %t has the unknown type %u", info->name, (uint64_t)info->type);
    uint64_t count = ek_times(info->width, info->rows);
    if (count == 0 || count >= (uint64_t)1 << 56)
        return ek_fail(error, EK_DAMAGED, "tensor %t has an impossible shape", info->name);
    if (info->width % type.elements)
        return ek_fail(error, EK_DAMAGED, "tensor %t: rows of %u do not divide into %s blocks of %u", info->name,
                       info->width, type.name, (uint64_t)type.elements);
    info->bytes = count / type.elements * type.bytes;
    return EK_OK;
}

/* llama.cpp takes tensors only one after the other; so none overlaps another. */
int ek_walk_tensors(ek_file *file, ek_visit_tensor *visit, void *context, ek_error *error) {
    cursor c = {file->bytes, file->size, file->infos};
    uint64_t end = 0, mask = file->alignment - 1;
    ek_tensor_info info = {{"", 0}, 0, 0, 0, 0, 0, 0};
    for (uint64_t i = 0; i < file->tensors; i++) {
        int status = read_info(&c, &info, error);
        if (status) return status;
        if (info.offset != ((end + mask) & ~mask))
            return ek_fail(error, EK_DAMAGED, "tensor %t begins at %u of the data, not at %u", info.name, info.offset,
                           (end + mask) & ~mask);
        end = info.offset + info.bytes;
        if (end > file->size) /* also keeps the sum from wrapping */
            return ek_fail(error, EK_DAMAGED, "tensor %t reaches past the end of the file: it is cut off", info.name);
        if (file->data && (status = visit(context, &info, error))) return status;
    }
    if (file->data) return EK_OK;
    uint64_t data = (c.at + mask) & ~mask;
    if (data > file->size || end > file->size - data)
        return ek_fail(error, EK_DAMAGED, "tensor %t reaches past the end of the file: it is cut off", info.name);
    file->data = (size_t)data;
    return ek_walk_tensors(file, visit, context, error);
}

typedef struct {
    const char *const *keys;
    size_t count;
    ek_value *values;
} search;

static int visit_search(void *context, ek_text key, const ek_value *value, ek_error *error) {
    search *s = context;
    for (size_t i = 0; i < s->count; i++) {
        if (!ek_same(key, s->keys[i])) continue;
        if (s->values[i].type != EK_ABSENT) return ek_fail(error, EK_DAMAGED, "key %t occurs twice", key);
        s->values[i] = *value;
    }
    return EK_OK;
}

int ek_find(const void *file, size_t length, const char *const *keys, size_t count, ek_value *values, ek_error *error) {
    search s = {keys, count, values};
    ek_file header;
    for (size_t i = 0; i < count; i++) values[i] = (ek_value){EK_ABSENT, 0, 0, NULL, 0};
    return ek_walk_keys(file, length, visit_search, &s, &header, error);
}
