/* Tensors by their names: which a Llama has, and with what shapes and types. */
#include "config.h"

static const char *const LAYER[EK_LAYER_TENSORS] = {
    "attn_norm.weight", "attn_q.weight", "attn_k.weight",   "attn_v.weight",    "attn_output.weight", "ffn_norm.weight",
    "ffn_gate.weight",  "ffn_up.weight", "ffn_down.weight", "attn_q.bias",      "attn_k.bias",        "attn_v.bias",
    "attn_output.bias", "ffn_gate.bias", "ffn_up.bias",     "ffn_down.bias"};
static const char *const OTHERS[] = {"token_embd.weight", "output_norm.weight", "output.weight", "rope_freqs.weight"};

/* EK_PLACES if it is none of a Llama's. */
static uint32_t place_of(ek_text name, uint32_t *layer) {
    *layer = 0;
    for (uint32_t i = 0; i < EK_PLACES - EK_EMBEDDING; i++)
        if (ek_same(name, OTHERS[i])) return EK_EMBEDDING + i;
    size_t at = 4;
    if (name.length < 6 || !ek_same((ek_text){name.bytes, 4}, "blk.")) return EK_PLACES;
    for (; at < name.length && at < 8 && name.bytes[at] >= '0' && name.bytes[at] <= '9'; at++)
        *layer = *layer * 10 + (uint32_t)(name.bytes[at] - '0');
    if (at == 4 || (at > 5 && name.bytes[4] == '0') || at >= name.length || name.bytes[at] != '.') return EK_PLACES;
    ek_text rest = {name.bytes + at + 1, name.length - at - 1};
    for (uint32_t i = 0; i < EK_LAYER_TENSORS; i++)
        if (ek_same(rest, LAYER[i])) return i;
    return EK_PLACES;
}

static void shape_of(uint32_t place, const ek_info *info, uint64_t *width, uint64_t *rows) {
    uint64_t hidden = info->hidden, wide = info->intermediate;
    uint64_t q = (uint64_t)info->heads * info->head_dim, kv = (uint64_t)info->kv_heads * info->head_dim;
    uint64_t shapes[EK_PLACES][2] = {
        [EK_ATTN_NORM] = {hidden, 1}, [EK_Q] = {hidden, q}, [EK_K] = {hidden, kv}, [EK_V] = {hidden, kv},
        [EK_O] = {q, hidden}, [EK_FFN_NORM] = {hidden, 1}, [EK_GATE] = {hidden, wide}, [EK_UP] = {hidden, wide},
        [EK_DOWN] = {wide, hidden}, [EK_Q_BIAS] = {q, 1}, [EK_K_BIAS] = {kv, 1}, [EK_V_BIAS] = {kv, 1},
        [EK_O_BIAS] = {hidden, 1}, [EK_GATE_BIAS] = {wide, 1}, [EK_UP_BIAS] = {wide, 1}, [EK_DOWN_BIAS] = {hidden, 1},
        [EK_EMBEDDING] = {hidden, info->vocabulary}, [EK_OUTPUT_NORM] = {hidden, 1},
        [EK_OUTPUT] = {hidden, info->vocabulary}, [EK_ROPE_FREQS] = {info->head_dim / 2, 1}};
    *width = shapes[place][0];
    *rows = shapes[place][1];
}

static int runs(uint32_t type, int vector) {
    static const uint8_t MATRICES[] = {EK_TYPE_F32, EK_TYPE_F16, EK_TYPE_BF16, EK_TYPE_Q8_0, EK_TYPE_Q4_0, EK_TYPE_Q4_1,
                                       EK_TYPE_Q5_0, EK_TYPE_Q5_1, EK_TYPE_IQ4_NL, EK_TYPE_Q4_K, EK_TYPE_Q5_K, EK_TYPE_Q6_K};
    for (size_t i = 0; i < (vector ? 3 : sizeof MATRICES); i++)
        if (MATRICES[i] == type) return 1;
    return 0;
}

typedef struct {
    ek_info *info;
    uint16_t seen[EK_MOST_LAYERS];
    uint16_t others;
} check;

