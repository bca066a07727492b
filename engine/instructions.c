/* The instruction sets in the library, the best first, and the choice of one at run time. */
#include "kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
extern const ek_kernels ek_kernels_avx512, ek_kernels_avxvnni, ek_kernels_avx2;
#elif defined(__aarch64__) && defined(__GNUC__)
extern const ek_kernels ek_kernels_dotprod, ek_kernels_neon;
#elif defined(__wasm_simd128__)
extern const ek_kernels ek_kernels_wasm;
#endif

static const ek_kernels *const SETS[] = {
#if defined(__x86_64__) && defined(__GNUC__)
    &ek_kernels_avx512,
    &ek_kernels_avxvnni,
    &ek_kernels_avx2,
#elif defined(__aarch64__) && defined(__GNUC__)
    &ek_kernels_dotprod,
    &ek_kernels_neon,
#elif defined(__wasm_simd128__)
    &ek_kernels_wasm,
#endif
    &ek_kernels_c,
};

static const ek_kernels *usable(uint32_t index) {
    for (size_t i = 0; i < sizeof SETS / sizeof *SETS; i++)
        if (SETS[i]->available() && !index--) return SETS[i];
    return NULL;
}

const char *ek_instructions(uint32_t i) {
    const ek_kernels *set = usable(i);
    return set ? set->name : NULL;
}

const ek_kernels *ek_kernels_named(const char *name) {
    const ek_kernels *set = NULL;
    size_t length = 0;
    if (!name) return usable(0);
    while (name[length]) length++;
    for (uint32_t i = 0; (set = usable(i)); i++)
        if (ek_same((ek_text){name, length}, set->name)) return set;
    return NULL;
}
