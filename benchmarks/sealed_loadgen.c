// loadgen.c over sealed connections: the same load and the same report, with the record layer under `send` and `recv`.
//   cc -O2 -o sealed_loadgen sealed_loadgen.c -l:libcrypto.so.3
//   ./sealed_loadgen KEY FEATURES poll|sleep HOST PORT CONNS DEPTH BODY SECONDS [MSGID=20001]
// KEY is the server's public key in hex, or `plain`: then nothing is sealed, and it is loadgen.c itself. FEATURES are HELLO's:
// with 1 (resume) an ACK is put before the first batch after 64 messages. With `poll` it never sleeps: on loopback it is the
// server's `send` that wakes a reader, which costs it more the more often its reader has nothing to do, so that a slower
// server would pay for being slower. Prints `echoing` when all are verified, and at its end the share of time it was busy.
#define _GNU_SOURCE
#include "noise.h"
#include <sys/epoll.h>
#include <time.h>

enum { RAW = 1 << 17, ACK_FRAMES = 64 };
typedef struct { Cipher sending, receiving; uint64_t received, unacknowledged; size_t have; uint8_t raw[RAW]; } Link;

static Peer peer = {.pattern = NK}; static int plain, polling; static Link *links[1 << 16];
static double echoing, idle; // s: since when, and how much of it there was nothing to read

static double seconds(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }

static int connect_sealed(int fd, const struct sockaddr *to, socklen_t size) {
  int failed = connect(fd, to, size);
  if (failed || plain) return failed;
  if (fd >= 1 << 16) fail("too many files are open");
  Link *l = links[fd] = calloc(1, sizeof *l);
  handshake(fd, &peer, &l->sending, &l->receiving);
  return 0;
}

// loadgen.c sends a batch when the one before it has wholly come back: so what it sent before, it has received.
static size_t acknowledge(Link *l, const uint8_t *batch, size_t size, uint8_t *out) {
  size_t length = 0;
  if (l->unacknowledged >= ACK_FRAMES) {
    uint8_t ack[13] = {9, 0, 0, CONTROL, 8};
    for (int i = 0; i < 8; i++) ack[5 + i] = l->received >> (8 * i);
    memcpy(out, ack, length = sizeof ack); l->unacknowledged = 0;
  }
  for (size_t at = 0; at < size; at += 4 + (batch[at] | batch[at + 1] << 8 | batch[at + 2] << 16)) l->received++, l->unacknowledged++;
  return length;
}

static ssize_t send_sealed(int fd, const void *data, size_t size, int flags) {
  static uint8_t inner[MAX_PLAINTEXT], sealed[MAX_PLAINTEXT + 64]; Link *l = links[fd]; const uint8_t *batch = data;
  int verifying = size == 49 && batch[4] == 1;
  if (!verifying && !echoing) { puts("echoing"); fflush(stdout); echoing = seconds(); }
  if (plain) return send(fd, data, size, flags);
  size_t before = verifying || !(peer.features & 1) ? 0 : acknowledge(l, batch, size, inner);
  if (before + size > MAX_PLAINTEXT) fail("a batch must fit one record");
  memcpy(inner + before, data, size);
  send_all(fd, sealed, record(&l->sending, inner, before + size, sealed));
  return size;
}

static ssize_t recv_sealed(int fd, void *data, size_t room, int flags) { // reads no more than `data` has room for
  if (plain) return recv(fd, data, room, flags);
  Link *l = links[fd]; size_t space = room < RAW ? room : RAW, at = 0, opened = 0;
  if (l->have >= space) fail("a record is larger than loadgen.c has room for");
  ssize_t r = recv(fd, l->raw + l->have, space - l->have, flags);
  if (r <= 0) return r;
  l->have += r;
  while (l->have - at >= 4) {
    size_t length = l->raw[at] | l->raw[at + 1] << 8 | l->raw[at + 2] << 16;
    if (l->raw[at + 3] != SEALED || length <= TAG || length > 65535) fail("the server sent what is no record");
    if (l->have - at < 4 + length) break;
    decrypt(&l->receiving, NULL, 0, l->raw + at + 4, length, (uint8_t *)data + opened);
    opened += length - TAG; at += 4 + length;
  }
  memmove(l->raw, l->raw + at, l->have - at); l->have -= at;
  if (!opened) { errno = EAGAIN; return -1; }
  return opened;
}

static int wait_for_some(int ep, struct epoll_event *events, int room, int ms) {
  int found = epoll_wait(ep, events, room, 0);
  if (found) return found;
  double since = seconds(), until = since + ms * 1e-3;
  if (!polling) found = epoll_wait(ep, events, room, ms);
  else while (!found && seconds() < until) found = epoll_wait(ep, events, room, 0);
  if (echoing) idle += seconds() - since;
  return found;
}

#define epoll_wait wait_for_some
#define connect connect_sealed
#define send send_sealed
#define recv recv_sealed
#define main loadgen
#include "loadgen.c"
#undef main

int main(int argc, char **argv) {
  if (argc < 10) {
    fprintf(stderr, "usage: sealed_loadgen KEY|plain FEATURES poll|sleep HOST PORT CONNS DEPTH BODY SECONDS [MSGID]\n");
    return 2;
  }
  plain = !strcmp(argv[1], "plain"); peer.features = atoi(argv[2]); polling = !strcmp(argv[3], "poll");
  if (!plain) read_key(argv[1], peer.key);
  int failed = loadgen(argc - 3, argv + 3);
  printf("busy=%.2f\n", 1 - idle / (seconds() - echoing));
  return failed;
}
