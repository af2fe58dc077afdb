# Twin of stats.Traffic, and the counts of frames by path.

cdef class Traffic:
    cdef public int64_t messages, bytes


cdef int64_t straight_frames = 0, listed_frames = 0


def frame_counts():
    """How many frames the sessions of this process have received: those that took the straight path, and the others."""
    return straight_frames, listed_frames
