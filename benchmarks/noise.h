// The connecting side of docs/protocol.md, "Encryption", for the load generators: handshakes NK and NNpsk0, and records.
// The cryptography is OpenSSL 3's libcrypto. Its functions are declared here, so that the library is enough, which
// Debian's python3 needs anyway (package libssl3), and no -dev package.
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

typedef struct evp_pkey_st EVP_PKEY; typedef struct evp_pkey_ctx_st EVP_PKEY_CTX;
typedef struct evp_cipher_st EVP_CIPHER; typedef struct evp_cipher_ctx_st EVP_CIPHER_CTX; typedef struct evp_md_st EVP_MD;
EVP_PKEY *EVP_PKEY_new_raw_private_key(int type, void *engine, const uint8_t *key, size_t size);
EVP_PKEY *EVP_PKEY_new_raw_public_key(int type, void *engine, const uint8_t *key, size_t size);
int EVP_PKEY_get_raw_public_key(const EVP_PKEY *key, uint8_t *out, size_t *size);
void EVP_PKEY_free(EVP_PKEY *key);
EVP_PKEY_CTX *EVP_PKEY_CTX_new(EVP_PKEY *key, void *engine);
void EVP_PKEY_CTX_free(EVP_PKEY_CTX *ctx);
int EVP_PKEY_derive_init(EVP_PKEY_CTX *ctx);
int EVP_PKEY_derive_set_peer(EVP_PKEY_CTX *ctx, EVP_PKEY *peer);
int EVP_PKEY_derive(EVP_PKEY_CTX *ctx, uint8_t *out, size_t *size);
const EVP_CIPHER *EVP_aes_256_gcm(void);
EVP_CIPHER_CTX *EVP_CIPHER_CTX_new(void);
void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX *ctx);
int EVP_CipherInit_ex(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *cipher, void *engine, const uint8_t *key, const uint8_t *iv, int enc);
int EVP_CipherUpdate(EVP_CIPHER_CTX *ctx, uint8_t *out, int *out_size, const uint8_t *in, int size);
int EVP_CipherFinal_ex(EVP_CIPHER_CTX *ctx, uint8_t *out, int *out_size);
int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX *ctx, int what, int size, void *data);
const EVP_MD *EVP_sha256(void);
uint8_t *HMAC(const EVP_MD *md, const void *key, int key_size, const uint8_t *data, size_t size, uint8_t *out, unsigned *out_size);
uint8_t *SHA256(const uint8_t *data, size_t size, uint8_t *out);
enum { X25519 = 1034, GET_TAG = 0x10, SET_TAG = 0x11 }; // NID_X25519, EVP_CTRL_AEAD_GET_TAG and _SET_TAG

enum { NK = 1, NNPSK0 = 2, TAG = 16, SEALED = 4, CONTROL = 0x80, MAX_PLAINTEXT = 65535 - TAG };

typedef struct { EVP_CIPHER_CTX *ctx; uint64_t n; } Cipher;
typedef struct { uint8_t h[32], ck[32]; Cipher cipher; } Symmetric;
typedef struct { int pattern; uint8_t key[32]; uint64_t features, from, to; } Peer; // key: the server's public one, or the cluster's

static void fail(const char *what) { fprintf(stderr, "%s\n", what); exit(1); }

// -- one AEAD --

static Cipher new_cipher(const uint8_t *key) {
  Cipher c = {EVP_CIPHER_CTX_new(), 0};
  if (!EVP_CipherInit_ex(c.ctx, EVP_aes_256_gcm(), NULL, key, NULL, 1)) fail("AES-256-GCM is not available");
  return c;
}

static int begin(Cipher *c, const uint8_t *ad, int ad_size, int enc) {
  uint8_t nonce[12] = {0}; int out;
  for (int i = 0; i < 8; i++) nonce[11 - i] = c->n >> (8 * i);
  c->n++;
  return EVP_CipherInit_ex(c->ctx, NULL, NULL, NULL, nonce, enc) && (!ad_size || EVP_CipherUpdate(c->ctx, NULL, &out, ad, ad_size));
}

static void encrypt(Cipher *c, const uint8_t *ad, int ad_size, const uint8_t *in, int size, uint8_t *out) { // size + TAG bytes
  int done;
  if (!begin(c, ad, ad_size, 1) || !EVP_CipherUpdate(c->ctx, out, &done, in, size) || !EVP_CipherFinal_ex(c->ctx, out + size, &done) ||
      !EVP_CIPHER_CTX_ctrl(c->ctx, GET_TAG, TAG, out + size)) fail("could not seal");
}

static void decrypt(Cipher *c, const uint8_t *ad, int ad_size, const uint8_t *in, int size, uint8_t *out) { // size - TAG bytes
  int done;
  if (!begin(c, ad, ad_size, 0) || !EVP_CipherUpdate(c->ctx, out, &done, in, size - TAG) ||
      !EVP_CIPHER_CTX_ctrl(c->ctx, SET_TAG, TAG, (void *)(in + size - TAG)) || EVP_CipherFinal_ex(c->ctx, out + size - TAG, &done) <= 0)
    fail("a sealed message from the server did not verify");
}

// -- the handshake, in the words of the Noise specification --

static void mix_hash(Symmetric *s, const uint8_t *data, size_t size) {
  uint8_t joined[256];
  memcpy(joined, s->h, 32); memcpy(joined + 32, data, size); SHA256(joined, 32 + size, s->h);
}

static void hkdf(const uint8_t *ck, const uint8_t *in, size_t size, uint8_t (*out)[32], int count) {
  uint8_t key[32], block[33]; size_t have = 0;
  HMAC(EVP_sha256(), ck, 32, in, size, key, NULL);
  for (int i = 0; i < count; i++) {
    block[have] = i + 1; HMAC(EVP_sha256(), key, 32, block, have + 1, out[i], NULL);
    memcpy(block, out[i], 32); have = 32;
  }
}

