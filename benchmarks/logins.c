// Logins for the frame format in docs/protocol.md: how many a second, and how long each takes, from connect to verified.
//   cc -O2 -pthread -o logins logins.c -l:libcrypto.so.3 -l:libssl.so.3
//   ./logins plain|sealed|link|tls HOST PORT COUNT CLIENTS FIRST [KEY]
// CLIENTS threads log in one after the other, COUNT in all, as users FIRST, FIRST + 1, ... (link: as servers of the cluster, to
// server 1), and stay. KEY is the server's public key (sealed) or the cluster's (link) in hex. It prints what it saw, and
// ends when its standard input does: until then every session lives.
#define _GNU_SOURCE
#include "noise.h"
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/resource.h>
#include <time.h>

typedef struct ssl_ctx_st SSL_CTX; typedef struct ssl_st SSL;
const void *TLS_client_method(void);
SSL_CTX *SSL_CTX_new(const void *method);
long SSL_CTX_ctrl(SSL_CTX *ctx, int what, long number, void *data);
SSL *SSL_new(SSL_CTX *ctx);
int SSL_set_fd(SSL *ssl, int fd);
int SSL_connect(SSL *ssl);
int SSL_read(SSL *ssl, void *data, int size);
int SSL_write(SSL *ssl, const void *data, int size);
enum { SET_MIN_PROTO_VERSION = 123, TLS_1_3 = 0x0304 };

enum { SERVER_ID = 1, SERVER_TYPE = 7, VERIFY_SIZE = 49 };

static const char *mode; static struct sockaddr_in address; static int count, next; static uint64_t first; static double *took; static Peer peer; static SSL_CTX *tls;

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }

static void verify_request(uint64_t uid, int source, uint8_t *out) { // source, uid, and as token the uid as 32 digits
  char token[40]; uint8_t head[17] = {VERIFY_SIZE - 4, 0, 0, 0, 1, 0, source};
  snprintf(token, sizeof token, "%032llu", (unsigned long long)uid);
  for (int k = 0; k < 8; k++) head[7 + k] = uid >> (8 * k);
  head[15] = 32; memcpy(out, head, 17); memcpy(out + 17, token, 32);
}

static void log_in(uint64_t uid) {
  int link = !strcmp(mode, "link"), one = 1, fd = socket(AF_INET, SOCK_STREAM, 0); uint8_t request[VERIFY_SIZE], answer[4096];
  if (fd < 0 || connect(fd, (void *)&address, sizeof address)) { perror("connect"); exit(1); }
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  verify_request(uid, link ? SERVER_TYPE : 0, request);
  if (link || !strcmp(mode, "sealed")) {
    Peer mine = peer; Cipher sending, receiving; uint8_t sealed[VERIFY_SIZE + 4 + TAG];
    if (link) mine.from = uid, mine.to = SERVER_ID;
    handshake(fd, &mine, &sending, &receiving);
    send_all(fd, sealed, record(&sending, request, VERIFY_SIZE, sealed));
    recv_all(fd, answer, 4);
    int size = answer[0] | answer[1] << 8;
    if (size > (int)sizeof answer - 4) fail("the server's answer is too long");
    recv_all(fd, answer + 4, size);
    decrypt(&receiving, NULL, 0, answer + 4, size, answer);
  } else if (tls) {
    SSL *ssl = SSL_new(tls);
    SSL_set_fd(ssl, fd);
    if (SSL_connect(ssl) != 1 || SSL_write(ssl, request, VERIFY_SIZE) != VERIFY_SIZE || SSL_read(ssl, answer, sizeof answer) < 6) fail("TLS failed");
  } else {
    send_all(fd, request, VERIFY_SIZE);
    recv_all(fd, answer, 6);
  }
  if (answer[4] != 2 || answer[5]) fail("a login was refused");
}

static void *client(void *unused) {
  (void)unused;
  for (int i; (i = __sync_fetch_and_add(&next, 1)) < count;) { double began = now(); log_in(first + i); took[i] = now() - began; }
  return NULL;
}

static int by_size(const void *a, const void *b) { double d = *(double *)a - *(double *)b; return (d > 0) - (d < 0); }

int main(int argc, char **argv) {
  if (argc < 7) { fprintf(stderr, "usage: logins plain|sealed|link|tls HOST PORT COUNT CLIENTS FIRST [KEY]\n"); return 2; }
  mode = argv[1]; address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(argv[3]))}; inet_pton(AF_INET, argv[2], &address.sin_addr);
  count = atoi(argv[4]); int clients = atoi(argv[5]); first = atoll(argv[6]); took = calloc(count, sizeof *took);
  peer = (Peer){.pattern = strcmp(mode, "link") ? NK : NNPSK0, .features = 3};
  if (argc > 7) read_key(argv[7], peer.key);
  if (!strcmp(mode, "tls")) { tls = SSL_CTX_new(TLS_client_method()); SSL_CTX_ctrl(tls, SET_MIN_PROTO_VERSION, TLS_1_3, NULL); }
  pthread_t *threads = calloc(clients, sizeof *threads); double began = now();
  for (int i = 0; i < clients; i++) pthread_create(threads + i, NULL, client, NULL);
  for (int i = 0; i < clients; i++) pthread_join(threads[i], NULL);
  double elapsed = now() - began; struct rusage u; getrusage(RUSAGE_SELF, &u);
  double cpu = u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
  qsort(took, count, sizeof *took, by_size);
  printf("logins/s=%.0f p50=%.0fus p99=%.0fus loadgen_cpu=%.2f\n", count / elapsed, took[count / 2] * 1e6, took[count * 99 / 100] * 1e6, cpu / elapsed);
  fflush(stdout);
  while (getchar() != EOF);
  return 0;
}
