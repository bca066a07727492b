/* Every instruction set against kernels_c.c: the same bits of all products and steps, on random tiles and columns.
 * `kernels speed NAME` prints microseconds of a product of 768 x 256 instead. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../kernels.h"

static const char *const FORMATS[EK_TILES] = {"f32", "f16", "s8", "s8v", "n4", "n4m", "n4k", "b8k", "s8h"};
static uint64_t state = 1;

static uint32_t random32(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}

static float random_float(void) {
    return ((float)(random32() & 0xffffff) / 8388608.0f - 1.0f) * (float)(1 << random32() % 8);
}

static void *block(size_t size) { return aligned_alloc(64, (size + 63) / 64 * 64); }

/* Scales and minima that are ordinary numbers; any bytes elsewhere that the format allows. */
static void fill(int format, uint8_t *tiles, size_t size, size_t columns) {
    size_t tile = (size_t)ek_tile_bytes(format, columns), per_block = tile / ((columns + 31) / 32);
    size_t halves = format == EK_TILE_S8 || format == EK_TILE_N4 ? 32 : format == EK_TILE_N4M ? 64 : 0;
    size_t floats = format == EK_TILE_N4K || format == EK_TILE_B8K || format == EK_TILE_S8H ? 64 : 0;
    for (size_t i = 0; i < size; i++) tiles[i] = (uint8_t)random32();
    for (size_t i = 0; format == EK_TILE_F32 && i < size / 4; i++) ((float *)tiles)[i] = random_float();
    for (size_t i = 0; format == EK_TILE_F16 && i < size / 2; i++) ((uint16_t *)tiles)[i] = ek_to_half(random_float());
    for (size_t at = 0; format > EK_TILE_F16 && at < size; at += per_block) {
        for (size_t i = 0; i < halves; i++) ((uint16_t *)(tiles + at))[i] = ek_to_half(random_float() / 128);
        for (size_t i = 0; i < floats; i++) ((float *)(tiles + at))[i] = random_float() / 128;
        for (size_t i = 256; format == EK_TILE_B8K && i < per_block; i++) tiles[at + i] &= 31;
    }
}

typedef struct {
    float *f, *h, *d, *s;
    int8_t *q;
    int32_t *sum;
    ek_columns view;
} columns_of;

static columns_of make(size_t columns, size_t n) {
    size_t stride = (columns + 31) / 32 * 32, size = n * stride;
    columns_of x = {block(4 * size), block(4 * size), block(size), block(size), block(size), block(size), {0}};
    for (size_t c = 0; c < n; c++) {
        size_t at = c * stride / 32;
        for (size_t i = 0; i < stride; i++) x.f[c * stride + i] = i < columns ? random_float() : 0;
        ek_c_round13(x.f + c * stride, stride, x.h + c * stride);
        ek_c_quantize(x.f + c * stride, columns, x.q + c * stride, x.d + at, x.s + at, x.sum + at);
    }
    x.view = (ek_columns){x.f, x.h, x.q, x.d, x.s, x.sum, stride};
    return x;
}

static void release(columns_of *x) { free(x->f), free(x->h), free(x->d), free(x->s), free(x->q), free(x->sum); }

static int products(const ek_kernels *set, int format, size_t count, size_t columns, size_t n) {
    size_t tile = (size_t)ek_tile_bytes(format, columns), out_stride = 32 * count + 16, size = 4 * n * out_stride;
    uint8_t *tiles = block(tile * count);
    float *expected = block(size), *found = block(size);
    columns_of x = make(columns, n);
    fill(format, tiles, tile * count, columns);
    memset(expected, 0, size), memset(found, 0, size);
    ek_kernels_c.product[format](tiles, tile, count, columns, &x.view, n, expected, out_stride);
    set->product[format](tiles, tile, count, columns, &x.view, n, found, out_stride);
    int wrong = memcmp(expected, found, size) != 0;
    if (wrong) printf("%s %s: %zu tiles, %zu columns, n %zu differ\n", set->name, FORMATS[format], count, columns, n);
    free(tiles), free(expected), free(found), release(&x);
    return wrong;
}

static int differ(const char *set, const char *step, const void *a, const void *b, size_t size, size_t n) {
    if (!memcmp(a, b, size)) return 0;
    printf("%s: %s of %zu differs\n", set, step, n);
    return 1;
}

