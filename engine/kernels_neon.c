/* Kernels for every 64-bit ARM processor. On 32-bit ARM the vector unit flushes subnormal numbers to zero, so plain C
 * runs there. */
#include "kernels.h"

#if defined(__aarch64__) && defined(__GNUC__)
#include <arm_neon.h>

#define DOT 0
#include "kernels_neon.inc"

static int available(void) { return 1; }

const ek_kernels ek_kernels_neon = {
    "neon", available, {f32, f16, s8, s8v, n4, n4m, n4k, b8k, s8h}, quantize, round13, norm, softmax, swiglu,
};
#else
typedef int ek_no_neon; /* a file must not be empty */
#endif
