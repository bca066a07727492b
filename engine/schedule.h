/* How threads share a pass. Not for users of the engine. */
#ifndef EDGEKIT_SCHEDULE_H
#define EDGEKIT_SCHEDULE_H

#include "internal.h"

#define EK_MOST_CHUNKS 8

/* A pass: phases one after the other, each of some chunks, which any threads may do at the same time. */
typedef struct ek_job ek_job;
struct ek_job {
    uint32_t phases, columns;
    /* How many chunks a phase has, 1 to EK_MOST_CHUNKS. */
    uint32_t (*chunks)(const ek_job *job, uint32_t phase);
    /* Does chunk `chunk` of `chunks`. No two threads with the same index run. */
    void (*work)(const ek_job *job, uint32_t phase, uint32_t chunk, uint32_t chunks, uint32_t thread);
};

/* Runs all phases; threads may be NULL. */
void ek_run(ek_threads *threads, const ek_job *job);

#endif
