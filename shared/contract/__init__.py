"""The public contract: every message, key and subject that crosses NATS.

One frozen ``msgspec.Struct`` per message, JSON on the wire, each with a version ``v``. A reader ignores
fields that it does not know (a newer writer may add some) and refuses a greater ``v`` by name.
"""
