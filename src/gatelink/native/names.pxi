# Names of the package that the core uses. They are imported at first use, because the package imports the core first.

cdef object OPEN, DETACHED, CLOSE_FULL, DROP_NEWEST, NOT_PAUSED
cdef tuple POLICIES         # by their number in an envelope, as in cluster/player.py
cdef object OutboxFull, PureOutbox, SessionClosed, MessageTooLarge, LocalError, ProtocolError, NORMAL
cdef object frame_too_large, outbox_full, wrong_count
cdef object FrameDecoder, encode_frame, too_large, contain, isawaitable, sleep, PeerError, Refuse, refuse_for, serve_later
cdef object REQUEST_FAILED
cdef int64_t ACK_FRAMES, ACK_BYTES, MOST_REQUESTS
cdef bint are_names_imported = False


cdef int import_names() except -1:
    """Import the names, once. The constructors call it."""
    global are_names_imported, OPEN, DETACHED, CLOSE_FULL, DROP_NEWEST, NOT_PAUSED, POLICIES
    global OutboxFull, PureOutbox, SessionClosed, MessageTooLarge, LocalError, ProtocolError, NORMAL
    global frame_too_large, outbox_full, wrong_count
    global FrameDecoder, encode_frame, too_large, contain, isawaitable, sleep, ACK_FRAMES, ACK_BYTES
    global PeerError, Refuse, refuse_for, serve_later, MOST_REQUESTS, REQUEST_FAILED
    if are_names_imported:
        return 0
    from asyncio import sleep as _sleep
    from inspect import isawaitable as _isawaitable
    from gatelink import _native, calls, config, errors
    from gatelink.handling import serving
    from gatelink.session import loop_context, outbox, requests, states, stream
    from gatelink.wire import frames
    OPEN, DETACHED = states.SessionState.OPEN, states.SessionState.DETACHED
    CLOSE_FULL, DROP_NEWEST, OutboxFull = outbox.Full.CLOSE, outbox.Full.DROP_NEWEST, outbox.OutboxFull
    POLICIES = tuple(outbox.Full)
    PureOutbox = _native.pure["Outbox"]
    NOT_PAUSED = stream.Pause(0)
    frame_too_large, outbox_full, wrong_count = outbox.frame_too_large, outbox.outbox_full, outbox.wrong_count
    SessionClosed, MessageTooLarge, ProtocolError = errors.SessionClosed, errors.MessageTooLarge, errors.ProtocolError
    LocalError, NORMAL, REQUEST_FAILED = errors.LocalError, errors.CloseCode.NORMAL, errors.RequestCode.FAILED
    FrameDecoder, encode_frame = frames.FrameDecoder, frames.encode_frame
    too_large, contain, sleep = loop_context.too_large, calls.contain, _sleep
    PeerError, Refuse, isawaitable = errors.PeerError, errors.Refuse, _isawaitable
    refuse_for, serve_later, MOST_REQUESTS = serving.refuse_for, serving.serve_later, requests.MOST
    ACK_FRAMES, ACK_BYTES = config.ACK_FRAMES, config.ACK_BYTES
    are_names_imported = True
    return 0
