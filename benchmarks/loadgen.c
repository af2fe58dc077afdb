// Load generator for the frame format in docs/protocol.md: one thread, epoll, no dependency.
//   cc -O2 -o loadgen loadgen.c
//   ./loadgen HOST PORT CONNS DEPTH BODY SECONDS [MSGID=20001]
// Each connection sends ClientVertifyReq (uid 100000+i, token = uid as 32 digits), waits for ClientVertifySucceedRet,
// then keeps DEPTH frames of MSGID in flight and counts the same number of MSGID frames back before it sends the next DEPTH.
// Prints messages per second and the latency of a whole batch of DEPTH.
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

typedef struct { int fd; int inflight; uint64_t sent_ns; size_t have; uint8_t in[1 << 17]; } Conn;

static uint64_t now_ns(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }
static void die(const char *what) { perror(what); exit(1); }

static int depth; static uint16_t msgid; static uint8_t *batch; static size_t frame_len;
static uint64_t hist[200000]; // 1 us buckets

static void send_batch(Conn *c) {
  size_t len = frame_len * depth, off = 0;
  c->sent_ns = now_ns(); c->inflight = depth;
  while (off < len) {
    ssize_t w = send(c->fd, batch + off, len - off, MSG_NOSIGNAL);
    if (w < 0) { if (errno == EAGAIN) continue; die("send"); }
    off += w;
  }
}

int main(int argc, char **argv) {
  if (argc < 7) { fprintf(stderr, "usage: loadgen HOST PORT CONNS DEPTH BODY SECONDS [MSGID]\n"); return 2; }
  const char *host = argv[1]; int port = atoi(argv[2]), n = atoi(argv[3]), body = atoi(argv[5]); double secs = atof(argv[6]);
  depth = atoi(argv[4]); msgid = argc > 7 ? atoi(argv[7]) : 20001;
  frame_len = 6 + body; batch = malloc(frame_len * depth);
  for (int i = 0; i < depth; i++) {
    uint8_t *p = batch + i * frame_len; uint32_t size = 2 + body;
    p[0] = size; p[1] = size >> 8; p[2] = size >> 16; p[3] = 0; p[4] = msgid; p[5] = msgid >> 8; memset(p + 6, 'x', body);
  }
  int ep = epoll_create1(0); Conn **conns = calloc(n, sizeof *conns);
  for (int i = 0; i < n; i++) {
    Conn *c = conns[i] = calloc(1, sizeof *c); uint64_t uid = 100000 + i; int one = 1; char token[40]; uint8_t v[49] = {45, 0, 0, 0, 1, 0, 0};
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)}; inet_pton(AF_INET, host, &a.sin_addr);
    if ((c->fd = socket(AF_INET, SOCK_STREAM, 0)) < 0 || connect(c->fd, (void *)&a, sizeof a)) die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    snprintf(token, sizeof token, "%032llu", (unsigned long long)uid);
    for (int k = 0; k < 8; k++) v[7 + k] = uid >> (8 * k);
    v[15] = 32; memcpy(v + 17, token, 32);
    if (send(c->fd, v, sizeof v, MSG_NOSIGNAL) != sizeof v) die("send");
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c}; epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
  }
  int verified = 0; uint64_t done = 0, batches = 0, start = 0, began = now_ns(); struct epoll_event ev[512];
  for (;;) {
    uint64_t t = now_ns();
    if (start && t - start > secs * 1e9) break;
    if (!start && t - began > 60e9) { fprintf(stderr, "only %d of %d verified\n", verified, n); return 1; }
    int k = epoll_wait(ep, ev, 512, 100);
    for (int i = 0; i < k; i++) {
      Conn *c = ev[i].data.ptr; ssize_t r = recv(c->fd, c->in + c->have, sizeof c->in - c->have, 0);
      if (r <= 0) { if (r < 0 && errno == EAGAIN) continue; fprintf(stderr, "the server closed a connection\n"); return 1; }
      size_t p = 0; int got = 0; c->have += r;
      while (c->have - p >= 4) {
        uint32_t size = c->in[p] | c->in[p + 1] << 8 | c->in[p + 2] << 16;
        if (c->have - p < 4 + size) break;
        uint16_t id = c->in[p + 4] | c->in[p + 5] << 8;
        if (id == 2) verified++; else if (id == msgid) got++;
        p += 4 + size;
      }
      memmove(c->in, c->in + p, c->have - p); c->have -= p;
      if (verified == n && !start) { start = now_ns(); for (int j = 0; j < n; j++) send_batch(conns[j]); }
      if (got && start) {
        done += got; c->inflight -= got;
        if (c->inflight <= 0) { uint64_t us = (now_ns() - c->sent_ns) / 1000; hist[us < 199999 ? us : 199999]++; batches++; send_batch(c); }
      }
    }
  }
  double elapsed = (now_ns() - start) / 1e9; uint64_t acc = 0; int p50 = -1, p99 = -1, p999 = -1;
  for (int i = 0; i < 200000; i++) {
    acc += hist[i];
    if (p50 < 0 && acc * 2 >= batches) p50 = i;
    if (p99 < 0 && acc * 100 >= batches * 99) p99 = i;
    if (p999 < 0 && acc * 1000 >= batches * 999) p999 = i;
  }
  struct rusage u; getrusage(RUSAGE_SELF, &u);
  double cpu = u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
  if (!done) { fprintf(stderr, "nothing came back\n"); return 1; }
  printf("conns=%d depth=%d body=%d msgs/s=%.0f p50=%dus p99=%dus p99.9=%dus loadgen_cpu=%.2f\n", n, depth, body, done / elapsed, p50, p99, p999, cpu / elapsed);
  return 0;
}
