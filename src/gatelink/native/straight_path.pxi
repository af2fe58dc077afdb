# Twin of session/straight_path.StraightPath.


cdef struct StraightRead:   # the frames of a read that may take the straight path, and the ACKs among them
    size_t end              # where the last one ends
    size_t last             # where the last message ends
    int64_t count           # of messages and ACKs
    int64_t messages
    int64_t bodies          # bytes of all bodies
    uint64_t acknowledged   # the count of the last ACK
    bint has_tags           # some are requests, answers or failures
    int type                # of the servers that get them; 0: this process has handlers for them
    bint is_link            # they are envelopes on a link, and messages between servers


cdef struct Share:          # a connection's share of one turn of the loop
    int64_t max_length      # bytes of payload that a frame may declare
    int64_t frames
    int64_t bytes


cdef inline uint32_t straight_length(uint32_t word, bint speaks_requests) noexcept:
    """The bytes of payload of a frame with the header `word`; 0 if Python must handle the frame."""
    cdef uint32_t flags = word >> 24
    cdef uint32_t length = word & MAX_LENGTH
    if not flags:
        return length if length >= 2 else 0
    if not speaks_requests:
        return 0
    if flags == REQUEST or flags == ANSWER:
        return length if length >= 2 + TAG_SIZE else 0
    return length if flags == FAILED and length >= FAILED_SIZE else 0


cdef inline size_t client_size(StraightRead *found) noexcept:
    """Bytes of the whole ClientFrame of the messages of a read."""
    return CLIENT_HEAD + <size_t>(found.bodies + HEAD_SIZE * found.messages)


cdef void write_client_frame(uint8_t *place, uint64_t sid, const uint8_t *data, StraightRead *found) noexcept:
    """Write the ClientFrame of the messages of a read, without the ACKs among them."""
    cdef size_t at = 0, size
    cdef uint32_t word
    write_client_head(place, sid, client_size(found) - CLIENT_HEAD)
    place += CLIENT_HEAD
    if found.count == found.messages:
        memcpy(place, data, found.last)
        return
    while at < found.last:
        word = gl_u32(data + at)
        size = HEADER_SIZE + (word & MAX_LENGTH)
        if not word & CONTROL_BIT:
            memcpy(place, data + at, size)
            place += size
        at += size


