/* Special tokens: their spellings in a text, and the ids that end a text. */
#include "tokenizer.h"

void ek_specials_add(ek_specials *s, const uint8_t *bytes, size_t length, uint32_t id) {
    if (length == 0 || length > EK_SPECIAL_LONGEST || s->count == s->capacity) return;
    uint32_t hash = EK_HASH;
    for (size_t i = 0; i < length; i++) hash = ek_hash(hash, bytes[i]);
    uint32_t place = ek_hash_end(hash) & s->mask;
    for (; s->table[place]; place = (place + 1) & s->mask) {
        const ek_special *other = &s->items[s->table[place] - 1];
        size_t same = 0;
        while (other->length == length && same < length && other->bytes[same] == bytes[same]) same++;
        if (same == length) return;
    }
    ek_special *item = &s->items[s->count];
    item->bytes = bytes;
    item->length = (uint32_t)length;
    item->id = id;
    s->table[place] = ++s->count;
    s->firsts[bytes[0] >> 3] |= (uint8_t)(1 << (bytes[0] & 7));
    s->lengths[length >> 3] |= (uint8_t)(1 << (length & 7));
}

const ek_special *ek_specials_find(const ek_specials *s, const uint8_t *text, size_t length) {
    const ek_special *found = NULL;
    uint32_t hash = EK_HASH;
    if (!length || !(s->firsts[text[0] >> 3] >> (text[0] & 7) & 1)) return NULL;
    for (size_t size = 1; size <= length && size <= EK_SPECIAL_LONGEST; size++) {
        hash = ek_hash(hash, text[size - 1]);
        if (!(s->lengths[size >> 3] >> (size & 7) & 1)) continue;
        for (uint32_t place = ek_hash_end(hash) & s->mask; s->table[place]; place = (place + 1) & s->mask) {
            const ek_special *item = &s->items[s->table[place] - 1];
            size_t same = 0;
            while (item->length == size && same < size && item->bytes[same] == text[same]) same++;
            if (same == size) found = item;
        }
    }
    return found;
}

int64_t ek_key_id(const ek_value *values, int key, int64_t missing) {
    uint64_t id;
    return ek_value_unsigned(&values[key], 0, &id) || id > 0x7FFFFFFF ? missing : (int64_t)id;
}

static void stops_add(ek_tokenizer *t, uint64_t id, ek_accept_id *accept) {
    if (id >= t->info.vocabulary || !accept(t, id)) return;
    t->types[id] |= EK_STOP | EK_SPECIAL;
    if (t->info.eos < 0) t->info.eos = (int32_t)id;
}

static int stops_is_blank(uint8_t c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

/* The number, or the numbers of a list, under "eos_token_id" in one of the model's JSON files. */
static void stops_in_json(ek_tokenizer *t, const ek_value *file, ek_accept_id *accept) {
    static const char key[] = "\"eos_token_id\"";
    size_t at = 0, same = 0;
    if (file->type != EK_UINT8 || !file->array) return;
    while (at < file->length && key[same]) {
        same = file->data[at] == (uint8_t)key[same] ? same + 1 : file->data[at] == '"';
        at++;
    }
    while (at < file->length && (stops_is_blank(file->data[at]) || file->data[at] == ':')) at++;
    int list = at < file->length && file->data[at] == '[';
    at += (size_t)list;
    while (at < file->length) {
        uint64_t id = 0;
        size_t digits = 0;
        while (at < file->length && stops_is_blank(file->data[at])) at++;
        for (; at < file->length && file->data[at] >= '0' && file->data[at] <= '9' && digits < 10; at++, digits++)
            id = id * 10 + (uint64_t)(file->data[at] - '0');
        if (!digits) return;
        stops_add(t, id, accept);
        while (at < file->length && stops_is_blank(file->data[at])) at++;
        if (!list || at == file->length || file->data[at++] != ',') return;
    }
}

/* Tokens that end a text by their spelling in llama.cpp (llama-vocab.cpp, llama_vocab::impl::load). */
static int stops_is_spelled(ek_text text) {
    static const char *const spelled[] = {
        "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<eos>", "<end_of_turn>", "<end_of_utterance>", "<|eot_id|>", "<|eom_id|>",
        "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<|endoftext|>", "<|end_of_text|>",
        "<\xef\xbd\x9c\x65nd\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>", "<|fim_pad|>", "<fim-pad>", "<fim_pad>",
        "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>",
    };
    for (size_t i = 0; i < sizeof spelled / sizeof *spelled; i++) {
        size_t same = 0;
        while (same < text.length && spelled[i][same] && text.bytes[same] == spelled[i][same]) same++;
        if (same == text.length && !spelled[i][same]) return 1;
    }
    return 0;
}

static int stops_known(const ek_bpe *bpe, const char *text) {
    size_t length = 0;
    while (text[length]) length++;
    return ek_bpe_find(bpe, (const uint8_t *)text, length) != EK_BPE_NONE;
}

void ek_find_stops(ek_tokenizer *t, const ek_value *values, ek_accept_id *accept) {
    int ours = values[EK_KEY_CONFIG].type != EK_ABSENT; /* edgekit wrote the file, with the model's own configuration */
    int64_t usual = t->info.kind == EK_SENTENCEPIECE ? 2 : t->info.kind == EK_BYTE_BPE ? 11 : -1;
    int64_t declared[3] = {ek_key_id(values, EK_KEY_EOS, usual), ek_key_id(values, EK_KEY_EOT, -1),
                           ek_key_id(values, EK_KEY_EOM, -1)};
    for (int i = 0; i < 3; i++)
        if (declared[i] >= 0) stops_add(t, (uint64_t)declared[i], accept);
    stops_in_json(t, &values[EK_KEY_GENERATION], accept);
    stops_in_json(t, &values[EK_KEY_CONFIG], accept);
    stops_in_json(t, &values[EK_KEY_TOKENIZER_CONFIG], accept);
    if (ours || t->info.kind == EK_TOKENMONSTER) return;
    /* gpt-oss: <|end|> ends a part of an answer there. */
    int parts = stops_known(&t->bpe, "<|return|>") && stops_known(&t->bpe, "<|call|>");
    for (uint32_t id = 0; id < t->bpe.count; id++) {
        ek_text text = ek_bpe_text(&t->bpe, id);
        if (text.length < 5 || !stops_is_spelled(text)) continue;
        if (parts && text.length == 7 && text.bytes[2] == 'e' && text.bytes[3] == 'n') continue;
        stops_add(t, id, accept);
    }
}
