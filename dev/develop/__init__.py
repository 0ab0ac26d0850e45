"""`make dev`: every process of the services, beside its servers, for whoever changes them.

`session.py` has the whole of it: one session, from the first start to the last end.
"""
