/* The processor's features; __builtin_cpu_supports would need a run-time library that not every compiler has. */
#include "cpu_x86.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>

static unsigned saved_registers(void) {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

int ek_x86_sets(void) {
    unsigned a, b, c, d, b7, c7, d7;
    const unsigned fma = 1u << 12, osxsave = 1u << 27, f16c = 1u << 29;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & (fma | osxsave | f16c)) != (fma | osxsave | f16c)) return 0;
    unsigned saved = saved_registers();
    if ((saved & 6) != 6 || !__get_cpuid_count(7, 0, &a, &b7, &c7, &d7) || !(b7 & 1u << 5)) return 0;
    int sets = EK_AVX2;
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4)) sets |= EK_AVX_VNNI;
    const unsigned f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    if ((saved & 0xe6) == 0xe6 && (b7 & f_dq_bw_vl) == f_dq_bw_vl && (c7 & 1u << 11)) sets |= EK_AVX512_VNNI;
    return sets;
}
#else
typedef int ek_no_x86; /* a file must not be empty */
#endif
