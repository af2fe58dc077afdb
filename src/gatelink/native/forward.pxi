# Twins of session/forwarding.ForwardTable and ForwardPath: a gateway forwards frames, in both directions.

cdef class ForwardTable:
    cdef public object context, stats, handled_here
    cdef public dict players
    cdef public int64_t max_frame
    cdef public bytes table
    cdef public bint is_holding

    def __init__(self, context, stats, int64_t max_frame, bytes table not None, handled_here):
        if len(table) != 0x10000:
            raise ValueError(f"a table of {len(table)} server types; there are 65536 message ids")
        self.context = context
        self.stats = stats
        self.players = {}
        self.max_frame = max_frame
        self.table = table
        self.handled_here = handled_here

    cdef bint take_push(self, const uint8_t *data, size_t size, list to_flush, int64_t *pushed) except -1:
        """Queue the messages of a PushFrame for its player. Returns False, and does nothing, if Python must do it.

        to_flush: gets the session, if that must be scheduled. pushed: the number of messages is added to it.
        """
        cdef PyObject *found
        cdef StraightPath session
        cdef Outbox outbox
        cdef Contents contents
        if size <= PUSH_BODY_HEAD or gl_u16(data) != 1 or data[2 + SID_SIZE] or gl_u64(data + 3 + SID_SIZE):
            return False  # to several players, or with a policy or a key
        if not check_contents(data, PUSH_BODY_HEAD, size, self.max_frame, None, &contents) or contents.has_tags:
            return False
        found = PyDict_GetItemWithError(self.players, gl_u64(data + 2))
        if found is NULL:
            return False
        sent_to = (<ForwardPath?>(<object>found)).session
        if not isinstance(sent_to, StraightPath) or <int64_t>size > <int64_t>self.context.max_message:
            return False
        session = <StraightPath>sent_to
        if session.state is not OPEN or not isinstance(session.outbox, Outbox):
            return False
        outbox = <Outbox>session.outbox
        if not outbox.append_frames(data + PUSH_BODY_HEAD, size - PUSH_BODY_HEAD, contents.count):
            return False
        pushed[0] += contents.count
        if not session._flush_scheduled:
            to_flush.append(session)
            session._flush_scheduled = True
        return True


cdef class ForwardPath:
    cdef public ForwardTable router
    cdef public object session
    cdef public dict routes
    cdef public uint64_t sid

    def __init__(self, ForwardTable router not None, session, uint64_t sid):
        self.router = router
        self.session = session
        self.routes = {}
        self.sid = sid

    cdef bint forward(self, StraightPath session, const uint8_t *data, StraightRead *found) except -1:
        """Forward the frames of a read, as `forward_to` does. Returns False, and does nothing, if Python must do it."""
        cdef PyObject *known = PyDict_GetItemWithError(self.routes, found.type)
        cdef object route, link
        cdef uint8_t *place
        if known is NULL:
            return False
        route = <object>known
        link = route.link
        if not isinstance(link, LinkPath):
            return False
        if session.extension is not None and session.extension.requests is not None and not link.speaks_requests:
            return False
        place = (<LinkPath>link).reserve_envelope(client_size(found))
        if place is NULL:
            return False
        write_client_frame(place, self.sid, data, found)
        (<LinkPath>link).commit_envelope(client_size(found))
        route.unhandled += found.messages
        self.router.stats.forwarded += found.messages
        return True

    def forward_to(self, type, envelope, count):
        raise NotImplementedError
