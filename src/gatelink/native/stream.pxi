# In place of net/connection.Connection: a stream that reads and writes its socket itself, without a transport.
# Its methods have the same names and meaning.
#
# Straight frames go to the session in the receive buffer. All other bytes are cut into a list of frames by `walk`.

import socket as _socket

cdef frozenset NOTHING = frozenset()
cdef object UNVERIFIED, BOUND, CLOSING_STATE, CLOSED_STATE, VERIFIED_EVENT, CLOSE_EVENT, LOST_EVENT, CONNECTION, step
cdef object quiet, NULL_RECEIVER, KeyExhausted, walk, encode_control_frame, ALL_FLAGS, BASE_FLAGS
cdef int64_t MAX_RECORD
cdef bint are_net_names_imported = False

DEF PAUSED_TURN = 1         # Pause.TURN
DEF PAUSED_UNVERIFIED = 128

cdef int import_net_names() except -1:
    global are_net_names_imported, UNVERIFIED, BOUND, CLOSING_STATE, CLOSED_STATE, VERIFIED_EVENT, CLOSE_EVENT, LOST_EVENT
    global quiet, CONNECTION, step, NULL_RECEIVER, KeyExhausted, walk, encode_control_frame, ALL_FLAGS, BASE_FLAGS, MAX_RECORD
    if are_net_names_imported:
        return 0
    import_names()
    from gatelink.net import acceptor, connection
    from gatelink.session import states
    from gatelink.wire import frames, secure
    state, event = states.ConnectionState, states.ConnectionEvent
    UNVERIFIED, BOUND, CLOSING_STATE, CLOSED_STATE = state.UNVERIFIED, state.BOUND, state.CLOSING, state.CLOSED
    VERIFIED_EVENT, CLOSE_EVENT, LOST_EVENT = event.VERIFIED, event.CLOSE, event.LOST
    quiet = acceptor.quiet
    CONNECTION, step = states.CONNECTION, states.step
    NULL_RECEIVER, KeyExhausted = connection.NULL_RECEIVER, connection.KeyExhausted
    walk, encode_control_frame = frames.walk, frames.encode_control_frame
    ALL_FLAGS, BASE_FLAGS, MAX_RECORD = frames.ALL_FLAGS, frames.BASE_FLAGS, secure.MAX_RECORD
    are_net_names_imported = True
    return 0


