#include "board.h"

/* From board.ld. */
extern uint32_t ram_start[], ram_end[], data_start[], data_end[], data_source[], bss_start[], bss_end[], stack_low[];

int main(void);

/* ---- semihosting: docs/semihosting in ARM's `abi-aa` ---- */

enum { SYS_WRITE0 = 0x04, SYS_GET_CMDLINE = 0x15, SYS_EXIT_EXTENDED = 0x20 };
#define APPLICATION_EXIT 0x20026u

static int semihosting(uint32_t operation, const void *argument) {
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return (int)r0;
}

void board_write(const char *text, size_t length) {
    char part[65];
    while (length) {
        size_t n = length < 64 ? length : 64;
        for (size_t i = 0; i < n; i++) part[i] = text[i];
        part[n] = 0;
        semihosting(SYS_WRITE0, part);
        text += n;
        length -= n;
    }
}

_Noreturn void board_exit(int status) {
    uint32_t block[2] = {APPLICATION_EXIT, (uint32_t)status};
    semihosting(SYS_EXIT_EXTENDED, block);
    for (;;) {}
}

const char *board_arguments(void) {
    static char line[1024];
    struct {
        char *line;
        uint32_t size;
    } block = {line, sizeof line};
    if (semihosting(SYS_GET_CMDLINE, &block)) return "";
    char *at = line;
    while (*at && *at != ' ') at++;
    return *at ? at + 1 : at;
}

/* ---- the clock: SysTick, of 24 bits; it must be read once each 0.6 s at least ---- */

#define SYSTICK ((volatile uint32_t *)0xe000e010u)
const uint32_t board_hertz = 25000000; /* of the processor on MPS2 */

uint64_t board_ticks(void) {
    static uint32_t last;
    static uint64_t total;
    uint32_t now = 0xffffff - SYSTICK[2];
    total += (now - last) & 0xffffff;
    last = now;
    return total;
}

/* ---- memory ---- */

#define PAINT 0xa5a5a5a5u

void *board_memory(size_t *size) {
    uintptr_t from = ((uintptr_t)bss_end + 63) & ~(uintptr_t)63;
    *size = (uintptr_t)stack_low - from;
    return (void *)from;
}

size_t board_stack_used(void) {
    const uint32_t *at = stack_low;
    while (at < ram_end && *at == PAINT) at++;
    return (size_t)((const char *)ram_end - (const char *)at);
}

/* ---- the start ---- */

static _Noreturn void fault(void) {
    static const char text[] = "story: the processor stopped at a fault\n";
    board_write(text, sizeof text - 1);
    board_exit(3);
}

__attribute__((noinline)) static void run(void) {
    for (uint32_t *from = data_source, *to = data_start; to < data_end;) *to++ = *from++;
    for (uint32_t *to = bss_start; to < bss_end;) *to++ = 0;
    SYSTICK[1] = 0xffffff;
    SYSTICK[2] = 0;
    SYSTICK[0] = 5; /* on, by the processor's clock */
    board_exit(main());
}

/* The stack below this function is painted before anything uses it. */
_Noreturn void board_reset(void) {
    *(volatile uint32_t *)0xe000ed88 |= 0xfu << 20; /* CPACR: the floating-point unit */
    __asm__ volatile("dsb\n isb" ::: "memory");
    uint32_t *top = __builtin_frame_address(0);
    for (volatile uint32_t *at = stack_low; at + 16 < top; at++) *at = PAINT;
    run();
    for (;;) {}
}

typedef void handler(void);
__attribute__((section(".vectors"), used)) static handler *const VECTORS[16] = {
    (handler *)ram_end, board_reset, fault, fault, fault, fault, fault,
};
