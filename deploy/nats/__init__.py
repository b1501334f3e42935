"""The nats-server configuration that Stentor needs: JetStream on disk, one user for each service and node."""

from deploy.nats.configuration import NatsLayout, server_configuration, write_configuration
from deploy.nats.permissions import datapath_user, user_names

__all__ = ["NatsLayout", "datapath_user", "server_configuration", "user_names", "write_configuration"]
