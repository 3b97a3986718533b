/* The first serial port. */

#include "probe.h"

#define PORT 0x3f8

static void out(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static uint8_t in(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

void console_open(void)
{
	out(PORT + 1, 0);    /* no interrupts */
	out(PORT + 3, 0x80); /* divisor: 1, that is 115200 baud */
	out(PORT, 1);
	out(PORT + 1, 0);
	out(PORT + 3, 3);    /* 8n1 */
	out(PORT + 2, 7);    /* queues on, and empty */
}

static void put_byte(char byte)
{
	/* A machine without the port must not hang here. */
	for (uint32_t tries = 0; tries < 1000000 && !(in(PORT + 5) & 0x20); tries++)
		;
	out(PORT, (uint8_t)byte);
}

void put(const char *text)
{
	for (; *text; text++) {
		if (*text == '\n')
			put_byte('\r');
		put_byte(*text);
	}
}

void put_hex(const uint8_t *bytes, uint32_t count)
{
	static const char digits[] = "0123456789abcdef";

	for (uint32_t i = 0; i < count; i++) {
		put_byte(digits[bytes[i] >> 4]);
		put_byte(digits[bytes[i] & 15]);
	}
}

void put_foreign(const char *text)
{
	for (; *text; text++) {
		if (*text >= ' ' && *text <= '~' && *text != '\\') {
			put_byte(*text);
		} else {
			put("\\x");
			put_hex((const uint8_t *)text, 1);
		}
	}
}

void put_number(uint32_t number)
{
	char digits[11];
	int at = sizeof digits - 1;

	digits[at] = 0;
	do {
		digits[--at] = (char)('0' + number % 10);
		number /= 10;
	} while (number);
	put(digits + at);
}
