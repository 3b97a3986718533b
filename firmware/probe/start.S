/* Multiboot headers (Multiboot Specification 0.6.96 and 2.0) and the entry in 32-bit protected mode. */

#define MAGIC1 0x1badb002
/* Modules on page borders, memory sizes wanted, addresses in this header count. */
#define FLAGS1 0x00010003
#define MAGIC2 0xe85250d6

        .section .multiboot, "a"
        .balign 8
header1:
        .long MAGIC1, FLAGS1, -(MAGIC1 + FLAGS1)
        .long header1, _load, _data_end, _end, start

        .balign 8
header2:
        .long MAGIC2, 0, header2_end - header2, -(MAGIC2 + (header2_end - header2))
        /* Addresses. */
        .balign 8
        .short 2, 0
        .long 24, header2, _load, _data_end, _end
        /* Entry. */
        .balign 8
        .short 3, 0
        .long 12, start
        /* A framebuffer when there is one, of any form. */
        .balign 8
        .short 5, 1
        .long 20, 0, 0, 0
        /* Modules on page borders. */
        .balign 8
        .short 6, 0
        .long 8
        /* End. */
        .balign 8
        .short 0, 0
        .long 8
header2_end:

        .text
        .globl start
start:
        cli
        cld
        movl $stack_end, %esp
        pushl %ebx
        pushl %eax
        call probe
        /* QEMU ends here when it has the device; other machines stop. */
        movl $0xf4, %edx
        outl %eax, %dx
1:      hlt
        jmp 1b

        .bss
        .balign 16
        .skip 16384
stack_end:

        .section .note.GNU-stack, "", @progbits
