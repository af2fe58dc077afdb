"""placeholder"""
from typing import Any


class Admin:
    def __init__(self, server: Any, address: str) -> None: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...
