/* What the headers that come with BCC lack. */
#pragma once

#define AF_INET 2
#define AF_INET6 10

#ifndef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)
#endif

/* Keeps the compiler from answering a pointer's next test by an earlier one's outcome: the verifier does not remember
 * what that said of the pointer. */
#define RETEST(pointer) asm volatile("" : "+r"(pointer))

/* Has what follows read again what is in memory: the verifier then need not follow each way that led there by itself. */
#define REREAD() asm volatile("" : : : "memory")

#define bpf_htons(value) __builtin_bswap16(value)
#define bpf_ntohs(value) __builtin_bswap16(value)
#define bpf_htonl(value) __builtin_bswap32(value)
#define bpf_ntohl(value) __builtin_bswap32(value)
