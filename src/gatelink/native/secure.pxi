# Twins of wire/noise.CipherState and wire/secure.SecureStream.
#
# A write is sealed from a copy of the queued frames. A record is opened straight from the receive buffer.

cimport cython

cdef object noise, InvalidTag, header_error, used_up, used_up_by_peer, not_verified
cdef int64_t MAX_MESSAGES, EXHAUSTED_AT
cdef bint are_seal_names_imported = False

DEF SEALED = 0x04
DEF SEAL_TAG = 16           # bytes of a record behind its ciphertext
DEF MIN_SEALED = 17
DEF MAX_PLAINTEXT = 16384
DEF MAX_MESSAGE = 65535
DEF NONCE_SIZE = 12


cdef int import_seal_names() except -1:
    global are_seal_names_imported, noise, InvalidTag, header_error, used_up, used_up_by_peer, not_verified
    global MAX_MESSAGES, EXHAUSTED_AT
    if are_seal_names_imported:
        return 0
    from cryptography import exceptions
    from gatelink.wire import noise as _noise, secure
    noise, InvalidTag = _noise, exceptions.InvalidTag
    used_up, used_up_by_peer, not_verified = noise.used_up, noise.used_up_by_peer, noise.not_verified
    header_error = secure.header_error
    MAX_MESSAGES, EXHAUSTED_AT = noise.MAX_MESSAGES, noise.MAX_MESSAGES - secure.RESERVED_RECORDS
    are_seal_names_imported = True
    return 0


cdef struct Records:        # the whole records that some bytes begin with
    size_t end              # where the last one ends
    size_t plain            # bytes of their plaintext
    size_t need             # bytes that the partial record behind them needs before it is parsed again
    bint is_bad             # there is a bad header behind them


@cython.freelist(4)
cdef class Span:
    """Memory of another object, as the argument of one call. After the call the span is empty."""

    cdef uint8_t *data
    cdef Py_ssize_t size
    cdef bint is_readonly

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, self.size, self.is_readonly, flags)


cdef Span span_of(const uint8_t *data, size_t size, bint is_readonly):
    cdef Span span = Span.__new__(Span)
    span.data = <uint8_t *>data
    span.size = <Py_ssize_t>size
    span.is_readonly = is_readonly
    return span


cdef bytes nonce_of(int64_t n):
    cdef bytes nonce = PyBytes_FromStringAndSize(NULL, NONCE_SIZE)
    cdef uint8_t *place = <uint8_t *>PyBytes_AS_STRING(nonce)
    cdef int at
    for at in range(NONCE_SIZE):
        place[NONCE_SIZE - 1 - at] = <uint8_t>(n >> 8 * at & 0xFF) if at < 8 else 0
    return nonce


cdef int crypt(function, int64_t n, const uint8_t *data, size_t size, uint8_t *out, size_t out_size) except -1:
    """Call `encrypt_into` or `decrypt_into` of a cipher, with the nonce of message `n` and no associated data."""
    cdef Span source = span_of(data, size, True), target = span_of(out, out_size, False)
    try:
        call_four(function, nonce_of(n), source, None, target)
    finally:
        source.size = target.size = 0
        source.data = target.data = NULL
    return 0


@cython.auto_pickle(False)
cdef class CipherState:
    cdef bytes key
    cdef object cipher          # None: the cipher rests
    cdef public int64_t n

    def __init__(self, bytes key not None):
        import_seal_names()
        self.key = key

    @property
    def aead(self):
        if self.cipher is None:
            self.cipher = noise.AESGCM(self.key)
        return self.cipher

    cpdef rest(self):
        self.cipher = None

    def encrypt_with_ad(self, ad, plaintext):
        if self.n >= MAX_MESSAGES:
            raise used_up()
        sealed = self.aead.encrypt(nonce_of(self.n), plaintext, ad)
        self.n += 1
        return sealed

    def decrypt_with_ad(self, ad, ciphertext):
        if self.n >= MAX_MESSAGES:
            raise used_up_by_peer()
        try:
            plaintext = self.aead.decrypt(nonce_of(self.n), ciphertext, ad)
        except InvalidTag:
            raise not_verified() from None
        self.n += 1
        return plaintext


