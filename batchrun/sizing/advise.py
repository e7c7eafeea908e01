"""The one question: what to ask for next time?"""

from __future__ import annotations

from collections.abc import Sequence

from batchrun.sizing.balance import bottleneck, chunk_size
from batchrun.sizing.limits import time_limits
from batchrun.sizing.memory import memory
from batchrun.sizing.use import Advice, RunUse

__all__ = ["Advice", "advise"]


def advise(run: RunUse) -> Sequence[Advice]:
    """What to do otherwise next time, what matters most first; nothing where the numbers support nothing.

    Memory that was passed and times that were too short cost results, so they come first; then what made
    the run last longer than it must.
    """
    urgent, possible = memory(run)
    reached, idle = time_limits(run)
    narrow = bottleneck(run)
    # A stage that needs less memory has more slots: that is the same advice, said better.
    narrow = [] if any(one.subject == other.subject for one in possible for other in narrow) else narrow
    return [*urgent, *reached, *possible, *narrow, *([] if narrow else chunk_size(run)), *idle]
