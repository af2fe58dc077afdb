# Twins of session/outbox.Outbox and SendWindow.
#
# Queued frames stand in one block, one behind the other. Each begins with its length. For keys and DROP_OLDEST all queued
# frames move to a pure outbox, which is used until it is empty.

cdef class Outbox:
    cdef Block *block
    cdef object slow           # a pure Outbox, or None
    cdef bint is_slow          # `slow` has the queued frames
    cdef int64_t fast_count    # frames queued in the block
    cdef int64_t fast_sent, fast_dropped
    cdef int64_t seen
    cdef double seen_at
    cdef public int64_t max_frames, max_bytes

    def __init__(self, int64_t max_frames, int64_t max_bytes):
        import_names()
        self.max_frames = max_frames
        self.max_bytes = max_bytes
        self.seen = -1

    def __dealloc__(self):
        release_block(self.block)

    # -- what it holds --

    cdef inline int64_t queued_bytes(self) noexcept:
        """Bytes queued in the block."""
        return <int64_t>(self.block.end - self.block.middle) if self.block is not NULL else 0

    @property
    def count(self):
        return self.slow.count if self.is_slow else self.fast_count

    @property
    def bytes(self):
        return self.slow.bytes if self.is_slow else self.queued_bytes()

    @property
    def sent(self):
        return self.c_sent()

    cdef uint64_t c_sent(self) except? 0:
        return <uint64_t>(self.fast_sent if self.slow is None else self.fast_sent + <int64_t>self.slow.sent)

    @property
    def dropped(self):
        return self.fast_dropped if self.slow is None else self.fast_dropped + self.slow.dropped

    @property
    def held_bytes(self):
        return self.bytes

    def frames(self):
        return iter(self.queued())

    cdef list queued(self):
        """The queued frames, in order."""
        if self.is_slow:
            return list(self.slow.frames())
        if self.block is NULL:
            return []
        return frames_between(self.block, self.block.middle, self.block.end)

    # -- in --

    def push(self, bytes frame not None, full=None, key=0):
        self.c_push(frame, full, key)

    cdef int c_push(self, bytes frame, full, key) except -1:
        """As `push`. full: None is Full.CLOSE."""
        cdef size_t size = <size_t>PyBytes_GET_SIZE(frame)
        if self.is_slow or key:
            self.push_slowly(frame, CLOSE_FULL if full is None else full, key)
        elif self.has_room(size):
            self.append(<const uint8_t *>PyBytes_AS_STRING(frame), size)
        elif <int64_t>size > self.max_bytes:
            raise frame_too_large(size, self.max_bytes)
        elif full is None or full is CLOSE_FULL:
            raise outbox_full(self)
        elif full is DROP_NEWEST:
            self.fast_dropped += 1
        else:
            self.push_slowly(frame, full, key)
        return 0

    cdef inline bint has_room(self, size_t size) noexcept:
        return self.fast_count < self.max_frames and self.queued_bytes() + <int64_t>size <= self.max_bytes

    cdef int append(self, const uint8_t *frame, size_t size) except -1:
        if size < HEADER_SIZE or HEADER_SIZE + (gl_u32(frame) & MAX_LENGTH) != size:
            raise ValueError(f"{size} bytes that are not one whole frame")
        memcpy(make_room(&self.block, size), frame, size)
        self.block.end += size
        self.fast_count += 1
        return 0

    cdef int push_slowly(self, bytes frame, full, key) except -1:
        if not self.is_slow:
            if self.slow is None:
                self.slow = PureOutbox(self.max_frames, self.max_bytes)
            self.slow.adopt(self.queued())
            self.forget_queued()
            self.is_slow = True
        try:
            self.slow.push(frame, full, key)
        finally:
            self.is_slow = self.slow.count > 0
        return 0

    def extend(self, frames not None):
        cdef int64_t size = 0
        cdef bytes frame
        if isinstance(frames, WholeFrames):
            if self.append_whole(<WholeFrames>frames):
                return
            frames = (<WholeFrames>frames).c_list()
        for frame in <list?>frames:
            size += len(frame)
        if (
            not self.is_slow
            and self.fast_count + len(frames) <= self.max_frames
            and self.queued_bytes() + size <= self.max_bytes
        ):
            self.append_all(frames)
        else:
            for frame in frames:
                self.c_push(frame, None, 0)

    cdef bint append_whole(self, WholeFrames frames) except -1:
        return self.append_frames(frames.c_data(), frames.c_size(), frames.contents.count)

    cdef bint append_frames(self, const uint8_t *frames, size_t size, int64_t count) except -1:
        """Queue whole frames that stand one behind the other. Returns False, and queues none, if not all fit."""
        if not size:
            return True
        if (
            self.is_slow
            or self.fast_count + count > self.max_frames
            or self.queued_bytes() + <int64_t>size > self.max_bytes
        ):
            return False
        memcpy(make_room(&self.block, size), frames, size)
        self.block.end += size
        self.fast_count += count
        return True

    def adopt(self, list frames not None):
        if self.is_slow:
            self.slow.adopt(frames)
        else:
            self.append_all(frames)

    cdef int append_all(self, list frames) except -1:
        cdef bytes frame
        for frame in frames:
            self.append(<const uint8_t *>PyBytes_AS_STRING(frame), <size_t>PyBytes_GET_SIZE(frame))
        return 0

    # -- out --

    cdef size_t measure(self, int64_t max_bytes, int64_t *count) noexcept:
        """How many bytes, and frames, the next write takes from the block: whole frames, one at least."""
        return self.measure_frames(self.fast_count, max_bytes, True, count)

    cdef size_t measure_frames(self, int64_t most, int64_t max_bytes, bint at_least_one, int64_t *count) noexcept:
        cdef Block *block = self.block
        cdef size_t at, size
        count[0] = 0
        if block is NULL:
            return 0
        if self.fast_count <= most and <int64_t>(block.end - block.middle) <= max_bytes:
            count[0] = self.fast_count
            return block.end - block.middle
        at = block.middle
        while at < block.end and count[0] < most:
            size = HEADER_SIZE + (gl_u32(bytes_of(block) + at) & MAX_LENGTH)
            if <int64_t>(at + size - block.middle) > max_bytes and (count[0] or not at_least_one):
                break
            at += size
            count[0] += 1
        return at - block.middle

    cdef void taken(self, size_t size, int64_t count) noexcept:
        """Note that so many bytes and frames of the block are sent."""
        self.block.middle += size
        self.fast_sent += count
        self.fast_count -= count
        self.block.start = self.block.middle
        self.tidy()

    cdef inline void tidy(self) noexcept:
        """Give the block back if it is empty."""
        if self.block is not NULL and self.block.start == self.block.end:
            release_block(self.block)
            self.block = NULL

    def take(self, int64_t max_bytes):
        return self.c_take(max_bytes)

    cdef bytes c_take(self, int64_t max_bytes):
        cdef size_t size
        cdef int64_t count
        cdef bytes data
        if self.is_slow:
            data = self.slow.take(max_bytes)
            self.is_slow = self.slow.count > 0
            return data
        size = self.measure(max_bytes, &count)
        if not size:
            return b""
        data = PyBytes_FromStringAndSize(<char *>bytes_of(self.block) + self.block.middle, <Py_ssize_t>size)
        self.taken(size, count)
        return data

    def stalled(self, double now, bint waits):
        cdef int64_t sent = <int64_t>self.c_sent()
        if not waits or sent != self.seen:
            self.seen = sent
            self.seen_at = now
        return now - self.seen_at

    def drain(self):
        frames = self.slow.drain() if self.is_slow else self.queued()
        self.is_slow = False
        self.forget_queued()
        return frames

    cdef void forget_queued(self) noexcept:
        """Remove the queued frames from the block."""
        self.fast_count = 0
        if self.block is not NULL:
            self.block.end = self.block.middle
            self.tidy()


