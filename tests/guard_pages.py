"""Tensors that end (or begin) exactly at an inaccessible page: an access out of bounds ends the process with SIGSEGV.

Triton's interpreter reads and writes through raw pointers and says nothing when they leave a tensor.
"""

from __future__ import annotations

import ctypes
import mmap

import torch
from torch import Tensor

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_READ_WRITE, _PRIVATE_ANONYMOUS = 3, 0x22
_kept: list[ctypes.Array] = []


def guarded(tensor: Tensor, *, at_end: bool = True) -> Tensor:
    """A copy of the tensor whose last (or first) byte touches an inaccessible page; its memory is never freed."""
    size = tensor.numel() * tensor.element_size()
    page = mmap.PAGESIZE
    body = -(-max(size, 1) // page) * page
    base = _libc.mmap(None, body + 2 * page, _READ_WRITE, _PRIVATE_ANONYMOUS, -1, 0)
    if _libc.mprotect(base, page, 0) or _libc.mprotect(base + page + body, page, 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    buffer = (ctypes.c_char * size).from_address(base + page + (body - size if at_end else 0))
    _kept.append(buffer)
    copy = torch.frombuffer(buffer, dtype=tensor.dtype).view(tensor.shape)
    return copy.copy_(tensor)
