"""Errors of the lab.

LabError
├── LabNameError        a lab or node name that cannot be used
├── MachineError        this machine lacks something that the lab needs
├── LabExistsError      ``up`` while the lab is running
├── LabNotFoundError    the lab is not running
├── NotReadyError       ``up`` gave up waiting; names what is not ready
├── ChildError          a control request names no child of the daemon, or cannot be carried out
├── CniPluginError      the CNI plugin refused; has the specification's code
├── PodError            a pod cannot be run as it is written
└── ManifestError       a manifest cannot be read or applied; names document, kind and object
"""

from __future__ import annotations


class LabError(Exception):
    """Anything the lab refuses or cannot do; the text says what to do about it."""


class LabNameError(LabError):
    """A name from which interface and namespace names cannot be made."""


class MachineError(LabError):
    """This machine lacks something that the lab needs: root, a program, a mount."""


class LabExistsError(LabError):
    """``up`` was asked for a lab that is running."""


class LabNotFoundError(LabError):
    """The lab is not running, or was never made."""


class NotReadyError(LabError):
    """The lab did not become ready; the text names the parts that are not."""


class ChildError(LabError):
    """A control request that names no child of the daemon, or asks what cannot be done with it."""


class CniPluginError(LabError):
    """The CNI plugin answered with an error object, or with nothing that can be read."""

    def __init__(self, *, command: str, code: int, message: str, details: str = "") -> None:
        super().__init__(f"CNI {command}: {message} (code {code}{', ' + details if details else ''})")
        self.code = code


class PodError(LabError):
    """A pod that the lab cannot run as it is written; the text names the field."""


class ManifestError(LabError):
    """A manifest that cannot be read, or that the API server refuses."""
