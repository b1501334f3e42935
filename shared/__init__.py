"""What the services share: the contract, the bus, Kubernetes watching, configuration and health."""
