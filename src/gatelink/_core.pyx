# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# cython: freethreading_compatible=False
"""The compiled core: twins of the classes that each message passes (docs/native.md), and the sockets of plain TCP.

Each file of `native/` is one concept. They are compiled together, so that calls between them cost nothing.
"""

include "native/system.pxi"
include "native/wire.pxi"

cdef class LinkPath
cdef class Reactor
cdef class Stream
cdef class WholeFrames

include "native/names.pxi"
include "native/stats.pxi"
include "native/timers.pxi"
include "native/routes.pxi"
include "native/rates.pxi"
include "native/block.pxi"
include "native/outbox.pxi"
include "native/encoder.pxi"
include "native/intake.pxi"
include "native/forward.pxi"
include "native/secure.pxi"
include "native/message_source.pxi"
include "native/straight_path.pxi"
include "native/deliver.pxi"
include "native/websocket.pxi"
include "native/envelope.pxi"
include "native/broadcast.pxi"
include "native/player.pxi"
include "native/link.pxi"
include "native/reactor.pxi"
include "native/stream.pxi"
