"""The lb service: Services and EndpointSlices -> frontends and their backends.

It owns the bucket ``services``: one record for each Service that has frontends, and ``commit``, which closes
every publication. Any number of replicas may run: they compute the same records from the same objects.
"""
