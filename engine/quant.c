/* Unpacks blocks of ggml's types; the layouts are those of ggml-common.h and ggml-quants.c. */
#include "quant.h"

static void low_high(const uint8_t *nibbles, int8_t *w) {
    for (int i = 0; i < 16; i++) {
        w[i] = (int8_t)(nibbles[i] & 15);
        w[i + 16] = (int8_t)(nibbles[i] >> 4);
    }
}

static void q5(const uint8_t *high, const uint8_t *nibbles, int zero, int8_t *w) {
    uint32_t bits = ek_u32(high);
    low_high(nibbles, w);
    for (int i = 0; i < 32; i++) w[i] = (int8_t)(w[i] + (int)(bits >> i & 1) * 16 - zero);
}

static void iq4_nl(const uint8_t *nibbles, int8_t *w) {
    static const int8_t VALUES[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    low_high(nibbles, w);
    for (int i = 0; i < 32; i++) w[i] = VALUES[w[i]];
}

/* Scale and minimum of block `b` of 8 in a super-block of q4_k or q5_k: 6 bits each in 12 bytes. The products with the
 * super-block's float16 are exact. */
static void k_scales(const uint8_t *super, int b, ek_block *out) {
    const uint8_t *p = super + 4;
    int scale = b < 4 ? p[b] & 63 : (p[b + 4] & 15) | p[b - 4] >> 6 << 4;
    int min = b < 4 ? p[b + 4] & 63 : p[b + 4] >> 4 | p[b] >> 6 << 4;
    out->scale[0] = out->scale[1] = ek_of_half(ek_u16(super)) * (float)scale;
    out->min = -(ek_of_half(ek_u16(super + 2)) * (float)min);
}

static void q45_k(const uint8_t *super, const uint8_t *high, const uint8_t *nibbles, int b, ek_block *out) {
    k_scales(super, b, out);
    for (int i = 0; i < 32; i++) {
        int low = nibbles[32 * (b / 2) + i] >> 4 * (b & 1) & 15;
        out->w[i] = (int8_t)(high ? low | (high[i] >> b & 1) << 4 : low);
    }
}

static void q6_k(const uint8_t *super, int b, ek_block *out) {
    int half = b / 4, k = b % 4;
    const uint8_t *low = super + 64 * half + 32 * (k & 1), *high = super + 128 + 32 * half;
    const int8_t *scales = (const int8_t *)super + 192 + 8 * half + 2 * k;
    float d = ek_of_half(ek_u16(super + 208));
    for (int i = 0; i < 32; i++) out->w[i] = (int8_t)((low[i] >> 4 * (k >> 1) & 15) + (high[i] >> 2 * k & 3) * 16 - 32);
    for (int i = 0; i < 2; i++) out->scale[i] = d * (float)scales[i];
}

void ek_unpack(uint32_t type, const uint8_t *row, size_t index, ek_block *out) {
    ek_type layout = ek_type_of(type);
    const uint8_t *p = row + index / (layout.elements / 32) * layout.bytes;
    int b = (int)(index % (layout.elements / 32));
    out->min = 0;
    if (layout.elements == 32) out->scale[0] = out->scale[1] = ek_of_half(ek_u16(p));
    if (type == EK_TYPE_Q4_1 || type == EK_TYPE_Q5_1) out->min = ek_of_half(ek_u16(p + 2));
    switch (type) {
        case EK_TYPE_Q8_0:
            for (int i = 0; i < 32; i++) out->w[i] = ((const int8_t *)p)[2 + i];
            break;
        case EK_TYPE_Q4_0: low_high(p + 2, out->w); break;
        case EK_TYPE_Q4_1: low_high(p + 4, out->w); break;
        case EK_TYPE_Q5_0: q5(p + 2, p + 6, 16, out->w); break;
        case EK_TYPE_Q5_1: q5(p + 4, p + 8, 0, out->w); break;
        case EK_TYPE_IQ4_NL: iq4_nl(p + 2, out->w); break;
        case EK_TYPE_Q4_K: q45_k(p, NULL, p + 16, b, out); break;
        case EK_TYPE_Q5_K: q45_k(p, p + 16, p + 48, b, out); break;
        case EK_TYPE_Q6_K: q6_k(p, b, out); break;
        default: break;
    }
}

static float read_float(uint32_t type, const uint8_t *row, size_t i) {
    if (type == EK_TYPE_F32) return ek_f32(row + 4 * i);
    return type == EK_TYPE_F16 ? ek_of_half(ek_u16(row + 2 * i)) : ek_of_bfloat(ek_u16(row + 2 * i));
}

void ek_read_row(uint32_t type, const uint8_t *row, size_t count, float *out) {
    ek_block block;
    int zero = type == EK_TYPE_Q4_0 ? 8 : 0;
    if (ek_type_of(type).elements == 1) {
        for (size_t i = 0; i < count; i++) out[i] = read_float(type, row, i);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        if (i % EK_BLOCK == 0) ek_unpack(type, row, i / EK_BLOCK, &block);
        float value = (float)(block.w[i % EK_BLOCK] - zero) * block.scale[i % EK_BLOCK / 16];
        out[i] = block.min != 0 ? value + block.min : value;
    }
}

int ek_all_finite(uint32_t type, const void *values, size_t count) {
    const uint8_t *p = values;
    uint32_t largest = 0, infinity = type == EK_TYPE_F16 ? 0x7c00 : type == EK_TYPE_BF16 ? 0x7f80 : 0x7f800000u;
    if (ek_type_of(type).elements != 1) return 0;
    if (type == EK_TYPE_F32)
        for (size_t i = 0; i < count; i++) {
            uint32_t magnitude = ek_u32(p + 4 * i) & 0x7fffffffu;
            largest = magnitude > largest ? magnitude : largest;
        }
    else
        for (size_t i = 0; i < count; i++) {
            uint32_t magnitude = ek_u16(p + 2 * i) & 0x7fffu;
            largest = magnitude > largest ? magnitude : largest;
        }
    return largest < infinity;
}
