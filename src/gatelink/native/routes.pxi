# Twins of handling/routes.Route, Routes and HandlerTable.

cdef tuple TIME_BUCKETS = (0.0001, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5)   # as in handling/routes.py; a test compares them
cdef double FIRST_BUCKET = 0.0001


cdef class Route:
    cdef public str name
    cdef public object handler, call, decode
    cdef public double logged, seconds
    cdef public int64_t count, bytes
    cdef public list buckets

    def __init__(self, str name not None, handler, decode):
        self.name = name
        self.handler = handler
        self.call = handler
        self.decode = decode
        self.logged = float("-inf")
        self.buckets = [0] * (len(TIME_BUCKETS) + 1)

    def handled(self, int64_t size, double seconds):
        self.count += 1
        self.bytes += size + HEAD_SIZE
        self.seconds += seconds
        if seconds > FIRST_BUCKET:
            self.observe(seconds)

    cpdef observe(self, double seconds):
        cdef Py_ssize_t at = 1
        while at < len(TIME_BUCKETS) and seconds > <double>TIME_BUCKETS[at]:
            at += 1
        self.buckets[at] += 1


DEF PAGE = 256              # ids of one page of routes, and pages of one table

cdef PyObject *no_page[PAGE]        # NULL each: no id of the page has a route
cdef PyObject **no_routes[PAGE]     # `no_page` each
cdef int _page
for _page in range(PAGE):
    no_routes[_page] = no_page


cdef class Routes:
    """A dictionary, and beside it pages of pointers to the same routes, which the dictionary owns.

    A page covers the 256 ids with one higher byte. It is made with its first route, and stays. So a table is small: each
    session may have its own.

    It is no subclass of dict, whose other methods would not change the pages.
    """

    cdef dict known
    cdef PyObject ***pages

    def __cinit__(self, *arguments):
        self.pages = no_routes
        self.known = {}

    def __init__(self, routes=()):
        for key, route in dict(routes).items():
            self[key] = route

    def __dealloc__(self):
        cdef int page
        if self.pages is not no_routes:
            for page in range(PAGE):
                if self.pages[page] is not no_page:
                    free(self.pages[page])
            free(self.pages)

    cdef inline PyObject *at(self, uint16_t id) noexcept:
        """The route of a message; NULL if it has none."""
        return self.pages[id >> 8][id & 0xFF]

    cdef PyObject **page_of(self, uint16_t id) except NULL:
        """The page of a message id, made if there is none."""
        cdef PyObject ***pages
        cdef PyObject **page = self.pages[id >> 8]
        if page is not no_page:
            return page
        if self.pages is no_routes:
            pages = <PyObject ***>malloc(PAGE * sizeof(PyObject **))
            if pages is NULL:
                raise MemoryError()
            memcpy(pages, no_routes, PAGE * sizeof(PyObject **))
            self.pages = pages
        page = <PyObject **>calloc(PAGE, sizeof(PyObject *))
        if page is NULL:
            raise MemoryError()
        self.pages[id >> 8] = page
        return page

    def __setitem__(self, int key, Route route not None):
        cdef PyObject **page = NULL
        if not -0x10000 < key < 0x10000:  # events have ids below 0
            raise ValueError(f"{key} is no message id")
        if key >= 0:
            page = self.page_of(<uint16_t>key)
        older = self.known.get(key)     # keeps the older route alive until the page has the new one
        self.known[key] = route
        if page is not NULL:
            page[key & 0xFF] = <PyObject *>route

    def __delitem__(self, int key):
        older = self.known[key]
        if key >= 0:
            self.page_of(<uint16_t>key)[key & 0xFF] = NULL
        del self.known[key]

    def clear(self):
        for key in list(self.known):
            del self[key]

    def __getitem__(self, key):
        return self.known[key]

    def __contains__(self, key):
        return key in self.known

    def __iter__(self):
        return iter(self.known)

    def __len__(self):
        return len(self.known)

    def __repr__(self):
        return f"Routes({self.known!r})"

    def get(self, key, default=None):
        return self.known.get(key, default)

    def keys(self):
        return self.known.keys()

    def values(self):
        return self.known.values()

    def items(self):
        return self.known.items()


cdef class HandlerTable:
    cdef Routes c_routes        # never None: `at` is called without a check
    cdef public dict rates
    cdef public bint ticking
    cdef public object default_handler
    cdef object __weakref__

    def __cinit__(self, *arguments, **options):
        self.c_routes = Routes()

    def __init__(self):
        self.rates = {}

    @property
    def routes(self):
        return self.c_routes

    @routes.setter
    def routes(self, Routes routes not None):
        self.c_routes = routes
