/* Sentences for errors, written without the C library. */
#include "internal.h"

const char *ek_version(void) { return EK_VERSION; }

int ek_interface(void) { return EK_INTERFACE; }

static size_t put(char *out, size_t at, size_t size, const char *text, size_t length) {
    for (size_t i = 0; i < length && text[i] && at + 1 < size; i++) out[at++] = text[i];
    return at;
}

static size_t put_number(char *out, size_t at, size_t size, uint64_t number) {
    char digits[20];
    size_t n = 0;
    do digits[n++] = (char)('0' + number % 10);
    while (number /= 10);
    while (n && at + 1 < size) out[at++] = digits[--n];
    return at;
}

int ek_fail(ek_error *error, int status, const char *format, ...) {
    if (!error) return status;
    va_list arguments;
    va_start(arguments, format);
    size_t at = 0, size = sizeof error->text;
    for (const char *c = format; *c && at + 1 < size; c++) {
        if (*c != '%') {
            error->text[at++] = *c;
            continue;
        }
        switch (*++c) {
            case 's': at = put(error->text, at, size, va_arg(arguments, const char *), size); break;
            case 'u': at = put_number(error->text, at, size, va_arg(arguments, uint64_t)); break;
            case 't': {
                ek_text text = va_arg(arguments, ek_text);
                at = put(error->text, at, size, text.bytes, text.length);
                break;
            }
            default: c--; error->text[at++] = '%';
        }
    }
    error->text[at] = 0;
    va_end(arguments);
    return status;
}
