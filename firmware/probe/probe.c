/* Tells what the loader gave. */

#include "probe.h"

#define LOADER_MULTIBOOT1 0x2badb002
#define LOADER_MULTIBOOT2 0x36d76289
/* What QEMU's exit device makes 33 and 35 of. */
#define EXIT_GOOD 16
#define EXIT_BAD 17

/* Multiboot 1: the information's words that matter here, and its flags for them. */
struct info1 {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
	uint32_t syms[4], mmap_length, mmap_addr, drives_length, drives_addr, config_table, boot_loader_name;
};
#define HAS_CMDLINE (1 << 2)
#define HAS_MODULES (1 << 3)
#define HAS_LOADER (1 << 9)

struct module1 {
	uint32_t start, end, string, reserved;
};

/* Multiboot 2: a list of tags, each at a multiple of 8 bytes. */
struct tag {
	uint32_t type, size;
};
#define TAG_END 0
#define TAG_CMDLINE 1
#define TAG_LOADER 2
#define TAG_MODULE 3
#define TAG_FRAMEBUFFER 8
#define TAG_EFI64 12

struct module2 {
	struct tag tag;
	uint32_t start, end;
	char string[];
};

struct framebuffer {
	struct tag tag;
	uint64_t address;
	uint32_t pitch, width, height;
	uint8_t depth;
};

static int bad;

static void line(const char *what, const char *text)
{
	put("probe: ");
	put(what);
	put(" ");
	put_foreign(text);
	put("\n");
}

static void error(const char *what)
{
	line("error", what);
	bad = 1;
}

static void count(uint32_t number)
{
	put("probe: modules ");
	put_number(number);
	put("\n");
}

static void module(uint32_t number, uint32_t start, uint32_t end, const char *string)
{
	uint8_t digest[32];

	if (end < start) {
		error("a module ends before it starts");
		return;
	}
	sha256((const uint8_t *)start, end - start, digest);
	put("probe: module ");
	put_number(number);
	put(" ");
	put_number(end - start);
	put(" ");
	put_hex(digest, sizeof digest);
	put(" ");
	put_foreign(string);
	put("\n");
}

static void multiboot1(const struct info1 *info)
{
	uint32_t modules = info->flags & HAS_MODULES ? info->mods_count : 0;
	const struct module1 *list = (const struct module1 *)info->mods_addr;

	line("protocol", "multiboot1");
	line("loader", info->flags & HAS_LOADER ? (const char *)info->boot_loader_name : "");
	line("cmdline", info->flags & HAS_CMDLINE ? (const char *)info->cmdline : "");
	count(modules);
	for (uint32_t i = 0; i < modules; i++)
		module(i, list[i].start, list[i].end, list[i].string ? (const char *)list[i].string : "");
}

static const struct tag *behind(const struct tag *tag)
{
	return (const struct tag *)((uint32_t)tag + ((tag->size + 7) & ~7u));
}

/* The first tag of a type from this one on, or the end. */
static const struct tag *next(const struct tag *tag, uint32_t type)
{
	while (tag->type != TAG_END && tag->type != type)
		tag = behind(tag);
	return tag;
}

static const char *text(const struct tag *first, uint32_t type)
{
	const struct tag *tag = next(first, type);

	return tag->type == type ? (const char *)(tag + 1) : "";
}

static void multiboot2(const struct tag *first)
{
	uint32_t modules = 0;
	const struct tag *tag;

	line("protocol", "multiboot2");
	line("loader", text(first, TAG_LOADER));
	line("cmdline", text(first, TAG_CMDLINE));
	line("firmware", next(first, TAG_EFI64)->type == TAG_EFI64 ? "efi64" : "bios");
	tag = next(first, TAG_FRAMEBUFFER);
	if (tag->type == TAG_FRAMEBUFFER) {
		const struct framebuffer *screen = (const struct framebuffer *)tag;

		put("probe: framebuffer ");
		put_number(screen->width);
		put("x");
		put_number(screen->height);
		put("x");
		put_number(screen->depth);
		put("\n");
	}
	for (tag = next(first, TAG_MODULE); tag->type == TAG_MODULE; tag = next(behind(tag), TAG_MODULE))
		modules++;
	count(modules);
	modules = 0;
	for (tag = next(first, TAG_MODULE); tag->type == TAG_MODULE; tag = next(behind(tag), TAG_MODULE)) {
		const struct module2 *found = (const struct module2 *)tag;

		module(modules++, found->start, found->end, found->string);
	}
}

uint32_t probe(uint32_t magic, uint32_t info)
{
	console_open();
	put("\n");
	if (magic == LOADER_MULTIBOOT1)
		multiboot1((const struct info1 *)info);
	else if (magic == LOADER_MULTIBOOT2)
		multiboot2((const struct tag *)(info + 8));
	else
		error("no multiboot loader has started this");
	put("probe: done\n");
	return bad ? EXIT_BAD : EXIT_GOOD;
}
