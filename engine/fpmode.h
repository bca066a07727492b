/* The processor's floating-point mode: set to nearest even with subnormals for the engine, and put back. */
#ifndef EDGEKIT_FPMODE_H
#define EDGEKIT_FPMODE_H

#include <stdint.h>

#if defined(__SSE2__)
#include <emmintrin.h>
typedef uint32_t ek_fpmode;
static inline ek_fpmode ek_fpmode_set(void) {
    ek_fpmode before = _mm_getcsr();
    _mm_setcsr(0x1f80); /* all exceptions masked, to nearest, subnormals kept */
    return before;
}
static inline void ek_fpmode_restore(ek_fpmode before) { _mm_setcsr(before); }

#elif defined(__aarch64__)
typedef uint64_t ek_fpmode;
static inline void ek_fpmode_restore(ek_fpmode mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode) : "memory"); }
static inline ek_fpmode ek_fpmode_set(void) {
    ek_fpmode before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before) : : "memory");
    if (before) ek_fpmode_restore(0);
    return before;
}

#elif defined(__arm__) && defined(__ARM_FP)
typedef uint32_t ek_fpmode;
static inline void ek_fpmode_restore(ek_fpmode mode) { __asm__ volatile("vmsr fpscr, %0" : : "r"(mode) : "memory"); }
static inline ek_fpmode ek_fpmode_set(void) {
    ek_fpmode before;
    __asm__ volatile("vmrs %0, fpscr" : "=r"(before) : : "memory");
    ek_fpmode_restore(0);
    return before;
}

#elif defined(__riscv_flen)
typedef unsigned long ek_fpmode;
static inline ek_fpmode ek_fpmode_set(void) {
    ek_fpmode before;
    __asm__ volatile("fsrmi %0, 0" : "=r"(before) : : "memory");
    return before;
}
static inline void ek_fpmode_restore(ek_fpmode before) { __asm__ volatile("fsrm %0" : : "r"(before) : "memory"); }

#else /* WebAssembly has one mode; elsewhere the default is assumed */
typedef int ek_fpmode;
static inline ek_fpmode ek_fpmode_set(void) { return 0; }
static inline void ek_fpmode_restore(ek_fpmode before) { (void)before; }
#endif

#endif
