# Twins of session/rates.TokenBucket and Allowance.

cdef class TokenBucket:
    cdef public double rate, burst, tokens, at

    def __init__(self, double rate, double burst, double now):
        self.rate = rate
        self.burst = self.tokens = burst
        self.at = now

    cpdef double refill(self, double now) except? -1.0:
        if now > self.at:
            self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
            self.at = now
        return self.tokens

    def take(self, double now):
        if self.refill(now) < 1:
            return False
        self.tokens -= 1
        return True

    cpdef double wait(self, double tokens=1.0) except? -1.0:
        return max(0.0, (tokens - self.tokens) / self.rate)


cdef class Allowance(Item):
    cdef readonly TokenBucket frames, bytes
    cdef public object wheel
    cdef public double paused
    cdef public bint is_paused

    def __init__(self, wheel, limits):
        cdef double now = wheel.now
        self.wheel = wheel
        self.frames = TokenBucket(limits.message_rate, limits.message_burst, now)
        self.bytes = TokenBucket(limits.byte_rate, limits.byte_burst, now)

    def charge(self, int64_t frames, int64_t size):
        self.c_charge(frames, size)

    cdef int c_charge(self, int64_t frames, int64_t size) except -1:
        cdef double now = self.wheel.now
        if now > self.frames.at:
            self.refill(now)
        self.frames.tokens -= frames
        self.bytes.tokens -= size
        if (self.frames.tokens < 0 or self.bytes.tokens < 0) and not self.is_paused:
            self.overdrawn()
        return 0

    def overdrawn(self):
        raise NotImplementedError

    def full_in(self, double now):
        self.refill(now)
        return max(self.frames.wait(self.frames.burst), self.bytes.wait(self.bytes.burst))

    cpdef double refill(self, double now) except? -1.0:
        cdef bint is_full = self.frames.refill(now) >= self.frames.burst
        is_full &= self.bytes.refill(now) >= self.bytes.burst
        if is_full:
            self.paused = 0.0
        return max(self.frames.wait(0), self.bytes.wait(0))
