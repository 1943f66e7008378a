"""One scheduler for each network, however many callers ask it."""

import threading
import weakref

from .network import Network
from .scheduler import Scheduler
from .weights import weights_mark

_lock = threading.Lock()
_schedulers: "weakref.WeakKeyDictionary[Network, tuple[object, Scheduler]]" = weakref.WeakKeyDictionary()


def scheduler_of(network: Network, end_id: int) -> Scheduler:
    """Return the scheduler that answers for `network`, which does not keep the network alive.

    There is a new one when weights have been exchanged or moved, or a hook has come: the other ends its answers.
    """
    mark = (end_id, weights_mark(network))
    with _lock:
        known = _schedulers.get(network)
        if known is None or known[0] != mark:
            known = mark, Scheduler(weakref.proxy(network), end_id=end_id)
            _schedulers[network] = known
            weakref.finalize(network, known[1].close)
        return known[1]
