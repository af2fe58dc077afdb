# Blocks of memory for bytes on their way: a gap in front, bytes, a gap behind. Idle sessions and streams have none.

cdef struct Block:
    size_t capacity
    size_t start      # where the bytes begin
    size_t middle     # of a SendWindow: the bytes before it are sent and kept
    size_t end

DEF BLOCK = 4096 - 32       # bytes of the usual block, which the pool keeps
DEF MAX_POOLED = 64

cdef Block *pool[MAX_POOLED]
cdef int pooled = 0


cdef inline uint8_t *bytes_of(Block *block) noexcept nogil:
    return <uint8_t *>block + sizeof(Block)


cdef Block *new_block(size_t size) except NULL:
    """An empty block for at least `size` bytes."""
    global pooled
    cdef Block *block
    cdef size_t capacity = BLOCK
    if size <= BLOCK and pooled:
        pooled -= 1
        block = pool[pooled]
    else:
        while capacity < size:
            capacity *= 2
        block = <Block *>malloc(sizeof(Block) + capacity)
        if block is NULL:
            raise MemoryError()
        block.capacity = capacity
    block.start = block.middle = block.end = 0
    return block


cdef void release_block(Block *block) noexcept:
    """Give a block back to the pool or the system. NULL is allowed."""
    global pooled
    if block is NULL:
        return
    if block.capacity == BLOCK and pooled < MAX_POOLED:
        pool[pooled] = block
        pooled += 1
    else:
        free(block)


cdef uint8_t *make_room(Block **place, size_t size) except NULL:
    """Make room for `size` more bytes in a block, and return their place.

    place: the owner's pointer to the block. It is changed if the block moves, and gets a new block if it is NULL.
    Each byte is moved a bounded number of times, however many small pieces come.
    """
    cdef Block *block = place[0]
    cdef size_t capacity, held
    if block is NULL:
        block = place[0] = new_block(size)
    elif block.end + size > block.capacity:
        held = block.end - block.start
        if block.start >= held and held + size <= block.capacity:
            memcpy(bytes_of(block), bytes_of(block) + block.start, held)
            block.middle -= block.start
            block.end = held
            block.start = 0
        else:
            capacity = block.capacity
            while capacity < block.end + size:
                capacity *= 2
            block = <Block *>realloc(block, sizeof(Block) + capacity)
            if block is NULL:
                raise MemoryError()
            block.capacity = capacity
            place[0] = block
    return bytes_of(block) + block.end
