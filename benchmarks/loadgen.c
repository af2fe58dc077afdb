// Load generator for the frame format in docs/protocol.md: one thread, epoll, no dependency.
//   cc -O2 -o loadgen loadgen.c
//   ./loadgen HOST PORT CONNS DEPTH BODY SECONDS [MSGID=20001] [ws|ask]
// Each connection sends ClientVertifyReq (uid 100000+i, token = uid as 32 digits), waits for ClientVertifySucceedRet,
// then keeps DEPTH frames of MSGID in flight and counts the same number of MSGID frames back before it sends the next DEPTH.
// With `ws` each frame goes as a masked WebSocket message of its own, as a browser sends it; the key is 0, which costs the
// server what any key does.
// With `ask` it says HELLO first, and MSGID is a request's: each frame has a tag, and its ANSWER counts as what came back.
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

typedef struct { int fd; int inflight; uint64_t sent_ns; size_t have, left; int head_len; uint8_t head[10]; uint8_t in[1 << 17]; } Conn;

static uint64_t now_ns(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }
static void die(const char *what) { perror(what); exit(1); }

enum { REQUEST_FLAG = 8, ANSWER_FLAG = 0x10, FAILED_FLAG = 0x18, CONTROL_FLAG = 0x80 };
static const uint8_t hello[15] = {11, 0, 0, CONTROL_FLAG, 1, 1, 4}; // its features: requests

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

static int ws;
static uint8_t raw[1 << 16];

// The header of a WebSocket message of `len` bytes, with the key 0; its length.
static int ws_head(uint8_t *p, size_t len) {
  p[0] = 0x82;
  if (len < 126) { p[1] = 0x80 | len; memset(p + 2, 0, 4); return 6; }
  p[1] = 0x80 | 126; p[2] = len >> 8; p[3] = len; memset(p + 4, 0, 4); return 8;
}

// Takes the payload of a server's frames out of `raw`.
static void ws_take(Conn *c, size_t n) {
  for (size_t i = 0; i < n;) {
    if (c->left) {
      size_t part = n - i < c->left ? n - i : c->left;
      memcpy(c->in + c->have, raw + i, part); c->have += part; c->left -= part; i += part;
      continue;
    }
    c->head[c->head_len++] = raw[i++];
    int size = c->head_len < 2 ? 99 : c->head[1] < 126 ? 2 : c->head[1] == 126 ? 4 : 10;
    if (c->head_len < size) continue;
    if (size == 2) c->left = c->head[1];
    else for (int k = 2; k < size; k++) c->left = c->left << 8 | c->head[k];
    c->head_len = 0;
  }
}

static void ws_upgrade(int fd) {
  const char *ask = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: gatelink.1\r\n\r\n";
  if (send(fd, ask, strlen(ask), MSG_NOSIGNAL) != (ssize_t)strlen(ask)) die("send");
  char end[4] = {0}, byte;
  while (memcmp(end, "\r\n\r\n", 4)) { if (recv(fd, &byte, 1, 0) != 1) die("no upgrade"); memmove(end, end + 1, 3); end[3] = byte; }
}

int main(int argc, char **argv) {
  if (argc < 7) { fprintf(stderr, "usage: loadgen HOST PORT CONNS DEPTH BODY SECONDS [MSGID] [ws|ask]\n"); return 2; }
  const char *host = argv[1]; int port = atoi(argv[2]), n = atoi(argv[3]), body = atoi(argv[5]); double secs = atof(argv[6]);
  depth = atoi(argv[4]); msgid = argc > 7 ? atoi(argv[7]) : 20001;
  int ask = argc > 8 && !strcmp(argv[8], "ask"), tag = ask ? 4 : 0; ws = argc > 8 && !strcmp(argv[8], "ws");
  if (argc > 9 || (argc > 8 && !ask && !ws)) { fprintf(stderr, "give ws or ask, or nothing, behind the id\n"); return 2; }
  uint8_t wh[8]; int wrap = ws ? ws_head(wh, 6 + body) : 0;
  frame_len = wrap + 6 + tag + body; batch = malloc(frame_len * depth);
  for (int i = 0; i < depth; i++) {
    uint8_t *p = batch + i * frame_len + wrap; memcpy(p - wrap, wh, wrap); uint32_t size = 2 + tag + body;
    p[0] = size; p[1] = size >> 8; p[2] = size >> 16; p[3] = ask ? REQUEST_FLAG : 0; p[4] = msgid; p[5] = msgid >> 8;
    for (int k = 0; k < tag; k++) p[6 + k] = i >> (8 * k); // a batch is sent when the one before it is answered
    memset(p + 6 + tag, 'x', body);
  }
  int ep = epoll_create1(0); Conn **conns = calloc(n, sizeof *conns);
  for (int i = 0; i < n; i++) {
    Conn *c = conns[i] = calloc(1, sizeof *c); uint64_t uid = 100000 + i; int one = 1; char token[40]; uint8_t whole[55], *v = whole + 6; memset(whole, 0, sizeof whole); v[0] = 45; v[4] = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)}; inet_pton(AF_INET, host, &a.sin_addr);
    if ((c->fd = socket(AF_INET, SOCK_STREAM, 0)) < 0 || connect(c->fd, (void *)&a, sizeof a)) die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    snprintf(token, sizeof token, "%032llu", (unsigned long long)uid);
    for (int k = 0; k < 8; k++) v[7 + k] = uid >> (8 * k);
    v[15] = 32; memcpy(v + 17, token, 32);
    if (ws) { ws_upgrade(c->fd); ws_head(whole, 49); }
    ssize_t first = ws ? 55 : 49;
    if (ask && send(c->fd, hello, sizeof hello, MSG_NOSIGNAL) != sizeof hello) die("send");
    if (send(c->fd, ws ? whole : v, first, MSG_NOSIGNAL) != first) die("send");
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
      Conn *c = ev[i].data.ptr; ssize_t r = ws ? recv(c->fd, raw, sizeof c->in - c->have < sizeof raw ? sizeof c->in - c->have : sizeof raw, 0) : recv(c->fd, c->in + c->have, sizeof c->in - c->have, 0);
      if (r <= 0) { if (r < 0 && errno == EAGAIN) continue; fprintf(stderr, "the server closed a connection\n"); return 1; }
      size_t p = 0; int got = 0; if (ws) ws_take(c, r); else c->have += r;
      while (c->have - p >= 4) {
        uint32_t size = c->in[p] | c->in[p + 1] << 8 | c->in[p + 2] << 16;
        if (c->have - p < 4 + size) break;
        uint16_t id = c->in[p + 4] | c->in[p + 5] << 8; uint8_t flags = c->in[p + 3];
        if (flags == FAILED_FLAG) { fprintf(stderr, "a request failed with code %d\n", c->in[p + 10]); return 1; }
        if (flags == CONTROL_FLAG) {} else if (id == 2) verified++; else if (ask ? flags == ANSWER_FLAG : id == msgid) got++;
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
