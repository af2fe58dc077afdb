# Twin of net/connection.deliver: the straight path of bytes that a transport has read, as with TLS and WebSocket.

def deliver(decoder, bytes data not None, int64_t came, receiver, meter):
    cdef StraightRead found
    cdef Share share
    cdef const uint8_t *start
    cdef size_t size
    cdef list frames
    if isinstance(receiver, StraightPath) and type(decoder) is FrameDecoder:
        data = decoder.gather(data)
        if data:
            start, size = <const uint8_t *>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data)
            share.max_length, share.frames, share.bytes = decoder.max_length, decoder.turn_frames, decoder.turn_bytes
            (<StraightPath>receiver).find_straight(start, size, &share, &found)
            if found.count:
                if found.end < size:
                    decoder.keep(data, found.end, found.count)
                if meter is not None:
                    meter.charge(found.count, came)
                (<StraightPath>receiver).receive_straight(start, &found)
                return
            frames = decoder.feed(data)
        else:
            frames = []
    else:
        frames = decoder.feed(data)
    if meter is not None:
        meter.charge(len(frames), came)
    if frames:
        receiver.receive(frames)
    else:
        receiver.waiting(decoder.buffered)
