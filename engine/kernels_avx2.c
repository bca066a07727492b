/* Kernels for AVX2. */
#include "kernels.h"

#include "cpu_x86.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

EK_TARGET_BEGIN("avx2,fma,f16c")
#define VNNI 0
#include "kernels_avx2.inc"
EK_TARGET_END

static int available(void) { return (ek_x86_sets() & EK_AVX2) != 0; }

const ek_kernels ek_kernels_avx2 = {
    "avx2", available, {f32, f16, s8, s8v, n4, n4m, n4k, b8k, s8h}, quantize, round13, norm, softmax, swiglu,
};
#else
typedef int ek_no_avx2; /* a file must not be empty */
#endif
