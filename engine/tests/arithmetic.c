/* The arithmetic of docs/arithmetic.md: conversions and roots on all bits where that takes seconds, series against libm,
 * and the caller's floating-point mode, which neither changes a bit nor is changed. */
#include <fenv.h>
#include <math.h>
#include <stdio.h>

#include "../kernels.h"
#include "../numeric.h"
#include "gguf_build.h"

static int failed = 0;

static void expect(int good, const char *what) {
    if (!good) printf("failed: %s\n", what);
    failed |= !good;
}

#if defined(__x86_64__)
#include <immintrin.h>
__attribute__((target("f16c"))) static uint16_t hardware_half(float x) { return (uint16_t)_cvtss_sh(x, 0); }
__attribute__((target("f16c"))) static float hardware_float(uint16_t h) { return _cvtsh_ss(h); }

static void check_halves(uint32_t step) {
    uint64_t wrong = 0;
    if (!__builtin_cpu_supports("f16c")) return;
    for (uint32_t h = 0; h < 65536; h++) {
        float a = ek_of_half((uint16_t)h), b = hardware_float((uint16_t)h);
        wrong += ek_bits(a) != ek_bits(b) && !(a != a && b != b);
    }
    expect(!wrong, "float16 to float32");
    for (uint64_t bits = 0; bits < (uint64_t)1 << 32; bits += step) {
        float x = ek_float((uint32_t)bits);
        wrong += ek_to_half(x) != hardware_half(x) && x == x;
    }
    expect(!wrong, "float32 to float16");
}
#else
static void check_halves(uint32_t step) { (void)step; }
#endif

/* 13 significant bits by the definition, in binary64: exact there. */
static float rounded13(float x) {
    int exponent;
    double mantissa = frexp((double)x, &exponent);
    return fabs((double)x) < 0x1p-100 ? 0.0f : (float)ldexp(nearbyint(mantissa * 8192), exponent - 13);
}

static void check_steps(uint32_t step) {
    uint64_t roots = 0, thirteen = 0;
    for (uint64_t bits = 0; bits < 0x7f000000u; bits += step) {
        float x = ek_float((uint32_t)bits), out;
        ek_c_round13(&x, 1, &out);
        roots += ek_bits(ek_sqrt(x)) != ek_bits(sqrtf(x)) || ek_bits(ek_soft_sqrt(x)) != ek_bits(sqrtf(x));
        thirteen += ek_bits(out) != ek_bits(rounded13(x));
    }
    expect(!roots, "square root");
    expect(!thirteen, "13 significant bits");
}

static void check_series(void) {
    double worst = 0;
    for (float x = -87; x < 88; x += 0.0009f) worst = fmax(worst, fabs(ek_exp(x) / exp((double)x) - 1));
    expect(worst < 2e-7, "e ** x");
    worst = 0;
    for (uint32_t i = 0; i < 3000000; i++) {
        float angle = (float)i * 5.3f + (float)(i % 100) * 0.01f, c, s;
        ek_cos_sin(angle, &c, &s);
        worst = fmax(worst, fmax(fabs(c - cos((double)angle)), fabs(s - sin((double)angle))));
    }
    expect(worst < 4e-8, "cosine and sine");
    float frequencies[64];
    ek_frequencies(500000, 64, frequencies);
    worst = 0;
    for (int i = 0; i < 64; i++) worst = fmax(worst, fabs(frequencies[i] * pow(500000, i / 64.0) - 1));
    expect(worst < 6e-7, "frequencies");
}

static uint64_t hash_of(const void *data, size_t size) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; i++) hash = (hash ^ ((const uint8_t *)data)[i]) * 0x100000001b3u;
    return hash;
}

static built file;

/* A hash of logits, computed with `threads` threads that were started in the caller's mode. */
static uint64_t run_model(uint32_t threads) {
    static const uint32_t tokens[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    static float logits[8 * 40];
    ek_options options = {.kv = EK_KV_I8, .context = 32};
    void *pool = aligned_alloc(64, (ek_threads_size(threads) + 63) / 64 * 64);
    expect(!ek_threads_open(threads, pool, ek_threads_size(threads), &options.threads, NULL), "threads");
    size_t size = 0;
    ek_model *model;
    ek_model_size(file.bytes, file.size, &options, &size, NULL);
    void *memory = aligned_alloc(64, size);
    expect(!ek_model_open(file.bytes, file.size, &options, memory, size, &model, NULL), "open");
    expect(!ek_forward(model, tokens, 8, logits, 1), "forward");
    ek_threads_close(options.threads);
    free(pool);
    free(memory);
    return hash_of(logits, sizeof logits);
}

static void check_mode(void) {
    build(&file, (shape){.hidden = 64, .wide = 96, .layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 16, .vocabulary = 40});
    for (size_t i = file.data; i + 4 <= file.size; i += 4) { /* small numbers and subnormals */
        float value = (float)((int)below(2001) - 1000) * (below(8) ? 1e-4f : 1e-42f);
        memcpy(file.bytes + i, &value, 4);
    }
    uint64_t plain = run_model(2);
    static const int modes[] = {FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
    for (int i = 0; i < 3; i++) {
        fesetround(modes[i]);
#if defined(__x86_64__)
        _mm_setcsr(_mm_getcsr() | 0x8040); /* subnormals are zero */
        uint32_t before = _mm_getcsr() & 0xffc0;
#endif
        expect(run_model(1) == plain && run_model(3) == plain, "the caller's mode changes bits");
        expect(fegetround() == modes[i], "the rounding mode is put back");
#if defined(__x86_64__)
        expect((_mm_getcsr() & 0xffc0) == before, "MXCSR is put back");
        _mm_setcsr(_mm_getcsr() & ~0x8040u);
#endif
    }
    fesetround(FE_TONEAREST);
}

/* arithmetic [step]: every step-th float32; 1 takes a minute. */
int main(int count, char **arguments) {
    uint32_t step = count > 1 ? (uint32_t)strtoul(arguments[1], NULL, 10) : 251;
    check_halves(step);
    check_steps(step);
    check_series();
    check_mode();
    puts(failed ? "the arithmetic differs" : "the arithmetic is as specified");
    return failed;
}
