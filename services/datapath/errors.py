"""What can go wrong in the datapath service.

::

    DatapathError
    ├── StateError              a file of the state directory cannot be read or written
    ├── IpamError
    │   ├── NoPodCidr           the node has no pod CIDR (yet)
    │   └── AddressesExhausted  every address of the node's pod CIDRs is taken
    ├── LinkError               the kernel refused a link, address, route or neighbour
    │   ├── NotANetns           the path given by the runtime is no network namespace of a pod
    │   └── UplinkUnknown       no interface has the default route or an address of the node
    ├── NotRealised             a pod's identity or policy is not in the kernel in time
    └── CniRefused              a CNI request that cannot be served as it is
        ├── NotAvailable        STATUS: an ADD could not be served now
        ├── ContainerUnknown    CHECK of a container that has no endpoint here
        └── CheckFailed         CHECK found an endpoint that is not as ADD left it

``cni_code`` is the code that the CNI plugin gives to the runtime: 1 to 99 as in the CNI specification's
section "Error", from 100 on Stentor's own.
"""

from __future__ import annotations

from typing import ClassVar


class DatapathError(Exception):
    """Base of all errors of the datapath."""

    cni_code: ClassVar[int] = 199
    http_status: ClassVar[int] = 500


class StateError(DatapathError):
    """The text names the file; free or repair the file system, or remove the file if it is damaged."""

    cni_code = 5


class IpamError(DatapathError):
    """No address can be given now; the runtime may try again."""

    cni_code = 11
    http_status = 503


class NoPodCidr(IpamError):
    """The Node object has no ``spec.podCIDR``, or the identity service has not published it."""


class AddressesExhausted(IpamError):
    """Delete pods of the node, or give it a larger pod CIDR."""


class LinkError(DatapathError):
    """The text names the interface, what was attempted, and the kernel's reason."""

    cni_code = 103


class NotANetns(LinkError):
    """Checked before anything is made, so that no pod's interface ends up in the node itself."""

    cni_code = 4
    http_status = 400


class UplinkUnknown(LinkError):
    """Give the node a default route or publish its addresses in its Node object."""


class NotRealised(DatapathError):
    """The text says what was waited for and which service gives it. The pod does not start unprotected."""

    cni_code = 11
    http_status = 503


class CniRefused(DatapathError):
    """A request of the CNI plugin that is malformed or cannot be meant."""

    http_status = 400

    def __init__(self, text: str, *, code: int, details: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.details = details


class NotAvailable(CniRefused):
    """The text is what is missing; the runtime asks again and starts no pod until then."""

    http_status = 503

    def __init__(self, text: str) -> None:
        super().__init__(text, code=50)


class ContainerUnknown(CniRefused):
    """The runtime should delete the sandbox and make a new one."""

    http_status = 404

    def __init__(self, text: str) -> None:
        super().__init__(text, code=3)


class CheckFailed(CniRefused):
    """``details`` lists every difference."""

    http_status = 409

    def __init__(self, text: str, *, details: str) -> None:
        super().__init__(text, code=100, details=details)
