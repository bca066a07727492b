/* What an x86-64 processor and its operating system offer, asked of the processor itself. */
#ifndef EDGEKIT_CPU_X86_H
#define EDGEKIT_CPU_X86_H

#if defined(__x86_64__) && defined(__GNUC__)

enum { EK_AVX2 = 1, EK_AVX_VNNI = 2, EK_AVX512_VNNI = 4 };

/* A sum of the constants above. AVX2 includes FMA and F16C; AVX512_VNNI includes F, BW, DQ and VL. */
int ek_x86_sets(void);

/* Functions between EK_TARGET_BEGIN("set,set") and EK_TARGET_END are compiled for these sets. */
#define EK_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define EK_TARGET_BEGIN(sets) EK_PRAGMA(clang attribute push(__attribute__((target(sets))), apply_to = function))
#define EK_TARGET_END EK_PRAGMA(clang attribute pop)
#else
#define EK_TARGET_BEGIN(sets) EK_PRAGMA(GCC push_options) EK_PRAGMA(GCC target(sets))
#define EK_TARGET_END EK_PRAGMA(GCC pop_options)
#endif

#endif
#endif
