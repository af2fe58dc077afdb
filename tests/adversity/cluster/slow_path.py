"""`python -m tests.adversity.cluster.slow_path ADDRESS=ETHERNET ADDRESS=ETHERNET SECONDS LOSS SEED`: a long way.

It runs on a machine that gets the packets of two others to each other (`Network.cut`). It passes them on late, or not
at all. Not every kernel has tc's netem. Between namespaces checksums and segments are left to a network card that is
not there, so each packet has a header of virtio_net.
"""

import asyncio
import socket
import sys
from pathlib import Path
from random import Random

IPV4 = 0x0800
SOL_PACKET, PACKET_VNET_HDR = 263, 15  # linux/if_packet.h; Python has no names for them
HEADER = 10  # bytes of virtio_net's
MAC = slice(HEADER, HEADER + 6), slice(HEADER + 6, HEADER + 12)  # the receiver's, the sender's
DESTINATION = slice(HEADER + 30, HEADER + 34)
LARGEST = 2**17


async def carry(own: bytes, machines: dict[bytes, bytes], delay: float, loss: float, random: Random) -> None:
    """Pass packets on, for ever. own: our Ethernet address; machines: the others', by IPv4 address."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(IPV4)) as wire:
        wire.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        wire.setblocking(False)
        wire.bind(("eth0", IPV4))

        def read() -> None:
            while True:
                try:
                    packet = wire.recv(LARGEST)
                except BlockingIOError:
                    return
                target = machines.get(packet[DESTINATION])
                if packet[MAC[0]] == own and target is not None and random.random() >= loss:
                    loop.call_later(delay, write, packet[:HEADER] + target + own + packet[MAC[1].stop :])

        def write(packet: bytes) -> None:
            try:
                wire.send(packet)
            except OSError:
                pass  # a full queue loses packets, as on any path

        loop.add_reader(wire, read)
        await asyncio.Event().wait()


def ethernet(text: str) -> bytes:
    return bytes.fromhex(text.strip().replace(":", ""))


if __name__ == "__main__":
    one, other, delay, loss, seed = sys.argv[1:]
    pairs = (pair.split("=") for pair in (one, other))
    machines = {socket.inet_aton(address): ethernet(text) for address, text in pairs}
    own = ethernet(Path("/sys/class/net/eth0/address").read_text())
    asyncio.run(carry(own, machines, float(delay), float(loss), Random(seed)))
