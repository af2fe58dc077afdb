# The sockets of one loop: one epoll descriptor, which is one reader of the loop.
#
# The loop has the reader while a socket is watched. A turn is bounded in events and in time, so that everything else on
# the loop gets its turn.

DEF READ = 65536            # bytes of one read
DEF EVENTS = 256            # of one call of epoll_wait
DEF ROUNDS = 4              # calls of epoll_wait in one turn of the loop
DEF TURN_TIME = 0.002       # s after which a turn calls epoll_wait no more
DEF ACCEPTS = 16            # connections that one listening socket accepts in a turn
DEF ACCEPT_PAUSE = 1.0      # s without accepting when the system has no descriptors or memory left

import os as _os
import weakref as _weakref

cdef object reactors = _weakref.WeakSet()   # those with an open epoll descriptor, for `forked`


cdef class Watched:
    """A socket that a reactor watches. It owns the descriptor; -1: it is closed."""

    cdef Reactor reactor
    cdef int fd
    cdef uint32_t events    # that epoll watches for; 0: the socket is not in epoll
    cdef Py_ssize_t place   # in the reactor's list; -1: it is not there

    def __cinit__(self, *arguments):
        self.fd = -1
        self.place = -1

    cdef int watch(self, uint32_t events) except -1:
        """Have epoll watch for these events. With 0 not even for a hang-up, which epoll would report again and again."""
        cdef int how
        if events == self.events or self.fd < 0:
            return 0
        how = EPOLL_CTL_DEL if not events else EPOLL_CTL_MOD if self.events else EPOLL_CTL_ADD
        if gl_epoll_set(self.reactor.epoll, how, self.fd, events, <void *>self) < 0:
            raise OSError(errno, "epoll_ctl failed")
        self.events = events
        return 0

    cdef int handle_events(self, uint32_t events) except -1:
        """Handle events that epoll reported."""
        return 0

    cdef int failed(self, error) except -1:
        """Close the socket, as `handle_events` raised. Such a fault of ours must not reach the other sockets."""
        return 0

    cdef int close_socket(self) except -1:
        cdef int fd = self.fd
        if fd >= 0:
            if self.events and gl_epoll_set(self.reactor.epoll, EPOLL_CTL_DEL, fd, 0, NULL) < 0:
                pass  # the application has closed the descriptor, and the kernel has taken it out
            self.events = 0
            self.fd = -1
            c_close(fd)
            self.reactor.forget(self)
        return 0

    cdef int cut_off(self) except -1:
        """Only close the descriptor: the loop is closed, or this is the child of a fork."""
        if self.fd >= 0:
            c_close(self.fd)
            self.fd = -1
        return 0

    def __dealloc__(self):
        if self.fd >= 0:
            c_close(self.fd)


cdef class Reader:
    """The callback of the loop. Only the loop refers to it, so it is deleted when the loop is closed."""

    cdef Reactor reactor
    cdef int64_t run

    def __call__(self):
        self.reactor.turn()

    def __del__(self):
        if self.reactor.run == self.run:  # else it was removed
            self.reactor.cut_off()


