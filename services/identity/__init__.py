"""The identity service: label set -> number, address -> identity, and which endpoint is on which node.

It owns the buckets ``identities``, ``ipcache``, ``endpoints``, ``nodes`` and ``allocations``. Any number of
replicas may run: they compute the same state from the same objects, and numbers are decided by
compare-and-set in ``allocations``.
"""
