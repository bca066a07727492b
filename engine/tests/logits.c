/* logits FILE KV TOKEN...: float32 logits after each token on standard output, little endian. Compiled by tests of other
 * compilers and processors together with the joined edgekit.c. */
#include <stdio.h>
#include <stdlib.h>

#include "edgekit.h"

int main(int count, char **arguments) {
    static uint32_t tokens[1024];
    size_t n = 0, size = 0, length;
    FILE *file = count > 3 ? fopen(arguments[1], "rb") : NULL;
    if (!file) return 2;
    fseek(file, 0, SEEK_END);
    length = (size_t)ftell(file);
    rewind(file);
    unsigned char *bytes = malloc(length);
    if (!bytes || fread(bytes, 1, length, file) != length) return 2;
    for (int i = 3; i < count && n < 1024; i++) tokens[n++] = (uint32_t)strtoul(arguments[i], NULL, 10);
    ek_options options = {.kv = (uint32_t)strtoul(arguments[2], NULL, 10)};
    ek_model *model = NULL;
    ek_error error;
    int status = ek_model_size(bytes, length, &options, &size, &error);
    void *memory = status ? NULL : malloc(size + EK_ALIGNMENT);
    unsigned char *block = (unsigned char *)(((uintptr_t)memory + EK_ALIGNMENT - 1) & ~(uintptr_t)(EK_ALIGNMENT - 1));
    if (status || ek_model_open(bytes, length, &options, block, size, &model, &error)) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    size_t values = n * ek_model_info(model)->vocabulary;
    float *logits = malloc(values * sizeof *logits);
    if (!logits || ek_forward(model, tokens, n, logits, 1)) return 1;
    fprintf(stderr, "%s\n", ek_model_instructions(model));
    return fwrite(logits, sizeof *logits, values, stdout) == values ? 0 : 1;
}
