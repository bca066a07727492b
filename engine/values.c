/* Values of metadata as numbers and strings; ggml's types of tensors. */
#include "gguf.h"

static int integer(const ek_value *value, uint64_t i, uint64_t *magnitude, int *negative) {
    static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 0, 1, 0, 0, 8, 8, 0};
    static const uint8_t is_signed[] = {0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 0};
    if (i >= value->count || value->type >= sizeof bytes || !bytes[value->type]) return EK_ARGUMENT;
    uint32_t n = bytes[value->type];
    uint64_t number = 0;
    for (uint32_t k = 0; k < n; k++) number |= (uint64_t)value->data[i * n + k] << 8 * k;
    *negative = is_signed[value->type] && number >> (8 * n - 1);
    if (*negative) number = (0 - number) & (UINT64_MAX >> (64 - 8 * n));
    *magnitude = number;
    return EK_OK;
}

int ek_value_unsigned(const ek_value *value, uint64_t i, uint64_t *out) {
    int negative = 0;
    return integer(value, i, out, &negative) || negative ? EK_ARGUMENT : EK_OK;
}

int ek_value_double(const ek_value *value, uint64_t i, double *out) {
    uint64_t magnitude = 0;
    int negative = 0;
    if (i < value->count && value->type == EK_FLOAT32) {
        *out = (double)ek_f32(value->data + 4 * i);
    } else if (i < value->count && value->type == EK_FLOAT64) {
        *out = ek_double(ek_u64(value->data + 8 * i));
    } else {
        if (integer(value, i, &magnitude, &negative)) return EK_ARGUMENT;
        *out = negative ? -(double)magnitude : (double)magnitude;
    }
    return EK_OK;
}

ek_strings ek_value_strings(const ek_value *value) {
    return (ek_strings){value->data, value->type == EK_STRING ? value->count : 0, value->array, value->length};
}

int ek_next_string(ek_strings *strings, const char **bytes, size_t *length) {
    if (!strings->left) return 0;
    strings->left--;
    *length = strings->array ? (size_t)ek_u64(strings->at) : strings->length;
    if (strings->array) strings->at += 8;
    *bytes = (const char *)strings->at;
    strings->at += *length;
    return 1;
}

/* ggml.c, `type_traits`. */
static const ek_type TYPES[] = {
    [0] = {"F32", 1, 4},         [1] = {"F16", 1, 2},        [2] = {"Q4_0", 32, 18},     [3] = {"Q4_1", 32, 20},
    [6] = {"Q5_0", 32, 22},      [7] = {"Q5_1", 32, 24},     [8] = {"Q8_0", 32, 34},     [9] = {"Q8_1", 32, 36},
    [10] = {"Q2_K", 256, 84},    [11] = {"Q3_K", 256, 110},  [12] = {"Q4_K", 256, 144},  [13] = {"Q5_K", 256, 176},
    [14] = {"Q6_K", 256, 210},   [15] = {"Q8_K", 256, 292},  [16] = {"IQ2_XXS", 256, 66}, [17] = {"IQ2_XS", 256, 74},
    [18] = {"IQ3_XXS", 256, 98}, [19] = {"IQ1_S", 256, 50},  [20] = {"IQ4_NL", 32, 18},  [21] = {"IQ3_S", 256, 110},
    [22] = {"IQ2_S", 256, 82},   [23] = {"IQ4_XS", 256, 136}, [24] = {"I8", 1, 1},       [25] = {"I16", 1, 2},
    [26] = {"I32", 1, 4},        [27] = {"I64", 1, 8},       [28] = {"F64", 1, 8},       [29] = {"IQ1_M", 256, 56},
    [30] = {"BF16", 1, 2},       [34] = {"TQ1_0", 256, 54},  [35] = {"TQ2_0", 256, 66},  [39] = {"MXFP4", 32, 17},
    [40] = {"NVFP4", 64, 36},    [41] = {"Q1_0", 128, 18},
};

ek_type ek_type_of(uint32_t number) {
    if (number < sizeof TYPES / sizeof *TYPES) return TYPES[number];
    return (ek_type){"", 0, 0};
}
