"""Finds the operations that would make the host wait for a GPU; it needs none for that."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense,  # item(), float(), bool(), int()
    aten.nonzero,
    aten.masked_select,
    aten.equal,
    aten._unique2,
}


COPIES = ("cpu", "numpy", "tolist")  # of a tensor on the CPU they are no operation


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

    def __enter__(self):
        self._methods = {name: getattr(torch.Tensor, name) for name in COPIES}
        for name, method in self._methods.items():
            setattr(torch.Tensor, name, self._noted(name, method))
        return super().__enter__()

    def __exit__(self, *error):
        for name, method in self._methods.items():
            setattr(torch.Tensor, name, method)
        return super().__exit__(*error)

    def _noted(self, name, method):
        def noted(tensor, *arguments, **options):
            self.found.append(name)
            return method(tensor, *arguments, **options)

        return noted
