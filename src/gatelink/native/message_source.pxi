# The common base of a session and of a player at a service: it calls handlers for frames, and sends messages.
# In pure Python, `Handlers` has this code, for any session.interfaces.MessageSource.

cdef double TURN_SECONDS = 0.005    # as in handlers.py; a test compares them


def set_turn_seconds(double seconds):
    """Set how long the handlers of one read may take; the rest waits for another turn of the loop. For tests."""
    global TURN_SECONDS
    TURN_SECONDS = seconds


cdef class MessageSource(Item):
    cdef public object context, handlers, inbox, forwarder, state
    cdef public double last_heard
    cdef dict encoders

    # -- each subclass has its own --

    cpdef send_frame(self, bytes frame, key=0, full=None):
        raise NotImplementedError

    cdef object requests_of(self):
        """Its `Requests`, or None."""
        raise NotImplementedError

    cdef int wrong_tag(self, error) except -1:
        """Note the error of the first frame of a read with a wrong tag."""
        raise NotImplementedError

    cdef uint8_t *reserve(self, size_t size, full) except? NULL:
        """The place for a frame of `size` bytes, which `commit` queues; NULL if `send_frame` must take the frame."""
        return NULL

    cdef int commit(self, size_t size) except -1:
        """Queue the frame that was written to the reserved place."""
        raise NotImplementedError

    # -- to the peer --

    def send(self, message, *, key=0, full=None):
        cdef PyObject *found = PyDict_GetItemWithError(self.encoders, type(message))
        cdef Encoder encoder
        cdef bytes frame
        cdef object body
        cdef Py_ssize_t size
        cdef uint8_t *place
        if found is NULL:
            encoder = <Encoder?>self.context.encoder(type(message))
        else:
            encoder = <Encoder?>(<object>found)
        body = encoder.body_of(message)
        if encoder.coder is None and not key:
            size = HEAD_SIZE + PyBytes_GET_SIZE(body)
            place = self.reserve(<size_t>size, full)
            if place is not NULL:
                encoder.write(place, body, size - HEAD_SIZE)
                self.commit(<size_t>size)
                encoder.traffic.messages += 1
                encoder.traffic.bytes += size
                return
        frame = encoder.frame_of(body)
        self.send_frame(frame, key, CLOSE_FULL if full is None else full)
        encoder.traffic.messages += 1
        encoder.traffic.bytes += len(frame)

    # -- from the peer --

    cdef size_t note_tags(self, const uint8_t *data, size_t end, set refused) except? 0:
        """Note the requests of a read, and take its answers and failures, as `Requests.take_all` does.

        refused: gets the offsets of requests that are not to be handled. Returns the end of the frames before a wrong one.
        """
        cdef object requests = self.requests_of()
        cdef dict serving = <dict?>requests.serving
        cdef size_t at = 0, size
        cdef uint32_t word
        cdef uint16_t id
        cdef bint is_taken
        while at < end:
            word = gl_u32(data + at)
            size = (word & MAX_LENGTH) - 2
            if word > MAX_LENGTH and not word & CONTROL_BIT:
                id = gl_u16(data + at + HEADER_SIZE)
                tag = gl_u32(data + at + HEAD_SIZE)
                if (
                    word >> 24 == REQUEST and not is_envelope_id(id)
                    and len(serving) < MOST_REQUESTS and tag not in serving
                ):
                    serving[tag] = (id, 0)
                else:
                    body = PyBytes_FromStringAndSize(<const char *>data + at + HEAD_SIZE, <Py_ssize_t>size)
                    try:
                        is_taken = requests.take(self, (id, word >> 24, body))
                    except PeerError as error:
                        self.wrong_tag(error)
                        return at
                    if not is_taken:
                        refused.add(at)
            at += HEAD_SIZE + size
        return end

    cdef int call_handlers_of(self, handlers, const uint8_t *data, size_t end, set refused) except -1:
        """As `call_handlers`, unless `handlers` were replaced since the read came: the codec of an answer may do that."""
        if self.handlers is handlers:
            return self.call_handlers(<HandlerTable?>handlers, data, end, refused)
        self.handlers.dispatch(self, frames_of(data, 0, end, refused))
        return 0

    cdef int call_handlers(self, HandlerTable table, const uint8_t *data, size_t end, set refused) except -1:
        """Call the handlers of straight frames, as `Handlers._call_handlers` does. All had a route when the read came.

        refused: the offsets of those with a tag that are not to be handled; None if no frame has a tag.
        """
        cdef size_t at = 0, size, here, head
        cdef double start = gl_perf_counter(), now, elapsed
        cdef double until = start + TURN_SECONDS
        cdef PyObject *found
        cdef Route route
        cdef uint32_t word
        cdef object message, result, rest
        cdef list left
        while at < end:
            here = at
            word = gl_u32(data + here)
            size = (word & MAX_LENGTH) - 2
            at += HEAD_SIZE + size
            if word & CONTROL_BIT:
                continue
            head = HEAD_SIZE
            if refused is not None and word > MAX_LENGTH:
                if here in refused:
                    continue
                head += TAG_SIZE
            found = table.c_routes.at(gl_u16(data + here + HEADER_SIZE))
            if found is NULL:  # a handler that was called before has deleted the route
                self.handlers.dispatch(self, frames_of(data, here, end, refused))
                return 0
            route = <Route>found
            message = PyBytes_FromStringAndSize(<const char *>data + here + head, <Py_ssize_t>(at - here - head))
            try:
                message = PyObject_CallOneArg(route.decode, message)
            except BaseException as error:
                table.fallback.malformed(self, route, contain(error))
                if self.state is not OPEN:
                    return 0
                continue
            try:
                if head == HEAD_SIZE:
                    result = call_two(route.call, self, message)
                else:
                    result = self.serve(route, message, gl_u32(data + here + HEAD_SIZE))
            except BaseException as error:
                table.fallback.failed(self, route, contain(error))
                result = None
            if result is not None:
                rest = table.rest_of(self, route, result, size, start)
                if rest is not None:
                    table.queue(self, frames_of(data, at, end, refused), rest)
                    return 0
            now = gl_perf_counter()
            elapsed = now - start
            start = now
            route.count += 1
            route.bytes += HEAD_SIZE + <int64_t>size
            route.seconds += elapsed
            if elapsed > FIRST_BUCKET:
                route.observe(elapsed)
                if self.context.standstill is not None:
                    self.context.standstill.check()
            if self.state is not OPEN:
                return 0
            if now > until:
                left = frames_of(data, at, end, refused)
                if left:
                    table.queue(self, left, sleep(0))
                return 0
            if self.handlers is not table:
                left = frames_of(data, at, end, refused)
                if left:
                    self.handlers.dispatch(self, left)
                return 0
        return 0

    cdef object serve(self, Route route, message, uint32_t tag):
        """Serve a request, as `handling.serving.serve` does. Returns an awaitable, or None."""
        cdef object requests = self.requests_of()
        try:
            result = call_two(route.call, self, message)
        except BaseException as error:
            refuse_for(self, requests, tag, error)
            if isinstance(error, Refuse):
                return None
            raise
        if self.answer(requests, tag, result):
            return None
        if isawaitable(result):
            return serve_later(self, requests, tag, result)
        if requests is not None:
            requests.answer(self, tag, result)
        return None

    cdef bint answer(self, requests, uint32_t tag, result) except -1:
        """Answer, as `Requests.answer` does. Returns False if Python must do it: then it has done nothing."""
        cdef PyObject *found = PyDict_GetItemWithError(self.encoders, type(result))
        cdef Encoder encoder
        cdef object body, number, kind
        cdef bytes frame
        cdef uint8_t *place
        cdef dict serving
        cdef size_t size
        if found is NULL or requests is None or self.state is not OPEN:
            return False
        encoder = <Encoder?>(<object>found)
        if encoder.coder is not None:
            return False
        serving = <dict?>requests.serving
        number = tag
        found = PyDict_GetItemWithError(serving, number)
        if found is NULL:
            return False
        kind = self.context.catalog.by_id.get((<tuple?>(<object>found))[0])
        if kind is None or kind.answer is not type(result):
            return False
        try:
            body = encoder.body_of(result)
            size = HEAD_SIZE + TAG_SIZE + <size_t>PyBytes_GET_SIZE(body)
            if <int64_t>size > encoder.max_message:
                raise too_large(encoder.name, size, encoder.max_message)
        except BaseException:
            requests.refuse(self, tag, REQUEST_FAILED)
            raise
        encoder.traffic.messages += 1
        encoder.traffic.bytes += <int64_t>size
        if serving.pop(number, None) is None:
            return True  # the codec has ended the session
        self.context.stats.requests_served["answered"] += 1
        place = self.reserve(size, None) if self.state is OPEN else NULL  # the codec may have done anything, too
        if place is not NULL:
            encoder.write_answer(place, tag, body)
            self.commit(size)
        else:
            frame = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
            encoder.write_answer(<uint8_t *>PyBytes_AS_STRING(frame), tag, body)
            try:
                self.send_frame(frame, 0, CLOSE_FULL)
            except (SessionClosed, MessageTooLarge):
                pass  # the session has ended, and its requests with it
        return True


cdef list frames_of(const uint8_t *data, size_t at, size_t end, set refused):
    """The messages from `at` to `end`, as `walk` gives them, without the `refused` ones."""
    cdef list frames = []
    cdef size_t size
    cdef uint32_t word
    while at < end:
        word = gl_u32(data + at)
        size = (word & MAX_LENGTH) - 2
        if not word & CONTROL_BIT and (refused is None or at not in refused):
            body = PyBytes_FromStringAndSize(<const char *>data + at + HEAD_SIZE, <Py_ssize_t>size)
            frames.append((gl_u16(data + at + HEADER_SIZE), word >> 24, body))
        at += HEAD_SIZE + size
    return frames
