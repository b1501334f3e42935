"""The nats-server of the datapath's tests."""

from tests.nats_server import NatsServer

__all__ = ["NatsServer"]
