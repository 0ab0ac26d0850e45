"""What the tests of a service import.

`Scene` tests handlers without servers, `Trial` on PostgreSQL, `served` an API with a client for it, and `Rehearsal`
workers on real servers that die at one exact call. A worker imports none of it.
"""

from .api import Api, served
from .crashing_worker import Plan
from .databases import migrated
from .memory import MemorySession
from .rehearsal import Rehearsal
from .scene import Scene
from .servers import Servers
from .trial import MakeTrial, Trial
from .waiting import SECONDS_MAX, until

__all__ = [
    "SECONDS_MAX",
    "Api",
    "MakeTrial",
    "MemorySession",
    "Plan",
    "Rehearsal",
    "Scene",
    "Servers",
    "Trial",
    "migrated",
    "served",
    "until",
]
