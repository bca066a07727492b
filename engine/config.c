/* The keys and tensors of a GGUF file as the numbers of a Llama, checked against each other.
 *
 * Keys of llama.* that are not known are refused: they may change what the model computes. */
#include "config.h"

enum {
    K_CONTEXT, K_HIDDEN, K_LAYERS, K_INTERMEDIATE, K_HEADS, K_KV_HEADS, K_EPSILON, K_KEY_LENGTH, K_VALUE_LENGTH,
    K_ROPE_DIMENSIONS, K_THETA, K_SCALING, K_FACTOR, K_OLD_FACTOR, K_EXPERTS, K_EXPERTS_USED, K_PARALLEL, K_CAUSAL, K_READ,
    K_ARCHITECTURE = K_READ, K_COUNT
};

static const char *const KEYS[K_READ] = {
    "context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count",
    "attention.head_count_kv", "attention.layer_norm_rms_epsilon", "attention.key_length", "attention.value_length",
    "rope.dimension_count", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear",
    "expert_count", "expert_used_count", "use_parallel_residual", "attention.causal"};

/* They change nothing that is computed. */
static const char *const IGNORED[] = {"vocab_size", "rope.scaling.original_context_length", "rope.scaling.finetuned",
                                      "tensor_data_layout"};

typedef struct {
    ek_value values[K_COUNT];
} keys;

static int visit_key(void *context, ek_text key, const ek_value *value, ek_error *error) {
    keys *k = context;
    int at = -1, ignored = 0;
    ek_text rest = {key.bytes + 6, key.length - 6};
    if (ek_same(key, "general.architecture")) {
        at = K_ARCHITECTURE;
    } else if (key.length > 6 && ek_same((ek_text){key.bytes, 6}, "llama.")) {
        for (int i = 0; i < K_READ; i++)
            if (ek_same(rest, KEYS[i])) at = i;
        for (size_t i = 0; i < sizeof IGNORED / sizeof *IGNORED; i++) ignored |= ek_same(rest, IGNORED[i]);
        if (at < 0 && !ignored) return ek_fail(error, EK_UNSUPPORTED, "key %t: edgekit's engine does not know it", key);
    }
    if (at < 0) return EK_OK;
    if (k->values[at].type != EK_ABSENT) return ek_fail(error, EK_DAMAGED, "key %t occurs twice", key);
    k->values[at] = *value;
    return EK_OK;
}

/* A whole number; of an array (one number a layer) all must be the same. */
static int whole(const keys *k, int key, uint32_t absent, uint32_t *out, ek_error *error) {
    const ek_value *value = &k->values[key];
    uint64_t number = 0, other = 0;
    *out = absent;
    if (value->type == EK_ABSENT && absent) return EK_OK;
    if (value->type == EK_ABSENT) return ek_fail(error, EK_DAMAGED, "key llama.%s is missing", KEYS[key]);
    if (value->type == EK_BOOL || ek_value_unsigned(value, 0, &number) || !number || number > INT32_MAX)
        return ek_fail(error, EK_DAMAGED, "llama.%s must be a whole number above 0", KEYS[key]);
    for (uint64_t i = 1; i < value->count; i++)
        if (ek_value_unsigned(value, i, &other) || other != number)
            return ek_fail(error, EK_UNSUPPORTED, "llama.%s differs from layer to layer", KEYS[key]);
    *out = (uint32_t)number;
    return EK_OK;
}

static int real(const keys *k, int key, double absent, float *out, ek_error *error) {
    const ek_value *value = &k->values[key];
    double number = absent;
    if (value->type == EK_ABSENT && absent == 0) return ek_fail(error, EK_DAMAGED, "key llama.%s is missing", KEYS[key]);
    if (value->type != EK_ABSENT &&
        (value->array || value->type == EK_BOOL || ek_value_double(value, 0, &number) || !(number > 1e-30 && number < 1e30)))
        return ek_fail(error, EK_DAMAGED, "llama.%s must be a number above 0", KEYS[key]);
    *out = (float)number;
    return EK_OK;
}

static int architecture(const keys *k, ek_error *error) {
    const ek_value *value = &k->values[K_ARCHITECTURE];
    if (value->type != EK_STRING || value->array) return ek_fail(error, EK_DAMAGED, "general.architecture is missing");
    ek_text name = {(const char *)value->data, value->length};
    if (ek_same(name, "llama")) return EK_OK;
    return ek_fail(error, EK_UNSUPPORTED, "general.architecture is `%t`; edgekit's engine runs `llama` only", name);
}

