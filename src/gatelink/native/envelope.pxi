# Twins of the functions of wire/envelope.py for ClientFrame, PushFrame and BroadcastFrame, and of WholeFrames.
#
# A malformed envelope goes to the pure function, which raises the error.

cdef pure_function(str name):
    from gatelink import _native
    return _native.pure[name]


cdef inline bint is_framework_id(uint16_t id) noexcept:
    return id <= 4 or id == LAST_BASE_ID or is_envelope_id(id)   # with 0, which no message has


cdef size_t message_length(uint32_t word) noexcept:
    """The bytes of payload that the header of a message frame declares; 0 for any other header."""
    cdef uint32_t flags = word >> 24, length = word & MAX_LENGTH
    cdef uint32_t least = 2
    if flags == FAILED:
        least = FAILED_SIZE
    elif flags >= REQUEST:
        if flags & ~<uint32_t>(REQUEST | 3) and flags & ~<uint32_t>(ANSWER | 3):
            return 0
        least = 2 + TAG_SIZE
    elif flags > 3:
        return 0
    return length if length >= least else 0


cdef struct Contents:       # the frames in an envelope
    int64_t count
    bint has_tags


cdef bint check_contents(
    const uint8_t *data, size_t at, size_t size, int64_t max_frame, Routes routes, Contents *found
) noexcept:
    """Whether `data` from `at` to `size` is one or more whole frames that a player may send or get.

    routes: if it is not None, each frame must also be an answer, or a plain message or request with a handler there.
    """
    cdef size_t length
    cdef uint32_t word, flags
    found.count = 0
    found.has_tags = False
    while size - at >= HEAD_SIZE:
        word = gl_u32(data + at)
        length = message_length(word)
        if not length or <int64_t>length > max_frame or is_framework_id(gl_u16(data + at + HEADER_SIZE)):
            return False
        flags = word >> 24
        if routes is not None and flags != ANSWER and flags != FAILED:
            if (flags and flags != REQUEST) or routes.at(gl_u16(data + at + HEADER_SIZE)) is NULL:
                return False
        if size - at < HEADER_SIZE + length:
            return False
        at += HEADER_SIZE + length
        found.count += 1
        if flags >= REQUEST:
            found.has_tags = True
    return at == size and found.count > 0


cdef class WholeFrames:
    """The frames of an envelope. They stay in its body, and become objects only when they are iterated."""

    cdef bytes body
    cdef size_t start
    cdef Contents contents

    def __cinit__(self, *arguments):
        self.body = b""

    def __init__(self, frames=()):
        cdef WholeFrames whole = joined(list(frames))
        self.body, self.start, self.contents = whole.body, whole.start, whole.contents

    @property
    def has_tags(self):
        return self.contents.has_tags

    cdef inline const uint8_t *c_data(self) noexcept:
        return <const uint8_t *>PyBytes_AS_STRING(self.body) + self.start

    cdef inline size_t c_size(self) noexcept:
        return <size_t>PyBytes_GET_SIZE(self.body) - self.start

    cdef list c_list(self):
        return cut_frames(self.c_data(), 0, self.c_size())

    def __len__(self):
        return self.contents.count

    def __iter__(self):
        return iter(self.c_list())

    def __getitem__(self, at):
        return self.c_list()[at]

    def __eq__(self, other):
        return self.c_list() == list(other)

    def __repr__(self):
        return repr(self.c_list())


cdef WholeFrames whole_frames(bytes body, size_t start, int64_t max_frame):
    """The frames that fill `body` from `start`; None if they are malformed."""
    cdef WholeFrames frames = WholeFrames.__new__(WholeFrames)
    if not check_contents(
        <const uint8_t *>PyBytes_AS_STRING(body), start, <size_t>PyBytes_GET_SIZE(body), max_frame, None,
        &frames.contents,
    ):
        return None
    frames.body = body
    frames.start = start
    return frames


cdef void write_client_head(uint8_t *place, uint64_t sid, size_t size) noexcept:
    """Write the head of a ClientFrame, whose frames have `size` bytes."""
    gl_put_u32(place, <uint32_t>(size + CLIENT_HEAD - HEADER_SIZE))
    gl_put_u16(place + HEADER_SIZE, CLIENT_FRAME)
    gl_put_u64(place + HEAD_SIZE, sid)


def client_frames(sid, list frames not None):
    cdef size_t size = 0, inner
    cdef bytes body, whole
    cdef uint8_t *place
    for frame in frames:
        if len(<tuple?>frame) != 3:
            raise ValueError("a frame is (id, flags, body)")
        size += HEAD_SIZE + <size_t>len(<bytes?>(<tuple>frame)[2])
    if size + CLIENT_HEAD - HEADER_SIZE > MAX_LENGTH:
        return pure_function("client_frames")(sid, frames)
    whole = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(CLIENT_HEAD + size))
    place = <uint8_t *>PyBytes_AS_STRING(whole)
    write_client_head(place, sid, size)
    place += CLIENT_HEAD
    for frame in frames:
        body = <bytes>(<tuple>frame)[2]
        inner = <size_t>PyBytes_GET_SIZE(body)
        gl_put_u32(place, <uint32_t>(inner + 2) | <uint32_t>(<uint8_t>(<tuple>frame)[1]) << 24)
        gl_put_u16(place + HEADER_SIZE, <uint16_t>(<tuple>frame)[0])
        memcpy(place + HEAD_SIZE, PyBytes_AS_STRING(body), inner)
        place += HEAD_SIZE + inner
    return whole


