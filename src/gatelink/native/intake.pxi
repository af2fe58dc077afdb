# Twin of session/extension.Intake.

cdef class Intake:
    cdef public bint counts, acknowledges, ack_due, action_due, controls_due
    cdef public int64_t received, received_bytes, fresh_frames, fresh_bytes
    cdef public object lags

    def __init__(self, bint counts, bint acknowledges):
        import_names()
        self.counts = counts
        self.acknowledges = acknowledges
        self.lags = NOT_PAUSED

    def count(self, int64_t frames, int64_t size):
        self.c_count(frames, size)

    cdef void c_count(self, int64_t frames, int64_t size) noexcept:
        if not self.counts:
            return
        self.received += frames
        self.received_bytes += size
        if not self.acknowledges:
            return
        self.fresh_frames += frames
        self.fresh_bytes += size
        if self.fresh_frames >= ACK_FRAMES or self.fresh_bytes >= ACK_BYTES:
            self.controls_due = True
        elif self.fresh_frames and not self.ack_due:
            self.ack_due = self.action_due = True
