"""The network between a worker and its servers, under the test's control.

parting.py    what a connection is parted into
kafka.py      Kafka's requests and replies
postgres.py   PostgreSQL's
rules.py      what a test lets happen, and to which request
proxy.py      the proxy, in front of both servers
"""

from tests.faults.wire.parting import Part
from tests.faults.wire.proxy import Wire
from tests.faults.wire.rules import Deed, Rule, any_request, api, commit_of, statement

__all__ = ["Deed", "Part", "Rule", "Wire", "any_request", "api", "commit_of", "statement"]