/* Keys that may be there with the value that switches the feature off. */
static int switches(const keys *k, ek_error *error) {
    static const int OFF[][2] = {{K_EXPERTS, 0}, {K_EXPERTS_USED, 0}, {K_PARALLEL, 0}, {K_CAUSAL, 1}};
    for (size_t i = 0; i < sizeof OFF / sizeof *OFF; i++) {
        const ek_value *value = &k->values[OFF[i][0]];
        uint64_t number = 0;
        if (value->type == EK_ABSENT) continue;
        if (value->array || ek_value_unsigned(value, 0, &number) || number != (uint64_t)OFF[i][1])
            return ek_fail(error, EK_UNSUPPORTED, "llama.%s is set, which edgekit's engine does not do", KEYS[OFF[i][0]]);
    }
    return EK_OK;
}

/* Linear scaling of the frequencies, as llama.cpp reads it. */
static int scaling(const keys *k, float *factor, ek_error *error) {
    const ek_value *type = &k->values[K_SCALING];
    int key = k->values[K_FACTOR].type == EK_ABSENT ? K_OLD_FACTOR : K_FACTOR;
    double number = 0;
    *factor = 1;
    if (type->type != EK_ABSENT) {
        ek_text name = {(const char *)type->data, type->type == EK_STRING && !type->array ? type->length : 0};
        if (ek_same(name, "none")) return EK_OK;
        if (!ek_same(name, "linear"))
            return ek_fail(error, EK_UNSUPPORTED, "llama.rope.scaling.type is `%t`, which edgekit's engine does not do",
                           name);
    }
    if (k->values[key].type == EK_ABSENT || (!ek_value_double(&k->values[key], 0, &number) && number == 0)) return EK_OK;
    return real(k, key, 1, factor, error);
}

static int numbers(const keys *k, ek_info *info, ek_error *error) {
    int status = EK_OK;
    uint32_t value_length = 0, rope = 0;
    (void)((status = architecture(k, error)) || (status = switches(k, error)) ||
           (status = scaling(k, &info->rope_factor, error)) ||
           (status = whole(k, K_CONTEXT, 0, &info->context, error)) ||
           (status = whole(k, K_HIDDEN, 0, &info->hidden, error)) ||
           (status = whole(k, K_LAYERS, 0, &info->layers, error)) ||
           (status = whole(k, K_INTERMEDIATE, 0, &info->intermediate, error)) ||
           (status = whole(k, K_HEADS, 0, &info->heads, error)) ||
           (status = whole(k, K_KV_HEADS, info->heads, &info->kv_heads, error)) ||
           (status = whole(k, K_KEY_LENGTH, info->hidden / info->heads ? info->hidden / info->heads : 1, &info->head_dim,
                           error)) ||
           (status = whole(k, K_VALUE_LENGTH, info->head_dim, &value_length, error)) ||
           (status = whole(k, K_ROPE_DIMENSIONS, info->head_dim, &rope, error)) ||
           (status = real(k, K_EPSILON, 0, &info->epsilon, error)) ||
           (status = real(k, K_THETA, 10000, &info->rope_theta, error)));
    if (status) return status;
    if (value_length != info->head_dim || rope != info->head_dim)
        return ek_fail(error, EK_UNSUPPORTED, "keys of %u, values of %u and rotary embeddings of %u numbers: edgekit's "
                       "engine needs one size", (uint64_t)info->head_dim, (uint64_t)value_length, (uint64_t)rope);
    if (info->head_dim % 2)
        return ek_fail(error, EK_DAMAGED, "head_dim %u is odd; rotary embeddings need pairs", (uint64_t)info->head_dim);
    if (info->heads % info->kv_heads)
        return ek_fail(error, EK_DAMAGED, "%u heads do not divide by %u key heads", (uint64_t)info->heads,
                       (uint64_t)info->kv_heads);
    if (info->layers > EK_MOST_LAYERS)
        return ek_fail(error, EK_UNSUPPORTED, "llama.block_count is %u; edgekit's engine runs at most %u layers",
                       (uint64_t)info->layers, (uint64_t)EK_MOST_LAYERS);
    return EK_OK;
}

int ek_config(const void *bytes, size_t size, ek_info *info, ek_file *file, ek_error *error) {
    keys k;
    for (int i = 0; i < K_COUNT; i++) k.values[i] = (ek_value){EK_ABSENT, 0, 0, NULL, 0};
    *info = (ek_info){0};
    int status = ek_walk_keys(bytes, size, visit_key, &k, file, error);
    if (!status) status = numbers(&k, info, error);
    return status ? status : ek_check_tensors(file, info, error);
}

int ek_inspect(const void *file, size_t length, ek_info *info, ek_error *error) {
    ek_file header;
    return ek_config(file, length, info, &header, error);
}
