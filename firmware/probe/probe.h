/* What the parts of the probe know of each other. */
#ifndef PROBE_H
#define PROBE_H

#include <stdint.h>

/* Makes the first serial port ready: 115200 8n1. */
void console_open(void);
/* Writes bytes as they are. */
void put(const char *text);
/* Writes what came from outside: bytes that are not printable ASCII, and the backslash, as \xNN. */
void put_foreign(const char *text);
/* Writes a number in decimal. */
void put_number(uint32_t number);
/* Writes bytes in hex. */
void put_hex(const uint8_t *bytes, uint32_t count);

/* SHA-256 (FIPS 180-4) of bytes in memory. */
void sha256(const uint8_t *data, uint32_t size, uint8_t digest[32]);

#endif
