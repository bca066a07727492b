/* Prints a story from the GGUF file in the partition `model`, which is mapped, not copied. */
#include <stdio.h>

#include "esp_heap_caps.h"
#include "esp_partition.h"

#include "story.h"

#define MEMORY (320 * 1024) /* a context of 64 needs 300 kB: fewer positions, 3.3 kB less for each */

static void write_text(const char *text, size_t length) {
    fwrite(text, 1, length, stdout);
    fflush(stdout);
}

/* Internal memory if it has a block of that size, else PSRAM. */
static void *allocate(size_t size) {
    void *memory = heap_caps_aligned_alloc(EK_ALIGNMENT, size, MALLOC_CAP_INTERNAL | MALLOC_CAP_8BIT);
    return memory ? memory : heap_caps_aligned_alloc(EK_ALIGNMENT, size, MALLOC_CAP_SPIRAM | MALLOC_CAP_8BIT);
}

void app_main(void) {
    const esp_partition_t *partition = esp_partition_find_first(ESP_PARTITION_TYPE_DATA, ESP_PARTITION_SUBTYPE_ANY, "model");
    const void *file = NULL;
    esp_partition_mmap_handle_t handle;
    if (!partition || esp_partition_mmap(partition, 0, partition->size, ESP_PARTITION_MMAP_DATA, &file, &handle) != ESP_OK) {
        printf("story: there is no partition `model`, or it cannot be mapped: see partitions.csv\n");
        return;
    }
    void *memory = allocate(MEMORY);
    if (!memory) {
        printf("story: no block of %d bytes of memory is free\n", MEMORY);
        return;
    }
    story_settings settings = {.context = 64, .max_new_tokens = 0, .seed = 7};
    story_report report;
    ek_error error = {""};
    int status = story_run(file, partition->size, "Once upon a time", &settings, memory, MEMORY, write_text, &report, &error);
    if (status < 0) printf("story: %s\n", error.text);
    else
        printf("\n\nmodel %u, tokenizer %u, generation %u bytes; %u tokens\n", (unsigned)report.model,
               (unsigned)report.tokenizer, (unsigned)report.generation, (unsigned)report.tokens);
    heap_caps_free(memory);
    esp_partition_munmap(handle);
}
