/* Text to ids and ids to text, for every kind of tokenizer. */
#include "tokenizer.h"

#include "normalizer.h"

#define TOKENIZER_MOST_TEXT ((size_t)1 << 30)

const ek_tokenizer_info *ek_tokenizer_describe(const ek_tokenizer *t) { return &t->info; }

uint32_t ek_token_type(const ek_tokenizer *t, uint32_t id) {
    return id < t->info.vocabulary ? t->types[id] : EK_PADDING;
}

/* The bytes of an id that prints something, and how many; NULL for others. GPT-2's spelling is not undone. */
static const uint8_t *tokenizer_bytes(const ek_tokenizer *t, uint32_t id, size_t *length) {
    *length = 0;
    if (id >= t->info.vocabulary || t->types[id]) return NULL;
    if (t->info.kind != EK_TOKENMONSTER) {
        ek_text text = ek_bpe_text(&t->bpe, id);
        *length = text.length;
        return (const uint8_t *)text.bytes;
    }
    if (id >= t->monster.table_size || ek_tm_piece(&t->monster, id) < 0) return NULL;
    ek_tm_record record = ek_tm_at(&t->monster, (uint32_t)ek_tm_piece(&t->monster, id));
    *length = record.length;
    return t->monster.file + record.offset;
}

size_t ek_piece(const ek_tokenizer *t, uint32_t id, void *out, size_t capacity) {
    size_t length;
    uint8_t *to = out;
    const uint8_t *bytes = tokenizer_bytes(t, id, &length);
    if (!bytes) return 0;
    if (t->info.kind != EK_TOKENMONSTER) {
        /* A piece is not longer than its text. */
        if (capacity >= length) return ek_bpe_piece(&t->bpe, id, to);
        return length;
    }
    for (size_t i = 0; i < length && i < capacity; i++) to[i] = bytes[i];
    return length;
}

/* ---- encoding ---- */

size_t ek_encode_size(const ek_tokenizer *t, size_t length) {
    if (length > TOKENIZER_MOST_TEXT) return 0;
    if (t->info.kind == EK_TOKENMONSTER) return t->monster.flags & EK_BYTE_FLAGS ? length + 1 : 0;
    return ek_bpe_work(&t->bpe, length);
}

static void tokenizer_encode_part(const ek_tokenizer *t, const uint8_t *text, size_t length, uint8_t *work,
                                  ek_ids *out) {
    if (t->info.kind == EK_TOKENMONSTER) ek_vocabulary_encode(&t->monster, text, length, work, out);
    else ek_bpe_encode(&t->bpe, text, length, work, out);
}

int64_t ek_encode(const ek_tokenizer *t, const char *text, size_t length, uint32_t flags, uint32_t *ids,
                  size_t capacity, void *work, size_t work_size) {
    const uint8_t *bytes = (const uint8_t *)text;
    ek_ids out = {ids, capacity, 0};
    size_t start = 0;
    if (length > TOKENIZER_MOST_TEXT) return EK_ARGUMENT;
    if (work_size < ek_encode_size(t, length)) return EK_MEMORY;
    if (flags & EK_ADD_BOS && t->info.add_bos) ek_ids_add(&out, (uint32_t)t->info.bos);
    const ek_specials *specials = flags & EK_PARSE_SPECIALS ? &t->parsed : &t->always;
    for (size_t at = 0; at < length && specials->count;) {
        const ek_special *found = ek_specials_find(specials, bytes + at, length - at);
        if (!found) {
            at++;
            continue;
        }
        if (at > start) tokenizer_encode_part(t, bytes + start, at - start, work, &out);
        ek_ids_add(&out, found->id);
        start = at += found->length;
    }
    if (length > start) tokenizer_encode_part(t, bytes + start, length - start, work, &out);
    return (int64_t)out.count;
}

/* ---- decoding ---- */

void ek_decoder_start(ek_decoder *decoder, const ek_tokenizer *tokenizer) {
    static const ek_decoder empty;
    *decoder = empty;
    decoder->tokenizer = tokenizer;
}

/* SentencePiece puts a space before a text; the first one printed is that. */
static size_t decoder_strip(ek_decoder *d, uint8_t *out, size_t size) {
    if (d->begun || !size) return size;
    d->begun = 1;
    if (!d->tokenizer->bpe.space_prefix || out[0] != ' ') return size;
    for (size_t i = 1; i < size; i++) out[i - 1] = out[i];
    return size - 1;
}

size_t ek_decoder_feed(ek_decoder *d, uint32_t id, void *to) {
    const ek_tokenizer *t = d->tokenizer;
    uint8_t *out = to;
    size_t length, size = 0;
    const uint8_t *bytes = tokenizer_bytes(t, id, &length);
    if (!bytes) return 0;
    for (; size < d->pending_count; size++) out[size] = d->pending[size];
    if (t->info.kind == EK_TOKENMONSTER) size += ek_undo_feed(&d->undo, t->info.capcode, bytes, length, out + size);
    else size += ek_bpe_piece(&t->bpe, id, out + size);
    size_t unfinished = ek_utf8_unfinished(out, size) & 3;
    d->pending_count = (uint8_t)unfinished;
    for (size_t i = 0; i < unfinished; i++) d->pending[i] = out[size - unfinished + i];
    return decoder_strip(d, out, size - unfinished);
}

size_t ek_decoder_flush(ek_decoder *d, void *to) {
    uint8_t *out = to;
    size_t size = 0;
    for (; size < d->pending_count; size++) out[size] = d->pending[size];
    size += ek_undo_flush(&d->undo, d->tokenizer->info.capcode, out + size);
    size = decoder_strip(d, out, size);
    ek_decoder_start(d, d->tokenizer);
    return size;
}
