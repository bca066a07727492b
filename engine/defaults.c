/* The sampling settings that a file asks for: `general.sampling.*`, which llama.cpp's programs follow too. */
#include "internal.h"

enum { TEMPERATURE, TOP_K, TOP_P, MIN_P, PENALTY, COUNT };

static const char *const KEYS[COUNT] = {"general.sampling.temp", "general.sampling.top_k", "general.sampling.top_p",
                                        "general.sampling.min_p", "general.sampling.penalty_repeat"};
/* llama.cpp's, where a file has some of the keys (common.h, common_params_sampling). */
static const double ABSENT[COUNT] = {0.8, 40, 0.95, 0.05, 1.0};
static const double MOST[COUNT] = {1e6, INT32_MAX, 1, 1, 1e6};

/* Files store float32. The number that was meant is the one of few digits: 0.8, not 0.800000012. */
static double decimal(double number) {
    if (!(number > 0 && number < 1e6)) return number;
    return (double)(uint64_t)(number * 1e6 + 0.5) / 1e6;
}

int ek_generating_defaults(const void *file, size_t length, ek_generating *settings, ek_error *error) {
    ek_value values[COUNT];
    double numbers[COUNT];
    int known = 0, status = ek_find(file, length, KEYS, COUNT, values, error);
    const ek_generating defaults = {.max_new_tokens = 256};
    *settings = defaults;
    ek_sampling_defaults(&settings->sampling);
    if (status) return status;
    for (int i = 0; i < COUNT; i++) {
        int absent = values[i].type == EK_ABSENT || values[i].type == EK_BOOL || values[i].array ||
                     ek_value_double(&values[i], 0, &numbers[i]);
        known += !absent;
        numbers[i] = absent ? ABSENT[i] : values[i].type == EK_FLOAT32 ? decimal(numbers[i]) : numbers[i];
        if (!(numbers[i] >= 0 && numbers[i] <= MOST[i]) || (i == PENALTY && numbers[i] == 0))
            return ek_fail(error, EK_DAMAGED, "%s is out of range", KEYS[i]);
    }
    if (!known) return EK_OK;
    settings->sampling.repetition_penalty = numbers[PENALTY];
    if (numbers[TEMPERATURE] <= 0) return EK_OK;
    settings->sampling.temperature = numbers[TEMPERATURE];
    settings->sampling.top_k = (uint32_t)numbers[TOP_K];
    settings->sampling.top_p = numbers[TOP_P];
    settings->sampling.min_p = numbers[MIN_P];
    return EK_OK;
}