cdef list frames_between(Block *block, size_t start, size_t end):
    """The whole frames in a block from `start` to `end`."""
    return cut_frames(bytes_of(block), start, end)


cdef list cut_frames(const uint8_t *data, size_t start, size_t end):
    """The whole frames from `start` to `end`."""
    cdef list frames = []
    cdef size_t size
    while start < end:
        size = HEADER_SIZE + (gl_u32(data + start) & MAX_LENGTH)
        frames.append(PyBytes_FromStringAndSize(<const char *>data + start, <Py_ssize_t>size))
        start += size
    return frames


cdef class SendWindow(Outbox):
    """Sent frames stay in the block, before its middle, until they are acknowledged."""

    cdef public int64_t window_frames, window_bytes
    cdef readonly int64_t kept

    def __init__(self, int64_t max_frames, int64_t max_bytes, int64_t window_frames, int64_t window_bytes):
        Outbox.__init__(self, max_frames, max_bytes)
        self.window_frames = window_frames
        self.window_bytes = window_bytes

    cdef inline int64_t c_kept_bytes(self) noexcept:
        return <int64_t>(self.block.middle - self.block.start) if self.block is not NULL else 0

    @property
    def kept_bytes(self):
        return self.c_kept_bytes()

    @property
    def acknowledged(self):
        return self.c_acknowledged()

    cdef uint64_t c_acknowledged(self) except? 0:
        return self.c_sent() - <uint64_t>self.kept

    @property
    def held_bytes(self):
        return self.bytes + self.c_kept_bytes()

    def frames(self):
        return iter(self.kept_frames() + self.queued())

    cdef list kept_frames(self):
        return [] if self.block is NULL else frames_between(self.block, self.block.start, self.block.middle)

    cdef size_t measure(self, int64_t max_bytes, int64_t *count) noexcept:
        cdef int64_t room = self.window_frames - self.kept
        cdef int64_t space = self.window_bytes - self.c_kept_bytes()
        cdef size_t size
        count[0] = 0
        if room <= 0:
            return 0
        size = self.measure_frames(room, min(max_bytes, space), not self.kept, count)
        if not size:  # if only `max_bytes` is too small for the first frame, take that one alone
            size = self.measure_frames(1, space, False, count)
        return size

    cdef void taken(self, size_t size, int64_t count) noexcept:
        self.block.middle += size
        self.fast_sent += count
        self.fast_count -= count
        self.kept += count

    cdef bytes c_take(self, int64_t max_bytes):
        cdef int64_t room, space
        cdef list taken
        cdef bytes data
        if not self.is_slow:
            return Outbox.c_take(self, max_bytes)
        room = self.window_frames - self.kept
        if room <= 0:
            return b""
        space = self.window_bytes - self.c_kept_bytes()
        taken = self.slow.take_frames(room, min(max_bytes, space), not self.kept)
        if not taken:
            taken = self.slow.take_frames(1, space, False)
        self.is_slow = self.slow.count > 0
        data = b"".join(taken)
        if data:  # queued frames are in the pure outbox, so the block has only the kept ones
            memcpy(make_room(&self.block, len(data)), PyBytes_AS_STRING(data), len(data))
            self.block.end += len(data)
            self.block.middle = self.block.end
            self.kept += len(taken)
        return data

    def acknowledge(self, received):
        if not 0 <= received <= 0xFFFFFFFFFFFFFFFF:
            raise wrong_count(received, self)
        self.c_acknowledge(received)

    cdef int c_acknowledge(self, uint64_t received) except -1:
        cdef Block *block = self.block
        cdef uint64_t acknowledged = self.c_acknowledged()
        cdef int64_t fresh, i
        if not acknowledged <= received <= self.c_sent():
            raise wrong_count(received, self)
        fresh = <int64_t>(received - acknowledged)
        if not fresh:
            return 0
        if fresh == self.kept:
            block.start = block.middle
        else:
            for i in range(fresh):
                block.start += HEADER_SIZE + (gl_u32(bytes_of(block) + block.start) & MAX_LENGTH)
        self.kept -= fresh
        self.tidy()
        return 0

    def lift(self):
        self.window_frames = self.window_bytes = 0x7FFFFFFFFFFFFFFF

    def unacknowledged(self):
        if self.block is NULL:
            return b""
        return PyBytes_FromStringAndSize(<char *>bytes_of(self.block) + self.block.start, self.c_kept_bytes())