cdef class SecureStream:
    cdef public int64_t max_record
    cdef public object error, on_wake
    cdef public bint exhausted
    cdef CipherState sending, receiving
    cdef object encrypt, decrypt    # the ciphers' `encrypt_into` and `decrypt_into`; None: they rest
    cdef Block *partial             # the beginning of a record; NULL: none
    cdef size_t need                # bytes that it needs before it is parsed again

    def __cinit__(self, CipherState send not None, CipherState receive not None, int64_t max_record=MAX_MESSAGE):
        import_seal_names()
        self.max_record = max_record
        self.sending = send
        self.receiving = receive
        self.update_exhausted()

    def __dealloc__(self):
        release_block(self.partial)

    cdef inline void update_exhausted(self) noexcept:
        if self.sending.n >= EXHAUSTED_AT or self.receiving.n >= EXHAUSTED_AT:
            self.exhausted = True

    @property
    def records(self):
        return self.sending.n + self.receiving.n

    def rest(self):
        self.encrypt = self.decrypt = None
        self.sending.rest()
        self.receiving.rest()

    cdef int wake(self) except -1:
        """Make both ciphers, if they rest."""
        if self.encrypt is None:
            self.encrypt = self.sending.aead.encrypt_into
            self.decrypt = self.receiving.aead.decrypt_into
            if self.on_wake is not None:
                self.on_wake(self)
        return 0

    cdef inline size_t c_buffered(self) noexcept:
        return self.partial.end - self.partial.start if self.partial is not NULL else 0

    @property
    def buffered(self):
        return self.c_buffered()

    # -- out --

    def seal(self, bytes plaintext not None):
        return self.c_seal(<const uint8_t *>PyBytes_AS_STRING(plaintext), <size_t>PyBytes_GET_SIZE(plaintext))

    def _seal_record(self, bytes plaintext not None):
        """Seal one record of any size, also one that `seal` would split."""
        cdef size_t size = <size_t>PyBytes_GET_SIZE(plaintext)
        cdef bytes sealed = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(HEADER_SIZE + size + SEAL_TAG))
        self.wake()
        self.seal_record(
            <const uint8_t *>PyBytes_AS_STRING(plaintext), size, <uint8_t *>PyBytes_AS_STRING(sealed)
        )
        return sealed

    cdef bytes c_seal(self, const uint8_t *data, size_t size):
        """As `seal`. The plaintext must stay in place until this returns."""
        cdef size_t records = (size + MAX_PLAINTEXT - 1) // MAX_PLAINTEXT
        cdef bytes sealed = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(size + records * (HEADER_SIZE + SEAL_TAG)))
        cdef uint8_t *place = <uint8_t *>PyBytes_AS_STRING(sealed)
        cdef size_t part
        self.wake()
        while size:
            part = min(size, <size_t>MAX_PLAINTEXT)
            self.seal_record(data, part, place)
            place += HEADER_SIZE + part + SEAL_TAG
            data += part
            size -= part
        self.update_exhausted()
        return sealed

    cdef int seal_record(self, const uint8_t *data, size_t size, uint8_t *place) except -1:
        """Write one record to `place`, which has room for 20 bytes more than `size`. Both ciphers must be awake."""
        cdef int64_t n = self.sending.n
        if n >= MAX_MESSAGES:
            raise used_up()
        gl_put_u32(place, <uint32_t>(size + SEAL_TAG) | <uint32_t>SEALED << 24)
        crypt(self.encrypt, n, data, size, place + HEADER_SIZE, size + SEAL_TAG)
        self.sending.n = n + 1
        return 0

    # -- in --

    def feed(self, bytes data not None):
        return self.c_feed(<const uint8_t *>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))

    cdef bytes c_feed(self, const uint8_t *data, size_t size):
        """As `feed`. The bytes must stay in place until this returns."""
        cdef Block *whole
        if self.error is not None:
            return b""
        if self.partial is NULL:
            return self.open(data, size)
        memcpy(make_room(&self.partial, size), data, size)
        self.partial.end += size
        if self.c_buffered() < self.need:
            return b""
        whole, self.partial = self.partial, NULL
        try:
            return self.open(bytes_of(whole) + whole.start, whole.end - whole.start)
        finally:
            release_block(whole)

    cdef bytes open(self, const uint8_t *data, size_t size):
        """The plaintext of the whole records in `data`. The rest is kept as `partial`, which must be NULL."""
        cdef Records found
        cdef bytes plain
        cdef size_t opened
        self.wake()
        self.find_records(data, size, &found)
        plain = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>found.plain)
        opened = self.open_records(data, found.end, <uint8_t *>PyBytes_AS_STRING(plain))
        if self.error is not None:  # the bytes behind the bad record are dropped
            plain = plain[:opened]
        elif found.is_bad:
            self.error = header_error(gl_u32(data + found.end), self.max_record)
        elif found.end < size:
            memcpy(make_room(&self.partial, size - found.end), data + found.end, size - found.end)
            self.partial.end += size - found.end
            self.need = found.need
        self.update_exhausted()
        return plain

    cdef void find_records(self, const uint8_t *data, size_t size, Records *found) noexcept:
        cdef uint32_t word, length
        found.end = found.plain = 0
        found.need = HEADER_SIZE
        found.is_bad = False
        while size - found.end >= HEADER_SIZE:
            word = gl_u32(data + found.end)
            length = word & MAX_LENGTH
            if word >> 24 != SEALED or length < MIN_SEALED or <int64_t>length > self.max_record:
                found.is_bad = True
                return
            if size - found.end < HEADER_SIZE + length:
                found.need = HEADER_SIZE + length
                return
            found.end += HEADER_SIZE + length
            found.plain += length - SEAL_TAG

    cdef size_t open_records(self, const uint8_t *data, size_t size, uint8_t *place) except? 0:
        """Open the whole records that fill `data`, up to a bad one, which sets `error`. Returns the plaintext's size."""
        cdef size_t at = 0, opened = 0, length
        cdef int64_t n
        while at < size:
            n = self.receiving.n
            if n >= MAX_MESSAGES:
                self.error = used_up_by_peer()
                return opened
            length = gl_u32(data + at) & MAX_LENGTH
            try:
                crypt(self.decrypt, n, data + at + HEADER_SIZE, length, place + opened, length - SEAL_TAG)
            except InvalidTag:
                self.error = not_verified()
                return opened
            self.receiving.n = n + 1
            at += HEADER_SIZE + length
            opened += length - SEAL_TAG
        return opened
