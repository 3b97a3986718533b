"""A cable that loses packets: two taps, `lossy.py TAP TAP LOSS DELAY` (share of 1, seconds one way).

For kernels without netem. Says "ready" when both taps are there, and "lost" with each lost packet.
"""

import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


def tap(name):
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return file


first, second = tap(sys.argv[1]), tap(sys.argv[2])
loss, delay = float(sys.argv[3]), float(sys.argv[4])
other = {first: second, second: first}
dice = random.Random(5)
waiting, number = [], 0
print("ready", flush=True)
while True:
    now = time.monotonic()
    while waiting and waiting[0][0] <= now:
        _, _, to, frame = heapq.heappop(waiting)
        try:
            os.write(to, frame)
        except OSError:
            pass  # The other end is down, or its queue is full: one more loss.
    pause = max(0, waiting[0][0] - now) if waiting else None
    for file in select.select([first, second], [], [], pause)[0]:
        while True:
            try:
                frame = os.read(file, 65536)
            except OSError:
                break
            if dice.random() < loss:
                print("lost", flush=True)
            else:
                number += 1
                heapq.heappush(waiting, (time.monotonic() + delay, number, other[file], frame))