static int steps(const ek_kernels *set, size_t n) {
    float *x = block(4 * n), *w = block(4 * n), *a = block(4 * n), *b = block(4 * n), *scale = block(4 * n);
    columns_of p = make(n, 1), r = make(n, 1);
    size_t blocks = (n + 31) / 32;
    int wrong = 0;
    for (size_t i = 0; i < n; i++) x[i] = random_float(), w[i] = random_float(), scale[i] = random_float();
    if (random32() % 4 == 0) x[random32() % n] = random32() % 2 ? 0x1p-140f : -0.0f;
    ek_c_norm(x, w, n, 1e-5f, a), set->norm(x, w, n, 1e-5f, b), wrong += differ(set->name, "norm", a, b, 4 * n, n);
    ek_c_round13(x, n, a), set->round13(x, n, b), wrong += differ(set->name, "round13", a, b, 4 * n, n);
    memcpy(a, x, 4 * n), memcpy(b, x, 4 * n);
    ek_c_softmax(a, n, NULL), set->softmax(b, n, NULL), wrong += differ(set->name, "softmax", a, b, 4 * n, n);
    memcpy(a, x, 4 * n), memcpy(b, x, 4 * n);
    ek_c_softmax(a, n, scale), set->softmax(b, n, scale), wrong += differ(set->name, "scaled softmax", a, b, 4 * n, n);
    memcpy(a, x, 4 * n), memcpy(b, x, 4 * n);
    ek_c_swiglu(a, w, n), set->swiglu(b, w, n), wrong += differ(set->name, "swiglu", a, b, 4 * n, n);
    ek_c_quantize(x, n, p.q, p.d, p.s, p.sum), set->quantize(x, n, r.q, r.d, r.s, r.sum);
    wrong += differ(set->name, "q", p.q, r.q, 32 * blocks, n) + differ(set->name, "d", p.d, r.d, 4 * blocks, n);
    wrong += differ(set->name, "s", p.s, r.s, 4 * blocks, n) + differ(set->name, "sum", p.sum, r.sum, 4 * blocks, n);
    free(x), free(w), free(a), free(b), free(scale), release(&p), release(&r);
    return wrong;
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int speed(const ek_kernels *set) {
    enum { TILES = 24, COLUMNS = 256, TIMES = 2000 };
    for (int format = 0; format < EK_TILES; format++)
        for (size_t n = 1; n <= 16; n += 15) {
            size_t tile = (size_t)ek_tile_bytes(format, COLUMNS);
            uint8_t *tiles = block(tile * TILES);
            float *out = block(4 * n * TILES * 32);
            columns_of x = make(COLUMNS, n);
            fill(format, tiles, tile * TILES, COLUMNS);
            double best = 1e9;
            for (int round = 0; round < 15; round++) {
                double from = seconds();
                for (size_t i = 0; i < TIMES / n; i++)
                    set->product[format](tiles, tile, TILES, COLUMNS, &x.view, n, out, TILES * 32);
                double us = (seconds() - from) * 1e6 / (double)(TIMES / n);
                if (us < best) best = us;
            }
            printf("%-12s %-4s n %2zu  %7.2f us  %6.1f GB/s  %6.1f weights/ns\n", set->name, FORMATS[format], n, best,
                   (double)(tile * TILES) / best / 1e3, (double)(TILES * 32 * COLUMNS * n) / best / 1e3);
            free(tiles), free(out), release(&x);
        }
    return 0;
}

int main(int argc, char **argv) {
    int wrong = 0;
    if (argc == 3 && !strcmp(argv[1], "speed")) {
        const ek_kernels *set = ek_kernels_named(argv[2]);
        return set ? speed(set) : 1;
    }
    for (uint32_t i = 0; ek_instructions(i); i++) {
        const ek_kernels *set = ek_kernels_named(ek_instructions(i));
        for (int format = 0; format < EK_TILES; format++)
            for (int round = 0; round < 200; round++)
                wrong += products(set, format, 1 + random32() % 9, 1 + random32() % 200, 1 + random32() % 17);
        for (int round = 0; round < 2000; round++) wrong += steps(set, 1 + random32() % 300);
        printf("%s: %s\n", set->name, wrong ? "differs" : "the same bits as plain C");
    }
    return wrong != 0;
}
