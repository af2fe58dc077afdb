# Twin of session/timers.Item.

cdef class Item:
    cdef public int64_t _tick

    def on_deadline(self, double now):
        raise NotImplementedError
