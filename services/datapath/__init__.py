"""The datapath: one process per node that makes the node's kernel hold what the other services publish.

It reads NATS only, knows no Kubernetes object and computes no policy. With it dead, the kernel goes on
with what it has.
"""
