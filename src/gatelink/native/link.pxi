# Twin of cluster/links.LinkPath. It opens the envelopes of a read, and gathers the frames that are sent to players in a turn.
#
# The gathered frames stand in one block, in the order in which they were sent. Before each stand the number of its envelope
# and the frame's size. `pack` sorts them into the outbox of the link's session.

DEF ENTRY = 8               # bytes before each frame in the block


cdef struct Push:           # a PushFrame that is to be made
    uint64_t sid
    size_t size             # of its frames
    size_t end              # where the next frame goes, while it is made


cdef class LinkPath:
    cdef public object session, _receiver
    cdef public bint _flush_scheduled
    cdef readonly int64_t _largest, _pack_bytes, held_bytes
    cdef Block *gathered
    cdef Push *pushes
    cdef int64_t count, room    # of `pushes`
    cdef int64_t frames         # in the block
    cdef int64_t last           # the number of the push that got the last frame
    cdef dict numbers           # of pushes, by sid

    def __init__(self, session, receiver, int64_t largest, int64_t pack_bytes):
        import_names()
        self.session = session
        self._receiver = receiver
        self._largest = largest
        self._pack_bytes = pack_bytes
        self.numbers = {}

    def __dealloc__(self):
        release_block(self.gathered)
        free(self.pushes)

    # -- from the other end --

    cdef int take_envelopes(self, const uint8_t *data, size_t end) except -1:
        """Give the envelopes of a read to the receiver, as `Link.forward` does. ACKs among them are skipped."""
        global straight_frames
        cdef PlayerTable players = None
        cdef ForwardTable router = None
        cdef list others = [], to_flush = []
        cdef size_t at = 0, start, size
        cdef uint32_t word
        cdef uint16_t id
        cdef int64_t pushed = 0
        cdef bint may_be_straight, is_taken
        if isinstance(self._receiver, PlayerTable):
            players = <PlayerTable>self._receiver
        elif isinstance(self._receiver, ForwardTable):
            router = <ForwardTable>self._receiver
        try:
            while at < end:
                word = gl_u32(data + at)
                id = gl_u16(data + at + HEADER_SIZE)
                start = at + HEAD_SIZE
                at += HEADER_SIZE + (word & MAX_LENGTH)
                size = at - start
                if word & CONTROL_BIT:
                    continue
                may_be_straight = (
                    (id == CLIENT_FRAME and players is not None)
                    or ((id == PUSH_FRAME or id == BROADCAST_FRAME) and router is not None)
                )
                if others and may_be_straight:
                    self.give(others)
                    others = []
                if not may_be_straight:
                    is_taken = False
                elif players is not None:
                    is_taken = players.take_client_frame(self, data + start, size)
                else:
                    is_taken = router.take_envelope(self, id, data + start, size, to_flush, &pushed)
                if is_taken:
                    straight_frames += 1
                else:
                    others.append((id, 0, PyBytes_FromStringAndSize(<const char *>data + start, <Py_ssize_t>size)))
            if others:
                self.give(others)
        finally:
            if pushed:
                router.stats.pushed += pushed
            if to_flush:
                schedule_all(router.context, to_flush)
        return self.c_pack()

    cdef int give(self, list frames) except -1:
        """Give the link's receiver the envelopes that need Python."""
        global listed_frames
        listed_frames += len(frames)
        self._receiver.receive_envelopes(self, frames)
        return 0

    # -- to the other end --

    def push(self, bytes envelope not None):
        cdef int64_t size = PyBytes_GET_SIZE(envelope)
        cdef bint is_crowded
        if size > self._largest:
            raise self._too_large(size)
        self.c_pack()
        is_crowded = not self.has_room(size, 1) and self._check_room(size, 1)
        self.session.send_frame(envelope)
        return is_crowded

    cdef uint8_t *reserve_envelope(self, size_t size) except? NULL:
        """The place for a whole envelope, which `commit_envelope` queues; NULL if `push` must take the envelope."""
        if <int64_t>size > self._largest:
            return NULL
        self.c_pack()
        if not self.has_room(<int64_t>size, 1):
            return NULL
        return make_room(&self.outbox().block, size)

    cdef int commit_envelope(self, size_t size) except -1:
        """Queue the envelope that was written to the reserved place."""
        return (<StraightPath>self.session).commit(size)

    def push_to(self, sid, bytes frame not None):
        cdef size_t size = <size_t>PyBytes_GET_SIZE(frame)
        cdef int64_t number
        cdef uint8_t *place = self.reserve(sid, size)
        if place is NULL:
            number = self.number_of(sid)
            if self.held_bytes + self.cost(number, size) > self._pack_bytes:
                self.c_pack()
                number = -1
                if <int64_t>size + PUSH_HEAD > self._largest:
                    raise self._too_large(<int64_t>size + PUSH_HEAD)
            if number < 0:
                self._check_room(self.held_bytes + self.cost(number, size), self.count + 1)
            place = self.reserve_entry(number, size)
        memcpy(place, PyBytes_AS_STRING(frame), size)
        self.commit(sid, size)

    cdef inline int64_t number_of(self, uint64_t sid) except -2:
        """The number of the player's push; -1 if it has none yet."""
        cdef PyObject *found
        if not self.count:
            return -1
        if self.pushes[self.last].sid == sid:
            return self.last
        found = PyDict_GetItemWithError(self.numbers, sid)
        return -1 if found is NULL else <int64_t>(<object>found)

    cdef inline int64_t cost(self, int64_t number, size_t size) noexcept:
        """How many bytes of envelopes a frame adds."""
        return <int64_t>size + (PUSH_HEAD if number < 0 else 0)

    cdef uint8_t *reserve(self, uint64_t sid, size_t size) except? NULL:
        """The place for a frame to a player, which `commit` queues; NULL if `push_to` must take the frame."""
        cdef int64_t number
        self.schedule()
        number = self.number_of(sid)
        if self.held_bytes + self.cost(number, size) > self._pack_bytes:
            return NULL
        if number < 0 and not self.has_room(self.held_bytes + self.cost(number, size), self.count + 1):
            return NULL
        return self.reserve_entry(number, size)

    cdef uint8_t *reserve_entry(self, int64_t number, size_t size) except NULL:
        cdef uint8_t *place = make_room(&self.gathered, ENTRY + size)
        gl_put_u32(place, <uint32_t>(number if number >= 0 else self.count))
        gl_put_u32(place + 4, <uint32_t>size)
        return place + ENTRY

    cdef int commit(self, uint64_t sid, size_t size) except -1:
        """Count the frame that was written to the reserved place."""
        cdef int64_t number = gl_u32(bytes_of(self.gathered) + self.gathered.end)
        if number == self.count:
            self.add_push(sid)
            self.held_bytes += PUSH_HEAD
        self.last = number
        self.pushes[number].size += size
        self.held_bytes += <int64_t>size
        self.frames += 1
        self.gathered.end += ENTRY + size
        return 0

    cdef int add_push(self, uint64_t sid) except -1:
        cdef Push *pushes
        if self.count == self.room:
            pushes = <Push *>realloc(self.pushes, <size_t>(2 * self.room + 8) * sizeof(Push))
            if pushes is NULL:
                raise MemoryError()
            self.pushes = pushes
            self.room = 2 * self.room + 8
        self.numbers[sid] = self.count
        self.pushes[self.count].sid = sid
        self.pushes[self.count].size = 0
        self.count += 1
        return 0

    cdef inline int schedule(self) except -1:
        if not self._flush_scheduled:
            self.session.context.schedule_flush(self)
            self._flush_scheduled = True
        return 0

    cdef Outbox outbox(self):
        """The outbox of the session, if frames may be written into it; else None."""
        cdef Outbox outbox = None
        if isinstance(self.session, StraightPath):
            outbox = (<StraightPath>self.session).open_outbox()
        return None if outbox is None or outbox.is_slow else outbox

    cdef bint has_room(self, int64_t size, int64_t count) except -1:
        """Whether `count` more envelopes of `size` bytes leave the link uncrowded. If False, `_check_room` decides."""
        cdef Outbox outbox = self.outbox()
        if outbox is None:
            return False
        return (
            (outbox.queued_bytes() + size) * 4 <= outbox.max_bytes and (outbox.fast_count + count) * 4 <= outbox.max_frames
        )

    def pack(self):
        self.c_pack()

    cdef int c_pack(self) except -1:
        cdef Outbox outbox
        cdef StraightPath session
        cdef bytes whole
        cdef int64_t frames = self.frames, count = self.count
        cdef size_t size = <size_t>self.held_bytes
        if not count:
            return 0
        outbox = self.outbox()
        if (
            outbox is not None
            and outbox.fast_count + count <= outbox.max_frames
            and outbox.queued_bytes() + <int64_t>size <= outbox.max_bytes
        ):
            self.write_pushes(make_room(&outbox.block, size))
            self.forget()
            outbox.block.end += size
            outbox.fast_count += count
            session = <StraightPath>self.session
            if not session._flush_scheduled:
                session._schedule_flush()
            return 0
        whole = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
        self.write_pushes(<uint8_t *>PyBytes_AS_STRING(whole))
        self.forget()
        try:
            self.session.send_frames(cut_frames(<const uint8_t *>PyBytes_AS_STRING(whole), 0, size))
        except SessionClosed:
            self.session.context.stats.dropped += frames
        return 0

    cdef void write_pushes(self, uint8_t *place) noexcept:
        """Write the envelopes, one behind the other."""
        cdef uint8_t *entry = bytes_of(self.gathered) + self.gathered.start
        cdef uint8_t *end = bytes_of(self.gathered) + self.gathered.end
        cdef Push *push
        cdef size_t at = 0, size
        cdef int64_t number
        for number in range(self.count):
            push = &self.pushes[number]
            write_push_head(place + at, push.sid, push.size)
            push.end = at + PUSH_HEAD
            at = push.end + push.size
        while entry < end:
            push = &self.pushes[gl_u32(entry)]
            size = gl_u32(entry + 4)
            memcpy(place + push.end, entry + ENTRY, size)
            push.end += size
            entry += ENTRY + size

    cdef int forget(self) except -1:
        """Forget the gathered frames, which are in envelopes now."""
        self.count = self.frames = self.held_bytes = 0
        release_block(self.gathered)
        self.gathered = NULL
        self.numbers.clear()
        return 0

    def flush(self):
        self._flush_scheduled = False
        self.c_pack()
        self.session.flush()