cdef class Stream(Watched):
    cdef public object address, receiver, state
    cdef public bint writable, is_restrained
    cdef object copy                # a socket object of the same connection, for `get_extra_info`; closed with the stream
    cdef object on_closed, meter, error, allowed
    cdef SecureStream secure
    cdef Block *tail                # arrived and not decoded
    cdef size_t need                # bytes that the tail needs before it is looked at again
    cdef Block *write_buffer        # written and not sent
    cdef int64_t max_length, turn_frames, turn_bytes, max_unverified_bytes
    cdef size_t high                # bytes in the write buffer above which `writable` is false, until a quarter is left
    cdef int paused                 # a Pause
    # Flags. As `bint` each of them has four bytes.
    cdef uint8_t more               # there are whole frames in the tail
    cdef uint8_t is_held            # the tail grows undecoded
    cdef uint8_t discards           # bytes that come in are dropped
    cdef uint8_t is_ended           # the peer has ended its side, or the socket is to be closed when all is sent
    cdef uint8_t ends_writing       # our side ends when the write buffer is empty
    cdef uint8_t is_cut             # the socket takes nothing more; it may still have bytes from the peer

    def __init__(self, Reactor reactor not None, int fd, str address, limits, on_closed):
        """fd: a connected socket, which it owns from now on. on_closed: called once with it and its receiver."""
        import_net_names()
        self.reactor = reactor
        self.fd = fd
        self.address = address
        self.on_closed = on_closed
        self.receiver = NULL_RECEIVER
        self.state = UNVERIFIED
        self.writable = True
        self.is_restrained = True
        self.max_length = limits.max_frame_unverified
        self.max_unverified_bytes = limits.max_unverified_bytes
        self.turn_frames = 1            # frames behind a login request wait
        self.turn_bytes = limits.turn_bytes
        self.allowed = BASE_FLAGS
        self.set_write_buffer_limits(limits.write_high_water)
        reactor.add(self, EPOLLIN)

    def __dealloc__(self):
        release_block(self.tail)
        release_block(self.write_buffer)

    def __repr__(self):
        return f"<Stream {self.address} {self.state.name}>"

    # -- from the socket --

    cdef int handle_events(self, uint32_t events) except -1:
        if events & (EPOLLOUT | EPOLLERR | EPOLLHUP) and self.write_buffer is not NULL:
            self.send_waiting()
        if events & (EPOLLIN | EPOLLERR | EPOLLHUP) and self.fd >= 0 and self.events & EPOLLIN:
            self.read()
        return 0

    cdef int failed(self, error) except -1:
        self.shut(error)
        return 0

    cdef int read(self) except -1:
        cdef size_t most = READ
        cdef ssize_t got
        if self.is_restrained and not self.discards:
            most = <size_t>max(1, self.max_unverified_bytes - <int64_t>self.c_buffered())
        got = c_recv(self.fd, self.reactor.buffer, most if most < <size_t>READ else <size_t>READ, 0)
        if got > 0:
            if not self.discards:
                self.received(self.reactor.buffer, <size_t>got)
        elif got == 0:
            self.is_ended = True
            if self.write_buffer is NULL:
                self.shut(None)
            else:
                self.update_events()
        elif errno != EAGAIN and errno != EINTR:
            self.shut(OSError(errno, _os.strerror(errno)))
        return 0

    cdef int received(self, const uint8_t *data, size_t size) except -1:
        cdef SecureStream secure = self.secure
        cdef bytes plain
        if secure is None:
            return self.decode(data, size, size)
        plain = secure.c_feed(data, size)
        self.decode(<const uint8_t *>PyBytes_AS_STRING(plain), <size_t>PyBytes_GET_SIZE(plain), size)
        return self.report_bad_record()

    cdef int report_bad_record(self) except -1:
        """Tell the receiver of a bad record, when all whole frames before it are handled."""
        cdef SecureStream secure = self.secure
        if secure is not None and secure.error is not None and not self.discards and not self.more and self.error is None:
            self.receiver.broken(secure.error)
        return 0

    cdef int decode(self, const uint8_t *data, size_t size, size_t came) except -1:
        """Take the next bytes of the peer's frames. came: how many bytes they were on the wire."""
        cdef Block *whole
        if self.error is not None:
            return self.nothing_whole(came)
        if self.tail is NULL and not self.is_held:
            return self.cut(data, size, came)
        if size:
            memcpy(make_room(&self.tail, size), data, size)
            self.tail.end += size
        if self.is_held or self.tail is NULL or self.tail.end - self.tail.start < self.need:
            return self.nothing_whole(came)
        whole, self.tail = self.tail, NULL
        try:
            self.cut(bytes_of(whole) + whole.start, whole.end - whole.start, came)
        finally:
            release_block(whole)
        return 0

    cdef int nothing_whole(self, size_t came) except -1:
        self.charge(0, came)
        if not self.discards:
            self.receiver.waiting(self.c_tail_size())
        return 0

    cdef inline int charge(self, int64_t frames, size_t came) except -1:
        if self.meter is not None:
            (<Allowance>self.meter).c_charge(frames, <int64_t>came)
        return 0

    cdef int cut(self, const uint8_t *data, size_t size, size_t came) except -1:
        """Cut bytes into frames, keep the rest, and have the frames handled. The tail is empty."""
        cdef StraightPath session = None
        cdef StraightRead found
        cdef Share share
        cdef size_t end = 0
        cdef list frames
        cdef bytes copy
        self.more = False
        found.count = 0
        if isinstance(self.receiver, StraightPath):
            session = <StraightPath>self.receiver
            share.max_length, share.frames, share.bytes = self.max_length, self.turn_frames, self.turn_bytes
            session.find_straight(data, size, &share, &found)
        if found.count:
            self.keep(data + found.end, size - found.end, found.count, found.end)
            self.charge(found.count, came)
            session.receive_straight(data, &found)
        else:
            frames = []
            copy = PyBytes_FromStringAndSize(<const char *>data, <Py_ssize_t>size)
            try:
                end = walk(
                    copy, 0, frames, self.max_length, self.turn_frames, self.turn_bytes + HEAD_SIZE, False, 1, NOTHING,
                    self.allowed,
                )
                self.keep(data + end, size - end, <int64_t>len(frames), end)
            except ProtocolError as error:
                self.error = error
            self.charge(<int64_t>len(frames), came)
            if frames:
                self.receiver.receive(frames)
            else:
                self.receiver.waiting(self.c_tail_size())
        if self.discards:
            return 0
        if self.more:
            self.next_turn()
        elif self.error is not None:
            self.receiver.broken(self.error)
        return 0

    cdef int keep(self, const uint8_t *rest, size_t size, int64_t count, size_t at) except -1:
        """Keep the bytes behind the frames of a turn. at: where they end, in the bytes that were cut."""
        if not size:
            return 0
        memcpy(make_room(&self.tail, size), rest, size)
        self.tail.end += size
        self.more = count == self.turn_frames or (at > <size_t>self.turn_bytes and size >= HEAD_SIZE)
        if self.more:
            self.need = 0
        elif size < HEADER_SIZE:
            self.need = HEADER_SIZE
        else:
            self.need = HEADER_SIZE + (gl_u32(rest) & MAX_LENGTH)
            if size < HEAD_SIZE <= self.need:
                self.need = HEAD_SIZE
        return 0

    cdef int next_turn(self) except -1:
        """Let the rest wait for the next turn of the loop: this stream has had its share of this one."""
        if not self.paused & PAUSED_TURN:
            self.paused |= PAUSED_TURN
            self.update_events()
            self.reactor.loop.call_soon(self.go_on)
        return 0

    def go_on(self):
        self.paused &= ~PAUSED_TURN
        if self.paused or self.fd < 0:
            return
        if not self.discards:
            self.decode(NULL, 0, 0)
            self.report_bad_record()
        self.update_events()

    # -- to the socket --

    def write(self, bytes data not None):
        self.send(<const uint8_t *>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))

    cdef int send(self, const uint8_t *data, size_t size) except -1:
        """As `write`. The bytes must stay in place until this returns."""
        cdef SecureStream secure = self.secure
        cdef bytes sealed
        if secure is None:
            return self.put(data, size)
        sealed = secure.c_seal(data, size)
        if secure.exhausted:
            self.reactor.loop.call_soon(self.expire)  # not at once: this may be within a call of the receiver
        return self.put(<const uint8_t *>PyBytes_AS_STRING(sealed), <size_t>PyBytes_GET_SIZE(sealed))

    def expire(self):
        self.receiver.broken(KeyExhausted("this connection's key has sealed nearly 2**32 records"))

    cdef int put(self, const uint8_t *data, size_t size) except -1:
        """Send bytes. Those that the socket does not take wait in the write buffer."""
        cdef ssize_t sent = 0
        if self.fd < 0 or self.ends_writing or self.is_cut:
            return 0
        if self.write_buffer is NULL:
            sent = c_send(self.fd, data, size, MSG_NOSIGNAL)
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    return self.cannot_send()
                sent = 0
            if <size_t>sent == size:
                return 0
        size -= <size_t>sent
        memcpy(make_room(&self.write_buffer, size), data + sent, size)
        self.write_buffer.end += size
        if self.c_unsent() > self.high:
            self.writable = False
        self.update_events()
        return 0

    cdef int send_waiting(self) except -1:
        cdef Block *block = self.write_buffer
        cdef ssize_t sent = c_send(self.fd, bytes_of(block) + block.start, block.end - block.start, MSG_NOSIGNAL)
        if sent < 0:
            if errno != EAGAIN and errno != EINTR:
                return self.cannot_send()
            return 0
        block.start += <size_t>sent
        if block.start == block.end:
            release_block(block)
            self.write_buffer = NULL
            if self.is_ended:
                return self.shut(None)
            if self.ends_writing:
                self.end_writing()
            self.update_events()
        if not self.writable and self.c_unsent() <= self.high // 4:
            self.writable = True
            self.receiver.writable()
        return 0

    cdef int cannot_send(self) except -1:
        """React to a failed send. Bytes that the peer sent before a reset are read first; their end closes the socket."""
        if self.discards or self.is_ended or (errno != ECONNRESET and errno != EPIPE):
            return self.shut(OSError(errno, _os.strerror(errno)))
        self.is_cut = True
        release_block(self.write_buffer)
        self.write_buffer = NULL
        return self.update_events()

    cdef int end_writing(self) except -1:
        """End our side: the write buffer is empty. The peer's end closes the socket."""
        if c_shutdown(self.fd, SHUT_WR) < 0:
            self.shut(None)  # the peer has reset the connection, which we have not read yet
        return 0

    cdef int update_events(self) except -1:
        """Watch for the events that are wanted now. Close a socket that is not read and takes nothing more."""
        cdef uint32_t events = 0
        if self.is_cut and self.paused & ~PAUSED_TURN:
            return self.shut(OSError(EPIPE, _os.strerror(EPIPE)))
        if not self.paused and not self.is_ended:
            events |= EPOLLIN
        if self.write_buffer is not NULL:
            events |= EPOLLOUT
        return self.watch(events)

    cdef int shut(self, error) except -1:
        """Close the socket at once. `lost` is called in the loop's next turn, never from within a call."""
        if self.fd >= 0:
            self.discards = True
            self.close_socket()
            self.reactor.loop.call_soon(self.lost, error)
            self.close_copy()
        return 0

    cdef int close_copy(self) except -1:
        if self.copy is not None:
            copy, self.copy = self.copy, None
            try:
                copy.close()
            except OSError:
                pass  # the application has closed its descriptor
        return 0

    cdef int cut_off(self) except -1:
        Watched.cut_off(self)
        return self.close_copy()

    def lost(self, error):
        self.state = step(CONNECTION, self.state, LOST_EVENT)
        receiver, self.receiver = self.receiver, NULL_RECEIVER
        self.meter = None
        receiver.lost(error)  # it reads `buffered`
        if self.secure is not None:
            self.secure.rest()  # others still refer to it for a while
            self.secure = None
        release_block(self.tail)
        release_block(self.write_buffer)
        self.tail = self.write_buffer = NULL
        if self.on_closed is not None:
            on_closed, self.on_closed = self.on_closed, None
            on_closed(self, receiver)

    # -- for the receiver (Stream of session/stream.py) --

    def pause(self, int why):
        self.paused |= why
        self.update_events()

    def resume(self, int why):
        if not self.paused & why:
            return
        self.paused &= ~why
        if self.paused:
            return
        if self.more:
            self.next_turn()
        else:
            self.update_events()

    def close(self):
        if self.state is CLOSED_STATE or self.fd < 0 or self.ends_writing or self.is_ended:
            return
        self.discard_input()
        self.ends_writing = True
        if self.write_buffer is NULL:
            self.end_writing()

    def abort(self):
        if self.state is not CLOSED_STATE:
            self.discard_input()
            self.shut(None)

    def drop(self):
        self.receiver = NULL_RECEIVER
        self.abort()

    def discard_input(self):
        self.state = step(CONNECTION, self.state, CLOSE_EVENT)
        self.discards = True
        self.more = False
        self.meter = None
        release_block(self.tail)
        self.tail = NULL
        if self.paused:
            self.paused = 0
            self.update_events()

    cdef inline size_t c_tail_size(self) noexcept:
        return self.tail.end - self.tail.start if self.tail is not NULL else 0

    cdef size_t c_buffered(self) except? 0:
        cdef size_t size = self.c_tail_size()
        return size if self.secure is None else size + self.secure.c_buffered()

    cdef inline size_t c_unsent(self) noexcept:
        return self.write_buffer.end - self.write_buffer.start if self.write_buffer is not NULL else 0

    @property
    def unsent(self):
        return self.c_unsent() if self.secure is None else 0

    @property
    def held_bytes(self):
        return self.c_buffered() + self.c_unsent()

    # -- for the login check --

    @property
    def buffered(self):
        return self.c_buffered()

    @property
    def has_more(self):
        return bool(
            self.c_buffered() or self.error is not None or (self.secure is not None and self.secure.error is not None)
        )

    @property
    def is_tls(self):
        return False

    @property
    def carrier(self):
        """None: nothing stands between the stream and its socket."""
        return None

    def take_together(self, int64_t frames):
        self.turn_frames = frames

    def hold(self):
        self.is_held = True
        self.more = False

    def put_back(self, list frames not None):
        data = b"".join(
            [encode_control_frame(body) if flags == CONTROL else encode_frame(id, body, flags)
             for id, flags, body in frames]
        ) + self.take_rest()
        self.set_tail(data)
        self.next_turn()

    cdef bytes take_rest(self):
        cdef bytes rest = b""
        if self.tail is not NULL:
            rest = PyBytes_FromStringAndSize(
                <char *>bytes_of(self.tail) + self.tail.start, <Py_ssize_t>self.c_tail_size()
            )
            release_block(self.tail)
            self.tail = NULL
        self.more = False
        return rest

    cdef int set_tail(self, bytes data) except -1:
        """Make `data` the tail, to be decoded in the next turn."""
        if data:
            memcpy(make_room(&self.tail, <size_t>len(data)), PyBytes_AS_STRING(data), <size_t>len(data))
            self.tail.end += <size_t>len(data)
            self.need = 0
            self.more = True
        return 0

    def bind(self, receiver, int64_t max_frame, int64_t turn_frames, Allowance meter=None, allowed=None):
        self.state = step(CONNECTION, self.state, VERIFIED_EVENT)
        self.receiver = receiver
        if self.is_held:
            self.is_held = False
            self.need = 0
            self.more = self.tail is not NULL
        if self.is_restrained:
            self.is_restrained = False
            self.pause(PAUSED_UNVERIFIED)
        if self.secure is not None:
            self.secure.max_record = MAX_RECORD
        self.max_length = max_frame
        self.turn_frames = turn_frames
        self.allowed = BASE_FLAGS if allowed is None else allowed
        self.meter = meter

    def seal(self, SecureStream secure not None):
        cdef bytes rest = self.take_rest()
        self.error = None
        self.allowed = BASE_FLAGS
        self.secure = secure
        if rest:
            self.received(<const uint8_t *>PyBytes_AS_STRING(rest), <size_t>len(rest))

    # -- as of a transport --

    @property
    def transport(self):
        return self

    def set_write_buffer_limits(self, size_t high):
        self.high = high

    def get_write_buffer_size(self):
        return self.c_unsent()

    def is_closing(self):
        return self.fd < 0 or self.ends_writing or self.is_ended

    def is_reading(self):
        return self.fd >= 0 and not self.paused and not self.is_ended

    def get_extra_info(self, name, default=None):
        if self.fd < 0:
            return default
        if name == "socket":
            if self.copy is None:
                self.copy = _socket.socket(fileno=_os.dup(self.fd))
            return self.copy
        if name == "peername":
            return self.get_extra_info("socket").getpeername()
        if name == "sockname":
            return self.get_extra_info("socket").getsockname()
        return default
