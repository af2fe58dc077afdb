# Twins of cluster/player.PlayerPath and cluster/players.PlayerTable.

cdef class PlayerPath(MessageSource):
    cdef public object link, requests, _pending, _paused
    cdef public uint64_t sid
    cdef public int64_t taken, reported
    cdef object wrong           # the error that `note_tags` found; its caller takes it

    def __init__(self, context, handlers, link, uint64_t sid):
        import_names()
        self.context = context
        self.encoders = context.encoders
        self.handlers = handlers
        self.link = link
        self.sid = sid
        self.state = OPEN
        self.last_heard = context.wheel.read_clock()
        self._paused = NOT_PAUSED

    cdef object requests_of(self):
        return self.requests

    cdef int wrong_tag(self, error) except -1:
        self.wrong = error
        return 0

    cdef uint8_t *reserve(self, size_t size, full) except? NULL:
        if self.state is not OPEN or (full is not None and full is not CLOSE_FULL) or not isinstance(self.link, LinkPath):
            return NULL
        return (<LinkPath>self.link).reserve(self.sid, size)

    cdef int commit(self, size_t size) except -1:
        return (<LinkPath>self.link).commit(self.sid, size)

    cdef int handle(self, const uint8_t *data, size_t end, bint has_tags) except -1:
        """Handle frames, as `Player.receive` does. All have a handler, and no earlier frames wait."""
        cdef set refused = None
        cdef object wrong = None, handlers = self.handlers
        if has_tags:
            refused = set()
            end = self.note_tags(data, end, refused)
            wrong, self.wrong = self.wrong, None
            if wrong is None and self._paused:
                self._hold_or_read()  # perhaps no handler waits for an answer any more
        if self.state is OPEN and end:
            self.last_heard = self.context.wheel.clock()
            self.call_handlers_of(handlers, data, end, refused)
        if wrong is not None:
            self.broken(wrong)
        return 0


cdef class PlayerTable:
    cdef public dict by_link, unreported
    cdef public int64_t max_frame

    def __init__(self, dict unreported not None, int64_t max_frame):
        self.by_link = {}
        self.unreported = unreported
        self.max_frame = max_frame

    cdef bint take_client_frame(self, LinkPath link, const uint8_t *data, size_t size) except -1:
        """Have the frames of a ClientFrame handled. Returns False, and does nothing, if Python must do it."""
        cdef PyObject *found
        cdef PlayerPath player
        cdef HandlerTable table
        cdef Contents contents
        if size < SID_SIZE:
            return False
        found = PyDict_GetItemWithError(self.by_link, link)
        if found is NULL:
            return False
        found = PyDict_GetItemWithError(<dict?>(<object>found), gl_u64(data))
        if found is NULL:
            return False
        player = <PlayerPath?>(<object>found)
        if (
            player.state is not OPEN
            or player.inbox is not None
            or player._pending is not None
            or player.forwarder is not None
            or not isinstance(player.handlers, HandlerTable)
        ):
            return False
        table = <HandlerTable>player.handlers
        if table.ticking or table.rates:
            return False
        if not check_contents(data, SID_SIZE, size, self.max_frame, table.c_routes, &contents):
            return False
        if contents.has_tags and player.requests is None:
            return False
        found = PyDict_GetItemWithError(self.unreported, link)
        if found is not NULL and player.taken == player.reported:
            (<list?>(<object>found)).append(player)
        player.taken += contents.count
        player.handle(data + SID_SIZE, size - SID_SIZE, contents.has_tags)
        return True
