"""Finds the operations that would make the host wait for a GPU; it needs none for that."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense,  # item(), float(), bool(), int(), tolist()
    aten.nonzero,
    aten.masked_select,
    aten.equal,
    aten._unique2,
}


class CountSyncs(TorchDispatchMode):
    """Collects in `found` the names of such operations while it is entered."""

    def __init__(self):
        super().__init__()
        self.found, self.seen = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += 1
        masks = func.overloadpacket in (aten.index, aten.index_put_) and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if func.overloadpacket in WAITING or masks:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))
