"""A stand-in for CUDA graphs on the CPU: records operators and replays them on the same memory."""

from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# operators that bring a value to the host, which no stream does while it is captured
WAITING = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.equal.default,
}


class Stream:
    """A stream that never has to wait."""

    def wait_stream(self, stream):
        """All that came before has run."""


class Cuda:
    """What the graph runner needs of torch.cuda.

    As on a GPU a capture computes nothing: what it has written is put back, and what it has made
    holds no values until the first replay. A replay reads and writes the memory that the capture
    read and wrote, and draws from the generator's present state.

    Args:
        fails: the words of the error that each capture ends in.
    """

    Stream = Stream

    def __init__(self, fails=""):
        self.fails, self.captures, self.replays = fails, 0, 0

    def current_stream(self):
        return Stream()

    @contextmanager
    def stream(self, stream):
        yield

    def initial_seed(self):
        return torch.initial_seed()

    def manual_seed(self, seed):
        torch.manual_seed(seed)

    def CUDAGraph(self):
        return Recording(self)

    @contextmanager
    def graph(self, graph, stream):
        if self.fails:
            raise RuntimeError(self.fails)
        self.captures += 1
        try:
            with graph:
                yield
        finally:
            graph.undo()


class Recording(TorchDispatchMode):
    """The operators of a capture, with the tensors that they read and wrote."""

    def __init__(self, cuda):
        super().__init__()
        self.cuda, self.operators = cuda, []
        # by address: the memory that was there before, and what it held
        self.before = {}
        self.made = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if operator in WAITING:
            raise RuntimeError("operation not permitted when stream is capturing")
        given = set()
        for tensor in tensors((args, kwargs)):
            # of all that an operator gets, as some write without saying so
            storage = tensor.untyped_storage()
            given.add(storage.data_ptr())
            if storage.data_ptr() not in self.before:
                self.before[storage.data_ptr()] = storage, storage.clone()
        results = operator(*args, **kwargs)
        fresh = []
        for tensor in tensors(results):
            is_fresh = tensor.untyped_storage().data_ptr() not in given
            fresh.append(tensor if is_fresh else None)
        self.made.extend(tensor for tensor in fresh if tensor is not None)
        self.operators.append((operator, args, kwargs, fresh))
        return results

    def undo(self):
        """Put back what was written, and leave no value in what was made."""
        for storage, values in self.before.values():
            storage.copy_(values)
        for tensor in self.made:
            tensor.detach().fill_(torch.nan if tensor.is_floating_point() else 0)

    def replay(self):
        """Run the operators again, in place."""
        self.cuda.replays += 1
        # the precision of each operator is settled
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            for operator, args, kwargs, fresh in self.operators:
                results = tensors(operator(*args, **kwargs))
                for kept, result in zip(fresh, results, strict=True):
                    if kept is not None:
                        kept.copy_(result)


def tensors(values):
    """All tensors in nested lists, tuples and dicts."""
    return [value for value in tree_leaves(values) if torch.is_tensor(value)]
