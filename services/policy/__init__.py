"""The policy service: which identity may talk to which, on which ports, and by which rule.

It owns the buckets ``policy`` and ``policy-status``. Policies are read from the Kubernetes API, identities
and addresses from NATS; :mod:`~services.policy.compiler` turns them into the desired state and
:mod:`~services.policy.planner` finds the next publication from what is published towards it, so that no
reader ever sees a verdict that is neither the old nor the new one. Any number of replicas may run.
"""
