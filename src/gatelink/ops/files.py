"""How many files this process may have open: each connection is one."""

import resource

OTHERS = 64
"""What a process has open besides its connections."""


def allow(connections: int) -> tuple[int, int]:
    """Raises the soft limit, as far as the hard one lets it, so that so many fit.

    How many files are needed for that, and how many of these may be open.
    """
    needed = connections + OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return needed, needed
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return needed, allowed
