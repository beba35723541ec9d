"""A server whose clock is fast by as many seconds as CLOCK_AHEAD_S says.

Python imports this module at the start of a process that has this folder on its path.
"""

import os
import time

_AHEAD_S = int(os.environ["CLOCK_AHEAD_S"])
_time, _time_ns = time.time, time.time_ns

time.time = lambda: _time() + _AHEAD_S
time.time_ns = lambda: _time_ns() + _AHEAD_S * 10**9
