/* The board: a console and an exit through semihosting, which qemu and debuggers provide, and its memory. */
#ifndef BOARD_H
#define BOARD_H

#include <stddef.h>
#include <stdint.h>

void board_write(const char *text, size_t length);
_Noreturn void board_exit(int status);
/* The command line that qemu was given, without its first word. */
const char *board_arguments(void);

/* Ticks of a clock that runs since the start; `board_hertz` of them are a second. */
uint64_t board_ticks(void);
extern const uint32_t board_hertz;

/* Memory for blocks: everything between the program's own variables and its stack. */
void *board_memory(size_t *size);
/* The most bytes of stack that were in use so far. */
size_t board_stack_used(void);

/* The model: bytes in flash, see model.S. */
extern const uint8_t model_bytes[], model_end[];

#endif
