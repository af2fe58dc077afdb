# Twin of session/loop_context.Encoder.

cdef class Encoder:
    cdef readonly object kind, encode, coder
    cdef readonly Traffic traffic
    cdef readonly str name
    cdef readonly int id
    cdef readonly int64_t max_message
    cdef readonly bint is_body     # a raw message is its body: no need to encode it

    def __init__(self, kind, coder, Traffic traffic not None, int64_t max_message):
        import_names()
        self.kind = kind
        self.id = kind.id
        self.name = kind.name
        self.encode = kind.encode
        self.is_body = kind.encode is bytes
        self.coder = coder
        self.traffic = traffic
        self.max_message = max_message

    def frame(self, message):
        """The whole frame of `message`. Raises MessageTooLarge, and what the message's codec raises."""
        return self.frame_of(self.body_of(message))

    cdef bytes frame_of(self, body):
        """The frame of a body that `body_of` gave."""
        cdef bytes frame
        cdef Py_ssize_t size
        if self.coder is not None:
            flags, body = self.coder.close(self.kind, body)
            return encode_frame(self.id, body, flags)
        size = PyBytes_GET_SIZE(body)
        frame = PyBytes_FromStringAndSize(NULL, HEAD_SIZE + size)
        self.write(<uint8_t *>PyBytes_AS_STRING(frame), body, size)
        return frame

    cdef object body_of(self, message):
        """The body, not yet compressed or scrambled; a bytes object."""
        cdef object body = message if self.is_body else self.encode(message)
        if not PyBytes_Check(body):
            raise TypeError(f"the codec of {self.name} gave a {type(body).__name__}")
        if HEAD_SIZE + PyBytes_GET_SIZE(body) > self.max_message:
            raise too_large(self.name, HEAD_SIZE + PyBytes_GET_SIZE(body), self.max_message)
        return body

    cdef inline void write(self, uint8_t *place, object body, Py_ssize_t size) noexcept:
        """Write the frame of a body that `body_of` gave."""
        gl_put_u32(place, <uint32_t>(size + 2))
        gl_put_u16(place + HEADER_SIZE, <uint16_t>self.id)
        memcpy(place + HEAD_SIZE, PyBytes_AS_STRING(body), <size_t>size)

    cdef inline void write_answer(self, uint8_t *place, uint32_t tag, object body) noexcept:
        """Write the ANSWER to the request `tag`, with a body that `body_of` gave."""
        cdef size_t size = <size_t>PyBytes_GET_SIZE(body)
        gl_put_u32(place, <uint32_t>(size + 2 + TAG_SIZE) | <uint32_t>ANSWER << 24)
        gl_put_u16(place + HEADER_SIZE, <uint16_t>self.id)
        gl_put_u32(place + HEAD_SIZE, tag)
        memcpy(place + HEAD_SIZE + TAG_SIZE, PyBytes_AS_STRING(body), size)