cdef class Reactor:
    cdef readonly object loop
    cdef int epoll
    cdef int64_t run                # counts up whenever the loop gets, or loses, a reader
    cdef uint8_t *buffer            # of READ bytes
    cdef bint is_in_turn
    cdef list watched               # keeps them alive: epoll has their addresses
    cdef object __weakref__
    cdef list closed                # in this turn: epoll may have given their addresses already

    def __cinit__(self):
        self.epoll = -1

    def __init__(self, loop):
        self.loop = loop
        self.watched = []
        self.closed = []
        self.buffer = <uint8_t *>malloc(READ)
        if self.buffer is NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.buffer)
        if self.epoll >= 0:
            c_close(self.epoll)

    def __len__(self):
        return len(self.watched)

    cdef int start(self) except -1:
        """Have the loop watch the epoll descriptor."""
        cdef Reader reader
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0:
            raise OSError(errno, "epoll_create1 failed")
        self.run += 1
        reader = Reader.__new__(Reader)
        reader.reactor = self
        reader.run = self.run
        try:
            self.loop.add_reader(self.epoll, reader)
        except BaseException:
            self.run += 1
            c_close(self.epoll)
            self.epoll = -1
            raise
        reactors.add(self)
        return 0

    cdef int add(self, Watched socket, uint32_t events) except -1:
        """Watch a new socket. Raises RuntimeError in a process that was forked from the reactor's."""
        if self.loop is None:
            raise RuntimeError("this process was forked; the sockets of its parent can't be used in it")
        if self.epoll < 0:
            self.start()
        socket.watch(events)
        socket.place = len(self.watched)
        self.watched.append(socket)
        return 0

    cdef int forget(self, Watched socket) except -1:
        cdef Watched last
        if self.is_in_turn:
            self.closed.append(socket)
        if socket.place >= 0:
            last = <Watched>self.watched.pop()
            if last is not socket:
                last.place = socket.place
                self.watched[last.place] = last
            socket.place = -1
        if not self.watched and not self.is_in_turn:
            self.stop()
        return 0

    cdef int stop(self) except -1:
        """Close the epoll descriptor: no socket is watched any more."""
        cdef int epoll = self.epoll
        if epoll >= 0:
            self.epoll = -1
            self.run += 1
            reactors.discard(self)
            try:
                self.loop.remove_reader(epoll)
            finally:
                c_close(epoll)
        return 0

    def listen(self, sock, accepted):
        """Accept the connections of a listening socket, which the reactor owns from now on.

        accepted: called with the descriptor of each, and the address of its peer; "" of a Unix socket.
        Returns an object with `close`.
        """
        return ListeningSocket(self, sock, accepted)

    def stream(self, int fd, str address, limits, on_closed):
        """The stream of an accepted socket, which the stream owns from now on."""
        return Stream(self, fd, address, limits, on_closed)

    def dialled(self, int fd, str address, limits):
        """The stream of a socket that this side has connected, which the stream owns from now on."""
        cdef Stream stream = Stream(self, fd, address, limits, None)
        stream.is_restrained = False
        stream.max_length = limits.max_frame
        return stream

    def turn(self):
        cdef epoll_event events[EVENTS]
        cdef int count, at, round
        cdef double until
        cdef Watched socket
        if self.epoll < 0 or self.is_in_turn:
            return
        until = gl_perf_counter() + TURN_TIME
        self.is_in_turn = True
        try:
            for round in range(ROUNDS):
                count = epoll_wait(self.epoll, events, EVENTS, 0)
                for at in range(count):
                    socket = <Watched>events[at].data.ptr
                    if socket.fd < 0:
                        continue  # an earlier event closed it
                    try:
                        socket.handle_events(events[at].events)
                    except (KeyboardInterrupt, SystemExit):
                        raise
                    except BaseException as error:
                        socket.failed(error)
                        self.loop.call_exception_handler({"message": "fault in a connection", "exception": error})
                if count < EVENTS or gl_perf_counter() > until:
                    break
        finally:
            self.is_in_turn = False
            self.closed.clear()
            if not self.watched:
                self.stop()

    cdef int cut_off(self) except -1:
        """Close all descriptors, and call nothing: the loop is closed, or this is the child of a fork."""
        cdef Watched socket
        self.run += 1
        for socket in self.watched:
            socket.cut_off()
        if self.is_in_turn:
            self.closed += self.watched
        self.watched.clear()
        if self.epoll >= 0:
            c_close(self.epoll)
            self.epoll = -1
        reactors.discard(self)
        return 0

    def forked(self):
        """Close the child's copies of the sockets. Called in the child of a fork."""
        self.cut_off()
        self.loop = None


def after_fork_in_child():
    for reactor in list(reactors):
        reactor.forked()


_os.register_at_fork(after_in_child=after_fork_in_child)


cdef class ListeningSocket(Watched):
    cdef object accepted
    cdef object retry

    def __init__(self, Reactor reactor not None, sock, accepted):
        self.reactor = reactor
        self.accepted = accepted
        sock.setblocking(False)
        self.fd = sock.detach()
        try:
            reactor.add(self, EPOLLIN)
        except BaseException:
            c_close(self.fd)
            self.fd = -1
            raise

    cdef int handle_events(self, uint32_t events) except -1:
        cdef char host[1025]    # NI_MAXHOST
        cdef int fd, accept, code
        for accept in range(ACCEPTS):
            fd = gl_accept(self.fd, host)
            if fd >= 0:
                self.accepted(fd, host.decode("ascii"))
                if self.fd < 0:
                    return 0
                continue
            code = errno
            if code == EAGAIN:
                return 0
            if code in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
                self.watch(0)
                self.retry = self.reactor.loop.call_later(ACCEPT_PAUSE, self.accept_again)
                import_net_names()
                quiet.error("no connection is accepted for a second", why=_os.strerror(code))
                return 0
            # else: this connection ended before it was accepted
        return 0

    def accept_again(self):
        self.retry = None
        self.watch(EPOLLIN)

    def close(self):
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None
        self.close_socket()
