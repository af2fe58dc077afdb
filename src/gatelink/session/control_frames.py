"""Control records as whole frames, and what a peer's CLOSE says."""

from gatelink.errors import CloseCode
from gatelink.wire import control
from gatelink.wire.control import encode_control
from gatelink.wire.frames import encode_control_frame


def control_frame(record: control.Control) -> bytes:
    """The whole frame of a control record."""
    return encode_control_frame(encode_control(record))


def close_frame(code: CloseCode, reason: str = "") -> bytes:
    """The CLOSE that tells a peer why; `reason` is read by people there. UNEXPLAINED is never sent: it says NORMAL."""
    return control_frame(control.Close(CloseCode.NORMAL if code is CloseCode.UNEXPLAINED else code, reason))


def close_code(number: int) -> CloseCode:
    """The code of a CLOSE; NORMAL for one that this version does not know, or that is never sent."""
    try:
        code = CloseCode(number)
    except ValueError:
        return CloseCode.NORMAL
    return CloseCode.NORMAL if code is CloseCode.UNEXPLAINED else code


def printable(text: str) -> str:
    """A peer's words, fit for logs and screens: what is no printable character, or not even UTF-8, becomes `?`."""
    return "".join(character if character.isprintable() else "?" for character in text)
