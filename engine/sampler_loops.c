/* The loops over the vocabulary for each instruction set, and the choice of one at run time. */
#include "sampler.h"

#include "cpu_x86.h"
#include "sampler_exp.h"

#define TARGET
#define LOOP(x) x
#include "sampler_loops.inc"
#undef TARGET
#undef LOOP

#if defined(__x86_64__) && defined(__GNUC__)
#define TARGET __attribute__((target("avx2")))
#define LOOP(x) x##_avx2
#include "sampler_loops.inc"
#undef TARGET
#undef LOOP

#define TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl")))
#define LOOP(x) x##_avx512
#include "sampler_loops.inc"
#undef TARGET
#undef LOOP

const ek_loops *ek_loops_best(void) {
    int sets = ek_x86_sets();
    return sets & EK_AVX512_VNNI ? &loops_avx512 : sets & EK_AVX2 ? &loops_avx2 : &loops;
}
#else
const ek_loops *ek_loops_best(void) { return &loops; }
#endif
