/* What the headers that come with BCC lack. */
#pragma once

#define AF_INET 2
#define AF_INET6 10

#ifndef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)
#endif

#define bpf_htons(value) __builtin_bswap16(value)
#define bpf_ntohs(value) __builtin_bswap16(value)
#define bpf_htonl(value) __builtin_bswap32(value)
