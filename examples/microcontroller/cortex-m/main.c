/* Prints a story: qemu -semihosting-config arg=story,arg=SEED,arg=TOKENS,arg=PROMPT. */
#include "../story.h"
#include "board.h"

#ifndef CONTEXT
#define CONTEXT 64
#endif

static void print(const char *text) {
    size_t length = 0;
    while (text[length]) length++;
    board_write(text, length);
}

static void print_number(const char *before, uint64_t number, const char *after) {
    char digits[21];
    char *at = digits + 20;
    *at = 0;
    do *--at = (char)('0' + number % 10);
    while (number /= 10);
    print(before);
    print(at);
    print(after);
}

/* A number at the beginning of the command line, and the space after it. */
static uint64_t take_number(const char **line, uint64_t otherwise) {
    uint64_t number = 0;
    const char *at = *line;
    while (*at >= '0' && *at <= '9') number = number * 10 + (uint64_t)(*at++ - '0');
    if (at == *line) return otherwise;
    *line = *at == ' ' ? at + 1 : at;
    return number;
}

static uint64_t tokens_began; /* the story's first token came at this tick */

static void write(const char *text, size_t length) {
    uint64_t now = board_ticks();
    if (!tokens_began) tokens_began = now;
    board_write(text, length);
}

int main(void) {
    const char *line = board_arguments();
    story_settings settings = {.context = CONTEXT};
    settings.seed = take_number(&line, 7);
    settings.max_new_tokens = (uint32_t)take_number(&line, 0);
    const char *prompt = *line ? line : "Once upon a time";
    story_report report;
    ek_error error = {""};
    size_t size;
    void *memory = board_memory(&size);

    int status = story_run(model_bytes, (size_t)(model_end - model_bytes), prompt, &settings, memory, size, write, &report,
                           &error);
    if (status < 0) {
        print("story: ");
        print(error.text);
        print("\n");
        return 1;
    }
    size_t stack = board_stack_used(), total = report.model + report.tokenizer + report.generation + stack;
    print_number("\n\nmodel       ", report.model, " bytes\n");
    print_number("tokenizer   ", report.tokenizer, " bytes\n");
    print_number("generation  ", report.generation, " bytes\n");
    print_number("stack       ", stack, " bytes\n");
    print_number("together    ", total, " bytes");
    print_number(" at a context of ", settings.context, "\n");
    print_number("tokens      ", report.prompt, " of the prompt");
    print_number(", ", report.tokens, " new\n");
    if (report.tokens > 1) {
        uint64_t ticks = (board_ticks() - tokens_began) / (report.prompt + report.tokens - 1);
        print_number("a token     ", ticks, " ticks of the clock");
        print_number(" at ", board_hertz / 1000000, " MHz\n");
    }
    return 0;
}
