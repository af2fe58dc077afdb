# What the other files use of C, Python's C interface and the system.

from libc.errno cimport EAGAIN, ECONNABORTED, ECONNRESET, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPIPE, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memmove, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject

cdef extern from *:  # a macro that setup.py gives the compiler
    const char *GATELINK_SOURCES

SOURCES = GATELINK_SOURCES.decode()  # the digest of the files that this core was built from (_sources.py)

cdef extern from *:
    """
    #include <time.h>
    #include <string.h>

    static inline uint32_t gl_u32(const uint8_t *at) {
        return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
    }
    static inline uint16_t gl_u16(const uint8_t *at) { return (uint16_t)(at[0] | at[1] << 8); }
    static inline void gl_put_u32(uint8_t *at, uint32_t value) {
        at[0] = (uint8_t)value; at[1] = (uint8_t)(value >> 8); at[2] = (uint8_t)(value >> 16); at[3] = (uint8_t)(value >> 24);
    }
    static inline void gl_put_u16(uint8_t *at, uint16_t value) { at[0] = (uint8_t)value; at[1] = (uint8_t)(value >> 8); }
    static inline PyObject *call_two(PyObject *function, PyObject *first, PyObject *second) {
        PyObject *arguments[3] = {NULL, first, second};
        return PyObject_Vectorcall(function, arguments + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    static inline PyObject *call_four(PyObject *function, PyObject *a, PyObject *b, PyObject *c, PyObject *d) {
        PyObject *arguments[5] = {NULL, a, b, c, d};
        return PyObject_Vectorcall(function, arguments + 1, 4 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    static inline double gl_perf_counter(void) {  /* what time.perf_counter reads on Linux */
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
    }
    """
    uint32_t gl_u32(const uint8_t *at) noexcept nogil
    uint16_t gl_u16(const uint8_t *at) noexcept nogil
    void gl_put_u32(uint8_t *at, uint32_t value) noexcept nogil
    void gl_put_u16(uint8_t *at, uint16_t value) noexcept nogil
    double gl_perf_counter() noexcept nogil
    object call_two(object function, object first, object second)
    object call_four(object function, object a, object b, object c, object d)


cdef inline uint64_t gl_u64(const uint8_t *at) noexcept:
    return gl_u32(at) | <uint64_t>gl_u32(at + 4) << 32


cdef inline void gl_put_u64(uint8_t *at, uint64_t value) noexcept:
    gl_put_u32(at, <uint32_t>value)
    gl_put_u32(at + 4, <uint32_t>(value >> 32))


cdef extern from "Python.h":
    object PyObject_CallOneArg(object function, object argument)
    int PyBuffer_FillInfo(Py_buffer *buffer, object owner, void *data, Py_ssize_t size, int is_readonly, int flags) except -1
    PyObject *PyDict_GetItemWithError(object dictionary, object key) except? NULL

cdef extern from *:
    """
    #include <netdb.h>
    #include <sys/epoll.h>
    #include <sys/socket.h>
    #include <unistd.h>

    /* Accepts one connection. host: at least NI_MAXHOST bytes, gets the peer's address, "" of a Unix socket. */
    static int gl_accept(int listening, char *host) {
        struct sockaddr_storage peer;
        socklen_t size = sizeof peer;
        int fd = accept4(listening, (struct sockaddr *)&peer, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        host[0] = 0;
        if (fd >= 0 && (peer.ss_family == AF_INET || peer.ss_family == AF_INET6)
            && getnameinfo((struct sockaddr *)&peer, size, host, NI_MAXHOST, NULL, 0, NI_NUMERICHOST))
            host[0] = 0;
        return fd;
    }
    static int gl_epoll_set(int epoll, int how, int fd, uint32_t events, void *what) {
        struct epoll_event event;
        memset(&event, 0, sizeof event);
        event.events = events;
        event.data.ptr = what;
        return epoll_ctl(epoll, how, fd, &event);
    }
    """
    ctypedef union epoll_data_t:
        void *ptr
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int NI_MAXHOST
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
    uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP
    int MSG_NOSIGNAL, SHUT_WR
    int epoll_create1(int flags) nogil
    int epoll_wait(int epoll, epoll_event *events, int most, int timeout) nogil
    int gl_epoll_set(int epoll, int how, int fd, uint32_t events, void *what) nogil
    int gl_accept(int listening, char *host) nogil
    ssize_t c_recv "recv"(int fd, void *data, size_t size, int flags) nogil
    ssize_t c_send "send"(int fd, const void *data, size_t size, int flags) nogil
    int c_close "close"(int fd) nogil
    int c_shutdown "shutdown"(int fd, int how) nogil