static void mix_key(Symmetric *s, const uint8_t *in, size_t size, int and_hash) {
  uint8_t out[3][32];
  hkdf(s->ck, in, size, out, 2 + and_hash);
  memcpy(s->ck, out[0], 32);
  if (and_hash) mix_hash(s, out[1], 32);
  if (s->cipher.ctx) EVP_CIPHER_CTX_free(s->cipher.ctx);
  s->cipher = new_cipher(out[1 + and_hash]);
}

static void mix_dh(Symmetric *s, EVP_PKEY *mine, const uint8_t *theirs) {
  uint8_t secret[32]; size_t size = 32;
  EVP_PKEY *peer = EVP_PKEY_new_raw_public_key(X25519, NULL, theirs, 32); EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(mine, NULL);
  if (EVP_PKEY_derive_init(ctx) <= 0 || EVP_PKEY_derive_set_peer(ctx, peer) <= 0 || EVP_PKEY_derive(ctx, secret, &size) <= 0)
    fail("X25519 failed");
  EVP_PKEY_CTX_free(ctx); EVP_PKEY_free(peer);
  mix_key(s, secret, 32, 0);
}

static void send_all(int fd, const uint8_t *data, size_t size) {
  while (size) {
    ssize_t w = send(fd, data, size, MSG_NOSIGNAL);
    if (w < 0 && errno != EAGAIN) { perror("send"); exit(1); }
    if (w > 0) { data += w; size -= w; }
  }
}

static void recv_all(int fd, uint8_t *data, size_t size) { // on a blocking socket
  if (recv(fd, data, size, MSG_WAITALL) != (ssize_t)size) fail("the server closed a connection instead of answering");
}

// Both HANDSHAKEs on a blocking socket, with HELLOs of `features` in them; gives the two ciphers of the connection.
static void handshake(int fd, const Peer *peer, Cipher *sending, Cipher *receiving) {
  static const char *names[] = {NULL, "Noise_NK_25519_AESGCM_SHA256", "Noise_NNpsk0_25519_AESGCM_SHA256"};
  int nk = peer->pattern == NK; Symmetric s = {0}; uint8_t id[32], text[47] = "gatelink psk id", keys[2][32];
  memcpy(s.h, names[peer->pattern], strlen(names[peer->pattern])); memcpy(s.ck, s.h, 32);
  memcpy(text + 15, peer->key, 32);
  if (nk) SHA256(peer->key, 32, id); else SHA256(text, sizeof text, id);

  // frame: length u24, flags, type 2, then pattern u8, key id 4, from u64, to u64 (the prologue's 21), then the message
  uint8_t first[4 + 1 + 21 + 32 + 11 + TAG] = {sizeof first - 4, 0, 0, CONTROL, 2, peer->pattern}, *e = first + 26, prologue[31] = "gatelink/1";
  memcpy(first + 6, id, 4);
  for (int i = 0; i < 8; i++) first[10 + i] = peer->from >> (8 * i), first[18 + i] = peer->to >> (8 * i);
  memcpy(prologue + 10, first + 5, 21);
  mix_hash(&s, prologue, 31);
  if (nk) mix_hash(&s, peer->key, 32); else mix_key(&s, peer->key, 32, 1);

  uint8_t secret[32]; size_t size = 32;
  if (getrandom(secret, 32, 0) != 32) fail("no random bytes");
  EVP_PKEY *ephemeral = EVP_PKEY_new_raw_private_key(X25519, NULL, secret, 32); EVP_PKEY_get_raw_public_key(ephemeral, e, &size);
  mix_hash(&s, e, 32);
  if (nk) mix_dh(&s, ephemeral, peer->key); else mix_key(&s, e, 32, 0);
  uint8_t hello[11] = {1, 1};
  for (int i = 0; i < 8; i++) hello[2 + i] = peer->features >> (8 * i);
  encrypt(&s.cipher, s.h, 32, hello, sizeof hello, e + 32); mix_hash(&s, e + 32, sizeof hello + TAG);
  send_all(fd, first, sizeof first);

  uint8_t second[4 + 1 + 32 + 11 + TAG], *re = second + 5, answer[11];
  recv_all(fd, second, sizeof second);
  if (second[0] != sizeof second - 4 || second[3] != CONTROL || second[4] != 2) fail("a HANDSHAKE was answered with something else");
  mix_hash(&s, re, 32);
  if (!nk) mix_key(&s, re, 32, 0);
  mix_dh(&s, ephemeral, re);
  decrypt(&s.cipher, s.h, 32, re + 32, sizeof answer + TAG, answer);
  if (memcmp(answer, hello, sizeof hello)) fail("the server's HELLO has not the features that were asked for");
  hkdf(s.ck, NULL, 0, keys, 2);
  *sending = new_cipher(keys[0]); *receiving = new_cipher(keys[1]);
  EVP_CIPHER_CTX_free(s.cipher.ctx); EVP_PKEY_free(ephemeral);
}

// -- records --

static size_t record(Cipher *c, const uint8_t *plaintext, size_t size, uint8_t *out) { // size + 4 + TAG bytes
  size_t length = size + TAG;
  out[0] = length; out[1] = length >> 8; out[2] = 0; out[3] = SEALED;
  encrypt(c, NULL, 0, plaintext, size, out + 4);
  return 4 + length;
}

// -- for main --

static void read_key(const char *hex, uint8_t *key) {
  if (strlen(hex) != 64) fail("a key has 64 hex digits");
  for (int i = 0; i < 32; i++) if (sscanf(hex + 2 * i, "%2hhx", key + i) != 1) fail("a key has 64 hex digits");
}
