"""Make a service, or remove one: `python -m dev.service --help`.

There is one skeleton: the folder `skeleton/`, a whole service with its migration and its tests. It is no template in
any language but Python: it is linted and type-checked where it lies, and its tests run in every copy. A copy is the
same text with other names:

    skeleton, Skeleton, ...     the name of the new service, in each of its spellings (`names`)
    SomethingHappened           an event that FROM publishes, with its topic, `elsewhere.events`, and the field that is
    its
                                key, `something_id`

So FROM gives the new service something to consume and nothing else: what another service does is seldom what the new
one is to do, and what all services need is in `shared/`. What each of them repeats is compared by
`tests/unit/services/test_drift.py`.

`services/*/__main__.py` is the list of the services, for the tests, the servers, the demo and its balance sheet. So a
copy adds files (`copying`), and to take it away is to delete them (`removing`). Only files that are not Python have
lists of their own; `entries` rewrites them, like all else that the system has for each service.
"""
