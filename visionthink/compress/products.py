"""What choosing tokens costs: the matrix products of a block of code, counted as PyTorch's own counter counts them."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


@contextlib.contextmanager
def counted(known: dict[Hashable, int], key: Hashable) -> Iterator[None]:
    """Enters the operations of the block under `key`, the shapes that decide them; what is known is not counted again."""
    if key in known:
        yield
        return
    with Products() as products:
        yield
    known[key] = products.flops


class Products(TorchDispatchMode):
    """Adds up the floating-point operations of the products that run inside, in this thread. (`FlopCounterMode` hooks every
    module of every thread.) Element-wise work counts nothing, as everywhere in `evals.flops`."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        count = flop_registry.get(func._overloadpacket)
        if count is None:  # in inference mode a linear layer comes as one piece
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if count is not None:
            self.flops += count(*args, **kwargs, out_val=result)
        return result
