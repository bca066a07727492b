/* Damaged GGUF files: whatever they claim, the engine answers without a memory error, undefined behaviour or an endless
 * loop. Built with the address and undefined behaviour sanitizers; the file and the model's block are allocations of
 * exactly their sizes.
 *
 *     fuzz [files] [seed]
 */
#include <stdio.h>
#include <unistd.h>

#include "../edgekit.h"
#include "gguf_build.h"

static const uint32_t TYPES[] = {0, 1, 30, 8, 2, 3, 6, 7, 20, 12, 13, 14};
static built file;

static shape random_shape(void) {
    uint32_t type = TYPES[below(12)], k = type >= 12 && type <= 14, floats = type < 2 || type == 30;
    uint32_t unit = k ? 256 : floats ? 1 + (uint32_t)below(40) : 32, group = 1 + (uint32_t)below(2);
    shape s = {.type = type, .hidden = unit, .wide = unit, .layers = 1 + (uint32_t)below(2), .vocabulary = 9 + (uint32_t)below(40)};
    s.kv_heads = 1 + (uint32_t)below(2);
    s.heads = s.kv_heads * group;
    s.head_dim = floats ? 2 + 2 * (uint32_t)below(9) : k ? 256 / s.heads : 32;
    s.untied = below(3) == 0;
    s.biases = below(3) == 0;
    s.divisors = below(3) == 0;
    return s;
}

static uint64_t interesting(void) {
    static const uint64_t values[] = {0, 1, 2, 3, 7, 8, 9, 10, 12, 13, 31, 32, 33, 64, 127, 128, 255, 256, 4096, 65535,
                                      65536, 1u << 20, 0x7fffffff, 0x80000000u, 0xffffffffu, (uint64_t)1 << 32,
                                      (uint64_t)1 << 56, (uint64_t)1 << 61, INT64_MAX, (uint64_t)1 << 63, UINT64_MAX - 7,
                                      UINT64_MAX};
    return below(8) ? values[below(sizeof values / sizeof *values)] : rnd();
}

static void damage(void) {
    uint64_t what = below(10);
    if (what < 5) { /* a number of the header */
        size_t i = below(file.field_count);
        uint64_t value = interesting();
        uint32_t at = file.fields[i].at, width = file.fields[i].width;
        if (!below(4)) value = (file.bytes[at] | (uint64_t)file.bytes[at + 1] << 8) + below(5) - 2;
        for (uint32_t k = 0; k < width; k++) file.bytes[at + k] = (uint8_t)(value >> 8 * k);
    } else if (what < 6) { /* a byte of the header */
        file.bytes[below(file.data)] = (uint8_t)rnd();
    } else if (what < 7) { /* cut off */
        file.size = below(file.size);
    } else if (what < 8) { /* bytes taken out */
        size_t at = below(file.data), count = 1 + below(40);
        if (file.size < file.data || at + count > file.size) return;
        memmove(file.bytes + at, file.bytes + at + count, file.size - at - count);
        file.size -= count;
    } else if (file.size > file.data + 8) { /* weights that are infinite, not a number or tiny */
        static const uint8_t patterns[][4] = {{0, 0x7c, 0, 0xfc}, {0xff, 0xff, 0xff, 0x7f}, {0, 0, 0x80, 0x7f},
                                              {0xff, 0x7b, 0xff, 0xfb}, {1, 0, 0, 0}, {0xff, 0xff, 0x7f, 0x7f}};
        for (uint64_t k = 0, n = 1 + below(200); k < n; k++)
            memcpy(file.bytes + file.data + below(file.size - file.data - 4), patterns[below(6)], 4);
    }
}

/* The weights as they should be: blocks with small scales. */
static void calm(void) {
    for (size_t i = file.data; i < file.size; i++)
        if ((file.bytes[i] & 0x7c) > 0x30) file.bytes[i] &= 0x93;
}

static void use_keys(const uint8_t *bytes) {
    static const char *const keys[] = {"tokenizer.ggml.tokens", "general.architecture", "llama.rope.freq_base", "none"};
    ek_value values[4];
    ek_error error;
    if (ek_find(bytes, file.size, keys, 4, values, &error)) return;
    for (int i = 0; i < 4; i++) {
        ek_strings strings = ek_value_strings(&values[i]);
        const char *text;
        size_t length, sum = 0;
        uint64_t number;
        double real;
        while (ek_next_string(&strings, &text, &length))
            for (size_t k = 0; k < length; k++) sum += (uint8_t)text[k];
        for (uint64_t k = 0; k < 3; k++)
            sum += (size_t)(ek_value_unsigned(&values[i], k, &number) + ek_value_double(&values[i], k, &real));
        if (sum == 1) puts("");
    }
}

static void use_model(ek_model *model) {
    const ek_info *info = ek_model_info(model);
    uint32_t tokens[20], context = ek_model_context(model), n = context < 20 ? context : 20;
    float *logits = malloc(sizeof *logits * n * info->vocabulary);
    for (uint32_t i = 0; i < n; i++) tokens[i] = (uint32_t)below(info->vocabulary);
    ek_forward(model, tokens, n, logits, 1);
    ek_rewind(model, n / 2);
    size_t size = ek_state_size(model);
    uint8_t *state = malloc(size);
    ek_state_save(model, state, size);
    if (below(2)) state[below(size)] ^= (uint8_t)(1u << below(8));
    ek_state_load(model, state, size);
    if (ek_length(model) < context) ek_forward(model, tokens, 1, logits, 0);
    free(state);
    free(logits);
}

/* Returns 1 if the model opened. */
static int try_file(const uint8_t *bytes) {
    ek_options options = {.context = below(2) ? 0 : 1 + (uint32_t)below(70), .kv = (uint32_t)below(4),
                          .batch = (uint32_t)below(20), .direct = below(4) == 0};
    uint32_t sets = 0;
    while (ek_instructions(sets)) sets++;
    options.instructions = ek_instructions((uint32_t)below(sets));
    ek_model *model;
    ek_error error;
    size_t size = 0;
    use_keys(bytes);
    if (ek_model_size(bytes, file.size, &options, &size, &error) || size > 32 << 20) return 0;
    void *memory = aligned_alloc(EK_ALIGNMENT, size);
    int status = ek_model_open(bytes, file.size, &options, memory, size, &model, &error);
    if (!status) use_model(model);
    free(memory);
    return !status;
}

int main(int count, char **arguments) {
    long files = count > 1 ? atol(arguments[1]) : 10000, opened = 0;
    random_state = count > 2 ? strtoull(arguments[2], NULL, 10) : 1;
    for (long i = 0; i < files; i++) {
        alarm(20); /* kills: an endless loop */
        build(&file, random_shape());
        if (below(4)) calm();
        for (uint64_t k = 0, n = i % 16 ? 1 + below(3) : 0; k < n; k++) damage();
        uint8_t *bytes = malloc(file.size + !file.size);
        memcpy(bytes, file.bytes, file.size);
        opened += try_file(bytes);
        free(bytes);
    }
    printf("%ld damaged files, %ld of them opened\n", files, opened);
    return opened * 20 < files; /* else the damage hides everything behind the header */
}
