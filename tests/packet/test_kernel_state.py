"""The order in which changes reach the kernel's maps."""

from __future__ import annotations

from services.datapath.kernel.layout import PEER, U32, U64, packed
from services.datapath.kernel.loader import Loaded
from services.datapath.kernel.state import KernelState


def test_new_classes_precede_the_addresses_that_lead_to_them_and_changed_ones_follow(loaded: Loaded) -> None:
    kernel = KernelState(loaded.maps)
    kernel.classes.want_exactly({U32.pack(300): U64.pack(1)})
    kernel.apply()
    kernel.classes.want(U32.pack(300), U64.pack(2))
    kernel.classes.want(U32.pack(301), U64.pack(3))

    assert kernel.classes.write(new_only=True) == 1
    assert kernel.classes.get(U32.pack(300)) == U64.pack(1)
    assert kernel.classes.get(U32.pack(301)) == U64.pack(3)

    kernel.v4.ipcache.want(packed("10.0.0.1"), PEER.pack(0, 301))
    assert kernel.apply().problems == ()
    assert kernel.classes.get(U32.pack(300)) == U64.pack(2)
    assert not any(kernel.drift().values())
