/* The part of bionic's headers that edgekit uses: see README.md next to this file. */
#ifndef BIONIC_STDLIB_H
#define BIONIC_STDLIB_H

#include <stddef.h>

int posix_memalign(void **block, size_t alignment, size_t size); /* malloc.h; not aligned_alloc, which Android 9 added */
void free(void *block);

#endif
