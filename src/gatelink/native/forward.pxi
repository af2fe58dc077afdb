# Twins of session/forwarding.ForwardTable and ForwardPath: what decides whether the frames of a read are only forwarded.

cdef class ForwardTable:
    cdef public bytes table
    cdef public object handled_here
    cdef public bint is_holding

    def __init__(self, bytes table not None, handled_here):
        if len(table) != 0x10000:
            raise ValueError(f"a table of {len(table)} server types; there are 65536 message ids")
        self.table = table
        self.handled_here = handled_here


cdef class ForwardPath:
    cdef public ForwardTable router
    cdef public uint64_t sid

    def __init__(self, ForwardTable router not None, uint64_t sid):
        self.router = router
        self.sid = sid

    def forward_to(self, type, envelope, count):
        raise NotImplementedError
