# Twins of session/forwarding.ForwardTable and ForwardPath: a gateway forwards frames, in both directions.

cdef class ForwardTable:
    cdef public object context, stats, handled_here
    cdef public dict players
    cdef public int64_t max_frame
    cdef int64_t max_message    # bytes of one that a player may be sent
    cdef public bytes table
    cdef public bint is_holding

    def __init__(self, context, stats, int64_t max_frame, bytes table not None, handled_here):
        if len(table) != 0x10000:
            raise ValueError(f"a table of {len(table)} server types; there are 65536 message ids")
        import_names()
        self.context = context
        self.max_message = context.max_message
        self.stats = stats
        self.players = {}
        self.max_frame = max_frame
        self.table = table
        self.handled_here = handled_here

    cdef bint take_envelope(
        self, LinkPath link, uint16_t id, const uint8_t *data, size_t size, list to_flush, int64_t *pushed
    ) except -1:
        """Queue the messages of a PushFrame or a BroadcastFrame. Returns False, and does nothing, if Python must do it.

        to_flush: gets a session that must be scheduled. pushed: the number of messages for one player is added to it.
        """
        if <int64_t>size > self.max_message:
            return False
        if id == BROADCAST_FRAME:
            return self.take_broadcast(PyBytes_FromStringAndSize(<const char *>data, <Py_ssize_t>size))
        if size > PUSH_BODY_HEAD and gl_u16(data) == 1 and not data[POLICY_AT] and not gl_u64(data + KEY_AT):
            return self.take_for_one(link, data, size, to_flush, pushed)
        return self.take_for_several(PyBytes_FromStringAndSize(<const char *>data, <Py_ssize_t>size))

    cdef bint take_for_one(
        self, LinkPath link, const uint8_t *data, size_t size, list to_flush, int64_t *pushed
    ) except -1:
        cdef PyObject *found
        cdef ForwardPath player
        cdef StraightPath session
        cdef Outbox outbox
        cdef Contents contents
        cdef list tags = None
        cdef dict serving
        if not check_contents(data, PUSH_BODY_HEAD, size, self.max_frame, None, &contents):
            return False
        found = PyDict_GetItemWithError(self.players, gl_u64(data + 2))
        if found is NULL:
            return False
        player = <ForwardPath?>(<object>found)
        if not isinstance(player.session, StraightPath):
            return False
        session = <StraightPath>player.session
        outbox = session.open_outbox()
        if outbox is None:
            return False
        if contents.has_tags:
            tags = player.find_answers(link, data, size)
            if tags is None:
                return False
        if not outbox.append_frames(data + PUSH_BODY_HEAD, size - PUSH_BODY_HEAD, contents.count):
            return False
        if tags is not None:
            serving = <dict?>session.extension.requests.serving
            for tag in tags:
                del serving[tag]
        pushed[0] += contents.count
        if not session._flush_scheduled:
            to_flush.append(session)
            session._flush_scheduled = True
        return True

    cdef bint take_for_several(self, bytes body) except -1:
        cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(body)
        cdef size_t policy_at = 0, at
        cdef WholeFrames frames = frames_of_push(body, self.max_frame, &policy_at)
        cdef PyObject *found
        cdef list sessions = []
        if frames is None or frames.contents.has_tags:
            return False
        for at in range(2, policy_at, SID_SIZE):
            found = PyDict_GetItemWithError(self.players, gl_u64(data + at))
            if found is not NULL:
                sessions.append((<ForwardPath?>(<object>found)).session)
        self.deliver(sessions, <int64_t>(policy_at - 2) // SID_SIZE, frames, data + policy_at)
        return True

    cdef bint take_broadcast(self, bytes body) except -1:
        cdef size_t policy_at = 0
        cdef WholeFrames frames = frames_of_broadcast(body, self.max_frame, &policy_at)
        cdef list sessions
        if frames is None or frames.contents.has_tags:
            return False
        if policy_at == 2:
            sessions = [player.session for player in self.players.values()]
        else:
            try:
                sessions = self.context.groups.members(body[2:policy_at].decode("utf-8", "surrogateescape"))
            except LocalError:  # no group has such a name: Python counts it
                return False
        self.deliver(sessions, len(sessions), frames, <const uint8_t *>PyBytes_AS_STRING(body) + policy_at)
        return True

    cdef int deliver(self, list sessions, int64_t addressed, WholeFrames frames, const uint8_t *policy_and_key) except -1:
        """Queue frames for sessions. addressed: the number of players in the envelope. policy_and_key: where theirs are."""
        cdef int64_t sent = deliver_to_all(sessions, frames, gl_u64(policy_and_key + 1), POLICIES[policy_and_key[0]])
        self.stats.pushed += sent * frames.contents.count
        self.stats.misdirected += addressed - sent
        return 0


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
        if found.has_tags and not link.speaks_requests:
            return False
        place = (<LinkPath>link).reserve_envelope(client_size(found))
        if place is NULL:
            return False
        write_client_frame(place, self.sid, data, found)
        (<LinkPath>link).commit_envelope(client_size(found))
        route.unhandled += found.messages
        self.router.stats.forwarded += found.messages
        return True

    cdef list find_answers(self, LinkPath link, const uint8_t *data, size_t size):
        """The tags of the answers in a PushFrame; None if Python must judge one of its frames."""
        cdef StraightPath session = <StraightPath>self.session
        cdef size_t at = PUSH_BODY_HEAD
        cdef uint32_t word
        cdef object route, type = link.type
        cdef PyObject *found
        cdef dict serving
        cdef list tags = []
        if session.extension is None or session.extension.requests is None:
            return None
        serving = <dict?>session.extension.requests.serving
        route = self.routes.get(type)
        if route is None or route.link is not link:
            return None
        while at < size:
            word = gl_u32(data + at)
            if word >> 24 >= REQUEST:
                tag = gl_u32(data + at + HEAD_SIZE)
                found = PyDict_GetItemWithError(serving, tag)
                if word >> 24 < ANSWER or found is NULL or (<tuple?>(<object>found))[1] != type or tag in tags:
                    return None
                tags.append(tag)
            at += HEADER_SIZE + (word & MAX_LENGTH)
        return tags

    def forward_to(self, type, envelope, count):
        raise NotImplementedError
