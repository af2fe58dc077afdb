# Twin of wire/websocket.whole_messages.

DEF WHOLE_BINARY = 0x82
DEF SMALL = 6               # as in wire/websocket.py; a test compares them


def whole_messages(bytes data not None, Py_ssize_t at, int64_t max_message, list payloads not None):
    cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef const uint8_t *key
    cdef Py_ssize_t end = PyBytes_GET_SIZE(data), begin = at, total = 0, head, size
    cdef int64_t small = 0
    cdef uint8_t *place
    cdef bytes joined
    while True:                     # find the end of the messages, and the size of their payload
        size = whole_size(start, at, end, max_message, &head)
        if not size:
            break
        if size < SMALL:
            small += 1
        total += size
        at += head + size
    if total:
        joined = PyBytes_FromStringAndSize(NULL, total)
        place = <uint8_t *>PyBytes_AS_STRING(joined)
        while begin < at:
            size = whole_size(start, begin, end, max_message, &head)
            key = start + begin + head - 4
            unmask(place, start + begin + head, <size_t>size, key)
            place += size
            begin += head + size
        payloads.append(joined)
    return at, small


cdef Py_ssize_t whole_size(
    const uint8_t *start, Py_ssize_t at, Py_ssize_t end, int64_t max_message, Py_ssize_t *head
) noexcept:
    """The bytes of payload of a whole masked binary message under 64 KiB at `at`; 0 if there is something else."""
    cdef Py_ssize_t size
    if end - at <= 8 or start[at] != WHOLE_BINARY or start[at + 1] < 128:
        return 0
    size = start[at + 1] - 128
    head[0] = 6
    if size == 126:
        size = start[at + 2] << 8 | start[at + 3]
        head[0] = 8
        if size < 126:
            return 0
    elif size == 127:
        return 0
    return size if 0 < size <= max_message and size <= end - at - head[0] else 0


cdef void unmask(uint8_t *place, const uint8_t *data, size_t size, const uint8_t *key) noexcept:
    cdef uint32_t half
    cdef uint64_t keys, word
    cdef size_t at = 0
    memcpy(&half, key, 4)
    keys = <uint64_t>half << 32 | half
    while at + 8 <= size:
        memcpy(&word, data + at, 8)
        word ^= keys
        memcpy(place + at, &word, 8)
        at += 8
    while at < size:
        place[at] = data[at] ^ key[at & 3]
        at += 1
