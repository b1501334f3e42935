/* Client and server that never sleep while they talk, so that the time of waking up is in no figure.
 *
 *   spin serve PORT CPU                         says "ready" once it listens
 *   spin ask ADDRESS PORT SECONDS CPU           one byte each way, on one connection
 *   spin connect ADDRESS PORT SECONDS CPU       connect, one byte each way, close; one after another
 *
 * Clients print one JSON object: count, seconds, and the median of connect() or of one exchange in
 * microseconds. A byte 'k' keeps a connection open, any other is answered and the connection closed by the server,
 * so that the client's port is free again at once; the server's network namespace is told to do without TIME_WAIT,
 * which would refuse a port that comes again within a minute. spin.py does the same, more slowly, where there is no
 * C compiler.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE 2.0 /* seconds without an answer */
#define IDLE 0.02    /* seconds without a connection, after which the server sleeps until there is one */
#define MAX_SAMPLES 4000000

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void fail(const char *what)
{
	fprintf(stderr, "spin: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* A processor of its own, and before all other processes on it: what those do is not to be measured. */
static void settle(int cpu)
{
	struct sched_param first = {.sched_priority = 1};
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
	sched_setscheduler(0, SCHED_FIFO, &first);
}

static struct sockaddr_in address_of(const char *ip, int port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
	if (inet_pton(AF_INET, ip, &address.sin_addr) != 1) {
		errno = EINVAL;
		fail(ip);
	}
	return address;
}

static void no_delay(int fd)
{
	int on = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

/* One byte; 0 at the end of the stream, -1 without an answer in time. */
static int receive(int fd, char *byte)
{
	double until = 0;
	for (unsigned long tries = 1;; tries++) {
		ssize_t got = recv(fd, byte, 1, MSG_DONTWAIT);
		if (got >= 0)
			return (int)got;
		if (errno != EAGAIN && errno != EINTR)
			return -1;
		if (tries % 1024 == 0) {
			if (until == 0)
				until = now() + PATIENCE;
			else if (now() > until) {
				errno = ETIMEDOUT;
				return -1;
			}
		}
	}
}

static void without_time_wait(void)
{
	FILE *file = fopen("/proc/sys/net/ipv4/tcp_max_tw_buckets", "w");
	if (!file || fputs("0", file) < 0 || fclose(file))
		fail("tcp_max_tw_buckets");
}

static void serve(int port)
{
	int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct sockaddr_in address = address_of("0.0.0.0", port);
	without_time_wait();
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 128))
		fail("listen");
	puts("ready");
	fflush(stdout);
	for (double busy = now();;) {
		int fd = accept4(listener, NULL, NULL, 0);
		if (fd < 0) {
			if (now() - busy > IDLE) {
				struct pollfd waiting = {.fd = listener, .events = POLLIN};
				poll(&waiting, 1, -1);
			}
			continue;
		}
		char byte;
		no_delay(fd);
		while (receive(fd, &byte) == 1) {
			send(fd, &byte, 1, MSG_NOSIGNAL);
			if (byte != 'k')
				break;
		}
		close(fd);
		busy = now();
	}
}

static int open_connection(const struct sockaddr_in *address)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	struct timeval patience = {.tv_sec = (long)PATIENCE};
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	no_delay(fd);
	if (connect(fd, (const struct sockaddr *)address, sizeof(*address)))
		fail("connect");
	return fd;
}

static void exchange(int fd, char byte)
{
	if (send(fd, &byte, 1, MSG_NOSIGNAL) != 1 || receive(fd, &byte) != 1)
		fail("no answer");
}

static int ascending(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;
	return (x > y) - (x < y);
}

static void ask(const struct sockaddr_in *address, double seconds, int connecting)
{
	float *times = malloc(MAX_SAMPLES * sizeof(*times));
	long count = 0;
	char byte;
	int fd = connecting ? -1 : open_connection(address);
	double began = now(), at = began;
	while (at - began < seconds && count < MAX_SAMPLES) {
		double begun = at;
		if (connecting) {
			fd = open_connection(address);
			times[count++] = (float)((now() - begun) * 1e6);
			exchange(fd, 'c');
			if (receive(fd, &byte) != 0)
				fail("no end");
			close(fd);
			at = now();
		} else {
			exchange(fd, 'k');
			at = now();
			times[count++] = (float)((at - begun) * 1e6);
		}
	}
	qsort(times, (size_t)count, sizeof(*times), ascending);
	printf("{\"count\": %ld, \"seconds\": %.6f, \"median_us\": %.2f}\n", count, at - began,
	       times[count / 2]);
}

int main(int argc, char **argv)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (argc == 4 && !strcmp(argv[1], "serve")) {
		settle(atoi(argv[3]));
		serve(atoi(argv[2]));
	} else if (argc == 6) {
		struct sockaddr_in address = address_of(argv[2], atoi(argv[3]));
		settle(atoi(argv[5]));
		ask(&address, atof(argv[4]), !strcmp(argv[1], "connect"));
		return 0;
	}
	fprintf(stderr, "usage: spin serve PORT CPU | spin ask|connect ADDRESS PORT SECONDS CPU\n");
	return 2;
}
