# Twin of session/straight_path.send_to_all: frames are copied into the blocks of the outboxes.

def send_to_all(sessions, frames, key=0, full=None):
    return deliver_to_all(sessions, frames if isinstance(frames, WholeFrames) else joined(list(frames)), key, full)


cdef int64_t deliver_to_all(sessions, WholeFrames whole, key, full) except -1:
    cdef list to_flush = [], frames = None
    cdef StraightPath session
    cdef object context = None
    cdef Outbox outbox
    cdef int64_t sent = 0
    cdef bint is_plain = not key and (full is None or full is CLOSE_FULL)
    try:
        for each in sessions:
            if is_plain and isinstance(each, StraightPath):
                session = <StraightPath>each
                outbox = session.open_outbox()
                if outbox is not None and outbox.append_whole(whole):
                    sent += 1
                    if not session._flush_scheduled:
                        if context is None:
                            context = session.context
                        if session.context is context:
                            session._flush_scheduled = True
                            to_flush.append(session)
                        else:
                            session._schedule_flush()
                    continue
            if frames is None:
                frames = whole.c_list()
            try:
                if is_plain:
                    each.send_frames(frames)
                else:
                    for frame in frames:
                        each.send_frame(frame, key, CLOSE_FULL if full is None else full)
            except SessionClosed:
                continue
            sent += 1
    finally:
        if to_flush:
            schedule_all(context, to_flush)
    return sent


cdef int schedule_all(context, list sessions) except -1:
    try:
        context.schedule_flushes(sessions)
    except BaseException:  # as LocalError, in another thread: none of the sessions is scheduled
        for session in sessions:
            (<StraightPath>session)._flush_scheduled = False
        raise
    return 0
