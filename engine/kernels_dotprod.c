/* Kernels for 64-bit ARM processors with `sdot`: from Cortex-A55 and A75 on, so a Raspberry Pi 5 but not a 4. */
#include "kernels.h"

#if defined(__aarch64__) && defined(__GNUC__)
#if defined(__ARM_FEATURE_DOTPROD)
#define ALWAYS 1
#else
#define ALWAYS 0
#endif
#if !defined(__clang__) && !ALWAYS
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod") /* it defines __ARM_FEATURE_DOTPROD */
#endif
#include <arm_neon.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#endif
#if defined(__clang__) && __clang_major__ < 16 && !ALWAYS /* whose header has it only for a whole file */
static inline int32x4_t vdotq_s32(int32x4_t sums, int8x16_t a, int8x16_t b) {
    __asm__("sdot %0.4s, %1.16b, %2.16b" : "+w"(sums) : "w"(a), "w"(b));
    return sums;
}
#endif
#define DOT 1
#include "kernels_neon.inc"
#if defined(__clang__)
#pragma clang attribute pop
#endif

/* Linux lets a program read the processor's register, and answers itself, but only since 4.11: many Android devices have
 * older kernels, where it ends the program, so there the C library is asked. Apple's systems have a function, and compilers
 * for iOS assume the oldest phone. Elsewhere only the compiler's flags tell. */
#if defined(__ANDROID__) && !ALWAYS
extern unsigned long getauxval(unsigned long type);
#elif defined(__APPLE__) && !ALWAYS
extern int sysctlbyname(const char *name, void *value, size_t *size, void *set, size_t set_size);
#endif

static int available(void) {
#if ALWAYS
    return 1;
#elif defined(__ANDROID__)
    return (getauxval(16 /* AT_HWCAP */) >> 20 & 1) != 0; /* HWCAP_ASIMDDP */
#elif defined(__linux__)
    uint64_t features;
    __asm__("mrs %0, ID_AA64ISAR0_EL1" : "=r"(features));
    return (features >> 44 & 15) != 0;
#elif defined(__APPLE__)
    int has = 0;
    size_t size = sizeof has;
    return !sysctlbyname("hw.optional.arm.FEAT_DotProd", &has, &size, NULL, 0) && has;
#else
    return 0;
#endif
}

const ek_kernels ek_kernels_dotprod = {
    "dotprod", available, {f32, f16, s8, s8v, n4, n4m, n4k, b8k, s8h}, quantize, round13, norm, softmax, swiglu,
};
#if !defined(__clang__) && !ALWAYS
#pragma GCC pop_options /* the files that follow in the joined one must run on every processor */
#endif
#else
typedef int ek_no_dotprod; /* a file must not be empty */
#endif
