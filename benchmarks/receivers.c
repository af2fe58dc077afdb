// Receivers of broadcasts (docs/protocol.md): one thread, epoll, no dependency.
//   cc -O2 -o receivers receivers.c
//   ./receivers HOST PORT COUNT IN_FLIGHT SECONDS [ASK=20002] [DELIVERED=20003]
// COUNT connections are verified as in loadgen.c. The first one sends message ASK, with 64 bytes of body, for each
// broadcast; the server then sends a DELIVERED to everybody. IN_FLIGHT of them are kept under way. The first broadcast only
// warms up; when everybody has it, `receiving` is printed, and at the end the deliveries a second.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { ROOM = 1 << 16, REST = 4096, STALLED = 10000 };
typedef struct { int fd; size_t have; uint8_t *rest; } Conn; // rest: of a frame that has not wholly come

static double seconds(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
static double cpu(void) { struct rusage u; getrusage(RUSAGE_SELF, &u); return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6; }
static void die(const char *what) { perror(what); exit(1); }
static void fail(const char *what) { fprintf(stderr, "%s\n", what); exit(1); }

static uint64_t verified, deliveries; static uint16_t delivered = 20003;
static uint8_t data[ROOM + REST];

static void take(Conn *c) {
  if (c->have) memcpy(data, c->rest, c->have);
  ssize_t r = recv(c->fd, data + c->have, ROOM, 0);
  if (r < 0 && errno == EAGAIN) return;
  if (r <= 0) fail("the server closed a connection");
  size_t size = c->have + r, at = 0;
  while (size - at >= 6) {
    size_t end = at + 4 + (data[at] | data[at + 1] << 8 | data[at + 2] << 16);
    if (end > size) break;
    uint16_t id = data[at + 4] | data[at + 5] << 8;
    verified += id == 2; deliveries += id == delivered; at = end;
  }
  c->have = size - at;
  if (c->have > REST) fail("a frame is too large");
  if (c->have && !c->rest && !(c->rest = malloc(REST))) die("malloc");
  if (c->have) memcpy(c->rest, data + at, c->have);
}

int main(int argc, char **argv) {
  if (argc < 6) { fprintf(stderr, "usage: receivers HOST PORT COUNT IN_FLIGHT SECONDS [ASK] [DELIVERED]\n"); return 2; }
  int n = atoi(argv[3]); uint64_t in_flight = atoi(argv[4]), asked = 0, first = 0; double secs = atof(argv[5]), start = 0, used = 0;
  uint16_t ask = argc > 6 ? atoi(argv[6]) : 20002; if (argc > 7) delivered = atoi(argv[7]);
  uint8_t request[70] = {66, 0, 0, 0, ask, ask >> 8}; memset(request + 6, 'x', 64);
  int ep = epoll_create1(0); Conn *conns = calloc(n, sizeof *conns);
  for (int i = 0; i < n; i++) {
    Conn *c = conns + i; uint64_t uid = 100000 + i; int one = 1; uint8_t v[64] = {45, 0, 0, 0, 1};
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))}; inet_pton(AF_INET, argv[1], &a.sin_addr);
    if ((c->fd = socket(AF_INET, SOCK_STREAM, 0)) < 0 || connect(c->fd, (void *)&a, sizeof a)) die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    for (int k = 0; k < 8; k++) v[7 + k] = uid >> (8 * k);
    v[15] = 32; snprintf((char *)v + 17, 33, "%032llu", (unsigned long long)uid);
    if (send(c->fd, v, 49, MSG_NOSIGNAL) != 49) die("send");
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c}; if (epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e)) die("epoll_ctl");
  }
  struct epoll_event ev[512];
  while (!start || seconds() - start < secs) {
    uint64_t whole = deliveries / n;
    if (verified == (uint64_t)n) while (asked - whole < (start ? in_flight : 1) && (start || !asked)) {
      if (send(conns[0].fd, request, sizeof request, MSG_NOSIGNAL) != sizeof request) die("send");
      asked++;
    }
    int k = epoll_wait(ep, ev, 512, STALLED);
    if (!k) { fprintf(stderr, "nothing came for 10 s: %llu of %d verified, %llu deliveries\n", (unsigned long long)verified, n, (unsigned long long)deliveries); return 1; }
    for (int i = 0; i < k; i++) take(ev[i].data.ptr);
    if (!start && deliveries == (uint64_t)n) { puts("receiving"); fflush(stdout); start = seconds(); used = cpu(); first = deliveries; }
  }
  double took = seconds() - start;
  printf("receivers=%d deliveries/s=%.0f load_cpu=%.2f\n", n, (deliveries - first) / took, (cpu() - used) / took);
  return 0;
}
