"""The services of Stentor: each subpackage is one process that talks to the others only over NATS."""
