# The numbers of the wire, as wire/frames.py, wire/control.py and wire/envelope.py have them. A test compares them.

DEF HEADER_SIZE = 4
DEF HEAD_SIZE = 6           # header and id
DEF MAX_LENGTH = 0xFFFFFF
DEF REQUEST = 0x08          # flags bytes
DEF ANSWER = 0x10
DEF FAILED = 0x18
DEF CONTROL = 0x80
DEF CONTROL_BIT = 0x80000000    # CONTROL in the first word of a frame
DEF TAG_SIZE = 4
DEF FAILED_SIZE = 14        # bytes of a FAILED payload with an empty reason
DEF ACK_WORD = 0x80000009   # the first word of an ACK, whose payload is a type and a count
DEF ACK_TYPE = 8
DEF ACK_SIZE = 13           # bytes of a whole ACK
DEF LAST_BASE_ID = 24       # ids up to it are messages of the base protocol, for Python

DEF CLIENT_FRAME = 100
DEF PUSH_FRAME = 101
DEF BROADCAST_FRAME = 102
DEF FIRST_ENVELOPE_ID = 100
DEF LAST_ENVELOPE_ID = 199
DEF SID_SIZE = 8
DEF POLICY_AND_KEY = 9      # bytes of a policy and a key
DEF POLICY_AT = 2 + SID_SIZE    # in the body of a PushFrame to one session
DEF KEY_AT = POLICY_AT + 1
DEF CLIENT_HEAD = HEAD_SIZE + SID_SIZE          # bytes of a whole ClientFrame before its frames
DEF PUSH_BODY_HEAD = 2 + SID_SIZE + POLICY_AND_KEY  # bytes of the body of a PushFrame to one session before its frames
DEF PUSH_HEAD = HEAD_SIZE + PUSH_BODY_HEAD      # bytes of a whole PushFrame to one session before its frames


cdef inline bint is_envelope_id(uint16_t id) noexcept:
    """Whether a message is between servers."""
    return FIRST_ENVELOPE_ID <= id <= LAST_ENVELOPE_ID