static int visit_embedding(void *context, const ek_tensor_info *t, ek_error *error) {
    ek_info *info = context;
    uint32_t layer;
    if (place_of(t->name, &layer) != EK_EMBEDDING) return EK_OK;
    if (t->rows > 1 << 22)
        return ek_fail(error, EK_UNSUPPORTED, "a vocabulary of %u; edgekit's engine runs at most 4194304", t->rows);
    info->vocabulary = (uint32_t)t->rows;
    return EK_OK;
}

static int visit_check(void *context, const ek_tensor_info *t, ek_error *error) {
    check *c = context;
    uint32_t layer = 0, place = place_of(t->name, &layer);
    uint64_t width = 0, rows = 0;
    if (place == EK_PLACES || (place < EK_LAYER_TENSORS && layer >= c->info->layers))
        return ek_fail(error, EK_UNSUPPORTED, "tensor %t is none of a Llama's of %u layers", t->name,
                       (uint64_t)c->info->layers);
    shape_of(place, c->info, &width, &rows);
    if (t->width != width || t->rows != rows)
        return ek_fail(error, EK_DAMAGED, "tensor %t has rows of %u, %u of them, and not %u and %u", t->name, t->width,
                       t->rows, width, rows);
    if (!runs(t->type, ek_is_vector(place)))
        return ek_fail(error, EK_UNSUPPORTED, "tensor %t has the type %s, which edgekit's engine does not run", t->name,
                       ek_type_of(t->type).name);
    uint16_t *seen = place < EK_LAYER_TENSORS ? &c->seen[layer] : &c->others;
    uint16_t bit = (uint16_t)(1u << (place < EK_LAYER_TENSORS ? place : place - EK_EMBEDDING));
    if (*seen & bit) return ek_fail(error, EK_DAMAGED, "tensor %t occurs twice", t->name);
    *seen |= bit;
    if (place == EK_ROPE_FREQS && c->info->rope_factor != 1)
        return ek_fail(error, EK_UNSUPPORTED, "tensor %t beside a linear scaling of the rotary embedding", t->name);
    if (place != EK_ROPE_FREQS) c->info->parameters += width * rows;
    if (place >= EK_Q_BIAS && place <= EK_DOWN_BIAS) c->info->biases = 1;
    if (place == EK_OUTPUT) c->info->tied = 0;
    if (!ek_is_vector(place) && place != EK_EMBEDDING) c->info->step_bytes += t->bytes;
    return EK_OK;
}

static int visit_tied(void *context, const ek_placed *tensor, ek_error *error) {
    ek_info *info = context;
    (void)error;
    if (tensor->place == EK_EMBEDDING && info->tied) info->step_bytes += tensor->info->bytes;
    return EK_OK;
}

int ek_check_tensors(ek_file *file, ek_info *info, ek_error *error) {
    check c = {info, {0}, 0};
    int status = ek_walk_tensors(file, visit_embedding, info, error);
    if (status) return status;
    if (!info->vocabulary) return ek_fail(error, EK_DAMAGED, "tensor token_embd.weight is missing");
    info->tied = 1;
    if ((status = ek_walk_tensors(file, visit_check, &c, error))) return status;
    if (!(c.others & 1 << (EK_OUTPUT_NORM - EK_EMBEDDING)))
        return ek_fail(error, EK_DAMAGED, "tensor output_norm.weight is missing");
    for (uint32_t layer = 0; layer < info->layers; layer++)
        for (uint32_t place = 0; place < EK_LAYER_REQUIRED; place++)
            if (!(c.seen[layer] & 1 << place))
                return ek_fail(error, EK_DAMAGED, "tensor blk.%u.%s is missing", (uint64_t)layer, LAYER[place]);
    return ek_walk_placed(file, visit_tied, info, error);
}

typedef struct {
    const ek_file *file;
    ek_visit_placed *visit;
    void *context;
} placing;

static int visit_place(void *context, const ek_tensor_info *t, ek_error *error) {
    placing *p = context;
    ek_placed placed = {0, 0, t, p->file->bytes + p->file->data + t->offset};
    placed.place = place_of(t->name, &placed.layer);
    return p->visit(p->context, &placed, error);
}

int ek_walk_placed(ek_file *file, ek_visit_placed *visit, void *context, ek_error *error) {
    placing p = {file, visit, context};
    return ek_walk_tensors(file, visit_place, &p, error);
}
