"""Gives every namespace its ``default`` ServiceAccount, and again when someone deletes it."""

from __future__ import annotations

from .cache import Cache, Key
from .client import SERVICE_ACCOUNTS, Client
from .readings import is_terminating
from .worker import Worker


class AccountController:
    """Namespaces in, ServiceAccounts out."""

    def __init__(self, client: Client, *, namespaces: Cache, accounts: Cache) -> None:
        self._client = client
        self._namespaces = namespaces
        self._accounts = accounts
        self.worker = Worker("serviceaccount", self._reconcile)
        namespaces.listen(lambda namespace: self.worker.add(("", namespace["metadata"]["name"])))
        accounts.listen(lambda account: self.worker.add(("", account["metadata"]["namespace"])))

    async def _reconcile(self, key: Key) -> None:
        name = key[1]
        namespace = self._namespaces.get(key)
        if (
            namespace is None
            or is_terminating(namespace)
            or self._accounts.get((name, "default")) is not None
        ):
            return
        body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        self._accounts.wrote(await self._client.create(SERVICE_ACCOUNTS, body, namespace=name))