cdef class StraightPath(MessageSource):
    cdef public object extension, outbox
    cdef public object close_code, close_reason, on_written
    cdef public object _stream, _written, _drained
    cdef public bint _flush_scheduled
    cdef int64_t write_high_water

    def __init__(self, context, handlers, stream, extension, outbox):
        import_names()
        self.context = context
        self.encoders = context.encoders
        self.write_high_water = context.limits.write_high_water
        self.handlers = handlers
        self.extension = extension
        self.outbox = outbox
        self.state = OPEN
        self.last_heard = context.wheel.read_clock()
        self.close_reason = ""
        self._stream = stream
        self._written = b""

    # -- to the peer --

    cdef uint8_t *reserve(self, size_t size, full) except? NULL:
        cdef Outbox outbox
        if not isinstance(self.outbox, Outbox):
            return NULL
        if self.state is not OPEN:
            self._check_sendable()
        outbox = <Outbox>self.outbox
        if outbox.is_slow or not outbox.has_room(size):
            return NULL
        return make_room(&outbox.block, size)

    cdef int commit(self, size_t size) except -1:
        cdef Outbox outbox = <Outbox>self.outbox
        outbox.block.end += size
        outbox.fast_count += 1
        if not self._flush_scheduled:
            self._schedule_flush()
        return 0

    cdef object requests_of(self):
        return self.extension.requests

    cdef int wrong_tag(self, error) except -1:
        self.extension.end = error
        (<Intake?>self.extension).action_due = True
        return 0

    cpdef send_frame(self, bytes frame, key=0, full=None):
        if self.state is not OPEN:
            self._check_sendable()
        try:
            if isinstance(self.outbox, Outbox):
                (<Outbox>self.outbox).c_push(frame, full, key)
            else:
                self.outbox.push(frame, CLOSE_FULL if full is None else full, key)
        except OutboxFull as error:
            self._make_room(error, frame, key)
        if not self._flush_scheduled:
            self._schedule_flush()

    def send_frames(self, frames not None):
        if self.state is not OPEN:
            self._check_sendable()
        cdef int64_t count = self.outbox.count
        try:
            self.outbox.extend(frames)
        except OutboxFull:
            for frame in frames[self.outbox.count - count:]:
                self.send_frame(frame)
        if not self._flush_scheduled:
            self._schedule_flush()

    cpdef _check_sendable(self):
        if self.state is not DETACHED:
            raise SessionClosed(self.close_code or NORMAL, self.close_reason)

    cdef _make_room(self, error, bytes frame, key):
        stream = self._stream
        while stream is not None and stream.writable:
            data = self._take()
            if not data:
                break
            stream.write(data)
            self._written = b"" if stream.writable else data
            try:
                self.outbox.push(frame, CLOSE_FULL, key)
                return
            except OutboxFull:
                pass
        self.close(error.code, str(error))
        self.abort()
        raise SessionClosed(error.code, str(error)) from None

    cpdef _schedule_flush(self):
        self.context.schedule_flush(self)
        self._flush_scheduled = True

    cpdef flush(self):
        cdef bytes data
        cdef bint wrote
        self._flush_scheduled = False
        stream = self._stream
        if stream is None or not stream.writable:
            return
        if self.flush_straight(stream):
            wrote = True
        else:
            data = self._take()
            wrote = bool(data)
            if wrote:
                stream.write(data)
                self._written = b"" if stream.writable else data
        if wrote and self.on_written is not None:
            self.on_written()
        if self.outbox.count:
            if wrote and stream.writable:
                self._schedule_flush()
            return
        if self._drained is not None or self.state is not OPEN:
            self.all_written(stream)

    cdef bint flush_straight(self, stream) except -1:
        """Write messages from the outbox's block to the socket. Returns False, and writes nothing, if `flush` must do it.

        It must for a sealed stream: while a write is sealed, Python may run, as for a signal, and change the outbox. So
        `flush` seals a copy.
        """
        cdef Outbox outbox
        cdef Stream socket
        cdef int64_t count = 0
        cdef size_t size
        cdef const uint8_t *data
        if not isinstance(stream, Stream) or not isinstance(self.outbox, Outbox):
            return False
        socket = <Stream>stream
        outbox = <Outbox>self.outbox
        if outbox.is_slow or outbox.block is NULL or socket.secure is not None:
            return False
        if self.extension is not None and (<Intake?>self.extension).controls_due:
            return False
        size = outbox.measure(self.write_high_water, &count)
        if not size:
            return False
        socket.send(bytes_of(outbox.block) + outbox.block.middle, size)
        if not socket.writable:
            data = bytes_of(outbox.block) + outbox.block.middle
            self._written = PyBytes_FromStringAndSize(<const char *>data, <Py_ssize_t>size)
        elif self._written:
            self._written = b""
        outbox.taken(size, count)
        return True

    cdef inline Outbox open_outbox(self):
        """The outbox, if the session is open and frames may be copied into it; else None."""
        if self.state is not OPEN or not isinstance(self.outbox, Outbox):
            return None
        return <Outbox>self.outbox

    cpdef bytes _take(self):
        cdef bytes data
        if isinstance(self.outbox, Outbox):
            data = (<Outbox>self.outbox).c_take(self.write_high_water)
        else:
            data = self.outbox.take(self.write_high_water)
        if self.extension is not None and self.extension.controls_due:
            return self.extension.take_controls() + data
        return data

    # -- from the stream --

    def receive(self, list frames not None):
        if self.state is not OPEN:
            return
        self._flush_scheduled = True
        try:
            self.handle_listed(frames)
        except BaseException:
            self._schedule_flush()
            raise
        self._flush_scheduled = False
        self.flush_read()

    cdef int handle_listed(self, list frames) except -1:
        """`receive` without the write at its end."""
        cdef double now = self.context.wheel.clock()
        cdef object extension = self.extension, messages
        global listed_frames
        listed_frames += len(frames)
        self.last_heard = now
        if extension is None:
            self.handlers.dispatch(self, frames)
            return 0
        messages = extension.receive(frames, now)
        if extension.has_tags:
            messages = self.take_requests(extension, messages)
        if messages and self.state is OPEN:
            self.handlers.dispatch(self, messages)
        if extension.action_due or extension.lags:
            self.after_read(extension)
        return 0

    cdef int flush_read(self) except -1:
        """Flush the messages that the handlers of a read have sent."""
        if (
            self.outbox.count
            or self.state is not OPEN
            or (self.extension is not None and self.extension.controls_due)
        ):
            self.flush()
        return 0

    cdef int find_straight(self, const uint8_t *data, size_t size, Share *share, StraightRead *found) except -1:
        """Find the whole frames of this turn that go to handlers, a server or a link's receiver, and the ACKs.

        `found.count` is 0 if one of the frames, or the bytes behind them, need Python. Then all frames of the turn
        go through Python.
        """
        cdef HandlerTable table
        cdef ForwardTable router = None
        cdef const uint8_t *types = NULL
        found.count = 0
        found.is_link = False
        if self.state is not OPEN or self.inbox is not None:
            return 0
        if self.extension is not None and (<Intake?>self.extension).lags:
            return 0
        if not isinstance(self.handlers, HandlerTable):
            if isinstance(self.forwarder, LinkPath):
                found.is_link = True
                self.scan(None, NULL, data, size, share, found)
            return 0
        table = <HandlerTable>self.handlers
        if table.ticking:
            return 0
        if self.forwarder is None:
            if table.rates:
                return 0
        elif isinstance(self.forwarder, ForwardPath) and table.default_handler is None:
            router = (<ForwardPath>self.forwarder).router
            if self.context.standstill is not None:
                self.context.standstill.check()
            if router.is_holding or router.handled_here is not table.c_routes:
                return 0
            types = <const uint8_t *>PyBytes_AS_STRING(router.table)
        else:
            return 0
        self.scan(table.c_routes, types, data, size, share, found)
        return 0

    cdef int scan(
        self, Routes routes, const uint8_t *types, const uint8_t *data, size_t size, Share *share, StraightRead *found
    ) except -1:
        """Look at each frame. `length` is 0 for a frame that is not straight.

        types: the server type of each id, where frames are forwarded; else NULL.
        """
        cdef bint speaks_requests = self.extension is not None and self.extension.requests is not None
        cdef size_t at = 0
        cdef uint32_t word, length
        cdef uint16_t id
        cdef uint64_t received
        cdef SendWindow window = None
        found.last = 0
        found.messages = 0
        found.bodies = 0
        found.has_tags = False
        found.type = 0
        while found.count < share.frames and at <= <size_t>share.bytes:
            if size - at < HEAD_SIZE:
                break
            word = gl_u32(data + at)
            if word == ACK_WORD and data[at + HEADER_SIZE] == ACK_TYPE and ACK_SIZE <= share.max_length:
                if size - at < ACK_SIZE:
                    break
                if window is None:
                    window = self.window_of_acks()
                    if window is None:
                        found.count = 0
                        return 0
                    found.acknowledged = window.c_acknowledged()
                received = gl_u64(data + at + HEADER_SIZE + 1)
                if not found.acknowledged <= received <= window.c_sent():
                    found.count = 0  # Python says what is wrong
                    return 0
                found.acknowledged = received
                at += ACK_SIZE
                found.count += 1
                continue
            id = gl_u16(data + at + HEADER_SIZE)
            length = straight_length(word, speaks_requests and not found.is_link)
            if found.is_link:
                pass
            elif types is NULL:
                if not length or (routes.at(id) is NULL and word >> 24 < ANSWER):
                    length = 0
            else:
                if not length and word >> 24 < REQUEST:  # compressed or scrambled: it stays as it is
                    length = straight_length(word & MAX_LENGTH, False) if word >> 24 < 4 else 0
                if word >> 24 >= ANSWER or not types[id] or routes.at(id) is not NULL:
                    length = 0
                elif not found.messages:
                    found.type = types[id]
                elif found.type != types[id]:
                    length = 0
            if not 0 < length <= share.max_length or id <= LAST_BASE_ID:
                found.count = 0
                return 0
            if size - at < HEADER_SIZE + length:
                break
            at += HEADER_SIZE + length
            found.last = at
            found.count += 1
            found.messages += 1
            found.bodies += length - 2
            if word >> 24 >= REQUEST:
                found.has_tags = True
        if found.count < share.frames and HEADER_SIZE <= size - at < HEAD_SIZE:
            found.count = 0  # the bytes behind them may be a whole control record, or a bad header
        found.end = at
        return 0

    cdef SendWindow window_of_acks(self):
        """The window that ACKs are for; None if the session has none. Then Python must judge its ACKs."""
        cdef object window = self.extension.window if self.extension is not None else None
        return <SendWindow>window if isinstance(window, SendWindow) else None

    cdef int receive_straight(self, const uint8_t *data, StraightRead *found) except -1:
        """Handle the frames in `data` that `find_straight` found, as `receive` does."""
        if self.state is not OPEN:
            return 0  # their charge has ended the session
        self._flush_scheduled = True
        try:
            self.handle_straight(data, found)
        except BaseException:
            self._schedule_flush()
            raise
        self._flush_scheduled = False
        return self.flush_read()

    cdef int handle_straight(self, const uint8_t *data, StraightRead *found) except -1:
        """`receive_straight` without the write at its end."""
        cdef Intake extension = <Intake?>self.extension if self.extension is not None else None
        global straight_frames
        cdef set refused = None
        cdef size_t end = found.last
        cdef object handlers = self.handlers
        self.last_heard = self.context.wheel.clock()
        if found.count > found.messages:
            (<SendWindow?>self.extension.window).c_acknowledge(found.acknowledged)
            straight_frames += found.count - found.messages
        if found.type and (found.last + CLIENT_HEAD > MAX_LENGTH or not self.note_forwarded(data, found)):
            return self.handle_listed(frames_of(data, 0, end, None))
        if not found.is_link:
            straight_frames += found.messages
        if extension is not None:
            extension.c_count(found.messages, found.bodies)
        if found.type:
            self.forward(data, found)
        elif found.is_link:
            self.forward_envelopes(data, end)
        elif found.has_tags:
            refused = set()
            end = self.note_tags(data, end, refused)
        if self.state is OPEN and not found.type and not found.is_link:
            self.call_handlers_of(handlers, data, end, refused)
        if extension is not None and (extension.action_due or extension.lags):
            self.after_read(extension)
        return 0

    cdef int forward_envelopes(self, const uint8_t *data, size_t end) except -1:
        """Give envelopes to the link, as `Links.dispatch` does."""
        cdef object standstill = self.context.standstill
        cdef LinkPath link
        if standstill is not None and standstill.check() and self.close_code is not None:
            return 0  # the other end has gone on without this process
        if isinstance(self.forwarder, LinkPath):
            link = <LinkPath>self.forwarder
            link.take_envelopes(data, end)
        return 0

    cdef bint note_forwarded(self, const uint8_t *data, StraightRead *found) except -1:
        """Note the requests that go to a server. Returns False, and notes none, if one is wrong or they are too many."""
        cdef dict serving, fresh = {}
        cdef size_t at = 0
        cdef uint32_t word
        if not found.has_tags:
            return True
        serving = <dict?>self.extension.requests.serving
        while at < found.last:
            word = gl_u32(data + at)
            if word >> 24 >= REQUEST and not word & CONTROL_BIT:
                tag = gl_u32(data + at + HEAD_SIZE)
                id = gl_u16(data + at + HEADER_SIZE)
                if is_envelope_id(id) or tag in serving or tag in fresh or len(serving) + len(fresh) >= MOST_REQUESTS:
                    return False
                fresh[tag] = (id, found.type)
            at += HEADER_SIZE + (word & MAX_LENGTH)
        serving.update(fresh)
        return True

    cdef int forward(self, const uint8_t *data, StraightRead *found) except -1:
        """Send the frames of a read, unchanged, to a server in one envelope."""
        cdef ForwardPath path = <ForwardPath?>self.forwarder
        cdef bytes envelope
        if not path.forward(self, data, found):
            envelope = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>client_size(found))
            write_client_frame(<uint8_t *>PyBytes_AS_STRING(envelope), path.sid, data, found)
            path.forward_to(found.type, envelope, found.messages)
        return 0