def open_client_frames(bytes body not None, max_frame):
    cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(body)
    cdef size_t size = <size_t>PyBytes_GET_SIZE(body)
    cdef Contents contents
    if size < SID_SIZE or not check_contents(data, SID_SIZE, size, max_frame, None, &contents):
        return pure_function("open_client_frames")(body, max_frame)
    return gl_u64(data), frames_of(data, SID_SIZE, size, None)


cdef void write_push_head(uint8_t *place, uint64_t sid, size_t size) noexcept:
    """Write the head of a PushFrame to one session, without policy and key. Its frames have `size` bytes."""
    gl_put_u32(place, <uint32_t>(size + PUSH_HEAD - HEADER_SIZE))
    gl_put_u16(place + HEADER_SIZE, PUSH_FRAME)
    gl_put_u16(place + HEAD_SIZE, 1)
    gl_put_u64(place + HEAD_SIZE + 2, sid)
    memset(place + HEAD_SIZE + 2 + SID_SIZE, 0, POLICY_AND_KEY)


def push_to_one(sid, list frames not None):
    cdef size_t size = 0
    cdef bytes each, whole
    cdef uint8_t *place
    for each in frames:
        size += <size_t>PyBytes_GET_SIZE(<bytes?>each)
    if not size or size + PUSH_HEAD - HEADER_SIZE > MAX_LENGTH:
        return pure_function("push_to_one")(sid, frames)
    whole = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(PUSH_HEAD + size))
    place = <uint8_t *>PyBytes_AS_STRING(whole)
    write_push_head(place, sid, size)
    place += PUSH_HEAD
    for each in frames:
        memcpy(place, PyBytes_AS_STRING(each), <size_t>PyBytes_GET_SIZE(each))
        place += PyBytes_GET_SIZE(each)
    return whole


cdef WholeFrames frames_of_push(bytes body, int64_t max_frame, size_t *policy_at):
    """The frames of a PushFrame; None if something is wrong. policy_at: gets the offset of its policy and key."""
    if PyBytes_GET_SIZE(body) < 2:
        return None
    policy_at[0] = 2 + SID_SIZE * <size_t>gl_u16(<const uint8_t *>PyBytes_AS_STRING(body))
    return frames_behind(body, policy_at[0], max_frame)


cdef WholeFrames frames_of_broadcast(bytes body, int64_t max_frame, size_t *policy_at):
    """As `frames_of_push`, of a BroadcastFrame."""
    if PyBytes_GET_SIZE(body) < 2:
        return None
    policy_at[0] = 2 + <size_t>gl_u16(<const uint8_t *>PyBytes_AS_STRING(body))
    return frames_behind(body, policy_at[0], max_frame)


cdef WholeFrames frames_behind(bytes body, size_t policy_at, int64_t max_frame):
    if policy_at + POLICY_AND_KEY > <size_t>PyBytes_GET_SIZE(body) or (<const uint8_t *>PyBytes_AS_STRING(body))[policy_at] > 2:
        return None
    return whole_frames(body, policy_at + POLICY_AND_KEY, max_frame)


def open_push_frames(bytes body not None, max_frame):
    cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(body)
    cdef size_t at = 0, number_of
    cdef WholeFrames frames = frames_of_push(body, max_frame, &at)
    cdef tuple sids
    if frames is None:
        return pure_function("open_push_frames")(body, max_frame)
    if at == 2 + SID_SIZE:
        sids = (gl_u64(data + 2),)
    else:
        sids = tuple([gl_u64(data + 2 + SID_SIZE * number_of) for number_of in range(gl_u16(data))])
    return sids, data[at], gl_u64(data + at + 1), frames


def open_broadcast_frames(bytes body not None, max_frame):
    cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(body)
    cdef size_t at = 0
    cdef WholeFrames frames = frames_of_broadcast(body, max_frame, &at)
    if frames is None:
        return pure_function("open_broadcast_frames")(body, max_frame)
    return body[2:at].decode("utf-8", "surrogateescape"), data[at], gl_u64(data + at + 1), frames


cdef WholeFrames joined(list frames):
    """Join frames that this side made. Raises ValueError for bytes that are not one whole frame."""
    cdef WholeFrames whole = WholeFrames.__new__(WholeFrames)
    cdef bytes frame
    cdef size_t size
    import_names()
    for frame in frames:
        size = <size_t>PyBytes_GET_SIZE(<bytes?>frame)
        if size < HEADER_SIZE or HEADER_SIZE + (gl_u32(<const uint8_t *>PyBytes_AS_STRING(frame)) & MAX_LENGTH) != size:
            raise ValueError(f"{size} bytes that are not one whole frame")
        whole.contents.count += 1
        if frame[3] >= REQUEST:
            whole.contents.has_tags = True
    whole.body = b"".join(frames) if len(frames) != 1 else frames[0]
    return whole
