"""The controllers that the lab's embedded API server needs beside it; they run against any API server."""

from .errors import ControllerError
from .run import Controllers

__all__ = ["ControllerError", "Controllers"]
